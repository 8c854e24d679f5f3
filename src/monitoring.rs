//! What a worker, or a receiver, tells those who watch it, over HTTP: `/metrics` for Prometheus, `/livez` for whoever restarts it, `/readyz` (and
//! `/healthz`, its other name) for whoever wants to know whether it can work. Off unless an address is given. No credentials, numbers or texts are in it, but it asks for no password either: it belongs on loopback
//! or in a network of one's own.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::sync::CancellationToken;

use crate::{
    bounded::{Bounded, Bounds},
    dispatch::Outage,
    metrics::{Labels, Metrics},
    outbox::{Depth, Outbox, OutboxError, chain},
};

/// For so long what was read from the database is shown again: several who ask at once cost one look.
const FRESH: Duration = Duration::from_secs(3);
/// A scrape must be answered while the database is away, too, and Prometheus waits ten seconds by default.
const DATABASE_DEADLINE: Duration = Duration::from_secs(4);
/// More jobs than this in one account and priority are counted as so many.
const COUNTED: i64 = 50_000;

/// A few who scrape and look are served side by side. Prometheus waits ten seconds for an answer by default.
const BOUNDS: Bounds = Bounds {
    connections: 32,
    silence: Duration::from_secs(2),
    request: Duration::from_secs(15),
    idle: Duration::from_secs(15),
};

/// The figure for jobs whose wait nothing explains.
const UNEXPLAINED: &str = "unexplained";

const PREFIX: &str = "sms_outbox";
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is needed to tell how a worker, or a receiver, is.
pub(crate) struct Monitor {
    /// `None`: it is not this role's to look at.
    queue: Option<Queue>,
    registry: Registry,
    metrics: Metrics,
    outage: Arc<Outage>,
    broken: CancellationToken,
    /// What it does while it is well.
    well: &'static str,
}

/// What waits in the database.
struct Queue {
    outbox: Outbox,
    accounts: Vec<String>,
    /// What was read last, and when; `None` inside: it could not be.
    read: Mutex<Option<(Instant, Option<Vec<Depth>>)>>,
}

impl Monitor {
    /// Of a worker.
    pub(crate) fn worker(
        outbox: &Outbox,
        accounts: Vec<String>,
        metrics: &Metrics,
        outage: Arc<Outage>,
        broken: CancellationToken,
    ) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        metrics.register(&mut registry);
        Self {
            queue: Some(Queue {
                outbox: outbox.within(DATABASE_DEADLINE),
                accounts,
                read: Mutex::new(None),
            }),
            registry,
            metrics: metrics.clone(),
            outage,
            broken,
            well: "The worker claims and records.",
        }
    }

    /// Of a receiver, which may not look at the queue.
    pub(crate) fn receiver(
        metrics: &Metrics,
        outage: Arc<Outage>,
        broken: CancellationToken,
    ) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        metrics.register_receiver(&mut registry);
        Self {
            queue: None,
            registry,
            metrics: metrics.clone(),
            outage,
            broken,
            well: "The receiver records.",
        }
    }

    /// Listens at `address` and answers for as long as the returned guard lives.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub(crate) async fn serve(self, address: SocketAddr) -> std::io::Result<Serving> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let app = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/healthz", get(readyz))
            .with_state(Arc::new(self));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(Bounded::new(listener, BOUNDS), app).await {
                tracing::error!(error = %chain(&error), "metrics are not served any more");
            }
        });
        tracing::info!(%address, "serving /metrics and /healthz, /livez and /readyz");
        Ok(Serving(server))
    }

    fn broken_down(&self) -> Option<String> {
        self.broken
            .is_cancelled()
            .then(|| "A part of it has died; it is going down.".to_owned())
    }

    async fn text(&self) -> Result<String, std::fmt::Error> {
        self.metrics.webhooks.refresh();
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        if let Some(queue) = &self.queue {
            let depth = queue.depth().await;
            encode_registry(&mut text, &figures(&queue.accounts, depth.as_deref()))?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}

impl Queue {
    async fn depth(&self) -> Option<Vec<Depth>> {
        // Held meanwhile: whoever asks at the same time waits for the same answer.
        let mut read = self.read.lock().await;
        if let Some((when, depth)) = &*read
            && when.elapsed() < FRESH
        {
            return depth.clone();
        }
        let depth = match self.measure().await {
            Ok(depth) => Some(depth),
            Err(error) => {
                // That the database is away is said where it matters.
                tracing::debug!(error = %chain(&error), "the queue could not be measured");
                None
            }
        };
        *read = Some((Instant::now(), depth.clone()));
        depth
    }

    async fn measure(&self) -> Result<Vec<Depth>, OutboxError> {
        let mut depth = self.outbox.depth(&self.accounts, COUNTED).await?;
        let stuck = self.outbox.unexplained(COUNTED).await?;
        let ours = stuck
            .into_iter()
            .filter(|stuck| self.accounts.contains(&stuck.account));
        depth.extend(ours.map(|stuck| Depth {
            what: UNEXPLAINED.to_owned(),
            account: stuck.account,
            value: stuck.jobs,
        }));
        Ok(depth)
    }
}

/// What the database says now. Nothing but that it is away, where it is: yesterday's depth would look like today's.
fn figures(accounts: &[String], depth: Option<&[Depth]>) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let reached = Gauge::<i64>::default();
    reached.set(depth.is_some().into());
    registry.register(
        "database_up",
        "Whether the database could be read for this scrape",
        reached,
    );
    let jobs = Family::<Labels, Gauge>::default();
    let paused = Family::<Labels, Gauge>::default();
    let unexplained = Family::<Labels, Gauge>::default();
    let oldest = Family::<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    if let Some(depth) = depth {
        for account in accounts {
            for status in ["queued", "sending", "uncertain"] {
                drop(jobs.get_or_create(&labels(account, "status", status)));
            }
            for scope in ["account", "sender", "iys"] {
                drop(paused.get_or_create(&labels(account, "scope", scope)));
            }
            let own = vec![("account", account.clone())];
            drop(oldest.get_or_create(&own));
            drop(unexplained.get_or_create(&own));
        }
        for Depth {
            what,
            account,
            value,
        } in depth
        {
            if what == "oldest_due_ms" {
                let ms = u64::try_from(*value).unwrap_or(0);
                oldest
                    .get_or_create(&vec![("account", account.clone())])
                    .set(Duration::from_millis(ms).as_secs_f64());
            } else if what == UNEXPLAINED {
                unexplained
                    .get_or_create(&vec![("account", account.clone())])
                    .set(*value);
            } else if let Some(scope) = what.strip_prefix("paused_") {
                paused
                    .get_or_create(&labels(account, "scope", scope))
                    .set(*value);
            } else {
                jobs.get_or_create(&labels(account, "status", what))
                    .set(*value);
            }
        }
    }
    registry.register(
        "jobs",
        "Open jobs; of one account and priority, at most 50,000 are counted",
        jobs,
    );
    registry.register("pauses", "Pauses that hold", paused);
    registry.register(
        "unexplained_jobs",
        "Jobs that have been due for longer than a minute, and whose wait nothing explains",
        unexplained,
    );
    registry.register_with_unit(
        "oldest_due_age",
        "How long the oldest job has been due that could be claimed",
        Unit::Seconds,
        oldest,
    );
    registry
}

fn labels(account: &str, name: &'static str, value: &str) -> Labels {
    vec![("account", account.to_owned()), (name, value.to_owned())]
}

/// Ends the serving when it is dropped.
pub(crate) struct Serving(tokio::task::JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> Response {
    match monitor.text().await {
        Ok(text) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
        // Writing to memory does not fail.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn livez(State(monitor): State<Arc<Monitor>>) -> Response {
    answer(
        monitor.broken_down().or_else(|| monitor.outage.wedged()),
        "Its loops turn.",
    )
}

async fn readyz(State(monitor): State<Arc<Monitor>>) -> Response {
    answer(
        monitor.broken_down().or_else(|| monitor.outage.unready()),
        monitor.well,
    )
}

fn answer(failure: Option<String>, well: &str) -> Response {
    match failure {
        None => format!("{well}\n").into_response(),
        Some(sentence) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{sentence}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_says_is_missing_while_it_is_away_and_zero_where_there_is_nothing() {
        let accounts = ["one".to_owned()];
        let shown = |depth: Option<&[Depth]>| {
            let mut text = String::new();
            encode_registry(&mut text, &figures(&accounts, depth)).expect("memory");
            text
        };
        let away = shown(None);
        assert!(away.contains("sms_outbox_database_up 0"), "{away}");
        assert!(!away.contains("account="), "{away}");
        let of = |what: &str, value| Depth {
            what: what.to_owned(),
            account: "one".to_owned(),
            value,
        };
        let there = shown(Some(&[
            of("queued", 7),
            of("oldest_due_ms", 1_500),
            of("paused_iys", 1),
        ]));
        for line in [
            "sms_outbox_database_up 1",
            "sms_outbox_jobs{account=\"one\",status=\"queued\"} 7",
            "sms_outbox_jobs{account=\"one\",status=\"uncertain\"} 0",
            "sms_outbox_oldest_due_age_seconds{account=\"one\"} 1.5",
            "sms_outbox_pauses{account=\"one\",scope=\"iys\"} 1",
            "sms_outbox_pauses{account=\"one\",scope=\"account\"} 0",
        ] {
            assert!(there.lines().any(|shown| shown == line), "{line}: {there}");
        }
    }
}
