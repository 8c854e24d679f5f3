//! How many messages a text becomes, which is what it costs, and whether it is too long.
//!
//! The documentation gives two numbers per coding (send-sms and test-mode pages): what fits into the first part and what fits
//! into each following one. The sandbox reads them literally: `n` parts hold `first + (n - 1) * following` characters. That is the
//! most generous of the plausible readings; the provider's own thresholds between 2 and 7 parts are not published.

/// The longest order the provider takes; one more part is a 453.
pub const MAX_PARTS: usize = 7;

/// How the operators have to encode a text. The rarest character decides for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// GSM 7-bit: 155, then 153.
    English,
    /// GSM 7-bit with one of `ş Ş ğ Ğ ç ı İ`: 150, then 148.
    Turkish,
    /// Anything else, counted in UTF-16 units: 65, then 63.
    Unicode,
}

impl Coding {
    /// What fits into the first part and into each following one. The code `B186`, which the provider appends, is allowed for.
    fn room(self) -> (usize, usize) {
        match self {
            Coding::English => (155, 153),
            Coding::Turkish => (150, 148),
            Coding::Unicode => (65, 63),
        }
    }
}

/// The coding of a text, and into how many parts it is cut. The empty text has one part.
pub fn measure(text: &str) -> (Coding, usize) {
    let coding = coding_of(text);
    let length = match coding {
        Coding::Unicode => text.encode_utf16().count(),
        Coding::English | Coding::Turkish => text
            .chars()
            .map(|c| if is_extended(c) { 2 } else { 1 })
            .sum(),
    };
    let (first, following) = coding.room();
    let parts = 1 + length.saturating_sub(first).div_ceil(following);
    (coding, parts)
}

fn coding_of(text: &str) -> Coding {
    let mut coding = Coding::English;
    for c in text.chars() {
        if is_turkish(c) {
            coding = Coding::Turkish;
        } else if !is_basic(c) && !is_extended(c) {
            return Coding::Unicode;
        }
    }
    coding
}

/// Letters outside the basic table that the Turkish tables have. Each counts once: the documented limit of 150 already pays for
/// the header that announces them.
fn is_turkish(c: char) -> bool {
    matches!(c, 'ş' | 'Ş' | 'ğ' | 'Ğ' | 'ç' | 'ı' | 'İ')
}

/// GSM 03.38 extension table: an escape and a character, so each counts twice.
fn is_extended(c: char) -> bool {
    matches!(
        c,
        '^' | '{' | '}' | '\\' | '[' | ']' | '~' | '|' | '€' | '\u{c}'
    )
}

/// GSM 03.38 basic table.
fn is_basic(c: char) -> bool {
    match c {
        '\n' | '\r' => true,
        '`' | '^' | '{' | '}' | '\\' | '[' | ']' | '~' | '|' => false,
        ' '..='~' => true,
        _ => "ÇÖÜöüÄäÉéñß£¥§àèìòùÅåÆæØøÑ¡¿¤ΔΦΓΛΩΠΨΣΘΞ".contains(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, count: usize, coding: Coding, parts: usize) {
        assert_eq!(
            measure(&text.repeat(count)),
            (coding, parts),
            "{count} times {text:?}"
        );
    }

    #[test]
    fn the_documented_limits_are_the_last_lengths_that_fit() {
        check("a", 155, Coding::English, 1);
        check("a", 156, Coding::English, 2);
        check("a", 308, Coding::English, 2);
        check("a", 1073, Coding::English, 7);
        check("a", 1074, Coding::English, 8);
        check("ş", 150, Coding::Turkish, 1);
        check("ş", 151, Coding::Turkish, 2);
        check("ş", 1038, Coding::Turkish, 7);
        check("ş", 1039, Coding::Turkish, 8);
        check("я", 65, Coding::Unicode, 1);
        check("я", 66, Coding::Unicode, 2);
        check("я", 443, Coding::Unicode, 7);
        check("я", 444, Coding::Unicode, 8);
    }

    #[test]
    fn rare_characters_cost_two() {
        check("€", 77, Coding::English, 1);
        check("€", 78, Coding::English, 2);
        check("😀", 32, Coding::Unicode, 1);
        check("😀", 33, Coding::Unicode, 2);
    }

    #[test]
    fn letters_of_the_basic_table_do_not_make_a_text_turkish() {
        check("ÇÖÜöü", 31, Coding::English, 1);
        check("`", 1, Coding::Unicode, 1);
        check("â", 1, Coding::Unicode, 1);
    }
}
