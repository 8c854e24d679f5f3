//! No row stops others: one that somebody has locked, that the database refuses to change, or that a pause held once.

use std::collections::BTreeSet;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Hold, SEND, healthy};
use crate::support::worker::{
    Worker, count, execute, insert, insert_many, job, wait_for_count, wait_for_status,
    wait_for_statuses,
};

#[tokio::test]
async fn a_row_that_the_application_has_locked_holds_up_no_other_outcome() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |request| match request.path.as_str() {
        SEND => healthy(request).held(&held),
        _ => healthy(request),
    });
    let locked = insert(pool, &[("body", "'locked'")]).await;
    let others = insert_many(pool, 20, &[]).await;
    let worker = Worker::start(&database, &provider, &["--concurrency", "30"]);
    wait_for_statuses(pool, &[&others[..], &[locked]].concat(), "sending").await;
    let mut application = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM sms_outbox.jobs WHERE id = $1 FOR UPDATE")
        .bind(locked)
        .execute(&mut *application)
        .await
        .expect("locked");
    hold.release();
    wait_for_statuses(pool, &others, "sent").await;
    // And those that come later.
    let later = insert_many(pool, 20, &[]).await;
    wait_for_statuses(pool, &later, "sent").await;
    assert_eq!(job(pool, locked).await.status, "sending");
    application.rollback().await.expect("unlocked");
    wait_for_status(pool, locked, "sent").await;
    worker.stop().await;
    assert_eq!(provider.orders_of("locked").len(), 1);
}

#[tokio::test]
async fn a_row_that_the_database_refuses_to_change_is_named_and_stepped_over() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    execute(
        pool,
        "ALTER TABLE sms_outbox.jobs ADD CONSTRAINT the_applications_own CHECK (body <> 'poisoned' OR status = 'queued')",
    )
    .await;
    let poisoned = insert(pool, &[("body", "'poisoned'"), ("priority", "0")]).await;
    let others = insert_many(pool, 30, &[]).await;
    let provider = FakeProvider::start();
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_statuses(pool, &others, "sent").await;
    let named = format!(
        "SELECT count(*) FROM sms_outbox.refused_jobs WHERE job_id = '{poisoned}' AND rule = 'the_applications_own'"
    );
    assert_eq!(count(pool, &named).await, 1);
    assert_eq!(job(pool, poisoned).await.status, "queued");
    // The cause is removed, and the next try comes.
    execute(
        pool,
        "ALTER TABLE sms_outbox.jobs DROP CONSTRAINT the_applications_own;
         UPDATE sms_outbox.refused_jobs SET retry_at = now()",
    )
    .await;
    wait_for_status(pool, poisoned, "sent").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_trigger_that_fails_for_one_row_stops_no_other() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    execute(
        pool,
        "CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.body = 'poisoned' THEN PERFORM 1 / 0; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER audit BEFORE UPDATE ON sms_outbox.jobs FOR EACH ROW EXECUTE FUNCTION public.audit()",
    )
    .await;
    insert(pool, &[("body", "'poisoned'")]).await;
    let others = insert_many(pool, 30, &[]).await;
    let provider = FakeProvider::start();
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_statuses(pool, &others, "sent").await;
    worker.stop().await;
    let named = "SELECT count(*) FROM sms_outbox.refused_jobs WHERE sqlstate = '22012'";
    assert_eq!(count(pool, named).await, 1);
}

#[tokio::test]
async fn what_no_live_pause_holds_is_released_whatever_became_of_the_pause() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let pause = "INSERT INTO sms_outbox.pauses (account, scope, sender, reason, paused_by)
                 VALUES ('default', 'sender', 'HELD', 'x', 'x')";
    execute(pool, pause).await;
    let ids = insert_many(pool, 50, &[("sender", "'HELD'")]).await;
    let provider = FakeProvider::start();
    let worker = Worker::start(&database, &provider, &[]);
    let held = "SELECT count(*) FROM sms_outbox.jobs WHERE held IS NOT NULL";
    wait_for_count(pool, held, |held| held == 50).await;
    // One of them is locked while the pause goes away without an end.
    let mut application = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM sms_outbox.jobs WHERE id = $1 FOR UPDATE")
        .bind(ids[49])
        .execute(&mut *application)
        .await
        .expect("locked");
    execute(pool, "DELETE FROM sms_outbox.pauses").await;
    wait_for_statuses(pool, &ids[..49], "sent").await;
    application.rollback().await.expect("unlocked");
    wait_for_status(pool, ids[49], "sent").await;
    worker.stop().await;
}

#[tokio::test]
async fn an_uncertain_job_of_a_sender_that_was_paused_is_sent_again_when_a_person_says_so() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // As it was left by a pause that ended while it was uncertain.
    let id = insert(
        pool,
        &[
            ("status", "'uncertain'"),
            ("held", "'sender'"),
            ("ambiguous_since", "now() - interval '1 hour'"),
        ],
    )
    .await;
    let outbox = sms_outbox::outbox::Outbox::new(pool.clone());
    let provider = FakeProvider::start();
    let worker = Worker::start(&database, &provider, &["--reconcile", "false"]);
    execute(
        pool,
        format!(
            "UPDATE sms_outbox.jobs SET status = 'queued', ambiguous_since = NULL, due_at = now() WHERE id = '{id}'"
        ),
    )
    .await;
    wait_for_status(pool, id, "sent").await;
    assert!(outbox.unexplained(10).await.expect("an answer").is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_locked_bulk_order_lets_others_pass() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let many = "ARRAY(SELECT '90532' || lpad(n::text, 7, '0') FROM generate_series(1, 150) AS n)";
    let locked = insert(pool, &[("recipients", many), ("body", "'locked'")]).await;
    let mut application = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM sms_outbox.jobs WHERE id = $1 FOR UPDATE")
        .bind(locked)
        .execute(&mut *application)
        .await
        .expect("locked");
    let other = insert(pool, &[("recipients", many), ("body", "'other'")]).await;
    let provider = FakeProvider::start();
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(pool, other, "sent").await;
    application.rollback().await.expect("unlocked");
    wait_for_status(pool, locked, "sent").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_flood_of_one_producer_lets_the_next_message_of_another_pass() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let flood = insert_many(pool, 400, &[("priority", "0"), ("producer", "'flood'")]).await;
    let other = insert(
        pool,
        &[
            ("priority", "0"),
            ("producer", "'other'"),
            ("body", "'other'"),
        ],
    )
    .await;
    let low = insert(
        pool,
        &[
            ("priority", "3"),
            ("producer", "'flood'"),
            ("body", "'low'"),
        ],
    )
    .await;
    let provider = FakeProvider::start();
    let flags = ["--rate-per-second", "50"];
    let worker = Worker::start(&database, &provider, &flags);
    wait_for_statuses(pool, &[other, low], "sent").await;
    worker.stop().await;
    let texts: Vec<String> = provider
        .orders()
        .iter()
        .map(|order| order.text().to_owned())
        .collect();
    let place = |text: &str| texts.iter().position(|found| found == text).expect("sent");
    assert!(place("other") < 60, "{}", place("other"));
    // One of twenty, for each producer and priority that waits.
    assert!(place("low") < 120, "{}", place("low"));
    assert!(texts.len() < flood.len());
}

#[tokio::test]
async fn the_smallest_limit_that_a_live_worker_brings_holds_for_all() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let small = Worker::start(&database, &provider, &["--rate-per-second", "20"]);
    let limit = "SELECT coalesce(max(rate_per_second), 0)::bigint FROM sms_outbox.accounts";
    wait_for_count(pool, limit, |limit| limit == 20).await;
    let none = Worker::start(&database, &provider, &["--rate-per-second", "0"]);
    let large = Worker::start(&database, &provider, &["--rate-per-second", "100"]);
    let workers = "SELECT count(*) FROM sms_outbox.workers";
    wait_for_count(pool, workers, |workers| workers == 3).await;
    assert_eq!(count(pool, limit).await, 20);
    let ids = insert_many(pool, 30, &[]).await;
    wait_for_statuses(pool, &ids, "sent").await;
    let most = crate::limits::most_in_a_second(&provider.orders());
    assert!(most <= 20, "{most} in one second");
    for worker in [small, none, large] {
        worker.stop().await;
    }
}

#[tokio::test]
async fn an_urgent_order_above_the_limit_is_paid_for_before_anything_else_leaves() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ten = "ARRAY(SELECT '90532000000' || n FROM generate_series(0, 9) AS n)";
    let ids = insert_many(
        pool,
        3,
        &[
            ("priority", "0"),
            ("recipients", ten),
            ("body", "'text ' || n"),
        ],
    )
    .await;
    let provider = FakeProvider::start();
    let worker = Worker::start(&database, &provider, &["--rate-per-second", "10"]);
    wait_for_statuses(pool, &ids, "sent").await;
    worker.stop().await;
    let mut arrived: Vec<_> = provider
        .orders()
        .iter()
        .map(|order| order.arrived)
        .collect();
    arrived.sort_unstable();
    for pair in arrived.windows(2) {
        assert!(pair[1] - pair[0] >= std::time::Duration::from_millis(950));
    }
}

#[tokio::test]
async fn many_messages_of_equal_content_hold_up_no_other() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |request| {
        if request.path == SEND && request.text() == "equal" {
            healthy(request).held(&held)
        } else {
            healthy(request)
        }
    });
    let equal = [("body", "'equal'"), ("recipients", "ARRAY['905320000001']")];
    let twins = insert_many(pool, 200, &equal).await;
    let others = insert_many(pool, 20, &[("body", "'other ' || n")]).await;
    let worker = Worker::start(&database, &provider, &["--concurrency", "4"]);
    // One of the equal ones is under way, and has not been answered.
    wait_for_statuses(pool, &others, "sent").await;
    assert_eq!(provider.orders_of("equal").len(), 1);
    hold.release();
    worker.stop().await;
    let known: BTreeSet<_> = twins.iter().collect();
    assert_eq!(known.len(), 200);
}
