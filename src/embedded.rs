//! A PostgreSQL server of our own, for `demo`, `bench` and the tests: found on this machine or fetched, started in a
//! temporary directory, gone without a trace when its owner is.
//!
//! Nothing here looks at `DATABASE_URL`. A demo that claimed real messages and handed them to a sandbox would lose them.

#[cfg(feature = "postgres-download")]
mod download;
mod programs;
mod watchdog;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[cfg(feature = "postgres-download")]
pub use download::DownloadError;
pub use programs::Sources;
use programs::{OLDEST_MAJOR, Programs, ServerUser, as_user, everybody_may_enter};
use watchdog::Watchdog;

/// The user that owns everything in a private server.
const SUPERUSER: &str = "postgres";

/// How often a wait looks again. All waits here have an end of their own.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long a server may take to stop gracefully, and how long to stop at once. The latter is above the 5 s that the
/// postmaster gives its children before it kills them.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const KILL_DEADLINE: Duration = Duration::from_secs(7);

/// What kind of server is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its programs come from.
    pub sources: Sources,
    /// Whether a commit survives a crash of the machine (`fsync`), as it would in production. On by default: a measurement
    /// without it says nothing. Tests that never cut the power do without. A crash of the server alone is survived
    /// either way, except that without it the last moments before the crash may be missing (`synchronous_commit` off).
    pub durable: bool,
    /// `max_connections`.
    pub connections: u16,
    /// Further settings of `postgresql.conf`, name and value. They win over ours.
    pub settings: Vec<(String, String)>,
    /// How long the start may take, the making of the data directory included (1 to 2 s on an idle machine), a download
    /// not.
    pub start_deadline: Duration,
}

impl Options {
    /// A durable server for 100 connections that has a minute to start.
    pub fn new(sources: Sources) -> Self {
        Self {
            sources,
            durable: true,
            connections: 100,
            settings: Vec::new(),
            start_deadline: Duration::from_secs(60),
        }
    }
}

/// A running server, reachable on 127.0.0.1 for whoever has its URL, which holds a password made for it alone.
///
/// It ends when this value is dropped, and also when the process ends without dropping it, by `kill -9` for example; its
/// directory goes with it.
pub struct PrivatePostgres {
    programs: Programs,
    user: Option<ServerUser>,
    directory: PathBuf,
    port: u16,
    password: String,
    settings: Vec<(String, String)>,
    start_deadline: Duration,
    /// The postmaster; while the data directory is being made, initdb.
    running: Option<Child>,
    watchdog: Watchdog,
}

/// Why there is no private server, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No programs on this machine, and none that could be fetched. The text says all that was tried, and what helps.
    #[error("{0}")]
    NotFound(String),
    /// We are root, which PostgreSQL refuses to run as, and there is nobody else to run it as.
    #[error(
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as"
    )]
    NoServerUser,
    /// The server's directory could not be made, handed to its user, or removed.
    #[error("cannot {doing} {}", .path.display())]
    Directory {
        /// What was being done to it.
        doing: &'static str,
        /// The directory, or a file in it.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The shell that tidies up after us did not start.
    #[error("cannot start /bin/sh, which is to stop the server if this process dies")]
    Watchdog(#[source] io::Error),
    /// A program of PostgreSQL did not start.
    #[error("cannot run {}", .program.display())]
    Run {
        /// Which one.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed ({status}): {output}")]
    Initdb {
        /// How it ended.
        status: ExitStatus,
        /// The last that it printed.
        output: String,
    },
    /// The server ended instead of becoming ready.
    #[error("PostgreSQL ended while starting ({status}): {log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// The server did not become ready in time.
    #[error("{doing} took longer than {} s; the end of the log: {log}", .deadline.as_secs())]
    Deadline {
        /// What was being waited for.
        doing: &'static str,
        /// How long that was.
        deadline: Duration,
        /// The last lines of its log.
        log: String,
    },
    /// No free port on 127.0.0.1.
    #[error("cannot find a free port on 127.0.0.1")]
    Port(#[source] io::Error),
    /// A signal could not be sent to the server.
    #[error("cannot signal PostgreSQL")]
    Signal(#[source] Errno),
    /// The system could not say whether a process has ended.
    #[error("cannot wait for a process of PostgreSQL")]
    Wait(#[source] io::Error),
}

/// Finds or fetches PostgreSQL, and starts a private server with an empty database `postgres`.
///
/// # Errors
///
/// When there are no programs, or when they do not start within [`Options::start_deadline`]. Nothing is left behind then.
pub async fn start(options: &Options) -> Result<PrivatePostgres, EmbeddedError> {
    let user = ServerUser::needed()?;
    let programs = find_or_fetch(&options.sources, user.as_ref()).await?;
    let began = Instant::now();
    let mut server = PrivatePostgres::prepare(options, programs, user)?;
    server.initdb(began).await?;
    loop {
        match server.launch(began).await {
            // Somebody took it between our look and the server's.
            Err(error) if error.is_port_taken() && began.elapsed() < options.start_deadline => {
                server.port = free_port().map_err(EmbeddedError::Port)?;
            }
            Err(error) => return Err(error),
            Ok(()) => return Ok(server),
        }
    }
}

impl PrivatePostgres {
    /// The connection URL of a database of this server, as its superuser. `database` is a plain name, which needs no
    /// escaping in a URL. The URL stays the same across [`crash`](Self::crash) and [`restart`](Self::restart).
    pub fn url(&self, database: &str) -> String {
        let Self { port, password, .. } = self;
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/{database}")
    }

    /// The URL of the database that always exists, for creating others.
    pub fn admin_url(&self) -> String {
        self.url("postgres")
    }

    /// The server's version as its programs print it: `17.5`.
    pub fn version(&self) -> &str {
        &self.programs.version
    }

    /// Where its programs were found, or were put when they were fetched.
    pub fn programs(&self) -> &Path {
        &self.programs.directory
    }

    /// The directory with its data (`PGDATA`).
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The process id of the postmaster; `None` between [`crash`](Self::crash) and [`restart`](Self::restart).
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Child::id)
    }

    /// Stops the server gracefully ("fast": sessions are ended, everything is written) and removes its directory.
    ///
    /// # Errors
    ///
    /// When that takes longer than 30 s, or the directory cannot be removed. The server is killed then.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        self.stop_fast().await?;
        fs::remove_dir_all(&self.directory).map_err(|source| EmbeddedError::Directory {
            doing: "remove",
            path: self.directory.clone(),
            source,
        })
    }

    /// Kills the postmaster and every process of the server with `SIGKILL`, as the kernel does when memory runs out. The
    /// data directory stays as it is. Does nothing when the server is down already.
    ///
    /// # Errors
    ///
    /// When the system refuses, which it does not do to the owner of a process.
    pub async fn crash(&mut self) -> Result<(), EmbeddedError> {
        let Some(mut postmaster) = self.running.take() else {
            return Ok(());
        };
        let pid = pid_of(&postmaster);
        // Stopped, it starts no more of them, and collects none of those that die: their numbers stay theirs meanwhile.
        kill(pid, Signal::SIGSTOP).map_err(EmbeddedError::Signal)?;
        for child in children_of(pid) {
            let _ = kill(child, Signal::SIGKILL);
        }
        kill(pid, Signal::SIGKILL).map_err(EmbeddedError::Signal)?;
        // SIGKILL cannot be caught, so this is short.
        postmaster.wait().map_err(EmbeddedError::Wait)?;
        Ok(())
    }

    /// Starts the server again on the same port with the same data, after a [`crash`](Self::crash) or in the middle of
    /// its work (then it is stopped gracefully first).
    ///
    /// # Errors
    ///
    /// When it does not become ready within [`Options::start_deadline`].
    pub async fn restart(&mut self) -> Result<(), EmbeddedError> {
        self.stop_fast().await?;
        let began = Instant::now();
        loop {
            match self.launch(began).await {
                Err(error) if error.passes() && began.elapsed() < self.start_deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                result => return result,
            }
        }
    }

    /// Makes the directory and starts to watch over it. From here on, dropping the value removes all.
    fn prepare(
        options: &Options,
        programs: Programs,
        user: Option<ServerUser>,
    ) -> Result<Self, EmbeddedError> {
        let port = free_port().map_err(EmbeddedError::Port)?;
        let temp_dir = temp_dir(&options.sources, user.as_ref());
        let directory = tempfile::Builder::new()
            .prefix("sms-outbox-postgres-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&temp_dir)
            .map_err(|source| EmbeddedError::Directory {
                doing: "make a directory in",
                path: temp_dir,
                source,
            })?;
        let password = password().map_err(|source| EmbeddedError::Directory {
            doing: "read",
            path: PathBuf::from("/dev/urandom"),
            source,
        })?;
        let watchdog = Watchdog::start(directory.path()).map_err(EmbeddedError::Watchdog)?;
        let server = Self {
            programs,
            user,
            // The watchdog and our own destructor remove it, the latter only once the server has ended.
            directory: directory.keep(),
            port,
            password,
            settings: settings(options),
            start_deadline: options.start_deadline,
            running: None,
            watchdog,
        };
        server.hand_over(&server.directory)?;
        Ok(server)
    }

    /// Makes `path` the server user's, if that is somebody else than we are.
    fn hand_over(&self, path: &Path) -> Result<(), EmbeddedError> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        chown(path, Some(user.uid), Some(user.gid)).map_err(|source| EmbeddedError::Directory {
            doing: "hand to the server's user",
            path: path.to_path_buf(),
            source,
        })
    }

    async fn initdb(&mut self, began: Instant) -> Result<(), EmbeddedError> {
        let password_file = self.directory.join("password");
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&password_file)
            .and_then(|mut file| writeln!(file, "{}", self.password))
            .map_err(|source| EmbeddedError::Directory {
                doing: "write",
                path: password_file.clone(),
                source,
            })?;
        self.hand_over(&password_file)?;

        let mut command = self.command("initdb");
        command
            .arg("--pgdata")
            .arg(self.data_dir())
            .arg("--pwfile")
            .arg(&password_file)
            // A password and not "trust", although only this machine can reach the port: a superuser runs programs
            // (`COPY … TO PROGRAM`), so "trust" would let everybody on it act as the user who looks at a demo.
            .args(["--auth", "password", "--username", SUPERUSER])
            // "C" is the one locale that exists everywhere, and the fastest.
            .args(["--encoding", "UTF8", "--locale", "C"])
            .args(["--no-sync", "--no-instructions"]);
        let log_start = self.run(command)?;
        let status = loop {
            if let Some(status) = self.ended()? {
                break status;
            }
            if began.elapsed() > self.start_deadline {
                self.kill();
                return Err(self.too_slow("making the data directory", log_start));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        if !status.success() {
            let output = self.log(log_start);
            return Err(EmbeddedError::Initdb { status, output });
        }
        // It has served its purpose, and the directory's listing may be shown to people.
        let _ = fs::remove_file(password_file);
        Ok(())
    }

    /// Starts `postgres` and waits until it says that it is ready.
    async fn launch(&mut self, began: Instant) -> Result<(), EmbeddedError> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data_dir());
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.arg("-p").arg(self.port.to_string());
        let log_start = self.run(command)?;
        loop {
            if let Some(status) = self.ended()? {
                let log = self.log(log_start);
                return Err(EmbeddedError::Ended { status, log });
            }
            if is_ready(&self.data_dir().join("postmaster.pid"), self.pid()) {
                return Ok(());
            }
            if began.elapsed() > self.start_deadline {
                self.kill();
                return Err(self.too_slow("the start of PostgreSQL", log_start));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn stop_fast(&mut self) -> Result<(), EmbeddedError> {
        let Some(postmaster) = &self.running else {
            return Ok(());
        };
        let began = Instant::now();
        kill(pid_of(postmaster), Signal::SIGINT).map_err(EmbeddedError::Signal)?;
        while self.ended()?.is_none() {
            if began.elapsed() > STOP_DEADLINE {
                self.kill();
                return Err(EmbeddedError::Deadline {
                    doing: "stopping PostgreSQL",
                    deadline: STOP_DEADLINE,
                    log: self.log(0),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// How the running program ended; `None` while it runs.
    fn ended(&mut self) -> Result<Option<ExitStatus>, EmbeddedError> {
        let Some(running) = &mut self.running else {
            return Ok(None);
        };
        let status = running.try_wait().map_err(EmbeddedError::Wait)?;
        if status.is_some() {
            self.running = None;
        }
        Ok(status)
    }

    /// Ends the running program, the postmaster's children first if it manages that in time. Blocks until it has ended.
    fn kill(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        let _ = kill(pid_of(&running), Signal::SIGQUIT);
        let began = Instant::now();
        while matches!(running.try_wait(), Ok(None)) {
            if began.elapsed() > KILL_DEADLINE {
                let _ = running.kill();
                let _ = running.wait();
                return;
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// One of PostgreSQL's programs, to run as the server's user.
    fn command(&self, program: &str) -> Command {
        as_user(&self.programs.directory.join(program), self.user.as_ref())
    }

    /// Starts a program in the watchdog's process group, its output going to the log. Returns how long the log was.
    fn run(&mut self, mut command: Command) -> Result<u64, EmbeddedError> {
        let path = self.log_path();
        let log = || -> io::Result<(File, File, u64)> {
            let log = OpenOptions::new().append(true).create(true).open(&path)?;
            let length = log.metadata()?.len();
            Ok((log.try_clone()?, log, length))
        };
        let (stdout, stderr, length) = log().map_err(|source| EmbeddedError::Directory {
            doing: "write",
            path,
            source,
        })?;
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(self.watchdog.group())
            .spawn()
            .map_err(|source| EmbeddedError::Run {
                program: PathBuf::from(command.get_program()),
                source,
            })?;
        self.running = Some(child);
        Ok(length)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The last lines that the programs wrote since the log was `start` bytes long.
    fn log(&self, start: u64) -> String {
        const LINES: usize = 15;
        let mut bytes = Vec::new();
        let read = File::open(self.log_path()).and_then(|mut log| {
            log.seek(SeekFrom::Start(start))?;
            log.read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            return format!("(the log cannot be read: {error})");
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn too_slow(&self, doing: &'static str, log_start: u64) -> EmbeddedError {
        EmbeddedError::Deadline {
            doing,
            deadline: self.start_deadline,
            log: self.log(log_start),
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.kill();
        // A child of a killed postmaster may write a last file while the directory is being removed.
        for _ in 0..20 {
            match fs::remove_dir_all(&self.directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => thread::sleep(LOOK_AGAIN),
                Ok(()) | Err(_) => return self.watchdog.dismiss(),
            }
        }
        self.watchdog.let_go();
    }
}

impl fmt::Debug for PrivatePostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivatePostgres")
            .field("version", &self.programs.version)
            .field("directory", &self.directory)
            .field("port", &self.port)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

impl EmbeddedError {
    fn is_port_taken(&self) -> bool {
        matches!(self, Self::Ended { log, .. } if log.contains("Address already in use") || log.contains("could not bind"))
    }

    /// Whether the same start may succeed in a moment: the port is held by a passing connection, or a process of the
    /// crashed server has not noticed yet that it is over.
    fn passes(&self) -> bool {
        self.is_port_taken()
            || matches!(self, Self::Ended { log, .. } if log.contains("is still in use") || log.contains("already exists"))
    }
}

/// Programs of this machine, else fetched ones.
async fn find_or_fetch(
    sources: &Sources,
    user: Option<&ServerUser>,
) -> Result<Programs, EmbeddedError> {
    let mut tried = match Programs::find(sources, user) {
        Ok(programs) => return Ok(programs),
        Err(unusable) => unusable,
    };
    #[cfg(feature = "postgres-download")]
    match download::install(sources, user).await {
        Ok(directory) => match Programs::probe(&directory, user) {
            Ok(Some(programs)) => return Ok(programs),
            Ok(None) => tried.push(format!(
                "{}: fetched, but without programs",
                directory.display()
            )),
            Err(reason) => tried.push(format!("fetched, but {reason}")),
        },
        Err(error) => tried.push(chain(&error)),
    }
    #[cfg(not(feature = "postgres-download"))]
    tried.push("fetching it was left out of this build (cargo feature `postgres-download`)".into());

    let places = Sources::describe();
    let tried: String = tried.iter().map(|line| format!("\n  - {line}")).collect();
    Err(EmbeddedError::NotFound(format!(
        "no PostgreSQL {OLDEST_MAJOR} or newer was found or could be fetched.\n\
         Looked for `initdb` and `postgres` in: {places}.\n\
         What was in the way:{tried}\n\
         What helps: install the server programs (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install \
         postgresql-server; macOS: brew install postgresql), or set SMS_OUTBOX_POSTGRES_RELEASES to a server that has the \
         release archives."
    )))
}

#[cfg(feature = "postgres-download")]
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Where the server's directory goes: the temporary directory, unless the server's user could not reach it there.
fn temp_dir(sources: &Sources, user: Option<&ServerUser>) -> PathBuf {
    if user.is_some() && !everybody_may_enter(&sources.temp_dir) {
        return PathBuf::from("/tmp");
    }
    sources.temp_dir.clone()
}

/// The settings of a server, later ones winning over earlier ones.
fn settings(options: &Options) -> Vec<(String, String)> {
    let connections = options.connections.to_string();
    let mut settings = vec![
        ("listen_addresses", "127.0.0.1"),
        // A socket's path must be shorter than some temporary directories are.
        ("unix_socket_directories", ""),
        ("max_connections", connections.as_str()),
        // What the log is for: why the server does not start. A failed statement would be logged with its values, which
        // are somebody's number and text.
        ("log_min_messages", "log"),
        ("log_min_error_statement", "panic"),
        ("log_checkpoints", "off"),
        ("logging_collector", "off"),
    ];
    if !options.durable {
        settings.extend([
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("synchronous_commit", "off"),
            ("wal_level", "minimal"),
            ("max_wal_senders", "0"),
        ]);
    }
    let ours = settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    ours.chain(options.settings.iter().cloned()).collect()
}

/// A port on which nobody listens now.
///
/// From below the range that systems take for outgoing connections (from 32768 on Linux, 49152 elsewhere): there, a
/// passing connection could sit on the port just when the server restarts.
fn free_port() -> io::Result<u16> {
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    for _ in 0..20 {
        let mut bytes = [0; 2];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let port = 16_384 + u16::from_ne_bytes(bytes) % 16_384;
        if is_free(port).is_ok() {
            return Ok(port);
        }
    }
    is_free(0)?.local_addr().map(|address| address.port())
}

/// 128 random bits in hexadecimal, which needs no escaping in a URL.
fn password() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether `postmaster.pid` was written by the process `pid` (a crashed server leaves one behind) and says "ready".
fn is_ready(path: &Path, pid: Option<u32>) -> bool {
    let Ok(text) = fs::read_to_string(path) else {
        return false;
    };
    // Line 1 is the process id, line 8 the state (src/include/utils/pidfile.h).
    let mut lines = text.lines().map(str::trim);
    let writer = lines.next().and_then(|line| line.parse().ok());
    writer == pid && lines.nth(6) == Some("ready")
}

fn pid_of(child: &Child) -> Pid {
    // Process ids are positive `pid_t`s, which `std` hands out as `u32`.
    Pid::from_raw(child.id().cast_signed())
}

/// The children of a process, as far as `/proc` tells. Elsewhere they notice themselves that the postmaster is gone.
fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let child = |name: &str| {
        let pid: i32 = name.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // "pid (name) state parent …", and the name may hold anything, brackets too.
        let (_, after_name) = stat.rsplit_once(") ")?;
        let of: i32 = after_name.split(' ').nth(1)?.parse().ok()?;
        (of == parent.as_raw()).then(|| Pid::from_raw(pid))
    };
    processes
        .flatten()
        .filter_map(|entry| child(&entry.file_name().to_string_lossy()))
        .collect()
}
