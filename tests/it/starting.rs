//! What a worker does not wait for: it ends, and says in a sentence what a person has to do.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use sqlx::PgPool;

use crate::cli::Shell;
use crate::support::faults::server_of_its_own;
use crate::support::postgres::TestDatabase;
use crate::support::provider::{FakeProvider, nowhere};
use crate::support::worker::{HASH, KEY, Process, execute, insert, wait_for_status};

/// A worker that ends at its start; its exit code and its words.
async fn ended(url: &str, flags: &[&str]) -> (Option<i32>, String) {
    let provider = FakeProvider::start();
    let mut worker = Process::worker(url, &provider.url(), flags);
    let code = worker.ended().await.code();
    (code, worker.lines().join("\n"))
}

#[tokio::test]
async fn where_waiting_cannot_help_a_worker_ends_and_says_why() {
    let database = TestDatabase::create().await;
    let url = database.url();
    let (front, name) = url.rsplit_once('/').expect("a database");
    let (_, server) = front.rsplit_once('@').expect("a role");
    for (url, words) in [
        (
            format!("postgres://postgres:hunter2@{server}/{name}"),
            "are user and password",
        ),
        (
            format!("postgres://nobody_at_all:hunter2@{server}/{name}"),
            "are user and password",
        ),
        (
            format!("{front}/no_such_database"),
            "name an existing database",
        ),
        (
            format!("{url}?options=-c%20no_such_setting%3D1"),
            "no_such_setting",
        ),
        (format!("{url}?sslmode=maybe"), "sslmode"),
    ] {
        let (code, said) = ended(&url, &[]).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(words), "{words}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert!(!said.contains("unavailable"), "no outage: {said}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_waited_for() {
    let provider = FakeProvider::start();
    let url = format!("postgres://nobody@{}/nothing", nowhere());
    let worker = Process::worker(&url, &provider.url(), &[]);
    worker
        .wait_for_line("the database is unavailable; the worker waits for it")
        .await;
    worker.stop().await;
}

#[tokio::test]
async fn plain_http_to_another_machine_is_refused_unless_it_is_meant() {
    let database = TestDatabase::create().await;
    // An address that leads nowhere (RFC 5737).
    let url = "http://192.0.2.1:8025";
    let mut refused = Process::worker(&database.url(), url, &[]);
    assert_eq!(refused.ended().await.code(), Some(2));
    let said = refused.lines().join("\n");
    assert!(said.contains("SMS_OUTBOX_ALLOW_PLAINTEXT=true"), "{said}");
    let meant = [("SMS_OUTBOX_ALLOW_PLAINTEXT", "true")];
    let worker = Process::worker_with(&database.url(), url, &[], &meant);
    worker.wait_for_line("is not encrypted").await;
    worker.wait_for_line("ready").await;
    worker.stop().await;
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("our own directory");
    path.display().to_string()
}

#[tokio::test]
async fn every_secret_may_stand_in_a_file() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let folder = tempfile::tempdir().expect("a directory");
    let url = write(folder.path(), "url", &format!("{}\n", database.url()));
    let key = write(folder.path(), "key", &format!("{KEY}\n"));
    write(folder.path(), "ILETIMERKEZI_API_HASH", HASH);
    let base = provider.url();
    let directory = folder.path().display().to_string();
    let environment = [
        ("DATABASE_URL_FILE", url.as_str()),
        ("DATABASE_URL", ""),
        ("ILETIMERKEZI_API_KEY_FILE", &key),
        ("CREDENTIALS_DIRECTORY", &directory),
        ("ILETIMERKEZI_BASE_URL", &base),
    ];
    let worker = Process::start(&["worker"], &environment);
    let id = insert(database.pool(), &[]).await;
    wait_for_status(database.pool(), id, "sent").await;
    worker.stop().await;
    let request = provider.requests().remove(0);
    for secret in [KEY, HASH] {
        assert!(
            request.json.to_string().contains(secret),
            "as it stands in the file"
        );
    }

    let listed = Shell::without_database().with("DATABASE_URL_FILE", &url);
    assert!(listed.run(&["list"]).await.done().contains("sent"));
    let both = Shell::at(&database).with("DATABASE_URL_FILE", &url);
    let (code, said) = both.run(&["list"]).await.said();
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("DATABASE_URL and DATABASE_URL_FILE are both set"),
        "{said}"
    );
    // A flag wins over both.
    let said = both
        .run(&["list", "--database-url", &database.url()])
        .await
        .done();
    assert!(said.contains("sent"), "{said}");
    let gone = Shell::without_database().with("DATABASE_URL_FILE", "/no/such/file");
    let (code, said) = gone.run(&["list"]).await.said();
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("DATABASE_URL_FILE names /no/such/file"),
        "{said}"
    );
    let (_, said) = Shell::without_database()
        .with("DATABASE_URL_FILE", &url)
        .run(&["list", "--help"])
        .await
        .said();
    assert!(!said.contains(&database.url()), "{said}");
}

#[tokio::test]
async fn a_misspelt_variable_is_named_and_a_bad_value_is_blamed_on_its_variable_and_file() {
    let database = TestDatabase::create().await;
    let provider = FakeProvider::start();
    let misspelt = [("SMS_OUTBOX_LEASES", "30s"), ("SMS_OUTBOX_BANANA", "1")];
    let worker = Process::worker_with(&database.url(), &provider.url(), &[], &misspelt);
    worker
        .wait_for_line("SMS_OUTBOX_LEASES (in the environment) is no variable of this program and changes nothing; is SMS_OUTBOX_LEASE meant?")
        .await;
    worker.wait_for_line("SMS_OUTBOX_BANANA").await;
    // Before it works it does not yet listen to signals.
    worker.wait_for_line("ready").await;
    worker.stop().await;

    let (code, said) = Shell::at(&database)
        .with("SMS_OUTBOX_LEASE", "soon")
        .run(&["doctor"])
        .await
        .said();
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("SMS_OUTBOX_LEASE=soon (in the environment) cannot be used"),
        "{said}"
    );
    assert!(!said.contains("--lease"), "{said}");

    let folder = tempfile::tempdir().expect("a directory");
    let file = write(
        folder.path(),
        ".env",
        "SMS_OUTBOX_CONCURRENCY=many\nSMS_OUTBOX_LOG_FORMAT=text\n",
    );
    let program = env!("CARGO_BIN_EXE_sms-outbox");
    let run = |arguments: &[&str]| {
        let ran = std::process::Command::new(program)
            .env_clear()
            .current_dir(folder.path())
            .args(arguments)
            .output()
            .expect("the program");
        (
            ran.status.code(),
            String::from_utf8_lossy(&ran.stderr).into_owned(),
        )
    };
    let (code, said) = run(&["worker"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains(&format!("SMS_OUTBOX_CONCURRENCY=many (in {file})")),
        "{said}"
    );
    // What was typed is blamed as it was typed.
    let (code, said) = run(&["worker", "--concurrency", "few"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--concurrency"), "{said}");
}

/// A certificate for `localhost`, with extensions (version 3) or without (version 1).
fn certificate(folder: &Path, version: u8) -> Option<()> {
    let openssl = |arguments: &[&str]| {
        let ran = Command::new("openssl")
            .current_dir(folder)
            .args(arguments)
            .output();
        ran.is_ok_and(|ran| ran.status.success()).then_some(())
    };
    let request = [
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "server.key",
        "-subj",
        "/CN=localhost",
        "-out",
        "csr",
    ];
    openssl(&request)?;
    std::fs::write(folder.join("extensions"), "subjectAltName=DNS:localhost").ok()?;
    let sign = [
        "x509",
        "-req",
        "-in",
        "csr",
        "-signkey",
        "server.key",
        "-days",
        "2",
        "-out",
        "server.crt",
    ];
    match version {
        1 => openssl(&sign),
        _ => openssl(&[&sign[..], &["-extfile", "extensions"]].concat()),
    }
}

#[tokio::test]
async fn an_encrypted_connection_is_told_and_a_certificate_that_cannot_be_used_is_named() {
    let (server, pool) = server_of_its_own().await;
    let url = server.admin_url();
    let folder = tempfile::tempdir().expect("a directory");
    let serve = async |version| {
        certificate(folder.path(), version)?;
        let owner = std::fs::metadata(server.data_dir()).expect("our own directory");
        for name in ["server.key", "server.crt"] {
            let path = server.data_dir().join(name);
            std::fs::copy(folder.path().join(name), &path).expect("our own directory");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))
                .expect("our own file");
            chown(&path, Some(owner.uid()), Some(owner.gid())).expect("it is the server's");
        }
        execute(&pool, "ALTER SYSTEM SET ssl = on").await;
        execute(&pool, "SELECT pg_reload_conf()").await;
        Some(())
    };
    let Some(()) = serve(3).await else {
        eprintln!("left out: openssl is not on this machine");
        return;
    };
    let required = format!("{url}?sslmode=require");
    let began = std::time::Instant::now();
    // The signal to read the settings again is on its way.
    while PgPool::connect(&required).await.is_err() {
        assert!(began.elapsed().as_secs() < 30, "it never was encrypted");
    }
    let doctor = |url: &str| {
        let shell = Shell::without_database().with("DATABASE_URL", url);
        async move { shell.run(&["doctor"]).await.said().1 }
    };
    let said = doctor(&required).await;
    assert!(
        said.contains("the connection to the database is encrypted (TLSv1"),
        "{said}"
    );
    let (code, said) = ended(&format!("{url}?sslmode=verify-full"), &[]).await;
    assert_eq!(code, Some(2), "nobody known has signed it: {said}");
    assert!(said.contains("its certificate cannot be used"), "{said}");

    serve(1).await.expect("as before");
    let text = Command::new("openssl")
        .current_dir(folder.path())
        .args(["x509", "-in", "server.crt", "-noout", "-text"])
        .output()
        .expect("as before");
    if !String::from_utf8_lossy(&text.stdout).contains("Version: 1 ") {
        eprintln!("left out: this openssl makes no certificates of version 1");
        return;
    }
    let began = std::time::Instant::now();
    while PgPool::connect(&required).await.is_ok() {
        assert!(
            began.elapsed().as_secs() < 30,
            "the old certificate is still served"
        );
    }
    let (code, said) = ended(&required, &[]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("X.509 version 3"), "{said}");
    assert!(!said.contains("is the server running"), "{said}");
    pool.close().await;
    server.stop().await.expect("it stops in order");
}
