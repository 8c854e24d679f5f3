//! What producers rely on: the insert is theirs, programming errors are refused by name, bad data is not, and one key makes
//! one job.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;
use sms_outbox::message::ForeignNumbers;
use sms_outbox::outbox::RoleKind;
use sms_outbox::{
    Bulk, DeliveryStatus, EnqueueError, Enqueued, ErrorClass, FindError, Iys, IysList, NewMessage,
    Priority, Recipient, Status, enqueue, enqueue_bulk, enqueue_once, find_job, find_job_by_key,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::provider::FakeProvider;
use crate::support::proxy::{At, Fate, Proxy};
use crate::support::worker::{
    Worker, count, execute, insert, insert_many, job, wait_for_status, wait_for_statuses,
};

fn message(text: &str) -> NewMessage {
    NewMessage::new("BRAND", ["0532 123 45 67"], text, Iys::Transactional).expect("a message")
}

async fn how_many(pool: &PgPool) -> i64 {
    count(pool, "SELECT count(*) FROM sms_outbox.jobs").await
}

#[tokio::test]
async fn a_rolled_back_producer_leaves_no_message() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    execute(pool, "CREATE TABLE orders (id integer)").await;
    let worker = Worker::start(&database, &provider, &[]);
    for commit in [false, true] {
        let mut transaction = pool.begin().await.expect("a connection");
        sqlx::query("INSERT INTO orders VALUES (1234)")
            .execute(&mut *transaction)
            .await
            .expect("an order");
        let text = if commit { "committed" } else { "rolled back" };
        enqueue(&mut *transaction, &message(text))
            .await
            .expect("enqueued");
        enqueue_once(
            &mut *transaction,
            &message(text).with_idempotency_key("k").expect("a key"),
        )
        .await
        .expect("enqueued");
        let bulk = Bulk::new("BRAND", ["05321112233"], text, Iys::Transactional).expect("a list");
        enqueue_bulk(&mut *transaction, &bulk)
            .await
            .expect("enqueued");
        if commit {
            transaction.commit().await.expect("committed");
        } else {
            transaction.rollback().await.expect("rolled back");
        }
    }
    provider.wait_for_orders(3).await;
    worker.stop().await;
    assert_eq!(provider.orders_of("rolled back").len(), 0);
    assert_eq!(provider.orders_of("committed").len(), 3);
    assert_eq!(
        (
            how_many(pool).await,
            count(pool, "SELECT count(*) FROM orders").await
        ),
        (3, 1)
    );
}

/// Columns and the SQL that fills them.
type Row = &'static [(&'static str, &'static str)];

/// Stands for a column that the insert does not name.
const LEFT_OUT: &str = "";

/// Every named rule of the table, and rows that break it and nothing else.
const RULES: [(&str, &[Row]); 40] = [
    ("jobs_id_required", &[&[("id", "NULL")]]),
    (
        "jobs_sender_required",
        &[&[("sender", "NULL")], &[("sender", LEFT_OUT)]],
    ),
    (
        "jobs_recipients_required",
        &[&[("recipients", "NULL")], &[("recipients", LEFT_OUT)]],
    ),
    (
        "jobs_body_required",
        &[&[("body", "NULL")], &[("body", LEFT_OUT)]],
    ),
    // The legal question has no default.
    (
        "jobs_iys_required",
        &[
            &[("iys", "NULL")],
            &[("iys", LEFT_OUT)],
            &[("iys", LEFT_OUT), ("iys_list", "'TACIR'")],
        ],
    ),
    (
        "jobs_columns_with_a_default_are_not_null",
        &[
            &[("account", "NULL")],
            &[("priority", "NULL")],
            &[("due_at", "NULL")],
            &[("max_attempts", "NULL")],
            &[("metadata", "NULL")],
            &[("status", "NULL")],
            &[("attempt", "NULL")],
            &[("token", "NULL")],
            &[("duplicate", "NULL")],
            &[("created_at", "NULL")],
            &[("producer", "NULL")],
        ],
    ),
    ("jobs_account_not_empty", &[&[("account", "''")]]),
    (
        "jobs_account_at_most_64_characters",
        &[
            &[("account", "repeat('a', 65)")],
            &[("account", "repeat('ş', 65)")],
        ],
    ),
    (
        "jobs_sender_has_1_to_11_characters",
        &[&[("sender", "''")], &[("sender", "'TWELVE CHARS'")]],
    ),
    (
        "jobs_sender_is_printable_ascii_and_not_blank",
        &[
            &[("sender", "' '")],
            &[("sender", "'Türk Ltd'")],
            &[("sender", "'🛒'")],
            &[("sender", "E'TWO\\nLINES'")],
            &[("sender", "E'BRAND\\n'")],
            &[("sender", "E'\\x1b[2J'")],
            &[("sender", "E'BRAND\\x7f'")],
        ],
    ),
    (
        "jobs_recipients_has_1_to_50000_numbers",
        &[
            &[("recipients", "'{}'")],
            &[(
                "recipients",
                "array_fill('05321234567'::text, ARRAY[50001])",
            )],
        ],
    ),
    (
        "jobs_recipients_is_a_flat_list",
        &[&[(
            "recipients",
            "'{{05321234567, 05331234567}, {05341234567, 05351234567}}'",
        )]],
    ),
    (
        "jobs_recipients_of_at_most_64_characters",
        &[
            &[("recipients", "ARRAY[repeat('5', 65)]")],
            &[(
                "recipients",
                "ARRAY['05321234567', NULL, repeat(' ', 60) || '05321']",
            )],
            &[(
                "recipients",
                "array_fill('05321234567'::text, ARRAY[49999]) || repeat('5', 1000000)",
            )],
        ],
    ),
    ("jobs_body_not_empty", &[&[("body", "''")]]),
    (
        "jobs_body_at_most_10000_characters",
        &[
            &[("body", "repeat('a', 10001)")],
            &[("body", "repeat('ş', 10001)")],
            &[("body", "repeat('🙂', 1000000)")],
        ],
    ),
    (
        "jobs_metadata_at_most_64_kilobytes",
        &[&[("metadata", "jsonb_build_object('x', repeat('x', 66000))")]],
    ),
    (
        "jobs_traceparent_at_most_128_characters",
        &[&[("traceparent", "repeat('0', 129)")]],
    ),
    (
        "jobs_idempotency_key_at_most_255_characters",
        &[
            &[("idempotency_key", "repeat('k', 256)")],
            &[("idempotency_key", "repeat('ş', 100000)")],
        ],
    ),
    (
        "jobs_provider_send_at_before_expires_at",
        &[
            &[
                ("provider_send_at", "now() + interval '2 hours'"),
                ("expires_at", "now() + interval '1 hour'"),
            ],
            &[
                ("provider_send_at", "now() + interval '1 hour'"),
                ("expires_at", "now() + interval '1 hour'"),
            ],
        ],
    ),
    (
        "jobs_iys_list_exactly_when_iys",
        &[&[("iys", "true")], &[("iys_list", "'TACIR'")]],
    ),
    (
        "jobs_iys_list_is_bireysel_or_tacir",
        &[&[("iys", "true"), ("iys_list", "'TICARI'")]],
    ),
    (
        "jobs_apitest_sender_needs_iys_false",
        &[&[
            ("sender", "'APITEST'"),
            ("iys", "true"),
            ("iys_list", "'TACIR'"),
        ]],
    ),
    (
        "jobs_priority_is_0_to_3",
        &[&[("priority", "-1")], &[("priority", "4")]],
    ),
    ("jobs_max_attempts_at_least_1", &[&[("max_attempts", "0")]]),
    (
        "jobs_due_at_in_years_1_to_9999",
        &[
            &[("due_at", "'infinity'")],
            &[("due_at", "'-infinity'")],
            &[("due_at", "'10000-01-01 00:00 UTC'")],
            &[("due_at", "'294000-01-01'")],
            &[("due_at", "'0044-03-15 BC'")],
        ],
    ),
    (
        "jobs_expires_at_in_years_1_to_9999",
        &[
            &[("expires_at", "'infinity'")],
            &[("expires_at", "'10000-01-02'")],
        ],
    ),
    (
        "jobs_provider_send_at_in_years_1_to_9999",
        &[
            &[("provider_send_at", "'-infinity'")],
            &[("provider_send_at", "'10000-01-02'")],
        ],
    ),
    (
        "jobs_idempotency_key_not_empty",
        &[&[("idempotency_key", "''")]],
    ),
    // What workers promise about their own writing.
    ("jobs_status_known", &[&[("status", "'pending'")]]),
    ("jobs_held_known", &[&[("held", "'forever'")]]),
    (
        "jobs_error_class_known",
        &[&[("error_class", "'whatever'")]],
    ),
    (
        "jobs_finished_exactly_when_final",
        &[&[("status", "'cancelled'")], &[("finished_at", "now()")]],
    ),
    (
        "jobs_sent_at_exactly_when_sent",
        &[
            &[("status", "'sent'"), ("finished_at", "now()")],
            &[("sent_at", "now()")],
        ],
    ),
    (
        "jobs_leased_exactly_when_sending",
        &[&[("status", "'sending'")], &[("lease_until", "now()")]],
    ),
    (
        "jobs_failed_has_a_class",
        &[&[("status", "'failed'"), ("finished_at", "now()")]],
    ),
    (
        "jobs_uncertain_is_indeterminate",
        &[&[("status", "'uncertain'")]],
    ),
    ("jobs_order_id_only_when_sent", &[&[("order_id", "'312'")]]),
    ("jobs_duplicate_only_when_sent", &[&[("duplicate", "true")]]),
    (
        "jobs_duplicate_of_only_for_a_duplicate",
        &[&[("duplicate_of", "gen_random_uuid()")]],
    ),
    ("jobs_attempt_not_negative", &[&[("attempt", "-1")]]),
];

/// The insert that `insert` would make, and why it is refused.
async fn refusal(pool: &PgPool, columns: &[(&str, &str)]) -> Option<sqlx::Error> {
    let mut all = vec![
        ("sender", "'BRAND'"),
        ("recipients", "'{05321234567}'"),
        ("body", "'x'"),
        ("iys", "false"),
    ];
    all.retain(|(name, _)| !columns.iter().any(|(given, _)| given == name));
    all.extend(columns.iter().filter(|(_, value)| *value != LEFT_OUT));
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let values: Vec<&str> = all.iter().map(|(_, value)| *value).collect();
    let sql = format!(
        "INSERT INTO sms_outbox.jobs ({}) VALUES ({})",
        names.join(", "),
        values.join(", ")
    );
    sqlx::query(AssertSqlSafe(sql)).execute(pool).await.err()
}

#[tokio::test]
async fn a_programming_error_fails_the_insert_and_is_called_by_its_name() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    for (rule, rows) in RULES {
        for row in rows {
            let error = refusal(pool, row)
                .await
                .unwrap_or_else(|| panic!("{rule}: {row:?} was taken"));
            let database = error
                .as_database_error()
                .unwrap_or_else(|| panic!("{rule}: {error}"));
            assert_eq!(database.constraint(), Some(rule), "{row:?}: {error}");
            assert_eq!(database.code().as_deref(), Some("23514"), "{rule}: {error}");
        }
    }
    assert_eq!(how_many(pool).await, 0);
    // A rule that is added is added here.
    let known: BTreeSet<String> = RULES.iter().map(|(rule, _)| (*rule).to_owned()).collect();
    let rules: Vec<String> = sqlx::query_scalar(
        "SELECT conname::text FROM pg_constraint
         WHERE contype = 'c' AND conname <> 'jobs_keep_the_rules' AND conname NOT IN (
               'jobs_what_the_database_and_workers_write_is_left_out', 'jobs_token_is_left_out', 'jobs_plainly_right_or_asked_about')
           AND (conrelid = 'sms_outbox.jobs'::regclass OR contypid IN (
               SELECT oid FROM pg_type WHERE typnamespace = 'sms_outbox'::regnamespace AND typtype = 'd'))",
    )
    .fetch_all(pool)
    .await
    .expect("the catalogue");
    assert_eq!(rules.into_iter().collect::<BTreeSet<_>>(), known);
}

/// All that the server tells the client about an error, and all of it that it writes to its log.
fn told(error: sqlx::Error) -> String {
    let error = error
        .into_database_error()
        .expect("by the server")
        .downcast::<sqlx::postgres::PgDatabaseError>();
    format!(
        "{} {:?} {:?} {:?}",
        error.message(),
        error.detail(),
        error.hint(),
        error.r#where()
    )
}

/// Workers' promises are CHECKs of the table in tests only.
async fn forget_workers_promises(pool: &PgPool) {
    execute(
        pool,
        "DO $$ DECLARE name text; BEGIN
             FOR name IN SELECT conname FROM pg_constraint
                 WHERE contype = 'c' AND conrelid = 'sms_outbox.jobs'::regclass AND conname <> 'jobs_keep_the_rules'
             LOOP EXECUTE 'ALTER TABLE sms_outbox.jobs DROP CONSTRAINT ' || name; END LOOP;
         END $$",
    )
    .await;
}

/// It ends up in the server's log, and in the application's.
#[tokio::test]
async fn no_error_of_an_insert_shows_number_or_text() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    forget_workers_promises(pool).await;
    let not_null: Vec<String> = sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'sms_outbox.jobs'::regclass AND attnum > 0 AND attnotnull
         ORDER BY attnum",
    )
    .fetch_all(pool)
    .await
    .expect("the catalogue");
    assert_eq!(not_null, ["id"], "the error about it would show the row");

    let secret: Row = &[("recipients", "'{05329876543}'"), ("body", "'a secret'")];
    let mut looked_at = 0;
    let out_of_range: [Row; 6] = [
        &[("priority", "100000")],
        &[("max_attempts", "100000")],
        &[("due_at", "'4 days'")],
        &[("metadata", "'no json'")],
        &[("id", "'no uuid'")],
        &[("bulk", "true")],
    ];
    let broken = RULES.iter().flat_map(|(_, rows)| rows.iter());
    for row in broken.chain(&out_of_range) {
        let kept = secret
            .iter()
            .filter(|(name, _)| !row.iter().any(|(given, _)| given == name));
        let columns: Vec<_> = kept.chain(*row).copied().collect();
        // What workers promise is no rule of production.
        let Some(refused) = refusal(pool, &columns).await else {
            continue;
        };
        let told = told(refused);
        for part in ["9876543", "a secret", "5321234567", "Failing row"] {
            assert!(!told.contains(part), "{row:?}: {told}");
        }
        looked_at += 1;
    }
    assert!(looked_at >= 40, "{looked_at}");
    // One key twice: the error shows the key, and nothing else.
    let keyed: Vec<_> = secret
        .iter()
        .copied()
        .chain([("idempotency_key", "'order-1'")])
        .collect();
    assert!(refusal(pool, &keyed).await.is_none());
    let told = told(refusal(pool, &keyed).await.expect("the key is taken"));
    assert!(told.contains("order-1"), "{told}");
    assert!(
        !told.contains("9876543") && !told.contains("a secret"),
        "{told}"
    );
}

#[tokio::test]
async fn the_servers_log_shows_neither_number_nor_text_of_a_refused_row() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // As applications do it: what is bound is no part of the statement that the log quotes.
    let insert = "INSERT INTO sms_outbox.jobs (id, sender, recipients, body, iys, status) VALUES ($1, $2, $3, $4, $5, $6)";
    let number = format!("0532{}", &database.name()[database.name().len() - 4..]);
    for missing in 0..6 {
        let refused = sqlx::query(insert)
            .bind((missing != 0).then(Uuid::now_v7))
            .bind((missing != 1).then_some("BRAND"))
            .bind((missing != 2).then(|| vec![number.clone()]))
            .bind((missing != 3).then(|| format!("a secret of {number}")))
            .bind((missing != 4).then_some(false))
            .bind((missing != 5).then_some("queued"))
            .execute(pool)
            .await
            .expect_err("something is missing");
        assert!(
            refused.to_string().contains("violates check constraint"),
            "{refused}"
        );
    }
    let Some(log) = servers_log(pool).await else {
        return;
    };
    assert!(log.contains("jobs_iys_required"), "the errors are in it");
    assert!(!log.contains(&number), "and the row is not");
}

#[tokio::test]
async fn no_way_to_fail_shows_the_row_even_in_a_log_that_tells_all_it_can() {
    let database = TestDatabase::create().await;
    forget_workers_promises(database.pool()).await;
    // The statement itself is the server's own choice to log; everything else that it tells of an error is asked for.
    let pool = &sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect(&database.url())
        .await
        .expect("the server");
    execute(
        pool,
        "SET log_error_verbosity = verbose; SET log_min_error_statement = panic; SET log_parameter_max_length_on_error = 0",
    )
    .await;
    let digits = &database.name()[database.name().len() - 4..];
    let (number, text) = (
        format!("0532987{digits}"),
        format!("secret-{digits}-{}", Uuid::now_v7()),
    );
    let (recipients, body) = (format!("ARRAY['{number}']"), format!("'{text}'"));
    let secret = [("recipients", recipients.as_str()), ("body", body.as_str())];
    let other_ways: [Row; 9] = [
        &[("id", "'no uuid'")],
        &[("bulk", "true")],
        &[("priority", "100000")],
        &[("max_attempts", "-32769")],
        &[("due_at", "'31 February'")],
        &[("iys", "'perhaps'")],
        &[("metadata", "'{'")],
        &[("batch_id", "'x'")],
        &[("nonsense", "1")],
    ];
    let mut told_of = Vec::new();
    for row in RULES
        .iter()
        .flat_map(|(_, rows)| rows.iter())
        .chain(&other_ways)
    {
        let kept = secret
            .iter()
            .filter(|(name, _)| !row.iter().any(|(given, _)| given == name));
        let columns: Vec<_> = kept.chain(*row).copied().collect();
        told_of.extend(refusal(pool, &columns).await.map(told));
    }
    // The same key, and the same id, twice.
    let id = format!("'{}'", Uuid::now_v7());
    for taken in [("idempotency_key", "'order-1'"), ("id", id.as_str())] {
        let columns: Vec<_> = secret.iter().copied().chain([taken]).collect();
        assert!(refusal(pool, &columns).await.is_none());
        told_of.extend(refusal(pool, &columns).await.map(told));
    }
    for call in [
        format!("'TWELVE CHARS', {recipients}, {body}, false"),
        format!("'BRAND', {recipients}, {body}, NULL"),
        format!("'BRAND', {recipients} || repeat('5', 65), {body}, false"),
        format!("'BRAND', {recipients}, repeat({body}, 1000), false"),
        format!("'BRAND', {recipients}, {body}, false, priority => 100000"),
        format!("'BRAND', {recipients}, {body}, false, idempotency_key => 'order-1'"),
        format!("'BRAND', {recipients}, {body}, false, due_at => 'infinity'"),
    ] {
        let sql = format!("SELECT sms_outbox.enqueue_bulk({call})");
        let refused = sqlx::query(AssertSqlSafe(sql)).execute(pool).await;
        told_of.push(told(refused.expect_err("it breaks a rule")));
    }
    let updated =
        sqlx::query("UPDATE sms_outbox.jobs SET iys = NULL, body = body || body").execute(pool);
    told_of.push(told(updated.await.expect_err("it breaks a rule")));
    assert!(told_of.len() >= 75, "{}", told_of.len());
    for told in &told_of {
        assert!(!told.contains(&number) && !told.contains(&text), "{told}");
    }
    let Some(log) = servers_log(pool).await else {
        return;
    };
    assert!(
        log.contains("jobs_plainly_right") || log.contains("keeps_the_rules"),
        "verbose it was"
    );
    assert!(
        !log.contains(&number) && !log.contains(&text),
        "and the row is not in it"
    );
}

/// The private server's log stands beside its data; another one's is not ours to read.
async fn servers_log(pool: &PgPool) -> Option<String> {
    let log: Result<Option<String>, _> = sqlx::query_scalar(
        "SELECT pg_read_file(regexp_replace(current_setting('data_directory'), '/[^/]*$', '/log'), true)",
    )
    .fetch_one(pool)
    .await;
    let log = log.ok().flatten();
    if log.is_none() {
        eprintln!("left out: this server's log cannot be read");
    }
    log
}

#[tokio::test]
async fn rules_hold_in_every_way_in_and_for_changes_too() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    insert(pool, &[]).await;
    let mut connection = pool.acquire().await.expect("a connection");
    let updated = sqlx::query("UPDATE sms_outbox.jobs SET max_attempts = 0")
        .execute(&mut *connection)
        .await;
    let mut copy = connection
        .copy_in_raw("COPY sms_outbox.jobs (sender, recipients, body, iys) FROM STDIN")
        .await
        .expect("it begins");
    let rows: &[u8] = b"BRAND\t{05321234567}\tx\tf\nBRAND\t{05321234567}\t\tf\n";
    copy.send(rows).await.expect("taken in");
    let copied = copy.finish().await;
    for (refused, rule) in [
        (updated.map(drop), "jobs_max_attempts_at_least_1"),
        (copied.map(drop), "jobs_body_not_empty"),
    ] {
        let error = refused.expect_err("it breaks a rule");
        let name = error.as_database_error().and_then(|e| e.constraint());
        assert_eq!(name, Some(rule), "{error}");
    }
    assert_eq!(how_many(pool).await, 1);
}

/// What a producer with rights on the whole table would write to make a job look claimed, sent or somebody else's.
const FORGED: [(&str, &str); 30] = [
    ("status", "'sent'"),
    ("status", "'sending'"),
    ("status", "'nonsense'"),
    ("attempt", "-5"),
    ("attempt", "3"),
    ("token", "1"),
    ("token", "2147483647"),
    ("token", "-1"),
    ("order_id", "'312'"),
    ("order_id", "''"),
    ("ambiguous_since", "'infinity'"),
    ("ambiguous_since", "now()"),
    ("lease_until", "'infinity'"),
    ("claimed_at", "now()"),
    ("sent_at", "now()"),
    ("finished_at", "now() - interval '10 years'"),
    ("duplicate", "true"),
    ("duplicate_of", "gen_random_uuid()"),
    ("content_key", "1"),
    ("held", "'sender'"),
    ("worker", "'me'"),
    ("answer_ms", "1"),
    ("answer_http_status", "200"),
    ("error_class", "'auth'"),
    ("error_code", "401"),
    ("error_message", "'x'"),
    ("rejected_recipients", "'{}'"),
    ("created_at", "now() - interval '1 second'"),
    ("created_at", "'infinity'"),
    ("producer", "'somebody'"),
];

#[tokio::test]
async fn what_the_database_and_workers_write_is_refused_from_a_producer() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    forget_workers_promises(pool).await;
    let role = format!("{}_app", database.name());
    let admin = async |sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(pool)
            .await
            .map(drop)
            .expect("the server's owner may")
    };
    admin(format!(
        "CREATE ROLE {role}; GRANT {role} TO current_user; GRANT USAGE ON SCHEMA sms_outbox TO {role};
         GRANT SELECT, INSERT ON sms_outbox.jobs TO {role}"
    ))
    .await;
    let mut connection = pool.acquire().await.expect("a connection");
    let insert = async |connection: &mut PgConnection, column: &str, value: &str| {
        let sql = format!(
            "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, {column})
             VALUES ('BRAND', '{{05321234567}}', 'x', false, {value})"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await
    };
    let set_role = format!("SET ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(set_role))
        .execute(&mut *connection)
        .await
        .expect("the role");
    for (column, value) in FORGED {
        let error = insert(&mut connection, column, value)
            .await
            .expect_err(column);
        let rule = match column {
            "token" => "jobs_token_is_left_out",
            _ => "jobs_what_the_database_and_workers_write_is_left_out",
        };
        let name = error.as_database_error().and_then(|e| e.constraint());
        assert_eq!(name, Some(rule), "{column} = {value}: {error}");
        let told = told(error);
        assert!(!told.contains("5321234567"), "{told}");
    }
    // Its own columns are its own, and what it says of the others may be their default.
    for (column, value) in [
        ("priority", "0"),
        ("status", "'queued'"),
        ("token", "0"),
        ("producer", "SESSION_USER"),
        ("created_at", "now()"),
        ("provider_send_at", "now() + interval '1 hour'"),
    ] {
        insert(&mut connection, column, value)
            .await
            .expect("that is what it may");
    }
    // Who may change what workers write may bring it along: a restored dump holds nothing else.
    admin(format!(
        "GRANT UPDATE (status) ON sms_outbox.jobs TO {role}"
    ))
    .await;
    for column in ["token", "attempt"] {
        insert(&mut connection, column, "1")
            .await
            .expect("that is what it may");
    }
    // A right to change another column only is no obstacle on rows that were claimed.
    admin(format!(
        "REVOKE ALL ON sms_outbox.jobs FROM {role}; REVOKE UPDATE (status) ON sms_outbox.jobs FROM {role};
         GRANT SELECT, UPDATE (metadata) ON sms_outbox.jobs TO {role}"
    ))
    .await;
    let noted = sqlx::raw_sql("UPDATE sms_outbox.jobs SET metadata = '{\"seen\": true}'")
        .execute(&mut *connection)
        .await
        .expect("that is what it may");
    assert_eq!(noted.rows_affected(), 8);
    drop(connection);
    pool.close().await;
    let mut last = PgConnection::connect(&database.url())
        .await
        .expect("the server");
    let gone = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(gone))
        .execute(&mut last)
        .await
        .expect("no role left");
}

#[tokio::test]
async fn a_job_says_which_role_inserted_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let id = insert(pool, &[]).await;
    let (producer, user): (String, String) =
        sqlx::query_as("SELECT producer, SESSION_USER::text FROM sms_outbox.jobs WHERE id = $1")
            .bind(id)
            .fetch_one(pool)
            .await
            .expect("the job");
    assert_eq!(producer, user);
}

#[tokio::test]
async fn bad_data_does_not_fail_the_insert() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let rows: [&[(&str, &str)]; 15] = [
        &[("recipients", "'{nobody}'")],
        &[("recipients", "'{\"\"}'")],
        &[("recipients", "ARRAY[NULL]::text[]")],
        &[("recipients", "'{02121234567}'")],
        &[("recipients", "ARRAY[repeat('5', 64)]")],
        &[("recipients", "array_fill(repeat('ş', 64), ARRAY[1000])")],
        &[("recipients", "'[7:8]={05321234567,NULL}'")],
        &[("recipients", "array_fill('x'::text, ARRAY[50000])")],
        &[("body", "repeat('ş', 5000)")],
        &[("body", "' '")],
        &[("sender", "' A '"), ("body", "repeat('🙂', 10000)")],
        &[
            ("account", "repeat('ş', 64)"),
            ("idempotency_key", "repeat('ş', 255)"),
        ],
        &[("expires_at", "now() - interval '1 year'")],
        &[("due_at", "now() - interval '1 year'")],
        &[("traceparent", "'nonsense'"), ("metadata", "'[1]'")],
    ];
    for row in rows {
        let refused = refusal(pool, row).await;
        assert!(refused.is_none(), "{row:?}: {refused:?}");
    }
    assert_eq!(how_many(pool).await, 15);
}

#[tokio::test]
async fn one_key_makes_one_job_also_after_it_has_ended() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let with_key = message("first")
        .with_idempotency_key("login-7")
        .expect("a key");
    let id = enqueue_once(pool, &with_key).await.expect("enqueued");
    assert!(matches!(id, Enqueued::New(_)));
    let id = id.id();
    let again = message("second")
        .with_idempotency_key("login-7")
        .expect("a key");
    assert_eq!(
        enqueue_once(pool, &again).await.expect("answered"),
        Enqueued::Existing(id)
    );
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(pool, id, "sent").await;
    assert_eq!(
        enqueue_once(pool, &again).await.expect("answered"),
        Enqueued::Existing(id)
    );
    match enqueue(pool, &again).await {
        Err(EnqueueError::KeyTaken { account, key }) => {
            assert_eq!((account.as_str(), key.as_str()), ("default", "login-7"))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(how_many(pool).await, 1);
    // The key is the account's own, and without one nothing is unique.
    let other = again.clone().with_account("other").expect("an account");
    assert!(matches!(
        enqueue_once(pool, &other).await.expect("enqueued"),
        Enqueued::New(_)
    ));
    for _ in 0..2 {
        enqueue(pool, &message("no key")).await.expect("enqueued");
    }
    assert_eq!(how_many(pool).await, 4);
    worker.stop().await;
    assert_eq!(provider.orders_of("second").len(), 0);
}

#[tokio::test]
async fn many_who_use_one_key_at_once_make_one_job() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let all = (0..12).map(|n| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let message = message(&format!("{n}"))
                .with_idempotency_key("k")
                .expect("a key");
            // The documentation says when to ask again.
            loop {
                match enqueue_once(&pool, &message).await {
                    Ok(enqueued) => return enqueued,
                    Err(EnqueueError::KeyTaken { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        })
    });
    let mut new = 0;
    let mut ids = BTreeSet::new();
    for one in all.collect::<Vec<_>>() {
        let enqueued = one.await.expect("no panic");
        new += usize::from(matches!(enqueued, Enqueued::New(_)));
        ids.insert(enqueued.id());
    }
    assert_eq!((new, ids.len(), how_many(pool).await), (1, 1, 1));
}

#[tokio::test]
async fn what_a_rust_producer_says_is_what_the_row_says() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let id = Uuid::now_v7();
    let now = Utc::now();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let full = NewMessage::new(
        "My Brand",
        ["0532 123 45 67", "+90 533 123 45 67", "532-123-45-67"],
        "Merhaba",
        Iys::Commercial(IysList::Merchant),
    )
    .and_then(|m| m.with_id(id).with_account("marketing"))
    .and_then(|m| {
        m.with_priority(Priority::CAMPAIGN)
            .with_due_at(now + TimeDelta::hours(1))
            .with_idempotency_key("k")
    })
    .and_then(|m| {
        m.with_expires_at(now + TimeDelta::hours(2))
            .with_provider_send_at(now + TimeDelta::minutes(90))
            .with_max_attempts(7)
    })
    .and_then(|m| {
        m.with_traceparent(trace)
            .with_metadata(json!({"order": 1234, "ş": ["\"", null]}))
    })
    .expect("a message");
    assert_eq!(enqueue(pool, &full).await.expect("enqueued"), id);
    let row = job(pool, id).await;
    let numbers: Vec<_> = row
        .recipients
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    assert_eq!(numbers, ["905321234567", "905331234567"]);
    assert_eq!(
        (row.account.as_str(), row.sender.as_str(), row.body.as_str()),
        ("marketing", "My Brand", "Merhaba")
    );
    assert_eq!((row.iys, row.iys_list.as_deref()), (true, Some("TACIR")));
    assert_eq!((row.priority, row.max_attempts), (3, 7));
    assert_eq!(row.idempotency_key.as_deref(), Some("k"));
    assert_eq!(row.traceparent.as_deref(), Some(trace));
    let metadata: serde_json::Value = serde_json::from_str(&row.metadata).expect("JSON");
    assert_eq!(metadata, json!({"order": 1234, "ş": ["\"", null]}));
    let moments: (i64, i64, i64) = sqlx::query_as(
        "SELECT extract(epoch FROM due_at)::bigint, extract(epoch FROM expires_at)::bigint,
                extract(epoch FROM provider_send_at)::bigint FROM sms_outbox.jobs WHERE id = $1",
    )
    .bind(id)
    .fetch_one(pool)
    .await
    .expect("the row");
    for (minutes, seconds) in [(60, moments.0), (120, moments.1), (90, moments.2)] {
        assert!(
            (seconds - now.timestamp() - minutes * 60).abs() <= 1,
            "{moments:?}"
        );
    }
    match enqueue(pool, &message("x").with_id(id)).await {
        Err(EnqueueError::IdTaken { id: taken }) => assert_eq!(taken, id),
        other => panic!("{other:?}"),
    }

    // What is not said is decided by the same defaults as in SQL.
    let said_nothing = enqueue(pool, &message("x")).await.expect("enqueued");
    let in_sql = insert(pool, &[("recipients", "'{905321234567}'"), ("body", "'x'")]).await;
    let told: Vec<String> = sqlx::query_scalar(
        "SELECT (to_jsonb(job) - 'id' - 'due_at' - 'created_at')::text FROM sms_outbox.jobs AS job WHERE id = ANY ($1)",
    )
    .bind([said_nothing, in_sql])
    .fetch_all(pool)
    .await
    .expect("both rows");
    assert_eq!(told[0], told[1]);
    let due: bool = sqlx::query_scalar("SELECT bool_and(due_at <= now() AND due_at > now() - interval '1 min') FROM sms_outbox.jobs WHERE id = ANY ($1)")
        .bind([said_nothing, in_sql])
        .fetch_one(pool)
        .await
        .expect("both rows");
    assert!(due);
}

#[tokio::test]
async fn a_long_list_from_rust_becomes_jobs_that_share_a_batch_and_keep_its_order() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let numbers = (0..50_002).map(|n| format!("0532 {n:07}"));
    let list = Bulk::new(
        "BRAND",
        numbers,
        "sale",
        Iys::Commercial(IysList::Individual),
    )
    .expect("a list")
    .try_map(|m| {
        m.with_priority(Priority::CAMPAIGN)
            .with_max_attempts(3)?
            .with_idempotency_key("sale")
    })
    .expect("a key");
    let ids = enqueue_bulk(pool, &list).await.expect("enqueued");
    assert_eq!(ids.len(), 2);
    type Part = (Uuid, i32, String, String, i16, i16, String, String, bool);
    let rows: Vec<Part> = sqlx::query_as(
        "SELECT id, cardinality(recipients), recipients[1], recipients[cardinality(recipients)], priority, max_attempts,
                iys_list, idempotency_key, bulk
         FROM sms_outbox.jobs ORDER BY due_at",
    )
    .fetch_all(pool)
    .await
    .expect("the jobs");
    let expected = |id, n, first: &str, last: &str, key: &str| {
        (
            id,
            n,
            first.to_owned(),
            last.to_owned(),
            3,
            3,
            "BIREYSEL".to_owned(),
            key.to_owned(),
            true,
        )
    };
    assert_eq!(
        rows,
        [
            expected(ids[0], 50_000, "905320000000", "905320049999", "sale"),
            expected(ids[1], 2, "905320050000", "905320050001", "sale/2"),
        ]
    );
    assert_eq!(
        count(pool, "SELECT count(DISTINCT batch_id) FROM sms_outbox.jobs").await,
        1
    );
    assert!(matches!(
        enqueue_bulk(pool, &list).await,
        Err(EnqueueError::KeyTaken { .. })
    ));
    // The SQL function has the table's manners.
    let empty = sqlx::query("SELECT sms_outbox.enqueue_bulk('BRAND', '{}', 'x', false)")
        .execute(pool)
        .await;
    let error = empty.expect_err("no recipients");
    let rule = error
        .as_database_error()
        .and_then(|e| e.constraint().map(str::to_owned));
    assert_eq!(
        rule.as_deref(),
        Some("jobs_recipients_has_1_to_50000_numbers")
    );
    assert_eq!(how_many(pool).await, 2);
}

#[tokio::test]
async fn an_id_that_nobody_chose_is_a_version_7_uuid_of_its_moment() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let ms = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let before = count(pool, ms).await - 1;
    let ids = insert_many(pool, 200, &[]).await;
    let after = count(pool, ms).await + 1;
    let mut last = 0;
    for id in &ids {
        assert_eq!(
            (id.get_version_num(), id.get_variant()),
            (7, uuid::Variant::RFC4122),
            "{id}"
        );
        let (seconds, nanos) = id.get_timestamp().expect("a moment").to_unix();
        let at = i64::try_from(seconds * 1_000 + u64::from(nanos) / 1_000_000).expect("a moment");
        assert!(
            (before..=after).contains(&at),
            "{before} <= {at} <= {after}"
        );
        assert!(at >= last, "they come in order");
        last = at;
    }
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 200);
}

#[tokio::test]
async fn an_applications_role_can_insert_and_ask_without_reading_or_changing_anything() {
    let database = TestDatabase::create().await;
    if !database.is_granted() {
        eprintln!("left out: this server's role may not make roles");
        return;
    }
    let mut connection = PgConnection::connect(&database.url_as(RoleKind::Producer))
        .await
        .expect("a connection");
    let run = async |connection: &mut PgConnection, sql: &str| {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(connection)
            .await
            .map(drop)
    };
    const INSERT: &str = "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys) VALUES ('BRAND', '{05321234567}', 'x', false)";
    for allowed in [
        INSERT,
        &format!("{INSERT} RETURNING id"),
        &format!("{INSERT} ON CONFLICT (account, idempotency_key) DO NOTHING"),
        "SELECT status, order_id FROM sms_outbox.jobs",
        "SELECT sms_outbox.normalize_number('0532 123 45 67')",
    ] {
        run(&mut connection, allowed).await.expect(allowed);
    }
    enqueue(&mut connection, &message("x"))
        .await
        .expect("that is what it may");
    let with_key = message("x").with_idempotency_key("k").expect("a key");
    let first = enqueue_once(&mut connection, &with_key)
        .await
        .expect("enqueued");
    let again = enqueue_once(&mut connection, &with_key)
        .await
        .expect("answered");
    assert_eq!(again, Enqueued::Existing(first.id()));
    let found = sms_outbox::find_job_by_key(&mut connection, "default", "k").await;
    assert!(found.expect("that is what it may").is_some());
    let list = Bulk::new("BRAND", ["05321234567"], "x", Iys::Transactional).expect("a list");
    let parts = enqueue_bulk(&mut connection, &list).await;
    assert_eq!(parts.expect("enqueued").len(), 1);
    for forbidden in [
        "SELECT body FROM sms_outbox.jobs",
        "SELECT recipients FROM sms_outbox.jobs",
        "SELECT * FROM sms_outbox.jobs",
        "SELECT * FROM sms_outbox.attempts",
        "UPDATE sms_outbox.jobs SET status = 'cancelled', finished_at = now()",
        "DELETE FROM sms_outbox.jobs",
        "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, status) VALUES ('BRAND', '{05321234567}', 'x', false, 'queued')",
        "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, token) VALUES ('BRAND', '{05321234567}', 'x', false, 1)",
        "INSERT INTO sms_outbox.pauses (account, scope, reason, paused_by) VALUES ('default', 'account', 'x', 'me')",
        "INSERT INTO sms_outbox.priority_limits (role, most_urgent) VALUES ('x', 1)",
        "SELECT * FROM sms_outbox.reserve_slots('default', 1, 100, 100, '{1}', '{true}')",
        "SELECT sms_outbox.prune(now())",
    ] {
        let error = run(&mut connection, forbidden).await.expect_err(forbidden);
        assert!(
            error.to_string().contains("permission denied"),
            "{forbidden}: {error}"
        );
    }
}

/// Spellings of numbers: a number with everything that people put around and between its digits, and what is nearly one.
fn spelling() -> impl Strategy<Value = String> {
    let prefix = prop::sample::select(vec![
        "",
        "0",
        "90",
        "+90",
        "0090",
        "900",
        "+900",
        "00900",
        "+",
        "00",
        "000",
        "++90",
        "+0",
        "9",
        "+49",
        "0049",
        "91",
        "tel:",
        "SMSTO:+",
        "'",
        "=\"",
        "+90(0)",
        "+49 (0)",
        "0049)(0)",
        "+49(0",
        "＋９０",
        "(+90)(",
    ]);
    let digits = prop_oneof![
        8 => "5[0-9]{9}",
        2 => "[0-9]{9,13}",
        1 => "5[0-9]{8}",
        1 => "5[0-9]{10}",
        1 => "212[0-9]{7}",
    ];
    let between = prop_oneof![
        12 => Just(String::new()),
        3 => prop::sample::select(vec![" ", "-", ".", "/", "(", ")", "\t", "\n", "\r\n", "  ", " - ", "(0)", "．", "（", "/ "]).prop_map(str::to_owned),
        3 => prop::sample::select(SEPARATORS.to_vec()).prop_map(String::from),
        1 => prop::sample::select(vec!["x", ",", "+", "_", "٣", "３", "é", "\\", "[", "]", "^", ":", "\u{7f}", "\u{1}", "\u{2065}", "\u{206a}", "\u{200a}", "\u{2016}"]).prop_map(str::to_owned),
    ];
    (prefix, digits, prop::collection::vec(between, 20)).prop_map(|(prefix, digits, between)| {
        let mut text = String::new();
        for (place, c) in prefix.chars().chain(digits.chars()).enumerate() {
            text.push_str(&between[place % between.len()]);
            text.push(c);
        }
        text.push_str(&between[19]);
        text
    })
}

/// Everything outside ASCII that is, or nearly is, a separator.
const SEPARATORS: [char; 48] = [
    '\u{85}', '\u{a0}', '\u{ad}', '\u{61c}', '\u{1680}', '\u{180e}', '\u{2000}', '\u{2001}',
    '\u{2002}', '\u{2003}', '\u{2004}', '\u{2005}', '\u{2006}', '\u{2007}', '\u{2008}', '\u{2009}',
    '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{2010}', '\u{2011}', '\u{2012}',
    '\u{2013}', '\u{2014}', '\u{2015}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}',
    '\u{202d}', '\u{202e}', '\u{202f}', '\u{205f}', '\u{2060}', '\u{2063}', '\u{2064}', '\u{2066}',
    '\u{2069}', '\u{2212}', '\u{3000}', '\u{fe0f}', '\u{fe58}', '\u{fe63}', '\u{feff}', '\u{ff0d}',
];

#[tokio::test]
async fn sql_and_rust_read_every_spelling_of_a_number_alike() {
    let database = TestDatabase::create().await;
    let mut runner = TestRunner::deterministic();
    let strategy = spelling();
    let mut texts: Vec<String> = (0..20_000)
        .map(|_| {
            strategy
                .new_tree(&mut runner)
                .expect("a spelling")
                .current()
        })
        .collect();
    // And every single character of the basic plane, between two digits of a number.
    texts.extend(
        (1..=0xffff)
            .filter_map(char::from_u32)
            .map(|c| format!("0532{c}1234567")),
    );
    texts.extend(
        [
            "",
            " ",
            "+",
            "0",
            "90",
            "+90",
            "5321234567\n",
            "\u{b}05321234567\u{c}",
        ]
        .map(str::to_owned),
    );
    texts.extend(SPELLINGS.map(|(text, _)| text.to_owned()));
    for (international, foreign, enough) in [
        (false, ForeignNumbers::Refused, 2_000),
        (true, ForeignNumbers::Allowed, 3_000),
    ] {
        let in_sql: Vec<Option<String>> = sqlx::query_scalar(
            "SELECT sms_outbox.normalize_number(text, $2)
             FROM unnest($1::text[]) WITH ORDINALITY AS all_texts (text, n) ORDER BY n",
        )
        .bind(&texts)
        .bind(international)
        .fetch_all(database.pool())
        .await
        .expect("an answer for each");
        assert_eq!(in_sql.len(), texts.len());
        let mut readable = 0;
        let mut differing = Vec::new();
        for (text, in_sql) in texts.iter().zip(&in_sql) {
            let in_rust = Recipient::parse(text, foreign).ok();
            let in_rust = in_rust.as_ref().map(Recipient::as_str);
            readable += usize::from(in_rust.is_some());
            if in_rust != in_sql.as_deref() {
                differing.push((
                    text.escape_unicode().to_string(),
                    text.clone(),
                    in_sql.clone(),
                    in_rust.map(str::to_owned),
                ));
            }
        }
        assert!(readable > enough, "enough of them are numbers: {readable}");
        assert!(
            differing.is_empty(),
            "{} differ, such as {:#?}",
            differing.len(),
            &differing[..differing.len().min(60)]
        );
    }
    for (text, number) in SPELLINGS {
        let read = Recipient::parse(text, ForeignNumbers::Allowed).ok();
        assert_eq!(read.as_ref().map(Recipient::as_str), number, "{text:?}");
    }
}

/// What people paste, and the number that it is where foreign ones are taken; `None` where it could be another.
const SPELLINGS: [(&str, Option<&str>); 30] = [
    ("0532 123 45 67", Some("905321234567")),
    ("٠٥٣٢١٢٣٤٥٦٧", Some("905321234567")),
    ("۰۵۳۲-۱۲۳-۴۵-۶۷", Some("905321234567")),
    ("०५३२१२३४५६७", Some("905321234567")),
    ("𝟎𝟓𝟑𝟐𝟏𝟐𝟑𝟒𝟓𝟔𝟕", Some("905321234567")),
    ("＋９０（５３２）１２３－４５－６７", Some("905321234567")),
    ("tel:+90-532-123-45-67", Some("905321234567")),
    ("\u{feff}'05321234567", Some("905321234567")),
    ("=\"05321234567\"", Some("905321234567")),
    ("\"0532 123 45 67\";", Some("905321234567")),
    ("«0532.123.45.67»", Some("905321234567")),
    ("+90 (0) 532 123 45 67", Some("905321234567")),
    ("(+90)(0)532/1234567", Some("905321234567")),
    ("+49 (0) 171 1234567", Some("+491711234567")),
    ("0049(0)171/1234567", Some("+491711234567")),
    ("+53 5 123 45 678", Some("+53512345678")),
    ("+905(0)321234567", None),
    ("+49 (0171) 1234567", None),
    ("+49 171 (0) 1234567", None),
    ("+532 123 45 67", None),
    ("00 542 123 45 67", None),
    ("+1 202 555 0143 / 44", None),
    ("+1 202 555 0143\n44", None),
    ("532123456.0", None),
    ("53212345.00", None),
    ("٥٣٢١٢٣٤٥٦.٠", None),
    ("5.32E+09", None),
    ("05321234567, 05331234567", None),
    ("0532 123 45 67 ext 9", None),
    ("tel:+905321234567;ext=9", None),
];

#[tokio::test]
async fn a_pool_that_is_guarded_commits_what_it_says_it_has_inserted() {
    let database = TestDatabase::create().await;
    let pool = sms_outbox::guard_against_lost_writes(sqlx::postgres::PgPoolOptions::new())
        .max_connections(2)
        .connect(&database.url())
        .await
        .expect("a pool");
    execute(&pool, "CREATE TABLE notes (n integer)").await;
    for n in 0..500 {
        // A caller that gives up while its transaction begins: after no time, or at any moment until it has begun.
        let begin =
            tokio::time::timeout(std::time::Duration::from_micros(n % 50 * 20), pool.begin());
        drop(begin.await);
        sqlx::query("INSERT INTO notes VALUES ($1)")
            .bind(i32::try_from(n).expect("small"))
            .execute(&pool)
            .await
            .expect("inserted, it says");
    }
    pool.close().await;
    assert_eq!(
        count(database.pool(), "SELECT count(*) FROM notes").await,
        500
    );
}

#[tokio::test]
async fn a_begin_that_is_given_up_swallows_the_next_write_unless_the_pool_is_guarded() {
    let plain = sqlx::postgres::PgPoolOptions::new;
    for (options, inserted) in [
        (plain(), 0),
        (sms_outbox::guard_against_lost_writes(plain()), 1),
    ] {
        let database = TestDatabase::create().await;
        let proxy = Proxy::before(&database.url());
        let pool = options
            .max_connections(1)
            .connect(&proxy.url())
            .await
            .expect("a pool");
        // The server has begun, and whoever asked for it is not there any more when the answer comes.
        let begun = proxy.trap("BEGIN", At::Answer, Fate::Held);
        tokio::select! {
            _ = pool.begin() => panic!("its answer is held"),
            () = begun.sprung() => {}
        }
        begun.release();
        insert(&pool, &[]).await;
        pool.close().await;
        // Without the guard: what was said to be inserted is gone with its connection. Should this fail, the driver has been
        // put right, and the guard has done its service.
        assert_eq!(how_many(database.pool()).await, inserted);
    }
}

#[tokio::test]
async fn jobs_that_were_there_before_the_worker_are_all_sent() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let ids = insert_many(database.pool(), 300, &[]).await;
    let workers = [0, 1].map(|_| Worker::start(&database, &provider, &[]));
    wait_for_statuses(database.pool(), &ids, "sent").await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(provider.orders().len(), 300, "each of them once");
    let orders = count(
        database.pool(),
        "SELECT count(DISTINCT order_id) FROM sms_outbox.jobs",
    )
    .await;
    assert_eq!(orders, 300);
}

#[tokio::test]
async fn a_producer_reads_what_became_of_its_message() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let message = message("Hello")
        .with_idempotency_key("a-key")
        .expect("a key");
    let id = enqueue(pool, &message).await.expect("enqueued");
    let waiting = find_job(pool, id).await.expect("read").expect("there");
    assert_eq!((waiting.status, waiting.attempt), (Status::Queued, 0));
    assert_eq!((waiting.order_id, waiting.finished_at), (None, None));

    let provider = FakeProvider::start();
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(pool, id, "sent").await;
    worker.stop().await;
    let by_key = async |account, key| find_job_by_key(pool, account, key).await.expect("read");
    let sent = by_key("default", "a-key").await.expect("there");
    assert_eq!((sent.id, sent.status, sent.attempt), (id, Status::Sent, 1));
    assert!(sent.order_id.is_some() && sent.sent_at.is_some() && !sent.duplicate);
    assert_eq!((sent.delivery, sent.delivered_at), (None, None));
    assert_eq!(find_job(pool, id).await.expect("read"), Some(sent));
    execute(
        pool,
        format!(
            "INSERT INTO sms_outbox.deliveries (
                 job_id, account, status, total, delivered, undelivered, facts, source, price, finished_at)
             VALUES ('{id}', 'default', 'delivered', 1, 1, 0, 8, 'report', 0.5, now())"
        ),
    )
    .await;
    let arrived = by_key("default", "a-key").await.expect("there");
    assert_eq!(arrived.delivery, Some(DeliveryStatus::Delivered));
    assert_eq!(arrived.price.as_deref(), Some("0.5000"));
    assert!(arrived.delivered_at.is_some());

    assert_eq!(find_job(pool, Uuid::now_v7()).await.expect("read"), None);
    assert_eq!(by_key("default", "another").await, None);
    assert_eq!(by_key("another", "a-key").await, None);
}

#[tokio::test]
async fn a_producer_reads_every_class_and_guesses_at_none() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let id = enqueue(pool, &message("Hello")).await.expect("enqueued");
    let set = async |class: &'static str| {
        sqlx::query("UPDATE sms_outbox.jobs SET error_class = $1, error_code = 7")
            .bind(class)
            .execute(pool)
            .await
            .expect("an update");
        find_job(pool, id).await
    };
    for class in ErrorClass::ALL {
        let job = set(class.as_str()).await.expect("read").expect("there");
        assert_eq!((job.error_class, job.error_code), (Some(class), Some(7)));
    }
    // As a newer worker may write it; the rule is one of the tests' own.
    execute(
        pool,
        "ALTER TABLE sms_outbox.jobs DROP CONSTRAINT jobs_error_class_known",
    )
    .await;
    let unknown = set("later").await;
    assert!(
        matches!(
            unknown,
            Err(FindError::Unreadable {
                column: "error_class",
                ..
            })
        ),
        "{unknown:?}"
    );
}
