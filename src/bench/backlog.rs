//! Whether a queue slows down as it grows: with what waits, with what is not due yet, with what is finished.

use std::time::Duration;

use super::drain::{Drain, Drainer, Priorities, RATE};
use super::figures::as_f64;
use super::stage::{Database, Stage};
use super::{BenchError, Figures, Measured, Outcome, Progress, Scenario, Sizes, plot};

/// What is in a queue beside the jobs that a measurement drains.
#[derive(Clone, Copy, Default)]
struct Beside {
    waiting: u64,
    future: u64,
    finished: u64,
}

impl Beside {
    const fn is_nothing(self) -> bool {
        self.waiting == 0 && self.future == 0 && self.finished == 0
    }

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
            let measured = drain(stage, sizes, progress, beside, by).await?;
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

/// Several rounds, each beside one on a queue that holds nothing else: what else the machine does changes from minute to minute.
async fn drain(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
    beside: Beside,
    by: Drainer,
) -> Result<Measured, BenchError> {
    let what = format!("backlog: {}, {}", beside.name(), by.subject().name());
    progress.begin(format!("{what}: filling"), sizes.jobs);
    let mut queue = Queue::make(stage, by, beside).await?;
    let mut small = if beside.is_nothing() {
        None
    } else {
        Some(Queue::make(stage, by, Beside::default()).await?)
    };
    let (mut rounds, mut compared) = (Vec::new(), Vec::new());
    for round in 1..=sizes.rounds {
        let what = format!("{what}, round {round}");
        if let Some(small) = &mut small {
            compared.push(small.drain(stage, sizes, progress, what.clone()).await?);
        }
        rounds.push(queue.drain(stage, sizes, progress, what).await?);
    }
    stage.drop_database(queue.database).await?;
    let mut measured = Measured::new(Scenario::Backlog, beside.name(), by.subject(), rounds);
    if let Some(small) = small {
        stage.drop_database(small.database).await?;
        let small = Measured::new(Scenario::Backlog, "", by.subject(), compared);
        measured.compare("nothing else", RATE, &small);
    }
    Ok(measured)
}

/// A queue that several rounds drain some of.
struct Queue {
    database: Database,
    by: Drainer,
    /// The number of the next job.
    next: u64,
}

impl Queue {
    async fn make(stage: &Stage, by: Drainer, beside: Beside) -> Result<Self, BenchError> {
        let database = stage.queue(by, 0).await?;
        beside.fill(&database, by).await?;
        Ok(Self {
            database,
            by,
            next: beside.waiting + 1,
        })
    }

    /// Puts in what is then taken out.
    async fn drain(
        &mut self,
        stage: &Stage,
        sizes: &Sizes,
        progress: &Progress,
        what: String,
    ) -> Result<Figures, BenchError> {
        self.database
            .fill(self.by, sizes.jobs, self.next, Priorities::Mixed)
            .await?;
        self.next += sizes.jobs;
        self.database.tidy().await?;
        progress.begin(what, sizes.jobs);
        let drain = Drain {
            database: &self.database,
            by: self.by,
            workers: 1,
            concurrency: sizes.concurrency,
            latency: Duration::ZERO,
            jobs: sizes.jobs,
            more: true,
        };
        drain.run(stage, progress).await
    }
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
