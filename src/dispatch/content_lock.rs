//! Messages of equal content are sent one after the other.
//!
//! Nobody knows whether the provider's duplicate guard is atomic, so two requests of equal content are never in flight at
//! once in one worker. And the second one's 451 can name its original only once the first one's order is recorded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::outbox::ContentKey;

type Locks = Arc<Mutex<HashMap<ContentKey, Held>>>;

/// Who is sending which content.
#[derive(Clone, Debug, Default)]
pub(super) struct ContentLocks(Locks);

/// One content that is being sent, or was a moment ago.
#[derive(Clone, Copy, Debug)]
struct Held {
    is_sending: bool,
    since: Instant,
    /// How long the last one took from lock to record.
    took: Duration,
    /// When the last of those that were turned away is to come back.
    last_turn: Instant,
}

/// The right to send one content. Held until the outcome is recorded.
#[derive(Debug)]
pub(super) struct ContentLock {
    content: ContentKey,
    locks: Locks,
}

/// When one that was turned away may have its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentTurn(Duration);

impl ContentTurn {
    /// In so long.
    pub(super) const fn comes_in(self) -> Duration {
        self.0
    }
}

/// The longest that one message of equal content is put off behind the others.
const LONGEST_TURN: Duration = Duration::from_secs(600);
/// What one is expected to take, at least.
const SHORTEST: Duration = Duration::from_millis(20);

impl ContentLocks {
    fn held(locks: &Locks) -> MutexGuard<'_, HashMap<ContentKey, Held>> {
        locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to send this content, or when to ask again: each of many gets a moment of its own.
    pub(super) fn lock(&self, content: ContentKey) -> Result<ContentLock, ContentTurn> {
        let now = Instant::now();
        let mut locks = Self::held(&self.0);
        let lock = || ContentLock {
            content,
            locks: Arc::clone(&self.0),
        };
        match locks.get_mut(&content) {
            Some(held) if held.is_sending => {
                let took = held.took.max(now - held.since).max(SHORTEST);
                let turn = held.last_turn.max(now) + took;
                held.last_turn = turn;
                Err(ContentTurn((turn - now).min(LONGEST_TURN)))
            }
            Some(held) => {
                (held.is_sending, held.since) = (true, now);
                Ok(lock())
            }
            None => {
                let held = Held {
                    is_sending: true,
                    since: now,
                    took: Duration::ZERO,
                    last_turn: now,
                };
                locks.insert(content, held);
                Ok(lock())
            }
        }
    }
}

impl Drop for ContentLock {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut locks = ContentLocks::held(&self.locks);
        if let Some(held) = locks.get_mut(&self.content) {
            (held.is_sending, held.took) = (false, now - held.since);
            // Remembered while others are to come back: the next one must not be put off to their place.
            if held.last_turn <= now {
                locks.remove(&self.content);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_is_sent_one_after_the_other_and_leaves_nothing_behind() {
        let locks = ContentLocks::default();
        let one = ContentKey::of("default", ["905321234567"], "hello");
        let other = ContentKey::of("default", ["905321234568"], "hello");
        let first = locks.lock(one).expect("nobody is sending it");
        drop(locks.lock(other).expect("another content does not wait"));
        drop(first);
        drop(locks.lock(one).expect("its turn has come"));
        assert!(locks.0.lock().unwrap().is_empty());
    }

    #[test]
    fn many_of_equal_content_come_back_one_after_the_other() {
        let locks = ContentLocks::default();
        let content = ContentKey::of("default", ["905321234567"], "hello");
        let _first = locks.lock(content).expect("nobody is sending it");
        let mut last = Duration::ZERO;
        for _ in 0..1_000 {
            let turn = locks
                .lock(content)
                .expect_err("it is being sent")
                .comes_in();
            assert!(turn > last, "{turn:?} after {last:?}");
            last = turn;
        }
        assert!(
            (SHORTEST * 900..SHORTEST * 1_500).contains(&last),
            "{last:?}"
        );
    }
}
