//! What can go wrong between this program and PostgreSQL, and what follows: the only reader of SQLSTATEs.

use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

use super::{Change, advice::is_about_a_certificate, pooler::refuses_settings};

/// Why a call to the database failed.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// No answer in time: an overloaded, frozen or unreachable server.
    #[error("the database did not answer within {deadline:?} while {doing}")]
    Deadline {
        /// What was being done.
        doing: &'static str,
        /// How long it was given.
        deadline: Duration,
    },
    /// The connection could not be made, or broke.
    #[error("the database could not be reached while {doing}")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// Other sessions were in the way, again and again: what was done is undone, and nothing is wrong with the database.
    #[error("other sessions were in the way while {doing}")]
    Conflict {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: sqlx::Error,
    },
    /// The database answered with an error.
    #[error("the database refused while {doing}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: sqlx::Error,
    },
    /// This is not the pinned database: see `identity`.
    #[error(
        "nothing is sent from this database until `sms-outbox resume {}` confirms it, because {_0}", .0.meant_by()
    )]
    AnotherDatabase(Change),
    /// Nothing can be written here, and its identity is not known before its promotion.
    #[error("the server is a standby")]
    Standby,
    /// A value in a row is none of those that this version knows.
    #[error("{table}.{column} of {id} cannot be understood: {problem}")]
    Unreadable {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl OutboxError {
    /// Whether the address cannot be read: that is for the configuration to put right.
    #[must_use]
    pub fn is_misconfigured(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { source, .. } | Self::Refused { source, .. }
                if matches!(source, sqlx::Error::Configuration(_))
        )
    }

    /// Whether waiting surely does not help: a password, a database, a setting of the address or a certificate that is refused.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        let (Self::Unreachable { source, .. } | Self::Refused { source, .. }) = self else {
            return false;
        };
        match source {
            sqlx::Error::Configuration(_) => true,
            sqlx::Error::Database(error) => {
                let code = error.code();
                // The last two: a setting that the server does not know, or not with this value; and PgBouncer's words for one
                // that it would have to keep.
                matches!(
                    code.as_deref(),
                    Some("28P01" | "28000" | "3D000" | "42501" | "42704" | "22023")
                ) || refuses_settings(source)
            }
            _ => is_about_a_certificate(source),
        }
    }

    /// Whether the same call may well succeed a little later, without anyone doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Deadline { .. }
                | Self::Unreachable { .. }
                | Self::Conflict { .. }
                | Self::Standby
        )
    }

    /// Whether the data that was written is the cause, so that the same call can never succeed. Everything else (a full disk,
    /// a missing privilege, a server that restarts) may be put right while the caller waits.
    #[must_use]
    pub fn blames_the_row(&self) -> bool {
        match self {
            Self::Deadline { .. }
            | Self::Unreachable { .. }
            | Self::Conflict { .. }
            | Self::AnotherDatabase(_)
            | Self::Standby => false,
            Self::Unreadable { .. } => true,
            Self::Refused { source, .. } => match source {
                sqlx::Error::Database(error) => {
                    error.code().is_some_and(|code| is_about_a_row(&code))
                }
                sqlx::Error::Encode(_)
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnDecode { .. } => true,
                _ => false,
            },
        }
    }

    /// Whether this role may not do it.
    #[must_use]
    pub fn is_about_privileges(&self) -> bool {
        self.code().as_deref() == Some("42501")
    }

    /// Whether another session holds what was to be locked.
    #[must_use]
    pub fn is_about_a_lock(&self) -> bool {
        self.code().as_deref() == Some("55P03")
    }

    /// Whether the database answered, and one row among several may be why it refused: a broken rule, a trigger of the
    /// application. A missing privilege is none of them.
    #[must_use]
    pub fn may_blame_one_row(&self) -> bool {
        let code = self.code().unwrap_or_default();
        matches!(self, Self::Refused { .. })
            && !["42501", "53", "58", "0A", "25", "28", "3D"]
                .iter()
                .any(|class| code.starts_with(class))
    }

    /// The SQLSTATE, empty where there is none, and the constraint.
    pub(super) fn code_and_rule(&self) -> (String, Option<String>) {
        let rule = match self {
            Self::Refused { source, .. } => source
                .as_database_error()
                .and_then(|error| error.constraint()),
            _ => None,
        };
        (
            self.code().unwrap_or_default().into_owned(),
            rule.map(str::to_owned),
        )
    }

    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Self::Unreachable { source, .. }
            | Self::Conflict { source, .. }
            | Self::Refused { source, .. } => source.as_database_error()?.code(),
            Self::Deadline { .. }
            | Self::AnotherDatabase(_)
            | Self::Standby
            | Self::Unreadable { .. } => None,
        }
    }

    pub(super) fn from_sqlx(doing: &'static str, source: sqlx::Error) -> Self {
        if matches!(said(&source), Said::InTheWay) {
            return Self::Conflict { doing, source };
        }
        let lost = match &source {
            sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                // Connection failure, shutdown and start-up, too many connections, lock and statement timeouts, and a server
                // that has just become a read-only standby.
                code.starts_with("08")
                    || code.starts_with("57P")
                    || matches!(code.as_ref(), "53300" | "55P03" | "57014" | "25006")
            }),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            _ => false,
        };
        if lost {
            Self::Unreachable { doing, source }
        } else {
            Self::Refused { doing, source }
        }
    }
}

/// Whom the database blames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Other sessions: nothing was done, and the same call may succeed at once.
    InTheWay,
    /// A statement that this session had prepared. Nothing was done, and any other connection may hold the like.
    StalePlan,
    /// The session, which cannot do this here, or not any more; nothing was done. The next one may lead to another server.
    WrongSession,
    /// The session is over, or cannot be trusted. What it was doing may have been done.
    BrokenSession,
    /// The call itself, or something that another session would meet as well.
    TheCall,
}

/// What an error says about the session that it came from.
pub(super) fn said(source: &sqlx::Error) -> Said {
    match source {
        sqlx::Error::Database(error) => {
            let routine = error
                .try_downcast_ref::<PgDatabaseError>()
                .and_then(PgDatabaseError::routine);
            said_by_code(
                error.code().as_deref().unwrap_or_default(),
                routine.unwrap_or_default(),
            )
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => Said::BrokenSession,
        _ => Said::TheCall,
    }
}

fn said_by_code(code: &str, routine: &str) -> Said {
    match code {
        // A serialisation failure, where somebody set the isolation; a deadlock.
        "40001" | "40P01" => Said::InTheWay,
        // After a column's type has changed. The code stands for much else, and the words for it depend on the server's language.
        "0A000" if routine == "RevalidateCachedQuery" => Said::StalePlan,
        // Prepared statements that are not there, or that are there already: somebody discarded them, or a pooler lent another
        // server process.
        "26000" | "42P05" => Said::StalePlan,
        // Read-only: a standby, or a primary that has become one.
        "25006" => Said::WrongSession,
        // Other states of a transaction that nobody can have left open; failures of the server's own.
        _ if code.starts_with("25") || code.starts_with("XX") => Said::BrokenSession,
        _ if code.starts_with("57P") || code.starts_with("08") => Said::BrokenSession,
        _ => Said::TheCall,
    }
}

/// Data exceptions, broken constraints, and what somebody's trigger raises about a row.
fn is_about_a_row(code: &str) -> bool {
    ["22", "23", "P0"]
        .iter()
        .any(|class| code.starts_with(class))
}

/// An error and everything that caused it, in one line.
///
/// Where the database complains about a row, its own words are left out: they may quote what the row holds (a trigger of the
/// application's, a value that does not fit), and a row holds numbers and texts. The code and the constraint are enough to
/// find it.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = own_words(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = own_words(error);
        // Some drivers repeat their cause in their own words.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = if without_the_row(error).is_some() {
            None
        } else {
            error.source()
        };
    }
    text
}

fn own_words(error: &(dyn std::error::Error + 'static)) -> String {
    without_the_row(error).unwrap_or_else(|| error.to_string())
}

fn without_the_row(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let Some(sqlx::Error::Database(error)) = error.downcast_ref::<sqlx::Error>() else {
        return None;
    };
    let code = error.code().filter(|code| is_about_a_row(code))?;
    let constraint = error
        .constraint()
        .map(|name| format!(", constraint {name}"))
        .unwrap_or_default();
    Some(format!("the row was refused (SQLSTATE {code}{constraint})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_session_is_told_from_what_is_said_of_a_call() {
        use Said::{BrokenSession, InTheWay, StalePlan, TheCall, WrongSession};
        for (code, routine, expected) in [
            ("40001", "", InTheWay),
            ("40P01", "", InTheWay),
            ("0A000", "RevalidateCachedQuery", StalePlan),
            ("0A000", "transformExpr", TheCall),
            ("26000", "", StalePlan),
            ("42P05", "", StalePlan),
            ("25006", "", WrongSession),
            ("25P02", "", BrokenSession),
            ("57P01", "", BrokenSession),
            ("57P05", "", BrokenSession),
            ("08006", "", BrokenSession),
            ("XX000", "", BrokenSession),
            ("57014", "", TheCall),
            ("42501", "", TheCall),
            ("23514", "", TheCall),
        ] {
            assert_eq!(said_by_code(code, routine), expected, "{code} {routine}");
        }
    }
}
