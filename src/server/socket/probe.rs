//! What can be told about a socket's path before anything is bound there.

use std::{
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketType, connect},
};

use super::error::{DirRole, SocketError};

/// The longest path of a socket in bytes: the system's array less the final zero.
pub const PATH_LIMIT: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    107
} else {
    103
};

/// What an attempt to connect said.
#[derive(Debug)]
pub(super) enum Probe {
    /// Somebody listens, also if the queue is full. The process, where the system tells.
    Live(Option<u32>),
    /// The file is there and nobody listens.
    Stale,
    /// There is nothing any more.
    Gone,
    /// It cannot be told.
    Unclear(Errno),
}

/// Refuses a path that does not fit into a socket address, before anything is created. The system's own message would
/// name neither the limit nor the way out.
pub(super) fn check_length(path: &Path, role: DirRole) -> Result<(), SocketError> {
    let length = path.as_os_str().as_bytes().len();
    if length <= PATH_LIMIT {
        return Ok(());
    }
    Err(SocketError::PathTooLong {
        path: path.to_owned(),
        length,
        limit: PATH_LIMIT,
        role,
    })
}

/// Asks whether somebody listens, without waiting and without sending a byte.
pub(super) fn probe(path: &Path) -> Probe {
    let (socket, address) = match (new_socket(), SocketAddrUnix::new(path)) {
        (Ok(socket), Ok(address)) => (socket, address),
        (Err(errno), _) | (_, Err(errno)) => return Probe::Unclear(errno),
    };
    match connect(&socket, &address) {
        Ok(()) => Probe::Live(peer_pid(&socket)),
        // EAGAIN: somebody listens, and the queue of connections is full.
        Err(Errno::AGAIN | Errno::INPROGRESS) => Probe::Live(None),
        Err(Errno::CONNREFUSED) => Probe::Stale,
        Err(Errno::NOENT) => Probe::Gone,
        Err(errno) => Probe::Unclear(errno),
    }
}

/// A stream socket that does not block and that no child inherits.
pub(super) fn new_socket() -> Result<OwnedFd, Errno> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::net::{SocketFlags, socket_with};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        ioctl_fionbio(&socket, true)?;
        Ok(socket)
    }
}

fn peer_pid(socket: &OwnedFd) -> Option<u32> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let peer = rustix::net::sockopt::socket_peercred(socket).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _unknown = socket;
        None
    }
}
