//! A real PgBouncer in front of the tests' PostgreSQL.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use reqwest::Url;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::postgres::TestDatabase;
use super::worker::DEADLINE;

/// How many server processes all clients share in transaction mode: far fewer than ask for one at a time.
const SERVERS: u32 = 3;

/// The name of its socket; nothing listens on a port of that number.
const PORT: u16 = 6432;

/// What PgBouncer does with the settings that a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// It refuses the connection, as it does unless it is told otherwise.
    Refused,
    /// It drops them: `ignore_startup_parameters` names them.
    Ignored,
}

/// For how long a client keeps a server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Transaction,
    Session,
}

/// A running PgBouncer. It ends with this value, and with the process.
pub struct PgBouncer {
    /// A shell that ends it when the pipe to the shell closes, which it does however we end.
    keeper: Child,
    directory: TempDir,
}

impl PgBouncer {
    /// One in front of the server of `database`; `None` where the program is missing, which is said aloud. In a CI run it must
    /// not be missing.
    pub async fn start(database: &TestDatabase, settings: Settings) -> Option<Self> {
        Self::start_in(Mode::Transaction, database, settings).await
    }

    pub async fn start_in(mode: Mode, database: &TestDatabase, settings: Settings) -> Option<Self> {
        let Some(program) = program() else {
            let said = "there is no program pgbouncer on this machine (Debian and Ubuntu: apt-get install pgbouncer)";
            assert!(std::env::var_os("CI").is_none(), "{said}");
            // Not through eprintln!, which the test harness keeps to itself unless the test fails.
            writeln!(
                std::io::stderr(),
                "\nLEFT OUT, nothing was tested: {said}\n"
            )
            .ok();
            return None;
        };
        let started = Self::launch(&program, mode, &database.url(), settings);
        started.answers(&database.url()).await;
        Some(started)
    }

    fn launch(program: &Path, mode: Mode, server: &str, settings: Settings) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let place = directory.path().display();
        let server = Url::parse(server).expect("the URL of a test's database");
        let quoted = |text: &str| format!("'{}'", percent_decoded(text).replace('\'', "''"));
        let password = server.password().map_or_else(String::new, |password| {
            format!("password={}", quoted(password))
        });
        let ignored = match settings {
            Settings::Refused => "",
            Settings::Ignored => "ignore_startup_parameters = extra_float_digits, options",
        };
        let (mode, servers) = match mode {
            Mode::Transaction => ("transaction", SERVERS),
            // There is no sharing: one for every connection.
            Mode::Session => ("session", 100),
        };
        let configuration = format!(
            "[databases]\n\
             * = host={} port={} user={} {password}\n\
             [pgbouncer]\n\
             pool_mode = {mode}\n\
             default_pool_size = {servers}\n\
             max_client_conn = 200\n\
             auth_type = any\n\
             unix_socket_dir = {place}\n\
             listen_port = {PORT}\n\
             logfile = {place}/log\n\
             {ignored}\n",
            server.host_str().expect("a host"),
            server.port().unwrap_or(5432),
            quoted(server.username()),
        );
        let file = directory.path().join("pgbouncer.ini");
        std::fs::write(&file, configuration).expect("our own directory");

        let mut shell = Command::new("/bin/sh");
        shell
            .args([
                "-c",
                "trap '' HUP INT TERM; \"$@\" & read -r _; kill -9 $!; wait",
                "sh",
            ])
            .arg(program)
            .arg("-q")
            .arg(&file)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        // PgBouncer does not run as root either.
        if geteuid().is_root() {
            let user = ["postgres", "nobody"]
                .into_iter()
                .find_map(|name| User::from_name(name).ok().flatten())
                .expect("a user to run PgBouncer as");
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            shell.uid(uid).gid(gid);
            for path in [directory.path(), &file] {
                chown(path, Some(uid), Some(gid)).expect("we are root");
            }
        }
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))
            .expect("our own directory");
        let keeper = shell.spawn().expect("/bin/sh");
        Self { keeper, directory }
    }

    /// Waits until it takes a connection through to the server.
    async fn answers(&self, server: &str) {
        let url = self.url_for(server);
        let began = Instant::now();
        loop {
            let options: sqlx::postgres::PgConnectOptions = url.parse().expect("we made this URL");
            let error = match PgConnection::connect_with(&options.extra_float_digits(None)).await {
                Ok(connection) => return connection.close().await.expect("it answers"),
                Err(error) => error,
            };
            assert!(
                began.elapsed() < DEADLINE,
                "PgBouncer takes no connection: {error}\n{}",
                std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The way to a database through it.
    pub fn url(&self, database: &TestDatabase) -> String {
        self.url_for(&database.url())
    }

    fn url_for(&self, server: &str) -> String {
        let name = Url::parse(server).expect("the URL of a test's database");
        let place = self.directory.path().display().to_string();
        format!(
            "postgres://{}@{}:{PORT}{}",
            name.username(),
            place.replace('/', "%2F"),
            name.path()
        )
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(format!(".s.PGSQL.{PORT}"))
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// On the `PATH`, or where the packages put it, which is not on everybody's.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(
            [
                "/usr/sbin",
                "/usr/local/sbin",
                "/usr/local/bin",
                "/opt/homebrew/bin",
            ]
            .map(PathBuf::from),
        )
        .map(|directory| directory.join("pgbouncer"))
        .find(|program| program.is_file())
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(hex.unwrap_or(first));
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).expect("a URL of UTF-8")
}
