//! What time does to jobs, looked after about once a second by every worker: abandoned claims are taken over, messages
//! expire, doubts grow too old, pauses end. All of it may be done by several workers at once without harm.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Dispatch, Lane, chain, chance, floors::LeaseTrail, recorder::count};
use crate::{
    failpoints::{self, Point},
    lifecycle::{PauseScope, Settlement, Situation},
    message::RecipientList,
    outbox::{Abandoned, Content, DueProbe, Observer, OutboxError, Record, Recorded},
    provider::ProbeError,
};

const INTERVAL: Duration = Duration::from_secs(1);
/// How many jobs one statement may move, so that none holds its locks for long; and how many such statements follow each other
/// in one round.
const BATCH: usize = 500;
const BATCHES: usize = 40;

pub(super) async fn run(dispatch: Arc<Dispatch>) {
    let mut leases = LeaseTrail::new();
    loop {
        // Not in a database that has forgotten what was sent: there everything waits for a person.
        match dispatch
            .outbox
            .keep_to_installation(&dispatch.settings.worker)
            .await
        {
            Ok(()) => {
                dispatch.outage.confirmed();
                round(&dispatch, &mut leases).await;
            }
            Err(error) => drop(dispatch.outage.failed(&error)),
        }
        for lane in &dispatch.lanes {
            lane.pace.relax();
        }
        let pause = INTERVAL.mul_f64(0.75 + chance() / 2.0);
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
async fn round(dispatch: &Dispatch, leases: &mut LeaseTrail) {
    let policy = &dispatch.settings.policy;
    let guarded = policy.guard_window.saturating_sub(policy.request_timeout);
    failpoints::point(Point::DuringUpkeep);
    let mut errors = Vec::new();
    match dispatch.outbox.due_upkeep(guarded).await {
        Ok(due) => {
            if due.expiry {
                errors.extend(expire(dispatch).await.err());
            }
            if due.stale_doubts {
                errors.extend(set_stale_doubts_aside(dispatch, guarded).await.err());
            }
            if due.orphans {
                errors.extend(find_twins(dispatch).await.err());
            }
            if due.pauses {
                errors.extend(end_elapsed_pauses(dispatch).await.err());
                errors.extend(clear_the_way(dispatch).await.err());
            }
        }
        Err(error) => errors.push(error),
    }
    errors.extend(rescue(dispatch, leases).await.err());
    let well = errors.is_empty();
    for error in errors {
        if error.blames_the_row() {
            tracing::error!(error = %chain(&error), "a part of the upkeep cannot be done");
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
            tracing::info!(job.id = %job, status, "expired while it waited");
        }
        if expired.len() < BATCH {
            break;
        }
    }
    Ok(())
}

async fn set_stale_doubts_aside(dispatch: &Dispatch, guarded: Duration) -> Result<(), OutboxError> {
    for _ in 0..BATCHES {
        let aside = dispatch
            .outbox
            .set_stale_doubts_aside(guarded, BATCH)
            .await?;
        for job in &aside {
            dispatch.settings.metrics.doubt_too_old();
            tracing::error!(
                job.id = %job,
                "uncertain: a request was never answered, and it waited too long to be repeated safely"
            );
        }
        if aside.len() < BATCH {
            break;
        }
    }
    Ok(())
}

async fn find_twins(dispatch: &Dispatch) -> Result<(), OutboxError> {
    for (job, twin) in dispatch.outbox.find_twins(BATCH).await? {
        tracing::info!(job.id = %job, duplicate_of = %twin, "its twin has been found");
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

/// Keeps what a pause holds back out of the claims' way, and puts it back when the pause is over.
async fn clear_the_way(dispatch: &Dispatch) -> Result<(), OutboxError> {
    for _ in 0..BATCHES {
        if dispatch.outbox.park(10 * BATCH).await? == 0 {
            break;
        }
    }
    for _ in 0..BATCHES {
        if dispatch.outbox.unpark(10 * BATCH).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Asks the provider about an account's pauses, when it is time to. Apart from the rest, and from other accounts: a provider
/// that does not answer must hold up nothing else.
pub(super) async fn probe(dispatch: Arc<Dispatch>, lane: Arc<Lane>) {
    let account = [lane.account.to_string()];
    loop {
        let pause = match dispatch
            .outbox
            .due_probe(&account, dispatch.settings.probing)
            .await
        {
            Ok(Some(probe)) => {
                if dispatch
                    .unless_stopping(ask(&dispatch, &lane, &probe))
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
                pause.mul_f64(0.75 + chance() / 4.0)
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

/// Takes over claims whose lease has run out: their requests may have been accepted.
async fn rescue(dispatch: &Dispatch, leases: &mut LeaseTrail) -> Result<(), OutboxError> {
    for _ in 0..BATCHES {
        let began = Instant::now();
        let reach = leases.reach(began);
        let abandoned = dispatch.outbox.abandoned(reach, BATCH).await?;
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
            let uncertain = matches!(record.settlement, Settlement::Uncertain(_));
            tracing::warn!(
                job.id = %claim.id, attempt = claim.attempt, account = %claim.account, worker = %claim.worker,
                since_claim_ms, uncertain, "taken over: its worker never reported back, and it may have been sent"
            );
        }
        if abandoned.len() < BATCH {
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
                tracing::error!(job.id = %record.job, error = %chain(&error), "an abandoned job cannot be taken over");
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
    let situation = Situation {
        job: claim.id,
        attempt: u32::try_from(claim.attempt).unwrap_or(0),
        max_attempts: u32::try_from(claim.max_attempts).unwrap_or(0),
        given_back: u32::try_from(claim.token - i32::from(claim.attempt)).unwrap_or(0),
        since_claim: claim.since_claim,
        doubt_age: claim.doubt_age,
        expires_in: claim.expires_in,
    };
    Record {
        job: claim.id,
        token: claim.token,
        attempt: claim.attempt,
        worker: claim.worker.clone(),
        claimed: claim
            .read
            .checked_sub(claim.since_claim)
            .unwrap_or(claim.read),
        settlement: dispatch.settings.policy.rescue(&situation),
        evidence: None,
        rejected: Vec::new(),
        content: Content::of(&claim.account, numbers, &claim.body),
        observer: Observer::Rescue,
    }
}

/// Asks the provider, without sending anything, whether the trouble behind a pause is over.
async fn ask(dispatch: &Dispatch, lane: &Lane, probe: &DueProbe) {
    let answer: Result<bool, ProbeError> = match probe.scope {
        // A brand code that is missing (470) shows in no harmless call; an account in order is the best sign there is, and
        // one message goes ahead alone.
        PauseScope::Account | PauseScope::Iys => dispatch
            .provider
            .balance(&lane.credentials)
            .await
            .map(|_| true),
        PauseScope::Sender => dispatch
            .provider
            .senders(&lane.credentials)
            .await
            .map(|approved| approved.contains(&probe.sender)),
    };
    let (account, scope, sender) = (&probe.account, probe.scope.as_str(), &probe.sender);
    match answer {
        Ok(true) => {
            failpoints::point(Point::DuringProbe);
            lane.pace.slow_down();
            match dispatch
                .outbox
                .end_probed_pause(account, probe.scope, sender, &dispatch.settings.worker)
                .await
            {
                Ok(Some(lasted)) => {
                    dispatch.settings.metrics.pause_ended(account, scope);
                    let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(
                        account,
                        scope,
                        sender,
                        lasted_ms,
                        "resumed: the provider answers in order"
                    );
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(account, scope, sender, error = %chain(&error), "a pause could not be ended");
                }
            }
        }
        Ok(false) => tracing::debug!(
            account,
            scope,
            sender,
            "still paused: the sender is not approved"
        ),
        Err(error) => {
            tracing::debug!(account, scope, sender, error = %chain(&error), "still paused: the probe failed");
        }
    }
}
