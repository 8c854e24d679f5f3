//! What producers do, in a transaction of its own and under a deadline: for the commands.

use uuid::Uuid;

use super::{Outbox, OutboxError};
use crate::{
    message::{Bulk, NewMessage},
    producer::{EnqueueError, Enqueued, enqueue, enqueue_bulk, enqueue_once},
};

/// In a transaction of its own, for callers that write nothing else in it. Unlike the functions with a pool, safe through a
/// pooler.
impl Outbox {
    /// As [`enqueue`].
    ///
    /// # Errors
    /// As [`enqueue`]; a database that did not answer in time counts as a pool that timed out.
    pub async fn enqueue(&self, message: &NewMessage) -> Result<Uuid, EnqueueError> {
        self.call(STORING, async |connection| {
            Ok(enqueue(connection, message).await)
        })
        .await
        .map_err(EnqueueError::from)?
    }

    /// As [`enqueue_once`].
    ///
    /// # Errors
    /// As [`enqueue_once`]; a database that did not answer in time counts as a pool that timed out.
    pub async fn enqueue_once(&self, message: &NewMessage) -> Result<Enqueued, EnqueueError> {
        self.call(STORING, async |connection| {
            Ok(enqueue_once(connection, message).await)
        })
        .await
        .map_err(EnqueueError::from)?
    }

    /// As [`enqueue_bulk`].
    ///
    /// # Errors
    /// As [`enqueue_bulk`]; a database that did not answer in time counts as a pool that timed out.
    pub async fn enqueue_bulk(&self, bulk: &Bulk) -> Result<Vec<Uuid>, EnqueueError> {
        self.call(STORING, async |connection| {
            Ok(enqueue_bulk(connection, bulk).await)
        })
        .await
        .map_err(EnqueueError::from)?
    }

    /// The jobs that a taken key stands for: one, or all parts of a list in their order.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn with_key(&self, account: &str, key: &str) -> Result<Vec<Uuid>, OutboxError> {
        self.call("looking for a key", async |connection| {
            sqlx::query_scalar(include_str!("with_key.sql"))
                .bind(account)
                .bind(key)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }
}

const STORING: &str = "putting a message into the outbox";

impl From<OutboxError> for EnqueueError {
    fn from(error: OutboxError) -> Self {
        match error {
            OutboxError::Unreachable { source, .. }
            | OutboxError::Conflict { source, .. }
            | OutboxError::Refused { source, .. } => Self::Database(source),
            // Of these, only the first can be: nothing is read here, and a message may wait anywhere.
            OutboxError::Deadline { .. }
            | OutboxError::Unreadable { .. }
            | OutboxError::AnotherDatabase(_)
            | OutboxError::Standby => Self::Database(sqlx::Error::PoolTimedOut),
        }
    }
}
