//! The checker, checked: workers that are wrong in a known way have to be noticed, and the right one, in the same
//! circumstances, must not be.

use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sms_outbox::embedded::PrivatePostgres;
use sms_outbox::failpoints::Variant;
use sqlx::PgPool;

use super::chaos::wait_until_drained;
use super::checker::{self, Findings};
use super::dice::Dice;
use super::evidence::{Evidence, Settings};
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
}

impl Scenario {
    pub const ALL: [Self; 8] = [
        Self::OutlivedGuard,
        Self::FrozenPastLease,
        Self::SlowProvider,
        Self::LostAnswers,
        Self::Burst,
        Self::LateStart,
        Self::DeadWorker,
        Self::PanickingJobs,
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
                vec![stage.orders.start(&[
                    (
                        "SMS_OUTBOX_FAILPOINTS",
                        "before-send=panic:0.2,reply-read=panic:0.2",
                    ),
                    ("SMS_OUTBOX_FAILPOINTS_FILE", &file),
                    ("SMS_OUTBOX_FAILPOINTS_SEED", "7"),
                ])]
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
            Scenario::OutlivedGuard => (500, 1_600, 2_500, 3_000),
            Scenario::SlowProvider => (3_000, 6_000, 60_000, 90_000),
            _ => (700, 1_800, 60_000, 90_000),
        };
        let limit = if scenario == Scenario::Burst { 20 } else { 100 };
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
            ("--rate-per-second", limit.to_string()),
            ("--concurrency", "16".to_owned()),
        ];
        Self {
            guard,
            settings: Settings {
                limit,
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

    fn worker(&self) -> Process {
        self.orders.start(&[])
    }

    /// Waits until the provider has accepted so many orders, whether or not it said so.
    async fn wait_for_orders(&self, count: u64) {
        let began = Instant::now();
        loop {
            let accepted = self.sandbox.stats().await["accepted_orders"].as_u64();
            if accepted.is_some_and(|accepted| accepted >= count) {
                return;
            }
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "only {accepted:?} of {count} orders"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A wrong worker may never get there.
    async fn drained(&self) -> bool {
        wait_until_drained(&self.pool, Duration::from_secs(10)).await
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
        let evidence = Evidence::read(
            self.settings,
            self.messages,
            told,
            &self.pool,
            &self.sandbox,
            self.lines,
            Vec::new(),
        )
        .await;
        self.sandbox.process.stop().await;
        self.pool.close().await;
        Findings::of(&evidence)
    }
}
