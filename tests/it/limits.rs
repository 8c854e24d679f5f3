//! The fleet's limit on recipients in any second, and the provider's other limit, on bulk orders.

use std::time::{Duration, Instant};

use sms_outbox::daemon::Ended;
use sms_outbox::outbox::{Outbox, Slots};
use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::provider::{Door, FakeProvider, Hold, Reply, Request, healthy, order_id};
use crate::support::worker::{
    CLAIM, Process, Worker, claim_bulk, count, insert, insert_many, job, wait_for_count,
    wait_for_jobs, wait_for_status, wait_for_statuses,
};

/// The most recipients that arrived within any second.
pub(crate) fn most_in_a_second(orders: &[Request]) -> usize {
    let mut moments: Vec<(Instant, usize)> = orders
        .iter()
        .map(|r| (r.arrived, r.numbers().len()))
        .collect();
    moments.sort();
    let within = |from: usize| {
        let end = moments[from].0 + Duration::from_secs(1);
        moments[from..]
            .iter()
            .take_while(|(at, _)| *at < end)
            .map(|(_, n)| n)
            .sum()
    };
    (0..moments.len()).map(within).max().unwrap_or(0)
}

#[tokio::test]
async fn no_second_holds_more_recipients_than_the_limit_over_all_workers() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    // Singles, and some that are five recipients each; urgent ones, which skip the pacing and never the limit.
    let mut ids = insert_many(pool, 40, &[]).await;
    let five =
        "ARRAY(SELECT '90533' || lpad((10 * n + i)::text, 7, '0') FROM generate_series(1, 5) AS i)";
    ids.extend(insert_many(pool, 4, &[("recipients", five)]).await);
    // No divisor of anything else here.
    let flags = ["--rate-per-second", "23"];
    let workers = [0, 1].map(|_| Process::worker(&database.worker_url(), &provider.url(), &flags));
    provider.wait_for_orders(5).await;
    ids.extend(insert_many(pool, 10, &[("priority", "0")]).await);
    let began = Instant::now();
    wait_for_statuses(pool, &ids, "sent").await;
    let took = began.elapsed();
    for worker in workers {
        worker.stop().await;
    }
    let orders = provider.orders();
    assert_eq!(orders.len(), 54);
    let most = most_in_a_second(&orders);
    assert!(most <= 23, "{most} recipients in one second");
    // 70 recipients at 23 a second; the limit is to be used, too.
    assert!(took < Duration::from_secs(8), "{took:?}");
}

/// Recipients that have been granted a moment, as of the last one.
const GRANTED: &str =
    "SELECT coalesce(max(n), 0)::bigint FROM sms_outbox.rate_limits, unnest(counts) AS n";

#[tokio::test]
async fn a_message_that_missed_its_moment_does_not_leave_without_another() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let flags = ["--rate-per-second", "2"];
    insert(pool, &[("body", "'first'")]).await;
    let worker = Worker::start(&database, &provider, &flags);
    provider.wait_for_orders(1).await;
    // The database answers late: by then, the moment it gave has passed.
    let mut slow = pool.begin().await.expect("a connection");
    sqlx::query("SELECT FROM sms_outbox.rate_limits FOR UPDATE")
        .execute(&mut *slow)
        .await
        .expect("locked");
    let late = insert(pool, &[("body", "'late'")]).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                   AND query LIKE '%What every claim begins with%' AND now() - query_start > interval '700 milliseconds'";
    wait_for_count(pool, waiting, |n| n >= 1).await;
    slow.rollback().await.expect("unlocked");
    wait_for_status(pool, late, "sent").await;
    worker.stop().await;
    // What was granted more than a second ago has been forgotten: the moment that was missed, and the one that was used.
    let granted = count(pool, GRANTED).await;
    assert!(
        granted >= 2,
        "{granted}: it left without a moment of its own"
    );
}

#[tokio::test]
async fn a_worker_whose_database_is_far_away_is_waited_for_by_the_whole_fleet() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let slots = |tolerance| Slots {
        per_second: 10,
        tolerance: Duration::from_millis(tolerance),
        horizon: Duration::from_secs(5),
    };
    let reserve = async |tolerance| {
        let wait_us = outbox
            .reserve_slot("default", slots(tolerance), 1, true)
            .await;
        wait_us
            .expect("answered")
            .expect("a moment within the horizon")
    };
    // Ten that may leave half a second late, and so until 0.5 s from now.
    let began = Instant::now();
    for _ in 0..10 {
        assert!(reserve(500).await <= 0, "there is room now");
    }
    // Whoever comes next may not count on their having left in time.
    let wait = Duration::from_micros(u64::try_from(reserve(20).await).expect("in the future"));
    let took = began.elapsed();
    assert!(wait + took >= Duration::from_millis(1_490), "{wait:?}");
    assert!(wait <= Duration::from_millis(1_520), "{wait:?}");
}

/// A limit of a hundred, for workers whose database is near.
fn hundred(horizon: Duration) -> Slots {
    Slots {
        per_second: 100,
        tolerance: Duration::from_millis(20),
        horizon,
    }
}

#[tokio::test]
async fn one_that_may_be_late_keeps_only_its_own_place_for_longer() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let reserve = async |tolerance| {
        let slots = Slots {
            per_second: 3,
            tolerance: Duration::from_millis(tolerance),
            horizon: Duration::from_secs(5),
        };
        let wait_us = outbox.reserve_slot("default", slots, 1, true).await;
        let wait_us = wait_us.expect("answered").expect("within the horizon");
        Instant::now() + Duration::from_micros(u64::try_from(wait_us).unwrap_or(0))
    };
    let began = Instant::now();
    reserve(500).await;
    reserve(20).await;
    reserve(20).await;
    let all = began.elapsed();
    let after = |moment: Instant| moment - began;
    for ms in [1_010, 1_010, 1_490] {
        let moment = after(reserve(20).await);
        assert!(moment >= Duration::from_millis(ms), "{moment:?}, not {ms}");
        // How long the answers took is not the database's fault.
        let most = Duration::from_millis(ms + 50) + all + began.elapsed();
        assert!(moment <= most, "{moment:?}, not {ms}");
    }
}

#[tokio::test]
async fn orders_of_several_recipients_leave_evenly() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let began = Instant::now();
    let mut moments = Vec::new();
    for _ in 0..60 {
        let slots = hundred(Duration::from_secs(5));
        let wait_us = outbox.reserve_slot("default", slots, 5, false).await;
        let wait_us = wait_us.expect("answered").expect("within the horizon");
        let wait = Duration::from_micros(u64::try_from(wait_us).unwrap_or(0));
        moments.push(began.elapsed() + wait);
    }
    moments.sort();
    let within = |from: &Duration| {
        let end = *from + Duration::from_millis(250);
        5 * moments
            .iter()
            .filter(|at| (*from..end).contains(*at))
            .count()
    };
    // A quarter of a second: its share, and a fifth of a second that was missed and may be caught up with.
    let most = moments.iter().map(within).max().expect("there are some");
    assert!(most <= 55, "{most} in a quarter of a second: {moments:?}");
    let last = *moments.last().expect("there are some");
    assert!(last < Duration::from_millis(3_400), "300 by {last:?}");
}

#[tokio::test]
async fn an_urgent_message_finds_room_beside_orders_of_several_recipients() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let slots = hundred(Duration::from_millis(40));
    let reserve = async |recipients, urgent| {
        let answer = outbox.reserve_slot("default", slots, recipients, urgent);
        answer.await.expect("answered")
    };
    // Until the last second is as full as such orders make it.
    let mut granted = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        for recipients in [7, 4, 2] {
            if let Some(us) = reserve(recipients, false).await {
                granted += recipients;
                let us = u64::try_from(us).unwrap_or(0);
                // Not further ahead than a message of its size has to wait for.
                assert!(us < 500_000, "{us} microseconds ahead");
            }
        }
    }
    assert!(granted >= 100, "{granted}");
    let wait = reserve(1, true).await.expect("there is room");
    assert!(wait <= 0, "{wait} microseconds");
}

#[tokio::test]
async fn a_large_order_gets_its_gap_however_many_small_ones_come() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let slots = hundred(Duration::from_millis(40));
    let reserve = async |recipients| {
        let answer = outbox.reserve_slot("default", slots, recipients, false);
        answer.await.expect("answered")
    };
    let began = Instant::now();
    let mut wait = None;
    while wait.is_none() {
        assert!(began.elapsed() < Duration::from_secs(30), "never");
        wait = reserve(90).await;
        reserve(1).await;
    }
    let (again, mut small) = (reserve(90).await, 0);
    assert_eq!(again, None, "one at a time");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_000) {
        small += usize::from(reserve(1).await.is_some());
    }
    assert!(small > 0, "small ones use what room there is beside it");
}

#[tokio::test]
async fn accounts_do_not_share_a_limit() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let reserve = async |account, recipients| {
        let slots = hundred(Duration::from_millis(40));
        let answer = outbox.reserve_slot(account, slots, recipients, true);
        answer.await.expect("answered")
    };
    assert!(reserve("one", 100).await.expect("all of it is free") <= 0);
    assert!(reserve("one", 1).await.expect("after a second") > 500_000);
    assert!(reserve("other", 100).await.expect("all of it is free") <= 0);
}

#[tokio::test]
async fn connections_that_stand_all_at_once_do_not_break_the_limit() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let door = Door::shut();
    let mut ids = insert_many(pool, 60, &[("priority", "3")]).await;
    let flags = [
        "--rate-per-second",
        "20",
        "--connect-timeout",
        "18s",
        "--request-timeout",
        "18s",
        "--lease",
        "60s",
    ];
    let workers = [0, 1].map(|_| Process::worker(&database.worker_url(), &door.url(), &flags));
    // Each at its own moment, as the limit wants it.
    door.wait_for(30).await;
    ids.push(insert(pool, &[("priority", "0"), ("body", "'code'")]).await);
    // They try again one and two seconds later: those who came in different seconds get through in one.
    let provider = door.open(healthy);
    let jobs = wait_for_statuses(pool, &ids, "sent").await;
    for worker in workers {
        worker.stop().await;
    }
    let orders = provider.orders();
    assert_eq!(orders.len(), 61);
    let most = most_in_a_second(&orders);
    assert!(most <= 20, "{most} recipients in one second");
    for job in &jobs {
        assert_eq!(job.attempt, 1, "waiting costs no attempt");
    }
    // Who waits for a moment keeps the connection.
    let connections = provider.connections();
    assert!(connections <= 61, "{connections} connections");
}

#[tokio::test]
async fn an_urgent_message_does_not_wait_behind_a_full_queue() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    insert_many(pool, 300, &[("priority", "3")]).await;
    let worker = Worker::start(&database, &provider, &["--rate-per-second", "20"]);
    provider.wait_for_orders(10).await;
    let urgent = insert(pool, &[("priority", "0"), ("body", "'code'")]).await;
    wait_for_status(pool, urgent, "sent").await;
    let ahead = provider
        .orders()
        .iter()
        .position(|r| r.text() == "code")
        .expect("it is sent");
    assert!(ahead < 40, "{ahead} went before it");
    assert_eq!(worker.stop().await, Ended::Gracefully);
}

#[tokio::test]
async fn a_job_above_the_limit_is_sent_all_the_same() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let many = "ARRAY(SELECT '90533' || lpad(i::text, 7, '0') FROM generate_series(1, 30) AS i)";
    let id = insert(pool, &[("recipients", many)]).await;
    let other = insert(pool, &[]).await;
    let worker = Worker::start(&database, &provider, &["--rate-per-second", "20"]);
    wait_for_statuses(pool, &[id, other], "sent").await;
    worker.stop().await;
}

/// Enqueues a list of so many numbers through the SQL function; the jobs in sending order.
async fn enqueue_bulk(database: &TestDatabase, numbers: u32, body: &str) -> Vec<Uuid> {
    sqlx::query_scalar(
        "SELECT * FROM sms_outbox.enqueue_bulk(sender => 'BRAND', body => $1, iys => false, recipients =>
            ARRAY(SELECT '0532' || lpad(i::text, 7, '0') FROM generate_series(1, $2) AS i))",
    )
    .bind(body)
    .bind(i32::try_from(numbers).expect("few enough"))
    .fetch_all(database.pool())
    .await
    .expect("jobs")
}

#[tokio::test]
async fn a_long_list_is_cut_and_sent_in_order_one_after_the_other_with_an_order_each() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |request| match request.text() {
        "sale" => healthy(request).held(&held),
        _ => healthy(request),
    });
    let ids = enqueue_bulk(&database, 100_003, "sale").await;
    assert_eq!(ids.len(), 3);
    let batches =
        "SELECT count(DISTINCT batch_id) FROM sms_outbox.jobs WHERE batch_id IS NOT NULL AND bulk";
    assert_eq!(count(pool, batches).await, 1);
    let workers =
        [0, 1].map(|_| Worker::start(&database, &provider, &["--rate-per-second", "100"]));
    provider.wait_for_orders(1).await;
    // Single messages flow meanwhile, and no second bulk order does.
    let singles = insert_many(pool, 30, &[]).await;
    wait_for_statuses(pool, &singles, "sent").await;
    assert_eq!(provider.orders_of("sale").len(), 1);
    assert_eq!(
        count(
            pool,
            "SELECT count(*) FROM sms_outbox.jobs WHERE bulk AND status = 'sending'"
        )
        .await,
        1
    );
    hold.release();
    let sent = wait_for_statuses(pool, &ids, "sent").await;
    for worker in workers {
        worker.stop().await;
    }
    let orders = provider.orders_of("sale");
    let sizes: Vec<usize> = orders.iter().map(|r| r.numbers().len()).collect();
    assert_eq!(sizes, [50_000, 50_000, 3]);
    let mut n = 0;
    for (order, job) in orders.iter().zip(&sent) {
        assert_eq!(job.order_id, Some(order_id(order.n)));
        for number in order.numbers() {
            n += 1;
            assert_eq!(number, format!("90532{n:07}"));
        }
    }
}

#[tokio::test]
async fn the_second_part_of_a_list_never_overtakes_the_first() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let outbox = Outbox::new(pool.clone());
    let ids = enqueue_bulk(&database, 50_001, "sale").await;
    // Another worker is claiming the first part at this moment, and its claim is not committed yet.
    let mut claiming = pool.begin().await.expect("a connection");
    sqlx::query("UPDATE sms_outbox.jobs SET status = 'sending', token = 1, lease_until = now() WHERE id = $1")
        .bind(ids[0])
        .execute(&mut *claiming)
        .await
        .expect("claimed");
    let claim = claim_bulk(&outbox, CLAIM).await;
    assert!(claim.expect("answered").is_none());
    // It died.
    claiming.rollback().await.expect("unlocked");
    let claim = claim_bulk(&outbox, CLAIM).await;
    assert_eq!(claim.expect("answered").expect("the first part").id, ids[0]);
    let claim = claim_bulk(&outbox, CLAIM).await;
    assert!(claim.expect("answered").is_none(), "one at a time");
}

#[tokio::test]
async fn bulk_orders_of_different_accounts_do_not_wait_for_each_other() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let hold = Hold::new();
    let held = hold.clone();
    let provider = FakeProvider::scripted(move |request| healthy(request).held(&held));
    let list = "ARRAY(SELECT '90533' || lpad(i::text, 7, '0') FROM generate_series(1, 101) AS i)";
    let mut ids = insert_many(pool, 2, &[("recipients", list)]).await;
    ids.extend(insert_many(pool, 2, &[("recipients", list), ("account", "'other'")]).await);
    let worker = Worker::start(&database, &provider, &["--accounts", "default,other"]);
    provider.wait_for_orders(2).await;
    let under_way =
        wait_for_jobs(pool, &ids, "two are under way", |job| job.status != "sent").await;
    assert_eq!(
        under_way
            .iter()
            .filter(|job| job.status == "sending")
            .count(),
        2
    );
    hold.release();
    wait_for_statuses(pool, &ids, "sent").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_bulk_order_that_is_retried_does_not_hold_up_the_next() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::scripted(|request| match request.n {
        1 => Reply::Hangup,
        _ => healthy(request),
    });
    let list = "ARRAY(SELECT '90533' || lpad(i::text, 7, '0') FROM generate_series(1, 101) AS i)";
    let first = insert(pool, &[("recipients", list), ("body", "'first'")]).await;
    let next = insert(pool, &[("recipients", list), ("body", "'next'")]).await;
    let worker = Worker::start(&database, &provider, &["--settle-delay", "60s"]);
    wait_for_status(pool, next, "sent").await;
    worker.stop().await;
    assert_eq!(job(pool, first).await.status, "queued");
}

#[tokio::test]
async fn bulk_orders_that_the_limit_could_carry_are_spread_and_larger_ones_are_not() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let list = |numbers: usize| {
        format!(
            "ARRAY(SELECT '90532' || lpad(n::text, 7, '0') FROM generate_series(1, {numbers}) AS n)"
        )
    };
    let (small, large) = (list(101), list(2_001));
    let columns = |list| [("recipients", list), ("body", "'text ' || n")];
    insert_many(pool, 3, &columns(&small)).await;
    let worker = Worker::start(&database, &provider, &["--rate-per-second", "100"]);
    provider.wait_for_orders(3).await;
    worker.stop().await;
    let mut arrived: Vec<_> = provider
        .orders()
        .iter()
        .map(|order| order.arrived)
        .collect();
    arrived.sort_unstable();
    for pair in arrived.windows(2) {
        // 101 recipients take the limit a second and a hundredth.
        assert!(pair[1] - pair[0] >= Duration::from_millis(1_000));
    }
    // What the limit could not carry in ten seconds follows the provider's other limit: one after the other.
    let ids = insert_many(pool, 2, &columns(&large)).await;
    let worker = Worker::start(&database, &provider, &["--rate-per-second", "100"]);
    let sent = wait_for_statuses(pool, &ids, "sent").await;
    worker.stop().await;
    assert_eq!(sent.len(), 2);
}
