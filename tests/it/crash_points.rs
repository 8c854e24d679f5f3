//! Wherever a worker dies, freezes or loses its database, the message is neither forgotten nor sent twice. One fact for
//! each place on the way of a message where something can break.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sms_outbox::outbox::{AttemptRow, CLAIM_SINGLES, JobRow, Outbox};
use sms_outbox::{Iys, NewMessage};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::support::faults::{MidStatement, server_of_its_own};
use crate::support::postgres::TestDatabase;
use crate::support::provider::{Door, FakeProvider, Guard, Hold, Reply, Request, SEND, healthy};
use crate::support::proxy::{At, Fate, Proxy};
use crate::support::worker::{
    Process, Worker, count, insert, wait_for_count, wait_for_job, wait_for_status,
};

const RECORD: &str = include_str!("../../src/outbox/record_sent.sql");

/// A lease that a test can wait for. It outlasts a request, as it must.
const SHORT_LEASE: [&str; 4] = ["--request-timeout", "1s", "--lease", "1500ms"];

/// A provider with its duplicate guard.
fn guarded() -> FakeProvider {
    let mut guard = Guard::default();
    FakeProvider::scripted(move |request| match request.path.as_str() {
        SEND => guard.take(request),
        _ => healthy(request),
    })
}

/// What the second worker made of a job whose first one was killed.
struct Aftermath {
    job: JobRow,
    history: Vec<AttemptRow>,
    requests: Vec<Request>,
}

impl Aftermath {
    /// Waits until another worker has finished the job.
    async fn of(database: &TestDatabase, provider: &FakeProvider, id: Uuid) -> Self {
        let successor = Worker::start(database, provider, &[]);
        let job = wait_for_status(database.pool(), id, "sent").await;
        successor.stop().await;
        Self {
            job,
            history: history(database.pool(), id).await,
            requests: provider.orders(),
        }
    }

    /// One request and its repeat, which the provider's guard caught: the one message is on its way.
    fn was_repeated_and_caught(&self) {
        assert_eq!(self.requests.len(), 2);
        assert_eq!(self.requests[0].raw, self.requests[1].raw);
        assert!(
            self.job.duplicate && self.job.attempt == 2,
            "{:?}",
            self.job
        );
        assert_eq!(self.history.len(), 2, "{:?}", self.history);
    }
}

async fn history(pool: &PgPool, id: Uuid) -> Vec<AttemptRow> {
    let history = Outbox::new(pool.clone()).attempts(id).await;
    history.expect("the database answers")
}

async fn killed(mut worker: Process) {
    worker.signal(Signal::SIGKILL);
    assert_eq!(
        worker.ended().await.code(),
        None,
        "it did not end by itself"
    );
}

#[tokio::test]
async fn a_producer_that_loses_its_connection_during_commit_inserts_again_under_its_key() {
    for (at, rows) in [(At::Request, 0), (At::Answer, 1)] {
        let database = TestDatabase::create().await;
        let proxy = Proxy::before(&database.url());
        let message = || {
            NewMessage::new(
                "BRAND",
                ["0532 111 22 33"],
                "Order #1234",
                Iys::Transactional,
            )
            .and_then(|message| message.with_idempotency_key("order-1234"))
            .expect("it can be sent")
        };
        let trap = proxy.trap("COMMIT", at, Fate::Cut);
        let mut connection = PgConnection::connect(&proxy.url()).await.expect("a way in");
        let mut transaction = connection.begin().await.expect("begun");
        sms_outbox::enqueue_once(&mut *transaction, &message())
            .await
            .expect("inserted");
        transaction
            .commit()
            .await
            .expect_err("nobody knows how it ended");
        trap.sprung().await;
        let jobs = "SELECT count(*) FROM sms_outbox.jobs";
        // The server may take a moment to notice that its client is gone.
        let ended = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start < now()";
        wait_for_count(database.pool(), ended, |n| n == 0).await;
        assert_eq!(count(database.pool(), jobs).await, rows, "{at:?}");

        let again = sms_outbox::enqueue_once(database.pool(), &message()).await;
        let id = again.expect("inserted, or found").id();
        let provider = guarded();
        let worker = Worker::start(&database, &provider, &[]);
        let job = wait_for_status(database.pool(), id, "sent").await;
        worker.stop().await;
        assert_eq!(job.attempt, 1);
        assert_eq!(count(database.pool(), jobs).await, 1, "{at:?}");
        assert_eq!(provider.orders().len(), 1);
    }
}

#[tokio::test]
async fn a_worker_that_dies_after_its_claim_and_before_the_first_byte_leaves_one_message() {
    let database = TestDatabase::create().await;
    let provider = guarded();
    let proxy = Proxy::before(&database.url());
    let id = insert(database.pool(), &[]).await;
    let claimed = proxy.trap(CLAIM_SINGLES, At::Answer, Fate::Held);
    let worker = Process::worker(&proxy.url(), &provider.url(), &SHORT_LEASE);
    claimed.sprung().await;
    killed(worker).await;
    assert_eq!(
        wait_for_status(database.pool(), id, "sending")
            .await
            .attempt,
        1
    );
    let after = Aftermath::of(&database, &provider, id).await;
    assert_eq!(after.requests.len(), 1, "it was not indeterminate");
    assert!(!after.job.duplicate && after.job.order_id.is_some());
    assert_eq!(after.job.attempt, 2);
}

#[tokio::test]
async fn a_worker_that_dies_in_flight_leaves_a_message_that_its_repeat_sends() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::scripted(|request| match (request.path.as_str(), request.n) {
        // It arrives, and is not taken.
        (SEND, 1) => Reply::Silence,
        _ => healthy(request),
    });
    let id = insert(database.pool(), &[]).await;
    let worker = Process::worker(&database.worker_url(), &provider.url(), &SHORT_LEASE);
    provider.wait_for_orders(1).await;
    killed(worker).await;
    let after = Aftermath::of(&database, &provider, id).await;
    assert_eq!(after.requests.len(), 2);
    assert_eq!(after.requests[0].raw, after.requests[1].raw);
    assert!(!after.job.duplicate && after.job.order_id.is_some());
}

#[tokio::test]
async fn a_worker_that_dies_before_it_reads_the_acceptance_leaves_one_message() {
    let database = TestDatabase::create().await;
    let hold = Hold::new();
    let held = hold.clone();
    let mut guard = Guard::default();
    let provider =
        FakeProvider::scripted(move |request| match (request.path.as_str(), request.n) {
            (SEND, 1) => guard.take(request).held(&held),
            (SEND, _) => guard.take(request),
            _ => healthy(request),
        });
    let id = insert(database.pool(), &[]).await;
    let worker = Process::worker(&database.worker_url(), &provider.url(), &SHORT_LEASE);
    provider.wait_for_orders(1).await;
    killed(worker).await;
    let after = Aftermath::of(&database, &provider, id).await;
    hold.release();
    after.was_repeated_and_caught();
}

#[tokio::test]
async fn a_worker_that_dies_with_an_unrecorded_answer_leaves_one_message() {
    let database = TestDatabase::create().await;
    let provider = guarded();
    let proxy = Proxy::before(&database.url());
    let id = insert(database.pool(), &[]).await;
    let answered = proxy.trap(RECORD, At::Request, Fate::Held);
    let worker = Process::worker(&proxy.url(), &provider.url(), &SHORT_LEASE);
    answered.sprung().await;
    killed(worker).await;
    Aftermath::of(&database, &provider, id)
        .await
        .was_repeated_and_caught();
}

#[tokio::test]
async fn a_worker_that_dies_while_it_records_leaves_a_message_that_is_sent_and_on_record() {
    let database = TestDatabase::create().await;
    let provider = guarded();
    let pool = database.pool();

    // The statement is committed, and its answer on the way.
    let proxy = Proxy::before(&database.url());
    let id = insert(pool, &[]).await;
    let recorded = proxy.trap(RECORD, At::Answer, Fate::Held);
    let worker = Process::worker(&proxy.url(), &provider.url(), &SHORT_LEASE);
    recorded.sprung().await;
    killed(worker).await;
    let after = Aftermath::of(&database, &provider, id).await;
    assert_eq!((after.requests.len(), after.history.len()), (1, 1));
    assert!(!after.job.duplicate && after.job.order_id.is_some() && after.job.attempt == 1);

    // The server is in the middle of it. Nobody else gets at the row before it has ended.
    let id = insert(pool, &[]).await;
    let middle = MidStatement::of_jobs_that_become("sent", pool).await;
    let worker = Process::worker(&database.worker_url(), &provider.url(), &SHORT_LEASE);
    middle.wait_for_someone().await;
    killed(worker).await;
    let successor = Worker::start(&database, &provider, &[]);
    let past =
        format!("SELECT count(*) FROM sms_outbox.jobs WHERE id = '{id}' AND lease_until < now()");
    wait_for_count(pool, &past, |n| n == 1).await;
    middle.release().await;
    let job = wait_for_status(pool, id, "sent").await;
    successor.stop().await;
    assert_eq!(provider.orders().len(), 2, "one for each message");
    assert!(!job.duplicate && job.order_id.is_some() && job.attempt == 1);
}

/// A worker with an accepted answer is frozen past its lease. Another one recovers the job, and the first one
/// thaws. Returns the job when the first one has `said` what it knows, and all that it logged.
async fn frozen_with_an_unrecorded_answer(
    database: &TestDatabase,
    provider: &FakeProvider,
    said: &str,
) -> (JobRow, Vec<String>) {
    let proxy = Proxy::before(&database.url());
    let pool = database.pool();
    let id = insert(pool, &[]).await;
    let answered = proxy.trap(RECORD, At::Request, Fate::Held);
    let frozen = Process::worker(&proxy.url(), &provider.url(), &SHORT_LEASE);
    answered.sprung().await;
    frozen.signal(Signal::SIGSTOP);
    let successor = Worker::start(database, provider, &[]);
    wait_for_job(pool, id, "the repeat is answered", |job| {
        job.status == "sent"
    })
    .await;
    answered.release();
    frozen.signal(Signal::SIGCONT);
    frozen.wait_for_line(said).await;
    successor.stop().await;
    let lines = frozen.stop().await;
    (crate::support::worker::job(pool, id).await, lines)
}

#[tokio::test]
async fn a_worker_frozen_past_its_lease_thaws_with_an_answer_that_does_no_harm() {
    let database = TestDatabase::create().await;
    let provider = guarded();
    let said = "late answer: its claim had been lost";
    let (job, _) = frozen_with_an_unrecorded_answer(&database, &provider, said).await;
    assert_eq!(provider.orders().len(), 2, "a request and its repeat");
    assert_eq!(job.status, "sent");
    assert_eq!(
        job.order_id.as_deref(),
        Some("312000001"),
        "the late answer names the order that the repeat's 451 could not"
    );
    assert_eq!(history(database.pool(), job.id).await.len(), 3);
}

#[tokio::test]
async fn two_orders_for_one_job_are_both_on_record_and_logged_as_an_error() {
    let database = TestDatabase::create().await;
    // No guard at all: what the promise depends on does not hold.
    let provider = FakeProvider::start();
    let said = "accepted twice";
    let (job, lines) = frozen_with_an_unrecorded_answer(&database, &provider, said).await;
    assert_eq!(job.status, "sent");
    let history = history(database.pool(), job.id).await;
    let mut orders: Vec<&str> = history
        .iter()
        .filter_map(|attempt| attempt.order_id.as_deref())
        .collect();
    orders.sort_unstable();
    assert_eq!(orders, ["312000001", "312000002"]);
    let alarm = lines
        .iter()
        .find(|line| line.contains(said))
        .unwrap_or_else(|| panic!("{lines:#?}"));
    assert!(alarm.contains("ERROR"), "{alarm}");
    assert!(alarm.contains(&job.id.to_string()), "{alarm}");
    assert!(
        alarm.contains("312000001") && alarm.contains("312000002"),
        "{alarm}"
    );
}

#[tokio::test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "only Linux tells who waits before a door"
)]
async fn a_worker_frozen_between_its_last_check_and_the_first_byte_does_not_send_when_it_thaws() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // Connecting is what takes time between the two.
    let door = Door::shut();
    let id = insert(pool, &[]).await;
    let frozen = Process::worker(&database.worker_url(), &door.url(), &SHORT_LEASE);
    door.wait_for_someone().await;
    frozen.signal(Signal::SIGSTOP);
    let mut guard = Guard::default();
    let provider = door.open(move |request| match request.path.as_str() {
        SEND => guard.take(request),
        _ => healthy(request),
    });
    provider.wait_for_connections(1).await;
    let successor = Worker::start(&database, &provider, &[]);
    let job = wait_for_status(pool, id, "sent").await;
    frozen.signal(Signal::SIGCONT);
    frozen
        .wait_for_line("late answer: its claim had been lost")
        .await;
    successor.stop().await;
    frozen.stop().await;
    assert!(!job.duplicate && job.order_id.is_some(), "{job:?}");
    assert_eq!(provider.orders().len(), 1);
}

#[tokio::test]
async fn a_database_away_for_longer_than_the_guard_window_makes_jobs_uncertain_and_loses_no_answer()
{
    let (mut server, pool) = server_of_its_own().await;
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |request| match request.text() {
        "accepted" => healthy(request).held(&held),
        "lost" => Reply::Hangup.held(&held),
        // Whoever asked is killed meanwhile.
        "abandoned" => Reply::Silence,
        _ => healthy(request),
    });
    let [accepted, lost, abandoned] = ["accepted", "lost", "abandoned"];
    const GUARD_WINDOW: Duration = Duration::from_secs(2);
    // Nothing of this may be asked for again once the guard has gone.
    let flags = [
        "--request-timeout",
        "1s",
        "--lease",
        "1500ms",
        "--guard-window",
        "2s",
        "--settle-delay",
        "100ms",
    ];
    let mut killed_one = Process::worker(&server.admin_url(), &provider.url(), &flags);
    let abandoned_id = insert(&pool, &[("body", &format!("'{abandoned}'"))]).await;
    provider.wait_for_orders(1).await;
    killed_one.signal(Signal::SIGSTOP);
    let worker = Process::worker(&server.admin_url(), &provider.url(), &flags);
    let lost_id = insert(&pool, &[("body", &format!("'{lost}'"))]).await;
    let accepted_id = insert(&pool, &[("body", &format!("'{accepted}'"))]).await;
    provider.wait_for_orders(3).await;
    let asked = Instant::now();
    server.crash().await.expect("killed");
    killed_one.signal(Signal::SIGKILL);
    killed_one.ended().await;
    hold.release();
    // It is the window that has to pass, and nothing else.
    tokio::time::sleep_until((asked + GUARD_WINDOW).into()).await;
    server.restart().await.expect("restarted");
    let job = wait_for_status(&pool, accepted_id, "sent").await;
    assert!(job.order_id.is_some() && !job.duplicate, "{job:?}");
    for id in [lost_id, abandoned_id] {
        let job = wait_for_status(&pool, id, "uncertain").await;
        assert!(job.ambiguous_since.is_some(), "{job:?}");
    }
    let after = insert(&pool, &[]).await;
    wait_for_status(&pool, after, "sent").await;
    worker.stop().await;
    for text in [accepted, lost, abandoned] {
        assert_eq!(provider.orders_of(text).len(), 1, "{text}");
    }
}
