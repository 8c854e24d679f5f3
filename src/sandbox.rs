//! A stand-in for the iletiMerkezi SMS API on localhost: the same paths, fields, codes and oddities, no messages and no bills.
//!
//! The provider has no test environment; whoever writes against its API needs something to call that behaves like it, including on
//! its bad days. The sandbox follows the provider's documentation (its pages are named where a rule comes from them). Where they are
//! silent or contradict each other, the choice is a setting in [`Rules`], or stated beside the code.
//!
//! It shares no code with the worker of this crate, so that one misreading of the documentation cannot hide in both.
//!
//! | part | is about |
//! |---|---|
//! | `wire` | the JSON: what is found where, how replies are dressed |
//! | `rules`, `numbers`, `parts`, `schedule` | what is said to an order on its own (pure) |
//! | `state`, `guard`, `rate` | what depends on earlier orders: 451, 402, the rate; time is an argument (pure) |
//! | `order`, `delivery`, `dice` | what becomes of an accepted order: drawn, and said (pure) |
//! | `reports`, `price`, `lists` | what is told about earlier orders; whom an account may reach (pure) |
//! | `webhooks` | the events that tell of messages, and the task that sends them |
//! | `faults` | faults on demand |
//! | `ledger` | what is written down |
//! | `api`, `admin`, `link` | HTTP: the provider's part, the sandbox's own part, sockets that can be cut |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sms_outbox::sandbox::{Fault, FaultKind, Sandbox, SandboxConfig};
//!
//! let sandbox = Sandbox::start(SandboxConfig::default()).await?;
//! let control = sandbox.handle();
//! control.add_fault(Fault::next(2, FaultKind::AcceptDrop));
//! println!("POST {}/v1/send-sms/json", sandbox.base_url());
//! // … two orders are accepted, and nobody is told …
//! assert_eq!(control.stats().accepted_unanswered, 2);
//! sandbox.stop().await;
//! # Ok(()) }
//! ```

mod admin;
mod api;
mod delivery;
mod dice;
mod faults;
mod guard;
mod ledger;
mod link;
mod lists;
mod numbers;
mod order;
mod parts;
mod price;
mod rate;
mod reports;
mod rules;
mod schedule;
mod span;
mod state;
mod webhooks;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub use delivery::{DeliveryError, DeliveryShares, Fate};
pub use faults::{
    ActionMatch, Fault, FaultError, FaultKind, FaultMatch, FaultStatus, Times, WebhookFault,
};
pub use guard::Overlap;
pub use ledger::{LedgerEntry, LedgerFilter, RequestRecord, fingerprint};
pub use numbers::NumberSet;
pub use price::{Price, PriceError};
pub use rules::{
    APITEST, APITEST_TEXT, CancelledShows, IysList, MissingConsent, NobodyLeft, OverRate,
    ReportsOrder, Rules, Unsendable,
};
pub use span::{Span, SpanError, parse_duration, show_duration};
pub use state::{Keep, Stats};
pub use webhooks::{
    WebhookEvent, WebhookRecord, WebhookRules, WebhookStats, WebhookUrl, WebhookUrlError,
};
pub use wire::{Action, HttpStatus, IdShape, OrderIdShape, ReplyStyle, Shape};

use api::{Account, Clock, Shared};
use faults::FaultPlan;
use ledger::{LedgerFile, UsedIds};
use link::{Door, Links};
use state::{Beginning, ProviderState};
use webhooks::Webhooks;

/// What a sandbox starts with. The parts that may change while it runs are in [`SandboxConfig::rules`] and
/// [`SandboxConfig::faults`].
#[derive(Clone)]
pub struct SandboxConfig {
    /// Where it listens; port 0 (the default) takes any free port.
    pub listen: SocketAddr,
    /// `authentication.key` of the account; default `sandbox-key`.
    pub key: String,
    /// `authentication.hash` of the account; default `sandbox-hash`.
    pub hash: String,
    /// Further accounts as key and hash. Each has its own balance, duplicate guard and rate; senders and settings are shared.
    pub further_accounts: Vec<(String, String)>,
    /// Credits that each account starts with; one pays for one part to one recipient. Default one billion.
    pub balance_sms: u64,
    /// Accepted orders are appended to this file, one JSON object per line. A file that exists is continued, and so are its order ids.
    pub ledger_file: Option<PathBuf>,
    /// How much is kept in memory; default everything.
    pub keep: Keep,
    /// The faults that it starts with.
    pub faults: Vec<Fault>,
    /// The seed of everything drawn: chances and lengths of time.
    pub seed: u64,
    /// The id of the first order, unless a ledger file is continued; default about where the provider's ids stand.
    pub first_order_id: u64,
    /// The id of the first message, as webhooks say it; default that of the documentation's sample, not far below what 32 bits hold
    /// with a sign.
    pub first_message_id: i64,
    /// The account's settings and the readings of the documentation.
    pub rules: Rules,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        SandboxConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            key: "sandbox-key".to_owned(),
            hash: "sandbox-hash".to_owned(),
            further_accounts: Vec::new(),
            balance_sms: 1_000_000_000,
            ledger_file: None,
            keep: Keep::default(),
            faults: Vec::new(),
            seed: 1,
            first_order_id: 312_891_245,
            first_message_id: 1_599_558_518,
            rules: Rules::default(),
        }
    }
}

impl fmt::Debug for SandboxConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Someone may try it with their real key.
        f.debug_struct("SandboxConfig")
            .field("listen", &self.listen)
            .field("accounts", &(1 + self.further_accounts.len()))
            .field("ledger_file", &self.ledger_file)
            .finish_non_exhaustive()
    }
}

/// A sandbox that could not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The address cannot be listened on.
    #[error("the sandbox cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The ledger file cannot be read or appended to.
    #[error("the sandbox cannot keep its ledger in {path}")]
    LedgerFile {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The client that sends events cannot be set up.
    #[error("the sandbox cannot set up its HTTP client")]
    Client(#[source] reqwest::Error),
    /// The accounts make no sense.
    #[error("the sandbox needs a key and a hash for every account, and every key only once")]
    Accounts,
}

/// A running sandbox. Dropping it stops it.
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    courier: JoinHandle<()>,
}

impl Sandbox {
    /// Opens the ledger, listens and begins to answer, within the current tokio runtime.
    pub async fn start(config: SandboxConfig) -> Result<Sandbox, SandboxError> {
        let accounts = accounts(&config)?;
        let (file, used) = match &config.ledger_file {
            None => (None, UsedIds::default()),
            Some(path) => {
                let opened = LedgerFile::open(path).map_err(|source| SandboxError::LedgerFile {
                    path: path.clone(),
                    source,
                })?;
                (Some(opened.0), opened.1)
            }
        };
        let client = webhooks::client().map_err(SandboxError::Client)?;
        let faults = FaultPlan::new(config.seed);
        faults.set(config.faults.clone());
        let fingerprints = accounts
            .iter()
            .map(|account| account.fingerprint.clone())
            .collect();
        let links = Arc::new(Links::default());
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            accounts,
            state: Mutex::new(ProviderState::new(Beginning {
                fingerprints,
                balance_sms: config.balance_sms,
                keep: config.keep,
                to_file: file.is_some(),
                seed: config.seed,
                first_order_id: used.order.map_or(config.first_order_id, |id| id + 1),
                first_message_id: used.next_message.unwrap_or(config.first_message_id),
            })),
            faults,
            webhooks: Webhooks::new(config.keep),
            lists: Mutex::default(),
            file,
            links: Arc::clone(&links),
            releases: watch::Sender::new(0),
            held: AtomicU64::new(0),
            progress: Notify::new(),
            first_rules: config.rules.clone(),
            rules: RwLock::new(Arc::new(config.rules)),
        });

        let doorman = Arc::clone(&shared);
        let turns_away = Box::new(move || {
            let refused = doorman.faults.refuses();
            if refused {
                doorman.state().note_refused_connection();
            }
            refused
        });
        let listening = Door::open(config.listen, links, turns_away).await;
        let door = listening.map_err(|source| SandboxError::Listen {
            address: config.listen,
            source,
        })?;
        let address = door.address();
        let app = admin::routes()
            .fallback(api::answer)
            .with_state(Arc::clone(&shared));
        let service = app.into_make_service_with_connect_info::<link::Caller>();
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(door, service).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the sandbox stopped serving"
                );
            }
        });
        let courier = tokio::spawn(webhooks::run(Arc::clone(&shared), client));
        tracing::info!(%address, "the sandbox is listening");
        Ok(Sandbox {
            address,
            shared,
            server,
            courier,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What takes the place of `https://api.iletimerkezi.com`, such as `http://127.0.0.1:8025`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Control from within this process. Handles may be cloned, and outlive the sandbox: what was written down stays readable.
    pub fn handle(&self) -> SandboxHandle {
        SandboxHandle(Arc::clone(&self.shared))
    }

    /// Stops listening, ends every connection, replied or not, and sends no more events. When it returns, the port is free.
    pub async fn stop(mut self) {
        self.end();
        // The tasks end by being aborted, which is an error only by name.
        let _ = (&mut self.server).await;
        let _ = (&mut self.courier).await;
    }

    fn end(&self) {
        self.shared.links.end();
        self.server.abort();
        self.courier.abort();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end();
    }
}

fn accounts(config: &SandboxConfig) -> Result<Vec<Account>, SandboxError> {
    let first = (config.key.clone(), config.hash.clone());
    let mut accounts: Vec<Account> = Vec::new();
    for (key, hash) in std::iter::once(first).chain(config.further_accounts.iter().cloned()) {
        let taken = accounts.iter().any(|account| account.key == key);
        if key.is_empty() || hash.is_empty() || taken {
            return Err(SandboxError::Accounts);
        }
        let fingerprint = fingerprint(&key);
        accounts.push(Account {
            key,
            hash,
            fingerprint,
        });
    }
    Ok(accounts)
}

/// Controls a sandbox from within its process, and reads what it wrote down.
#[derive(Clone)]
pub struct SandboxHandle(Arc<Shared>);

impl SandboxHandle {
    /// Replaces all faults.
    pub fn set_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.faults.set(faults);
    }

    /// Adds a fault behind those that are set.
    pub fn add_fault(&self, fault: Fault) {
        self.0.faults.add(fault);
    }

    /// Takes all faults away. What stalls or is held goes on stalling or being held.
    pub fn clear_faults(&self) {
        self.0.faults.set([]);
    }

    /// The faults that are set, and how often each struck.
    pub fn faults(&self) -> Vec<FaultStatus> {
        self.0.faults.status()
    }

    /// Lets everything go that a `hold` or `accept-hold` keeps.
    pub fn release(&self) {
        self.0.releases.send_modify(|releases| *releases += 1);
    }

    /// How many requests and replies are held now.
    pub fn held(&self) -> u64 {
        self.0.held.load(Ordering::SeqCst)
    }

    /// The settings of this moment.
    pub fn rules(&self) -> Arc<Rules> {
        self.0.rules()
    }

    /// Changes settings; requests that are decided from now on see all of the change.
    pub fn change_rules(&self, change: impl FnOnce(&mut Rules)) {
        self.0.change_rules(change);
    }

    /// The panel's switch for the API. While it is off, every call answers 401.
    pub fn set_api_access(&self, on: bool) {
        self.change_rules(|rules| rules.api_access = on);
    }

    /// Approves a sender.
    pub fn approve_sender(&self, sender: &str) {
        self.change_rules(|rules| {
            rules.senders.insert(sender.to_owned());
        });
    }

    /// Takes a sender's approval back: 450 from now on.
    pub fn withdraw_sender(&self, sender: &str) {
        self.change_rules(|rules| {
            rules.senders.remove(sender);
        });
    }

    /// Adds credits to every account.
    pub fn top_up(&self, sms: u64) {
        self.0
            .state()
            .change_balances(|balance| balance.saturating_add(sms));
    }

    /// Sets the credits of every account.
    pub fn set_balance(&self, sms: u64) {
        self.0.state().change_balances(|_| sms);
    }

    /// Credits of the first account.
    pub fn balance(&self) -> u64 {
        self.0.state().balance(0)
    }

    /// All accepted orders, oldest first.
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.ledger_where(&LedgerFilter::default())
    }

    /// The accepted orders that a filter wants, oldest first.
    pub fn ledger_where(&self, filter: &LedgerFilter) -> Vec<LedgerEntry> {
        // Copying pointers is quick; reading the entries need not keep the state from others.
        let orders = self.0.state().orders().to_vec();
        let wanted: Vec<LedgerEntry> = orders
            .iter()
            .flat_map(|order| &order.texts)
            .filter(|entry| filter.fits(entry))
            .map(|e| LedgerEntry::clone(e))
            .collect();
        let surplus = filter
            .limit
            .map_or(0, |limit| wanted.len().saturating_sub(limit));
        wanted.into_iter().skip(surplus).collect()
    }

    /// Says how an order's messages to a number end (to every number, without one), from now on and whatever was drawn for them.
    /// Later words count more than earlier ones: a message that was undelivered can still be delivered. Returns how many messages
    /// that concerned; none if there is no such order, or no such number in it. Their events leave at once.
    pub fn deliver(&self, order_id: &str, number: Option<&str>, fate: Fate) -> usize {
        let now = self.0.clock.now();
        let order_id = order_id.parse().ok();
        let ruled = order_id.and_then(|id| self.0.state().rule(id, number, fate, now));
        let Some((order, positions)) = ruled else {
            return 0;
        };
        self.0.announce_said(&order, &positions, fate, now);
        positions.len()
    }

    /// Lets an accepted order turn out not to be dispatched: 115. Says whether there is such an order.
    pub fn refuse_order(&self, order_id: &str) -> bool {
        let order_id = order_id.parse().ok();
        order_id.is_some_and(|id| self.0.state().refuse(id))
    }

    /// The events that would tell this of an order's messages to a number (to every number, without one). Nothing is sent: they are
    /// for [`SandboxHandle::send_event`], as they are or made wrong.
    pub fn events(&self, order_id: &str, number: Option<&str>, status: &str) -> Vec<WebhookEvent> {
        let found = order_id
            .parse()
            .ok()
            .and_then(|id| self.0.state().any_order(id).cloned());
        let Some(order) = found else {
            return Vec::new();
        };
        let events = order.positions(number).into_iter();
        events
            .filter_map(|index| self.0.event(&order, index, status))
            .collect()
    }

    /// Sends an event as it stands, now and so many times: to the address of the account whose order it names, or of the first
    /// account if that is none of the sandbox's. Says whether there is such an address.
    pub fn send_event(&self, event: &WebhookEvent, times: usize) -> bool {
        let order_id = u64::try_from(event.packet_id).ok();
        let account = order_id
            .and_then(|id| self.0.state().any_order(id).map(|order| order.account))
            .unwrap_or_default();
        let fingerprint = &self.0.accounts[account].fingerprint;
        let there = self.0.rules().webhooks.address(fingerprint).is_some();
        if there {
            let now = self.0.clock.now();
            self.0.webhooks.send(account, event, times, now);
        }
        there
    }

    /// What was sent to receivers, oldest first.
    pub fn webhooks(&self) -> Vec<WebhookRecord> {
        self.0.webhooks.records().clone()
    }

    /// Waits until receivers took so many events; `false` if that has not come after `within`.
    pub async fn told(&self, events: u64, within: Duration) -> bool {
        self.wait(within, |sandbox| sandbox.0.webhooks.stats().taken >= events)
            .await
    }

    /// Waits until no event waits or is on its way; `false` if that has not come after `within`.
    pub async fn told_all(&self, within: Duration) -> bool {
        self.wait(within, |sandbox| sandbox.0.webhooks.stats().waiting == 0)
            .await
    }

    /// All requests that arrived, in the order in which they were decided.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.0.state().requests().to_vec()
    }

    /// How many requests arrived for an action.
    pub fn requests_for(&self, action: Action) -> u64 {
        self.0.state().requests_for(action)
    }

    /// The counts.
    pub fn stats(&self) -> Stats {
        Stats {
            webhooks: self.0.webhooks.stats(),
            ..self.0.state().stats()
        }
    }

    /// The most recipients that arrived within any one closed second for one account. Orders of more than `rate_limit` recipients
    /// (bulk) are not in it.
    pub fn max_recipients_in_any_second(&self) -> u64 {
        self.stats().max_recipients_in_any_second
    }

    /// Ends every open connection as if the network did.
    pub fn cut_connections(&self) {
        self.0.links.cut_all(link::Cut::Reset);
    }

    /// Shuts the port for so long: connecting is refused, open connections are reset. Returns when it is shut.
    pub async fn go_away(&self, length: Duration) {
        self.0.links.go_away(length).await;
    }

    /// Waits until so many orders were accepted; `false` if that has not come after `within`.
    pub async fn accepted(&self, orders: u64, within: Duration) -> bool {
        self.wait(within, |sandbox| {
            sandbox.0.state().accepted_orders() >= orders
        })
        .await
    }

    /// Waits until so many requests for an action were decided; `false` if that has not come after `within`.
    pub async fn requested(&self, action: Action, count: u64, within: Duration) -> bool {
        self.wait(within, |sandbox| sandbox.requests_for(action) >= count)
            .await
    }

    /// Waits until so many requests and replies are held; `false` if that has not come after `within`.
    pub async fn holds(&self, count: u64, within: Duration) -> bool {
        self.wait(within, |sandbox| sandbox.held() >= count).await
    }

    async fn wait(&self, within: Duration, come: impl Fn(&Self) -> bool) -> bool {
        let waiting = async {
            loop {
                // Listen first, look second: nothing falls between.
                let mut progress = std::pin::pin!(self.0.progress.notified());
                progress.as_mut().enable();
                if come(self) {
                    return;
                }
                progress.await;
            }
        };
        tokio::time::timeout(within, waiting).await.is_ok()
    }

    /// Back to the beginning: nothing written down, no faults, the first settings and balances. What is held is let go. Order ids
    /// go on, and the ledger file keeps what it has.
    pub fn reset(&self) {
        self.clear_faults();
        self.release();
        self.change_rules(|rules| *rules = self.0.first_rules.clone());
        self.0.state().reset();
        self.0.webhooks.reset();
        *self.0.lists() = lists::Lists::default();
    }
}
