//! Where the provider's webhooks are received, with which secrets, and where they go on to.

use std::{fmt, net::SocketAddr};

use clap::Args;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::{AccountArgs, Misconfigured, secret, variable_suffix};

/// What the secret of the account `default` is called; those of others are called the same with a suffix.
pub(super) const SECRET: &str = "SMS_OUTBOX_WEBHOOK_SECRET";
/// What the address is called that events go on to. It may hold a password, and so it has no flag.
pub(super) const FORWARD: &str = "SMS_OUTBOX_WEBHOOK_FORWARD";

/// 128 bits in base 64: whoever guesses a secret can tell us anything about any message.
const SHORTEST_SECRET: usize = 22;

/// Where webhooks are received.
#[derive(Args, Clone, Debug, Default)]
pub struct WebhookArgs {
    /// Where to receive the provider's webhooks over HTTP, as 127.0.0.1:8027, behind a proxy that speaks TLS. A worker receives
    /// none if it is not set. The accounts of SMS_OUTBOX_WEBHOOK_SECRET (_MARKETING …) are received
    #[arg(long, env = "SMS_OUTBOX_WEBHOOK_ADDRESS", value_name = "ADDRESS")]
    pub webhook_address: Option<SocketAddr>,
}

/// What is received.
#[derive(Clone)]
pub struct Webhooks {
    /// Where.
    pub address: SocketAddr,
    /// For which accounts; one at least.
    pub accounts: Vec<WebhookSecrets>,
    /// Accounts that have none, and so receive nothing.
    pub without: Vec<String>,
    /// Where each event goes on to.
    pub forward: Option<Url>,
}

/// The secrets of one account's address.
#[derive(Clone, Debug)]
pub struct WebhookSecrets {
    /// The account, as `sms_outbox.jobs.account` has it.
    pub account: String,
    /// One, or while it is being replaced two.
    pub secrets: Vec<SecretString>,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address of the forward may hold a password.
        f.debug_struct("Webhooks")
            .field("address", &self.address)
            .field("accounts", &self.accounts)
            .finish_non_exhaustive()
    }
}

impl WebhookArgs {
    /// Looks up secrets and forward, each [wherever it may stand](secret()). They have no flags: a command line is visible to
    /// every user of the machine. `None`: no address is given.
    ///
    /// # Errors
    /// When no account has a secret, when one could be guessed or does not fit into an address, and when the forward is none.
    pub fn webhooks(
        &self,
        accounts: &AccountArgs,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Webhooks>, Misconfigured> {
        let Some(address) = self.webhook_address else {
            return Ok(None);
        };
        accounts.check_names()?;
        let (mut found, mut without) = (Vec::new(), Vec::new());
        for account in accounts.names() {
            let name = format!("{SECRET}{}", variable_suffix(account));
            match secret(&name, &variable)? {
                Some(given) => found.push(WebhookSecrets {
                    account: account.to_owned(),
                    secrets: read_secrets(&name, &given)?,
                }),
                None => without.push(account.to_owned()),
            }
        }
        if found.is_empty() {
            return Err(Misconfigured(format!(
                "SMS_OUTBOX_WEBHOOK_ADDRESS is set, and no account of SMS_OUTBOX_ACCOUNTS has a secret: set {SECRET} (that of \
                 the account \"marketing\" is called {SECRET}_MARKETING), to what `openssl rand -hex 24` prints"
            )));
        }
        let forward = secret(FORWARD, &variable)?;
        Ok(Some(Webhooks {
            address,
            accounts: found,
            without,
            forward: forward.as_deref().map(read_forward).transpose()?,
        }))
    }
}

impl Webhooks {
    /// What is odd about them.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.without
            .iter()
            .map(|account| {
                format!(
                    "account {account:?} receives no webhooks: {SECRET}{} is not set",
                    variable_suffix(account)
                )
            })
            .collect()
    }
}

impl WebhookSecrets {
    /// The path that the provider is to call, with the first secret.
    #[must_use]
    pub fn path(&self) -> String {
        let secret = self
            .secrets
            .first()
            .map_or("", |secret| secret.expose_secret());
        let mut url = Url::parse("http://localhost").expect("it is one");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(["webhooks", &self.account, secret]);
        }
        url.path().to_owned()
    }
}

fn read_secrets(name: &str, given: &str) -> Result<Vec<SecretString>, Misconfigured> {
    let all: Vec<&str> = given
        .split(',')
        .map(str::trim)
        .filter(|secret| !secret.is_empty())
        .collect();
    if all.is_empty() || all.len() > 2 {
        return Err(Misconfigured(format!(
            "{name} is one secret, or two separated by a comma while the one replaces the other"
        )));
    }
    for secret in &all {
        if secret.len() < SHORTEST_SECRET {
            return Err(Misconfigured(format!(
                "{name} can be guessed: a secret has {SHORTEST_SECRET} characters or more, as `openssl rand -hex 24` prints them"
            )));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        if !secret.chars().all(fits) {
            return Err(Misconfigured(format!(
                "{name} stands in an address: only a to z, A to Z, 0 to 9 and - . _ ~ fit there, as `openssl rand -hex 24` prints them"
            )));
        }
    }
    Ok(all
        .into_iter()
        .map(|secret| SecretString::from(secret.to_owned()))
        .collect())
}

/// What cannot be read is not shown: it may hold a password.
fn read_forward(text: &str) -> Result<Url, Misconfigured> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
        .ok_or_else(|| {
            Misconfigured(format!(
                "{FORWARD} is no address: it starts with https:// (or http://) and names a host"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "0123456789abcdef0123456789abcdef";

    fn webhooks(accounts: &str, set: &[(&str, &str)]) -> Result<Option<Webhooks>, String> {
        let args = WebhookArgs {
            webhook_address: "127.0.0.1:8027".parse().ok(),
        };
        let accounts = AccountArgs {
            accounts: accounts.split(',').map(str::to_owned).collect(),
        };
        args.webhooks(&accounts, |name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn every_account_with_a_secret_is_received_and_the_others_are_named() {
        let found = webhooks(
            "default,my-brand,third",
            &[
                ("SMS_OUTBOX_WEBHOOK_SECRET", LONG),
                (
                    "SMS_OUTBOX_WEBHOOK_SECRET_MY_BRAND",
                    " new-secret-of-the-brand-1 , old-secret-of-the-brand-0",
                ),
            ],
        );
        let found = found.expect("usable").expect("an address");
        let secrets: Vec<usize> = found.accounts.iter().map(|one| one.secrets.len()).collect();
        assert_eq!(secrets, [1, 2]);
        let warnings = found.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("SMS_OUTBOX_WEBHOOK_SECRET_THIRD"),
            "{warnings:?}"
        );
        let path = found.accounts[1].path();
        assert_eq!(path, "/webhooks/my-brand/new-secret-of-the-brand-1");
        assert!(!format!("{found:?}").contains("secret-of"));
        let nowhere = WebhookArgs::default().webhooks(&AccountArgs::default(), |_| None);
        assert!(nowhere.expect("not used").is_none());
    }

    #[test]
    fn what_could_be_guessed_or_never_be_met_is_refused_without_being_shown() {
        for (value, part) in [
            ("hunter2hunter2", "can be guessed"),
            ("hunter2hunter2hunter2/hunter2hunter2", "address"),
            ("hunter2hunter2hunter2 hunter2hunter2", "address"),
            (",", "one secret"),
            (
                "hunter2hunter2hunter2-1,hunter2hunter2hunter2-2,hunter2hunter2hunter2-3",
                "one secret",
            ),
        ] {
            let said = webhooks("default", &[(SECRET, value)]).expect_err(value);
            assert!(said.contains(part) && said.contains(SECRET), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        let none = webhooks("default", &[]).expect_err("no secret");
        assert!(none.contains(SECRET), "{none}");
        for forward in [
            "example.org/hook",
            "ftp://u:hunter2@host/",
            "https://u:hunter2@",
        ] {
            let said = webhooks("default", &[(SECRET, LONG), (FORWARD, forward)]);
            let said = said.expect_err(forward);
            assert!(
                said.contains(FORWARD) && !said.contains("hunter2"),
                "{said}"
            );
        }
        let url = "https://u:hunter2@app.example/hook";
        let found = webhooks("default", &[(SECRET, LONG), (FORWARD, url)]).expect("usable");
        let found = found.expect("an address");
        assert!(found.forward.is_some());
        assert!(!format!("{found:?}").contains("hunter2"));
    }
}
