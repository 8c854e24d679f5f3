//! Says once that the database is away, and once that it is back; the same for a database that is not the noted one.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    metrics::Metrics,
    outbox::{Change, OutboxError},
};

/// How often an outage that lasts is mentioned again.
const REMINDER: Duration = Duration::from_secs(60);

/// How soon it is looked again whether another database has been confirmed.
const UNCONFIRMED: Duration = Duration::from_millis(500);

/// Shared by everything in a worker that talks to the database.
#[derive(Debug, Default)]
pub struct Outage {
    state: Mutex<Known>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Known {
    outage: Option<State>,
    /// When a call last succeeded.
    reached: Option<Instant>,
    /// When it was said last that this database is another than the noted one.
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
            state: Mutex::default(),
            metrics,
        }
    }

    /// When the database last did what it was asked.
    pub fn last_reached(&self) -> Option<Instant> {
        self.known().reached
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call failed. Returns how long to wait before the next one: 100 ms, doubling to 5 s, the same for everyone.
    pub fn failed(&self, error: &OutboxError) -> Duration {
        if let OutboxError::Unconfirmed(change) = error {
            self.is_unconfirmed(change);
            return UNCONFIRMED;
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
                tracing::warn!(error = %chain(error), "the database cannot be used; waiting for it");
                wait(0)
            }
            Some(state) => {
                state.failures = state.failures.saturating_add(1);
                // While it lasts, so that whoever watches sees it grow.
                self.metrics.database_was_away(now - state.counted);
                state.counted = now;
                if now - state.mentioned >= REMINDER {
                    state.mentioned = now;
                    let away_s = (now - state.since).as_secs();
                    tracing::warn!(error = %chain(error), away_s, "the database still cannot be used");
                }
                wait(state.failures)
            }
        }
    }

    /// A call succeeded.
    pub fn over(&self) {
        let ended = {
            let mut known = self.known();
            known.reached = Some(Instant::now());
            known.outage.take()
        };
        if let Some(state) = ended {
            self.metrics.database_was_away(state.counted.elapsed());
            let away_ms = state.since.elapsed().as_millis();
            tracing::info!(away_ms, "the database is back");
        }
    }

    fn is_unconfirmed(&self, change: &Change) {
        let mut known = self.known();
        // It answers; that it is the wrong one is no reason to restart a worker.
        let now = Instant::now();
        known.reached = Some(now);
        if known.unconfirmed.is_none_or(|said| now - said >= REMINDER) {
            known.unconfirmed = Some(now);
            tracing::error!(
                %change,
                "nothing is sent: this is not the database that the queue was noted in, and may have forgotten what was sent; \
                 see `sms-outbox doctor`, then `sms-outbox resume --after-restore`"
            );
        }
    }

    /// This is the database that was noted.
    pub fn confirmed(&self) {
        if self.known().unconfirmed.take().is_some() {
            tracing::info!("sending again: the database has been confirmed");
        }
    }
}

/// An error and everything that caused it, in one line.
///
/// Where the database complains about a row, its own words are left out: they may quote what the row holds (a trigger of the
/// application's, a value that does not fit), and a row holds numbers and texts. The code and the constraint are enough to
/// find it.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = own_words(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = own_words(error);
        // Some drivers repeat their cause in their own words.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = if is_about_a_row(error).is_some() {
            None
        } else {
            error.source()
        };
    }
    text
}

fn own_words(error: &(dyn std::error::Error + 'static)) -> String {
    is_about_a_row(error).unwrap_or_else(|| error.to_string())
}

fn is_about_a_row(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let Some(sqlx::Error::Database(error)) = error.downcast_ref::<sqlx::Error>() else {
        return None;
    };
    let code = error.code().filter(|code| {
        ["22", "23", "P0"]
            .iter()
            .any(|class| code.starts_with(class))
    })?;
    let constraint = error
        .constraint()
        .map(|name| format!(", constraint {name}"))
        .unwrap_or_default();
    Some(format!("the row was refused (SQLSTATE {code}{constraint})"))
}
