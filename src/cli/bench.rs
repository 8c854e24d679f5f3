//! `sms-outbox bench`: what is to be measured, and how it is shown.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{text, worker::listen};
use crate::{
    bench::{self, BenchError, Measured, Plan, Report, Scenario, Sizes},
    config::{Misconfigured, duration, variables},
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

    /// Jobs that one measurement drains
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    jobs: u64,

    /// Requests under way per worker
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    concurrency: usize,

    /// How many workers share a queue: one case for each number
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4", value_parser = at_least_one)]
    workers: Vec<usize>,

    /// How long the provider takes to answer: one case for each
    #[arg(long, value_name = "DURATION,…", value_delimiter = ',', default_value = "0ms,20ms", value_parser = duration)]
    latency: Vec<Duration>,

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
    /// How fast a full queue empties
    Drain,
}

impl From<Named> for Scenario {
    fn from(name: Named) -> Self {
        match name {
            Named::Drain => Self::Drain,
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
    let report = bench::run(&plan, &stops)
        .await
        .map_err(|error| match error {
            BenchError::Address => anyhow::Error::from(Misconfigured(format!("--server: {error}"))),
            other => other.into(),
        })?;
    if args.json {
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
    Ok(ExitCode::SUCCESS)
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
            rounds: args.rounds,
        },
        server: args.server.clone(),
        program: std::env::current_exe().context("this program cannot be found")?,
        forget: variables(&super::command())
            .into_iter()
            .map(|variable| variable.name)
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
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
