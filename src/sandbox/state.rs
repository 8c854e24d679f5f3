//! What one request changes, all at once: repeats (451), the balance (402), the rate (429), and what is written down.
//!
//! Everything here happens under one lock that is never held across a wait. That makes the duplicate guard exact: of two equal
//! orders that arrive together, one is accepted and the other meets 451. Times are arguments.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::NaiveDate;

use super::delivery::{Fate, Lots};
use super::guard::{Guard, GuardKey};
use super::ledger::{LedgerEntry, RequestRecord};
use super::order::{Course, Order, Rulings, Totals};
use super::rate::SlidingSecond;
use super::rules::{
    APITEST, APITEST_TEXT, NobodyLeft, OverRate, ReportsOrder, Rules, Submission, SubmittedText,
};
use super::schedule::{Schedule, local_date};
use super::webhooks::WebhookStats;
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
    /// Events that told of messages.
    pub webhooks: WebhookStats,
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
    /// What is kept of it; `None` if nobody wants to know.
    pub order: Option<Arc<Order>>,
}

/// Why an accepted order is not dispatched: 115.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSent {
    /// Its owner cancelled it.
    Cancelled,
    /// The provider refused it afterwards.
    Refused,
}

/// What the state begins with, also after a reset.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// The accounts, by fingerprint.
    pub fingerprints: Vec<String>,
    /// Credits of each.
    pub balance_sms: u64,
    /// How much is remembered.
    pub keep: Keep,
    /// Whether a ledger file is kept, for which orders are wanted even if they are not remembered.
    pub to_file: bool,
    /// The seed of what is drawn for messages.
    pub seed: u64,
    /// The id of the first order.
    pub first_order_id: u64,
    /// The id of the first message.
    pub first_message_id: i64,
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
    /// Positions of its orders, by the day in Turkey on which they were accepted, oldest first: a page of `get-reports` costs the same
    /// however many orders there are.
    days: BTreeMap<NaiveDate, Vec<usize>>,
}

/// The state of all accounts, and everything that was written down.
#[derive(Debug)]
pub struct ProviderState {
    beginning: Beginning,
    accounts: Vec<Account>,
    next_order_id: u64,
    next_message_id: i64,
    /// When the latest order was accepted.
    latest: i64,
    orders: Vec<Arc<Order>>,
    rulings: HashMap<u64, Rulings>,
    not_sent: HashMap<u64, NotSent>,
    requests: Vec<RequestRecord>,
    by_action: [u64; Action::ALL.len()],
    stats: Stats,
}

impl ProviderState {
    /// Opens the state.
    pub fn new(beginning: Beginning) -> Self {
        let open = |fingerprint: &String| Account {
            fingerprint: fingerprint.clone(),
            balance_sms: beginning.balance_sms,
            guard: Guard::default(),
            second: SlidingSecond::default(),
            bulk_now: 0,
            days: BTreeMap::new(),
        };
        ProviderState {
            accounts: beginning.fingerprints.iter().map(open).collect(),
            next_order_id: beginning.first_order_id,
            next_message_id: beginning.first_message_id,
            latest: i64::MIN,
            orders: Vec::new(),
            rulings: HashMap::new(),
            not_sent: HashMap::new(),
            requests: Vec::new(),
            by_action: [0; Action::ALL.len()],
            stats: Stats::default(),
            beginning,
        }
    }

    /// Forgets everything but the ids, which go on.
    pub fn reset(&mut self) {
        let bulk_now: Vec<u64> = self
            .accounts
            .iter()
            .map(|account| account.bulk_now)
            .collect();
        *self = ProviderState::new(Beginning {
            first_order_id: self.next_order_id,
            first_message_id: self.next_message_id,
            ..self.beginning.clone()
        });
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

    /// Accepts an order, or says 451 or 402. `keys` are the [`Submission::guard_keys`].
    pub fn submit(
        &mut self,
        rules: &Rules,
        submission: Submission,
        keys: &[GuardKey],
        circumstances: &Circumstances,
    ) -> Result<Accepted, Refusal> {
        // Whoever comes first into the state need not have read the clock first; in the lists, later orders are the later ones.
        self.latest = self.latest.max(circumstances.now);
        let now = self.latest;
        let circumstances = &Circumstances {
            now,
            ..circumstances.clone()
        };
        let account = circumstances.account;
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

        let order_id = self.next_order_id;
        let message_id = self.next_message_id;
        let messages = submission.messages();
        self.next_order_id += 1;
        self.next_message_id += i64::try_from(messages).unwrap_or(i64::MAX);
        self.stats.accepted_orders += 1;
        self.stats.accepted_recipients += u64::try_from(messages).unwrap_or(u64::MAX);
        self.stats.accepted_unanswered += u64::from(!circumstances.replied);
        let keep = self.beginning.keep == Keep::Everything;
        let tells = rules.webhooks.address(&account.fingerprint).is_some();
        if !keep && !self.beginning.to_file && !tells {
            return Ok(Accepted {
                order_id,
                order: None,
            });
        }
        let lots = Lots {
            seed: self.beginning.seed,
            shares: rules.delivery,
            delay: rules.delivery_delay,
        };
        let order = open_order(
            (order_id, message_id),
            &account.fingerprint,
            rules,
            lots,
            submission,
            circumstances,
        );
        let order = Arc::new(order);
        if keep {
            let day = local_date(now);
            let positions = account.days.entry(day).or_default();
            positions.push(self.orders.len());
            self.orders.push(Arc::clone(&order));
        }
        Ok(Accepted {
            order_id,
            order: Some(order),
        })
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
        if self.beginning.keep == Keep::Everything {
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
    pub fn orders(&self) -> &[Arc<Order>] {
        &self.orders
    }

    /// The requests, in the order in which they were decided.
    pub fn requests(&self) -> &[RequestRecord] {
        &self.requests
    }

    /// One order, whosever it is.
    pub fn any_order(&self, order_id: u64) -> Option<&Arc<Order>> {
        let position = order_id.checked_sub(self.beginning.first_order_id)?;
        self.orders.get(usize::try_from(position).ok()?)
    }

    /// One order of one account.
    pub fn order(&self, account: usize, order_id: u64) -> Option<&Arc<Order>> {
        self.any_order(order_id)
            .filter(|order| order.account == account)
    }

    /// How many orders an account has from these days that were accepted at or before `until`, and a page of them.
    pub fn page_of_orders(
        &self,
        account: usize,
        days: (NaiveDate, NaiveDate),
        until: i64,
        order: ReportsOrder,
        page: std::ops::Range<usize>,
    ) -> (usize, Vec<&Order>) {
        let accepted_in_time =
            |position: &usize| self.orders[*position].head().accepted_at <= until;
        let mut days: Vec<&[usize]> = self.accounts[account]
            .days
            .range(days.0..=days.1)
            .map(|(_, day)| &day[..day.partition_point(accepted_in_time)])
            .collect();
        if order == ReportsOrder::Newest {
            days.reverse();
        }
        let mut listed = Vec::new();
        let mut before = 0;
        for day in &days {
            let from = page.start.saturating_sub(before).min(day.len());
            let to = page.end.saturating_sub(before).min(day.len());
            let positions = (from..to).map(|n| match order {
                ReportsOrder::Newest => day[day.len() - 1 - n],
                ReportsOrder::Oldest => day[n],
            });
            listed.extend(positions.map(|position| &*self.orders[position]));
            before += day.len();
        }
        (before, listed)
    }

    /// What somebody said of the messages of an order.
    pub fn rulings(&self, order: &Order) -> Option<&Rulings> {
        self.rulings.get(&order.id)
    }

    /// What the messages of an order have come to.
    pub fn totals(&self, order: &Order, now: i64) -> Totals {
        order.totals(now, self.rulings(order))
    }

    /// Says how the messages of an order to a number end, from now on; returns which ones, if there are any.
    pub fn rule(
        &mut self,
        order_id: u64,
        number: Option<&str>,
        fate: Fate,
        now: i64,
    ) -> Option<(Arc<Order>, Vec<usize>)> {
        let order = Arc::clone(self.any_order(order_id)?);
        let positions = order.positions(number);
        if positions.is_empty() {
            return None;
        }
        let ruled = positions
            .iter()
            .map(|index| (*index, Course { fate, at: now }));
        self.rulings.entry(order_id).or_default().extend(ruled);
        Some((order, positions))
    }

    /// Why an order is not dispatched, if it is not.
    pub fn not_sent(&self, order: &Order, now: i64) -> Option<NotSent> {
        let drawn = order.refused_at.is_some_and(|at| at <= now);
        let said = self.not_sent.get(&order.id).copied();
        said.or_else(|| drawn.then_some(NotSent::Refused))
    }

    /// Lets an accepted order turn out not to be dispatched; says whether there is such an order.
    pub fn refuse(&mut self, order_id: u64) -> bool {
        let there = self.any_order(order_id).is_some();
        if there {
            self.not_sent.insert(order_id, NotSent::Refused);
        }
        there
    }

    /// Cancels a scheduled order that has not gone out yet; 455 for any other (provider documentation, cancel-order page).
    pub fn cancel(&mut self, account: usize, order_id: u64, now: i64) -> Result<(), Refusal> {
        let pending = self
            .order(account, order_id)
            .is_some_and(|order| order.head().send_at > now && self.not_sent(order, now).is_none());
        if !pending {
            return Err(Refusal::code(455));
        }
        self.not_sent.insert(order_id, NotSent::Cancelled);
        Ok(())
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

fn open_order(
    (order_id, message_id): (u64, i64),
    fingerprint: &str,
    rules: &Rules,
    lots: Lots,
    submission: Submission,
    circumstances: &Circumstances,
) -> Order {
    let send_at = match submission.schedule {
        Schedule::AtOnce | Schedule::IgnoredSeconds => circumstances.now,
        Schedule::At(at) => at,
    };
    let nobody = submission.messages() == 0 && rules.nobody_left == NobodyLeft::NotSent;
    let refused_after = lots.refused_after(order_id).or(nobody.then_some(0));
    let reaches_nobody =
        |number: &String| rules.unreachable.contains(number) || rules.blocked.contains(number);
    let numbers = submission.texts.iter().flat_map(|text| &text.numbers);
    let unreachable = numbers
        .enumerate()
        .filter(|(_, number)| reaches_nobody(number))
        .map(|(index, _)| index)
        .collect();
    let mut first_message_id = message_id;
    let mut write_entry = |text: SubmittedText| {
        let entry = LedgerEntry {
            order_id: order_id.to_string(),
            arrived_at: circumstances.arrived_at,
            accepted_at: circumstances.now,
            account: fingerprint.to_owned(),
            sender: submission.sender.clone(),
            first_message_id,
            cost: text.cost(),
            sent_text: if submission.sender == APITEST {
                APITEST_TEXT.to_owned()
            } else {
                text.text.clone()
            },
            numbers: text.numbers,
            dropped: text.dropped,
            text: text.text,
            iys: submission.iys_list.is_some(),
            iys_list: submission.iys_list,
            send_date_time: submission.send_date_time.clone(),
            schedule_ignored: submission.schedule == Schedule::IgnoredSeconds,
            send_at,
            parts: text.parts,
            fault: circumstances.fault.clone(),
            replied: circumstances.replied,
        };
        first_message_id += i64::try_from(entry.numbers.len()).unwrap_or(i64::MAX);
        Arc::new(entry)
    };
    Order::new(
        order_id,
        circumstances.account,
        submission.texts.into_iter().map(&mut write_entry).collect(),
        unreachable,
        refused_after.map(|after| send_at.saturating_add(after)),
        lots,
    )
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::super::parts::Coding;
    use super::*;

    pub(in super::super) fn state(balance: u64) -> ProviderState {
        keeping(Keep::Everything, balance)
    }

    fn keeping(keep: Keep, balance_sms: u64) -> ProviderState {
        ProviderState::new(Beginning {
            fingerprints: vec!["one".to_owned(), "two".to_owned()],
            balance_sms,
            keep,
            to_file: false,
            seed: 1,
            first_order_id: 100,
            first_message_id: 1_000,
        })
    }

    pub(in super::super) fn submission(text: &str) -> Submission {
        Submission {
            sender: "SANDBOX".to_owned(),
            texts: vec![SubmittedText {
                text: text.to_owned(),
                numbers: vec!["905321234567".to_owned()],
                dropped: Vec::new(),
                coding: Coding::English,
                parts: 2,
            }],
            iys_list: None,
            send_date_time: None,
            schedule: Schedule::AtOnce,
        }
    }

    pub(in super::super) fn submit(
        state: &mut ProviderState,
        rules: &Rules,
        account: usize,
        now: i64,
        order: Submission,
    ) -> Result<u64, u16> {
        let keys = order.guard_keys();
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
        let mut state = keeping(Keep::CountsOnly, 100);
        assert_eq!(
            submit(&mut state, &Rules::default(), 0, 0, submission("a")),
            Ok(100)
        );
        assert!(state.orders().is_empty());
        assert_eq!(state.stats().accepted_orders, 1);
    }
}
