//! Logs once that the database is unavailable, and once that it is back. The same for a database that is not the pinned one.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::health::{Health, Pulse};
use crate::{
    metrics::Metrics,
    outbox::{Change, OutboxError, chain},
};

/// How often an outage that lasts is mentioned again.
const REMINDER: Duration = Duration::from_secs(60);

/// How often it is checked whether an operator has confirmed another database.
const UNCONFIRMED: Duration = Duration::from_millis(500);

/// How long to wait when other sessions were in the way.
const IN_THE_WAY: Duration = Duration::from_millis(20);

/// Shared by everything in a worker that talks to the database.
#[derive(Debug, Default)]
pub struct Outage {
    state: Mutex<Known>,
    health: Health,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Known {
    outage: Option<State>,
    /// When it was last logged that this database is not the pinned one.
    unconfirmed: Option<Instant>,
}

#[derive(Debug)]
struct State {
    since: Instant,
    /// Up to here it is counted.
    counted: Instant,
    mentioned: Instant,
    failures: u32,
}

impl Outage {
    /// Counts outages there.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }

    /// Why this worker can claim or record nothing; `None`: it can.
    pub fn unready(&self) -> Option<String> {
        self.health.unready(Instant::now())
    }

    /// Which of its loops does not turn; `None`: all do.
    pub fn wedged(&self) -> Option<String> {
        self.health.wedged(Instant::now())
    }

    /// For a loop of which the first success is a part of being ready: one that claims, or receives.
    pub(crate) fn claims(&self, what: String) -> Pulse {
        self.health.pulse(what, true)
    }

    /// For another loop.
    pub(super) fn pulse(&self, what: &str) -> Pulse {
        self.health.pulse(what, false)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call failed. Returns how long to wait before the next one: 100 ms, doubling to 5 s, the same for everyone.
    pub fn failed(&self, error: &OutboxError) -> Duration {
        self.health.failed(error);
        if let OutboxError::AnotherDatabase(change) = error {
            self.is_unconfirmed(change);
            return UNCONFIRMED;
        }
        if matches!(error, OutboxError::Conflict { .. }) {
            tracing::debug!(error = %chain(error), "tried again");
            return IN_THE_WAY;
        }
        let mut known = self.known();
        let now = Instant::now();
        let wait = |failures: u32| {
            Duration::from_millis(100)
                .saturating_mul(1 << failures.min(6))
                .min(Duration::from_secs(5))
        };
        match known.outage.as_mut() {
            None => {
                known.outage = Some(State {
                    since: now,
                    counted: now,
                    mentioned: now,
                    failures: 1,
                });
                self.metrics.database_outages.inc();
                tracing::warn!(error = %chain(error), "the database is unavailable; the worker waits for it");
                wait(0)
            }
            Some(state) => {
                state.failures = state.failures.saturating_add(1);
                // Counted while the outage lasts, so that an alert can see it grow.
                self.metrics.database_was_away(now - state.counted);
                state.counted = now;
                if now - state.mentioned >= REMINDER {
                    state.mentioned = now;
                    let away_s = (now - state.since).as_secs();
                    tracing::warn!(error = %chain(error), away_s, "the database is still unavailable");
                }
                wait(state.failures)
            }
        }
    }

    /// A call succeeded.
    pub fn over(&self) {
        let ended = self.known().outage.take();
        if let Some(state) = ended {
            self.metrics.database_was_away(state.counted.elapsed());
            let away_ms = state.since.elapsed().as_millis();
            tracing::info!(away_ms, "recovered: the database is available again");
        }
    }

    fn is_unconfirmed(&self, change: &Change) {
        self.health.changed(Some(change));
        let mut known = self.known();
        let now = Instant::now();
        if known.unconfirmed.is_none_or(|said| now - said >= REMINDER) {
            known.unconfirmed = Some(now);
            if let Change::Provider { .. } = change {
                tracing::error!(
                    %change,
                    "sending is stopped: this queue is for another provider; give each provider a database of its own, or say \
                     that it is meant with `sms-outbox resume --provider URL`"
                );
                return;
            }
            tracing::error!(
                %change,
                "sending is stopped: this is not the pinned database, and jobs that were already sent may look unsent in it; \
                 see `sms-outbox doctor`, then `sms-outbox resume --after-restore`"
            );
        }
    }

    /// This is the pinned database.
    pub fn confirmed(&self) {
        self.health.changed(None);
        if self.known().unconfirmed.take().is_some() {
            tracing::info!("resumed: an operator confirmed this database");
        }
    }
}
