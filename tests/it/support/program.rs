//! The program as an operator runs it: one command, its exit code, and what it said.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Runs a command with this environment and nothing else of the developer's. Returns its exit code and all that it said.
pub async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let child = Command::new(env!("CARGO_BIN_EXE_sms-outbox"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        // No .env of whoever runs the tests.
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program that cargo has just built");
    let ended = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await;
    let output = ended
        .expect("every command ends")
        .expect("it can be waited for");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8(said).expect("UTF-8"),
    )
}
