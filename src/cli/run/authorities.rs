//! The certificate authorities that vouch for providers: they are not where a sandbox could add one.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::places::place;
use crate::{
    config::Environment,
    sandbox::{Place, SandboxError},
};

/// As many links as the kernel follows.
const LINKS: usize = 40;

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

/// The directories in which something is looked up on this way, and where it ends: who can write to one of them decides where
/// that is. Nothing is on the way of an empty path.
fn walked(path: &Path) -> BTreeSet<PathBuf> {
    let mut walked = BTreeSet::new();
    let mut rest = Vec::new();
    let Ok(path) = std::path::absolute(path) else {
        return walked;
    };
    put_before(&mut rest, &path);
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(part) = rest.pop() {
        if part == OsStr::new("/") {
            at = PathBuf::from("/");
            continue;
        }
        if part == OsStr::new("..") {
            at.pop();
            continue;
        }
        walked.insert(at.clone());
        let next = at.join(&part);
        match fs::read_link(&next) {
            Ok(target) if links < LINKS => {
                links += 1;
                put_before(&mut rest, &target);
            }
            _ => at = next,
        }
    }
    walked.insert(at);
    walked
}

fn put_before(rest: &mut Vec<OsString>, path: &Path) {
    rest.extend(path.components().rev().map(|part| part.as_os_str().to_owned()));
}
