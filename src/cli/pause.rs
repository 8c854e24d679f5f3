//! `sms-outbox pause` and `resume`

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{
    database::{explained, open},
    inspect::explain,
    text::{self, span},
};
use crate::{
    config::{DatabaseArgs, Misconfigured, duration},
    lifecycle::PauseScope,
    outbox::Filter,
};

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
            "If the trouble behind it is not over, the next request meets it and pauses again.\n",
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
