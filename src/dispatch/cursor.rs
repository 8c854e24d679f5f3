//! From where scans read on, and when they look at everything.

use std::time::{Duration, Instant};

/// A claim may be committed so long after it began, and its lease then appears behind the cursor.
const LATE_CLAIMS: Duration = Duration::from_secs(5);

/// Full sweeps may take this share of the time.
const SHARE: u32 = 20;
/// And this share where they would otherwise be rarer than a due job may wait.
const LARGEST_SHARE: u32 = 4;

/// Up to where expired leases have been recovered: they expire in the order of the index, so the next scan starts where the
/// last one ended.
#[derive(Debug)]
pub(super) struct LeaseCursor {
    /// All leases that had expired at this moment are recovered.
    clear: Option<Instant>,
    full_sweep: FullSweep,
}

impl LeaseCursor {
    pub(super) const fn new() -> Self {
        Self {
            clear: None,
            full_sweep: FullSweep::new(LATE_CLAIMS),
        }
    }

    /// How far back a scan at this moment has to go; `None`: to the beginning.
    pub(super) fn reach(&self, now: Instant) -> Option<Duration> {
        let clear = self.clear.filter(|_| !self.full_sweep.is_due(now))?;
        Some(now - clear + LATE_CLAIMS)
    }

    /// A scan that went back so far has ended, and what it found is recovered.
    pub(super) fn looked(&mut self, reach: Option<Duration>, began: Instant, ended: Instant) {
        self.clear = Some(began);
        if reach.is_none() {
            self.full_sweep.took(began, ended);
        }
    }
}

/// When the next full sweep is due, so that sweeps take a twentieth of the time.
#[derive(Debug)]
pub(super) struct FullSweep {
    due: Option<Instant>,
    longest: Duration,
}

impl FullSweep {
    pub(super) const fn new(longest: Duration) -> Self {
        Self { due: None, longest }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    pub(super) fn took(&mut self, began: Instant, ended: Instant) {
        let time = ended - began;
        let rest = (time * SHARE).min(self.longest.max(time * LARGEST_SHARE));
        self.due = Some(ended + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(500);

    #[test]
    fn looking_at_everything_takes_a_twentieth_of_the_time_and_is_not_put_off_for_long() {
        let began = Instant::now();
        let ms = Duration::from_millis;
        for (took, rest) in [
            (0, 0),
            (2, 40),
            (20, 400),
            (40, 500),
            (100, 500),
            (300, 1_200),
        ] {
            let mut full_sweep = FullSweep::new(LONGEST);
            assert!(full_sweep.is_due(began), "the first is due at once");
            full_sweep.took(began, began + ms(took));
            let due = began + ms(took + rest);
            assert!(full_sweep.is_due(due), "{took}");
            assert!(rest == 0 || !full_sweep.is_due(due - ms(1)), "{took}");
        }
    }

    #[test]
    fn leases_are_looked_at_from_where_the_last_look_ended_with_a_margin() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut cursors = LeaseCursor::new();
        assert_eq!(cursors.reach(began), None);
        cursors.looked(None, began, at(100));
        assert_eq!(
            cursors.reach(at(1_000)),
            Some(at(1_000) - began + LATE_CLAIMS)
        );
        cursors.looked(cursors.reach(at(1_000)), at(1_000), at(1_001));
        assert_eq!(
            cursors.reach(at(1_500)),
            Some(at(500) - began + LATE_CLAIMS)
        );
        assert_eq!(
            cursors.reach(at(2_200)),
            None,
            "twenty times the time of the first"
        );
    }
}
