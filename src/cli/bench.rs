//! `sms-outbox bench`: what is to be measured, and how it is shown.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{text, worker::listen};
use crate::{
    bench::{self, BenchError, Finished, Measured, Plan, Report, Scenario, Sizes},
    config::{Misconfigured, duration, variables, ways_to_give},
    daemon::Stops,
};

#[derive(Args)]
pub(super) struct BenchArgs {
    /// What to measure [default: everything]
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<Named>,

    /// Measure on this server instead of a private one: postgres://user:password@host/database, of a role that may create
    /// databases. They are called sms_outbox_bench_…, and are dropped afterwards; no other database is touched. DATABASE_URL
    /// is never looked at
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// Jobs that one measurement drains, and events that a receiver takes flat out
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    jobs: u64,

    /// Requests in flight per worker
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    concurrency: usize,

    /// How many workers share a queue: one case for each number
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4", value_parser = at_least_one)]
    workers: Vec<usize>,

    /// How long the provider takes to answer: one case for each
    #[arg(long, value_name = "DURATION,…", value_delimiter = ',', default_value = "0ms,20ms", value_parser = duration)]
    latency: Vec<Duration>,

    /// Messages a second that are written where waits are measured
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rate: u64,

    /// How long waits, waiting, the limit and producers are observed (producers: half of it)
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=3_600))]
    seconds: u64,

    /// Jobs that wait beside the drained ones, in the largest case. A million take some minutes and 5 GB, with what follows
    /// from it
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    backlog: u64,

    /// Jobs that are not due yet [default: as many as --backlog]
    #[arg(long, value_name = "N")]
    future: Option<u64>,

    /// Jobs that are finished [default: three times --backlog]
    #[arg(long, value_name = "N")]
    finished: Option<u64>,

    /// Jobs that pass while a transaction is held open elsewhere
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    horizon: u64,

    /// Recipients a second, over all workers, where the limit is measured
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,

    /// Connections that write at once: one case for each number
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "8,32", value_parser = at_least_one)]
    connections: Vec<usize>,

    /// How often each case is measured; the medians are reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    rounds: usize,

    /// Answer as JSON, with the figures of every round
    #[arg(long)]
    json: bool,

    /// Write pictures (SVG) into this directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Named {
    /// How fast a full queue empties, beside a bare loop
    Drain,
    /// How long a message waits, from its commit to its request
    Latency,
    /// Whether a queue slows down as it grows: waiting, future, finished jobs
    Backlog,
    /// Whether a transaction that is held open elsewhere slows it down
    Horizon,
    /// What a worker costs that has nothing to do
    Idle,
    /// Whether the limit holds for four workers, and how much of it is used
    Limit,
    /// What the outbox costs those who write
    Producers,
    /// How many events of the provider a receiver of webhooks takes, and how soon they are answered
    Receiver,
}

impl From<Named> for Scenario {
    fn from(name: Named) -> Self {
        match name {
            Named::Drain => Self::Drain,
            Named::Latency => Self::Latency,
            Named::Backlog => Self::Backlog,
            Named::Horizon => Self::Horizon,
            Named::Idle => Self::Idle,
            Named::Limit => Self::Limit,
            Named::Producers => Self::Producers,
            Named::Receiver => Self::Receiver,
        }
    }
}

impl std::fmt::Debug for BenchArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The server's address may hold a password.
        f.debug_struct("BenchArgs")
            .field("scenarios", &self.scenarios)
            .finish_non_exhaustive()
    }
}

pub(super) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let stops = Stops {
        gently: CancellationToken::new(),
        at_once: CancellationToken::new(),
    };
    listen(&stops)?;
    if let Some(directory) = &args.plots {
        // Before anybody has waited for the measurement.
        std::fs::create_dir_all(directory)
            .with_context(|| format!("the directory {} cannot be made", directory.display()))?;
    }
    let plan = plan(&args)?;
    let Finished { report, cut_short } =
        bench::run(&plan, &stops)
            .await
            .map_err(|error| match error {
                BenchError::Address => {
                    anyhow::Error::from(Misconfigured(format!("--server: {error}")))
                }
                other => other.into(),
            })?;
    if report.results.is_empty() {
        // Nothing to show.
    } else if args.json {
        text::print_json(&report)?;
    } else {
        text::print(&show(&report))?;
    }
    if let Some(directory) = &args.plots {
        for (name, picture) in &report.plots {
            let path = directory.join(name);
            std::fs::write(&path, picture)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
    }
    match cut_short {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error.into()),
    }
}

/// Runs the bare loop, as the process that measures tells it to.
pub(super) async fn run_bare_loop() -> anyhow::Result<ExitCode> {
    bench::bare_loop::run().await?;
    Ok(ExitCode::SUCCESS)
}

fn plan(args: &BenchArgs) -> anyhow::Result<Plan> {
    let mut scenarios: Vec<Scenario> = args.scenarios.iter().map(|name| (*name).into()).collect();
    scenarios.sort();
    scenarios.dedup();
    if scenarios.is_empty() {
        scenarios = Scenario::ALL.into();
    }
    let in_ms = |latency: &Duration| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
    Ok(Plan {
        scenarios,
        sizes: Sizes {
            jobs: args.jobs,
            concurrency: args.concurrency,
            workers: args.workers.clone(),
            latency_ms: args.latency.iter().map(in_ms).collect(),
            rate: args.rate,
            seconds: args.seconds,
            backlog: args.backlog,
            future: args.future.unwrap_or(args.backlog),
            finished: args.finished.unwrap_or(args.backlog.saturating_mul(3)),
            horizon: args.horizon,
            limit: args.limit,
            connections: args.connections.clone(),
            rounds: args.rounds,
        },
        server: args.server.clone(),
        program: std::env::current_exe().context("this program cannot be found")?,
        forget: variables(&super::command())
            .into_iter()
            .flat_map(|variable| ways_to_give(&variable.name))
            .collect(),
    })
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number @ 1..=10_000) => Ok(number),
        _ => Err("a number from 1 to 10000 is wanted".to_owned()),
    }
}

fn show(report: &Report) -> String {
    let mut shown = String::new();
    for scenario in Scenario::ALL {
        let measured: Vec<&Measured> = report
            .results
            .iter()
            .filter(|measured| measured.scenario == scenario)
            .collect();
        if !measured.is_empty() {
            let _ = writeln!(shown, "{}\n{}", scenario.name(), table(&measured));
        }
    }
    let unknown = || "unknown".to_owned();
    let machine = &report.machine;
    let gib = |bytes: u64| format!("{} GiB", bytes >> 30);
    let _ = writeln!(
        shown,
        "{} cores, {}, {} of memory, load {} before; PostgreSQL {}{}; sms-outbox {}",
        machine
            .cores
            .map_or_else(unknown, |cores| cores.to_string()),
        machine.cpu.clone().unwrap_or_else(unknown),
        machine.memory_bytes.map_or_else(unknown, gib),
        machine
            .load_before
            .map_or_else(unknown, |load| load.to_string()),
        report.postgres.version,
        if report.postgres.private {
            " of its own"
        } else {
            ""
        },
        report.version,
    );
    let settings: Vec<String> = report
        .postgres
        .settings
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let _ = writeln!(shown, "{}", settings.join(" "));
    for sentence in &report.left_out {
        let _ = writeln!(shown, "left out: {sentence}");
    }
    shown
}

/// A line for each case and subject, a column for each figure that any of them has.
fn table(measured: &[&Measured]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut comparisons: Vec<&str> = Vec::new();
    for one in measured {
        let own = one.figures.iter().map(|(name, _)| name);
        names.extend(own);
        comparisons.extend(one.ratios.keys());
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    comparisons.sort_unstable();
    comparisons.dedup();

    let mut header = vec!["case".to_owned(), "of".to_owned()];
    header.extend(names.iter().take(1).map(|name| name.replace('_', " ")));
    header.extend(comparisons.iter().map(|with| format!("x {with}")));
    header.extend(names.iter().skip(1).map(|name| name.replace('_', " ")));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut table = text::table(&header, 2, text::width());
    for one in measured {
        let figure = |name: &&str| one.figures.get(name).map_or_else(String::new, digits);
        let mut row = vec![one.case.clone(), one.subject.name().to_owned()];
        row.extend(names.iter().take(1).map(figure));
        let ratio = |with: &&str| {
            let ratio = one.ratios.get(*with);
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
        };
        row.extend(comparisons.iter().map(ratio));
        row.extend(names.iter().skip(1).map(figure));
        table.add_row(row);
    }
    text::lines(&table)
}

/// As many digits as mean something.
fn digits(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
