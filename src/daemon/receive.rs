//! The receiver of webhooks as a process of its own: in another network than the workers, as another database role, without the
//! provider's credentials.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{DaemonError, Ended, Stops, process_name, unusable, wait_for_schema};
use crate::{
    config::{ReceiverArgs, Webhooks},
    dispatch::Outage,
    metrics::Metrics,
    monitoring::Monitor,
    outbox::{ConnectOptions, RoleKind},
    receiver::Receiver,
};

/// One writes; another one serves whoever looks whether the schema fits.
const CONNECTIONS: u32 = 2;
/// The longest that stopping may take: a request that is being read, a batch, and what goes on.
const GRACE: Duration = Duration::from_secs(20);

/// Runs a receiver until it is told to stop. Whether the database is the pinned one is not asked: what is known of deliveries in a
/// copy makes nobody send anything.
///
/// # Errors
/// As for a [worker](super::run()).
pub async fn receive(
    config: &ReceiverArgs,
    webhooks: &Webhooks,
    stops: Stops,
) -> Result<Ended, DaemonError> {
    for warning in webhooks.warnings() {
        tracing::warn!("{warning}");
    }
    let receiver = process_name();
    let outbox = ConnectOptions {
        connections: CONNECTIONS,
        application_name: format!("sms-outbox {receiver}"),
        for_worker: true,
        ..config.database.connect_options()?
    }
    .connect_lazily()
    .map_err(unusable)?;
    tracing::info!(receiver, version = env!("CARGO_PKG_VERSION"), "starting");
    let metrics = Metrics::default();
    let outage = Arc::new(Outage::new(metrics.clone()));
    let broken = CancellationToken::new();
    let _serving = match config.metrics_address {
        Some(address) => {
            let monitor = Monitor::receiver(&metrics, Arc::clone(&outage), broken.clone());
            let serving = monitor.serve(address).await;
            Some(serving.map_err(|source| DaemonError::Metrics { address, source })?)
        }
        None => None,
    };
    let stop = stops.gently.child_token();
    let receiving = Receiver::start(
        webhooks,
        &outbox,
        Arc::clone(&outage),
        &metrics,
        stop.clone(),
        broken.clone(),
    )
    .await?;
    if wait_for_schema(&outbox, RoleKind::Receiver, &outage, &stops.gently)
        .await?
        .is_some()
    {
        tracing::info!(receiver, "ready");
    }
    tokio::select! {
        () = stops.gently.cancelled() => tracing::info!(receiver, "stopping: nothing new is received"),
        () = broken.cancelled() => stop.cancel(),
    }
    let ended = tokio::select! {
        () = receiving.drain() => Ended::Gracefully,
        () = tokio::time::sleep(GRACE) => Ended::Interrupted,
        () = stops.at_once.cancelled() => Ended::Interrupted,
    };
    let ended = if broken.is_cancelled() {
        Ended::Broken
    } else {
        ended
    };
    tracing::info!(receiver, graceful = ended == Ended::Gracefully, "stopped");
    Ok(ended)
}
