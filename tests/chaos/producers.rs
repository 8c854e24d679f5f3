//! Applications that write messages in transactions of their own, and remember what they were told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sms_outbox::outbox::{Filter, Outbox, RoleKind};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use super::plan::Message;
use super::support::roles;
use super::world::SENDER;

/// What a producer knows of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Committed,
    RolledBack,
}

/// What all producers know.
pub type Knowledge = Arc<Mutex<HashMap<Uuid, Told>>>;

/// Counts of what they met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    pub committed: usize,
    pub rolled_back: usize,
    /// Transactions that broke off, the commit included: nobody knows what became of them, so they are written again.
    pub broken: usize,
}

/// Writes these messages at their times, over one connection, however often it breaks.
pub async fn produce(
    url: String,
    pool: PgPool,
    messages: Vec<Message>,
    knowledge: Knowledge,
    began: Instant,
) -> Met {
    let mut connection: Option<PgConnection> = None;
    let mut met = Met::default();
    let mut cancelling = tokio::task::JoinSet::new();
    for message in messages {
        tokio::time::sleep_until((began + message.at).into()).await;
        let told = loop {
            if connection.is_none() {
                connection = PgConnection::connect(&roles::url_as(RoleKind::Producer, &url))
                    .await
                    .ok();
            }
            let written = match &mut connection {
                Some(open) => {
                    tokio::time::timeout(Duration::from_secs(5), write(open, &message)).await
                }
                None => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            match written {
                Ok(Ok(told)) => break told,
                Ok(Err(_)) | Err(_) => {
                    connection = None;
                    met.broken += 1;
                    if message.rolled_back {
                        break Told::RolledBack;
                    }
                }
            }
        };
        match told {
            Told::Committed => met.committed += 1,
            Told::RolledBack => met.rolled_back += 1,
        }
        knowledge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(message.id, told);
        if let (Told::Committed, Some(after)) = (told, message.cancel_after) {
            let outbox = Outbox::new(pool.clone());
            cancelling.spawn(async move {
                tokio::time::sleep(after).await;
                let filter = Filter {
                    ids: Some(vec![message.id]),
                    at_most: 1,
                    ..Filter::default()
                };
                // What is due in an hour must go, or the queue would not drain; the database may be away.
                while outbox.cancel(&filter).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
    }
    cancelling.join_all().await;
    met
}

/// The application's transaction. An id and a key of its own make it safe to write again.
async fn write(connection: &mut PgConnection, message: &Message) -> Result<Told, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let in_ms =
        |duration: Option<Duration>| duration.map(|d| i64::try_from(d.as_millis()).expect("short"));
    sqlx::query(
        "INSERT INTO sms_outbox.jobs
             (id, sender, recipients, body, iys, iys_list, priority, due_at, expires_at, idempotency_key, max_attempts)
         VALUES ($1, $2, $3, $4, $5, CASE WHEN $5 THEN 'BIREYSEL' END, $6,
                 now() + coalesce($7, 0) * interval '1 millisecond', now() + $8 * interval '1 millisecond', $9, 1000)
         ON CONFLICT DO NOTHING",
    )
    .bind(message.id)
    .bind(SENDER)
    .bind(&message.spelled)
    .bind(&message.text)
    .bind(message.marketing)
    .bind(message.priority)
    .bind(in_ms(message.due_after))
    .bind(in_ms(message.expires_after))
    .bind(message.id.to_string())
    .execute(&mut *transaction)
    .await?;
    if message.rolled_back {
        transaction.rollback().await?;
        return Ok(Told::RolledBack);
    }
    transaction.commit().await?;
    Ok(Told::Committed)
}
