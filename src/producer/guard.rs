//! A fault of the driver that loses writes, and what helps.

use std::time::Duration;

use sqlx::{Executor, Row, postgres::PgPoolOptions};

/// A connection that has answered nothing for so long, to a question that takes no time, is not fit for use.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Makes every connection prove that no transaction was left open on it, before anyone gets it.
///
/// In sqlx 0.9.0 a `begin()` that is cancelled (a timeout, a `select!`, a dropped future) can return a connection with an
/// *open transaction* to the pool. The next user's `INSERT` then succeeds, and is never committed. Producers that use
/// sqlx share the fault, so this is exported: build your own pool with it.
///
/// ```no_run
/// # async fn f() -> Result<(), sqlx::Error> {
/// let pool = sms_outbox::guard_against_lost_writes(sqlx::postgres::PgPoolOptions::new())
///     .max_connections(10)
///     .connect("postgres://localhost/app")
///     .await?;
/// # Ok(()) }
/// ```
#[must_use]
pub fn guard_against_lost_writes(options: PgPoolOptions) -> PgPoolOptions {
    options
        .test_before_acquire(false)
        .before_acquire(|connection, _| {
            Box::pin(async move {
                // Inside an open transaction now() stands still at its start; outside, each statement starts its own.
                // The simple protocol leaves no prepared statement behind, as PgBouncer demands.
                let probe = connection.fetch_one("SELECT now() = statement_timestamp()");
                match tokio::time::timeout(SILENT_AFTER, probe).await {
                    Ok(Ok(row)) => row.try_get::<bool, _>(0),
                    // Broken or silent: not fit for use either.
                    Ok(Err(_)) | Err(_) => Ok(false),
                }
            })
        })
}
