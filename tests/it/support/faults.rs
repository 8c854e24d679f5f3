//! What befalls a database: a statement that is caught in the middle, a server that is frozen.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sms_outbox::embedded::{self, Options, PrivatePostgres, Sources};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};

use super::postgres::migrate;
use super::worker::{execute, wait_for_count};

/// A server for one test, which may crash, restart and freeze, with the schema in it, and a pool that finds it again.
pub async fn server_of_its_own() -> (PrivatePostgres, PgPool) {
    let mut options = Options::new(Sources::from_env());
    // What has been committed must survive the crash.
    options.durable = true;
    let server = embedded::start(&options).await.expect("a private server");
    migrate(&server.admin_url()).await;
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(60))
        .connect_lazy(&server.admin_url())
        .expect("a URL");
    (server, pool)
}

/// Every statement that gives a job some status waits in its middle, until this is let go.
pub struct MidStatement {
    pool: PgPool,
    lock: PgConnection,
}

impl MidStatement {
    /// Which session waits there.
    const WAITING: &str = "FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND objid = 77 AND NOT granted AND datname = current_database()";

    pub async fn of_jobs_that_become(status: &str, pool: &PgPool) -> Self {
        execute(
            pool,
            format!(
                "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
                     PERFORM pg_advisory_xact_lock_shared(77); RETURN new;
                 END $$;
                 CREATE TRIGGER wait_here BEFORE UPDATE ON sms_outbox.jobs
                     FOR EACH ROW WHEN (new.status = '{status}') EXECUTE FUNCTION wait_here()"
            ),
        )
        .await;
        let options = pool.connect_options();
        let connected = PgConnection::connect_with(&options).await;
        let mut lock = connected.expect("the database answers");
        let locked = sqlx::query("SELECT pg_advisory_lock(77)").execute(&mut lock);
        locked.await.expect("nobody else has it");
        let pool = pool.clone();
        Self { pool, lock }
    }

    /// Waits until a statement has come so far.
    pub async fn wait_for_someone(&self) {
        let waiting = format!("SELECT count(*) {}", Self::WAITING);
        wait_for_count(&self.pool, &waiting, |sessions| sessions > 0).await;
    }

    /// Ends the session that waits, as an administrator does.
    pub async fn kill(&self) {
        let killed = format!("SELECT count(pg_terminate_backend(pid)) {}", Self::WAITING);
        wait_for_count(&self.pool, &killed, |sessions| sessions > 0).await;
    }

    /// Lets everybody pass.
    pub async fn release(self) {
        self.lock.close().await.expect("the database answers");
    }
}

/// A server whose every process has been stopped: it takes connections, as its kernel does, and says nothing. It goes on
/// when this is dropped.
pub struct Frozen(Vec<Pid>);

impl Frozen {
    pub async fn server(server: &PrivatePostgres, pool: &PgPool) -> Self {
        let mut asking = pool.acquire().await.expect("the database answers");
        let postmaster = server.pid().expect("it is running");
        let mut frozen = Self(vec![Pid::from_raw(postmaster.cast_signed())]);
        // First of all whoever could start more of them.
        kill(frozen.0[0], Signal::SIGSTOP).expect("a process of ours");
        let all =
            sqlx::query_scalar("SELECT pid FROM pg_stat_activity ORDER BY pid = pg_backend_pid()");
        let all: Vec<i32> = all
            .fetch_all(&mut *asking)
            .await
            .expect("the database answers");
        for pid in all.into_iter().map(Pid::from_raw) {
            // One that has ended meanwhile is as good as stopped.
            if kill(pid, Signal::SIGSTOP).is_ok() {
                frozen.0.push(pid);
            }
        }
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}
