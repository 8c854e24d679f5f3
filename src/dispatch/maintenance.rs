//! Maintenance, about once a second in every worker: abandoned claims are recovered, messages expire, indeterminate jobs
//! become uncertain, pauses end. Several workers may do all of it at once without harm.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    AccountState, Dispatch,
    cursor::{FullSweep, LeaseCursor},
    health::ROUNDS,
    jitter,
    recorder::count,
};
use crate::{
    failpoints::{self, Point},
    lifecycle::{JobState, Outcome, PauseScope},
    message::RecipientList,
    outbox::{Abandoned, ContentKey, DueProbe, Observer, OutboxError, Record, Recorded, chain},
    provider::ProbeError,
};

const INTERVAL: Duration = Duration::from_secs(1);
/// How many jobs one statement may move, so that none holds its locks for long; and how many such statements follow each other
/// in one round.
const BATCH: usize = 500;
const BATCHES: usize = 40;
/// How far into the queue is looked for jobs to hold, and so many at once are released.
const HELD_BATCH: usize = 2_000;
/// What no pause holds any more may stay held for so long, if looking for it does not take longer.
const HELD_TOO_LONG: Duration = Duration::from_secs(2);

pub(super) async fn run(dispatch: Arc<Dispatch>) {
    let mut leases = LeaseCursor::new();
    let mut held = FullSweep::new(HELD_TOO_LONG);
    let pulse = dispatch.outage.pulse(ROUNDS);
    loop {
        // Not in a database that has forgotten what was sent: there everything waits for a person.
        match dispatch.outbox.verify_identity().await {
            Ok(()) => {
                dispatch.outage.confirmed();
                round(&dispatch, &mut leases, &mut held).await;
            }
            Err(error) => drop(dispatch.outage.failed(&error)),
        }
        pulse.succeeded();
        for account in &dispatch.accounts {
            account.concurrency.relax();
        }
        let pause = INTERVAL.mul_f64(0.75 + jitter() / 2.0);
        if dispatch
            .unless_stopping(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// Each part by itself: what goes wrong in one must not keep the others from being done.
async fn round(dispatch: &Dispatch, leases: &mut LeaseCursor, held: &mut FullSweep) {
    let policy = &dispatch.settings.policy;
    let guarded = policy.guard_window.saturating_sub(policy.request_timeout);
    failpoints::point(Point::DuringMaintenance);
    let mut errors = Vec::new();
    match dispatch.outbox.due_maintenance(guarded).await {
        Ok(due) => {
            if due.expiry {
                errors.extend(expire(dispatch).await.err());
            }
            if due.stale {
                errors.extend(stale_to_uncertain(dispatch, guarded).await.err());
            }
            if due.orphans {
                errors.extend(find_originals(dispatch).await.err());
            }
            if due.pauses {
                errors.extend(end_elapsed_pauses(dispatch).await.err());
                errors.extend(hold(dispatch).await.err());
            }
            if due.held {
                errors.extend(release(dispatch, held).await.err());
            }
        }
        Err(error) => errors.push(error),
    }
    errors.extend(rescue(dispatch, leases).await.err());
    let well = errors.is_empty();
    for error in errors {
        if error.blames_the_row() {
            tracing::error!(error = %chain(&error), "maintenance failed in part");
        } else {
            dispatch.outage.failed(&error);
        }
    }
    if well {
        dispatch.outage.over();
    }
}

async fn expire(dispatch: &Dispatch) -> Result<(), OutboxError> {
    for _ in 0..BATCHES {
        let expired = dispatch.outbox.expire(BATCH).await?;
        for (job, status) in &expired {
            dispatch.settings.metrics.overdue(status);
            tracing::info!(job.id = %job, status, "expired before it was claimed");
        }
        if expired.len() < BATCH {
            break;
        }
    }
    Ok(())
}

async fn stale_to_uncertain(dispatch: &Dispatch, guarded: Duration) -> Result<(), OutboxError> {
    for _ in 0..BATCHES {
        let uncertain = dispatch.outbox.stale_to_uncertain(guarded, BATCH).await?;
        for job in &uncertain {
            dispatch.settings.metrics.guard_elapsed();
            tracing::error!(
                job.id = %job,
                "uncertain: a request got no answer, and it is too late to repeat it safely"
            );
        }
        if uncertain.len() < BATCH {
            break;
        }
    }
    Ok(())
}

async fn find_originals(dispatch: &Dispatch) -> Result<(), OutboxError> {
    for (job, original) in dispatch.outbox.find_originals(BATCH).await? {
        tracing::info!(job.id = %job, duplicate_of = %original, "the original of this duplicate was found");
    }
    Ok(())
}

async fn end_elapsed_pauses(dispatch: &Dispatch) -> Result<(), OutboxError> {
    for (account, scope, sender) in dispatch.outbox.end_elapsed_pauses().await? {
        dispatch.settings.metrics.pause_ended(&account, &scope);
        tracing::info!(
            account,
            scope,
            sender,
            "resumed: the pause's time has passed"
        );
    }
    Ok(())
}

/// Marks the jobs behind live pauses as held.
async fn hold(dispatch: &Dispatch) -> Result<(), OutboxError> {
    for _ in 0..BATCHES {
        if dispatch.outbox.hold(HELD_BATCH).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Releases the jobs that no live pause holds: whatever became of the pause, and whoever held a row when it ended.
async fn release(dispatch: &Dispatch, sweep: &mut FullSweep) -> Result<(), OutboxError> {
    let began = Instant::now();
    if !sweep.is_due(began) {
        return Ok(());
    }
    for _ in 0..BATCHES {
        if dispatch.outbox.release_held(HELD_BATCH).await? == 0 {
            break;
        }
    }
    sweep.took(began, Instant::now());
    Ok(())
}

/// Asks the provider about an account's pauses, when it is time to. In a task of its own for each account: a
/// provider that does not answer must hold up nothing else.
pub(super) async fn probe(dispatch: Arc<Dispatch>, account: Arc<AccountState>) {
    let accounts = [account.name.to_string()];
    loop {
        if let Some(Err(error)) = dispatch
            .unless_stopping(dispatch.probe_outage(&account))
            .await
        {
            dispatch.outage.failed(&error);
        }
        let pause = match dispatch
            .outbox
            .due_probe(&accounts, dispatch.settings.probing)
            .await
        {
            Ok(Some(probe)) => {
                if dispatch
                    .unless_stopping(ask(&dispatch, &account, &probe))
                    .await
                    .is_none()
                {
                    return;
                }
                continue;
            }
            // No probe comes sooner than the first one after a pause began.
            Ok(None) => {
                let soonest = dispatch.settings.probing.first;
                let pause = soonest.clamp(Duration::from_millis(100), INTERVAL);
                pause.mul_f64(0.75 + jitter() / 4.0)
            }
            Err(error) => dispatch.outage.failed(&error),
        };
        if dispatch
            .unless_stopping(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// Recovers claims whose lease has run out: their requests may have been accepted.
async fn rescue(dispatch: &Dispatch, leases: &mut LeaseCursor) -> Result<(), OutboxError> {
    for _ in 0..BATCHES {
        let began = Instant::now();
        let reach = leases.reach(began);
        let (abandoned, more) = dispatch.outbox.abandoned(reach, BATCH).await?;
        let ended = Instant::now();
        let records: Vec<Record> = abandoned
            .iter()
            .map(|claim| take_over(dispatch, claim))
            .collect();
        if !records.is_empty() {
            failpoints::point(Point::DuringRescue);
        }
        let outcomes = match dispatch.outbox.record(&records).await {
            Ok(outcomes) => outcomes,
            // One of them cannot be recorded; it must not keep the others waiting.
            Err(error) if error.blames_the_row() => one_by_one(dispatch, &records).await,
            Err(error) => return Err(error),
        };
        if !records.is_empty() {
            failpoints::point(Point::AfterRescue);
        }
        for ((claim, record), outcome) in abandoned.iter().zip(&records).zip(outcomes) {
            let metrics = &dispatch.settings.metrics;
            count(metrics, record, &outcome);
            if !matches!(outcome, Recorded::Settled { .. }) {
                continue;
            }
            metrics.rescued_claims.inc();
            let since_claim_ms = u64::try_from(claim.since_claim.as_millis()).unwrap_or(u64::MAX);
            let uncertain = matches!(record.outcome, Outcome::Uncertain(_));
            tracing::warn!(
                job.id = %claim.id, attempt = claim.attempt, account = %claim.account, worker = %claim.worker,
                since_claim_ms, uncertain, "recovered: the lease of its worker ran out, and it may have been sent"
            );
        }
        if !more {
            leases.looked(reach, began, ended);
            break;
        }
    }
    Ok(())
}

async fn one_by_one(dispatch: &Dispatch, records: &[Record]) -> Vec<Recorded> {
    let mut outcomes = Vec::with_capacity(records.len());
    for record in records {
        match dispatch.outbox.record(std::slice::from_ref(record)).await {
            Ok(mut outcome) => outcomes.push(outcome.pop().unwrap_or(Recorded::Nothing)),
            Err(error) => {
                tracing::error!(job.id = %record.job, error = %chain(&error), "an abandoned job cannot be recovered");
                outcomes.push(Recorded::Nothing);
            }
        }
    }
    outcomes
}

fn take_over(dispatch: &Dispatch, claim: &Abandoned) -> Record {
    let texts = claim
        .recipients
        .iter()
        .map(|text| text.as_deref().unwrap_or(""));
    let list = RecipientList::read(texts, dispatch.settings.foreign);
    let numbers = list.accepted.iter().map(|number| number.as_str());
    let job_state = JobState {
        job: claim.id,
        attempt: u32::try_from(claim.attempt).unwrap_or(0),
        max_attempts: u32::try_from(claim.max_attempts).unwrap_or(0),
        due_for: claim.since_claim,
        blame: None,
        since_claim: claim.since_claim,
        indeterminate_age: claim.indeterminate_age,
        expires_in: claim.expires_in,
    };
    Record {
        job: claim.id,
        token: claim.token,
        attempt: claim.attempt,
        worker: claim.worker.as_str().into(),
        claimed: claim.read.before(claim.since_claim),
        outcome: dispatch.settings.policy.rescue(&job_state),
        evidence: None,
        rejected: Vec::new(),
        content: ContentKey::of(&claim.account, numbers, &claim.body),
        observer: Observer::Rescue,
        cut: None,
    }
}

/// Asks the provider, without sending anything, whether the failure behind a pause is over.
async fn ask(dispatch: &Dispatch, account: &AccountState, probe: &DueProbe) {
    let answer: Result<bool, ProbeError> = match probe.scope {
        // A missing brand code (470) shows in no call but an order. A healthy account is the best sign there is, and one
        // message is sent first.
        PauseScope::Account | PauseScope::Iys => dispatch
            .provider
            .balance(&account.credentials)
            .await
            .map(|_| true),
        PauseScope::Sender => dispatch
            .provider
            .senders(&account.credentials)
            .await
            .map(|approved| approved.contains(&probe.sender)),
    };
    let (name, scope, sender) = (&probe.account, probe.scope.as_str(), &probe.sender);
    match answer {
        Ok(true) => {
            failpoints::point(Point::DuringProbe);
            account.concurrency.slow_down();
            match dispatch
                .outbox
                .end_probed_pause(name, probe.scope, sender, &dispatch.settings.worker)
                .await
            {
                Ok(Some(lasted)) => {
                    dispatch.settings.metrics.pause_ended(name, scope);
                    let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(
                        account = name,
                        scope,
                        sender,
                        lasted_ms,
                        "resumed: the provider is healthy again"
                    );
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(account = name, scope, sender, error = %chain(&error), "a pause could not be ended");
                }
            }
        }
        Ok(false) => tracing::debug!(
            account = name,
            scope,
            sender,
            "still paused: the sender is not approved"
        ),
        Err(error) => {
            tracing::debug!(account = name, scope, sender, error = %chain(&error), "still paused: the probe failed");
        }
    }
}
