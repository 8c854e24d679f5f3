//! Putting messages into the outbox, inside the caller's transaction.

use sqlx::{Postgres, types::Json};
use uuid::Uuid;

use crate::message::{Bulk, NewMessage};

/// Why a message could not be put into the outbox. What could never be sent was refused before: see
/// [`MessageError`](crate::message::MessageError).
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// The account has a job with this idempotency key already, perhaps a finished one.
    #[error("the idempotency key {key:?} is taken in account {account:?}")]
    KeyTaken {
        /// The account.
        account: String,
        /// The key.
        key: String,
    },
    /// The id has been used.
    #[error("a job with the id {id} exists already")]
    IdTaken {
        /// The id.
        id: Uuid,
    },
    /// The database refused the row or could not be reached.
    #[error("putting a message into the outbox")]
    Database(#[source] sqlx::Error),
}

/// What [`enqueue_once`] found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The job is new.
    New(Uuid),
    /// The key was taken; this is the job that has it.
    Existing(Uuid),
}

impl Enqueued {
    /// The job, whoever made it.
    #[must_use]
    pub const fn id(self) -> Uuid {
        match self {
            Self::New(id) | Self::Existing(id) => id,
        }
    }
}

impl EnqueueError {
    fn from_sqlx(message: &NewMessage, id: Uuid, error: sqlx::Error) -> Self {
        let constraint = error
            .as_database_error()
            .and_then(|error| error.constraint().map(str::to_owned));
        match (constraint.as_deref(), message.idempotency_key()) {
            (Some("jobs_idempotency_key_unique_per_account"), Some(key)) => Self::KeyTaken {
                account: message.account().to_owned(),
                key: key.to_owned(),
            },
            (Some("jobs_pkey"), _) => Self::IdTaken { id },
            _ => Self::Database(error),
        }
    }
}

/// Binds the fifteen columns that a producer writes, in the order of `enqueue.sql` and `enqueue_once.sql`.
macro_rules! bind_message {
    ($query:expr, $message:expr, $id:expr) => {{
        let message: &NewMessage = $message;
        let numbers: Vec<&str> = message.recipients().iter().map(|number| number.as_str()).collect();
        $query
            .bind($id)
            .bind(message.account().to_owned())
            .bind(message.sender().as_str().to_owned())
            .bind(numbers.into_iter().map(str::to_owned).collect::<Vec<String>>())
            .bind(message.body().as_str().to_owned())
            .bind(message.iys().is_commercial())
            .bind(message.iys().list().map(|list| list.as_str()))
            .bind(message.priority().get())
            .bind(message.due_at())
            .bind(message.expires_at())
            .bind(message.provider_send_at())
            .bind(message.idempotency_key().map(str::to_owned))
            .bind(message.max_attempts().map_or(15, |most| i16::try_from(most).unwrap_or(i16::MAX)))
            .bind(Json(message.metadata().clone()))
            .bind(message.traceparent().map(str::to_owned))
            // Never left behind on the server: the caller's connection may go through a pooler that shares sessions.
            .persistent(false)
    }};
}

/// Puts one message into the outbox and returns its id. Takes a pool, a connection or, as it is meant, the caller's
/// transaction: the message is sent if and only if that commits. Through a pooler in transaction mode only a transaction is
/// safe.
///
/// ```no_run
/// # async fn f(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use sms_outbox::{Iys, NewMessage};
///
/// let mut transaction = pool.begin().await?;
/// sqlx::query("INSERT INTO orders (id) VALUES (1234)").execute(&mut *transaction).await?;
/// let message =
///     NewMessage::new("YOURBRAND", ["0532 123 45 67"], "Order #1234 is on its way.", Iys::Transactional)?;
/// let id = sms_outbox::enqueue(&mut *transaction, &message).await?;
/// transaction.commit().await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`EnqueueError::KeyTaken`] if the idempotency key is taken, in which case Postgres has aborted the caller's transaction
/// ([`enqueue_once`] does not); otherwise when the database refuses or cannot be reached.
pub async fn enqueue<'e, E>(executor: E, message: &NewMessage) -> Result<Uuid, EnqueueError>
where
    E: sqlx::Executor<'e, Database = Postgres>,
{
    let id = message.id().unwrap_or_else(Uuid::now_v7);
    bind_message!(sqlx::query(include_str!("enqueue.sql")), message, id)
        .execute(executor)
        .await
        .map_err(|error| EnqueueError::from_sqlx(message, id, error))?;
    Ok(id)
}

/// As [`enqueue`], but a message whose idempotency key is taken changes nothing and aborts nothing: the job that has the key
/// is returned. For callers that repeat themselves, such as after a connection that was lost during `COMMIT`.
///
/// # Errors
/// When the database refuses or cannot be reached. [`EnqueueError::KeyTaken`] only if the key was taken by a transaction that
/// committed at this very moment (or that a stricter isolation level hides): repeating the call finds its job.
pub async fn enqueue_once<'e, E>(
    executor: E,
    message: &NewMessage,
) -> Result<Enqueued, EnqueueError>
where
    E: sqlx::Executor<'e, Database = Postgres>,
{
    let id = message.id().unwrap_or_else(Uuid::now_v7);
    let found: Option<(Uuid, bool)> = bind_message!(
        sqlx::query_as(include_str!("enqueue_once.sql")),
        message,
        id
    )
    .fetch_optional(executor)
    .await
    .map_err(|error| EnqueueError::from_sqlx(message, id, error))?;
    match found {
        Some((id, true)) => Ok(Enqueued::New(id)),
        Some((id, false)) => Ok(Enqueued::Existing(id)),
        None => Err(EnqueueError::KeyTaken {
            account: message.account().to_owned(),
            key: message.idempotency_key().unwrap_or_default().to_owned(),
        }),
    }
}

/// Puts a list of any length into the outbox as jobs of at most 50,000 numbers, which share a `batch_id` and are sent one
/// after another. Returns their ids in sending order.
///
/// # Errors
/// As [`enqueue`].
pub async fn enqueue_bulk<'e, E>(executor: E, bulk: &Bulk) -> Result<Vec<Uuid>, EnqueueError>
where
    E: sqlx::Executor<'e, Database = Postgres>,
{
    let message = bulk.template();
    let numbers: Vec<&str> = bulk
        .recipients()
        .iter()
        .map(|number| number.as_str())
        .collect();
    sqlx::query_scalar(include_str!("enqueue_bulk.sql"))
        .bind(message.sender().as_str())
        .bind(numbers)
        .bind(message.body().as_str())
        .bind(message.iys().is_commercial())
        .bind(message.iys().list().map(|list| list.as_str()))
        .bind(message.account())
        .bind(message.priority().get())
        .bind(message.due_at())
        .bind(message.expires_at())
        .bind(message.provider_send_at())
        .bind(message.idempotency_key())
        .bind(
            message
                .max_attempts()
                .map_or(15, |most| i16::try_from(most).unwrap_or(i16::MAX)),
        )
        .bind(Json(message.metadata()))
        .bind(message.traceparent())
        .persistent(false)
        .fetch_all(executor)
        .await
        .map_err(|error| EnqueueError::from_sqlx(message, Uuid::nil(), error))
}
