//! What the disk has to have done before anyone believes it: private files, replaced whole, that survive a power cut.
//!
//! Called from blocking threads only. Knows paths and bytes; nothing of records, encryption or locks: whoever replaces
//! a file holds its lock.

use std::{
    collections::HashSet,
    error::Error as StdError,
    fmt,
    fs::{self, File, Metadata, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{CWD, Mode, OFlags, RenameFlags},
    io::Errno,
};

const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;

/// A failure of the system, and where it happened.
#[derive(Debug)]
pub(super) struct AtPath {
    path: PathBuf,
    cause: io::Error,
}

impl AtPath {
    pub(super) fn new(path: &Path, cause: impl Into<io::Error>) -> Self {
        Self {
            path: path.to_owned(),
            cause: cause.into(),
        }
    }
}

impl fmt::Display for AtPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.path, self.cause)
    }
}

impl StdError for AtPath {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}

/// What a path holds.
pub(super) enum Found {
    /// Nothing.
    Absent,
    /// A file with this content.
    Content(Vec<u8>),
    /// Something that cannot be a record, and why.
    Unusable(&'static str),
}

/// Reads a file of at most `max` bytes. Calls nothing absent that only could not be looked at.
pub(super) fn read(path: &Path, max: usize) -> Result<Found, AtPath> {
    let Some((file, about)) = open(path, OFlags::NOFOLLOW).map_err(|cause| AtPath::new(path, cause))? else {
        return Ok(Found::Absent);
    };
    if !about.is_file() {
        return Ok(Found::Unusable("it is not a regular file"));
    }
    let content = read_open(file, &about, max).map_err(|cause| AtPath::new(path, cause))?;
    Ok(content.map_or(Found::Unusable("it is too large"), Found::Content))
}

/// Opens for reading what is there, and tells about the very thing that was opened. Never hangs on a pipe.
pub(super) fn open(path: &Path, more: OFlags) -> io::Result<Option<(File, Metadata)>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(cause) => return Err(cause.into()),
    };
    let about = file.metadata()?;
    Ok(Some((file, about)))
}

/// The whole content; `None`: it has more than `max` bytes. Allocates once, so that a secret leaves no parts behind.
pub(super) fn read_open(file: File, about: &Metadata, max: usize) -> io::Result<Option<Vec<u8>>> {
    let expected = usize::try_from(about.len()).unwrap_or(usize::MAX);
    if expected > max {
        return Ok(None);
    }
    let mut content = Vec::with_capacity(expected.saturating_add(1));
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut content)?;
    Ok((content.len() <= max).then_some(content))
}

/// Replaces `directory/name` whole. When it returns, the new content survives a power cut; if it fails before the
/// rename, the old content is untouched. The caller holds the file's lock.
pub(super) fn replace(directory: &Path, name: &str, content: &[u8]) -> Result<(), AtPath> {
    let temporary = directory.join(temporary_name(name));
    let target = directory.join(name);
    write_new(&temporary, content)
        .and_then(|()| fs::rename(&temporary, &target).map_err(|cause| AtPath::new(&target, cause)))
        .inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    sync_directory(directory)
}

/// Makes `directory/name` unless it is there; `false`: it was. Nobody ever sees a part of it.
pub(super) fn create(directory: &Path, name: &str, content: &[u8]) -> Result<bool, AtPath> {
    let temporary = directory.join(temporary_name(name));
    let target = directory.join(name);
    let moved = write_new(&temporary, content)
        .and_then(|()| move_unless_there(&temporary, &target).map_err(|cause| AtPath::new(&target, cause)))
        .inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    if moved {
        sync_directory(directory)?;
    } else {
        remove_if_there(&temporary)?;
    }
    Ok(moved)
}

/// Never replaces a file that somebody else has put there meanwhile; `false`: somebody has. In one step, so that no
/// crash leaves the content under two names.
fn move_unless_there(from: &Path, to: &Path) -> io::Result<bool> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => return Ok(false),
        // Not every file system knows it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(cause) => return Err(cause.into()),
    }
    link_unless_there(from, to)
}

fn link_unless_there(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from).map(|()| true),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// Removes `directory/name` and what a crash may have left beside it. `false`: it was not there.
pub(super) fn remove(directory: &Path, name: &str) -> Result<bool, AtPath> {
    remove_if_there(&directory.join(temporary_name(name)))?;
    let was_there = remove_if_there(&directory.join(name))?;
    // Also if it was not there: an earlier removal may have failed between the unlink and this.
    sync_directory(directory).map_or_else(nothing_was_there, |()| Ok(was_there))
}

/// `false`, if there is no directory either.
fn nothing_was_there(failed: AtPath) -> Result<bool, AtPath> {
    if failed.cause.kind() == io::ErrorKind::NotFound {
        Ok(false)
    } else {
        Err(failed)
    }
}

/// Writes, syncs and removes a file of `length` bytes: whether a write would succeed now.
pub(super) fn probe(directory: &Path, length: usize) -> Result<(), AtPath> {
    let path = directory.join(".probe.tmp");
    let tried = write_new(&path, &vec![0; length]);
    remove_if_there(&path)?;
    tried
}

/// One fixed name a record, used under its lock only: crashes leave at most one, and the next write takes it over.
fn temporary_name(name: &str) -> String {
    format!(".{name}.tmp")
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), AtPath> {
    // Removed and made anew: what was left there might be a link to elsewhere, or open in another process. EXCL follows
    // no link.
    remove_if_there(path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let write = || -> io::Result<()> {
        let mut file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(PRIVATE_FILE))?);
        // The umask may have taken more away than others' rights.
        file.set_permissions(Permissions::from_mode(PRIVATE_FILE))?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|cause| AtPath::new(path, cause))
}

fn remove_if_there(path: &Path) -> Result<bool, AtPath> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(AtPath::new(path, cause)),
    }
}

pub(super) fn sync_directory(directory: &Path) -> Result<(), AtPath> {
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|cause| AtPath::new(directory, cause))
}

/// Makes directories, and remembers which ones are known to survive a power cut.
#[derive(Default)]
pub(super) struct Directories {
    durable: Mutex<HashSet<PathBuf>>,
}

impl Directories {
    /// Makes `root/inner` and everything missing above it, private and durable.
    pub(super) fn make(&self, root: &Path, inner: &Path) -> Result<PathBuf, AtPath> {
        let mut missing: Vec<&Path> = root
            .ancestors()
            .take_while(|path| {
                path.symlink_metadata()
                    .is_err_and(|cause| cause.kind() == io::ErrorKind::NotFound)
            })
            .collect();
        while let Some(directory) = missing.pop() {
            make_directory(directory)?;
            sync_parent(directory)?;
        }
        if !self.is_durable(root) {
            // What is above the store is the user's own and need not be readable.
            drop(sync_parent(root));
            self.set_durable(root);
        }
        let mut path = root.to_owned();
        for part in inner {
            path.push(part);
            // One that is there may have been made by another process that has not synced it yet.
            if make_directory(&path)? || !self.is_durable(&path) {
                sync_parent(&path)?;
                self.set_durable(&path);
            }
        }
        Ok(path)
    }

    fn is_durable(&self, path: &Path) -> bool {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.contains(path)
    }

    fn set_durable(&self, path: &Path) {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.insert(path.to_owned());
    }
}

/// `false`: it was there.
fn make_directory(path: &Path) -> Result<bool, AtPath> {
    match fs::DirBuilder::new().mode(PRIVATE_DIRECTORY).create(path) {
        Ok(()) => {}
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(cause) => return Err(AtPath::new(path, cause)),
    }
    // The umask may have taken more away than others' rights.
    fs::set_permissions(path, Permissions::from_mode(PRIVATE_DIRECTORY)).map_err(|cause| AtPath::new(path, cause))?;
    Ok(true)
}

fn sync_parent(path: &Path) -> Result<(), AtPath> {
    path.parent().map_or(Ok(()), sync_directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_be_exactly_as_long_as_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"12345").unwrap();
        assert!(matches!(read(&path, 5).unwrap(), Found::Content(content) if content == b"12345"));
        assert!(matches!(read(&path, 4).unwrap(), Found::Unusable(_)));
        // It grew after it was looked at.
        let (file, about) = open(&path, OFlags::empty()).unwrap().unwrap();
        fs::write(&path, b"1234567").unwrap();
        assert_eq!(read_open(file, &about, 5).unwrap(), None);
    }

    /// How it is done where the system cannot do it in one step.
    #[test]
    fn a_link_replaces_nothing_and_leaves_one_name() {
        let directory = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
        let missing = link_unless_there(&from, &to).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        fs::write(&from, b"new").unwrap();
        assert!(link_unless_there(&from, &to).unwrap());
        assert!(!from.exists());
        fs::write(&from, b"newer").unwrap();
        assert!(!link_unless_there(&from, &to).unwrap());
        assert_eq!((fs::read(&to).unwrap(), from.exists()), (b"new".to_vec(), true));
    }

    #[test]
    fn what_cannot_be_done_is_an_error_and_not_absent() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        let below = file.join("below");
        remove_if_there(&below).unwrap_err();
        make_directory(&below).unwrap_err();
        let absent = directory.path().join("absent");
        sync_directory(&absent).unwrap_err();
        sync_parent(&absent.join("below")).unwrap_err();
        assert!(!remove_if_there(&absent).unwrap());
        assert!(!remove(&absent, "file").unwrap());
        let failed = nothing_was_there(AtPath::new(&file, Errno::IO)).unwrap_err();
        assert_eq!(failed.to_string(), format!("{file:?}: {}", io::Error::from(Errno::IO)));
        let cause = failed
            .source()
            .and_then(|cause| cause.downcast_ref::<io::Error>())
            .unwrap();
        assert_eq!(cause.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }

    #[test]
    fn directories_are_made_durable_once_also_those_that_were_there() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("above/root");
        let (old, new) = (root.join("old"), root.join("old/new"));
        fs::create_dir_all(&old).unwrap();
        let directories = Directories::default();
        let all = [&root, &old, &new];
        assert!(all.iter().all(|path| !directories.is_durable(path)));
        assert_eq!(directories.make(&root, Path::new("old/new")).unwrap(), new);
        assert!(all.iter().all(|path| directories.is_durable(path)));
    }
}
