//! A Rust producer: an order and its message, in one transaction.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/app cargo run --example enqueue -- '0532 123 45 67'
//! ```
//!
//! The number is yours to give: a worker that serves this database will send to it.

use sms_outbox::{Enqueued, Iys, NewMessage, enqueue_once, guard_against_lost_writes};
use sqlx::{PgPool, postgres::PgPoolOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(number) = std::env::args().nth(1) else {
        anyhow::bail!("usage: enqueue NUMBER");
    };
    // sqlx 0.9.0 can lose writes after a cancelled `begin`; this closes the gap for a pool of your own.
    let pool = guard_against_lost_writes(PgPoolOptions::new())
        .connect(&std::env::var("DATABASE_URL")?)
        .await?;

    let first = place_order(&pool, 1234, &number).await?;
    println!("order 1234: {first:?}");

    // A caller that does not know whether its COMMIT arrived does the same again.
    let again = place_order(&pool, 1234, &number).await?;
    println!("once more:  {again:?}");
    assert_eq!(first.id(), again.id());
    Ok(())
}

async fn place_order(pool: &PgPool, order: i64, number: &str) -> anyhow::Result<Enqueued> {
    // Understood, or refused, before anything is written: the sender, the number, the length of the text.
    let text = format!("Order {order} is on its way.");
    let message = NewMessage::new("YOURBRAND", [number], &text, Iys::Transactional)?
        .with_idempotency_key(format!("order-{order}-shipped"))?;

    let mut transaction = pool.begin().await?;
    // Your own table. Here a temporary one, so that the example leaves nothing behind but its message.
    sqlx::query("CREATE TEMPORARY TABLE orders (id bigint PRIMARY KEY) ON COMMIT DROP")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("INSERT INTO orders (id) VALUES ($1)")
        .bind(order)
        .execute(&mut *transaction)
        .await?;
    let enqueued = enqueue_once(&mut *transaction, &message).await?;
    // Both happen, or neither.
    transaction.commit().await?;
    Ok(enqueued)
}
