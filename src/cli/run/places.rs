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
    let account = home_of(&accounts, uid);
    environment.home().into_iter().chain(account).map(place).collect()
}

/// As the lines of /etc/passwd have it, unless that is everything or nowhere.
fn home_of(accounts: &str, uid: u32) -> Option<&Path> {
    let account = accounts.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()? == uid.to_string()).then(|| fields.nth(2))?
    });
    account
        .map(Path::new)
        .filter(|home| home.is_absolute() && home.parent().is_some())
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

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    /// Known by its file alone, not by its path.
    fn by_id(path: &Path) -> Place {
        Place::new("/elsewhere".into(), id(path), Vec::new())
    }

    #[test]
    fn what_is_not_there_yet_lies_where_the_links_on_the_way_lead() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap().join("real");
        fs::create_dir(&real).unwrap();
        let link = directory.path().join("link");
        symlink(&real, &link).unwrap();
        let absent = place(&link.join("absent/deep"));
        assert_eq!(absent.path(), real.join("absent/deep"));
        assert!(by_id(&real).holds(&absent) && by_id(real.parent().unwrap()).holds(&absent));
        let there = place(&link);
        assert_eq!(there.path(), real);
        assert!(by_id(&real).holds(&there) && by_id(real.parent().unwrap()).holds(&there));
        fs::create_dir(real.join("other")).unwrap();
        assert!(!by_id(&real.join("other")).holds(&absent));
        // What is there is in no other one only because that one is not there.
        assert!(!absent.holds(&there) && !place(&real.join("absent")).holds(&there));
    }

    #[test]
    fn a_way_passes_a_link_only_where_one_is_below_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::create_dir_all(real.join("plain")).unwrap();
        symlink(&real, &link).unwrap();
        symlink("nowhere", real.join("broken")).unwrap();
        let passes = |from: &Path, rest: &str| {
            passes_a_link(&Way {
                from: from.to_owned(),
                rest: rest.into(),
                destination: "/inside".into(),
            })
        };
        assert!(!passes(&real, "plain") && !passes(&link, "plain/absent") && !passes(&real, ""));
        assert!(passes(&real, "broken") && passes(&real, "broken/below") && passes(directory.path(), "link/plain"));
    }

    #[test]
    fn a_source_is_what_is_there_under_the_name_that_was_given() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("directory")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        symlink("directory", root.join("link")).unwrap();
        for (name, kind, leads_to) in [
            ("directory", Kind::Directory, "directory"),
            ("file", Kind::File, "file"),
            ("socket", Kind::Other, "socket"),
            ("absent", Kind::Absent, "absent"),
            ("link", Kind::Directory, "directory"),
        ] {
            let source = source(&root.join(name)).unwrap();
            assert_eq!(
                (source.kind, source.place.path()),
                (kind, &*root.join(leads_to)),
                "{name}"
            );
            assert_eq!(source.named, root.join(name));
        }
        // Where `..` leads is not what the name says.
        let source = source(&root.join("link/../file")).unwrap();
        assert_eq!((source.named, source.kind), (root.join("file"), Kind::File));
    }

    #[test]
    fn a_user_has_the_home_of_its_account_and_the_one_of_its_environment() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().canonicalize().unwrap();
        let environment: Environment = [("HOME", &home)].into_iter().collect();
        let paths = |environment: &Environment, uid| -> Vec<PathBuf> {
            let homes = homes(environment, uid).into_iter();
            homes.map(|home| home.path().to_owned()).collect()
        };
        let accounts = fs::read_to_string("/etc/passwd").unwrap();
        let root = accounts.lines().find_map(|line| line.strip_prefix("root:")).unwrap();
        let roots = Path::new(root.split(':').nth(4).unwrap()).canonicalize().unwrap();
        assert_eq!(paths(&environment, 0), [home.clone(), roots.clone()]);
        assert_eq!(paths(&Environment::default(), 0), [roots]);
        assert_eq!(paths(&environment, u32::MAX - 7), [home]);
    }

    #[test]
    fn an_account_without_a_home_of_its_own_has_none() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nodd\na:x:1:1::/:/bin/sh\nb:x:2:2::home:/bin/sh\nc:x:3:3:::\n";
        for (uid, home) in [(0, Some("/root")), (1, None), (2, None), (3, None), (4, None)] {
            assert_eq!(home_of(accounts, uid), home.map(Path::new), "{uid}");
        }
    }

    #[test]
    fn dots_go_and_nothing_else_does() {
        for (path, plain) in [("/a/./b/../c", "/a/c"), ("/..", "/"), ("a/b/..", "a"), ("/a", "/a")] {
            assert_eq!(without_dots(Path::new(path)), Path::new(plain));
        }
    }

    #[test]
    fn the_neighbours_of_an_identity_are_private_unless_they_are_somebody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().canonicalize().unwrap();
        let whose = |identity: PathBuf| -> Vec<PathBuf> {
            let mut config = Config::default();
            config.store.identity = IdentitySource::File(identity);
            let own = own(&config, None, &Environment::default(), &[place(&home)]).into_iter();
            own.filter(|own| own.what == "the directory of the store's identity")
                .map(|own| own.place.path().to_owned())
                .collect()
        };
        assert_eq!(whose(home.join("keys/identity.txt")), [home.join("keys")]);
        // Beside a home, and beside the system's own directories.
        assert!(whose(home.join("identity.txt")).is_empty());
        assert!(whose("/identity.txt".into()).is_empty());
        assert_eq!(whose("/srv/keys/identity.txt".into()), [Path::new("/srv/keys")]);
    }

    #[test]
    fn what_only_some_may_read_is_found_below_what_everybody_may() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mode = |name: &str, mode| {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(root.join(name), permissions).unwrap();
        };
        for name in ["open", "open/deep", "closed", "closed/deep"] {
            fs::create_dir(root.join(name)).unwrap();
            mode(name, 0o755);
        }
        for (name, of) in [("open/public", 0o644), ("open/deep/key", 0o640), ("closed/key", 0o600)] {
            fs::write(root.join(name), "").unwrap();
            mode(name, of);
        }
        let _socket = UnixListener::bind(root.join("open/socket")).unwrap();
        mode("open/socket", 0o600);
        symlink("deep/key", root.join("open/link")).unwrap();
        mode("closed", 0o700);
        assert_eq!(private(root), [root.join("closed"), root.join("open/deep/key")]);
    }
}
