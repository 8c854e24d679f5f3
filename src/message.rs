//! What a producer may say, as types: parsing is the only way in, so whatever exists has been understood.
//!
//! Nothing here knows a database, a socket or a clock.

use std::{borrow::Cow, collections::HashSet, fmt, str::FromStr};

use chrono::{DateTime, Utc};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use uuid::Uuid;

mod bulk;
mod parts;
mod recipient;
mod spelling;

pub use bulk::Bulk;
pub use parts::{Coding, MAX_PARTS, Parts, estimate};
pub use recipient::{ForeignNumbers, Recipient, RecipientError, mask};
#[cfg(feature = "cli")]
pub(crate) use spelling::digit;

/// The most numbers that one job may have, because one request may have no more (provider documentation, send-sms page).
pub const MAX_RECIPIENTS: usize = 50_000;

/// The header that a message comes from, exactly as it was approved: case and spaces count (code 450 otherwise).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sender(String);

/// Why a text can be no sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SenderError {
    /// Nothing, or spaces only (the provider's code 459).
    #[error("it is blank")]
    Blank,
    /// More than 11 characters (the provider's code 460).
    #[error("it has {characters} characters, and 11 are the most")]
    TooLong {
        /// How many it has.
        characters: usize,
    },
    /// A Turkish letter or another character outside printable ASCII (the provider's code 460).
    #[error(
        "{0:?} is not allowed: only Latin letters without accents, digits, spaces and ASCII punctuation are"
    )]
    Character(char),
}

impl Sender {
    /// The one whose messages get a fixed text from the provider; meant for trying out, and never for `iys` messages.
    pub const TEST: &'static str = "APITEST";

    /// Takes 1 to 11 printable ASCII characters, not all of them spaces, and keeps them exactly as they are.
    ///
    /// # Errors
    /// When the provider would refuse the text whatever has been approved.
    pub fn parse(text: &str) -> Result<Self, SenderError> {
        if text.trim().is_empty() {
            return Err(SenderError::Blank);
        }
        if let Some(c) = text.chars().find(|c| !matches!(c, ' '..='~')) {
            return Err(SenderError::Character(c));
        }
        let characters = text.len();
        if characters > 11 {
            return Err(SenderError::TooLong { characters });
        }
        Ok(Self(text.to_owned()))
    }

    /// The text as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the provider's test header, `APITEST`.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.0 == Self::TEST
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The text of a message, in Unicode normalisation form C. `Debug` shows its length only.
///
/// Composed and decomposed letters look the same and cost differently (`ş` against `s` + cedilla), and a repeat has to be
/// the same bytes for the provider's duplicate guard to know it; so one form is kept from the start.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Body(String);

/// Why a text can be no message text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Empty (the provider's code 454).
    #[error("it is empty")]
    Empty,
    /// A NUL character, which PostgreSQL cannot store in a text.
    #[error("it contains a NUL character")]
    Nul,
    /// More than seven parts on any reading (the provider's code 453).
    #[error("it makes at least {least} parts, and {MAX_PARTS} are the most")]
    TooLong {
        /// How many parts the most generous reading makes of it.
        least: u32,
    },
}

impl Body {
    /// Takes any text that is not empty. How many parts it makes is another question: see [`parts`](Self::parts).
    ///
    /// # Errors
    /// When it is empty or has a NUL in it.
    pub fn parse(text: &str) -> Result<Self, BodyError> {
        if text.is_empty() {
            return Err(BodyError::Empty);
        }
        if text.contains('\0') {
            return Err(BodyError::Nul);
        }
        Ok(Self(nfc(text).into_owned()))
    }

    /// The text as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many SMS it becomes, as far as anyone can tell beforehand.
    #[must_use]
    pub fn parts(&self) -> Parts {
        estimate(&self.0)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} characters)", self.0.chars().count())
    }
}

/// The text in Unicode normalisation form C.
pub(crate) fn nfc(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        IsNormalized::No | IsNormalized::Maybe => Cow::Owned(text.nfc().collect()),
    }
}

/// Which consents a marketing message is checked against in İYS, the national registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IysList {
    /// `BIREYSEL`: individuals.
    Individual,
    /// `TACIR`: merchants.
    Merchant,
}

impl IysList {
    /// The text that the provider knows and the database holds.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Individual => "BIREYSEL",
            Self::Merchant => "TACIR",
        }
    }
}

impl fmt::Display for IysList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for IysList {
    type Err = IysError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "BIREYSEL" => Ok(Self::Individual),
            "TACIR" => Ok(Self::Merchant),
            _ => Err(IysError::UnknownList),
        }
    }
}

/// Whether a message markets something: a legal question, answered by whoever writes the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Iys {
    /// A code, an order, a reminder: no consent is asked for.
    Transactional,
    /// Marketing: the provider drops recipients who have not consented, and still says that it took the order.
    Commercial(IysList),
}

/// Why two columns are no answer to the question whether a message markets something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IysError {
    /// `iys` without `iys_list`.
    #[error("a marketing message needs its list: BIREYSEL or TACIR")]
    ListMissing,
    /// `iys_list` without `iys`.
    #[error("a list goes with marketing messages only")]
    ListWithoutIys,
    /// Neither `BIREYSEL` nor `TACIR`.
    #[error("the list is neither BIREYSEL nor TACIR")]
    UnknownList,
}

impl Iys {
    /// Reads the columns `iys` and `iys_list`.
    ///
    /// # Errors
    /// When the list is unknown, or is there without `iys`, or is missing with it.
    pub fn from_columns(iys: bool, iys_list: Option<&str>) -> Result<Self, IysError> {
        match (iys, iys_list) {
            (false, None) => Ok(Self::Transactional),
            (true, Some(list)) => Ok(Self::Commercial(list.parse()?)),
            (true, None) => Err(IysError::ListMissing),
            (false, Some(_)) => Err(IysError::ListWithoutIys),
        }
    }

    /// The column `iys`.
    #[must_use]
    pub const fn is_commercial(self) -> bool {
        match self {
            Self::Transactional => false,
            Self::Commercial(_) => true,
        }
    }

    /// The column `iys_list`.
    #[must_use]
    pub const fn list(self) -> Option<IysList> {
        match self {
            Self::Transactional => None,
            Self::Commercial(list) => Some(list),
        }
    }
}

/// Who goes first when more is due than may leave: the smaller number. From 0 to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Priority(i16);

/// A number that is no priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no priority: 0 (one-time passwords) to 3 (campaigns) are")]
pub struct PriorityError(i16);

impl Priority {
    /// 0: someone is waiting in front of a screen.
    pub const OTP: Self = Self(0);
    /// 1, the default: orders, reminders.
    pub const NORMAL: Self = Self(1);
    /// 2: it may take its time.
    pub const LOW: Self = Self(2);
    /// 3: campaigns.
    pub const CAMPAIGN: Self = Self(3);

    /// Takes 0 to 3.
    ///
    /// # Errors
    /// On any other number.
    pub const fn new(number: i16) -> Result<Self, PriorityError> {
        match number {
            0..=3 => Ok(Self(number)),
            _ => Err(PriorityError(number)),
        }
    }

    /// The column `priority`.
    #[must_use]
    pub const fn get(self) -> i16 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}

impl TryFrom<i16> for Priority {
    type Error = PriorityError;

    fn try_from(number: i16) -> Result<Self, Self::Error> {
        Self::new(number)
    }
}

/// Numbers read from a list, good and bad apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipientList {
    /// What could be read, in the order of the list. A number that came twice, in whatever spelling, is here once: it
    /// would be the same content for the same recipient, which the provider's duplicate guard is there to refuse, and
    /// the refusal (451) would read as if all of it had been taken.
    pub accepted: Vec<Recipient>,
    /// What could not: position in the list from 0, and why.
    pub rejected: Vec<(usize, RecipientError)>,
}

impl RecipientList {
    /// Reads every text of the list.
    ///
    /// ```
    /// use sms_outbox::message::{ForeignNumbers, RecipientList};
    /// let list = RecipientList::read(["0532 123 45 67", "n/a", "+905321234567"], ForeignNumbers::Refused);
    /// assert_eq!(list.accepted.len(), 1);
    /// assert_eq!(list.rejected[0].0, 1);
    /// ```
    pub fn read<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
        foreign: ForeignNumbers,
    ) -> Self {
        let mut list = Self::default();
        for (position, text) in texts.into_iter().enumerate() {
            match Recipient::parse(text.as_ref(), foreign) {
                Ok(recipient) => list.accepted.push(recipient),
                Err(error) => list.rejected.push((position, error)),
            }
        }
        // A single number, by far the commonest list, has no duplicate to remove.
        if list.accepted.len() > 1 {
            let mut seen = HashSet::with_capacity(list.accepted.len());
            let first: Vec<bool> = list.accepted.iter().map(|r| seen.insert(r)).collect();
            let mut first = first.into_iter();
            list.accepted.retain(|_| first.next().unwrap_or(true));
        }
        list
    }
}

/// A message as a Rust producer hands it over, understood in every part before it touches the database.
///
/// Other languages insert rows themselves, and there a number that cannot be read must not roll back somebody's order:
/// it ends up in `rejected_recipients`. In Rust it is an error here, and the producer decides what it is worth.
///
/// What is not set is decided by the table's defaults, such as the id and the time it is due.
///
/// ```
/// use sms_outbox::message::{Iys, MessageError, NewMessage, Priority};
///
/// let code = NewMessage::new("YOURBRAND", ["0532 123 45 67"], "Your code is 123456.", Iys::Transactional)?
///     .with_priority(Priority::OTP)
///     .with_expires_at(chrono::Utc::now() + chrono::TimeDelta::minutes(3))
///     .with_idempotency_key("login-77-code-1")?;
/// assert_eq!(code.recipients()[0].as_str(), "905321234567");
/// # Ok::<(), MessageError>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct NewMessage {
    id: Option<Uuid>,
    account: String,
    sender: Sender,
    recipients: Vec<Recipient>,
    body: Body,
    iys: Iys,
    priority: Priority,
    due_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    provider_send_at: Option<DateTime<Utc>>,
    idempotency_key: Option<String>,
    max_attempts: Option<u16>,
    metadata: serde_json::Value,
    traceparent: Option<String>,
}

/// Why a message cannot be made: which field, and what is wrong with it. No message of it repeats a number or a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The sender cannot be one.
    #[error("sender: {0}")]
    Sender(SenderError),
    /// No recipients at all.
    #[error("recipients: there are none")]
    NoRecipients,
    /// More than one request may have.
    #[error(
        "recipients: there are {count}, and {MAX_RECIPIENTS} are the most for one job; bulk enqueueing \
         (sms_outbox.enqueue_bulk) cuts a longer list into several"
    )]
    TooManyRecipients {
        /// How many there are.
        count: usize,
    },
    /// One of the numbers cannot be read.
    #[error("recipients[{index}]: {reason}")]
    Recipient {
        /// Its position in the list, from 0.
        index: usize,
        /// What is wrong with it.
        reason: RecipientError,
    },
    /// The text cannot be one.
    #[error("body: {0}")]
    Body(BodyError),
    /// `APITEST` with a marketing message.
    #[error("iys: the test sender APITEST sends transactional messages only")]
    TestSenderWithIys,
    /// An account without a name, or with an endless one.
    #[error("account: it is blank, longer than 64 characters, or contains a NUL character")]
    Account,
    /// An empty key would make every message the same one.
    #[error(
        "idempotency_key: it is empty, longer than 255 characters, or contains a NUL character"
    )]
    IdempotencyKey,
    /// A number of attempts that cannot be.
    #[error("max_attempts: {0} is not between 1 and 32767")]
    MaxAttempts(u16),
    /// A string in it holds what `jsonb` cannot.
    #[error("metadata: it contains a NUL character, which jsonb cannot store")]
    Metadata,
}

impl MessageError {
    /// The column that is wrong.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Sender(_) => "sender",
            Self::NoRecipients | Self::TooManyRecipients { .. } | Self::Recipient { .. } => {
                "recipients"
            }
            Self::Body(_) => "body",
            Self::TestSenderWithIys => "iys",
            Self::Account => "account",
            Self::IdempotencyKey => "idempotency_key",
            Self::MaxAttempts(_) => "max_attempts",
            Self::Metadata => "metadata",
        }
    }
}

impl NewMessage {
    /// Reads what every message must have.
    ///
    /// Foreign numbers are taken; whether they are sent is for the worker's `SMS_OUTBOX_INTERNATIONAL` to say. A producer
    /// that wants to know beforehand asks [`Recipient::parse`] with [`ForeignNumbers::Refused`]. A number that is in the
    /// list twice is kept once.
    ///
    /// # Errors
    /// On the first field that could never be sent as it stands.
    pub fn new<T: AsRef<str>>(
        sender: &str,
        recipients: impl IntoIterator<Item = T>,
        body: &str,
        iys: Iys,
    ) -> Result<Self, MessageError> {
        let sender = Sender::parse(sender).map_err(MessageError::Sender)?;
        if sender.is_test() && iys.is_commercial() {
            return Err(MessageError::TestSenderWithIys);
        }
        let body = Body::parse(body).map_err(MessageError::Body)?;
        let parts = body.parts();
        if parts.exceeds_limit() {
            let least = parts.least;
            return Err(MessageError::Body(BodyError::TooLong { least }));
        }
        let RecipientList { accepted, rejected } =
            RecipientList::read(recipients, ForeignNumbers::Allowed);
        if let Some((index, reason)) = rejected.into_iter().next() {
            return Err(MessageError::Recipient { index, reason });
        }
        match accepted.len() {
            0 => return Err(MessageError::NoRecipients),
            count if count > MAX_RECIPIENTS => {
                return Err(MessageError::TooManyRecipients { count });
            }
            _ => {}
        }
        Ok(Self {
            id: None,
            account: "default".to_owned(),
            sender,
            recipients: accepted,
            body,
            iys,
            priority: Priority::NORMAL,
            due_at: None,
            expires_at: None,
            provider_send_at: None,
            idempotency_key: None,
            max_attempts: None,
            metadata: serde_json::Value::Object(serde_json::Map::new()),
            traceparent: None,
        })
    }

    /// Sets the id, for producers that need to know it before the insert. A time-ordered one (v7) keeps the index small.
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets which provider account pays and limits; `default` otherwise.
    ///
    /// # Errors
    /// When the name is blank or has more than 64 characters.
    pub fn with_account(mut self, account: impl Into<String>) -> Result<Self, MessageError> {
        let account = account.into();
        if account.trim().is_empty() || account.contains('\0') || is_longer(&account, 64) {
            return Err(MessageError::Account);
        }
        self.account = account;
        Ok(self)
    }

    /// Sets who goes first; [`Priority::NORMAL`] otherwise.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the moment before which it is not sent; at once otherwise.
    #[must_use]
    pub fn with_due_at(mut self, due_at: DateTime<Utc>) -> Self {
        self.due_at = Some(due_at);
        self
    }

    /// Sets the moment from which it is worthless and never sent; never otherwise.
    #[must_use]
    pub fn with_expires_at(mut self, expires_at: DateTime<Utc>) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// Hands the schedule to the provider: the order is placed when due and carries this moment, rounded up to the
    /// minute. [`with_due_at`](Self::with_due_at) is the safer way, because an order that was placed is hard to cancel.
    #[must_use]
    pub fn with_provider_send_at(mut self, provider_send_at: DateTime<Utc>) -> Self {
        self.provider_send_at = Some(provider_send_at);
        self
    }

    /// Sets the key that no other message of the account may have, also after this one has ended.
    ///
    /// # Errors
    /// When it is empty or has more than 255 characters.
    pub fn with_idempotency_key(mut self, key: impl Into<String>) -> Result<Self, MessageError> {
        let key = key.into();
        if key.is_empty() || key.contains('\0') || is_longer(&key, 255) {
            return Err(MessageError::IdempotencyKey);
        }
        self.idempotency_key = Some(key);
        Ok(self)
    }

    /// Sets how many requests may be tried before giving up; 15 otherwise.
    ///
    /// # Errors
    /// When it is 0 or more than a `smallint` holds (32767).
    pub fn with_max_attempts(mut self, max_attempts: u16) -> Result<Self, MessageError> {
        if i16::try_from(max_attempts).is_err() || max_attempts == 0 {
            return Err(MessageError::MaxAttempts(max_attempts));
        }
        self.max_attempts = Some(max_attempts);
        Ok(self)
    }

    /// Sets the producer's own data, which no worker reads; `{}` otherwise.
    ///
    /// # Errors
    /// When a string in it contains a NUL character, which `jsonb` cannot store.
    pub fn with_metadata(mut self, metadata: serde_json::Value) -> Result<Self, MessageError> {
        if contains_nul(&metadata) {
            return Err(MessageError::Metadata);
        }
        self.metadata = metadata;
        Ok(self)
    }

    /// Sets the W3C trace context (`00-<trace>-<parent>-<flags>`) that the worker's spans carry on.
    ///
    /// What is malformed is left out, as the W3C recommendation asks: it usually comes from somebody else's request, and
    /// a broken header is no reason to lose a message.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: &str) -> Self {
        self.traceparent = is_traceparent(traceparent).then(|| traceparent.to_owned());
        self
    }

    /// The id, if the producer chose one.
    #[must_use]
    pub const fn id(&self) -> Option<Uuid> {
        self.id
    }

    /// Which provider account pays and limits.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The approved header.
    #[must_use]
    pub const fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The numbers, at least one, each of them once.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// The text.
    #[must_use]
    pub const fn body(&self) -> &Body {
        &self.body
    }

    /// Whether it markets something.
    #[must_use]
    pub const fn iys(&self) -> Iys {
        self.iys
    }

    /// Who goes first.
    #[must_use]
    pub const fn priority(&self) -> Priority {
        self.priority
    }

    /// The moment before which it is not sent; `None`: at once.
    #[must_use]
    pub const fn due_at(&self) -> Option<DateTime<Utc>> {
        self.due_at
    }

    /// The moment from which it is never sent.
    #[must_use]
    pub const fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.expires_at
    }

    /// The moment that the provider is to send it at; `None`: when it gets it.
    #[must_use]
    pub const fn provider_send_at(&self) -> Option<DateTime<Utc>> {
        self.provider_send_at
    }

    /// The key that no other message of the account may have.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    /// How many requests may be tried; `None`: the table's default. Between 1 and 32767.
    #[must_use]
    pub const fn max_attempts(&self) -> Option<u16> {
        self.max_attempts
    }

    /// The producer's own data.
    #[must_use]
    pub const fn metadata(&self) -> &serde_json::Value {
        &self.metadata
    }

    /// The W3C trace context.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}

/// Shows what tells messages apart, and nothing that is personal: the numbers masked, of the text its length. A key and
/// the producer's own data may hold anything, so they stay out.
impl fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("NewMessage");
        shown
            .field("id", &self.id)
            .field("account", &self.account)
            .field("sender", &self.sender.as_str());
        match self.recipients.as_slice() {
            few if few.len() <= 3 => shown.field("recipients", &few),
            many => shown.field("recipients", &many.len()),
        };
        shown
            .field("body", &self.body)
            .field("iys", &self.iys)
            .field("priority", &self.priority.get())
            .field("due_at", &self.due_at)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Version 00 of the W3C recommendation: `00-`, 32 and 16 and 2 lower-case hexadecimal digits, neither id all zeros.
pub(crate) fn is_traceparent(text: &str) -> bool {
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part: &str, length: usize| is_hex(part, length) && part.bytes().any(|b| b != b'0');
    match text.split('-').collect::<Vec<_>>().as_slice() {
        ["00", trace, parent, flags] => is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2),
        _ => false,
    }
}

fn is_longer(text: &str, characters: usize) -> bool {
    text.chars().nth(characters).is_some()
}

fn contains_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(items) => items.iter().any(contains_nul),
        serde_json::Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains('\0') || contains_nul(value)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    const ONE: [&str; 1] = ["0532 123 45 67"];

    fn refusal(sender: &str, recipients: &[&str], body: &str, iys: Iys) -> (&'static str, String) {
        let error = NewMessage::new(sender, recipients, body, iys).unwrap_err();
        (error.field(), error.to_string())
    }

    #[test]
    fn a_sender_is_kept_exactly_or_refused_with_its_reason() {
        for text in [
            "A",
            "YOURBRAND",
            "Your Brand",
            "12345678901",
            " x ",
            "N11.COM",
            "APITEST",
        ] {
            assert_eq!(Sender::parse(text).unwrap().as_str(), text);
        }
        for (text, error) in [
            ("", SenderError::Blank),
            ("   ", SenderError::Blank),
            ("123456789012", SenderError::TooLong { characters: 12 }),
            ("ÇİÇEK", SenderError::Character('Ç')),
            ("brandş", SenderError::Character('ş')),
            ("tab\there", SenderError::Character('\t')),
            ("nul\0", SenderError::Character('\0')),
        ] {
            assert_eq!(Sender::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_body_is_kept_in_one_normal_form() {
        assert_eq!(Body::parse("s\u{327}g\u{306}").unwrap().as_str(), "şğ");
        assert_eq!(Body::parse(" line\r\n ").unwrap().as_str(), " line\r\n ");
        assert_eq!(Body::parse(""), Err(BodyError::Empty));
        assert_eq!(Body::parse("a\0b"), Err(BodyError::Nul));
        assert_eq!(
            format!("{:?}", Body::parse("kod: 1234").unwrap()),
            "Body(9 characters)"
        );
    }

    #[test]
    fn marketing_and_its_list_go_together() {
        for (iys, list, read) in [
            (false, None, Ok(Iys::Transactional)),
            (
                true,
                Some("BIREYSEL"),
                Ok(Iys::Commercial(IysList::Individual)),
            ),
            (true, Some("TACIR"), Ok(Iys::Commercial(IysList::Merchant))),
            (true, Some("TICARI"), Err(IysError::UnknownList)),
            (true, None, Err(IysError::ListMissing)),
            (false, Some("TACIR"), Err(IysError::ListWithoutIys)),
        ] {
            assert_eq!(Iys::from_columns(iys, list), read);
            if let Ok(read) = read {
                assert_eq!(
                    (read.is_commercial(), read.list().map(IysList::as_str)),
                    (iys, list)
                );
            }
        }
    }

    #[test]
    fn a_priority_is_0_to_3() {
        let named = [
            Priority::OTP,
            Priority::NORMAL,
            Priority::LOW,
            Priority::CAMPAIGN,
        ];
        for (number, priority) in (0i16..).zip(named) {
            assert_eq!(Priority::new(number), Ok(priority));
            assert_eq!(priority.get(), number);
        }
        assert!(Priority::new(-1).is_err() && Priority::new(4).is_err());
    }

    #[test]
    fn a_message_that_could_never_be_sent_names_its_field() {
        let marketing = Iys::Commercial(IysList::Individual);
        for (sender, recipients, body, iys, field, says) in [
            ("", &ONE[..], "hi", Iys::Transactional, "sender", "blank"),
            (
                "TWELVE CHARS",
                &ONE,
                "hi",
                Iys::Transactional,
                "sender",
                "11 are the most",
            ),
            ("BRAND", &[], "hi", Iys::Transactional, "recipients", "none"),
            (
                "BRAND",
                &["05321234567", "n/a"],
                "hi",
                Iys::Transactional,
                "recipients",
                "recipients[1]",
            ),
            ("BRAND", &ONE, "", Iys::Transactional, "body", "empty"),
            (
                "BRAND",
                &ONE,
                &"a".repeat(1074),
                Iys::Transactional,
                "body",
                "8 parts",
            ),
            ("APITEST", &ONE, "hi", marketing, "iys", "APITEST"),
        ] {
            let (at, said) = refusal(sender, recipients, body, iys);
            assert_eq!(at, field);
            assert!(said.contains(says), "{said}");
        }
        assert!(NewMessage::new("APITEST", ONE, "hi", Iys::Transactional).is_ok());
        assert!(NewMessage::new("BRAND", ONE, "hi", marketing).is_ok());
    }

    #[test]
    fn the_fifty_thousandth_recipient_fits_and_the_next_is_told_of_bulk() {
        let numbers: Vec<String> = (0..=MAX_RECIPIENTS)
            .map(|n| format!("0532{n:07}"))
            .collect();
        let new = |n| NewMessage::new("BRAND", &numbers[..n], "hi", Iys::Transactional);
        assert_eq!(
            new(MAX_RECIPIENTS).unwrap().recipients().len(),
            MAX_RECIPIENTS
        );
        let error = new(MAX_RECIPIENTS + 1).unwrap_err();
        assert!(error.to_string().contains("enqueue_bulk"), "{error}");
    }

    #[test]
    fn a_number_that_comes_twice_is_sent_to_once() {
        let list = RecipientList::read(
            [
                "05321234567",
                "x",
                "+49 171 1234567",
                "+90 532 123 45 67",
                "05331234567",
            ],
            ForeignNumbers::Allowed,
        );
        let accepted: Vec<_> = list.accepted.iter().map(Recipient::as_str).collect();
        assert_eq!(accepted, ["905321234567", "+491711234567", "905331234567"]);
        assert_eq!(list.rejected, [(1, RecipientError::Character('x'))]);
    }

    #[test]
    fn setters_refuse_what_the_table_would() {
        let message = || NewMessage::new("BRAND", ONE, "hi", Iys::Transactional).unwrap();
        let field = |result: Result<NewMessage, MessageError>| result.unwrap_err().field();
        assert_eq!(field(message().with_account(" ")), "account");
        assert_eq!(field(message().with_idempotency_key("")), "idempotency_key");
        assert_eq!(field(message().with_max_attempts(0)), "max_attempts");
        assert_eq!(field(message().with_max_attempts(40_000)), "max_attempts");
        assert_eq!(
            field(message().with_metadata(serde_json::json!({"a": ["\0"]}))),
            "metadata"
        );

        let now = DateTime::UNIX_EPOCH;
        let set = message()
            .with_id(Uuid::from_u128(7))
            .with_account("second")
            .and_then(|m| m.with_idempotency_key("order-1"))
            .and_then(|m| m.with_max_attempts(3))
            .and_then(|m| m.with_metadata(serde_json::json!({"order": 1})))
            .unwrap()
            .with_priority(Priority::OTP)
            .with_due_at(now)
            .with_expires_at(now + TimeDelta::minutes(3))
            .with_provider_send_at(now + TimeDelta::minutes(1));
        assert_eq!(set.id(), Some(Uuid::from_u128(7)));
        assert_eq!(set.account(), "second");
        assert_eq!(set.idempotency_key(), Some("order-1"));
        assert_eq!(set.max_attempts(), Some(3));
        assert_eq!(set.metadata()["order"], 1);
        assert_eq!(set.priority(), Priority::OTP);
        assert_eq!(set.due_at(), Some(now));
        assert_eq!(set.expires_at(), Some(now + TimeDelta::minutes(3)));
        assert_eq!(set.provider_send_at(), Some(now + TimeDelta::minutes(1)));
    }

    #[test]
    fn a_malformed_traceparent_is_left_out() {
        let with = |text| {
            let message = NewMessage::new("BRAND", ONE, "hi", Iys::Transactional).unwrap();
            message
                .with_traceparent(text)
                .traceparent()
                .map(str::to_owned)
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(with(good).as_deref(), Some(good));
        for bad in [
            "",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(with(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn nothing_shows_a_number_or_a_text() {
        let message = NewMessage::new("BRAND", ONE, "Your code is 998877", Iys::Transactional)
            .and_then(|m| m.with_idempotency_key("otp-905321234567"))
            .and_then(|m| m.with_metadata(serde_json::json!({"phone": "05321234567"})))
            .unwrap();
        let shown = format!(
            "{message:?} {:?}",
            RecipientList::read(ONE, ForeignNumbers::Refused)
        );
        assert!(shown.contains("90532•••••67"), "{shown}");
        for secret in ["5321234567", "123 45", "998877", "otp-"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
