//! What stands around and between the digits of a number, wherever people copied it from.
//!
//! `normalize_number` in the schema reads the same spellings in the same steps.

use super::RecipientError;

/// The digits of a text, and what else it says about them.
pub(super) struct Spelling {
    /// Whether a + or 00 stands in front: what follows begins with a country code.
    pub(super) international: bool,
    /// Without that + or 00, and without the bracketed 0 of `+49 (0) 171 …`.
    pub(super) digits: String,
    /// How many digits were written.
    pub(super) count: usize,
    /// Whether another bracket begins with 0, which is dialled in some countries and left out in others.
    pub(super) has_bracketed_zero: bool,
    /// Whether a line ends, or something short follows a slash: `+49 171 1234567 / 68`.
    pub(super) may_be_several: bool,
}

/// No longer text is a number; the table takes none either.
const LONGEST: usize = 64;

/// What links and contact cards write in front.
const SCHEMES: [&str; 4] = ["tel:", "sms:", "smsto:", "callto:"];

impl Spelling {
    pub(super) fn read(text: &str) -> Result<Self, RecipientError> {
        if text.chars().nth(LONGEST).is_some() {
            return Err(RecipientError::TooLong);
        }
        let written: Vec<(char, char)> = text
            .chars()
            .filter_map(|c| plain(c).map(|plain| (plain, c)))
            .collect();
        let mut rest = trimmed(&written);
        for scheme in SCHEMES {
            let begins = rest.len() >= scheme.len()
                && scheme
                    .chars()
                    .zip(rest)
                    .all(|(expected, (c, _))| c.eq_ignore_ascii_case(&expected));
            if begins {
                rest = trimmed(&rest[scheme.len()..]);
                break;
            }
        }
        let plus = matches!(rest, [('+', _), ..]);
        if plus {
            rest = &rest[1..];
        }
        for (c, original) in rest {
            match c {
                '0'..='9' | ' ' | '\n' | '.' | '-' | '/' | '(' | ')' => {}
                '+' => return Err(RecipientError::PlusInside),
                _ => return Err(RecipientError::Character(*original)),
            }
        }
        let rest: String = rest.iter().map(|(c, _)| c).collect();
        let count = digits_of(&rest).len();
        if count == 0 {
            return Err(RecipientError::Empty);
        }
        if is_decimal(&rest) {
            return Err(RecipientError::Decimal);
        }
        let mut bare: String = rest
            .chars()
            .filter(|c| matches!(c, '0'..='9' | '(' | ')'))
            .collect();
        let international = plus || digits_of(&bare).starts_with("00");
        if international {
            drop_bracketed_zero(&mut bare);
        }
        let digits = digits_of(&bare);
        let digits = match digits.strip_prefix("00") {
            Some(number) if !plus => number.to_owned(),
            _ => digits,
        };
        let after_slash = rest
            .rsplit_once('/')
            .map(|(_, after)| digits_of(after).len());
        Ok(Self {
            international,
            digits,
            count,
            has_bracketed_zero: bare.contains("(0"),
            may_be_several: rest.contains('\n') || after_slash.is_some_and(|digits| digits < 5),
        })
    }
}

/// A digit of any script.
pub(crate) fn digit(c: char) -> Option<char> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c);
    }
    let code = u32::from(c);
    let zero = ZEROS[..ZEROS.partition_point(|zero| *zero <= code)].last()?;
    char::from_digit(code - zero, 10)
}

/// A character as the simplest of its kind: `0` to `9`, `+ ( ) . / - :`, a space, `\n` for whatever ends a line or a cell, `"` for
/// whatever is put around a number or behind it in a list. `None` for what cannot be seen.
fn plain(c: char) -> Option<char> {
    let plain = match c {
        '\u{AD}'
        | '\u{61C}'
        | '\u{180E}'
        | '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{2069}'
        | '\u{20E3}'
        | '\u{FE0E}'
        | '\u{FE0F}'
        | '\u{FEFF}' => return None,
        '\t' | '\n' | '\u{B}' | '\u{C}' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
        '+' | '\u{FE62}' | '＋' => '+',
        '(' | '\u{FE59}' | '（' => '(',
        ')' | '\u{FE5A}' | '）' => ')',
        '.' | '\u{FE52}' | '．' => '.',
        '/' | '／' => '/',
        ':' | '：' => ':',
        // Hyphen to horizontal bar, minus, and the small and full-width hyphens.
        '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{FE58}' | '\u{FE63}' | '－' => '-',
        '"'
        | '\''
        | '`'
        | '´'
        | '‘'..='‟'
        | '«'
        | '»'
        | '‹'
        | '›'
        | '＂'
        | '＇'
        | '<'
        | '>'
        | '['
        | ']'
        | '{'
        | '}'
        | ','
        | ';'
        | '='
        | '＝' => '"',
        c if c.is_whitespace() => ' ',
        c => digit(c).unwrap_or(c),
    };
    Some(plain)
}

fn trimmed(mut written: &[(char, char)]) -> &[(char, char)] {
    let is_around = |c: char| matches!(c, ' ' | '\n' | '"' | '.' | '-' | '/' | '(' | ')');
    while let [(first, _), rest @ ..] = written
        && is_around(*first)
    {
        written = rest;
    }
    while let [rest @ .., (last, _)] = written
        && is_around(*last)
    {
        written = rest;
    }
    written
}

fn digits_of(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

/// `532123456.0` is what a spreadsheet makes of nine digits, and would be read as ten. One digit behind the last dot, or two or
/// only zeros behind the only one and no other separator.
fn is_decimal(text: &str) -> bool {
    let Some((whole, fraction)) = text.rsplit_once('.') else {
        return false;
    };
    let fraction = fraction.trim_start_matches(' ');
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(fraction) {
        return false;
    }
    fraction.len() == 1
        || whole.len() >= 7
            && is_number(whole)
            && (fraction.len() == 2 || fraction.bytes().all(|b| b == b'0'))
}

/// `+49 (0) 171 …`: the 0 is for those who dial inside the country. Behind 90 any 0 is, in brackets or not.
fn drop_bracketed_zero(bare: &mut String) {
    let after_zeros = if bare.starts_with("00") { 2 } else { 0 };
    let code = &bare[after_zeros..];
    let length = code.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=3).contains(&length) || code.starts_with('0') || code.starts_with("90") {
        return;
    }
    let mut at = after_zeros + length;
    if bare[at..].starts_with(')') {
        at += 1;
    }
    if bare[at..].starts_with("(0)") {
        bare.replace_range(at..at + 3, "");
    }
}

/// The zero of each script that has digits of its own (Unicode 14, category Nd); the other nine follow it.
#[rustfmt::skip]
const ZEROS: [u32; 65] = [
    0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66,
    0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90,
    0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
    0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650,
    0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16AC0, 0x16B50,
    0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E950, 0x1FBF0,
];
