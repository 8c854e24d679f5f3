//! What workers and people ask of Postgres: every statement, one per `.sql` file, named after the function that runs it.
//!
//! Each function is one short statement under a deadline, so that no transaction ever stays open across a request and no
//! call can wait for ever on a server that has gone silent. `claim` and `record` are what workers live on; `inspect` and
//! `operate` answer and obey people. What producers use is in `producer`.

mod accounts;
mod address;
mod advice;
mod claim;
mod connect;
mod deliveries;
mod enqueue;
mod error;
mod examine;
mod follow;
mod grants;
mod identity;
mod inspect;
mod migrate;
mod operate;
mod pause;
mod pooler;
mod receive;
mod reconcile;
mod record;
mod rescue;
mod servers;
mod split;
mod warm;

use std::{ops::ControlFlow, time::Duration};

use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool, Postgres, pool::PoolConnection};

pub use accounts::{
    AccountHealth, FleetState, Heartbeat, ProducerQueue, RefusedJob, Unexplained, Waiting,
};
pub use advice::{ASK_DOCTOR, ASK_DOCTOR_FOR_GRANTS, advice, advice_on, confirmed_by};
pub use claim::{CLAIM_BULK, CLAIM_SINGLES, Claim, ClaimOrder, Cursor, Slots, Turn};
pub use connect::ConnectOptions;
use connect::{NOT_COMPILED, STEADY_PLANS};
pub use deliveries::{Learnt, SentJob};
pub use error::{OutboxError, chain};
use error::{Said, said};
pub use examine::{Pooling, QueueFacts, SenderInUse, ServerFacts};
pub use follow::{Check, DueCheck, DueChecks, LostJob, UnmatchedEvent};
pub use grants::{Extended, Grant, GrantError, Hindrances, Lack, Right, RoleKind};
pub use identity::{Change, DatabaseIdentity, OpenJobs, Promotions, Watcher};
pub use inspect::{AttemptRow, Depth, Filter, JobRow, NumbersByDelivery, QueueStat, Stand};
pub use migrate::{MigrationError, SchemaState, UNRELEASED};
pub use operate::{Cancelled, Resolution, Resolved, Scheduled, Word};
pub use pause::{DueProbe, PauseOrder, PauseRow, PausedByHand, Probing};
pub use pooler::PgBouncer;
pub use receive::UnmatchedEvents;
pub use reconcile::{Candidate, Reconciliation};
pub use record::{ContentKey, Evidence, Observer, Record, Recorded};
pub use rescue::{Abandoned, DueMaintenance};
pub use split::PartRow;

use crate::producer::guard::SILENT_AFTER;

/// A handle on the outbox in one database; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    ways: pooler::Ways,
    watch: identity::Watch,
    /// The longest that getting a connection may take, and the longest that one call on it may take.
    deadline: Duration,
    /// When the server gives up on a statement, where it is told so with each call.
    statement_timeout_ms: u128,
    /// Whether a worker uses it: the planner is kept to its plans, and connections are kept warm.
    for_worker: bool,
    warm: warm::Warm,
}

impl Outbox {
    /// An outbox over an existing pool, for producers and tests. The pool's connections must be sessions of their own; workers,
    /// and whoever may have a pooler in between, use [`ConnectOptions`].
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            ways: pooler::Ways::given(pool),
            watch: identity::Watch::default(),
            deadline: Duration::from_secs(10),
            statement_timeout_ms: 9_500,
            for_worker: false,
            warm: warm::Warm::default(),
        }
    }

    /// The same outbox, for callers who will not wait so long.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self {
            deadline: deadline.min(self.deadline),
            ..self.clone()
        }
    }

    /// The pool underneath: for sessions of our own, until a pooler was met.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        self.ways.pool()
    }

    /// Whether a connection is one server process for as long as it lasts, and may keep prepared statements there. Behind
    /// PgBouncer in transaction mode it is not.
    fn persistent(&self) -> bool {
        !self.ways.is_shared()
    }

    /// Runs one call on a connection of its own, under the deadline. A connection whose answer did not come is closed:
    /// no other call may read that answer. What was surely not done, and not for a fault of the call, is tried again at once.
    async fn call<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error> + Clone,
    ) -> Result<T, OutboxError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_call(doing, tries, work.clone()).await {
                ControlFlow::Break(result) => return result,
                ControlFlow::Continue(()) => {}
            }
        }
    }

    /// One try of a [call](Self::call); to be continued by another one.
    async fn try_call<T>(
        &self,
        doing: &'static str,
        tries: u32,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> ControlFlow<Result<T, OutboxError>> {
        let given_up = |error| ControlFlow::Break(Err(error));
        let too_late = || OutboxError::Deadline {
            doing,
            deadline: self.deadline,
        };
        let (connection, shared) = match self.warm.take() {
            Some(connection) => (connection, false),
            None => match tokio::time::timeout(self.deadline, self.ways.acquire()).await {
                Ok(Ok(acquired)) => acquired,
                // The pool's own limit is the same, and either may be reached first.
                Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => {
                    self.ways.suspect();
                    return given_up(too_late());
                }
                Ok(Err(source)) => {
                    self.ways.suspect();
                    return given_up(OutboxError::from_sqlx(doing, source));
                }
            },
        };
        let mut connection = Unanswered(Some(connection));
        let done = async {
            if !shared {
                return work(connection.get()).await;
            }
            // The driver prepares and executes in two steps, and between two steps a pooler may give the server process to
            // another client, which prepares something else. A transaction keeps it. The limits that a session of our own has
            // from its beginning come with it, in the same message.
            let ms = self.statement_timeout_ms;
            let lock_ms = connect::lock_timeout_ms(self.for_worker, ms);
            let mut begin = format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {ms}; SET LOCAL lock_timeout = {lock_ms}; \
                 SET LOCAL idle_in_transaction_session_timeout = 60000; SET LOCAL log_parameter_max_length_on_error = 0"
            );
            if self.for_worker {
                for (setting, value) in STEADY_PLANS.into_iter().chain([NOT_COMPILED]) {
                    begin.push_str(&format!("; SET LOCAL {setting} = {value}"));
                }
            }
            connection.get().execute(AssertSqlSafe(begin)).await?;
            match work(connection.get()).await {
                Ok(result) => {
                    connection.get().execute("COMMIT").await?;
                    Ok(result)
                }
                Err(error) => {
                    // If that fails as well, the first error says more, and the next user's guard finds the transaction.
                    connection.get().execute("ROLLBACK").await.ok();
                    Err(error)
                }
            }
        };
        let answered = tokio::select! {
            answered = tokio::time::timeout(self.deadline, done) => answered.ok(),
            () = self.ways.moved() => None,
        };
        let Some(result) = answered else {
            self.ways.suspect();
            return given_up(too_late());
        };
        let source = match result {
            Ok(result) => {
                let connection = connection.answered();
                if self.for_worker && !shared {
                    self.warm.keep(connection);
                } else {
                    give_back(connection);
                }
                return ControlFlow::Break(Ok(result));
            }
            Err(source) => source,
        };
        let said = said(&source);
        match said {
            Said::InTheWay | Said::TheCall => give_back(connection.answered()),
            Said::StalePlan => drop(connection),
            Said::WrongSession | Said::BrokenSession => {
                drop(connection);
                self.ways.suspect();
            }
        }
        let most = match said {
            Said::InTheWay => 5,
            // Each connection in the pool may have prepared it.
            Said::StalePlan => self.ways.pool().options().get_max_connections() + 1,
            Said::WrongSession => 2,
            Said::BrokenSession | Said::TheCall => 1,
        };
        if tries < most {
            ControlFlow::Continue(())
        } else {
            given_up(OutboxError::from_sqlx(doing, source))
        }
    }
}

/// A connection that waits for an answer. Thrown away when the wait is given up, also by whoever drops the whole call: back in
/// the pool it would hold, behind a pooler, a server process that others wait for.
struct Unanswered(Option<PoolConnection<Postgres>>);

impl Unanswered {
    fn get(&mut self) -> &mut PgConnection {
        // Taken only by value, and when dropped.
        self.0
            .as_mut()
            .expect("the connection is there until it is released")
    }

    fn answered(mut self) -> PoolConnection<Postgres> {
        self.0
            .take()
            .expect("the connection is there until it is released")
    }
}

/// Back into the pool. The driver asks the server once more before it takes a connection back, and waits for that answer for
/// as long as the kernel does: a quarter of an hour, if the path has died. Meanwhile nothing could use its slot in the pool.
fn give_back(mut connection: PoolConnection<Postgres>) {
    let released = connection.return_to_pool();
    tokio::spawn(tokio::time::timeout(SILENT_AFTER, released));
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Milliseconds for a statement's parameter.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A duration from a statement's milliseconds; what lies in the past is zero.
fn from_millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
