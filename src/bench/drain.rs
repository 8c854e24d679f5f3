//! How fast a full queue empties: ours, and the bare loop's beside it.

use std::time::{Duration, Instant};

use sqlx::Row;

use super::stage::{Database, Keep, Provider, Stage};
use super::{
    BenchError, Figures, LOOK_AGAIN, Measured, Outcome, PATIENCE, Progress, Scenario, Sizes,
    Subject, bare_loop, figures::as_f64, processes::Process, usage,
};
use crate::outbox::Outbox;

pub(super) const RATE: &str = "jobs_per_s";
pub(super) const LATE_RATE: &str = "last_quarter_jobs_per_s";

/// Who drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drainer {
    Workers,
    BareLoop,
}

impl Drainer {
    pub(super) const fn subject(self) -> Subject {
        match self {
            Self::Workers => Subject::SmsOutbox,
            Self::BareLoop => Subject::BareLoop,
        }
    }
}

/// What is drained, and by whom.
#[derive(Clone, Copy)]
pub(super) struct Drain<'a> {
    pub(super) database: &'a Database,
    pub(super) by: Drainer,
    pub(super) workers: usize,
    pub(super) concurrency: usize,
    pub(super) latency: Duration,
    /// How many jobs the rate is computed from.
    pub(super) jobs: u64,
    /// Whether more than these are waiting.
    pub(super) more: bool,
}

/// Empties a fresh queue, alternately with the program and with the bare loop.
pub(super) async fn measure(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
) -> Result<Outcome, BenchError> {
    let first_latency = sizes.latency_ms.first().copied().unwrap_or(0);
    let first_workers = sizes.workers.first().copied().unwrap_or(1);
    // Several workers matter where the provider is not what they wait for.
    let mut cases: Vec<(u64, usize)> = Vec::new();
    cases.extend(
        sizes
            .workers
            .iter()
            .map(|workers| (first_latency, *workers)),
    );
    let slower = sizes.latency_ms.iter().skip(1);
    cases.extend(slower.map(|latency| (*latency, first_workers)));

    let mut outcome = Outcome::default();
    for (latency_ms, workers) in cases {
        let case = format!(
            "{latency_ms} ms, {workers} worker{}",
            if workers == 1 { "" } else { "s" }
        );
        let mut rounds = [Vec::new(), Vec::new()];
        for round in 1..=sizes.rounds {
            for (by, figures) in [Drainer::BareLoop, Drainer::Workers]
                .into_iter()
                .zip(&mut rounds)
            {
                let what = format!("drain: {case}, {}, round {round}", by.subject().name());
                progress.begin(what, sizes.jobs);
                let database = stage.queue(by, sizes.jobs).await?;
                let drain = Drain {
                    database: &database,
                    by,
                    workers,
                    concurrency: sizes.concurrency,
                    latency: Duration::from_millis(latency_ms),
                    jobs: sizes.jobs,
                    more: false,
                };
                figures.push(drain.run(stage, progress).await?);
                stage.drop_database(database).await?;
            }
        }
        let [bare, ours] = rounds;
        let bare = Measured::new(Scenario::Drain, &case, Subject::BareLoop, bare);
        let mut ours = Measured::new(Scenario::Drain, &case, Subject::SmsOutbox, ours);
        ours.compare("bare loop", RATE, &bare);
        outcome.results.extend([ours, bare]);
    }
    Ok(outcome)
}

impl Stage {
    /// A fresh database with so many jobs waiting, analysed and vacuumed as a queue is that has been there for a while.
    pub(super) async fn queue(&self, by: Drainer, jobs: u64) -> Result<Database, BenchError> {
        let database = match by {
            Drainer::Workers => self.outbox_database().await?,
            Drainer::BareLoop => {
                let database = self.empty_database().await?;
                sqlx::raw_sql(include_str!("bare_table.sql"))
                    .execute(database.pool())
                    .await?;
                database
            }
        };
        database.fill(by, jobs, 1, Priorities::One).await?;
        database.tidy().await?;
        Ok(database)
    }
}

/// Which priorities jobs have; the bare loop knows none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priorities {
    One,
    Mixed,
}

impl Database {
    /// So many further jobs that are due, with texts numbered from `first` on.
    pub(super) async fn fill(
        &self,
        by: Drainer,
        jobs: u64,
        first: u64,
        priorities: Priorities,
    ) -> Result<(), BenchError> {
        let [jobs, first] = [jobs, first].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        let fill = match by {
            Drainer::Workers => sqlx::query(include_str!("seed_waiting.sql"))
                .bind(jobs)
                .bind(first)
                .bind(priorities == Priorities::Mixed),
            Drainer::BareLoop => sqlx::query(include_str!("bare_seed.sql"))
                .bind(jobs)
                .bind(first),
        };
        fill.execute(self.pool()).await?;
        Ok(())
    }

    /// What autovacuum would have done by the time.
    pub(super) async fn tidy(&self) -> Result<(), BenchError> {
        sqlx::raw_sql("VACUUM (ANALYZE)")
            .execute(self.pool())
            .await?;
        Ok(())
    }
}

impl Drain<'_> {
    /// Drains, and says how it went.
    pub(super) async fn run(
        &self,
        stage: &Stage,
        progress: &Progress,
    ) -> Result<Figures, BenchError> {
        let mut provider = stage.sandbox(self.latency, Keep::CountsOnly).await?;
        if self.by == Drainer::Workers {
            // Each round has a sandbox of its own, and a queue is for one provider.
            let outbox = Outbox::new(self.database.pool().clone());
            outbox.name_provider("bench", provider.origin()).await?;
        }
        let before = self.database.wal().await?;
        let server_before = stage.server_cpu();
        let provider_before = usage::cpu(provider.id());
        let mut workers = Vec::new();
        for _ in 0..self.workers {
            workers.push(match self.by {
                Drainer::Workers => stage.worker(self.database, &provider, self.concurrency, 0)?,
                Drainer::BareLoop => {
                    let at_most = if self.more { self.jobs } else { u64::MAX };
                    stage.bare_loop(self.database, &provider, self.concurrency, at_most)?
                }
            });
        }
        self.wait(&mut workers, &mut provider, progress).await?;

        let workers_cpu: Option<Duration> = workers.iter().map(|it| usage::cpu(it.id())).sum();
        let memory = workers
            .iter()
            .filter_map(|it| usage::memory_peak_mib(it.id()))
            .reduce(f64::max);
        let server_cpu = spent(server_before, stage.server_cpu());
        let provider_cpu = spent(provider_before, usage::cpu(provider.id()));
        let wal = self.database.wal().await?.bytes - before.bytes;
        let processed = provider.accepted().await?;
        for worker in workers {
            worker.stop().await?;
        }
        provider.stop().await?;

        let drained = match self.by {
            Drainer::Workers => include_str!("drained.sql"),
            Drainer::BareLoop => include_str!("bare_drained.sql"),
        };
        let row = sqlx::query(drained)
            .bind(i64::try_from(self.jobs).unwrap_or(i64::MAX))
            .bind(before.at)
            .fetch_one(self.database.pool())
            .await?;
        let recorded = count(row.try_get(0)?);
        let seconds: Option<f64> = row.try_get(1)?;
        let last_quarter: Option<f64> = row.try_get(2)?;
        let (claims, records) = (count(row.try_get(3)?), count(row.try_get(4)?));
        let of = |whole: f64, part: f64| (part > 0.0).then(|| whole / part);
        let jobs = as_f64(self.jobs);
        let each = |cpu: Option<Duration>| {
            cpu.and_then(|cpu| of(cpu.as_secs_f64() * 1e6, as_f64(processed)))
        };
        Ok(Figures::default()
            .with(RATE, seconds.and_then(|seconds| of(jobs, seconds)))
            .with(
                LATE_RATE,
                last_quarter.and_then(|seconds| of(jobs / 4.0, seconds)),
            )
            .with("wal_bytes_per_job", of(count(wal), as_f64(processed)))
            .with("worker_cpu_us_per_job", each(workers_cpu))
            .with("database_cpu_us_per_job", each(server_cpu))
            .with("sandbox_cpu_us_per_job", each(provider_cpu))
            .with("jobs_per_claim", of(recorded, claims))
            .with("jobs_per_record", of(recorded, records))
            .with("worker_memory_mib", memory))
    }

    /// Waits until the provider has had all, and, where nothing more is waiting, until all of it is recorded.
    async fn wait(
        &self,
        workers: &mut [Process],
        provider: &mut Provider,
        progress: &Progress,
    ) -> Result<(), BenchError> {
        let mut accepted = 0;
        let mut went_on = Instant::now();
        loop {
            for worker in &mut *workers {
                worker.check()?;
            }
            let now = provider.accepted().await?;
            progress.at(now.min(self.jobs));
            if now > accepted {
                (accepted, went_on) = (now, Instant::now());
            }
            if accepted >= self.jobs && self.is_over(workers).await? {
                return Ok(());
            }
            if went_on.elapsed() > PATIENCE {
                return Err(BenchError::Stuck {
                    accepted,
                    expected: self.jobs,
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn is_over(&self, workers: &[Process]) -> Result<bool, BenchError> {
        match self.by {
            // Stopped gracefully, it records what it has; a bare loop would not.
            Drainer::Workers if self.more => Ok(true),
            Drainer::Workers => {
                let unfinished: bool = sqlx::query_scalar(include_str!("unfinished.sql"))
                    .fetch_one(self.database.pool())
                    .await?;
                Ok(!unfinished)
            }
            Drainer::BareLoop => Ok(workers
                .iter()
                .all(|worker| worker.printed().trim() == bare_loop::DONE)),
        }
    }
}

/// What lies between two looks, if both could be taken.
pub(super) fn spent(before: Option<Duration>, after: Option<Duration>) -> Option<Duration> {
    after?.checked_sub(before?)
}

/// What a statement has counted.
pub(super) fn count(counted: i64) -> f64 {
    as_f64(u64::try_from(counted).unwrap_or(0))
}
