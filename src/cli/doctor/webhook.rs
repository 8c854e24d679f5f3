//! Whether webhooks would be received: the settings, and an event of our own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{StatusCode, Url, header::HeaderValue};

use super::Finding;
use crate::{
    config::{WebhookSecrets, WorkerArgs},
    outbox::chain,
    receiver::{Posted, Poster},
};

const CHECK: &str = "webhooks";

/// About no order, so that it changes nothing.
const EVENT: &str =
    r#"{"report":{"id":0,"packet_id":0,"status":"accepted","to":"+905000000000","body":""}}"#;

pub(super) async fn examine(config: &WorkerArgs) -> Vec<Finding> {
    let variable = |name: &str| std::env::var(name).ok();
    let accounts = &config.provider.accounts;
    let webhooks = match config.webhook.webhooks(accounts, variable) {
        Ok(Some(webhooks)) => webhooks,
        Ok(None) => {
            return vec![Finding::skipped(
                CHECK,
                "not tried, because SMS_OUTBOX_WEBHOOK_ADDRESS is not set",
            )];
        }
        Err(error) => {
            return vec![Finding::fault(
                CHECK,
                "they would not be received",
                error.to_string(),
            )];
        }
    };
    let mut findings: Vec<Finding> = webhooks
        .warnings()
        .into_iter()
        .map(|warning| {
            Finding::warning(
                CHECK,
                warning,
                "give it one, or leave it to another receiver",
            )
        })
        .collect();
    for one in &webhooks.accounts {
        findings.push(try_one(reachable(webhooks.address), one).await);
    }
    findings
}

/// Where this machine reaches what listens everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn try_one(address: SocketAddr, one: &WebhookSecrets) -> Finding {
    let url = format!("http://{address}{}", one.path());
    let poster = Url::parse(&url)
        .map_err(|error| error.to_string())
        .and_then(|url| Poster::new(&url).map_err(|error| chain(&error)));
    let posted = match poster {
        Ok(poster) => {
            let json = HeaderValue::from_static("application/json");
            poster.post(EVENT.into(), Some(json)).await
        }
        Err(why) => Posted::Failed(why),
    };
    let account = &one.account;
    match posted {
        Posted::Answered(StatusCode::OK) => Finding::ok(
            CHECK,
            format!("{address} takes an event of account {account}"),
        ),
        Posted::Answered(StatusCode::NOT_FOUND) => Finding::fault(
            CHECK,
            format!("{address} knows no such address of account {account}"),
            "what listens there has another secret or other accounts: restart it with the settings of now",
        ),
        Posted::Answered(StatusCode::SERVICE_UNAVAILABLE) => Finding::fault(
            CHECK,
            format!("{address} cannot write an event of account {account} down"),
            "its log, and its /readyz, say what keeps it from its database",
        ),
        Posted::Answered(status) => Finding::fault(
            CHECK,
            format!(
                "{address} answers an event of account {account} with {}",
                status.as_u16()
            ),
            "see whether another program listens there",
        ),
        Posted::Failed(why) => Finding::fault(
            CHECK,
            format!("{address} takes no event: {why}"),
            "start `sms-outbox receive`, or a worker with SMS_OUTBOX_WEBHOOK_ADDRESS, on this machine",
        ),
    }
}
