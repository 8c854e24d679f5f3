//! Webhooks: what the provider tells of each message by itself (provider documentation, webhooks page).
//!
//! One JSON `POST` for each message and each change: `accepted` when it goes out, then `delivered` or `undelivered`. The page says
//! nothing of signatures, time limits, repeats and order; what is done here about them are settings in [`WebhookRules`] and faults
//! ([`WebhookFault`]). The events of one message leave one after another, those of different messages side by side.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc};

use super::api::Shared;
use super::delivery::Fate;
use super::dice::lot;
use super::faults::WebhookFault;
use super::order::Order;
use super::span::{Span, micros, spelled, spelled_list};
use super::state::Keep;

/// Requests to receivers that are under way at once.
const AT_ONCE: usize = 32;

/// Events that wait at most; what comes on top is lost. A receiver that is never there must not use up the memory.
const MOST_WAITING: usize = 1_000_000;

/// How far the made-up message id of a forged event is from the true one.
const FORGED: i64 = 400_000_000;

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
        serde_json::to_vec(&serde_json::json!({"report": self}))
            .expect("an event is always written to a Vec")
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
}

#[derive(Debug)]
struct Queue {
    due: BinaryHeap<Reverse<Planned>>,
    /// Messages of which an event is on its way, and the events that come after it.
    under_way: HashMap<MessageKey, VecDeque<Planned>>,
    /// Events that were taken and are neither over nor put off.
    taken: usize,
    next_number: u64,
    keep: Keep,
    records: Vec<WebhookRecord>,
    stats: WebhookStats,
}

/// What tells messages apart: the ids of its order and its own.
type MessageKey = (i64, i64);

/// An event and when it is due. Which event it is, is only worked out when it leaves: it may have been overtaken by then.
#[derive(Debug)]
pub struct Planned {
    at: i64,
    /// The order in which they were planned, for those of one moment.
    number: u64,
    message: MessageKey,
    /// Position of the account, for the address.
    account: usize,
    what: What,
    attempt: usize,
    fault: Option<WebhookFault>,
    /// It goes before all others of its message: it was on its way already.
    goes_on: bool,
    /// Dropped when the first try is over; somebody may wait for that.
    first_try: Option<mpsc::Sender<Infallible>>,
}

#[derive(Debug, Clone)]
enum What {
    /// A change of a message of an order. `said`: by somebody, and not by the draw.
    Change {
        order: Arc<Order>,
        index: usize,
        change: Change,
        said: bool,
    },
    /// Exactly this.
    Given(WebhookEvent),
}

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was accepted.
    Accepted,
    /// It ended.
    Final(Fate),
}

impl Change {
    fn status(self) -> Option<&'static str> {
        match self {
            Change::Accepted => Some("accepted"),
            Change::Final(Fate::Delivered) => Some("delivered"),
            Change::Final(Fate::Undelivered) => Some("undelivered"),
            Change::Final(Fate::Never) => None,
        }
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Planned {
    fn new(at: i64, message: MessageKey, account: usize, what: What) -> Self {
        Planned {
            at,
            number: 0,
            message,
            account,
            what,
            attempt: 0,
            fault: None,
            goes_on: false,
            first_try: None,
        }
    }
}

impl Queue {
    fn plan(&mut self, mut planned: Planned) {
        if self.due.len() >= MOST_WAITING {
            self.stats.lost += 1;
            return;
        }
        planned.number = self.next_number;
        self.next_number += 1;
        self.due.push(Reverse(planned));
    }

    /// The next event that is due and whose message has no other on its way. Afterwards it is put off, or over.
    fn take(&mut self, now: i64) -> Option<Planned> {
        while self.due.peek().is_some_and(|Reverse(next)| next.at <= now) {
            let Reverse(next) = self.due.pop()?;
            match self.under_way.get_mut(&next.message) {
                Some(after) if !next.goes_on => after.push_back(next),
                _ => {
                    self.under_way.entry(next.message).or_default();
                    self.taken += 1;
                    return Some(next);
                }
            }
        }
        None
    }

    /// An event leaves later; those of its message go on waiting for it.
    fn put_off(&mut self, planned: Planned, until: i64) {
        self.taken -= 1;
        if self.under_way.contains_key(&planned.message) {
            self.resume(planned, until);
        }
        // Else everything was forgotten meanwhile.
    }

    /// An event is over and done with: the next one of its message may leave.
    fn over(&mut self, message: MessageKey, now: i64) {
        self.taken -= 1;
        let Some(after) = self.under_way.get_mut(&message) else {
            return;
        };
        match after.pop_front() {
            Some(next) => self.resume(next, now),
            None => {
                self.under_way.remove(&message);
            }
        }
    }

    fn resume(&mut self, mut planned: Planned, at: i64) {
        planned.at = at;
        planned.goes_on = true;
        self.plan(planned);
    }

    fn next_due(&self) -> Option<i64> {
        self.due.peek().map(|Reverse(next)| next.at)
    }
}

impl Webhooks {
    /// Nothing to send yet.
    pub fn new(keep: Keep) -> Self {
        Webhooks {
            queue: Mutex::new(Queue {
                due: BinaryHeap::new(),
                under_way: HashMap::new(),
                taken: 0,
                next_number: 0,
                keep,
                records: Vec::new(),
                stats: WebhookStats::default(),
            }),
            changed: Notify::new(),
        }
    }

    /// Forgets what waits and what was.
    pub fn reset(&self) {
        let mut queue = self.queue();
        queue.due.clear();
        queue.under_way.clear();
        queue.records.clear();
        queue.stats = WebhookStats::default();
    }

    /// The counts.
    pub fn stats(&self) -> WebhookStats {
        let queue = self.queue();
        let after: usize = queue.under_way.values().map(VecDeque::len).sum();
        WebhookStats {
            waiting: u64::try_from(queue.due.len() + after + queue.taken).unwrap_or(u64::MAX),
            ..queue.stats
        }
    }

    /// What was sent, oldest first.
    pub fn records(&self) -> Vec<WebhookRecord> {
        self.queue().records.clone()
    }

    /// Sends an event as it stands, so many times, to the address of an account.
    pub fn send(&self, account: usize, event: &WebhookEvent, times: usize, now: i64) {
        let mut queue = self.queue();
        for _ in 0..times {
            let message = (event.packet_id, event.id);
            queue.plan(Planned::new(
                now,
                message,
                account,
                What::Given(event.clone()),
            ));
        }
        drop(queue);
        self.changed.notify_one();
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

/// Closed when the events that have to be there before the reply have been tried once.
pub type BeforeReply = mpsc::Receiver<Infallible>;

impl Shared {
    /// Plans the events of an order that was just accepted. The reply has to wait for what comes back.
    pub fn announce(&self, order: &Arc<Order>, now: i64) -> Option<BeforeReply> {
        let rules = self.rules();
        rules.webhooks.address(&order.head().account)?;
        let (first_try, before_reply) = mpsc::channel(1);
        let mut waits = false;
        let reply_due = now.saturating_add(micros(rules.latency.at(1.0)));
        let key = &self.accounts[order.account].key;
        let mut events = Vec::with_capacity(2 * order.total());
        for (index, (text, number)) in order.messages().enumerate() {
            let fault = self.faults.of_message(key, text, number, |at| {
                lot(
                    order.lots.seed,
                    [order.id, position(index), MESSAGE_FAULT | at],
                )
            });
            let (accepted_at, final_at) = moments(order, index, reply_due, rules.webhooks.delay);
            let mut accepted = change(order, index, accepted_at, Change::Accepted, false);
            if fault == Some(WebhookFault::BeforeReply) {
                accepted.at = now;
                accepted.first_try = Some(first_try.clone());
                waits = true;
            }
            let course = order.drawn(index);
            let ended = change(order, index, final_at, Change::Final(course.fate), false);
            match course.fate {
                Fate::Never => events.push(accepted),
                _ if fault == Some(WebhookFault::Reordered) => {
                    accepted.at = final_at;
                    events.extend([ended, accepted]);
                }
                _ => events.extend([accepted, ended]),
            }
        }
        self.webhooks.plan(events);
        waits.then_some(before_reply)
    }

    /// Sends the events of what somebody said of messages; after their acceptance, as ever.
    pub fn announce_said(&self, order: &Arc<Order>, positions: &[usize], fate: Fate, now: i64) {
        let rules = self.rules();
        if rules.webhooks.address(&order.head().account).is_none() {
            return;
        }
        let latency = micros(rules.latency.at(1.0));
        let reply_due = order.head().accepted_at.saturating_add(latency);
        let events = positions.iter().map(|index| {
            let (accepted_at, _) = moments(order, *index, reply_due, rules.webhooks.delay);
            change(
                order,
                *index,
                accepted_at.max(now),
                Change::Final(fate),
                true,
            )
        });
        self.webhooks.plan(events);
    }

    /// The event that tells of a change of a message.
    pub fn event(&self, order: &Order, index: usize, status: &str) -> Option<WebhookEvent> {
        let (text, number, id) = order.message(index)?;
        let mut body = text.sent_text.clone();
        if self.rules().webhooks.operator_code {
            body.push_str(" B186");
        }
        Some(WebhookEvent {
            id,
            packet_id: i64::try_from(order.id).unwrap_or(i64::MAX),
            status: status.to_owned(),
            to: format!("+{number}"),
            body,
        })
    }

    /// What an event says now that it leaves; `None` if it does not: its order was cancelled, or somebody said otherwise.
    fn said_by(&self, what: &What) -> Option<WebhookEvent> {
        match what {
            What::Given(event) => Some(event.clone()),
            What::Change {
                order,
                index,
                change,
                said,
            } => {
                let state = self.state();
                let overruled = *change != Change::Accepted
                    && !said
                    && state.rulings(order).is_some_and(|r| r.contains_key(index));
                if overruled || state.not_sent(order, self.clock.now()).is_some() {
                    return None;
                }
                drop(state);
                self.event(order, *index, change.status()?)
            }
        }
    }

    /// The fault that applies to an event, to all its tries together.
    fn fault_of(&self, planned: &Planned) -> Option<WebhookFault> {
        let What::Change {
            order,
            index,
            change,
            ..
        } = &planned.what
        else {
            return None;
        };
        let (text, number, _) = order.message(*index)?;
        let question = match change {
            Change::Accepted => ACCEPTED_FAULT,
            Change::Final(_) => FINAL_FAULT,
        };
        let key = &self.accounts[order.account].key;
        self.faults.of_event(key, text, number, |at| {
            lot(order.lots.seed, [order.id, position(*index), question | at])
        })
    }
}

/// What the lots of faults are about; the position of the fault is added to it.
const MESSAGE_FAULT: u64 = 1 << 32;
const ACCEPTED_FAULT: u64 = 2 << 32;
const FINAL_FAULT: u64 = 3 << 32;
/// The lot of how late the events of a message leave.
const LATENESS: u64 = 4 << 32;

fn position(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX)
}

/// When the events of a message leave: of its acceptance, and of its end.
fn moments(order: &Order, index: usize, reply_due: i64, delay: Span) -> (i64, i64) {
    // One delay for both, so that they keep their order.
    let delay = delay.at(lot(order.lots.seed, [order.id, position(index), LATENESS]));
    let accepted = reply_due.max(order.head().send_at);
    let ended = accepted.max(order.drawn(index).at);
    (
        accepted.saturating_add(micros(delay)),
        ended.saturating_add(micros(delay)),
    )
}

fn change(order: &Arc<Order>, index: usize, at: i64, change: Change, said: bool) -> Planned {
    let id = order.message(index).map_or(0, |(_, _, id)| id);
    let packet_id = i64::try_from(order.id).unwrap_or(i64::MAX);
    let what = What::Change {
        order: Arc::clone(order),
        index,
        change,
        said,
    };
    Planned::new(at, (packet_id, id), order.account, what)
}

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
    let mut queue = shared.webhooks.queue();
    queue.stats.requests += 1;
    queue.stats.taken += u64::from(taken);
    queue.stats.failed += u64::from(!taken);
    if queue.keep == Keep::Everything {
        let record = WebhookRecord {
            at: now,
            event: event.clone(),
            attempt: planned.attempt,
            fault: planned.fault.as_ref().map(ToString::to_string),
            answer: answer.map(|status| status.as_u16()),
        };
        queue.records.push(record);
    }
    let pause = rules.webhooks.retries.get(planned.attempt - 1);
    match (taken, pause, &planned.fault) {
        (false, Some(pause), _) => {
            let until = now.saturating_add(micros(*pause));
            queue.put_off(planned, until);
        }
        (true, _, Some(WebhookFault::Repeated)) => {
            let again = Planned::new(now, planned.message, planned.account, What::Given(event));
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
                What::Given(forged),
            ));
            queue.over(planned.message, now);
        }
        (taken, ..) => {
            queue.stats.given_up += u64::from(!taken);
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
