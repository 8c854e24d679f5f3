//! Connections that were used a moment ago, and are used again as they are.
//!
//! A pool asks a connection twice between two uses: whether it still answers, when it is released, and whether a
//! transaction was left open on it, when it is taken out. Under load that is four round trips for every batch of jobs, where
//! two would do. Here only [`Outbox::call`](super::Outbox) puts connections in and takes them out, after a call without an
//! error, so nobody else can have left anything on them; and those that lay idle go back to the pool, to be asked.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Postgres, pool::PoolConnection};

use super::give_back;

/// How long a connection may lie idle and still be used unasked.
const WARM_FOR: Duration = Duration::from_millis(500);
/// As many calls of a worker hardly ever run at once. The pool keeps connections for others.
const MOST: usize = 3;

/// The connections, the one that was used last on top.
#[derive(Clone, Debug, Default)]
pub(super) struct Warm(Arc<Mutex<Vec<Kept>>>);

#[derive(Debug)]
struct Kept {
    connection: PoolConnection<Postgres>,
    since: Instant,
}

impl Warm {
    pub(super) fn take(&self) -> Option<PoolConnection<Postgres>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cold = kept
            .iter()
            .take_while(|kept| kept.since.elapsed() >= WARM_FOR)
            .count();
        let cold: Vec<Kept> = kept.drain(..cold).collect();
        let taken = kept.pop();
        drop(kept);
        for kept in cold {
            give_back(kept.connection);
        }
        taken.map(|kept| kept.connection)
    }

    pub(super) fn keep(&self, connection: PoolConnection<Postgres>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST {
            let since = Instant::now();
            kept.push(Kept { connection, since });
        } else {
            drop(kept);
            give_back(connection);
        }
    }
}
