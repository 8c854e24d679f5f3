//! Understanding a claim: what is to be sent, or why no request is to be made for it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    lifecycle::{ErrorClass, Failure},
    message::{Body, ForeignNumbers, Iys, Recipient, RecipientList},
    outbox::{Claim, ContentKey},
    provider::full_minute,
};

/// How long a request may take to the provider: what it is to send sooner than this is sent at once, because it must not
/// arrive as a moment that has passed.
const ON_ITS_WAY: TimeDelta = TimeDelta::seconds(5);

/// A claim that has been understood: what is to be sent, and what had to be left out.
pub(super) struct ParsedJob {
    pub(super) recipients: Vec<Recipient>,
    pub(super) rejected: Vec<String>,
    pub(super) body: Body,
    pub(super) iys: Iys,
    pub(super) content: ContentKey,
}

/// Why no request is to be made for a claim.
pub(super) struct Unsendable {
    pub(super) failure: Failure,
    pub(super) rejected: Vec<String>,
}

impl ParsedJob {
    /// Understands a claim, or says why no request is to be made for it.
    pub(super) fn parse(
        account: &str,
        claim: &Claim,
        foreign: ForeignNumbers,
    ) -> Result<Self, Unsendable> {
        let texts: Vec<&str> = claim
            .recipients
            .iter()
            .map(|text| text.as_deref().unwrap_or(""))
            .collect();
        let list = RecipientList::read(&texts, foreign);
        let rejected: Vec<String> = list
            .rejected
            .iter()
            .map(|(place, _)| texts[*place].to_owned())
            .collect();
        let refuse = |class, message: String| Failure::new(class, message);
        let body = Body::parse(&claim.body);
        let failure = if list.accepted.is_empty() {
            let why = list
                .rejected
                .first()
                .map_or_else(String::new, |(_, error)| error.to_string());
            Some(refuse(
                ErrorClass::Recipients,
                format!("No number could be read; the first one: {why}."),
            ))
        } else if let Ok(body) = &body
            && body.parts().exceeds_limit()
        {
            let parts = body.parts().least;
            Some(refuse(
                ErrorClass::Content,
                format!("The text takes at least {parts} parts, and 7 are the most."),
            ))
        } else {
            let waited = claim.asked.elapsed();
            let schedule = send_at(claim, waited).err();
            schedule.map(|message| refuse(ErrorClass::Schedule, message.to_owned()))
        };
        if let Some(failure) = failure {
            return Err(Unsendable { failure, rejected });
        }
        let body = body.map_err(|error| Unsendable {
            failure: refuse(ErrorClass::Content, format!("The text is none: {error}.")),
            rejected: rejected.clone(),
        })?;
        let iys = Iys::from_columns(claim.iys, claim.iys_list.as_deref()).map_err(|error| {
            Unsendable {
                failure: refuse(
                    ErrorClass::Iys,
                    format!("The consent columns cannot be understood: {error}."),
                ),
                rejected: rejected.clone(),
            }
        })?;
        let content = ContentKey::of(
            account,
            list.accepted.iter().map(|number| number.as_str()),
            body.as_str(),
        );
        Ok(Self {
            recipients: list.accepted,
            rejected,
            body,
            iys,
            content,
        })
    }
}

/// The moment that the provider is asked to send the message at, so long after its claim. `None`: it is sent at once, because
/// nothing else was asked for, or because the moment has come.
///
/// # Errors
/// When the provider would send it at or after `expires_at`, or at a moment that cannot be written down: a sentence about it.
pub(super) fn send_at(
    claim: &Claim,
    since_claim: Duration,
) -> Result<Option<DateTime<Utc>>, &'static str> {
    let asked_for = match claim.provider_send_at {
        None => return Ok(None),
        Some(Err(())) => return Err("provider_send_at is too far away to be written down."),
        Some(Ok(moment)) => full_minute(moment),
    };
    // Years away from any overflow, as far as sums of these go; what is not is no moment to hand over.
    let after = |span| {
        TimeDelta::from_std(span)
            .ok()
            .and_then(|span| claim.claimed_at.checked_add_signed(span))
    };
    let arrives = after(since_claim).and_then(|now| now.checked_add_signed(ON_ITS_WAY));
    if arrives.is_none_or(|arrives| asked_for <= arrives) {
        return Ok(None);
    }
    let expires_at = claim.expires_in.and_then(after);
    if claim.expires_in.is_some() && expires_at.is_none_or(|expires_at| asked_for >= expires_at) {
        return Err(
            "The provider would send it at or after expires_at: provider_send_at, rounded up to a minute, is not earlier.",
        );
    }
    Ok(Some(asked_for))
}

#[cfg(test)]
mod tests {
    use crate::clock::Moment;

    use uuid::Uuid;

    use super::*;

    fn claim(body: &str, send_in_s: Option<i64>, expires_in_s: Option<u64>) -> Claim {
        // On the minute.
        let claimed_at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let now = Moment::now();
        Claim {
            id: Uuid::nil(),
            token: 1,
            sender: "BRAND".to_owned(),
            recipients: vec![Some("05321234567".to_owned())],
            body: body.to_owned(),
            iys: false,
            iys_list: None,
            provider_send_at: send_in_s.map(|s| Ok(claimed_at + TimeDelta::seconds(s))),
            claimed_at,
            attempt: 1,
            max_attempts: 15,
            traceparent: None,
            bulk: false,
            priority: 1,
            producer: "app".into(),
            due_for: std::time::Duration::ZERO,
            due_at: claimed_at,
            indeterminate_age: None,
            expires_in: expires_in_s.map(Duration::from_secs),
            wait_us: 0,
            tolerance: None,
            asked: now,
            received: now,
        }
    }

    #[test]
    fn a_moment_that_has_come_is_left_out_and_one_beyond_the_expiry_is_refused() {
        for (send_in_s, expires_in_s, since_claim_s, expected) in [
            (None, Some(1), 0, Ok(None)),
            (Some(3600), None, 0, Ok(Some(3600))),
            (Some(3601), None, 0, Ok(Some(3660))),
            (Some(3600), Some(3601), 0, Ok(Some(3600))),
            (Some(3600), Some(3600), 0, Err(())),
            // Rounded up it is not earlier any more.
            (Some(3601), Some(3659), 0, Err(())),
            (Some(7200), Some(3600), 0, Err(())),
            (Some(-86_400), None, 0, Ok(None)),
            (Some(-30), Some(3600), 0, Ok(None)),
            (Some(60), None, 54, Ok(Some(60))),
            (Some(60), None, 55, Ok(None)),
            (Some(60), None, 100, Ok(None)),
        ] {
            let claim = claim("x", send_in_s, expires_in_s);
            let sent = send_at(&claim, Duration::from_secs(since_claim_s))
                .map(|moment| moment.map(|moment| (moment - claim.claimed_at).num_seconds()))
                .map_err(drop);
            assert_eq!(
                sent, expected,
                "{send_in_s:?} {expires_in_s:?} {since_claim_s}"
            );
        }
        let mut far = claim("x", None, None);
        far.provider_send_at = Some(Err(()));
        assert!(send_at(&far, Duration::ZERO).is_err());
    }

    #[test]
    fn a_text_has_one_normal_form_whatever_way_its_row_came() {
        let parse = |text: &str| {
            ParsedJob::parse("default", &claim(text, None, None), ForeignNumbers::Refused)
                .unwrap_or_else(|unsendable| panic!("{}", unsendable.failure.message))
        };
        // Two parts, in a form that would count as ten.
        let decomposed = "s\u{327}".repeat(300);
        let (one, other) = (parse(&decomposed), parse(&"ş".repeat(300)));
        assert_eq!(one.body, other.body);
        assert!(one.content == other.content);
    }
}
