//! Creating and upgrading the schema `sms_outbox`, and nothing else in the database.

use std::{
    sync::atomic::{AtomicI32, Ordering},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, Row,
    migrate::{MigrateError, Migrator},
};

use super::{
    ConnectOptions, Outbox, OutboxError,
    pooler::{PgBouncer, holds_a_session, refuses_settings},
};

/// The longest that a lock is waited for, and with it every producer that comes later.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Long enough for everybody who has waited behind us.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// For a question beside the migration.
const LONGEST_GOODBYE: Duration = Duration::from_secs(3);

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
    /// Nothing may be written.
    #[error(
        "the database, or this role in it, is read-only (default_transaction_read_only): if it is not meant for migrations, add \
         ?options=-c%20default_transaction_read_only%3Doff to DATABASE_URL for this one"
    )]
    ReadOnly,
    /// It was told to stop.
    #[error(
        "stopped: what was not finished has been rolled back, and `sms-outbox migrate` can be run again"
    )]
    Stopped,
    /// A migration failed, or an applied one is not what this program knows by its number.
    #[error("bringing the schema sms_outbox up to date")]
    Migrate(#[source] MigrateError),
}

impl MigrationError {
    /// Whether a lock did not come in time.
    fn is_locked_out(&self) -> bool {
        let (Self::Database(OutboxError::Unreachable { source, .. })
        | Self::Migrate(
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _),
        )) = self
        else {
            return false;
        };
        source
            .as_database_error()
            .is_some_and(|error| error.code().as_deref() == Some("55P03"))
    }
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
        self.migrate_until(std::future::pending(), |_| ()).await
    }

    /// As [`migrate`](Self::migrate), and given up when `stop` ends: what was not finished is rolled back. `waits` is told whose
    /// locks are in the way, each time they were.
    ///
    /// Whoever wants a lock that an older transaction keeps it from (a dump reads for an hour) keeps all others from it as well
    /// that come later, and those are producers. So each wait is short, and between two of them everybody else goes on.
    ///
    /// # Errors
    /// See [`MigrationError`].
    pub async fn migrate_until(
        &self,
        stop: impl Future<Output = ()>,
        waits: impl Fn(&str),
    ) -> Result<(Option<i64>, i64), MigrationError> {
        tokio::pin!(stop);
        loop {
            let process = AtomicI32::new(0);
            let tried = tokio::select! {
                tried = self.try_to_migrate(&process) => tried,
                () = &mut stop => {
                    self.end(process.into_inner()).await;
                    return Err(MigrationError::Stopped);
                }
            };
            match tried {
                Ok(versions) => return Ok(versions),
                Err(error) if error.is_locked_out() => {
                    let who = self.who_holds_locks().await;
                    waits(who.as_deref().unwrap_or("another session"));
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(BETWEEN_TRIES) => {}
                () = &mut stop => return Err(MigrationError::Stopped),
            }
        }
    }

    /// Waits for no lock for long. `process` is set to the server process that does it.
    async fn try_to_migrate(
        &self,
        process: &AtomicI32,
    ) -> Result<(Option<i64>, i64), MigrationError> {
        let mut connection = self.connect_alone().await.map_err(|error| match &error {
            OutboxError::Unreachable { source, .. } | OutboxError::Refused { source, .. }
                if refuses_settings(source) =>
            {
                MigrationError::Pooled
            }
            _ => MigrationError::Database(error),
        })?;
        let examined = tokio::time::timeout(self.deadline, async {
            let own = self.begin_session(&mut connection).await;
            let own = own.map_err(|source| OutboxError::from_sqlx(EXAMINING, source))?;
            process.store(own, Ordering::Relaxed);
            self.examine(&mut connection).await
        });
        let before = examined.await.map_err(|_| OutboxError::Deadline {
            doing: EXAMINING,
            deadline: self.deadline,
        })??;
        let mut migrator = migrator();
        // CREATE SCHEMA IF NOT EXISTS asks for the right to create even where nothing is to be created.
        if before.is_none() {
            migrator.create_schema("sms_outbox");
        }
        // A migration may take its time. A server that has fallen silent is not waited for.
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

    /// What could not be said when the connection was made: servers differ in what they know. Returns the server process.
    async fn begin_session(&self, connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
        let lock_timeout = LONGEST_WAIT.min(self.deadline / 2).as_millis();
        let settings = format!(
            "SELECT set_config(name, value, false)
             FROM (VALUES ('lock_timeout', '{lock_timeout}'), ('transaction_timeout', '0')) AS ours (name, value)
             WHERE current_setting(name, true) IS NOT NULL"
        );
        connection.execute(AssertSqlSafe(settings)).await?;
        // If this process is killed, the server notices within a second, and does not go on alone. Not every system can.
        connection
            .execute("SET client_connection_check_interval = 1000")
            .await
            .ok();
        connection
            .fetch_one("SELECT pg_backend_pid()")
            .await?
            .try_get(0)
    }

    /// Ends the server process, so that nothing goes on that nobody waits for; 0: there is none yet.
    async fn end(&self, process: i32) {
        if process == 0 {
            return;
        }
        let ending = async {
            let mut connection = self.connect_alone().await.ok()?;
            sqlx::query("SELECT pg_terminate_backend($1)")
                .bind(process)
                .execute(&mut connection)
                .await
                .ok()
        };
        // Unreachable, it ends by itself.
        tokio::time::timeout(LONGEST_GOODBYE, ending).await.ok();
    }

    async fn who_holds_locks(&self) -> Option<String> {
        let asking = async {
            let mut connection = self.connect_alone().await.ok()?;
            let found = sqlx::query_scalar(include_str!("who_holds_locks.sql"))
                .persistent(false)
                .fetch_optional(&mut connection);
            found.await.ok().flatten()
        };
        tokio::time::timeout(LONGEST_GOODBYE, asking)
            .await
            .ok()
            .flatten()
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
        let read_only = connection
            .fetch_one(
                "SELECT current_setting('transaction_read_only') = 'on', pg_is_in_recovery()",
            )
            .await
            .map_err(doing)?;
        if read_only.try_get(1).map_err(doing)? {
            return Err(OutboxError::Standby.into());
        }
        if read_only.try_get(0).map_err(doing)? {
            return Err(MigrationError::ReadOnly);
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
