//! What becomes of an accepted message, and when: drawn from the seed, so that a run can be repeated and nothing has to be remembered.

use std::fmt;
use std::str::FromStr;

use super::dice::lot;
use super::span::{Span, micros};

/// How a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It reaches the phone: 111.
    Delivered,
    /// It does not: 112.
    Undelivered,
    /// Nothing is ever heard of it: it stays 110, and its order 113.
    Never,
}

/// Which share of the messages ends how, written `undelivered@0.04,never@0.01`; what is left over is delivered. `refused@0.01` is a
/// share of the orders: they are accepted, and afterwards the provider does not dispatch them (115).
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeliveryShares {
    /// Messages that end undelivered, 0 to 1.
    pub undelivered: f64,
    /// Messages that never end, 0 to 1.
    pub never: f64,
    /// Orders that are refused after they were accepted, 0 to 1.
    pub refused: f64,
}

/// The text does not say which share ends how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// A part of it cannot be read.
    #[error(
        "{0:?} is not one of delivered@SHARE, undelivered@SHARE, never@SHARE and refused@SHARE, each once and between 0 and 1"
    )]
    Share(String),
    /// The shares of the messages are no whole.
    #[error(
        "delivered, undelivered and never are shares of the same messages: together they are 1, or less if delivered is left out"
    )]
    Sum,
}

impl FromStr for DeliveryShares {
    type Err = DeliveryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut delivered, mut undelivered, mut never, mut refused) = (None, None, None, None);
        for part in text.split(',') {
            let wrong = || DeliveryError::Share(part.to_owned());
            let (name, share) = match part.trim().split_once('@') {
                Some((name, share)) => (name, share.parse().map_err(|_| wrong())?),
                None => (part.trim(), 1.0),
            };
            let slot = match name {
                "delivered" => &mut delivered,
                "undelivered" => &mut undelivered,
                "never" => &mut never,
                "refused" => &mut refused,
                _ => return Err(wrong()),
            };
            if slot.is_some() || !(0.0..=1.0).contains(&share) {
                return Err(wrong());
            }
            *slot = Some(share);
        }
        let shares = DeliveryShares {
            undelivered: undelivered.unwrap_or(0.0),
            never: never.unwrap_or(0.0),
            refused: refused.unwrap_or(0.0),
        };
        // Tenths and hundredths do not add up exactly.
        let left = 1.0 - shares.undelivered - shares.never;
        if left < -1e-9 || delivered.is_some_and(|given: f64| (given - left).abs() > 1e-9) {
            return Err(DeliveryError::Sum);
        }
        Ok(shares)
    }
}

impl fmt::Display for DeliveryShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares = [
            ("undelivered", self.undelivered),
            ("never", self.never),
            ("refused", self.refused),
        ];
        let given: Vec<String> = shares
            .into_iter()
            .filter(|(_, share)| *share > 0.0)
            .map(|(name, share)| format!("{name}@{share}"))
            .collect();
        if given.is_empty() {
            return f.write_str("delivered");
        }
        f.write_str(&given.join(","))
    }
}

impl TryFrom<String> for DeliveryShares {
    type Error = DeliveryError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeliveryShares> for String {
    fn from(shares: DeliveryShares) -> Self {
        shares.to_string()
    }
}

/// What is drawn for the messages of one order. It is fixed when the order is accepted: what was said of a message once is not
/// taken back because somebody changes the settings.
#[derive(Debug, Clone, Copy)]
pub struct Lots {
    /// The sandbox's seed.
    pub seed: u64,
    /// Which share ends how.
    pub shares: DeliveryShares,
    /// How long after it was sent a message is final.
    pub delay: Span,
}

/// What a lot is about, so that no two questions share one.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
enum Question {
    Fate = 1,
    Delay = 2,
    Refused = 3,
}

impl Lots {
    /// How this message of this order ends.
    pub fn fate(&self, order_id: u64, index: usize) -> Fate {
        let lot = self.lot(order_id, index, Question::Fate);
        if lot < self.shares.undelivered {
            Fate::Undelivered
        } else if lot < self.shares.undelivered + self.shares.never {
            Fate::Never
        } else {
            Fate::Delivered
        }
    }

    /// How long after it was sent this message is final, in microseconds.
    pub fn delay(&self, order_id: u64, index: usize) -> i64 {
        micros(self.delay.at(self.lot(order_id, index, Question::Delay)))
    }

    /// After that time every message that ends at all has ended, in microseconds.
    pub fn longest_delay(&self) -> i64 {
        micros(self.delay.at(1.0))
    }

    /// How long after it was due the order turns out not to be dispatched, in microseconds; `None` if it is.
    pub fn refused_after(&self, order_id: u64) -> Option<i64> {
        let refused = self.lot(order_id, 0, Question::Refused) < self.shares.refused;
        refused.then(|| self.delay(order_id, 0))
    }

    fn lot(&self, order_id: u64, index: usize, question: Question) -> f64 {
        let index = u64::try_from(index).unwrap_or(u64::MAX);
        lot(self.seed, [order_id, index, question as u64])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shares(text: &str) -> DeliveryShares {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn shares_are_read_and_shown_in_the_same_spelling() {
        for text in [
            "delivered",
            "undelivered@0.04,never@0.01",
            "undelivered@1",
            "never@0.5,refused@0.25",
            "refused@0.01",
        ] {
            assert_eq!(shares(text).to_string(), text);
        }
        assert_eq!(
            shares("delivered@0.95, undelivered@0.04, never@0.01"),
            shares("undelivered@0.04,never@0.01")
        );
        assert_eq!(shares("never"), shares("never@1"));
    }

    #[test]
    fn shares_that_are_no_whole_are_refused() {
        for text in [
            "",
            "lost@0.1",
            "never@1.1",
            "never@-1",
            "never@NaN",
            "never@0.1,never@0.1",
            "delivered@0.9,never@0.2",
            "delivered@0.5",
            "undelivered@0.6,never@0.6",
        ] {
            assert!(text.parse::<DeliveryShares>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn messages_end_in_the_given_shares_at_moments_that_are_drawn() {
        let lots = Lots {
            seed: 1,
            shares: shares("undelivered@0.2,never@0.1,refused@0.5"),
            delay: "1s-20s".parse().expect("a span"),
        };
        let fates: Vec<Fate> = (0..10_000).map(|index| lots.fate(100, index)).collect();
        let share = |fate: Fate| fates.iter().filter(|f| **f == fate).count();
        assert!((1_850..2_150).contains(&share(Fate::Undelivered)));
        assert!((870..1_130).contains(&share(Fate::Never)));
        let delays: Vec<i64> = (0..1_000).map(|index| lots.delay(100, index)).collect();
        assert!(
            delays
                .iter()
                .all(|delay| (1_000_000..=20_000_000).contains(delay))
        );
        assert!(delays.windows(2).any(|two| two[0] != two[1]));
        let refused = (0..1_000)
            .filter(|order| lots.refused_after(*order).is_some())
            .count();
        assert!((430..570).contains(&refused), "{refused} of 1,000");
        assert_eq!(lots.longest_delay(), micros(Duration::from_secs(20)));
    }

    #[test]
    fn without_shares_every_message_is_delivered() {
        let lots = Lots {
            seed: 1,
            shares: DeliveryShares::default(),
            delay: Span::ZERO,
        };
        assert!((0..1_000).all(|index| lots.fate(1, index) == Fate::Delivered));
        assert!((0..1_000).all(|order| lots.refused_after(order).is_none()));
    }
}
