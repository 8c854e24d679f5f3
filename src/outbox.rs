//! What workers and people ask of Postgres: every statement, one per `.sql` file, named after the function that runs it.
//!
//! Each function is one short statement under a deadline, so that no transaction ever stays open across a request and no
//! call can wait for ever on a server that has gone silent. `claim` and `record` are what workers live on; `inspect` and
//! `operate` answer and obey people. What producers use is in `producer`.

mod claim;
mod connect;
mod enqueue;
mod examine;
mod inspect;
mod installation;
mod migrate;
mod operate;
mod pause;
mod pooler;
mod reconcile;
mod record;
mod rescue;
mod warm;

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool, Postgres, pool::PoolConnection};

pub use claim::{CLAIM_BULK, CLAIM_SINGLES, Claim, Floor, Floors, Slots};
pub use connect::ConnectOptions;
use connect::STEADY_PLANS;
pub use examine::{Missing, Pooling, QueueFacts, SenderInUse, ServerFacts};
pub use inspect::{AttemptRow, Depth, Filter, JobRow, QueueStat};
pub use installation::{Change, Installation, OpenJobs, Promotions};
pub use migrate::{MigrationError, SchemaState};
pub use operate::{Cancelled, Resolution, Resolved};
pub use pause::{DueProbe, PauseOrder, PauseRow, PausedByHand, Probing};
pub use pooler::PgBouncer;
pub use reconcile::{Candidate, Search};
pub use record::{Content, Evidence, Observer, Record, Recorded};
pub use rescue::{Abandoned, DueUpkeep};

use crate::producer::guard::SILENT_AFTER;

/// A handle on the outbox in one database; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    ways: pooler::Ways,
    watch: installation::Watch,
    /// The longest that getting a connection may take, and the longest that one call on it may take.
    deadline: Duration,
    /// When the server gives up on a statement, where it is told so with each call.
    statement_timeout_ms: u128,
    /// Whether a worker uses it: the planner is kept to its plans, and connections are kept warm.
    for_worker: bool,
    warm: warm::Warm,
}

/// Why a call to the database failed.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// No answer in time: an overloaded, frozen or unreachable server.
    #[error("the database did not answer within {deadline:?} while {doing}")]
    Deadline {
        /// What was being done.
        doing: &'static str,
        /// How long it was given.
        deadline: Duration,
    },
    /// The connection could not be made, or broke.
    #[error("the database could not be reached while {doing}")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// The database answered with an error.
    #[error("the database refused while {doing}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: sqlx::Error,
    },
    /// The queue was noted in another database than this: see `installation`.
    #[error(
        "nothing is sent from this database until `sms-outbox resume --after-restore` confirms it, because {0}"
    )]
    Unconfirmed(Change),
    /// Nothing can be written here, and which database it will be is not settled before its promotion.
    #[error("the server is a standby")]
    Standby,
    /// A value in a row is none of those that this version knows.
    #[error("{table}.{column} of {id} cannot be understood: {problem}")]
    Unreadable {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl OutboxError {
    /// Whether the same call may well succeed a little later, without anyone doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Deadline { .. } | Self::Unreachable { .. } | Self::Standby
        )
    }

    /// Whether the data that was written is at fault, so that the same call can never succeed. Everything else (a full disk,
    /// a missing privilege, a server that restarts) may be put right while the caller waits.
    #[must_use]
    pub fn blames_the_row(&self) -> bool {
        match self {
            Self::Deadline { .. }
            | Self::Unreachable { .. }
            | Self::Unconfirmed(_)
            | Self::Standby => false,
            Self::Unreadable { .. } => true,
            Self::Refused { source, .. } => match source {
                // Data exceptions, broken constraints, and what somebody's trigger raises about a row.
                sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                    ["22", "23", "P0"]
                        .iter()
                        .any(|class| code.starts_with(class))
                }),
                sqlx::Error::Encode(_)
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnDecode { .. } => true,
                _ => false,
            },
        }
    }

    fn from_sqlx(doing: &'static str, source: sqlx::Error) -> Self {
        let lost = match &source {
            sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                // Connection trouble, shutdown and start-up, too many connections, serialisation and deadlock, lock and
                // statement timeouts, and a server that has just become a read-only standby.
                code.starts_with("08")
                    || code.starts_with("57P")
                    || matches!(
                        code.as_ref(),
                        "53300" | "40001" | "40P01" | "55P03" | "57014" | "25006"
                    )
            }),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            _ => false,
        };
        if lost {
            Self::Unreachable { doing, source }
        } else {
            Self::Refused { doing, source }
        }
    }
}

impl Outbox {
    /// An outbox over an existing pool, for producers and tests. The pool's connections must be sessions of their own; workers,
    /// and whoever may have a pooler in between, use [`ConnectOptions`].
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            ways: pooler::Ways::given(pool),
            watch: installation::Watch::default(),
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

    /// Runs one call on a connection of its own, under the deadline. A connection whose answer did not come is thrown away:
    /// nobody else may meet that answer.
    async fn call<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, OutboxError> {
        let too_late = || OutboxError::Deadline {
            doing,
            deadline: self.deadline,
        };
        let (connection, shared) = match self.warm.take() {
            Some(connection) => (connection, false),
            None => match tokio::time::timeout(self.deadline, self.ways.acquire()).await {
                Ok(Ok(acquired)) => acquired,
                // The pool's own limit is the same, and either may be reached first.
                Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => return Err(too_late()),
                Ok(Err(source)) => return Err(OutboxError::from_sqlx(doing, source)),
            },
        };
        let mut connection = Unanswered(Some(connection));
        let done = async {
            if !shared {
                return work(connection.get()).await;
            }
            // The driver prepares and executes in two steps, and between two steps a pooler may hand the server process to
            // somebody else, who prepares something else. A transaction keeps it. The limits that a session of our own has
            // from its beginning come with it, in the same message.
            let ms = self.statement_timeout_ms;
            let mut begin = format!(
                "BEGIN; SET LOCAL statement_timeout = {ms}; SET LOCAL lock_timeout = {ms}; \
                 SET LOCAL idle_in_transaction_session_timeout = 60000"
            );
            if self.for_worker {
                for (setting, value) in STEADY_PLANS {
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
        let result = tokio::time::timeout(self.deadline, done)
            .await
            .map_err(|_| too_late())?;
        let connection = connection.answered();
        if self.for_worker && !shared && result.is_ok() {
            self.warm.keep(connection);
        } else {
            give_back(connection);
        }
        result.map_err(|source| OutboxError::from_sqlx(doing, source))
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
            .expect("the connection is there until it is given back")
    }

    fn answered(mut self) -> PoolConnection<Postgres> {
        self.0
            .take()
            .expect("the connection is there until it is given back")
    }
}

/// Back into the pool. The driver asks the server once more before it takes a connection back, and waits for that answer for
/// as long as the kernel does: a quarter of an hour, if the path has died. Meanwhile its place would be nobody's.
fn give_back(mut connection: PoolConnection<Postgres>) {
    let given_back = connection.return_to_pool();
    tokio::spawn(tokio::time::timeout(SILENT_AFTER, given_back));
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
