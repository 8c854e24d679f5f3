//! Running the sandbox over HTTP, under `/_sandbox/`: for tests in any language, and for `curl`.

use std::fmt;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::SandboxHandle;
use super::api::Shared;
use super::delivery::Fate;
use super::faults::Fault;
use super::ledger::LedgerFilter;
use super::numbers::one_spelling;
use super::span::parse_duration;
use super::webhooks::WebhookEvent;

/// The administration's routes.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/_sandbox/ledger", get(ledger))
        .route("/_sandbox/requests", get(requests))
        .route("/_sandbox/stats", get(stats))
        .route(
            "/_sandbox/faults",
            get(faults).post(set_faults).delete(clear_faults),
        )
        .route("/_sandbox/rules", get(rules).post(change_rules))
        .route("/_sandbox/senders", post(senders))
        .route("/_sandbox/topup", post(top_up))
        .route("/_sandbox/deliver", post(deliver))
        .route("/_sandbox/webhook", post(send_event))
        .route("/_sandbox/webhooks", get(webhooks))
        .route("/_sandbox/release", post(release))
        .route("/_sandbox/away", post(away))
        .route("/_sandbox/reset", post(reset))
}

type Shares = State<Arc<Shared>>;
type Posted<T> = Result<Json<T>, JsonRejection>;

/// The administration was asked for something that makes no sense: HTTP 400 and a sentence.
struct Misunderstood(String);

impl IntoResponse for Misunderstood {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({"error": self.0}))).into_response()
    }
}

impl From<JsonRejection> for Misunderstood {
    fn from(rejection: JsonRejection) -> Self {
        Misunderstood(rejection.body_text())
    }
}

async fn ledger(State(shared): Shares, Query(filter): Query<LedgerFilter>) -> Json<Value> {
    let orders = SandboxHandle(shared).ledger_where(&filter);
    Json(json!({"count": orders.len(), "orders": orders}))
}

async fn requests(State(shared): Shares) -> Json<Value> {
    let requests = SandboxHandle(shared).requests();
    Json(json!({"count": requests.len(), "requests": requests}))
}

async fn stats(State(shared): Shares) -> Json<Value> {
    let sandbox = SandboxHandle(shared);
    Json(json!({"stats": sandbox.stats(), "held": sandbox.held(), "faults": sandbox.faults()}))
}

async fn faults(State(shared): Shares) -> Json<Value> {
    Json(json!({"faults": SandboxHandle(shared).faults()}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Faults {
    faults: Vec<String>,
    /// Whether those that are set stay.
    #[serde(default)]
    add: bool,
}

async fn set_faults(
    State(shared): Shares,
    posted: Posted<Faults>,
) -> Result<Json<Value>, Misunderstood> {
    let Json(Faults { faults, add }) = posted?;
    let read = |line: &String| {
        line.parse::<Fault>()
            .map_err(|error| Misunderstood(format!("{line}: {error}")))
    };
    let faults = faults.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let sandbox = SandboxHandle(shared);
    if add {
        for fault in faults {
            sandbox.add_fault(fault);
        }
    } else {
        sandbox.set_faults(faults);
    }
    Ok(Json(json!({"faults": sandbox.faults()})))
}

async fn clear_faults(State(shared): Shares) -> Json<Value> {
    SandboxHandle(shared).clear_faults();
    Json(json!({"faults": []}))
}

async fn rules(State(shared): Shares) -> Json<Value> {
    Json(json!({"rules": *shared.rules()}))
}

/// Changes the settings that are named and leaves the others.
async fn change_rules(
    State(shared): Shares,
    posted: Posted<Map<String, Value>>,
) -> Result<Json<Value>, Misunderstood> {
    let Json(changes) = posted?;
    let sandbox = SandboxHandle(shared);
    let mut outcome = Ok(());
    sandbox.change_rules(|rules| {
        let mut merged = json!(rules);
        merge(&mut merged, Value::Object(changes));
        match serde_json::from_value(merged) {
            Ok(changed) => *rules = changed,
            Err(error) => outcome = Err(Misunderstood(error.to_string())),
        }
    });
    outcome.map(|()| Json(json!({"rules": *sandbox.rules()})))
}

/// Objects are merged field by field, everything else is replaced.
fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (field, change) in changes {
                merge(into.entry(field).or_insert(Value::Null), change);
            }
        }
        (into, change) => *into = change,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Senders {
    #[serde(default)]
    approve: Vec<String>,
    #[serde(default)]
    withdraw: Vec<String>,
}

async fn senders(
    State(shared): Shares,
    posted: Posted<Senders>,
) -> Result<Json<Value>, Misunderstood> {
    let Json(Senders { approve, withdraw }) = posted?;
    let sandbox = SandboxHandle(shared);
    for sender in &approve {
        sandbox.approve_sender(sender);
    }
    for sender in &withdraw {
        sandbox.withdraw_sender(sender);
    }
    Ok(Json(json!({"senders": sandbox.rules().senders})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopUp {
    /// Credits to add.
    sms: u64,
    /// Fingerprint of the account; all of them if it is missing.
    account: Option<String>,
}

async fn top_up(
    State(shared): Shares,
    posted: Posted<TopUp>,
) -> Result<Json<Value>, Misunderstood> {
    let Json(TopUp { sms, account }) = posted?;
    let mut state = shared.state();
    match account {
        None => state.change_balances(|balance| balance.saturating_add(sms)),
        Some(fingerprint) => {
            let unknown = || {
                Misunderstood(format!(
                    "there is no account with the fingerprint {fingerprint}"
                ))
            };
            let account = state.account_named(&fingerprint).ok_or_else(unknown)?;
            state.change_balance(account, |balance| balance.saturating_add(sms));
        }
    }
    Ok(Json(json!({"balance_sms": state.stats().balance_sms})))
}

/// An order's id, as a number or as a string: the provider has both.
#[derive(Deserialize)]
#[serde(untagged)]
enum OrderId {
    Number(u64),
    Text(String),
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderId::Number(id) => id.fmt(f),
            OrderId::Text(id) => f.write_str(id),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deliver {
    order_id: OrderId,
    /// In any spelling; every number of the order if it is missing.
    number: Option<String>,
    status: Said,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Delivered,
    Undelivered,
    Never,
    /// The order is not dispatched after all.
    Refused,
}

async fn deliver(
    State(shared): Shares,
    posted: Posted<Deliver>,
) -> Result<Json<Value>, Misunderstood> {
    let Json(Deliver {
        order_id,
        number,
        status,
    }) = posted?;
    let order_id = order_id.to_string();
    let sandbox = SandboxHandle(shared);
    let messages = |fate| sandbox.deliver(&order_id, number.as_deref(), fate);
    let concerned = match status {
        Said::Delivered => messages(Fate::Delivered),
        Said::Undelivered => messages(Fate::Undelivered),
        Said::Never => messages(Fate::Never),
        Said::Refused if number.is_some() => {
            let whole = "an order is refused as a whole: leave the number out";
            return Err(Misunderstood(whole.to_owned()));
        }
        Said::Refused => usize::from(sandbox.refuse_order(&order_id)),
    };
    if concerned == 0 {
        let nobody = format!("there is no order {order_id}, or no such number in it");
        return Err(Misunderstood(nobody));
    }
    Ok(Json(json!({"concerned": concerned})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendEvent {
    /// One of the sandbox's orders, or any other id: that is an order from the panel, or a forgery.
    order_id: OrderId,
    /// In any spelling; every number of the order if it is missing.
    number: Option<String>,
    status: String,
    #[serde(default = "once")]
    times: usize,
    /// Another id than that of the message.
    message_id: Option<i64>,
    /// Another text than that of the message.
    body: Option<String>,
}

fn once() -> usize {
    1
}

async fn send_event(
    State(shared): Shares,
    posted: Posted<SendEvent>,
) -> Result<Json<Value>, Misunderstood> {
    let Json(wanted) = posted?;
    let sandbox = SandboxHandle(shared);
    let order_id = wanted.order_id.to_string();
    let mut events = sandbox.events(&order_id, wanted.number.as_deref(), &wanted.status);
    if events.is_empty() {
        let need = |what: &str| Misunderstood(format!("there is no such message, so {what}"));
        let number = wanted.number.ok_or_else(|| need("say a number"))?;
        events.push(WebhookEvent {
            id: 1,
            packet_id: order_id.parse().map_err(|_| need("say an order_id"))?,
            status: wanted.status,
            to: format!("+{}", one_spelling(&number)),
            body: String::new(),
        });
    }
    for event in &mut events {
        event.id = wanted.message_id.unwrap_or(event.id);
        event.body = wanted.body.clone().unwrap_or_else(|| event.body.clone());
        if !sandbox.send_event(event, wanted.times) {
            let nowhere = "events go nowhere: set webhooks.url with POST /_sandbox/rules";
            return Err(Misunderstood(nowhere.to_owned()));
        }
    }
    Ok(Json(json!({"events": events, "times": wanted.times})))
}

async fn webhooks(State(shared): Shares) -> Json<Value> {
    let sent = SandboxHandle(shared).webhooks();
    Json(json!({"count": sent.len(), "webhooks": sent}))
}

async fn release(State(shared): Shares) -> Json<Value> {
    let sandbox = SandboxHandle(shared);
    let held = sandbox.held();
    sandbox.release();
    Json(json!({"released": held}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Away {
    /// How long, such as `2s`.
    r#for: String,
}

async fn away(State(shared): Shares, posted: Posted<Away>) -> Result<Json<Value>, Misunderstood> {
    let Json(Away { r#for: length }) = posted?;
    let length = parse_duration(&length).map_err(|error| Misunderstood(error.to_string()))?;
    // In a task, and a little later: the reply has to leave before all connections end.
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        shared.links.go_away(length).await;
    });
    Ok(Json(json!({"away": true})))
}

async fn reset(State(shared): Shares) -> Json<Value> {
    SandboxHandle(shared).reset();
    Json(json!({"reset": true}))
}
