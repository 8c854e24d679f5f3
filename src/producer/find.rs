//! Asking what became of a job.

use sqlx::{Postgres, Row, postgres::PgRow};
use uuid::Uuid;

use crate::job::{Job, OrderId, UnknownValue};

/// Why a job could not be read. That there is none is no error.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The database could not be asked, or refused.
    #[error("asking what became of a job")]
    Database(#[source] sqlx::Error),
    /// The row holds a value that this version does not know; a newer worker may have written it.
    #[error("the {column} of job {id} cannot be understood: {problem}")]
    Unreadable {
        /// The job.
        id: Uuid,
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The job with this id, as it stands now. `None` if there is none (any more): it was never committed, or pruned.
///
/// It needs `SELECT` on `sms_outbox.messages` and on what a [`Job`] holds, and on no number and no text.
///
/// ```no_run
/// # async fn f(connection: &mut sqlx::PgConnection, id: uuid::Uuid) -> Result<(), sms_outbox::FindError> {
/// use sms_outbox::{Status, find_job};
///
/// if let Some(job) = find_job(&mut *connection, id).await? {
///     match job.status {
///         Status::Sent => println!("the provider took it; on the phone: {:?}", job.delivery),
///         Status::Failed => println!("{:?}: {:?}", job.error_class, job.error_message),
///         Status::Uncertain => println!("it may have been sent: a person has to look"),
///         status => println!("{status}, after {} attempts", job.attempt),
///     }
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the database refuses or cannot be reached, and when the row cannot be understood.
pub async fn find_job<'e, E>(executor: E, id: Uuid) -> Result<Option<Job>, FindError>
where
    E: sqlx::Executor<'e, Database = Postgres>,
{
    let found = sqlx::query(include_str!("find_job.sql"))
        .bind(id)
        // As in `enqueue`: nothing is left behind on the server.
        .persistent(false)
        .fetch_optional(executor)
        .await
        .map_err(FindError::Database)?;
    found.as_ref().map(read).transpose()
}

/// The job of this account that has this idempotency key: [`find_job`] for whoever kept no id.
///
/// ```no_run
/// # async fn f(pool: &sqlx::PgPool) -> Result<(), sms_outbox::FindError> {
/// let job = sms_outbox::find_job_by_key(pool, "default", "order-1234-shipped").await?;
/// let over = job.is_some_and(|job| job.status.is_final());
/// # Ok(()) }
/// ```
///
/// # Errors
/// As [`find_job`].
pub async fn find_job_by_key<'e, E>(
    executor: E,
    account: &str,
    idempotency_key: &str,
) -> Result<Option<Job>, FindError>
where
    E: sqlx::Executor<'e, Database = Postgres>,
{
    let found = sqlx::query(include_str!("find_job_by_key.sql"))
        .bind(account.to_owned())
        .bind(idempotency_key.to_owned())
        .persistent(false)
        .fetch_optional(executor)
        .await
        .map_err(FindError::Database)?;
    found.as_ref().map(read).transpose()
}

fn read(row: &PgRow) -> Result<Job, FindError> {
    let id = get(row, "id")?;
    let unreadable = |column, problem| FindError::Unreadable {
        id,
        column,
        problem,
    };
    Ok(Job {
        id,
        account: get(row, "account")?,
        idempotency_key: get(row, "idempotency_key")?,
        batch_id: get(row, "batch_id")?,
        status: get::<&str>(row, "status")?
            .parse()
            .map_err(|error: UnknownValue| unreadable("status", error.to_string()))?,
        attempt: get(row, "attempt")?,
        order_id: get::<Option<&str>>(row, "order_id")?
            .map(|text| {
                let problem = || unreadable("order_id", format!("{text:?} is no order id"));
                OrderId::parse(text).ok_or_else(problem)
            })
            .transpose()?,
        duplicate: get(row, "duplicate")?,
        duplicate_of: get(row, "duplicate_of")?,
        error_class: get::<Option<&str>>(row, "error_class")?
            .map(str::parse)
            .transpose()
            .map_err(|error: UnknownValue| unreadable("error_class", error.to_string()))?,
        error_code: get(row, "error_code")?,
        error_message: get(row, "error_message")?,
        created_at: get(row, "created_at")?,
        sent_at: get(row, "sent_at")?,
        delivery: get::<Option<&str>>(row, "delivery")?
            .map(str::parse)
            .transpose()
            .map_err(|error: UnknownValue| unreadable("delivery", error.to_string()))?,
        delivered_at: get(row, "delivered_at")?,
        price: get(row, "price")?,
        finished_at: get(row, "finished_at")?,
    })
}

fn get<'r, T>(row: &'r PgRow, column: &str) -> Result<T, FindError>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    row.try_get(column).map_err(FindError::Database)
}
