//! Access tokens: handing them out, fresh; and changing what is stored.

use std::{sync::Arc, time::Duration};

use super::{
    Broker, Caller, Error, LOCK_WAIT, Revocation,
    coordinator::{Asker, RefreshError},
    owned,
    policy::Right,
    timing,
};
use crate::{
    clock::Now,
    credential::{AccessToken, EntryKey, Revision, SavedToken, TokenSet},
    store::{OverCorrupt, StoreError, StoredTokens},
};

impl Broker {
    /// Hands out a usable access token of the entry; refreshes it first if it is not usable.
    ///
    /// `min_validity` is how long the token shall still be valid, capped at half its lifetime. If it cannot be met,
    /// a token that has not expired is still better than none and is returned. One that has expired never is.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] before the store is touched; [`Error::NoEntry`]; why an expired token could not be
    /// refreshed; a store's failure.
    pub async fn token(&self, caller: &Caller, key: &EntryKey, min_validity: Duration) -> Result<AccessToken, Error> {
        let (token, _stored) = self.usable(caller, key, min_validity).await?;
        Ok(token)
    }

    /// The same, and the version that it is from.
    pub(super) async fn usable(
        &self,
        caller: &Caller,
        key: &EntryKey,
        min_validity: Duration,
    ) -> Result<(AccessToken, Arc<StoredTokens>), Error> {
        self.begin()?;
        caller.require(Right::Read, key)?;
        let stored = self.existing(key).await?;
        let now = self.inner.parts.clock.now();
        if timing::usable(stored.tokens.expiry.as_ref(), &now, min_validity) {
            return Ok((self.delivered(key, &stored, &now), stored));
        }
        let fresh = self.renewed(key, stored).await?;
        Ok((self.hand_out(key, &fresh)?, fresh))
    }

    /// Refreshes the entry, unless the `revision` that the caller has is not the current one any more: then the current
    /// token is what it wants. `None`: whatever the caller has.
    ///
    /// # Errors
    /// As for [`token`](Self::token); also if the token has not expired, but could not be refreshed.
    pub async fn refresh_token(
        &self,
        caller: &Caller,
        key: &EntryKey,
        revision: Option<&Revision>,
    ) -> Result<AccessToken, Error> {
        self.begin()?;
        caller.require(Right::Read, key)?;
        let stored = self.existing(key).await?;
        let fresh = if revision.is_some_and(|revision| *revision != stored.revision) {
            let now = self.inner.parts.clock.now();
            if timing::usable(stored.tokens.expiry.as_ref(), &now, Duration::ZERO) {
                return Ok(self.delivered(key, &stored, &now));
            }
            self.renewed(key, stored).await?
        } else {
            self.renewable(key, &stored)?;
            match self
                .inner
                .coordinator
                .refresh(key, &stored.revision, Asker::Caller)
                .await
            {
                Ok(fresh) => fresh,
                Err(error) => self.instead(key, error).await?,
            }
        };
        self.hand_out(key, &fresh)
    }

    /// Replaces the access token of an existing entry by the merge contract; the refresh token is never touched.
    ///
    /// # Errors
    /// [`Error::Unauthorized`], [`Error::NoEntry`], [`Error::Store`]: also if the stored entry is corrupt, which is
    /// never overwritten this way.
    pub async fn save_token(&self, caller: &Caller, key: &EntryKey, saved: SavedToken) -> Result<(), Error> {
        self.begin()?;
        caller.require(Right::Save, key)?;
        self.existing(key).await?;
        let by = format!("sandbox {}", caller.principal);
        let (broker, key) = (self.clone(), key.clone());
        owned(async move {
            let mut writing = broker.inner.coordinator.change(&key, LOCK_WAIT).await?;
            let stored = writing.read().await?.ok_or_else(|| Error::NoEntry(key.clone()))?;
            let merged = stored.tokens.merge_saved(saved, by, &broker.inner.parts.clock.now());
            let mut record = StoredTokens::new(merged);
            // The refresh token is the same, and so is what is not known about it.
            record.intent.clone_from(&stored.intent);
            let record = Arc::new(record);
            writing.put(Arc::clone(&record), OverCorrupt::Refuse).await?;
            broker.arm(&key, &record);
            Ok(())
        })
        .await
    }

    /// Removes the entry. When it returns, the entry is gone durably; its token is revoked at the provider, and the
    /// answer says what is known of that within 5 s.
    ///
    /// # Errors
    /// [`Error::Unauthorized`], [`Error::NoEntry`], [`Error::Store`].
    pub async fn remove_token(&self, caller: &Caller, key: &EntryKey) -> Result<Revocation, Error> {
        self.begin()?;
        caller.require(Right::Remove, key)?;
        // A corrupt entry can be removed, so only absence ends here. Locks are kept for ever: a sandbox must not have one
        // made for every name it can think of. After a change that failed, absence may not be durable yet, and the store
        // has to see to it.
        if matches!(self.inner.coordinator.current(key).await, Ok(None))
            && self.inner.parts.tokens.check().await.is_ok()
        {
            return Err(Error::NoEntry(key.clone()));
        }
        let (broker, key) = (self.clone(), key.clone());
        owned(async move {
            let withdraw = || broker.inner.logins.withdraw(&key);
            let removed = broker.inner.coordinator.remove(&key, LOCK_WAIT, withdraw).await?;
            let removed = removed.ok_or_else(|| Error::NoEntry(key.clone()))?;
            broker.inner.stats.forget(&key);
            if let Some(scheduler) = &broker.inner.scheduler {
                scheduler.cancel_for_key(&key);
            }
            Ok(removed.revocation().await)
        })
        .await
    }

    /// Stores a token set whole, in place of whatever is there. For the host only: no call of the socket leads here.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn import(&self, key: &EntryKey, tokens: TokenSet) -> Result<Arc<StoredTokens>, Error> {
        let (broker, key) = (self.clone(), key.clone());
        owned(async move {
            let mut writing = broker.inner.coordinator.change(&key, LOCK_WAIT).await?;
            let before = match writing.read().await {
                // Nobody can tell any more what it said.
                Err(StoreError::Corrupt { .. }) => None,
                read => read?,
            };
            let record = Arc::new(StoredTokens::replacing(before.as_deref(), tokens));
            writing.put(Arc::clone(&record), OverCorrupt::Replace).await?;
            broker.inner.coordinator.replaced(&key);
            broker.arm(&key, &record);
            Ok(record)
        })
        .await
    }

    /// The stored entry, or [`Error::NoEntry`].
    pub(super) async fn existing(&self, key: &EntryKey) -> Result<Arc<StoredTokens>, Error> {
        let stored = self.inner.coordinator.current(key).await?;
        let stored = stored.ok_or_else(|| Error::NoEntry(key.clone()))?;
        self.came_upon(key, &stored);
        Ok(stored)
    }

    pub(super) fn expired(&self, stored: &StoredTokens) -> bool {
        timing::expired(stored.tokens.expiry.as_ref(), &self.inner.parts.clock.now())
    }

    /// Whether a refresh can be tried at all; the error names the mend that helps.
    pub(super) fn renewable(&self, key: &EntryKey, stored: &StoredTokens) -> Result<(), Error> {
        if stored.tokens.refresh_token.is_none() {
            return Err(Error::NeedsLogin(key.clone()));
        }
        if !self.inner.coordinator.has_provider(key) {
            return Err(Error::ProviderNotFound(key.clone()));
        }
        Ok(())
    }

    /// A newer token than the one that is not usable; else that one, as long as it has not expired; else why not.
    async fn renewed(&self, key: &EntryKey, stored: Arc<StoredTokens>) -> Result<Arc<StoredTokens>, Error> {
        if let Err(error) = self.renewable(key, &stored) {
            return if self.expired(&stored) { Err(error) } else { Ok(stored) };
        }
        let fresh = self
            .inner
            .coordinator
            .refresh(key, &stored.revision, Asker::Caller)
            .await;
        match fresh {
            Ok(fresh) => Ok(fresh),
            Err(error) => self.unexpired(key, error).await,
        }
    }

    /// The entry's token as it is after a refresh that failed, as long as it has not expired. It is read again: the entry
    /// may have been removed or replaced meanwhile.
    async fn unexpired(&self, key: &EntryKey, error: RefreshError) -> Result<Arc<StoredTokens>, Error> {
        let current = self.existing(key).await?;
        if self.expired(&current) {
            Err(Error::of_refresh(key, error))
        } else {
            Ok(current)
        }
    }

    /// What a caller gets that asked for a refresh outright: in the cooldown the current token if it is usable, and an
    /// unexpired one if the provider takes too long; it wants to know of any other failure.
    async fn instead(&self, key: &EntryKey, error: RefreshError) -> Result<Arc<StoredTokens>, Error> {
        match error {
            RefreshError::Cooldown { .. } | RefreshError::Released { .. } => self.unexpired(key, error).await,
            error => Err(Error::of_refresh(key, error)),
        }
    }

    /// Sees to it that the entry is renewed in time.
    pub(super) fn arm(&self, key: &EntryKey, stored: &StoredTokens) {
        if let Some(scheduler) = &self.inner.scheduler {
            scheduler.schedule_if_needed(key, stored);
        }
    }

    /// The last step of every delivery: what is known to have expired is never handed out.
    pub(super) fn hand_out(&self, key: &EntryKey, stored: &StoredTokens) -> Result<AccessToken, Error> {
        let now = self.inner.parts.clock.now();
        if timing::expired(stored.tokens.expiry.as_ref(), &now) {
            return Err(self.renewable(key, stored).err().unwrap_or_else(|| {
                let retry_after = timing::cooldown(stored.tokens.expiry.as_ref().map(|expiry| expiry.lifetime));
                Error::of_refresh(key, RefreshError::Unavailable { retry_after })
            }));
        }
        Ok(self.delivered(key, stored, &now))
    }

    fn delivered(&self, key: &EntryKey, stored: &StoredTokens, now: &Now) -> AccessToken {
        self.inner.stats.delivered(key, now.wall);
        self.arm(key, stored);
        stored.tokens.to_access_token(&stored.revision, now)
    }
}
