//! The run: everything goes wrong at once for a while, then nothing does, and then the evidence is read.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::Value;
use sms_outbox::embedded::{Options, PrivatePostgres, Sources, start};
use sms_outbox::failpoints::Point;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::mpsc;

use super::calm::{Calm, DRAINED_WITHIN, set_faults};
use super::dice::Dice;
use super::evidence::{Evidence, Moment, Settings};
use super::fleet::{Fleet, Orders};
use super::plan::{self, Event, Message, Obstacle, Plan, Side, Size};
use super::producers::{Knowledge, Met, produce};
use super::proxy::Proxy;
use super::world::{self, Sandbox};

const PRODUCERS: usize = 4;
const LIMIT: usize = 100;
/// What the workers are given, one after the other: the smallest holds for all of them, and 0 is none.
const LIMITS: [usize; 3] = [LIMIT, 0, 10 * LIMIT];
pub const CONCURRENCY: usize = 16;

/// The workers' window of 20 s, the longest that a worker is frozen (6 s) and a request's time lie within the provider's
/// guard. In production a window of 8 minutes lies within a guard of 10, and holds 8 leases too.
const GUARD: Duration = Duration::from_secs(30);
const FLAGS: [(&str, &str); 9] = [
    ("--request-timeout", "1s"),
    ("--connect-timeout", "500ms"),
    ("--lease", "2500ms"),
    ("--settle-delay", "300ms"),
    ("--guard-window", "20s"),
    ("--backoff-base", "200ms"),
    ("--backoff-cap", "2s"),
    ("--poll-interval", "100ms"),
    ("--shutdown-grace", "5s"),
];

const fn settings(workers: usize) -> Settings {
    Settings {
        limit: LIMIT,
        // And a bulk order of each.
        under_way: workers * (CONCURRENCY + 1),
        request_timeout_us: 1_000_000,
        settle_delay_us: 300_000,
        guard_window_us: 20_000_000,
        asking_takes_us: 4_000_000,
    }
}

/// About a fifth of the requests.
const PROVIDER_FAULTS: [&str; 15] = [
    "refuse@0.01",
    "accept-drop@0.03",
    "accept-reset@0.02",
    "accept-stall@0.02",
    "accept-http:502@0.02",
    "accept-garbage@0.01",
    "accept-cut@0.01",
    "accept-cut-body@0.01",
    "accept-empty@0.01",
    "accept-late:1500ms@0.01",
    "http:503@0.02",
    "drop@0.01",
    "stall@0.01",
    "answer:503@0.01",
    "delay:200ms-900ms@0.02",
];

/// An outage, behind the shut port.
pub const UNAVAILABLE: &str = "http:503?action=any";
/// A storm.
const THROTTLED: &str = "http:429/1";

/// What was done, and what came of it.
pub struct Outcome {
    pub evidence: Evidence,
    pub injected: BTreeMap<&'static str, usize>,
    pub struck: BTreeMap<&'static str, usize>,
    pub missing: Vec<Point>,
    pub met: Met,
    pub workers: usize,
    pub stats: Value,
    /// When the faults stopped, in microseconds since 1970.
    pub quiet_at: i64,
    pub lasted: Duration,
    pub drained_after: Duration,
}

/// A server that says when each transaction was committed. Durable, because it is going to be killed.
pub async fn postgres() -> PrivatePostgres {
    let mut options = Options::new(Sources::from_env());
    options.connections = 200;
    options.settings = vec![("track_commit_timestamp".to_owned(), "on".to_owned())];
    start(&options)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The same database, seen from elsewhere.
fn through(url: &str, proxy: SocketAddr) -> String {
    let (before, rest) = url.rsplit_once('@').expect("a password");
    let (_, database) = rest.split_once('/').expect("a database");
    format!("{before}@{proxy}/{database}")
}

fn port_of(url: &str) -> u16 {
    let (_, rest) = url.rsplit_once(':').expect("a port");
    let (port, _) = rest.split_once('/').expect("a database");
    port.parse().expect("a number")
}

/// Crashes and restarts, in a task of their own: everything else goes on meanwhile.
async fn mistreat(
    mut postgres: PrivatePostgres,
    mut events: mpsc::UnboundedReceiver<Event>,
) -> PrivatePostgres {
    while let Some(event) = events.recv().await {
        if let Event::Crash(away) = event {
            postgres.crash().await.expect("our own server");
            tokio::time::sleep(away).await;
        }
        postgres
            .restart()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }
    postgres
}

pub async fn run(seed: u64, size: Size, workers: usize, folder: &Path) -> Outcome {
    let began = Instant::now();
    let plan = Plan::draw(seed, size);
    let dice = Dice::new(seed);
    let postgres = postgres().await;
    let url = postgres.url("faults");
    let pool = world::database(&postgres.admin_url(), &url, "faults").await;
    let sandbox = Sandbox::start(
        folder.join("ledger"),
        seed,
        GUARD,
        &["--latency", "10ms-40ms", "--blocked", plan::BLOCKED],
    )
    .await;
    let mut calm = Calm::new(pool.clone());
    calm.set_rule().await;
    set_faults(&sandbox, &PROVIDER_FAULTS).await;
    let database = Proxy::start((Ipv4Addr::LOCALHOST, port_of(&url)).into()).await;
    let provider = Proxy::start(sandbox.address).await;
    let orders = |limit: usize| {
        let (limit, concurrency) = (limit.to_string(), CONCURRENCY.to_string());
        let own = [
            ("--rate-per-second", limit.as_str()),
            ("--concurrency", &concurrency),
        ];
        Orders {
            database_url: through(&url, database.address()),
            provider_url: format!("http://{}", provider.address()),
            flags: FLAGS
                .iter()
                .chain(&own)
                .flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()])
                .collect(),
            variant: None,
        }
    };
    let orders = LIMITS
        .into_iter()
        .cycle()
        .take(workers)
        .map(orders)
        .collect();
    let (failure, failures) = mpsc::unbounded_channel();
    let mut run = Run {
        fleet: Fleet::new(orders, dice.part("fleet"), folder),
        dice: dice.part("victims"),
        injected: BTreeMap::new(),
        pool: pool.clone(),
        sandbox,
        database,
        provider,
        failure,
        outage: None,
        outages: Vec::new(),
    };
    let mistreating = tokio::spawn(mistreat(postgres, failures));
    let knowledge = Knowledge::default();
    let mut messages = plan.messages.clone();
    let start = Instant::now();
    let mut producing = tokio::task::JoinSet::new();
    for n in 0..PRODUCERS {
        let own = plan
            .messages
            .iter()
            .skip(n)
            .step_by(PRODUCERS)
            .cloned()
            .collect();
        producing.spawn(produce(
            url.clone(),
            pool.clone(),
            own,
            Knowledge::clone(&knowledge),
            start,
        ));
    }

    let mut events = plan.events.iter().peekable();
    // What finds nobody to happen to (all workers are down, or the database is) waits for its moment.
    let mut waiting: Vec<&Event> = Vec::new();
    let patience = plan.lasts + Duration::from_secs(30);
    while start.elapsed() < plan.lasts
        || run.outage.is_some()
        || (!(waiting.is_empty() && events.peek().is_none()) && start.elapsed() < patience)
    {
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= start.elapsed()) {
            waiting.push(event);
        }
        for event in std::mem::take(&mut waiting) {
            if !run.inject(event).await {
                waiting.push(event);
            }
        }
        run.end_outage().await;
        run.fleet.tend().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Every failpoint has to strike. Those that have not are given further occasions, and messages to strike at.
    let mut encore = dice.part("encore");
    let mut rounds = 0;
    while !run.fleet.missing().is_empty() && rounds < 20 {
        let further = encore_messages(&mut encore, 20, &plan, rounds, start.elapsed());
        messages.extend(further.iter().cloned());
        producing.spawn(produce(
            url.clone(),
            pool.clone(),
            further,
            Knowledge::clone(&knowledge),
            start,
        ));
        for event in [
            Event::AccountFailure("answer:402*2"),
            Event::Freeze(Duration::from_millis(3_500)),
            Event::Stop,
        ] {
            run.inject(&event).await;
        }
        for _ in 0..150 {
            run.fleet.tend().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rounds += 1;
    }

    let Run {
        mut fleet,
        injected,
        sandbox,
        failure,
        database,
        provider,
        outages,
        ..
    } = run;
    drop(failure);
    let postgres = mistreating.await.expect("the server came back");
    set_faults(&sandbox, &[]).await;
    let (quiet, quiet_at) = (Instant::now(), now());
    fleet.recover().await;
    let met = producing
        .join_all()
        .await
        .into_iter()
        .fold(Met::default(), |sum, one| Met {
            committed: sum.committed + one.committed,
            rolled_back: sum.rolled_back + one.rolled_back,
            broken: sum.broken + one.broken,
        });
    calm.drain().await;
    let drained_after = quiet.elapsed();
    let mut later = encore_messages(&mut encore, 30, &plan, rounds, start.elapsed());
    later[0] = later[0].clone().with(Obstacle::Lock);
    for (n, list) in later.iter_mut().enumerate().skip(20) {
        *list = list.clone().with_blocked(n, &mut encore);
    }
    messages.extend(later.iter().cloned());
    let others = later.split_off(1);
    let write = |messages| {
        produce(
            url.clone(),
            pool.clone(),
            messages,
            Knowledge::clone(&knowledge),
            start,
        )
    };
    write(later).await;
    let locked = calm.lock().await;
    write(others).await;
    calm.drain().await;
    locked.rollback().await.expect("the database is there");
    calm.drop_rule().await;
    wait_until_drained(&pool, DRAINED_WITHIN).await;
    fleet.disband().await;
    drop((database, provider));

    let stats = sandbox.stats().await;
    let told: HashMap<_, _> = knowledge
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let mut lines = std::mem::take(&mut fleet.lines);
    lines.extend(sandbox.process.lines());
    let missing = fleet.missing();
    let mut evidence = Evidence::read(
        settings(workers),
        messages,
        told,
        &pool,
        &sandbox,
        lines,
        fleet.broken,
    )
    .await;
    evidence.outages = outages;
    evidence.refused = calm.refused;
    evidence.held_up = calm.held_up;
    evidence.unexplained = calm.unexplained;
    sandbox.process.stop().await;
    pool.close().await;
    postgres.stop().await.expect("it stops gracefully");
    Outcome {
        evidence,
        injected,
        struck: fleet.struck,
        missing,
        met,
        workers: fleet.started,
        stats,
        quiet_at,
        lasted: began.elapsed(),
        drained_after,
    }
}

/// Plain messages, written at once.
fn encore_messages(
    dice: &mut Dice,
    count: usize,
    plan: &Plan,
    round: usize,
    now: Duration,
) -> Vec<Message> {
    (0..count)
        .map(|n| Message {
            at: now,
            ..plan::plain(dice, 100_000 + plan.messages.len() + count * round + n)
        })
        .collect()
}

/// Waits until nothing is queued or being sent; says whether that came in time.
pub async fn wait_until_drained(pool: &PgPool, within: Duration) -> bool {
    let began = Instant::now();
    let left = "SELECT count(*) FROM sms_outbox.jobs WHERE status IN ('queued', 'sending')";
    while began.elapsed() < within {
        let found: Result<i64, _> = sqlx::query_scalar(left).fetch_one(pool).await;
        if matches!(found, Ok(0)) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// What events happen to.
struct Run {
    fleet: Fleet,
    dice: Dice,
    injected: BTreeMap<&'static str, usize>,
    pool: PgPool,
    sandbox: Sandbox,
    database: Proxy,
    provider: Proxy,
    failure: mpsc::UnboundedSender<Event>,
    /// Since when there is one, and when it ends.
    outage: Option<(Moment, Instant)>,
    outages: Vec<(Moment, Moment)>,
}

pub fn now() -> Moment {
    chrono::Utc::now().timestamp_micros()
}

impl Run {
    /// `false` if there was nobody for it to happen to.
    async fn inject(&mut self, event: &Event) -> bool {
        let (name, done) = match event {
            Event::Kill => ("kill -9 of a worker", self.fleet.kill()),
            Event::Freeze(length) => ("worker frozen (SIGSTOP)", self.fleet.freeze(*length)),
            Event::Stop => ("worker stopped gracefully", self.fleet.stop()),
            Event::Crash(_) => ("Postgres killed", self.failure.send(event.clone()).is_ok()),
            Event::Restart => (
                "Postgres restarted",
                self.failure.send(event.clone()).is_ok(),
            ),
            Event::KillBackend => ("database session ended", self.kill_backend().await),
            Event::Cut(Side::Database, cut) => (
                "connection to the database cut",
                self.database.cut(*cut, &mut self.dice),
            ),
            Event::Cut(Side::Provider, cut) => (
                "connection to the provider cut",
                self.provider.cut(*cut, &mut self.dice),
            ),
            Event::ProviderAway(length) => {
                self.sandbox.away(*length).await;
                ("provider away", true)
            }
            Event::Outage(shut, unavailable) => {
                let begins = self.begin_outage(UNAVAILABLE, *shut + *unavailable).await;
                if begins {
                    self.sandbox.away(*shut).await;
                }
                ("outage of the provider", begins)
            }
            Event::Storm(length) => ("storm of 429", self.begin_outage(THROTTLED, *length).await),
            // Its end would take this failure away with it.
            Event::AccountFailure(_) if self.outage.is_some() => ("failure of the account", false),
            Event::AccountFailure(fault) => {
                self.sandbox.set_faults(&[fault], true).await;
                ("failure of the account", true)
            }
        };
        *self.injected.entry(name).or_default() += usize::from(done);
        done
    }

    /// For so long every request meets this and nothing else. `false`: there is an outage already.
    async fn begin_outage(&mut self, fault: &str, length: Duration) -> bool {
        let begins = self.outage.is_none();
        if begins {
            self.outage = Some((now(), Instant::now() + length));
            self.sandbox.set_faults(&[fault], false).await;
        }
        begins
    }

    /// Ends an outage whose time is over.
    async fn end_outage(&mut self) {
        if let Some((since, ends)) = self.outage
            && ends <= Instant::now()
        {
            set_faults(&self.sandbox, &PROVIDER_FAULTS).await;
            self.outages.push((since, now()));
            self.outage = None;
        }
    }

    /// `false` while the database is away.
    async fn kill_backend(&mut self) -> bool {
        let chosen = self.dice.below(1_000);
        let sql = format!(
            "WITH ours AS (SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'sms-outbox %' ORDER BY pid)
             SELECT pg_terminate_backend(pid) FROM ours
             OFFSET {chosen} % greatest((SELECT count(*) FROM ours), 1) LIMIT 1"
        );
        let asked = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_optional(&self.pool);
        let answer: Result<Result<Option<bool>, _>, _> =
            tokio::time::timeout(Duration::from_millis(500), asked).await;
        matches!(answer, Ok(Ok(Some(true))))
    }
}
