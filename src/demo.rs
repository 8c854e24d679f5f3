//! `sms-outbox demo`: everything on one machine with nothing set up. A private Postgres, the sandbox as the provider, a worker
//! and a small application that writes messages; shows each one's way to its end.
//!
//! Never looks at `DATABASE_URL` or at any other setting: a demo that claimed real messages for a sandbox would lose them.

mod scenes;
mod show;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use secrecy::SecretString;
use sqlx::{Executor, PgPool};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{AccountArgs, AccountSecrets, DatabaseArgs, ProviderArgs, WebhookArgs, WorkerArgs},
    daemon::{self, DaemonError, Ended, Stops},
    embedded::{self, EmbeddedError, Sources},
    message::MessageError,
    outbox::{
        ConnectOptions, Grant, GrantError, MigrationError, Outbox, OutboxError, PgBouncer, RoleKind,
    },
    producer::{EnqueueError, guard_against_lost_writes},
    sandbox::{Sandbox, SandboxConfig, SandboxError},
};

/// If a job is not at its end by then, something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the last word about the phones is waited for, once every message has its end.
const PATIENCE_WITH_PHONES: Duration = Duration::from_secs(15);

/// The application and the worker have no more rights than in production. Neither role can log in: the server's own takes
/// them on.
const SHOP: &str = "shop";
const WORKER: &str = "sms_worker";

fn url_as(role: &str, url: &str) -> String {
    format!("{url}?options[role]={role}")
}

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No Postgres.
    #[error("starting a private PostgreSQL")]
    Postgres(#[from] EmbeddedError),
    /// No schema.
    #[error("creating the schema")]
    Migrate(#[from] MigrationError),
    /// The worker or the application may not do what it needs to.
    #[error("granting")]
    Grant(#[from] GrantError),
    /// No provider.
    #[error("starting the sandbox")]
    Sandbox(#[from] SandboxError),
    /// A call to the outbox failed.
    #[error("using the outbox")]
    Outbox(#[from] OutboxError),
    /// A message of the demo's own cannot be.
    #[error("writing a message")]
    Message(#[from] MessageError),
    /// A message could not be put into the outbox.
    #[error("enqueueing a message")]
    Enqueue(#[from] EnqueueError),
    /// The demo's application could not use its database.
    #[error("playing the application")]
    Application(#[from] sqlx::Error),
    /// The worker could not run.
    #[error("running the worker")]
    Worker(#[from] DaemonError),
}

/// Runs the demo. With `once` it ends when every job has come to its end: with success if each came to the one that was meant
/// for it. Otherwise it goes on until `stops` says so.
///
/// # Errors
/// When one of the parts cannot be started.
pub async fn run(once: bool, stops: Stops) -> Result<ExitCode, DemoError> {
    let started = Instant::now();
    show::headline(
        "A private PostgreSQL, the sandbox as the provider, a worker, and an application that sends messages",
    );
    let mut options = embedded::Options::new(Sources::from_env());
    options.connections = 50;
    let postgres = tokio::select! {
        postgres = embedded::start(&options) => postgres?,
        () = stops.gently.cancelled() => return Ok(ExitCode::FAILURE),
    };
    let url = postgres.url("postgres");
    show::part(
        "postgres",
        &format!(
            "{}, from {}",
            postgres.version(),
            postgres.programs().display()
        ),
        started,
    );

    let result = play(&url, once, started, &stops).await;
    // Whatever happened: nothing is left behind.
    let stopped = postgres.stop().await;
    let code = result?;
    stopped?;
    Ok(code)
}

async fn play(
    url: &str,
    once: bool,
    started: Instant,
    stops: &Stops,
) -> Result<ExitCode, DemoError> {
    let connect = ConnectOptions::new(url);
    let (_, version) = connect.migrate().await?;
    show::part(
        "migrate",
        &format!("schema sms_outbox at version {version}"),
        started,
    );
    let owner = connect.connect().await?;
    owner
        .pool()
        .execute(include_str!("demo/application.sql"))
        .await?;
    for (kind, role) in [(RoleKind::Producer, SHOP), (RoleKind::Worker, WORKER)] {
        let role = role.to_owned();
        let grant = Grant {
            kind,
            role,
            most_urgent: None,
        };
        owner.grant(&grant).await?;
    }

    let sandbox = Sandbox::start(scenes::sandbox()).await?;
    show::part(
        "sandbox",
        &format!("the provider's stand-in at {}", sandbox.base_url()),
        started,
    );

    let worker_stops = Stops {
        gently: CancellationToken::new(),
        at_once: stops.at_once.clone(),
    };
    let config = worker(&url_as(WORKER, url), &sandbox.base_url());
    let secrets = credentials();
    let worker = tokio::spawn({
        let stops = worker_stops.clone();
        async move { daemon::run(&config, secrets, None, stops).await }
    });
    show::part(
        "worker",
        "one, with short delays so that the demo is",
        started,
    );

    let pool = guard_against_lost_writes(sqlx::postgres::PgPoolOptions::new())
        .max_connections(4)
        .connect(&url_as(SHOP, url))
        .await?;
    let outcome = tokio::select! {
        outcome = perform(&pool, &owner, &sandbox, started) => outcome,
        () = stops.gently.cancelled() => Ok(false),
    };
    if let Ok(well) = outcome
        && !stops.gently.is_cancelled()
    {
        show::questions();
        if once {
            show::verdict(well, started);
        } else {
            show::where_to_look(url, &sandbox.base_url());
            show::waiting();
            stops.gently.cancelled().await;
        }
    }

    pool.close().await;
    owner.pool().close().await;
    worker_stops.gently.cancel();
    let ended = match worker.await {
        Ok(ended) => ended?,
        // The task panicked; the hook has said where.
        Err(_) => Ended::Broken,
    };
    sandbox.stop().await;
    let well = outcome? || !once;
    Ok(if well && ended == Ended::Gracefully {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Writes the messages, shows their ways, and says whether each came to its intended end.
async fn perform(
    pool: &PgPool,
    outbox: &Outbox,
    sandbox: &Sandbox,
    started: Instant,
) -> Result<bool, DemoError> {
    show::headline("What happens to each message");
    let mut cast = scenes::write(pool).await?;
    let mut patience = tokio::time::Instant::now() + PATIENCE;
    let mut all_over = false;
    loop {
        let news = scenes::look(outbox, &mut cast).await?;
        for line in news {
            show::news(&line, started);
        }
        scenes::prompt(&cast, &sandbox.handle());
        let now = tokio::time::Instant::now();
        if !all_over && cast.iter().all(|role| role.is_over()) {
            all_over = true;
            patience = now + PATIENCE_WITH_PHONES;
        }
        let on_the_way = cast.iter().any(|role| role.is_on_its_way_to_the_phone());
        if (all_over && !on_the_way) || now > patience {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    show::headline("What became of them");
    let checks = scenes::check(&cast, &sandbox.handle().ledger());
    show::table(&cast, &checks);
    Ok(checks.iter().all(|check| check.well))
}

/// Short delays, so that every kind of failure is over within seconds; everything else as it comes.
fn worker(url: &str, base_url: &str) -> WorkerArgs {
    WorkerArgs {
        database: DatabaseArgs {
            database_url: Some(url.to_owned()),
            pgbouncer: PgBouncer::Absent,
        },
        provider: ProviderArgs {
            allow_plaintext: false,
            base_url: base_url.to_owned(),
            request_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            accounts: AccountArgs {
                accounts: vec!["default".to_owned()],
            },
        },
        concurrency: 50,
        rate_per_second: 100,
        lease: Duration::from_secs(10),
        guard_window: Duration::from_secs(480),
        settle_delay: Duration::from_millis(1_500),
        backoff_base: Duration::from_millis(400),
        backoff_cap: Duration::from_secs(2),
        retry_for: Duration::from_secs(72 * 3600),
        poll_interval: Duration::from_millis(100),
        reconcile: true,
        // Its provider is its own.
        exclusive_accounts: vec!["default".to_owned()],
        // A list of 50,000 is fifty questions.
        report_rate: 50.0,
        deliveries: true,
        delivery_horizon: Duration::from_secs(72 * 3600),
        delivery_pace: 60.0,
        reconcile_settle: Duration::from_secs(900),
        shutdown_grace: Duration::from_secs(5),
        metrics_address: None,
        webhook: WebhookArgs::default(),
        international: false,
    }
}

fn credentials() -> Vec<AccountSecrets> {
    let SandboxConfig { key, hash, .. } = SandboxConfig::default();
    vec![AccountSecrets {
        account: "default".to_owned(),
        key: SecretString::from(key),
        hash: SecretString::from(hash),
    }]
}
