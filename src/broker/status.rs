//! What the host may know of the entries: everything but the tokens.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    broker::{
        Broker, Error,
        page::{Page, PageRequest},
        timing,
    },
    credential::EntryKey,
    store::{StoreError, StoredTokens},
};

/// The state of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    /// The access token is usable.
    Ok,
    /// The access token is not usable, and is refreshed at its next use or when the provider is to be asked again.
    Due,
    /// It cannot be renewed: it needs a login, or a new token set.
    NeedsLogin,
    /// A refresh was interrupted, and nobody is at it any more: whether the provider spent the refresh token shows with the
    /// next one.
    Ambiguous,
    /// The newest token set lives in memory only, because it could not be saved.
    Unsaved,
    /// The stored record cannot be decrypted or is malformed.
    Corrupt,
    /// The record cannot be opened: the store is locked, a newer version wrote it, or the system refuses it.
    Locked,
}

impl EntryState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::Due,
        Self::NeedsLogin,
        Self::Ambiguous,
        Self::Unsaved,
        Self::Corrupt,
        Self::Locked,
    ];

    /// The name in JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Due => "due",
            Self::Ambiguous => "ambiguous",
            Self::Unsaved => "unsaved",
            Self::NeedsLogin => "needs_login",
            Self::Corrupt => "corrupt",
            Self::Locked => "locked",
        }
    }
}

/// One entry as the broker sees it.
#[derive(Debug, Clone)]
pub struct EntryStatus {
    /// Which entry.
    pub key: EntryKey,
    /// The account's subject, if known.
    pub subject: Option<String>,
    /// When the access token expires; `None`: never, or not known.
    pub expire_time: Option<Timestamp>,
    /// The last delivery by this broker.
    pub last_used: Option<Timestamp>,
    /// Its state.
    pub state: EntryState,
    /// Who wrote it last.
    pub saved_by: Option<String>,
    /// When this broker will renew it; `None`: nothing is planned.
    pub next_renewal: Option<Timestamp>,
    /// Failed renewals in a row.
    pub failures: u32,
    /// How many streams follow it now.
    pub watchers: usize,
}

impl Broker {
    /// The store's entries, in order of name, and where the next page goes on. One that cannot be read is listed with
    /// the state that says why.
    ///
    /// # Errors
    /// [`Error::Store`] if the store itself cannot be read.
    pub async fn entries(&self, page: &PageRequest<EntryKey>) -> Result<(Vec<EntryStatus>, Option<EntryKey>), Error> {
        let Page { names, next } = page.cut(self.inner.parts.tokens.list().await?);
        let mut entries = Vec::with_capacity(names.len());
        for key in names {
            // `None`: removed since the list was made.
            entries.extend(self.entry(&key).await);
        }
        Ok((entries, next))
    }

    /// Deliveries since the start.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.inner.stats.deliveries()
    }

    /// The first entries in order of name, at most so many, and how many there are beyond. Unlike [`entries`](Self::entries)
    /// it leaves no line in the log for what cannot be opened: it is asked again and again.
    ///
    /// # Errors
    /// [`Error::Store`] if the store itself cannot be read.
    pub async fn survey(&self, most: usize) -> Result<(Vec<EntryStatus>, usize), Error> {
        let keys = self.inner.parts.tokens.list().await?;
        let mut entries = Vec::with_capacity(keys.len().min(most));
        for key in keys.iter().take(most) {
            entries.extend(self.look_at(key).await.map(|(status, _)| status));
        }
        Ok((entries, keys.len().saturating_sub(most)))
    }

    /// An answer of secret discovery was not accepted.
    pub fn count_secrets_rejected(&self) {
        self.inner.stats.secrets_rejected();
    }

    /// Answers of secret discovery that were not accepted.
    #[must_use]
    pub fn secrets_rejected(&self) -> u64 {
        self.inner.stats.all_secrets_rejected()
    }

    /// One entry. `None`: there is no such entry.
    pub async fn entry(&self, key: &EntryKey) -> Option<EntryStatus> {
        let (status, error) = self.look_at(key).await?;
        if let (EntryState::Locked, Some(error)) = (status.state, error) {
            tracing::warn!(%error, entry = %key, "an entry cannot be opened");
        }
        Some(status)
    }

    /// One entry, and why it cannot be opened.
    async fn look_at(&self, key: &EntryKey) -> Option<(EntryStatus, Option<StoreError>)> {
        let unreadable = |state| EntryStatus {
            key: key.clone(),
            subject: None,
            expire_time: None,
            last_used: self.inner.stats.last_used(key),
            state,
            saved_by: None,
            next_renewal: None,
            failures: 0,
            watchers: self.watchers(key),
        };
        let stored = match self.inner.coordinator.current(key).await {
            Ok(None) => return None,
            Ok(Some(stored)) => stored,
            Err(error @ StoreError::Corrupt { .. }) => return Some((unreadable(EntryState::Corrupt), Some(error))),
            Err(
                error @ (StoreError::Locked { .. }
                | StoreError::NewerFormat { .. }
                | StoreError::Busy { .. }
                | StoreError::Unavailable { .. }),
            ) => return Some((unreadable(EntryState::Locked), Some(error))),
        };
        let expiry = stored.tokens.expiry.as_ref();
        let state = self.state(key, &stored).await;
        let renewal = self
            .inner
            .scheduler
            .as_ref()
            .and_then(|scheduler| scheduler.renewal(key));
        let status = EntryStatus {
            key: key.clone(),
            subject: stored.tokens.subject.clone(),
            expire_time: expiry.map(|e| e.at),
            last_used: self.inner.stats.last_used(key),
            state,
            saved_by: Some(stored.tokens.saved_by.clone()),
            next_renewal: renewal.and_then(|renewal| renewal.due),
            failures: renewal.map_or(0, |renewal| renewal.failures),
            watchers: self.watchers(key),
        };
        Some((status, None))
    }

    async fn state(&self, key: &EntryKey, stored: &StoredTokens) -> EntryState {
        let activity = self.inner.coordinator.activity(key);
        let tokens = &stored.tokens;
        let renewable = tokens.refresh_token.is_some() && self.inner.coordinator.has_provider(key);
        let now = self.inner.parts.clock.now();
        if activity.unsaved {
            EntryState::Unsaved
        } else if !activity.refreshing && self.interrupted(key, stored).await {
            EntryState::Ambiguous
        } else if timing::usable(tokens.expiry.as_ref(), &now, Duration::ZERO) {
            EntryState::Ok
        } else if renewable {
            EntryState::Due
        } else if timing::expired(tokens.expiry.as_ref(), &now) {
            EntryState::NeedsLogin
        } else {
            EntryState::Ok
        }
    }

    /// Whether a refresh left its mark and nobody is at it any more. Who is at it holds the lock, in whatever process.
    async fn interrupted(&self, key: &EntryKey, stored: &StoredTokens) -> bool {
        if self.inner.coordinator.interrupted(key, stored).is_none() {
            return false;
        }
        let lock = self.inner.parts.tokens.lock(key, Duration::ZERO).await;
        !matches!(lock, Err(StoreError::Busy { .. }))
    }
}
