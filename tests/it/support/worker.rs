//! Workers, in this process or in their own, and what the tests ask the database about jobs.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sms_outbox::config::WorkerArgs;
use sms_outbox::daemon::{self, DaemonError, Ended, Stops};
use sms_outbox::outbox::{
    Claim, ClaimOrder, Cursor, Filter, JobRow, Outbox, OutboxError, RoleKind, Slots, Turn,
};
use sqlx::{AssertSqlSafe, PgPool, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::postgres::TestDatabase;
use super::provider::FakeProvider;
use super::roles;

/// Longer than anything takes on a busy machine, shorter than anyone's patience.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What the accounts of tests sign with. `KEY` is followed by the account's name, unless that is `default`.
pub const KEY: &str = "7f0e-test-key";
pub const HASH: &str = "c4ca4238-test-hash";

/// Short times, no limit, and a guard window in which nothing gets too old by accident.
const FLAGS: [&str; 18] = [
    "--rate-per-second",
    "0",
    "--poll-interval",
    "20ms",
    "--backoff-base",
    "10ms",
    "--settle-delay",
    "50ms",
    "--request-timeout",
    "10s",
    "--lease",
    "20s",
    "--guard-window",
    "5m",
    "--connect-timeout",
    "5s",
    "--shutdown-grace",
    "20s",
];

#[derive(Parser)]
#[command(args_override_self = true)]
struct Arguments {
    #[command(flatten)]
    worker: WorkerArgs,
}

/// What a worker is told; later flags win over earlier ones, and over the ones that tests have in common.
pub fn worker_args(database_url: &str, provider_url: &str, flags: &[&str]) -> WorkerArgs {
    let common = [
        "worker",
        "--database-url",
        database_url,
        "--base-url",
        provider_url,
    ];
    let all = common.iter().chain(&FLAGS).chain(flags);
    Arguments::try_parse_from(all)
        .unwrap_or_else(|error| panic!("{error}"))
        .worker
}

/// A worker in this process.
pub struct Worker {
    running: tokio::task::JoinHandle<Result<Ended, DaemonError>>,
    stops: Stops,
}

impl Worker {
    pub fn start(database: &TestDatabase, provider: &FakeProvider, flags: &[&str]) -> Self {
        Self::start_at(&database.worker_url(), &provider.url(), flags)
    }

    pub fn start_at(database_url: &str, provider_url: &str, flags: &[&str]) -> Self {
        let args = worker_args(database_url, provider_url, flags);
        let signature = |variable: &str| match variable.strip_prefix("ILETIMERKEZI_API_") {
            Some("HASH") => Some(HASH.to_owned()),
            Some(file) if file.ends_with("_FILE") => None,
            Some(key) => Some(key.replacen("KEY", KEY, 1)),
            None => None,
        };
        let secrets = args.provider.secrets(signature).expect("signatures");
        let stops = Stops {
            gently: CancellationToken::new(),
            at_once: CancellationToken::new(),
        };
        let told = stops.clone();
        let running = tokio::spawn(async move { daemon::run(&args, secrets, None, told).await });
        Self { running, stops }
    }

    /// Tells it to stop gracefully.
    pub fn tell_to_stop(&self) {
        self.stops.gently.cancel();
    }

    /// Stops it gracefully.
    pub async fn stop(self) -> Ended {
        self.tell_to_stop();
        self.ended().await.expect("it had started")
    }

    /// Ends it the way a killed process ends: nothing is recorded, nothing is released.
    pub async fn stop_at_once(self) -> Ended {
        self.stops.gently.cancel();
        self.stops.at_once.cancel();
        self.ended().await.expect("it had started")
    }

    /// Waits for it to end by itself.
    pub async fn ended(self) -> Result<Ended, DaemonError> {
        tokio::time::timeout(DEADLINE, self.running)
            .await
            .expect("the worker did not end in time")
            .expect("the worker panicked")
    }
}

/// The program as a process of its own, with what it logged.
pub struct Process {
    pub child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// `sms-outbox worker`, with the flags that tests have in common and these.
    pub fn worker(database_url: &str, provider_url: &str, flags: &[&str]) -> Self {
        Self::worker_with(database_url, provider_url, flags, &[])
    }

    pub fn worker_with(
        database_url: &str,
        provider_url: &str,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        // The program, unlike our parser, refuses a flag that comes twice.
        let overridden = |flag: &str| flags.contains(&flag);
        let common = FLAGS
            .chunks_exact(2)
            .filter(|pair| !overridden(pair[0]))
            .flatten();
        let arguments: Vec<&str> = [
            "worker",
            "--database-url",
            database_url,
            "--base-url",
            provider_url,
        ]
        .into_iter()
        .chain(common.copied())
        .chain(flags.iter().copied())
        .collect();
        let credentials = [
            ("ILETIMERKEZI_API_KEY", KEY),
            ("ILETIMERKEZI_API_HASH", HASH),
        ];
        Self::start(&arguments, &[&credentials, environment].concat())
    }

    /// `sms-outbox` with these arguments, and nothing but these variables.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sms-outbox"))
            .env_clear()
            .envs(environment.iter().copied())
            // No .env of whoever runs the tests.
            .current_dir(std::env::temp_dir())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program that cargo has just built");
        let stderr = child.stderr.take().expect("it is piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            // Whatever it writes is kept, readable or not.
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        Self {
            child,
            lines,
            reader: Some(reader),
        }
    }

    /// How many files it has open.
    #[cfg(target_os = "linux")]
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.expect("a running process").count()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("our own child");
    }

    /// Everything it has logged so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a line that contains `text`.
    pub async fn wait_for_line(&self, text: &str) {
        let began = Instant::now();
        let mut seen = 0;
        loop {
            // A worker that logs everything writes tens of thousands of lines: each of them is looked at once.
            let said = {
                let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                let new = &lines[seen..];
                seen = lines.len();
                new.iter().any(|line| line.contains(text))
            };
            if said {
                return;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "waited in vain for {text:?} in:\n{}",
                self.lines().join("\n")
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for its end, and for the last it said.
    pub async fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                if let Some(reader) = self.reader.take() {
                    reader.join().expect("it reads to the end");
                }
                return status;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "the program did not end in time:\n{}",
                self.lines().join("\n")
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops it gracefully, and insists that it does.
    pub async fn stop(mut self) -> Vec<String> {
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        let lines = self.lines();
        assert_eq!(status.code(), Some(0), "{}", lines.join("\n"));
        lines
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Inserts a job as a producer does, in plain SQL, and as a producer's role unless a column is not a producer's. `columns` are names and SQL expressions; what they leave out is a
/// transactional message from `BRAND` to one number with a text of its own.
pub async fn insert(pool: &PgPool, columns: &[(&str, &str)]) -> Uuid {
    insert_many(pool, 1, columns).await[0]
}

/// As [`insert`], many at once; `n` counts them from 1 in the expressions. Ids in that order.
pub async fn insert_many(pool: &PgPool, count: usize, columns: &[(&str, &str)]) -> Vec<Uuid> {
    let mut all = vec![
        ("id", "sms_outbox.uuid_v7()"),
        ("sender", "'BRAND'"),
        ("recipients", "ARRAY['90532' || lpad(n::text, 7, '0')]"),
        ("body", "'text ' || n || ' ' || gen_random_uuid()"),
        ("iys", "false"),
    ];
    all.retain(|(name, _)| !columns.iter().any(|(given, _)| given == name));
    all.extend_from_slice(columns);
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let expressions: Vec<&str> = all.iter().map(|(_, expression)| *expression).collect();
    let sql = format!(
        "INSERT INTO sms_outbox.jobs ({}) SELECT {} FROM generate_series(1, {count}) AS n ORDER BY n RETURNING id",
        names.join(", "),
        expressions.join(", ")
    );
    let is_a_producers = RoleKind::Producer.rights().iter().any(|right| {
        right.privileges == ["INSERT"]
            && right
                .columns
                .is_some_and(|may| names.iter().all(|name| may.contains(name)))
    });
    // Where there is that role, and the schema was granted to it. In one message, which is one transaction.
    let role = format!(
        "DO $$ BEGIN
             PERFORM set_config('role', rolname, true) FROM pg_roles
             WHERE rolname = '{}' AND has_schema_privilege(oid, 'sms_outbox', 'USAGE');
         END $$;",
        roles::of(RoleKind::Producer)
    );
    let sql = if is_a_producers { role + &sql } else { sql };
    let inserted = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
        .fetch_all(pool)
        .await;
    inserted
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// Runs a statement that has to succeed.
pub async fn execute(pool: &PgPool, sql: impl Into<String>) -> u64 {
    let sql = sql.into();
    let done = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
        .execute(pool)
        .await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"))
        .rows_affected()
}

/// Asks for one number.
pub async fn count(pool: &PgPool, sql: impl Into<String>) -> i64 {
    let sql = sql.into();
    let found = sqlx::query_scalar(AssertSqlSafe(sql.clone()))
        .fetch_one(pool)
        .await;
    found.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub async fn job(pool: &PgPool, id: Uuid) -> JobRow {
    let found = Outbox::new(pool.clone()).job(id).await;
    found
        .expect("the database answers")
        .unwrap_or_else(|| panic!("there is no job {id}"))
}

pub async fn jobs(pool: &PgPool, ids: &[Uuid]) -> Vec<JobRow> {
    let filter = Filter {
        ids: Some(ids.to_vec()),
        at_most: i64::MAX,
        ..Filter::default()
    };
    let found = Outbox::new(pool.clone()).list(&filter).await;
    let mut found = found.expect("the database answers");
    found.sort_by_key(|job| ids.iter().position(|id| *id == job.id));
    found
}

/// Waits until all of these jobs fulfil `holds`; returns them in the order of `ids`.
pub async fn wait_for_jobs(
    pool: &PgPool,
    ids: &[Uuid],
    what: &str,
    holds: impl Fn(&JobRow) -> bool,
) -> Vec<JobRow> {
    let began = Instant::now();
    loop {
        let found = jobs(pool, ids).await;
        assert_eq!(found.len(), ids.len(), "a job has vanished");
        if found.iter().all(&holds) {
            return found;
        }
        if began.elapsed() > DEADLINE {
            let mut rows = String::new();
            for job in found.iter().filter(|job| !holds(job)).take(20) {
                let history = Outbox::new(pool.clone()).attempts(job.id).await;
                write!(
                    rows,
                    "{job:#?}\n{:#?}\n",
                    history.expect("the database answers")
                )
                .expect("writing to a String");
            }
            panic!("waited in vain until {what}; these are not:\n{rows}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn wait_for_job(
    pool: &PgPool,
    id: Uuid,
    what: &str,
    holds: impl Fn(&JobRow) -> bool,
) -> JobRow {
    wait_for_jobs(pool, &[id], what, holds).await.remove(0)
}

/// Waits until the job has this status.
pub async fn wait_for_status(pool: &PgPool, id: Uuid, status: &str) -> JobRow {
    wait_for_job(pool, id, &format!("the job is {status}"), |job| {
        job.status == status
    })
    .await
}

/// Waits until all of the jobs have this status.
pub async fn wait_for_statuses(pool: &PgPool, ids: &[Uuid], status: &str) -> Vec<JobRow> {
    wait_for_jobs(pool, ids, &format!("all jobs are {status}"), |job| {
        job.status == status
    })
    .await
}

/// Waits until a number that the database is asked for fulfils `holds`.
pub async fn wait_for_count(pool: &PgPool, sql: &str, holds: impl Fn(i64) -> bool) -> i64 {
    let began = Instant::now();
    loop {
        let found = count(pool, sql).await;
        if holds(found) {
            return found;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "waited in vain; {sql} answers {found}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// No limit.
pub const UNLIMITED: Slots = Slots {
    per_second: 0,
    tolerance: Duration::from_millis(20),
    horizon: Duration::from_millis(60),
};

/// A claim of the worker `w` in the account `default`, without a limit.
pub const CLAIM: ClaimOrder<'static> = ClaimOrder {
    account: "default",
    worker: "w",
    lease: Duration::from_secs(60),
    slots: UNLIMITED,
    trial: false,
};

/// Claims as a worker does that has just looked whose jobs wait, and reads on from `cursor`.
pub async fn claim_from(
    outbox: &Outbox,
    order: ClaimOrder<'_>,
    at_most: usize,
    cursor: Option<Cursor>,
) -> Result<Vec<Claim>, OutboxError> {
    let waiting = outbox.waiting(order.account).await?;
    let turn = |priority: i16, producer: &str| Turn {
        priority,
        producer: producer.into(),
        cursor,
        at_most,
        first: priority == 0,
    };
    let singles = waiting.iter().filter(|waiting| !waiting.bulk);
    let turns: Vec<Turn> = singles
        .map(|waiting| turn(waiting.priority, &waiting.producer))
        .collect();
    outbox.claim(order, at_most, &turns).await
}

/// Claims as a worker does that has just looked whose jobs wait.
pub async fn claim(
    outbox: &Outbox,
    order: ClaimOrder<'_>,
    at_most: usize,
) -> Result<Vec<Claim>, OutboxError> {
    claim_from(outbox, order, at_most, None).await
}

/// Claims the next bulk order as a worker does that has just looked whose jobs wait.
pub async fn claim_bulk(
    outbox: &Outbox,
    order: ClaimOrder<'_>,
) -> Result<Option<Claim>, OutboxError> {
    let waiting = outbox.waiting(order.account).await?;
    let mut producers: Vec<String> = waiting
        .into_iter()
        .map(|waiting| waiting.producer)
        .collect();
    producers.dedup();
    outbox.claim_bulk(order, &producers, false).await
}
