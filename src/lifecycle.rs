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
    /// It may have been accepted: indeterminate. Whatever the reason, its repeat waits for the settle delay: a front that answers
    /// first may hand the request on a moment later.
    Indeterminate(Failure),
}

/// What is known when an answer blames the account, to tell whose failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// How many answers in a row have blamed the account, this one included, with nothing accepted in between.
    pub in_a_row: u32,
    /// How many answers to this job have blamed it before.
    pub earlier: u32,
    /// Whether another message of the account was accepted since the first of those.
    pub accepted_meanwhile: bool,
    /// Whether any was in the last minute.
    pub accepted_lately: bool,
    /// Whether a read-only question about the account was answered just now.
    pub probe_answered: bool,
}

/// So many answers in a row, to whichever jobs, and the account is paused although messages were accepted a moment ago.
const BLAMES_BELIEVED: u32 = 3;
/// So many answers to one job, while others are accepted, and it is the job's failure.
const BLAMES_OF_A_JOB: u32 = 3;

impl Blame {
    /// Whether it is this job's own failure: others were accepted between the answers that blame the account, and the account
    /// answers when it is asked.
    #[must_use]
    pub const fn is_the_jobs(&self) -> bool {
        self.probe_answered && self.accepted_meanwhile && self.earlier + 1 >= BLAMES_OF_A_JOB
    }

    /// Whether the account is believed to be the cause, and everyone waits.
    #[must_use]
    pub const fn is_the_accounts(&self) -> bool {
        !self.probe_answered || !self.accepted_lately || self.in_a_row >= BLAMES_BELIEVED
    }
}

/// A pause that follows from a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Who waits.
    pub scope: PauseScope,
    /// When it ends.
    pub ends: PauseEnd,
}

/// When a pause ends that follows from a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseEnd {
    /// When a probe of the account succeeds.
    Probe,
    /// After what the provider asked for.
    After(Duration),
    /// After `first`, and twice as long each time it comes back soon, up to `longest`.
    Backoff {
        /// The first time.
        first: Duration,
        /// At most.
        longest: Duration,
    },
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
    /// Back to the queue, to be repeated: this request may have been taken. Starts the guard window if no earlier one has.
    Retry {
        /// How long to wait.
        delay: Duration,
        /// Why.
        failure: Failure,
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
    /// How long after it was due first a job without `expires_at` is tried while nothing but outages stand in its way
    /// (`SMS_OUTBOX_RETRY_FOR`).
    pub retry_for: Duration,
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
    /// How long ago it was due first.
    pub due_for: Duration,
    /// What is known about an answer that blames the account; `None`: nothing yet.
    pub blame: Option<Blame>,
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

/// What a provider asks for after too many requests is believed between these.
const SHORTEST_THROTTLE: Duration = Duration::from_secs(1);
const LONGEST_THROTTLE: Duration = Duration::from_secs(300);
/// Where it asks for nothing, one message is tried at least so often.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

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
        match verdict {
            Verdict::Accepted(order_id) => (
                Outcome::Sent {
                    order_id,
                    duplicate: false,
                },
                None,
            ),
            Verdict::Duplicate => (
                Outcome::Sent {
                    order_id: None,
                    duplicate: true,
                },
                None,
            ),
            Verdict::Refused(failure) => (Outcome::Failed(failure), None),
            Verdict::Blocked { scope, failure } => self.blocked(job_state, scope, failure),
            Verdict::Throttled {
                failure,
                retry_after,
            } => {
                let ends = match retry_after {
                    Some(asked) => {
                        PauseEnd::After(asked.clamp(SHORTEST_THROTTLE, LONGEST_THROTTLE))
                    }
                    None => PauseEnd::Backoff {
                        first: self.backoff.base.min(LONGEST_BACKOFF),
                        longest: self.backoff.cap.min(LONGEST_BACKOFF),
                    },
                };
                let pause = Pause {
                    scope: PauseScope::Account,
                    ends,
                };
                // It waits a little longer than the pause: if only this job is turned away, the others must be able to go first.
                let asked = retry_after.unwrap_or(self.backoff.base);
                let delay = asked
                    .clamp(SHORTEST_THROTTLE, LONGEST_THROTTLE)
                    .mul_f64(1.0 + unit_interval(job_state.job, 1) / 4.0);
                let outcome = self.wait(job_state, failure, delay);
                (outcome, Some(pause))
            }
            Verdict::NotSent(failure) => {
                // If it is not this connection alone, the outage makes it wait. An unanswered request before it is repeated at its
                // own pace.
                let delay = match job_state.indeterminate_age {
                    Some(_) => self.cool_down(job_state),
                    None => self.backoff.delay(job_state.job, 1),
                };
                (self.wait(job_state, failure, delay), None)
            }
            Verdict::Indeterminate(failure) => {
                let delay = self.cool_down(job_state);
                (self.indeterminate(job_state, failure, delay), None)
            }
        }
    }

    /// The provider says that the account (a sender, its marketing) is the cause. Where others of the account are accepted all
    /// the same, it is the job's.
    fn blocked(
        &self,
        job_state: &JobState,
        scope: PauseScope,
        failure: Failure,
    ) -> (Outcome, Option<Pause>) {
        let blame = job_state.blame.filter(|_| scope == PauseScope::Account);
        // With an unanswered request behind it nobody knows that it failed.
        if job_state.indeterminate_age.is_none() && blame.is_some_and(|blame| blame.is_the_jobs()) {
            let message = format!(
                "{} Other messages of the account were accepted meanwhile: it is this message that is refused.",
                failure.message
            );
            return (
                Outcome::Failed(Failure {
                    class: ErrorClass::Request,
                    message,
                    ..failure
                }),
                None,
            );
        }
        // The job waits, longer each time. If the provider (or a firewall before it) objects only to this job, the others
        // must be able to go first when the pause ends.
        let earlier = blame.map_or(0, |blame| blame.earlier);
        let outcome = Outcome::Release {
            delay: self.backoff.ceiling(earlier.saturating_add(1)),
            failure: Some(failure),
        };
        let believed = blame.is_none_or(|blame| blame.is_the_accounts());
        let pause = believed.then_some(Pause {
            scope,
            ends: PauseEnd::Probe,
        });
        (outcome, pause)
    }

    /// Back to the queue without a spent attempt, because the request surely did not reach the provider or was turned away unread.
    /// Only time bounds that: `expires_at`, or else the retry period.
    fn wait(&self, job_state: &JobState, failure: Failure, delay: Duration) -> Outcome {
        let too_old = job_state.expires_in.is_none()
            && job_state.indeterminate_age.is_none()
            && job_state.due_for >= self.retry_for;
        if too_old {
            Outcome::Failed(failure)
        } else {
            Outcome::Release {
                delay,
                failure: Some(failure),
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

    /// Another try after a request that may have been taken, unless attempts are used up or the guard window ends first. The window
    /// counts from the first of them.
    fn indeterminate(&self, job_state: &JobState, failure: Failure, delay: Duration) -> Outcome {
        let age = job_state.indeterminate_age.unwrap_or(job_state.since_claim);
        // A cool-down that overshoots the window is cut short rather than given up: the window is the last chance to learn.
        let delay = if self.is_guarded(age + delay) {
            delay
        } else {
            delay.min(self.settle_delay)
        };
        // Giving up would claim to know that it was not taken.
        if job_state.attempt >= job_state.max_attempts || !self.is_guarded(age + delay) {
            Outcome::Uncertain(failure)
        } else {
            Outcome::Retry { delay, failure }
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
        retry_for: Duration::from_secs(72 * 3600),
    };

    /// The first attempt of fifteen, claimed just now, with nothing behind it and no end.
    const FRESH: JobState = JobState {
        job: Uuid::from_u128(7),
        attempt: 1,
        max_attempts: 15,
        due_for: Duration::from_secs(1),
        blame: None,
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
            Verdict::Indeterminate(failure()),
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
            Outcome::Retry { .. } => "repeat",
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
            // Nor does what was turned away unread, or never arrived. Whether an older attempt is too old is for the window to say.
            ["release, all wait"; 5],
            ["release, all wait"; 5],
            ["release"; 5],
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
            (Outcome::Retry { delay, .. } | Outcome::Release { delay, .. }, pause) => {
                (delay, pause.map(|pause| pause.ends))
            }
            other => panic!("{other:?}"),
        };
        let throttled = |retry_after| Verdict::Throttled {
            failure: failure(),
            retry_after,
        };
        // What the provider asks for is believed between a second and five minutes.
        for (asked, waits) in [(0, 1), (7, 7), (300, 300), (86_400, 300)] {
            let (delay, pause) = delay(&FRESH, throttled(Some(s(asked))));
            assert_eq!(pause, Some(PauseEnd::After(s(waits))));
            // The job a little longer, so that others can go first.
            assert!(
                (s(waits)..=s(waits).mul_f64(1.25)).contains(&delay),
                "{delay:?}"
            );
        }
        let backoff = PauseEnd::Backoff {
            first: s(1),
            longest: s(30),
        };
        assert_eq!(delay(&FRESH, throttled(None)).1, Some(backoff));
        // A lost answer cools down for the settle delay and up to a quarter more; doubling, up to three times it.
        for (attempt, least, most) in [(1, 20, 25), (2, 40, 50), (3, 60, 75), (9, 60, 75)] {
            let lost = Verdict::Indeterminate(failure());
            let (delay, pause) = delay(&JobState { attempt, ..FRESH }, lost);
            assert!(
                (s(least)..=s(most)).contains(&delay),
                "{attempt}: {delay:?}"
            );
            assert_eq!(pause, None);
        }
        // What never left is tried again soon, however often that was; the outage makes everyone wait.
        let soon = POLICY.backoff.delay(FRESH.job, 1);
        assert_eq!(delay(&FRESH, Verdict::NotSent(failure())), (soon, None));
        let indeterminate = JobState {
            attempt: 2,
            indeterminate_age: Some(s(60)),
            ..FRESH
        };
        let (repeat, _) = delay(&indeterminate, Verdict::NotSent(failure()));
        assert!((s(40)..=s(50)).contains(&repeat), "{repeat:?}");
    }

    #[test]
    fn an_outage_ends_a_job_by_its_age_only() {
        let three_days = s(72 * 3600);
        let throttled = Verdict::Throttled {
            failure: failure(),
            retry_after: None,
        };
        for verdict in [Verdict::NotSent(failure()), throttled] {
            for (due_for, expires_in, indeterminate_age, expected) in [
                (three_days - s(1), None, None, "release"),
                (three_days, None, None, "failed"),
                // Its own end counts, and comes by itself.
                (three_days, Some(s(60)), None, "release"),
                // It may have been taken.
                (three_days, None, Some(s(30)), "release"),
            ] {
                let job_state = JobState {
                    attempt: 15,
                    due_for,
                    expires_in,
                    indeterminate_age,
                    ..FRESH
                };
                let (outcome, _) = POLICY.decide(&job_state, verdict.clone());
                assert_eq!(shape(&(outcome, None)), expected, "{job_state:?}");
            }
        }
    }

    #[test]
    fn whose_failure_it_is() {
        const HEALTHY: Blame = Blame {
            in_a_row: 1,
            earlier: 0,
            accepted_meanwhile: false,
            accepted_lately: true,
            probe_answered: true,
        };
        let others = Blame {
            accepted_meanwhile: true,
            ..HEALTHY
        };
        let table = [
            (None, "release, all wait", "nothing is known"),
            (
                Some(HEALTHY),
                "release",
                "others were accepted a moment ago",
            ),
            (
                Some(Blame {
                    accepted_lately: false,
                    ..HEALTHY
                }),
                "release, all wait",
                "nobody was",
            ),
            (
                Some(Blame {
                    probe_answered: false,
                    ..HEALTHY
                }),
                "release, all wait",
                "the account does not answer",
            ),
            (
                Some(Blame {
                    in_a_row: 3,
                    ..HEALTHY
                }),
                "release, all wait",
                "three jobs say so",
            ),
            (
                Some(Blame {
                    earlier: 1,
                    ..others
                }),
                "release",
                "twice may be chance",
            ),
            (
                Some(Blame {
                    earlier: 2,
                    ..others
                }),
                "failed",
                "three times, and others are accepted",
            ),
            (
                Some(Blame {
                    earlier: 2,
                    ..HEALTHY
                }),
                "release",
                "nobody was accepted in between",
            ),
            (
                Some(Blame {
                    earlier: 9,
                    probe_answered: false,
                    ..others
                }),
                "release, all wait",
                "the account does not answer",
            ),
        ];
        for (blame, expected, why) in table {
            let blocked = |scope| Verdict::Blocked {
                scope,
                failure: failure(),
            };
            let job_state = JobState { blame, ..FRESH };
            let decided = POLICY.decide(&job_state, blocked(PauseScope::Account));
            assert_eq!(shape(&decided), expected, "{why}");
            if let Outcome::Failed(failure) = decided.0 {
                assert_eq!(failure.class, ErrorClass::Request);
            }
            // What is known of the account tells nothing about a sender.
            let sender = POLICY.decide(&job_state, blocked(PauseScope::Sender));
            assert_eq!(shape(&sender), "release, all wait", "{why}");
            let indeterminate = JobState {
                indeterminate_age: Some(s(30)),
                ..job_state
            };
            let unsure = POLICY.decide(&indeterminate, blocked(PauseScope::Account));
            assert!(matches!(unsure.0, Outcome::Release { .. }), "{why}");
        }
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
            Outcome::Retry { delay, .. } => assert_eq!(delay, Duration::ZERO),
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
                due_for: since_claim,
                blame: None,
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
                    Outcome::Retry { .. } => Some(job_state.indeterminate_age.unwrap_or(job_state.since_claim)),
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
