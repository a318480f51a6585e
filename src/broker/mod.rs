//! The core: what a caller may have, and how it comes about.
//!
//! It knows stores, clocks and policies. It knows no gRPC, no HTTP, no path and no environment, so every decision here
//! can be tested without a socket. [`Broker`] is a cheap handle whose methods are the product; the service decodes a
//! call, asks the broker and encodes the answer, and the command line on the host does the same without a socket.

pub mod audit;
pub mod caller;
pub mod coordinator;
pub mod error;
pub mod page;
pub mod policy;
mod stats;
pub mod status;
pub mod timing;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use secrecy::SecretString;
use tracing::Instrument as _;

use crate::{
    clock::Clock,
    credential::{AccessToken, EntryKey, Name, SavedToken, TokenSet},
    store::{KeyStore, OverCorrupt, StoreError, StoredTokens, TokenStore},
};
pub use caller::Caller;
pub use error::Error;
use page::{Page, PageRequest};
use policy::Right;
pub use stats::BucketStats;
use stats::Stats;

/// How long a caller waits for an entry's lock before it is told that the entry is busy.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// What became of the token at the provider when an entry was removed (RFC 7009).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// No provider with a revocation endpoint is known for the entry.
    NotSupported,
}

/// What a broker is made of; the composition root fills it in.
pub struct Parts {
    /// Where token sets are kept.
    pub tokens: Arc<dyn TokenStore>,
    /// Where API keys are kept.
    pub keys: Arc<dyn KeyStore>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// The providers that the configuration names.
    pub providers: BTreeSet<Name>,
}

/// The handle to a broker. Clones share everything.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    /// Deliveries since the start, for `GetBucketStats`, `status` and nothing else.
    stats: Stats,
    /// Set once, when the broker begins to stop: from then on no call is begun.
    stopping: AtomicBool,
}

impl Broker {
    /// Puts a broker together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            inner: Arc::new(Inner {
                parts,
                stats: Stats::default(),
                stopping: AtomicBool::new(false),
            }),
        }
    }

    /// Hands out a usable access token of the entry.
    ///
    /// `min_validity` is how long the token shall still be valid, capped at half its lifetime. If it cannot be met,
    /// a token that has not expired is still better than none and is returned.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] before the store is touched; [`Error::NoEntry`]; [`Error::NeedsLogin`] or
    /// [`Error::ProviderNotFound`] if the token has expired; a store's failure.
    pub async fn token(&self, caller: &Caller, key: &EntryKey, min_validity: Duration) -> Result<AccessToken, Error> {
        self.begin()?;
        caller.require(Right::Read, key)?;
        let stored = self.existing(key).await?;
        let now = self.inner.parts.clock.now();
        let expiry = stored.tokens.expiry.as_ref();
        // The order of preference: a usable token, then one that has at least not expired, then an error that says why.
        if !timing::usable(expiry, &now, min_validity) && timing::expired(expiry, &now) {
            return Err(self.cannot_renew(key, &stored.tokens));
        }
        self.inner.stats.delivered(key, now.wall);
        Ok(stored.tokens.to_access_token(&stored.revision, &now))
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
            let mut guard = broker.inner.parts.tokens.lock(&key, LOCK_WAIT).await?;
            let stored = guard.read().await?.ok_or_else(|| Error::NoEntry(key.clone()))?;
            let merged = stored.tokens.merge_saved(saved, by, &broker.inner.parts.clock.now());
            guard.write(merged, OverCorrupt::Refuse).await?;
            Ok(())
        })
        .await
    }

    /// Removes the entry. When it returns, the entry is gone durably.
    ///
    /// # Errors
    /// [`Error::Unauthorized`], [`Error::NoEntry`], [`Error::Store`].
    pub async fn remove_token(&self, caller: &Caller, key: &EntryKey) -> Result<Revocation, Error> {
        self.begin()?;
        caller.require(Right::Remove, key)?;
        // A corrupt entry can be removed, so only absence ends here. Locks are kept for ever: a sandbox must not have one
        // made for every name it can think of. After a change that failed, absence may not be durable yet, and the store
        // has to see to it.
        let tokens = &self.inner.parts.tokens;
        if matches!(tokens.read(key).await, Ok(None)) && tokens.check().await.is_ok() {
            return Err(Error::NoEntry(key.clone()));
        }
        let (broker, key) = (self.clone(), key.clone());
        owned(async move {
            let mut guard = broker.inner.parts.tokens.lock(&key, LOCK_WAIT).await?;
            if !guard.remove().await? {
                return Err(Error::NoEntry(key));
            }
            broker.inner.stats.forget(&key);
            Ok(Revocation::NotSupported)
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
            let mut guard = broker.inner.parts.tokens.lock(&key, LOCK_WAIT).await?;
            Ok(guard.write(tokens, OverCorrupt::Replace).await?)
        })
        .await
    }

    /// The providers of which the caller may read at least one stored entry.
    ///
    /// # Errors
    /// [`Error::Store`]: a list whose store fails is an error, never an empty list.
    pub async fn list_providers(&self, caller: &Caller, page: &PageRequest<Name>) -> Result<Page<Name>, Error> {
        self.begin()?;
        let providers: BTreeSet<Name> = self
            .readable(caller)
            .await?
            .into_iter()
            .map(|key| key.provider)
            .collect();
        Ok(page.cut(providers))
    }

    /// The buckets of a provider that the caller may read.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list_buckets(
        &self,
        caller: &Caller,
        provider: &Name,
        page: &PageRequest<Name>,
    ) -> Result<Page<Name>, Error> {
        self.begin()?;
        let buckets = self
            .readable(caller)
            .await?
            .into_iter()
            .filter(|key| key.provider == *provider)
            .map(|key| key.bucket);
        Ok(page.cut(buckets))
    }

    /// How often the entry's token was delivered by this broker. Asking is not a use.
    ///
    /// # Errors
    /// [`Error::Unauthorized`], [`Error::NoEntry`], [`Error::Store`].
    pub async fn bucket_stats(&self, caller: &Caller, key: &EntryKey) -> Result<BucketStats, Error> {
        self.begin()?;
        caller.require(Right::Read, key)?;
        self.existing(key).await?;
        Ok(self.inner.stats.of(key, |other| caller.policy.may_read(other)))
    }

    /// Hands out an API key.
    ///
    /// # Errors
    /// [`Error::UnauthorizedKey`] before the store is touched; [`Error::NoKey`]; [`Error::Store`].
    pub async fn api_key(&self, caller: &Caller, name: &Name) -> Result<Arc<SecretString>, Error> {
        self.begin()?;
        caller.require_key(name)?;
        let key = self.inner.parts.keys.read(name).await?;
        let key = key.ok_or_else(|| Error::NoKey(name.clone()))?;
        self.inner.stats.delivered_key();
        Ok(key)
    }

    /// The names of the API keys that the caller may read.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list_api_keys(&self, caller: &Caller, page: &PageRequest<Name>) -> Result<Page<Name>, Error> {
        self.begin()?;
        let names = self.inner.parts.keys.list().await?;
        Ok(page.cut(names.into_iter().filter(|name| caller.policy.may_read_key(name))))
    }

    /// Sets an API key. For the host only.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn set_api_key(&self, name: &Name, key: SecretString) -> Result<(), Error> {
        let (broker, name) = (self.clone(), name.clone());
        owned(async move { Ok(broker.inner.parts.keys.write(&name, key, LOCK_WAIT).await?) }).await
    }

    /// Removes an API key. For the host only.
    ///
    /// # Errors
    /// [`Error::NoKey`], [`Error::Store`].
    pub async fn remove_api_key(&self, name: &Name) -> Result<(), Error> {
        let (broker, name) = (self.clone(), name.clone());
        owned(async move {
            if broker.inner.parts.keys.remove(&name, LOCK_WAIT).await? {
                Ok(())
            } else {
                Err(Error::NoKey(name))
            }
        })
        .await
    }

    /// Whether the broker can do its work now: the truth behind the health service.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn check(&self) -> Result<(), Error> {
        self.begin()?;
        Ok(self.inner.parts.tokens.check().await?)
    }

    /// From now on every call answers [`Error::ShuttingDown`].
    pub fn begin_shutdown(&self) {
        self.inner.stopping.store(true, Ordering::Release);
    }

    /// Refuses a call that comes after the broker began to stop.
    fn begin(&self) -> Result<(), Error> {
        if self.inner.stopping.load(Ordering::Acquire) {
            return Err(Error::ShuttingDown);
        }
        Ok(())
    }

    /// The stored entry, or [`Error::NoEntry`].
    async fn existing(&self, key: &EntryKey) -> Result<Arc<StoredTokens>, Error> {
        let stored = self.inner.parts.tokens.read(key).await?;
        stored.ok_or_else(|| Error::NoEntry(key.clone()))
    }

    /// Every stored entry that the caller may read.
    async fn readable(&self, caller: &Caller) -> Result<Vec<EntryKey>, StoreError> {
        let mut keys = self.inner.parts.tokens.list().await?;
        keys.retain(|key| caller.policy.may_read(key));
        Ok(keys)
    }

    /// Why an expired token cannot be renewed, so that the message names the mend that helps.
    fn cannot_renew(&self, key: &EntryKey, tokens: &TokenSet) -> Error {
        if tokens.refresh_token.is_some() && !self.inner.parts.providers.contains(&key.provider) {
            Error::ProviderNotFound(key.clone())
        } else {
            Error::NeedsLogin(key.clone())
        }
    }
}

/// Runs a change in a task that the broker owns: a caller that goes away stops waiting, it never aborts the change.
async fn owned<T: Send + 'static>(change: impl Future<Output = Result<T, Error>> + Send + 'static) -> Result<T, Error> {
    tokio::spawn(change.in_current_span())
        .await
        .unwrap_or_else(|panic| Err(Error::Internal(panic.into())))
}
