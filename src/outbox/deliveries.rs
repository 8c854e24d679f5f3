//! What is known of deliveries: read, learnt from, and written back by whoever has read the latest.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{ContentKey, Outbox, OutboxError, from_millis};
use crate::delivery::{Delivery, Fact, Numbers, Outcome, Price};

/// A sent job, found by its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentJob {
    /// The job.
    pub id: Uuid,
    /// Its order. Duplicates share that of their original.
    pub order_id: String,
    /// What account, numbers and text come to, where a worker has written it down.
    pub content: Option<i64>,
    /// What is known of its delivery; `None`: nothing, nor whether it has one recipient or several.
    pub delivery: Option<Delivery>,
    /// When its acceptance was recorded.
    pub sent_at: DateTime<Utc>,
    /// How long ago that was.
    pub since_sent: Duration,
    /// How often that was written.
    writes: i32,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    order_id: String,
    content: Option<i64>,
    facts: Option<i16>,
    places: Option<String>,
    writes: i32,
    since_sent_ms: i64,
    sent_us: i64,
}

#[derive(sqlx::FromRow)]
struct NumbersRow {
    id: Uuid,
    recipients: Vec<Option<String>>,
    rejected_recipients: Option<Vec<String>>,
}

/// What was learnt of one job's delivery, ready to be written.
#[derive(Clone, Debug)]
pub struct Learnt {
    job: Uuid,
    writes: i32,
    delivery: Delivery,
    outcome: Outcome,
    is_new: bool,
    new_conflicts: usize,
    since_sent: Duration,
    price: Option<Price>,
}

impl SentJob {
    /// Whether it sent exactly this text to exactly these numbers.
    #[must_use]
    pub fn is_of(&self, content: ContentKey) -> bool {
        self.content == Some(content.low())
    }

    /// Adds what was said. `delivery` is what the job's starts as, where nothing is known yet. `None`: nothing new was said.
    #[must_use]
    pub fn learn(
        &self,
        delivery: Delivery,
        facts: impl IntoIterator<Item = Fact>,
        price: Option<Price>,
    ) -> Option<Learnt> {
        let before = self.delivery.clone().unwrap_or(delivery);
        let mut delivery = before.clone();
        for fact in facts {
            delivery.learn(fact);
        }
        if delivery == before && (self.delivery.is_some() || price.is_none()) {
            return None;
        }
        let outcome = delivery.outcome()?;
        let known = before.outcome();
        let conflicts = known.map_or(0, |known| known.conflicts);
        Some(Learnt {
            job: self.id,
            writes: self.writes,
            is_new: known.map(|known| known.status) != Some(outcome.status),
            new_conflicts: outcome.conflicts.saturating_sub(conflicts),
            since_sent: self.since_sent,
            delivery,
            outcome,
            price,
        })
    }
}

impl Learnt {
    /// What follows from it.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The job.
    #[must_use]
    pub const fn job(&self) -> Uuid {
        self.job
    }

    /// Whether the status is another one than before.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    /// Of how many more numbers both was said.
    #[must_use]
    pub const fn new_conflicts(&self) -> usize {
        self.new_conflicts
    }

    /// How long ago its message was accepted.
    #[must_use]
    pub const fn since_sent(&self) -> Duration {
        self.since_sent
    }
}

impl Outbox {
    /// The sent jobs of an account's orders, with what is known of their deliveries.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn deliveries_of(
        &self,
        account: &str,
        orders: &[&str],
    ) -> Result<Vec<SentJob>, OutboxError> {
        let rows: Vec<Row> = self
            .call("looking for the jobs of orders", async |connection| {
                sqlx::query_as(include_str!("deliveries_of.sql"))
                    .bind(account)
                    .bind(orders)
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let job = |row: Row| SentJob {
            id: row.id,
            order_id: row.order_id,
            content: row.content,
            delivery: row.facts.map(|facts| Delivery::read(facts, row.places)),
            sent_at: DateTime::from_timestamp_micros(row.sent_us).unwrap_or_default(),
            since_sent: from_millis(row.since_sent_ms),
            writes: row.writes,
        };
        Ok(rows.into_iter().map(job).collect())
    }

    /// Writes what was learnt of an account's deliveries, of each job once. Returns those that were written: of the others somebody
    /// else has written more meanwhile, and they are to be read again.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn write_deliveries(
        &self,
        account: &str,
        learnt: &[Learnt],
    ) -> Result<HashSet<Uuid>, OutboxError> {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let each = |of: fn(&Outcome) -> usize| -> Vec<i32> {
            learnt.iter().map(|one| count(of(&one.outcome))).collect()
        };
        let jobs: Vec<Uuid> = learnt.iter().map(|one| one.job).collect();
        let accounts = vec![account; learnt.len()];
        let writes: Vec<i32> = learnt.iter().map(|one| one.writes).collect();
        let facts: Vec<i16> = learnt.iter().map(|one| one.delivery.facts()).collect();
        let places: Vec<Option<&str>> = learnt.iter().map(|one| one.delivery.places()).collect();
        let statuses: Vec<&str> = learnt
            .iter()
            .map(|one| one.outcome.status.as_str())
            .collect();
        let total = each(|outcome| outcome.total);
        let delivered = each(|outcome| outcome.delivered);
        let undelivered = each(|outcome| outcome.undelivered);
        let conflicts = each(|outcome| outcome.conflicts);
        let sources: Vec<&str> = learnt
            .iter()
            .map(|one| one.outcome.source.as_str())
            .collect();
        let prices: Vec<Option<&str>> = learnt
            .iter()
            .map(|one| one.price.as_ref().map(Price::as_str))
            .collect();
        let is_final: Vec<bool> = learnt
            .iter()
            .map(|one| one.outcome.status.is_final())
            .collect();
        let is_new: Vec<bool> = learnt.iter().map(|one| one.is_new).collect();
        self.call("recording deliveries", async |connection| {
            let written: Vec<Uuid> = sqlx::query_scalar(include_str!("write_deliveries.sql"))
                .bind(&jobs)
                .bind(&accounts)
                .bind(&writes)
                .bind(&facts)
                .bind(&places)
                .bind(&statuses)
                .bind(&total)
                .bind(&delivered)
                .bind(&undelivered)
                .bind(&conflicts)
                .bind(&sources)
                .bind(&prices)
                .bind(&is_final)
                .bind(&is_new)
                .persistent(self.persistent())
                .fetch_all(connection)
                .await?;
            Ok(written.into_iter().collect())
        })
        .await
    }

    /// The numbers of these jobs. The caller bounds how many they are.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn numbers_with_places(
        &self,
        jobs: &[Uuid],
    ) -> Result<HashMap<Uuid, Numbers>, OutboxError> {
        let rows: Vec<NumbersRow> = self
            .call("reading the numbers of jobs", async |connection| {
                sqlx::query_as(include_str!("numbers_with_places.sql"))
                    .bind(jobs)
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let written = row.recipients.iter();
                let written = written.map(|text| text.as_deref().unwrap_or(""));
                let rejected = row.rejected_recipients.unwrap_or_default();
                (row.id, Numbers::read(written, &rejected))
            })
            .collect())
    }
}
