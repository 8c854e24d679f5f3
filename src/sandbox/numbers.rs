//! Which telephone numbers the API takes, and in which one spelling the sandbox remembers them.

use std::collections::HashSet;

/// Reads one entry of `receipents.number` and returns it as digits with the country code (`905321234567`), or `None` for what the
/// API answers with 466.
///
/// Taken are `905XXXXXXXXX`, `+905XXXXXXXXX` and `5XXXXXXXXX`, with or without spaces (provider documentation, send-sms page and
/// the older pages). The trunk form `05…` is not listed there, so it is refused here. Foreign numbers are written `+` and 8 to 15
/// digits, and need `abroad`; what else the provider would take is not documented.
pub fn read_number(text: &str, abroad: bool, known_prefixes_only: bool) -> Option<String> {
    let compact: String = text.chars().filter(|c| *c != ' ').collect();
    let (plus, digits) = match compact.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => (false, compact.as_str()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let turkish = digits.starts_with("90");
    if plus && !turkish {
        let plausible = (8..=15).contains(&digits.len()) && !digits.starts_with('0');
        return (abroad && plausible).then(|| digits.to_owned());
    }
    let national = if turkish { &digits[2..] } else { digits };
    if national.len() != 10 || !national.starts_with('5') {
        return None;
    }
    if known_prefixes_only && !matches!(national.as_bytes()[1], b'0' | b'3' | b'4' | b'5') {
        return None;
    }
    Some(format!("90{national}"))
}

/// A number as it may appear in logs: enough to recognise, not enough to call.
pub fn masked(number: &str) -> String {
    let digits: Vec<char> = number.chars().filter(char::is_ascii_digit).collect();
    if digits.len() < 10 {
        return "•••••".to_owned();
    }
    let head: String = digits[..5].iter().collect();
    let tail: String = digits[digits.len() - 2..].iter().collect();
    format!("{head}•••••{tail}")
}

/// Numbers that the sandbox treats in a special way. They may be put in with any spelling; two spellings of one number are one.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct NumberSet(HashSet<String>);

impl NumberSet {
    /// Puts a number in. Text that is no number is kept by its digits and will simply never be met.
    pub fn insert(&mut self, number: &str) {
        self.0.insert(one_spelling(number));
    }

    /// Takes a number out.
    pub fn remove(&mut self, number: &str) {
        self.0.remove(&one_spelling(number));
    }

    /// Is this number in, however it is spelled?
    pub fn contains(&self, number: &str) -> bool {
        !self.0.is_empty() && self.0.contains(&one_spelling(number))
    }

    /// Is there no number in?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: AsRef<str>> FromIterator<T> for NumberSet {
    fn from_iter<I: IntoIterator<Item = T>>(numbers: I) -> Self {
        NumberSet(
            numbers
                .into_iter()
                .map(|n| one_spelling(n.as_ref()))
                .collect(),
        )
    }
}

impl From<Vec<String>> for NumberSet {
    fn from(numbers: Vec<String>) -> Self {
        numbers.into_iter().collect()
    }
}

impl From<NumberSet> for Vec<String> {
    fn from(numbers: NumberSet) -> Self {
        let mut numbers: Vec<String> = numbers.0.into_iter().collect();
        numbers.sort();
        numbers
    }
}

/// More forgiving than the API, since here a person says which number is meant: `0532…` is understood too.
pub(super) fn one_spelling(text: &str) -> String {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    match digits.len() {
        10 if digits.starts_with('5') => format!("90{digits}"),
        11 if digits.starts_with("05") => format!("9{digits}"),
        _ => digits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>, why: &str) {
        assert_eq!(
            read_number(text, false, false).as_deref(),
            expected,
            "{text:?}: {why}"
        );
    }

    #[test]
    fn documented_spellings_are_taken_and_others_are_not() {
        check("905321234567", Some("905321234567"), "the preferred form");
        check("+905321234567", Some("905321234567"), "with a plus");
        check("5321234567", Some("905321234567"), "without the country");
        check("+90 532 123 45 67", Some("905321234567"), "with spaces");
        check("05321234567", None, "the trunk form is not listed");
        check("9053212345678", None, "a digit too many");
        check("90532123456", None, "a digit too few");
        check("902121234567", None, "a landline");
        check("+902121234567", None, "a landline");
        check("+4915112345678", None, "foreign, and abroad is off");
        check("0049151123456", None, "foreign, other spelling");
        check("90532-123-4567", None, "dashes are not listed");
        check("٥٣٢١٢٣٤٥٦٧", None, "digits of another script");
        check("", None, "nothing");
        check("+", None, "nothing but a plus");
        check("90", None, "a country alone");
    }

    #[test]
    fn foreign_numbers_are_taken_when_abroad_is_on() {
        assert_eq!(
            read_number("+49 151 12345678", true, false).as_deref(),
            Some("4915112345678")
        );
        assert_eq!(
            read_number("4915112345678", true, false),
            None,
            "only a plus marks a foreign number"
        );
        assert_eq!(read_number("+1234567", true, false), None, "too short");
        assert_eq!(
            read_number("+902121234567", true, false),
            None,
            "a Turkish landline stays refused"
        );
    }

    #[test]
    fn an_unassigned_prefix_is_refused_on_request_only() {
        assert!(read_number("905999999999", false, false).is_some());
        assert_eq!(read_number("905999999999", false, true), None);
        assert!(read_number("905059999999", false, true).is_some());
    }

    #[test]
    fn a_log_shows_the_ends_of_a_number_only() {
        assert_eq!(masked("905321234567"), "90532•••••67");
        assert_eq!(masked("12345"), "•••••");
    }

    #[test]
    fn a_number_set_does_not_care_about_spelling() {
        let set: NumberSet = ["0532 123 45 67"].into_iter().collect();
        assert!(set.contains("905321234567"));
        assert!(set.contains("+905321234567"));
        assert!(!set.contains("905321234568"));
    }
}
