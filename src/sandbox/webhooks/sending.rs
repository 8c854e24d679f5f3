//! The task that sends events.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::queue::{Planned, What};
use super::{WebhookEvent, WebhookRecord, WebhookUrl};
use crate::sandbox::api::Shared;
use crate::sandbox::faults::WebhookFault;
use crate::sandbox::span::micros;
use crate::sandbox::state::Keep;

/// Requests to receivers that are under way at once.
const AT_ONCE: usize = 32;

/// How far the made-up message id of a forged event is from the true one.
const FORGED: i64 = 400_000_000;

/// Sends what is due, until it is dropped.
pub async fn run(shared: Arc<Shared>, client: reqwest::Client) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let mut next_due = None;
        while under_way.len() < AT_ONCE {
            let now = shared.clock.now();
            let taken = shared.webhooks.queue().take(now);
            let Some(planned) = taken else {
                next_due = shared.webhooks.queue().next_due();
                break;
            };
            match prepare(&shared, planned, now) {
                Some((planned, event, url)) => {
                    under_way.push(attempt(&shared, &client, planned, event, url));
                }
                None => shared.progress.notify_waiters(),
            }
        }
        let pause = next_due.map(|at| {
            let micros = u64::try_from(at - shared.clock.now()).unwrap_or(0);
            Duration::from_micros(micros)
        });
        let come = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(()) = under_way.next() => {}
            () = shared.webhooks.changed.notified() => {}
            () = come => {}
        }
    }
}

/// What an event that is due says, and to whom; `None` if it does not leave now.
fn prepare(
    shared: &Shared,
    mut planned: Planned,
    now: i64,
) -> Option<(Planned, WebhookEvent, WebhookUrl)> {
    let message = planned.message;
    let rules = shared.rules();
    let fingerprint = &shared.accounts[planned.account].fingerprint;
    let address = rules.webhooks.address(fingerprint);
    let Some((event, url)) = shared.said_by(&planned.what).zip(address) else {
        shared.webhooks.queue().over(message, now);
        return None;
    };
    if planned.attempt == 0 && planned.fault.is_none() {
        planned.fault = shared.fault_of(&planned);
        match &planned.fault {
            Some(WebhookFault::Lost) => {
                let mut queue = shared.webhooks.queue();
                queue.stats.lost += 1;
                queue.over(message, now);
                return None;
            }
            Some(WebhookFault::Delayed(span)) => {
                let late = micros(shared.faults.draw_length(*span));
                let until = now.saturating_add(late);
                shared.webhooks.queue().put_off(planned, until);
                return None;
            }
            _ => {}
        }
    }
    Some((planned, event, url.clone()))
}

/// Makes one request, and plans what follows from its answer.
async fn attempt(
    shared: &Shared,
    client: &reqwest::Client,
    mut planned: Planned,
    event: WebhookEvent,
    url: WebhookUrl,
) {
    let rules = shared.rules();
    let mut body = event.json();
    if planned.attempt == 0 && planned.fault == Some(WebhookFault::Malformed) {
        // What is sent again is whole.
        body.truncate(body.len() / 2);
    }
    let request = client
        .post(url.0)
        .timeout(rules.webhooks.timeout)
        .header(CONTENT_TYPE, "application/json")
        .body(body);
    let answer = request.send().await.ok().map(|answer| answer.status());
    let taken = answer.is_some_and(|status| status.is_success());

    let now = shared.clock.now();
    planned.attempt += 1;
    planned.first_try = None;
    if shared.webhooks.keep == Keep::Everything {
        shared.webhooks.records().push(WebhookRecord {
            at: now,
            event: event.clone(),
            attempt: planned.attempt,
            fault: planned.fault.as_ref().map(ToString::to_string),
            answer: answer.map(|status| status.as_u16()),
        });
    }
    let mut queue = shared.webhooks.queue();
    queue.stats.requests += 1;
    queue.stats.taken += u64::from(taken);
    queue.stats.failed += u64::from(!taken);
    let pause = rules.webhooks.retries.get(planned.attempt - 1);
    match (taken, pause, &planned.fault) {
        (false, Some(pause), _) => {
            let until = now.saturating_add(micros(*pause));
            queue.put_off(planned, until);
        }
        (true, _, Some(WebhookFault::Repeated)) => {
            let again = Planned::new(
                now,
                planned.message,
                planned.account,
                What::Given(Box::new(event)),
            );
            queue.put_off(again, now);
        }
        (true, _, Some(WebhookFault::Forged)) => {
            let forged = WebhookEvent {
                id: event.id - FORGED,
                status: if event.status == "delivered" {
                    "undelivered".to_owned()
                } else {
                    "delivered".to_owned()
                },
                ..event
            };
            let message = (forged.packet_id, forged.id);
            queue.plan(Planned::new(
                now,
                message,
                planned.account,
                What::Given(Box::new(forged)),
            ));
            queue.over(planned.message, now);
        }
        (true, ..) => queue.over(planned.message, now),
        (false, None, _) => {
            let (order_id, message_id) = planned.message;
            tracing::warn!(order_id, message_id, answer = ?answer, "no receiver took an event");
            queue.stats.given_up += 1;
            queue.over(planned.message, now);
        }
    }
    drop(queue);
    shared.progress.notify_waiters();
}

/// A client that does nothing on its own: each try is one that was planned.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Never used: all addresses are `http`. The client wants to have one all the same.
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider of these versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .user_agent(concat!("sms-outbox-sandbox/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http1_only()
        .no_proxy()
        .referer(false)
        .tls_backend_preconfigured(tls)
        .build()
}
