//! What a broker's directory looks like, to the broker and to those who only look.

use std::{
    ffi::OsStr,
    fs::{File, TryLockError},
    io::{self, Read as _},
    os::{fd::AsFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use data_encoding::BASE64URL_NOPAD;
use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};

/// The host's socket.
pub(super) const CONTROL: &str = "control.sock";
/// The process, for people and for messages; nothing is decided by it.
pub(super) const PID: &str = "pid";
/// Held for the broker's life; and, in the runtime directory, while a broker creates, probes, binds or sweeps.
pub(super) const LOCK: &str = "lock";
/// The only directory that a sandbox sees.
pub(super) const SANDBOX: &str = "sandbox";
/// The only name in it.
pub(super) const SOCK: &str = "sock";

const DAEMON: &str = "daemon";
const RANDOM_BYTES: usize = 16;

/// What a broker's directory is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirName {
    /// A name that nobody else has.
    Random,
    /// The name of the one broker that runs without being told a path, so that clients find it.
    Daemon,
}

impl DirName {
    /// The name, another one each time it is random.
    pub(super) fn make(self) -> String {
        match self {
            Self::Random => BASE64URL_NOPAD.encode(&rand::random::<[u8; RANDOM_BYTES]>()),
            Self::Daemon => DAEMON.to_owned(),
        }
    }

    /// Whether a directory of this name is a broker's. Everything else in the runtime directory is a stranger's.
    pub(super) fn is_one(name: &OsStr) -> bool {
        name == DAEMON
            || BASE64URL_NOPAD
                .decode(name.as_bytes())
                .is_ok_and(|bytes| bytes.len() == RANDOM_BYTES)
    }
}

/// Where the host's socket is.
pub(super) fn control_socket(broker: &Path) -> PathBuf {
    broker.join(CONTROL)
}

/// Where the sandbox's socket is.
pub(super) fn sandbox_socket(broker: &Path) -> PathBuf {
    broker.join(SANDBOX).join(SOCK)
}

/// What a broker's lock says about it.
#[derive(Debug)]
pub(super) enum Life {
    /// It runs.
    Live,
    /// It does not, and cannot begin to while this is held.
    Dead {
        /// The lock that it left; `None` if it died before it made one.
        _lock: Option<File>,
    },
}

impl Life {
    /// Tries the lock. Only with the runtime directory's lock held: it is the broker's for an instant.
    pub(super) fn of(dir: impl AsFd) -> Result<Self, io::Error> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(dir, LOCK, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Self::Dead { _lock: None }),
            Err(errno) => return Err(errno.into()),
        };
        match file.try_lock() {
            Ok(()) => Ok(Self::Dead { _lock: Some(file) }),
            Err(TryLockError::WouldBlock) => Ok(Self::Live),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The process that a broker wrote down, if it did.
pub(super) fn read_pid(dir: impl AsFd) -> Option<u32> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(dir, PID, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_broker_could_have_made_are_a_brokers() {
        for _ in 0..100 {
            assert!(DirName::is_one(OsStr::new(&DirName::Random.make())));
        }
        assert!(DirName::is_one(OsStr::new("daemon")));
        for stranger in [
            "lock",
            "Daemon",
            "daemon.old",
            "AAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAA=",
            "AAAAAAAAAAAAAAAAAAAA.A",
        ] {
            assert!(!DirName::is_one(OsStr::new(stranger)), "{stranger}");
        }
    }

    #[test]
    fn random_names_differ() {
        assert_ne!(DirName::Random.make(), DirName::Random.make());
        assert_eq!(DirName::Random.make().len(), 22);
    }
}
