//! `sms-outbox bench` measures what it says it measures, and leaves nothing behind. How fast anything is, no test says.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sms_outbox::embedded::{self, Sources};
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};

/// Longer than a tiny measurement takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);

fn bench(arguments: &[&str], temp: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sms-outbox"));
    command
        .arg("bench")
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        // Whoever claims jobs in it fails: nobody listens there.
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/production")
        .env("SMS_OUTBOX_RATE_PER_SECOND", "1")
        .env("ILETIMERKEZI_API_KEY_FILE", "/no/such/file")
        .env("TMPDIR", temp)
        .current_dir(temp)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn finished(mut command: Command) -> Output {
    let running = command
        .spawn()
        .expect("the program that cargo has just built");
    ended(running).await
}

async fn ended(running: Child) -> Output {
    tokio::time::timeout(DEADLINE, running.wait_with_output())
        .await
        .expect("the measurement did not end in time")
        .expect("our own child")
}

/// A directory that a private server's user may enter.
fn temp() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .expect("a temporary directory")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory of ours");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("a directory of ours");
        entry.file_name().to_string_lossy().into_owned()
    };
    entries.map(name).collect()
}

#[tokio::test]
async fn a_tiny_drain_is_measured_beside_the_bare_loop() {
    let temp = temp();
    let output = finished(bench(
        &[
            "drain",
            "--jobs",
            "200",
            "--rounds",
            "1",
            "--workers",
            "2",
            "--latency",
            "0ms",
            "--json",
        ],
        temp.path(),
    ))
    .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");

    assert_eq!(report["settings"]["jobs"], 200);
    assert_eq!(report["postgres"]["private"], true);
    assert_eq!(report["postgres"]["settings"]["fsync"], "on");
    let results = report["results"].as_array().expect("a list");
    let subjects: Vec<&Value> = results.iter().map(|result| &result["subject"]).collect();
    assert_eq!(subjects, ["sms-outbox", "bare-loop"]);
    for result in results {
        assert_eq!(result["scenario"], "drain");
        assert_eq!(result["case"], "0 ms, 2 workers");
        let rounds = result["rounds"].as_array().expect("a list");
        assert_eq!(rounds.len(), 1);
        assert_eq!(rounds[0], result["figures"], "the median of one is itself");
        let mut expected = vec![
            "jobs_per_s",
            "wal_bytes_per_job",
            "jobs_per_claim",
            "jobs_per_record",
        ];
        if cfg!(target_os = "linux") {
            expected.extend(["worker_memory_mib", "database_cpu_us_per_job"]);
        }
        for name in expected {
            let figure = result["figures"][name].as_f64();
            assert!(
                figure.is_some_and(|figure| figure > 0.0),
                "{name}: {result}"
            );
        }
    }
    let share = results[0]["ratios"]["bare loop"].as_f64();
    assert!(share.is_some_and(|share| share > 0.0), "{}", results[0]);
    assert_eq!(names(temp.path()), [""; 0], "left behind");
}

#[tokio::test]
async fn a_few_events_are_posted_to_a_receiver() {
    let temp = temp();
    let arguments = [
        "receiver",
        "--jobs",
        "300",
        "--seconds",
        "2",
        "--rounds",
        "1",
        "--json",
    ];
    let output = finished(bench(&arguments, temp.path())).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let results = report["results"].as_array().expect("a list");
    let cases: Vec<&Value> = results.iter().map(|result| &result["case"]).collect();
    assert_eq!(cases, ["2000 a second", "64 connections, flat out"]);
    for result in results {
        for name in ["events_per_second", "p99_ms", "wal_bytes_per_event"] {
            let figure = result["figures"][name].as_f64();
            assert!(
                figure.is_some_and(|figure| figure > 0.0),
                "{name}: {result}"
            );
        }
    }
    assert_eq!(names(temp.path()), [""; 0], "left behind");
}

/// Far more than is drained before a signal comes.
const ENDLESS: [&str; 5] = ["drain", "--jobs", "1000000", "--rounds", "1"];

/// A measurement that has begun: its server and its processes have their directories.
async fn begun(temp: &Path) -> Child {
    let running = bench(&ENDLESS, temp).spawn();
    let running = running.expect("the program that cargo has just built");
    wait_until("server and processes", || names(temp).len() == 2).await;
    running
}

async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn signal(running: &Child, signal: Signal) {
    let pid = running.id().expect("it runs").cast_signed();
    kill(Pid::from_raw(pid), signal).expect("our own child");
}

#[tokio::test]
async fn ctrl_c_leaves_nothing_behind() {
    let temp = temp();
    let running = begun(temp.path()).await;
    signal(&running, Signal::SIGINT);
    let output = ended(running).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(names(temp.path()), [""; 0], "left behind");
}

#[tokio::test]
async fn not_even_a_killed_measurement_leaves_anything_behind() {
    let temp = temp();
    let running = begun(temp.path()).await;
    signal(&running, Signal::SIGKILL);
    ended(running).await;
    wait_until("an empty directory", || names(temp.path()).is_empty()).await;
}

#[tokio::test]
async fn an_interrupted_measurement_leaves_a_named_server_as_it_was() {
    let mut options = embedded::Options::new(Sources::from_env());
    options.durable = false;
    let server = embedded::start(&options).await.expect("a private server");
    let url = server.admin_url();
    let mut connection = PgConnection::connect(&url)
        .await
        .expect("a server that is ready");
    let temp = temp();
    let arguments = [&ENDLESS[..], &["--server", &url]].concat();
    let running = bench(&arguments, temp.path()).spawn();
    let running = running.expect("the program that cargo has just built");

    let began = Instant::now();
    while databases(&mut connection).await == 0 {
        assert!(began.elapsed() < DEADLINE, "no database was made");
    }
    signal(&running, Signal::SIGINT);
    let output = ended(running).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(databases(&mut connection).await, 0, "left behind");
    assert_eq!(names(temp.path()), [""; 0], "left behind");
    drop(connection);
    server.stop().await.expect("it stops gracefully");
}

/// Those that measurements have made.
async fn databases(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_database WHERE datname LIKE 'sms\\_outbox\\_bench\\_%'",
    )
    .fetch_one(connection)
    .await
    .expect("the catalogue")
}

#[tokio::test]
async fn an_address_that_is_none_is_a_wrong_usage_and_is_not_repeated() {
    let temp = temp();
    let output = finished(bench(
        &["drain", "--server", "mysql//root:hunter2@localhost"],
        temp.path(),
    ))
    .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
