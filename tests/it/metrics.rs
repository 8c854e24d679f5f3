//! What a worker says about itself over HTTP, and that the pages say the same.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Hold, Reply, SEND, healthy, nowhere};
use crate::support::worker::{
    DEADLINE, Process, execute, insert, insert_many, wait_for_status, wait_for_statuses,
};

pub(crate) const ANYWHERE: [&str; 2] = ["--metrics-address", "127.0.0.1:0"];

/// Where a worker serves, from its own words.
pub(crate) async fn address(worker: &Process) -> String {
    worker.wait_for_line("serving /metrics").await;
    let lines = worker.lines();
    let found = lines.iter().find_map(|line| line.split("address=").nth(1));
    found.expect("an address").trim().to_owned()
}

/// Status, headers and body.
pub(crate) async fn get(address: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let asked = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_string(&mut answer).await
    };
    tokio::time::timeout(DEADLINE, asked)
        .await
        .expect("an answer in time")
        .expect("a whole answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("headers");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.expect("a status");
    (status, head.to_owned(), body.to_owned())
}

async fn scrape(address: &str) -> String {
    let (status, head, text) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

/// The value of the one sample that has this name and all of these labels.
fn sample(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut found = text.lines().filter(|line| {
        let (head, _) = line.rsplit_once(' ').unwrap_or_default();
        let (of, list) = head.split_once('{').unwrap_or((head, ""));
        of == name && labels.iter().all(|label| list.contains(label))
    });
    let line = found.next()?;
    assert_eq!(found.next(), None, "{name} {labels:?} is not one sample");
    line.rsplit_once(' ')?.1.parse().ok()
}

pub(crate) fn value(text: &str, name: &str, labels: &[&str]) -> f64 {
    sample(text, name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in:\n{text}"))
}

pub(crate) async fn wait_for_value(
    address: &str,
    name: &str,
    labels: &[&str],
    expected: f64,
) -> String {
    let began = Instant::now();
    loop {
        let text = scrape(address).await;
        if sample(&text, name, labels) == Some(expected) {
            return text;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "{name} {labels:?} never was {expected}:\n{text}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the worker says that it is well; returns how it says so.
async fn wait_until_well(address: &str) -> String {
    let began = Instant::now();
    loop {
        let (status, _, said) = get(address, "/healthz").await;
        if status == 200 {
            return said;
        }
        assert!(began.elapsed() < DEADLINE, "it never was well: {said}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The names of all samples, a histogram's under its own.
fn families(text: &str) -> BTreeSet<String> {
    let described = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let suffix = if kind == "counter" { "_total" } else { "" };
        Some(format!("{name}{suffix}"))
    };
    text.lines().filter_map(described).collect()
}

fn section() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with("Metrics\n"));
    section.expect("a section Metrics").to_owned()
}

/// Every word that is a metric's name.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("sms_outbox_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_page_lists_every_metric_with_its_labels_and_no_other_and_the_rules_use_them() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    // One that receives webhooks, too.
    let worker = Process::worker_with(
        &database.worker_url(),
        &provider.url(),
        &[&ANYWHERE[..], &["--webhook-address", "127.0.0.1:0"]].concat(),
        &[("SMS_OUTBOX_WEBHOOK_SECRET", "a-secret-of-the-tests-0123")],
    );
    let address = address(&worker).await;
    let text = wait_for_value(&address, "sms_outbox_database_up", &[], 1.0).await;
    let served = families(&text);
    let section = section();
    let (tables, rules) = section.split_once("```yaml").expect("rules");
    let rows: Vec<&str> = tables
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let listed: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| names(row.split('|').nth(1).unwrap_or_default()))
        .collect();
    assert_eq!(served, listed);
    for name in names(rules) {
        // A histogram is several series.
        let family = ["_bucket", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(&name);
        assert!(
            listed.contains(&name) || listed.contains(family),
            "a rule uses {name}"
        );
    }
    // Nothing has happened yet, and every value that is listed is there.
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let words = |cell: &str| -> Vec<String> {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        };
        let label = cells[2].split_once(": `");
        for name in words(cells[1]) {
            let Some((before, values)) = label else {
                continue;
            };
            let key = words(before).pop().expect("the label's name");
            for listed in words(&format!("`{values}")) {
                let label = format!("{key}=\"{listed}\"");
                assert_eq!(value(&text, &name, &[&label]), 0.0, "{name} {label}");
            }
        }
    }
    for name in [
        "accepted_twice_total",
        "late_answers_total",
        "database_outages_total",
    ] {
        assert_eq!(value(&text, &format!("sms_outbox_{name}"), &[]), 0.0);
    }
    // The worker itself may reach the database a moment later than whoever scrapes it.
    let said = wait_until_well(&address).await;
    assert_eq!(said.lines().count(), 1, "{said}");
    worker.stop().await;
}

#[tokio::test]
async fn what_happens_to_messages_is_counted() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.text() {
        _ if request.path != SEND => healthy(request),
        "repeat" => Reply::code(200, 451),
        "bad" => Reply::code(200, 452),
        "lost" if request.n.is_multiple_of(2) => Reply::Hangup,
        _ => healthy(request),
    });
    let worker = Process::worker(&database.worker_url(), &provider.url(), &ANYWHERE);
    let address = address(&worker).await;
    let good = insert_many(pool, 3, &[]).await;
    let repeat = insert(pool, &[("body", "'repeat'")]).await;
    let bad = insert(pool, &[("body", "'bad'")]).await;
    wait_for_statuses(pool, &good, "sent").await;
    wait_for_status(pool, repeat, "sent").await;
    wait_for_status(pool, bad, "failed").await;

    let outcomes = "sms_outbox_outcomes_total";
    let text = wait_for_value(&address, outcomes, &["kind=\"failed\""], 1.0).await;
    let requests = |outcome: &str| value(&text, "sms_outbox_requests_total", &[outcome]);
    assert_eq!(requests("outcome=\"accepted\""), 3.0);
    assert_eq!(requests("outcome=\"duplicate\""), 1.0);
    assert_eq!(requests("outcome=\"refused\""), 1.0);
    assert_eq!(requests("outcome=\"indeterminate\""), 0.0);
    let errors = |class: &str| value(&text, "sms_outbox_request_errors_total", &[class]);
    assert_eq!(errors("class=\"recipients\""), 1.0);
    assert_eq!(errors("class=\"timeout\""), 0.0);
    assert_eq!(value(&text, outcomes, &["kind=\"sent\""]), 3.0);
    assert_eq!(value(&text, outcomes, &["kind=\"duplicate\""]), 1.0);
    assert_eq!(
        value(&text, "sms_outbox_request_duration_seconds_count", &[]),
        5.0
    );
    assert_eq!(value(&text, "sms_outbox_claims_total", &[]), 5.0);
    assert!(value(&text, "sms_outbox_empty_claims_total", &[]) > 0.0);
    assert_eq!(value(&text, "sms_outbox_in_flight_jobs", &[]), 0.0);
    assert_eq!(value(&text, "sms_outbox_accepted_twice_total", &[]), 0.0);
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_was_accepted_twice_raises_the_alarm() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |_| Reply::accepted("312").held(&held));
    let worker = Process::worker(&database.worker_url(), &provider.url(), &ANYWHERE);
    let address = address(&worker).await;
    let job = insert(pool, &[]).await;
    provider.wait_for_orders(1).await;
    assert_eq!(
        value(&scrape(&address).await, "sms_outbox_in_flight_jobs", &[]),
        1.0
    );
    // Another worker has taken it over meanwhile, and was accepted too.
    execute(
        pool,
        format!(
            "UPDATE sms_outbox.jobs SET status = 'sent', token = token + 1, order_id = '311', answer_ms = 5,
                    sent_at = now(), finished_at = now(), lease_until = NULL WHERE id = '{job}'"
        ),
    )
    .await;
    hold.release();
    let text = wait_for_value(&address, "sms_outbox_accepted_twice_total", &[], 1.0).await;
    assert_eq!(value(&text, "sms_outbox_late_answers_total", &[]), 1.0);
    assert_eq!(
        value(&text, "sms_outbox_outcomes_total", &["kind=\"sent\""]),
        0.0,
        "someone else resolved it"
    );
    worker.stop().await;
}

#[tokio::test]
async fn what_waits_is_read_from_the_database() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND => Reply::code(200, 402),
        _ => Reply::code(200, 401),
    });
    insert(pool, &[]).await;
    let worker = Process::worker(&database.worker_url(), &provider.url(), &ANYWHERE);
    let address = address(&worker).await;
    let pauses = "sms_outbox_pauses";
    let text = wait_for_value(&address, pauses, &["scope=\"account\""], 1.0).await;
    assert_eq!(
        value(
            &text,
            "sms_outbox_pauses_begun_total",
            &["scope=\"account\""]
        ),
        1.0
    );
    assert_eq!(value(&text, pauses, &["scope=\"sender\""]), 0.0);
    // Nothing is claimed any more.
    insert_many(pool, 4, &[("due_at", "now() - interval '5 minutes'")]).await;
    insert(pool, &[("due_at", "now() + interval '1 hour'")]).await;
    insert(
        pool,
        &[("status", "'uncertain'"), ("ambiguous_since", "now()")],
    )
    .await;
    let finished = [
        ("status", "'sent'"),
        ("sent_at", "now()"),
        ("finished_at", "now()"),
    ];
    insert_many(pool, 7, &finished).await;
    let text = wait_for_value(&address, "sms_outbox_jobs", &["status=\"queued\""], 6.0).await;
    let jobs = |status: &str| value(&text, "sms_outbox_jobs", &[status]);
    assert_eq!(jobs("status=\"sending\""), 0.0);
    assert_eq!(jobs("status=\"uncertain\""), 1.0);
    assert_eq!(sample(&text, "sms_outbox_jobs", &["status=\"sent\""]), None);
    assert!(value(&text, "sms_outbox_oldest_due_age_seconds", &[]) >= 290.0);
    worker.stop().await;
}

#[tokio::test]
async fn without_its_database_a_worker_says_so_and_still_tells_what_it_counted() {
    let nobody = nowhere();
    let worker = Process::worker(
        &format!("postgres://nobody@{nobody}/nothing"),
        "http://127.0.0.1:9",
        &ANYWHERE,
    );
    let address = address(&worker).await;
    let (status, _, said) = get(&address, "/healthz").await;
    assert_eq!(status, 503);
    assert!(said.contains("starting"), "{said}");
    let (status, _, said) = get(&address, "/livez").await;
    assert_eq!(status, 200, "{said}");
    let text = wait_for_value(&address, "sms_outbox_database_outages_total", &[], 1.0).await;
    assert_eq!(value(&text, "sms_outbox_database_up", &[]), 0.0);
    assert_eq!(sample(&text, "sms_outbox_jobs", &[]), None);
    let began = Instant::now();
    loop {
        let text = scrape(&address).await;
        if value(&text, "sms_outbox_database_away_seconds_total", &[]) > 0.0 {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_said_and_ends_the_worker() {
    let database = TestDatabase::create().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let mut worker = Process::worker(
        &database.worker_url(),
        "http://127.0.0.1:9",
        &["--metrics-address", &address],
    );
    assert_eq!(worker.ended().await.code(), Some(1));
    let said = worker.lines().join("\n");
    assert!(
        said.contains("SMS_OUTBOX_METRICS_ADDRESS") && said.contains(&address),
        "{said}"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn half_open_connections_take_no_descriptor_from_messages() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let worker = Process::worker(&database.worker_url(), &provider.url(), &ANYWHERE);
    let address = address(&worker).await;
    let before = worker.descriptors();
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(&address).await.expect("it listens"));
    }
    let ids = insert_many(database.pool(), 20, &[]).await;
    wait_for_statuses(database.pool(), &ids, "sent").await;
    let taken = worker.descriptors().saturating_sub(before);
    // Some of them, and what the messages need.
    assert!(taken < 32 + 40, "{taken} descriptors more");
    // They end by themselves, and whoever scrapes is answered.
    let (status, _, _) = get(&address, "/metrics").await;
    assert_eq!(status, 200);
    drop(idle);
    worker.stop().await;
}
