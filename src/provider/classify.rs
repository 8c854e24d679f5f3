//! One table from a reply to what it means for the message. Pure.
//!
//! The number in the body decides, whatever the HTTP status says: the provider's pages disagree about whether the two are
//! equal (send-sms page: they are; error-codes page: HTTP may be a general 400 around a specific code). An acceptance or a
//! 451 that HTTP contradicts has to come in an envelope that is whole, for it ends the job. Only where no number can be read
//! does the HTTP status speak, and then for the machinery in between rather than for the provider.

use super::reply::{Answer, Code, Reply};
use crate::lifecycle::{
    ErrorClass::{
        self, Account, Auth, Balance, Content, Iys, RateLimited, Recipients, Request, Schedule,
        Sender, Unavailable, Unknown,
    },
    Failure, PauseScope, Verdict,
};

/// What a code means, and what a person can do about it.
enum Meaning {
    Accepted,
    Duplicate,
    Refused(ErrorClass, &'static str),
    Blocked(PauseScope, ErrorClass, &'static str),
    Throttled,
    Outage,
}

/// The provider's codes. Unless another page is named, each is from the provider documentation, error-codes page and
/// the table of the send-sms page.
fn meaning(code: i32) -> Meaning {
    use Meaning::{Accepted, Blocked, Duplicate, Outage, Refused, Throttled};
    match code {
        200 => Accepted,
        // "Tekrar eden sipariş": same sender, recipient and text inside a short window, ten minutes in the older pages.
        451 => Duplicate,

        // "İstek çözümlenemedi"
        400 => Refused(Request, "The provider could not parse the request."),
        // "İstek doğrulanamadı"; which field, it says itself.
        422 => Refused(
            Request,
            "The provider found a field of the request invalid.",
        ),
        // "Mesaj alıcıları hatalı"; also a number on the account's own block list (older pages).
        452 => Refused(
            Recipients,
            "The provider takes none of these recipients; a number on the account's block list is refused like this too.",
        ),
        // "Sipariş boyutu aşıldı"
        453 => Refused(Content, "The text makes more than 7 parts."),
        // "Mesaj metni boş"
        454 => Refused(Content, "The text is empty."),
        // "Mesaj gönderim tarihinin formatı hatalı"
        457 => Refused(Schedule, "The provider could not read provider_send_at."),
        459 => Refused(Sender, "The sender is empty."),
        460 => Refused(
            Sender,
            "The sender has more than 11 characters, or one that is not allowed.",
        ),
        // "Hatalı numara": form or prefix; foreign numbers without the panel's "abroad" mode.
        466 => Refused(
            Recipients,
            "A number is invalid; foreign numbers need the abroad mode in the provider's panel.",
        ),
        468 => Refused(Iys, "The request does not say whether İYS is to be asked."),
        469 => Refused(
            Iys,
            "The request does not name its İYS list: BIREYSEL or TACIR.",
        ),

        // "Üyelik bilgileri hatalı"; most often the panel's switch (send-sms page).
        401 => Blocked(
            PauseScope::Account,
            Auth,
            "Check key and hash, that API access is switched on in the provider's panel, and that this machine's address is allowed there.",
        ),
        // "Bakiye yetersiz"
        402 => Blocked(
            PauseScope::Account,
            Balance,
            "Top up the account's balance.",
        ),
        // "Aktif abonelik bulunamadı"
        403 => Blocked(
            PauseScope::Account,
            Account,
            "The account has no active subscription.",
        ),
        // "API istek yapılan yönteme sahip değil"
        404 => Blocked(
            PauseScope::Account,
            Account,
            "The provider knows no such method: check ILETIMERKEZI_BASE_URL.",
        ),
        // "Evrak bilgisi eksik"
        467 => Blocked(
            PauseScope::Account,
            Account,
            "The account's papers are incomplete: the provider's panel says which.",
        ),
        // "Gönderilen başlık kullanıma uygun değil"
        450 => Blocked(
            PauseScope::Sender,
            Sender,
            "The sender is not approved, or not written exactly as it was approved; case and spaces count.",
        ),
        // "IYS kodunuzu ayarlamalısınız"
        470 => Blocked(
            PauseScope::Iys,
            Account,
            "Set the İYS brand code of the account in the provider's panel.",
        ),

        // Not documented as a code; frameworks use it when too many requests come.
        429 => Throttled,
        // 503: "Sunucu geçici olarak servis dışı". The others are not documented as codes. That they come before anything is
        // sent is likely, and not promised.
        500 | 502 | 503 | 504 => Outage,

        // Codes of other methods (455, 456, 458, 461 to 465, 471 to 474), message states (110 to 115), and codes that
        // come and go (419 to 426 once did): no repeat can be told to help.
        _ => Refused(
            Unknown,
            "This code is not known to come from send-sms; the provider's support can tell.",
        ),
    }
}

/// What `reply` means, and the provider's number in it where it is believed.
pub(super) fn classify(reply: &Reply, answer: &Answer) -> (Verdict, Option<i32>) {
    let words = answer.words.as_deref();
    match answer.code {
        Some(Code::Number(200 | 451)) if !is_believed(reply, answer) => {
            let said = format!(
                "HTTP {} with an answer that says the contrary, and not in the form that is documented.",
                reply.http_status
            );
            let verdict = Verdict::Indeterminate(Failure::new(Unknown, said));
            (verdict, None)
        }
        Some(Code::Number(code)) => (by_code(code, reply, answer, words), Some(code)),
        Some(Code::Unheard) => {
            let said = sentence("A code that is none of the provider's", words, UNHEARD_OF);
            (Verdict::Refused(Failure::new(Unknown, said)), None)
        }
        None => (by_http_status(reply, words), None),
    }
}

/// Whether a 200 or a 451 in the body is believed.
fn is_believed(reply: &Reply, answer: &Answer) -> bool {
    (200..=299).contains(&reply.http_status) || answer.is_as_documented()
}

fn by_code(code: i32, reply: &Reply, answer: &Answer, words: Option<&str>) -> Verdict {
    let failure = |class, hint: &str| {
        Failure::with_code(class, code, sentence(&format!("Code {code}"), words, hint))
    };
    match meaning(code) {
        Meaning::Accepted => Verdict::Accepted(answer.order_id.clone()),
        Meaning::Duplicate => Verdict::Duplicate,
        Meaning::Refused(class, hint) => Verdict::Refused(failure(class, hint)),
        Meaning::Blocked(scope, class, hint) => Verdict::Blocked {
            scope,
            failure: failure(class, hint),
        },
        Meaning::Throttled => Verdict::Throttled {
            failure: failure(RateLimited, TOO_MANY),
            retry_after: reply.retry_after,
        },
        Meaning::Outage => Verdict::Indeterminate(failure(
            Unavailable,
            "The provider is unavailable at the moment.",
        )),
    }
}

const TOO_MANY: &str =
    "The provider wants fewer requests; if this stays, lower SMS_OUTBOX_RATE_PER_SECOND.";

const UNHEARD_OF: &str = "Its codes have three digits; its support can tell.";

/// Undocumented throughout: these are the readings under which nothing is sent twice and no account's failure is charged
/// to a message.
fn by_http_status(reply: &Reply, words: Option<&str>) -> Verdict {
    let status = reply.http_status;
    let failure = |class, hint: &str| {
        let what = format!("HTTP {status} without a code of the provider");
        Failure::new(class, sentence(&what, words, hint))
    };
    let blocked = |class, hint: &str| Verdict::Blocked {
        scope: PauseScope::Account,
        failure: failure(class, hint),
    };
    let broke_off = |cut: &Failure| Verdict::Indeterminate(cut.clone());
    match status {
        300..=399 => blocked(
            Account,
            "It points elsewhere, and an order is never sent on: check ILETIMERKEZI_BASE_URL.",
        ),
        401 | 403 => blocked(
            Auth,
            "Something in front of the provider refuses the request: check that this machine's address is allowed.",
        ),
        // About the form or the size of this one request, and final: so not where a code may have been cut off.
        400 | 413 | 414 | 415 | 431 => match &reply.cut {
            None => Verdict::Refused(failure(
                Request,
                "The form or the size of the request was refused before the provider read it.",
            )),
            Some(cut) => broke_off(cut),
        },
        429 => Verdict::Throttled {
            failure: failure(RateLimited, TOO_MANY),
            retry_after: reply.retry_after,
        },
        400..=499 => blocked(
            Account,
            "The provider always gives a code, so something else answered: check ILETIMERKEZI_BASE_URL.",
        ),
        // Behind a gateway's 500, 502, 503 or 504 the provider may still be at work.
        500..=599 => Verdict::Indeterminate(failure(
            Unavailable,
            "The provider, or something in front of it, is unavailable.",
        )),
        _ => match &reply.cut {
            // The end of a body that breaks off says nothing about the end of the work.
            Some(cut) => broke_off(cut),
            None => Verdict::Indeterminate(failure(Unknown, "The answer could not be read.")),
        },
    }
}

/// `Code 402 (Bakiye yetersiz). Top up the account's balance.`
fn sentence(what: &str, words: Option<&str>, hint: &str) -> String {
    match words {
        Some(words) => format!("{what} ({words}). {hint}"),
        None => format!("{what}. {hint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::OrderId;
    use std::time::Duration;

    fn reply(http_status: u16, body: &str) -> Reply {
        Reply {
            http_status,
            retry_after: None,
            body: body.as_bytes().to_vec(),
            cut: None,
        }
    }

    fn verdict(reply: &Reply) -> (Verdict, Option<i32>) {
        classify(reply, &Answer::read(&reply.body))
    }

    /// What a verdict says, without its sentence.
    #[derive(Debug, PartialEq)]
    enum Kind {
        Accepted,
        Duplicate,
        Refused(ErrorClass),
        Blocked(PauseScope, ErrorClass),
        Throttled,
        Indeterminate(ErrorClass),
    }

    fn kind(verdict: &Verdict) -> Kind {
        match verdict {
            Verdict::Accepted(_) => Kind::Accepted,
            Verdict::Duplicate => Kind::Duplicate,
            Verdict::Refused(failure) => Kind::Refused(failure.class),
            Verdict::Blocked { scope, failure } => Kind::Blocked(*scope, failure.class),
            Verdict::Throttled { failure, .. } => {
                assert_eq!(failure.class, RateLimited);
                Kind::Throttled
            }
            Verdict::Indeterminate(failure) => Kind::Indeterminate(failure.class),
            Verdict::NotSent(_) => panic!("an answer was read"),
        }
    }

    fn failure(verdict: &Verdict) -> Option<&Failure> {
        match verdict {
            Verdict::Refused(failure)
            | Verdict::Blocked { failure, .. }
            | Verdict::Throttled { failure, .. }
            | Verdict::Indeterminate(failure)
            | Verdict::NotSent(failure) => Some(failure),
            Verdict::Accepted(_) | Verdict::Duplicate => None,
        }
    }

    #[test]
    fn every_code_means_the_same_under_any_http_status_as_number_or_as_text() {
        use Kind::{Accepted, Blocked, Duplicate, Indeterminate, Refused, Throttled};
        use PauseScope as Scope;
        let mut table = vec![
            (200, Accepted),
            (400, Refused(Request)),
            (401, Blocked(Scope::Account, Auth)),
            (402, Blocked(Scope::Account, Balance)),
            (403, Blocked(Scope::Account, Account)),
            (404, Blocked(Scope::Account, Account)),
            (422, Refused(Request)),
            (429, Throttled),
            (450, Blocked(Scope::Sender, Sender)),
            (451, Duplicate),
            (452, Refused(Recipients)),
            (453, Refused(Content)),
            (454, Refused(Content)),
            (457, Refused(Schedule)),
            (459, Refused(Sender)),
            (460, Refused(Sender)),
            (466, Refused(Recipients)),
            (467, Blocked(Scope::Account, Account)),
            (468, Refused(Iys)),
            (469, Refused(Iys)),
            (470, Blocked(Scope::Iys, Account)),
            (500, Indeterminate(Unavailable)),
            (502, Indeterminate(Unavailable)),
            (503, Indeterminate(Unavailable)),
            (504, Indeterminate(Unavailable)),
        ];
        let others = [
            0, 1, 2, 20, 100, 110, 111, 112, 113, 114, 115, 199, 201, 202, 204, 301, 405, 413, 419,
            426, 455, 456, 458, 461, 462, 463, 464, 465, 471, 472, 473, 474, 475, 501, 505, 999,
        ];
        table.extend(others.map(|code| (code, Refused(Unknown))));
        for (code, expected) in table {
            let mirrored = u16::try_from(code).ok().filter(|s| (200..1000).contains(s));
            for http_status in [200, 201, 302, 400, 401, 413, 429, 500, 502, 503]
                .into_iter()
                .chain(mirrored)
            {
                for written in [format!("{code}"), format!("\"{code}\"")] {
                    let body = format!(
                        r#"{{"response":{{"status":{{"code":{written},"message":"Bakiye yetersiz"}},"order":{{"id":"1"}}}}}}"#
                    );
                    let (verdict, read) = verdict(&reply(http_status, &body));
                    assert_eq!(kind(&verdict), expected, "HTTP {http_status} {body}");
                    assert_eq!(read, Some(code));
                    if let Some(failure) = failure(&verdict) {
                        assert_eq!(failure.code, Some(code));
                        let start = format!("Code {code} (Bakiye yetersiz). ");
                        assert!(failure.message.starts_with(&start), "{}", failure.message);
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_readable_code_the_http_status_speaks() {
        use Kind::{Blocked, Indeterminate, Refused, Throttled};
        use PauseScope as Scope;
        let unreadable = [
            "",
            "<html>Bad</html>",
            r#"{"response":{"status":{"co"#,
            r#"{"message":"Server Error"}"#,
            r#"{"response":{"status":{"code":null}}}"#,
            "[]",
            "\u{0}",
        ];
        for (statuses, expected) in [
            (
                &[301, 302, 303, 304, 307, 308][..],
                Blocked(Scope::Account, Account),
            ),
            (&[401, 403], Blocked(Scope::Account, Auth)),
            (&[400, 413, 414, 415, 431], Refused(Request)),
            (&[429], Throttled),
            (
                &[402, 404, 405, 408, 422, 425, 450, 451, 474, 499],
                Blocked(Scope::Account, Account),
            ),
            (
                &[500, 501, 502, 503, 504, 520, 599],
                Indeterminate(Unavailable),
            ),
            (&[200, 201, 202, 204, 299, 600, 999], Indeterminate(Unknown)),
        ] {
            for status in statuses {
                for body in unreadable {
                    let (verdict, code) = verdict(&reply(*status, body));
                    assert_eq!(kind(&verdict), expected, "HTTP {status} {body:?}");
                    assert_eq!(code, None);
                    let failure = failure(&verdict).unwrap();
                    assert_eq!(failure.code, None);
                    assert!(
                        failure.message.contains(&status.to_string()),
                        "{}",
                        failure.message
                    );
                }
            }
        }
    }

    #[test]
    fn an_acceptance_keeps_its_order_id_where_there_is_one() {
        for (body, id) in [
            (
                r#"{"response":{"status":{"code":200},"order":{"id":"312891245"}}}"#,
                Some("312891245"),
            ),
            (
                r#"{"response":{"status":{"code":"200"},"order":{"id":312891245}}}"#,
                Some("312891245"),
            ),
            (r#"{"response":{"status":{"code":200}}}"#, None),
            (
                r#"{"response":{"status":{"code":200},"order":{"id":""}}}"#,
                None,
            ),
            (r#"{"response":{"status":{"code":200},"order":[1]}}"#, None),
        ] {
            let (verdict, _) = verdict(&reply(200, body));
            assert_eq!(
                verdict,
                Verdict::Accepted(id.and_then(OrderId::parse)),
                "{body}"
            );
        }
    }

    #[test]
    fn a_wish_to_wait_is_passed_on() {
        for body in ["", r#"{"response":{"status":{"code":429}}}"#] {
            let mut reply = reply(429, body);
            reply.retry_after = Some(Duration::from_secs(7));
            match verdict(&reply).0 {
                Verdict::Throttled { retry_after, .. } => {
                    assert_eq!(retry_after, Some(Duration::from_secs(7)));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_answer_that_breaks_off_is_indeterminate_or_what_its_status_says() {
        let cut = |status| Reply {
            cut: Some(Failure::new(ErrorClass::Network, "The answer broke off.")),
            ..reply(status, r#"{"response":{"status":{"code":20"#)
        };
        assert_eq!(
            kind(&verdict(&cut(200)).0),
            Kind::Indeterminate(ErrorClass::Network)
        );
        assert_eq!(
            kind(&verdict(&cut(502)).0),
            Kind::Indeterminate(Unavailable)
        );
        assert_eq!(
            kind(&verdict(&cut(400)).0),
            Kind::Indeterminate(ErrorClass::Network)
        );
        assert_eq!(
            kind(&verdict(&cut(404)).0),
            Kind::Blocked(PauseScope::Account, Account)
        );
    }

    #[test]
    fn a_code_beyond_reason_is_a_refusal_that_does_not_repeat_it() {
        for beyond in ["905321234567", "\"4711\"", "-200", "1e9"] {
            let (verdict, code) = verdict(&reply(
                200,
                &format!(r#"{{"response":{{"status":{{"code":{beyond}}}}}}}"#),
            ));
            assert_eq!(code, None);
            let said = &failure(&verdict).unwrap().message;
            assert_eq!(kind(&verdict), Kind::Refused(Unknown));
            assert!(!said.contains(|c: char| c.is_ascii_digit()), "{said}");
        }
    }

    #[test]
    fn an_acceptance_that_http_contradicts_is_believed_where_its_envelope_is_whole() {
        use Kind::{Accepted, Duplicate, Indeterminate};
        let doubt = || Indeterminate(Unknown);
        let message = r#""message":"İşlem başarılı""#;
        for (body, expected) in [
            (
                format!(r#"{{"code":200,{message}}},"order":{{"id":"312891245"}}"#),
                Accepted,
            ),
            (
                format!(r#"{{"code":"200",{message}}},"order":{{"id":312891245}}"#),
                Accepted,
            ),
            (format!(r#"{{"code":200,{message}}}"#), doubt()),
            (format!(r#"{{"code":200,{message}}},"order":null"#), doubt()),
            (
                format!(r#"{{"code":200,{message}}},"order":{{"id":"x1"}}"#),
                doubt(),
            ),
            (
                format!(r#"{{"code":200,{message}}},"order":{{"id":1}},"order":{{"id":2}}"#),
                doubt(),
            ),
            (
                r#"{"code":200},"order":{"id":"312891245"}"#.to_owned(),
                doubt(),
            ),
            (
                r#"{"code":200,"message":["a"]},"order":{"id":"312891245"}"#.to_owned(),
                doubt(),
            ),
            (format!(r#"{{"code":451,{message}}}"#), Duplicate),
            (format!(r#"{{"code":"451",{message}}}"#), Duplicate),
            (r#"{"code":451}"#.to_owned(), doubt()),
            (r#"{"code":451,"message":null}"#.to_owned(), doubt()),
        ] {
            let body = format!(r#"{{"response":{{"status":{body}}}}}"#);
            for status in [302, 400, 404, 422, 451, 500, 502, 503] {
                let (verdict, code) = verdict(&reply(status, &body));
                assert_eq!(kind(&verdict), expected, "HTTP {status} {body}");
                assert_eq!(code.is_some(), expected != doubt(), "HTTP {status} {body}");
            }
            let (verdict, _) = verdict(&reply(200, &body));
            assert_ne!(kind(&verdict), doubt(), "HTTP says the same: {body}");
        }
    }
}
