//! A message for a list of any length.

use std::fmt;

use super::{ForeignNumbers, Iys, MessageError, NewMessage, Recipient, RecipientList};

/// One text for more numbers than one request may have: it becomes several jobs of at most
/// [`MAX_RECIPIENTS`](super::MAX_RECIPIENTS), sent one after another.
///
/// ```
/// use sms_outbox::message::{Bulk, Iys, Priority};
///
/// let everyone = (0..120_000).map(|n| format!("0532{n:07}"));
/// let campaign = Bulk::new("YOURBRAND", everyone, "Our summer sale begins today.", Iys::Transactional)?
///     .map(|message| message.with_priority(Priority::CAMPAIGN));
/// assert_eq!(campaign.recipients().len(), 120_000);
/// # Ok::<(), sms_outbox::message::MessageError>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Bulk {
    template: NewMessage,
    recipients: Vec<Recipient>,
}

impl Bulk {
    /// Reads a list of any length; a number that is in it twice is kept once.
    ///
    /// # Errors
    /// On the first field that could never be sent as it stands, as [`NewMessage::new`]; the length of the list is no
    /// obstacle.
    pub fn new<T: AsRef<str>>(
        sender: &str,
        recipients: impl IntoIterator<Item = T>,
        body: &str,
        iys: Iys,
    ) -> Result<Self, MessageError> {
        let RecipientList { accepted, rejected } =
            RecipientList::read(recipients, ForeignNumbers::Allowed);
        if let Some((index, reason)) = rejected.into_iter().next() {
            return Err(MessageError::Recipient { index, reason });
        }
        let first = accepted.first().map(|number| number.as_str().to_owned());
        let template = NewMessage::new(sender, first, body, iys)?;
        Ok(Self {
            template,
            recipients: accepted,
        })
    }

    /// Changes what all jobs have in common: account, priority, moments, key and so on.
    #[must_use]
    pub fn map(self, change: impl FnOnce(NewMessage) -> NewMessage) -> Self {
        Self {
            template: change(self.template),
            recipients: self.recipients,
        }
    }

    /// As [`map`](Self::map), for the setters that may refuse.
    ///
    /// # Errors
    /// What the setter says.
    pub fn try_map(
        self,
        change: impl FnOnce(NewMessage) -> Result<NewMessage, MessageError>,
    ) -> Result<Self, MessageError> {
        Ok(Self {
            template: change(self.template)?,
            recipients: self.recipients,
        })
    }

    /// What all jobs have in common. Its own recipients and id mean nothing.
    pub(crate) const fn template(&self) -> &NewMessage {
        &self.template
    }

    /// All numbers, in the order of the list.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }
}

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk")
            .field("recipients", &self.recipients.len())
            .finish_non_exhaustive()
    }
}
