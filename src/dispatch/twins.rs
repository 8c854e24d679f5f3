//! Messages of equal content take turns.
//!
//! Nobody knows whether the provider's duplicate guard is atomic, so two requests of equal content are never under way at
//! once in one worker. And the second one's 451 can name its twin only once the first one's order is on record.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::outbox::Content;

type Queues = Arc<Mutex<HashMap<Content, Arc<Semaphore>>>>;

/// Who is sending which content.
#[derive(Clone, Debug, Default)]
pub(super) struct Twins(Queues);

/// The right to send one content. Held until the outcome is recorded.
#[derive(Debug)]
pub(super) struct Turn {
    content: Content,
    queues: Queues,
    permit: Option<OwnedSemaphorePermit>,
}

impl Twins {
    /// Waits until nobody else is sending this content.
    pub(super) async fn turn(&self, content: Content) -> Turn {
        let queue = {
            let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(
                queues
                    .entry(content)
                    .or_insert_with(|| Arc::new(Semaphore::new(1))),
            )
        };
        // `None` if the semaphore were closed, which nobody does.
        let permit = queue.acquire_owned().await.ok();
        Turn {
            content,
            queues: Arc::clone(&self.0),
            permit,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock nobody can join in, so one remaining owner means that nobody waits.
        drop(self.permit.take());
        if queues
            .get(&self.content)
            .is_some_and(|queue| Arc::strong_count(queue) == 1)
        {
            queues.remove(&self.content);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn equal_content_takes_turns_and_leaves_nothing_behind() {
        let twins = Twins::default();
        let one = Content::of("default", ["905321234567"], "hello");
        let other = Content::of("default", ["905321234568"], "hello");
        let first = twins.turn(one).await;
        assert!(twins.turn(one).now_or_never().is_none(), "the second waits");
        assert!(
            twins.turn(other).now_or_never().is_some(),
            "another content does not"
        );
        drop(first);
        drop(twins.turn(one).await);
        assert!(twins.0.lock().unwrap().is_empty());
    }
}
