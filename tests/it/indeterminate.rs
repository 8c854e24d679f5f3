//! A request whose answer was lost may have been accepted. It is repeated byte by byte while the provider's duplicate guard
//! surely stands, and never after.

use std::collections::HashMap;
use std::time::Duration;

use sms_outbox::outbox::Outbox;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Guard, Hold, Reply, Request, SEND, healthy};
use crate::support::worker::{
    Worker, count, execute, insert, insert_many, job, wait_for_count, wait_for_status,
    wait_for_statuses,
};

/// The ways in which an answer gets lost although the request was accepted.
fn lost(kind: &str) -> Reply {
    let whole = r#"{"response":{"status":{"code":200,"message":"x"},"order":{"id":"312891245"}}}"#;
    match kind {
        "hangup" => Reply::Hangup,
        "silence" => Reply::Silence,
        "502 html" => Reply::text(502, "<html><h1>Bad Gateway</h1></html>"),
        "500 json" => Reply::text(500, r#"{"message": "Server Error"}"#),
        "504 empty" => Reply::text(504, ""),
        "503 code" => Reply::code(503, 503),
        "503 code in 200" => Reply::code(200, "503"),
        "cut 200" => Reply::Cut {
            http: 200,
            body: whole.as_bytes()[..40].to_vec(),
        },
        "short 200" => Reply::text(200, &whole[..whole.len() - 3]),
        "garbage 200" => Reply::text(200, "OK"),
        "empty 200" => Reply::text(200, ""),
        "garbage bytes" => Reply::Bytes(b"\x16\x03\x01 whatever\r\n\r\n".to_vec()),
        "half a head" => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        other => panic!("{other}"),
    }
}

const KINDS: [&str; 13] = [
    "hangup",
    "silence",
    "502 html",
    "500 json",
    "504 empty",
    "503 code",
    "503 code in 200",
    "cut 200",
    "short 200",
    "garbage 200",
    "empty 200",
    "garbage bytes",
    "half a head",
];

/// Takes every order and loses the first answer to each, in the way that its text names.
fn losing_the_first_answer(
    guard: impl Fn(&mut Guard, &Request) -> Reply + Send + 'static,
) -> FakeProvider {
    let mut guarded = Guard::default();
    let mut seen: HashMap<String, usize> = HashMap::new();
    FakeProvider::scripted(move |request| {
        if request.path != SEND {
            return healthy(request);
        }
        let reply = guard(&mut guarded, request);
        let n = seen.entry(request.text().to_owned()).or_default();
        *n += 1;
        if *n == 1 { lost(request.text()) } else { reply }
    })
}

async fn insert_each_kind(pool: &PgPool) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for kind in KINDS {
        ids.push(insert(pool, &[("body", &format!("'{kind}'"))]).await);
    }
    ids
}

#[tokio::test]
async fn a_lost_answer_is_resolved_by_exactly_one_repeat_of_the_same_bytes() {
    let database = TestDatabase::create().await;
    let provider = losing_the_first_answer(Guard::take);
    let ids = insert_each_kind(database.pool()).await;
    let worker = Worker::start(&database, &provider, &["--request-timeout", "1s"]);
    let sent = wait_for_statuses(database.pool(), &ids, "sent").await;
    worker.stop().await;
    for (job, kind) in sent.iter().zip(KINDS) {
        let requests = provider.orders_of(kind);
        assert_eq!(requests.len(), 2, "{kind}: one request and one repeat");
        assert_eq!(requests[0].raw, requests[1].raw, "{kind}");
        assert!(
            job.duplicate,
            "{kind}: the 451 says that the first one had arrived"
        );
        assert_eq!(job.duplicate_of, None, "{kind}: of itself");
        assert_eq!(job.order_id, None, "{kind}: nobody learnt it");
        assert_eq!(job.attempt, 2, "{kind}");
        assert_eq!(job.error_class, None, "{kind}");
        assert!(job.ambiguous_since.is_some(), "{kind}: it stays on record");
        let history = Outbox::new(database.pool().clone()).attempts(job.id).await;
        let history = history.expect("the history");
        assert_eq!(history.len(), 2, "{kind}: {history:#?}");
        assert_eq!(history[1].provider_code, Some(451), "{kind}");
        assert!(history[0].error_class.is_some(), "{kind}");
    }
}

#[tokio::test]
async fn a_request_that_never_arrived_is_sent_by_its_repeat() {
    let database = TestDatabase::create().await;
    let provider = losing_the_first_answer(|_, request| healthy(request));
    let ids = insert_each_kind(database.pool()).await;
    let worker = Worker::start(&database, &provider, &["--request-timeout", "1s"]);
    let sent = wait_for_statuses(database.pool(), &ids, "sent").await;
    worker.stop().await;
    for (job, kind) in sent.iter().zip(KINDS) {
        assert_eq!(provider.orders_of(kind).len(), 2, "{kind}");
        assert!(!job.duplicate && job.order_id.is_some(), "{kind}");
    }
}

#[tokio::test]
async fn a_lost_answer_cools_down_for_the_settle_delay_before_it_is_repeated() {
    let database = TestDatabase::create().await;
    let provider = losing_the_first_answer(Guard::take);
    let id = insert(database.pool(), &[("body", "'hangup'")]).await;
    let worker = Worker::start(&database, &provider, &["--settle-delay", "400ms"]);
    wait_for_status(database.pool(), id, "sent").await;
    worker.stop().await;
    let requests = provider.orders();
    let rest = requests[1].arrived - requests[0].arrived;
    assert!(rest >= Duration::from_millis(400), "{rest:?}");
}

#[tokio::test]
async fn past_the_guard_window_a_lost_answer_is_uncertain_and_never_repeated() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND if !request.text().starts_with("taken") => lost(request.text()),
        _ => healthy(request),
    });
    // No repeat fits: it could take 900 ms, and the guard stands for a second.
    let flags = [
        "--request-timeout",
        "900ms",
        "--guard-window",
        "1s",
        "--settle-delay",
        "200ms",
        "--backoff-base",
        "60s",
    ];
    let worker = Worker::start(&database, &provider, &flags);
    // One after the other, and a healthy answer in between: many in a row would be an outage.
    let mut uncertain = Vec::new();
    for kind in KINDS {
        let id = insert(database.pool(), &[("body", &format!("'{kind}'"))]).await;
        uncertain.push(wait_for_status(database.pool(), id, "uncertain").await);
        let healthy = insert(
            database.pool(),
            &[("body", &format!("'taken after {kind}'"))],
        )
        .await;
        wait_for_status(database.pool(), healthy, "sent").await;
    }
    // A worker that looks at them again does not change them.
    let bystander = insert(database.pool(), &[("body", "'hangup'")]).await;
    wait_for_status(database.pool(), bystander, "uncertain").await;
    worker.stop().await;
    for (job, kind) in uncertain.iter().zip(KINDS) {
        let asked = if kind == "hangup" { 2 } else { 1 };
        assert_eq!(provider.orders_of(kind).len(), asked, "{kind}");
        assert!(
            job.ambiguous_since.is_some() && job.finished_at.is_none(),
            "{kind}"
        );
        assert!(
            job.error_class.is_some() && job.error_message.is_some(),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn an_indeterminate_job_without_attempts_left_is_uncertain_and_not_failed() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        SEND => Reply::Hangup,
        _ => healthy(request),
    });
    let id = insert(database.pool(), &[("max_attempts", "3")]).await;
    let worker = Worker::start(&database, &provider, &[]);
    let job = wait_for_status(database.pool(), id, "uncertain").await;
    worker.stop().await;
    assert_eq!((job.attempt, provider.orders().len()), (3, 3));
}

#[tokio::test]
async fn an_indeterminate_job_that_waited_too_long_becomes_uncertain_without_a_request() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let pool = database.pool();
    // One is paused, so that only time can get at it; the other meets the gate.
    let indeterminate = [
        ("ambiguous_since", "now() - interval '10 minutes'"),
        ("error_class", "'timeout'"),
        ("attempt", "1"),
    ];
    let paused = insert(
        pool,
        &[&indeterminate[..], &[("sender", "'PAUSED'")]].concat(),
    )
    .await;
    execute(pool, "INSERT INTO sms_outbox.pauses (account, scope, sender, reason, paused_by) VALUES ('default', 'sender', 'PAUSED', 'x', 'me')").await;
    let due = insert(pool, &indeterminate).await;
    let worker = Worker::start(&database, &provider, &[]);
    for job in wait_for_statuses(pool, &[paused, due], "uncertain").await {
        assert_eq!(job.attempt, 1, "no further request was made");
    }
    worker.stop().await;
    assert_eq!(provider.orders().len(), 0);
}

#[tokio::test]
async fn an_abandoned_claim_is_recovered_and_repeated() {
    let database = TestDatabase::create().await;
    let mut guard = Guard::default();
    let provider = FakeProvider::scripted(move |request| match request.path.as_str() {
        SEND => guard.take(request),
        _ => healthy(request),
    });
    let pool = database.pool();
    let claimed = "now() - interval '30 seconds'";
    let abandoned = [
        ("status", "'sending'"),
        ("attempt", "1"),
        ("token", "1"),
        ("worker", "'dead'"),
        ("claimed_at", claimed),
        ("lease_until", "now() - interval '1 second'"),
    ];
    // Of the first one, the request had left before its worker died.
    let body = ("body", "'had left'");
    let ghost = insert(pool, &[("recipients", "'{905321112233}'"), body]).await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(pool, ghost, "sent").await;
    worker.stop().await;
    execute(pool, "DELETE FROM sms_outbox.jobs").await;

    let had_left = insert(
        pool,
        &[&abandoned[..], &[("recipients", "'{905321112233}'"), body]].concat(),
    )
    .await;
    let had_not = insert(pool, &[&abandoned[..], &[("body", "'had not'")]].concat()).await;
    let hopeless = insert(
        pool,
        &[
            &abandoned[..],
            &[("max_attempts", "1"), ("body", "'hopeless'")],
        ]
        .concat(),
    )
    .await;
    let worker = Worker::start(&database, &provider, &[]);
    let sent = wait_for_statuses(pool, &[had_left, had_not], "sent").await;
    let hopeless = wait_for_status(pool, hopeless, "uncertain").await;
    worker.stop().await;
    assert!(sent[0].duplicate && sent[0].duplicate_of.is_none());
    assert!(!sent[1].duplicate && sent[1].order_id.is_some());
    for job in &sent {
        assert_eq!(job.attempt, 2);
        let since: bool = sqlx::query_scalar(
            "SELECT ambiguous_since = now() - (now() - ambiguous_since) AND ambiguous_since < created_at - interval '29 s' \
             FROM sms_outbox.jobs WHERE id = $1",
        )
        .bind(job.id)
        .fetch_one(pool)
        .await
        .expect("ambiguous_since");
        assert!(since, "it counts from the lost claim");
        let history = Outbox::new(pool.clone())
            .attempts(job.id)
            .await
            .expect("the history");
        let seen: Vec<(&str, &str, Option<&str>)> = history
            .iter()
            .map(|a| {
                (
                    a.observer.as_str(),
                    a.progress.as_deref().unwrap_or_default(),
                    a.worker.as_deref(),
                )
            })
            .collect();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[0], ("rescue", "maybe_sent", Some("dead")));
    }
    assert_eq!(provider.orders_of("hopeless").len(), 0);
    assert_eq!(hopeless.attempt, 1);
}

#[tokio::test]
async fn abandoned_claims_are_read_within_bounds_and_all_of_them() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    // 800 kB each when they are read; a bulk order is under way once in an account.
    execute(
        pool,
        "INSERT INTO sms_outbox.jobs (account, sender, recipients, body, iys, status, attempt, token, worker, claimed_at, lease_until)
         SELECT 'a' || job, 'BRAND', array_agg('0532' || lpad(n::text, 7, '0')), 'to many', false, 'sending', 1, 1, 'dead',
                now() - interval '9 s', now()
         FROM generate_series(1, 50000) AS n, generate_series(1, 30) AS job GROUP BY job",
    )
    .await;
    let outbox = Outbox::new(pool.clone());
    let (some, more) = outbox
        .abandoned(None, 500)
        .await
        .expect("the database answers");
    assert!((10..30).contains(&some.len()) && more, "{}", some.len());
    let (few, more) = outbox
        .abandoned(None, 2)
        .await
        .expect("the database answers");
    assert!(few.len() == 2 && more);
    let worker = Worker::start(&database, &provider, &[]);
    let recovered = "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'queued' AND ambiguous_since IS NOT NULL";
    wait_for_count(pool, recovered, |n| n == 30).await;
    worker.stop().await;
    let (none, more) = outbox
        .abandoned(None, 500)
        .await
        .expect("the database answers");
    assert!(none.is_empty() && !more);
}

#[tokio::test]
async fn a_killed_workers_jobs_are_finished_by_another() {
    let database = TestDatabase::create().await;
    let hold = Hold::new();
    let held = hold.clone();
    let mut guard = Guard::default();
    let provider =
        FakeProvider::scripted(move |request| match (request.path.as_str(), request.n) {
            (SEND, ..=5) => guard.take(request).held(&held),
            (SEND, _) => guard.take(request),
            _ => healthy(request),
        });
    let pool = database.pool();
    let ids = insert_many(pool, 5, &[]).await;
    let flags = ["--request-timeout", "1s", "--lease", "1500ms"];
    let killed = Worker::start(&database, &provider, &flags);
    provider.wait_for_orders(5).await;
    killed.stop_at_once().await;
    for job in wait_for_statuses(pool, &ids, "sending").await {
        assert_eq!(job.attempt, 1);
    }
    let worker = Worker::start(&database, &provider, &flags);
    for job in wait_for_statuses(pool, &ids, "sent").await {
        assert!(job.duplicate && job.attempt == 2, "{job:?}");
    }
    worker.stop().await;
    hold.release();
    assert_eq!(provider.orders().len(), 10);
}

/// Starts a worker whose one request is held, and takes its claim away from it.
async fn lose_the_lease(
    database: &TestDatabase,
    provider: &FakeProvider,
    id: Uuid,
    flags: &[&str],
) -> Worker {
    let worker = Worker::start(database, provider, flags);
    provider.wait_for_orders(1).await;
    // Every worker looks for leases that have run out, this one included.
    let moved = execute(
        database.pool(),
        format!("UPDATE sms_outbox.jobs SET lease_until = now() WHERE id = '{id}' AND status = 'sending'"),
    )
    .await;
    assert_eq!(moved, 1);
    wait_for_status(database.pool(), id, "queued").await;
    worker
}

#[tokio::test]
async fn an_acceptance_that_comes_after_the_lease_was_lost_makes_the_job_sent() {
    let database = TestDatabase::create().await;
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |request| healthy(request).held(&held));
    let id = insert(database.pool(), &[]).await;
    let worker = lose_the_lease(&database, &provider, id, &["--settle-delay", "60s"]).await;
    hold.release();
    let job = wait_for_status(database.pool(), id, "sent").await;
    worker.stop().await;
    assert_eq!(job.order_id.as_deref(), Some("312000001"));
    assert!(!job.duplicate && job.error_class.is_none());
    assert_eq!(
        provider.orders().len(),
        1,
        "there was nothing left to repeat"
    );
    let history = Outbox::new(database.pool().clone())
        .attempts(id)
        .await
        .expect("the history");
    let mut seen: Vec<_> = history
        .iter()
        .map(|a| (a.observer.as_str(), a.late, a.order_id.as_deref()))
        .collect();
    // Each says when the claim was made as well as it knows.
    seen.sort_unstable();
    assert_eq!(
        seen,
        [("rescue", false, None), ("worker", true, Some("312000001"))],
        "what is known of one claim stands together"
    );
}

#[tokio::test]
async fn a_refusal_that_comes_after_the_lease_was_lost_changes_nothing() {
    for refusal in [Reply::code(200, 452), Reply::code(401, 401), Reply::Hangup] {
        // A queue is for one provider.
        let database = TestDatabase::create().await;
        let hold = Hold::new();
        let held = hold.clone();
        let provider = FakeProvider::scripted(move |request| match request.path.as_str() {
            SEND => refusal.clone().held(&held),
            _ => healthy(request),
        });
        let id = insert(database.pool(), &[]).await;
        let flags = ["--settle-delay", "60s"];
        let worker = lose_the_lease(&database, &provider, id, &flags).await;
        let before = job(database.pool(), id).await;
        hold.release();
        let late =
            format!("SELECT count(*) FROM sms_outbox.attempts WHERE job_id = '{id}' AND late");
        wait_for_count(database.pool(), &late, |n| n == 1).await;
        worker.stop().await;
        assert_eq!(
            format!("{:?}", job(database.pool(), id).await),
            format!("{before:?}")
        );
    }
}

#[tokio::test]
async fn a_refusal_of_an_indeterminate_job_is_believed() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| match request.n {
        1 => Reply::Hangup,
        _ => Reply::code(200, 466),
    });
    let id = insert(database.pool(), &[]).await;
    let worker = Worker::start(&database, &provider, &[]);
    let job = wait_for_status(database.pool(), id, "failed").await;
    worker.stop().await;
    assert_eq!((job.attempt, job.error_code), (2, Some(466)));
    assert!(
        job.ambiguous_since.is_some(),
        "that it was indeterminate is not forgotten"
    );
}

#[tokio::test]
async fn an_indeterminate_job_is_repeated_in_time_however_much_waits() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut lost_one = false;
    let mut guard = Guard::default();
    let provider = FakeProvider::scripted(move |request| {
        if request.path != SEND {
            return healthy(request);
        }
        let reply = guard.take(request);
        if request.text() == "unanswered" && !lost_one {
            lost_one = true;
            return Reply::Hangup;
        }
        reply
    });
    let flags = [
        "--rate-per-second",
        "20",
        "--request-timeout",
        "1s",
        "--guard-window",
        "6s",
    ];
    let unanswered = insert(pool, &[("body", "'unanswered'")]).await;
    // Ten seconds of work, all of it due before the repeat will be.
    insert_many(pool, 200, &[]).await;
    let worker = Worker::start(&database, &provider, &flags);
    let sent = wait_for_status(pool, unanswered, "sent").await;
    worker.stop().await;
    assert!(sent.duplicate && sent.attempt == 2, "{sent:?}");
    let waiting = "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'queued'";
    assert!(count(pool, waiting).await > 50, "the others still wait");
}

#[tokio::test]
async fn an_indeterminate_bulk_order_is_repeated_before_other_bulk_orders() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut requests = 0;
    let provider = FakeProvider::scripted(move |request| {
        requests += usize::from(request.path == SEND);
        if request.path == SEND && requests == 1 {
            return Reply::Hangup;
        }
        healthy(request)
    });
    let many = "array(SELECT (905330000000 + i)::text FROM generate_series(1, 101) AS i)";
    let ids = insert_many(pool, 4, &[("recipients", many)]).await;
    // One more may have been claimed before the indeterminate job was due again.
    let worker = Worker::start(&database, &provider, &["--settle-delay", "1ms"]);
    wait_for_statuses(pool, &ids, "sent").await;
    worker.stop().await;
    let texts: Vec<String> = provider
        .orders()
        .iter()
        .map(|order| order.text().to_owned())
        .collect();
    let repeat = texts.iter().skip(1).position(|text| *text == texts[0]);
    assert!(repeat.is_some_and(|place| place <= 1), "{texts:?}");
}
