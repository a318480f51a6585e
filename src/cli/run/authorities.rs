//! The certificate authorities that vouch for providers: they are not where a sandbox could add one.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{links::walk, places::place};
use crate::{
    config::Environment,
    sandbox::{Place, SandboxError},
};

/// Whether the variables that name authorities lead past what a sandbox can write to. They count for this process as they are;
/// what a command of the configuration gets of them is judged elsewhere.
pub(super) fn check(environment: &Environment, writable: &[Place]) -> Result<(), SandboxError> {
    let value = |variable| environment.get(variable).unwrap_or_default();
    let files = [PathBuf::from(value("SSL_CERT_FILE"))];
    let directories = value("SSL_CERT_DIR").as_bytes().split(|byte| *byte == b':');
    let directories: Vec<PathBuf> = directories.map(|path| OsStr::from_bytes(path).into()).collect();
    // Most files in such a directory are links.
    let entries = directories.iter().filter_map(|directory| fs::read_dir(directory).ok());
    let entries = entries.flatten().flatten().map(|entry| entry.path());
    let directories: Vec<PathBuf> = directories.iter().cloned().chain(entries).collect();
    for (variable, paths) in [("SSL_CERT_FILE", &files[..]), ("SSL_CERT_DIR", &directories)] {
        let walked: BTreeSet<PathBuf> = paths.iter().flat_map(|path| walked(path)).collect();
        let found = walked.iter().find(|path| {
            let place = place(path);
            writable.iter().any(|writable| writable.holds(&place))
        });
        if let Some(path) = found {
            return Err(SandboxError::Authorities {
                variable,
                path: path.clone(),
            });
        }
    }
    Ok(())
}

/// The directories in which something is looked up on this way, and where it ends. Nothing is on the way of an empty path.
fn walked(path: &Path) -> BTreeSet<PathBuf> {
    let Ok(mut walk) = walk(path) else {
        return BTreeSet::new();
    };
    walk.directories.insert(walk.end);
    walk.directories
}
