//! Webhooks: what is posted is durable before it is answered, whoever posts it and however.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sms_outbox::outbox::{ContentKey, RoleKind};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::metrics::{ANYWHERE, get, value, wait_for_value};
use crate::support::postgres::TestDatabase;
use crate::support::program;
use crate::support::provider::{FakeProvider, Hold, Reply, nowhere};
use crate::support::proxy::Proxy;
use crate::support::worker::{DEADLINE, Process, count, execute, insert};

const SECRET: &str = "a-secret-of-the-tests-0123";
const OLD: &str = "an-older-secret-of-the-tests";
const NUMBER: &str = "905321234567";
const TEXT: &str = "Your table is laid: hunter2";

/// `sms-outbox receive`, and where it listens.
struct Receiving {
    process: Process,
    address: String,
}

impl Receiving {
    async fn start(database: &TestDatabase) -> Self {
        Self::start_with(&database.url_as(RoleKind::Receiver), &[], &[]).await
    }

    async fn start_with(url: &str, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut arguments = vec![
            "receive",
            "--database-url",
            url,
            "--webhook-address",
            "127.0.0.1:0",
        ];
        arguments.extend(flags);
        let mut variables = vec![("SMS_OUTBOX_WEBHOOK_SECRET", SECRET)];
        variables.retain(|(name, _)| !environment.iter().any(|(given, _)| given == name));
        variables.extend(environment);
        let process = Process::start(&arguments, &variables);
        let address = address(&process).await;
        Self { process, address }
    }

    async fn post(&self, body: &str) -> u16 {
        self.post_to(&format!("/webhooks/default/{SECRET}"), body)
            .await
    }

    async fn post_to(&self, path: &str, body: &str) -> u16 {
        post(&self.address, path, body).await.0
    }

    async fn stop(self) -> Vec<String> {
        self.process.stop().await
    }
}

/// Where a process receives, from its own words.
async fn address(process: &Process) -> String {
    process.wait_for_line("receiving webhooks").await;
    let lines = process.lines();
    let line = lines
        .iter()
        .find(|line| line.contains("receiving webhooks"));
    let rest = line.and_then(|line| line.split_once("address").map(|(_, rest)| rest));
    let word = rest.and_then(|rest| {
        rest.split([' ', '=', '"'])
            .find(|word| word.starts_with("127."))
    });
    word.expect("an address").to_owned()
}

/// Status and whole answer of a request that is sent as it stands.
async fn send(address: &str, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let asked = async {
        // Whoever has heard enough may have closed the door.
        stream.write_all(request).await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = tokio::time::timeout(DEADLINE, asked).await;
    let answer = answer.expect("an answer in time");
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.unwrap_or(0), answer)
}

async fn post(address: &str, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: \
         close\r\n\r\n{body}"
    );
    send(address, request.as_bytes()).await
}

fn event(order: &str, status: &str, number: &str, text: &str) -> String {
    serde_json::json!({"report": {
        "id": 1_599_558_518, "packet_id": order.parse::<i64>().expect("digits"), "status": status,
        "to": format!("+{number}"), "body": text,
    }})
    .to_string()
}

/// A sent job of `default` with this order, number and text.
async fn sent(pool: &PgPool, order: &str, text: &str) -> Uuid {
    let content = ContentKey::of("default", [NUMBER], text).low() | (7 << 40);
    sent_as(pool, "default", order, content).await
}

async fn sent_as(pool: &PgPool, account: &str, order: &str, content: i64) -> Uuid {
    insert(
        pool,
        &[
            ("account", &format!("'{account}'")),
            ("recipients", &format!("'{{{NUMBER}}}'")),
            ("body", "'its text does not matter here'"),
            ("status", "'sent'"),
            ("order_id", &format!("'{order}'")),
            ("answer_ms", "5"),
            ("sent_at", "now()"),
            ("finished_at", "now()"),
            ("content_key", &content.to_string()),
        ],
    )
    .await
}

/// Status, source, how often it was written, and contradictions of a delivery.
async fn delivery(pool: &PgPool, job: Uuid) -> Option<(String, String, i32, i32)> {
    sqlx::query_as(
        "SELECT status, source, writes, conflicts FROM sms_outbox.deliveries WHERE job_id = $1",
    )
    .bind(job)
    .fetch_optional(pool)
    .await
    .expect("the database answers")
}

fn told(status: &str, writes: i32, conflicts: i32) -> Option<(String, String, i32, i32)> {
    Some((status.to_owned(), "webhook".to_owned(), writes, conflicts))
}

/// Order, numbers and words of what is kept, in order.
async fn inbox(pool: &PgPool) -> Vec<(String, Vec<String>, String)> {
    sqlx::query_as(
        "SELECT order_id, numbers, words FROM sms_outbox.delivery_inbox ORDER BY order_id, id",
    )
    .fetch_all(pool)
    .await
    .expect("the database answers")
}

#[tokio::test]
async fn an_event_is_durable_before_it_is_answered() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    for n in 1..=5 {
        let order = format!("31200000{n}");
        let job = sent(pool, &order, TEXT).await;
        let receiving = Receiving::start(&database).await;
        let status = receiving
            .post(&event(&order, "delivered", NUMBER, TEXT))
            .await;
        receiving.process.signal(Signal::SIGKILL);
        assert_eq!(status, 200);
        assert_eq!(delivery(pool, job).await, told("delivered", 1, 0));
    }
    assert_eq!(inbox(pool).await, []);
}

#[tokio::test]
async fn events_may_come_in_any_order_and_as_often_as_they_like() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let receiving =
        Receiving::start_with(&database.url_as(RoleKind::Receiver), &ANYWHERE, &[]).await;
    let job = sent(pool, "312000001", TEXT).await;
    let post = async |status| {
        let answer = receiving
            .post(&event("312000001", status, NUMBER, TEXT))
            .await;
        assert_eq!(answer, 200, "{status}");
        delivery(pool, job).await
    };
    assert_eq!(
        post("accepted").await,
        None,
        "that it was accepted is known"
    );
    assert_eq!(post("undelivered").await, told("undelivered", 1, 0));
    assert_eq!(post("undelivered").await, told("undelivered", 1, 0));
    assert_eq!(post("delivered").await, told("delivered", 2, 1));
    for status in ["accepted", "undelivered", "delivered"] {
        assert_eq!(post(status).await, told("delivered", 2, 1), "{status}");
    }
    let changes = "SELECT count(*) FROM sms_outbox.change_log WHERE account = 'default'";
    assert_eq!(count(pool, changes).await, 2);
    assert_eq!(inbox(pool).await, []);

    let address = crate::metrics::address(&receiving.process).await;
    let events = "sms_outbox_webhook_events_total";
    let text = wait_for_value(&address, events, &["result=\"recorded\""], 2.0).await;
    assert_eq!(value(&text, events, &["result=\"no_news\""]), 5.0);
    assert!(value(&text, "sms_outbox_webhook_silence_seconds", &["default"]) < 30.0);
    assert!(!text.contains("sms_outbox_jobs") && !text.contains("build_info"));
    for path in ["/livez", "/readyz"] {
        let (status, _, said) = get(&address, path).await;
        assert_eq!(status, 200, "{path}: {said}");
    }
    receiving.stop().await;
}

#[tokio::test]
async fn the_text_may_have_the_code_of_the_operator_or_spaces_around_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let receiving = Receiving::start(&database).await;
    for (n, text) in [
        format!("{TEXT} B186"),
        format!(" {TEXT}\n"),
        format!("{TEXT}B186 "),
    ]
    .iter()
    .enumerate()
    {
        let order = format!("31200000{n}");
        let job = sent(pool, &order, TEXT).await;
        assert_eq!(
            receiving
                .post(&event(&order, "delivered", NUMBER, text))
                .await,
            200
        );
        assert_eq!(
            delivery(pool, job).await,
            told("delivered", 1, 0),
            "{text:?}"
        );
    }
    receiving.stop().await;
}

#[tokio::test]
async fn what_a_receiver_cannot_match_is_kept_for_a_worker_without_its_text() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let receiving = Receiving::start_with(
        &database.url_as(RoleKind::Receiver),
        &[],
        &[
            ("SMS_OUTBOX_LOG", "trace"),
            ("SMS_OUTBOX_LOG_FORMAT", "json"),
        ],
    )
    .await;
    let forged = sent(pool, "312000001", "another text").await;
    let list = ContentKey::of("default", [NUMBER, "905321234568"], TEXT).low();
    let list = sent_as(pool, "default", "312000002", list).await;
    let foreign = ContentKey::of("default", [NUMBER], TEXT).low();
    let foreign = sent_as(pool, "shop", "312000003", foreign).await;
    let unhashed = insert(
        pool,
        &[
            ("status", "'sent'"),
            ("order_id", "'312000004'"),
            ("sent_at", "now()"),
            ("finished_at", "now()"),
        ],
    )
    .await;
    // And one that was sent in the provider's panel.
    for order in ["312000001", "312000002", "312000003", "312000004", "99"] {
        assert_eq!(
            receiving
                .post(&event(order, "undelivered", NUMBER, TEXT))
                .await,
            200
        );
    }
    assert_eq!(
        receiving.post(&event("99", "accepted", NUMBER, TEXT)).await,
        200
    );
    // No order at all.
    assert_eq!(
        receiving.post(&event("0", "accepted", NUMBER, TEXT)).await,
        200
    );
    for job in [forged, list, foreign, unhashed] {
        assert_eq!(delivery(pool, job).await, None);
    }
    let row =
        |order: &str, word: &str| (order.to_owned(), vec![NUMBER.to_owned()], word.to_owned());
    let expected = [
        row("312000001", "u"),
        row("312000002", "u"),
        row("312000003", "u"),
        row("312000004", "u"),
        row("99", "u"),
        row("99", "a"),
    ];
    assert_eq!(inbox(pool).await, expected);
    let content = ContentKey::of("default", [NUMBER], TEXT).low();
    let alike = format!(
        "SELECT count(*) FROM sms_outbox.delivery_inbox WHERE account = 'default' AND contents = '{{{content}}}'"
    );
    assert_eq!(count(pool, alike).await, 6);
    for table in [
        "delivery_inbox",
        "deliveries",
        "change_log",
        "attempt_log",
        "jobs",
    ] {
        let found = count(
            pool,
            format!(
                "SELECT count(*) FROM sms_outbox.{table} AS it WHERE it::text LIKE '%hunter2%'"
            ),
        )
        .await;
        assert_eq!(found, 0, "{table}");
    }
    let lines = receiving.stop().await.join("\n");
    assert!(lines.contains("ready"), "{lines}");
    for secret in ["hunter2", "5321234567", SECRET] {
        assert!(!lines.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn many_events_of_one_order_are_one_row() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // Nobody is answered before all are there.
    let proxy = Proxy::before(&database.url_as(RoleKind::Receiver));
    let receiving = Receiving::start_with(&proxy.url(), &[], &[]).await;
    receiving.process.wait_for_line("ready").await;
    let first = include_str!("../../src/outbox/deliveries_of.sql");
    let trap = proxy.trap(
        first,
        crate::support::proxy::At::Request,
        crate::support::proxy::Fate::Held,
    );
    let path = format!("/webhooks/default/{SECRET}");
    let waits = event("1", "delivered", NUMBER, TEXT);
    let held = post(&receiving.address, &path, &waits);
    let others = async {
        trap.sprung().await;
        let bodies: Vec<String> = (0..30)
            .map(|n| event("2", "delivered", &format!("90532{:07}", n % 10), TEXT))
            .collect();
        let posts = bodies
            .iter()
            .map(|body| post(&receiving.address, &path, body));
        let all = futures_util::future::join_all(posts);
        let released = async {
            // All of them have been read by now, or soon will be; the last ones may become a row of their own.
            tokio::time::sleep(Duration::from_millis(300)).await;
            trap.release();
        };
        tokio::join!(all, released).0
    };
    let (one, many) = tokio::join!(held, others);
    assert!(
        one.0 == 200 && many.iter().all(|(status, _)| *status == 200),
        "{many:?}"
    );
    let kept = inbox(pool).await;
    let numbers: usize = kept.iter().map(|(_, numbers, _)| numbers.len()).sum();
    assert!(kept.len() <= 3, "{kept:?}");
    assert!((11..=31).contains(&numbers), "repeats are one: {kept:?}");
    receiving.stop().await;
}

#[tokio::test]
async fn a_delivery_that_somebody_holds_holds_up_no_event() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let receiving = Receiving::start(&database).await;
    let job = sent(pool, "312000001", TEXT).await;
    let body = |status| event("312000001", status, NUMBER, TEXT);
    assert_eq!(receiving.post(&body("undelivered")).await, 200);
    let mut holder = pool.begin().await.expect("a transaction");
    let held = sqlx::query("SELECT FROM sms_outbox.deliveries FOR UPDATE");
    held.execute(&mut *holder).await.expect("its row");
    assert_eq!(receiving.post(&body("delivered")).await, 200);
    holder.rollback().await.expect("it was open");
    assert_eq!(delivery(pool, job).await, told("undelivered", 1, 0));
    let kept = inbox(pool).await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0].2, "d");
    receiving.stop().await;
}

#[tokio::test]
async fn two_receivers_write_down_all_that_either_hears() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let one = Receiving::start(&database).await;
    let other = Receiving::start(&database).await;
    for n in 0..20 {
        let order = format!("3120000{n:02}");
        let job = sent(pool, &order, TEXT).await;
        let [yes, no] = ["delivered", "undelivered"].map(|word| event(&order, word, NUMBER, TEXT));
        let answers = tokio::join!(
            one.post(&yes),
            other.post(&no),
            one.post(&no),
            other.post(&yes)
        );
        assert_eq!(answers, (200, 200, 200, 200));
        let (status, _, _, conflicts) = delivery(pool, job).await.expect("it is known");
        assert_eq!((status.as_str(), conflicts), ("delivered", 1));
    }
    assert_eq!(inbox(pool).await, []);
    one.stop().await;
    other.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_flood_costs_no_more_memory_than_its_connections() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::before(&database.url_as(RoleKind::Receiver));
    let receiving = Receiving::start_with(&proxy.url(), &[], &[]).await;
    receiving.process.wait_for_line("ready").await;
    let path = format!("/webhooks/default/{SECRET}");
    let large = event("7", "delivered", NUMBER, &"x".repeat(16_000));
    let huge = event("7", "delivered", NUMBER, &"x".repeat(900_000));
    let memory = || {
        let status = format!("/proc/{}/status", receiving.process.child.id());
        let status = std::fs::read_to_string(status).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        kilobytes.unwrap_or(0_u64) / 1024
    };
    let before = memory();
    proxy.falls_silent();
    let posts = (0..400).map(|n| {
        let body = if n % 4 == 0 { &huge } else { &large };
        post(&receiving.address, &path, body)
    });
    let answers = futures_util::future::join_all(posts).await;
    for (status, answer) in &answers {
        // Or none, where too many wait.
        assert!([0, 200, 413, 503].contains(status), "{status}: {answer}");
    }
    let grown = memory() - before;
    assert!(grown < 64, "{grown} MB for 400 requests with 95 MB");
    receiving.stop().await;
}

#[tokio::test]
async fn a_wrong_secret_is_answered_like_a_wrong_account_and_like_no_address_at_all() {
    let database = TestDatabase::create().await;
    let shop = (
        "SMS_OUTBOX_WEBHOOK_SECRET_SHOP",
        "the-secret-of-the-shop-0123",
    );
    let receiving = Receiving::start_with(
        &database.url_as(RoleKind::Receiver),
        &["--accounts", "default,shop,silent"],
        &[shop],
    )
    .await;
    let lines = receiving.process.lines().join("\n");
    assert!(
        lines.contains("SMS_OUTBOX_WEBHOOK_SECRET_SILENT"),
        "{lines}"
    );
    let body = event("7", "delivered", NUMBER, TEXT);
    let without_date = |answer: String| {
        let lines: Vec<&str> = answer
            .lines()
            .filter(|line| !line.to_ascii_lowercase().starts_with("date:"))
            .collect();
        lines.join("\n")
    };
    let mut answers = Vec::new();
    let huge = "x".repeat(20_000);
    for (path, body) in [
        (format!("/webhooks/default/{OLD}"), body.as_str()),
        (format!("/webhooks/nobody/{SECRET}"), &body),
        (format!("/webhooks/shop/{SECRET}"), &body),
        (format!("/webhooks/silent/{SECRET}"), &body),
        ("/webhooks/default/".to_owned(), &body),
        ("/webhooks/default".to_owned(), &body),
        (format!("/webhooks/default/{SECRET}/"), &body),
        ("/webhooks/%ff/%00".to_owned(), &body),
        ("/".to_owned(), &body),
        (format!("/webhooks/default/{OLD}"), "no json"),
        (format!("/webhooks/default/{OLD}"), &huge),
    ] {
        let (status, answer) = post(&receiving.address, &path, body).await;
        assert_eq!(status, 404, "{path}");
        answers.push(without_date(answer));
    }
    for path in ["/", &format!("/webhooks/default/{SECRET}")] {
        let (status, answer) = send(
            &receiving.address,
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await;
        assert_eq!(status, 404, "{path}");
        answers.push(without_date(answer));
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(inbox(database.pool()).await, []);
    let own = format!("/webhooks/shop/{}", shop.1);
    assert_eq!(receiving.post_to(&own, &body).await, 200);
    assert_eq!(inbox(database.pool()).await.len(), 1);
    receiving.stop().await;
}

#[tokio::test]
async fn a_secret_is_replaced_without_losing_an_event() {
    let database = TestDatabase::create().await;
    let url = database.url_as(RoleKind::Receiver);
    let body = event("7", "accepted", NUMBER, TEXT);
    let old = format!("/webhooks/default/{OLD}");
    let new = format!("/webhooks/default/{SECRET}");
    for (secrets, of_old, of_new) in [
        (OLD.to_owned(), 200, 404),
        (format!("{SECRET},{OLD}"), 200, 200),
        (SECRET.to_owned(), 404, 200),
    ] {
        let environment = [("SMS_OUTBOX_WEBHOOK_SECRET", secrets.as_str())];
        let receiving = Receiving::start_with(&url, &[], &environment).await;
        assert_eq!(receiving.post_to(&old, &body).await, of_old, "{secrets}");
        assert_eq!(receiving.post_to(&new, &body).await, of_new, "{secrets}");
        receiving.stop().await;
    }
}

#[tokio::test]
async fn what_is_no_event_is_refused_and_costs_nothing() {
    let database = TestDatabase::create().await;
    let receiving = Receiving::start(&database).await;
    for body in [
        "",
        "null",
        "{",
        "{\"report\":{}}",
        "{\"report\":{\"id\":1,\"packet_id\":2,\"status\":\"read\",\"to\":\"5321234567\"}}",
        "\u{0}",
    ] {
        assert_eq!(receiving.post(body).await, 400, "{body:?}");
    }
    let deep = format!("{{\"report\":{}", "[".repeat(15_000));
    assert_eq!(receiving.post(&deep).await, 400);
    for size in [16_385, 100_000, 5_000_000] {
        let large = event("7", "delivered", NUMBER, &"x".repeat(size));
        assert_eq!(receiving.post(&large).await, 413, "{size}");
    }
    // Whoever does not say how much it will be.
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let path = format!("/webhooks/default/{SECRET}");
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    assert_eq!(send(&receiving.address, request.as_bytes()).await.0, 413);
    assert_eq!(inbox(database.pool()).await, []);
    // As large as an event may be.
    let large = event("7", "delivered", NUMBER, &"x".repeat(16_000));
    assert_eq!(receiving.post(&large).await, 200);
    receiving.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn whoever_is_slow_or_silent_holds_up_nobody_for_long() {
    let database = TestDatabase::create().await;
    let receiving = Receiving::start(&database).await;
    let before = receiving.process.descriptors();
    let mut idle = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(&receiving.address)
            .await
            .expect("it listens");
        if n % 2 == 0 {
            let head = format!(
                "POST /webhooks/default/{SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{{"
            );
            stream.write_all(head.as_bytes()).await.ok();
        }
        idle.push(stream);
    }
    // Behind all of them.
    let began = Instant::now();
    let status = receiving.post(&event("7", "accepted", NUMBER, TEXT)).await;
    assert_eq!(status, 200);
    assert!(began.elapsed() < DEADLINE);
    let taken = receiving.process.descriptors().saturating_sub(before);
    assert!(taken < 64 + 20, "{taken} descriptors more");
    let mut answer = String::new();
    let told = idle[0].read_to_string(&mut answer);
    tokio::time::timeout(DEADLINE, told)
        .await
        .expect("it ends")
        .ok();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    drop(idle);
    receiving.stop().await;
}

#[tokio::test]
async fn while_the_database_is_away_events_are_refused_and_afterwards_they_are_taken() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let proxy = Proxy::before(&database.url_as(RoleKind::Receiver));
    let receiving = Receiving::start_with(&proxy.url(), &[], &[]).await;
    let job = sent(pool, "312000001", TEXT).await;
    assert_eq!(
        receiving
            .post(&event("312000001", "accepted", NUMBER, TEXT))
            .await,
        200
    );
    proxy.falls_silent();
    let body = event("312000001", "delivered", NUMBER, TEXT);
    let mut refused = 0;
    let began = Instant::now();
    loop {
        match receiving.post(&body).await {
            200 => break,
            status => assert_eq!(status, 503),
        }
        refused += 1;
        assert!(
            began.elapsed() < DEADLINE,
            "{:?}",
            receiving.process.lines()
        );
    }
    assert!(refused >= 1);
    assert_eq!(delivery(pool, job).await, told("delivered", 1, 0));
    let lines = receiving.stop().await.join("\n");
    assert!(lines.contains("the database is unavailable"), "{lines}");

    let nobody = format!("postgres://nobody@{}/nothing", nowhere());
    let receiving = Receiving::start_with(&nobody, &ANYWHERE, &[]).await;
    assert_eq!(receiving.post(&body).await, 503);
    let address = crate::metrics::address(&receiving.process).await;
    let events = "sms_outbox_webhook_events_total";
    wait_for_value(&address, events, &["result=\"unavailable\""], 1.0).await;
    receiving.stop().await;
}

#[tokio::test]
async fn stopping_finishes_what_is_on_its_way() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let receiving = Receiving::start(&database).await;
    let job = sent(pool, "312000001", TEXT).await;
    let body = event("312000001", "delivered", NUMBER, TEXT);
    let mut stream = TcpStream::connect(&receiving.address)
        .await
        .expect("it listens");
    let length = body.len();
    let head = format!(
        "POST /webhooks/default/{SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    );
    let (front, back) = body.split_at(20);
    stream.write_all(head.as_bytes()).await.expect("it reads");
    stream.write_all(front.as_bytes()).await.expect("it reads");
    // Once another one is answered, this one has been begun.
    assert_eq!(
        receiving.post(&event("9", "accepted", NUMBER, TEXT)).await,
        200
    );
    receiving.process.signal(Signal::SIGTERM);
    receiving.process.wait_for_line("stopping").await;
    stream
        .write_all(back.as_bytes())
        .await
        .expect("it still reads");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(DEADLINE, read)
        .await
        .expect("in time")
        .expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut process = receiving.process;
    assert_eq!(process.ended().await.code(), Some(0));
    assert_eq!(delivery(pool, job).await, told("delivered", 1, 0));
}

#[tokio::test]
async fn a_receiver_that_cannot_do_its_work_does_not_start_and_says_why() {
    let database = TestDatabase::create().await;
    let receiver = database.url_as(RoleKind::Receiver);
    let listen = ("SMS_OUTBOX_WEBHOOK_ADDRESS", "127.0.0.1:0");
    let secret = ("SMS_OUTBOX_WEBHOOK_SECRET", SECRET);
    let producer = database.url_as(RoleKind::Producer);
    for (url, environment, words) in [
        (&receiver, vec![secret], "SMS_OUTBOX_WEBHOOK_ADDRESS"),
        (&receiver, vec![listen], "SMS_OUTBOX_WEBHOOK_SECRET"),
        (
            &receiver,
            vec![listen, ("SMS_OUTBOX_WEBHOOK_SECRET", "hunter2")],
            "can be guessed",
        ),
        (
            &receiver,
            vec![listen, secret, ("SMS_OUTBOX_WEBHOOK_FORWARD", "hunter2@")],
            "SMS_OUTBOX_WEBHOOK_FORWARD",
        ),
        (&producer, vec![listen, secret], "grant receiver"),
    ] {
        if words == "grant receiver" && !database.is_granted() {
            continue;
        }
        let (code, said) = program::run(&["receive", "--database-url", url], &environment).await;
        assert_eq!(code, Some(2), "{words}: {said}");
        assert!(said.contains(words), "{words}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn a_worker_receives_where_it_is_told_to() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let worker = Process::worker_with(
        &database.worker_url(),
        &provider.url(),
        &["--webhook-address", "127.0.0.1:0"],
        &[("SMS_OUTBOX_WEBHOOK_SECRET", SECRET)],
    );
    let address = address(&worker).await;
    let job = sent(pool, "312000001", TEXT).await;
    let body = event("312000001", "delivered", NUMBER, TEXT);
    let path = format!("/webhooks/default/{SECRET}");
    assert_eq!(post(&address, &path, &body).await.0, 200);
    assert_eq!(delivery(pool, job).await, told("delivered", 1, 0));
    worker.stop().await;
}

#[tokio::test]
async fn an_event_goes_on_to_where_it_went_before_as_it_came() {
    let database = TestDatabase::create().await;
    let there = FakeProvider::scripted(|request| match request.n {
        1 => Reply::text(503, "later"),
        _ => Reply::text(204, ""),
    });
    let url = there.url().replace("http://", "http://user:hunter2@") + "/hook?key=hunter2";
    let receiving = Receiving::start_with(
        &database.url_as(RoleKind::Receiver),
        &ANYWHERE,
        &[
            ("SMS_OUTBOX_WEBHOOK_FORWARD", &url),
            ("SMS_OUTBOX_LOG", "debug"),
        ],
    )
    .await;
    let body = event("7", "delivered", NUMBER, TEXT).replace("{\"report\"", "{ \"report\"");
    assert_eq!(receiving.post(&body).await, 200);
    assert_eq!(receiving.post("{}").await, 400);
    there
        .wait("it goes on", |requests| requests.len() == 2)
        .await;
    for request in there.requests() {
        assert_eq!(request.path, "/hook?key=hunter2");
        let raw = String::from_utf8_lossy(&request.raw).into_owned();
        assert!(raw.ends_with(&body), "{raw}");
    }
    let address = crate::metrics::address(&receiving.process).await;
    let forwards = "sms_outbox_webhook_forwards_total";
    wait_for_value(&address, forwards, &["result=\"taken\""], 1.0).await;
    let lines = receiving.stop().await.join("\n");
    assert!(!lines.contains("hunter2"), "{lines}");
}

#[tokio::test]
async fn whoever_an_event_goes_on_to_delays_and_loses_none_of_ours() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let held = hold.clone();
    let there = FakeProvider::scripted(move |_| Reply::text(200, "").held(&held));
    let nobody = format!("http://{}/", nowhere());
    for url in [there.url(), nobody] {
        let receiving = Receiving::start_with(
            &database.url_as(RoleKind::Receiver),
            &[],
            &[("SMS_OUTBOX_WEBHOOK_FORWARD", url.as_str())],
        )
        .await;
        let began = Instant::now();
        for n in 0..30 {
            let body = event(&format!("8{n}"), "delivered", NUMBER, TEXT);
            assert_eq!(receiving.post(&body).await, 200);
        }
        assert!(
            began.elapsed() < Duration::from_secs(9),
            "less than one try takes"
        );
        receiving.stop().await;
    }
    hold.release();
    assert_eq!(inbox(pool).await.len(), 60);
}

#[tokio::test]
async fn doctor_sends_a_receiver_an_event() {
    let database = TestDatabase::create().await;
    let url = database.url_as(RoleKind::Receiver);
    let receiving = Receiving::start(&database).await;
    let doctor = async |address: &str, secret: &str| {
        program::run(
            &[
                "doctor",
                "--as",
                "receiver",
                "--database-url",
                &url,
                "--webhook-address",
                address,
            ],
            &[("SMS_OUTBOX_WEBHOOK_SECRET", secret)],
        )
        .await
    };
    let (code, said) = doctor(&receiving.address, SECRET).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("webhook") && !said.contains(SECRET), "{said}");
    let (code, said) = doctor(&receiving.address, OLD).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("another secret") && !said.contains(OLD),
        "{said}"
    );
    let (code, said) = doctor(&nowhere().to_string(), SECRET).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("sms-outbox receive"), "{said}");
    assert_eq!(inbox(database.pool()).await, []);
    execute(database.pool(), "SELECT 1").await;
    receiving.stop().await;
}
