//! Looks at a store the way its owner would want to: one thing after another, each with what was found and what to do.
//!
//! Called by the `doctor` command alone. It makes nothing in a store that does not exist yet, repairs nothing, takes no
//! lock of a record, and what it reads of the records it does not keep. The only change is one file in the store's
//! directory, written, synced, locked and removed again.

mod locks;
mod places;

use std::path::Path;

use jiff::Timestamp;
use tokio::time::Instant;

use self::{
    locks::{is_held, look_at_locks},
    places::{Directory, look_at_directory, look_at_file_system, look_at_writing},
};
use super::{
    FileStore, FileStoreConfig, IdentitySource,
    blocking::{Doing, LIMIT},
    identity::{self, Look},
    layout, network,
    records::UNDECRYPTABLE,
};
use crate::{
    credential::EntryKey,
    store::{KeyStore, Operation, StoreError, StoredTokens, TokenStore},
};

/// What was found.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// One finding for each thing that was looked at, more where several records are bad.
    pub findings: Vec<Finding>,
    /// When the newest token set was stored, by the wall clock of that time.
    pub newest: Option<Timestamp>,
}

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// What was found.
    pub outcome: Outcome,
}

/// What was found.
#[derive(Debug)]
pub enum Outcome {
    /// It is as it should be.
    Good(String),
    /// It works, or could not be looked at.
    Notice {
        /// What was found.
        detail: String,
        /// What to do.
        mend: String,
    },
    /// It does not work.
    Bad {
        /// Why.
        error: StoreError,
        /// What to do, if that is not what the error says.
        mend: Option<String>,
    },
}

impl From<StoreError> for Outcome {
    fn from(error: StoreError) -> Self {
        Self::Bad { error, mend: None }
    }
}

impl Diagnosis {
    fn found(&mut self, check: &'static str, outcome: impl Into<Outcome>) {
        let outcome = outcome.into();
        self.findings.push(Finding { check, outcome });
    }

    fn good(&mut self, check: &'static str, detail: impl Into<String>) {
        self.found(check, Outcome::Good(detail.into()));
    }

    fn notice(&mut self, check: &'static str, detail: impl Into<String>, mend: impl Into<String>) {
        let (detail, mend) = (detail.into(), mend.into());
        self.found(check, Outcome::Notice { detail, mend });
    }

    /// Something that a failed check stands in the way of.
    fn left_out(&mut self, check: &'static str) {
        self.notice(check, "not checked", "mend what failed above first");
    }
}

impl FileStore {
    /// Looks at the store: its directory, file system, identity, every record, whether it can be written, its locks.
    /// Runs `identity_command` if that is where the identity comes from.
    pub async fn diagnose(config: FileStoreConfig) -> Diagnosis {
        let mut diagnosis = Diagnosis::default();
        let root = match std::path::absolute(&config.path) {
            Ok(root) => root,
            Err(cause) => {
                diagnosis.found("directory", opening(&config.path).failed(cause));
                return diagnosis;
            }
        };
        let directory = look_at_directory(&root, &mut diagnosis);
        look_at_file_system(
            &root,
            network::file_system(&root),
            config.allow_network_fs,
            &mut diagnosis,
        );
        if matches!(directory, Directory::Unfit) {
            for check in ["identity", "entries", "API keys", "writing", "locks"] {
                diagnosis.left_out(check);
            }
            return diagnosis;
        }
        let source = config.identity.clone();
        // What the file system means was said; here it would only end the look.
        let opened = Self::open(FileStoreConfig {
            allow_network_fs: true,
            ..config
        });
        match opened {
            Ok(store) => {
                let usable = store.look_at_identity(&root, &source, &mut diagnosis).await;
                store.look_at_entries(&root, usable, &mut diagnosis).await;
                store.look_at_keys(usable, &mut diagnosis).await;
            }
            Err(error) => diagnosis.found("identity", error),
        }
        if matches!(directory, Directory::Fit) {
            look_at_writing(&root, &mut diagnosis);
            look_at_locks(&root, &mut diagnosis).await;
        }
        diagnosis
    }

    /// `false`: no record can be opened.
    async fn look_at_identity(&self, root: &Path, source: &IdentitySource, diagnosis: &mut Diagnosis) -> bool {
        let deadline = Instant::now() + LIMIT;
        let from = match source {
            IdentitySource::Default => format!("{:?}, the store's own", identity::own_file(root)),
            IdentitySource::File(path) => format!("{path:?}, as identity_file says"),
            IdentitySource::Command(_) => "what identity_command prints".to_owned(),
        };
        match self.shared.identity.get(Look::Current, deadline).await {
            Ok(Some(identities)) => {
                let count = counted(identities.all().len(), "identity", "identities");
                diagnosis.good("identity", format!("{from} ({count})"));
                true
            }
            Ok(None) => {
                diagnosis.good(
                    "identity",
                    format!("{from}; it will be made with the first login or import"),
                );
                true
            }
            Err(error) => {
                diagnosis.found("identity", error);
                false
            }
        }
    }

    async fn look_at_entries(&self, root: &Path, usable: bool, diagnosis: &mut Diagnosis) {
        let keys = match TokenStore::list(self).await {
            Ok(keys) => keys,
            Err(error) => return diagnosis.found("entries", error),
        };
        if !usable && !keys.is_empty() {
            return diagnosis.left_out("entries");
        }
        let mut bad = Vec::new();
        let mut interrupted = Vec::new();
        for key in &keys {
            match TokenStore::read(self, key).await {
                Ok(stored) => {
                    let since = stored
                        .as_deref()
                        .and_then(|stored| interrupted_since(root, key, stored));
                    interrupted.extend(since.map(|since| (key, since)));
                    let stored = stored.as_deref().and_then(when_stored);
                    diagnosis.newest = diagnosis.newest.max(stored);
                }
                Err(error) => bad.push(error),
            }
        }
        tell_records(
            "entries",
            &counted(keys.len(), "entry", "entries"),
            keys.len(),
            bad,
            diagnosis,
        );
        for (key, since) in interrupted {
            diagnosis.notice(
                "entries",
                format!(
                    "a refresh of {key} was interrupted: it began at {since}, and the provider's answer, if there was one, \
                     was not stored"
                ),
                format!(
                    "nothing: the next refresh asks again, and shows whether the provider spent the refresh token; if so, \
                     {key} needs a login"
                ),
            );
        }
    }

    async fn look_at_keys(&self, usable: bool, diagnosis: &mut Diagnosis) {
        let names = match KeyStore::list(self).await {
            Ok(names) => names,
            Err(error) => return diagnosis.found("API keys", error),
        };
        if !usable && !names.is_empty() {
            return diagnosis.left_out("API keys");
        }
        let mut bad = Vec::new();
        for name in &names {
            bad.extend(KeyStore::read(self, name).await.err());
        }
        tell_records(
            "API keys",
            &counted(names.len(), "API key", "API keys"),
            names.len(),
            bad,
            diagnosis,
        );
    }
}

fn opening(path: &Path) -> Doing {
    Doing::new(Operation::Open, format!("the store {path:?}"))
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn when_stored(stored: &StoredTokens) -> Option<Timestamp> {
    stored.tokens.expiry.as_ref().map(|expiry| expiry.stored.wall)
}

/// When a refresh began that left its mark, and that nobody is at any more: its process died, or lost the answer.
fn interrupted_since(root: &Path, key: &EntryKey, stored: &StoredTokens) -> Option<Timestamp> {
    let (intent, refresh_token) = (stored.intent.as_ref()?, stored.tokens.refresh_token.as_ref()?);
    let over = intent.is_about(refresh_token) && !is_held(&layout::entry_lock(root, key));
    let second = Timestamp::from_second(intent.written.wall.as_second()).ok()?;
    over.then_some(second)
}

fn tell_records(check: &'static str, count: &str, all: usize, bad: Vec<StoreError>, diagnosis: &mut Diagnosis) {
    if bad.is_empty() {
        let detail = if all == 0 {
            "none".to_owned()
        } else {
            format!("{count}, all open")
        };
        return diagnosis.good(check, detail);
    }
    let foreign = |error: &StoreError| matches!(error, StoreError::Corrupt { detail, .. } if detail == UNDECRYPTABLE);
    let all_foreign = bad.len() == all && bad.iter().all(foreign);
    for error in bad {
        let mend = all_foreign.then(|| {
            "none of them is decrypted: this is probably not the identity that they were stored with; restore that one \
             from a backup"
                .to_owned()
        });
        diagnosis.found(check, Outcome::Bad { error, mend });
    }
}
