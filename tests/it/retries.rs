//! What surely never left is tried again freely, ever later, until its attempts are used up.

use std::time::{Duration, Instant};

use sms_outbox::outbox::Outbox;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Guard, Reply, healthy, nowhere};
use crate::support::worker::{
    Worker, count, insert, insert_many, wait_for_count, wait_for_job, wait_for_jobs,
    wait_for_status, wait_for_statuses,
};

#[tokio::test]
async fn refused_connections_are_retried_until_someone_listens() {
    let database = TestDatabase::create().await;
    let address = nowhere();
    let ids = insert_many(database.pool(), 3, &[("max_attempts", "1000")]).await;
    let worker = Worker::start_at(
        &database.worker_url(),
        &format!("http://{address}"),
        &["--backoff-cap", "50ms"],
    );
    wait_for_jobs(database.pool(), &ids, "each was tried twice", |job| {
        job.attempt >= 2
    })
    .await;
    let provider = FakeProvider::listen(address, healthy);
    for job in wait_for_statuses(database.pool(), &ids, "sent").await {
        assert!(
            !job.duplicate && job.ambiguous_since.is_none(),
            "nothing had left: {job:?}"
        );
    }
    worker.stop().await;
    assert_eq!(provider.orders().len(), 3);
    let not_sent = "SELECT count(*) FROM sms_outbox.attempts WHERE progress = 'not_sent' AND error_class = 'network' AND counted";
    assert!(count(database.pool(), not_sent).await >= 3);
}

#[tokio::test]
async fn attempts_that_never_left_are_used_up_one_by_one_and_then_it_failed() {
    let database = TestDatabase::create().await;
    let address = nowhere();
    let id = insert(database.pool(), &[("max_attempts", "4")]).await;
    let worker = Worker::start_at(&database.worker_url(), &format!("http://{address}"), &[]);
    let job = wait_for_status(database.pool(), id, "failed").await;
    worker.stop().await;
    assert_eq!(
        (job.attempt, job.error_class.as_deref()),
        (4, Some("network"))
    );
    let history = Outbox::new(database.pool().clone())
        .attempts(id)
        .await
        .expect("the history");
    assert_eq!(
        history.iter().map(|a| a.attempt).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
}

#[tokio::test]
async fn a_door_that_is_shut_in_the_face_never_sends_twice() {
    let database = TestDatabase::create().await;
    let mut guard = Guard::default();
    let provider = FakeProvider::scripted(move |request| guard.take(request));
    provider.shuts_the_door(true);
    let ids = insert_many(database.pool(), 3, &[]).await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_jobs(database.pool(), &ids, "each was tried", |job| {
        job.error_class.is_some()
    })
    .await;
    provider.shuts_the_door(false);
    for job in wait_for_statuses(database.pool(), &ids, "sent").await {
        assert!(job.order_id.is_some(), "{job:?}");
    }
    worker.stop().await;
    assert_eq!(provider.orders().len(), 3);
}

#[tokio::test]
async fn a_retry_is_due_within_the_ceiling_of_its_backoff() {
    let database = TestDatabase::create().await;
    let address = nowhere();
    let ids = insert_many(database.pool(), 20, &[]).await;
    let worker = Worker::start_at(
        &database.worker_url(),
        &format!("http://{address}"),
        &["--backoff-base", "100s"],
    );
    let tried = wait_for_jobs(database.pool(), &ids, "each was tried", |job| {
        job.attempt == 1 && job.status == "queued"
    })
    .await;
    worker.stop().await;
    assert!(
        tried
            .iter()
            .all(|job| job.error_class.as_deref() == Some("network"))
    );
    let delays: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM due_at - recorded_at)::float8 FROM sms_outbox.jobs JOIN sms_outbox.attempt_log ON job_id = jobs.id",
    )
    .fetch_all(database.pool())
    .await
    .expect("due times");
    assert_eq!(delays.len(), 20);
    assert!(
        delays.iter().all(|s| (0.0..=100.0).contains(s)),
        "{delays:?}"
    );
    let (least, most) = (
        delays.iter().copied().fold(f64::MAX, f64::min),
        delays.iter().copied().fold(0.0, f64::max),
    );
    assert!(most - least > 20.0, "they are spread: {delays:?}");
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
    assert_eq!(sent[0].attempt, 2);
    assert_eq!(sent[1].attempt, 1);
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
