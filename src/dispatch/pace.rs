//! How many requests of one account this worker may have under way, and how soon it looks for more.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

/// Requests under way when a worker starts and knows nothing about the account yet.
const FIRST_WINDOW: usize = 8;

/// The hands of one account: how many requests may be under way.
///
/// The window grows with every answer that shows the account in order, and falls to one when it is not: after a pause a
/// single message goes ahead, and the others follow only if it got through. So an account that refuses everything costs
/// one request per worker and probe, and not one per hand.
#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    changed: Notify,
    hands: usize,
}

#[derive(Debug)]
struct State {
    window: usize,
    under_way: usize,
}

impl State {
    const fn free(&self) -> usize {
        self.window.saturating_sub(self.under_way)
    }
}

/// One free hand. Held from the claim until its outcome is recorded, so that a worker never claims more than it can
/// record either; given back when dropped.
#[derive(Debug)]
pub(super) struct Hand(Arc<Pace>);

impl Pace {
    pub(super) fn new(hands: usize) -> Arc<Self> {
        let hands = hands.max(1);
        let state = State {
            window: hands.min(FIRST_WINDOW),
            under_way: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            hands,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below can panic while it holds the lock, and two counters cannot be half-written anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until at least one hand is free; says how many are.
    pub(super) async fn free_hands(&self) -> usize {
        loop {
            let changed = self.changed.notified();
            let free = self.state().free();
            if free > 0 {
                return free;
            }
            changed.await;
        }
    }

    /// Takes a hand. Claims were limited to the free ones, so there is one.
    pub(super) fn take(self: &Arc<Self>) -> Hand {
        self.state().under_way += 1;
        Hand(Arc::clone(self))
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
        if state.under_way >= state.window {
            state.window = (state.window * 2).min(self.hands);
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.changed.notify_one();
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
        let hand = pace.take();
        assert!(futures_util::FutureExt::now_or_never(pace.free_hands()).is_none());
        pace.went_well();
        assert_eq!(pace.free_hands().await, 1);
        drop(hand);
        assert_eq!(pace.free_hands().await, 2);
    }
}
