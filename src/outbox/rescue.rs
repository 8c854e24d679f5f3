//! Jobs that maintenance has to move: abandoned claims, expired messages, indeterminate jobs too old to be repeated.

use std::time::Duration;

use uuid::Uuid;

use super::{Outbox, OutboxError, from_millis, millis};
use crate::{clock::Moment, failpoints};

/// The most bytes of numbers and texts that are read of abandoned claims at once, unless one job has more.
const BYTES: i64 = 16 * 1024 * 1024;

/// A claim whose lease has run out.
#[derive(Clone)]
pub struct Abandoned {
    /// The job.
    pub id: Uuid,
    /// The lost claim.
    pub token: i32,
    /// The account.
    pub account: String,
    /// Numbers, as the producer wrote them.
    pub recipients: Vec<Option<String>>,
    /// The text.
    pub body: String,
    /// The number of the attempt, from 1.
    pub attempt: i16,
    /// How many attempts are allowed.
    pub max_attempts: i16,
    /// Who held it.
    pub worker: String,
    /// Age of the claim.
    pub since_claim: Duration,
    /// How long it has been indeterminate.
    pub indeterminate_age: Option<Duration>,
    /// Time to `expires_at`.
    pub expires_in: Option<Duration>,
    /// When this was read.
    pub read: Moment,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    token: i32,
    account: String,
    recipients: Vec<Option<String>>,
    body: String,
    attempt: i16,
    max_attempts: i16,
    worker: Option<String>,
    since_claim_ms: Option<i64>,
    indeterminate_age_ms: Option<i64>,
    expires_in_ms: Option<i64>,
    found: i64,
}

/// Which parts of the maintenance have something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct DueMaintenance {
    /// Messages whose time has passed.
    pub expiry: bool,
    /// Indeterminate jobs that can no longer be repeated safely.
    pub stale: bool,
    /// Duplicates whose original may be known by now.
    pub orphans: bool,
    /// Pauses that hold, or have just elapsed.
    pub pauses: bool,
    /// Jobs that a pause holds, or held.
    pub held: bool,
}

impl Outbox {
    /// What maintenance has to do. `guarded`: how long a job may be indeterminate and still be repeated.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn due_maintenance(&self, guarded: Duration) -> Result<DueMaintenance, OutboxError> {
        self.call("looking for what is to be done", async |connection| {
            sqlx::query_as(include_str!("due_maintenance.sql"))
                .bind(millis(guarded))
                .persistent(self.persistent())
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Up to `at_most` claims whose lease has run out, the oldest first: within the last `reach`, or whenever. `true`: there are
    /// more, because of their number or because of what they hold.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn abandoned(
        &self,
        reach: Option<Duration>,
        at_most: usize,
    ) -> Result<(Vec<Abandoned>, bool), OutboxError> {
        let read = Moment::now();
        let rows: Vec<Row> = self
            .call_where_pinned("looking for abandoned claims", async |connection| {
                sqlx::query_as(failpoints::sql(include_str!("abandoned.sql")))
                    .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                    .bind(reach.map(millis))
                    .bind(BYTES)
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let read_here = rows.len();
        let more = rows.first().is_some_and(|row| {
            read_here >= at_most || usize::try_from(row.found).is_ok_and(|found| found > read_here)
        });
        let abandoned = rows.into_iter().map(|row| Abandoned {
            id: row.id,
            token: row.token,
            account: row.account,
            recipients: row.recipients,
            body: row.body,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            worker: row.worker.unwrap_or_default(),
            since_claim: row.since_claim_ms.map_or(Duration::ZERO, from_millis),
            indeterminate_age: row.indeterminate_age_ms.map(from_millis),
            expires_in: row.expires_in_ms.map(from_millis),
            read,
        });
        Ok((abandoned.collect(), more))
    }

    /// Ends queued jobs whose `expires_at` has come; returns them with their new status (`expired`, or `uncertain` where an
    /// unanswered request stands).
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn expire(&self, at_most: usize) -> Result<Vec<(Uuid, String)>, OutboxError> {
        self.call_where_pinned("expiring jobs", async |connection| {
            sqlx::query_as(failpoints::sql(include_str!("expire.sql")))
                .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Makes queued jobs uncertain that have been indeterminate for `age`: they may no longer be repeated.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn stale_to_uncertain(
        &self,
        age: Duration,
        at_most: usize,
    ) -> Result<Vec<Uuid>, OutboxError> {
        self.call_where_pinned(
            "making stale indeterminate jobs uncertain",
            async |connection| {
                sqlx::query_scalar(include_str!("stale_to_uncertain.sql"))
                    .bind(millis(age))
                    .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            },
        )
        .await
    }

    /// Names the originals of duplicates that could not be named when they were recorded; returns duplicate and original.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn find_originals(&self, at_most: usize) -> Result<Vec<(Uuid, Uuid)>, OutboxError> {
        self.call_where_pinned(
            "looking for the originals of duplicates",
            async |connection| {
                sqlx::query_as(include_str!("find_originals.sql"))
                    .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            },
        )
        .await
    }
}
