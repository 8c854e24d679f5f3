//! `/readyz` says whether a worker can do what it is for, and why not; `/livez` whether it turns.

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::metrics::{ANYWHERE, address, get};
use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Hold, SEND, healthy};
use crate::support::worker::{DEADLINE, Process, execute, insert, wait_for_status};

/// Waits until `/readyz` answers with this status; returns its words. `/livez` is well all the time.
async fn wait_for(address: &str, expected: u16) -> String {
    let began = Instant::now();
    loop {
        let (status, _, said) = get(address, "/readyz").await;
        let (alive, _, why) = get(address, "/livez").await;
        assert_eq!(alive, 200, "{why}");
        if status == expected {
            assert_eq!(get(address, "/healthz").await.0, status, "its other name");
            return said;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "it never was {expected}: {said}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn started() -> (TestDatabase, FakeProvider, Process, String) {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let worker = Process::worker(&database.url(), &provider.url(), &ANYWHERE);
    let address = address(&worker).await;
    wait_for(&address, 200).await;
    (database, provider, worker, address)
}

/// Refuses every change of a job to this status.
async fn refuse(pool: &PgPool, status: &str, code: &str) {
    execute(
        pool,
        format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON sms_outbox.jobs
                 FOR EACH ROW WHEN (new.status = '{status}') EXECUTE FUNCTION refuse()"
        ),
    )
    .await;
}

#[tokio::test]
async fn a_worker_whose_claims_or_records_are_refused_is_not_ready_whatever_else_succeeds() {
    for (status, words) in [
        ("sending", "claims of account default have failed"),
        ("sent", "records have failed"),
    ] {
        let (database, _provider, worker, address) = started().await;
        // A full disk.
        refuse(database.pool(), status, "53100").await;
        let id = insert(database.pool(), &[]).await;
        let said = wait_for(&address, 503).await;
        assert!(said.contains(words) && said.contains("not now"), "{said}");
        execute(database.pool(), "DROP TRIGGER refuse ON sms_outbox.jobs").await;
        wait_for_status(database.pool(), id, "sent").await;
        wait_for(&address, 200).await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_privilege_that_is_missing_is_told_at_once() {
    let (database, _provider, worker, address) = started().await;
    refuse(database.pool(), "sending", "42501").await;
    insert(database.pool(), &[]).await;
    let said = wait_for(&address, 503).await;
    assert!(said.contains("A privilege is missing"), "{said}");
    worker.stop().await;
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_and_whose_record_waits_is_told() {
    let database = TestDatabase::create().await;
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |request| match request.path.as_str() {
        SEND => healthy(request).held(&held),
        _ => healthy(request),
    });
    let worker = Process::worker(&database.url(), &provider.url(), &ANYWHERE);
    let address = address(&worker).await;
    wait_for(&address, 200).await;
    let id = insert(database.pool(), &[]).await;
    wait_for_status(database.pool(), id, "sending").await;
    let mut application = database.pool().begin().await.expect("a transaction");
    sqlx::query("SELECT FROM sms_outbox.jobs WHERE id = $1 FOR UPDATE")
        .bind(id)
        .execute(&mut *application)
        .await
        .expect("the row");
    hold.release();
    let said = wait_for(&address, 503).await;
    assert!(said.contains("records have"), "{said}");
    application.rollback().await.expect("the end of it");
    wait_for_status(database.pool(), id, "sent").await;
    wait_for(&address, 200).await;
    worker.stop().await;
}

#[tokio::test]
async fn another_database_is_not_ready_and_a_pause_is() {
    let (database, _provider, worker, address) = started().await;
    execute(
        database.pool(),
        "INSERT INTO sms_outbox.pauses (account, scope, sender, reason, paused_by) VALUES ('default', 'account', '', 'by hand', 'me')",
    )
    .await;
    insert(database.pool(), &[]).await;
    wait_for(&address, 200).await;
    execute(
        database.pool(),
        "UPDATE sms_outbox.database_identity SET provider_url = 'https://elsewhere'",
    )
    .await;
    let said = wait_for(&address, 503).await;
    assert!(
        said.contains("the queue is for the provider at https://elsewhere"),
        "{said}"
    );
    worker.stop().await;
}
