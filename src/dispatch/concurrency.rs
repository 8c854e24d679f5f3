//! How many requests of one account this worker may have in flight, how many jobs it claims for them, and how often it
//! polls.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Requests in flight when a worker starts and knows nothing about the account yet.
const FIRST_WINDOW: usize = 8;
/// So many jobs are claimed ahead of free permits: the cost of a statement is shared by all that it claims, and no permit
/// waits for it. A job claimed for 43 at a time took the database 21 microseconds, for 100 at a time 15, for 200 at a time 12.
const AHEAD: u128 = 150;
/// At most for this long, so that no job waits here that another worker could send; at least for as long as a claim may take.
const LONGEST_AHEAD: Duration = Duration::from_millis(25);
const SHORTEST_AHEAD: Duration = Duration::from_millis(10);
/// The most jobs that are claimed ahead, and the most that may wait for their record.
const MOST_AHEAD: usize = 1_000;
const MOST_UNRECORDED: usize = 1_500;

/// So many requests in a row without a meaningful answer: the provider is unavailable, and not one message bad. It costs one
/// question for the balance to find out that it is not.
const OUT_OF_ORDER: usize = 5;

/// The concurrency of one account.
///
/// Four things are counted, and each has its own bound: requests in flight (the operator's wish), jobs
/// claimed for them (no other worker can send what is claimed here), outcomes not recorded yet (memory, and what
/// a crash would leave indeterminate), and new requests whose answers were lost since the last healthy answer (they take the
/// place of requests in flight: a provider that falls silent leaves no more indeterminate jobs behind than there are permits).
///
/// The window grows with every answer that shows a healthy account, and falls to one when it is not: after a pause a
/// single message is sent first, and the others follow only if it was accepted. So an account that refuses everything costs
/// one request per worker and probe, and not one per permit.
#[derive(Debug)]
pub(super) struct Concurrency {
    state: Mutex<State>,
    changed: Notify,
    requests: Arc<Semaphore>,
    /// For requests that can add an indeterminate job. A lost answer keeps its permit until the provider is healthy.
    fresh: Arc<Semaphore>,
    permits: usize,
}

/// The right to have one request under way.
#[derive(Debug)]
pub(super) struct RequestPermit {
    pub(super) _request: OwnedSemaphorePermit,
    /// Of the account's single messages, for bulk orders too; `None`: nothing can become indeterminate by it.
    pub(super) fresh: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct State {
    window: usize,
    /// Jobs that are claimed, and whose request has not ended.
    claimed: usize,
    /// Jobs that are claimed, and not recorded.
    unrecorded: usize,
    /// Requests that ended since the last claim returned, and when that was.
    finished: usize,
    counted_from: Instant,
    /// How many permits become free in the time that is claimed ahead.
    ahead: usize,
    /// Requests in a row without an answer from a healthy provider.
    in_vain: usize,
    /// How many permits lost answers keep.
    lost: usize,
    /// Whether the window was full when it was looked at last.
    was_full: bool,
}

impl State {
    /// How many jobs to claim now. None as long as half of what was claimed ahead is still there: few large claims are cheaper
    /// than many small ones.
    fn free(&self, permits: usize) -> usize {
        let ahead = if self.window == permits {
            self.ahead
        } else {
            0
        };
        if self.claimed > self.window + ahead / 2 {
            return 0;
        }
        let free = (self.window + ahead).saturating_sub(self.claimed);
        free.min(MOST_UNRECORDED.saturating_sub(self.unrecorded))
    }

    /// Learns how fast permits become free from what has finished since the last time.
    fn count(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.counted_from);
        let finished = u128::try_from(self.finished).unwrap_or(u128::MAX);
        let within =
            |time: Duration| finished.saturating_mul(time.as_nanos()) / elapsed.as_nanos().max(1);
        let wanted = AHEAD.clamp(within(SHORTEST_AHEAD), within(LONGEST_AHEAD));
        let wanted = usize::try_from(wanted).unwrap_or(MOST_AHEAD);
        // Up at once, down slowly: right after a full claim no request is in flight that could have finished.
        self.ahead = wanted
            .max(self.ahead - self.ahead.div_ceil(4))
            .min(MOST_AHEAD);
        self.finished = 0;
        self.counted_from = now;
    }
}

/// The permit of one claimed job, from its claim to the end of its request. Released when dropped.
#[derive(Debug)]
pub(super) struct ConcurrencyPermit(Arc<Concurrency>);

/// A claimed job that is not recorded yet. Its permit is released when dropped.
#[derive(Debug)]
pub(super) struct Unrecorded(Arc<Concurrency>);

impl Concurrency {
    pub(super) fn new(permits: usize) -> Arc<Self> {
        let permits = permits.max(1);
        let window = permits.min(FIRST_WINDOW);
        let state = State {
            window,
            claimed: 0,
            unrecorded: 0,
            finished: 0,
            counted_from: Instant::now(),
            ahead: 0,
            in_vain: 0,
            lost: 0,
            was_full: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            requests: Arc::new(Semaphore::new(permits)),
            fresh: Arc::new(Semaphore::new(permits)),
            permits,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below can panic while it holds the lock, and counters cannot be half-written anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is time to claim; says how many.
    pub(super) async fn available(&self) -> usize {
        loop {
            let changed = self.changed.notified();
            let free = self.state().free(self.permits);
            if free > 0 {
                return free;
            }
            changed.await;
        }
    }

    /// A claim has returned.
    pub(super) fn claim_took(&self) {
        self.state().count(Instant::now());
    }

    /// Takes a permit for a job that was claimed.
    pub(super) fn take(self: &Arc<Self>) -> (ConcurrencyPermit, Unrecorded) {
        let mut state = self.state();
        state.claimed += 1;
        state.unrecorded += 1;
        drop(state);
        (
            ConcurrencyPermit(Arc::clone(self)),
            Unrecorded(Arc::clone(self)),
        )
    }

    /// Waits until a request may start. First come, first served: claims come in the order of their urgency.
    pub(super) async fn request(&self) -> Option<OwnedSemaphorePermit> {
        // `None` if the semaphore were closed, which nobody does.
        Arc::clone(&self.requests).acquire_owned().await.ok()
    }

    /// Waits until a request may start that can add an indeterminate job.
    pub(super) async fn fresh(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.fresh).acquire_owned().await.ok()
    }

    /// A healthy answer of the account.
    pub(super) fn succeeded(&self) {
        let mut state = self.state();
        state.window = (state.window + 1).min(self.permits);
        state.in_vain = 0;
        self.fresh.add_permits(std::mem::take(&mut state.lost));
        drop(state);
        self.changed.notify_one();
    }

    /// A request got no answer from a healthy provider; `lost`: it may have been accepted. `true`: there were so many in a row that the
    /// provider is unavailable.
    pub(super) fn failed(&self, permit: RequestPermit, lost: bool) -> bool {
        let mut state = self.state();
        state.in_vain = state.in_vain.saturating_add(1);
        if lost && let Some(fresh) = permit.fresh {
            fresh.forget();
            state.lost += 1;
        }
        state.in_vain >= OUT_OF_ORDER.min(self.permits)
    }

    /// An outage is over, perhaps because it only seemed to be one: lost answers keep no permits any more, and one message shows
    /// how the provider does.
    pub(super) fn start_again(&self) {
        let mut state = self.state();
        state.window = 1;
        // Who ended it may have been another worker: what failed here before says nothing of what comes.
        state.in_vain = 0;
        self.fresh.add_permits(std::mem::take(&mut state.lost));
        drop(state);
        self.changed.notify_one();
    }

    /// The account is unhealthy: one request at a time until one is accepted.
    pub(super) fn slow_down(&self) {
        self.state().window = 1;
    }

    /// Called every second: a window that stays full grows, so that one hanging request cannot hold up everything behind it. While
    /// the account is paused no request is in flight, and the window does not change.
    pub(super) fn relax(&self) {
        let mut state = self.state();
        let is_full = state.claimed >= state.window;
        // A look at a worker that has just started meets its first requests.
        let stays_full = is_full && std::mem::replace(&mut state.was_full, is_full);
        state.was_full = is_full;
        if stays_full {
            let wider = if state.in_vain < OUT_OF_ORDER.min(self.permits) {
                state.window * 2
            } else {
                state.window + 1
            };
            state.window = wider.min(self.permits);
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.claimed -= 1;
        state.finished += 1;
        let time_to_claim = state.free(self.0.permits) > 0;
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

/// How long to wait before the next poll: a hundredth of the time since the last work. So polling adds 1 % to the time between
/// two messages: a worker that has work every few seconds polls every few milliseconds, and one that is idle all night polls
/// once in the interval.
#[derive(Debug)]
pub(super) struct Poll {
    longest: Duration,
    /// `None`: none since this worker started.
    last_found: Option<Instant>,
}

impl Poll {
    /// An empty poll costs 0.1 ms of database and worker together, so this is 5 % of a processor while there is work.
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

    async fn permit(concurrency: &Concurrency, fresh: bool) -> Option<RequestPermit> {
        use futures_util::FutureExt;
        let fresh = if fresh {
            Some(concurrency.fresh().now_or_never().flatten()?)
        } else {
            None
        };
        Some(RequestPermit {
            _request: concurrency.request().now_or_never().flatten()?,
            fresh,
        })
    }

    #[tokio::test]
    async fn a_silent_provider_is_sent_no_more_than_there_are_permits() {
        let concurrency = Concurrency::new(8);
        let mut unavailable = Vec::new();
        for _ in 0..8 {
            let permit = permit(&concurrency, true).await.expect("a permit");
            unavailable.push(concurrency.failed(permit, true));
        }
        assert_eq!(
            unavailable,
            [false, false, false, false, true, true, true, true]
        );
        assert!(permit(&concurrency, true).await.is_none(), "nothing new");
        // What is indeterminate already can be repeated, and adds nothing.
        for _ in 0..20 {
            let permit = permit(&concurrency, false).await.expect("a permit");
            concurrency.failed(permit, true);
        }
        concurrency.succeeded();
        assert!(permit(&concurrency, true).await.is_some());
    }

    #[tokio::test]
    async fn what_never_left_keeps_no_permit() {
        let concurrency = Concurrency::new(2);
        for _ in 0..20 {
            let permit = permit(&concurrency, true).await.expect("a permit");
            concurrency.failed(permit, false);
        }
    }

    #[test]
    fn a_few_milliseconds_are_claimed_ahead_and_in_few_claims() {
        let permits = 50;
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut state = State {
            window: permits,
            claimed: 0,
            unrecorded: 0,
            finished: 0,
            counted_from: began,
            ahead: 0,
            in_vain: 0,
            lost: 0,
            was_full: false,
        };
        assert_eq!(
            state.free(permits),
            permits,
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
            assert_eq!(state.free(permits), free, "{claimed} claimed");
        }
        state.claimed = 60;
        state.window = permits - 1;
        assert_eq!(
            state.free(permits),
            0,
            "and none while the account has to show that it is healthy"
        );
        // It slows down to an answer a second for each permit but ten.
        state.window = permits;
        for second in 1..40 {
            state.finished = 39;
            state.count(at(1_000 * second));
        }
        assert_eq!(state.ahead, 0);
        for (claimed, free) in [(48, 2), (50, 0)] {
            state.claimed = claimed;
            assert_eq!(
                state.free(permits),
                free,
                "{claimed} claimed, nothing ahead"
            );
        }
    }

    #[tokio::test]
    async fn after_a_failure_one_message_is_sent_first() {
        let concurrency = Concurrency::new(50);
        assert_eq!(concurrency.available().await, FIRST_WINDOW);
        concurrency.slow_down();
        let (permit, _unrecorded) = concurrency.take();
        assert!(futures_util::FutureExt::now_or_never(concurrency.available()).is_none());
        concurrency.succeeded();
        assert_eq!(concurrency.available().await, 1);
        drop(permit);
        assert_eq!(concurrency.available().await, 2);
    }
}
