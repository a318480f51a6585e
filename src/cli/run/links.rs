//! Links on the way to what is mounted: whoever made one chose what is mounted.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::places::place;
use crate::{
    config::Environment,
    sandbox::{Directories, Place, Request, SandboxError},
};

/// As many links as the kernel follows on one way.
const MOST_LINKS: usize = 40;

/// The way to what a path leads to.
#[derive(Default)]
pub(super) struct Walk {
    /// The links on it, each at its own place.
    pub(super) links: Vec<PathBuf>,
    /// Where something is looked up on it: who can write there decides where it ends.
    pub(super) directories: BTreeSet<PathBuf>,
    /// Where it ends.
    pub(super) end: PathBuf,
}

/// Goes there, as the system would. A relative path counts from the working directory.
pub(super) fn walk(path: &Path) -> io::Result<Walk> {
    let parts = |path: &Path| -> Vec<PathBuf> {
        let parts = path.components().rev();
        parts.map(|part| PathBuf::from(part.as_os_str())).collect()
    };
    let (mut walk, mut rest) = (Walk::default(), parts(&std::path::absolute(path)?));
    while let Some(part) = rest.pop() {
        if part == Path::new("/") {
            walk.end = part;
            continue;
        }
        if part == Path::new("..") {
            walk.end.pop();
            continue;
        }
        let next = walk.end.join(part);
        walk.directories.insert(std::mem::take(&mut walk.end));
        match fs::read_link(&next) {
            Ok(target) if walk.links.len() < MOST_LINKS => {
                walk.end = next.parent().unwrap_or(Path::new("/")).to_owned();
                walk.links.push(next);
                rest.extend(parts(&target));
            }
            _ => walk.end = next,
        }
    }
    Ok(walk)
}

/// Nothing is mounted that is behind a link which a sandbox may have made: this one before, another one in the same project, or
/// one in another project of this user's. That holds for the working directory as well, if it was reached by one.
///
/// # Errors
/// The outer one: the working directory cannot be found out.
pub(super) fn check(
    environment: &Environment,
    request: &Request,
    directories: &Directories,
    writable: &[Place],
) -> io::Result<Result<(), SandboxError>> {
    if let Some(link) = before_the_working_directory(environment, directories)? {
        return Ok(Err(directories.behind_a_link(&link)));
    }
    let working = &directories.working;
    let project = !directories.homes.iter().any(|home| working.holds(home));
    let can_write = |place: &Place| {
        let mut places = writable.iter().chain(project.then_some(working));
        places.any(|writable| writable.holds(place))
    };
    for (mount, source) in &request.mounts {
        for link in walk(&mount.source)?.links {
            if link.parent().is_some_and(|parent| can_write(&place(parent))) || leads_astray(&link, &directories.homes)
            {
                return Ok(Err(source.behind_a_link(&mount.source, &link)));
            }
        }
    }
    Ok(Ok(()))
}

/// The shell says by which name it was reached. What another program left there says nothing.
fn before_the_working_directory(environment: &Environment, directories: &Directories) -> io::Result<Option<PathBuf>> {
    let Some(named) = environment.get("PWD").map(Path::new).filter(|path| path.is_absolute()) else {
        return Ok(None);
    };
    if place(named).path() != directories.working.path() {
        return Ok(None);
    }
    let mut links = walk(named)?.links.into_iter();
    Ok(links.find(|link| leads_astray(link, &directories.homes)))
}

/// Whether a link leads out of its directory, and that is one where projects are: below the home, or this user's own, from where
/// it leads into the home. In the home itself and above it the links are the user's, or the system's.
fn leads_astray(link: &Path, homes: &[Place]) -> bool {
    let Some(directory) = link.parent().filter(|directory| *directory != Path::new("/")) else {
        return false;
    };
    let (above, target) = (place(directory), place(link));
    if above.holds(&target) {
        return false;
    }
    let below_a_home = |place: &Place| homes.iter().any(|home| home.holds(place) && !place.holds(home));
    let owner = fs::metadata(directory).map(|about| about.uid());
    let is_own = owner.is_ok_and(|owner| owner == rustix::process::geteuid().as_raw());
    below_a_home(&above) || (is_own && below_a_home(&target))
}
