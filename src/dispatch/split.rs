//! A list that was refused because of numbers in it: which of them, and what is sent on.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{AccountState, Dispatch, parse::ParsedJob};
use crate::{
    lifecycle::{Failure, Outcome},
    message::Recipient,
    outbox::{Claim, chain},
    provider::Provider,
    splitting::{Consequence, Cut, GIVEN_UP, is_about_numbers, refused},
};

/// How long a block list is believed. A number that is added meanwhile is found by halving.
const BELIEVED: Duration = Duration::from_secs(300);
/// The most pages of it that are read. What is beyond them is found by halving, too.
const PAGES: u32 = 50;
/// The longest that reading it may take of a claim's lease.
const PATIENCE: Duration = Duration::from_secs(10);

/// An account's block list, as it was at a moment.
pub(super) type BlockList = Option<(Instant, Arc<HashSet<Recipient>>)>;

impl Dispatch {
    /// What becomes of a job instead of `outcome`, where that is a refusal because of numbers, and how its list goes on.
    pub(super) async fn without_refused_numbers(
        &self,
        account: &AccountState,
        claim: &Claim,
        parsed: &ParsedJob,
        outcome: Outcome,
    ) -> (Outcome, Option<Cut>) {
        let failure = match outcome {
            Outcome::Failed(failure) if is_about_numbers(&failure) => failure,
            other => return (other, None),
        };
        let family = match self.outbox.family(claim.id).await {
            Ok(family) => family,
            Err(error) => {
                tracing::warn!(job.id = %claim.id, error = %chain(&error), "a refused list cannot be cut now; retry follows");
                let released = Outcome::Release {
                    delay: self.outage.failed(&error),
                    failure: Some(failure),
                };
                return (released, None);
            }
        };
        let is_list = parsed.recipients.len() > 1;
        let is_indeterminate = claim.indeterminate_age.is_some();
        let blocked = if is_list && !is_indeterminate {
            self.block_list(account, claim).await
        } else {
            Arc::default()
        };
        match refused(&parsed.recipients, is_indeterminate, &blocked, family) {
            Consequence::Fails => (Outcome::Failed(failure), None),
            Consequence::MayHaveBeenSent => (Outcome::Uncertain(failure), None),
            Consequence::Cut(cut) => {
                let failure = if cut.gives_up && is_list {
                    Failure {
                        message: GIVEN_UP.to_owned(),
                        ..failure
                    }
                } else {
                    failure
                };
                (Outcome::Failed(failure), Some(cut))
            }
        }
    }

    /// What is known of the account's block list; nothing, if it cannot be read in time.
    async fn block_list(&self, account: &AccountState, claim: &Claim) -> Arc<HashSet<Recipient>> {
        let lease = self.settings.policy.lease;
        let patience = PATIENCE.min(lease.saturating_sub(claim.asked.elapsed()) / 2);
        let read = async {
            // One reads, and the others wait for what it has read.
            let mut known = account.block_list.lock().await;
            if let Some((at, numbers)) = &*known
                && at.elapsed() < BELIEVED
            {
                return Arc::clone(numbers);
            }
            let numbers = Arc::new(self.read_block_list(account).await);
            *known = Some((Instant::now(), Arc::clone(&numbers)));
            numbers
        };
        let read = self.unless_stopping(tokio::time::timeout(patience, read));
        read.await.and_then(Result::ok).unwrap_or_default()
    }

    async fn read_block_list(&self, account: &AccountState) -> HashSet<Recipient> {
        let mut numbers = HashSet::new();
        let mut entries = 0;
        for page in 1..=PAGES {
            let read = match self.provider.block_list(&account.credentials, page).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::debug!(account = %account.name, reason = %error, "the block list cannot be read");
                    break;
                }
            };
            entries += read.entries as u64;
            let before = numbers.len();
            numbers.extend(read.numbers);
            let nothing_new = numbers.len() == before;
            if nothing_new
                || read.entries < Provider::NUMBERS_A_PAGE
                || read.count.is_some_and(|all| entries >= all)
            {
                break;
            }
        }
        numbers
    }
}
