//! Questions to the provider's reports. One worker of the fleet asks them for an account, at one pace, whoever wants to know: lost
//! orders, events of webhooks, deliveries. Who asks first is answered first, so that none of them waits for another's hundred.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{AccountState, Dispatch};
use crate::{
    lifecycle::ErrorClass,
    metrics::{Question, QuestionResult},
    outbox::OutboxError,
    provider::{Credentials, ProbeError, Provider},
};

/// Reports that cannot be read are asked for at least so often.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why whoever asks has to stop.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// The database.
    Outbox(OutboxError),
    /// The provider does not answer, or does not answer this question.
    Provider(ProbeError),
    /// Another worker asks for this account.
    LeaseLost,
}

impl From<OutboxError> for Interrupted {
    fn from(error: OutboxError) -> Self {
        Self::Outbox(error)
    }
}

/// The pace of one account's questions.
#[derive(Debug)]
pub(super) struct Questions {
    lease: String,
    spacing: Duration,
    hold: Duration,
    pace: tokio::sync::Mutex<Pace>,
    unreadable: AtomicBool,
}

#[derive(Debug)]
struct Pace {
    next: Option<Instant>,
    /// The time between two questions: longer while the reports cannot be read.
    spacing: Duration,
}

impl Questions {
    /// `spacing`: the time between two of them. `request_timeout`: the longest that one may take.
    pub(super) fn new(account: &str, spacing: Duration, request_timeout: Duration) -> Self {
        Self {
            lease: format!("reports/{account}"),
            spacing,
            hold: spacing * 10 + request_timeout * 2,
            pace: tokio::sync::Mutex::new(Pace {
                next: None,
                spacing,
            }),
            unreadable: AtomicBool::new(false),
        }
    }

    /// The time between two questions, where nothing is wrong.
    pub(super) const fn spacing(&self) -> Duration {
        self.spacing
    }

    /// Only one worker reads an account's reports: the questions of a whole fleet would not be gentle.
    pub(super) async fn keep_lease(&self, dispatch: &Dispatch) -> Result<(), Interrupted> {
        let worker = &dispatch.settings.worker;
        let outbox = &dispatch.outbox;
        if outbox
            .take_maintenance_lease(&self.lease, worker, self.hold)
            .await?
        {
            Ok(())
        } else {
            Err(Interrupted::LeaseLost)
        }
    }

    /// Asks one question when it is its turn.
    pub(super) async fn ask<T>(
        &self,
        dispatch: &Dispatch,
        account: &AccountState,
        kind: Question,
        question: impl AsyncFnOnce(&Provider, &Credentials) -> Result<T, ProbeError>,
    ) -> Result<T, Interrupted> {
        self.keep_lease(dispatch).await?;
        {
            let mut pace = self.pace.lock().await;
            if let Some(next) = pace.next {
                tokio::time::sleep_until(next).await;
            }
            pace.next = Some(Instant::now() + pace.spacing);
        }
        let answer = question(&dispatch.provider, &account.credentials).await;
        self.learn(account, kind, answer.as_ref().err()).await;
        answer.map_err(Interrupted::Provider)
    }

    async fn learn(&self, account: &AccountState, kind: Question, error: Option<&ProbeError>) {
        let result = match error {
            None => QuestionResult::Answered,
            Some(error) if is_about_the_question(error) => QuestionResult::NotThere,
            Some(_) => QuestionResult::Failed,
        };
        account.metrics.question(kind, result);
        let mut pace = self.pace.lock().await;
        match error.filter(|error| !is_about_the_question(error)) {
            None => {
                // Half of the way back: the next refusal is met sooner than a wait is over.
                pace.spacing = (pace.spacing / 2).max(self.spacing);
                if self.unreadable.swap(false, Ordering::Relaxed) {
                    tracing::info!(account = %account.name, "the provider's reports can be read again");
                }
            }
            Some(error) => {
                let class = error.failure.class;
                pace.spacing = match class {
                    // Nothing but a person's work changes that.
                    ErrorClass::Auth | ErrorClass::Balance | ErrorClass::Account => LONGEST_PAUSE,
                    _ => (pace.spacing * 2).min(LONGEST_PAUSE),
                }
                .max(self.spacing);
                pace.next = Some(Instant::now() + pace.spacing);
                if !self.unreadable.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        account = %account.name, error.class = %class, error.code = error.failure.code,
                        reason = %error.failure.message, "the provider's reports cannot be read; they are asked for ever less often"
                    );
                }
            }
        }
    }
}

/// 455: no such order (yet). 456: its time has not come. 458, 464: the days or the page are not to its liking.
fn is_about_the_question(error: &ProbeError) -> bool {
    matches!(error.failure.code, Some(455 | 456 | 458 | 464))
}
