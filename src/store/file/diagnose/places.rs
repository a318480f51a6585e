//! Where the store lies: its directory, the file system there, and whether it can be written.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::{
    fs::{Access, access},
    io::Errno,
};

use super::{
    super::{
        blocking::Doing,
        durable::{self, AtPath},
        identity, layout, lock, network,
    },
    Diagnosis, Outcome, opening,
};
use crate::store::Operation;

/// How to go on after the store's directory was looked at.
pub(super) enum Directory {
    Fit,
    /// There is none yet: everything is made with the first record.
    Absent,
    Unfit,
}

pub(super) fn look_at_directory(root: &Path, diagnosis: &mut Diagnosis) -> Directory {
    let check = "directory";
    let about = match root.metadata() {
        Ok(about) => about,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return look_above(root, diagnosis),
        Err(cause) => {
            let mend = (cause.kind() == io::ErrorKind::PermissionDenied).then(|| {
                "run this as the user that it belongs to, or set `path` in [store] to a directory of this user's own"
                    .to_owned()
            });
            let error = opening(root).failed(cause);
            diagnosis.found(check, Outcome::Bad { error, mend });
            return Directory::Unfit;
        }
    };
    if !about.is_dir() {
        let error = opening(root).failed(io::Error::from(Errno::NOTDIR));
        let mend = Some(format!("move {root:?} away, or set `path` in [store] to a directory"));
        diagnosis.found(check, Outcome::Bad { error, mend });
        return Directory::Unfit;
    }
    if let Err(error) = identity::judge_store(root) {
        diagnosis.found(check, error);
        return Directory::Unfit;
    }
    diagnosis.good(check, format!("{root:?} (mode {:04o})", about.mode() & 0o7777));
    Directory::Fit
}

/// The store is made below what is there of its path: a directory, or the path would be none.
fn look_above(root: &Path, diagnosis: &mut Diagnosis) -> Directory {
    let there = root.ancestors().skip(1).find(|path| path.exists()).unwrap_or(root);
    match access(there, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => {
            diagnosis.good(
                "directory",
                format!("{root:?} will be made with the first login or import"),
            );
            Directory::Absent
        }
        Err(cause) => {
            let error = opening(root).failed(AtPath::new(there, cause));
            let mend = Some(format!(
                "let this user write to {there:?}, or set `path` in [store] to another directory"
            ));
            diagnosis.found("directory", Outcome::Bad { error, mend });
            Directory::Unfit
        }
    }
}

/// `kind`: as [`network::file_system`] tells it.
pub(super) fn look_at_file_system(root: &Path, kind: Option<&str>, allowed: bool, diagnosis: &mut Diagnosis) {
    let check = "file system";
    match kind {
        None => diagnosis.good(check, "not one that hosts are known to share"),
        Some(kind) if allowed => diagnosis.notice(
            check,
            format!("other hosts may share it ({kind}), and allow_network_fs is set"),
            "let only one host use this store",
        ),
        Some(kind) => {
            let cause =
                format!("it is on a file system that other hosts may share ({kind}), where its locks may not hold");
            let mend = Some(network::MEND.to_owned());
            let error = opening(root).failed(cause);
            diagnosis.found(check, Outcome::Bad { error, mend });
        }
    }
}

/// Writes, syncs, locks and removes a file of this look's own; and asks about the directories below.
pub(super) fn look_at_writing(root: &Path, diagnosis: &mut Diagnosis) {
    let doing = Doing::new(Operation::Write, format!("the store {root:?}"));
    let name = format!(".probe-{}.tmp", std::process::id());
    let path = root.join(&name);
    let tried = durable::replace(root, &name, b"probe").and_then(|()| locks_exclude(&path));
    let removed = durable::remove(root, &name);
    let excludes = match tried.and_then(|excludes| removed.map(|_was_there| excludes)) {
        Ok(excludes) => excludes,
        Err(cause) => {
            diagnosis.found("writing", doing.failed(cause));
            return;
        }
    };
    if !excludes {
        let error = doing.failed("a lock on a file there excludes nobody");
        let mend = Some(network::MEND.to_owned());
        diagnosis.found("writing", Outcome::Bad { error, mend });
        return;
    }
    let writable = layout::directories(root).and_then(|directories| {
        directories.iter().try_for_each(|directory| {
            access(directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|cause| AtPath::new(directory, cause))
        })
    });
    match writable {
        Ok(()) => diagnosis.good("writing", "a file can be written, synced, locked and removed"),
        Err(cause) => diagnosis.found("writing", doing.failed(cause)),
    }
}

/// Whether a lock that is held is refused to the next one.
fn locks_exclude(path: &Path) -> Result<bool, AtPath> {
    let Some(held) = lock::try_lock(path)? else {
        return Ok(false);
    };
    let refused = lock::try_lock(path)?.is_none();
    held.unlock().map_err(|cause| AtPath::new(path, cause))?;
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_other_hosts_share_is_bad_unless_that_is_allowed() {
        for (kind, allowed, good, said) in [
            (None, false, true, "not one that hosts are known to share"),
            (None, true, true, "not one that hosts are known to share"),
            (Some("nfs"), true, false, "(nfs), and allow_network_fs is set"),
            (Some("nfs"), false, false, "(nfs), where its locks may not hold"),
        ] {
            let mut diagnosis = Diagnosis::default();
            look_at_file_system(Path::new("/s"), kind, allowed, &mut diagnosis);
            let found = diagnosis.findings.pop().unwrap().outcome;
            let (detail, bad) = match &found {
                Outcome::Good(detail) | Outcome::Notice { detail, .. } => (detail.clone(), false),
                Outcome::Bad { error, .. } => (error.to_string(), true),
            };
            assert!(detail.contains(said), "{detail}");
            assert_eq!(matches!(found, Outcome::Good(_)), good, "{detail}");
            assert_eq!(bad, kind.is_some() && !allowed, "{detail}");
        }
    }
}
