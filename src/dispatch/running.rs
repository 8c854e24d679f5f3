//! Starting the flow, and stopping it: its settings, its accounts, its tasks.

use std::{
    hash::{BuildHasher, RandomState},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ContentLocks, Dispatch, Outage,
    account_health::Health,
    concurrency::Concurrency,
    deliveries::{self, Following},
    gate::ROUND_TRIPS,
    maintenance,
    questions::Questions,
    reconcile,
    recorder::{self, Recorder},
    split::BlockList,
};
use crate::{
    failpoints::{self, Point},
    lifecycle::Policy,
    message::ForeignNumbers,
    metrics::{AccountMetrics, Metrics},
    outbox::{Outbox, Probing},
    provider::{Credentials, Provider},
    reconciliation::Reconciling,
};

/// The settings of a worker's flow.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This worker's name, as rows and logs show it.
    pub worker: Arc<str>,
    /// Requests in flight at most, shared evenly by the accounts.
    pub concurrency: usize,
    /// Every rule about time.
    pub policy: Policy,
    /// Recipients per second and account, over the whole fleet; 0: no limit.
    pub rate_per_second: u32,
    /// The longest a due job waits.
    pub poll_interval: Duration,
    /// Whether foreign numbers are sent.
    pub foreign: ForeignNumbers,
    /// How a paused account is probed.
    pub probing: Probing,
    /// How lost orders are reconciled with the provider's reports; `None`: not by this worker.
    pub reconciling: Option<Reconciling>,
    /// How deliveries are followed to the phone; `None`: not by this worker.
    pub following: Option<Following>,
    /// The time between two questions to an account's reports, over the whole fleet.
    pub report_spacing: Duration,
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
    /// Whether nobody and nothing else sends with it (`SMS_OUTBOX_EXCLUSIVE_ACCOUNTS`).
    pub is_exclusive: bool,
}

/// One account at work: nothing in it is shared with another account, so that neither can hold up the other.
#[derive(Debug)]
pub(super) struct AccountState {
    pub(super) name: Arc<str>,
    pub(super) credentials: Credentials,
    is_exclusive: bool,
    pub(super) concurrency: Arc<Concurrency>,
    pub(super) bulk_concurrency: Arc<Concurrency>,
    /// How long the database took to answer, the latest times.
    pub(super) round_trips: Mutex<[Duration; ROUND_TRIPS]>,
    /// Held by a job that missed its slot and reserves another one.
    pub(super) late: tokio::sync::Mutex<()>,
    pub(super) block_list: tokio::sync::Mutex<BlockList>,
    /// Whether the fleet knows of this worker.
    pub(super) ready: watch::Sender<bool>,
    pub(super) health: Health,
    pub(super) questions: Questions,
    pub(super) metrics: AccountMetrics,
}

/// A started flow.
pub struct Running {
    dispatch: Arc<Dispatch>,
    loops: TaskTracker,
    recording: TaskTracker,
}

impl Running {
    /// Waits, after `stop` was cancelled, until what was in flight has been answered and recorded, and what had been claimed
    /// but not sent has been released. May be dropped half-way: leases then end and the jobs are recovered.
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

    /// How many claimed jobs are not recorded yet.
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
        let permits = settings.concurrency / accounts.len().max(1);
        let accounts = accounts
            .into_iter()
            .map(|account| {
                Arc::new(AccountState {
                    metrics: settings.metrics.account(&account.name),
                    questions: Questions::new(
                        &account.name,
                        settings.report_spacing,
                        settings.policy.request_timeout,
                    ),
                    name: account.name.into(),
                    credentials: account.credentials,
                    is_exclusive: account.is_exclusive,
                    concurrency: Concurrency::new(permits),
                    bulk_concurrency: Concurrency::new(1),
                    round_trips: Mutex::default(),
                    late: tokio::sync::Mutex::default(),
                    block_list: tokio::sync::Mutex::default(),
                    ready: watch::Sender::new(false),
                    health: Health::default(),
                })
            })
            .collect();
        let (entries, inbox) = mpsc::channel(recorder::BATCH);
        let recorder = Recorder {
            outbox: outbox.clone(),
            worker: Arc::clone(&settings.worker),
            probing: settings.probing,
            outage: Arc::clone(&outage),
            metrics: settings.metrics.clone(),
        };
        let dispatch = Arc::new(Self {
            outbox,
            provider,
            settings,
            accounts,
            content_locks: ContentLocks::default(),
            outage,
            entries,
            jobs: TaskTracker::new(),
            stop,
            broken: broken.clone(),
        });
        let loops = TaskTracker::new();
        for account in &dispatch.accounts {
            let singles = Arc::clone(&dispatch).claim_singles(Arc::clone(account));
            let bulk = Arc::clone(&dispatch).claim_bulk(Arc::clone(account));
            let informed = Arc::clone(&dispatch).keep_informed(Arc::clone(account));
            loops.spawn(watched(broken.clone(), "keeping informed", informed));
            loops.spawn(watched(broken.clone(), "claiming", singles));
            loops.spawn(watched(broken.clone(), "claiming bulk orders", bulk));
            let probe = maintenance::probe(Arc::clone(&dispatch), Arc::clone(account));
            loops.spawn(watched(broken.clone(), "probing", probe));
            if let Some(settings) = dispatch.settings.reconciling {
                let settings = Reconciling {
                    is_exclusive: account.is_exclusive,
                    ..settings
                };
                let reconcile =
                    reconcile::run(Arc::clone(&dispatch), Arc::clone(account), settings);
                loops.spawn(watched(broken.clone(), "reconciliation", reconcile));
            }
            if let Some(following) = dispatch.settings.following {
                let follow = deliveries::run(Arc::clone(&dispatch), Arc::clone(account), following);
                loops.spawn(watched(broken.clone(), "following deliveries", follow));
                let inbox = deliveries::run_inbox(Arc::clone(&dispatch), Arc::clone(account));
                loops.spawn(watched(broken.clone(), "matching events", inbox));
            }
        }
        let maintenance = maintenance::run(Arc::clone(&dispatch));
        loops.spawn(watched(broken.clone(), "maintenance", maintenance));
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
}

/// A number in `[0, 1)` that spreads what a fleet would otherwise do in step.
pub(super) fn jitter() -> f64 {
    let bits = RandomState::new().hash_one(()) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

/// Runs a task whose panic must not go unnoticed: a worker that has lost a part of itself says so and goes down, instead of
/// living on half dead.
pub(crate) async fn watched(
    broken: CancellationToken,
    what: &'static str,
    task: impl Future<Output = ()>,
) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!(task = what, "a task of the worker died; the worker stops");
        broken.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_spread_over_its_range() {
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            tenths[(jitter() * 10.0) as usize] += 1;
        }
        assert!(
            tenths.iter().all(|count| (800..1_200).contains(count)),
            "{tenths:?}"
        );
    }
}
