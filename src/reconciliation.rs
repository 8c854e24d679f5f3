//! The rules of reconciliation: which orders in the provider's reports can belong to a job whose answer was lost, and when
//! is that certain?
//!
//! The reports show sender, number of messages, time and numbers of an order, and never its text (provider documentation,
//! get-reports and get-report). So one order that fits, that belongs to no job of ours, and that no other message of ours can
//! have made, is strong evidence where nobody else sends with the account, and a person's to judge elsewhere: the panel, another
//! program or another queue may have made it. Nothing that fits is weak evidence, because nobody knows how soon an order
//! becomes visible.
//!
//! Nothing here knows a database, a socket or a clock.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Europe::Istanbul;
use uuid::Uuid;

use crate::{lifecycle::OrderId, message::Recipient};

/// The settings of reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconciling {
    /// The time between two report calls of one account. The provider's limit is not documented; one call a second is assumed
    /// to be safe.
    pub spacing: Duration,
    /// So long after the last request, no match means that there is no order.
    pub settle: Duration,
    /// How far the provider's clock and ours may be apart.
    pub margin: Duration,
    /// Whether nobody and nothing else sends with the account.
    pub is_exclusive: bool,
}

/// One order, as the provider lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedOrder {
    /// Its number.
    pub id: OrderId,
    /// Its header.
    pub sender: String,
    /// How many messages it has.
    pub total: u64,
    /// When the provider took it, to the second.
    pub submitted_at: DateTime<Utc>,
    /// 113: being sent, 114: every message final, 115: not sent; `None`: not readable.
    pub status: Option<i64>,
    /// How many of them have reached their phones, where the provider says so.
    pub delivered: Option<u64>,
    /// How many of them never will.
    pub undelivered: Option<u64>,
}

/// A job that is being reconciled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconciliationTask {
    /// The job.
    pub job: Uuid,
    /// Its last claim.
    pub token: i32,
    /// Its header.
    pub sender: String,
    /// The numbers that were sent to.
    pub numbers: BTreeSet<Recipient>,
    /// Whether it is known to have been accepted, and only its order is not: a 451, or a 200 that named none.
    pub is_sent: bool,
    /// Whether it markets something: then recipients without consent may be missing from the order.
    pub is_commercial: bool,
    /// When the first request began that may have been accepted.
    pub since: DateTime<Utc>,
    /// When the last one ended without an answer.
    pub until: DateTime<Utc>,
    /// How long ago that is.
    pub settled_for: Duration,
    /// How many scans there were before.
    pub scans: u32,
    /// How many of the latest scans found no match.
    pub clean_scans: u32,
}

/// The result of one scan for one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Exactly one order fits, and no other message can have made it.
    Found(ListedOrder),
    /// Exactly one order fits, and no other message of ours can have made it; but others send with the account as well: a person
    /// has to say whether it is the one.
    Candidate,
    /// No order fits, and by now it would be visible.
    None,
    /// Several orders fit, or one that another message of ours may have made: a person has to resolve it.
    Several,
    /// Not certain yet: another scan follows.
    Again {
        /// Whether all reports were read and no order fits. `None`: not all could be read.
        clean: Option<bool>,
        /// When the next scan is due.
        after: Duration,
    },
}

impl ReconciliationTask {
    /// The days, by Turkish clocks, whose reports can hold the order: around midnight there are two.
    #[must_use]
    pub fn days(&self, margin: Duration) -> (NaiveDate, NaiveDate) {
        let (since, until) = self.interval(margin);
        let day = |moment: DateTime<Utc>| moment.with_timezone(&Istanbul).date_naive();
        (day(since), day(until))
    }

    fn interval(&self, margin: Duration) -> (DateTime<Utc>, DateTime<Utc>) {
        let margin = TimeDelta::from_std(margin).unwrap_or(TimeDelta::zero());
        let since = self.since.checked_sub_signed(margin);
        let until = self.until.checked_add_signed(margin);
        (since.unwrap_or(self.since), until.unwrap_or(self.until))
    }

    /// Whether this may be its order, as far as a list shows it.
    #[must_use]
    pub fn may_be(&self, order: &ListedOrder, margin: Duration) -> bool {
        let (since, until) = self.interval(margin);
        let numbers = self.numbers.len() as u64;
        let fits_total = if self.is_commercial {
            (1..=numbers).contains(&order.total)
        } else {
            order.total == numbers
        };
        order.sender.trim() == self.sender.trim()
            && fits_total
            && (since..=until).contains(&order.submitted_at)
    }

    /// Whether an order to these numbers is one of this job.
    #[must_use]
    pub fn is_to(&self, numbers: &BTreeSet<Recipient>) -> bool {
        if self.is_commercial {
            !numbers.is_empty() && numbers.is_subset(&self.numbers)
        } else {
            *numbers == self.numbers
        }
    }

    /// The result of a scan that found these orders. `contested`: another message of ours may have made one of them. `complete`:
    /// every report of the time in question was read.
    #[must_use]
    pub fn finding(
        &self,
        mut fitting: Vec<ListedOrder>,
        contested: bool,
        complete: bool,
        settings: &Reconciling,
    ) -> Finding {
        let after = self.pause(settings);
        if !complete {
            return Finding::Again { clean: None, after };
        }
        let settled = self.settled_for >= settings.settle;
        let is_the_one = fitting.len() == 1 && !contested;
        // There is an order of a job that was accepted: once it must be visible, the only one that fits is it.
        let proved = self.is_sent && settled && self.scans >= 1;
        if is_the_one && (settings.is_exclusive || proved) {
            return Finding::Found(fitting.remove(0));
        }
        if fitting.is_empty() {
            // One scan may miss an order, because the pages of a growing list shift.
            if settled && self.clean_scans >= 1 {
                Finding::None
            } else {
                let clean = Some(true);
                Finding::Again { clean, after }
            }
        } else if settled && self.scans >= 1 {
            if is_the_one {
                Finding::Candidate
            } else {
                Finding::Several
            }
        } else {
            let clean = Some(false);
            Finding::Again { clean, after }
        }
    }

    /// The time before the next scan: that of ten calls, doubling up to five minutes; and one scan when the settle time is over.
    #[must_use]
    pub fn pause(&self, settings: &Reconciling) -> Duration {
        let first = settings.spacing * 10;
        let longest = first.max(Duration::from_secs(300));
        let pause = first.saturating_mul(1 << self.scans.min(16)).min(longest);
        match settings.settle.checked_sub(self.settled_for) {
            Some(left) if !left.is_zero() => pause.min(left.max(settings.spacing)),
            _ => pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ForeignNumbers;

    const SETTINGS: Reconciling = Reconciling {
        spacing: Duration::from_secs(1),
        settle: Duration::from_secs(900),
        margin: Duration::from_secs(120),
        is_exclusive: true,
    };

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn numbers(texts: &[&str]) -> BTreeSet<Recipient> {
        texts
            .iter()
            .map(|text| Recipient::parse(text, ForeignNumbers::Allowed).unwrap())
            .collect()
    }

    fn task() -> ReconciliationTask {
        ReconciliationTask {
            job: Uuid::from_u128(1),
            token: 2,
            sender: "BRAND".to_owned(),
            numbers: numbers(&["905321234567"]),
            is_sent: false,
            is_commercial: false,
            since: at("2026-05-01T09:00:00Z"),
            until: at("2026-05-01T09:07:00Z"),
            settled_for: Duration::from_secs(10),
            scans: 0,
            clean_scans: 0,
        }
    }

    fn order() -> ListedOrder {
        ListedOrder {
            id: OrderId::parse("312891245").unwrap(),
            sender: "BRAND".to_owned(),
            total: 1,
            submitted_at: at("2026-05-01T09:00:01Z"),
            status: Some(114),
            delivered: Some(1),
            undelivered: Some(0),
        }
    }

    #[test]
    fn an_order_fits_by_sender_total_and_time() {
        let fits = |change: &dyn Fn(&mut ListedOrder)| {
            let mut order = order();
            change(&mut order);
            task().may_be(&order, SETTINGS.margin)
        };
        assert!(fits(&|_| ()));
        assert!(!fits(&|order| order.sender = "Brand".to_owned()));
        assert!(!fits(&|order| order.total = 2));
        assert!(!fits(&|order| order.total = 0));
        for (moment, expected) in [
            ("2026-05-01T08:57:59Z", false),
            ("2026-05-01T08:58:00Z", true),
            ("2026-05-01T09:09:00Z", true),
            ("2026-05-01T09:09:01Z", false),
        ] {
            assert_eq!(
                fits(&|order| order.submitted_at = at(moment)),
                expected,
                "{moment}"
            );
        }
    }

    #[test]
    fn marketing_may_have_lost_recipients_on_the_way_and_nothing_else_may() {
        let three = ["905320000001", "905320000002", "905320000003"];
        for (is_commercial, total, to, expected) in [
            (false, 3, &three[..], true),
            (false, 2, &three[..2], false),
            (true, 3, &three[..], true),
            (true, 2, &three[..2], true),
            (
                true,
                4,
                &[three[0], three[1], three[2], "905320000004"][..],
                false,
            ),
            (true, 1, &["905320000004"][..], false),
            (true, 0, &[][..], false),
        ] {
            let task = ReconciliationTask {
                numbers: numbers(&three),
                is_commercial,
                ..task()
            };
            let order = ListedOrder { total, ..order() };
            let fits = task.may_be(&order, SETTINGS.margin) && task.is_to(&numbers(to));
            assert_eq!(fits, expected, "{is_commercial} {total} {to:?}");
        }
    }

    #[test]
    fn around_midnight_in_turkey_two_days_are_looked_at() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        for (since, until, first, last) in [
            (
                "2026-05-01T09:00:00Z",
                "2026-05-01T09:07:00Z",
                "2026-05-01",
                "2026-05-01",
            ),
            (
                "2026-05-01T20:55:00Z",
                "2026-05-01T20:59:00Z",
                "2026-05-01",
                "2026-05-02",
            ),
            (
                "2026-05-01T21:01:00Z",
                "2026-05-01T21:02:00Z",
                "2026-05-01",
                "2026-05-02",
            ),
            (
                "2026-05-01T21:03:00Z",
                "2026-05-01T21:04:00Z",
                "2026-05-02",
                "2026-05-02",
            ),
        ] {
            let task = ReconciliationTask {
                since: at(since),
                until: at(until),
                ..task()
            };
            assert_eq!(
                task.days(SETTINGS.margin),
                (day(first), day(last)),
                "{since}"
            );
        }
    }

    #[test]
    fn one_that_fits_resolves_it_several_and_none_take_their_time() {
        let young = task();
        let settled = ReconciliationTask {
            settled_for: Duration::from_secs(900),
            scans: 1,
            clean_scans: 1,
            ..task()
        };
        let one = || vec![order()];
        let two = || vec![order(), order()];
        let shape = |finding: Finding| match finding {
            Finding::Found(_) => "found",
            Finding::Candidate => "candidate",
            Finding::None => "none",
            Finding::Several => "several",
            Finding::Again { clean: None, .. } => "again, unread",
            Finding::Again {
                clean: Some(true), ..
            } => "again, clean",
            Finding::Again {
                clean: Some(false), ..
            } => "again",
        };
        for (name, task, fitting, contested, complete, expected) in [
            ("one", &young, one(), false, true, "found"),
            ("one, late", &settled, one(), false, true, "found"),
            (
                "one of how many?",
                &young,
                one(),
                false,
                false,
                "again, unread",
            ),
            ("whose?", &young, one(), true, true, "again"),
            ("whose, for ever?", &settled, one(), true, true, "several"),
            ("two", &young, two(), false, true, "again"),
            ("two, late", &settled, two(), false, true, "several"),
            ("nothing yet", &young, vec![], false, true, "again, clean"),
            ("nothing", &settled, vec![], false, true, "none"),
            (
                "nothing, unread",
                &settled,
                vec![],
                false,
                false,
                "again, unread",
            ),
        ] {
            assert_eq!(
                shape(task.finding(fitting, contested, complete, &SETTINGS)),
                expected,
                "{name}"
            );
        }
        // Where others send with the account as well.
        let shared = Reconciling {
            is_exclusive: false,
            ..SETTINGS
        };
        let sent = ReconciliationTask {
            is_sent: true,
            ..settled.clone()
        };
        let sent_just_now = ReconciliationTask {
            is_sent: true,
            ..task()
        };
        for (name, task, fitting, contested, expected) in [
            ("one", &young, one(), false, "again"),
            ("one, late", &settled, one(), false, "candidate"),
            ("whose?", &settled, one(), true, "several"),
            ("two", &settled, two(), false, "several"),
            ("nothing", &settled, vec![], false, "none"),
            (
                "its order, or a stranger's?",
                &sent_just_now,
                one(),
                false,
                "again",
            ),
            ("its order", &sent, one(), false, "found"),
            ("its order, or another job's", &sent, one(), true, "several"),
        ] {
            let finding = task.finding(fitting, contested, true, &shared);
            assert_eq!(shape(finding), expected, "on a shared account: {name}");
        }
        let once = ReconciliationTask {
            clean_scans: 0,
            ..settled
        };
        assert_eq!(
            shape(once.finding(vec![], false, true, &SETTINGS)),
            "again, clean",
            "two clean scans"
        );
    }

    #[test]
    fn the_reports_are_read_ever_less_often_and_once_when_the_settling_time_is_over() {
        let pause = |scans, settled_for| {
            let task = ReconciliationTask {
                scans,
                settled_for: Duration::from_secs(settled_for),
                ..task()
            };
            task.pause(&SETTINGS).as_secs()
        };
        assert_eq!(pause(0, 0), 10);
        assert_eq!(pause(3, 0), 80);
        assert_eq!(pause(9, 0), 300);
        assert_eq!(pause(9, 800), 100);
        assert_eq!(pause(9, 900), 300);
        assert_eq!(pause(u32::MAX, 5_000), 300);
    }
}
