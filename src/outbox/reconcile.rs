//! What reconciliation reads and writes.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Outbox, OutboxError, from_millis, millis};
use crate::{
    lifecycle::OrderId,
    message::{ForeignNumbers, Recipient, RecipientList},
    reconciliation::{Finding, ListedOrder, ReconciliationTask},
};

/// The most messages that are looked at to find out whether one of them may have made an order too.
const RIVALS: i64 = 1_000;
/// The most numbers that are in memory at once, unless one job has more: about 8 MB of them.
const NUMBERS: usize = 100_000;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    token: i32,
    sender: String,
    recipient_count: i32,
    is_sent: bool,
    iys: bool,
    scans: i32,
    clean_scans: i32,
    since_us: i64,
    until_us: i64,
    settled_for_ms: i64,
}

/// The state of a job's reconciliation task.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Reconciliation {
    /// `found`, `none`, `candidate`, `several`; `None` while it is open.
    pub outcome: Option<String>,
    /// How many scans there were.
    pub scans: i32,
    /// How many of the latest scans found no match.
    pub clean_scans: i32,
    /// The orders that fit.
    pub candidates: Json<Vec<Candidate>>,
    /// A sentence about the last scan.
    pub note: Option<String>,
    /// Milliseconds until the next scan.
    pub next_in_ms: Option<i64>,
}

/// An order that fits a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Candidate {
    /// Its number.
    pub order_id: String,
    /// When the provider took it.
    pub submitted_at: DateTime<Utc>,
    /// How many messages it has.
    pub total: u64,
    /// 113: being sent, 114: every message final, 115: not sent.
    pub status: Option<i64>,
}

impl From<&ListedOrder> for Candidate {
    fn from(order: &ListedOrder) -> Self {
        Self {
            order_id: order.id.as_str().to_owned(),
            submitted_at: order.submitted_at,
            total: order.total,
            status: order.status,
        }
    }
}

impl Outbox {
    /// Takes or keeps a maintenance lease, which one worker holds at a time, for so long. `false`: it is another's.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn take_maintenance_lease(
        &self,
        lease: &str,
        worker: &str,
        hold: Duration,
    ) -> Result<bool, OutboxError> {
        let taken: Option<bool> = self
            .call_where_pinned("taking a lease", async |connection| {
                sqlx::query_scalar(include_str!("take_maintenance_lease.sql"))
                    .bind(lease)
                    .bind(worker)
                    .bind(millis(hold))
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(taken == Some(true))
    }

    /// Whether the account has anything to reconcile now.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn is_being_reconciled(&self, account: &str) -> Result<bool, OutboxError> {
        self.call("looking for reconciliation tasks", async |connection| {
            sqlx::query_scalar(include_str!("is_being_reconciled.sql"))
                .bind(account)
                .persistent(self.persistent())
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Gives duplicates the order of their original once it is known; returns duplicate and original.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn name_after_originals(
        &self,
        account: &str,
    ) -> Result<Vec<(Uuid, Uuid)>, OutboxError> {
        self.call("naming the orders of duplicates", async |connection| {
            sqlx::query_as(include_str!("name_after_originals.sql"))
                .bind(account)
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Up to `at_most` jobs that are to be reconciled now, as many as their numbers allow; begins and ends reconciliation tasks as the jobs have changed.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn due_reconciliation(
        &self,
        account: &str,
        foreign: ForeignNumbers,
        at_most: usize,
    ) -> Result<Vec<ReconciliationTask>, OutboxError> {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        self.call("beginning reconciliation tasks", async |connection| {
            sqlx::query(include_str!("begin_reconciliation.sql"))
                .bind(account)
                .bind(at_most)
                .persistent(self.persistent())
                .execute(connection)
                .await
        })
        .await?;
        self.call("ending reconciliation tasks", async |connection| {
            sqlx::query(include_str!("end_reconciliation.sql"))
                .bind(account)
                .persistent(self.persistent())
                .execute(connection)
                .await
        })
        .await?;
        let rows: Vec<Row> = self
            .call("reading reconciliation tasks", async |connection| {
                sqlx::query_as(include_str!("due_reconciliation.sql"))
                    .bind(account)
                    .bind(at_most)
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let counts = rows.iter().map(|row| (row.id, row.recipient_count));
        let Some(these) = in_portions(counts).into_iter().next() else {
            return Ok(Vec::new());
        };
        let mut numbers_of = self.numbers_of(&these, foreign).await?;
        let rows = rows.into_iter().take(these.len());
        let task = rows.map(|row| ReconciliationTask {
            job: row.id,
            token: row.token,
            sender: row.sender,
            numbers: numbers_of.remove(&row.id).unwrap_or_default(),
            is_sent: row.is_sent,
            is_commercial: row.iys,
            since: moment(row.since_us),
            until: moment(row.until_us),
            settled_for: from_millis(row.settled_for_ms),
            scans: u32::try_from(row.scans).unwrap_or(0),
            clean_scans: u32::try_from(row.clean_scans).unwrap_or(0),
        });
        Ok(task.collect())
    }

    /// Which of these orders are known, and whose they are: order and job.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn known_orders(&self, orders: &[&str]) -> Result<Vec<(String, Uuid)>, OutboxError> {
        self.call("looking for the jobs of orders", async |connection| {
            sqlx::query_as(include_str!("known_orders.sql"))
                .bind(orders)
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Whether another message of ours, whose outcome is not known, may have made an order like this job's.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn has_rivals(
        &self,
        account: &str,
        task: &ReconciliationTask,
        foreign: ForeignNumbers,
    ) -> Result<bool, OutboxError> {
        // Marketing may have lost numbers on the way, and nothing else may.
        let at_least = if task.is_commercial {
            1
        } else {
            i32::try_from(task.numbers.len()).unwrap_or(i32::MAX)
        };
        let rows: Vec<(Uuid, i32)> = self
            .call(
                "looking for other indeterminate messages",
                async |connection| {
                    sqlx::query_as(include_str!("rivals.sql"))
                        .bind(task.job)
                        .bind(account)
                        .bind(&task.sender)
                        .bind(task.since.timestamp_micros())
                        .bind(task.until.timestamp_micros())
                        .bind(RIVALS)
                        .bind(at_least)
                        .persistent(self.persistent())
                        .fetch_all(connection)
                        .await
                },
            )
            .await?;
        // Too many to look at: then one of them may well be.
        if i64::try_from(rows.len()).is_ok_and(|rows| rows >= RIVALS) {
            return Ok(true);
        }
        for these in in_portions(rows) {
            let numbers_of = self.numbers_of(&these, foreign).await?;
            if numbers_of.values().any(|numbers| task.is_to(numbers)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn numbers_of(
        &self,
        jobs: &[Uuid],
        foreign: ForeignNumbers,
    ) -> Result<HashMap<Uuid, BTreeSet<Recipient>>, OutboxError> {
        let rows: Vec<(Uuid, Vec<Option<String>>)> = self
            .call("reading the numbers of jobs", async |connection| {
                sqlx::query_as(include_str!("recipients_of.sql"))
                    .bind(jobs)
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(|(job, texts)| (job, numbers(&texts, foreign)))
            .collect())
    }

    /// The job is sent, under this order. `false`: the job was resolved meanwhile.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn settle_found(
        &self,
        task: &ReconciliationTask,
        order: &ListedOrder,
        evidence: &str,
        worker: &str,
    ) -> Result<bool, OutboxError> {
        let settled: Option<Uuid> = self
            .call("recording an order that was found", async |connection| {
                sqlx::query_scalar(include_str!("settle_found.sql"))
                    .bind(task.job)
                    .bind(task.token)
                    .bind(order.id.as_str())
                    .bind(evidence)
                    .bind(Json([Candidate::from(order)]))
                    .bind(worker)
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(settled.is_some())
    }

    /// Records a scan that ended without a match. `candidates`: the orders that fit; `None`: as before.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn note_scan(
        &self,
        task: &ReconciliationTask,
        finding: &Finding,
        candidates: Option<&[ListedOrder]>,
        note: &str,
    ) -> Result<(), OutboxError> {
        let (clean, outcome, after) = match finding {
            Finding::Found(_) => return Ok(()),
            Finding::None => (Some(true), Some("none"), Duration::ZERO),
            Finding::Candidate => (Some(false), Some("candidate"), Duration::ZERO),
            Finding::Several => (Some(false), Some("several"), Duration::ZERO),
            Finding::Again { clean, after } => (*clean, None, *after),
        };
        let candidates =
            candidates.map(|orders| Json(orders.iter().map(Candidate::from).collect::<Vec<_>>()));
        self.call("recording a scan of the reports", async |connection| {
            sqlx::query(include_str!("note_scan.sql"))
                .bind(task.job)
                .bind(task.token)
                .bind(clean)
                .bind(outcome)
                .bind(millis(after))
                .bind(candidates)
                .bind(note)
                .persistent(self.persistent())
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }

    /// Up to `at_most` uncertain jobs, of these or of all, with the orders that may be theirs.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn candidates(
        &self,
        jobs: Option<&[Uuid]>,
        at_most: i64,
    ) -> Result<Vec<(Uuid, Vec<Candidate>)>, OutboxError> {
        let rows: Vec<(Uuid, Json<Vec<Candidate>>)> = self
            .call("looking for candidates", async |connection| {
                sqlx::query_as(include_str!("candidates.sql"))
                    .bind(jobs)
                    .bind(at_most)
                    .persistent(false)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(|(job, candidates)| (job, candidates.0))
            .collect())
    }

    /// The state of a job's reconciliation task; `None` where there is none.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn reconciliation_of(
        &self,
        job: Uuid,
    ) -> Result<Option<Reconciliation>, OutboxError> {
        self.call("reading a reconciliation task", async |connection| {
            sqlx::query_as(include_str!("reconciliation_of.sql"))
                .bind(job)
                .persistent(false)
                .fetch_optional(connection)
                .await
        })
        .await
    }
}

impl Reconciliation {
    /// The candidates' ids, where a person has to choose.
    #[must_use]
    pub fn orders(&self) -> Vec<OrderId> {
        self.candidates
            .iter()
            .filter_map(|candidate| OrderId::parse(&candidate.order_id))
            .collect()
    }
}

/// Jobs, in portions that together have no more than [`NUMBERS`], or a job each.
fn in_portions(jobs: impl IntoIterator<Item = (Uuid, i32)>) -> Vec<Vec<Uuid>> {
    let mut portions: Vec<Vec<Uuid>> = Vec::new();
    let mut left = 0;
    for (job, numbers) in jobs {
        let numbers = usize::try_from(numbers).unwrap_or(0);
        match portions.last_mut() {
            Some(portion) if numbers <= left => {
                portion.push(job);
                left -= numbers;
            }
            _ => {
                portions.push(vec![job]);
                left = NUMBERS.saturating_sub(numbers);
            }
        }
    }
    portions
}

fn numbers(texts: &[Option<String>], foreign: ForeignNumbers) -> BTreeSet<Recipient> {
    let texts = texts.iter().map(|text| text.as_deref().unwrap_or(""));
    RecipientList::read(texts, foreign)
        .accepted
        .into_iter()
        .collect()
}

/// The database's own moments always fit.
fn moment(us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(us).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_has_so_many_numbers_or_one_job() {
        let id = Uuid::from_u128;
        let portions = |counts: &[i32]| {
            let jobs = (0..).map(id).zip(counts.iter().copied());
            let portions = in_portions(jobs).into_iter();
            portions.map(|portion| portion.len()).collect::<Vec<_>>()
        };
        assert_eq!(portions(&[]), [] as [usize; 0]);
        assert_eq!(portions(&[50_000; 5]), [2, 2, 1]);
        assert_eq!(portions(&[1; 200]), [200]);
        assert_eq!(portions(&[99_999, 1, 1, 300_000, 1, 0]), [2, 1, 1, 2]);
    }
}
