//! A provider that takes requests and does not answer, or never comes to the end of its answer. Every request has an end all
//! the same, what it left indeterminate is repeated, and nobody has to do anything when the provider is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::postgres::TestDatabase;
use crate::support::program;
use crate::support::provider::{FakeProvider, Guard, Reply, SEND, healthy};
use crate::support::worker::{HASH, KEY, Process, insert_many, wait_for_count, wait_for_statuses};

/// Takes every order, and does not answer properly before it is told to.
fn hanging(hung: &Reply) -> (FakeProvider, Arc<AtomicBool>) {
    let recovered = Arc::new(AtomicBool::new(false));
    let (hung, answers) = (hung.clone(), Arc::clone(&recovered));
    let mut guard = Guard::default();
    let provider = FakeProvider::scripted(move |request| {
        let taken = match request.path.as_str() {
            SEND => guard.take(request),
            _ => healthy(request),
        };
        if answers.load(Ordering::SeqCst) {
            taken
        } else {
            hung.clone()
        }
    });
    (provider, recovered)
}

#[tokio::test]
async fn a_provider_that_hangs_is_noticed_explained_and_left_behind_when_it_answers_again() {
    let whole = br#"{"response":{"status":{"code":200,"message":"x"},"order":{"id":"312891245"}}}"#;
    let ways = [
        ("never answers", Reply::Silence, "no answer came within 1s"),
        (
            "sends half a head",
            Reply::Stall(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
            "no answer came within 1s",
        ),
        (
            "sends a byte a second",
            Reply::Trickle {
                http: 200,
                body: whole.to_vec(),
            },
            "HTTP 200, and then the answer broke off",
        ),
    ];
    // Side by side: each of them is little more than waiting.
    let ways = ways.map(|(way, reply, said)| is_survived(way, reply, said));
    futures_util::future::join_all(ways).await;
}

async fn is_survived(way: &str, hung: Reply, said: &str) {
    let (provider, recovered) = hanging(&hung);
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ids = insert_many(pool, 20, &[]).await;
    let flags = ["--request-timeout", "1s", "--lease", "3s"];
    let worker = Process::worker(&database.worker_url(), &provider.url(), &flags);
    worker.wait_for_line(said).await;
    worker.wait_for_line("the provider is unavailable").await;
    let longest = "SELECT coalesce(max(duration_ms), 0)::bigint FROM sms_outbox.attempts";
    let longest = wait_for_count(pool, longest, |ms| ms > 0).await;
    assert!((900..10_000).contains(&longest), "{way}: {longest} ms");

    let url = provider.url();
    let environment = [
        ("DATABASE_URL", database.url()),
        ("ILETIMERKEZI_BASE_URL", url),
        ("ILETIMERKEZI_API_KEY", KEY.to_owned()),
        ("ILETIMERKEZI_API_HASH", HASH.to_owned()),
        ("SMS_OUTBOX_REQUEST_TIMEOUT", "1s".to_owned()),
    ];
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let (code, told) = program::run(&["doctor"], &environment).await;
    assert_eq!(code, Some(1), "{way}: {told}");
    for part in [
        said,
        "what is queued goes out by itself when it answers again",
    ] {
        assert!(told.contains(part), "{way}: {part}: {told}");
    }

    recovered.store(true, Ordering::SeqCst);
    let jobs = wait_for_statuses(pool, &ids, "sent").await;
    let lines = worker.stop().await;
    assert!(
        lines
            .iter()
            .any(|line| line.contains("the provider is available again")),
        "{way}: {lines:#?}"
    );
    for job in jobs {
        let requests = provider.orders_of(&job.body);
        let caught = requests.len() > 1;
        assert_eq!(job.duplicate, caught, "{way}: {job:?}");
        assert!(
            requests.iter().all(|one| one.raw == requests[0].raw),
            "{way}"
        );
    }
}
