//! No secret and no personal data in logs, however much is logged.

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Guard, Reply, SEND, healthy};
use crate::support::worker::{
    HASH, KEY, Process, execute, insert, insert_many, wait_for_count, wait_for_jobs,
    wait_for_status,
};

#[tokio::test]
async fn the_more_is_logged_the_less_is_missing() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let ids = insert_many(database.pool(), 50, &[]).await;
    for level in ["info", "debug", "trace", "info,sms_outbox=debug"] {
        execute(database.pool(), "UPDATE sms_outbox.jobs SET status = 'queued', sent_at = NULL, finished_at = NULL, order_id = NULL").await;
        let environment = [("SMS_OUTBOX_LOG", level)];
        let worker =
            Process::worker_with(&database.worker_url(), &provider.url(), &[], &environment);
        wait_for_jobs(database.pool(), &ids, "they are sent", |job| {
            job.status == "sent"
        })
        .await;
        let lines = worker.stop().await;
        let said = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        for (text, times) in [
            ("INFO starting ", 1),
            ("INFO ready ", 1),
            (" INFO sent job.id=", 50),
            ("INFO stopped ", 1),
        ] {
            assert_eq!(said(text), times, "{text:?} at level {level}: {lines:#?}");
        }
    }
}

#[tokio::test]
async fn no_number_text_key_or_hash_is_logged_whatever_happens_and_however_much_is_logged() {
    // Side by side: both do little but wait.
    tokio::join!(everything_is_logged("text"), everything_is_logged("json"));
}

async fn everything_is_logged(format: &str) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut guard = Guard::default();
    // Where it can, the provider says back what it was sent.
    let provider = FakeProvider::scripted(move |request| {
        let echo = format!(
            "{} | {} | {KEY} | {HASH}",
            request.numbers().join(" "),
            request.text()
        );
        let echoing = |code: u16| {
            let status = serde_json::json!({"code": code, "message": echo});
            Reply::json(
                400,
                &serde_json::json!({"response": {"status": status, "errors": {"text": echo}}}),
            )
        };
        let word = request.text().split(' ').next_back().unwrap_or_default();
        match (request.path.as_str(), word) {
            (SEND, "lost") if request.n.is_multiple_of(2) => Reply::Hangup,
            (SEND, "cut") => Reply::Cut {
                http: 200,
                body: echo.into_bytes(),
            },
            (SEND, "garbage") => Reply::text(200, &echo),
            (SEND, "html") => Reply::text(502, &format!("<html>{echo}</html>")),
            (SEND, "bytes") => Reply::Bytes(echo.into_bytes()),
            (SEND, "refused") => echoing(452),
            (SEND, "unheard") => echoing(987),
            (SEND, "sender") => echoing(450),
            (SEND, "redirect") => {
                Reply::text(307, &echo).with_header("location", &format!("/{KEY}/905321234567"))
            }
            (SEND, "throttled") => Reply::text(429, &echo).with_header("retry-after", "1"),
            (SEND, _) => guard.take(request),
            _ => healthy(request),
        }
    });
    let secret = |word: &str| format!("'Mahrem metin, kod 845123: {word}'");
    let words = [
        "sent", "lost", "cut", "garbage", "html", "bytes", "refused", "unheard",
    ];
    let mut ids = Vec::new();
    for word in words {
        // Few of each: after ten requests in a row without an answer the worker asks ever less often.
        let columns = [("body", secret(word)), ("max_attempts", "2".to_owned())];
        let columns: Vec<(&str, &str)> = columns.iter().map(|(n, e)| (*n, e.as_str())).collect();
        ids.extend(insert_many(pool, 2, &columns).await);
    }
    let number = ("recipients", "'{0532 123 45 67}'");
    // ContentLocks, unreadable numbers, a text too long, one that expires, one that cannot be scheduled, an abandoned claim,
    // a row that cannot be written to (Postgres quotes rows in the details of its errors), and data of the producer's own.
    ids.extend(insert_many(pool, 2, &[number, ("body", &secret("repeat"))]).await);
    ids.push(
        insert(
            pool,
            &[(
                "recipients",
                "'{0532 123 45 67, +90 212 987 65 43, 905331234567 ev}'",
            )],
        )
        .await,
    );
    ids.push(insert(pool, &[("recipients", "'{905321234567 mahrem}'")]).await);
    ids.push(insert(pool, &[number, ("body", "repeat('mahrem ', 300)")]).await);
    ids.push(
        insert(
            pool,
            &[
                number,
                ("expires_at", "now() - interval '1 s'"),
                ("body", &secret("expired")),
            ],
        )
        .await,
    );
    ids.push(
        insert(
            pool,
            &[
                number,
                ("token", "1"),
                ("provider_send_at", "now() + interval '2 h'"),
                ("expires_at", "now() + interval '1 h'"),
                ("body", &secret("scheduled")),
            ],
        )
        .await,
    );
    ids.push(
        insert(
            pool,
            &[
                number,
                ("metadata", "'{\"to\": \"905321234567\"}'"),
                ("idempotency_key", "'mahrem 905321234567'"),
                ("body", &secret("own")),
            ],
        )
        .await,
    );
    let claim = [
        ("status", "'sending'"),
        ("attempt", "1"),
        ("token", "1"),
        ("worker", "'dead'"),
        ("claimed_at", "now() - interval '9 s'"),
        ("lease_until", "now()"),
    ];
    ids.push(
        insert(
            pool,
            &[&claim[..], &[number, ("body", &secret("abandoned"))]].concat(),
        )
        .await,
    );
    execute(
        pool,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'no %', new.body USING DETAIL = new::text, HINT = new.body;
         END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON sms_outbox.jobs FOR EACH ROW
            WHEN (new.status = 'sent' AND new.body LIKE '%unwritable') EXECUTE FUNCTION refuse()",
    )
    .await;
    let unwritable = insert(pool, &[number, ("body", &secret("unwritable"))]).await;

    let environment = [
        ("SMS_OUTBOX_LOG", "trace"),
        ("SMS_OUTBOX_LOG_FORMAT", format),
    ];
    let worker = Process::worker_with(&database.worker_url(), &provider.url(), &[], &environment);
    wait_for_jobs(pool, &ids, "they have ended", |job| {
        job.status == "uncertain" || job.finished_at.is_some()
    })
    .await;
    worker.wait_for_line("cannot be recorded").await;
    wait_for_status(pool, unwritable, "sending").await;
    // Those stop their account or sender, and go late.
    for (word, class) in [
        ("sender", "sender"),
        ("throttled", "rate_limited"),
        ("redirect", "account"),
    ] {
        let columns = [("body", secret(word)), ("sender", format!("'{word}'"))];
        let columns: Vec<(&str, &str)> = columns.iter().map(|(n, e)| (*n, e.as_str())).collect();
        insert(pool, &[&columns[..], &[number]].concat()).await;
        // Nothing was accepted lately, so that an answer which blames the account is believed.
        execute(
            pool,
            "UPDATE sms_outbox.accounts SET blames = 100, failed_at = now() + interval '1 hour'",
        )
        .await;
        let held = format!("SELECT count(*) FROM sms_outbox.pauses WHERE error_class = '{class}'");
        wait_for_count(pool, &held, |n| n == 1).await;
        execute(pool, "UPDATE sms_outbox.pauses SET ended_at = now() WHERE ended_at IS NULL AND scope = 'account'").await;
    }
    // Last of all, so many in a row that the worker says so; nothing pauses the account meanwhile.
    execute(
        pool,
        "UPDATE sms_outbox.jobs SET status = 'cancelled', finished_at = now() WHERE status = 'queued';
         UPDATE sms_outbox.pauses SET ended_at = now() WHERE ended_at IS NULL",
    )
    .await;
    let columns = [("body", &*secret("html")), ("max_attempts", "1")];
    insert_many(pool, 12, &columns).await;
    worker.wait_for_line("the provider is unavailable").await;
    let lines = worker.stop().await;
    for said in [
        "sent: the provider had taken",
        "failed",
        "retry later",
        "uncertain: ",
        "expired",
        "recovered: the lease",
        "left out",
        "paused; ",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(said)),
            "{said:?} was to be among {lines:#?}"
        );
    }
    check(&lines);
}

fn check(lines: &[String]) {
    for line in lines {
        for secret in [KEY, HASH, "ahrem", "845123", "metin"] {
            assert!(!line.contains(secret), "{secret:?} in {line:?}");
        }
        // However the digits of a number are separated.
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        for number in [
            "5321234567",
            "5331234567",
            "2129876543",
            "5320000001",
            "5320000002",
            "5320000003",
        ] {
            assert!(!digits.contains(number), "{number} in {line:?}");
        }
    }
}
