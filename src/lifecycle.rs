//! One lifecycle, in one file: what a job can be, what an answer can mean, and every transition between.
//!
//! Nothing here knows a database, a socket or a clock: durations come in as arguments, outcomes go out as values.
//!
//! ```text
//! Reply -classify-> Verdict -decide-> Outcome -record-> row
//! ```

use std::{str::FromStr, time::Duration};

use uuid::Uuid;

pub use crate::job::{ErrorClass, OrderId, Status, UnknownValue};

use crate::backoff::{Backoff, unit_interval};

/// What went wrong, as it is written on the row: never holds a number, a text or a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whose failure it is.
    pub class: ErrorClass,
    /// The provider's own number, where it gave one.
    pub code: Option<i32>,
    /// One sentence for the operator: what happened, and where it helps, what to do.
    pub message: String,
}

impl Failure {
    /// A failure that the provider did not number.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            code: None,
            message: message.into(),
        }
    }

    /// A failure with the provider's number.
    pub fn with_code(class: ErrorClass, code: i32, message: impl Into<String>) -> Self {
        Self {
            class,
            code: Some(code),
            message: message.into(),
        }
    }
}

/// Whom a pause holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PauseScope {
    /// Every job of the account.
    Account,
    /// The jobs of one sender of the account.
    Sender,
    /// The account's marketing jobs (`iys = true`) only.
    Iys,
}

impl PauseScope {
    /// The text that `sms_outbox.pauses.scope` holds.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Sender => "sender",
            Self::Iys => "iys",
        }
    }
}

impl FromStr for PauseScope {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Account, Self::Sender, Self::Iys]
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownValue {
                what: "pause scope",
                text: text.to_owned(),
                known: "account, sender, iys".to_owned(),
            })
    }
}

/// How far a request got, as far as can be proved. The text form is `sms_outbox.attempts.progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    /// It surely never left this process whole.
    NotSent,
    /// It may have been accepted; no answer was read.
    MaybeSent,
    /// An answer was read, whatever it said.
    Answered,
}

impl Progress {
    /// The text that the database holds.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::MaybeSent => "maybe_sent",
            Self::Answered => "answered",
        }
    }
}

/// What the provider's answer, or its absence, means for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Taken; this is the provider's number for it, where one could be read.
    Accepted(Option<OrderId>),
    /// Code 451: the same content was taken a short while ago.
    Duplicate,
    /// Will never be taken as it stands. Trying again cannot help.
    Refused(Failure),
    /// Not the message's fault: everyone in `scope` waits, and no attempt is spent.
    Blocked {
        /// Who waits.
        scope: PauseScope,
        /// Why.
        failure: Failure,
    },
    /// Not taken now because there were too many. The account waits as long as the provider asks, within bounds.
    Throttled {
        /// Why.
        failure: Failure,
        /// What the provider asked for, where it did.
        retry_after: Option<Duration>,
    },
    /// Surely never left this process whole, so it may be tried again freely.
    NotSent(Failure),
    /// It may have been accepted: indeterminate.
    Indeterminate {
        /// What was observed.
        failure: Failure,
        /// Whether an answer came. If it did, the request is no longer on its way and needs no cool-down before its repeat.
        answered: bool,
    },
}

/// A pause that follows from a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Who waits.
    pub scope: PauseScope,
    /// How long, where the end is known. `None`: until a probe of the account succeeds.
    pub lasts: Option<Duration>,
}

/// What is to be recorded about a claimed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted. Final.
    Sent {
        /// The provider's number, where one was read.
        order_id: Option<OrderId>,
        /// Whether the provider's duplicate guard said so (451).
        duplicate: bool,
    },
    /// Given up. Final.
    Failed(Failure),
    /// `expires_at` came first. Final.
    Expired,
    /// May have been taken, and may no longer be repeated.
    Uncertain(Failure),
    /// Back to the queue; the attempt is spent.
    Retry {
        /// How long to wait.
        delay: Duration,
        /// Why.
        failure: Failure,
        /// Whether this request may have been taken. Starts the guard window if no earlier one has.
        indeterminate: bool,
    },
    /// Back to the queue, the attempt returned.
    Release {
        /// How long to wait. Zero: it is due when it was.
        delay: Duration,
        /// Why, where there is something to tell.
        failure: Option<Failure>,
    },
}

/// The settings that outcomes depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest one request may take (`SMS_OUTBOX_REQUEST_TIMEOUT`).
    pub request_timeout: Duration,
    /// How long a claim holds (`SMS_OUTBOX_LEASE`).
    pub lease: Duration,
    /// How long after the first indeterminate claim the provider's duplicate guard surely stands (`SMS_OUTBOX_GUARD_WINDOW`).
    pub guard_window: Duration,
    /// The cool-down of a lost answer before its repeat (`SMS_OUTBOX_SETTLE_DELAY`).
    pub settle_delay: Duration,
    /// Spacing of ordinary retries.
    pub backoff: Backoff,
}

/// What is known about a claimed job when its outcome is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobState {
    /// Which job.
    pub job: Uuid,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// How many attempts the producer allows.
    pub max_attempts: u32,
    /// How many claims before this one were released, whatever the reason.
    pub released: u32,
    /// How long ago this attempt was claimed. An upper bound: measured from before the claim was asked for.
    pub since_claim: Duration,
    /// How long ago the first attempt was claimed that may have been taken and was never answered; `None` if none was.
    pub indeterminate_age: Option<Duration>,
    /// How long until `expires_at`. Zero: it has come.
    pub expires_in: Option<Duration>,
}

/// Whether a claimed job may still be sent, asked right before its first byte leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreSendCheck {
    /// Now.
    Send,
    /// `expires_at` has come.
    Expired,
    /// `expires_at` has come, and an unanswered earlier request may have been taken in time. The database ends it: ages are
    /// upper bounds here, and an indeterminate job must not end a moment before its time.
    IndeterminateExpired,
    /// An earlier indeterminate attempt is older than the provider's guard: a repeat could be a second message.
    GuardElapsed,
    /// The answer could come after the lease has ended: someone else would hold the job by then.
    LeaseTooShort,
}

impl Policy {
    /// Asked for every claimed job right before its request leaves.
    #[must_use]
    pub fn check(&self, job_state: &JobState) -> PreSendCheck {
        let expired = job_state.expires_in.is_some_and(|left| left.is_zero());
        let guard_elapsed = job_state
            .indeterminate_age
            .is_some_and(|age| !self.is_guarded(age));
        if guard_elapsed {
            PreSendCheck::GuardElapsed
        } else if expired {
            if job_state.indeterminate_age.is_some() {
                PreSendCheck::IndeterminateExpired
            } else {
                PreSendCheck::Expired
            }
        } else if job_state.since_claim + self.request_timeout >= self.lease {
            PreSendCheck::LeaseTooShort
        } else {
            PreSendCheck::Send
        }
    }

    /// What follows from `verdict`.
    #[must_use]
    pub fn decide(&self, job_state: &JobState, verdict: Verdict) -> (Outcome, Option<Pause>) {
        let pause = match &verdict {
            Verdict::Blocked { scope, .. } => Some(Pause {
                scope: *scope,
                lasts: None,
            }),
            Verdict::Throttled { retry_after, .. } => {
                let lasts = Some(self.throttle(job_state, *retry_after));
                Some(Pause {
                    scope: PauseScope::Account,
                    lasts,
                })
            }
            Verdict::Accepted(_)
            | Verdict::Duplicate
            | Verdict::Refused(_)
            | Verdict::NotSent(_)
            | Verdict::Indeterminate { .. } => None,
        };
        (self.outcome(job_state, verdict), pause)
    }

    fn outcome(&self, job_state: &JobState, verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Accepted(order_id) => Outcome::Sent {
                order_id,
                duplicate: false,
            },
            Verdict::Duplicate => Outcome::Sent {
                order_id: None,
                duplicate: true,
            },
            Verdict::Refused(failure) => Outcome::Failed(failure),
            // The job waits, longer each time. If the provider (or a firewall before it) objects only to this job, the others
            // must be able to go first when the pause ends.
            Verdict::Blocked { failure, .. } => Outcome::Release {
                delay: self.backoff.ceiling(job_state.released.saturating_add(1)),
                failure: Some(failure),
            },
            Verdict::Throttled {
                failure,
                retry_after,
            } => {
                let delay = self.throttle(job_state, retry_after);
                self.retry(job_state, failure, job_state.indeterminate_age, delay)
            }
            Verdict::NotSent(failure) => {
                let delay = self.backoff.delay(job_state.job, job_state.attempt);
                self.retry(job_state, failure, job_state.indeterminate_age, delay)
            }
            Verdict::Indeterminate { failure, answered } => {
                let delay = if answered {
                    self.backoff.delay(job_state.job, job_state.attempt)
                } else {
                    self.cool_down(job_state)
                };
                self.indeterminate(job_state, failure, delay)
            }
        }
    }

    /// What follows for a job whose claim ran out with no answer recorded: its request may have been taken.
    ///
    /// `job_state.since_claim` is the age of that claim. A job that brings every worker down that sends it is bounded by the
    /// guard window, like every other indeterminate job.
    #[must_use]
    pub fn rescue(&self, job_state: &JobState) -> Outcome {
        let failure = Failure::new(
            ErrorClass::Timeout,
            "The worker that had claimed this job stopped without recording an outcome; its request may have been accepted.",
        );
        // The lease outlasts the request's timeout, so the settle delay counts from the claim and has mostly passed.
        let delay = self.settle_delay.saturating_sub(job_state.since_claim);
        self.indeterminate(job_state, failure, delay)
    }

    /// Whether a request that is started `age` after the first indeterminate claim still meets the provider's guard, even if
    /// it takes all the time it is given.
    #[must_use]
    pub fn is_guarded(&self, age: Duration) -> bool {
        age + self.request_timeout < self.guard_window
    }

    /// Another try after a request that may have been taken. The guard window counts from the first of them.
    fn indeterminate(&self, job_state: &JobState, failure: Failure, delay: Duration) -> Outcome {
        let age = job_state.indeterminate_age.unwrap_or(job_state.since_claim);
        match self.retry(job_state, failure, Some(age), delay) {
            Outcome::Retry { delay, failure, .. } => Outcome::Retry {
                delay,
                failure,
                indeterminate: true,
            },
            other => other,
        }
    }

    /// Another try after `delay`, unless attempts are used up or the guard window ends first.
    fn retry(
        &self,
        job_state: &JobState,
        failure: Failure,
        indeterminate_age: Option<Duration>,
        delay: Duration,
    ) -> Outcome {
        let used_up = job_state.attempt >= job_state.max_attempts;
        let Some(age) = indeterminate_age else {
            return if used_up {
                Outcome::Failed(failure)
            } else {
                Outcome::Retry {
                    delay,
                    failure,
                    indeterminate: false,
                }
            };
        };
        // The earlier request may have been taken: giving up would claim to know that it was not.
        if used_up {
            return Outcome::Uncertain(failure);
        }
        // A backoff that overshoots the window is cut short rather than given up: the window is the last chance to learn.
        let delay = if self.is_guarded(age + delay) {
            delay
        } else {
            delay.min(self.settle_delay)
        };
        if self.is_guarded(age + delay) {
            Outcome::Retry {
                delay,
                failure,
                indeterminate: false,
            }
        } else {
            Outcome::Uncertain(failure)
        }
    }

    /// The cool-down of a lost answer: the settle delay, doubling up to three times as much, plus up to a quarter so that a batch
    /// that was lost together does not come back together.
    fn cool_down(&self, job_state: &JobState) -> Duration {
        let longest = self.settle_delay * 3;
        let spacing = Backoff {
            base: self.settle_delay,
            cap: longest,
        }
        .ceiling(job_state.attempt);
        spacing.mul_f64(1.0 + unit_interval(job_state.job, job_state.attempt) / 4.0)
    }

    /// How long an account waits after "too many requests": what the provider asked for, believed between one second
    /// and five minutes; without a wish, the backoff's ceiling.
    fn throttle(&self, job_state: &JobState, retry_after: Option<Duration>) -> Duration {
        match retry_after {
            Some(asked) => asked.clamp(Duration::from_secs(1), Duration::from_secs(300)),
            None => self
                .backoff
                .ceiling(job_state.attempt)
                .min(Duration::from_secs(300)),
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        request_timeout: Duration::from_secs(30),
        lease: Duration::from_secs(60),
        guard_window: Duration::from_secs(480),
        settle_delay: Duration::from_secs(20),
        backoff: Backoff {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(600),
        },
    };

    /// The first attempt of fifteen, claimed just now, with nothing behind it and no end.
    const FRESH: JobState = JobState {
        job: Uuid::from_u128(7),
        attempt: 1,
        max_attempts: 15,
        released: 0,
        since_claim: Duration::from_millis(100),
        indeterminate_age: None,
        expires_in: None,
    };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failure() -> Failure {
        Failure::new(ErrorClass::Unavailable, "x")
    }

    fn verdicts() -> Vec<Verdict> {
        let blocked = |scope| Verdict::Blocked {
            scope,
            failure: failure(),
        };
        vec![
            Verdict::Accepted(OrderId::parse("312")),
            Verdict::Accepted(None),
            Verdict::Duplicate,
            Verdict::Refused(failure()),
            blocked(PauseScope::Account),
            blocked(PauseScope::Sender),
            blocked(PauseScope::Iys),
            Verdict::Throttled {
                failure: failure(),
                retry_after: None,
            },
            Verdict::Throttled {
                failure: failure(),
                retry_after: Some(s(3600)),
            },
            Verdict::NotSent(failure()),
            Verdict::Indeterminate {
                failure: failure(),
                answered: true,
            },
            Verdict::Indeterminate {
                failure: failure(),
                answered: false,
            },
        ]
    }

    /// What was decided, without its sentences and exact delays.
    fn shape((outcome, pause): &(Outcome, Option<Pause>)) -> String {
        let job = match outcome {
            Outcome::Sent {
                duplicate: false, ..
            } => "sent",
            Outcome::Sent {
                duplicate: true, ..
            } => "duplicate",
            Outcome::Failed(_) => "failed",
            Outcome::Expired => "expired",
            Outcome::Uncertain(_) => "uncertain",
            Outcome::Retry {
                indeterminate: false,
                ..
            } => "retry",
            Outcome::Retry {
                indeterminate: true,
                ..
            } => "repeat",
            Outcome::Release { .. } => "release",
        };
        let others = if pause.is_some() { ", all wait" } else { "" };
        format!("{job}{others}")
    }

    #[test]
    fn what_follows_from_each_verdict_in_each_situation() {
        let indeterminate = JobState {
            attempt: 2,
            indeterminate_age: Some(s(60)),
            ..FRESH
        };
        let long_indeterminate = JobState {
            attempt: 2,
            indeterminate_age: Some(s(449)),
            ..FRESH
        };
        let last = JobState {
            attempt: 15,
            ..FRESH
        };
        let last_indeterminate = JobState {
            attempt: 15,
            ..indeterminate
        };
        let table = [
            // verdict, fresh, indeterminate, indeterminate for almost too long, last attempt, last attempt and indeterminate
            ["sent"; 5],
            ["sent"; 5],
            ["duplicate"; 5],
            // A refusal of the same bytes is believed, whatever became of an earlier request.
            ["failed"; 5],
            // An account's failure spends no attempt, not even the last one.
            ["release, all wait"; 5],
            ["release, all wait"; 5],
            ["release, all wait"; 5],
            [
                "retry, all wait",
                "retry, all wait",
                "uncertain, all wait",
                "failed, all wait",
                "uncertain, all wait",
            ],
            // Asked to wait for an hour, an indeterminate job does not: its repeat must still meet the guard.
            [
                "retry, all wait",
                "retry, all wait",
                "uncertain, all wait",
                "failed, all wait",
                "uncertain, all wait",
            ],
            ["retry", "retry", "uncertain", "failed", "uncertain"],
            ["repeat", "repeat", "uncertain", "uncertain", "uncertain"],
            ["repeat", "repeat", "uncertain", "uncertain", "uncertain"],
        ];
        let verdicts = verdicts();
        assert_eq!(verdicts.len(), table.len());
        for (verdict, row) in verdicts.into_iter().zip(table) {
            for (job_state, expected) in [
                FRESH,
                indeterminate,
                long_indeterminate,
                last,
                last_indeterminate,
            ]
            .iter()
            .zip(row)
            {
                let outcome = POLICY.decide(job_state, verdict.clone());
                assert_eq!(
                    shape(&outcome),
                    expected,
                    "{verdict:?} in {job_state:?}: {outcome:?}"
                );
            }
        }
    }

    #[test]
    fn how_long_each_retry_waits() {
        let delay = |job_state: &JobState, verdict| match POLICY.decide(job_state, verdict) {
            (Outcome::Retry { delay, .. }, pause) => (delay, pause.and_then(|pause| pause.lasts)),
            other => panic!("{other:?}"),
        };
        let throttled = |retry_after| Verdict::Throttled {
            failure: failure(),
            retry_after,
        };
        let indeterminate = |answered| Verdict::Indeterminate {
            failure: failure(),
            answered,
        };
        // What the provider asks for is believed between a second and five minutes.
        for (asked, waits) in [(0, 1), (7, 7), (300, 300), (86_400, 300)] {
            assert_eq!(
                delay(&FRESH, throttled(Some(s(asked)))),
                (s(waits), Some(s(waits)))
            );
        }
        assert_eq!(delay(&FRESH, throttled(None)), (s(1), Some(s(1))));
        // A lost answer cools down for the settle delay and up to a quarter more; doubling, up to three times it.
        for (attempt, least, most) in [(1, 20, 25), (2, 40, 50), (3, 60, 75), (9, 60, 75)] {
            let (delay, pause) = delay(&JobState { attempt, ..FRESH }, indeterminate(false));
            assert!(
                (s(least)..=s(most)).contains(&delay),
                "{attempt}: {delay:?}"
            );
            assert_eq!(pause, None);
        }
        // An answer that cannot be read is an answer: its request is not on its way any more.
        let backoff = POLICY.backoff.delay(FRESH.job, 1);
        assert_eq!(delay(&FRESH, indeterminate(true)), (backoff, None));
        assert_eq!(delay(&FRESH, Verdict::NotSent(failure())), (backoff, None));
    }

    #[test]
    fn who_may_still_be_sent() {
        let check = |since_claim, indeterminate_age, expires_in, expected| {
            let job_state = JobState {
                since_claim: s(since_claim),
                indeterminate_age,
                expires_in,
                ..FRESH
            };
            assert_eq!(POLICY.check(&job_state), expected, "{job_state:?}");
        };
        use PreSendCheck::{Expired, GuardElapsed, IndeterminateExpired, LeaseTooShort, Send};
        check(0, None, None, Send);
        check(29, None, Some(Duration::from_millis(1)), Send);
        // Its answer could come when the lease has ended.
        check(30, None, None, LeaseTooShort);
        check(0, None, Some(Duration::ZERO), Expired);
        // Expired wins: released, it would only come again.
        check(30, None, Some(Duration::ZERO), Expired);
        // A repeat that takes all its time must still meet the guard.
        check(0, Some(s(449)), None, Send);
        check(0, Some(s(450)), None, GuardElapsed);
        check(0, Some(s(86_400)), Some(s(60)), GuardElapsed);
        check(30, Some(s(450)), None, GuardElapsed);
        // It expired with a request unanswered: it may have been sent.
        check(0, Some(s(1)), Some(Duration::ZERO), IndeterminateExpired);
        check(30, Some(s(1)), None, LeaseTooShort);
    }

    #[test]
    fn an_abandoned_claim_may_have_been_sent() {
        let found = |since_claim, attempt, indeterminate_age| {
            let job_state = JobState {
                since_claim: s(since_claim),
                attempt,
                indeterminate_age,
                ..FRESH
            };
            POLICY.rescue(&job_state)
        };
        match found(60, 1, None) {
            Outcome::Retry {
                delay,
                indeterminate,
                ..
            } => {
                assert_eq!((delay, indeterminate), (Duration::ZERO, true))
            }
            other => panic!("{other:?}"),
        }
        match found(5, 1, None) {
            // Found early, its request may still be on its way.
            Outcome::Retry { delay, .. } => assert_eq!(delay, s(15)),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            shape(&(found(450, 1, None), None)),
            "uncertain",
            "recovered too late"
        );
        assert_eq!(shape(&(found(60, 1, Some(s(450))), None)), "uncertain");
        assert_eq!(
            shape(&(found(60, 15, None), None)),
            "uncertain",
            "attempts are used up"
        );
    }

    fn job_state() -> impl Strategy<Value = JobState> {
        let age = || proptest::option::of((0_u64..700_000).prop_map(Duration::from_millis));
        let since = (0_u64..100_000).prop_map(Duration::from_millis);
        (any::<u128>(), 1_u32..20, 1_u32..20, since, age(), age()).prop_map(
            |(job, attempt, max_attempts, since_claim, indeterminate_age, expires_in)| JobState {
                job: Uuid::from_u128(job),
                attempt,
                max_attempts,
                released: 0,
                since_claim,
                // An indeterminate attempt is older than the claim that came after it.
                indeterminate_age: indeterminate_age.map(|age| age + since_claim),
                expires_in,
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_indeterminate_is_repeated_unguarded_or_called_failed(
            job_state in job_state(), verdict in prop::sample::select(verdicts()),
        ) {
            let refused = matches!(verdict, Verdict::Refused(_));
            let indeterminate = matches!(verdict, Verdict::Indeterminate { .. });
            for outcome in [POLICY.decide(&job_state, verdict).0, POLICY.rescue(&job_state)] {
                let since_lost = match &outcome {
                    Outcome::Retry { indeterminate: true, .. } => Some(job_state.indeterminate_age.unwrap_or(job_state.since_claim)),
                    _ => job_state.indeterminate_age,
                };
                match outcome {
                    Outcome::Retry { delay, .. } => {
                        prop_assert!(job_state.attempt < job_state.max_attempts);
                        if let Some(age) = since_lost {
                            prop_assert!(POLICY.is_guarded(age + delay), "{age:?} + {delay:?}");
                        }
                    }
                    Outcome::Failed(_) => prop_assert!(refused || (job_state.indeterminate_age.is_none() && !indeterminate)),
                    Outcome::Uncertain(_) => {}
                    Outcome::Sent { .. } | Outcome::Expired | Outcome::Release { .. } => {}
                }
            }
        }

        #[test]
        fn what_is_sent_is_in_time_guarded_and_answered_within_its_lease(job_state in job_state()) {
            if POLICY.check(&job_state) == PreSendCheck::Send {
                prop_assert!(job_state.expires_in.is_none_or(|left| !left.is_zero()));
                prop_assert!(job_state.indeterminate_age.is_none_or(|age| age + POLICY.request_timeout < POLICY.guard_window));
                prop_assert!(job_state.since_claim + POLICY.request_timeout < POLICY.lease);
            }
        }
    }
}
