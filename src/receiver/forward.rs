//! What was received goes on to another address, because the provider has room for one only. Best effort: nothing waits for it,
//! and what finds no taker is counted and forgotten.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::HeaderValue;
use bytes::Bytes;
use reqwest::{Client, StatusCode, Url, header::CONTENT_TYPE};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use crate::{
    metrics::{ForwardResult, WebhookMetrics},
    provider::{ProviderError, tls},
};

/// Events that wait, at most: 16 MB of the largest, and as a rule some hundred kB.
const QUEUE: usize = 1_000;
/// How many are on the way at once.
const AT_ONCE: usize = 8;
/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After each try that may succeed a little later.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

struct Parcel {
    body: Bytes,
    content_type: Option<HeaderValue>,
}

/// Where events go on to.
pub(super) struct Forward {
    parcels: mpsc::Sender<Parcel>,
    metrics: WebhookMetrics,
}

impl Forward {
    /// With the task that does it, which ends once this is dropped and nothing waits any more.
    pub(super) fn new(
        url: &Url,
        metrics: WebhookMetrics,
    ) -> Result<(Self, impl Future<Output = ()> + use<>), ProviderError> {
        let poster = Poster::new(url)?;
        let (parcels, queue) = mpsc::channel(QUEUE);
        let task = run(queue, poster, metrics.clone());
        Ok((Self { parcels, metrics }, task))
    }

    /// Sends an event on, or drops it where too many wait.
    pub(super) fn send(&self, body: Bytes, content_type: Option<HeaderValue>) {
        let parcel = Parcel { body, content_type };
        if self.parcels.try_send(parcel).is_err() {
            self.metrics.forwarded(ForwardResult::Dropped);
        }
    }
}

async fn run(mut parcels: mpsc::Receiver<Parcel>, poster: Poster, metrics: WebhookMetrics) {
    let on_the_way = TaskTracker::new();
    let free = Arc::new(Semaphore::new(AT_ONCE));
    let failing = Arc::new(AtomicBool::new(false));
    while let Some(parcel) = parcels.recv().await {
        // Closed by nobody.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let (poster, metrics, failing) = (poster.clone(), metrics.clone(), Arc::clone(&failing));
        let closing = parcels.is_closed();
        on_the_way.spawn(async move {
            let posted = poster.post_again_and_again(&parcel, closing).await;
            drop(permit);
            let result = match &posted {
                Posted::Answered(status) if status.is_success() => ForwardResult::Taken,
                Posted::Answered(_) | Posted::Failed(_) => ForwardResult::Failed,
            };
            metrics.forwarded(result);
            let fails = result == ForwardResult::Failed;
            if failing.swap(fails, Ordering::Relaxed) != fails {
                match posted {
                    Posted::Answered(status) if fails => {
                        tracing::warn!(
                            status = status.as_u16(),
                            "events are not taken where they are forwarded to"
                        );
                    }
                    Posted::Failed(why) => {
                        tracing::warn!(error = %why, "events cannot be forwarded");
                    }
                    Posted::Answered(_) => {
                        tracing::info!("recovered: events are forwarded again");
                    }
                }
            }
        });
    }
    on_the_way.close();
    on_the_way.wait().await;
}

/// Posts events somewhere.
#[derive(Clone)]
pub struct Poster {
    client: Client,
    url: Url,
}

/// What came of it.
#[derive(Debug)]
pub enum Posted {
    /// With this status.
    Answered(StatusCode),
    /// Why there is no answer, without the address: it may hold a password.
    Failed(String),
}

impl Poster {
    /// To this address, which may hold a password.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(url: &Url) -> Result<Self, ProviderError> {
        let client = Client::builder()
            .user_agent(concat!("sms-outbox/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .no_proxy()
            .referer(false)
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(4))
            .tls_backend_preconfigured(tls(url)?)
            .build()
            .map_err(ProviderError::Client)?;
        Ok(Self {
            client,
            url: url.clone(),
        })
    }

    /// One try.
    pub async fn post(&self, body: Bytes, content_type: Option<HeaderValue>) -> Posted {
        let mut request = self.client.post(self.url.clone()).body(body);
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        match request.send().await {
            Ok(answer) => Posted::Answered(answer.status()),
            Err(error) => Posted::Failed(crate::outbox::chain(&error.without_url())),
        }
    }

    async fn post_again_and_again(&self, parcel: &Parcel, closing: bool) -> Posted {
        let mut pauses = PAUSES.iter();
        loop {
            let posted = self
                .post(parcel.body.clone(), parcel.content_type.clone())
                .await;
            let may_help = match &posted {
                Posted::Failed(_) => true,
                Posted::Answered(status) => {
                    status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
                }
            };
            match pauses.next() {
                Some(pause) if may_help && !closing => tokio::time::sleep(*pause).await,
                _ => return posted,
            }
        }
    }
}
