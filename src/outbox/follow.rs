//! What the schedule of questions about deliveries comes to, and what receivers could not match.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Outbox, OutboxError, from_millis, millis};

/// How far a step of the schedule has come.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Check {
    xid: String,
    id: i64,
    place: i64,
    scheduled_us: i64,
    scheduled_id: Uuid,
}

/// The beginning: before everything.
impl Default for Check {
    fn default() -> Self {
        Self {
            xid: "0".to_owned(),
            id: 0,
            place: 0,
            scheduled_us: 0,
            scheduled_id: Uuid::nil(),
        }
    }
}

/// A sent job that a step has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueCheck {
    /// The job.
    pub job: Uuid,
    /// Its order.
    pub order: String,
    /// Its priority.
    pub priority: i16,
    /// How many numbers its producer wrote.
    pub recipients: usize,
    /// When its acceptance was recorded.
    pub sent_at: DateTime<Utc>,
    /// How long ago the time began that the schedule counts from.
    pub age: Duration,
    /// Whether the provider held it until its time.
    pub is_scheduled: bool,
    /// Whether a webhook has decided it, and it is asked about only to see whether that is true.
    pub is_sample: bool,
}

/// What a step has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DueChecks {
    /// What is to be asked about.
    pub due: Vec<DueCheck>,
    /// Where the step is when that is done; `None`: where it was.
    pub reached: Option<Check>,
    /// Whether more may be due behind it.
    pub has_more: bool,
    /// How many sent jobs were passed by,
    pub sent: u64,
    /// and how many of them a webhook had decided.
    pub by_webhook: u64,
}

#[derive(sqlx::FromRow)]
struct CheckRow {
    xid: String,
    entry: i64,
    place: i64,
    has_more: bool,
    sent: i64,
    by_webhook: i64,
    #[sqlx(flatten)]
    due: DueRow,
    is_sample: Option<bool>,
}

#[derive(sqlx::FromRow)]
struct ScheduledRow {
    scheduled_us: i64,
    scheduled_id: Uuid,
    has_more: bool,
    #[sqlx(flatten)]
    due: DueRow,
}

/// All of it is there, or nothing.
#[derive(sqlx::FromRow)]
struct DueRow {
    job_id: Option<Uuid>,
    order_id: Option<String>,
    priority: Option<i16>,
    recipients: Option<i32>,
    age_ms: Option<i64>,
    sent_us: Option<i64>,
}

impl DueRow {
    fn read(self, is_scheduled: bool, is_sample: bool) -> Option<DueCheck> {
        Some(DueCheck {
            job: self.job_id?,
            order: self.order_id?,
            priority: self.priority?,
            recipients: usize::try_from(self.recipients?).unwrap_or(0),
            sent_at: DateTime::from_timestamp_micros(self.sent_us?)?,
            age: from_millis(self.age_ms?),
            is_scheduled,
            is_sample,
        })
    }
}

/// Events of one order, as a receiver has kept them.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct UnmatchedEvent {
    /// The row.
    pub id: i64,
    /// The order that they name.
    pub order_id: String,
    /// The numbers that they name.
    pub numbers: Vec<String>,
    /// For each of them `a` (accepted), `d` (delivered) or `u` (undelivered).
    pub words: String,
    /// For each of them the hash of account, number and text.
    pub contents: Vec<i64>,
    /// How long ago they came.
    pub age_ms: i64,
}

/// A job that may have been accepted, under an order that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct LostJob {
    /// The job.
    pub id: Uuid,
    /// Its last claim.
    pub token: i32,
    /// What account, numbers and text come to.
    pub content: i64,
}

impl Outbox {
    /// How far a step of the schedule has come in an account.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn delivery_check(&self, account: &str, step: i16) -> Result<Check, OutboxError> {
        let found: Option<Check> = self
            .call("reading the schedule of reports", async |connection| {
                sqlx::query_as(include_str!("delivery_check.sql"))
                    .bind(account)
                    .bind(step)
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(found.unwrap_or_default())
    }

    /// Writes down how far a step has come.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn note_check(
        &self,
        account: &str,
        step: i16,
        reached: &Check,
    ) -> Result<(), OutboxError> {
        self.call("recording the schedule of reports", async |connection| {
            sqlx::query(include_str!("note_check.sql"))
                .bind(account)
                .bind(step)
                .bind(&reached.xid)
                .bind(reached.id)
                .bind(reached.place)
                .bind(reached.scheduled_us)
                .bind(reached.scheduled_id)
                .persistent(self.persistent())
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }

    /// What of an account has reached this age since the step was at `from`, among the next `at_most` jobs behind it. What is older
    /// than `until` is passed by.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn due_checks(
        &self,
        account: &str,
        from: &Check,
        age: Duration,
        until: Duration,
        at_most: usize,
    ) -> Result<DueChecks, OutboxError> {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        let rows: Vec<CheckRow> = self
            .call("looking for deliveries to ask about", async |connection| {
                sqlx::query_as(include_str!("due_checks.sql"))
                    .bind(account)
                    .bind(&from.xid)
                    .bind(from.id)
                    .bind(from.place)
                    .bind(millis(age))
                    .bind(at_most)
                    .bind(millis(until))
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        let mut found = DueChecks::default();
        for row in rows {
            found.reached = Some(Check {
                xid: row.xid,
                id: row.entry,
                place: row.place,
                ..from.clone()
            });
            found.has_more = row.has_more;
            found.sent = count(row.sent);
            found.by_webhook = count(row.by_webhook);
            found
                .due
                .extend(row.due.read(false, row.is_sample == Some(true)));
        }
        Ok(found)
    }

    /// As [`due_checks`](Self::due_checks), of the orders that the provider holds until their time, from which they age.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn due_scheduled(
        &self,
        account: &str,
        from: &Check,
        age: Duration,
        until: Duration,
        at_most: usize,
    ) -> Result<DueChecks, OutboxError> {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        let rows: Vec<ScheduledRow> = self
            .call(
                "looking for scheduled deliveries to ask about",
                async |connection| {
                    sqlx::query_as(include_str!("due_scheduled.sql"))
                        .bind(account)
                        .bind(from.scheduled_us)
                        .bind(from.scheduled_id)
                        .bind(millis(age))
                        .bind(at_most)
                        .bind(millis(until))
                        .persistent(self.persistent())
                        .fetch_all(connection)
                        .await
                },
            )
            .await?;
        let mut found = DueChecks::default();
        for row in rows {
            found.reached = Some(Check {
                scheduled_us: row.scheduled_us,
                scheduled_id: row.scheduled_id,
                ..from.clone()
            });
            found.has_more = row.has_more;
            found.due.extend(row.due.read(true, false));
        }
        Ok(found)
    }

    /// Whether a live pause holds the whole account.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn is_paused(&self, account: &str) -> Result<bool, OutboxError> {
        self.call("looking for a pause", async |connection| {
            sqlx::query_scalar(include_str!("is_paused.sql"))
                .bind(account)
                .persistent(self.persistent())
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Events that a receiver could not match by itself, the longest due first.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn due_events(
        &self,
        account: &str,
        at_most: usize,
    ) -> Result<Vec<UnmatchedEvent>, OutboxError> {
        self.call("reading events of webhooks", async |connection| {
            sqlx::query_as(include_str!("due_events.sql"))
                .bind(account)
                .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Forgets events that are matched, or worth nothing.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn drop_events(&self, events: &[i64]) -> Result<(), OutboxError> {
        self.call("deleting events of webhooks", async |connection| {
            sqlx::query(include_str!("drop_events.sql"))
                .bind(events)
                .persistent(self.persistent())
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }

    /// Lets events be looked at again later: each in so long.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn postpone_events(&self, events: &[(i64, Duration)]) -> Result<(), OutboxError> {
        let (ids, later): (Vec<i64>, Vec<i64>) = events
            .iter()
            .map(|(id, later)| (*id, millis(*later)))
            .unzip();
        self.call("postponing events of webhooks", async |connection| {
            sqlx::query(include_str!("postpone_events.sql"))
                .bind(&ids)
                .bind(&later)
                .persistent(self.persistent())
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }

    /// The texts of these jobs. The caller bounds how many they are.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn texts_of(&self, jobs: &[Uuid]) -> Result<HashMap<Uuid, String>, OutboxError> {
        let rows: Vec<(Uuid, String)> = self
            .call("reading the texts of jobs", async |connection| {
                sqlx::query_as(include_str!("texts_of.sql"))
                    .bind(jobs)
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        Ok(rows.into_iter().collect())
    }

    /// The jobs of an account that may have been accepted, under an order that is not known, and whose content comes to one of
    /// these hashes.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn lost_by_content(
        &self,
        account: &str,
        contents: &[i64],
    ) -> Result<Vec<LostJob>, OutboxError> {
        self.call("looking for lost jobs by content", async |connection| {
            sqlx::query_as(include_str!("lost_by_content.sql"))
                .bind(account)
                .bind(contents)
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// The job is sent, under this order. `false`: the job was resolved meanwhile, or is repeated just now.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn settle_by_webhook(
        &self,
        job: &LostJob,
        order: &str,
        evidence: &str,
        worker: &str,
    ) -> Result<bool, OutboxError> {
        let settled: Option<Uuid> = self
            .call(
                "recording an order that a webhook named",
                async |connection| {
                    sqlx::query_scalar(include_str!("settle_by_webhook.sql"))
                        .bind(job.id)
                        .bind(job.token)
                        .bind(order)
                        .bind(evidence)
                        .bind(worker)
                        .persistent(self.persistent())
                        .fetch_optional(connection)
                        .await
                },
            )
            .await?;
        Ok(settled.is_some())
    }
}
