//! The core: what a caller may have, and how it comes about.
//!
//! It knows stores, clocks and policies. It knows no gRPC, no HTTP, no path and no environment, so every decision here
//! can be tested without a socket. [`Broker`] is a cheap handle whose methods are the product; the service decodes a
//! call, asks the broker and encodes the answer, and the command line on the host does the same without a socket.

pub mod audit;
pub mod caller;
pub mod coordinator;
pub mod counts;
pub mod error;
pub mod journal;
pub mod login;
pub mod page;
pub mod policy;
pub mod scheduler;
mod stats;
pub mod status;
pub mod timing;
mod tokens;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use secrecy::SecretString;
use tracing::Instrument as _;

use crate::{
    clock::Clock,
    credential::{EntryKey, Name},
    oauth::Provider,
    store::{DerivedKeys, KeyStore, StoreError, StoreErrors, TokenStore},
};
use audit::Audit;
pub use caller::Caller;
use coordinator::RefreshCoordinator;
use counts::Counts;
pub use error::Error;
use login::{LoginParts, Logins};
use page::{Page, PageRequest};
use policy::Right;
pub use scheduler::Jitter;
use scheduler::ProactiveScheduler;
pub use stats::BucketStats;
use stats::Stats;
use watching::{Board, KeyStanding, Keys, Seats};
pub use watching::{KeyWatch, Watch};

/// How long a caller waits for an entry's lock before it is told that the entry is busy.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// What became of the token at the provider when an entry was removed (RFC 7009).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// No provider with a revocation endpoint is known for the entry.
    NotSupported,
    /// The provider confirmed it.
    Done,
    /// The provider refused or could not be asked.
    Failed,
    /// It goes on.
    Pending,
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
    pub providers: BTreeMap<Name, Arc<dyn Provider>>,
    /// When tokens are renewed.
    pub renewals: Renewals,
    /// What logins need.
    pub logins: LoginParts,
}

/// When a broker renews what it hands out.
#[derive(Clone)]
pub enum Renewals {
    /// Before it expires, at moments spread by this: what a process does that lives on.
    Ahead(Jitter),
    /// When somebody asks and there is nothing usable: what one command does.
    OnUse,
}

/// The handle to a broker. Clones share everything.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    coordinator: RefreshCoordinator,
    /// `None`: tokens are renewed on use only.
    scheduler: Option<ProactiveScheduler>,
    logins: Logins,
    /// Where it stands how the API keys are that somebody follows.
    keys: Board<Name, KeyStanding>,
    /// Who follows how much.
    seats: Seats,
    /// Deliveries since the start, for `GetBucketStats`, `status` and nothing else.
    stats: Stats,
    /// What keeps the record of its calls, if anything does.
    audit: OnceLock<Audit>,
    /// Set once, when the broker begins to stop: from then on no call is begun.
    stopping: AtomicBool,
}

impl Broker {
    /// Puts a broker together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let coordinator = RefreshCoordinator::new(
            Arc::clone(&parts.tokens),
            Arc::clone(&parts.clock),
            parts.providers.clone(),
        );
        let scheduler = match &parts.renewals {
            Renewals::OnUse => None,
            Renewals::Ahead(jitter) => Some(ProactiveScheduler::new(
                coordinator.clone(),
                Arc::clone(&parts.clock),
                Arc::clone(jitter),
            )),
        };
        Self {
            inner: Arc::new(Inner {
                logins: Logins::new(parts.logins.clone(), Arc::clone(coordinator.counts())),
                keys: Board::new(Keys {
                    keys: Arc::clone(&parts.keys),
                }),
                seats: Seats::default(),
                coordinator,
                scheduler,
                parts,
                stats: Stats::default(),
                audit: OnceLock::new(),
                stopping: AtomicBool::new(false),
            }),
        }
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
        owned(async move {
            let written = broker.inner.parts.keys.write(&name, key, LOCK_WAIT).await;
            broker.inner.keys.poke(&name);
            Ok(written?)
        })
        .await
    }

    /// Removes an API key. For the host only.
    ///
    /// # Errors
    /// [`Error::NoKey`], [`Error::Store`].
    pub async fn remove_api_key(&self, name: &Name) -> Result<(), Error> {
        let (broker, name) = (self.clone(), name.clone());
        owned(async move {
            let removed = broker.inner.parts.keys.remove(&name, LOCK_WAIT).await;
            broker.inner.keys.poke(&name);
            if removed? { Ok(()) } else { Err(Error::NoKey(name)) }
        })
        .await
    }

    /// Whether the broker can do its work now: the truth behind the health service.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn check(&self) -> Result<(), Error> {
        self.begin()?;
        self.inner.coordinator.check()?;
        if self.inner.audit.get().is_some_and(|audit| audit.check().is_err()) {
            return Err(Error::AuditUnavailable);
        }
        Ok(self.inner.parts.tokens.check().await?)
    }

    /// The keys of the audit chain, one of each identity of the store; the first is the one to write with. None: nothing is
    /// encrypted, or this is a new store and `make` does not ask for an identity.
    ///
    /// # Errors
    /// [`StoreError::Locked`]: the identity cannot be had.
    pub async fn audit_keys(&self, make: bool) -> Result<Vec<audit::chain::Key>, StoreError> {
        let infos = [audit::chain::KEY_INFO, audit::chain::KEY_ID_INFO];
        let derived = self.inner.parts.tokens.derive_keys(infos, make).await?;
        let key = |[secret, id]: DerivedKeys| audit::chain::Key::new(secret, &id);
        Ok(derived.into_iter().map(key).collect())
    }

    /// Has the broker's health depend on the record of its calls, where nothing happens without one. The first one counts.
    pub fn depends_on(&self, audit: Audit) {
        // A second one would be another composition root.
        let _ = self.inner.audit.set(audit);
    }

    /// What happened since the broker started.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        self.inner.coordinator.counts()
    }

    /// How often the store failed.
    #[must_use]
    pub fn store_errors(&self) -> Option<&StoreErrors> {
        self.inner.parts.tokens.errors()
    }

    /// How many token sets a provider gave that are not saved yet.
    #[must_use]
    pub fn unsaved(&self) -> usize {
        self.inner.coordinator.unsaved()
    }

    /// From now on every call answers [`Error::ShuttingDown`], and nothing new is asked of a provider.
    pub fn begin_shutdown(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.coordinator.begin_shutdown();
        self.inner.logins.begin_shutdown();
        if let Some(scheduler) = &self.inner.scheduler {
            scheduler.cancel_all();
        }
        self.close_watches();
    }

    /// Waits for what must not be cut off: an exchange with a provider that is on the wire, and its save; at most 20 s.
    /// To be called when no more calls come, or the process ends.
    pub async fn shutdown(&self) {
        self.begin_shutdown();
        tokio::join!(self.inner.coordinator.shutdown(), self.inner.logins.shutdown());
    }

    /// Refuses a call that comes after the broker began to stop.
    fn begin(&self) -> Result<(), Error> {
        if self.inner.stopping.load(Ordering::Acquire) {
            return Err(Error::ShuttingDown);
        }
        Ok(())
    }

    /// Every stored entry that the caller may read.
    async fn readable(&self, caller: &Caller) -> Result<Vec<EntryKey>, StoreError> {
        let mut keys = self.inner.parts.tokens.list().await?;
        keys.retain(|key| caller.policy.may_read(key));
        Ok(keys)
    }
}

/// Runs a change in a task that the broker owns: a caller that goes away stops waiting, it never aborts the change.
async fn owned<T: Send + 'static>(change: impl Future<Output = Result<T, Error>> + Send + 'static) -> Result<T, Error> {
    tokio::spawn(change.in_current_span())
        .await
        .unwrap_or_else(|panic| Err(Error::Internal(panic.into())))
}
