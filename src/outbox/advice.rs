//! What to do about what PostgreSQL and its driver say.

use super::{Change, OutboxError};

/// Where nothing better is known.
pub const ASK_DOCTOR: &str = "`sms-outbox doctor` checks everything that is needed, one by one";

/// Where a backup was restored.
const CONFIRM: &str =
    "if messages are to be sent from here, read `sms-outbox resume --help` on --after-restore";

/// What to do about a queue that is for another provider.
const OTHER_PROVIDER: &str = "put ILETIMERKEZI_BASE_URL right or give each provider a database of its own; if the queue is to be sent \
    through another one from now on, read `sms-outbox resume --help` on --provider";

/// What to do where nothing is sent because of a change.
#[must_use]
pub const fn confirmed_by(change: &Change) -> &'static str {
    match change {
        Change::Server { .. }
        | Change::Database { .. }
        | Change::Tables
        | Change::Timeline { .. } => CONFIRM,
        Change::Provider { .. } => OTHER_PROVIDER,
    }
}

const STANDBY: &str = "this server is read-only: let DATABASE_URL name the primary";

/// Where a privilege is missing.
pub const ASK_DOCTOR_FOR_GRANTS: &str = "this role lacks a privilege: `sms-outbox doctor --as KIND` says which, and `sms-outbox grant` gives it";

/// What to do about an error.
pub fn advice(error: &OutboxError) -> &'static str {
    match error {
        OutboxError::Deadline { .. } => {
            "it may be overloaded or frozen, or a firewall drops what is sent to it: see whether `psql` gets an answer"
        }
        OutboxError::Unreadable { .. } => {
            "a later version may have written it: use the newest sms-outbox"
        }
        OutboxError::AnotherDatabase(change) => confirmed_by(change),
        OutboxError::Standby => STANDBY,
        OutboxError::Conflict { .. } => "try it again",
        OutboxError::Unreachable { source, .. } | OutboxError::Refused { source, .. } => {
            advice_on(source)
        }
    }
}

/// What to do about what the driver says.
pub fn advice_on(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Configuration(_) => {
            "write DATABASE_URL as postgres://user:password@host:5432/database (several hosts: host1,host2), with special \
             characters in the password escaped (%40 for @)"
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) if is_about_a_certificate(error) => CERTIFICATE,
        sqlx::Error::Io(_) => "is the server running, and are host and port in DATABASE_URL right?",
        sqlx::Error::Tls(_) => {
            "TLS could not be agreed on: see sslmode and sslrootcert in DATABASE_URL"
        }
        sqlx::Error::Database(error) => {
            advice_on_code(error.code().as_deref().unwrap_or(""), error.message())
        }
        _ => ASK_DOCTOR,
    }
}

const CERTIFICATE: &str = "the server is running, and its certificate cannot be used: verify-ca and verify-full need the authority \
    that signed it (sslrootcert in DATABASE_URL), verify-full its host's name in it, and every mode a certificate of X.509 version 3 \
    (one of version 1, which `openssl x509 -req` makes without -extfile, is refused by the TLS library also where it is not verified)";

/// Whether a handshake failed over the server's certificate. The TLS library's own types are not ours to name; its words are.
pub(super) fn is_about_a_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let words = error.to_string().to_ascii_lowercase();
        if words.contains("certificate") || words.contains("certversion") {
            return true;
        }
        cause = error.source();
    }
    false
}

fn advice_on_code(code: &str, message: &str) -> &'static str {
    // PgBouncer's words for settings that it would have to keep per client.
    if message.contains("startup parameter") {
        return "a PgBouncer stands in between: leave SMS_OUTBOX_PGBOUNCER out, or set it to true";
    }
    match code {
        "28P01" | "28000" => "are user and password in DATABASE_URL right?",
        "3D000" => "name an existing database in DATABASE_URL, or create this one with `createdb`",
        "53300" => {
            "no connection is free: raise max_connections, or let fewer clients connect at once"
        }
        "42501" => ASK_DOCTOR_FOR_GRANTS,
        "42P01" | "3F000" | "42703" | "42883" => {
            "the schema does not fit this program: run `sms-outbox migrate`"
        }
        "57014" => {
            "it took too long and was stopped: narrow the question, or look for what keeps the server busy"
        }
        "55P03" => {
            "another session holds a lock on it: look into pg_stat_activity for one that is idle in a transaction"
        }
        "25006" => STANDBY,
        "57P03" => "the server is starting or stopping: try again in a moment",
        "53100" => "the server's disk is full",
        _ => ASK_DOCTOR,
    }
}
