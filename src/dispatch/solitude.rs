//! Company and solitude: jobs are sent side by side, except one that workers went down with. That one is sent while its
//! worker holds nothing else, so that if the worker goes down again, it is known who did it, and nobody else suffers.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Dispatch, Lane};
use crate::failpoints::{self, Point};

/// More than a worker can ever hold: with all of them in one hand, it holds nothing else.
const PLACES: u32 = 1 << 20;
/// How often it is asked whether there is a message to be sent alone.
const INTERVAL: Duration = Duration::from_secs(2);

/// The places that a worker's jobs take, from before their claim until they are on record.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PLACES as usize)))
    }
}

impl Places {
    /// Places for that many jobs. Waits while one is sent alone, or is waiting to be: first come, first served.
    pub(super) async fn take(&self, jobs: usize) -> Option<OwnedSemaphorePermit> {
        let jobs = u32::try_from(jobs).map_or(PLACES, |jobs| jobs.min(PLACES));
        // `None` if the semaphore were closed, which nobody does.
        Arc::clone(&self.0).acquire_many_owned(jobs).await.ok()
    }
}

impl Dispatch {
    /// Sends the messages that are to be sent alone, one after the other.
    pub(super) async fn claim_alone(self: Arc<Self>) {
        let accounts = self.accounts();
        loop {
            let pause = match self.outbox.suspects(&accounts).await {
                Ok(suspects) => {
                    self.outage.over();
                    for lane in &self.lanes {
                        if suspects.iter().any(|account| **account == *lane.account)
                            && self
                                .unless_stopping(self.send_one_alone(lane))
                                .await
                                .is_none()
                        {
                            return;
                        }
                    }
                    INTERVAL
                }
                Err(error) => self.outage.failed(&error),
            };
            if self
                .unless_stopping(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    async fn send_one_alone(self: &Arc<Self>, lane: &Arc<Lane>) {
        let Some(all) = self.places.take(PLACES as usize).await else {
            return;
        };
        let lease = self.settings.policy.lease;
        let claimed = self
            .outbox
            .claim_alone(
                &lane.account,
                lease,
                &self.settings.worker,
                self.slots(lane),
            )
            .await;
        match claimed {
            Ok(Some(claim)) => {
                failpoints::point(Point::AfterClaim);
                lane.metrics.claimed(1);
                tracing::warn!(
                    job.id = %claim.id, attempt = claim.attempt, account = %lane.account,
                    "sent alone, because workers went down with it in their hands: nothing else is sent here meanwhile"
                );
                let pace = if claim.bulk {
                    &lane.bulk_pace
                } else {
                    &lane.pace
                };
                self.carry(lane, claim, pace, all);
            }
            Ok(None) => {}
            Err(error) => {
                self.outage.failed(&error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_that_is_sent_alone_waits_for_all_others_and_they_for_it() {
        let places = Places::default();
        let (first, second) = (places.take(3).await, places.take(1).await);
        let mut alone = std::pin::pin!(places.take(PLACES as usize));
        assert!(alone.as_mut().now_or_never().is_none());
        drop(first);
        assert!(alone.as_mut().now_or_never().is_none(), "one is still here");
        let mut third = std::pin::pin!(places.take(1));
        assert!(
            third.as_mut().now_or_never().is_none(),
            "it is not overtaken"
        );
        drop(second);
        let alone = alone.now_or_never().expect("everyone has gone");
        assert!(third.as_mut().now_or_never().is_none());
        drop(alone);
        assert!(third.now_or_never().is_some());
    }
}
