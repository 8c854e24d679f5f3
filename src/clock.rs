//! The clock by which a worker says how long ago something was.
//!
//! Nobody can set it, and it runs on while the machine is suspended, unlike that of `Instant` on Linux: a lease, an `expires_at`
//! or the guard window that is over when the machine wakes up is over for the worker as well.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
/// On macOS it runs on during sleep; elsewhere it is the best there is.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// A moment by this clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    since_boot: Duration,
}

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        let read = clock_gettime(CLOCK).expect("every kernel that Rust runs on has this clock");
        Self {
            since_boot: read.into(),
        }
    }

    /// How long ago it was; zero for one that has not come.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    /// How long until it comes; zero for one that has.
    #[must_use]
    pub fn left(self) -> Duration {
        self - Self::now()
    }

    /// So much earlier; the beginning of the clock if that is later.
    #[must_use]
    pub const fn before(self, by: Duration) -> Self {
        Self {
            since_boot: self.since_boot.saturating_sub(by),
        }
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self {
            since_boot: self.since_boot.saturating_add(by),
        }
    }
}

/// Zero where `earlier` is later.
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since_boot.saturating_sub(earlier.since_boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_apart_and_do_not_run_over() {
        let now = Moment::now();
        let minute = Duration::from_secs(60);
        assert_eq!((now + minute) - now, minute);
        assert_eq!(now - (now + minute), Duration::ZERO);
        assert!((now + minute).left() <= minute && now.left().is_zero());
        assert!(now.elapsed() < minute);
        assert!(now.before(Duration::MAX) <= now && now + Duration::MAX > now);
    }
}
