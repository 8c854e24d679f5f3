//! An account's failure is not a job's failure: its jobs wait, spend no attempt, and go on by themselves.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use sms_outbox::lifecycle::{ErrorClass, Failure, PauseScope};
use sms_outbox::outbox::{Outbox, PauseOrder, Probing};

use crate::support::postgres::TestDatabase;
use crate::support::provider::{BALANCE, FakeProvider, Reply, Request, SEND, SENDERS, healthy};
use crate::support::worker::{
    KEY, Process, Worker, count, execute, insert, insert_many, jobs, wait_for_count,
    wait_for_status, wait_for_statuses,
};

const HOLDING: &str = "SELECT count(*) FROM sms_outbox.pauses WHERE ended_at IS NULL";

/// How often the approved senders, or the balance, were asked for.
fn probes(requests: &[Request], path: &str) -> usize {
    requests
        .iter()
        .filter(|request| request.path == path)
        .count()
}

#[tokio::test]
async fn an_account_whose_api_is_switched_off_costs_few_requests_and_no_attempt() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let switched_off = |_: &Request| Reply::code(401, 401);
    let provider = FakeProvider::scripted(switched_off);
    let ids = insert_many(pool, 200, &[]).await;
    let worker = Process::worker(&database.worker_url(), &provider.url(), &[]);
    provider
        .wait("the account was probed twice", |all| {
            probes(all, BALANCE) >= 2
        })
        .await;
    let waiting = wait_for_statuses(pool, &ids, "queued").await;
    assert!(waiting.iter().all(|job| job.attempt == 0));
    // A worker that knows nothing about an account starts with eight requests at once.
    let in_vain = provider.orders().len();
    assert!((1..=8).contains(&in_vain), "{in_vain}");
    assert_eq!(count(pool, HOLDING).await, 1);
    assert_eq!(
        count(pool, "SELECT count(*) FROM sms_outbox.pauses").await,
        1
    );
    let (paused, why): (bool, String) = sqlx::query_as(
        "SELECT paused, paused_why FROM sms_outbox.queue_stats WHERE account = 'default' AND status = 'queued'",
    )
    .fetch_one(pool)
    .await
    .expect("the queue at a glance");
    assert!(paused && why.contains("API access"), "{why}");

    provider.now_says(healthy);
    for job in wait_for_statuses(pool, &ids, "sent").await {
        assert_eq!(job.attempt, 1);
    }
    assert_eq!(provider.orders().len(), in_vain + 200);
    assert_eq!(count(pool, HOLDING).await, 0);
    let lines = worker.stop().await;
    let said = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(said(" paused; no attempt is spent"), 1, "{lines:#?}");
    assert_eq!(said(" resumed: "), 1, "{lines:#?}");
}

#[tokio::test]
async fn after_a_pause_one_message_is_sent_first() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // The balance is fine, and orders are refused all the same.
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND => Reply::code(402, 402),
        _ => healthy(request),
    });
    insert_many(pool, 100, &[]).await;
    let worker = Worker::start(&database, &provider, &[]);
    provider
        .wait("three probes", |all| probes(all, BALANCE) >= 3)
        .await;
    worker.stop().await;
    let requests = provider.requests();
    let first = requests
        .iter()
        .position(|r| r.path == BALANCE)
        .expect("probes");
    let after = &requests[first..];
    let (asked, sent) = (probes(after, BALANCE), probes(after, SEND));
    assert!(sent <= asked, "{sent} orders after {asked} probes");
    assert_eq!(
        count(
            pool,
            "SELECT count(*) FROM sms_outbox.jobs WHERE attempt > 0"
        )
        .await,
        0
    );
}

#[tokio::test]
async fn only_the_sender_that_is_not_approved_waits_until_it_is() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let approved = Arc::new(Mutex::new(HashSet::from(["BRAND".to_owned()])));
    let list = Arc::clone(&approved);
    let provider = FakeProvider::scripted(move |request| {
        let list = list.lock().unwrap_or_else(PoisonError::into_inner);
        match request.path.as_str() {
            SEND if !list.contains(request.sender()) => Reply::code(400, 450),
            SENDERS => Reply::json(
                200,
                &json!({"response": {"status": {"code": 200}, "senders": {"sender": list.iter().collect::<Vec<_>>()}}}),
            ),
            _ => healthy(request),
        }
    });
    let new = insert_many(pool, 30, &[("sender", "'NEW'")]).await;
    let worker = Worker::start(&database, &provider, &[]);
    provider
        .wait("the senders were asked for twice", |all| {
            probes(all, SENDERS) >= 2
        })
        .await;
    let others = insert_many(pool, 50, &[]).await;
    wait_for_statuses(pool, &others, "sent").await;
    assert!(
        jobs(pool, &new)
            .await
            .iter()
            .all(|job| job.status == "queued" && job.attempt == 0)
    );
    let paused: Vec<(String, String)> =
        sqlx::query_as("SELECT scope, sender FROM sms_outbox.pauses")
            .fetch_all(pool)
            .await
            .expect("the pauses");
    assert_eq!(paused, [("sender".to_owned(), "NEW".to_owned())]);
    let whole: bool = sqlx::query_scalar("SELECT bool_or(paused) FROM sms_outbox.queue_stats")
        .fetch_one(pool)
        .await
        .expect("the queue at a glance");
    assert!(!whole, "the account goes on");
    let in_vain = provider
        .orders()
        .iter()
        .filter(|r| r.sender() == "NEW")
        .count();
    assert!((1..=8).contains(&in_vain), "{in_vain}");

    approved
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert("NEW".to_owned());
    for job in wait_for_statuses(pool, &new, "sent").await {
        assert_eq!(job.attempt, 1);
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_missing_brand_code_holds_back_marketing_only() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let without = |request: &Request| match (request.path.as_str(), request.order()["iys"].as_str())
    {
        (SEND, Some("1")) => Reply::code(200, 470),
        (BALANCE, _) => Reply::code(401, 401),
        _ => healthy(request),
    };
    let provider = FakeProvider::scripted(without);
    let marketing = insert_many(pool, 20, &[("iys", "true"), ("iys_list", "'BIREYSEL'")]).await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_count(pool, HOLDING, |n| n == 1).await;
    let plain = insert_many(pool, 20, &[]).await;
    wait_for_statuses(pool, &plain, "sent").await;
    assert!(
        jobs(pool, &marketing)
            .await
            .iter()
            .all(|job| job.status != "sent")
    );
    provider.now_says(healthy);
    for job in wait_for_statuses(pool, &marketing, "sent").await {
        assert_eq!(job.attempt, 1);
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_brand_code_that_is_missed_for_a_transactional_message_pauses_the_account() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND => Reply::code(200, 470),
        _ => Reply::code(401, 401),
    });
    let id = insert(pool, &[]).await;
    let worker = Worker::start(&database, &provider, &[]);
    provider
        .wait("it was probed twice", |all| probes(all, BALANCE) >= 2)
        .await;
    worker.stop().await;
    // Holding back marketing would hold back nothing, and the job would be claimed again at once, for ever.
    assert_eq!(provider.orders().len(), 1);
    assert_eq!(
        count(
            pool,
            "SELECT count(*) FROM sms_outbox.pauses WHERE scope = 'account'"
        )
        .await,
        1
    );
    let job = wait_for_status(pool, id, "queued").await;
    assert_eq!((job.attempt, job.error_code), (0, Some(470)));
}

#[tokio::test]
async fn one_accounts_failure_does_not_hold_up_another() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.key() {
        KEY => Reply::code(401, 401),
        _ => healthy(request),
    });
    insert_many(pool, 50, &[]).await;
    let other = insert_many(pool, 50, &[("account", "'other'")]).await;
    let worker = Worker::start(&database, &provider, &["--accounts", "default,other"]);
    wait_for_statuses(pool, &other, "sent").await;
    wait_for_count(pool, HOLDING, |n| n == 1).await;
    worker.stop().await;
}

fn failure() -> Failure {
    Failure::with_code(ErrorClass::Auth, 401, "switched off")
}

const PROBING: Probing = Probing {
    first: Duration::ZERO,
    longest: Duration::from_secs(60),
};

/// The pause that a worker asks for after a failure.
fn by_worker(failure: &Failure) -> PauseOrder<'_> {
    PauseOrder {
        account: "default",
        scope: PauseScope::Account,
        sender: "",
        failure: Some(failure),
        reason: "switched off",
        by: "worker",
        lasts: None,
        longest: None,
        probing: Some(PROBING),
    }
}

/// What a person orders.
fn by_hand(lasts: Option<Duration>) -> PauseOrder<'static> {
    PauseOrder {
        account: "default",
        scope: PauseScope::Account,
        sender: "",
        failure: None,
        reason: "maintenance",
        by: "ayse",
        lasts,
        longest: None,
        probing: None,
    }
}

async fn holds(database: &TestDatabase, by: &str) -> bool {
    let sql = format!(
        "{HOLDING} AND paused_by = '{by}' AND (until IS NULL OR until > now() + interval '30 min')"
    );
    count(database.pool(), sql).await == 1
}

#[tokio::test]
async fn an_operators_pause_is_not_ended_by_a_healthy_provider() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.key() {
        KEY => healthy(request),
        _ => Reply::code(401, 401),
    });
    let outbox = Outbox::new(pool.clone());
    outbox.pause(&by_hand(None)).await.expect("paused");
    let id = insert(pool, &[]).await;
    // The probes of another account show that workers have looked after pauses a few times.
    insert(pool, &[("account", "'other'")]).await;
    let worker = Worker::start(
        &database,
        &provider,
        &["--accounts", "default,other", "--backoff-cap", "10ms"],
    );
    provider
        .wait("three probes", |all| probes(all, BALANCE) >= 3)
        .await;
    worker.stop().await;
    assert_eq!(wait_for_status(pool, id, "queued").await.attempt, 0);
    assert!(holds(&database, "ayse").await);
    assert!(
        provider
            .requests()
            .iter()
            .all(|request| request.key() != KEY),
        "nobody asked for it"
    );
}

#[tokio::test]
async fn an_operators_pause_replaces_the_pause_that_a_failure_began() {
    for lasts in [None, Some(Duration::from_secs(3600))] {
        let database = TestDatabase::create().await;
        let outbox = Outbox::new(database.pool().clone());
        let failure = failure();
        assert_eq!(
            outbox.pause(&by_worker(&failure)).await.expect("paused"),
            Some(1)
        );
        // A probe is under way while the operator decides.
        let probe = outbox
            .due_probe(&["default".to_owned()], PROBING)
            .await
            .expect("probes");
        assert!(probe.is_some());
        assert!(
            outbox
                .pause(&by_hand(lasts))
                .await
                .expect("paused")
                .is_some()
        );
        assert!(holds(&database, "ayse").await);
        let probe = outbox
            .due_probe(&["default".to_owned()], PROBING)
            .await
            .expect("probes");
        assert_eq!(probe, None, "a person's pause is not probed");
        // The probe comes back: the account is healthy.
        let ended = outbox
            .end_probed_pause("default", PauseScope::Account, "", "worker")
            .await;
        assert_eq!(ended.expect("answered"), None);
        assert!(holds(&database, "ayse").await);
        let ended = outbox
            .resume(Some("default"), Some(PauseScope::Account), None, "ayse")
            .await;
        assert_eq!(ended.expect("answered").len(), 1);
    }
}

#[tokio::test]
async fn a_failure_while_an_operators_pause_holds_does_not_change_it() {
    for lasts in [None, Some(Duration::from_secs(3600))] {
        let database = TestDatabase::create().await;
        let outbox = Outbox::new(database.pool().clone());
        outbox.pause(&by_hand(lasts)).await.expect("paused");
        let failure = failure();
        assert_eq!(
            outbox.pause(&by_worker(&failure)).await.expect("answered"),
            None
        );
        assert!(holds(&database, "ayse").await);
    }
}

#[tokio::test]
async fn a_pause_that_comes_back_is_probed_less_often() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let failure = failure();
    let probing = Probing {
        first: Duration::from_secs(5),
        longest: Duration::from_secs(60),
    };
    let order = PauseOrder {
        probing: Some(probing),
        ..by_worker(&failure)
    };
    let mut waits = Vec::new();
    for times in 1..=6 {
        assert_eq!(outbox.pause(&order).await.expect("paused"), Some(times));
        assert_eq!(
            outbox.pause(&order).await.expect("paused"),
            None,
            "it holds already"
        );
        let wait =
            "SELECT round(extract(epoch FROM probe_at - since))::bigint FROM sms_outbox.pauses";
        waits.push(count(database.pool(), wait).await);
        outbox
            .end_probed_pause("default", PauseScope::Account, "", "w")
            .await
            .expect("ended");
    }
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    execute(
        database.pool(),
        "UPDATE sms_outbox.pauses SET ended_at = now() - interval '11 min'",
    )
    .await;
    assert_eq!(
        outbox.pause(&order).await.expect("paused"),
        Some(1),
        "that was long ago"
    );
}

#[tokio::test]
async fn of_many_workers_that_meet_the_same_failure_one_reports_it_and_one_probes() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let met = (0..10).map(|_| {
        let outbox = outbox.clone();
        tokio::spawn(async move { outbox.pause(&by_worker(&failure())).await.expect("paused") })
    });
    let mut reports = 0;
    for met in met.collect::<Vec<_>>() {
        reports += usize::from(met.await.expect("no panic").is_some());
    }
    assert_eq!(reports, 1);
    let probing = Probing {
        first: Duration::from_secs(60),
        ..PROBING
    };
    let asked = (0..10).map(|_| {
        let outbox = outbox.clone();
        tokio::spawn(async move {
            outbox
                .due_probe(&["default".to_owned()], probing)
                .await
                .expect("probes")
        })
    });
    let mut probes = 0;
    for asked in asked.collect::<Vec<_>>() {
        probes += usize::from(asked.await.expect("no panic").is_some());
    }
    assert_eq!(probes, 1);
}
