//! Who may do what: the one list of rights, as it is granted, extended, examined and documented.

use std::collections::BTreeSet;

use sms_outbox::outbox::{ConnectOptions, Grant, GrantError, Outbox, Right, RoleKind};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::cli::Shell;
use crate::support::postgres::TestDatabase;
use crate::support::provider::FakeProvider;
use crate::support::roles;
use crate::support::worker::{Process, count, execute, insert, wait_for_status};

/// Every object in the list, in its order, and what may be done with it.
fn objects() -> Vec<(&'static str, bool)> {
    let mut objects = Vec::new();
    for right in RoleKind::ALL.into_iter().flat_map(RoleKind::rights) {
        let object = (right.name, right.is_about_a_table());
        if !objects.contains(&object) {
            objects.push(object);
        }
    }
    objects
}

fn cell(rights: &[Right], object: &str) -> String {
    let mut letters = Vec::new();
    for (privilege, letter) in [
        ("SELECT", "s"),
        ("INSERT", "i"),
        ("UPDATE", "u"),
        ("DELETE", "d"),
        ("EXECUTE", "x"),
        ("USAGE", "x"),
    ] {
        let mut of_it = rights
            .iter()
            .filter(|right| right.name == object && right.privileges.contains(&privilege));
        let (some, all) = (
            of_it.clone().next().is_some(),
            of_it.any(|right| right.columns.is_none()),
        );
        match (some, all) {
            (_, true) => letters.push(letter.to_owned()),
            (true, false) => letters.push(format!("({letter})")),
            (false, false) => {}
        }
    }
    letters.join(" ")
}

/// The table of the page, made of the list.
fn table_of_roles() -> String {
    let mut table = "| |".to_owned();
    for kind in RoleKind::ALL {
        table.push_str(&format!(" {} |", kind.name()));
    }
    table.push_str("\n|---|---|---|---|---|---|\n");
    for (object, _) in objects() {
        table.push_str(&format!("| `{object}` |"));
        for kind in RoleKind::ALL {
            table.push_str(&format!(" {} |", cell(&kind.rights(), object)));
        }
        table.push('\n');
    }
    table
}

#[test]
fn the_page_on_roles_shows_the_list() {
    let page = include_str!("../../docs/operations.md");
    let table = table_of_roles();
    assert!(page.contains(&table), "docs/operations.md needs:\n{table}");
}

#[test]
fn the_page_for_producers_names_the_columns_that_they_may_ask_for() {
    let page = include_str!("../../docs/producers.md");
    let rights = RoleKind::Producer.rights();
    let readable = rights
        .iter()
        .find(|right| right.privileges == ["SELECT"] && right.columns.is_some())
        .and_then(|right| right.columns)
        .expect("they may ask");
    let (last, first) = readable.split_last().expect("columns");
    let sentence = format!("`{}` and `{last}`", first.join("`, `"));
    let words: Vec<&str> = page.split_whitespace().collect();
    assert!(words.join(" ").contains(&sentence), "{sentence}");
}

/// Everything in the list is there, and nearly everything that is there is in the list.
#[tokio::test]
async fn the_list_is_about_the_schema_as_it_is() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    for right in RoleKind::ALL.into_iter().flat_map(RoleKind::rights) {
        for column in right.columns.into_iter().flatten() {
            let found = count(
                pool,
                format!(
                    "SELECT count(*) FROM information_schema.columns
                     WHERE table_schema = 'sms_outbox' AND table_name = '{}' AND column_name = '{column}'",
                    right.name
                ),
            )
            .await;
            assert_eq!(found, 1, "{}.{column}", right.name);
        }
    }
    let there: BTreeSet<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'sms_outbox'::regnamespace AND relkind IN ('r', 'v')
         UNION ALL
         SELECT proname::text FROM pg_proc
         WHERE pronamespace = 'sms_outbox'::regnamespace AND prorettype <> 'trigger'::regtype
         UNION ALL SELECT 'sms_outbox'",
    )
    .fetch_all(pool)
    .await
    .expect("the catalogue")
    .into_iter()
    .collect();
    let mut listed: BTreeSet<String> = objects()
        .into_iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    // The owner's alone: see hold_to_priority_limit.
    listed.insert("priority_limits".to_owned());
    assert_eq!(listed, there);
}

/// A role of one test.
struct Role<'a> {
    pool: &'a PgPool,
    name: String,
}

impl<'a> Role<'a> {
    /// `None`: making roles in this server is not ours to do.
    async fn make(database: &'a TestDatabase, name: &str) -> Option<Self> {
        if !database.is_granted() {
            eprintln!("left out: making roles in this server is not ours to do");
            return None;
        }
        let name = format!("{} {name}", database.name());
        let pool = database.pool();
        execute(pool, format!("CREATE ROLE \"{name}\" LOGIN PASSWORD 'x'")).await;
        Some(Self { pool, name })
    }

    async fn is_granted(&self, database: &TestDatabase, kind: RoleKind) {
        let outbox = Outbox::new(database.pool().clone());
        let done = outbox.grant(&self.to_be(kind)).await;
        done.expect("the owner, and a role that is there");
    }

    fn to_be(&self, kind: RoleKind) -> Grant {
        Grant {
            kind,
            role: self.name.clone(),
            most_urgent: None,
        }
    }

    /// Runs a statement about this role, which it calls `$role`.
    async fn about(&self, sql: &str) {
        execute(
            self.pool,
            sql.replace("$role", &format!("\"{}\"", self.name)),
        )
        .await;
    }

    /// The URL of whoever logs in as this role.
    fn url(&self, database: &TestDatabase) -> String {
        let mut url = reqwest::Url::parse(&database.url()).expect("a URL");
        url.set_username(&self.name).expect("a host");
        url.set_password(Some("x")).expect("a host");
        url.into()
    }

    /// Everything that was granted to it.
    async fn rights(&self) -> BTreeSet<String> {
        let found: Vec<String> = sqlx::query_scalar(
            "SELECT what || ' ' || privilege_type FROM (
                 SELECT 'schema' AS what, nspacl AS acl FROM pg_namespace WHERE nspname = 'sms_outbox'
                 UNION ALL SELECT relname, relacl FROM pg_class
                 UNION ALL SELECT attrelid::regclass || '.' || attname, attacl FROM pg_attribute
                 UNION ALL SELECT proname, proacl FROM pg_proc WHERE pronamespace = 'sms_outbox'::regnamespace
             ) AS granted, aclexplode(acl)
             WHERE grantee = (SELECT oid FROM pg_roles WHERE rolname = $1)",
        )
        .bind(&self.name)
        .fetch_all(self.pool)
        .await
        .expect("the catalogue");
        found.into_iter().collect()
    }

    async fn drop(self) {
        self.about("DROP OWNED BY $role; DROP ROLE $role").await;
    }
}

#[tokio::test]
async fn what_grant_prints_gives_the_same_as_grant_and_twice_gives_no_more() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    for kind in RoleKind::ALL {
        let Some(granted) = Role::make(&database, "a").await else {
            return;
        };
        // A name that has to be quoted, in SQL and in a string.
        let printed = Role::make(&database, "Ö's \\ role")
            .await
            .expect("as before");
        let shell = Shell::at(&database);
        for _ in 0..2 {
            shell
                .run(&["grant", kind.name(), &granted.name])
                .await
                .done();
            let sql = Shell::without_database()
                .run(&["grant", kind.name(), &printed.name, "--print"])
                .await
                .done();
            execute(pool, sql).await;
            let rights = granted.rights().await;
            assert!(rights.len() > 4, "{rights:?}");
            assert_eq!(rights, printed.rights().await, "{kind:?}");
            for forbidden in ["jobs INSERT", "jobs UPDATE"] {
                assert!(!rights.contains(forbidden), "{kind:?}: {rights:?}");
            }
        }
        let doctor = Shell::without_database()
            .with("DATABASE_URL", printed.url(&database))
            .with("ILETIMERKEZI_BASE_URL", "http://127.0.0.1:1");
        let (_, said) = doctor.run(&["doctor", "--as", kind.name()]).await.said();
        let enough = format!("may do what {} needs to", kind.with_article());
        assert!(said.contains(&enough), "{said}");
        granted.drop().await;
        printed.drop().await;
    }
}

#[tokio::test]
async fn what_keeps_from_granting_is_said_in_a_sentence() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    for (arguments, code, says) in [
        (
            vec!["grant", "worker", "nobody of this name"],
            1,
            "there is no role \"nobody of this name\": make it first",
        ),
        (
            vec!["grant", "boss", "x"],
            2,
            "producer, worker, operator, support, receiver",
        ),
        (
            vec!["grant", "worker", "x", "--max-priority", "2"],
            2,
            "--max-priority is for producers",
        ),
    ] {
        let (found, said) = shell.run(&arguments).await.said();
        assert!(found == Some(code) && said.contains(says), "{said}");
    }
    let empty = TestDatabase::empty().await;
    let (code, said) = Shell::at(&empty)
        .run(&["grant", "worker", "x"])
        .await
        .said();
    assert!(
        code == Some(1) && said.contains("run `sms-outbox migrate`"),
        "{said}"
    );
    let Some(role) = Role::make(&database, "no owner").await else {
        return;
    };
    role.is_granted(&database, RoleKind::Operator).await;
    let other = ConnectOptions::new(role.url(&database))
        .connect()
        .await
        .expect("it may log in");
    let refused = other.grant(&role.to_be(RoleKind::Worker)).await;
    assert!(
        matches!(refused, Err(GrantError::NotTheOwner { .. })),
        "{refused:?}"
    );
    other.pool().close().await;
    role.drop().await;
}

/// As the README had it, before there was a list.
const BY_HAND: &str = "
    GRANT USAGE ON SCHEMA sms_outbox TO $role;
    GRANT SELECT, INSERT, UPDATE ON sms_outbox.jobs, sms_outbox.pauses, sms_outbox.rate_limits,
        sms_outbox.database_identity TO $role;
    GRANT SELECT, INSERT ON sms_outbox.attempt_log TO $role;
    GRANT SELECT ON sms_outbox._migrations TO $role;";

#[tokio::test]
async fn migrate_gives_what_is_new_to_roles_that_had_what_they_needed() {
    let database = TestDatabase::create().await;
    let Some(worker) = Role::make(&database, "by hand").await else {
        return;
    };
    worker.about(BY_HAND).await;
    let producer = Role::make(&database, "producer").await.expect("as before");
    producer.is_granted(&database, RoleKind::Producer).await;
    let all = producer.rights().await;
    producer
        .about(
            "REVOKE INSERT (traceparent), SELECT (order_id) ON sms_outbox.jobs FROM $role;
             REVOKE EXECUTE ON FUNCTION sms_outbox.enqueue_bulk FROM $role, PUBLIC",
        )
        .await;
    // Less, on purpose: inserting and nothing else, and reading without numbers and texts.
    let inserts = Role::make(&database, "inserts").await.expect("as before");
    inserts
        .about(
            "GRANT USAGE ON SCHEMA sms_outbox TO $role;
             GRANT INSERT (sender, recipients, body, iys) ON sms_outbox.jobs TO $role",
        )
        .await;
    let reports = Role::make(&database, "reports").await.expect("as before");
    reports
        .about(
            "GRANT USAGE ON SCHEMA sms_outbox TO $role;
             GRANT SELECT ON sms_outbox.attempts, sms_outbox.queue_stats, sms_outbox.pauses TO $role;
             GRANT SELECT (id, status, order_id), DELETE ON sms_outbox.jobs TO $role",
        )
        .await;
    let less = (inserts.rights().await, reports.rights().await);

    let said = Shell::at(&database).run(&["migrate"]).await.done();
    for part in [
        format!("Granted to {}, a worker: ", worker.name),
        "SELECT, UPDATE on TABLE sms_outbox.maintenance_leases".to_owned(),
        format!("Granted to {}, a producer: ", producer.name),
        "INSERT (traceparent), SELECT (order_id) on TABLE sms_outbox.jobs".to_owned(),
    ] {
        let shown = said.replace("INSERT, SELECT, UPDATE on", "SELECT, UPDATE on");
        assert!(shown.contains(&part), "{part}: {said}");
    }
    assert_eq!(producer.rights().await, all);
    assert_eq!((inserts.rights().await, reports.rights().await), less);
    let again = Shell::at(&database).run(&["migrate"]).await.done();
    assert!(!again.contains("Granted"), "{again}");

    let provider = FakeProvider::start();
    let id = insert(database.pool(), &[]).await;
    let running = Process::worker(&worker.url(&database), &provider.url(), &[]);
    wait_for_status(database.pool(), id, "sent").await;
    running.stop().await;
    for role in [worker, producer, inserts, reports] {
        role.drop().await;
    }
}

#[tokio::test]
async fn a_running_worker_needs_no_restart_when_it_is_granted_what_it_lacked() {
    let database = TestDatabase::create().await;
    let Some(role) = Role::make(&database, "running").await else {
        return;
    };
    role.is_granted(&database, RoleKind::Worker).await;
    let provider = FakeProvider::start();
    let worker = Process::worker(&role.url(&database), &provider.url(), &[]);
    let id = insert(database.pool(), &[]).await;
    wait_for_status(database.pool(), id, "sent").await;
    // As after an upgrade that brought a table, or a column.
    role.about("REVOKE SELECT ON sms_outbox.pauses FROM $role")
        .await;
    let id = insert(database.pool(), &[]).await;
    worker.wait_for_line("permission denied").await;
    Shell::at(&database).run(&["migrate"]).await.done();
    wait_for_status(database.pool(), id, "sent").await;
    worker.stop().await;
    role.drop().await;
}

#[tokio::test]
async fn a_worker_that_lacks_a_right_or_sees_only_a_part_does_not_start() {
    let database = TestDatabase::create().await;
    let Some(role) = Role::make(&database, "lacks").await else {
        return;
    };
    let provider = FakeProvider::start();
    let url = role.url(&database);
    for (change, says) in [
        ("SELECT 1", "lacks USAGE on SCHEMA sms_outbox"),
        (
            "GRANT USAGE ON SCHEMA sms_outbox TO $role",
            "lacks EXECUTE on FUNCTION sms_outbox.reserve_slots",
        ),
        (
            "REVOKE INSERT ON sms_outbox.reconciliation_tasks FROM $role",
            "lacks INSERT on TABLE sms_outbox.reconciliation_tasks",
        ),
        (
            "REVOKE UPDATE (held) ON sms_outbox.jobs FROM $role",
            "lacks UPDATE (held) on TABLE sms_outbox.jobs",
        ),
        (
            "ALTER TABLE sms_outbox.jobs ENABLE ROW LEVEL SECURITY",
            "only a part of sms_outbox.jobs",
        ),
    ] {
        if says.contains("reserve_slots") {
            role.about("REVOKE EXECUTE ON FUNCTION sms_outbox.reserve_slots FROM PUBLIC")
                .await;
        } else if !says.contains("USAGE") {
            role.is_granted(&database, RoleKind::Worker).await;
        }
        role.about(change).await;
        let mut worker = Process::worker(&url, &provider.url(), &[]);
        let status = worker.ended().await;
        let said = worker.lines().join("\n");
        assert_eq!(status.code(), Some(2), "{said}");
        let what_to_do = ["sms-outbox grant worker", "BYPASSRLS"];
        assert!(
            said.contains(says) && what_to_do.iter().any(|what| said.contains(what)),
            "{says}: {said}"
        );
        let doctor = Shell::without_database()
            .with("DATABASE_URL", &url)
            .with("ILETIMERKEZI_BASE_URL", "http://127.0.0.1:1");
        let (code, said) = doctor.run(&["doctor"]).await.said();
        assert!(code == Some(1) && said.contains(says), "{says}: {said}");
    }
    // The owner, and whoever may pass it by, sees all.
    role.about("ALTER ROLE $role BYPASSRLS").await;
    let worker = Process::worker(&url, &provider.url(), &[]);
    worker.wait_for_line("ready").await;
    worker.stop().await;
    role.drop().await;
}

#[tokio::test]
async fn doctor_tells_a_producer_that_was_granted_the_table_and_not_its_columns() {
    let database = TestDatabase::create().await;
    let Some(role) = Role::make(&database, "whole").await else {
        return;
    };
    let doctor = Shell::without_database().with("DATABASE_URL", role.url(&database));
    role.is_granted(&database, RoleKind::Producer).await;
    let (_, said) = doctor.run(&["doctor", "--as", "producer"]).await.said();
    assert!(!said.contains("has more than"), "{said}");
    role.about("GRANT SELECT, INSERT ON sms_outbox.jobs TO $role")
        .await;
    let (code, said) = doctor.run(&["doctor", "--as", "producer"]).await.said();
    assert_eq!(code, Some(0), "it works: {said}");
    for part in [
        "has more than a producer needs: SELECT and INSERT by the whole row",
        "REVOKE SELECT, INSERT ON sms_outbox.jobs FROM",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    role.drop().await;
}

const URGENT: &str = "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, priority)
    VALUES ('BRAND', '{905321234567}', 'a text', false, 1)";

async fn inserts_urgently(url: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let inserted = sqlx::raw_sql(URGENT)
        .execute(&mut connection)
        .await
        .map(drop);
    connection.close().await?;
    inserted
}

#[tokio::test]
async fn a_producer_with_a_limit_may_not_say_that_a_message_is_more_urgent() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let Some(limited) = Role::make(&database, "limited").await else {
        return;
    };
    let free = Role::make(&database, "free").await.expect("as before");
    free.is_granted(&database, RoleKind::Producer).await;
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'sms_outbox.jobs'::regclass AND NOT tgisinternal";
    let before = count(pool, triggers).await;
    let shell = Shell::at(&database);
    let grant = async |most_urgent: &str| {
        shell
            .run(&[
                "grant",
                "producer",
                &limited.name,
                "--max-priority",
                most_urgent,
            ])
            .await
            .done()
    };
    grant("0").await;
    assert_eq!(count(pool, triggers).await, before, "nobody has a limit");
    inserts_urgently(&limited.url(&database))
        .await
        .expect("no limit");

    // Somebody's transaction is open: the limit waits for it, and nobody waits behind the limit for long.
    let mut open = pool.begin().await.expect("a connection");
    sqlx::raw_sql(URGENT)
        .execute(&mut *open)
        .await
        .expect("a job");
    let granting = grant("2");
    let meanwhile = async {
        for _ in 0..20 {
            inserts_urgently(&free.url(&database))
                .await
                .expect("no limit of its own");
        }
        open.commit().await.expect("the job");
    };
    tokio::join!(granting, meanwhile);
    assert_eq!(count(pool, triggers).await, before + 1);

    let refused = inserts_urgently(&limited.url(&database))
        .await
        .expect_err("its limit is 2");
    let error = refused.as_database_error().expect("the database says so");
    assert_eq!(error.code().as_deref(), Some("23514"));
    assert_eq!(
        error.constraint(),
        Some("jobs_priority_is_allowed_to_the_producer")
    );
    let all = format!("{error:?}");
    assert!(
        !all.contains("905321234567") && !all.contains("a text"),
        "{all}"
    );
    inserts_urgently(&free.url(&database))
        .await
        .expect("no limit of its own");

    // What is granted again, without a word about it, keeps the limit.
    limited.is_granted(&database, RoleKind::Producer).await;
    inserts_urgently(&limited.url(&database))
        .await
        .expect_err("its limit is 2");
    grant("1").await;
    inserts_urgently(&limited.url(&database))
        .await
        .expect("1 is its limit");
    grant("0").await;
    inserts_urgently(&limited.url(&database))
        .await
        .expect("no limit");

    let group = Role::make(&database, "group").await.expect("as before");
    group.about("ALTER ROLE $role NOLOGIN").await;
    let (code, said) = shell
        .run(&["grant", "producer", &group.name, "--max-priority", "2"])
        .await
        .said();
    assert!(code == Some(1) && said.contains("is a group"), "{said}");
    for role in [limited, free, group] {
        role.drop().await;
    }
}

/// A login of its own is what people have; the tests' roles are taken on by another role.
#[tokio::test]
async fn the_roles_of_the_tests_are_no_superusers() {
    let database = TestDatabase::create().await;
    if !database.is_granted() {
        return;
    }
    for kind in RoleKind::ALL {
        let mut connection = PgConnection::connect(&database.url_as(kind))
            .await
            .expect("a role that may be taken on");
        let found: (String, bool) = sqlx::query_as(AssertSqlSafe(
            "SELECT current_user::text, rolsuper FROM pg_roles WHERE rolname = current_user"
                .to_owned(),
        ))
        .fetch_one(&mut connection)
        .await
        .expect("its own row");
        assert_eq!(found, (roles::of(kind), false));
        connection.close().await.expect("it answered");
    }
}
