//! Where the next claim starts to read.
//!
//! While a transaction elsewhere is held open (a report, a dump, a forgotten session), the index of what is due keeps an entry
//! for every job that has left it, and a claim that starts at its beginning reads them all. So each account has a cursor for
//! every priority: claims start a little before the place where the last ones ended. A job can appear behind the cursor (it was
//! committed late, released, or held by a pause that is over). A full sweep finds it: now and then a claim reads everything.

use std::time::{Duration, Instant};

use crate::outbox::{Claim, Cursor, Cursors};

/// A claim may be committed so long after it began, and its lease then appears behind the cursor.
const LATE_CLAIMS: Duration = Duration::from_secs(5);

/// How many jobs of one priority the cursor stays behind, at least. At a hundred a second that is two seconds, longer than it
/// takes an application to commit; and it costs a claim 0.02 to 0.05 ms to walk twice as many dead entries.
const BEHIND: usize = 200;
/// Full sweeps may take this share of the time.
const SHARE: u32 = 20;
/// And this share where they would otherwise be rarer than a due job may wait.
const LARGEST_SHARE: u32 = 4;

/// The claim cursors of one account.
#[derive(Debug)]
pub(super) struct ClaimCursors {
    priorities: [PriorityCursor; 4],
    full_sweep: FullSweep,
}

#[derive(Clone, Copy, Debug, Default)]
struct PriorityCursor {
    cursor: Option<Cursor>,
    /// The cursor, once enough has been claimed above it.
    next: Option<Cursor>,
    claimed_since: usize,
}

impl ClaimCursors {
    /// `longest`: how long a job below the cursor may wait, if a full sweep does not take longer.
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            priorities: [PriorityCursor::default(); 4],
            full_sweep: FullSweep::new(longest),
        }
    }

    /// Where a claim at this moment begins. `None`: it is a full sweep.
    pub(super) fn next(&self, now: Instant) -> Cursors {
        if self.full_sweep.is_due(now) {
            Cursors::default()
        } else {
            self.priorities.map(|one| one.cursor)
        }
    }

    /// A claim that started at `cursors` has returned `claims`.
    pub(super) fn claimed(
        &mut self,
        cursors: &Cursors,
        claims: &[Claim],
        asked: Instant,
        now: Instant,
    ) {
        for (priority, one) in (0_i16..).zip(&mut self.priorities) {
            let of_priority = || claims.iter().filter(|claim| claim.priority == priority);
            one.claimed(
                of_priority().filter_map(Claim::place).max(),
                of_priority().count(),
            );
        }
        if cursors.iter().all(Option::is_none) {
            self.full_sweep.took(asked, now);
        }
    }
}

impl PriorityCursor {
    fn claimed(&mut self, last: Option<Cursor>, count: usize) {
        let Some(last) = last else { return };
        self.claimed_since += count;
        if self.claimed_since >= BEHIND || self.next.is_none() {
            self.cursor = self.next;
            self.next = Some(last);
            self.claimed_since = 0;
        }
    }
}

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
    use chrono::{DateTime, TimeDelta, Utc};
    use uuid::Uuid;

    use super::*;
    use crate::clock::Moment;

    const LONGEST: Duration = Duration::from_millis(500);

    fn cursor(n: usize) -> Cursor {
        Cursor {
            due_at: DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(i64::try_from(n).unwrap()),
            id: Uuid::nil(),
        }
    }

    fn claims(numbers: std::ops::Range<usize>, priority: i16) -> Vec<Claim> {
        let claim = |n| Claim {
            id: Uuid::nil(),
            token: 1,
            sender: String::new(),
            recipients: Vec::new(),
            body: String::new(),
            iys: false,
            iys_list: None,
            provider_send_at: None,
            claimed_at: DateTime::<Utc>::UNIX_EPOCH,
            attempt: 1,
            max_attempts: 1,
            traceparent: None,
            bulk: false,
            priority,
            due_at: cursor(n).due_at,
            indeterminate_age: None,
            expires_in: None,
            wait_us: 0,
            tolerance: None,
            asked: Moment::now(),
            received: Moment::now(),
        };
        numbers.map(claim).collect()
    }

    /// Cursors after claims of fifty, and a moment at which no full sweep is due.
    fn after(numbers: std::ops::Range<usize>, priority: i16) -> (ClaimCursors, Instant) {
        let began = Instant::now();
        let took = Duration::from_millis(10);
        let mut cursors = ClaimCursors::new(LONGEST);
        for first in numbers.step_by(50) {
            let from = cursors.next(began + took);
            cursors.claimed(
                &from,
                &claims(first..first + 50, priority),
                began,
                began + took,
            );
        }
        (cursors, began + took)
    }

    #[test]
    fn a_cursor_stays_hundreds_of_jobs_behind_what_was_claimed_last() {
        for claimed in (50..2_000).step_by(50) {
            let (cursors, now) = after(0..claimed, 2);
            let [zero, one, at_two, three] = cursors.next(now);
            assert_eq!((zero, one, three), (None, None, None));
            let behind = (0..claimed)
                .filter(|n| at_two.is_some_and(|at| cursor(*n) > at))
                .count();
            match at_two {
                None => assert!(claimed < 2 * BEHIND + 100, "none after {claimed}"),
                Some(_) => assert!(
                    (BEHIND..2 * BEHIND + 100).contains(&behind),
                    "{behind} behind after {claimed}"
                ),
            }
        }
    }

    #[test]
    fn an_indeterminate_job_that_was_claimed_before_others_moves_no_cursor() {
        let (mut cursors, now) = after(0..1_000, 1);
        let before = cursors.next(now);
        for _ in 0..20 {
            let mut repeats = claims(5_000..5_050, 1);
            for repeat in &mut repeats {
                repeat.indeterminate_age = Some(Duration::from_secs(20));
            }
            cursors.claimed(&before, &repeats, now, now);
        }
        assert_eq!(cursors.next(now), before);
    }

    #[test]
    fn cursors_go_back_with_what_is_found_below_them() {
        let (mut cursors, now) = after(10_000..11_000, 1);
        for first in (0..1_000).step_by(50) {
            let everything = Cursors::default();
            cursors.claimed(&everything, &claims(first..first + 50, 1), now, now);
        }
        // Not at the beginning: then a full sweep is due.
        let at = cursors.priorities[1].cursor.expect("a cursor");
        assert!(at < cursor(1_000), "{at:?}");
    }

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
