//! The receiver of the provider's webhooks: `POST /webhooks/<account>/<secret>`. HTTP on one side, batches for `outbox` on the other;
//! it sends nothing to the provider, and needs none of its credentials.
//!
//! 200 means that the event is durable: in the delivery of the job that it fits, or in the inbox, from which a worker takes what is
//! not as simple. The text of an event is compared by its hash with what was sent, and kept nowhere.

mod batch;
mod forward;
mod secrets;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderValue, Method, StatusCode, header::CONTENT_TYPE},
    routing::any,
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use batch::{Entry, Writer};
use forward::Forward;
use secrets::Secrets;

pub use forward::{Posted, Poster};

use crate::{
    bounded::{Bounded, Bounds},
    config::Webhooks,
    dispatch::{Outage, watched},
    metrics::{EventResult, Metrics, WebhookMetrics},
    outbox::{Outbox, chain},
    provider::{Event, ProviderError},
};

/// An event is a text of seven parts and a few words.
const LONGEST_EVENT: usize = 16 * 1024;
/// So much of what is too large is read nevertheless, and thrown away: whoever still sends does not see our answer.
const LONGEST_READ: usize = 1024 * 1024;
/// How long a request may take to come.
const READ: Duration = Duration::from_secs(5);
/// How long its sender waits for it to become durable.
const ANSWER: Duration = Duration::from_secs(5);
/// Whoever sends has one event on the way per connection. Proxies keep connections for a minute at most, as a rule.
const BOUNDS: Bounds = Bounds {
    connections: 64,
    silence: READ,
    request: Duration::from_secs(12),
    idle: Duration::from_secs(65),
};
/// Events that wait to be written, at most. No more than connections wait for their answer; those whose answer has been given up
/// come on top.
const QUEUE: usize = 1_000;

/// How long what still has to go on may take once nothing is received any more.
const LAST_FORWARDS: Duration = Duration::from_secs(5);

/// A receiver at work.
pub(crate) struct Receiver {
    address: SocketAddr,
    serving: TaskTracker,
    writing: TaskTracker,
    forwarding: TaskTracker,
}

/// Why it cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// Somebody else listens there, or it is none of this machine's.
    #[error("listening at {address} (SMS_OUTBOX_WEBHOOK_ADDRESS)")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The HTTP client could not be made.
    #[error("setting up the connection to SMS_OUTBOX_WEBHOOK_FORWARD")]
    Forward(#[source] ProviderError),
}

/// What every request needs.
struct Shared {
    secrets: Secrets,
    entries: mpsc::Sender<Entry>,
    forward: Option<Forward>,
    metrics: WebhookMetrics,
}

impl Receiver {
    /// Listens, until `stop` is cancelled. `outage` learns how the database does; `broken` is cancelled when a task dies.
    ///
    /// # Errors
    /// When the address cannot be listened at, or TLS cannot be set up.
    pub(crate) async fn start(
        webhooks: &Webhooks,
        outbox: &Outbox,
        outage: Arc<Outage>,
        metrics: &Metrics,
        stop: CancellationToken,
        broken: CancellationToken,
    ) -> Result<Self, ReceiverError> {
        let address = webhooks.address;
        let refused = |source| ReceiverError::Address { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let deliveries = webhooks
            .accounts
            .iter()
            .map(|one| {
                (
                    one.account.clone(),
                    metrics.deliveries.account(&one.account),
                )
            })
            .collect();
        let metrics = metrics.webhooks.clone();
        for one in &webhooks.accounts {
            metrics.heard(&one.account);
        }
        let forwarding = TaskTracker::new();
        let forward = match &webhooks.forward {
            Some(url) => {
                let (forward, task) =
                    Forward::new(url, metrics.clone()).map_err(ReceiverError::Forward)?;
                forwarding.spawn(watched(broken.clone(), "forwarding webhooks", task));
                Some(forward)
            }
            None => None,
        };
        forwarding.close();
        let (entries, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            outbox: outbox.clone(),
            outage,
            metrics: metrics.clone(),
            deliveries,
        };
        let writing = TaskTracker::new();
        writing.spawn(watched(
            broken.clone(),
            "recording webhooks",
            writer.run(queue),
        ));
        writing.close();
        let app = Router::new()
            // Of every method: another one is answered like a wrong secret.
            .route("/webhooks/{account}/{secret}", any(receive))
            .fallback(not_found)
            .with_state(Arc::new(Shared {
                secrets: Secrets::new(&webhooks.accounts),
                entries,
                forward,
                metrics,
            }));
        let serving = TaskTracker::new();
        serving.spawn(watched(broken, "receiving webhooks", async move {
            let server = axum::serve(Bounded::new(listener, BOUNDS), app)
                .with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(error = %chain(&error), "webhooks are not received any more");
            }
        }));
        serving.close();
        let names: Vec<&str> = webhooks
            .accounts
            .iter()
            .map(|one| one.account.as_str())
            .collect();
        tracing::info!(%address, accounts = names.join(","), "receiving webhooks");
        Ok(Self {
            address,
            serving,
            writing,
            forwarding,
        })
    }

    /// Waits, after `stop` was cancelled, until what was read has been written and answered, and what has to go on has gone, or
    /// been given up.
    pub(crate) async fn drain(self) {
        self.serving.wait().await;
        // Its last sender has gone with the server.
        self.writing.wait().await;
        tokio::time::timeout(LAST_FORWARDS, self.forwarding.wait())
            .await
            .ok();
        tracing::debug!(address = %self.address, "no webhooks are received any more");
    }
}

async fn not_found(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.metrics.answered(EventResult::NotFound, None);
    StatusCode::NOT_FOUND
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> StatusCode {
    let is_posted = request.method() == Method::POST;
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    // Before the secret is looked at: one that is wrong is answered like one that is right, and as late.
    let body = tokio::time::timeout(READ, read(request.into_body())).await;
    let read_at = Instant::now();
    let account = match &path {
        Ok(Path((account, secret))) => shared.secrets.account(account, secret),
        Err(_) => None,
    };
    let Some(account) = account.filter(|_| is_posted) else {
        return not_found(State(shared)).await;
    };
    let (status, result) = match body {
        Ok(Ok(body)) => shared.keep(account, body, content_type).await,
        Ok(Err(Unusable::TooLarge)) => (StatusCode::PAYLOAD_TOO_LARGE, EventResult::TooLarge),
        Ok(Err(Unusable::Broken)) => (StatusCode::BAD_REQUEST, EventResult::Malformed),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, EventResult::TooSlow),
    };
    let took = (status == StatusCode::OK).then(|| read_at.elapsed());
    shared.metrics.answered(result, took);
    status
}

/// Why a body is none.
enum Unusable {
    TooLarge,
    Broken,
}

async fn read(body: Body) -> Result<Bytes, Unusable> {
    let mut chunks = body.into_data_stream();
    let (mut kept, mut length) = (Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Unusable::Broken)?;
        length += chunk.len();
        if length > LONGEST_READ {
            break;
        }
        if length <= LONGEST_EVENT {
            kept.extend_from_slice(&chunk);
        }
    }
    if length > LONGEST_EVENT {
        return Err(Unusable::TooLarge);
    }
    Ok(kept.into())
}

impl Shared {
    /// Makes an event durable, and lets it go on.
    async fn keep(
        &self,
        account: &Arc<str>,
        body: Bytes,
        content_type: Option<HeaderValue>,
    ) -> (StatusCode, EventResult) {
        let Some(event) = Event::read(&body) else {
            return (StatusCode::BAD_REQUEST, EventResult::Malformed);
        };
        let (entry, answered) = Entry::new(Arc::clone(account), &event);
        drop(event);
        let unavailable = (StatusCode::SERVICE_UNAVAILABLE, EventResult::Unavailable);
        if self.entries.try_send(entry).is_err() {
            return unavailable;
        }
        let Ok(Ok(result)) = tokio::time::timeout(ANSWER, answered).await else {
            return unavailable;
        };
        self.metrics.heard(account);
        if let Some(forward) = &self.forward {
            forward.send(body, content_type);
        }
        (StatusCode::OK, result)
    }
}
