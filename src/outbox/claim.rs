//! Taking what is due, and marking it before anything leaves.

use std::time::Duration;

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

/// From where a claim reads on, for priorities 0 to 3; `None`: from the beginning.
///
/// What lies below is skipped, not forgotten: a job that is committed late, or is released, can be there. So now and then a
/// claim has to be a full sweep.
pub type Cursors = [Option<Cursor>; 4];

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
    /// From when on it could be claimed.
    pub due_at: DateTime<Utc>,
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
    due_at: DateTime<Utc>,
    provider_send_at_s: Option<i64>,
    claimed_at: DateTime<Utc>,
    indeterminate_age_ms: Option<i64>,
    expires_in_ms: Option<i64>,
    wait_us: i32,
}

impl Row {
    fn into_claim(self, tolerance: Option<Duration>, asked: Moment, received: Moment) -> Claim {
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
            due_at: self.due_at,
            indeterminate_age: self.indeterminate_age_ms.map(from_millis),
            expires_in: self.expires_in_ms.map(from_millis),
            wait_us: self.wait_us,
            tolerance,
            asked,
            received,
        }
    }
}

/// Takes single messages.
pub const CLAIM_SINGLES: &str = concat!(
    include_str!("claim/paused.sql"),
    include_str!("claim/singles.sql"),
    include_str!("claim/mark.sql")
);

/// Takes the next bulk order.
pub const CLAIM_BULK: &str = concat!(
    include_str!("claim/paused.sql"),
    include_str!("claim/bulk.sql"),
    include_str!("claim/mark.sql")
);

type Claiming = QueryAs<'static, Postgres, Row, PgArguments>;

impl Outbox {
    /// Claims up to `at_most` due single messages of `account`, the most urgent first, as far as slots allow, from `cursors` on.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses, or is not the pinned one. If the answer was lost, the claims may
    /// stand nevertheless: they are recovered when their leases end.
    pub async fn claim(
        &self,
        account: &str,
        at_most: usize,
        lease: Duration,
        worker: &str,
        slots: Slots,
        cursors: &Cursors,
    ) -> Result<Vec<Claim>, OutboxError> {
        let due_at = cursors.map(|cursor| cursor.map(|cursor| cursor.due_at));
        let id = cursors.map(|cursor| cursor.map_or(Uuid::nil(), |cursor| cursor.id));
        let tolerance = (slots.per_second > 0).then_some(slots.tolerance);
        let mut claims = self
            .mark(
                CLAIM_SINGLES,
                account,
                lease,
                worker,
                tolerance,
                |claiming| {
                    claiming
                        .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                        .bind(slots.limit())
                        .bind(slots.window())
                        .bind(slots.horizon())
                        .bind(due_at)
                        .bind(id)
                },
            )
            .await?;
        // They come in the order of their rows in the table.
        if tolerance.is_some() {
            claims.sort_by_key(|claim| (!claim.urgent(), claim.wait_us));
        } else {
            // Urgent jobs, indeterminate jobs, and then by priority, as they were chosen.
            claims.sort_by_key(|claim| {
                let out_of_turn = claim.place().is_none();
                (
                    !claim.urgent(),
                    !out_of_turn,
                    claim.priority,
                    claim.due_at,
                    claim.id,
                )
            });
        }
        Ok(claims)
    }

    /// Claims the next bulk order of `account`, unless one is under way anywhere.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub async fn claim_bulk(
        &self,
        account: &str,
        lease: Duration,
        worker: &str,
    ) -> Result<Option<Claim>, OutboxError> {
        match self
            .mark(CLAIM_BULK, account, lease, worker, None, |claiming| {
                claiming
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
        account: &str,
        lease: Duration,
        worker: &str,
        tolerance: Option<Duration>,
        bind: impl FnOnce(Claiming) -> Claiming + Clone,
    ) -> Result<Vec<Claim>, OutboxError> {
        let asked = Moment::now();
        let rows = self
            .call_where_pinned("claiming jobs", async |connection| {
                let claiming = sqlx::query_as(failpoints::sql(statement))
                    .bind(account.to_owned())
                    .bind(millis(lease))
                    .bind(worker.to_owned());
                let claiming = bind(claiming).persistent(self.persistent());
                failpoints::midway(Point::DuringClaim, claiming.fetch_all(connection)).await
            })
            .await?;
        let received = Moment::now();
        let claim = |row: Row| row.into_claim(tolerance, asked, received);
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
