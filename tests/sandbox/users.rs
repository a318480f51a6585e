//! Who the command is, for each runtime: what the runtime is told, and which uids of the host may call.

use credbroker::sandbox::{Daemon, IdMap, User, Userns, asks_for_subordinates};

use super::*;

/// What is asked for, in one line: `user=1000 uidmap=0:200000:65536 userns=keep-id`.
fn asked(runtime: Runtime, words: &str) -> Request {
    let mut request = request(runtime);
    for word in words.split_whitespace() {
        let (flag, value) = word.split_once('=').unwrap();
        match flag {
            "user" => request.user = Some(value.parse::<User>().unwrap()),
            "uidmap" => request.uidmap.push(value.parse::<IdMap>().unwrap()),
            _ => request.userns = Some(value.parse::<Userns>().unwrap()),
        }
    }
    request
}

/// The options about users, and the uids; or what is wrong.
fn told(request: Request, host: Host) -> Result<(String, String), SandboxError> {
    let sandbox = Sandbox::new(request, host)?;
    let uids: Vec<String> = sandbox
        .host_uids()
        .iter()
        .map(|uids| match (uids.start(), uids.end()) {
            (start, end) if start == end => start.to_string(),
            (start, end) => format!("{start}-{end}"),
        })
        .collect();
    let line = sandbox.command_line(&Broker {
        id: "A".to_owned(),
        directory: "/r/A/sandbox".into(),
    });
    let words: Vec<String> = line.arguments(&[]).map(|word| word.into_string().unwrap()).collect();
    let options: Vec<String> = words
        .windows(2)
        .filter(|pair| ["--user", "--uidmap", "--userns"].contains(&pair.first().unwrap().as_str()))
        .map(|pair| pair.join(" "))
        .collect();
    Ok((options.join(" "), uids.join(" ")))
}

#[test]
fn podman_of_root_has_the_hosts_uids_unless_they_are_mapped() {
    for (asked_for, options, uids) in [
        ("", "--user 0:0", "0"),
        ("user=1000", "--user 1000", "1000"),
        ("user=1000:100", "--user 1000:100", "1000"),
        ("userns=host user=7", "--user 7 --userns host", "7"),
        (
            "uidmap=0:200000:65536",
            "--user 0:0 --uidmap 0:200000:65536",
            "200000-265535",
        ),
        (
            "uidmap=0:200000:65536 user=1000",
            "--user 1000 --uidmap 0:200000:65536",
            "200000-265535",
        ),
        (
            "uidmap=0:5:1 uidmap=1000:1000:2",
            "--user 0:0 --uidmap 0:5:1 --uidmap 1000:1000:2",
            "5 1000-1001",
        ),
    ] {
        let found = told(asked(Runtime::Podman, asked_for), host(Runtime::Podman, 0)).unwrap();
        assert_eq!((found.0.as_str(), found.1.as_str()), (options, uids), "{asked_for}");
    }
    for (asked_for, says) in [
        (
            "uidmap=0:200000:10 user=10",
            "uid 10 of the container stands for no uid",
        ),
        ("uidmap=1:200000:10", "uid 0 of the container stands for no uid"),
        (
            "userns=keep-id",
            "is not for --sandbox podman: they are for podman that is not run by root; use --user or --uidmap",
        ),
        (
            "userns=nomap",
            "is not for --sandbox podman: they are for podman that is not run by root; use --user or --uidmap",
        ),
        ("uidmap=0:0:1 userns=host", "give one of them"),
    ] {
        let error = told(asked(Runtime::Podman, asked_for), host(Runtime::Podman, 0)).unwrap_err();
        assert!(
            error.is_usage() && error.to_string().contains(says),
            "{asked_for}: {error}"
        );
    }
}

#[test]
fn rootless_podman_has_the_user_and_what_the_host_gave_him() {
    let rootless = |maps: &[&str]| {
        let subordinates = (!maps.is_empty()).then(|| maps.iter().map(|map| map.parse().unwrap()).collect());
        let mut host = host(Runtime::Podman, 1000);
        host.about = About::Podman(PodmanHost {
            subordinates,
            ..PodmanHost::default()
        });
        host
    };
    let usual = ["0:1000:1", "1:100000:65536"];
    for (asked_for, maps, options, uids) in [
        ("", &[][..], "--user 0:0", "1000"),
        ("userns=keep-id", &[], "--user 1000:1000 --userns keep-id", "1000"),
        (
            "userns=keep-id:uid=5,gid=6",
            &[],
            "--user 5:6 --userns keep-id:uid=5,gid=6",
            "1000",
        ),
        ("user=0", &usual, "--user 0", "1000"),
        ("user=1", &usual, "--user 1", "100000"),
        ("user=1000", &usual, "--user 1000", "100999"),
        (
            "userns=keep-id user=1000",
            &usual,
            "--user 1000 --userns keep-id",
            "1000",
        ),
        ("userns=keep-id user=0", &usual, "--user 0 --userns keep-id", "100000"),
        (
            "userns=keep-id user=1001",
            &usual,
            "--user 1001 --userns keep-id",
            "101000",
        ),
        ("userns=nomap", &usual, "--user 0:0 --userns nomap", "100000"),
        ("uidmap=0:0:1", &usual, "--user 0:0 --uidmap 0:0:1", "1000"),
        (
            "uidmap=0:1:10 uidmap=1000:0:1",
            &usual,
            "--user 0:0 --uidmap 0:1:10 --uidmap 1000:0:1",
            "100000-100009 1000",
        ),
        // What the host did not give is in no container, whatever the mapping says.
        (
            "uidmap=0:65530:100",
            &usual,
            "--user 0:0 --uidmap 0:65530:100",
            "165529-165535",
        ),
    ] {
        let found = told(asked(Runtime::Podman, asked_for), rootless(maps)).unwrap();
        assert_eq!((found.0.as_str(), found.1.as_str()), (options, uids), "{asked_for}");
    }
    let none = told(asked(Runtime::Podman, "user=1000"), rootless(&["0:1000:1"])).unwrap_err();
    assert!(
        !none.is_usage() && none.to_string().contains("usermod --add-subuids"),
        "{none}"
    );
    let far = told(asked(Runtime::Podman, "user=70000"), rootless(&usual)).unwrap_err();
    assert!(far.is_usage() && far.to_string().contains("uid 70000"), "{far}");
}

#[test]
fn docker_depends_on_whose_its_daemon_is() {
    let with = |daemon, uid| {
        let mut host = host(Runtime::Docker, uid);
        host.about = About::Docker(DockerHost {
            daemon,
            ..DockerHost::default()
        });
        host
    };
    for (daemon, uid, asked_for, options, uids) in [
        (Daemon::Plain, 0, "", "--user 0:0", "0"),
        (Daemon::Plain, 1000, "", "--user 1000:1000", "1000"),
        (Daemon::Plain, 1000, "user=33:33", "--user 33:33", "33"),
        (Daemon::Rootless, 1000, "", "--user 0:0", "1000"),
        (Daemon::Rootless, 1000, "user=0", "--user 0", "1000"),
        (
            Daemon::Remapping,
            1000,
            "userns=host",
            "--user 1000:1000 --userns host",
            "1000",
        ),
    ] {
        let found = told(asked(Runtime::Docker, asked_for), with(daemon, uid)).unwrap();
        assert_eq!(
            (found.0.as_str(), found.1.as_str()),
            (options, uids),
            "{daemon:?} {asked_for}"
        );
    }
    for (daemon, asked_for, usage, says) in [
        (Daemon::Remapping, "", false, "--userns host"),
        (Daemon::Rootless, "user=1000", true, "uid 0 inside is you"),
        (Daemon::Plain, "uidmap=0:1:1", true, "use --user"),
        (Daemon::Plain, "userns=keep-id", true, "docker has host only"),
    ] {
        let error = told(asked(Runtime::Docker, asked_for), with(daemon, 1000)).unwrap_err();
        assert_eq!(error.is_usage(), usage, "{error}");
        assert!(error.to_string().contains(says), "{asked_for}: {error}");
    }
    for (options, daemon) in [
        (&["name=seccomp,profile=builtin", "name=cgroupns"][..], Daemon::Plain),
        (&["name=apparmor", "name=userns"], Daemon::Remapping),
        (&["name=seccomp,profile=builtin", "name=rootless"], Daemon::Rootless),
        (&["name=rootless", "name=userns"], Daemon::Rootless),
        (&["name=usernsx"], Daemon::Plain),
    ] {
        assert_eq!(
            Daemon::from_security_options(options.iter().copied()),
            daemon,
            "{options:?}"
        );
    }
}

#[test]
fn bwrap_has_the_user_and_nobody_else() {
    let found = told(request(Runtime::Bwrap), host(Runtime::Bwrap, 1000)).unwrap();
    assert_eq!((found.0.as_str(), found.1.as_str()), ("", "1000"));
    for asked_for in ["user=0", "uidmap=0:0:1", "userns=host"] {
        let error = told(asked(Runtime::Bwrap, asked_for), host(Runtime::Bwrap, 1000)).unwrap_err();
        assert!(
            error.is_usage() && error.to_string().contains("the command is you"),
            "{error}"
        );
    }
}

#[test]
fn podman_is_asked_for_its_uids_where_a_user_may_stand_for_one_of_them() {
    for (words, uid, asks) in [
        ("", 1000, false),
        ("userns=keep-id", 1000, false),
        ("user=5", 1000, true),
        ("uidmap=0:1:5", 1000, true),
        ("userns=nomap", 1000, true),
        ("userns=nomap user=5 uidmap=0:1:5", 0, false),
        ("user=5", 0, false),
        ("uidmap=0:1:5", 0, false),
        ("userns=nomap", 0, false),
    ] {
        let request = asked(Runtime::Podman, words);
        assert_eq!(asks_for_subordinates(&request, uid), asks, "{words} {uid}");
    }
}
