//! `sms-outbox bench`: what this installation is capable of, and what each job costs it.
//!
//! Never looks at `DATABASE_URL`: everything happens in databases that are made for it, on a private server or on one that was
//! named for the purpose, with the sandbox as the provider. Workers are processes of their own, as they are in production, so
//! that their time on a core and their memory can be told from the database's. `docs/performance.md` says how each figure comes
//! about and what it leaves out.

mod backlog;
pub mod bare_loop;
mod drain;
pub mod figures;
mod horizon;
mod idle;
mod latency;
mod limit;
mod plot;
mod processes;
mod producers;
mod receiver;
mod stage;
mod usage;
mod writing;

use std::{collections::BTreeMap, io, path::PathBuf, process::ExitStatus, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

pub use figures::Figures;
pub use stage::Server;
use stage::Stage;
pub use usage::Machine;

use crate::{
    daemon::Stops,
    embedded::EmbeddedError,
    outbox::{MigrationError, OutboxError},
};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// How fast a full queue empties.
    Drain,
    /// How long a message waits for its request.
    Latency,
    /// Whether a queue slows down as it grows.
    Backlog,
    /// Whether a transaction that somebody forgot slows it down.
    Horizon,
    /// What it costs to have nothing to do.
    Idle,
    /// Whether the limit holds, and how much of it is used.
    Limit,
    /// What the outbox costs those who write.
    Producers,
    /// How many events of the provider a receiver takes, and how soon.
    Receiver,
}

impl Scenario {
    /// All, in the order in which they run.
    pub const ALL: [Self; 8] = [
        Self::Drain,
        Self::Latency,
        Self::Backlog,
        Self::Horizon,
        Self::Idle,
        Self::Limit,
        Self::Producers,
        Self::Receiver,
    ];

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Latency => "latency",
            Self::Backlog => "backlog",
            Self::Horizon => "horizon",
            Self::Idle => "idle",
            Self::Limit => "limit",
            Self::Producers => "producers",
            Self::Receiver => "receiver",
        }
    }
}

/// How much of everything.
#[derive(Clone, Debug, Serialize)]
pub struct Sizes {
    /// Jobs that one measurement drains.
    pub jobs: u64,
    /// Requests in flight per worker.
    pub concurrency: usize,
    /// How many workers share a queue, one case each.
    pub workers: Vec<usize>,
    /// How long the provider takes to answer, in milliseconds, one case each.
    pub latency_ms: Vec<u64>,
    /// Messages a second that are written where waits are measured.
    pub rate: u64,
    /// How long anything lasts that lasts, in seconds.
    pub seconds: u64,
    /// Jobs that wait beside the ones that are drained.
    pub backlog: u64,
    /// Jobs that are not due yet.
    pub future: u64,
    /// Jobs that are finished.
    pub finished: u64,
    /// Jobs that pass while a transaction is held open.
    pub horizon: u64,
    /// Recipients a second, over all workers, where the limit is measured.
    pub limit: u32,
    /// Connections that write at once, one case each.
    pub connections: Vec<usize>,
    /// Rounds, of which the medians are reported.
    pub rounds: usize,
}

/// What is to be measured, and with what.
pub struct Plan {
    /// Which, in this order.
    pub scenarios: Vec<Scenario>,
    /// How much.
    pub sizes: Sizes,
    /// A server to make databases in; without one, a private server is started.
    pub server: Option<String>,
    /// The program, to be started as worker, sandbox and bare loop.
    pub program: PathBuf,
    /// Variables that those processes must not see.
    pub forget: Vec<String>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of this program.
    pub version: &'static str,
    /// Whether it was built with optimisations. Without them no figure of the worker's is worth anything.
    pub optimised: bool,
    /// Where.
    pub machine: Machine,
    /// On which server.
    pub postgres: Server,
    /// With which sizes.
    pub settings: Sizes,
    /// What could not be measured here, and why.
    pub left_out: Vec<String>,
    /// What came out.
    pub results: Vec<Measured>,
    /// Pictures: name and SVG.
    #[serde(skip)]
    pub plots: Vec<(String, String)>,
}

/// The figures of one subject in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Which scenario.
    pub scenario: Scenario,
    /// Under which circumstances.
    pub case: String,
    /// What was measured.
    pub subject: Subject,
    /// Medians over the rounds, figure by figure.
    pub figures: Figures,
    /// The same figure of others: what it is compared with, and this subject's share of it.
    pub ratios: BTreeMap<&'static str, f64>,
    /// What each round had.
    pub rounds: Vec<Figures>,
}

/// What a figure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// This program.
    SmsOutbox,
    /// See [`bare_loop`].
    BareLoop,
    /// The server, with nobody at work.
    Nobody,
    /// Those who write, without a worker.
    Writers,
    /// A table with the same columns that is only a table.
    PlainTable,
    /// The outbox's table, without a worker.
    Unattended,
}

impl Subject {
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SmsOutbox => "sms-outbox",
            Self::BareLoop => "bare loop",
            Self::Nobody => "no worker",
            Self::Writers => "writers alone",
            Self::PlainTable => "plain table",
            Self::Unattended => "no worker",
        }
    }
}

impl Measured {
    fn new(
        scenario: Scenario,
        case: impl Into<String>,
        subject: Subject,
        rounds: Vec<Figures>,
    ) -> Self {
        Self {
            scenario,
            case: case.into(),
            subject,
            figures: Figures::medians(&rounds),
            ratios: BTreeMap::new(),
            rounds,
        }
    }

    /// Compares one figure with that of another measurement.
    fn compare(&mut self, with: &'static str, figure: &str, other: &Self) {
        let (own, other) = (self.figures.get(figure), other.figures.get(figure));
        if let (Some(own), Some(other)) = (own, other.filter(|other| *other > 0.0)) {
            self.ratios
                .insert(with, (own / other * 1_000.0).round() / 1_000.0);
        }
    }
}

/// What a scenario returns.
#[derive(Default)]
struct Outcome {
    results: Vec<Measured>,
    plots: Vec<(String, String)>,
}

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No Postgres.
    #[error("starting a private PostgreSQL")]
    Postgres(#[from] EmbeddedError),
    /// The named server's address cannot be read; it may hold a password, and is not repeated.
    #[error(
        "the server's address cannot be used: write it as postgres://user:password@host/database"
    )]
    Address,
    /// The named server does not answer.
    #[error("the server does not answer")]
    Unreachable,
    /// No schema.
    #[error("creating the schema")]
    Migrate(#[from] MigrationError),
    /// A call to the outbox failed.
    #[error("using the outbox")]
    Outbox(#[from] OutboxError),
    /// The database refused something.
    #[error("using the database")]
    Database(#[from] sqlx::Error),
    /// A database could not be dropped.
    #[error("the database {name} could not be dropped and is left behind")]
    NotDropped {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A process could not be started, told something, or waited for.
    #[error("running the {what}")]
    Start {
        /// Which.
        what: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A process ended by itself.
    #[error("the {what} ended ({status}): {log}")]
    Ended {
        /// Which.
        what: &'static str,
        /// How.
        status: ExitStatus,
        /// The last that it logged.
        log: String,
    },
    /// A process did not do in time what was waited for.
    #[error("the {what} did not go on within {seconds} s: {log}")]
    Silent {
        /// Which.
        what: &'static str,
        /// How long that was.
        seconds: u64,
        /// The last that it logged.
        log: String,
    },
    /// Nothing has moved for too long.
    #[error("nothing went on after {accepted} of {expected} jobs")]
    Stuck {
        /// What the sandbox had accepted.
        accepted: u64,
        /// What was waited for.
        expected: u64,
    },
    /// TLS cannot be set up.
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
    /// The sandbox did not answer.
    #[error("asking the sandbox")]
    Sandbox(#[source] reqwest::Error),
    /// Something that our own processes tell each other.
    #[error("reading what another process said")]
    Unreadable(#[source] serde_json::Error),
    /// Standard input or output of the bare loop.
    #[error("talking to whoever started the bare loop")]
    Told(#[source] io::Error),
    /// The receiver did not take an event.
    #[error("posting to the receiver")]
    Receiver(#[source] io::Error),
    /// A bug.
    #[error("a part of the measurement has died")]
    Panicked,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// What was measured, and what kept the rest from it.
pub struct Finished {
    /// As far as it went.
    pub report: Report,
    /// Why it went no further.
    pub cut_short: Option<BenchError>,
}

/// Measures. Whatever happens, databases, processes and a private server are gone afterwards, and what was measured until then
/// is not lost.
///
/// # Errors
/// When the parts cannot be started.
pub async fn run(plan: &Plan, stops: &Stops) -> Result<Finished, BenchError> {
    let machine = Machine::look();
    let stage = tokio::select! {
        stage = Stage::set(plan) => stage?,
        () = stops.gently.cancelled() => return Err(BenchError::Interrupted),
    };
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        optimised: !cfg!(debug_assertions),
        postgres: stage.server().await?,
        settings: plan.sizes.clone(),
        left_out: left_out(&machine, &stage),
        machine,
        results: Vec::new(),
        plots: Vec::new(),
    };
    let measured = tokio::select! {
        measured = measure(plan, &stage, &mut report) => measured,
        () = stops.gently.cancelled() => Err(BenchError::Interrupted),
    };
    let struck = tokio::select! {
        struck = stage.strike() => struck,
        // A private server and all processes are seen to by those who watch over them.
        () = stops.at_once.cancelled() => Err(BenchError::Interrupted),
    };
    let cut_short = measured.and(struck).err();
    Ok(Finished { report, cut_short })
}

async fn measure(plan: &Plan, stage: &Stage, report: &mut Report) -> Result<(), BenchError> {
    let progress = Progress::new();
    let sizes = &plan.sizes;
    for scenario in &plan.scenarios {
        let outcome = match scenario {
            Scenario::Drain => drain::measure(stage, sizes, &progress).await?,
            Scenario::Latency => latency::measure(stage, sizes, &progress).await?,
            Scenario::Backlog => backlog::measure(stage, sizes, &progress).await?,
            Scenario::Horizon => horizon::measure(stage, sizes, &progress).await?,
            Scenario::Idle => idle::measure(stage, sizes, &progress).await?,
            Scenario::Limit => limit::measure(stage, sizes, &progress).await?,
            Scenario::Producers => producers::measure(stage, sizes, &progress).await?,
            Scenario::Receiver => receiver::measure(stage, sizes, &progress).await?,
        };
        report.results.extend(outcome.results);
        report.plots.extend(outcome.plots);
    }
    Ok(())
}

fn left_out(machine: &Machine, stage: &Stage) -> Vec<String> {
    let mut left_out = Vec::new();
    if usage::cpu(std::process::id()).is_none() {
        left_out.push(format!(
            "time on a core and memory: {} has no /proc",
            machine.system
        ));
    } else if !stage.sees_the_server() {
        left_out.push(
            "the database's time on a core: its processes cannot be seen from here".to_owned(),
        );
    }
    if cfg!(debug_assertions) {
        left_out.push(
            "everything, in a way: this program was built without optimisations (use --release)"
                .to_owned(),
        );
    }
    left_out
}

/// What somebody who waits is shown. Nothing, where standard error is no terminal.
struct Progress(ProgressBar);

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        bar.set_style(
            ProgressStyle::with_template("{msg:45} {wide_bar} {pos}/{len}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self(bar)
    }

    /// What is being done, in so many steps.
    fn begin(&self, what: String, steps: u64) {
        self.0.set_length(steps);
        self.0.set_position(0);
        self.0.set_message(what);
        self.0.tick();
    }

    /// So many seconds of something.
    async fn wait(&self, what: &str, seconds: u64) {
        self.begin(what.to_owned(), seconds);
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        // The first one comes at once.
        for second in 0..=seconds {
            ticks.tick().await;
            self.at(second);
        }
    }

    fn at(&self, step: u64) {
        self.0.set_position(step);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How often a wait looks again: seldom enough not to be felt.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Without any progress for so long, something is broken.
const PATIENCE: Duration = Duration::from_secs(60);
