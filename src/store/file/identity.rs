//! The identity: the secret that decrypts the store.
//!
//! By default a file beside the records, made once; else a file or a command that the configuration names. A store
//! whose identity cannot be had is locked, and says what to do about it: a new identity is never made where records of
//! another one are. Loaded when it is first needed, then kept in memory; a file that was replaced is noticed before
//! the next write and where a record cannot be decrypted, so that nothing is written that nobody can read later.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use age::x25519;
use hkdf::Hkdf;
use rustix::fs::OFlags;
use secrecy::ExposeSecret as _;
use sha2::Sha256;
use tokio::{
    sync::Mutex as AsyncMutex,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use super::{
    IdentitySource,
    blocking::{Doing, LIMIT},
    cache::Fingerprint,
    command::{self, SecretCommand},
    durable::{self, AtPath, Directories},
    layout, lock,
};
use crate::store::{DerivedKeys, Operation, StoreError};

const FILE: &str = "identity.txt";
const LOCK: &str = "identity.lock";
/// No identity file is larger.
const MAX_FILE: usize = 64 * 1024;
/// A command that failed is not run again at once: it may ask somebody, and every read would ask again.
const COMMAND_PAUSE: Duration = Duration::from_secs(10);
/// How long one process may take to make the identity while another one waits.
const MAKING: Duration = Duration::from_secs(10);

/// The identities at hand: at least one.
pub(super) struct Identities {
    all: Vec<x25519::Identity>,
    /// Of the file they came from.
    fingerprint: Fingerprint,
}

impl Identities {
    pub(super) fn all(&self) -> &[x25519::Identity] {
        &self.all
    }

    /// Two secrets of each for uses of their own (HKDF-SHA-256, RFC 5869): whoever has them cannot tell the identity.
    pub(super) fn derive(&self, infos: [&str; 2]) -> Vec<DerivedKeys> {
        let derive = |identity: &x25519::Identity| {
            let text = identity.to_string();
            let derived = Hkdf::<Sha256>::new(None, text.expose_secret().as_bytes());
            infos.map(|info| {
                let mut secret = Zeroizing::new([0; 32]);
                #[expect(clippy::expect_used, reason = "HKDF-SHA-256 gives up to 255 times 32 bytes")]
                derived
                    .expand(info.as_bytes(), &mut *secret)
                    .expect("32 bytes can be derived");
                secret
            })
        };
        self.all.iter().map(derive).collect()
    }

    /// Parses an age identity file. The message says where it fails, never what is there.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let fingerprint = Fingerprint::of(text);
        let text = std::str::from_utf8(text).map_err(|_unquoted| "is no text".to_owned())?;
        let mut all = Vec::new();
        for (number, line) in (1..).zip(text.lines()).map(|(number, line)| (number, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity: Result<x25519::Identity, _> = line.parse();
            all.push(identity.map_err(|_unquoted| {
                format!("has on line {number} something else than an X25519 identity (AGE-SECRET-KEY-1...)")
            })?);
        }
        if all.is_empty() {
            return Err("holds no identity (AGE-SECRET-KEY-1...)".to_owned());
        }
        Ok(Self { all, fingerprint })
    }
}

/// How current the identity has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// What is in memory will do.
    Known,
    /// As the file has it now.
    Current,
    /// The same; made if this is a new store.
    Make,
}

/// Has the identity, or gets it.
pub(super) struct Keeper {
    root: PathBuf,
    source: IdentitySource,
    directories: Arc<Directories>,
    loaded: Mutex<Option<Arc<Identities>>>,
    /// Whether this process has made sure that the identity file itself survives a power cut.
    durable: AtomicBool,
    /// When the command failed last, and how.
    failed: Mutex<Option<(Instant, String)>>,
    /// One loads, the others wait for it, on no thread.
    loading: AsyncMutex<()>,
}

impl Keeper {
    pub(super) fn new(root: PathBuf, source: IdentitySource, directories: Arc<Directories>) -> Arc<Self> {
        Arc::new(Self {
            root,
            source,
            directories,
            loaded: Mutex::new(None),
            durable: AtomicBool::new(false),
            failed: Mutex::new(None),
            loading: AsyncMutex::new(()),
        })
    }

    /// The identities; `None`: this is a new store that has none yet (never with [`Look::Make`]).
    pub(super) async fn get(
        self: &Arc<Self>,
        look: Look,
        deadline: Instant,
    ) -> Result<Option<Arc<Identities>>, StoreError> {
        let in_time = timeout_at(deadline, async {
            let _one = match self.in_memory() {
                Some(_) => None,
                None => Some(self.loading.lock().await),
            };
            if look == Look::Known
                && let Some(known) = self.in_memory()
            {
                return Ok(Some(known));
            }
            let this = Arc::clone(self);
            match spawn_blocking(move || this.load(look)).await {
                Ok(result) => result,
                Err(cause) => Err(doing().died(&cause)),
            }
        });
        match in_time.await {
            Ok(result) => result,
            Err(_elapsed) => Err(locked("the identity did not come within 15 s".to_owned())),
        }
    }

    /// What a record without an identity means.
    pub(super) fn missing(&self) -> StoreError {
        locked(format!(
            "the identity file {:?} is missing, but there are records that only it decrypts: restore it from a \
             backup, or move {:?} away to start anew without them",
            self.root.join(FILE),
            self.root
        ))
    }

    fn load(&self, look: Look) -> Result<Option<Arc<Identities>>, StoreError> {
        match &self.source {
            IdentitySource::Command(command) => self.run_command(command).map(Some),
            IdentitySource::File(path) => match self.read_file(path, OFlags::empty())? {
                Some(identities) => Ok(Some(identities)),
                None => Err(locked(format!(
                    "the identity file {path:?} does not exist: correct `identity_file` in the configuration, or make \
                     one with `age-keygen -o {path:?}`"
                ))),
            },
            IdentitySource::Default => self.own(look),
        }
    }

    /// The store's own identity file.
    fn own(&self, look: Look) -> Result<Option<Arc<Identities>>, StoreError> {
        let path = self.root.join(FILE);
        let mut identities = self.read_file(&path, OFlags::NOFOLLOW)?;
        if identities.is_none() {
            if !self.is_new_store()? {
                return Err(self.missing());
            }
            if look != Look::Make {
                return Ok(None);
            }
            self.make(Instant::now() + MAKING)?;
            identities = self.read_file(&path, OFlags::NOFOLLOW)?;
        }
        if look == Look::Make && !self.durable.load(Ordering::Acquire) {
            // Another process may have made it and not have come to this yet; a record must not survive without it.
            durable::sync_directory(&self.root).map_err(|cause| doing().failed(cause))?;
            self.durable.store(true, Ordering::Release);
        }
        identities.map(Some).ok_or_else(|| self.missing())
    }

    fn is_new_store(&self) -> Result<bool, StoreError> {
        let none = || -> Result<bool, AtPath> {
            Ok(layout::entries(&self.root)?.is_empty() && layout::keys(&self.root)?.is_empty())
        };
        none().map_err(|cause| doing().failed(cause))
    }

    /// Makes the identity, unless another process comes first: that one is waited for `until` then. Whoever sees the file sees
    /// all of it.
    fn make(&self, until: Instant) -> Result<(), StoreError> {
        let failed = |cause| doing().failed(cause);
        let directory = layout::locks(&self.root);
        let inner = directory.strip_prefix(&self.root).unwrap_or(&directory);
        self.directories.make(&self.root, inner).map_err(failed)?;
        let lock = directory.join(LOCK);
        let held = loop {
            match lock::try_lock(&lock).map_err(failed)? {
                Some(held) => break held,
                None if Instant::now() >= until => {
                    return Err(doing().failed("another process is making it and does not finish"));
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let is_there = self.root.join(FILE).symlink_metadata().is_ok();
        // Looked at again under the lock: the other process may have made it, or it may be gone again with records there.
        if !is_there && !self.is_new_store()? {
            return Err(self.missing());
        }
        if !is_there {
            durable::create(&self.root, FILE, &new_identity_file()).map_err(failed)?;
            tracing::info!(path = ?self.root.join(FILE), "made the identity that decrypts the store: keep a backup of it");
        }
        drop(held.unlock());
        Ok(())
    }

    /// `None`: there is no file.
    fn read_file(&self, path: &Path, more: OFlags) -> Result<Option<Arc<Identities>>, StoreError> {
        self.judge_store_directory()?;
        let unreadable = |cause: io::Error| locked(format!("the identity file {path:?} cannot be read: {cause}"));
        let Some((file, about)) = durable::open(path, more).map_err(unreadable)? else {
            return Ok(None);
        };
        judge_file(path, &Rights::of(&about)).map_err(locked)?;
        let text = durable::read_open(file, &about, MAX_FILE)
            .map_err(unreadable)?
            .map(Zeroizing::new)
            .ok_or_else(|| locked(format!("the identity file {path:?} is too large to be one")))?;
        if let Some(known) = self.in_memory()
            && known.fingerprint == Fingerprint::of(&text)
        {
            return Ok(Some(known));
        }
        let identities = Identities::parse(&text)
            .map_err(|detail| locked(format!("the identity file {path:?} {detail}: restore it from a backup")))?;
        Ok(Some(self.keep(identities)))
    }

    fn run_command(&self, command: &SecretCommand) -> Result<Arc<Identities>, StoreError> {
        if let Some(known) = self.in_memory() {
            return Ok(known);
        }
        if let Some((when, detail)) = &*lock_of(&self.failed)
            && when.elapsed() < COMMAND_PAUSE
        {
            return Err(command_failed(detail));
        }
        self.judge_store_directory()?;
        let identities = command::output(command, LIMIT)
            .and_then(|text| Identities::parse(&text).map_err(|detail| format!("printed something that {detail}")));
        match identities {
            Ok(identities) => Ok(self.keep(identities)),
            Err(detail) => {
                command.warn_of_left_out("identity_command");
                let error = command_failed(&detail);
                *lock_of(&self.failed) = Some((Instant::now(), detail));
                Err(error)
            }
        }
    }

    fn keep(&self, identities: Identities) -> Arc<Identities> {
        let identities = Arc::new(identities);
        *lock_of(&self.loaded) = Some(Arc::clone(&identities));
        identities
    }

    fn in_memory(&self) -> Option<Arc<Identities>> {
        lock_of(&self.loaded).clone()
    }

    /// Who may write into the store's directory may put an identity of his own there.
    fn judge_store_directory(&self) -> Result<(), StoreError> {
        match self.root.metadata() {
            Ok(about) => judge_directory(&self.root, &Rights::of(&about)).map_err(locked),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(doing().failed(AtPath::new(&self.root, cause))),
        }
    }
}

/// The identity file of a store that has its own.
pub(super) fn own_file(root: &Path) -> PathBuf {
    root.join(FILE)
}

/// Whether the store's directory is one that only its owner can write to.
pub(super) fn judge_store(root: &Path) -> Result<(), StoreError> {
    let about = root
        .metadata()
        .map_err(|cause| doing().failed(AtPath::new(root, cause)))?;
    judge_directory(root, &Rights::of(&about)).map_err(locked)
}

fn doing() -> Doing {
    Doing::new(Operation::Open, "the identity")
}

fn locked(mend: String) -> StoreError {
    StoreError::Locked { mend }
}

fn command_failed(detail: &str) -> StoreError {
    locked(format!(
        "`identity_command` {detail}: run it by hand, it has to print an age identity within 15 s and without input"
    ))
}

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_identity_file() -> Zeroizing<Vec<u8>> {
    let identity = x25519::Identity::generate();
    let secret = identity.to_string();
    let parts = [
        "# Decrypts the credbroker store beside it. Keep it secret, and keep a backup.\n# public key: ",
        &identity.to_public().to_string(),
        "\n",
        secret.expose_secret(),
        "\n",
    ];
    // Allocated once: growing would leave parts of the secret behind.
    let mut text = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        text.extend_from_slice(part.as_bytes());
    }
    text
}

/// What decides whether something is private.
struct Rights {
    mode: u32,
    owner: u32,
    own: u32,
    is_file: bool,
}

impl Rights {
    fn of(about: &Metadata) -> Self {
        Self {
            mode: about.mode() & 0o7777,
            owner: about.uid(),
            own: rustix::process::geteuid().as_raw(),
            is_file: about.is_file(),
        }
    }
}

fn judge_file(path: &Path, rights: &Rights) -> Result<(), String> {
    if !rights.is_file {
        return Err(format!("the identity file {path:?} is not a regular file"));
    }
    if rights.owner != rights.own {
        return Err(format!(
            "the identity file {path:?} belongs to user {}, not to user {}: run `chown {} {path:?}`",
            rights.owner, rights.own, rights.own
        ));
    }
    if rights.mode & 0o077 != 0 {
        return Err(format!(
            "others can use the identity file {path:?} (mode {:04o}): run `chmod 600 {path:?}`",
            rights.mode
        ));
    }
    Ok(())
}

fn judge_directory(path: &Path, rights: &Rights) -> Result<(), String> {
    if rights.owner != rights.own {
        return Err(format!(
            "the store's directory {path:?} belongs to user {}, not to user {}: run `chown -R {} {path:?}`",
            rights.owner, rights.own, rights.own
        ));
    }
    if rights.mode & 0o022 != 0 {
        return Err(format!(
            "others can write to the store's directory {path:?} (mode {:04o}): run `chmod 700 {path:?}`",
            rights.mode
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
