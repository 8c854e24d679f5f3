//! Asking about orders: `get-report`, `get-reports` and `cancel-order`; and about whom none may reach: `get-blacklist`.
//!
//! What an order has come to follows from the time alone: it goes out at `send_at`, and everything is final `delivered_after` that.
//! Neither report ever shows the text (provider documentation, get-report and get-reports pages).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::ledger::LedgerEntry;
use super::rules::Rules;
use super::schedule::{local_date, read_date, report_time};
use super::state::ProviderState;
use super::wire::{Call, Refusal};

/// Delivered, confirmed.
const MESSAGE_DELIVERED: u64 = 111;
/// Not delivered: unreachable, blocked, invalid.
const MESSAGE_FAILED: u64 = 112;
/// Being sent; of a single message.
const MESSAGE_UNDER_WAY: u64 = 110;
/// Being sent; of an order.
const ORDER_UNDER_WAY: u64 = 113;
/// Every message is final, which does not mean delivered.
const ORDER_COMPLETE: u64 = 114;
/// Not sent; also shown after a cancel.
const ORDER_NOT_SENT: u64 = 115;

/// Orders on one page of `get-reports` (a constant of the official clients; not on the page itself).
const ORDERS_PER_PAGE: usize = 30;
/// Numbers on one page of `get-report`, and the most there may be.
const NUMBERS_PER_PAGE: usize = 1_000;
/// The longest range that `get-reports` answers; what "10 days" means at its edge is not documented.
const MAX_DAYS: i64 = 10;

/// `get-report`: what is added to the envelope. 464 for a bad page, 455 for an order that is unknown or not visible yet, 456 for
/// one whose time has not come.
pub fn get_report(
    state: &ProviderState,
    account: usize,
    call: &Call,
    rules: &Rules,
    now: i64,
) -> Result<Map<String, Value>, Refusal> {
    let (order_id, entry) = find(state, account, call)?;
    let page = page_of(call.order())?;
    if !is_visible(entry, rules, now) {
        return Err(Refusal::code(455));
    }
    let state = OrderState::of(state, order_id, entry, rules, now);
    if entry.send_at > now && state.status != ORDER_NOT_SENT {
        return Err(Refusal::code(456));
    }
    let rows = call
        .order()
        .and_then(|order| order.get("rowCount"))
        .and_then(number_in)
        .and_then(|n| usize::try_from(n).ok());
    let rows = rows.unwrap_or(NUMBERS_PER_PAGE).clamp(1, NUMBERS_PER_PAGE);
    let message: Vec<Value> = entry
        .numbers
        .iter()
        .skip((page - 1).saturating_mul(rows))
        .take(rows)
        .map(|number| json!({"number": format!("+{number}"), "status": rules.reply.figure(state.of_number(rules, number))}))
        .collect();
    let mut order = state.summary(entry, rules);
    order.insert(
        "price".to_owned(),
        rules.reply.money(entry.cost.saturating_mul(1_000), ','),
    );
    order.insert("message".to_owned(), Value::Array(message));
    Ok(Map::from_iter([("order".to_owned(), Value::Object(order))]))
}

/// `get-reports`: the account's orders of a range of days, newest first (the order is not documented). 458 for a range that is
/// badly written, backwards or too long; 464 for a bad page.
pub fn get_reports(
    state: &ProviderState,
    account: usize,
    call: &Call,
    rules: &Rules,
    now: i64,
) -> Result<Map<String, Value>, Refusal> {
    let filter = call.request().and_then(|request| request.get("filter"));
    let date = |name: &str| {
        let text = filter
            .and_then(|filter| filter.get(name))
            .and_then(Value::as_str);
        text.and_then(read_date).ok_or_else(|| Refusal::code(458))
    };
    let (start, end) = (date("start")?, date("end")?);
    if !(0..=MAX_DAYS).contains(&(end - start).num_days()) {
        return Err(Refusal::code(458));
    }
    let page = page_of(filter)?;
    let fingerprint = state.fingerprint(account);
    let wanted: Vec<&Arc<LedgerEntry>> = state
        .entries()
        .iter()
        .rev()
        .filter(|entry| entry.account == fingerprint && is_visible(entry, rules, now))
        .filter(|entry| (start..=end).contains(&local_date(entry.accepted_at)))
        .collect();
    let orders: Vec<Value> = wanted
        .iter()
        .skip((page - 1).saturating_mul(ORDERS_PER_PAGE))
        .take(ORDERS_PER_PAGE)
        .filter_map(|entry| {
            let order_id: u64 = entry.order_id.parse().ok()?;
            let mut order =
                OrderState::of(state, order_id, entry, rules, now).summary(entry, rules);
            // A number on this page of the documentation, a string on the other.
            order.insert("id".to_owned(), rules.reply.figure(order_id));
            Some(Value::Object(order))
        })
        .collect();
    Ok(Map::from_iter([
        ("count".to_owned(), json!(wanted.len())),
        ("orders".to_owned(), Value::Array(orders)),
    ]))
}

/// `get-blacklist`: the account's own block list, a page of it. Since when a number is on it is not looked at.
pub fn get_blacklist(call: &Call, rules: &Rules) -> Result<Map<String, Value>, Refusal> {
    let query = call.request().and_then(|request| request.get("blacklist"));
    let page = page_of(query)?;
    let rows = query
        .and_then(|query| query.get("rowCount"))
        .and_then(number_in)
        .and_then(|rows| usize::try_from(rows).ok())
        .map_or(NUMBERS_PER_PAGE, |rows| rows.min(NUMBERS_PER_PAGE));
    let all = Vec::from(rules.blocked.clone());
    let numbers: Vec<String> = all
        .iter()
        .skip((page - 1).saturating_mul(rows))
        .take(rows)
        .map(|number| format!("+{number}"))
        .collect();
    let list = json!({"count": all.len(), "number": numbers});
    Ok(Map::from_iter([("blacklist".to_owned(), list)]))
}

/// `cancel-order`: 455 unless the order is scheduled and has not gone out.
pub fn cancel_order(
    state: &mut ProviderState,
    account: usize,
    call: &Call,
    now: i64,
) -> Result<Map<String, Value>, Refusal> {
    let (order_id, _) = find(state, account, call)?;
    state.cancel(account, order_id, now)?;
    Ok(Map::new())
}

fn find<'a>(
    state: &'a ProviderState,
    account: usize,
    call: &Call,
) -> Result<(u64, &'a LedgerEntry), Refusal> {
    let id = call
        .order()
        .and_then(|order| order.get("id"))
        .and_then(number_in)
        .ok_or_else(|| Refusal::code(455))?;
    let entry = state.order(account, id).ok_or_else(|| Refusal::code(455))?;
    Ok((id, entry))
}

fn is_visible(entry: &LedgerEntry, rules: &Rules, now: i64) -> bool {
    now - entry.accepted_at >= micros(rules.visible_after)
}

/// Pages start at 1; a missing page is the first.
fn page_of(holder: Option<&Value>) -> Result<usize, Refusal> {
    match holder.and_then(|holder| holder.get("page")) {
        None | Some(Value::Null) => Ok(1),
        Some(page) => {
            let page = number_in(page).and_then(|n| usize::try_from(n).ok());
            page.filter(|n| *n >= 1).ok_or_else(|| Refusal::code(464))
        }
    }
}

/// Numbers and strings of digits are used alike by the official clients.
fn number_in(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    }
}

fn micros(length: std::time::Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

struct OrderState {
    status: u64,
    delivered: u64,
    undelivered: u64,
    waiting: u64,
}

impl OrderState {
    fn of(
        state: &ProviderState,
        order_id: u64,
        entry: &LedgerEntry,
        rules: &Rules,
        now: i64,
    ) -> Self {
        let total = count(entry.numbers.len());
        if state.cancelled_at(order_id).is_some() {
            return OrderState {
                status: ORDER_NOT_SENT,
                delivered: 0,
                undelivered: total,
                waiting: 0,
            };
        }
        if now < entry.send_at.saturating_add(micros(rules.delivered_after)) {
            return OrderState {
                status: ORDER_UNDER_WAY,
                delivered: 0,
                undelivered: 0,
                waiting: total,
            };
        }
        let undelivered = count(
            entry
                .numbers
                .iter()
                .filter(|number| is_undeliverable(rules, number))
                .count(),
        );
        OrderState {
            status: ORDER_COMPLETE,
            delivered: total - undelivered,
            undelivered,
            waiting: 0,
        }
    }

    fn of_number(&self, rules: &Rules, number: &str) -> u64 {
        match self.status {
            ORDER_UNDER_WAY => MESSAGE_UNDER_WAY,
            ORDER_COMPLETE if !is_undeliverable(rules, number) => MESSAGE_DELIVERED,
            _ => MESSAGE_FAILED,
        }
    }

    fn summary(&self, entry: &LedgerEntry, rules: &Rules) -> Map<String, Value> {
        let Value::Object(summary) = json!({
            "id": entry.order_id,
            "status": rules.reply.figure(self.status),
            "total": entry.numbers.len(),
            "delivered": self.delivered,
            "undelivered": self.undelivered,
            "waiting": self.waiting,
            "submitAt": report_time(entry.accepted_at),
            "sendAt": report_time(entry.send_at),
            "sender": entry.sender,
        }) else {
            unreachable!("an object was just written")
        };
        summary
    }
}

fn is_undeliverable(rules: &Rules, number: &str) -> bool {
    rules.unreachable.contains(number) || rules.blocked.contains(number)
}

fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rules::Submission;
    use super::super::schedule::Schedule;
    use super::super::state::tests::{state, submission, submit};
    use super::super::wire::{Action, ReplyStyle, Shape};
    use super::*;

    /// 2026-05-01 12:00 in Turkey.
    const NOON: i64 = 1_777_626_000_000_000;
    const SECOND: i64 = 1_000_000;

    fn report(state: &ProviderState, rules: &Rules, order: Value, now: i64) -> Result<Value, u16> {
        let call = Call::read(
            Action::GetReport,
            json!({"request": {"order": order}}).to_string().as_bytes(),
        );
        get_report(state, 0, &call, rules, now)
            .map(|extras| extras["order"].clone())
            .map_err(|refusal| refusal.code)
    }

    fn list(
        state: &ProviderState,
        rules: &Rules,
        filter: Value,
        now: i64,
    ) -> Result<Map<String, Value>, u16> {
        let call = Call::read(
            Action::GetReports,
            json!({"request": {"filter": filter}})
                .to_string()
                .as_bytes(),
        );
        get_reports(state, 0, &call, rules, now).map_err(|refusal| refusal.code)
    }

    #[test]
    fn an_order_is_under_way_and_then_complete() {
        let mut state = state(100);
        let rules = Rules::default();
        submit(&mut state, &rules, 0, NOON, submission("a")).expect("accepted");
        let early = report(&state, &rules, json!({"id": "100"}), NOON).expect("visible");
        assert_eq!(
            (&early["status"], &early["waiting"]),
            (&json!(113), &json!(1))
        );
        let late = report(&state, &rules, json!({"id": 100}), NOON + SECOND).expect("visible");
        assert_eq!(
            late,
            json!({
                "id": "100", "status": 114, "total": 1, "delivered": 1, "undelivered": 0, "waiting": 0,
                "submitAt": "2026-05-01 12:00:00", "sendAt": "2026-05-01 12:00:00", "sender": "SANDBOX", "price": 2.0,
                "message": [{"number": "+905321234567", "status": 111}]
            })
        );
    }

    #[test]
    fn an_unreachable_number_ends_undelivered_in_a_complete_order() {
        let mut state = state(100);
        let rules = Rules {
            unreachable: ["905321234567"].into_iter().collect(),
            reply: ReplyStyle {
                figures: Shape::String,
                ..ReplyStyle::default()
            },
            ..Rules::default()
        };
        submit(&mut state, &rules, 0, NOON, submission("a")).expect("accepted");
        let order = report(&state, &rules, json!({"id": "100"}), NOON + SECOND).expect("visible");
        assert_eq!(
            (&order["status"], &order["undelivered"]),
            (&json!("114"), &json!(1))
        );
        assert_eq!(
            (&order["message"][0]["status"], &order["price"]),
            (&json!("112"), &json!("2,0000"))
        );
    }

    #[test]
    fn an_order_becomes_visible_after_the_delay_and_to_its_own_account_only() {
        let mut state = state(100);
        let rules = Rules {
            visible_after: Duration::from_secs(5),
            ..Rules::default()
        };
        submit(&mut state, &rules, 0, NOON, submission("a")).expect("accepted");
        submit(&mut state, &rules, 1, NOON, submission("a")).expect("accepted");
        assert_eq!(
            report(&state, &rules, json!({"id": "100"}), NOON + 4 * SECOND),
            Err(455)
        );
        assert!(report(&state, &rules, json!({"id": "100"}), NOON + 5 * SECOND).is_ok());
        assert_eq!(
            report(&state, &rules, json!({"id": "101"}), NOON + 5 * SECOND),
            Err(455),
            "another account's"
        );
        assert_eq!(
            report(&state, &rules, json!({"id": "999"}), NOON + 5 * SECOND),
            Err(455)
        );
        assert_eq!(
            report(&state, &rules, json!({}), NOON + 5 * SECOND),
            Err(455)
        );
        assert_eq!(
            report(
                &state,
                &rules,
                json!({"id": "100", "page": "0"}),
                NOON + 5 * SECOND
            ),
            Err(464)
        );
    }

    #[test]
    fn a_scheduled_order_is_456_until_due_and_115_when_cancelled() {
        let mut state = state(100);
        let rules = Rules::default();
        let later = Submission {
            schedule: Schedule::At(NOON + 60 * SECOND),
            ..submission("a")
        };
        submit(&mut state, &rules, 0, NOON, later).expect("accepted");
        assert_eq!(
            report(&state, &rules, json!({"id": "100"}), NOON + SECOND),
            Err(456)
        );
        let cancel = Call::read(Action::CancelOrder, br#"{"request":{"order":{"id":100}}}"#);
        assert!(cancel_order(&mut state, 0, &cancel, NOON + SECOND).is_ok());
        assert_eq!(
            report(&state, &rules, json!({"id": "100"}), NOON + SECOND).expect("visible")["status"],
            json!(115)
        );
    }

    #[test]
    fn orders_are_listed_by_turkish_day_in_pages_of_thirty_newest_first() {
        let mut state = state(1_000);
        let rules = Rules::default();
        for n in 0..31 {
            submit(&mut state, &rules, 0, NOON + n, submission(&n.to_string())).expect("accepted");
        }
        let today = json!({"start": "2026-05-01", "end": "2026-05-01"});
        let first = list(&state, &rules, today, NOON + SECOND).expect("listed");
        assert_eq!(
            (&first["count"], first["orders"].as_array().map(Vec::len)),
            (&json!(31), Some(30))
        );
        assert_eq!(first["orders"][0]["id"], json!(130));
        let second = json!({"start": "2026-05-01", "end": "2026-05-01", "page": 2});
        assert_eq!(
            list(&state, &rules, second, NOON + SECOND).expect("listed")["orders"][0]["id"],
            json!(100)
        );
        let tomorrow = json!({"start": "2026-05-02", "end": "2026-05-02"});
        assert_eq!(
            list(&state, &rules, tomorrow, NOON + SECOND).expect("listed")["count"],
            json!(0)
        );
    }

    #[test]
    fn a_range_that_is_long_backwards_or_unreadable_is_458() {
        for (start, end, expected) in [
            ("2026-05-01", "2026-05-11", Ok(())),
            ("2026-05-01", "2026-05-12", Err(458)),
            ("2026-05-02", "2026-05-01", Err(458)),
            ("01.05.2026", "2026-05-01", Err(458)),
        ] {
            let listed = list(
                &state(0),
                &Rules::default(),
                json!({"start": start, "end": end}),
                NOON,
            );
            assert_eq!(listed.map(|_| ()), expected, "{start} to {end}");
        }
        assert_eq!(
            list(&state(0), &Rules::default(), json!({}), NOON).map(|_| ()),
            Err(458)
        );
    }
}
