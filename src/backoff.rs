//! The delay before attempt *n*: exponential, full jitter, and the same every time it is asked.
//!
//! `backon` draws the curve. Its own jitter is left off, because it adds on top of the cap (a delay could be twice
//! what the operator allowed) and differs from call to call (a row's `due_at` could not be explained afterwards).

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use uuid::Uuid;

/// How retries are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first delay (`SMS_OUTBOX_BACKOFF_BASE`); each further attempt doubles it.
    pub base: Duration,
    /// No delay is ever longer than this (`SMS_OUTBOX_BACKOFF_CAP`).
    pub cap: Duration,
}

impl Backoff {
    /// The longest delay that may follow attempt `attempt` (counted from 1): `base · 2^(attempt-1)`, at most `cap`.
    ///
    /// ```
    /// # use std::time::Duration; use sms_outbox::backoff::Backoff;
    /// let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(600) };
    /// assert_eq!(backoff.ceiling(1), Duration::from_secs(1));
    /// assert_eq!(backoff.ceiling(4), Duration::from_secs(8));
    /// assert_eq!(backoff.ceiling(40), Duration::from_secs(600));
    /// ```
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        // Past 64 doublings every base above a nanosecond has met any cap, so the walk along the curve stays short.
        let nth = attempt.saturating_sub(1).min(64) as usize;
        ExponentialBuilder::new()
            .with_min_delay(self.base.min(self.cap))
            .with_max_delay(self.cap)
            .with_factor(2.0)
            .without_max_times()
            .build()
            .nth(nth)
            .unwrap_or(self.cap)
            .min(self.cap)
    }

    /// The delay after attempt `attempt` (counted from 1) of job `job`: uniform over jobs in `[0, ceiling(attempt)]`,
    /// and reproducible, so that anyone can recompute why a row is due when it is.
    #[must_use]
    pub fn delay(&self, job: Uuid, attempt: u32) -> Duration {
        self.ceiling(attempt).mul_f64(unit_interval(job, attempt))
    }
}

/// A number in `[0, 1)` that depends on the job and the attempt only (the SplitMix64 finaliser over both).
#[must_use]
pub fn unit_interval(job: Uuid, attempt: u32) -> f64 {
    let (high, low) = job.as_u64_pair();
    let mut x = high ^ low.rotate_left(32) ^ u64::from(attempt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    // The top 53 bits are exactly what an f64 mantissa holds.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    let fraction = (x >> 11) as f64 / (1u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_delay_exceeds_its_ceiling_and_no_ceiling_the_cap(
            job in any::<u128>(), attempt in 0u32..100_000, base_ms in 0u64..1_000_000, cap_ms in 0u64..1_000_000,
        ) {
            let backoff = Backoff { base: Duration::from_millis(base_ms), cap: Duration::from_millis(cap_ms) };
            let job = Uuid::from_u128(job);
            prop_assert!(backoff.ceiling(attempt) <= backoff.cap);
            prop_assert!(backoff.delay(job, attempt) <= backoff.ceiling(attempt));
            prop_assert_eq!(backoff.delay(job, attempt), backoff.delay(job, attempt));
        }

        #[test]
        fn ceilings_never_shrink(attempt in 1u32..200) {
            let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(600) };
            prop_assert!(backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1));
        }
    }

    #[test]
    fn jitter_spreads_jobs_over_the_whole_range() {
        let fractions: Vec<f64> = (0..10_000)
            .map(|n| unit_interval(Uuid::from_u128(n), 3))
            .collect();
        let mean = fractions.iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
        for tenth in 0..10 {
            let low = f64::from(tenth) / 10.0;
            let share = fractions
                .iter()
                .filter(|f| **f >= low && **f < low + 0.1)
                .count();
            assert!(
                (800..1200).contains(&share),
                "{share} of 10,000 in tenth {tenth}"
            );
        }
    }
}
