//! A message that brings down every worker that sends it is bounded like any other indeterminate job: by the guard window. Nobody else pays
//! for it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Guard, Reply, SEND, healthy};
use crate::support::worker::{
    Process, count, insert, insert_many, job, wait_for_count, wait_for_statuses,
};

const WINDOW: Duration = Duration::from_secs(7);

/// Short leases: what a killed worker held is recovered after a second and a half.
const FLAGS: [&str; 12] = [
    "--request-timeout",
    "1s",
    "--connect-timeout",
    "1s",
    "--lease",
    "1500ms",
    "--settle-delay",
    "200ms",
    "--guard-window",
    "7s",
    "--concurrency",
    "4",
];

#[tokio::test]
async fn a_message_that_kills_every_worker_ends_uncertain_within_the_window_and_all_others_are_sent()
 {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut guard = Guard::default();
    let provider = FakeProvider::scripted(move |request| {
        if request.path != SEND {
            healthy(request)
        } else if request.text() == "deadly" {
            Reply::Silence
        } else {
            guard.take(request)
        }
    });
    let asked_for = |text: &str| {
        let orders = provider.orders_of(text);
        orders
            .iter()
            .map(|request| request.arrived)
            .collect::<Vec<_>>()
    };
    let deadly = insert(pool, &[("body", "'deadly'")]).await;
    let beside = insert_many(pool, 60, &[]).await;

    let mut killed = 0;
    let began = Instant::now();
    'workers: loop {
        let mut worker = Process::worker(&database.worker_url(), &provider.url(), &FLAGS);
        while asked_for("deadly").len() == killed {
            if job(pool, deadly).await.status == "uncertain" {
                worker.stop().await;
                break 'workers;
            }
            assert!(began.elapsed() < 6 * WINDOW, "it goes on for ever");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        killed += 1;
        if killed > 1 {
            // Who was killed beside it each time would be as uncertain as it is.
            let others = format!(
                "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'sending' AND id <> '{deadly}'"
            );
            wait_for_count(pool, &others, |n| n == 0).await;
        }
        worker.signal(Signal::SIGKILL);
        worker.ended().await;
    }

    let requests = asked_for("deadly");
    assert!(killed >= 3, "it killed only {killed}");
    assert_eq!(requests.len(), killed);
    let [first, .., last] = requests[..] else {
        panic!("{requests:?}")
    };
    assert!(last - first < WINDOW, "{:?}", last - first);
    let job = job(pool, deadly).await;
    assert!(
        job.ambiguous_since.is_some(),
        "it says that it may have been sent"
    );
    let task =
        format!("SELECT count(*) FROM sms_outbox.reconciliation_tasks WHERE job_id = '{deadly}'");
    let worker = Process::worker(&database.worker_url(), &provider.url(), &FLAGS);
    wait_for_count(pool, &task, |tasks| tasks == 1).await;
    wait_for_statuses(pool, &beside, "sent").await;
    worker.stop().await;
    let doubled = "SELECT count(*) FROM sms_outbox.attempts WHERE provider_code = 200 GROUP BY job_id HAVING count(*) > 1";
    assert_eq!(
        count(pool, format!("SELECT count(*) FROM ({doubled}) AS twice")).await,
        0
    );
}
