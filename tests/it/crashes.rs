//! A message that brings its worker down must not bring down one worker after the other, nor take others with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use sms_outbox::outbox::{Filter, Outbox};

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Guard, Reply, SEND, in_order};
use crate::support::worker::{
    Process, count, execute, insert, insert_many, job, wait_for_count, wait_for_status,
    wait_for_statuses,
};

/// Short leases: what a killed worker held is taken over after a second and a half.
const FLAGS: [&str; 6] = [
    "--request-timeout",
    "1s",
    "--connect-timeout",
    "1s",
    "--lease",
    "1500ms",
];

/// Answers nothing about the text `poison`, and nothing at all while `silent`.
fn silent_provider() -> (FakeProvider, Arc<AtomicBool>) {
    let silent = Arc::new(AtomicBool::new(true));
    let is_silent = Arc::clone(&silent);
    let mut guard = Guard::default();
    let provider = FakeProvider::scripted(move |request| {
        if request.path != SEND {
            in_order(request)
        } else if request.text() == "poison" || is_silent.load(Ordering::SeqCst) {
            Reply::Silence
        } else {
            guard.take(request)
        }
    });
    (provider, silent)
}

#[tokio::test]
async fn a_message_that_brings_workers_down_is_set_aside_and_the_others_go_on() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let (provider, silent) = silent_provider();
    let poison = insert(pool, &[("body", "'poison'")]).await;
    let beside = insert_many(pool, 6, &[]).await;

    for crash in 1..=3 {
        let mut worker = Process::worker(&database.url(), &provider.url(), &FLAGS);
        provider
            .wait("the poison is asked for again", |all| {
                all.iter()
                    .filter(|request| request.text() == "poison")
                    .count()
                    == crash
            })
            .await;
        if crash < 3 {
            // The others are caught in it too.
            provider.wait_for_orders(crash * 7).await;
        } else {
            assert_eq!(
                count(
                    pool,
                    "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'sending'"
                )
                .await,
                1,
                "alone: nobody else is in the hands of the worker that is about to go down"
            );
            assert_eq!(provider.orders().len(), 15);
        }
        worker.signal(Signal::SIGKILL);
        worker.ended().await;
    }
    silent.store(false, Ordering::SeqCst);

    let worker = Process::worker(&database.url(), &provider.url(), &FLAGS);
    let job = wait_for_status(pool, poison, "failed").await;
    assert_eq!(job.error_class.as_deref(), Some("unknown"));
    let why = job.error_message.unwrap_or_default();
    assert!(
        why.starts_with("Set aside: 3 workers in a row went down"),
        "{why}"
    );
    assert!(
        job.ambiguous_since.is_some(),
        "it may have been sent, and says so"
    );
    let sought = format!("SELECT count(*) FROM sms_outbox.searches WHERE job_id = '{poison}'");
    assert_eq!(count(pool, sought).await, 1, "and its order is looked for");
    wait_for_statuses(pool, &beside, "sent").await;
    worker.wait_for_line("it brings workers down").await;
    worker.stop().await;
    assert_eq!(provider.orders_of("poison").len(), 3);

    let history = Outbox::new(pool.clone())
        .attempts(poison)
        .await
        .expect("the history");
    assert_eq!(history.len(), 3, "{history:#?}");
    assert!(history.iter().all(|attempt| attempt.observer == "rescue"));
}

#[tokio::test]
async fn once_retried_by_hand_it_endangers_nobody_else() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let (provider, silent) = silent_provider();
    silent.store(false, Ordering::SeqCst);
    let id = insert(pool, &[("body", "'mended'")]).await;
    execute(
        pool,
        "UPDATE sms_outbox.jobs SET status = 'failed', error_class = 'unknown', finished_at = now(), token = 3,
             ambiguous_since = now();
         INSERT INTO sms_outbox.attempt_log (job_id, token, observer, attempt, counted, started_at, progress, worker)
         SELECT id, n, 'rescue', n, true, now(), 'maybe_sent', 'w' || n FROM sms_outbox.jobs, generate_series(1, 3) AS n",
    )
    .await;
    let retried = Filter {
        ids: Some(vec![id]),
        at_most: 1,
        ..Filter::default()
    };
    Outbox::new(pool.clone())
        .retry(&retried)
        .await
        .expect("it is retried");
    let worker = Process::worker(&database.url(), &provider.url(), &FLAGS);
    wait_for_status(pool, id, "sent").await;
    let lines = worker.stop().await;
    assert!(
        lines.iter().any(|line| line.contains("sent alone")),
        "{}",
        lines.join("\n")
    );
}

#[tokio::test]
async fn where_workers_die_all_the_time_no_message_is_blamed_for_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let (provider, silent) = silent_provider();
    let id = insert(pool, &[("body", "'unlucky'")]).await;
    for crash in 1..=4 {
        let mut worker = Process::worker(&database.url(), &provider.url(), &FLAGS);
        provider.wait_for_orders(crash).await;
        worker.signal(Signal::SIGKILL);
        worker.ended().await;
        // Two others go down at about the same time, and it was in the hands of neither.
        execute(
            pool,
            format!(
                "INSERT INTO sms_outbox.lost_workers (worker) VALUES ('a{crash}'), ('b{crash}')"
            ),
        )
        .await;
    }
    silent.store(false, Ordering::SeqCst);
    let worker = Process::worker(&database.url(), &provider.url(), &FLAGS);
    let sent = wait_for_status(pool, id, "sent").await;
    let lines = worker.stop().await;
    assert_eq!(sent.attempt, 5);
    assert!(
        !lines.iter().any(|line| line.contains("alone")),
        "{}",
        lines.join("\n")
    );
}

#[tokio::test]
async fn an_answer_clears_a_message_of_suspicion() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut told = 0;
    let provider = FakeProvider::scripted(move |request| {
        if request.path != SEND {
            return in_order(request);
        }
        told += 1;
        match told {
            1 | 2 => Reply::Silence,
            // No acceptance, but an answer: the worker that got it is alive.
            3 => Reply::code(503, 503),
            _ => in_order(request),
        }
    });
    let id = insert(pool, &[]).await;
    for crash in 1..=2 {
        let mut worker = Process::worker(&database.url(), &provider.url(), &FLAGS);
        provider.wait_for_orders(crash).await;
        worker.signal(Signal::SIGKILL);
        worker.ended().await;
    }
    let flags = [&FLAGS[..], &["--backoff-base", "1s"]].concat();
    let worker = Process::worker(&database.url(), &provider.url(), &flags);
    provider.wait_for_orders(3).await;
    wait_for_count(
        pool,
        "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'queued' AND parked IS NULL",
        |n| n == 1,
    )
    .await;
    wait_for_status(pool, id, "sent").await;
    worker.stop().await;
    assert_eq!(job(pool, id).await.attempt, 4);
}
