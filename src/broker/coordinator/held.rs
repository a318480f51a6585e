//! An entry's lock while a flight or an unsaved token set keeps it, and how others of this broker work under it.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::Shared;
use crate::{
    credential::EntryKey,
    store::{OverCorrupt, StoreError, StoredTokens, TokenGuard},
};

/// The lock, shared by those of this broker who may use it. Free when the last share is dropped.
pub(super) type Held = Arc<Mutex<Open>>;

/// What is under the lock. Whoever has it open is alone with the entry.
pub(super) struct Open {
    pub(super) guard: Box<dyn TokenGuard>,
    /// The entry was removed while a flight held the lock: its late answer is nobody's.
    pub(super) removed: bool,
    /// A token set that could not be saved. While it is here it is the entry, whatever the disk says.
    pub(super) unsaved: Option<Arc<StoredTokens>>,
}

impl Open {
    pub(super) fn new(guard: Box<dyn TokenGuard>) -> Held {
        Arc::new(Mutex::new(Self {
            guard,
            removed: false,
            unsaved: None,
        }))
    }

    /// The entry as it is now.
    pub(super) async fn read(&self) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        match &self.unsaved {
            Some(unsaved) => Ok(Some(Arc::clone(unsaved))),
            None => self.guard.read().await,
        }
    }
}

/// The right to change an entry. Dropped: the lock is free, unless a flight or an unsaved token set keeps it.
pub(in crate::broker) struct Writing {
    shared: Arc<Shared>,
    key: EntryKey,
    open: OwnedMutexGuard<Open>,
}

impl Writing {
    /// For a change of the entry: waits for a flight to end, but works under the lock that an unsaved token set keeps.
    pub(super) async fn change(shared: &Arc<Shared>, key: &EntryKey, wait: Duration) -> Result<Self, StoreError> {
        if let Some(held) = shared.held(key, |entry| entry.unsaved.is_some()) {
            let open = opened(held, key, wait).await?;
            if open.unsaved.is_some() {
                return Ok(Self::under(shared, key, open));
            }
            // It was saved just now, and this share would keep everybody out, the holder included.
            drop(open);
        }
        Self::alone(shared, key, wait).await
    }

    /// For the removal of the entry: under a flight's lock, too, so that nobody waits for an exchange on the wire.
    pub(super) async fn removal(shared: &Arc<Shared>, key: &EntryKey, wait: Duration) -> Result<Self, StoreError> {
        if let Some(held) = shared.held(key, |_| true) {
            let open = opened(held, key, wait).await?;
            return Ok(Self::under(shared, key, open));
        }
        Self::alone(shared, key, wait).await
    }

    async fn alone(shared: &Arc<Shared>, key: &EntryKey, wait: Duration) -> Result<Self, StoreError> {
        let guard = shared.tokens.lock(key, wait).await?;
        let open = Open::new(guard).lock_owned().await;
        Ok(Self::under(shared, key, open))
    }

    fn under(shared: &Arc<Shared>, key: &EntryKey, open: OwnedMutexGuard<Open>) -> Self {
        Self {
            shared: Arc::clone(shared),
            key: key.clone(),
            open,
        }
    }

    /// The entry as it is now.
    ///
    /// # Errors
    /// The store's.
    pub(in crate::broker) async fn read(&self) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        self.open.read().await
    }

    /// Replaces the entry durably, an unsaved token set included.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub(in crate::broker) async fn put(
        &mut self,
        record: Arc<StoredTokens>,
        over_corrupt: OverCorrupt,
    ) -> Result<(), StoreError> {
        self.open.guard.put(record, over_corrupt).await?;
        self.settle();
        Ok(())
    }

    /// Removes the entry durably. `false`: there was none.
    ///
    /// # Errors
    /// The store's; a removal that failed is never reported as done.
    pub(in crate::broker) async fn remove(&mut self) -> Result<bool, StoreError> {
        let unsaved = self.open.unsaved.is_some();
        let removed = self.open.guard.remove().await?;
        self.open.removed = true;
        self.settle();
        Ok(removed || unsaved)
    }

    /// What could not be saved is replaced by what could.
    fn settle(&mut self) {
        if self.open.unsaved.take().is_some() {
            self.shared.settled(&self.key);
        }
    }
}

async fn opened(held: Held, key: &EntryKey, wait: Duration) -> Result<OwnedMutexGuard<Open>, StoreError> {
    tokio::time::timeout(wait, held.lock_owned())
        .await
        .map_err(|_elapsed| StoreError::Busy {
            what: format!("entry {key}"),
            holder: None,
        })
}
