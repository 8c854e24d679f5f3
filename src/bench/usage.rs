//! What processes have used, as far as `/proc` tells. Where there is none, nothing is told.

use std::fs;
use std::time::Duration;

use super::figures::as_f64;

/// Times in `/proc/PID/stat` are counted in hundredths of a second on every architecture of today.
const TICK: Duration = Duration::from_millis(10);

/// What one process says about itself.
struct Stat {
    name: String,
    parent: u32,
    /// Its own time on a core, in user and kernel mode.
    own: Duration,
    /// That of its children that have ended and were waited for.
    gone_children: Duration,
}

fn stat(pid: u32) -> Option<Stat> {
    read_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state parent …`; the name may hold anything, brackets and spaces too.
fn read_stat(text: &str) -> Option<Stat> {
    let (before, after) = text.rsplit_once(") ")?;
    let (_, name) = before.split_once('(')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| Some(TICK * fields.get(at)?.parse().ok()?);
    Some(Stat {
        name: name.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        // Fields 14 to 17 of proc(5), counted from 1; `fields` begins with field 3.
        own: ticks(11)? + ticks(12)?,
        gone_children: ticks(13)? + ticks(14)?,
    })
}

/// Time on a core that a process has used since it was started.
pub fn cpu(pid: u32) -> Option<Duration> {
    stat(pid).map(|stat| stat.own)
}

/// Time on a core that a PostgreSQL server has used since it was started: the postmaster, its processes, and those of them
/// that have ended, whose time the postmaster inherits.
pub fn server_cpu(postmaster: u32) -> Option<Duration> {
    let stat_of_all = stat(postmaster)?;
    let mut sum = stat_of_all.own + stat_of_all.gone_children;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(child) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some(child) = stat(child).filter(|child| child.parent == postmaster) {
            sum += child.own;
        }
    }
    Some(sum)
}

/// The postmaster above a server process, if that runs on this machine.
pub fn postmaster_of(server_process: u32) -> Option<u32> {
    let own = stat(server_process)?;
    let parent = stat(own.parent)?;
    let is_postgres = |name: &str| name.starts_with("postgres") || name.starts_with("postmaster");
    (is_postgres(&own.name) && is_postgres(&parent.name)).then_some(own.parent)
}

/// The most memory that a process has had at once (`VmHWM`).
pub fn memory_peak_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = kilobytes(&status, "VmHWM:")?;
    Some(as_f64(bytes) / f64::from(1_u32 << 20))
}

fn kilobytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

/// The machine that the figures are from.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: Option<usize>,
    /// What the processor calls itself.
    pub cpu: Option<String>,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// `uname` in short.
    pub system: &'static str,
    /// Processes that wanted a core during the minute before: above 1 or so, somebody else was at work.
    pub load_before: Option<f64>,
}

impl Machine {
    /// This one.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let model = |text: String| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        Self {
            cores: std::thread::available_parallelism().ok().map(Into::into),
            cpu: read("/proc/cpuinfo").and_then(model),
            memory_bytes: read("/proc/meminfo").and_then(|text| kilobytes(&text, "MemTotal:")),
            system: std::env::consts::OS,
            load_before: read("/proc/loadavg")
                .and_then(|text| text.split_whitespace().next()?.parse().ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let line = "4711 (a) b (c) S 17 4711 4711 0 -1 4194560 9 0 0 0 250 150 30 20 20 0 5 0 100 1000 200";
        let stat = read_stat(line).expect("a line as the kernel writes it");
        assert_eq!(stat.name, "a) b (c");
        assert_eq!(stat.parent, 17);
        assert_eq!(stat.own, Duration::from_secs(4));
        assert_eq!(stat.gone_children, Duration::from_millis(500));
        assert!(read_stat("4711 (cut").is_none());
    }

    #[test]
    fn sizes_are_read_by_their_label() {
        let text = "Name:\tworker\nVmPeak:\t  999 kB\nVmHWM:\t   12 kB\n";
        assert_eq!(kilobytes(text, "VmHWM:"), Some(12 * 1024));
        assert_eq!(kilobytes(text, "VmSwap:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_used_something() {
        assert!(cpu(std::process::id()).is_some());
        assert!(memory_peak_mib(std::process::id()).is_some_and(|mib| mib > 0.0));
    }
}
