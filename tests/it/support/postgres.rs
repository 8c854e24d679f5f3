//! One PostgreSQL server for the whole test process, and a fresh database in it for each test.
//!
//! The server is, in this order:
//! 1. the one that `SMS_OUTBOX_TEST_DATABASE_URL` names: its role needs `CREATEDB`, and the tests touch only databases whose
//!    names begin with `sms_outbox_test_`; for a superuser they make five roles of such names as well, which cannot log in, and
//!    stay;
//! 2. a private one, from programs that were found on this machine or fetched;
//! 3. a container, where Docker runs (`SMS_OUTBOX_TEST_POSTGRES_IMAGE`, by default `postgres:17`).
//!
//! `DATABASE_URL` is never read: it may be production.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::Url;
use sms_outbox::embedded::{self, Options, PrivatePostgres, Sources};
use sms_outbox::guard_against_lost_writes;
use sms_outbox::outbox::{ConnectOptions, RoleKind};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::sync::{OnceCell, oneshot};

use super::roles;

const PREFIX: &str = "sms_outbox_test_";
const SERVER: &str = "SMS_OUTBOX_TEST_DATABASE_URL";
const IMAGE: &str = "SMS_OUTBOX_TEST_POSTGRES_IMAGE";

/// Databases that are older were left by a test process that was killed, or are its templates, which nothing drops in a
/// server of somebody else's when the process ends.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Enough for every test that runs at once, each with a pool or two.
const CONNECTIONS: u16 = 300;

/// A database that nobody else uses. It is dropped with this value, whoever is still connected.
pub struct TestDatabase {
    name: String,
    pool: PgPool,
    /// Whether the roles of the tests may do what is theirs in it.
    is_granted: bool,
}

impl TestDatabase {
    /// A fresh database with the schema in it, and with [`roles`].
    pub async fn create() -> Self {
        static GRANTED: OnceCell<bool> = OnceCell::const_new();
        let mut database = Self::from_template("schema", async |url| {
            let granted = migrate(&url).await;
            GRANTED.set(granted).expect("it is filled once");
        })
        .await;
        database.is_granted = GRANTED.get() == Some(&true);
        database
    }

    /// A fresh database with nothing in it.
    pub async fn empty() -> Self {
        Self::copy_of("template1").await
    }

    /// A fresh copy of a database that `fill` made once for this test process. `fill` gets the URL of an empty database,
    /// and closes its connections to it: a database in use cannot be copied.
    pub async fn from_template(what: &'static str, fill: impl AsyncFnOnce(String)) -> Self {
        /// What a template holds, and its name once it has been made.
        type Templates = HashMap<&'static str, Arc<OnceCell<String>>>;
        static TEMPLATES: LazyLock<Mutex<Templates>> = LazyLock::new(Mutex::default);
        let template = {
            let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(templates.entry(what).or_default())
        };
        let template = template
            .get_or_init(async || {
                let name = fresh_name();
                execute(format!("CREATE DATABASE {name} TEMPLATE template1")).await;
                fill(server().url(&name)).await;
                forget_the_installation(&server().url(&name)).await;
                // Autovacuum, or a forgotten connection, would otherwise hold up the copying.
                execute(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
                name
            })
            .await;
        Self::copy_of(template).await
    }

    async fn copy_of(template: &str) -> Self {
        let name = fresh_name();
        execute(format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        let pool = guard_against_lost_writes(PgPoolOptions::new())
            .max_connections(16)
            .connect_lazy(&server().url(&name))
            .expect("a URL that another connection was made with");
        Self {
            name,
            pool,
            is_granted: false,
        }
    }

    /// A copy of this database as it is, for which its pool is closed: a database in use cannot be copied.
    pub async fn copy(&self) -> Self {
        self.pool.close().await;
        let mut copy = Self::copy_of(&self.name).await;
        copy.is_granted = self.is_granted;
        copy
    }

    /// For whoever wants connections of their own: the program, another pool.
    pub fn url(&self) -> String {
        server().url(&self.name)
    }

    /// Whether there are roles of the tests that were granted what is theirs in it.
    pub fn is_granted(&self) -> bool {
        self.is_granted
    }

    /// For whoever is to be no more than a worker, an operator and so on.
    pub fn url_as(&self, kind: RoleKind) -> String {
        if self.is_granted {
            roles::url_as(kind, &self.url())
        } else {
            self.url()
        }
    }

    /// For workers.
    pub fn worker_url(&self) -> String {
        self.url_as(RoleKind::Worker)
    }

    /// The database's name, unique in the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connections made when they are needed, at most 16. It belongs to the runtime of the test that made the database.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let (done, dropped) = mpsc::channel();
        let asked = server().statements.send(Statement {
            sql,
            done: Box::new(move |result| {
                let _ = done.send(result);
            }),
        });
        // In somebody else's server nothing is to stay behind. Ours goes as a whole; dropping only keeps the disk from
        // filling up meanwhile. The work is done on another thread, so waiting on this one holds up nothing it needs.
        if asked.is_ok() && server().is_external() {
            let _ = dropped.recv_timeout(Duration::from_secs(10));
        }
    }
}

/// The server of this test process.
///
/// # Panics
///
/// When there is none. The message says what was tried, and what helps.
pub fn server() -> &'static TestServer {
    static SERVER: LazyLock<Result<TestServer, String>> = LazyLock::new(TestServer::start);
    SERVER.as_ref().unwrap_or_else(|reason| panic!("{reason}"))
}

/// A server in which the tests make and drop databases.
pub struct TestServer {
    url: Url,
    kind: Kind,
    /// To the thread that keeps the server. A test has a runtime of its own, which ends with it; the server does not.
    statements: tokio::sync::mpsc::UnboundedSender<Statement>,
}

/// What keeps the server running. Statics are not dropped when a process ends: what is to go with it needs a watchdog. A
/// private server brings its own.
enum Kind {
    External,
    Private {
        _server: PrivatePostgres,
    },
    Container {
        _container: Box<ContainerAsync<GenericImage>>,
        _watchdog: Option<Child>,
    },
}

struct Statement {
    sql: String,
    done: Box<dyn FnOnce(Result<(), sqlx::Error>) + Send>,
}

impl TestServer {
    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        let mut url = self.url.clone();
        url.set_path(database);
        url.into()
    }

    fn is_external(&self) -> bool {
        match self.kind {
            Kind::External => true,
            Kind::Private { .. } | Kind::Container { .. } => false,
        }
    }

    fn start() -> Result<Self, String> {
        let (started, start) = mpsc::channel();
        thread::Builder::new()
            .name("test server".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime needs only a few file descriptors");
                runtime.block_on(async {
                    let found = find().await;
                    let (statements, mut queue) = tokio::sync::mpsc::unbounded_channel();
                    let pool = found.as_ref().ok().map(|(url, _)| {
                        PgPoolOptions::new()
                            .max_connections(4)
                            .connect_lazy(url.as_str())
                            .expect("a URL that was connected to")
                    });
                    let server = found.map(|(url, kind)| Self {
                        url,
                        kind,
                        statements,
                    });
                    // Nobody waits for the answer only if the process is ending.
                    let _ = started.send(server);
                    let Some(pool) = pool else { return };
                    while let Some(Statement { sql, done }) = queue.recv().await {
                        let pool = pool.clone();
                        tokio::spawn(async move {
                            let result = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await;
                            done(result.map(|_| ()));
                        });
                    }
                });
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        start
            .recv()
            .unwrap_or_else(|_| Err("the test server's thread ended".into()))
    }
}

/// Puts the schema into an empty database, and holds workers to their promises there; whether the roles of the tests could be
/// made.
pub async fn migrate(url: &str) -> bool {
    let migrated = ConnectOptions::new(url).migrate().await;
    migrated.expect("an empty database can be migrated");
    let mut connection = PgConnection::connect(url)
        .await
        .expect("a database that was just migrated");
    let promised = sqlx::raw_sql(include_str!("promises.sql"))
        .execute(&mut connection)
        .await;
    promised.expect("rules that fit the schema");
    connection.close().await.expect("it answered");
    roles::grant_all(url).await
}

/// A copy of a database is not the pinned one, and nothing would be sent from it: the first worker of each test pins its own.
async fn forget_the_installation(url: &str) {
    let mut connection = PgConnection::connect(url)
        .await
        .expect("a database that was just filled");
    let forgotten = sqlx::raw_sql(
        "DO $$ BEGIN
             IF to_regclass('sms_outbox.database_identity') IS NOT NULL THEN
                 DELETE FROM sms_outbox.database_identity;
             END IF;
         END $$",
    )
    .execute(&mut connection)
    .await;
    forgotten.expect("a statement that fits every database");
    connection.close().await.expect("it answered");
}

/// Runs a statement that concerns databases as a whole.
async fn execute(sql: String) {
    let (done, result) = oneshot::channel();
    let statement = Statement {
        sql: sql.clone(),
        done: Box::new(move |result| {
            let _ = done.send(result);
        }),
    };
    let asked = server().statements.send(statement);
    assert!(asked.is_ok(), "the test server's thread has ended");
    let result = result.await.expect("every statement is answered");
    result.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A name that no other test process uses either, and that tells when it was given.
fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}_{}_{n}", now().as_secs(), process::id())
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock set to later than 1970")
}

/// The first server there is, and the URL of its administrative database.
async fn find() -> Result<(Url, Kind), String> {
    if let Ok(url) = std::env::var(SERVER) {
        let url = external(&url).await;
        return url
            .map(|url| (url, Kind::External))
            .map_err(|error| format!("{SERVER} is set, but: {error}"));
    }
    let mut options = Options::new(Sources::from_env());
    options.durable = false;
    options.connections = CONNECTIONS;
    let private = match embedded::start(&options).await {
        Ok(server) => {
            let url = Url::parse(&server.admin_url()).expect("we made this URL");
            return Ok((url, Kind::Private { _server: server }));
        }
        Err(error) => error,
    };
    let container = match container().await {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    Err(format!(
        "the tests need a PostgreSQL server, and there is none.\n\n\
         {SERVER}: not set. It would name a server in which the tests may make and drop databases.\n\n\
         A private server: {private}\n\n\
         Docker: {container}"
    ))
}

/// Looks whether the named server is there, and drops what test processes left in it that were killed.
async fn external(url: &str) -> Result<Url, String> {
    let parsed = Url::parse(url).map_err(|error| format!("it is no URL: {error}"))?;
    // Not a pool: it would hide why behind a timeout of its own.
    let connecting = PgConnection::connect(url);
    let mut connection = tokio::time::timeout(Duration::from_secs(10), connecting)
        .await
        .map_err(|_| "it does not answer within 10 s".to_owned())?
        .map_err(|error| format!("it cannot be connected to: {error}"))?;
    let names: Vec<String> =
        sqlx::query_scalar("SELECT datname FROM pg_database WHERE starts_with(datname, $1)")
            .bind(PREFIX)
            .fetch_all(&mut connection)
            .await
            .map_err(|error| format!("its databases cannot be listed: {error}"))?;
    for name in names.iter().filter(|name| is_leftover(name, now())) {
        // Another test process may be sweeping as well.
        let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        let _ = sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await;
    }
    let _ = connection.close().await;
    Ok(parsed)
}

/// Whether a database was made by tests that cannot be running any more.
fn is_leftover(name: &str, now: Duration) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split('_').next())
        .and_then(|seconds| seconds.parse().ok())
        .is_some_and(|seconds| now.saturating_sub(Duration::from_secs(seconds)) > LEFTOVER_AGE)
}

async fn container() -> Result<(Url, Kind), String> {
    let image = std::env::var(IMAGE).unwrap_or_else(|_| "postgres:17".into());
    let (name, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
    let container = GenericImage::new(name, tag)
        .with_exposed_port(5432.tcp())
        // The image says so twice: first of a server that only prepares the data directory, and listens on no port.
        .with_wait_for(WaitFor::message_on_stdout("ready for start up"))
        .with_wait_for(WaitFor::message_on_stderr("ready to accept connections"))
        .with_env_var("POSTGRES_PASSWORD", "tests")
        .with_cmd([
            "postgres".to_owned(),
            "-cfsync=off".to_owned(),
            "-csynchronous_commit=off".to_owned(),
            "-cfull_page_writes=off".to_owned(),
            format!("-cmax_connections={CONNECTIONS}"),
        ])
        .start()
        .await
        .map_err(|error| format!("a container of {image} cannot be started: {error}"))?;
    let watchdog = container_watchdog(container.id());
    let address = async {
        let host = container.get_host().await?;
        let port = container.get_host_port_ipv4(5432).await?;
        Ok::<_, testcontainers::TestcontainersError>((host, port))
    };
    let (host, port) = address
        .await
        .map_err(|error| format!("the container has no address: {error}"))?;
    let url = format!("postgres://postgres:tests@{host}:{port}/postgres");
    connect_within(&url, Duration::from_secs(60)).await?;
    let kind = Kind::Container {
        _container: Box::new(container),
        _watchdog: watchdog,
    };
    Ok((Url::parse(&url).expect("we made this URL"), kind))
}

/// Removes the container when this process ends: the shell waits on a pipe that only we hold the other end of.
fn container_watchdog(id: &str) -> Option<Child> {
    Command::new("/bin/sh")
        .args([
            "-c",
            "trap '' HUP INT TERM; read -r _; docker rm -f -v \"$1\"",
            "sh",
            id,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()
}

async fn connect_within(url: &str, limit: Duration) -> Result<(), String> {
    let attempt = async {
        loop {
            match PgPoolOptions::new().max_connections(1).connect(url).await {
                Ok(pool) => return pool.close().await,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::time::timeout(limit, attempt).await.map_err(|_| {
        format!(
            "the container accepts no connection after {} s",
            limit.as_secs()
        )
    })
}

#[test]
fn leftovers_are_told_by_their_age() {
    let now = Duration::from_secs(1_800_000_000);
    let check = |name: &str, expected: bool| assert_eq!(is_leftover(name, now), expected, "{name}");
    check("sms_outbox_test_1799000000_77_0", true);
    check("sms_outbox_test_1799999000_77_0", false);
    check("sms_outbox_test_mine", false);
    check("orders_1799000000_77_0", false);
}
