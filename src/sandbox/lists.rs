//! Whom an account may reach: its own block list, and the consents that it registers with İYS.
//!
//! Both endpoints change the account's settings as the panel would ([`Rules::blocked`], [`Rules::no_consent`]), so that the next order
//! meets what was changed (provider documentation, the block list and iys pages).

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::numbers::read_number;
use super::rules::{MissingConsent, Rules};
use super::schedule::read_time;
use super::wire::{Call, Refusal, number_text, page_of, rows_of};

/// The most entries in one `consent/create`.
const MOST_CONSENTS: usize = 5_000;

/// What the settings do not say of the lists: since when, and on what grounds. Shared by all accounts, as the settings are.
#[derive(Debug, Default)]
pub struct Lists {
    /// When numbers were blocked through the API, microseconds since 1970.
    blocked_at: HashMap<String, i64>,
    /// What was registered, by recipient, kind of recipient and channel.
    consents: HashMap<[String; 3], Map<String, Value>>,
}

type Told = Result<Map<String, Value>, Refusal>;

impl Lists {
    /// `get-blacklist`: a page of the account's block list. `count` is that of all pages. What is on it by a setting counts as blocked
    /// at `started_at`. 464 for a bad page; a badly written time is 458 here, which is not documented.
    pub fn blocked(&self, call: &Call, rules: &Rules, started_at: i64) -> Told {
        let query = call.request().and_then(|request| request.get("blacklist"));
        let (page, rows) = (page_of(query)?, rows_of(query));
        let filter = query.and_then(|query| query.get("filter"));
        let limit = |name: &str| match filter.and_then(|filter| filter.get(name)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(time) => {
                let time = time.as_str().and_then(read_time);
                time.map(Some).ok_or_else(|| Refusal::code(458))
            }
        };
        let (start, end) = (limit("start")?, limit("end")?);
        let mut wanted = Vec::from(rules.blocked.clone());
        wanted.retain(|number| {
            let at = self.blocked_at.get(number).copied().unwrap_or(started_at);
            // A second is the finest that can be asked for, so it is in as a whole.
            start.is_none_or(|start| at >= start) && end.is_none_or(|end| at < end + 1_000_000)
        });
        let count = wanted.len();
        let numbers: Vec<String> = wanted
            .into_iter()
            .skip((page - 1).saturating_mul(rows))
            .take(rows)
            .map(|number| format!("+{number}"))
            .collect();
        let list = json!({"count": count, "number": numbers});
        Ok(Map::from_iter([("blacklist".to_owned(), list)]))
    }

    /// `add-blacklist`: a number is blocked, and stays so if it is. 466 for one that no Turkish operator has.
    pub fn block(&mut self, call: &Call, rules: &mut Rules, now: i64) -> Told {
        let number = listed_number(call)?;
        if !rules.blocked.contains(&number) {
            rules.blocked.insert(&number);
            self.blocked_at.insert(number, now);
        }
        Ok(Map::new())
    }

    /// `delete-blacklist`: 474 for a number that is not blocked, 466 for one that no Turkish operator has.
    pub fn unblock(&mut self, call: &Call, rules: &mut Rules) -> Told {
        let number = listed_number(call)?;
        if !rules.blocked.contains(&number) {
            return Err(Refusal::code(474));
        }
        rules.blocked.remove(&number);
        self.blocked_at.remove(&number);
        Ok(Map::new())
    }

    /// `consent/create`: registers one to 5,000 consents or refusals, all of them or none. 403 without a subscription, which an account
    /// has with its brand code; 422 for whatever is wrong in the entries. Those of the channel `MESAJ` decide whom marketing orders reach.
    pub fn register(&mut self, call: &Call, rules: &mut Rules) -> Told {
        let consent = subscribed(call, rules)?;
        let list = consent.get("list").and_then(Value::as_array);
        let list = list
            .filter(|list| (1..=MOST_CONSENTS).contains(&list.len()))
            .ok_or_else(|| wrong("consent.list"))?;
        let entries = list.iter().map(read_entry).collect::<Result<Vec<_>, _>>()?;
        for (key, entry) in entries {
            let [recipient, _, channel] = &key;
            if channel == "MESAJ" {
                match entry.get("status").and_then(Value::as_str) {
                    Some("ONAY") => rules.no_consent.remove(recipient),
                    _ => rules.no_consent.insert(recipient),
                }
            }
            let mut kept = entry;
            kept.insert("brandCode".to_owned(), consent["brandCode"].clone());
            self.consents.insert(key, kept);
        }
        Ok(Map::new())
    }

    /// `consent/show`: what was registered last for one recipient. 403 as in [`Lists::register`]; what is said of somebody who was never
    /// registered is a setting.
    pub fn consent(&self, call: &Call, rules: &Rules) -> Told {
        let wanted = subscribed(call, rules)?;
        let key = read_key(wanted)?;
        let shown = match (self.consents.get(&key), rules.missing_consent) {
            (Some(consent), _) => Value::Object(consent.clone()),
            (None, MissingConsent::Empty) => json!([]),
            (None, MissingConsent::Refused) => return Err(wrong("consent.recipient")),
        };
        Ok(Map::from_iter([("consent".to_owned(), shown)]))
    }
}

/// The number that a block list request is about.
fn listed_number(call: &Call) -> Result<String, Refusal> {
    let number = call
        .request()
        .and_then(|request| request.get("blacklist"))
        .and_then(|query| query.get("number"))
        .and_then(number_text);
    // Foreign numbers are none of an operator's, whatever the mode.
    number
        .and_then(|number| read_number(&number, false, true))
        .ok_or_else(|| Refusal::code(466))
}

/// The field `consent` of an account that has a subscription.
fn subscribed<'a>(call: &'a Call, rules: &Rules) -> Result<&'a Value, Refusal> {
    if !rules.iys_brand {
        return Err(Refusal::code(403));
    }
    let consent = call.request().and_then(|request| request.get("consent"));
    let consent = consent.ok_or_else(|| wrong("consent"))?;
    match consent.get("brandCode") {
        Some(Value::String(code)) if !code.is_empty() => Ok(consent),
        Some(Value::Number(_)) => Ok(consent),
        _ => Err(wrong("consent.brandCode")),
    }
}

fn wrong(field: &'static str) -> Refusal {
    Refusal::field(field, "alan geçersiz.")
}

/// Recipient, kind of recipient and channel: an address of mail stays as it is, a number gets its one spelling.
fn read_key(entry: &Value) -> Result<[String; 3], Refusal> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    let channel = text("type");
    if !["MESAJ", "ARAMA", "EPOSTA"].contains(&channel) {
        return Err(wrong("type"));
    }
    let kind = text("recipientType");
    if !["BIREYSEL", "TACIR"].contains(&kind) {
        return Err(wrong("recipientType"));
    }
    let recipient = text("recipient");
    let recipient = if channel == "EPOSTA" {
        recipient.contains('@').then(|| recipient.to_owned())
    } else {
        read_number(recipient, true, false)
    };
    let recipient = recipient.ok_or_else(|| wrong("recipient"))?;
    Ok([recipient, kind.to_owned(), channel.to_owned()])
}

type Entry = ([String; 3], Map<String, Value>);

fn read_entry(entry: &Value) -> Result<Entry, Refusal> {
    let key = read_key(entry)?;
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    if !["ONAY", "RET"].contains(&text("status")) {
        return Err(wrong("status"));
    }
    if text("source").is_empty() {
        return Err(wrong("source"));
    }
    if read_time(text("consentDate")).is_none() {
        return Err(wrong("consentDate"));
    }
    let fields = [
        "recipient",
        "recipientType",
        "type",
        "status",
        "source",
        "consentDate",
    ];
    let kept = fields.map(|name| (name.to_owned(), entry[name].clone()));
    Ok((key, Map::from_iter(kept)))
}

#[cfg(test)]
mod tests {
    use super::super::wire::Action;
    use super::*;

    /// 2026-05-01 12:00 in Turkey.
    const NOON: i64 = 1_777_626_000_000_000;
    const HOUR: i64 = 3_600_000_000;

    fn call(request: Value) -> Call {
        let body = json!({"request": request}).to_string();
        Call::read(Action::Unknown, body.as_bytes())
    }

    fn number(number: &str) -> Call {
        call(json!({"blacklist": {"number": number}}))
    }

    fn code(told: Told) -> u16 {
        told.map_or_else(|refusal| refusal.code, |_| 200)
    }

    fn listed(lists: &Lists, rules: &Rules, query: Value) -> Result<Value, u16> {
        lists
            .blocked(&call(json!({"blacklist": query})), rules, NOON - HOUR)
            .map(|told| told["blacklist"].clone())
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn blocking_may_be_repeated_and_unblocking_may_not() {
        let (mut lists, mut rules) = (Lists::default(), Rules::default());
        for _ in 0..2 {
            let told = lists.block(&number("0532 123 45 67"), &mut rules, NOON);
            assert_eq!(code(told), 466, "the trunk form is not listed");
            let told = lists.block(&number("+905321234567"), &mut rules, NOON);
            assert_eq!(code(told), 200);
        }
        assert!(rules.blocked.contains("905321234567"));
        let all = listed(&lists, &rules, json!(null)).expect("listed");
        assert_eq!(all, json!({"count": 1, "number": ["+905321234567"]}));
        assert_eq!(code(lists.unblock(&number("5321234567"), &mut rules)), 200);
        assert_eq!(code(lists.unblock(&number("5321234567"), &mut rules)), 474);
        for unassigned in ["905999999999", "12", ""] {
            let told = lists.block(&number(unassigned), &mut rules, NOON);
            assert_eq!(code(told), 466, "{unassigned:?}");
            let told = lists.unblock(&number(unassigned), &mut rules);
            assert_eq!(code(told), 466, "{unassigned:?}");
        }
        let nothing = lists.block(&call(json!({})), &mut rules, NOON);
        assert_eq!(code(nothing), 466);
    }

    #[test]
    fn the_block_list_is_read_in_pages_and_by_the_time_of_blocking() {
        let (mut lists, mut rules) = (Lists::default(), Rules::default());
        rules.blocked.insert("905300000000");
        for n in 1..=3 {
            let told = lists.block(
                &number(&format!("90530000000{n}")),
                &mut rules,
                NOON + n * HOUR,
            );
            assert_eq!(code(told), 200);
        }
        for (query, count, numbers) in [
            (
                json!({"page": "2", "rowCount": 3}),
                4,
                &["+905300000003"][..],
            ),
            (json!({"page": 3, "rowCount": 3}), 4, &[]),
            (
                json!({"filter": {"start": "2026-05-01 14:00:00", "end": "2026-05-01 15:00:00"}}),
                2,
                &["+905300000002", "+905300000003"],
            ),
            (
                json!({"filter": {"start": null, "end": "2026-05-01 11:00:00"}}),
                1,
                &["+905300000000"],
            ),
            (
                json!({"filter": null, "page": 1, "rowCount": 1}),
                4,
                &["+905300000000"],
            ),
        ] {
            let told = listed(&lists, &rules, query.clone()).expect("listed");
            assert_eq!(told, json!({"count": count, "number": numbers}), "{query}");
        }
        assert_eq!(listed(&lists, &rules, json!({"page": "0"})), Err(464));
        let badly = json!({"filter": {"start": "01.05.2026"}});
        assert_eq!(listed(&lists, &rules, badly), Err(458));
    }

    fn consent(recipient: &str, status: &str) -> Value {
        json!({
            "recipient": recipient, "recipientType": "BIREYSEL", "type": "MESAJ", "status": status,
            "source": "HS_WEB", "consentDate": "2026-01-07 23:50:00"
        })
    }

    fn registering(list: Value) -> Call {
        call(json!({"consent": {"brandCode": 696_422, "list": list}}))
    }

    fn showing(recipient: &str) -> Call {
        call(json!({"consent": {
            "brandCode": "696422", "recipient": recipient, "recipientType": "BIREYSEL", "type": "MESAJ"
        }}))
    }

    #[test]
    fn a_registered_consent_lets_marketing_through_and_a_refusal_stops_it() {
        let (mut lists, mut rules) = (Lists::default(), Rules::default());
        rules.no_consent.insert("905321234567");
        let both = json!([
            consent("+905321234567", "ONAY"),
            consent("905321234568", "RET")
        ]);
        assert_eq!(code(lists.register(&registering(both), &mut rules)), 200);
        assert!(!rules.no_consent.contains("905321234567"));
        assert!(rules.no_consent.contains("905321234568"));

        let shown = lists
            .consent(&showing("5321234567"), &rules)
            .expect("there");
        let mut expected = consent("+905321234567", "ONAY");
        expected["brandCode"] = json!(696_422);
        assert_eq!(shown["consent"], expected);
        assert_eq!(code(lists.consent(&showing("905329999999"), &rules)), 422);
        rules.missing_consent = MissingConsent::Empty;
        let shown = lists
            .consent(&showing("905329999999"), &rules)
            .expect("told");
        assert_eq!(shown["consent"], json!([]));

        rules.iys_brand = false;
        assert_eq!(code(lists.consent(&showing("905321234567"), &rules)), 403);
        let one = json!([consent("+905321234567", "RET")]);
        assert_eq!(code(lists.register(&registering(one), &mut rules)), 403);
    }

    #[test]
    fn one_wrong_entry_registers_none() {
        let (mut lists, mut rules) = (Lists::default(), Rules::default());
        let good = || consent("+905321234567", "RET");
        let spoiled = |field: &str, value: Value| {
            let mut entry = good();
            entry[field] = value;
            entry
        };
        for wrong in [
            spoiled("recipient", json!("12")),
            spoiled("recipient", json!("somebody@example.com")),
            spoiled("recipientType", json!("TICARI")),
            spoiled("type", json!("SMS")),
            spoiled("status", json!("EVET")),
            spoiled("source", json!(null)),
            spoiled("consentDate", json!("07.01.2026")),
            json!("entry"),
        ] {
            let told = lists.register(&registering(json!([good(), wrong])), &mut rules);
            let refusal = told.expect_err("one is wrong");
            assert_eq!((refusal.code, refusal.errors.len()), (422, 1), "{wrong}");
        }
        for list in [json!([]), json!(null), json!(vec![good(); 5_001])] {
            assert_eq!(code(lists.register(&registering(list), &mut rules)), 422);
        }
        let no_brand = call(json!({"consent": {"list": [good()]}}));
        assert_eq!(code(lists.register(&no_brand, &mut rules)), 422);
        assert!(rules.no_consent.is_empty() && lists.consents.is_empty());
        let most = registering(json!(vec![good(); 5_000]));
        assert_eq!(code(lists.register(&most, &mut rules)), 200);
        let mut mail = consent("somebody@example.com", "RET");
        mail["type"] = json!("EPOSTA");
        let mail = registering(json!([mail]));
        assert_eq!(code(lists.register(&mail, &mut rules)), 200);
        assert!(!rules.no_consent.contains("somebody@example.com"));
    }
}
