//! What may be the working directory, what may be mounted, and where.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use super::*;

/// `None`: it may be.
fn refused_working(path: &str) -> Option<String> {
    let error = request(Runtime::Bwrap).check(&directories(path)).err()?;
    assert!(error.is_usage(), "{error}");
    Some(error.to_string())
}

fn refused_mount(runtime: Runtime, arguments: &[&str]) -> Option<String> {
    let mut request = request(runtime);
    request.mounts = arguments.iter().map(|argument| mount(argument)).collect();
    let error = request.check(&directories("/home/me/project")).err()?;
    assert!(error.is_usage(), "{error}");
    Some(error.to_string())
}

#[test]
fn a_working_directory_holds_a_project_and_nothing_else() {
    for path in [
        "/home/me/project",
        "/home/me/.config/other",
        "/home/me/.local/share",
        "/home/me/.local/share/credbroker2",
        "/srv/work",
        "/tmp/work",
        "/run/media/me/disk",
        "/home/me/secrets/other",
    ] {
        // A neighbour or a directory above is fine as long as nothing of credbroker's is in it.
        let holds_the_store = path == "/home/me/.local/share";
        assert_eq!(refused_working(path).is_some(), holds_the_store, "{path}");
    }
    for (path, says) in [
        ("/", "is the whole host"),
        ("/home", "holds the home directory"),
        ("/home/me", "holds the home directory"),
        ("/home/me/.local", "its store"),
        ("/home/me/.local/share/credbroker", "its store"),
        ("/home/me/.local/share/credbroker/tokens", "its store"),
        ("/home/me/.local/state/credbroker", "its records"),
        ("/home/me/.config/credbroker", "its configuration"),
        ("/home/me/secrets", "a client secret"),
        ("/run/user/1000/credbroker/AAAA/sandbox", "its sockets"),
        ("/run/user/1000", "its sockets"),
        ("/run/media", "listen"),
        ("/run/dbus", "listen"),
        ("/tmp", "listen"),
        ("/proc/self", "devices or processes"),
        ("/dev/shm", "devices or processes"),
        ("/sys", "devices or processes"),
        ("/etc", "belongs to the system"),
        ("/usr/src/linux", "belongs to the system"),
        ("/opt", "where the sandbox has its own"),
    ] {
        let said = refused_working(path).unwrap_or_else(|| panic!("{path} is let in"));
        assert!(said.contains(says), "{path}: {said}");
        assert!(said.ends_with("change to the directory of your project"), "{said}");
    }
}

#[test]
fn a_mount_is_judged_like_the_working_directory() {
    for runtime in [Runtime::Bwrap, Runtime::Podman, Runtime::Docker] {
        for (argument, says) in [
            ("/", "is the whole host"),
            ("/home:/mnt/home:ro", "holds the home directory"),
            ("/home/me/.local/share/credbroker/tokens:/x:ro", "its store"),
            ("/home/me/.local:/x", "its store"),
            ("/run/user/1000/credbroker:/x", "its sockets"),
            ("/home/me/secrets:/x", "a client secret"),
            ("/proc:/x", "devices or processes"),
            ("/run:/x", "its sockets"),
            ("/var:/x", "listen"),
            ("/data:/run/credbroker", "socket or program is there"),
            ("/data:/run/credbroker/sock", "socket or program is there"),
            ("/data:/run", "socket or program is there"),
            ("/data:/", "the sandbox's own"),
            ("/data:/proc/x", "the sandbox's own"),
            ("/data:/x/../run/credbroker", "without `..`"),
        ] {
            let said = refused_mount(runtime, &[argument]).unwrap_or_else(|| panic!("{argument} is let in"));
            assert!(said.contains(says), "{argument}: {said}");
        }
        for argument in [
            "/data",
            "/data:/data:ro",
            "/data:/etc/x",
            "/home/me/.netrc:/home/me/.netrc:ro",
        ] {
            assert_eq!(refused_mount(runtime, &[argument]), None, "{argument}");
        }
        let twice = refused_mount(runtime, &["/a:/x", "/b:/x/"]).unwrap();
        assert!(twice.contains("two mounts have this place"), "{twice}");
    }
    // The program is there in a sandbox of bwrap's alone.
    assert!(refused_mount(Runtime::Bwrap, &["/data:/opt/credbroker"]).is_some());
    assert_eq!(refused_mount(Runtime::Podman, &["/data:/opt/credbroker"]), None);
}

#[test]
fn what_is_no_file_or_directory_is_not_mounted() {
    for (kind, says) in [
        (Kind::Other, "a socket, pipe or device"),
        (Kind::Absent, "is not there"),
    ] {
        let mut request = request(Runtime::Podman);
        let (mount, source) = mount("/srv/x");
        request.mounts = vec![(mount, Source { kind, ..source })];
        let said = request.check(&directories("/srv")).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_container_is_given_no_name_that_its_runtime_reads_as_another() {
    let odd = |name: &[u8]| PathBuf::from(OsStr::from_bytes(&[b"/srv/", name].concat()));
    let at = |path: &Path| Place::new(path.to_owned(), None, Vec::new());
    for (name, arrives) in [
        (&b"d\xff"[..], false),
        (b"a\r\nb", false),
        (b"a\nb", false),
        (b"a\x1b[2J", false),
        (b"\xc2\x9b", false),
        ("d\u{fffd}, \"h\u{e4}\" '".as_bytes(), true),
    ] {
        let (path, plain) = (odd(name), PathBuf::from("/srv/plain"));
        for (source, destination, working, says) in [
            (&path, &plain, &plain, "--mount /srv/"),
            (&plain, &path, &plain, "--mount cannot put anything at /srv/"),
            (
                &plain,
                &plain,
                &plain.join(path.file_name().unwrap()),
                "the working directory /srv/plain/",
            ),
        ] {
            for runtime in [Runtime::Bwrap, Runtime::Podman, Runtime::Docker] {
                let (asked, found) = mount("/srv/plain");
                let mut request = request(runtime);
                request.mounts = vec![(
                    Mount {
                        destination: Some(destination.clone()),
                        ..asked
                    },
                    Source {
                        place: at(source),
                        ..found
                    },
                )];
                let mut directories = directories("/home/me/project");
                directories.working = at(working);
                let answer = request.check(&directories);
                assert_eq!(
                    answer.is_ok(),
                    arrives || runtime == Runtime::Bwrap,
                    "{name:?}: {answer:?}"
                );
                if let Err(error) = answer {
                    let said = error.to_string();
                    assert!(
                        error.is_usage() && said.contains("UTF-8") && said.starts_with(says),
                        "{said}"
                    );
                }
            }
        }
    }
}

#[test]
fn another_name_of_a_directory_is_the_same_directory() {
    // As a bind mount of the store, of what holds it, or of what is in it: the files are the same ones.
    let id = |inode| FileId { device: 1, inode };
    let named = |path: &str, inode: u64, above: &[u64]| {
        Place::new(path.into(), Some(id(inode)), above.iter().copied().map(id).collect())
    };
    let mut directories = directories("/home/me/project");
    directories.own = vec![Own {
        what: "its store",
        place: named("/home/me/.local/share/credbroker", 30, &[20, 10, 1]),
        is_directory: true,
    }];
    for (working, refused) in [
        (named("/mnt/alias", 30, &[2, 1]), true),
        (named("/mnt/alias", 20, &[2, 1]), true),
        (named("/mnt/alias/tokens", 40, &[30, 2, 1]), true),
        (named("/mnt/other", 50, &[2, 1]), false),
    ] {
        directories.working = working.clone();
        let answer = request(Runtime::Bwrap).check(&directories);
        assert_eq!(answer.is_err(), refused, "{working:?}: {answer:?}");
    }
}

#[test]
fn this_program_is_not_where_a_sandbox_writes() {
    for path in ["/home/me/.cargo", "/home/me/.cargo/bin"] {
        let said = refused_working(path).unwrap_or_else(|| panic!("{path} is let in"));
        assert!(
            said.contains("the program credbroker (/home/me/.cargo/bin/credbroker)"),
            "{said}"
        );
        for runtime in [Runtime::Bwrap, Runtime::Podman, Runtime::Docker] {
            let said = refused_mount(runtime, &[&format!("{path}:/x")]).unwrap();
            assert!(
                said.contains("could replace: mount it read-only (SRC:DST:ro)"),
                "{said}"
            );
            assert_eq!(refused_mount(runtime, &[&format!("{path}:/x:ro")]), None);
        }
    }
    assert_eq!(refused_working("/home/me/.cargo/registry"), None);
}

#[test]
fn what_is_mounted_below_is_judged_like_the_rest() {
    let below = |path: &str, called: &[&str]| place(path).also_called(called.iter().map(PathBuf::from).collect());
    let project = || place("/srv/project");
    for (mounted, says) in [
        (below("/srv/project/tmpfs", &[]), None),
        (below("/srv/project/x", &["/run/host/home/me/x"]), None),
        (below("/srv/project/bus", &["/run/dbus"]), Some("listen")),
        // The host as a container sees it, from which the container has its home.
        (below("/srv/project/bus", &["/run/host/run/dbus"]), Some("listen")),
        (below("/srv/project/tmp", &["/run/host/tmp"]), Some("listen")),
        (below("/srv/project/host", &["/run/host"]), Some("listen")),
        (below("/srv/project/root", &["/"]), Some("is the whole host")),
        (below("/srv/project/shm", &["/dev/shm"]), Some("devices or processes")),
        (below("/home/me", &[]), Some("holds the home directory")),
        (below("/home/me/.local/share/credbroker/tokens", &[]), Some("its store")),
        (below("/home/me/.cargo", &[]), Some("the program credbroker")),
    ] {
        let mut directories = directories("/home/me/project");
        directories.working = project().with(vec![mounted.clone()]);
        let said = request(Runtime::Bwrap)
            .check(&directories)
            .err()
            .map(|error| error.to_string());
        assert_eq!(said.is_some(), says.is_some(), "{mounted:?}: {said:?}");
        // The place that is below is the one that is named.
        assert!(says.is_none_or(|says| said.is_some_and(|said| {
            let named = said.contains("what is mounted in the working directory at");
            said.contains(says) && (named || says == "the program credbroker")
        })));
        // The same as a mount; of a read-only one podman and docker would leave what is below writable.
        for (runtime, argument) in [
            (Runtime::Podman, "/srv/project:/x"),
            (Runtime::Podman, "/srv/project:/x:ro"),
            (Runtime::Docker, "/srv/project:/x:ro"),
            (Runtime::Bwrap, "/srv/project:/x:ro"),
        ] {
            let (mount, source) = mount(argument);
            let mut request = request(runtime);
            let read_only = mount.read_only;
            request.mounts = vec![(
                mount,
                Source {
                    place: project().with(vec![mounted.clone()]),
                    ..source
                },
            )];
            directories.working = place("/home/me/project");
            let said = request.check(&directories).err().map(|error| error.to_string());
            let (program, flat) = (says == Some("the program credbroker"), runtime != Runtime::Bwrap);
            let refused = says.is_some() && !(program && read_only) || read_only && flat;
            assert_eq!(said.is_some(), refused, "{argument} {mounted:?}: {said:?}");
        }
    }
}

#[test]
fn arguments_are_read_strictly() {
    for (argument, want) in [
        ("/a", ("/a", None, false)),
        ("a/b", ("a/b", None, false)),
        ("/a:/b", ("/a", Some("/b"), false)),
        ("/a:/b:ro", ("/a", Some("/b"), true)),
    ] {
        let mount = Mount::parse(argument.as_ref()).unwrap();
        let read = (
            mount.source.to_str().unwrap(),
            mount.destination.as_ref().map(|path| path.to_str().unwrap()),
        );
        assert_eq!((read.0, read.1, mount.read_only), want);
    }
    for (argument, says) in [
        ("", "SRC is empty"),
        (":/b", "SRC is empty"),
        ("/a:", "DST is no absolute path"),
        ("/a:ro", "SRC:SRC:ro"),
        ("/a:b", "DST is no absolute path"),
        ("/a:/b:rw", "can only be ro"),
        ("/a:/b:", "can only be ro"),
        ("/a:/b:ro:z", "more than three parts"),
    ] {
        let said = Mount::parse(argument.as_ref()).unwrap_err().to_string();
        assert!(said.contains(says), "{argument}: {said}");
    }
}

#[test]
fn the_way_to_a_place_in_another_mount_is_told_from_the_nearest_one_on() {
    let mut request = request(Runtime::Podman);
    request.mounts = ["/srv/a:/x", "/srv/b:/x/y", "/srv/c:/x/y/deep/z", "/srv/d:/other"]
        .map(mount)
        .into();
    let ways = request.ways(&directories("/home/me/project")).unwrap();
    let ways: Vec<String> = ways
        .iter()
        .map(|way| {
            format!(
                "{} {} {}",
                way.from.display(),
                way.rest.display(),
                way.destination.display()
            )
        })
        .collect();
    assert_eq!(ways, ["/srv/a y /x/y", "/srv/b deep/z /x/y/deep/z"]);
}
