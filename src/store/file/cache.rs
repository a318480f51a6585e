//! Records that were read or written before, so that a read is a look at memory.
//!
//! A record counts as fresh for a moment; after that the file is read again and compared by its fingerprint, which no
//! reused inode, coarse clock or preserved size can fool. Absence is never remembered.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// How long a record is served without a look at its file: a tenth of what readers may count on, so that a look that
/// is slow still keeps the promise.
const FRESH: Duration = Duration::from_millis(100);

/// Tells versions of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    digest: [u8; 32],
    length: u32,
}

impl Fingerprint {
    pub(super) fn of(content: &[u8]) -> Self {
        Self {
            digest: Sha256::digest(content).into(),
            length: u32::try_from(content.len()).unwrap_or(u32::MAX),
        }
    }
}

/// The records of one kind.
pub(super) struct Cache<K, V> {
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Counts the writes. A reader that began before one must not put back what it saw.
    writes: u64,
}

struct Slot<V> {
    value: Arc<V>,
    fingerprint: Fingerprint,
    /// When the look began that last found the file so.
    checked: Instant,
}

/// What memory held when a look at a file began.
pub(super) struct Before<V> {
    known: Option<(Fingerprint, Arc<V>)>,
    writes: u64,
    began: Instant,
}

impl<V> Before<V> {
    /// The value, if the file still is as it was.
    pub(super) fn same(&self, fingerprint: &Fingerprint) -> Option<&Arc<V>> {
        let (known, value) = self.known.as_ref()?;
        (known == fingerprint).then_some(value)
    }
}

impl<K: Eq + Hash, V> Cache<K, V> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                slots: HashMap::new(),
                writes: 0,
            }),
        }
    }

    /// The record, if its file was looked at a moment ago.
    pub(super) fn fresh(&self, key: &K) -> Option<Arc<V>> {
        let now = Instant::now();
        let state = self.state();
        let slot = state.slots.get(key)?;
        (now.saturating_duration_since(slot.checked) < FRESH).then(|| Arc::clone(&slot.value))
    }

    /// To be called before the file is looked at.
    pub(super) fn before(&self, key: &K) -> Before<V> {
        let began = Instant::now();
        let state = self.state();
        Before {
            known: state
                .slots
                .get(key)
                .map(|slot| (slot.fingerprint, Arc::clone(&slot.value))),
            writes: state.writes,
            began,
        }
    }

    /// A reader found this in the file.
    pub(super) fn found(&self, key: K, before: &Before<V>, fingerprint: Fingerprint, value: &Arc<V>) {
        let mut state = self.state();
        if state.writes == before.writes {
            let slot = Slot {
                value: Arc::clone(value),
                fingerprint,
                checked: before.began,
            };
            state.slots.insert(key, slot);
        } else if let Some(slot) = state.slots.get_mut(&key)
            && slot.fingerprint == fingerprint
        {
            // Somebody wrote, but not this record.
            slot.checked = slot.checked.max(before.began);
        }
    }

    /// A reader found no file, or one that cannot be used.
    pub(super) fn not_found(&self, key: &K, before: &Before<V>) {
        let mut state = self.state();
        if state.writes == before.writes {
            state.slots.remove(key);
        }
    }

    /// A writer made this durable.
    pub(super) fn written(&self, key: K, fingerprint: Fingerprint, value: &Arc<V>) {
        let slot = Slot {
            value: Arc::clone(value),
            fingerprint,
            checked: Instant::now(),
        };
        let mut state = self.state();
        state.writes += 1;
        state.slots.insert(key, slot);
    }

    /// A writer removed the file, or failed: only the file knows now.
    pub(super) fn forget(&self, key: &K) {
        let mut state = self.state();
        state.writes += 1;
        state.slots.remove(key);
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_does_not_put_back_what_a_writer_replaced() {
        let cache = Cache::new();
        let before = cache.before(&"a");
        cache.written("a", Fingerprint::of(b"new"), &Arc::new("new"));
        cache.found("a", &before, Fingerprint::of(b"old"), &Arc::new("old"));
        assert_eq!(cache.fresh(&"a").as_deref(), Some(&"new"));
        cache.not_found(&"a", &before);
        assert_eq!(cache.fresh(&"a").as_deref(), Some(&"new"));
    }

    #[test]
    fn a_slow_reader_does_not_bring_back_what_was_removed() {
        let cache = Cache::new();
        let before = cache.before(&"a");
        cache.forget(&"a");
        cache.found("a", &before, Fingerprint::of(b"old"), &Arc::new("old"));
        assert!(cache.fresh(&"a").is_none());
    }

    #[test]
    fn a_record_is_not_fresh_for_ever() {
        let cache = Cache::new();
        cache.written("a", Fingerprint::of(b"x"), &Arc::new("x"));
        assert!(cache.fresh(&"a").is_some());
        std::thread::sleep(FRESH);
        assert!(cache.fresh(&"a").is_none());
        let before = cache.before(&"a");
        assert!(before.same(&Fingerprint::of(b"x")).is_some());
        assert!(before.same(&Fingerprint::of(b"y")).is_none());
    }

    #[test]
    fn what_a_reader_found_is_known_until_a_reader_finds_it_gone() {
        let cache = Cache::new();
        let print = || Fingerprint::of(b"x");
        cache.found("a", &cache.before(&"a"), print(), &Arc::new("x"));
        assert_eq!(cache.fresh(&"a").as_deref(), Some(&"x"));
        cache.not_found(&"a", &cache.before(&"a"));
        assert!(cache.fresh(&"a").is_none());
        assert!(cache.before(&"a").same(&print()).is_none());
    }

    #[test]
    fn a_reader_makes_what_is_known_fresh_again_also_while_other_records_are_written() {
        for (found, fresh) in [(b"x", true), (b"y", false)] {
            let cache = Cache::new();
            cache.written("a", Fingerprint::of(b"x"), &Arc::new("x"));
            std::thread::sleep(FRESH);
            let before = cache.before(&"a");
            cache.written("b", Fingerprint::of(b"z"), &Arc::new("z"));
            cache.found("a", &before, Fingerprint::of(found), &Arc::new("x"));
            assert_eq!(cache.fresh(&"a").is_some(), fresh);
        }
    }
}
