//! The directory of one broker.

use std::{
    fs::File,
    io::Write as _,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FileType, FlockOperation, Mode, OFlags, fchmod, flock, openat},
    io::Errno,
    process::{geteuid, getpid},
};

use super::{
    bind::{BoundSocket, Place},
    dir::{Facts, PRIVATE_DIR, make_private_dir, open_dir, remove_empty_dir, unlink_kind},
    error::{DirRole, SocketError},
    layout::{CONTROL, DirName, LOCK, Life, PID, SANDBOX, SOCK, control_socket, read_pid, sandbox_socket},
    lock::{PRIVATE_FILE, wait_for},
    probe::check_length,
    runtime_dir::RuntimeDir,
    sweep::{clear, sweep},
};

/// Who inside a sandbox can reach its socket. On the host the runtime directory keeps everybody else out either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Only processes of the broker's own uid.
    Private,
    /// Every uid, as a sandbox that maps users needs it; who may call is decided per connection.
    Shared,
}

/// The directory of one broker, its own until this is dropped. What is dropped last removes it: this, or the last
/// [`SocketGuard`](super::SocketGuard) of a socket in it.
#[derive(Debug)]
pub struct BrokerDir {
    kept: Arc<Kept>,
}

impl BrokerDir {
    /// Sweeps what dead brokers left behind, then makes the directory.
    pub fn create(runtime: &RuntimeDir, name: DirName) -> Result<Self, SocketError> {
        let name = name.make();
        let path = runtime.path().join(&name);
        // The other socket's path has the same length.
        check_length(&control_socket(&path), DirRole::Runtime)?;
        let _lock = runtime.lock()?;
        sweep(runtime)?;
        let dir = enter(runtime, &name, &path)?;
        let (lock, sandbox) = furnish(&dir, &path).inspect_err(|_| clear(runtime, name.as_ref(), &dir))?;
        Ok(Self {
            kept: Arc::new(Kept {
                runtime: runtime.clone(),
                name,
                path,
                dir,
                sandbox,
                _lock: lock,
            }),
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.kept.path
    }

    /// The one directory that may be mounted into a sandbox: it holds the sandbox's socket and nothing else.
    #[must_use]
    pub fn sandbox_dir(&self) -> PathBuf {
        self.kept.path.join(SANDBOX)
    }

    /// Binds the sandbox's socket.
    pub fn bind_sandbox(&self, exposure: Exposure) -> Result<BoundSocket, SocketError> {
        let path = self.sandbox_dir();
        let (dir_mode, mode) = match exposure {
            Exposure::Private => (PRIVATE_DIR, PRIVATE_FILE),
            Exposure::Shared => (
                PRIVATE_DIR | Mode::XGRP | Mode::XOTH,
                PRIVATE_FILE | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH,
            ),
        };
        fchmod(&self.kept.sandbox, dir_mode).map_err(SocketError::system("set the mode of", &path))?;
        self.bind(&self.kept.sandbox, sandbox_socket(&self.kept.path), SOCK, mode)
    }

    /// Binds the socket that only the host reaches.
    pub fn bind_control(&self) -> Result<BoundSocket, SocketError> {
        self.bind(&self.kept.dir, control_socket(&self.kept.path), CONTROL, PRIVATE_FILE)
    }

    /// Binds a path of the user's choice, absolute, in a directory that only the user may write to. `mode` is what
    /// `chmod` takes; 0600 unless the user asks for more.
    pub fn bind_at(&self, path: &Path, mode: u32) -> Result<BoundSocket, SocketError> {
        let mode = u16::try_from(mode)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .map(|mode| Mode::from_raw_mode(mode.into()))
            .ok_or(SocketError::NotASocketMode { mode })?;
        let _lock = self.kept.runtime.lock()?;
        Place::of_path(path)?.bind(mode)
    }

    fn bind(&self, dir: &OwnedFd, path: PathBuf, name: &str, mode: Mode) -> Result<BoundSocket, SocketError> {
        let _lock = self.kept.runtime.lock()?;
        let dir = dir.try_clone().map_err(SocketError::system("hold", &path))?;
        Place::of_broker(Arc::clone(&self.kept), dir.into(), path, name).bind(mode)
    }
}

/// What makes a directory this broker's: its lock. Dropping it removes the directory.
#[derive(Debug)]
pub(super) struct Kept {
    runtime: RuntimeDir,
    name: String,
    path: PathBuf,
    dir: OwnedFd,
    sandbox: OwnedFd,
    _lock: File,
}

impl Kept {
    /// Removes what the broker made; the sockets are gone by now, because each of them keeps this alive. One that is
    /// still there is not the broker's, and its directory stays for the next sweep to decide about.
    fn remove(&self) -> Result<(), SocketError> {
        let refused = || SocketError::system("remove", &self.path);
        let _lock = self.runtime.lock()?;
        remove_empty_dir(&self.dir, SANDBOX).map_err(refused())?;
        unlink_kind(&self.dir, PID, FileType::RegularFile).map_err(refused())?;
        unlink_kind(&self.dir, LOCK, FileType::RegularFile).map_err(refused())?;
        remove_empty_dir(&self.runtime, self.name.as_str()).map_err(refused())?;
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "the broker's directory stays behind; the next broker sweeps it");
        }
    }
}

/// Makes the directory. An empty-handed one of the same name, left because somebody put a file there, is used again.
fn enter(runtime: &RuntimeDir, name: &str, path: &Path) -> Result<OwnedFd, SocketError> {
    let refused = || SocketError::system("create directory", path);
    match make_private_dir(runtime, name) {
        Ok(dir) => return Ok(dir),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(refused()(errno)),
    }
    let occupied = || SocketError::Occupied { path: path.to_owned() };
    let dir = open_dir(runtime, name).map_err(|_not_a_directory| occupied())?;
    if Facts::of(&dir).map_err(refused())?.uid != geteuid().as_raw() {
        return Err(occupied());
    }
    if let Life::Live = Life::of(&dir).map_err(SocketError::system("lock", &path.join(LOCK)))? {
        return Err(SocketError::DaemonRunning {
            pid: read_pid(&dir),
            socket: sandbox_socket(path),
        });
    }
    fchmod(&dir, PRIVATE_DIR).map_err(refused())?;
    Ok(dir)
}

/// Fills the directory: its lock first, so that it is never taken for a dead broker's.
fn furnish(dir: &OwnedFd, path: &Path) -> Result<(File, OwnedFd), SocketError> {
    // Tools that clean temporary directories by age leave alone what is locked. Nothing depends on it.
    let _unsupported = flock(dir, FlockOperation::NonBlockingLockShared);

    let lock = create_file(dir, path, LOCK)?;
    wait_for(&lock, &path.join(LOCK))?;

    let mut pid = create_file(dir, path, PID)?;
    writeln!(pid, "{}", getpid().as_raw_nonzero()).map_err(SocketError::system("write", &path.join(PID)))?;

    let sandbox = path.join(SANDBOX);
    match make_private_dir(dir, SANDBOX) {
        Ok(sandbox) => Ok((lock, sandbox)),
        Err(Errno::EXIST) => Err(SocketError::Occupied { path: sandbox }),
        Err(errno) => Err(SocketError::system("create directory", &sandbox)(errno)),
    }
}

/// Makes a file that was not there.
fn create_file(dir: &OwnedFd, path: &Path, name: &str) -> Result<File, SocketError> {
    let path = path.join(name);
    let refused = || SocketError::system("create", &path);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, PRIVATE_FILE) {
        Ok(fd) => File::from(fd),
        Err(Errno::EXIST) => return Err(SocketError::Occupied { path }),
        Err(errno) => return Err(refused()(errno)),
    };
    fchmod(&file, PRIVATE_FILE).map_err(refused())?;
    Ok(file)
}
