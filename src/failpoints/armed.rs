//! Failpoints that strike.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::Write,
    path::PathBuf,
    pin::pin,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Point, Variant, wrong};

/// How long after its handover a request is surely on its way, and hardly answered: the run's provider takes longer.
const ON_ITS_WAY: Duration = Duration::from_millis(4);
/// How long a statement that was sent gets to reach the server.
const AT_THE_SERVER: Duration = Duration::from_millis(2);

static ARMED: OnceLock<Armed> = OnceLock::new();

/// What this process is to suffer, and where it says so.
struct Armed {
    strikes: HashMap<Point, (Strike, f64)>,
    file: PathBuf,
    dice: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    Kill,
    Freeze,
    Panic,
}

/// A variable that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{variable} cannot be understood: {problem}")]
pub struct FailpointsError {
    variable: &'static str,
    problem: String,
}

/// Takes what the variables ask for. Once in a process, before its worker starts.
///
/// # Errors
/// When one of them cannot be understood.
pub fn arm(variable: impl Fn(&str) -> Option<String>) -> Result<(), FailpointsError> {
    const POINTS: &str = "SMS_OUTBOX_FAILPOINTS";
    const FILE: &str = "SMS_OUTBOX_FAILPOINTS_FILE";
    const SEED: &str = "SMS_OUTBOX_FAILPOINTS_SEED";
    const VARIANT: &str = "SMS_OUTBOX_WRONG_VARIANT";
    let wrong = |variable, problem: &str| FailpointsError {
        variable,
        problem: problem.to_owned(),
    };
    if let Some(name) = variable(VARIANT) {
        let variant = Variant::named(&name).ok_or_else(|| wrong(VARIANT, &name))?;
        wrong::become_wrong(variant);
    }
    let Some(points) = variable(POINTS) else {
        return Ok(());
    };
    let file = variable(FILE).ok_or_else(|| wrong(FILE, "strikes have to be written down"))?;
    let seed = variable(SEED).and_then(|seed| seed.parse().ok());
    let strikes = points
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| read(part).ok_or_else(|| wrong(POINTS, part)))
        .collect::<Result<_, _>>()?;
    let armed = Armed {
        strikes,
        file: file.into(),
        dice: AtomicU64::new(seed.ok_or_else(|| wrong(SEED, "a number is needed"))?),
    };
    ARMED.set(armed).ok();
    Ok(())
}

/// `NAME=kill:CHANCE`, `NAME=freeze:CHANCE` or `NAME=panic:CHANCE`.
fn read(part: &str) -> Option<(Point, (Strike, f64))> {
    let (name, strike) = part.split_once('=')?;
    let (strike, chance) = strike.split_once(':')?;
    let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
    let strike = match strike {
        "kill" => Strike::Kill,
        "freeze" => Strike::Freeze,
        "panic" => Strike::Panic,
        _ => return None,
    };
    Some((point, (strike, chance.parse().ok()?)))
}

impl Armed {
    /// Whether this time is one of those.
    fn falls(&self, point: Point) -> Option<Strike> {
        let (strike, chance) = self.strikes.get(&point)?;
        // SplitMix64: threads take their numbers from one sequence.
        let mut z = self
            .dice
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let drawn = f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(0));
        (drawn / f64::from(u32::MAX) < *chance).then_some(*strike)
    }

    /// Says so, and does it.
    fn strike(&self, point: Point, strike: Strike) {
        let (word, signal) = match strike {
            Strike::Kill => ("kill", Some(Signal::SIGKILL)),
            Strike::Freeze => ("freeze", Some(Signal::SIGSTOP)),
            Strike::Panic => ("panic", None),
        };
        let line = format!("{} {} {word}\n", point.name(), std::process::id());
        // One write, so that the lines of several processes stay whole.
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.file)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        // A strike that nobody hears of would spoil the count; then rather none.
        if written.is_ok() {
            match signal {
                Some(signal) => drop(kill(Pid::this(), signal)),
                None => panic!("the failpoint {} struck", point.name()),
            }
        }
    }
}

/// Here it may happen.
pub(crate) fn point(point: Point) {
    if let Some(armed) = ARMED.get()
        && let Some(strike) = armed.falls(point)
    {
        armed.strike(point, strike);
    }
}

/// Here it may happen, a few milliseconds from now.
pub(crate) fn soon(point: Point) {
    if let Some(armed) = ARMED.get()
        && let Some(strike) = armed.falls(point)
    {
        thread::spawn(move || {
            thread::sleep(ON_ITS_WAY);
            armed.strike(point, strike);
        });
    }
}

/// Here it may happen as soon as `work` waits for its answer for the first time.
pub(crate) async fn midway<T>(point: Point, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut asked = false;
    std::future::poll_fn(|context| {
        let polled = work.as_mut().poll(context);
        if polled.is_pending()
            && !std::mem::replace(&mut asked, true)
            && let Some(armed) = ARMED.get()
            && let Some(strike) = armed.falls(point)
        {
            thread::sleep(AT_THE_SERVER);
            armed.strike(point, strike);
        }
        polled
    })
    .await
}
