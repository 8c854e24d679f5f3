//! Asking about orders: `get-report`, `get-reports` and `cancel-order`.
//!
//! What an order has come to follows from the time ([`super::order`]). Neither report ever shows the text (provider documentation,
//! get-report and get-reports pages).

use serde_json::{Map, Value, json};

use super::order::{MessageState, Order, Totals};
use super::rules::{CancelledShows, Rules};
use super::schedule::{read_date, report_time};
use super::span::micros;
use super::state::{NotSent, ProviderState};
use super::wire::{Call, Refusal, number_in, page_of, rows_of};

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
    let order = find(state, account, call)?;
    let page = page_of(call.order())?;
    if now - order.head().accepted_at < micros(rules.visible_after) {
        return Err(Refusal::code(455));
    }
    let not_sent = state.not_sent(order, now);
    match (not_sent, rules.cancelled_shows) {
        (Some(NotSent::Cancelled), CancelledShows::Unknown) => return Err(Refusal::code(455)),
        (None, _) if order.head().send_at > now => return Err(Refusal::code(456)),
        _ => {}
    }
    let rows = rows_of(call.order());
    let rulings = state.rulings(order);
    let status = |index: usize| match order.course(index, rulings).state(now) {
        _ if not_sent.is_some() => MESSAGE_FAILED,
        MessageState::UnderWay => MESSAGE_UNDER_WAY,
        MessageState::Delivered => MESSAGE_DELIVERED,
        MessageState::Failed => MESSAGE_FAILED,
    };
    let message: Vec<Value> = order
        .messages()
        .enumerate()
        .skip((page - 1).saturating_mul(rows))
        .take(rows)
        .map(|(index, (_, number))| {
            json!({"number": format!("+{number}"), "status": rules.reply.figure(status(index))})
        })
        .collect();
    let (mut told, totals) = summary(state, order, rules, now);
    told.insert("id".to_owned(), rules.reply.report_id.dress(order.id));
    if rules.reply.bare_reports {
        told.retain(|field, _| ["id", "status"].contains(&field.as_str()));
    } else {
        let price = rules.reply.money(rules.price.of(totals.price), ',');
        told.insert("price".to_owned(), price);
    }
    told.insert("message".to_owned(), Value::Array(message));
    Ok(Map::from_iter([("order".to_owned(), Value::Object(told))]))
}

/// `get-reports`: the account's orders of a range of days. 458 for a range that is badly written, backwards or too long; 464 for a
/// bad page. A page stands in `filter`; two official clients send it beside that, where it is not looked for.
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
    let from = (page_of(filter)? - 1).saturating_mul(ORDERS_PER_PAGE);
    let hidden = micros(rules.visible_after).saturating_add(micros(rules.listed_after));
    let (count, listed) = state.page_of_orders(
        account,
        (start, end),
        now.saturating_sub(hidden),
        rules.reports_order,
        from..from.saturating_add(ORDERS_PER_PAGE),
    );
    let orders: Vec<Value> = listed
        .into_iter()
        .map(|order| {
            let (mut told, _) = summary(state, order, rules, now);
            // A number on this page of the documentation, a string on the other.
            told.insert("id".to_owned(), rules.reply.figure(order.id));
            Value::Object(told)
        })
        .collect();
    Ok(Map::from_iter([
        ("count".to_owned(), json!(count)),
        ("orders".to_owned(), Value::Array(orders)),
    ]))
}

/// `cancel-order`: 455 unless the order is scheduled and has not gone out.
pub fn cancel_order(
    state: &mut ProviderState,
    account: usize,
    call: &Call,
    now: i64,
) -> Result<Map<String, Value>, Refusal> {
    let order_id = find(state, account, call)?.id;
    state.cancel(account, order_id, now)?;
    Ok(Map::new())
}

fn find<'a>(state: &'a ProviderState, account: usize, call: &Call) -> Result<&'a Order, Refusal> {
    call.order()
        .and_then(|order| order.get("id"))
        .and_then(number_in)
        .and_then(|id| state.order(account, id))
        .map(|order| &**order)
        .ok_or_else(|| Refusal::code(455))
}

/// What both reports say of an order.
fn summary(
    state: &ProviderState,
    order: &Order,
    rules: &Rules,
    now: i64,
) -> (Map<String, Value>, Totals) {
    let total = order.total();
    let (status, totals) = if state.not_sent(order, now).is_some() {
        let totals = Totals {
            undelivered: u64::try_from(total).unwrap_or(u64::MAX),
            ..Totals::default()
        };
        (ORDER_NOT_SENT, totals)
    } else {
        let totals = state.totals(order, now);
        let status = if totals.waiting > 0 {
            ORDER_UNDER_WAY
        } else {
            ORDER_COMPLETE
        };
        (status, totals)
    };
    let head = order.head();
    let Value::Object(summary) = json!({
        "id": head.order_id,
        "status": rules.reply.figure(status),
        "total": total,
        "delivered": totals.delivered,
        "undelivered": totals.undelivered,
        "waiting": totals.waiting,
        "submitAt": report_time(head.accepted_at),
        "sendAt": report_time(head.send_at),
        "sender": head.sender,
    }) else {
        unreachable!("an object was just written")
    };
    (summary, totals)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::delivery::Fate;
    use super::super::rules::{NobodyLeft, ReportsOrder, Submission};
    use super::super::schedule::Schedule;
    use super::super::span::Span;
    use super::super::state::tests::{state, submission, submit};
    use super::super::wire::{Action, IdShape, ReplyStyle, Shape};
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
                "submitAt": "2026-05-01 12:00:00", "sendAt": "2026-05-01 12:00:00", "sender": "SANDBOX", "price": 2,
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
            (&json!("112"), &json!("0,0000"))
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
        let forgetful = Rules {
            cancelled_shows: CancelledShows::Unknown,
            ..rules
        };
        assert_eq!(
            report(&state, &forgetful, json!({"id": "100"}), NOON + SECOND),
            Err(455)
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
    fn pages_run_over_days_and_accounts_in_either_order() {
        const DAY: i64 = 86_400 * SECOND;
        let mut state = state(1_000_000);
        let mut rules = Rules::default();
        let mut own = Vec::new();
        for n in 0..200_u64 {
            // Three days, and every third order is somebody else's.
            let at = NOON + i64::try_from(n).expect("small") * DAY / 80;
            let account = usize::from(n % 3 == 0);
            let id = submit(&mut state, &rules, account, at, submission(&n.to_string()));
            if account == 0 {
                own.push(id.expect("accepted"));
            }
        }
        for (order, expected) in [
            (ReportsOrder::Oldest, own.clone()),
            (ReportsOrder::Newest, own.iter().rev().copied().collect()),
        ] {
            rules.reports_order = order;
            let mut listed = Vec::new();
            for page in 1..=6 {
                let filter = json!({"start": "2026-05-01", "end": "2026-05-04", "page": page});
                let told = list(&state, &rules, filter, NOON + 4 * DAY).expect("listed");
                assert_eq!(told["count"], json!(own.len()));
                let ids = told["orders"].as_array().expect("a list").iter();
                listed.extend(ids.map(|order| order["id"].as_u64().expect("an id")));
            }
            assert_eq!(listed, expected, "{order:?}");
        }
        let first_day = json!({"start": "2026-05-01", "end": "2026-05-01"});
        let told = list(&state, &rules, first_day, NOON + 4 * DAY).expect("listed");
        assert_eq!(told["count"], json!(26), "until midnight in Turkey");
    }

    #[test]
    fn a_list_learns_of_an_order_later_than_its_report() {
        let mut state = state(100);
        let rules = Rules {
            visible_after: Duration::from_secs(2),
            listed_after: Duration::from_secs(3),
            ..Rules::default()
        };
        submit(&mut state, &rules, 0, NOON, submission("a")).expect("accepted");
        let today = json!({"start": "2026-05-01", "end": "2026-05-01"});
        for (seconds, told, listed) in [(1, false, 0), (2, true, 0), (4, true, 0), (5, true, 1)] {
            let now = NOON + seconds * SECOND;
            let report = report(&state, &rules, json!({"id": "100"}), now);
            let list = list(&state, &rules, today.clone(), now).expect("listed");
            assert_eq!(
                (report.is_ok(), &list["count"]),
                (told, &json!(listed)),
                "after {seconds} s"
            );
        }
    }

    fn to(numbers: usize) -> Submission {
        let mut order = submission("hello");
        order.texts[0].numbers = (0..numbers).map(|n| format!("90532{n:07}")).collect();
        order
    }

    #[test]
    fn messages_end_one_by_one_and_the_order_is_complete_with_the_last() {
        let mut state = state(100_000);
        let rules = Rules {
            delivery: "undelivered@0.1".parse().expect("shares"),
            delivery_delay: "1s-20s".parse().expect("a span"),
            ..Rules::default()
        };
        submit(&mut state, &rules, 0, NOON, to(1_000)).expect("accepted");
        let mut before = 1_001;
        for (second, complete) in [(0, false), (5, false), (15, false), (20, true)] {
            let now = NOON + second * SECOND;
            let told = report(&state, &rules, json!({"id": "100"}), now).expect("visible");
            let waiting = told["waiting"].as_u64().expect("a count");
            let messages = told["message"].as_array().expect("a list");
            let under_way = messages.iter().filter(|m| m["status"] == json!(110));
            assert_eq!(under_way.count() as u64, waiting, "after {second} s");
            assert!(waiting < before, "after {second} s");
            assert_eq!(told["status"], json!(if complete { 114 } else { 113 }));
            assert_eq!(waiting == 0, complete);
            before = waiting;
        }
        let told = report(&state, &rules, json!({"id": "100"}), NOON + 60 * SECOND);
        let undelivered = told.expect("visible")["undelivered"].as_u64();
        assert!((60..140).contains(&undelivered.expect("a count")));
    }

    #[test]
    fn what_was_drawn_for_an_order_stays_when_the_settings_change() {
        let mut state = state(100);
        let mut rules = Rules::default();
        submit(&mut state, &rules, 0, NOON, submission("a")).expect("accepted");
        rules.delivery = "never".parse().expect("shares");
        rules.blocked.insert("905321234567");
        let told = report(&state, &rules, json!({"id": "100"}), NOON + SECOND).expect("visible");
        assert_eq!(told["message"][0]["status"], json!(111));
    }

    #[test]
    fn a_message_of_which_nothing_is_heard_keeps_its_order_under_way_until_somebody_speaks() {
        let mut state = state(100);
        let rules = Rules {
            delivery: "never".parse().expect("shares"),
            ..Rules::default()
        };
        submit(&mut state, &rules, 0, NOON, to(2)).expect("accepted");
        let id = json!({"id": "100"});
        let later = NOON + 3_600 * SECOND;
        let told = report(&state, &rules, id.clone(), later).expect("visible");
        assert_eq!(
            (&told["status"], &told["waiting"]),
            (&json!(113), &json!(2))
        );

        let said = state.rule(100, Some("0532 000 00 01"), Fate::Delivered, later);
        assert_eq!(said.map(|(_, positions)| positions), Some(vec![1]));
        let told = report(&state, &rules, id.clone(), later).expect("visible");
        assert_eq!(
            (&told["status"], &told["message"][1]["status"]),
            (&json!(113), &json!(111))
        );
        state.rule(100, None, Fate::Undelivered, later);
        let told = report(&state, &rules, id, later).expect("visible");
        assert_eq!(
            (&told["status"], &told["undelivered"]),
            (&json!(114), &json!(2))
        );
        assert!(state.rule(101, None, Fate::Delivered, later).is_none());
    }

    #[test]
    fn an_accepted_order_can_turn_out_not_to_be_dispatched() {
        let mut state = state(100);
        let rules = Rules {
            delivery: "refused".parse().expect("shares"),
            ..Rules::default()
        };
        submit(&mut state, &rules, 0, NOON, submission("drawn")).expect("accepted");
        submit(&mut state, &Rules::default(), 0, NOON, submission("said")).expect("accepted");
        let status = |state: &ProviderState, id: u64, now: i64| {
            let told = report(state, &rules, json!({"id": id}), now).expect("visible");
            let message = &told["message"][0]["status"];
            (told["status"].clone(), message.clone())
        };
        assert_eq!(status(&state, 100, NOON), (json!(113), json!(110)));
        let later = NOON + SECOND;
        assert_eq!(status(&state, 100, later), (json!(115), json!(112)));
        assert!(state.refuse(101));
        assert_eq!(status(&state, 101, NOON), (json!(115), json!(112)));
        assert!(!state.refuse(102));
    }

    #[test]
    fn a_report_can_be_as_bare_as_it_once_was_and_have_a_price_in_lira() {
        let mut state = state(100);
        let mut rules = Rules {
            price: "0.0372".parse().expect("a price"),
            delivery_delay: Span::ZERO,
            ..Rules::default()
        };
        submit(&mut state, &rules, 0, NOON, submission("two parts")).expect("accepted");
        let told = |rules: &Rules| report(&state, rules, json!({"id": "100"}), NOON);
        assert_eq!(told(&rules).expect("visible")["price"], json!(0.0744));
        rules.reply.bare_reports = true;
        rules.reply.report_id = IdShape::Number;
        assert_eq!(
            told(&rules).expect("visible"),
            json!({
                "id": 100, "status": 114,
                "message": [{"number": "+905321234567", "status": 111}]
            })
        );
    }

    #[test]
    fn an_order_without_anybody_is_complete_or_not_sent() {
        for (nobody_left, status) in [(NobodyLeft::Complete, 114), (NobodyLeft::NotSent, 115)] {
            let mut state = state(100);
            let rules = Rules {
                nobody_left,
                ..Rules::default()
            };
            submit(&mut state, &rules, 0, NOON, to(0)).expect("accepted");
            let told = report(&state, &rules, json!({"id": "100"}), NOON).expect("visible");
            assert_eq!(
                (&told["status"], &told["total"]),
                (&json!(status), &json!(0))
            );
        }
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
