//! The program: one file per family of commands, with no SQL and no rules of its own.

#[cfg(feature = "bench")]
mod bench;
mod database;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod environment;
mod grant;
mod inspect;
mod migrate;
mod operate;
mod pause;
mod receive;
#[cfg(feature = "sandbox")]
mod sandbox;
mod send;
mod text;
mod worker;

use std::process::ExitCode;

use clap::{
    Args, FromArgMatches, Parser, Subcommand, ValueEnum, builder::Resettable, parser::ValueSource,
};
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::{DATABASE_URL, Misconfigured, secret},
    outbox::chain,
};

/// A transactional outbox for SMS on PostgreSQL, delivered through iletiMerkezi
#[derive(Parser, Debug)]
#[command(
    name = "sms-outbox",
    version,
    about,
    propagate_version = true,
    max_term_width = 120
)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct LogArgs {
    /// How much is logged: error, warn, info, debug or trace, also for a library as in info,sqlx=debug [default: info for
    /// worker, receive and sandbox, error otherwise]
    #[arg(long, global = true, env = "SMS_OUTBOX_LOG", value_name = "LEVEL")]
    log: Option<String>,
    /// How it is logged
    #[arg(
        long,
        global = true,
        env = "SMS_OUTBOX_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// See everything work on this machine, with nothing set up and no credentials
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Create or upgrade the schema sms_outbox; touches nothing else in the database
    Migrate(migrate::MigrateArgs),
    /// Give a database role what a producer, worker, operator, support or receiver needs, and no more
    Grant(grant::GrantArgs),
    /// Send what is due; run any number of these, on any number of machines
    Worker(Box<crate::config::WorkerArgs>),
    /// Receive the provider's webhooks, which say what became of messages on the phone
    Receive(Box<crate::config::ReceiverArgs>),
    /// Put a message into the outbox
    Send(Box<send::SendArgs>),
    /// What is there: jobs by status, account, sender, number or age
    List(Box<inspect::ListArgs>),
    /// One job: what became of it, what moves it on, and every request that was made for it
    Show(inspect::ShowArgs),
    /// The queue at a glance: counts, the oldest due job, pauses
    Stats(inspect::StatsArgs),
    /// Put failed jobs back into the queue, with all their attempts
    Retry(operate::RetryArgs),
    /// Cancel queued jobs; what is being sent already cannot be recalled
    Cancel(operate::CancelArgs),
    /// Resolve an uncertain job, which may or may not have been sent
    Resolve(operate::ResolveArgs),
    /// Hold back an account, a sender or an account's marketing, for all workers
    Pause(pause::PauseArgs),
    /// End a pause, whoever began it; or send again after a backup was restored
    Resume(pause::ResumeArgs),
    /// Look whether everything is in place, and say what to do about each fault
    Doctor(Box<doctor::DoctorArgs>),
    /// Stand in for the provider on this machine, with faults on demand
    #[cfg(feature = "sandbox")]
    Sandbox(Box<sandbox::Args>),
    /// Measure this installation beside a bare loop: drain rate, latency, what each job costs the database
    #[cfg(feature = "bench")]
    Bench(Box<bench::BenchArgs>),
    /// What `bench` measures beside this program; it reads what to do from standard input
    #[cfg(feature = "bench")]
    #[command(name = crate::bench::bare_loop::COMMAND, hide = true)]
    BenchBareLoop,
}

/// The commands and their options, as `--help` shows them.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program with this process's arguments and environment.
///
/// Exit codes: 0 done, 1 it failed, 2 wrong usage or configuration.
#[must_use]
pub fn main() -> ExitCode {
    // Before clap reads the environment.
    let parsed = environment::load().and_then(|()| parse());
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return fail(&error.into()),
    };
    let unless_told = match &cli.command {
        Command::Worker(_) | Command::Receive(_) => "info",
        #[cfg(feature = "sandbox")]
        Command::Sandbox(_) => "info",
        _ => "error",
    };
    if let Err(error) = start_logging(&cli.log, unless_told) {
        return fail(&error.into());
    }
    for warning in environment::unknown(&command()) {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let result = runtime.block_on(run(cli.command));
    // What is still running (a stalled request after a second signal) does not hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Reads the arguments. Wrong usage ends the process here, with what clap has to say about it.
fn parse() -> Result<Cli, Misconfigured> {
    let elsewhere = secret(DATABASE_URL, &|name: &str| std::env::var(name).ok());
    let command = match &elsewhere {
        // Wherever it stands, a flag wins over it. (Set and empty is as good as not set.)
        Ok(Some(url)) => {
            let url: &'static str = url.clone().leak();
            command().mut_subcommands(|subcommand| {
                if asks_for_a_database(&subcommand) {
                    subcommand.mut_arg("database_url", |argument| {
                        argument
                            .env(Resettable::Reset)
                            .default_value(url)
                            .hide_default_value(true)
                    })
                } else {
                    subcommand
                }
            })
        }
        Ok(None) | Err(_) => command(),
    };
    let matches = command.clone().try_get_matches().map_err(|error| {
        match environment::blamed(&error, &command) {
            Some(blamed) => blamed,
            None => error.exit(),
        }
    })?;
    let needed = matches.subcommand().is_some_and(|(name, given)| {
        let asks = command
            .find_subcommand(name)
            .is_some_and(asks_for_a_database);
        asks && given.value_source("database_url") != Some(ValueSource::CommandLine)
    });
    if needed {
        elsewhere?;
    }
    // The same command has read them.
    Ok(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
}

fn asks_for_a_database(command: &clap::Command) -> bool {
    command
        .get_arguments()
        .any(|argument| argument.get_id() == "database_url")
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(args).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Grant(args) => grant::run(args).await,
        Command::Worker(args) => worker::run(*args).await,
        Command::Receive(args) => receive::run(*args).await,
        Command::Send(args) => send::run(*args).await,
        Command::List(args) => inspect::list(*args).await,
        Command::Show(args) => inspect::show(args).await,
        Command::Stats(args) => inspect::stats(args).await,
        Command::Retry(args) => operate::retry(args).await,
        Command::Cancel(args) => operate::cancel(args).await,
        Command::Resolve(args) => operate::resolve(args).await,
        Command::Pause(args) => pause::pause(args).await,
        Command::Resume(args) => pause::resume(args).await,
        Command::Doctor(args) => doctor::run(*args).await,
        #[cfg(feature = "sandbox")]
        Command::Sandbox(args) => sandbox::run(*args).await.map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "bench")]
        Command::Bench(args) => bench::run(*args).await,
        #[cfg(feature = "bench")]
        Command::BenchBareLoop => bench::run_bare_loop().await,
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", chain(error.as_ref()));
    if error.downcast_ref::<Misconfigured>().is_some() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// Logs go to standard error: standard output belongs to what a command answers.
fn start_logging(args: &LogArgs, unless_told: &str) -> Result<(), Misconfigured> {
    let spec = args.log.as_deref().unwrap_or(unless_told);
    // A bare level is meant for this program. Libraries stay at warnings unless they are named: at their lower levels some
    // of them show what they carry.
    let own = |part: &str| {
        let part = part.trim();
        if part.contains('=') || part.is_empty() {
            part.to_owned()
        } else {
            format!("sms_outbox={part}")
        }
    };
    let parts: Vec<String> = spec.split(',').map(own).collect();
    let targets: Targets = format!("warn,{}", parts.join(","))
        .parse()
        .map_err(|error| {
            Misconfigured(format!(
                "SMS_OUTBOX_LOG cannot be understood ({error}); write info or info,sqlx=debug"
            ))
        })?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(ansi);
    let layer = match args.log_format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // A second start in one process (tests) keeps the first.
    tracing_subscriber::registry()
        .with(layer)
        // For the whole subscriber. As a filter of the one layer it would lose lines at debug and trace: whoever asks whether
        // a level is enabled and then logs nothing, as sqlx does for every statement, leaves its "no" to the next line.
        .with(targets)
        .try_init()
        .ok();
    // A panic's own words may quote anything; where it happened is enough to find it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map_or_else(String::new, ToString::to_string);
        tracing::error!(place, "a bug: please report it with this place");
    }));
    Ok(())
}
