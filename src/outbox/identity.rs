//! Whether this is still the database that the queue was written in. A restored backup, a promoted standby and a copy for
//! staging hold jobs that were sent from elsewhere meanwhile; nothing in their rows shows it.
//!
//! What does: the server's system identifier (another after a dump was restored elsewhere), the timeline (another after a
//! promotion or a point-in-time recovery), the database's oid (another in a copy) and that of the table (another after a dump
//! was restored over it). All of them are pinned in the one row of
//! `sms_outbox.database_identity`, and are compared on every connection that a worker makes, about once a second, and behind a
//! pooler with every claim. While they differ nothing is claimed, until a person says that it may be.
//!
//! The provider that the queue is for stands in the same row: two workers of which one talks to the sandbox and one to people
//! would share what was meant for one of them.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Outbox, OutboxError, millis};

/// The pinned database identity, and the present one.
#[derive(Clone, Debug, FromRow)]
pub struct DatabaseIdentity {
    pinned_system_identifier: Option<String>,
    pinned_timeline: Option<i32>,
    pinned_database_oid: Option<i64>,
    pinned_database_name: Option<String>,
    pinned_jobs_oid: Option<i64>,
    promotions: Option<String>,
    /// Scheme, host and port of the provider that the queue is for; `None`: no worker has been here yet.
    pub pinned_provider: Option<String>,
    /// Whether the next promotion was announced as meant.
    pub promotion_meant: bool,
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
    /// The same queue, and a worker that would send to another provider.
    Provider {
        /// The one that the queue is for.
        pinned: String,
        /// The one that the worker was told.
        present: String,
    },
}

impl Change {
    /// The options of `sms-outbox resume` by which a person says that it is meant.
    #[must_use]
    pub const fn meant_by(&self) -> &'static str {
        match self {
            Self::Server { .. } | Self::Database { .. } | Self::Tables | Self::Timeline { .. } => {
                "--after-restore"
            }
            Self::Provider { .. } => "--provider URL",
        }
    }
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
            Self::Provider { pinned, present } => write!(
                f,
                "the queue is for the provider at {pinned}, and ILETIMERKEZI_BASE_URL names {present}"
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
                if pinned != present
                    && self.promotions() == Promotions::Stop
                    && !self.is_meant_promotion() =>
            {
                Some(Change::Timeline { pinned, present })
            }
            _ => None,
        }
    }

    /// Whether the queue is for another provider than `ours` (scheme, host and port).
    #[must_use]
    pub fn other_provider(&self, ours: &str) -> Option<Change> {
        let pinned = self
            .pinned_provider
            .as_deref()
            .filter(|pinned| *pinned != ours)?;
        Some(Change::Provider {
            pinned: pinned.to_owned(),
            present: ours.to_owned(),
        })
    }

    /// Whether the timeline is a later one, and was announced.
    fn is_meant_promotion(&self) -> bool {
        self.promotion_meant && self.timeline > self.pinned_timeline
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

/// Who watches, and for which provider.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// The worker's name.
    pub worker: Arc<str>,
    /// Scheme, host and port of the provider that it was told.
    pub provider: Arc<str>,
}

/// What was seen last, shared by all who use the outbox.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    latest: Arc<Mutex<Latest>>,
    watcher: Option<Watcher>,
}

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
    /// As pinned, but something is to be written down before anything is sent.
    Unpinned,
    Standby,
    Changed(Change),
}

impl Watch {
    pub(super) fn new(watcher: Option<Watcher>) -> Self {
        Self {
            latest: Arc::default(),
            watcher,
        }
    }

    /// What this worker makes of it.
    fn judge(&self, found: &DatabaseIdentity) -> Seen {
        let provider = self.watcher.as_ref().map(|watcher| &*watcher.provider);
        let change = found
            .change()
            .or_else(|| provider.and_then(|ours| found.other_provider(ours)));
        match change {
            Some(change) => Seen::Changed(change),
            None if found.standby => Seen::Standby,
            None if found.is_meant_promotion()
                || (provider.is_some() && found.pinned_provider.is_none()) =>
            {
                Seen::Unpinned
            }
            None => Seen::AsPinned,
        }
    }

    /// Compares on this connection, and writes down what is missing; says what is to be made of it.
    async fn look_and_pin(&self, connection: &mut PgConnection) -> Result<Seen, sqlx::Error> {
        let found = self.look(connection).await?;
        let seen = self.judge(&found);
        let is_pinned = match &seen {
            Seen::AsPinned => !found.has_gaps(),
            Seen::Unpinned => false,
            Seen::Nothing | Seen::Standby | Seen::Changed(_) => true,
        };
        if is_pinned {
            return Ok(seen);
        }
        let watcher = self.watcher.as_ref();
        sqlx::query(include_str!("pin_identity.sql"))
            .bind(watcher.map_or("a worker", |watcher| &watcher.worker))
            .bind(watcher.map(|watcher| &*watcher.provider))
            .persistent(false)
            .execute(&mut *connection)
            .await?;
        // Another worker may have been first, with another provider.
        let found = self.look(connection).await?;
        Ok(self.judge(&found))
    }

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
        let seen = looked
            .as_ref()
            .map_or(Seen::Nothing, |found| self.judge(found));
        self.latest().note(number, seen);
        looked
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
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
            if self.ways.is_shared()
                || matches!(seen, Seen::Nothing | Seen::Unpinned | Seen::Standby)
            {
                // This connection's own answer: behind a pooler the next one may lead elsewhere.
                seen = self.watch.look_and_pin(connection).await?;
            }
            match seen {
                Seen::Changed(change) => Ok(Err(OutboxError::AnotherDatabase(change))),
                Seen::Standby => Ok(Err(self.standby())),
                Seen::Nothing | Seen::Unpinned | Seen::AsPinned => work(connection).await.map(Ok),
            }
        })
        .await?
    }

    /// Another server of the address may be the primary by now.
    fn standby(&self) -> OutboxError {
        self.ways.suspect();
        OutboxError::Standby
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

    /// Makes sure that this is the pinned database, and the queue that of our provider; pins what is not pinned yet.
    ///
    /// # Errors
    /// [`OutboxError::AnotherDatabase`] if it is another, [`OutboxError::Standby`] if that cannot be told yet; otherwise when
    /// the database cannot be reached or refuses.
    pub async fn verify_identity(&self) -> Result<(), OutboxError> {
        let seen = self
            .call(
                "comparing the database with the pinned one",
                async |connection| self.watch.look_and_pin(connection).await,
            )
            .await?;
        match seen {
            Seen::Changed(change) => Err(OutboxError::AnotherDatabase(change)),
            Seen::Standby => Err(self.standby()),
            Seen::Nothing | Seen::Unpinned | Seen::AsPinned => Ok(()),
        }
    }

    /// Lets workers go on after one promotion, if it comes within this time. `false`: nothing is pinned here yet.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn mean_promotion(&self, within: Duration) -> Result<bool, OutboxError> {
        let done = self
            .call("announcing a promotion", async |connection| {
                sqlx::query(include_str!("mean_promotion.sql"))
                    .bind(millis(within))
                    .persistent(false)
                    .execute(connection)
                    .await
            })
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Says which provider the queue is for: scheme, host and port. Workers with that one go on within about a second, workers
    /// with another stop claiming.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn name_provider(&self, by: &str, provider: &str) -> Result<(), OutboxError> {
        self.call("naming the provider", async |connection| {
            sqlx::query(include_str!("name_provider.sql"))
                .bind(by)
                .bind(provider)
                .persistent(false)
                .execute(connection)
                .await
        })
        .await
        .map(drop)
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
            pinned_provider: None,
            promotion_meant: false,
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
                Change::Provider { .. } => "provider",
            });
            assert_eq!(kind, change, "{found:?}");
            assert_eq!(found.has_gaps(), gaps, "{found:?}");
        }
    }

    #[test]
    fn a_promotion_that_was_announced_is_no_change_and_anything_else_still_is() {
        let pinned = Some((Some("7"), Some(2), 5, 9));
        for (present, is_change) in [
            ((Some("7"), Some(3), 5, 9), false),
            ((Some("7"), Some(5), 5, 9), false),
            ((Some("7"), Some(1), 5, 9), true),
            ((Some("8"), Some(3), 5, 9), true),
            ((Some("7"), Some(3), 6, 9), true),
        ] {
            let mut found = pinned_and_present(pinned, present, Promotions::Stop);
            found.promotion_meant = true;
            assert_eq!(found.change().is_some(), is_change, "{found:?}");
            let watch = Watch::default();
            let seen = watch.judge(&found);
            assert_eq!(matches!(seen, Seen::Unpinned), !is_change, "{seen:?}");
        }
    }

    #[test]
    fn a_queue_is_for_one_provider_which_the_first_worker_writes_down() {
        let watcher = |provider: &str| Watcher {
            worker: "w".into(),
            provider: provider.into(),
        };
        let pinned = Some((Some("7"), Some(1), 5, 9));
        let mut found = pinned_and_present(pinned, (Some("7"), Some(1), 5, 9), Promotions::Stop);
        let ours = Watch::new(Some(watcher("https://one")));
        assert!(matches!(ours.judge(&found), Seen::Unpinned));
        assert!(
            matches!(Watch::default().judge(&found), Seen::AsPinned),
            "no worker"
        );
        found.pinned_provider = Some("https://one".to_owned());
        assert!(matches!(ours.judge(&found), Seen::AsPinned));
        let other = Watch::new(Some(watcher("http://sandbox:8025")));
        assert!(matches!(
            other.judge(&found),
            Seen::Changed(Change::Provider { .. })
        ));
    }
}
