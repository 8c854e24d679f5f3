//! Whether the limit holds, and how much of it is used: as the provider sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::figures::{Arrival, as_f64, fullest_second};
use super::stage::{Clock, Keep, Stage};
use super::writing::{Writing, percentiles, waits};
use super::{
    BenchError, Figures, LOOK_AGAIN, Measured, Outcome, PATIENCE, Progress, Scenario, Sizes,
    Subject, plot,
};

const WORKERS: usize = 4;
const KILLED_EVERY: Duration = Duration::from_secs(5);
const PASSWORDS_PER_SECOND: u64 = 5;
/// How long the last passwords may still be on their way.
const LAST_PASSWORDS: Duration = Duration::from_secs(5);

/// What goes out under the limit.
struct Case {
    name: &'static str,
    /// A name for its picture.
    file: &'static str,
    /// Orders have 1 to so many recipients.
    recipients: i32,
    /// One worker is killed every few seconds, and another one started.
    kills: bool,
    /// One-time passwords are written meanwhile.
    passwords: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "one recipient each",
        file: "limit-single.svg",
        recipients: 1,
        kills: false,
        passwords: false,
    },
    Case {
        name: "1 to 10 recipients",
        file: "limit-mixed.svg",
        recipients: 10,
        kills: false,
        passwords: false,
    },
    Case {
        name: "a worker killed every 5 s",
        file: "limit-killed.svg",
        recipients: 1,
        kills: true,
        passwords: false,
    },
    Case {
        name: "passwords beside a campaign",
        file: "limit-passwords.svg",
        recipients: 1,
        kills: false,
        passwords: true,
    },
];

pub(super) async fn measure(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
) -> Result<Outcome, BenchError> {
    let mut outcome = Outcome::default();
    for case in &CASES {
        progress.begin(format!("limit: {}", case.name), 1);
        let (figures, arrivals) = case.run(stage, sizes).await?;
        // One round: the most of any second is no matter of medians.
        let name = format!("{WORKERS} workers, {} a second: {}", sizes.limit, case.name);
        let picture = plot::arrivals(&name, &arrivals, sizes.limit);
        outcome.plots.push((case.file.to_owned(), picture));
        outcome.results.push(Measured::new(
            Scenario::Limit,
            name,
            Subject::SmsOutbox,
            vec![figures],
        ));
    }
    Ok(outcome)
}

impl Case {
    async fn run(
        &self,
        stage: &Stage,
        sizes: &Sizes,
    ) -> Result<(Figures, Vec<Arrival>), BenchError> {
        let database = stage.outbox_database().await?;
        // More than can leave in the time.
        let jobs = u64::from(sizes.limit) * (sizes.seconds + 10);
        sqlx::query(include_str!("seed_campaign.sql"))
            .bind(i64::try_from(jobs).unwrap_or(i64::MAX))
            .bind(self.recipients)
            .execute(database.pool())
            .await?;
        database.tidy().await?;
        let mut provider = stage.sandbox(Duration::ZERO, Keep::Requests).await?;
        let passwords = Writing {
            pool: database.connections(2).await?,
            statement: include_str!("write.sql"),
            text: "Your code is",
            priority: 0,
        };
        let start = || stage.worker(&database, &provider, sizes.concurrency, sizes.limit);
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            workers.push(start()?);
        }
        let started = Instant::now();
        while provider.accepted().await? == 0 {
            for worker in &mut workers {
                worker.check()?;
            }
            if started.elapsed() > PATIENCE {
                return Err(BenchError::Stuck {
                    accepted: 0,
                    expected: jobs,
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        let clock = Arc::new(Clock::start());
        let time = Duration::from_secs(sizes.seconds);
        let mut written = Vec::new();
        let end = Instant::now() + time;
        if self.passwords {
            written = passwords
                .steadily(&clock, PASSWORDS_PER_SECOND, sizes.seconds)
                .await?;
        }
        let mut killed = 0;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            tokio::time::sleep(if self.kills {
                left.min(KILLED_EVERY)
            } else {
                left
            })
            .await;
            if self.kills && left > KILLED_EVERY {
                let at = killed % WORKERS;
                std::mem::replace(
                    &mut workers[at],
                    stage.worker(&database, &provider, sizes.concurrency, sizes.limit)?,
                )
                .kill();
                killed += 1;
            }
        }
        let ended_at = clock.now();
        let waits = self.waits(&written, &mut provider).await?;
        for worker in &mut workers {
            worker.check()?;
        }
        let mut arrivals: Vec<Arrival> = provider
            .orders()
            .await?
            .iter()
            .map(|order| Arrival {
                at_us: order.arrived_at,
                recipients: order.recipients,
            })
            .collect();
        for worker in workers {
            worker.stop().await?;
        }
        provider.stop().await?;
        passwords.pool.close().await;
        stage.drop_database(database).await?;

        let fullest = fullest_second(&arrivals);
        // Used is what arrived until the end, of what could have since the first one did.
        arrivals.retain(|arrival| arrival.at_us <= ended_at);
        let first = arrivals.first().map_or(ended_at, |arrival| arrival.at_us);
        let recipients: u64 = arrivals.iter().map(|arrival| arrival.recipients).sum();
        let seconds = Duration::from_micros(u64::try_from(ended_at - first).unwrap_or(0));
        let possible = f64::from(sizes.limit) * seconds.as_secs_f64();
        let [p50, _, p99, longest] = percentiles(&waits);
        let figures = Figures::default()
            .with("fullest_second", as_f64(fullest))
            .with("limit", f64::from(sizes.limit))
            .with("used_percent", as_f64(recipients) / possible * 100.0)
            .with("requests", as_f64(arrivals.len() as u64))
            .with("password_p50_ms", p50)
            .with("password_p99_ms", p99)
            .with("password_longest_ms", longest);
        Ok((figures, arrivals))
    }

    /// The waits of all passwords, the last of which may take their time.
    async fn waits(
        &self,
        written: &[super::writing::Written],
        provider: &mut super::stage::Provider,
    ) -> Result<Vec<f64>, BenchError> {
        let began = Instant::now();
        loop {
            let waits = waits(written, &provider.orders().await?);
            if waits.len() == written.len() {
                return Ok(waits);
            }
            if began.elapsed() > LAST_PASSWORDS {
                return Err(BenchError::Stuck {
                    accepted: waits.len() as u64,
                    expected: written.len() as u64,
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
