//! How many requests of one account this worker may have under way, how many jobs it claims for them, and how soon it looks
//! for more.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Requests under way when a worker starts and knows nothing about the account yet.
const FIRST_WINDOW: usize = 8;
/// The most jobs that are claimed ahead of free hands, and the most that may wait for their record.
const MOST_AHEAD: usize = 1_000;
const MOST_UNRECORDED: usize = 4_000;

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
    /// Requests that came to an end since the last claim was asked for.
    finished: usize,
    /// How many hands will become free while the next claim is under way: as many as did during the last one. Claiming
    /// for them too keeps the hands busy, and claims nothing that would have to wait.
    ahead: usize,
}

impl State {
    const fn free(&self, hands: usize) -> usize {
        let ahead = if self.window == hands { self.ahead } else { 0 };
        let free = (self.window + ahead).saturating_sub(self.claimed);
        let recordable = MOST_UNRECORDED.saturating_sub(self.unrecorded);
        if free < recordable { free } else { recordable }
    }
}

/// A place for one claimed job, from its claim to the end of its request. Given back when dropped.
#[derive(Debug)]
pub(super) struct Hand(Arc<Pace>);

/// A claimed job that is not on record yet. Given back when dropped.
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
            ahead: 0,
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

    /// Waits until at least one job can be claimed; says how many. The claim is taken to be under way from here on.
    pub(super) async fn free_hands(&self) -> usize {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                let free = state.free(self.hands);
                if free > 0 {
                    state.finished = 0;
                    return free;
                }
            }
            changed.await;
        }
    }

    /// A claim has come back.
    pub(super) fn claim_took(&self) {
        let mut state = self.state();
        state.ahead = state.finished.min(MOST_AHEAD);
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

    /// The account answered in order.
    pub(super) fn went_well(&self) {
        let mut state = self.state();
        state.window = (state.window + 1).min(self.hands);
        drop(state);
        self.changed.notify_one();
    }

    /// The account is in trouble: one request at a time until one gets through.
    pub(super) fn slow_down(&self) {
        self.state().window = 1;
    }

    /// Called every second: a window that is full doubles, so that one request which hangs cannot hold up everything behind
    /// it. While the account is paused nothing is under way, and the window stays as it is.
    pub(super) fn relax(&self) {
        let mut state = self.state();
        if state.claimed >= state.window {
            state.window = (state.window * 2).min(self.hands);
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
        drop(state);
        self.0.changed.notify_one();
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

/// How long to wait before looking for work again: soon after work was found, ever later while there is none.
#[derive(Debug)]
pub(super) struct Poll {
    longest: Duration,
    next: Duration,
}

impl Poll {
    const SHORTEST: Duration = Duration::from_millis(2);

    pub(super) const fn new(longest: Duration) -> Self {
        Self {
            longest,
            next: Self::SHORTEST,
        }
    }

    /// Work was found.
    pub(super) const fn found(&mut self) {
        self.next = Self::SHORTEST;
    }

    /// How long to sleep now. `chance` in `[0, 1)` keeps a fleet from polling in step.
    pub(super) fn pause(&mut self, chance: f64) -> Duration {
        let longest = self.longest.max(Self::SHORTEST);
        let pause = self.next.min(longest);
        self.next = (self.next * 2).min(longest);
        // Down to three quarters, never longer: the interval is a promise.
        pause.mul_f64(1.0 - chance / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_slows_down_to_its_interval_and_never_beyond() {
        let mut poll = Poll::new(Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..12).map(|_| poll.pause(0.0)).collect();
        assert_eq!(pauses[0], Duration::from_millis(2));
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses[11], Duration::from_secs(1));
        poll.found();
        assert!(poll.pause(0.99) < Duration::from_millis(2));
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
