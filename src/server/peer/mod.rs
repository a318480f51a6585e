//! Who is calling: the peer's credentials, read once when the connection is accepted and never again.
//!
//! The kernel answers with the uid and pid of the process that called `connect`, as the broker's user namespace sees
//! them. A descriptor that is passed on keeps the first process's credentials; the threat model says so.
//!
//! On Linux the process is held from then on (SO_PEERPIDFD), until it has been looked at: its number may be another
//! process's by then.

#[cfg(target_os = "linux")]
mod describe;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(not(target_os = "linux"))]
mod unknown;

use std::ops::RangeInclusive;

use tokio::net::UnixStream;

#[cfg(not(target_os = "linux"))]
pub(super) use self::unknown::{Described, Verdict};
#[cfg(not(target_os = "linux"))]
pub use self::unknown::{Describer, OnlySandbox, Pinned, Reveal, Root};
#[cfg(target_os = "linux")]
pub(super) use self::{describe::Described, sandbox::Verdict};
#[cfg(target_os = "linux")]
pub use self::{
    describe::{Describer, Pinned},
    sandbox::{OnlySandbox, Reveal, Root},
};
use crate::broker::Error;

/// Who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Effective uid at `connect`.
    pub uid: u32,
    /// Process id at `connect`, where the system tells it.
    pub pid: Option<i32>,
}

impl Peer {
    /// Asks the system (SO_PEERCRED on Linux, getpeereid elsewhere). `None`: it did not tell, and nobody is served.
    #[must_use]
    pub fn of(stream: &UnixStream) -> Option<Self> {
        match stream.peer_cred() {
            Ok(credentials) => Some(Self {
                uid: credentials.uid(),
                pid: credentials.pid(),
            }),
            Err(error) => {
                tracing::warn!(%error, "the system did not tell who connected; the connection is refused");
                None
            }
        }
    }
}

impl Pinned {
    /// Holds the process that connected. `None`: it is gone, or the system cannot do that.
    #[must_use]
    pub fn of(stream: &UnixStream) -> Option<Self> {
        #[cfg(target_os = "linux")]
        {
            let pid = Peer::of(stream)?.pid?;
            let pidfd = peer_pidfd(stream).ok()?;
            Some(Self { pid, pidfd })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = stream;
            None
        }
    }
}

#[cfg(target_os = "linux")]
fn peer_pidfd(stream: &impl std::os::fd::AsFd) -> nix::Result<std::os::fd::OwnedFd> {
    nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerPidfd)
}

/// Whether peers can be held here; else why not.
///
/// # Errors
/// What is missing.
pub fn can_pin() -> Result<String, String> {
    #[cfg(target_os = "linux")]
    {
        let (one, _other) = std::os::unix::net::UnixStream::pair().map_err(|error| error.to_string())?;
        peer_pidfd(&one)
            .map_err(|error| format!("only uid and pid are known of peers: SO_PEERPIDFD (Linux 6.5): {error}"))?;
        process::proc_is_ours().map_err(|error| match error {
            rustix::io::Errno::XDEV => {
                "only uid and pid are known of peers: /proc is that of another pid name space".to_owned()
            }
            _ => format!("only uid and pid are known of peers: /proc: {error}"),
        })?;
        Ok("the process that connected is held until it has been looked at".to_owned())
    }
    #[cfg(not(target_os = "linux"))]
    Err("only uid and pid are known of peers: only Linux tells more".to_owned())
}

/// Which uids may use a socket.
#[derive(Debug, Clone)]
pub struct AllowedPeers {
    uids: Vec<RangeInclusive<u32>>,
}

impl AllowedPeers {
    /// The broker's own user, and these.
    #[must_use]
    pub fn own_and(others: &[u32]) -> Self {
        let uids = std::iter::once(own()).chain(others.iter().copied());
        Self {
            uids: uids.map(|uid| uid..=uid).collect(),
        }
    }

    /// These, and the broker's own user only if it is among them.
    #[must_use]
    pub fn exactly(uids: &[RangeInclusive<u32>]) -> Self {
        Self { uids: uids.to_vec() }
    }

    /// Whether nobody but the broker's own user may.
    #[must_use]
    pub fn are_own(&self) -> bool {
        self.uids.iter().all(|uids| *uids == (own()..=own()))
    }

    /// Lets the peer pass, or says which flag would.
    ///
    /// # Errors
    /// [`Error::PeerNotAllowed`], [`Error::PeerUnknown`].
    pub fn check(&self, peer: Option<Peer>) -> Result<Peer, Error> {
        match peer {
            Some(peer) if self.uids.iter().any(|uids| uids.contains(&peer.uid)) => Ok(peer),
            Some(peer) => Err(Error::PeerNotAllowed { uid: peer.uid }),
            None => Err(Error::PeerUnknown),
        }
    }
}

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    #[test]
    #[cfg(target_os = "linux")]
    fn whether_peers_can_be_held_is_said_as_it_is() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let told = can_pin();
        assert_eq!(told.is_ok(), peer_pidfd(&one).is_ok());
        let words = told.as_ref().map_or("SO_PEERPIDFD", |_| "is held until");
        let told = told.unwrap_or_else(|why| why);
        assert!(told.contains(words), "{told}");
    }

    #[test]
    fn only_the_own_uid_and_the_named_ones_pass() {
        let own = rustix::process::geteuid().as_raw();
        let (named, stranger) = (own.wrapping_add(1), own.wrapping_add(2));
        let allowed = AllowedPeers::own_and(&[named]);
        let check = |uid| allowed.check(Some(Peer { uid, pid: None })).map_err(|e| e.reason());
        assert!(check(own).is_ok() && check(named).is_ok());
        assert_eq!(check(stranger), Err(Reason::PeerNotAllowed));
        assert_eq!(allowed.check(None).map_err(|e| e.reason()), Err(Reason::PeerNotAllowed));
        assert!(
            AllowedPeers::own_and(&[])
                .check(Some(Peer { uid: named, pid: None }))
                .is_err()
        );
    }

    #[test]
    fn a_mapping_lets_in_its_own_uids_exactly() {
        let own = rustix::process::geteuid().as_raw();
        let base = own.wrapping_add(200_000);
        let allowed = AllowedPeers::exactly(&[base..=base + 9, base + 20..=base + 20]);
        for (uid, passes) in [
            (base, true),
            (base + 9, true),
            (base + 10, false),
            (base + 20, true),
            (base - 1, false),
            (own, false),
        ] {
            assert_eq!(allowed.check(Some(Peer { uid, pid: None })).is_ok(), passes, "{uid}");
        }
        assert!(!allowed.are_own() && !AllowedPeers::own_and(&[base]).are_own());
        assert!(AllowedPeers::own_and(&[]).are_own() && AllowedPeers::exactly(&[own..=own]).are_own());
    }
}
