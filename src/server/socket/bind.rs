//! Binding one path, and unlinking it again if it is still the same.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, chmodat, unlinkat},
    io::Errno,
    net::{SocketAddrUnix, bind, listen},
};

use super::{
    broker_dir::Kept,
    dir::{Facts, FileId, open_judged},
    error::{DirRole, SocketError},
    lock::wait_for,
    probe::{Probe, check_length, new_socket, probe},
};

/// Connections that may wait to be accepted; the system cuts it to its own limit.
const BACKLOG: i32 = 1024;

/// A socket that listens on a path. Dropping it unlinks the path and stops listening.
#[derive(Debug)]
pub struct BoundSocket {
    // Dropped first: the name goes before the listener, so that nobody finds a name without one.
    guard: SocketGuard,
    listener: UnixListener,
}

impl BoundSocket {
    /// The path that clients connect to.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.guard.path()
    }

    /// The listener, which does not block, for the runtime that accepts from it; and the guard, to be kept until
    /// nothing is accepted any more.
    #[must_use]
    pub fn into_parts(self) -> (UnixListener, SocketGuard) {
        (self.listener, self.guard)
    }
}

/// Unlinks a socket's path when it is dropped, if the path still names the socket that was bound.
#[derive(Debug)]
pub struct SocketGuard {
    path: PathBuf,
    name: OsString,
    dir: File,
    bound: Identity,
    claim: Claim,
}

/// What keeps other brokers from the path while it is probed, bound, checked and unlinked.
#[derive(Debug)]
pub(super) enum Claim {
    /// The broker's own directory, which stays its own until the last of its sockets is gone.
    Broker {
        /// Only held.
        _kept: Arc<Kept>,
    },
    /// The lock of the directory, taken for the moment: two brokers may have different runtime directories and the
    /// same path, and this leaves nothing behind.
    Directory,
}

impl SocketGuard {
    /// The path that clients connect to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the mode by name and looks whether it was done to the right file.
    fn set_mode(&self, mode: Mode) -> Result<(), SocketError> {
        let refused = || SocketError::system("set the mode of", &self.path);
        chmodat(&self.dir, &self.name, mode, AtFlags::empty()).map_err(refused())?;
        match Facts::at(&self.dir, &self.name).map_err(refused())? {
            Some(facts) if facts.id == self.bound.id && facts.permissions() == mode => Ok(()),
            Some(_) | None => Err(SocketError::Changed {
                path: self.path.clone(),
            }),
        }
    }

    fn remove(&self) -> Result<(), SocketError> {
        if matches!(self.claim, Claim::Directory) {
            wait_for(&self.dir, &self.path)?;
        }
        let removed = self.bound.unlink(&self.dir, &self.name);
        // The directory's lock goes with the descriptor, right after this.
        match removed {
            Ok(true) => Ok(()),
            Ok(false) => {
                tracing::debug!(path = %self.path.display(), "the socket's path is gone or somebody else's; left alone");
                Ok(())
            }
            Err(errno) => Err(SocketError::system("remove", &self.path)(errno)),
        }
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "a socket stays behind; the next broker there replaces it");
        }
    }
}

/// Which file a name stood for. The file is held, where the system can do that without opening it: a number that is
/// free again may be given to the next file, and then somebody else's socket would look like this one.
#[derive(Debug)]
struct Identity {
    id: FileId,
    kind: FileType,
    _held: Option<OwnedFd>,
}

impl Identity {
    fn at(dir: impl AsFd, name: &OsStr) -> Result<Option<Self>, Errno> {
        #[cfg(target_os = "linux")]
        let found = {
            use rustix::fs::{OFlags, openat};
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(dir, name, flags, Mode::empty()) {
                Ok(held) => Some((Facts::of(&held)?, Some(held))),
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(errno),
            }
        };
        #[cfg(not(target_os = "linux"))]
        let found = Facts::at(dir, name)?.map(|facts| (facts, None));
        Ok(found.map(|(facts, held)| Self {
            id: facts.id,
            kind: facts.kind,
            _held: held,
        }))
    }

    /// Unlinks the name if it still stands for this file. Whoever calls has the lock that keeps brokers from the name,
    /// and nobody else may write to the directory.
    fn unlink(&self, dir: impl AsFd, name: &OsStr) -> Result<bool, Errno> {
        match Facts::at(&dir, name)? {
            Some(facts) if facts.id == self.id => {}
            Some(_) | None => return Ok(false),
        }
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// A place for a socket: a directory that nobody else may write to, and a name in it.
#[derive(Debug)]
pub(super) struct Place {
    dir: File,
    path: PathBuf,
    name: OsString,
    claim: Claim,
}

impl Place {
    /// A place in the broker's own directory.
    pub(super) fn of_broker(kept: Arc<Kept>, dir: File, path: PathBuf, name: &str) -> Self {
        Self {
            dir,
            path,
            name: name.into(),
            claim: Claim::Broker { _kept: kept },
        }
    }

    /// The place of a `--socket PATH`. The directory is judged, locked until the place is bound or dropped, and
    /// otherwise left as it is.
    pub(super) fn of_path(path: &Path) -> Result<Self, SocketError> {
        let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute()) else {
            return Err(SocketError::NotASocketPath { path: path.to_owned() });
        };
        let path = parent.join(name);
        check_length(&path, DirRole::SocketParent)?;
        let dir = File::from(open_judged(parent, DirRole::SocketParent)?);
        wait_for(&dir, parent)?;
        Ok(Self {
            dir,
            name: name.to_owned(),
            path,
            claim: Claim::Directory,
        })
    }

    /// Binds the place and listens. A stale socket there is replaced; anything else is an error and left alone.
    ///
    /// The system binds by path, not relative to a descriptor; so what appears in the directory afterwards is compared
    /// with what was asked for.
    pub(super) fn bind(self, mode: Mode) -> Result<BoundSocket, SocketError> {
        self.clear()?;
        let socket = new_socket().map_err(self.refused("make a socket for"))?;
        narrow(&socket, mode).map_err(self.refused("make a socket for"))?;
        let address = SocketAddrUnix::new(&self.path).map_err(self.refused("bind"))?;
        bind(&socket, &address).map_err(self.refused("bind"))?;
        let bound = match Identity::at(&self.dir, &self.name).map_err(self.refused("look at"))? {
            Some(bound) if bound.kind == FileType::Socket => bound,
            // The path led elsewhere than the descriptor: the directory was moved away in between.
            Some(_) | None => return Err(SocketError::Changed { path: self.path }),
        };
        // From here on the guard cleans up.
        let guard = SocketGuard {
            path: self.path.clone(),
            name: self.name.clone(),
            dir: self.dir.try_clone().map_err(self.refused("hold"))?,
            bound,
            claim: self.claim,
        };
        guard.set_mode(mode)?;
        listen(&socket, BACKLOG).map_err(SocketError::system("listen on", &guard.path))?;
        if matches!(guard.claim, Claim::Directory) {
            guard
                .dir
                .unlock()
                .map_err(SocketError::system("unlock the directory of", &guard.path))?;
        }
        Ok(BoundSocket {
            guard,
            listener: UnixListener::from(socket),
        })
    }

    /// Makes room: a stale socket is unlinked, if it is still the one that was probed.
    fn clear(&self) -> Result<(), SocketError> {
        let path = self.path.clone();
        let Some(found) = Identity::at(&self.dir, &self.name).map_err(self.refused("look at"))? else {
            return Ok(());
        };
        if found.kind != FileType::Socket {
            return Err(SocketError::NotASocket { path });
        }
        match probe(&self.path) {
            Probe::Stale => match found.unlink(&self.dir, &self.name).map_err(self.refused("remove"))? {
                true => Ok(()),
                false => Err(SocketError::Changed { path }),
            },
            Probe::Gone => Ok(()),
            Probe::Live(pid) => Err(SocketError::InUse { path, pid }),
            Probe::Unclear(errno) => Err(SocketError::Unclear {
                path,
                source: errno.into(),
            }),
        }
    }

    fn refused<E: Into<io::Error>>(&self, action: &'static str) -> impl FnOnce(E) -> SocketError {
        SocketError::system(action, &self.path)
    }
}

/// Makes the file that binding will create no wider than `mode`, whatever the umask is: Linux takes the socket's own mode
/// for it. Setting the mode before listening is not enough, because a connect looks at the mode before it looks whether
/// anybody listens.
#[cfg(target_os = "linux")]
fn narrow(socket: &OwnedFd, mode: Mode) -> Result<(), Errno> {
    rustix::fs::fchmod(socket, mode)
}

/// Elsewhere a socket has no mode before it is bound; `main`'s umask narrows it.
#[cfg(not(target_os = "linux"))]
fn narrow(_socket: &OwnedFd, _mode: Mode) -> Result<(), Errno> {
    Ok(())
}
