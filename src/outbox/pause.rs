//! Holding back an account, a sender or an account's marketing, for the whole fleet.

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::{Outbox, OutboxError, from_millis, millis};
use crate::lifecycle::{Failure, PauseScope};

/// A pause to begin.
#[derive(Clone, Debug)]
pub struct PauseOrder<'a> {
    /// The account.
    pub account: &'a str,
    /// Who waits.
    pub scope: PauseScope,
    /// Which sender, for [`PauseScope::Sender`]; empty otherwise.
    pub sender: &'a str,
    /// The failure behind it; `None` when an operator wants it.
    pub failure: Option<&'a Failure>,
    /// A sentence for the operator.
    pub reason: &'a str,
    /// Who began it.
    pub by: &'a str,
    /// How long, where the end is known.
    pub lasts: Option<Duration>,
    /// If it comes back soon it lasts twice as long each time, up to this; `None`: always as long.
    pub longest: Option<Duration>,
    /// How probes are spaced, if one is to end it.
    pub probing: Option<Probing>,
}

/// How probes of a paused account are spaced: the first after `first`, each further one after twice the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Before the first probe.
    pub first: Duration,
    /// Between probes at most.
    pub longest: Duration,
}

/// A pause that holds, as a person sees it. Moments are UTC, as in `2026-11-22T14:05:09.123Z`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the fields are the columns of sms_outbox.pauses, which its comments explain"
)]
pub struct PauseRow {
    pub account: String,
    pub scope: String,
    pub sender: String,
    pub error_class: Option<String>,
    pub error_code: Option<i32>,
    pub reason: String,
    pub paused_by: String,
    pub consecutive_failures: i32,
    /// Milliseconds since it began.
    pub held_for_ms: i64,
    pub since: Option<String>,
    pub until: Option<String>,
    pub probe_at: Option<String>,
}

/// A pause that an operator began.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct PausedByHand {
    /// When it ends by itself (UTC), if it does.
    pub until: Option<String>,
    /// The reason of the pause that held before and is replaced.
    pub replaced: Option<String>,
}

/// A probe that this worker is to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueProbe {
    /// The account.
    pub account: String,
    /// Who waits.
    pub scope: PauseScope,
    /// Which sender, for [`PauseScope::Sender`].
    pub sender: String,
}

impl Outbox {
    /// Begins a pause. Returns how often in a row, or `None` if one held already.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn pause(&self, order: &PauseOrder<'_>) -> Result<Option<i32>, OutboxError> {
        self.call("pausing", async |connection| {
            sqlx::query_scalar(include_str!("pause.sql"))
                .bind(order.account)
                .bind(order.scope.as_str())
                .bind(order.sender)
                .bind(order.failure.map(|failure| failure.class.as_str()))
                .bind(order.failure.and_then(|failure| failure.code))
                .bind(order.reason)
                .bind(order.by)
                .bind(order.lasts.map(millis))
                .bind(order.probing.map(|probing| millis(probing.first)))
                .bind(order.probing.map(|probing| millis(probing.longest)))
                .bind(order.longest.map(millis))
                .persistent(self.persistent())
                .fetch_optional(connection)
                .await
        })
        .await
    }

    /// Begins a pause that an operator wants: it replaces what held before, and ends only by hand or when its time comes.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn pause_by_hand(
        &self,
        account: &str,
        scope: PauseScope,
        sender: &str,
        reason: &str,
        by: &str,
        lasts: Option<Duration>,
    ) -> Result<PausedByHand, OutboxError> {
        self.call("pausing", async |connection| {
            sqlx::query_as(include_str!("pause_by_hand.sql"))
                .bind(account)
                .bind(scope.as_str())
                .bind(sender)
                .bind(reason)
                .bind(by)
                .bind(lasts.map(millis))
                .persistent(false)
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Ends pauses for an operator, whatever began them; returns those that held. `None` stands for all.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn resume(
        &self,
        account: Option<&str>,
        scope: Option<PauseScope>,
        sender: Option<&str>,
        by: &str,
    ) -> Result<Vec<PauseRow>, OutboxError> {
        self.call("resuming", async |connection| {
            sqlx::query_as(include_str!("resume.sql"))
                .bind(account)
                .bind(scope.map(PauseScope::as_str))
                .bind(sender)
                .bind(by)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// The pauses that hold, of one account or of all.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn pauses(&self, account: Option<&str>) -> Result<Vec<PauseRow>, OutboxError> {
        self.call("reading pauses", async |connection| {
            sqlx::query_as(include_str!("pauses.sql"))
                .bind(account)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Takes one probe that is due for any of `accounts`, so that no other worker makes it too.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses, or the row cannot be understood.
    pub async fn due_probe(
        &self,
        accounts: &[String],
        probing: Probing,
    ) -> Result<Option<DueProbe>, OutboxError> {
        let row: Option<(String, String, String)> = self
            .call_where_pinned("looking for due probes", async |connection| {
                sqlx::query_as(include_str!("due_probe.sql"))
                    .bind(accounts)
                    .bind(millis(probing.first))
                    .bind(millis(probing.longest))
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        row.map(|(account, scope, sender)| {
            let scope = scope.parse().map_err(|problem| OutboxError::Unreadable {
                table: "pauses",
                column: "scope",
                id: account.clone(),
                problem: format!("{problem}"),
            })?;
            Ok(DueProbe {
                account,
                scope,
                sender,
            })
        })
        .transpose()
    }

    /// Ends a pause after a probe found the provider healthy. A pause that a person has begun meanwhile stays.
    /// Returns how long it lasted, or `None` if none was ended.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn end_probed_pause(
        &self,
        account: &str,
        scope: PauseScope,
        sender: &str,
        by: &str,
    ) -> Result<Option<Duration>, OutboxError> {
        let lasted: Option<i64> = self
            .call("ending a pause", async |connection| {
                sqlx::query_scalar(include_str!("end_probed_pause.sql"))
                    .bind(account)
                    .bind(scope.as_str())
                    .bind(sender)
                    .bind(by)
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(lasted.map(from_millis))
    }

    /// Marks due jobs behind a live pause as held, as far as they are among the first `look` of their producer and priority; returns
    /// how many.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn hold(&self, look: usize) -> Result<usize, OutboxError> {
        self.change("holding jobs", include_str!("hold.sql"), look)
            .await
    }

    /// Releases up to `at_most` held jobs that no live pause holds; returns how many.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn release_held(&self, at_most: usize) -> Result<usize, OutboxError> {
        self.change(
            "releasing held jobs",
            include_str!("release_held.sql"),
            at_most,
        )
        .await
    }

    async fn change(
        &self,
        doing: &'static str,
        statement: &'static str,
        jobs: usize,
    ) -> Result<usize, OutboxError> {
        self.call(doing, async |connection| {
            let changed: Vec<Uuid> = sqlx::query_scalar(statement)
                .bind(i64::try_from(jobs).unwrap_or(i64::MAX))
                .persistent(self.persistent())
                .fetch_all(connection)
                .await?;
            Ok(changed.len())
        })
        .await
    }

    /// Marks pauses whose time has passed as ended; returns account, scope and sender of each.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn end_elapsed_pauses(&self) -> Result<Vec<(String, String, String)>, OutboxError> {
        self.call("ending elapsed pauses", async |connection| {
            sqlx::query_as(include_str!("end_elapsed_pauses.sql"))
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }
}
