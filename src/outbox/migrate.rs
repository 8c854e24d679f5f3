//! Creating and upgrading the schema `sms_outbox`, and nothing else in the database.

use sqlx::{
    Connection, Executor, PgConnection, Row,
    migrate::{MigrateError, Migrator},
};

use super::{
    ConnectOptions, Outbox, OutboxError,
    pooler::{PgBouncer, holds_a_session, refuses_settings},
};

/// The migrations, with our own bookkeeping beside our own tables.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.dangerous_set_table_name("sms_outbox._migrations");
    migrator
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database could not be used.
    #[error(transparent)]
    Database(#[from] OutboxError),
    /// Somebody upgraded already, with a later version of this program.
    #[error(
        "the schema sms_outbox is at version {found}, newer than the {known} that this program knows; \
         use the sms-outbox version that made it, or a later one (schemas are not taken back)"
    )]
    Newer {
        /// What the database has.
        found: i64,
        /// What this program has.
        known: i64,
    },
    /// The server is too old.
    #[error("PostgreSQL {found} is too old: sms-outbox needs 14 or later")]
    ServerTooOld {
        /// What the server says it is.
        found: String,
    },
    /// A pooler that shares sessions stands in between.
    #[error(
        "a PgBouncer stands in between: migrations hold a session lock, which one in transaction mode would lose, so give \
         `migrate` the database's own address"
    )]
    Pooled,
    /// The schema is of the time before the first release.
    #[error("{UNRELEASED}")]
    Unreleased,
    /// Texts would be kept in an encoding that has no place for them.
    #[error(
        "the database's encoding is {found}, which has no place for every character of a message: sms-outbox needs a database \
         in UTF8 (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
    )]
    NotUtf8 {
        /// What the server calls it.
        found: String,
    },
    /// A migration failed, or an applied one is not what this program knows by its number.
    #[error("bringing the schema sms_outbox up to date")]
    Migrate(#[source] MigrateError),
}

/// What is to be done about a schema that unreleased versions of this program made: names differ, and no migration leads on.
pub const UNRELEASED: &str = "the schema sms_outbox was made by a version from before the first release, and nothing has been \
    changed: stop its workers, rename it (ALTER SCHEMA sms_outbox RENAME TO sms_outbox_old), run `sms-outbox migrate`, and copy \
    its jobs as docs/operations.md says under \"A schema from before the first release\"";

/// How the database's schema relates to this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// There is none.
    Missing,
    /// An unreleased version of this program made it; see [`UNRELEASED`].
    Unreleased,
    /// `sms-outbox migrate` has something to do.
    Older {
        /// What the database has.
        found: i64,
        /// What this program has.
        known: i64,
    },
    /// As it should be.
    Current {
        /// The version.
        version: i64,
    },
    /// A later program has been here.
    Newer {
        /// What the database has.
        found: i64,
        /// What this program has.
        known: i64,
    },
}

fn known_version() -> i64 {
    migrator()
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

impl ConnectOptions {
    /// Creates or upgrades the schema; returns its version before (`None`: there was none) and after. Safe to run by many
    /// at once: they queue up behind a lock.
    ///
    /// Our bookkeeping is `sms_outbox._migrations`: an application that uses sqlx's migrations in the same database keeps
    /// its own.
    ///
    /// # Errors
    /// See [`MigrationError`].
    pub async fn migrate(&self) -> Result<(Option<i64>, i64), MigrationError> {
        let mut connection = self.connect_alone().await.map_err(|error| match &error {
            OutboxError::Unreachable { source, .. } | OutboxError::Refused { source, .. }
                if refuses_settings(source) =>
            {
                MigrationError::Pooled
            }
            _ => MigrationError::Database(error),
        })?;
        let examined = tokio::time::timeout(self.deadline, self.examine(&mut connection)).await;
        let before = examined.map_err(|_| OutboxError::Deadline {
            doing: EXAMINING,
            deadline: self.deadline,
        })??;
        let mut migrator = migrator();
        // CREATE SCHEMA IF NOT EXISTS asks for the right to create even where nothing is to be created.
        if before.is_none() {
            migrator.create_schema("sms_outbox");
        }
        // A migration may take its time, and another one that is under way may be waited for. A server that has fallen silent
        // is not.
        tokio::select! {
            migrated = migrator.run_direct(None, &mut connection, false) => {
                migrated.map_err(|error| match error {
                    MigrateError::VersionMissing(found) => MigrationError::Newer {
                        found,
                        known: known_version(),
                    },
                    other => MigrationError::Migrate(other),
                })?;
            }
            silence = self.silence() => return Err(silence.into()),
        }
        // A failure to say goodbye changes nothing about what was done.
        connection.close().await.ok();
        Ok((before, known_version()))
    }

    /// Whether the server will do; and the version that the schema has, `None` if there is none.
    async fn examine(&self, connection: &mut PgConnection) -> Result<Option<i64>, MigrationError> {
        let doing = |source| OutboxError::from_sqlx(EXAMINING, source);
        let server = connection
            .fetch_one("SHOW server_version_num")
            .await
            .map_err(doing)?;
        let number: String = server.try_get(0).map_err(doing)?;
        if number.parse::<u32>().is_ok_and(|number| number < 140_000) {
            return Err(MigrationError::ServerTooOld { found: number });
        }
        if self.pgbouncer == PgBouncer::Between
            || !holds_a_session(connection).await.map_err(doing)?
        {
            return Err(MigrationError::Pooled);
        }
        let encoding = connection
            .fetch_one("SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database()")
            .await
            .map_err(doing)?;
        let encoding: String = encoding.try_get(0).map_err(doing)?;
        if encoding != "UTF8" {
            return Err(MigrationError::NotUtf8 { found: encoding });
        }
        let applied = applied_version(connection).await.map_err(doing)?;
        if applied.is_some() && is_unreleased(connection).await.map_err(doing)? {
            return Err(MigrationError::Unreleased);
        }
        Ok(applied)
    }

    /// Ends when new connections have got no answer three times in a row. A server that has no place for another one does
    /// answer.
    async fn silence(&self) -> OutboxError {
        let mut unanswered = 0;
        loop {
            tokio::time::sleep(self.deadline).await;
            match self.knock().await {
                Err(
                    error @ (OutboxError::Deadline { .. }
                    | OutboxError::Unreachable {
                        source: sqlx::Error::Io(_),
                        ..
                    }),
                ) => {
                    unanswered += 1;
                    if unanswered == 3 {
                        return error;
                    }
                }
                Ok(()) | Err(_) => unanswered = 0,
            }
        }
    }
}

const EXAMINING: &str = "examining the server";

async fn applied_version(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
    let exists: bool = connection
        .fetch_one("SELECT to_regclass('sms_outbox._migrations') IS NOT NULL")
        .await?
        .try_get(0)?;
    if !exists {
        return Ok(None);
    }
    connection
        .fetch_one("SELECT max(version) FROM sms_outbox._migrations WHERE success")
        .await?
        .try_get(0)
}

/// Whether the first migration that was applied is another than ours: it changed until the first release, and never since.
async fn is_unreleased(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let migrator = migrator();
    let first = migrator.iter().next().map(|first| first.checksum.to_vec());
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM sms_outbox._migrations WHERE version = 1 AND success AND checksum <> $1)",
    )
    .bind(first)
    .persistent(false)
    .fetch_one(connection)
    .await
}

impl Outbox {
    /// How the database's schema relates to this program.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn schema_state(&self) -> Result<SchemaState, OutboxError> {
        let known = known_version();
        let (applied, unreleased) = self
            .call("reading the schema's version", async |connection| {
                let applied = applied_version(connection).await?;
                let unreleased = applied.is_some() && is_unreleased(connection).await?;
                Ok((applied, unreleased))
            })
            .await?;
        Ok(match applied {
            None => SchemaState::Missing,
            Some(_) if unreleased => SchemaState::Unreleased,
            Some(found) if found < known => SchemaState::Older { found, known },
            Some(found) if found > known => SchemaState::Newer { found, known },
            Some(version) => SchemaState::Current { version },
        })
    }
}
