//! `sms-outbox retry`, `cancel` and `resolve`

mod orders;

use std::{borrow::Cow, collections::HashMap, process::ExitCode};

use clap::{Args, builder::PossibleValuesParser};
use serde::Serialize;
use uuid::Uuid;

use super::{
    database::{explained, open},
    inspect,
    text::{self, count},
};
use crate::{
    config::{DatabaseArgs, Misconfigured, ProviderArgs},
    lifecycle::{ErrorClass, OrderId, Status},
    outbox::{Cancelled, Filter, Outbox, OutboxError, Reconciliation, Resolution, Resolved, Word},
};

/// As many are changed by one statement. A million in one would outlive its deadline.
const AT_ONCE: usize = 1_000;

/// How often jobs are asked for again that somebody else held or moved at that very moment.
const PASSES: usize = 3;

#[derive(Args, Debug)]
struct Selection {
    /// The jobs
    #[arg(value_name = "ID")]
    ids: Vec<Uuid>,

    /// All of this account
    #[arg(long, value_name = "NAME", conflicts_with = "ids")]
    account: Option<String>,

    /// All that met this class of failure last
    #[arg(long, value_name = "CLASS", conflicts_with = "ids",
          value_parser = PossibleValuesParser::new(ErrorClass::ALL.map(ErrorClass::as_str)))]
    class: Option<String>,

    /// All of this sender; case and spaces count
    #[arg(long, value_name = "SENDER", conflicts_with = "ids")]
    sender: Option<String>,

    /// All parts of this bulk message
    #[arg(long, value_name = "BATCH_ID", conflicts_with = "ids")]
    batch: Option<Uuid>,

    /// All there are; without it, a command with neither ids nor filters does nothing
    #[arg(long, conflicts_with_all = ["ids", "account", "class", "sender", "batch"])]
    all: bool,

    /// Of those that fit, not more than this many, the oldest first
    #[arg(long, value_name = "N", conflicts_with = "ids", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Only say how many fit; change nothing
    #[arg(long, conflicts_with = "ids")]
    dry_run: bool,

    /// Answer with a JSON object: `done` and `left` (with a reason each), by id
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Args, Debug)]
pub(super) struct CancelArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    provider: ProviderArgs,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("outcome"))]
pub(super) struct ResolveArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The job
    #[arg(value_name = "ID")]
    id: Uuid,

    /// It arrived, under this order of the provider's if you know it. Becomes sent
    #[arg(long, value_name = "ORDER", group = "outcome", num_args = 0..=1)]
    sent: Option<Option<String>>,

    /// Send it again, with all its attempts, at the risk that it arrives twice
    #[arg(long, group = "outcome")]
    resend: bool,

    /// Give it up: it becomes failed (`retry` could still send it)
    #[arg(long, group = "outcome")]
    fail: bool,

    /// The order of --sent is that of another job as well: the two were one message to the provider
    #[arg(long, requires = "sent")]
    force: bool,

    /// Why; kept in the job's history, and shown by `show`
    #[arg(long, value_name = "TEXT", requires = "outcome")]
    because: Option<String>,

    /// Who you are, if the database role does not say it; kept beside the role
    #[arg(long, value_name = "NAME", requires = "outcome")]
    by: Option<String>,
}

/// What became of the jobs of one command.
#[derive(Debug, Default, Serialize)]
struct Answer {
    done: Vec<Uuid>,
    /// Of those done, the ones that may have been sent all the same.
    may_have_been_sent: Vec<Uuid>,
    /// Sent jobs whose orders the provider has cancelled.
    cancelled_at_provider: Vec<Uuid>,
    left: Vec<Left>,
}

/// A job that was left as it is.
#[derive(Debug, Serialize)]
struct Left {
    id: Uuid,
    /// `null`: there is no such job.
    status: Option<&'static str>,
    why: Cow<'static, str>,
    /// Whether it is what was asked for anyway.
    #[serde(skip)]
    fine: bool,
}

/// What is being done to the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Retry,
    Cancel,
}

impl Deed {
    /// The one status that it applies to.
    const fn from(self) -> Status {
        match self {
            Self::Retry => Status::Failed,
            Self::Cancel => Status::Queued,
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Retry => "back in the queue, with all its attempts",
            Self::Cancel => "cancelled; it will not be sent",
        }
    }

    /// Does it to these jobs; returns those that it was done to, and whether each may have been sent before.
    async fn act(
        self,
        outbox: &Outbox,
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, Cancelled>, OutboxError> {
        let filter = Filter {
            ids: Some(ids.to_vec()),
            at_most: i64::MAX,
            ..Filter::default()
        };
        match self {
            Self::Retry => {
                let done = outbox.retry(&filter).await?;
                Ok(done.into_iter().map(|id| (id, Cancelled::Done)).collect())
            }
            Self::Cancel => Ok(outbox.cancel(&filter).await?.into_iter().collect()),
        }
    }

    /// Why a job was left as it is.
    fn left(self, id: Uuid, status: Option<Status>) -> Left {
        let (why, fine) = match (self, status) {
            (_, None) => ("there is no such job (it may have been pruned)", false),
            (Self::Cancel, Some(Status::Queued)) => (
                "it keeps being claimed and released; cancel it again in a moment",
                false,
            ),
            (Self::Cancel, Some(Status::Sending)) => (
                "too late: it is being sent right now, and cannot be recalled",
                false,
            ),
            (Self::Cancel, Some(Status::Sent)) => (
                "too late: it has been sent, and the provider does not hold it for a later moment",
                false,
            ),
            (Self::Cancel, Some(Status::Split)) => (
                "its list was cut, and its parts are jobs of their own: cancel those (`sms-outbox show` lists them)",
                false,
            ),
            (Self::Cancel, Some(Status::Failed)) => (
                "it has failed already: it is not sent unless someone retries it",
                false,
            ),
            (Self::Cancel, Some(Status::Uncertain)) => (
                "it may have been sent, and is not sent again by itself; `sms-outbox resolve` resolves it",
                false,
            ),
            (Self::Cancel, Some(Status::Expired)) => {
                ("it has expired already: it will never be sent", false)
            }
            (Self::Cancel, Some(Status::Cancelled)) => ("it was cancelled already", true),
            // Neither taken nor moved on: its moment has passed, or another transaction holds it.
            (Self::Retry, Some(Status::Failed)) => (
                "its expires_at has come, so it may not be sent any more (or someone is changing it right now); `sms-outbox \
                 show` tells",
                false,
            ),
            (Self::Retry, Some(Status::Queued)) => ("it is waiting to be sent already", false),
            (Self::Retry, Some(Status::Sending)) => ("it is being sent right now", false),
            (Self::Retry, Some(Status::Sent)) => (
                "it has been sent: a repeat would be a second message",
                false,
            ),
            (Self::Retry, Some(Status::Split)) => (
                "its list was cut, and its parts are jobs of their own: retry those (`sms-outbox show` lists them)",
                false,
            ),
            (Self::Retry, Some(Status::Uncertain)) => (
                "it may have been sent, so a person has to resolve it: look for it in the provider's panel, then `sms-outbox \
                 resolve ID --sent, --resend or --fail`",
                false,
            ),
            (Self::Retry, Some(Status::Expired)) => (
                "its expires_at has come, so it may not be sent any more; enqueue a new message",
                false,
            ),
            (Self::Retry, Some(Status::Cancelled)) => (
                "someone cancelled it, which is final; enqueue a new message",
                false,
            ),
        };
        Left {
            id,
            status: status.map(Status::as_str),
            why: why.into(),
            fine,
        }
    }
}

pub(super) async fn retry(args: RetryArgs) -> anyhow::Result<ExitCode> {
    run(Deed::Retry, &args.database, args.selection, None).await
}

pub(super) async fn cancel(args: CancelArgs) -> anyhow::Result<ExitCode> {
    let provider = Some(&args.provider);
    run(Deed::Cancel, &args.database, args.selection, provider).await
}

async fn run(
    deed: Deed,
    database: &DatabaseArgs,
    selection: Selection,
    provider: Option<&ProviderArgs>,
) -> anyhow::Result<ExitCode> {
    let has_filter = selection.account.is_some()
        || selection.class.is_some()
        || selection.sender.is_some()
        || selection.batch.is_some();
    if selection.ids.is_empty() && !has_filter && !selection.all {
        return Err(Misconfigured(
            "say which jobs: their ids, or --account, --class, --sender or --batch, or --all for every one".to_owned(),
        )
        .into());
    }
    let outbox = open(database).await?;
    let by_id = !selection.ids.is_empty();
    let mut filter = Filter {
        account: selection.account,
        status: Some(deed.from().as_str().to_owned()),
        error_class: selection.class,
        sender: selection.sender,
        batch: selection.batch,
        at_most: i64::MAX,
        ..Filter::default()
    };
    // Those that may have been sent already. A retry of many passes them over; a retry by id is deliberate.
    let mut indeterminate = Vec::new();
    let mut ids = if by_id {
        let mut ids = selection.ids;
        ids.sort_unstable();
        ids.dedup();
        filter.ids = Some(ids.clone());
        if deed == Deed::Retry {
            filter.indeterminate = Some(true);
            indeterminate = outbox.matching(&filter).await.map_err(explained)?;
        }
        ids
    } else {
        if deed == Deed::Retry {
            filter.indeterminate = Some(true);
            indeterminate = outbox.matching(&filter).await.map_err(explained)?;
            filter.indeterminate = Some(false);
        }
        filter.at_most = selection.limit.map_or(i64::MAX, i64::from);
        outbox.matching(&filter).await.map_err(explained)?
    };
    // What the provider holds until its moment can be cancelled there.
    let mut scheduled = Vec::new();
    if provider.is_some() {
        if !by_id {
            filter.at_most -= i64::try_from(ids.len()).unwrap_or(i64::MAX);
        }
        scheduled = outbox.scheduled(&filter).await.map_err(explained)?;
        scheduled.retain(|job| orders::may_be_cancelled(job, by_id));
        ids.retain(|id| !scheduled.iter().any(|job| job.id == *id));
    }
    if selection.dry_run {
        let verb = match deed {
            Deed::Retry => "put back into the queue",
            Deed::Cancel => "cancelled",
        };
        if selection.json {
            let mut answer = serde_json::json!({ "would_change": ids });
            if deed == Deed::Cancel {
                let scheduled: Vec<Uuid> = scheduled.iter().map(|job| job.id).collect();
                answer["would_cancel_at_provider"] = serde_json::json!(scheduled);
            }
            text::print_json(&answer)?;
        } else {
            let mut said = count(ids.len(), &format!("{} job", deed.from()));
            said.push_str(&format!(" would be {verb}"));
            if !scheduled.is_empty() {
                let orders = count(scheduled.len(), "sent job");
                said.push_str(&format!(
                    ", and {orders} at the provider, which still holds the orders"
                ));
            }
            text::print(&format!("{said}. Nothing was changed.\n"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut answer = Answer::default();
    for some in ids.chunks(AT_ONCE) {
        if let Err(error) = go_through(deed, &outbox, some, &mut answer).await {
            // What was done stays done.
            eprintln!(
                "{} were dealt with before this; the same command goes on with the rest.",
                count(answer.done.len(), "job")
            );
            return Err(explained(error));
        }
    }
    if let Some(provider) = provider
        && !scheduled.is_empty()
    {
        orders::cancel(&outbox, provider, &scheduled, &mut answer).await?;
    }
    answer
        .may_have_been_sent
        .extend(answer.done.iter().filter(|id| indeterminate.contains(id)));
    if selection.json {
        text::print_json(&answer)?;
    } else if by_id {
        text::print(&said_each(deed, &answer))?;
    } else {
        text::print(&said_together(deed, &answer))?;
    }
    for id in answer.may_have_been_sent.iter().take(20) {
        let what = match deed {
            Deed::Retry => "is sent again, and may arrive twice",
            Deed::Cancel => "will not be sent any more, but may have been sent already",
        };
        eprintln!(
            "warning: {id} {what}: an earlier request of it was never answered. `sms-outbox show {id}` has its history"
        );
    }
    if answer.may_have_been_sent.len() > 20 {
        eprintln!(
            "warning: the same holds for {} more",
            count(answer.may_have_been_sent.len() - 20, "job")
        );
    }
    if !by_id && !indeterminate.is_empty() {
        eprintln!(
            "note: {} left as it was, because it may have been sent already; by its id it can be retried all the same: {}",
            count(indeterminate.len(), "failed job"),
            text::listed(indeterminate.iter().take(5))
        );
    }
    let by_name = |left: &&Left| by_id || scheduled.iter().any(|job| job.id == left.id);
    if answer.left.iter().filter(by_name).any(|left| !left.fine) {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn go_through(
    deed: Deed,
    outbox: &Outbox,
    ids: &[Uuid],
    answer: &mut Answer,
) -> Result<(), OutboxError> {
    let mut rest = ids.to_vec();
    for pass in 1..=PASSES {
        let done = deed.act(outbox, &rest).await?;
        rest.retain(|id| match done.get(id) {
            None => true,
            Some(how) => {
                answer.done.push(*id);
                match how {
                    Cancelled::Done => {}
                    Cancelled::DoneButMayHaveBeenSent => answer.may_have_been_sent.push(*id),
                }
                false
            }
        });
        if rest.is_empty() {
            return Ok(());
        }
        let statuses = outbox.statuses(&rest).await?;
        // Held by another transaction, or back in the queue since we asked: worth another look.
        let moved = |id: &Uuid| pass < PASSES && statuses.get(id) == Some(&deed.from());
        let settled = rest.iter().filter(|id| !moved(id));
        answer
            .left
            .extend(settled.map(|id| deed.left(*id, statuses.get(id).copied())));
        rest.retain(moved);
    }
    Ok(())
}

fn said_each(deed: Deed, answer: &Answer) -> String {
    let mut said = String::new();
    for id in &answer.done {
        said.push_str(&format!("{id}  {}\n", deed.done()));
    }
    for id in &answer.cancelled_at_provider {
        said.push_str(&format!(
            "{id}  the provider has cancelled its order; it stays sent, and its delivery is cancelled\n"
        ));
    }
    for left in &answer.left {
        said.push_str(&format!("{}  {}\n", left.id, left.why));
    }
    said
}

fn said_together(deed: Deed, answer: &Answer) -> String {
    let mut said = match (deed, answer.done.len()) {
        (Deed::Retry, 0) => "No failed job was put back into the queue: none fits.\n".to_owned(),
        (Deed::Cancel, 0) => "No queued job was cancelled: none fits.\n".to_owned(),
        (Deed::Retry, n) => format!("{}: back in the queue.\n", count(n, "failed job")),
        (Deed::Cancel, n) => format!("{}: cancelled.\n", count(n, "queued job")),
    };
    let recalled = answer.cancelled_at_provider.len();
    if answer.done.is_empty() && (!answer.left.is_empty() || recalled > 0) {
        said.clear();
    }
    if recalled > 0 {
        said.push_str(&format!(
            "{}: the provider has cancelled the orders; they stay sent, and their delivery is cancelled.\n",
            count(recalled, "sent job")
        ));
    }
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for left in &answer.left {
        match reasons.iter_mut().find(|(why, _)| **why == *left.why) {
            Some((_, n)) => *n += 1,
            None => reasons.push((&left.why, 1)),
        }
    }
    for (why, n) in reasons {
        said.push_str(&format!("{} left as it was: {why}\n", count(n, "job")));
    }
    said
}

/// What is known about an uncertain job, for whoever has to decide.
async fn show_choices(database: &DatabaseArgs, id: Uuid) -> anyhow::Result<ExitCode> {
    let outbox = open(database).await?;
    let status = outbox.statuses(&[id]).await.map_err(explained)?;
    let Some(status) = status.get(&id) else {
        anyhow::bail!("there is no job {id}");
    };
    let now = outbox.now().await.map_err(explained)?;
    let reconciliation = outbox.reconciliation_of(id).await.map_err(explained)?;
    let mut said = format!("{:<15} {id}\n{:<15} {status}\n", "job", "status");
    match &reconciliation {
        Some(reconciliation) => said.push_str(&inspect::reconciliation_sheet(reconciliation, now)),
        None => said.push_str("No reconciliation with the provider's reports has begun.\n"),
    }
    if *status == Status::Uncertain {
        let order = reconciliation
            .as_ref()
            .map(Reconciliation::orders)
            .unwrap_or_default();
        let order = match order.as_slice() {
            [one] => one.as_str(),
            _ => "ORDER",
        };
        said.push_str(&format!(
            "\nNothing was changed. Resolve it with one of:\n\
             \x20 sms-outbox resolve {id} --sent {order}\n\
             \x20 sms-outbox resolve {id} --resend   (it may arrive twice)\n\
             \x20 sms-outbox resolve {id} --fail\n"
        ));
    }
    text::print(&said)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resolve(args: ResolveArgs) -> anyhow::Result<ExitCode> {
    let id = args.id;
    let resolution = match (args.sent, args.resend) {
        (None, false) if !args.fail => return show_choices(&args.database, id).await,
        (Some(order), _) => {
            let parse = |order: String| {
                OrderId::parse(order.trim()).ok_or_else(|| {
                    Misconfigured(format!(
                        "{order:?} is no order id: the provider's are digits (leave it out if you do not know it)"
                    ))
                })
            };
            Resolution::Sent {
                order: order.map(parse).transpose()?,
                shared: args.force,
            }
        }
        (None, true) => Resolution::Resend,
        (None, false) => Resolution::Fail,
    };
    let outbox = open(&args.database).await?;
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let word = Word {
        by: given(args.by),
        because: given(args.because),
    };
    let resolved = outbox.resolve(id, &resolution, &word).await;
    match resolved.map_err(explained)? {
        Resolved::Done => {}
        Resolved::Taken(others) => anyhow::bail!(
            "that order is known already, as the one of {}: {id} was left as it is. Look for another one in the provider's \
             panel, or leave the order out. Only if the provider took the two for one message: --force",
            text::listed(others.iter().map(|other| format!("job {other}")))
        ),
        Resolved::Unknown => {
            anyhow::bail!(
                "there is no job {id}: `sms-outbox list --status uncertain` shows which can be resolved"
            )
        }
        Resolved::Expired => anyhow::bail!(
            "{id} cannot be sent again: its expires_at has come. It is still uncertain; resolve it with --sent or --fail"
        ),
        Resolved::NotUncertain(status) => anyhow::bail!(
            "{id} is {status}, not uncertain, and was left as it is. {}",
            match status {
                Status::Failed => "`sms-outbox retry` puts a failed job back into the queue",
                Status::Queued => "`sms-outbox cancel` cancels a queued job",
                Status::Sending => "Its request is on its way: wait for the answer",
                Status::Sent
                | Status::Split
                | Status::Expired
                | Status::Cancelled
                | Status::Uncertain =>
                    "There is nothing to resolve: `sms-outbox show` tells what happened",
            }
        ),
    }
    let said = match &resolution {
        Resolution::Sent {
            order: Some(order), ..
        } => format!("{id} is sent, as order {order}: you said so.\n"),
        Resolution::Sent { order: None, .. } => {
            format!(
                "{id} is sent: you said so. Its order stays unknown unless the provider's reports name it.\n"
            )
        }
        Resolution::Resend => {
            eprintln!("warning: if the earlier request was accepted after all, it arrives twice");
            format!("{id} is back in the queue, with all its attempts.\n")
        }
        Resolution::Fail => format!(
            "{id} has failed: you gave it up. If it turns out to have arrived after all, the job still becomes sent.\n"
        ),
    };
    text::print(&said)?;
    Ok(ExitCode::SUCCESS)
}
