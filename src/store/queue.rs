//! Who is next at a lock, among the tasks of this process.
//!
//! Tasks wait here in order and without a thread; only the one at the head asks the system, so a busy entry costs one
//! poller a process. Never knows what is locked, and never steals.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::{Instant, timeout_at},
};

/// Longer waits are cut to this, so that no wait overflows a clock.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The end of a wait that begins now.
pub(super) fn deadline(wait: Duration) -> Instant {
    Instant::now() + wait.min(LONGEST_WAIT)
}

/// The queues of all keys; a key without holder and waiters takes no memory.
pub(super) struct Queue<K: Eq + Hash + Clone> {
    lines: Mutex<HashMap<K, Weak<AsyncMutex<()>>>>,
}

impl<K: Eq + Hash + Clone> Queue<K> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            lines: Mutex::new(HashMap::new()),
        })
    }

    /// Waits for the head of the key's queue until `deadline`; `None`: it was not reached.
    pub(super) async fn enter(self: &Arc<Self>, key: K, deadline: Instant) -> Option<Turn<K>> {
        let place = Place::take(self, key);
        let line = Arc::clone(place.line.as_ref()?);
        let head = timeout_at(deadline, line.lock_owned()).await.ok()?;
        Some(Turn {
            _head: head,
            _place: place,
        })
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<K, Weak<AsyncMutex<()>>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of a queue; the next one gets it when this is dropped.
pub(super) struct Turn<K: Eq + Hash + Clone> {
    // Dropped first: the place must find the line without this one's share in it.
    _head: OwnedMutexGuard<()>,
    _place: Place<K>,
}

/// A place in a queue, waiting or at its head. The last one to leave removes the queue.
struct Place<K: Eq + Hash + Clone> {
    queue: Arc<Queue<K>>,
    key: K,
    line: Option<Arc<AsyncMutex<()>>>,
}

impl<K: Eq + Hash + Clone> Place<K> {
    fn take(queue: &Arc<Queue<K>>, key: K) -> Self {
        let mut lines = queue.lines();
        let line = lines.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let line = Arc::new(AsyncMutex::new(()));
            lines.insert(key.clone(), Arc::downgrade(&line));
            line
        });
        drop(lines);
        Self {
            queue: Arc::clone(queue),
            key,
            line: Some(line),
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        drop(self.line.take());
        let mut lines = self.queue.lines();
        if lines.get(&self.key).is_some_and(|line| line.strong_count() == 0) {
            lines.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_that_everybody_left_takes_no_memory() {
        let queue = Queue::new();
        let turn = queue.enter("a", deadline(Duration::ZERO)).await.unwrap();
        assert!(
            queue.enter("a", deadline(Duration::from_millis(5))).await.is_none(),
            "two at the head"
        );
        assert!(queue.enter("b", deadline(Duration::ZERO)).await.is_some());
        drop(turn);
        assert!(queue.lines().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_after_a_day_at_the_latest() {
        let day = Duration::from_secs(86_400);
        for (wait, waits) in [(day / 2, day / 2), (day, day), (Duration::MAX, day)] {
            assert_eq!(deadline(wait), Instant::now() + waits);
        }
    }

    #[tokio::test]
    async fn a_waiter_that_gave_up_does_not_hold_up_the_next() {
        let queue = Queue::new();
        let turn = queue.enter("a", deadline(Duration::ZERO)).await.unwrap();
        let gone = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.enter("a", deadline(Duration::from_secs(60))).await.is_some() }
        });
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.is_err());
        drop(turn);
        assert!(queue.enter("a", deadline(Duration::MAX)).await.is_some());
        assert!(queue.lines().is_empty());
    }
}
