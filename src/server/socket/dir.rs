//! Directories as descriptors: opened without following a link, judged by what the descriptor says.
//!
//! A path can be made to mean something else between two calls, a descriptor cannot; so whatever matters is asked of
//! the descriptor, and names are looked up relative to it.

use std::{
    ffi::{OsStr, OsString},
    os::fd::{AsFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, chmodat, fchmod, fstat, mkdirat, openat, statat, unlinkat},
    io::Errno,
    path::Arg,
    process::geteuid,
};

use super::error::{DirRole, Flaw, SocketError};

/// The mode of every directory that is a wall.
pub(super) const PRIVATE_DIR: Mode = Mode::RWXU;

/// Identifies a file while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    /// Wide enough for what every system calls a device.
    device: i128,
    inode: u64,
}

/// What a file is, read at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) id: FileId,
    pub(super) kind: FileType,
    mode: Mode,
    pub(super) uid: u32,
}

impl Facts {
    /// Who may do what, without the special bits.
    pub(super) fn permissions(&self) -> Mode {
        self.mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO)
    }

    /// Of an open descriptor.
    pub(super) fn of(fd: impl AsFd) -> Result<Self, Errno> {
        fstat(fd).map(|stat| Self::from(&stat))
    }

    /// Of what a name stands for, a link for itself; `None` if there is nothing.
    pub(super) fn at(dir: impl AsFd, name: impl Arg) -> Result<Option<Self>, Errno> {
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Self::from(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl From<&Stat> for Facts {
    fn from(stat: &Stat) -> Self {
        Self {
            id: FileId {
                device: i128::from(stat.st_dev),
                inode: stat.st_ino,
            },
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: Mode::from_raw_mode(stat.st_mode),
            uid: stat.st_uid,
        }
    }
}

/// Opens a directory; a symbolic link is none.
pub(super) fn open_dir(at: impl AsFd, path: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// Opens a directory and judges it by its descriptor.
pub(super) fn open_judged(path: &Path, role: DirRole) -> Result<OwnedFd, SocketError> {
    let refused = SocketError::system("open directory", path);
    match open_dir(CWD, path) {
        Ok(dir) => {
            let facts = Facts::of(&dir).map_err(refused)?;
            judge(path, role, &facts)?;
            Ok(dir)
        }
        // The error alone does not say what is wrong: a link, a file and a stranger's directory look much alike.
        Err(errno) => match Facts::at(CWD, path) {
            Ok(Some(facts)) => {
                judge(path, role, &facts)?;
                Err(refused(errno))
            }
            Ok(None) | Err(Errno::NOENT) => Err(SocketError::Missing {
                path: path.to_owned(),
                role,
            }),
            Err(_also_refused) => Err(refused(errno)),
        },
    }
}

/// Whether a directory is fit for its role.
fn judge(path: &Path, role: DirRole, facts: &Facts) -> Result<(), SocketError> {
    let own = geteuid().as_raw();
    let others_write = Mode::WGRP | Mode::WOTH;
    let permissions = facts.permissions();
    let unfit_mode = match role {
        DirRole::Runtime => permissions != PRIVATE_DIR,
        DirRole::Temporary | DirRole::RuntimeParent | DirRole::SocketParent => permissions.intersects(others_write),
    };
    let flaw = if facts.kind == FileType::Symlink {
        Flaw::Symlink
    } else if facts.kind != FileType::Directory {
        Flaw::NotADirectory
    } else if facts.uid != own {
        Flaw::Owner { found: facts.uid, own }
    } else if unfit_mode {
        Flaw::Mode {
            found: permissions.bits(),
        }
    } else {
        return Ok(());
    };
    Err(SocketError::Unsafe {
        path: path.to_owned(),
        role,
        flaw,
    })
}

/// Makes a directory with mode 0700 whatever the umask is, and opens it; `EEXIST` if the name is taken.
///
/// A umask that takes the owner's rights leaves a directory that cannot be opened, so the mode is first set by name.
/// That follows a link, should somebody have put one there in between: nobody else can in a directory of our own, and
/// in a sticky temporary directory neither.
pub(super) fn make_private_dir(at: impl AsFd, path: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    mkdirat(&at, path, PRIVATE_DIR)?;
    let dir = match open_dir(&at, path) {
        Err(Errno::ACCESS) => {
            chmodat(&at, path, PRIVATE_DIR, AtFlags::empty())?;
            open_dir(&at, path)
        }
        opened => opened,
    }?;
    fchmod(&dir, PRIVATE_DIR)?;
    Ok(dir)
}

/// Removes a name if it stands for a file of this kind. `Ok(false)`: there was nothing, or something else.
pub(super) fn unlink_kind(dir: impl AsFd, name: &str, kind: FileType) -> Result<bool, Errno> {
    match Facts::at(&dir, name)? {
        Some(facts) if facts.kind == kind => unlink(dir, name, AtFlags::empty()),
        Some(_) | None => Ok(false),
    }
}

/// Removes an empty directory. `Ok(false)`: there was none, or it is not empty.
pub(super) fn remove_empty_dir(dir: impl AsFd, name: impl Arg) -> Result<bool, Errno> {
    unlink(dir, name, AtFlags::REMOVEDIR)
}

fn unlink(dir: impl AsFd, name: impl Arg, flags: AtFlags) -> Result<bool, Errno> {
    match unlinkat(dir, name, flags) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Every name in a directory.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}
