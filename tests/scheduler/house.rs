//! A scheduler, a coordinator, a store, two providers and their clocks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use credbroker::{
    broker::{coordinator::RefreshCoordinator, scheduler::ProactiveScheduler},
    clock::{Clock, Now},
    credential::{EntryKey, Expiry, TokenSet},
    oauth::Provider,
    store::{Operation, OverCorrupt, StoreError, StoredTokens, TokenGuard, TokenStore, memory::MemoryStore},
};
use secrecy::SecretString;
use tokio::time::Instant;

use crate::{clock::PausedClock, provider::FakeProvider};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An entry of the provider `p`.
pub(crate) fn entry(bucket: &str) -> EntryKey {
    EntryKey::parse("p", bucket).unwrap()
}

/// An entry of the provider `q`.
pub(crate) fn other(bucket: &str) -> EntryKey {
    EntryKey::parse("q", bucket).unwrap()
}

pub(crate) struct House {
    pub(crate) clock: PausedClock,
    pub(crate) store: Store,
    /// The provider `p`, whose tokens are good for an hour if nothing else was said.
    pub(crate) p: Arc<FakeProvider>,
    /// The provider `q`.
    pub(crate) q: Arc<FakeProvider>,
    pub(crate) coordinator: RefreshCoordinator,
    pub(crate) scheduler: ProactiveScheduler,
    /// What chance says.
    pub(crate) fraction: Arc<Mutex<f64>>,
    pub(crate) start: Instant,
}

impl House {
    /// Without jitter.
    pub(crate) fn new() -> Self {
        Self::with(HOUR, 0.0)
    }

    /// The providers' tokens are good for so long, and chance says this.
    pub(crate) fn with(lifetime: Duration, fraction: f64) -> Self {
        let (clock, store) = (PausedClock::new(), Store::default());
        let (p, q) = (FakeProvider::new(lifetime), FakeProvider::new(lifetime));
        let providers: [(_, Arc<dyn Provider>); 2] = [
            ("p", Arc::<FakeProvider>::clone(&p)),
            ("q", Arc::<FakeProvider>::clone(&q)),
        ];
        let providers: BTreeMap<_, _> = providers
            .map(|(name, provider)| (name.parse().unwrap(), provider))
            .into();
        let coordinator = RefreshCoordinator::new(Arc::new(store.clone()), Arc::new(clock.clone()), providers);
        let fraction = Arc::new(Mutex::new(fraction));
        let chance = Arc::clone(&fraction);
        let scheduler = ProactiveScheduler::new(
            coordinator.clone(),
            Arc::new(clock.clone()),
            Arc::new(move || *chance.lock().unwrap()),
        );
        Self {
            clock,
            store,
            p,
            q,
            coordinator,
            scheduler,
            fraction,
            start: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// A token set that is good for so long from now on.
    pub(crate) fn tokens(&self, key: &EntryKey, lifetime: Duration) -> TokenSet {
        TokenSet {
            access_token: SecretString::from("at-0"),
            refresh_token: Some(SecretString::from(format!("{}#0", key.bucket))),
            expiry: Some(Expiry::from_lifetime(lifetime, &self.now())),
            token_type: "Bearer".to_owned(),
            scope: String::new(),
            subject: None,
            extra: BTreeMap::new(),
            saved_by: "import".to_owned(),
        }
    }

    pub(crate) async fn put(&self, key: &EntryKey, tokens: TokenSet) -> Arc<StoredTokens> {
        let mut guard = self.store.lock(key, secs(1)).await.unwrap();
        guard.write(tokens, OverCorrupt::Replace).await.unwrap()
    }

    /// Stores a token set that is good for so long from now on.
    pub(crate) async fn import(&self, key: &EntryKey, lifetime: Duration) -> Arc<StoredTokens> {
        self.put(key, self.tokens(key, lifetime)).await
    }

    /// Hands out what is stored, as the broker does.
    pub(crate) async fn hand_out(&self, key: &EntryKey) -> Arc<StoredTokens> {
        let stored = self.store.memory.read(key).await.unwrap().unwrap();
        self.scheduler.schedule_if_needed(key, &stored);
        stored
    }

    /// Stores a token set and hands it out.
    pub(crate) async fn arm(&self, key: &EntryKey, lifetime: Duration) -> Arc<StoredTokens> {
        self.import(key, lifetime).await;
        self.hand_out(key).await
    }

    /// What remains of the stored token.
    pub(crate) async fn remaining(&self, key: &EntryKey) -> Duration {
        let stored = self.store.memory.read(key).await.unwrap().unwrap();
        stored.tokens.expiry.as_ref().unwrap().remaining(&self.now())
    }

    /// Removes the entry from the store.
    pub(crate) async fn remove(&self, key: &EntryKey) {
        let mut guard = self.store.lock(key, secs(1)).await.unwrap();
        assert!(guard.remove().await.unwrap());
    }

    /// When the provider `p` was asked: seconds since the start of the test.
    pub(crate) fn moments(&self) -> Vec<u64> {
        let presented = self.p.presented();
        presented.iter().map(|p| (p.at - self.start).as_secs()).collect()
    }

    /// The pauses between the presentations at `p`, in seconds.
    pub(crate) fn gaps(&self) -> Vec<u64> {
        let presented = self.p.presented();
        let next = presented.iter().skip(1);
        presented
            .iter()
            .zip(next)
            .map(|(one, next)| (next.at - one.at).as_millis() as u64 / 1000)
            .collect()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.p.judge();
            self.q.judge();
        }
    }
}

/// Lets paused time run, timer by timer.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
    settle().await;
}

/// Lets every task that can go on do so.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// The memory store, whose reads fail when a test says so.
#[derive(Clone, Default)]
pub(crate) struct Store {
    pub(crate) memory: MemoryStore,
    pub(crate) unreadable: Arc<AtomicBool>,
}

#[async_trait]
impl TokenStore for Store {
    async fn read(&self, key: &EntryKey) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        if self.unreadable.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable {
                operation: Operation::Read,
                what: "it".to_owned(),
                cause: Arc::new(std::io::Error::other("a test says so")),
            });
        }
        TokenStore::read(&self.memory, key).await
    }

    async fn list(&self) -> Result<Vec<EntryKey>, StoreError> {
        TokenStore::list(&self.memory).await
    }

    async fn lock(&self, key: &EntryKey, wait: Duration) -> Result<Box<dyn TokenGuard>, StoreError> {
        self.memory.lock(key, wait).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.memory.check().await
    }
}
