//! Counting recipients: how many came within any one second, and how many bulk orders were in flight at once.

use std::collections::VecDeque;

const SECOND: i64 = 1_000_000;

/// Sums what arrived during the last second, and keeps the largest sum there ever was.
///
/// A second is closed here: two arrivals exactly 1,000,000 microseconds apart are still in the same one. That is the strictest
/// reading of "100 SMS per second, counted in recipients" (provider documentation, send-sms page, rate limits).
#[derive(Debug, Default)]
pub struct SlidingSecond {
    recent: VecDeque<(i64, u64)>,
    sum: u64,
    largest: u64,
}

impl SlidingSecond {
    /// Adds `count` at `now` (microseconds) and returns the sum of the second that ends there. A time before the latest one, as two
    /// threads may produce, counts as the latest.
    pub fn add(&mut self, now: i64, count: u64) -> u64 {
        let now = self
            .recent
            .back()
            .map_or(now, |(latest, _)| now.max(*latest));
        while let Some((_, old)) = self
            .recent
            .front()
            .copied()
            .filter(|(at, _)| now - at > SECOND)
        {
            self.recent.pop_front();
            self.sum -= old;
        }
        self.recent.push_back((now, count));
        self.sum += count;
        self.largest = self.largest.max(self.sum);
        self.sum
    }

    /// The largest sum of any second so far.
    pub fn largest(&self) -> u64 {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_second_may_lie_across_two_calendar_seconds() {
        let mut meter = SlidingSecond::default();
        meter.add(900_000, 99);
        assert_eq!(meter.add(1_100_000, 99), 198);
        assert_eq!(meter.add(3_000_000, 1), 1);
        assert_eq!(meter.largest(), 198);
    }

    #[test]
    fn a_second_includes_both_its_ends() {
        let mut meter = SlidingSecond::default();
        meter.add(0, 1);
        assert_eq!(meter.add(SECOND, 1), 2);
        assert_eq!(meter.add(SECOND + 1, 1), 2);
    }

    #[test]
    fn an_arrival_out_of_order_counts_as_the_latest() {
        let mut meter = SlidingSecond::default();
        meter.add(1_000, 1);
        assert_eq!(meter.add(999, 1), 2);
    }
}
