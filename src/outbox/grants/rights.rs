//! What each kind of database role needs, and no more: the one list that `grant`, `migrate`, `doctor`, the start of a worker,
//! the documentation and the tests go by.

use std::str::FromStr;

use serde::Serialize;

/// What a database role is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// Inserts jobs and asks what became of them. Reads no number and no text, not even its own.
    Producer,
    /// Runs `sms-outbox worker`.
    Worker,
    /// Acts: `retry`, `cancel`, `resolve`, `pause`, `resume`, `prune`. Reads what support reads.
    Operator,
    /// Looks: `list`, `show`, `stats`. Numbers and texts too: `list` and `show` mask them, SQL does not.
    Support,
    /// Runs `sms-outbox receive`.
    Receiver,
}

impl RoleKind {
    /// All of them, in the order in which people meet them.
    pub const ALL: [Self; 5] = [
        Self::Producer,
        Self::Worker,
        Self::Operator,
        Self::Support,
        Self::Receiver,
    ];

    /// As in `sms-outbox grant KIND ROLE`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Worker => "worker",
            Self::Operator => "operator",
            Self::Support => "support",
            Self::Receiver => "receiver",
        }
    }

    /// As in "may do what a worker needs to".
    #[must_use]
    pub const fn with_article(self) -> &'static str {
        match self {
            Self::Producer => "a producer",
            Self::Worker => "a worker",
            Self::Operator => "an operator",
            Self::Support => "support",
            Self::Receiver => "a receiver",
        }
    }

    /// Everything that a role of this kind needs.
    #[must_use]
    pub fn rights(self) -> Vec<Right> {
        let own: &[&[Right]] = match self {
            Self::Producer => &[PRODUCER],
            Self::Worker => &[WORKER],
            Self::Operator => &[SUPPORT, OPERATOR],
            Self::Support => &[SUPPORT],
            Self::Receiver => &[RECEIVER],
        };
        [EVERYBODY]
            .iter()
            .chain(own)
            .copied()
            .flatten()
            .copied()
            .collect()
    }

    /// What a role of this kind should not have: whoever has it got the whole table instead of columns.
    pub(super) const fn too_much(self) -> &'static [Right] {
        match self {
            Self::Producer => TOO_MUCH_FOR_A_PRODUCER,
            Self::Worker | Self::Operator | Self::Support | Self::Receiver => &[],
        }
    }

    /// By which a role is known to be of this kind already, so that `migrate` gives it the rest. Whatever lets it read or write
    /// what matters most is among them: whoever was granted less on purpose is given nothing. Empty: nothing tells it from
    /// another kind.
    pub(super) const fn marks(self) -> &'static [Right] {
        match self {
            Self::Producer => PRODUCER_MARKS,
            Self::Worker => WORKER_MARKS,
            Self::Operator => OPERATOR_MARKS,
            Self::Support => SUPPORT_MARKS,
            Self::Receiver => &[],
        }
    }
}

/// Not one of the five names.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no kind of role: it is producer, worker, operator, support or receiver")]
pub struct UnknownRoleKind(String);

impl FromStr for RoleKind {
    type Err = UnknownRoleKind;

    fn from_str(text: &str) -> Result<Self, UnknownRoleKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownRoleKind(text.to_owned()))
    }
}

/// What is granted on one object of the schema.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Right {
    object: ObjectKind,
    /// Without the schema.
    pub name: &'static str,
    /// As in `SELECT`.
    pub privileges: &'static [&'static str],
    /// Which columns; `None`: all of it.
    pub columns: Option<&'static [&'static str]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum ObjectKind {
    Schema,
    /// Or a view.
    Table,
    Function,
}

const fn table(name: &'static str, privileges: &'static [&'static str]) -> Right {
    Right {
        object: ObjectKind::Table,
        name,
        privileges,
        columns: None,
    }
}

const fn columns(
    name: &'static str,
    privilege: &'static str,
    columns: &'static [&'static str],
) -> Right {
    let privileges: &[&str] = match privilege.as_bytes() {
        b"SELECT" => &["SELECT"],
        b"INSERT" => &["INSERT"],
        b"UPDATE" => &["UPDATE"],
        _ => panic!("columns can be read, inserted and updated"),
    };
    Right {
        object: ObjectKind::Table,
        name,
        privileges,
        columns: Some(columns),
    }
}

const fn function(name: &'static str) -> Right {
    Right {
        object: ObjectKind::Function,
        name,
        privileges: &["EXECUTE"],
        columns: None,
    }
}

/// To get in, and to see whether the schema fits the program.
const EVERYBODY: &[Right] = &[
    Right {
        object: ObjectKind::Schema,
        name: "sms_outbox",
        privileges: &["USAGE"],
        columns: None,
    },
    table("_migrations", &["SELECT"]),
];

const PRODUCER: &[Right] = &[
    columns(
        "jobs",
        "INSERT",
        &[
            "id",
            "account",
            "sender",
            "recipients",
            "body",
            "iys",
            "iys_list",
            "priority",
            "due_at",
            "expires_at",
            "provider_send_at",
            "idempotency_key",
            "max_attempts",
            "metadata",
            "traceparent",
            // By enqueue_bulk, which has its caller's rights.
            "batch_id",
        ],
    ),
    // What RETURNING and ON CONFLICT read, and what became of the job.
    columns(
        "jobs",
        "SELECT",
        &[
            "id",
            "account",
            "idempotency_key",
            "batch_id",
            "part_of",
            "due_at",
            "status",
            "attempt",
            "order_id",
            "duplicate",
            "duplicate_of",
            "error_class",
            "error_code",
            "error_message",
            "created_at",
            "sent_at",
            "finished_at",
        ],
    ),
    // What became of it on the phone.
    table("deliveries", &["SELECT"]),
    table("messages", &["SELECT"]),
    table("batches", &["SELECT"]),
    table("change_log", &["SELECT"]),
    function("changes"),
    function("recipients"),
    function("uuid_v7"),
    function("normalize_number"),
    function("enqueue_bulk"),
    // By the rules of the table.
    function("keeps_the_rules"),
    function("may_write_status"),
];

const TOO_MUCH_FOR_A_PRODUCER: &[Right] = &[
    columns("jobs", "SELECT", &["recipients", "body"]),
    columns("jobs", "INSERT", &["status", "token", "lease_until"]),
    columns("jobs", "UPDATE", &["status"]),
];

const PRODUCER_MARKS: &[Right] = &[
    columns("jobs", "INSERT", &["sender", "recipients", "body", "iys"]),
    columns("jobs", "SELECT", &["id", "status"]),
];

const WORKER: &[Right] = &[
    table("jobs", &["SELECT"]),
    // Not what the producer said, except that a retry moves due_at.
    columns(
        "jobs",
        "UPDATE",
        &[
            "due_at",
            "claimed_at",
            "lease_until",
            "first_due_at",
            "ambiguous_since",
            "sent_at",
            "finished_at",
            "content_key",
            "duplicate_of",
            "token",
            "answer_ms",
            "error_code",
            "answer_http_status",
            "attempt",
            "duplicate",
            "status",
            "order_id",
            "held",
            "error_class",
            "error_message",
            "rejected_recipients",
            "worker",
        ],
    ),
    // The parts of a list whose numbers the provider refuses in part.
    columns(
        "jobs",
        "INSERT",
        &[
            "part_of",
            "account",
            "sender",
            "recipients",
            "body",
            "iys",
            "iys_list",
            "priority",
            "due_at",
            "expires_at",
            "provider_send_at",
            "batch_id",
            "max_attempts",
            "metadata",
            "traceparent",
            "producer",
        ],
    ),
    function("uuid_v7"),
    table("attempt_log", &["SELECT", "INSERT"]),
    table("accounts", &["SELECT", "INSERT", "UPDATE"]),
    table("workers", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    table("pauses", &["SELECT", "INSERT", "UPDATE"]),
    table("refused_jobs", &["SELECT", "INSERT", "UPDATE"]),
    table("rate_limits", &["SELECT", "INSERT", "UPDATE"]),
    table("database_identity", &["SELECT", "INSERT", "UPDATE"]),
    table("maintenance_leases", &["SELECT", "INSERT", "UPDATE"]),
    table(
        "reconciliation_tasks",
        &["SELECT", "INSERT", "UPDATE", "DELETE"],
    ),
    table("deliveries", &["SELECT", "INSERT", "UPDATE"]),
    table("change_log", &["SELECT", "INSERT"]),
    table("delivery_inbox", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    table("delivery_checks", &["SELECT", "INSERT", "UPDATE"]),
    // By the rules of the table.
    function("keeps_the_rules"),
    function("may_write_status"),
    function("held_senders"),
    function("queued_accounts"),
    function("queued_producers"),
    function("refusals"),
    function("rate_per_second"),
    function("reserve_slots"),
    function("current_database_identity"),
];

const WORKER_MARKS: &[Right] = &[
    columns("jobs", "SELECT", &["recipients", "body"]),
    columns("jobs", "UPDATE", &["status", "token", "lease_until"]),
];

const SUPPORT: &[Right] = &[
    table("jobs", &["SELECT"]),
    table("attempts", &["SELECT"]),
    table("queue_stats", &["SELECT"]),
    table("accounts", &["SELECT"]),
    table("workers", &["SELECT"]),
    table("pauses", &["SELECT"]),
    table("refused_jobs", &["SELECT"]),
    table("reconciliation_tasks", &["SELECT"]),
    table("deliveries", &["SELECT"]),
    table("messages", &["SELECT"]),
    table("batches", &["SELECT"]),
    table("change_log", &["SELECT"]),
    table("delivery_inbox", &["SELECT"]),
    table("database_identity", &["SELECT"]),
    function("changes"),
    function("recipients"),
    function("number_delivery"),
    function("normalize_number"),
    function("held_senders"),
    function("queued_accounts"),
    function("queued_producers"),
    function("current_database_identity"),
];

const SUPPORT_MARKS: &[Right] = &[
    columns("jobs", "SELECT", &["recipients", "body"]),
    table("attempts", &["SELECT"]),
    table("queue_stats", &["SELECT"]),
];

/// Beside what support needs.
const OPERATOR: &[Right] = &[
    columns(
        "jobs",
        "UPDATE",
        &[
            "due_at",
            "first_due_at",
            "ambiguous_since",
            "sent_at",
            "finished_at",
            "error_code",
            "attempt",
            "status",
            "order_id",
            "held",
            "error_class",
            "error_message",
        ],
    ),
    table("pauses", &["INSERT", "UPDATE"]),
    table("database_identity", &["INSERT", "UPDATE"]),
    // By prune, which has its caller's rights.
    table("jobs", &["DELETE"]),
    columns("attempt_log", "SELECT", &["job_id", "order_id"]),
    // By resolve, which keeps a person's word.
    table("attempt_log", &["INSERT", "DELETE"]),
    table("reconciliation_tasks", &["DELETE"]),
    table("refused_jobs", &["DELETE"]),
    table("deliveries", &["INSERT", "UPDATE", "DELETE"]),
    table("change_log", &["INSERT", "UPDATE", "DELETE"]),
    // By the rules of the table.
    function("keeps_the_rules"),
    function("may_write_status"),
    function("prune"),
];

const OPERATOR_MARKS: &[Right] = &[
    columns("jobs", "SELECT", &["recipients", "body"]),
    columns("jobs", "UPDATE", &["status", "due_at"]),
    table("jobs", &["DELETE"]),
];

/// A receiver finds the job that an event is about, and reads neither its numbers nor its text: their hash tells whether an event
/// fits.
const RECEIVER: &[Right] = &[
    columns(
        "jobs",
        "SELECT",
        &[
            "id",
            "account",
            "status",
            "order_id",
            "content_key",
            "sent_at",
        ],
    ),
    table("deliveries", &["SELECT", "INSERT", "UPDATE"]),
    table("delivery_inbox", &["INSERT"]),
    table("change_log", &["INSERT"]),
];

impl Right {
    /// As in `SELECT` of `SELECT (recipients, body)`.
    pub(super) fn privilege(&self) -> String {
        self.privileges.join(", ")
    }

    /// Whether it is about a table or a view.
    #[must_use]
    pub fn is_about_a_table(&self) -> bool {
        self.object == ObjectKind::Table
    }

    /// The statement that gives it.
    pub(super) fn grant(&self, role: &str) -> String {
        let Self { name, columns, .. } = self;
        let columns =
            columns.map_or_else(String::new, |columns| format!(" ({})", columns.join(", ")));
        let privileges = self.privileges.join(", ");
        match self.object {
            ObjectKind::Schema => format!("GRANT {privileges} ON SCHEMA {name} TO {role};\n"),
            ObjectKind::Table => {
                format!("GRANT {privileges}{columns} ON sms_outbox.{name} TO {role};\n")
            }
            ObjectKind::Function => {
                format!("GRANT {privileges} ON FUNCTION sms_outbox.{name} TO {role};\n")
            }
        }
    }
}
