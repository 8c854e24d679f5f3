//! From where the next claim reads on.
//!
//! While a transaction elsewhere is held open (a report, a dump, a forgotten session), the index of what is due keeps an entry
//! for every job that has left it, and a claim that begins at its beginning walks them all. So claims begin a little before
//! where the last ones ended, and everything is looked at again every now and then, for what has come to lie behind: a job that
//! was committed late, given back, or held by a pause that is over.

use std::time::{Duration, Instant};

use crate::outbox::{Claim, Floor, Floors};

/// A lease that is over may be found so much later, where the claim itself was committed late.
const LATE_CLAIMS: Duration = Duration::from_secs(5);

/// How many jobs of one priority the floor stays behind, at least. At a hundred a second that is two seconds, longer than it
/// takes an application to commit; and it costs a claim 0.02 to 0.05 ms to walk twice as many dead entries.
const BEHIND: usize = 200;
/// A look at everything may take this part of the time.
const SHARE: u32 = 20;
/// And this part of it where it would otherwise come less often than a due job may wait.
const LARGEST_SHARE: u32 = 4;

/// What this worker has claimed lately of one account, by priority.
#[derive(Debug)]
pub(super) struct Trail {
    lanes: [Lane; 4],
    full_look: FullLook,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    floor: Option<Floor>,
    /// The floor, once enough has been claimed above it.
    next: Option<Floor>,
    claimed_since: usize,
}

impl Trail {
    /// `longest`: how long what lies below the floor may wait, if looking at everything does not take longer.
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            lanes: [Lane::default(); 4],
            full_look: FullLook::new(longest),
        }
    }

    /// Where a claim at this moment begins. Nowhere: it looks at everything.
    pub(super) fn floors(&self, now: Instant) -> Floors {
        if self.full_look.is_due(now) {
            Floors::default()
        } else {
            self.lanes.map(|lane| lane.floor)
        }
    }

    /// A claim that began at `floors` has brought this.
    pub(super) fn claimed(
        &mut self,
        floors: &Floors,
        claims: &[Claim],
        asked: Instant,
        now: Instant,
    ) {
        for (priority, lane) in (0_i16..).zip(&mut self.lanes) {
            let of_lane = || claims.iter().filter(|claim| claim.priority == priority);
            lane.claimed(of_lane().filter_map(Claim::place).max(), of_lane().count());
        }
        if floors.iter().all(Option::is_none) {
            self.full_look.took(asked, now);
        }
    }
}

impl Lane {
    fn claimed(&mut self, last: Option<Floor>, count: usize) {
        let Some(last) = last else { return };
        self.claimed_since += count;
        if self.claimed_since >= BEHIND || self.next.is_none() {
            self.floor = self.next;
            self.next = Some(last);
            self.claimed_since = 0;
        }
    }
}

/// Which leases have been seen to: they run out in their order, so the next look begins where the last one ended.
#[derive(Debug)]
pub(super) struct LeaseTrail {
    /// All that were over at this moment are seen to.
    clear: Option<Instant>,
    full_look: FullLook,
}

impl LeaseTrail {
    pub(super) const fn new() -> Self {
        Self {
            clear: None,
            full_look: FullLook::new(LATE_CLAIMS),
        }
    }

    /// How far back a look at this moment has to go; `None`: to the beginning.
    pub(super) fn reach(&self, now: Instant) -> Option<Duration> {
        let clear = self.clear.filter(|_| !self.full_look.is_due(now))?;
        Some(now - clear + LATE_CLAIMS)
    }

    /// A look that went back so far took this time, and what it found is seen to.
    pub(super) fn looked(&mut self, reach: Option<Duration>, began: Instant, ended: Instant) {
        self.clear = Some(began);
        if reach.is_none() {
            self.full_look.took(began, ended);
        }
    }
}

/// When it is time to look at everything, so that it takes a twentieth of the time.
#[derive(Debug)]
pub(super) struct FullLook {
    due: Option<Instant>,
    longest: Duration,
}

impl FullLook {
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

    const LONGEST: Duration = Duration::from_millis(500);

    fn floor(n: usize) -> Floor {
        Floor {
            due_at: DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(i64::try_from(n).unwrap()),
            id: Uuid::nil(),
        }
    }

    fn claims(numbers: std::ops::Range<usize>, priority: i16) -> Vec<Claim> {
        let now = Instant::now();
        let claim = |n| Claim {
            id: Uuid::nil(),
            token: 1,
            sender: String::new(),
            recipients: Vec::new(),
            body: String::new(),
            iys: false,
            iys_list: None,
            provider_send_at: None,
            attempt: 1,
            max_attempts: 1,
            traceparent: None,
            bulk: false,
            priority,
            due_at: floor(n).due_at,
            doubt_age: None,
            expires_in: None,
            wait_us: 0,
            slack: None,
            asked: now,
            received: now,
        };
        numbers.map(claim).collect()
    }

    /// A trail after claims of fifty, and a moment at which it is not yet time to look at everything again.
    fn after(numbers: std::ops::Range<usize>, priority: i16) -> (Trail, Instant) {
        let began = Instant::now();
        let took = Duration::from_millis(10);
        let mut trail = Trail::new(LONGEST);
        for first in numbers.step_by(50) {
            let floors = trail.floors(began + took);
            trail.claimed(
                &floors,
                &claims(first..first + 50, priority),
                began,
                began + took,
            );
        }
        (trail, began + took)
    }

    #[test]
    fn the_floor_stays_hundreds_of_jobs_behind_what_was_claimed_last() {
        for claimed in (50..2_000).step_by(50) {
            let (trail, now) = after(0..claimed, 2);
            let [zero, one, floor_at, three] = trail.floors(now);
            assert_eq!((zero, one, three), (None, None, None));
            let behind = (0..claimed)
                .filter(|n| floor_at.is_some_and(|at| floor(*n) > at))
                .count();
            match floor_at {
                None => assert!(claimed < 2 * BEHIND + 100, "none after {claimed}"),
                Some(_) => assert!(
                    (BEHIND..2 * BEHIND + 100).contains(&behind),
                    "{behind} behind after {claimed}"
                ),
            }
        }
    }

    #[test]
    fn a_doubt_that_was_taken_out_of_its_turn_moves_no_floor() {
        let (mut trail, now) = after(0..1_000, 1);
        let before = trail.floors(now);
        for _ in 0..20 {
            let mut doubts = claims(5_000..5_050, 1);
            for doubt in &mut doubts {
                doubt.doubt_age = Some(Duration::from_secs(20));
            }
            trail.claimed(&before, &doubts, now, now);
        }
        assert_eq!(trail.floors(now), before);
    }

    #[test]
    fn floors_go_down_again_with_what_is_found_below_them() {
        let (mut trail, now) = after(10_000..11_000, 1);
        for first in (0..1_000).step_by(50) {
            let everything = Floors::default();
            trail.claimed(&everything, &claims(first..first + 50, 1), now, now);
        }
        // Not at its beginning: at this moment everything is due to be looked at again.
        let at = trail.lanes[1].floor.expect("a floor");
        assert!(at < floor(1_000), "{at:?}");
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
            let mut full_look = FullLook::new(LONGEST);
            assert!(full_look.is_due(began), "nothing was looked at yet");
            full_look.took(began, began + ms(took));
            let due = began + ms(took + rest);
            assert!(full_look.is_due(due), "{took}");
            assert!(rest == 0 || !full_look.is_due(due - ms(1)), "{took}");
        }
    }

    #[test]
    fn leases_are_looked_at_from_where_the_last_look_ended_with_a_margin() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut trail = LeaseTrail::new();
        assert_eq!(trail.reach(began), None);
        trail.looked(None, began, at(100));
        assert_eq!(
            trail.reach(at(1_000)),
            Some(at(1_000) - began + LATE_CLAIMS)
        );
        trail.looked(trail.reach(at(1_000)), at(1_000), at(1_001));
        assert_eq!(trail.reach(at(1_500)), Some(at(500) - began + LATE_CLAIMS));
        assert_eq!(
            trail.reach(at(2_200)),
            None,
            "twenty times the time of the first"
        );
    }
}
