//! Opening a pool that cannot lose writes and cannot wait for ever.

use std::{sync::atomic::Ordering, time::Duration};

use sqlx::{
    ConnectOptions as _, Executor, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{
    Outbox, OutboxError, address,
    identity::{Watch, Watcher},
    pooler::{MARK, PgBouncer, Ways, ask_for_the_mark, mark},
    servers::{Servers, writable},
    warm::Warm,
};
use crate::producer::guard_against_lost_writes;

/// What keeps the planner to one plan, and to indexes. It cannot know how few rows a claim will find among how many, and what it
/// guesses instead depends on when the table was analysed last.
pub(super) const STEADY_PLANS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_sort", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// What is expensive in the planner's eyes would be compiled first, for a second, whatever it costs in truth; and what is switched off
/// counts as very expensive.
pub(super) const NOT_COMPILED: (&str, &str) = ("jit", "off");

/// For a connection that asks for nothing: startup parameters would be refused, the one that the driver sends by itself included.
/// (Since PostgreSQL 12 floats come back exactly without it.) Unnamed statements are chosen query by query.
pub(super) fn shared(server: &PgConnectOptions) -> PgConnectOptions {
    server.clone().extra_float_digits(None)
}

/// A server that logs slow or failing statements logs what was bound to them as well: numbers and texts. Those of this session it
/// leaves out, as far as the role may say so. Not at the start of the session, where what is refused would end it.
async fn keep_parameters_out_of_logs(connection: &mut PgConnection) {
    let settings = "SET log_parameter_max_length_on_error = 0;
        DO $$ begin
            perform set_config('log_parameter_max_length', '0', false);
        exception when insufficient_privilege then
            null;
        end $$";
    // A connection that is broken fails, and is told, where it is used.
    connection.execute(settings).await.ok();
}

/// How to reach the database.
#[derive(Clone)]
pub struct ConnectOptions {
    /// `postgres://…`
    pub url: String,
    /// Connections at most.
    pub connections: u32,
    /// The longest one call may take.
    pub deadline: Duration,
    /// What `pg_stat_activity.application_name` shows.
    pub application_name: String,
    /// Whether a PgBouncer stands in between; if so, no session settings and no named statements are used.
    pub pgbouncer: PgBouncer,
    /// For workers: each connection is asked, before it is used, whether it leads to the pinned database and whether its queue is
    /// for this provider. `None`: nobody claims.
    pub watcher: Option<Watcher>,
    /// Whether it is for a worker, whose statements are few, always want the same plan, and follow each other closely. Plans are
    /// made once, and always by index: the planner would weigh each statement anew, which took longer than claiming 50 jobs,
    /// and change its mind with the statistics. And a connection that was used a moment ago is used again as it is.
    pub for_worker: bool,
}

/// How long a statement may wait for a row that somebody else holds.
pub(super) fn lock_timeout_ms(for_worker: bool, statement_timeout_ms: u128) -> u128 {
    const WORKERS_MS: u128 = 1_000;
    if for_worker {
        statement_timeout_ms.min(WORKERS_MS)
    } else {
        statement_timeout_ms
    }
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address may hold a password.
        f.debug_struct("ConnectOptions")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl ConnectOptions {
    /// Sensible settings for `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connections: 8,
            deadline: Duration::from_secs(10),
            application_name: "sms-outbox".to_owned(),
            pgbouncer: PgBouncer::Auto,
            watcher: None,
            for_worker: false,
        }
    }

    /// Whether the address can be read.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self) -> Result<(), OutboxError> {
        self.servers().map(drop)
    }

    /// The servers that the address names, one at least.
    fn servers(&self) -> Result<Vec<PgConnectOptions>, OutboxError> {
        address::servers(&self.url).map_err(|source| OutboxError::Refused {
            doing: "reading the database address",
            source,
        })
    }

    /// The one of them that accepts writes; where none says so, the first, whose errors say why.
    pub(super) async fn server(&self) -> Result<PgConnectOptions, OutboxError> {
        let mut servers = self.servers()?;
        let place = if servers.len() > 1 {
            let asked: Vec<PgConnectOptions> = servers.iter().map(shared).collect();
            writable(&asked).await.unwrap_or(0)
        } else {
            0
        };
        Ok(servers.swap_remove(place))
    }

    /// For a connection with a session of its own.
    pub(super) fn own(&self, server: &PgConnectOptions) -> PgConnectOptions {
        let statement_timeout = self.statement_timeout_ms().to_string();
        let options = server.clone().application_name(&self.application_name);
        let options = if self.for_worker {
            options.options(STEADY_PLANS)
        } else {
            options
        };
        options.options([
            ("statement_timeout", statement_timeout.as_str()),
            ("lock_timeout", self.lock_timeout_ms().to_string().as_str()),
            ("idle_in_transaction_session_timeout", "60000"),
            NOT_COMPILED,
            // Whatever the database's own defaults are: its statements are written for this isolation, in which they wait for one
            // another instead of failing; and its connections lie idle.
            ("default_transaction_isolation", "read committed"),
            ("idle_session_timeout", "0"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            (MARK, mark()),
        ])
    }

    /// A row that somebody holds for longer is stepped over by workers; people are told of it.
    fn lock_timeout_ms(&self) -> u128 {
        lock_timeout_ms(self.for_worker, self.statement_timeout_ms())
    }

    /// The server gives up a little before we do, so that a slow statement is cancelled there and not only forgotten here.
    fn statement_timeout_ms(&self) -> u128 {
        self.deadline
            .saturating_sub(Duration::from_millis(500))
            .as_millis()
    }

    /// A pool that connects when first used, so that a worker may start before its database does.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn connect_lazily(&self) -> Result<Outbox, OutboxError> {
        let pool = || {
            guard_against_lost_writes(PgPoolOptions::new())
                .max_connections(self.connections)
                .acquire_timeout(self.deadline)
                .idle_timeout(Duration::from_secs(600))
        };
        let servers = self.servers()?;
        let own: Vec<PgConnectOptions> = servers.iter().map(|server| self.own(server)).collect();
        let shared: Vec<PgConnectOptions> = servers.iter().map(shared).collect();
        let watch = Watch::new(self.watcher.clone());
        let (asks, watches) = (self.pgbouncer == PgBouncer::Auto, self.watcher.is_some());
        let ways = Ways::new(
            self.pgbouncer,
            |met| {
                let watch = watch.clone();
                pool()
                    .after_connect(move |connection, _| {
                        let (met, watch) = (met.clone(), watch.clone());
                        Box::pin(async move {
                            if asks {
                                ask_for_the_mark(connection, &met).await?;
                            }
                            if !met.load(Ordering::Acquire) {
                                keep_parameters_out_of_logs(connection).await;
                            }
                            if watches {
                                // What fails here fails again, and is told, where the connection is used.
                                watch.look(connection).await.ok();
                            }
                            Ok(())
                        })
                    })
                    .connect_lazy_with(own[0].clone())
            },
            pool().connect_lazy_with(shared[0].clone()),
            Servers::new(&own, &shared),
        );
        Ok(Outbox {
            ways,
            watch,
            deadline: self.deadline,
            statement_timeout_ms: self.statement_timeout_ms(),
            for_worker: self.for_worker,
            warm: Warm::default(),
        })
    }

    /// As [`connect_lazily`](Self::connect_lazily), and makes sure that the database answers.
    ///
    /// # Errors
    /// When the address cannot be read or the database does not answer.
    pub async fn connect(&self) -> Result<Outbox, OutboxError> {
        let outbox = self.connect_lazily()?;
        outbox
            .call("connecting", async |connection| {
                connection.execute("SELECT 1").await.map(drop)
            })
            .await?;
        Ok(outbox)
    }

    /// One connection outside any pool, for migrations: they hold a session lock and may take their time, whatever the database's own
    /// defaults are.
    pub(super) async fn connect_alone(&self) -> Result<PgConnection, OutboxError> {
        let doing = "connecting";
        let options = self
            .server()
            .await?
            .application_name(&self.application_name)
            .options([
                ("statement_timeout", "0"),
                ("idle_in_transaction_session_timeout", "0"),
                ("idle_session_timeout", "0"),
                ("default_transaction_isolation", "read committed"),
                (MARK, mark()),
            ]);
        match tokio::time::timeout(self.deadline, options.connect()).await {
            Ok(connected) => connected.map_err(|source| OutboxError::from_sqlx(doing, source)),
            Err(_) => Err(OutboxError::Deadline {
                doing,
                deadline: self.deadline,
            }),
        }
    }
}
