//! What a measurement needs around it: a server with fresh databases, the sandbox, workers. Gone when the stage is struck.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::{Client, Url};
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection, Executor, PgConnection, PgPool, Row};

use super::processes::{Herd, Process};
use super::{BenchError, Plan, bare_loop, usage};
use crate::embedded::{self, PrivatePostgres, Sources};
use crate::guard_against_lost_writes;
use crate::outbox::ConnectOptions;
use crate::sandbox::{SandboxConfig, show_duration};

/// What the databases' names begin with, on a server that somebody else owns too.
const PREFIX: &str = "sms_outbox_bench_";

/// Of a receiver that lives for a measurement.
pub const RECEIVER_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings of the server that decide what a figure means.
const TELLING: &[&str] = &[
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "max_connections",
];

/// The parts of a measurement.
pub struct Stage {
    herd: Herd,
    private: Option<PrivatePostgres>,
    server: Url,
    /// The one connection that makes databases and drops them. Not used while anything is measured.
    admin: tokio::sync::Mutex<PgConnection>,
    postmaster: Option<u32>,
    client: Client,
    made: Mutex<Vec<String>>,
}

/// The server that was measured.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Server {
    /// `15.18`
    pub version: String,
    /// Whether it was started for this and is gone now.
    pub private: bool,
    /// Settings that decide what a figure means.
    pub settings: std::collections::BTreeMap<String, String>,
}

/// A database that nobody else uses.
pub struct Database {
    name: String,
    url: String,
    pool: PgPool,
}

/// A place in the write-ahead log.
pub struct Wal {
    /// Bytes since the server was made.
    pub bytes: i64,
    /// When, by the database's clock.
    pub at: chrono::DateTime<chrono::Utc>,
}

impl Database {
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the server's write-ahead log stands.
    pub async fn wal(&self) -> Result<Wal, BenchError> {
        let row = sqlx::query(include_str!("wal.sql"))
            .fetch_one(&self.pool)
            .await?;
        Ok(Wal {
            bytes: row.try_get(0)?,
            at: row.try_get(1)?,
        })
    }

    /// Connections of somebody who writes or waits, apart from those that measure.
    pub async fn connections(&self, count: usize) -> Result<PgPool, BenchError> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let pool = guard_against_lost_writes(PgPoolOptions::new())
            .min_connections(count)
            .max_connections(count)
            .connect_with(quiet(&self.url)?)
            .await?;
        // All of them, before anything is measured.
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(pool.acquire().await?);
        }
        Ok(pool)
    }
}

impl Stage {
    /// Starts the server, or connects to the one that was named.
    pub async fn set(plan: &Plan) -> Result<Self, BenchError> {
        let herd = Herd::new(plan.program.clone(), plan.forget.clone()).map_err(|source| {
            BenchError::Start {
                what: "watchdog",
                source,
            }
        })?;
        let (private, server) = match &plan.server {
            Some(url) => (None, url.clone()),
            None => {
                let mut options = embedded::Options::new(Sources::from_env());
                options.connections = 200;
                let postgres = embedded::start(&options).await?;
                let url = postgres.admin_url();
                (Some(postgres), url)
            }
        };
        // The address may hold a password: it is not repeated.
        let address = Url::parse(&server).map_err(|_| BenchError::Address)?;
        // The driver would log what it does not know.
        ConnectOptions::new(&server)
            .check()
            .map_err(|_| BenchError::Address)?;
        let options = quiet(&server)?;
        let mut admin = tokio::time::timeout(PATIENCE, options.connect())
            .await
            .map_err(|_| BenchError::Unreachable)??;
        let postmaster = match &private {
            Some(postgres) => postgres.pid(),
            None => postmaster(&mut admin).await?,
        };
        Ok(Self {
            herd,
            private,
            server: address,
            admin: admin.into(),
            postmaster,
            client: bare_loop::client()?,
            made: Mutex::default(),
        })
    }

    /// What the server is.
    pub async fn server(&self) -> Result<Server, BenchError> {
        let mut admin = self.admin.lock().await;
        let version: String = sqlx::query_scalar("SHOW server_version")
            .fetch_one(&mut *admin)
            .await?;
        let rows = sqlx::query(include_str!("settings.sql"))
            .bind(TELLING)
            .fetch_all(&mut *admin)
            .await?;
        let mut settings = std::collections::BTreeMap::new();
        for row in rows {
            settings.insert(row.try_get(0)?, row.try_get(1)?);
        }
        Ok(Server {
            version,
            private: self.private.is_some(),
            settings,
        })
    }

    /// Whether the server's processes can be seen from here.
    pub fn sees_the_server(&self) -> bool {
        self.postmaster.is_some()
    }

    /// Time on a core that the server has used.
    pub fn server_cpu(&self) -> Option<Duration> {
        self.postmaster.and_then(usage::server_cpu)
    }

    /// An empty database.
    pub async fn empty_database(&self) -> Result<Database, BenchError> {
        let name = format!("{PREFIX}{}", uuid::Uuid::now_v7().simple());
        self.made().push(name.clone());
        self.administer(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await?;
        let mut url = self.server.clone();
        url.set_path(&name);
        let url = String::from(url);
        let pool = guard_against_lost_writes(PgPoolOptions::new())
            .max_connections(4)
            .connect_with(quiet(&url)?)
            .await?;
        Ok(Database { name, url, pool })
    }

    /// A database with the schema in it.
    pub async fn outbox_database(&self) -> Result<Database, BenchError> {
        let database = self.empty_database().await?;
        ConnectOptions::new(&database.url).migrate().await?;
        Ok(database)
    }

    /// Drops a database, with whoever is still connected.
    pub async fn drop_database(&self, database: Database) -> Result<(), BenchError> {
        database.pool.close().await;
        self.administer(&format!("DROP DATABASE {} WITH (FORCE)", database.name))
            .await?;
        self.made().retain(|name| *name != database.name);
        Ok(())
    }

    async fn administer(&self, statement: &str) -> Result<(), BenchError> {
        let mut admin = self.admin.lock().await;
        admin.execute(AssertSqlSafe(statement.to_owned())).await?;
        Ok(())
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        // A list of names cannot be half-written.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the sandbox, without a limit and without a duplicate guard: every text here is a different one, and remembering
    /// them costs the cores that are being measured.
    pub async fn sandbox(&self, latency: Duration, keep: Keep) -> Result<Provider, BenchError> {
        let latency = show_duration(latency);
        let mut arguments = vec![
            "sandbox",
            "--listen",
            "127.0.0.1:0",
            "--guard-window",
            "0s",
            "--rate",
            "0",
            "--latency",
            &latency,
            "--log",
            "error",
        ];
        if keep == Keep::CountsOnly {
            arguments.push("--counts-only");
        }
        let mut process = self.herd.start("sandbox", &arguments, &[])?;
        let url = process
            .says(PATIENCE, |printed| {
                let (_, rest) = printed.split_once(" at ")?;
                // Only once the line is complete.
                rest.split_once('\n').map(|(url, _)| url.trim().to_owned())
            })
            .await?;
        Ok(Provider {
            process,
            url,
            client: self.client.clone(),
        })
    }

    /// Starts a worker with the program's defaults except for these. It logs as it does by default, into a file.
    pub fn worker(
        &self,
        database: &Database,
        provider: &Provider,
        concurrency: usize,
        rate_per_second: u32,
    ) -> Result<Process, BenchError> {
        let SandboxConfig { key, hash, .. } = SandboxConfig::default();
        self.herd.start(
            "worker",
            &[
                "worker",
                "--base-url",
                &provider.url,
                "--concurrency",
                &concurrency.to_string(),
                "--rate-per-second",
                &rate_per_second.to_string(),
            ],
            // Not as an argument: it holds the password.
            &[
                ("DATABASE_URL", database.url()),
                ("ILETIMERKEZI_API_KEY", &key),
                ("ILETIMERKEZI_API_HASH", &hash),
            ],
        )
    }

    /// Waits until a worker has found its database and schema, and looks for work.
    pub async fn ready(&self, worker: &mut Process) -> Result<(), BenchError> {
        worker.logs(PATIENCE, "ready").await.map(drop)
    }

    /// Starts a receiver of webhooks with the program's defaults, and waits until it is ready; says where it listens.
    pub async fn receiver(&self, database: &Database) -> Result<(Process, SocketAddr), BenchError> {
        let what = "receiver";
        let mut receiver = self.herd.start(
            what,
            &["receive", "--webhook-address", "127.0.0.1:0"],
            &[
                ("DATABASE_URL", database.url()),
                ("SMS_OUTBOX_WEBHOOK_SECRET", RECEIVER_SECRET),
            ],
        )?;
        let line = receiver.logs(PATIENCE, "receiving webhooks").await?;
        let word = line
            .split("address=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let address = word.and_then(|word| word.parse().ok());
        let address = address.ok_or_else(|| BenchError::Start {
            what,
            source: std::io::ErrorKind::AddrNotAvailable.into(),
        })?;
        self.ready(&mut receiver).await?;
        Ok((receiver, address))
    }

    /// Starts a bare loop that ends when nothing is left, or after about `at_most` jobs.
    pub fn bare_loop(
        &self,
        database: &Database,
        provider: &Provider,
        concurrency: usize,
        at_most: u64,
    ) -> Result<Process, BenchError> {
        let mut process = self.herd.start("bare-loop", &[bare_loop::COMMAND], &[])?;
        let task = bare_loop::Task {
            database_url: database.url().to_owned(),
            provider_url: provider.url.clone(),
            concurrency,
            at_most,
            claim: bare_loop::CLAIM,
            record: bare_loop::RECORD,
        };
        process.tell(&serde_json::to_string(&task).map_err(BenchError::Unreadable)?)?;
        Ok(process)
    }

    /// Drops what is left of the databases, stops the server if it is ours, and kills whatever still runs.
    pub async fn strike(self) -> Result<(), BenchError> {
        let Self {
            herd,
            private,
            mut admin,
            made,
            ..
        } = self;
        drop(herd);
        let mut dropped = Ok(());
        if private.is_none() {
            let admin = admin.get_mut();
            for name in made.into_inner().unwrap_or_else(PoisonError::into_inner) {
                let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                if let Err(error) = admin.execute(AssertSqlSafe(drop)).await {
                    dropped = Err(BenchError::NotDropped {
                        name,
                        source: error,
                    });
                }
            }
        }
        admin.into_inner().close().await.ok();
        if let Some(postgres) = private {
            postgres.stop().await?;
        }
        dropped
    }
}

/// Filling a queue takes as long as it takes: no statement here is worth a line of the log.
fn quiet(url: &str) -> Result<PgConnectOptions, BenchError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| BenchError::Address)?;
    Ok(options.disable_statement_logging())
}

/// The process above the server's, where the server runs on this machine.
async fn postmaster(admin: &mut PgConnection) -> Result<Option<u32>, BenchError> {
    let row = sqlx::query(include_str!("whereabouts.sql"))
        .fetch_one(admin)
        .await?;
    let (here, pid): (bool, i32) = (row.try_get(0)?, row.try_get(1)?);
    let pid = u32::try_from(pid).ok().filter(|_| here);
    Ok(pid.and_then(usage::postmaster_of))
}

/// How much the sandbox remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Counts.
    CountsOnly,
    /// Every request, with the moment of its arrival.
    Requests,
}

/// The sandbox as a process.
pub struct Provider {
    process: Process,
    url: String,
    client: Client,
}

/// A request as the sandbox remembers it.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// Microseconds since 1970.
    pub arrived_at: i64,
    pub action: String,
    pub recipients: u64,
    #[serde(default)]
    pub text: Option<String>,
}

#[derive(Deserialize)]
struct Requests {
    requests: Vec<Request>,
}

#[derive(Deserialize)]
struct StatsReply {
    stats: Stats,
}

#[derive(Deserialize)]
struct Stats {
    accepted_orders: u64,
}

impl Provider {
    /// Scheme, host and port.
    pub fn origin(&self) -> &str {
        self.url.trim_end_matches('/')
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Orders that it has accepted.
    pub async fn accepted(&mut self) -> Result<u64, BenchError> {
        let reply: StatsReply = self.ask("stats").await?;
        Ok(reply.stats.accepted_orders)
    }

    /// Every request to send something, in order of arrival.
    pub async fn orders(&mut self) -> Result<Vec<Request>, BenchError> {
        let Requests { mut requests } = self.ask("requests").await?;
        requests.retain(|request| request.action == "send-sms");
        requests.sort_by_key(|request| request.arrived_at);
        Ok(requests)
    }

    async fn ask<T: for<'a> Deserialize<'a>>(&mut self, what: &str) -> Result<T, BenchError> {
        self.process.check()?;
        let url = format!("{}/_sandbox/{what}", self.url);
        let reply = self
            .client
            .get(url)
            .send()
            .await
            .map_err(BenchError::Sandbox)?;
        let bytes = reply.bytes().await.map_err(BenchError::Sandbox)?;
        serde_json::from_slice(&bytes).map_err(BenchError::Unreadable)
    }

    pub async fn stop(self) -> Result<(), BenchError> {
        self.process.stop().await
    }
}

/// Microseconds since 1970 by a clock that is not set while we measure. The sandbox tells arrivals by the same clock of the
/// same machine, in the same way.
pub struct Clock {
    started: Instant,
    started_at: i64,
}

impl Clock {
    pub fn start() -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started: Instant::now(),
            started_at: micros(since_1970),
        }
    }

    pub fn now(&self) -> i64 {
        self.started_at + micros(self.started.elapsed())
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
