//! A store that fails, panics or dawdles when a test tells it to.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use credbroker::{
    credential::{EntryKey, Name},
    oauth::{self, Outcome, Revoked, TokenKind},
    store::{KeyStore, Operation, OverCorrupt, StoreError, StoredTokens, TokenGuard, TokenStore, memory::MemoryStore},
};
use secrecy::SecretString;
use tokio::sync::watch;

/// A provider to which every refresh token leads to the same.
pub(crate) struct Provider(pub(crate) fn() -> Outcome);

#[async_trait]
impl oauth::Provider for Provider {
    async fn refresh(&self, _refresh_token: &SecretString) -> Outcome {
        (self.0)()
    }

    async fn revoke(&self, _token: &SecretString, _kind: TokenKind) -> Revoked {
        Revoked::NotSupported
    }

    fn default_lifetime(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn may_repeat_ambiguous(&self) -> bool {
        true
    }
}

/// What only the host's log may say.
pub(crate) const INNER_TEXT: &str = "/home/alice/.local/share says rt-canary-7f3a";

/// What the next look at the store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Panic,
    Locked,
    Corrupt,
    NewerFormat,
    Busy,
    Unavailable,
}

impl Fault {
    fn strike(self) -> StoreError {
        let what = || INNER_TEXT.to_owned();
        match self {
            Self::Panic => panic!("{INNER_TEXT}"),
            Self::Locked => StoreError::Locked { mend: what() },
            Self::Corrupt => StoreError::Corrupt {
                what: what(),
                detail: what(),
            },
            Self::NewerFormat => StoreError::NewerFormat {
                what: what(),
                format: 99,
            },
            Self::Busy => StoreError::Busy {
                what: what(),
                holder: None,
            },
            Self::Unavailable => StoreError::Unavailable {
                operation: Operation::Read,
                what: what(),
                cause: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(what())),
            },
        }
    }
}

/// What a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A record with the mark of a refresh that is about to begin.
    Intent,
    /// Any other record.
    Record,
    Removal,
}

/// The memory store with a will of its own.
#[derive(Clone)]
pub(crate) struct Store {
    memory: MemoryStore,
    script: Arc<Script>,
}

struct Script {
    fault: Mutex<Option<Fault>>,
    /// Only changes fail.
    on_change: Mutex<Option<Fault>>,
    /// Only such changes fail; `None`: every change.
    only: Mutex<Option<Change>>,
    /// Changes that were tried, and whether they failed.
    changed: Mutex<Vec<(Change, bool)>>,
    /// A record that came about past every lock, as from a backup: what is read, until the next change.
    restored: Mutex<Option<(EntryKey, Arc<StoredTokens>)>>,
    /// Whoever holds a lock finds a record that cannot be decrypted.
    corrupt: Mutex<bool>,
    /// Whether changes and reads may go on.
    changes: watch::Sender<bool>,
    reads: watch::Sender<bool>,
    /// Whether a look at many records comes back.
    looks: watch::Sender<bool>,
    /// Changes that have begun.
    begun: watch::Sender<usize>,
    touched: AtomicUsize,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            memory: MemoryStore::new(),
            script: Arc::new(Script {
                fault: Mutex::new(None),
                on_change: Mutex::new(None),
                only: Mutex::new(None),
                changed: Mutex::default(),
                restored: Mutex::default(),
                corrupt: Mutex::default(),
                changes: watch::Sender::new(true),
                reads: watch::Sender::new(true),
                looks: watch::Sender::new(true),
                begun: watch::Sender::new(0),
                touched: AtomicUsize::new(0),
            }),
        }
    }

    /// From now on everything fails this way, or nothing does.
    pub(crate) fn fail(&self, fault: impl Into<Option<Fault>>) {
        *self.script.fault.lock().unwrap() = fault.into();
    }

    /// From now on every change fails this way, after the lock was had.
    pub(crate) fn fail_changes(&self, fault: impl Into<Option<Fault>>) {
        *self.script.only.lock().unwrap() = None;
        *self.script.on_change.lock().unwrap() = fault.into();
    }

    /// From now on every change of this kind fails this way, and no other.
    pub(crate) fn fail_only(&self, kind: Change, fault: Fault) {
        *self.script.only.lock().unwrap() = Some(kind);
        *self.script.on_change.lock().unwrap() = Some(fault);
    }

    /// The changes that were tried so far, and whether each went well.
    pub(crate) fn changed(&self) -> Vec<(Change, bool)> {
        self.script.changed.lock().unwrap().clone()
    }

    /// The entry as it is stored, without asking the script.
    pub(crate) async fn peek(&self, key: &EntryKey) -> Option<Arc<StoredTokens>> {
        match self.restored(key) {
            Some(record) => Some(record),
            None => TokenStore::read(&self.memory, key).await.unwrap(),
        }
    }

    /// Replaces a record past its lock, as a restored backup does.
    pub(crate) fn restore(&self, key: &EntryKey, record: StoredTokens) {
        *self.script.restored.lock().unwrap() = Some((key.clone(), Arc::new(record)));
    }

    /// From now on the records cannot be decrypted any more, as far as those see who hold a lock.
    pub(crate) fn corrupt(&self) {
        *self.script.corrupt.lock().unwrap() = true;
    }

    fn restored(&self, key: &EntryKey) -> Option<Arc<StoredTokens>> {
        let restored = self.script.restored.lock().unwrap();
        let (_, record) = restored.as_ref().filter(|(restored, _)| restored == key)?;
        Some(Arc::clone(record))
    }

    /// Every key, without asking the script.
    pub(crate) async fn keys(&self) -> Vec<EntryKey> {
        TokenStore::list(&self.memory).await.unwrap()
    }

    /// The lock of the memory below, which nobody who asks this store can have at the same time.
    pub(crate) async fn below(&self, key: &EntryKey) -> Box<dyn TokenGuard> {
        self.memory.lock(key, Duration::ZERO).await.unwrap()
    }

    /// Changes wait.
    pub(crate) fn hold_changes(&self) {
        self.script.changes.send_replace(false);
    }

    /// Changes that waited go on.
    pub(crate) fn let_changes_go(&self) {
        self.script.changes.send_replace(true);
    }

    /// Reads wait.
    pub(crate) fn hold_reads(&self) {
        self.script.reads.send_replace(false);
    }

    pub(crate) fn let_reads_go(&self) {
        self.script.reads.send_replace(true);
    }

    /// From now on no look at many records comes back.
    pub(crate) fn hold_looks(&self) {
        self.script.looks.send_replace(false);
    }

    /// Waits until so many changes have begun.
    pub(crate) async fn changes_begun(&self, count: usize) {
        self.script
            .begun
            .subscribe()
            .wait_for(|begun| *begun >= count)
            .await
            .unwrap();
    }

    /// How often anything was asked of it.
    pub(crate) fn touched(&self) -> usize {
        self.script.touched.load(Ordering::SeqCst)
    }

    async fn touch(&self) -> Result<(), StoreError> {
        self.script.touched.fetch_add(1, Ordering::SeqCst);
        self.script.reads.subscribe().wait_for(|go| *go).await.unwrap();
        let fault = *self.script.fault.lock().unwrap();
        fault.map_or(Ok(()), |fault| Err(fault.strike()))
    }

    async fn change(&self, kind: Change) -> Result<(), StoreError> {
        self.script.begun.send_modify(|begun| *begun += 1);
        self.script.changes.subscribe().wait_for(|go| *go).await.unwrap();
        let only = *self.script.only.lock().unwrap();
        let fault = *self.script.on_change.lock().unwrap();
        let fault = fault.filter(|_| only.is_none_or(|only| only == kind));
        self.script.changed.lock().unwrap().push((kind, fault.is_none()));
        fault.map_or(Ok(()), |fault| Err(fault.strike()))
    }
}

#[async_trait]
impl TokenStore for Store {
    async fn read(&self, key: &EntryKey) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        self.touch().await?;
        Ok(self.peek(key).await)
    }

    async fn changed(&self, known: Vec<(EntryKey, Arc<StoredTokens>)>) -> Vec<EntryKey> {
        self.script.looks.subscribe().wait_for(|go| *go).await.unwrap();
        known.into_iter().map(|(key, _)| key).collect()
    }

    async fn list(&self) -> Result<Vec<EntryKey>, StoreError> {
        self.touch().await?;
        TokenStore::list(&self.memory).await
    }

    async fn lock(&self, key: &EntryKey, wait: Duration) -> Result<Box<dyn TokenGuard>, StoreError> {
        self.touch().await?;
        let guard = self.memory.lock(key, wait).await?;
        let store = self.clone();
        let key = key.clone();
        Ok(Box::new(Guard { guard, store, key }))
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.touch().await
    }
}

struct Guard {
    guard: Box<dyn TokenGuard>,
    store: Store,
    key: EntryKey,
}

#[async_trait]
impl TokenGuard for Guard {
    async fn read(&self) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        if *self.store.script.corrupt.lock().unwrap() {
            return Err(Fault::Corrupt.strike());
        }
        Ok(self.store.peek(&self.key).await)
    }

    async fn put(&mut self, record: Arc<StoredTokens>, over_corrupt: OverCorrupt) -> Result<(), StoreError> {
        let kind = record.intent.as_ref().map_or(Change::Record, |_| Change::Intent);
        self.store.change(kind).await?;
        let corrupt = std::mem::take(&mut *self.store.script.corrupt.lock().unwrap());
        if corrupt && over_corrupt == OverCorrupt::Refuse {
            return Err(Fault::Corrupt.strike());
        }
        *self.store.script.restored.lock().unwrap() = None;
        self.guard.put(record, over_corrupt).await
    }

    async fn remove(&mut self) -> Result<bool, StoreError> {
        self.store.change(Change::Removal).await?;
        self.guard.remove().await
    }
}

#[async_trait]
impl KeyStore for Store {
    async fn read(&self, name: &Name) -> Result<Option<Arc<SecretString>>, StoreError> {
        self.touch().await?;
        KeyStore::read(&self.memory, name).await
    }

    async fn list(&self) -> Result<Vec<Name>, StoreError> {
        self.touch().await?;
        KeyStore::list(&self.memory).await
    }

    async fn write(&self, name: &Name, key: SecretString, wait: Duration) -> Result<(), StoreError> {
        self.touch().await?;
        KeyStore::write(&self.memory, name, key, wait).await
    }

    async fn remove(&self, name: &Name, wait: Duration) -> Result<bool, StoreError> {
        self.touch().await?;
        KeyStore::remove(&self.memory, name, wait).await
    }
}
