//! Locks between brokers: advisory, freed by the system when their holder dies, never waited for without end.

use std::{
    fs::{File, TryLockError},
    io,
    os::fd::AsFd,
    path::Path,
    thread,
    time::Duration,
};

use rustix::fs::{Mode, OFlags, fchmod, openat};

use super::{
    dir::Facts,
    error::{DirRole, SocketError},
    layout::LOCK,
};

/// The mode of every file that is nobody else's business.
pub(super) const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Starting and stopping takes milliseconds; whoever holds a lock for longer is stopped in a debugger or hangs.
const PATIENCE_SECONDS: u64 = 5;
const TRIES_PER_SECOND: u64 = 100;

/// The right to create, probe, bind and sweep in one runtime directory. Free again when dropped.
#[derive(Debug)]
pub(super) struct RuntimeLock {
    _file: File,
}

impl RuntimeLock {
    /// Waits for the lock file in `dir`, and makes it if it is not there. Lock files are never removed by a broker, but
    /// something that cleans temporary directories may: a lock on a removed file excludes nobody, so it is taken anew.
    pub(super) fn take(dir: impl AsFd, runtime: &Path) -> Result<Self, SocketError> {
        Self::take_with(OFlags::CREATE, dir, runtime)?.ok_or_else(|| SocketError::Missing {
            path: runtime.to_owned(),
            role: DirRole::Runtime,
        })
    }

    /// The same for those who only look: `None` if there is no lock file, and so no broker that was started here.
    pub(super) fn take_if_there(dir: impl AsFd, runtime: &Path) -> Result<Option<Self>, SocketError> {
        Self::take_with(OFlags::empty(), dir, runtime)
    }

    fn take_with(more: OFlags, dir: impl AsFd, runtime: &Path) -> Result<Option<Self>, SocketError> {
        let path = runtime.join(LOCK);
        let refused = || SocketError::system("lock", &path);
        loop {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
            let file = match openat(&dir, LOCK, flags, PRIVATE_FILE) {
                Ok(fd) => File::from(fd),
                Err(rustix::io::Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(refused()(errno)),
            };
            if more.contains(OFlags::CREATE) {
                fchmod(&file, PRIVATE_FILE).map_err(refused())?;
            }
            wait_for(&file, &path)?;
            let locked = Facts::of(&file).map_err(refused())?;
            let named = Facts::at(&dir, LOCK).map_err(refused())?;
            if named.is_some_and(|named| named.id == locked.id) {
                return Ok(Some(Self { _file: file }));
            }
        }
    }
}

/// Locks a file or directory, for at most [`PATIENCE_SECONDS`]. The lock is the open file's: it lasts until the last
/// descriptor of it is closed.
pub(super) fn wait_for(file: &File, path: &Path) -> Result<(), SocketError> {
    for _try in 0..PATIENCE_SECONDS * TRIES_PER_SECOND {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1000 / TRIES_PER_SECOND)),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(SocketError::system("lock", path)(error)),
        }
    }
    Err(SocketError::Busy {
        path: path.to_owned(),
        seconds: PATIENCE_SECONDS,
    })
}
