//! What the reports say, as far as it can be read: pages get-reports and get-report of the provider's documentation.
//!
//! Ids, totals and status numbers come as numbers or as texts, times without a zone (Turkish ones, as far as anyone can tell),
//! and the text of a message never comes at all.

use chrono::{DateTime, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Europe::Istanbul;

use super::reply::{Answer, Tree, as_count, read_order_id};
use crate::{
    delivery::{Price, Word},
    message::{ForeignNumbers, Recipient},
    reconciliation::ListedOrder,
};

/// The status numbers of the documentation, section "Status codes".
const SENDING: u64 = 110;
const DELIVERED: u64 = 111;
const UNDELIVERED: u64 = 112;

/// One page of the list of a range of days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportPage {
    /// How many orders the range has, where the provider says so.
    pub count: Option<u64>,
    /// Those of this page that could be read.
    pub orders: Vec<ListedOrder>,
    /// How many entries this page has, readable or not.
    pub entries: usize,
}

/// What a report says of one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedNumber {
    /// The number.
    pub number: Recipient,
    /// The last word on it; `None`: there is none yet (110), or it cannot be read.
    pub word: Option<Word>,
    /// Whether its status is one of the documented ones.
    pub is_understood: bool,
}

/// The numbers of an order, a page of them, and what is said of the order on each page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumbersPage {
    /// 113: being sent, 114: every message final, 115: not sent; `None`: not readable.
    pub status: Option<i64>,
    /// How many messages the order has, where the provider says so.
    pub total: Option<u64>,
    /// What it cost, where the provider says so.
    pub price: Option<Price>,
    /// Those that could be read.
    pub numbers: Vec<ReportedNumber>,
    /// How many entries this page has, readable or not.
    pub entries: usize,
}

impl ReportPage {
    /// `None` if there is no list where the documentation has it.
    pub(super) fn read(answer: &Answer) -> Option<Self> {
        let Tree::List(entries) = answer.field(&["orders"])? else {
            return None;
        };
        Some(Self {
            count: answer.field(&["count"]).and_then(as_count),
            orders: entries.iter().filter_map(read_order).collect(),
            entries: entries.len(),
        })
    }
}

impl NumbersPage {
    /// `None` if there is no list where the documentation has it.
    pub(super) fn read(answer: &Answer) -> Option<Self> {
        let entries = match answer.field(&["order", "message"])? {
            Tree::List(entries) => entries.as_slice(),
            // The habit of the provider's other lists: a single element stands for itself.
            single @ Tree::Map(_) => std::slice::from_ref(single),
            _ => return None,
        };
        let of_order = |name| answer.field(&["order", name]);
        Some(Self {
            status: of_order("status").and_then(read_status),
            total: of_order("total").and_then(as_count),
            price: of_order("price").and_then(read_price),
            numbers: entries.iter().filter_map(read_number).collect(),
            entries: entries.len(),
        })
    }
}

fn read_number(entry: &Tree) -> Option<ReportedNumber> {
    let text = match entry.at(&["number"])? {
        Tree::Text(text) => text.clone(),
        Tree::Integer(number) => number.to_string(),
        _ => return None,
    };
    let status = entry.at(&["status"]).and_then(as_count);
    Some(ReportedNumber {
        number: Recipient::parse(&text, ForeignNumbers::Allowed).ok()?,
        word: match status {
            Some(DELIVERED) => Some(Word::Delivered),
            Some(UNDELIVERED) => Some(Word::Undelivered),
            Some(_) | None => None,
        },
        is_understood: matches!(status, Some(SENDING | DELIVERED | UNDELIVERED)),
    })
}

fn read_status(value: &Tree) -> Option<i64> {
    as_count(value).and_then(|status| i64::try_from(status).ok())
}

fn read_price(value: &Tree) -> Option<Price> {
    match value {
        Tree::Integer(number) => Price::parse(&number.to_string()),
        Tree::Decimal(number) => Price::parse(&format!("{number:.6}")),
        Tree::Text(text) => Price::parse(text),
        Tree::Nothing | Tree::List(_) | Tree::Map(_) => None,
    }
}

fn read_order(entry: &Tree) -> Option<ListedOrder> {
    Some(ListedOrder {
        id: entry.at(&["id"]).and_then(read_order_id)?,
        sender: entry.at(&["sender"])?.as_text()?.to_owned(),
        total: entry.at(&["total"]).and_then(as_count)?,
        submitted_at: entry
            .at(&["submitAt"])
            .and_then(Tree::as_text)
            .and_then(read_time)?,
        status: entry.at(&["status"]).and_then(read_status),
        delivered: entry.at(&["delivered"]).and_then(as_count),
        undelivered: entry.at(&["undelivered"]).and_then(as_count),
    })
}

/// `2026-05-01 12:00:00` by the clocks in Turkey; a `T` in between does no harm.
fn read_time(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let local = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?;
    Istanbul
        .from_local_datetime(&local)
        .earliest()
        .map(|moment| moment.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(orders: &str) -> Option<ReportPage> {
        let body =
            format!(r#"{{"response":{{"status":{{"code":200}},"count":"2","orders":{orders}}}}}"#);
        ReportPage::read(&Answer::read(body.as_bytes()))
    }

    #[test]
    fn a_list_of_orders_is_read_with_its_numbers_as_numbers_or_texts() {
        let read = page(
            r#"[{"id":312988299,"status":114,"total":1,"submitAt":"2026-05-01 12:00:00","sender":"BRAND"},
                {"id":"312988300","status":"113","total":"2","submitAt":"2026-05-01T00:00:00","sender":"Brand 2"}]"#,
        )
        .expect("a list");
        assert_eq!((read.count, read.entries), (Some(2), 2));
        let of = |place: usize| {
            let order = &read.orders[place];
            (
                order.id.as_str(),
                order.sender.as_str(),
                order.total,
                order.submitted_at.to_rfc3339(),
                order.status,
            )
        };
        // Turkish time is three hours ahead.
        assert_eq!(
            of(0),
            (
                "312988299",
                "BRAND",
                1,
                "2026-05-01T09:00:00+00:00".to_owned(),
                Some(114)
            )
        );
        assert_eq!(
            of(1),
            (
                "312988300",
                "Brand 2",
                2,
                "2026-04-30T21:00:00+00:00".to_owned(),
                Some(113)
            )
        );
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_left_out() {
        for entry in [
            r#"{"status":114,"total":1,"submitAt":"2026-05-01 12:00:00","sender":"BRAND"}"#,
            r#"{"id":0,"total":1,"submitAt":"2026-05-01 12:00:00","sender":"BRAND"}"#,
            r#"{"id":1,"submitAt":"2026-05-01 12:00:00","sender":"BRAND"}"#,
            r#"{"id":1,"total":1,"submitAt":"01.05.2026 12:00","sender":"BRAND"}"#,
            r#"{"id":1,"total":1,"submitAt":"2026-05-01 12:00:00"}"#,
            r#""312988299""#,
            "null",
        ] {
            let read = page(&format!("[{entry}]")).expect("a list");
            assert_eq!((read.entries, read.orders.len()), (1, 0), "{entry}");
        }
        assert_eq!(page("[]").map(|page| page.entries), Some(0));
        for none in ["{}", "null", "1", "\"x\""] {
            assert_eq!(page(none), None, "{none}");
        }
    }

    #[test]
    fn the_numbers_of_an_order_are_read_in_every_spelling() {
        let read = |message: &str| {
            let body = format!(
                r#"{{"response":{{"status":{{"code":200}},"order":{{"id":"1","message":{message}}}}}}}"#
            );
            NumbersPage::read(&Answer::read(body.as_bytes()))
        };
        let numbers = |message: &str| {
            let page = read(message).expect("a list");
            let numbers = page
                .numbers
                .iter()
                .map(|one| one.number.as_str().to_owned());
            let numbers: Vec<String> = numbers.collect();
            (numbers, page.entries)
        };
        let one = vec!["905301234567".to_owned()];
        for spelling in [
            r#""+905301234567""#,
            r#""905301234567""#,
            "5301234567",
            "905301234567",
        ] {
            let list = format!(r#"[{{"number":{spelling},"status":111}}]"#);
            assert_eq!(numbers(&list), (one.clone(), 1), "{spelling}");
        }
        assert_eq!(
            numbers(r#"{"number":"+905301234567","status":"111"}"#),
            (one, 1)
        );
        assert_eq!(numbers(r#"[{"number":"?"},{}]"#), (vec![], 2));
        assert_eq!(read("null"), None);
    }

    #[test]
    fn what_a_report_says_is_read_in_every_spelling_that_was_seen() {
        let read = |order: &str| {
            let body = format!(
                r#"{{"response":{{"status":{{"code":200}},"order":{{"id":"1",{order}}}}}}}"#
            );
            NumbersPage::read(&Answer::read(body.as_bytes())).expect("a list")
        };
        let page = read(
            r#""status":"114","total":"4","price":"0,0372","message":[
                {"number":"+905301234567","status":111},{"number":"+905301234568","status":"112"},
                {"number":"+905301234569","status":110},{"number":"+905301234560","status":"?"}]"#,
        );
        assert_eq!((page.status, page.total), (Some(114), Some(4)));
        assert_eq!(page.price, Price::parse("0.0372"));
        let said: Vec<_> = page
            .numbers
            .iter()
            .map(|one| (one.word, one.is_understood))
            .collect();
        assert_eq!(
            said,
            [
                (Some(Word::Delivered), true),
                (Some(Word::Undelivered), true),
                (None, true),
                (None, false)
            ]
        );
        for (price, expected) in [("1", "1"), ("0.5", "0.5"), ("\"0,0000\"", "0")] {
            let page = read(&format!(r#""status":"","price":{price},"message":[]"#));
            let amount = |text: &str| {
                let price = Price::parse(text).expect("an amount");
                price.as_str().parse::<f64>().expect("a number")
            };
            let read = page.price.expect("an amount");
            assert_eq!(read.as_str().parse(), Ok(amount(expected)), "{price}");
            assert_eq!((page.status, page.total), (None, None));
        }
    }
}
