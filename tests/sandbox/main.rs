//! From flags and a host to a runtime's command line, without either: what may be mounted, who the command is, what it gets,
//! and the whole lines as files in `golden/`.
//!
//! `BLESS=1 cargo test --test sandbox` writes the files.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a failure here is a test's failure, and BLESS is a word to the tests"
)]

mod directories;
mod lines;
mod network;
mod users;

use std::path::PathBuf;

use credbroker::sandbox::{
    About, Broker, BwrapHost, CommandLine, Directories, DockerHost, FileId, Host, Kind, Mount, Own, Place, PodmanHost,
    Request, Runtime, STATUS, SYSTEM_CALLS, Sandbox, SandboxError, Source, SystemPath,
};

/// A place whose files are those that its path says: each name has an inode of its own.
fn place(path: &str) -> Place {
    let id = |path: &std::path::Path| FileId {
        device: 1,
        inode: path
            .to_str()
            .unwrap()
            .bytes()
            .fold(7, |sum, byte| sum * 31 % 1_000_003 + u64::from(byte)),
    };
    let path = PathBuf::from(path);
    let above = path.ancestors().skip(1).map(id).collect();
    Place::new(path.clone(), Some(id(&path)), above)
}

fn own(what: &'static str, path: &str, is_directory: bool) -> Own {
    Own {
        what,
        place: place(path),
        is_directory,
    }
}

/// A user with a home and everything of credbroker's where it usually is.
fn directories(working: &str) -> Directories {
    Directories {
        working: place(working),
        home_path: Some("/home/me".into()),
        homes: vec![place("/home/me")],
        own: vec![
            own("its store", "/home/me/.local/share/credbroker", true),
            own("its records", "/home/me/.local/state/credbroker/audit", true),
            own("its configuration", "/home/me/.config/credbroker", true),
            own("its sockets", "/run/user/1000/credbroker", true),
            own("a client secret", "/home/me/secrets/client", false),
        ],
        executable: place("/home/me/.cargo/bin/credbroker"),
    }
}

fn request(runtime: Runtime) -> Request {
    Request {
        runtime,
        image: (runtime != Runtime::Bwrap).then(|| "localhost/agent:1".to_owned()),
        mounts: Vec::new(),
        user: None,
        uidmap: Vec::new(),
        userns: None,
        variables: Vec::new(),
        arguments: Vec::new(),
        command: vec!["make".into(), "all tests".into()],
    }
}

/// A mount of a directory, or a file if its name has a dot.
fn mount(argument: &str) -> (Mount, Source) {
    let mount = Mount::parse(argument.as_ref()).unwrap();
    let source = Source {
        named: mount.source.clone(),
        place: place(mount.source.to_str().unwrap()),
        kind: if argument.contains('.') {
            Kind::File
        } else {
            Kind::Directory
        },
    };
    (mount, source)
}

fn about(runtime: Runtime) -> About {
    match runtime {
        Runtime::Bwrap => {
            let link = |path: &str, target: &str| SystemPath::Link {
                path: path.into(),
                target: target.into(),
            };
            About::Bwrap(BwrapHost {
                system: vec![
                    SystemPath::Directory("/usr".into()),
                    link("/bin", "usr/bin"),
                    link("/lib", "usr/lib"),
                    link("/lib64", "usr/lib64"),
                    SystemPath::Directory("/etc".into()),
                ],
                resolver: None,
                filters: true,
                executable: "/home/me/.cargo/bin/credbroker".into(),
                path: "/usr/local/bin:/usr/bin:/bin".into(),
            })
        }
        Runtime::Podman => About::Podman(PodmanHost {
            init: Some("/usr/bin/tini-static".into()),
            ..PodmanHost::default()
        }),
        Runtime::Docker => About::Docker(DockerHost::default()),
    }
}

fn host(runtime: Runtime, uid: u32) -> Host {
    Host {
        program: PathBuf::from("/usr/bin").join(runtime.name()),
        path: "/usr/local/bin:/usr/bin:/bin".into(),
        uid,
        gid: uid,
        terminal: false,
        variables: [
            "DBUS_SESSION_BUS_ADDRESS",
            "HOME",
            "MY_FLAG",
            "PATH",
            "SSH_AUTH_SOCK",
            "TERM",
        ]
        .map(str::to_owned)
        .into(),
        directories: directories("/home/me/project"),
        about: about(runtime),
    }
}

fn line(request: Request, host: Host) -> Result<CommandLine, SandboxError> {
    Ok(Sandbox::new(request, host)?.command_line(&Broker {
        id: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        directory: "/run/user/1000/credbroker/AAAAAAAAAAAAAAAAAAAAAA/sandbox".into(),
    }))
}
