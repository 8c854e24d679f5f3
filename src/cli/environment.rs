//! The environment and the file `.env`: which variable came from where, which nobody reads, and whose value cannot be used.

use std::{collections::BTreeSet, path::PathBuf, sync::OnceLock};

use clap::{
    Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::config::{Misconfigured, variables};

const OURS: &str = "SMS_OUTBOX_";

/// What is read without an option of its own: by the private Postgres, and by what surrounds the program.
const ALSO_READ: [&str; 2] = [
    "SMS_OUTBOX_POSTGRES_RELEASES",
    "SMS_OUTBOX_WEBHOOK_FORWARD_FILE",
];
/// The tests' own, which are set where tests and program run side by side; those of a build with failpoints; and the secrets of
/// further accounts, whose absence is told where webhooks are received.
const OTHERS: [&str; 4] = [
    "SMS_OUTBOX_WEBHOOK_SECRET_",
    "SMS_OUTBOX_TEST_",
    "SMS_OUTBOX_FAILPOINTS",
    "SMS_OUTBOX_WRONG_VARIANT",
];

/// The file that was read, and what it set.
#[derive(Debug, Default)]
struct DotEnv {
    path: Option<PathBuf>,
    names: BTreeSet<String>,
}

fn file() -> &'static OnceLock<DotEnv> {
    static FILE: OnceLock<DotEnv> = OnceLock::new();
    &FILE
}

/// Reads `.env`, before anything reads the environment. A file that is not there is no error; one that cannot be read is.
pub(super) fn load() -> Result<(), Misconfigured> {
    // The error may quote the line, and the line may hold a secret.
    let unreadable =
        || Misconfigured("the file .env cannot be read: its lines are NAME=value".to_owned());
    let mut names = BTreeSet::new();
    match dotenvy::dotenv_iter() {
        Ok(pairs) => {
            for pair in pairs {
                let (name, _) = pair.map_err(|_| unreadable())?;
                if std::env::var_os(&name).is_none() {
                    names.insert(name);
                }
            }
        }
        Err(error) if error.not_found() => return Ok(()),
        Err(_) => return Err(unreadable()),
    }
    let path = dotenvy::dotenv().map_err(|_| unreadable())?;
    // Only the first of several in one process (tests) is remembered.
    file()
        .set(DotEnv {
            path: Some(path),
            names,
        })
        .ok();
    Ok(())
}

/// Where a variable was set.
fn place_of(name: &str) -> String {
    let from_file = file()
        .get()
        .filter(|file| file.names.contains(name))
        .and_then(|file| file.path.as_ref());
    match from_file {
        Some(path) => path.display().to_string(),
        None => "the environment".to_owned(),
    }
}

/// Variables that look like ours and that nobody reads, in sentences.
pub(super) fn unknown(command: &Command) -> Vec<String> {
    let mut known: Vec<String> = variables(command)
        .into_iter()
        .map(|variable| variable.name)
        .collect();
    known.extend(ALSO_READ.map(str::to_owned));
    let set: BTreeSet<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    set.iter()
        .filter(|name| is_misspelt(name, &known))
        .map(|name| {
            let place = place_of(name);
            match nearest(name, &known) {
                Some(meant) => format!(
                    "{name} (in {place}) is no variable of this program and changes nothing; is {meant} meant?"
                ),
                None => format!("{name} (in {place}) is no variable of this program and changes nothing"),
            }
        })
        .collect()
}

fn is_misspelt(name: &str, known: &[String]) -> bool {
    name.starts_with(OURS)
        && !known.iter().any(|known| known == name)
        && !OTHERS.iter().any(|other| name.starts_with(other))
}

fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let with_distance = known
        .iter()
        .filter(|known| known.starts_with(OURS))
        .map(|known| {
            (
                distance(&name[OURS.len()..], &known[OURS.len()..]),
                known.as_str(),
            )
        });
    let (distance, meant) = with_distance.min()?;
    // Further apart they are just two names.
    (distance <= 3 && distance * 2 < meant.len() - OURS.len()).then_some(meant)
}

/// How many characters have to be put in, left out or changed.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// A value that came from a variable is blamed on that, and not on an option that nobody typed. `None`: somebody did, or it is
/// another error.
pub(super) fn blamed(error: &clap::Error, command: &Command) -> Option<Misconfigured> {
    if !matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    ) {
        return None;
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let shown = text(ContextKind::InvalidArg)?;
    let long = shown
        .strip_prefix("--")?
        .split([' ', '=', '['])
        .next()?
        .to_owned();
    let typed = format!("--{long}");
    let is_typed = std::env::args_os()
        .filter_map(|argument| argument.into_string().ok())
        .any(|argument| argument == typed || argument.starts_with(&format!("{typed}=")));
    if is_typed {
        return None;
    }
    let arguments = command
        .get_arguments()
        .chain(command.get_subcommands().flat_map(Command::get_arguments));
    let name = arguments
        .filter(|argument| argument.get_long() == Some(&long))
        .find_map(|argument| argument.get_env()?.to_str())?
        .to_owned();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let why = match (
        std::error::Error::source(error),
        error.get(ContextKind::ValidValue),
    ) {
        (Some(why), _) => why.to_string(),
        (None, Some(ContextValue::Strings(valid))) => format!("it is one of {}", valid.join(", ")),
        _ => "it cannot be read".to_owned(),
    };
    Some(Misconfigured(format!(
        "{name}={value} (in {}) cannot be used: {why}",
        place_of(&name)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_told_with_the_one_that_was_meant() {
        let known: Vec<String> = [
            "SMS_OUTBOX_LEASE",
            "SMS_OUTBOX_RATE_PER_SECOND",
            "SMS_OUTBOX_LOG",
        ]
        .map(str::to_owned)
        .into();
        for (name, meant) in [
            ("SMS_OUTBOX_LEASES", Some("SMS_OUTBOX_LEASE")),
            (
                "SMS_OUTBOX_RATE_PER_SECONDS",
                Some("SMS_OUTBOX_RATE_PER_SECOND"),
            ),
            (
                "SMS_OUTBOX_RATE_PER_SEC",
                Some("SMS_OUTBOX_RATE_PER_SECOND"),
            ),
            ("SMS_OUTBOX_BANANA", None),
        ] {
            assert!(is_misspelt(name, &known), "{name}");
            assert_eq!(nearest(name, &known), meant, "{name}");
        }
        for name in ["SMS_OUTBOX_LEASE", "SMS_OUTBOX_TEST_DATABASE_URL", "PATH"] {
            assert!(!is_misspelt(name, &known), "{name}");
        }
    }
}
