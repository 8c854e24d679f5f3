//! Faults on demand: what can go wrong, for which requests, and how often.
//!
//! A fault is written in one line, the same on the command line and over HTTP:
//!
//! ```text
//! KIND[:DETAIL][*TIMES or @CHANCE][?FIELD=VALUE[&FIELD=VALUE…]]
//!
//! accept-drop*2                    the next two orders are accepted and the connection closed without a reply
//! answer:402                       every order is answered with 402, until the fault is taken away
//! answer:451/400*1?text=hello      once, for a text that contains "hello": code 451 within HTTP 400
//! http:429/2*3                     three times HTTP 429 with Retry-After: 2
//! delay:100ms-2s@0.05              one reply in twenty takes that long
//! webhook-lost@0.01                one event in a hundred is never sent
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::dice::Dice;
use super::ledger::LedgerEntry;
use super::numbers::one_spelling;
use super::span::{Span, SpanError, parse_duration, show_duration};
use super::wire::{Action, Call, number_text};

/// What goes wrong.
///
/// Kinds whose name starts with `Accept`, and [`FaultKind::Delay`], treat the request as usual, so that an order may come to stand
/// in the ledger; only the reply suffers. The others never look at the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// `answer:CODE[/HTTP]` — that code in the provider's envelope; the HTTP status as the reply style says unless given.
    Answer {
        /// `status.code`.
        code: u16,
        /// The HTTP status, if it is not the usual one.
        http: Option<u16>,
    },
    /// `http:STATUS[/RETRY_AFTER]` — a bare HTTP status as a gateway gives it: HTML, or `{"message":…}` for 429. A redirect (3xx)
    /// points elsewhere on the same host.
    Http {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// `drop` — the request is read, nothing is done, the connection is closed without a reply.
    Drop,
    /// `stall[:TIME]` — nothing is done and nothing is said; the connection is closed after that time, or never.
    Stall(Option<Duration>),
    /// `hold` — nothing is done until the sandbox is told to release what it holds; then all goes as usual.
    Hold,
    /// `refuse` — connections are closed before anything is read; one that is open already, when the next request begins.
    Refuse,
    /// `delay:TIME` or `delay:TIME-TIME` — the reply takes that long, on top of the usual latency.
    Delay(Span),
    /// `accept-drop` — the connection is closed without a byte of a reply; the client reads an end of file.
    AcceptDrop,
    /// `accept-reset` — the same, but the client sees a reset.
    AcceptReset,
    /// `accept-stall[:TIME]` — no reply; the connection is closed after that time, or never.
    AcceptStall(Option<Duration>),
    /// `accept-hold` — the reply waits until the sandbox is told to release what it holds.
    AcceptHold,
    /// `accept-http:STATUS` — a page of HTML with that HTTP status instead of the reply.
    AcceptHttp {
        /// The HTTP status.
        status: u16,
    },
    /// `accept-garbage` — HTTP 200 with bytes that are no JSON.
    AcceptGarbage,
    /// `accept-cut` — the JSON ends half way, in an HTTP reply that is complete.
    AcceptCut,
    /// `accept-cut-body` — the connection is closed half way through the body.
    AcceptCutBody,
    /// `accept-empty` — HTTP 200 without a body.
    AcceptEmpty,
    /// `accept-late:TIME` — the request is looked at only after that time, even if the client has gone by then.
    AcceptLate(Duration),
    /// `webhook-…` — nothing happens to the request; an event that tells of a message suffers. Its lots depend on the seed, the order
    /// and the message alone.
    Webhook(WebhookFault),
}

/// What goes wrong with the events that tell of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookFault {
    /// `webhook-lost` — the event is never sent.
    Lost,
    /// `webhook-repeated` — it is sent once more after it was taken.
    Repeated,
    /// `webhook-delayed:TIME` or `webhook-delayed:TIME-TIME` — it is sent that much later; later ones of the same message wait for it.
    Delayed(Span),
    /// `webhook-malformed` — at the first try the JSON ends half way; what is sent again is whole.
    Malformed,
    /// `webhook-forged` — after it somebody else claims the opposite: for the same order and number, with a made-up message id.
    Forged,
    /// `webhook-reordered` — a message's end is told before its acceptance.
    Reordered,
    /// `webhook-before-reply` — a message's acceptance is told before the order is answered.
    BeforeReply,
}

impl WebhookFault {
    /// Is it about a message as a whole, and not about one of its events?
    fn concerns_the_message(&self) -> bool {
        use WebhookFault::*;
        match self {
            Reordered | BeforeReply => true,
            Lost | Repeated | Delayed(_) | Malformed | Forged => false,
        }
    }
}

impl FaultKind {
    /// Does the client get to read the answer that was decided?
    pub fn delivers_the_answer(&self) -> bool {
        use FaultKind::*;
        match self {
            Answer { .. } | Hold | Delay(_) | AcceptHold | AcceptLate(_) | Webhook(_) => true,
            Http { .. } | Drop | Stall(_) | Refuse => false,
            AcceptDrop | AcceptReset | AcceptStall(_) | AcceptHttp { .. } => false,
            AcceptGarbage | AcceptCut | AcceptCutBody | AcceptEmpty => false,
        }
    }
}

/// How often a fault applies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Times {
    /// Every matching request, until the fault is taken away.
    Always,
    /// The next so many matching requests.
    Next(u64),
    /// Each matching request with this probability, 0 to 1.
    Chance(f64),
}

/// Which requests a fault applies to. Everything given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultMatch {
    /// `action=`: which action; without it only `send-sms`. `any` stands for all of them.
    pub action: ActionMatch,
    /// `to=`: one of the recipients is this number, in any spelling.
    pub to: Option<String>,
    /// `sender=`: exactly this sender.
    pub sender: Option<String>,
    /// `text=`: a text contains this. In the one-line form it cannot contain `&`.
    pub text: Option<String>,
    /// `account=`: the key of the account.
    pub account: Option<String>,
}

/// Which actions a fault applies to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ActionMatch {
    /// `send-sms` only.
    #[default]
    SendSms,
    /// This one.
    Only(Action),
    /// All of them.
    Any,
}

/// One kind of fault, how often, and for whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// How often.
    pub times: Times,
    /// For which requests.
    pub matching: FaultMatch,
}

impl Fault {
    /// Applies to every order until it is removed.
    pub fn always(kind: FaultKind) -> Self {
        Fault {
            kind,
            times: Times::Always,
            matching: FaultMatch::default(),
        }
    }

    /// Applies to the next `count` orders.
    pub fn next(count: u64, kind: FaultKind) -> Self {
        Fault {
            times: Times::Next(count),
            ..Fault::always(kind)
        }
    }

    /// Applies to each order with this probability.
    pub fn chance(probability: f64, kind: FaultKind) -> Self {
        Fault {
            times: Times::Chance(probability),
            ..Fault::always(kind)
        }
    }

    /// The same fault for texts that contain this.
    pub fn on_text(mut self, part: impl Into<String>) -> Self {
        self.matching.text = Some(part.into());
        self
    }

    /// The same fault for orders to this number.
    pub fn on_recipient(mut self, number: impl Into<String>) -> Self {
        self.matching.to = Some(number.into());
        self
    }

    /// The same fault for orders from this sender.
    pub fn on_sender(mut self, sender: impl Into<String>) -> Self {
        self.matching.sender = Some(sender.into());
        self
    }

    /// The same fault for this account's key.
    pub fn on_account(mut self, key: impl Into<String>) -> Self {
        self.matching.account = Some(key.into());
        self
    }

    /// The same fault for another action.
    pub fn on_action(mut self, action: Action) -> Self {
        self.matching.action = ActionMatch::Only(action);
        self
    }

    /// The same fault whatever the action.
    pub fn on_any_action(mut self) -> Self {
        self.matching.action = ActionMatch::Any;
        self
    }

    fn applies_to(&self, call: &Call) -> bool {
        let FaultMatch {
            action,
            to,
            sender,
            text,
            account,
        } = &self.matching;
        let action_fits = match action {
            ActionMatch::SendSms => call.action == Action::SendSms,
            ActionMatch::Only(one) => call.action == *one,
            ActionMatch::Any => true,
        };
        action_fits
            && to.as_ref().is_none_or(|to| {
                let to = one_spelling(to);
                call.numbers()
                    .filter_map(number_text)
                    .any(|n| one_spelling(&n) == to)
            })
            && sender
                .as_ref()
                .is_none_or(|sender| call.sender() == Some(sender))
            && text
                .as_ref()
                .is_none_or(|part| call.texts().any(|text| text.contains(part)))
            && account
                .as_ref()
                .is_none_or(|key| call.credentials().is_some_and(|(given, _)| given == key))
    }

    /// The same question about a message of an order that was accepted.
    fn concerns(&self, key: &str, text: &LedgerEntry, number: &str) -> bool {
        let FaultMatch {
            action: _,
            to,
            sender,
            text: part,
            account,
        } = &self.matching;
        to.as_ref().is_none_or(|to| one_spelling(to) == number)
            && sender.as_ref().is_none_or(|sender| *sender == text.sender)
            && part.as_ref().is_none_or(|part| text.text.contains(part))
            && account.as_ref().is_none_or(|account| account == key)
    }
}

/// A line that is no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// The kind is not known.
    #[error(
        "there is no fault {0:?}; there are answer:CODE, http:STATUS, drop, stall, hold, refuse, delay:TIME, accept-drop, \
         accept-reset, accept-stall, accept-hold, accept-http:STATUS, accept-garbage, accept-cut, accept-cut-body, accept-empty, \
         accept-late:TIME, webhook-lost, webhook-repeated, webhook-delayed:TIME, webhook-malformed, webhook-forged, \
         webhook-reordered and webhook-before-reply"
    )]
    Kind(String),
    /// The part behind the colon is missing, or cannot be read, or does not belong there.
    #[error("the fault {kind:?} cannot have the detail {detail:?}")]
    Detail {
        /// Which fault.
        kind: String,
        /// What was behind its colon.
        detail: String,
    },
    /// The part behind the colon is no length of time.
    #[error("the fault needs a time behind its colon")]
    Time(#[source] SpanError),
    /// Behind `*` there is no count, or behind `@` no probability.
    #[error("{0:?} says neither how often (*2) nor with which chance (@0.1, between 0 and 1)")]
    Times(String),
    /// The part behind the question mark.
    #[error(
        "{0:?} is not one of to=, sender=, text=, account= and action= (an action of the API, or any)"
    )]
    Match(String),
    /// `refuse` applies before the request is read.
    #[error("refuse closes the connection before anything is read, so it cannot look for {0}")]
    BlindMatch(String),
    /// Events are about messages, whatever was asked for.
    #[error("webhook faults are about messages, so they cannot look for an action")]
    ActionOfEvent,
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let (head, conditions) = match line.trim().split_once('?') {
            Some((head, conditions)) => (head, Some(conditions)),
            None => (line.trim(), None),
        };
        let (kind, times) = match head.find(['*', '@']) {
            Some(mark) => (&head[..mark], parse_times(&head[mark..])?),
            None => (head, Times::Always),
        };
        let kind = parse_kind(kind)?;
        let matching = conditions.map(parse_match).transpose()?.unwrap_or_default();
        match conditions {
            Some(conditions) if kind == FaultKind::Refuse => {
                Err(FaultError::BlindMatch(conditions.to_owned()))
            }
            _ if matches!(kind, FaultKind::Webhook(_))
                && matching.action != ActionMatch::default() =>
            {
                Err(FaultError::ActionOfEvent)
            }
            _ => Ok(Fault {
                kind,
                times,
                matching,
            }),
        }
    }
}

fn parse_times(text: &str) -> Result<Times, FaultError> {
    let wrong = || FaultError::Times(text.to_owned());
    match text.split_at(1) {
        ("*", count) => count.trim().parse().map(Times::Next).map_err(|_| wrong()),
        (_, chance) => match chance.trim().parse() {
            Ok(chance) if (0.0..=1.0).contains(&chance) => Ok(Times::Chance(chance)),
            _ => Err(wrong()),
        },
    }
}

fn parse_kind(text: &str) -> Result<FaultKind, FaultError> {
    use FaultKind::*;
    let (name, detail) = match text.split_once(':') {
        Some((name, detail)) => (name.trim(), Some(detail.trim())),
        None => (text.trim(), None),
    };
    let wrong = || FaultError::Detail {
        kind: name.to_owned(),
        detail: detail.unwrap_or_default().to_owned(),
    };
    let status = |text: &str| {
        text.parse()
            .ok()
            .filter(|s| (200..=599).contains(s))
            .ok_or_else(wrong)
    };
    let halves = || -> Result<(&str, Option<&str>), FaultError> {
        let detail = detail.ok_or_else(wrong)?;
        Ok(detail
            .split_once('/')
            .map_or((detail, None), |(one, other)| (one, Some(other))))
    };
    let time =
        |text: Option<&str>| parse_duration(text.unwrap_or_default()).map_err(FaultError::Time);
    let end = || detail.map(|text| time(Some(text))).transpose();
    let plain = |kind: FaultKind| {
        if detail.is_none() {
            Ok(kind)
        } else {
            Err(wrong())
        }
    };
    match name {
        "answer" => {
            let (code, http) = halves()?;
            Ok(Answer {
                code: code.parse().map_err(|_| wrong())?,
                http: http.map(status).transpose()?,
            })
        }
        "http" => {
            let (http, retry_after) = halves()?;
            Ok(Http {
                status: status(http)?,
                retry_after: retry_after
                    .map(|s| s.parse().map_err(|_| wrong()))
                    .transpose()?,
            })
        }
        "drop" => plain(Drop),
        "stall" => Ok(Stall(end()?)),
        "hold" => plain(Hold),
        "refuse" => plain(Refuse),
        "delay" => detail
            .unwrap_or_default()
            .parse()
            .map(Delay)
            .map_err(FaultError::Time),
        "accept-drop" => plain(AcceptDrop),
        "accept-reset" => plain(AcceptReset),
        "accept-stall" => Ok(AcceptStall(end()?)),
        "accept-hold" => plain(AcceptHold),
        "accept-http" => Ok(AcceptHttp {
            status: status(detail.unwrap_or_default())?,
        }),
        "accept-garbage" => plain(AcceptGarbage),
        "accept-cut" => plain(AcceptCut),
        "accept-cut-body" => plain(AcceptCutBody),
        "accept-empty" => plain(AcceptEmpty),
        "accept-late" => Ok(AcceptLate(time(detail)?)),
        "webhook-lost" => plain(Webhook(WebhookFault::Lost)),
        "webhook-repeated" => plain(Webhook(WebhookFault::Repeated)),
        "webhook-delayed" => detail
            .unwrap_or_default()
            .parse()
            .map(|span| Webhook(WebhookFault::Delayed(span)))
            .map_err(FaultError::Time),
        "webhook-malformed" => plain(Webhook(WebhookFault::Malformed)),
        "webhook-forged" => plain(Webhook(WebhookFault::Forged)),
        "webhook-reordered" => plain(Webhook(WebhookFault::Reordered)),
        "webhook-before-reply" => plain(Webhook(WebhookFault::BeforeReply)),
        _ => Err(FaultError::Kind(name.to_owned())),
    }
}

fn parse_match(text: &str) -> Result<FaultMatch, FaultError> {
    let mut matching = FaultMatch::default();
    for condition in text.split('&') {
        let wrong = || FaultError::Match(condition.to_owned());
        let (field, value) = condition.split_once('=').ok_or_else(wrong)?;
        let value_text = value.to_owned();
        match field {
            "to" => matching.to = Some(value_text),
            "sender" => matching.sender = Some(value_text),
            "text" => matching.text = Some(value_text),
            "account" => matching.account = Some(value_text),
            "action" if value == "any" => matching.action = ActionMatch::Any,
            "action" => {
                let action = Action::ALL
                    .into_iter()
                    .find(|a| a.name() == value)
                    .ok_or_else(wrong)?;
                matching.action = ActionMatch::Only(action);
            }
            _ => return Err(wrong()),
        }
    }
    Ok(matching)
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use FaultKind::*;
        let until = |end: &Option<Duration>| {
            end.map(|t| format!(":{}", show_duration(t)))
                .unwrap_or_default()
        };
        match self {
            Answer { code, http: None } => write!(f, "answer:{code}"),
            Answer {
                code,
                http: Some(http),
            } => write!(f, "answer:{code}/{http}"),
            Http {
                status,
                retry_after: None,
            } => write!(f, "http:{status}"),
            Http {
                status,
                retry_after: Some(seconds),
            } => write!(f, "http:{status}/{seconds}"),
            Drop => f.write_str("drop"),
            Stall(end) => write!(f, "stall{}", until(end)),
            Hold => f.write_str("hold"),
            Refuse => f.write_str("refuse"),
            Delay(span) => write!(f, "delay:{span}"),
            AcceptDrop => f.write_str("accept-drop"),
            AcceptReset => f.write_str("accept-reset"),
            AcceptStall(end) => write!(f, "accept-stall{}", until(end)),
            AcceptHold => f.write_str("accept-hold"),
            AcceptHttp { status } => write!(f, "accept-http:{status}"),
            AcceptGarbage => f.write_str("accept-garbage"),
            AcceptCut => f.write_str("accept-cut"),
            AcceptCutBody => f.write_str("accept-cut-body"),
            AcceptEmpty => f.write_str("accept-empty"),
            AcceptLate(time) => write!(f, "accept-late:{}", show_duration(*time)),
            Webhook(fault) => fault.fmt(f),
        }
    }
}

impl fmt::Display for WebhookFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use WebhookFault::*;
        match self {
            Lost => f.write_str("webhook-lost"),
            Repeated => f.write_str("webhook-repeated"),
            Delayed(span) => write!(f, "webhook-delayed:{span}"),
            Malformed => f.write_str("webhook-malformed"),
            Forged => f.write_str("webhook-forged"),
            Reordered => f.write_str("webhook-reordered"),
            BeforeReply => f.write_str("webhook-before-reply"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match self.times {
            Times::Always => {}
            Times::Next(count) => write!(f, "*{count}")?,
            Times::Chance(chance) => write!(f, "@{chance}")?,
        }
        let action = match self.matching.action {
            ActionMatch::SendSms => None,
            ActionMatch::Only(action) => Some(action.name()),
            ActionMatch::Any => Some("any"),
        };
        let conditions = [
            ("action", action),
            ("to", self.matching.to.as_deref()),
            ("sender", self.matching.sender.as_deref()),
            ("text", self.matching.text.as_deref()),
            ("account", self.matching.account.as_deref()),
        ];
        let mut mark = '?';
        for (field, value) in conditions {
            if let Some(value) = value {
                write!(f, "{mark}{field}={value}")?;
                mark = '&';
            }
        }
        Ok(())
    }
}

/// A fault and what became of it so far.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FaultStatus {
    /// The fault in its one-line form, as it was set.
    pub fault: String,
    /// How many requests, connections or events it struck.
    pub struck: u64,
    /// How often it will still apply; `None` if there is no end to it.
    pub left: Option<u64>,
}

/// The faults that are set, tried in order: the first that matches and is not used up applies, and only that one.
#[derive(Debug)]
pub struct FaultPlan {
    drawn: Mutex<Drawn>,
    /// How many faults are set, so that a sandbox without faults takes no lock.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Drawn {
    faults: Vec<(Fault, u64)>,
    dice: Dice,
}

impl FaultPlan {
    /// No faults yet. The same seed gives the same draws.
    pub fn new(seed: u64) -> Self {
        FaultPlan {
            drawn: Mutex::new(Drawn {
                faults: Vec::new(),
                dice: Dice::new(seed),
            }),
            count: AtomicUsize::new(0),
        }
    }

    /// Replaces all faults.
    pub fn set(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut drawn = self.lock();
        drawn.faults = faults.into_iter().map(|fault| (fault, 0)).collect();
        self.count.store(drawn.faults.len(), Ordering::Release);
    }

    /// Adds a fault behind those that are set.
    pub fn add(&self, fault: Fault) {
        let mut drawn = self.lock();
        drawn.faults.push((fault, 0));
        self.count.store(drawn.faults.len(), Ordering::Release);
    }

    /// What is set, and how often each struck.
    pub fn status(&self) -> Vec<FaultStatus> {
        let describe = |(fault, struck): &(Fault, u64)| FaultStatus {
            fault: fault.to_string(),
            struck: *struck,
            left: match fault.times {
                Times::Next(count) => Some(count - struck),
                Times::Always | Times::Chance(_) => None,
            },
        };
        self.lock().faults.iter().map(describe).collect()
    }

    /// The fault that applies to this request, if one does.
    pub fn injected(&self, call: &Call) -> Option<FaultKind> {
        self.roll(|fault| match fault.kind {
            FaultKind::Refuse | FaultKind::Webhook(_) => false,
            _ => fault.applies_to(call),
        })
    }

    /// Is the next connection, or the next request on an open one, to be refused?
    pub fn refuses(&self) -> bool {
        self.roll(|fault| fault.kind == FaultKind::Refuse).is_some()
    }

    /// The fault that applies to a message of an accepted order as a whole. `lot` gives the lot for the fault at a position.
    pub fn of_message(
        &self,
        key: &str,
        text: &LedgerEntry,
        number: &str,
        lot: impl Fn(u64) -> f64,
    ) -> Option<WebhookFault> {
        self.of_webhooks(true, (key, text, number), lot)
    }

    /// The fault that applies to one event of a message.
    pub fn of_event(
        &self,
        key: &str,
        text: &LedgerEntry,
        number: &str,
        lot: impl Fn(u64) -> f64,
    ) -> Option<WebhookFault> {
        self.of_webhooks(false, (key, text, number), lot)
    }

    fn of_webhooks(
        &self,
        whole_message: bool,
        (key, text, number): (&str, &LedgerEntry, &str),
        lot: impl Fn(u64) -> f64,
    ) -> Option<WebhookFault> {
        let fits = |fault: &Fault| match &fault.kind {
            FaultKind::Webhook(kind) => {
                kind.concerns_the_message() == whole_message && fault.concerns(key, text, number)
            }
            _ => false,
        };
        match self.draw(fits, |position, _| lot(position)) {
            Some(FaultKind::Webhook(fault)) => Some(fault),
            _ => None,
        }
    }

    /// A length of time out of a span, drawn.
    pub fn draw_length(&self, span: Span) -> Duration {
        if span.is_zero() {
            Duration::ZERO
        } else {
            span.at(self.lock().dice.roll())
        }
    }

    fn roll(&self, fits: impl Fn(&Fault) -> bool) -> Option<FaultKind> {
        self.draw(fits, |_, dice| dice.roll())
    }

    /// The first fault that fits, is not used up, and whose chance is above its lot.
    fn draw(
        &self,
        fits: impl Fn(&Fault) -> bool,
        mut lot: impl FnMut(u64, &mut Dice) -> f64,
    ) -> Option<FaultKind> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let Drawn { faults, dice } = &mut *self.lock();
        let struck = (0..)
            .zip(faults.iter_mut())
            .filter(|(_, (fault, _))| fits(fault))
            .find(|(position, (fault, struck))| match fault.times {
                Times::Always => true,
                Times::Next(count) => *struck < count,
                Times::Chance(chance) => lot(*position, dice) < chance,
            });
        struck.map(|(_, (fault, struck))| {
            *struck += 1;
            fault.kind.clone()
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Drawn> {
        // Nothing panics while it is held, and a half-made change does no harm here.
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ledger::tests::entry;
    use super::*;

    fn send(text: &str, number: &str) -> Call {
        let body = json!({"request": {
            "authentication": {"key": "k", "hash": "h"},
            "order": {"sender": "SANDBOX", "message": {"text": text, "receipents": {"number": [number]}}},
        }});
        Call::read(Action::SendSms, body.to_string().as_bytes())
    }

    fn fault(line: &str) -> Fault {
        line.parse()
            .unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn every_fault_is_shown_as_it_is_written() {
        for line in [
            "answer:402",
            "answer:451/400*1?text=hello world",
            "http:429/2*3",
            "http:503",
            "drop",
            "stall",
            "stall:30s",
            "hold*1",
            "refuse*5",
            "delay:100ms-2s@0.05",
            "accept-drop*2?action=any&to=905321234567&sender=SANDBOX&account=k",
            "accept-reset",
            "accept-stall:1m",
            "accept-hold",
            "accept-http:502",
            "accept-garbage",
            "accept-cut",
            "accept-cut-body",
            "accept-empty",
            "accept-late:3s?action=send-sms",
            "webhook-lost@0.01",
            "webhook-repeated*2?to=905321234567",
            "webhook-delayed:10s-1m",
            "webhook-malformed",
            "webhook-forged?account=k",
            "webhook-reordered@0.05?text=hello",
            "webhook-before-reply",
        ] {
            assert_eq!(fault(line).to_string(), line);
        }
    }

    #[test]
    fn a_line_that_is_no_fault_is_refused_with_a_reason() {
        for line in [
            "",
            "explode",
            "answer",
            "answer:abc",
            "answer:451/99",
            "http",
            "http:700",
            "drop:1s",
            "stall:soon",
            "delay",
            "accept-late",
            "accept-http",
            "accept-drop*",
            "accept-drop*x",
            "accept-drop@2",
            "accept-drop@NaN",
            "accept-drop?colour=red",
            "accept-drop?action=fly",
            "refuse?text=x",
            "webhook-delayed",
            "webhook-lost:1s",
            "webhook-lost?action=get-report",
        ] {
            assert!(line.parse::<Fault>().is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_counted_fault_applies_so_often_and_then_the_next_one_does() {
        let plan = FaultPlan::new(1);
        plan.set([fault("drop*2"), fault("answer:402*1")]);
        let call = send("x", "905321234567");
        let struck: Vec<_> = (0..4).map(|_| plan.injected(&call)).collect();
        let answer = FaultKind::Answer {
            code: 402,
            http: None,
        };
        assert_eq!(
            struck,
            [
                Some(FaultKind::Drop),
                Some(FaultKind::Drop),
                Some(answer),
                None
            ]
        );
        assert_eq!(plan.status()[0].left, Some(0));
    }

    #[test]
    fn a_fault_applies_only_to_what_it_is_meant_for() {
        for (line, expected) in [
            ("drop?text=ell", true),
            ("drop?text=Ell", false),
            ("drop?to=%2B90", false),
            ("drop?to=0532 123 45 67", true),
            ("drop?to=905321234568", false),
            ("drop?sender=SANDBOX", true),
            ("drop?sender=SAND", false),
            ("drop?account=k", true),
            ("drop?account=other", false),
            ("drop?action=get-balance", false),
            ("drop?action=any", true),
            ("drop?text=hello&sender=OTHER", false),
        ] {
            let plan = FaultPlan::new(1);
            plan.set([fault(line)]);
            assert_eq!(
                plan.injected(&send("hello", "+905321234567")).is_some(),
                expected,
                "{line}"
            );
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_lots() {
        let draw = |seed| {
            let plan = FaultPlan::new(seed);
            plan.set([fault("drop@0.25")]);
            let call = send("x", "1");
            (0..1_000)
                .map(|_| plan.injected(&call).is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let struck = draw(7).into_iter().filter(|s| *s).count();
        assert!(
            (200..300).contains(&struck),
            "{struck} of 1000 at a chance of 0.25"
        );
    }

    #[test]
    fn a_webhook_fault_strikes_messages_or_their_events_and_never_a_request() {
        let plan = FaultPlan::new(1);
        plan.set([
            fault("webhook-before-reply?to=0532 123 45 67"),
            fault("webhook-lost*1?text=hello&account=k"),
            fault("webhook-repeated@0.5"),
        ]);
        assert!(plan.injected(&send("hello", "905321234567")).is_none());
        let entry = entry(7);
        let to = "905321234567";
        let message = |to| plan.of_message("k", &entry, to, |_| 0.0);
        assert_eq!(message(to), Some(WebhookFault::BeforeReply));
        assert_eq!(message("905321234568"), None);
        let event = |key, lot| plan.of_event(key, &entry, to, |_| lot);
        assert_eq!(event("other", 0.4), Some(WebhookFault::Repeated));
        assert_eq!(event("k", 0.4), Some(WebhookFault::Lost));
        assert_eq!(event("k", 0.5), None, "lost once, and no lot for the next");
        let struck: Vec<u64> = plan.status().iter().map(|fault| fault.struck).collect();
        assert_eq!(struck, [1, 1, 1]);
    }

    #[test]
    fn refusing_is_decided_before_there_is_a_request() {
        let plan = FaultPlan::new(1);
        plan.set([fault("refuse*1")]);
        assert!(plan.injected(&send("x", "1")).is_none());
        assert!(plan.refuses());
        assert!(!plan.refuses());
    }
}
