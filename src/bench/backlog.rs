//! Whether a queue slows down as it grows: with what waits, with what is not due yet, with what is finished.

use std::time::Duration;

use super::drain::{Drain, Drainer, Priorities, RATE};
use super::figures::as_f64;
use super::stage::{Database, Stage};
use super::{BenchError, Measured, Outcome, Progress, Scenario, Sizes, plot};

/// What is in a queue beside the jobs that a measurement drains.
#[derive(Clone, Copy, Default)]
struct Beside {
    waiting: u64,
    future: u64,
    finished: u64,
}

impl Beside {
    fn name(self) -> String {
        let kinds = [
            (self.waiting, "waiting"),
            (self.future, "in the future"),
            (self.finished, "finished"),
        ];
        let named: Vec<String> = kinds
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if named.is_empty() {
            "nothing else".to_owned()
        } else {
            named.join(", ")
        }
    }
}

pub(super) async fn measure(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
) -> Result<Outcome, BenchError> {
    let waiting = |waiting| Beside {
        waiting,
        ..Beside::default()
    };
    let everything = Beside {
        waiting: sizes.backlog,
        future: sizes.future,
        finished: sizes.finished,
    };
    let cases = [
        Beside::default(),
        waiting(sizes.backlog / 10),
        waiting(sizes.backlog),
        Beside {
            waiting: 0,
            finished: 0,
            ..everything
        },
        Beside {
            waiting: 0,
            future: 0,
            ..everything
        },
        everything,
    ];
    let mut outcome = Outcome::default();
    let mut small: [Option<Measured>; 2] = [None, None];
    let mut lines: [Vec<(f64, f64)>; 2] = [Vec::new(), Vec::new()];
    for beside in cases {
        // The bare loop knows waiting rows only.
        let bare_too = beside.future == 0 && beside.finished == 0;
        let drainers = [Drainer::Workers, Drainer::BareLoop];
        let mut of_case = Vec::new();
        for (number, by) in drainers.into_iter().enumerate() {
            if by == Drainer::BareLoop && !bare_too {
                continue;
            }
            let mut measured = drain(stage, sizes, progress, beside, by).await?;
            if let Some(small) = &small[number] {
                measured.compare("nothing else", RATE, small);
            } else {
                small[number] = Some(measured.clone());
            }
            if let Some(rate) = measured.figures.get(RATE).filter(|_| bare_too) {
                let size = as_f64(sizes.jobs + beside.waiting);
                lines[number].push((size, rate));
            }
            of_case.push(measured);
        }
        if let [ours, bare] = &mut of_case[..] {
            ours.compare("bare loop", RATE, bare);
        }
        outcome.results.append(&mut of_case);
    }
    let [ours, bare] = lines;
    let series = [("sms-outbox", ours), ("bare loop", bare)];
    let picture = plot::rates("Jobs per second over the number of jobs that wait", &series);
    outcome.plots.push(("backlog.svg".to_owned(), picture));
    Ok(outcome)
}

/// Several rounds on one queue: it is far larger than what they take out of it, or gets that back.
async fn drain(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
    beside: Beside,
    by: Drainer,
) -> Result<Measured, BenchError> {
    let what = format!("backlog: {}, {}", beside.name(), by.subject().name());
    progress.begin(format!("{what}: filling"), sizes.jobs);
    let database = stage.queue(by, 0).await?;
    beside.fill(&database, by).await?;
    let mut rounds = Vec::new();
    let mut next = beside.waiting + 1;
    for round in 1..=sizes.rounds {
        database
            .fill(by, sizes.jobs, next, Priorities::Mixed)
            .await?;
        next += sizes.jobs;
        database.tidy().await?;
        progress.begin(format!("{what}, round {round}"), sizes.jobs);
        let drain = Drain {
            database: &database,
            by,
            workers: 1,
            concurrency: sizes.concurrency,
            latency: Duration::ZERO,
            jobs: sizes.jobs,
            more: true,
        };
        rounds.push(drain.run(stage, progress).await?);
    }
    stage.drop_database(database).await?;
    Ok(Measured::new(
        Scenario::Backlog,
        beside.name(),
        by.subject(),
        rounds,
    ))
}

impl Beside {
    async fn fill(self, database: &Database, by: Drainer) -> Result<(), BenchError> {
        database
            .fill(by, self.waiting, 1, Priorities::Mixed)
            .await?;
        for (count, statement) in [
            (self.future, include_str!("seed_future.sql")),
            (self.finished, include_str!("seed_finished.sql")),
        ] {
            if count > 0 {
                sqlx::query(statement)
                    .bind(i64::try_from(count).unwrap_or(i64::MAX))
                    .execute(database.pool())
                    .await?;
            }
        }
        Ok(())
    }
}
