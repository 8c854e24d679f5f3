//! Lengths of time as a person types them: `250ms`, `2s`, `10m`, and ranges such as `10ms-50ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time that is either fixed or drawn anew for each request, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    shortest: Duration,
    longest: Duration,
}

/// The text is not a length of time; the message says what would be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a length of time: write 250ms, 2s, 10m, or a range such as 10ms-50ms")]
pub struct SpanError(String);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span::fixed(Duration::ZERO);

    /// The same length every time.
    pub const fn fixed(length: Duration) -> Self {
        Span {
            shortest: length,
            longest: length,
        }
    }

    /// Any length between the two; the order in which they are given does not matter.
    pub fn between(one: Duration, other: Duration) -> Self {
        Span {
            shortest: one.min(other),
            longest: one.max(other),
        }
    }

    /// Is there nothing to wait for?
    pub fn is_zero(&self) -> bool {
        self.longest.is_zero()
    }

    /// The length at `fraction` (0 to 1) of the way from the shortest to the longest.
    pub fn at(&self, fraction: f64) -> Duration {
        let width = self.longest - self.shortest;
        self.shortest + width.mul_f64(fraction.clamp(0.0, 1.0))
    }
}

/// Reads `250ms`, `2s`, `10m` or `1h`. The unit is required, because a bare number would be guessed wrong by half the readers.
pub fn parse_duration(text: &str) -> Result<Duration, SpanError> {
    let wrong = || SpanError(text.to_owned());
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let count: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let millis_each = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    count
        .checked_mul(millis_each)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

/// The shortest spelling that [`parse_duration`] reads back; whole milliseconds only.
pub fn show_duration(length: Duration) -> String {
    let millis = length.as_millis();
    match millis {
        0 => "0ms".to_owned(),
        m if m % 3_600_000 == 0 => format!("{}h", m / 3_600_000),
        m if m % 60_000 == 0 => format!("{}m", m / 60_000),
        m if m % 1_000 == 0 => format!("{}s", m / 1_000),
        m => format!("{m}ms"),
    }
}

/// A length of time as the clocks of the sandbox count it.
pub(super) fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('-') {
            None => parse_duration(text).map(Span::fixed),
            Some((one, other)) => Ok(Span::between(parse_duration(one)?, parse_duration(other)?)),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_duration(self.shortest))?;
        if self.longest != self.shortest {
            write!(f, "-{}", show_duration(self.longest))?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// A [`Duration`] in JSON, spelled as on the command line.
pub(super) mod spelled {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(length: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::show_duration(*length))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_duration(&text).map_err(serde::de::Error::custom)
    }
}

/// A list of them.
pub(super) mod spelled_list {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(lengths: &[Duration], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(lengths.iter().map(|length| super::show_duration(*length)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let lengths = texts.iter().map(|text| super::parse_duration(text));
        lengths
            .collect::<Result<_, _>>()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_read_and_shown_in_the_same_spelling() {
        for text in ["0ms", "250ms", "2s", "10m", "1h", "10ms-50ms", "1s-2s"] {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn a_length_of_time_without_a_unit_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "10ms-",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_range_gives_both_its_ends_and_what_lies_between() {
        let span: Span = "10ms-50ms".parse().expect("a range");
        assert_eq!(span.at(0.0), Duration::from_millis(10));
        assert_eq!(span.at(0.5), Duration::from_millis(30));
        assert_eq!(span.at(1.0), Duration::from_millis(50));
    }
}
