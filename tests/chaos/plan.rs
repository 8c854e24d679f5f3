//! Everything that is to happen, drawn from the seed before anything happens.

use std::time::Duration;

use uuid::Uuid;

use super::dice::Dice;
use super::proxy::Cut;

/// No log may contain this word: every text does.
pub const MARK: &str = "mahrem";

/// What stands in the way of a message, by a word in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A rule of the application refuses every change of its row.
    Rule,
    /// A transaction of the application holds its row while its answer comes.
    Lock,
    /// Something in front of the provider hates its text.
    Firewall,
}

impl Obstacle {
    pub const ALL: [Self; 3] = [Self::Rule, Self::Lock, Self::Firewall];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Rule => "kural",
            Self::Lock => "kilit",
            Self::Firewall => "duvar",
        }
    }
}

/// A number on the provider's block list: it refuses a list with it as a whole.
pub const BLOCKED: &str = "905399999999";

/// A message that a producer is to write.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: Uuid,
    pub text: String,
    pub obstacle: Option<Obstacle>,
    /// As the producer writes them.
    pub spelled: Vec<String>,
    /// As the provider sees them; empty where nobody can read them.
    pub numbers: Vec<String>,
    pub marketing: bool,
    pub priority: i16,
    /// When it is written.
    pub at: Duration,
    /// Whether its transaction is rolled back.
    pub rolled_back: bool,
    /// How long after that it is due.
    pub due_after: Option<Duration>,
    /// How long after that it expires.
    pub expires_after: Option<Duration>,
    /// How long after that somebody cancels it.
    pub cancel_after: Option<Duration>,
}

impl Message {
    /// To others too, of whom the provider refuses one.
    pub fn with_blocked(mut self, n: usize, dice: &mut Dice) -> Self {
        for m in [
            400_000 + 5 * n as u64,
            400_001 + 5 * n as u64,
            89_999_999,
            400_002 + 5 * n as u64,
        ] {
            add_number(&mut self, m, dice);
        }
        self
    }

    pub fn is_to_blocked(&self) -> bool {
        self.numbers.iter().any(|number| number == BLOCKED)
    }

    pub fn with(mut self, obstacle: Obstacle) -> Self {
        self.text = format!("{} {}", self.text, obstacle.word());
        self.obstacle = Some(obstacle);
        self
    }
}

/// What is done to the world, besides what the workers' failpoints and the provider's chances do.
#[derive(Clone, Debug)]
pub enum Event {
    /// `kill -9`.
    Kill,
    /// SIGSTOP, and SIGCONT after so long.
    Freeze(Duration),
    /// SIGTERM: the worker stops gracefully.
    Stop,
    /// All processes of Postgres are killed; it starts again after so long.
    Crash(Duration),
    /// Postgres stops gracefully and starts again.
    Restart,
    /// One of the workers' sessions is ended by the database.
    KillBackend,
    /// A connection between worker and database, or between worker and provider.
    Cut(Side, Cut),
    /// The provider's port is shut for so long.
    ProviderAway(Duration),
    /// The provider is unavailable: its port is shut for the first time, and everything is answered with 503 for the second.
    Outage(Duration, Duration),
    /// The provider takes nothing for so long, and says that it is too much (429).
    Storm(Duration),
    /// The next requests meet failure of the account: it pauses, and is probed.
    AccountFailure(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Database,
    Provider,
}

const ACCOUNT_FAILURE: [&str; 3] = ["answer:402*3", "answer:401*2", "http:429/1*2"];

#[derive(Clone, Debug)]
pub struct Plan {
    pub messages: Vec<Message>,
    pub events: Vec<(Duration, Event)>,
    /// How long producers write and things go wrong.
    pub lasts: Duration,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub jobs: usize,
    pub kills: usize,
    pub crashes: usize,
}

impl Plan {
    pub fn draw(seed: u64, size: Size) -> Self {
        let dice = Dice::new(seed);
        // Time for the database to come back between two crashes, and for the limit not to be what everything waits for.
        let lasts = Duration::from_millis(
            (size.jobs as u64 * 45)
                .max(size.kills as u64 * 2_250)
                .max(size.crashes as u64 * 10_000),
        );
        let mut events = Vec::new();
        let mut add = |name: &str, times: usize, mut event: Box<dyn FnMut(&mut Dice) -> Event>| {
            let mut dice = dice.part(name);
            let share = lasts / u32::try_from(times.max(1)).expect("fits");
            for n in 0..times {
                // One in each share of the time, so that they are spread and yet nobody can tell when.
                let begins = share * u32::try_from(n).expect("fits");
                let ms = u64::try_from(share.as_millis()).expect("fits");
                events.push((begins + dice.between_ms(0, ms), event(&mut dice)));
            }
        };
        let kills = size.kills;
        add("kill", kills, Box::new(|_| Event::Kill));
        add(
            "freeze",
            kills.div_ceil(3),
            // Most of them past the lease; shorter than what lies between the worker's window and the provider's guard.
            Box::new(|dice| Event::Freeze(dice.between_ms(500, 6_000))),
        );
        add("stop", kills.div_ceil(4), Box::new(|_| Event::Stop));
        add(
            "crash",
            size.crashes,
            Box::new(|dice| Event::Crash(dice.between_ms(100, 2_500))),
        );
        add(
            "restart",
            size.crashes.div_ceil(3),
            Box::new(|_| Event::Restart),
        );
        add("backend", kills, Box::new(|_| Event::KillBackend));
        let cut = |side| {
            Box::new(move |dice: &mut Dice| Event::Cut(side, *dice.one_of(&Cut::ALL)))
                as Box<dyn FnMut(&mut Dice) -> Event>
        };
        add("database cut", 2 * kills, cut(Side::Database));
        add("provider cut", 4 * kills, cut(Side::Provider));
        add(
            "away",
            size.crashes,
            Box::new(|dice| Event::ProviderAway(dice.between_ms(200, 1_500))),
        );
        add(
            "outage",
            size.crashes.div_ceil(5).max(1),
            Box::new(|dice| {
                Event::Outage(dice.between_ms(1_000, 3_000), dice.between_ms(3_000, 5_000))
            }),
        );
        add(
            "storm",
            size.crashes.div_ceil(5).max(1),
            Box::new(|dice| Event::Storm(dice.between_ms(2_000, 4_000))),
        );
        add(
            "account",
            size.crashes.max(2),
            Box::new(|dice| {
                Event::AccountFailure(ACCOUNT_FAILURE[dice.index(ACCOUNT_FAILURE.len())])
            }),
        );
        events.sort_by_key(|(at, _)| *at);
        Self {
            messages: messages(&mut dice.part("messages"), size.jobs, lasts),
            events,
            lasts,
        }
    }
}

/// Messages of all kinds, spread over the time.
pub fn messages(dice: &mut Dice, count: usize, over: Duration) -> Vec<Message> {
    let mut all: Vec<Message> = Vec::with_capacity(count);
    for n in 0..count {
        let mut message = plain(dice, n);
        message.at = over.mul_f64(n as f64 / count as f64);
        let obstacle = match n {
            _ if n % 700 == 40 => Some(Obstacle::Rule),
            _ if n % 350 == 20 => Some(Obstacle::Firewall),
            _ => None,
        };
        if let Some(obstacle) = obstacle {
            all.push(message.with(obstacle));
            continue;
        }
        match dice.below(100) {
            0..12 => message.rolled_back = true,
            12..18 => message.expires_after = Some(dice.between_ms(300, 6_000)),
            18..22 => message.cancel_after = Some(dice.between_ms(0, 500)),
            22..24 => {
                message.due_after = Some(Duration::from_secs(3_600));
                message.cancel_after = Some(dice.between_ms(500, 3_000));
            }
            24..26 => {
                message.spelled = vec![format!("{MARK} 0212 {n}")];
                message.numbers = Vec::new();
            }
            26..30 => {
                // The same content again, as an application does that is asked twice.
                if let Some(original) = all.last().filter(|original| {
                    !original.rolled_back
                        && original.expires_after.is_none()
                        && original.obstacle.is_none()
                }) {
                    message.text = original.text.clone();
                    message.numbers = original.numbers.clone();
                    message.spelled = original.spelled.clone();
                    message.marketing = original.marketing;
                }
            }
            30..34 => {
                let further = 1 + dice.below(4);
                for m in 1..=further {
                    add_number(&mut message, 300_000 + 5 * n as u64 + m, dice);
                }
            }
            34..38 => message.due_after = Some(dice.between_ms(100, 2_000)),
            _ => {}
        }
        // Bulk orders, of which one is under way at a time.
        if n % 500 == 250 {
            for m in 0..110 {
                add_number(&mut message, 5_000_000 + 200 * n as u64 + m, dice);
            }
        }
        all.push(message);
    }
    all
}

/// A message to one number, due at once, without an end.
pub fn plain(dice: &mut Dice, n: usize) -> Message {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&dice.next().to_be_bytes());
    bytes[8..].copy_from_slice(&dice.next().to_be_bytes());
    let mut message = Message {
        id: uuid::Builder::from_random_bytes(bytes).into_uuid(),
        text: format!("{MARK} kod {:06}, i\u{15f} no {n}.", dice.below(1_000_000)),
        obstacle: None,
        spelled: Vec::new(),
        numbers: Vec::new(),
        marketing: dice.percent(10),
        priority: i16::try_from(dice.below(4)).expect("small"),
        at: Duration::ZERO,
        rolled_back: false,
        due_after: None,
        expires_after: None,
        cancel_after: None,
    };
    add_number(&mut message, n as u64, dice);
    message
}

fn add_number(message: &mut Message, n: u64, dice: &mut Dice) {
    let local = format!("53{:08}", 10_000_000 + n);
    let (a, b, c, d) = (&local[..3], &local[3..6], &local[6..8], &local[8..]);
    message.spelled.push(match dice.below(4) {
        0 => format!("90{local}"),
        1 => format!("+90 {a} {b} {c} {d}"),
        2 => format!("0{a} {b} {c} {d}"),
        _ => local.clone(),
    });
    message.numbers.push(format!("90{local}"));
}
