//! What a receiver of webhooks keeps for workers to match.

use serde::Serialize;
use sqlx::types::Json;

use super::{Outbox, OutboxError};
use crate::message::Recipient;

/// Events of one order that a receiver cannot match by itself.
#[derive(Clone, Debug)]
pub struct UnmatchedEvents {
    /// The order that they name.
    pub order_id: String,
    /// Each with its number, its word as in `delivery_inbox.words`, and what account, number and text come to.
    pub events: Vec<(Recipient, char, i64)>,
}

#[derive(Serialize)]
struct Row<'a> {
    order_id: &'a str,
    numbers: Vec<&'a str>,
    words: String,
    contents: Vec<i64>,
}

impl Outbox {
    /// Keeps events until a worker has matched them.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn keep_events(
        &self,
        account: &str,
        unmatched: &[UnmatchedEvents],
    ) -> Result<(), OutboxError> {
        let rows: Vec<Row<'_>> = unmatched
            .iter()
            .map(|UnmatchedEvents { order_id, events }| Row {
                order_id,
                numbers: events.iter().map(|(number, ..)| number.as_str()).collect(),
                words: events.iter().map(|(_, word, _)| *word).collect(),
                contents: events.iter().map(|(.., content)| *content).collect(),
            })
            .collect();
        self.call("keeping events", async |connection| {
            sqlx::query(include_str!("keep_events.sql"))
                .bind(account)
                .bind(Json(&rows))
                .persistent(self.persistent())
                .execute(connection)
                .await
        })
        .await?;
        Ok(())
    }
}
