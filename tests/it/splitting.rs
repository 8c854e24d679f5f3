//! A number that only the provider refuses does not cost the others their message: it is found, and they are sent to once.

use std::collections::BTreeSet;

use serde_json::Value;
use sms_outbox::sandbox::{Action, Fault, FaultKind, Sandbox, SandboxConfig, SandboxHandle};
use sqlx::PgPool;
use uuid::Uuid;

use crate::cli::Shell;
use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Reply, SEND, healthy};
use crate::support::worker::{
    HASH, KEY, Worker, count, execute, insert, job, wait_for_count, wait_for_status,
};

/// Nothing waits, and nothing is limited: a list of 50,000 comes down to single numbers.
const FLAGS: [&str; 4] = ["--rate-per-second", "0", "--poll-interval", "50ms"];

async fn sandbox() -> (Sandbox, SandboxHandle) {
    let sandbox = Sandbox::start(SandboxConfig {
        key: KEY.to_owned(),
        hash: HASH.to_owned(),
        ..SandboxConfig::default()
    })
    .await
    .expect("a free port");
    let handle = sandbox.handle();
    handle.approve_sender("BRAND");
    handle.change_rules(|rules| rules.rate_limit = 0);
    (sandbox, handle)
}

/// The nth number; a bad one has a prefix that no operator has.
fn number(n: usize, is_bad: bool) -> String {
    format!("90{}{n:07}", if is_bad { "519" } else { "532" })
}

/// Every number of a list of so many, and which of them are bad: scattered, and the same every time.
fn list(size: usize, bad: usize) -> (Vec<String>, BTreeSet<String>) {
    let places: BTreeSet<usize> = (0..bad).map(|n| (n * 7_919 + 1) % size).collect();
    let all: Vec<String> = (0..size).map(|n| number(n, places.contains(&n))).collect();
    let bad = places.iter().map(|n| number(*n, true)).collect();
    (all, bad)
}

async fn insert_list(pool: &PgPool, numbers: &[String], more: &[(&str, &str)]) -> Uuid {
    let recipients = format!("'{{{}}}'", numbers.join(","));
    insert(
        pool,
        &[&[("recipients", recipients.as_str())][..], more].concat(),
    )
    .await
}

/// Waits until nothing of the list waits any more.
async fn wait_for_end(pool: &PgPool, id: Uuid) {
    let open = format!(
        "SELECT count(*) FROM sms_outbox.jobs WHERE (id = '{id}' OR part_of = '{id}') AND finished_at IS NULL"
    );
    wait_for_count(pool, &open, |n| n == 0).await;
}

/// Good numbers once each, bad ones never.
fn assert_sent_once(handle: &SandboxHandle, all: &[String], bad: &BTreeSet<String>) {
    let mut reached: Vec<String> = handle
        .ledger()
        .iter()
        .flat_map(|entry| entry.numbers.clone())
        .collect();
    reached.sort_unstable();
    let mut good: Vec<String> = all.iter().filter(|n| !bad.contains(*n)).cloned().collect();
    good.sort_unstable();
    assert!(reached == good, "{} of {}", reached.len(), good.len());
}

async fn rejected(pool: &PgPool, id: Uuid) -> BTreeSet<String> {
    let rejected: Option<Vec<String>> =
        sqlx::query_scalar("SELECT rejected_recipients FROM sms_outbox.jobs WHERE id = $1")
            .bind(id)
            .fetch_one(pool)
            .await
            .expect("the job");
    rejected.unwrap_or_default().into_iter().collect()
}

#[tokio::test]
async fn a_number_that_the_provider_refuses_costs_the_others_nothing() {
    for (size, refused) in [
        (3, 1),
        (3, 3),
        (100, 7),
        (5_000, 100),
        (50_000, 1),
        (50_000, 7),
        (50_000, 100),
    ] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let (sandbox, handle) = sandbox().await;
        handle.change_rules(|rules| rules.known_prefixes_only = true);
        let (all, bad) = list(size, refused);
        let columns = [
            ("idempotency_key", "'key'"),
            ("metadata", "'{\"a\": 1}'"),
            ("expires_at", "now() + interval '1 hour'"),
            ("priority", "2"),
        ];
        let id = insert_list(pool, &all, &columns).await;
        let worker = Worker::start_at(&database.url(), &sandbox.base_url(), &FLAGS);
        wait_for_end(pool, id).await;
        worker.stop().await;

        assert_eq!(job(pool, id).await.status, "split", "{size}");
        assert_sent_once(&handle, &all, &bad);
        assert_eq!(
            rejected(pool, id).await,
            bad,
            "{size}: all of them stand on the list"
        );
        let alone = format!(
            "SELECT count(*) FROM sms_outbox.jobs WHERE part_of = '{id}' AND status = 'failed' AND error_class = 'recipients'
               AND error_code = 466 AND rejected_recipients = recipients AND cardinality(recipients) = 1"
        );
        assert_eq!(count(pool, alone).await, refused as i64, "{size}");
        let alike = format!(
            "SELECT count(*) FROM sms_outbox.jobs AS part JOIN sms_outbox.jobs AS list ON list.id = part.part_of
             WHERE list.id = '{id}' AND part.idempotency_key IS NULL
               AND (part.account, part.sender, part.body, part.iys, part.priority, part.expires_at, part.metadata)
                 = (list.account, list.sender, list.body, list.iys, list.priority, list.expires_at, list.metadata)"
        );
        let parts = count(
            pool,
            format!("SELECT count(*) FROM sms_outbox.jobs WHERE part_of = '{id}'"),
        );
        let parts = parts.await;
        assert_eq!(count(pool, alike).await, parts, "{size}");
        // Each part is asked for once, and the list.
        let requests = handle.requests_for(Action::SendSms);
        assert_eq!(requests as i64, parts + 1, "{size}");
        let levels = (size as f64).log2().ceil();
        let halving = 1.0 + 2.0 * refused as f64 * (levels - (refused as f64).log2() + 1.0);
        assert!(
            requests as f64 <= 2.0 * halving,
            "{size}: {requests} of {halving}"
        );
    }
}

#[tokio::test]
async fn what_is_on_the_block_list_is_left_out_at_once() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let (sandbox, handle) = sandbox().await;
    let (all, bad) = list(300, 20);
    // More than a page of others.
    let others = (0..2_500).map(|n| number(5_000_000 + n, false));
    handle.change_rules(|rules| rules.blocked = bad.iter().cloned().chain(others).collect());
    let ids = [
        insert_list(pool, &all, &[("body", "'one'")]).await,
        insert_list(pool, &all, &[("body", "'two'")]).await,
    ];
    let worker = Worker::start_at(&database.url(), &sandbox.base_url(), &FLAGS);
    for id in ids {
        wait_for_end(pool, id).await;
        assert_eq!(job(pool, id).await.status, "split");
        assert_eq!(rejected(pool, id).await, bad);
    }
    worker.stop().await;
    assert_eq!(handle.ledger().len(), 2, "one part each");
    assert_eq!(handle.requests_for(Action::SendSms), 4);
    assert_eq!(
        handle.requests_for(Action::GetBlacklist),
        3,
        "read once, page by page"
    );
}

#[tokio::test]
async fn a_list_of_which_the_provider_takes_nothing_is_given_up_soon_and_says_so() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND => Reply::code(400, 452),
        _ => healthy(request),
    });
    let (all, _) = list(2_000, 0);
    let id = insert_list(pool, &all, &[]).await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    wait_for_end(pool, id).await;
    worker.stop().await;
    assert_eq!(job(pool, id).await.status, "split");
    let requests = provider.orders().len();
    assert!((12..=40).contains(&requests), "{requests}");
    let untried = format!(
        "SELECT coalesce(sum(cardinality(recipients)), 0) FROM sms_outbox.jobs
         WHERE part_of = '{id}' AND status = 'failed' AND error_class = 'recipients' AND error_message LIKE '%not tried%'"
    );
    let refused = rejected(pool, id).await.len() as i64;
    assert_eq!(count(pool, untried).await, 2_000 - refused);
}

#[tokio::test]
async fn nothing_is_cut_while_the_whole_list_may_have_been_taken() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let (sandbox, handle) = sandbox().await;
    let (all, bad) = list(50, 2);
    handle.set_faults([Fault::next(1, FaultKind::Drop)]);
    handle.change_rules(|rules| rules.known_prefixes_only = true);
    let id = insert_list(pool, &all, &[]).await;
    let flags = [&FLAGS[..], &["--settle-delay", "200ms"]].concat();
    let worker = Worker::start_at(&database.url(), &sandbox.base_url(), &flags);
    wait_for_status(pool, id, "uncertain").await;
    let parts = "SELECT count(*) FROM sms_outbox.jobs WHERE part_of IS NOT NULL";
    assert_eq!(count(pool, parts).await, 0);
    assert_eq!(handle.ledger().len(), 0);
    // Once a person has said that it was not.
    let shell = Shell::at(&database);
    shell
        .run(&["resolve", &id.to_string(), "--resend"])
        .await
        .done();
    wait_for_status(pool, id, "split").await;
    wait_for_end(pool, id).await;
    worker.stop().await;
    assert_sent_once(&handle, &all, &bad);
}

#[tokio::test]
async fn a_split_list_shows_its_parts_and_a_part_its_list() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let (sandbox, handle) = sandbox().await;
    handle.change_rules(|rules| rules.known_prefixes_only = true);
    let (all, _) = list(3, 1);
    let id = insert_list(pool, &all, &[]).await;
    let worker = Worker::start_at(&database.url(), &sandbox.base_url(), &FLAGS);
    wait_for_end(pool, id).await;
    worker.stop().await;
    let shell = Shell::at(&database);
    let page = shell.run(&["show", &id.to_string()]).await.done();
    let json = shell.run(&["show", &id.to_string(), "--json"]).await.json();
    let parts = json["parts"].as_array().expect("parts");
    let whole: i64 = parts
        .iter()
        .filter_map(|part| part["recipient_count"].as_i64())
        .sum();
    assert_eq!(
        whole, 3,
        "those that were cut themselves are not among them"
    );
    assert!(
        page.contains("sent on in parts") && page.contains("recipients 466"),
        "{page}"
    );
    for part in parts {
        let part = part["id"].as_str().expect("an id");
        assert!(page.contains(part), "{page}");
        let shown = shell.run(&["show", part]).await.done();
        assert!(shown.contains(&id.to_string()), "{shown}");
    }
    let listed = shell
        .run(&["list", "--status", "split", "--json"])
        .await
        .json();
    let listed = listed.as_array().expect("jobs");
    assert!(listed.iter().any(|job| job["id"] == id.to_string()));
    for command in ["retry", "cancel"] {
        let (code, said) = shell.run(&[command, &id.to_string()]).await.said();
        assert!(code == Some(1) && said.contains("parts"), "{said}");
    }
    let sent: Vec<&Value> = parts
        .iter()
        .filter(|part| part["status"] == "sent")
        .collect();
    assert!(!sent.is_empty() && sent.iter().all(|part| part["order_id"].is_string()));
}

#[tokio::test]
async fn parts_of_a_list_are_written_with_its_record_or_not_at_all() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let (sandbox, handle) = sandbox().await;
    handle.change_rules(|rules| rules.known_prefixes_only = true);
    execute(
        pool,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT count(*) FROM sms_outbox.jobs WHERE part_of IS NOT NULL) > 0 THEN RAISE EXCEPTION 'no'; END IF;
            RETURN new;
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON sms_outbox.jobs FOR EACH ROW
            WHEN (new.part_of IS NOT NULL AND cardinality(new.recipients) = 1) EXECUTE FUNCTION refuse()",
    )
    .await;
    let (all, _) = list(3, 1);
    let id = insert_list(pool, &all, &[]).await;
    let worker = Worker::start_at(&database.url(), &sandbox.base_url(), &FLAGS);
    let refused = "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'sending' OR ambiguous_since IS NOT NULL";
    wait_for_count(pool, refused, |n| n == 1).await;
    worker.stop().await;
    let parts = count(
        pool,
        format!("SELECT count(*) FROM sms_outbox.jobs WHERE part_of = '{id}'"),
    )
    .await;
    let split = count(
        pool,
        "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'split'",
    )
    .await;
    assert_eq!(parts > 0, split > 0, "{parts} parts, {split} split");
}
