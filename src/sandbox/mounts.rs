//! What may be mounted, and where: nothing of credbroker's own, not the home, nothing that the host's services listen in.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Component, Path, PathBuf},
};

use super::{
    SandboxError,
    bwrap::{EXECUTABLE_DIRECTORY, SYSTEM_PATHS},
    container::SOCKET_DIRECTORY,
};

/// `SRC[:DST[:ro]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub source: PathBuf,
    /// Where. `None`: where it is on the host.
    pub destination: Option<PathBuf>,
    /// Whether nothing there can be changed.
    pub read_only: bool,
}

/// What is no [`Mount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMount {
    /// Nothing to mount.
    #[error("SRC is empty: name a file or directory, as in SRC, SRC:DST or SRC:DST:ro")]
    NoSource,
    /// A place that is none.
    #[error(
        "DST is no absolute path: write SRC, SRC:DST or SRC:DST:ro with DST from / on (to keep the place: SRC:SRC:ro)"
    )]
    NoDestination,
    /// Something else behind it.
    #[error("what follows DST can only be ro: write SRC:DST:ro, or SRC:DST for one that can be written to")]
    NotReadOnly,
    /// More parts than there are.
    #[error(
        "there are more than three parts: write SRC:DST:ro; a path with a colon cannot be mounted, mount the directory it is in"
    )]
    TooManyParts,
}

impl Mount {
    /// Reads an argument.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(argument: &OsStr) -> Result<Self, InvalidMount> {
        let mut parts = argument
            .as_bytes()
            .split(|byte| *byte == b':')
            .map(|part| OsString::from_vec(part.to_vec()));
        let source = parts
            .next()
            .filter(|source| !source.is_empty())
            .ok_or(InvalidMount::NoSource)?;
        let destination = parts.next().map(PathBuf::from);
        let mode = parts.next();
        if parts.next().is_some() {
            return Err(InvalidMount::TooManyParts);
        }
        if destination
            .as_ref()
            .is_some_and(|destination| !destination.is_absolute())
        {
            return Err(InvalidMount::NoDestination);
        }
        match mode {
            None => {}
            Some(mode) if mode == "ro" => {}
            Some(_) => return Err(InvalidMount::NotReadOnly),
        }
        Ok(Self {
            source: source.into(),
            destination,
            read_only: argument.as_bytes().ends_with(b":ro"),
        })
    }
}

/// What tells one file from all others, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
}

/// A place in the file system: its path without links, and which files it and those above it are. One directory may have
/// several paths (bind mounts, file systems that do not tell cases apart).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    id: Option<FileId>,
    above: Vec<FileId>,
    others: Vec<PathBuf>,
    below: Vec<Place>,
}

impl Place {
    /// `path` has no links; `id` is what is there, if anything is; `above` are the directories it is in.
    #[must_use]
    pub fn new(path: PathBuf, id: Option<FileId>, above: Vec<FileId>) -> Self {
        Self {
            path,
            id,
            above,
            others: Vec::new(),
            below: Vec::new(),
        }
    }

    /// The paths that it has besides, because what it is in is mounted several times. What they are in is above, too.
    #[must_use]
    pub fn also_called(mut self, others: Vec<PathBuf>) -> Self {
        self.others = others;
        self
    }

    /// What is mounted below, and comes along wherever this is mounted.
    #[must_use]
    pub fn with(mut self, below: Vec<Self>) -> Self {
        self.below = below;
        self
    }

    /// Itself, and what is mounted below.
    fn parts(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.below)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the other one is this one or lies in it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        let same = |id: FileId| other.id == Some(id) || other.above.contains(&id);
        other.path.starts_with(&self.path) || self.id.is_some_and(same)
    }
}

/// What is at the source of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A socket, a device, a pipe.
    Other,
    /// Nothing.
    Absent,
}

/// What a [`Mount`]'s source is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The path as it was written, from / on.
    pub named: PathBuf,
    /// Where that leads.
    pub place: Place,
    /// What is there.
    pub kind: Kind,
}

/// Something that belongs to credbroker, and to no sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// What it is, for the message.
    pub what: &'static str,
    /// Where it is.
    pub place: Place,
    /// Whether what lies in it is credbroker's, too.
    pub is_directory: bool,
}

/// What the rules are about.
#[derive(Debug, Clone)]
pub struct Directories {
    /// Where the user is.
    pub working: Place,
    /// The home as HOME has it.
    pub home_path: Option<PathBuf>,
    /// The same without links; also the home that the system has for the user.
    pub homes: Vec<Place>,
    /// What is credbroker's own.
    pub own: Vec<Own>,
    /// This program, which the host runs again.
    pub executable: Place,
}

/// Something that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) source: PathBuf,
    pub(super) destination: PathBuf,
    pub(super) read_only: bool,
}

/// What a sandbox has inside that nothing may lie over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inside {
    reserved: &'static [&'static str],
    /// Whether what is mounted below something is not read-only with it.
    flat_read_only: bool,
}

/// The kernel's own file systems.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Where the host's services listen.
const SERVICES: &str = "/run";
/// Where removable disks are mounted, below the other.
const DISKS: &str = "/run/media";
/// Where some containers have what is outside of them, the home once more among it.
const HOST: &str = "/run/host";
/// Where everybody's programs listen; what is in it may be mounted.
const SHARED: [&str; 2] = ["/tmp", "/var/tmp"];

pub(super) const WORKING_DIRECTORY: &str = "the working directory";
const CHANGE_DIRECTORY: &str = "change to the directory of your project";
const PROGRAM_ELSEWHERE: &str = "put credbroker elsewhere, or change to another directory";
const READ_ONLY: &str = "mount it read-only (SRC:DST:ro), or put credbroker elsewhere";
const CHOOSE: &str = "mount a directory that holds only what the sandbox needs";

impl Inside {
    pub(super) fn container() -> Self {
        Self {
            reserved: &[SOCKET_DIRECTORY],
            flat_read_only: true,
        }
    }

    pub(super) fn bwrap() -> Self {
        Self {
            reserved: &[SOCKET_DIRECTORY, EXECUTABLE_DIRECTORY],
            flat_read_only: false,
        }
    }

    fn judge(self, destination: &Path) -> Result<(), SandboxError> {
        let refused = |why| {
            Err(SandboxError::Destination {
                path: destination.to_owned(),
                why,
            })
        };
        let mut components = destination.components();
        let normal = components.next() == Some(Component::RootDir)
            && components.all(|component| matches!(component, Component::Normal(_)));
        if !normal {
            return refused("write the path from / on, without `..`");
        }
        let overlaps = |other: &str| destination.starts_with(other) || Path::new(other).starts_with(destination);
        if destination == Path::new("/") || KERNEL.iter().any(|kernel| overlaps(kernel)) {
            return refused("that is the sandbox's own; choose another place");
        }
        if self.reserved.iter().any(|reserved| overlaps(reserved)) {
            return refused("the broker's socket or program is there; choose another place");
        }
        Ok(())
    }
}

/// The working directory, at its own place, to write to.
pub(super) fn working_directory(directories: &Directories) -> Result<Mounted, SandboxError> {
    const WHAT: &str = WORKING_DIRECTORY;
    let working = &directories.working;
    judge(WHAT, working, directories, CHANGE_DIRECTORY)?;
    judge_writable(WHAT, working, directories, PROGRAM_ELSEWHERE)?;
    if SYSTEM_PATHS.iter().any(|system| working.path.starts_with(system)) {
        let why = "belongs to the system, which a sandbox does not write to".to_owned();
        return Err(forbidden(WHAT, working, why, CHANGE_DIRECTORY));
    }
    if Inside::bwrap().judge(&working.path).is_err() {
        let why = "is or holds where the sandbox has its own (credbroker, its socket)".to_owned();
        return Err(forbidden(WHAT, working, why, CHANGE_DIRECTORY));
    }
    Ok(Mounted {
        source: working.path.clone(),
        destination: working.path.clone(),
        read_only: false,
    })
}

/// What was asked for, in the order in which it is mounted.
pub(super) fn judged(
    mounts: &[(Mount, Source)],
    directories: &Directories,
    inside: &Inside,
) -> Result<Vec<Mounted>, SandboxError> {
    const WHAT: &str = "--mount";
    let mut judged: Vec<Mounted> = Vec::new();
    for (mount, source) in mounts {
        let refused = |why: &str, mend| Err(forbidden(WHAT, &source.place, why.to_owned(), mend));
        match source.kind {
            Kind::Directory | Kind::File => {}
            Kind::Absent => return refused("is not there", "check the path, or make the directory"),
            Kind::Other => {
                return refused(
                    "is a socket, pipe or device, and the sandbox would get at what is behind it",
                    "mount files and directories only",
                );
            }
        }
        judge(WHAT, &source.place, directories, CHOOSE)?;
        if let (Some(below), true, true) = (source.place.below.first(), mount.read_only, inside.flat_read_only) {
            let why = format!(
                "has something mounted in it ({}), which would stay writable",
                below.path.display()
            );
            return refused(&why, "mount its parts one by one, or leave out `:ro`");
        }
        if !mount.read_only {
            judge_writable(WHAT, &source.place, directories, READ_ONLY)?;
        }
        let destination = mount.destination.as_ref().unwrap_or(&source.named);
        // Without a slash at its end, and the like.
        let destination: PathBuf = destination.components().collect();
        inside.judge(&destination)?;
        if judged.iter().any(|other| other.destination == destination) {
            return Err(SandboxError::Destination {
                path: destination,
                why: "two mounts have this place; remove one of them",
            });
        }
        judged.push(Mounted {
            source: source.place.path.clone(),
            destination,
            read_only: mount.read_only,
        });
    }
    in_order(&mut judged);
    Ok(judged)
}

/// What is in another one comes after it, or it would be hidden.
pub(super) fn in_order(mounts: &mut [Mounted]) {
    mounts.sort_by(|a, b| a.destination.cmp(&b.destination));
}

/// The way to a place that lies in another mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// What the other mount shows of the host.
    pub from: PathBuf,
    /// From there on.
    pub rest: PathBuf,
    /// The place inside.
    pub destination: PathBuf,
}

pub(super) fn ways(mounts: &[Mounted]) -> Vec<Way> {
    let way = |mounted: &Mounted| {
        let rest = |other: &Mounted| Some(mounted.destination.strip_prefix(&other.destination).ok()?.to_owned());
        let others = mounts.iter().filter(|other| other.destination != mounted.destination);
        let (from, rest) = others
            .filter_map(|other| Some((&other.source, rest(other)?)))
            .min_by_key(|(_, rest)| rest.components().count())?;
        Some(Way {
            from: from.clone(),
            rest,
            destination: mounted.destination.clone(),
        })
    };
    mounts.iter().filter_map(way).collect()
}

/// Where this place is inside, if it is in something that is mounted.
pub(super) fn inside_of(mounts: &[Mounted], place: &Place) -> Option<PathBuf> {
    let nearest = mounts
        .iter()
        .filter(|mounted| place.path.starts_with(&mounted.source))
        .max_by_key(|mounted| mounted.source.components().count())?;
    let rest = place.path.strip_prefix(&nearest.source).ok()?;
    Some(nearest.destination.join(rest).components().collect())
}

pub(super) fn forbidden(what: &'static str, place: &Place, why: String, mend: &'static str) -> SandboxError {
    SandboxError::Forbidden {
        what,
        path: place.path.clone(),
        why,
        mend,
    }
}

/// One more rule for what can be written to: the next `credbroker` on the host would be what the sandbox made of it.
fn judge_writable(
    what: &'static str,
    place: &Place,
    directories: &Directories,
    mend: &'static str,
) -> Result<(), SandboxError> {
    let program = &directories.executable;
    if let Some(place) = place.parts().find(|place| place.holds(program)) {
        let why = format!(
            "is or holds the program credbroker ({}), which the sandbox could replace",
            program.path.display()
        );
        return Err(forbidden(what, place, why, mend));
    }
    Ok(())
}

/// The rules for whatever comes from the host, and for what is mounted in it.
fn judge(what: &'static str, place: &Place, directories: &Directories, mend: &'static str) -> Result<(), SandboxError> {
    // First, because what is below is also why the place itself may be refused; and it is known by its name. But / has everything.
    for below in place.below.iter().filter(|_| place.path != Path::new("/")) {
        const BELOW: &str = "choose a directory without it";
        let what = if what == WORKING_DIRECTORY {
            "what is mounted in the working directory at"
        } else {
            "what is mounted in a --mount at"
        };
        judge_one(what, below, directories, BELOW)?;
    }
    judge_one(what, place, directories, mend)
}

fn judge_one(
    what: &'static str,
    place: &Place,
    directories: &Directories,
    mend: &'static str,
) -> Result<(), SandboxError> {
    let refused = |why: String| Err(forbidden(what, place, why, mend));
    let called = |is: &dyn Fn(&Path) -> bool| is(&place.path) || place.others.iter().any(|other| is(other));
    if called(&|path| path == Path::new("/")) {
        return refused("is the whole host".to_owned());
    }
    if directories.homes.iter().any(|home| place.holds(home)) {
        return refused("is or holds the home directory, with everything that programs keep there".to_owned());
    }
    for own in &directories.own {
        if place.holds(&own.place) || (own.is_directory && own.place.holds(place)) {
            let (what, own) = (own.what, own.place.path.display());
            return refused(format!(
                "is, holds or lies in what belongs to credbroker ({what}, {own})"
            ));
        }
    }
    if called(&|path| KERNEL.iter().any(|kernel| path.starts_with(kernel))) {
        return refused("shows the host's devices or processes".to_owned());
    }
    let services = |path: &Path| path.starts_with(SERVICES) && !(path.starts_with(DISKS) && path != Path::new(DISKS));
    let shared = |path: &Path| SHARED.iter().any(|shared| Path::new(shared).starts_with(path));
    let listens = |path: &Path| services(path) || shared(path);
    if called(&|path| match path.strip_prefix(HOST) {
        Ok(outside) => listens(&Path::new("/").join(outside)),
        Err(_elsewhere) => listens(path),
    }) {
        return refused("is or holds where other programs of this host listen".to_owned());
    }
    Ok(())
}
