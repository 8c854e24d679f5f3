//! What it costs to wait: a worker with nothing to do, and the server with nobody but it.

use std::time::Duration;

use super::drain::spent;
use super::stage::{Keep, Stage};
use super::{BenchError, Figures, Measured, Outcome, Progress, Scenario, Sizes, Subject, usage};

/// A worker that has just started, or has just had work, looks for more of it often at first.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) async fn measure(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
) -> Result<Outcome, BenchError> {
    let database = stage.outbox_database().await?;
    let mut rounds = [Vec::new(), Vec::new()];
    for round in 1..=sizes.rounds {
        let [alone, with_worker] = &mut rounds;
        tokio::time::sleep(SETTLE).await;
        let before = stage.server_cpu();
        progress
            .wait(&format!("idle: nobody, round {round}"), sizes.seconds)
            .await;
        let of = |cpu: Option<Duration>| percent(cpu, sizes.seconds);
        alone.push(Figures::default().with(
            "database_cpu_percent",
            of(spent(before, stage.server_cpu())),
        ));

        let provider = stage.sandbox(Duration::ZERO, Keep::CountsOnly).await?;
        let mut worker = stage.worker(&database, &provider, sizes.concurrency, sizes.limit)?;
        stage.ready(&mut worker).await?;
        tokio::time::sleep(SETTLE).await;
        let before = (stage.server_cpu(), usage::cpu(worker.id()));
        progress
            .wait(&format!("idle: one worker, round {round}"), sizes.seconds)
            .await;
        worker.check()?;
        with_worker.push(
            Figures::default()
                .with(
                    "worker_cpu_percent",
                    of(spent(before.1, usage::cpu(worker.id()))),
                )
                .with(
                    "database_cpu_percent",
                    of(spent(before.0, stage.server_cpu())),
                )
                .with("worker_memory_mib", usage::memory_peak_mib(worker.id())),
        );
        worker.stop().await?;
        provider.stop().await?;
    }
    stage.drop_database(database).await?;
    let [alone, with_worker] = rounds;
    let case = format!("{} s without work", sizes.seconds);
    Ok(Outcome {
        results: vec![
            Measured::new(Scenario::Idle, &case, Subject::SmsOutbox, with_worker),
            Measured::new(Scenario::Idle, &case, Subject::Nobody, alone),
        ],
        ..Outcome::default()
    })
}

/// Of one core.
fn percent(cpu: Option<Duration>, seconds: u64) -> Option<f64> {
    cpu.map(|cpu| cpu.as_secs_f64() / Duration::from_secs(seconds).as_secs_f64() * 100.0)
}
