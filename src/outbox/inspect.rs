//! Answers for people: what is there, what happened to one job, how the queue is doing.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use super::{Outbox, OutboxError};

/// Which jobs. Whatever is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// These only.
    pub ids: Option<Vec<Uuid>>,
    /// Of this account.
    pub account: Option<String>,
    /// In this status.
    pub status: Option<String>,
    /// With this class of failure.
    pub error_class: Option<String>,
    /// From this sender.
    pub sender: Option<String>,
    /// Of this batch.
    pub batch: Option<Uuid>,
    /// With this key.
    pub idempotency_key: Option<String>,
    /// Inserted by this database role; for [`Outbox::list`].
    pub producer: Option<String>,
    /// To this number, normalised.
    pub recipient: Option<String>,
    /// Created at least so many seconds ago.
    pub older_than_s: Option<i64>,
    /// Created at most so many seconds ago.
    pub newer_than_s: Option<i64>,
    /// Not more than this many.
    pub at_most: i64,
    /// Of each job's numbers, not more than this many; for [`Outbox::list`].
    pub numbers_at_most: Option<i32>,
    /// With this delivery; `none`: no word yet. For [`Outbox::list`].
    pub delivery: Option<String>,
    /// With, or without, an unanswered request that may have been accepted; for [`Outbox::matching`].
    pub indeterminate: Option<bool>,
}

/// A job as a person sees it. Moments are UTC, as in `2026-11-22T14:05:09.123Z`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the fields are the columns of sms_outbox.jobs and sms_outbox.deliveries, which their comments explain, and how many \
              numbers there are in all"
)]
pub struct JobRow {
    pub id: Uuid,
    pub account: String,
    pub status: String,
    pub sender: String,
    pub recipients: Vec<Option<String>>,
    pub recipient_count: i32,
    pub body: String,
    pub iys: bool,
    pub iys_list: Option<String>,
    pub priority: i16,
    pub due_at: Option<String>,
    pub expires_at: Option<String>,
    pub provider_send_at: Option<String>,
    pub idempotency_key: Option<String>,
    pub max_attempts: i16,
    /// As PostgreSQL writes it.
    #[serde(serialize_with = "as_json")]
    pub metadata: String,
    pub traceparent: Option<String>,
    pub producer: String,
    pub batch_id: Option<Uuid>,
    pub attempt: i16,
    pub order_id: Option<String>,
    pub duplicate: bool,
    pub duplicate_of: Option<Uuid>,
    pub part_of: Option<Uuid>,
    pub rejected_recipients: Option<Vec<Option<String>>>,
    pub rejected_count: Option<i32>,
    pub error_class: Option<String>,
    pub error_code: Option<i32>,
    pub error_message: Option<String>,
    pub ambiguous_since: Option<String>,
    pub created_at: Option<String>,
    pub sent_at: Option<String>,
    pub finished_at: Option<String>,
    pub worker: Option<String>,
    pub claimed_at: Option<String>,
    pub lease_until: Option<String>,
    pub delivery: Option<String>,
    pub delivered: Option<i32>,
    pub undelivered: Option<i32>,
    pub delivery_total: Option<i32>,
    pub delivery_source: Option<String>,
    pub delivery_conflicts: Option<i32>,
    pub delivery_changed_at: Option<String>,
    pub price: Option<String>,
}

/// Some numbers of a job of which the same is known.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct NumbersByDelivery {
    /// `delivered`, `undelivered`, `pending`, `rejected`; `None`: no word yet.
    pub delivery: Option<String>,
    /// How many numbers.
    pub count: i64,
    /// The first of them.
    pub numbers: Vec<Option<String>>,
}

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Stand {
    /// The job.
    pub id: Uuid,
    /// As `sms_outbox.messages` has it: a list that was cut counts as a whole.
    pub status: String,
    /// What became of it on the phone.
    pub delivery: Option<String>,
}

/// JSON where it can be read as such, else its text: `jsonb` holds larger numbers and deeper nesting than readers take.
fn as_json<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => value.serialize(serializer),
        Err(_) => serializer.serialize_str(text),
    }
}

/// One line of a job's history, as a person sees it.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the fields are the columns of sms_outbox.attempts, which its comments explain"
)]
pub struct AttemptRow {
    pub attempt: i16,
    pub token: i32,
    pub observer: String,
    pub counted: bool,
    pub late: bool,
    pub worker: Option<String>,
    pub started_at: Option<String>,
    pub duration_ms: Option<i32>,
    pub progress: Option<String>,
    pub http_status: Option<i16>,
    pub provider_code: Option<i32>,
    pub error_class: Option<String>,
    pub error_message: Option<String>,
    pub order_id: Option<String>,
    pub said_by: Option<String>,
    pub evidence: Option<String>,
}

/// One line of `sms_outbox.queue_stats`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct QueueStat {
    /// The account.
    pub account: String,
    /// The status; `None` for an account that is paused and has no jobs.
    pub status: Option<String>,
    /// How many jobs.
    pub jobs: i64,
    /// Age of the oldest queued job that is due, in milliseconds since it became due.
    pub oldest_due_age_ms: Option<i64>,
    /// Whether the whole account is paused.
    pub paused: bool,
    /// Every pause of the account, with its reason.
    pub paused_why: Option<String>,
    /// Milliseconds since the oldest of these pauses began.
    pub paused_for_ms: Option<i64>,
}

/// One figure about what is open.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Depth {
    /// `queued`, `sending` or `uncertain`: how many jobs; `oldest_due_ms`: how long the oldest job has been due that could be
    /// claimed; `paused_account`, `paused_sender` or `paused_iys`: how many such pauses hold.
    pub what: String,
    /// Of which account.
    pub account: String,
    /// The figure.
    pub value: i64,
}

impl Outbox {
    /// What is open, of these accounts and of those that have something under way; cheap however much has ended. More than
    /// `at_most` in one account and priority are counted as that many.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn depth(
        &self,
        accounts: &[String],
        at_most: i64,
    ) -> Result<Vec<Depth>, OutboxError> {
        self.call("measuring the queue", async |connection| {
            sqlx::query_as(include_str!("depth.sql"))
                .bind(accounts)
                .bind(at_most)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// The jobs that fit, the newest first.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<JobRow>, OutboxError> {
        self.call("listing jobs", async |connection| {
            sqlx::query_as(include_str!("list.sql"))
                .bind(&filter.ids)
                .bind(&filter.account)
                .bind(&filter.status)
                .bind(&filter.error_class)
                .bind(&filter.sender)
                .bind(filter.batch)
                .bind(&filter.idempotency_key)
                .bind(&filter.recipient)
                .bind(filter.older_than_s)
                .bind(filter.newer_than_s)
                .bind(filter.at_most)
                .bind(filter.numbers_at_most)
                .bind(&filter.producer)
                .bind(&filter.delivery)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// The ids of the jobs that fit, the oldest first.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn matching(&self, filter: &Filter) -> Result<Vec<Uuid>, OutboxError> {
        self.call("looking for jobs", async |connection| {
            sqlx::query_scalar(include_str!("matching.sql"))
                .bind(&filter.ids)
                .bind(&filter.account)
                .bind(&filter.status)
                .bind(&filter.error_class)
                .bind(&filter.sender)
                .bind(filter.batch)
                .bind(&filter.idempotency_key)
                .bind(&filter.recipient)
                .bind(filter.older_than_s)
                .bind(filter.newer_than_s)
                .bind(filter.at_most)
                .bind(filter.indeterminate)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// The database's clock, which decides what is due.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn now(&self) -> Result<DateTime<Utc>, OutboxError> {
        self.call("reading the clock", async |connection| {
            sqlx::query_scalar(include_str!("now.sql"))
                .persistent(false)
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// One job, or `None` if there is none of this id.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn job(&self, id: Uuid) -> Result<Option<JobRow>, OutboxError> {
        let filter = Filter {
            ids: Some(vec![id]),
            at_most: 1,
            ..Filter::default()
        };
        Ok(self.list(&filter).await?.pop())
    }

    /// What is known about every request of a job, the first one first.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn attempts(&self, job: Uuid) -> Result<Vec<AttemptRow>, OutboxError> {
        self.call("reading the history of a job", async |connection| {
            sqlx::query_as(include_str!("attempts_of.sql"))
                .bind(job)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// The numbers of a job by what became of the message there, the first `at_most` of each.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn numbers_by_delivery(
        &self,
        job: Uuid,
        at_most: i32,
    ) -> Result<Vec<NumbersByDelivery>, OutboxError> {
        self.call("reading the numbers of a job", async |connection| {
            sqlx::query_as(include_str!("numbers_by_delivery.sql"))
                .bind(job)
                .bind(at_most)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Where these messages stand; those that are gone are left out. Reads nothing that a producer may not.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn stands(&self, ids: &[Uuid]) -> Result<Vec<Stand>, OutboxError> {
        self.call("reading deliveries", async |connection| {
            sqlx::query_as(include_str!("stands.sql"))
                .bind(ids)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// The queue at a glance.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn stats(&self) -> Result<Vec<QueueStat>, OutboxError> {
        self.call("counting jobs", async |connection| {
            sqlx::query_as(include_str!("stats.sql"))
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }
}
