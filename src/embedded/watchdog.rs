//! The process that stops a private server when we no longer can.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What the shell does. `$1` is the server's directory, standard input the pipe whose other end only we hold.
///
/// Signal 0's group is the shell's own: while the shell lives, no other process can be given the group's number, so this
/// can hit nobody else. QUIT is an immediate stop: the postmaster takes its children with it (and waits at most 5 s for
/// them, hence the 20 s here); initdb gives up. The directory goes once no server claims it. Whatever still runs then is
/// killed, the shell included.
const SCRIPT: &str = r#"trap '' HUP INT QUIT TERM
read -r _
kill -QUIT 0
tries=200
while [ -e "$1" ] && [ "$tries" -gt 0 ]; do
  [ -e "$1/data/postmaster.pid" ] || rm -rf -- "$1"
  sleep 0.1 2>/dev/null || sleep 1
  tries=$((tries - 1))
done
rm -rf -- "$1"
kill -KILL 0"#;

/// A shell that waits for our end, and the process group in which the server runs.
///
/// Destructors do not run on `kill -9`, on `process::exit` or for statics, and a PostgreSQL left behind by a demo is
/// found days later by somebody who wonders what it is.
pub(super) struct Watchdog {
    shell: Child,
    /// The end of the pipe that the shell waits on. Held, never written to; closed on exec, so that no child of ours
    /// keeps it open by accident.
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Starts to watch over `directory`, which is removed when this process ends.
    pub(super) fn start(directory: &Path) -> io::Result<Self> {
        // `rm` and `sleep` are where they are on nearly every system, whatever our own PATH is.
        let mut path = OsString::from("/usr/bin:/bin:");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "sms-outbox-watchdog"])
            .arg(directory)
            .current_dir("/")
            .env_clear()
            .env("PATH", path)
            .stdin(Stdio::piped())
            // Our own output may be a pipe that somebody reads to its end.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// The process group that the server's processes are to join.
    pub(super) fn group(&self) -> i32 {
        // Process ids are positive `pid_t`s, which `std` hands out as `u32`.
        self.shell.id().cast_signed()
    }

    /// Ends the watch: whatever still runs in the group is killed, the watchdog included.
    pub(super) fn dismiss(&mut self) {
        // Failing means that nothing of the group is left, which is what was wanted.
        let _ = killpg(Pid::from_raw(self.group()), Signal::SIGKILL);
        let _ = self.shell.wait();
        self.pipe = None;
    }

    /// Leaves the tidying to the watchdog, as if this process had ended.
    pub(super) fn let_go(&mut self) {
        self.pipe = None;
    }
}
