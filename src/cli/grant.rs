//! `sms-outbox grant`

use std::process::ExitCode;

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    database::{explained, open},
    text,
};
use crate::{
    config::{DatabaseArgs, Misconfigured},
    message::Priority,
    outbox::{Grant, GrantError, RoleKind},
};

#[derive(Args, Debug)]
pub(super) struct GrantArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// What the role is for
    ///
    /// producer: inserts messages and asks what became of them; reads no number and no text.
    /// worker: runs `sms-outbox worker`.
    /// operator: retry, cancel, resolve, pause, resume and prune, and all that support may.
    /// support: list, show and stats. They mask numbers, and SQL does not: this role can read numbers and texts.
    /// receiver: runs `sms-outbox receive`.
    #[arg(value_name = "KIND", value_parser = kind_of_role(), verbatim_doc_comment)]
    kind: RoleKind,

    /// The database role, which exists already. It is written as PostgreSQL keeps it: case counts
    role: String,

    /// Show the SQL instead of running it, for psql
    #[arg(long)]
    print: bool,

    /// Of a producer: its messages may have this priority and greater numbers only; 0 takes the limit away [default: as
    /// before]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(0..=3))]
    max_priority: Option<i16>,
}

/// Reads one of the five names.
pub(super) fn kind_of_role() -> impl TypedValueParser<Value = RoleKind> {
    PossibleValuesParser::new(RoleKind::ALL.map(RoleKind::name))
        .try_map(|name| name.parse::<RoleKind>())
}

pub(super) async fn run(args: GrantArgs) -> anyhow::Result<ExitCode> {
    if args.max_priority.is_some() && args.kind != RoleKind::Producer {
        return Err(Misconfigured("--max-priority is for producers".to_owned()).into());
    }
    let grant = Grant {
        kind: args.kind,
        role: args.role,
        most_urgent: args.max_priority.map(Priority::new).transpose()?,
    };
    if args.print {
        text::print(&grant.sql())?;
        return Ok(ExitCode::SUCCESS);
    }
    let outbox = open(&args.database).await?;
    outbox.grant(&grant).await.map_err(|error| match error {
        GrantError::Database(error) => explained(error),
        other => other.into(),
    })?;
    let Grant { kind, role, .. } = grant;
    let limit = match args.max_priority {
        None => String::new(),
        Some(0) => ", of any priority".to_owned(),
        Some(most_urgent) => format!(", of priority {most_urgent} and greater numbers only"),
    };
    text::print(&format!(
        "{role} may do what {} needs to{limit}.\n",
        kind.with_article()
    ))?;
    Ok(ExitCode::SUCCESS)
}
