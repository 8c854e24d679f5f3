//! A primary and its standby under one address: the one that accepts writes is used, and found again when it has become the other.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use sms_outbox::embedded::{self, Options, PrivatePostgres, Sources};
use sms_outbox::outbox::ConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};

use crate::cli::Shell;
use crate::restores::{NOTHING_IS_SENT, promote, wait_until_pinned};
use crate::support::faults::{Frozen, server_of_its_own};
use crate::support::postgres::TestDatabase;
use crate::support::provider::FakeProvider;
use crate::support::worker::{Process, insert, wait_for_count, wait_for_status};

/// Two servers of one cluster, and the address of both, the standby first.
struct Pair {
    primary: PrivatePostgres,
    standby: PrivatePostgres,
    standby_url: String,
    url: String,
}

/// What becomes of the primary.
#[derive(Clone, Copy)]
enum End {
    Dies,
    FallsSilent,
}

fn run(program: &str, arguments: &[&Path]) {
    let done = Command::new(program).args(arguments).status();
    assert!(done.expect(program).success(), "{program} {arguments:?}");
}

impl Pair {
    async fn start() -> Self {
        let (mut primary, pool) = server_of_its_own().await;
        pool.close().await;
        let mut options = Options::new(Sources::from_env());
        options.durable = true;
        let mut standby = embedded::start(&options).await.expect("a private server");
        // A copy of a server that is down needs no tools.
        primary.crash().await.expect("our own server");
        standby.crash().await.expect("our own server");
        let data = standby.data_dir();
        run("rm", &[Path::new("-r"), &data]);
        run("cp", &[Path::new("-a"), &primary.data_dir(), &data]);
        run("rm", &[Path::new("-f"), &data.join("postmaster.pid")]);
        let pg_version = data.join("PG_VERSION");
        let signal = data.join("standby.signal");
        run("cp", &[Path::new("-a"), &pg_version, &signal]);
        let follows = format!("primary_conninfo = '{}'\n", primary.admin_url());
        let settings = data.join("postgresql.auto.conf");
        std::fs::write(&settings, follows).expect("our own file");
        primary.restart().await.expect("it comes back");
        standby.restart().await.expect("a standby");
        let port = |server: &PrivatePostgres| {
            let url = server.admin_url();
            let (_, rest) = url.rsplit_once(':').expect("a port");
            rest.split('/').next().expect("a port").to_owned()
        };
        let (before, _) = {
            let url = primary.admin_url();
            let (before, after) = url.rsplit_once(':').expect("a port");
            (before.to_owned(), after.to_owned())
        };
        let (one, other) = (port(&standby), port(&primary));
        Self {
            standby_url: format!("{before}:{one}/postgres"),
            url: format!("{before}:{one},127.0.0.1:{other}/postgres"),
            primary,
            standby,
        }
    }

    /// The standby has everything, the primary dies or falls silent, and the standby takes its place.
    async fn fail_over(&mut self, end: End) -> (PgPool, Option<Frozen>) {
        let mut old = PgConnection::connect(&self.primary.admin_url())
            .await
            .expect("the primary");
        let written: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text")
            .fetch_one(&mut old)
            .await
            .expect("the primary");
        let pool = PgPool::connect(&self.standby_url)
            .await
            .expect("the standby");
        let received = format!("SELECT (pg_last_wal_replay_lsn() >= '{written}')::int::bigint");
        wait_for_count(&pool, &received, |all| all == 1).await;
        let frozen = match end {
            End::Dies => {
                self.primary.crash().await.expect("our own server");
                None
            }
            End::FallsSilent => {
                let asking = PgPool::connect(&self.primary.admin_url())
                    .await
                    .expect("the primary");
                Some(Frozen::server(&self.primary, &asking).await)
            }
        };
        let promoted: bool = sqlx::query_scalar("SELECT pg_promote()")
            .fetch_one(&pool)
            .await
            .expect("the standby");
        assert!(promoted);
        (pool, frozen)
    }
}

#[tokio::test]
async fn of_several_servers_the_one_that_accepts_writes_is_used_and_found_again_after_a_failover() {
    follows_the_primary(End::Dies).await;
}

#[tokio::test]
async fn a_primary_that_has_fallen_silent_is_left_for_the_one_that_was_promoted() {
    follows_the_primary(End::FallsSilent).await;
}

async fn follows_the_primary(end: End) {
    let mut pair = Pair::start().await;
    let shell = Shell::without_database().with("DATABASE_URL", &pair.url);
    let said = shell.run(&["migrate"]).await.done();
    assert!(said.contains("up to date"), "{said}");
    shell
        .run(&["resume", "--after-restore", "--promotions", "go-on"])
        .await
        .done();
    let provider = FakeProvider::start();
    let worker = Process::worker(&pair.url, &provider.url(), &[]);
    let pool = PgPool::connect(&pair.primary.admin_url())
        .await
        .expect("the primary");
    let before = insert(&pool, &[]).await;
    wait_for_status(&pool, before, "sent").await;
    pool.close().await;

    let (pool, frozen) = pair.fail_over(end).await;
    let promoted = Instant::now();
    let after = insert(&pool, &[]).await;
    wait_for_status(&pool, after, "sent").await;
    eprintln!(
        "sent {} ms after the promotion",
        promoted.elapsed().as_millis()
    );
    let said = shell.run(&["list"]).await.done();
    assert!(said.contains("sent"), "{said}");
    worker.stop().await;
    pool.close().await;
    assert_eq!(provider.orders().len(), 2);
    drop(frozen);
    pair.standby.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn a_promotion_that_was_announced_stops_nothing_and_the_next_one_does() {
    let mut options = Options::new(Sources::from_env());
    options
        .settings
        .push(("fsync".to_owned(), "off".to_owned()));
    let mut server = embedded::start(&options).await.expect("a private server");
    let url = server.admin_url();
    ConnectOptions::new(&url).migrate().await.expect("migrated");
    let provider = FakeProvider::start();
    let worker = Process::worker(&url, &provider.url(), &[]);
    let pool = PgPool::connect(&url).await.expect("the server");
    wait_until_pinned(&pool).await;
    pool.close().await;
    let shell = Shell::without_database().with("DATABASE_URL", &url);
    let said = shell
        .run(&["resume", "--before-promotion", "--within", "10m"])
        .await
        .done();
    assert!(said.contains("The next promotion within 10 min"), "{said}");

    promote(&mut server).await;
    let pool = PgPool::connect(&url).await.expect("the server");
    let id = insert(&pool, &[]).await;
    wait_for_status(&pool, id, "sent").await;
    pool.close().await;

    promote(&mut server).await;
    worker.wait_for_line(NOTHING_IS_SENT).await;
    worker
        .wait_for_line("the server's history has branched")
        .await;
    worker.stop().await;
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn a_worker_with_another_provider_claims_nothing_until_a_person_says_that_it_is_meant() {
    const OTHER: &str = "sending is stopped: this queue is for another provider";
    let database = TestDatabase::create().await;
    let (people, sandbox) = (FakeProvider::start(), FakeProvider::start());
    let worker = Process::worker(&database.url(), &people.url(), &[]);
    let id = insert(database.pool(), &[]).await;
    wait_for_status(database.pool(), id, "sent").await;
    worker.stop().await;

    let other = Process::worker(&database.url(), &sandbox.url(), &[]);
    other.wait_for_line(OTHER).await;
    other.wait_for_line(&people.url()).await;
    let waits = insert(database.pool(), &[]).await;
    let shell = Shell::without_database()
        .with("DATABASE_URL", database.url())
        .with("ILETIMERKEZI_BASE_URL", sandbox.url());
    let (_, said) = shell.run(&["doctor"]).await.said();
    assert!(said.contains("the queue is for the provider at"), "{said}");
    wait_for_status(database.pool(), waits, "queued").await;
    assert_eq!(sandbox.requests().len(), 0);

    let said = shell
        .run(&["resume", "--provider", &format!("{}/v1", sandbox.url())])
        .await
        .done();
    assert!(
        said.contains(&format!("no longer for {}", people.url())),
        "{said}"
    );
    wait_for_status(database.pool(), waits, "sent").await;
    other.stop().await;
    assert_eq!((people.orders().len(), sandbox.orders().len()), (1, 1));
}

#[tokio::test]
async fn a_parameter_of_the_address_that_is_not_known_is_refused_by_name_and_no_value_is_shown() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let url = format!("{}?sslpassword=hunter2", database.url());
    let mut worker = Process::worker(&url, &provider.url(), &[]);
    assert_eq!(worker.ended().await.code(), Some(2));
    let listed = Shell::without_database().with("DATABASE_URL", &url);
    let (code, said) = listed.run(&["list"]).await.said();
    assert_eq!(code, Some(2), "{said}");
    for said in [worker.lines().join("\n"), said] {
        assert!(said.contains("sslpassword"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
