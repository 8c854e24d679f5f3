//! `sms-outbox migrate` makes its own schema, and touches nothing else.

use nix::sys::signal::Signal;
use sms_outbox::daemon::DaemonError;
use sms_outbox::outbox::{ConnectOptions, MigrationError, Outbox, SchemaState};
use sqlx::PgPool;

use crate::support::postgres::TestDatabase;
use crate::support::provider::FakeProvider;
use crate::support::worker::{
    Process, Worker, count, execute, insert, wait_for_count, wait_for_status,
};

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

/// What is there of a schema of the time before the first release, as far as it is looked at.
const UNRELEASED_SCHEMA: &str = "
    CREATE SCHEMA sms_outbox;
    CREATE TABLE sms_outbox._migrations (
        version bigint PRIMARY KEY, description text NOT NULL, installed_on timestamptz NOT NULL DEFAULT now(),
        success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL);
    INSERT INTO sms_outbox._migrations (version, description, success, checksum, execution_time)
        SELECT n, 'unreleased', true, 'x', 1 FROM generate_series(1, 9) AS n;
    CREATE TABLE sms_outbox.jobs (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), account text NOT NULL DEFAULT 'default', sender text NOT NULL,
        recipients text[] NOT NULL, body text NOT NULL, iys boolean NOT NULL, iys_list text,
        priority smallint NOT NULL DEFAULT 1, due_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz,
        provider_send_at timestamptz, idempotency_key text, max_attempts smallint NOT NULL DEFAULT 15,
        metadata jsonb NOT NULL DEFAULT '{}', traceparent text, batch_id uuid, status text NOT NULL DEFAULT 'queued',
        attempt smallint NOT NULL DEFAULT 0, order_id text, duplicate boolean NOT NULL DEFAULT false, duplicate_of uuid,
        rejected_recipients text[], error_class text, error_code integer, error_message text, ambiguous_since timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(), sent_at timestamptz, finished_at timestamptz,
        token integer NOT NULL DEFAULT 0, worker text, claimed_at timestamptz, lease_until timestamptz,
        answer_http_status smallint, answer_ms integer, twin_key bigint, parked text);
    CREATE TABLE sms_outbox.attempt_log (
        id bigint GENERATED ALWAYS AS IDENTITY, job_id uuid, token integer, observer text, attempt smallint, counted boolean,
        worker text, started_at timestamptz, recorded_at timestamptz DEFAULT now(), duration_ms integer, progress text,
        http_status smallint, provider_code integer, error_class text, error_message text, order_id text, late boolean);
    CREATE TABLE sms_outbox.pauses (
        account text, scope text, sender text, error_class text, error_code integer, reason text, paused_by text,
        since timestamptz, until timestamptz, probe_at timestamptz, strikes integer, has_parked boolean,
        ended_at timestamptz, ended_by text);
    CREATE TABLE sms_outbox.searches (
        job_id uuid, token integer, account text, begun_at timestamptz, next_at timestamptz, scans integer,
        clean_scans integer, outcome text, candidates jsonb, note text);
    INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, parked) VALUES ('BRAND', '{05321234567}', 'waits', false, NULL);
    INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, parked) VALUES ('HELD', '{05321234567}', 'held', false, 'sender');
    INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, status, ambiguous_since, token, attempt)
        VALUES ('BRAND', '{05321234567}', 'whether it was sent, nobody knows', false, 'uncertain', now(), 1, 1);
    INSERT INTO sms_outbox.attempt_log (job_id, token, observer, attempt, counted, started_at, progress, late)
        SELECT id, 1, 'worker', 1, true, now(), 'maybe_sent', false FROM sms_outbox.jobs WHERE status = 'uncertain';
    INSERT INTO sms_outbox.searches SELECT id, 1, account, now(), now(), 3, 1, NULL, '[]', NULL
        FROM sms_outbox.jobs WHERE status = 'uncertain';
    INSERT INTO sms_outbox.pauses VALUES ('default', 'sender', 'HELD', NULL, NULL, 'by hand', 'me', now(), NULL, NULL, 2, true);";

#[tokio::test]
async fn an_unreleased_schema_is_refused_before_anything_is_changed_and_all_of_it_can_be_taken_over()
 {
    let database = TestDatabase::empty().await;
    let pool = database.pool();
    let provider = FakeProvider::start();
    execute(pool, UNRELEASED_SCHEMA).await;
    let before = everything(pool).await;
    let by_migrate = ConnectOptions::new(database.url())
        .migrate()
        .await
        .expect_err("its names differ");
    assert!(
        matches!(by_migrate, MigrationError::Unreleased),
        "{by_migrate:?}"
    );
    let by_worker = Worker::start_at(&database.url(), &provider.url(), &[])
        .ended()
        .await
        .expect_err("its names differ");
    assert!(
        matches!(by_worker, DaemonError::UnreleasedSchema),
        "{by_worker:?}"
    );
    assert_eq!(by_migrate.to_string(), by_worker.to_string());
    assert!(
        by_worker.to_string().contains("RENAME TO sms_outbox_old"),
        "{by_worker}"
    );
    assert_eq!(everything(pool).await, before);

    execute(pool, "ALTER SCHEMA sms_outbox RENAME TO sms_outbox_old").await;
    ConnectOptions::new(database.url())
        .migrate()
        .await
        .expect("as in an empty database");
    execute(pool, include_str!("../../docs/from-unreleased.sql")).await;
    execute(pool, "DROP SCHEMA sms_outbox_old CASCADE").await;
    let worker = Worker::start(&database, &provider, &[]);
    provider.wait_for_orders(1).await;
    worker.stop().await;
    assert_eq!(provider.orders_of("waits").len(), 1);
    for (what, n) in [
        ("jobs WHERE status = 'sent'", 1),
        ("jobs WHERE status = 'queued' AND sender = 'HELD'", 1),
        (
            "jobs WHERE status = 'uncertain' AND ambiguous_since IS NOT NULL",
            1,
        ),
        ("attempts WHERE progress = 'maybe_sent'", 1),
        (
            "pauses WHERE consecutive_failures = 2 AND ended_at IS NULL",
            1,
        ),
        ("reconciliation_tasks", 1),
    ] {
        assert_eq!(
            count(pool, format!("SELECT count(*) FROM sms_outbox.{what}")).await,
            n,
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_database_that_cannot_keep_every_text_is_refused_before_anything_is_made() {
    let database = TestDatabase::empty().await;
    let name = format!("{}_latin1", database.name());
    execute(
        database.pool(),
        format!("CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"),
    )
    .await;
    let url = database.url().replace(database.name(), &name);
    let refused = ConnectOptions::new(url.clone())
        .migrate()
        .await
        .expect_err("LATIN1 has no ş");
    let doctor = crate::cli::Shell::without_database().with("DATABASE_URL", url.clone());
    let (_, said) = doctor.run(&["doctor"]).await.said();
    assert!(said.contains("in the encoding LATIN1"), "{said}");
    assert!(
        refused.to_string().contains("encoding is LATIN1"),
        "{refused}"
    );
    let other = PgPool::connect(&url).await.expect("a connection");
    assert_eq!(
        count(
            &other,
            "SELECT count(*) FROM pg_namespace WHERE nspname = 'sms_outbox'"
        )
        .await,
        0
    );
    other.close().await;
    execute(
        database.pool(),
        format!("DROP DATABASE {name} WITH (FORCE)"),
    )
    .await;
}

/// A session that keeps everybody from the list of migrations.
async fn keeps_it_locked(database: &TestDatabase) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut reader = database.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE sms_outbox._migrations IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *reader)
        .await
        .expect("the lock");
    reader
}

#[tokio::test]
async fn a_migration_that_waits_for_a_lock_lets_others_pass_and_says_who_holds_it() {
    let database = TestDatabase::create().await;
    let reader = keeps_it_locked(&database).await;
    let url = database.url();
    let mut migrating = Process::start(&["migrate"], &[("DATABASE_URL", url.as_str())]);
    migrating
        .wait_for_line("waiting for a lock that process ")
        .await;
    // It comes and goes: whoever came later is served in between.
    let waits = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                 WHERE datname = current_database() AND application_name = 'sms-outbox' AND NOT granted";
    for expected in [1, 0, 1, 0] {
        wait_for_count(database.pool(), waits, |n| n == expected).await;
    }
    reader.rollback().await.expect("the end of it");
    assert_eq!(
        migrating.ended().await.code(),
        Some(0),
        "{:?}",
        migrating.lines()
    );

    // Given up, it leaves nothing behind in the server.
    let reader = keeps_it_locked(&database).await;
    let mut migrating = Process::start(&["migrate"], &[("DATABASE_URL", url.as_str())]);
    migrating.wait_for_line("waiting for a lock").await;
    migrating.signal(Signal::SIGINT);
    assert_eq!(migrating.ended().await.code(), Some(1));
    let said = migrating.lines().join("\n");
    assert!(said.contains("rolled back"), "{said}");
    let left = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'sms-outbox'";
    wait_for_count(database.pool(), left, |n| n == 0).await;
    drop(reader);
}

#[tokio::test]
async fn a_migration_that_is_stopped_ends_its_statement_in_the_server() {
    let database = TestDatabase::empty().await;
    // Whatever is created waits here, for as long as it takes.
    execute(
        database.pool(),
        "CREATE FUNCTION wait_here() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3600); END $$;
         CREATE EVENT TRIGGER wait_here ON ddl_command_start WHEN TAG IN ('CREATE DOMAIN') EXECUTE FUNCTION wait_here()",
    )
    .await;
    let url = database.url();
    let mut migrating = Process::start(&["migrate"], &[("DATABASE_URL", url.as_str())]);
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    wait_for_count(database.pool(), sleeping, |n| n == 1).await;
    migrating.signal(Signal::SIGTERM);
    assert_eq!(migrating.ended().await.code(), Some(1));
    wait_for_count(database.pool(), sleeping, |n| n == 0).await;
    execute(
        database.pool(),
        "DROP EVENT TRIGGER wait_here; DROP FUNCTION wait_here",
    )
    .await;
    let made = "SELECT count(*) FROM pg_class WHERE relname = 'jobs'";
    assert_eq!(count(database.pool(), made).await, 0);
}

#[tokio::test]
async fn the_databases_own_defaults_do_not_stop_a_migration_and_read_only_is_said() {
    let database = TestDatabase::empty().await;
    for setting in [
        "statement_timeout = 1",
        "lock_timeout = 1",
        "idle_in_transaction_session_timeout = 1",
        "default_transaction_isolation = 'serializable'",
    ] {
        execute(
            database.pool(),
            format!("ALTER DATABASE {} SET {setting}", database.name()),
        )
        .await;
    }
    let options = ConnectOptions::new(database.url());
    assert_eq!(options.migrate().await.expect("migrated").0, None);
    execute(
        database.pool(),
        format!(
            "ALTER DATABASE {} SET default_transaction_read_only = on",
            database.name()
        ),
    )
    .await;
    let refused = options.migrate().await.expect_err("read-only").to_string();
    assert!(
        refused.contains("default_transaction_read_only"),
        "{refused}"
    );
}
