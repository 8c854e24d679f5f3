//! Reconciliation: finds orders whose answer was lost in the provider's reports. One worker of the fleet does it for an
//! account at a time, slowly: no other job waits for the result.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{Days, NaiveDate};
use uuid::Uuid;

use super::{AccountState, Dispatch, jitter, questions::Interrupted};
use crate::{
    lifecycle::OrderId,
    message::Recipient,
    metrics::{Question, Reconciled},
    outbox::chain,
    provider::Provider,
    reconciliation::{Finding, ListedOrder, ReconciliationTask, Reconciling},
};

/// How many jobs one scan reconciles.
const BATCH: usize = 200;
/// The most days that are asked for at once. The provider refuses more than ten; what that means at the edges is not
/// documented.
const DAYS: u64 = 8;
/// The most orders whose numbers one scan compares. What is beyond them is left to a person.
const COMPARED: usize = 500;

/// One who reads an account's reports.
struct Reader<'a> {
    dispatch: &'a Dispatch,
    account: &'a AccountState,
    settings: Reconciling,
}

/// Everything that was read of some days.
struct Reports {
    orders: Vec<ListedOrder>,
    /// Whether that is all there is.
    complete: bool,
}

/// Reconciles lost orders of one account until the worker stops.
pub(super) async fn run(
    dispatch: Arc<Dispatch>,
    account: Arc<AccountState>,
    settings: Reconciling,
) {
    let interval = (settings.spacing * 5).max(Duration::from_millis(100));
    loop {
        let reader = Reader {
            dispatch: &dispatch,
            account: &account,
            settings,
        };
        let Some(round) = dispatch.unless_stopping(reader.round()).await else {
            return;
        };
        let pause = match round {
            Ok(()) | Err(Interrupted::LeaseLost) => interval,
            Err(Interrupted::Outbox(error)) if error.blames_the_row() => {
                tracing::error!(account = %account.name, error = %chain(&error), "reconciliation failed");
                interval
            }
            Err(Interrupted::Outbox(error)) => dispatch.outage.failed(&error).max(interval),
            // Logged where it happened.
            Err(Interrupted::Provider(_)) => interval,
        };
        let pause = pause.mul_f64(0.75 + jitter() / 2.0);
        if dispatch
            .unless_stopping(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
    }
}

impl Reader<'_> {
    async fn round(&self) -> Result<(), Interrupted> {
        let outbox = &self.dispatch.outbox;
        let account = &*self.account.name;
        if !outbox.is_being_reconciled(account).await? {
            return Ok(());
        }
        self.account.questions.keep_lease(self.dispatch).await?;
        for (job, original) in outbox.name_after_originals(account).await? {
            tracing::info!(job.id = %job, duplicate_of = %original, "the order of its original became known");
        }
        let foreign = self.dispatch.settings.foreign;
        let due = outbox.due_reconciliation(account, foreign, BATCH).await?;
        let Some(oldest) = due.first() else {
            return Ok(());
        };
        // Tasks of the same days share one scan; the others are due in a later one.
        let margin = self.settings.margin;
        let (first, last) = oldest.days(margin);
        let these: Vec<&ReconciliationTask> = due
            .iter()
            .filter(|task| {
                let (from, to) = task.days(margin);
                first <= from && to <= last
            })
            .collect();
        match self.look(first, last, &these).await {
            Err(Interrupted::Provider(error)) => {
                tracing::warn!(
                    account, error.class = %error.failure.class, error.code = error.failure.code,
                    reason = %error.failure.message, task = these.len(),
                    "reconciliation: the provider's reports could not be read; retry follows"
                );
                let note = format!("The reports could not be read: {}", error.failure.message);
                for task in &these {
                    let after = task.pause(&self.settings).max(self.settings.spacing * 60);
                    let again = Finding::Again { clean: None, after };
                    outbox.note_scan(task, &again, None, &note).await?;
                }
                Err(Interrupted::Provider(error))
            }
            other => other,
        }
    }

    async fn look(
        &self,
        first: NaiveDate,
        last: NaiveDate,
        these: &[&ReconciliationTask],
    ) -> Result<(), Interrupted> {
        let Reports {
            orders,
            mut complete,
        } = self.reports(first, last, these).await?;
        let strangers = self.strangers(orders).await?;
        if strangers.len() > COMPARED {
            complete = false;
        }
        // Which orders fit which job, numbers included.
        let mut fitting: HashMap<Uuid, Vec<ListedOrder>> = HashMap::new();
        let mut claimed: HashMap<OrderId, usize> = HashMap::new();
        let largest = these.iter().map(|task| task.numbers.len()).max();
        for order in strangers.into_iter().take(COMPARED) {
            let Some(numbers) = self.numbers(&order, largest.unwrap_or(0)).await? else {
                complete = false;
                continue;
            };
            for task in these {
                if task.may_be(&order, self.settings.margin) && task.is_to(&numbers) {
                    fitting.entry(task.job).or_default().push(order.clone());
                    *claimed.entry(order.id.clone()).or_default() += 1;
                }
            }
        }
        for task in these {
            let fits = fitting.remove(&task.job).unwrap_or_default();
            let shared = fits.iter().any(|order| claimed.get(&order.id) > Some(&1));
            self.conclude(task, fits, shared, complete).await?;
        }
        Ok(())
    }

    async fn conclude(
        &self,
        task: &ReconciliationTask,
        fitting: Vec<ListedOrder>,
        shared: bool,
        complete: bool,
    ) -> Result<(), Interrupted> {
        let outbox = &self.dispatch.outbox;
        let foreign = self.dispatch.settings.foreign;
        let account = &*self.account.name;
        let contested =
            shared || (!fitting.is_empty() && outbox.has_rivals(account, task, foreign).await?);
        let finding = task.finding(fitting.clone(), contested, complete, &self.settings);
        let job = task.job;
        let metrics = &self.dispatch.settings.metrics;
        match &finding {
            Finding::Found(order) => {
                let evidence = format!(
                    "Found in the provider's reports: order {} of sender {}, {} in number, taken at {} UTC; the numbers are \
                     those of this job, and no other message of ours can have made it. {}",
                    order.id,
                    order.sender,
                    order.total,
                    order.submitted_at.format("%Y-%m-%d %H:%M:%S"),
                    if self.settings.is_exclusive {
                        "The account is declared exclusive."
                    } else {
                        "It was accepted, and this is the only order that fits."
                    },
                );
                let worker = &self.dispatch.settings.worker;
                if outbox.settle_found(task, order, &evidence, worker).await? {
                    metrics.reconciled(Reconciled::Settled);
                    tracing::info!(
                        job.id = %job, account, order_id = %order.id,
                        "sent: its order was found in the provider's reports"
                    );
                }
                return Ok(());
            }
            Finding::None => tracing::warn!(
                job.id = %job, account, scans = task.scans + 1,
                "still uncertain: no order of this job is in the provider's reports; a person has to resolve it"
            ),
            Finding::Several => tracing::warn!(
                job.id = %job, account, candidates = fitting.len(),
                "still uncertain: several orders fit this job, or several jobs fit one order; a person has to resolve it \
                 (sms-outbox resolve shows them)"
            ),
            Finding::Candidate => tracing::warn!(
                job.id = %job, account,
                "still uncertain: one order fits this job, but others may send with this account; a person has to resolve it \
                 (sms-outbox resolve shows it)"
            ),
            Finding::Again { .. } => {}
        }
        let note = match (&finding, fitting.len()) {
            (Finding::Again { clean: None, .. }, _) => {
                "Not all of the reports could be read.".to_owned()
            }
            (_, 0) => "Nothing in the reports fits.".to_owned(),
            (_, 1) if !contested => "One order fits; whether it is this job's, only a person can say, because the account \
                                     is not named in SMS_OUTBOX_EXCLUSIVE_ACCOUNTS."
                .to_owned(),
            (_, 1) => "One order fits, which another message may have made as well.".to_owned(),
            (_, n) => format!("{n} orders fit."),
        };
        outbox
            .note_scan(task, &finding, Some(&fitting), &note)
            .await?;
        match finding {
            Finding::None => metrics.reconciled(Reconciled::None),
            Finding::Candidate => metrics.reconciled(Reconciled::Candidate),
            Finding::Several => metrics.reconciled(Reconciled::Several),
            Finding::Found(_) | Finding::Again { .. } => {}
        }
        Ok(())
    }

    /// The orders of these days that may be one of theirs.
    async fn reports(
        &self,
        first: NaiveDate,
        last: NaiveDate,
        these: &[&ReconciliationTask],
    ) -> Result<Reports, Interrupted> {
        let mut reports = Reports {
            orders: Vec::new(),
            complete: true,
        };
        let mut seen: HashSet<OrderId> = HashSet::new();
        let mut from = first;
        while from <= last {
            let to = (from + Days::new(DAYS - 1)).min(last);
            let mut entries = 0;
            for page in 1.. {
                // Whether the last day counts is not documented, so one more is asked for.
                let end = to + Days::new(1);
                let read = self
                    .account
                    .questions
                    .ask(
                        self.dispatch,
                        self.account,
                        Question::List,
                        async |provider, credentials| {
                            provider.reports(credentials, from, end, page).await
                        },
                    )
                    .await?;
                if read.orders.len() < read.entries {
                    reports.complete = false;
                }
                entries += read.entries as u64;
                let before = seen.len();
                for order in read.orders {
                    let is_new = seen.insert(order.id.clone());
                    let fits = these
                        .iter()
                        .any(|task| task.may_be(&order, self.settings.margin));
                    if is_new && fits {
                        reports.orders.push(order);
                    }
                }
                // What lies beyond the last page is not documented: nothing, or the last page again.
                let nothing_new = seen.len() == before;
                if read.entries == 0 || nothing_new || read.count.is_some_and(|all| entries >= all)
                {
                    break;
                }
            }
            from = to + Days::new(1);
        }
        Ok(reports)
    }

    /// Those of the orders that nobody has named yet.
    async fn strangers(
        &self,
        mut orders: Vec<ListedOrder>,
    ) -> Result<Vec<ListedOrder>, Interrupted> {
        let ids: Vec<&str> = orders.iter().map(|order| order.id.as_str()).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.dispatch.outbox.known_orders(&ids).await?;
        let known: HashSet<String> = known.into_iter().map(|(order, _)| order).collect();
        orders.retain(|order| !known.contains(order.id.as_str()));
        orders.sort_by_key(|order| order.submitted_at);
        Ok(orders)
    }

    /// The numbers of an order. `None`: they cannot be read now, or there are more than `most`.
    async fn numbers(
        &self,
        order: &ListedOrder,
        most: usize,
    ) -> Result<Option<BTreeSet<Recipient>>, Interrupted> {
        let mut numbers = BTreeSet::new();
        for page in 1.. {
            let question = self.account.questions.ask(
                self.dispatch,
                self.account,
                Question::Report,
                async |provider, credentials| provider.report(credentials, &order.id, page).await,
            );
            let read = match question.await {
                Ok(read) => read,
                // Not visible yet, or not due yet: about this order, and not about the reports.
                Err(Interrupted::Provider(error))
                    if matches!(error.failure.code, Some(455 | 456)) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            if read.numbers.len() < read.entries {
                return Ok(None);
            }
            let before = numbers.len();
            numbers.extend(read.numbers.into_iter().map(|one| one.number));
            if read.entries < Provider::NUMBERS_A_PAGE || numbers.len() == before {
                break;
            }
            if numbers.len() > most {
                break;
            }
        }
        Ok(Some(numbers))
    }
}
