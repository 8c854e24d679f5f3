//! Several servers under one address, of which one accepts writes: a primary and its standbys.
//!
//! Which one it is is asked before the first connection, and again whenever a call has failed in a way that another server could
//! not: each of them at once, so that one that has fallen silent holds up nothing.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use sqlx::{ConnectOptions as _, Connection, Executor, PgPool, Row, postgres::PgConnectOptions};

/// The longest that one server may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(3);
/// What has just been asked is not asked again.
const FRESH: Duration = Duration::from_millis(500);
/// After so long without a connection or an answer it is asked whether another server has become the one.
const SUSPICIOUS: Duration = Duration::from_secs(1);

/// The servers, and which of them is used.
pub(super) struct Servers {
    /// For connections that are sessions of their own, and for those that ask for nothing.
    own: Vec<PgConnectOptions>,
    shared: Vec<PgConnectOptions>,
    used: AtomicUsize,
    is_suspected: AtomicBool,
    /// When they were asked last. Whoever asks at the same time waits for the same answer.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options hold a password.
        f.debug_struct("Servers")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Servers {
    /// `None`: there is only one, and nothing to choose.
    pub(super) fn new(own: &[PgConnectOptions], shared: &[PgConnectOptions]) -> Option<Self> {
        (shared.len() > 1).then(|| Self {
            own: own.to_vec(),
            shared: shared.to_vec(),
            used: AtomicUsize::new(0),
            is_suspected: AtomicBool::new(true),
            asked: tokio::sync::Mutex::default(),
        })
    }

    /// A call failed in a way that another server could not.
    pub(super) fn suspect(&self) {
        self.is_suspected.store(true, Ordering::Release);
    }

    /// Before a connection is taken out: makes sure that new ones lead to the right server, where that is not sure.
    pub(super) async fn settle(&self, own: &PgPool, shared: &PgPool) {
        if self.is_suspected.load(Ordering::Acquire) {
            self.choose(own, shared).await;
        }
    }

    /// While a connection, or an answer, is waited for that may never come. Ends when it is to be asked for anew, because another
    /// server is used now.
    pub(super) async fn moved(&self, own: &PgPool, shared: &PgPool) {
        let before = self.used.load(Ordering::Acquire);
        loop {
            tokio::time::sleep(SUSPICIOUS).await;
            self.choose(own, shared).await;
            if self.used.load(Ordering::Acquire) != before {
                return;
            }
        }
    }

    /// Asks each of them; new connections lead to the one that accepts writes.
    async fn choose(&self, own: &PgPool, shared: &PgPool) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < FRESH) {
            return;
        }
        let found = writable(&self.shared).await;
        *asked = Some(Instant::now());
        let Some(found) = found else {
            // It stays with the last one, whose errors say the most.
            return;
        };
        self.is_suspected.store(false, Ordering::Release);
        own.set_connect_options(self.own[found].clone());
        shared.set_connect_options(self.shared[found].clone());
        if self.used.swap(found, Ordering::AcqRel) == found {
            return;
        }
        let server = &self.shared[found];
        tracing::info!(
            server = format!("{}:{}", server.get_host(), server.get_port()),
            "another server of DATABASE_URL accepts writes, and is used"
        );
        for pool in [own, shared] {
            while let Some(connection) = pool.try_acquire() {
                drop(connection.detach());
            }
        }
    }
}

/// Which of them accepts writes: the first to say so.
pub(super) async fn writable(servers: &[PgConnectOptions]) -> Option<usize> {
    let mut asked: FuturesUnordered<_> = servers
        .iter()
        .enumerate()
        .map(|(place, server)| async move {
            let said = tokio::time::timeout(PATIENCE, accepts_writes(server)).await;
            matches!(said, Ok(Ok(true))).then_some(place)
        })
        .collect();
    while let Some(said) = asked.next().await {
        if said.is_some() {
            return said;
        }
    }
    None
}

async fn accepts_writes(server: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let mut connection = server.connect().await?;
    let read_only = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'";
    let read_only: bool = connection.fetch_one(read_only).await?.try_get(0)?;
    connection.close().await.ok();
    Ok(!read_only)
}
