//! What the sandbox writes down: every accepted order, and every request that arrived.
//!
//! The ledger is the only place for content (numbers and texts). It is the user's own memory and the user's own file; keys and
//! hashes are in neither, only a fingerprint that tells accounts apart.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::numbers::one_spelling;
use super::rules::IysList;
use super::wire::Action;

/// An accepted order, or one text of it if it has several; then all of them have its id. It is written down before it is answered.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LedgerEntry {
    /// The order's id, digits.
    pub order_id: String,
    /// When the request had arrived, microseconds since 1970.
    pub arrived_at: i64,
    /// When the order was accepted, microseconds since 1970; the duplicate guard runs from here.
    pub accepted_at: i64,
    /// Which account, by [`fingerprint`] of its key.
    pub account: String,
    /// As given.
    pub sender: String,
    /// Who it goes to, digits with the country code.
    pub numbers: Vec<String>,
    /// The id of the message to the first of them, as webhooks say it; the others follow one by one.
    #[serde(default)]
    pub first_message_id: i64,
    /// Who was silently left out: no consent, or unreadable and skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
    /// The text as given.
    pub text: String,
    /// What the recipients read; differs from the text for the test sender.
    pub sent_text: String,
    /// Whether it is marketing.
    pub iys: bool,
    /// To whom it markets.
    pub iys_list: Option<IysList>,
    /// `sendDateTime` as it came.
    pub send_date_time: Option<Value>,
    /// A schedule was given with seconds, and therefore ignored.
    pub schedule_ignored: bool,
    /// When it goes out, microseconds since 1970.
    pub send_at: i64,
    /// Parts of the text.
    pub parts: usize,
    /// Credits it cost.
    pub cost: u64,
    /// The fault that struck the request, in its one-line form.
    pub fault: Option<String>,
    /// Whether the answer was then given; `false` where a fault kept it back. A client that has gone in the meantime is not noticed.
    pub replied: bool,
}

/// A request that arrived, accepted or not.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct RequestRecord {
    /// When the whole request had arrived, microseconds since 1970.
    pub arrived_at: i64,
    /// What was asked for.
    pub action: Action,
    /// Which account, by [`fingerprint`] of its key; `None` if the credentials were wrong or unreadable.
    pub account: Option<String>,
    /// Entries in `receipents.number`, whatever they are.
    pub recipients: usize,
    /// `status.code` that was decided; `None` if a fault kept the request from being looked at, or it was throttled.
    pub code: Option<u16>,
    /// The order that it made.
    pub order_id: Option<String>,
    /// The fault that struck it, in its one-line form.
    pub fault: Option<String>,
    /// Whether the client was given the answer that was decided.
    pub replied: bool,
    /// The sender, if there was one.
    pub sender: Option<String>,
    /// The text, if there was one.
    pub text: Option<String>,
    /// The first recipient in one spelling, if there was one.
    pub first_number: Option<String>,
    /// Equal for requests whose bodies are equal byte by byte.
    pub body_fingerprint: u64,
}

/// Which part of the ledger is wanted. Everything given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerFilter {
    /// This order.
    pub order_id: Option<String>,
    /// Orders to this number, in any spelling.
    pub number: Option<String>,
    /// Orders from exactly this sender.
    pub sender: Option<String>,
    /// Orders whose text contains this.
    pub text: Option<String>,
    /// Orders of the account with this fingerprint.
    pub account: Option<String>,
    /// Arrived at or after this moment, microseconds since 1970.
    pub since: Option<i64>,
    /// No more than so many, the newest.
    pub limit: Option<usize>,
}

impl LedgerFilter {
    /// Does this order belong to what is wanted?
    pub fn fits(&self, entry: &LedgerEntry) -> bool {
        self.order_id
            .as_ref()
            .is_none_or(|id| *id == entry.order_id)
            && self
                .number
                .as_ref()
                .is_none_or(|number| entry.numbers.contains(&one_spelling(number)))
            && self
                .sender
                .as_ref()
                .is_none_or(|sender| *sender == entry.sender)
            && self
                .text
                .as_ref()
                .is_none_or(|part| entry.text.contains(part))
            && self
                .account
                .as_ref()
                .is_none_or(|account| *account == entry.account)
            && self.since.is_none_or(|since| entry.arrived_at >= since)
    }
}

/// Tells accounts apart without giving the key away: the first 12 hexadecimal digits of its SHA-256.
pub fn fingerprint(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Which ids a ledger file has given out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsedIds {
    /// The highest id of an order.
    pub order: Option<u64>,
    /// The first id that no message has.
    pub next_message: Option<i64>,
}

/// The ledger on disk: one order per line, as JSON, handed to the operating system before the order is answered. It survives the
/// end of the process, not a loss of power.
#[derive(Debug)]
pub struct LedgerFile(Mutex<File>);

impl LedgerFile {
    /// Opens a file for appending, and says which ids are in it. A last line that was cut off is skipped.
    pub fn open(path: &Path) -> io::Result<(Self, UsedIds)> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut used = UsedIds::default();
        let mut complete = true;
        for line in BufReader::new(&file).split(b'\n') {
            let line = line?;
            let entry = serde_json::from_slice::<LedgerEntry>(&line).ok();
            complete = line.is_empty() || entry.is_some();
            if let Some(entry) = entry {
                let messages = i64::try_from(entry.numbers.len()).unwrap_or(i64::MAX);
                let next_message = entry.first_message_id.saturating_add(messages);
                used.order = used.order.max(entry.order_id.parse().ok());
                used.next_message = used.next_message.max(Some(next_message));
            }
        }
        if !complete {
            file.write_all(b"\n")?;
        }
        Ok((LedgerFile(Mutex::new(file)), used))
    }

    /// Appends one order.
    pub fn append(&self, entry: &LedgerEntry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        // One write per line, so that a kill between two lines leaves whole lines.
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&line)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn entry(order_id: u64) -> LedgerEntry {
        LedgerEntry {
            order_id: order_id.to_string(),
            arrived_at: 1_000,
            accepted_at: 1_000,
            account: fingerprint("k"),
            sender: "SANDBOX".to_owned(),
            numbers: vec!["905321234567".to_owned()],
            first_message_id: 1_599_558_518,
            dropped: Vec::new(),
            text: "hello".to_owned(),
            sent_text: "hello".to_owned(),
            iys: false,
            iys_list: None,
            send_date_time: None,
            schedule_ignored: false,
            send_at: 1_000,
            parts: 1,
            cost: 1,
            fault: None,
            replied: true,
        }
    }

    #[test]
    fn a_ledger_file_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.jsonl");
        let (file, used) = LedgerFile::open(&path).expect("opened");
        assert_eq!(used, UsedIds::default());
        file.append(&entry(41)).expect("written");
        file.append(&entry(40)).expect("written");
        drop(file);
        std::fs::write(
            &path,
            [
                std::fs::read(&path).expect("read"),
                b"{\"order_id\":\"99".to_vec(),
            ]
            .concat(),
        )
        .expect("cut off");

        let (file, used) = LedgerFile::open(&path).expect("opened again");
        assert_eq!(
            (used.order, used.next_message),
            (Some(41), Some(1_599_558_519))
        );
        file.append(&entry(42)).expect("written");
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(
            text.lines()
                .last()
                .map(serde_json::from_str::<LedgerEntry>)
                .map(Result::ok),
            Some(Some(entry(42)))
        );
    }

    #[test]
    fn a_filter_wants_everything_that_it_names() {
        let wanted = |filter: LedgerFilter| filter.fits(&entry(7));
        assert!(wanted(LedgerFilter::default()));
        assert!(wanted(LedgerFilter {
            number: Some("0532 123 45 67".to_owned()),
            text: Some("ell".to_owned()),
            ..LedgerFilter::default()
        }));
        assert!(!wanted(LedgerFilter {
            order_id: Some("7".to_owned()),
            sender: Some("OTHER".to_owned()),
            ..LedgerFilter::default()
        }));
        assert!(!wanted(LedgerFilter {
            since: Some(1_001),
            ..LedgerFilter::default()
        }));
    }

    #[test]
    fn a_fingerprint_is_short_and_says_nothing() {
        assert_eq!(fingerprint("sandbox-key").len(), 12);
        assert_ne!(fingerprint("sandbox-key"), fingerprint("sandbox-kez"));
    }
}
