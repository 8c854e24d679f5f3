//! Whatever comes back, it is read rightly or not at all. What a body says is judged here a second time, by a reader that
//! is written differently and shares nothing with the first.

use std::{iter::Peekable, str::Chars, time::Duration};

use proptest::prelude::*;

use super::{
    classify::classify,
    reply::{Answer, Reply, retry_after},
    words::scrub,
};
use crate::lifecycle::{ErrorClass, Failure, Verdict};

/// What the provider, or something in front of it, has been seen or is documented to say.
const REAL: [&str; 10] = [
    r#"{"response":{"status":{"code":200,"message":"İşlem başarılı"},"order":{"id":"312891245"}}}"#,
    r#"{"response":{"status":{"code":"200","message":"OK"},"order":{"id":312891245}}}"#,
    "\u{feff}{\r\n  \"response\": {\r\n    \"status\": { \"code\": 200.0, \"message\": \"\" }\r\n  }\r\n}\r\n",
    r#"{"response":{"status":{"code":451,"message":"Tekrar eden sipari\u015f"}}}"#,
    r#"{"response":{"status":{"code":"451","message":"Tekrar eden sipariş"}}}"#,
    r#"{"response":{"status":{"code":401,"message":"Üyelik bilgileri hatalı"}}}"#,
    r#"{"response":{"status":{"code":402,"message":"Bakiye yetersiz"},"order":null}}"#,
    r#"{"response":{"status":{"code":422,"message":"x"},"errors":{"sender":["200"],"text":"451"}}}"#,
    r#"{"response":{"status":{"code":503,"message":"Sunucu geçici olarak servis dışı"}}}"#,
    r#"{"message":"Too Many Attempts.","exception":"200","trace":[{"code":200}]}"#,
];

fn reply(http_status: u16, body: &[u8]) -> Reply {
    Reply {
        http_status,
        retry_after: None,
        body: body.to_vec(),
        cut: None,
    }
}

fn verdict(http_status: u16, body: &[u8]) -> Verdict {
    classify(&reply(http_status, body), &Answer::read(body)).0
}

/// One value of a document: where it stands, and how it is written. Containers are listed too.
type Found = (Vec<String>, String);

/// Walks over a document character by character, and lists what it meets. No tree, and nothing but the grammar of RFC 8259.
struct Walk<'a> {
    rest: Peekable<Chars<'a>>,
    path: Vec<String>,
    found: Vec<Found>,
}

impl Walk<'_> {
    fn blank(&mut self) {
        while self
            .rest
            .next_if(|c| matches!(c, ' ' | '\t' | '\n' | '\r'))
            .is_some()
        {}
    }

    fn sign(&mut self, sign: char) -> Option<()> {
        self.blank();
        self.rest.next_if_eq(&sign).map(drop)
    }

    fn hex(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |sum, _| Some(sum * 16 + self.rest.next()?.to_digit(16)?))
    }

    fn string(&mut self) -> Option<String> {
        self.sign('"')?;
        let mut text = String::new();
        loop {
            text.push(match self.rest.next()? {
                '"' => return Some(text),
                '\\' => match self.rest.next()? {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => match self.hex()? {
                        high @ 0xD800..0xDC00 => {
                            (self.rest.next()? == '\\' && self.rest.next()? == 'u').then_some(())?;
                            let low = self.hex()?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
                            char::from_u32(0x10000 + ((high - 0xD800) << 10) + low)?
                        }
                        other => char::from_u32(other)?,
                    },
                    c @ ('"' | '\\' | '/') => c,
                    _ => return None,
                },
                c if c < ' ' => return None,
                c => c,
            });
        }
    }

    fn value(&mut self) -> Option<()> {
        self.blank();
        let place = self.path.clone();
        let written = match *self.rest.peek()? {
            '{' => {
                self.members('{', '}', |walk| {
                    let key = walk.string()?;
                    walk.sign(':')?;
                    Some(key)
                })?;
                "{".to_owned()
            }
            '[' => {
                self.members('[', ']', |_| Some("[]".to_owned()))?;
                "[".to_owned()
            }
            '"' => format!("\"{}", self.string()?),
            _ => {
                let mut word = String::new();
                while let Some(c) = self
                    .rest
                    .next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
                {
                    word.push(c);
                }
                // A body with a number that fits nowhere is damaged; nothing in it is believed.
                let fits = |word: &str| word.parse().is_ok_and(f64::is_finite);
                ((is_number(&word) && fits(&word))
                    || ["true", "false", "null"].contains(&word.as_str()))
                .then_some(word)?
            }
        };
        self.found.push((place, written));
        Some(())
    }

    fn members(
        &mut self,
        open: char,
        close: char,
        key: impl Fn(&mut Self) -> Option<String>,
    ) -> Option<()> {
        self.sign(open)?;
        if self.sign(close).is_some() {
            return Some(());
        }
        loop {
            let name = key(self)?;
            self.path.push(name);
            self.value()?;
            self.path.pop();
            if self.sign(',').is_none() {
                return self.sign(close);
            }
        }
    }
}

fn is_number(word: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let word = word.strip_prefix('-').unwrap_or(word);
    let (rest, exponent) = match word.split_once(['e', 'E']) {
        Some((rest, exponent)) => (rest, Some(exponent)),
        None => (word, None),
    };
    let (whole, fraction) = match rest.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (rest, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|text| digits(text.strip_prefix(['+', '-']).unwrap_or(text)))
}

/// What a body names unambiguously.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Named {
    /// Everything on the way to it is there once, and it is a whole number, written as a number or in digits.
    code: f64,
    /// Whether there is a message.
    message: bool,
    /// Whether there is an order, with a number.
    order: bool,
}

fn named(body: &[u8]) -> Option<Named> {
    let text = String::from_utf8_lossy(body);
    let mut walk = Walk {
        rest: text
            .trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace())
            .chars()
            .peekable(),
        path: Vec::new(),
        found: Vec::new(),
    };
    walk.value()?;
    walk.blank();
    if walk.rest.next().is_some() {
        return None;
    }
    let only = |path: &[&str]| {
        let mut at = walk.found.iter().filter(|(place, _)| place == path);
        at.next().filter(|_| at.next().is_none())
    };
    only(&["response"])?;
    only(&["response", "status"])?;
    let (_, written) = only(&["response", "status", "code"])?;
    let number = match written.strip_prefix('"') {
        Some(text) => {
            let text = text.trim();
            (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())).then_some(text)?
        }
        None => is_number(written).then_some(written.as_str())?,
    };
    let code = number
        .parse()
        .ok()
        .filter(|code: &f64| code.fract() == 0.0)?;
    let message = only(&["response", "status", "message"]);
    let order = only(&["response", "order"]).and(only(&["response", "order", "id"]));
    let is_id = |written: &str| {
        let id = written.strip_prefix('"').unwrap_or(written).trim();
        let digits = id.chars().all(|c| c.is_ascii_digit());
        // A number that long has lost digits on its way.
        let fits = written.starts_with('"') || id.parse::<u64>().is_ok();
        digits && fits && (1..=64).contains(&id.len()) && id.chars().any(|c| c != '0')
    };
    Some(Named {
        code,
        message: message.is_some_and(|(_, written)| written.starts_with('"')),
        order: order.is_some_and(|(_, written)| is_id(written)),
    })
}

fn named_code(body: &[u8]) -> Option<f64> {
    named(body).map(|named| named.code)
}

/// An acceptance is one in both readings, or in none; and so is a duplicate.
fn check(http_status: u16, body: &[u8]) {
    let named = named(body);
    let read = verdict(http_status, body);
    let shown = String::from_utf8_lossy(body);
    let agrees = (200..300).contains(&http_status);
    let accepted = named.is_some_and(|it| it.code == 200.0 && (agrees || it.message && it.order));
    assert_eq!(
        matches!(read, Verdict::Accepted(_)),
        accepted,
        "HTTP {http_status} {shown:?}: {read:?}, but it names {named:?}"
    );
    let duplicate = named.is_some_and(|it| it.code == 451.0 && (agrees || it.message));
    assert_eq!(
        read == Verdict::Duplicate,
        duplicate,
        "HTTP {http_status} {shown:?}: {read:?}, but it names {named:?}"
    );
}

#[test]
fn the_second_reader_reads_what_is_there() {
    let named: Vec<Option<f64>> = REAL
        .iter()
        .map(|body| named_code(body.as_bytes()))
        .collect();
    let codes = [200, 200, 200, 451, 451, 401, 402, 422, 503];
    let codes = codes.map(|code| Some(f64::from(code)));
    assert_eq!(named[..9], codes);
    assert_eq!(named[9], None);
    for body in [
        r#"{"response":{"status":{"code":401,"code":200}}}"#,
        r#"{"response":{"status":{"code":200}},"response":{"status":{}}}"#,
        r#"{"response":{"status":{"code":200}}} x"#,
        r#"{"response":{"status":{"code":0200}}}"#,
        r#"{"response":{"status":{"code":[200]}}}"#,
        r#"{"response":{"status":{"code":"+200"}}}"#,
        r#"{"response":{"status":{"code":200},}}"#,
        r#"[{"response":{"status":{"code":200}}}]"#,
    ] {
        assert_eq!(named_code(body.as_bytes()), None, "{body}");
    }
    let escaped = r#"{"respons\u0065":{"status":{"c\u006Fde":"\u00320\u0030"}}}"#;
    assert_eq!(named_code(escaped.as_bytes()), Some(200.0));
    check(200, escaped.as_bytes());
}

#[test]
fn under_every_http_status_a_whole_envelope_says_the_same_and_no_code_is_no_acceptance() {
    for body in REAL {
        let expected = verdict(200, body.as_bytes());
        for status in (0..=999).chain([u16::MAX]) {
            check(status, body.as_bytes());
            let whole =
                named(body.as_bytes()).is_some_and(|it| it.code != 200.0 || it.message && it.order);
            if whole {
                assert_eq!(
                    verdict(status, body.as_bytes()),
                    expected,
                    "HTTP {status} {body}"
                );
            }
        }
    }
    for status in 0..=u16::MAX {
        check(status, b"<html>200 OK</html>");
    }
}

#[test]
fn a_reply_cut_at_any_byte_says_nothing() {
    for body in REAL {
        let whole = body.trim_end().len();
        for cut in 0..whole {
            let part = &body.as_bytes()[..cut];
            let answer = Answer::read(part);
            assert!(
                answer.code.is_none() && answer.order_id.is_none(),
                "{body} at {cut}"
            );
            for status in [200, 400, 502] {
                check(status, part);
                let broken_off = Reply {
                    cut: Some(Failure::new(ErrorClass::Network, "The answer broke off.")),
                    ..reply(status, part)
                };
                let (verdict, code) = classify(&broken_off, &answer);
                assert_eq!(code, None);
                let said = matches!(
                    verdict,
                    Verdict::Accepted(_) | Verdict::Duplicate | Verdict::Refused(_)
                );
                assert!(!said, "HTTP {status} {body} at {cut}: {verdict:?}");
            }
        }
        check(200, &body.as_bytes()[..whole]);
    }
}

#[test]
fn a_reply_with_any_byte_replaced_left_out_or_doubled_is_not_misread() {
    for body in REAL {
        let body = body.as_bytes();
        for at in 0..body.len() {
            let mut damaged = body.to_vec();
            for byte in 0..=u8::MAX {
                damaged[at] = byte;
                check(400, &damaged);
            }
            check(400, &[&body[..at], &body[at + 1..]].concat());
            check(400, &[&body[..=at], &body[at..]].concat());
        }
    }
}

#[test]
fn depth_and_length_are_no_way_in() {
    for (open, close) in [("[", "]"), ("{\"response\":", "}"), ("{\"x\":[", "]}")] {
        for depth in [10, 127, 128, 129, 1_000, 100_000] {
            let deep = format!("{}200{}", open.repeat(depth), close.repeat(depth));
            for body in [
                deep.clone(),
                format!(r#"{{"response":{{"status":{{"code":401,"x":{deep}}}}}}}"#),
                format!(r#"{{"x":{deep},"response":{{"status":{{"code":402}}}}}}"#),
                open.repeat(depth),
            ] {
                let read = verdict(200, body.as_bytes());
                assert!(
                    !matches!(read, Verdict::Accepted(_) | Verdict::Duplicate),
                    "{depth}: {read:?}"
                );
            }
        }
    }
    for digits in [
        "2".to_owned() + &"0".repeat(400),
        "200".repeat(1_000),
        format!("200.{}", "0".repeat(10_000)),
    ] {
        for value in [
            digits.clone(),
            format!("-{digits}"),
            format!("\"{digits}\""),
            format!("{digits}e-400"),
            format!("{digits}E+999"),
        ] {
            let body = format!(r#"{{"response":{{"status":{{"code":{value}}}}}}}"#);
            let read = verdict(200, body.as_bytes());
            let accepted = matches!(read, Verdict::Accepted(_));
            assert!(
                !accepted || named_code(body.as_bytes()) == Some(200.0),
                "{read:?}"
            );
        }
    }
}

/// JSON as somebody might write it: keys more than once, keys that matter where they do not, codes in every spelling.
fn document() -> impl Strategy<Value = String> {
    let code = prop::sample::select(
        &[
            "200", "451", "401", "402", "0", "-200", "201", "2000", "503",
        ][..],
    );
    let scalar = prop_oneof![
        4 => code.clone().prop_map(str::to_owned),
        4 => code.prop_map(|code| format!("\"{code}\"")),
        1 => prop::sample::select(&[
            "200.0", "2e2", "20000e-2", "2.00E+2", "200.5", "\" 200\"", "\"200 \\n\"", "\"0200\"", "\"200.0\"", "\"+200\"",
            "\"\\u0032\\u0030\\u0030\"", "\"２００\"", "0200", "+200", "0x200", "200,", "'200'", "NaN", "1e999", "-0",
            "99999999999999999999", "\"99999999999999999999\"", "\"\\ud800\"", "\"\\ud83d\\ude00\"",
        ][..]).prop_map(str::to_owned),
        1 => prop::sample::select(&["null", "true", "false", "\"\"", "{}", "[]"][..]).prop_map(str::to_owned),
        1 => any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let key = prop_oneof![
        8 => prop::sample::select(&["response", "status", "code"][..]).prop_map(|key| format!("\"{key}\"")),
        2 => prop::sample::select(&["order", "id", "message", "errors", "Code", "code ", "c\\u006fde", "statu\\u0073"][..])
            .prop_map(|key| format!("\"{key}\"")),
        1 => any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let blank = "[ \\t\\r\\n]{0,2}";
    let tree = scalar.prop_recursive(5, 24, 4, move |inner| {
        let member = (key.clone(), inner.clone(), blank)
            .prop_map(|(key, value, blank)| format!("{blank}{key}{blank}:{value}"));
        prop_oneof![
            5 => prop::collection::vec(member, 1..4).prop_map(|members| format!("{{{}}}", members.join(","))),
            1 => prop::collection::vec(inner, 0..3).prop_map(|items| format!("[{}]", items.join(" ,"))),
        ]
    });
    // Most trees have no envelope by themselves.
    let envelope = (tree.clone(), tree.clone(), tree.clone(), 0..6_u8).prop_map(
        |(code, other, extra, shape)| match shape {
            0 | 1 => {
                format!(r#"{{"response":{{"status":{{"code":{code}}},"order":{{"id":{other}}}}}}}"#)
            }
            2 => format!(r#"{{"response":{{"status":{{"code":{code},"code":{other}}}}}}}"#),
            3 => format!(
                r#"{{"response":{{"status":{{"code":{code}}},"status":{other}}},"x":{extra}}}"#
            ),
            4 => format!(
                r#"{{"status":{{"code":{code}}},"response":{{"status":{other},"errors":{extra}}}}}"#
            ),
            _ => format!(r#"{{"response":[{{"status":{{"code":{code}}}}}],"response":{other}}}"#),
        },
    );
    prop_oneof![1 => tree, 4 => envelope]
}

fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(&b"{}[]\":,0245\\ \xEF\xFF"[..])
    ];
    prop::collection::vec((any::<prop::sample::Index>(), byte), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_document_of_any_shape_is_read_as_the_second_reader_reads_it(
        document in document(), damage in damage(), front in "[\u{feff}\u{a0} \\n]{0,2}", status in 100..1000_u16,
    ) {
        check(status, document.as_bytes());
        let mut body = document.into_bytes();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        check(status, &body);
        // What may stand in front depends on its order; that it never makes an acceptance does not.
        let body = [front.as_bytes(), &body].concat();
        if matches!(verdict(status, &body), Verdict::Accepted(_)) {
            prop_assert_eq!(named_code(&body), Some(200.0));
        }
    }

    #[test]
    fn bytes_of_any_kind_are_no_acceptance_and_no_panic(
        body in prop::collection::vec(any::<u8>(), 0..300), status in any::<u16>(),
    ) {
        check(status, &body);
        let answer = Answer::read(&body);
        classify(&reply(status, &body), &answer);
        answer.field(&["balance", "sms"]);
    }

    #[test]
    fn a_refusal_with_anything_beside_it_stays_one(
        code in 201..1000_i32, key in any::<String>(), value in any::<String>(), status in any::<u16>(),
    ) {
        prop_assume!(code != 451 && !["response", "status", "code"].contains(&key.as_str()));
        let key = serde_json::to_string(&key).unwrap();
        let value = serde_json::to_string(&value).unwrap();
        let body = format!(r#"{{{key}:200,"response":{{{key}:{value},"status":{{"message":{value},"code":{code},{key}:200}}}}}}"#);
        let read = verdict(status, body.as_bytes());
        prop_assert!(!matches!(read, Verdict::Accepted(_) | Verdict::Duplicate), "{read:?}");
        prop_assert_eq!(named_code(body.as_bytes()), Some(f64::from(code)));
    }

    #[test]
    fn any_wish_to_wait_is_read_without_harm(
        text in prop_oneof![
            any::<String>(), "[0-9]{0,40}",
            "(Mon|Sun|Xyz), [0-9]{1,2} (Nov|Feb|Foo) [0-9]{1,6} [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|\\+9999|-0000)",
        ],
    ) {
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        let is_whole = !text.trim().is_empty() && text.trim().bytes().all(|b| b.is_ascii_digit());
        let read = retry_after(&text, now);
        if is_whole {
            prop_assert_eq!(read, text.trim().parse().ok().map(Duration::from_secs));
        }
    }

    #[test]
    fn what_a_library_says_holds_no_number_and_turns_no_line_around(
        before in any::<String>(), number in "(\\+90|0)?5[0-9]{2}[ .-]?[0-9]{3}[ .-]?[0-9]{4}",
        mark in prop::sample::select(&['\u{202E}', '\u{2066}', '\u{200F}', '\u{1b}', '\n'][..]), after in any::<String>(),
    ) {
        let said = scrub(&format!("{before} {mark}{number} {after}"));
        prop_assert!(said.chars().count() <= 301 && !said.contains(mark) && !said.chars().any(char::is_control), "{said}");
        let run = said.split(|c: char| !(c.is_numeric() || " -./()+".contains(c)))
            .map(|run| run.chars().filter(|c| c.is_numeric()).count()).max();
        prop_assert!(run.is_none_or(|digits| digits < 7), "{said}");
    }

    /// Whatever stands where the provider's words, fields and codes stand: what is kept is what is kept without it.
    #[test]
    fn nothing_that_a_provider_echoes_is_kept(
        code in prop::option::of(201..1000_u16), status in 200..600_u16,
        echo in prop_oneof![
            any::<String>(), "[0-9]{4,6}", "Kodunuz: [0-9]{4}", "5[0-9]{2}[ .-]?[0-9]{3}",
            Just("İstek doğrulanamadı \u{202E}4711".to_owned()), Just("sender.4711x".to_owned()),
        ],
        in_code in "[0-9]{4,9}",
    ) {
        prop_assume!(code != Some(451));
        let text = serde_json::to_string(&echo).unwrap();
        let said = |text: &str, number: &str| {
            let code = code.map_or(number.to_owned(), |code| code.to_string());
            let body = format!(
                r#"{{"message":{text},"response":{{"status":{{"code":{code},"message":{text}}},"errors":{{{text}:{text}}},"order":{{"id":{text}}}}}}}"#
            );
            let (verdict, code) = classify(&reply(status, body.as_bytes()), &Answer::read(body.as_bytes()));
            format!("{verdict:?} {code:?}")
        };
        let number = format!("1{in_code}");
        prop_assert_eq!(said(&text, &number), said("\"x\"", "1000"));
    }
}

#[test]
fn what_the_provider_is_documented_to_say_is_recognised() {
    let said = |body: &str| Answer::read(body.as_bytes()).words;
    for (body, words) in [
        (
            r#"{"response":{"status":{"code":401,"message":" Üyelik bilgileri hatalı. "}}}"#,
            Some("Üyelik bilgileri hatalı"),
        ),
        (
            r#"{"response":{"status":{"code":422,"message":"İstek doğrulanamadı"},"errors":{"text":["uzun","x"],"sender":"zorunlu","order.message.receipents.number.17":1}}}"#,
            Some("İstek doğrulanamadı; order.message.receipents.number, sender, text"),
        ),
        (
            r#"{"response":{"status":{"code":422,"message":"Kodunuz 4711"},"errors":{"sender":"Kodunuz 4711","Kodunuz 4711":"?","sender.x":1,"17":1,"":1}}}"#,
            Some("sender"),
        ),
        (
            r#"{"message":"Too Many Attempts."}"#,
            Some("Too Many Attempts."),
        ),
        (
            r#"{"response":{"status":{"code":466,"message":"Hatalı numara: 5321234567"}}}"#,
            None,
        ),
        (r#"{"response":{"status":{"code":401,"message":""}}}"#, None),
        (r#"{"response":{"status":{"code":401}}}"#, None),
        ("<html>", None),
    ] {
        assert_eq!(said(body).as_deref(), words, "{body}");
    }
    for (said, kept) in [
        ("connection reset by peer", "connection reset by peer"),
        ("  two\n lines\t\u{1b}[31mred ", "two lines [31mred"),
        ("for +90 (532) 123-45-67 only", "for +••••• only"),
        ("٠٥٣٢١٢٣٤٥٦٧", "•••••"),
        ("os error 111", "os error 111"),
        ("", ""),
    ] {
        assert_eq!(scrub(said), kept);
    }
    assert_eq!(scrub(&"ş".repeat(1000)).chars().count(), 301);
}
