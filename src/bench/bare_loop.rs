//! The least that can do the same work: claim a batch, POST, write a batch down. No lease, no retry, no history, no limit, and
//! what it holds when it dies is lost. What a figure of ours is worth is seen beside it.
//!
//! It is meant to be hard to beat: it claims ahead while requests are under way, writes down whatever has come in while the last
//! batch was being written, and nothing of it waits for anything else. It runs as a process of its own, so that its time on a
//! core can be told from the worker's, and learns what to do from standard input, since a command line is public.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::Client;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection, Row};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::BenchError;
use crate::sandbox::SandboxConfig;

/// The hidden command that runs it.
pub const COMMAND: &str = "bench-bare-loop";
/// What it prints when everything is written down.
pub const DONE: &str = "done";

/// Jobs per claim, and the most that are written down at once.
pub(super) const CLAIM: usize = 200;
pub(super) const RECORD: usize = 500;

/// What a bare loop is told.
#[derive(Serialize, Deserialize)]
pub struct Task {
    /// The database with the table `bare_jobs`.
    pub database_url: String,
    /// Where to POST.
    pub provider_url: String,
    /// Requests in flight.
    pub concurrency: usize,
    /// It claims no further batch once it has claimed so many.
    pub at_most: u64,
    /// Jobs per claim.
    pub claim: usize,
    /// The most that one statement writes down.
    pub record: usize,
}

struct Job {
    id: i64,
    sender: String,
    recipient: String,
    body: String,
}

#[derive(Serialize)]
struct Envelope<'a> {
    request: SendSms<'a>,
}

#[derive(Serialize)]
struct SendSms<'a> {
    authentication: Authentication<'a>,
    order: Order<'a>,
}

#[derive(Serialize)]
struct Authentication<'a> {
    key: &'a str,
    hash: &'a str,
}

#[derive(Serialize)]
struct Order<'a> {
    sender: &'a str,
    iys: &'a str,
    message: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    text: &'a str,
    receipents: Receipents<'a>,
}

#[derive(Serialize)]
struct Receipents<'a> {
    number: [&'a str; 1],
}

#[derive(Deserialize)]
struct Reply {
    response: Response,
}

#[derive(Deserialize)]
struct Response {
    order: Accepted,
}

#[derive(Deserialize)]
struct Accepted {
    id: String,
}

/// A client with the settings of the worker's.
pub(super) fn client() -> Result<Client, BenchError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(BenchError::Tls)?
        // The sandbox speaks plain HTTP.
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http1_only()
        .no_proxy()
        .tcp_nodelay(true)
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(BenchError::Sandbox)
}

/// Runs the loop that standard input describes, says when it is done, and then waits for standard input to end: its use of a
/// core can be looked up only while it is there.
///
/// # Errors
/// At the first failure of any kind: there is nothing in it to get over one.
pub async fn run() -> Result<(), BenchError> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(BenchError::Told)?;
    let task: Task = serde_json::from_str(&line).map_err(BenchError::Unreadable)?;
    work(task).await?;
    println!("{DONE}");
    io::stdout().flush().map_err(BenchError::Told)?;
    tokio::task::spawn_blocking(|| io::stdin().lock().read_to_end(&mut Vec::new()))
        .await
        .ok();
    Ok(())
}

async fn work(task: Task) -> Result<(), BenchError> {
    // The plans that are good for small batches, whatever the statistics say.
    let options = PgConnectOptions::from_str(&task.database_url)
        .map_err(|_| BenchError::Address)?
        .options([
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ]);
    // One connection for each of the two that use one: nothing to wait for, and nothing to ask before each use.
    let (claiming, recording) = (options.connect().await?, options.connect().await?);
    let client = client()?;
    let url: Arc<str> = format!("{}/v1/send-sms/json", task.provider_url).into();

    // One batch lies ready while another is under way.
    let (claimed, jobs) = mpsc::channel(task.claim);
    let (answered, answers) = mpsc::channel(2 * task.record);
    let jobs = Arc::new(Mutex::new(jobs));
    let mut parts: JoinSet<Result<(), BenchError>> = JoinSet::new();
    parts.spawn(claim(claiming, claimed, task.claim, task.at_most));
    for _ in 0..task.concurrency {
        parts.spawn(post(
            client.clone(),
            Arc::clone(&url),
            Arc::clone(&jobs),
            answered.clone(),
        ));
    }
    drop(answered);
    parts.spawn(record(recording, answers, task.record));
    while let Some(part) = parts.join_next().await {
        part.map_err(|_| BenchError::Panicked)??;
    }
    Ok(())
}

async fn claim(
    mut connection: PgConnection,
    claimed: mpsc::Sender<Job>,
    batch: usize,
    at_most: u64,
) -> Result<(), BenchError> {
    let batch = i64::try_from(batch).unwrap_or(i64::MAX);
    let mut so_far = 0;
    while so_far < at_most {
        let rows = sqlx::query(include_str!("bare_claim.sql"))
            .bind(batch)
            .fetch_all(&mut connection)
            .await?;
        if rows.is_empty() {
            break;
        }
        so_far += rows.len() as u64;
        for row in rows {
            let job = Job {
                id: row.try_get(0)?,
                sender: row.try_get(1)?,
                recipient: row.try_get(2)?,
                body: row.try_get(3)?,
            };
            // Nobody takes them any more: whoever should have says why.
            if claimed.send(job).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn post(
    client: Client,
    url: Arc<str>,
    jobs: Arc<Mutex<mpsc::Receiver<Job>>>,
    answered: mpsc::Sender<(i64, String)>,
) -> Result<(), BenchError> {
    let SandboxConfig { key, hash, .. } = SandboxConfig::default();
    loop {
        let Some(job) = jobs.lock().await.recv().await else {
            return Ok(());
        };
        let body = serde_json::to_vec(&Envelope {
            request: SendSms {
                authentication: Authentication {
                    key: &key,
                    hash: &hash,
                },
                order: Order {
                    sender: &job.sender,
                    iys: "0",
                    message: Message {
                        text: &job.body,
                        receipents: Receipents {
                            number: [&job.recipient],
                        },
                    },
                },
            },
        })
        .map_err(BenchError::Unreadable)?;
        let reply = client
            .post(&*url)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await
            .map_err(BenchError::Sandbox)?;
        let bytes = reply.bytes().await.map_err(BenchError::Sandbox)?;
        let reply: Reply = serde_json::from_slice(&bytes).map_err(BenchError::Unreadable)?;
        if answered
            .send((job.id, reply.response.order.id))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}

async fn record(
    mut connection: PgConnection,
    mut answers: mpsc::Receiver<(i64, String)>,
    most: usize,
) -> Result<(), BenchError> {
    let mut batch = Vec::with_capacity(most);
    while answers.recv_many(&mut batch, most).await > 0 {
        let (ids, orders): (Vec<i64>, Vec<String>) = batch.drain(..).unzip();
        sqlx::query(include_str!("bare_record.sql"))
            .bind(ids)
            .bind(orders)
            .execute(&mut connection)
            .await?;
    }
    Ok(())
}
