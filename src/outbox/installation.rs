//! Whether this is still the database that the queue was written in. A restored backup, a promoted standby and a copy for
//! staging hold jobs that were sent from elsewhere meanwhile; nothing in their rows shows it.
//!
//! What does: the server's system identifier (another after a dump was restored elsewhere), the timeline (another after a
//! promotion or a point-in-time recovery), the database's oid (another in a copy) and that of the table (another after a dump
//! was restored over it). All of them were noted in the one row of
//! `sms_outbox.installation`, and are compared on every connection that a worker makes, about once a second, and behind a
//! pooler with every claim. While they differ nothing is claimed, until a person says that it may be.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Outbox, OutboxError};

/// What was noted, and what is.
#[derive(Clone, Debug, FromRow)]
pub struct Installation {
    noted_system_identifier: Option<String>,
    noted_timeline: Option<i32>,
    noted_database_oid: Option<i64>,
    noted_database_name: Option<String>,
    noted_jobs_oid: Option<i64>,
    promotions: Option<String>,
    /// Who noted it; `None`: nothing has been noted yet.
    pub noted_by: Option<String>,
    /// When it was noted.
    pub noted_at: Option<String>,
    system_identifier: Option<String>,
    timeline: Option<i32>,
    database_oid: i64,
    database_name: String,
    jobs_oid: i64,
    /// Whether the server is a standby. It has no timeline of its own yet, and will have once it is promoted.
    pub standby: bool,
}

/// How the present database differs from the noted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another server.
    Server {
        /// Its system identifier when it was noted.
        noted: String,
        /// And now.
        present: String,
    },
    /// Another database of the same server.
    Database {
        /// What the noted one was called.
        noted: String,
        /// What this one is called.
        present: String,
    },
    /// Other tables in the same database.
    Tables,
    /// Another history of the same database.
    Timeline {
        /// As noted.
        noted: i32,
        /// And now.
        present: i32,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { noted, present } => write!(
                f,
                "the server is another one (system identifier {present}, noted {noted}): a backup or a copy was restored \
                 here, or it was upgraded with pg_upgrade"
            ),
            Self::Database { noted, present } if noted == present => write!(
                f,
                "the database {present:?} is another one of the same name: it was dropped, and restored or copied"
            ),
            Self::Database { noted, present } => {
                write!(f, "the database is a copy ({present:?}, noted {noted:?})")
            }
            Self::Tables => f.write_str(
                "the table sms_outbox.jobs is another one: a backup was restored over it",
            ),
            Self::Timeline { noted, present } => write!(
                f,
                "the server's history has branched (timeline {present}, noted {noted}): a standby was promoted, or a base \
                 backup restored"
            ),
        }
    }
}

/// What another timeline alone means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotions {
    /// Nothing is sent until a person has looked.
    Stop,
    /// Nothing: replication is synchronous, so that a promoted standby has forgotten nothing.
    GoOn,
}

impl Promotions {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::GoOn => "go_on",
        }
    }
}

impl Installation {
    /// What has changed; `None`: nothing, or nothing that can be seen.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        if let (Some(noted), Some(present)) =
            (&self.noted_system_identifier, &self.system_identifier)
            && noted != present
        {
            return Some(Change::Server {
                noted: noted.clone(),
                present: present.clone(),
            });
        }
        if let Some(noted) = self.noted_database_oid
            && noted != self.database_oid
        {
            return Some(Change::Database {
                noted: self.noted_database_name.clone().unwrap_or_default(),
                present: self.database_name.clone(),
            });
        }
        if self
            .noted_jobs_oid
            .is_some_and(|noted| noted != self.jobs_oid)
        {
            return Some(Change::Tables);
        }
        match (self.noted_timeline, self.timeline) {
            (Some(noted), Some(present))
                if noted != present && self.promotions() == Promotions::Stop =>
            {
                Some(Change::Timeline { noted, present })
            }
            _ => None,
        }
    }

    /// What another timeline alone means here.
    #[must_use]
    pub fn promotions(&self) -> Promotions {
        // An unknown word, of a later version, is no leave to go on.
        if self.promotions.as_deref() == Some(Promotions::GoOn.as_str()) {
            Promotions::GoOn
        } else {
            Promotions::Stop
        }
    }

    /// What the server does not say of itself, so that it cannot be compared.
    #[must_use]
    pub fn unsaid(&self) -> Vec<&'static str> {
        let mut unsaid = Vec::new();
        if self.system_identifier.is_none() {
            unsaid.push("its system identifier");
        }
        if self.timeline.is_none() {
            unsaid.push("its timeline");
        }
        unsaid
    }

    /// Whether something is to be noted that has not been.
    fn has_gaps(&self) -> bool {
        self.noted_database_oid.is_none()
            || (self.noted_system_identifier.is_none() && self.system_identifier.is_some())
            || (self.noted_timeline.is_none() && self.timeline.is_some())
    }
}

/// What was seen last, shared by all who use the outbox.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

#[derive(Clone, Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    AsNoted,
    Standby,
    Changed(Change),
}

impl Watch {
    /// Compares on this connection.
    pub(super) async fn look(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Installation, sqlx::Error> {
        // In one message without a statement that would stay behind: poolers like it, and so does the round trip.
        let looked = sqlx::raw_sql(include_str!("installation.sql"))
            .fetch_one(connection)
            .await
            .and_then(|row| Installation::from_row(&row));
        let seen = match &looked {
            Ok(found) => match found.change() {
                Some(change) => Seen::Changed(change),
                None if found.standby => Seen::Standby,
                None => Seen::AsNoted,
            },
            Err(_) => Seen::Nothing,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        looked
    }

    fn seen(&self) -> Seen {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Open jobs of a database that has just been restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct OpenJobs {
    /// Waiting.
    pub queued: i64,
    /// Those of them that were due by the moment in question.
    pub due: i64,
    /// Being sent when the backup was made.
    pub sending: i64,
}

impl Outbox {
    /// As [`call`](Self::call), but only where the queue was noted.
    pub(super) async fn call_where_noted<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, OutboxError> {
        self.call(doing, async |connection| {
            let mut seen = self.watch.seen();
            // A connection of our own was asked when it was made, and leads to one server for as long as it lasts. (A standby
            // keeps its connections when it is promoted.)
            if self.ways.is_shared() || matches!(seen, Seen::Nothing | Seen::Standby) {
                self.watch.look(connection).await?;
                seen = self.watch.seen();
            }
            match seen {
                Seen::Changed(change) => Ok(Err(OutboxError::Unconfirmed(change))),
                Seen::Standby => Ok(Err(OutboxError::Standby)),
                Seen::Nothing | Seen::AsNoted => work(connection).await.map(Ok),
            }
        })
        .await?
    }

    /// What was noted, and what is.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn installation(&self) -> Result<Installation, OutboxError> {
        self.call(
            "comparing the database with the noted one",
            async |connection| self.watch.look(connection).await,
        )
        .await
    }

    /// Makes sure that this is the database that was noted; notes it if none was.
    ///
    /// # Errors
    /// [`OutboxError::Unconfirmed`] if it is another, [`OutboxError::Standby`] if that cannot be told yet; otherwise when the database cannot be reached or refuses.
    pub async fn keep_to_installation(&self, by: &str) -> Result<(), OutboxError> {
        let found = self.installation().await?;
        if let Some(change) = found.change() {
            return Err(OutboxError::Unconfirmed(change));
        }
        if found.standby {
            return Err(OutboxError::Standby);
        }
        if found.has_gaps() {
            self.call("noting the database", async |connection| {
                sqlx::query(include_str!("note_installation.sql"))
                    .bind(by)
                    .persistent(false)
                    .execute(connection)
                    .await
            })
            .await?;
        }
        Ok(())
    }

    /// Notes the present database as the one to send from; workers go on within about a second.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn confirm_installation(
        &self,
        by: &str,
        promotions: Option<Promotions>,
    ) -> Result<(), OutboxError> {
        self.call("noting the database", async |connection| {
            sqlx::query(include_str!("confirm_installation.sql"))
                .bind(by)
                .bind(promotions.map(Promotions::as_str))
                .persistent(false)
                .execute(connection)
                .await
        })
        .await
        .map(drop)
    }

    /// How many jobs are open, and how many of them were due by `moment`.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn open_jobs(&self, moment: DateTime<Utc>) -> Result<OpenJobs, OutboxError> {
        self.call("counting open jobs", async |connection| {
            sqlx::query_as(include_str!("open_jobs.sql"))
                .bind(moment)
                .persistent(false)
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Sets up to `at_most` queued jobs aside as uncertain that were due by `moment`; returns their ids.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn set_waiting_aside(
        &self,
        moment: DateTime<Utc>,
        at_most: usize,
    ) -> Result<Vec<Uuid>, OutboxError> {
        self.call("setting waiting jobs aside", async |connection| {
            sqlx::query_scalar(include_str!("set_waiting_aside.sql"))
                .bind(moment)
                .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted_and_present(
        noted: Option<(Option<&str>, Option<i32>, i64, i64)>,
        present: (Option<&str>, Option<i32>, i64, i64),
        promotions: Promotions,
    ) -> Installation {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Installation {
            noted_system_identifier: noted.and_then(|noted| owned(noted.0)),
            noted_timeline: noted.and_then(|noted| noted.1),
            noted_database_oid: noted.map(|noted| noted.2),
            noted_jobs_oid: noted.map(|noted| noted.3),
            noted_database_name: noted.map(|_| "app".to_owned()),
            promotions: noted.map(|_| promotions.as_str().to_owned()),
            noted_by: noted.map(|_| "migrate".to_owned()),
            noted_at: None,
            system_identifier: owned(present.0),
            timeline: present.1,
            database_oid: present.2,
            database_name: "app".to_owned(),
            jobs_oid: present.3,
            standby: false,
        }
    }

    #[test]
    fn what_differs_is_a_change_and_what_is_not_said_is_none() {
        use Promotions::{GoOn, Stop};
        let noted = Some((Some("7"), Some(1), 5, 9));
        for (noted, present, promotions, change, gaps) in [
            (noted, (Some("7"), Some(1), 5, 9), Stop, None, false),
            (
                noted,
                (Some("8"), Some(1), 5, 9),
                Stop,
                Some("server"),
                false,
            ),
            // Whoever trusts promotions does not trust copies.
            (
                noted,
                (Some("8"), Some(2), 6, 9),
                GoOn,
                Some("server"),
                false,
            ),
            (
                noted,
                (Some("7"), Some(1), 6, 9),
                GoOn,
                Some("database"),
                false,
            ),
            (
                noted,
                (Some("7"), Some(2), 5, 9),
                Stop,
                Some("timeline"),
                false,
            ),
            (noted, (Some("7"), Some(2), 5, 9), GoOn, None, false),
            (
                noted,
                (Some("7"), Some(1), 5, 8),
                GoOn,
                Some("tables"),
                false,
            ),
            // Nothing noted yet.
            (None, (Some("7"), Some(1), 5, 9), Stop, None, true),
            // A server that does not say, then or now.
            (noted, (None, None, 5, 9), Stop, None, false),
            (noted, (None, None, 6, 9), Stop, Some("database"), false),
            (
                Some((None, None, 5, 9)),
                (None, None, 5, 9),
                Stop,
                None,
                false,
            ),
            (
                Some((None, Some(1), 5, 9)),
                (Some("7"), Some(1), 5, 9),
                Stop,
                None,
                true,
            ),
        ] {
            let found = noted_and_present(noted, present, promotions);
            let kind = found.change().map(|change| match change {
                Change::Server { .. } => "server",
                Change::Database { .. } => "database",
                Change::Tables => "tables",
                Change::Timeline { .. } => "timeline",
            });
            assert_eq!(kind, change, "{found:?}");
            assert_eq!(found.has_gaps(), gaps, "{found:?}");
        }
    }
}
