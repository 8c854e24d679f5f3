//! Applications that write messages: single-row transactions, each on its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{Executor, PgPool};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::stage::{Clock, Request};
use super::{BenchError, figures::percentile};

/// How messages are written down.
#[derive(Clone)]
pub(super) struct Writing {
    pub(super) pool: PgPool,
    /// A statement with number, text and priority as `$1` to `$3`.
    pub(super) statement: &'static str,
    /// What all texts begin with. No two messages have the same text.
    pub(super) text: &'static str,
    pub(super) priority: i16,
}

/// A message that was committed.
pub(super) struct Written {
    text: String,
    /// When whoever wrote it knew; microseconds since 1970.
    committed_at: i64,
}

impl Writing {
    async fn write(&self, number: u64) -> Result<String, BenchError> {
        let text = format!("{} {number:09}", self.text);
        let write = sqlx::query(self.statement)
            .bind(format!("90532{:07}", number % 10_000_000))
            .bind(&text)
            .bind(self.priority);
        self.pool.execute(write).await?;
        Ok(text)
    }

    /// Writes so many a second, evenly, over as many connections as the pool has: whoever is late catches up.
    pub(super) async fn steadily(
        &self,
        clock: &Arc<Clock>,
        per_second: u64,
        seconds: u64,
    ) -> Result<Vec<Written>, BenchError> {
        let began = Instant::now();
        let connections = u64::from(self.pool.options().get_max_connections());
        let mut writers = JoinSet::new();
        for first in 0..connections {
            let (this, clock) = (self.clone(), Arc::clone(clock));
            writers.spawn(async move {
                let mut written = Vec::new();
                let mut number = first;
                while number < per_second * seconds {
                    let due = Duration::from_micros(number * 1_000_000 / per_second);
                    tokio::time::sleep_until(began + due).await;
                    let text = this.write(number).await?;
                    let committed_at = clock.now();
                    written.push(Written { text, committed_at });
                    number += connections;
                }
                Ok::<_, BenchError>(written)
            });
        }
        let mut all = Vec::new();
        while let Some(writer) = writers.join_next().await {
            all.extend(writer.map_err(|_| BenchError::Panicked)??);
        }
        Ok(all)
    }

    /// Writes as fast as it goes on all connections; how many were committed in the time.
    pub(super) async fn flat_out(&self, time: Duration) -> Result<u64, BenchError> {
        let end = Instant::now() + time;
        let next = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        for _ in 0..self.pool.options().get_max_connections() {
            let (this, next) = (self.clone(), Arc::clone(&next));
            writers.spawn(async move {
                let mut committed = 0_u64;
                while Instant::now() < end {
                    this.write(next.fetch_add(1, Ordering::Relaxed)).await?;
                    committed += u64::from(Instant::now() <= end);
                }
                Ok::<_, BenchError>(committed)
            });
        }
        let mut committed = 0;
        while let Some(writer) = writers.join_next().await {
            committed += writer.map_err(|_| BenchError::Panicked)??;
        }
        Ok(committed)
    }
}

/// Milliseconds from the commit of each message to the arrival of its (first) request. A request that arrives before its
/// writer has heard of the commit has a negative one.
pub(super) fn waits(written: &[Written], requests: &[Request]) -> Vec<f64> {
    let mut arrived: HashMap<&str, i64> = HashMap::new();
    for request in requests {
        if let Some(text) = &request.text {
            let first = arrived.entry(text).or_insert(request.arrived_at);
            *first = (*first).min(request.arrived_at);
        }
    }
    let wait = |written: &Written| {
        let arrived_at = arrived.get(written.text.as_str())?;
        let us = i32::try_from(arrived_at - written.committed_at).unwrap_or(i32::MAX);
        Some(f64::from(us) / 1_000.0)
    };
    written.iter().filter_map(wait).collect()
}

/// The percentiles that are reported, with their names.
pub(super) fn percentiles(waits: &[f64]) -> [Option<f64>; 4] {
    [50.0, 95.0, 99.0, 100.0].map(|percent| percentile(waits, percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str, arrived_at: i64) -> Request {
        Request {
            arrived_at,
            action: "send-sms".to_owned(),
            recipients: 1,
            text: Some(text.to_owned()),
        }
    }

    #[test]
    fn a_wait_is_that_of_the_first_request_and_what_never_came_has_none() {
        let written =
            [("a", 1_000), ("b", 2_000), ("c", 3_000)].map(|(text, committed_at)| Written {
                text: text.to_owned(),
                committed_at,
            });
        let requests = [
            request("b", 1_500),
            request("a", 9_000),
            request("a", 4_000),
        ];
        assert_eq!(waits(&written, &requests), [3.0, -0.5]);
    }
}
