//! What would be sent, and everything that would be refused about it: decided without a database.

use serde_json::{Value, json};

use crate::{
    cli::{
        inspect::{coding, parts_said},
        text::{Reveal, count},
    },
    message::{
        Body, Coding, ForeignNumbers, Iys, MAX_PARTS, MAX_RECIPIENTS, Parts, Recipient,
        RecipientList, Sender, estimate,
    },
    outbox::JobRow,
};

/// Of the numbers that would be refused, as many are named.
const NAMED: usize = 20;

/// A number that cannot be sent to.
pub(super) struct RefusedNumber {
    /// Its place in the list, from 1.
    place: usize,
    number: String,
    why: String,
}

/// A message as far as it has been understood.
pub(super) struct Draft {
    pub(super) sender: String,
    pub(super) accepted: Vec<Recipient>,
    pub(super) body: String,
    pub(super) iys: Iys,
    pub(super) parts: Parts,
    given: usize,
    refused: Vec<RefusedNumber>,
    /// Whether refused numbers are left out rather than refusing the message.
    skip_bad: bool,
    /// What is wrong with the message as a whole: field and sentence.
    problems: Vec<(&'static str, String)>,
}

impl Draft {
    pub(super) fn new(
        sender: &str,
        numbers: &[String],
        body: String,
        iys: Iys,
        foreign: ForeignNumbers,
        skip_bad: bool,
    ) -> Self {
        let mut problems = Vec::new();
        match Sender::parse(sender) {
            Err(error) => problems.push(("sender", error.to_string())),
            Ok(sender) if sender.is_test() && iys.is_commercial() => problems.push((
                "iys",
                "the test sender APITEST sends transactional messages only".to_owned(),
            )),
            Ok(_) => {}
        }
        // The text in the form that is stored is the one to measure and to show.
        let (body, parts) = match Body::parse(&body) {
            Ok(read) => (read.as_str().to_owned(), read.parts()),
            Err(error) => {
                problems.push(("text", error.to_string()));
                let parts = estimate(&body);
                (body, parts)
            }
        };
        if parts.exceeds_limit() {
            problems.push((
                "text",
                format!(
                    "it makes at least {}, and {MAX_PARTS} are the most",
                    count(parts.least, "part")
                ),
            ));
        }
        let RecipientList { accepted, rejected } = RecipientList::read(numbers, foreign);
        let refused: Vec<RefusedNumber> = rejected
            .into_iter()
            .map(|(index, error)| RefusedNumber {
                place: index + 1,
                number: numbers[index].clone(),
                why: error.to_string(),
            })
            .collect();
        if accepted.is_empty() {
            let why = if refused.is_empty() {
                "there are no numbers"
            } else {
                "none of the numbers can be sent to"
            };
            problems.push(("recipients", why.to_owned()));
        }
        Self {
            sender: sender.to_owned(),
            accepted,
            body,
            iys,
            parts,
            given: numbers.len(),
            refused,
            skip_bad,
            problems,
        }
    }

    /// Whether it may go into the outbox.
    pub(super) fn would_be_sent(&self) -> bool {
        self.problems.is_empty() && (self.refused.is_empty() || self.skip_bad)
    }

    /// Whether some of the numbers are left out of a message that goes into the outbox.
    pub(super) fn skips(&self) -> bool {
        self.would_be_sent() && !self.refused.is_empty()
    }

    /// Numbers that came twice.
    fn repeated(&self) -> usize {
        self.given - self.refused.len() - self.accepted.len()
    }

    /// Everything that keeps it from being sent, in one text; `None` if nothing does.
    pub(super) fn problems_said(&self, reveal: Reveal) -> Option<String> {
        if self.would_be_sent() {
            return None;
        }
        let mut said: Vec<String> = self
            .problems
            .iter()
            .map(|(field, why)| format!("{field}: {why}"))
            .collect();
        if !self.refused.is_empty() {
            said.push(format!(
                "{} cannot be sent to (--skip-bad leaves them out):\n{}",
                count(self.refused.len(), "number"),
                self.refused_said(reveal).trim_end()
            ));
        }
        Some(format!(
            "nothing was put into the outbox. {}",
            said.join("\n")
        ))
    }

    /// A line for each number that would be refused, as far as they are named.
    pub(super) fn refused_said(&self, reveal: Reveal) -> String {
        let mut said = String::new();
        for refused in self.refused.iter().take(NAMED) {
            said.push_str(&format!(
                "  left out: number {} ({}): {}\n",
                refused.place,
                reveal.number(&refused.number),
                refused.why
            ));
        }
        if self.refused.len() > NAMED {
            said.push_str(&format!(
                "  left out: {} more (--dry-run --json names all)\n",
                self.refused.len() - NAMED
            ));
        }
        said
    }

    /// Whether a job in the outbox is this message.
    pub(super) fn is_what(&self, job: &JobRow) -> bool {
        let numbers = job.recipients.iter().map(Option::as_deref);
        job.sender == self.sender
            && job.body == self.body
            && job.iys == self.iys.is_commercial()
            && job.iys_list.as_deref() == self.iys.list().map(|list| list.as_str())
            && numbers.eq(self.accepted.iter().map(|number| Some(number.as_str())))
    }

    pub(super) fn page(&self, reveal: Reveal) -> String {
        let alphabet = match self.parts.coding {
            Coding::English => "English (7-bit letters)",
            Coding::Turkish => "Turkish (7-bit letters and ş ğ ç ı İ)",
            Coding::Unicode => {
                "Unicode (an emoji, a curly quote or another script halves what fits)"
            }
        };
        let kind = match self.iys.list() {
            None => "transactional".to_owned(),
            Some(list) => format!("marketing, list {list}"),
        };
        let mut page = format!(
            "sender      {}\nkind        {kind}\ntext        {}; {alphabet}\nparts       {} for each recipient, by estimate\n",
            self.sender,
            count(self.body.chars().count(), "character"),
            parts_said(self.parts),
        );
        let repeated = match self.repeated() {
            0 => String::new(),
            n => format!(" ({} that came twice left out)", count(n, "number")),
        };
        page.push_str(&format!(
            "recipients  {}{repeated}\n",
            count(self.accepted.len(), "number")
        ));
        for number in self.accepted.iter().take(NAMED) {
            page.push_str(&format!("            {}\n", reveal.number(number.as_str())));
        }
        if self.accepted.len() > NAMED {
            page.push_str(&format!(
                "            and {} more\n",
                self.accepted.len() - NAMED
            ));
        }
        if self.accepted.len() > MAX_RECIPIENTS {
            page.push_str(&format!(
                "jobs        {}, sent one after another\n",
                self.accepted.len().div_ceil(MAX_RECIPIENTS)
            ));
        }
        for (field, why) in &self.problems {
            page.push_str(&format!("refused     {field}: {why}\n"));
        }
        page.push_str(&self.refused_said(reveal));
        page.push_str(match (self.would_be_sent(), self.refused.is_empty()) {
            (true, true) => "\nIt would go into the outbox as it stands. Nothing was sent.\n",
            (true, false) => "\nIt would go into the outbox without the numbers left out. Nothing was sent.\n",
            (false, _) if self.problems.is_empty() => {
                "\nIt would be refused because of these numbers; --skip-bad leaves them out. Nothing was sent.\n"
            }
            (false, _) => "\nIt would be refused. Nothing was sent.\n",
        });
        page
    }

    pub(super) fn json(&self, reveal: Reveal) -> Value {
        let numbers: Vec<String> = self
            .accepted
            .iter()
            .map(|number| reveal.number(number.as_str()))
            .collect();
        let refused: Vec<Value> = self
            .refused
            .iter()
            .map(|refused| {
                json!({ "place": refused.place, "number": reveal.number(&refused.number), "why": refused.why })
            })
            .collect();
        let problems: Vec<Value> = self
            .problems
            .iter()
            .map(|(field, why)| json!({ "field": field, "why": why }))
            .collect();
        json!({
            "would_be_sent": self.would_be_sent(),
            "sender": self.sender,
            "iys": self.iys.is_commercial(),
            "iys_list": self.iys.list().map(|list| list.as_str()),
            "recipients": numbers,
            "recipient_count": self.accepted.len(),
            "rejected": refused,
            "repeated": self.repeated(),
            "body_characters": self.body.chars().count(),
            "coding": coding(self.parts.coding),
            "parts_least": self.parts.least,
            "parts_most": self.parts.most,
            "jobs": self.accepted.len().div_ceil(MAX_RECIPIENTS),
            "problems": problems,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(sender: &str, numbers: &[&str], body: &str, skip_bad: bool) -> Draft {
        let numbers: Vec<String> = numbers.iter().map(|number| (*number).to_owned()).collect();
        let iys = Iys::Transactional;
        Draft::new(
            sender,
            &numbers,
            body.to_owned(),
            iys,
            ForeignNumbers::Refused,
            skip_bad,
        )
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let said = draft("TWELVE CHARS", &["n/a"], "", false)
            .problems_said(Reveal::Hidden)
            .expect("three things are wrong");
        for wrong in [
            "sender: ",
            "text: it is empty",
            "recipients: none",
            "number 1",
        ] {
            assert!(said.contains(wrong), "{said}");
        }
    }

    #[test]
    fn bad_numbers_refuse_the_message_unless_they_are_to_be_left_out() {
        let numbers = [
            "05321234567",
            "+90 532 123 45 67",
            "0212 123 45 67",
            "+49 171 1234567",
        ];
        for (skip_bad, sent) in [(false, false), (true, true)] {
            let draft = draft("BRAND", &numbers, "hi", skip_bad);
            assert_eq!(draft.would_be_sent(), sent);
            assert_eq!(draft.json(Reveal::Hidden)["repeated"], 1);
            assert_eq!(draft.json(Reveal::Hidden)["recipients"][0], "90532•••••67");
            assert_eq!(draft.json(Reveal::Hidden)["rejected"][0]["place"], 3);
        }
    }
}
