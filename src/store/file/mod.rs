//! The store of files: one `age`-encrypted file per entry and per API key, readable with the stock `age` tool.
//!
//! ```text
//! {path}/identity.txt                        decrypts everything (unless the configuration names another one)
//! {path}/tokens/{hex provider}/{hex bucket}.age
//! {path}/keys/{hex name}.age
//! {path}/locks/{hex provider}/{hex bucket}.lock, locks/keys/{hex name}.lock, locks/identity.lock
//! ```
//!
//! Several processes may use one store at once, on one host: a record changes only under its lock, whole, and durably.
//! Never on an async thread: every look at the disk runs on a blocking one, for at most 15 s.
//!
//! | file | job |
//! | --- | --- |
//! | `records` | reading through memory, changing under a lock: the order of things |
//! | `layout` | paths of names |
//! | `envelope` | what is inside a file |
//! | `identity`, `command` | the secret that decrypts it |
//! | `lock` | one writer at a time, across processes |
//! | `durable` | what survives a power cut |
//! | `cache` | what memory holds |
//! | `network` | file systems that hosts share |
//! | `blocking` | the way off the async threads |
//! | `diagnose` | what is wrong with a store, for its owner |

mod blocking;
mod cache;
pub(crate) mod command;
mod diagnose;
mod durable;
mod envelope;
mod identity;
mod layout;
mod lock;
mod network;
mod records;

pub use command::SecretCommand;
pub use diagnose::{Diagnosis, Finding, Outcome};

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::time::Instant;

use self::{
    blocking::{Doing, LIMIT, off_thread},
    durable::{AtPath, Directories},
    identity::{Keeper, Look},
    lock::Held,
    records::{Records, Shared, Trouble},
};
use super::{
    DerivedKeys, Holder, HolderState, KeyStore, Operation, OverCorrupt, StoreError, StoreErrors, StoredTokens,
    TokenGuard, TokenStore, queue::Queue,
};
use crate::credential::{EntryKey, Name};

/// Where the store is and what decrypts it.
#[derive(Debug, Clone)]
pub struct FileStoreConfig {
    /// The store's directory. It need not exist.
    pub path: PathBuf,
    /// What decrypts it.
    pub identity: IdentitySource,
    /// Whether it may lie on a file system that other hosts share.
    pub allow_network_fs: bool,
}

/// Where the identity comes from. Records are encrypted to every identity that it yields.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum IdentitySource {
    /// `identity.txt` in the store, made with the first record.
    #[default]
    Default,
    /// An age identity file that exists.
    File(PathBuf),
    /// A shell command that prints an age identity file.
    Command(SecretCommand),
}

impl fmt::Debug for IdentitySource {
    /// Without the command line, where people put passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("Default"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Command(_) => f.write_str("Command(..)"),
        }
    }
}

/// The store. Clones share locks and memory.
#[derive(Clone)]
pub struct FileStore {
    shared: Arc<Shared>,
    tokens: Arc<Records<StoredTokens>>,
    keys: Arc<Records<SecretString>>,
    errors: Arc<StoreErrors>,
}

impl FileStore {
    /// Opens the store, also one that does not exist yet. Nothing is made before it is needed, and a locked store opens,
    /// too: reading it is what fails.
    ///
    /// # Errors
    /// The store lies on a network file system and that is not allowed, or its path cannot be told.
    pub fn open(config: FileStoreConfig) -> Result<Self, StoreError> {
        let doing = Doing::new(Operation::Open, format!("the store {:?}", config.path));
        // The working directory may change later.
        let root = std::path::absolute(&config.path).map_err(|cause| doing.failed(cause))?;
        if !config.allow_network_fs
            && let Some(kind) = network::file_system(&root)
        {
            return Err(doing.failed(format!(
                "it is on a file system that other hosts may share ({kind}), where its locks may not hold: {}",
                network::MEND
            )));
        }
        let directories = Arc::new(Directories::default());
        let shared = Arc::new(Shared {
            identity: Keeper::new(root.clone(), config.identity, Arc::clone(&directories)),
            root,
            directories,
            queue: Queue::new(),
            trouble: Trouble::default(),
        });
        Ok(Self {
            tokens: Records::new(Arc::clone(&shared)),
            keys: Records::new(Arc::clone(&shared)),
            errors: Arc::default(),
            shared,
        })
    }

    async fn list_with<T: Send + 'static>(
        &self,
        list: impl FnOnce(&std::path::Path) -> Result<T, AtPath> + Send + 'static,
    ) -> Result<T, StoreError> {
        let doing = Doing::new(Operation::List, "the store");
        let (shared, context) = (Arc::clone(&self.shared), doing.clone());
        let listed = off_thread(&doing, Instant::now() + LIMIT, move || {
            list(&shared.root).map_err(|cause| context.failed(cause))
        });
        self.errors.count(Operation::List, listed.await)
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore")
            .field("path", &self.shared.root)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenStore for FileStore {
    async fn read(&self, key: &EntryKey) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        self.errors.count(Operation::Read, self.tokens.read(key).await)
    }

    async fn changed(&self, known: Vec<(EntryKey, Arc<StoredTokens>)>) -> Vec<EntryKey> {
        self.tokens.changed(known).await
    }

    async fn list(&self) -> Result<Vec<EntryKey>, StoreError> {
        self.list_with(layout::entries).await
    }

    async fn lock(&self, key: &EntryKey, wait: Duration) -> Result<Box<dyn TokenGuard>, StoreError> {
        let held = self.errors.count(Operation::Lock, self.tokens.lock(key, wait).await)?;
        Ok(Box::new(FileGuard {
            tokens: Arc::clone(&self.tokens),
            errors: Arc::clone(&self.errors),
            key: key.clone(),
            held,
        }))
    }

    async fn holder(&self, key: &EntryKey) -> Option<Holder> {
        self.tokens.holder(key).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let identity = self.shared.identity.get(Look::Current, Instant::now() + LIMIT).await;
        self.errors.count(Operation::Open, identity)?;
        self.list_with(layout::can_be_listed).await?;
        let doing = Doing::new(Operation::Write, "the store");
        let (shared, context) = (Arc::clone(&self.shared), doing.clone());
        let probed = off_thread(&doing, Instant::now() + LIMIT, move || {
            let probed = shared.trouble.probe(&shared.root, &shared.directories);
            probed.map_err(|cause| context.failed(cause))
        });
        self.errors.count(Operation::Write, probed.await)
    }

    async fn derive_keys(&self, infos: [&'static str; 2], make: bool) -> Result<Vec<DerivedKeys>, StoreError> {
        let look = if make { Look::Make } else { Look::Current };
        let identities = self.shared.identity.get(look, Instant::now() + LIMIT).await;
        let identities = self.errors.count(Operation::Open, identities)?;
        Ok(identities.map_or_else(Vec::new, |identities| identities.derive(infos)))
    }

    fn errors(&self) -> Option<&StoreErrors> {
        Some(&self.errors)
    }
}

/// The lock of one entry. What it was asked to change keeps the lock until it is done, also when this is dropped first.
struct FileGuard {
    tokens: Arc<Records<StoredTokens>>,
    errors: Arc<StoreErrors>,
    key: EntryKey,
    held: Arc<Held>,
}

#[async_trait]
impl TokenGuard for FileGuard {
    async fn read(&self) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        let looked = self.tokens.look(&self.key, Some(Arc::clone(&self.held))).await;
        self.errors.count(Operation::Read, looked)
    }

    async fn put(&mut self, record: Arc<StoredTokens>, over_corrupt: OverCorrupt) -> Result<(), StoreError> {
        let held = Arc::clone(&self.held);
        let written = self.tokens.write(&self.key, record, over_corrupt, held).await;
        self.errors.count(Operation::Write, written)
    }

    async fn remove(&mut self) -> Result<bool, StoreError> {
        let removed = self.tokens.remove(&self.key, Arc::clone(&self.held)).await;
        self.errors.count(Operation::Remove, removed)
    }

    fn note(&self, state: HolderState) {
        self.held.note(state);
    }
}

#[async_trait]
impl KeyStore for FileStore {
    async fn read(&self, name: &Name) -> Result<Option<Arc<SecretString>>, StoreError> {
        self.errors.count(Operation::Read, self.keys.read(name).await)
    }

    async fn changed(&self, known: Vec<(Name, Arc<SecretString>)>) -> Vec<Name> {
        self.keys.changed(known).await
    }

    async fn list(&self) -> Result<Vec<Name>, StoreError> {
        self.list_with(layout::keys).await
    }

    async fn write(&self, name: &Name, key: SecretString, wait: Duration) -> Result<(), StoreError> {
        let held = self.errors.count(Operation::Lock, self.keys.lock(name, wait).await)?;
        let written = self.keys.write(name, Arc::new(key), OverCorrupt::Replace, held).await;
        self.errors.count(Operation::Write, written)
    }

    async fn remove(&self, name: &Name, wait: Duration) -> Result<bool, StoreError> {
        let held = self.errors.count(Operation::Lock, self.keys.lock(name, wait).await)?;
        self.errors.count(Operation::Remove, self.keys.remove(name, held).await)
    }
}
