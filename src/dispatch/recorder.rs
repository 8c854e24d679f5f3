//! Writes outcomes down: whatever has come in while the last batch was being written is the next batch. One row at once
//! under low load, many under high load.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::{
    Outage,
    concurrency::{ConcurrencyPermit, Unrecorded},
    content_lock::ContentLock,
    health::Pulse,
};
use crate::{
    failpoints::{self, Point},
    lifecycle::{Outcome, Pause, PauseEnd, PauseScope},
    message::mask,
    metrics::Metrics,
    outbox::{Outbox, PauseOrder, Probing, Record, Recorded, chain},
};

/// The most outcomes that one statement records: for each row it searches the whole array.
pub(super) const BATCH: usize = 200;

/// After a batch of several, the next one is written when half a `BATCH` has come in, or when as much time has passed as the last
/// one took, and no later than after this. No permit waits for it.
const LONGEST_REST: Duration = Duration::from_millis(10);

/// How often it is asked whether rows that somebody else holds are free.
const LOCKED_RETRY: Duration = Duration::from_secs(1);

/// An outcome, with everything that is held until it is recorded, and released then.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) account: Arc<str>,
    pub(super) sender: String,
    pub(super) record: Record,
    /// The pause that follows, if any.
    pub(super) pause: Option<Pause>,
    pub(super) _lock: Option<ContentLock>,
    pub(super) _permit: Option<ConcurrencyPermit>,
    pub(super) _unrecorded: Unrecorded,
}

/// Outcomes whose rows somebody else holds.
#[derive(Debug)]
struct Locked {
    entries: Vec<Entry>,
    /// When it was last asked whether they are free.
    asked: Instant,
}

impl Default for Locked {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            asked: Instant::now(),
        }
    }
}

impl Locked {
    fn add(&mut self, entries: Vec<Entry>) {
        if self.entries.is_empty() {
            self.asked = Instant::now();
        }
        self.entries.extend(entries);
    }
}

/// The one task that records.
pub(super) struct Recorder {
    pub(super) outbox: Outbox,
    pub(super) worker: Arc<str>,
    pub(super) probing: Probing,
    pub(super) outage: Arc<Outage>,
    pub(super) metrics: Metrics,
}

impl Recorder {
    /// Records until every sender is gone and everything is recorded. Waits for the database as long as it takes: a lease
    /// that ends meanwhile makes the record a late one, which is handled there.
    pub(super) async fn run(self, mut entries: mpsc::Receiver<Entry>) {
        let mut open = true;
        let mut batch = Vec::with_capacity(BATCH);
        // What could not be recorded, and the time before its retry.
        let mut again: (Vec<Entry>, Duration) = (Vec::new(), Duration::ZERO);
        let pulse = self.outage.pulse("records");
        let mut locked = Locked::default();
        while open || !batch.is_empty() || !again.0.is_empty() || !locked.entries.is_empty() {
            if !again.0.is_empty() {
                // New outcomes join the next try; they must not wait for what cannot be recorded.
                let wait = tokio::time::sleep(again.1);
                tokio::pin!(wait);
                open = open && fill(&mut entries, &mut batch, BATCH, wait.as_mut()).await;
                if !open {
                    wait.await;
                }
            } else if batch.is_empty() && !locked.entries.is_empty() {
                let wait = tokio::time::sleep(LOCKED_RETRY.saturating_sub(locked.asked.elapsed()));
                tokio::pin!(wait);
                open = open && fill(&mut entries, &mut batch, 1, wait.as_mut()).await;
                if !open {
                    wait.await;
                }
            } else if batch.is_empty() {
                open = entries.recv_many(&mut batch, BATCH).await > 0;
            } else {
                // New outcomes.
                let room = BATCH.saturating_sub(batch.len());
                entries.recv_many(&mut batch, room).now_or_never();
            }
            let mut all = std::mem::take(&mut again.0);
            all.append(&mut batch);
            all.append(&mut self.unlocked(&mut locked).await);
            let many = all.len() > 1;
            let began = Instant::now();
            pulse.begins();
            let (ready, held) = self.pauses(all, &pulse).await;
            again = self.write(ready, &mut locked, &pulse).await;
            if again.0.is_empty() && held.is_none() && locked.entries.is_empty() {
                pulse.succeeded();
            }
            if many && open {
                let rest = tokio::time::sleep(began.elapsed().min(LONGEST_REST));
                open = fill(&mut entries, &mut batch, BATCH / 2, rest).await;
            }
            if let Some((entries, wait)) = held {
                again.0.extend(entries);
                again.1 = again.1.max(wait);
            }
        }
    }

    /// A pause is recorded before the outcomes of its jobs, or they would be claimed once more in between. Where a pause cannot
    /// be recorded now, its outcomes wait too, and hold up no others. Returns what can be recorded, and what cannot yet, with
    /// the time to wait before the retry.
    async fn pauses(
        &self,
        entries: Vec<Entry>,
        pulse: &Pulse,
    ) -> (Vec<Entry>, Option<(Vec<Entry>, Duration)>) {
        let mut ready = Vec::with_capacity(entries.len());
        let mut held: Option<(Vec<Entry>, Duration)> = None;
        for mut entry in entries {
            match &mut held {
                // After one failure the others are not tried: each may take its whole deadline.
                Some((held, _)) if entry.pause.is_some() => held.push(entry),
                _ => match self.pause(&entry, pulse).await {
                    Ok(()) => {
                        entry.pause = None;
                        ready.push(entry);
                    }
                    Err(wait) => held = Some((vec![entry], wait)),
                },
            }
        }
        (ready, held)
    }

    /// Takes out those whose rows are free by now, if it is time to ask.
    async fn unlocked(&self, locked: &mut Locked) -> Vec<Entry> {
        if locked.entries.is_empty() || locked.asked.elapsed() < LOCKED_RETRY {
            return Vec::new();
        }
        locked.asked = Instant::now();
        let (free, held) = self.free(std::mem::take(&mut locked.entries)).await;
        locked.entries = held;
        free
    }

    /// Those whose rows nobody else holds, and the others.
    async fn free(&self, entries: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
        let jobs: Vec<_> = entries.iter().map(|entry| entry.record.job).collect();
        match self.outbox.lockable(&jobs).await {
            Ok(free) => {
                let free: HashSet<_> = free.into_iter().collect();
                entries
                    .into_iter()
                    .partition(|entry| free.contains(&entry.record.job))
            }
            Err(error) => {
                self.outage.failed(&error);
                (Vec::new(), entries)
            }
        }
    }

    /// Records what can be recorded, and returns the rest with the time to wait before the retry. What somebody else holds waits
    /// apart.
    async fn write(
        &self,
        batch: Vec<Entry>,
        locked: &mut Locked,
        pulse: &Pulse,
    ) -> (Vec<Entry>, Duration) {
        let mut todo = vec![batch];
        let mut rest = Vec::new();
        let mut wait = Duration::ZERO;
        let mut any_recorded = false;
        while let Some(mut batch) = todo.pop() {
            if batch.is_empty() {
                continue;
            }
            failpoints::point(Point::BeforeRecord);
            match self
                .outbox
                .record(batch.iter().map(|entry| &entry.record))
                .await
            {
                Ok(outcomes) => {
                    failpoints::point(Point::AfterRecord);
                    any_recorded |= !batch.is_empty();
                    self.outage.over();
                    for (entry, recorded) in batch.iter().zip(outcomes) {
                        count(&self.metrics, &entry.record, &recorded);
                        report(&entry.account, &entry.record, &recorded);
                    }
                }
                // Somebody else holds a row: the others do not wait for it.
                Err(error) if error.is_about_a_lock() => {
                    pulse.failed(&error);
                    let (free, held) = self.free(batch).await;
                    for Entry {
                        record, account, ..
                    } in &held
                    {
                        tracing::warn!(
                            job.id = %record.job, %account,
                            "another session holds this job's row: its outcome is recorded when the row is free"
                        );
                    }
                    if held.is_empty() {
                        rest.extend(free);
                        wait = wait.max(LONGEST_REST);
                    } else {
                        locked.add(held);
                        todo.push(free);
                    }
                }
                Err(error) if error.is_transient() => {
                    pulse.failed(&error);
                    wait = wait.max(self.outage.failed(&error));
                    rest.append(&mut batch);
                    rest.extend(todo.drain(..).flatten());
                }
                // Refused: one row may be the cause, and the others must be recorded all the same.
                Err(_) if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    todo.push(second);
                    todo.push(batch);
                }
                Err(error)
                    if error.blames_the_row() || (any_recorded && error.may_blame_one_row()) =>
                {
                    for Entry {
                        record, account, ..
                    } in batch
                    {
                        if let Err(error) =
                            self.outbox.note_refused(&account, record.job, &error).await
                        {
                            self.outage.failed(&error);
                        }
                        tracing::error!(
                            job.id = %record.job, attempt = record.attempt, error = %chain(&error),
                            "an outcome cannot be recorded; the job is recovered as \"may have been sent\" when its lease \
                             ends"
                        );
                    }
                }
                // A full disk, a privilege that is missing: what is known must not be thrown away while someone puts it
                // right.
                Err(error) => {
                    pulse.failed(&error);
                    wait = wait.max(self.outage.failed(&error));
                    rest.append(&mut batch);
                }
            }
        }
        (rest, wait)
    }

    /// Begins the pause of this outcome, if it has one. `Err`: not now, and how long to wait.
    async fn pause(&self, entry: &Entry, pulse: &Pulse) -> Result<(), Duration> {
        let Some(Pause { scope, ends }) = &entry.pause else {
            return Ok(());
        };
        let failure = match &entry.record.outcome {
            Outcome::Release {
                failure: Some(failure),
                ..
            }
            | Outcome::Retry { failure, .. }
            | Outcome::Failed(failure)
            | Outcome::Uncertain(failure) => failure,
            Outcome::Release { failure: None, .. } | Outcome::Sent { .. } | Outcome::Expired => {
                return Ok(());
            }
        };
        let (lasts, longest) = match *ends {
            PauseEnd::Probe => (None, None),
            PauseEnd::After(asked) => (Some(asked), None),
            PauseEnd::Backoff { first, longest } => (Some(first), Some(longest)),
        };
        let order = PauseOrder {
            account: &entry.account,
            scope: *scope,
            sender: if *scope == PauseScope::Sender {
                &entry.sender
            } else {
                ""
            },
            failure: Some(failure),
            reason: &failure.message,
            by: &self.worker,
            lasts,
            longest,
            probing: lasts.is_none().then_some(self.probing),
        };
        failpoints::point(Point::BeforePause);
        match self.outbox.pause(&order).await {
            Ok(begun) => {
                failpoints::point(Point::AfterPause);
                self.outage.over();
                if let Some(consecutive_failures) = begun {
                    self.metrics.pause_begun(&entry.account, *scope);
                    let code = failure.code;
                    let lasts_ms = lasts.map(in_ms);
                    let end = match lasts {
                        Some(_) => "until the provider takes more requests; no attempt is spent",
                        None => "no attempt is spent, and a probe ends it",
                    };
                    tracing::warn!(
                        account = %entry.account, scope = scope.as_str(), sender = order.sender,
                        error.class = %failure.class, error.code = code, consecutive_failures, lasts_ms,
                        reason = %failure.message, "paused; {end}"
                    );
                }
            }
            Err(error) if !error.blames_the_row() => {
                pulse.failed(&error);
                return Err(self.outage.failed(&error));
            }
            Err(error) => {
                tracing::error!(account = %entry.account, error = %chain(&error), "a pause cannot be recorded");
            }
        }
        Ok(())
    }
}

/// Receives until there are so many, or for so long. `false`: all senders are gone.
async fn fill(
    entries: &mut mpsc::Receiver<Entry>,
    batch: &mut Vec<Entry>,
    enough: usize,
    time: impl Future<Output = ()>,
) -> bool {
    tokio::pin!(time);
    while batch.len() < enough {
        tokio::select! {
            () = &mut time => return true,
            received = entries.recv_many(batch, BATCH) => if received == 0 {
                return false;
            },
        }
    }
    true
}

/// Counts an outcome, once it is recorded.
pub(super) fn count(metrics: &Metrics, record: &Record, recorded: &Recorded) {
    match recorded {
        Recorded::Settled { .. } if record.is_split() => metrics.split(),
        Recorded::Settled { .. } => metrics.outcome(&record.outcome),
        Recorded::Late { .. } => {
            metrics.late_answers.inc();
        }
        Recorded::AcceptedTwice { .. } => {
            metrics.late_answers.inc();
            metrics.accepted_twice.inc();
        }
        Recorded::Nothing => {}
    }
}

/// One log line for each outcome, complete in itself.
fn report(account: &str, record: &Record, recorded: &Recorded) {
    let job = record.job;
    let attempt = record.attempt;
    let duration_ms = record.evidence.as_ref().map(|seen| in_ms(seen.duration));
    let (original_order, duplicate_of) = match recorded {
        Recorded::Settled {
            order_id,
            duplicate_of,
        } => (
            order_id.as_deref(),
            duplicate_of.map(|original| original.to_string()),
        ),
        Recorded::Late { was } => {
            tracing::warn!(
                job.id = %job, attempt, account, was = %was, outcome = name(&record.outcome),
                "late answer: its claim had been lost"
            );
            (None, None)
        }
        Recorded::AcceptedTwice { known_order_id } => {
            tracing::error!(
                job.id = %job, attempt, account, known_order_id, order_id = order_of(&record.outcome),
                "accepted twice: both orders are in the history"
            );
            return;
        }
        Recorded::Nothing => {
            tracing::debug!(job.id = %job, attempt, account, "this outcome was recorded already");
            return;
        }
    };
    match &record.outcome {
        Outcome::Sent {
            order_id,
            duplicate: false,
        } => {
            let order_id = order_id.as_ref().map(|order| order.as_str());
            tracing::info!(job.id = %job, attempt, duration_ms, account, order_id, "sent");
        }
        Outcome::Sent {
            duplicate: true, ..
        } => tracing::info!(
            job.id = %job, attempt, duration_ms, account, order_id = original_order, duplicate_of,
            "sent: the provider had taken this content already"
        ),
        Outcome::Failed(failure) if record.is_split() => tracing::warn!(
            job.id = %job, attempt, duration_ms, account, error.class = %failure.class,
            error.code = failure.code, reason = %failure.message,
            parts = record.cut.as_ref().map(|cut| cut.parts.len()),
            "split: the list was refused because of numbers in it, and its parts are sent on"
        ),
        Outcome::Failed(failure) => tracing::warn!(
            job.id = %job, attempt, duration_ms, account, error.class = %failure.class,
            error.code = failure.code, reason = %failure.message, "failed"
        ),
        Outcome::Uncertain(failure) => tracing::error!(
            job.id = %job, attempt, duration_ms, account, error.class = %failure.class,
            reason = %failure.message, "uncertain: it may have been sent, and can no longer be repeated safely"
        ),
        Outcome::Expired => {
            tracing::info!(job.id = %job, attempt, account, "expired before it could be sent");
        }
        Outcome::Retry { delay, failure, .. } => tracing::warn!(
            job.id = %job, attempt, duration_ms, account, error.class = %failure.class,
            error.code = failure.code, retry_ms = in_ms(*delay), may_have_been_sent = true,
            reason = %failure.message, "retry later"
        ),
        Outcome::Release { failure, .. } => tracing::debug!(
            job.id = %job, attempt, duration_ms, account,
            reason = failure.as_ref().map(|failure| failure.message.as_str()), "released, no attempt spent"
        ),
    }
    if !record.rejected.is_empty() {
        let numbers: Vec<String> = record
            .rejected
            .iter()
            .take(5)
            .map(|number| mask(number))
            .collect();
        tracing::warn!(
            job.id = %job, attempt, account, rejected = record.rejected.len(), numbers = numbers.join(" "),
            "some numbers could not be read and were left out"
        );
    }
    if let Some(cut) = record.cut.as_ref().filter(|cut| !cut.refused.is_empty()) {
        let numbers: Vec<String> = cut
            .refused
            .iter()
            .take(5)
            .map(|number| mask(number))
            .collect();
        tracing::warn!(
            job.id = %job, attempt, account, refused = cut.refused.len(), numbers = numbers.join(" "),
            "some numbers are refused by the provider and were left out"
        );
    }
}

fn order_of(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Sent { order_id, .. } => order_id.as_ref().map(|order| order.as_str()),
        _ => None,
    }
}

const fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Sent {
            duplicate: false, ..
        } => "accepted",
        Outcome::Sent {
            duplicate: true, ..
        } => "duplicate",
        Outcome::Failed(_) => "refused",
        Outcome::Uncertain(_) => "uncertain",
        Outcome::Expired => "expired",
        Outcome::Retry { .. } => "retry",
        Outcome::Release { .. } => "released",
    }
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
