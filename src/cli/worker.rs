//! `sms-outbox worker`

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::WorkerArgs,
    daemon::{self, DaemonError, Ended, Stops},
};

pub(super) async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    #[cfg(failpoints)]
    crate::failpoints::arm(|name| std::env::var(name).ok())?;
    let stops = Stops {
        gently: CancellationToken::new(),
        at_once: CancellationToken::new(),
    };
    listen(&stops)?;
    let variable = |name: &str| std::env::var(name).ok();
    let secrets = args.provider.secrets(variable)?;
    let webhooks = args.webhook.webhooks(&args.provider.accounts, variable)?;
    ended(daemon::run(&args, secrets, webhooks, stops).await)
}

/// How a process ends that sends or receives.
pub(super) fn ended(result: Result<Ended, DaemonError>) -> anyhow::Result<ExitCode> {
    // Unwrapped, so that a setting that cannot be used is told apart by the exit code.
    let ended = result.map_err(|error| match error {
        DaemonError::Misconfigured(error) => anyhow::Error::from(error),
        other => other.into(),
    })?;
    match ended {
        Ended::Gracefully => Ok(ExitCode::SUCCESS),
        Ended::Interrupted | Ended::Broken => Ok(ExitCode::FAILURE),
    }
}

/// The first signal stops gracefully, the second one at once.
pub(super) fn listen(stops: &Stops) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stops = stops.clone();
    tokio::spawn(async move {
        for token in [&stops.gently, &stops.at_once] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}
