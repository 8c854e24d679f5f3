//! Makes events durable, many at once: whatever has come in while the last batch was being written is the next batch. One event at
//! once under low load, many under high load.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    delivery::{Delivery, Fact, Source, Word},
    dispatch::{Outage, Pulse},
    message::Recipient,
    metrics::{AccountDeliveries, EventResult, WebhookMetrics},
    outbox::{ContentKey, Learnt, Outbox, OutboxError, SentJob, UnmatchedEvents},
    provider::{Event, News},
};

/// The most events that are written together.
const BATCH: usize = 500;
/// After a batch of several, the next one is written when half a `BATCH` has come in, or when as much time has passed as the last
/// one took, and no later than after this.
const LONGEST_REST: Duration = Duration::from_millis(10);
/// The longest that one call to the database may take: whoever waits for an answer is told to come again.
const DATABASE_DEADLINE: Duration = Duration::from_secs(3);
/// How often deliveries are read again that somebody else has written meanwhile. Then they are a worker's to match.
const READ_AGAIN: usize = 5;
/// How often the database is asked for while there is nothing to write: that it is away is to be known before an event comes.
const LOOK: Duration = Duration::from_secs(5);
/// No order: what `doctor` tries a receiver with.
const NO_ORDER: &str = "0";

/// An event whose sender waits until it is durable.
pub(super) struct Entry {
    account: Arc<str>,
    said: Said,
    /// Dropped: it is not.
    answer: oneshot::Sender<EventResult>,
}

/// What an event says, without its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Said {
    order: String,
    number: Recipient,
    news: News,
    /// What account, number and text may come to, the likeliest first.
    contents: Vec<ContentKey>,
}

impl Entry {
    /// Of an event of this account. The text is hashed, and gone.
    pub(super) fn new(account: Arc<str>, event: &Event) -> (Self, oneshot::Receiver<EventResult>) {
        let contents = event
            .texts()
            .into_iter()
            .map(|text| ContentKey::of(&account, [event.number.as_str()], text))
            .collect();
        let (answer, answered) = oneshot::channel();
        let said = Said {
            order: event.order.clone(),
            number: event.number.clone(),
            news: event.news,
            contents,
        };
        let entry = Self {
            account,
            said,
            answer,
        };
        (entry, answered)
    }
}

/// The one task that writes.
pub(super) struct Writer {
    pub(super) outbox: Outbox,
    pub(super) outage: Arc<Outage>,
    pub(super) metrics: WebhookMetrics,
    /// By account.
    pub(super) deliveries: HashMap<String, AccountDeliveries>,
}

impl Writer {
    /// Writes until every sender is gone and everything is written, or has failed.
    pub(super) async fn run(self, mut entries: mpsc::Receiver<Entry>) {
        let outbox = self.outbox.within(DATABASE_DEADLINE);
        let pulse = self.outage.claims("records of webhooks".to_owned());
        self.look(&outbox, &pulse).await;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            if batch.is_empty() {
                match tokio::time::timeout(LOOK, entries.recv_many(&mut batch, BATCH)).await {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(_) => {
                        self.look(&outbox, &pulse).await;
                        continue;
                    }
                }
            }
            // What has come in meanwhile.
            let room = BATCH.saturating_sub(batch.len());
            entries.recv_many(&mut batch, room).now_or_never();
            let (began, many) = (Instant::now(), batch.len() > 1);
            self.metrics.batch(batch.len());
            pulse.begins();
            let mut written = Ok(());
            for (account, entries) in by_account(batch.drain(..)) {
                let deliveries = self.deliveries.get(&*account);
                let result = write(&outbox, &account, entries, deliveries).await;
                written = written.and(result);
            }
            self.told(&pulse, written);
            if many {
                let rest = tokio::time::sleep(began.elapsed().min(LONGEST_REST));
                tokio::pin!(rest);
                while batch.len() < BATCH / 2 {
                    tokio::select! {
                        () = &mut rest => break,
                        received = entries.recv_many(&mut batch, BATCH) => if received == 0 {
                            break;
                        },
                    }
                }
            }
        }
    }

    /// Whether the database is there.
    async fn look(&self, outbox: &Outbox, pulse: &Pulse) {
        pulse.begins();
        self.told(pulse, outbox.now().await.map(drop));
    }

    fn told(&self, pulse: &Pulse, result: Result<(), OutboxError>) {
        match result {
            Ok(()) => {
                pulse.succeeded();
                self.outage.over();
            }
            Err(error) => {
                pulse.failed(&error);
                // Nothing waits here: the next event tries again.
                self.outage.failed(&error);
            }
        }
    }
}

fn by_account(entries: impl Iterator<Item = Entry>) -> HashMap<Arc<str>, Vec<Entry>> {
    let mut accounts: HashMap<Arc<str>, Vec<Entry>> = HashMap::new();
    for entry in entries {
        let account = Arc::clone(&entry.account);
        accounts.entry(account).or_default().push(entry);
    }
    accounts
}

/// Writes the events of one account, and answers those that are durable. The others are answered by being dropped.
async fn write(
    outbox: &Outbox,
    account: &str,
    entries: Vec<Entry>,
    deliveries: Option<&AccountDeliveries>,
) -> Result<(), OutboxError> {
    // Repeats are one.
    let mut open: HashMap<Said, Vec<oneshot::Sender<EventResult>>> = HashMap::new();
    for entry in entries {
        open.entry(entry.said).or_default().push(entry.answer);
    }
    let mut unmatched = Vec::new();
    for _ in 0..READ_AGAIN {
        if open.is_empty() {
            break;
        }
        let matched = Matched::read(outbox, account, open.keys()).await?;
        let learnt: Vec<Learnt> = matched.learn();
        let written = if learnt.is_empty() {
            Ok(HashSet::new())
        } else {
            outbox.write_deliveries(account, &learnt).await
        };
        let (written, is_locked) = match written {
            // Somebody holds such a row: events do not wait for it.
            Err(error) if error.is_about_a_lock() => (HashSet::new(), true),
            written => (written?, false),
        };
        for one in learnt.iter().filter(|one| written.contains(&one.job())) {
            if let Some(deliveries) = deliveries {
                deliveries.learnt(one);
            }
        }
        let late: Vec<Uuid> = learnt
            .iter()
            .map(Learnt::job)
            .filter(|job| !written.contains(job))
            .collect();
        let mut again = HashMap::new();
        for (said, answers) in open {
            match matched.of(&said) {
                Match::None => unmatched.push((said, answers)),
                Match::NoNews => answer(answers, EventResult::NoNews),
                Match::Jobs(jobs) if jobs.iter().any(|job| late.contains(job)) => {
                    again.insert(said, answers);
                }
                Match::Jobs(jobs) if jobs.iter().any(|job| written.contains(job)) => {
                    answer(answers, EventResult::Recorded);
                }
                Match::Jobs(_) => answer(answers, EventResult::NoNews),
            }
        }
        open = again;
        if is_locked {
            break;
        }
    }
    unmatched.extend(open);
    if unmatched.is_empty() {
        return Ok(());
    }
    outbox
        .keep_events(account, &by_order(unmatched.iter().map(|(said, _)| said)))
        .await?;
    for (_, answers) in unmatched {
        answer(answers, EventResult::Inbox);
    }
    Ok(())
}

fn answer(answers: Vec<oneshot::Sender<EventResult>>, result: EventResult) {
    for answer in answers {
        // Whoever does not wait any more has been told to come again.
        answer.send(result).ok();
    }
}

/// A row for each order, however many of its numbers something is said of. That one was accepted is not kept beside what became
/// of it.
fn by_order<'a>(unmatched: impl Iterator<Item = &'a Said> + Clone) -> Vec<UnmatchedEvents> {
    let decided: HashSet<(&str, &Recipient)> = unmatched
        .clone()
        .filter(|said| said.news != News::Accepted)
        .map(|said| (said.order.as_str(), &said.number))
        .collect();
    let mut orders: HashMap<&str, Vec<(Recipient, char, i64)>> = HashMap::new();
    for said in unmatched {
        let word = match said.news {
            News::Accepted if decided.contains(&(said.order.as_str(), &said.number)) => continue,
            News::Accepted => 'a',
            News::Final(Word::Delivered) => 'd',
            News::Final(Word::Undelivered) => 'u',
        };
        let content = said.contents.first().map_or(0, |content| content.low());
        let events = orders.entry(&said.order).or_default();
        events.push((said.number.clone(), word, content));
    }
    orders
        .into_iter()
        .map(|(order_id, events)| UnmatchedEvents {
            order_id: order_id.to_owned(),
            events,
        })
        .collect()
}

/// The events of one account beside the jobs that they are about.
struct Matched {
    jobs: HashMap<Uuid, SentJob>,
    by_order: HashMap<String, Vec<Uuid>>,
    facts: HashMap<Uuid, Vec<Fact>>,
}

/// What an event is about.
enum Match {
    /// Nothing that a receiver knows.
    None,
    /// It says what was clear before.
    NoNews,
    /// These jobs, which have one number and exactly this text.
    Jobs(Vec<Uuid>),
}

impl Matched {
    async fn read(
        outbox: &Outbox,
        account: &str,
        events: impl Iterator<Item = &Said> + Clone,
    ) -> Result<Self, OutboxError> {
        let mut orders: Vec<&str> = events.clone().map(|said| said.order.as_str()).collect();
        orders.sort_unstable();
        orders.dedup();
        let jobs = outbox.deliveries_of(account, &orders).await?;
        let mut matched = Self::new(jobs);
        for said in events {
            if let (News::Final(word), Match::Jobs(jobs)) = (said.news, matched.of(said)) {
                for job in jobs {
                    let fact = Fact::Number(0, word, Source::Webhook);
                    matched.facts.entry(job).or_default().push(fact);
                }
            }
        }
        Ok(matched)
    }

    fn new(jobs: Vec<SentJob>) -> Self {
        let mut by_order: HashMap<String, Vec<Uuid>> = HashMap::new();
        for job in &jobs {
            by_order
                .entry(job.order_id.clone())
                .or_default()
                .push(job.id);
        }
        Self {
            jobs: jobs.into_iter().map(|job| (job.id, job)).collect(),
            by_order,
            facts: HashMap::new(),
        }
    }

    fn of(&self, said: &Said) -> Match {
        if said.order == NO_ORDER {
            return Match::NoNews;
        }
        match (self.by_order.get(&said.order), said.news) {
            (None, _) => Match::None,
            // That the order was accepted is how it came by its number.
            (Some(_), News::Accepted) => Match::NoNews,
            (Some(jobs), News::Final(_)) => {
                let fits = |id: &&Uuid| {
                    let job = &self.jobs[*id];
                    let is_single = job
                        .delivery
                        .as_ref()
                        .is_none_or(|known| known.places().is_none());
                    is_single && said.contents.iter().any(|content| job.is_of(*content))
                };
                let fitting: Vec<Uuid> = jobs.iter().filter(fits).copied().collect();
                if fitting.is_empty() {
                    Match::None
                } else {
                    Match::Jobs(fitting)
                }
            }
        }
    }

    /// What is new in it.
    fn learn(&self) -> Vec<Learnt> {
        self.facts
            .iter()
            .filter_map(|(job, facts)| {
                let facts = facts.iter().copied();
                self.jobs[job].learn(Delivery::single(), facts, None)
            })
            .collect()
    }
}
