//! The requests as the provider documents them: same names, same nesting, no logic but the spelling of a moment.
//!
//! Source: provider documentation, pages send-sms, get-balance and get-sender. `receipents` is the real field name;
//! spelt correctly, or placed outside `message`, the list counts as empty (code 452).

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Europe::Istanbul;
use serde::Serialize;

use crate::message::{Iys, Recipient};

/// Where an order is placed.
pub(super) const SEND_SMS: &str = "/v1/send-sms/json";
/// Where the balance is asked for: no side effects, recommended as a health check.
pub(super) const GET_BALANCE: &str = "/v1/get-balance/json";
/// Where the approved senders are asked for: no side effects.
pub(super) const GET_SENDER: &str = "/v1/get-sender/json";
/// Where the orders of some days are listed: no side effects.
pub(super) const GET_REPORTS: &str = "/v1/get-reports/json";
/// Where one order is shown with its numbers: no side effects.
pub(super) const GET_REPORT: &str = "/v1/get-report/json";
/// Where an order is cancelled that the provider holds until its moment.
pub(super) const CANCEL_ORDER: &str = "/v1/cancel-order/json";
/// Where the account's block list is shown: no side effects.
pub(super) const GET_BLACKLIST: &str = "/v1/get-blacklist/json";

/// The outermost object of every request.
#[derive(Serialize)]
pub(super) struct Envelope<T> {
    pub(super) request: T,
}

/// `send-sms`.
#[derive(Serialize)]
pub(super) struct SendSms<'a> {
    pub(super) authentication: Authentication<'a>,
    pub(super) order: Order<'a>,
}

/// `get-balance` and `get-sender`, which ask for nothing but who is asking.
#[derive(Serialize)]
pub(super) struct AccountQuery<'a> {
    pub(super) authentication: Authentication<'a>,
}

/// `get-reports`.
#[derive(Serialize)]
pub(super) struct Reports<'a> {
    pub(super) authentication: Authentication<'a>,
    pub(super) filter: ReportsFilter,
}

/// Days as `2026-05-01`, pages from 1.
#[derive(Serialize)]
pub(super) struct ReportsFilter {
    pub(super) start: String,
    pub(super) end: String,
    pub(super) page: u32,
}

/// `get-report`.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    pub(super) authentication: Authentication<'a>,
    pub(super) order: ReportOrder<'a>,
}

/// All three are strings in the documentation; at most 1,000 rows a page.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportOrder<'a> {
    pub(super) id: &'a str,
    pub(super) page: String,
    pub(super) row_count: &'static str,
}

/// `cancel-order`.
#[derive(Serialize)]
pub(super) struct CancelOrder<'a> {
    pub(super) authentication: Authentication<'a>,
    pub(super) order: CancelledOrder<'a>,
}

#[derive(Serialize)]
pub(super) struct CancelledOrder<'a> {
    pub(super) id: &'a str,
}

#[derive(Serialize)]
pub(super) struct BlockList<'a> {
    pub(super) authentication: Authentication<'a>,
    pub(super) blacklist: BlockListQuery,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockListQuery {
    pub(super) filter: BlockListFilter,
    pub(super) page: u32,
    pub(super) row_count: usize,
}

/// When a number came onto the list, as `2026-05-01 12:00:00`.
#[derive(Serialize)]
pub(super) struct BlockListFilter {
    pub(super) start: &'static str,
    pub(super) end: &'static str,
}

#[derive(Serialize)]
pub(super) struct Authentication<'a> {
    pub(super) key: &'a str,
    /// Sent as it is issued, next to the key; nothing is hashed here.
    pub(super) hash: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Order<'a> {
    pub(super) sender: &'a str,
    /// `"1"` or `"0"`, as a string. Never left out: some versions of the API would then send all the same.
    pub(super) iys: &'static str,
    /// `"BIREYSEL"` or `"TACIR"`, with `iys` `"1"` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) iys_list: Option<&'static str>,
    /// See [`send_date_time`]; left out when the message is to go at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) send_date_time: Option<String>,
    pub(super) message: Message<'a>,
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub(super) text: &'a str,
    pub(super) receipents: Receipents<'a>,
}

#[derive(Serialize)]
pub(super) struct Receipents<'a> {
    pub(super) number: &'a [Recipient],
}

/// The provider's two fields for one answer to "does it market something?".
pub(super) fn iys_fields(iys: Iys) -> (&'static str, Option<&'static str>) {
    match iys {
        Iys::Transactional => ("0", None),
        Iys::Commercial(list) => ("1", Some(list.as_str())),
    }
}

/// `dd/MM/yyyy HH:mm` by the clocks in Turkey.
///
/// Never with seconds: the provider then ignores the schedule and sends at once (provider's MCP server, changelog 0.2.0).
pub(super) fn send_date_time(moment: DateTime<Utc>) -> String {
    full_minute(moment)
        .with_timezone(&Istanbul)
        .format("%d/%m/%Y %H:%M")
        .to_string()
}

/// When the provider sends what it is asked to send at `moment`: it knows whole minutes, and nothing goes early.
pub(crate) fn full_minute(moment: DateTime<Utc>) -> DateTime<Utc> {
    let past_minute = i64::from(moment.second()) * 1_000_000_000 + i64::from(moment.nanosecond());
    match past_minute {
        0 => moment,
        // A leap second counts as a 60th one, which the next minute is still after.
        past => moment
            .checked_add_signed(TimeDelta::nanoseconds((60_000_000_000 - past).max(0)))
            .unwrap_or(moment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ForeignNumbers, IysList};

    fn moment(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn numbers(texts: &[&str]) -> Vec<Recipient> {
        texts
            .iter()
            .map(|text| Recipient::parse(text, ForeignNumbers::Allowed).unwrap())
            .collect()
    }

    fn json(iys: Iys, send_date_time: Option<String>, text: &str, number: &[Recipient]) -> String {
        let (iys, iys_list) = iys_fields(iys);
        serde_json::to_string(&Envelope {
            request: SendSms {
                authentication: Authentication {
                    key: "K",
                    hash: "H",
                },
                order: Order {
                    sender: "BRAND",
                    iys,
                    iys_list,
                    send_date_time,
                    message: Message {
                        text,
                        receipents: Receipents { number },
                    },
                },
            },
        })
        .unwrap()
    }

    #[test]
    fn a_transactional_order_reads_as_documented() {
        assert_eq!(
            json(
                Iys::Transactional,
                None,
                "Merhaba \"Ayşe\"",
                &numbers(&["05321234567"])
            ),
            r#"{"request":{"authentication":{"key":"K","hash":"H"},"order":{"sender":"BRAND","iys":"0","message":{"text":"Merhaba \"Ayşe\"","receipents":{"number":["905321234567"]}}}}}"#
        );
    }

    #[test]
    fn a_scheduled_marketing_order_reads_as_documented() {
        let at = send_date_time(moment("2026-05-01T09:00:00Z"));
        assert_eq!(
            json(
                Iys::Commercial(IysList::Merchant),
                Some(at),
                "x",
                &numbers(&["05321234567", "+49 171 1234567"])
            ),
            r#"{"request":{"authentication":{"key":"K","hash":"H"},"order":{"sender":"BRAND","iys":"1","iysList":"TACIR","sendDateTime":"01/05/2026 12:00","message":{"text":"x","receipents":{"number":["905321234567","+491711234567"]}}}}}"#
        );
    }

    #[test]
    fn a_moment_is_told_by_turkish_clocks_in_full_minutes_and_never_early() {
        for (utc, told) in [
            ("2026-05-01T09:00:00Z", "01/05/2026 12:00"),
            ("2026-05-01T09:00:00.000000001Z", "01/05/2026 12:01"),
            ("2026-05-01T09:00:01Z", "01/05/2026 12:01"),
            ("2026-05-01T09:00:59.999Z", "01/05/2026 12:01"),
            ("2026-12-31T20:59:30Z", "01/01/2027 00:00"),
            ("2026-01-15T09:00:00Z", "15/01/2026 12:00"), // no winter time since 2016
            ("2015-01-15T09:00:00Z", "15/01/2015 11:00"), // which a constant +03:00 would get wrong
        ] {
            assert_eq!(send_date_time(moment(utc)), told, "{utc}");
        }
        // Nobody schedules this; it must not panic either.
        assert!(send_date_time(DateTime::<Utc>::MAX_UTC).contains(':'));
        assert!(send_date_time(DateTime::<Utc>::MIN_UTC).contains(':'));
    }
}
