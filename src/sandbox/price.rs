//! What a credit costs.

use std::fmt;
use std::str::FromStr;

/// What a credit costs: 1 where the account pays in credits, and a fraction of it where it pays in lira. Up to four decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Price {
    ten_thousandths: u64,
}

/// The text is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no price: write 1, 0.5 or 0.0372")]
pub struct PriceError(String);

impl Price {
    /// The price of so many credits, in ten-thousandths.
    pub fn of(self, credits: u64) -> u64 {
        credits.saturating_mul(self.ten_thousandths)
    }
}

impl Default for Price {
    fn default() -> Self {
        Price {
            ten_thousandths: 10_000,
        }
    }
}

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || PriceError(text.to_owned());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 4 {
            return Err(wrong());
        }
        format!("{whole}{decimals:0<4}")
            .parse()
            .map(|ten_thousandths| Price { ten_thousandths })
            .map_err(|_| wrong())
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.ten_thousandths / 10_000, self.ten_thousandths % 10_000);
        let text = format!("{whole}.{rest:04}");
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl TryFrom<String> for Price {
    type Error = PriceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Price> for String {
    fn from(price: Price) -> Self {
        price.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_read_and_shown_in_the_same_spelling() {
        for (text, of_three) in [
            ("1", 30_000),
            ("0.5", 15_000),
            ("0.0372", 1_116),
            ("10", 300_000),
        ] {
            let price: Price = text.parse().expect(text);
            assert_eq!((price.to_string().as_str(), price.of(3)), (text, of_three));
        }
        for wrong in ["", ".5", "1.", "0.00001", "-1", "0,5", "one"] {
            assert!(wrong.parse::<Price>().is_err(), "{wrong:?}");
        }
    }
}
