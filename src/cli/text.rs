//! How answers look: tables that fit, times that people can read, numbers that nobody can call.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, ErrorKind, Write},
};

use chrono::{DateTime, Utc};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

use crate::message::{ForeignNumbers, Recipient, digit, mask};

/// Whether numbers, texts and the producer's own data are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reveal {
    /// Numbers masked, the rest left out.
    Hidden,
    /// As they are.
    Shown,
}

impl From<bool> for Reveal {
    fn from(reveal: bool) -> Self {
        if reveal { Self::Shown } else { Self::Hidden }
    }
}

impl Reveal {
    /// A number as it may be shown.
    pub(super) fn number(self, number: &str) -> String {
        match self {
            Self::Hidden => mask(number),
            Self::Shown => number.to_owned(),
        }
    }

    /// A text that is meant to be shown, such as an idempotency key: only what reads as a number in it is masked.
    pub(super) fn key(self, key: &str) -> String {
        match self {
            Self::Hidden => mask_within(key),
            Self::Shown => key.to_owned(),
        }
    }
}

/// `otp-905321234567` -> `otp-90532•••••67`
fn mask_within(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| digit(c).is_some()) {
        let (before, from) = rest.split_at(start);
        let end = from
            .find(|c: char| digit(c).is_none())
            .unwrap_or(from.len());
        let (digits, after) = from.split_at(end);
        masked.push_str(before);
        match Recipient::parse(digits, ForeignNumbers::Refused) {
            Ok(number) => masked.push_str(&number.masked()),
            Err(_) => masked.push_str(digits),
        }
        rest = after;
    }
    masked.push_str(rest);
    masked
}

/// The answer, on standard output: lines, and in them nothing that a terminal would obey. A reader that has seen enough
/// (`| head`) is no failure.
pub(super) fn print(answer: &str) -> io::Result<()> {
    let lines: Vec<_> = answer.split('\n').map(visible).collect();
    write(&lines.join("\n"))
}

fn write(answer: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(answer.as_bytes())
        .and_then(|()| {
            if answer.ends_with('\n') || answer.is_empty() {
                Ok(())
            } else {
                out.write_all(b"\n")
            }
        })
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The answer as one JSON document. It escapes what a terminal would obey, which JSON itself does for half of it.
pub(super) fn print_json(answer: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut json = String::new();
    for c in serde_json::to_string_pretty(answer)?.chars() {
        if is_obeyed(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                json.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            json.push(c);
        }
    }
    Ok(write(&json)?)
}

/// Other people's text in one line: what a terminal would obey is shown by its number, as in `\u{1b}`.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_obeyed(c) {
            visible.extend(c.escape_default());
        } else {
            visible.push(c);
        }
    }
    Cow::Owned(visible)
}

/// A table's row, each cell in one line.
pub(super) fn cells(row: Vec<String>) -> Vec<String> {
    row.iter().map(|cell| visible(cell).into_owned()).collect()
}

/// Controls (ESC, CR, and those of the upper half that some terminals still know), and what turns the direction of writing
/// around, so that a line reads as something else.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E007F}')
}

/// How wide the terminal is, if there is one. What goes into a file or a pipe is not wrapped.
pub(super) fn width() -> Option<u16> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0)
}

/// A table without lines, whose first `whole` columns are never wrapped, so that an id can be copied.
pub(super) fn table(header: &[&str], whole: usize, width: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    for (n, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if n < whole {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
}

/// The table as lines without trailing spaces.
pub(super) fn lines(table: &Table) -> String {
    let mut lines = String::new();
    for line in table.lines() {
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines
}

/// `1 job`, `2 jobs`, `50,000 jobs`
pub(super) fn count(n: impl TryInto<u64>, what: &str) -> String {
    let n: u64 = n.try_into().unwrap_or(0);
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(n))
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `850 ms`, `42 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`: the two largest units.
pub(super) fn span(ms: i64) -> String {
    let ms = ms.unsigned_abs();
    if ms < 1_000 {
        return format!("{ms} ms");
    }
    let s = ms / 1_000;
    let two = |large: u64, unit: &str, small: u64, sub: &str| {
        if small == 0 {
            format!("{large} {unit}")
        } else {
            format!("{large} {unit} {small} {sub}")
        }
    };
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => two(s / 60, "min", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", s % 3_600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

/// `42 s ago`, `in 3 min`
pub(super) fn from_now(ms: i64) -> String {
    if ms > 0 {
        format!("in {}", span(ms))
    } else {
        format!("{} ago", span(ms))
    }
}

/// A moment as the database gives it.
pub(super) fn parse(moment: Option<&str>) -> Option<DateTime<Utc>> {
    let moment = DateTime::parse_from_rfc3339(moment?).ok()?;
    Some(moment.to_utc())
}

/// Milliseconds from `now` to `moment`, both by the database's clock; negative for what is past.
pub(super) fn ms_until(moment: Option<&str>, now: DateTime<Utc>) -> Option<i64> {
    Some((parse(moment)? - now).num_milliseconds())
}

/// `2026-11-22 14:05:09 UTC (42 s ago)`
pub(super) fn moment(moment: Option<&str>, now: DateTime<Utc>) -> Option<String> {
    let at = parse(moment)?;
    let ms = (at - now).num_milliseconds();
    Some(format!(
        "{} ({})",
        at.format("%Y-%m-%d %H:%M:%S UTC"),
        from_now(ms)
    ))
}

/// `a, b and c`
pub(super) fn listed<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.pop() {
        None => String::new(),
        Some(last) if items.is_empty() => last,
        Some(last) => format!("{} and {last}", items.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        for (ms, said) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (185_000, "3 min 5 s"),
            (7_800_000, "2 h 10 min"),
            (356_400_000, "4 d 3 h"),
            (-42_000, "42 s"),
        ] {
            assert_eq!(span(ms), said, "{ms}");
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown_as_it_is() {
        for (text, shown) in [
            ("plain ş 🛒", "plain ş 🛒"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\r\n\tb", "a\\r\\n\\tb"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}gnp.exe", "\\u{202e}gnp.exe"),
            ("\u{2028}x\u{7f}", "\\u{2028}x\\u{7f}"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }

    #[test]
    fn counts_agree_with_their_nouns() {
        assert_eq!(count(1u32, "job"), "1 job");
        assert_eq!(count(0u32, "job"), "0 jobs");
        assert_eq!(count(1_234_567i64, "job"), "1,234,567 jobs");
        assert_eq!(count(-1i64, "job"), "0 jobs");
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_and_not_obeyed() {
        for (text, shown) in [
            ("Şube 1, „çok“ – 5 €", "Şube 1, „çok“ – 5 €"),
            ("\u{1b}[31mred\r\n", "\\u{1b}[31mred\\r\\n"),
            ("a\u{202e}b\u{9b}c\u{7f}", "a\\u{202e}b\\u{9b}c\\u{7f}"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }

    #[test]
    fn a_number_inside_a_key_is_masked_and_nothing_else_is() {
        for (key, shown) in [
            ("order-1234", "order-1234"),
            ("otp-905321234567", "otp-90532•••••67"),
            ("05321234567/2", "90532•••••67/2"),
            ("2026-11-22", "2026-11-22"),
            ("çok-5321234567-ş", "çok-90532•••••67-ş"),
            ("otp-٠٥٣٢١٢٣٤٥٦٧", "otp-90532•••••67"),
        ] {
            assert_eq!(Reveal::Hidden.key(key), shown);
            assert_eq!(Reveal::Shown.key(key), key);
        }
    }
}
