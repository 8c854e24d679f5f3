//! Holding back an account, a sender or an account's marketing, for the whole fleet.

use std::time::Duration;

use uuid::Uuid;

use super::{Outbox, OutboxError, from_millis, millis};
use crate::lifecycle::{PauseScope, Trouble};

/// A pause to begin.
#[derive(Clone, Debug)]
pub struct PauseOrder<'a> {
    /// The account.
    pub account: &'a str,
    /// Who waits.
    pub scope: PauseScope,
    /// Which sender, for [`PauseScope::Sender`]; empty otherwise.
    pub sender: &'a str,
    /// The trouble behind it; `None` when an operator wants it.
    pub trouble: Option<&'a Trouble>,
    /// A sentence for the operator.
    pub reason: &'a str,
    /// Who began it.
    pub by: &'a str,
    /// How long, where the end is known.
    pub lasts: Option<Duration>,
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
                .bind(order.trouble.map(|trouble| trouble.class.as_str()))
                .bind(order.trouble.and_then(|trouble| trouble.code))
                .bind(order.reason)
                .bind(order.by)
                .bind(order.lasts.map(millis))
                .bind(order.probing.map(|probing| millis(probing.first)))
                .bind(order.probing.map(|probing| millis(probing.longest)))
                .persistent(self.persistent)
                .fetch_optional(connection)
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
            .call("looking for due probes", async |connection| {
                sqlx::query_as(include_str!("due_probe.sql"))
                    .bind(accounts)
                    .bind(millis(probing.first))
                    .bind(millis(probing.longest))
                    .persistent(self.persistent)
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

    /// Ends a pause. Returns how long it lasted, or `None` if none held.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn end_pause(
        &self,
        account: &str,
        scope: PauseScope,
        sender: &str,
        by: &str,
    ) -> Result<Option<Duration>, OutboxError> {
        let lasted: Option<i64> = self
            .call("ending a pause", async |connection| {
                sqlx::query_scalar(include_str!("end_pause.sql"))
                    .bind(account)
                    .bind(scope.as_str())
                    .bind(sender)
                    .bind(by)
                    .persistent(self.persistent)
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(lasted.map(from_millis))
    }

    /// As [`end_pause`](Self::end_pause), for whoever asked the provider and found it in order: a pause that a person has begun
    /// meanwhile stays.
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
                    .persistent(self.persistent)
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(lasted.map(from_millis))
    }

    /// Puts due messages that a pause holds back out of the claim's way, as far as they are among the first `look` of their
    /// priority; returns how many.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn park(&self, look: usize) -> Result<usize, OutboxError> {
        self.call("parking jobs", async |connection| {
            let parked: Vec<Uuid> = sqlx::query_scalar(include_str!("park.sql"))
                .bind(i64::try_from(look).unwrap_or(i64::MAX))
                .persistent(self.persistent)
                .fetch_all(connection)
                .await?;
            Ok(parked.len())
        })
        .await
    }

    /// Puts up to `at_most` messages back whose pause is over; returns how many.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn unpark(&self, at_most: usize) -> Result<usize, OutboxError> {
        self.call("unparking jobs", async |connection| {
            let unparked: Vec<Uuid> = sqlx::query_scalar(include_str!("unpark.sql"))
                .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                .persistent(self.persistent)
                .fetch_all(connection)
                .await?;
            Ok(unparked.len())
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
                .persistent(self.persistent)
                .fetch_all(connection)
                .await
        })
        .await
    }
}
