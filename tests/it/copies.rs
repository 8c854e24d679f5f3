//! A copy, a restored dump and a promoted standby send nothing, whatever state a job is in: one of the server's other copies may
//! have sent it meanwhile.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use sms_outbox::embedded::{self, Options, Sources};
use sms_outbox::outbox::ConnectOptions;
use sqlx::PgPool;

use crate::restores::{NOTHING_IS_SENT, promote, wait_until_pinned};
use crate::support::postgres::TestDatabase;
use crate::support::provider::FakeProvider;
use crate::support::worker::{Process, count, execute, insert, wait_for_count};

/// One job for every way in which a row can stand in the table, and everything of theirs that time would move on.
async fn fill(pool: &PgPool) {
    const SENDING: [(&str, &str); 5] = [
        ("status", "'sending'"),
        ("token", "1"),
        ("attempt", "1"),
        ("worker", "'w'"),
        ("claimed_at", "now() - interval '2 minutes'"),
    ];
    const BULK: (&str, &str) = (
        "recipients",
        "array(SELECT (905330000000 + i)::text FROM generate_series(1, 101) AS i)",
    );
    const LEASE_OVER: (&str, &str) = ("lease_until", "now() - interval '1 minute'");
    const INDETERMINATE: [(&str, &str); 3] = [
        ("token", "1"),
        ("attempt", "1"),
        ("ambiguous_since", "now() - interval '1 minute'"),
    ];
    let of = |parts: &[&[(&'static str, &'static str)]]| parts.concat();
    let ended =
        |status: &'static str| vec![("status", status), ("finished_at", "now()"), ("token", "1")];
    for columns in [
        vec![("priority", "0")],
        vec![("priority", "1")],
        vec![("priority", "2")],
        vec![("priority", "3")],
        vec![("due_at", "now() + interval '1 second'")],
        vec![("expires_at", "now() - interval '1 second'")],
        vec![("held", "'sender'"), ("sender", "'WASPAUSED'")],
        vec![("held", "'iys'"), ("iys", "true"), ("iys_list", "'TACIR'")],
        vec![("sender", "'PAUSED'")],
        INDETERMINATE.to_vec(),
        of(&[&INDETERMINATE, &[("priority", "0")]]),
        of(&[
            &INDETERMINATE[..2],
            &[("ambiguous_since", "now() - interval '1 hour'")],
        ]),
        vec![BULK],
        of(&[&INDETERMINATE, &[BULK]]),
        vec![BULK, ("held", "'sender'"), ("sender", "'WASPAUSED'")],
        of(&[&SENDING, &[LEASE_OVER]]),
        of(&[&SENDING, &[("lease_until", "now() + interval '1 second'")]]),
        of(&[&SENDING, &[LEASE_OVER, BULK]]),
        of(&[
            &SENDING,
            &[
                LEASE_OVER,
                ("ambiguous_since", "now() - interval '2 minutes'"),
            ],
        ]),
        of(&[&INDETERMINATE, &[("status", "'uncertain'")]]),
        of(&[
            &ended("'sent'"),
            &[("sent_at", "now()"), ("order_id", "'312'")],
        ]),
        of(&[
            &ended("'sent'"),
            &[("sent_at", "now()"), ("duplicate", "true")],
        ]),
        of(&[&ended("'failed'"), &[("error_class", "'content'")]]),
        ended("'expired'"),
        ended("'cancelled'"),
    ] {
        insert(pool, &columns).await;
    }
    execute(
        pool,
        "INSERT INTO sms_outbox.pauses (account, scope, sender, error_class, reason, paused_by, until, probe_at, ended_at)
         VALUES ('default', 'sender', 'PAUSED', 'sender', 'not approved', 'w', NULL, now(), NULL),
                ('default', 'sender', 'WASPAUSED', 'sender', 'not approved', 'w', NULL, NULL, now()),
                ('default', 'iys', '', 'account', 'no brand code', 'w', now() + interval '1 second', NULL, NULL)",
    )
    .await;
}

/// Everything that a worker could change, in one value.
async fn everything(pool: &PgPool) -> Vec<Value> {
    let mut all = Vec::new();
    for table in [
        "jobs",
        "attempt_log",
        "pauses",
        "reconciliation_tasks",
        "maintenance_leases",
        "rate_limits",
        "database_identity",
    ] {
        let sql = format!(
            "SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t::text), '[]') FROM sms_outbox.{table} AS t"
        );
        let rows: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(pool)
            .await
            .expect("the table");
        all.push(rows);
    }
    all
}

/// A worker at `url` says why it sends nothing, looks again and again, and changes and sends nothing.
async fn nothing_is_sent(url: &str, why: &str) {
    let pool = PgPool::connect(url).await.expect("the database");
    let provider = FakeProvider::start();
    let before = everything(&pool).await;
    let jobs = before[0].as_array().map_or(0, Vec::len);
    assert!(jobs >= 25, "only {jobs} jobs are there");
    let asked = "SELECT coalesce(sum(xact_commit + xact_rollback), 0)::bigint FROM pg_stat_database
                 WHERE datname = current_database()";
    let worker = Process::worker(url, &provider.url(), &["--poll-interval", "20ms"]);
    worker.wait_for_line(NOTHING_IS_SENT).await;
    worker.wait_for_line(why).await;
    let so_far = count(&pool, asked).await;
    // Several rounds of everything that a worker does again and again: the lease and the moments that were one second away
    // have come meanwhile.
    wait_for_count(&pool, asked, |now| now >= so_far + 60).await;
    worker.stop().await;
    assert_eq!(everything(&pool).await, before);
    assert_eq!(provider.requests().len(), 0);
    pool.close().await;
}

/// A database that a worker has pinned, with a job in every state.
async fn pinned() -> TestDatabase {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let worker = Process::worker(&database.worker_url(), &provider.url(), &[]);
    wait_until_pinned(database.pool()).await;
    worker.stop().await;
    fill(database.pool()).await;
    database
}

#[tokio::test]
async fn a_copy_sends_nothing_whatever_state_a_job_is_in() {
    let copy = pinned().await.copy().await;
    nothing_is_sent(&copy.url(), "the database is a copy").await;
}

#[tokio::test]
async fn a_restored_dump_sends_nothing_whatever_state_a_job_is_in() {
    let Some(programs) = client_programs() else {
        let said = "left out: pg_dump and psql are not on this machine";
        eprintln!("{said}");
        assert!(std::env::var_os("CI").is_none(), "{said}");
        return;
    };
    let database = pinned().await;
    let restored = TestDatabase::empty().await;
    let mut dump = Command::new(programs.join("pg_dump"))
        .args(["--no-owner", "--schema", "sms_outbox", &database.url()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("pg_dump");
    let sql = dump.stdout.take().expect("piped");
    let restore = Command::new(programs.join("psql"))
        .args(["--quiet", "--set", "ON_ERROR_STOP=1", &restored.url()])
        .stdin(sql)
        .stdout(Stdio::null())
        .status()
        .expect("psql");
    assert!(dump.wait().expect("pg_dump").success() && restore.success());
    nothing_is_sent(&restored.url(), "the database is a copy").await;
}

#[tokio::test]
async fn a_promoted_standby_sends_nothing_whatever_state_a_job_is_in() {
    let mut options = Options::new(Sources::from_env());
    options
        .settings
        .push(("fsync".to_owned(), "off".to_owned()));
    let mut server = match embedded::start(&options).await {
        Ok(server) => server,
        Err(error) => panic!("a private server is needed to promote it: {error}"),
    };
    let url = server.admin_url();
    ConnectOptions::new(&url).migrate().await.expect("migrated");
    let provider = FakeProvider::start();
    let worker = Process::worker(&url, &provider.url(), &[]);
    let pool = PgPool::connect(&url).await.expect("the server");
    wait_until_pinned(&pool).await;
    worker.stop().await;
    fill(&pool).await;
    pool.close().await;
    promote(&mut server).await;
    nothing_is_sent(&url, "the server's history has branched").await;
    server.stop().await.expect("it stops in order");
}

/// Where `pg_dump` and `psql` of the newest PostgreSQL on this machine are.
fn client_programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let has = |folder: &PathBuf| {
        ["pg_dump", "psql"]
            .iter()
            .all(|name| folder.join(name).is_file())
    };
    folders.into_iter().find(has)
}
