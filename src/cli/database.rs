//! Opening the outbox for a command, and what to do when that fails.

use crate::{
    config::{DatabaseArgs, Misconfigured},
    outbox::{ConnectOptions, Outbox, OutboxError, SchemaState, UNRELEASED, advice, chain},
};

/// A handle on an outbox that answers and whose schema fits this program.
pub(super) async fn open(args: &DatabaseArgs) -> anyhow::Result<Outbox> {
    let options = ConnectOptions {
        connections: 2,
        ..args.connect_options()?
    };
    options.knock().await.map_err(explained)?;
    let outbox = options.connect_lazily().map_err(explained)?;
    match outbox.schema_state().await {
        Ok(SchemaState::Current { .. }) => Ok(outbox),
        // A role that may use the jobs need not be able to read our bookkeeping; what it may not do, it will be told.
        Err(OutboxError::Refused { .. }) => Ok(outbox),
        Err(error) => Err(explained(error)),
        Ok(state) => Err(anyhow::anyhow!(schema_failure(state).unwrap_or_default())),
    }
}

/// What is wrong with a schema, and what to do; `None` if nothing is.
pub(super) fn schema_failure(state: SchemaState) -> Option<String> {
    match state {
        SchemaState::Current { .. } => None,
        SchemaState::Missing => Some(
            "the database has no schema sms_outbox: run `sms-outbox migrate`, or check that DATABASE_URL names the right \
             database"
                .to_owned(),
        ),
        SchemaState::Unreleased => Some(UNRELEASED.to_owned()),
        SchemaState::Older { found, known } => Some(format!(
            "the schema sms_outbox is at version {found}, and this program needs {known}: run `sms-outbox migrate`"
        )),
        SchemaState::Newer { found, known } => Some(format!(
            "the schema sms_outbox is at version {found}, newer than the {known} that this program knows: upgrade the \
             program"
        )),
    }
}

/// The error with its causes, and what to do about it.
pub(super) fn explained(error: OutboxError) -> anyhow::Error {
    let sentence = format!("{}; {}", chain(&error), advice(&error));
    if error.is_misconfigured() {
        Misconfigured(sentence).into()
    } else {
        anyhow::anyhow!(sentence)
    }
}
