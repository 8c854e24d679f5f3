//! `sms-outbox doctor`: checks everything that the outbox needs, one thing after another. What the answers mean is decided
//! in `judge`.

mod judge;
mod webhook;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use chrono::Utc;
use clap::Args;
use futures_util::future::join_all;
use serde::Serialize;

use super::{database::schema_failure, environment, grant::kind_of_role, inspect::explain, text};
use crate::{
    config::{AccountSecrets, WorkerArgs, connections, shared_keys},
    outbox::{
        ASK_DOCTOR, ASK_DOCTOR_FOR_GRANTS, ConnectOptions, Outbox, OutboxError, PgBouncer, Pooling,
        RoleKind, SchemaState, SenderInUse, advice, chain,
    },
    provider::{Balance, Credentials, ProbeError, Provider, ProviderConfig, origin},
};

/// So many pauses are shown, and the rest is counted.
const PAUSES: usize = 10;
/// The longest that one question to the database may take.
const DATABASE_DEADLINE: Duration = Duration::from_secs(8);

/// The longest that one question to the provider may take.
const PROVIDER_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// The settings of a worker: run this where, and as, workers run.
    #[command(flatten)]
    worker: WorkerArgs,

    /// What the database role is for. The settings, the provider and the accounts are looked at for a worker only, the queue
    /// for whoever may read it; a receiver that runs is sent an event
    #[arg(long = "as", value_name = "KIND", default_value = "worker", value_parser = kind_of_role())]
    kind: RoleKind,

    /// Answer with a JSON object: `ok`, and `checks` with `check`, `level` (ok, warning, fault, skipped), `found` and `advice`
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// It works, but a person should know.
    Warning,
    /// Messages are not sent, or will not be, until someone does something.
    Fault,
    /// Could not be looked at, because of something above it.
    Skipped,
}

/// What one check found.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    found: String,
    /// What to do about it.
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, found, None)
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, found, Some(advice.into()))
    }

    fn fault(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Level::Fault, found, Some(advice.into()))
    }

    fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Level::Skipped, why, None)
    }

    fn new(
        check: &'static str,
        level: Level,
        found: impl Into<String>,
        advice: Option<String>,
    ) -> Self {
        Self {
            check,
            level,
            found: found.into(),
            advice,
        }
    }

    fn said(&self) -> String {
        let mark = match self.level {
            Level::Ok => '✓',
            Level::Warning => '!',
            Level::Fault => '✗',
            Level::Skipped => '-',
        };
        let mut said = format!("{mark} {:<12} {}\n", self.check, self.found.trim_end());
        if let Some(advice) = &self.advice {
            said.push_str(&format!("{:<15}-> {advice}\n", ""));
        }
        said
    }
}

/// Findings, each of them shown as soon as it is there: a question may take its whole deadline.
struct Report {
    findings: Vec<Finding>,
    shows: bool,
}

impl Report {
    fn add(&mut self, finding: Finding) {
        if self.shows {
            // A reader that has gone away is no reason to stop looking: the exit code still tells.
            text::print(&finding.said()).ok();
        }
        self.findings.push(finding);
    }

    fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            self.add(finding);
        }
    }

    fn count(&self, level: Level) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.level == level)
            .count()
    }
}

pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut report = Report {
        findings: Vec::new(),
        shows: !args.json,
    };
    match args.kind {
        RoleKind::Worker => report.extend(judge::settings(
            &args.worker,
            environment::unknown(&super::command()),
        )),
        RoleKind::Receiver => {
            report.extend(judge::misspelt(environment::unknown(&super::command())));
        }
        RoleKind::Producer | RoleKind::Operator | RoleKind::Support => {}
    }
    let senders = database(&args.worker, args.kind, &mut report).await;
    if args.kind == RoleKind::Worker {
        provider(&args.worker, &senders, &mut report).await;
    }
    let receives = args.worker.webhook.webhook_address.is_some();
    if args.kind == RoleKind::Receiver || (args.kind == RoleKind::Worker && receives) {
        report.extend(webhook::examine(&args.worker).await);
    }

    let (faults, warnings) = (report.count(Level::Fault), report.count(Level::Warning));
    if args.json {
        text::print_json(&serde_json::json!({ "ok": faults == 0, "checks": report.findings }))?;
    } else {
        let summary = match (faults, warnings) {
            (0, 0) => "\nEverything is in place.\n".to_owned(),
            (0, warnings) => format!("\nNo faults; {}.\n", text::count(warnings, "warning")),
            (faults, warnings) => format!(
                "\n{}, {}.\n",
                text::count(faults, "fault"),
                text::count(warnings, "warning")
            ),
        };
        text::print(&summary)?;
    }
    Ok(if faults == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything about the database; returns whose jobs wait, where that could be seen.
async fn database(config: &WorkerArgs, kind: RoleKind, report: &mut Report) -> Vec<SenderInUse> {
    let options = match config.database.connect_options() {
        Ok(options) => ConnectOptions {
            connections: 1,
            deadline: DATABASE_DEADLINE,
            ..options
        },
        Err(error) => {
            report.add(Finding::fault(
                "database",
                "no address is given",
                error.to_string(),
            ));
            return Vec::new();
        }
    };
    let reached = options.knock().await;
    let outbox = match reached.and_then(|()| options.connect_lazily()) {
        Ok(outbox) => outbox,
        Err(error) => {
            report.add(fault("database", &error));
            report.add(Finding::skipped(
                "schema, queue",
                "not looked at, because the database cannot be reached",
            ));
            return Vec::new();
        }
    };
    let looked = look(&outbox, &options, config, kind, report).await;
    looked.unwrap_or_else(|Silent| {
        report.add(Finding::skipped(
            "the rest",
            "not looked at, because the database does not answer",
        ));
        Vec::new()
    })
}

/// The database has stopped answering. Once is enough: every further question would wait for its whole deadline.
struct Silent;

/// Reports an error, and whether it is worth asking on.
fn failed(report: &mut Report, check: &'static str, error: &OutboxError) -> Result<(), Silent> {
    report.add(fault(check, error));
    if error.is_transient() {
        Err(Silent)
    } else {
        Ok(())
    }
}

async fn look(
    outbox: &Outbox,
    options: &ConnectOptions,
    config: &WorkerArgs,
    kind: RoleKind,
    report: &mut Report,
) -> Result<Vec<SenderInUse>, Silent> {
    let facts = match outbox.examine_server().await {
        Ok(facts) => facts,
        Err(error) => {
            failed(report, "database", &error)?;
            return Ok(Vec::new());
        }
    };
    let is_worker = kind == RoleKind::Worker;
    let receives = config.webhook.webhook_address.is_some();
    let needed = is_worker.then(|| connections(config.provider.names().len(), receives));
    report.extend(judge::server(&facts, needed));
    match options.pooling().await {
        Ok(pooling) => report.add(judge::pooling(pooling, config.database.pgbouncer)),
        // A pooler may refuse what a connection of our own would ask for, in words that differ.
        Err(_) if config.database.pgbouncer == PgBouncer::Between => {
            report.add(judge::pooling(Pooling::Pooled, PgBouncer::Between));
        }
        Err(error) => failed(report, "pooler", &error)?,
    }
    match clock(outbox).await {
        Ok(finding) => report.add(finding),
        Err(error) => failed(report, "clock", &error)?,
    }
    // Before what the role may not read is read.
    match outbox.hindrances(kind).await {
        Ok(found) => report.extend(judge::privileges(&found)),
        Err(error) => failed(report, "privileges", &error)?,
    }
    match outbox.schema_state().await {
        Ok(SchemaState::Current { version }) => {
            report.add(Finding::ok(
                "schema",
                format!("sms_outbox, version {version}"),
            ));
        }
        Ok(state) => {
            let failure = schema_failure(state).unwrap_or_default();
            let (found, what) = failure.split_once(": ").unwrap_or((&failure, ""));
            report.add(Finding::fault("schema", found, what));
            report.add(Finding::skipped(
                "queue",
                "not looked at, because the schema does not fit",
            ));
            return Ok(Vec::new());
        }
        Err(error) => failed(report, "schema", &error)?,
    }
    match kind {
        RoleKind::Worker | RoleKind::Operator | RoleKind::Support => {}
        RoleKind::Producer | RoleKind::Receiver => {
            report.add(Finding::skipped(
                "queue",
                format!("not {}'s to look at", kind.with_article()),
            ));
            return Ok(Vec::new());
        }
    }
    match outbox.identity().await {
        Ok(found) => {
            report.add(judge::identity(&found));
            // An address that cannot be read is told with the provider.
            let provider = origin(&config.provider.base_url).ok();
            report.extend(provider.and_then(|ours| judge::queue_for(&found, &ours)));
        }
        Err(error) => failed(report, "identity", &error)?,
    }
    let senders = match outbox.senders_in_use().await {
        Ok(senders) => senders,
        Err(error) => {
            failed(report, "queue", &error)?;
            return Ok(Vec::new());
        }
    };
    match outbox.examine_queue().await {
        Ok(queue) => {
            report.add(judge::workers(facts.workers, &queue, &senders));
            report.extend(judge::queue(&queue));
        }
        Err(error) => failed(report, "queue", &error)?,
    }
    if is_worker {
        report.extend(judge::unserved(&senders, &config.provider.names()));
    }
    match outbox.accounts().await {
        Ok(accounts) => report.extend(accounts.iter().flat_map(judge::fleet)),
        Err(error) => failed(report, "limits", &error)?,
    }
    match outbox.unexplained(1_000).await {
        Ok(stuck) => report.extend(stuck.iter().map(judge::unexplained)),
        Err(error) => failed(report, "queue", &error)?,
    }
    match outbox.refused(10).await {
        Ok(refused) => report.extend(refused.iter().map(judge::refused)),
        Err(error) => failed(report, "queue", &error)?,
    }
    match outbox.pauses(None).await {
        Ok(pauses) if pauses.is_empty() => report.add(Finding::ok("pauses", "none")),
        Ok(pauses) => {
            report.extend(pauses.iter().take(PAUSES).map(judge::pause));
            if pauses.len() > PAUSES {
                report.add(judge::more_pauses(pauses.len() - PAUSES));
            }
        }
        Err(error) => failed(report, "pauses", &error)?,
    }
    Ok(senders)
}

async fn clock(outbox: &Outbox) -> Result<Finding, OutboxError> {
    // The first answer may have waited for a connection.
    outbox.now().await?;
    let start = Instant::now();
    let before = Utc::now();
    let there = outbox.now().await?;
    let took = start.elapsed();
    let here = before + took / 2;
    Ok(judge::clock((there - here).num_milliseconds(), took))
}

/// Everything about the provider, account by account.
async fn provider(config: &WorkerArgs, senders: &[SenderInUse], report: &mut Report) {
    let timeout = config.provider.request_timeout.min(PROVIDER_DEADLINE);
    let built = Provider::new(ProviderConfig {
        base_url: config.provider.base_url.clone(),
        request_timeout: timeout,
        connect_timeout: config.provider.connect_timeout.min(timeout),
        reuse_connections: true,
        user_agent: concat!("sms-outbox/", env!("CARGO_PKG_VERSION")).to_owned(),
    });
    let provider = match built {
        Ok(provider) => provider,
        Err(error) => {
            report.add(Finding::fault(
                "provider",
                chain(&error),
                "put ILETIMERKEZI_BASE_URL right (https://api.iletimerkezi.com if unset), or install the CA certificates",
            ));
            return;
        }
    };
    if let Some(exposed) = provider.exposed() {
        report.add(if config.provider.allow_plaintext {
            Finding::warning(
                "provider",
                exposed,
                "use https in ILETIMERKEZI_BASE_URL, unless the network is your own",
            )
        } else {
            Finding::fault(
                "provider",
                format!("a worker would refuse to start: {exposed}"),
                "use https in ILETIMERKEZI_BASE_URL, or set SMS_OUTBOX_ALLOW_PLAINTEXT=true if the network is your own",
            )
        });
    }
    let names = config.provider.names();
    let told_apart = config.provider.accounts.check_names();
    if let Err(error) = &told_apart {
        report.add(if names.is_empty() {
            Finding::fault(
                "credentials",
                error.to_string(),
                "leave it out, or name the accounts to send for",
            )
        } else {
            Finding::fault(
                "credentials",
                "two accounts have one variable",
                error.to_string(),
            )
        });
    }
    let mut found: Vec<AccountSecrets> = Vec::new();
    for name in names {
        let mut one = config.provider.clone();
        one.accounts.accounts = vec![name.to_owned()];
        // One account without its key says nothing about the others.
        match one.secrets(|variable| std::env::var(variable).ok()) {
            Ok(secrets) => found.extend(secrets),
            Err(error) => report.add(Finding::fault(
                "credentials",
                format!("account {name} has none"),
                error.to_string(),
            )),
        }
    }
    // Those of one variable have one key, which has been said.
    if told_apart.is_ok() {
        for warning in shared_keys(&found) {
            report.add(Finding::warning(
                "credentials",
                warning,
                "give each the key of an account of its own, or all jobs one account",
            ));
        }
    }
    // Side by side: a provider that is silent is silent for all of them.
    let asked = found.into_iter().map(|secrets| async {
        let credentials = Credentials::new(secrets.key, secrets.hash);
        let start = Instant::now();
        let balance = provider.balance(&credentials).await;
        let took = start.elapsed();
        let approved = match &balance {
            Ok(_) => Some(provider.senders(&credentials).await),
            Err(_) => None,
        };
        Account {
            name: secrets.account,
            balance,
            took,
            approved,
        }
    });
    for account in join_all(asked).await {
        report.extend(judge::account(&account, senders));
    }
}

/// What the provider said about one account.
struct Account {
    name: String,
    balance: Result<Balance, ProbeError>,
    took: Duration,
    /// `None`: not asked, because the first question failed.
    approved: Option<Result<Vec<String>, ProbeError>>,
}

/// A question that the database did not answer.
fn fault(check: &'static str, error: &OutboxError) -> Finding {
    let what = match advice(error) {
        // Whoever reads this has asked doctor.
        ASK_DOCTOR => "the server's log may tell more",
        ASK_DOCTOR_FOR_GRANTS => "grant what is missing (see privileges)",
        other => other,
    };
    Finding::fault(check, chain(error), what)
}
