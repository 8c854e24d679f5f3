//! What the outbox costs those who write: their rate into it beside that into a plain table.

use std::time::Duration;

use super::drain::{RATE, count};
use super::figures::as_f64;
use super::stage::{Keep, Stage};
use super::writing::Writing;
use super::{BenchError, Figures, Measured, Outcome, Progress, Scenario, Sizes, Subject};

pub(super) async fn measure(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
) -> Result<Outcome, BenchError> {
    let subjects = [Subject::PlainTable, Subject::Unattended, Subject::SmsOutbox];
    let mut outcome = Outcome::default();
    for connections in &sizes.connections {
        let case = format!("{connections} connections");
        let mut rounds = subjects.map(|_| Vec::new());
        for round in 1..=sizes.rounds {
            for (subject, figures) in subjects.into_iter().zip(&mut rounds) {
                let what = format!("producers: {case}, {}, round {round}", subject.name());
                progress.begin(what, 1);
                figures.push(write(stage, sizes, subject, *connections).await?);
            }
        }
        let [plain, unattended, ours] = rounds;
        let plain = Measured::new(Scenario::Producers, &case, Subject::PlainTable, plain);
        let mut unattended =
            Measured::new(Scenario::Producers, &case, Subject::Unattended, unattended);
        let mut ours = Measured::new(Scenario::Producers, &case, Subject::SmsOutbox, ours);
        unattended.compare("plain table", RATE, &plain);
        ours.compare("plain table", RATE, &plain);
        outcome.results.extend([ours, unattended, plain]);
    }
    Ok(outcome)
}

async fn write(
    stage: &Stage,
    sizes: &Sizes,
    subject: Subject,
    connections: usize,
) -> Result<Figures, BenchError> {
    let database = stage.outbox_database().await?;
    let statement = if subject == Subject::PlainTable {
        sqlx::raw_sql(include_str!("plain_table.sql"))
            .execute(database.pool())
            .await?;
        include_str!("write_plain.sql")
    } else {
        include_str!("write.sql")
    };
    let mut attendance = None;
    if subject == Subject::SmsOutbox {
        let provider = stage.sandbox(Duration::ZERO, Keep::CountsOnly).await?;
        let mut worker = stage.worker(&database, &provider, sizes.concurrency, 0)?;
        stage.ready(&mut worker).await?;
        attendance = Some((worker, provider));
    }
    let writing = Writing {
        pool: database.connections(connections).await?,
        statement,
        text: "Order",
        priority: 1,
    };
    let time = Duration::from_secs(sizes.seconds) / 2;
    let wal_before = database.wal().await?.bytes;
    let committed = writing.flat_out(time).await?;
    let wal = database.wal().await?.bytes - wal_before;
    let mut figures = Figures::default().with(RATE, as_f64(committed) / time.as_secs_f64());
    writing.pool.close().await;
    if let Some((mut worker, mut provider)) = attendance {
        worker.check()?;
        let sent = as_f64(provider.accepted().await?) / time.as_secs_f64();
        figures.push("sent_per_s_meanwhile", sent);
        worker.stop().await?;
        provider.stop().await?;
    } else {
        // Beside a worker it would be the worker's as well.
        figures.push("wal_bytes_per_job", count(wal) / as_f64(committed));
    }
    stage.drop_database(database).await?;
    Ok(figures)
}
