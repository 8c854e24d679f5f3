//! The account's own block list: page get-blacklist of the provider's documentation.

use super::reply::{Answer, Tree, as_count};
use crate::message::{ForeignNumbers, Recipient};

/// One page of the numbers that nothing may be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockListPage {
    /// How many numbers the list has, where the provider says so.
    pub count: Option<u64>,
    /// Those of this page that could be read.
    pub numbers: Vec<Recipient>,
    /// How many entries this page has, readable or not.
    pub entries: usize,
}

impl BlockListPage {
    /// `None` if there is no list where the documentation has it.
    pub(super) fn read(answer: &Answer) -> Option<Self> {
        let entries = match answer.field(&["blacklist", "number"])? {
            Tree::List(entries) => entries.as_slice(),
            // The habit of the provider's other lists: a single element stands for itself.
            single @ Tree::Text(_) => std::slice::from_ref(single),
            _ => return None,
        };
        let number = |entry: &Tree| {
            let text = match entry {
                Tree::Text(text) => text.clone(),
                Tree::Integer(number) => number.to_string(),
                _ => return None,
            };
            Recipient::parse(&text, ForeignNumbers::Allowed).ok()
        };
        Some(Self {
            count: answer.field(&["blacklist", "count"]).and_then(as_count),
            numbers: entries.iter().filter_map(number).collect(),
            entries: entries.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_block_list_are_read_in_every_spelling() {
        let read = |list: &str| {
            let body = format!(r#"{{"response":{{"status":{{"code":200}},"blacklist":{list}}}}}"#);
            BlockListPage::read(&Answer::read(body.as_bytes()))
        };
        let page =
            read(r#"{"count":"4","number":["+905301234567","905301234568",5301234569,"?"]}"#);
        let page = page.expect("a list");
        let numbers: Vec<&str> = page.numbers.iter().map(Recipient::as_str).collect();
        assert_eq!(numbers, ["905301234567", "905301234568", "905301234569"]);
        assert_eq!((page.count, page.entries), (Some(4), 4));
        let single = read(r#"{"number":"+905301234567"}"#).expect("a list");
        assert_eq!((single.count, single.numbers.len()), (None, 1));
        assert_eq!(read(r#"{"count":0}"#), None);
        assert_eq!(read("null"), None);
    }
}
