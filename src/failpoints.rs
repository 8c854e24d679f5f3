//! Places where a worker can be made to die or freeze, and ways to make it wrong: for the run in `tests/chaos`, which
//! shows what survives the first, and that it would notice the second.
//!
//! All of it is compiled in by `RUSTFLAGS="--cfg failpoints"` only. It is no feature, because features add up: nobody gets it
//! with `--all-features`, or because another crate asked for it. Without it the functions below do nothing, and cost nothing.
//! With it a worker obeys these variables (they are no settings, so no page for operators names them):
//!
//! ```text
//! SMS_OUTBOX_FAILPOINTS=after-claim=kill:0.02,before-send=freeze:0.01   what happens where, and with which probability
//! SMS_OUTBOX_FAILPOINTS_FILE=/tmp/hits    each strike is appended: name, process id, kill, freeze or panic
//! SMS_OUTBOX_FAILPOINTS_SEED=7            the seed of the probabilities
//! SMS_OUTBOX_WRONG_VARIANT=blind-resend   one of `Variant`
//! ```

#[cfg(all(failpoints, not(debug_assertions)))]
compile_error!(
    "with --cfg failpoints a worker can be told to be wrong: it is for tests, and not for a release"
);

#[cfg(failpoints)]
mod armed;
#[cfg(failpoints)]
mod wrong;

#[cfg(failpoints)]
pub use armed::{FailpointsError, arm};
#[cfg(failpoints)]
pub(crate) use armed::{midway, point, soon};
#[cfg(failpoints)]
pub use wrong::Variant;
#[cfg(failpoints)]
pub(crate) use wrong::{caught, outage, policy, sql, verdict};

/// Where a worker may die or freeze: every place at which it knows or has done something that the world does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// `during-claim`: the claim has been asked for, and its answer not been read. It may stand.
    DuringClaim,
    /// `after-claim`: jobs are claimed, and nothing else has happened.
    AfterClaim,
    /// `before-send`: the gate has opened, and no byte has left.
    BeforeSend,
    /// `handed-over`: the HTTP library has taken the request, and not written it.
    HandedOver,
    /// `in-flight`: the request left a few milliseconds ago.
    InFlight,
    /// `reply-read`: the answer is known, and in this process only.
    ReplyRead,
    /// `before-pause`: a pause is to be written.
    BeforePause,
    /// `after-pause`: it is written; the jobs that met the failure are still held.
    AfterPause,
    /// `before-record`: a batch of outcomes is to be written.
    BeforeRecord,
    /// `during-record`: it has been sent to the database, and the answer not been read. It may stand.
    DuringRecord,
    /// `before-late-record`: some of the batch had lost their claims; what came late is to be written.
    BeforeLateRecord,
    /// `after-record`: it is written, and nobody here knows.
    AfterRecord,
    /// `during-rescue`: abandoned claims have been found, and are to be recovered.
    DuringRescue,
    /// `after-rescue`: they have been.
    AfterRescue,
    /// `during-maintenance`: expired and stale indeterminate jobs have been moved; the rest of the round is to come.
    DuringMaintenance,
    /// `during-probe`: the provider says that the failure is over, and the pause still holds.
    DuringProbe,
    /// `during-drain`: the worker is stopping, and what it had in flight is not recorded.
    DuringDrain,
}

#[cfg(failpoints)]
impl Point {
    /// Every one of them.
    pub const ALL: [Self; 17] = [
        Self::DuringClaim,
        Self::AfterClaim,
        Self::BeforeSend,
        Self::HandedOver,
        Self::InFlight,
        Self::ReplyRead,
        Self::BeforePause,
        Self::AfterPause,
        Self::BeforeRecord,
        Self::DuringRecord,
        Self::BeforeLateRecord,
        Self::AfterRecord,
        Self::DuringRescue,
        Self::AfterRescue,
        Self::DuringMaintenance,
        Self::DuringProbe,
        Self::DuringDrain,
    ];

    /// As the variable and the file of strikes spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DuringClaim => "during-claim",
            Self::AfterClaim => "after-claim",
            Self::BeforeSend => "before-send",
            Self::HandedOver => "handed-over",
            Self::InFlight => "in-flight",
            Self::ReplyRead => "reply-read",
            Self::BeforePause => "before-pause",
            Self::AfterPause => "after-pause",
            Self::BeforeRecord => "before-record",
            Self::DuringRecord => "during-record",
            Self::BeforeLateRecord => "before-late-record",
            Self::AfterRecord => "after-record",
            Self::DuringRescue => "during-rescue",
            Self::AfterRescue => "after-rescue",
            Self::DuringMaintenance => "during-maintenance",
            Self::DuringProbe => "during-probe",
            Self::DuringDrain => "during-drain",
        }
    }
}

#[cfg(not(failpoints))]
pub(crate) use absent::{caught, midway, outage, point, policy, soon, sql, verdict};

/// What is left of all this in a release: nothing.
#[cfg(not(failpoints))]
mod absent {
    use super::Point;
    use crate::lifecycle::{Policy, Verdict};

    #[inline(always)]
    pub(crate) const fn point(_: Point) {}

    #[inline(always)]
    pub(crate) const fn soon(_: Point) {}

    #[inline(always)]
    pub(crate) fn midway<F: Future>(_: Point, work: F) -> F {
        work
    }

    #[inline(always)]
    pub(crate) const fn sql(statement: &'static str) -> &'static str {
        statement
    }

    #[inline(always)]
    pub(crate) const fn policy(policy: Policy) -> Policy {
        policy
    }

    #[inline(always)]
    pub(crate) fn verdict(verdict: Verdict) -> Verdict {
        verdict
    }

    #[inline(always)]
    pub(crate) const fn outage(known: bool) -> bool {
        known
    }

    #[inline(always)]
    pub(crate) fn caught(_: Box<dyn std::any::Any + Send>) {}
}
