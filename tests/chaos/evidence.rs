//! Everything that a run leaves behind, read once, so that the checker is a plain function of it.

use std::collections::HashMap;

use sms_outbox::sandbox::LedgerEntry;
use sqlx::PgPool;
use uuid::Uuid;

use super::plan::Message;
use super::producers::Told;
use super::world::Sandbox;

/// Moments are microseconds since 1970.
pub type Moment = i64;

/// A row of `sms_outbox.jobs`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Job {
    pub id: Uuid,
    /// The list that it is a part of.
    pub part_of: Option<Uuid>,
    pub status: String,
    pub order_id: Option<String>,
    pub duplicate: bool,
    pub attempt: i16,
    pub max_attempts: i16,
    pub error_class: Option<String>,
    pub error_message: Option<String>,
    pub expires_at: Option<Moment>,
    pub ambiguous_since: Option<Moment>,
}

/// What the witness saw: one change of a job's status or claim.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Move {
    pub job: Uuid,
    pub was: String,
    pub status: String,
    pub token: i32,
    /// Until when the claim held that was there before.
    pub lease_until: Option<Moment>,
    pub at: Moment,
    pub committed_at: Moment,
}

/// A row of `sms_outbox.attempt_log`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Attempt {
    pub job: Uuid,
    pub token: i32,
    pub observer: String,
    pub order_id: Option<String>,
}

/// A request for an order that reached the provider, whatever was answered.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Request {
    pub arrived_at: Moment,
    pub action: String,
    pub recipients: usize,
    pub text: Option<String>,
}

/// The settings that the checks depend on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub limit: usize,
    /// How many requests all workers may have under way at once.
    pub under_way: usize,
    pub request_timeout_us: i64,
    pub settle_delay_us: i64,
    pub guard_window_us: i64,
    /// How much older than it is a worker may take a claim to be: it counts from before it asked for it, and a database
    /// that is away is waited for.
    pub asking_takes_us: i64,
}

/// What a run leaves behind.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub settings: Settings,
    pub messages: Vec<Message>,
    pub told: HashMap<Uuid, Told>,
    pub jobs: Vec<Job>,
    pub moves: Vec<Move>,
    pub attempts: Vec<Attempt>,
    pub ledger: Vec<LedgerEntry>,
    pub requests: Vec<Request>,
    /// From when to when the provider was unavailable.
    pub outages: Vec<(Moment, Moment)>,
    /// Jobs that are named in `sms_outbox.refused_jobs`, read when nothing else was left.
    pub refused: Vec<Uuid>,
    /// What still waited then, or while a row was locked, although nothing stood in its way.
    pub held_up: Vec<Uuid>,
    /// An example for each time that jobs waited for nothing, after the faults.
    pub unexplained: Vec<Uuid>,
    /// What every process logged.
    pub lines: Vec<String>,
    /// How workers ended that nobody had killed or told to stop.
    pub broken_workers: Vec<String>,
}

impl Evidence {
    pub async fn read(
        settings: Settings,
        messages: Vec<Message>,
        told: HashMap<Uuid, Told>,
        pool: &PgPool,
        sandbox: &Sandbox,
        lines: Vec<String>,
        broken_workers: Vec<String>,
    ) -> Self {
        let jobs = sqlx::query_as(
            "SELECT id, part_of, status, order_id, duplicate, attempt, max_attempts, error_class, error_message,
                    (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at,
                    (extract(epoch FROM ambiguous_since) * 1000000)::bigint AS ambiguous_since
             FROM sms_outbox.jobs",
        );
        let moves = sqlx::query_as(
            "SELECT job, was, status, token, (extract(epoch FROM lease_until) * 1000000)::bigint AS lease_until,
                    (extract(epoch FROM at) * 1000000)::bigint AS at,
                    (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint AS committed_at
             FROM witness.moves ORDER BY n",
        );
        let attempts = sqlx::query_as(
            "SELECT job_id AS job, token, observer, order_id FROM sms_outbox.attempt_log",
        );
        let requests: Vec<Request> =
            serde_json::from_value(sandbox.requests().await).expect("as the sandbox shows them");
        let ledger = std::fs::read_to_string(&sandbox.ledger).unwrap_or_default();
        Self {
            settings,
            messages,
            told,
            jobs: jobs.fetch_all(pool).await.expect("the database is back"),
            moves: moves.fetch_all(pool).await.expect("the database is back"),
            attempts: attempts
                .fetch_all(pool)
                .await
                .expect("the database is back"),
            ledger: ledger
                .lines()
                .map(|line| serde_json::from_str(line).expect("a line of the ledger"))
                .collect(),
            requests: requests
                .into_iter()
                .filter(|request| request.action == "send-sms")
                .collect(),
            outages: Vec::new(),
            refused: Vec::new(),
            held_up: Vec::new(),
            unexplained: Vec::new(),
            lines,
            broken_workers,
        }
    }
}
