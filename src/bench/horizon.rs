//! Whether somebody's forgotten transaction slows the queue down. While it is open, no dead row or index entry can be removed, and
//! a queue makes one with every step that a job takes.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::drain::{Drain, Drainer, LATE_RATE, RATE};
use super::stage::Stage;
use super::{BenchError, Measured, Outcome, Progress, Scenario, Sizes};

pub(super) async fn measure(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
) -> Result<Outcome, BenchError> {
    let mut outcome = Outcome::default();
    let mut of_case = Vec::new();
    for held in [false, true] {
        let case = if held {
            "a transaction held open elsewhere"
        } else {
            "undisturbed"
        };
        for by in [Drainer::Workers, Drainer::BareLoop] {
            let what = format!("horizon: {case}, {}", by.subject().name());
            progress.begin(what, sizes.horizon);
            let database = stage.queue(by, sizes.horizon).await?;
            let mut elsewhere = PgConnection::connect(database.url()).await?;
            if held {
                sqlx::raw_sql(include_str!("hold.sql"))
                    .execute(&mut elsewhere)
                    .await?;
            }
            let drain = Drain {
                database: &database,
                by,
                workers: 1,
                concurrency: sizes.concurrency,
                latency: Duration::ZERO,
                jobs: sizes.horizon,
                more: false,
            };
            let figures = drain.run(stage, progress).await?;
            elsewhere.close().await?;
            stage.drop_database(database).await?;
            of_case.push(Measured::new(
                Scenario::Horizon,
                case,
                by.subject(),
                vec![figures],
            ));
        }
    }
    let before = of_case.clone();
    for (number, measured) in of_case.iter_mut().enumerate() {
        // Ours, bare; ours held, bare held.
        if let Some(undisturbed) = number.checked_sub(2).and_then(|at| before.get(at)) {
            measured.compare("undisturbed", RATE, undisturbed);
            measured.compare("undisturbed, last quarter", LATE_RATE, undisturbed);
        }
        if let Some(bare) = before.get(number + 1).filter(|_| number % 2 == 0) {
            measured.compare("bare loop", RATE, bare);
        }
    }
    outcome.results = of_case;
    Ok(outcome)
}
