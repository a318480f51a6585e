//! Where things are on this host, with the files that make a place what it is.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Access, access};

use super::mount_points::MountPoints;
use crate::{
    config::{ClientSecret, Config, Environment, IdentitySource},
    daemon,
    sandbox::{FileId, Kind, Own, Place, SYSTEM_PATHS, Source, Way},
};

/// A place that is to be mounted: what is mounted below it comes along.
pub(super) fn whole(path: &Path) -> Place {
    let place = place(path);
    let points = MountPoints::here();
    let below = points.below(place.path()).map(self::place).collect();
    place.with(below)
}

/// Follows all links as far as something is there; what is not there yet has no links.
pub(super) fn place(path: &Path) -> Place {
    let mut rest: Vec<PathBuf> = Vec::new();
    let mut there = path;
    let real = loop {
        match fs::canonicalize(there) {
            Ok(real) => break real,
            Err(_) => match (there.parent(), there.file_name()) {
                (Some(parent), Some(name)) => {
                    rest.push(name.into());
                    there = parent;
                }
                _ => break there.to_owned(),
            },
        }
    };
    let exists = rest.is_empty();
    let mut above: Vec<FileId> = real.ancestors().skip(1).filter_map(id).collect();
    let own = id(&real);
    if !exists {
        above.extend(own);
    }
    let points = MountPoints::here();
    // Not one that something else is mounted over.
    let others = points.other_names(&real).into_iter().filter(|other| id(other) == own);
    let mut names = Vec::new();
    for other in others {
        above.extend(other.ancestors().skip(1).filter_map(id));
        names.push(rest.iter().rev().fold(other, |path, name| path.join(name)));
    }
    let path = rest.iter().rev().fold(real, |path, name| path.join(name));
    Place::new(path, own.filter(|_| exists), above).also_called(names)
}

fn id(path: &Path) -> Option<FileId> {
    let about = path.symlink_metadata().ok()?;
    Some(FileId {
        device: about.dev(),
        inode: about.ino(),
    })
}

/// Whether what is there on this way is a link anywhere.
pub(super) fn passes_a_link(way: &Way) -> bool {
    let mut path = way.from.clone();
    way.rest.components().any(|part| {
        path.push(part);
        path.symlink_metadata().is_ok_and(|about| about.is_symlink())
    })
}

/// The source of a `--mount`.
pub(super) fn source(path: &Path) -> io::Result<Source> {
    let absolute = std::path::absolute(path)?;
    let place = whole(&absolute);
    let kind = match place.path().symlink_metadata() {
        Ok(about) if about.is_dir() => Kind::Directory,
        Ok(about) if about.is_file() => Kind::File,
        Ok(_) => Kind::Other,
        Err(_) => Kind::Absent,
    };
    let plain = !absolute.components().any(|part| part == Component::ParentDir);
    Ok(Source {
        named: if plain { absolute } else { place.path().to_owned() },
        place,
        kind,
    })
}

/// The homes of this user: what HOME says, and what the system says.
pub(super) fn homes(environment: &Environment, uid: u32) -> Vec<Place> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let account = accounts.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()? == uid.to_string()).then(|| fields.nth(2))?
    });
    let account = account
        .map(Path::new)
        .filter(|home| home.is_absolute() && home.parent().is_some());
    environment.home().into_iter().chain(account).map(place).collect()
}

/// What belongs to credbroker and to no sandbox.
pub(super) fn own(config: &Config, explicit: Option<&Path>, environment: &Environment, homes: &[Place]) -> Vec<Own> {
    let directory = |what, path: &Path| Own {
        what,
        place: place(path),
        is_directory: true,
    };
    let file = |what, path: &Path| Own {
        what,
        place: place(path),
        is_directory: false,
    };
    let mut own = Vec::new();
    own.extend(config.store.path.as_deref().map(|path| directory("its store", path)));
    own.extend(config.audit.path.as_deref().map(|path| directory("its records", path)));
    let sockets = daemon::runtime_path(environment).ok();
    // Brokers that were started elsewhere, as far as there are any.
    let others = daemon::runtime_paths(environment)
        .into_iter()
        .filter(|path| path.exists());
    // Where they are for a broker that is started without this configuration.
    let defaults = [
        (environment.data_home(), "another store of its"),
        (environment.state_home(), "other records of its"),
    ];
    own.extend(defaults.into_iter().filter_map(|(home, what)| {
        let path = home?.join("credbroker");
        path.exists().then(|| directory(what, &path))
    }));
    own.extend(
        sockets
            .into_iter()
            .chain(others)
            .map(|path| directory("its sockets", &path)),
    );
    let default = Config::default_file(environment);
    own.extend(
        default
            .as_deref()
            .and_then(Path::parent)
            .map(|path| directory("its configuration", path)),
    );
    own.extend(explicit.map(|path| file("its configuration", path)));
    if let IdentitySource::File(path) = &config.store.identity {
        let identity = file("the store's identity", path);
        // Where the identity is alone among files that are nobody else's, its neighbours are as private as it is.
        let above = identity.place.path().parent().map(place);
        let shared = |place: &Place| {
            homes.iter().any(|home| place.holds(home))
                || SYSTEM_PATHS
                    .iter()
                    .any(|system| Path::new(system).starts_with(place.path()))
        };
        own.extend(above.filter(|above| !shared(above)).map(|place| Own {
            what: "the directory of the store's identity",
            place,
            is_directory: true,
        }));
        own.push(identity);
    }
    own.extend(
        config
            .providers
            .values()
            .filter_map(|provider| match &provider.client_secret {
                Some(ClientSecret::File(path)) => Some(file("a client secret", path)),
                Some(ClientSecret::Variable(_) | ClientSecret::Command(_)) | None => None,
            }),
    );
    own
}

/// What lies below a directory and only some may read, this user among them.
pub(super) fn private(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut directories) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // Links stay as they are: what they lead to is somewhere else, where it is judged or not shown.
            let Ok(about) = entry.metadata() else {
                continue;
            };
            let path = entry.path();
            let everybodys = about.mode() & 0o004 != 0;
            let readable = || access(&path, Access::READ_OK).is_ok();
            match (about.is_dir(), everybodys) {
                (true, true) => directories.push(path),
                (true, false) if readable() => found.push(path),
                (false, false) if about.is_file() && readable() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// A path without `.` and `..`, as if there were no links in it.
pub(super) fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}
