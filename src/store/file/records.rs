//! Records of one kind: reading through memory, and changing under a lock.
//!
//! The order of a change is fixed here: what is there is looked at, then the disk changes, then memory. A change runs
//! in a task of its own with a share of the lock: who asked for it may go away, it is finished all the same.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    blocking::{Doing, LIMIT, off_thread},
    cache::{Cache, Fingerprint},
    durable::{self, AtPath, Directories, Found},
    envelope::{self, Content, Flaw},
    identity::{Identities, Keeper, Look},
    layout::Place,
    lock::{self, Held},
};
use crate::store::{Holder, Operation, OverCorrupt, StoreError, queue::Queue};

/// No record is larger: a secret has 16 KiB, and the largest token set a few of them.
const MAX_RECORD: usize = 256 * 1024;
/// What is said of a record that no identity at hand fits.
pub(super) const UNDECRYPTABLE: &str = "the identity at hand does not decrypt it";

/// What the records of all kinds have in common.
pub(super) struct Shared {
    pub(super) root: PathBuf,
    pub(super) identity: Arc<Keeper>,
    pub(super) directories: Arc<Directories>,
    pub(super) queue: Arc<Queue<PathBuf>>,
    pub(super) trouble: Trouble,
}

/// The changes that failed, until a write succeeds in their place.
#[derive(Default)]
pub(super) struct Trouble(Mutex<Vec<Failed>>);

/// So many directories are kept in mind, the last ones: each is one more file to write for a look at the health.
const TROUBLES: usize = 16;

#[derive(Clone, PartialEq, Eq)]
struct Failed {
    directory: PathBuf,
    /// Of the longest file that failed there.
    length: usize,
}

impl Trouble {
    fn set(&self, directory: &Path, length: usize) {
        let mut all = self.all();
        let mut failed = Failed {
            directory: directory.to_owned(),
            length,
        };
        if let Some(at) = all.iter().position(|before| before.directory == directory) {
            failed.length = failed.length.max(all.remove(at).length);
        } else if all.len() == TROUBLES {
            all.remove(0);
        }
        all.push(failed);
    }

    /// Tries what failed: in each directory a file as long as that one.
    pub(super) fn probe(&self, root: &Path, directories: &Directories) -> Result<(), AtPath> {
        let all = self.all().clone();
        for failed in all {
            let directory = directories.make(root, &failed.directory)?;
            durable::probe(&directory, failed.length)?;
            // Not what another write changed meanwhile: it failed, too.
            self.all().retain(|known| *known != failed);
        }
        Ok(())
    }

    fn all(&self) -> MutexGuard<'_, Vec<Failed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records of one kind.
pub(super) struct Records<C: Content> {
    shared: Arc<Shared>,
    cache: Cache<C::Key, C>,
}

impl<C: Content> Records<C> {
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            cache: Cache::new(),
        })
    }

    /// The record, from memory if its file was looked at a moment ago.
    pub(super) async fn read(self: &Arc<Self>, key: &C::Key) -> Result<Option<Arc<C>>, StoreError> {
        if let Some(value) = self.cache.fresh(key) {
            return Ok(Some(value));
        }
        self.look(key, None).await
    }

    /// Those of the records that are not these very ones of memory any more. One trip to a blocking thread for all: for a
    /// record that has not changed, the trip costs more than the look.
    pub(super) async fn changed(self: &Arc<Self>, known: Vec<(C::Key, Arc<C>)>) -> Vec<C::Key> {
        if known.is_empty() {
            return Vec::new();
        }
        let doing = Doing::new(Operation::Read, "many records");
        let keys = known.iter().map(|(key, _)| key.clone()).collect();
        let (this, context) = (Arc::clone(self), doing.clone());
        let look = off_thread(&doing, Instant::now() + LIMIT, move || {
            let changed = known.into_iter().filter(|(key, value)| !this.is(key, value, &context));
            Ok(changed.map(|(key, _)| key).collect())
        });
        // Whoever has to know more asks for each.
        look.await.unwrap_or(keys)
    }

    /// Whether this is what memory has, and the record's file too.
    fn is(&self, key: &C::Key, value: &Arc<C>, doing: &Doing) -> bool {
        let before = self.cache.before(key);
        let Ok(Some(sealed)) = self.file(key, doing) else {
            return false;
        };
        let fingerprint = Fingerprint::of(&sealed);
        let Some(known) = before.same(&fingerprint) else {
            return false;
        };
        self.cache.found(key.clone(), &before, fingerprint, known);
        Arc::ptr_eq(known, value)
    }

    /// The record as its file has it now. A holder of the lock also waits for its own changes under way.
    pub(super) async fn look(
        self: &Arc<Self>,
        key: &C::Key,
        held: Option<Arc<Held>>,
    ) -> Result<Option<Arc<C>>, StoreError> {
        let doing = Doing::new(Operation::Read, C::describe(key));
        let deadline = Instant::now() + LIMIT;
        let before = self.cache.before(key);
        let (this, of, context) = (Arc::clone(self), key.clone(), doing.clone());
        let file = off_thread(&doing, deadline, move || {
            let _changes = held.as_deref().map(Held::changes);
            let found = this.file(&of, &context)?;
            Ok(found.map(|sealed| (Fingerprint::of(&sealed), sealed)))
        });
        let (fingerprint, sealed) = match file.await {
            Ok(Some((fingerprint, sealed))) => (fingerprint, Arc::new(sealed)),
            nothing => {
                self.cache.not_found(key, &before);
                return nothing.map(|_absent| None);
            }
        };
        if let Some(value) = before.same(&fingerprint) {
            self.cache.found(key.clone(), &before, fingerprint, value);
            return Ok(Some(Arc::clone(value)));
        }
        match self.open(key, &sealed, &doing, deadline).await {
            Ok(value) => {
                let value = Arc::new(value);
                self.cache.found(key.clone(), &before, fingerprint, &value);
                Ok(Some(value))
            }
            Err(error) => {
                self.cache.not_found(key, &before);
                Err(error)
            }
        }
    }

    /// Who holds the lock of a record, as far as they told.
    pub(super) async fn holder(&self, key: &C::Key) -> Option<Holder> {
        let doing = Doing::new(Operation::Lock, C::describe(key));
        let path = self.lock_file(&C::place(key));
        let look = off_thread(&doing, Instant::now() + LIMIT, move || Ok(lock::holder(&path)));
        look.await.ok().flatten()
    }

    fn lock_file(&self, place: &Place) -> PathBuf {
        self.shared.root.join(&place.lock_directory).join(&place.lock)
    }

    /// Takes the lock of a record.
    pub(super) async fn lock(self: &Arc<Self>, key: &C::Key, wait: Duration) -> Result<Arc<Held>, StoreError> {
        let doing = Doing::new(Operation::Lock, C::describe(key));
        let place = C::place(key);
        let path = self.lock_file(&place);
        let (shared, context) = (Arc::clone(&self.shared), doing.clone());
        let prepare = move || {
            let made = shared.directories.make(&shared.root, &place.lock_directory);
            made.map(drop).map_err(|cause| context.failed(cause))
        };
        lock::take(&self.shared.queue, path, wait, &doing, prepare).await
    }

    /// Replaces the record.
    pub(super) async fn write(
        self: &Arc<Self>,
        key: &C::Key,
        value: Arc<C>,
        over_corrupt: OverCorrupt,
        held: Arc<Held>,
    ) -> Result<(), StoreError> {
        let doing = Doing::new(Operation::Write, C::describe(key));
        let number = held.next_change();
        let (this, of, context) = (Arc::clone(self), key.clone(), doing.clone());
        let change = async move {
            let deadline = Instant::now() + LIMIT;
            let identities = this.shared.identity.get(Look::Make, deadline).await?;
            let identities = identities.ok_or_else(|| this.shared.identity.missing())?;
            let work = move || this.write_now(&of, &value, over_corrupt, &held, number, &identities);
            match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(cause) => Err(context.died(&cause)),
            }
        };
        self.in_its_own_task(key, &doing, change).await
    }

    /// Removes the record, whatever is in it. `false`: there was none.
    pub(super) async fn remove(self: &Arc<Self>, key: &C::Key, held: Arc<Held>) -> Result<bool, StoreError> {
        let doing = Doing::new(Operation::Remove, C::describe(key));
        let number = held.next_change();
        let (this, of, context) = (Arc::clone(self), key.clone(), doing.clone());
        let change = async move {
            let removing = context.clone();
            let work = move || this.remove_now(&of, &held, number, &removing);
            match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(cause) => Err(context.died(&cause)),
            }
        };
        self.in_its_own_task(key, &doing, change).await
    }

    /// Waits for a change, but not longer than a store call may take; the change itself goes on.
    async fn in_its_own_task<T: Send + 'static>(
        &self,
        key: &C::Key,
        doing: &Doing,
        change: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        match timeout(LIMIT, tokio::spawn(change)).await {
            Ok(Ok(result)) => result,
            Ok(Err(cause)) => Err(doing.died(&cause)),
            Err(_elapsed) => {
                self.shared.trouble.set(&C::place(key).directory, 0);
                Err(doing.timed_out())
            }
        }
    }

    fn write_now(
        &self,
        key: &C::Key,
        value: &Arc<C>,
        over_corrupt: OverCorrupt,
        held: &Held,
        number: u64,
        identities: &Identities,
    ) -> Result<(), StoreError> {
        let doing = Doing::new(Operation::Write, C::describe(key));
        let mut made = held.changes();
        begin(&mut made, number, &doing)?;
        self.may_be_replaced(key, over_corrupt, identities, &doing)?;
        let sealed = envelope::seal(value.as_ref(), key, identities).map_err(|cause| doing.failed(cause))?;
        if !can_be_read_again(sealed.len()) {
            return Err(doing.failed("it is too large to be read again"));
        }
        let place = C::place(key);
        let shared = &self.shared;
        let saved = shared
            .directories
            .make(&shared.root, &place.directory)
            .and_then(|directory| durable::replace(&directory, &place.file, &sealed));
        if let Err(cause) = saved {
            // The failure may have come after the rename: only the file knows what is stored.
            self.cache.forget(key);
            shared.trouble.set(&place.directory, sealed.len());
            return Err(doing.failed(cause));
        }
        self.cache.written(key.clone(), Fingerprint::of(&sealed), value);
        Ok(())
    }

    fn remove_now(&self, key: &C::Key, held: &Held, number: u64, doing: &Doing) -> Result<bool, StoreError> {
        let mut made = held.changes();
        begin(&mut made, number, doing)?;
        let place = C::place(key);
        let removed = durable::remove(&self.shared.root.join(&place.directory), &place.file);
        self.cache.forget(key);
        removed.map_err(|cause| {
            self.shared.trouble.set(&place.directory, 0);
            doing.failed(cause)
        })
    }

    /// Whether what is there now may be replaced.
    fn may_be_replaced(
        &self,
        key: &C::Key,
        over_corrupt: OverCorrupt,
        identities: &Identities,
        doing: &Doing,
    ) -> Result<(), StoreError> {
        let found = match self.file(key, doing) {
            Ok(None) => return Ok(()),
            Ok(Some(sealed)) if self.cache.before(key).same(&Fingerprint::of(&sealed)).is_some() => return Ok(()),
            Ok(Some(sealed)) => envelope::open::<C>(&sealed, key, identities)
                .map(drop)
                .map_err(|flaw| error_of(flaw, doing)),
            Err(error) => Err(error),
        };
        match found {
            Err(StoreError::Corrupt { .. }) if over_corrupt == OverCorrupt::Replace => Ok(()),
            other => other,
        }
    }

    /// What the record's file holds.
    fn file(&self, key: &C::Key, doing: &Doing) -> Result<Option<Vec<u8>>, StoreError> {
        let place = C::place(key);
        let path = self.shared.root.join(&place.directory).join(&place.file);
        match durable::read(&path, MAX_RECORD).map_err(|cause| doing.failed(cause))? {
            Found::Absent => Ok(None),
            Found::Content(sealed) => Ok(Some(sealed)),
            Found::Unusable(why) => Err(error_of(Flaw::Corrupt(why.to_owned()), doing)),
        }
    }

    async fn open(
        self: &Arc<Self>,
        key: &C::Key,
        sealed: &Arc<Vec<u8>>,
        doing: &Doing,
        deadline: Instant,
    ) -> Result<C, StoreError> {
        let identity = &self.shared.identity;
        let with = async |identities: Arc<Identities>| {
            let (sealed, key) = (Arc::clone(sealed), key.clone());
            off_thread(doing, deadline, move || Ok(envelope::open(&sealed, &key, &identities))).await
        };
        let have = |found: Option<_>| found.ok_or_else(|| identity.missing());
        let known = have(identity.get(Look::Known, deadline).await?)?;
        let mut opened = with(Arc::clone(&known)).await?;
        if matches!(opened, Err(Flaw::Undecryptable)) {
            // The identity file may have been replaced since it was loaded, and the record been written with the new one.
            let current = have(identity.get(Look::Current, deadline).await?)?;
            if !Arc::ptr_eq(&current, &known) {
                opened = with(current).await?;
            }
        }
        opened.map_err(|flaw| error_of(flaw, doing))
    }
}

/// Refuses a change that was given up and comes after a later one.
fn begin(made: &mut u64, number: u64, doing: &Doing) -> Result<(), StoreError> {
    if number < *made {
        return Err(doing.failed("a later change came first"));
    }
    *made = number;
    Ok(())
}

fn error_of(flaw: Flaw, doing: &Doing) -> StoreError {
    let what = doing.what.clone();
    match flaw {
        Flaw::Undecryptable => StoreError::Corrupt {
            what,
            detail: UNDECRYPTABLE.to_owned(),
        },
        Flaw::Corrupt(detail) => StoreError::Corrupt { what, detail },
        Flaw::Newer(format) => StoreError::NewerFormat { what, format },
    }
}

/// Whether a record of this length is one.
fn can_be_read_again(length: usize) -> bool {
    length <= MAX_RECORD
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// That one place is well again says nothing of another.
    #[test]
    fn trouble_lasts_until_all_places_are_well() {
        let root = tempfile::tempdir().unwrap();
        let (trouble, directories) = (Trouble::default(), Directories::default());
        let probe = || trouble.probe(root.path(), &directories).is_ok();
        assert!(probe());
        for name in ["one", "two"] {
            fs::write(root.path().join(name), "no directory").unwrap();
            trouble.set(Path::new(name), 10);
        }
        trouble.set(Path::new("three"), 10);
        assert!(!probe());
        fs::remove_file(root.path().join("two")).unwrap();
        assert!(!probe());
        fs::remove_file(root.path().join("one")).unwrap();
        assert!(probe() && trouble.all().is_empty());
    }

    #[test]
    fn a_record_has_at_most_256_kib() {
        let lengths = [0, 1280, 262_144, 262_145, usize::MAX];
        assert_eq!(lengths.map(can_be_read_again), [true, true, true, false, false]);
    }

    #[test]
    fn a_change_that_comes_after_a_later_one_is_refused() {
        let doing = Doing::new(Operation::Write, "it");
        let mut made = 0;
        let begun = [1, 3, 2, 4].map(|number| begin(&mut made, number, &doing).is_ok());
        assert_eq!((begun, made), ([true, true, false, true], 4));
    }

    #[test]
    fn trouble_has_a_bound_and_keeps_the_longest_file() {
        let trouble = Trouble::default();
        for number in 0..100 {
            trouble.set(Path::new(&number.to_string()), number);
            trouble.set(Path::new("same"), 100 - number);
        }
        let all = trouble.all();
        assert_eq!(all.len(), TROUBLES);
        assert_eq!(all.iter().map(|failed| failed.length).max(), Some(100));
        assert!(all.iter().any(|failed| failed.directory == Path::new("99")));
    }
}
