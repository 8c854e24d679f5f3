//! What a pause holds back does not stand in the way of what it does not.

use std::time::Duration;

use sms_outbox::lifecycle::{ErrorClass, Failure, PauseScope};
use sms_outbox::outbox::{Outbox, PauseOrder};

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, healthy};
use crate::support::worker::{Worker, count, insert_many, wait_for_count, wait_for_statuses};

const HELD: &str = "SELECT count(*) FROM sms_outbox.jobs WHERE held IS NOT NULL";

fn by_hand<'a>(scope: PauseScope, sender: &'a str) -> PauseOrder<'a> {
    PauseOrder {
        account: "default",
        scope,
        sender,
        failure: None,
        reason: "a test",
        by: "a person",
        lasts: None,
        longest: None,
        probing: None,
    }
}

#[tokio::test]
async fn a_paused_senders_backlog_is_held_and_released() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let outbox = Outbox::new(pool.clone());
    let provider = FakeProvider::scripted(healthy);
    outbox
        .pause(&by_hand(PauseScope::Sender, "HELD"))
        .await
        .expect("the pause");
    let held = insert_many(pool, 300, &[("sender", "'HELD'")]).await;
    let others = insert_many(pool, 20, &[]).await;
    let worker = Worker::start(&database, &provider, &["--rate-per-second", "0"]);
    wait_for_count(pool, HELD, |held| held == 300).await;
    wait_for_statuses(pool, &others, "sent").await;
    assert!(
        provider
            .orders()
            .iter()
            .all(|order| order.sender() != "HELD")
    );

    outbox
        .resume(
            Some("default"),
            Some(PauseScope::Sender),
            Some("HELD"),
            "a person",
        )
        .await
        .expect("the end of the pause");
    wait_for_statuses(pool, &held, "sent").await;
    worker.stop().await;
    assert_eq!(count(pool, HELD).await, 0);
    assert_eq!(provider.orders().len(), 320);
}

#[tokio::test]
async fn paused_marketing_is_held_and_transactional_messages_are_not() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let outbox = Outbox::new(pool.clone());
    let provider = FakeProvider::scripted(healthy);
    outbox
        .pause(&by_hand(PauseScope::Iys, ""))
        .await
        .expect("the pause");
    let marketing = [("iys", "true"), ("iys_list", "'BIREYSEL'")];
    let held = insert_many(pool, 30, &marketing).await;
    let others = insert_many(pool, 30, &[]).await;
    let worker = Worker::start(&database, &provider, &["--rate-per-second", "0"]);
    wait_for_statuses(pool, &others, "sent").await;
    wait_for_count(pool, HELD, |held| held == 30).await;
    outbox
        .resume(Some("default"), Some(PauseScope::Iys), None, "a person")
        .await
        .expect("the end of the pause");
    wait_for_statuses(pool, &held, "sent").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_failure_begins_a_pause_where_a_persons_has_just_run_out() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let for_no_time = PauseOrder {
        lasts: Some(Duration::ZERO),
        longest: None,
        ..by_hand(PauseScope::Account, "")
    };
    outbox.pause(&for_no_time).await.expect("the pause");
    let failure = Failure::with_code(ErrorClass::Auth, 401, "a test");
    let by_failure = PauseOrder {
        failure: Some(&failure),
        ..by_hand(PauseScope::Account, "")
    };
    // Nobody has marked the first one as ended yet.
    let begun = outbox.pause(&by_failure).await.expect("the pause");
    assert!(
        begun.is_some(),
        "the account must not be asked again at once"
    );
}
