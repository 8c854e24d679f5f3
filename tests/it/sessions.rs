//! What a session with the database is: begun with settings of its own, ended by whatever PostgreSQL says against it.

use serde_json::Value;
use sms_outbox::outbox::{ConnectOptions, PgBouncer};

use crate::cli::Shell;
use crate::support::postgres::TestDatabase;
use crate::support::provider::FakeProvider;
use crate::support::worker::{
    Process, execute, insert, insert_many, wait_for_status, wait_for_statuses,
};

const OUTAGE: &str = "the database is unavailable";

async fn set(database: &TestDatabase, setting: &str) {
    let name = database.name();
    execute(
        database.pool(),
        format!("ALTER DATABASE {name} SET {setting}"),
    )
    .await;
}

#[tokio::test]
async fn a_database_whose_default_isolation_is_stricter_is_no_outage() {
    for isolation in ["serializable", "repeatable read"] {
        let database = TestDatabase::create().await;
        set(
            &database,
            &format!("default_transaction_isolation = '{isolation}'"),
        )
        .await;
        let provider = FakeProvider::start();
        let workers = [(); 3]
            .map(|()| Process::worker(&database.url(), &provider.url(), &["--concurrency", "20"]));
        let ids = insert_many(database.pool(), 600, &[]).await;
        wait_for_statuses(database.pool(), &ids, "sent").await;
        for worker in workers {
            let lines = worker.stop().await;
            assert!(
                !lines.iter().any(|line| line.contains(OUTAGE)),
                "{}",
                lines.join("\n")
            );
        }
        assert_eq!(provider.orders().len(), 600);
    }
}

#[tokio::test]
async fn a_column_whose_type_changes_under_a_worker_costs_it_nothing_but_a_connection() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let worker = Process::worker(&database.url(), &provider.url(), &[]);
    let before = insert(database.pool(), &[]).await;
    wait_for_status(database.pool(), before, "sent").await;
    execute(
        database.pool(),
        "ALTER TABLE sms_outbox.jobs ALTER COLUMN traceparent TYPE varchar(200)",
    )
    .await;
    let after = insert_many(database.pool(), 20, &[]).await;
    wait_for_statuses(database.pool(), &after, "sent").await;
    let lines = worker.stop().await;
    assert!(
        !lines.iter().any(|line| line.contains(OUTAGE)),
        "{}",
        lines.join("\n")
    );
}

#[tokio::test]
async fn what_is_bound_to_a_statement_stays_out_of_the_servers_log() {
    let database = TestDatabase::create().await;
    set(&database, "log_parameter_max_length_on_error = -1").await;
    for for_worker in [false, true] {
        let options = ConnectOptions {
            for_worker,
            pgbouncer: PgBouncer::Absent,
            ..ConnectOptions::new(database.url())
        };
        let outbox = options.connect().await.expect("the database");
        for setting in [
            "log_parameter_max_length",
            "log_parameter_max_length_on_error",
        ] {
            let most: String = sqlx::query_scalar("SELECT current_setting($1)")
                .bind(setting)
                .fetch_one(outbox.pool())
                .await
                .expect("the setting");
            assert_eq!(most, "0", "{setting}");
        }
    }
}

#[tokio::test]
async fn a_role_that_may_not_say_what_is_logged_works_all_the_same() {
    let database = TestDatabase::create().await;
    let role = format!("{}_plain", database.name());
    execute(
        database.pool(),
        format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'plain' IN ROLE pg_read_all_data;
             GRANT USAGE ON SCHEMA sms_outbox TO {role}"
        ),
    )
    .await;
    let mut url = reqwest::Url::parse(&database.url()).expect("a URL");
    url.set_username(&role).expect("it has a host");
    url.set_password(Some("plain")).expect("it has a host");
    let options = ConnectOptions::new(url.as_str());
    let outbox = options.connect().await.expect("the database");
    let seen: Vec<String> = sqlx::query_scalar(
        "SELECT current_setting(name) FROM unnest(ARRAY['log_parameter_max_length_on_error', 'is_superuser']) AS name",
    )
    .fetch_all(outbox.pool())
    .await
    .expect("the settings");
    assert_eq!(seen, ["0", "off"]);
    outbox.pool().close().await;
    execute(
        database.pool(),
        format!("DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
}

async fn finding(database: &TestDatabase, check: &str) -> Option<(String, String)> {
    let shell = Shell::without_database().with("DATABASE_URL", database.url());
    let doctor = shell.run(&["doctor", "--json"]).await.json();
    let found = doctor["checks"]
        .as_array()?
        .iter()
        .find(|found| found["check"] == check)?
        .clone();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    Some((text(&found["level"]), text(&found["found"])))
}

#[tokio::test]
async fn doctor_says_when_the_server_logs_what_producers_insert_and_whether_the_way_is_encrypted() {
    let database = TestDatabase::create().await;
    assert_eq!(finding(&database, "server log").await, None);
    let (level, found) = finding(&database, "encryption").await.expect("a finding");
    assert_eq!(level, "ok", "{found}");
    for setting in [
        "log_statement = 'all'",
        "log_statement = 'mod'",
        "log_min_duration_statement = 1000",
        "log_parameter_max_length_on_error = -1",
    ] {
        set(&database, setting).await;
        let (level, found) = finding(&database, "server log").await.expect(setting);
        assert_eq!(level, "warning", "{setting}");
        let name = setting.split(' ').next().unwrap_or_default();
        assert!(found.contains(name), "{setting}: {found}");
        execute(
            database.pool(),
            format!("ALTER DATABASE {} RESET {name}", database.name()),
        )
        .await;
    }
}
