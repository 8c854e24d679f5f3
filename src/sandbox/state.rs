//! What one request changes, all at once: repeats (451), the balance (402), the rate (429), and what is written down.
//!
//! Everything here happens under one lock that is never held across a wait. That makes the duplicate guard exact: of two equal
//! orders that arrive together, one is accepted and the other meets 451. Times are arguments.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::guard::{Guard, GuardKey};
use super::ledger::{LedgerEntry, RequestRecord};
use super::rate::SlidingSecond;
use super::rules::{OverRate, Rules, Submission};
use super::schedule::Schedule;
use super::wire::{Action, Refusal};

/// How much is remembered in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Every accepted order and every request, with their content.
    #[default]
    Everything,
    /// Only counts, for long and fast runs. The reports then know no orders; a ledger file is written all the same.
    CountsOnly,
}

/// The counts since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Requests that arrived, by action.
    pub requests: BTreeMap<String, u64>,
    /// What was decided, by code; requests that were never looked at are not in here.
    pub codes: BTreeMap<u16, u64>,
    /// Orders accepted.
    pub accepted_orders: u64,
    /// Recipients of accepted orders.
    pub accepted_recipients: u64,
    /// Orders accepted whose answer was kept back by a fault.
    pub accepted_unanswered: u64,
    /// Requests struck by a fault.
    pub struck: u64,
    /// Requests and connections closed before anything was read.
    pub refused_connections: u64,
    /// The most recipients that arrived within any one (closed) second for one account, counted over `send-sms` requests of at most
    /// `rate_limit` recipients, whatever was answered.
    pub max_recipients_in_any_second: u64,
    /// How many of those requests came while the second was full already.
    pub over_rate: u64,
    /// The most orders of more than `rate_limit` recipients that were under way at once for one account.
    pub max_bulk_at_once: u64,
    /// Credits left, by fingerprint of the account.
    pub balance_sms: BTreeMap<String, u64>,
}

/// Where and when a request stands; goes into whatever is written down about it.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// Position of the account among those configured.
    pub account: usize,
    /// When the request had arrived.
    pub arrived_at: i64,
    /// Now.
    pub now: i64,
    /// The fault that struck it.
    pub fault: Option<String>,
    /// Whether the answer will be given.
    pub replied: bool,
}

/// An order that was accepted.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Its id.
    pub order_id: u64,
    /// What the ledger says; `None` if nobody wants to know.
    pub entry: Option<Arc<LedgerEntry>>,
}

/// Is an account within its rate?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Go on.
    Fine,
    /// The request is to be answered with 429.
    Throttled,
}

#[derive(Debug)]
struct Account {
    fingerprint: String,
    balance_sms: u64,
    guard: Guard,
    second: SlidingSecond,
    bulk_now: u64,
}

/// The state of all accounts, and everything that was written down.
#[derive(Debug)]
pub struct ProviderState {
    accounts: Vec<Account>,
    keep: Keep,
    to_file: bool,
    first_id: u64,
    next_id: u64,
    entries: Vec<Arc<LedgerEntry>>,
    requests: Vec<RequestRecord>,
    cancelled: HashMap<u64, i64>,
    by_action: [u64; Action::ALL.len()],
    stats: Stats,
}

impl ProviderState {
    /// Opens the state for accounts with these fingerprints. `to_file`: entries are wanted even if they are not kept.
    pub fn new(
        fingerprints: Vec<String>,
        balance_sms: u64,
        keep: Keep,
        to_file: bool,
        first_id: u64,
    ) -> Self {
        let open = |fingerprint| Account {
            fingerprint,
            balance_sms,
            guard: Guard::default(),
            second: SlidingSecond::default(),
            bulk_now: 0,
        };
        ProviderState {
            accounts: fingerprints.into_iter().map(open).collect(),
            keep,
            to_file,
            first_id,
            next_id: first_id,
            entries: Vec::new(),
            requests: Vec::new(),
            cancelled: HashMap::new(),
            by_action: [0; Action::ALL.len()],
            stats: Stats::default(),
        }
    }

    /// Forgets everything but the order ids, which go on.
    pub fn reset(&mut self, balance_sms: u64) {
        let fingerprints = self
            .accounts
            .iter()
            .map(|account| account.fingerprint.clone())
            .collect();
        let bulk_now: Vec<u64> = self
            .accounts
            .iter()
            .map(|account| account.bulk_now)
            .collect();
        *self = ProviderState::new(
            fingerprints,
            balance_sms,
            self.keep,
            self.to_file,
            self.next_id,
        );
        for (account, bulk_now) in self.accounts.iter_mut().zip(bulk_now) {
            account.bulk_now = bulk_now;
        }
    }

    /// Counts the recipients of a `send-sms` request against the account's rate.
    pub fn pace(
        &mut self,
        account: usize,
        arrived_at: i64,
        recipients: usize,
        rules: &Rules,
    ) -> Pace {
        let recipients = u64::try_from(recipients).unwrap_or(u64::MAX);
        if is_bulk(recipients, rules) {
            return Pace::Fine;
        }
        let second = &mut self.accounts[account].second;
        let sum = second.add(arrived_at, recipients);
        self.stats.max_recipients_in_any_second = self
            .stats
            .max_recipients_in_any_second
            .max(second.largest());
        if rules.rate_limit == 0 || sum <= u64::from(rules.rate_limit) {
            return Pace::Fine;
        }
        self.stats.over_rate += 1;
        match rules.over_rate {
            OverRate::Count => Pace::Fine,
            OverRate::Answer429 => Pace::Throttled,
        }
    }

    /// Accepts an order, or says 451 or 402. `keys` are the [`super::guard::guard_keys`] of the submission.
    pub fn submit(
        &mut self,
        rules: &Rules,
        submission: Submission,
        keys: &[GuardKey],
        circumstances: &Circumstances,
    ) -> Result<Accepted, Refusal> {
        let Circumstances { account, now, .. } = *circumstances;
        let window = i64::try_from(rules.guard_window.as_micros()).unwrap_or(i64::MAX);
        let account = &mut self.accounts[account];
        if account
            .guard
            .refuses(keys, now, window, rules.guard_overlap)
        {
            return Err(Refusal::code(451));
        }
        let cost = submission.cost();
        let Some(rest) = account.balance_sms.checked_sub(cost) else {
            if rules.refusals_arm_guard {
                account.guard.arm(keys, now, window);
            }
            return Err(Refusal::code(402));
        };
        account.balance_sms = rest;
        account.guard.arm(keys, now, window);

        let order_id = self.next_id;
        self.next_id += 1;
        self.stats.accepted_orders += 1;
        self.stats.accepted_recipients +=
            u64::try_from(submission.numbers.len()).unwrap_or(u64::MAX);
        self.stats.accepted_unanswered += u64::from(!circumstances.replied);
        let wanted = self.keep == Keep::Everything || self.to_file;
        let entry = wanted.then(|| {
            Arc::new(write_entry(
                order_id,
                &account.fingerprint,
                cost,
                submission,
                circumstances,
            ))
        });
        if self.keep == Keep::Everything {
            self.entries.extend(entry.clone());
        }
        Ok(Accepted { order_id, entry })
    }

    /// Writes down that a request arrived. `describe` is called only if requests are kept.
    pub fn note_request(
        &mut self,
        action: Action,
        code: Option<u16>,
        struck: bool,
        describe: impl FnOnce() -> RequestRecord,
    ) {
        if let Some(count) = Action::ALL
            .iter()
            .position(|a| *a == action)
            .and_then(|at| self.by_action.get_mut(at))
        {
            *count += 1;
        }
        if let Some(code) = code {
            *self.stats.codes.entry(code).or_default() += 1;
        }
        self.stats.struck += u64::from(struck);
        if self.keep == Keep::Everything {
            self.requests.push(describe());
        }
    }

    /// Counts a connection or a request that was closed unread.
    pub fn note_refused_connection(&mut self) {
        self.stats.refused_connections += 1;
    }

    /// A request with so many recipients is under way; says whether [`ProviderState::bulk_ended`] has to be called when it is over.
    pub fn bulk_began(&mut self, account: usize, recipients: usize, rules: &Rules) -> bool {
        let bulk = is_bulk(u64::try_from(recipients).unwrap_or(u64::MAX), rules);
        if bulk {
            let now = &mut self.accounts[account].bulk_now;
            *now += 1;
            self.stats.max_bulk_at_once = self.stats.max_bulk_at_once.max(*now);
        }
        bulk
    }

    /// A bulk request is over.
    pub fn bulk_ended(&mut self, account: usize) {
        self.accounts[account].bulk_now -= 1;
    }

    /// Credits left.
    pub fn balance(&self, account: usize) -> u64 {
        self.accounts[account].balance_sms
    }

    /// Changes the credits of every account.
    pub fn change_balances(&mut self, change: impl Fn(u64) -> u64) {
        for account in &mut self.accounts {
            account.balance_sms = change(account.balance_sms);
        }
    }

    /// The position of the account with this fingerprint.
    pub fn account_named(&self, fingerprint: &str) -> Option<usize> {
        self.accounts
            .iter()
            .position(|account| account.fingerprint == fingerprint)
    }

    /// Changes the credits of one account.
    pub fn change_balance(&mut self, account: usize, change: impl FnOnce(u64) -> u64) {
        let balance = &mut self.accounts[account].balance_sms;
        *balance = change(*balance);
    }

    /// The orders, in the order in which they were accepted.
    pub fn entries(&self) -> &[Arc<LedgerEntry>] {
        &self.entries
    }

    /// The requests, in the order in which they were decided.
    pub fn requests(&self) -> &[RequestRecord] {
        &self.requests
    }

    /// One order of one account.
    pub fn order(&self, account: usize, order_id: u64) -> Option<&Arc<LedgerEntry>> {
        let position = usize::try_from(order_id.checked_sub(self.first_id)?).ok()?;
        let fingerprint = &self.accounts[account].fingerprint;
        self.entries
            .get(position)
            .filter(|entry| entry.account == *fingerprint)
    }

    /// When an order was cancelled, if it was.
    pub fn cancelled_at(&self, order_id: u64) -> Option<i64> {
        self.cancelled.get(&order_id).copied()
    }

    /// Cancels a scheduled order that has not gone out yet; 455 for any other (provider documentation, cancel-order page).
    pub fn cancel(&mut self, account: usize, order_id: u64, now: i64) -> Result<(), Refusal> {
        let pending = self
            .order(account, order_id)
            .is_some_and(|entry| entry.send_at > now);
        if !pending || self.cancelled.contains_key(&order_id) {
            return Err(Refusal::code(455));
        }
        self.cancelled.insert(order_id, now);
        Ok(())
    }

    /// The fingerprint of an account.
    pub fn fingerprint(&self, account: usize) -> &str {
        &self.accounts[account].fingerprint
    }

    /// How many orders were accepted.
    pub fn accepted_orders(&self) -> u64 {
        self.stats.accepted_orders
    }

    /// How many requests arrived for an action.
    pub fn requests_for(&self, action: Action) -> u64 {
        Action::ALL
            .iter()
            .position(|a| *a == action)
            .map_or(0, |at| self.by_action[at])
    }

    /// The counts.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.requests = Action::ALL
            .iter()
            .zip(self.by_action)
            .map(|(action, n)| (action.name().to_owned(), n))
            .collect();
        stats.balance_sms = self
            .accounts
            .iter()
            .map(|a| (a.fingerprint.clone(), a.balance_sms))
            .collect();
        stats
    }
}

/// More recipients than a second may hold: such an order follows the provider's limit for bulk, one after another.
fn is_bulk(recipients: u64, rules: &Rules) -> bool {
    rules.rate_limit > 0 && recipients > u64::from(rules.rate_limit)
}

fn write_entry(
    order_id: u64,
    fingerprint: &str,
    cost: u64,
    submission: Submission,
    circumstances: &Circumstances,
) -> LedgerEntry {
    let sent_text = submission.sent_text().to_owned();
    LedgerEntry {
        order_id: order_id.to_string(),
        arrived_at: circumstances.arrived_at,
        accepted_at: circumstances.now,
        account: fingerprint.to_owned(),
        sender: submission.sender,
        numbers: submission.numbers,
        dropped: submission.dropped,
        text: submission.text,
        sent_text,
        iys: submission.iys_list.is_some(),
        iys_list: submission.iys_list,
        send_date_time: submission.send_date_time,
        schedule_ignored: submission.schedule == Schedule::IgnoredSeconds,
        send_at: match submission.schedule {
            Schedule::AtOnce | Schedule::IgnoredSeconds => circumstances.now,
            Schedule::At(at) => at,
        },
        parts: submission.parts,
        cost,
        fault: circumstances.fault.clone(),
        replied: circumstances.replied,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::super::guard::guard_keys;
    use super::super::parts::Coding;
    use super::*;

    pub(in super::super) fn state(balance: u64) -> ProviderState {
        ProviderState::new(
            vec!["one".to_owned(), "two".to_owned()],
            balance,
            Keep::Everything,
            false,
            100,
        )
    }

    pub(in super::super) fn submission(text: &str) -> Submission {
        Submission {
            sender: "SANDBOX".to_owned(),
            text: text.to_owned(),
            numbers: vec!["905321234567".to_owned()],
            dropped: Vec::new(),
            iys_list: None,
            send_date_time: None,
            schedule: Schedule::AtOnce,
            coding: Coding::English,
            parts: 2,
        }
    }

    pub(in super::super) fn submit(
        state: &mut ProviderState,
        rules: &Rules,
        account: usize,
        now: i64,
        order: Submission,
    ) -> Result<u64, u16> {
        let keys = guard_keys(&order.sender, &order.text, &order.numbers);
        let circumstances = Circumstances {
            account,
            arrived_at: now,
            now,
            fault: None,
            replied: true,
        };
        state
            .submit(rules, order, &keys, &circumstances)
            .map(|a| a.order_id)
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn an_order_costs_its_recipients_times_its_parts() {
        let mut state = state(5);
        let rules = Rules::default();
        assert_eq!(submit(&mut state, &rules, 0, 0, submission("a")), Ok(100));
        assert_eq!(submit(&mut state, &rules, 0, 0, submission("b")), Ok(101));
        assert_eq!(state.balance(0), 1);
        assert_eq!(submit(&mut state, &rules, 0, 0, submission("c")), Err(402));
        assert_eq!((state.balance(0), state.balance(1)), (1, 5));
        state.change_balances(|balance| balance + 1);
        assert_eq!(
            submit(&mut state, &rules, 0, 0, submission("c")),
            Ok(102),
            "a refusal did not arm the guard"
        );
    }

    #[test]
    fn a_repeat_is_451_until_the_window_has_passed_and_does_not_prolong_it() {
        let mut state = state(100);
        let rules = Rules {
            guard_window: Duration::from_micros(600),
            ..Rules::default()
        };
        assert_eq!(submit(&mut state, &rules, 0, 0, submission("a")), Ok(100));
        assert_eq!(
            submit(&mut state, &rules, 0, 599, submission("a")),
            Err(451)
        );
        assert_eq!(
            submit(&mut state, &rules, 1, 599, submission("a")),
            Ok(101),
            "accounts are apart"
        );
        assert_eq!(submit(&mut state, &rules, 0, 600, submission("a")), Ok(102));
        assert_eq!(state.balance(0), 96, "a 451 costs nothing");
    }

    #[test]
    fn a_refusal_for_the_balance_arms_the_guard_only_if_asked_to() {
        let mut state = state(0);
        let rules = Rules {
            refusals_arm_guard: true,
            ..Rules::default()
        };
        assert_eq!(submit(&mut state, &rules, 0, 0, submission("a")), Err(402));
        assert_eq!(submit(&mut state, &rules, 0, 1, submission("a")), Err(451));
    }

    #[test]
    fn the_rate_counts_recipients_per_account_and_leaves_bulk_orders_out() {
        let mut state = state(0);
        let mut rules = Rules {
            rate_limit: 10,
            ..Rules::default()
        };
        assert_eq!(state.pace(0, 0, 10, &rules), Pace::Fine);
        assert_eq!(
            state.pace(1, 0, 10, &rules),
            Pace::Fine,
            "accounts are apart"
        );
        assert_eq!(state.pace(0, 0, 11, &rules), Pace::Fine, "bulk");
        assert_eq!(
            state.pace(0, 500_000, 1, &rules),
            Pace::Fine,
            "counted only"
        );
        rules.over_rate = OverRate::Answer429;
        assert_eq!(state.pace(0, 500_000, 1, &rules), Pace::Throttled);
        assert_eq!(state.stats().over_rate, 2);
        assert_eq!(state.stats().max_recipients_in_any_second, 12);
    }

    #[test]
    fn only_a_scheduled_order_can_be_cancelled_and_only_once() {
        let mut state = state(100);
        let rules = Rules::default();
        let scheduled = Submission {
            schedule: Schedule::At(50),
            ..submission("later")
        };
        assert_eq!(submit(&mut state, &rules, 0, 0, submission("now")), Ok(100));
        assert_eq!(submit(&mut state, &rules, 0, 0, scheduled), Ok(101));
        assert_eq!(state.cancel(0, 100, 10).map_err(|r| r.code), Err(455));
        assert_eq!(
            state.cancel(1, 101, 10).map_err(|r| r.code),
            Err(455),
            "another account's"
        );
        assert_eq!(state.cancel(0, 101, 10), Ok(()));
        assert_eq!(state.cancel(0, 101, 10).map_err(|r| r.code), Err(455));
    }

    #[test]
    fn counts_only_keeps_no_content() {
        let mut state =
            ProviderState::new(vec!["one".to_owned()], 100, Keep::CountsOnly, false, 100);
        assert_eq!(
            submit(&mut state, &Rules::default(), 0, 0, submission("a")),
            Ok(100)
        );
        assert!(state.entries().is_empty());
        assert_eq!(state.stats().accepted_orders, 1);
    }
}
