//! Writing down what became of claims, many at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use uuid::Uuid;

use super::{Outbox, OutboxError};
use crate::{
    clock::Moment,
    failpoints::{self, Point},
    lifecycle::{Outcome, Progress, Status},
    message::nfc,
    splitting::{Cut, GIVEN_UP},
};

/// Forty bits that tell messages of equal content: same account, same set of numbers, same text. The sender is left out,
/// because nobody knows whether the provider's duplicate guard looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentKey(i64);

impl ContentKey {
    /// `numbers` in their normalised spelling, in any order; `body` in any normal form.
    #[must_use]
    pub fn of<'a>(account: &str, numbers: impl IntoIterator<Item = &'a str>, body: &str) -> Self {
        let mut numbers: Vec<&str> = numbers.into_iter().collect();
        numbers.sort_unstable();
        let mut hasher = Sha256::new();
        hasher.update(account);
        for number in numbers {
            hasher.update([0]);
            hasher.update(number);
        }
        hasher.update([0, 0]);
        hasher.update(nfc(body).as_bytes());
        let digest = hasher.finalize();
        let mut low = [0; 8];
        low[3..].copy_from_slice(&digest[..5]);
        Self(i64::from_be_bytes(low))
    }

    /// The forty bits.
    #[must_use]
    pub const fn low(self) -> i64 {
        self.0
    }
}

/// What was seen of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// How far it got.
    pub progress: Progress,
    /// HTTP status of the answer.
    pub http_status: Option<u16>,
    /// The provider's own number, where one could be read: 200 and 451 too.
    pub code: Option<i32>,
    /// From the start of the request to its answer or its end.
    pub duration: Duration,
}

/// Who says what became of the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observer {
    /// The worker that made the claim.
    Worker,
    /// Someone who found its lease run out.
    Rescue,
}

impl Observer {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Rescue => "rescue",
        }
    }
}

/// The end of one claim, ready to be written down.
#[derive(Clone, Debug)]
pub struct Record {
    /// The job.
    pub job: Uuid,
    /// Which claim of it.
    pub token: i32,
    /// Its number, from 1.
    pub attempt: i16,
    /// Who made it.
    pub worker: Arc<str>,
    /// A moment that is surely not after the claim.
    pub claimed: Moment,
    /// What is to become of the job.
    pub outcome: Outcome,
    /// What was seen, if a request was made.
    pub evidence: Option<Evidence>,
    /// Numbers that were left out because they could not be read.
    pub rejected: Vec<String>,
    /// The content, to find duplicates.
    pub content: ContentKey,
    /// Who says so.
    pub observer: Observer,
    /// How a list goes on that failed because of numbers in it.
    pub cut: Option<Cut>,
}

/// What recording did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The claim still held, and the job is what the outcome says.
    Settled {
        /// For a duplicate: the order of its original, where one is known.
        order_id: Option<String>,
        /// For a duplicate: the original.
        duplicate_of: Option<Uuid>,
    },
    /// The claim had been lost. An acceptance made the job `sent` nevertheless, or named the order of one that was `sent`
    /// without an order; anything else changed nothing.
    Late {
        /// What the job was when the answer came.
        was: Status,
    },
    /// The claim had been lost and another acceptance was recorded already: it was accepted twice.
    AcceptedTwice {
        /// The order that was recorded, where one was.
        known_order_id: Option<String>,
    },
    /// An earlier try of this very record had gone through, or the job is gone.
    Nothing,
}

/// One object of the array that `record_other.sql` and `record_late.sql` read.
#[derive(Serialize)]
struct Answer<'a> {
    id: Uuid,
    token: i32,
    attempt: i16,
    worker: &'a str,
    since_claim_ms: u128,
    status: &'static str,
    accepted: bool,
    spent: bool,
    delay_ms: u128,
    indeterminate: bool,
    order_id: Option<&'a str>,
    duplicate: bool,
    rejected: Option<&'a [String]>,
    content: i64,
    error_class: Option<&'static str>,
    error_code: Option<i32>,
    error_message: Option<&'a str>,
    observer: &'static str,
    progress: Option<&'static str>,
    http_status: Option<u16>,
    provider_code: Option<i32>,
    ms: Option<u128>,
}

impl Record {
    /// Whether it is the common case, which has a statement of its own.
    fn is_plainly_sent(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::Sent {
                duplicate: false,
                ..
            }
        ) && self.rejected.is_empty()
            && self.evidence.is_some()
    }

    /// Whether its list goes on in parts.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.cut.as_ref().is_some_and(|cut| !cut.parts.is_empty())
    }

    fn is_accepted(&self) -> bool {
        matches!(self.outcome, Outcome::Sent { .. })
    }

    fn answer(&self) -> Answer<'_> {
        // A rescue assumes that a request was made.
        let made = self.evidence.is_some() || self.observer == Observer::Rescue;
        let left = self
            .evidence
            .as_ref()
            .is_none_or(|seen| seen.progress != Progress::NotSent);
        let (status, spent, failure) = match &self.outcome {
            Outcome::Sent { .. } => (Status::Sent, true, None),
            Outcome::Failed(failure) => (Status::Failed, made && left, Some(failure)),
            Outcome::Expired => (Status::Expired, false, None),
            Outcome::Uncertain(failure) => (Status::Uncertain, made, Some(failure)),
            Outcome::Retry { failure, .. } => (Status::Queued, true, Some(failure)),
            Outcome::Release { failure, .. } => (Status::Queued, false, failure.as_ref()),
        };
        let (order_id, duplicate) = match &self.outcome {
            Outcome::Sent {
                order_id,
                duplicate,
            } => (order_id.as_ref().map(|id| id.as_str()), *duplicate),
            _ => (None, false),
        };
        let (delay, indeterminate) = match &self.outcome {
            Outcome::Retry { delay, .. } => (*delay, true),
            Outcome::Release { delay, .. } => (*delay, false),
            // The indeterminate attempt that made the job uncertain may be this one.
            Outcome::Uncertain(_) => {
                let own = self.observer == Observer::Rescue
                    || self
                        .evidence
                        .as_ref()
                        .is_some_and(|seen| seen.progress != Progress::NotSent);
                (Duration::ZERO, own)
            }
            Outcome::Failed(_) | Outcome::Sent { .. } | Outcome::Expired => (Duration::ZERO, false),
        };
        Answer {
            id: self.job,
            token: self.token,
            attempt: self.attempt,
            worker: &self.worker,
            since_claim_ms: self.claimed.elapsed().as_millis(),
            status: status.as_str(),
            accepted: self.is_accepted(),
            spent,
            delay_ms: delay.as_millis(),
            indeterminate,
            order_id,
            duplicate,
            rejected: (!self.rejected.is_empty()).then_some(self.rejected.as_slice()),
            content: self.content.0,
            error_class: failure.map(|failure| failure.class.as_str()),
            error_code: failure.and_then(|failure| failure.code),
            error_message: failure.map(|failure| failure.message.as_str()),
            observer: self.observer.as_str(),
            progress: match self.observer {
                Observer::Worker => self.evidence.as_ref().map(|seen| seen.progress.as_str()),
                Observer::Rescue => Some(Progress::MaybeSent.as_str()),
            },
            http_status: self.evidence.as_ref().and_then(|seen| seen.http_status),
            provider_code: self.evidence.as_ref().and_then(|seen| seen.code),
            ms: self.evidence.as_ref().map(|seen| seen.duration.as_millis()),
        }
    }
}

#[derive(sqlx::FromRow)]
struct SettledRow {
    id: Uuid,
    order_id: Option<String>,
    duplicate_of: Option<Uuid>,
}

#[derive(sqlx::FromRow)]
struct LateRow {
    id: Uuid,
    was: String,
    known_order_id: Option<String>,
    is_ours: bool,
    accepted_before: bool,
    settled: bool,
    logged: bool,
}

impl Outbox {
    /// Records the ends of many claims; answers in the same order. Safe to repeat when its own answer was lost.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses; some of the records may have been written nevertheless.
    pub async fn record<'a>(
        &self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<Vec<Recorded>, OutboxError> {
        let mut left: Vec<(usize, &Record)> = records.into_iter().enumerate().collect();
        let mut outcomes = vec![Recorded::Nothing; left.len()];
        // Nearly always one round. A worker that was frozen past a lease can bring the answers to two claims of one job at
        // once, and no statement may meet a job twice: one of the two would be lost.
        while !left.is_empty() {
            let mut met = HashSet::with_capacity(left.len());
            let (round, rest): (Vec<_>, Vec<_>) = left
                .into_iter()
                .partition(|(_, record)| met.insert(record.job));
            left = rest;
            let these: Vec<&Record> = round.iter().map(|(_, record)| *record).collect();
            let mut outcome = self.record_round(&these).await?;
            for (place, record) in round {
                if let Some(recorded) = outcome.remove(&record.job) {
                    outcomes[place] = recorded;
                }
            }
        }
        Ok(outcomes)
    }

    /// Records the ends of claims of different jobs. What is missing in the answer changed nothing.
    async fn record_round(
        &self,
        records: &[&Record],
    ) -> Result<HashMap<Uuid, Recorded>, OutboxError> {
        let (split, whole): (Vec<&Record>, Vec<&Record>) =
            records.iter().partition(|record| record.cut.is_some());
        let (plain, other): (Vec<&Record>, Vec<&Record>) = whole
            .into_iter()
            .partition(|record| record.is_plainly_sent());
        let mut outcome: HashMap<Uuid, Recorded> = HashMap::with_capacity(records.len());
        for record in split {
            if self.record_split(record).await? {
                outcome.insert(
                    record.job,
                    Recorded::Settled {
                        order_id: None,
                        duplicate_of: None,
                    },
                );
            }
        }
        if !plain.is_empty() {
            for job in self.record_sent(&plain).await? {
                outcome.insert(
                    job,
                    Recorded::Settled {
                        order_id: None,
                        duplicate_of: None,
                    },
                );
            }
        }
        if !other.is_empty() {
            for row in self.record_other(&other).await? {
                let settled = Recorded::Settled {
                    order_id: row.order_id,
                    duplicate_of: row.duplicate_of,
                };
                outcome.insert(row.id, settled);
            }
        }
        let late: Vec<&Record> = records
            .iter()
            .filter(|record| !outcome.contains_key(&record.job))
            .copied()
            .collect();
        if !late.is_empty() {
            self.record_late(&late, &mut outcome).await?;
        }
        Ok(outcome)
    }

    async fn record_sent(&self, records: &[&Record]) -> Result<HashSet<Uuid>, OutboxError> {
        let mut ids = Vec::with_capacity(records.len());
        let mut tokens = Vec::with_capacity(records.len());
        let mut orders: Vec<Option<&str>> = Vec::with_capacity(records.len());
        let mut statuses: Vec<Option<i16>> = Vec::with_capacity(records.len());
        let mut times: Vec<i32> = Vec::with_capacity(records.len());
        let mut contents = Vec::with_capacity(records.len());
        for record in records {
            let Outcome::Sent { order_id, .. } = &record.outcome else {
                continue;
            };
            let evidence = record.evidence.as_ref();
            ids.push(record.job);
            tokens.push(record.token);
            orders.push(order_id.as_ref().map(|id| id.as_str()));
            statuses.push(
                evidence
                    .and_then(|seen| seen.http_status)
                    .and_then(|status| i16::try_from(status).ok()),
            );
            times.push(evidence.map_or(0, |seen| {
                i32::try_from(seen.duration.as_millis()).unwrap_or(i32::MAX)
            }));
            contents.push(record.content.0);
        }
        self.call("recording acceptances", async |connection| {
            let record = sqlx::query_scalar(failpoints::sql(include_str!("record_sent.sql")))
                .bind(&ids)
                .bind(&tokens)
                .bind(&orders)
                .bind(&statuses)
                .bind(&times)
                .bind(&contents)
                .persistent(self.persistent());
            let recorded: Vec<Uuid> =
                failpoints::midway(Point::DuringRecord, record.fetch_all(connection)).await?;
            Ok(recorded.into_iter().collect())
        })
        .await
    }

    async fn record_other(&self, records: &[&Record]) -> Result<Vec<SettledRow>, OutboxError> {
        let answers: Vec<Answer<'_>> = records.iter().map(|record| record.answer()).collect();
        self.call("recording outcomes", async |connection| {
            let answers = Json(&answers);
            let record = sqlx::query_as(failpoints::sql(include_str!("record_other.sql")))
                .bind(answers)
                .persistent(self.persistent());
            failpoints::midway(Point::DuringRecord, record.fetch_all(connection)).await
        })
        .await
    }

    /// `false`: its claim had been lost.
    async fn record_split(&self, record: &Record) -> Result<bool, OutboxError> {
        let Some(cut) = &record.cut else {
            return Ok(false);
        };
        let answer = record.answer();
        let given_up = cut.gives_up.then_some(GIVEN_UP);
        let recorded: Option<Uuid> = self
            .call("recording a list that is cut", async |connection| {
                sqlx::query_scalar(include_str!("record_split.sql"))
                    .bind(Json(&answer))
                    .bind(&cut.refused)
                    .bind(Json(&cut.parts))
                    .bind(given_up)
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(recorded.is_some())
    }

    async fn record_late(
        &self,
        records: &[&Record],
        outcome: &mut HashMap<Uuid, Recorded>,
    ) -> Result<(), OutboxError> {
        let answers: Vec<Answer<'_>> = records.iter().map(|record| record.answer()).collect();
        failpoints::point(Point::BeforeLateRecord);
        let rows: Vec<LateRow> = self
            .call("recording late answers", async |connection| {
                sqlx::query_as(failpoints::sql(include_str!("record_late.sql")))
                    .bind(Json(&answers))
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        // A 451 says that something was accepted before, and so is no second acceptance.
        let accepted: HashSet<Uuid> = records
            .iter()
            .filter(|record| {
                matches!(
                    record.outcome,
                    Outcome::Sent {
                        duplicate: false,
                        ..
                    }
                )
            })
            .map(|record| record.job)
            .collect();
        for row in rows {
            let was: Status = row.was.parse().map_err(|problem| OutboxError::Unreadable {
                table: "jobs",
                column: "status",
                id: row.id.to_string(),
                problem: format!("{problem}"),
            })?;
            let recorded = if row.is_ours || !(row.settled || row.logged) {
                Recorded::Nothing
            } else if accepted.contains(&row.id) && row.accepted_before {
                Recorded::AcceptedTwice {
                    known_order_id: row.known_order_id,
                }
            } else {
                Recorded::Late { was }
            };
            outcome.insert(row.id, recorded);
        }
        Ok(())
    }
}
