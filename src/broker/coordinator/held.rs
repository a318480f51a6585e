//! An entry's lock while a flight or an unsaved token set keeps it, and how others of this broker work under it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, timeout_at},
};

use super::{Entry, Shared};
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
        let unsaved = |entry: &Entry| entry.unsaved.is_some();
        // It may have been saved just now.
        Self::take(shared, key, wait, unsaved, |open| open.unsaved.is_some()).await
    }

    /// For the removal of the entry: under a flight's lock, too, so that nobody waits for an exchange on the wire.
    pub(super) async fn removal(shared: &Arc<Shared>, key: &EntryKey, wait: Duration) -> Result<Self, StoreError> {
        Self::take(shared, key, wait, |_| true, |_| true).await
    }

    /// Takes the lock from the store, or works under one that this broker keeps already: whichever can be had first. While
    /// one waits for the store, a flight that waits there, too, may get it, and keep it.
    async fn take(
        shared: &Arc<Shared>,
        key: &EntryKey,
        wait: Duration,
        may_share: fn(&Entry) -> bool,
        fits: fn(&Open) -> bool,
    ) -> Result<Self, StoreError> {
        let until = Instant::now() + wait;
        let mut holding = shared.holding.subscribe();
        let mut lock = shared.tokens.lock(key, wait);
        loop {
            holding.mark_unchanged();
            if let Some(held) = shared.held(key, may_share) {
                let open = opened(held, key, until).await?;
                if fits(&open) {
                    return Ok(Self::under(shared, key, open));
                }
                // This share would keep everybody out, the own turn at the store included.
                drop(open);
            }
            tokio::select! {
                guard = &mut lock => {
                    let open = Open::new(guard?).lock_owned().await;
                    return Ok(Self::under(shared, key, open));
                }
                _told = holding.changed() => {}
            }
        }
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
        let put = self.open.guard.put(record, over_corrupt).await;
        if put.is_ok() {
            self.settle();
        }
        // After a failure, too: the old version is there or the new one.
        self.shared.board.poke(&self.key);
        put
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
        self.shared.board.poke(&self.key);
        Ok(removed || unsaved)
    }

    /// What could not be saved is replaced by what could.
    fn settle(&mut self) {
        if self.open.unsaved.take().is_some() {
            self.shared.settled(&self.key);
        }
    }
}

async fn opened(held: Held, key: &EntryKey, until: Instant) -> Result<OwnedMutexGuard<Open>, StoreError> {
    timeout_at(until, held.lock_owned())
        .await
        .map_err(|_elapsed| StoreError::Busy {
            what: format!("entry {key}"),
            holder: None,
        })
}
