//! Several accounts in one outbox: each signs, is limited, pauses and is counted by itself.

use std::collections::BTreeSet;

use serde_json::Value;
use sms_outbox::sandbox::{Sandbox, SandboxConfig};

use crate::cli::Shell;
use crate::limits::most_in_a_second;
use crate::metrics::{ANYWHERE, address, value, wait_for_value};
use crate::support::postgres::TestDatabase;
use crate::support::provider::{BALANCE, FakeProvider, Reply, Request, SEND, healthy};
use crate::support::worker::{
    HASH, KEY, Process, Worker, count, insert, insert_many, job, wait_for_count, wait_for_statuses,
};

const SHOP: (&str, &str) = ("account", "'shop'");
const BOTH: [&str; 2] = ["--accounts", "default,shop"];

/// The orders that were signed with this key.
fn signed(provider: &FakeProvider, key: &str) -> Vec<Request> {
    let mut orders = provider.orders();
    orders.retain(|order| order.key() == key);
    orders
}

fn shops_key() -> String {
    format!("{KEY}_SHOP")
}

/// From the environment to the wire, whatever is asked: orders, and whether an account is healthy again.
#[tokio::test]
async fn everything_that_an_account_asks_is_signed_with_its_own_key_and_hash() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // Each account's first order meets an empty balance, so that its pause is probed.
    let mut refused = BTreeSet::new();
    let provider = FakeProvider::scripted(move |request| {
        if request.path == SEND && refused.insert(request.key().to_owned()) {
            Reply::code(402, 402)
        } else {
            healthy(request)
        }
    });
    let secrets = [
        ("ILETIMERKEZI_API_KEY", "key-d"),
        ("ILETIMERKEZI_API_HASH", "hash-d"),
        ("ILETIMERKEZI_API_KEY_MARKETING", "key-m"),
        ("ILETIMERKEZI_API_HASH_MARKETING", "hash-m"),
    ];
    let mut ids = insert_many(pool, 5, &[("body", "'default ' || n")]).await;
    let marketing = [("account", "'marketing'"), ("body", "'marketing ' || n")];
    ids.extend(insert_many(pool, 5, &marketing).await);
    let worker = Process::worker_with(
        &database.worker_url(),
        &provider.url(),
        &["--accounts", "default,marketing"],
        &secrets,
    );
    wait_for_statuses(pool, &ids, "sent").await;
    let said = worker.stop().await.join("\n");
    for (_, secret) in secrets {
        assert!(!said.contains(secret), "a secret was logged");
    }
    let requests = provider.requests();
    for request in &requests {
        let whose = match (request.key(), request.hash()) {
            ("key-d", "hash-d") => "default",
            ("key-m", "hash-m") => "marketing",
            other => panic!("signed with {other:?}"),
        };
        if request.path == SEND {
            assert!(request.text().starts_with(whose), "{:?}", request.text());
        }
    }
    let probed: BTreeSet<&str> = requests
        .iter()
        .filter(|request| request.path == BALANCE)
        .map(Request::key)
        .collect();
    assert_eq!(probed, BTreeSet::from(["key-d", "key-m"]));
}

#[tokio::test]
async fn a_worker_does_not_start_with_accounts_that_it_cannot_tell_apart_or_sign_for() {
    let shell = Shell::without_database()
        .with("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nowhere")
        .with("ILETIMERKEZI_API_KEY", "key-d")
        .with("ILETIMERKEZI_API_HASH", "hash-d")
        .with("ILETIMERKEZI_API_KEY_MY_BRAND", "key-b")
        .with("ILETIMERKEZI_API_HASH_MY_BRAND", "hash-b")
        .with("ILETIMERKEZI_API_KEY_SHOP", "key-s")
        .with("ILETIMERKEZI_API_HASH_SHOP", "");
    for (arguments, reason) in [
        (
            &["worker", "--accounts", "default,my-brand,my_brand"][..],
            "\"my-brand\" and \"my_brand\"",
        ),
        (
            &["worker", "--accounts", "default,shop"],
            "ILETIMERKEZI_API_HASH_SHOP is not set",
        ),
        (
            &["worker", "--accounts", "default,unheard-of"],
            "ILETIMERKEZI_API_KEY_UNHEARD_OF is not set",
        ),
        (&["worker", "--accounts", ","], "names no account"),
        (
            &[
                "worker",
                "--accounts",
                "default,my-brand",
                "--concurrency",
                "1",
            ],
            "must be at least the number of accounts (2)",
        ),
    ] {
        let (code, said) = shell.run(arguments).await.said();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(reason), "{reason}: {said}");
        for secret in ["key-", "hash-"] {
            assert!(!said.contains(secret), "{said}");
        }
    }
}

/// Were the limit shared, the fullest second of both would be that of one.
#[tokio::test]
async fn each_account_has_the_whole_limit_to_itself() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let mut ids = insert_many(pool, 60, &[]).await;
    ids.extend(insert_many(pool, 60, &[SHOP]).await);
    let flags = [&BOTH[..], &["--rate-per-second", "20"]].concat();
    let worker = Worker::start(&database, &provider, &flags);
    wait_for_statuses(pool, &ids, "sent").await;
    worker.stop().await;
    for key in [KEY.to_owned(), shops_key()] {
        let orders = signed(&provider, &key);
        assert_eq!(orders.len(), 60);
        let most = most_in_a_second(&orders);
        assert!(most <= 20, "{most} in one second");
    }
    let both = most_in_a_second(&provider.orders());
    assert!(both > 20, "never more than {both} in one second, of both");
}

/// The fewest permits that two accounts can have, and one of them never comes back.
#[tokio::test]
async fn silence_before_one_account_holds_up_no_other() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.key() {
        KEY => Reply::Silence,
        _ => healthy(request),
    });
    let list = ("recipients", "array_fill('905321234567'::text, ARRAY[101])");
    insert_many(pool, 20, &[]).await;
    insert_many(pool, 2, &[list]).await;
    let worker = Worker::start(&database, &provider, &{
        [&BOTH[..], &["--concurrency", "2"]].concat()
    });
    provider.wait_for_orders(1).await;
    let mut shops = insert_many(pool, 20, &[SHOP]).await;
    shops.extend(insert_many(pool, 2, &[SHOP, list]).await);
    wait_for_statuses(pool, &shops, "sent").await;
    // One message, again and again: nothing else of that account has left, and no bulk order beside it.
    let texts: BTreeSet<String> = signed(&provider, KEY)
        .iter()
        .map(|request| request.text().to_owned())
        .collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    worker.stop_at_once().await;
}

/// A probe that is never answered takes as long as a request may.
#[tokio::test]
async fn a_probe_that_is_not_answered_keeps_no_other_account_paused() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut refused = false;
    let provider = FakeProvider::scripted(move |request| match (request.key(), &*request.path) {
        (KEY, SEND) => Reply::code(401, 401),
        (KEY, _) => Reply::Silence,
        (_, SEND) if !std::mem::replace(&mut refused, true) => Reply::code(402, 402),
        _ => healthy(request),
    });
    let lost = insert(pool, &[]).await;
    let patient = ["--request-timeout", "5m", "--lease", "6m"];
    let worker = Worker::start(&database, &provider, &[&BOTH[..], &patient].concat());
    provider
        .wait("the first account is probed", |all| {
            all.iter().any(|r| r.path == BALANCE && r.key() == KEY)
        })
        .await;
    let shops = insert_many(pool, 5, &[SHOP]).await;
    wait_for_statuses(pool, &shops, "sent").await;
    assert_eq!(job(pool, lost).await.status, "queued");
    let paused =
        "SELECT count(*) FROM sms_outbox.pauses WHERE ended_at IS NULL AND account = 'default'";
    assert_eq!(count(pool, paused).await, 1);
    worker.stop_at_once().await;
}

/// What is wrong with one account is written on that account's row, and nowhere else.
#[tokio::test]
async fn an_account_without_balance_costs_another_neither_a_request_nor_an_attempt() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.key() {
        KEY => Reply::code(402, 402),
        _ => healthy(request),
    });
    let poor = insert_many(pool, 100, &[]).await;
    let shops = insert_many(pool, 100, &[SHOP]).await;
    let worker = Worker::start(&database, &provider, &BOTH);
    for job in wait_for_statuses(pool, &shops, "sent").await {
        assert_eq!(job.attempt, 1);
    }
    let held = "SELECT count(*) FROM sms_outbox.jobs WHERE account = 'default' AND status = 'queued' AND attempt = 0";
    wait_for_count(pool, held, |n| n == 100).await;
    worker.stop().await;
    assert_eq!(signed(&provider, &shops_key()).len(), 100);
    let of_shop = "SELECT count(*) FROM sms_outbox.pauses WHERE account = 'shop'";
    assert_eq!(count(pool, of_shop).await, 0);
    assert_eq!(job(pool, poor[0]).await.order_id, None);
}

#[tokio::test]
async fn the_counters_of_accounts_are_kept_apart() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match (request.key(), &*request.path) {
        (KEY, _) => Reply::code(401, 401),
        _ => healthy(request),
    });
    insert_many(pool, 3, &[]).await;
    let shops = insert_many(pool, 5, &[SHOP]).await;
    let nobodys = ("account", "'nobodys'");
    insert_many(pool, 7, &[nobodys, ("due_at", "now() - interval '1 hour'")]).await;
    let worker = Process::worker_with(
        &database.worker_url(),
        &provider.url(),
        &[&BOTH[..], &ANYWHERE].concat(),
        &[
            ("ILETIMERKEZI_API_KEY_SHOP", &shops_key()),
            ("ILETIMERKEZI_API_HASH_SHOP", HASH),
        ],
    );
    let address = address(&worker).await;
    wait_for_statuses(pool, &shops, "sent").await;
    let (default, shop) = ("account=\"default\"", "account=\"shop\"");
    let whole = "scope=\"account\"";
    wait_for_value(&address, "sms_outbox_pauses", &[default, whole], 1.0).await;
    let queued = [default, "status=\"queued\""];
    let text = wait_for_value(&address, "sms_outbox_jobs", &queued, 3.0).await;
    for (name, labels, expected) in [
        ("sms_outbox_pauses", &[shop, whole][..], 0.0),
        ("sms_outbox_pauses_begun_total", &[default, whole], 1.0),
        ("sms_outbox_pauses_begun_total", &[shop, whole], 0.0),
        ("sms_outbox_jobs", &[shop, "status=\"queued\""], 0.0),
        ("sms_outbox_claims_total", &[shop], 5.0),
        (
            "sms_outbox_requests_total",
            &[shop, "outcome=\"accepted\""],
            5.0,
        ),
        (
            "sms_outbox_requests_total",
            &[shop, "outcome=\"blocked\""],
            0.0,
        ),
        (
            "sms_outbox_requests_total",
            &[default, "outcome=\"accepted\""],
            0.0,
        ),
        (
            "sms_outbox_request_errors_total",
            &[shop, "class=\"auth\""],
            0.0,
        ),
    ] {
        assert_eq!(value(&text, name, labels), expected, "{name} {labels:?}");
    }
    // A worker speaks of the accounts that it serves. The view speaks of all.
    assert!(!text.contains("nobodys"), "{text}");
    let overlooked = "SELECT jobs FROM sms_outbox.queue_stats
                      WHERE account = 'nobodys' AND status = 'queued' AND NOT paused AND oldest_due_age > interval '2 minutes'";
    assert_eq!(count(pool, overlooked).await, 7);
    worker.stop().await;
}

/// What the doctor says under one name: level and finding.
fn levels(answer: &Value, check: &str) -> Vec<(String, String)> {
    let checks = answer["checks"].as_array().expect("an array");
    let text = |found: &Value, name: &str| found[name].as_str().expect("a text").to_owned();
    checks
        .iter()
        .filter(|found| found["check"] == check)
        .map(|found| (text(found, "level"), text(found, "found")))
        .collect()
}

#[tokio::test]
async fn doctor_asks_for_each_account_once_and_with_its_own_credentials() {
    let database = TestDatabase::create().await;
    let config = SandboxConfig {
        further_accounts: vec![("key-s".to_owned(), "hash-s".to_owned())],
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let shell = || {
        Shell::at(&database)
            .with("ILETIMERKEZI_BASE_URL", sandbox.base_url())
            .with("ILETIMERKEZI_API_KEY", "sandbox-key")
            .with("ILETIMERKEZI_API_HASH", "sandbox-hash")
            .with("ILETIMERKEZI_API_KEY_SHOP", "key-s")
    };
    let level = |level: &str, words: &str, found: &[(String, String)]| {
        assert!(
            found.iter().any(|(l, f)| l == level && f.contains(words)),
            "{level} {words}: {found:?}"
        );
    };

    let well = shell().with("ILETIMERKEZI_API_HASH_SHOP", "hash-s");
    let ran = well.run(&["doctor", "--json", "--accounts", "default,shop,default"]);
    let answer = ran.await.json();
    let found = levels(&answer, "credentials");
    assert_eq!(found.len(), 2, "{found:?}");
    level("ok", "account default", &found);
    level("ok", "account shop", &found);

    let wrong = shell().with("ILETIMERKEZI_API_HASH_SHOP", "wrong");
    let ran = wrong.run(&["doctor", "--json", "--accounts", "default,shop,other"]);
    let answer = ran.await.json();
    assert_eq!(answer["ok"], false);
    let found = levels(&answer, "credentials");
    level("ok", "account default", &found);
    level("fault", "account shop", &found);
    level("fault", "account other has none", &found);

    let answer = wrong
        .run(&["doctor", "--json", "--accounts", "shop,Shop"])
        .await
        .json();
    let found = levels(&answer, "credentials");
    level("fault", "two accounts have one variable", &found);

    let twice = shell()
        .with("ILETIMERKEZI_API_HASH_SHOP", "hash-s")
        .with("ILETIMERKEZI_API_KEY_OTHER", "key-s")
        .with("ILETIMERKEZI_API_HASH_OTHER", "hash-s");
    let ran = twice.run(&["doctor", "--json", "--accounts", "default,shop,other"]);
    let found = levels(&ran.await.json(), "credentials");
    level(
        "warning",
        "\"shop\" and \"other\" have the same key",
        &found,
    );
}
