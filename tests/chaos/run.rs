//! The run, from its command line to its exit code.

mod calm;
mod chaos;
mod checker;
mod dice;
mod evidence;
mod falsified;
mod fleet;
mod plan;
mod producers;
mod proxy;
mod report;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, reason = "the other test binary uses the rest")]
mod support;
mod variants;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use sms_outbox::failpoints::Variant;
use tokio::sync::Semaphore;

use checker::Findings;
use plan::Size;
use report::Report;
use variants::Scenario;

/// So many scenarios run at once: they mostly wait.
const AT_ONCE: usize = 5;

/// Breaks everything around the workers, and checks what they made of it.
#[derive(Parser, Debug)]
struct Arguments {
    /// Messages that producers write; 0 leaves this part out.
    #[arg(long, default_value_t = 2_000)]
    jobs: usize,
    /// Workers killed with SIGKILL at any moment; cut connections and the like follow this number.
    #[arg(long, default_value_t = 40)]
    kills: usize,
    /// Times that Postgres is killed as a whole.
    #[arg(long, default_value_t = 5)]
    crashes: usize,
    /// Workers at once.
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// The seed of the plan [default: drawn from the clock, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// A wrong variant to run in its circumstances, `all` or `none`.
    #[arg(long, default_value = "all")]
    variant: String,
    /// Writes what happened to this file, as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
}

pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let variants: Vec<Variant> = match arguments.variant.as_str() {
        "all" => Variant::ALL.to_vec(),
        "none" => Vec::new(),
        name => match Variant::named(name) {
            Some(variant) => vec![variant],
            None => {
                let known = Variant::ALL.map(Variant::name).join(", ");
                eprintln!("there is no variant {name}; there are {known}, all and none");
                return ExitCode::from(2);
            }
        },
    };
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(1, |since| u64::from(since.subsec_micros()))
    });
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads");
    let report = runtime.block_on(run(&arguments, seed, &variants));
    print!("{}", report.markdown());
    if let Some(path) = &arguments.report {
        let json = format!("{:#}\n", report.json());
        if let Err(error) = std::fs::write(path, json) {
            eprintln!("{} cannot be written: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if report.objections.is_empty() {
        return ExitCode::SUCCESS;
    }
    for objection in report.objections.iter().take(40) {
        eprintln!("FAILED: {objection}");
    }
    eprintln!(
        "{} objections; the plan again: --seed {seed}",
        report.objections.len()
    );
    ExitCode::FAILURE
}

async fn run(arguments: &Arguments, seed: u64, variants: &[Variant]) -> Report {
    let mut report = Report::new(seed);
    if arguments.jobs > 0 {
        let size = Size {
            jobs: arguments.jobs,
            kills: arguments.kills,
            crashes: arguments.crashes,
        };
        let folder = tempfile::tempdir().expect("a temporary directory");
        let outcome = chaos::run(seed, size, arguments.workers, folder.path()).await;
        let findings = Findings::of(&outcome.evidence);
        for (rule, what) in &findings.violations {
            report.objections.push(format!("{rule}: {what}"));
        }
        for point in &outcome.missing {
            report
                .objections
                .push(format!("the failpoint {} was never hit", point.name()));
        }
        report
            .objections
            .extend(falsified::unnoticed(&outcome.evidence));
        report.chaos(&outcome, &findings);
    }
    if !variants.is_empty() {
        check_the_checker(seed, variants, &mut report).await;
    }
    report
}

/// Each wrong variant has to be noticed; the right worker, in the same circumstances, has nothing held against it.
async fn check_the_checker(seed: u64, variants: &[Variant], report: &mut Report) {
    let began = Instant::now();
    let postgres = Arc::new(chaos::postgres().await);
    let folder = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let right = Scenario::ALL
        .into_iter()
        .filter(|scenario| {
            variants
                .iter()
                .any(|variant| Scenario::of(*variant).0 == *scenario)
        })
        .map(|scenario| (scenario, None));
    let wrong = variants
        .iter()
        .map(|variant| (Scenario::of(*variant).0, Some(*variant)));
    let mut running = tokio::task::JoinSet::new();
    for (scenario, variant) in wrong.chain(right) {
        let (postgres, folder, places) = (
            Arc::clone(&postgres),
            Arc::clone(&folder),
            Arc::clone(&places),
        );
        running.spawn(async move {
            let _place = places.acquire().await;
            let findings = scenario.run(seed, variant, &postgres, folder.path()).await;
            (scenario, variant, findings)
        });
    }
    for (scenario, variant, findings) in running.join_all().await {
        report.variant(scenario, variant, &findings);
    }
    report.variants_lasted = began.elapsed();
    let postgres = Arc::into_inner(postgres).expect("every scenario has ended");
    postgres.stop().await.expect("it stops gracefully");
}
