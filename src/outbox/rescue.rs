//! Finding jobs that time has overtaken: abandoned claims, expired messages, doubts too old to be repeated.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Outbox, OutboxError, from_millis, millis};
use crate::failpoints;

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
    /// Age of an older doubt.
    pub doubt_age: Option<Duration>,
    /// Time to `expires_at`.
    pub expires_in: Option<Duration>,
    /// When this was read.
    pub read: Instant,
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
    doubt_age_ms: Option<i64>,
    expires_in_ms: Option<i64>,
}

/// Which parts of the upkeep have something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct DueUpkeep {
    /// Messages whose time has passed.
    pub expiry: bool,
    /// Doubts that can no longer be repeated safely.
    pub stale_doubts: bool,
    /// Duplicates whose twin may be known by now.
    pub orphans: bool,
    /// Pauses that hold, or whose messages are still out of the claims' way.
    pub pauses: bool,
}

impl Outbox {
    /// What there is to be done. `guarded`: how old a doubt may be and still be repeated.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn due_upkeep(&self, guarded: Duration) -> Result<DueUpkeep, OutboxError> {
        self.call("looking for what is to be done", async |connection| {
            sqlx::query_as(include_str!("due_upkeep.sql"))
                .bind(millis(guarded))
                .persistent(self.persistent())
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Up to `at_most` claims whose lease has run out, the oldest first: within the last `reach`, or whenever.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn abandoned(
        &self,
        reach: Option<Duration>,
        at_most: usize,
    ) -> Result<Vec<Abandoned>, OutboxError> {
        let read = Instant::now();
        let rows: Vec<Row> = self
            .call("looking for abandoned claims", async |connection| {
                sqlx::query_as(failpoints::sql(include_str!("abandoned.sql")))
                    .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                    .bind(reach.map(millis))
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
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
            doubt_age: row.doubt_age_ms.map(from_millis),
            expires_in: row.expires_in_ms.map(from_millis),
            read,
        });
        Ok(abandoned.collect())
    }

    /// Ends queued jobs whose `expires_at` has come; returns them with their new status (`expired`, or `uncertain` where an
    /// unanswered request stands).
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn expire(&self, at_most: usize) -> Result<Vec<(Uuid, String)>, OutboxError> {
        self.call("expiring jobs", async |connection| {
            sqlx::query_as(failpoints::sql(include_str!("expire.sql")))
                .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Sets queued jobs aside whose doubt is at least `age` old: they may no longer be repeated.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn set_stale_doubts_aside(
        &self,
        age: Duration,
        at_most: usize,
    ) -> Result<Vec<Uuid>, OutboxError> {
        self.call("setting stale doubts aside", async |connection| {
            sqlx::query_scalar(include_str!("stale_doubts.sql"))
                .bind(millis(age))
                .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Names the twins of duplicates that could not be named when they were recorded; returns job and twin.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn find_twins(&self, at_most: usize) -> Result<Vec<(Uuid, Uuid)>, OutboxError> {
        self.call("looking for the twins of duplicates", async |connection| {
            sqlx::query_as(include_str!("find_twins.sql"))
                .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }
}
