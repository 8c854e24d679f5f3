//! What is too late, too early, or no longer wanted is not sent.

use std::time::Instant;

use sms_outbox::outbox::{Cancelled, Filter, JobRow, Outbox};

use crate::support::postgres::TestDatabase;
use crate::support::program;
use crate::support::provider::{BALANCE, Door, FakeProvider, Hold, Reply, SEND, healthy, nowhere};
use crate::support::worker::{
    Worker, count, execute, insert, insert_many, job, wait_for_count, wait_for_job, wait_for_jobs,
    wait_for_status, wait_for_statuses,
};

const SOON: &str = "now() + interval '1 second'";

#[tokio::test]
async fn a_message_that_expires_while_its_account_is_paused_is_never_sent() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|_| Reply::code(401, 401));
    let late = insert(pool, &[("expires_at", SOON), ("body", "'late'")]).await;
    let patient = insert(
        pool,
        &[
            ("expires_at", "now() + interval '1 hour'"),
            ("body", "'patient'"),
        ],
    )
    .await;
    let worker = Worker::start(&database, &provider, &[]);
    provider
        .wait("it was probed", |all| all.iter().any(|r| r.path == BALANCE))
        .await;
    let asked = provider.orders_of("late").len();
    let expired = wait_for_status(pool, late, "expired").await;
    provider.now_says(healthy);
    wait_for_status(pool, patient, "sent").await;
    worker.stop().await;
    assert_eq!(
        provider.orders_of("late").len(),
        asked,
        "nothing was asked for it after its pause began"
    );
    assert_eq!(expired.attempt, 0);
    assert!(expired.finished_at.is_some() && expired.sent_at.is_none());
}

#[tokio::test]
async fn a_message_that_has_expired_before_any_worker_looked_is_never_sent() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let id = insert(
        database.pool(),
        &[("expires_at", "now() - interval '1 ms'")],
    )
    .await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(database.pool(), id, "expired").await;
    worker.stop().await;
    assert_eq!(provider.requests().len(), 0);
}

#[tokio::test]
async fn a_message_that_expires_while_its_equal_is_under_way_is_not_sent() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |request| healthy(request).held(&held));
    // The second one is claimed in time, and goes back to wait for the first one's answer, because their content is equal.
    let content = [("body", "'code 1234'"), ("recipients", "'{905321112233}'")];
    let first = insert(pool, &content).await;
    let worker = Worker::start(&database, &provider, &[]);
    provider.wait_for_orders(1).await;
    let later = ("expires_at", "now() + interval '3 seconds'");
    let second = insert(pool, &[&content[..], &[later]].concat()).await;
    let past = format!(
        "SELECT count(*) FROM sms_outbox.jobs WHERE id = '{second}' AND claimed_at < expires_at AND expires_at <= now()"
    );
    wait_for_count(pool, &past, |n| n == 1).await;
    hold.release();
    wait_for_status(pool, first, "sent").await;
    let job = wait_for_status(pool, second, "expired").await;
    worker.stop().await;
    assert_eq!(provider.orders().len(), 1);
    assert_eq!(job.attempt, 0, "no request was made");
}

#[tokio::test]
async fn a_retry_that_would_come_too_late_is_not_made() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // Surely not sent: it expired. Indeterminate: nobody can say that it was not sent. On a busy machine one may expire before it
    // is claimed at all, which says nothing here: then the next one.
    let address = nowhere();
    let worker = Worker::start_at(
        &database.worker_url(),
        &format!("http://{address}"),
        &["--backoff-cap", "50ms"],
    );
    let refused = loop {
        let id = insert(pool, &[("expires_at", SOON), ("max_attempts", "10000")]).await;
        let job = wait_for_status(pool, id, "expired").await;
        if job.error_class.is_some() {
            break job;
        }
    };
    worker.stop().await;
    assert_eq!(
        (refused.error_class.as_deref(), refused.attempt),
        (Some("network"), 0)
    );

    // A queue is for one provider.
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|_| Reply::Hangup);
    let worker = Worker::start(&database, &provider, &["--settle-delay", "60s"]);
    let lost = loop {
        let id = insert(pool, &[("expires_at", SOON)]).await;
        let has_ended = |job: &JobRow| ["expired", "uncertain"].contains(&job.status.as_str());
        let job = wait_for_job(pool, id, "it has ended", has_ended).await;
        if job.status == "uncertain" || !provider.orders().is_empty() {
            break job;
        }
    };
    worker.stop().await;
    assert_eq!((lost.status.as_str(), lost.attempt), ("uncertain", 1));
    assert_eq!(provider.orders().len(), 1);
}

#[tokio::test]
async fn a_message_is_not_sent_before_it_is_due() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let worker = Worker::start(&database, &provider, &[]);
    let began = Instant::now();
    let id = insert(pool, &[("due_at", "now() + interval '700 ms'")]).await;
    wait_for_status(pool, id, "sent").await;
    worker.stop().await;
    let waited = provider.orders()[0].arrived - began;
    assert!(waited.as_millis() >= 700, "{waited:?}");
}

#[tokio::test]
async fn a_cancelled_message_never_arrives() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let outbox = Outbox::new(pool.clone());
    let unwanted = insert(pool, &[("body", "'unwanted'"), ("due_at", SOON)]).await;
    let indeterminate = insert(
        pool,
        &[
            ("body", "'unanswered'"),
            ("ambiguous_since", "now()"),
            ("due_at", SOON),
        ],
    )
    .await;
    let wanted = insert(pool, &[("body", "'wanted'"), ("due_at", SOON)]).await;
    let filter = Filter {
        ids: Some(vec![unwanted, indeterminate]),
        at_most: 10,
        ..Filter::default()
    };
    let mut cancelled = outbox.cancel(&filter).await.expect("cancelled");
    cancelled.sort_by_key(|(id, _)| *id != unwanted);
    assert_eq!(
        cancelled,
        [
            (unwanted, Cancelled::Done),
            (indeterminate, Cancelled::DoneButMayHaveBeenSent)
        ]
    );
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(pool, wanted, "sent").await;
    worker.stop().await;
    assert_eq!(provider.orders().len(), 1);
    assert_eq!(job(pool, unwanted).await.status, "cancelled");
    let filter = Filter {
        ids: Some(vec![wanted, unwanted]),
        at_most: 10,
        ..Filter::default()
    };
    assert!(
        outbox.cancel(&filter).await.expect("answered").is_empty(),
        "what has ended stays as it ended"
    );
}

#[tokio::test]
async fn the_smaller_priority_goes_first_and_within_it_the_earlier_one() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    // Rows that are not due yet stand in front of each priority.
    for priority in 0..4 {
        let priority = priority.to_string();
        insert(
            pool,
            &[
                ("priority", &priority),
                ("due_at", "now() + interval '1 hour'"),
            ],
        )
        .await;
    }
    let mut ids = Vec::new();
    for (priority, ago) in [
        ("3", "9"),
        ("1", "1"),
        ("0", "1"),
        ("1", "2"),
        ("0", "2"),
        ("2", "5"),
    ] {
        let due = format!("now() - interval '{ago} s'");
        let body = format!("'{priority} since {ago}'");
        ids.push(
            insert(
                pool,
                &[("priority", priority), ("due_at", &due), ("body", &body)],
            )
            .await,
        );
    }
    // One at a time, so that the order of arrival is the order of claiming.
    let worker = Worker::start(&database, &provider, &["--concurrency", "1"]);
    wait_for_statuses(pool, &ids, "sent").await;
    worker.stop().await;
    let arrived: Vec<String> = provider
        .orders()
        .iter()
        .map(|r| r.text().to_owned())
        .collect();
    assert_eq!(
        arrived,
        [
            "0 since 2",
            "0 since 1",
            "1 since 2",
            "1 since 1",
            "2 since 5",
            "3 since 9"
        ]
    );
}

#[tokio::test]
async fn a_failed_job_that_is_retried_by_hand_has_all_its_attempts_again() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match (request.path.as_str(), request.n) {
        (SEND, 1) => Reply::code(200, 466),
        _ => healthy(request),
    });
    let id = insert(pool, &[("max_attempts", "1")]).await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(pool, id, "failed").await;
    let outbox = Outbox::new(pool.clone());
    let filter = Filter {
        ids: Some(vec![id]),
        at_most: 10,
        ..Filter::default()
    };
    assert_eq!(outbox.retry(&filter).await.expect("retried"), [id]);
    let job = wait_for_job(pool, id, "it is sent", |job| job.status == "sent").await;
    worker.stop().await;
    assert_eq!((job.attempt, job.error_class), (1, None));
    assert_eq!(
        count(pool, "SELECT count(*) FROM sms_outbox.attempts").await,
        2
    );
    execute(pool, "SELECT sms_outbox.prune(now() + interval '1 s')").await;
    assert_eq!(
        count(pool, "SELECT count(*) FROM sms_outbox.attempts").await,
        0
    );
}

#[tokio::test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "only Linux tells who waits before a door"
)]
async fn a_message_that_expires_while_its_request_is_connecting_never_arrives() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let door = Door::shut();
    let worker = Worker::start_at(&database.worker_url(), &door.url(), &[]);
    // On a busy machine one may expire before it is claimed at all: then the next one.
    let id = loop {
        let id = insert(pool, &[("expires_at", SOON), ("body", "'late'")]).await;
        wait_for_job(pool, id, "it is connecting", |job| {
            job.status == "expired" || door.has_someone()
        })
        .await;
        if job(pool, id).await.status == "sending" {
            break id;
        }
    };
    let past =
        format!("SELECT count(*) FROM sms_outbox.jobs WHERE id = '{id}' AND expires_at <= now()");
    wait_for_count(pool, &past, |n| n == 1).await;
    let provider = door.open(healthy);
    // It gets in, and what it was to say is not said any more.
    provider.wait_for_connections(1).await;
    let late = wait_for_status(pool, id, "expired").await;
    let after = insert(pool, &[("body", "'after'")]).await;
    wait_for_status(pool, after, "sent").await;
    worker.stop().await;
    assert!(
        late.ambiguous_since.is_none(),
        "it surely never left: {late:?}"
    );
    let arrived: Vec<String> = provider
        .requests()
        .iter()
        .map(|request| request.text().to_owned())
        .collect();
    assert_eq!(arrived, ["after"]);
}

#[tokio::test]
async fn whoever_cancels_what_is_being_sent_is_told_that_it_is_too_late() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |request| healthy(request).held(&held));
    let id = insert(pool, &[]).await;
    let worker = Worker::start(&database, &provider, &[]);
    provider.wait_for_orders(1).await;

    let by_hand = format!(
        "UPDATE sms_outbox.jobs SET status = 'cancelled', finished_at = now() WHERE id = '{id}' AND status = 'queued'"
    );
    assert_eq!(execute(pool, by_hand).await, 0, "the row says so");
    let (code, said) = program::run(
        &["cancel", &id.to_string()],
        &[("DATABASE_URL", &database.url())],
    )
    .await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("too late: it is being sent right now"),
        "{said}"
    );
    assert_eq!(job(pool, id).await.status, "sending");

    hold.release();
    let job = wait_for_status(pool, id, "sent").await;
    worker.stop().await;
    assert!(job.order_id.is_some() && job.attempt == 1, "{job:?}");
}

#[tokio::test]
async fn of_many_that_are_cancelled_while_they_are_sent_each_is_one_or_the_other_and_told_right() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let outbox = Outbox::new(pool.clone());
    let ids = insert_many(pool, 400, &[]).await;
    let worker = Worker::start(&database, &provider, &["--concurrency", "4"]);
    provider.wait_for_orders(1).await;
    // From the end, so that the two meet somewhere in the middle.
    let mut cancelled = Vec::new();
    for some in ids.rchunks(5) {
        let filter = Filter {
            ids: Some(some.to_vec()),
            at_most: 5,
            ..Filter::default()
        };
        for (id, how) in outbox.cancel(&filter).await.expect("answered") {
            assert_eq!(how, Cancelled::Done);
            cancelled.push(id);
        }
    }
    let found = wait_for_jobs(pool, &ids, "they are not claimed", |job| {
        job.finished_at.is_some()
    })
    .await;
    worker.stop().await;
    assert!(!cancelled.is_empty(), "they did meet");
    for job in found {
        let arrived = provider.orders_of(&job.body).len();
        let expected = if cancelled.contains(&job.id) {
            ("cancelled", 0)
        } else {
            ("sent", 1)
        };
        assert_eq!((job.status.as_str(), arrived), expected);
    }
}
