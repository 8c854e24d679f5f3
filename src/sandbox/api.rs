//! Answering the provider's part of the HTTP interface: read, decide, and deliver the answer or keep it back.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};

use super::faults::{FaultKind, FaultPlan};
use super::ledger::{LedgerFile, RequestRecord};
use super::link::{Caller, Cut, Links};
use super::lists::Lists;
use super::numbers::{masked, one_spelling};
use super::reports;
use super::rules::{Rules, Submission, judge};
use super::state::{Accepted, Circumstances, Pace, ProviderState};
use super::webhooks::{BeforeReply, Webhooks};
use super::wire::{Action, Call, Refusal, message_of, number_text};

/// Larger than 50,000 numbers in any spelling; the provider's own limit is not documented.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// A clock in microseconds since 1970 that never goes back, even if the system's clock is set.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    started_at: i64,
}

impl Clock {
    /// Starts with the system's time.
    pub fn start() -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Clock {
            started: Instant::now(),
            started_at: i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX),
        }
    }

    /// Now.
    pub fn now(&self) -> i64 {
        self.started_at
            .saturating_add(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

/// A key and its hash, as the panel would issue them.
#[derive(Clone)]
pub struct Account {
    /// `authentication.key`.
    pub key: String,
    /// `authentication.hash`.
    pub hash: String,
    /// What the key is called wherever something is written down.
    pub fingerprint: String,
}

/// Everything that the handlers and the handle share.
pub struct Shared {
    /// Tells the time.
    pub clock: Clock,
    /// Who may use the API.
    pub accounts: Vec<Account>,
    /// The settings, replaced as a whole.
    pub rules: RwLock<Arc<Rules>>,
    /// What depends on history. Never held across a wait.
    pub state: Mutex<ProviderState>,
    /// The faults that were ordered.
    pub faults: FaultPlan,
    /// The events that tell of messages.
    pub webhooks: Webhooks,
    /// Whom the accounts may reach.
    pub lists: Mutex<Lists>,
    /// The ledger on disk.
    pub file: Option<LedgerFile>,
    /// The open connections.
    pub links: Arc<Links>,
    /// Counts how often everything held was let go.
    pub releases: watch::Sender<u64>,
    /// Requests and replies that are held now.
    pub held: AtomicU64,
    /// Told whenever something was written down.
    pub progress: Notify,
    /// The settings at the start, for a reset.
    pub first_rules: Rules,
}

/// What the client is told, if it is told anything.
struct Answer {
    http: u16,
    body: Vec<u8>,
    content_type: &'static str,
    retry_after: Option<u64>,
    /// Events that have to leave first.
    before_reply: Option<BeforeReply>,
}

/// What was decided about a request.
enum Outcome {
    /// An order.
    Accepted(Accepted),
    /// 200 with these keys beside the status.
    Told(Map<String, Value>),
    /// Another code; the HTTP status if a fault chose it.
    Refused(Refusal, Option<u16>),
    /// HTTP 429.
    Throttled,
    /// Nobody looked at it.
    Untouched,
}

/// What is added to the envelope, or another code than 200.
type Told = Result<Map<String, Value>, Refusal>;

impl Outcome {
    fn told(told: Told) -> Self {
        match told {
            Ok(extras) => Outcome::Told(extras),
            Err(refusal) => Outcome::Refused(refusal, None),
        }
    }

    fn code(&self) -> Option<u16> {
        match self {
            Outcome::Accepted(_) | Outcome::Told(_) => Some(200),
            Outcome::Refused(refusal, _) => Some(refusal.code),
            Outcome::Throttled | Outcome::Untouched => None,
        }
    }
}

/// Handles every request that is not the sandbox's own administration.
pub async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
) -> Response {
    // A fresh connection was let in at the door; for an open one this is the moment before anything is read.
    if !caller.is_first_request() && shared.faults.refuses() {
        shared.state().note_refused_connection();
        return cut_now(&caller, Cut::Close);
    }
    let action = if request.method() == Method::POST {
        Action::of_path(request.uri().path())
    } else {
        Action::Unknown
    };
    let Ok(body) = to_bytes(request.into_body(), MAX_BODY_BYTES).await else {
        return page(413, None).into();
    };
    let arrived_at = shared.clock.now();
    let call = Call::read(action, &body);
    drop(body);
    let _under_way = BulkUnderWay::begin(&shared, &call);
    let response = match shared.faults.injected(&call) {
        None => {
            let mut answer = shared.decide(&call, arrived_at, None, None);
            answer.wait_for_events().await;
            shared.take_time().await;
            answer.into()
        }
        Some(fault) => struck(&shared, &caller, call, arrived_at, fault).await,
    };
    shared.progress.notify_waiters();
    response
}

/// Answers a request that a fault applies to. Whatever else happens, it is decided and written down exactly once, unless the client
/// leaves while the request is held.
async fn struck(
    shared: &Arc<Shared>,
    caller: &Caller,
    call: Call,
    arrived_at: i64,
    fault: FaultKind,
) -> Response {
    tracing::info!(action = call.action.name(), %fault, "a fault is injected");
    let mut pace = None;
    match fault {
        FaultKind::Hold => {
            // It counts for the second in which it arrived, not for the one in which it is looked at.
            pace = Some(shared.pace(&call, arrived_at));
            shared.held_until_release().await;
        }
        FaultKind::AcceptLate(late) => {
            let pace = Some(shared.pace(&call, arrived_at));
            // A task of its own: the order is taken even if the client has gone.
            let owned = Arc::clone(shared);
            let decided = tokio::spawn(async move {
                tokio::time::sleep(late).await;
                let answer = owned.decide(&call, arrived_at, Some(&fault), pace);
                owned.progress.notify_waiters();
                answer
            });
            // It fails only while the runtime is shutting down.
            let Ok(mut answer) = decided.await else {
                return cut_now(caller, Cut::Close);
            };
            answer.wait_for_events().await;
            return answer.into();
        }
        _ => {}
    }
    let mut answer = shared.decide(&call, arrived_at, Some(&fault), pace);
    shared.progress.notify_waiters();
    answer.wait_for_events().await;
    shared.take_time().await;
    match fault {
        FaultKind::Answer { .. }
        | FaultKind::Hold
        | FaultKind::AcceptLate(_)
        | FaultKind::Webhook(_) => answer.into(),
        FaultKind::Http {
            status,
            retry_after,
        } => page(status, retry_after).into(),
        FaultKind::Drop | FaultKind::Refuse | FaultKind::AcceptDrop => cut_now(caller, Cut::Close),
        FaultKind::AcceptReset => cut_now(caller, Cut::Reset),
        FaultKind::Stall(end) | FaultKind::AcceptStall(end) => {
            match end {
                Some(end) => tokio::time::sleep(end).await,
                None => std::future::pending().await,
            }
            cut_now(caller, Cut::Close)
        }
        FaultKind::Delay(span) => {
            tokio::time::sleep(shared.faults.draw_length(span)).await;
            answer.into()
        }
        FaultKind::AcceptHold => {
            shared.held_until_release().await;
            answer.into()
        }
        FaultKind::AcceptHttp { status } => page(status, None).into(),
        FaultKind::AcceptGarbage => answer.with_body(b"\x00\xff<<<not json at all".to_vec()),
        FaultKind::AcceptCut => {
            let half = answer.body[..answer.body.len() / 2].to_vec();
            answer.with_body(half)
        }
        FaultKind::AcceptCutBody => half_sent(answer),
        FaultKind::AcceptEmpty => answer.with_body(Vec::new()),
    }
}

impl Shared {
    /// The settings of this moment.
    pub fn rules(&self) -> Arc<Rules> {
        // A replaced pointer cannot be half replaced.
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes settings; whoever reads them sees all of the change or nothing of it.
    pub fn change_rules<T>(&self, change: impl FnOnce(&mut Rules) -> T) -> T {
        let mut current = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Rules::clone(&current);
        let outcome = change(&mut changed);
        *current = Arc::new(changed);
        outcome
    }

    /// The lists, for a moment.
    pub fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what is about lists and not about orders; `None` for everything else.
    fn tell_of_lists(&self, call: &Call, rules: &Rules, now: i64) -> Option<Told> {
        // Whoever holds the lists waits for nothing: those who change settings as well take them last.
        let told = match call.action {
            Action::GetBlacklist => self.lists().blocked(call, rules, self.clock.started_at),
            Action::AddBlacklist => self.change_rules(|rules| self.lists().block(call, rules, now)),
            Action::DeleteBlacklist => self.change_rules(|rules| self.lists().unblock(call, rules)),
            Action::ConsentCreate => self.change_rules(|rules| self.lists().register(call, rules)),
            Action::ConsentShow => self.lists().consent(call, rules),
            Action::SendSms | Action::CancelOrder | Action::Unknown => return None,
            Action::GetBalance | Action::GetSender => return None,
            Action::GetReport | Action::GetReports => return None,
        };
        Some(told)
    }

    /// The state, for a moment.
    pub fn state(&self) -> MutexGuard<'_, ProviderState> {
        // After a panic in a test the counts may be off by one; refusing to show them would hide what happened.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_time(&self) {
        let latency = self.rules().latency;
        if !latency.is_zero() {
            tokio::time::sleep(self.faults.draw_length(latency)).await;
        }
    }

    async fn held_until_release(&self) {
        let mut releases = self.releases.subscribe();
        let _held = Held::count(&self.held);
        self.progress.notify_waiters();
        // Fails only when the sandbox is gone.
        let _ = releases.changed().await;
    }

    /// The account whose key and hash a request carries.
    fn account_of(&self, call: &Call) -> Option<usize> {
        let (key, hash) = call.credentials()?;
        self.accounts
            .iter()
            .position(|account| account.key == key && account.hash == hash)
    }

    /// Counts an order that will only be looked at later against the rate.
    fn pace(&self, call: &Call, arrived_at: i64) -> Pace {
        let rules = self.rules();
        match self.account_of(call) {
            Some(account) if call.action == Action::SendSms => {
                self.state()
                    .pace(account, arrived_at, call.recipients(), &rules)
            }
            _ => Pace::Fine,
        }
    }

    /// Decides what becomes of a request, changes the state, and writes it down: in memory and on disk, before anyone is answered.
    fn decide(
        &self,
        call: &Call,
        arrived_at: i64,
        fault: Option<&FaultKind>,
        paced: Option<Pace>,
    ) -> Answer {
        let rules = self.rules();
        let now = self.clock.now();
        let treatment = Treatment::under(fault);
        let replied = fault.is_none_or(FaultKind::delivers_the_answer);
        let known_account = self.account_of(call);
        let allowed_account = allow(call, known_account, &rules);
        // What needs no history is worked out before the state are opened.
        let judged = (call.action == Action::SendSms && treatment == Treatment::Usual).then(|| {
            judge(&rules, call, now).map(|submission| {
                let keys = submission.guard_keys();
                (submission, keys)
            })
        });

        let of_lists = match (treatment, &allowed_account) {
            (Treatment::Usual, Ok(_)) => self.tell_of_lists(call, &rules, now),
            _ => None,
        };

        let mut state = self.state();
        let pace = match (paced, known_account) {
            (Some(paced), _) => paced,
            (None, Some(account)) if call.action == Action::SendSms => {
                state.pace(account, arrived_at, call.recipients(), &rules)
            }
            (None, _) => Pace::Fine,
        };
        let outcome = match (treatment, allowed_account, judged) {
            (Treatment::Answered { code, http }, ..) => Outcome::Refused(Refusal::code(code), http),
            (Treatment::Untouched, ..) => Outcome::Untouched,
            (Treatment::Usual, Err(refusal), _) => Outcome::Refused(refusal, None),
            (Treatment::Usual, Ok(_), _) if pace == Pace::Throttled => Outcome::Throttled,
            (Treatment::Usual, Ok(account), Some(judged)) => {
                let circumstances = Circumstances {
                    account,
                    arrived_at,
                    now,
                    fault: fault.map(FaultKind::to_string),
                    replied,
                };
                take_order(&mut state, &rules, &circumstances, judged)
            }
            (Treatment::Usual, Ok(account), None) => Outcome::told(
                of_lists.unwrap_or_else(|| tell(&mut state, account, call, &rules, now)),
            ),
        };
        state.note_request(call.action, outcome.code(), fault.is_some(), || {
            RequestRecord {
                arrived_at,
                action: call.action,
                account: known_account.map(|at| self.accounts[at].fingerprint.clone()),
                recipients: call.recipients(),
                code: outcome.code(),
                order_id: match &outcome {
                    Outcome::Accepted(accepted) => Some(accepted.order_id.to_string()),
                    _ => None,
                },
                fault: fault.map(FaultKind::to_string),
                replied,
                sender: call.sender().map(str::to_owned),
                text: call.texts().next().map(str::to_owned),
                first_number: first_number(call),
                body_fingerprint: call.body_fingerprint,
            }
        });
        drop(state);

        log(call, &outcome);
        match self.write_to_file(&outcome) {
            Ok(()) => {
                let before_reply = match &outcome {
                    Outcome::Accepted(Accepted {
                        order: Some(order), ..
                    }) => self.announce(order, now),
                    _ => None,
                };
                Answer {
                    before_reply,
                    ..dress(&rules, outcome)
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "an accepted order could not be written to the ledger file"
                );
                // Nobody is told of an order that is not written down.
                page(500, None)
            }
        }
    }

    fn write_to_file(&self, outcome: &Outcome) -> io::Result<()> {
        match (outcome, &self.file) {
            (
                Outcome::Accepted(Accepted {
                    order: Some(order), ..
                }),
                Some(file),
            ) => order.texts.iter().try_for_each(|text| file.append(text)),
            _ => Ok(()),
        }
    }
}

/// What a fault leaves of the usual treatment of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// All of it; at most the reply suffers.
    Usual,
    /// Nothing: the code is settled.
    Answered { code: u16, http: Option<u16> },
    /// Nothing, and there is no code either.
    Untouched,
}

impl Treatment {
    fn under(fault: Option<&FaultKind>) -> Self {
        use FaultKind::*;
        match fault {
            None => Treatment::Usual,
            Some(Answer { code, http }) => Treatment::Answered {
                code: *code,
                http: *http,
            },
            Some(Http { .. } | Drop | Stall(_) | Refuse) => Treatment::Untouched,
            Some(Hold | Delay(_) | AcceptLate(_) | AcceptHold | Webhook(_)) => Treatment::Usual,
            Some(AcceptDrop | AcceptReset | AcceptStall(_) | AcceptHttp { .. }) => Treatment::Usual,
            Some(AcceptGarbage | AcceptCut | AcceptCutBody | AcceptEmpty) => Treatment::Usual,
        }
    }
}

/// May this request be treated at all? 404 for an unknown action, 400 for a body that cannot be read, 401 for wrong credentials or
/// while the panel's switch is off (provider documentation, authentication and error-codes pages).
fn allow(call: &Call, account: Option<usize>, rules: &Rules) -> Result<usize, Refusal> {
    if call.action == Action::Unknown {
        return Err(Refusal::code(404));
    }
    if call.request().is_none() {
        return Err(Refusal::code(400));
    }
    account
        .filter(|_| rules.api_access)
        .ok_or_else(|| Refusal::code(401))
}

fn first_number(call: &Call) -> Option<String> {
    let number = call.numbers().next().and_then(number_text)?;
    Some(one_spelling(&number))
}

type Judged = Result<(Submission, Vec<u64>), Refusal>;

fn take_order(
    state: &mut ProviderState,
    rules: &Rules,
    circumstances: &Circumstances,
    judged: Judged,
) -> Outcome {
    let submitted =
        judged.and_then(|(submission, keys)| state.submit(rules, submission, &keys, circumstances));
    match submitted {
        Ok(accepted) => Outcome::Accepted(accepted),
        Err(refusal) => Outcome::Refused(refusal, None),
    }
}

/// Answers a question, or cancels an order.
fn tell(state: &mut ProviderState, account: usize, call: &Call, rules: &Rules, now: i64) -> Told {
    let unknown = || Err(Refusal::code(404));
    match call.action {
        Action::GetBalance => {
            let sms = state.balance(account);
            // `amount` (in lira) means nothing for an account that pays in credits; it is shown as in the documentation's sample.
            let balance = json!({"amount": rules.reply.money(sms.saturating_mul(1_580), '.'), "sms": rules.reply.figure(sms)});
            Ok(Map::from_iter([("balance".to_owned(), balance)]))
        }
        Action::GetSender => Ok(Map::from_iter([(
            "senders".to_owned(),
            json!({"sender": rules.senders}),
        )])),
        Action::GetReport => reports::get_report(state, account, call, rules, now),
        Action::GetReports => reports::get_reports(state, account, call, rules, now),
        Action::CancelOrder => reports::cancel_order(state, account, call, now),
        // Answered elsewhere, or nowhere.
        Action::GetBlacklist | Action::AddBlacklist | Action::DeleteBlacklist => unknown(),
        Action::ConsentCreate | Action::ConsentShow => unknown(),
        Action::SendSms | Action::Unknown => unknown(),
    }
}

/// Numbers masked; texts, keys and hashes never.
fn log(call: &Call, outcome: &Outcome) {
    let to = || {
        first_number(call)
            .map(|number| masked(&number))
            .unwrap_or_default()
    };
    match outcome {
        Outcome::Accepted(accepted) => {
            tracing::debug!(order_id = accepted.order_id, to = %to(), "order accepted")
        }
        Outcome::Refused(refusal, _) => {
            tracing::debug!(action = call.action.name(), code = refusal.code, to = %to(), "request refused");
        }
        Outcome::Throttled => tracing::debug!(to = %to(), "request throttled"),
        Outcome::Told(_) | Outcome::Untouched => {
            tracing::debug!(action = call.action.name(), "request seen")
        }
    }
}

fn dress(rules: &Rules, outcome: Outcome) -> Answer {
    let envelope = |code: u16, http: Option<u16>, body: Vec<u8>| Answer {
        http: http.unwrap_or_else(|| rules.reply.http_status.of(code)),
        body,
        content_type: "application/json",
        retry_after: None,
        before_reply: None,
    };
    match outcome {
        Outcome::Accepted(accepted) => envelope(200, None, rules.reply.accepted(accepted.order_id)),
        Outcome::Told(extras) => envelope(
            200,
            None,
            rules.reply.envelope(200, message_of(200), extras),
        ),
        Outcome::Refused(refusal, http) => {
            envelope(refusal.code, http, rules.reply.refusal(&refusal))
        }
        Outcome::Throttled => page(429, Some(1)),
        Outcome::Untouched => page(503, None),
    }
}

/// A reply as a gateway in front of the API gives it, outside the provider's envelope.
fn page(status: u16, retry_after: Option<u64>) -> Answer {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason())
        .unwrap_or("Error");
    let (content_type, body) = match status {
        429 => (
            "application/json",
            r#"{"message":"Too Many Attempts."}"#.to_owned(),
        ),
        _ => {
            let body = format!(
                "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} {reason}</h1></center>\r\n\
                 </body>\r\n</html>\r\n"
            );
            ("text/html", body)
        }
    };
    Answer {
        http: status,
        body: body.into_bytes(),
        content_type,
        retry_after,
        before_reply: None,
    }
}

impl Answer {
    /// Comes back when every event that has to be there first was tried.
    async fn wait_for_events(&mut self) {
        if let Some(mut events) = self.before_reply.take() {
            // Nothing is ever sent: it ends when all who could have are gone.
            let _ = events.recv().await;
        }
    }

    /// HTTP 200 with other bytes.
    fn with_body(self, body: Vec<u8>) -> Response {
        Answer {
            http: 200,
            body,
            ..self
        }
        .into()
    }
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        let mut response = Response::new(Body::from(answer.body));
        // Every status was checked to lie in 200..=599 where it was chosen.
        *response.status_mut() =
            StatusCode::from_u16(answer.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        if let Some(seconds) = answer.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if (300..400).contains(&answer.http) {
            headers.insert(LOCATION, HeaderValue::from_static("/elsewhere"));
        }
        response
    }
}

/// Headers and the first half of the body, then the end of the connection.
fn half_sent(answer: Answer) -> Response {
    let whole = answer.body.len();
    let half = Bytes::copy_from_slice(&answer.body[..whole / 2]);
    let end = async {
        // Long enough for the first half to leave.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    };
    let mut response = Response::from(answer);
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(whole));
    *response.body_mut() = Body::from_stream(stream::iter([Ok(half)]).chain(stream::once(end)));
    response
}

/// Ends the connection. The response is a formality that never leaves.
fn cut_now(caller: &Caller, how: Cut) -> Response {
    caller.cut(how);
    Response::new(Body::empty())
}

/// Counts what is held, for as long as it is.
struct Held<'a>(&'a AtomicU64);

impl<'a> Held<'a> {
    fn count(held: &'a AtomicU64) -> Self {
        held.fetch_add(1, Ordering::SeqCst);
        Held(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A bulk order, from its arrival to the end of its reply.
struct BulkUnderWay<'a> {
    shared: &'a Shared,
    account: usize,
}

impl<'a> BulkUnderWay<'a> {
    fn begin(shared: &'a Shared, call: &Call) -> Option<Self> {
        let recipients = call.recipients();
        if recipients < 2 {
            return None;
        }
        let account = shared
            .account_of(call)
            .filter(|_| call.action == Action::SendSms)?;
        let rules = shared.rules();
        // The state are let go of before the order is held on to: letting go of that opens them again.
        let began = shared.state().bulk_began(account, recipients, &rules);
        began.then(|| BulkUnderWay { shared, account })
    }
}

impl Drop for BulkUnderWay<'_> {
    fn drop(&mut self) {
        self.shared.state().bulk_ended(self.account);
    }
}
