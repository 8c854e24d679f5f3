//! The one flow, and nothing else:
//!
//! ```text
//! claim -> parse -> lock -> gate -> send -> decide -> record
//! ```
//!
//! Each step takes what only the step before can have made. Sending consumes a `Permit`, which only the gate makes;
//! recording consumes the claim. Here, and only here, the outbox and the provider meet.

mod account_health;
mod concurrency;
mod content_lock;
mod cursor;
mod deliveries;
mod gate;
mod health;
mod maintenance;
mod outage;
mod parse;
mod questions;
mod recall;
mod reconcile;
mod recorder;
mod running;
mod split;
mod turns;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use concurrency::{Concurrency, Poll, RequestPermit};
use content_lock::{ContentLock, ContentLocks};
pub use deliveries::Following;
use gate::{Permit, Slot, Withheld, slots_ahead};
pub(crate) use health::Pulse;
pub use outage::Outage;
use parse::{ParsedJob, send_at};
pub use recall::{Recalled, recall};
use recorder::Entry;
pub(crate) use running::watched;
pub use running::{Account, Running, Settings};
use running::{AccountState, jitter};
use turns::Turns;

use crate::{
    failpoints::{self, Point},
    lifecycle::{ErrorClass, Failure, JobState, Outcome, Pause, PauseScope, Progress, Verdict},
    message::is_traceparent,
    outbox::{Claim, ClaimOrder, ContentKey, Evidence, Observer, Outbox, OutboxError, Record},
    provider::{Order, Provider},
    splitting::Cut,
};

/// How long after the last work a limited account is polled often: longer than a job of many recipients can keep all others
/// waiting.
const SLOTS_RETURN: Duration = Duration::from_secs(3);
/// One bulk order of so many is taken for its age and not for its priority.
const OLDEST_BULK: u32 = 4;
/// How far a refused claim is looked into, for each producer and priority.
const LOOK_FOR_REFUSED: usize = 300;

/// The flow of one worker.
pub struct Dispatch {
    outbox: Outbox,
    provider: Provider,
    settings: Settings,
    accounts: Vec<Arc<AccountState>>,
    content_locks: ContentLocks,
    outage: Arc<Outage>,
    entries: mpsc::Sender<Entry>,
    jobs: TaskTracker,
    /// Nothing new is claimed once this is cancelled.
    stop: CancellationToken,
    /// Cancelled when a task has died that should not have.
    broken: CancellationToken,
}

/// The outcome of a claim, before it is recorded.
struct Processed {
    outcome: Outcome,
    /// The pause that follows, if any.
    pause: Option<Pause>,
    evidence: Option<Evidence>,
    content: ContentKey,
    rejected: Vec<String>,
    /// How a list goes on that failed because of numbers in it.
    cut: Option<Cut>,
    /// Held until then: a duplicate's 451 can name this job only once it is recorded.
    lock: Option<ContentLock>,
}

impl Dispatch {
    /// Claims single messages for the permits that are free, and as many as become free in the next milliseconds: no
    /// job waits here for longer that another worker could send.
    async fn claim_singles(self: Arc<Self>, account: Arc<AccountState>) {
        let pulse = self
            .outage
            .claims(format!("claims of account {}", account.name));
        if self.unless_stopping(account.informed()).await.is_none() {
            return;
        }
        // Six polls in the promised interval: the first messages of a burst wait for one of them, and one may fail.
        let mut poll = Poll::new(self.settings.poll_interval / 6);
        let mut turns = Turns::new(self.settings.poll_interval / 2);
        let mut last_found = Instant::now();
        while let Some(available) = self.unless_stopping(account.concurrency.available()).await {
            let slots = self.slots(&account);
            let trial = account.health.is_trial();
            let at_most = match (trial, account.limit()) {
                (true, _) => 1,
                (false, 0) => available,
                (false, per_second) => available.min(slots_ahead(per_second, slots.horizon)),
            };
            let asked = Instant::now();
            if let Err(error) = self.refresh(&account, &mut turns).await {
                pulse.failed(&error);
                let pause = self.outage.failed(&error);
                if !self.sleep(pause).await {
                    return;
                }
                continue;
            }
            let round = turns.next(at_most, asked);
            let order = self.claim_order(&account, trial);
            pulse.begins();
            let pause = match self.outbox.claim(order, at_most, &round.turns).await {
                Ok(claims) => {
                    if !claims.is_empty() {
                        failpoints::point(Point::AfterClaim);
                    }
                    self.outage.over();
                    pulse.succeeded();
                    account.concurrency.claim_took();
                    turns.claimed(&round, &claims, asked, Instant::now());
                    let found = claims.len();
                    account.metrics.claimed(found);
                    account.health.claimed(&claims);
                    let limited = account.limit() > 0;
                    if let Some(claim) = claims.first() {
                        account.follow(claim.received - claim.asked);
                    }
                    if trial {
                        if found == 0 {
                            self.nothing_to_try(&account).await;
                        } else {
                            account.health.trial_over();
                        }
                    }
                    for claim in claims {
                        self.carry(&account, claim, &account.concurrency, trial);
                    }
                    if found > 0 {
                        poll.found();
                        last_found = Instant::now();
                    }
                    // A full claim means that there is probably more.
                    if found == at_most {
                        Duration::ZERO
                    } else if limited && last_found.elapsed() < SLOTS_RETURN {
                        // Nothing may have come because no slot was free; the next one is a few milliseconds away.
                        poll.pause(jitter()).min(Duration::from_millis(20))
                    } else {
                        poll.pause(jitter())
                    }
                }
                Err(error) => {
                    pulse.failed(&error);
                    self.claim_failed(&account, &error).await
                }
            };
            if !self.sleep(pause).await {
                return;
            }
        }
    }

    /// Claims bulk orders, one after the other.
    async fn claim_bulk(self: Arc<Self>, account: Arc<AccountState>) {
        let pulse = self
            .outage
            .claims(format!("claims of bulk orders of account {}", account.name));
        if self.unless_stopping(account.informed()).await.is_none() {
            return;
        }
        let mut poll = Poll::new(self.settings.poll_interval / 2);
        let mut turns = Turns::new(self.settings.poll_interval / 2);
        let mut orders: u32 = 0;
        while self
            .unless_stopping(account.bulk_concurrency.available())
            .await
            .is_some()
        {
            let oldest = orders % OLDEST_BULK == OLDEST_BULK - 1;
            let order = self.claim_order(&account, false);
            pulse.begins();
            let claimed = match self.refresh(&account, &mut turns).await {
                Ok(()) => {
                    self.outbox
                        .claim_bulk(order, &turns.producers(), oldest)
                        .await
                }
                Err(error) => Err(error),
            };
            let pause = match claimed {
                Ok(Some(claim)) => {
                    failpoints::point(Point::AfterClaim);
                    self.outage.over();
                    pulse.succeeded();
                    account.metrics.claimed(1);
                    self.carry(&account, claim, &account.bulk_concurrency, false);
                    orders = orders.wrapping_add(1);
                    poll.found();
                    Duration::ZERO
                }
                Ok(None) => {
                    self.outage.over();
                    pulse.succeeded();
                    poll.pause(jitter()).max(Duration::from_millis(10))
                }
                Err(error) => {
                    pulse.failed(&error);
                    self.claim_failed(&account, &error).await
                }
            };
            if !self.sleep(pause).await {
                return;
            }
        }
    }

    fn claim_order<'a>(&'a self, account: &'a AccountState, trial: bool) -> ClaimOrder<'a> {
        ClaimOrder {
            account: &account.name,
            worker: &self.settings.worker,
            lease: self.settings.policy.lease,
            slots: self.slots(account),
            trial,
        }
    }

    /// Looks whose jobs wait, if it is time to.
    async fn refresh(&self, account: &AccountState, turns: &mut Turns) -> Result<(), OutboxError> {
        let now = Instant::now();
        if turns.are_stale(now) {
            turns.refresh(&self.outbox.waiting(&account.name).await?, now);
        }
        Ok(())
    }

    /// A claim failed. Where the database refuses to change a row, that one is named and stepped over; returns how long to wait.
    async fn claim_failed(&self, account: &AccountState, error: &OutboxError) -> Duration {
        if error.may_blame_one_row()
            && let Ok(refused) = self
                .outbox
                .name_refused(&account.name, LOOK_FOR_REFUSED)
                .await
            && !refused.is_empty()
        {
            for job in refused {
                account.metrics.refused_rows.inc();
                tracing::error!(
                    job.id = %job.job_id, account = %account.name, sqlstate = job.sqlstate, rule = job.rule,
                    refusals = job.refusals,
                    "the database refuses to change this job's row: it is stepped over, and tried again later"
                );
            }
            return Duration::ZERO;
        }
        self.outage.failed(error)
    }

    /// Carries one claim to its record, in a task of its own.
    fn carry(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        claim: Claim,
        concurrency: &Arc<Concurrency>,
        trial: bool,
    ) {
        let (permit, unrecorded) = concurrency.take();
        let in_flight = account.metrics.in_flight();
        let (this, account, concurrency) = (
            Arc::clone(self),
            Arc::clone(account),
            Arc::clone(concurrency),
        );
        let span = match claim
            .traceparent
            .as_deref()
            .filter(|text| is_traceparent(text))
        {
            Some(traceparent) => tracing::info_span!("send", traceparent),
            None => tracing::Span::none(),
        };
        let job = async move {
            let requested = AtomicBool::new(false);
            // A panic is this job's own failure: the other jobs, and the worker, go on. Boxed, so that what wraps it is moved
            // without it: a job's future took 29 kB once, and copying and clearing them a tenth of a worker's time.
            let process = Box::pin(this.process(&account, &concurrency, &claim, trial, &requested));
            let processed = match AssertUnwindSafe(process).catch_unwind().await {
                Ok(processed) => processed,
                Err(panic) => {
                    failpoints::caught(panic);
                    this.panicked(&account, &claim, requested.into_inner())
                }
            };
            let Processed {
                outcome,
                pause,
                evidence,
                content,
                rejected,
                cut,
                lock,
            } = processed;
            let record = Record {
                job: claim.id,
                token: claim.token,
                attempt: claim.attempt,
                worker: Arc::clone(&this.settings.worker),
                claimed: claim.asked,
                outcome,
                evidence,
                rejected,
                content,
                observer: Observer::Worker,
                cut,
            };
            let entry = Entry {
                account: Arc::clone(&account.name),
                sender: claim.sender,
                record,
                // The request is over: its permit is free while the outcome waits to be written down. Not if it is to pause
                // the account: nothing more may be claimed until everyone knows of it.
                _permit: pause.is_some().then_some(permit),
                pause,
                _lock: lock,
                _unrecorded: unrecorded,
            };
            // Fails only when the recorder has died, which is noticed where it is watched.
            this.entries.send(entry).await.ok();
            drop(in_flight);
        };
        self.jobs.spawn(watched(
            self.broken.clone(),
            "sending",
            job.instrument(span),
        ));
    }

    /// Everything between a claim and its record. `requested` becomes true before the request can leave.
    async fn process(
        &self,
        account: &AccountState,
        concurrency: &Concurrency,
        claim: &Claim,
        trial: bool,
        requested: &AtomicBool,
    ) -> Processed {
        let parsed = match ParsedJob::parse(&account.name, claim, self.settings.foreign) {
            Ok(parsed) => parsed,
            Err(unsendable) => {
                return Processed {
                    outcome: Outcome::Failed(unsendable.failure),
                    pause: None,
                    evidence: None,
                    content: ContentKey::of(&account.name, [], &claim.body),
                    rejected: unsendable.rejected,
                    cut: None,
                    lock: None,
                };
            }
        };
        let (sent, lock) = match self.content_locks.lock(parsed.content) {
            Ok(lock) => {
                let sent =
                    self.send_through_gate(account, concurrency, claim, &parsed, trial, requested);
                (sent.await, Some(lock))
            }
            // It comes back when its turn may have come, and keeps neither permit nor lease meanwhile.
            Err(turn) => (Err(Withheld::Duplicate(turn)), None),
        };
        let (outcome, pause, evidence) = match sent {
            Ok((outcome, pause, evidence)) => (outcome, pause, Some(evidence)),
            Err(withheld) => (withheld.outcome(&self.settings.metrics), None, None),
        };
        let (outcome, cut) = match outcome {
            // Boxed: few jobs need it, and it would make the future of every job larger.
            Outcome::Failed(_) => {
                Box::pin(self.without_refused_numbers(account, claim, &parsed, outcome)).await
            }
            other => (other, None),
        };
        Processed {
            outcome,
            pause,
            evidence,
            content: parsed.content,
            rejected: parsed.rejected,
            cut,
            lock,
        }
    }

    /// Sends the job, if the pre-send check allows it. In an outage nothing new is sent but the one message that was chosen for a
    /// trial.
    async fn send_through_gate(
        &self,
        account: &AccountState,
        concurrency: &Concurrency,
        claim: &Claim,
        parsed: &ParsedJob,
        trial: bool,
        requested: &AtomicBool,
    ) -> Result<(Outcome, Option<Pause>, Evidence), Withheld> {
        let fresh = claim.indeterminate_age.is_none() && !trial;
        let outage = async {
            if fresh {
                account.health.outage().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let way = async {
            let under_way = async {
                let fresh = if fresh {
                    Some(account.concurrency.fresh().await?)
                } else {
                    None
                };
                Some(RequestPermit {
                    _request: concurrency.request().await?,
                    fresh,
                })
            };
            let under_way = self.unless_stopping(under_way).await;
            let under_way = under_way.flatten().ok_or(Withheld::Stopping)?;
            let permit = self.gate(account, claim, parsed, Slot::of(claim)).await?;
            Ok((under_way, permit))
        };
        let (under_way, permit) = tokio::select! {
            biased;
            () = outage => return Err(Withheld::Outage),
            free = way => free?,
        };
        requested.store(true, Ordering::Relaxed);
        self.send(account, claim, parsed, permit, under_way).await
    }

    /// Makes the one request, and decides the outcome from its answer. Withheld: it was not sent, because the pre-send check
    /// refused it while a connection was made.
    async fn send(
        &self,
        account: &AccountState,
        claim: &Claim,
        parsed: &ParsedJob,
        permit: Permit,
        under_way: RequestPermit,
    ) -> Result<(Outcome, Option<Pause>, Evidence), Withheld> {
        let order = Order {
            sender: &claim.sender,
            recipients: &parsed.recipients,
            body: parsed.body.as_str(),
            iys: parsed.iys,
            // What parsing has let through may have come meanwhile.
            send_at: send_at(claim, claim.asked.elapsed()).unwrap_or_default(),
            not_after: Some(
                claim
                    .expires_in
                    .map_or(permit.until, |left| permit.until.min(claim.asked + left)),
            ),
            slot_ends: permit.slot_ends,
        };
        failpoints::point(Point::BeforeSend);
        // Boxed: few jobs need it, and it would make the future of every job larger.
        let next_slot = || Box::pin(self.next_slot(account, claim, parsed));
        let seen = self
            .provider
            .send(&account.credentials, &order, next_slot)
            .await?;
        failpoints::point(Point::ReplyRead);
        account.metrics.request(&seen.verdict, seen.duration);
        self.learn(account, &seen.verdict, under_way).await;
        let verdict = match failpoints::verdict(seen.verdict) {
            // A pause must hold back the job that met it, or the job is claimed again at once, for ever. So where a
            // transactional message misses the brand code, the whole account is paused.
            Verdict::Blocked {
                scope: PauseScope::Iys,
                failure,
            } if !parsed.iys.is_commercial() => Verdict::Blocked {
                scope: PauseScope::Account,
                failure,
            },
            other => other,
        };
        let blame = match &verdict {
            Verdict::Blocked {
                scope: PauseScope::Account,
                failure,
            } => Box::pin(self.blame(account, claim, failure)).await,
            _ => None,
        };
        let state = JobState {
            blame,
            ..job_state(claim)
        };
        let (outcome, pause) = self.settings.policy.decide(&state, verdict);
        let evidence = Evidence {
            progress: seen.progress,
            http_status: seen.http_status,
            code: seen.code,
            duration: seen.duration,
        };
        Ok((outcome, pause, evidence))
    }

    /// The processing of the job panicked. The panic hook has logged where.
    fn panicked(&self, account: &AccountState, claim: &Claim, requested: bool) -> Processed {
        self.settings.metrics.job_panics.inc();
        tracing::error!(
            job.id = %claim.id, attempt = claim.attempt, account = %account.name, may_have_been_sent = requested,
            "the processing of this job panicked; the worker goes on with other jobs"
        );
        let failure = Failure::new(
            ErrorClass::Unknown,
            "A bug in the worker ended this attempt; its log says where.",
        );
        let (verdict, progress) = if requested {
            (Verdict::Indeterminate(failure), Progress::MaybeSent)
        } else {
            (Verdict::NotSent(failure), Progress::NotSent)
        };
        let (outcome, pause) = self.settings.policy.decide(&job_state(claim), verdict);
        Processed {
            outcome,
            pause,
            evidence: Some(Evidence {
                progress,
                http_status: None,
                code: None,
                duration: claim.asked.elapsed(),
            }),
            content: ContentKey::of(&account.name, [], &claim.body),
            rejected: Vec::new(),
            cut: None,
            lock: None,
        }
    }

    /// `None` once the worker is stopping.
    async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(work).await
    }

    /// `false` once the worker is stopping.
    async fn sleep(&self, time: Duration) -> bool {
        time.is_zero()
            || self
                .unless_stopping(tokio::time::sleep(time))
                .await
                .is_some()
    }
}

/// What is known about a claim at this moment.
fn job_state(claim: &Claim) -> JobState {
    let since_claim = claim.asked.elapsed();
    JobState {
        job: claim.id,
        attempt: u32::try_from(claim.attempt).unwrap_or(0),
        max_attempts: u32::try_from(claim.max_attempts).unwrap_or(0),
        due_for: claim.due_for + since_claim,
        blame: None,
        since_claim,
        indeterminate_age: claim.indeterminate_age.map(|age| age + since_claim),
        expires_in: claim
            .expires_in
            .map(|left| left.saturating_sub(since_claim)),
    }
}
