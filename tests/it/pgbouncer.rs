//! Everything but `migrate` works through a PgBouncer in transaction mode, whether anyone says that there is one or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sms_outbox::message::Bulk;
use sms_outbox::outbox::{self, ConnectOptions, MigrationError, OutboxError};
use sms_outbox::{
    Enqueued, Iys, NewMessage, enqueue, enqueue_bulk, enqueue_once, guard_against_lost_writes,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::cli::Shell;
use crate::support::pgbouncer::{Mode, PgBouncer, Settings};
use crate::support::postgres::TestDatabase;
use crate::support::provider::FakeProvider;
use crate::support::worker::{
    CLAIM, Process, Worker, claim, count, execute, insert_many, wait_for_statuses,
};

/// A worker that is told no more than the address finds out, sends everything once, and has nothing to complain about.
async fn drains(mode: Mode, settings: Settings, flags: &[&str]) {
    let database = TestDatabase::create().await;
    let Some(pooler) = PgBouncer::start_in(mode, &database, settings).await else {
        return;
    };
    let provider = FakeProvider::start();
    let ids = insert_many(database.pool(), 300, &[]).await;
    let worker = Process::worker(&pooler.url(&database), &provider.url(), flags);
    // A second one, so that statements of several clients meet on each server process.
    let other = Process::worker(&pooler.url(&database), &provider.url(), flags);
    wait_for_statuses(database.pool(), &ids, "sent").await;
    for worker in [worker, other] {
        let lines = worker.stop().await;
        for line in &lines {
            assert!(
                !line.contains("WARN") && !line.contains("ERROR"),
                "{settings:?} {flags:?}: {}",
                lines.join("\n")
            );
        }
    }
    assert_eq!(provider.orders().len(), 300);
}

#[tokio::test]
async fn a_worker_finds_out_by_itself_where_its_settings_are_refused() {
    drains(Mode::Transaction, Settings::Refused, &[]).await;
}

#[tokio::test]
async fn a_worker_finds_out_by_itself_where_its_settings_are_ignored() {
    drains(Mode::Transaction, Settings::Ignored, &[]).await;
}

#[tokio::test]
async fn a_worker_that_is_told_so_works_where_its_settings_are_refused() {
    drains(Mode::Transaction, Settings::Refused, &["--pgbouncer=true"]).await;
}

#[tokio::test]
async fn a_worker_that_is_told_so_works_where_its_settings_are_ignored() {
    drains(Mode::Transaction, Settings::Ignored, &["--pgbouncer=true"]).await;
}

#[tokio::test]
async fn a_pooler_in_session_mode_does_no_harm() {
    for settings in [Settings::Refused, Settings::Ignored] {
        drains(Mode::Session, settings, &[]).await;
    }
    drains(Mode::Session, Settings::Ignored, &["--pgbouncer=false"]).await;
}

fn message(text: &str) -> NewMessage {
    NewMessage::new("BRAND", ["905321234567"], text, Iys::Transactional).expect("a message")
}

#[tokio::test]
async fn producers_in_rust_enqueue_in_their_transactions() {
    let database = TestDatabase::create().await;
    execute(database.pool(), "CREATE TABLE orders (id bigint)").await;
    for settings in [Settings::Refused, Settings::Ignored] {
        let Some(pooler) = PgBouncer::start(&database, settings).await else {
            return;
        };
        // As docs/producers.md says.
        let options: PgConnectOptions = pooler.url(&database).parse().expect("an address");
        let pool = guard_against_lost_writes(PgPoolOptions::new())
            .max_connections(12)
            .connect_lazy_with(options.extra_float_digits(None));
        let producers = (0..12_i64).map(|producer| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for n in 0..10 {
                    let order = producer * 10 + n;
                    let mut transaction = pool.begin().await.expect("a transaction");
                    sqlx::query("INSERT INTO orders (id) VALUES ($1)")
                        .bind(order)
                        .persistent(false)
                        .execute(&mut *transaction)
                        .await
                        .expect("an order");
                    let keyed = message(&format!("keyed {settings:?} {order}"))
                        .with_idempotency_key(format!("{settings:?}-{order}"))
                        .expect("a key");
                    enqueue(
                        &mut *transaction,
                        &message(&format!("{settings:?} {order}")),
                    )
                    .await
                    .expect("a job");
                    let first = enqueue_once(&mut *transaction, &keyed)
                        .await
                        .expect("a job");
                    let again = enqueue_once(&mut *transaction, &keyed)
                        .await
                        .expect("a job");
                    assert_eq!(again, Enqueued::Existing(first.id()));
                    let bulk = Bulk::new("BRAND", ["905321234567"], "to many", Iys::Transactional);
                    let parts = enqueue_bulk(&mut *transaction, &bulk.expect("a bulk message"))
                        .await
                        .expect("a batch");
                    assert_eq!(parts.len(), 1);
                    if n % 5 == 4 {
                        transaction.rollback().await.expect("taken back");
                    } else {
                        transaction.commit().await.expect("committed");
                    }
                }
            })
        });
        for producer in producers.collect::<Vec<_>>() {
            producer.await.expect("no panic");
        }
        pool.close().await;
    }
    assert_eq!(
        count(database.pool(), "SELECT count(*) FROM orders").await,
        2 * 96
    );
    let jobs = "SELECT count(*) FROM sms_outbox.jobs";
    assert_eq!(count(database.pool(), jobs).await, 3 * 2 * 96);
}

#[tokio::test]
async fn the_commands_find_out_by_themselves() {
    let database = TestDatabase::create().await;
    for settings in [Settings::Refused, Settings::Ignored] {
        let Some(pooler) = PgBouncer::start(&database, settings).await else {
            return;
        };
        for told in [None, Some("true")] {
            let mut shell = Shell::without_database().with("DATABASE_URL", pooler.url(&database));
            if let Some(told) = told {
                shell = shell.with("SMS_OUTBOX_PGBOUNCER", told);
            }
            let send = [
                "send",
                "--sender",
                "BRAND",
                "--to",
                "0532 123 45 67",
                "--text",
                "Hello",
            ];
            for more in [
                &["--transactional"][..],
                &["--transactional", "--key", "once"],
            ] {
                let sent = shell.run(&[&send[..], more].concat()).await;
                let id = sent.done();
                shell.run(&["show", id.trim()]).await.done();
            }
            shell.run(&["list"]).await.done();
            shell.run(&["stats", "--json"]).await.done();
            shell.run(&["pause", "--for", "1h"]).await.done();
            shell.run(&["resume"]).await.done();

            let doctor = shell.run(&["doctor", "--json"]).await.json();
            let checks = doctor["checks"].as_array().expect("a list");
            let level = |check: &str| -> Vec<&str> {
                let of = checks.iter().filter(|found| found["check"] == check);
                of.map(|found| found["level"].as_str().expect("a level"))
                    .collect()
            };
            for check in ["database", "pooler", "schema", "privileges", "pauses"] {
                assert_eq!(
                    level(check),
                    ["ok"],
                    "{settings:?}, told {told:?}, {check}: {doctor:#}"
                );
            }
            let pooler = checks.iter().find(|found| found["check"] == "pooler");
            let found = pooler.expect("it is there")["found"].to_string();
            assert!(found.contains("PgBouncer"), "{found}");
        }
        let told_wrongly = Shell::without_database()
            .with("DATABASE_URL", pooler.url(&database))
            .with("SMS_OUTBOX_PGBOUNCER", "false");
        let (code, said) = told_wrongly.run(&["doctor"]).await.said();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("SMS_OUTBOX_PGBOUNCER"), "{said}");
    }
    let jobs = "SELECT count(*) FROM sms_outbox.jobs";
    assert_eq!(
        count(database.pool(), jobs).await,
        4 + 1,
        "four, and one of which the key was taken"
    );
}

#[tokio::test]
async fn migrate_refuses_and_says_what_to_do() {
    let database = TestDatabase::empty().await;
    for settings in [Settings::Refused, Settings::Ignored] {
        let Some(pooler) = PgBouncer::start(&database, settings).await else {
            return;
        };
        for told in [
            outbox::PgBouncer::Auto,
            outbox::PgBouncer::Between,
            outbox::PgBouncer::Absent,
        ] {
            let options = ConnectOptions {
                pgbouncer: told,
                ..ConnectOptions::new(pooler.url(&database))
            };
            let refused = options.migrate().await.expect_err("it is pooled");
            assert!(
                matches!(refused, MigrationError::Pooled),
                "{settings:?}, {told:?}: {refused}"
            );
        }
        let shell = Shell::without_database().with("DATABASE_URL", pooler.url(&database));
        let (code, said) = shell.run(&["migrate"]).await.said();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the database's own address"), "{said}");
    }
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname = 'sms_outbox'";
    assert_eq!(count(database.pool(), made).await, 0);
}

#[tokio::test]
async fn what_takes_too_long_is_stopped_by_the_server_through_a_pooler_too() {
    let database = TestDatabase::create().await;
    let Some(pooler) = PgBouncer::start(&database, Settings::Refused).await else {
        return;
    };
    let mut locker = database.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE sms_outbox.pauses")
        .execute(&mut *locker)
        .await
        .expect("a lock");
    let options = ConnectOptions {
        deadline: Duration::from_secs(2),
        ..ConnectOptions::new(pooler.url(&database))
    };
    let outbox = options.connect_lazily().expect("an address");
    let error = outbox.pauses(None).await.expect_err("the table is locked");
    let OutboxError::Unreachable { source, .. } = &error else {
        panic!("{error:?}");
    };
    // Of the two limits, which are the same, either may be met first.
    let code = source.as_database_error().and_then(|error| error.code());
    assert!(
        matches!(code.as_deref(), Some("55P03" | "57014")),
        "{error:?}"
    );
    locker.rollback().await.expect("an open transaction");
    outbox.pauses(None).await.expect("nothing is in the way");
}

/// Where there is no pooler, what is repeated is prepared once, and is one round trip.
#[tokio::test]
async fn without_a_pooler_statements_stay_prepared() {
    let database = TestDatabase::create().await;
    let options = ConnectOptions {
        connections: 1,
        ..ConnectOptions::new(database.url())
    };
    let outbox = options.connect_lazily().expect("an address");
    for _ in 0..3 {
        claim(&outbox, CLAIM, 1).await.expect("a claim");
    }
    let kept = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '-- What every claim begins with%'";
    assert_eq!(count(outbox.pool(), kept).await, 1);
}

/// An address that first leads to the server and later to the pooler, as when one is put in between.
#[tokio::test]
async fn a_pooler_that_is_put_in_between_is_noticed_by_workers_that_run() {
    let database = TestDatabase::create().await;
    let Some(pooler) = PgBouncer::start(&database, Settings::Ignored).await else {
        return;
    };
    let server = reqwest::Url::parse(&database.url()).expect("a URL");
    let direct = format!(
        "{}:{}",
        server.host_str().expect("a host"),
        server.port().unwrap_or(5432)
    );
    let socket = pooler.socket();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let between = Arc::new(AtomicBool::new(false));
    let pooled = Arc::clone(&between);
    let forwarding = tokio::spawn(async move {
        let mut all = tokio::task::JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let (direct, socket) = (direct.clone(), socket.clone());
            let pooled = pooled.load(Ordering::SeqCst);
            all.spawn(async move {
                if pooled {
                    let mut there = UnixStream::connect(socket).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut there).await
                } else {
                    let mut there = TcpStream::connect(direct).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut there).await
                }
            });
        }
    });
    let mut address = server.clone();
    address.set_host(Some("127.0.0.1")).expect("a host");
    address.set_port(Some(port)).expect("a port");

    let provider = FakeProvider::start();
    let worker = Worker::start_at(address.as_str(), &provider.url(), &[]);
    let first = insert_many(database.pool(), 50, &[]).await;
    wait_for_statuses(database.pool(), &first, "sent").await;
    between.store(true, Ordering::SeqCst);
    execute(
        database.pool(),
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = '{}' AND starts_with(application_name, 'sms-outbox ')",
            database.name()
        ),
    )
    .await;
    let second = insert_many(database.pool(), 200, &[]).await;
    wait_for_statuses(database.pool(), &second, "sent").await;
    worker.stop().await;
    forwarding.abort();
    assert_eq!(provider.orders().len(), 250);
}
