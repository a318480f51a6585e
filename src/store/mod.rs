//! Where token sets and API keys are kept.
//!
//! Two traits, [`TokenStore`] and [`KeyStore`], and a file per backend. A backend is chosen explicitly and never
//! switched silently. Writing needs a guard, and a guard is the entry's lock: whoever can write holds it, across
//! processes. Absent, locked, corrupt and unreadable are different answers, all the way to the client.

mod counts;
pub mod file;
pub mod memory;
mod queue;

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;
use zeroize::Zeroizing;

pub use self::counts::StoreErrors;
use crate::credential::{EntryKey, Intent, Name, Revision, TokenSet};

/// Two secrets that are derived from one identity.
pub type DerivedKeys = [Zeroizing<[u8; 32]>; 2];

/// A token set as it is stored.
#[derive(Debug, Clone)]
pub struct StoredTokens {
    /// Identifies this version.
    pub revision: Revision,
    /// The token set.
    pub tokens: TokenSet,
    /// A refresh that is under way, here or elsewhere, or whose outcome nobody knows. Boxed: hardly any record has one.
    pub intent: Option<Box<Intent>>,
}

impl StoredTokens {
    /// A new version of an entry, under a revision of its own.
    #[must_use]
    pub fn new(tokens: TokenSet) -> Self {
        Self {
            revision: Revision::random(),
            tokens,
            intent: None,
        }
    }

    /// A new version that takes the place of `before` whole, as a login or an import does. If it has the same refresh token,
    /// what is not known about that is still not known.
    #[must_use]
    pub fn replacing(before: Option<&Self>, tokens: TokenSet) -> Self {
        let mut record = Self::new(tokens);
        if let (Some(before), Some(refresh_token)) = (before, &record.tokens.refresh_token) {
            record.intent = before.intent.clone().filter(|intent| intent.is_about(refresh_token));
        }
        record
    }
}

/// Keeps token sets. Cheap to share; every method may be called from many tasks at once.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// The entry as it is stored, `None` if there is none. May come from memory, at most 1 s old.
    async fn read(&self, key: &EntryKey) -> Result<Option<Arc<StoredTokens>>, StoreError>;

    /// Those of these entries that are stored otherwise than so, for all that is known. Whoever follows many entries asks
    /// this of all at once, instead of reading each.
    async fn changed(&self, known: Vec<(EntryKey, Arc<StoredTokens>)>) -> Vec<EntryKey> {
        known.into_iter().map(|(key, _)| key).collect()
    }

    /// Every entry, in order of key. An entry that cannot be decrypted is listed, too.
    async fn list(&self) -> Result<Vec<EntryKey>, StoreError>;

    /// Takes the entry's lock, across processes; waits at most `wait`, without blocking a thread. The lock is free
    /// again when the guard is dropped or its process dies; it is never stolen by age.
    async fn lock(&self, key: &EntryKey, wait: Duration) -> Result<Box<dyn TokenGuard>, StoreError>;

    /// Who holds the entry's lock, as far as they told (see [`TokenGuard::note`]); for people.
    async fn holder(&self, key: &EntryKey) -> Option<Holder> {
        let _ = key;
        None
    }

    /// Whether the store can be read now and, after a failed write, whether it can be written again.
    async fn check(&self) -> Result<(), StoreError>;

    /// Secrets that are derived from what decrypts the store, two of each identity, for uses of their own: `infos` says which.
    /// Both are of the same identity, also if it is replaced meanwhile. The first pair is that of the identity that comes
    /// first. None: nothing is encrypted. The identity itself never leaves.
    ///
    /// # Errors
    /// The identity cannot be had. It is made if this is a new store and `make` asks for it; else there is none.
    async fn derive_keys(&self, infos: [&'static str; 2], make: bool) -> Result<Vec<DerivedKeys>, StoreError> {
        let _ = (infos, make);
        Ok(Vec::new())
    }

    /// How often it failed, with API keys, too. `None`: it does not count.
    fn errors(&self) -> Option<&StoreErrors> {
        None
    }
}

/// The lock of one entry, and with it the right to write that entry.
#[async_trait]
pub trait TokenGuard: Send + Sync {
    /// Reads the entry from the store itself, not from memory.
    async fn read(&self) -> Result<Option<Arc<StoredTokens>>, StoreError>;

    /// Replaces the entry by exactly this, revision and all. When it returns, the record is durable; if it fails, the old
    /// one is there or the new one, never neither: undoing what could not be made durable might lose both.
    /// `over_corrupt`: whether an entry that cannot be decrypted may be replaced (a login, an import); an entry of a newer
    /// format is never replaced.
    async fn put(&mut self, record: Arc<StoredTokens>, over_corrupt: OverCorrupt) -> Result<(), StoreError>;

    /// Replaces the entry under a new revision, without an intent; for the rest as [`put`](Self::put).
    async fn write(&mut self, tokens: TokenSet, over_corrupt: OverCorrupt) -> Result<Arc<StoredTokens>, StoreError> {
        let record = Arc::new(StoredTokens::new(tokens));
        self.put(Arc::clone(&record), over_corrupt).await?;
        Ok(record)
    }

    /// Removes the entry durably, also a corrupt one. `false`: there was none.
    async fn remove(&mut self) -> Result<bool, StoreError>;

    /// Tells other processes what the lock is held for, as well as the store can: it is for people, and nothing depends
    /// on it.
    fn note(&self, state: HolderState) {
        let _ = state;
    }
}

/// What an entry's lock is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderState {
    /// A refresh is under way.
    Refreshing,
    /// The new token set could not be saved yet.
    Unsaved,
}

impl HolderState {
    /// The word for it, in messages and lock files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refreshing => "refreshing",
            Self::Unsaved => "unsaved",
        }
    }

    /// The state of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Refreshing, Self::Unsaved]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// Who holds an entry's lock, as far as it told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// What it holds the lock for.
    pub state: HolderState,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}, {}", self.pid, self.state.as_str())
    }
}

/// Keeps API keys, the same way.
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// The API key, `None` if there is none. May come from memory, at most 1 s old.
    async fn read(&self, name: &Name) -> Result<Option<Arc<SecretString>>, StoreError>;

    /// As for [`TokenStore::changed`].
    async fn changed(&self, known: Vec<(Name, Arc<SecretString>)>) -> Vec<Name> {
        known.into_iter().map(|(name, _)| name).collect()
    }

    /// Every name, in order.
    async fn list(&self) -> Result<Vec<Name>, StoreError>;

    /// Sets the key durably, under its lock. Replaces a corrupt one; never one of a newer format.
    async fn write(&self, name: &Name, key: SecretString, wait: Duration) -> Result<(), StoreError>;

    /// Removes the key durably, under its lock. `false`: there was none.
    async fn remove(&self, name: &Name, wait: Duration) -> Result<bool, StoreError>;
}

/// Whether a write may replace an entry that cannot be decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverCorrupt {
    /// A login or an import: what is stored is replaced whole, so nothing is lost that was not lost before.
    Replace,
    /// Everything else.
    Refuse,
}

/// What a store was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading an entry or key.
    Read,
    /// Listing.
    List,
    /// Writing.
    Write,
    /// Removing.
    Remove,
    /// Taking a lock.
    Lock,
    /// Opening the store.
    Open,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
            Self::Remove => "remove",
            Self::Lock => "lock",
            Self::Open => "open",
        })
    }
}

/// The cause below a [`StoreError`], for the log.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// Why a store failed. The message is for the host; a sandbox only learns which of these it was. It is the problem and,
/// after it, the mend.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The identity that decrypts the store cannot be had.
    Locked {
        /// What is wrong and what to do.
        mend: String,
    },
    /// The record is there but cannot be decrypted, or is malformed, or belongs to another name.
    Corrupt {
        /// The record, for people.
        what: String,
        /// What was found.
        detail: String,
    },
    /// The record was written by a newer version; it is neither read nor replaced.
    NewerFormat {
        /// The record, for people.
        what: String,
        /// Its format version.
        format: u64,
    },
    /// Another process, or another task of this one, holds the entry's lock.
    Busy {
        /// The record, for people.
        what: String,
        /// Who holds it, if that is known.
        holder: Option<Holder>,
    },
    /// The system refused.
    Unavailable {
        /// What the store was doing.
        operation: Operation,
        /// To what, for people.
        what: String,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
}

impl StoreError {
    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::Locked { .. } => "the store is locked".to_owned(),
            Self::Corrupt { what, detail } => format!("{what} is corrupt: {detail}"),
            Self::NewerFormat { what, format } => {
                format!("{what} was written by a newer credbroker (format {format})")
            }
            Self::Busy { what, holder: None } => format!("{what} is busy in another process"),
            Self::Busy {
                what,
                holder: Some(holder),
            } => format!("{what} is busy in another process ({holder})"),
            Self::Unavailable { operation, what, cause } => format!("cannot {operation} {what}: {cause}"),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn mend(&self) -> &str {
        match self {
            Self::Locked { mend } => mend,
            Self::Corrupt { .. } => "restore it from a backup, or store it anew",
            Self::NewerFormat { .. } => "upgrade credbroker to use it",
            Self::Busy { .. } => "try again",
            Self::Unavailable { cause, .. } if is_not_a_directory(&**cause) => {
                "a file is where a directory has to be: move it away, or restore the directory from a backup"
            }
            Self::Unavailable { .. } => "check the permissions, the free space and the file system there",
        }
    }
}

/// Whether the system said so, somewhere behind this.
fn is_not_a_directory(mut cause: &(dyn StdError + 'static)) -> bool {
    loop {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::NotADirectory;
        }
        match cause.source() {
            Some(source) => cause = source,
            None => return false,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // After a problem that has a colon itself, a second one would read as a list.
        let join = match self {
            Self::Corrupt { .. } | Self::Unavailable { .. } => "; ",
            Self::Locked { .. } | Self::NewerFormat { .. } | Self::Busy { .. } => ": ",
        };
        write!(f, "{}{join}{}", self.problem(), self.mend())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is encrypted in memory, so there is nothing to derive a key from.
    #[tokio::test]
    async fn a_store_in_memory_counts_no_failures_and_has_no_keys() {
        let store = memory::MemoryStore::new();
        assert!(store.errors().is_none());
        for make in [false, true] {
            assert!(
                store
                    .derive_keys(["one use", "another"], make)
                    .await
                    .unwrap()
                    .is_empty()
            );
        }
    }

    #[test]
    fn the_mend_is_for_what_the_system_said() {
        for (kind, mend) in [
            (std::io::ErrorKind::NotADirectory, "move it away"),
            (std::io::ErrorKind::PermissionDenied, "check the permissions"),
        ] {
            let error = StoreError::Unavailable {
                operation: Operation::Write,
                what: "it".to_owned(),
                cause: Arc::new(std::io::Error::from(kind)),
            };
            assert!(error.mend().contains(mend), "{error}");
        }
    }
}
