//! Accepted messages are followed to the phone: what nobody tells is asked for, with few questions, and whoever tells is believed as
//! far as it can be known.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sms_outbox::outbox::{ConnectOptions, ContentKey, Outbox};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Reply, Request, SEND, healthy, order_id};
use crate::support::worker::{
    Process, Worker, count, execute, insert, insert_many, job, wait_for_count, wait_for_status,
    wait_for_statuses,
};

const REPORTS: &str = "/v1/get-reports/json";
const REPORT: &str = "/v1/get-report/json";

/// Six hundred times as fast as in life: a minute takes 100 ms.
const FLAGS: [&str; 10] = [
    "--report-rate",
    "200",
    "--delivery-pace",
    "600",
    "--delivery-horizon",
    "1h",
    "--reconcile",
    "false",
    "--request-timeout",
    "2s",
];

/// An order that the provider has taken.
#[derive(Clone, Debug)]
struct Taken {
    id: String,
    numbers: Vec<String>,
    text: String,
    at: DateTime<Utc>,
}

/// What the provider knows of its orders, and how it tells.
#[derive(Clone)]
struct Ledger {
    orders: Arc<Mutex<Vec<Taken>>>,
    newest_first: bool,
    /// Of each number of an order: 110, 111 or 112.
    state: fn(&Taken, usize) -> u16,
    /// Of an order: 113, 114 or 115.
    order_state: fn(&Taken) -> u16,
    /// Numbers as texts, and commas in prices.
    as_text: bool,
}

impl Ledger {
    fn new(state: fn(&Taken, usize) -> u16) -> Self {
        Self {
            orders: Arc::default(),
            newest_first: false,
            state,
            order_state: |_| 0,
            as_text: false,
        }
    }

    fn orders(&self) -> Vec<Taken> {
        self.orders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn states(&self, order: &Taken) -> Vec<u16> {
        (0..order.numbers.len())
            .map(|place| (self.state)(order, place))
            .collect()
    }

    fn summary(&self, order: &Taken) -> Value {
        let states = self.states(order);
        let count = |code: u16| states.iter().filter(|state| **state == code).count();
        let status = match (self.order_state)(order) {
            0 if count(110) > 0 => 113,
            0 => 114,
            state => state,
        };
        let at = order
            .at
            .with_timezone(&chrono_tz::Europe::Istanbul)
            .format("%Y-%m-%d %H:%M:%S")
            .to_string();
        let figure = |n: usize| self.figure(n);
        json!({"id": order.id, "status": figure(status.into()), "total": figure(order.numbers.len()), "delivered": figure(count(111)),
               "undelivered": figure(count(112)), "waiting": figure(count(110)), "submitAt": at, "sendAt": at, "sender": "BRAND",
               "price": if self.as_text { json!("0,0372") } else { json!(0.5) }})
    }

    fn figure(&self, n: usize) -> Value {
        if self.as_text {
            json!(n.to_string())
        } else {
            json!(n)
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        match request.path.as_str() {
            SEND => {
                let taken = Taken {
                    id: order_id(request.n),
                    numbers: request.numbers().iter().map(|n| (*n).to_owned()).collect(),
                    text: request.text().to_owned(),
                    at: Utc::now(),
                };
                self.orders
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(taken);
                healthy(request)
            }
            REPORTS => {
                let page = request.json["request"]["filter"]["page"].as_u64();
                let page = usize::try_from(page.unwrap_or(1)).unwrap_or(1);
                let mut orders = self.orders();
                if self.newest_first {
                    orders.reverse();
                }
                let shown = orders.iter().skip((page - 1) * 30).take(30);
                let shown: Vec<Value> = shown.map(|order| self.summary(order)).collect();
                Reply::json(
                    200,
                    &json!({"response": {"status": {"code": 200}, "count": self.figure(orders.len()), "orders": shown}}),
                )
            }
            REPORT => {
                let asked = &request.order()["id"];
                let page: usize = request.order()["page"]
                    .as_str()
                    .and_then(|page| page.parse().ok())
                    .unwrap_or(1);
                let orders = self.orders();
                let Some(order) = orders.iter().find(|order| *asked == json!(order.id)) else {
                    return Reply::code(455, 455);
                };
                let states = self.states(order);
                let each = order.numbers.iter().zip(states);
                let messages: Vec<Value> = each
                    .skip((page - 1) * 1_000)
                    .take(1_000)
                    .map(|(number, state)| json!({"number": format!("+{number}"), "status": self.figure(state.into())}))
                    .collect();
                let mut summary = self.summary(order);
                summary["message"] = json!(messages);
                Reply::json(
                    200,
                    &json!({"response": {"status": {"code": 200}, "order": summary}}),
                )
            }
            _ => healthy(request),
        }
    }

    fn provider(&self) -> FakeProvider {
        let ledger = self.clone();
        FakeProvider::scripted(move |request| ledger.answer(request))
    }
}

fn questions(provider: &FakeProvider) -> usize {
    let requests = provider.requests();
    let asked = requests
        .iter()
        .filter(|request| matches!(request.path.as_str(), REPORT | REPORTS));
    asked.count()
}

/// Status, source, and price of a job's delivery.
async fn delivery(pool: &PgPool, job: Uuid) -> Option<(String, String, Option<String>)> {
    sqlx::query_as(
        "SELECT status, source, trim_scale(price)::text FROM sms_outbox.deliveries WHERE job_id = $1",
    )
    .bind(job)
    .fetch_optional(pool)
    .await
    .expect("the database answers")
}

async fn wait_for_delivery(pool: &PgPool, job: Uuid, status: &str) {
    let is = format!(
        "SELECT count(*) FROM sms_outbox.deliveries WHERE job_id = '{job}' AND status = '{status}'"
    );
    wait_for_count(pool, &is, |n| n == 1).await;
}

fn ends_with(order: &Taken, end: &str) -> bool {
    order.text.ends_with(end)
}

/// Delivered, unless the text says otherwise.
fn as_the_text_says(order: &Taken, place: usize) -> u16 {
    if ends_with(order, "never") || ends_with(order, "refused") {
        110
    } else if ends_with(order, "no") || ends_with(order, "half") && place % 2 == 1 {
        112
    } else {
        111
    }
}

/// What a receiver writes that cannot match an event by itself.
async fn event(pool: &PgPool, order: &str, number: &str, word: char, text: &str) {
    let content = ContentKey::of("default", [number], text).low();
    execute(
        pool,
        format!(
            "INSERT INTO sms_outbox.delivery_inbox (account, order_id, numbers, words, contents)
             VALUES ('default', '{order}', ARRAY['{number}'], '{word}', ARRAY[{content}])"
        ),
    )
    .await;
}

async fn wait_for_empty_inbox(pool: &PgPool) {
    wait_for_count(
        pool,
        "SELECT count(*) FROM sms_outbox.delivery_inbox",
        |n| n == 0,
    )
    .await;
}

#[tokio::test]
async fn what_the_reports_say_of_a_message_becomes_its_delivery() {
    for as_text in [false, true] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let mut ledger = Ledger::new(as_the_text_says);
        ledger.order_state = |order| if ends_with(order, "refused") { 115 } else { 0 };
        ledger.as_text = as_text;
        let provider = ledger.provider();
        let worker = Worker::start(&database, &provider, &FLAGS);
        // Two at a time: no page of a list is worth it.
        let mut expected = Vec::new();
        for pair in [["yes", "no"], ["refused", "never"]] {
            for text in pair {
                let id = insert(pool, &[("body", &format!("'{text}'"))]).await;
                expected.push((id, text));
            }
            let ids: Vec<Uuid> = expected.iter().map(|(id, _)| *id).collect();
            wait_for_statuses(pool, &ids, "sent").await;
            for (id, text) in &expected {
                match *text {
                    "yes" => wait_for_delivery(pool, *id, "delivered").await,
                    "no" => wait_for_delivery(pool, *id, "undelivered").await,
                    "refused" => wait_for_delivery(pool, *id, "refused").await,
                    _ => {}
                }
            }
        }
        worker.stop().await;
        assert_eq!(delivery(pool, expected[3].0).await, None, "no word yet");
        let (_, source, price) = delivery(pool, expected[0].0).await.expect("a row");
        if source == "report" {
            assert_eq!(
                price.as_deref(),
                Some(if as_text { "0.0372" } else { "0.5" })
            );
        }
    }
}

#[tokio::test]
async fn a_thousand_messages_cost_few_questions_whichever_way_the_list_is_sorted() {
    for newest_first in [false, true] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let mut ledger = Ledger::new(as_the_text_says);
        ledger.newest_first = newest_first;
        let provider = ledger.provider();
        // They are all sent before the first step comes.
        let ids = insert_many(pool, 1_000, &[("body", "'text ' || n")]).await;
        let sending = Worker::start(&database, &provider, &["--deliveries", "false"]);
        wait_for_statuses(pool, &ids, "sent").await;
        sending.stop().await;
        let worker = Worker::start(&database, &provider, &FLAGS);
        wait_for_count(
            pool,
            "SELECT count(*) FROM sms_outbox.deliveries WHERE status = 'delivered' AND source = 'list'",
            // All but a few that were asked about early, or late.
            |n| n >= 970,
        )
        .await;
        wait_for_count(
            pool,
            "SELECT count(*) FROM sms_outbox.deliveries WHERE status = 'delivered'",
            |n| n == 1_000,
        )
        .await;
        worker.stop().await;
        let asked = questions(&provider);
        assert!(
            asked <= 60,
            "newest first {newest_first}: {asked} questions"
        );
    }
}

#[tokio::test]
async fn nobodys_word_until_the_horizon_is_unknown_and_late_news_still_counts() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = Ledger::new(as_the_text_says).provider();
    let flags = [&FLAGS[..], &["--delivery-horizon", "1s"]].concat();
    let worker = Worker::start(&database, &provider, &flags);
    let id = insert(
        pool,
        &[("body", "'never'"), ("recipients", "ARRAY['905321234567']")],
    )
    .await;
    wait_for_delivery(pool, id, "unknown").await;
    let asked = questions(&provider);
    assert!(asked >= 1, "it was asked before it was given up");
    let order = job(pool, id).await.order_id.expect("its order");
    event(pool, &order, "905321234567", 'd', "never").await;
    wait_for_delivery(pool, id, "delivered").await;
    worker.stop().await;
    let told = "SELECT count(*) FROM sms_outbox.change_log";
    assert_eq!(count(pool, told).await, 3, "sent, unknown, delivered");
}

#[tokio::test]
async fn a_long_list_is_read_when_it_is_complete_and_written_once() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    let waiting = ledger.clone();
    provider.now_says(move |request| {
        let mut waiting = waiting.clone();
        waiting.order_state = |_| 113;
        waiting.answer(request)
    });
    let numbers =
        "ARRAY(SELECT '90532' || lpad(n::text, 7, '0') FROM generate_series(1, 2500) AS n)";
    let id = insert(pool, &[("recipients", numbers), ("body", "'half'")]).await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    wait_for_status(pool, id, "sent").await;
    provider
        .wait("it was asked about", |all| {
            all.iter().any(|request| request.path == REPORT)
        })
        .await;
    assert_eq!(delivery(pool, id).await, None, "nothing of a part of it");
    provider.now_says(move |request| ledger.answer(request));
    wait_for_delivery(pool, id, "partly").await;
    worker.stop().await;
    let (total, delivered, undelivered, writes): (i32, i32, i32, i32) = sqlx::query_as(
        "SELECT total, delivered, undelivered, writes FROM sms_outbox.deliveries WHERE job_id = $1",
    )
    .bind(id)
    .fetch_one(pool)
    .await
    .expect("a row");
    assert_eq!(
        (total, delivered, undelivered, writes),
        (2_500, 1_250, 1_250, 1)
    );
    let failed = format!(
        "SELECT count(*) FROM sms_outbox.recipients('{id}') WHERE delivery = 'undelivered' AND n % 2 = 0"
    );
    assert_eq!(count(pool, failed).await, 1_250);
}

/// What is said of one number more costs the same again: so little may be.
#[tokio::test]
async fn what_is_said_of_fifty_thousand_numbers_is_stored_in_little() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // One of sixteen, without a pattern.
    let provider = Ledger::new(|_, place| {
        let hash = (place as u32).wrapping_mul(2_654_435_761).rotate_left(7) ^ 0x5bd1;
        if hash.wrapping_mul(0x9e37_79b1) >> 28 == 0 {
            112
        } else {
            111
        }
    })
    .provider();
    let numbers =
        "ARRAY(SELECT '90532' || lpad(n::text, 7, '0') FROM generate_series(1, 50000) AS n)";
    let id = insert(pool, &[("recipients", numbers)]).await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    wait_for_delivery(pool, id, "partly").await;
    worker.stop().await;
    let bytes = "SELECT pg_column_size(places)::bigint FROM sms_outbox.deliveries";
    let bytes = count(pool, bytes).await;
    assert!(bytes < 20_000, "{bytes}");
    let writes = "SELECT writes::bigint FROM sms_outbox.deliveries";
    assert_eq!(count(pool, writes).await, 1);
    assert!(
        questions(&provider) <= 60,
        "fifty pages, and the first of them before"
    );
}

#[tokio::test]
async fn an_order_that_is_not_there_yet_and_reports_that_refuse_are_asked_again() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    let mut asked = 0;
    provider.now_says(move |request| {
        if request.path == REPORT {
            asked += 1;
            match asked {
                1 => return Reply::code(455, 455),
                2 => return Reply::code(456, 456),
                3 => return Reply::code(429, 429),
                4 => return Reply::text(503, "<html>"),
                5 => return Reply::Hangup,
                _ => {}
            }
        }
        ledger.answer(request)
    });
    let id = insert(pool, &[]).await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    wait_for_delivery(pool, id, "delivered").await;
    worker.stop().await;
}

/// A report that is never given holds up no other, and a list that is never given is done without.
#[tokio::test]
async fn a_question_that_is_never_answered_holds_up_no_other() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    provider.now_says(move |request| match request.path.as_str() {
        REPORTS => Reply::text(500, "<html>"),
        REPORT if request.order()["id"] == json!(order_id(1)) => Reply::code(500, 500),
        _ => ledger.answer(request),
    });
    let first = insert(pool, &[]).await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    wait_for_status(pool, first, "sent").await;
    let others = insert_many(pool, 10, &[]).await;
    wait_for_statuses(pool, &others, "sent").await;
    let delivered = "SELECT count(*) FROM sms_outbox.deliveries WHERE status = 'delivered'";
    wait_for_count(pool, delivered, |n| n == 10).await;
    worker.stop().await;
    assert_eq!(delivery(pool, first).await, None);
}

/// Nothing is asked about what a webhook has told, and where it tells nearly everything the rest is given time.
#[tokio::test]
async fn where_webhooks_tell_nearly_everything_little_is_asked() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    let sending = Worker::start(&database, &provider, &["--deliveries", "false"]);
    let ids = insert_many(pool, 200, &[]).await;
    wait_for_statuses(pool, &ids, "sent").await;
    sending.stop().await;
    execute(
        pool,
        "INSERT INTO sms_outbox.deliveries (job_id, account, total, delivered, undelivered, facts, status, source, finished_at)
         SELECT id, account, 1, 1, 0, 2, 'delivered', 'webhook', now() FROM sms_outbox.jobs ORDER BY id LIMIT 195",
    )
    .await;
    // Ten seconds for five minutes: what follows is not yet another step.
    let flags = [
        &FLAGS[..],
        &["--delivery-pace", "100", "--report-rate", "1000"],
    ]
    .concat();
    let worker = Worker::start(&database, &provider, &flags);
    wait_for_count(
        pool,
        "SELECT count(*) FROM sms_outbox.delivery_checks WHERE step = 2",
        |n| n == 1,
    )
    .await;
    // The five that it has not told, before anything was known of the webhook; a sample of what it has told, and nothing else.
    let asked = questions(&provider);
    assert!(asked <= 10, "{asked}");
    let delivered = "SELECT count(*) FROM sms_outbox.deliveries WHERE status = 'delivered'";
    wait_for_count(pool, delivered, |n| n == 200).await;
    worker.stop().await;
    let asked = questions(&provider);
    assert!(asked <= 15, "{asked}");
}

#[tokio::test]
async fn a_report_of_other_numbers_is_not_believed() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    provider.now_says(move |request| match request.path.as_str() {
        REPORT => Reply::json(
            200,
            &json!({"response": {"status": {"code": 200}, "order": {"id": "1", "status": 114, "total": 1,
                "message": [{"number": "+905399999999", "status": 111}]}}}),
        ),
        _ => ledger.answer(request),
    });
    let flags = [&FLAGS[..], &["--delivery-horizon", "1s"]].concat();
    let id = insert(pool, &[]).await;
    let worker = Worker::start(&database, &provider, &flags);
    wait_for_delivery(pool, id, "unknown").await;
    worker.stop().await;
}

#[tokio::test]
async fn of_an_account_that_is_paused_nothing_is_asked() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    let sending = Worker::start(&database, &provider, &["--deliveries", "false"]);
    let id = insert(pool, &[]).await;
    wait_for_status(pool, id, "sent").await;
    sending.stop().await;
    execute(
        pool,
        "INSERT INTO sms_outbox.pauses (account, scope, reason, paused_by) VALUES ('default', 'account', 'by hand', 'somebody')",
    )
    .await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(questions(&provider), 0);
    execute(pool, "UPDATE sms_outbox.pauses SET ended_at = now()").await;
    wait_for_delivery(pool, id, "delivered").await;
    worker.stop().await;
}

#[tokio::test]
async fn one_worker_asks_and_when_it_is_killed_another_goes_on() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = Ledger::new(as_the_text_says).provider();
    let first = Process::worker(&database.worker_url(), &provider.url(), &FLAGS);
    let id = insert(pool, &[]).await;
    wait_for_delivery(pool, id, "delivered").await;
    let second = Process::worker(&database.worker_url(), &provider.url(), &FLAGS);
    let more = insert_many(pool, 50, &[]).await;
    wait_for_statuses(pool, &more, "sent").await;
    let holder =
        "SELECT count(*) FROM sms_outbox.maintenance_leases WHERE task = 'reports/default'";
    assert_eq!(count(pool, holder).await, 1);
    // Whoever of the two it is: the other one takes over.
    drop(first);
    let later = insert(pool, &[]).await;
    wait_for_delivery(pool, later, "delivered").await;
    let all = "SELECT count(*) FROM sms_outbox.deliveries WHERE status = 'delivered'";
    wait_for_count(pool, all, |n| n == 52).await;
    second.stop().await;
}

#[tokio::test]
async fn an_order_that_the_provider_holds_is_asked_about_after_its_time() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    let id = insert(pool, &[("provider_send_at", "now() + interval '1 hour'")]).await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    wait_for_status(pool, id, "sent").await;
    let other = insert(pool, &[]).await;
    wait_for_delivery(pool, other, "delivered").await;
    assert_eq!(delivery(pool, id).await, None);
    // An hour later, as far as the order goes.
    execute(
        pool,
        format!(
            "UPDATE sms_outbox.jobs SET provider_send_at = now() - interval '1 s', sent_at = now() - interval '1 hour'
             WHERE id = '{id}'"
        ),
    )
    .await;
    wait_for_delivery(pool, id, "delivered").await;
    worker.stop().await;
}

#[tokio::test]
async fn events_for_an_order_with_several_numbers_are_matched_whatever_their_order() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // The reports say nothing.
    let provider = FakeProvider::start();
    let numbers = "ARRAY['905321234567', '0532 123 45 68', '905321234569']";
    let id = insert(pool, &[("recipients", numbers), ("body", "'Hello '")]).await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    let order = wait_for_status(pool, id, "sent")
        .await
        .order_id
        .expect("its order");
    // Reversed, repeated, and with the provider's suffix.
    for (number, word, text) in [
        ("905321234567", 'd', "Hello "),
        ("905321234567", 'a', "Hello "),
        ("905321234567", 'd', "Hello"),
        ("905321234568", 'u', "Hello B186"),
    ] {
        event(pool, &order, number, word, text).await;
    }
    wait_for_empty_inbox(pool).await;
    let found = "SELECT count(*) FROM sms_outbox.deliveries WHERE status = 'pending' AND delivered = 1 AND undelivered = 1";
    assert_eq!(count(pool, found).await, 1);
    event(pool, &order, "905321234569", 'd', "Hello ").await;
    wait_for_delivery(pool, id, "partly").await;
    worker.stop().await;
}

#[tokio::test]
async fn an_event_that_comes_before_its_order_is_known_waits_for_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    event(pool, &order_id(1), "905321234567", 'd', "early").await;
    event(pool, "999", "905321234567", 'd', "from the panel").await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    let id = insert(
        pool,
        &[("body", "'early'"), ("recipients", "ARRAY['905321234567']")],
    )
    .await;
    wait_for_delivery(pool, id, "delivered").await;
    let panel = "SELECT count(*) FROM sms_outbox.delivery_inbox WHERE order_id = '999'";
    assert_eq!(count(pool, panel).await, 1, "it may be known later");
    execute(
        pool,
        "UPDATE sms_outbox.delivery_inbox SET received_at = now() - interval '25 hours', next_at = now()",
    )
    .await;
    wait_for_empty_inbox(pool).await;
    worker.stop().await;
    assert_eq!(
        count(pool, "SELECT count(*) FROM sms_outbox.deliveries").await,
        1
    );
}

#[tokio::test]
async fn an_event_that_does_not_fit_changes_nothing_that_a_report_does_not_confirm() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    // Nothing is asked by the schedule.
    let flags = [&FLAGS[..], &["--delivery-pace", "0.01"]].concat();
    let worker = Worker::start(&database, &provider, &flags);
    let number = ("recipients", "ARRAY['905321234567']");
    let no = insert(pool, &[("body", "'no'"), number]).await;
    let never = insert(pool, &[("body", "'never'"), number]).await;
    let sent = wait_for_statuses(pool, &[no, never], "sent").await;
    for job in &sent {
        let order = job.order_id.as_deref().expect("its order");
        event(pool, order, "905321234567", 'd', "another text").await;
    }
    wait_for_empty_inbox(pool).await;
    worker.stop().await;
    let (status, source, _) = delivery(pool, no).await.expect("what the report says");
    assert_eq!(
        (status.as_str(), source.as_str()),
        ("undelivered", "report")
    );
    assert_eq!(delivery(pool, never).await, None);
    assert_eq!(questions(&provider), 2);
}

#[tokio::test]
async fn a_report_outranks_what_a_webhook_has_said_and_the_contradiction_is_counted() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    let flags = [&FLAGS[..], &["--delivery-pace", "0.01"]].concat();
    let worker = Worker::start(&database, &provider, &flags);
    let number = ("recipients", "ARRAY['905321234567']");
    let id = insert(pool, &[("body", "'no'"), number]).await;
    let sent = wait_for_status(pool, id, "sent").await;
    let order = sent.order_id.as_deref().expect("its order");
    event(pool, order, "905321234567", 'd', "no").await;
    wait_for_delivery(pool, id, "delivered").await;
    // Somebody doubts it.
    event(pool, order, "905321234567", 'u', "another text").await;
    wait_for_delivery(pool, id, "undelivered").await;
    // And it stays so, whatever else is posted.
    event(pool, order, "905321234567", 'd', "no").await;
    wait_for_empty_inbox(pool).await;
    worker.stop().await;
    let (status, source, _) = delivery(pool, id).await.expect("a row");
    assert_eq!(
        (status.as_str(), source.as_str()),
        ("undelivered", "report")
    );
    let conflicts = "SELECT conflicts::bigint FROM sms_outbox.deliveries";
    assert_eq!(count(pool, conflicts).await, 1);
}

#[tokio::test]
async fn lost_answers_are_settled_by_the_webhook_and_one_report_each() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ledger = Ledger::new(as_the_text_says);
    let provider = ledger.provider();
    let taking = ledger.clone();
    provider.now_says(move |request| match request.path.as_str() {
        SEND => {
            drop(taking.answer(request));
            Reply::Hangup
        }
        _ => taking.answer(request),
    });
    // Not an exclusive account, and nobody looks in the reports.
    let flags = [
        &FLAGS[..],
        &["--guard-window", "2s", "--delivery-pace", "0.01"],
    ]
    .concat();
    let ids = insert_many(pool, 5, &[("body", "'lost ' || n || ' half'")]).await;
    let worker = Worker::start(&database, &provider, &flags);
    wait_for_statuses(pool, &ids, "uncertain").await;
    let orders = ledger.orders();
    assert_eq!(orders.len(), 5);
    // A forged one: the order is another message's.
    event(
        pool,
        &orders[1].id,
        &orders[0].numbers[0],
        'd',
        &orders[0].text,
    )
    .await;
    let forged = "SELECT count(*) FROM sms_outbox.delivery_inbox";
    wait_for_count(pool, forged, |n| n == 0).await;
    assert_eq!(job(pool, ids[0]).await.status, "uncertain");
    for order in &orders {
        event(pool, &order.id, &order.numbers[0], 'd', &order.text).await;
    }
    let settled = wait_for_statuses(pool, &ids, "sent").await;
    for job in &settled {
        let order = orders.iter().find(|order| order.text == job.body);
        assert_eq!(
            job.order_id.as_deref(),
            order.map(|order| order.id.as_str())
        );
        wait_for_delivery(pool, job.id, "delivered").await;
        let history = Outbox::new(pool.clone()).attempts(job.id).await;
        let history = history.expect("the history");
        let last = history.last().expect("it has one");
        assert_eq!(last.observer, "webhook");
        let evidence = last.evidence.as_deref().unwrap_or_default();
        assert!(evidence.contains("event of the webhook"), "{evidence}");
        assert!(!evidence.contains("90532"), "no number in it: {evidence}");
    }
    wait_for_empty_inbox(pool).await;
    worker.stop().await;
    assert_eq!(ledger.orders().len(), 5, "nothing was sent twice");
    assert_eq!(questions(&provider), 6);
}

/// A dump brings entries and cursors along, and the other server may have counted its transactions further.
#[tokio::test]
async fn a_schedule_that_was_restored_from_another_server_goes_on() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    execute(
        pool,
        "INSERT INTO sms_outbox.change_log (xid, at, account, jobs)
         VALUES ('9000000000', now() - interval '1 hour', 'default', ARRAY[gen_random_uuid()]);
         INSERT INTO sms_outbox.delivery_checks (account, step, xid, id, place, scheduled_to, scheduled_id)
         SELECT 'default', step, '9000000000', 1, 1, 'epoch', '00000000-0000-0000-0000-000000000000'
         FROM generate_series(0, 9) AS step",
    )
    .await;
    let provider = Ledger::new(as_the_text_says).provider();
    let worker = Worker::start(&database, &provider, &FLAGS);
    let id = insert(pool, &[]).await;
    wait_for_delivery(pool, id, "delivered").await;
    worker.stop().await;
}

/// A step of the schedule, however many wait without a word, and however many are decided.
#[tokio::test]
async fn a_step_of_the_schedule_reads_what_it_comes_to_and_nothing_else() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    for statement in [
        "ALTER TABLE sms_outbox.jobs SET (autovacuum_enabled = false)",
        "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, status, attempt, token, order_id, sent_at, finished_at,
                                      content_key)
         SELECT 'BRAND', ARRAY['905320000000'], 'text ' || n, false, 'sent', 1, 1, n::text, now() - interval '1 hour',
                now() - interval '1 hour', n
         FROM generate_series(1, 60000) AS n",
        "INSERT INTO sms_outbox.change_log (at, account, jobs)
         SELECT now() - interval '1 hour', 'default', array_agg(id ORDER BY id)
         FROM (SELECT id, row_number() OVER (ORDER BY id) / 20 AS part FROM sms_outbox.jobs) AS each GROUP BY part",
        "UPDATE sms_outbox.jobs SET sent_at = (SELECT min(at) FROM sms_outbox.change_log)",
        "INSERT INTO sms_outbox.deliveries (job_id, account, total, delivered, undelivered, facts, status, source)
         SELECT id, account, 1, 1, 0, 8, 'delivered', 'report' FROM sms_outbox.jobs WHERE order_id::integer % 10 <> 0",
        "VACUUM ANALYZE sms_outbox.jobs",
        "VACUUM ANALYZE sms_outbox.change_log",
        "VACUUM ANALYZE sms_outbox.deliveries",
    ] {
        execute(pool, statement).await;
    }
    let options = ConnectOptions {
        for_worker: true,
        ..ConnectOptions::new(database.url())
    };
    let outbox = options.connect().await.expect("the database");
    let mut connection = outbox.pool().acquire().await.expect("a connection");
    let statement = include_str!("../../src/outbox/due_checks.sql");
    let middle: (String, i64) = sqlx::query_as(
        "SELECT xid::text, id FROM sms_outbox.change_log ORDER BY xid, id OFFSET 1500 LIMIT 1",
    )
    .fetch_one(pool)
    .await
    .expect("an entry");
    for stale in [false, true] {
        if stale {
            execute(
                pool,
                "UPDATE pg_class SET reltuples = 1, relpages = 100000 WHERE oid = 'sms_outbox.jobs'::regclass;
                 DELETE FROM pg_statistic WHERE starelid = 'sms_outbox.jobs'::regclass;",
            )
            .await;
        }
        for (xid, id) in [("0".to_owned(), 0), middle.clone()] {
            let sql = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}");
            let plan: Value = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind("default")
                .bind(&xid)
                .bind(id)
                .bind(0_i64)
                .bind(60_000_i64)
                .bind(500_i64)
                .bind(10_000_000_i64)
                .persistent(false)
                .fetch_one(&mut *connection)
                .await
                .expect("a plan");
            let plan = &plan[0]["Plan"];
            let said = plan.to_string();
            assert!(!said.contains("Seq Scan"), "stale {stale}: {plan:#}");
            assert!(said.contains("change_log_pkey"), "stale {stale}: {plan:#}");
            let of = |name: &str| plan[name].as_i64().expect("a number of pages");
            let pages = of("Shared Hit Blocks") + of("Shared Read Blocks");
            assert!(
                pages <= 500 * 9 + 200,
                "stale {stale}: {pages} pages: {plan:#}"
            );
        }
    }
    let found = outbox
        .due_checks(
            "default",
            &Default::default(),
            Duration::from_secs(60),
            Duration::from_secs(10_000),
            500,
        )
        .await
        .expect("the database answers");
    assert_eq!((found.sent, found.has_more), (500, true));
    let due = found.due.len();
    assert!((20..=90).contains(&due), "{due}: of ten nine are decided");
}
