//! The databases that the other tests get.

use sqlx::{Connection, PgConnection};

use crate::support::postgres::TestDatabase;

async fn tables(database: &TestDatabase) -> Vec<String> {
    sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
        .fetch_all(database.pool())
        .await
        .expect("a fresh database can be asked")
}

async fn with_words() -> TestDatabase {
    TestDatabase::from_template("words", async |url| {
        let pool = sqlx::PgPool::connect(&url).await.expect("a new database");
        sqlx::query("CREATE TABLE words (word text)")
            .execute(&pool)
            .await
            .expect("an empty database");
        pool.close().await;
    })
    .await
}

#[tokio::test]
async fn every_test_has_a_database_of_its_own() {
    let (one, other) = tokio::join!(TestDatabase::empty(), TestDatabase::empty());
    assert_ne!(one.name(), other.name());
    sqlx::query("CREATE TABLE mine (id int)")
        .execute(one.pool())
        .await
        .expect("an empty database");
    assert_eq!(tables(&one).await, ["mine"]);
    assert!(tables(&other).await.is_empty());
}

#[tokio::test]
async fn a_database_with_the_schema_can_be_reached_by_its_url() {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(&database.url())
        .await
        .expect("the database");
    let name: String = sqlx::query_scalar("SELECT current_database()::text")
        .fetch_one(&mut connection)
        .await
        .expect("its name");
    assert_eq!(name, database.name());
    sqlx::query("SELECT FROM sms_outbox.jobs")
        .execute(&mut connection)
        .await
        .expect("the schema is there");
}

#[tokio::test]
async fn copies_of_a_template_share_its_schema_and_nothing_else() {
    let (one, other) = tokio::join!(with_words(), with_words());
    sqlx::query("INSERT INTO words VALUES ('a')")
        .execute(one.pool())
        .await
        .expect("the template's table");
    for (database, expected) in [(&one, 1), (&other, 0)] {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM words")
            .fetch_one(database.pool())
            .await
            .expect("the template's table");
        assert_eq!(count, expected);
    }
}

#[tokio::test]
async fn a_database_is_dropped_with_its_value_even_while_in_use() {
    let watcher = TestDatabase::empty().await;
    let database = TestDatabase::empty().await;
    let name = database.name().to_owned();
    let _in_use = database.pool().acquire().await.expect("a fresh database");
    drop(database);
    let gone = async {
        loop {
            let left: i64 =
                sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = $1")
                    .bind(&name)
                    .fetch_one(watcher.pool())
                    .await
                    .expect("the catalogue");
            if left == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone)
        .await
        .expect("the database to be dropped");
}
