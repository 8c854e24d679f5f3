//! The duplicate guard: the same sender, recipient and text within a window is refused with 451.
//!
//! The provider says "a short window" (send-sms page) and, in its older pages, "within 10 minutes". Its start, its exact key and
//! what else arms it are not documented. Here the window runs from the acceptance and a refused repeat does not prolong it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

/// Which orders to several recipients count as a repeat. Not documented, so it can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// One recipient who already has this text from this sender is enough.
    #[default]
    Any,
    /// Only if every recipient already has it.
    All,
}

/// What the guard remembers of one recipient of one text. 64 bits: among ten million orders within a window, the chance of one
/// false 451 is about 3 in a million.
pub type GuardKey = u64;

/// One key per recipient. Numbers are compared in their one spelling, sender and text byte by byte.
pub fn guard_keys(sender: &str, text: &str, numbers: &[String]) -> Vec<GuardKey> {
    let mut common = DefaultHasher::new();
    (sender, text).hash(&mut common);
    let key = |number: &String| {
        let mut one = common.clone();
        number.hash(&mut one);
        one.finish()
    };
    numbers.iter().map(key).collect()
}

/// The guard of one account. Times are microseconds on a clock that never goes back.
#[derive(Debug, Default)]
pub struct Guard {
    accepted_at: HashMap<GuardKey, i64, BuildHasherDefault<AlreadyHashed>>,
    /// The same entries, oldest first, so that forgetting costs no search.
    by_age: VecDeque<(i64, GuardKey)>,
}

impl Guard {
    /// Would an order with these keys be refused with 451 at `now`?
    pub fn refuses(&self, keys: &[GuardKey], now: i64, window: i64, overlap: Overlap) -> bool {
        let stands = |key: &GuardKey| {
            self.accepted_at
                .get(key)
                .is_some_and(|at| now - at < window)
        };
        match overlap {
            Overlap::Any => keys.iter().any(stands),
            Overlap::All => !keys.is_empty() && keys.iter().all(stands),
        }
    }

    /// Remembers an order, and forgets those whose window has passed.
    pub fn arm(&mut self, keys: &[GuardKey], now: i64, window: i64) {
        while let Some(&(at, key)) = self.by_age.front().filter(|(at, _)| now - at >= window) {
            self.by_age.pop_front();
            // The entry may have been renewed since; the newer one stays.
            if self.accepted_at.get(&key) == Some(&at) {
                self.accepted_at.remove(&key);
            }
        }
        if window <= 0 {
            return;
        }
        for &key in keys {
            if self.accepted_at.insert(key, now) != Some(now) {
                self.by_age.push_back((now, key));
            }
        }
    }
}

/// Keys come out of a hash already; hashing them again would only cost time.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: i64 = 600;

    fn keys(sender: &str, text: &str, numbers: &[&str]) -> Vec<GuardKey> {
        let numbers: Vec<String> = numbers.iter().map(|n| (*n).to_owned()).collect();
        guard_keys(sender, text, &numbers)
    }

    #[test]
    fn the_guard_stands_for_the_window_and_not_a_moment_longer() {
        let mut guard = Guard::default();
        let order = keys("SANDBOX", "hello", &["905321234567"]);
        guard.arm(&order, 1_000, WINDOW);
        assert!(guard.refuses(&order, 1_000, WINDOW, Overlap::Any));
        assert!(guard.refuses(&order, 1_599, WINDOW, Overlap::Any));
        assert!(!guard.refuses(&order, 1_600, WINDOW, Overlap::Any));
    }

    #[test]
    fn another_sender_text_or_recipient_is_another_order() {
        let mut guard = Guard::default();
        guard.arm(&keys("SANDBOX", "hello", &["905321234567"]), 0, WINDOW);
        for other in [
            keys("OTHER", "hello", &["905321234567"]),
            keys("SANDBOX", "hello ", &["905321234567"]),
            keys("SANDBOX", "hello", &["905321234568"]),
            keys("SANDBOXh", "ello", &["905321234567"]),
        ] {
            assert!(!guard.refuses(&other, 1, WINDOW, Overlap::Any));
        }
    }

    #[test]
    fn orders_to_several_recipients_overlap_as_chosen() {
        let mut guard = Guard::default();
        guard.arm(&keys("SANDBOX", "hello", &["1", "2"]), 0, WINDOW);
        let one_of_them = keys("SANDBOX", "hello", &["2", "3"]);
        let both = keys("SANDBOX", "hello", &["2", "1"]);
        assert!(guard.refuses(&one_of_them, 1, WINDOW, Overlap::Any));
        assert!(!guard.refuses(&one_of_them, 1, WINDOW, Overlap::All));
        assert!(guard.refuses(&both, 1, WINDOW, Overlap::All));
        assert!(!guard.refuses(&[], 1, WINDOW, Overlap::All));
    }

    #[test]
    fn what_has_passed_is_forgotten() {
        let mut guard = Guard::default();
        for second in 0..10_000 {
            guard.arm(&[second], i64::try_from(second).expect("small"), WINDOW);
        }
        assert_eq!(guard.accepted_at.len(), 600);
        assert_eq!(guard.by_age.len(), 600);
    }

    #[test]
    fn a_renewed_entry_outlives_its_first_window() {
        let mut guard = Guard::default();
        guard.arm(&[7], 0, WINDOW);
        guard.arm(&[7], 600, WINDOW);
        guard.arm(&[8], 700, WINDOW);
        assert!(guard.refuses(&[7], 1_199, WINDOW, Overlap::Any));
    }

    #[test]
    fn a_window_of_zero_switches_the_guard_off() {
        let mut guard = Guard::default();
        guard.arm(&[7], 0, 0);
        assert!(!guard.refuses(&[7], 0, 0, Overlap::Any));
        assert!(guard.by_age.is_empty());
    }
}
