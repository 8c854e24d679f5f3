//! Where the programs `initdb` and `postgres` are, and which of them to use.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{User, geteuid};

use super::EmbeddedError;

/// The oldest major version that the schema is written for.
pub(super) const OLDEST_MAJOR: u32 = 14;

/// Where installations live when they are not on the `PATH`: a directory, how its entries begin, where their programs are.
const PLACES: [(&str, &str, &str); 10] = [
    ("/usr/lib/postgresql", "", "bin"), // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),          // Red Hat, packages of the PostgreSQL project
    ("/usr/lib", "postgresql", "bin"),  // openSUSE
    ("/usr/libexec", "postgresql", ""), // Alpine
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"), // Homebrew on Intel
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/Library/PostgreSQL", "", "bin"), // the installer of EnterpriseDB
    ("/opt/local/lib", "postgresql", "bin"), // MacPorts
];

/// Where to look for PostgreSQL's server programs, and where to keep them when they have to be fetched.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The directories of `PATH`. The first that holds a usable version is taken, whatever lies elsewhere: it is what the
    /// user chose.
    pub path: Vec<PathBuf>,
    /// Other directories with programs. Among these the newest version is taken.
    pub installed: Vec<PathBuf>,
    /// Where a download may be kept. The first that can be written, and read by the user the server runs as, is taken.
    pub caches: Vec<PathBuf>,
    /// Where a server's own directory is made.
    pub temp_dir: PathBuf,
    /// What to fetch from, in place of the official release server: a URL below which
    /// `VERSION/postgresql-VERSION-TARGET.tar.gz` and that name with `.sha256` appended are found.
    pub releases: Option<String>,
}

impl Sources {
    /// The usual places of this machine: `PATH`, the directories of the known packagings, and for downloads the user's
    /// cache directory (`XDG_CACHE_HOME`, else `~/.cache` or `~/Library/Caches`), else the temporary directory.
    ///
    /// `SMS_OUTBOX_POSTGRES_RELEASES` names another server to download from.
    pub fn from_env() -> Self {
        let absolute = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let temp_dir = std::env::temp_dir();
        let below_home = if cfg!(target_os = "macos") {
            "Library/Caches"
        } else {
            ".cache"
        };
        let mut caches: Vec<PathBuf> = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(below_home)))
            .into_iter()
            .collect();
        if geteuid().is_root() {
            // The server then runs as somebody else, who as a rule cannot look into root's home.
            caches.push(PathBuf::from("/var/cache"));
        }
        let mut caches: Vec<PathBuf> = caches
            .into_iter()
            .map(|cache| cache.join("sms-outbox/postgresql"))
            .collect();
        caches.push(temp_dir.join(format!("sms-outbox-{}/postgresql", geteuid())));

        Self {
            path: std::env::var_os("PATH")
                .map(|path| std::env::split_paths(&path).collect())
                .unwrap_or_default(),
            installed: PLACES
                .iter()
                .flat_map(|(parent, prefix, below)| matching(Path::new(parent), prefix, below))
                .collect(),
            caches,
            temp_dir,
            releases: std::env::var("SMS_OUTBOX_POSTGRES_RELEASES")
                .ok()
                .filter(|url| !url.is_empty()),
        }
    }

    /// What was looked through, for whoever is told that nothing was found.
    pub(super) fn describe() -> String {
        let places: Vec<String> = PLACES
            .iter()
            .map(|(parent, prefix, below)| {
                Path::new(&format!("{parent}/{prefix}*"))
                    .join(below)
                    .display()
                    .to_string()
            })
            .collect();
        format!("PATH, {}", places.join(", "))
    }
}

/// `parent/prefix*/below`, as far as it exists.
fn matching(parent: &Path, prefix: &str, below: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(below))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// A directory with both programs, which were seen to run.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) directory: PathBuf,
    /// As the program says it: `17.5`, `15.18`.
    pub(super) version: String,
    major: u32,
}

impl Programs {
    /// The programs in `directory`, `None` when there are none, or why they cannot be used.
    ///
    /// `user` is whom the server will run as: the answer comes from running `postgres --version` as that user, which
    /// tells the version and whether the user may run it at all.
    pub(super) fn probe(
        directory: &Path,
        user: Option<&ServerUser>,
    ) -> Result<Option<Self>, String> {
        // Package managers link single programs onto the PATH; their libraries and their `initdb` lie beside the original.
        let Ok(postgres) = fs::canonicalize(directory.join("postgres")) else {
            return Ok(None);
        };
        let directory = match postgres.parent() {
            Some(directory) if directory.join("initdb").is_file() => directory,
            Some(_) | None => return Ok(None),
        };
        let output = as_user(&postgres, user)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{}: {error}", postgres.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let Some((version, major)) = version(&said) else {
            let failure = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}", postgres.display(), failure.trim()));
        };
        if major < OLDEST_MAJOR {
            return Err(format!("{}: version {version}", directory.display()));
        }
        Ok(Some(Self {
            directory: directory.to_path_buf(),
            version,
            major,
        }))
    }

    /// The programs to use, or what speaks against each candidate (an empty list: there was none).
    pub(super) fn find(sources: &Sources, user: Option<&ServerUser>) -> Result<Self, Vec<String>> {
        let mut unusable = Vec::new();
        let mut usable = |directory: &PathBuf| {
            Self::probe(directory, user).unwrap_or_else(|reason| {
                unusable.push(reason);
                None
            })
        };
        if let Some(programs) = sources.path.iter().find_map(&mut usable) {
            return Ok(programs);
        }
        let newest = sources
            .installed
            .iter()
            .filter_map(&mut usable)
            .max_by_key(|programs| programs.major);
        newest.ok_or(unusable)
    }
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`: the version and its major part.
fn version(said: &str) -> Option<(String, u32)> {
    let version = said
        .strip_prefix("postgres (PostgreSQL) ")?
        .split_whitespace()
        .next()?;
    let digits = version
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    Some((version.to_owned(), digits.parse().ok()?))
}

/// Whom the server runs as when we are root: PostgreSQL refuses to run as root.
#[derive(Debug, Clone)]
pub(super) struct ServerUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl ServerUser {
    /// `None` when we are not root: then the server runs as we do.
    pub(super) fn needed() -> Result<Option<Self>, EmbeddedError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| {
                Some(Self {
                    uid: user.uid.as_raw(),
                    gid: user.gid.as_raw(),
                })
            })
            .ok_or(EmbeddedError::NoServerUser)
    }
}

/// A command that runs as the server's user, knows nothing of our environment but what a program needs to start, and
/// stands where everybody may stand.
///
/// The environment would otherwise carry the provider's credentials into the server, and `PGDATA`, `PGPORT` and their
/// kin into its configuration.
pub(super) fn as_user(program: &Path, user: Option<&ServerUser>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").env("LC_ALL", "C");
    for (name, value) in std::env::vars_os() {
        let needed = ["PATH", "TZ", "LD_LIBRARY_PATH"];
        if needed.iter().any(|needed| name == OsStr::new(needed)) {
            command.env(name, value);
        }
    }
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Whether a user with no rights of their own may enter `path`, as far as it exists.
pub(super) fn everybody_may_enter(path: &Path) -> bool {
    path.ancestors()
        .filter_map(|ancestor| fs::metadata(ancestor).ok())
        .all(|metadata| metadata.permissions().mode() & 0o001 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_packagings_print_them() {
        let check = |said: &str, expected: Option<(&str, u32)>| {
            let expected = expected.map(|(version, major)| (version.to_owned(), major));
            assert_eq!(version(said), expected, "{said}");
        };
        check(
            "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
            Some(("15.18", 15)),
        );
        check("postgres (PostgreSQL) 17.5\n", Some(("17.5", 17)));
        check("postgres (PostgreSQL) 19beta2\n", Some(("19beta2", 19)));
        check("postgres (PostgreSQL) 19devel\n", Some(("19devel", 19)));
        check("something else\n", None);
        check("", None);
    }

    #[test]
    fn the_path_wins_and_elsewhere_the_newest_version() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let installed = |name: &str, version: &str| {
            let directory = home.path().join(name);
            fs::create_dir(&directory).expect("a fresh name");
            for program in ["postgres", "initdb"] {
                let path = directory.join(program);
                let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n");
                fs::write(&path, script).expect("a writable directory");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our file");
            }
            directory
        };
        let old = installed("old", "13.9");
        let middle = installed("middle", "15.2");
        let new = installed("new", "17.5");
        let client_only = home.path().to_path_buf();
        let find = |path: &[&PathBuf], elsewhere: &[&PathBuf]| {
            let sources = Sources {
                path: path.iter().map(|&path| path.clone()).collect(),
                installed: elsewhere.iter().map(|&path| path.clone()).collect(),
                caches: Vec::new(),
                temp_dir: home.path().to_path_buf(),
                releases: None,
            };
            Programs::find(&sources, None).map(|programs| programs.version)
        };

        assert_eq!(find(&[&client_only, &middle], &[&new]), Ok("15.2".into()));
        assert_eq!(find(&[&old], &[&middle, &new, &old]), Ok("17.5".into()));
        assert_eq!(find(&[], &[]), Err(Vec::new()));
        let unusable = find(&[&old], &[]).expect_err("13 is too old");
        assert!(unusable[0].ends_with("old: version 13.9"), "{unusable:?}");
    }
}
