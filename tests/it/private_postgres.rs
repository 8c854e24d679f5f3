//! The private server of `demo`, `bench` and these tests.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};
use sms_outbox::embedded::{self, EmbeddedError, Options, PrivatePostgres, Sources};
use sqlx::{Connection, PgConnection};

/// Long enough for a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(60);

async fn start() -> PrivatePostgres {
    let mut options = Options::new(Sources::from_env());
    options.durable = false;
    embedded::start(&options).await.expect("a private server")
}

async fn connect(server: &PrivatePostgres) -> PgConnection {
    PgConnection::connect(&server.admin_url())
        .await
        .expect("a server that said it is ready")
}

async fn setting(connection: &mut PgConnection, name: &str) -> String {
    sqlx::query_scalar("SELECT current_setting($1)")
        .bind(name)
        .fetch_one(connection)
        .await
        .expect("a setting that exists")
}

fn is_running(pid: u32) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), None) != Err(Errno::ESRCH)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// The directory that holds everything of a server.
fn home(server: &PrivatePostgres) -> PathBuf {
    let data = server.data_dir();
    data.parent().expect("a directory in our own").to_path_buf()
}

#[tokio::test]
async fn a_private_server_answers_on_its_url() {
    let server = start().await;
    let mut connection = connect(&server).await;
    let version = setting(&mut connection, "server_version").await;
    assert!(version.starts_with(server.version()), "{version}");
    assert_eq!(setting(&mut connection, "server_encoding").await, "UTF8");
    let data = setting(&mut connection, "data_directory").await;
    assert_eq!(Path::new(&data), server.data_dir());
}

#[tokio::test]
async fn a_private_server_is_closed_to_whoever_does_not_know_its_password() {
    let server = start().await;
    let mode = std::fs::metadata(home(&server)).expect("it exists").mode();
    assert_eq!(mode & 0o777, 0o700);
    let url = server.admin_url();
    let (identity, address) = url.split_once('@').expect("a URL with a password");
    let (user, password) = identity.rsplit_once(':').expect("a password");
    for wrong in [format!("{user}@{address}"), format!("{user}:x@{address}")] {
        PgConnection::connect(&wrong)
            .await
            .expect_err("a wrong password");
    }
    assert!(!format!("{server:?}").contains(password));
}

#[tokio::test]
async fn commits_are_flushed_to_disk_unless_speed_was_asked_for() {
    for (durable, expected) in [(true, "on"), (false, "off")] {
        let mut options = Options::new(Sources::from_env());
        options.durable = durable;
        options.connections = 23;
        options.settings = vec![("work_mem".into(), "5MB".into())];
        let server = embedded::start(&options).await.expect("a private server");
        let mut connection = connect(&server).await;
        for name in ["fsync", "synchronous_commit", "full_page_writes"] {
            assert_eq!(setting(&mut connection, name).await, expected, "{name}");
        }
        assert_eq!(setting(&mut connection, "max_connections").await, "23");
        assert_eq!(setting(&mut connection, "work_mem").await, "5MB");
    }
}

#[tokio::test]
async fn stopping_or_dropping_a_server_leaves_nothing_behind() {
    for stop in [true, false] {
        let server = start().await;
        let (pid, home) = (server.pid().expect("it runs"), home(&server));
        let _in_use = connect(&server).await;
        assert!(is_running(pid) && home.exists());
        if stop {
            server.stop().await.expect("a clean end");
        } else {
            drop(server);
        }
        assert!(!is_running(pid), "the postmaster runs on");
        assert!(!home.exists(), "{} is left", home.display());
    }
}

#[tokio::test]
async fn a_panic_leaves_nothing_behind() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let panicked = tokio::spawn(async move {
        let server = start().await;
        let _ = tell.send((server.pid().expect("it runs"), home(&server)));
        panic!("as intended");
    });
    let (pid, home) = told.await.expect("a server");
    panicked.await.expect_err("the panic");
    assert!(!is_running(pid));
    assert!(!home.exists());
}

/// Runs this very test again in a process of its own, which holds a server until it is killed.
#[tokio::test]
async fn a_killed_owner_leaves_nothing_behind() {
    const OWNER: &str = "SMS_OUTBOX_TEST_OWNS_A_SERVER";
    if std::env::var_os(OWNER).is_some() {
        let server = start().await;
        let pid = server.pid().expect("it runs");
        println!("\nserver {pid} {}", home(&server).display());
        return std::future::pending().await;
    }
    let mut owner = Command::new(std::env::current_exe().expect("we run"))
        .args(["--exact", "--nocapture"])
        .arg("private_postgres::a_killed_owner_leaves_nothing_behind")
        .env(OWNER, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program again");
    let output = BufReader::new(owner.stdout.take().expect("a pipe"));
    let line = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("server ").map(str::to_owned))
        .expect("the owner to start a server");
    let (pid, home) = line.split_once(' ').expect("two words");
    let (pid, home) = (pid.parse().expect("a number"), Path::new(home));
    assert!(is_running(pid) && home.exists());

    owner.kill().expect("SIGKILL");
    owner.wait().expect("its end");
    wait_until("the server's end", || !is_running(pid));
    wait_until("its directory's end", || !home.exists());
}

#[tokio::test]
async fn a_crashed_server_comes_back_with_what_was_committed() {
    let mut options = Options::new(Sources::from_env());
    options.durable = true;
    let mut server = embedded::start(&options).await.expect("a private server");
    let url = server.admin_url();
    let mut connection = connect(&server).await;
    sqlx::raw_sql("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
        .execute(&mut connection)
        .await
        .expect("a committed row");
    for _ in 0..3 {
        let pid = server.pid().expect("it runs");
        server.crash().await.expect("a crash");
        assert!(!is_running(pid));
        assert_eq!(server.pid(), None);
        sqlx::query("SELECT 1")
            .execute(&mut connection)
            .await
            .expect_err("the connection is gone");

        server.restart().await.expect("a recovery");
        assert_eq!(server.admin_url(), url);
        connection = connect(&server).await;
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM kept")
            .fetch_one(&mut connection)
            .await
            .expect("the table");
        assert_eq!(kept, 1);
    }
}

#[tokio::test]
async fn a_server_can_be_restarted_in_the_middle_of_its_work() {
    let mut server = start().await;
    let before = server.pid().expect("it runs");
    let _in_use = connect(&server).await;
    server.restart().await.expect("another start");
    assert_ne!(server.pid(), Some(before));
    connect(&server).await;
}

#[tokio::test]
async fn root_runs_the_server_as_another_user() {
    let server = start().await;
    let pid = server.pid().expect("it runs");
    let owner = std::fs::metadata(server.data_dir())
        .expect("it exists")
        .uid();
    assert_ne!(owner, 0);
    if !geteuid().is_root() {
        assert_eq!(owner, geteuid().as_raw());
    }
    if let Ok(process) = std::fs::metadata(format!("/proc/{pid}")) {
        assert_eq!(process.uid(), owner);
    }
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why_and_leaves_nothing_behind() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(
        temp.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("our directory");
    let mut options = Options::new(Sources::from_env());
    options.sources.temp_dir = temp.path().to_path_buf();
    options.settings = vec![("no_such_setting".into(), "1".into())];
    let error = embedded::start(&options)
        .await
        .expect_err("a wrong setting");
    assert!(matches!(error, EmbeddedError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");

    options.settings.clear();
    options.start_deadline = Duration::ZERO;
    let error = embedded::start(&options).await.expect_err("no time");
    assert!(matches!(error, EmbeddedError::Deadline { .. }), "{error}");
    let mut left = std::fs::read_dir(temp.path()).expect("our directory");
    assert!(left.next().is_none(), "{left:?}");
}

/// Fetching the programs, from a stand-in of the release server on loopback.
#[cfg(feature = "postgres-download")]
mod fetching {
    use std::collections::HashMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::{Path as UrlPath, State};
    use axum::http::StatusCode;
    use sha2::{Digest, Sha256};

    use super::*;

    /// What the server has: the end of a file's name, and its bytes. And what it was asked for.
    #[derive(Clone, Default)]
    struct Releases {
        archive: Arc<Vec<u8>>,
        checksum: Option<String>,
        asked: Arc<Mutex<HashMap<String, u32>>>,
    }

    impl Releases {
        /// An archive with the programs of this machine, laid out as the official ones are, and its true checksum.
        fn new(home: &Path) -> Self {
            let programs = programs();
            let bin = home.join("postgresql-of-the-tests/bin");
            fs::create_dir_all(&bin).expect("our directory");
            for program in ["postgres", "initdb"] {
                fs::copy(programs.join(program), bin.join(program)).expect("a readable program");
            }
            // Moved programs look for these beside them.
            for name in ["lib", "share"] {
                let original = programs.parent().expect("not the root").join(name);
                if original.is_dir() {
                    std::os::unix::fs::symlink(original, bin.with_file_name(name))
                        .expect("our directory");
                }
            }
            let tar = Command::new("tar")
                .args(["-czf", "archive.tar.gz", "postgresql-of-the-tests"])
                .current_dir(home)
                .status()
                .expect("tar");
            assert!(tar.success());
            let archive = fs::read(home.join("archive.tar.gz")).expect("what tar wrote");
            let hash = Sha256::digest(&archive);
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            Self {
                archive: Arc::new(archive),
                checksum: Some(format!("{hash}  postgresql.tar.gz\n")),
                asked: Arc::default(),
            }
        }

        /// Serves it, until the runtime ends, and gives the address.
        async fn serve(&self) -> String {
            let routes = Router::new()
                .route("/mirror/{version}/{file}", axum::routing::get(answer))
                .with_state(self.clone());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a free port");
            let address = listener.local_addr().expect("it is bound");
            tokio::spawn(async { axum::serve(listener, routes).await });
            format!("http://{address}/mirror/")
        }

        fn asked_for_archives(&self) -> u32 {
            let asked = self.asked.lock().expect("nobody panics holding it");
            let archives = asked.iter().filter(|(file, _)| file.ends_with(".tar.gz"));
            archives.map(|(_, times)| times).sum()
        }
    }

    async fn answer(
        State(releases): State<Releases>,
        UrlPath((version, file)): UrlPath<(String, String)>,
    ) -> Result<Vec<u8>, StatusCode> {
        let mut asked = releases.asked.lock().expect("nobody panics holding it");
        *asked.entry(file.clone()).or_default() += 1;
        if !file.starts_with(&format!("postgresql-{version}-")) {
            return Err(StatusCode::NOT_FOUND);
        }
        if file.ends_with(".tar.gz") {
            return Ok(releases.archive.to_vec());
        }
        let checksum = releases
            .checksum
            .filter(|_| file.ends_with(".tar.gz.sha256"));
        checksum.map(Into::into).ok_or(StatusCode::NOT_FOUND)
    }

    /// Where programs are on this machine.
    fn programs() -> PathBuf {
        let sources = Sources::from_env();
        let mut directories = sources.path.iter().chain(&sources.installed);
        let found = directories
            .find_map(|directory| fs::canonicalize(directory.join("postgres")).ok())
            .expect("PostgreSQL on this machine, to make an archive of");
        found.parent().expect("a file's directory").to_path_buf()
    }

    /// A machine without PostgreSQL that may keep downloads below `home`.
    fn nothing_installed(home: &Path, releases: Option<String>) -> Options {
        fs::set_permissions(home, fs::Permissions::from_mode(0o755)).expect("our directory");
        let mut options = Options::new(Sources::from_env());
        options.durable = false;
        options.sources.path.clear();
        options.sources.installed.clear();
        options.sources.caches = vec![home.join("sms-outbox/postgresql")];
        options.sources.releases = releases;
        options
    }

    #[tokio::test]
    async fn a_machine_without_postgres_fetches_it_once_and_starts_it() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let releases = Releases::new(home.path());
        let options = nothing_installed(home.path(), Some(releases.serve().await));
        // Two at once: one fetches, the other waits for it.
        let servers = tokio::join!(embedded::start(&options), embedded::start(&options));
        for server in [servers.0, servers.1] {
            let server = server.expect("a server from fetched programs");
            assert!(server.programs().starts_with(home.path()));
            connect(&server).await;
        }
        assert_eq!(releases.asked_for_archives(), 1);

        // And from then on without the release server.
        let options = nothing_installed(home.path(), Some("http://127.0.0.1:1".into()));
        let server = embedded::start(&options).await.expect("kept programs");
        connect(&server).await;
        let kept = fs::read_dir(home.path().join("sms-outbox/postgresql")).expect("the cache");
        let mut kept: Vec<_> = kept.flatten().map(|entry| entry.file_name()).collect();
        kept.sort();
        assert_eq!(kept, ["18.6.0", "lock"]);
    }

    /// What the error says when the server has `releases`. Nothing may have been installed then.
    async fn refusal(releases: Releases) -> String {
        let home = tempfile::tempdir().expect("a temporary directory");
        let options = nothing_installed(home.path(), Some(releases.serve().await));
        let error = embedded::start(&options).await.expect_err("a refusal");
        assert!(matches!(error, EmbeddedError::NotFound(_)), "{error:?}");
        let cache = home.path().join("sms-outbox/postgresql");
        let left = fs::read_dir(cache).expect("the cache").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["lock"]);
        error.to_string()
    }

    #[tokio::test]
    async fn an_archive_that_is_not_the_published_one_is_refused() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let genuine = Releases::new(home.path());

        let mut tampered = genuine.clone();
        tampered.checksum = Some(format!("{}  postgresql.tar.gz", "0".repeat(64)));
        let said = refusal(tampered).await;
        assert!(said.contains("has the SHA-256 checksum"), "{said}");

        let unpublished = Releases {
            checksum: None,
            asked: Arc::default(),
            ..genuine.clone()
        };
        let said = refusal(unpublished.clone()).await;
        assert!(said.contains("404"), "{said}");
        assert_eq!(unpublished.asked_for_archives(), 0);

        let unreadable = Releases {
            checksum: Some("<html>".into()),
            ..genuine
        };
        let said = refusal(unreadable).await;
        assert!(said.contains("holds no SHA-256 checksum"), "{said}");
    }

    #[tokio::test]
    async fn a_broken_archive_is_refused() {
        let archive = b"no archive".to_vec();
        let hash = Sha256::digest(&archive);
        let broken = Releases {
            checksum: Some(hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            archive: Arc::new(archive),
            asked: Arc::default(),
        };
        let said = refusal(broken).await;
        assert!(said.contains("cannot unpack"), "{said}");
    }

    #[tokio::test]
    async fn without_any_source_the_error_names_them_all_and_says_what_helps() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut options = nothing_installed(home.path(), Some("http://127.0.0.1:1".into()));
        let error = embedded::start(&options)
            .await
            .expect_err("nowhere to find it");
        let said = error.to_string();
        for part in [
            "PATH, /usr/lib/postgresql/*/bin",
            "cannot fetch http://127.0.0.1:1/",
            "apt-get install postgresql",
            "SMS_OUTBOX_POSTGRES_RELEASES",
        ] {
            assert!(said.contains(part), "{part} is missing in: {said}");
        }

        options.sources.caches.clear();
        let error = embedded::start(&options)
            .await
            .expect_err("nowhere to keep it");
        assert!(error.to_string().contains("nowhere to keep"), "{error}");
    }

    #[tokio::test]
    async fn root_keeps_downloads_where_the_server_can_read_them() {
        if !geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().expect("a temporary directory");
        let releases = Releases::new(home.path());
        let mut options = nothing_installed(home.path(), Some(releases.serve().await));
        let closed = home.path().join("closed");
        fs::create_dir(&closed).expect("our directory");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("our directory");
        options
            .sources
            .caches
            .insert(0, closed.join("sms-outbox/postgresql"));
        let server = embedded::start(&options).await.expect("the second cache");
        assert!(!server.programs().starts_with(&closed));
        let mut left = fs::read_dir(closed).expect("our directory");
        assert!(left.next().is_none());
    }
}
