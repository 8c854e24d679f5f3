//! Giving a database role what its kind needs, and seeing what it lacks.

mod rights;

use std::{fmt, time::Duration};

use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, types::Json};

use super::{ConnectOptions, MigrationError, Outbox, OutboxError};
use crate::message::Priority;

pub use rights::{Right, RoleKind};

/// A role, what it is for, and how urgent its messages may be.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What it is for.
    pub kind: RoleKind,
    /// Its name, as it is.
    pub role: String,
    /// Of a producer: the most urgent priority that it may use. `None` leaves it as it was.
    pub most_urgent: Option<Priority>,
}

impl Grant {
    /// The statements, for `psql` as well.
    #[must_use]
    pub fn sql(&self) -> String {
        let role = quoted(&self.role, '"');
        let rights = self.kind.rights();
        let mut sql: String = rights.iter().map(|right| right.grant(&role)).collect();
        let named = quoted(&self.role, '\'');
        match self.most_urgent.map(Priority::get) {
            None => {}
            Some(0) => {
                sql.push_str(&format!("DELETE FROM sms_outbox.priority_limits WHERE role = {named};\n"));
            }
            Some(most_urgent) => sql.push_str(&format!(
                "INSERT INTO sms_outbox.priority_limits (role, most_urgent) VALUES ({named}, {most_urgent})\n\
                 ON CONFLICT (role) DO UPDATE SET most_urgent = excluded.most_urgent;\n{}",
                include_str!("grants/priority_trigger.sql")
            )),
        }
        sql
    }
}

/// Something's name, as SQL writes it.
fn quoted(name: &str, mark: char) -> String {
    let inside = name.replace(mark, &format!("{mark}{mark}"));
    // Whatever standard_conforming_strings says.
    let escapes = mark == '\'' && inside.contains('\\');
    if escapes {
        return format!("E'{}'", inside.replace('\\', "\\\\"));
    }
    format!("{mark}{inside}{mark}")
}

/// What a role lacks on one object.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Lack {
    /// As in `TABLE sms_outbox.jobs`.
    pub object: String,
    /// As in `INSERT, UPDATE (status, token)`.
    pub rights: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.rights, self.object)
    }
}

/// What keeps a role from the work of its kind, and what goes beyond it.
#[derive(Clone, Debug)]
pub struct Hindrances {
    /// What it is for.
    pub kind: RoleKind,
    /// Its name, as SQL and a shell write it.
    pub role: String,
    /// What was not granted to it.
    pub lacks: Vec<Lack>,
    /// What it can do and should not, as in `INSERT`: by the whole of `sms_outbox.jobs`, and not by columns.
    pub too_much: Vec<String>,
    /// Tables that it works with, and of which row level security shows it only a part.
    pub hidden: Vec<String>,
}

impl Hindrances {
    /// Whether nothing keeps it from its work.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lacks.is_empty() && self.hidden.is_empty()
    }

    /// What is to be done about what it lacks.
    #[must_use]
    pub fn grants_it(&self) -> String {
        format!(
            "as the owner of the schema: sms-outbox grant {} {}",
            self.kind.name(),
            self.role
        )
    }

    /// What is to be done about what it should not have.
    #[must_use]
    pub fn takes_it(&self) -> String {
        format!(
            "as the owner of the schema: REVOKE {} ON sms_outbox.jobs FROM {role}, then sms-outbox grant {} {role}",
            self.too_much.join(", "),
            self.kind.name(),
            role = self.role
        )
    }

    /// What is to be done about what it does not see.
    #[must_use]
    pub fn shows_it(&self, table: &str) -> String {
        format!(
            "ALTER ROLE {} BYPASSRLS, or ALTER TABLE sms_outbox.{table} DISABLE ROW LEVEL SECURITY",
            self.role
        )
    }
}

/// The first of them, and what to do about it. What is done about one lack is done about all.
impl fmt::Display for Hindrances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = &self.role;
        if let Some(lack) = self.lacks.first() {
            return write!(f, "{role} lacks {lack}; {}", self.grants_it());
        }
        match self.hidden.first() {
            Some(table) => write!(
                f,
                "row level security shows {role} only a part of sms_outbox.{table}; {}",
                self.shows_it(table)
            ),
            None => write!(f, "nothing hinders {role}"),
        }
    }
}

/// A role to which `migrate` gave the rest of what its kind needs.
#[derive(Clone, Debug)]
pub struct Extended {
    /// The role.
    pub role: String,
    /// What it is for, as far as could be told from what it had.
    pub kind: RoleKind,
    /// What it lacked.
    pub lacked: Vec<Lack>,
}

/// Why nothing was granted.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The database could not be used.
    #[error(transparent)]
    Database(#[from] OutboxError),
    /// There is no such role.
    #[error("there is no role {role:?}: make it first, as in CREATE ROLE {} LOGIN", quoted(.role, '"'))]
    NoSuchRole {
        /// Its name.
        role: String,
    },
    /// Somebody else's schema.
    #[error(
        "only {owner:?}, who owns the schema sms_outbox, can grant what is in it: let DATABASE_URL name that role"
    )]
    NotTheOwner {
        /// Who does.
        owner: String,
    },
    /// A group has no sessions of its own, so its limit would bind nobody.
    #[error(
        "{role:?} is a group and cannot log in, and a limit holds for the role that does: give it to each of the members"
    )]
    NobodyToLimit {
        /// The group.
        role: String,
    },
    /// The table is in use.
    #[error(
        "the first limit needs a moment in which no transaction is open that has inserted a job, and for {waited:?} there was \
         none: look into pg_stat_activity for one that is idle in a transaction, and try again"
    )]
    Busy {
        /// How long it was tried.
        waited: Duration,
    },
}

/// The trigger is tried for until it is made, a tenth of a second each time, because every insert waits behind it.
const TRIES: u32 = 60;
const BETWEEN_TRIES: Duration = Duration::from_millis(400);

/// Two grants at once would change the same rows of the catalogue, and one of them would fail.
const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(hashtext('sms_outbox grants'));\n";

impl Outbox {
    /// Gives a role what its kind needs; what it has already stays as it is.
    ///
    /// # Errors
    /// See [`GrantError`].
    pub async fn grant(&self, grant: &Grant) -> Result<(), GrantError> {
        let (is_there, can_log_in, owner, is_ours): (bool, bool, String, bool) = self
            .call("looking for a role", async |connection| {
                sqlx::query_as(include_str!("grants/grantee.sql"))
                    .bind(&grant.role)
                    .persistent(false)
                    .fetch_one(connection)
                    .await
            })
            .await?;
        let role = grant.role.clone();
        if !is_ours {
            return Err(GrantError::NotTheOwner { owner });
        }
        if !is_there {
            return Err(GrantError::NoSuchRole { role });
        }
        if grant.most_urgent.is_some_and(|least| least.get() > 0) && !can_log_in {
            return Err(GrantError::NobodyToLimit { role });
        }
        for _ in 0..TRIES {
            let granted = self
                .call("granting", async |connection| give(connection, grant).await)
                .await;
            match granted {
                Err(error) if error.is_about_a_lock() => {
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                other => return Ok(other?),
            }
        }
        Err(GrantError::Busy {
            waited: BETWEEN_TRIES * TRIES,
        })
    }

    /// What keeps this role from the work of a kind. Needs no schema: of what is not there, nothing is lacking.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn hindrances(&self, kind: RoleKind) -> Result<Hindrances, OutboxError> {
        self.call("examining privileges", async |connection| {
            let rights = kind.rights();
            let lacks = lacking(connection, &rights, None).await?;
            let (role, mut hidden): (String, Vec<String>) =
                sqlx::query_as(include_str!("grants/this_role.sql"))
                    .persistent(false)
                    .fetch_one(&mut *connection)
                    .await?;
            let mut too_much = Vec::new();
            for right in kind.too_much() {
                let is_lacking = !lacking(connection, std::slice::from_ref(right), None)
                    .await?
                    .is_empty();
                if !is_lacking {
                    too_much.push(right.privilege());
                }
            }
            hidden.retain(|table| rights.iter().any(|right| right.name == table));
            Ok(Hindrances {
                kind,
                role,
                lacks,
                too_much,
                hidden,
            })
        })
        .await
    }
}

impl ConnectOptions {
    /// Gives what an upgrade has brought to the roles that had all that mattered before, however it was granted. Does nothing
    /// where that is another role's to do.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn extend_grants(&self) -> Result<Vec<Extended>, MigrationError> {
        let mut connection = self.connect_alone().await?;
        let extended = extend(&mut connection).await;
        connection.close().await.ok();
        Ok(extended.map_err(|source| OutboxError::from_sqlx("granting", source))?)
    }
}

async fn extend(connection: &mut PgConnection) -> Result<Vec<Extended>, sqlx::Error> {
    let roles: Vec<String> = sqlx::query_scalar(include_str!("grants/grantees.sql"))
        .fetch_all(&mut *connection)
        .await?;
    let mut extended = Vec::new();
    for role in roles {
        for kind in RoleKind::ALL {
            let marks = kind.marks();
            if marks.is_empty() || !lacking(connection, marks, Some(&role)).await?.is_empty() {
                continue;
            }
            let lacked = lacking(connection, &kind.rights(), Some(&role)).await?;
            if lacked.is_empty() {
                continue;
            }
            let grant = Grant {
                kind,
                role: role.clone(),
                most_urgent: None,
            };
            give(connection, &grant).await?;
            extended.push(Extended {
                role: role.clone(),
                kind,
                lacked,
            });
        }
    }
    Ok(extended)
}

/// All or nothing: what is sent in one message is one transaction.
async fn give(connection: &mut PgConnection, grant: &Grant) -> Result<(), sqlx::Error> {
    let sql = format!("{ONE_AT_A_TIME}{}", grant.sql());
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await?;
    Ok(())
}

async fn lacking(
    connection: &mut PgConnection,
    rights: &[Right],
    role: Option<&str>,
) -> Result<Vec<Lack>, sqlx::Error> {
    sqlx::query_as(include_str!("grants/lacking.sql"))
        .bind(Json(rights))
        .bind(role)
        .persistent(false)
        .fetch_all(connection)
        .await
}
