//! What a list or a report says of a job, as facts. No database, no network.

use crate::{
    delivery::{Fact, Numbers, Price, Source, Word},
    message::Recipient,
    provider::{NumbersPage, ReportedNumber},
    reconciliation::ListedOrder,
};

/// Status numbers of orders: being sent, every message final, not sent.
pub(super) const COMPLETE: i64 = 114;
pub(super) const REFUSED: i64 = 115;

/// What the pages of an order's report say together.
#[derive(Clone, Debug, Default)]
pub(super) struct OrderReport {
    pub(super) status: Option<i64>,
    total: Option<u64>,
    price: Option<Price>,
    numbers: Vec<ReportedNumber>,
    entries: usize,
    /// Whether the last page was read.
    pub(super) is_whole: bool,
}

impl OrderReport {
    pub(super) fn add(&mut self, page: NumbersPage) {
        self.status = page.status.or(self.status);
        self.total = page.total.or(self.total);
        self.price = page.price.or(self.price.take());
        self.entries += page.entries;
        self.numbers.extend(page.numbers);
    }

    /// Whether everything was read that the order has, as it says itself.
    pub(super) fn is_all_there(&self) -> bool {
        self.total
            .is_some_and(|total| self.entries as u64 >= total && self.entries > 0)
    }

    /// How many messages the order has, as far as that is said or seen.
    pub(super) fn total(&self) -> u64 {
        self.total.unwrap_or(0).max(self.entries as u64)
    }

    pub(super) fn price(&self) -> Option<Price> {
        self.price.clone()
    }

    /// Whether exactly this number was sent to.
    pub(super) fn is_of_one(&self, number: &Recipient) -> bool {
        self.is_whole
            && self.total() == 1
            && self.numbers.len() == 1
            && self.numbers[0].number == *number
    }

    /// What it says of a job with these numbers. `None`: it is of other numbers.
    pub(super) fn facts(&self, numbers: &Numbers) -> Option<Vec<Fact>> {
        if self
            .numbers
            .iter()
            .any(|one| !numbers.contains(&one.number))
        {
            return None;
        }
        let mut facts: Vec<Fact> = self
            .numbers
            .iter()
            .filter_map(|one| Some(numbers.said(&one.number, one.word?, Source::Report)))
            .flatten()
            .collect();
        // A number is left out for good only if everything was read, and everything is final as the order says.
        let is_complete = self.is_whole
            && self.status == Some(COMPLETE)
            && self.numbers.len() == self.entries
            && self.total.is_none_or(|total| total == self.entries as u64)
            && self
                .numbers
                .iter()
                .all(|one| one.is_understood && one.word.is_some());
        if is_complete {
            facts.push(Fact::Complete(Source::Report));
        }
        if self.status == Some(REFUSED) {
            facts.push(Fact::Refused(Source::Report));
        }
        Some(facts)
    }
}

/// What the line of a list says of a job with these numbers. Of several it says only how many, and not which.
pub(super) fn of_line(line: &ListedOrder, numbers: &Numbers) -> Vec<Fact> {
    if line.status == Some(REFUSED) {
        return vec![Fact::Refused(Source::List)];
    }
    if !numbers.is_single() || numbers.sent() != 1 || line.total != 1 {
        return Vec::new();
    }
    let word = match (line.delivered, line.undelivered) {
        (Some(1), Some(0)) => Word::Delivered,
        (Some(0), Some(1)) => Word::Undelivered,
        _ => return Vec::new(),
    };
    let mut facts = vec![Fact::Number(0, word, Source::List)];
    if line.status == Some(COMPLETE) {
        facts.push(Fact::Complete(Source::List));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lifecycle::OrderId, message::ForeignNumbers};

    fn number(text: &str) -> Recipient {
        Recipient::parse(text, ForeignNumbers::Allowed).expect("a number")
    }

    const ONE: &str = "905321234567";
    const TWO: &str = "905321234568";

    fn report(status: i64, total: Option<u64>, said: &[(&str, Option<Word>)]) -> OrderReport {
        let mut report = OrderReport::default();
        report.add(NumbersPage {
            status: Some(status),
            total,
            price: None,
            numbers: said
                .iter()
                .map(|(text, word)| ReportedNumber {
                    number: number(text),
                    word: *word,
                    is_understood: true,
                })
                .collect(),
            entries: said.len(),
        });
        report.is_whole = true;
        report
    }

    #[test]
    fn a_report_tells_of_the_numbers_that_the_job_has_and_of_no_others() {
        use Source::Report;
        let (yes, no) = (Some(Word::Delivered), Some(Word::Undelivered));
        let said = |place, word: Option<Word>| Fact::Number(place, word.expect("a word"), Report);
        for (report, expected) in [
            (
                report(114, Some(2), &[(ONE, yes), (TWO, no)]),
                Some(vec![said(0, yes), said(1, no), Fact::Complete(Report)]),
            ),
            // Nothing says that the other one is left out before the order is complete.
            (
                report(113, Some(2), &[(ONE, yes)]),
                Some(vec![said(0, yes)]),
            ),
            (
                report(114, Some(2), &[(ONE, yes)]),
                Some(vec![said(0, yes)]),
            ),
            (
                report(114, Some(1), &[(ONE, yes)]),
                Some(vec![said(0, yes), Fact::Complete(Report)]),
            ),
            (
                report(114, None, &[(ONE, yes)]),
                Some(vec![said(0, yes), Fact::Complete(Report)]),
            ),
            // It contradicts itself.
            (
                report(114, Some(2), &[(ONE, yes), (TWO, None)]),
                Some(vec![said(0, yes)]),
            ),
            (report(115, Some(0), &[]), Some(vec![Fact::Refused(Report)])),
            (report(114, Some(1), &[("905321234569", yes)]), None),
        ] {
            let numbers = Numbers::read([ONE, TWO], &[]);
            assert_eq!(report.facts(&numbers), expected, "{report:?}");
        }
        let mut half = report(114, Some(2), &[(ONE, yes), (TWO, no)]);
        half.is_whole = false;
        let numbers = Numbers::read([ONE, TWO], &[]);
        assert_eq!(half.facts(&numbers), Some(vec![said(0, yes), said(1, no)]));
    }

    #[test]
    fn the_line_of_a_list_is_the_last_word_on_an_order_with_one_number() {
        let line = |status, total, delivered, undelivered| ListedOrder {
            id: OrderId::parse("1").expect("digits"),
            sender: "BRAND".to_owned(),
            total,
            submitted_at: chrono::DateTime::default(),
            status: Some(status),
            delivered,
            undelivered,
        };
        let single = Numbers::read([ONE], &[]);
        let several = Numbers::read([ONE, TWO], &[]);
        let yes = Fact::Number(0, Word::Delivered, Source::List);
        let no = Fact::Number(0, Word::Undelivered, Source::List);
        let all = Fact::Complete(Source::List);
        for (line, of_one, of_two) in [
            (line(114, 1, Some(1), Some(0)), vec![yes, all], vec![]),
            (line(114, 1, Some(0), Some(1)), vec![no, all], vec![]),
            (line(113, 1, Some(0), Some(0)), vec![], vec![]),
            (line(114, 1, None, None), vec![], vec![]),
            (line(114, 2, Some(2), Some(0)), vec![], vec![]),
            (
                line(115, 1, Some(0), Some(0)),
                vec![Fact::Refused(Source::List)],
                vec![Fact::Refused(Source::List)],
            ),
        ] {
            assert_eq!(super::of_line(&line, &single), of_one, "{line:?}");
            assert_eq!(super::of_line(&line, &several), of_two, "{line:?}");
        }
    }
}
