//! A restored backup, a promoted standby or a copy looks like the queue, and has forgotten what was sent. Nothing is sent from
//! it until a person says so.

use std::os::unix::fs::chown;
use std::time::{Duration, Instant};

use serde_json::Value;
use sms_outbox::embedded::{self, Options, PrivatePostgres, Sources};
use sms_outbox::outbox::{Change, ConnectOptions, Grant, Outbox, OutboxError, RoleKind, Watcher};
use sqlx::PgPool;
use uuid::Uuid;

use crate::cli::Shell;
use crate::support::pgbouncer::{PgBouncer, Settings};
use crate::support::postgres::TestDatabase;
use crate::support::provider::FakeProvider;
use crate::support::worker::{
    CLAIM, DEADLINE, Process, claim, claim_bulk, count, execute, insert, insert_many, job,
    wait_for_count, wait_for_status, wait_for_statuses,
};

pub const NOTHING_IS_SENT: &str = "sending is stopped: this is not the pinned database";

fn watcher() -> Watcher {
    Watcher {
        worker: "w".into(),
        provider: "https://provider.invalid".into(),
    }
}

fn shell(url: &str) -> Shell {
    Shell::without_database().with("DATABASE_URL", url)
}

/// What `doctor` found about the database's identity: its level and its words.
async fn examined(url: &str) -> (String, String) {
    let doctor = shell(url).run(&["doctor", "--json"]).await.json();
    let checks = doctor["checks"].as_array().expect("a list");
    let found = checks.iter().find(|found| found["check"] == "identity");
    let found = found.unwrap_or_else(|| panic!("{doctor:#}"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&found["level"]), text(&found["found"]))
}

pub async fn wait_until_pinned(pool: &PgPool) {
    let pinned = "SELECT count(*) FROM sms_outbox.database_identity WHERE database_oid IS NOT NULL";
    wait_for_count(pool, pinned, |rows| rows == 1).await;
}

/// Nothing was claimed before the identity was confirmed, or ended by the maintenance.
async fn nothing_moved_before_the_confirmation(pool: &PgPool, jobs: &[Uuid]) {
    let early: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sms_outbox.jobs, sms_outbox.database_identity
         WHERE id = ANY ($1) AND least(claimed_at, finished_at) < pinned_at",
    )
    .bind(jobs)
    .fetch_one(pool)
    .await
    .expect("the database answers");
    assert_eq!(early, 0);
}

/// Sessions of others in the test's database that have something under way.
const ACTIVE: &str = "SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";

/// A worker that runs notices it, stands still, says so, and goes on by itself once it was confirmed.
async fn stands_still(change: &str, says: &str, through: Option<Settings>) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let pooler = match through {
        None => None,
        Some(settings) => match PgBouncer::start(&database, settings).await {
            Some(pooler) => Some(pooler),
            None => return,
        },
    };
    let url = pooler
        .as_ref()
        .map_or_else(|| database.url(), |pooler| pooler.url(&database));
    let provider = FakeProvider::start();
    let worker = Process::worker(&url, &provider.url(), &[]);
    let before = insert(pool, &[]).await;
    wait_for_status(pool, before, "sent").await;
    wait_until_pinned(pool).await;
    assert_eq!(examined(&database.url()).await.0, "ok");

    execute(
        pool,
        format!("UPDATE sms_outbox.database_identity SET {change}"),
    )
    .await;
    worker.wait_for_line(NOTHING_IS_SENT).await;
    worker.wait_for_line(says).await;
    // A claim that had begun before.
    wait_for_count(pool, ACTIVE, |sessions| sessions == 0).await;
    let waiting = insert_many(pool, 20, &[]).await;
    // Neither do leases run out, nor messages expire.
    let abandoned = insert(
        pool,
        &[
            ("status", "'sending'"),
            ("token", "1"),
            ("attempt", "1"),
            ("worker", "'w'"),
            ("claimed_at", "now() - interval '1 minute'"),
            ("lease_until", "now() - interval '1 second'"),
        ],
    )
    .await;
    let late = insert(pool, &[("expires_at", "now() - interval '1 second'")]).await;
    // A second worker, which sees it from the start.
    let other = Process::worker(&url, &provider.url(), &[]);
    other.wait_for_line(NOTHING_IS_SENT).await;

    let (level, found) = examined(&url).await;
    assert_eq!(level, "fault", "{found}");
    assert!(found.contains(says), "{found}");
    let stats = shell(&url).run(&["stats"]).await.done();
    assert!(
        stats.contains("Nothing is sent") && stats.contains(says),
        "{stats}"
    );
    assert_eq!(provider.orders().len(), 1);
    assert_eq!(job(pool, abandoned).await.status, "sending");
    assert_eq!(job(pool, late).await.status, "queued");

    let said = shell(&url).run(&["resume", "--after-restore"]).await.done();
    assert!(said.contains(says), "{said}");
    assert!(
        said.contains("22 jobs open: 21 queued, of which 21 due"),
        "{said}"
    );
    assert!(said.contains("1 being sent"), "{said}");
    wait_for_statuses(pool, &waiting, "sent").await;
    wait_for_status(pool, abandoned, "sent").await;
    wait_for_status(pool, late, "expired").await;
    let moved = [&waiting[..], &[late]].concat();
    nothing_moved_before_the_confirmation(pool, &moved).await;
    assert_eq!(examined(&url).await.0, "ok");
    for worker in [worker, other] {
        worker
            .wait_for_line("resumed: an operator confirmed this database")
            .await;
        let lines = worker.stop().await;
        let errors = lines.iter().filter(|line| line.contains("ERROR")).count();
        assert_eq!(errors, 1, "said once: {}", lines.join("\n"));
    }
    assert_eq!(provider.orders().len(), 22);
}

#[tokio::test]
async fn another_server_stops_the_sending() {
    stands_still("system_identifier = '1'", "the server is another one", None).await;
}

#[tokio::test]
async fn another_database_of_the_server_stops_the_sending() {
    stands_still("database_oid = 1", "the database", None).await;
}

#[tokio::test]
async fn a_backup_that_was_restored_over_the_tables_stops_the_sending() {
    stands_still(
        "jobs_oid = 1",
        "the table sms_outbox.jobs is another one",
        None,
    )
    .await;
}

#[tokio::test]
async fn another_timeline_stops_the_sending() {
    stands_still("timeline = 4711", "the server's history has branched", None).await;
}

/// Connections to a pooler survive what happens behind it.
#[tokio::test]
async fn behind_a_pooler_it_is_noticed_as_well() {
    for settings in [Settings::Refused, Settings::Ignored] {
        stands_still(
            "system_identifier = '1'",
            "the server is another one",
            Some(settings),
        )
        .await;
    }
}

/// The server behind a pooler may be another one at the very next claim, on the same connection.
#[tokio::test]
async fn behind_a_pooler_each_claim_looks_for_itself() {
    let database = TestDatabase::create().await;
    let Some(pooler) = PgBouncer::start(&database, Settings::Refused).await else {
        return;
    };
    let outbox = ConnectOptions {
        watcher: Some(watcher()),
        ..ConnectOptions::new(pooler.url(&database))
    };
    let outbox = outbox.connect_lazily().expect("an address");
    outbox.verify_identity().await.expect("pinned");
    insert(database.pool(), &[]).await;
    execute(
        database.pool(),
        "UPDATE sms_outbox.database_identity SET timeline = 4711",
    )
    .await;
    let refused = claim(&outbox, CLAIM, 1).await;
    assert!(
        matches!(
            refused,
            Err(OutboxError::AnotherDatabase(Change::Timeline { .. }))
        ),
        "{refused:?}"
    );
    outbox
        .confirm_identity("somebody", None)
        .await
        .expect("confirmed");
    let claims = claim(&outbox, CLAIM, 1).await;
    assert_eq!(claims.expect("a claim").len(), 1);
}

#[tokio::test]
async fn a_copy_of_the_database_sends_nothing_to_anyone() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let worker = Process::worker(&database.worker_url(), &provider.url(), &[]);
    wait_until_pinned(database.pool()).await;
    worker.stop().await;
    let id = insert(database.pool(), &[]).await;
    let copy = database.copy().await;

    let stopped = Process::worker(&copy.url(), &provider.url(), &[]);
    stopped.wait_for_line("the database is a copy").await;
    stopped.stop().await;
    assert_eq!(job(copy.pool(), id).await.status, "queued");
    assert_eq!(provider.requests().len(), 0);
    // Unless the worker's first look is its claim.
    let options = ConnectOptions {
        watcher: Some(watcher()),
        ..ConnectOptions::new(copy.url())
    };
    for outbox in [
        options.connect_lazily().expect("an address"),
        Outbox::new(copy.pool().clone()),
    ] {
        let refused = claim(&outbox, CLAIM, 1).await;
        assert!(
            matches!(
                refused,
                Err(OutboxError::AnotherDatabase(Change::Database { .. }))
            ),
            "{refused:?}"
        );
        let refused = claim_bulk(&outbox, CLAIM).await;
        assert!(
            matches!(refused, Err(OutboxError::AnotherDatabase(_))),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn migrate_notes_the_database_and_nobody_overwrites_what_was_pinned() {
    let database = TestDatabase::empty().await;
    let options = ConnectOptions::new(database.url());
    options.migrate().await.expect("migrated");
    let row = "SELECT row(pinned.*)::text FROM sms_outbox.database_identity AS pinned";
    let pinned: String = sqlx::query_scalar(row)
        .fetch_one(database.pool())
        .await
        .expect("pinned");
    assert!(pinned.contains("migrate"), "{pinned}");
    assert!(
        !pinned.contains(database.name()),
        "a template for new databases may be copied: {pinned}"
    );
    options.migrate().await.expect("nothing to do");
    let outbox = options.connect_lazily().expect("an address");
    let mut pinned = String::new();
    for _ in 0..2 {
        outbox.verify_identity().await.expect("it is the one");
        let now: String = sqlx::query_scalar(row)
            .fetch_one(database.pool())
            .await
            .expect("pinned");
        assert!(now.contains(database.name()), "{now}");
        assert!(pinned.is_empty() || pinned == now, "{pinned} {now}");
        pinned = now;
    }

    let said = shell(&database.url())
        .run(&["resume", "--after-restore"])
        .await
        .done();
    assert!(said.contains("there is nothing to resume"), "{said}");
    let again: String = sqlx::query_scalar(row)
        .fetch_one(database.pool())
        .await
        .expect("pinned");
    assert_eq!(again, pinned);
}

#[tokio::test]
async fn what_was_due_may_become_uncertain_before_anything_is_sent() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let outbox = Outbox::new(pool.clone());
    outbox.verify_identity().await.expect("pinned");
    execute(
        pool,
        "UPDATE sms_outbox.database_identity SET system_identifier = '1'",
    )
    .await;
    let lost = insert_many(pool, 3, &[("due_at", "now() - interval '2 hours'")]).await;
    let held = insert(
        pool,
        &[
            ("due_at", "now() - interval '3 hours'"),
            ("held", "'sender'"),
        ],
    )
    .await;
    let indeterminate = insert(
        pool,
        &[
            ("due_at", "now() - interval '2 hours'"),
            ("ambiguous_since", "now() - interval '3 hours'"),
        ],
    )
    .await;
    let since = insert(pool, &[("due_at", "now() - interval '1 minute'")]).await;
    let later = insert(pool, &[("due_at", "now() + interval '1 hour'")]).await;
    let under_way = insert(
        pool,
        &[
            ("status", "'sending'"),
            ("token", "1"),
            ("attempt", "1"),
            ("worker", "'w'"),
            ("claimed_at", "now() - interval '2 hours'"),
            ("lease_until", "now() - interval '119 minutes'"),
        ],
    )
    .await;
    let provider = FakeProvider::start();
    let worker = Process::worker(&database.worker_url(), &provider.url(), &[]);
    worker.wait_for_line(NOTHING_IS_SENT).await;

    let last_alive: String = sqlx::query_scalar(
        "SELECT to_char((now() - interval '1 hour') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
    )
    .fetch_one(pool)
    .await
    .expect("a moment");
    let shell = shell(&database.url());
    let (code, said) = shell
        .run(&["resume", "--after-restore", "--due-by", &last_alive])
        .await
        .said();
    assert_eq!(code, Some(2), "{said}");
    let told = [
        "resume",
        "--after-restore",
        "--waiting",
        "uncertain",
        "--due-by",
        &last_alive,
    ];
    let said = shell.run(&told).await.done();
    assert!(
        said.contains("8 jobs open: 7 queued, of which 5 due by"),
        "{said}"
    );
    assert!(said.contains("5 jobs made uncertain"), "{said}");

    wait_for_status(pool, since, "sent").await;
    // In the backup it was being sent; and indeterminate for longer than any guard.
    wait_for_status(pool, under_way, "uncertain").await;
    worker.stop().await;
    for id in lost.iter().chain([&held, &indeterminate]) {
        let job = job(pool, *id).await;
        assert_eq!(job.status, "uncertain", "{job:?}");
        assert!(job.error_message.is_some_and(|why| why.contains("backup")));
    }
    let since = "SELECT count(*) FROM sms_outbox.jobs WHERE ambiguous_since = due_at AND status = 'uncertain'";
    assert_eq!(
        count(pool, since).await,
        4,
        "an older ambiguous_since is not moved"
    );
    assert_eq!(job(pool, later).await.status, "queued");
    assert_eq!(provider.orders().len(), 1);
}

#[tokio::test]
async fn where_the_server_tells_nothing_of_itself_workers_work_and_doctor_warns() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let superuser: bool =
        sqlx::query_scalar("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            .fetch_one(pool)
            .await
            .expect("an answer");
    if !superuser {
        eprintln!("left out: making roles in this server is not ours to do");
        return;
    }
    let role = format!("{}_role", database.name());
    execute(pool, format!("CREATE ROLE {role}")).await;
    let grant = Grant {
        kind: RoleKind::Worker,
        role: role.clone(),
        most_urgent: None,
    };
    let granted = Outbox::new(pool.clone()).grant(&grant).await;
    granted.expect("the owner, and a role that is there");
    let url = format!("{}?options[role]={role}", database.url());
    let provider = FakeProvider::start();
    for (refused, level) in [
        ("", "ok"),
        (
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
            "warning",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM PUBLIC",
            "warning",
        ),
    ] {
        execute(pool, refused).await;
        let id = insert(pool, &[]).await;
        let worker = Process::worker(&url, &provider.url(), &[]);
        wait_for_status(pool, id, "sent").await;
        worker.stop().await;
        let (found, words) = examined(&url).await;
        assert_eq!(found, level, "{refused}: {words}");
    }
    // What can still be told is.
    execute(
        pool,
        "UPDATE sms_outbox.database_identity SET database_oid = 1",
    )
    .await;
    assert_eq!(examined(&url).await.0, "fault");

    execute(pool, format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Makes the server a standby that knows all its own commits, and promotes it: the least of what a promotion is.
pub async fn promote(server: &mut PrivatePostgres) {
    let signal = server.data_dir().join("standby.signal");
    std::fs::write(&signal, "").expect("our own directory");
    let owner = std::fs::metadata(server.data_dir()).expect("our own directory");
    let (uid, gid) = {
        use std::os::unix::fs::MetadataExt;
        (owner.uid(), owner.gid())
    };
    chown(&signal, Some(uid), Some(gid)).expect("it is the server's");
    server.restart().await.expect("a standby");
    let began = Instant::now();
    loop {
        // A new connection each time: those of before have ended with the server.
        if let Ok(pool) = PgPool::connect(&server.admin_url()).await {
            let promoted: Result<bool, _> = sqlx::query_scalar("SELECT pg_promote()")
                .fetch_one(&pool)
                .await;
            pool.close().await;
            if promoted.is_ok_and(|promoted| promoted) {
                return;
            }
        }
        assert!(began.elapsed() < DEADLINE, "it is not promoted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_promoted_standby_stops_the_sending_unless_promotions_are_trusted() {
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
    let first = insert(&pool, &[]).await;
    wait_for_status(&pool, first, "sent").await;
    pool.close().await;

    promote(&mut server).await;
    let pool = PgPool::connect(&url).await.expect("the server");
    let second = insert(&pool, &[]).await;
    worker.wait_for_line(NOTHING_IS_SENT).await;
    worker.wait_for_line("timeline 2, pinned 1").await;
    assert_eq!(examined(&url).await.0, "fault");
    assert_eq!(job(&pool, second).await.status, "queued");
    let told = ["resume", "--after-restore", "--promotions", "go-on"];
    shell(&url).run(&told).await.done();
    wait_for_status(&pool, second, "sent").await;
    nothing_moved_before_the_confirmation(&pool, &[second]).await;
    pool.close().await;

    promote(&mut server).await;
    let pool = PgPool::connect(&url).await.expect("the server");
    let third = insert(&pool, &[]).await;
    wait_for_status(&pool, third, "sent").await;
    let (level, found) = examined(&url).await;
    assert_eq!(level, "ok");
    assert!(found.contains("do not stop workers"), "{found}");
    pool.close().await;
    worker.stop().await;
    assert_eq!(provider.orders().len(), 3);
    server.stop().await.expect("it stops gracefully");
}
