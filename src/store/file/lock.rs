//! The lock of one record, across tasks and processes.
//!
//! `flock` on a file that is made once and never renamed or unlinked by the store; the system frees it when its holder
//! dies. Waiting blocks no thread: tasks of this process queue, and the head of the queue asks the system now and then.

use std::{
    fs::{File, Permissions, TryLockError},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use tokio::time::{Instant, sleep_until};

use super::{
    blocking::{Doing, LIMIT, off_thread},
    durable::AtPath,
};
use crate::store::{
    Holder, HolderState, StoreError,
    queue::{Queue, Turn, deadline},
};

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A lock that is held. Whatever works under it keeps a share of it, so that a caller who goes away frees nothing that
/// is still being written.
pub(super) struct Held {
    file: File,
    /// Numbers the changes in the order in which the holder asked for them.
    asked: AtomicU64,
    /// The newest change that was made. Held while one is made.
    made: Mutex<u64>,
    // After the file: the next one in the queue shall find it unlocked.
    _turn: Turn<PathBuf>,
}

impl Held {
    /// The number of the holder's next change.
    pub(super) fn next_change(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Writes into the lock file what the lock is held for. It is for people, so what cannot be written is left out; a note
    /// of a holder that died is gone with the next note or release.
    pub(super) fn note(&self, state: HolderState) {
        let note = format!("{} {}\n", std::process::id(), state.as_str());
        if self.file.set_len(0).is_ok() {
            drop(self.file.write_all_at(note.as_bytes(), 0));
        }
    }

    /// Waits for the changes under way. A change that the holder gave up waiting for may still be under way when the
    /// next one comes: they must not run at once, nor the older one after the newer.
    pub(super) fn changes(&self) -> MutexGuard<'_, u64> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.file.set_len(0));
        // Unlocked, not only closed: a child that is just being started shares the open file until it executes.
        drop(self.file.unlock());
    }
}

/// Takes the lock at `path`; waits at most `wait`. `prepare` makes the directory.
pub(super) async fn take(
    queue: &Arc<Queue<PathBuf>>,
    path: PathBuf,
    wait: Duration,
    doing: &Doing,
    prepare: impl Fn() -> Result<(), StoreError> + Clone + Send + 'static,
) -> Result<Arc<Held>, StoreError> {
    let until = deadline(wait);
    let busy = |holder| StoreError::Busy {
        what: doing.what.clone(),
        holder,
    };
    let Some(turn) = queue.enter(path.clone(), until).await else {
        let holder = off_thread(doing, Instant::now() + LIMIT, move || Ok(holder(&path))).await?;
        return Err(busy(holder));
    };
    let mut pause = SHORTEST_PAUSE;
    loop {
        let attempt = {
            let (path, doing, prepare) = (path.clone(), doing.clone(), prepare.clone());
            move || {
                prepare()?;
                let locked = try_lock(&path).map_err(|cause| doing.failed(cause))?;
                Ok(locked.ok_or_else(|| holder(&path)))
            }
        };
        let holder = match off_thread(doing, Instant::now() + LIMIT, attempt).await? {
            Err(holder) => holder,
            Ok(file) => {
                return Ok(Arc::new(Held {
                    file,
                    asked: AtomicU64::new(0),
                    made: Mutex::new(0),
                    _turn: turn,
                }));
            }
        };
        let now = Instant::now();
        if now >= until {
            return Err(busy(holder));
        }
        sleep_until(until.min(now + pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The locked file; `None`: somebody else holds it.
pub(super) fn try_lock(path: &Path) -> Result<Option<File>, AtPath> {
    let failed = |cause| AtPath::new(path, cause);
    let file = open(path).map_err(|cause| failed(cause.into()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(cause)) => return Err(failed(cause)),
    }
    // Somebody may have cleared the directory away meanwhile: a lock on a file that has no name excludes nobody.
    let locked = file.metadata().map_err(failed)?;
    let named = path.symlink_metadata().ok();
    let same = named.is_some_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino()));
    Ok(same.then_some(file))
}

/// Who holds the lock, as far as the file tells.
pub(super) fn holder(path: &Path) -> Option<Holder> {
    let mut note = [0; 64];
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let length = file.read_at(&mut note, 0).ok()?;
    let note = std::str::from_utf8(note.get(..length)?).ok()?;
    let (pid, state) = note.trim_end().split_once(' ')?;
    Some(Holder {
        pid: pid.parse().ok()?,
        state: HolderState::from_word(state)?,
    })
}

fn open(path: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let private = 0o600;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        opened => return opened.map(File::from),
    }
    match rustix::fs::open(
        path,
        flags | OFlags::CREATE | OFlags::EXCL,
        Mode::from_raw_mode(private),
    ) {
        Ok(made) => {
            let made = File::from(made);
            // The umask may have taken more away than others' rights. If this fails, the next opening says so.
            drop(made.set_permissions(Permissions::from_mode(private)));
            Ok(made)
        }
        Err(Errno::EXIST) => rustix::fs::open(path, flags, Mode::empty()).map(File::from),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Operation;

    #[tokio::test]
    async fn a_lock_tells_what_it_is_held_for_until_it_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let doing = Doing::new(Operation::Lock, "it");
        let held = take(&Queue::new(), path.clone(), Duration::ZERO, &doing, || Ok(()))
            .await
            .unwrap();
        // Later changes have higher numbers.
        assert_eq!([held.next_change(), held.next_change()], [1, 2]);
        assert!(holder(&path).is_none());
        held.note(HolderState::Refreshing);
        let told = holder(&path).unwrap();
        assert_eq!((told.pid, told.state), (std::process::id(), HolderState::Refreshing));
        drop(held);
        assert!(holder(&path).is_none() && try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_is_no_link_to_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| directory.path().join(name));
        std::fs::write(&file, "1 refreshing").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(holder(&file).is_some() && holder(&link).is_none());
        try_lock(&link).unwrap_err();
    }
}
