//! The event that the provider posts to a webhook: page webhooks of its documentation.

use std::fmt;

use super::reply::{Tree, read_order_id};
use crate::{
    delivery::Word,
    message::{ForeignNumbers, Recipient},
};

/// The code of the operator behind each text. Whether an event's text has it, nobody knows.
const OPERATOR_CODE: &str = "B186";

/// How deep a report may be wrapped.
const DEPTH: usize = 3;

/// What is said of a message to one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// It is on its way.
    Accepted,
    /// What became of it.
    Final(Word),
}

/// One event. `Debug` shows neither the text nor the whole number.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// `packet_id`: digits. `0` is no order, and `doctor` tries a receiver with it.
    pub order: String,
    /// `to`
    pub number: Recipient,
    /// `status`
    pub news: News,
    text: String,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("order", &self.order)
            .field("number", &self.number)
            .field("news", &self.news)
            .finish_non_exhaustive()
    }
}

impl Event {
    /// `None`: it is none. Ids and states are numbers or texts; what else is in it does not matter, its `id` has to be one.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let tree: Tree = serde_json::from_slice(body).ok()?;
        let report = report(&tree, DEPTH)?;
        let _message = read_id(report.at(&["id"])?)?;
        let number = match report.at(&["to"])? {
            Tree::Text(text) => text.clone(),
            Tree::Integer(number) => number.to_string(),
            _ => return None,
        };
        Some(Self {
            order: read_id(report.at(&["packet_id"])?)?,
            number: Recipient::parse(&number, ForeignNumbers::Allowed).ok()?,
            news: read_news(report.at(&["status"])?)?,
            text: report
                .at(&["body"])
                .and_then(Tree::as_text)
                .unwrap_or_default()
                .to_owned(),
        })
    }

    /// What the text may have been as it was sent, the likeliest first.
    #[must_use]
    pub fn texts(&self) -> Vec<&str> {
        let trimmed = self.text.trim();
        let without_code = trimmed.strip_suffix(OPERATOR_CODE).map(str::trim_end);
        let mut texts: Vec<&str> = without_code.into_iter().collect();
        for text in [self.text.as_str(), trimmed] {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        texts
    }
}

/// The report itself, also where somebody has wrapped it.
fn report(tree: &Tree, depth: usize) -> Option<&Tree> {
    match tree {
        Tree::Map(fields) => match tree.at(&["report"]) {
            Some(report @ Tree::Map(_)) => Some(report),
            Some(wrapped) if depth > 0 => report(wrapped, depth - 1),
            None if depth > 0 => fields
                .iter()
                .find_map(|(_, value)| report(value, depth - 1)),
            _ => None,
        },
        // The habit of the provider's lists: a single element stands for itself.
        Tree::List(items) => match items.as_slice() {
            [one @ Tree::Map(_)] if one.at(&["packet_id"]).is_some() => Some(one),
            [one] if depth > 0 => report(one, depth - 1),
            _ => None,
        },
        _ => None,
    }
}

fn read_id(value: &Tree) -> Option<String> {
    let is_zero = match value {
        Tree::Integer(number) => *number == 0,
        Tree::Text(text) => text.trim() == "0",
        _ => false,
    };
    if is_zero {
        return Some("0".to_owned());
    }
    read_order_id(value).map(|id| id.as_str().to_owned())
}

/// Words in an event, numbers in a report; some of the provider's libraries expect them the other way round.
fn read_news(value: &Tree) -> Option<News> {
    let word = match value {
        Tree::Text(text) => text.trim().to_ascii_lowercase(),
        Tree::Integer(number) => number.to_string(),
        _ => return None,
    };
    match word.as_str() {
        "accepted" | "110" => Some(News::Accepted),
        "delivered" | "111" => Some(News::Final(Word::Delivered)),
        "undelivered" | "112" => Some(News::Final(Word::Undelivered)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Option<Event> {
        Event::read(body.as_bytes())
    }

    #[test]
    fn an_event_is_read_as_documented() {
        let event = read(
            r#"{"report":{"id":1599558518,"packet_id":104525848,"status":"accepted","to":"+905321234567","body":"Message text"}}"#,
        )
        .expect("an event");
        assert_eq!(event.order, "104525848");
        assert_eq!(event.number.as_str(), "905321234567");
        assert_eq!(event.news, News::Accepted);
        assert_eq!(event.texts(), ["Message text"]);
        let shown = format!("{event:?}");
        assert!(
            !shown.contains("text") && !shown.contains("5321234567"),
            "{shown}"
        );
    }

    #[test]
    fn ids_states_and_numbers_come_in_any_type_and_other_keys_do_not_matter() {
        let expected = (
            "5104525848".to_owned(),
            "905321234567".to_owned(),
            News::Final(Word::Delivered),
        );
        for body in [
            r#"{"report":{"id":"7","packet_id":"5104525848","status":"DELIVERED","to":"0532 123 45 67"}}"#,
            r#"{"report":{"id":9223372036854775807,"packet_id":5104525848,"status":111,"to":905321234567,"body":null}}"#,
            r#"{"report":{"id":7,"packet_id":" 5104525848 ","status":"111","to":"+905321234567","x":{"id":[1]},"x":2}}"#,
            r#"{"event":{"v":2,"report":{"id":7,"packet_id":5104525848,"status":111,"to":"5321234567"}},"id":3}"#,
            r#"{"report":[{"id":7,"packet_id":5104525848,"status":111,"to":"5321234567"}]}"#,
            r#"[{"report":{"id":7,"packet_id":5104525848,"status":111,"to":"5321234567"}}]"#,
        ] {
            let event = read(body).expect(body);
            let found = (event.order, event.number.as_str().to_owned(), event.news);
            assert_eq!(found, expected, "{body}");
        }
    }

    #[test]
    fn what_lacks_something_is_no_event() {
        for body in [
            "",
            "{}",
            "null",
            "report",
            r#"{"report":1}"#,
            r#"{"report":{"packet_id":1,"status":"delivered","to":"5321234567"}}"#,
            r#"{"report":{"id":1,"status":"delivered","to":"5321234567"}}"#,
            r#"{"report":{"id":1,"packet_id":1,"to":"5321234567"}}"#,
            r#"{"report":{"id":1,"packet_id":1,"status":"delivered"}}"#,
            r#"{"report":{"id":1,"packet_id":1,"status":"read","to":"5321234567"}}"#,
            r#"{"report":{"id":1,"packet_id":1,"status":"delivered","to":"+905XXXXXXXXX"}}"#,
            r#"{"report":{"id":1,"packet_id":-1,"status":"delivered","to":"5321234567"}}"#,
            r#"{"report":{"id":1,"packet_id":1.5,"status":"delivered","to":"5321234567"}}"#,
            r#"{"report":{"id":1,"packet_id":"1 OR 1","status":"delivered","to":"5321234567"}}"#,
            r#"{"report":{"id":1,"packet_id":1,"packet_id":2,"status":"delivered","to":"5321234567"}}"#,
            r#"{"report":{"id":1,"packet_id":1,"status":"delivered","to":"5321234567"}} x"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
        let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
        assert_eq!(read(&deep), None);
    }

    #[test]
    fn a_text_is_tried_without_what_may_have_been_added() {
        for (text, expected) in [
            ("Hello", vec!["Hello"]),
            (" Hello\n", vec![" Hello\n", "Hello"]),
            ("Hello B186", vec!["Hello", "Hello B186"]),
            ("Hello B186 ", vec!["Hello", "Hello B186 ", "Hello B186"]),
            ("HelloB186", vec!["Hello", "HelloB186"]),
            ("", vec![""]),
        ] {
            let event = Event {
                order: "1".to_owned(),
                number: Recipient::parse("5321234567", ForeignNumbers::Refused).expect("one"),
                news: News::Accepted,
                text: text.to_owned(),
            };
            assert_eq!(event.texts(), expected, "{text:?}");
        }
    }
}
