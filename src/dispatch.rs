//! The one flow, and nothing else:
//!
//! ```text
//! claim -> read -> turn -> gate -> send -> decide -> record
//! ```
//!
//! Each step takes what only the step before can have made. Sending consumes a `Permit`, which only the gate gives out;
//! recording consumes the claim. Here, and only here, the outbox and the provider meet.

mod floors;
mod gate;
mod letter;
mod outage;
mod pace;
mod reconcile;
mod recorder;
mod twins;
mod upkeep;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use floors::Trail;
use gate::{Held, Permit, ROUND_TRIPS, Slot, slots_ahead};
use letter::{Letter, Unreadable};
pub use outage::{Outage, chain};
use pace::{Hand, Pace, Poll, Unrecorded};
use recorder::{Entry, Recorder};
use twins::{Turn, Twins};

use crate::{
    failpoints::{self, Point},
    lifecycle::{Admission, Decision, PauseScope, Policy, Settlement, Situation, Verdict},
    message::{ForeignNumbers, is_traceparent},
    metrics::{AccountMetrics, Metrics},
    outbox::{Claim, Content, Evidence, Observer, Outbox, Probing, Record},
    provider::{Credentials, Order, Provider},
    reconciliation::Reconciling,
};

/// How long after work was found a limited account is looked at often: longer than a job of many recipients can keep all
/// others waiting.
const SLOTS_RETURN: Duration = Duration::from_secs(3);
/// How long a message waits for another of equal content.
const TWIN_PATIENCE: Duration = Duration::from_millis(500);

/// What a worker's flow rests on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This worker's name, as rows and logs show it.
    pub worker: String,
    /// Requests under way at most, shared evenly by the accounts.
    pub concurrency: usize,
    /// Every decision about time.
    pub policy: Policy,
    /// Recipients per second and account, over the whole fleet; 0: no limit.
    pub rate_per_second: u32,
    /// The longest a due job waits.
    pub poll_interval: Duration,
    /// Whether foreign numbers are sent.
    pub foreign: ForeignNumbers,
    /// How a paused account is probed.
    pub probing: Probing,
    /// How lost orders are looked for in the provider's reports; `None`: not by this worker.
    pub reconciling: Option<Reconciling>,
    /// Where everything is counted.
    pub metrics: Metrics,
}

/// One account of the provider.
#[derive(Clone, Debug)]
pub struct Account {
    /// As `sms_outbox.jobs.account` has it.
    pub name: String,
    /// Its key and hash.
    pub credentials: Credentials,
}

/// The running flow.
pub struct Dispatch {
    outbox: Outbox,
    provider: Provider,
    settings: Settings,
    lanes: Vec<Arc<Lane>>,
    twins: Twins,
    outage: Arc<Outage>,
    entries: mpsc::Sender<Entry>,
    jobs: TaskTracker,
    /// Nothing new is claimed once this is cancelled.
    stop: CancellationToken,
    /// Cancelled when a task has died that should not have.
    broken: CancellationToken,
}

/// One account at work: nothing in it is shared with another account, so that neither can hold up the other.
#[derive(Debug)]
struct Lane {
    account: Arc<str>,
    credentials: Credentials,
    pace: Arc<Pace>,
    bulk_pace: Arc<Pace>,
    /// How long the database took to answer, the latest times.
    round_trips: Mutex<[Duration; ROUND_TRIPS]>,
    /// Held by whoever missed a slot and asks for another one.
    late: tokio::sync::Mutex<()>,
    metrics: AccountMetrics,
}

/// What became of a claim, before it is written down.
struct Delivered {
    decision: Decision,
    evidence: Option<Evidence>,
    content: Content,
    rejected: Vec<String>,
    /// Held until then: a twin's 451 can name this job only once it is on record.
    turn: Option<Turn>,
}

/// A started flow.
pub struct Running {
    dispatch: Arc<Dispatch>,
    loops: TaskTracker,
    recording: TaskTracker,
}

impl Running {
    /// Waits, after `stop` was cancelled, until what was in flight has been answered and recorded, and what had been claimed
    /// but not sent has gone back. May be dropped half-way: leases then do the rest.
    pub async fn drain(self) {
        let Self {
            dispatch,
            loops,
            recording,
        } = self;
        loops.wait().await;
        failpoints::point(Point::DuringDrain);
        dispatch.jobs.close();
        dispatch.jobs.wait().await;
        // The last one who could send an entry goes, and the recorder ends after the last of them.
        drop(dispatch);
        recording.wait().await;
    }

    /// How many claimed jobs are not on record yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.dispatch.jobs.len()
    }
}

impl Dispatch {
    /// Starts the flow for `accounts`. `outage` learns how the database does; `stop` ends the claiming; `broken` is cancelled
    /// when a task dies.
    #[must_use]
    pub fn start(
        outbox: Outbox,
        provider: Provider,
        accounts: Vec<Account>,
        settings: Settings,
        outage: Arc<Outage>,
        stop: CancellationToken,
        broken: CancellationToken,
    ) -> Running {
        let hands = settings.concurrency / accounts.len().max(1);
        let lanes = accounts
            .into_iter()
            .map(|account| {
                Arc::new(Lane {
                    metrics: settings.metrics.account(&account.name),
                    account: account.name.into(),
                    credentials: account.credentials,
                    pace: Pace::new(hands),
                    bulk_pace: Pace::new(1),
                    round_trips: Mutex::default(),
                    late: tokio::sync::Mutex::default(),
                })
            })
            .collect();
        let (entries, inbox) = mpsc::channel(recorder::BATCH);
        let recorder = Recorder {
            outbox: outbox.clone(),
            worker: settings.worker.as_str().into(),
            probing: settings.probing,
            outage: Arc::clone(&outage),
            metrics: settings.metrics.clone(),
        };
        let dispatch = Arc::new(Self {
            outbox,
            provider,
            settings,
            lanes,
            twins: Twins::default(),
            outage,
            entries,
            jobs: TaskTracker::new(),
            stop,
            broken: broken.clone(),
        });
        let loops = TaskTracker::new();
        for lane in &dispatch.lanes {
            let singles = Arc::clone(&dispatch).claim_singles(Arc::clone(lane));
            let bulk = Arc::clone(&dispatch).claim_bulk(Arc::clone(lane));
            loops.spawn(watched(broken.clone(), "claiming", singles));
            loops.spawn(watched(broken.clone(), "claiming bulk orders", bulk));
            let probe = upkeep::probe(Arc::clone(&dispatch), Arc::clone(lane));
            loops.spawn(watched(broken.clone(), "probing", probe));
            if let Some(settings) = dispatch.settings.reconciling {
                let search = reconcile::run(Arc::clone(&dispatch), Arc::clone(lane), settings);
                loops.spawn(watched(broken.clone(), "looking for lost orders", search));
            }
        }
        loops.spawn(watched(
            broken.clone(),
            "upkeep",
            upkeep::run(Arc::clone(&dispatch)),
        ));
        loops.close();
        let recording = TaskTracker::new();
        recording.spawn(watched(broken, "recording", recorder.run(inbox)));
        recording.close();
        Running {
            dispatch,
            loops,
            recording,
        }
    }

    /// Claims single messages for the hands that are free, and as many as become free in the next milliseconds: nothing waits
    /// here for longer that another worker could be sending.
    async fn claim_singles(self: Arc<Self>, lane: Arc<Lane>) {
        // Six looks in the interval that is promised: the first messages of a burst wait for one of them, and one may fail.
        let mut poll = Poll::new(self.settings.poll_interval / 6);
        let mut trail = Trail::new(self.settings.poll_interval / 2);
        let mut last_found = Instant::now();
        while let Some(free) = self.unless_stopping(lane.pace.free_hands()).await {
            let slots = self.slots(&lane);
            let hands = if slots.per_second == 0 {
                free
            } else {
                free.min(slots_ahead(slots))
            };
            let lease = self.settings.policy.lease;
            let asked = Instant::now();
            let floors = trail.floors(asked);
            let claimed = self
                .outbox
                .claim(
                    &lane.account,
                    hands,
                    lease,
                    &self.settings.worker,
                    slots,
                    &floors,
                )
                .await;
            let pause = match claimed {
                Ok(claims) => {
                    if !claims.is_empty() {
                        failpoints::point(Point::AfterClaim);
                    }
                    self.outage.over();
                    lane.pace.claim_took();
                    trail.claimed(&floors, &claims, asked, Instant::now());
                    let found = claims.len();
                    lane.metrics.claimed(found);
                    if let Some(claim) = claims.first() {
                        lane.follow(claim.received - claim.asked);
                    }
                    for claim in claims {
                        self.carry(&lane, claim, &lane.pace);
                    }
                    if found > 0 {
                        poll.found();
                        last_found = Instant::now();
                    }
                    // A full harvest means that there is probably more.
                    if found == hands {
                        Duration::ZERO
                    } else if slots.per_second > 0 && last_found.elapsed() < SLOTS_RETURN {
                        // Nothing may have come because no slot was free; the next one is a few milliseconds away.
                        poll.pause(chance()).min(Duration::from_millis(20))
                    } else {
                        poll.pause(chance())
                    }
                }
                Err(error) => self.outage.failed(&error),
            };
            if !pause.is_zero()
                && self
                    .unless_stopping(tokio::time::sleep(pause))
                    .await
                    .is_none()
            {
                return;
            }
        }
    }

    /// Claims bulk orders, one after the other.
    async fn claim_bulk(self: Arc<Self>, lane: Arc<Lane>) {
        let mut poll = Poll::new(self.settings.poll_interval / 2);
        while self
            .unless_stopping(lane.bulk_pace.free_hands())
            .await
            .is_some()
        {
            let lease = self.settings.policy.lease;
            let pause = match self
                .outbox
                .claim_bulk(&lane.account, lease, &self.settings.worker)
                .await
            {
                Ok(Some(claim)) => {
                    failpoints::point(Point::AfterClaim);
                    self.outage.over();
                    lane.metrics.claimed(1);
                    self.carry(&lane, claim, &lane.bulk_pace);
                    poll.found();
                    Duration::ZERO
                }
                Ok(None) => {
                    self.outage.over();
                    poll.pause(chance()).max(Duration::from_millis(10))
                }
                Err(error) => self.outage.failed(&error),
            };
            if !pause.is_zero()
                && self
                    .unless_stopping(tokio::time::sleep(pause))
                    .await
                    .is_none()
            {
                return;
            }
        }
    }

    /// Carries one claim to its record, in a task of its own.
    fn carry(self: &Arc<Self>, lane: &Arc<Lane>, claim: Claim, pace: &Arc<Pace>) {
        let (hand, unrecorded) = pace.take();
        let in_flight = lane.metrics.in_flight();
        let (this, lane, pace) = (Arc::clone(self), Arc::clone(lane), Arc::clone(pace));
        let span = match claim
            .traceparent
            .as_deref()
            .filter(|text| is_traceparent(text))
        {
            Some(traceparent) => tracing::info_span!("send", traceparent),
            None => tracing::Span::none(),
        };
        let job = async move {
            let delivered = this.deliver(&lane, &pace, &claim).await;
            // The request is over: its hand is free while the outcome waits to be written down. Not if it is to pause the
            // account: nothing more may be claimed until everyone knows of it.
            let hand = delivered.decision.pause.is_some().then_some(hand);
            let entry = this.entry(&lane, claim, delivered, hand, unrecorded);
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

    /// Everything between a claim and its record.
    async fn deliver(&self, lane: &Lane, pace: &Pace, claim: &Claim) -> Delivered {
        let letter = match Letter::read(&lane.account, claim, self.settings.foreign) {
            Ok(letter) => letter,
            Err(Unreadable { trouble, rejected }) => {
                let content = Content::of(&lane.account, [], &claim.body);
                return Delivered {
                    decision: Settlement::Failed(trouble).into(),
                    evidence: None,
                    content,
                    rejected,
                    turn: None,
                };
            }
        };
        // Not for long: whoever waits here keeps others from being claimed.
        let turn = tokio::time::timeout(TWIN_PATIENCE, self.twins.turn(letter.content));
        let ((decision, evidence), turn) = match self.unless_stopping(turn).await {
            Some(Ok(turn)) => (self.pass(lane, pace, claim, &letter).await, Some(turn)),
            Some(Err(_)) => ((Held::Twin.settlement().into(), None), None),
            None => ((Held::Stopping.settlement().into(), None), None),
        };
        let Letter {
            content, rejected, ..
        } = letter;
        Delivered {
            decision,
            evidence,
            content,
            rejected,
            turn,
        }
    }

    /// Through the gate, if it opens.
    async fn pass(
        &self,
        lane: &Lane,
        pace: &Pace,
        claim: &Claim,
        letter: &Letter,
    ) -> (Decision, Option<Evidence>) {
        let Some(_under_way) = self.unless_stopping(pace.request()).await else {
            return (Held::Stopping.settlement().into(), None);
        };
        let sent = match self.gate(lane, claim, letter, Slot::of(claim)).await {
            Ok(permit) => self.send(lane, claim, letter, permit).await,
            Err(held) => Err(held),
        };
        match sent {
            Ok((decision, evidence)) => (decision, Some(evidence)),
            Err(held) => {
                if matches!(held, Held::Refused(Admission::LeaseTooShort)) {
                    self.settings.metrics.lost_leases.inc();
                }
                (held.settlement().into(), None)
            }
        }
    }

    /// Makes the one request, and decides what follows from its answer. Held: it has not left, because time has decided
    /// against it while a connection was made.
    async fn send(
        &self,
        lane: &Lane,
        claim: &Claim,
        letter: &Letter,
        permit: Permit,
    ) -> Result<(Decision, Evidence), Held> {
        let order = Order {
            sender: &claim.sender,
            recipients: &letter.recipients,
            body: &claim.body,
            iys: letter.iys,
            send_at: claim.provider_send_at.and_then(Result::ok),
            not_after: Some(
                claim
                    .expires_in
                    .map_or(permit.until, |left| permit.until.min(claim.asked + left)),
            ),
            turn: permit.turn,
        };
        failpoints::point(Point::BeforeSend);
        // Boxed: few need it, and every job would carry it about.
        let another_turn = || Box::pin(self.another_turn(lane, claim, letter));
        let outcome = self
            .provider
            .send(&lane.credentials, &order, another_turn)
            .await?;
        failpoints::point(Point::ReplyRead);
        lane.metrics.request(&outcome.verdict, outcome.duration);
        match &outcome.verdict {
            Verdict::Accepted(_) | Verdict::Duplicate | Verdict::Refused(_) => {
                if lane.pace.went_well() {
                    tracing::info!(account = %lane.account, "the provider answers in order again");
                }
            }
            Verdict::Blocked { .. } | Verdict::Throttled { .. } => lane.pace.slow_down(),
            Verdict::NotSent(trouble) | Verdict::Unclear { trouble, .. } => {
                if lane.pace.went_unanswered() {
                    tracing::error!(
                        account = %lane.account, error.class = %trouble.class, reason = %trouble.message,
                        "the provider is out of order: one message at a time goes ahead, the others wait untouched"
                    );
                }
            }
        }
        let verdict = match failpoints::verdict(outcome.verdict) {
            // A pause must hold back the job that met it, or the job is claimed again at once, for ever: where a message
            // that is no marketing misses the brand code, the whole account waits.
            Verdict::Blocked {
                scope: PauseScope::Iys,
                trouble,
            } if !letter.iys.is_commercial() => Verdict::Blocked {
                scope: PauseScope::Account,
                trouble,
            },
            other => other,
        };
        let decision = self.settings.policy.decide(&situation(claim), verdict);
        let evidence = Evidence {
            progress: outcome.progress,
            http_status: outcome.http_status,
            code: outcome.code,
            duration: outcome.duration,
        };
        Ok((decision, evidence))
    }

    fn entry(
        &self,
        lane: &Lane,
        claim: Claim,
        delivered: Delivered,
        hand: Option<Hand>,
        unrecorded: Unrecorded,
    ) -> Entry {
        let Delivered {
            decision: Decision { settlement, pause },
            evidence,
            content,
            rejected,
            turn,
        } = delivered;
        let record = Record {
            job: claim.id,
            token: claim.token,
            attempt: claim.attempt,
            worker: self.settings.worker.clone(),
            claimed: claim.asked,
            settlement,
            evidence,
            rejected,
            content,
            observer: Observer::Worker,
        };
        Entry {
            account: Arc::clone(&lane.account),
            sender: claim.sender,
            record,
            pause,
            turn,
            hand,
            unrecorded,
        }
    }

    /// `None` once the worker is stopping.
    async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(work).await
    }
}

/// What is known about a claim at this moment.
fn situation(claim: &Claim) -> Situation {
    let since_claim = claim.asked.elapsed();
    Situation {
        job: claim.id,
        attempt: u32::try_from(claim.attempt).unwrap_or(0),
        max_attempts: u32::try_from(claim.max_attempts).unwrap_or(0),
        given_back: u32::try_from(claim.token - i32::from(claim.attempt)).unwrap_or(0),
        since_claim,
        doubt_age: claim.doubt_age.map(|age| age + since_claim),
        expires_in: claim
            .expires_in
            .map(|left| left.saturating_sub(since_claim)),
    }
}

/// A number in `[0, 1)` for spreading polls; nothing depends on its quality.
fn chance() -> f64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    f64::from(nanos % 1_000) / 1_000.0
}

/// Runs a task whose panic must not go unnoticed: a worker that has lost a part of itself says so and goes down, instead of
/// living on half dead.
async fn watched(broken: CancellationToken, what: &'static str, task: impl Future<Output = ()>) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!(task = what, "a part of the worker has died");
        broken.cancel();
    }
}
