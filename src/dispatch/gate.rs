//! The last question before a request: is its slot open, and may it still be sent?

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use tokio::sync::MutexGuard;

use super::{Dispatch, Lane, letter::Letter, situation};
use crate::{
    lifecycle::{Admission, ErrorClass, Settlement, Trouble},
    outbox::{Claim, Slots},
};

/// How far ahead of the present slots are reserved. An urgent message waits behind no more than this, unless one of many
/// recipients is before it: that one needs a gap, and reserves up to a second ahead, one at a time.
const HORIZON: Duration = Duration::from_millis(40);
/// How far ahead the next of those who missed their slots reserves another. Further than claims do, or they would take every
/// slot before it.
const LATE_HORIZON: Duration = Duration::from_secs(1);
/// How late a message may leave its slot at least; more where the database is far away.
const SLACK: Duration = Duration::from_millis(20);
/// As much of it is left to the way to the provider, who counts what arrives: a message that leaves in time and is slow, and one
/// a second later that is quick, must not meet.
const ON_ITS_WAY: Duration = Duration::from_millis(10);
/// The most slack, however far the database is.
const MOST_SLACK: Duration = Duration::from_millis(500);
/// So many answers of the database in a row have to be late before slots last longer.
pub(super) const ROUND_TRIPS: usize = 4;

/// The right to make one request. Made by the gate, consumed by sending.
pub(super) struct Permit {
    /// The gate has made sure that a request which is over by then fits into lease and guard. Connecting takes time, and a
    /// process may be frozen right behind the gate: what has not left by then must not leave at all.
    pub(super) until: Instant,
    /// When its slot is over. What has not left by then needs another; `None`: there is no limit.
    pub(super) turn: Option<Instant>,
}

/// Why the gate let a claim not through.
pub(super) enum Held {
    /// The worker is stopping.
    Stopping,
    /// A message of equal content is under way.
    Twin,
    /// Time has decided against it.
    Refused(Admission),
}

/// Ten milliseconds in which one message may leave.
pub(super) struct Slot<'a> {
    /// It began between `asked` and `received`, plus `wait_us`.
    asked: Instant,
    received: Instant,
    wait_us: i64,
    /// How late after its beginning the message may leave: as much as was reserved for it, whatever has changed since.
    slack: Duration,
    /// Who missed a slot keeps the others who did waiting until the new one has begun.
    _first_in_line: Option<MutexGuard<'a, ()>>,
}

impl Slot<'_> {
    /// What the claim reserved; `None` for what needs no slot.
    pub(super) fn of(claim: &Claim) -> Option<Self> {
        claim.slack.map(|slack| Self {
            asked: claim.asked,
            received: claim.received,
            wait_us: claim.wait_us.into(),
            slack,
            _first_in_line: None,
        })
    }

    /// Judged by the latest moment at which it can have begun.
    fn opens(&self) -> Instant {
        shifted(self.received, self.wait_us.max(0))
    }

    /// Judged by the earliest moment at which it can have begun.
    fn closes(&self) -> Instant {
        shifted(self.asked, self.wait_us) + self.slack.saturating_sub(ON_ITS_WAY)
    }
}

impl Dispatch {
    /// Waits for the slot that was reserved, and asks once more whether it may still be sent, by a clock that cannot be set.
    pub(super) async fn gate<'a>(
        &self,
        lane: &'a Lane,
        claim: &Claim,
        letter: &Letter,
        mut slot: Option<Slot<'a>>,
    ) -> Result<Permit, Held> {
        let limited = claim.slack.is_some();
        loop {
            if let Some(slot) = &slot
                && self
                    .unless_stopping(tokio::time::sleep_until(slot.opens().into()))
                    .await
                    .is_none()
            {
                return Err(Held::Stopping);
            }
            if self.stop.is_cancelled() {
                return Err(Held::Stopping);
            }
            let until = Instant::now() + self.settings.policy.request_timeout;
            match self.settings.policy.admit(&situation(claim)) {
                Admission::Send => {}
                refused => return Err(Held::Refused(refused)),
            }
            let turn = slot.take().map(|slot| slot.closes());
            if !limited || turn.is_some_and(|turn| Instant::now() <= turn) {
                return Ok(Permit { until, turn });
            }
            // Forfeited: leaving now could meet another's slot in one second.
            if turn.is_some() {
                lane.metrics.slots_forfeited.inc();
            }
            // Boxed: a call to the database makes a future of 13 kB, which every job would carry about though few make one.
            slot = Box::pin(self.another_slot(lane, claim, letter)).await;
        }
    }

    /// As [`gate`](Self::gate), for a request that missed its slot behind the gate, because connecting took long: says until
    /// when it may leave.
    pub(super) async fn another_turn(
        &self,
        lane: &Lane,
        claim: &Claim,
        letter: &Letter,
    ) -> Result<Instant, Held> {
        lane.metrics.slots_forfeited.inc();
        let permit = self.gate(lane, claim, letter, None).await?;
        Ok(permit.turn.unwrap_or(permit.until))
    }

    /// Reserves anew. `None`: not now, and the caller asks again.
    async fn another_slot<'a>(
        &self,
        lane: &'a Lane,
        claim: &Claim,
        letter: &Letter,
    ) -> Option<Slot<'a>> {
        // Urgent ones do not line up. The others ask one after the other: many that are late together would fill a second in
        // advance, and keep an urgent one waiting for it.
        let first_in_line = if claim.urgent() {
            None
        } else {
            Some(self.unless_stopping(lane.late.lock()).await?)
        };
        let slots = Slots {
            horizon: LATE_HORIZON,
            ..self.slots(lane)
        };
        let asked = Instant::now();
        let pause = match self
            .outbox
            .reserve_slot(
                &lane.account,
                slots,
                letter.recipients.len(),
                claim.urgent(),
            )
            .await
        {
            Ok(Some(us)) => {
                self.outage.over();
                let received = Instant::now();
                lane.follow(received - asked);
                return Some(Slot {
                    asked,
                    received,
                    wait_us: us.into(),
                    slack: slots.slack,
                    _first_in_line: first_in_line,
                });
            }
            Ok(None) => Duration::from_millis(20),
            Err(error) => self.outage.failed(&error),
        };
        self.unless_stopping(tokio::time::sleep(pause)).await;
        None
    }

    /// The limit, as a claim of this account is to apply it now.
    pub(super) fn slots(&self, lane: &Lane) -> Slots {
        Slots {
            per_second: self.settings.rate_per_second,
            slack: lane.slack(),
            horizon: HORIZON,
        }
    }
}

impl Lane {
    /// Lets the slack follow the time that the database takes to answer, so that a slow one costs throughput and never the
    /// limit, and no slot is given up for ever. A single slow answer costs its slots and nothing else: only when several in a
    /// row were slow do slots last longer, because for so much longer they count.
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

    /// Room for twice what the database surely takes, and for waking up.
    fn slack(&self) -> Duration {
        let latest = self
            .round_trips
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let surely = latest.iter().min().copied().unwrap_or_default();
        (Duration::from_millis(10) + 2 * surely).clamp(SLACK, MOST_SLACK)
    }
}

impl Held {
    /// What becomes of the job.
    pub(super) fn settlement(self) -> Settlement {
        let back = |delay| Settlement::GiveBack {
            delay,
            trouble: None,
        };
        match self {
            Self::Stopping | Self::Refused(Admission::Send) => back(Duration::ZERO),
            // Not at once again: a lease that hardly outlasts a request would be claimed and given back in circles.
            Self::Twin | Self::Refused(Admission::LeaseTooShort | Admission::ExpiredInDoubt) => {
                back(Duration::from_secs(1))
            }
            Self::Refused(Admission::Expired) => Settlement::Expired,
            Self::Refused(Admission::DoubtTooOld) => Settlement::Uncertain(Trouble::new(
                ErrorClass::Timeout,
                "An earlier request was never answered, and it is too long ago to be repeated under the provider's \
                 duplicate guard.",
            )),
        }
    }
}

/// How many single recipients the horizon can hold.
pub(super) fn slots_ahead(slots: Slots) -> usize {
    let ahead = u128::from(slots.per_second) * slots.horizon.as_millis() / 1_000;
    usize::try_from(ahead)
        .unwrap_or(usize::MAX)
        .saturating_add(1)
}

/// `moment` moved by microseconds, backwards too.
fn shifted(moment: Instant, us: i64) -> Instant {
    let by = Duration::from_micros(us.unsigned_abs());
    // A process that started less than a slot ago has no earlier moment to name.
    if us >= 0 {
        moment + by
    } else {
        moment.checked_sub(by).unwrap_or(moment)
    }
}
