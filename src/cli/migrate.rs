//! `sms-outbox migrate`

use std::{
    cell::Cell,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{text, worker::listen};
use crate::{config::DatabaseArgs, daemon::Stops, outbox::Extended};

/// How often it is said again that something is in the way.
const REMINDER: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    // Both signals mean the same here: there is nothing to finish first.
    listen(&Stops {
        gently: stop.clone(),
        at_once: stop.clone(),
    })?;
    let said = Cell::new(None::<Instant>);
    let waits = |who: &str| {
        if said.get().is_none_or(|said| said.elapsed() >= REMINDER) {
            said.set(Some(Instant::now()));
            eprintln!(
                "waiting for a lock that {who} holds; producers go on meanwhile, and Ctrl-C gives up"
            );
        }
    };
    let options = args.database.connect_options()?;
    let (before, after) = options.migrate_until(stop.cancelled(), waits).await?;
    match before {
        None => println!("The schema sms_outbox has been created, at version {after}."),
        Some(before) if before == after => {
            println!("The schema sms_outbox is up to date, at version {after}.")
        }
        Some(before) => {
            println!("The schema sms_outbox has been upgraded from version {before} to {after}.")
        }
    }
    for Extended { role, kind, lacked } in options.extend_grants().await? {
        let lacked = lacked.iter().map(ToString::to_string);
        println!(
            "Granted to {role}, {}: {}.",
            kind.with_article(),
            text::listed(lacked)
        );
    }
    Ok(ExitCode::SUCCESS)
}
