//! Whether this is still the database that the queue was written in. A restored backup, a promoted standby and a copy for
//! staging hold jobs that were sent from elsewhere meanwhile; nothing in their rows shows it.
//!
//! What does: the server's system identifier (another after a dump was restored elsewhere), the timeline (another after a
//! promotion or a point-in-time recovery), the database's oid (another in a copy) and that of the table (another after a dump
//! was restored over it). All of them are pinned in the one row of
//! `sms_outbox.database_identity`, and are compared on every connection that a worker makes, about once a second, and behind a
//! pooler with every claim. While they differ nothing is claimed, until a person says that it may be.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Outbox, OutboxError};

/// The pinned database identity, and the present one.
#[derive(Clone, Debug, FromRow)]
pub struct DatabaseIdentity {
    pinned_system_identifier: Option<String>,
    pinned_timeline: Option<i32>,
    pinned_database_oid: Option<i64>,
    pinned_database_name: Option<String>,
    pinned_jobs_oid: Option<i64>,
    promotions: Option<String>,
    /// Who pinned it; `None`: nothing is pinned yet.
    pub pinned_by: Option<String>,
    /// When it was pinned.
    pub pinned_at: Option<String>,
    system_identifier: Option<String>,
    timeline: Option<i32>,
    database_oid: i64,
    database_name: String,
    jobs_oid: i64,
    /// Whether the server is a standby. It has no timeline of its own yet, and will have once it is promoted.
    pub standby: bool,
}

/// How the present database differs from the pinned one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another server.
    Server {
        /// The pinned system identifier.
        pinned: String,
        /// The present one.
        present: String,
    },
    /// Another database of the same server.
    Database {
        /// The name of the pinned one.
        pinned: String,
        /// The name of this one.
        present: String,
    },
    /// Other tables in the same database.
    Tables,
    /// Another history of the same database.
    Timeline {
        /// The pinned one.
        pinned: i32,
        /// The present one.
        present: i32,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { pinned, present } => write!(
                f,
                "the server is another one (system identifier {present}, pinned {pinned}): a backup or a copy was restored \
                 here, or it was upgraded with pg_upgrade"
            ),
            Self::Database { pinned, present } if pinned == present => write!(
                f,
                "the database {present:?} is another one of the same name: it was dropped, and restored or copied"
            ),
            Self::Database { pinned, present } => {
                write!(f, "the database is a copy ({present:?}, pinned {pinned:?})")
            }
            Self::Tables => f.write_str(
                "the table sms_outbox.jobs is another one: a backup was restored over it",
            ),
            Self::Timeline { pinned, present } => write!(
                f,
                "the server's history has branched (timeline {present}, pinned {pinned}): a standby was promoted, or a base \
                 backup restored"
            ),
        }
    }
}

/// What a new timeline means when nothing else has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotions {
    /// Nothing is sent until a person has confirmed it.
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

impl DatabaseIdentity {
    /// What has changed; `None`: nothing, or nothing that can be seen.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        if let (Some(pinned), Some(present)) =
            (&self.pinned_system_identifier, &self.system_identifier)
            && pinned != present
        {
            return Some(Change::Server {
                pinned: pinned.clone(),
                present: present.clone(),
            });
        }
        if let Some(pinned) = self.pinned_database_oid
            && pinned != self.database_oid
        {
            return Some(Change::Database {
                pinned: self.pinned_database_name.clone().unwrap_or_default(),
                present: self.database_name.clone(),
            });
        }
        if self
            .pinned_jobs_oid
            .is_some_and(|pinned| pinned != self.jobs_oid)
        {
            return Some(Change::Tables);
        }
        match (self.pinned_timeline, self.timeline) {
            (Some(pinned), Some(present))
                if pinned != present && self.promotions() == Promotions::Stop =>
            {
                Some(Change::Timeline { pinned, present })
            }
            _ => None,
        }
    }

    /// What a new timeline means here when nothing else has changed.
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

    /// Whether something is not pinned yet that can be.
    fn has_gaps(&self) -> bool {
        self.pinned_database_oid.is_none()
            || (self.pinned_system_identifier.is_none() && self.system_identifier.is_some())
            || (self.pinned_timeline.is_none() && self.timeline.is_some())
    }
}

/// What was seen last, shared by all who use the outbox.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<Mutex<Latest>>);

/// Comparisons run side by side, and a slow one must not hide what a later one has found.
#[derive(Debug, Default)]
struct Latest {
    /// How many comparisons have begun.
    begun: u64,
    /// Which of them `seen` comes from.
    of: u64,
    seen: Seen,
}

#[derive(Clone, Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    AsPinned,
    Standby,
    Changed(Change),
}

impl Watch {
    /// Compares on this connection.
    pub(super) async fn look(
        &self,
        connection: &mut PgConnection,
    ) -> Result<DatabaseIdentity, sqlx::Error> {
        let number = {
            let mut latest = self.latest();
            latest.begun += 1;
            latest.begun
        };
        // In one message without a statement that would stay behind: poolers like it, and so does the round trip.
        let looked = sqlx::raw_sql(include_str!("identity.sql"))
            .fetch_one(connection)
            .await
            .and_then(|row| DatabaseIdentity::from_row(&row));
        let seen = looked.as_ref().map_or(Seen::Nothing, Seen::of);
        self.latest().note(number, seen);
        looked
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> Seen {
        self.latest().seen.clone()
    }
}

impl Latest {
    fn note(&mut self, number: u64, seen: Seen) {
        if number > self.of {
            self.of = number;
            self.seen = seen;
        }
    }
}

impl Seen {
    fn of(found: &DatabaseIdentity) -> Self {
        match found.change() {
            Some(change) => Self::Changed(change),
            None if found.standby => Self::Standby,
            None => Self::AsPinned,
        }
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
    /// As [`call`](Self::call), but only in the pinned database.
    pub(super) async fn call_where_pinned<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error> + Clone,
    ) -> Result<T, OutboxError> {
        self.call(doing, async |connection| {
            let mut seen = self.watch.seen();
            // A connection of our own was asked when it was made, and leads to one server for as long as it lasts. (A standby
            // keeps its connections when it is promoted.)
            if self.ways.is_shared() || matches!(seen, Seen::Nothing | Seen::Standby) {
                // This connection's own answer: behind a pooler the next one may lead elsewhere.
                seen = Seen::of(&self.watch.look(connection).await?);
            }
            match seen {
                Seen::Changed(change) => Ok(Err(OutboxError::AnotherDatabase(change))),
                Seen::Standby => Ok(Err(OutboxError::Standby)),
                Seen::Nothing | Seen::AsPinned => work(connection).await.map(Ok),
            }
        })
        .await?
    }

    /// The pinned database identity, and the present one.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn identity(&self) -> Result<DatabaseIdentity, OutboxError> {
        self.call(
            "comparing the database with the pinned one",
            async |connection| self.watch.look(connection).await,
        )
        .await
    }

    /// Makes sure that this is the pinned database; pins it if none is.
    ///
    /// # Errors
    /// [`OutboxError::AnotherDatabase`] if it is another, [`OutboxError::Standby`] if that cannot be told yet; otherwise when
    /// the database cannot be reached or refuses.
    pub async fn verify_identity(&self, by: &str) -> Result<(), OutboxError> {
        let found = self.identity().await?;
        if let Some(change) = found.change() {
            return Err(OutboxError::AnotherDatabase(change));
        }
        if found.standby {
            return Err(OutboxError::Standby);
        }
        if found.has_gaps() {
            self.call("pinning the database identity", async |connection| {
                sqlx::query(include_str!("pin_identity.sql"))
                    .bind(by)
                    .persistent(false)
                    .execute(connection)
                    .await
            })
            .await?;
        }
        Ok(())
    }

    /// Pins the present database as the one to send from; workers go on within about a second.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn confirm_identity(
        &self,
        by: &str,
        promotions: Option<Promotions>,
    ) -> Result<(), OutboxError> {
        self.call("pinning the database identity", async |connection| {
            sqlx::query(include_str!("confirm_identity.sql"))
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

    /// Makes up to `at_most` queued jobs uncertain that were due by `moment`; returns their ids.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn waiting_to_uncertain(
        &self,
        moment: DateTime<Utc>,
        at_most: usize,
    ) -> Result<Vec<Uuid>, OutboxError> {
        self.call("making waiting jobs uncertain", async |connection| {
            sqlx::query_scalar(include_str!("waiting_to_uncertain.sql"))
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

    fn pinned_and_present(
        pinned: Option<(Option<&str>, Option<i32>, i64, i64)>,
        present: (Option<&str>, Option<i32>, i64, i64),
        promotions: Promotions,
    ) -> DatabaseIdentity {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        DatabaseIdentity {
            pinned_system_identifier: pinned.and_then(|pinned| owned(pinned.0)),
            pinned_timeline: pinned.and_then(|pinned| pinned.1),
            pinned_database_oid: pinned.map(|pinned| pinned.2),
            pinned_jobs_oid: pinned.map(|pinned| pinned.3),
            pinned_database_name: pinned.map(|_| "app".to_owned()),
            promotions: pinned.map(|_| promotions.as_str().to_owned()),
            pinned_by: pinned.map(|_| "migrate".to_owned()),
            pinned_at: None,
            system_identifier: owned(present.0),
            timeline: present.1,
            database_oid: present.2,
            database_name: "app".to_owned(),
            jobs_oid: present.3,
            standby: false,
        }
    }

    #[test]
    fn a_slow_comparison_hides_nothing_that_a_later_one_has_found() {
        let watch = Watch::default();
        watch.latest().note(2, Seen::Changed(Change::Tables));
        watch.latest().note(1, Seen::AsPinned);
        assert!(matches!(watch.seen(), Seen::Changed(Change::Tables)));
        watch.latest().note(3, Seen::AsPinned);
        assert!(matches!(watch.seen(), Seen::AsPinned));
    }

    #[test]
    fn what_differs_is_a_change_and_what_is_not_said_is_none() {
        use Promotions::{GoOn, Stop};
        let pinned = Some((Some("7"), Some(1), 5, 9));
        for (pinned, present, promotions, change, gaps) in [
            (pinned, (Some("7"), Some(1), 5, 9), Stop, None, false),
            (
                pinned,
                (Some("8"), Some(1), 5, 9),
                Stop,
                Some("server"),
                false,
            ),
            // Whoever trusts promotions does not trust copies.
            (
                pinned,
                (Some("8"), Some(2), 6, 9),
                GoOn,
                Some("server"),
                false,
            ),
            (
                pinned,
                (Some("7"), Some(1), 6, 9),
                GoOn,
                Some("database"),
                false,
            ),
            (
                pinned,
                (Some("7"), Some(2), 5, 9),
                Stop,
                Some("timeline"),
                false,
            ),
            (pinned, (Some("7"), Some(2), 5, 9), GoOn, None, false),
            (
                pinned,
                (Some("7"), Some(1), 5, 8),
                GoOn,
                Some("tables"),
                false,
            ),
            // Nothing pinned yet.
            (None, (Some("7"), Some(1), 5, 9), Stop, None, true),
            // A server that does not say, then or now.
            (pinned, (None, None, 5, 9), Stop, None, false),
            (pinned, (None, None, 6, 9), Stop, Some("database"), false),
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
            let found = pinned_and_present(pinned, present, promotions);
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
