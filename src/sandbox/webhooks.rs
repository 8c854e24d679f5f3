//! Webhooks: what the provider tells of each message by itself (provider documentation, webhooks page).
//!
//! One JSON `POST` for each message and each change: `accepted` when it goes out, then `delivered` or `undelivered`. The page says
//! nothing of signatures, time limits, repeats and order; what is done here about them are settings in [`WebhookRules`] and faults
//! ([`super::WebhookFault`]). The events of one message leave one after another, those of different messages side by side.

mod announce;
mod queue;
mod sending;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub use announce::BeforeReply;
use queue::{Planned, Queue, What};
pub use sending::{client, run};

use super::span::{Span, spelled, spelled_list};
use super::state::Keep;

/// Where events go, and how. In the panel: Settings, API, Notification URL.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookRules {
    /// Where the events of every account go that has no address of its own; without one there are none.
    pub url: Option<WebhookUrl>,
    /// The addresses of single accounts, by [`super::fingerprint`] of the key.
    pub accounts: BTreeMap<String, WebhookUrl>,
    /// How long after a change its event leaves; that of an acceptance leaves so long after the reply was due.
    pub delay: Span,
    /// How long a receiver may take. Not documented.
    #[serde(with = "spelled")]
    pub timeout: Duration,
    /// How long to wait before each further try when the receiver was away, slow, or did not answer 2xx. Not documented.
    #[serde(with = "spelled_list")]
    pub retries: Vec<Duration>,
    /// Whether the text ends with the operator's code ` B186`, which the provider adds to every message. Not documented for events.
    pub operator_code: bool,
}

impl Default for WebhookRules {
    fn default() -> Self {
        WebhookRules {
            url: None,
            accounts: BTreeMap::new(),
            delay: Span::fixed(Duration::from_millis(50)),
            timeout: Duration::from_secs(10),
            retries: [1, 5, 25].map(Duration::from_secs).to_vec(),
            operator_code: false,
        }
    }
}

impl WebhookRules {
    /// Where the events of an account go.
    pub fn address(&self, fingerprint: &str) -> Option<&WebhookUrl> {
        self.accounts.get(fingerprint).or(self.url.as_ref())
    }
}

/// Where events go: an `http` address, since they go to a program under test.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebhookUrl(reqwest::Url);

/// The text is no address that events can go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("events go to an address such as http://127.0.0.1:8027/webhooks/default/SECRET")]
pub struct WebhookUrlError;

impl FromStr for WebhookUrl {
    type Err = WebhookUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url: reqwest::Url = text.parse().map_err(|_| WebhookUrlError)?;
        if url.scheme() != "http" {
            return Err(WebhookUrlError);
        }
        Ok(WebhookUrl(url))
    }
}

impl TryFrom<String> for WebhookUrl {
    type Error = WebhookUrlError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WebhookUrl> for String {
    fn from(url: WebhookUrl) -> Self {
        url.0.into()
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What stands behind the host is the receiver's secret.
        write!(f, "WebhookUrl({})", self.0.host_str().unwrap_or_default())
    }
}

/// What an event says, in the provider's own fields.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookEvent {
    /// The id of the message.
    pub id: i64,
    /// The id of its order.
    pub packet_id: i64,
    /// `accepted`, `delivered` or `undelivered`; a forged event may say anything.
    pub status: String,
    /// The number, `+90…`.
    pub to: String,
    /// The text as it was sent.
    pub body: String,
}

impl WebhookEvent {
    /// The body of the request.
    fn json(&self) -> Vec<u8> {
        /// Not a JSON value: that would put the fields into another order than the provider's.
        #[derive(serde::Serialize)]
        struct Body<'a> {
            report: &'a WebhookEvent,
        }
        serde_json::to_vec(&Body { report: self }).expect("an event is always written to a Vec")
    }
}

/// What was sent to a receiver, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WebhookRecord {
    /// When, microseconds since 1970.
    pub at: i64,
    /// What it said.
    pub event: WebhookEvent,
    /// The how-manieth try this was, from 1.
    pub attempt: usize,
    /// The fault that struck it, in its one-line form without conditions.
    pub fault: Option<String>,
    /// The HTTP status of the answer; `None` if none came in time.
    pub answer: Option<u16>,
}

/// The counts of what was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct WebhookStats {
    /// Requests that were made.
    pub requests: u64,
    /// Events that a receiver took: it answered 2xx.
    pub taken: u64,
    /// Requests that were not answered with 2xx, or not in time.
    pub failed: u64,
    /// Events that were given up after the last try.
    pub given_up: u64,
    /// Events that a fault kept back, or that found too many others waiting.
    pub lost: u64,
    /// Events that are on their way, or wait: for their time, for another try, or for an earlier one of the same message.
    pub waiting: u64,
}

/// The events that are to be sent, and what became of those that were.
#[derive(Debug)]
pub struct Webhooks {
    queue: Mutex<Queue>,
    /// Told whenever there is something new to send.
    changed: Notify,
    keep: Keep,
    records: Mutex<Vec<WebhookRecord>>,
}

impl Webhooks {
    /// Nothing to send yet.
    pub fn new(keep: Keep) -> Self {
        Webhooks {
            queue: Mutex::default(),
            changed: Notify::new(),
            keep,
            records: Mutex::default(),
        }
    }

    /// Forgets what waits and what was.
    pub fn reset(&self) {
        self.queue().clear();
        self.records().clear();
    }

    /// The counts.
    pub fn stats(&self) -> WebhookStats {
        let queue = self.queue();
        WebhookStats {
            waiting: u64::try_from(queue.waiting()).unwrap_or(u64::MAX),
            ..queue.stats
        }
    }

    /// What was sent, oldest first.
    pub fn records(&self) -> MutexGuard<'_, Vec<WebhookRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an event as it stands, so many times, to the address of an account.
    pub fn send(&self, account: usize, event: &WebhookEvent, times: usize, now: i64) {
        let message = (event.packet_id, event.id);
        let given = || What::Given(Box::new(event.clone()));
        self.plan((0..times).map(|_| Planned::new(now, message, account, given())));
    }

    fn plan(&self, events: impl IntoIterator<Item = Planned>) {
        let mut queue = self.queue();
        for planned in events {
            queue.plan(planned);
        }
        drop(queue);
        self.changed.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held, and a half-made change does no harm here.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
