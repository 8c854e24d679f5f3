//! How many events of the provider a receiver makes durable in a second, and how long whoever posts one waits for its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::drain::spent;
use super::figures::as_f64;
use super::stage::{RECEIVER_SECRET, Stage};
use super::writing::percentiles;
use super::{BenchError, Figures, Measured, Outcome, Progress, Scenario, Sizes, Subject, usage};

/// As many as a receiver lets in.
const CONNECTIONS: u64 = 64;
/// What a receiver has to bear.
const PER_SECOND: u64 = 2_000;

pub(super) async fn measure(
    stage: &Stage,
    sizes: &Sizes,
    progress: &Progress,
) -> Result<Outcome, BenchError> {
    let mut results = Vec::new();
    let steady = (PER_SECOND * sizes.seconds, Some(PER_SECOND));
    for (events, per_second) in [steady, (sizes.jobs, None)] {
        let case = per_second.map_or_else(
            || format!("{CONNECTIONS} connections, flat out"),
            |rate| format!("{rate} a second"),
        );
        let mut rounds = Vec::new();
        for round in 1..=sizes.rounds {
            progress.begin(format!("receiver: {case}, round {round}"), 1);
            rounds.push(receive(stage, events, per_second).await?);
        }
        let scenario = Scenario::Receiver;
        results.push(Measured::new(scenario, case, Subject::SmsOutbox, rounds));
    }
    Ok(Outcome {
        results,
        ..Outcome::default()
    })
}

/// Each event is about another message, and the last word on it.
async fn receive(
    stage: &Stage,
    events: u64,
    per_second: Option<u64>,
) -> Result<Figures, BenchError> {
    let database = stage.outbox_database().await?;
    sqlx::query(include_str!("seed_sent.sql"))
        .bind(i64::try_from(events).unwrap_or(i64::MAX))
        .execute(database.pool())
        .await?;
    database.tidy().await?;
    let (mut receiver, address) = stage.receiver(&database).await?;
    let before = (usage::cpu(receiver.id()), stage.server_cpu());
    let wal = database.wal().await?;
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..CONNECTIONS.min(events) {
        let next = Arc::clone(&next);
        senders.spawn(async move {
            let mut connection = TcpStream::connect(address).await?;
            connection.set_nodelay(true)?;
            let mut waits = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= events {
                    return Ok::<_, std::io::Error>(waits);
                }
                let mut due = Instant::now();
                if let Some(rate) = per_second {
                    // Whoever is late has waited since then.
                    due = began + Duration::from_micros(n * 1_000_000 / rate);
                    tokio::time::sleep_until(due).await;
                }
                post(&mut connection, address, n).await?;
                waits.push(due.elapsed().as_secs_f64() * 1_000.0);
            }
        });
    }
    let mut waits = Vec::new();
    while let Some(sender) = senders.join_next().await {
        let sent = sender.map_err(|_| BenchError::Panicked)?;
        waits.extend(sent.map_err(BenchError::Receiver)?);
    }
    let took = began.elapsed();
    receiver.check()?;
    let after = (usage::cpu(receiver.id()), stage.server_cpu());
    let logged = database.wal().await?.bytes - wal.bytes;
    let known: i64 = sqlx::query_scalar(include_str!("decided.sql"))
        .fetch_one(database.pool())
        .await?;
    if u64::try_from(known) != Ok(events) {
        return Err(BenchError::Stuck {
            accepted: u64::try_from(known).unwrap_or(0),
            expected: events,
        });
    }
    let per_2000 = |cpu: Option<Duration>| {
        cpu.map(|cpu| cpu.as_secs_f64() * 1_000.0 * 2_000.0 / as_f64(events))
    };
    let [p50, p95, p99, longest] = percentiles(&waits);
    let figures = Figures::default()
        .with("events_per_second", as_f64(events) / took.as_secs_f64())
        .with("p50_ms", p50)
        .with("p95_ms", p95)
        .with("p99_ms", p99)
        .with("longest_ms", longest)
        .with(
            "receiver_cpu_ms_per_2000",
            per_2000(spent(before.0, after.0)),
        )
        .with(
            "database_cpu_ms_per_2000",
            per_2000(spent(before.1, after.1)),
        )
        .with(
            "wal_bytes_per_event",
            as_f64(u64::try_from(logged).unwrap_or(0)) / as_f64(events),
        )
        .with("receiver_memory_mib", usage::memory_peak_mib(receiver.id()));
    receiver.stop().await?;
    stage.drop_database(database).await?;
    Ok(figures)
}

async fn post(connection: &mut TcpStream, address: SocketAddr, n: u64) -> std::io::Result<()> {
    let body = format!(
        r#"{{"report":{{"id":{},"packet_id":{},"status":"delivered","to":"+90532{:07}","body":"Order {n:09} is on its way."}}}}"#,
        1_500_000_000 + n,
        100_000_000 + n,
        n % 10_000_000,
    );
    let request = format!(
        "POST /webhooks/default/{RECEIVER_SECRET} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(256);
    // It has no body.
    while !answer.ends_with(b"\r\n\r\n") {
        if connection.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    let status = String::from_utf8_lossy(&answer);
    Err(std::io::Error::other(
        status.lines().next().unwrap_or_default().to_owned(),
    ))
}
