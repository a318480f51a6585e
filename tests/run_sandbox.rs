//! `run --sandbox` with the real binary: in bubblewrap where it is there, and with programs that stand for podman and docker,
//! which write down how they were started. Real podman is in `tests/interop/sandbox-run`.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::PathBuf,
    process::Command,
};

use command::{Answer, BIN, Host, PATH, Running, bwrap, kill, wait_until};
use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

/// A host with an entry, and a project to work in.
fn host() -> (Host, PathBuf) {
    let host = Host::with_entry();
    let project = host.path("project");
    fs::create_dir(&project).unwrap();
    (host, project)
}

/// `run --sandbox KIND` in the project.
fn sandbox(host: &Host, arguments: &[&str], command: &[&str]) -> Command {
    let mut run = host.command(&["run", "--allow", "p", "--sandbox"]);
    run.args(arguments)
        .arg("--")
        .args(command)
        .current_dir(host.path("project"));
    run
}

fn in_bwrap(host: &Host, script: &str) -> Command {
    sandbox(host, &["bwrap"], &["sh", "-c", script])
}

/// Puts a program of this name into a directory, which is answered.
fn program(host: &Host, directory: &str, name: &str, script: &str) -> PathBuf {
    let directory = host.path(directory);
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// A `run` with a podman that does what the script says.
fn with_podman(host: &Host, script: &str, arguments: &[&str], command: &[&str]) -> Command {
    let fakes = program(host, "fakes", "podman", script);
    let mut words = vec!["podman", "--image", "i:1"];
    words.extend(arguments);
    let mut run = sandbox(host, &words, command);
    run.env("PATH", format!("{}:{PATH}", fakes.display()));
    run
}

#[test]
fn in_bwrap_there_is_the_project_the_socket_and_the_hosts_programs() {
    if !bwrap() {
        return;
    }
    let (host, project) = host();
    host.write("private", "of the user");
    let script = r#"
        credbroker token get p
        command -v credbroker
        pwd
        echo made > made && cat made
        ls -A "$HOME"
        ls -A /run /run/credbroker
        ls -d /var /home /root /srv /sys /boot 2>/dev/null
        cat "$PRIVATE" 2>/dev/null || echo no private file
        touch /usr/x /etc/x /run/credbroker/x 2>/dev/null || echo read-only
        readlink /proc/self/ns/pid /proc/self/ns/user | sort -u | wc -l
        grep -E '^(CapEff|NoNewPrivs)' /proc/self/status
        ls /proc/self/fd | wc -l
    "#;
    let script = script.replace("$PRIVATE", host.path("private").to_str().unwrap());
    let answer = Answer::of(in_bwrap(&host, &script)).succeeded();
    assert_eq!(answer.err, "");
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_eq!(
        lines,
        [
            "access-1",
            "/opt/credbroker/bin/credbroker",
            project.to_str().unwrap(),
            "made",
            "project",
            "/run:",
            "credbroker",
            "",
            "/run/credbroker:",
            "sock",
            "no private file",
            "read-only",
            "2",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            // The streams and the directory itself.
            "4",
        ]
    );
    assert_eq!(fs::read_to_string(project.join("made")).unwrap(), "made\n");
    assert!(host.brokers().is_empty());
}

#[test]
fn in_bwrap_a_filter_of_system_calls_is_in_force() {
    if !bwrap() {
        return;
    }
    let (host, _) = host();
    // What it refuses is tested where it is made, and tried in real sandboxes in `tests/interop/sandboxes`.
    let filters = "sed -n 's/^Seccomp_filters:[^0-9]*//p' /proc/self/status";
    let count = |answer: Answer| answer.succeeded().out.trim().parse::<u32>().unwrap();
    let mut outside = host.program("sh");
    outside.args(["-c", filters]);
    let outside = count(Answer::of(outside));
    assert_eq!(count(Answer::of(in_bwrap(&host, filters))), outside + 1);
    let shown = Answer::of(sandbox(&host, &["bwrap", "--dry-run"], &["true"])).succeeded();
    assert!(shown.out.contains("    --seccomp FD \\\n"), "{}", shown.out);
}

#[test]
fn a_directory_as_a_stream_is_no_way_out_of_bwrap() {
    if !bwrap() {
        return;
    }
    let (host, _) = host();
    host.write("private", "of the user");
    for (number, stream) in [(0, "standard input"), (1, "standard output"), (2, "standard error")] {
        let script = format!("echo reached; cat /proc/self/fd/{number}/private >&2");
        let run = in_bwrap(&host, &script);
        let mut shell = host.shell(&format!("exec {number}<\"$HOME\"; \"$@\""));
        shell.arg("sh").arg(run.get_program()).args(run.get_args());
        shell.current_dir(host.path("project"));
        let answer = Answer::of(shell);
        assert_eq!((answer.code, answer.out.as_str()), (64, ""), "{stream}: {answer:?}");
        if number != 2 {
            let says = format!("{stream} is a directory");
            assert!(answer.err.contains(&says), "{answer:?}");
        }
        assert!(!answer.err.contains("of the user"), "{answer:?}");
    }
}

#[test]
fn in_bwrap_the_environment_is_what_the_list_names() {
    if !bwrap() {
        return;
    }
    let (host, _) = host();
    let mut run = sandbox(&host, &["bwrap", "--env", "WANTED"], &["env"]);
    for (name, value) in [
        ("WANTED", "w"),
        ("LANG", "C.UTF-8"),
        ("LC_TIME", "C"),
        ("TERM", "dumb"),
        ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/x"),
        ("SSH_AUTH_SOCK", "/x"),
        ("HTTPS_PROXY", "http://user:password@proxy"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("LD_LIBRARY_PATH", "/x"),
        ("NOTIFY_SOCKET", "/x"),
    ] {
        run.env(name, value);
    }
    let answer = Answer::of(run).succeeded();
    let mut names: Vec<&str> = answer.out.lines().map(|line| line.split('=').next().unwrap()).collect();
    // The shell's own, in the command's place before it.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "CREDBROKER_CAPABILITY",
            "CREDBROKER_SOCKET",
            "HOME",
            "LANG",
            "LC_TIME",
            "PATH",
            "TERM",
            "WANTED"
        ]
    );
    assert!(answer.out.contains("\nCREDBROKER_SOCKET=/run/credbroker/sock\n"));
    assert!(answer.out.contains(&format!("PATH=/opt/credbroker/bin:{PATH}\n")));
}

#[test]
fn in_bwrap_a_command_ends_as_it_would_elsewhere() {
    if !bwrap() {
        return;
    }
    let (host, project) = host();
    fs::write(project.join("text"), "no program").unwrap();
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "exit 1"], 1),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["no-such-program"], 127),
        (&["./text"], 126),
        (&["/usr"], 126),
    ] {
        let answer = Answer::of(sandbox(&host, &["bwrap"], command));
        assert_eq!(answer.code, code, "{command:?}: {answer:?}");
    }
    Answer::of(sandbox(
        &host,
        &["bwrap", "--runtime-arg", "--no-such-option"],
        &["true"],
    ))
    .failed(125)
    .saying("bwrap: Unknown option --no-such-option")
    .saying("credbroker: error: bwrap did not start the command: ");
    assert!(host.brokers().is_empty());
}

#[test]
fn in_bwrap_signals_reach_the_command_and_nothing_outlives_the_broker() {
    if !bwrap() {
        return;
    }
    let (host, project) = host();
    for (name, signal) in [
        ("TERM", Signal::TERM),
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
        ("WINCH", Signal::WINCH),
    ] {
        let script = format!("trap 'echo {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done");
        let run = Running::start(in_bwrap(&host, &script));
        assert_eq!(run.line(), "ready");
        kill(run.pid(), signal);
        assert_eq!(run.line(), name);
        assert_eq!(run.end(), 5);
    }
    let run = Running::start(in_bwrap(
        &host,
        "echo ready; while :; do echo x >> alive; sleep 0.05; done",
    ));
    assert_eq!(run.line(), "ready");
    let alive = project.join("alive");
    wait_until("the command writes", || alive.exists());
    kill(run.pid(), Signal::KILL);
    wait_until("the command has ended", || {
        let size = fs::metadata(&alive).unwrap().len();
        std::thread::sleep(std::time::Duration::from_millis(300));
        fs::metadata(&alive).unwrap().len() == size
    });
}

#[test]
fn in_bwrap_what_is_mounted_is_there_and_what_is_credbrokers_is_covered() {
    if !bwrap() {
        return;
    }
    let (host, _) = host();
    host.write("data-dir/file", "data");
    let data = host.path("data-dir");
    let mount = |to: &str| format!("{}:{to}", data.display());
    let (plain, read_only) = (mount("/mnt/here"), mount("/mnt/there:ro"));
    let arguments = ["bwrap", "--mount", &plain, "--mount", &read_only];
    let script = "cat /mnt/here/file /mnt/there/file; echo new > /mnt/here/new; touch /mnt/there/new2";
    let answer = Answer::of(sandbox(&host, &arguments, &["sh", "-c", script]));
    assert_eq!((answer.code, answer.out.as_str()), (1, "datadata"), "{answer:?}");
    assert_eq!(fs::read_to_string(data.join("new")).unwrap(), "new\n");
    if rustix::process::geteuid().is_root() {
        let shadow = Answer::of(in_bwrap(&host, "cat /etc/shadow"));
        assert!(shadow.code != 0 || shadow.out.is_empty(), "{shadow:?}");
    }
}

#[test]
fn a_working_directory_that_holds_more_than_a_project_is_64_and_starts_nothing() {
    let (host, project) = host();
    fs::create_dir_all(host.path("config/credbroker")).unwrap();
    let own = host.store().join("tokens");
    let (alias, home) = (project.join("alias"), host.path(""));
    symlink(&own, &alias).unwrap();
    for directory in [
        "/".into(),
        home,
        host.path("data"),
        host.store(),
        own.clone(),
        alias,
        host.path("config/credbroker"),
    ] {
        let mut run = sandbox(&host, &["bwrap"], &["true"]);
        run.current_dir(&directory);
        Answer::of(run)
            .failed(64)
            .saying("the working directory")
            .saying("change to the directory of your project");
        // A container sees nothing that is not mounted; what is, is judged alike.
        let mount = directory.to_str().unwrap();
        Answer::of(with_podman(&host, "echo started >&2", &["--mount", mount], &["true"]))
            .failed(64)
            .saying("--mount ");
    }
    // By a relative path, and through a link.
    for mount in ["..", "../data", "alias", "./alias/../../data/credbroker"] {
        Answer::of(with_podman(&host, "exit 0", &["--mount", mount], &["true"]))
            .failed(64)
            .saying("--mount ");
    }
    assert!(host.brokers().is_empty());
}

#[test]
fn in_bwrap_nothing_is_made_in_what_of_the_system_is_read_only() {
    let (host, project) = host();
    let fakes = program(&host, "fakes", "bwrap", "exit 9");
    fs::create_dir(project.join("there")).unwrap();
    let source = project.display();
    for (places, refused) in [
        (&["/usr/not-there"][..], Some("/usr/not-there")),
        (&["/bin/not-there/x:ro"], Some("/bin/not-there/x")),
        (&["/etc/not-there"], Some("/etc/not-there")),
        (&["/usr/local", "/usr/not-there"], Some("/usr/not-there")),
        // In /usr or in /etc, whole or in parts, something is there; elsewhere it is made.
        (&["/usr/local"], None),
        (&["/etc/ssl"], None),
        (&["/usr/local", "/usr/local/not-there"], None),
        (&["/not-there"], None),
        (&["/srv/not-there"], None),
        // In what is mounted, too.
        (&["/mnt/x:ro", "/mnt/x/not-there"], Some("/mnt/x/not-there")),
        (&["/mnt/x:ro", "/mnt/x/there"], None),
        (&["/mnt/x", "/mnt/x/not-there"], None),
        (&["/mnt/x:ro", "/mnt/x/there", "/mnt/x/there/not-there"], None),
    ] {
        let mounts: Vec<String> = places.iter().map(|place| format!("{source}:{place}")).collect();
        let mut arguments = vec!["bwrap", "--dry-run"];
        arguments.extend(mounts.iter().flat_map(|mount| ["--mount", mount]));
        let mut run = sandbox(&host, &arguments, &["true"]);
        run.env("PATH", format!("{}:{PATH}", fakes.display()));
        let answer = Answer::of(run);
        match refused {
            Some(place) => {
                let says = format!("cannot put anything at {place}: it is not there");
                answer.failed(64).saying(&says).saying("choose a place");
            }
            None => assert_eq!(answer.code, 0, "{places:?}: {answer:?}"),
        }
    }
    // A home is not made there, either, nor emptied, as services have one.
    for (home, emptied) in [("/usr/not-there", false), ("/not-there", true), ("/usr/sbin", false)] {
        let mut run = sandbox(&host, &["bwrap", "--dry-run"], &["true"]);
        run.env("PATH", format!("{}:{PATH}", fakes.display())).env("HOME", home);
        let shown = Answer::of(run).succeeded().out;
        assert_eq!(shown.contains(&format!("--tmpfs {home} ")), emptied, "{home}: {shown}");
    }
    if !bwrap() {
        return;
    }
    let mut run = in_bwrap(&host, "echo started");
    run.env("HOME", "/usr/not-there");
    assert_eq!(Answer::of(run).succeeded().out, "started\n");
}

#[test]
fn flags_that_do_not_go_together_are_64() {
    let (host, _) = host();
    for (arguments, says) in [
        (
            &["none", "--image", "i"][..],
            "--image needs --sandbox podman or docker",
        ),
        (&["none", "--mount", "/srv"], "--mount needs --sandbox"),
        (&["none", "--user", "1"], "need --sandbox podman or docker"),
        (&["none", "--env", "X"], "--env needs --sandbox"),
        (&["none", "--dry-run"], "need --sandbox bwrap, podman or docker"),
        (&["bwrap", "--image", "i"], "bwrap shows this host's programs"),
        (&["bwrap", "--user", "0"], "under bwrap CMD is you"),
        (&["podman"], "need --image"),
        (&["docker"], "need --image"),
        (
            &["docker", "--image", "i", "--uidmap", "0:1:1"],
            "--uidmap needs --sandbox podman",
        ),
        (
            &["podman", "--image", "i", "--uidmap", "0:1:1", "--userns", "host"],
            "give one of them",
        ),
        (&["podman", "--image", "i", "--user", "node"], "in numbers"),
        (&["podman", "--image", "i", "--uidmap", "0:1"], "CONTAINER:HOST:SIZE"),
        (
            &["podman", "--image", "i", "--userns", "auto"],
            "known before the container is there",
        ),
        (
            &["podman", "--image", "i", "--mount", "/a:b"],
            "DST is no absolute path",
        ),
        (&["gvisor"], "invalid value"),
    ] {
        Answer::of(sandbox(&host, arguments, &["true"])).failed(64).saying(says);
    }
}

#[test]
fn no_sandbox_can_listen_where_a_provider_is_asked_without_tls() {
    let (host, _) = host();
    let provider = "client_id = 'c'\ntoken_endpoint = 'https://a.example/t'";
    let endpoint = "revocation_endpoint = 'http://127.0.0.1:1/r'";
    let two = format!("[providers.a]\n{provider}\n[providers.b]\n{provider}\n{endpoint}\n");
    host.write("config/credbroker/config.toml", &two);
    // The one that is asked so is none that this sandbox may read.
    let in_bwrap = |arguments: &[&str]| sandbox(&host, &[&["bwrap"], arguments].concat(), &["echo", "started"]);
    let in_podman = |arguments: &[&str]| with_podman(&host, "echo started", arguments, &["true"]);
    let refused = |run: Command, mend: &str| {
        let answer = Answer::of(run).failed(64).saying("[providers.b] revocation_endpoint");
        answer.saying("listen there instead").saying(mend);
    };
    refused(in_bwrap(&[]), "--runtime-arg=--share-net");
    refused(in_bwrap(&["--dry-run"]), "--runtime-arg=--unshare-net");
    refused(in_podman(&["--runtime-arg=--net=host"]), "remove the --runtime-arg");
    assert_eq!(Answer::of(in_podman(&[])).succeeded().out, "started\n");
    if bwrap() {
        for said in ["--runtime-arg=--unshare-net", "--runtime-arg=--share-net"] {
            assert_eq!(Answer::of(in_bwrap(&[said])).succeeded().out, "started\n", "{said}");
        }
    }
    host.write("config/credbroker/config.toml", &format!("[providers.a]\n{provider}\n"));
    assert_eq!(
        Answer::of(in_podman(&["--runtime-arg=--net=host"])).succeeded().out,
        "started\n"
    );
    if bwrap() {
        assert_eq!(Answer::of(in_bwrap(&[])).succeeded().out, "started\n");
    }
}

#[test]
fn a_dry_run_shows_names_and_starts_nothing() {
    let (host, project) = host();
    let mount = format!("{}:/w", project.display());
    let arguments = ["--dry-run", "--mount", &mount, "--env", "TOKEN_OF_MINE"];
    let mut run = with_podman(&host, "echo started >&2; exit 1", &arguments, &["sh", "-c", "echo $X"]);
    run.env("TOKEN_OF_MINE", "s3cret-value");
    let answer = Answer::of(run).succeeded();
    assert_eq!(answer.err, "");
    let runtime = host.runtime().join("ID/sandbox");
    for part in [
        format!("{}/podman \\\n    run \\\n", host.path("fakes").display()),
        format!(
            "    --mount type=bind,source={},target=/run/credbroker,readonly",
            runtime.display()
        ),
        "    --env CREDBROKER_CAPABILITY \\\n    --env CREDBROKER_SOCKET \\\n    --env TOKEN_OF_MINE \\\n".to_owned(),
        "    --name credbroker-ID \\\n".to_owned(),
        "    --workdir /w \\\n".to_owned(),
        "    i:1 sh -c 'echo $X'\n".to_owned(),
    ] {
        // Which quotes a word gets is the library's affair.
        let plain = |text: &str| text.replace(['\'', '"'], "");
        assert!(
            plain(&answer.out).contains(&plain(&part)),
            "{part} is not in {}",
            answer.out
        );
    }
    assert!(!answer.out.contains("s3cret-value"));
    assert!(!host.runtime().exists(), "a broker was started");
}

#[test]
fn the_capability_is_in_the_runtimes_environment_and_in_no_argument() {
    let (host, _) = host();
    let script = r#"printf '%s\n' "$@" > "$OUT/arguments"; env > "$OUT/environment"; stat -c %a "$XDG_RUNTIME_DIR"/credbroker/*/sandbox "$XDG_RUNTIME_DIR"/credbroker/*/sandbox/sock"#;
    let mut run = with_podman(&host, script, &[], &["true"]);
    run.env("OUT", host.path(""))
        .env("P", "1")
        .env("CREDBROKER_AUDIT_PATH", host.path("audit"));
    let answer = Answer::of(run).succeeded();
    let read = |name: &str| fs::read_to_string(host.path(name)).unwrap();
    let environment = read("environment");
    let capability = environment
        .lines()
        .find_map(|line| line.strip_prefix("CREDBROKER_CAPABILITY="))
        .unwrap();
    assert_eq!(capability.len(), 64);
    assert!(!read("arguments").contains(capability) && !answer.err.contains(capability));
    assert!(environment.contains("\nCREDBROKER_SOCKET=/run/credbroker/sock\n"));
    assert!(!environment.contains("CREDBROKER_AUDIT_PATH"));
    assert_eq!(answer.out, "700\n600\n");
}

#[test]
fn a_socket_for_mapped_users_can_be_reached_by_them_and_lets_in_nobody_else() {
    if !rustix::process::geteuid().is_root() {
        // Without root a mapping needs further uids, which the interop ring has.
        return;
    }
    let (host, _) = host();
    let script = r#"
        set -- "$XDG_RUNTIME_DIR"/credbroker/*/sandbox
        stat -c %a "$1" "$1/sock"
        CREDBROKER_SOCKET=$1/sock "$BIN" token get p 2>&1
    "#;
    let mut run = with_podman(&host, script, &["--uidmap", "0:200000:65536"], &["true"]);
    run.env("BIN", BIN);
    let answer = Answer::of(run);
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_eq!(lines[..2], ["711", "666"]);
    // The broker's own user is not among those of the mapping.
    assert!(
        lines[2].contains("uid 0 may not use this socket") && answer.code == 77,
        "{answer:?}"
    );
}

#[test]
fn a_runtimes_code_is_the_commands_and_what_may_be_the_runtimes_own_is_explained() {
    let (host, _) = host();
    for code in [0, 3, 124, 128] {
        let answer = Answer::of(with_podman(&host, &format!("exit {code}"), &[], &["true"]));
        assert_eq!((answer.code, answer.err.as_str()), (code, ""), "{answer:?}");
    }
    // What podman runs below itself has the codes of a command that cannot be started.
    for code in [125, 126, 127] {
        Answer::of(with_podman(
            &host,
            &format!("echo no cgroups >&2; exit {code}"),
            &[],
            &["true"],
        ))
        .failed(code)
        .saying("no cgroups")
        .saying(&format!(
            "podman ended with {code}. Unless your command ended so, it was not started"
        ))
        .saying("whether `podman run --rm IMAGE true` works");
    }
    let mut run = sandbox(&host, &["docker", "--image", "i"], &["true"]);
    let fakes = program(
        &host,
        "docker-only",
        "docker",
        "echo 'Cannot connect to the daemon' >&2; exit 1",
    );
    run.env("PATH", fakes);
    Answer::of(run)
        .failed(125)
        .saying("docker does not work here: Cannot connect to the daemon: start its daemon");
    for (kind, says) in [
        ("podman", "apt install podman"),
        ("docker", "docker.io"),
        ("bwrap", "apt install bubblewrap"),
    ] {
        let arguments: &[&str] = if kind == "bwrap" {
            &[kind]
        } else {
            &[kind, "--image", "i"]
        };
        let mut run = sandbox(&host, arguments, &["true"]);
        run.env("PATH", host.path("nothing"));
        Answer::of(run).failed(125).saying("is not found in PATH").saying(says);
    }
    assert!(host.brokers().is_empty());
}

#[test]
fn a_container_is_removed_when_its_program_dies_of_a_signal() {
    let (host, _) = host();
    let script = r#"if [ "$1" = rm ]; then echo "$@" > "$OUT/removed"; else echo ready; exec sleep 60; fi"#;
    let mut run = with_podman(&host, script, &[], &["true"]);
    run.env("OUT", host.path(""));
    let run = Running::start(run);
    assert_eq!(run.line(), "ready");
    kill(run.pid(), Signal::TERM);
    assert_eq!(run.end(), 143);
    let removed = fs::read_to_string(host.path("removed")).unwrap();
    assert!(removed.starts_with("rm --force credbroker-"), "{removed}");
}

#[test]
fn a_program_that_a_sandbox_left_in_its_project_is_not_started_on_the_host() {
    let (host, project) = host();
    for name in ["bwrap", "podman"] {
        program(&host, "project/bin", name, "echo planted >&2; exit 1");
    }
    let path = format!("{}:.:bin", project.join("bin").display());
    for arguments in [&["bwrap"][..], &["podman", "--image", "i", "--mount", "."]] {
        let mut run = sandbox(&host, arguments, &["true"]);
        run.env("PATH", &path);
        Answer::of(run).failed(125).saying("is not found in PATH");
    }
}

#[test]
fn no_command_inherits_a_descriptor_that_somebody_left_open() {
    let (host, _) = host();
    let script = r#""$BIN" run -- sh -c 'ls /proc/self/fd | wc -l' 7</dev/null 99</dev/null"#;
    let answer = Answer::of(host.shell(script)).succeeded();
    assert_eq!(answer.out, "4\n");
}

/// Its output goes to a pager; what it shows would be started at the terminal.
#[test]
fn a_dry_run_at_a_terminal_shows_what_the_terminal_would_get() {
    let (host, _) = host();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let slave = || {
        let path = OsStr::from_bytes(name.as_bytes());
        fs::File::options().read(true).write(true).open(path).unwrap()
    };
    let dry_run = || with_podman(&host, "exit 1", &["--dry-run"], &["sh"]);
    let at_terminal = dry_run().stdin(slave()).stderr(slave()).output().unwrap();
    assert!(String::from_utf8(at_terminal.stdout).unwrap().contains("--tty"));
    let elsewhere = dry_run().stdin(slave()).output().unwrap();
    assert!(!String::from_utf8(elsewhere.stdout).unwrap().contains("--tty"));
}
