//! The environment, as one struct: read at the top, handed down in small pieces. Nothing below `cli` and `daemon` asks the
//! environment for anything.
//!
//! A flag wins over the environment, the environment over a `.env` file, and that over the default.

use std::{fmt, net::SocketAddr, time::Duration};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    backoff::Backoff,
    dispatch::Following,
    lifecycle::Policy,
    message::ForeignNumbers,
    outbox::{ConnectOptions, PgBouncer, Probing},
    reconciliation::Reconciling,
};

mod secret;
mod webhook;

pub use secret::{secret, ways_to_give};
pub use webhook::{WebhookArgs, WebhookSecrets, Webhooks};

/// A setting that cannot be used, in a sentence that an operator can act on. The program exits with 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// What the secrets of the account `default` are called; those of others are called the same with a suffix.
const KEY: &str = "ILETIMERKEZI_API_KEY";
const HASH: &str = "ILETIMERKEZI_API_HASH";
/// What the address of the database is called, which may hold a password.
pub const DATABASE_URL: &str = "DATABASE_URL";

/// A variable that the program reads, for whoever writes it down: `.env.example`, the README.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variable {
    /// What it is called.
    pub name: String,
    /// What holds when it is not set; `None`: nothing, or it depends on the command.
    pub default: Option<String>,
}

/// Every variable behind an option of `command` or of a command below it, and those that have no option because they are
/// secret. Each once, in order of their names.
#[must_use]
pub fn variables(command: &clap::Command) -> Vec<Variable> {
    let mut known: Vec<Variable> = [KEY, HASH, webhook::SECRET, webhook::FORWARD]
        .map(|name| Variable {
            name: name.to_owned(),
            default: None,
        })
        .into();
    let mut commands = vec![command];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands());
        known.extend(command.get_arguments().filter_map(|argument| {
            let default = argument.get_default_values().first();
            Some(Variable {
                name: argument.get_env()?.to_str()?.to_owned(),
                default: default.and_then(|value| value.to_str()).map(str::to_owned),
            })
        }));
    }
    known.sort();
    known.dedup();
    known
}

/// Which database.
#[derive(Args, Clone)]
pub struct DatabaseArgs {
    /// The database that holds the schema `sms_outbox`, as postgres://user:password@host/database; several hosts as host1,host2.
    /// In a file, if DATABASE_URL_FILE names one
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,

    /// Whether a PgBouncer stands in between, true or false: no session settings and no named statements are used then; auto
    /// finds out
    #[arg(long, env = "SMS_OUTBOX_PGBOUNCER", value_name = "BOOL", default_value = "auto",
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_parser = pgbouncer)]
    pub pgbouncer: PgBouncer,
}

impl fmt::Debug for DatabaseArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        f.debug_struct("DatabaseArgs")
            .field("pgbouncer", &self.pgbouncer)
            .finish_non_exhaustive()
    }
}

impl DatabaseArgs {
    /// How to reach it.
    ///
    /// # Errors
    /// When no address is given.
    pub fn connect_options(&self) -> Result<ConnectOptions, Misconfigured> {
        let url = self
            .database_url
            .clone()
            .filter(|url| !url.trim().is_empty())
            .ok_or_else(|| {
                Misconfigured(
                    "DATABASE_URL is not set: give the address of the database, as in \
                 DATABASE_URL=postgres://user:password@localhost/app (or --database-url)"
                        .to_owned(),
                )
            })?;
        Ok(ConnectOptions {
            pgbouncer: self.pgbouncer,
            ..ConnectOptions::new(url)
        })
    }
}

/// Where the provider is and how long it may take.
#[derive(Args, Clone, Debug)]
pub struct ProviderArgs {
    /// Where the provider's API is; a sandbox or a proxy of your own otherwise
    #[arg(
        long,
        env = "ILETIMERKEZI_BASE_URL",
        value_name = "URL",
        default_value = "https://api.iletimerkezi.com"
    )]
    pub base_url: String,

    /// Credentials, numbers and texts may cross a network in clear, because ILETIMERKEZI_BASE_URL is an http:// address in a network
    /// of your own
    #[arg(long, env = "SMS_OUTBOX_ALLOW_PLAINTEXT", value_name = "BOOL", default_value_t = false,
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub allow_plaintext: bool,

    /// The longest one request may take, from its start to the end of its answer
    #[arg(long, env = "SMS_OUTBOX_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,

    /// The longest that connecting to the provider may take
    #[arg(long, env = "SMS_OUTBOX_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub connect_timeout: Duration,

    /// Which accounts.
    #[command(flatten)]
    pub accounts: AccountArgs,
}

/// Which accounts.
#[derive(Args, Clone, Debug, Default)]
pub struct AccountArgs {
    /// The accounts to send for, separated by commas. Each has its own key and hash: ILETIMERKEZI_API_KEY and
    /// ILETIMERKEZI_API_HASH for `default`, ILETIMERKEZI_API_KEY_MARKETING and so on for `marketing`
    #[arg(
        long,
        env = "SMS_OUTBOX_ACCOUNTS",
        value_name = "NAMES",
        default_value = "default",
        value_delimiter = ','
    )]
    pub accounts: Vec<String>,
}

/// Everything a worker is told.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseArgs,

    /// Which provider.
    #[command(flatten)]
    pub provider: ProviderArgs,

    /// Concurrent requests at most, shared evenly by the accounts
    #[arg(
        long,
        env = "SMS_OUTBOX_CONCURRENCY",
        value_name = "N",
        default_value_t = 50
    )]
    pub concurrency: usize,

    /// Recipients per second and account, over all workers together; 0 = no limit
    #[arg(
        long,
        env = "SMS_OUTBOX_RATE_PER_SECOND",
        value_name = "N",
        default_value_t = 100
    )]
    pub rate_per_second: u32,

    /// How long a claim holds without an answer; must exceed the request timeout
    #[arg(long, env = "SMS_OUTBOX_LEASE", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub lease: Duration,

    /// How long after the first unanswered request the provider's duplicate guard surely stands, so that a repeat is safe
    #[arg(long, env = "SMS_OUTBOX_GUARD_WINDOW", value_name = "DURATION", default_value = "8m", value_parser = duration)]
    pub guard_window: Duration,

    /// The cool-down of a lost answer before its request is repeated: the first one may still be on its way
    #[arg(long, env = "SMS_OUTBOX_SETTLE_DELAY", value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub settle_delay: Duration,

    /// The longest delay before the first retry; each further one may be twice as long
    #[arg(long, env = "SMS_OUTBOX_BACKOFF_BASE", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub backoff_base: Duration,

    /// The longest delay before any retry
    #[arg(long, env = "SMS_OUTBOX_BACKOFF_CAP", value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub backoff_cap: Duration,

    /// How long after it was due a job without expires_at is tried while nothing but outages stand in its way
    #[arg(long, env = "SMS_OUTBOX_RETRY_FOR", value_name = "DURATION", default_value = "72h", value_parser = duration)]
    pub retry_for: Duration,

    /// The longest that a due job waits to be noticed
    #[arg(long, env = "SMS_OUTBOX_POLL_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub poll_interval: Duration,

    /// Look in the provider's reports for orders whose answer was lost; one worker of the fleet does it at a time
    #[arg(long, env = "SMS_OUTBOX_RECONCILE", value_name = "BOOL", default_value_t = true,
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub reconcile: bool,

    /// Accounts that nobody and nothing else sends with, separated by commas: no panel, no other program, no other queue. Only
    /// there an order in the reports that fits settles a lost answer by itself; elsewhere a person is asked
    #[arg(
        long,
        env = "SMS_OUTBOX_EXCLUSIVE_ACCOUNTS",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    pub exclusive_accounts: Vec<String>,

    /// How long after the last request nothing found in the reports means that a person has to decide
    #[arg(long, env = "SMS_OUTBOX_RECONCILE_SETTLE", value_name = "DURATION", default_value = "15m", value_parser = duration)]
    pub reconcile_settle: Duration,

    /// Questions to the provider's reports per second and account, over the whole fleet
    #[arg(long, env = "SMS_OUTBOX_REPORT_RATE", value_name = "PER_SECOND", default_value = "1", value_parser = report_rate)]
    pub report_rate: f64,

    /// Follow accepted messages to the phone: ask the provider's reports what became of them, and match what webhooks tell
    #[arg(long, env = "SMS_OUTBOX_DELIVERIES", value_name = "BOOL", default_value_t = true,
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub deliveries: bool,

    /// How long a delivery without a final word is asked about before it is unknown
    #[arg(long, env = "SMS_OUTBOX_DELIVERY_HORIZON", value_name = "DURATION", default_value = "72h", value_parser = duration)]
    pub delivery_horizon: Duration,

    /// How many times faster deliveries are asked about than in life: for tests
    #[arg(long, hide = true, value_name = "TIMES", default_value_t = 1.0)]
    pub delivery_pace: f64,

    /// How long stopping may take before what is in flight is left to its lease
    #[arg(long, env = "SMS_OUTBOX_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "35s", value_parser = duration)]
    pub shutdown_grace: Duration,

    /// Where to serve /metrics, /livez and /readyz over HTTP, as 127.0.0.1:9464; nowhere if not set
    #[arg(long, env = "SMS_OUTBOX_METRICS_ADDRESS", value_name = "ADDRESS")]
    pub metrics_address: Option<SocketAddr>,

    /// Whether it receives webhooks, too.
    #[command(flatten)]
    pub webhook: WebhookArgs,

    /// Send foreign numbers instead of refusing them
    #[arg(long, env = "SMS_OUTBOX_INTERNATIONAL", value_name = "BOOL", default_value_t = false,
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub international: bool,
}

/// Everything a receiver of webhooks is told. It needs no credentials of the provider's.
#[derive(Args, Clone, Debug)]
pub struct ReceiverArgs {
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseArgs,

    /// Which accounts.
    #[command(flatten)]
    pub accounts: AccountArgs,

    /// Where webhooks are received.
    #[command(flatten)]
    pub webhook: WebhookArgs,

    /// Where to serve /metrics, /livez and /readyz over HTTP, as 127.0.0.1:9464; nowhere if not set
    #[arg(long, env = "SMS_OUTBOX_METRICS_ADDRESS", value_name = "ADDRESS")]
    pub metrics_address: Option<SocketAddr>,
}

impl WorkerArgs {
    /// Refuses values that cannot work together.
    ///
    /// # Errors
    /// In a sentence that says which, and why.
    pub fn check(&self) -> Result<(), Misconfigured> {
        let timeout = self.provider.request_timeout;
        let refuse = |sentence: String| Err(Misconfigured(sentence));
        if timeout.is_zero() || self.provider.connect_timeout.is_zero() {
            return refuse(
                "SMS_OUTBOX_REQUEST_TIMEOUT and SMS_OUTBOX_CONNECT_TIMEOUT must be longer than 0"
                    .to_owned(),
            );
        }
        if self.lease <= timeout {
            return refuse(format!(
                "SMS_OUTBOX_LEASE ({:?}) must exceed SMS_OUTBOX_REQUEST_TIMEOUT ({timeout:?}): a job must not be \
                 recovered while its request may still be answered",
                self.lease
            ));
        }
        if self.deliveries && self.delivery_horizon.is_zero() {
            return refuse("SMS_OUTBOX_DELIVERY_HORIZON must be longer than 0".to_owned());
        }
        if self.concurrency == 0 {
            return refuse("SMS_OUTBOX_CONCURRENCY must be at least 1".to_owned());
        }
        let accounts = self.provider.names().len();
        if self.concurrency < accounts {
            return refuse(format!(
                "SMS_OUTBOX_CONCURRENCY ({}) must be at least the number of accounts ({accounts})",
                self.concurrency
            ));
        }
        if self.concurrency > 10_000 {
            return refuse("SMS_OUTBOX_CONCURRENCY must be at most 10000".to_owned());
        }
        Ok(())
    }

    /// Whether nobody and nothing else sends with this account.
    #[must_use]
    pub fn is_exclusive(&self, account: &str) -> bool {
        self.exclusive_accounts
            .iter()
            .any(|name| name.trim() == account)
    }

    /// Refuses to take an account for exclusive that has its key in common with another one.
    ///
    /// # Errors
    /// Naming the two.
    pub fn check_exclusive(&self, accounts: &[AccountSecrets]) -> Result<(), Misconfigured> {
        for one in accounts
            .iter()
            .filter(|one| self.is_exclusive(&one.account))
        {
            let same = |other: &&AccountSecrets| {
                other.account != one.account && other.key.expose_secret() == one.key.expose_secret()
            };
            if let Some(other) = accounts.iter().find(same) {
                return Err(Misconfigured(format!(
                    "SMS_OUTBOX_EXCLUSIVE_ACCOUNTS names {:?}, whose key is that of {:?} too: to the provider they are one \
                     account, and so others do send with it",
                    one.account, other.account
                )));
            }
        }
        Ok(())
    }

    /// Settings that work, but hardly as intended.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.guard_window <= self.provider.request_timeout + self.settle_delay {
            warnings.push(format!(
                "SMS_OUTBOX_GUARD_WINDOW ({:?}) leaves no room for a repeat after SMS_OUTBOX_SETTLE_DELAY ({:?}) and \
                 SMS_OUTBOX_REQUEST_TIMEOUT ({:?}): every lost answer becomes `uncertain` at once",
                self.guard_window, self.settle_delay, self.provider.request_timeout
            ));
        }
        if self.lease < self.provider.request_timeout + Duration::from_secs(1) {
            warnings.push(format!(
                "SMS_OUTBOX_LEASE ({:?}) hardly exceeds SMS_OUTBOX_REQUEST_TIMEOUT ({:?}): a message that waits for its slot \
                 is released and claimed again",
                self.lease, self.provider.request_timeout
            ));
        }
        if self.guard_window > Duration::from_secs(600) {
            warnings.push(format!(
                "SMS_OUTBOX_GUARD_WINDOW ({:?}) is longer than the ten minutes that the provider's older documentation \
                 names: a repeat may arrive as a second message",
                self.guard_window
            ));
        }
        if self.shutdown_grace < self.provider.request_timeout {
            warnings.push(format!(
                "SMS_OUTBOX_SHUTDOWN_GRACE ({:?}) is shorter than SMS_OUTBOX_REQUEST_TIMEOUT ({:?}): stopping may leave \
                 requests unanswered",
                self.shutdown_grace, self.provider.request_timeout
            ));
        }
        if self.backoff_base > self.backoff_cap {
            warnings.push(format!(
                "SMS_OUTBOX_BACKOFF_BASE ({:?}) exceeds SMS_OUTBOX_BACKOFF_CAP ({:?}); the cap holds",
                self.backoff_base, self.backoff_cap
            ));
        }
        let names = self.provider.names();
        for name in self.exclusive_accounts.iter().map(|name| name.trim()) {
            if !name.is_empty() && !names.contains(&name) {
                warnings.push(format!(
                    "SMS_OUTBOX_EXCLUSIVE_ACCOUNTS names {name:?}, which this worker does not send for \
                     (SMS_OUTBOX_ACCOUNTS)"
                ));
            }
        }
        warnings
    }

    /// The settings that outcomes depend on.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        Policy {
            request_timeout: self.provider.request_timeout,
            lease: self.lease,
            guard_window: self.guard_window,
            settle_delay: self.settle_delay,
            backoff: Backoff {
                base: self.backoff_base,
                cap: self.backoff_cap,
            },
            retry_for: self.retry_for,
        }
    }

    /// How paused accounts are probed: a probe is for a person's work to be noticed soon, so it starts at twice the
    /// backoff's base and never waits longer than a minute.
    #[must_use]
    pub fn probing(&self) -> Probing {
        let longest = self.backoff_cap.min(Duration::from_secs(60));
        Probing {
            first: (self.backoff_base * 2).min(longest),
            longest,
        }
    }

    /// How deliveries are followed; `None`: not by this worker.
    #[must_use]
    pub fn following(&self) -> Option<Following> {
        self.deliveries.then_some(Following {
            horizon: self.delivery_horizon,
            pace: self.delivery_pace.max(0.001),
        })
    }

    /// The time between two questions to an account's reports.
    #[must_use]
    pub fn report_spacing(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.report_rate)
    }

    /// How lost orders are reconciled, whichever account they are of; `None`: not by this worker.
    #[must_use]
    pub fn reconciling(&self) -> Option<Reconciling> {
        self.reconcile.then_some(Reconciling {
            spacing: self.report_spacing(),
            settle: self.reconcile_settle,
            margin: Duration::from_secs(120),
            is_exclusive: false,
        })
    }

    /// Whether foreign numbers are sent.
    #[must_use]
    pub const fn foreign(&self) -> ForeignNumbers {
        if self.international {
            ForeignNumbers::Allowed
        } else {
            ForeignNumbers::Refused
        }
    }
}

/// How many connections to the database a worker for so many accounts takes at most, and one more if it receives webhooks.
#[must_use]
pub fn connections(accounts: usize, receives: bool) -> u32 {
    u32::try_from(accounts)
        .unwrap_or(u32::MAX)
        .saturating_mul(3)
        .saturating_add(4 + u32::from(receives))
}

/// Key and hash of one account.
#[derive(Clone, Debug)]
pub struct AccountSecrets {
    /// The account, as `sms_outbox.jobs.account` has it.
    pub account: String,
    /// The API key.
    pub key: SecretString,
    /// The API hash.
    pub hash: SecretString,
}

impl AccountArgs {
    /// The accounts to send for, each of them once, in the order of their first mention.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.accounts.iter().map(|name| name.trim()) {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Refuses accounts that would sign with one another's key: an environment knows no `-` and no lower case by custom,
    /// so that names which differ in nothing else have one variable.
    ///
    /// # Errors
    /// Naming two of them, and the variable.
    pub fn check_names(&self) -> Result<(), Misconfigured> {
        let names = self.names();
        if names.is_empty() {
            return Err(Misconfigured(
                "SMS_OUTBOX_ACCOUNTS names no account".to_owned(),
            ));
        }
        for (place, name) in names.iter().enumerate() {
            let suffix = variable_suffix(name);
            if let Some(other) = names[..place]
                .iter()
                .find(|other| variable_suffix(other) == suffix)
            {
                return Err(Misconfigured(format!(
                    "SMS_OUTBOX_ACCOUNTS names {other:?} and {name:?}, whose keys are both called {KEY}{suffix}: one \
                     process cannot tell them apart, so give one of them another name, or a worker of its own"
                )));
            }
        }
        Ok(())
    }
}

impl ProviderArgs {
    /// The accounts to send for, each of them once, in the order of their first mention.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.accounts.names()
    }

    /// Looks up the key and hash of every account, each [wherever it may stand](secret()). They have no flags: a command line is
    /// visible to every user of the machine.
    ///
    /// # Errors
    /// When one is missing, naming its variable, and when [two accounts have one variable](AccountArgs::check_names).
    pub fn secrets(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<AccountSecrets>, Misconfigured> {
        self.accounts.check_names()?;
        let names = self.names();
        names
            .into_iter()
            .map(|account| AccountSecrets::of(account, &variable))
            .collect()
    }
}

impl AccountSecrets {
    /// Looks up the key and hash of one account, each [wherever it may stand](secret()).
    ///
    /// # Errors
    /// When one is missing, naming its variable.
    pub fn of(
        account: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Misconfigured> {
        let suffix = variable_suffix(account);
        let read = |stem: &str| {
            let name = format!("{stem}{suffix}");
            secret(&name, &variable)?.ok_or_else(|| {
                Misconfigured(format!(
                    "{name} is not set: account {account:?} needs it, from the provider's panel (Settings > Security > API \
                     Access); {name}_FILE may name a file that holds it"
                ))
            })
        };
        Ok(Self {
            key: SecretString::from(read(KEY)?),
            hash: SecretString::from(read(HASH)?),
            account: account.to_owned(),
        })
    }
}

/// What is odd about the keys of several accounts. The limit is kept per account as jobs name it, and the provider keeps its
/// own per key.
#[must_use]
pub fn shared_keys(accounts: &[AccountSecrets]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (place, one) in accounts.iter().enumerate() {
        let same = |other: &&AccountSecrets| other.key.expose_secret() == one.key.expose_secret();
        if let Some(other) = accounts[..place].iter().find(same) {
            warnings.push(format!(
                "accounts {:?} and {:?} have the same key: to the provider they are one account, and together they may send \
                 twice what it allows (SMS_OUTBOX_RATE_PER_SECOND is for each)",
                other.account, one.account
            ));
        }
    }
    warnings
}

/// `default` -> ``, `marketing` -> `_MARKETING`, `my-brand` -> `_MY_BRAND`.
fn variable_suffix(account: &str) -> String {
    if account == "default" {
        return String::new();
    }
    let upper = account.chars().map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    });
    format!("_{}", upper.collect::<String>())
}

/// Reads `30s`, `8m`, `250ms`, `1h30m`, `1.5s`; a bare number is seconds.
///
/// ```
/// # use std::time::Duration; use sms_outbox::config::duration;
/// assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
/// assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
/// assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
/// assert!(duration("soon").is_err());
/// ```
///
/// # Errors
/// In a sentence that shows how it is written.
pub fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is no duration; write it as 30s, 8m, 250ms or 1h30m");
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let seconds = match &rest[..letters] {
            "ms" => 0.001,
            "s" | "sec" | "secs" => 1.0,
            "m" | "min" | "mins" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            // Only a number that stands alone may go without its unit.
            "" if total == 0.0 && rest.is_empty() => 1.0,
            _ => return Err(refuse()),
        };
        total += number * seconds;
        rest = rest[letters..].trim_start();
    }
    // Nobody means more than a year, and sums of such durations must not overflow.
    if total > 366.0 * 86_400.0 {
        return Err(format!("{text:?} is longer than a year"));
    }
    Duration::try_from_secs_f64(total).map_err(|_| refuse())
}

/// Reads what people write for yes and no.
///
/// # Errors
/// In a sentence that shows how it is written.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Questions per second: one in a quarter of an hour at least.
fn report_rate(text: &str) -> Result<f64, String> {
    match text.trim().parse() {
        Ok(rate) if (0.001..=1_000.0).contains(&rate) => Ok(rate),
        _ => Err(format!(
            "{text:?} is no number of questions per second, from 0.001 to 1000"
        )),
    }
}

/// As [`boolean`], or `auto`.
fn pgbouncer(text: &str) -> Result<PgBouncer, String> {
    // Set and empty is as good as not set.
    if text.trim().is_empty() || text.trim().eq_ignore_ascii_case("auto") {
        return Ok(PgBouncer::Auto);
    }
    match boolean(text) {
        Ok(true) => Ok(PgBouncer::Between),
        Ok(false) => Ok(PgBouncer::Absent),
        Err(_) => Err(format!("{text:?} is none of auto, true and false")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Probe {
        #[command(flatten)]
        worker: WorkerArgs,
    }

    /// An environment that holds nothing but secrets in variables, each with this value.
    fn all(value: &'static str) -> impl Fn(&str) -> Option<String> {
        each(move |_| Some(value.to_owned()))
    }

    fn each(value: impl Fn(&str) -> Option<String>) -> impl Fn(&str) -> Option<String> {
        move |name| {
            let is_secret = name.starts_with("ILETIMERKEZI_API_") && !name.ends_with("_FILE");
            is_secret.then(|| value(name)).flatten()
        }
    }

    fn worker(arguments: &[&str]) -> WorkerArgs {
        let all = ["worker", "--database-url", "postgres://localhost/x"]
            .iter()
            .chain(arguments);
        Probe::try_parse_from(all).unwrap().worker
    }

    #[test]
    fn the_defaults_fit_together() {
        let config = worker(&[]);
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_lease_within_the_request_timeout_is_refused() {
        let config = worker(&["--lease", "30s", "--request-timeout", "30s"]);
        let sentence = config.check().unwrap_err().to_string();
        assert!(sentence.contains("SMS_OUTBOX_LEASE"), "{sentence}");
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let ms = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(ms("30s"), Ok(30_000));
        assert_eq!(ms("1.5s"), Ok(1_500));
        assert_eq!(ms(" 8 m "), Ok(480_000));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("45"), Ok(45_000));
        for wrong in ["", "s", "1x", "1s 2", "-1s", "1..2s", "99999d", "∞"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_account_has_its_own_key_and_hash() {
        let config = worker(&["--accounts", "default,my-brand"]);
        let known = |name: &str| {
            [
                "ILETIMERKEZI_API_KEY",
                "ILETIMERKEZI_API_HASH",
                "ILETIMERKEZI_API_KEY_MY_BRAND",
            ]
            .contains(&name)
            .then(|| "value".to_owned())
        };
        let missing = config.provider.secrets(known).unwrap_err().to_string();
        assert!(
            missing.contains("ILETIMERKEZI_API_HASH_MY_BRAND"),
            "{missing}"
        );
        let all = config.provider.secrets(all("value")).unwrap();
        assert_eq!(
            all.iter()
                .map(|secrets| secrets.account.as_str())
                .collect::<Vec<_>>(),
            ["default", "my-brand"]
        );
        assert!(
            !format!("{all:?}").contains("value"),
            "secrets print nothing"
        );
    }

    /// What an account's key is looked up as.
    #[test]
    fn a_variable_is_called_as_its_account_in_capitals() {
        for (account, suffix) in [
            ("default", ""),
            ("marketing", "_MARKETING"),
            ("Marketing", "_MARKETING"),
            ("my-brand", "_MY_BRAND"),
            ("my_brand", "_MY_BRAND"),
            ("my brand", "_MY_BRAND"),
            ("brand.2", "_BRAND_2"),
            ("şube", "__UBE"),
            ("-", "__"),
            // Only the one that jobs have by default goes without.
            ("Default", "_DEFAULT"),
        ] {
            assert_eq!(variable_suffix(account), suffix, "{account}");
        }
    }

    #[test]
    fn accounts_whose_variables_have_one_name_are_refused() {
        let refused = |names: &str| {
            let config = worker(&["--accounts", names]).provider;
            let refused = config.secrets(all("value")).err();
            refused.map(|error| error.to_string())
        };
        for (names, one, other, variable) in [
            ("my-brand,my_brand", "my-brand", "my_brand", "_MY_BRAND"),
            ("default,shop,SHOP", "shop", "SHOP", "_SHOP"),
            ("şube,default,çube", "şube", "çube", "__UBE"),
        ] {
            let sentence = refused(names).expect(names);
            for part in [
                format!("{one:?}"),
                format!("{other:?}"),
                format!("ILETIMERKEZI_API_KEY{variable}:"),
            ] {
                assert!(sentence.contains(&part), "{part}: {sentence}");
            }
        }
        for names in ["default,Default", "shop,shop2", "shop,shop", "a-b,a,b"] {
            assert_eq!(refused(names), None, "{names}");
        }
        for names in ["", ",", " , "] {
            let sentence = refused(names).expect(names);
            assert!(sentence.contains("names no account"), "{sentence}");
        }
    }

    #[test]
    fn an_account_that_is_named_twice_is_one_account() {
        let config = worker(&["--accounts", "b, a,b ,,a,", "--concurrency", "2"]);
        assert_eq!(config.provider.names(), ["b", "a"]);
        assert_eq!(config.check(), Ok(()));
        let secrets = config.provider.secrets(all("value"));
        assert_eq!(secrets.expect("values").len(), 2);
        let one_hand = worker(&["--accounts", "b,a", "--concurrency", "1"]);
        let sentence = one_hand.check().unwrap_err().to_string();
        assert!(
            sentence.contains("the number of accounts (2)"),
            "{sentence}"
        );
    }

    #[test]
    fn an_account_that_is_declared_exclusive_has_a_key_of_its_own() {
        let config = worker(&[
            "--accounts",
            "default,shop",
            "--exclusive-accounts",
            " shop, other,",
        ]);
        assert!(config.is_exclusive("shop") && !config.is_exclusive("default"));
        assert!(!worker(&[]).is_exclusive("default"));
        let warnings = config.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("\"other\""),
            "{warnings:?}"
        );
        let with = |values: fn(&str) -> &str| {
            let secrets = config
                .provider
                .secrets(|name| (!name.ends_with("_FILE")).then(|| values(name).to_owned()));
            config.check_exclusive(&secrets.expect("values"))
        };
        assert_eq!(with(|name| name), Ok(()));
        let refused = with(|name| name.trim_end_matches("_SHOP"));
        let sentence = refused.expect_err("one key").to_string();
        assert!(sentence.contains("\"shop\"") && sentence.contains("\"default\""));
    }

    #[test]
    fn a_key_that_is_missing_or_blank_is_named_with_its_account() {
        let config = worker(&["--accounts", "default,shop"]).provider;
        for missing in [
            "ILETIMERKEZI_API_KEY",
            "ILETIMERKEZI_API_HASH",
            "ILETIMERKEZI_API_KEY_SHOP",
            "ILETIMERKEZI_API_HASH_SHOP",
        ] {
            for instead in [None, Some(String::new()), Some("  ".to_owned())] {
                let values = |name: &str| {
                    if name == missing {
                        instead.clone()
                    } else {
                        Some("value".to_owned())
                    }
                };
                let sentence = config.secrets(each(values)).unwrap_err().to_string();
                let account = if missing.ends_with("_SHOP") {
                    "shop"
                } else {
                    "default"
                };
                for part in [format!("{missing} is not set"), format!("{account:?}")] {
                    assert!(sentence.contains(&part), "{part}: {sentence}");
                }
            }
        }
    }

    #[test]
    fn two_accounts_with_one_key_are_worth_a_warning() {
        let config = worker(&["--accounts", "default,shop,other"]).provider;
        let with = |values: fn(&str) -> &str| {
            let secrets = config.secrets(each(|name| Some(values(name).to_owned())));
            shared_keys(&secrets.expect("values"))
        };
        assert_eq!(with(|name| name), Vec::<String>::new());
        let warnings = with(|name| name.trim_end_matches("_OTHER"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("\"default\" and \"other\""),
            "{warnings:?}"
        );
        assert!(!warnings[0].contains("ILETIMERKEZI_API"), "no key is shown");
    }

    #[test]
    fn a_pooler_is_between_absent_or_found_out() {
        for (arguments, expected) in [
            (&[][..], PgBouncer::Auto),
            (&["--pgbouncer=auto"], PgBouncer::Auto),
            (&["--pgbouncer="], PgBouncer::Auto),
            (&["--pgbouncer"], PgBouncer::Between),
            (&["--pgbouncer=true"], PgBouncer::Between),
            (&["--pgbouncer=FALSE"], PgBouncer::Absent),
        ] {
            assert_eq!(
                worker(arguments).database.pgbouncer,
                expected,
                "{arguments:?}"
            );
        }
        assert!(pgbouncer("perhaps").is_err());
    }
}
