//! Database roles that were made by `grant` and by nothing else. Workers and producers of the tests are those, and no
//! superusers: what is missing in the list of rights is missing here.
//!
//! They cannot log in. The role that the tests connect as becomes them, and stays what it is where it may not make roles.

use sms_outbox::outbox::{ConnectOptions, Grant, RoleKind};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// The role of the tests for a kind, in every server that they use.
pub fn of(kind: RoleKind) -> String {
    format!("sms_outbox_test_{}", kind.name())
}

/// Makes the roles where there are none yet, and grants them what is theirs in this database; whether that could be done.
pub async fn grant_all(url: &str) -> bool {
    let mut connection = PgConnection::connect(url).await.expect("a database");
    let may: bool =
        sqlx::query_scalar("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            .fetch_one(&mut connection)
            .await
            .expect("our own role");
    if may {
        for kind in RoleKind::ALL {
            // Another test process may be making it.
            let sql = format!(
                "DO $$ BEGIN CREATE ROLE {}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
                of(kind)
            );
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .expect("a superuser");
        }
    }
    connection.close().await.expect("it answered");
    if !may {
        return false;
    }
    let outbox = ConnectOptions::new(url)
        .connect()
        .await
        .expect("a database");
    for kind in RoleKind::ALL {
        let grant = Grant {
            kind,
            role: of(kind),
            most_urgent: None,
        };
        let granted = outbox.grant(&grant).await;
        granted.expect("the owner of a new schema");
    }
    outbox.pool().close().await;
    true
}

/// The URL for whoever is to be a role of this kind.
pub fn url_as(kind: RoleKind, url: &str) -> String {
    let and = if url.contains('?') { '&' } else { '?' };
    format!("{url}{and}options[role]={}", of(kind))
}
