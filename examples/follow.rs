//! A Rust application that learns what became of its messages, and neither loses nor doubles anything when it dies in between:
//! its place in the feed is a row of its own, moved in the transaction that applies the news.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/app cargo run --example follow
//! ```

use std::time::Duration;

use sqlx::{PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let pool = sms_outbox::guard_against_lost_writes(PgPoolOptions::new())
        .connect(&std::env::var("DATABASE_URL")?)
        .await?;
    prepare(&pool).await?;
    loop {
        // Full pages follow one another at once.
        if follow(&pool, 1_000).await? < 1_000 {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
}

/// The application's own tables.
pub async fn prepare(pool: &PgPool) -> sqlx::Result<()> {
    let tables = "CREATE TABLE IF NOT EXISTS sms_place (
                      the_one boolean PRIMARY KEY DEFAULT true CHECK (the_one), cursor text NOT NULL DEFAULT '');
                  INSERT INTO sms_place DEFAULT VALUES ON CONFLICT DO NOTHING;
                  CREATE TABLE IF NOT EXISTS sms_news (job_id uuid PRIMARY KEY, key text, status text, delivery text)";
    sqlx::raw_sql(tables).execute(pool).await?;
    Ok(())
}

/// Applies what is new; returns how many changes that were.
pub async fn follow(pool: &PgPool, at_most: i32) -> sqlx::Result<usize> {
    let mut transaction = pool.begin().await?;
    // A second instance of the application waits here.
    let cursor: String = sqlx::query_scalar("SELECT cursor FROM sms_place FOR UPDATE")
        .fetch_one(&mut *transaction)
        .await?;
    type Change = (Uuid, Option<String>, Option<String>, Option<String>, String);
    let changes: Vec<Change> = sqlx::query_as(
        "SELECT job_id, idempotency_key, status, delivery, next_cursor FROM sms_outbox.changes($1, $2)",
    )
    .bind(cursor)
    .bind(at_most)
    .fetch_all(&mut *transaction)
    .await?;
    for (job, key, status, delivery, _) in &changes {
        // The application's part. A job may come again: it is told as it stands now.
        sqlx::query(
            "INSERT INTO sms_news (job_id, key, status, delivery) VALUES ($1, $2, $3, $4)
             ON CONFLICT (job_id) DO UPDATE SET status = excluded.status, delivery = excluded.delivery",
        )
        .bind(job)
        .bind(key)
        .bind(status)
        .bind(delivery)
        .execute(&mut *transaction)
        .await?;
    }
    if let Some((.., next_cursor)) = changes.last() {
        sqlx::query("UPDATE sms_place SET cursor = $1")
            .bind(next_cursor)
            .execute(&mut *transaction)
            .await?;
    }
    // The news and the place, or neither.
    transaction.commit().await?;
    Ok(changes.len())
}
