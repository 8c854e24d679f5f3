//! `sms-outbox demo`

use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::worker::listen;
use crate::{daemon::Stops, demo};

#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// End when every message has come to its end: with exit code 0 if each came to the one that was meant for it
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stops = Stops {
        gently: CancellationToken::new(),
        at_once: CancellationToken::new(),
    };
    listen(&stops)?;
    Ok(demo::run(args.once, stops).await?)
}
