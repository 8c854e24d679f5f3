//! What the fleet knows of an account: whose jobs wait, how the provider does, which limit holds, which rows cannot be worked with.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{Outbox, OutboxError, from_millis, millis};
use crate::lifecycle::{Blame, Failure};

/// What a worker says of an account, every second.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat<'a> {
    /// The account.
    pub account: &'a str,
    /// Who says so.
    pub worker: &'a str,
    /// The limit that it was given; 0: none.
    pub per_second: u32,
    /// How long ago a message was accepted last.
    pub accepted: Option<Duration>,
    /// How long ago the provider last gave an answer that shows it at work.
    pub healthy: Option<Duration>,
    /// For priorities 0 to 3: how long ago a job was claimed last, and when that one had been due.
    pub claimed: [Option<(Duration, DateTime<Utc>)>; 4],
}

/// What the fleet knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct FleetState {
    /// Whether nobody knew this worker before.
    pub is_new: bool,
    /// Whether the provider is unavailable.
    pub outage: bool,
    /// Milliseconds that an outage lasted which this heartbeat ended.
    pub outage_ended_ms: Option<i64>,
    /// The limit that holds; 0: none.
    pub rate_per_second: i32,
    /// The limit that held before.
    pub rate_before: i32,
    /// Whether live workers were given different limits.
    pub limits_differ: bool,
}

/// A job whose row the database refuses to change.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RefusedJob {
    /// The job.
    pub job_id: Uuid,
    /// What kind of error it was.
    pub sqlstate: String,
    /// The constraint that was broken.
    pub rule: Option<String>,
    /// How often it was refused.
    pub refusals: i32,
}

/// Jobs that have been due for longer than a minute, and whose wait nothing explains.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Unexplained {
    /// The account.
    pub account: String,
    /// How many.
    pub jobs: i64,
    /// How long the oldest of them has been due, in milliseconds.
    pub oldest_ms: i64,
    /// That one.
    pub example: Uuid,
}

/// How many jobs of one producer wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct ProducerQueue {
    /// The account.
    pub account: String,
    /// The database role that inserted them.
    pub producer: String,
    /// How many.
    pub jobs: i64,
}

/// How the provider does for an account, as the fleet knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct AccountHealth {
    /// The account.
    pub account: String,
    /// Recipients a second for the whole fleet; 0: no limit.
    pub rate_per_second: i32,
    /// The limits that live workers were given, smallest first; 0: none.
    pub limits: Vec<i32>,
    /// How many live workers serve it.
    pub workers: i64,
    /// Milliseconds since a message was accepted last.
    pub accepted_ms: Option<i64>,
    /// Milliseconds since the provider is unavailable; `None`: it is not.
    pub outage_ms: Option<i64>,
    /// Milliseconds since the last failure whose cause was no message's.
    pub failed_ms: Option<i64>,
    /// What kind of failure that was.
    pub failure_class: Option<String>,
    /// A sentence about it.
    pub failure_message: Option<String>,
}

/// Jobs wait there.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Waiting {
    /// Whether they are bulk orders.
    pub bulk: bool,
    /// Their priority.
    pub priority: i16,
    /// Who inserted them.
    pub producer: String,
}

impl Outbox {
    /// Whose jobs wait in `account`, due or not, except those that a pause holds.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn waiting(&self, account: &str) -> Result<Vec<Waiting>, OutboxError> {
        self.call("looking whose jobs wait", async |connection| {
            sqlx::query_as(include_str!("waiting.sql"))
                .bind(account)
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// How the provider does for each account that a worker has served.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn accounts(&self) -> Result<Vec<AccountHealth>, OutboxError> {
        self.call("reading how the provider does", async |connection| {
            sqlx::query_as(include_str!("accounts.sql"))
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// How many jobs of each producer wait; more than `at_most` of one priority are counted as that many.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn waiting_by_producer(
        &self,
        at_most: i64,
    ) -> Result<Vec<ProducerQueue>, OutboxError> {
        self.call("looking whose jobs wait", async |connection| {
            sqlx::query_as(include_str!("waiting_by_producer.sql"))
                .bind(at_most)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Jobs that have been due for longer than a minute, and whose wait nothing explains. More than `at_most` of one account,
    /// priority and producer are counted as that many.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn unexplained(&self, at_most: i64) -> Result<Vec<Unexplained>, OutboxError> {
        self.call("looking for jobs that are stuck", async |connection| {
            sqlx::query_as(include_str!("unexplained.sql"))
                .bind(at_most)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Jobs whose row the database refuses to change, the latest first.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn refused(&self, at_most: i64) -> Result<Vec<RefusedJob>, OutboxError> {
        self.call("reading refused rows", async |connection| {
            sqlx::query_as(include_str!("refused.sql"))
                .bind(at_most)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Says that this worker serves an account; returns what the fleet knows of it.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn heartbeat(&self, heartbeat: Heartbeat<'_>) -> Result<FleetState, OutboxError> {
        self.call(
            "exchanging what is known of the provider",
            async |connection| {
                sqlx::query_as(include_str!("heartbeat.sql"))
                    .bind(heartbeat.account)
                    .bind(heartbeat.worker)
                    .bind(i32::try_from(heartbeat.per_second).unwrap_or(i32::MAX))
                    .bind(heartbeat.accepted.map(millis))
                    .bind(heartbeat.healthy.map(millis))
                    .bind(heartbeat.claimed.map(|one| one.map(|(ago, _)| millis(ago))))
                    .bind(heartbeat.claimed.map(|one| one.map(|(_, due)| due)))
                    .persistent(self.persistent())
                    .fetch_one(connection)
                    .await
            },
        )
        .await
    }

    /// Notes that an answer to `job` blames the account; returns what tells whose failure it is. `accepted`: how long ago this
    /// worker's last message was accepted.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn blame(
        &self,
        account: &str,
        job: Uuid,
        failure: &Failure,
        accepted: Option<Duration>,
    ) -> Result<Blame, OutboxError> {
        let (in_a_row, earlier, accepted_meanwhile, accepted_lately): (i32, i32, bool, bool) = self
            .call("noting a failure of the account", async |connection| {
                sqlx::query_as(include_str!("blame.sql"))
                    .bind(account)
                    .bind(job)
                    .bind(failure.class.as_str())
                    .bind(&failure.message)
                    .bind(accepted.map(millis))
                    .persistent(self.persistent())
                    .fetch_one(connection)
                    .await
            })
            .await?;
        Ok(Blame {
            in_a_row: u32::try_from(in_a_row).unwrap_or(0),
            earlier: u32::try_from(earlier).unwrap_or(0),
            accepted_meanwhile,
            accepted_lately,
            probe_answered: false,
        })
    }

    /// Makes the fleet send nothing new for an account. `true`: this worker was the first to say so.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn begin_outage(
        &self,
        account: &str,
        worker: &str,
        failure: &Failure,
        first_probe: Duration,
    ) -> Result<bool, OutboxError> {
        let begun: Option<String> = self
            .call("noting an outage of the provider", async |connection| {
                sqlx::query_scalar(include_str!("begin_outage.sql"))
                    .bind(account)
                    .bind(worker)
                    .bind(failure.class.as_str())
                    .bind(&failure.message)
                    .bind(millis(first_probe))
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(begun.is_some())
    }

    /// Takes the probe of an account's outage, if one is due; says whether a new message may be tried after it.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn due_outage_probe(
        &self,
        account: &str,
        first: Duration,
        longest: Duration,
    ) -> Result<Option<bool>, OutboxError> {
        self.call_where_pinned("looking for a due probe of an outage", async |connection| {
            sqlx::query_scalar(include_str!("due_outage_probe.sql"))
                .bind(account)
                .bind(millis(first))
                .bind(millis(longest))
                .persistent(self.persistent())
                .fetch_optional(connection)
                .await
        })
        .await
    }

    /// Asks for the right to try one new message in an outage.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn take_trial(
        &self,
        account: &str,
        first: Duration,
        longest: Duration,
    ) -> Result<bool, OutboxError> {
        let taken: Option<String> = self
            .call("trying a message in an outage", async |connection| {
                sqlx::query_scalar(include_str!("take_trial.sql"))
                    .bind(account)
                    .bind(millis(first))
                    .bind(millis(longest))
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(taken.is_some())
    }

    /// The provider is available again; `answered`: an order was answered, and not only nothing was there to try. Returns how long it
    /// was not; `None`: that was said before.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn end_outage(
        &self,
        account: &str,
        answered: bool,
    ) -> Result<Option<Duration>, OutboxError> {
        let lasted: Option<i64> = self
            .call("noting the end of an outage", async |connection| {
                sqlx::query_scalar(include_str!("end_outage.sql"))
                    .bind(account)
                    .bind(answered)
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(lasted.map(from_millis))
    }

    /// Lets indeterminate jobs of an account be repeated as soon as their last request has cooled down for `settle_delay`; returns how
    /// many that were.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn bring_forward(
        &self,
        account: &str,
        settle_delay: Duration,
    ) -> Result<usize, OutboxError> {
        let moved: Vec<Uuid> = self
            .call("bringing repeats forward", async |connection| {
                sqlx::query_scalar(include_str!("bring_forward.sql"))
                    .bind(account)
                    .bind(millis(settle_delay))
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        Ok(moved.len())
    }

    /// Finds which of an account's due jobs the database refuses to change, among the first `look` of each producer and
    /// priority. Claims step over them from now on.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn name_refused(
        &self,
        account: &str,
        look: usize,
    ) -> Result<Vec<RefusedJob>, OutboxError> {
        self.call(
            "looking for rows that cannot be changed",
            async |connection| {
                sqlx::query_as(include_str!("name_refused.sql"))
                    .bind(account)
                    .bind(i64::try_from(look).unwrap_or(i64::MAX))
                    .persistent(false)
                    .fetch_all(connection)
                    .await
            },
        )
        .await
    }

    /// Notes that the outcome of a job could not be written, and which error that was.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn note_refused(
        &self,
        account: &str,
        job: Uuid,
        error: &OutboxError,
    ) -> Result<(), OutboxError> {
        let (sqlstate, rule) = error.code_and_rule();
        self.call("noting a row that cannot be changed", async |connection| {
            sqlx::query(include_str!("note_refused.sql"))
                .bind(job)
                .bind(account)
                .bind(sqlstate)
                .bind(rule)
                .persistent(false)
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }

    /// Which of these jobs nobody else holds at the moment.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn lockable(&self, jobs: &[Uuid]) -> Result<Vec<Uuid>, OutboxError> {
        self.call("looking for locked rows", async |connection| {
            sqlx::query_scalar(include_str!("lockable.sql"))
                .bind(jobs)
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }
}
