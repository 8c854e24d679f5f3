//! What receivers could not match: events for orders with several numbers, for orders that are not known yet, and such that do not
//! fit. An event that fits a job whose answer was lost settles it, once the order's report has confirmed it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use super::{Interrupted, Scribe, rest};
use crate::{
    delivery::{Fact, Numbers, Source, Word},
    dispatch::{AccountState, Dispatch},
    lifecycle::OrderId,
    message::{ForeignNumbers, Recipient},
    metrics::InboxResult,
    outbox::{ContentKey, LostJob, SentJob, UnmatchedEvent},
};

/// Rows in one pass; a receiver puts the events of one order and batch into one.
const ROWS: usize = 500;
/// The time between two passes: events for one order in between are written together.
const INTERVAL: Duration = Duration::from_secs(1);
/// Orders that are asked about in one pass: those that need no question wait for them.
const ASKED: usize = 5;
/// Orders with long lists whose numbers are kept: about 8 MB each at the most.
const KEPT: usize = 4;
/// What a pass has no question left for is looked at again after others had their turn.
const LATER: Duration = Duration::from_secs(5);
/// And what could not be answered, after so long.
const UNREADABLE: Duration = Duration::from_secs(60);
/// What is not matched by then is somebody else's.
const KEPT_FOR: Duration = Duration::from_hours(24);
/// What the provider puts behind a text.
const SUFFIX: &str = "B186";

/// One word about one number.
struct Event {
    row: i64,
    number: Option<Recipient>,
    /// `None`: accepted, which is no news.
    word: Option<Word>,
    content: i64,
    age: Duration,
}

/// What an event is held against.
struct Job {
    numbers: Arc<Numbers>,
    /// Of a job with several numbers: an event is about one of them.
    text: Option<Arc<str>>,
}

struct Matcher<'a> {
    scribe: Scribe<'a>,
    kept: HashMap<Uuid, (Arc<Numbers>, Arc<str>)>,
    /// How many questions this pass may still ask.
    questions: usize,
}

/// Matches events of one account until the worker stops.
pub(in crate::dispatch) async fn run(dispatch: Arc<Dispatch>, account: Arc<AccountState>) {
    let mut matcher = Matcher {
        scribe: Scribe {
            dispatch: &dispatch,
            account: &account,
        },
        kept: HashMap::new(),
        questions: 0,
    };
    while let Some(round) = dispatch.unless_stopping(matcher.round()).await {
        if !rest(&dispatch, INTERVAL, round).await {
            return;
        }
    }
}

impl Matcher<'_> {
    async fn round(&mut self) -> Result<(), Interrupted> {
        let Scribe { dispatch, account } = self.scribe;
        let outbox = &dispatch.outbox;
        let rows = outbox.due_events(&account.name, ROWS).await?;
        if rows.is_empty() {
            self.kept.clear();
            return Ok(());
        }
        account.questions.keep_lease(dispatch).await?;
        self.questions = if self.scribe.may_ask().await? {
            ASKED
        } else {
            0
        };
        let mut by_order: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        for row in rows {
            by_order
                .entry(row.order_id.clone())
                .or_default()
                .extend(events(&row));
        }
        let orders: Vec<&str> = by_order.keys().map(String::as_str).collect();
        let jobs = outbox.deliveries_of(&account.name, &orders).await?;
        let mut known: HashMap<&str, Vec<&SentJob>> = HashMap::new();
        for job in &jobs {
            known.entry(&job.order_id).or_default().push(job);
        }
        let mut doubtful = Vec::new();
        let mut strangers = Vec::new();
        for (order, events) in &by_order {
            match known.get(order.as_str()) {
                Some(jobs) => {
                    if !self.record(order, events, jobs).await? {
                        doubtful.push((order, events));
                    }
                }
                None => strangers.push((order, events)),
            }
        }
        // What may take its time comes last.
        self.place(&strangers).await?;
        for (order, events) in doubtful {
            self.confirm(order, events).await?;
        }
        Ok(())
    }

    /// Records those of an order's events that fit. `false`: some of them do not.
    async fn record(
        &mut self,
        order: &str,
        events: &[Event],
        jobs: &[&SentJob],
    ) -> Result<bool, Interrupted> {
        let Scribe { dispatch, account } = self.scribe;
        let held = self.read(jobs).await?;
        let mut facts: HashMap<Uuid, Vec<Fact>> = HashMap::new();
        let mut fitting = HashSet::new();
        for (place, event) in events.iter().enumerate() {
            let Some(number) = &event.number else {
                continue;
            };
            for job in jobs {
                let Some(against) = held.get(&job.id) else {
                    continue;
                };
                if !against.numbers.contains(number)
                    || !is_of(job, against, &account.name, number, event.content)
                {
                    continue;
                }
                fitting.insert(place);
                if let Some(word) = event.word {
                    let said = against.numbers.said(number, word, Source::Webhook);
                    facts.entry(job.id).or_default().extend(said);
                }
            }
        }
        let numbers = held
            .into_iter()
            .map(|(job, held)| (job, held.numbers))
            .collect();
        self.scribe
            .write(&[order], &numbers, Source::Webhook, |job, _| {
                Some((facts.get(&job.id)?.clone(), None))
            })
            .await?;
        // A row is done with when all of its events are.
        let open: HashSet<i64> = events
            .iter()
            .enumerate()
            .filter(|(place, _)| !fitting.contains(place))
            .map(|(_, event)| event.row)
            .collect();
        let done: HashSet<i64> = events
            .iter()
            .map(|event| event.row)
            .filter(|row| !open.contains(row))
            .collect();
        account
            .metrics
            .events(InboxResult::Matched, fitting.len() as u64);
        if !done.is_empty() {
            let done: Vec<i64> = done.into_iter().collect();
            dispatch.outbox.drop_events(&done).await?;
        }
        Ok(open.is_empty())
    }

    /// Numbers of these jobs, and the texts of those with several.
    async fn read(&mut self, jobs: &[&SentJob]) -> Result<HashMap<Uuid, Job>, Interrupted> {
        let outbox = &self.scribe.dispatch.outbox;
        let is_new = |id: &Uuid| !self.kept.contains_key(id);
        let new: Vec<Uuid> = jobs.iter().map(|job| job.id).filter(is_new).collect();
        let mut held = HashMap::new();
        for job in jobs {
            if let Some((numbers, text)) = self.kept.get(&job.id) {
                let (numbers, text) = (Arc::clone(numbers), Some(Arc::clone(text)));
                held.insert(job.id, Job { numbers, text });
            }
        }
        if new.is_empty() {
            return Ok(held);
        }
        let numbers = outbox.numbers_with_places(&new).await?;
        let mut texts = outbox.texts_of(&new).await?;
        for (id, numbers) in numbers {
            let numbers = Arc::new(numbers);
            let text: Option<Arc<str>> = texts.remove(&id).map(Arc::from);
            if let (false, Some(text)) = (numbers.is_single(), &text) {
                if self.kept.len() >= KEPT {
                    self.kept.clear();
                }
                self.kept
                    .insert(id, (Arc::clone(&numbers), Arc::clone(text)));
            }
            held.insert(id, Job { numbers, text });
        }
        Ok(held)
    }

    /// The order is ours, and its number or text is another: whoever says so may know the address, or be mistaken. What the report
    /// says counts.
    async fn confirm(&mut self, order: &str, events: &[Event]) -> Result<(), Interrupted> {
        let Scribe { dispatch, account } = self.scribe;
        let rows = rows_of(events);
        if !self.may_ask() {
            return self.postpone(&rows, LATER).await;
        }
        tracing::warn!(
            account = %account.name, order_id = %order,
            "an event of the webhook does not fit the order that it names: the order's report is asked for"
        );
        if let Some(order) = OrderId::parse(order) {
            match self.scribe.read_report(&order, false).await {
                Ok(Some(report)) => self.scribe.write_report(&order, &report).await?,
                Ok(None) => {}
                Err(error) => {
                    self.postpone(&rows, UNREADABLE).await?;
                    return Err(error);
                }
            }
        }
        account
            .metrics
            .events(InboxResult::Suspicious, rows.len() as u64);
        Ok(dispatch.outbox.drop_events(&rows).await?)
    }

    /// Orders that nobody knows (yet): sent a moment ago, lost, or not ours.
    async fn place(&mut self, strangers: &[(&String, &Vec<Event>)]) -> Result<(), Interrupted> {
        if strangers.is_empty() {
            return Ok(());
        }
        let Scribe { dispatch, account } = self.scribe;
        let outbox = &dispatch.outbox;
        let contents: Vec<i64> = strangers
            .iter()
            .flat_map(|(_, events)| events.iter().map(|event| event.content))
            .collect();
        let mut lost: HashMap<i64, Vec<LostJob>> = HashMap::new();
        for job in outbox.lost_by_content(&account.name, &contents).await? {
            lost.entry(job.content).or_default().push(job);
        }
        let (mut late, mut later) = (Vec::new(), Vec::new());
        for (order, events) in strangers {
            // Of an order with several numbers the text fits no job by itself: reconciliation finds it.
            let fitting = events.iter().find_map(|event| {
                let jobs = lost.get(&event.content)?;
                Some((event, jobs.as_slice(), event.number.as_ref()?))
            });
            let rows = rows_of(events);
            let age = events
                .iter()
                .map(|event| event.age)
                .max()
                .unwrap_or_default();
            let wait = match fitting {
                Some((_, [job], number)) => {
                    if self.may_ask() {
                        self.settle(order, job, number, &rows, age).await?
                    } else {
                        Some(LATER)
                    }
                }
                _ => Some(if age < Duration::from_secs(60) {
                    INTERVAL
                } else {
                    Duration::from_secs(60)
                }),
            };
            match wait {
                None => {}
                Some(_) if age >= KEPT_FOR => late.extend(rows),
                Some(wait) => later.extend(rows.into_iter().map(|row| (row, wait))),
            }
        }
        if !late.is_empty() {
            account
                .metrics
                .events(InboxResult::Unknown, late.len() as u64);
            outbox.drop_events(&late).await?;
        }
        if !later.is_empty() {
            outbox.postpone_events(&later).await?;
        }
        Ok(())
    }

    /// An event fits one lost job: settles it, if the order's report names its number and no other. `Some`: not now, but then;
    /// `None`: there is nothing more to do.
    async fn settle(
        &self,
        order: &str,
        job: &LostJob,
        number: &Recipient,
        rows: &[i64],
        age: Duration,
    ) -> Result<Option<Duration>, Interrupted> {
        let Scribe { dispatch, account } = self.scribe;
        let outbox = &dispatch.outbox;
        let Some(order) = OrderId::parse(order) else {
            outbox.drop_events(rows).await?;
            return Ok(None);
        };
        let read = self.scribe.read_report(&order, false).await;
        let Some(report) = (match read {
            Ok(report) => report,
            Err(error) => {
                self.postpone(rows, UNREADABLE).await?;
                return Err(error);
            }
        }) else {
            // Not visible yet. Each time costs a question.
            return Ok(Some(
                (age / 2).clamp(Duration::from_secs(2), Duration::from_secs(600)),
            ));
        };
        if !report.is_of_one(number) {
            account
                .metrics
                .events(InboxResult::Suspicious, rows.len() as u64);
            tracing::warn!(
                job.id = %job.id, account = %account.name, order_id = %order,
                "an event of the webhook fits a job whose answer was lost, and the report of its order does not: nothing is believed of it"
            );
            outbox.drop_events(rows).await?;
            return Ok(None);
        }
        let evidence = format!(
            "An event of the webhook names order {order} with the number and the text of this job, and no other job of ours has \
             lost one like it; the order's report names the same number and no other."
        );
        let worker = &dispatch.settings.worker;
        if outbox
            .settle_by_webhook(job, order.as_str(), &evidence, worker)
            .await?
        {
            account.metrics.events(InboxResult::Settled, 1);
            tracing::info!(
                job.id = %job.id, account = %account.name, order_id = %order,
                "sent: the webhook named its order, and the order's report confirmed it"
            );
            self.scribe.write_report(&order, &report).await?;
        }
        // The event itself is recorded in the next pass, as that of an order that is known.
        Ok(Some(INTERVAL))
    }

    /// Whether this pass may ask one more question.
    fn may_ask(&mut self) -> bool {
        let may = self.questions > 0;
        self.questions = self.questions.saturating_sub(1);
        may
    }

    async fn postpone(&self, rows: &[i64], wait: Duration) -> Result<(), Interrupted> {
        let later: Vec<(i64, Duration)> = rows.iter().map(|row| (*row, wait)).collect();
        Ok(self.scribe.dispatch.outbox.postpone_events(&later).await?)
    }
}

fn events(row: &UnmatchedEvent) -> Vec<Event> {
    let age = Duration::from_millis(u64::try_from(row.age_ms).unwrap_or(0));
    let said = row.numbers.iter().zip(row.words.chars());
    said.zip(&row.contents)
        .map(|((number, word), content)| Event {
            row: row.id,
            number: Recipient::parse(number, ForeignNumbers::Allowed).ok(),
            word: match word {
                'd' => Some(Word::Delivered),
                'u' => Some(Word::Undelivered),
                _ => None,
            },
            content: *content,
            age,
        })
        .collect()
}

fn rows_of(events: &[Event]) -> Vec<i64> {
    let rows: HashSet<i64> = events.iter().map(|event| event.row).collect();
    rows.into_iter().collect()
}

/// Whether the event's text is the job's. The provider may show it with its suffix, or without the space around it.
fn is_of(job: &SentJob, against: &Job, account: &str, number: &Recipient, content: i64) -> bool {
    if against.numbers.is_single() && job.content == Some(content) {
        return true;
    }
    let Some(text) = &against.text else {
        return false;
    };
    let comes_to = |text: &str| ContentKey::of(account, [number.as_str()], text).low() == content;
    let trimmed = text.trim();
    comes_to(text)
        || comes_to(trimmed)
        || comes_to(&format!("{trimmed} {SUFFIX}"))
        || comes_to(&format!("{trimmed}{SUFFIX}"))
}
