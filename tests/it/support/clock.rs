//! Clocks that can be set, for one program only.

use std::os::unix::fs::FileExt;
use std::process::Command;

use tempfile::TempDir;

/// The clocks of a program that is started with their [environment](Self::environment).
pub struct Clocks {
    directory: TempDir,
}

impl Clocks {
    /// `Err`: why there can be none on this machine. It takes Linux, and a C compiler that makes a shared library.
    pub fn new() -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err("this is not Linux".to_owned());
        }
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        let source = directory.path().join("clock.c");
        std::fs::write(&source, include_str!("clock.c")).map_err(|error| error.to_string())?;
        let clock = Self { directory };
        clock.set(0, 0);
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(clock.path("clock.so"))
            .arg(&source)
            .output()
            .map_err(|error| format!("there is no C compiler (cc): {error}"))?;
        if compiled.status.success() {
            Ok(clock)
        } else {
            let said = String::from_utf8_lossy(&compiled.stderr).into_owned();
            Err(format!("cc does not make it: {said}"))
        }
    }

    /// What makes a program look at these clocks.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("LD_PRELOAD", self.path("clock.so")),
            ("SMS_OUTBOX_TEST_CLOCK", self.path("ahead")),
        ]
    }

    /// Sets the wall clock: so many seconds ahead of the true one, or behind if negative. The program sees it at once.
    pub fn set_ahead(&self, seconds: i64) {
        self.set(0, seconds);
    }

    /// What a program sees after its machine was suspended for so many seconds: one clock has run on, and the one that timers
    /// go by has not.
    pub fn suspended_for(&self, seconds: i64) {
        self.set(1, seconds);
    }

    fn set(&self, place: u64, seconds: i64) {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path("ahead"));
        // In place and in one piece: the program has the file mapped.
        file.and_then(|file| {
            file.write_all_at(&seconds.to_ne_bytes(), 8 * place)?;
            if file.metadata()?.len() < 16 {
                file.set_len(16)?;
            }
            Ok(())
        })
        .expect("a file of ours");
    }

    fn path(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        path.into_os_string()
            .into_string()
            .expect("temporary directories have readable names")
    }
}

/// So many hours, in the clock's seconds.
pub const fn hours(hours: i64) -> i64 {
    hours * 3_600
}
