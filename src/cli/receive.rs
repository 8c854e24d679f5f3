//! `sms-outbox receive`

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::worker::{ended, listen};
use crate::{
    config::{Misconfigured, ReceiverArgs},
    daemon::{self, Stops},
};

pub(super) async fn run(args: ReceiverArgs) -> anyhow::Result<ExitCode> {
    let stops = Stops {
        gently: CancellationToken::new(),
        at_once: CancellationToken::new(),
    };
    listen(&stops)?;
    let webhooks = args
        .webhook
        .webhooks(&args.accounts, |name| std::env::var(name).ok())?
        .ok_or_else(|| {
            Misconfigured(
                "SMS_OUTBOX_WEBHOOK_ADDRESS is not set: say where to listen, as in 127.0.0.1:8027 (or --webhook-address)"
                    .to_owned(),
            )
        })?;
    ended(daemon::receive(&args, &webhooks, stops).await)
}
