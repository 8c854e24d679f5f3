//! Workers that are wrong in a known way. A run that does not notice them proves nothing about the right one.

use std::{any::Any, collections::HashMap, panic::resume_unwind, sync::OnceLock, time::Duration};

use crate::lifecycle::{Policy, Verdict};

/// A way to be wrong that somebody has chosen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// `blind-resend`: no attempt is ever marked indeterminate, so an unanswered request is repeated at any age.
    BlindResend,
    /// `no-marker`: a claim only postpones the job. That it may have been sent is written down afterwards, if at all.
    NoMarker,
    /// `record-without-token`: whoever has an answer writes it down, whoever holds the job, and whatever it has become.
    RecordWithoutToken,
    /// `indeterminate-is-failure`: a missing answer is treated as a refusal.
    IndeterminateIsFailure,
    /// `guard-too-long`: repeats are made as if the provider's guard stood for an hour.
    GuardTooLong,
    /// `rescue-by-age`: claims are recovered because they are old, although their leases still hold.
    RescueByAge,
    /// `no-rescue`: claims whose worker died are never recovered.
    NoRescue,
    /// `no-limit`: jobs are claimed without slots.
    NoLimit,
    /// `own-limit`: it goes by the limit that it was given itself, whatever the others bring.
    OwnLimit,
    /// `outage-unnoticed`: it goes on sending new messages to a provider that is unavailable.
    OutageUnnoticed,
    /// `no-expiry`: nobody looks at `expires_at`.
    NoExpiry,
    /// `panic-spreads`: a job's panic is not caught where the job is carried.
    PanicSpreads,
}

impl Variant {
    /// Every one of them.
    pub const ALL: [Self; 12] = [
        Self::BlindResend,
        Self::NoMarker,
        Self::RecordWithoutToken,
        Self::IndeterminateIsFailure,
        Self::GuardTooLong,
        Self::RescueByAge,
        Self::NoRescue,
        Self::NoLimit,
        Self::OwnLimit,
        Self::OutageUnnoticed,
        Self::NoExpiry,
        Self::PanicSpreads,
    ];

    /// As the variable spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BlindResend => "blind-resend",
            Self::NoMarker => "no-marker",
            Self::RecordWithoutToken => "record-without-token",
            Self::IndeterminateIsFailure => "indeterminate-is-failure",
            Self::GuardTooLong => "guard-too-long",
            Self::RescueByAge => "rescue-by-age",
            Self::NoRescue => "no-rescue",
            Self::NoLimit => "no-limit",
            Self::OwnLimit => "own-limit",
            Self::OutageUnnoticed => "outage-unnoticed",
            Self::NoExpiry => "no-expiry",
            Self::PanicSpreads => "panic-spreads",
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.name() == name)
    }

    /// What it says differently: statement, words, other words.
    const fn rewrites(self) -> &'static [(&'static str, &'static str, &'static str)] {
        const CLAIM_SINGLES: &str = concat!(
            include_str!("../outbox/claim/account.sql"),
            include_str!("../outbox/claim/singles.sql"),
            include_str!("../outbox/claim/mark.sql")
        );
        const ABANDONED: &str = include_str!("../outbox/abandoned.sql");
        const EXPIRE: &str = include_str!("../outbox/expire.sql");
        const RECORD_SENT: &str = include_str!("../outbox/record_sent.sql");
        const RECORD_OTHER: &str = include_str!("../outbox/record_other.sql");
        const HOLDS: &str = "AND job.token = answer.token AND job.status = 'sending'";
        const TOKEN: &str = "AND job.token = ($2::integer[])[array_position($1::uuid[], job.id)]";
        const LEASED: &str = "AND job.lease_until IS NOT NULL";
        match self {
            Self::IndeterminateIsFailure | Self::GuardTooLong | Self::PanicSpreads => &[],
            Self::BlindResend => &[(
                RECORD_OTHER,
                "CASE WHEN answer.indeterminate THEN coalesce(job.ambiguous_since, job.claimed_at)",
                "CASE WHEN answer.indeterminate THEN NULL",
            )],
            Self::NoMarker => &[
                (
                    CLAIM_SINGLES,
                    "SET status = 'sending',",
                    "SET due_at = now() + $2 * interval '1 millisecond',",
                ),
                (
                    CLAIM_SINGLES,
                    "lease_until = now() + $2 * interval '1 millisecond'",
                    "lease_until = NULL",
                ),
                (
                    RECORD_OTHER,
                    HOLDS,
                    "AND job.status IN ('queued', 'sending')",
                ),
                (RECORD_SENT, TOKEN, ""),
                (
                    RECORD_SENT,
                    LEASED,
                    "AND job.status IN ('queued', 'sending')",
                ),
            ],
            Self::RecordWithoutToken => &[
                (RECORD_OTHER, HOLDS, ""),
                (RECORD_SENT, TOKEN, ""),
                (RECORD_SENT, LEASED, ""),
            ],
            Self::RescueByAge => &[(
                ABANDONED,
                "lease_until <= now()",
                "claimed_at <= now() - interval '100 milliseconds'",
            )],
            Self::NoRescue => &[(ABANDONED, "lease_until <= now()", "false")],
            Self::NoLimit => &[(
                CLAIM_SINGLES,
                "sms_outbox.rate_per_second($1, $4) AS per_second",
                "CASE WHEN $4 < 0 THEN 1 END AS per_second",
            )],
            Self::OwnLimit => &[(
                CLAIM_SINGLES,
                "sms_outbox.rate_per_second($1, $4) AS per_second",
                "nullif($4, 0) AS per_second",
            )],
            Self::OutageUnnoticed => &[(
                CLAIM_SINGLES,
                "coalesce(NOT $7 AND (SELECT outage_since IS NOT NULL FROM sms_outbox.accounts WHERE account = $1), false) AS outage",
                "$7 AND false AS outage",
            )],
            Self::NoExpiry => &[
                (
                    CLAIM_SINGLES,
                    "AND (expires_at IS NULL OR expires_at > now())",
                    "",
                ),
                (
                    CLAIM_SINGLES,
                    "(extract(epoch FROM job.expires_at - now()) * 1000)::bigint AS expires_in_ms",
                    "NULL::bigint AS expires_in_ms",
                ),
                (EXPIRE, "expires_at <= now()", "false"),
            ],
        }
    }
}

/// What this process has become.
struct Wrong {
    variant: Variant,
    statements: HashMap<&'static str, &'static str>,
}

static WRONG: OnceLock<Wrong> = OnceLock::new();

/// # Panics
/// When a statement no longer says what the variant would say differently: the variant has to follow the statement.
pub(super) fn become_wrong(variant: Variant) {
    let mut statements: HashMap<&'static str, &'static str> = HashMap::new();
    for (statement, words, others) in variant.rewrites() {
        let now = statements.get(statement).copied().unwrap_or(statement);
        assert!(
            now.contains(words),
            "{} looks for {words:?} in a statement that no longer says it",
            variant.name()
        );
        // Leaked: a statement is static, and a process becomes wrong once.
        statements.insert(statement, now.replace(words, others).leak());
    }
    WRONG
        .set(Wrong {
            variant,
            statements,
        })
        .ok();
}

fn variant() -> Option<Variant> {
    WRONG.get().map(|wrong| wrong.variant)
}

/// The statement as this process says it.
pub(crate) fn sql(statement: &'static str) -> &'static str {
    WRONG
        .get()
        .and_then(|wrong| wrong.statements.get(statement).copied())
        .unwrap_or(statement)
}

/// The policy that this process follows.
pub(crate) fn policy(policy: Policy) -> Policy {
    match variant() {
        Some(Variant::BlindResend | Variant::GuardTooLong) => Policy {
            guard_window: Duration::from_secs(3600),
            ..policy
        },
        _ => policy,
    }
}

/// What this process takes an answer for.
pub(crate) fn verdict(verdict: Verdict) -> Verdict {
    match (variant(), verdict) {
        (Some(Variant::IndeterminateIsFailure), Verdict::Indeterminate(failure)) => {
            Verdict::Refused(failure)
        }
        (_, verdict) => verdict,
    }
}

/// Whether this process believes that the provider is unavailable.
pub(crate) fn outage(known: bool) -> bool {
    known && variant() != Some(Variant::OutageUnnoticed)
}

/// What this process does about a job's panic that was caught.
pub(crate) fn caught(panic: Box<dyn Any + Send>) {
    if variant() == Some(Variant::PanicSpreads) {
        resume_unwind(panic);
    }
}
