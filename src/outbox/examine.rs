//! What `doctor` asks: how the server is set up, and whether anything in the queue is stuck.

use sqlx::{Connection, FromRow};

use super::{
    ConnectOptions, Outbox, OutboxError,
    connect::shared,
    pooler::{PgBouncer, holds_a_session, refuses_settings},
};

/// How the server is set up.
#[derive(Clone, Debug, FromRow)]
pub struct ServerFacts {
    /// As in `15.4 (Debian 15.4-1)`.
    pub version: String,
    /// As in `150004`.
    pub version_num: i32,
    /// The database that was connected to.
    pub database: String,
    /// Its encoding, as in `UTF8`.
    pub encoding: String,
    /// As whom, quoted where SQL needs it.
    pub role: String,
    /// Whether it cannot be written to: a standby, or switched to read-only.
    pub read_only: bool,
    /// `fsync`: whether what was committed survives a crash of the machine.
    pub fsync: bool,
    /// `full_page_writes`: whether a page that was written in half can be repaired.
    pub full_page_writes: bool,
    /// `synchronous_commit` of this role in this database.
    pub synchronous_commit: String,
    /// The settings by which the server logs statements, as in `log_statement = all`.
    pub logs_statements: Vec<String>,
    /// Whether what is bound to a logged statement is logged as well.
    pub logs_parameters: bool,
    /// The same of a statement that failed.
    pub logs_parameters_on_error: bool,
    /// The version of TLS, as in `TLSv1.3`; `None`: the connection that the server has is not encrypted.
    pub tls: Option<String>,
    /// Whether it comes from the same machine.
    pub is_local: bool,
    /// How many connections ordinary roles may have in all, in this database or by this role, whichever is least.
    pub connections_allowed: i64,
    /// How many of those are in use.
    pub connections_used: i64,
    /// How many workers are connected to this database by their own names.
    pub workers: i64,
}

/// What is stuck, or about to be.
#[derive(Clone, Debug, Default, FromRow)]
pub struct QueueFacts {
    /// Jobs that were being sent when their claim ran out, half a minute ago or more.
    pub abandoned: i64,
    /// Jobs in status `uncertain`.
    pub uncertain: i64,
    /// Jobs that failed within the last hour.
    pub failed_last_hour: i64,
    /// The error classes of those and their counts, as in `sender 3, content 1`.
    pub failed_why: Option<String>,
    /// Milliseconds since any job was claimed; `None` if none ever was.
    pub last_claim_ms: Option<i64>,
}

/// The queued jobs of one sender.
#[derive(Clone, Debug, FromRow)]
pub struct SenderInUse {
    /// The account.
    pub account: String,
    /// The sender.
    pub sender: String,
    /// How many jobs wait.
    pub queued: i64,
    /// How long the oldest single message has been due that no pause holds back, in milliseconds.
    pub oldest_due_age_ms: Option<i64>,
    /// Milliseconds since any job of the account was claimed; `None` if none ever was.
    pub last_claim_ms: Option<i64>,
}

/// Whether server processes are shared by several clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// A connection has a server process of its own.
    Direct,
    /// A pooler in transaction mode stands in between.
    Pooled,
}

impl ConnectOptions {
    /// Connects once, outside any pool: a pool keeps trying until its deadline, and then tells less about why.
    ///
    /// # Errors
    /// When the address cannot be read, or the database cannot be connected to.
    pub async fn knock(&self) -> Result<(), OutboxError> {
        use sqlx::ConnectOptions as _;
        let doing = "connecting";
        let server = self.server().await?;
        let (own, shared) = (self.own(&server), shared(&server));
        let connecting = async {
            let connection = match self.pgbouncer {
                PgBouncer::Between => shared.connect().await,
                PgBouncer::Absent => own.connect().await,
                PgBouncer::Auto => match own.connect().await {
                    Err(error) if refuses_settings(&error) => shared.connect().await,
                    other => other,
                },
            }?;
            // A failure to say goodbye is no failure to connect.
            connection.close().await.ok();
            Ok(())
        };
        match tokio::time::timeout(self.deadline, connecting).await {
            Ok(connected) => connected.map_err(|source| OutboxError::from_sqlx(doing, source)),
            Err(_) => Err(OutboxError::Deadline {
                doing,
                deadline: self.deadline,
            }),
        }
    }

    /// Whether a pooler that shares server processes stands in between.
    ///
    /// # Errors
    /// When the address cannot be read, or the database cannot be connected to.
    pub async fn pooling(&self) -> Result<Pooling, OutboxError> {
        let doing = "looking for a pooler";
        let mut connection = match self.connect_alone().await {
            Ok(connection) => connection,
            Err(OutboxError::Unreachable { source, .. } | OutboxError::Refused { source, .. })
                if refuses_settings(&source) =>
            {
                return Ok(Pooling::Pooled);
            }
            Err(error) => return Err(error),
        };
        let asking = holds_a_session(&mut connection);
        let own = match tokio::time::timeout(self.deadline, asking).await {
            Ok(own) => own.map_err(|source| OutboxError::from_sqlx(doing, source))?,
            Err(_) => {
                return Err(OutboxError::Deadline {
                    doing,
                    deadline: self.deadline,
                });
            }
        };
        connection.close().await.ok();
        Ok(if own {
            Pooling::Direct
        } else {
            Pooling::Pooled
        })
    }
}

impl Outbox {
    /// How the server is set up. Needs no schema.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn examine_server(&self) -> Result<ServerFacts, OutboxError> {
        self.call("examining the server", async |connection| {
            sqlx::query_as(include_str!("examine_server.sql"))
                .persistent(false)
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Whether anything is stuck.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn examine_queue(&self) -> Result<QueueFacts, OutboxError> {
        self.call("examining the queue", async |connection| {
            sqlx::query_as(include_str!("examine_queue.sql"))
                .persistent(false)
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Which accounts and senders have jobs waiting.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn senders_in_use(&self) -> Result<Vec<SenderInUse>, OutboxError> {
        self.call("examining the senders in use", async |connection| {
            sqlx::query_as(include_str!("senders_in_use.sql"))
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }
}
