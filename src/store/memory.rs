//! The store of `--ephemeral`: nothing outlives the process, nothing touches the disk.
//!
//! The same locks, answers and order of writes as the file store, so that the broker cannot tell them apart. Never
//! used unless it was asked for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;

use super::{
    KeyStore, OverCorrupt, StoreError, StoredTokens, TokenGuard, TokenStore,
    queue::{Queue, Turn, deadline},
};
use crate::credential::{EntryKey, Name};

/// Keeps token sets and API keys in memory. Clones share what is stored.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    entry_locks: Arc<Queue<EntryKey>>,
    key_locks: Arc<Queue<Name>>,
}

struct Shared {
    tokens: Mutex<BTreeMap<EntryKey, Arc<StoredTokens>>>,
    keys: Mutex<BTreeMap<Name, Arc<SecretString>>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                tokens: Mutex::default(),
                keys: Mutex::default(),
            }),
            entry_locks: Queue::new(),
            key_locks: Queue::new(),
        }
    }

    async fn lock_key(&self, name: &Name, wait: Duration) -> Result<Turn<Name>, StoreError> {
        let turn = self.key_locks.enter(name.clone(), deadline(wait)).await;
        turn.ok_or_else(|| StoreError::Busy {
            what: format!("API key {name}"),
            holder: None,
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl Shared {
    fn tokens(&self) -> MutexGuard<'_, BTreeMap<EntryKey, Arc<StoredTokens>>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<SecretString>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn read(&self, key: &EntryKey) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        Ok(self.shared.tokens().get(key).cloned())
    }

    async fn list(&self) -> Result<Vec<EntryKey>, StoreError> {
        Ok(self.shared.tokens().keys().cloned().collect())
    }

    async fn lock(&self, key: &EntryKey, wait: Duration) -> Result<Box<dyn TokenGuard>, StoreError> {
        let turn = self.entry_locks.enter(key.clone(), deadline(wait)).await;
        let turn = turn.ok_or_else(|| StoreError::Busy {
            what: format!("entry {key}"),
            holder: None,
        })?;
        Ok(Box::new(MemoryGuard {
            shared: Arc::clone(&self.shared),
            key: key.clone(),
            _turn: turn,
        }))
    }

    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

struct MemoryGuard {
    shared: Arc<Shared>,
    key: EntryKey,
    _turn: Turn<EntryKey>,
}

#[async_trait]
impl TokenGuard for MemoryGuard {
    async fn read(&self) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        Ok(self.shared.tokens().get(&self.key).cloned())
    }

    // Memory is never corrupt, so there is nothing to refuse.
    async fn put(&mut self, record: Arc<StoredTokens>, _over_corrupt: OverCorrupt) -> Result<(), StoreError> {
        self.shared.tokens().insert(self.key.clone(), record);
        Ok(())
    }

    async fn remove(&mut self) -> Result<bool, StoreError> {
        Ok(self.shared.tokens().remove(&self.key).is_some())
    }
}

#[async_trait]
impl KeyStore for MemoryStore {
    async fn read(&self, name: &Name) -> Result<Option<Arc<SecretString>>, StoreError> {
        Ok(self.shared.keys().get(name).cloned())
    }

    async fn list(&self) -> Result<Vec<Name>, StoreError> {
        Ok(self.shared.keys().keys().cloned().collect())
    }

    async fn write(&self, name: &Name, key: SecretString, wait: Duration) -> Result<(), StoreError> {
        let _turn = self.lock_key(name, wait).await?;
        self.shared.keys().insert(name.clone(), Arc::new(key));
        Ok(())
    }

    async fn remove(&self, name: &Name, wait: Duration) -> Result<bool, StoreError> {
        let _turn = self.lock_key(name, wait).await?;
        Ok(self.shared.keys().remove(name).is_some())
    }
}
