//! When an order is sent: what `sendDateTime` may look like, and what becomes of it.

use chrono::{NaiveDate, NaiveDateTime, TimeZone};
use chrono_tz::Europe::Istanbul;
use serde_json::Value;

/// What the provider makes of `sendDateTime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// No time was given, or one that has passed.
    AtOnce,
    /// A time with seconds was given: the provider ignores it and sends at once (found by its own MCP server, changelog 0.2.0).
    IgnoredSeconds,
    /// At this moment, microseconds since 1970.
    At(i64),
}

/// `sendDateTime` cannot be read: code 457.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSchedule;

/// Reads `sendDateTime` as the documentation describes it: `dd/MM/yyyy HH:mm` in Turkey's local time (send-sms page). An array
/// with one string is taken too (older pages), and so are `""`, `null` and `[]`, which official clients send when there is no
/// schedule. `now` is in microseconds since 1970; what becomes of a time in the past is not documented, here it is sent at once.
pub fn read_schedule(field: Option<&Value>, now: i64) -> Result<Schedule, BadSchedule> {
    let text = match field {
        None | Some(Value::Null) => return Ok(Schedule::AtOnce),
        Some(Value::String(text)) => text.as_str(),
        Some(Value::Array(items)) => match items.as_slice() {
            [] => return Ok(Schedule::AtOnce),
            [Value::String(text)] => text.as_str(),
            _ => return Err(BadSchedule),
        },
        Some(_) => return Err(BadSchedule),
    };
    if text.is_empty() {
        return Ok(Schedule::AtOnce);
    }
    if has_shape(text, "dd/dd/dddd dd:dd:dd") || has_shape(text, "dddd-dd-dd dd:dd:dd") {
        return Ok(Schedule::IgnoredSeconds);
    }
    if !has_shape(text, "dd/dd/dddd dd:dd") {
        return Err(BadSchedule);
    }
    let local = NaiveDateTime::parse_from_str(text, "%d/%m/%Y %H:%M").map_err(|_| BadSchedule)?;
    // `earliest` is `None` only for an hour that a change of clocks skips; Turkey has had none since 2016.
    let at = Istanbul
        .from_local_datetime(&local)
        .earliest()
        .ok_or(BadSchedule)?
        .timestamp_micros();
    Ok(if at > now {
        Schedule::At(at)
    } else {
        Schedule::AtOnce
    })
}

/// Reads `Y-m-d`, as `get-reports` wants its `start` and `end`.
pub fn read_date(text: &str) -> Option<NaiveDate> {
    has_shape(text, "dddd-dd-dd")
        .then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok())
        .flatten()
}

/// Reads `Y-m-d H:i:s` in Turkey's local time, as the block list and consents have it: microseconds since 1970.
pub fn read_time(text: &str) -> Option<i64> {
    if !has_shape(text, "dddd-dd-dd dd:dd:dd") {
        return None;
    }
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()?;
    let at = Istanbul.from_local_datetime(&local).earliest()?;
    Some(at.timestamp_micros())
}

/// A moment as the reports print it: `YYYY-MM-DD HH:MM:SS` without a zone, here Turkey's local time.
pub fn report_time(micros: i64) -> String {
    local(micros).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// The day on which a moment falls in Turkey.
pub fn local_date(micros: i64) -> NaiveDate {
    local(micros).date()
}

fn local(micros: i64) -> NaiveDateTime {
    // Out of range only after the year 262,000.
    chrono::DateTime::from_timestamp_micros(micros)
        .unwrap_or_default()
        .with_timezone(&Istanbul)
        .naive_local()
}

/// `d` in the shape stands for a digit, everything else for itself.
fn has_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(t, s)| match s {
            b'd' => t.is_ascii_digit(),
            _ => t == s,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// 2026-05-01 12:00 in Turkey.
    const NOON: i64 = 1_777_626_000_000_000;
    const HOUR: i64 = 3_600_000_000;

    fn check(field: Value, expected: Result<Schedule, BadSchedule>, why: &str) {
        assert_eq!(
            read_schedule(Some(&field), NOON),
            expected,
            "{field}: {why}"
        );
    }

    #[test]
    fn a_time_is_read_as_turkeys_local_time() {
        assert_eq!(report_time(NOON), "2026-05-01 12:00:00");
        check(
            json!("01/05/2026 13:00"),
            Ok(Schedule::At(NOON + HOUR)),
            "an hour later",
        );
        check(
            json!(["01/05/2026 13:00"]),
            Ok(Schedule::At(NOON + HOUR)),
            "older pages show an array",
        );
        check(json!("01/05/2026 11:59"), Ok(Schedule::AtOnce), "the past");
    }

    #[test]
    fn a_time_with_seconds_is_ignored() {
        check(
            json!("01/05/2026 13:00:00"),
            Ok(Schedule::IgnoredSeconds),
            "the documented order",
        );
        check(
            json!("2026-05-01 13:00:00"),
            Ok(Schedule::IgnoredSeconds),
            "as three official clients show it",
        );
    }

    #[test]
    fn no_time_means_at_once() {
        assert_eq!(read_schedule(None, NOON), Ok(Schedule::AtOnce));
        for nothing in [json!(null), json!(""), json!([]), json!([""])] {
            check(nothing, Ok(Schedule::AtOnce), "nothing is scheduled");
        }
    }

    #[test]
    fn a_time_is_read_as_it_is_printed() {
        assert_eq!(read_time(&report_time(NOON)), Some(NOON));
        for wrong in [
            "2026-05-01",
            "2026-05-01 25:00:00",
            "01/05/2026 12:00:00",
            "",
        ] {
            assert_eq!(read_time(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn anything_else_is_badly_formed() {
        for wrong in [
            json!("2026-05-01 13:00"),
            json!("1/5/2026 13:00"),
            json!("31/02/2026 13:00"),
            json!("01/05/2026 25:00"),
            json!("01/05/2026"),
            json!("tomorrow"),
            json!(["01/05/2026 13:00", "01/05/2026 14:00"]),
            json!(1_777_626_000),
            json!({}),
        ] {
            check(wrong, Err(BadSchedule), "not dd/MM/yyyy HH:mm");
        }
    }
}
