//! What became of a message on its way to the phone, from everything that was said about it. No clock, no database.
//!
//! A delivery *is* the set of what was said ([`Fact`]): learning is adding to it, and everything that is told follows from the
//! set. So neither the order in which words come, nor how often, can change what they lead to.

use std::collections::{HashMap, HashSet};

pub use crate::job::DeliveryStatus;
use crate::message::{ForeignNumbers, Recipient};

/// Where a word about a phone comes from. Later ones outrank earlier ones; `List` and `Report` are of equal rank, being two
/// readings of the provider's one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Nobody said anything within the horizon.
    Horizon,
    /// An event that the provider, or somebody who knows the secret, has posted.
    Webhook,
    /// The line of an order in `get-reports`.
    List,
    /// `get-report`.
    Report,
    /// An operator's `cancel`, which the provider has confirmed.
    Operator,
}

impl Source {
    /// The text that the database holds.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Horizon => "horizon",
            Self::Webhook => "webhook",
            Self::List => "list",
            Self::Report => "report",
            Self::Operator => "operator",
        }
    }
}

/// What can be said of one phone, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// The phone has it (111).
    Delivered,
    /// It does not, and will not (112).
    Undelivered,
}

/// One thing that was said of a delivery. What is no news (accepted, being sent) is no fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// Of one number, by its place among the job's recipients (from 0); of a job that has one, whatever its place.
    Number(usize, Word, Source),
    /// Of an order as a whole: every message is final (114), and all of them were read. A number that is not among them was not
    /// sent to.
    Complete(Source),
    /// The provider accepted the order and did not dispatch it (115).
    Refused(Source),
    /// It was cancelled at the provider, which said so.
    Cancelled,
    /// Nothing final was said within the horizon.
    Overdue,
}

// What was said of one number, as bits. SQL reads them too: sms_outbox.number_delivery.
const WEBHOOK_UNDELIVERED: u16 = 1;
const WEBHOOK_DELIVERED: u16 = 2;
const REPORT_UNDELIVERED: u16 = 4;
const REPORT_DELIVERED: u16 = 8;
const OF_A_NUMBER: u16 = 15;
// What was said of the order, in the same set.
const BY_LIST: u16 = 16;
const BY_REPORT: u16 = 32;
const COMPLETE: u16 = 64;
const REFUSED: u16 = 128;
const CANCELLED: u16 = 256;
const OVERDUE: u16 = 512;

/// A place of a list whose number is that of an earlier place: what is said of it is told, and not counted again.
const REPEATED: u8 = 16;
/// A place of a list whose number was left out before sending.
const REJECTED: u8 = b'-';

/// Everything that was said of one job's delivery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// Of the order, and of the number of a job that has one.
    facts: u16,
    /// Of each number of a longer list, in the order of `jobs.recipients`: a base-32 digit, or `-` for one that was left out.
    places: Option<Vec<u8>>,
}

/// What one place of a list stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A number that the message was sent to.
    Sent,
    /// The same number as an earlier place's.
    Repeated,
    /// What was left out, because it could not be read or is refused.
    Rejected,
}

/// What follows from all that was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// Where it stands.
    pub status: DeliveryStatus,
    /// How many numbers it was sent to.
    pub total: usize,
    /// How many of them have it.
    pub delivered: usize,
    /// How many of them will not have it.
    pub undelivered: usize,
    /// How many were told of both.
    pub conflicts: usize,
    /// The best witness of what was said last word on.
    pub source: Source,
}

/// The numbers of a job, by their places.
#[derive(Clone, Debug)]
pub struct Numbers {
    places: Vec<Place>,
    first: HashMap<Recipient, usize>,
    /// Further places of a number, by its first one.
    further: HashMap<usize, Vec<usize>>,
}

impl Numbers {
    /// From `jobs.recipients` and `jobs.rejected_recipients`: whatever can be read and was not left out was sent to.
    #[must_use]
    pub fn read<'a>(written: impl IntoIterator<Item = &'a str>, rejected: &[String]) -> Self {
        let rejected: HashSet<&str> = rejected.iter().map(String::as_str).collect();
        let mut numbers = Self {
            places: Vec::new(),
            first: HashMap::new(),
            further: HashMap::new(),
        };
        for (n, text) in written.into_iter().enumerate() {
            let number = Recipient::parse(text, ForeignNumbers::Allowed)
                .ok()
                .filter(|number| !rejected.contains(text) && !rejected.contains(number.as_str()));
            let place = match number {
                None => Place::Rejected,
                Some(number) => match numbers.first.get(&number) {
                    Some(first) => {
                        numbers.further.entry(*first).or_default().push(n);
                        Place::Repeated
                    }
                    None => {
                        numbers.first.insert(number, n);
                        Place::Sent
                    }
                },
            };
            numbers.places.push(place);
        }
        numbers
    }

    /// What the delivery starts as.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        // However often it was written, and whatever was left out beside it: an event tells no more than the number.
        if self.first.len() == 1 {
            Delivery::single()
        } else {
            Delivery::list(self.places.iter().copied())
        }
    }

    /// How many different numbers the message was sent to.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.first.len()
    }

    /// Whether the job has one recipient, whatever became of it.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.places.len() == 1
    }

    /// Whether the message was sent to this number.
    #[must_use]
    pub fn contains(&self, number: &Recipient) -> bool {
        self.first.contains_key(number)
    }

    /// What was said of a number, as facts. None, if it is not among them.
    pub fn said(
        &self,
        number: &Recipient,
        word: Word,
        source: Source,
    ) -> impl Iterator<Item = Fact> {
        let first = self.first.get(number).copied();
        let further = first.and_then(|first| self.further.get(&first));
        first
            .into_iter()
            .chain(further.into_iter().flatten().copied())
            .map(move |place| Fact::Number(place, word, source))
    }
}

/// What an order cost, in the unit of its account, as PostgreSQL reads a `numeric(14,4)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price(String);

impl Price {
    /// Reads `1`, `0.5` and `0,0372`. `None`: it is no amount, or has more than ten digits before the point. What is behind the
    /// fourth one after it is left out.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let whole = whole.trim_start_matches('0');
        if !digits(whole)
            || !digits(fraction)
            || whole.len() > 10
            || !text.contains(|c: char| c.is_ascii_digit())
        {
            return None;
        }
        let fraction = fraction.get(..fraction.len().min(4)).unwrap_or_default();
        Some(Self(format!("0{whole}.{fraction}0")))
    }

    /// With a point, and digits on both sides of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is held of a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Waiting,
    Said(Word),
    NotDispatched,
}

impl Delivery {
    /// Of a job with one number, about which nothing was said yet.
    #[must_use]
    pub const fn single() -> Self {
        Self {
            facts: 0,
            places: None,
        }
    }

    /// Of a job with several, about which nothing was said yet.
    #[must_use]
    pub fn list(places: impl IntoIterator<Item = Place>) -> Self {
        let digit = |place| match place {
            Place::Sent => b'0',
            Place::Repeated => digit_of(REPEATED),
            Place::Rejected => REJECTED,
        };
        Self {
            facts: 0,
            places: Some(places.into_iter().map(digit).collect()),
        }
    }

    /// As the database holds it. What is no digit there counts as left out.
    #[must_use]
    pub fn read(facts: i16, places: Option<String>) -> Self {
        Self {
            facts: u16::try_from(facts).unwrap_or(0),
            places: places.map(String::into_bytes),
        }
    }

    /// `deliveries.facts`.
    #[must_use]
    pub fn facts(&self) -> i16 {
        i16::try_from(self.facts).unwrap_or(i16::MAX)
    }

    /// `deliveries.places`.
    #[must_use]
    pub fn places(&self) -> Option<&str> {
        self.places
            .as_deref()
            .map(|places| std::str::from_utf8(places).unwrap_or_default())
    }

    /// Adds what was said. A place that there is not, or that was left out, is nobody's.
    pub fn learn(&mut self, fact: Fact) {
        match fact {
            Fact::Number(place, word, source) => {
                let said = match (source, word) {
                    (Source::Webhook | Source::Horizon, Word::Undelivered) => WEBHOOK_UNDELIVERED,
                    (Source::Webhook | Source::Horizon, Word::Delivered) => WEBHOOK_DELIVERED,
                    (_, Word::Undelivered) => REPORT_UNDELIVERED,
                    (_, Word::Delivered) => REPORT_DELIVERED,
                };
                match &mut self.places {
                    // Wherever its one number stands.
                    None => self.facts |= said | seen_by(source),
                    Some(places) => {
                        if let Some(held) = places.get_mut(place)
                            && let Some(value) = value_of(*held)
                        {
                            // Four bits.
                            *held = digit_of(value | said as u8);
                            self.facts |= seen_by(source);
                        }
                    }
                }
            }
            Fact::Complete(source) => self.facts |= COMPLETE | seen_by(source),
            Fact::Refused(source) => self.facts |= REFUSED | seen_by(source),
            Fact::Cancelled => self.facts |= CANCELLED,
            Fact::Overdue => self.facts |= OVERDUE,
        }
    }

    fn has(&self, said: u16) -> bool {
        self.facts & said != 0
    }

    /// A report outranks a webhook. Of equal rank, delivered outranks undelivered, and that not dispatched.
    fn held(&self, said: u16) -> Held {
        if said & REPORT_DELIVERED != 0 {
            Held::Said(Word::Delivered)
        } else if said & REPORT_UNDELIVERED != 0 {
            Held::Said(Word::Undelivered)
        } else if self.has(REFUSED | CANCELLED | COMPLETE) {
            Held::NotDispatched
        } else if said & WEBHOOK_DELIVERED != 0 {
            Held::Said(Word::Delivered)
        } else if said & WEBHOOK_UNDELIVERED != 0 {
            Held::Said(Word::Undelivered)
        } else {
            Held::Waiting
        }
    }

    fn is_contradiction(&self, said: u16) -> bool {
        let delivered = said & (WEBHOOK_DELIVERED | REPORT_DELIVERED) != 0;
        let undelivered = said & (WEBHOOK_UNDELIVERED | REPORT_UNDELIVERED) != 0;
        delivered && (undelivered || self.has(REFUSED | CANCELLED))
    }

    /// What follows. `None`: nothing was said.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let single = [digit_of((self.facts & OF_A_NUMBER) as u8)];
        let places = self.places.as_deref().unwrap_or(&single);
        let (mut total, mut delivered, mut undelivered) = (0, 0, 0);
        let (mut waiting, mut not_dispatched, mut conflicts) = (0, 0, 0);
        let mut heard = self.facts;
        for place in places {
            let Some(value) = value_of(*place).filter(|value| value & REPEATED == 0) else {
                continue;
            };
            let said = u16::from(value);
            heard |= said;
            total += 1;
            conflicts += usize::from(self.is_contradiction(said));
            match self.held(said) {
                Held::Said(Word::Delivered) => delivered += 1,
                Held::Said(Word::Undelivered) => undelivered += 1,
                Held::NotDispatched => not_dispatched += 1,
                Held::Waiting => waiting += 1,
            }
        }
        if heard == 0 {
            return None;
        }
        let status = match (delivered, undelivered) {
            _ if waiting > 0 && self.has(OVERDUE) => DeliveryStatus::Unknown,
            _ if waiting > 0 => DeliveryStatus::Pending,
            (0, 0) if self.has(CANCELLED) => DeliveryStatus::Cancelled,
            (0, 0) if self.has(REFUSED) => DeliveryStatus::Refused,
            (0, _) => DeliveryStatus::Undelivered,
            (_, 0) if not_dispatched == 0 => DeliveryStatus::Delivered,
            _ => DeliveryStatus::Partly,
        };
        let source = if status == DeliveryStatus::Cancelled {
            Source::Operator
        } else if self.has(BY_REPORT) {
            Source::Report
        } else if self.has(BY_LIST) {
            Source::List
        } else if status == DeliveryStatus::Unknown {
            Source::Horizon
        } else {
            Source::Webhook
        };
        Some(Outcome {
            status,
            total,
            delivered,
            undelivered: undelivered + not_dispatched,
            conflicts,
            source,
        })
    }
}

const fn seen_by(source: Source) -> u16 {
    match source {
        Source::Report => BY_REPORT,
        Source::List => BY_LIST,
        Source::Webhook | Source::Horizon | Source::Operator => 0,
    }
}

fn value_of(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(32)
        .and_then(|value| u8::try_from(value).ok())
}

fn digit_of(value: u8) -> u8 {
    char::from_digit(u32::from(value), 32).map_or(REJECTED, |digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    use DeliveryStatus::{Cancelled, Delivered, Partly, Pending, Refused, Undelivered, Unknown};

    const fn said(word: Word, source: Source) -> Fact {
        Fact::Number(0, word, source)
    }

    /// Everything that can be said of a message to one phone.
    const OF_ONE: [Fact; 12] = [
        said(Word::Delivered, Source::Webhook),
        said(Word::Undelivered, Source::Webhook),
        said(Word::Delivered, Source::List),
        said(Word::Undelivered, Source::List),
        said(Word::Delivered, Source::Report),
        said(Word::Undelivered, Source::Report),
        Fact::Complete(Source::List),
        Fact::Complete(Source::Report),
        Fact::Refused(Source::List),
        Fact::Refused(Source::Report),
        Fact::Cancelled,
        Fact::Overdue,
    ];

    /// Everything that can be said of a message to two.
    fn of_two() -> Vec<Fact> {
        let mut all: Vec<Fact> = OF_ONE
            .into_iter()
            .filter(|fact| !matches!(fact, Fact::Number(..)))
            .collect();
        for place in 0..2 {
            for word in [Word::Delivered, Word::Undelivered] {
                for source in [Source::Webhook, Source::Report] {
                    all.push(Fact::Number(place, word, source));
                }
            }
        }
        all
    }

    fn two() -> Delivery {
        Delivery::list([Place::Sent, Place::Sent])
    }

    /// A way of keeping what was said; the wrong ones are caught below.
    trait Keeps: Clone {
        fn learn(&mut self, fact: Fact);
        fn told(&self) -> Option<(DeliveryStatus, usize)>;
    }

    impl Keeps for Delivery {
        fn learn(&mut self, fact: Fact) {
            Self::learn(self, fact);
        }

        fn told(&self) -> Option<(DeliveryStatus, usize)> {
            self.outcome()
                .map(|outcome| (outcome.status, outcome.conflicts))
        }
    }

    /// Every order of every set of up to four of these facts, each of them once or twice: whatever leads to another end than the
    /// first one is returned.
    fn disorder<K: Keeps>(nothing: &K, facts: &[Fact]) -> Option<Vec<Fact>> {
        fn every_order<K: Keeps>(
            so_far: K,
            left: &[Fact],
            told: &mut Vec<Option<(DeliveryStatus, usize)>>,
        ) {
            if left.is_empty() {
                told.push(so_far.told());
                return;
            }
            for (place, fact) in left.iter().enumerate() {
                let mut next = so_far.clone();
                next.learn(*fact);
                let mut rest = left.to_vec();
                rest.remove(place);
                every_order(next.clone(), &rest, told);
                next.learn(*fact);
                every_order(next, &rest, told);
            }
        }
        let sets = 1_u32 << facts.len();
        (0..sets)
            .filter(|set| set.count_ones() <= 4)
            .find_map(|set| {
                let chosen: Vec<Fact> = (0..facts.len())
                    .filter(|place| set & (1 << place) != 0)
                    .map(|place| facts[place])
                    .collect();
                let mut told = Vec::new();
                every_order(nothing.clone(), &chosen, &mut told);
                told.windows(2)
                    .any(|two| two[0] != two[1])
                    .then_some(chosen)
            })
    }

    #[test]
    fn neither_order_nor_repetition_changes_what_the_same_words_lead_to() {
        assert_eq!(disorder(&Delivery::single(), &OF_ONE), None);
        assert_eq!(disorder(&two(), &of_two()), None);
    }

    /// The last word counts, whoever says it.
    #[derive(Clone)]
    struct LastWord(Option<Word>);
    /// The first final word counts.
    #[derive(Clone)]
    struct FirstWord(Option<Word>);
    /// A report counts more, and every contradiction that comes is counted.
    #[derive(Clone)]
    struct Counting(Option<(Source, Word)>, usize);

    fn told_of(word: Option<Word>) -> Option<(DeliveryStatus, usize)> {
        word.map(|word| match word {
            Word::Delivered => (Delivered, 0),
            Word::Undelivered => (Undelivered, 0),
        })
    }

    impl Keeps for LastWord {
        fn learn(&mut self, fact: Fact) {
            if let Fact::Number(_, word, _) = fact {
                self.0 = Some(word);
            }
        }

        fn told(&self) -> Option<(DeliveryStatus, usize)> {
            told_of(self.0)
        }
    }

    impl Keeps for FirstWord {
        fn learn(&mut self, fact: Fact) {
            if let Fact::Number(_, word, _) = fact {
                self.0.get_or_insert(word);
            }
        }

        fn told(&self) -> Option<(DeliveryStatus, usize)> {
            told_of(self.0)
        }
    }

    impl Keeps for Counting {
        fn learn(&mut self, fact: Fact) {
            if let Fact::Number(_, word, source) = fact {
                if let Some((_, held)) = self.0
                    && held != word
                {
                    self.1 += 1;
                }
                if self.0.is_none_or(|(known, _)| source > known) {
                    self.0 = Some((source, word));
                }
            }
        }

        fn told(&self) -> Option<(DeliveryStatus, usize)> {
            told_of(self.0.map(|(_, word)| word)).map(|(status, _)| (status, self.1))
        }
    }

    #[test]
    fn what_keeps_words_in_another_way_is_caught() {
        assert!(disorder(&LastWord(None), &OF_ONE).is_some());
        assert!(disorder(&FirstWord(None), &OF_ONE).is_some());
        assert!(disorder(&Counting(None, 0), &OF_ONE).is_some());
    }

    #[test]
    fn delivered_is_never_inferred() {
        let facts = of_two();
        for set in 0..1_u32 << facts.len() {
            let mut delivery = two();
            let chosen = (0..facts.len()).filter(|place| set & (1 << place) != 0);
            let mut said = [false; 2];
            for place in chosen {
                if let Fact::Number(number, Word::Delivered, _) = facts[place] {
                    said[number] = true;
                }
                delivery.learn(facts[place]);
            }
            let outcome = delivery.outcome();
            let delivered = outcome.map_or(0, |outcome| outcome.delivered);
            assert!(delivered <= said.into_iter().filter(|said| *said).count());
        }
    }

    #[test]
    fn a_report_outranks_a_webhook_and_delivered_undelivered_and_that_refused() {
        use Source::{List, Report, Webhook};
        use Word::{Delivered as Yes, Undelivered as No};
        for (facts, status, conflicts, source) in [
            (vec![said(Yes, Webhook)], Delivered, 0, Webhook),
            (vec![said(No, Webhook)], Undelivered, 0, Webhook),
            (
                vec![said(No, Webhook), said(Yes, Webhook)],
                Delivered,
                1,
                Webhook,
            ),
            (
                vec![said(Yes, Webhook), said(No, Report)],
                Undelivered,
                1,
                Report,
            ),
            (vec![said(No, Webhook), said(Yes, List)], Delivered, 1, List),
            (
                vec![said(No, List), said(Yes, Report)],
                Delivered,
                1,
                Report,
            ),
            (
                vec![said(Yes, List), said(Yes, Report)],
                Delivered,
                0,
                Report,
            ),
            (vec![Fact::Refused(Report)], Refused, 0, Report),
            (
                vec![Fact::Refused(Report), said(Yes, Webhook)],
                Refused,
                1,
                Report,
            ),
            (
                vec![Fact::Refused(Report), said(No, Report)],
                Undelivered,
                0,
                Report,
            ),
            (
                vec![Fact::Refused(List), said(Yes, Report)],
                Delivered,
                1,
                Report,
            ),
            (vec![Fact::Cancelled], Cancelled, 0, Source::Operator),
            (
                vec![Fact::Cancelled, Fact::Refused(Report)],
                Cancelled,
                0,
                Source::Operator,
            ),
            (
                vec![Fact::Cancelled, said(Yes, Report)],
                Delivered,
                1,
                Report,
            ),
            (vec![Fact::Overdue], Unknown, 0, Source::Horizon),
            (
                vec![Fact::Overdue, said(Yes, Webhook)],
                Delivered,
                0,
                Webhook,
            ),
            (vec![Fact::Complete(Report)], Undelivered, 0, Report),
            (
                vec![Fact::Complete(List), said(Yes, List)],
                Delivered,
                0,
                List,
            ),
        ] {
            let mut delivery = Delivery::single();
            for fact in &facts {
                delivery.learn(*fact);
            }
            let outcome = delivery.outcome().expect("something was said");
            assert_eq!(
                (outcome.status, outcome.conflicts, outcome.source),
                (status, conflicts, source),
                "{facts:?}"
            );
            assert_eq!(outcome.total, 1);
        }
        assert_eq!(Delivery::single().outcome(), None);
    }

    #[test]
    fn a_list_is_decided_when_each_of_its_numbers_is() {
        use Source::{Report, Webhook};
        use Word::{Delivered as Yes, Undelivered as No};
        let places = [
            Place::Sent,
            Place::Rejected,
            Place::Sent,
            Place::Repeated,
            Place::Sent,
        ];
        for (facts, status, counts) in [
            (vec![Fact::Number(0, Yes, Webhook)], Pending, (1, 0)),
            (
                vec![
                    Fact::Number(0, Yes, Report),
                    Fact::Number(2, Yes, Report),
                    Fact::Number(3, Yes, Report),
                    Fact::Number(4, Yes, Webhook),
                ],
                Delivered,
                (3, 0),
            ),
            (
                vec![
                    Fact::Number(0, Yes, Report),
                    Fact::Number(2, No, Report),
                    Fact::Number(4, No, Report),
                ],
                Partly,
                (1, 2),
            ),
            // The provider has left two of them out.
            (
                vec![Fact::Number(0, Yes, Report), Fact::Complete(Report)],
                Partly,
                (1, 2),
            ),
            (
                vec![Fact::Number(0, No, Report), Fact::Complete(Report)],
                Undelivered,
                (0, 3),
            ),
            (
                vec![Fact::Number(0, No, Report), Fact::Overdue],
                Unknown,
                (0, 1),
            ),
        ] {
            let mut delivery = Delivery::list(places);
            for fact in &facts {
                delivery.learn(*fact);
            }
            let outcome = delivery.outcome().expect("something was said");
            assert_eq!(
                (outcome.status, (outcome.delivered, outcome.undelivered)),
                (status, counts),
                "{facts:?}"
            );
            assert_eq!(outcome.total, 3);
        }
        // Nobody is there.
        let mut delivery = Delivery::list(places);
        delivery.learn(Fact::Number(1, Yes, Report));
        delivery.learn(Fact::Number(5, Yes, Report));
        assert_eq!(delivery.outcome(), None);
    }

    #[test]
    fn what_was_said_of_a_number_is_said_of_each_of_its_places() {
        let written = [
            "0532 123 45 67",
            "?",
            "905321234567",
            "905321234568",
            "905321234569",
        ];
        let numbers = Numbers::read(written, &["905321234569".to_owned()]);
        let mut delivery = numbers.delivery();
        assert_eq!(delivery.places(), Some("0-g0-"));
        let number = |text| Recipient::parse(text, ForeignNumbers::Refused).expect("a number");
        for (said_of, places) in [
            ("905321234567", "8-o0-"),
            ("905321234569", "8-o0-"),
            ("905321234568", "8-o8-"),
        ] {
            for fact in numbers.said(&number(said_of), Word::Delivered, Source::Report) {
                delivery.learn(fact);
            }
            assert_eq!(delivery.places(), Some(places), "{said_of}");
        }
        let written: [&[&str]; 3] = [
            &["905321234567"],
            &["0532 123 45 67", "905321234567"],
            &["?", "905321234567", "905321234569"],
        ];
        for written in written {
            let left_out = ["905321234569".to_owned()];
            let numbers = Numbers::read(written.iter().copied(), &left_out);
            let mut delivery = numbers.delivery();
            assert_eq!(delivery, Delivery::single(), "{written:?}");
            for fact in numbers.said(&number("905321234567"), Word::Delivered, Source::Report) {
                delivery.learn(fact);
            }
            let outcome = delivery.outcome().expect("something was said");
            assert_eq!((outcome.status, outcome.total), (Delivered, 1));
        }
    }

    #[test]
    fn a_price_is_read_in_every_spelling_that_was_seen() {
        for (text, price) in [
            ("1", Some("01.0")),
            ("0.5", Some("0.50")),
            ("0,0372", Some("0.03720")),
            ("0,0000", Some("0.00000")),
            (" 12,34567 ", Some("012.34560")),
            ("0000000000000001", Some("01.0")),
            ("12345678901", None),
            ("", None),
            (",", None),
            ("-1", None),
            ("1.2.3", None),
            ("1e3", None),
            ("bir", None),
        ] {
            let read = Price::parse(text);
            assert_eq!(read.as_ref().map(Price::as_str), price, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut delivery = Delivery::list([Place::Sent, Place::Repeated, Place::Rejected]);
        delivery.learn(Fact::Number(0, Word::Delivered, Source::Report));
        delivery.learn(Fact::Number(1, Word::Delivered, Source::Report));
        let (facts, places) = (delivery.facts(), delivery.places().map(str::to_owned));
        assert_eq!(places.as_deref(), Some("8o-"));
        assert_eq!(Delivery::read(facts, places), delivery);
        // What is damaged is nobody's, and stops nothing.
        assert_eq!(Delivery::read(-1, Some("Ü".to_owned())).outcome(), None);
    }
}
