//! What is made of measurements: percentiles, medians, the fullest second. Pure.

use serde::{Serialize, Serializer, ser::SerializeMap};

const SECOND_US: i64 = 1_000_000;

/// Named numbers, in the order in which they are to be shown. A name says its unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(Vec<(&'static str, f64)>);

impl Figures {
    /// Adds one; `None` was not to be had, and is left out.
    pub fn push(&mut self, name: &'static str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into().filter(|value| value.is_finite()) {
            self.0.push((name, value));
        }
    }

    /// Adds one.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Option<f64>>) -> Self {
        self.push(name, value);
        self
    }

    /// The number of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.0.iter().copied()
    }

    /// The median of each, over the rounds that have it.
    #[must_use]
    pub fn medians(rounds: &[Self]) -> Self {
        let mut medians = Self::default();
        for (name, _) in rounds.iter().flat_map(Self::iter) {
            if medians.get(name).is_none() {
                let values: Vec<f64> = rounds.iter().filter_map(|round| round.get(name)).collect();
                medians.push(name, median(&values));
            }
        }
        medians
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.iter() {
            // Three places are more than any of them is good for.
            map.serialize_entry(name, &((value * 1_000.0).round() / 1_000.0))?;
        }
        map.end()
    }
}

/// The middle one, or the mean of the two in the middle.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted
        .get(middle.checked_sub(1)?)
        .map(|lower| f64::midpoint(*lower, upper))
}

/// The smallest value that at least `percent` of all do not exceed (nearest rank): a value that was really measured.
#[must_use]
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank between 0 and a number of measurements"
    )]
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// When something arrived (microseconds), and for how many recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Microseconds since 1970.
    pub at_us: i64,
    /// Recipients.
    pub recipients: u64,
}

/// The recipients of the closed second that ends at each arrival, in order of time. Two arrivals exactly a second apart are in
/// the same one: the strictest reading of "so many in any second".
#[must_use]
pub fn seconds_until_each(arrivals: &[Arrival]) -> Vec<(i64, u64)> {
    let mut sorted = arrivals.to_vec();
    sorted.sort_by_key(|arrival| arrival.at_us);
    let mut oldest = 0;
    let mut sum = 0;
    sorted
        .iter()
        .map(|arrival| {
            sum += arrival.recipients;
            while arrival.at_us - sorted[oldest].at_us > SECOND_US {
                sum -= sorted[oldest].recipients;
                oldest += 1;
            }
            (arrival.at_us, sum)
        })
        .collect()
}

/// The most recipients in any one closed second.
#[must_use]
pub fn fullest_second(arrivals: &[Arrival]) -> u64 {
    let sums = seconds_until_each(arrivals);
    sums.into_iter().map(|(_, sum)| sum).max().unwrap_or(0)
}

/// Recipients in each `width_us` from the first arrival on, empty stretches included.
#[must_use]
pub fn per_stretch(arrivals: &[Arrival], width_us: i64) -> Vec<u64> {
    let Some(first) = arrivals.iter().map(|arrival| arrival.at_us).min() else {
        return Vec::new();
    };
    let mut counts = Vec::new();
    for arrival in arrivals {
        let at = usize::try_from((arrival.at_us - first) / width_us).unwrap_or(0);
        if counts.len() <= at {
            counts.resize(at + 1, 0);
        }
        counts[at] += arrival.recipients;
    }
    counts
}

/// A count or a size, to be shown with a few digits.
#[expect(clippy::cast_precision_loss, reason = "exact up to nine petabytes")]
#[must_use]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(at: &[(i64, u64)]) -> Vec<Arrival> {
        at.iter()
            .map(|&(at_us, recipients)| Arrival { at_us, recipients })
            .collect()
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (values, percent, expected) in [
            (hundred.as_slice(), 50.0, Some(50.0)),
            (&hundred, 95.0, Some(95.0)),
            (&hundred, 99.0, Some(99.0)),
            (&hundred, 100.0, Some(100.0)),
            (&hundred, 0.0, Some(1.0)),
            (&[7.0], 99.0, Some(7.0)),
            (&[3.0, 1.0], 50.0, Some(1.0)),
            (&[3.0, 1.0], 51.0, Some(3.0)),
            (&[], 50.0, None),
        ] {
            assert_eq!(
                percentile(values, percent),
                expected,
                "{percent} of {values:?}"
            );
        }
    }

    #[test]
    fn a_median_lies_in_the_middle() {
        for (values, expected) in [
            (vec![], None),
            (vec![4.0], Some(4.0)),
            (vec![9.0, 1.0, 5.0], Some(5.0)),
            (vec![4.0, 1.0, 2.0, 100.0], Some(3.0)),
        ] {
            assert_eq!(median(&values), expected, "{values:?}");
        }
    }

    #[test]
    fn medians_are_taken_figure_by_figure_and_keep_their_order() {
        let round =
            |rate: f64, cpu: Option<f64>| Figures::default().with("rate", rate).with("cpu", cpu);
        let medians = Figures::medians(&[
            round(3.0, None),
            round(1.0, Some(8.0)),
            round(2.0, Some(10.0)),
        ]);
        let expected = Figures::default().with("rate", 2.0).with("cpu", 9.0);
        assert_eq!(medians, expected);
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        assert_eq!(
            Figures::default().with("rate", 1.0 / 0.0),
            Figures::default()
        );
    }

    #[test]
    fn the_fullest_second_may_begin_anywhere_and_includes_both_its_ends() {
        for (at, expected) in [
            (vec![], 0),
            (vec![(0, 5)], 5),
            (vec![(900_000, 99), (1_100_000, 99)], 198),
            (vec![(0, 1), (1_000_000, 1)], 2),
            (vec![(0, 1), (1_000_001, 1)], 1),
            // Not in order: two connections.
            (vec![(2_500_000, 4), (0, 3), (2_000_000, 2)], 6),
        ] {
            assert_eq!(fullest_second(&arrivals(&at)), expected, "{at:?}");
        }
    }

    #[test]
    fn empty_stretches_are_counted_too() {
        let at = arrivals(&[(105_000, 1), (100_000, 2), (131_000, 4)]);
        assert_eq!(per_stretch(&at, 10_000), [3, 0, 0, 4]);
        assert_eq!(per_stretch(&[], 10_000), Vec::<u64>::new());
    }
}
