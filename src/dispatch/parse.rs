//! Understanding a claim: what is to be sent, or why no request is to be made for it.

use crate::{
    lifecycle::{ErrorClass, Failure},
    message::{ForeignNumbers, Iys, Recipient, RecipientList, estimate},
    outbox::{Claim, ContentKey},
};

/// A claim that has been understood: what is to be sent, and what had to be left out.
pub(super) struct ParsedJob {
    pub(super) recipients: Vec<Recipient>,
    pub(super) rejected: Vec<String>,
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
        let failure = if list.accepted.is_empty() {
            let why = list
                .rejected
                .first()
                .map_or_else(String::new, |(_, error)| error.to_string());
            Some(refuse(
                ErrorClass::Recipients,
                format!("No number could be read; the first one: {why}."),
            ))
        } else if estimate(&claim.body).exceeds_limit() {
            let parts = estimate(&claim.body).least;
            Some(refuse(
                ErrorClass::Content,
                format!("The text takes at least {parts} parts, and 7 are the most."),
            ))
        } else if matches!(claim.provider_send_at, Some(Err(()))) {
            let message = "provider_send_at is too far away to be written down.".to_owned();
            Some(refuse(ErrorClass::Schedule, message))
        } else {
            None
        };
        if let Some(failure) = failure {
            return Err(Unsendable { failure, rejected });
        }
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
            &claim.body,
        );
        Ok(Self {
            recipients: list.accepted,
            rejected,
            iys,
            content,
        })
    }
}
