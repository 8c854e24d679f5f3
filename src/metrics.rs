//! What this process counts about itself. Nothing is global: the daemon makes one [`Metrics`] and passes it, or the part of
//! it that belongs to one account, to whoever has something to count.
//!
//! Every known label value is there from the start, so that zero is visible and an alert has something to compare with.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::lifecycle::{ErrorClass, Outcome, PauseScope, Verdict};

mod deliveries;
mod webhooks;

pub(crate) use deliveries::{AccountDeliveries, DeliveryMetrics};
pub(crate) use webhooks::{EventResult, ForwardResult, WebhookMetrics};

/// Names and values, in the order in which they are shown.
pub(crate) type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// What may come of one request.
const OUTCOMES: [&str; 7] = [
    "accepted",
    "duplicate",
    "refused",
    "blocked",
    "throttled",
    "not_sent",
    "indeterminate",
];

/// What may be recorded about a claim.
const KINDS: [&str; 8] = [
    "sent",
    "duplicate",
    "split",
    "failed",
    "expired",
    "uncertain",
    "retry",
    "released",
];

const SCOPES: [PauseScope; 3] = [PauseScope::Account, PauseScope::Sender, PauseScope::Iys];

/// How a reconciliation task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// One order fits: the job is `sent` under it.
    Settled,
    /// None fits.
    None,
    /// One fits, and may be somebody else's: a person has to resolve it.
    Candidate,
    /// More than one may be it: a person has to resolve it.
    Several,
}

impl Reconciled {
    const ALL: [Self; 4] = [Self::Settled, Self::None, Self::Candidate, Self::Several];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::None => "none",
            Self::Candidate => "candidate",
            Self::Several => "several",
        }
    }
}

/// What the provider's reports are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// A page of the list of orders (`get-reports`).
    List,
    /// A page of one order (`get-report`).
    Report,
}

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuestionResult {
    /// An answer.
    Answered,
    /// That there is no such order, or not yet.
    NotThere,
    /// No answer, or that none is given now.
    Failed,
}

/// What came of an event that a receiver could not match by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InboxResult {
    /// It was recorded.
    Matched,
    /// It named the order of a job whose answer was lost.
    Settled,
    /// It does not fit what it names: the report was asked.
    Suspicious,
    /// Nobody knew its order within 24 hours.
    Unknown,
}

impl InboxResult {
    const ALL: [Self; 4] = [
        Self::Matched,
        Self::Settled,
        Self::Suspicious,
        Self::Unknown,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Settled => "settled",
            Self::Suspicious => "suspicious",
            Self::Unknown => "unknown",
        }
    }
}

impl Question {
    const ALL: [Self; 2] = [Self::List, Self::Report];

    const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Report => "report",
        }
    }
}

impl QuestionResult {
    const ALL: [Self; 3] = [Self::Answered, Self::NotThere, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NotThere => "not_there",
            Self::Failed => "failed",
        }
    }
}

/// Everything that a worker counts. Cloning it shares the counters.
#[derive(Clone, Default)]
pub struct Metrics {
    requests: Counters,
    request_errors: Counters,
    request_duration: Durations,
    in_flight: Family<Labels, Gauge>,
    claims: Counters,
    empty_claims: Counters,
    slots_forfeited: Counters,
    provider_outages: Counters,
    refused_rows: Counters,
    provider_unavailable: Family<Labels, Gauge>,
    limit: Family<Labels, Gauge>,
    outcomes: Counters,
    pauses_begun: Counters,
    pauses_ended: Counters,
    reconciliations: Counters,
    report_questions: Counters,
    pub(crate) deliveries: DeliveryMetrics,
    strange_reports: Counters,
    inbox_events: Counters,
    /// Claims released unsent, because their answer could have come after the end of their lease.
    pub(crate) lost_leases: Counter,
    /// Outcomes that came after their claim was lost.
    pub(crate) late_answers: Counter,
    /// Jobs with two acceptances recorded.
    pub(crate) accepted_twice: Counter,
    /// Abandoned claims that this worker recovered.
    pub(crate) rescued_claims: Counter,
    /// Jobs whose `expires_at` came before they could be sent.
    expired_jobs: Counter,
    /// Jobs whose processing panicked.
    pub(crate) job_panics: Counter,
    /// Times that the database became unavailable.
    pub(crate) database_outages: Counter,
    database_away: Counter<f64, AtomicU64>,
    /// What is received of webhooks, if anything is.
    pub(crate) webhooks: WebhookMetrics,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Durations(Histograms);

impl Default for Durations {
    fn default() -> Self {
        // From a provider next door to one that uses up the default timeout of 30 s.
        Self(Family::new_with_constructor(|| {
            Histogram::new([
                0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0,
            ])
        }))
    }
}

impl Metrics {
    /// Names everything to `registry`, whose prefix is `sms_outbox`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        let build = Family::<Labels, Gauge>::default();
        build.get_or_create(&version).set(1);
        registry.register("build_info", "The program's version, as a label", build);
        for (name, help, counters) in [
            (
                "requests",
                "Requests that were made, by what came of them",
                &self.requests,
            ),
            (
                "request_errors",
                "Requests that were not accepted, by error class",
                &self.request_errors,
            ),
            ("claims", "Jobs that this worker claimed", &self.claims),
            (
                "empty_claims",
                "Claims that found nothing to do",
                &self.empty_claims,
            ),
            (
                "slots_forfeited",
                "Slots in the rate that passed unused and had to be reserved again",
                &self.slots_forfeited,
            ),
            (
                "refused_rows",
                "Jobs that were stepped over because the database refuses to change their row",
                &self.refused_rows,
            ),
            (
                "provider_outages",
                "Outages of the provider that this worker noticed first",
                &self.provider_outages,
            ),
            (
                "outcomes",
                "Outcomes that were recorded, and waiting jobs that expired or became uncertain",
                &self.outcomes,
            ),
            (
                "pauses_begun",
                "Pauses that this worker began",
                &self.pauses_begun,
            ),
            (
                "pauses_ended",
                "Pauses that this worker ended",
                &self.pauses_ended,
            ),
            (
                "reconciliations",
                "Reconciliation tasks that ended, by result",
                &self.reconciliations,
            ),
            (
                "report_questions",
                "Questions to the provider's reports, by what came of them",
                &self.report_questions,
            ),
            (
                "strange_reports",
                "Reports that named other numbers than their job has",
                &self.strange_reports,
            ),
            (
                "inbox_events",
                "Events of webhooks that the receiver left to the workers, by what came of them",
                &self.inbox_events,
            ),
        ] {
            registry.register(name, help, counters.clone());
        }
        for (name, help, counter) in [
            (
                "lost_leases",
                "Claims released unsent because their lease was about to end",
                &self.lost_leases,
            ),
            (
                "late_answers",
                "Outcomes that came after their claim was lost",
                &self.late_answers,
            ),
            (
                "accepted_twice",
                "Jobs that the provider accepted twice",
                &self.accepted_twice,
            ),
            (
                "rescued_claims",
                "Abandoned claims that this worker recovered",
                &self.rescued_claims,
            ),
            (
                "expired_jobs",
                "Jobs whose expires_at came before they could be sent",
                &self.expired_jobs,
            ),
            (
                "job_panics",
                "Jobs whose processing panicked: a bug in the worker, which goes on with the others",
                &self.job_panics,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        self.register_receiver(registry);
        registry.register_with_unit(
            "request_duration",
            "From the start of a request to its answer or its end",
            Unit::Seconds,
            self.request_duration.0.clone(),
        );
        registry.register(
            "provider_unavailable",
            "Whether nothing new is sent for an account because the provider does not answer",
            self.provider_unavailable.clone(),
        );
        registry.register(
            "limit_per_second",
            "Recipients a second that the fleet may send to for an account; 0 without a limit",
            self.limit.clone(),
        );
        registry.register(
            "in_flight_jobs",
            "Jobs that are claimed here and not yet recorded",
            self.in_flight.clone(),
        );
        for kind in KINDS {
            drop(
                self.outcomes
                    .get_or_create(&vec![("kind", kind.to_owned())]),
            );
        }
        for result in Reconciled::ALL {
            drop(self.reconciliations.get_or_create(&reconciled(result)));
        }
    }

    /// Names to `registry` what there is without a worker. Not the build: that there is one says that there is a worker.
    pub(crate) fn register_receiver(&self, registry: &mut Registry) {
        registry.register(
            "database_outages",
            "Times that the database became unavailable",
            self.database_outages.clone(),
        );
        registry.register_with_unit(
            "database_away",
            "How long the database was unavailable",
            Unit::Seconds,
            self.database_away.clone(),
        );
        self.deliveries.register(registry);
        self.webhooks.register(registry);
    }

    /// The part that belongs to one account.
    pub(crate) fn account(&self, account: &str) -> AccountMetrics {
        let own = || ("account", account.to_owned());
        for scope in SCOPES {
            drop(
                self.pauses_begun
                    .get_or_create(&pause(account, scope.as_str())),
            );
            drop(
                self.pauses_ended
                    .get_or_create(&pause(account, scope.as_str())),
            );
        }
        AccountMetrics {
            outcomes: OUTCOMES.map(|outcome| {
                self.requests
                    .get_or_create_owned(&vec![own(), ("outcome", outcome.to_owned())])
            }),
            errors: ErrorClass::ALL.map(|class| {
                let class = class.as_str().to_owned();
                self.request_errors
                    .get_or_create_owned(&vec![own(), ("class", class)])
            }),
            duration: self.request_duration.0.get_or_create_owned(&vec![own()]),
            in_flight: self.in_flight.get_or_create_owned(&vec![own()]),
            claims: self.claims.get_or_create_owned(&vec![own()]),
            empty_claims: self.empty_claims.get_or_create_owned(&vec![own()]),
            outages: self.provider_outages.get_or_create_owned(&vec![own()]),
            unavailable: self.provider_unavailable.get_or_create_owned(&vec![own()]),
            limit: self.limit.get_or_create_owned(&vec![own()]),
            slots_forfeited: self.slots_forfeited.get_or_create_owned(&vec![own()]),
            refused_rows: self.refused_rows.get_or_create_owned(&vec![own()]),
            deliveries: self.deliveries.account(account),
            strange_reports: self.strange_reports.get_or_create_owned(&vec![own()]),
            inbox_events: InboxResult::ALL.map(|result| {
                let result = ("result", result.as_str().to_owned());
                self.inbox_events.get_or_create_owned(&vec![own(), result])
            }),
            questions: Question::ALL.map(|kind| {
                QuestionResult::ALL.map(|result| {
                    self.report_questions.get_or_create_owned(&vec![
                        own(),
                        ("kind", kind.as_str().to_owned()),
                        ("result", result.as_str().to_owned()),
                    ])
                })
            }),
        }
    }

    /// An outcome is recorded.
    pub(crate) fn outcome(&self, outcome: &Outcome) {
        let [
            sent,
            duplicate,
            _,
            failed,
            expired,
            uncertain,
            retry,
            released,
        ] = KINDS;
        let kind = match outcome {
            Outcome::Sent {
                duplicate: false, ..
            } => sent,
            Outcome::Sent {
                duplicate: true, ..
            } => duplicate,
            Outcome::Failed(_) => failed,
            Outcome::Expired => {
                self.expired_jobs.inc();
                expired
            }
            Outcome::Uncertain(_) => uncertain,
            Outcome::Retry { .. } => retry,
            Outcome::Release { .. } => released,
        };
        self.count_outcome(kind);
    }

    /// A list is recorded that goes on in parts.
    pub(crate) fn split(&self) {
        self.count_outcome("split");
    }

    /// `expires_at` passed for a waiting job, which is now `status`.
    pub(crate) fn overdue(&self, status: &str) {
        self.expired_jobs.inc();
        self.count_outcome(status);
    }

    /// The guard of an indeterminate job ended while it waited.
    pub(crate) fn guard_elapsed(&self) {
        self.count_outcome("uncertain");
    }

    fn count_outcome(&self, kind: &str) {
        let labels = vec![("kind", kind.to_owned())];
        self.outcomes.get_or_create(&labels).inc();
    }

    /// A pause was begun.
    pub(crate) fn pause_begun(&self, account: &str, scope: PauseScope) {
        let labels = pause(account, scope.as_str());
        self.pauses_begun.get_or_create(&labels).inc();
    }

    /// A pause was ended; `scope` as the database has it.
    pub(crate) fn pause_ended(&self, account: &str, scope: &str) {
        self.pauses_ended
            .get_or_create(&pause(account, scope))
            .inc();
    }

    /// A reconciliation task ended.
    pub(crate) fn reconciled(&self, result: Reconciled) {
        self.reconciliations
            .get_or_create(&reconciled(result))
            .inc();
    }

    /// The database was unavailable for this much longer.
    pub(crate) fn database_was_away(&self, for_another: Duration) {
        self.database_away.inc_by(for_another.as_secs_f64());
    }
}

fn pause(account: &str, scope: &str) -> Labels {
    vec![("account", account.to_owned()), ("scope", scope.to_owned())]
}

fn reconciled(result: Reconciled) -> Labels {
    vec![("result", result.as_str().to_owned())]
}

/// What is counted about one account. Looked up once, so that counting costs an addition.
#[derive(Clone, Debug)]
pub(crate) struct AccountMetrics {
    /// In the order of [`OUTCOMES`].
    outcomes: [Counter; OUTCOMES.len()],
    /// In the order of [`ErrorClass::ALL`].
    errors: [Counter; ErrorClass::ALL.len()],
    duration: Histogram,
    in_flight: Gauge,
    claims: Counter,
    empty_claims: Counter,
    outages: Counter,
    unavailable: Gauge,
    limit: Gauge,
    pub(crate) slots_forfeited: Counter,
    pub(crate) refused_rows: Counter,
    pub(crate) deliveries: AccountDeliveries,
    strange_reports: Counter,
    /// In the order of [`InboxResult::ALL`].
    inbox_events: [Counter; InboxResult::ALL.len()],
    /// In the order of [`Question::ALL`] and [`QuestionResult::ALL`].
    questions: [[Counter; QuestionResult::ALL.len()]; Question::ALL.len()],
}

impl AccountMetrics {
    /// A claim came back with so many jobs.
    pub(crate) fn claimed(&self, jobs: usize) {
        if jobs == 0 {
            self.empty_claims.inc();
        } else {
            self.claims.inc_by(jobs as u64);
        }
    }

    /// A request has come to its end.
    pub(crate) fn request(&self, verdict: &Verdict, took: Duration) {
        let [
            accepted,
            duplicate,
            refused,
            blocked,
            throttled,
            not_sent,
            indeterminate,
        ] = &self.outcomes;
        let (outcome, failure) = match verdict {
            Verdict::Accepted(_) => (accepted, None),
            Verdict::Duplicate => (duplicate, None),
            Verdict::Refused(failure) => (refused, Some(failure)),
            Verdict::Blocked { failure, .. } => (blocked, Some(failure)),
            Verdict::Throttled { failure, .. } => (throttled, Some(failure)),
            Verdict::NotSent(failure) => (not_sent, Some(failure)),
            Verdict::Indeterminate(failure) => (indeterminate, Some(failure)),
        };
        outcome.inc();
        self.duration.observe(took.as_secs_f64());
        if let Some(failure) = failure {
            for (class, counter) in ErrorClass::ALL.iter().zip(&self.errors) {
                if *class == failure.class {
                    counter.inc();
                }
            }
        }
    }

    /// The reports were asked.
    pub(crate) fn question(&self, kind: Question, result: QuestionResult) {
        self.questions[kind as usize][result as usize].inc();
    }

    /// A report named other numbers than its job has.
    pub(crate) fn strange_report(&self) {
        self.strange_reports.inc();
    }

    /// This came of so many events.
    pub(crate) fn events(&self, result: InboxResult, count: u64) {
        self.inbox_events[result as usize].inc_by(count);
    }

    /// This worker has noticed that the provider is unavailable.
    pub(crate) fn outage_begun(&self) {
        self.outages.inc();
    }

    /// Whether the fleet takes the provider for unavailable.
    pub(crate) fn outage(&self, outage: bool) {
        self.unavailable.set(outage.into());
    }

    /// The limit that holds, in recipients a second.
    pub(crate) fn limit(&self, per_second: u32) {
        self.limit.set(per_second.into());
    }

    /// What [`limit`](Self::limit) said last.
    pub(crate) fn current_limit(&self) -> u32 {
        u32::try_from(self.limit.get()).unwrap_or(0)
    }

    /// Counts a job as in flight until what is returned is dropped.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }
}

/// One job in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
