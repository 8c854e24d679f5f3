//! `sms-outbox migrate`

use std::process::ExitCode;

use clap::Args;

use crate::config::DatabaseArgs;

#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let (before, after) = args.database.connect_options()?.migrate().await?;
    match before {
        None => println!("The schema sms_outbox has been created, at version {after}."),
        Some(before) if before == after => {
            println!("The schema sms_outbox is up to date, at version {after}.")
        }
        Some(before) => {
            println!("The schema sms_outbox has been upgraded from version {before} to {after}.")
        }
    }
    Ok(ExitCode::SUCCESS)
}
