//! `sms-outbox send`

mod draft;

use std::{
    io::Read,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::{
    database::{explained, open},
    inspect::{coding, parts_said},
    text::{self, Reveal, count},
};
use crate::{
    config::{DatabaseArgs, Misconfigured, boolean, duration},
    delivery::DeliveryStatus,
    lifecycle::Status,
    message::{
        Bulk, ForeignNumbers, Iys, IysList, MAX_RECIPIENTS, MessageError, NewMessage, Priority,
    },
    outbox::{Outbox, Stand, advice_on, chain},
    producer::{EnqueueError, Enqueued},
};
use draft::Draft;

/// The longest that putting a message into the outbox may take: 50,000 numbers are a megabyte.
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
#[command(
    group = clap::ArgGroup::new("kind").required(true),
    group = clap::ArgGroup::new("recipients").required(true).multiple(true),
    group = clap::ArgGroup::new("when"),
    group = clap::ArgGroup::new("end"),
)]
pub(super) struct SendArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The approved header that it comes from; case and spaces count
    #[arg(long, value_name = "SENDER")]
    sender: String,

    /// A mobile number, in any spelling; may be repeated
    #[arg(
        long,
        value_name = "NUMBER",
        group = "recipients",
        allow_hyphen_values = true
    )]
    to: Vec<String>,

    /// A file of numbers, one a line; blank lines and lines that begin with # are skipped, and - is standard input. More
    /// than 50,000 numbers become several jobs that are sent one after another
    #[arg(long, value_name = "FILE", group = "recipients")]
    to_file: Option<PathBuf>,

    /// Leave numbers that cannot be sent to out, instead of refusing the message because of them
    #[arg(long)]
    skip_bad: bool,

    /// The text; - reads it from standard input, without the line end at its end
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: String,

    /// It markets nothing: a code, an order, a reminder. The law asks, so one of --transactional and --iys has to be there
    #[arg(long, group = "kind")]
    transactional: bool,

    /// It markets something: recipients without consent in this list of the registry (IYS) are dropped by the provider.
    /// BIREYSEL: individuals; TACIR: merchants
    #[arg(long, value_name = "LIST", group = "kind", value_parser = clap::builder::PossibleValuesParser::new(
        [IysList::Individual.as_str(), IysList::Merchant.as_str()]))]
    iys: Option<String>,

    /// Which account pays and limits
    #[arg(long, value_name = "NAME", default_value = "default")]
    account: String,

    /// 0 (one-time passwords) to 3 (campaigns); smaller goes first
    #[arg(long, value_name = "N", default_value_t = Priority::NORMAL.get(), value_parser = clap::value_parser!(i16).range(0..=3))]
    priority: i16,

    /// Not before this time has passed
    #[arg(long, value_name = "DURATION", group = "when", value_parser = duration)]
    due_in: Option<Duration>,

    /// Not before this moment, written with its offset as in 2026-11-22T14:05:00+03:00
    #[arg(long, value_name = "MOMENT", group = "when", value_parser = moment)]
    due_at: Option<DateTime<Utc>>,

    /// Never after this time has passed, counted from now
    #[arg(long, value_name = "DURATION", group = "end", value_parser = duration)]
    expires_in: Option<Duration>,

    /// Never at or after this moment
    #[arg(long, value_name = "MOMENT", group = "end", value_parser = moment)]
    expires_at: Option<DateTime<Utc>>,

    /// Place the order when due, and let the provider send it at this moment (rounded up to the minute). --due-at is the
    /// safer way: what the provider has accepted can be cancelled only if the provider does it
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    provider_send_at: Option<DateTime<Utc>>,

    /// A key that makes this command safe to repeat: an account has one job with it at most, also after that has ended
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// How many requests may be tried before giving up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32_767))]
    max_attempts: Option<u16>,

    /// Data of your own, kept with the job and never read
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,

    /// Take foreign numbers. Workers send them only if they are told the same
    #[arg(long, env = "SMS_OUTBOX_INTERNATIONAL", value_name = "BOOL", default_value_t = false,
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    international: bool,

    /// Only show what would be sent, how many parts the text makes, and what would be refused and why. Needs no database;
    /// exits with 1 if anything would be refused
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,

    /// Wait until it is sent, or with `delivered` until every recipient's phone has it, for this long at most (without a
    /// duration 10m): `--wait`, `--wait 5m`, `--wait delivered`, `--wait delivered:5m`. Exits with 0 only if that has come
    #[arg(long, value_name = "[delivered:]DURATION", num_args = 0..=1, default_missing_value = "10m", value_parser = wait)]
    wait: Option<Wait>,

    /// Show numbers in full. Without it they are masked, because what a terminal shows ends up in tickets and recordings
    #[arg(long)]
    reveal: bool,

    /// Answer with a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    // Without its offset a moment means one thing here, another on the server, and a third to the provider.
    DateTime::parse_from_rfc3339(text.trim())
        .map(|moment| moment.to_utc())
        .map_err(|_| {
            format!(
                "{text:?} is no moment; write it with its offset, as in 2026-11-22T14:05:00+03:00"
            )
        })
}

/// What is waited for, and for how long.
#[derive(Clone, Copy, Debug)]
struct Wait {
    goal: Goal,
    at_most: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Sent,
    Delivered,
}

const WAIT_AT_MOST: Duration = Duration::from_secs(600);

fn wait(text: &str) -> Result<Wait, String> {
    let (goal, at_most) = match text.split_once(':') {
        Some(("delivered", at_most)) => (Goal::Delivered, duration(at_most)?),
        _ if text == "delivered" => (Goal::Delivered, WAIT_AT_MOST),
        _ => (Goal::Sent, duration(text)?),
    };
    Ok(Wait { goal, at_most })
}

impl Goal {
    /// Whether it has come.
    fn is_reached(self, stand: &Stand) -> bool {
        match self {
            Self::Sent => stand.status == Status::Sent.as_str(),
            Self::Delivered => {
                stand.delivery.as_deref() == Some(DeliveryStatus::Delivered.as_str())
            }
        }
    }

    /// Whether it cannot come any more, unless a person or better evidence brings it about.
    fn is_missed(self, stand: &Stand) -> bool {
        // An uncertain job waits for a person: there is nothing left to wait for here.
        let ended = stand
            .status
            .parse()
            .is_ok_and(|status: Status| status.is_final() || status == Status::Uncertain);
        let decided = stand
            .delivery
            .as_deref()
            .and_then(|delivery| delivery.parse().ok())
            .is_some_and(DeliveryStatus::is_final);
        ended && (stand.status != Status::Sent.as_str() || (self == Self::Delivered && decided))
    }

    const fn said(self) -> &'static str {
        match self {
            Self::Sent => "the provider takes it",
            Self::Delivered => "the phone has it",
        }
    }
}

/// What is ready to be put into the outbox.
enum Ready {
    One(Box<NewMessage>),
    Bulk(Box<Bulk>),
}

/// What is in the outbox now.
struct Stored {
    ids: Vec<Uuid>,
    /// Whether the key was taken, so that nothing was inserted.
    existed: bool,
}

pub(super) async fn run(args: SendArgs) -> anyhow::Result<ExitCode> {
    let draft = read(&args)?;
    let reveal = Reveal::from(args.reveal);
    if args.dry_run {
        if args.json {
            text::print_json(&draft.json(reveal))?;
        } else {
            text::print(&draft.page(reveal))?;
        }
        return Ok(if draft.would_be_sent() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    if let Some(problems) = draft.problems_said(reveal) {
        return Err(Misconfigured(problems).into());
    }
    if draft.skips() {
        eprint!("{}", draft.refused_said(reveal));
    }
    let outbox = open(&args.database).await?;
    // The database's clock decides what is due, so it is the one that durations are counted from.
    let now =
        if args.due_in.is_some() || args.expires_in.is_some() || args.provider_send_at.is_some() {
            outbox.now().await.map_err(explained)?
        } else {
            Utc::now()
        };
    let ready = ready(&args, &draft, now)?;
    let stored = store(&outbox, &ready).await?;
    if stored.existed {
        warn_if_different(&outbox, &stored, &draft).await;
    }
    let (ids, existed) = (&stored.ids, stored.existed);
    if !args.json {
        let mut said = String::new();
        for id in ids {
            said.push_str(&format!("{id}\n"));
        }
        text::print(&said)?;
        if existed {
            eprintln!(
                "The key was taken: that is the job which has it, and nothing new was put into the outbox."
            );
        } else {
            let jobs = if ids.len() > 1 {
                format!(
                    ", as {} that are sent one after another",
                    count(ids.len(), "job")
                )
            } else {
                String::new()
            };
            eprintln!(
                "In the outbox{jobs}: {}, {} each.",
                count(draft.accepted.len(), "recipient"),
                parts_said(draft.parts)
            );
        }
    }
    let waited = match args.wait {
        None => None,
        Some(wait) => {
            if !args.json {
                eprintln!(
                    "Waiting until {}, for {:?} at most.",
                    wait.goal.said(),
                    wait.at_most
                );
            }
            Some(wait_for(&outbox, ids, wait).await?)
        }
    };
    if args.json {
        let each = |what: fn(&Stand) -> Option<&str>| {
            let stands = waited.as_ref().map(|waited| &waited.stands);
            stands.map(|stands| stands.iter().map(what).collect::<Vec<_>>())
        };
        text::print_json(&json!({
            "ids": ids,
            "existed": existed,
            "recipient_count": draft.accepted.len(),
            "coding": coding(draft.parts.coding),
            "parts_least": draft.parts.least,
            "parts_most": draft.parts.most,
            "statuses": each(|stand| Some(&stand.status)),
            "deliveries": each(|stand| stand.delivery.as_deref()),
        }))?;
    }
    match waited {
        None => Ok(ExitCode::SUCCESS),
        Some(waited) if waited.is_reached() => {
            if !args.json {
                eprintln!(
                    "{}",
                    match waited.wait.goal {
                        Goal::Sent => "Sent.",
                        Goal::Delivered => "Delivered.",
                    }
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(waited) => {
            eprintln!("{}", waited.why_not());
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What the arguments say, with what they point to.
fn read(args: &SendArgs) -> anyhow::Result<Draft> {
    let reads_numbers = args
        .to_file
        .as_deref()
        .is_some_and(|file| file.as_os_str() == "-");
    if reads_numbers && args.text == "-" {
        return Err(Misconfigured(
            "standard input can be the text or the list of numbers, not both: give one of them as a file or an argument"
                .to_owned(),
        )
        .into());
    }
    let mut numbers = args.to.clone();
    if let Some(file) = &args.to_file {
        let list = if reads_numbers {
            standard_input()?
        } else {
            std::fs::read_to_string(file).with_context(|| {
                format!("--to-file {}: it cannot be read as text", file.display())
            })?
        };
        // Spreadsheets put a mark in front of what they export.
        let lines = list.trim_start_matches('\u{feff}').lines().map(str::trim);
        numbers.extend(
            lines
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned),
        );
    }
    let body = if args.text == "-" {
        let mut body = standard_input()?;
        if body.ends_with('\n') {
            body.pop();
            if body.ends_with('\r') {
                body.pop();
            }
        }
        body
    } else {
        args.text.clone()
    };
    let iys = Iys::from_columns(args.iys.is_some(), args.iys.as_deref())
        .map_err(|error| Misconfigured(format!("--iys: {error}")))?;
    let foreign = if args.international {
        ForeignNumbers::Allowed
    } else {
        ForeignNumbers::Refused
    };
    Ok(Draft::new(
        &args.sender,
        &numbers,
        body,
        iys,
        foreign,
        args.skip_bad,
    ))
}

fn standard_input() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("standard input cannot be read as UTF-8 text")?;
    Ok(text)
}

fn ready(args: &SendArgs, draft: &Draft, now: DateTime<Utc>) -> anyhow::Result<Ready> {
    let after = |wait: Duration| {
        TimeDelta::from_std(wait)
            .ok()
            .and_then(|wait| now.checked_add_signed(wait))
            .ok_or_else(|| Misconfigured("a moment lies too far ahead".to_owned()))
    };
    let due_at = args.due_in.map(after).transpose()?.or(args.due_at);
    let expires_at = args.expires_in.map(after).transpose()?.or(args.expires_at);
    if expires_at.is_some_and(|expires| expires <= due_at.unwrap_or(now).max(now)) {
        return Err(Misconfigured(
            "it would expire before it is due, and so never be sent: put the expiry later, or leave it out".to_owned(),
        )
        .into());
    }
    if args.provider_send_at.is_some_and(|at| at <= now) {
        return Err(Misconfigured(
            "--provider-send-at lies in the past, which the provider refuses: leave it out to send at once".to_owned(),
        )
        .into());
    }
    if args
        .provider_send_at
        .zip(expires_at)
        .is_some_and(|(at, expires)| at >= expires)
    {
        return Err(Misconfigured(
            "the provider would send it when it has expired: put --provider-send-at earlier, or the expiry later".to_owned(),
        )
        .into());
    }
    let metadata = args
        .metadata
        .as_deref()
        .map(serde_json::from_str::<serde_json::Value>)
        .transpose()
        .map_err(|error| {
            Misconfigured(format!(
                "--metadata is no JSON ({error}); write {{\"order\": 1234}}"
            ))
        })?;
    let priority =
        Priority::new(args.priority).map_err(|error| Misconfigured(error.to_string()))?;
    let complete = |message: NewMessage| -> Result<NewMessage, MessageError> {
        let mut message = message.with_account(&args.account)?.with_priority(priority);
        if let Some(at) = due_at {
            message = message.with_due_at(at);
        }
        if let Some(at) = expires_at {
            message = message.with_expires_at(at);
        }
        if let Some(at) = args.provider_send_at {
            message = message.with_provider_send_at(at);
        }
        if let Some(key) = &args.key {
            message = message.with_idempotency_key(key)?;
        }
        if let Some(most) = args.max_attempts {
            message = message.with_max_attempts(most)?;
        }
        if let Some(metadata) = metadata.clone() {
            message = message.with_metadata(metadata)?;
        }
        Ok(message)
    };
    let numbers = draft.accepted.iter().map(|number| number.as_str());
    let made = if draft.accepted.len() > MAX_RECIPIENTS {
        Bulk::new(&draft.sender, numbers, &draft.body, draft.iys)
            .and_then(|bulk| bulk.try_map(complete))
            .map(|bulk| Ready::Bulk(Box::new(bulk)))
    } else {
        NewMessage::new(&draft.sender, numbers, &draft.body, draft.iys)
            .and_then(complete)
            // An id of our own is known even if the answer to the insert is lost.
            .map(|message| Ready::One(Box::new(message.with_id(Uuid::now_v7()))))
    };
    Ok(made.map_err(|error| Misconfigured(error.to_string()))?)
}

async fn store(outbox: &Outbox, ready: &Ready) -> anyhow::Result<Stored> {
    let storing = async {
        match ready {
            Ready::One(message) if message.idempotency_key().is_some() => {
                let stored = match outbox.enqueue_once(message).await {
                    // Taken at this very moment: now it can be seen.
                    Err(EnqueueError::KeyTaken { .. }) => outbox.enqueue_once(message).await,
                    other => other,
                }?;
                Ok(Stored {
                    ids: vec![stored.id()],
                    existed: matches!(stored, Enqueued::Existing(_)),
                })
            }
            Ready::One(message) => Ok(Stored {
                ids: vec![outbox.enqueue(message).await?],
                existed: false,
            }),
            Ready::Bulk(bulk) => Ok(Stored {
                ids: outbox.enqueue_bulk(bulk).await?,
                existed: false,
            }),
        }
    };
    // A statement that the server stops by itself is rolled back; one that we only stopped waiting for may be committed.
    let unknown = || {
        let look = match ready {
            Ready::One(message) => match (message.idempotency_key(), message.id()) {
                (None, Some(id)) => format!("`sms-outbox show {id}` tells"),
                _ => "the same command, with the same --key, makes sure of it".to_owned(),
            },
            Ready::Bulk(_) => "`sms-outbox list` tells".to_owned(),
        };
        format!("whether the message is in the outbox is not known: {look}")
    };
    match tokio::time::timeout(DEADLINE, storing).await {
        Err(_) => Err(anyhow::anyhow!(
            "the database did not answer within {DEADLINE:?}, and {}",
            unknown()
        )),
        Ok(Ok(stored)) => Ok(stored),
        Ok(Err(EnqueueError::KeyTaken { account, key })) => {
            let ids = outbox.with_key(&account, &key).await.map_err(explained)?;
            if ids.is_empty() {
                anyhow::bail!(
                    "the key {key:?} is taken by a job that cannot be seen (yet): try again"
                );
            }
            Ok(Stored { ids, existed: true })
        }
        Ok(Err(error)) => {
            let said = chain(&error);
            match &error {
                EnqueueError::Database(source) if source.as_database_error().is_none() => Err(
                    anyhow::anyhow!("{said}; {}. {}", unknown(), advice_on(source)),
                ),
                EnqueueError::Database(source) => {
                    Err(anyhow::anyhow!("{said}; {}", advice_on(source)))
                }
                EnqueueError::KeyTaken { .. } | EnqueueError::IdTaken { .. } => Err(error.into()),
            }
        }
    }
}

/// One key for two messages is a mistake that would otherwise pass for success.
async fn warn_if_different(outbox: &Outbox, stored: &Stored, draft: &Draft) {
    let [id] = stored.ids.as_slice() else { return };
    // A courtesy: whether it can be read changes nothing about what was done.
    let Ok(Some(job)) = outbox.job(*id).await else {
        return;
    };
    if !draft.is_what(&job) {
        eprintln!(
            "warning: that job has another sender, text, kind or list of numbers than this command: is the key right? \
             `sms-outbox show {id} --reveal` shows it"
        );
    }
}

/// What became of the jobs that were waited for.
struct Waited {
    /// In the order of the ids.
    stands: Vec<Stand>,
    wait: Wait,
    /// Whether the time was up first.
    too_long: bool,
}

impl Waited {
    fn is_reached(&self) -> bool {
        self.stands
            .iter()
            .all(|stand| self.wait.goal.is_reached(stand))
    }

    fn why_not(&self) -> String {
        let goal = self.wait.goal;
        let missing = self.stands.iter().filter(|stand| !goal.is_reached(stand));
        let mut lines: Vec<String> = missing
            .map(|Stand { id, status, delivery }| {
                let on_the_phone = match (goal, delivery) {
                    (Goal::Sent, _) => String::new(),
                    (Goal::Delivered, Some(delivery)) => format!(", its delivery {delivery}"),
                    (Goal::Delivered, None) => ", without a word about the phone".to_owned(),
                };
                format!(
                    "{id} is {status}{on_the_phone}: `sms-outbox show {id}` tells why, and what can be done"
                )
            })
            .collect();
        if self.too_long {
            lines.push(format!(
                "Waited for {:?}. The message stays in the outbox; if no worker is running (`sms-outbox doctor` looks), one has \
                 to be started.",
                self.wait.at_most
            ));
        }
        lines.join("\n")
    }
}

async fn wait_for(outbox: &Outbox, ids: &[Uuid], wait: Wait) -> anyhow::Result<Waited> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let found = match outbox.stands(ids).await {
            Ok(found) => found,
            // The message is safe; a database that is away for a moment ends no wait.
            Err(error) if error.is_transient() && start.elapsed() < wait.at_most => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(explained(error)),
        };
        let is_over = |stand: &Stand| wait.goal.is_reached(stand) || wait.goal.is_missed(stand);
        // A job that is gone was pruned.
        let all_over = found.iter().all(is_over);
        let time_is_up = start.elapsed() >= wait.at_most;
        if all_over || time_is_up {
            let stand = |id: &Uuid| {
                let found = found.iter().find(|stand| stand.id == *id);
                found.cloned().unwrap_or_else(|| Stand {
                    id: *id,
                    status: "gone".to_owned(),
                    delivery: None,
                })
            };
            return Ok(Waited {
                stands: ids.iter().map(stand).collect(),
                wait,
                too_long: !all_over,
            });
        }
        tokio::time::sleep(pause.min(wait.at_most.saturating_sub(start.elapsed()))).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
