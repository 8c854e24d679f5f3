//! What SQL says of messages on their way to the phone: the views, the numbers of a job, and the feed, as applications and
//! support read them.

use std::time::{Duration, Instant};

use serde_json::Value;
use sms_outbox::delivery::{Delivery, DeliveryStatus, Fact, Price, Source, Word};
use sms_outbox::outbox::{Filter, Learnt, Outbox, Resolution, RoleKind};
use sms_outbox::sandbox::{Sandbox, SandboxConfig};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row, postgres::PgRow};
use uuid::Uuid;

use crate::recording::late_acceptance;
use crate::support::postgres::TestDatabase;
use crate::support::roles;
use crate::support::worker::{
    DEADLINE, HASH, KEY, Worker, count, execute, insert, insert_many, wait_for_count,
};

/// Columns of a job that the provider took under this order.
fn taken<'a>(order: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut columns = vec![
        ("status", "'sent'"),
        ("order_id", order),
        ("sent_at", "now()"),
        ("finished_at", "now()"),
    ];
    columns.retain(|(name, _)| !more.iter().any(|(given, _)| given == name));
    columns.extend_from_slice(more);
    columns
}

/// Of each job of an order, what these facts add to it.
async fn learnt(outbox: &Outbox, order: &str, facts: &[Fact], price: Option<&str>) -> Vec<Learnt> {
    let jobs = outbox.deliveries_of("default", &[order]).await;
    let jobs = jobs.expect("the database answers");
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id).collect();
    let numbers = outbox.numbers_with_places(&ids).await;
    let numbers = numbers.expect("the database answers");
    jobs.iter()
        .filter_map(|job| {
            let price = price.and_then(Price::parse);
            job.learn(numbers[&job.id].delivery(), facts.iter().copied(), price)
        })
        .collect()
}

async fn tell(outbox: &Outbox, order: &str, facts: &[Fact], price: Option<&str>) {
    let learnt = learnt(outbox, order, facts, price).await;
    let written = outbox.write_deliveries("default", &learnt).await;
    assert_eq!(
        written.expect("the database answers").len(),
        learnt.len(),
        "nobody else writes"
    );
    assert!(!learnt.is_empty(), "{order}: it is news");
}

async fn rows(pool: &PgPool, sql: impl Into<String>) -> Vec<PgRow> {
    let sql = sql.into();
    let found = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
        .fetch_all(pool)
        .await;
    found.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The columns of the first row, as text, separated by spaces; null is `-`.
async fn line(pool: &PgPool, columns: &str, from: &str) -> String {
    let columns: Vec<String> = columns
        .split(", ")
        .map(|column| format!("coalesce(({column})::text, '-')"))
        .collect();
    let sql = format!("SELECT concat_ws(' ', {}) FROM {from}", columns.join(", "));
    let rows = rows(pool, sql).await;
    assert_eq!(rows.len(), 1, "{from}");
    rows[0].get(0)
}

async fn message(pool: &PgPool, id: Uuid, columns: &str) -> String {
    line(
        pool,
        columns,
        &format!("sms_outbox.messages WHERE id = '{id}'"),
    )
    .await
}

/// What became of each number of a job.
async fn numbers(pool: &PgPool, id: Uuid) -> Vec<(String, Option<String>)> {
    let sql = format!("SELECT number, delivery FROM sms_outbox.recipients('{id}')");
    rows(pool, sql)
        .await
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

fn said(numbers: &[(String, Option<String>)]) -> String {
    let each = numbers
        .iter()
        .map(|(number, delivery)| format!("{number} {}", delivery.as_deref().unwrap_or("-")));
    each.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn an_application_asks_whether_its_message_arrived() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let key = ("idempotency_key", "'order-1234-shipped'");
    insert(database.pool(), &taken("'70'", &[key])).await;
    // As the contract has it, in the role of a producer.
    let producer = PgPool::connect(&database.url_as(RoleKind::Producer)).await;
    let producer = producer.expect("a producer");
    let asked = async || {
        let message = "(SELECT status, delivery, delivered_at, price FROM sms_outbox.messages \
                        WHERE account = 'default' AND idempotency_key = 'order-1234-shipped') AS message";
        let columns = "status, delivery, delivered_at <= now(), price";
        line(&producer, columns, message).await
    };
    assert_eq!(asked().await, "sent - - -");
    let missed = Fact::Number(0, Word::Undelivered, Source::Webhook);
    tell(&outbox, "70", &[missed], None).await;
    assert_eq!(asked().await, "sent undelivered - -");
    let arrived = Fact::Number(0, Word::Delivered, Source::Report);
    tell(&outbox, "70", &[arrived], Some("0,0372")).await;
    assert_eq!(asked().await, "sent delivered true 0.0372");
    producer.close().await;
}

#[tokio::test]
async fn a_list_that_was_cut_is_one_message() {
    let database = TestDatabase::create().await;
    let (pool, outbox) = (database.pool(), Outbox::new(database.pool().clone()));
    let list = [
        ("status", "'split'"),
        (
            "recipients",
            "'{905320000001,0532 000 00 02,905320000003,905320000004,?,905320000001}'",
        ),
        ("rejected_recipients", "'{?,905320000004}'"),
        ("error_class", "'recipients'"),
        ("finished_at", "now()"),
    ];
    let whole = insert(pool, &list).await;
    let part_of = format!("'{whole}'");
    let part = async |order: &str, numbers: &str, more: &[(&str, &str)]| {
        let (order, numbers) = (format!("'{order}'"), format!("'{{{numbers}}}'"));
        let own = [
            ("part_of", part_of.as_str()),
            ("recipients", numbers.as_str()),
        ];
        insert(pool, &taken(&order, &[&own[..], more].concat())).await
    };
    part("71", "905320000001,905320000002", &[]).await;
    let third = [
        ("status", "'queued'"),
        ("order_id", "NULL"),
        ("sent_at", "NULL"),
        ("finished_at", "NULL"),
    ];
    let third = part("72", "905320000003", &third).await;
    let fourth = [
        ("status", "'failed'"),
        ("order_id", "NULL"),
        ("sent_at", "NULL"),
        ("error_class", "'recipients'"),
    ];
    part("73", "905320000004", &fourth).await;
    let columns = "status, delivery, delivered, undelivered, total, price, source, delivered_at IS NULL, finished_at IS NULL";
    assert_eq!(
        message(pool, whole, columns).await,
        "queued - - - - - - true true"
    );
    assert_eq!(
        said(&numbers(pool, whole).await),
        "905320000001 -, 905320000002 -, 905320000003 -, 905320000004 rejected, ? rejected, 905320000001 -"
    );

    let two = [
        Fact::Number(0, Word::Delivered, Source::Report),
        Fact::Number(1, Word::Delivered, Source::Report),
    ];
    tell(&outbox, "71", &two, Some("2")).await;
    // One of its numbers still waits to be sent to.
    assert_eq!(
        message(pool, whole, columns).await,
        "queued pending 2 0 2 2.0000 report true true"
    );

    let sent = format!(
        "UPDATE sms_outbox.jobs SET status = 'sent', order_id = '72', sent_at = now(), finished_at = now() WHERE id = '{third}'"
    );
    execute(pool, sent).await;
    assert_eq!(
        message(pool, whole, columns).await,
        "sent pending 2 0 3 2.0000 report true false"
    );
    let no = Fact::Number(0, Word::Undelivered, Source::Webhook);
    tell(&outbox, "72", &[no], None).await;
    assert_eq!(
        message(pool, whole, columns).await,
        "sent partly 2 1 3 2.0000 report false false"
    );
    assert_eq!(
        said(&numbers(pool, whole).await),
        "905320000001 delivered, 905320000002 delivered, 905320000003 undelivered, 905320000004 rejected, ? rejected, \
         905320000001 delivered"
    );
    let yes = Fact::Number(0, Word::Delivered, Source::Report);
    tell(&outbox, "72", &[yes], Some("1")).await;
    assert_eq!(
        message(pool, whole, columns).await,
        "sent delivered 3 0 3 3.0000 report false false"
    );
    // A part that was never sent is nobody's delivery.
    let given_up = [
        ("status", "'expired'"),
        ("order_id", "NULL"),
        ("sent_at", "NULL"),
    ];
    part("74", "905320000005", &given_up).await;
    assert_eq!(
        message(pool, whole, columns).await,
        "sent partly 3 0 3 3.0000 report false false"
    );
    assert_eq!(
        count(pool, "SELECT count(*) FROM sms_outbox.messages").await,
        1
    );
}

#[tokio::test]
async fn a_campaign_is_one_row() {
    let database = TestDatabase::create().await;
    let (pool, outbox) = (database.pool(), Outbox::new(database.pool().clone()));
    let batch = Uuid::now_v7();
    let id = format!("'{batch}'");
    let of = |numbers: &'static str| [("batch_id", id.as_str()), ("recipients", numbers)];
    // A number that stands there twice, and one that cannot be read: two are sent to.
    let twice = [
        &of("'{905320000001,905320000001,905320000002,?}'")[..],
        &[("rejected_recipients", "'{?}'")],
    ];
    insert(pool, &taken("'80'", &twice.concat())).await;
    insert(pool, &taken("'81'", &of("'{905320000003}'"))).await;
    insert(pool, &of("'{905320000004,905320000005}'")).await;
    let columns = "jobs, jobs_sent, jobs_queued, recipients, recipients_waiting, recipients_rejected, delivered, undelivered, \
                   undecided, price, first_at <= last_at";
    let batches = format!("sms_outbox.batches WHERE batch_id = '{batch}'");
    assert_eq!(
        line(pool, columns, &batches).await,
        "3 2 1 7 2 1 0 0 4 - true"
    );
    let facts = [
        Fact::Number(0, Word::Delivered, Source::Report),
        Fact::Number(1, Word::Delivered, Source::Report),
        Fact::Number(2, Word::Undelivered, Source::Report),
    ];
    tell(&outbox, "80", &facts, Some("2")).await;
    // Nobody is undecided there any more, although four were written.
    assert_eq!(
        line(pool, columns, &batches).await,
        "3 2 1 7 2 1 1 1 1 2.0000 true"
    );
}

#[tokio::test]
async fn each_number_of_a_job_says_what_became_of_it() {
    let database = TestDatabase::create().await;
    let (pool, outbox) = (database.pool(), Outbox::new(database.pool().clone()));
    let single = insert(
        pool,
        &taken("'90'", &[("recipients", "'{0532 000 00 01}'")]),
    )
    .await;
    assert_eq!(said(&numbers(pool, single).await), "905320000001 -");
    tell(&outbox, "90", &[Fact::Refused(Source::Report)], None).await;
    assert_eq!(
        said(&numbers(pool, single).await),
        "905320000001 undelivered"
    );
    assert_eq!(message(pool, single, "delivery").await, "refused");

    let list = [
        (
            "recipients",
            "'{905320000001,?,0532 000 00 02,5320000001,905320000003,+4915112345678,905320000004}'",
        ),
        ("rejected_recipients", "'{?,+4915112345678,905320000004}'"),
    ];
    let list = insert(pool, &taken("'91'", &list)).await;
    let before = "905320000001 -, ? rejected, 905320000002 -, 905320000001 -, 905320000003 -, +4915112345678 rejected, \
                  905320000004 rejected";
    assert_eq!(said(&numbers(pool, list).await), before);
    let facts = [
        Fact::Number(0, Word::Delivered, Source::Report),
        Fact::Number(3, Word::Delivered, Source::Report),
        Fact::Number(2, Word::Undelivered, Source::Webhook),
    ];
    tell(&outbox, "91", &facts, None).await;
    let after = "905320000001 delivered, ? rejected, 905320000002 undelivered, 905320000001 delivered, 905320000003 pending, \
                 +4915112345678 rejected, 905320000004 rejected";
    assert_eq!(said(&numbers(pool, list).await), after);
    tell(&outbox, "91", &[Fact::Overdue], None).await;
    let numbers_then = said(&numbers(pool, list).await);
    assert!(numbers_then.contains("905320000003 -"), "{numbers_then}");
    assert_eq!(message(pool, list, "delivery").await, "unknown");
    assert_eq!(numbers(pool, Uuid::now_v7()).await, []);
}

#[tokio::test]
async fn a_producer_reads_its_own_numbers_and_nobody_elses() {
    let database = TestDatabase::create().await;
    if !database.is_granted() {
        return;
    }
    let pool = database.pool();
    let (own, others) = (roles::of(RoleKind::Producer), "somebody".to_owned());
    let of = |producer: &str| format!("'{producer}'");
    let mine = insert(pool, &[("producer", of(&own).as_str())]).await;
    let theirs = insert(pool, &[("producer", of(&others).as_str())]).await;
    for (kind, sees_theirs) in [(RoleKind::Producer, 0), (RoleKind::Support, 1)] {
        let mut connection = PgConnection::connect(&database.url())
            .await
            .expect("the database");
        // Who logs in is the producer, whatever role it takes on.
        let session = format!("SET SESSION AUTHORIZATION {}", roles::of(kind));
        let become_it = sqlx::raw_sql(AssertSqlSafe(session))
            .execute(&mut connection)
            .await;
        become_it.expect("a superuser");
        for (job, sees) in [(mine, 1), (theirs, sees_theirs)] {
            let found: i64 = sqlx::query_scalar("SELECT count(*) FROM sms_outbox.recipients($1)")
                .bind(job)
                .fetch_one(&mut connection)
                .await
                .expect("it may be asked");
            assert_eq!(found, sees, "{kind:?}");
        }
        connection.close().await.expect("it answered");
    }
}

/// What would be a loop in a loop takes minutes, and is stopped.
#[tokio::test]
async fn the_numbers_of_a_long_list_are_read_in_one_pass() {
    let database = TestDatabase::create().await;
    let (pool, outbox) = (database.pool(), Outbox::new(database.pool().clone()));
    let all = "ARRAY(SELECT '90532' || lpad(m::text, 7, '0') FROM generate_series(1, 50000) AS m)";
    let out =
        "ARRAY(SELECT '90532' || lpad((m * 10)::text, 7, '0') FROM generate_series(1, 5000) AS m)";
    let columns = [("recipients", all), ("rejected_recipients", out)];
    let id = insert(pool, &taken("'95'", &columns)).await;
    tell(
        &outbox,
        "95",
        &[
            Fact::Number(0, Word::Delivered, Source::Report),
            Fact::Complete(Source::Report),
        ],
        None,
    )
    .await;
    let sql = format!(
        "SET statement_timeout = '20s';
         SELECT delivery, count(*) FROM sms_outbox.recipients('{id}') GROUP BY delivery ORDER BY delivery"
    );
    let found: Vec<(String, i64)> = rows(pool, sql)
        .await
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let expected = [
        ("delivered", 1),
        ("rejected", 5_000),
        ("undelivered", 44_999),
    ];
    assert_eq!(found, expected.map(|(what, n)| (what.to_owned(), n)));
}

#[tokio::test]
async fn sql_reads_the_facts_as_rust_does() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let word = |delivery: &Delivery| {
        let outcome = delivery.outcome()?;
        Some(match outcome.status {
            DeliveryStatus::Delivered => Some("delivered"),
            DeliveryStatus::Undelivered | DeliveryStatus::Refused | DeliveryStatus::Cancelled => {
                Some("undelivered")
            }
            DeliveryStatus::Pending => Some("pending"),
            DeliveryStatus::Unknown => None,
            DeliveryStatus::Partly => panic!("one number has no parts"),
        })
    };
    let sql = "SELECT facts::smallint, sms_outbox.number_delivery(facts::smallint, facts), NULL::integer \
               FROM generate_series(0, 1023) AS facts \
               UNION ALL \
               SELECT facts::smallint, sms_outbox.number_delivery(facts::smallint, said), said \
               FROM generate_series(0, 1008, 16) AS facts CROSS JOIN generate_series(-1, 31) AS said";
    let mut compared = 0;
    for row in rows(pool, sql).await {
        let (facts, in_sql, said): (i16, Option<&str>, Option<i32>) =
            (row.get(0), row.get(1), row.get(2));
        let place = |said: i32| match u32::try_from(said) {
            Ok(said) => char::from_digit(said & 15, 32)
                .expect("a digit")
                .to_string(),
            Err(_) => "-".to_owned(),
        };
        if said.is_some_and(|said| said < 0) {
            assert_eq!(in_sql, Some("rejected"), "{facts}");
            continue;
        }
        // Of what nothing was said there is no row.
        if let Some(in_rust) = word(&Delivery::read(facts, said.map(place))) {
            assert_eq!(in_sql, in_rust, "{facts} {said:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, 1_023 + 64 * 32 - 2);
}

#[tokio::test]
async fn what_is_granted_widely_shows_no_number_and_no_text() {
    let database = TestDatabase::create().await;
    let columns = [
        ("body", "'a secret text'"),
        ("recipients", "'{905321234567}'"),
        ("metadata", "'{\"secret\": 1}'"),
        ("batch_id", "gen_random_uuid()"),
    ];
    let id = insert(database.pool(), &taken("'96'", &columns)).await;
    let outbox = Outbox::new(database.pool().clone());
    tell(&outbox, "96", &[Fact::Overdue], None).await;
    for from in [
        "sms_outbox.messages AS shown".to_owned(),
        "sms_outbox.batches AS shown".to_owned(),
        "(SELECT * FROM sms_outbox.change_log) AS shown".to_owned(),
        format!("(SELECT * FROM sms_outbox.deliveries WHERE job_id = '{id}') AS shown"),
    ] {
        let shown = line(database.pool(), "to_jsonb(shown)", &from).await;
        assert!(
            !shown.contains("1234567") && !shown.contains("secret"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn of_two_who_write_the_same_delivery_neither_loses_what_it_learnt() {
    let database = TestDatabase::create().await;
    let (pool, outbox) = (database.pool(), Outbox::new(database.pool().clone()));
    let id = insert(
        pool,
        &taken("'97'", &[("recipients", "'{905320000001,905320000002}'")]),
    )
    .await;
    let fact = |place, word| [Fact::Number(place, word, Source::Webhook)];
    for round in 0..2 {
        // Both have read before either writes: first there is no row, then there is one.
        let (one, other) = match round {
            0 => (fact(0, Word::Undelivered), fact(1, Word::Delivered)),
            _ => (fact(0, Word::Delivered), fact(1, Word::Undelivered)),
        };
        let first = learnt(&outbox, "97", &one, None).await;
        let second = learnt(&outbox, "97", &other, None).await;
        let written = outbox
            .write_deliveries("default", &first)
            .await
            .expect("the database answers");
        assert_eq!(written.len(), 1);
        let written = outbox
            .write_deliveries("default", &second)
            .await
            .expect("the database answers");
        assert_eq!(
            written.len(),
            0,
            "it has not read the latest, and is told so"
        );
        tell(&outbox, "97", &other, None).await;
    }
    assert_eq!(
        said(&numbers(pool, id).await),
        "905320000001 delivered, 905320000002 delivered"
    );
    assert_eq!(
        message(pool, id, "delivery, conflicts").await,
        "delivered 2"
    );
}

/// One entry of the feed: job, status, delivery, and the cursor behind it.
type Change = (Uuid, Option<String>, Option<String>, String);

async fn changes(pool: &PgPool, cursor: &str, at_most: i32) -> Vec<Change> {
    let sql = "SELECT job_id, status, delivery, next_cursor FROM sms_outbox.changes($1, $2)";
    let found = sqlx::query_as(sql)
        .bind(cursor)
        .bind(at_most)
        .fetch_all(pool)
        .await;
    found.expect("the feed")
}

/// Everything behind a cursor, once there are so many: what other tests write in this server may hold it up for a while.
async fn changes_of(pool: &PgPool, cursor: &str, many: usize) -> Vec<Change> {
    let since = Instant::now();
    loop {
        let found = changes(pool, cursor, 10_000).await;
        if found.len() >= many {
            assert_eq!(found.len(), many, "{found:?}");
            return found;
        }
        assert!(since.elapsed() < DEADLINE, "{found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn log_change(connection: &mut PgConnection, jobs: &[Uuid]) {
    let sql = "INSERT INTO sms_outbox.change_log (account, jobs) VALUES ('default', $1)";
    let done = sqlx::query(sql).bind(jobs).execute(connection).await;
    done.expect("a right of the owner");
}

#[tokio::test]
async fn a_transaction_that_commits_late_is_not_passed_by() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = insert_many(pool, 4, &[]).await;
    let mut slow = PgConnection::connect(&database.url())
        .await
        .expect("the database");
    let mut late = slow.begin().await.expect("a transaction");
    log_change(&mut late, &jobs[..1]).await;
    let mut quick = PgConnection::connect(&database.url())
        .await
        .expect("the database");
    log_change(&mut quick, &jobs[1..2]).await;
    // What is committed already has one in front of it that is not.
    assert_eq!(changes(pool, "", 100).await, []);
    late.commit().await.expect("the change");
    let found = changes_of(pool, "", 2).await;
    assert_eq!(
        found.iter().map(|change| change.0).collect::<Vec<_>>(),
        jobs[..2]
    );

    // One that began early, and writes late.
    let cursor = found[1].3.clone();
    let mut late = slow.begin().await.expect("a transaction");
    sqlx::raw_sql("SELECT 1")
        .execute(&mut *late)
        .await
        .expect("an answer");
    log_change(&mut quick, &jobs[2..3]).await;
    let third = changes_of(pool, &cursor, 1).await;
    log_change(&mut late, &jobs[3..]).await;
    late.commit().await.expect("the change");
    let fourth = changes_of(pool, &third[0].3, 1).await;
    assert_eq!((third[0].0, fourth[0].0), (jobs[2], jobs[3]));
}

#[tokio::test]
async fn a_cursor_stands_between_any_two_jobs() {
    let database = TestDatabase::create().await;
    let (pool, outbox) = (database.pool(), Outbox::new(database.pool().clone()));
    let jobs = insert_many(pool, 5, &[("idempotency_key", "'key-' || n")]).await;
    let filter = Filter {
        ids: Some(jobs.clone()),
        at_most: i64::MAX,
        ..Filter::default()
    };
    outbox.cancel(&filter).await.expect("the database answers");
    let whole = changes_of(pool, "", 5).await;
    for at_most in 1..=5 {
        let (mut cursor, mut read) = (String::new(), Vec::new());
        loop {
            let some = changes(pool, &cursor, at_most).await;
            let Some(last) = some.last() else { break };
            assert!(some.len() <= at_most as usize);
            cursor = last.3.clone();
            read.extend(some);
        }
        assert_eq!(read, whole, "{at_most} at once");
    }
    assert!(
        whole
            .iter()
            .all(|change| change.1.as_deref() == Some("cancelled"))
    );
    // What was pruned since is told by its id only.
    execute(
        pool,
        format!("DELETE FROM sms_outbox.jobs WHERE id = '{}'", whole[2].0),
    )
    .await;
    let gone = &changes_of(pool, &whole[1].3, 3).await[0];
    assert_eq!((gone.0, &gone.1), (whole[2].0, &None));
    let nonsense = sqlx::query("SELECT * FROM sms_outbox.changes('nonsense')")
        .fetch_all(pool)
        .await;
    assert!(nonsense.is_err(), "it is no beginning");
}

#[tokio::test]
async fn the_feed_reads_what_it_returns_and_no_more() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    insert_many(pool, 20_000, &taken("(1000000 + n)::text", &[])).await;
    execute(
        pool,
        "INSERT INTO sms_outbox.change_log (account, jobs)
         SELECT 'default', array_agg(id) FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM sms_outbox.jobs) AS job GROUP BY n / 2",
    )
    .await;
    execute(
        pool,
        "INSERT INTO sms_outbox.deliveries (job_id, account, status, total, delivered, undelivered, facts, source)
         SELECT id, 'default', 'delivered', 1, 1, 0, 8, 'report' FROM sms_outbox.jobs",
    )
    .await;
    let all = "SELECT count(*) FROM sms_outbox.changes('', 30000)";
    wait_for_count(pool, all, |n| n == 20_000).await;
    let cursor = changes(pool, "", 5_000).await[4_999].3.clone();
    for analyzed in [false, true] {
        if analyzed {
            execute(pool, "ANALYZE").await;
        }
        let sql = format!(
            "EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM sms_outbox.changes('{cursor}', 1000)"
        );
        let plan: Value = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(pool)
            .await
            .expect("a plan");
        let plan = plan.to_string();
        assert!(!plan.contains("Seq Scan"), "analyzed {analyzed}: {plan}");
        for index in ["change_log_pkey", "jobs_pkey", "deliveries_pkey"] {
            assert!(plan.contains(index), "analyzed {analyzed}, {index}: {plan}");
        }
    }
}

/// What is new behind a cursor, which moves on: the job's status.
async fn next(pool: &PgPool, cursor: &mut String, id: Uuid) -> String {
    let change = changes_of(pool, cursor, 1).await.remove(0);
    assert_eq!(change.0, id);
    *cursor = change.3;
    change.1.expect("a job that is there")
}

/// The transactions of another server are counted by themselves.
#[tokio::test]
async fn a_feed_that_was_restored_from_another_server_goes_on() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let before = insert(pool, &taken("1", &[])).await;
    let mut connection = pool.acquire().await.expect("a connection");
    log_change(&mut connection, &[before]).await;
    execute(
        pool,
        "UPDATE sms_outbox.change_log SET xid = '900000000000'",
    )
    .await;
    assert!(changes(pool, "", 10).await.is_empty(), "not yet its time");
    Outbox::new(pool.clone())
        .confirm_identity("a test", None)
        .await
        .expect("confirmed");
    let after = insert(pool, &taken("2", &[])).await;
    log_change(&mut connection, &[after]).await;
    let told = changes_of(pool, "900000000000-1-1", 2).await;
    let jobs: Vec<Uuid> = told.iter().map(|change| change.0).collect();
    assert_eq!(jobs, [before, after]);
    let (.., cursor) = &told[1];
    assert!(changes(pool, cursor, 10).await.is_empty());
}

#[tokio::test]
async fn whatever_people_and_late_answers_make_of_a_job_is_told() {
    let database = TestDatabase::create().await;
    let (pool, outbox) = (database.pool(), Outbox::new(database.pool().clone()));
    let cursor = &mut String::new();
    let doubtful = [("ambiguous_since", "now() - interval '1 hour'")];
    let id = insert(pool, &doubtful).await;
    let stale = outbox.stale_to_uncertain(Duration::from_secs(60), 10).await;
    assert_eq!(stale.expect("the database answers"), [id]);
    assert_eq!(next(pool, cursor, id).await, "uncertain");
    let word = Default::default();
    let resolved = outbox.resolve(id, &Resolution::Fail, &word).await;
    resolved.expect("the database answers");
    assert_eq!(next(pool, cursor, id).await, "failed");
    let filter = Filter {
        ids: Some(vec![id]),
        at_most: 1,
        ..Filter::default()
    };
    outbox.retry(&filter).await.expect("the database answers");
    assert_eq!(next(pool, cursor, id).await, "queued");
    outbox.cancel(&filter).await.expect("the database answers");
    assert_eq!(next(pool, cursor, id).await, "cancelled");
    let late = late_acceptance(id, 1, "9001");
    outbox.record([&late]).await.expect("the database answers");
    assert_eq!(next(pool, cursor, id).await, "sent");
    let news = [Fact::Number(0, Word::Delivered, Source::Webhook)];
    tell(&outbox, "9001", &news, None).await;
    assert_eq!(next(pool, cursor, id).await, "sent");
    // A second witness of the same is none for the application.
    let again = [Fact::Number(0, Word::Delivered, Source::Report)];
    tell(&outbox, "9001", &again, Some("1")).await;

    let past = insert(pool, &[("expires_at", "now() - interval '1 ms'")]).await;
    outbox.expire(10).await.expect("the database answers");
    assert_eq!(next(pool, cursor, past).await, "expired");
}

#[tokio::test]
async fn whatever_a_worker_makes_of_a_job_is_told() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let sandbox = Sandbox::start(SandboxConfig {
        key: KEY.to_owned(),
        hash: HASH.to_owned(),
        ..SandboxConfig::default()
    })
    .await
    .expect("a free port");
    sandbox.handle().approve_sender("BRAND");
    sandbox
        .handle()
        .change_rules(|rules| rules.known_prefixes_only = true);
    let mut expected = Vec::new();
    for (recipients, status) in [
        ("'{905321234567}'", "sent"),
        ("'{905191234567}'", "failed"),
        ("'{?}'", "failed"),
        ("'{905321234567,?}'", "sent"),
        (
            "'{905321234567,905191234567,905321234568,905321234569}'",
            "split",
        ),
    ] {
        expected.push((insert(pool, &[("recipients", recipients)]).await, status));
    }
    let worker = Worker::start_at(
        &database.url(),
        &sandbox.base_url(),
        &["--poll-interval", "50ms"],
    );
    let open = "SELECT count(*) FROM sms_outbox.jobs WHERE finished_at IS NULL";
    wait_for_count(pool, open, |n| n == 0).await;
    worker.stop().await;
    // Each job, and the list once more for each of its parts.
    let parts = count(
        pool,
        "SELECT count(*) FROM sms_outbox.jobs WHERE part_of IS NOT NULL",
    )
    .await;
    let told = "SELECT coalesce(sum(cardinality(jobs)), 0) FROM sms_outbox.change_log";
    assert_eq!(count(pool, told).await, 5 + parts);
    let told = changes_of(pool, "", 5 + parts as usize).await;
    for (id, status) in expected {
        let as_message = if status == "split" { "sent" } else { status };
        let found = told.iter().find(|change| change.0 == id);
        let found = found.unwrap_or_else(|| panic!("the {status} one is not told"));
        assert_eq!(found.1.as_deref(), Some(as_message));
    }
}

#[expect(dead_code, reason = "its main is for people")]
#[path = "../../examples/follow.rs"]
mod follow;

#[tokio::test]
async fn an_application_that_dies_between_reading_and_committing_loses_and_doubles_nothing() {
    let database = TestDatabase::create().await;
    let (pool, outbox) = (database.pool(), Outbox::new(database.pool().clone()));
    follow::prepare(pool).await.expect("a database of its own");
    let in_sql = include_str!("../../examples/follow.sql");
    // What the application does with each piece of news, counted.
    execute(
        pool,
        "CREATE TABLE seen (job_id uuid, delivery text);
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO seen VALUES (new.job_id, new.delivery); RETURN NULL; END $$;
         CREATE TRIGGER see AFTER INSERT OR UPDATE ON sms_news FOR EACH ROW EXECUTE FUNCTION see();",
    )
    .await;
    for round in 0..6 {
        let order = (7_000 + round).to_string();
        let quoted = format!("'{order}'");
        insert(pool, &taken(&quoted, &[])).await;
        let news = [Fact::Number(0, Word::Delivered, Source::Webhook)];
        tell(&outbox, &order, &news, None).await;
        // It dies before its commit, having applied everything.
        let mut dying = pool.begin().await.expect("a transaction");
        let applied = sqlx::raw_sql(AssertSqlSafe(in_sql))
            .execute(&mut *dying)
            .await;
        applied.expect("the statement of the example");
        dying.rollback().await.expect("nothing happened");
        let since = Instant::now();
        let known = "SELECT count(*) FROM sms_news WHERE delivery = 'delivered'";
        while count(pool, known).await <= round {
            if round % 2 == 0 {
                follow::follow(pool, 1).await.expect("the example");
            } else {
                execute(pool, in_sql).await;
            }
            assert!(since.elapsed() < DEADLINE);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(count(pool, "SELECT count(*) FROM seen").await, 6);
    assert_eq!(
        count(pool, "SELECT count(DISTINCT job_id) FROM seen").await,
        6
    );
}
