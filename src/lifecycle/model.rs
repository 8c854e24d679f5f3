//! The lifecycle in a small world, explored to its end.
//!
//! One job, two workers, one provider, and time that comes in ticks of fifteen seconds. Every outcome is asked of the real
//! [`Policy`]; around it stands what the statements do, guard by guard. A breadth-first search then visits every state that
//! any order of events can lead to, and on the way to each of them the [`Invariant`]s are looked at.
//!
//! - **The row** is what the database has of it: status, attempt, whose token, the age of the claim and of `ambiguous_since`, when it
//!   is due, the order on record and those in the history. Ages stand still where no outcome depends on them any more,
//!   so time has no horizon here: the search ends because nothing new comes, not because it is cut off.
//! - **The workers** have nothing, a claim, the gate behind them, a request in flight, or an outcome to record. Each may crash
//!   at every step. Each may freeze at every step too, for as long as it likes: to be frozen is to take no step while time
//!   passes, so it needs no state of its own. Whoever rescues abandoned claims reads first and writes later, and anything may
//!   happen in between. Any answer of the database may be lost after it did what it was asked.
//! - **The provider** may accept and fall silent, refuse, block, throttle, be unavailable for as long as it likes, or hate this one
//!   message while it accepts others; a request may reach it after its worker has given up or died. It refuses what it has accepted lately (451), for longer than we rely on.
//! - **Reconciliation** finds the order of what is uncertain, at any time or never.
//! - **People** cancel, retry, and resolve what is uncertain; what they put back by hand may arrive twice, and they know it.
//!
//! What is assumed, and nothing else: a request reaches the provider within [`WIRE`] of its start or not at all; whether the
//! provider refuses a message for good depends on its bytes; and a worker does not freeze between the gate and its first byte
//! for longer than the provider's guard outlasts ours. The last one is the only known gap of the design, and a test
//! shows that it is one.
//!
//! Measured: 245,000 states and 1.9 million transitions with three attempts and `expires_at`; 301,000 states and 2.2 million
//! transitions with two attempts and people who put the job back. About five seconds each, unoptimised.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    time::Duration,
};

use uuid::Uuid;

use super::{
    Blame, ErrorClass, Failure, JobState, OrderId, Outcome, PauseScope, Policy, PreSendCheck,
    Status, Verdict,
};
use crate::backoff::Backoff;

/// Ticks.
type Age = u8;

const TICK: Duration = Duration::from_secs(15);
/// A request that has not reached the provider so long after its start never will: a tick longer than it is waited for.
const WIRE: Age = 3;
/// How long the provider refuses what it has accepted. Two ticks longer than we rely on.
const PROVIDER_GUARD: Age = 10;
/// The longest that a worker stands between the gate and its first byte.
const AT_THE_GATE: Age = 1;
/// More acceptances than this teach nothing new.
const MOST_ORDERS: u8 = 2;

const fn ticks(ticks: u64) -> Duration {
    Duration::from_secs(15 * ticks)
}

const POLICY: Policy = Policy {
    request_timeout: ticks(2),
    lease: ticks(4),
    guard_window: ticks(8),
    settle_delay: ticks(1),
    backoff: Backoff {
        base: ticks(1),
        cap: ticks(2),
    },
    // The world of the model ends before.
    retry_for: ticks(1_000),
};

/// What is known of a message that is hated.
const HATED: Blame = Blame {
    in_a_row: 1,
    earlier: 2,
    accepted_meanwhile: true,
    accepted_lately: true,
    probe_answered: true,
};

/// What must hold, whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Invariant {
    /// No request starts when the provider may have forgotten an earlier one by the time it arrives.
    StartedGuarded,
    /// Unless a person says so, a message is accepted once.
    AcceptedOnce,
    /// No request starts while the answer to an earlier one is still waited for.
    OneAtATime,
    /// Nothing but a person leads from a final status back to the queue, and nothing at all away from `sent`.
    FinalStays,
    /// What was accepted, or still may be, is never called failed or expired.
    NotCalledUnsent,
    /// Once an acceptance is recorded the job is `sent`, however late it came.
    TruthPrevails,
    /// What is recorded of an acceptance stays, and a second one raises the alarm.
    BothKept,
    /// No attempt beyond those that are allowed, and `uncertain` only after an indeterminate request.
    RowsMakeSense,
    /// What is no fault of the message (429, an account that is blocked) spends no attempt and ends nothing, however often it comes.
    OutageCostsNothing,
    /// Once faults end, everything open comes to an end.
    WayOn,
}

/// One way to build it wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// Nobody remembers that a request may have been accepted.
    BlindResend,
    /// The request leaves before the row says so.
    NoMarker,
    /// Whoever comes records, as long as the job is being sent.
    NoToken,
    /// Silence means no.
    IndeterminateIsFailure,
    /// Our guard window is longer than the provider's.
    GuardTooLong,
    /// Each indeterminate request starts the guard window anew.
    GuardRestarts,
    /// Claims are rescued when they are a tick old.
    RescueByAge,
    /// The lease is shorter than the request's timeout.
    LeaseTooShort,
    /// The same, and the gate does not ask for it.
    LeaseTooShortUnasked,
    /// The gate opens to everyone.
    OpenGate,
    /// An acceptance that comes late is thrown away.
    LateTruthDropped,
    /// A rescue writes whatever the row has become.
    RescueOverwrites,
    /// A late acceptance overwrites the one on record.
    SecondReplacesFirst,
    /// Expiry does not look at `ambiguous_since`.
    ExpiryForgetsRequests,
    /// Who was throttled was refused.
    ThrottledIsRefused,
    /// Who was throttled has spent an attempt.
    ThrottledIsSpent,
    /// A message that is hated is failed, whatever an earlier request of it may have done.
    HatredForgetsRequests,
    /// None; but a worker may freeze for ever between the gate and its first byte.
    FrozenBehindTheGate,
}

/// What the database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    status: Status,
    attempt: u8,
    due_in: Age,
    /// Age of the claim, while there is one.
    claimed: Age,
    /// Age of `ambiguous_since`. Of a job that is not open only whether there is one.
    indeterminate: Option<Age>,
    order: Option<u8>,
    /// Orders in the history, as bits.
    log: u8,
    /// Whether its own claim's record made it `sent` (`answer_ms`).
    answered: bool,
    duplicate: bool,
}

/// A claim as its worker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Claim {
    /// Whether its token is the row's. Once lost, it stays so.
    current: bool,
    attempt: u8,
    age: Age,
    indeterminate: Option<Age>,
}

/// An outcome, as far as rows can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Effect {
    Sent { order: Option<u8> },
    Failed { spent: bool },
    Expired,
    Uncertain { spent: bool, indeterminate: bool },
    Retry { delay: Age },
    Release { delay: Age },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Worker {
    Idle,
    Claimed(Claim),
    /// Through the gate `0` ticks ago, with no byte sent yet.
    Checked(Claim, Age),
    /// Its request started so long ago; `true`: it has left the wire, and no answer has come.
    Waiting(Claim, Age, bool),
    /// Ready to record.
    Done {
        current: bool,
        effect: Effect,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    row: Row,
    workers: [Worker; 2],
    /// Someone has read an abandoned claim, and whether its token is still the row's.
    rescuer: Option<(bool, Effect)>,
    /// Ages of requests in flight whose workers wait no more, the youngest first.
    orphans: [Option<Age>; 3],
    /// How many orders the provider has taken, and how long ago the last one.
    accepted: u8,
    accepted_ago: Age,
    /// The provider refuses these bytes.
    refusing: bool,
    /// `expires_at` has come.
    overdue: bool,
    /// A person has put it back into the queue, knowing that it may arrive twice.
    by_hand: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outside {
    /// `expires_at` may come.
    Expiry,
    /// People may put it back into the queue, once.
    People,
}

/// What recording did, as `Recorded` says it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Settled,
    Late,
    Twice,
    Nothing,
}

/// One step.
struct Step {
    what: &'static str,
    state: State,
    broken: Option<Invariant>,
}

struct World {
    policy: Policy,
    wrong: Option<Wrong>,
    max_attempts: u8,
    /// Who acts on it from outside. Both at once would only multiply what each of them shows.
    outside: Outside,
    /// From here on no outcome depends on ages.
    oldest: Age,
}

/// What a search found.
struct Explored {
    states: usize,
    steps: usize,
    ends: HashSet<Status>,
}

fn in_ticks(duration: Duration) -> Age {
    // Rounded down: a job may be claimed a little early here, which only adds orders of events.
    Age::try_from(duration.as_secs() / TICK.as_secs()).unwrap_or(Age::MAX)
}

fn failure() -> Failure {
    Failure::new(ErrorClass::Unknown, String::new())
}

/// As `Withheld::outcome` and `Record::answer` have it. `left`: whether a request may have left.
fn effect(outcome: &Outcome, order: Option<u8>, made: bool, left: bool) -> Effect {
    match outcome {
        Outcome::Sent { .. } => Effect::Sent { order },
        Outcome::Failed(_) => Effect::Failed { spent: made },
        Outcome::Expired => Effect::Expired,
        Outcome::Uncertain(_) => Effect::Uncertain {
            spent: made,
            indeterminate: left,
        },
        Outcome::Retry { delay, .. } => Effect::Retry {
            delay: in_ticks(*delay),
        },
        Outcome::Release { delay, .. } => Effect::Release {
            delay: in_ticks(*delay),
        },
    }
}

impl Effect {
    const fn is_sent(&self) -> bool {
        matches!(self, Self::Sent { .. })
    }
}

impl Row {
    const FIRST: Self = Self {
        status: Status::Queued,
        attempt: 0,
        due_in: 0,
        claimed: 0,
        indeterminate: None,
        order: None,
        log: 0,
        answered: false,
        duplicate: false,
    };

    fn is_open(&self) -> bool {
        matches!(self.status, Status::Queued | Status::Sending)
    }

    /// Every order that someone who looks will find.
    fn known(&self) -> u8 {
        self.log | self.order.map_or(0, |order| 1 << order)
    }

    /// `SET` of `record_sent.sql` and `record_other.sql`.
    fn settle(&mut self, effect: Effect, guard_restarts: bool) {
        let (status, spent, delay, indeterminate) = match effect {
            Effect::Sent { .. } => (Status::Sent, true, 0, false),
            Effect::Failed { spent } => (Status::Failed, spent, 0, false),
            Effect::Expired => (Status::Expired, false, 0, false),
            Effect::Uncertain {
                spent,
                indeterminate,
            } => (Status::Uncertain, spent, 0, indeterminate),
            Effect::Retry { delay } => (Status::Queued, true, delay, true),
            Effect::Release { delay } => (Status::Queued, false, delay, false),
        };
        if indeterminate && (self.indeterminate.is_none() || guard_restarts) {
            self.indeterminate = Some(self.claimed);
        }
        if !spent {
            self.attempt = self.attempt.saturating_sub(1);
        }
        if let Effect::Sent { order } = effect {
            self.order = order;
            self.duplicate = order.is_none();
            self.answered = true;
        }
        self.due_in = delay;
        self.put(status);
    }

    /// Into `status`; what cannot matter there is forgotten, so that equal states are equal.
    fn put(&mut self, status: Status) {
        self.status = status;
        if status != Status::Sending {
            self.claimed = 0;
        }
        if !self.is_open() {
            self.indeterminate = self.indeterminate.map(|_| 0);
            self.due_in = 0;
        }
    }
}

impl State {
    const FIRST: Self = Self {
        row: Row::FIRST,
        workers: [Worker::Idle; 2],
        rescuer: None,
        orphans: [None; 3],
        accepted: 0,
        accepted_ago: 0,
        refusing: false,
        overdue: false,
        by_hand: false,
    };

    fn with(mut self, place: usize, worker: Worker) -> Self {
        self.workers[place] = worker;
        self
    }

    /// Its worker waits no more.
    fn orphaned(mut self, worker: Worker) -> Self {
        if let Worker::Waiting(_, age, false) = worker {
            let oldest = self.orphans.len() - 1;
            self.orphans[oldest] = Some(age);
            self.orphans
                .sort_unstable_by_key(|age| age.unwrap_or(Age::MAX));
        }
        self
    }

    /// A new claim: every older token is lost.
    fn lose_tokens(&mut self) {
        for worker in &mut self.workers {
            match worker {
                Worker::Idle => {}
                Worker::Claimed(claim)
                | Worker::Checked(claim, _)
                | Worker::Waiting(claim, _, _) => claim.current = false,
                Worker::Done { current, .. } => *current = false,
            }
        }
        if let Some((current, _)) = &mut self.rescuer {
            *current = false;
        }
    }

    /// Whether the provider has taken it, or still may.
    fn may_be_taken(&self) -> bool {
        let under_way = self.orphans.iter().any(Option::is_some)
            || self
                .workers
                .iter()
                .any(|worker| matches!(worker, Worker::Waiting(_, _, false)));
        self.accepted > 0 || (under_way && !self.refusing)
    }
}

/// What a request meets at the provider.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reply {
    /// An answer that says so.
    Taken,
    /// Taken, and answered with something that cannot be read.
    TakenUnreadable,
    /// Taken, and no answer leaves.
    TakenSilently,
    /// 451.
    Duplicate,
    /// 451, and the answer is lost.
    DuplicateSilently,
    Refused,
    Blocked,
    /// Blocked for the third time, while other messages of the account are taken: something hates this one.
    Hated,
    Throttled,
    /// 503: not taken, though nobody promises that.
    OutOfOrder,
    /// Lost before it arrived, or refused by something in between without a word.
    Lost,
}

impl World {
    fn new(outside: Outside, max_attempts: u8, wrong: Option<Wrong>) -> Self {
        let mut policy = POLICY;
        match wrong {
            Some(Wrong::GuardTooLong) => policy.guard_window = ticks(12),
            Some(Wrong::LeaseTooShort | Wrong::LeaseTooShortUnasked) => policy.lease = ticks(1),
            _ => {}
        }
        let guarded = in_ticks(policy.guard_window - policy.request_timeout);
        Self {
            policy,
            wrong,
            max_attempts,
            outside,
            oldest: guarded.max(in_ticks(policy.lease)),
        }
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    fn job_state(&self, claim: &Claim, overdue: bool) -> JobState {
        let indeterminate_age = claim.indeterminate.map(|age| ticks(age.into()));
        JobState {
            job: Uuid::from_u128(7),
            attempt: claim.attempt.into(),
            max_attempts: self.max_attempts.into(),
            due_for: Duration::ZERO,
            blame: None,
            since_claim: ticks(claim.age.into()),
            indeterminate_age: indeterminate_age.filter(|_| !self.is(Wrong::BlindResend)),
            expires_in: overdue.then_some(Duration::ZERO),
        }
    }

    /// What a worker makes of an answer, or of none.
    fn decide(
        &self,
        claim: &Claim,
        overdue: bool,
        verdict: Verdict,
        blame: Option<Blame>,
        order: Option<u8>,
    ) -> Worker {
        let left = !matches!(verdict, Verdict::NotSent(_));
        let verdict = match verdict {
            Verdict::Indeterminate(_) if self.is(Wrong::BlindResend) => Verdict::NotSent(failure()),
            Verdict::Indeterminate(_) if self.is(Wrong::IndeterminateIsFailure) => {
                Verdict::Refused(failure())
            }
            Verdict::Throttled { .. } if self.is(Wrong::ThrottledIsRefused) => {
                Verdict::Refused(failure())
            }
            Verdict::Throttled { .. } if self.is(Wrong::ThrottledIsSpent) => {
                Verdict::Indeterminate(failure())
            }
            other => other,
        };
        let mut job_state = JobState {
            blame,
            ..self.job_state(claim, overdue)
        };
        if blame.is_some() && self.is(Wrong::HatredForgetsRequests) {
            job_state.indeterminate_age = None;
        }
        let (outcome, _) = self.policy.decide(&job_state, verdict);
        Worker::Done {
            current: claim.current,
            effect: effect(&outcome, order, true, left),
        }
    }

    /// What a rescuer makes of an abandoned claim.
    fn rescue(&self, row: &Row, overdue: bool) -> Effect {
        if self.is(Wrong::BlindResend) {
            return Effect::Release { delay: 0 };
        }
        let claim = Claim {
            current: true,
            attempt: row.attempt,
            age: row.claimed,
            indeterminate: row.indeterminate,
        };
        let outcome = self.policy.rescue(&self.job_state(&claim, overdue));
        effect(&outcome, None, true, true)
    }

    /// The gate.
    fn gate(&self, claim: Claim, overdue: bool) -> Worker {
        let check = match self.policy.check(&self.job_state(&claim, overdue)) {
            _ if self.is(Wrong::OpenGate) => PreSendCheck::Send,
            PreSendCheck::LeaseTooShort if self.is(Wrong::LeaseTooShortUnasked) => {
                PreSendCheck::Send
            }
            check => check,
        };
        let outcome = match check {
            PreSendCheck::Send => return Worker::Checked(claim, 0),
            PreSendCheck::Expired => Outcome::Expired,
            PreSendCheck::GuardElapsed => Outcome::Uncertain(failure()),
            PreSendCheck::LeaseTooShort | PreSendCheck::IndeterminateExpired => Outcome::Release {
                delay: Duration::from_secs(1),
                failure: None,
            },
        };
        Worker::Done {
            current: claim.current,
            effect: effect(&outcome, None, false, false),
        }
    }

    /// `record_sent.sql` and `record_other.sql`, and where they find nothing `record_late.sql`.
    fn record(&self, row: &mut Row, current: bool, effect: Effect, rescue: bool) -> Told {
        let marked = if self.is(Wrong::NoMarker) {
            Status::Queued
        } else {
            Status::Sending
        };
        let guarded = row.status == marked && (current || self.is(Wrong::NoToken));
        if guarded || (rescue && self.is(Wrong::RescueOverwrites)) {
            row.settle(effect, self.is(Wrong::GuardRestarts));
            return Told::Settled;
        }
        let Effect::Sent { order } = effect else {
            // Remembered, and nothing else.
            return Told::Late;
        };
        let was_sent = row.status == Status::Sent;
        let is_ours = was_sent && current && row.answered;
        if is_ours || self.is(Wrong::LateTruthDropped) {
            return Told::Nothing;
        }
        let bit = order.map_or(0, |order| 1 << order);
        let another = row.order.is_some() && row.order != order;
        let accepted_before =
            was_sent && (another || (row.answered && !row.duplicate) || row.log & !bit != 0);
        let logged = row.log & bit == 0;
        if !was_sent {
            row.put(Status::Sent);
            (row.order, row.duplicate, row.answered) = (order, order.is_none(), false);
        } else if order.is_some() && (!accepted_before || self.is(Wrong::SecondReplacesFirst)) {
            row.order = order;
        }
        if !self.is(Wrong::SecondReplacesFirst) {
            row.log |= bit;
        }
        match (was_sent, logged) {
            (true, false) => Told::Nothing,
            (true, true) if order.is_some() && accepted_before => Told::Twice,
            _ => Told::Late,
        }
    }

    /// An invariant that the recording of `effect` broke.
    fn recorded_wrongly(
        &self,
        before: &State,
        after: &State,
        effect: Effect,
        told: Told,
    ) -> Option<Invariant> {
        if let Effect::Sent { order } = effect {
            if after.row.status != Status::Sent {
                return Some(Invariant::TruthPrevails);
            }
            let bit = order.map_or(0, |order| 1 << order);
            let is_another = before.row.known() & !bit != 0;
            let is_new = before.row.known() & bit == 0;
            if after.row.known() & bit != bit
                || (bit != 0 && is_another && is_new && told != Told::Twice)
                // No alarm without two orders.
                || (told == Told::Twice && !is_another)
            {
                return Some(Invariant::BothKept);
            }
        }
        let unsent = matches!(after.row.status, Status::Failed | Status::Expired);
        (unsent && before.row.is_open() && !before.by_hand && before.may_be_taken())
            .then_some(Invariant::NotCalledUnsent)
    }

    /// A request's first byte leaves.
    fn start(&self, state: &State, place: usize, claim: Claim) -> (State, Option<Invariant>) {
        let after = state.with(place, Worker::Waiting(claim, 0, false));
        if state.by_hand {
            return (after, None);
        }
        let another = state.workers.iter().enumerate().any(|(other, worker)| {
            let timeout = in_ticks(self.policy.request_timeout);
            other != place && matches!(worker, Worker::Waiting(_, age, _) if *age < timeout)
        });
        let unguarded = state.accepted > 0 && state.accepted_ago + WIRE >= PROVIDER_GUARD;
        let broken = if unguarded {
            Some(Invariant::StartedGuarded)
        } else {
            another.then_some(Invariant::OneAtATime)
        };
        (after, broken)
    }

    /// What the provider may do with a request that arrives now.
    fn replies(&self, state: &State) -> Vec<Reply> {
        let mut replies = vec![
            Reply::Lost,
            Reply::Blocked,
            Reply::Hated,
            Reply::Throttled,
            Reply::OutOfOrder,
        ];
        let remembers = state.accepted > 0 && state.accepted_ago < PROVIDER_GUARD;
        if remembers {
            replies.extend([Reply::Duplicate, Reply::DuplicateSilently]);
        } else if state.refusing {
            replies.push(Reply::Refused);
        } else if state.accepted < MOST_ORDERS {
            replies.extend([Reply::Taken, Reply::TakenUnreadable, Reply::TakenSilently]);
            if state.accepted == 0 {
                replies.push(Reply::Refused);
            }
        }
        replies
    }

    /// A request arrives, and its answer reaches the worker that waits for it, if one does.
    fn arrive(
        &self,
        mut state: State,
        waiting: Option<(usize, Claim, Age)>,
        reply: Reply,
    ) -> (State, Option<Invariant>) {
        let mut broken = None;
        let mut order = None;
        match reply {
            Reply::Taken | Reply::TakenUnreadable | Reply::TakenSilently => {
                if state.accepted > 0 && !state.by_hand {
                    broken = Some(Invariant::AcceptedOnce);
                }
                order = Some(state.accepted);
                state.accepted += 1;
                state.accepted_ago = 0;
            }
            Reply::Refused => state.refusing = true,
            _ => {}
        }
        let verdict = match reply {
            Reply::Taken => Verdict::Accepted(OrderId::parse("1")),
            Reply::Duplicate => Verdict::Duplicate,
            Reply::Refused => Verdict::Refused(failure()),
            Reply::Blocked | Reply::Hated => Verdict::Blocked {
                scope: PauseScope::Account,
                failure: failure(),
            },
            Reply::Throttled => Verdict::Throttled {
                failure: failure(),
                retry_after: None,
            },
            Reply::TakenUnreadable | Reply::OutOfOrder => Verdict::Indeterminate(failure()),
            Reply::TakenSilently | Reply::DuplicateSilently | Reply::Lost => {
                if let Some((place, claim, age)) = waiting {
                    state.workers[place] = Worker::Waiting(claim, age, true);
                }
                return (state, broken);
            }
        };
        if let Some((place, claim, _)) = waiting {
            let order = order.filter(|_| reply == Reply::Taken);
            let blame = (reply == Reply::Hated).then_some(HATED);
            let decided = self.decide(&claim, state.overdue, verdict, blame, order);
            let is_free = matches!(
                decided,
                Worker::Done {
                    effect: Effect::Release { .. } | Effect::Expired,
                    ..
                }
            );
            // Nothing arrived that could have been refused; and what it may have been before is not forgotten.
            let is_too_late = claim.indeterminate.is_some()
                && matches!(
                    decided,
                    Worker::Done {
                        effect: Effect::Uncertain { .. },
                        ..
                    }
                );
            if matches!(reply, Reply::Blocked | Reply::Throttled) && !is_free && !is_too_late {
                broken = Some(Invariant::OutageCostsNothing);
            }
            state.workers[place] = decided;
        }
        (state, broken)
    }

    fn claim(&self, state: &State, place: usize) -> Option<State> {
        let row = &state.row;
        if row.status != Status::Queued || row.due_in > 0 || state.overdue {
            return None;
        }
        let mut state = *state;
        state.lose_tokens();
        let row = &mut state.row;
        if self.is(Wrong::NoMarker) {
            // Nobody else can see it, so nobody's token is lost.
        } else {
            row.attempt += 1;
            row.put(Status::Sending);
        }
        let claim = Claim {
            current: true,
            attempt: row.attempt.max(1),
            age: 0,
            indeterminate: row.indeterminate,
        };
        Some(state.with(place, Worker::Claimed(claim)))
    }

    /// Everything that one worker can do next.
    fn worker_steps(&self, state: &State, place: usize, push: &mut impl FnMut(Step)) {
        let worker = state.workers[place];
        let mut step = |what, state, broken| {
            push(Step {
                what,
                state,
                broken,
            });
        };
        if worker != Worker::Idle {
            let crashed = state.with(place, Worker::Idle).orphaned(worker);
            step("a worker crashes", crashed, None);
        }
        match worker {
            Worker::Idle => {
                if let Some(after) = self.claim(state, place) {
                    step("claimed", after, None);
                }
            }
            Worker::Claimed(claim) => {
                let after = state.with(place, self.gate(claim, state.overdue));
                step("asked at the gate", after, None);
            }
            Worker::Checked(claim, _) => {
                let not_sent = self.decide(
                    &claim,
                    state.overdue,
                    Verdict::NotSent(failure()),
                    None,
                    None,
                );
                step("surely not sent", state.with(place, not_sent), None);
                // The provider's client asks once more about the time (`Order::not_after`).
                if !state.overdue {
                    let (after, broken) = self.start(state, place, claim);
                    step("a request starts", after, broken);
                }
            }
            Worker::Waiting(claim, age, arrived) => {
                if !arrived {
                    for reply in self.replies(state) {
                        let (after, broken) = self.arrive(*state, Some((place, claim, age)), reply);
                        step("a request arrives", after, broken);
                    }
                }
                // Timed out, or the connection broke.
                let silence = Verdict::Indeterminate(failure());
                let done = self.decide(&claim, state.overdue, silence, None, None);
                step("no answer", state.with(place, done).orphaned(worker), None);
            }
            Worker::Done { current, effect } => {
                let mut after = *state;
                let told = self.record(&mut after.row, current, effect, false);
                let broken = self.recorded_wrongly(state, &after, effect, told);
                step("recorded, and nobody heard it", after, broken);
                step("recorded", after.with(place, Worker::Idle), broken);
            }
        }
    }

    /// What maintenance and people do, and the requests that nobody waits for.
    fn other_steps(&self, state: &State, push: &mut impl FnMut(Step)) {
        let row = &state.row;
        let mut step = |what, state, broken| {
            push(Step {
                what,
                state,
                broken,
            });
        };
        let with_row = |change: &dyn Fn(&mut Row)| {
            let mut after = *state;
            change(&mut after.row);
            after
        };
        match state.rescuer {
            // `abandoned.sql`
            None if row.status == Status::Sending && self.is_abandoned(row) => {
                let mut after = *state;
                after.rescuer = Some((true, self.rescue(row, state.overdue)));
                step("found abandoned", after, None);
            }
            None => {}
            Some((current, effect)) => {
                let mut after = *state;
                let told = self.record(&mut after.row, current, effect, true);
                let broken = self.recorded_wrongly(state, &after, effect, told);
                step("rescued, and nobody heard it", after, broken);
                after.rescuer = None;
                step("rescued", after, broken);
                let mut after = *state;
                after.rescuer = None;
                step("a rescuer crashes", after, None);
            }
        }
        if row.status == Status::Queued {
            step(
                "cancelled",
                with_row(&|row| row.put(Status::Cancelled)),
                None,
            );
            if state.overdue {
                let (after, broken) = self.expire(state);
                step("expired", after, broken);
            }
            if self.is_stale(row) {
                let after = with_row(&|row| row.put(Status::Uncertain));
                step("uncertain: indeterminate for too long", after, None);
            }
        }
        let reopened = || {
            let mut after = *state;
            after.by_hand = true;
            after.row.attempt = 0;
            after.row.indeterminate = None;
            after.row.put(Status::Queued);
            after
        };
        let once = self.outside == Outside::People && !state.by_hand;
        match row.status {
            Status::Failed if once => step("retried by hand", reopened(), None),
            Status::Uncertain => {
                if once {
                    step("resent by hand", reopened(), None);
                }
                step(
                    "called sent by hand",
                    with_row(&|row| row.put(Status::Sent)),
                    None,
                );
                step(
                    "given up by hand",
                    with_row(&|row| row.put(Status::Failed)),
                    None,
                );
            }
            _ => {}
        }
        // `settle_found.sql`, of the last order: there is one where nobody has resent by hand.
        let wanted = row.status == Status::Uncertain
            || (row.status == Status::Sent && row.order.is_none())
            || (row.status == Status::Failed && row.indeterminate.is_some());
        if let Some(order) = state.accepted.checked_sub(1).filter(|_| wanted) {
            let found = |row: &mut Row| {
                row.put(Status::Sent);
                row.order = Some(order);
            };
            step("found in the reports", with_row(&found), None);
        }
        for (place, age) in state.orphans.iter().enumerate() {
            if age.is_some() {
                let mut left = *state;
                left.orphans[place] = None;
                left.orphans
                    .sort_unstable_by_key(|age| age.unwrap_or(Age::MAX));
                for reply in [Reply::Lost, Reply::TakenSilently] {
                    if reply == Reply::Lost || self.replies(state).contains(&reply) {
                        let (after, broken) = self.arrive(left, None, reply);
                        step("a request arrives for which nobody waits", after, broken);
                    }
                }
            }
        }
        if self.outside == Outside::Expiry && !state.overdue {
            let mut after = *state;
            after.overdue = true;
            step("expires_at comes", after, None);
        }
        if let Some(after) = self.tick(state) {
            step("time passes", after, None);
        }
    }

    fn is_abandoned(&self, row: &Row) -> bool {
        let lease = in_ticks(self.policy.lease);
        row.claimed
            >= if self.is(Wrong::RescueByAge) {
                1
            } else {
                lease
            }
    }

    /// `stale.sql`, with the age that maintenance gives it.
    fn is_stale(&self, row: &Row) -> bool {
        let asked = !self.is(Wrong::BlindResend);
        let age = row.indeterminate.map(|age| ticks(age.into()));
        asked && age.is_some_and(|age| !self.policy.is_guarded(age))
    }

    /// `expire.sql`
    fn expire(&self, state: &State) -> (State, Option<Invariant>) {
        let mut after = *state;
        let unsent = state.row.indeterminate.is_none() || self.is(Wrong::ExpiryForgetsRequests);
        after.row.put(if unsent {
            Status::Expired
        } else {
            Status::Uncertain
        });
        let broken = (unsent && !state.by_hand && state.may_be_taken())
            .then_some(Invariant::NotCalledUnsent);
        (after, broken)
    }

    /// `None`: something that is sure to happen first has not happened yet.
    fn tick(&self, state: &State) -> Option<State> {
        let older = |age: Age| (age + 1).min(self.oldest);
        let mut after = *state;
        for worker in &mut after.workers {
            match worker {
                Worker::Idle | Worker::Done { .. } => {}
                Worker::Claimed(claim)
                | Worker::Checked(claim, _)
                | Worker::Waiting(claim, _, _) => {
                    claim.age = older(claim.age);
                    claim.indeterminate = claim.indeterminate.map(older);
                }
            }
            match worker {
                Worker::Checked(_, since) if self.is(Wrong::FrozenBehindTheGate) => *since = 1,
                Worker::Checked(_, since) if *since >= AT_THE_GATE => return None,
                Worker::Checked(_, since) => *since += 1,
                Worker::Waiting(_, since, arrived) => {
                    *arrived |= *since >= WIRE;
                    *since = (*since + 1).min(WIRE);
                }
                _ => {}
            }
        }
        for age in &mut after.orphans {
            *age = age.map(|age| age + 1).filter(|age| *age <= WIRE);
        }
        let row = &mut after.row;
        row.due_in = row.due_in.saturating_sub(1);
        if row.status == Status::Sending {
            row.claimed = older(row.claimed);
        }
        if row.is_open() {
            row.indeterminate = row.indeterminate.map(older);
        }
        if after.accepted > 0 {
            after.accepted_ago = (after.accepted_ago + 1).min(PROVIDER_GUARD);
        }
        Some(after)
    }

    /// Equal where nothing can tell states apart. Workers are alike, so their order says nothing; and of a lost claim only an
    /// acceptance matters.
    fn canonical(&self, mut state: State) -> State {
        if !self.is(Wrong::NoToken) {
            for worker in &mut state.workers {
                match worker {
                    Worker::Claimed(claim)
                    | Worker::Checked(claim, _)
                    | Worker::Waiting(claim, _, _)
                        if !claim.current =>
                    {
                        claim.attempt = 1;
                        if claim.age >= in_ticks(self.policy.lease) {
                            (claim.age, claim.indeterminate) = (self.oldest, None);
                        }
                    }
                    Worker::Done { current, effect } if !*current && !effect.is_sent() => {
                        *worker = Worker::Idle;
                    }
                    _ => {}
                }
            }
            if matches!(state.rescuer, Some((false, _))) && !self.is(Wrong::RescueOverwrites) {
                state.rescuer = None;
            }
        }
        state.workers.sort_unstable();
        state
    }

    fn steps(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::with_capacity(16);
        let mut push = |mut step: Step| {
            step.broken = step
                .broken
                .or_else(|| self.changed_wrongly(state, &step.state, step.what));
            step.state = self.canonical(step.state);
            steps.push(step);
        };
        self.worker_steps(state, 0, &mut push);
        // Two of a kind would do the same.
        if state.workers[0] != state.workers[1] {
            self.worker_steps(state, 1, &mut push);
        }
        self.other_steps(state, &mut push);
        steps
    }

    fn changed_wrongly(&self, before: &State, after: &State, what: &str) -> Option<Invariant> {
        let (was, is) = (before.row.status, after.row.status);
        let by_hand = what.ends_with("by hand");
        let leaves_sent = was == Status::Sent && is != Status::Sent;
        let reopens = (was.is_final() || was == Status::Uncertain) && after.row.is_open();
        if leaves_sent || (reopens && !by_hand) {
            return Some(Invariant::FinalStays);
        }
        if before.row.known() & !after.row.known() != 0 {
            return Some(Invariant::BothKept);
        }
        let unfounded = is == Status::Uncertain && after.row.indeterminate.is_none();
        (after.row.attempt > self.max_attempts || unfounded).then_some(Invariant::RowsMakeSense)
    }

    /// What happens next where nothing goes wrong any more. `None`: the job is at an end.
    fn without_faults(&self, state: &State) -> Option<State> {
        let row = &state.row;
        if !row.is_open() {
            return None;
        }
        for (place, worker) in state.workers.into_iter().enumerate() {
            match worker {
                Worker::Idle => {}
                Worker::Claimed(claim) => {
                    return Some(state.with(place, self.gate(claim, state.overdue)));
                }
                Worker::Checked(claim, _) if state.overdue => {
                    let not_sent = self.decide(
                        &claim,
                        state.overdue,
                        Verdict::NotSent(failure()),
                        None,
                        None,
                    );
                    return Some(state.with(place, not_sent));
                }
                Worker::Checked(claim, _) => return Some(self.start(state, place, claim).0),
                Worker::Waiting(claim, age, false) => {
                    let possible = self.replies(state);
                    let reply = [Reply::Duplicate, Reply::Taken, Reply::Refused]
                        .into_iter()
                        .find(|reply| possible.contains(reply))
                        .unwrap_or(Reply::Lost);
                    return Some(self.arrive(*state, Some((place, claim, age)), reply).0);
                }
                Worker::Waiting(claim, _, true) => {
                    let silence = Verdict::Indeterminate(failure());
                    let done = self.decide(&claim, state.overdue, silence, None, None);
                    return Some(state.with(place, done));
                }
                Worker::Done { current, effect } => {
                    let mut after = state.with(place, Worker::Idle);
                    self.record(&mut after.row, current, effect, false);
                    return Some(after);
                }
            }
        }
        let mut after = *state;
        if let Some((current, effect)) = state.rescuer {
            after.rescuer = None;
            self.record(&mut after.row, current, effect, true);
            Some(after)
        } else if row.status == Status::Sending && self.is_abandoned(row) {
            after.rescuer = Some((true, self.rescue(row, state.overdue)));
            Some(after)
        } else if row.status == Status::Queued && state.overdue {
            Some(self.expire(state).0)
        } else if row.status == Status::Queued && self.is_stale(row) {
            after.row.put(Status::Uncertain);
            Some(after)
        } else {
            self.claim(state, 0).or_else(|| self.tick(state))
        }
    }

    /// Whether the job comes to an end once nothing goes wrong any more. Whoever has come to one is remembered.
    fn has_a_way_on(&self, from: State, known: &mut Known) -> bool {
        let mut walked = Vec::new();
        let mut state = from;
        for _ in 0..100 {
            if known.contains(&state) {
                break;
            }
            walked.push(state);
            match self.without_faults(&state) {
                Some(after) => state = self.canonical(after),
                None => break,
            }
        }
        let arrived = walked.len() < 100;
        if arrived {
            known.extend(walked);
        }
        arrived
    }

    /// Visits every state. Stops at the first step that breaks `wanted`, or any invariant where none is wanted, and tells
    /// how it came to it.
    fn explore(&self, wanted: Option<Invariant>) -> Result<Explored, (Invariant, String)> {
        let mut seen = Known::default();
        let mut fine = Known::default();
        let mut order = vec![(State::FIRST, 0_usize, "")];
        seen.insert(State::FIRST);
        let mut steps = 0;
        let mut ends = HashSet::new();
        let mut left = VecDeque::from([0]);
        let is_being_reconciled = |invariant| wanted.is_none_or(|wanted| wanted == invariant);
        while let Some(at) = left.pop_front() {
            let state = order[at].0;
            ends.insert(state.row.status);
            if is_being_reconciled(Invariant::WayOn) && !self.has_a_way_on(state, &mut fine) {
                return Err((Invariant::WayOn, story(&order, at, "and there it stays")));
            }
            for step in self.steps(&state) {
                steps += 1;
                if let Some(broken) = step.broken.filter(|broken| is_being_reconciled(*broken)) {
                    return Err((broken, story(&order, at, step.what)));
                }
                if seen.insert(step.state) {
                    left.push_back(order.len());
                    order.push((step.state, at, step.what));
                }
            }
        }
        Ok(Explored {
            states: order.len(),
            steps,
            ends,
        })
    }
}

/// The shortest way to a broken invariant, one step per line.
fn story(order: &[(State, usize, &'static str)], mut at: usize, last: &str) -> String {
    let mut lines = vec![format!("{last}\n  from {:?}", order[at].0)];
    while at != 0 {
        lines.push(order[at].2.to_owned());
        at = order[at].1;
    }
    lines.reverse();
    lines.join("\n")
}

type Known = HashSet<State, BuildHasherDefault<Mix>>;

/// The standard hasher resists attackers and takes most of the time of an unoptimised search.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value.cast_unsigned() as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95);
    }
}

fn every_invariant_holds(world: &World) {
    match world.explore(None) {
        Ok(Explored {
            states,
            steps,
            ends,
        }) => {
            println!("{states} states, {steps} transitions");
            for status in Status::ALL {
                // Lists that are cut have a small world of their own, in `splitting`.
                let impossible = status == Status::Split
                    || (status == Status::Expired && world.outside == Outside::People);
                assert_ne!(ends.contains(&status), impossible, "{status}");
            }
            assert!(states > 100_000, "the world has become small: {states}");
        }
        Err((broken, story)) => panic!("{broken:?} is broken:\n{story}"),
    }
}

#[test]
fn whatever_happens_to_a_job_every_invariant_holds() {
    every_invariant_holds(&World::new(Outside::Expiry, 3, None));
}

#[test]
fn whatever_people_do_to_a_job_every_invariant_holds() {
    every_invariant_holds(&World::new(Outside::People, 2, None));
}

/// A model that cannot fail proves nothing.
fn breaks(wrong: Wrong, invariant: Invariant) {
    for outside in [Outside::Expiry, Outside::People] {
        match World::new(outside, 3, Some(wrong)).explore(Some(invariant)) {
            Ok(_) => {}
            Err((_, story)) => {
                println!("{wrong:?} breaks {invariant:?}:\n{story}");
                return;
            }
        }
    }
    panic!("{wrong:?} does not break {invariant:?}");
}

#[test]
fn a_blind_resend_is_caught() {
    breaks(Wrong::BlindResend, Invariant::StartedGuarded);
    breaks(Wrong::BlindResend, Invariant::AcceptedOnce);
    breaks(Wrong::BlindResend, Invariant::NotCalledUnsent);
}

#[test]
fn a_request_without_a_marker_is_caught() {
    breaks(Wrong::NoMarker, Invariant::OneAtATime);
    breaks(Wrong::NoMarker, Invariant::AcceptedOnce);
}

#[test]
fn a_record_without_the_token_is_caught() {
    breaks(Wrong::NoToken, Invariant::OneAtATime);
}

#[test]
fn an_indeterminate_request_that_is_called_failed_is_caught() {
    breaks(Wrong::IndeterminateIsFailure, Invariant::NotCalledUnsent);
}

#[test]
fn a_guard_window_longer_than_the_providers_is_caught() {
    breaks(Wrong::GuardTooLong, Invariant::StartedGuarded);
    breaks(Wrong::GuardTooLong, Invariant::AcceptedOnce);
}

#[test]
fn a_guard_window_that_starts_anew_with_each_indeterminate_request_is_caught() {
    breaks(Wrong::GuardRestarts, Invariant::StartedGuarded);
}

#[test]
fn a_rescue_by_age_instead_of_lease_is_caught() {
    breaks(Wrong::RescueByAge, Invariant::OneAtATime);
}

#[test]
fn a_lease_shorter_than_the_request_timeout_is_caught() {
    // The gate lets nothing through that could outlast its lease: nothing is ever sent.
    breaks(Wrong::LeaseTooShort, Invariant::WayOn);
    breaks(Wrong::LeaseTooShortUnasked, Invariant::OneAtATime);
}

#[test]
fn a_gate_that_asks_nothing_is_caught() {
    breaks(Wrong::OpenGate, Invariant::StartedGuarded);
    breaks(Wrong::OpenGate, Invariant::OneAtATime);
}

#[test]
fn a_late_truth_that_is_dropped_is_caught() {
    breaks(Wrong::LateTruthDropped, Invariant::TruthPrevails);
    breaks(Wrong::LateTruthDropped, Invariant::BothKept);
}

#[test]
fn a_rescue_that_overwrites_a_finished_row_is_caught() {
    breaks(Wrong::RescueOverwrites, Invariant::FinalStays);
}

#[test]
fn a_second_acceptance_that_replaces_the_first_is_caught() {
    breaks(Wrong::SecondReplacesFirst, Invariant::BothKept);
}

#[test]
fn an_expiry_that_forgets_indeterminate_requests_is_caught() {
    breaks(Wrong::ExpiryForgetsRequests, Invariant::NotCalledUnsent);
}

/// The known gap: between the last check and the first byte nothing can be checked.
#[test]
fn an_outage_that_costs_a_job_something_is_caught() {
    breaks(Wrong::ThrottledIsRefused, Invariant::OutageCostsNothing);
    breaks(Wrong::ThrottledIsSpent, Invariant::OutageCostsNothing);
}

#[test]
fn a_message_that_is_hated_and_may_have_been_taken_is_not_called_failed() {
    breaks(Wrong::HatredForgetsRequests, Invariant::NotCalledUnsent);
}

#[test]
fn a_worker_frozen_behind_the_gate_for_longer_than_the_guard_could_send_twice() {
    breaks(Wrong::FrozenBehindTheGate, Invariant::AcceptedOnce);
}
