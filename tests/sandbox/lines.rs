//! Whole command lines, as `--dry-run` shows them.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _};

use super::*;

#[track_caller]
fn expect(name: &str, line: &CommandLine) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/sandbox/golden")
        .join(name);
    let mut shown = line.shown();
    shown.push(b'\n');
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &shown).unwrap();
    }
    let golden = fs::read(&path).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&shown),
        String::from_utf8_lossy(&golden),
        "{name}: renew it with `BLESS=1 cargo test --test sandbox`"
    );
    // What is shown is what is started, word by word, as a shell reads it.
    let script = shown.splitn(2, |byte| *byte == b'\n').last().unwrap();
    let script = OsStr::from_bytes(script);
    let mut printed = std::ffi::OsString::from("printf '%s\\0' ");
    printed.push(script);
    let read = std::process::Command::new("sh")
        .arg("-c")
        .arg(printed)
        .output()
        .unwrap()
        .stdout;
    let mut started = Vec::new();
    for word in
        std::iter::once(line.program.clone().into_os_string()).chain(line.arguments(&[(STATUS, 3), (SYSTEM_CALLS, 4)]))
    {
        started.extend(word.as_bytes());
        started.push(0);
    }
    let mut read = String::from_utf8(read).unwrap();
    for (option, number) in [(STATUS, 3), (SYSTEM_CALLS, 4)] {
        read = read.replace(&format!("\0{option}\0FD\0"), &format!("\0{option}\0{number}\0"));
    }
    assert_eq!(read, String::from_utf8(started).unwrap());
}

/// With everything that can be asked for.
fn full(runtime: Runtime) -> Request {
    Request {
        mounts: vec![
            mount("/srv/models:/models:ro"),
            mount("/srv/a,b c:/x y"),
            mount("/home/me/project/sub:/x y/inner"),
            mount("/home/me/.netrc:/home/me/.netrc:ro"),
        ],
        variables: vec!["MY_FLAG".to_owned()],
        arguments: vec!["--hostname=box".into()],
        command: vec!["sh".into(), "-c".into(), "echo \"$HOME\"; it's 'quoted'".into()],
        ..request(runtime)
    }
}

#[test]
fn a_line_of_each_runtime_is_what_its_file_says() {
    for (runtime, uid, name) in [
        (Runtime::Bwrap, 1000, "bwrap.txt"),
        (Runtime::Podman, 0, "podman-root.txt"),
        (Runtime::Podman, 1000, "podman-rootless.txt"),
        (Runtime::Docker, 1000, "docker.txt"),
    ] {
        expect(name, &line(request(runtime), host(runtime, uid)).unwrap());
    }
}

#[test]
fn a_line_with_everything_that_can_be_asked_for_is_what_its_file_says() {
    let mut bwrap = host(Runtime::Bwrap, 1000);
    bwrap
        .directories
        .own
        .push(own("its configuration", "/etc/credbroker", true));
    if let About::Bwrap(about) = &mut bwrap.about {
        about.resolver = Some((
            "/run/systemd/resolve/stub-resolv.conf".into(),
            "/run/systemd/resolve/stub-resolv.conf".into(),
        ));
        about.system.pop();
        about.system.push(SystemPath::Parts {
            path: "/etc".into(),
            shown: vec![
                SystemPath::Hidden("/etc/credbroker".into()),
                SystemPath::Link {
                    path: "/etc/localtime".into(),
                    target: "/usr/share/zoneinfo/UTC".into(),
                },
                SystemPath::File("/etc/passwd".into()),
                SystemPath::Parts {
                    path: "/etc/ssh".into(),
                    shown: vec![SystemPath::File("/etc/ssh/ssh_config".into())],
                },
                SystemPath::Directory("/etc/ssl".into()),
            ],
        });
    }
    expect("bwrap-full.txt", &line(full(Runtime::Bwrap), bwrap).unwrap());

    let mut podman = host(Runtime::Podman, 0);
    podman.terminal = true;
    podman.about = About::Podman(PodmanHost {
        selinux: true,
        ..PodmanHost::default()
    });
    let mut request = full(Runtime::Podman);
    request.user = Some("1000:1000".parse().unwrap());
    request.uidmap = vec!["0:200000:65536".parse().unwrap()];
    expect("podman-full.txt", &line(request, podman).unwrap());

    let mut docker = host(Runtime::Docker, 1000);
    docker.terminal = true;
    let mut request = full(Runtime::Docker);
    request.user = Some("1000:1000".parse().unwrap());
    request.userns = Some("host".parse().unwrap());
    expect("docker-full.txt", &line(request, docker).unwrap());
}

#[test]
fn a_container_begins_where_the_working_directory_is_inside() {
    for (mounts, working, want) in [
        (&["/home/me/project"][..], "/home/me/project", Some("/home/me/project")),
        (&["/home/me/project:/w"], "/home/me/project/sub/x", Some("/w/sub/x")),
        (
            &["/home/me/project:/w", "/home/me/project/sub:/s:ro"],
            "/home/me/project/sub",
            Some("/s"),
        ),
        (&["/home/me/project/sub:/s"], "/home/me/project", None),
        (&[], "/home/me/project", None),
    ] {
        let mut request = request(Runtime::Podman);
        request.mounts = mounts.iter().map(|argument| mount(argument)).collect();
        let mut host = host(Runtime::Podman, 1000);
        host.directories = directories(working);
        let line = line(request, host).unwrap();
        let words: Vec<_> = line.arguments(&[]).collect();
        let at = words.iter().position(|word| word == "--workdir");
        let found = at.and_then(|at| words.get(at + 1)).map(|word| word.as_os_str());
        assert_eq!(found, want.map(OsStr::new), "{mounts:?}");
    }
}

#[test]
fn a_command_that_looks_like_an_option_stays_a_command() {
    for runtime in [Runtime::Bwrap, Runtime::Podman] {
        let mut request = request(runtime);
        for option in [STATUS, SYSTEM_CALLS] {
            request.command = vec![option.into(), "FD".into()];
            let line = line(request.clone(), host(runtime, 1000)).unwrap();
            let words: Vec<_> = line.arguments(&[(STATUS, 9), (SYSTEM_CALLS, 9)]).collect();
            assert!(words.ends_with(&[option.into(), "FD".into()]), "{words:?}");
        }
    }
}

#[test]
fn images_that_are_options_and_containers_without_one_are_refused() {
    for (image, says) in [
        (None, "needs --image"),
        (Some(""), "is no name"),
        (Some("--privileged"), "is no name"),
    ] {
        let mut request = request(Runtime::Podman);
        request.image = image.map(str::to_owned);
        let error = line(request, host(Runtime::Podman, 0)).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_home_that_everything_else_is_in_or_that_is_the_systems_is_not_emptied() {
    for (home, emptied) in [
        ("/", false),
        ("/usr", false),
        ("/usr/sbin", false),
        ("/etc/agent", false),
        ("/usrs", true),
        ("/run", false),
        ("/tmp", false),
        ("/var/lib/agent", true),
    ] {
        let mut host = host(Runtime::Bwrap, 1000);
        host.directories.home_path = Some(home.into());
        host.directories.homes.clear();
        let line = line(request(Runtime::Bwrap), host).unwrap();
        let words: Vec<_> = line.arguments(&[]).collect();
        let count = words
            .windows(2)
            .filter(|pair| *pair == ["--tmpfs", home].map(std::ffi::OsString::from))
            .count();
        // /tmp is empty anyway, once.
        assert_eq!(count, usize::from(emptied || home == "/tmp"), "{home}");
    }
}

/// The number of a descriptor is put where the runtime gets it, and nowhere in the command.
#[test]
fn a_command_of_two_words_stays_as_it_is() {
    let descriptors = [("--json-status-fd", 17), ("--seccomp", 18)];
    for (runtime, once) in [(Runtime::Bwrap, 1), (Runtime::Podman, 0)] {
        for command in [["echo", "FD"], ["--json-status-fd", "x"], ["--seccomp", "FD"]] {
            let request = Request {
                command: command.map(Into::into).into(),
                ..request(runtime)
            };
            let line = line(request, host(runtime, 0)).unwrap();
            let words: Vec<_> = line.arguments(&descriptors).collect();
            assert_eq!(words.last_chunk(), Some(&command.map(std::ffi::OsString::from)));
            for number in ["17", "18"] {
                assert_eq!(words.iter().filter(|word| *word == number).count(), once, "{words:?}");
            }
        }
    }
}

#[test]
fn the_first_process_of_a_container_is_asked_for_by_its_name() {
    for (runtime, asked) in [
        (Runtime::Bwrap, None),
        (Runtime::Podman, Some("/usr/bin/podman")),
        (Runtime::Docker, Some("/usr/bin/docker")),
    ] {
        let broker = Broker {
            id: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            directory: "/r/A/sandbox".into(),
        };
        let sandbox = Sandbox::new(request(runtime), host(runtime, 0)).unwrap();
        for line in [sandbox.first_process(&broker), sandbox.removal(&broker)] {
            assert_eq!(line.as_ref().map(|line| line.program.to_str().unwrap()), asked);
            let names = |line: &CommandLine| {
                line.arguments(&[])
                    .any(|word| word == "credbroker-AAAAAAAAAAAAAAAAAAAAAA")
            };
            assert!(line.as_ref().is_none_or(names));
        }
    }
}
