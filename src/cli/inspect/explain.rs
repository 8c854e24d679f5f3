//! In plain words: what a job's status means, what moves it on, and what a person can do about it.

use chrono::{DateTime, Utc};

use crate::{
    cli::text::{self, count, from_now, span},
    delivery::DeliveryStatus,
    lifecycle::{ErrorClass, PauseScope, Status},
    outbox::{AttemptRow, JobRow, PauseRow},
};

/// Whether a pause of the job's account concerns this job.
pub(super) fn holds_back(pause: &PauseRow, job: &JobRow) -> bool {
    pause.account == job.account
        && match pause.scope.parse() {
            Ok(PauseScope::Account) => true,
            Ok(PauseScope::Sender) => pause.sender == job.sender,
            Ok(PauseScope::Iys) => job.iys,
            // Of a later version: better told than kept.
            Err(_) => true,
        }
}

/// Whom a pause holds back: `account default`, `sender BRAND of account default`.
pub(in crate::cli) fn held(account: &str, scope: &str, sender: &str) -> String {
    match scope.parse() {
        Ok(PauseScope::Sender) => format!("sender {sender:?} of account {account}"),
        Ok(PauseScope::Iys) => format!("marketing (iys) of account {account}"),
        Ok(PauseScope::Account) | Err(_) => format!("account {account}"),
    }
}

/// The command that ends a pause.
pub(in crate::cli) fn resume_command(pause: &PauseRow) -> String {
    let account = if pause.account == "default" {
        String::new()
    } else {
        format!(" --account {:?}", pause.account)
    };
    match pause.scope.parse() {
        Ok(PauseScope::Sender) => format!("sms-outbox resume{account} --sender {:?}", pause.sender),
        Ok(PauseScope::Iys) => format!("sms-outbox resume{account} --iys"),
        Ok(PauseScope::Account) | Err(_) => format!("sms-outbox resume{account}"),
    }
}

/// Everything about one pause.
pub(in crate::cli) fn pause(pause: &PauseRow) -> String {
    let who = held(&pause.account, &pause.scope, &pause.sender);
    let ends = match (&pause.until, &pause.probe_at) {
        (Some(until), _) => {
            let now = text::parse(pause.since.as_deref())
                .map(|since| since + chrono::TimeDelta::milliseconds(pause.held_for_ms));
            let left = text::parse(Some(until))
                .zip(now)
                .map(|(until, now)| (until - now).num_milliseconds());
            match left {
                Some(left) => format!("It ends by itself {}", from_now(left.max(1))),
                None => format!("It ends by itself at {until}"),
            }
        }
        (None, Some(_)) => {
            "A worker asks the provider now and then whether the failure is over, and then ends it"
                .to_owned()
        }
        (None, None) => "It ends only by hand".to_owned(),
    };
    format!(
        "{who}, for {} now, by {}: {}\n        {ends}; `{}` ends it at once.",
        span(pause.held_for_ms),
        pause.paused_by,
        pause.reason.trim_end(),
        resume_command(pause)
    )
}

/// A few words for a list.
pub(super) fn note(job: &JobRow, now: DateTime<Utc>) -> String {
    let mut notes = Vec::new();
    if let Some(class) = &job.error_class {
        notes.push(match job.error_code {
            Some(code) => format!("{class} {code}"),
            None => class.clone(),
        });
    }
    if job.duplicate {
        notes.push("duplicate (451)".to_owned());
    }
    if let Some(order) = &job.order_id {
        notes.push(format!("order {order}"));
    }
    if job.status == Status::Queued.as_str() {
        if job.ambiguous_since.is_some() {
            notes.push("may have been sent".to_owned());
        }
        match text::ms_until(job.due_at.as_deref(), now) {
            Some(ms) if ms > 0 => notes.push(format!("due {}", from_now(ms))),
            _ => {}
        }
    }
    if let Some(rejected) = job.rejected_count {
        notes.push(format!("{} left out", count(rejected, "number")));
    }
    notes.join(", ")
}

/// One line of the history.
pub(super) fn attempt(attempt: &AttemptRow) -> String {
    let mut said = Vec::new();
    match (&attempt.error_class, attempt.provider_code) {
        (None, Some(451)) => said.push("accepted: a duplicate (451)".to_owned()),
        (None, _) if attempt.progress.as_deref() == Some("answered") => {
            said.push("accepted".to_owned());
        }
        (None, _) => {}
        (Some(class), Some(code)) => said.push(format!("{class} {code}")),
        (Some(class), None) => said.push(class.clone()),
    }
    if let Some(order) = &attempt.order_id {
        said.push(format!("order {order}"));
    }
    if let Some(status) = attempt.http_status.filter(|status| *status != 200) {
        said.push(format!("HTTP {status}"));
    }
    match (attempt.observer.as_str(), &attempt.said_by) {
        ("worker", _) => {}
        (observer, None) => said.push(format!("noticed by {observer}")),
        (observer, Some(who)) => said.push(format!("said by {observer} {who}")),
    }
    if attempt.late {
        said.push("came after the claim was lost".to_owned());
    }
    if !attempt.counted && attempt.observer == "worker" {
        said.push("attempt released".to_owned());
    }
    let mut line = said.join(", ");
    if let Some(message) = attempt.error_message.as_ref().or(attempt.evidence.as_ref()) {
        line.push_str(": ");
        line.push_str(message);
    }
    line
}

/// What the status means, what moves the job on, and what a person can do.
pub(super) fn sentences(job: &JobRow, pauses: &[PauseRow], now: DateTime<Utc>) -> Vec<String> {
    match job.status.parse() {
        Ok(Status::Queued) => queued(job, pauses, now),
        Ok(Status::Sending) => sending(job, now),
        Ok(Status::Sent) => sent(job),
        Ok(Status::Split) => vec![
            "The provider refused its list because of numbers in it. Those that are known are left out (see rejected); the \
             others are sent on in parts, which are jobs of their own. This is final."
                .to_owned(),
        ],
        Ok(Status::Failed) => failed(job, now),
        Ok(Status::Uncertain) => uncertain(job, now),
        Ok(Status::Expired) => vec![
            "It was not sent: expires_at came before the provider had accepted it. This is final; enqueue a new message \
             if it is still wanted."
                .to_owned(),
        ],
        Ok(Status::Cancelled) => cancelled(job),
        Err(problem) => vec![format!(
            "This version of the program does not know its status: {problem}."
        )],
    }
}

fn queued(job: &JobRow, pauses: &[PauseRow], now: DateTime<Utc>) -> Vec<String> {
    let mut said = Vec::new();
    for pause in pauses {
        said.push(format!(
            "It waits because of a pause: {}",
            self::pause(pause)
        ));
    }
    let due = text::ms_until(job.due_at.as_deref(), now);
    match due {
        Some(ms) if ms > 0 && job.attempt > 0 => said.push(format!(
            "Attempt {} of {} failed; the retry is due {}.",
            job.attempt,
            job.max_attempts,
            from_now(ms)
        )),
        Some(ms) if ms > 0 => {
            said.push(format!(
                "It is due {}; then a worker claims it.",
                from_now(ms)
            ));
        }
        Some(ms) if pauses.is_empty() => said.push(format!(
            "It has been due for {}: the next worker with a free permit claims it. If it stays like this, is a worker running? \
             `sms-outbox doctor` looks.",
            span(ms)
        )),
        Some(_) | None => {}
    }
    if job.ambiguous_since.is_some() {
        said.push(
            "An earlier request of it was never answered and may have been accepted. It is repeated only while the \
             provider's duplicate guard surely stands, so that it cannot arrive twice; after that it becomes uncertain."
                .to_owned(),
        );
    }
    match text::ms_until(job.expires_at.as_deref(), now) {
        Some(ms) if ms > 0 => said.push(format!(
            "It is worthless {}: from then on it is not sent any more.",
            from_now(ms)
        )),
        Some(_) => said.push("expires_at has come: it is not sent any more.".to_owned()),
        None => {}
    }
    said.push(format!("`sms-outbox cancel {}` cancels it.", job.id));
    said
}

fn sending(job: &JobRow, now: DateTime<Utc>) -> Vec<String> {
    let worker = job.worker.as_deref().unwrap_or("a worker");
    match text::ms_until(job.lease_until.as_deref(), now) {
        Some(ms) if ms <= 0 => vec![format!(
            "{worker} claimed it, and its lease ran out {}. The next worker that looks recovers it as \"may have been \
             sent\". If it stays like this, no worker is running: `sms-outbox doctor` looks.",
            from_now(ms)
        )],
        Some(_) | None => vec![format!(
            "{worker} has claimed it, and its request may be on its way. The answer moves it on, or the end of the lease. It \
             cannot be cancelled any more."
        )],
    }
}

/// What a delivery means, and what can be done.
fn on_the_phone(delivery: Option<&str>) -> &'static str {
    match delivery.and_then(|delivery| delivery.parse().ok()) {
        None => {
            "This is final. Accepted is not yet delivered: there is no word about the phone yet."
        }
        Some(DeliveryStatus::Pending) => {
            "This is final. The provider still works on it: not every recipient is decided."
        }
        Some(DeliveryStatus::Delivered) => "Every recipient's phone has it.",
        Some(DeliveryStatus::Partly) => {
            "Some phones have it and some will not. Nothing is sent again by itself."
        }
        Some(DeliveryStatus::Undelivered) => {
            "No phone has it. Nothing is sent again by itself; enqueue a new message if it is still wanted."
        }
        Some(DeliveryStatus::Refused) => {
            "The provider did not send it after all, and says no reason; its panel may. Enqueue a new message if it is still wanted."
        }
        Some(DeliveryStatus::Cancelled) => {
            "Its order was cancelled at the provider before its moment: nobody gets it."
        }
        Some(DeliveryStatus::Unknown) => {
            "Nothing final was said about the phone in time. Late news still counts."
        }
    }
}

fn sent(job: &JobRow) -> Vec<String> {
    let mut said = Vec::new();
    match (job.duplicate, &job.order_id, job.duplicate_of) {
        (false, Some(order), _) => said.push(format!("The provider accepted it as order {order}.")),
        (false, None, _) => said.push(
            "The provider accepted it without naming an order; reconciliation looks for the number in its reports.".to_owned(),
        ),
        (true, _, Some(original)) => said.push(format!(
            "The provider refused it as a duplicate (451) of a message with the same sender, numbers and text a short while \
             before: job {original}. The recipient got that one."
        )),
        (true, Some(order), None) => said.push(format!(
            "The provider said that it had accepted the same a short while before (451), as order {order}."
        )),
        (true, None, None) => said.push(
            "The provider said that it had accepted the same a short while before (451): an earlier request of this job, or \
             a message that did not come from here. Reconciliation looks for the order in its reports."
                .to_owned(),
        ),
    }
    if let Some(rejected) = job.rejected_count {
        said.push(format!(
            "{} could not be read, or are refused by the provider, and got nothing (see rejected).",
            count(rejected, "number")
        ));
    }
    if job.iys {
        said.push(
            "It is marketing: the provider drops recipients without consent, and says so only in its reports.".to_owned(),
        );
    }
    said.push(on_the_phone(job.delivery.as_deref()).to_owned());
    said
}

fn failed(job: &JobRow, now: DateTime<Utc>) -> Vec<String> {
    let mut said = Vec::new();
    let class: Option<ErrorClass> = job
        .error_class
        .as_deref()
        .and_then(|class| class.parse().ok());
    match class {
        Some(class) => said.push(format!("It was given up. {}", remedy(class))),
        None => said.push("It was given up.".to_owned()),
    }
    let has_expired = text::ms_until(job.expires_at.as_deref(), now).is_some_and(|ms| ms <= 0);
    if has_expired {
        said.push("expires_at has come since, so it cannot be retried; enqueue a new message if it is still wanted.".to_owned());
    } else {
        said.push(format!(
            "Nothing moves it on by itself. When the cause is gone, `sms-outbox retry {}` puts it back into the queue.",
            job.id
        ));
    }
    said
}

/// What to do before a retry.
const fn remedy(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Auth => "Check key, hash, API switch and address list in the provider's panel.",
        ErrorClass::Balance => "Top up the account.",
        ErrorClass::Account => {
            "Check the account in the provider's panel, and ILETIMERKEZI_BASE_URL."
        }
        ErrorClass::Sender => {
            "The sender is the cause: a row keeps its sender, so enqueue the message anew under an approved one, or retry \
             when it has been approved."
        }
        ErrorClass::Recipients => {
            "None of its numbers could be sent to: a retry meets the same, so enqueue it anew with a better number."
        }
        ErrorClass::Content => {
            "Its text cannot be sent (empty, or more than seven parts): enqueue it anew with another one."
        }
        ErrorClass::Iys => {
            "Its iys flag or list does not fit the account: put that right in the panel, or enqueue it anew."
        }
        ErrorClass::Schedule => {
            "The provider cannot use its provider_send_at: enqueue it anew with a moment in the future."
        }
        ErrorClass::Request => {
            "The provider could not use the request as a whole; its message says more."
        }
        ErrorClass::RateLimited
        | ErrorClass::Unavailable
        | ErrorClass::Network
        | ErrorClass::Timeout => "Its attempts were used up before the provider could be reached.",
        ErrorClass::Unknown => {
            "The provider's answer is none that is known here, or a person gave it up."
        }
    }
}

fn uncertain(job: &JobRow, now: DateTime<Utc>) -> Vec<String> {
    let id = job.id;
    let has_expired = text::ms_until(job.expires_at.as_deref(), now).is_some_and(|ms| ms <= 0);
    let resend = if has_expired {
        "  It cannot be sent again: expires_at has come.".to_owned()
    } else {
        format!(
            "  sms-outbox resolve {id} --resend         send it again, at the risk that it arrives twice"
        )
    };
    vec![
        "A request of it may have been accepted, its answer was never learnt, and by now a repeat could arrive as a second \
         message. So nothing is done until reconciliation with the provider's reports or a person resolves it."
            .to_owned(),
        "Look for it in the provider's panel or reports (sender, number, time of the attempts below), and then:".to_owned(),
        format!("  sms-outbox resolve {id} --sent ORDER     it arrived (ORDER may be left out)"),
        resend,
        format!("  sms-outbox resolve {id} --fail           give it up"),
    ]
}

fn cancelled(job: &JobRow) -> Vec<String> {
    if job.ambiguous_since.is_some() {
        vec![
            "Someone cancelled it while it was queued, but an earlier request of it was never answered: it may have been \
             accepted all the same. This is final."
                .to_owned(),
        ]
    } else {
        vec![
            "Someone cancelled it while it was queued; it was never sent. This is final."
                .to_owned(),
        ]
    }
}
