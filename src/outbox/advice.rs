//! What to do about what PostgreSQL and its driver say.

use super::OutboxError;

/// Where nothing better is known.
pub const ASK_DOCTOR: &str = "`sms-outbox doctor` checks everything that is needed, one by one";

/// Where a backup was restored.
pub const CONFIRM: &str =
    "if messages are to be sent from here, read `sms-outbox resume --help` on --after-restore";

const STANDBY: &str = "this server is read-only: let DATABASE_URL name the primary";

/// Where a privilege is missing.
pub const ASK_DOCTOR_FOR_GRANTS: &str =
    "this role lacks a privilege: `sms-outbox doctor` names the GRANT that is missing";

/// What to do about an error.
pub fn advice(error: &OutboxError) -> &'static str {
    match error {
        OutboxError::Deadline { .. } => {
            "it may be overloaded or frozen, or a firewall drops what is sent to it: see whether `psql` gets an answer"
        }
        OutboxError::Unreadable { .. } => {
            "a later version may have written it: use the newest sms-outbox"
        }
        OutboxError::AnotherDatabase(_) => CONFIRM,
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
            "write DATABASE_URL as postgres://user:password@host:5432/database, with special characters in the password \
             escaped (%40 for @)"
        }
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
