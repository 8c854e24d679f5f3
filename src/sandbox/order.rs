//! An accepted order as the sandbox keeps it, and what each of its messages has come to.
//!
//! What an order has come to follows from the time, from what was drawn for it ([`Lots`]), and from what somebody said of a message
//! ([`super::SandboxHandle::deliver`]), which is all that is kept per message.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::delivery::{Fate, Lots};
use super::ledger::LedgerEntry;
use super::numbers::one_spelling;

/// An accepted order. What changes about it is not in here.
#[derive(Debug)]
pub struct Order {
    /// Its id.
    pub id: u64,
    /// Position of its account among those configured.
    pub account: usize,
    /// What it sends, one entry of the ledger for each text; never empty.
    pub texts: Vec<Arc<LedgerEntry>>,
    /// Which messages reach nobody: blocked or unreachable when the order was accepted. In ascending order.
    pub unreachable: Vec<usize>,
    /// When it turns out that the provider does not dispatch it, microseconds since 1970; `None` if it does.
    pub refused_at: Option<i64>,
    /// What is drawn for its messages.
    pub lots: Lots,
    settled: OnceLock<Totals>,
}

/// How a message ends, and when: microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// How it ends.
    pub fate: Fate,
    /// When it is final; means nothing for [`Fate::Never`].
    pub at: i64,
}

/// What a message has come to at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// Not final.
    UnderWay,
    /// On the phone.
    Delivered,
    /// Not on the phone, and never.
    Failed,
}

impl Course {
    /// What the message has come to at `now`.
    pub fn state(self, now: i64) -> MessageState {
        match self.fate {
            Fate::Never => MessageState::UnderWay,
            _ if now < self.at => MessageState::UnderWay,
            Fate::Delivered => MessageState::Delivered,
            Fate::Undelivered => MessageState::Failed,
        }
    }
}

/// The messages of one order of which somebody said how they end, by their position.
pub type Rulings = BTreeMap<usize, Course>;

/// How many of an order's messages have come to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// On the phone.
    pub delivered: u64,
    /// Never on the phone.
    pub undelivered: u64,
    /// Not final.
    pub waiting: u64,
    /// Credits for those that are not undelivered: what is undelivered is free (provider documentation, send-sms page).
    pub price: u64,
}

impl Order {
    /// An order that was just accepted.
    pub fn new(
        id: u64,
        account: usize,
        texts: Vec<Arc<LedgerEntry>>,
        unreachable: Vec<usize>,
        refused_at: Option<i64>,
        lots: Lots,
    ) -> Self {
        Order {
            id,
            account,
            texts,
            unreachable,
            refused_at,
            lots,
            settled: OnceLock::new(),
        }
    }

    /// The first of its texts, for what all of them have in common: sender and times.
    pub fn head(&self) -> &LedgerEntry {
        &self.texts[0]
    }

    /// How many messages it is.
    pub fn total(&self) -> usize {
        self.texts.iter().map(|text| text.numbers.len()).sum()
    }

    /// Its messages in the order in which they were given: what is sent, and to whom.
    pub fn messages(&self) -> impl Iterator<Item = (&LedgerEntry, &str)> {
        self.texts.iter().flat_map(|text| {
            let numbers = text.numbers.iter();
            numbers.map(|number| (&**text, number.as_str()))
        })
    }

    /// The id of the message at this position.
    pub fn message_id(&self, index: usize) -> i64 {
        let index = i64::try_from(index).unwrap_or(i64::MAX);
        self.head().first_message_id.saturating_add(index)
    }

    /// One message: what is sent, and to whom.
    pub fn message(&self, index: usize) -> Option<(&LedgerEntry, &str)> {
        // Whoever goes through a large order must not walk it again for each of its messages.
        let id = self.message_id(index);
        let begun = self
            .texts
            .partition_point(|text| text.first_message_id <= id);
        let text = self.texts.get(begun.checked_sub(1)?)?;
        let within = usize::try_from(id - text.first_message_id).ok()?;
        Some((text, text.numbers.get(within)?))
    }

    /// The positions of the messages to a number, in any spelling; of all messages without one.
    pub fn positions(&self, number: Option<&str>) -> Vec<usize> {
        let wanted = number.map(one_spelling);
        self.messages()
            .enumerate()
            .filter(|(_, (_, to))| wanted.as_ref().is_none_or(|number| number == to))
            .map(|(index, _)| index)
            .collect()
    }

    /// How a message ends if nobody says otherwise.
    pub fn drawn(&self, index: usize) -> Course {
        let fate = if self.refused_at.is_some() {
            Fate::Never
        } else if self.unreachable.binary_search(&index).is_ok() {
            Fate::Undelivered
        } else {
            self.lots.fate(self.id, index)
        };
        let delay = self.lots.delay(self.id, index);
        Course {
            fate,
            at: self.head().send_at.saturating_add(delay),
        }
    }

    /// How a message ends.
    pub fn course(&self, index: usize, rulings: Option<&Rulings>) -> Course {
        let ruled = rulings.and_then(|rulings| rulings.get(&index)).copied();
        ruled.unwrap_or_else(|| self.drawn(index))
    }

    /// What its messages have come to at `now`.
    pub fn totals(&self, now: i64, rulings: Option<&Rulings>) -> Totals {
        let count = |now| {
            let mut totals = Totals::default();
            for (index, (text, _)) in self.messages().enumerate() {
                let price = u64::try_from(text.parts).unwrap_or(u64::MAX);
                match self.course(index, rulings).state(now) {
                    MessageState::UnderWay => {
                        totals.waiting += 1;
                        totals.price += price;
                    }
                    MessageState::Delivered => {
                        totals.delivered += 1;
                        totals.price += price;
                    }
                    MessageState::Failed => totals.undelivered += 1,
                }
            }
            totals
        };
        let longest = self.lots.longest_delay();
        let settled_at = self.head().send_at.saturating_add(longest);
        if rulings.is_none() && now >= settled_at {
            // Nothing changes any more: a list of large orders is counted once.
            return *self.settled.get_or_init(|| count(settled_at));
        }
        count(now)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::ledger::tests::entry;
    use super::super::span::Span;
    use super::*;

    /// One text to each of these lists of numbers, delivered at once unless it is in `unreachable`.
    pub(in super::super) fn order(numbers: &[&[&str]], unreachable: Vec<usize>) -> Order {
        let mut first_message_id = 1_000;
        let mut text = |numbers: &&[&str]| {
            let text = LedgerEntry {
                numbers: numbers.iter().map(|n| (*n).to_owned()).collect(),
                first_message_id,
                ..entry(7)
            };
            first_message_id += i64::try_from(numbers.len()).expect("few");
            Arc::new(text)
        };
        let lots = Lots {
            seed: 1,
            shares: "delivered".parse().expect("shares"),
            delay: Span::ZERO,
        };
        Order::new(
            7,
            0,
            numbers.iter().map(&mut text).collect(),
            unreachable,
            None,
            lots,
        )
    }

    #[test]
    fn the_messages_of_several_texts_are_counted_through() {
        // Nobody of the second text is left.
        let order = order(
            &[
                &["905321234567"],
                &[],
                &["905321234568", "905321234569"],
                &[],
            ],
            vec![2],
        );
        assert_eq!(order.total(), 3);
        for (index, (_, number)) in order.messages().enumerate() {
            let (_, to) = order.message(index).expect("there");
            assert_eq!(
                (to, order.message_id(index)),
                (number, 1_000 + index as i64)
            );
        }
        assert!(order.message(3).is_none());
        assert_eq!(order.positions(Some("0532 123 45 68")), [1]);
        assert_eq!(order.positions(None), [0, 1, 2]);
        let totals = order.totals(entry(7).send_at, None);
        assert_eq!((totals.delivered, totals.undelivered), (2, 1));
        assert_eq!(totals.price, 2, "what is undelivered is free");
    }

    #[test]
    fn what_somebody_said_of_a_message_outweighs_what_was_drawn() {
        let order = order(&[&["905321234567", "905321234568"]], Vec::new());
        let now = entry(7).send_at;
        let never = Course {
            fate: Fate::Never,
            at: now,
        };
        let rulings = Rulings::from([(1, never)]);
        let totals = order.totals(now, Some(&rulings));
        assert_eq!((totals.delivered, totals.waiting), (1, 1));
    }
}
