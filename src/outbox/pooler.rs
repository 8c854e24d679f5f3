//! Two ways to reach the database, and the choice between them: with a session of our own, or through a pooler such as
//! PgBouncer in transaction mode, which lends a server process for one transaction at a time.
//!
//! Nobody has to know which it is. A session of our own begins with settings that every connection asks for; a pooler has
//! nowhere to keep them. PgBouncer refuses the connection because of them or, told to ignore them
//! (`ignore_startup_parameters`), drops them, so that a mark among them does not come back. Each new connection is asked for
//! the mark before it is used, which costs nothing later: a pooler that is put in between while a worker runs is noticed too.
//!
//! The way through a pooler also works without one, and with one in session mode; it only takes more round trips.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, Ordering},
};

use sqlx::{Executor, PgConnection, PgPool, Postgres, Row, pool::PoolConnection};

use super::servers::Servers;

/// Whether a pooler that shares server processes stands between this program and the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PgBouncer {
    /// It is found out when a connection is made.
    #[default]
    Auto,
    /// There is one.
    Between,
    /// There is none.
    Absent,
}

/// The setting that carries the mark. Only this program reads it.
pub(super) const MARK: &str = "sms_outbox.session";

/// This process's own, so that nobody's configuration can give it by chance.
pub(super) fn mark() -> &'static str {
    static OURS: LazyLock<String> = LazyLock::new(|| uuid::Uuid::now_v7().simple().to_string());
    &OURS
}

/// Whether the session on this connection is the one that was asked for when it was made.
pub(super) async fn holds_a_session(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let marked = connection
        .fetch_one("SELECT current_setting('sms_outbox.session', true)")
        .await?;
    Ok(marked.try_get::<Option<String>, _>(0)?.as_deref() == Some(mark()))
}

/// Whether a connection failed because it asked for settings that a pooler would have to keep per client.
pub(super) fn refuses_settings(error: &sqlx::Error) -> bool {
    // PgBouncer's own words; its code, 08P01, stands for much else.
    error
        .as_database_error()
        .is_some_and(|error| error.message().contains("startup parameter"))
}

/// One pool for each way.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    /// Connections that are sessions of our own.
    own: PgPool,
    /// Connections that ask for nothing.
    shared: PgPool,
    /// Whether `own` may turn out to be the wrong way.
    is_open: bool,
    /// Whether a pooler was met, or is known to be there. Never unset: see above.
    met: Arc<AtomicBool>,
    /// Where the address names several.
    servers: Option<Arc<Servers>>,
}

impl Ways {
    pub(super) fn new(
        told: PgBouncer,
        own: impl FnOnce(Arc<AtomicBool>) -> PgPool,
        shared: PgPool,
        servers: Option<Servers>,
    ) -> Self {
        let met = Arc::new(AtomicBool::new(told == PgBouncer::Between));
        Self {
            own: own(Arc::clone(&met)),
            shared,
            is_open: told == PgBouncer::Auto,
            met,
            servers: servers.map(Arc::new),
        }
    }

    /// A pool that was made elsewhere, for connections of their own.
    pub(super) fn given(pool: PgPool) -> Self {
        Self {
            own: pool.clone(),
            shared: pool,
            is_open: false,
            met: Arc::new(AtomicBool::new(false)),
            servers: None,
        }
    }

    /// Whether a connection may lose its server process between two statements.
    pub(super) fn is_shared(&self) -> bool {
        self.met.load(Ordering::Acquire)
    }

    pub(super) fn pool(&self) -> &PgPool {
        if self.is_shared() {
            &self.shared
        } else {
            &self.own
        }
    }

    /// A call failed in a way that another server of the address could not.
    pub(super) fn suspect(&self) {
        if let Some(servers) = &self.servers {
            servers.suspect();
        }
    }

    /// Ends when another server of the address is used than now: an answer of this one need not be waited for.
    pub(super) async fn moved(&self) {
        match &self.servers {
            Some(servers) => servers.moved(&self.own, &self.shared).await,
            None => std::future::pending().await,
        }
    }

    /// A connection, and whether it may lose its server process between two statements.
    pub(super) async fn acquire(&self) -> Result<(PoolConnection<Postgres>, bool), sqlx::Error> {
        let Some(servers) = &self.servers else {
            return self.acquire_here().await;
        };
        servers.settle(&self.own, &self.shared).await;
        tokio::select! {
            acquired = self.acquire_here() => return acquired,
            () = self.moved() => {}
        }
        self.acquire_here().await
    }

    async fn acquire_here(&self) -> Result<(PoolConnection<Postgres>, bool), sqlx::Error> {
        if !self.is_shared() {
            match self.own.acquire().await {
                // Made a moment ago, and what answered was a pooler. (Or another one was; then this one is lost for nothing.)
                Ok(connection) if self.is_shared() => drop(connection.detach()),
                Ok(connection) => return Ok((connection, false)),
                Err(error) if self.is_open && refuses_settings(&error) => note(&self.met),
                Err(error) => return Err(error),
            }
        }
        Ok((self.shared.acquire().await?, true))
    }
}

fn note(met: &AtomicBool) {
    if !met.swap(true, Ordering::AcqRel) {
        tracing::info!("a pooler that shares sessions stands in between: no session state is used");
    }
}

/// Makes a new connection prove that its session is its own; sets `met` when it cannot.
pub(super) async fn ask_for_the_mark(
    connection: &mut PgConnection,
    met: &AtomicBool,
) -> Result<(), sqlx::Error> {
    match holds_a_session(connection).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            note(met);
            Ok(())
        }
        // It answered, but not the question: not to be used without the answer.
        Err(error @ sqlx::Error::Database(_)) => Err(error),
        // The connection is broken; its first call fails and reports that.
        Err(_) => Ok(()),
    }
}
