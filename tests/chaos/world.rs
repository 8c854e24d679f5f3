//! What surrounds the workers: a database with a witness in it, and the sandbox as a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sms_outbox::guard_against_lost_writes;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::worker::{HASH, KEY, Process};

/// The one approved sender.
pub const SENDER: &str = "BRAND";

/// Sees every move of every job, whoever makes it and whatever becomes of them: the workers' own history is part of what
/// is being checked. With `track_commit_timestamp` the database also says when each was committed.
const WITNESS: &str = "
    CREATE SCHEMA witness;
    CREATE TABLE witness.moves (
        n bigint GENERATED ALWAYS AS IDENTITY, job uuid NOT NULL, was text NOT NULL, status text NOT NULL,
        token integer NOT NULL, lease_until timestamptz, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE FUNCTION witness.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        INSERT INTO witness.moves (job, was, status, token, lease_until)
        VALUES (new.id, old.status, new.status, new.token, old.lease_until);
        RETURN NULL;
    END $$;
    CREATE TRIGGER witness AFTER UPDATE ON sms_outbox.jobs FOR EACH ROW
        WHEN (old.status <> new.status OR old.token <> new.token) EXECUTE FUNCTION witness.see();";

/// A fresh database with the schema and the witness, and a pool of the run's own to it.
pub async fn database(admin_url: &str, url: &str, name: &str) -> PgPool {
    let admin = PgPool::connect(admin_url)
        .await
        .expect("a server of our own");
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&admin)
        .await
        .expect("a name that is free");
    admin.close().await;
    super::support::postgres::migrate(url).await;
    let pool = guard_against_lost_writes(PgPoolOptions::new())
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy(url)
        .expect("a URL that was connected to");
    sqlx::raw_sql(WITNESS)
        .execute(&pool)
        .await
        .expect("a fresh database");
    pool
}

/// `sms-outbox sandbox`, with a ledger on disk.
pub struct Sandbox {
    pub process: Process,
    pub address: SocketAddr,
    pub ledger: PathBuf,
}

impl Sandbox {
    pub async fn start(ledger: PathBuf, seed: u64, guard: Duration, flags: &[&str]) -> Self {
        let (guard, seed) = (format!("{}ms", guard.as_millis()), seed.to_string());
        let path = ledger.to_str().expect("a plain path").to_owned();
        let common = [
            "sandbox",
            "--listen",
            "127.0.0.1:0",
            "--key",
            KEY,
            "--hash",
            HASH,
            "--sender",
            SENDER,
            "--ledger",
            &path,
            "--guard-window",
            &guard,
            "--seed",
            &seed,
        ];
        let process = Process::start(&[&common, flags].concat(), &[("SMS_OUTBOX_LOG", "info")]);
        process.wait_for_line("the sandbox is listening").await;
        let line = process.lines().concat();
        let address = line
            .split("address=")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|address| address.parse().ok())
            .expect("it says where it listens");
        Self {
            process,
            address,
            ledger,
        }
    }

    pub async fn set_faults(&self, faults: &[&str], add: bool) {
        let body = json!({"faults": faults, "add": add});
        self.ask("POST", "faults", &body).await;
    }

    pub async fn away(&self, length: Duration) {
        let body = json!({"for": format!("{}ms", length.as_millis())});
        self.ask("POST", "away", &body).await;
    }

    pub async fn stats(&self) -> Value {
        self.ask("GET", "stats", &Value::Null).await["stats"].take()
    }

    /// Every request that arrived.
    pub async fn requests(&self) -> Value {
        self.ask("GET", "requests", &Value::Null).await["requests"].take()
    }

    /// Asks again for a while: the port may be shut just now, and a fault may refuse connections.
    async fn ask(&self, method: &str, page: &str, body: &Value) -> Value {
        for _ in 0..200 {
            if let Ok(Some(answer)) = self.ask_once(method, page, body).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the sandbox does not answer to {page}");
    }

    async fn ask_once(
        &self,
        method: &str,
        page: &str,
        body: &Value,
    ) -> std::io::Result<Option<Value>> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!(
            "{method} /_sandbox/{page} HTTP/1.1\r\nhost: sandbox\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        Ok(answer
            .split_once("\r\n\r\n")
            .and_then(|(_, body)| serde_json::from_str(body).ok()))
    }
}
