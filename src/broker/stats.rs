//! Deliveries since the broker started: real counts, in memory only.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;

use crate::credential::EntryKey;

/// What one bucket delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct BucketStats {
    /// How many times a token of this bucket was delivered.
    pub request_count: u64,
    /// Its share of the provider's deliveries, 0 to 100.
    pub percentage: f64,
    /// The last delivery.
    pub last_used: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    count: u64,
    last: Timestamp,
}

/// The counts of one broker.
#[derive(Debug, Default)]
pub(super) struct Stats {
    uses: Mutex<HashMap<EntryKey, Use>>,
    /// API keys that were delivered: they have no buckets, so only their number is kept.
    keys: AtomicU64,
    /// Answers of secret discovery that were not accepted.
    rejected: AtomicU64,
}

impl Stats {
    /// Counts a delivery.
    pub(super) fn delivered(&self, key: &EntryKey, now: Timestamp) {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = uses.get_mut(key) {
            known.count += 1;
            known.last = now;
        } else {
            uses.insert(key.clone(), Use { count: 1, last: now });
        }
    }

    /// Counts the delivery of an API key.
    pub(super) fn delivered_key(&self) {
        self.keys.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer of secret discovery that was not accepted.
    pub(super) fn secrets_rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// All of these.
    pub(super) fn all_secrets_rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Drops the counts of an entry that is gone.
    pub(super) fn forget(&self, key: &EntryKey) {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// The counts of one entry; `visible` says which other buckets the asker may know of.
    pub(super) fn of(&self, key: &EntryKey, visible: impl Fn(&EntryKey) -> bool) -> BucketStats {
        let uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let own = uses.get(key);
        let total: u64 = uses
            .iter()
            .filter(|(other, _)| other.provider == key.provider && visible(other))
            .map(|(_, used)| used.count)
            .sum();
        let request_count = own.map_or(0, |used| used.count);
        BucketStats {
            request_count,
            #[expect(clippy::cast_precision_loss, reason = "a percentage needs no more than 52 bits")]
            percentage: if total == 0 {
                0.0
            } else {
                request_count as f64 * 100.0 / total as f64
            },
            last_used: own.map(|used| used.last),
        }
    }

    /// When the entry was last delivered.
    pub(super) fn last_used(&self, key: &EntryKey) -> Option<Timestamp> {
        let uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.get(key).map(|used| used.last)
    }

    /// All deliveries, of tokens and API keys.
    pub(super) fn deliveries(&self) -> u64 {
        let uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.values().map(|used| used.count).sum::<u64>() + self.keys.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(provider: &str, bucket: &str) -> EntryKey {
        EntryKey::parse(provider, bucket).unwrap()
    }

    #[test]
    fn percentage_is_of_the_visible_buckets_of_the_same_provider() {
        let stats = Stats::default();
        let now = Timestamp::UNIX_EPOCH;
        for (key, times) in [
            (key("p", "a"), 3),
            (key("p", "b"), 1),
            (key("p", "hidden"), 4),
            (key("q", "a"), 9),
        ] {
            for _ in 0..times {
                stats.delivered(&key, now);
            }
        }
        let seen = stats.of(&key("p", "a"), |k| k.bucket.as_str() != "hidden");
        assert_eq!((seen.request_count, seen.percentage), (3, 75.0));
        assert_eq!(seen.last_used, Some(now));
        assert_eq!(stats.of(&key("p", "a"), |_| true).percentage, 37.5);
        assert_eq!(stats.deliveries(), 17);
    }

    #[test]
    fn an_unused_bucket_has_zero_of_everything() {
        let stats = Stats::default();
        let seen = stats.of(&key("p", "a"), |_| true);
        assert_eq!((seen.request_count, seen.percentage, seen.last_used), (0, 0.0, None));
    }

    #[test]
    fn a_removed_entry_takes_its_counts_along() {
        let stats = Stats::default();
        stats.delivered(&key("p", "a"), Timestamp::UNIX_EPOCH);
        stats.forget(&key("p", "a"));
        assert_eq!(stats.of(&key("p", "a"), |_| true).request_count, 0);
    }
}
