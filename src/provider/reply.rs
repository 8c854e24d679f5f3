//! What came back, and what can be read in it.
//!
//! The documentation and the provider's own libraries disagree about types (`200` or `"200"`, `312891245` or
//! `"312891245"`), a page of a proxy may stand in for the JSON, and a body may break off. So nothing is expected here:
//! what can be read unambiguously is read, and the rest is absent.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::words;
use crate::lifecycle::{Failure, OrderId};

/// Longer bodies are not read to their end: an answer is about a hundred bytes.
pub(super) const LONGEST_BODY: usize = 1024 * 1024;

/// The answer to one request.
pub(super) struct Reply {
    pub(super) http_status: u16,
    /// How long the provider asks to wait, in whichever of its two forms.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
    /// Why the body ends earlier than it should, if it does.
    pub(super) cut: Option<Failure>,
}

/// The body stays out: it may echo what was sent.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("http_status", &self.http_status)
            .field("retry_after", &self.retry_after)
            .field("body_bytes", &self.body.len())
            .field("cut", &self.cut)
            .finish()
    }
}

/// `response.status.code`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Number(i32),
    /// A number that no code has ever been near. It might be anything, a phone number too, and so it is not kept.
    Unheard,
}

/// What could be read in a body.
pub(super) struct Answer {
    pub(super) code: Option<Code>,
    pub(super) order_id: Option<OrderId>,
    /// What of the provider's words is recognised: `status.message`, and behind it the fields that `errors` names.
    pub(super) words: Option<String>,
    tree: Tree,
}

impl Answer {
    pub(super) fn read(body: &[u8]) -> Self {
        // An old backend may answer in Latin-5. What matters is ASCII, so bytes that are no UTF-8 cost one character only.
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        // Trailing junk is an error here, as are two objects in a row: which of them would be the answer?
        let tree: Tree = serde_json::from_str(text).unwrap_or(Tree::Nothing);
        Self {
            code: tree.at(&["response", "status", "code"]).and_then(read_code),
            order_id: tree
                .at(&["response", "order", "id"])
                .and_then(read_order_id),
            words: words::recognised(&tree),
            tree,
        }
    }

    /// Whether an acceptance or a 451 stands in an envelope that is whole: code and message, and for an acceptance its order.
    /// Less than that is believed only where HTTP says the same.
    pub(super) fn is_as_documented(&self) -> bool {
        let has_message = matches!(self.field(&["status", "message"]), Some(Tree::Text(_)));
        has_message && (self.code == Some(Code::Number(451)) || self.order_id.is_some())
    }

    /// A value below `response`, such as `["balance", "sms"]`.
    pub(super) fn field(&self, path: &[&str]) -> Option<&Tree> {
        self.tree.at(&["response"])?.at(path)
    }
}

fn read_code(value: &Tree) -> Option<Code> {
    let digits = match value {
        Tree::Integer(number) => number.to_string(),
        // 200.0 is 200; 200.5 is nothing.
        Tree::Decimal(number) if number.fract() == 0.0 => format!("{number:.0}"),
        Tree::Text(text) => {
            let text = text.trim();
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| text.to_owned())?
        }
        Tree::Decimal(_) | Tree::Map(_) | Tree::List(_) | Tree::Nothing => return None,
    };
    // Written in three digits at most, as every code of the provider; a "0200" is a 200.
    Some(match digits.parse() {
        Ok(number @ 0..=999) => Code::Number(number),
        Ok(_) | Err(_) => Code::Unheard,
    })
}

pub(super) fn read_order_id(value: &Tree) -> Option<OrderId> {
    let text = match value {
        Tree::Integer(number) => number.to_string(),
        Tree::Text(text) => text.trim().to_owned(),
        // A number of which digits were lost on the way is some other order's id.
        Tree::Decimal(_) | Tree::Map(_) | Tree::List(_) | Tree::Nothing => return None,
    };
    // "0" is how software writes "none".
    let names_an_order = text.bytes().any(|b| b != b'0');
    names_an_order.then(|| OrderId::parse(&text)).flatten()
}

pub(super) fn as_count(value: &Tree) -> Option<u64> {
    match value {
        Tree::Integer(number) => u64::try_from(*number).ok(),
        Tree::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// `Retry-After`: whole seconds, or a date of which what is left after `now` counts (RFC 9110, section 10.2.3).
pub(super) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Whoever reads it bounds it; a number beyond u64 is no wish but a mistake.
        return value.parse().ok().map(Duration::from_secs);
    }
    let until = DateTime::parse_from_rfc2822(value).ok()?;
    Some((until.to_utc() - now).to_std().unwrap_or(Duration::ZERO))
}

/// A JSON value that remembers every key as often as it came.
///
/// `serde_json::Value` would let the last of two equal keys win, so that `{"code":401,"code":200}` reads as accepted;
/// structs made by derive would read `[[200]]` as an answer.
pub(super) enum Tree {
    Nothing,
    Integer(i128),
    Decimal(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// The value under a chain of keys, if each of them is there exactly once.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |tree, key| {
            let Self::Map(fields) = tree else {
                return None;
            };
            let mut found = fields.iter().filter(|(name, _)| name == key);
            match (found.next(), found.next()) {
                (Some((_, value)), None) => Some(value),
                _ => None,
            }
        })
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A figure as the provider writes them: `10.584`, `"18343"`, `"0,0372"`.
    pub(super) fn as_figure(&self) -> Option<f64> {
        match self {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a balance has far fewer than 53 bits"
            )]
            Self::Integer(number) => Some(*number as f64),
            Self::Decimal(number) => Some(*number),
            Self::Text(text) => {
                let text = text.trim();
                let plain = if text.contains(',') {
                    text.replace('.', "").replace(',', ".")
                } else {
                    text.to_owned()
                };
                let is_figure = plain.bytes().any(|b| b.is_ascii_digit())
                    && plain
                        .bytes()
                        .all(|b| matches!(b, b'0'..=b'9' | b'.' | b'-'));
                is_figure.then(|| plain.parse().ok()).flatten()
            }
            Self::Nothing | Self::List(_) | Self::Map(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree, E> {
        Ok(Tree::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Tree, E> {
        Ok(Tree::Decimal(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Tree, E> {
        Ok(Tree::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            fields.push((key, map.next_value()?));
        }
        Ok(Tree::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> Option<Code> {
        Answer::read(body.as_bytes()).code
    }

    #[test]
    fn a_code_is_read_as_number_or_digits_and_never_guessed() {
        let huge = "9".repeat(400);
        for (value, read) in [
            ("200", Some(200)),
            ("\"200\"", Some(200)),
            ("\" 451 \"", Some(451)),
            ("200.0", Some(200)),
            ("2e2", Some(200)),
            ("200.5", None),
            ("\"200.0\"", None),
            ("\"200 OK\"", None),
            ("\"0x200\"", None),
            ("\"+200\"", None),
            ("\"２００\"", None),
            ("\"\"", None),
            ("true", None),
            ("null", None),
            ("[200]", None),
            ("{\"code\":200}", None),
            (huge.as_str(), None), // beyond f64: the whole body is unreadable
            ("1e999", None),
        ] {
            let body = format!(r#"{{"response":{{"status":{{"code":{value}}}}}}}"#);
            assert_eq!(code(&body), read.map(Code::Number), "{value}");
        }
        for value in [
            "-1",
            "1000",
            "\"4711\"",
            "905321234567",
            "3000000000",
            "\"3000000000\"",
            "1e30",
            "-3000000000",
        ] {
            let body = format!(r#"{{"response":{{"status":{{"code":{value}}}}}}}"#);
            assert_eq!(code(&body), Some(Code::Unheard), "{value}");
        }
    }

    #[test]
    fn whatever_is_not_the_envelope_has_no_code() {
        let deep = format!("{}200{}", "[".repeat(100_000), "]".repeat(100_000));
        let deep_below = format!(r#"{{"response":{{"status":{{"code":200}},"x":{deep}}}}}"#);
        for body in [
            "",
            " ",
            "200",
            "\"200\"",
            "[[200]]",
            r#"[{"status":{"code":200}}]"#,
            r#"{"response":[[200]]}"#,
            r#"{"response":{"status":[200,"ok"]}}"#,
            r#"{"response":{"status":200}}"#,
            r#"{"response":{"code":200}}"#,
            r#"{"status":{"code":200}}"#,
            r#"{"response":{"status":{"Code":200}}}"#,
            r#"{"response":{"status":{"code":200}}"#,
            r#"{"response":{"status":{"code":200"#,
            r#"{"response":{"status":{"code":200}}}{"response":{"status":{"code":401}}}"#,
            r#"{"response":{"status":{"code":200}}}<!-- -->"#,
            r#"{"response":{"status":{"code":401,"code":200}}}"#,
            r#"{"response":{"status":{"code":401},"status":{"code":200}}}"#,
            r#"{"response":{"status":{"code":401}},"response":{"status":{"code":200}}}"#,
            "<html>200 OK</html>",
            "<?xml version=\"1.0\"?><response><status><code>200</code></status></response>",
            &deep,
            &deep_below,
        ] {
            let start: String = body.chars().take(80).collect();
            assert_eq!(code(body), None, "{start}");
        }
    }

    #[test]
    fn what_surrounds_an_envelope_does_not_hide_it() {
        for body in [
            "\u{feff}{\"response\":{\"status\":{\"code\":200}}}",
            "\n\t \u{feff}{\"response\":{\"status\":{\"code\":200}}}\r\n".trim_start(),
            r#"{"x":[1,{"code":401}],"response":{"status":{"code":200,"n":1e3,"message":["?"]},"code":401,"y":null}}"#,
            r#"{"response":{"status":{"code":200,"message":"a","message":"b"},"order":{"id":1},"order":{"id":2}}}"#,
        ] {
            let answer = Answer::read(body.as_bytes());
            assert_eq!(answer.code, Some(Code::Number(200)), "{body}");
            assert_eq!(answer.order_id, None, "{body}");
        }
        let latin5 = b"{\"response\":{\"status\":{\"code\":200,\"message\":\"\xDD\xFElem ba\xFEar\xFDl\xFD\"},\"order\":{\"id\":7}}}";
        let answer = Answer::read(latin5);
        assert_eq!(answer.code, Some(Code::Number(200)));
        assert_eq!(answer.order_id, OrderId::parse("7"));
    }

    #[test]
    fn an_order_id_is_kept_digit_by_digit_or_not_at_all() {
        for (id, read) in [
            ("\"312891245\"", Some("312891245")),
            ("312891245", Some("312891245")),
            ("18446744073709551615", Some("18446744073709551615")),
            (
                "\"312891245312891245312891245\"",
                Some("312891245312891245312891245"),
            ),
            ("\" 312891245 \"", Some("312891245")),
            ("\"AB-12_c\"", None),
            ("\"Kodunuz-4711\"", None),
            ("312891245312891245312891245", None), // became a float on the way
            ("3.5", None),
            ("0", None),
            ("\"0\"", None),
            ("-1", None),
            ("\"\"", None),
            ("\"a b\"", None),
            ("null", None),
            ("[1]", None),
            ("{}", None),
        ] {
            let body =
                format!(r#"{{"response":{{"status":{{"code":"200"}},"order":{{"id":{id}}}}}}}"#);
            let answer = Answer::read(body.as_bytes());
            assert_eq!(answer.code, Some(Code::Number(200)));
            assert_eq!(answer.order_id.as_ref().map(OrderId::as_str), read, "{id}");
        }
    }

    #[test]
    fn a_wish_to_wait_is_read_in_both_forms() {
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        for (value, seconds) in [
            ("30", Some(30)),
            (" 0 ", Some(0)),
            ("Sun, 22 Nov 2026 12:01:30 GMT", Some(90)),
            ("Sun, 22 Nov 2026 11:00:00 GMT", Some(0)),
            ("-5", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(
                retry_after(value, now),
                seconds.map(Duration::from_secs),
                "{value:?}"
            );
        }
    }

    #[test]
    fn figures_are_read_in_every_spelling_the_provider_uses() {
        for (json, figure) in [
            ("10.584", Some(10.584)),
            ("67", Some(67.0)),
            ("\"18343\"", Some(18343.0)),
            ("\"0.0000\"", Some(0.0)),
            ("\"0,0372\"", Some(0.0372)),
            ("\"1.234,56\"", Some(1234.56)),
            ("-3", Some(-3.0)),
            ("\"inf\"", None),
            ("\"\"", None),
            ("\"-\"", None),
            ("null", None),
            ("[1]", None),
        ] {
            let tree: Tree = serde_json::from_str(json).unwrap();
            assert_eq!(tree.as_figure(), figure, "{json}");
        }
    }

    #[test]
    fn a_reply_shown_keeps_its_body_to_itself() {
        let reply = Reply {
            http_status: 200,
            retry_after: None,
            body: b"905321234567".to_vec(),
            cut: None,
        };
        assert!(!format!("{reply:?}").contains("9053"));
    }
}
