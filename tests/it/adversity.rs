//! What attacks on the design have found, each as a fact that holds now.

use std::time::Duration;

use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Hold, Reply, SEND, healthy};
use crate::support::worker::{
    Process, Worker, execute, insert, insert_many, jobs, wait_for_count, wait_for_job,
    wait_for_status, wait_for_statuses,
};

#[tokio::test]
async fn a_list_that_is_counted_from_zero_is_sent_like_any_other() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(healthy);
    let odd = insert(pool, &[("recipients", "'[0:1]={0532 111 22 33, nobody}'")]).await;
    let others = insert_many(pool, 5, &[]).await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(pool, odd, "sent").await;
    wait_for_statuses(pool, &others, "sent").await;
    worker.stop().await;
    assert_eq!(provider.orders().len(), 6);
}

#[tokio::test]
async fn answers_outlast_a_database_that_cannot_write_for_a_while() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(healthy);
    execute(
        pool,
        "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full';
         END $$;
         CREATE TRIGGER disk_full BEFORE UPDATE ON sms_outbox.jobs
             FOR EACH ROW WHEN (new.status = 'sent') EXECUTE FUNCTION disk_full();",
    )
    .await;
    let ids = insert_many(pool, 12, &[]).await;
    let worker = Worker::start(&database, &provider, &["--lease", "1m"]);
    provider.wait_for_orders(12).await;
    assert!(
        jobs(pool, &ids)
            .await
            .iter()
            .all(|job| job.status == "sending")
    );
    execute(pool, "DROP TRIGGER disk_full ON sms_outbox.jobs").await;
    for job in wait_for_statuses(pool, &ids, "sent").await {
        assert!(job.order_id.is_some() && !job.duplicate, "{job:?}");
    }
    worker.stop().await;
    assert_eq!(provider.orders().len(), 12, "nothing was asked for twice");
}

#[tokio::test]
async fn a_pause_that_cannot_be_begun_for_a_while_holds_up_no_other_outcome() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let held = hold.clone();
    let mut refusals = 0;
    let provider = FakeProvider::scripted(move |request| match request.text() {
        "accepted" => healthy(request).held(&held),
        "refused" if refusals == 0 => {
            refusals += 1;
            Reply::code(401, 401)
        }
        _ => healthy(request),
    });
    execute(
        pool,
        "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full';
         END $$;
         CREATE TRIGGER disk_full BEFORE INSERT ON sms_outbox.pauses
             FOR EACH ROW EXECUTE FUNCTION disk_full();",
    )
    .await;
    let accepted = insert(pool, &[("body", "'accepted'")]).await;
    let worker = Process::worker(&database.worker_url(), &provider.url(), &[]);
    provider.wait_for_orders(1).await;
    let refused = insert(pool, &[("body", "'refused'")]).await;
    worker.wait_for_line("while pausing").await;
    hold.release();
    let job = wait_for_status(pool, accepted, "sent").await;
    assert!(job.attempt == 1 && job.order_id.is_some(), "{job:?}");
    assert_eq!(
        jobs(pool, &[refused]).await[0].status,
        "sending",
        "it would be claimed again at once"
    );
    execute(pool, "DROP TRIGGER disk_full ON sms_outbox.pauses").await;
    let job = wait_for_status(pool, refused, "sent").await;
    assert_eq!(job.attempt, 1, "the pause cost no attempt");
    let lines = worker.stop().await;
    assert!(
        lines.iter().any(|line| line.contains(" paused; ")),
        "{lines:#?}"
    );
    assert_eq!(provider.orders().len(), 3);
}

#[tokio::test]
async fn one_message_that_a_firewall_objects_to_does_not_hold_its_account() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| {
        if request.path == SEND && request.text() == "objectionable" {
            Reply::text(403, "<html>no</html>")
        } else {
            healthy(request)
        }
    });
    let flags = ["--backoff-base", "100ms", "--backoff-cap", "1s"];
    let refused = insert(pool, &[("body", "'objectionable'")]).await;
    let worker = Worker::start(&database, &provider, &flags);
    wait_for_count(pool, "SELECT count(*) FROM sms_outbox.pauses", |n| n == 1).await;
    let others = insert_many(pool, 30, &[]).await;
    wait_for_statuses(pool, &others, "sent").await;
    // It may be on its way once more at this very moment.
    wait_for_job(pool, refused, "it is released, with its attempt", |job| {
        (job.status.as_str(), job.attempt) == ("queued", 0)
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_message_of_many_numbers_gets_its_gap_beside_a_trickle_of_urgent_ones() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(healthy);
    let many = "array(SELECT (905330000000 + n)::text FROM generate_series(1, 20) AS n)";
    let heavy = insert(pool, &[("recipients", many)]).await;
    let behind = insert_many(pool, 5, &[]).await;
    let urgent = tokio::spawn({
        let pool = pool.clone();
        async move {
            loop {
                insert_many(
                    &pool,
                    1,
                    &[("priority", "0"), ("body", "'code ' || gen_random_uuid()")],
                )
                .await;
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        }
    });
    let worker = Worker::start(&database, &provider, &["--rate-per-second", "20"]);
    wait_for_status(pool, heavy, "sent").await;
    wait_for_statuses(pool, &behind, "sent").await;
    urgent.abort();
    worker.stop().await;
}

#[tokio::test]
async fn what_is_committed_late_is_sent_though_thousands_were_claimed_past_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(healthy);
    let worker = Worker::start(&database, &provider, &["--rate-per-second", "0"]);
    let late = Uuid::from_u128(7);
    // A long transaction: its messages are due from its beginning.
    let mut long = pool.begin().await.expect("a transaction");
    sqlx::query(
        "INSERT INTO sms_outbox.jobs (id, sender, recipients, body, iys, priority)
         SELECT $1, 'BRAND', '{905320000000}', 'committed late', false, 1",
    )
    .bind(late)
    .execute(&mut *long)
    .await
    .expect("inserted");
    for priority in ["0", "1", "3"] {
        let past = insert_many(pool, 1_000, &[("priority", priority)]).await;
        wait_for_statuses(pool, &past, "sent").await;
    }
    long.commit().await.expect("committed");
    wait_for_status(pool, late, "sent").await;
    // Put back, far behind all that was claimed since.
    execute(
        pool,
        "UPDATE sms_outbox.jobs SET status = 'queued', due_at = now() - interval '1 year', order_id = NULL, sent_at = NULL,
                                    finished_at = NULL, body = 'once more' WHERE body = 'committed late'",
    )
    .await;
    wait_for_status(pool, late, "sent").await;
    worker.stop().await;
    assert_eq!(provider.orders().len(), 3_002);
}

/// A role that may write the worker's columns can write a row that no rule of producers sees.
#[tokio::test]
async fn a_row_that_no_rule_has_seen_holds_up_no_other() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(healthy);
    let forged = insert_many(
        pool,
        3,
        &[
            ("token", "1"),
            ("sender", "NULL"),
            ("recipients", "ARRAY[ARRAY['905320000000']]"),
            ("body", "NULL"),
            ("iys", "NULL"),
            ("max_attempts", "NULL"),
            ("priority", "0"),
        ],
    )
    .await;
    let others = insert_many(pool, 3, &[]).await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_statuses(pool, &others, "sent").await;
    let failed = "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'failed' AND error_class = 'recipients'";
    wait_for_count(pool, failed, |rows| rows == 3).await;
    worker.stop().await;
    assert_eq!((forged.len(), provider.orders().len()), (3, 3));
}
