//! Stopping is clean: nothing new is claimed, what is in flight is finished and recorded, the rest is released untouched. And a
//! database that is away is waited for.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sms_outbox::daemon::Ended;
use sms_outbox::embedded::{self, Options, Sources};
use sms_outbox::outbox::ConnectOptions;
use sqlx::postgres::PgPoolOptions;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Hold, Request, healthy};
use crate::support::worker::{
    Process, Worker, count, insert, insert_many, jobs, wait_for_count, wait_for_status,
    wait_for_statuses,
};

/// Holds what is to be held: the texts that begin so.
fn holding(
    hold: &Hold,
) -> impl FnMut(&Request) -> crate::support::provider::Reply + Send + 'static {
    let hold = hold.clone();
    move |request| {
        let reply = healthy(request);
        if request.text().starts_with("held") {
            reply.held(&hold)
        } else {
            reply
        }
    }
}

#[tokio::test]
async fn a_signal_lets_what_is_in_flight_finish_and_leaves_the_rest_untouched() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let hold = Hold::new();
        let provider = FakeProvider::scripted(holding(&hold));
        // A worker grows its window by what succeeds: after these, all its permits are in use.
        let quick = insert_many(pool, 20, &[]).await;
        let mut worker = Process::worker(
            &database.worker_url(),
            &provider.url(),
            &["--concurrency", "20"],
        );
        wait_for_statuses(pool, &quick, "sent").await;
        let held = insert_many(pool, 60, &[("body", "'held ' || n")]).await;
        provider.wait_for_orders(40).await;

        worker.signal(signal);
        worker.wait_for_line("nothing new is claimed").await;
        hold.release();
        let status = worker.ended().await;
        assert_eq!(status.code(), Some(0), "{:#?}", worker.lines());

        let jobs = jobs(pool, &held).await;
        let sent = jobs
            .iter()
            .filter(|job| job.status == "sent" && job.attempt == 1 && job.order_id.is_some());
        let untouched = jobs
            .iter()
            .filter(|job| job.status == "queued" && job.attempt == 0);
        assert_eq!((sent.count(), untouched.count()), (20, 40));
        assert_eq!(provider.orders().len(), 40);
        assert_eq!(
            count(pool, "SELECT count(*) FROM sms_outbox.attempts").await,
            40
        );
    }
}

#[tokio::test]
async fn a_second_signal_stops_at_once_and_says_that_it_was_no_clean_end() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let provider = FakeProvider::scripted(holding(&hold));
    let held = insert(pool, &[("body", "'held'")]).await;
    let mut worker = Process::worker(&database.worker_url(), &provider.url(), &[]);
    provider.wait_for_orders(1).await;
    worker.signal(Signal::SIGTERM);
    worker.wait_for_line("nothing new is claimed").await;
    let began = Instant::now();
    worker.signal(Signal::SIGTERM);
    let status = worker.ended().await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(status.code(), Some(1), "{:#?}", worker.lines());
    // Whoever looks after its lease ends sees that it may have been sent.
    let job = wait_for_status(pool, held, "sending").await;
    assert!(job.lease_until.is_some());
}

#[tokio::test]
async fn the_end_of_the_grace_is_no_clean_end() {
    let database = TestDatabase::create().await;
    let hold = Hold::new();
    let provider = FakeProvider::scripted(holding(&hold));
    insert(database.pool(), &[("body", "'held'")]).await;
    let worker = Worker::start(&database, &provider, &["--shutdown-grace", "100ms"]);
    provider.wait_for_orders(1).await;
    assert_eq!(worker.stop().await, Ended::Interrupted);
}

#[tokio::test]
async fn an_idle_or_paused_worker_stops_at_once() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|_| crate::support::provider::Reply::code(401, 401));
    for jobs in [0, 5] {
        insert_many(database.pool(), jobs, &[]).await;
        let mut worker = Process::worker(
            &database.worker_url(),
            &provider.url(),
            &["--poll-interval", "1m"],
        );
        worker
            .wait_for_line(if jobs == 0 { "ready" } else { " paused; " })
            .await;
        let began = Instant::now();
        worker.signal(Signal::SIGTERM);
        assert_eq!(
            worker.ended().await.code(),
            Some(0),
            "{:#?}",
            worker.lines()
        );
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn what_was_claimed_and_waits_for_its_slot_is_released_with_its_attempt() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let provider = FakeProvider::scripted(holding(&hold));
    // Equal content is sent one after the other: one request is under way, the other waits for its answer.
    let equal = [("body", "'held'"), ("recipients", "'{905321112233}'")];
    let ids = insert_many(pool, 2, &equal).await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_statuses(pool, &ids, "sending").await;
    provider.wait_for_orders(1).await;
    worker.tell_to_stop();
    wait_for_count(
        pool,
        "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'queued' AND attempt = 0",
        |n| n == 1,
    )
    .await;
    hold.release();
    assert_eq!(worker.stop().await, Ended::Gracefully);
    let sent = "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'sent' AND attempt = 1";
    assert_eq!(count(pool, sent).await, 1);
    assert_eq!(provider.orders().len(), 1);
    assert_eq!(
        count(pool, "SELECT count(*) FROM sms_outbox.attempts").await,
        1
    );
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for_at_the_start_and_in_the_middle() {
    let mut options = Options::new(Sources::from_env());
    // What has been committed must survive the crash.
    options.durable = true;
    let mut server = embedded::start(&options).await.expect("a private server");
    ConnectOptions::new(server.admin_url())
        .migrate()
        .await
        .expect("migrated");
    let pool = PgPoolOptions::new()
        .connect_lazy(&server.admin_url())
        .expect("a URL");
    let waiting = insert(&pool, &[]).await;
    let hold = Hold::new();
    let provider = FakeProvider::scripted(holding(&hold));

    server.crash().await.expect("killed");
    let worker = Process::worker(&server.admin_url(), &provider.url(), &[]);
    worker
        .wait_for_line("the database is unavailable; the worker waits for it")
        .await;
    server.restart().await.expect("restarted");
    wait_for_status(&pool, waiting, "sent").await;

    let held = insert(&pool, &[("body", "'held'")]).await;
    provider.wait_for_orders(2).await;
    server.crash().await.expect("killed");
    hold.release();
    worker
        .wait_for_line("recovered: the database is available again")
        .await;
    server.restart().await.expect("restarted");
    let job = wait_for_status(&pool, held, "sent").await;
    assert_eq!(
        (job.attempt, job.duplicate, job.order_id.is_some()),
        (1, false, true)
    );
    let after = insert(&pool, &[]).await;
    wait_for_status(&pool, after, "sent").await;
    let lines = worker.stop().await;
    assert_eq!(provider.orders().len(), 3, "each of them once");
    let away = lines
        .iter()
        .filter(|line| line.contains("the database is unavailable"))
        .count();
    assert!(away <= 3, "said once for each time it was away: {lines:#?}");
}
