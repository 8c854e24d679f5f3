//! What people may do to jobs: retry what failed, cancel what waits, resolve what is uncertain.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Filter, Outbox, OutboxError};
use crate::lifecycle::{OrderId, Status};

/// What became of a request to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It will not be sent any more, and never was.
    Done,
    /// It will not be sent any more, but an earlier request of it was never answered and may have been accepted.
    DoneButMayHaveBeenSent,
}

/// A sent job whose order the provider holds until its moment.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Scheduled {
    /// The job.
    pub id: Uuid,
    /// Its account.
    pub account: String,
    /// Its order.
    pub order_id: String,
    /// What is known of its delivery.
    pub delivery: Option<String>,
}

/// How a person resolves an uncertain job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It arrived; under this order, where that is known.
    Sent {
        /// The provider's number.
        order: Option<OrderId>,
        /// Whether it may be the order of another job too.
        shared: bool,
    },
    /// Send it again, at the risk that it arrives twice.
    Resend,
    /// Give it up.
    Fail,
}

/// Whose word it is, as the history keeps it beside the database role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The name that was given.
    pub by: Option<String>,
    /// Why.
    pub because: Option<String>,
}

/// What became of a resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// As asked.
    Done,
    /// It cannot be sent again: its `expires_at` has come.
    Expired,
    /// The order is that of these jobs.
    Taken(Vec<Uuid>),
    /// The job is not uncertain but this.
    NotUncertain(Status),
    /// There is no such job.
    Unknown,
}

impl Outbox {
    /// Puts failed jobs that fit back into the queue, with all their attempts; returns their ids. One whose `expires_at` has
    /// come is left as it is.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn retry(&self, filter: &Filter) -> Result<Vec<Uuid>, OutboxError> {
        self.call("retrying jobs", async |connection| {
            sqlx::query_scalar(include_str!("retry.sql"))
                .bind(&filter.ids)
                .bind(&filter.account)
                .bind(&filter.error_class)
                .bind(&filter.sender)
                .bind(filter.batch)
                .bind(filter.at_most)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Cancels queued jobs that fit; returns what became of each.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn cancel(&self, filter: &Filter) -> Result<Vec<(Uuid, Cancelled)>, OutboxError> {
        let rows: Vec<(Uuid, bool)> = self
            .call("cancelling jobs", async |connection| {
                sqlx::query_as(include_str!("cancel.sql"))
                    .bind(&filter.ids)
                    .bind(&filter.account)
                    .bind(&filter.error_class)
                    .bind(&filter.sender)
                    .bind(filter.batch)
                    .bind(filter.at_most)
                    .persistent(false)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let outcome = |indeterminate| {
            if indeterminate {
                Cancelled::DoneButMayHaveBeenSent
            } else {
                Cancelled::Done
            }
        };
        Ok(rows
            .into_iter()
            .map(|(id, indeterminate)| (id, outcome(indeterminate)))
            .collect())
    }

    /// The sent jobs that fit whose orders the provider still holds, for more than a minute to come; the oldest first.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn scheduled(&self, filter: &Filter) -> Result<Vec<Scheduled>, OutboxError> {
        self.call("looking for scheduled orders", async |connection| {
            sqlx::query_as(include_str!("scheduled.sql"))
                .bind(&filter.ids)
                .bind(&filter.account)
                .bind(&filter.error_class)
                .bind(&filter.sender)
                .bind(filter.batch)
                .bind(filter.at_most)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Resolves an uncertain job as a person decided.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn resolve(
        &self,
        id: Uuid,
        resolution: &Resolution,
        word: &Word,
    ) -> Result<Resolved, OutboxError> {
        let (status, order, shared) = match resolution {
            Resolution::Sent { order, shared } => (Status::Sent, order.as_ref(), *shared),
            Resolution::Resend => (Status::Queued, None, false),
            Resolution::Fail => (Status::Failed, None, false),
        };
        let order = order.map(OrderId::as_str);
        let done: Option<Uuid> = self
            .call("resolving a job", async |connection| {
                sqlx::query_scalar(include_str!("resolve.sql"))
                    .bind(id)
                    .bind(status.as_str())
                    .bind(order)
                    .bind(shared)
                    .bind(&word.by)
                    .bind(&word.because)
                    .persistent(false)
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        if done.is_some() {
            return Ok(Resolved::Done);
        }
        Ok(match self.statuses(&[id]).await?.get(&id) {
            None => Resolved::Unknown,
            Some(Status::Uncertain) => match order {
                None => Resolved::Expired,
                Some(order) => {
                    let known = self.known_orders(&[order]).await?;
                    let others = known.into_iter().map(|(_, job)| job);
                    Resolved::Taken(others.filter(|job| *job != id).collect())
                }
            },
            Some(status) => Resolved::NotUncertain(*status),
        })
    }

    /// What these jobs are right now; unknown ids are left out.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses, or a status is unknown to this version.
    pub async fn statuses(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, Status>, OutboxError> {
        let rows: Vec<(Uuid, String)> = self
            .call("reading statuses", async |connection| {
                sqlx::query_as(include_str!("status_of.sql"))
                    .bind(ids)
                    .persistent(false)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let read = |(id, status): (Uuid, String)| {
            let status = status.parse().map_err(|problem| OutboxError::Unreadable {
                table: "jobs",
                column: "status",
                id: id.to_string(),
                problem: format!("{problem}"),
            })?;
            Ok((id, status))
        };
        rows.into_iter().map(read).collect()
    }
}
