//! Whether a worker does what it is for: claims and records each succeed, and its loops turn. Not whether any call has succeeded
//! lately: one that is allowed says nothing about another that is not.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use crate::outbox::{Change, OutboxError, chain};

/// A claim, or a record, that has been refused or has hung for longer is told.
const LONG: Duration = Duration::from_secs(10);
/// Each call has a deadline, of 20 s together with waiting for a connection: one that is under way for longer never ends.
const LONGEST_CALL: Duration = Duration::from_secs(60);
/// A round of a loop may make many calls, of which each may take its deadline.
const LONGEST_ROUND: Duration = Duration::from_secs(180);
/// A privilege that was missed is missing still, until it has not been missed for so long.
const MISSED_LATELY: Duration = Duration::from_secs(60);

/// What all loops of a worker say of themselves.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Those of loops that have ended are gone.
    loops: Vec<Weak<Mutex<State>>>,
    missing: Option<(Instant, String)>,
    change: Option<Change>,
}

#[derive(Debug)]
struct State {
    what: String,
    turned: Instant,
    calling: Option<Instant>,
    /// Since the first call that failed began, and why the last one failed.
    failing: Option<(Instant, String)>,
    /// Whether it has to have succeeded once before the worker is ready.
    owes_success: bool,
}

/// One loop's own; it is forgotten when this is dropped.
#[derive(Debug)]
pub(crate) struct Pulse(Arc<Mutex<State>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulse {
    /// A call begins; or what could not be done is tried again.
    pub(crate) fn begins(&self) {
        let now = Instant::now();
        let mut state = lock(&self.0);
        state.calling = Some(now);
        state.turned = now;
    }

    /// It succeeded, and nothing is left that has failed.
    pub(crate) fn succeeded(&self) {
        let mut state = lock(&self.0);
        state.calling = None;
        state.failing = None;
        state.owes_success = false;
        state.turned = Instant::now();
    }

    /// It failed, and is tried again later.
    pub(crate) fn failed(&self, error: &OutboxError) {
        let now = Instant::now();
        let mut state = lock(&self.0);
        let began = state.calling.take().unwrap_or(now);
        let since = state.failing.take().map_or(began, |(since, _)| since);
        state.failing = Some((since, chain(error)));
        state.turned = now;
    }
}

impl Health {
    /// A loop whose first success is a part of being ready (claims), or not (records, of which there may be none).
    pub(super) fn pulse(&self, what: impl Into<String>, owes_success: bool) -> Pulse {
        let state = Arc::new(Mutex::new(State {
            what: what.into(),
            turned: Instant::now(),
            calling: None,
            failing: None,
            owes_success,
        }));
        lock(&self.0).loops.push(Arc::downgrade(&state));
        Pulse(state)
    }

    /// Any call failed.
    pub(super) fn failed(&self, error: &OutboxError) {
        if error.is_about_privileges() {
            lock(&self.0).missing = Some((Instant::now(), chain(error)));
        }
    }

    /// This is not the pinned database, or not the queue of this provider; `None`: it is.
    pub(super) fn changed(&self, change: Option<&Change>) {
        lock(&self.0).change = change.cloned();
    }

    /// Why nothing can be claimed or recorded; `None`: it can.
    pub(super) fn unready(&self, now: Instant) -> Option<String> {
        let known = lock(&self.0);
        if let Some(change) = &known.change {
            return Some(format!(
                "Nothing is sent from this database, because {change}."
            ));
        }
        if let Some((when, why)) = &known.missing
            && now.saturating_duration_since(*when) <= MISSED_LATELY
        {
            return Some(format!("A privilege is missing: {why}."));
        }
        let loops: Vec<_> = known.loops.iter().filter_map(Weak::upgrade).collect();
        drop(known);
        if loops.is_empty() {
            return Some("Nothing is claimed: the worker is starting or stopping.".to_owned());
        }
        let failing = loops.iter().find_map(|state| lock(state).failing_for(now));
        failing.or_else(|| {
            let owes = |state: &Arc<Mutex<State>>| {
                let state = lock(state);
                state
                    .owes_success
                    .then(|| format!("The first {} have not come back yet.", state.what))
            };
            loops.iter().find_map(owes)
        })
    }

    /// Which loop does not turn; `None`: all do.
    pub(super) fn wedged(&self, now: Instant) -> Option<String> {
        let known = lock(&self.0);
        let loops: Vec<_> = known.loops.iter().filter_map(Weak::upgrade).collect();
        drop(known);
        loops.iter().find_map(|state| lock(state).wedged_for(now))
    }
}

impl State {
    fn failing_for(&self, now: Instant) -> Option<String> {
        let what = &self.what;
        let for_s = |since: Instant| {
            let time = now.saturating_duration_since(since);
            (time > LONG).then_some(time.as_secs())
        };
        if let Some((since, why)) = &self.failing {
            return for_s(*since).map(|s| format!("For {s} s {what} have failed: {why}."));
        }
        for_s(self.calling?).map(|s| format!("For {s} s {what} have got no answer."))
    }

    fn wedged_for(&self, now: Instant) -> Option<String> {
        let what = &self.what;
        let time = now.saturating_duration_since(self.turned);
        // Between two calls a loop of claims waits for requests to end, which takes as long as it takes.
        let most = match self.calling {
            Some(_) => LONGEST_CALL,
            None if self.what == ROUNDS => LONGEST_ROUND,
            None => return None,
        };
        (time > most).then(|| format!("For {} s {what} have not gone on.", time.as_secs()))
    }
}

/// The loop that turns about once a second, whatever happens.
pub(super) const ROUNDS: &str = "rounds of maintenance";

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> OutboxError {
        OutboxError::Refused {
            doing: "claiming jobs",
            source: sqlx::Error::RowNotFound,
        }
    }

    #[test]
    fn a_worker_is_ready_once_it_has_claimed_and_while_nothing_has_failed_for_long() {
        let health = Health::default();
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert!(health.unready(after(0)).is_some(), "nothing has begun");
        let claims = health.pulse("claims of account one", true);
        let records = health.pulse("records", false);
        assert!(
            health
                .unready(after(0))
                .expect("early")
                .contains("first claims")
        );
        claims.begins();
        claims.succeeded();
        assert_eq!(
            health.unready(after(1_000)),
            None,
            "an empty queue is no fault"
        );
        // Whatever else succeeds.
        records.begins();
        records.failed(&refused());
        claims.begins();
        claims.succeeded();
        assert_eq!(health.unready(after(5)), None);
        let said = health.unready(after(11)).expect("for long");
        assert!(
            said.contains("records have failed: the database refused"),
            "{said}"
        );
        records.begins();
        assert!(health.unready(after(11)).is_some(), "a try is no success");
        records.succeeded();
        claims.begins();
        let said = health.unready(after(11)).expect("it hangs");
        assert!(
            said.contains("claims of account one have got no answer"),
            "{said}"
        );
        assert_eq!(health.wedged(after(11)), None);
        assert!(health.wedged(after(61)).is_some());
        drop((claims, records));
        assert_eq!(health.wedged(after(61)), None, "its loops have ended");
        assert!(health.unready(after(0)).is_some());
    }

    #[test]
    fn another_database_and_a_missing_privilege_are_told_at_once() {
        let health = Health::default();
        let claims = health.pulse("claims", true);
        claims.succeeded();
        health.changed(Some(&Change::Tables));
        assert!(health.unready(Instant::now()).is_some());
        health.changed(None);
        assert_eq!(health.unready(Instant::now()), None);
        let rounds = health.pulse(ROUNDS, false);
        assert_eq!(health.wedged(Instant::now() + LONGEST_ROUND / 2), None);
        assert!(health.wedged(Instant::now() + LONGEST_ROUND * 2).is_some());
        drop(rounds);
    }
}
