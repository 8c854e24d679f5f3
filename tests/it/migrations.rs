//! `sms-outbox migrate` makes its own schema, and touches nothing else.

use sms_outbox::daemon::DaemonError;
use sms_outbox::outbox::{ConnectOptions, MigrationError, Outbox, SchemaState};
use sqlx::PgPool;

use crate::support::postgres::TestDatabase;
use crate::support::provider::FakeProvider;
use crate::support::worker::{Worker, count, execute, insert, wait_for_status};

#[tokio::test]
async fn ten_who_migrate_at_once_make_one_schema() {
    let database = TestDatabase::empty().await;
    let all = (0..10).map(|_| {
        let options = ConnectOptions::new(database.url());
        tokio::spawn(async move { options.migrate().await })
    });
    for one in all.collect::<Vec<_>>() {
        let (_, after) = one.await.expect("no panic").expect("migrated");
        assert!(after >= 1);
    }
    assert_eq!(
        count(
            database.pool(),
            "SELECT count(*) FROM sms_outbox._migrations WHERE version = 1"
        )
        .await,
        1
    );
    let again = ConnectOptions::new(database.url())
        .migrate()
        .await
        .expect("nothing to do");
    assert_eq!(again.0, Some(again.1));
}

/// Everything in the database that is not Postgres's own: kind and name.
async fn everything(pool: &PgPool) -> Vec<(String, String)> {
    sqlx::query_as(
        "SELECT type, identity FROM (
             SELECT 'pg_class'::regclass::oid AS class, oid FROM pg_class UNION ALL
             SELECT 'pg_proc'::regclass::oid, oid FROM pg_proc UNION ALL
             SELECT 'pg_type'::regclass::oid, oid FROM pg_type UNION ALL
             SELECT 'pg_namespace'::regclass::oid, oid FROM pg_namespace UNION ALL
             SELECT 'pg_extension'::regclass::oid, oid FROM pg_extension UNION ALL
             SELECT 'pg_event_trigger'::regclass::oid, oid FROM pg_event_trigger UNION ALL
             SELECT 'pg_cast'::regclass::oid, oid FROM pg_cast UNION ALL
             SELECT 'pg_operator'::regclass::oid, oid FROM pg_operator
         ) AS all_objects, pg_identify_object(class, oid, 0)
         WHERE coalesce(schema, '') NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND oid >= 16384
         ORDER BY 1, 2",
    )
    .fetch_all(pool)
    .await
    .expect("the catalogue")
}

#[tokio::test]
async fn nothing_outside_the_schema_is_made_or_changed() {
    let database = TestDatabase::empty().await;
    let pool = database.pool();
    // An application that uses sqlx's migrations itself, and has a table with one of our names.
    execute(
        pool,
        "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
            installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL,
            execution_time bigint NOT NULL);
         INSERT INTO _sqlx_migrations VALUES (1, 'theirs', '2020-01-01', true, 'x', 1), (99999999999999, 'theirs', '2020-01-01', true, 'y', 1);
         CREATE TABLE jobs (id integer);",
    )
    .await;
    let snapshot =
        "SELECT string_agg(_sqlx_migrations::text, ';' ORDER BY version) FROM _sqlx_migrations";
    let before: String = sqlx::query_scalar(snapshot)
        .fetch_one(pool)
        .await
        .expect("theirs");
    let outside = everything(pool).await;
    ConnectOptions::new(database.url())
        .migrate()
        .await
        .expect("migrated");
    let after: String = sqlx::query_scalar(snapshot)
        .fetch_one(pool)
        .await
        .expect("theirs");
    assert_eq!(after, before);
    let now = everything(pool).await;
    let made: Vec<_> = now
        .iter()
        .filter(|object| !outside.contains(object))
        .collect();
    assert!(made.len() > 30, "{made:#?}");
    for (kind, name) in made {
        assert!(
            name.starts_with("sms_outbox.") || name == "sms_outbox",
            "{kind} {name} lies outside"
        );
    }
    assert!(
        outside.iter().all(|object| now.contains(object)),
        "nothing is gone"
    );
    let worker_needs = Outbox::new(pool.clone())
        .schema_state()
        .await
        .expect("answered");
    assert!(matches!(worker_needs, SchemaState::Current { .. }));
}

#[tokio::test]
async fn a_database_without_the_schema_or_with_a_newer_one_is_refused_in_a_sentence() {
    let provider = FakeProvider::start();
    let database = TestDatabase::empty().await;
    let refused = Worker::start(&database, &provider, &[])
        .ended()
        .await
        .expect_err("there is no schema");
    assert!(matches!(refused, DaemonError::NoSchema));
    assert!(
        refused.to_string().contains("sms-outbox migrate"),
        "{refused}"
    );

    let database = TestDatabase::create().await;
    execute(
        database.pool(),
        "INSERT INTO sms_outbox._migrations (version, description, success, checksum, execution_time) VALUES (4711, 'later', true, 'x', 1)",
    )
    .await;
    let refused = Worker::start(&database, &provider, &[])
        .ended()
        .await
        .expect_err("it is newer");
    assert!(
        matches!(refused, DaemonError::NewerSchema { found: 4711, .. }),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("version 4711, newer than"),
        "{refused}"
    );
    let refused = ConnectOptions::new(database.url())
        .migrate()
        .await
        .expect_err("it is newer");
    assert!(
        matches!(refused, MigrationError::Newer { found: 4711, .. }),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("version 4711, newer than"),
        "{refused}"
    );
    assert_eq!(provider.requests().len(), 0);
}

#[tokio::test]
async fn another_search_path_changes_nothing() {
    let database = TestDatabase::create().await;
    execute(
        database.pool(),
        format!(
            "ALTER DATABASE {} SET search_path = nowhere",
            database.name()
        ),
    )
    .await;
    let (before, after) = ConnectOptions::new(database.url())
        .migrate()
        .await
        .expect("nothing to do");
    assert_eq!(before, Some(after));
    let pool = PgPool::connect(&database.url())
        .await
        .expect("a connection");
    let provider = FakeProvider::start();
    let id = insert(&pool, &[]).await;
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(&pool, id, "sent").await;
    worker.stop().await;
    pool.close().await;
}

/// A database with the schema as it was before a version.
async fn before(version: i64) -> TestDatabase {
    let database = TestDatabase::empty().await;
    let mut migrator = sqlx::migrate!("./migrations");
    migrator
        .migrations
        .to_mut()
        .retain(|migration| migration.version < version);
    migrator.create_schema("sms_outbox");
    migrator.dangerous_set_table_name("sms_outbox._migrations");
    migrator
        .run(database.pool())
        .await
        .expect("migrated so far");
    database
}

#[tokio::test]
async fn rules_move_into_a_domain_beside_producers_and_workers_and_no_row_is_read_or_rewritten() {
    let database = before(9).await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    let early = insert(pool, &[]).await;
    // What a worker of the version before holds, and what none has seen.
    let held = insert(
        pool,
        &[
            ("status", "'sending'"),
            ("token", "1"),
            ("worker", "'earlier'"),
            ("claimed_at", "now()"),
            ("lease_until", "now() + interval '1 hour'"),
        ],
    )
    .await;
    let file = "SELECT pg_relation_filenode('sms_outbox.jobs')::bigint";
    let rows = "SELECT sum(hashtext(job::text))::bigint FROM sms_outbox.jobs AS job";
    let was = (count(pool, file).await, count(pool, rows).await);
    ConnectOptions::new(database.url())
        .migrate()
        .await
        .expect("migrated");
    assert_eq!((count(pool, file).await, count(pool, rows).await), was);
    let unread = "SELECT count(*) FROM pg_constraint WHERE conname = 'jobs_keep_the_rules' AND NOT convalidated";
    assert_eq!(
        count(pool, unread).await,
        1,
        "no row was read under the lock"
    );
    // The earlier worker's own statement.
    let recorded = sqlx::query(include_str!("../../src/outbox/record_sent.sql"))
        .bind([held])
        .bind([1_i32])
        .bind(["312"])
        .bind([200_i16])
        .bind([5_i32])
        .bind([7_i64])
        .execute(pool)
        .await
        .expect("recorded");
    assert_eq!(recorded.rows_affected(), 1);
    let worker = Worker::start(&database, &provider, &[]);
    wait_for_status(pool, early, "sent").await;
    worker.stop().await;
    // What was there before is held to the rules as well.
    let broken = sqlx::query("UPDATE sms_outbox.jobs SET body = '' WHERE id = $1")
        .bind(early)
        .execute(pool)
        .await
        .expect_err("it breaks a rule");
    let rule = broken
        .as_database_error()
        .and_then(|error| error.constraint());
    assert_eq!(rule, Some("jobs_body_not_empty"));
    sqlx::query("ALTER TABLE sms_outbox.jobs VALIDATE CONSTRAINT jobs_keep_the_rules")
        .execute(pool)
        .await
        .expect("every row keeps them");
}
