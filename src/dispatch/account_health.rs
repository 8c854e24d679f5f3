//! How the provider does for an account: what this worker has seen, and what the fleet knows.
//!
//! An outage begins when several requests in a row get no sensible answer. From then on nothing new leaves; what may have been
//! accepted before is repeated, which makes nothing else indeterminate, and the balance is asked for. Any healthy answer ends it. Where the balance is
//! answered and orders are not, one new message is tried now and then.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{AccountState, Dispatch, concurrency::RequestPermit, jitter};
use crate::{
    failpoints,
    lifecycle::{Blame, ErrorClass, Failure, Verdict},
    outbox::{Claim, Heartbeat, OutboxError},
};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Probes of an outage: a question for the balance costs the provider little, and a password waits for its answer.
const FIRST_PROBE: Duration = Duration::from_secs(1);
const LONGEST_BETWEEN_PROBES: Duration = Duration::from_secs(10);
/// Each new message that is tried may become uncertain; it is repeated itself for as long as the guard window lasts.
const FIRST_BETWEEN_TRIALS: Duration = Duration::from_secs(2);
const LONGEST_BETWEEN_TRIALS: Duration = Duration::from_secs(300);
/// A worker that brings a smaller limit than the others waits for so long: what they have claimed already leaves meanwhile.
const LIMIT_SETTLES: Duration = Duration::from_millis(1_200);
/// A probe that tells whose failure an answer is must leave time to record it before the lease ends.
const BLAME_PROBE: Duration = Duration::from_secs(5);

/// What this worker knows of the provider, for one account.
#[derive(Debug)]
pub(super) struct Health {
    seen: Mutex<Seen>,
    /// Whether the fleet is in an outage.
    outage: watch::Sender<bool>,
    /// Whether one new message may be tried in it.
    trial: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Seen {
    accepted: Option<Instant>,
    healthy: Option<Instant>,
    claimed: [Option<(Instant, chrono::DateTime<chrono::Utc>)>; 4],
    limits_differ: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            outage: watch::Sender::new(false),
            trial: watch::Sender::new(false),
        }
    }
}

impl Health {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing new may leave.
    pub(super) fn is_outage(&self) -> bool {
        *self.outage.borrow()
    }

    /// Waits until nothing new may leave.
    pub(super) async fn outage(&self) {
        // Fails only when the sender is gone, which is this very value.
        self.outage
            .subscribe()
            .wait_for(|outage| *outage)
            .await
            .ok();
    }

    /// Whether this worker is to try one new message in the outage.
    pub(super) fn is_trial(&self) -> bool {
        *self.trial.borrow()
    }

    /// The trial was made, or there is nothing to try.
    pub(super) fn trial_over(&self) {
        self.trial.send_replace(false);
    }

    /// Notes what was claimed: what was due later waits behind it.
    pub(super) fn claimed(&self, claims: &[Claim]) {
        let now = Instant::now();
        let mut seen = self.seen();
        for claim in claims {
            let Some(place) = usize::try_from(claim.priority)
                .ok()
                .and_then(|n| seen.claimed.get_mut(n))
            else {
                continue;
            };
            let due_at = place.map_or(claim.due_at, |(when, due_at)| {
                if when == now {
                    due_at.max(claim.due_at)
                } else {
                    claim.due_at
                }
            });
            *place = Some((now, due_at));
        }
    }
}

impl Dispatch {
    /// Keeps the fleet and this worker informed of each other. In a task of its own for each account.
    pub(super) async fn keep_informed(self: Arc<Self>, account: Arc<AccountState>) {
        loop {
            let pause = match self.heartbeat(&account).await {
                Ok(()) => HEARTBEAT.mul_f64(0.75 + jitter() / 4.0),
                Err(error) => self.outage.failed(&error),
            };
            if !self.sleep(pause).await {
                return;
            }
        }
    }

    async fn heartbeat(&self, account: &AccountState) -> Result<(), OutboxError> {
        let (accepted, healthy, claimed, differed) = {
            let seen = account.health.seen();
            let ago = |moment: Option<Instant>| moment.map(|moment| moment.elapsed());
            let claimed = seen
                .claimed
                .map(|one| one.map(|(when, due)| (when.elapsed(), due)));
            (
                ago(seen.accepted),
                ago(seen.healthy),
                claimed,
                seen.limits_differ,
            )
        };
        let known = self
            .outbox
            .heartbeat(Heartbeat {
                account: &account.name,
                worker: &self.settings.worker,
                per_second: self.settings.rate_per_second,
                accepted,
                healthy,
                claimed,
            })
            .await?;
        let limit = u32::try_from(known.rate_per_second).unwrap_or(0);
        account.metrics.limit(limit);
        if known.limits_differ != differed {
            account.health.seen().limits_differ = known.limits_differ;
            let (own, smallest) = (self.settings.rate_per_second, limit);
            if known.limits_differ {
                tracing::warn!(
                    account = %account.name, own, smallest,
                    "the workers of this account were given different limits: the smallest holds for all of them"
                );
            } else {
                tracing::info!(account = %account.name, limit, "the workers of this account agree on the limit again");
            }
        }
        if let Some(ms) = known.outage_ended_ms {
            self.say_it_is_over(
                account,
                Duration::from_millis(u64::try_from(ms).unwrap_or(0)),
            );
        }
        self.follow(account, known.outage);
        // A limit that did not hold for the others until now has to be kept by what they have claimed already.
        let before = known.rate_before;
        let brings_it = before == 0 || before > known.rate_per_second;
        if known.is_new && known.limits_differ && limit > 0 && brings_it {
            self.sleep(LIMIT_SETTLES).await;
        }
        account.ready.send_replace(true);
        Ok(())
    }

    /// Does here what the fleet has agreed on.
    fn follow(&self, account: &AccountState, outage: bool) {
        let outage = failpoints::outage(outage);
        let was = account.health.outage.send_replace(outage);
        account.metrics.outage(outage);
        if was && !outage {
            account.health.trial_over();
            account.concurrency.start_again();
        }
    }

    /// Learns from what the provider said, or did not say, and gives the permit back.
    pub(super) async fn learn(
        &self,
        account: &AccountState,
        verdict: &Verdict,
        permit: RequestPermit,
    ) {
        let (failure, lost) = match verdict {
            Verdict::NotSent(failure) => (failure, false),
            Verdict::Indeterminate(failure) => (failure, true),
            Verdict::Accepted(_) | Verdict::Duplicate | Verdict::Refused(_) => {
                if matches!(verdict, Verdict::Accepted(_)) {
                    account.health.seen().accepted = Some(Instant::now());
                }
                account.concurrency.succeeded();
                return self.is_healthy(account).await;
            }
            Verdict::Blocked { .. } | Verdict::Throttled { .. } => {
                account.concurrency.slow_down();
                return self.is_healthy(account).await;
            }
        };
        if account.concurrency.failed(permit, lost) && !account.health.is_outage() {
            // Boxed, and so is the end below: what a call to the database needs would make the future of every job larger.
            Box::pin(self.begin_outage(account, failure)).await;
        }
    }

    /// The provider has answered: whatever it said, it is there.
    async fn is_healthy(&self, account: &AccountState) {
        account.health.seen().healthy = Some(Instant::now());
        if account.health.is_outage() {
            Box::pin(self.end_outage(account, true)).await;
        }
    }

    async fn begin_outage(&self, account: &AccountState, failure: &Failure) {
        // Here at once, whatever the database says.
        self.follow(account, true);
        account.concurrency.slow_down();
        match self
            .outbox
            .begin_outage(&account.name, &self.settings.worker, failure, FIRST_PROBE)
            .await
        {
            Ok(true) => {
                account.metrics.outage_begun();
                tracing::error!(
                    account = %account.name, error.class = %failure.class, reason = %failure.message,
                    "the provider is unavailable: nothing new is sent until it answers, and jobs wait without spending attempts"
                );
            }
            Ok(false) => {}
            Err(error) => drop(self.outage.failed(&error)),
        }
    }

    async fn end_outage(&self, account: &AccountState, answered: bool) {
        match self.outbox.end_outage(&account.name, answered).await {
            Ok(lasted) => {
                if let Some(lasted) = lasted {
                    self.say_it_is_over(account, lasted);
                }
                self.follow(account, false);
                self.bring_forward(account).await;
            }
            Err(error) => drop(self.outage.failed(&error)),
        }
    }

    fn say_it_is_over(&self, account: &AccountState, lasted: Duration) {
        let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(account = %account.name, lasted_ms, "recovered: the provider is available again");
    }

    async fn bring_forward(&self, account: &AccountState) {
        let settle_delay = self.settings.policy.settle_delay;
        if let Err(error) = self.outbox.bring_forward(&account.name, settle_delay).await {
            self.outage.failed(&error);
        }
    }

    /// Asks whether an outage is over, if it is time to and no other worker does.
    pub(super) async fn probe_outage(&self, account: &AccountState) -> Result<(), OutboxError> {
        if !account.health.is_outage() {
            return Ok(());
        }
        let Some(trial_is_due) = self
            .outbox
            .due_outage_probe(&account.name, FIRST_PROBE, LONGEST_BETWEEN_PROBES)
            .await?
        else {
            return Ok(());
        };
        let reached = match self.provider.balance(&account.credentials).await {
            Ok(_) => true,
            Err(error) => error.is_from_the_provider(),
        };
        if !reached {
            return Ok(());
        }
        // What is indeterminate is the better probe, for it asks the question that matters.
        self.bring_forward(account).await;
        if trial_is_due
            && self
                .outbox
                .take_trial(&account.name, FIRST_BETWEEN_TRIALS, LONGEST_BETWEEN_TRIALS)
                .await?
        {
            account.health.trial.send_replace(true);
        }
        Ok(())
    }

    /// A trial found nothing to try: nothing waits, so the next message is the trial.
    pub(super) async fn nothing_to_try(&self, account: &AccountState) {
        account.health.trial_over();
        self.end_outage(account, false).await;
    }

    /// What tells whose failure it is that an answer blames the account for. `None`: the account's.
    pub(super) async fn blame(
        &self,
        account: &AccountState,
        claim: &Claim,
        failure: &Failure,
    ) -> Option<Blame> {
        let accepted = account
            .health
            .seen()
            .accepted
            .map(|moment| moment.elapsed());
        let blame = match self
            .outbox
            .blame(&account.name, claim.id, failure, accepted)
            .await
        {
            Ok(blame) => blame,
            Err(error) => {
                self.outage.failed(&error);
                return None;
            }
        };
        // The question is asked only where its answer matters.
        let answered = Blame {
            probe_answered: true,
            ..blame
        };
        if answered.is_the_accounts() && !answered.is_the_jobs() {
            return Some(blame);
        }
        let probe = self.provider.balance(&account.credentials);
        let probe_answered = match tokio::time::timeout(BLAME_PROBE, probe).await {
            Ok(Ok(balance)) => failure.class != ErrorClass::Balance || !balance.is_used_up(),
            Ok(Err(_)) | Err(_) => false,
        };
        Some(Blame {
            probe_answered,
            ..blame
        })
    }
}
