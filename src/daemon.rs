//! The worker as a process: builds the parts, watches over them, stops them in two stages. The receiver of webhooks likewise.

mod receive;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    config::{AccountSecrets, Misconfigured, Webhooks, WorkerArgs, connections, shared_keys},
    dispatch::{Account, Dispatch, Outage, Settings},
    failpoints,
    metrics::Metrics,
    monitoring::Monitor,
    outbox::{
        ConnectOptions, Outbox, OutboxError, RoleKind, SchemaState, UNRELEASED, Watcher, advice,
        chain,
    },
    provider::{Credentials, Provider, ProviderConfig, ProviderError, origin},
    receiver::{Receiver, ReceiverError},
};

pub use receive::receive;

/// How a worker is told to stop.
#[derive(Clone, Debug)]
pub struct Stops {
    /// Claim nothing new; answer and record what is in flight; release the rest.
    pub gently: CancellationToken,
    /// Leave everything as it is: leases end, and another worker recovers the jobs.
    pub at_once: CancellationToken,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was in flight is recorded.
    Gracefully,
    /// It was told to stop at once, or its grace ran out: what was in flight is left to its leases.
    Interrupted,
    /// A part of it died.
    Broken,
}

/// Why a worker could not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A setting cannot be used.
    #[error(transparent)]
    Misconfigured(#[from] Misconfigured),
    /// The database's address cannot be used.
    #[error("opening the database")]
    Database(#[source] OutboxError),
    /// Somebody else listens at the address for metrics, or it is none of this machine's.
    #[error("listening at {address} (SMS_OUTBOX_METRICS_ADDRESS)")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP client could not be made.
    #[error("setting up the connection to the provider")]
    Provider(#[source] ProviderError),
    /// Webhooks cannot be received.
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    /// `sms-outbox migrate` has not been run.
    #[error("the database has no schema sms_outbox yet: run `sms-outbox migrate` first")]
    NoSchema,
    /// The schema is of the time before the first release.
    #[error("{UNRELEASED}")]
    UnreleasedSchema,
    /// `sms-outbox migrate` has not been run since this program was upgraded.
    #[error(
        "the schema sms_outbox is at version {found}, and this program needs {known}: run `sms-outbox migrate` first"
    )]
    OlderSchema {
        /// What the database has.
        found: i64,
        /// What this program needs.
        known: i64,
    },
    /// The schema was made by a later program.
    #[error(
        "the schema sms_outbox is at version {found}, newer than the {known} that this program knows: upgrade it"
    )]
    NewerSchema {
        /// What the database has.
        found: i64,
        /// What this program knows.
        known: i64,
    },
}

/// Runs a worker until it is told to stop.
///
/// # Errors
/// When it cannot start: settings, a database that refuses this role, a schema that does not fit, or a role that lacks a right. A
/// database that is away is waited for.
pub async fn run(
    config: &WorkerArgs,
    secrets: Vec<AccountSecrets>,
    webhooks: Option<Webhooks>,
    stops: Stops,
) -> Result<Ended, DaemonError> {
    config.check()?;
    config.check_exclusive(&secrets)?;
    let odd = config.warnings().into_iter().chain(shared_keys(&secrets));
    for warning in odd.chain(webhooks.iter().flat_map(Webhooks::warnings)) {
        tracing::warn!("{warning}");
    }
    let worker = process_name();
    let accounts: Vec<Account> = secrets
        .into_iter()
        .map(|secrets| Account {
            is_exclusive: config.is_exclusive(&secrets.account),
            name: secrets.account,
            credentials: Credentials::new(secrets.key, secrets.hash),
        })
        .collect();
    let address = |error| match error {
        ProviderError::Address { .. } => {
            Misconfigured(format!("ILETIMERKEZI_BASE_URL: {error}")).into()
        }
        other => DaemonError::Provider(other),
    };
    let watcher = Watcher {
        worker: worker.as_str().into(),
        provider: origin(&config.provider.base_url).map_err(address)?.into(),
    };
    let outbox = ConnectOptions {
        connections: connections(accounts.len(), webhooks.is_some()),
        application_name: format!("sms-outbox {worker}"),
        watcher: Some(watcher),
        for_worker: true,
        ..config.database.connect_options()?
    }
    .connect_lazily()
    .map_err(unusable)?;
    let provider = Provider::new(ProviderConfig {
        base_url: config.provider.base_url.clone(),
        request_timeout: config.provider.request_timeout,
        connect_timeout: config.provider.connect_timeout,
        reuse_connections: true,
        user_agent: concat!("sms-outbox/", env!("CARGO_PKG_VERSION")).to_owned(),
    })
    .map_err(address)?;
    if let Some(exposed) = provider.exposed() {
        if !config.provider.allow_plaintext {
            return Err(Misconfigured(format!(
                "ILETIMERKEZI_BASE_URL: {exposed}, or set SMS_OUTBOX_ALLOW_PLAINTEXT=true if the network is your own"
            ))
            .into());
        }
        tracing::warn!("{exposed}");
    }

    let names: Vec<&str> = accounts
        .iter()
        .map(|account| account.name.as_str())
        .collect();
    tracing::info!(
        worker,
        accounts = names.join(","),
        concurrency = config.concurrency,
        rate_per_second = config.rate_per_second,
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );
    let metrics = Metrics::default();
    for account in &accounts {
        // Whoever asks before the first claim sees all counters, at zero.
        metrics.account(&account.name);
    }
    let outage = Arc::new(Outage::new(metrics.clone()));
    let broken = CancellationToken::new();
    // Before the database is there: that it is not is worth telling.
    let _serving = match config.metrics_address {
        Some(address) => {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let monitor = Monitor::worker(
                &outbox,
                names,
                &metrics,
                Arc::clone(&outage),
                broken.clone(),
            );
            let serving = monitor.serve(address).await;
            Some(serving.map_err(|source| DaemonError::Metrics { address, source })?)
        }
        None => None,
    };
    let stop = stops.gently.child_token();
    // Before the database is there, too: whoever sends an event is told to come again.
    let receiver = match &webhooks {
        Some(webhooks) => Some(
            Receiver::start(
                webhooks,
                &outbox,
                Arc::clone(&outage),
                &metrics,
                stop.clone(),
                broken.clone(),
            )
            .await?,
        ),
        None => None,
    };
    if wait_for_schema(&outbox, RoleKind::Worker, &outage, &stops.gently)
        .await?
        .is_none()
    {
        return Ok(Ended::Gracefully);
    }
    tracing::info!(worker, "ready");

    let settings = Settings {
        worker: worker.as_str().into(),
        concurrency: config.concurrency,
        policy: failpoints::policy(config.policy()),
        rate_per_second: config.rate_per_second,
        poll_interval: config.poll_interval,
        foreign: config.foreign(),
        probing: config.probing(),
        reconciling: config.reconciling(),
        following: config.following(),
        report_spacing: config.report_spacing(),
        metrics,
    };
    let running = Dispatch::start(
        outbox,
        provider,
        accounts,
        settings,
        outage,
        stop.clone(),
        broken.clone(),
    );

    tokio::select! {
        () = stops.gently.cancelled() => {
            tracing::info!(worker, in_flight = running.in_flight(), "stopping: nothing new is claimed");
        }
        () = broken.cancelled() => stop.cancel(),
    }
    let grace = config.shutdown_grace;
    let drained = async {
        // Side by side: neither has to wait for the other.
        let received = async {
            if let Some(receiver) = receiver {
                receiver.drain().await;
            }
        };
        tokio::join!(running.drain(), received);
    };
    let ended = tokio::select! {
        () = drained => Ended::Gracefully,
        () = tokio::time::sleep(grace) => {
            tracing::error!(worker, grace_ms = in_ms(grace), "stopped before everything in flight was recorded");
            Ended::Interrupted
        }
        () = stops.at_once.cancelled() => {
            tracing::error!(worker, "stopped at once: what was in flight is left to its leases");
            Ended::Interrupted
        }
    };
    let ended = if broken.is_cancelled() {
        Ended::Broken
    } else {
        ended
    };
    tracing::info!(worker, graceful = ended == Ended::Gracefully, "stopped");
    Ok(ended)
}

/// An address of the database that cannot even be tried.
fn unusable(error: OutboxError) -> Misconfigured {
    Misconfigured(format!(
        "DATABASE_URL cannot be used: {}; {}",
        chain(&error),
        advice(&error)
    ))
}

/// Waits for the database where waiting may help, and then insists on the schema and on the rights of such a role. `None`: told to
/// stop meanwhile.
async fn wait_for_schema(
    outbox: &Outbox,
    kind: RoleKind,
    outage: &Outage,
    stop: &CancellationToken,
) -> Result<Option<()>, DaemonError> {
    loop {
        let Some(state) = stop.run_until_cancelled(outbox.schema_state()).await else {
            return Ok(None);
        };
        // A role that lacks something would find out job by job, and wait each time as for a database that is away.
        let found = match state {
            Ok(SchemaState::Current { .. }) => outbox.hindrances(kind).await,
            Ok(SchemaState::Missing) => return Err(DaemonError::NoSchema),
            Ok(SchemaState::Unreleased) => return Err(DaemonError::UnreleasedSchema),
            Ok(SchemaState::Older { found, known }) => {
                return Err(DaemonError::OlderSchema { found, known });
            }
            Ok(SchemaState::Newer { found, known }) => {
                return Err(DaemonError::NewerSchema { found, known });
            }
            // Not even the version may be read.
            Err(error) if error.is_about_privileges() => outbox.hindrances(kind).await,
            Err(error) => Err(error),
        };
        let wait = match found {
            Ok(found) if found.is_empty() => {
                outage.over();
                return Ok(Some(()));
            }
            Ok(found) => return Err(Misconfigured(found.to_string()).into()),
            Err(error) if error.needs_a_person() => {
                return Err(Misconfigured(format!(
                    "the database cannot be used: {}; {}",
                    chain(&error),
                    advice(&error)
                ))
                .into());
            }
            Err(error) => outage.failed(&error),
        };
        if stop
            .run_until_cancelled(tokio::time::sleep(wait))
            .await
            .is_none()
        {
            return Ok(None);
        }
    }
}

/// A name that tells machine, process and start apart.
fn process_name() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let host = host
        .as_deref()
        .unwrap_or("worker")
        .split('.')
        .next()
        .unwrap_or("worker")
        .to_owned();
    let start = uuid::Uuid::now_v7().as_u128() & 0xFFFF;
    format!("{host}-{}-{start:04x}", std::process::id())
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
