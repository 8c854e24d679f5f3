//! The operator's commands, run as people run them: the program itself, against a database of its own.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use sms_outbox::outbox::RoleKind;
use sms_outbox::sandbox::{Sandbox, SandboxConfig};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::worker::insert;

/// One run of the program.
pub(crate) struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    /// Its answer, where exit code and standard output are what counts.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    /// Its code, and everything it said.
    pub(crate) fn said(self) -> (Option<i32>, String) {
        (self.code, format!("{}{}", self.out, self.err))
    }
}

/// A shell in an empty directory with an empty environment: nothing of the developer's gets in.
pub(crate) struct Shell {
    directory: TempDir,
    /// Where each command finds the database, as a role that may do no more than it needs.
    urls: Vec<(RoleKind, String)>,
    variables: Vec<(&'static str, String)>,
}

/// Whose command it is; `None`: the owner's.
fn whose(command: &str) -> Option<RoleKind> {
    match command {
        "send" => Some(RoleKind::Producer),
        "worker" | "doctor" => Some(RoleKind::Worker),
        "list" | "show" | "stats" => Some(RoleKind::Support),
        "retry" | "cancel" | "resolve" | "pause" | "resume" => Some(RoleKind::Operator),
        _ => None,
    }
}

impl Shell {
    pub(crate) fn without_database() -> Self {
        Self {
            directory: TempDir::new().expect("a temporary directory"),
            urls: Vec::new(),
            variables: Vec::new(),
        }
    }

    pub(crate) fn at(database: &TestDatabase) -> Self {
        let urls = RoleKind::ALL.map(|kind| (kind, database.url_as(kind)));
        Self {
            urls: urls.into(),
            ..Self::without_database().with("DATABASE_URL", database.url())
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with_input(arguments, "").await
    }

    async fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let whose = arguments.first().and_then(|command| whose(command));
        let url = self.urls.iter().find(|(kind, _)| Some(*kind) == whose);
        let mut child = Command::new(env!("CARGO_BIN_EXE_sms-outbox"))
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .envs(url.map(|(_, url)| ("DATABASE_URL", url)))
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program has been built");
        let mut stdin = child.stdin.take().expect("it was asked to be a pipe");
        let input = input.to_owned();
        // A program that does not read its input has closed the pipe: no matter.
        let feeding = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
        let ended = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output());
        let output = ended
            .await
            .expect("every command ends")
            .expect("it can be waited for");
        let _ = feeding.await;
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// Puts one message into the outbox.
    async fn send(&self, more: &[&str]) -> Uuid {
        let base = [
            "send",
            "--sender",
            "BRAND",
            "--to",
            "0532 123 45 67",
            "--text",
            "Your code is 998877",
            "--transactional",
        ];
        let arguments: Vec<&str> = base.iter().chain(more).copied().collect();
        self.run(&arguments)
            .await
            .done()
            .trim()
            .parse()
            .expect("an id")
    }
}

/// Makes a job what a worker would have made of it.
async fn become_(database: &TestDatabase, job: Uuid, status: &str) {
    let set = match status {
        "sending" => {
            "token = 1, attempt = 1, worker = 'w', claimed_at = now(), lease_until = now() + interval '1 minute'"
        }
        "sent" => "attempt = 1, sent_at = now(), finished_at = now(), order_id = '4711'",
        "failed" => {
            "attempt = 1, finished_at = now(), error_class = 'sender', error_code = 459, error_message = 'Blank.'"
        }
        "uncertain" => {
            "attempt = 1, error_class = 'timeout', ambiguous_since = now() - interval '1 hour'"
        }
        "expired" | "cancelled" => "finished_at = now()",
        other => panic!("no recipe for {other}"),
    };
    let sql = format!("UPDATE sms_outbox.jobs SET status = '{status}', {set} WHERE id = '{job}'");
    execute(database, sql).await;
}

async fn execute(database: &TestDatabase, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(database.pool())
        .await
        .expect("a statement of the test's own");
}

async fn status(database: &TestDatabase, job: Uuid) -> String {
    sqlx::query_scalar("SELECT status FROM sms_outbox.jobs WHERE id = $1")
        .bind(job)
        .fetch_one(database.pool())
        .await
        .expect("the job")
}

#[tokio::test]
async fn sending_needs_an_answer_to_the_legal_question() {
    let shell = Shell::without_database();
    let base = [
        "send",
        "--sender",
        "BRAND",
        "--to",
        "05321234567",
        "--text",
        "hi",
        "--dry-run",
    ];
    for (kind, code) in [
        (&[][..], 2),
        (&["--transactional"], 0),
        (&["--iys", "BIREYSEL"], 0),
        (&["--iys", "TICARI"], 2),
        (&["--transactional", "--iys", "TACIR"], 2),
    ] {
        let arguments: Vec<&str> = base.iter().chain(kind).copied().collect();
        let (ended, said) = shell.run(&arguments).await.said();
        assert_eq!(ended, Some(code), "{kind:?}: {said}");
    }
}

#[tokio::test]
async fn a_dry_run_needs_no_database_and_tells_everything_that_would_be_refused() {
    let shell = Shell::without_database();
    let ran = shell
        .run(&[
            "send",
            "--sender",
            "TWELVE CHARS",
            "--to",
            "0532 123 45 67",
            "--to",
            "+90 532 123 45 67",
            "--to",
            "0212 123 45 67",
            "--text",
            "Kargonuz yola çıktı.",
            "--transactional",
            "--dry-run",
            "--json",
        ])
        .await;
    assert_eq!(ran.code, Some(1));
    let answer = ran.json();
    assert_eq!(answer["would_be_sent"], false);
    assert_eq!(answer["recipients"], serde_json::json!(["90532•••••67"]));
    assert_eq!(answer["repeated"], 1);
    assert_eq!(answer["rejected"][0]["place"], 3);
    assert_eq!(answer["problems"][0]["field"], "sender");
    assert_eq!(
        (&answer["coding"], &answer["parts_most"]),
        (&"turkish".into(), &1.into())
    );
}

#[tokio::test]
async fn a_message_that_could_not_be_sent_is_not_put_into_the_outbox() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let base = [
        "send",
        "--sender",
        "BRAND",
        "--to",
        "05321234567",
        "--to",
        "n/a",
        "--text",
        "hi",
        "--transactional",
    ];
    let (code, said) = shell.run(&base).await.said();
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("number 2") && said.contains("--skip-bad"),
        "{said}"
    );
    assert_eq!(
        shell.run(&["list", "--json"]).await.json(),
        serde_json::json!([])
    );

    let skipping: Vec<&str> = base.iter().chain(&["--skip-bad"]).copied().collect();
    let (code, said) = shell.run(&skipping).await.said();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("left out: number 2"), "{said}");
    let (code, said) = shell
        .run(&[
            "send",
            "--sender",
            "BRAND",
            "--to",
            "05321234567",
            "--text",
            "hi",
            "--transactional",
            "--due-in",
            "5m",
            "--expires-in",
            "1m",
        ])
        .await
        .said();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("expire before it is due"), "{said}");
    let (code, said) = shell
        .run(&[
            "send",
            "--sender",
            "BRAND",
            "--to",
            "05321234567",
            "--text",
            "hi",
            "--transactional",
            "--expires-in",
            "1m",
            "--provider-send-at",
            "2999-01-01T00:00:00Z",
        ])
        .await
        .said();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("when it has expired"), "{said}");
}

#[tokio::test]
async fn what_was_given_is_what_is_in_the_outbox() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let arguments = [
        "send",
        "--sender",
        "BRAND",
        "--to",
        "0532 123 45 67",
        "--to-file",
        "-",
        "--text",
        "hi",
        "--iys",
        "TACIR",
        "--account",
        "second",
        "--priority",
        "3",
        "--due-in",
        "1h",
        "--expires-in",
        "2h",
        "--max-attempts",
        "4",
        "--metadata",
        r#"{"order": 7}"#,
        "--key",
        "k",
        "--json",
    ];
    let numbers = "# customers\n\n0533 123 45 67\r\n";
    let answer = shell.run_with_input(&arguments, numbers).await.json();
    assert_eq!(
        (&answer["existed"], &answer["recipient_count"]),
        (&false.into(), &2.into())
    );
    let id = answer["ids"][0].as_str().expect("an id").to_owned();

    let job = shell.run(&["show", &id, "--json", "--reveal"]).await.json();
    for (column, value) in [
        ("sender", "BRAND".into()),
        (
            "recipients",
            serde_json::json!(["905321234567", "905331234567"]),
        ),
        ("body", "hi".into()),
        ("iys", true.into()),
        ("iys_list", "TACIR".into()),
        ("account", "second".into()),
        ("priority", 3.into()),
        ("max_attempts", 4.into()),
        ("metadata", serde_json::json!({"order": 7})),
        ("idempotency_key", "k".into()),
        ("status", "queued".into()),
    ] {
        assert_eq!(job[column], value, "{column}");
    }
    let wait: i64 = sqlx::query_scalar(
        "SELECT round(extract(epoch FROM due_at - created_at) / 60)::bigint FROM sms_outbox.jobs",
    )
    .fetch_one(database.pool())
    .await
    .expect("the job");
    assert_eq!(wait, 60);
}

#[tokio::test]
async fn a_key_that_is_taken_makes_no_second_job_and_says_so() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let first = shell.send(&["--key", "order-1"]).await;
    assert_eq!(shell.send(&["--key", "order-1"]).await, first);
    // A producer could not tell: it reads no text, not even its own.
    let who_reads = Shell::without_database().with("DATABASE_URL", database.url());
    let ran = who_reads
        .run(&[
            "send",
            "--sender",
            "BRAND",
            "--to",
            "05321234567",
            "--text",
            "another text",
            "--transactional",
            "--key",
            "order-1",
        ])
        .await;
    let (code, said) = ran.said();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("The key was taken") && said.contains("another sender, text"),
        "{said}"
    );
    assert_eq!(
        shell
            .run(&["list", "--json"])
            .await
            .json()
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn more_numbers_than_one_job_takes_become_several_that_share_a_batch() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let numbers: String = (0..50_001).map(|n| format!("0532{n:07}\n")).collect();
    let arguments = [
        "send",
        "--sender",
        "BRAND",
        "--to-file",
        "-",
        "--text",
        "hi",
        "--transactional",
        "--key",
        "campaign",
        "--json",
    ];
    let first = shell.run_with_input(&arguments, &numbers).await.json();
    assert_eq!(first["ids"].as_array().map(Vec::len), Some(2));
    let again = shell.run_with_input(&arguments, &numbers).await.json();
    assert_eq!(
        (&again["existed"], &again["ids"]),
        (&true.into(), &first["ids"])
    );

    let jobs = shell.run(&["list", "--json"]).await.json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(2));
    assert_eq!(jobs[0]["batch_id"], jobs[1]["batch_id"]);
    // A list stays readable: the numbers of a bulk order are cut, and the count is not.
    for job in jobs.as_array().expect("an array") {
        let shown = job["recipients"]
            .as_array()
            .map(Vec::len)
            .expect("an array");
        let all = job["recipient_count"].as_u64().expect("a count");
        assert!(
            shown == 100 && all == 50_000 || shown == 1 && all == 1,
            "{shown} of {all}"
        );
    }
}

#[tokio::test]
async fn numbers_and_texts_are_hidden_until_they_are_asked_for() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let id = shell
        .send(&[
            "--key",
            "otp-905321234567",
            "--metadata",
            r#"{"phone": "05321234567"}"#,
        ])
        .await
        .to_string();
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["show", &id],
        &["show", &id, "--json"],
    ] {
        let hidden = shell.run(arguments).await.done();
        assert!(hidden.contains("90532•••••67"), "{hidden}");
        for secret in ["5321234567", "998877"] {
            assert!(!hidden.contains(secret), "{arguments:?}: {hidden}");
        }
        let revealing: Vec<&str> = arguments.iter().chain(&["--reveal"]).copied().collect();
        let shown = shell.run(&revealing).await.done();
        assert!(
            shown.contains("905321234567") && shown.contains("998877"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn jobs_are_found_by_any_spelling_of_their_number() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    shell.send(&[]).await;
    execute(
        &database,
        "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys) VALUES ('BRAND', '{0532 123-45-67}', 'raw', false),
                                                                            ('BRAND', '{05339999999}', 'other', false)"
            .to_owned(),
    )
    .await;
    for (spelling, found) in [
        ("+90 (532) 123 45 67", 2),
        ("05339999999", 1),
        ("05330000000", 0),
    ] {
        let jobs = shell
            .run(&["list", "--to", spelling, "--json"])
            .await
            .json();
        assert_eq!(jobs.as_array().map(Vec::len), Some(found), "{spelling}");
    }
    assert_eq!(shell.run(&["list", "--to", "n/a"]).await.code, Some(2));
}

#[tokio::test]
async fn a_list_is_filtered_and_says_when_there_is_more() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    for _ in 0..3 {
        shell.send(&[]).await;
    }
    let failed = shell.send(&["--account", "second"]).await;
    become_(&database, failed, "failed").await;

    let ids = |jobs: Value| -> Vec<String> {
        let jobs = jobs.as_array().expect("an array").clone();
        jobs.iter()
            .map(|job| job["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    for filter in [
        ["--status", "failed"],
        ["--account", "second"],
        ["--class", "sender"],
    ] {
        let jobs = shell
            .run(&["list", "--json", filter[0], filter[1]])
            .await
            .json();
        assert_eq!(ids(jobs), [failed.to_string()], "{filter:?}");
    }
    for filter in [["--older", "1h"], ["--sender", "OTHER"], ["--key", "none"]] {
        assert!(
            ids(shell
                .run(&["list", "--json", filter[0], filter[1]])
                .await
                .json())
            .is_empty(),
            "{filter:?}"
        );
    }
    let ran = shell
        .run(&["list", "--limit", "2", "--json", "--newer", "1h"])
        .await;
    assert!(ran.err.contains("There are more"), "{}", ran.err);
    assert_eq!(ids(ran.json()).len(), 2);
    let ran = shell.run(&["list", "--limit", "4"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(
        ran.out.lines().count(),
        5,
        "a header and four jobs: {}",
        ran.out
    );
}

#[tokio::test]
async fn show_says_what_a_status_means_and_what_can_be_done() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    for (status, says) in [
        ("queued", "next worker with a free permit"),
        ("sending", "its request may be on its way"),
        ("sent", "accepted it as order 4711"),
        ("failed", "sms-outbox retry"),
        ("uncertain", "--resend"),
        ("expired", "expires_at came before"),
        ("cancelled", "it was never sent"),
    ] {
        let id = shell.send(&[]).await;
        if status != "queued" {
            become_(&database, id, status).await;
        }
        let page = shell.run(&["show", &id.to_string()]).await.done();
        assert!(page.contains(says), "{status}: {page}");
    }
    let (code, said) = shell.run(&["show", &Uuid::nil().to_string()]).await.said();
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no job"), "{said}");
    assert_eq!(shell.run(&["show", "4711"]).await.code, Some(2));
}

#[tokio::test]
async fn show_has_every_request_that_was_made() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let id = shell.send(&[]).await;
    execute(
        &database,
        format!(
            "INSERT INTO sms_outbox.attempt_log (job_id, token, observer, attempt, counted, worker, started_at, duration_ms,
                                                 progress, http_status, error_class, error_message)
             VALUES ('{id}', 1, 'worker', 1, true, 'w-1', now() - interval '1 minute', 812, 'answered', 503, 'unavailable',
                     'HTTP 503.'),
                    ('{id}', 2, 'rescue', 2, true, 'w-2', now(), null, 'maybe_sent', null, 'timeout', 'Never reported back.')"
        ),
    )
    .await;
    let page = shell.run(&["show", &id.to_string()]).await.done();
    for part in [
        "812 ms",
        "w-1",
        "unavailable, HTTP 503: HTTP 503.",
        "maybe sent",
        "noticed by rescue",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let answer = shell.run(&["show", &id.to_string(), "--json"]).await.json();
    assert_eq!(answer["attempts"][1]["progress"], "maybe_sent");
}

#[tokio::test]
async fn cancelling_tells_the_truth_about_each_job() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    for (status, code, says, then) in [
        ("queued", 0, "will not be sent", "cancelled"),
        (
            "sending",
            1,
            "too late: it is being sent right now",
            "sending",
        ),
        ("sent", 1, "too late: it has been sent", "sent"),
        ("failed", 1, "failed already", "failed"),
        ("uncertain", 1, "may have been sent", "uncertain"),
        ("expired", 1, "expired already", "expired"),
        ("cancelled", 0, "cancelled already", "cancelled"),
    ] {
        let id = shell.send(&[]).await;
        if status != "queued" {
            become_(&database, id, status).await;
        }
        let (ended, said) = shell.run(&["cancel", &id.to_string()]).await.said();
        assert_eq!(ended, Some(code), "{status}: {said}");
        assert!(said.contains(says), "{status}: {said}");
        assert_eq!(self::status(&database, id).await, then);
    }
    let (ended, said) = shell
        .run(&["cancel", &Uuid::nil().to_string()])
        .await
        .said();
    assert!(
        ended == Some(1) && said.contains("there is no such job"),
        "{said}"
    );
}

#[tokio::test]
async fn cancelling_a_job_indeterminate_warns_that_it_may_have_been_sent() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let id = shell.send(&[]).await;
    execute(
        &database,
        format!("UPDATE sms_outbox.jobs SET ambiguous_since = now() WHERE id = '{id}'"),
    )
    .await;
    let ran = shell.run(&["cancel", &id.to_string(), "--json"]).await;
    assert!(
        ran.err.contains("may have been sent already"),
        "{}",
        ran.err
    );
    assert_eq!(ran.json()["may_have_been_sent"], serde_json::json!([id]));
}

#[tokio::test]
async fn many_jobs_are_changed_by_a_filter_and_none_without_one() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    execute(
        &database,
        "INSERT INTO sms_outbox.jobs (account, sender, recipients, body, iys)
         SELECT CASE WHEN n <= 2500 THEN 'default' ELSE 'second' END, 'BRAND', '{05321234567}', 'hi', false
         FROM generate_series(1, 2510) AS n"
            .to_owned(),
    )
    .await;
    for command in ["cancel", "retry"] {
        let (code, said) = shell.run(&[command]).await.said();
        assert!(code == Some(2) && said.contains("--all"), "{said}");
    }
    let said = shell
        .run(&["cancel", "--account", "default", "--dry-run"])
        .await
        .done();
    assert!(
        said.contains("2,500 queued jobs would be cancelled"),
        "{said}"
    );
    let said = shell.run(&["cancel", "--account", "default"]).await.done();
    assert!(said.contains("2,500 queued jobs: cancelled"), "{said}");
    let said = shell.run(&["cancel", "--all", "--limit", "3"]).await.done();
    assert!(said.contains("3 queued jobs"), "{said}");

    execute(
        &database,
        "UPDATE sms_outbox.jobs SET status = 'failed', finished_at = now(), error_class = 'content' WHERE account = 'second'"
            .to_owned(),
    )
    .await;
    let said = shell.run(&["retry", "--class", "sender"]).await.done();
    assert!(said.contains("none fits"), "{said}");
    let said = shell.run(&["retry", "--class", "content"]).await.done();
    assert!(said.contains("10 failed jobs"), "{said}");
}

#[tokio::test]
async fn only_what_failed_is_retried_and_uncertain_jobs_are_left_to_resolve() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    for (status, code, says, then) in [
        ("failed", 0, "back in the queue", "queued"),
        ("queued", 1, "waiting to be sent already", "queued"),
        ("sent", 1, "would be a second message", "sent"),
        ("uncertain", 1, "resolve", "uncertain"),
        ("cancelled", 1, "enqueue a new message", "cancelled"),
    ] {
        let id = shell.send(&[]).await;
        if status != "queued" {
            become_(&database, id, status).await;
        }
        let (ended, said) = shell.run(&["retry", &id.to_string()]).await.said();
        assert_eq!(ended, Some(code), "{status}: {said}");
        assert!(said.contains(says), "{status}: {said}");
        assert_eq!(self::status(&database, id).await, then);
    }
}

#[tokio::test]
async fn a_failed_job_indeterminate_is_retried_by_its_id_only() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let id = shell.send(&[]).await;
    become_(&database, id, "failed").await;
    let indeterminate =
        format!("UPDATE sms_outbox.jobs SET ambiguous_since = now() WHERE id = '{id}'");
    execute(&database, indeterminate).await;
    let ran = shell.run(&["retry", "--all"]).await;
    assert!(ran.err.contains(&id.to_string()), "{}", ran.err);
    assert_eq!(status(&database, id).await, "failed");
    let ran = shell.run(&["retry", &id.to_string()]).await;
    assert!(ran.err.contains("may arrive twice"), "{}", ran.err);
    assert_eq!(status(&database, id).await, "queued");
}

#[tokio::test]
async fn what_has_expired_is_neither_retried_nor_sent_again() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let (failed, uncertain) = (shell.send(&[]).await, shell.send(&[]).await);
    become_(&database, failed, "failed").await;
    become_(&database, uncertain, "uncertain").await;
    execute(
        &database,
        "UPDATE sms_outbox.jobs SET expires_at = now() - interval '1 second'".to_owned(),
    )
    .await;

    let (code, said) = shell.run(&["retry", &failed.to_string()]).await.said();
    assert!(
        code == Some(1) && said.contains("expires_at has come"),
        "{said}"
    );
    let (code, said) = shell
        .run(&["resolve", &uncertain.to_string(), "--resend"])
        .await
        .said();
    assert!(
        code == Some(1) && said.contains("expires_at has come"),
        "{said}"
    );
    assert_eq!(status(&database, failed).await, "failed");
    assert_eq!(status(&database, uncertain).await, "uncertain");
}

#[tokio::test]
async fn a_person_resolves_an_uncertain_job() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    for (how, then, says) in [
        (&["--sent", "4711"][..], "sent", "as order 4711"),
        (&["--sent"], "sent", "order stays unknown"),
        (&["--resend"], "queued", "it arrives twice"),
        (&["--fail"], "failed", "you gave it up"),
    ] {
        let id = shell.send(&[]).await;
        become_(&database, id, "uncertain").await;
        let id_text = id.to_string();
        let arguments: Vec<&str> = ["resolve", &id_text].iter().chain(how).copied().collect();
        let (code, said) = shell.run(&arguments).await.said();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(says), "{said}");
        assert_eq!(status(&database, id).await, then);
        // Resolved once, it stays resolved.
        let (code, said) = shell.run(&arguments).await.said();
        assert!(code == Some(1) && said.contains("not uncertain"), "{said}");
    }
    let id = shell.send(&[]).await.to_string();
    for wrong in [
        &["resolve", &id, "--fail", "--resend"][..],
        &["resolve", &id, "--sent", "a b"],
    ] {
        assert_eq!(shell.run(wrong).await.code, Some(2), "{wrong:?}");
    }
    let nobody = Uuid::nil().to_string();
    assert_eq!(
        shell.run(&["resolve", &nobody, "--fail"]).await.code,
        Some(1)
    );
}

#[tokio::test]
async fn what_a_person_decided_is_kept_with_who_and_why() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let id = shell.send(&[]).await;
    let id_text = id.to_string();
    let role: String = sqlx::query_scalar("SELECT session_user")
        .fetch_one(database.pool())
        .await
        .expect("a role");
    // Resolved twice under one claim: both words are kept.
    for (how, because) in [
        (&["--resend"][..], "the panel does not show it"),
        (
            &["--sent", "312891245", "--by", "Ayşe"],
            "seen \u{1b}[2J\u{202e}in the panel",
        ),
    ] {
        become_(&database, id, "uncertain").await;
        let arguments = [&["resolve", &id_text, "--because", because], how].concat();
        shell.run(&arguments).await.done();
    }
    let page = shell.run(&["show", &id_text]).await.done();
    for part in [
        format!("said by operator {role}: Resolved: sent again. the panel does not show it"),
        format!("order 312891245, said by operator Ayşe ({role}): Resolved: it arrived."),
        "seen \\u{1b}[2J\\u{202e}in the panel".to_owned(),
    ] {
        let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.contains(&part), "{part}: {page}");
    }
    let json = shell.run(&["show", &id_text, "--json"]).await;
    for shown in [&page, &json.out] {
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
    }
    let history = &json.json()["attempts"];
    let evidence = history[1]["evidence"].as_str().expect("a sentence");
    assert!(
        evidence.ends_with("seen \u{1b}[2J\u{202e}in the panel"),
        "{evidence:?}"
    );
    assert_eq!(history[1]["observer"], "operator");
    assert_eq!(history[1]["said_by"], format!("Ayşe ({role})"));
    assert_eq!(history[1]["order_id"], "312891245");
}

#[tokio::test]
async fn an_order_that_is_another_jobs_is_not_given_away_without_a_word() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = shell.send(&[]).await;
        become_(&database, id, "uncertain").await;
        ids.push(id.to_string());
    }
    let [first, second, third] = &ids[..] else {
        panic!("three")
    };
    let resolve = async |id: &str, more: &[&str]| {
        let arguments = [&["resolve", id, "--sent", "312891245"], more].concat();
        shell.run(&arguments).await.said()
    };
    assert_eq!(resolve(first, &[]).await.0, Some(0));
    let (code, said) = resolve(second, &[]).await;
    assert!(
        code == Some(1) && said.contains(&format!("job {first}")) && said.contains("--force"),
        "{said}"
    );
    assert_eq!(
        status(&database, second.parse().expect("an id")).await,
        "uncertain"
    );
    assert_eq!(resolve(second, &["--force"]).await.0, Some(0));
    let page = shell.run(&["show", second]).await.done();
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(page.contains(&format!("beside {first}")), "{page}");
    // A second acceptance stands in the history alone, and is known all the same.
    execute(
        &database,
        format!(
            "UPDATE sms_outbox.jobs SET order_id = NULL WHERE order_id = '312891245';
             DELETE FROM sms_outbox.attempt_log WHERE job_id = '{second}'"
        ),
    )
    .await;
    let (code, said) = resolve(third, &[]).await;
    assert!(
        code == Some(1) && said.contains(first) && !said.contains(second),
        "{said}"
    );
    for wrong in ["31289x", "", "+312891245", "٣"] {
        let refused = shell.run(&["resolve", third, "--sent", wrong]).await;
        assert_eq!(refused.code, Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_pause_shows_wherever_it_matters_until_it_is_ended() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let id = shell.send(&[]).await.to_string();
    let said = shell
        .run(&["pause", "--reason", "the shop is closed"])
        .await
        .done();
    assert!(
        said.contains("account default, until someone resumes it"),
        "{said}"
    );
    for arguments in [
        &["stats"][..],
        &["stats", "--json"],
        &["show", &id],
        &["doctor"],
    ] {
        let ran = shell.run(arguments).await;
        assert!(
            ran.out.contains("the shop is closed"),
            "{arguments:?}: {}",
            ran.out
        );
    }
    let said = shell
        .run(&["pause", "--sender", "BRAND", "--for", "5m"])
        .await
        .done();
    assert!(said.contains("for 5 min"), "{said}");

    let said = shell.run(&["resume"]).await.done();
    assert!(
        said.contains("Resumed: account default")
            && said.contains("Still paused: sender \"BRAND\""),
        "{said}"
    );
    let said = shell.run(&["resume"]).await.done();
    assert!(said.contains("Not paused: account default"), "{said}");
    let said = shell.run(&["resume", "--all"]).await.done();
    assert!(said.contains("Resumed: sender \"BRAND\""), "{said}");
    let stats = shell.run(&["stats", "--json"]).await.json();
    assert_eq!(
        (&stats[0]["jobs"], &stats[0]["paused_why"]),
        (&1.into(), &Value::Null)
    );
}

#[tokio::test]
async fn a_pause_by_hand_outlasts_the_providers_failure_and_its_probes() {
    use sms_outbox::lifecycle::{ErrorClass, Failure, PauseScope};
    use sms_outbox::outbox::{Outbox, PauseOrder, Probing};

    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let outbox = Outbox::new(database.pool().clone());
    let failure = Failure::new(ErrorClass::Balance, "The balance is too low.");
    let order = PauseOrder {
        account: "default",
        scope: PauseScope::Account,
        sender: "",
        failure: Some(&failure),
        reason: &failure.message,
        by: "w-1",
        lasts: None,
        longest: None,
        probing: Some(Probing {
            first: Duration::ZERO,
            longest: Duration::ZERO,
        }),
    };
    outbox.pause(&order).await.expect("a pause");
    let said = shell.run(&["pause", "--for", "1h"]).await.done();
    assert!(
        said.contains("replaces a pause that held: The balance is too low."),
        "{said}"
    );

    // A request that was under way meets the failure again, and a probe that was under way comes back.
    assert_eq!(outbox.pause(&order).await.expect("an answer"), None);
    let ended = outbox
        .end_probed_pause("default", PauseScope::Account, "", "w-1")
        .await;
    assert_eq!(ended.expect("an answer"), None);
    let stats = shell.run(&["stats", "--json"]).await.json();
    assert_eq!(stats[0]["paused_why"], "account: Paused by hand.");
}

#[tokio::test]
async fn a_command_says_what_to_do_when_the_database_is_not_as_it_should_be() {
    let empty = TestDatabase::empty().await;
    let (code, said) = Shell::at(&empty).run(&["list"]).await.said();
    assert!(
        code == Some(1) && said.contains("sms-outbox migrate"),
        "{said}"
    );

    let nowhere =
        Shell::without_database().with("DATABASE_URL", "postgres://u:secret@127.0.0.1:1/x");
    for command in ["list", "stats", "resume"] {
        let (code, said) = nowhere.run(&[command]).await.said();
        assert!(
            code == Some(1) && said.contains("is the server running"),
            "{said}"
        );
        assert!(!said.contains("secret"), "{said}");
    }
    let (code, said) = Shell::without_database().run(&["list"]).await.said();
    assert!(
        code == Some(2) && said.contains("DATABASE_URL is not set"),
        "{said}"
    );
}

#[tokio::test]
async fn doctor_reports_what_is_missing_and_looks_at_the_rest() {
    let (code, said) = Shell::without_database()
        .with("ILETIMERKEZI_BASE_URL", "http://127.0.0.1:1")
        .run(&["doctor"])
        .await
        .said();
    assert_eq!(code, Some(1));
    for part in [
        "DATABASE_URL is not set",
        "ILETIMERKEZI_API_KEY is not set",
        "2 faults",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let empty = TestDatabase::empty().await;
    let shell = Shell::at(&empty)
        .with("ILETIMERKEZI_BASE_URL", "http://127.0.0.1:1")
        .with("ILETIMERKEZI_API_KEY", "key-of-mine")
        .with("ILETIMERKEZI_API_HASH", "hash-of-mine");
    let (code, said) = shell.run(&["doctor"]).await.said();
    assert_eq!(code, Some(1));
    for part in ["sms-outbox migrate", "does a firewall let this machine out"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("of-mine"), "{said}");
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_where_nothing_is() {
    let database = TestDatabase::create().await;
    let sandbox = Sandbox::start(SandboxConfig::default())
        .await
        .expect("a free port");
    let shell = Shell::at(&database)
        .with("ILETIMERKEZI_BASE_URL", sandbox.base_url())
        .with("ILETIMERKEZI_API_KEY", "sandbox-key")
        .with("ILETIMERKEZI_API_HASH", "sandbox-hash");
    let ran = shell.run(&["doctor", "--json"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.out);
    let answer = ran.json();
    assert_eq!(answer["ok"], true);
    let level = |check: &str| -> Vec<Value> {
        let checks = answer["checks"].as_array().expect("an array");
        checks
            .iter()
            .filter(|found| found["check"] == check)
            .map(|found| found["level"].clone())
            .collect()
    };
    for check in [
        "settings",
        "database",
        "pooler",
        "clock",
        "schema",
        "privileges",
        "queue",
        "pauses",
        "credentials",
        "balance",
        "senders",
    ] {
        assert_eq!(level(check), ["ok"], "{check}: {answer}");
    }
}

#[tokio::test]
async fn doctor_finds_what_has_come_to_a_halt() {
    let database = TestDatabase::create().await;
    let sandbox = Sandbox::start(SandboxConfig::default())
        .await
        .expect("a free port");
    let shell = Shell::at(&database)
        .with("ILETIMERKEZI_BASE_URL", sandbox.base_url())
        .with("ILETIMERKEZI_API_KEY", "sandbox-key")
        .with("ILETIMERKEZI_API_HASH", "wrong");
    let (overlooked, uncertain, abandoned, failed) = (
        shell.send(&[]).await,
        shell.send(&[]).await,
        shell.send(&[]).await,
        shell.send(&[]).await,
    );
    shell.send(&["--account", "defualt"]).await;
    become_(&database, uncertain, "uncertain").await;
    become_(&database, abandoned, "sending").await;
    become_(&database, failed, "failed").await;
    execute(
        &database,
        format!(
            "UPDATE sms_outbox.jobs SET due_at = now() - interval '1 hour' WHERE id = '{overlooked}';
             UPDATE sms_outbox.jobs SET claimed_at = now() - interval '1 hour', lease_until = now() - interval '50 minutes'
             WHERE id = '{abandoned}'"
        ),
    )
    .await;
    let (code, said) = shell.run(&["doctor"]).await.said();
    assert_eq!(code, Some(1));
    for part in [
        "a job has been due for 1 h",
        "1 job claimed, with a lease that ran out, and not recovered",
        "1 job uncertain",
        "1 job failed within the last hour (sender 1)",
        "1 job waiting for account \"defualt\", which no worker serves",
        "check key and hash",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let approved = shell.with("ILETIMERKEZI_API_HASH", "sandbox-hash");
    let (_, said) = approved.run(&["doctor"]).await.said();
    assert!(
        said.contains("1 job waiting from \"BRAND\", which is not approved"),
        "{said}"
    );
}

#[tokio::test]
async fn doctor_names_the_privileges_that_a_role_lacks() {
    let database = TestDatabase::create().await;
    let is_superuser: bool =
        sqlx::query_scalar("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            .fetch_one(database.pool())
            .await
            .expect("a role");
    let mut url = reqwest::Url::parse(&database.url()).expect("a URL");
    // Nothing can be taken from a superuser, and others may not be able to make a role.
    let role = is_superuser.then(|| format!("role_of_{}", database.name()));
    match &role {
        Some(role) => {
            let made = format!(
                "CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA sms_outbox TO {role};
                 GRANT SELECT ON ALL TABLES IN SCHEMA sms_outbox TO {role}"
            );
            execute(&database, made).await;
            url.set_username(role).expect("a host");
            url.set_password(Some("x")).expect("a host");
        }
        None => {
            let taken = "REVOKE INSERT, UPDATE ON sms_outbox.jobs FROM current_user";
            execute(&database, taken.to_owned()).await;
        }
    }
    let shell = Shell::without_database().with("DATABASE_URL", url);
    let (code, said) = shell.run(&["doctor"]).await.said();
    let (sent, advised) = shell
        .run(&[
            "send",
            "--sender",
            "BRAND",
            "--to",
            "05321234567",
            "--text",
            "hi",
            "--transactional",
        ])
        .await
        .said();
    if let Some(role) = role {
        execute(&database, format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    }
    assert_eq!(code, Some(1));
    assert!(
        said.contains("UPDATE (due_at, claimed_at,")
            && said.contains("on TABLE sms_outbox.jobs")
            && said.contains("sms-outbox grant worker"),
        "{said}"
    );
    assert!(
        sent == Some(1) && advised.contains("sms-outbox doctor"),
        "{advised}"
    );
}

#[tokio::test]
async fn a_frozen_database_holds_up_no_command_for_long() {
    // Takes connections and says nothing, as a server does that was stopped in the middle.
    let frozen = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = frozen.local_addr().expect("a bound socket");
    let shell = Shell::without_database()
        .with(
            "DATABASE_URL",
            format!("postgres://u@{address}/x?sslmode=disable"),
        )
        .with("ILETIMERKEZI_BASE_URL", "http://127.0.0.1:1");
    let start = std::time::Instant::now();
    let (doctor, list) = tokio::join!(shell.run(&["doctor"]), shell.run(&["list"]));
    assert!(
        start.elapsed() < Duration::from_secs(25),
        "{:?}",
        start.elapsed()
    );
    for ran in [doctor, list] {
        let (code, said) = ran.said();
        assert!(
            code == Some(1) && said.contains("did not answer within"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn every_command_and_option_has_help() {
    let shell = Shell::without_database();
    for command in [
        "send", "list", "show", "stats", "retry", "cancel", "resolve", "pause", "resume", "doctor",
    ] {
        let help = shell.run(&[command, "--help"]).await.done();
        let mut lines = help.lines().peekable();
        while let Some(line) = lines.next() {
            // With long help an option's explanation stands below it, indented further.
            if line.trim_start().starts_with("--") {
                let explained = lines
                    .peek()
                    .is_some_and(|next| next.starts_with("          "));
                let beside = line.trim_start().split("  ").count() > 1;
                assert!(explained || beside, "{command}: {line}");
            }
        }
    }
}

#[tokio::test]
async fn waiting_ends_with_the_job() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let ran = shell
        .run(&[
            "send",
            "--sender",
            "BRAND",
            "--to",
            "05321234567",
            "--text",
            "hi",
            "--transactional",
            "--wait=300ms",
        ])
        .await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("is queued") && ran.err.contains("The message stays in the outbox"),
        "{}",
        ran.err
    );

    let sending = shell.run(&[
        "send",
        "--sender",
        "BRAND",
        "--to",
        "05321234567",
        "--text",
        "hi",
        "--transactional",
        "--key",
        "w",
        "--wait",
    ]);
    let working = async {
        loop {
            let sent = sqlx::query(
                "UPDATE sms_outbox.jobs SET status = 'sent', attempt = 1, sent_at = now(), finished_at = now(), order_id = '1'
                 WHERE idempotency_key = 'w'",
            );
            if sent
                .execute(database.pool())
                .await
                .expect("an answer")
                .rows_affected()
                > 0
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (ran, ()) = tokio::join!(sending, working);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[tokio::test]
async fn waiting_for_the_phone_ends_with_the_last_word_about_it() {
    let database = TestDatabase::create().await;
    let shell = Shell::at(&database);
    let wait = async |key: &'static str, wait: &'static str| {
        let message = [
            "send",
            "--sender",
            "BRAND",
            "--to",
            "05321234567",
            "--text",
            "hi",
            "--transactional",
            "--key",
            key,
            "--wait",
            wait,
        ];
        shell.run(&message).await
    };
    let ran = wait("a", "delivered:300ms").await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("Waiting until the phone has it")
            && ran
                .err
                .contains("is queued, without a word about the phone"),
        "{}",
        ran.err
    );
    let id: Uuid = ran.out.trim().parse().expect("an id");
    become_(&database, id, "sent").await;
    // Taken is not delivered.
    assert_eq!(wait("a", "delivered:300ms").await.code, Some(1));
    let delivery = async |status: &str| {
        let delivered = i32::from(status == "delivered");
        let sql = format!(
            "INSERT INTO sms_outbox.deliveries (job_id, account, status, total, delivered, undelivered, facts, source, finished_at)
             VALUES ('{id}', 'default', '{status}', 1, {delivered}, {}, 8, 'report', now())
             ON CONFLICT (job_id) DO UPDATE SET status = excluded.status",
            1 - delivered
        );
        execute(&database, sql).await;
    };
    delivery("undelivered").await;
    let ran = wait("a", "delivered").await;
    assert!(
        ran.code == Some(1) && ran.err.contains("its delivery undelivered"),
        "{}",
        ran.err
    );
    delivery("delivered").await;
    let ran = wait("a", "delivered").await;
    assert!(
        ran.code == Some(0) && ran.err.contains("Delivered."),
        "{}",
        ran.err
    );
    assert_eq!(wait("a", "5m").await.code, Some(0));
    assert_eq!(wait("a", "soon").await.code, Some(2));
}

#[tokio::test]
async fn people_see_what_became_of_a_message_on_the_phone() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let shell = Shell::at(&database);
    let other = shell.send(&[]).await;
    let list = insert(
        pool,
        &[
            ("recipients", "'{905321234567,905321234568,905321234569}'"),
            ("status", "'sent'"),
            ("order_id", "'1'"),
            ("sent_at", "now()"),
            ("finished_at", "now()"),
        ],
    )
    .await;
    execute(
        &database,
        format!(
            "INSERT INTO sms_outbox.deliveries (
                 job_id, account, status, total, delivered, undelivered, facts, places, source, conflicts, price, finished_at)
             VALUES ('{list}', 'default', 'partly', 3, 2, 1, 32, '884', 'report', 1, 3, now())"
        ),
    )
    .await;
    let shown = shell.run(&["show", &list.to_string()]).await.done();
    for part in [
        "partly (3 numbers: 2 delivered, 1 not), as the provider's report says; of 1 number the contrary was said too",
        "3.0000, in the account's unit",
        "delivered       2 numbers: 90532•••••67, 90532•••••68",
        "undelivered     1 number: 90532•••••69",
        "Some phones have it and some will not.",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("1234567"), "{shown}");
    let json = shell
        .run(&["show", &list.to_string(), "--json", "--reveal"])
        .await
        .json();
    assert_eq!(json["numbers_by_delivery"][1]["numbers"][0], "905321234569");
    assert_eq!(
        (&json["delivery"], &json["price"]),
        (&"partly".into(), &"3.0000".into())
    );

    let listed = shell.run(&["list"]).await.done();
    assert!(
        listed.contains("DELIVERY") && listed.contains("partly"),
        "{listed}"
    );
    for (delivery, expected) in [
        ("partly", vec![list]),
        ("none", vec![other]),
        ("delivered", vec![]),
    ] {
        let listed = shell
            .run(&["list", "--delivery", delivery, "--json"])
            .await
            .json();
        let ids = listed
            .as_array()
            .expect("an array")
            .iter()
            .map(|job| job["id"].clone());
        let expected: Vec<Value> = expected.iter().map(|id| id.to_string().into()).collect();
        assert_eq!(ids.collect::<Vec<_>>(), expected, "{delivery}");
    }
    let stats = shell.run(&["stats"]).await.done();
    assert!(stats.contains("list --delivery undelivered"), "{stats}");
}

#[tokio::test]
async fn every_row_that_can_be_inserted_can_be_shown() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let shell = Shell::at(&database);
    let mut ids = Vec::new();
    for metadata in [
        "'{\"n\": 1e400}'",
        "'{\"n\": -123456789012345678901234567890.5}'",
        "(repeat('[', 7000) || repeat(']', 7000))::jsonb",
        "'null'",
        "'\"text\"'",
    ] {
        ids.push(insert(pool, &[("metadata", metadata)]).await);
    }
    for row in [
        [
            ("recipients", "'[7:8]={05321234567,NULL}'"),
            ("body", "' '"),
        ],
        [
            ("recipients", "ARRAY['', NULL, 'x']"),
            ("due_at", "'9999-12-31 23:59:59.999999 UTC'"),
        ],
        [
            ("expires_at", "'0001-01-01 00:00 UTC'"),
            ("traceparent", "''"),
        ],
        [
            ("provider_send_at", "'9999-12-31 23:59:59.999999 UTC'"),
            ("max_attempts", "32767"),
        ],
    ] {
        ids.push(insert(pool, &row).await);
    }
    for json in [&["list", "--reveal"][..], &["list", "--reveal", "--json"]] {
        shell.run(json).await.done();
    }
    for id in &ids {
        let id = id.to_string();
        for arguments in [&["show", &id, "--reveal"][..], &["show", &id]] {
            shell.run(arguments).await.done();
        }
        let shown = shell.run(&["show", &id, "--reveal", "--json"]).await.json();
        assert!(
            !shown["metadata"].is_null() || id == ids[3].to_string(),
            "{shown}"
        );
    }
    // What no reader takes as JSON is there as its text.
    let shown = shell
        .run(&["show", &ids[0].to_string(), "--reveal", "--json"])
        .await
        .json();
    assert!(
        shown["metadata"]
            .as_str()
            .is_some_and(|text| text.contains("1000")),
        "{shown}"
    );
}

#[tokio::test]
async fn a_producers_control_characters_reach_no_terminal() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let shell = Shell::at(&database);
    // ESC, CR, the one-character CSI, and right-to-left override, wherever a producer can put them.
    let hostile = "E'\\x1b]0;owned\\x07\\r\\u009b31m\\u202egnp.exe\\n'";
    let id = insert(
        pool,
        &[
            ("account", hostile),
            ("body", &format!("{hostile} || 'status          sent'")),
            ("recipients", &format!("ARRAY[{hostile}]")),
            ("idempotency_key", hostile),
            ("traceparent", hostile),
            ("metadata", &format!("jsonb_build_object('x', {hostile})")),
        ],
    )
    .await;
    execute(
        &database,
        format!(
            "INSERT INTO sms_outbox.pauses (account, scope, sender, reason, paused_by)
             VALUES ({hostile}, 'account', '', {hostile}, {hostile})"
        ),
    )
    .await;
    let id = id.to_string();
    for arguments in [
        &["show", &id, "--reveal"][..],
        &["show", &id],
        &["list", "--reveal"],
        &["stats"],
        &["doctor"],
        &["list", "--reveal", "--json"],
        &["show", &id, "--reveal", "--json"],
        &["stats", "--json"],
        &["cancel", &id, "--dry-run"],
        &[
            "send",
            "--dry-run",
            "--reveal",
            "--sender",
            "BRAND",
            "--to",
            "05321234567",
            "--transactional",
            "--text",
            "a\u{1b}[2J\r\u{202e}b",
            "--key",
            "k\u{9b}31m",
        ],
    ] {
        let (_, said) = shell.run(arguments).await.said();
        let obeyed = said.chars().find(|c| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        });
        assert_eq!(obeyed, None, "{arguments:?}: {}", said.escape_debug());
        assert!(
            !said.contains("\nstatus          sent"),
            "{arguments:?}: no line passes for another: {said}"
        );
    }
    // In JSON they are what they were.
    let shown = shell.run(&["show", &id, "--reveal", "--json"]).await.json();
    assert_eq!(
        shown["idempotency_key"],
        "\u{1b}]0;owned\u{7}\r\u{9b}31m\u{202e}gnp.exe\n"
    );
}

#[tokio::test]
async fn jobs_are_listed_by_the_role_that_inserted_them() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let shell = Shell::at(&database);
    let mine = insert(pool, &[]).await.to_string();
    let others = insert(pool, &[("producer", "'shop'")]).await.to_string();
    let shown = shell.run(&["show", &others]).await.done();
    assert!(shown.contains("producer        shop"), "{shown}");
    let listed = shell
        .run(&["list", "--producer", "shop", "--json"])
        .await
        .json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0]["id"], others);
    let listed = shell.run(&["list", "--json"]).await.json();
    assert!(
        listed
            .as_array()
            .is_some_and(|jobs| jobs.iter().any(|job| job["id"] == mine))
    );
}
