//! Removing what dead brokers left behind, and nothing else.
//!
//! Only known names of the known kind are removed, no link is followed, and a socket that somebody listens on stays.
//! A directory that holds more than that stays too, without what was the broker's.

use std::{ffi::OsStr, os::fd::OwnedFd, path::Path};

use rustix::{fs::FileType, io::Errno, process::geteuid};

use super::{
    dir::{Facts, names, open_dir, remove_empty_dir, unlink_kind},
    error::SocketError,
    layout::{CONTROL, DirName, LOCK, Life, PID, SANDBOX, SOCK, control_socket, sandbox_socket},
    probe::{Probe, probe},
    runtime_dir::RuntimeDir,
};

/// Removes the directories of brokers that are dead. The caller holds the runtime directory's lock, so a directory
/// without a lock file is not one that is being made, but one whose maker died.
pub(super) fn sweep(runtime: &RuntimeDir) -> Result<(), SocketError> {
    let names = names(runtime).map_err(SocketError::system("list directory", runtime.path()))?;
    for name in names.iter().filter(|name| DirName::is_one(name)) {
        let Ok(dir) = open_dir(runtime, name.as_os_str()) else {
            continue;
        };
        let own = Facts::of(&dir).is_ok_and(|facts| facts.uid == geteuid().as_raw());
        // Whether it lives cannot be told if its lock is no lock: then it is left alone.
        if let (true, Ok(Life::Dead { _lock })) = (own, Life::of(&dir)) {
            clear(runtime, name, &dir);
        }
    }
    Ok(())
}

/// Removes what a broker makes from a directory that is no live broker's, and the directory if that was all. Failing is
/// no reason not to start: what stays is looked at again by the next sweep.
pub(super) fn clear(runtime: &RuntimeDir, name: &OsStr, dir: &OwnedFd) {
    let path = runtime.path().join(name);
    match remove_known(runtime, name, dir, &path) {
        Ok(true) => tracing::debug!(path = %path.display(), "removed what a dead broker left behind"),
        Ok(false) => tracing::debug!(path = %path.display(), "a dead broker's directory is not empty; left there"),
        Err(errno) => tracing::warn!(path = %path.display(), %errno, "cannot remove what a dead broker left behind"),
    }
}

fn remove_known(runtime: &RuntimeDir, name: &OsStr, dir: &OwnedFd, path: &Path) -> Result<bool, Errno> {
    let sandbox = open_dir(dir, SANDBOX).ok();
    let sandbox_used = match &sandbox {
        Some(sandbox) => is_used(sandbox, SOCK, &sandbox_socket(path))?,
        None => false,
    };
    if sandbox_used || is_used(dir, CONTROL, &control_socket(path))? {
        return Ok(false);
    }
    if let Some(sandbox) = sandbox {
        unlink_kind(&sandbox, SOCK, FileType::Socket)?;
        remove_empty_dir(dir, SANDBOX)?;
    }
    unlink_kind(dir, CONTROL, FileType::Socket)?;
    unlink_kind(dir, PID, FileType::RegularFile)?;
    // Last: without it the directory counts as one whose maker died, and can be swept again.
    unlink_kind(dir, LOCK, FileType::RegularFile)?;
    remove_empty_dir(runtime, name)
}

/// Whether somebody listens on a socket, or it cannot be told.
fn is_used(dir: &OwnedFd, name: &str, path: &Path) -> Result<bool, Errno> {
    let is_socket = Facts::at(dir, name)?.is_some_and(|facts| facts.kind == FileType::Socket);
    Ok(is_socket && !matches!(probe(path), Probe::Stale | Probe::Gone))
}
