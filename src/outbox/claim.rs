//! Taking what is due, and marking it before anything leaves.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{Postgres, postgres::PgArguments, query::QueryAs};
use uuid::Uuid;

use super::{Outbox, OutboxError, from_millis, millis};
use crate::{
    clock::Moment,
    failpoints::{self, Point},
};

/// The fleet's limit on recipients per second, as one claim applies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Recipients in any window of one second, over all workers of the account; 0: no limit.
    pub per_second: u32,
    /// How late after the start of its 10 ms a message may leave before its slot is forfeited. Windows are made longer by as
    /// much, so that lateness never makes two slots meet in one second.
    pub tolerance: Duration,
    /// How far ahead slots are reserved. Short, so that an urgent message never waits behind many that are merely early.
    pub horizon: Duration,
}

impl Slots {
    /// One second and the tolerance, in the 10 ms that the ring counts.
    fn window(self) -> i32 {
        100 + i32::try_from(self.tolerance.as_millis().div_ceil(10)).unwrap_or(100)
    }

    fn horizon(self) -> i32 {
        i32::try_from(self.horizon.as_millis() / 10).unwrap_or(i32::MAX)
    }

    fn limit(self) -> i32 {
        i32::try_from(self.per_second).unwrap_or(i32::MAX)
    }
}

/// A job's place in the order in which jobs of one priority are claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// When it was due.
    pub due_at: DateTime<Utc>,
    /// Tells those apart that are due at one moment.
    pub id: Uuid,
}

/// Whose jobs a claim looks at, and from where on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Of this priority, 0 to 3.
    pub priority: i16,
    /// Inserted by this database role.
    pub producer: Arc<str>,
    /// From here on; `None`: from the beginning. What lies below is skipped, not forgotten: a job that is committed late, or is
    /// released, can be there. So now and then a claim has to be a full sweep.
    pub cursor: Option<Cursor>,
    /// Not more than this many.
    pub at_most: usize,
    /// Whether it goes before what may have been accepted, and gets its slot as urgent messages do.
    pub first: bool,
}

/// For whom, under which limit, and for how long a claim is made.
#[derive(Clone, Copy, Debug)]
pub struct ClaimOrder<'a> {
    /// The account.
    pub account: &'a str,
    /// Who claims.
    pub worker: &'a str,
    /// How long the claim holds.
    pub lease: Duration,
    /// The limit.
    pub slots: Slots,
    /// Whether a new message may be claimed although the provider is unavailable: to find out whether it still is.
    pub trial: bool,
}

/// A job that this worker holds until its lease ends. The database says `sending`: from here on it may have been sent.
#[derive(Clone)]
pub struct Claim {
    /// The job.
    pub id: Uuid,
    /// Proves which claim this is.
    pub token: i32,
    /// Header, as the producer wrote it.
    pub sender: String,
    /// Numbers, as the producer wrote them.
    pub recipients: Vec<Option<String>>,
    /// The text.
    pub body: String,
    /// Whether it markets something.
    pub iys: bool,
    /// Which consent list.
    pub iys_list: Option<String>,
    /// When the provider is to send it, where that was asked for. `Err`: a moment too far away to be written down.
    pub provider_send_at: Option<Result<DateTime<Utc>, ()>>,
    /// When it was claimed, by the database's clock.
    pub claimed_at: DateTime<Utc>,
    /// The number of this attempt, from 1.
    pub attempt: i16,
    /// How many attempts are allowed.
    pub max_attempts: i16,
    /// W3C trace context of the producer.
    pub traceparent: Option<String>,
    /// Whether it is a bulk order.
    pub bulk: bool,
    /// 0 to 3; smaller goes first.
    pub priority: i16,
    /// Which database role inserted it.
    pub producer: Arc<str>,
    /// From when on it could be claimed.
    pub due_at: DateTime<Utc>,
    /// How long ago it was due first, at the time of the claim.
    pub due_for: Duration,
    /// How long it had been indeterminate at the time of the claim.
    pub indeterminate_age: Option<Duration>,
    /// Time to `expires_at` at the time of the claim.
    pub expires_in: Option<Duration>,
    /// Microseconds from the claim to the start of the reserved 10 ms; negative if they had begun.
    pub wait_us: i32,
    /// Under which tolerance they were reserved; `None` for what needs no slot.
    pub tolerance: Option<Duration>,
    /// Just before the claim was asked for: the latest moment that is surely not after it.
    pub asked: Moment,
    /// When the claim was known here: the earliest moment that is surely not before it.
    pub received: Moment,
}

impl Claim {
    /// Whether it goes before everything else.
    #[must_use]
    pub const fn urgent(&self) -> bool {
        self.priority == 0
    }

    /// Where the next claim can read on. `None` for an indeterminate job, which may have been claimed before others.
    #[must_use]
    pub fn place(&self) -> Option<Cursor> {
        let in_turn = self.urgent() || self.indeterminate_age.is_none();
        in_turn.then_some(Cursor {
            due_at: self.due_at,
            id: self.id,
        })
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither numbers nor text.
        f.debug_struct("Claim")
            .field("id", &self.id)
            .field("token", &self.token)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    token: i32,
    sender: String,
    recipients: Vec<Option<String>>,
    body: String,
    iys: bool,
    iys_list: Option<String>,
    attempt: i16,
    max_attempts: i16,
    traceparent: Option<String>,
    bulk: bool,
    priority: i16,
    producer: String,
    due_at: DateTime<Utc>,
    due_for_ms: i64,
    provider_send_at_s: Option<i64>,
    claimed_at: DateTime<Utc>,
    indeterminate_age_ms: Option<i64>,
    expires_in_ms: Option<i64>,
    wait_us: Option<i32>,
}

impl Row {
    fn into_claim(self, tolerance: Duration, asked: Moment, received: Moment) -> Claim {
        Claim {
            id: self.id,
            token: self.token,
            sender: self.sender,
            recipients: self.recipients,
            body: self.body,
            iys: self.iys,
            iys_list: self.iys_list,
            provider_send_at: self
                .provider_send_at_s
                .map(|s| DateTime::from_timestamp(s, 0).ok_or(())),
            claimed_at: self.claimed_at,
            attempt: self.attempt,
            max_attempts: self.max_attempts,
            traceparent: self.traceparent,
            bulk: self.bulk,
            priority: self.priority,
            producer: self.producer.into(),
            due_at: self.due_at,
            due_for: from_millis(self.due_for_ms),
            indeterminate_age: self.indeterminate_age_ms.map(from_millis),
            expires_in: self.expires_in_ms.map(from_millis),
            wait_us: self.wait_us.unwrap_or(0),
            tolerance: self.wait_us.map(|_| tolerance),
            asked,
            received,
        }
    }
}

/// Takes single messages.
pub const CLAIM_SINGLES: &str = concat!(
    include_str!("claim/account.sql"),
    include_str!("claim/singles.sql"),
    include_str!("claim/mark.sql")
);

/// Takes the next bulk order.
pub const CLAIM_BULK: &str = concat!(
    include_str!("claim/account.sql"),
    include_str!("claim/bulk.sql"),
    include_str!("claim/mark.sql")
);

type Claiming = QueryAs<'static, Postgres, Row, PgArguments>;

impl Outbox {
    /// Claims up to `at_most` due single messages in the order of `turns`, as far as slots allow; messages that may have been
    /// accepted go before every turn that is not `first`.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses, or is not the pinned one. If the answer was lost, the claims may
    /// stand nevertheless: they are recovered when their leases end.
    pub async fn claim(
        &self,
        order: ClaimOrder<'_>,
        at_most: usize,
        turns: &[Turn],
    ) -> Result<Vec<Claim>, OutboxError> {
        let priority: Vec<i16> = turns.iter().map(|turn| turn.priority).collect();
        let producer: Vec<String> = turns.iter().map(|turn| turn.producer.to_string()).collect();
        let due_at: Vec<Option<DateTime<Utc>>> = turns
            .iter()
            .map(|turn| turn.cursor.map(|at| at.due_at))
            .collect();
        let id: Vec<Uuid> = turns
            .iter()
            .map(|turn| turn.cursor.map_or(Uuid::nil(), |at| at.id))
            .collect();
        let quota: Vec<i32> = turns.iter().map(|turn| count(turn.at_most)).collect();
        let first: Vec<bool> = turns.iter().map(|turn| turn.first).collect();
        let mut claims = self
            .mark(CLAIM_SINGLES, order, |claiming| {
                claiming
                    .bind(i64::from(count(at_most)))
                    .bind(priority)
                    .bind(producer)
                    .bind(due_at)
                    .bind(id)
                    .bind(quota)
                    .bind(first)
            })
            .await?;
        // They come in the order of their rows in the table.
        claims.sort_by_key(|claim| {
            let out_of_turn = claim.place().is_none();
            (
                !claim.urgent(),
                claim.tolerance.map(|_| claim.wait_us),
                // Without slots: urgent jobs, indeterminate jobs, and then by priority, as they were chosen.
                !out_of_turn,
                claim.priority,
                claim.due_at,
                claim.id,
            )
        });
        Ok(claims)
    }

    /// Claims the next bulk order of the account, unless one is under way anywhere. `oldest`: the one that was due first, whatever
    /// its priority.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub async fn claim_bulk(
        &self,
        order: ClaimOrder<'_>,
        producers: &[String],
        oldest: bool,
    ) -> Result<Option<Claim>, OutboxError> {
        let producers = producers.to_vec();
        match self
            .mark(CLAIM_BULK, order, |claiming| {
                claiming.bind(producers).bind(oldest)
            })
            .await
        {
            // Another worker claimed a bulk order of the account a moment earlier: an answer, not an error.
            Err(OutboxError::Refused {
                source: sqlx::Error::Database(error),
                ..
            }) if error.is_unique_violation() => Ok(None),
            claimed => Ok(claimed?.pop()),
        }
    }

    /// Every claim there is. Whether this is the pinned database is checked here, so that no claim can leave it out.
    async fn mark(
        &self,
        statement: &'static str,
        order: ClaimOrder<'_>,
        bind: impl FnOnce(Claiming) -> Claiming + Clone,
    ) -> Result<Vec<Claim>, OutboxError> {
        let asked = Moment::now();
        let rows = self
            .call_where_pinned("claiming jobs", async |connection| {
                let claiming = sqlx::query_as(failpoints::sql(statement))
                    .bind(order.account.to_owned())
                    .bind(millis(order.lease))
                    .bind(order.worker.to_owned())
                    .bind(order.slots.limit())
                    .bind(order.slots.window())
                    .bind(order.slots.horizon())
                    .bind(order.trial);
                let claiming = bind(claiming).persistent(self.persistent());
                failpoints::midway(Point::DuringClaim, claiming.fetch_all(connection)).await
            })
            .await?;
        let received = Moment::now();
        let claim = |row: Row| row.into_claim(order.slots.tolerance, asked, received);
        Ok(rows.into_iter().map(claim).collect())
    }

    /// Reserves a new slot for a message whose slot passed unused. `None`: none is free within the horizon.
    /// Returns the microseconds to its start.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn reserve_slot(
        &self,
        account: &str,
        slots: Slots,
        recipients: usize,
        urgent: bool,
    ) -> Result<Option<i32>, OutboxError> {
        self.call("reserving a slot", async |connection| {
            sqlx::query_scalar(include_str!("reserve_slot.sql"))
                .bind(account)
                .bind(slots.limit())
                .bind(slots.window())
                .bind(slots.horizon())
                .bind(i32::try_from(recipients).unwrap_or(i32::MAX))
                .bind(urgent)
                .persistent(self.persistent())
                .fetch_optional(connection)
                .await
        })
        .await
    }
}

fn count(jobs: usize) -> i32 {
    i32::try_from(jobs).unwrap_or(i32::MAX)
}
