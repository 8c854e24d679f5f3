//! What surely never left is tried again freely, and spends no attempt: only its age ends it.

use std::time::{Duration, Instant};

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Guard, Reply, healthy, nowhere};
use crate::support::worker::{
    Worker, insert, insert_many, job, wait_for_count, wait_for_job, wait_for_status,
    wait_for_statuses,
};

const LONG_AGO: &str = "now() - interval '3 hours'";

/// Requests that surely never left, none of which counts.
const NEVER_LEFT: &str = "SELECT count(*) FROM sms_outbox.attempts
     WHERE progress = 'not_sent' AND error_class = 'network' AND NOT counted";

#[tokio::test]
async fn refused_connections_spend_no_attempt_and_are_retried_until_someone_listens() {
    let database = TestDatabase::create().await;
    let address = nowhere();
    // One attempt each, and many requests that never left.
    let ids = insert_many(database.pool(), 3, &[("max_attempts", "1")]).await;
    let worker = Worker::start_at(&database.worker_url(), &format!("http://{address}"), &[]);
    wait_for_count(database.pool(), NEVER_LEFT, |tries| tries >= 5).await;
    let provider = FakeProvider::listen(address, healthy);
    for job in wait_for_statuses(database.pool(), &ids, "sent").await {
        assert!(
            !job.duplicate && job.ambiguous_since.is_none() && job.attempt == 1,
            "nothing had left: {job:?}"
        );
    }
    worker.stop().await;
    assert_eq!(provider.orders().len(), 3);
}

#[tokio::test]
async fn what_never_leaves_fails_when_it_has_been_due_for_too_long_and_not_before() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let address = nowhere();
    let long_due = insert(pool, &[("due_at", LONG_AGO), ("created_at", LONG_AGO)]).await;
    let due_now = insert(pool, &[("max_attempts", "1")]).await;
    // Its own end counts, and has not come.
    let expiring = insert(
        pool,
        &[
            ("due_at", LONG_AGO),
            ("created_at", LONG_AGO),
            ("expires_at", "now() + interval '1 hour'"),
        ],
    )
    .await;
    let worker = Worker::start_at(
        &database.worker_url(),
        &format!("http://{address}"),
        &["--retry-for", "2h"],
    );
    let failed = wait_for_status(pool, long_due, "failed").await;
    assert_eq!(failed.error_class.as_deref(), Some("network"));
    wait_for_count(pool, NEVER_LEFT, |tries| tries >= 5).await;
    worker.stop().await;
    for id in [due_now, expiring] {
        let job = job(pool, id).await;
        assert_eq!((job.status.as_str(), job.attempt), ("queued", 0), "{job:?}");
    }
}

#[tokio::test]
async fn a_door_that_is_shut_in_the_face_never_sends_twice() {
    let database = TestDatabase::create().await;
    let mut guard = Guard::default();
    let provider = FakeProvider::scripted(move |request| guard.take(request));
    provider.shuts_the_door(true);
    let ids = insert_many(database.pool(), 3, &[]).await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_count(
        database.pool(),
        "SELECT count(DISTINCT job_id) FROM sms_outbox.attempts",
        |tried| tried == 3,
    )
    .await;
    provider.shuts_the_door(false);
    for job in wait_for_statuses(database.pool(), &ids, "sent").await {
        assert!(job.order_id.is_some(), "{job:?}");
    }
    worker.stop().await;
    assert_eq!(provider.orders().len(), 3);
}

#[tokio::test]
async fn a_retry_is_due_within_the_base_of_the_backoff_and_they_are_spread() {
    let database = TestDatabase::create().await;
    let address = nowhere();
    insert_many(database.pool(), 20, &[]).await;
    // Enough permits for all to leave before the outage is noticed.
    let worker = Worker::start_at(
        &database.worker_url(),
        &format!("http://{address}"),
        &["--backoff-base", "100s"],
    );
    wait_for_count(database.pool(), NEVER_LEFT, |tries| tries >= 4).await;
    worker.stop().await;
    let delays: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM due_at - recorded_at)::float8 FROM sms_outbox.jobs
         JOIN sms_outbox.attempt_log ON job_id = jobs.id WHERE jobs.status = 'queued'",
    )
    .fetch_all(database.pool())
    .await
    .expect("due times");
    assert!(
        delays.iter().all(|s| (0.0..=100.0).contains(s)),
        "{delays:?}"
    );
    let (least, most) = (
        delays.iter().copied().fold(f64::MAX, f64::min),
        delays.iter().copied().fold(0.0, f64::max),
    );
    assert!(most - least > 5.0, "they are spread: {delays:?}");
}

#[tokio::test]
async fn too_many_requests_pause_the_account_for_as_long_as_the_provider_asks() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| match (request.text(), request.n) {
        ("first", 1) => Reply::text(429, "slow down").with_header("retry-after", "2"),
        _ => healthy(request),
    });
    let pool = database.pool();
    let first = insert(pool, &[("body", "'first'")]).await;
    let worker = Worker::start(&database, &provider, &[]);
    let began = Instant::now();
    wait_for_count(pool, "SELECT count(*) FROM sms_outbox.pauses", |n| n == 1).await;
    let second = insert(pool, &[("body", "'second'")]).await;
    let stats: (bool, String) = sqlx::query_as(
        "SELECT paused, paused_why FROM sms_outbox.queue_stats WHERE status = 'queued'",
    )
    .fetch_one(pool)
    .await
    .expect("the queue at a glance");
    assert!(stats.0 && stats.1.contains("429"), "{stats:?}");
    let sent = wait_for_statuses(pool, &[first, second], "sent").await;
    worker.stop().await;
    assert!(began.elapsed() >= Duration::from_secs(2) - Duration::from_millis(100));
    assert!(
        sent.iter().all(|job| job.attempt == 1),
        "no attempt is spent"
    );
    let orders = provider.orders();
    assert_eq!(orders.len(), 3);
    let waited = orders[1].arrived - orders[0].arrived;
    assert!(
        waited >= Duration::from_millis(1950) && waited < Duration::from_secs(10),
        "{waited:?}"
    );
    wait_for_job(pool, first, "not indeterminate", |job| {
        job.ambiguous_since.is_none()
    })
    .await;
}
