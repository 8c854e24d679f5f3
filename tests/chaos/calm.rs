//! What stands in the way of single messages, and what must hold for all others once the faults have stopped.

use std::time::{Duration, Instant};

use sms_outbox::outbox::Outbox;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::plan::Obstacle;
use super::world::Sandbox;

/// Several times what it takes: the last indeterminate jobs have to be sent or to become uncertain.
pub const DRAINED_WITHIN: Duration = Duration::from_secs(90);

/// Workers that have just started have to claim something, and to say so, before anything is explained by it.
const HEARD_OF_WITHIN: Duration = Duration::from_secs(5);

/// These faults, and what is there all the time: a firewall, and answers that leave time to lock a row.
pub async fn set_faults(sandbox: &Sandbox, faults: &[&str]) {
    let firewall = format!("http:403?text={}", Obstacle::Firewall.word());
    let slow = format!("delay:500ms?text={}", Obstacle::Lock.word());
    let lasting = [firewall.as_str(), &slow];
    sandbox
        .set_faults(&[&lasting, faults].concat(), false)
        .await;
}

/// After the faults: what still stands in the way of some must stand in nobody else's.
pub struct Calm {
    pool: PgPool,
    pub refused: Vec<Uuid>,
    pub held_up: Vec<Uuid>,
    pub unexplained: Vec<Uuid>,
}

impl Calm {
    pub const fn new(pool: PgPool) -> Self {
        Self {
            pool,
            refused: Vec::new(),
            held_up: Vec::new(),
            unexplained: Vec::new(),
        }
    }

    /// What the application says of those that it refuses.
    pub async fn set_rule(&self) {
        let word = Obstacle::Rule.word();
        let rule = format!(
            "ALTER TABLE sms_outbox.jobs
             ADD CONSTRAINT the_applications_own CHECK (body NOT LIKE '%{word}' OR status = 'queued')"
        );
        sqlx::raw_sql(AssertSqlSafe(rule))
            .execute(&self.pool)
            .await
            .expect("a fresh database");
    }

    /// The cause is removed, and the next try is due.
    pub async fn drop_rule(&self) {
        let no_rule = "ALTER TABLE sms_outbox.jobs DROP CONSTRAINT the_applications_own;
                       UPDATE sms_outbox.refused_jobs SET retry_at = now()";
        sqlx::raw_sql(no_rule)
            .execute(&self.pool)
            .await
            .expect("the database is there");
    }

    /// Waits until nothing is left but what something stands in the way of.
    pub async fn drain(&mut self) {
        let outbox = Outbox::new(self.pool.clone());
        let words = Obstacle::ALL.map(Obstacle::word);
        let began = Instant::now();
        loop {
            let left: Vec<(Uuid, String)> = sqlx::query_as(
                "SELECT id, body FROM sms_outbox.jobs WHERE status IN ('queued', 'sending')",
            )
            .fetch_all(&self.pool)
            .await
            .expect("the database is back");
            let (behind, others): (Vec<_>, Vec<_>) = left
                .into_iter()
                .partition(|(_, body)| words.iter().any(|word| body.ends_with(word)));
            let stuck = outbox.unexplained(10).await.expect("the database is back");
            for one in stuck {
                // Of what cannot be changed another page tells.
                let known = behind.iter().any(|(id, _)| *id == one.example);
                let early = began.elapsed() < HEARD_OF_WITHIN;
                if !early && !known && !self.unexplained.contains(&one.example) {
                    self.unexplained.push(one.example);
                }
            }
            if others.is_empty() {
                break;
            }
            if began.elapsed() > DRAINED_WITHIN {
                self.held_up.extend(others.into_iter().map(|(id, _)| id));
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.refused = sqlx::query_scalar("SELECT job_id FROM sms_outbox.refused_jobs")
            .fetch_all(&self.pool)
            .await
            .expect("the database is back");
    }

    /// Holds the row of the job whose answer is on its way.
    pub async fn lock(&self) -> Transaction<'static, Postgres> {
        let mut application = self.pool.begin().await.expect("the database is back");
        let pattern = format!("%{}", Obstacle::Lock.word());
        let began = Instant::now();
        loop {
            let found = sqlx::query(
                "SELECT FROM sms_outbox.jobs WHERE status = 'sending' AND body LIKE $1 FOR UPDATE",
            )
            .bind(&pattern)
            .fetch_optional(&mut *application)
            .await
            .expect("the database is there");
            if found.is_some() {
                return application;
            }
            assert!(
                began.elapsed() < DRAINED_WITHIN,
                "the job to lock was never under way"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
