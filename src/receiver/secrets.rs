//! Whose address is called? Answered in the same time whatever is asked.

use std::sync::Arc;

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::config::WebhookSecrets;

/// Account and secret come to one hash, so that a wrong account is no other case than a wrong secret; and each hash that there is
/// is compared, so that nothing tells which of them fits.
pub(super) struct Secrets(Vec<(Arc<str>, [u8; 32])>);

impl Secrets {
    pub(super) fn new(accounts: &[WebhookSecrets]) -> Self {
        let known = accounts.iter().flat_map(|one| {
            let account: Arc<str> = one.account.as_str().into();
            one.secrets.iter().map(move |secret| {
                let hash = hash(&account, secret.expose_secret());
                (Arc::clone(&account), hash)
            })
        });
        Self(known.collect())
    }

    /// The account that this is a secret of.
    pub(super) fn account(&self, account: &str, secret: &str) -> Option<&Arc<str>> {
        let asked = hash(account, secret);
        let mut found = u32::MAX;
        for (place, (_, known)) in (0_u32..).zip(&self.0) {
            found.conditional_assign(&place, asked.ct_eq(known));
        }
        let (account, _) = self.0.get(usize::try_from(found).ok()?)?;
        Some(account)
    }
}

fn hash(account: &str, secret: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(account);
    hasher.update([0]);
    hasher.update(secret);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;

    #[test]
    fn a_secret_opens_the_address_of_its_account_and_no_other() {
        let of = |account: &str, secrets: &[&str]| WebhookSecrets {
            account: account.to_owned(),
            secrets: secrets.iter().map(|one| SecretString::from(*one)).collect(),
        };
        let secrets = Secrets::new(&[of("default", &["new", "old"]), of("shop", &["its own"])]);
        let found = |account: &str, secret: &str| secrets.account(account, secret).map(|a| &**a);
        assert_eq!(found("default", "new"), Some("default"));
        assert_eq!(found("default", "old"), Some("default"));
        assert_eq!(found("shop", "its own"), Some("shop"));
        for (account, secret) in [
            ("default", "its own"),
            ("shop", "new"),
            ("default", ""),
            ("default", "ol"),
            ("default", "new,old"),
            ("nobody", "new"),
            ("", ""),
        ] {
            assert_eq!(found(account, secret), None, "{account} {secret}");
        }
    }
}
