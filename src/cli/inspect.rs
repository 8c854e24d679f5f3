//! `sms-outbox list`, `show` and `stats`

pub(super) mod explain;

use std::{process::ExitCode, time::Duration};

use chrono::{DateTime, Utc};
use clap::{Args, builder::PossibleValuesParser};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    database::{explained, open},
    text::{self, Reveal, count, span},
};
use crate::{
    config::{DatabaseArgs, duration},
    delivery::{DeliveryStatus, Source},
    lifecycle::{ErrorClass, Status},
    message::{Coding, ForeignNumbers, Parts, Recipient, estimate},
    outbox::{
        AccountHealth, AttemptRow, Candidate, Filter, JobRow, NumbersByDelivery, PartRow, PauseRow,
        ProducerQueue, QueueStat, Reconciliation, confirmed_by,
    },
};

/// Of one producer and priority, as many waiting jobs are counted at most.
const WAITING: i64 = 50_000;
/// So many pauses are shown, and the rest is counted.
const PAUSES: usize = 10;
/// Of a listed job's numbers, as many are read at most. A bulk order has up to 50,000.
const LISTED_NUMBERS: i32 = 100;

/// So many parts of a list are read at most, and so many of them shown in a table.
const PARTS: i64 = 100_000;
const PARTS_LISTED: usize = 20;

/// Of a list's numbers, as many are shown for each delivery.
const NUMBERS_BY_DELIVERY: i32 = 10;

/// Of so many uncertain jobs the candidates are told.
const CANDIDATES_SAID: usize = 10;

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Only jobs in this status
    #[arg(long, value_name = "STATUS", value_parser = PossibleValuesParser::new(Status::ALL.map(Status::as_str)))]
    status: Option<String>,

    /// Only jobs with this delivery; none: no word yet
    #[arg(long, value_name = "DELIVERY", value_parser = PossibleValuesParser::new(
        DeliveryStatus::ALL.map(DeliveryStatus::as_str).into_iter().chain(["none"])))]
    delivery: Option<String>,

    /// Only jobs of this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,

    /// Only jobs that met this class of failure
    #[arg(long, value_name = "CLASS", value_parser = PossibleValuesParser::new(ErrorClass::ALL.map(ErrorClass::as_str)))]
    class: Option<String>,

    /// Only jobs of this sender; case and spaces count
    #[arg(long, value_name = "SENDER")]
    sender: Option<String>,

    /// Only the parts of this bulk message
    #[arg(long, value_name = "BATCH_ID")]
    batch: Option<Uuid>,

    /// Only the job with this idempotency key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// Only jobs that this database role inserted
    #[arg(long, value_name = "ROLE")]
    producer: Option<String>,

    /// Only jobs to this number, in any spelling
    #[arg(long, value_name = "NUMBER", value_parser = recipient)]
    to: Option<Recipient>,

    /// Only jobs created longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older: Option<Duration>,

    /// Only jobs created within this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    newer: Option<Duration>,

    /// How many jobs at most, the newest first
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,

    #[command(flatten)]
    reveal: RevealArgs,

    /// Answer with a JSON array: the columns of sms_outbox.jobs and what is known of the delivery, moments in UTC. Of more than 100 recipients the first 100
    /// are there; recipient_count tells how many there are, and `show` has them all
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The job
    #[arg(value_name = "ID")]
    id: Uuid,

    #[command(flatten)]
    reveal: RevealArgs,

    /// Answer with a JSON object: the columns of sms_outbox.jobs and what is known of the delivery, the `numbers_by_delivery` of
    /// a list, the `attempts`, the `pauses` that hold it back, and `explanation`, an array of sentences
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct RevealArgs {
    /// Show numbers, texts, metadata and keys in full. Without it numbers are masked and texts left out, because what a
    /// terminal shows ends up in tickets, chats and recordings, and these are other people's messages
    #[arg(long)]
    reveal: bool,
}

#[derive(Args, Debug)]
pub(super) struct StatsArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Answer with a JSON array: the rows of sms_outbox.queue_stats, ages in milliseconds
    #[arg(long)]
    json: bool,
}

fn recipient(text: &str) -> Result<Recipient, String> {
    // Which numbers are sent to is for workers to say; any may be looked for.
    Recipient::parse(text, ForeignNumbers::Allowed).map_err(|error| error.to_string())
}

pub(super) async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let outbox = open(&args.database).await?;
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let filter = Filter {
        ids: None,
        account: args.account,
        status: args.status,
        error_class: args.class,
        sender: args.sender,
        batch: args.batch,
        idempotency_key: args.key,
        producer: args.producer,
        delivery: args.delivery,
        recipient: args.to.map(|number| number.as_str().to_owned()),
        older_than_s: args.older.map(seconds),
        newer_than_s: args.newer.map(seconds),
        // One more than asked for tells whether there are more.
        at_most: i64::from(args.limit) + 1,
        numbers_at_most: Some(LISTED_NUMBERS),
        indeterminate: None,
    };
    let mut jobs = outbox.list(&filter).await.map_err(explained)?;
    let now = outbox.now().await.map_err(explained)?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let uncertain: Vec<Uuid> = jobs
        .iter()
        .filter(|job| job.status == Status::Uncertain.as_str())
        .map(|job| job.id)
        .collect();
    let candidates = if uncertain.is_empty() {
        Vec::new()
    } else {
        let found = outbox.candidates(Some(&uncertain), i64::MAX).await;
        found.map_err(explained)?
    };
    let reveal = Reveal::from(args.reveal.reveal);
    if args.json {
        let mut answer: Vec<Value> = jobs.iter().map(|job| job_json(job, reveal)).collect();
        for (job, orders) in &candidates {
            let place = jobs.iter().position(|listed| listed.id == *job);
            if let Some(place) = place {
                answer[place]["candidates"] = json!(orders);
            }
        }
        text::print_json(&answer)?;
    } else if jobs.is_empty() {
        text::print("No job fits.\n")?;
    } else {
        let table = job_table(&jobs, now, reveal, text::width());
        text::print(&format!("{table}{}", candidates_said(&candidates)))?;
    }
    if more {
        eprintln!(
            "There are more: these are the newest {}. A larger --limit shows more of them.",
            args.limit
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let outbox = open(&args.database).await?;
    let Some(job) = outbox.job(args.id).await.map_err(explained)? else {
        anyhow::bail!(
            "there is no job {}: `sms-outbox list` shows what there is (finished jobs may have been pruned)",
            args.id
        );
    };
    let now = outbox.now().await.map_err(explained)?;
    let attempts = outbox.attempts(args.id).await.map_err(explained)?;
    let reconciliation = outbox.reconciliation_of(args.id).await.map_err(explained)?;
    let parts = if job.status == Status::Split.as_str() {
        outbox.parts_of(job.id, PARTS).await.map_err(explained)?
    } else {
        Vec::new()
    };
    let numbers = if job.recipient_count > 1 && job.delivery.is_some() {
        let numbers = outbox.numbers_by_delivery(job.id, NUMBERS_BY_DELIVERY);
        numbers.await.map_err(explained)?
    } else {
        Vec::new()
    };
    let pauses: Vec<PauseRow> = outbox
        .pauses(Some(&job.account))
        .await
        .map_err(explained)?
        .into_iter()
        .filter(|pause| explain::holds_back(pause, &job))
        .collect();
    let explanation = explain::sentences(&job, &pauses, now);
    let reveal = Reveal::from(args.reveal.reveal);
    if args.json {
        let mut answer = job_json(&job, reveal);
        answer["attempts"] = json!(attempts);
        answer["reconciliation"] = json!(reconciliation);
        answer["pauses"] = json!(pauses);
        answer["parts"] = json!(parts);
        answer["numbers_by_delivery"] = json!(masked(numbers, reveal));
        answer["explanation"] = json!(explanation);
        text::print_json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut answer = job_sheet(&job, now, reveal);
    answer.push('\n');
    for sentence in &explanation {
        answer.push_str(sentence);
        answer.push('\n');
    }
    answer.push('\n');
    if attempts.is_empty() {
        answer.push_str("No request has been made for it.\n");
    } else {
        answer.push_str(&attempt_table(&attempts, now, text::width()));
    }
    if !parts.is_empty() {
        answer.push('\n');
        answer.push_str(&parts_sheet(&parts, text::width()));
    }
    if !numbers.is_empty() {
        answer.push('\n');
        answer.push_str(&numbers_sheet(&masked(numbers, reveal)));
    }
    if let Some(reconciliation) = &reconciliation {
        answer.push('\n');
        answer.push_str(&reconciliation_sheet(reconciliation, now));
        if job.status == Status::Uncertain.as_str() {
            answer.push_str(&candidates_said(&[(
                job.id,
                reconciliation.candidates.to_vec(),
            )]));
        }
    }
    text::print(&answer)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn stats(args: StatsArgs) -> anyhow::Result<ExitCode> {
    let outbox = open(&args.database).await?;
    let stats = outbox.stats().await.map_err(explained)?;
    // Whoever may only look need not be able to see this.
    let found = outbox.identity().await.ok();
    let stands_still = found.and_then(|found| found.change()).map(|change| {
        format!(
            "Nothing is sent, because {change}; {}\n",
            confirmed_by(&change)
        )
    });
    if args.json {
        if let Some(why) = stands_still {
            eprint!("note: {why}");
        }
        text::print_json(&stats)?;
        return Ok(ExitCode::SUCCESS);
    }
    let pauses = outbox.pauses(None).await.map_err(explained)?;
    // Whoever may only look need not be able to see these either.
    let accounts = outbox.accounts().await.unwrap_or_default();
    let waiting = outbox
        .waiting_by_producer(WAITING)
        .await
        .unwrap_or_default();
    let candidates = outbox.candidates(None, CANDIDATES_SAID as i64 + 1).await;
    let page = format!(
        "{}{}{}",
        stats_page(&stats, &pauses, &accounts, text::width()),
        producers_said(&waiting),
        candidates_said(&candidates.unwrap_or_default())
    );
    let why = stands_still.map(|why| format!("\n{why}"));
    text::print(&format!("{page}{}", why.unwrap_or_default()))?;
    Ok(ExitCode::SUCCESS)
}

/// A job by its column names. What is hidden is null, so that no script mistakes it for an empty text.
fn job_json(job: &JobRow, reveal: Reveal) -> Value {
    let mut answer = json!(job);
    let numbers = |numbers: &[Option<String>]| -> Vec<Option<String>> {
        numbers
            .iter()
            .map(|number| number.as_deref().map(|number| reveal.number(number)))
            .collect()
    };
    answer["recipients"] = json!(numbers(&job.recipients));
    answer["rejected_recipients"] = json!(job.rejected_recipients.as_deref().map(numbers));
    answer["idempotency_key"] = json!(job.idempotency_key.as_deref().map(|key| reveal.key(key)));
    if reveal == Reveal::Hidden {
        answer["body"] = Value::Null;
        answer["metadata"] = Value::Null;
    }
    let parts = estimate(&job.body);
    answer["body_characters"] = json!(job.body.chars().count());
    answer["coding"] = json!(coding(parts.coding));
    answer["parts_least"] = json!(parts.least);
    answer["parts_most"] = json!(parts.most);
    answer
}

fn masked(mut numbers: Vec<NumbersByDelivery>, reveal: Reveal) -> Vec<NumbersByDelivery> {
    let all = numbers.iter_mut().flat_map(|these| &mut these.numbers);
    for number in all.flatten() {
        *number = reveal.number(number);
    }
    numbers
}

/// What became of the numbers of a list, a line for each.
fn numbers_sheet(numbers: &[NumbersByDelivery]) -> String {
    let mut sheet = String::new();
    for these in numbers {
        let shown: Vec<&str> = these.numbers.iter().flatten().map(String::as_str).collect();
        let more = usize::try_from(these.count)
            .unwrap_or(0)
            .saturating_sub(shown.len());
        let more = match more {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        sheet.push_str(&format!(
            "{:<15} {}: {}{more}\n",
            these.delivery.as_deref().unwrap_or("no word yet"),
            count(these.count, "number"),
            text::visible(&shown.join(", "))
        ));
    }
    sheet
}

/// What is known of the way to the phone, and from whom.
fn delivery_said(job: &JobRow) -> Option<String> {
    let delivery = job.delivery.as_ref()?;
    let (delivered, undelivered) = (job.delivered.unwrap_or(0), job.undelivered.unwrap_or(0));
    let total = job.delivery_total.unwrap_or(0);
    let counts = if total > 1 {
        format!(" ({total} numbers: {delivered} delivered, {undelivered} not)")
    } else {
        String::new()
    };
    let known = |source: Source| job.delivery_source.as_deref() == Some(source.as_str());
    let source = if known(Source::Report) || known(Source::List) {
        "as the provider's report says"
    } else if known(Source::Webhook) {
        "as a webhook says"
    } else if known(Source::Operator) {
        "as the provider confirmed to an operator"
    } else {
        "because nobody said anything final in time"
    };
    let conflicts = match job.delivery_conflicts.unwrap_or(0) {
        0 => String::new(),
        n => format!("; of {} the contrary was said too", count(n, "number")),
    };
    Some(format!("{delivery}{counts}, {source}{conflicts}"))
}

pub(super) const fn coding(coding: Coding) -> &'static str {
    match coding {
        Coding::English => "english",
        Coding::Turkish => "turkish",
        Coding::Unicode => "unicode",
    }
}

/// `1 part`, `1 to 2 parts`
pub(super) fn parts_said(parts: Parts) -> String {
    if parts.least == parts.most {
        count(parts.least, "part")
    } else {
        format!("{} to {} parts", parts.least, parts.most)
    }
}

fn body_said(body: &str, reveal: Reveal) -> String {
    match reveal {
        Reveal::Shown => body.to_owned(),
        Reveal::Hidden => {
            let characters = count(body.chars().count(), "character");
            format!("{characters}, {}", parts_said(estimate(body)))
        }
    }
}

/// The first of the numbers, and how many more there are.
fn numbers_said(job: &JobRow, at_most: usize, reveal: Reveal) -> String {
    let mut said: Vec<String> = job
        .recipients
        .iter()
        .take(at_most)
        .map(|number| {
            number
                .as_deref()
                .map_or_else(|| "(null)".to_owned(), |number| reveal.number(number))
        })
        .collect();
    let all = usize::try_from(job.recipient_count).unwrap_or(0);
    if all > said.len() {
        said.push(format!("and {} more", all - said.len()));
    }
    said.join(", ")
}

/// Narrow terminals get fewer columns: a wrapped id cannot be copied.
fn job_table(jobs: &[JobRow], now: DateTime<Utc>, reveal: Reveal, width: Option<u16>) -> String {
    let several_accounts = jobs.iter().any(|job| job.account != "default");
    let is_wide = width.is_none_or(|width| width >= 130);
    let mut header = vec!["ID", "STATUS", "AGE"];
    if is_wide {
        header.push("DELIVERY");
        if several_accounts {
            header.push("ACCOUNT");
        }
        header.extend(["SENDER", "TO", "TEXT", "TRIES", "NOTE"]);
    } else {
        header.push("MESSAGE");
    }
    let mut table = text::table(&header, 3, width.map(|width| width.max(72)));
    for job in jobs {
        let age = text::ms_until(job.created_at.as_deref(), now).map_or_else(String::new, span);
        let mut row = vec![job.id.to_string(), job.status.clone(), age];
        let (to, body, note) = (
            numbers_said(job, 2, reveal),
            body_said(&job.body, reveal),
            explain::note(job, now),
        );
        let delivery = job.delivery.clone().unwrap_or_default();
        if is_wide {
            row.push(delivery);
            if several_accounts {
                row.push(job.account.clone());
            }
            row.extend([job.sender.clone(), to, body, job.attempt.to_string(), note]);
        } else {
            let account = if several_accounts {
                format!("{}: ", job.account)
            } else {
                String::new()
            };
            let notes = [delivery, note];
            let notes = notes.iter().filter(|note| !note.is_empty());
            let note: String = notes.map(|note| format!("; {note}")).collect();
            row.push(format!("{account}{} to {to}; {body}{note}", job.sender));
        }
        table.add_row(text::cells(row));
    }
    text::lines(&table)
}

/// Everything that is known about a job, a line each; what is not set is left out.
fn job_sheet(job: &JobRow, now: DateTime<Utc>, reveal: Reveal) -> String {
    // A year that only Postgres can hold is shown as it came.
    let at =
        |moment: &Option<String>| text::moment(moment.as_deref(), now).or_else(|| moment.clone());
    let rejected = job.rejected_recipients.as_deref().map(|numbers| {
        let shown = numbers.iter().map(|number| {
            number
                .as_deref()
                .map_or_else(|| "(null)".to_owned(), |number| reveal.number(number))
        });
        shown.collect::<Vec<_>>().join(", ")
    });
    let iys = match &job.iys_list {
        Some(list) => format!("marketing, list {list}"),
        None => "transactional".to_owned(),
    };
    let shown_numbers = match reveal {
        Reveal::Hidden => 10,
        Reveal::Shown => usize::MAX,
    };
    let recipients = format!(
        "{} ({})",
        numbers_said(job, shown_numbers, reveal),
        count(job.recipient_count, "recipient")
    );
    let body = match reveal {
        Reveal::Hidden => format!("{} (--reveal shows it)", body_said(&job.body, reveal)),
        Reveal::Shown => job.body.clone(),
    };
    let metadata = match (job.metadata.as_str(), reveal) {
        ("{}", _) => None,
        (_, Reveal::Hidden) => Some("(--reveal shows it)".to_owned()),
        (metadata, Reveal::Shown) => Some(metadata.to_owned()),
    };
    let error = job.error_class.as_ref().map(|class| {
        let code = job
            .error_code
            .map_or_else(String::new, |code| format!(" {code}"));
        let message = job.error_message.as_deref().unwrap_or_default();
        format!("{class}{code}: {message}")
    });
    let lines: [(&str, Option<String>); 32] = [
        ("job", Some(job.id.to_string())),
        ("status", Some(job.status.clone())),
        ("account", Some(job.account.clone())),
        ("sender", Some(job.sender.clone())),
        ("recipients", Some(recipients)),
        ("rejected", rejected),
        ("text", Some(body)),
        ("kind", Some(iys)),
        ("priority", Some(job.priority.to_string())),
        (
            "attempts",
            Some(format!("{} of {}", job.attempt, job.max_attempts)),
        ),
        ("created", at(&job.created_at)),
        ("due", at(&job.due_at)),
        ("expires", at(&job.expires_at)),
        ("provider sends", at(&job.provider_send_at)),
        ("claimed", at(&job.claimed_at)),
        ("by worker", job.worker.clone()),
        ("lease until", at(&job.lease_until)),
        ("indeterminate", at(&job.ambiguous_since)),
        ("sent", at(&job.sent_at)),
        ("finished", at(&job.finished_at)),
        ("order", job.order_id.clone()),
        ("delivery", delivery_said(job)),
        ("last news", at(&job.delivery_changed_at)),
        (
            "price",
            job.price
                .as_ref()
                .map(|price| format!("{price}, in the account's unit (credits or liras)")),
        ),
        ("duplicate of", job.duplicate_of.map(|id| id.to_string())),
        ("part of", job.part_of.map(|id| id.to_string())),
        ("failure", error),
        (
            "key",
            job.idempotency_key.as_deref().map(|key| reveal.key(key)),
        ),
        ("batch", job.batch_id.map(|id| id.to_string())),
        ("metadata", metadata),
        ("trace", job.traceparent.clone()),
        ("producer", Some(job.producer.clone())),
    ];
    let mut sheet = String::new();
    for (name, value) in lines {
        if let Some(value) = value {
            // The text's own lines stay, and none of them can pass for another of these.
            let value: Vec<_> = value.split('\n').map(text::visible).collect();
            sheet.push_str(&format!(
                "{name:<15} {}\n",
                value.join(&format!("\n{:16}", ""))
            ));
        }
    }
    sheet
}

fn attempt_table(attempts: &[AttemptRow], now: DateTime<Utc>, width: Option<u16>) -> String {
    let header = ["TRY", "BEGAN", "TOOK", "REQUEST", "WORKER", "WHAT HAPPENED"];
    let mut table = text::table(&header, 4, width.map(|width| width.max(100)));
    for attempt in attempts {
        let began = text::ms_until(attempt.started_at.as_deref(), now)
            .map_or_else(String::new, text::from_now);
        let took = attempt
            .duration_ms
            .map_or_else(String::new, |ms| span(i64::from(ms)));
        // Neither is counted against max_attempts: a released attempt, and what somebody else noticed.
        let number = if attempt.counted {
            attempt.attempt.to_string()
        } else {
            format!("({})", attempt.attempt)
        };
        table.add_row(text::cells(vec![
            number,
            began,
            took,
            attempt
                .progress
                .as_deref()
                .unwrap_or_default()
                .replace('_', " "),
            attempt.worker.clone().unwrap_or_default(),
            explain::attempt(attempt),
        ]));
    }
    text::lines(&table)
}

/// What became of the parts of a list: how many of them and of their numbers, and which they are.
fn parts_sheet(parts: &[PartRow], width: Option<u16>) -> String {
    let mut sheet = String::new();
    for status in Status::ALL {
        let these = parts.iter().filter(|part| part.status == status.as_str());
        let numbers: i64 = these
            .clone()
            .map(|part| i64::from(part.recipient_count))
            .sum();
        let these = these.count();
        if these > 0 {
            let said = count(these, "part");
            sheet.push_str(&format!(
                "{status:<15} {said}, {}\n",
                count(numbers, "number")
            ));
        }
    }
    let mut table = text::table(&["PART", "STATUS", "NUMBERS", "NOTE"], 3, width);
    for part in parts.iter().take(PARTS_LISTED) {
        let failure = part
            .error_class
            .as_ref()
            .map(|class| match part.error_code {
                Some(code) => format!("{class} {code}"),
                None => class.clone(),
            });
        let order = part.order_id.as_ref().map(|order| format!("order {order}"));
        table.add_row(vec![
            part.id.to_string(),
            part.status.clone(),
            part.recipient_count.to_string(),
            order.or(failure).unwrap_or_default(),
        ]);
    }
    sheet.push('\n');
    sheet.push_str(&text::lines(&table));
    if parts.len() > PARTS_LISTED {
        sheet.push_str("… and more: `sms-outbox show --json` has them all\n");
    }
    sheet
}

/// The reconciliation of a job, and the orders that may be its own.
pub(super) fn reconciliation_sheet(reconciliation: &Reconciliation, now: DateTime<Utc>) -> String {
    let scans = usize::try_from(reconciliation.scans).unwrap_or(0);
    let stand = match reconciliation.outcome.as_deref() {
        Some("found") => "found in the provider's reports".to_owned(),
        Some("none") => format!(
            "not in the provider's reports ({}); a person has to resolve it",
            count(scans, "reading")
        ),
        Some("candidate") => {
            "one order fits, and may be somebody else's; a person has to resolve it".to_owned()
        }
        Some("several") => "several orders fit; a person has to resolve it".to_owned(),
        Some(_) | None => {
            let next = reconciliation.next_in_ms.filter(|ms| *ms > 0);
            let next = next.map_or_else(|| "now".to_owned(), |ms| format!("in {}", span(ms)));
            format!(
                "reconciliation with the provider's reports goes on ({} so far), next {next}",
                count(scans, "reading")
            )
        }
    };
    let mut sheet = format!("{:<15} {stand}\n", "reconciliation");
    if let Some(note) = &reconciliation.note {
        sheet.push_str(&format!("{:<15} {note}\n", "last reading"));
    }
    for candidate in reconciliation.candidates.iter() {
        let state = match candidate.status {
            Some(113) => "being sent",
            Some(114) => "completed",
            Some(115) => "not sent",
            Some(_) | None => "state unknown",
        };
        let taken = text::moment(Some(&candidate.submitted_at.to_rfc3339()), now);
        sheet.push_str(&format!(
            "{:<15} order {}, taken {}, {}, {state}\n",
            "candidate",
            candidate.order_id,
            taken.unwrap_or_else(|| candidate.submitted_at.to_rfc3339()),
            count(
                usize::try_from(candidate.total).unwrap_or(usize::MAX),
                "recipient"
            ),
        ));
    }
    sheet
}

/// The orders that may be those of uncertain jobs, with the commands that say so.
fn candidates_said(jobs: &[(Uuid, Vec<Candidate>)]) -> String {
    let commands: Vec<String> = jobs
        .iter()
        .take(CANDIDATES_SAID)
        .flat_map(|(job, orders)| {
            orders
                .iter()
                .map(move |order| format!("  sms-outbox resolve {job} --sent {}\n", order.order_id))
        })
        .collect();
    if commands.is_empty() {
        return String::new();
    }
    let more = if jobs.len() > CANDIDATES_SAID {
        "  … and more: `sms-outbox list --status uncertain`\n"
    } else {
        ""
    };
    format!(
        "\nOrders in the provider's reports that may be those of uncertain jobs. The panel shows their texts; if one is the \
         job's, say so:\n{}{more}",
        commands.concat()
    )
}

/// Who waits, where several do.
fn producers_said(waiting: &[ProducerQueue]) -> String {
    let mut said = String::new();
    for queues in waiting.chunk_by(|one, other| one.account == other.account) {
        if let [first, _, ..] = queues {
            let each = queues
                .iter()
                .map(|queue| format!("{} {}", queue.producer, queue.jobs));
            let each: Vec<String> = each.collect();
            said.push_str(&format!(
                "\nWaiting in account {}, by producer: {}\n",
                first.account,
                each.join(", ")
            ));
        }
    }
    said
}

fn stats_page(
    stats: &[QueueStat],
    pauses: &[PauseRow],
    accounts: &[AccountHealth],
    width: Option<u16>,
) -> String {
    let mut page = String::new();
    if stats.is_empty() {
        page.push_str("There are no jobs.\n");
    } else {
        let mut table = text::table(&["ACCOUNT", "STATUS", "JOBS", "OLDEST DUE FOR"], 4, width);
        for line in stats {
            table.add_row(text::cells(vec![
                line.account.clone(),
                line.status.clone().unwrap_or_else(|| "-".to_owned()),
                line.jobs.to_string(),
                line.oldest_due_age_ms.map_or_else(String::new, span),
            ]));
        }
        page.push_str(&text::lines(&table));
        // Counting what was sent would read all of it.
        if stats
            .iter()
            .any(|line| line.status.as_deref() == Some(Status::Sent.as_str()))
        {
            page.push_str(
                "What became of the sent ones on the phone: `sms-outbox list --delivery undelivered`, sms_outbox.batches, and \
                 the metrics.\n",
            );
        }
    }
    for account in accounts {
        if let Some(lasts) = account.outage_ms {
            page.push_str(&format!(
                "\nThe provider is unavailable for account {} since {}: nothing new is sent until it answers. {}\n",
                account.account,
                span(lasts),
                account.failure_message.as_deref().unwrap_or_default()
            ));
        }
    }
    for pause in pauses.iter().take(PAUSES) {
        page.push_str(&format!("\nPaused: {}\n", explain::pause(pause)));
    }
    if let Some(more) = pauses.len().checked_sub(PAUSES).filter(|more| *more > 0) {
        page.push_str(&format!("\nAnd {}.\n", count(more, "more pause")));
    }
    page
}
