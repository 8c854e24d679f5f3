//! The checker, checked: workers that are wrong in a known way have to be noticed, and the right one, in the same
//! circumstances, must not be.

use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sms_outbox::embedded::PrivatePostgres;
use sms_outbox::failpoints::Variant;
use sqlx::PgPool;

use super::chaos::{self, UNAVAILABLE, wait_until_drained};
use super::checker::{self, Findings};
use super::dice::Dice;
use super::evidence::{Evidence, Moment, Settings};
use super::fleet::Orders;
use super::plan::{self, Message};
use super::producers::{Knowledge, produce};
use super::support::worker::Process;
use super::world::{self, Sandbox};

/// Circumstances that bring something out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Answers are lost, the worker dies, and the next one comes when the provider's guard has ended.
    OutlivedGuard,
    /// A worker is frozen past its leases, others do its work, and it goes on.
    FrozenPastLease,
    /// The provider takes its time, within the lease.
    SlowProvider,
    /// Some answers are lost.
    LostAnswers,
    /// Many messages at once.
    Burst,
    /// The worker comes when messages have expired.
    LateStart,
    /// A worker dies with requests in flight.
    DeadWorker,
    /// Every third attempt panics, before its request or after its answer.
    PanickingJobs,
    /// The provider is unavailable for longer than the window, and workers die meanwhile.
    LongOutage,
    /// A worker without a limit joins one that has one.
    OtherLimits,
}

impl Scenario {
    pub const ALL: [Self; 10] = [
        Self::OutlivedGuard,
        Self::FrozenPastLease,
        Self::SlowProvider,
        Self::LostAnswers,
        Self::Burst,
        Self::LateStart,
        Self::DeadWorker,
        Self::PanickingJobs,
        Self::LongOutage,
        Self::OtherLimits,
    ];

    /// What brings `variant` out, and the rule that it has to be seen to break.
    pub const fn of(variant: Variant) -> (Self, &'static str) {
        match variant {
            Variant::BlindResend | Variant::GuardTooLong => (Self::OutlivedGuard, checker::ONCE),
            Variant::NoMarker => (Self::OutlivedGuard, checker::MARKED),
            Variant::RecordWithoutToken => (Self::FrozenPastLease, checker::FINAL),
            Variant::IndeterminateIsFailure => (Self::LostAnswers, checker::EXISTS),
            Variant::RescueByAge => (Self::SlowProvider, checker::LEASES),
            Variant::NoRescue => (Self::DeadWorker, checker::DRAINS),
            Variant::PanicSpreads => (Self::PanickingJobs, checker::DRAINS),
            Variant::NoLimit => (Self::Burst, checker::LIMIT),
            Variant::OwnLimit => (Self::OtherLimits, checker::LIMIT),
            Variant::OutageUnnoticed => (Self::LongOutage, checker::OUTAGE),
            Variant::NoExpiry => (Self::LateStart, checker::IN_TIME),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::OutlivedGuard => "outlived_guard",
            Self::FrozenPastLease => "frozen_past_lease",
            Self::SlowProvider => "slow_provider",
            Self::LostAnswers => "lost_answers",
            Self::Burst => "burst",
            Self::LateStart => "late_start",
            Self::DeadWorker => "dead_worker",
            Self::PanickingJobs => "panicking_jobs",
            Self::LongOutage => "long_outage",
            Self::OtherLimits => "other_limits",
        }
    }

    /// Runs it with the right worker, or a wrong one.
    pub async fn run(
        self,
        seed: u64,
        variant: Option<Variant>,
        postgres: &PrivatePostgres,
        folder: &Path,
    ) -> Findings {
        let mut stage = Stage::set(self, seed, variant, postgres, folder).await;
        let mut workers = match self {
            Self::OutlivedGuard => {
                stage.sandbox.set_faults(&["accept-drop"], false).await;
                stage.write(8, |_| {}).await;
                let first = stage.worker();
                stage.wait_for_orders(5).await;
                first.signal(Signal::SIGKILL);
                stage.watch(first).await;
                // Every order's guard has ended by then; the answers to those that came last are lost too.
                tokio::time::sleep(stage.guard + Duration::from_millis(500)).await;
                stage.sandbox.set_faults(&[], false).await;
                vec![stage.worker()]
            }
            Self::FrozenPastLease => {
                stage.sandbox.set_faults(&["accept-stall*6"], false).await;
                stage.write(6, |_| {}).await;
                let first = stage.worker();
                stage.wait_for_orders(6).await;
                first.signal(Signal::SIGSTOP);
                let second = stage.worker();
                stage.drained().await;
                first.signal(Signal::SIGCONT);
                // It stops gracefully, and so records what it has.
                first.signal(Signal::SIGTERM);
                stage.watch(first).await;
                vec![second]
            }
            Self::SlowProvider => {
                stage.write(6, |_| {}).await;
                vec![stage.worker(), stage.worker()]
            }
            Self::LostAnswers => {
                stage.sandbox.set_faults(&["accept-drop*5"], false).await;
                stage.write(10, |_| {}).await;
                vec![stage.worker()]
            }
            Self::Burst => {
                stage.write(80, |_| {}).await;
                vec![stage.worker(), stage.worker()]
            }
            Self::LateStart => {
                let soon = Some(Duration::from_millis(100));
                stage
                    .write(10, |message| message.expires_after = soon)
                    .await;
                stage.write(2, |_| {}).await;
                // Later than any delay on the way would explain.
                tokio::time::sleep(Duration::from_millis(800)).await;
                vec![stage.worker()]
            }
            Self::DeadWorker => {
                stage.sandbox.set_faults(&["accept-stall*6"], false).await;
                stage.write(6, |_| {}).await;
                let first = stage.worker();
                stage.wait_for_orders(6).await;
                first.signal(Signal::SIGKILL);
                stage.watch(first).await;
                vec![stage.worker()]
            }
            Self::PanickingJobs => {
                stage.write(30, |_| {}).await;
                let file = folder.join("panics").display().to_string();
                vec![stage.orders(stage.settings.limit).start(&[
                    (
                        "SMS_OUTBOX_FAILPOINTS",
                        "before-send=panic:0.2,reply-read=panic:0.2",
                    ),
                    ("SMS_OUTBOX_FAILPOINTS_FILE", &file),
                    ("SMS_OUTBOX_FAILPOINTS_SEED", "7"),
                ])]
            }
            Self::LongOutage => {
                stage.sandbox.set_faults(&[UNAVAILABLE], false).await;
                let began = chaos::now();
                stage.sandbox.away(Duration::from_millis(800)).await;
                stage.write(80, |_| {}).await;
                for _ in 0..3 {
                    let before = stage.sandbox.stats().await["struck"].as_u64();
                    let mortal = stage.worker();
                    stage
                        .wait_for_stat("struck", before.map_or(0, |n| n + 1))
                        .await;
                    // Time to do wrong.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    mortal.signal(Signal::SIGKILL);
                    stage.watch(mortal).await;
                }
                stage.sandbox.set_faults(&[], false).await;
                stage.outages.push((began, chaos::now()));
                vec![stage.worker()]
            }
            Self::OtherLimits => {
                let limited = stage.worker();
                stage.wait_for_workers(1).await;
                let unlimited = stage.orders(0).start(&[]);
                stage.wait_for_workers(2).await;
                stage.write(80, |_| {}).await;
                vec![limited, unlimited]
            }
        };
        stage.drained().await;
        for worker in workers.drain(..) {
            worker.signal(Signal::SIGTERM);
            stage.watch(worker).await;
        }
        stage.judge().await
    }
}

/// A database, a sandbox and messages of a scenario's own.
struct Stage {
    guard: Duration,
    settings: Settings,
    orders: Orders,
    pool: PgPool,
    sandbox: Sandbox,
    dice: Dice,
    knowledge: Knowledge,
    messages: Vec<Message>,
    lines: Vec<String>,
    outages: Vec<(Moment, Moment)>,
}

impl Stage {
    async fn set(
        scenario: Scenario,
        seed: u64,
        variant: Option<Variant>,
        postgres: &PrivatePostgres,
        folder: &Path,
    ) -> Self {
        let who = variant.map_or("right", Variant::name).replace('-', "_");
        let name = format!("{}_{who}", scenario.name());
        let url = postgres.url(&name);
        let pool = world::database(&postgres.admin_url(), &url, &name).await;
        let (timeout, lease, window, guard) = match scenario {
            Scenario::OutlivedGuard | Scenario::LongOutage => (500, 1_600, 2_500, 3_000),
            Scenario::SlowProvider => (3_000, 6_000, 60_000, 90_000),
            _ => (700, 1_800, 60_000, 90_000),
        };
        let limit = match scenario {
            Scenario::Burst | Scenario::OtherLimits => 20,
            _ => 100,
        };
        let latency = if scenario == Scenario::SlowProvider {
            "1500ms"
        } else {
            "5ms"
        };
        let guard = Duration::from_millis(guard);
        let sandbox =
            Sandbox::start(folder.join(&name), seed, guard, &["--latency", latency]).await;
        let flags = [
            ("--request-timeout", format!("{timeout}ms")),
            ("--connect-timeout", "300ms".to_owned()),
            ("--lease", format!("{lease}ms")),
            ("--settle-delay", "100ms".to_owned()),
            ("--guard-window", format!("{window}ms")),
            ("--backoff-base", "50ms".to_owned()),
            ("--backoff-cap", "500ms".to_owned()),
            ("--shutdown-grace", "5s".to_owned()),
            ("--concurrency", chaos::CONCURRENCY.to_string()),
        ];
        Self {
            guard,
            settings: Settings {
                limit,
                under_way: chaos::CONCURRENCY + 1,
                request_timeout_us: timeout * 1_000,
                settle_delay_us: 100_000,
                guard_window_us: window * 1_000,
                asking_takes_us: 200_000,
            },
            orders: Orders {
                database_url: url,
                provider_url: format!("http://{}", sandbox.address),
                flags: flags
                    .into_iter()
                    .flat_map(|(name, value)| [name.to_owned(), value])
                    .collect(),
                variant: variant.map(Variant::name),
            },
            pool,
            sandbox,
            dice: Dice::new(seed).part(scenario.name()),
            knowledge: Knowledge::default(),
            messages: Vec::new(),
            lines: Vec::new(),
            outages: Vec::new(),
        }
    }

    async fn write(&mut self, count: usize, change: impl Fn(&mut Message)) {
        let mut further: Vec<Message> = (0..count)
            .map(|n| plan::plain(&mut self.dice, self.messages.len() + n))
            .collect();
        further.iter_mut().for_each(change);
        self.messages.extend(further.iter().cloned());
        let url = self.orders.database_url.clone();
        produce(
            url,
            self.pool.clone(),
            further,
            Knowledge::clone(&self.knowledge),
            Instant::now(),
        )
        .await;
    }

    fn orders(&self, limit: usize) -> Orders {
        let mut orders = self.orders.clone();
        orders
            .flags
            .extend(["--rate-per-second".to_owned(), limit.to_string()]);
        orders
    }

    fn worker(&self) -> Process {
        self.orders(self.settings.limit).start(&[])
    }

    /// Waits until the fleet knows of so many workers and their limits.
    async fn wait_for_workers(&self, count: i64) {
        let began = Instant::now();
        loop {
            let known: i64 = sqlx::query_scalar("SELECT count(*) FROM sms_outbox.workers")
                .fetch_one(&self.pool)
                .await
                .expect("the database is there");
            if known >= count {
                return;
            }
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "only {known} of {count} workers"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the provider has accepted so many orders, whether or not it said so.
    async fn wait_for_orders(&self, count: u64) {
        self.wait_for_stat("accepted_orders", count).await;
    }

    async fn wait_for_stat(&self, name: &str, count: u64) {
        let began = Instant::now();
        loop {
            let counted = self.sandbox.stats().await[name].as_u64();
            if counted.is_some_and(|counted| counted >= count) {
                return;
            }
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "only {counted:?} of {count} {name}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A wrong worker may never get there; the right one may find the provider unavailable, and wait for the next probe.
    async fn drained(&self) -> bool {
        let seconds = if self.orders.variant.is_some() {
            10
        } else {
            40
        };
        wait_until_drained(&self.pool, Duration::from_secs(seconds)).await
    }

    /// Waits for a worker's end, and keeps what it said.
    async fn watch(&mut self, mut worker: Process) {
        worker.ended().await;
        self.lines.extend(worker.lines());
    }

    async fn judge(self) -> Findings {
        let told = self
            .knowledge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut evidence = Evidence::read(
            self.settings,
            self.messages,
            told,
            &self.pool,
            &self.sandbox,
            self.lines,
            Vec::new(),
        )
        .await;
        evidence.outages = self.outages;
        self.sandbox.process.stop().await;
        self.pool.close().await;
        Findings::of(&evidence)
    }
}
