//! What the search for lost orders reads and writes.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Outbox, OutboxError, from_millis, millis};
use crate::{
    lifecycle::OrderId,
    message::{ForeignNumbers, Recipient, RecipientList},
    reconciliation::{Finding, ListedOrder, Sought},
};

/// The most messages that are looked at to find out whether one of them may have made an order too.
const RIVALS: i64 = 1_000;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    token: i32,
    sender: String,
    recipients: Vec<Option<String>>,
    iys: bool,
    scans: i32,
    clean_scans: i32,
    since_us: i64,
    until_us: i64,
    settled_for_ms: i64,
}

/// How the search for a job's order stands.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Search {
    /// `found`, `none`, `several`; `None` while it goes on.
    pub outcome: Option<String>,
    /// How often the reports were read.
    pub scans: i32,
    /// How many of them, in a row, held nothing that fits.
    pub clean_scans: i32,
    /// The orders that fit.
    pub candidates: Json<Vec<Candidate>>,
    /// A sentence about the last scan.
    pub note: Option<String>,
    /// Milliseconds until the reports are read next.
    pub next_in_ms: Option<i64>,
}

/// An order that fits a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Candidate {
    /// Its number.
    pub order_id: String,
    /// When the provider took it.
    pub submitted_at: DateTime<Utc>,
    /// How many messages it has.
    pub total: u64,
    /// 113: being sent, 114: every message final, 115: not sent.
    pub status: Option<i64>,
}

impl From<&ListedOrder> for Candidate {
    fn from(order: &ListedOrder) -> Self {
        Self {
            order_id: order.id.as_str().to_owned(),
            submitted_at: order.submitted_at,
            total: order.total,
            status: order.status,
        }
    }
}

impl Outbox {
    /// Takes or keeps a duty that only one worker has at a time, for so long. `false`: it is another's.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn take_duty(
        &self,
        duty: &str,
        worker: &str,
        hold: Duration,
    ) -> Result<bool, OutboxError> {
        let taken: Option<bool> = self
            .call_where_noted("taking a duty", async |connection| {
                sqlx::query_scalar(include_str!("take_duty.sql"))
                    .bind(duty)
                    .bind(worker)
                    .bind(millis(hold))
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(taken == Some(true))
    }

    /// Whether there is an order of the account's to look for now.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn is_sought(&self, account: &str) -> Result<bool, OutboxError> {
        self.call("asking whether orders are sought", async |connection| {
            sqlx::query_scalar(include_str!("is_sought.sql"))
                .bind(account)
                .persistent(self.persistent())
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Names the orders of duplicates whose twins' orders have become known; returns job and twin.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn name_after_twins(&self, account: &str) -> Result<Vec<(Uuid, Uuid)>, OutboxError> {
        self.call("naming orders after twins", async |connection| {
            sqlx::query_as(include_str!("name_after_twins.sql"))
                .bind(account)
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Up to `at_most` jobs whose order is to be looked for now; begins and ends searches as jobs have moved.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn due_searches(
        &self,
        account: &str,
        foreign: ForeignNumbers,
        at_most: usize,
    ) -> Result<Vec<Sought>, OutboxError> {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        self.call("beginning searches", async |connection| {
            sqlx::query(include_str!("begin_searches.sql"))
                .bind(account)
                .bind(at_most)
                .persistent(self.persistent())
                .execute(connection)
                .await
        })
        .await?;
        self.call("ending searches", async |connection| {
            sqlx::query(include_str!("end_stale_searches.sql"))
                .bind(account)
                .persistent(self.persistent())
                .execute(connection)
                .await
        })
        .await?;
        let rows: Vec<Row> = self
            .call("reading searches", async |connection| {
                sqlx::query_as(include_str!("due_searches.sql"))
                    .bind(account)
                    .bind(at_most)
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let sought = rows.into_iter().map(|row| Sought {
            job: row.id,
            token: row.token,
            sender: row.sender,
            numbers: numbers(&row.recipients, foreign),
            is_commercial: row.iys,
            since: moment(row.since_us),
            until: moment(row.until_us),
            settled_for: from_millis(row.settled_for_ms),
            scans: u32::try_from(row.scans).unwrap_or(0),
            clean_scans: u32::try_from(row.clean_scans).unwrap_or(0),
        });
        Ok(sought.collect())
    }

    /// Which of these orders, none of which was taken before `since`, belong to jobs of ours already.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn known_orders(
        &self,
        orders: &[&str],
        since: DateTime<Utc>,
    ) -> Result<Vec<String>, OutboxError> {
        self.call("looking for the jobs of orders", async |connection| {
            sqlx::query_scalar(include_str!("known_orders.sql"))
                .bind(orders)
                .bind(since.timestamp_micros())
                .persistent(self.persistent())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// Whether another message of ours, whose outcome is not known, may have made an order like this job's.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn has_rivals(
        &self,
        account: &str,
        sought: &Sought,
        foreign: ForeignNumbers,
    ) -> Result<bool, OutboxError> {
        let rows: Vec<(Uuid, Vec<Option<String>>)> = self
            .call("looking for other messages in doubt", async |connection| {
                sqlx::query_as(include_str!("rivals.sql"))
                    .bind(sought.job)
                    .bind(account)
                    .bind(&sought.sender)
                    .bind(sought.since.timestamp_micros())
                    .bind(sought.until.timestamp_micros())
                    .bind(RIVALS)
                    .persistent(self.persistent())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        // Too many to look at: then one of them may well be.
        let too_many = i64::try_from(rows.len()).is_ok_and(|rows| rows >= RIVALS);
        Ok(too_many
            || rows
                .iter()
                .any(|(_, texts)| sought.is_to(&numbers(texts, foreign))))
    }

    /// The job is sent, under this order. `false`: it was settled otherwise meanwhile.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn settle_found(
        &self,
        sought: &Sought,
        order: &ListedOrder,
        evidence: &str,
        worker: &str,
    ) -> Result<bool, OutboxError> {
        let settled: Option<Uuid> = self
            .call("recording an order that was found", async |connection| {
                sqlx::query_scalar(include_str!("settle_found.sql"))
                    .bind(sought.job)
                    .bind(sought.token)
                    .bind(order.id.as_str())
                    .bind(evidence)
                    .bind(Json([Candidate::from(order)]))
                    .bind(worker)
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(settled.is_some())
    }

    /// Writes down what a scan has shown that settled nothing. `candidates`: the orders that fit; `None`: as before.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn note_scan(
        &self,
        sought: &Sought,
        finding: &Finding,
        candidates: Option<&[ListedOrder]>,
        note: &str,
    ) -> Result<(), OutboxError> {
        let (clean, outcome, after) = match finding {
            Finding::Found(_) => return Ok(()),
            Finding::None => (Some(true), Some("none"), Duration::ZERO),
            Finding::Several => (Some(false), Some("several"), Duration::ZERO),
            Finding::Again { clean, after } => (*clean, None, *after),
        };
        let candidates =
            candidates.map(|orders| Json(orders.iter().map(Candidate::from).collect::<Vec<_>>()));
        self.call("noting a scan of the reports", async |connection| {
            sqlx::query(include_str!("note_scan.sql"))
                .bind(sought.job)
                .bind(sought.token)
                .bind(clean)
                .bind(outcome)
                .bind(millis(after))
                .bind(candidates)
                .bind(note)
                .persistent(self.persistent())
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }

    /// How the search for a job's order stands; `None` where there is none.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn search(&self, job: Uuid) -> Result<Option<Search>, OutboxError> {
        self.call("reading the search for an order", async |connection| {
            sqlx::query_as(include_str!("search_of.sql"))
                .bind(job)
                .persistent(false)
                .fetch_optional(connection)
                .await
        })
        .await
    }
}

impl Search {
    /// The candidates' ids, where a person has to choose.
    #[must_use]
    pub fn orders(&self) -> Vec<OrderId> {
        self.candidates
            .iter()
            .filter_map(|candidate| OrderId::parse(&candidate.order_id))
            .collect()
    }
}

fn numbers(texts: &[Option<String>], foreign: ForeignNumbers) -> BTreeSet<Recipient> {
    let texts = texts.iter().map(|text| text.as_deref().unwrap_or(""));
    RecipientList::read(texts, foreign)
        .accepted
        .into_iter()
        .collect()
}

/// The database's own moments always fit.
fn moment(us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(us).unwrap_or_default()
}
