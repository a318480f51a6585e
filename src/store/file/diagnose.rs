//! Looks at a store the way its owner would want to: one thing after another, each with what was found and what to do.
//!
//! Called by the `doctor` command alone. It makes nothing in a store that does not exist yet, repairs nothing, takes no
//! lock of a record, and what it reads of the records it does not keep. The only change is one file in the store's
//! directory, written, synced, locked and removed again.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use jiff::Timestamp;
use rustix::{
    fs::{Access, OFlags, access},
    io::Errno,
};
use tokio::time::{Instant, sleep};

use super::{
    FileStore, FileStoreConfig, IdentitySource,
    blocking::{Doing, LIMIT},
    durable::{self, AtPath},
    identity::{self, Look},
    layout, lock, network,
    records::UNDECRYPTABLE,
};
use crate::store::{KeyStore, Operation, StoreError, StoredTokens, TokenStore};

/// A change of a record takes milliseconds: a lock that is held at both ends of this pause is worth a word.
const PAUSE: Duration = Duration::from_millis(500);

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

/// How to go on after the store's directory was looked at.
enum Directory {
    Fit,
    /// There is none yet: everything is made with the first record.
    Absent,
    Unfit,
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
        look_at_file_system(&root, config.allow_network_fs, &mut diagnosis);
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
                store.look_at_entries(usable, &mut diagnosis).await;
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
                diagnosis.good("identity", format!("{from}; it will be made with the first import"));
                true
            }
            Err(error) => {
                diagnosis.found("identity", error);
                false
            }
        }
    }

    async fn look_at_entries(&self, usable: bool, diagnosis: &mut Diagnosis) {
        let keys = match TokenStore::list(self).await {
            Ok(keys) => keys,
            Err(error) => return diagnosis.found("entries", error),
        };
        if !usable && !keys.is_empty() {
            return diagnosis.left_out("entries");
        }
        let mut bad = Vec::new();
        for key in &keys {
            match TokenStore::read(self, key).await {
                Ok(stored) => {
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

fn look_at_directory(root: &Path, diagnosis: &mut Diagnosis) -> Directory {
    let check = "directory";
    let about = match root.metadata() {
        Ok(about) => about,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return look_above(root, diagnosis),
        Err(cause) => {
            let mend = (cause.kind() == io::ErrorKind::PermissionDenied).then(|| {
                "run this as the user that it belongs to, or set `path` in [store] to a directory of this user's own"
                    .to_owned()
            });
            let error = opening(root).failed(cause);
            diagnosis.found(check, Outcome::Bad { error, mend });
            return Directory::Unfit;
        }
    };
    if !about.is_dir() {
        let error = opening(root).failed(io::Error::from(Errno::NOTDIR));
        let mend = Some(format!("move {root:?} away, or set `path` in [store] to a directory"));
        diagnosis.found(check, Outcome::Bad { error, mend });
        return Directory::Unfit;
    }
    if let Err(error) = identity::judge_store(root) {
        diagnosis.found(check, error);
        return Directory::Unfit;
    }
    diagnosis.good(check, format!("{root:?} (mode {:04o})", about.mode() & 0o7777));
    Directory::Fit
}

/// The store is made below what is there of its path.
fn look_above(root: &Path, diagnosis: &mut Diagnosis) -> Directory {
    let there = root.ancestors().skip(1).find(|path| path.exists()).unwrap_or(root);
    match access(there, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if there.is_dir() => {
            diagnosis.good("directory", format!("{root:?} will be made with the first import"));
            Directory::Absent
        }
        refused => {
            let cause = refused.err().unwrap_or(Errno::NOTDIR);
            let error = opening(root).failed(AtPath::new(there, cause));
            let mend = Some(format!(
                "let this user write to {there:?}, or set `path` in [store] to another directory"
            ));
            diagnosis.found("directory", Outcome::Bad { error, mend });
            Directory::Unfit
        }
    }
}

fn look_at_file_system(root: &Path, allowed: bool, diagnosis: &mut Diagnosis) {
    let check = "file system";
    match network::file_system(root) {
        None => diagnosis.good(check, "not one that hosts are known to share"),
        Some(kind) if allowed => diagnosis.notice(
            check,
            format!("other hosts may share it ({kind}), and allow_network_fs is set"),
            "let only one host use this store",
        ),
        Some(kind) => {
            let cause =
                format!("it is on a file system that other hosts may share ({kind}), where its locks may not hold");
            let mend = Some(network::MEND.to_owned());
            let error = opening(root).failed(cause);
            diagnosis.found(check, Outcome::Bad { error, mend });
        }
    }
}

/// Writes, syncs, locks and removes a file of this look's own; and asks about the directories below.
fn look_at_writing(root: &Path, diagnosis: &mut Diagnosis) {
    let doing = Doing::new(Operation::Write, format!("the store {root:?}"));
    let name = format!(".probe-{}.tmp", std::process::id());
    let path = root.join(&name);
    let tried = durable::replace(root, &name, b"probe").and_then(|()| locks_exclude(&path));
    let removed = durable::remove(root, &name);
    let excludes = match tried.and_then(|excludes| removed.map(|_was_there| excludes)) {
        Ok(excludes) => excludes,
        Err(cause) => {
            diagnosis.found("writing", doing.failed(cause));
            return;
        }
    };
    if !excludes {
        let error = doing.failed("a lock on a file there excludes nobody");
        let mend = Some(network::MEND.to_owned());
        diagnosis.found("writing", Outcome::Bad { error, mend });
        return;
    }
    let writable = layout::directories(root).and_then(|directories| {
        directories.iter().try_for_each(|directory| {
            access(directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|cause| AtPath::new(directory, cause))
        })
    });
    match writable {
        Ok(()) => diagnosis.good("writing", "a file can be written, synced, locked and removed"),
        Err(cause) => diagnosis.found("writing", doing.failed(cause)),
    }
}

/// Whether a lock that is held is refused to the next one.
fn locks_exclude(path: &Path) -> Result<bool, AtPath> {
    let Some(held) = lock::try_lock(path)? else {
        return Ok(false);
    };
    let refused = lock::try_lock(path)?.is_none();
    held.unlock().map_err(|cause| AtPath::new(path, cause))?;
    Ok(refused)
}

async fn look_at_locks(root: &Path, diagnosis: &mut Diagnosis) {
    let files = match layout::lock_files(root) {
        Ok(files) => files,
        Err(cause) => {
            let doing = Doing::new(Operation::Lock, format!("the store {root:?}"));
            return diagnosis.found("locks", doing.failed(cause));
        }
    };
    let mut held: Vec<_> = files.into_iter().filter(|path| is_held(path)).collect();
    if !held.is_empty() {
        sleep(PAUSE).await;
        held.retain(|path| is_held(path));
    }
    if held.is_empty() {
        return diagnosis.good("locks", "none is held");
    }
    for path in held {
        let by = holder(&path).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        let of = layout::lock_of(root, &path).unwrap_or_else(|| format!("{path:?}"));
        diagnosis.notice(
            "locks",
            format!("{by} holds the lock of {of}"),
            format!("wait for it; if it stays, `fuser {path:?}` shows which process to stop"),
        );
    }
}

/// Asks with a shared lock, freed at once: whoever wants the lock at that very moment tries again a millisecond later.
fn is_held(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, rustix::fs::Mode::empty()) else {
        return false;
    };
    let file = File::from(file);
    let tried = file.try_lock_shared();
    drop(file.unlock());
    matches!(tried, Err(TryLockError::WouldBlock))
}

/// Who holds a lock, where the system tells.
fn holder(path: &Path) -> Option<u32> {
    let inode = path.symlink_metadata().ok()?.ino();
    holder_of(&fs::read_to_string("/proc/locks").ok()?, inode)
}

/// `1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF`. The device there is not always the one that stat tells, so the
/// inode decides, and two holders are none.
fn holder_of(locks: &str, inode: u64) -> Option<u32> {
    let mut pids = locks.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (kind, pid, file) = (fields.next()?, fields.nth(2)?, fields.next()?);
        let found: u64 = file.rsplit(':').next()?.parse().ok()?;
        (kind == "FLOCK" && found == inode).then(|| pid.parse().ok())?
    });
    let pid = pids.next();
    if pids.next().is_some() { None } else { pid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_read_from_what_the_system_tells() {
        let told = "1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF\n\
                    2: POSIX  ADVISORY  READ 12 08:01:1234 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE -1 08:01:99 0 EOF\n\
                    4: FLOCK  ADVISORY  WRITE 5 08:01:7 0 EOF\n\
                    5: FLOCK  ADVISORY  WRITE 6 08:02:7 0 EOF\nodd\n";
        assert_eq!(holder_of(told, 1234), Some(4711));
        for inode in [99, 7, 1] {
            assert_eq!(holder_of(told, inode), None, "{inode}");
        }
    }
}
