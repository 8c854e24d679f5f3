//! The provider is there, is not there, or only seems not to be: what an outage costs, and whose failure an answer is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sms_outbox::outbox::Outbox;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Guard, Reply, Request, SEND, healthy, nowhere};
use crate::support::worker::{
    Worker, count, execute, insert, insert_many, job, wait_for_count, wait_for_status,
    wait_for_statuses,
};

const IN_OUTAGE: &str = "SELECT count(*) FROM sms_outbox.accounts WHERE outage_since IS NOT NULL";

/// Answers everything with 503 until it is told to be well.
fn ill(well: &Arc<AtomicBool>) -> impl FnMut(&Request) -> Reply + Send + 'static {
    let well = Arc::clone(well);
    let mut guard = Guard::default();
    move |request| {
        if !well.load(Ordering::Relaxed) {
            Reply::text(503, "<html>down</html>")
        } else if request.path == SEND {
            guard.take(request)
        } else {
            healthy(request)
        }
    }
}

#[tokio::test]
async fn an_outage_makes_no_more_jobs_indeterminate_than_were_in_flight_and_fails_none() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let well = Arc::new(AtomicBool::new(false));
    let provider = FakeProvider::scripted(ill(&well));
    let mut ids = insert_many(pool, 300, &[("max_attempts", "2")]).await;
    let worker = Worker::start(&database, &provider, &["--concurrency", "10"]);
    wait_for_count(pool, IN_OUTAGE, |outages| outages == 1).await;
    // What comes meanwhile waits as well.
    ids.extend(insert_many(pool, 20, &[("priority", "0")]).await);
    wait_for_count(
        pool,
        "SELECT probes::bigint FROM sms_outbox.accounts",
        |probes| probes >= 2,
    )
    .await;
    let lost =
        "SELECT count(DISTINCT job_id) FROM sms_outbox.attempts WHERE progress <> 'not_sent'";
    assert!(count(pool, lost).await <= 10);
    let failed = "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'failed'";
    assert_eq!(count(pool, failed).await, 0);

    well.store(true, Ordering::Relaxed);
    wait_for_count(
        pool,
        "SELECT count(*) FROM sms_outbox.jobs WHERE status NOT IN ('sent', 'uncertain')",
        |left| left == 0,
    )
    .await;
    worker.stop().await;
    assert_eq!(count(pool, IN_OUTAGE).await, 0);
    let uncertain = "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'uncertain'";
    assert!(count(pool, uncertain).await <= 10);
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_costs_nothing_but_time() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let address = nowhere();
    let ids = insert_many(pool, 50, &[("max_attempts", "1")]).await;
    let worker = Worker::start_at(&database.worker_url(), &format!("http://{address}"), &[]);
    wait_for_count(pool, IN_OUTAGE, |outages| outages == 1).await;
    let provider = FakeProvider::listen(address, healthy);
    let sent = wait_for_statuses(pool, &ids, "sent").await;
    worker.stop().await;
    assert!(sent.iter().all(|job| job.attempt == 1), "nothing was spent");
    assert_eq!(provider.orders().len(), 50);
}

#[tokio::test]
async fn where_the_balance_is_answered_and_orders_are_not_one_new_message_is_tried_at_a_time() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND => Reply::Hangup,
        _ => healthy(request),
    });
    insert_many(pool, 40, &[]).await;
    let flags = ["--concurrency", "5", "--settle-delay", "60s"];
    let worker = Worker::start(&database, &provider, &flags);
    wait_for_count(pool, IN_OUTAGE, |outages| outages == 1).await;
    wait_for_count(
        pool,
        "SELECT trials::bigint FROM sms_outbox.accounts",
        |trials| trials >= 2,
    )
    .await;
    // A text that is answered ends it.
    provider.now_says(healthy);
    wait_for_count(pool, IN_OUTAGE, |outages| outages == 0).await;
    wait_for_count(
        pool,
        "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'sent'",
        |sent| sent >= 30,
    )
    .await;
    worker.stop().await;
    let lost =
        "SELECT count(DISTINCT job_id) FROM sms_outbox.attempts WHERE progress = 'maybe_sent'";
    assert!(count(pool, lost).await <= 5 + 4);
}

#[tokio::test]
async fn too_many_requests_spend_no_attempt_however_often_they_are_answered() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut asked = 0;
    let provider = FakeProvider::scripted(move |request| {
        if request.path == SEND {
            asked += 1;
            if asked <= 4 {
                return Reply::text(429, "slow down").with_header("retry-after", "1");
            }
        }
        healthy(request)
    });
    let id = insert(pool, &[("max_attempts", "1")]).await;
    let worker = Worker::start(&database, &provider, &[]);
    let sent = wait_for_status(pool, id, "sent").await;
    worker.stop().await;
    assert_eq!((sent.attempt, provider.orders().len()), (1, 5));
}

#[tokio::test]
async fn a_text_that_a_firewall_hates_is_its_own_failure_and_pauses_nobody_for_long() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| {
        if request.path == SEND && request.text() == "hated" {
            Reply::text(403, "<html>Forbidden</html>")
        } else {
            healthy(request)
        }
    });
    let worker = Worker::start(&database, &provider, &[]);
    let first = insert(pool, &[]).await;
    wait_for_status(pool, first, "sent").await;
    let hated = insert(pool, &[("body", "'hated'")]).await;
    // Others are accepted in between.
    loop {
        let other = insert(pool, &[]).await;
        wait_for_status(pool, other, "sent").await;
        if job(pool, hated).await.status == "failed" {
            break;
        }
    }
    worker.stop().await;
    let hated = job(pool, hated).await;
    assert_eq!(hated.error_class.as_deref(), Some("request"), "{hated:?}");
    assert_eq!(provider.orders_of("hated").len(), 3);
    assert_eq!(
        count(pool, "SELECT count(*) FROM sms_outbox.pauses").await,
        0
    );
}

#[tokio::test]
async fn an_answer_that_everybody_meets_is_the_accounts_failure_although_the_balance_is_answered() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let worker = Worker::start(&database, &provider, &["--backoff-base", "60s"]);
    let first = insert(pool, &[]).await;
    wait_for_status(pool, first, "sent").await;
    provider.now_says(|request| match request.path.as_str() {
        SEND => Reply::text(403, "<html>Forbidden</html>"),
        _ => healthy(request),
    });
    insert_many(pool, 20, &[]).await;
    let paused =
        "SELECT count(*) FROM sms_outbox.pauses WHERE scope = 'account' AND ended_at IS NULL";
    wait_for_count(pool, paused, |pauses| pauses == 1).await;
    worker.stop().await;
    let failed = "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'failed'";
    assert_eq!(count(pool, failed).await, 0);
}

#[tokio::test]
async fn what_waits_for_a_pause_or_an_outage_is_explained_and_what_waits_for_nothing_is_named() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let outbox = Outbox::new(pool.clone());
    let unexplained = async || {
        let found = outbox.unexplained(100).await.expect("an answer");
        found.iter().map(|stuck| stuck.jobs).sum::<i64>()
    };
    insert_many(pool, 3, &[("due_at", "now() - interval '2 minutes'")]).await;
    insert_many(pool, 2, &[]).await;
    assert_eq!(unexplained().await, 3, "no worker runs");
    execute(
        pool,
        "INSERT INTO sms_outbox.pauses (account, scope, reason, paused_by) VALUES ('default', 'account', 'x', 'x')",
    )
    .await;
    assert_eq!(unexplained().await, 0, "a pause");
    execute(pool, "DELETE FROM sms_outbox.pauses").await;
    execute(
        pool,
        "INSERT INTO sms_outbox.accounts (account, outage_since) VALUES ('default', now())",
    )
    .await;
    assert_eq!(unexplained().await, 0, "an outage");
    execute(
        pool,
        "UPDATE sms_outbox.accounts SET outage_since = NULL, claimed_at = ARRAY[NULL, now(), NULL, NULL]::timestamptz[],
                claimed_due_at = ARRAY[NULL, now() - interval '3 minutes', NULL, NULL]::timestamptz[]",
    )
    .await;
    assert_eq!(unexplained().await, 0, "the queue before them moves");
    execute(
        pool,
        "UPDATE sms_outbox.accounts SET claimed_due_at = ARRAY[NULL, now(), NULL, NULL]::timestamptz[]",
    )
    .await;
    assert_eq!(unexplained().await, 3, "others are claimed past them");
    execute(pool, "UPDATE sms_outbox.jobs SET held = 'sender'").await;
    assert_eq!(unexplained().await, 3, "held, and no pause holds");
}
