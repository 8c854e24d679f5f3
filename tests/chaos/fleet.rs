//! The workers: started, hurt, and started again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sms_outbox::failpoints::Point;
use sms_outbox::outbox::RoleKind;

use super::dice::Dice;
use super::support::roles;
use super::support::worker::Process;

/// Those that not every second brings: until one has been seen, every worker dies at the first.
const RARE: [Point; 7] = [
    Point::BeforePause,
    Point::AfterPause,
    Point::BeforeLateRecord,
    Point::DuringRescue,
    Point::AfterRescue,
    Point::DuringProbe,
    Point::DuringDrain,
];

/// What workers are started with.
#[derive(Clone, Debug)]
pub struct Orders {
    pub database_url: String,
    pub provider_url: String,
    pub flags: Vec<String>,
    pub variant: Option<&'static str>,
}

impl Orders {
    pub fn start(&self, environment: &[(&str, &str)]) -> Process {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let variant = self.variant.map(|name| ("SMS_OUTBOX_WRONG_VARIANT", name));
        let environment: Vec<(&str, &str)> = environment.iter().copied().chain(variant).collect();
        let url = roles::url_as(RoleKind::Worker, &self.database_url);
        Process::worker_with(&url, &self.provider_url, &flags, &environment)
    }
}

/// One place for a worker.
struct Seat {
    orders: Orders,
    worker: Option<Process>,
    /// When it goes on, if it is frozen.
    thaw: Option<Instant>,
    /// Whether its next end is our doing.
    told_to_end: bool,
    /// When the next worker sits down.
    next: Instant,
}

/// Workers that are started again as they die.
pub struct Fleet {
    seats: Vec<Seat>,
    dice: Dice,
    hits: PathBuf,
    hits_read: usize,
    /// How often each failpoint struck.
    pub struck: BTreeMap<&'static str, usize>,
    pub started: usize,
    pub lines: Vec<String>,
    /// Those that ended although nobody wanted them to.
    pub broken: Vec<String>,
}

impl Fleet {
    /// A worker for each of the orders.
    pub fn new(orders: Vec<Orders>, dice: Dice, folder: &Path) -> Self {
        let now = Instant::now();
        let seat = |orders| Seat {
            orders,
            worker: None,
            thaw: None,
            told_to_end: false,
            next: now,
        };
        Self {
            seats: orders.into_iter().map(seat).collect(),
            dice,
            hits: folder.join("strikes"),
            hits_read: 0,
            struck: Point::ALL.iter().map(|point| (point.name(), 0)).collect(),
            started: 0,
            lines: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// The failpoints that have not struck yet.
    pub fn missing(&self) -> Vec<Point> {
        Point::ALL
            .into_iter()
            .filter(|point| self.struck[point.name()] == 0)
            .collect()
    }

    /// Looks after everything once: strikes, the frozen, the dead.
    pub async fn tend(&mut self) {
        self.read_strikes();
        let now = Instant::now();
        for n in 0..self.seats.len() {
            let seat = &mut self.seats[n];
            if seat.thaw.is_some_and(|moment| moment <= now) {
                seat.thaw = None;
                if let Some(worker) = &seat.worker {
                    worker.signal(Signal::SIGCONT);
                }
            }
            if seat.worker.as_mut().is_some_and(has_ended) {
                self.clear(n).await;
            }
            if self.seats[n].worker.is_none() && self.seats[n].next <= now {
                let points = self.failpoints(n);
                let seed = self.dice.next().to_string();
                let hits = self.hits.to_str().expect("a plain path").to_owned();
                let worker = self.seats[n].orders.start(&[
                    ("SMS_OUTBOX_FAILPOINTS", &points),
                    ("SMS_OUTBOX_FAILPOINTS_FILE", &hits),
                    ("SMS_OUTBOX_FAILPOINTS_SEED", &seed),
                ]);
                self.started += 1;
                self.seats[n].worker = Some(worker);
                self.seats[n].told_to_end = false;
            }
        }
    }

    /// What the next worker is to suffer: everything with a small chance, and one of those that are missing for certain. The
    /// first of several is spared what is certain: where all die of it, nothing is sent, and an outage finds no end.
    fn failpoints(&mut self, seat: usize) -> String {
        let missing = if seat == 0 && self.seats.len() > 1 {
            Vec::new()
        } else {
            self.missing()
        };
        let (rare, common): (Vec<Point>, Vec<Point>) =
            missing.into_iter().partition(|point| RARE.contains(point));
        let certain = (!common.is_empty()).then(|| *self.dice.one_of(&common));
        let parts: Vec<String> = Point::ALL
            .into_iter()
            .map(|point| {
                let chance = if certain == Some(point) || rare.contains(&point) {
                    1.0
                } else if RARE.contains(&point) {
                    0.02
                } else {
                    0.001
                };
                // A request that has been handed over and frozen with its worker would leave whenever that goes on, and
                // nothing can be asked any more; to die is the harder case elsewhere.
                let may_freeze = !matches!(point, Point::HandedOver | Point::InFlight);
                // A panic costs one job and not the worker, so it may come again and again; not for certain, or no job of
                // this worker would ever be sent.
                let in_a_job = matches!(point, Point::BeforeSend | Point::ReplyRead);
                if in_a_job && chance < 1.0 && self.dice.percent(50) {
                    return format!("{}=panic:0.02", point.name());
                }
                let what = if may_freeze && self.dice.percent(25) {
                    "freeze"
                } else {
                    "kill"
                };
                format!("{}={what}:{chance}", point.name())
            })
            .collect();
        parts.join(",")
    }

    fn read_strikes(&mut self) {
        let Ok(text) = std::fs::read_to_string(&self.hits) else {
            return;
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let (from, now) = (self.hits_read, Instant::now());
        self.hits_read = whole;
        for line in text[from..whole].lines() {
            let mut words = line.split(' ');
            let (Some(name), Some(pid), Some(what)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let Some(times) = self.struck.get_mut(name) {
                *times += 1;
            }
            let length = self.dice.between_ms(300, 6_000);
            let pid: u32 = pid.parse().expect("a process id");
            let seat = self.seats.iter_mut().find(|seat| {
                seat.worker
                    .as_ref()
                    .is_some_and(|worker| worker.child.id() == pid)
            });
            if let Some(seat) = seat {
                match what {
                    "freeze" => seat.thaw = Some(now + length),
                    "panic" => {}
                    _ => seat.told_to_end = true,
                }
            }
        }
    }

    /// Empties a seat whose worker has ended.
    async fn clear(&mut self, n: usize) {
        // It may have said so just before.
        self.read_strikes();
        let seat = &mut self.seats[n];
        let Some(mut worker) = seat.worker.take() else {
            return;
        };
        let status = worker.ended().await;
        if !seat.told_to_end {
            self.broken.push(format!(
                "a worker ended by itself ({status}): {}",
                worker.lines().last().map_or("", String::as_str)
            ));
        }
        self.lines.extend(worker.lines());
        let seat = &mut self.seats[n];
        seat.thaw = None;
        seat.next = Instant::now() + self.dice.between_ms(0, 300);
    }

    /// A seat with a worker that is neither frozen nor ending.
    fn victim(&mut self) -> Option<&mut Seat> {
        let able: Vec<usize> = (0..self.seats.len())
            .filter(|n| {
                let seat = &self.seats[*n];
                seat.worker.is_some() && seat.thaw.is_none() && !seat.told_to_end
            })
            .collect();
        if able.is_empty() {
            return None;
        }
        let n = *self.dice.one_of(&able);
        Some(&mut self.seats[n])
    }

    /// `kill -9`; `false` if nobody is there.
    pub fn kill(&mut self) -> bool {
        self.signal(Signal::SIGKILL)
    }

    /// Stops one gracefully.
    pub fn stop(&mut self) -> bool {
        self.signal(Signal::SIGTERM)
    }

    fn signal(&mut self, signal: Signal) -> bool {
        let Some(seat) = self.victim() else {
            return false;
        };
        seat.told_to_end = true;
        if let Some(worker) = &seat.worker {
            worker.signal(signal);
        }
        true
    }

    pub fn freeze(&mut self, length: Duration) -> bool {
        let Some(seat) = self.victim() else {
            return false;
        };
        seat.thaw = Some(Instant::now() + length);
        if let Some(worker) = &seat.worker {
            worker.signal(Signal::SIGSTOP);
        }
        true
    }

    /// The faults stop: everyone goes on, ends gracefully, and is followed by a worker that nothing happens to.
    pub async fn recover(&mut self) {
        for seat in &mut self.seats {
            seat.told_to_end = true;
            if let Some(worker) = &seat.worker {
                worker.signal(Signal::SIGTERM);
                worker.signal(Signal::SIGCONT);
            }
        }
        for n in 0..self.seats.len() {
            // A failpoint may freeze it once more on its way out.
            let began = Instant::now();
            while let Some(worker) = &mut self.seats[n].worker
                && !has_ended(worker)
                && began.elapsed() < Duration::from_secs(20)
            {
                worker.signal(Signal::SIGCONT);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if let Some(worker) = &mut self.seats[n].worker
                && !has_ended(worker)
            {
                worker.signal(Signal::SIGKILL);
            }
            self.clear(n).await;
            let seat = &mut self.seats[n];
            seat.worker = Some(seat.orders.start(&[]));
            seat.told_to_end = false;
            self.started += 1;
        }
        self.read_strikes();
    }

    /// Everyone stops gracefully, and has to.
    pub async fn disband(&mut self) {
        for seat in &mut self.seats {
            let Some(mut worker) = seat.worker.take() else {
                continue;
            };
            worker.signal(Signal::SIGTERM);
            let status = worker.ended().await;
            if !status.success() {
                self.broken
                    .push(format!("a worker did not stop gracefully ({status})"));
            }
            self.lines.extend(worker.lines());
        }
    }
}

/// What it said last may still be on its way.
fn has_ended(worker: &mut Process) -> bool {
    worker.child.try_wait().expect("our own child").is_some()
}
