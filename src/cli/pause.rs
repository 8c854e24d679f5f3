//! `sms-outbox pause` and `resume`

use std::{process::ExitCode, time::Duration};

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};

use super::{
    database::{explained, open},
    inspect::explain,
    send::moment,
    text::{self, count, span},
};
use crate::{
    config::{DatabaseArgs, Misconfigured, duration},
    lifecycle::PauseScope,
    outbox::{Filter, Promotions},
    provider::origin,
};

/// A promotion that is announced for longer is forgotten before it comes.
const LONGEST_ANNOUNCEMENT: Duration = Duration::from_secs(86_400);

/// How many jobs one statement makes uncertain.
const AT_ONCE: usize = 5_000;

/// Whom: an account, or a part of it.
#[derive(Args, Debug)]
struct Target {
    /// The account; `default` if not given
    #[arg(long, value_name = "NAME")]
    account: Option<String>,

    /// Only this sender of the account; case and spaces count
    #[arg(long, value_name = "SENDER", conflicts_with = "iys")]
    sender: Option<String>,

    /// Only the account's marketing (jobs with iys = true)
    #[arg(long)]
    iys: bool,
}

impl Target {
    fn account(&self) -> &str {
        self.account.as_deref().unwrap_or("default")
    }

    /// Which scope, and the sender where it is one.
    fn scope(&self) -> Result<(PauseScope, &str), Misconfigured> {
        if self.account().trim().is_empty() {
            return Err(Misconfigured("--account needs a name".to_owned()));
        }
        match (&self.sender, self.iys) {
            (Some(sender), _) if sender.trim().is_empty() => {
                Err(Misconfigured("--sender needs a name".to_owned()))
            }
            (Some(sender), _) => Ok((PauseScope::Sender, sender)),
            (None, true) => Ok((PauseScope::Iys, "")),
            (None, false) => Ok((PauseScope::Account, "")),
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    target: Target,

    /// End it by itself after this time; without it, it ends with `resume` only
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasts: Option<Duration>,

    /// Why, for whoever looks next
    #[arg(long, value_name = "TEXT", default_value = "Paused by hand.")]
    reason: String,
}

#[derive(Args, Debug)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    target: Target,

    /// Every pause there is, or every one of --account
    #[arg(long, conflicts_with_all = ["sender", "iys"])]
    all: bool,

    /// Send from this database, although it is not the pinned one: a restored backup, or a promoted
    /// standby. Never in a copy for staging
    ///
    /// What was sent after the backup was made (or had not reached the standby) looks unsent here. Jobs that were due by then
    /// may have been sent; --waiting says what becomes of them. Jobs that were being sent are treated as after any crash.
    #[arg(long, conflicts_with_all = ["account", "sender", "iys", "all"])]
    after_restore: bool,

    /// The next promotion of a standby is meant: workers go on after it, once, if it comes within --within. Say it before a
    /// planned switchover, to a database whose standby receives everything
    #[arg(long, conflicts_with_all = ["account", "sender", "iys", "all", "after_restore"])]
    before_promotion: bool,

    /// With --before-promotion: for how long the promotion is waited for
    #[arg(long, requires = "before_promotion", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    within: Duration,

    /// The queue is for the provider at this address from now on, as in ILETIMERKEZI_BASE_URL: workers with another one claim
    /// nothing. What waits is sent there
    #[arg(long, value_name = "URL", conflicts_with_all = ["account", "sender", "iys", "all", "after_restore", "before_promotion"])]
    provider: Option<String>,

    /// With --after-restore: what becomes of queued jobs that were due
    #[arg(
        long,
        requires = "after_restore",
        value_name = "WHAT",
        default_value = "send"
    )]
    waiting: Waiting,

    /// With --waiting uncertain: those that were due by this moment, written with its offset as in 2026-11-22T14:05:00+03:00;
    /// the one when the lost database was last alive is right [default: now]
    #[arg(long, requires = "after_restore", value_name = "MOMENT", value_parser = moment)]
    due_by: Option<DateTime<Utc>>,

    /// With --after-restore: whether workers stop again at the next promotion of a standby (stop), or go on because replication
    /// is synchronous and forgets nothing (go-on); a point-in-time recovery is then not noticed either [default: as before]
    #[arg(long, requires = "after_restore", value_name = "WHAT")]
    promotions: Option<OnPromotion>,
}

/// What becomes of queued jobs that the lost database may have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Waiting {
    /// They stay queued and are sent: right where a second message does less harm than none, and where the backup is seconds
    /// old
    Send,
    /// They become uncertain, for reconciliation or a person to resolve: right where nobody may get a message twice
    Uncertain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnPromotion {
    Stop,
    GoOn,
}

pub(super) async fn pause(args: PauseArgs) -> anyhow::Result<ExitCode> {
    let account = args.target.account();
    let (scope, sender) = args.target.scope()?;
    if args.lasts.is_some_and(|lasts| lasts.is_zero()) {
        return Err(Misconfigured("--for must be longer than 0".to_owned()).into());
    }
    let outbox = open(&args.database).await?;
    let paused = outbox
        .pause_by_hand(
            account,
            scope,
            sender,
            args.reason.trim(),
            &operator(),
            args.lasts,
        )
        .await
        .map_err(explained)?;
    let who = explain::held(account, scope.as_str(), sender);
    let until = match (&paused.until, args.lasts) {
        (Some(until), Some(lasts)) => {
            let ms = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
            format!(" for {}, until {until}", span(ms))
        }
        _ => ", until someone resumes it".to_owned(),
    };
    let mut said = format!(
        "Paused: {who}{until}.\nNothing of it is claimed any more; what was claimed before is finished.\n"
    );
    if let Some(replaced) = paused.replaced {
        said.push_str(&format!(
            "This replaces a pause that held: {}\n",
            replaced.trim_end()
        ));
    }
    text::print(&said)?;
    // Nothing can tell a misspelt name from one that has no jobs yet.
    let filter = Filter {
        account: Some(account.to_owned()),
        sender: args.target.sender.clone(),
        at_most: 1,
        ..Filter::default()
    };
    if outbox
        .matching(&filter)
        .await
        .is_ok_and(|jobs| jobs.is_empty())
    {
        eprintln!("note: {who} has no jobs so far; is the name right?");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(args: ResumeArgs) -> anyhow::Result<ExitCode> {
    if args.after_restore {
        return after_restore(args).await;
    }
    if args.before_promotion {
        return before_promotion(&args).await;
    }
    if let Some(provider) = &args.provider {
        return name_provider(&args, provider).await;
    }
    let (scope, sender) = args.target.scope()?;
    let outbox = open(&args.database).await?;
    let by = operator();
    let (ended, who) = if args.all {
        let ended = outbox
            .resume(args.target.account.as_deref(), None, None, &by)
            .await;
        let who = match &args.target.account {
            Some(account) => format!("Nothing of account {account}"),
            None => "Nothing".to_owned(),
        };
        (ended.map_err(explained)?, who)
    } else {
        let account = args.target.account();
        let ended = outbox
            .resume(Some(account), Some(scope), Some(sender), &by)
            .await;
        let who = explain::held(account, scope.as_str(), sender);
        (ended.map_err(explained)?, format!("Not paused: {who}."))
    };
    let mut said = String::new();
    for pause in &ended {
        said.push_str(&format!(
            "Resumed: {}, after {} ({})\n",
            explain::held(&pause.account, &pause.scope, &pause.sender),
            span(pause.held_for_ms),
            pause.reason.trim_end()
        ));
    }
    if ended.is_empty() {
        said = if args.all {
            format!("{who} was paused.\n")
        } else {
            format!("{who} Nothing was changed.\n")
        };
    } else if ended.iter().any(|pause| pause.error_class.is_some()) {
        said.push_str(
            "If the failure behind it is not over, the next request meets it and pauses again.\n",
        );
    }
    let rest = outbox
        .pauses(args.target.account.as_deref())
        .await
        .map_err(explained)?;
    for pause in &rest {
        said.push_str(&format!("Still paused: {}\n", explain::pause(pause)));
    }
    text::print(&said)?;
    Ok(ExitCode::SUCCESS)
}

async fn before_promotion(args: &ResumeArgs) -> anyhow::Result<ExitCode> {
    if args.within.is_zero() || args.within > LONGEST_ANNOUNCEMENT {
        return Err(
            Misconfigured("--within must be longer than 0, and at most a day".to_owned()).into(),
        );
    }
    let outbox = open(&args.database).await?;
    let found = outbox.identity().await.map_err(explained)?;
    if let Some(change) = found.change() {
        anyhow::bail!(
            "nothing is sent from this database already, because {change}: nothing was changed"
        );
    }
    if !outbox
        .mean_promotion(args.within)
        .await
        .map_err(explained)?
    {
        anyhow::bail!(
            "no worker has been here yet, so that no promotion would stop one: nothing was changed"
        );
    }
    let ms = i64::try_from(args.within.as_millis()).unwrap_or(i64::MAX);
    text::print(&format!(
        "The next promotion within {} does not stop workers; any later one does.\n",
        span(ms)
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn name_provider(args: &ResumeArgs, url: &str) -> anyhow::Result<ExitCode> {
    let provider = origin(url).map_err(|error| Misconfigured(format!("--provider: {error}")))?;
    let outbox = open(&args.database).await?;
    let found = outbox.identity().await.map_err(explained)?;
    if found.pinned_provider.as_deref() == Some(&provider) {
        text::print(&format!(
            "The queue is for {provider} already: nothing was changed.\n"
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    outbox
        .name_provider(&operator(), &provider)
        .await
        .map_err(explained)?;
    let before = found.pinned_provider.map_or_else(String::new, |before| {
        format!(", and no longer for {before}")
    });
    text::print(&format!(
        "The queue is for {provider}{before}: workers that were told so send within a few seconds, others claim nothing.\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn after_restore(args: ResumeArgs) -> anyhow::Result<ExitCode> {
    if args.due_by.is_some() && args.waiting == Waiting::Send {
        return Err(Misconfigured("--due-by goes with --waiting uncertain".to_owned()).into());
    }
    let outbox = open(&args.database).await?;
    let found = outbox.identity().await.map_err(explained)?;
    let promotions = args.promotions.map(|what| match what {
        OnPromotion::Stop => Promotions::Stop,
        OnPromotion::GoOn => Promotions::GoOn,
    });
    let Some(change) = found.change() else {
        if promotions.is_some() {
            outbox
                .confirm_identity(&operator(), promotions)
                .await
                .map_err(explained)?;
        }
        text::print(
            "This is the pinned database: there is nothing to resume, and no job was changed.\n",
        )?;
        return Ok(ExitCode::SUCCESS);
    };
    let now = outbox.now().await.map_err(explained)?;
    let by = args.due_by.unwrap_or(now);
    let open_jobs = outbox.open_jobs(by).await.map_err(explained)?;
    // Before it is confirmed: until then no worker claims any of them.
    let mut uncertain = 0;
    if args.waiting == Waiting::Uncertain {
        loop {
            let batch = outbox
                .waiting_to_uncertain(by, AT_ONCE)
                .await
                .map_err(explained)?
                .len();
            if batch == 0 {
                break;
            }
            uncertain += batch;
        }
    }
    outbox
        .confirm_identity(&operator(), promotions)
        .await
        .map_err(explained)?;
    let mut said = format!("Confirmed, although {change}.\n");
    said.push_str(&format!(
        "{} open: {} queued, of which {} due by {}; {} being sent when the backup was made.\n",
        count(open_jobs.queued + open_jobs.sending, "job"),
        open_jobs.queued,
        open_jobs.due,
        by.format("%Y-%m-%d %H:%M:%S UTC"),
        open_jobs.sending
    ));
    said.push_str(&match args.waiting {
        Waiting::Send if open_jobs.due > 0 => {
            "Those that were due are sent now; whatever of them the lost database had sent arrives twice.\n".to_owned()
        }
        Waiting::Send => String::new(),
        Waiting::Uncertain => format!(
            "{} made uncertain: workers reconcile them with the provider's reports, and what they do not find is left to \
             `sms-outbox resolve`.\n",
            count(uncertain, "job")
        ),
    });
    said.push_str("Workers resume sending within a few seconds.\n");
    text::print(&said)?;
    Ok(ExitCode::SUCCESS)
}

/// Who is at the keyboard, for `paused_by`.
fn operator() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten()
        .map_or_else(|| "somebody".to_owned(), |user| user.name);
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "an unnamed machine".to_owned());
    format!("{user} on {host}")
}
