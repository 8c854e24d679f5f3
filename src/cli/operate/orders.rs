//! `sms-outbox cancel` of what the provider holds until its moment.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use anyhow::Context;

use super::{Answer, Left};
use crate::{
    cli::database::explained,
    config::{AccountSecrets, Misconfigured, ProviderArgs},
    delivery::DeliveryStatus,
    dispatch::{Recalled, recall},
    lifecycle::{OrderId, Status},
    outbox::{Outbox, Scheduled},
    provider::{Credentials, Provider, ProviderConfig},
};

/// Whether the provider has to be asked, or there is something to say about it. Of what was not named, what is decided already is
/// passed over.
pub(super) fn may_be_cancelled(job: &Scheduled, by_id: bool) -> bool {
    let known = job.delivery.as_deref().and_then(|text| text.parse().ok());
    match known {
        None | Some(DeliveryStatus::Pending | DeliveryStatus::Unknown) => true,
        Some(DeliveryStatus::Cancelled) => by_id,
        Some(
            DeliveryStatus::Delivered
            | DeliveryStatus::Partly
            | DeliveryStatus::Undelivered
            | DeliveryStatus::Refused,
        ) => false,
    }
}

/// Asks for one order after the other, with the credentials of its account from the environment.
pub(super) async fn cancel(
    outbox: &Outbox,
    args: &ProviderArgs,
    jobs: &[Scheduled],
    answer: &mut Answer,
) -> anyhow::Result<()> {
    let provider = Provider::new(ProviderConfig {
        base_url: args.base_url.clone(),
        request_timeout: args.request_timeout,
        connect_timeout: args.connect_timeout,
        reuse_connections: true,
        user_agent: concat!("sms-outbox/", env!("CARGO_PKG_VERSION")).to_owned(),
    })?;
    if let Some(exposed) = provider.exposed()
        && !args.allow_plaintext
    {
        return Err(Misconfigured(format!(
            "the orders that the provider holds were not cancelled: {exposed}"
        ))
        .into());
    }
    let mut credentials: HashMap<&str, Result<Credentials, Misconfigured>> = HashMap::new();
    let mut cancelled: HashSet<(&str, &str)> = HashSet::new();
    for job in jobs {
        // Duplicates share the order of their original.
        if cancelled.contains(&(job.account.as_str(), job.order_id.as_str())) {
            answer.cancelled_at_provider.push(job.id);
            continue;
        }
        let left = |why: Cow<'static, str>, fine| Left {
            id: job.id,
            status: Some(Status::Sent.as_str()),
            why,
            fine,
        };
        if job.delivery.as_deref() == Some(DeliveryStatus::Cancelled.as_str()) {
            let why = "the provider has cancelled its order already";
            answer.left.push(left(why.into(), true));
            continue;
        }
        let credentials = credentials.entry(&job.account).or_insert_with(|| {
            let secrets = AccountSecrets::of(&job.account, |name| std::env::var(name).ok())?;
            Ok(Credentials::new(secrets.key, secrets.hash))
        });
        let credentials = match credentials {
            Ok(credentials) => credentials,
            Err(missing) => {
                let why = format!("the provider holds its order, and cannot be asked: {missing}");
                answer.left.push(left(why.into(), false));
                continue;
            }
        };
        let Some(order) = OrderId::parse(&job.order_id) else {
            let why = "its order is none that the provider could know";
            answer.left.push(left(why.into(), false));
            continue;
        };
        let recalled = recall(outbox, &provider, credentials, &job.account, &order).await;
        let recalled = recalled.map_err(explained).with_context(|| {
            format!(
                "{}: what the provider answered could not be written down; its report (`sms-outbox show` has the order) tells",
                job.id
            )
        })?;
        let why = match recalled {
            Recalled::Cancelled => {
                cancelled.insert((&job.account, &job.order_id));
                answer.cancelled_at_provider.push(job.id);
                continue;
            }
            Recalled::TooLate => "too late: the provider is sending it, or has sent it".into(),
            Recalled::NotSent => {
                "the provider has refused its order after accepting it, or somebody else has cancelled it: it is not sent".into()
            }
            Recalled::Refused(failure) => {
                format!("the provider does not cancel it: {}", failure.message).into()
            }
            Recalled::Unknown(why) => format!(
                "whether it is cancelled is not known. {why}. Nothing was written; try again, or look into the provider's panel"
            )
            .into(),
        };
        answer.left.push(left(why, false));
    }
    Ok(())
}
