//! Whatever happens to the database or to the way there, a worker waits for it, finds it again by itself, and neither
//! forgets a message nor sends one twice. (What a dying worker leaves behind is told in `crash_points`.)

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use sms_outbox::outbox::{CLAIM_SINGLES, ConnectOptions};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::faults::{Frozen, MidStatement, server_of_its_own};
use crate::support::postgres::TestDatabase;
use crate::support::program;
use crate::support::provider::{FakeProvider, Guard, Hold, SEND, healthy};
use crate::support::proxy::{At, Fate, Proxy};
use crate::support::worker::{
    HASH, KEY, Process, Worker, count, execute, insert, insert_many, jobs, wait_for_count,
    wait_for_status, wait_for_statuses,
};

const RECORD: &str = include_str!("../../src/outbox/record_sent.sql");

/// For claims whose answer was lost: a lease that a test can wait for.
const SHORT_LEASE: [&str; 4] = ["--request-timeout", "2s", "--lease", "3s"];

fn guarded() -> FakeProvider {
    let mut guard = Guard::default();
    FakeProvider::scripted(move |request| match request.path.as_str() {
        SEND => guard.take(request),
        _ => healthy(request),
    })
}

/// Each of these jobs has been accepted exactly once, and is recorded with its order, or with the original that its repeat met.
async fn each_was_accepted_once(pool: &PgPool, ids: &[Uuid], provider: &FakeProvider) {
    let mut requests: HashMap<String, usize> = HashMap::new();
    for order in provider.orders() {
        *requests.entry(order.text().to_owned()).or_default() += 1;
    }
    for job in jobs(pool, ids).await {
        assert_eq!(job.status, "sent", "{job:?}");
        let asked = requests.get(&job.body).copied().unwrap_or(0);
        // The provider's guard takes the first, and refuses every other.
        assert!(
            asked == 1 || (asked > 1 && job.ambiguous_since.is_some()),
            "{asked}: {job:?}"
        );
        assert!(
            job.order_id.is_some() || (asked > 1 && job.duplicate),
            "{asked}: {job:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_restarts_or_crashes_under_load_costs_no_message_and_doubles_none() {
    let (mut server, pool) = server_of_its_own().await;
    let provider = guarded();
    let worker = Process::worker(&server.admin_url(), &provider.url(), &SHORT_LEASE);
    let mut all = Vec::new();
    for crashes in [false, true] {
        let before = provider.orders().len();
        let ids = insert_many(&pool, 300, &[]).await;
        provider.wait_for_orders(before + 50).await;
        if crashes {
            server.crash().await.expect("killed");
        }
        server.restart().await.expect("restarted");
        wait_for_statuses(&pool, &ids, "sent").await;
        all.extend(ids);
    }
    worker.stop().await;
    each_was_accepted_once(&pool, &all, &provider).await;
}

#[tokio::test]
async fn sessions_that_are_killed_under_load_cost_no_message_and_double_none() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = guarded();
    let worker = Process::worker(&database.worker_url(), &provider.url(), &SHORT_LEASE);
    let mut all = Vec::new();
    for round in 1..=10 {
        all.extend(insert_many(pool, 60, &[]).await);
        // In the middle of it, each time somewhere else.
        provider.wait_for_orders(round * 40).await;
        let killed = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE 'sms-outbox %'";
        // The last round may have left none for the moment.
        wait_for_count(pool, killed, |sessions| sessions > 0).await;
    }
    wait_for_statuses(pool, &all, "sent").await;
    worker.stop().await;
    each_was_accepted_once(pool, &all, &provider).await;
}

#[tokio::test]
async fn a_session_that_is_killed_in_mid_statement_costs_no_message_and_doubles_none() {
    for status in ["sending", "sent"] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let provider = FakeProvider::start();
        let middle = MidStatement::of_jobs_that_become(status, pool).await;
        let id = insert(pool, &[]).await;
        let worker = Worker::start(&database, &provider, &[]);
        middle.wait_for_someone().await;
        middle.kill().await;
        middle.release().await;
        let job = wait_for_status(pool, id, "sent").await;
        worker.stop().await;
        assert!(
            job.attempt == 1 && job.order_id.is_some(),
            "{status}: {job:?}"
        );
        assert_eq!(provider.orders().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_before_or_after_a_statement_costs_no_message_and_doubles_none() {
    for (statement, at, attempts, flags) in [
        (CLAIM_SINGLES, At::Request, 1, &[][..]),
        // Nobody knows that it is claimed: its lease has to run out.
        (CLAIM_SINGLES, At::Answer, 2, &SHORT_LEASE[..]),
        (RECORD, At::Request, 1, &[]),
        (RECORD, At::Answer, 1, &[]),
    ] {
        let what = format!("{at:?} of {}", statement.lines().next().unwrap_or_default());
        let database = TestDatabase::create().await;
        let provider = FakeProvider::start();
        let proxy = Proxy::before(&database.url());
        let trap = proxy.trap(statement, at, Fate::Cut);
        let id = insert(database.pool(), &[]).await;
        let worker = Process::worker(&proxy.url(), &provider.url(), flags);
        trap.sprung().await;
        let job = wait_for_status(database.pool(), id, "sent").await;
        let lines = worker.stop().await;
        assert_eq!((job.attempt, job.duplicate), (attempts, false), "{what}");
        assert!(job.order_id.is_some(), "{what}");
        assert_eq!(provider.orders().len(), 1, "{what}");
        let history = "SELECT count(*) FROM sms_outbox.attempts WHERE progress = 'answered'";
        assert_eq!(count(database.pool(), history).await, 1, "{what}");
        assert!(
            !lines
                .iter()
                .any(|line| line.contains("accepted twice") || line.contains("ERROR")),
            "{what}: {lines:#?}"
        );
    }
}

#[tokio::test]
async fn ten_workers_on_one_queue_claim_no_job_twice_and_send_each_once() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let ids = insert_many(database.pool(), 500, &[]).await;
    let workers: Vec<Worker> = (0..10)
        .map(|_| Worker::start(&database, &provider, &["--concurrency", "10"]))
        .collect();
    wait_for_statuses(database.pool(), &ids, "sent").await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(provider.orders().len(), 500);
    let claimed_once = "SELECT count(*) FROM sms_outbox.jobs WHERE token = 1 AND attempt = 1";
    assert_eq!(count(database.pool(), claimed_once).await, 500);
    let by = "SELECT count(DISTINCT worker) FROM sms_outbox.jobs";
    assert!(count(database.pool(), by).await > 1, "they shared the work");
}

#[tokio::test]
async fn a_database_that_hangs_is_noticed_explained_and_left_behind_when_it_goes_on() {
    let (server, pool) = server_of_its_own().await;
    let hold = Hold::new();
    let held = hold.clone();
    let mut guard = Guard::default();
    let provider = FakeProvider::scripted(move |request| match request.path.as_str() {
        SEND if request.text() == "held" => guard.take(request).held(&held),
        SEND => guard.take(request),
        _ => healthy(request),
    });
    let in_flight = insert(&pool, &[("body", "'held'")]).await;
    // A claim that nobody waits for any more may be carried out when the server goes on: its lease has to run out.
    let worker = Process::worker(&server.admin_url(), &provider.url(), &SHORT_LEASE);
    provider.wait_for_orders(1).await;
    let mut stopping = Process::worker(
        &server.admin_url(),
        &provider.url(),
        &["--shutdown-grace", "1s"],
    );
    stopping.wait_for_line("ready").await;
    let waiting = insert_many(&pool, 20, &[("due_at", "now() + interval '3 s'")]).await;

    let frozen = Frozen::server(&server, &pool).await;
    hold.release();
    // Told to stop, a worker does not wait for it longer than it was allowed to.
    stopping.signal(Signal::SIGTERM);
    let url = server.admin_url();
    let environment = [
        ("DATABASE_URL", url.as_str()),
        ("ILETIMERKEZI_BASE_URL", &provider.url()),
        ("ILETIMERKEZI_API_KEY", KEY),
        ("ILETIMERKEZI_API_HASH", HASH),
    ];
    let ((code, said), _, _) = tokio::join!(
        program::run(&["doctor"], &environment),
        worker.wait_for_line("the database is unavailable; the worker waits for it"),
        stopping.ended(),
    );
    assert_eq!(code, Some(1), "{said}");
    for part in [
        "did not answer within",
        "frozen",
        "see whether `psql` gets an answer",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    drop(frozen);

    let all = [&[in_flight], &waiting[..]].concat();
    wait_for_statuses(&pool, &all, "sent").await;
    let lines = worker.stop().await;
    let said = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert!(said("did not answer within") > 0, "{lines:#?}");
    assert!(
        said("recovered: the database is available again") > 0,
        "{lines:#?}"
    );
    each_was_accepted_once(&pool, &all, &provider).await;
}

#[tokio::test]
async fn connections_that_fall_silent_are_left_behind_for_new_ones() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let proxy = Proxy::before(&database.url());
    let before = insert_many(pool, 20, &[]).await;
    let worker = Process::worker(&proxy.url(), &provider.url(), &[]);
    wait_for_statuses(pool, &before, "sent").await;
    proxy.falls_silent();
    let after = insert_many(pool, 20, &[]).await;
    wait_for_statuses(pool, &after, "sent").await;
    worker.stop().await;
    assert_eq!(provider.orders().len(), 40, "each of them once");
}

#[tokio::test]
async fn a_connection_that_falls_silent_when_it_is_released_does_not_keep_its_slot_in_the_pool() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::before(&database.url());
    // The driver asks once more whether the server is there, and waits for that answer without an end.
    proxy.falls_silent_when_asked();
    let options = ConnectOptions {
        connections: 1,
        ..ConnectOptions::new(proxy.url())
    };
    let outbox = options.connect_lazily().expect("a URL");
    for _ in 0..2 {
        outbox.now().await.expect("there is a place for a new one");
    }
}

#[tokio::test]
async fn a_migration_does_not_wait_for_a_server_that_has_fallen_silent() {
    let database = TestDatabase::empty().await;
    let options = |url: &str| ConnectOptions {
        deadline: Duration::from_millis(500),
        ..ConnectOptions::new(url)
    };
    // Another migration that is under way is waited for, however long it takes.
    let (server, pool) = server_of_its_own().await;
    execute(&pool, "DROP SCHEMA sms_outbox CASCADE").await;
    let mut other = pool.acquire().await.expect("the database answers");
    sqlx::migrate::Migrate::lock(&mut *other)
        .await
        .expect("nobody else migrates");
    let migrating = tokio::spawn({
        let options = options(&server.admin_url());
        async move { options.migrate().await }
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait_for_count(&pool, waits, |n| n == 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!migrating.is_finished(), "it waits");

    let frozen = Frozen::server(&server, &pool).await;
    let refused = tokio::time::timeout(Duration::from_secs(30), migrating).await;
    let refused = refused.expect("it ends").expect("no panic");
    drop(frozen);
    let error = refused.expect_err("it cannot have migrated").to_string();
    assert!(error.contains("did not answer within"), "{error}");
    drop(other);

    // One that is silent from the first question on.
    let proxy = Proxy::before(&database.url());
    let trap = proxy.trap("SHOW server_version_num", At::Request, Fate::Held);
    let options = options(&proxy.url());
    let refused = tokio::time::timeout(Duration::from_secs(30), options.migrate()).await;
    trap.sprung().await;
    let error = refused.expect("it ends");
    let error = error.expect_err("it cannot have migrated").to_string();
    assert!(error.contains("did not answer within"), "{error}");
}
