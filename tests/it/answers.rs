//! What becomes of a job for everything that the provider may answer.

use serde_json::{Value, json};

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Guard, Reply, SEND, healthy, order_id};
use crate::support::worker::{
    HASH, KEY, Worker, count, insert, job, jobs, wait_for_count, wait_for_status, wait_for_statuses,
};
use sms_outbox::outbox::Outbox;

/// The codes that end a job, and whose failure they are.
const REFUSALS: [(u16, &str); 22] = [
    (400, "request"),
    (422, "request"),
    (452, "recipients"),
    (466, "recipients"),
    (453, "content"),
    (454, "content"),
    (457, "schedule"),
    (459, "sender"),
    (460, "sender"),
    (468, "iys"),
    (469, "iys"),
    // Known from other methods only, or from nowhere.
    (110, "unknown"),
    (114, "unknown"),
    (201, "unknown"),
    (419, "unknown"),
    (426, "unknown"),
    (455, "unknown"),
    (456, "unknown"),
    (458, "unknown"),
    (464, "unknown"),
    (474, "unknown"),
    (999, "unknown"),
];

/// The codes that are an account's failure: class, and who waits.
const BLOCKS: [(u16, &str, &str); 7] = [
    (401, "auth", "account"),
    (402, "balance", "account"),
    (403, "account", "account"),
    (404, "account", "account"),
    (467, "account", "account"),
    (450, "sender", "sender"),
    (470, "account", "iys"),
];

/// The HTTP statuses under which a code may come: its own where that is one, a general one, and success.
fn http_statuses(code: u16) -> Vec<u16> {
    let mut all = vec![200, 400];
    if (200..600).contains(&code) && !all.contains(&code) {
        all.push(code);
    }
    all
}

/// `"<http> <code> <n|s>"`, what a text asks the stand-in to answer.
fn as_the_text_says(text: &str) -> Reply {
    let words: Vec<&str> = text.split(' ').collect();
    let http = words[0].parse().expect("an HTTP status");
    let code: Value = if words[2] == "s" {
        json!(words[1])
    } else {
        json!(words[1].parse::<u32>().expect("a code"))
    };
    if words[1] == "200" {
        return Reply::json(
            http,
            &json!({"response": {"status": {"code": code}, "order": {"id": "312"}}}),
        );
    }
    Reply::code(http, code)
}

fn spellings(code: u16) -> Vec<String> {
    let both = |http| [format!("{http} {code} n"), format!("{http} {code} s")];
    http_statuses(code).into_iter().flat_map(both).collect()
}

#[tokio::test]
async fn a_refusal_fails_its_job_after_one_request_whatever_the_http_status() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND => as_the_text_says(request.text()),
        _ => healthy(request),
    });
    let mut ids = Vec::new();
    let mut expected = Vec::new();
    for (code, class) in REFUSALS {
        for text in spellings(code) {
            ids.push(insert(database.pool(), &[("body", &format!("'{text}'"))]).await);
            expected.push((text, class, i32::from(code)));
        }
    }
    let worker = Worker::start(&database, &provider, &[]);
    let ended = wait_for_statuses(database.pool(), &ids, "failed").await;
    for (job, (text, class, code)) in ended.iter().zip(&expected) {
        assert_eq!(job.error_class.as_deref(), Some(*class), "{text}");
        assert_eq!(job.error_code, Some(*code), "{text}");
        assert_eq!(job.attempt, 1, "{text}");
        assert!(
            job.ambiguous_since.is_none(),
            "{text}: a refusal is not indeterminate"
        );
        assert_eq!(provider.orders_of(text).len(), 1, "{text}");
        let history = Outbox::new(database.pool().clone()).attempts(job.id).await;
        let history = history.expect("the history");
        assert_eq!(history.len(), 1, "{text}");
        assert_eq!(history[0].provider_code, Some(*code), "{text}");
        assert_eq!(history[0].progress.as_deref(), Some("answered"), "{text}");
        assert!(history[0].counted, "{text}");
    }
    assert_eq!(
        count(database.pool(), "SELECT count(*) FROM sms_outbox.pauses").await,
        0
    );
    worker.stop().await;
}

#[tokio::test]
async fn an_accounts_failure_spends_no_attempt_whatever_the_http_status() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND => as_the_text_says(request.text()),
        _ => Reply::code(401, 401),
    });
    // Every case has an account of its own, because each one stops its account.
    let mut cases = Vec::new();
    for (code, class, scope) in BLOCKS {
        for (n, http) in http_statuses(code).into_iter().enumerate() {
            let spelling = if n % 2 == 0 { "n" } else { "s" };
            let account = format!("a{}", cases.len());
            cases.push((
                account,
                format!("{http} {code} {spelling}"),
                code,
                class,
                scope,
            ));
        }
    }
    let mut ids = Vec::new();
    for (account, text, _, _, scope) in &cases {
        let (iys, list) = if *scope == "iys" {
            ("true", "'BIREYSEL'")
        } else {
            ("false", "NULL")
        };
        let columns = [
            ("account", format!("'{account}'")),
            ("body", format!("'{text}'")),
            ("iys", iys.to_owned()),
            ("iys_list", list.to_owned()),
        ];
        let columns: Vec<(&str, &str)> = columns.iter().map(|(n, e)| (*n, e.as_str())).collect();
        ids.push(insert(database.pool(), &columns).await);
    }
    let accounts: Vec<&str> = cases.iter().map(|(account, ..)| account.as_str()).collect();
    let worker = Worker::start(
        &database,
        &provider,
        // A long backoff keeps probes away.
        &[
            "--accounts",
            &accounts.join(","),
            "--backoff-base",
            "60s",
            "--poll-interval",
            "200ms",
        ],
    );
    let pauses = "SELECT count(*) FROM sms_outbox.pauses WHERE ended_at IS NULL";
    wait_for_count(database.pool(), pauses, |found| {
        found as usize == cases.len()
    })
    .await;
    wait_for_statuses(database.pool(), &ids, "queued").await;
    worker.stop().await;
    for (job, (account, text, code, class, scope)) in
        jobs(database.pool(), &ids).await.iter().zip(&cases)
    {
        assert_eq!(job.status, "queued", "{text}");
        assert_eq!(job.attempt, 0, "{text}");
        assert_eq!(job.error_class.as_deref(), Some(*class), "{text}");
        assert_eq!(job.error_code, Some(i32::from(*code)), "{text}");
        assert_eq!(provider.orders_of(text).len(), 1, "{text}");
        let pause: (String, String, String, i32) = sqlx::query_as(
            "SELECT scope, sender, error_class, error_code FROM sms_outbox.pauses WHERE account = $1",
        )
        .bind(account)
        .fetch_one(database.pool())
        .await
        .expect("one pause");
        let sender = if *scope == "sender" { "BRAND" } else { "" };
        assert_eq!(
            pause,
            (
                (*scope).into(),
                sender.into(),
                (*class).into(),
                i32::from(*code)
            ),
            "{text}"
        );
        let history = Outbox::new(database.pool().clone()).attempts(job.id).await;
        let history = history.expect("the history");
        assert_eq!(history.len(), 1, "{text}");
        assert!(!history[0].counted, "{text}: the attempt was released");
    }
}

#[tokio::test]
async fn http_without_a_code_is_judged_by_its_status() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND => Reply::text(
            request.text().parse().expect("an HTTP status"),
            "<html>oops</html>",
        ),
        _ => Reply::code(401, 401),
    });
    let cases = [
        ("401", "auth"),
        ("403", "auth"),
        ("404", "account"),
        ("405", "account"),
        ("451", "account"),
        ("302", "account"),
        ("307", "account"),
        ("308", "account"),
    ];
    let mut ids = Vec::new();
    for (status, _) in cases {
        let columns = [
            ("account", format!("'a{status}'")),
            ("body", format!("'{status}'")),
        ];
        let columns: Vec<(&str, &str)> = columns.iter().map(|(n, e)| (*n, e.as_str())).collect();
        ids.push(insert(database.pool(), &columns).await);
    }
    let too_large = insert(
        database.pool(),
        &[("body", "'413'"), ("account", "'a401b'")],
    )
    .await;
    let accounts = cases.map(|(status, _)| format!("a{status}")).join(",") + ",a401b";
    let worker = Worker::start(
        &database,
        &provider,
        &[
            "--accounts",
            &accounts,
            "--backoff-base",
            "60s",
            "--poll-interval",
            "200ms",
        ],
    );
    let pauses =
        "SELECT count(*) FROM sms_outbox.pauses WHERE scope = 'account' AND ended_at IS NULL";
    wait_for_count(database.pool(), pauses, |found| {
        found as usize == cases.len()
    })
    .await;
    let failed = wait_for_status(database.pool(), too_large, "failed").await;
    assert_eq!(failed.error_class.as_deref(), Some("request"));
    let waiting = wait_for_statuses(database.pool(), &ids, "queued").await;
    worker.stop().await;
    for (job, (status, class)) in waiting.iter().zip(cases) {
        assert_eq!(job.error_class.as_deref(), Some(class), "HTTP {status}");
        assert_eq!((job.attempt, job.error_code), (0, None), "HTTP {status}");
        assert_eq!(provider.orders_of(status).len(), 1, "HTTP {status}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let database = TestDatabase::create().await;
    let elsewhere = FakeProvider::start();
    let target = format!("{}{SEND}", elsewhere.url());
    let provider = FakeProvider::scripted(move |request| match request.path.as_str() {
        SEND => Reply::text(307, "").with_header("location", &target),
        _ => Reply::code(401, 401),
    });
    let id = insert(database.pool(), &[]).await;
    let worker = Worker::start(&database, &provider, &["--backoff-base", "60s"]);
    wait_for_count(
        database.pool(),
        "SELECT count(*) FROM sms_outbox.pauses",
        |n| n == 1,
    )
    .await;
    let job = wait_for_status(database.pool(), id, "queued").await;
    worker.stop().await;
    assert_eq!(
        (job.attempt, job.error_class.as_deref()),
        (0, Some("account"))
    );
    assert_eq!(provider.orders().len(), 1);
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn an_order_id_is_kept_whether_it_comes_as_number_or_text_or_not_at_all() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| match request.text() {
        "number" => Reply::accepted(312_891_245),
        "text" => Reply::accepted("312891246"),
        "large" => Reply::accepted(9_007_199_254_740_993_i64),
        "code as text" => Reply::json(
            200,
            &json!({"response": {"status": {"code": "200"}, "order": {"id": "312891247"}}}),
        ),
        "extra" => Reply::json(
            201,
            &json!({"x": [1], "response": {"y": {}, "status": {"code": 200}, "order": {"id": 312891248, "z": null}}}),
        ),
        "zero" => Reply::accepted(0),
        "missing" => Reply::code(200, 200),
        other => panic!("{other}"),
    });
    let expected = [
        ("number", Some("312891245")),
        ("text", Some("312891246")),
        ("large", Some("9007199254740993")),
        ("code as text", Some("312891247")),
        ("extra", Some("312891248")),
        ("zero", None),
        ("missing", None),
    ];
    let mut ids = Vec::new();
    for (text, _) in expected {
        ids.push(insert(database.pool(), &[("body", &format!("'{text}'"))]).await);
    }
    let worker = Worker::start(&database, &provider, &[]);
    let sent = wait_for_statuses(database.pool(), &ids, "sent").await;
    for (job, (text, order)) in sent.iter().zip(expected) {
        assert_eq!(job.order_id.as_deref(), order, "{text}");
        assert_eq!((job.attempt, job.duplicate), (1, false), "{text}");
        assert!(job.sent_at.is_some() && job.finished_at.is_some(), "{text}");
        assert!(job.error_class.is_none(), "{text}");
        assert_eq!(
            provider.orders_of(text).len(),
            1,
            "{text}: accepted is accepted"
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_451_is_success() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| as_the_text_says(request.text()));
    let texts = spellings(451);
    let mut ids = Vec::new();
    for text in &texts {
        ids.push(insert(database.pool(), &[("body", &format!("'{text}'"))]).await);
    }
    let worker = Worker::start(&database, &provider, &[]);
    for (job, text) in wait_for_statuses(database.pool(), &ids, "sent")
        .await
        .iter()
        .zip(&texts)
    {
        assert!(job.duplicate, "{text}");
        assert_eq!(job.order_id, None, "{text}: nobody named one");
        assert_eq!(job.duplicate_of, None, "{text}: no message of ours");
        assert_eq!(job.attempt, 1, "{text}");
        assert_eq!(provider.orders_of(text).len(), 1, "{text}");
        let history = Outbox::new(database.pool().clone()).attempts(job.id).await;
        let history = history.expect("the history");
        assert_eq!(history.len(), 1, "{text}");
        assert_eq!(history[0].provider_code, Some(451), "{text}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_duplicate_that_was_inserted_at_the_same_time_gets_the_order_and_the_id_of_its_original()
{
    let database = TestDatabase::create().await;
    let mut guard = Guard::default();
    let provider = FakeProvider::scripted(move |request| guard.take(request));
    for (spelling, other) in [
        ("90532 111 22 33", "905321112233"),
        ("0532 444 55 66", "+90 (532) 444-55-66"),
    ] {
        let body = format!("'your parcel for {spelling}'");
        let mut transaction = database.pool().begin().await.expect("a connection");
        let mut ids = Vec::new();
        for number in [spelling, other] {
            let sql = format!(
                "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys) VALUES ('BRAND', '{{{number}}}', {body}, false) \
                 RETURNING id"
            );
            let id: uuid::Uuid = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                .fetch_one(&mut *transaction)
                .await
                .expect("a job");
            ids.push(id);
        }
        transaction.commit().await.expect("both");
        let worker = Worker::start(&database, &provider, &[]);
        let sent = wait_for_statuses(database.pool(), &ids, "sent").await;
        worker.stop().await;
        let (first, second) = if sent[0].duplicate {
            (&sent[1], &sent[0])
        } else {
            (&sent[0], &sent[1])
        };
        assert!(!first.duplicate && second.duplicate);
        assert!(first.order_id.is_some());
        assert_eq!(second.order_id, first.order_id);
        assert_eq!(second.duplicate_of, Some(first.id));
        assert_eq!(first.duplicate_of, None);
    }
}

#[tokio::test]
async fn a_451_names_no_original_with_another_text_another_number_or_another_account() {
    let database = TestDatabase::create().await;
    let provider =
        FakeProvider::scripted(|request| match (request.sender(), request.path.as_str()) {
            ("DUP", SEND) => Reply::code(400, 451),
            _ => healthy(request),
        });
    let same = [("recipients", "'{905321112233}'"), ("body", "'hello'")];
    insert(
        database.pool(),
        &[("recipients", "'{905321112234}'"), same[1]],
    )
    .await;
    insert(database.pool(), &[same[0], ("body", "'hello!'")]).await;
    insert(database.pool(), &[same[0], same[1], ("account", "'other'")]).await;
    let worker = Worker::start(&database, &provider, &["--accounts", "default,other"]);
    let sent = "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'sent'";
    wait_for_count(database.pool(), sent, |n| n == 3).await;
    let id = insert(database.pool(), &[same[0], same[1], ("sender", "'DUP'")]).await;
    let job = wait_for_status(database.pool(), id, "sent").await;
    assert_eq!(
        (job.duplicate, job.duplicate_of, job.order_id),
        (true, None, None)
    );
    worker.stop().await;
}

#[tokio::test]
async fn bad_numbers_are_left_out_and_the_good_ones_sent() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let numbers = "ARRAY['0532 123 45 67', 'not a number', NULL, '+90 533 123 45 67', '0212 123 45 67', '532-123-45-67', '+49 171 1234567']";
    let id = insert(database.pool(), &[("recipients", numbers)]).await;
    let worker = Worker::start(&database, &provider, &[]);
    let job = wait_for_status(database.pool(), id, "sent").await;
    worker.stop().await;
    let orders = provider.orders();
    assert_eq!(orders.len(), 1);
    assert_eq!(
        orders[0].numbers(),
        ["905321234567", "905331234567"],
        "each number once"
    );
    let rejected = job.rejected_recipients.expect("there were bad ones");
    let rejected: Vec<&str> = rejected
        .iter()
        .map(|text| text.as_deref().unwrap_or("NULL"))
        .collect();
    assert_eq!(
        rejected,
        ["not a number", "", "0212 123 45 67", "+49 171 1234567"]
    );
    assert_eq!(job.order_id, Some(order_id(1)));
    let history = Outbox::new(database.pool().clone()).attempts(id).await;
    assert_eq!(history.expect("the history").len(), 1);
}

#[tokio::test]
async fn what_can_never_be_sent_fails_without_a_request() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let pool = database.pool();
    let cases = [
        (
            "recipients",
            insert(pool, &[("recipients", "'{nobody, 02121234567}'")]).await,
        ),
        (
            "recipients",
            insert(pool, &[("recipients", "ARRAY[NULL]::text[]")]).await,
        ),
        (
            "recipients",
            insert(pool, &[("recipients", "'{+491711234567}'")]).await,
        ),
        (
            "content",
            insert(pool, &[("body", "repeat('a', 1500)")]).await,
        ),
        (
            "content",
            insert(pool, &[("body", "repeat('🙂', 300)")]).await,
        ),
        (
            "schedule",
            // From before there was a rule about it.
            insert(
                pool,
                &[
                    ("token", "1"),
                    ("provider_send_at", "now() + interval '2 h'"),
                    ("expires_at", "now() + interval '1 h'"),
                ],
            )
            .await,
        ),
    ];
    let ids = cases.map(|(_, id)| id);
    let worker = Worker::start(&database, &provider, &[]);
    let failed = wait_for_statuses(pool, &ids, "failed").await;
    for (job, (class, _)) in failed.iter().zip(cases) {
        assert_eq!(job.error_class.as_deref(), Some(class));
        assert_eq!(job.attempt, 0, "no request was made: {job:?}");
        let history = Outbox::new(pool.clone()).attempts(job.id).await;
        assert!(history.expect("the history").is_empty());
    }
    assert_eq!(
        failed[0].rejected_recipients.as_ref().map(Vec::len),
        Some(2)
    );
    assert_eq!(provider.requests().len(), 0);
    worker.stop().await;
}

#[tokio::test]
async fn foreign_numbers_are_sent_where_they_are_switched_on() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let id = insert(database.pool(), &[("recipients", "'{0049 171 1234567}'")]).await;
    let worker = Worker::start(&database, &provider, &["--international"]);
    wait_for_status(database.pool(), id, "sent").await;
    assert_eq!(provider.orders()[0].numbers(), ["+491711234567"]);
    worker.stop().await;
}

#[tokio::test]
async fn a_request_is_what_the_documentation_shows_to_the_field() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let pool = database.pool();
    let worker = Worker::start(&database, &provider, &[]);
    let signed = json!({"key": KEY, "hash": HASH});
    let plain = insert(
        pool,
        &[
            ("recipients", "'{0532 123 45 67}'"),
            ("body", "E'Sipariş \"1\"\\n\\\\ hazır ☕ '"),
        ],
    )
    .await;
    wait_for_status(pool, plain, "sent").await;
    let marketing = insert(
        pool,
        &[
            ("sender", "'My Brand'"),
            ("recipients", "'{5331234567, 905341234567}'"),
            ("body", "'sale'"),
            ("iys", "true"),
            ("iys_list", "'TACIR'"),
            ("provider_send_at", "'2030-01-15 09:30:00+00'"),
            ("metadata", "'{\"order\": 7}'"),
            ("idempotency_key", "'k'"),
        ],
    )
    .await;
    wait_for_status(pool, marketing, "sent").await;
    // Inside a minute: never early, never with seconds. And around midnight in Turkey.
    let later = insert(
        pool,
        &[
            ("recipients", "'{5351234567}'"),
            ("body", "'x'"),
            ("provider_send_at", "'2030-06-30 20:59:00.5+00'"),
        ],
    )
    .await;
    wait_for_status(pool, later, "sent").await;
    worker.stop().await;
    let orders = provider.orders();
    assert_eq!(
        orders
            .iter()
            .map(|request| request.json.clone())
            .collect::<Vec<_>>(),
        [
            json!({"request": {"authentication": signed, "order": {
                "sender": "BRAND", "iys": "0",
                "message": {"text": "Sipariş \"1\"\n\\ hazır ☕ ", "receipents": {"number": ["905321234567"]}}}}}),
            json!({"request": {"authentication": signed, "order": {
                "sender": "My Brand", "iys": "1", "iysList": "TACIR", "sendDateTime": "15/01/2030 12:30",
                "message": {"text": "sale", "receipents": {"number": ["905331234567", "905341234567"]}}}}}),
            json!({"request": {"authentication": signed, "order": {
                "sender": "BRAND", "iys": "0", "sendDateTime": "01/07/2030 00:00",
                "message": {"text": "x", "receipents": {"number": ["905351234567"]}}}}}),
        ]
    );
    for request in &orders {
        let head = request.head.to_ascii_lowercase();
        assert!(
            head.starts_with("post /v1/send-sms/json http/1.1"),
            "{head}"
        );
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
    assert_eq!(provider.connections(), 1, "the connection is kept");
}

#[tokio::test]
async fn a_moment_that_has_passed_is_left_out_of_the_request() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let pool = database.pool();
    let past = insert(
        pool,
        &[
            ("body", "'late'"),
            ("provider_send_at", "now() - interval '1 h'"),
        ],
    )
    .await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(pool, past, "sent").await;
    worker.stop().await;
    let order = &provider.orders_of("late")[0].json["request"]["order"];
    assert!(order.get("sendDateTime").is_none(), "{order}");
}

#[tokio::test]
async fn a_row_in_another_normal_form_is_the_same_message() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let pool = database.pool();
    let worker = Worker::start(&database, &provider, &[]);
    let composed = insert(pool, &[("body", "repeat('ş', 300)")]).await;
    wait_for_status(pool, composed, "sent").await;
    // As some keyboards and file systems write it: twice as long, and more parts than the provider takes.
    provider.now_says(|_| Reply::code(400, 451));
    let decomposed = insert(pool, &[("body", "repeat(U&'s\\0327', 300)")]).await;
    let second = wait_for_status(pool, decomposed, "sent").await;
    worker.stop().await;
    assert_eq!(provider.orders_of(&"ş".repeat(300)).len(), 2);
    assert_eq!(second.duplicate_of, Some(composed));
}

#[tokio::test]
async fn accounts_sign_with_their_own_keys_and_claim_no_other_accounts_jobs() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let pool = database.pool();
    let one = insert(pool, &[("account", "'default'"), ("body", "'one'")]).await;
    let two = insert(pool, &[("account", "'my-brand'"), ("body", "'two'")]).await;
    let three = insert(pool, &[("account", "'nobodys'"), ("body", "'three'")]).await;
    let worker = Worker::start(&database, &provider, &["--accounts", "default,my-brand"]);
    wait_for_statuses(pool, &[one, two], "sent").await;
    worker.stop().await;
    assert_eq!(provider.orders_of("one")[0].key(), KEY);
    assert_eq!(
        provider.orders_of("two")[0].key(),
        format!("{KEY}_MY_BRAND")
    );
    assert_eq!(provider.orders_of("three").len(), 0);
    assert_eq!(job(pool, three).await.status, "queued");
}
