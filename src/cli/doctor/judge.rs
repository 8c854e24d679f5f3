//! What the answers mean: facts in, findings out.

use std::time::Duration;

use super::{Account, Finding, explain};
use crate::{
    cli::text::{count, listed, span},
    config::WorkerArgs,
    lifecycle::ErrorClass,
    message::Sender,
    outbox::{
        AccountHealth, DatabaseIdentity, Hindrances, PauseRow, PgBouncer, Pooling, Promotions,
        QueueFacts, RefusedJob, RoleKind, SenderInUse, ServerFacts, Unexplained, confirmed_by,
    },
    provider::ProbeError,
};

/// A job that has been due for so long, with nothing holding it back, is being overlooked.
const OVERLOOKED_MS: i64 = 60_000;

/// A worker that is running claims whatever is due; an account with claims this recent has one.
const RECENT_MS: i64 = 3_600_000;

/// `unknown`: variables that nobody reads.
pub(super) fn settings(config: &WorkerArgs, unknown: Vec<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = config.check() {
        findings.push(Finding::fault(
            "settings",
            "a worker would refuse to start",
            error.to_string(),
        ));
    }
    for warning in config.warnings() {
        findings.push(Finding::warning("settings", warning, "change one of them"));
    }
    findings.extend(misspelt(unknown));
    if findings.is_empty() {
        findings.push(Finding::ok("settings", "they fit together"));
    }
    findings
}

/// Variables that nobody reads.
pub(super) fn misspelt(unknown: Vec<String>) -> Vec<Finding> {
    let finding =
        |warning| Finding::warning("settings", warning, "put its name right, or take it away");
    unknown.into_iter().map(finding).collect()
}

/// `needed`: how many connections whoever asks would take; `None`: the few of a command.
pub(super) fn server(facts: &ServerFacts, needed: Option<u32>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let found = format!(
        "PostgreSQL {}, database {:?} as role {}",
        facts.version, facts.database, facts.role
    );
    findings.push(if facts.version_num < 140_000 {
        Finding::fault(
            "database",
            found,
            "sms-outbox needs PostgreSQL 14 or later: upgrade the server",
        )
    } else if facts.encoding != "UTF8" {
        Finding::fault(
            "database",
            format!(
                "{found}, in the encoding {}, which has no place for every character of a message",
                facts.encoding
            ),
            "use a database in UTF8 (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)",
        )
    } else if facts.read_only {
        Finding::fault(
            "database",
            format!("{found}, and it cannot be written to"),
            "it is a standby, or set to read-only: let DATABASE_URL name the primary",
        )
    } else {
        Finding::ok("database", found)
    });
    findings.push(encryption(facts));
    findings.push(durability(facts));
    findings.extend(server_log(facts));

    let Some(needed) = needed else {
        return findings;
    };
    let free = (facts.connections_allowed - facts.connections_used).max(0);
    let found = format!(
        "{free} of {} are free; a worker with these accounts takes up to {needed}",
        facts.connections_allowed
    );
    findings.push(if free < i64::from(needed) {
        Finding::warning(
            "connections",
            found,
            "if no worker is to be started beside those that run, nothing; otherwise raise max_connections or the limit of \
             the role or database, or put a PgBouncer in between",
        )
    } else {
        Finding::ok("connections", found)
    });
    findings
}

fn encryption(facts: &ServerFacts) -> Finding {
    let check = "encryption";
    match &facts.tls {
        Some(version) => Finding::ok(
            check,
            format!("the connection to the database is encrypted ({version})"),
        ),
        None if facts.is_local => Finding::ok(
            check,
            "none, and none needed: the database is on this machine",
        ),
        None => Finding::warning(
            check,
            "the connection to the database is not encrypted: numbers and texts cross the network in clear",
            "unless that network is your own, switch ssl on in the server and add ?sslmode=verify-full to DATABASE_URL \
             (docs/operations.md, \"TLS\"). Behind a pooler this is about its connection, not yours",
        ),
    }
}

/// Whether numbers and texts end up in the server's log.
fn server_log(facts: &ServerFacts) -> Option<Finding> {
    let mut settings = facts.logs_statements.clone();
    let advice = "set log_parameter_max_length and log_parameter_max_length_on_error to 0, let producers bind what they insert \
                  instead of writing it into the statement, and keep the log as private as the table";
    if !settings.is_empty() && facts.logs_parameters {
        settings.push("log_parameter_max_length is not 0".to_owned());
    }
    if facts.logs_parameters_on_error {
        settings.push("log_parameter_max_length_on_error is not 0".to_owned());
    }
    if settings.is_empty() {
        return None;
    }
    Some(Finding::warning(
        "server log",
        format!(
            "the server logs what producers insert, with its numbers and texts ({})",
            settings.join(", ")
        ),
        advice,
    ))
}

fn durability(facts: &ServerFacts) -> Finding {
    let check = "durability";
    let mut lossy = Vec::new();
    if !facts.fsync {
        lossy.push("fsync is off");
    }
    if !facts.full_page_writes {
        lossy.push("full_page_writes is off");
    }
    if !lossy.is_empty() {
        return Finding::warning(
            check,
            format!(
                "{}: a crash of the machine can lose or corrupt what was committed",
                listed(lossy)
            ),
            "switch it on in postgresql.conf, unless this database may be lost",
        );
    }
    // on, remote_apply, remote_write and local all wait for this machine's own disk.
    if facts.synchronous_commit == "off" {
        return Finding::warning(
            check,
            "synchronous_commit is off: a crash can forget the last commits, so that a message is lost, or sent twice \
             because its claim was forgotten",
            format!(
                "ALTER ROLE {} SET synchronous_commit = on, and the same for producers",
                facts.role
            ),
        );
    }
    Finding::ok(
        check,
        format!(
            "fsync on, synchronous_commit {}: what is committed survives a crash",
            facts.synchronous_commit
        ),
    )
}

pub(super) fn pooling(pooling: Pooling, told: PgBouncer) -> Finding {
    let check = "pooler";
    match (pooling, told) {
        (Pooling::Direct, PgBouncer::Auto | PgBouncer::Absent) => {
            Finding::ok(check, "none in between")
        }
        (Pooling::Pooled, PgBouncer::Between) => Finding::ok(
            check,
            "one such as PgBouncer stands in between, as SMS_OUTBOX_PGBOUNCER says",
        ),
        (Pooling::Pooled, PgBouncer::Auto) => Finding::ok(
            check,
            "one such as PgBouncer stands in between; workers find out by themselves (`migrate` needs the database's own \
             address)",
        ),
        (Pooling::Pooled, PgBouncer::Absent) => Finding::fault(
            check,
            "one such as PgBouncer stands in between, and workers are told that there is none",
            "leave SMS_OUTBOX_PGBOUNCER out (and give `migrate` the database's own address)",
        ),
        (Pooling::Direct, PgBouncer::Between) => Finding::warning(
            check,
            "none in between, although SMS_OUTBOX_PGBOUNCER says so",
            "leave it out: workers are slower with it",
        ),
    }
}

/// `ahead_ms`: by how much the database's clock is ahead of this machine's; known to half of `took`.
pub(super) fn clock(ahead_ms: i64, took: Duration) -> Finding {
    let check = "clock";
    let error_ms = i64::try_from(took.as_millis() / 2)
        .unwrap_or(i64::MAX)
        .max(1);
    let off_ms = ahead_ms.saturating_abs();
    if off_ms <= 2_000 + error_ms {
        return Finding::ok(
            check,
            format!(
                "this machine and the database agree within {}",
                span(off_ms + error_ms)
            ),
        );
    }
    let (found, direction) = (
        span(off_ms),
        if ahead_ms > 0 { "behind" } else { "ahead of" },
    );
    Finding::warning(
        check,
        format!("this machine is {found} {direction} the database"),
        "the database's clock decides what is due and what has expired: let both follow NTP, and let producers write due_at \
         and expires_at as now() + interval",
    )
}

/// Whether the queue is for the provider that these settings name.
pub(super) fn queue_for(found: &DatabaseIdentity, provider: &str) -> Option<Finding> {
    found.other_provider(provider).map(|change| {
        Finding::fault(
            "provider",
            format!("a worker with these settings claims nothing, because {change}"),
            confirmed_by(&change),
        )
    })
}

/// Whether this is the pinned database.
pub(super) fn identity(found: &DatabaseIdentity) -> Finding {
    let check = "identity";
    if let Some(change) = found.change() {
        return Finding::fault(
            check,
            format!("workers send nothing, because {change}"),
            confirmed_by(&change),
        );
    }
    let (Some(by), Some(at)) = (&found.pinned_by, &found.pinned_at) else {
        return Finding::ok(check, "none is pinned yet; the first worker pins this one");
    };
    let pinned = format!("pinned by {by} at {at}");
    let unsaid = found.unsaid();
    if !unsaid.is_empty() && !found.standby {
        return Finding::warning(
            check,
            format!(
                "{pinned}, as far as can be told: the server does not tell this role {}",
                listed(unsaid)
            ),
            "a restored backup may not be noticed: stop all workers before one is restored (docs/operations.md), or GRANT \
             EXECUTE ON FUNCTION pg_control_system(), pg_current_wal_lsn(), pg_walfile_name(pg_lsn) to this role, where the \
             service allows it",
        );
    }
    Finding::ok(
        check,
        match found.promotions() {
            Promotions::Stop if found.promotion_meant => {
                format!("{pinned}; the next promotion is meant, and does not stop workers")
            }
            Promotions::Stop => pinned,
            Promotions::GoOn => {
                format!(
                    "{pinned}; promotions, and recoveries to a point in time, do not stop workers"
                )
            }
        },
    )
}

/// Whether this role may do what its kind needs to, and sees all of what it works with.
pub(super) fn privileges(found: &Hindrances) -> Vec<Finding> {
    let check = "privileges";
    let role = &found.role;
    let lacks = found
        .lacks
        .iter()
        .map(|lack| Finding::fault(check, format!("{role} lacks {lack}"), found.grants_it()));
    let hidden = found.hidden.iter().map(|table| {
        let said = format!("row level security shows {role} only a part of sms_outbox.{table}");
        let advice = found.shows_it(table);
        match found.kind {
            // It may be meant: producers that share the table, and ask about their own jobs only.
            RoleKind::Producer => Finding::warning(check, said, advice),
            RoleKind::Worker | RoleKind::Operator | RoleKind::Support | RoleKind::Receiver => {
                Finding::fault(check, said, advice)
            }
        }
    });
    let too_much = (!found.too_much.is_empty()).then(|| {
        Finding::warning(
            check,
            format!(
                "{role} has more than {} needs: {} by the whole row, so it can read numbers and texts, or write what is a \
                 worker's",
                found.kind.with_article(),
                listed(&found.too_much)
            ),
            found.takes_it(),
        )
    });
    let findings: Vec<Finding> = lacks.chain(hidden).chain(too_much).collect();
    if findings.is_empty() {
        let kind = found.kind.with_article();
        return vec![Finding::ok(
            check,
            format!("{role} may do what {kind} needs to"),
        )];
    }
    findings
}

pub(super) fn workers(connected: i64, facts: &QueueFacts, senders: &[SenderInUse]) -> Finding {
    let check = "workers";
    let waited = senders
        .iter()
        .filter_map(|sender| sender.oldest_due_age_ms)
        .max();
    let overlooked = waited.filter(|ms| *ms > OVERLOOKED_MS);
    let last = match facts.last_claim_ms {
        Some(ms) => format!("the last claim was {} ago", span(ms)),
        None => "nothing has ever been claimed".to_owned(),
    };
    // Behind a pooler workers have no names, but what they claim can be seen.
    let seen = match (connected, facts.last_claim_ms) {
        (1.., _) => Some(format!("{} connected; {last}", count(connected, "worker"))),
        (_, Some(ms)) if ms < OVERLOOKED_MS => Some(format!("at work: {last}")),
        _ => None,
    };
    match (seen, overlooked) {
        (Some(found), None) => Finding::ok(check, found),
        (Some(found), Some(waited)) => Finding::warning(
            check,
            format!("{found}, but a job has been due for {}", span(waited)),
            "more is due than may leave (SMS_OUTBOX_RATE_PER_SECOND), or no worker serves its account: see `sms-outbox stats`",
        ),
        (None, Some(waited)) => Finding::fault(
            check,
            format!(
                "none to be seen, and a job has been due for {}; {last}",
                span(waited)
            ),
            "start one: `sms-outbox worker`",
        ),
        (None, None) => Finding::warning(
            check,
            format!("none to be seen; {last}"),
            "start one before anything is due: `sms-outbox worker`",
        ),
    }
}

pub(super) fn queue(facts: &QueueFacts) -> Vec<Finding> {
    let check = "queue";
    let mut findings = Vec::new();
    if facts.abandoned > 0 {
        findings.push(Finding::fault(
            check,
            format!(
                "{} claimed, with a lease that ran out, and not recovered",
                count(facts.abandoned, "job")
            ),
            "any worker recovers them within seconds: start one, or see why the running ones do not reach the database",
        ));
    }
    if facts.uncertain > 0 {
        findings.push(Finding::warning(
            check,
            format!("{} uncertain: nobody knows whether they were sent", count(facts.uncertain, "job")),
            "`sms-outbox list --status uncertain`, look for them in the provider's panel, then `sms-outbox resolve`",
        ));
    }
    if facts.failed_last_hour > 0 {
        findings.push(Finding::warning(
            check,
            format!(
                "{} failed within the last hour ({})",
                count(facts.failed_last_hour, "job"),
                facts.failed_why.as_deref().unwrap_or("unknown")
            ),
            "`sms-outbox list --status failed`, and `sms-outbox show ID` for the reason; `sms-outbox retry` when it is gone",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            check,
            "nothing abandoned, uncertain or failed within the last hour",
        ));
    }
    findings
}

/// Accounts whose jobs wait, and which neither these settings nor any recent worker serves.
pub(super) fn unserved(senders: &[SenderInUse], served: &[&str]) -> Vec<Finding> {
    let mut accounts: Vec<(&str, i64, bool)> = Vec::new();
    for sender in senders
        .iter()
        .filter(|sender| !served.contains(&sender.account.as_str()))
    {
        let is_served = sender.last_claim_ms.is_some_and(|ms| ms < RECENT_MS);
        match accounts
            .iter_mut()
            .find(|(account, ..)| *account == sender.account)
        {
            Some((_, queued, _)) => *queued += sender.queued,
            None => accounts.push((&sender.account, sender.queued, is_served)),
        }
    }
    let finding = |(account, queued, is_served): (&str, i64, bool)| {
        let waiting = format!("{} waiting for account {account:?}", count(queued, "job"));
        if is_served {
            Finding::ok(
                "accounts",
                format!("{waiting}, which another worker serves"),
            )
        } else {
            Finding::fault(
                "accounts",
                format!("{waiting}, which no worker serves"),
                "add it to SMS_OUTBOX_ACCOUNTS with its key and hash, or, if the name is a mistake, cancel them \
                 (`sms-outbox cancel --account`) and put the producer right",
            )
        }
    };
    accounts.into_iter().map(finding).collect()
}

pub(super) fn pause(pause: &PauseRow) -> Finding {
    let found = explain::pause(pause);
    let mut lines = found.lines().map(str::trim);
    let (who, ends) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let class: Option<ErrorClass> = pause
        .error_class
        .as_deref()
        .and_then(|class| class.parse().ok());
    match class {
        // A person wanted it, or it ends by itself in a moment.
        None | Some(ErrorClass::RateLimited) => Finding::warning("pauses", who, ends),
        Some(_) => Finding::fault("pauses", who, ends),
    }
}

pub(super) fn more_pauses(more: usize) -> Finding {
    Finding::warning(
        "pauses",
        format!("{more} more"),
        "`SELECT * FROM sms_outbox.pauses WHERE ended_at IS NULL` shows all of them",
    )
}

/// What the fleet knows of an account.
pub(super) fn fleet(account: &AccountHealth) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &account.account;
    if account.limits.len() > 1 {
        let limits = account.limits.iter().map(|limit| match limit {
            0 => "none".to_owned(),
            limit => limit.to_string(),
        });
        findings.push(Finding::warning(
            "limits",
            format!(
                "the workers of account {name} were given different limits ({}): {} a second holds for all of them",
                listed(limits),
                account.rate_per_second
            ),
            "give all of them the same SMS_OUTBOX_RATE_PER_SECOND",
        ));
    }
    if let Some(lasts) = account.outage_ms {
        let why = account
            .failure_message
            .as_deref()
            .unwrap_or("it does not answer");
        findings.push(Finding::fault(
            "provider",
            format!("account {name}: unavailable for {}. {why}", span(lasts)),
            "nothing to do here: jobs wait without spending attempts, and it ends by itself when the provider answers",
        ));
    }
    findings
}

/// Jobs that wait, and nobody knows why.
pub(super) fn unexplained(stuck: &Unexplained) -> Finding {
    Finding::fault(
        "queue",
        format!(
            "account {}: {} due for longer than a minute, and nothing explains it; the oldest, for {}, is {}",
            stuck.account,
            count(stuck.jobs, "job"),
            span(stuck.oldest_ms),
            stuck.example
        ),
        "see whether a worker runs that serves the account, whether a session holds the row (pg_locks), and what the workers log",
    )
}

/// A job whose row cannot be changed.
pub(super) fn refused(job: &RefusedJob) -> Finding {
    let rule = job
        .rule
        .as_deref()
        .map_or_else(String::new, |rule| format!(", rule {rule}"));
    Finding::fault(
        "queue",
        format!(
            "the database refuses to change the row of job {} (SQLSTATE {}{rule}): workers step over it, and have tried {}",
            job.job_id,
            job.sqlstate,
            count(i64::from(job.refusals), "time")
        ),
        "a rule or a trigger of the application on sms_outbox.jobs is the usual cause; workers try again by themselves",
    )
}

pub(super) fn account(account: &Account, senders: &[SenderInUse]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &account.name;
    let took = span(i64::try_from(account.took.as_millis()).unwrap_or(i64::MAX));
    let balance = match &account.balance {
        Err(error) => return vec![unanswered(name, error)],
        Ok(balance) => balance,
    };
    let found = format!("account {name}: accepted, answered in {took}");
    findings.push(if account.took > Duration::from_secs(5) {
        Finding::warning(
            "credentials",
            found,
            "that is slow: each message waits as long",
        )
    } else {
        Finding::ok("credentials", found)
    });

    let left = [(balance.amount, "TL"), (balance.sms, "SMS")];
    let said = listed(
        left.iter()
            .filter_map(|(left, unit)| left.map(|left| format!("{left} {unit}"))),
    );
    let is_empty = left
        .iter()
        .all(|(left, _)| left.is_none_or(|left| left <= 0.0));
    findings.push(match (said.is_empty(), is_empty) {
        (true, _) => Finding::warning(
            "balance",
            format!("account {name}: the provider's answer names none that can be read"),
            "look into the provider's panel",
        ),
        (false, true) => Finding::fault(
            "balance",
            format!("account {name}: nothing left ({said})"),
            "top it up in the provider's panel: the next message would pause the account",
        ),
        (false, false) => Finding::ok("balance", format!("account {name}: {said}")),
    });

    match &account.approved {
        None => {}
        Some(Err(error)) => findings.push(Finding::warning(
            "senders",
            format!("account {name}: they could not be asked for: {error}"),
            "try again in a moment",
        )),
        Some(Ok(approved)) => findings.extend(approved_senders(name, approved, senders)),
    }
    findings
}

fn approved_senders(account: &str, approved: &[String], senders: &[SenderInUse]) -> Vec<Finding> {
    let used = senders.iter().filter(|used| used.account == account);
    // The test sender needs no approval.
    let refused =
        used.filter(|used| used.sender != Sender::TEST && !approved.contains(&used.sender));
    let known = if approved.is_empty() {
        "none is approved".to_owned()
    } else {
        format!(
            "approved: {}",
            listed(approved.iter().map(|name| format!("{name:?}")))
        )
    };
    let mut findings: Vec<Finding> = refused
        .map(|used| {
            let nearly = approved
                .iter()
                .find(|name| name.trim().eq_ignore_ascii_case(used.sender.trim()));
            let advice = match nearly {
                Some(name) => format!("{name:?} is approved: case and spaces count"),
                None => "have it approved in the provider's panel (1 to 2 business days), or cancel these jobs".to_owned(),
            };
            Finding::fault(
                "senders",
                format!(
                    "account {account}: {} waiting from {:?}, which is not approved ({known})",
                    count(used.queued, "job"),
                    used.sender
                ),
                advice,
            )
        })
        .collect();
    if findings.is_empty() {
        findings.push(if approved.is_empty() {
            Finding::warning(
                "senders",
                format!("account {account}: none is approved yet"),
                "apply for one in the provider's panel; until then only APITEST can be used",
            )
        } else {
            Finding::ok("senders", format!("account {account}: {known}"))
        });
    }
    findings
}

fn unanswered(account: &str, error: &ProbeError) -> Finding {
    let advice = match error.failure.class {
        ErrorClass::Auth => {
            "check key and hash, and in the provider's panel (Settings > Security > API Access) the API switch and the list \
             of allowed addresses"
        }
        ErrorClass::Network | ErrorClass::Timeout => {
            "if others reach it, is ILETIMERKEZI_BASE_URL right, and does a firewall let this machine out to it? If nobody \
             does, it is the provider's failure: what is queued goes out by itself when it answers again"
        }
        ErrorClass::Unavailable | ErrorClass::RateLimited => {
            "it is the provider's failure: try again in a while"
        }
        ErrorClass::Balance => "top the account up in the provider's panel",
        ErrorClass::Account
        | ErrorClass::Sender
        | ErrorClass::Recipients
        | ErrorClass::Content
        | ErrorClass::Iys
        | ErrorClass::Schedule
        | ErrorClass::Request
        | ErrorClass::Unknown => {
            "is ILETIMERKEZI_BASE_URL the provider's? Otherwise look into its panel"
        }
    };
    Finding::fault("credentials", format!("account {account}: {error}"), advice)
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn in_use(
        account: &str,
        sender: &str,
        due_ms: Option<i64>,
        claim_ms: Option<i64>,
    ) -> SenderInUse {
        SenderInUse {
            account: account.to_owned(),
            sender: sender.to_owned(),
            queued: 3,
            oldest_due_age_ms: due_ms,
            last_claim_ms: claim_ms,
        }
    }

    #[test]
    fn no_worker_is_a_fault_only_when_something_is_overlooked() {
        let facts = |last_claim_ms| QueueFacts {
            last_claim_ms,
            ..QueueFacts::default()
        };
        for (connected, last_claim, due, level) in [
            (1, None, None, Level::Ok),
            (0, Some(5_000), Some(1_000), Level::Ok),
            (0, None, None, Level::Warning),
            (0, Some(600_000), Some(30_000), Level::Warning),
            (2, Some(5_000), Some(600_000), Level::Warning),
            (0, Some(600_000), Some(61_000), Level::Fault),
        ] {
            let senders = [in_use("default", "BRAND", due, None)];
            let finding = workers(connected, &facts(last_claim), &senders);
            assert_eq!(finding.level, level, "{finding:?}");
        }
    }

    #[test]
    fn an_account_that_nobody_serves_is_a_fault() {
        let senders = [
            in_use("default", "BRAND", None, None),
            in_use("elsewhere", "BRAND", None, Some(60_000)),
            in_use("defualt", "BRAND", None, None),
            in_use("defualt", "OTHER", None, None),
        ];
        let findings = unserved(&senders, &["default"]);
        let levels: Vec<Level> = findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Fault]);
        assert!(findings[1].found.contains("6 jobs"), "{findings:?}");
    }

    #[test]
    fn a_sender_must_be_approved_exactly() {
        let approved = ["Brand".to_owned()];
        for (sender, level, says) in [
            ("Brand", Level::Ok, "approved"),
            ("APITEST", Level::Ok, "approved"),
            ("BRAND", Level::Fault, "case and spaces count"),
            ("OTHER", Level::Fault, "have it approved"),
        ] {
            let findings = approved_senders(
                "default",
                &approved,
                &[in_use("default", sender, None, None)],
            );
            let said = format!("{findings:?}");
            assert_eq!(findings[0].level, level, "{said}");
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn clocks_may_differ_by_two_seconds_and_what_the_answer_took() {
        for (ahead_ms, took_ms, level) in [
            (0, 1, Level::Ok),
            (-1_900, 1, Level::Ok),
            (2_400, 1_000, Level::Ok),
            (2_600, 1_000, Level::Warning),
            (-60_000, 1, Level::Warning),
        ] {
            let finding = clock(ahead_ms, Duration::from_millis(took_ms));
            assert_eq!(finding.level, level, "{finding:?}");
        }
    }

    #[test]
    fn what_may_lose_commits_is_told() {
        let facts = |fsync, synchronous_commit: &str| ServerFacts {
            version: "16.1".to_owned(),
            version_num: 160_001,
            database: "app".to_owned(),
            encoding: "UTF8".to_owned(),
            role: "app".to_owned(),
            read_only: false,
            fsync,
            full_page_writes: true,
            synchronous_commit: synchronous_commit.to_owned(),
            logs_statements: Vec::new(),
            logs_parameters: true,
            logs_parameters_on_error: false,
            tls: None,
            is_local: true,
            connections_allowed: 97,
            connections_used: 3,
            workers: 0,
        };
        for (fsync, synchronous_commit, level) in [
            (true, "on", Level::Ok),
            (true, "remote_apply", Level::Ok),
            (true, "local", Level::Ok),
            (true, "off", Level::Warning),
            (false, "on", Level::Warning),
        ] {
            assert_eq!(durability(&facts(fsync, synchronous_commit)).level, level);
        }
    }
}
