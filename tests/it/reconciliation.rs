//! Orders whose answer was lost are looked for in the provider's reports: by one worker, gently, and believed only where nothing
//! else of ours can have made them.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sms_outbox::lifecycle::OrderId;
use sms_outbox::message::ForeignNumbers;
use sms_outbox::outbox::{Outbox, Resolution, Resolved, Word};
use sms_outbox::reconciliation::{Finding, ListedOrder};
use sms_outbox::sandbox::{Action, Fault, FaultKind, Sandbox, SandboxConfig};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Reply, Request, SEND, healthy};
use crate::support::worker::{
    HASH, KEY, Worker, execute, insert, insert_many, job, wait_for_count, wait_for_job,
    wait_for_status, wait_for_statuses,
};

const REPORTS: &str = "/v1/get-reports/json";
const REPORT: &str = "/v1/get-report/json";

/// A window that leaves no room for a repeat, so that every lost answer is uncertain at once; and reconciliation that takes no time.
const FLAGS: [&str; 10] = [
    "--exclusive-accounts",
    "default",
    "--request-timeout",
    "2s",
    "--guard-window",
    "2s",
    "--report-rate",
    "100",
    "--reconcile-settle",
    "300ms",
];

async fn sandbox() -> Sandbox {
    let sandbox = Sandbox::start(SandboxConfig {
        key: KEY.to_owned(),
        hash: HASH.to_owned(),
        ..SandboxConfig::default()
    })
    .await
    .expect("a free port");
    sandbox.handle().approve_sender("BRAND");
    sandbox
}

fn lost(text: &str) -> Fault {
    Fault::always(FaultKind::AcceptDrop).on_text(text)
}

async fn wait_for_outcome(pool: &PgPool, job: Uuid, outcome: &str) {
    let found = format!(
        "SELECT count(*) FROM sms_outbox.reconciliation_tasks WHERE job_id = '{job}' AND outcome = '{outcome}'"
    );
    wait_for_count(pool, &found, |n| n == 1).await;
}

#[tokio::test]
async fn an_uncertain_job_is_sent_once_the_one_order_that_fits_is_found() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let sandbox = sandbox().await;
    sandbox.handle().set_faults([lost("lost")]);
    // To the same numbers, and answered: their orders are ours already. One page of the reports has thirty.
    let answered = insert_many(pool, 40, &[]).await;
    let worker = Worker::start_at(&database.worker_url(), &sandbox.base_url(), &FLAGS);
    wait_for_statuses(pool, &answered, "sent").await;
    let uncertain = insert_many(pool, 3, &[("body", "'lost ' || n")]).await;
    let found = wait_for_statuses(pool, &uncertain, "sent").await;
    worker.stop().await;

    let ledger = sandbox.handle().ledger();
    let order_of: HashMap<&str, &str> = ledger
        .iter()
        .map(|entry| (entry.text.as_str(), entry.order_id.as_str()))
        .collect();
    assert_eq!(ledger.len(), 43, "nothing was sent twice");
    for job in &found {
        assert_eq!(
            job.order_id.as_deref(),
            order_of.get(job.body.as_str()).copied()
        );
        assert!(
            !job.duplicate && job.error_class.is_none() && job.ambiguous_since.is_some(),
            "{job:?}"
        );
        let history = Outbox::new(pool.clone())
            .attempts(job.id)
            .await
            .expect("the history");
        let last = history.last().expect("it has one");
        assert_eq!(
            (last.observer.as_str(), last.counted),
            ("reconciliation", false)
        );
        assert_eq!(last.order_id, job.order_id);
        let evidence = last.evidence.as_deref().unwrap_or_default();
        assert!(
            evidence.starts_with("Found in the provider's reports: order "),
            "{evidence}"
        );
        assert!(!evidence.contains("90532"), "no number in it: {evidence}");
    }
}

#[tokio::test]
async fn a_job_that_was_proved_sent_by_its_repeat_gets_its_order() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let sandbox = sandbox().await;
    sandbox
        .handle()
        .set_faults([Fault::next(1, FaultKind::AcceptDrop)]);
    let flags = [&FLAGS[..], &["--guard-window", "5m"]].concat();
    let id = insert(pool, &[]).await;
    let worker = Worker::start_at(&database.worker_url(), &sandbox.base_url(), &flags);
    let sent = wait_for_job(pool, id, "its order is known", |job| job.order_id.is_some()).await;
    worker.stop().await;
    assert!(sent.duplicate && sent.duplicate_of.is_none(), "{sent:?}");
    let ledger = sandbox.handle().ledger();
    assert_eq!(ledger.len(), 1);
    assert_eq!(sent.order_id.as_deref(), Some(ledger[0].order_id.as_str()));
}

#[tokio::test]
async fn what_is_in_no_report_stays_uncertain_and_says_so() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let sandbox = sandbox().await;
    sandbox
        .handle()
        .set_faults([Fault::always(FaultKind::Drop)]);
    let id = insert(pool, &[]).await;
    let worker = Worker::start_at(&database.worker_url(), &sandbox.base_url(), &FLAGS);
    wait_for_outcome(pool, id, "none").await;
    worker.stop().await;
    assert_eq!(job(pool, id).await.status, "uncertain");
    let task = Outbox::new(pool.clone())
        .reconciliation_of(id)
        .await
        .expect("it is read")
        .expect("it is there");
    assert!(task.clean_scans >= 2, "{task:?}");
    assert_eq!(sandbox.handle().requests_for(Action::SendSms), 1);
}

#[tokio::test]
async fn where_several_orders_fit_a_person_is_shown_them_and_decides() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let sandbox = sandbox().await;
    sandbox.handle().set_faults([lost("which")]);
    // Same sender, same number, same time, and the reports show no text.
    let number = ("recipients", "ARRAY['905321234567']");
    let both = insert_many(pool, 2, &[number, ("body", "'which ' || n")]).await;
    let worker = Worker::start_at(&database.worker_url(), &sandbox.base_url(), &FLAGS);
    for id in &both {
        wait_for_outcome(pool, *id, "several").await;
        assert_eq!(job(pool, *id).await.status, "uncertain");
    }
    worker.stop().await;

    let run = |arguments: &[&str]| run(&database, arguments);
    let id = both[0].to_string();
    let ledger = sandbox.handle().ledger();
    for shown in [run(&["resolve", &id]), run(&["show", &id])] {
        for entry in &ledger {
            assert!(
                shown.contains(&format!("order {}", entry.order_id)),
                "{shown}"
            );
        }
        assert!(shown.contains("a person has to resolve it"), "{shown}");
    }
    let json: Value = serde_json::from_str(&run(&["show", &id, "--json"])).expect("JSON");
    assert_eq!(
        json["reconciliation"]["candidates"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert_eq!(
        job(pool, both[0]).await.status,
        "uncertain",
        "showing changes nothing"
    );

    run(&["resolve", &id, "--sent", &ledger[0].order_id]);
    let settled = job(pool, both[0]).await;
    assert_eq!(
        (settled.status.as_str(), settled.order_id.as_deref()),
        ("sent", Some(ledger[0].order_id.as_str()))
    );
}

/// The program's answer.
fn run(database: &TestDatabase, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sms-outbox"))
        .args(arguments)
        .args(["--database-url", &database.url()])
        .env_clear()
        .current_dir(std::env::temp_dir())
        .output()
        .expect("the program that cargo has just built");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test]
async fn where_others_send_too_an_order_that_fits_is_a_candidate_and_a_person_says_yes() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // By hand, from the panel, to the same number at the same time: the job was never accepted.
    let provider = FakeProvider::scripted(|request| three_pages(request, "312891245"));
    let id = uncertain(pool).await;
    let worker = Worker::start(&database, &provider, &FLAGS[2..]);
    wait_for_outcome(pool, id, "candidate").await;
    worker.stop().await;
    let found = job(pool, id).await;
    assert_eq!((found.status.as_str(), found.order_id), ("uncertain", None));

    let command = format!("sms-outbox resolve {id} --sent 312891245");
    let id_text = id.to_string();
    for page in [
        &["show", &id_text][..],
        &["list", "--status", "uncertain"],
        &["stats"],
        &["resolve", &id_text],
    ] {
        let shown = run(&database, page);
        assert!(shown.contains(&command), "{page:?}: {shown}");
    }
    let listed: Value = serde_json::from_str(&run(&database, &["list", "--json"])).expect("JSON");
    assert_eq!(listed[0]["candidates"][0]["order_id"], "312891245");

    let said_yes: Vec<&str> = command.split(' ').skip(1).collect();
    run(&database, &said_yes);
    let sent = job(pool, id).await;
    assert_eq!(
        (sent.status.as_str(), sent.order_id.as_deref()),
        ("sent", Some("312891245"))
    );
    for page in ["stats", "list"] {
        let shown = run(&database, &[page]);
        assert!(!shown.contains("sms-outbox resolve"), "{page}: {shown}");
    }
}

#[tokio::test]
async fn where_others_send_too_a_job_that_was_accepted_gets_its_order_after_the_settle_time() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let sandbox = sandbox().await;
    sandbox
        .handle()
        .set_faults([Fault::next(1, FaultKind::AcceptDrop)]);
    let flags = [&FLAGS[2..], &["--guard-window", "5m"]].concat();
    let id = insert(pool, &[]).await;
    let worker = Worker::start_at(&database.url(), &sandbox.base_url(), &flags);
    let sent = wait_for_job(pool, id, "its order is known", |job| job.order_id.is_some()).await;
    worker.stop().await;
    assert!(sent.duplicate, "{sent:?}");
    let ledger = sandbox.handle().ledger();
    assert_eq!(sent.order_id.as_deref(), Some(ledger[0].order_id.as_str()));
}

#[tokio::test]
async fn what_is_reconciled_at_once_is_bounded_by_numbers() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    execute(
        database.pool(),
        "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, status, attempt, token, error_class, claimed_at, ambiguous_since)
         SELECT 'BRAND', array_agg('0532' || lpad(n::text, 7, '0')), 'to many', false, 'uncertain', 1, 1, 'timeout',
                now() - interval '60 s', now() - interval '60 s'
         FROM generate_series(1, 30000) AS n, generate_series(1, 7) AS job GROUP BY job"
            .to_owned(),
    )
    .await;
    let mut read = Vec::new();
    for jobs in [3, 3, 1, 0] {
        let due = outbox
            .due_reconciliation("default", ForeignNumbers::Refused, 200)
            .await
            .expect("the database answers");
        assert_eq!(due.len(), jobs);
        for task in &due {
            assert_eq!(task.numbers.len(), 30_000);
            // Others of the same numbers, which are looked through as sparingly.
            let has_rivals = outbox.has_rivals("default", task, ForeignNumbers::Refused);
            assert!(has_rivals.await.expect("the database answers"));
            let again = Finding::Again {
                clean: Some(true),
                after: Duration::from_secs(60),
            };
            let noted = outbox.note_scan(task, &again, None, "").await;
            noted.expect("the database answers");
            read.push(task.job);
        }
    }
    read.sort_unstable();
    read.dedup();
    assert_eq!(read.len(), 7, "every one has its turn");
}

/// A job that is uncertain since a minute.
async fn uncertain(pool: &PgPool) -> Uuid {
    let id = insert(pool, &[("recipients", "ARRAY['905321234567']")]).await;
    execute(
        pool,
        format!(
            "UPDATE sms_outbox.jobs SET status = 'uncertain', attempt = 1, token = 1, error_class = 'timeout',
                 ambiguous_since = now() - interval '60 s', claimed_at = now() - interval '60 s' WHERE id = '{id}';
             INSERT INTO sms_outbox.attempt_log (job_id, token, observer, attempt, counted, started_at, recorded_at, progress)
             VALUES ('{id}', 1, 'worker', 1, true, now() - interval '60 s', now() - interval '30 s', 'maybe_sent')"
        ),
    )
    .await;
    id
}

/// Reports in the documentation's oddest spelling: 70 orders of others on three pages, and `ours` on the last of them.
fn three_pages(request: &Request, ours: &str) -> Reply {
    let at = |seconds_ago: i64| {
        let moment = chrono::Utc::now() - chrono::TimeDelta::seconds(seconds_ago);
        moment
            .with_timezone(&chrono_tz::Europe::Istanbul)
            .format("%Y-%m-%d %H:%M:%S")
            .to_string()
    };
    let order = |id: Value, sender: &str, ago| json!({"id": id, "status": "114", "total": "1", "submitAt": at(ago), "sendAt": at(ago), "sender": sender});
    match request.path.as_str() {
        REPORTS => {
            let page = request.json["request"]["filter"]["page"]
                .as_u64()
                .unwrap_or(0);
            let mut orders: Vec<Value> = (1..=71)
                .map(|n| match n {
                    71 => order(json!(ours), "BRAND", 58),
                    // Too early, and another sender's.
                    n if n % 2 == 0 => order(json!(1_000 + n), "BRAND", 4_000),
                    n => order(json!(1_000 + n), "OTHER", 58),
                })
                .collect();
            let from = usize::try_from(page.saturating_sub(1) * 30)
                .unwrap_or(0)
                .min(orders.len());
            let orders: Vec<Value> = orders.drain(from..).take(30).collect();
            Reply::json(
                200,
                &json!({"response": {"status": {"code": "200"}, "count": "71", "orders": orders}}),
            )
        }
        REPORT => {
            let id = &request.order()["id"];
            Reply::json(
                200,
                &json!({"response": {"status": {"code": 200}, "order": {"id": id, "total": 1,
                "price": "0,0372", "message": [{"number": 5_321_234_567_u64, "status": "111"}]}}}),
            )
        }
        _ => healthy(request),
    }
}

#[tokio::test]
async fn one_worker_of_the_fleet_asks_one_question_at_a_time_through_all_pages() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| three_pages(request, "312891245"));
    let id = uncertain(pool).await;
    let flags = [&FLAGS[..], &["--report-rate", "10"]].concat();
    let workers: Vec<Worker> = (0..3)
        .map(|_| Worker::start(&database, &provider, &flags))
        .collect();
    let sent = wait_for_status(pool, id, "sent").await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(sent.order_id.as_deref(), Some("312891245"));
    let mut questions = provider.requests();
    questions.retain(|request| request.path != SEND);
    let asked: Vec<(&str, String)> = questions
        .iter()
        .map(|q| {
            let page = if q.path == REPORTS {
                &q.json["request"]["filter"]["page"]
            } else {
                &q.order()["id"]
            };
            (q.path.as_str(), page.to_string())
        })
        .collect();
    assert_eq!(
        asked,
        [
            (REPORTS, "1".to_owned()),
            (REPORTS, "2".to_owned()),
            (REPORTS, "3".to_owned()),
            (REPORT, "\"312891245\"".to_owned())
        ],
        "each page once, and the numbers of the one order that may be it"
    );
    // One a tenth of a second. A busy machine may notice the first one late, but never all four at once.
    let all_took = questions[3].arrived - questions[0].arrived;
    assert!(all_took >= Duration::from_millis(100), "{all_took:?}");
}

#[tokio::test]
async fn switched_off_nothing_is_asked() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| three_pages(request, "312891245"));
    let id = uncertain(pool).await;
    let flags = [&FLAGS[..], &["--reconcile", "false"]].concat();
    let off = Worker::start(&database, &provider, &flags);
    // What it does do is done many times over meanwhile.
    let others = insert_many(pool, 50, &[]).await;
    wait_for_statuses(pool, &others, "sent").await;
    off.stop().await;
    assert_eq!(provider.requests().len(), 50);
    assert_eq!(job(pool, id).await.status, "uncertain");
}

#[tokio::test]
async fn an_order_that_is_known_is_no_evidence_whoever_named_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let outbox = Outbox::new(pool.clone());
    let provider = FakeProvider::scripted(|request| three_pages(request, "312891245"));
    let known_from = [
        // A worker that read the answer, long ago by the look of it.
        "UPDATE sms_outbox.jobs SET status = 'sent', sent_at = now(), finished_at = now(), order_id = '312891245' WHERE id = $1",
        // A second acceptance.
        "INSERT INTO sms_outbox.attempt_log (job_id, token, observer, attempt, counted, started_at, progress, order_id, late)
         VALUES ($1, 2, 'worker', 1, true, now(), 'answered', '312891245', true)",
        // A person.
        "",
    ];
    for from in known_from {
        let owner = uncertain(pool).await;
        if from.is_empty() {
            let sent = Resolution::Sent {
                order: OrderId::parse("312891245"),
                shared: false,
            };
            let resolved = outbox.resolve(owner, &sent, &Word::default()).await;
            assert_eq!(resolved.expect("the database answers"), Resolved::Done);
        } else {
            let written = sqlx::query(from).bind(owner).execute(pool).await;
            written.expect("the database answers");
            // Its own doubt would make the order a contested one.
            execute(
                pool,
                format!("UPDATE sms_outbox.jobs SET status = 'failed', finished_at = now() WHERE id = '{owner}' AND status <> 'sent'"),
            )
            .await;
        }
        let id = uncertain(pool).await;
        let worker = Worker::start(&database, &provider, &FLAGS);
        wait_for_outcome(pool, id, "none").await;
        worker.stop().await;
        assert_eq!(job(pool, id).await.status, "uncertain", "{from}");
        execute(
            pool,
            "DELETE FROM sms_outbox.jobs; DELETE FROM sms_outbox.attempt_log".to_owned(),
        )
        .await;
    }
    assert!(
        provider
            .requests()
            .iter()
            .all(|request| request.path != REPORT)
    );
}

#[tokio::test]
async fn an_order_that_a_message_indeterminate_may_have_made_as_well_is_no_evidence_yet() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| three_pages(request, "312891245"));
    let id = uncertain(pool).await;
    // To the same number, from the same sender, claimed by some worker.
    let rival = insert(pool, &[("recipients", "ARRAY['0532 123 45 67']")]).await;
    execute(
        pool,
        format!(
            "UPDATE sms_outbox.jobs SET status = 'sending', attempt = 1, token = 1, claimed_at = now() - interval '50 s',
                 lease_until = now() + interval '1 h', worker = 'elsewhere' WHERE id = '{rival}'"
        ),
    )
    .await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    wait_for_outcome(pool, id, "several").await;
    assert_eq!(job(pool, id).await.status, "uncertain");
    worker.stop().await;
}

#[tokio::test]
async fn reports_that_cannot_be_read_resolve_nothing() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.path.as_str() {
        REPORTS if request.n == 1 => Reply::code(200, 458),
        REPORTS if request.n == 2 => Reply::text(200, r#"{"response":{"status":{"code":200}}}"#),
        REPORTS if request.n == 3 => Reply::Hangup,
        _ => three_pages(request, "312891245"),
    });
    let id = uncertain(pool).await;
    let worker = Worker::start(&database, &provider, &FLAGS);
    wait_for_status(pool, id, "sent").await;
    worker.stop().await;
}

#[tokio::test]
async fn the_answer_that_comes_after_its_order_was_found_confirms_it() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let id = uncertain(database.pool()).await;
    let task = outbox
        .due_reconciliation("default", ForeignNumbers::Refused, 10)
        .await
        .expect("the database answers")
        .remove(0);
    assert_eq!(task.job, id);
    let order = ListedOrder {
        id: OrderId::parse("312891245").expect("digits"),
        sender: "BRAND".to_owned(),
        total: 1,
        submitted_at: task.since,
        status: None,
        delivered: None,
        undelivered: None,
    };
    let settled = outbox.settle_found(&task, &order, "evidence", "w").await;
    assert!(settled.expect("the database answers"));
    let again = outbox.settle_found(&task, &order, "evidence", "w").await;
    assert!(!again.expect("the database answers"), "once is enough");
    for (order, expected) in [("312891245", "late"), ("312891246", "twice")] {
        let recorded = outbox
            .record(&[crate::recording::late_acceptance(id, 0, order)])
            .await
            .expect("the database answers");
        let said = match &recorded[0] {
            sms_outbox::outbox::Recorded::Late { .. } => "late",
            sms_outbox::outbox::Recorded::AcceptedTwice { .. } => "twice",
            _ => "nothing",
        };
        assert_eq!(said, expected, "{order}: {recorded:?}");
    }
    assert_eq!(
        job(database.pool(), id).await.order_id.as_deref(),
        Some("312891245")
    );
}
