//! Messages of equal content are sent one after the other.
//!
//! Nobody knows whether the provider's duplicate guard is atomic, so two requests of equal content are never in flight at
//! once in one worker. And the second one's 451 can name its original only once the first one's order is recorded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::outbox::ContentKey;

type Queues = Arc<Mutex<HashMap<ContentKey, Arc<Semaphore>>>>;

/// Who is sending which content.
#[derive(Clone, Debug, Default)]
pub(super) struct ContentLocks(Queues);

/// The right to send one content. Held until the outcome is recorded.
#[derive(Debug)]
pub(super) struct ContentLock {
    content: ContentKey,
    queues: Queues,
    permit: Option<OwnedSemaphorePermit>,
}

impl ContentLocks {
    /// Waits until nobody else is sending this content.
    pub(super) async fn lock(&self, content: ContentKey) -> ContentLock {
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
        ContentLock {
            content,
            queues: Arc::clone(&self.0),
            permit,
        }
    }
}

impl Drop for ContentLock {
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
    async fn equal_content_is_sent_one_after_the_other_and_leaves_nothing_behind() {
        let locks = ContentLocks::default();
        let one = ContentKey::of("default", ["905321234567"], "hello");
        let other = ContentKey::of("default", ["905321234568"], "hello");
        let first = locks.lock(one).await;
        assert!(locks.lock(one).now_or_never().is_none(), "the second waits");
        assert!(
            locks.lock(other).now_or_never().is_some(),
            "another content does not"
        );
        drop(first);
        drop(locks.lock(one).await);
        assert!(locks.0.lock().unwrap().is_empty());
    }
}
