//! Whose jobs the next claim takes, in which order, and from where on.
//!
//! Urgent priorities go first, and within a priority every producer has its turn. Two things bound how long anyone waits:
//! producers take turns at being first, and every [`SHARE`]th job that is claimed is the oldest of some producer and priority that
//! would otherwise wait behind others. So a job waits for at most `SHARE` others for each producer and priority with waiting jobs,
//! once it is the oldest of its own.
//!
//! While a transaction elsewhere is held open (a report, a dump, a forgotten session), the index of what is due keeps an entry
//! for every job that has left it, and a claim that starts at its beginning reads them all. So each producer and priority has a
//! cursor: claims start a little before the place where the last ones ended. A job can appear behind the cursor (it was
//! committed late, released, or held by a pause that is over). A full sweep finds it: now and then a claim reads everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::cursor::FullSweep;
use crate::outbox::{Claim, Cursor, Turn, Waiting};

/// One of so many claimed jobs is taken for its age and not for its priority.
const SHARE: usize = 20;

/// How many jobs of one priority the cursor stays behind, at least. At a hundred a second that is two seconds, longer than it
/// takes an application to commit; and it costs a claim 0.02 to 0.05 ms to walk twice as many dead entries.
const BEHIND: usize = 200;

/// At most so often it is asked whose jobs wait: that costs as much as a claim that finds nothing. The first message of a producer
/// that was never met waits for as long.
const ASKED_AT_MOST: Duration = Duration::from_millis(250);

/// The turns of one account's single messages.
#[derive(Debug)]
pub(super) struct Turns {
    /// Everyone whose job was ever met: one who comes back must not wait to be found again.
    producers: BTreeSet<Arc<str>>,
    cursors: BTreeMap<(i16, Arc<str>), ClaimCursor>,
    /// Who has jobs that wait for those of a smaller priority.
    behind: Vec<(i16, Arc<str>)>,
    full_sweep: FullSweep,
    claims: usize,
    /// How many jobs were claimed since the last one that was taken for its age.
    since_oldest: usize,
    oldest_turn: usize,
    refreshed: Option<Instant>,
    longest: Duration,
}

/// What one claim asks for.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) turns: Vec<Turn>,
    is_sweep: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct ClaimCursor {
    cursor: Option<Cursor>,
    /// The cursor, once enough has been claimed above it.
    next: Option<Cursor>,
    claimed_since: usize,
}

impl Turns {
    /// `longest`: how long a job below a cursor, or of a new producer, may wait.
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            producers: BTreeSet::new(),
            cursors: BTreeMap::new(),
            behind: Vec::new(),
            full_sweep: FullSweep::new(longest),
            claims: 0,
            since_oldest: 0,
            oldest_turn: 0,
            refreshed: None,
            longest: longest.max(ASKED_AT_MOST),
        }
    }

    /// Whether it is time to look whose jobs wait.
    pub(super) fn are_stale(&self, now: Instant) -> bool {
        self.producers.is_empty() || self.refreshed.is_none_or(|when| now - when >= self.longest)
    }

    /// These jobs wait.
    pub(super) fn refresh(&mut self, waiting: &[Waiting], now: Instant) {
        self.behind.clear();
        for Waiting {
            bulk,
            priority,
            producer,
        } in waiting
        {
            let producer: Arc<str> = producer.as_str().into();
            if !bulk && *priority > 0 {
                self.behind.push((*priority, Arc::clone(&producer)));
            }
            self.producers.insert(producer);
        }
        self.refreshed = Some(now);
    }

    /// Everyone whose jobs were ever met.
    pub(super) fn producers(&self) -> Vec<String> {
        self.producers.iter().map(ToString::to_string).collect()
    }

    /// What a claim of `at_most` jobs at this moment asks for.
    pub(super) fn next(&mut self, at_most: usize, now: Instant) -> Round {
        let is_sweep = self.full_sweep.is_due(now);
        let oldest = if self.since_oldest >= SHARE && !self.behind.is_empty() {
            self.oldest_turn = (self.oldest_turn + 1) % self.behind.len();
            self.since_oldest = 0;
            self.behind.get(self.oldest_turn).cloned()
        } else {
            None
        };
        let mut turns = Vec::with_capacity(4 * self.producers.len() + 1);
        if let Some((priority, producer)) = &oldest {
            turns.push(self.turn(*priority, producer, 1, true, is_sweep));
        }
        self.claims = self.claims.wrapping_add(1);
        let start = self.claims % self.producers.len().max(1);
        for priority in 0..4 {
            let in_turn = self.producers.iter().cycle().skip(start);
            for producer in in_turn.take(self.producers.len()) {
                let taken = oldest
                    .as_ref()
                    .is_some_and(|(p, name)| *p == priority && name == producer);
                if !taken {
                    turns.push(self.turn(priority, producer, at_most, priority == 0, is_sweep));
                }
            }
        }
        Round { turns, is_sweep }
    }

    fn turn(
        &self,
        priority: i16,
        producer: &Arc<str>,
        at_most: usize,
        first: bool,
        is_sweep: bool,
    ) -> Turn {
        let cursor = self
            .cursors
            .get(&(priority, Arc::clone(producer)))
            .filter(|_| !is_sweep);
        Turn {
            priority,
            producer: Arc::clone(producer),
            cursor: cursor.and_then(|one| one.cursor),
            at_most,
            first,
        }
    }

    /// A claim has returned.
    pub(super) fn claimed(
        &mut self,
        round: &Round,
        claims: &[Claim],
        asked: Instant,
        now: Instant,
    ) {
        self.since_oldest = self.since_oldest.saturating_add(claims.len());
        let mut found = BTreeMap::new();
        for claim in claims {
            let (last, count) = found
                .entry((claim.priority, &claim.producer))
                .or_insert((None, 0));
            *last = (*last).max(claim.place());
            *count += 1;
        }
        for ((priority, producer), (last, count)) in found {
            let cursor = self
                .cursors
                .entry((priority, Arc::clone(producer)))
                .or_default();
            cursor.claimed(last, count);
        }
        if round.is_sweep {
            self.full_sweep.took(asked, now);
        }
    }
}

impl ClaimCursor {
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

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use uuid::Uuid;

    use super::*;

    const LONGEST: Duration = Duration::from_millis(500);

    fn cursor(n: usize) -> Cursor {
        Cursor {
            due_at: DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(i64::try_from(n).unwrap()),
            id: Uuid::nil(),
        }
    }

    fn claim(n: usize, priority: i16, producer: &str) -> Claim {
        let now = crate::clock::Moment::now();
        Claim {
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
            producer: producer.into(),
            due_at: cursor(n).due_at,
            due_for: Duration::ZERO,
            indeterminate_age: None,
            expires_in: None,
            wait_us: 0,
            tolerance: None,
            asked: now,
            received: now,
        }
    }

    fn claims(numbers: std::ops::Range<usize>, priority: i16) -> Vec<Claim> {
        numbers.map(|n| claim(n, priority, "app")).collect()
    }

    fn waiting(priority: i16, producer: &str) -> Waiting {
        Waiting {
            bulk: false,
            priority,
            producer: producer.to_owned(),
        }
    }

    fn known(waiting: &[Waiting]) -> Turns {
        let mut turns = Turns::new(LONGEST);
        turns.refresh(waiting, Instant::now());
        turns
    }

    /// Turns after claims of fifty, and a moment at which no full sweep is due.
    fn after(numbers: std::ops::Range<usize>, priority: i16) -> (Turns, Instant) {
        let began = Instant::now();
        let took = Duration::from_millis(10);
        let mut turns = known(&[waiting(1, "app")]);
        for first in numbers.step_by(50) {
            let round = turns.next(50, began + took);
            turns.claimed(
                &round,
                &claims(first..first + 50, priority),
                began,
                began + took,
            );
        }
        (turns, began + took)
    }

    /// The cursors of the only producer, by priority.
    fn cursors(turns: &mut Turns, now: Instant) -> [Option<Cursor>; 4] {
        let round = turns.next(50, now);
        let of = |priority| {
            let turn = round.turns.iter().find(|turn| turn.priority == priority);
            turn.and_then(|turn| turn.cursor)
        };
        [of(0), of(1), of(2), of(3)]
    }

    #[test]
    fn a_cursor_stays_hundreds_of_jobs_behind_what_was_claimed_last() {
        for claimed in (50..2_000).step_by(50) {
            let (mut turns, now) = after(0..claimed, 2);
            let [zero, one, at_two, three] = cursors(&mut turns, now);
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
        let (mut turns, now) = after(0..1_000, 1);
        let before = cursors(&mut turns, now);
        for _ in 0..20 {
            let mut repeats = claims(5_000..5_050, 1);
            for repeat in &mut repeats {
                repeat.indeterminate_age = Some(Duration::from_secs(20));
            }
            let round = turns.next(50, now);
            turns.claimed(&round, &repeats, now, now);
        }
        assert_eq!(cursors(&mut turns, now), before);
    }

    #[test]
    fn a_cursor_goes_back_with_what_is_found_below_it() {
        let (mut turns, now) = after(10_000..11_000, 1);
        for first in (0..1_000).step_by(50) {
            let everything = Round {
                turns: Vec::new(),
                is_sweep: true,
            };
            turns.claimed(&everything, &claims(first..first + 50, 1), now, now);
        }
        // Not at the beginning: then a full sweep is due.
        let at = turns.cursors[&(1, "app".into())].cursor.expect("a cursor");
        assert!(at < cursor(1_000), "{at:?}");
    }

    #[test]
    fn every_producer_is_first_in_turn_within_a_priority() {
        let mut turns = known(&[waiting(0, "a"), waiting(0, "b"), waiting(2, "c")]);
        let now = Instant::now();
        let mut first = BTreeSet::new();
        for _ in 0..3 {
            let round = turns.next(10, now);
            let priorities: Vec<i16> = round.turns.iter().map(|turn| turn.priority).collect();
            assert_eq!(priorities, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
            first.insert(round.turns[0].producer.to_string());
        }
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn one_of_twenty_goes_to_the_oldest_of_those_who_wait_behind_others() {
        let mut turns = known(&[waiting(1, "a"), waiting(3, "a"), waiting(2, "b")]);
        let now = Instant::now();
        let mut taken: BTreeMap<(i16, String), usize> = BTreeMap::new();
        let mut jobs = 0;
        while jobs < 3_000 {
            let round = turns.next(4, now);
            if round.turns[0].priority > 0 {
                let turn = &round.turns[0];
                assert_eq!((turn.at_most, turn.first), (1, true));
                *taken
                    .entry((turn.priority, turn.producer.to_string()))
                    .or_default() += 1;
                let again = round.turns[1..].iter().any(|other| {
                    (other.priority, &other.producer) == (turn.priority, &turn.producer)
                });
                assert!(!again, "no job is locked twice by one statement");
            }
            let four: Vec<Claim> = (0..4).map(|n| claim(jobs + n, 1, "a")).collect();
            turns.claimed(&round, &four, now, now);
            jobs += 4;
        }
        assert_eq!(taken.len(), 3, "{taken:?}");
        assert!(
            taken.values().all(|count| (48..=51).contains(count)),
            "{taken:?}"
        );
    }

    #[test]
    fn whose_jobs_wait_is_asked_again_in_time_and_at_once_where_nobody_is_known() {
        let now = Instant::now();
        let mut turns = Turns::new(LONGEST);
        assert!(turns.are_stale(now));
        turns.refresh(&[], now);
        assert!(turns.are_stale(now), "nobody is known");
        turns.refresh(&[waiting(0, "a")], now);
        assert!(!turns.are_stale(now + LONGEST / 2));
        assert!(turns.are_stale(now + LONGEST));
        turns.refresh(&[], now + LONGEST);
        assert_eq!(
            turns.producers(),
            ["a"],
            "who has no jobs now may have some in a moment"
        );
    }
}
