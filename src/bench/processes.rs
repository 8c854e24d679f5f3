//! The processes that are measured: the program itself, started as a worker, as the sandbox, or as the bare loop. None of them
//! outlives this one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::BenchError;

/// What the shell does: once the pipe that only we hold is closed, whatever runs in its process group ends. `$1` is the directory
/// with what it has logged.
const WATCH: &str = r#"trap '' HUP INT QUIT TERM
read -r _
rm -rf -- "$1"
kill -KILL 0"#;

const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Longer than a worker may take to stop gracefully.
const STOP_DEADLINE: Duration = Duration::from_secs(40);

/// Starts processes in a group of their own: the terminal's Ctrl-C goes to us alone, and we stop them gracefully. If this process
/// is killed, a shell that waits for its end kills the group.
pub struct Herd {
    program: PathBuf,
    /// Variables that no child may see: settings of whoever runs us, and the address of a real database.
    forget: Vec<String>,
    directory: tempfile::TempDir,
    started: AtomicU32,
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Herd {
    /// Nothing runs yet but the shell.
    pub fn new(program: PathBuf, forget: Vec<String>) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("sms-outbox-bench-")
            .tempdir()?;
        let mut shell = Command::new("/bin/sh")
            .args(["-c", WATCH, "sms-outbox-bench-watchdog"])
            .arg(directory.path())
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = shell.stdin.take();
        Ok(Self {
            program,
            forget,
            directory,
            started: AtomicU32::new(0),
            shell,
            pipe,
        })
    }

    /// Starts the program with these arguments. What it logs is kept in a file until it has ended.
    pub fn start(
        &self,
        what: &'static str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Process, BenchError> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let path = |kind: &str| {
            self.directory
                .path()
                .join(format!("{number}-{what}.{kind}"))
        };
        let (log, out) = (path("log"), path("out"));
        let start = || {
            let mut command = Command::new(&self.program);
            for name in &self.forget {
                command.env_remove(name);
            }
            command
                .envs(environment.iter().copied())
                .args(arguments)
                // Not where a file .env could lie that changes what is measured.
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(File::create(&out)?)
                .stderr(File::create(&log)?)
                .process_group(self.shell.id().cast_signed())
                .spawn()
        };
        let child = start().map_err(|source| BenchError::Start { what, source })?;
        Ok(Process {
            what,
            child,
            log,
            out,
        })
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        // Failing means that nothing of the group is left, which is what was wanted.
        let _ = killpg(
            Pid::from_raw(self.shell.id().cast_signed()),
            Signal::SIGKILL,
        );
        let _ = self.shell.wait();
        self.pipe = None;
    }
}

/// One of them. Dropped, it is killed.
pub struct Process {
    what: &'static str,
    child: Child,
    log: PathBuf,
    out: PathBuf,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes one line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<(), BenchError> {
        let what = self.what;
        let mut input = || match &mut self.child.stdin {
            Some(pipe) => writeln!(pipe, "{line}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        input().map_err(|source| BenchError::Start { what, source })
    }

    /// Everything it has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// An error if it has ended, which none of them does unasked.
    pub fn check(&mut self) -> Result<(), BenchError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(BenchError::Ended {
                what: self.what,
                status,
                log: last_lines(&self.log),
            }),
            Err(source) => Err(BenchError::Start {
                what: self.what,
                source,
            }),
        }
    }

    /// Waits until `seen` finds in what it has printed what it looks for.
    pub async fn says<T>(
        &mut self,
        within: Duration,
        seen: impl Fn(&str) -> Option<T>,
    ) -> Result<T, BenchError> {
        let began = Instant::now();
        loop {
            if let Some(found) = seen(&self.printed()) {
                return Ok(found);
            }
            self.check()?;
            if began.elapsed() > within {
                return Err(BenchError::Silent {
                    what: self.what,
                    seconds: within.as_secs(),
                    log: last_lines(&self.log),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until it has logged a line with `text`; returns that line.
    pub async fn logs(&mut self, within: Duration, text: &str) -> Result<String, BenchError> {
        let log = self.log.clone();
        self.says(within, |_| {
            let logged = fs::read_to_string(&log).unwrap_or_default();
            let mut lines = logged.split_inclusive('\n');
            // Only once it is complete.
            lines
                .find(|line| line.contains(text) && line.ends_with('\n'))
                .map(str::to_owned)
        })
        .await
    }

    /// Stops it gracefully, and waits until it has.
    pub async fn stop(mut self) -> Result<(), BenchError> {
        let what = self.what;
        let failed = |source| BenchError::Start { what, source };
        kill(pid(&self.child), Signal::SIGTERM).map_err(|errno| failed(errno.into()))?;
        // The bare loop goes when nobody listens any more.
        self.child.stdin = None;
        let began = Instant::now();
        while self.child.try_wait().map_err(failed)?.is_none() {
            if began.elapsed() > STOP_DEADLINE {
                return Err(BenchError::Silent {
                    what,
                    seconds: STOP_DEADLINE.as_secs(),
                    log: last_lines(&self.log),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Kills it, as a machine does that loses its power.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A drain logs megabytes.
        let _ = fs::remove_file(&self.log);
        let _ = fs::remove_file(&self.out);
    }
}

fn pid(child: &Child) -> Pid {
    // Process ids are positive `pid_t`s, which `std` hands out as `u32`.
    Pid::from_raw(child.id().cast_signed())
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
