//! Following accepted messages to the phone: asks the provider's reports about what nobody has told yet, when it is worth a question,
//! and matches what receivers could not. One worker of the fleet does it for an account at a time.

mod facts;
mod inbox;
mod lists;
mod schedule;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{Days, NaiveDate, TimeDelta, TimeZone};
use chrono_tz::Europe::Istanbul;
use tokio::time::Instant;
use uuid::Uuid;

pub(super) use inbox::run as run_inbox;
pub use schedule::Following;

use super::{AccountState, Dispatch, jitter, questions::Interrupted};
use crate::{
    delivery::{Fact, Numbers, Price, Source},
    lifecycle::{ErrorClass, OrderId},
    metrics::Question,
    outbox::{Check, DueCheck, Learnt, OutboxError, SentJob, chain},
    provider::{Credentials, NumbersPage, ProbeError, Provider},
    reconciliation::ListedOrder,
};
use facts::{COMPLETE, OrderReport};
use lists::{DayList, Next};
use schedule::{FIRST_FOR_ALL, Scope, Step, WebhookShare};

/// How many jobs one statement of the schedule looks at, due or not.
const LOOKED_AT: usize = 500;
/// So many that are due are asked about together.
const GATHERED: usize = 1_000;
/// Orders in one statement that says that they are overdue.
const OVERDUE: usize = 200;
/// One question in so many may be about a message that is young and urgent, and so many at once after a silence.
const URGENT_SHARE: f64 = 0.1;
const URGENT_AT_ONCE: f64 = 10.0;
/// Where little is sent, every message is young news to somebody: so many may be asked about early that are not urgent, and one more
/// in so long.
const EARLY_AT_ONCE: f64 = 5.0;
const EARLY_SPACING: Duration = Duration::from_mins(10);
/// One question in so many checks what a webhook has said.
const SAMPLE_SPACING: u32 = 20;
/// An order that was accepted so long ago ought to be known to the reports.
const KNOWN_AFTER: Duration = Duration::from_hours(24);
/// The provider takes 50,000 numbers an order at most: fifty pages.
const MOST_PAGES: u32 = 60;

/// One who follows the deliveries of an account.
struct Follower<'a> {
    scribe: Scribe<'a>,
    steps: Vec<(Step, Instant)>,
    days: BTreeMap<NaiveDate, DayList>,
    /// How far the provider's times of orders are ahead of ours.
    ahead: TimeDelta,
    webhook: WebhookShare,
    urgent: f64,
    early: f64,
    allowed_since: Instant,
    sampled: Option<Instant>,
}

/// Follows deliveries of one account until the worker stops.
pub(super) async fn run(dispatch: Arc<Dispatch>, account: Arc<AccountState>, following: Following) {
    let now = Instant::now();
    let mut follower = Follower {
        scribe: Scribe {
            dispatch: &dispatch,
            account: &account,
        },
        steps: following
            .steps()
            .into_iter()
            .map(|step| (step, now))
            .collect(),
        days: BTreeMap::new(),
        ahead: TimeDelta::zero(),
        webhook: WebhookShare::default(),
        urgent: URGENT_AT_ONCE,
        early: EARLY_AT_ONCE,
        allowed_since: now,
        sampled: None,
    };
    let soonest = follower.steps.iter().map(|(step, _)| step.every).min();
    let interval = soonest
        .unwrap_or_default()
        .clamp(Duration::from_millis(20), Duration::from_secs(1));
    while let Some(round) = dispatch.unless_stopping(follower.round()).await {
        if !rest(&dispatch, interval, round).await {
            return;
        }
    }
}

/// The pause after a round. `false`: the worker is stopping.
async fn rest(dispatch: &Dispatch, interval: Duration, round: Result<(), Interrupted>) -> bool {
    let pause = match round {
        // What the provider said was logged where it was said.
        Ok(()) | Err(Interrupted::Provider(_)) => interval,
        // Whoever has it will have it in a while, too.
        Err(Interrupted::LeaseLost) => interval * 5,
        Err(Interrupted::Outbox(error)) if error.blames_the_row() => {
            tracing::error!(error = %chain(&error), "following deliveries failed");
            interval.max(Duration::from_secs(1))
        }
        Err(Interrupted::Outbox(error)) => dispatch.outage.failed(&error).max(interval),
    };
    dispatch.sleep(pause.mul_f64(0.75 + jitter() / 2.0)).await
}

impl Follower<'_> {
    async fn round(&mut self) -> Result<(), Interrupted> {
        for place in 0..self.steps.len() {
            let (step, next) = self.steps[place];
            if next <= Instant::now() {
                self.step(step).await?;
                self.steps[place].1 = Instant::now() + step.every.mul_f64(0.9 + jitter() / 5.0);
            }
        }
        Ok(())
    }

    /// Everything that a step has come to since the last time.
    async fn step(&mut self, step: Step) -> Result<(), Interrupted> {
        let (dispatch, account) = (self.scribe.dispatch, self.scribe.account);
        let outbox = &dispatch.outbox;
        loop {
            let from = outbox.delivery_check(&account.name, step.n).await?;
            let (due, reached, has_more) = self.gather(step, &from).await?;
            if reached == from {
                return Ok(());
            }
            account.questions.keep_lease(dispatch).await?;
            if !due.is_empty() && !self.scribe.may_ask().await? {
                return Ok(());
            }
            self.ask(step, due).await?;
            outbox.note_check(&account.name, step.n, &reached).await?;
            if !has_more {
                return Ok(());
            }
        }
    }

    /// Reads on from a cursor until enough is due; returns that, where it ends, and whether there is more.
    async fn gather(
        &mut self,
        step: Step,
        from: &Check,
    ) -> Result<(Vec<DueCheck>, Check, bool), OutboxError> {
        let outbox = &self.scribe.dispatch.outbox;
        let account = &*self.scribe.account.name;
        let (age, until) = (step.age, step.until);
        let (mut due, mut reached) = (Vec::new(), from.clone());
        let mut has_more = true;
        while has_more && due.len() < GATHERED {
            let found = outbox
                .due_checks(account, &reached, age, until, LOOKED_AT)
                .await?;
            if step.n == FIRST_FOR_ALL {
                self.webhook.learn(found.sent, found.by_webhook);
            }
            has_more = found.has_more;
            due.extend(found.due);
            reached = found.reached.unwrap_or(reached);
        }
        let scheduled = outbox
            .due_scheduled(account, &reached, age, until, GATHERED)
            .await?;
        due.extend(scheduled.due);
        reached = scheduled.reached.unwrap_or(reached);
        Ok((due, reached, has_more || scheduled.has_more))
    }

    /// Asks about what is due, with as few questions as possible.
    async fn ask(&mut self, step: Step, due: Vec<DueCheck>) -> Result<(), Interrupted> {
        let overdue: Vec<String> = if step.scope == Scope::Last {
            let undecided = due.iter().filter(|due| !due.is_sample);
            undecided.map(|due| due.order.clone()).collect()
        } else {
            Vec::new()
        };
        let mut seen = HashSet::new();
        let (samples, mut due): (Vec<DueCheck>, Vec<DueCheck>) = due
            .into_iter()
            .filter(|due| schedule::can_be_asked(due) && seen.insert(due.order.clone()))
            .partition(|due| due.is_sample);
        if step.waits_for_webhook && self.webhook.is_trusted() {
            due.clear();
        }
        if step.scope == Scope::Early {
            self.allow_more();
            due.retain(|due| {
                let allowed = if due.priority == 0 {
                    &mut self.urgent
                } else {
                    &mut self.early
                };
                let is_allowed = *allowed >= 1.0;
                *allowed -= f64::from(u8::from(is_allowed));
                is_allowed
            });
        }
        // What a list may say of several at once, and what it cannot.
        let mut by_day: BTreeMap<NaiveDate, Vec<DueCheck>> = BTreeMap::new();
        let mut alone = Vec::new();
        for due in due {
            match schedule::day_of(&due) {
                Some(day) => by_day.entry(day).or_default().push(due),
                None => alone.push(due),
            }
        }
        let mut finished = Vec::new();
        for (day, due) in by_day {
            self.walk(step, day, due, &mut finished, &mut alone).await?;
        }
        finished.extend(self.sample(step, samples));
        alone.sort_by_key(|due| due.priority);
        let mut failed = 0;
        for due in finished.iter().chain(&alone) {
            match self.scribe.report(step, due).await {
                Ok(()) => failed = 0,
                // It may be that one order's report alone, and must not hold up the others for ever.
                Err(Interrupted::Provider(error)) if is_of_one_question(&error) && failed < 2 => {
                    failed += 1;
                }
                Err(error) => return Err(error),
            }
        }
        for orders in overdue.chunks(OVERDUE) {
            let orders: Vec<&str> = orders.iter().map(String::as_str).collect();
            let numbers = self.scribe.numbers_of(&orders).await?;
            let say = |_: &SentJob, _: &Numbers| Some((vec![Fact::Overdue], None));
            self.scribe
                .write(&orders, &numbers, Source::Horizon, say)
                .await?;
        }
        Ok(())
    }

    /// Time has passed since some were asked about early.
    fn allow_more(&mut self) {
        let passed = self.allowed_since.elapsed();
        self.allowed_since = Instant::now();
        let questions = passed.div_duration_f64(self.scribe.account.questions.spacing());
        self.urgent = (self.urgent + questions * URGENT_SHARE).min(URGENT_AT_ONCE);
        self.early = (self.early + passed.div_duration_f64(EARLY_SPACING)).min(EARLY_AT_ONCE);
    }

    /// One of what a webhook has decided, now and then: a webhook that does not tell the truth is to be noticed.
    fn sample(&mut self, step: Step, samples: Vec<DueCheck>) -> Option<DueCheck> {
        let spacing = self.scribe.account.questions.spacing() * SAMPLE_SPACING;
        let is_due =
            step.n == FIRST_FOR_ALL && self.sampled.is_none_or(|last| last.elapsed() >= spacing);
        let sample = samples.into_iter().next().filter(|_| is_due)?;
        self.sampled = Some(Instant::now());
        Some(sample)
    }

    /// Reads those pages of a day's list that say enough. What is to be asked about alone is put to the others, and what has
    /// several numbers and is finished.
    async fn walk(
        &mut self,
        step: Step,
        day: NaiveDate,
        mut due: Vec<DueCheck>,
        finished: &mut Vec<DueCheck>,
        alone: &mut Vec<DueCheck>,
    ) -> Result<(), Interrupted> {
        let Some(end) = day.checked_add_days(Days::new(1)) else {
            alone.append(&mut due);
            return Ok(());
        };
        due.sort_by_key(|due| due.sent_at);
        let now = due.iter().map(schedule::seen_at).max().unwrap_or_default();
        // A day that is listed no more is forgotten.
        if let Some(oldest) = day.checked_sub_days(Days::new(10)) {
            self.days.retain(|known, _| *known >= oldest);
        }
        let list = self.days.entry(day).or_insert_with(|| {
            let midnight = Istanbul.from_local_datetime(&day.and_time(chrono::NaiveTime::MIN));
            DayList::new(midnight.earliest().map_or(now, |at| at.to_utc()))
        });
        list.start();
        while !due.is_empty() {
            let wanted: Vec<_> = due.iter().map(|due| due.sent_at + self.ahead).collect();
            let Next::Page(page) = list.next(&wanted, now + self.ahead) else {
                alone.push(due.remove(0));
                continue;
            };
            let asked = self.scribe.question(
                Question::List,
                // Whether the last day counts is not documented, so one more is asked for.
                async |provider, credentials| provider.reports(credentials, day, end, page).await,
            );
            let read = match asked.await {
                Ok(read) => read,
                // Then there is no list to go by.
                Err(Interrupted::Provider(error))
                    if matches!(error.failure.code, Some(458 | 464))
                        || is_of_one_question(&error) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            };
            let times: Vec<_> = read.orders.iter().map(|order| order.submitted_at).collect();
            list.learn(page, read.count, &times);
            let ahead = self.scribe.lines(&read.orders).await?;
            self.ahead = ahead.unwrap_or(self.ahead);
            let lines: HashMap<&str, &ListedOrder> = read
                .orders
                .iter()
                .map(|line| (line.id.as_str(), line))
                .collect();
            due.retain(|due| {
                let Some(line) = lines.get(due.order.as_str()) else {
                    return true;
                };
                let tells = line.delivered.is_some() && line.undelivered.is_some();
                match line.status {
                    Some(COMPLETE) if due.recipients > 1 => finished.push(due.clone()),
                    Some(_) if step.scope == Scope::Last && due.recipients > 1 => {
                        finished.push(due.clone());
                    }
                    Some(COMPLETE) | None if !tells || line.total != 1 => alone.push(due.clone()),
                    Some(_) | None => {}
                }
                false
            });
        }
        alone.append(&mut due);
        Ok(())
    }
}

/// Whether another question may be answered although this one was not.
fn is_of_one_question(error: &ProbeError) -> bool {
    match error.failure.class {
        ErrorClass::Auth
        | ErrorClass::Balance
        | ErrorClass::Account
        | ErrorClass::RateLimited
        | ErrorClass::Network
        | ErrorClass::Timeout => false,
        ErrorClass::Sender
        | ErrorClass::Recipients
        | ErrorClass::Content
        | ErrorClass::Iys
        | ErrorClass::Schedule
        | ErrorClass::Request
        | ErrorClass::Unavailable
        | ErrorClass::Unknown => true,
    }
}

/// One who asks about orders of an account, and writes down what is said.
#[derive(Clone, Copy)]
struct Scribe<'a> {
    dispatch: &'a Dispatch,
    account: &'a AccountState,
}

impl Scribe<'_> {
    /// Whether the account is well enough to be asked about anything.
    async fn may_ask(&self) -> Result<bool, OutboxError> {
        let outbox = &self.dispatch.outbox;
        Ok(!self.account.health.is_outage() && !outbox.is_paused(&self.account.name).await?)
    }

    async fn question<T>(
        &self,
        kind: Question,
        question: impl AsyncFnOnce(&Provider, &Credentials) -> Result<T, ProbeError>,
    ) -> Result<T, Interrupted> {
        self.account
            .questions
            .ask(self.dispatch, self.account, kind, question)
            .await
    }

    /// Asks for the report of an order and writes down what it says.
    async fn report(&self, step: Step, due: &DueCheck) -> Result<(), Interrupted> {
        let Some(order) = OrderId::parse(&due.order) else {
            return Ok(());
        };
        let Some(report) = self.read_report(&order, step.scope == Scope::Last).await? else {
            if due.age >= KNOWN_AFTER {
                tracing::warn!(
                    job.id = %due.job, account = %self.account.name, order_id = %order,
                    "the provider has no report of an order that it accepted a day ago"
                );
            }
            return Ok(());
        };
        self.write_report(&order, &report).await?;
        Ok(())
    }

    /// Reads the report of an order; of a long one that is not complete only the first page, unless all of it is wanted. `None`:
    /// there is none (yet).
    async fn read_report(
        &self,
        order: &OrderId,
        whole: bool,
    ) -> Result<Option<OrderReport>, Interrupted> {
        let mut report = OrderReport::default();
        for page in 1..=MOST_PAGES {
            let asked = self.question(Question::Report, async |provider, credentials| {
                provider.report(credentials, order, page).await
            });
            let read: NumbersPage = match asked.await {
                Ok(read) => read,
                Err(Interrupted::Provider(error))
                    if matches!(error.failure.code, Some(455 | 456 | 464)) =>
                {
                    return Ok((page > 1).then_some(report));
                }
                Err(error) => return Err(error),
            };
            let is_last = read.entries < Provider::NUMBERS_A_PAGE;
            report.add(read);
            if is_last || report.is_all_there() {
                report.is_whole = true;
                break;
            }
            if !whole && report.status != Some(COMPLETE) {
                break;
            }
        }
        Ok(Some(report))
    }

    /// Writes down what a report says of the jobs of its order. Nothing of a part of a long one: it is written once, when it is
    /// complete.
    async fn write_report(&self, order: &OrderId, report: &OrderReport) -> Result<(), Interrupted> {
        let orders = [order.as_str()];
        let numbers = self.numbers_of(&orders).await?;
        let strange = numbers
            .iter()
            .find(|(_, numbers)| report.facts(numbers).is_none());
        if let Some((job, _)) = strange {
            self.account.metrics.strange_report();
            tracing::warn!(
                job.id = %job, account = %self.account.name, order_id = %order,
                "the report of an order names numbers that its job has not: nothing is believed of it"
            );
        }
        self.write(&orders, &numbers, Source::Report, |_, numbers| {
            if report.is_whole || report.status == Some(facts::REFUSED) {
                Some((report.facts(numbers)?, report.price()))
            } else {
                None
            }
        })
        .await?;
        Ok(())
    }

    /// Writes down what the lines of a list say of our orders. Returns how far their times are ahead of those that we have.
    async fn lines(&self, lines: &[ListedOrder]) -> Result<Option<TimeDelta>, Interrupted> {
        let orders: Vec<&str> = lines.iter().map(|line| line.id.as_str()).collect();
        let by_order: HashMap<&str, &ListedOrder> =
            lines.iter().map(|line| (line.id.as_str(), line)).collect();
        let outbox = &self.dispatch.outbox;
        let jobs = outbox.deliveries_of(&self.account.name, &orders).await?;
        let mut ahead: Vec<TimeDelta> = jobs
            .iter()
            .filter_map(|job| {
                let line = by_order.get(job.order_id.as_str())?;
                Some(line.submitted_at - job.sent_at)
            })
            .collect();
        ahead.sort_unstable();
        let numbers = self.numbers_of(&orders).await?;
        self.write(&orders, &numbers, Source::List, |job, numbers| {
            let line = by_order.get(job.order_id.as_str())?;
            Some((facts::of_line(line, numbers), None))
        })
        .await?;
        Ok(ahead.get(ahead.len() / 2).copied())
    }

    /// The numbers of the jobs of these orders.
    async fn numbers_of(
        &self,
        orders: &[&str],
    ) -> Result<HashMap<Uuid, Arc<Numbers>>, OutboxError> {
        let outbox = &self.dispatch.outbox;
        let jobs = outbox.deliveries_of(&self.account.name, orders).await?;
        let jobs: Vec<Uuid> = jobs.iter().map(|job| job.id).collect();
        if jobs.is_empty() {
            return Ok(HashMap::new());
        }
        let numbers = outbox.numbers_with_places(&jobs).await?;
        Ok(numbers
            .into_iter()
            .map(|(job, numbers)| (job, Arc::new(numbers)))
            .collect())
    }

    /// Writes what is said of the jobs of these orders, whose numbers are known; reads again where somebody else wrote meanwhile.
    async fn write(
        &self,
        orders: &[&str],
        numbers: &HashMap<Uuid, Arc<Numbers>>,
        source: Source,
        say: impl Fn(&SentJob, &Numbers) -> Option<(Vec<Fact>, Option<Price>)>,
    ) -> Result<(), OutboxError> {
        if numbers.is_empty() {
            return Ok(());
        }
        let outbox = &self.dispatch.outbox;
        let account = &*self.account.name;
        let mut written: HashSet<Uuid> = HashSet::new();
        // Only a receiver writes at the same time.
        for _ in 0..5 {
            let jobs = outbox.deliveries_of(account, orders).await?;
            let learnt: Vec<Learnt> = jobs
                .iter()
                .filter(|job| !written.contains(&job.id))
                .filter_map(|job| {
                    let numbers = numbers.get(&job.id)?;
                    let (facts, price) = say(job, numbers)?;
                    let learnt = job.learn(numbers.delivery(), facts, price)?;
                    let known = job.delivery.as_ref().and_then(|known| known.outcome());
                    let was_final = known.is_some_and(|known| known.status.is_final());
                    // A list comes past everything. What is known is not written once more.
                    let is_news = !was_final || learnt.is_new() || learnt.new_conflicts() > 0;
                    (source != Source::List || is_news).then_some(learnt)
                })
                .collect();
            if learnt.is_empty() {
                return Ok(());
            }
            let now = outbox.write_deliveries(account, &learnt).await?;
            for one in learnt.iter().filter(|one| now.contains(&one.job())) {
                self.account.metrics.deliveries.learnt(one);
                if one.new_conflicts() > 0 {
                    tracing::debug!(job.id = %one.job(), account, "of a delivery both was said");
                }
            }
            written.extend(now);
        }
        Ok(())
    }
}
