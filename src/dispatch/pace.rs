//! How many requests of one account this worker may have under way, how many jobs it claims for them, and how soon it looks
//! for more.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Requests under way when a worker starts and knows nothing about the account yet.
const FIRST_WINDOW: usize = 8;
/// So many jobs are claimed ahead of free hands: what a statement costs is shared by all that it claims, and no hand waits for
/// it. A job claimed for 43 at a time took the database 21 microseconds, for 100 at a time 15, for 200 at a time 12.
const AHEAD: u128 = 150;
/// And not for longer than that, so that nothing waits here which another worker could be sending; but for as long as a claim
/// may take.
const LONGEST_AHEAD: Duration = Duration::from_millis(25);
const SHORTEST_AHEAD: Duration = Duration::from_millis(10);
/// The most jobs that are claimed ahead, and the most that may wait for their record.
const MOST_AHEAD: usize = 1_000;
const MOST_UNRECORDED: usize = 1_500;

/// So many requests in a row without an answer that makes sense mean that the provider is out of order, and not a message.
const OUT_OF_ORDER: u32 = 10;
/// The longest pause between two requests while it is.
const LONGEST_CAUTION: Duration = Duration::from_secs(5);

/// The hands of one account.
///
/// Three things are counted, because each is bounded for a reason of its own: requests under way (the operator's wish), jobs
/// claimed for them (what is claimed here cannot be sent by anyone else), and outcomes not recorded yet (memory, and what
/// a crash would leave in doubt).
///
/// The window grows with every answer that shows the account in order, and falls to one when it is not: after a pause a
/// single message goes ahead, and the others follow only if it got through. So an account that refuses everything costs
/// one request per worker and probe, and not one per hand.
#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    changed: Notify,
    requests: Arc<Semaphore>,
    hands: usize,
}

#[derive(Debug)]
struct State {
    window: usize,
    /// Claimed, and its request not at an end.
    claimed: usize,
    /// Claimed, and not on record.
    unrecorded: usize,
    /// Requests that came to an end since the last claim came back, and when that was.
    finished: usize,
    counted_from: Instant,
    /// How many hands become free in the time that is claimed ahead.
    ahead: usize,
    /// Requests in a row that were not answered, or not by the provider in order.
    in_vain: u32,
    /// Nothing is claimed before this moment.
    not_before: Option<Instant>,
}

impl State {
    /// How many jobs to claim now. None as long as half of what was claimed ahead is still there: few large claims are cheaper
    /// than many small ones.
    fn free(&self, hands: usize) -> usize {
        let ahead = if self.window == hands { self.ahead } else { 0 };
        if self.claimed > self.window + ahead / 2 {
            return 0;
        }
        let free = (self.window + ahead).saturating_sub(self.claimed);
        free.min(MOST_UNRECORDED.saturating_sub(self.unrecorded))
    }

    /// Learns how fast the hands are from what they have finished since the last time.
    fn count(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.counted_from);
        let finished = u128::try_from(self.finished).unwrap_or(u128::MAX);
        let within =
            |time: Duration| finished.saturating_mul(time.as_nanos()) / elapsed.as_nanos().max(1);
        let wanted = AHEAD.clamp(within(SHORTEST_AHEAD), within(LONGEST_AHEAD));
        let wanted = usize::try_from(wanted).unwrap_or(MOST_AHEAD);
        // Up at once, down slowly: right after a full claim nothing is under way that could have finished.
        self.ahead = wanted
            .max(self.ahead - self.ahead.div_ceil(4))
            .min(MOST_AHEAD);
        self.finished = 0;
        self.counted_from = now;
    }
}

/// A place for one claimed job, from its claim to the end of its request. Given back when dropped.
#[derive(Debug)]
pub(super) struct Hand(Arc<Pace>);

/// A claimed job that is not on record yet. Its place is given back when dropped.
#[derive(Debug)]
pub(super) struct Unrecorded(Arc<Pace>);

impl Pace {
    pub(super) fn new(hands: usize) -> Arc<Self> {
        let hands = hands.max(1);
        let window = hands.min(FIRST_WINDOW);
        let state = State {
            window,
            claimed: 0,
            unrecorded: 0,
            finished: 0,
            counted_from: Instant::now(),
            ahead: 0,
            in_vain: 0,
            not_before: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            requests: Arc::new(Semaphore::new(hands)),
            hands,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below can panic while it holds the lock, and counters cannot be half-written anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is time to claim; says how many.
    pub(super) async fn free_hands(&self) -> usize {
        loop {
            let changed = self.changed.notified();
            let caution = {
                let state = self.state();
                let caution = state
                    .not_before
                    .and_then(|moment| moment.checked_duration_since(Instant::now()))
                    .filter(|left| !left.is_zero());
                let free = state.free(self.hands);
                if free > 0 && caution.is_none() {
                    return free;
                }
                caution
            };
            match caution {
                Some(left) => {
                    // What changes meanwhile may end the caution.
                    tokio::time::timeout(left, changed).await.ok();
                }
                None => changed.await,
            }
        }
    }

    /// A claim has come back.
    pub(super) fn claim_took(&self) {
        self.state().count(Instant::now());
    }

    /// Takes a place for a job that was claimed.
    pub(super) fn take(self: &Arc<Self>) -> (Hand, Unrecorded) {
        let mut state = self.state();
        state.claimed += 1;
        state.unrecorded += 1;
        drop(state);
        (Hand(Arc::clone(self)), Unrecorded(Arc::clone(self)))
    }

    /// Waits until a request may start. First come, first served: claims come in the order of their urgency.
    pub(super) async fn request(&self) -> Option<OwnedSemaphorePermit> {
        // `None` if the semaphore were closed, which nobody does.
        Arc::clone(&self.requests).acquire_owned().await.ok()
    }

    /// The account answered in order. `true`: after many requests in vain.
    pub(super) fn went_well(&self) -> bool {
        let mut state = self.state();
        state.window = (state.window + 1).min(self.hands);
        let recovered = state.in_vain >= OUT_OF_ORDER;
        state.in_vain = 0;
        state.not_before = None;
        drop(state);
        self.changed.notify_one();
        recovered
    }

    /// A request was not answered, or not by the provider in order. After many in a row one at a time goes ahead, ever less
    /// often: each of them may have been accepted, and an outage that outlasts the guard window must leave few such doubts
    /// behind, and use up few attempts. `true`: this one made it many.
    pub(super) fn went_unanswered(&self) -> bool {
        let mut state = self.state();
        state.in_vain = state.in_vain.saturating_add(1);
        if let Some(doublings) = state.in_vain.checked_sub(OUT_OF_ORDER) {
            let caution = Duration::from_millis(250).saturating_mul(1 << doublings.min(6));
            state.window = 1;
            state.not_before = Some(Instant::now() + caution.min(LONGEST_CAUTION));
        }
        state.in_vain == OUT_OF_ORDER
    }

    /// The account is in trouble: one request at a time until one gets through.
    pub(super) fn slow_down(&self) {
        self.state().window = 1;
    }

    /// Called every second: a window that is full grows, so that one request which hangs cannot hold up everything behind
    /// it. While the account is paused nothing is under way, and the window stays as it is.
    pub(super) fn relax(&self) {
        let mut state = self.state();
        if state.claimed >= state.window {
            let wider = if state.in_vain < OUT_OF_ORDER {
                state.window * 2
            } else {
                state.window + 1
            };
            state.window = wider.min(self.hands);
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.claimed -= 1;
        state.finished += 1;
        let time_to_claim = state.free(self.0.hands) > 0;
        drop(state);
        if time_to_claim {
            self.0.changed.notify_one();
        }
    }
}

impl Drop for Unrecorded {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.unrecorded -= 1;
        let was_full = state.unrecorded + 1 == MOST_UNRECORDED;
        drop(state);
        if was_full {
            self.0.changed.notify_one();
        }
    }
}

/// How long to wait before looking for work again: a hundredth of the time since there was some. So whoever waits does not wait
/// longer for that than it took them to come, a worker that has work every few seconds looks every few milliseconds, and one
/// that has none all night looks once in the interval.
#[derive(Debug)]
pub(super) struct Poll {
    longest: Duration,
    /// `None`: none since this worker started.
    last_found: Option<Instant>,
}

impl Poll {
    /// An empty look costs a tenth of a millisecond of database and worker together, so this is 5 % of a processor while things
    /// move.
    const SHORTEST: Duration = Duration::from_millis(1);

    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            last_found: None,
        }
    }

    /// Work was found.
    pub(super) fn found(&mut self) {
        self.last_found = Some(Instant::now());
    }

    /// How long to sleep now. `chance` in `[0, 1)` keeps a fleet from polling in step.
    pub(super) fn pause(&self, chance: f64) -> Duration {
        let idle = self
            .last_found
            .map_or(Duration::MAX, |found| found.elapsed());
        self.pause_after(idle, chance)
    }

    fn pause_after(&self, idle: Duration, chance: f64) -> Duration {
        let longest = self.longest.max(Self::SHORTEST);
        let pause = (idle / 100).clamp(Self::SHORTEST, longest);
        // Down to three quarters, never longer: the interval is a promise.
        pause.mul_f64(1.0 - chance / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_slows_down_to_its_interval_and_never_beyond() {
        let poll = Poll::new(Duration::from_secs(1));
        for (idle_ms, pause_ms) in [
            (0, 1),
            (100, 1),
            (1_000, 10),
            (30_000, 300),
            (100_000, 1_000),
            (86_400_000, 1_000),
        ] {
            let idle = Duration::from_millis(idle_ms);
            let pause = Duration::from_millis(pause_ms);
            assert_eq!(poll.pause_after(idle, 0.0), pause, "{idle:?}");
            assert!(poll.pause_after(idle, 0.99) < pause, "{idle:?}");
        }
        let hasty = Poll::new(Duration::ZERO);
        assert_eq!(
            hasty.pause_after(Duration::from_secs(9), 0.0),
            Poll::SHORTEST
        );
    }

    #[tokio::test]
    async fn a_provider_that_is_out_of_order_is_asked_ever_less_often() {
        let pace = Pace::new(50);
        let turned: Vec<bool> = (0..20).map(|_| pace.went_unanswered()).collect();
        assert_eq!(
            turned.iter().filter(|turned| **turned).count(),
            1,
            "said once"
        );
        assert!(futures_util::FutureExt::now_or_never(pace.free_hands()).is_none());
        assert!(pace.went_well(), "and its end is noticed");
        assert!(pace.free_hands().await > 0);
        assert!(!pace.went_well());
    }

    #[test]
    fn a_few_milliseconds_are_claimed_ahead_and_in_few_claims() {
        let hands = 50;
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut state = State {
            window: hands,
            claimed: 0,
            unrecorded: 0,
            finished: 0,
            counted_from: began,
            ahead: 0,
            in_vain: 0,
            not_before: None,
        };
        assert_eq!(
            state.free(hands),
            hands,
            "nothing ahead before anything is known"
        );
        // 10,000 a second; and as much as its share of a fleet would be.
        for (finished, ahead) in [(100, 150), (400, 400), (40, 300), (10, 225)] {
            state.finished = finished;
            state.count(state.counted_from + Duration::from_millis(10));
            assert_eq!(state.ahead, ahead, "{finished} in ten milliseconds");
        }
        state.ahead = 200;
        for (claimed, free) in [(0, 250), (50, 200), (150, 100), (151, 0), (400, 0)] {
            state.claimed = claimed;
            assert_eq!(state.free(hands), free, "{claimed} claimed");
        }
        state.claimed = 60;
        state.window = hands - 1;
        assert_eq!(
            state.free(hands),
            0,
            "and none while the account has to show that it is in order"
        );
        // It slows down to an answer a second in each hand but ten.
        state.window = hands;
        for second in 1..40 {
            state.finished = 39;
            state.count(at(1_000 * second));
        }
        assert_eq!(state.ahead, 0);
        for (claimed, free) in [(48, 2), (50, 0)] {
            state.claimed = claimed;
            assert_eq!(state.free(hands), free, "{claimed} claimed, nothing ahead");
        }
    }

    #[tokio::test]
    async fn after_trouble_one_message_goes_ahead_alone() {
        let pace = Pace::new(50);
        assert_eq!(pace.free_hands().await, FIRST_WINDOW);
        pace.slow_down();
        let (hand, _unrecorded) = pace.take();
        assert!(futures_util::FutureExt::now_or_never(pace.free_hands()).is_none());
        pace.went_well();
        assert_eq!(pace.free_hands().await, 1);
        drop(hand);
        assert_eq!(pace.free_hands().await, 2);
    }
}
