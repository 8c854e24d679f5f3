//! Writes outcomes down: whatever has come in while the last batch was being written is the next batch. One row at once
//! under low load, many under high load.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::{
    Outage, chain,
    pace::{Hand, Unrecorded},
    twins::Turn,
};
use crate::{
    failpoints::{self, Point},
    lifecycle::{Pause, PauseScope, Settlement},
    message::mask,
    metrics::Metrics,
    outbox::{Outbox, PauseOrder, Probing, Record, Recorded},
};

/// The most outcomes that one statement records: it finds each answer's place among them by looking through all.
pub(super) const BATCH: usize = 200;

/// After a batch of several, the next one is written when half a `BATCH` has come in, or when as much time has passed as the last
/// one took, and no later than after this. No hand waits for it.
const LONGEST_REST: Duration = Duration::from_millis(10);

/// An outcome, with everything that is held until it is on record.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) account: Arc<str>,
    pub(super) sender: String,
    pub(super) record: Record,
    /// Who else is to wait.
    pub(super) pause: Option<Pause>,
    pub(super) turn: Option<Turn>,
    pub(super) hand: Option<Hand>,
    pub(super) unrecorded: Unrecorded,
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
    /// Records until every sender is gone and everything is on record. Waits for the database as long as it takes: a lease
    /// that ends meanwhile makes the record a late one, which is handled there.
    pub(super) async fn run(self, mut entries: mpsc::Receiver<Entry>) {
        let mut open = true;
        let mut batch = Vec::with_capacity(BATCH);
        // What could not be written and is tried again, after this long.
        let mut again: (Vec<Entry>, Duration) = (Vec::new(), Duration::ZERO);
        while open || !batch.is_empty() || !again.0.is_empty() {
            if !again.0.is_empty() {
                // What comes in meanwhile joins the next try; it must not be held up by what cannot be written.
                let wait = tokio::time::sleep(again.1);
                tokio::pin!(wait);
                open = open && fill(&mut entries, &mut batch, BATCH, wait.as_mut()).await;
                if !open {
                    wait.await;
                }
            } else if batch.is_empty() {
                open = entries.recv_many(&mut batch, BATCH).await > 0;
            } else {
                // What has come in since.
                let room = BATCH.saturating_sub(batch.len());
                entries.recv_many(&mut batch, room).now_or_never();
            }
            let mut all = std::mem::take(&mut again.0);
            all.append(&mut batch);
            let many = all.len() > 1;
            let began = Instant::now();
            let (ready, held) = self.pauses(all).await;
            again = self.write(ready).await;
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

    /// A pause comes before the jobs that met it go back to the queue, or they would be claimed once more in between. Where
    /// one cannot be begun now, its jobs wait with it, and hold up no other outcome. Returns what can be written down, and
    /// what cannot yet, with the time to wait before it is tried again.
    async fn pauses(&self, entries: Vec<Entry>) -> (Vec<Entry>, Option<(Vec<Entry>, Duration)>) {
        let mut ready = Vec::with_capacity(entries.len());
        let mut held: Option<(Vec<Entry>, Duration)> = None;
        for mut entry in entries {
            match &mut held {
                // One refusal is enough to know; each may take its whole deadline.
                Some((held, _)) if entry.pause.is_some() => held.push(entry),
                _ => match self.pause(&entry).await {
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

    /// Writes down what can be written, and returns the rest with the time to wait before it is tried again.
    async fn write(&self, batch: Vec<Entry>) -> (Vec<Entry>, Duration) {
        let mut todo = vec![batch];
        let mut rest = Vec::new();
        let mut wait = Duration::ZERO;
        while let Some(batch) = todo.pop() {
            let (records, held): (Vec<Record>, Vec<Held>) =
                batch.into_iter().map(Entry::split).unzip();
            failpoints::point(Point::BeforeRecord);
            match self.outbox.record(&records).await {
                Ok(outcomes) => {
                    failpoints::point(Point::AfterRecord);
                    self.outage.over();
                    for ((record, held), outcome) in records.iter().zip(held).zip(outcomes) {
                        count(&self.metrics, record, &outcome);
                        report(&held.account, record, &outcome);
                    }
                }
                Err(error) if error.is_transient() => {
                    wait = wait.max(self.outage.failed(&error));
                    rest.extend(join(records, held));
                    rest.extend(todo.drain(..).flatten());
                }
                // Refused: one row may be at fault, and the others must not suffer for it.
                Err(_) if records.len() > 1 => {
                    let mut first = join(records, held);
                    let second = first.split_off(first.len() / 2);
                    todo.push(second);
                    todo.push(first);
                }
                Err(error) if error.blames_the_row() => {
                    for record in records {
                        tracing::error!(
                            job.id = %record.job, attempt = record.attempt, error = %chain(&error),
                            "an outcome cannot be recorded; the job is taken over as \"may have been sent\" when its \
                             lease ends"
                        );
                    }
                }
                // A full disk, a privilege that is missing: what is known must not be thrown away while someone puts it
                // right.
                Err(error) => {
                    wait = wait.max(self.outage.failed(&error));
                    rest.extend(join(records, held));
                }
            }
        }
        (rest, wait)
    }

    /// Begins the pause of this outcome, if it has one. `Err`: not now, and how long to wait.
    async fn pause(&self, entry: &Entry) -> Result<(), Duration> {
        let Some(Pause { scope, lasts }) = &entry.pause else {
            return Ok(());
        };
        let trouble = match &entry.record.settlement {
            Settlement::GiveBack {
                trouble: Some(trouble),
                ..
            }
            | Settlement::Retry { trouble, .. }
            | Settlement::Failed(trouble)
            | Settlement::Uncertain(trouble) => trouble,
            Settlement::GiveBack { trouble: None, .. }
            | Settlement::Sent { .. }
            | Settlement::Expired => return Ok(()),
        };
        let order = PauseOrder {
            account: &entry.account,
            scope: *scope,
            sender: if *scope == PauseScope::Sender {
                &entry.sender
            } else {
                ""
            },
            trouble: Some(trouble),
            reason: &trouble.message,
            by: &self.worker,
            lasts: *lasts,
            probing: lasts.is_none().then_some(self.probing),
        };
        failpoints::point(Point::BeforePause);
        match self.outbox.pause(&order).await {
            Ok(begun) => {
                failpoints::point(Point::AfterPause);
                self.outage.over();
                if let Some(strikes) = begun {
                    self.metrics.pause_begun(&entry.account, *scope);
                    let code = trouble.code;
                    let lasts_ms = lasts.map(in_ms);
                    let end = match lasts {
                        Some(_) => "until the time is over that the provider asks for",
                        None => "no attempt is spent, and a probe ends it",
                    };
                    tracing::warn!(
                        account = %entry.account, scope = scope.as_str(), sender = order.sender,
                        error.class = %trouble.class, error.code = code, strikes, lasts_ms,
                        reason = %trouble.message, "paused; {end}"
                    );
                }
            }
            Err(error) if !error.blames_the_row() => return Err(self.outage.failed(&error)),
            Err(error) => {
                tracing::error!(account = %entry.account, error = %chain(&error), "a pause cannot be recorded");
            }
        }
        Ok(())
    }
}

/// Receives until there are so many, or for so long. `false`: nobody is left who could send.
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

/// What is held until the outcome is on record, and let go of then.
struct Held {
    account: Arc<str>,
    sender: String,
    pause: Option<Pause>,
    turn: Option<Turn>,
    hand: Option<Hand>,
    unrecorded: Unrecorded,
}

impl Entry {
    fn split(self) -> (Record, Held) {
        let Self {
            account,
            sender,
            record,
            pause,
            turn,
            hand,
            unrecorded,
        } = self;
        (
            record,
            Held {
                account,
                sender,
                pause,
                turn,
                hand,
                unrecorded,
            },
        )
    }

    fn joined((record, held): (Record, Held)) -> Self {
        let Held {
            account,
            sender,
            pause,
            turn,
            hand,
            unrecorded,
        } = held;
        Self {
            account,
            sender,
            record,
            pause,
            turn,
            hand,
            unrecorded,
        }
    }
}

fn join(records: Vec<Record>, held: Vec<Held>) -> Vec<Entry> {
    records.into_iter().zip(held).map(Entry::joined).collect()
}

/// Counts an outcome, once it is on record.
pub(super) fn count(metrics: &Metrics, record: &Record, recorded: &Recorded) {
    match recorded {
        Recorded::Settled { .. } => metrics.settled(&record.settlement),
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

/// One line for each outcome, which makes sense alone.
fn report(account: &str, record: &Record, recorded: &Recorded) {
    let job = record.job;
    let attempt = record.attempt;
    let duration_ms = record.evidence.as_ref().map(|seen| in_ms(seen.duration));
    let (twin_order, duplicate_of) = match recorded {
        Recorded::Settled {
            order_id,
            duplicate_of,
        } => (
            order_id.as_deref(),
            duplicate_of.map(|twin| twin.to_string()),
        ),
        Recorded::Late { was } => {
            tracing::warn!(
                job.id = %job, attempt, account, was = %was, outcome = name(&record.settlement),
                "an answer came after its claim had been lost"
            );
            (None, None)
        }
        Recorded::AcceptedTwice { known_order_id } => {
            tracing::error!(
                job.id = %job, attempt, account, known_order_id, order_id = order_of(&record.settlement),
                "accepted twice: both orders are in the history"
            );
            return;
        }
        Recorded::Nothing => {
            tracing::debug!(job.id = %job, attempt, account, "this outcome was on record already");
            return;
        }
    };
    match &record.settlement {
        Settlement::Sent {
            order_id,
            duplicate: false,
        } => {
            let order_id = order_id.as_ref().map(|order| order.as_str());
            tracing::info!(job.id = %job, attempt, duration_ms, account, order_id, "sent");
        }
        Settlement::Sent {
            duplicate: true, ..
        } => tracing::info!(
            job.id = %job, attempt, duration_ms, account, order_id = twin_order, duplicate_of,
            "sent: the provider had taken this content already"
        ),
        Settlement::Failed(trouble) => tracing::warn!(
            job.id = %job, attempt, duration_ms, account, error.class = %trouble.class,
            error.code = trouble.code, reason = %trouble.message, "failed"
        ),
        Settlement::Uncertain(trouble) => tracing::error!(
            job.id = %job, attempt, duration_ms, account, error.class = %trouble.class,
            reason = %trouble.message, "uncertain: it may have been sent, and can no longer be repeated safely"
        ),
        Settlement::Expired => {
            tracing::info!(job.id = %job, attempt, account, "expired before it could be sent");
        }
        Settlement::Retry {
            delay,
            trouble,
            doubt,
            ..
        } => tracing::warn!(
            job.id = %job, attempt, duration_ms, account, error.class = %trouble.class,
            error.code = trouble.code, retry_ms = in_ms(*delay), may_have_been_sent = doubt,
            reason = %trouble.message, "to be retried"
        ),
        Settlement::GiveBack { trouble, .. } => tracing::debug!(
            job.id = %job, attempt, duration_ms, account,
            reason = trouble.as_ref().map(|trouble| trouble.message.as_str()), "handed back, no attempt spent"
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
}

fn order_of(settlement: &Settlement) -> Option<&str> {
    match settlement {
        Settlement::Sent { order_id, .. } => order_id.as_ref().map(|order| order.as_str()),
        _ => None,
    }
}

const fn name(settlement: &Settlement) -> &'static str {
    match settlement {
        Settlement::Sent {
            duplicate: false, ..
        } => "accepted",
        Settlement::Sent {
            duplicate: true, ..
        } => "duplicate",
        Settlement::Failed(_) => "refused",
        Settlement::Uncertain(_) => "uncertain",
        Settlement::Expired => "expired",
        Settlement::Retry { .. } => "retry",
        Settlement::GiveBack { .. } => "handed back",
    }
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
