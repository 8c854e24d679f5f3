//! Understanding a claim: what is to be sent, or why no request is to be made for it.

use crate::{
    lifecycle::{ErrorClass, Trouble},
    message::{ForeignNumbers, Iys, Recipient, RecipientList, estimate},
    outbox::{Claim, Content},
};

/// A claim that has been understood: what is to be sent, and what had to be left out.
pub(super) struct Letter {
    pub(super) recipients: Vec<Recipient>,
    pub(super) rejected: Vec<String>,
    pub(super) iys: Iys,
    pub(super) content: Content,
}

/// Why no request is to be made for a claim.
pub(super) struct Unreadable {
    pub(super) trouble: Trouble,
    pub(super) rejected: Vec<String>,
}

impl Letter {
    /// Understands a claim, or says why no request is to be made for it.
    pub(super) fn read(
        account: &str,
        claim: &Claim,
        foreign: ForeignNumbers,
    ) -> Result<Self, Unreadable> {
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
        let refuse = |class, message: String| Trouble::new(class, message);
        let trouble = if list.accepted.is_empty() {
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
        if let Some(trouble) = trouble {
            return Err(Unreadable { trouble, rejected });
        }
        let iys = Iys::from_columns(claim.iys, claim.iys_list.as_deref()).map_err(|error| {
            Unreadable {
                trouble: refuse(
                    ErrorClass::Iys,
                    format!("The consent columns cannot be understood: {error}."),
                ),
                rejected: rejected.clone(),
            }
        })?;
        let content = Content::of(
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
