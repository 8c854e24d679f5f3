//! The pre-send check: is the slot of the request open, and may the job still be sent?

use std::{sync::PoisonError, time::Duration};

use tokio::sync::MutexGuard;

use super::{AccountState, Dispatch, content_lock::ContentTurn, job_state, parse::ParsedJob};
use crate::{
    clock::Moment,
    lifecycle::{ErrorClass, Failure, Outcome, PreSendCheck},
    metrics::Metrics,
    outbox::{Claim, Slots},
};

/// How far ahead slots are reserved. An urgent message waits no longer than this, unless a message to many recipients is
/// before it: that one needs a gap, and reserves up to a second ahead, one at a time.
const HORIZON: Duration = Duration::from_millis(40);
/// How far ahead a message that missed its slot reserves another. Further than claims do, because claims would take every slot
/// before it.
const LATE_HORIZON: Duration = Duration::from_secs(1);
/// The least lateness tolerance: how late in its slot a message may leave. It is larger where the database is far away.
const TOLERANCE: Duration = Duration::from_millis(20);
/// The part of the tolerance that is kept for the network. The provider counts what arrives: a slow message, and a fast one that
/// leaves a second later, must not arrive in the same second.
const ON_ITS_WAY: Duration = Duration::from_millis(10);
/// The largest tolerance, however far the database is.
const MOST_TOLERANCE: Duration = Duration::from_millis(500);
/// So many answers of the database in a row have to be late before the tolerance grows.
pub(super) const ROUND_TRIPS: usize = 4;

/// The right to make one request. Made by the gate, consumed by sending.
pub(super) struct Permit {
    /// The gate has made sure that a request which is over by then fits into lease and guard. Connecting takes time, and a
    /// process may be frozen right behind the gate: what has not left by then must not leave at all.
    pub(super) until: Moment,
    /// When its slot is over. What has not left by then needs another; `None`: there is no limit.
    pub(super) slot_ends: Option<Moment>,
}

/// Why a claimed job is not sent.
pub(super) enum Withheld {
    /// The worker is stopping.
    Stopping,
    /// A message of equal content is in flight, and so many others wait for it.
    Duplicate(ContentTurn),
    /// The provider is unavailable.
    Outage,
    /// The pre-send check refused it.
    Refused(PreSendCheck),
}

/// Ten milliseconds in which one message may leave.
pub(super) struct Slot<'a> {
    /// It began between `asked` and `received`, plus `wait_us`.
    asked: Moment,
    received: Moment,
    wait_us: i64,
    /// How late after its beginning the message may leave: as much as was reserved for it, whatever has changed since.
    tolerance: Duration,
    /// A message that missed its slot makes the others that did wait until its new slot begins.
    _first_in_line: Option<MutexGuard<'a, ()>>,
}

impl Slot<'_> {
    /// What the claim reserved; `None` for what needs no slot.
    pub(super) fn of(claim: &Claim) -> Option<Self> {
        claim.tolerance.map(|tolerance| Self {
            asked: claim.asked,
            received: claim.received,
            wait_us: claim.wait_us.into(),
            tolerance,
            _first_in_line: None,
        })
    }

    /// Its beginning, at the latest.
    fn opens(&self) -> Moment {
        shifted(self.received, self.wait_us.max(0))
    }

    /// Its end, at the earliest.
    fn closes(&self) -> Moment {
        shifted(self.asked, self.wait_us) + self.tolerance.saturating_sub(ON_ITS_WAY)
    }
}

impl Dispatch {
    /// Waits for the slot that was reserved, and checks once more whether the job may be sent, by a clock that nothing stops.
    pub(super) async fn gate<'a>(
        &self,
        account: &'a AccountState,
        claim: &Claim,
        parsed: &ParsedJob,
        mut slot: Option<Slot<'a>>,
    ) -> Result<Permit, Withheld> {
        let limited = claim.tolerance.is_some();
        loop {
            if let Some(slot) = &slot
                && self
                    .unless_stopping(tokio::time::sleep(slot.opens().left()))
                    .await
                    .is_none()
            {
                return Err(Withheld::Stopping);
            }
            if self.stop.is_cancelled() {
                return Err(Withheld::Stopping);
            }
            let until = Moment::now() + self.settings.policy.request_timeout;
            match self.settings.policy.check(&job_state(claim)) {
                PreSendCheck::Send => {}
                refused => return Err(Withheld::Refused(refused)),
            }
            let slot_ends = slot.take().map(|slot| slot.closes());
            if !limited || slot_ends.is_some_and(|end| Moment::now() <= end) {
                return Ok(Permit { until, slot_ends });
            }
            // Forfeited: leaving now could meet another's slot in one second.
            if slot_ends.is_some() {
                account.metrics.slots_forfeited.inc();
            }
            // Boxed: a call to the database makes a future of 13 kB, which every job would carry about though few make one.
            slot = Box::pin(self.reserve_another(account, claim, parsed)).await;
        }
    }

    /// As [`gate`](Self::gate), for a request that missed its slot behind the gate, because connecting took long: says until
    /// when it may leave.
    pub(super) async fn next_slot(
        &self,
        account: &AccountState,
        claim: &Claim,
        parsed: &ParsedJob,
    ) -> Result<Moment, Withheld> {
        account.metrics.slots_forfeited.inc();
        let permit = self.gate(account, claim, parsed, None).await?;
        Ok(permit.slot_ends.unwrap_or(permit.until))
    }

    /// Reserves another slot. `None`: none is free now, and the caller tries again.
    async fn reserve_another<'a>(
        &self,
        account: &'a AccountState,
        claim: &Claim,
        parsed: &ParsedJob,
    ) -> Option<Slot<'a>> {
        // Urgent messages do not queue here. The others reserve one after the other: many late ones would otherwise fill the
        // next second together, and an urgent message would wait for it.
        let first_in_line = if claim.urgent() {
            None
        } else {
            Some(self.unless_stopping(account.late.lock()).await?)
        };
        let slots = Slots {
            horizon: LATE_HORIZON,
            ..self.slots(account)
        };
        let asked = Moment::now();
        let pause = match self
            .outbox
            .reserve_slot(
                &account.name,
                slots,
                parsed.recipients.len(),
                claim.urgent(),
            )
            .await
        {
            Ok(Some(us)) => {
                self.outage.over();
                let received = Moment::now();
                account.follow(received - asked);
                return Some(Slot {
                    asked,
                    received,
                    wait_us: us.into(),
                    tolerance: slots.tolerance,
                    _first_in_line: first_in_line,
                });
            }
            Ok(None) => Duration::from_millis(20),
            Err(error) => self.outage.failed(&error),
        };
        self.unless_stopping(tokio::time::sleep(pause)).await;
        None
    }

    /// The limit that a claim of this account applies now.
    pub(super) fn slots(&self, account: &AccountState) -> Slots {
        Slots {
            per_second: self.settings.rate_per_second,
            tolerance: account.tolerance(),
            horizon: HORIZON,
        }
    }
}

impl AccountState {
    /// Records how long the database took, which the tolerance follows. So a slow database costs throughput, never breaks the
    /// limit, and does not forfeit every slot. One slow answer forfeits its own slots only: the tolerance grows when several
    /// in a row were slow, because a longer slot also counts for longer.
    pub(super) fn follow(&self, round_trip: Duration) {
        let mut latest = self
            .round_trips
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        latest.rotate_left(1);
        if let Some(last) = latest.last_mut() {
            *last = round_trip;
        }
    }

    /// The limit that holds, in recipients a second; 0: none.
    pub(super) fn limit(&self) -> u32 {
        self.metrics.current_limit()
    }

    /// Waits until the fleet knows of this worker, and this worker of the fleet's limit.
    pub(super) async fn informed(&self) {
        // Fails only when the sender is gone, which belongs to this account.
        self.ready.subscribe().wait_for(|ready| *ready).await.ok();
    }

    /// Twice the fastest of the latest round trips, and 10 ms for waking up.
    fn tolerance(&self) -> Duration {
        let latest = self
            .round_trips
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let surely = latest.iter().min().copied().unwrap_or_default();
        (Duration::from_millis(10) + 2 * surely).clamp(TOLERANCE, MOST_TOLERANCE)
    }
}

impl Withheld {
    /// What becomes of the job.
    pub(super) fn outcome(self, metrics: &Metrics) -> Outcome {
        let release = |delay| Outcome::Release {
            delay,
            failure: None,
        };
        match self {
            Self::Stopping | Self::Outage | Self::Refused(PreSendCheck::Send) => {
                release(Duration::ZERO)
            }
            Self::Duplicate(turn) => release(turn.comes_in()),
            Self::Refused(PreSendCheck::IndeterminateExpired) => release(Duration::from_secs(1)),
            Self::Refused(PreSendCheck::LeaseTooShort) => {
                metrics.lost_leases.inc();
                // Not at once: with a lease that is hardly longer than a request the job would be claimed and released in a loop.
                release(Duration::from_secs(1))
            }
            Self::Refused(PreSendCheck::Expired) => Outcome::Expired,
            Self::Refused(PreSendCheck::GuardElapsed) => Outcome::Uncertain(Failure::new(
                ErrorClass::Timeout,
                "An earlier request was never answered, and it is too long ago to be repeated under the provider's \
                 duplicate guard.",
            )),
        }
    }
}

/// How many messages to one recipient fit before the horizon.
pub(super) fn slots_ahead(per_second: u32, horizon: Duration) -> usize {
    let ahead = u128::from(per_second) * horizon.as_millis() / 1_000;
    usize::try_from(ahead)
        .unwrap_or(usize::MAX)
        .saturating_add(1)
}

/// `moment` moved by microseconds, backwards too.
fn shifted(moment: Moment, us: i64) -> Moment {
    let by = Duration::from_micros(us.unsigned_abs());
    if us >= 0 {
        moment + by
    } else {
        moment.before(by)
    }
}
