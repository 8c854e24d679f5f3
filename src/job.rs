//! What a row says of its job, as types: where it stands, on the phone too, what kind of failure it met, the provider's number
//! for it.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// What became of a message: [`find_job`](crate::find_job) reads it. It holds no number and no text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// As [`enqueue`](crate::enqueue) returned it.
    pub id: Uuid,
    /// The account that pays.
    pub account: String,
    /// The key that the producer gave it.
    pub idempotency_key: Option<String>,
    /// What it shares with the other jobs of one [`Bulk`](crate::Bulk).
    pub batch_id: Option<Uuid>,
    /// Where it stands.
    pub status: Status,
    /// How many attempts it has spent.
    pub attempt: i16,
    /// The provider's number for it. A sent job has none where a duplicate refusal proved that it was taken, until it is found.
    pub order_id: Option<OrderId>,
    /// Sent, as the provider's duplicate guard (451) says: an earlier request, or a message of equal content, was taken.
    pub duplicate: bool,
    /// The other job of ours with equal content that was taken, where it is known.
    pub duplicate_of: Option<Uuid>,
    /// The class of its last failure.
    pub error_class: Option<ErrorClass>,
    /// The provider's number for that, where it gave one.
    pub error_code: Option<i32>,
    /// What happened and what helps, in a sentence.
    pub error_message: Option<String>,
    /// When it was inserted.
    pub created_at: DateTime<Utc>,
    /// When the provider took it. Nothing is said about phones.
    pub sent_at: Option<DateTime<Utc>>,
    /// What became of it on the phone. `None`: it is not sent, or there is no word yet.
    pub delivery: Option<DeliveryStatus>,
    /// When the last word came that it was delivered, at least to some of its recipients.
    pub delivered_at: Option<DateTime<Utc>>,
    /// What the provider says that it cost, in the unit of the account, with a decimal point.
    pub price: Option<String>,
    /// When it came to its end.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Where a job stands. The text form is what `sms_outbox.jobs.status` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Put there by the insert or a retry; a worker claims it when `due_at` has come.
    Queued,
    /// Put there by a claim that is committed before the request leaves; the answer moves it on, or the end of its lease.
    Sending,
    /// The provider took it (200), or had taken it already (451). Final.
    Sent,
    /// The provider refused its list because of numbers in it; what is sent on are jobs of their own. Final.
    Split,
    /// A permanent refusal, attempts used up, or bad data. Nothing moves it on but a person's `retry`.
    Failed,
    /// It may have been taken, nobody learnt the answer, and it is too old to repeat safely. Reconciliation or a person
    /// moves it on.
    Uncertain,
    /// `expires_at` passed before it was taken. Final.
    Expired,
    /// Someone cancelled it while it was queued. Final.
    Cancelled,
}

impl Status {
    /// Every status, in the order of a job's life.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Sending,
        Self::Sent,
        Self::Split,
        Self::Failed,
        Self::Uncertain,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The text that the database holds.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Split => "split",
            Self::Failed => "failed",
            Self::Uncertain => "uncertain",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether no worker will ever touch the job again. `uncertain` is not final: reconciliation or a person resolves it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Sent | Self::Split | Self::Failed | Self::Expired | Self::Cancelled => true,
            Self::Queued | Self::Sending | Self::Uncertain => false,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is none of the known values of `what`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}; known: {known}")]
pub struct UnknownValue {
    /// What was expected, for the sentence.
    pub what: &'static str,
    /// What was found.
    pub text: String,
    /// What would have been understood, separated by commas.
    pub known: String,
}

impl FromStr for Status {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownValue {
                what: "status",
                text: text.to_owned(),
                known: Self::ALL.map(Self::as_str).join(", "),
            })
    }
}

/// What became of a sent message on the way to the phone. The text form is what `sms_outbox.deliveries.status` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeliveryStatus {
    /// The provider works on it; some of its numbers may be decided.
    Pending,
    /// Every recipient's phone has it.
    Delivered,
    /// Every recipient is decided, some have it.
    Partly,
    /// Every recipient is decided, none has it.
    Undelivered,
    /// The provider accepted the order and then did not dispatch it.
    Refused,
    /// We cancelled it at the provider before its time.
    Cancelled,
    /// No final word within the horizon. Late news still counts.
    Unknown,
}

impl DeliveryStatus {
    /// All of them, as people read them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Delivered,
        Self::Partly,
        Self::Undelivered,
        Self::Refused,
        Self::Cancelled,
        Self::Unknown,
    ];

    /// The text that the database holds.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Partly => "partly",
            Self::Undelivered => "undelivered",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }

    /// Whether nothing is asked about it any more. Better evidence moves it on all the same.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Delivered
            | Self::Partly
            | Self::Undelivered
            | Self::Refused
            | Self::Cancelled => true,
            Self::Pending | Self::Unknown => false,
        }
    }
}

impl fmt::Display for DeliveryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DeliveryStatus {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|delivery| delivery.as_str() == text)
            .ok_or_else(|| UnknownValue {
                what: "delivery",
                text: text.to_owned(),
                known: Self::ALL.map(Self::as_str).join(", "),
            })
    }
}

/// The class of a failure: it tells what has to be fixed, the account, the sender, the job, or nothing. The text form is
/// `sms_outbox.jobs.error_class`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorClass {
    /// Credentials, API switch or address list: the account pauses.
    Auth,
    /// The account's balance is too low: it pauses.
    Balance,
    /// Any other failure of the account or of the configured address: it pauses.
    Account,
    /// The header: not approved (that sender pauses), or malformed (the job fails).
    Sender,
    /// No number that could be read, or the provider refuses the numbers.
    Recipients,
    /// The text: empty, or more than seven parts.
    Content,
    /// The consent flag or list does not fit.
    Iys,
    /// The provider-side schedule cannot be read.
    Schedule,
    /// The request as a whole was refused.
    Request,
    /// Too many requests: everybody waits.
    RateLimited,
    /// The provider is unavailable.
    Unavailable,
    /// Connection refused, name lookup, TLS, reset.
    Network,
    /// No answer in time.
    Timeout,
    /// A code or a reply that nobody has described.
    Unknown,
}

impl ErrorClass {
    /// Every class.
    pub const ALL: [Self; 14] = [
        Self::Auth,
        Self::Balance,
        Self::Account,
        Self::Sender,
        Self::Recipients,
        Self::Content,
        Self::Iys,
        Self::Schedule,
        Self::Request,
        Self::RateLimited,
        Self::Unavailable,
        Self::Network,
        Self::Timeout,
        Self::Unknown,
    ];

    /// The text that the database holds.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Balance => "balance",
            Self::Account => "account",
            Self::Sender => "sender",
            Self::Recipients => "recipients",
            Self::Content => "content",
            Self::Iys => "iys",
            Self::Schedule => "schedule",
            Self::Request => "request",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ErrorClass {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| UnknownValue {
                what: "error class",
                text: text.to_owned(),
                known: Self::ALL.map(Self::as_str).join(", "),
            })
    }
}

/// The provider's number for an order it took, as text: today about nine digits, never promised to fit a machine integer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OrderId(String);

impl OrderId {
    /// Takes 1 to 64 digits; anything else is no order id, whoever says it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| Self(text.to_owned()))
    }

    /// The text as stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_value_is_written_as_it_is_read() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        for class in ErrorClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
        }
        for delivery in DeliveryStatus::ALL {
            assert_eq!(delivery.as_str().parse(), Ok(delivery));
        }
        assert!("whatever".parse::<DeliveryStatus>().is_err());
        assert!("whatever".parse::<Status>().is_err() && "whatever".parse::<ErrorClass>().is_err());
    }

    #[test]
    fn an_order_id_is_digits_and_not_many() {
        for (text, taken) in [
            ("312891245", true),
            ("a-B_9", false),
            ("-1", false),
            ("٣", false),
            (&"9".repeat(64), true),
            ("", false),
            ("3 1", false),
            ("ş", false),
            ("1\n", false),
            (&"9".repeat(65), false),
        ] {
            assert_eq!(OrderId::parse(text).is_some(), taken, "{text:?}");
        }
    }
}
