//! Takes back an order that the provider holds until its moment, and writes down what is known to have come of it: never that
//! it is cancelled because nobody answers.

use crate::{
    delivery::{Delivery, Fact, Numbers, Source},
    lifecycle::{Failure, OrderId},
    outbox::{Outbox, OutboxError},
    provider::{Cancelling, Credentials, Provider},
};

/// There is no such order, or it is too late to cancel it: the provider has one code for both.
const NO_SUCH_ORDER: i32 = 455;
/// It is being sent; every message of it is final.
const UNDER_WAY: [i64; 2] = [113, 114];
/// It was not sent, because the provider refused it or somebody cancelled it.
const NOT_SENT: i64 = 115;

/// What came of taking an order back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// The provider has cancelled it, and its delivery says so.
    Cancelled,
    /// It is being sent, or has been.
    TooLate,
    /// The provider has not sent it and will not, and not because we asked: its delivery is `refused`.
    NotSent,
    /// It is not cancelled, for this reason.
    Refused(Failure),
    /// Whether it is cancelled is not known, and nothing was written: what was tried, in a sentence.
    Unknown(String),
}

/// Asks the provider to cancel an order of this account, and writes what it says.
///
/// # Errors
/// When the database cannot be reached or refuses. What the provider did is not undone by that.
pub async fn recall(
    outbox: &Outbox,
    provider: &Provider,
    credentials: &Credentials,
    account: &str,
    order: &OrderId,
) -> Result<Recalled, OutboxError> {
    let recalled = ask(provider, credentials, order).await;
    match recalled {
        Recalled::Cancelled => note(outbox, account, order, Fact::Cancelled).await?,
        Recalled::NotSent => note(outbox, account, order, Fact::Refused(Source::Report)).await?,
        Recalled::TooLate | Recalled::Refused(_) | Recalled::Unknown(_) => {}
    }
    Ok(recalled)
}

async fn ask(provider: &Provider, credentials: &Credentials, order: &OrderId) -> Recalled {
    // Whether a request of ours may have been carried out without our knowing.
    let mut lost = false;
    // Once more after silence: the second answer tells what the first one would have.
    for is_last in [false, true] {
        match provider.cancel(credentials, order).await {
            Cancelling::Done => return Recalled::Cancelled,
            Cancelling::Refused(failure) if failure.code == Some(NO_SUCH_ORDER) => break,
            Cancelling::Refused(failure) if !lost => return Recalled::Refused(failure),
            Cancelling::NotAsked(failure) if is_last && !lost => return Recalled::Refused(failure),
            Cancelling::Refused(_) | Cancelling::NotAsked(_) => {}
            Cancelling::Unanswered(_) => lost = true,
        }
    }
    let tried = if lost {
        "The provider did not answer the request to cancel it"
    } else {
        "The provider will not cancel it (455)"
    };
    let report = provider.report(credentials, order, 1).await;
    match report.map(|page| page.status) {
        Ok(Some(NOT_SENT)) if lost => Recalled::Cancelled,
        Ok(Some(NOT_SENT)) => Recalled::NotSent,
        Ok(Some(status)) if UNDER_WAY.contains(&status) => Recalled::TooLate,
        Ok(_) => Recalled::Unknown(format!("{tried}, and its report says nothing of it")),
        Err(error) => Recalled::Unknown(format!(
            "{tried}, and to the question what became of it: {}",
            error.failure.message
        )),
    }
}

/// Adds a fact to the deliveries of every job of an order. Whoever loses a race against another writer reads again.
async fn note(
    outbox: &Outbox,
    account: &str,
    order: &OrderId,
    fact: Fact,
) -> Result<(), OutboxError> {
    loop {
        let jobs = outbox.deliveries_of(account, &[order.as_str()]).await?;
        let new = jobs.iter().filter(|job| job.delivery.is_none());
        let new: Vec<_> = new.map(|job| job.id).collect();
        let numbers = outbox.numbers_with_places(&new).await?;
        let learnt: Vec<_> = jobs
            .iter()
            .filter_map(|job| {
                let numbers = numbers.get(&job.id);
                let delivery = numbers.map_or_else(Delivery::single, Numbers::delivery);
                job.learn(delivery, [fact], None)
            })
            .collect();
        if outbox.write_deliveries(account, &learnt).await?.len() == learnt.len() {
            return Ok(());
        }
    }
}
