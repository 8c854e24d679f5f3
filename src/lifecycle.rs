//! One lifecycle, in one file: what a job can be, what an answer can mean, and every transition between.
//!
//! Nothing here knows a database, a socket or a clock: durations come in as arguments, decisions go out as values.
//!
//! ```text
//! Reply -classify-> Verdict -decide-> Settlement -record-> row
//! ```

use std::{str::FromStr, time::Duration};

use uuid::Uuid;

pub use crate::job::{ErrorClass, OrderId, Status, UnknownValue};

use crate::backoff::{Backoff, unit_interval};

/// What went wrong, as it is written on the row: never holds a number, a text or a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Whose trouble it is.
    pub class: ErrorClass,
    /// The provider's own number, where it gave one.
    pub code: Option<i32>,
    /// One sentence for the operator: what happened, and where it helps, what to do.
    pub message: String,
}

impl Trouble {
    /// A trouble that the provider did not number.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            code: None,
            message: message.into(),
        }
    }

    /// A trouble with the provider's number.
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
    Refused(Trouble),
    /// Not the message's fault: everyone in `scope` waits, and no attempt is spent.
    Blocked {
        /// Who waits.
        scope: PauseScope,
        /// Why.
        trouble: Trouble,
    },
    /// Not taken now because there were too many. The account waits as long as the provider asks, within bounds.
    Throttled {
        /// Why.
        trouble: Trouble,
        /// What the provider asked for, where it did.
        retry_after: Option<Duration>,
    },
    /// Surely never left this process whole, so it may be tried again freely.
    NotSent(Trouble),
    /// May have been taken: nobody knows.
    Unclear {
        /// What was observed.
        trouble: Trouble,
        /// Whether an answer came. If it did, the request is no longer on its way and need not rest before its repeat.
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
pub enum Settlement {
    /// Accepted. Final.
    Sent {
        /// The provider's number, where one was read.
        order_id: Option<OrderId>,
        /// Whether the provider's duplicate guard said so (451).
        duplicate: bool,
    },
    /// Given up. Final.
    Failed(Trouble),
    /// `expires_at` came first. Final.
    Expired,
    /// May have been taken, and may no longer be repeated.
    Uncertain(Trouble),
    /// Back to the queue; the attempt is spent.
    Retry {
        /// How long to wait.
        delay: Duration,
        /// Why.
        trouble: Trouble,
        /// Whether this request may have been taken. Starts the guard window if no earlier one has.
        doubt: bool,
    },
    /// Back to the queue, the attempt returned.
    GiveBack {
        /// How long to wait. Zero: it is due when it was.
        delay: Duration,
        /// Why, where there is something to tell.
        trouble: Option<Trouble>,
    },
}

impl From<Settlement> for Decision {
    /// Nobody else is to wait.
    fn from(settlement: Settlement) -> Self {
        Self {
            settlement,
            pause: None,
        }
    }
}

/// What follows from a verdict: for the job, and for everyone who shares its trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is to be recorded about the job.
    pub settlement: Settlement,
    /// Who else is to wait.
    pub pause: Option<Pause>,
}

/// The settings that decisions rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest one request may take (`SMS_OUTBOX_REQUEST_TIMEOUT`).
    pub request_timeout: Duration,
    /// How long a claim holds (`SMS_OUTBOX_LEASE`).
    pub lease: Duration,
    /// How long after the first doubtful claim the provider's duplicate guard surely stands (`SMS_OUTBOX_GUARD_WINDOW`).
    pub guard_window: Duration,
    /// How long a lost answer rests before it is repeated (`SMS_OUTBOX_SETTLE_DELAY`).
    pub settle_delay: Duration,
    /// Spacing of ordinary retries.
    pub backoff: Backoff,
}

/// What is known about a claimed job at the moment of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Which job.
    pub job: Uuid,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// How many attempts the producer allows.
    pub max_attempts: u32,
    /// How many claims before this one were given back, whatever the reason.
    pub given_back: u32,
    /// How long ago this attempt was claimed. An upper bound: measured from before the claim was asked for.
    pub since_claim: Duration,
    /// How long ago the first attempt was claimed that may have been taken and was never answered; `None` if none was.
    pub doubt_age: Option<Duration>,
    /// How long until `expires_at`. Zero: it has come.
    pub expires_in: Option<Duration>,
}

/// Whether a claimed job may still be sent, asked right before its first byte leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Now.
    Send,
    /// `expires_at` has come.
    Expired,
    /// `expires_at` has come, and an unanswered earlier request may have been taken in time. The database ends it: ages are
    /// upper bounds here, and a doubt must not be given up a moment before its time.
    ExpiredInDoubt,
    /// The doubt about an earlier attempt is older than the provider's guard: a repeat could be a second message.
    DoubtTooOld,
    /// The answer could come after the lease has ended: someone else would hold the job by then.
    LeaseTooShort,
}

impl Policy {
    /// Asked for every claimed job right before its request leaves.
    #[must_use]
    pub fn admit(&self, situation: &Situation) -> Admission {
        let expired = situation.expires_in.is_some_and(|left| left.is_zero());
        let doubt_too_old = situation.doubt_age.is_some_and(|age| !self.is_guarded(age));
        if doubt_too_old {
            Admission::DoubtTooOld
        } else if expired {
            if situation.doubt_age.is_some() {
                Admission::ExpiredInDoubt
            } else {
                Admission::Expired
            }
        } else if situation.since_claim + self.request_timeout >= self.lease {
            Admission::LeaseTooShort
        } else {
            Admission::Send
        }
    }

    /// What follows from `verdict`.
    #[must_use]
    pub fn decide(&self, situation: &Situation, verdict: Verdict) -> Decision {
        let pause = match &verdict {
            Verdict::Blocked { scope, .. } => Some(Pause {
                scope: *scope,
                lasts: None,
            }),
            Verdict::Throttled { retry_after, .. } => {
                let lasts = Some(self.throttle(situation, *retry_after));
                Some(Pause {
                    scope: PauseScope::Account,
                    lasts,
                })
            }
            Verdict::Accepted(_)
            | Verdict::Duplicate
            | Verdict::Refused(_)
            | Verdict::NotSent(_)
            | Verdict::Unclear { .. } => None,
        };
        Decision {
            settlement: self.settle(situation, verdict),
            pause,
        }
    }

    fn settle(&self, situation: &Situation, verdict: Verdict) -> Settlement {
        match verdict {
            Verdict::Accepted(order_id) => Settlement::Sent {
                order_id,
                duplicate: false,
            },
            Verdict::Duplicate => Settlement::Sent {
                order_id: None,
                duplicate: true,
            },
            Verdict::Refused(trouble) => Settlement::Failed(trouble),
            // The job steps aside for a while, longer each time: if it alone is what the provider (or a firewall before it)
            // objects to, the others must be able to go first when the pause ends.
            Verdict::Blocked { trouble, .. } => Settlement::GiveBack {
                delay: self.backoff.ceiling(situation.given_back.saturating_add(1)),
                trouble: Some(trouble),
            },
            Verdict::Throttled {
                trouble,
                retry_after,
            } => {
                let delay = self.throttle(situation, retry_after);
                self.retry(situation, trouble, situation.doubt_age, delay)
            }
            Verdict::NotSent(trouble) => {
                let delay = self.backoff.delay(situation.job, situation.attempt);
                self.retry(situation, trouble, situation.doubt_age, delay)
            }
            Verdict::Unclear { trouble, answered } => {
                let delay = if answered {
                    self.backoff.delay(situation.job, situation.attempt)
                } else {
                    self.rest(situation)
                };
                self.doubt(situation, trouble, delay)
            }
        }
    }

    /// What follows for a job whose claim ran out with no answer recorded: its request may have been taken.
    ///
    /// `situation.since_claim` is the age of that claim. A job that brings every worker down that sends it is bounded by the
    /// guard window, like every other doubt.
    #[must_use]
    pub fn rescue(&self, situation: &Situation) -> Settlement {
        let trouble = Trouble::new(
            ErrorClass::Timeout,
            "The worker that had claimed this job never reported back; its request may have been accepted.",
        );
        // The lease outlasts the request's timeout, so the settle delay counts from the claim and has mostly passed.
        let delay = self.settle_delay.saturating_sub(situation.since_claim);
        self.doubt(situation, trouble, delay)
    }

    /// Whether a request that is started `age` after the first doubtful claim still meets the provider's guard, even if
    /// it takes all the time it is given.
    #[must_use]
    pub fn is_guarded(&self, age: Duration) -> bool {
        age + self.request_timeout < self.guard_window
    }

    /// Another try after a request that may have been taken. The guard window counts from the first of them.
    fn doubt(&self, situation: &Situation, trouble: Trouble, delay: Duration) -> Settlement {
        let age = situation.doubt_age.unwrap_or(situation.since_claim);
        match self.retry(situation, trouble, Some(age), delay) {
            Settlement::Retry { delay, trouble, .. } => Settlement::Retry {
                delay,
                trouble,
                doubt: true,
            },
            other => other,
        }
    }

    /// Another try after `delay`, unless attempts are used up or a doubt forbids it.
    fn retry(
        &self,
        situation: &Situation,
        trouble: Trouble,
        doubt_age: Option<Duration>,
        delay: Duration,
    ) -> Settlement {
        let used_up = situation.attempt >= situation.max_attempts;
        let Some(age) = doubt_age else {
            return if used_up {
                Settlement::Failed(trouble)
            } else {
                Settlement::Retry {
                    delay,
                    trouble,
                    doubt: false,
                }
            };
        };
        // The earlier request may have been taken: giving up would claim to know that it was not.
        if used_up {
            return Settlement::Uncertain(trouble);
        }
        // A backoff that overshoots the window is cut short rather than given up: the window is the last chance to learn.
        let delay = if self.is_guarded(age + delay) {
            delay
        } else {
            delay.min(self.settle_delay)
        };
        if self.is_guarded(age + delay) {
            Settlement::Retry {
                delay,
                trouble,
                doubt: false,
            }
        } else {
            Settlement::Uncertain(trouble)
        }
    }

    /// How long a lost answer rests: the settle delay, doubling up to three times as much, plus up to a quarter so that a batch
    /// that was lost together does not come back together.
    fn rest(&self, situation: &Situation) -> Duration {
        let longest = self.settle_delay * 3;
        let spacing = Backoff {
            base: self.settle_delay,
            cap: longest,
        }
        .ceiling(situation.attempt);
        spacing.mul_f64(1.0 + unit_interval(situation.job, situation.attempt) / 4.0)
    }

    /// How long an account waits after "too many requests": what the provider asked for, believed between one second
    /// and five minutes; without a wish, the backoff's ceiling.
    fn throttle(&self, situation: &Situation, retry_after: Option<Duration>) -> Duration {
        match retry_after {
            Some(asked) => asked.clamp(Duration::from_secs(1), Duration::from_secs(300)),
            None => self
                .backoff
                .ceiling(situation.attempt)
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
    const FRESH: Situation = Situation {
        job: Uuid::from_u128(7),
        attempt: 1,
        max_attempts: 15,
        given_back: 0,
        since_claim: Duration::from_millis(100),
        doubt_age: None,
        expires_in: None,
    };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn trouble() -> Trouble {
        Trouble::new(ErrorClass::Unavailable, "x")
    }

    fn verdicts() -> Vec<Verdict> {
        let blocked = |scope| Verdict::Blocked {
            scope,
            trouble: trouble(),
        };
        vec![
            Verdict::Accepted(OrderId::parse("312")),
            Verdict::Accepted(None),
            Verdict::Duplicate,
            Verdict::Refused(trouble()),
            blocked(PauseScope::Account),
            blocked(PauseScope::Sender),
            blocked(PauseScope::Iys),
            Verdict::Throttled {
                trouble: trouble(),
                retry_after: None,
            },
            Verdict::Throttled {
                trouble: trouble(),
                retry_after: Some(s(3600)),
            },
            Verdict::NotSent(trouble()),
            Verdict::Unclear {
                trouble: trouble(),
                answered: true,
            },
            Verdict::Unclear {
                trouble: trouble(),
                answered: false,
            },
        ]
    }

    /// A decision without its sentences and exact delays.
    fn shape(decision: &Decision) -> String {
        let job = match &decision.settlement {
            Settlement::Sent {
                duplicate: false, ..
            } => "sent",
            Settlement::Sent {
                duplicate: true, ..
            } => "duplicate",
            Settlement::Failed(_) => "failed",
            Settlement::Expired => "expired",
            Settlement::Uncertain(_) => "uncertain",
            Settlement::Retry { doubt: false, .. } => "retry",
            Settlement::Retry { doubt: true, .. } => "repeat",
            Settlement::GiveBack { .. } => "back",
        };
        let others = if decision.pause.is_some() {
            ", all wait"
        } else {
            ""
        };
        format!("{job}{others}")
    }

    #[test]
    fn what_follows_from_each_verdict_in_each_situation() {
        let in_doubt = Situation {
            attempt: 2,
            doubt_age: Some(s(60)),
            ..FRESH
        };
        let old_doubt = Situation {
            attempt: 2,
            doubt_age: Some(s(449)),
            ..FRESH
        };
        let last = Situation {
            attempt: 15,
            ..FRESH
        };
        let last_in_doubt = Situation {
            attempt: 15,
            ..in_doubt
        };
        let table = [
            // verdict, fresh, in doubt, in doubt for almost too long, last attempt, last attempt in doubt
            ["sent"; 5],
            ["sent"; 5],
            ["duplicate"; 5],
            // A refusal of the same bytes is believed, whatever became of an earlier request.
            ["failed"; 5],
            // An account's trouble spends no attempt, not even the last one.
            ["back, all wait"; 5],
            ["back, all wait"; 5],
            ["back, all wait"; 5],
            [
                "retry, all wait",
                "retry, all wait",
                "uncertain, all wait",
                "failed, all wait",
                "uncertain, all wait",
            ],
            // Asked to wait for an hour, an older doubt does not: it has to be settled while the guard stands.
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
            for (situation, expected) in [FRESH, in_doubt, old_doubt, last, last_in_doubt]
                .iter()
                .zip(row)
            {
                let settlement = POLICY.decide(situation, verdict.clone());
                assert_eq!(
                    shape(&settlement),
                    expected,
                    "{verdict:?} in {situation:?}: {settlement:?}"
                );
            }
        }
    }

    #[test]
    fn how_long_each_retry_waits() {
        let delay = |situation: &Situation, verdict| match POLICY.decide(situation, verdict) {
            Decision {
                settlement: Settlement::Retry { delay, .. },
                pause,
            } => (delay, pause.and_then(|pause| pause.lasts)),
            other => panic!("{other:?}"),
        };
        let throttled = |retry_after| Verdict::Throttled {
            trouble: trouble(),
            retry_after,
        };
        let unclear = |answered| Verdict::Unclear {
            trouble: trouble(),
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
        // A lost answer rests for the settle delay and up to a quarter more; doubling, up to three times it.
        for (attempt, least, most) in [(1, 20, 25), (2, 40, 50), (3, 60, 75), (9, 60, 75)] {
            let (delay, pause) = delay(&Situation { attempt, ..FRESH }, unclear(false));
            assert!(
                (s(least)..=s(most)).contains(&delay),
                "{attempt}: {delay:?}"
            );
            assert_eq!(pause, None);
        }
        // An answer that cannot be read is an answer: its request is not on its way any more.
        let backoff = POLICY.backoff.delay(FRESH.job, 1);
        assert_eq!(delay(&FRESH, unclear(true)), (backoff, None));
        assert_eq!(delay(&FRESH, Verdict::NotSent(trouble())), (backoff, None));
    }

    #[test]
    fn who_may_still_be_sent() {
        let check = |since_claim, doubt_age, expires_in, expected| {
            let situation = Situation {
                since_claim: s(since_claim),
                doubt_age,
                expires_in,
                ..FRESH
            };
            assert_eq!(POLICY.admit(&situation), expected, "{situation:?}");
        };
        use Admission::{DoubtTooOld, Expired, ExpiredInDoubt, LeaseTooShort, Send};
        check(0, None, None, Send);
        check(29, None, Some(Duration::from_millis(1)), Send);
        // Its answer could come when the lease has ended.
        check(30, None, None, LeaseTooShort);
        check(0, None, Some(Duration::ZERO), Expired);
        // Expired wins: given back, it would only come again.
        check(30, None, Some(Duration::ZERO), Expired);
        // A repeat that takes all its time must still meet the guard.
        check(0, Some(s(449)), None, Send);
        check(0, Some(s(450)), None, DoubtTooOld);
        check(0, Some(s(86_400)), Some(s(60)), DoubtTooOld);
        check(30, Some(s(450)), None, DoubtTooOld);
        // It expired with a request unanswered: nobody can say that it was not sent.
        check(0, Some(s(1)), Some(Duration::ZERO), ExpiredInDoubt);
        check(30, Some(s(1)), None, LeaseTooShort);
    }

    #[test]
    fn an_abandoned_claim_may_have_been_sent() {
        let found = |since_claim, attempt, doubt_age| {
            let situation = Situation {
                since_claim: s(since_claim),
                attempt,
                doubt_age,
                ..FRESH
            };
            POLICY.rescue(&situation)
        };
        match found(60, 1, None) {
            Settlement::Retry { delay, doubt, .. } => {
                assert_eq!((delay, doubt), (Duration::ZERO, true))
            }
            other => panic!("{other:?}"),
        }
        match found(5, 1, None) {
            // Found early, its request may still be on its way.
            Settlement::Retry { delay, .. } => assert_eq!(delay, s(15)),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            shape(&found(450, 1, None).into()),
            "uncertain",
            "nobody looked for too long"
        );
        assert_eq!(shape(&found(60, 1, Some(s(450))).into()), "uncertain");
        assert_eq!(
            shape(&found(60, 15, None).into()),
            "uncertain",
            "attempts are used up"
        );
    }

    fn situation() -> impl Strategy<Value = Situation> {
        let age = || proptest::option::of((0_u64..700_000).prop_map(Duration::from_millis));
        let since = (0_u64..100_000).prop_map(Duration::from_millis);
        (any::<u128>(), 1_u32..20, 1_u32..20, since, age(), age()).prop_map(
            |(job, attempt, max_attempts, since_claim, doubt_age, expires_in)| Situation {
                job: Uuid::from_u128(job),
                attempt,
                max_attempts,
                given_back: 0,
                since_claim,
                // A doubt is older than the claim that came after it.
                doubt_age: doubt_age.map(|age| age + since_claim),
                expires_in,
            },
        )
    }

    proptest! {
        #[test]
        fn no_doubt_is_repeated_unguarded_and_none_is_called_failed(
            situation in situation(), verdict in prop::sample::select(verdicts()),
        ) {
            let refused = matches!(verdict, Verdict::Refused(_));
            let unclear = matches!(verdict, Verdict::Unclear { .. });
            for settlement in [POLICY.decide(&situation, verdict).settlement, POLICY.rescue(&situation)] {
                let doubt = match &settlement {
                    Settlement::Retry { doubt: true, .. } => Some(situation.doubt_age.unwrap_or(situation.since_claim)),
                    _ => situation.doubt_age,
                };
                match settlement {
                    Settlement::Retry { delay, .. } => {
                        prop_assert!(situation.attempt < situation.max_attempts);
                        if let Some(age) = doubt {
                            prop_assert!(POLICY.is_guarded(age + delay), "{age:?} + {delay:?}");
                        }
                    }
                    Settlement::Failed(_) => prop_assert!(refused || (situation.doubt_age.is_none() && !unclear)),
                    Settlement::Uncertain(_) => {}
                    Settlement::Sent { .. } | Settlement::Expired | Settlement::GiveBack { .. } => {}
                }
            }
        }

        #[test]
        fn what_is_admitted_is_in_time_guarded_and_answered_within_its_lease(situation in situation()) {
            if POLICY.admit(&situation) == Admission::Send {
                prop_assert!(situation.expires_in.is_none_or(|left| !left.is_zero()));
                prop_assert!(situation.doubt_age.is_none_or(|age| age + POLICY.request_timeout < POLICY.guard_window));
                prop_assert!(situation.since_claim + POLICY.request_timeout < POLICY.lease);
            }
        }
    }
}
