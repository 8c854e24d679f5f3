//! The wall clock of a worker decides nothing: it may jump by hours in either direction while the worker is at work. And a
//! machine that is suspended forgets none of the time.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::support::clock::{Clocks, hours};
use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, Guard, Hold, Reply, SEND, healthy};
use crate::support::worker::{
    Process, count, insert, jobs, wait_for_count, wait_for_status, wait_for_statuses,
};

/// `None`: this machine has none that can be made to jump, and says so.
fn clocks() -> Option<Clocks> {
    match Clocks::new() {
        Ok(clocks) => Some(clocks),
        Err(why) => {
            // Past the harness, which keeps back what a test that passes prints.
            use std::io::Write as _;
            let left_out = format!("\nLEFT OUT: no clock can be made to jump here: {why}\n");
            std::io::stderr().write_all(left_out.as_bytes()).ok();
            None
        }
    }
}

#[tokio::test]
async fn a_wall_clock_that_jumps_by_hours_doubles_nothing_expires_nothing_and_holds_nothing_up() {
    let Some(clock) = clocks() else {
        return;
    };
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jumps = [hours(5), hours(-7), hours(26), 0];
    let holds: HashMap<i64, Hold> = jumps.map(|jump| (jump, Hold::new())).into();
    let held = holds.clone();
    let mut guard = Guard::default();
    let mut seen: HashMap<String, usize> = HashMap::new();
    let provider = FakeProvider::scripted(move |request| {
        if request.path != SEND {
            return healthy(request);
        }
        let text = request.text().to_owned();
        let (kind, jump) = text.split_once(' ').expect("our own texts");
        let n = seen.entry(text.clone()).or_default();
        *n += 1;
        match (kind, *n) {
            ("held", _) => {
                let hold = &held[&jump.parse().expect("our own texts")];
                guard.take(request).held(hold)
            }
            ("lost", 1) => {
                guard.take(request);
                Reply::Hangup
            }
            ("throttled", 1) => Reply::text(429, "").with_header("retry-after", "1"),
            _ => guard.take(request),
        }
    });
    let environment = clock.environment();
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let flags = ["--rate-per-second", "50", "--settle-delay", "500ms"];
    let worker = Process::worker_with(
        &database.worker_url(),
        &provider.url(),
        &flags,
        &environment,
    );
    let far = insert(
        pool,
        &[
            ("body", "'far 0'"),
            ("due_at", "now() + interval '3 hours'"),
        ],
    )
    .await;

    for jump in jumps {
        let mut ids = Vec::new();
        for (kind, due) in [
            // What a jump may find: a request in flight, a repeat that cools down, a message before its moment, an account that
            // was asked to slow down.
            ("held", "now()"),
            ("lost", "now()"),
            ("waiting", "now() + interval '800 milliseconds'"),
            ("throttled", "now() + interval '300 milliseconds'"),
        ] {
            let body = format!("'{kind} {jump}'");
            let columns = [
                ("body", body.as_str()),
                ("due_at", due),
                ("expires_at", "now() + interval '1 hour'"),
            ];
            ids.push(insert(pool, &columns).await);
        }
        provider
            .wait("they are under way", |all| {
                let came = |kind: &str| all.iter().any(|r| r.text() == format!("{kind} {jump}"));
                came("held") && came("lost")
            })
            .await;
        clock.set_ahead(jump);
        wait_for_status(pool, ids[1], "sent").await;
        holds[&jump].release();
        wait_for_statuses(pool, &ids, "sent").await;
        let attempts: Vec<i16> = jobs(pool, &ids)
            .await
            .iter()
            .map(|job| job.attempt)
            .collect();
        // Being throttled spends none.
        assert_eq!(attempts, [1, 2, 1, 1], "{jump}");
        let requests = ["held", "lost", "waiting", "throttled"]
            .map(|kind| provider.orders_of(&format!("{kind} {jump}")).len());
        assert_eq!(requests, [1, 2, 1, 2], "{jump}");

        // So it did jump.
        let expected = Utc::now() + TimeDelta::seconds(jump);
        let said = worker.lines().pop().expect("it logs what it sends");
        let moment = said.split(' ').next().unwrap_or_default();
        let moment: DateTime<Utc> = moment
            .parse()
            .unwrap_or_else(|error| panic!("{error}: {said}"));
        let off = (moment - expected).abs();
        assert!(off < TimeDelta::minutes(5), "{jump} s ahead: {said}");
    }
    assert_eq!(
        jobs(pool, &[far]).await[0].status,
        "queued",
        "not due for hours"
    );
    worker.stop().await;
}

/// A job of as many recipients as the limit allows in a second waits for nearly a second before the next one may go. Suspended
/// in that second, the worker wakes up when the moment has passed by which the text had to be sent.
#[tokio::test]
async fn what_was_claimed_before_a_machine_was_suspended_is_not_sent_when_it_wakes_up_too_late() {
    let Some(clock) = clocks() else {
        return;
    };
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let environment = clock.environment();
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let worker = Process::worker_with(
        &database.url(),
        &provider.url(),
        &["--rate-per-second", "100"],
        &environment,
    );
    let numbers =
        "(SELECT array_agg('0532' || lpad(n::text, 7, '0')) FROM generate_series(1, 100) AS n)";
    // A machine that is too busy may let the second one go before it is suspended.
    for round in 1..=5 {
        let (first, second) = (format!("first {round}"), format!("second {round}"));
        for text in [&first, &second] {
            let columns = [
                ("recipients", numbers),
                ("body", &format!("'{text}'")),
                ("expires_at", "now() + interval '10 minutes'"),
            ];
            insert(pool, &columns).await;
        }
        let claimed = format!(
            "SELECT count(*) FROM sms_outbox.jobs WHERE body = '{second}' AND status <> 'queued'"
        );
        wait_for_count(pool, &claimed, |n| n == 1).await;
        clock.suspended_for(hours(round));
        let ended = format!(
            "SELECT count(*) FROM sms_outbox.jobs WHERE body = '{second}' AND finished_at IS NOT NULL"
        );
        wait_for_count(pool, &ended, |n| n == 1).await;
        if provider.orders_of(&second).is_empty() {
            let expired = format!("{ended} AND status = 'expired'");
            assert_eq!(count(pool, &expired).await, 1);
            worker.stop().await;
            return;
        }
    }
    panic!("it went every time before the machine was suspended");
}
