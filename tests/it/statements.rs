//! Every statement fits the schema, and those that workers live on stay cheap however large the table is.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sms_outbox::outbox::{CLAIM_BULK, CLAIM_SINGLES, Claim, ClaimOrder, ConnectOptions, Outbox};
use sqlx::{AssertSqlSafe, Executor, PgConnection, SqlSafeStr};
use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::worker::{CLAIM, claim, claim_from, count, execute, insert_many};

fn statements() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all: Vec<(String, String)> = ["outbox", "producer"]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(source.join(folder)).expect("the source"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .map(|path| {
            let name = path
                .file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read_to_string(path).expect("a statement"))
        })
        .collect();
    all.push(("claim_singles".to_owned(), CLAIM_SINGLES.to_owned()));
    all.push(("claim_bulk".to_owned(), CLAIM_BULK.to_owned()));
    all.sort();
    all
}

fn statement(name: &str) -> String {
    let found = statements().into_iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("there is no {name}.sql")).1
}

#[tokio::test]
async fn every_statement_fits_the_schema() {
    let database = TestDatabase::create().await;
    let mut connection = database.pool().acquire().await.expect("a connection");
    let all = statements();
    assert!(all.len() >= 24, "they are all found: {}", all.len());
    for (name, sql) in all {
        let prepared = connection.prepare(AssertSqlSafe(sql).into_sql_str()).await;
        prepared.unwrap_or_else(|error| panic!("{name}.sql: {error}"));
    }
}

/// What the indexes are for is said where somebody will look who wonders whether one may go.
#[tokio::test]
async fn every_index_of_jobs_names_the_statements_that_it_serves() {
    let database = TestDatabase::create().await;
    let comments: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT indexrelid::regclass::text, obj_description(indexrelid, 'pg_class') FROM pg_index
         WHERE indrelid = 'sms_outbox.jobs'::regclass
           AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)",
    )
    .fetch_all(database.pool())
    .await
    .expect("the catalogue");
    assert_eq!(comments.len(), 12, "{comments:?}");
    for (index, comment) in comments {
        let comment = comment.unwrap_or_else(|| panic!("{index} has no comment"));
        let named: Vec<&str> = comment
            .split([' ', ','])
            .map(|word| word.trim_end_matches('.'))
            .filter(|word| word.ends_with(".sql"))
            .collect();
        assert!(
            !named.is_empty() || comment.contains("The view "),
            "{index}: {comment}"
        );
        for name in named {
            let file = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("src/outbox")
                .join(name);
            assert!(file.is_file(), "{index}: there is no {name}");
        }
    }
}

/// Every column, rule and table explains itself in psql.
#[tokio::test]
async fn everything_in_the_schema_has_a_comment() {
    let database = TestDatabase::empty().await;
    ConnectOptions::new(database.url())
        .migrate()
        .await
        .expect("migrated");
    let without: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass || '.' || attname FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
         WHERE relnamespace = 'sms_outbox'::regnamespace AND relkind = 'r' AND relname <> '_migrations' AND attnum > 0
           AND col_description(c.oid, attnum) IS NULL
         UNION ALL
         SELECT c.oid::regclass::text FROM pg_class c
         WHERE relnamespace = 'sms_outbox'::regnamespace AND relkind IN ('r', 'v') AND relname <> '_migrations'
           AND obj_description(c.oid, 'pg_class') IS NULL
         UNION ALL
         SELECT conname FROM pg_constraint
         WHERE connamespace = 'sms_outbox'::regnamespace AND contype IN ('c', 'u')
           AND conname NOT LIKE '%_migrations%' AND obj_description(oid, 'pg_constraint') IS NULL
         UNION ALL
         SELECT oid::regprocedure::text FROM pg_proc
         WHERE pronamespace = 'sms_outbox'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL
         UNION ALL
         SELECT typname FROM pg_type
         WHERE typnamespace = 'sms_outbox'::regnamespace AND typtype = 'd' AND obj_description(oid, 'pg_type') IS NULL",
    )
    .fetch_all(database.pool())
    .await
    .expect("the catalogue");
    assert!(without.is_empty(), "{without:#?}");
}

/// Everything in a plan, from the top.
fn nodes(plan: &Value) -> Vec<&Value> {
    let mut all = vec![plan];
    for below in plan["Plans"].as_array().into_iter().flatten() {
        all.extend(nodes(below));
    }
    all
}

/// Pages that the plan touched.
fn pages(plan: &Value) -> i64 {
    let of = |name: &str| plan[name].as_i64().expect("a number of pages");
    of("Shared Hit Blocks") + of("Shared Read Blocks")
}

fn reads_all_of_jobs(plan: &Value) -> bool {
    nodes(plan)
        .iter()
        .any(|node| node["Node Type"] == "Seq Scan" && node["Relation Name"] == "jobs")
}

fn uses_index(plan: &Value, index: &str) -> bool {
    nodes(plan).iter().any(|node| node["Index Name"] == index)
}

/// Workers and receivers keep a plan for as long as their connection lasts, and the first one is made while nothing is known of
/// any delivery.
#[tokio::test]
async fn what_is_known_of_a_delivery_is_looked_up_also_by_a_plan_that_was_made_before_anything_was()
{
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let sent = [
        ("status", "'sent'"),
        ("order_id", "(100000 + n)::text"),
        ("sent_at", "now()"),
        ("finished_at", "now()"),
    ];
    insert_many(pool, 5_000, &sent).await;
    execute(pool, "VACUUM (ANALYZE)").await;
    let steady =
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_sort = off;
                  SET enable_hashjoin = off; SET enable_mergejoin = off";
    let mut connection = pool.acquire().await.expect("a connection");
    let statement = statement("deliveries_of");
    for sql in [
        steady.to_owned(),
        format!("PREPARE known (text, text[]) AS {statement}"),
        "EXECUTE known ('default', '{100001}')".to_owned(),
    ] {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection);
        done.await.expect("it fits");
    }
    execute(
        pool,
        "INSERT INTO sms_outbox.deliveries (job_id, account, total, delivered, undelivered, facts, status, source)
         SELECT id, account, 1, 1, 0, 2, 'delivered', 'webhook' FROM sms_outbox.jobs",
    )
    .await;
    let orders: Vec<String> = (100_001..=100_050).map(|order| order.to_string()).collect();
    let sql = format!(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE known ('default', '{{{}}}')",
        orders.join(",")
    );
    let explained: Value = sqlx::query_scalar(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_one(&mut *connection)
        .await
        .expect("a plan");
    let plan = &explained[0]["Plan"];
    assert_eq!(plan["Actual Rows"].as_f64(), Some(50.0), "{plan:#}");
    for node in nodes(plan) {
        let rows = node["Actual Rows"].as_f64().expect("so many rows");
        assert!(rows <= 50.0, "{plan:#}");
    }
    // Those of one connection only.
    sqlx::raw_sql("DISCARD ALL")
        .execute(&mut *connection)
        .await
        .expect("it always is");
}

/// Who inserts in these tests.
const PRODUCER: &str = "postgres";

/// The arguments of `claim_singles` for each priority, from `due_at` and `id` on.
fn singles(per_second: u32, at_most: u32, due_at: &str, id: &str) -> String {
    format!(
        "'default', 60000, 'w', {per_second}, 102, 6, false, {at_most}, '{{0,1,2,3}}', array_fill('{PRODUCER}'::text, ARRAY[4]), \
         {due_at}, {id}, array_fill({at_most}, ARRAY[4]), '{{t,f,f,f}}'"
    )
}

/// As [`singles`], from the beginning.
fn all_singles(per_second: u32, at_most: u32) -> String {
    let nil = "array_fill('00000000-0000-0000-0000-000000000000'::uuid, ARRAY[4])";
    singles(
        per_second,
        at_most,
        "array_fill(NULL::timestamptz, ARRAY[4])",
        nil,
    )
}

/// Runs a claim, looks at its plan, and takes it back.
async fn explain_claim(connection: &mut PgConnection, name: &str, at_most: i64) -> Value {
    let sql = format!(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}",
        statement(name)
    );
    sqlx::raw_sql("BEGIN")
        .execute(&mut *connection)
        .await
        .expect("a transaction");
    let producer = PRODUCER;
    let query = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind("default")
        .bind(60_000_i64)
        .bind("w")
        .bind(0_i32)
        .bind(102_i32)
        .bind(6_i32)
        .bind(false);
    let query = match name {
        "claim_singles" => query
            .bind(at_most)
            .bind([0_i16, 1, 2, 3])
            .bind([producer; 4])
            .bind([None::<DateTime<Utc>>; 4])
            .bind([Uuid::nil(); 4])
            .bind([i32::try_from(at_most).expect("few"); 4])
            .bind([true, false, false, false]),
        _ => query.bind([producer]).bind(false),
    };
    let plan: Value = query.fetch_one(&mut *connection).await.expect("a plan");
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut *connection)
        .await
        .expect("taken back");
    plan[0]["Plan"].clone()
}

/// A table as it is after a while: 100,000 jobs have ended, 100,000 are not due yet, in every priority.
async fn lived_in() -> TestDatabase {
    let database = TestDatabase::from_template("lived in", async |url| {
        ConnectOptions::new(&url).migrate().await.expect("migrated");
        let pool = sqlx::PgPool::connect(&url).await.expect("a new database");
        execute(
            &pool,
            "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, priority, status, attempt, token, order_id,
                                          due_at, sent_at, finished_at, answer_ms, content_key)
             SELECT 'BRAND', ARRAY['905320000000'], 'text ' || n, false, n % 4, 'sent', 1, 1, n::text,
                    now() - n * interval '1 s', now(), now(), 5, n
             FROM generate_series(1, 100000) AS n",
        )
        .await;
        execute(
            &pool,
            "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, priority, due_at)
             SELECT 'BRAND', ARRAY['905320000000'], 'text ' || n, false, n % 4, now() + interval '1 hour' + n * interval '1 ms'
             FROM generate_series(1, 100000) AS n",
        )
        .await;
        execute(&pool, "VACUUM ANALYZE sms_outbox.jobs").await;
        pool.close().await;
    })
    .await;
    // Statistics that change by themselves would make the plans a matter of luck.
    execute(
        database.pool(),
        "ALTER TABLE sms_outbox.jobs SET (autovacuum_enabled = false)",
    )
    .await;
    database
}

#[tokio::test]
async fn a_claim_reads_the_index_of_what_is_due_and_little_else() {
    let database = lived_in().await;
    let mut connection = database.pool().acquire().await.expect("a connection");
    for (name, index) in [("claim_singles", "jobs_due"), ("claim_bulk", "jobs_due")] {
        let nothing = explain_claim(&mut connection, name, 50).await;
        assert!(uses_index(&nothing, index), "{nothing:#}");
        assert!(!reads_all_of_jobs(&nothing), "{nothing:#}");
        assert!(
            pages(&nothing) <= 40,
            "{} pages to find nothing: {nothing:#}",
            pages(&nothing)
        );
    }
    insert_many(database.pool(), 2_000, &[("priority", "n % 4")]).await;
    // Statistics from before, and of now.
    for analyzed in [false, true] {
        if analyzed {
            execute(database.pool(), "ANALYZE sms_outbox.jobs").await;
        }
        let ten = explain_claim(&mut connection, "claim_singles", 10).await;
        assert!(
            uses_index(&ten, "jobs_due") && !reads_all_of_jobs(&ten),
            "{ten:#}"
        );
        // Each claimed row leaves one index and enters another, which is what most of these pages are.
        assert!(
            pages(&ten) <= 10 * 40 + 60,
            "{} pages for ten: {ten:#}",
            pages(&ten)
        );
    }
    // Nothing of what was explained stayed.
    assert_eq!(
        count(
            database.pool(),
            "SELECT count(*) FROM sms_outbox.jobs WHERE status = 'sending'"
        )
        .await,
        0
    );
}

/// The plan that a worker's session has for a claim, whatever the numbers: its planner may make only one.
async fn explain_steady_claim(connection: &mut PgConnection, name: &str, with: &str) -> Value {
    let types = match name {
        "claim_singles" => {
            "text, bigint, text, integer, integer, integer, boolean, bigint, smallint[], text[], timestamptz[], uuid[], \
             integer[], boolean[]"
        }
        "abandoned" => "bigint, bigint, bigint",
        _ => "text, bigint, text, integer, integer, integer, boolean, text[], boolean",
    };
    let sql = format!("PREPARE {name} ({types}) AS {}", statement(name));
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
        .await
        .expect("it is prepared");
    let explain = format!(
        "BEGIN; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name} ({with}); ROLLBACK; DEALLOCATE {name}"
    );
    let mut rows = connection
        .fetch_all(sqlx::raw_sql(AssertSqlSafe(explain)))
        .await
        .expect("a plan");
    let plan: Value = sqlx::Row::get(&rows.remove(0), 0);
    plan[0]["Plan"].clone()
}

#[tokio::test]
async fn a_workers_session_claims_by_index_whatever_the_statistics_say() {
    let database = lived_in().await;
    let options = ConnectOptions {
        for_worker: true,
        ..ConnectOptions::new(database.url())
    };
    let outbox = options.connect().await.expect("the database");
    insert_many(database.pool(), 2_000, &[("priority", "n % 4")]).await;
    let mut connection = outbox.pool().acquire().await.expect("a connection");
    for stale in [false, true] {
        if stale {
            execute(
                database.pool(),
                "UPDATE pg_class SET reltuples = 1, relpages = 100000 WHERE oid = 'sms_outbox.jobs'::regclass;
                 DELETE FROM pg_statistic WHERE starelid = 'sms_outbox.jobs'::regclass;",
            )
            .await;
        }
        for (name, with, index, at_most) in [
            (
                "claim_singles",
                all_singles(0, 10),
                "jobs_due",
                10 * 40 + 60,
            ),
            // With a limit the rows are read once more, by their place in the table.
            (
                "claim_singles",
                all_singles(100, 10),
                "jobs_due",
                10 * 40 + 80,
            ),
            (
                "claim_bulk",
                format!("'default', 60000, 'w', 0, 102, 6, false, ARRAY['{PRODUCER}'], false"),
                "jobs_due",
                40,
            ),
            (
                "abandoned",
                "500, NULL, 1000000".to_owned(),
                "jobs_lease",
                20,
            ),
        ] {
            let plan = explain_steady_claim(&mut connection, name, &with).await;
            assert!(
                uses_index(&plan, index) && !reads_all_of_jobs(&plan),
                "{name}, stale {stale}: {plan:#}"
            );
            let pages = pages(&plan);
            assert!(
                pages <= at_most,
                "{name}, stale {stale}: {pages} pages: {plan:#}"
            );
        }
    }
}

/// While something is held open elsewhere, no entry of an index goes away.
#[tokio::test]
async fn with_a_transaction_held_open_claims_and_rescues_walk_only_what_was_claimed_lately() {
    let database = lived_in().await;
    let pool = database.pool();
    let mut elsewhere = pool.begin().await.expect("a transaction");
    sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
        .execute(&mut *elsewhere)
        .await
        .expect("a snapshot");
    // One statement: all of them are due at one moment.
    insert_many(pool, 3_100, &[]).await;
    let options = ConnectOptions {
        for_worker: true,
        ..ConnectOptions::new(database.url())
    };
    let outbox = options.connect().await.expect("the database");
    let (mut cursor, mut seen) = (None, Vec::new());
    for _ in 0..30 {
        let order = ClaimOrder {
            lease: Duration::from_millis(1),
            ..CLAIM
        };
        let claims = claim_from(&outbox, order, 100, cursor)
            .await
            .expect("claims");
        assert_eq!(claims.len(), 100);
        cursor = claims.iter().filter_map(Claim::place).max();
        seen.extend(claims.iter().map(|claim| claim.id));
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(
        seen.len(),
        3_000,
        "none is left out below a cursor, and none comes twice"
    );

    let mut connection = outbox.pool().acquire().await.expect("a connection");
    let at = cursor.expect("a cursor");
    let from = singles(
        0,
        10,
        &format!(
            "ARRAY[NULL, '{}', NULL, NULL]::timestamptz[]",
            at.due_at.to_rfc3339()
        ),
        &format!("array_fill('{}'::uuid, ARRAY[4])", at.id),
    );
    let mut claim = async |with: &str| {
        pages(&explain_steady_claim(&mut connection, "claim_singles", with).await)
    };
    let near = claim(&from).await;
    let far = claim(&all_singles(0, 10)).await;
    assert!(near <= 10 * 40 + 60, "{near} pages from the cursor on");
    assert!(
        far > near + 500,
        "{near} and {far} pages: nothing was in the way"
    );

    // All of these leases are over, are seen to, and leave their entries behind.
    execute(
        pool,
        "UPDATE sms_outbox.jobs SET status = 'sent', lease_until = NULL, sent_at = now(), finished_at = now() WHERE status = 'sending'",
    )
    .await;
    let near = pages(&explain_steady_claim(&mut connection, "abandoned", "500, 0, 1000000").await);
    let far =
        pages(&explain_steady_claim(&mut connection, "abandoned", "500, NULL, 1000000").await);
    assert!(near <= 20 && far > 100, "{near} and {far} pages");
    elsewhere.rollback().await.expect("let go");
}

#[tokio::test]
async fn measuring_the_queue_reads_nothing_that_has_ended() {
    let database = lived_in().await;
    let pool = database.pool();
    execute(
        pool,
        "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, status, ambiguous_since)
         SELECT 'BRAND', ARRAY['905320000000'], 'x', false, 'uncertain', now() FROM generate_series(1, 20)",
    )
    .await;
    let mut connection = pool.acquire().await.expect("a connection");
    // Statistics from before, and of now.
    for analyzed in [false, true] {
        if analyzed {
            execute(pool, "ANALYZE sms_outbox.jobs").await;
        }
        let sql = format!(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}",
            statement("depth")
        );
        let plan: Value = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(vec!["default", "other"])
            .bind(1_000_i64)
            .persistent(false)
            .fetch_one(&mut *connection)
            .await
            .expect("a plan");
        let plan = &plan[0]["Plan"];
        assert!(!reads_all_of_jobs(plan), "analyzed {analyzed}: {plan:#}");
        assert!(
            uses_index(plan, "jobs_due"),
            "analyzed {analyzed}: {plan:#}"
        );
        let pages = pages(plan);
        // At most one for each that is counted, where nothing was vacuumed lately.
        assert!(
            pages <= 4 * 1_000 + 300,
            "analyzed {analyzed}: {pages} pages: {plan:#}"
        );
    }
    let outbox = Outbox::new(pool.clone());
    let depth = outbox
        .depth(&["default".to_owned()], 1_000)
        .await
        .expect("a measure");
    let value = |what: &str| {
        let found = depth.iter().find(|depth| depth.what == what);
        found.map(|depth| (depth.account.as_str(), depth.value))
    };
    assert_eq!(
        value("queued"),
        Some(("default", 4_000)),
        "of each priority"
    );
    assert_eq!(value("uncertain"), Some(("default", 20)));
    assert_eq!(
        value("oldest_due_ms"),
        Some(("default", 0)),
        "nothing is due"
    );
}

#[tokio::test]
async fn recording_goes_by_the_primary_key_also_with_stale_statistics() {
    let database = lived_in().await;
    let pool = database.pool();
    insert_many(pool, 50, &[]).await;
    let outbox = Outbox::new(pool.clone());
    let claims = claim(&outbox, CLAIM, 50).await.expect("claims");
    assert_eq!(claims.len(), 50);
    let ids: Vec<Uuid> = claims.iter().map(|claim| claim.id).collect();
    let n = ids.len();
    // Every kind of outcome, all at once: duplicates look for their originals, retries and refusals enter the history.
    let answers = |token: i32| -> Value {
        let kinds = [("sent", true), ("queued", false), ("failed", false)];
        ids.iter()
            .zip(kinds.iter().cycle())
            .map(|(id, (status, duplicate))| {
                json!({"id": id, "token": token, "attempt": 1, "worker": "w", "since_claim_ms": 5, "status": status,
                       "spent": true, "accepted": true, "delay_ms": 0, "indeterminate": *status == "queued", "duplicate": duplicate,
                       "content": 7, "error_class": "timeout", "observer": "worker", "progress": "answered", "ms": 5})
            })
            .collect()
    };
    // As workers have them.
    let steady = ConnectOptions {
        for_worker: true,
        ..ConnectOptions::new(database.url())
    };
    let steady = steady.connect().await.expect("the database");
    let mut connection = steady.pool().acquire().await.expect("a connection");
    // As they are; and as after most of a large table was pruned, and filled again before anyone looked.
    for stale in [false, true] {
        if stale {
            execute(
                pool,
                "UPDATE pg_class SET reltuples = 1, relpages = 100000 WHERE oid = 'sms_outbox.jobs'::regclass;
                 DELETE FROM pg_statistic WHERE starelid = 'sms_outbox.jobs'::regclass;",
            )
            .await;
        }
        for name in ["record_sent", "record_other", "record_late"] {
            let sql = format!(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}",
                statement(name)
            );
            sqlx::raw_sql("BEGIN")
                .execute(&mut *connection)
                .await
                .expect("a transaction");
            let query = sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false);
            let query = match name {
                "record_sent" => query
                    .bind(&ids)
                    .bind(vec![1_i32; n])
                    .bind(vec!["312"; n])
                    .bind(vec![200_i16; n])
                    .bind(vec![5_i32; n])
                    .bind(vec![7_i64; n]),
                "record_other" => query.bind(answers(1)),
                _ => query.bind(answers(0)),
            };
            let plan: Value = query.fetch_one(&mut *connection).await.expect("a plan");
            sqlx::raw_sql("ROLLBACK")
                .execute(&mut *connection)
                .await
                .expect("taken back");
            let plan = &plan[0]["Plan"];
            assert!(!reads_all_of_jobs(plan), "{name}, stale {stale}: {plan:#}");
            let pages = pages(plan);
            assert!(
                pages <= 50 * 60,
                "{name}, stale {stale}: {pages} pages for 50: {plan:#}"
            );
        }
    }
}
