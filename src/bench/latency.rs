//! How long a message waits: from the commit to the arrival of its request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::drain::spent;
use super::figures::as_f64;
use super::stage::{Clock, Keep, Stage};
use super::writing::{Writing, percentiles, waits};
use super::{
    BenchError, Figures, LOOK_AGAIN, Measured, Outcome, PATIENCE, Progress, Scenario, Sizes,
    Subject, usage,
};

/// Those who write are others than the worker, and not one only.
const CONNECTIONS: usize = 4;

pub(super) async fn measure(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
) -> Result<Outcome, BenchError> {
    let (mut ours, mut alone) = (Vec::new(), Vec::new());
    for round in 1..=sizes.rounds {
        progress.begin(format!("latency: writers alone, round {round}"), 1);
        alone.push(writers_alone(stage, sizes).await?);
        progress.begin(format!("latency: round {round}"), 1);
        ours.push(with_worker(stage, sizes).await?);
    }
    let case = format!("{} a second", sizes.rate);
    Ok(Outcome {
        results: vec![
            Measured::new(Scenario::Latency, &case, Subject::SmsOutbox, ours),
            Measured::new(Scenario::Latency, &case, Subject::Writers, alone),
        ],
        ..Outcome::default()
    })
}

async fn with_worker(stage: &Stage, sizes: &Sizes) -> Result<Figures, BenchError> {
    let database = stage.outbox_database().await?;
    let mut provider = stage.sandbox(Duration::ZERO, Keep::Requests).await?;
    let mut worker = stage.worker(&database, &provider, sizes.concurrency, 0)?;
    stage.ready(&mut worker).await?;
    let writing = Writing {
        pool: database.connections(CONNECTIONS).await?,
        statement: include_str!("write.sql"),
        text: "Order",
        priority: 1,
    };
    let clock = Arc::new(Clock::start());
    let before = (usage::cpu(worker.id()), stage.server_cpu());
    let written = writing.steadily(&clock, sizes.rate, sizes.seconds).await?;
    let began = Instant::now();
    let expected = written.len() as u64;
    while provider.accepted().await? < expected {
        worker.check()?;
        if began.elapsed() > PATIENCE {
            return Err(BenchError::Stuck {
                accepted: provider.accepted().await?,
                expected,
            });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let after = (usage::cpu(worker.id()), stage.server_cpu());
    let waits = waits(&written, &provider.orders().await?);
    let [p50, p95, p99, longest] = percentiles(&waits);
    let figures = Figures::default()
        .with("p50_ms", p50)
        .with("p95_ms", p95)
        .with("p99_ms", p99)
        .with("longest_ms", longest)
        .with("messages", as_f64(waits.len() as u64))
        .with(
            "worker_cpu_ms_per_2000",
            per_2000(spent(before.0, after.0), expected),
        )
        .with(
            "database_cpu_ms_per_2000",
            per_2000(spent(before.1, after.1), expected),
        )
        .with("worker_memory_mib", usage::memory_peak_mib(worker.id()));
    writing.pool.close().await;
    worker.stop().await?;
    provider.stop().await?;
    stage.drop_database(database).await?;
    Ok(figures)
}

/// What the database would spend on the inserts by themselves.
async fn writers_alone(stage: &Stage, sizes: &Sizes) -> Result<Figures, BenchError> {
    let database = stage.outbox_database().await?;
    let writing = Writing {
        pool: database.connections(CONNECTIONS).await?,
        statement: include_str!("write.sql"),
        text: "Order",
        priority: 1,
    };
    let before = stage.server_cpu();
    let written = writing
        .steadily(&Arc::new(Clock::start()), sizes.rate, sizes.seconds)
        .await?;
    let cpu = spent(before, stage.server_cpu());
    writing.pool.close().await;
    stage.drop_database(database).await?;
    let messages = written.len() as u64;
    Ok(Figures::default()
        .with("messages", as_f64(messages))
        .with("database_cpu_ms_per_2000", per_2000(cpu, messages)))
}

fn per_2000(cpu: Option<Duration>, messages: u64) -> Option<f64> {
    cpu.map(|cpu| cpu.as_secs_f64() * 1_000.0 * 2_000.0 / as_f64(messages))
}
