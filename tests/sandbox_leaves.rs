//! What a sandbox leaves where it can write is not used on the host: the real binary, with a program that stands for podman, and
//! bubblewrap where it is there.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use command::{Answer, BIN, Host, PATH, Running, bwrap, wait_until};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};

/// A host with an entry, and a project to work in.
fn host() -> (Host, PathBuf) {
    let host = Host::with_entry();
    let project = host.path("project");
    fs::create_dir(&project).unwrap();
    (host, project)
}

fn program(directory: &Path, name: &str, script: &str) {
    fs::create_dir_all(directory).unwrap();
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A `run` in the project, with a podman that does what the script says on the host.
fn with_podman(host: &Host, script: &str, arguments: &[&str]) -> Command {
    program(&host.path("fakes"), "podman", script);
    let mut run = host.command(&["run", "--allow", "p", "--sandbox", "podman", "--image", "i:1"]);
    run.args(arguments)
        .args(["--", "true"])
        .current_dir(host.path("project"))
        .env("PATH", format!("{}:{PATH}", host.path("fakes").display()))
        .env("BIN", BIN);
    run
}

#[test]
fn a_command_of_the_configuration_finds_nothing_that_a_sandbox_left() {
    let (host, project) = host();
    let planted = project.join("venv/bin");
    // The broker asks for its identity where the sandbox has been.
    for name in ["identity-tool", "sh", "cat"] {
        program(
            &planted,
            name,
            &format!("echo {name} >> {}", host.path("planted").display()),
        );
    }
    program(
        &project,
        "identity-tool",
        &format!("echo ./ >> {}", host.path("planted").display()),
    );
    let identity = host.store().join("identity.txt");
    program(
        &host.path("tools"),
        "identity-tool",
        &format!("env > $HOME/seen; cat {}", identity.display()),
    );
    let command = "if test -e identity-tool; then ./identity-tool; else identity-tool; fi";
    host.write(
        "config/credbroker/config.toml",
        &format!("[store]\nidentity_command = '{command}'\n"),
    );

    let script = r#"CREDBROKER_SOCKET=$(echo "$XDG_RUNTIME_DIR"/credbroker/*/sandbox/sock) "$BIN" token get p; env > "$HOME/podmans""#;
    let mut run = with_podman(&host, script, &["--mount", ".", "--env", "WANTED"]);
    let path = [&planted, &host.path("tools"), &host.path("fakes")].map(|path| path.to_str().unwrap().to_owned());
    run.env("PATH", format!("{}:{PATH}", path.join(":")))
        .env("LD_LIBRARY_PATH", format!("/nowhere:{}", planted.display()))
        .env("PYTHONSTARTUP", project.join("x.py"))
        .env("OPTIONS", format!("--require={}/x.js", project.display()))
        // This one only begins as the project does.
        .env("NEIGHBOUR", host.path("project-2/id"))
        .env("RUST_LOG", "debug")
        .env("WANTED", host.path("project-2/y"));
    let answer = Answer::of(run).saying("\"OPTIONS\"").saying("\"PYTHONSTARTUP\"");
    assert!(
        !answer.err.contains("x.js") && !answer.err.contains("NEIGHBOUR"),
        "{answer:?}"
    );
    assert_eq!(answer.out, "access-1\n", "{answer:?}");
    assert!(
        !host.path("planted").exists(),
        "what the sandbox left was run: {answer:?}"
    );
    for seen in ["seen", "podmans"] {
        let seen = fs::read_to_string(host.path(seen)).unwrap();
        let names: Vec<&str> = seen.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        for name in ["LD_LIBRARY_PATH", "PYTHONSTARTUP", "OPTIONS"] {
            assert!(!names.contains(&name), "{name} is in {seen}");
        }
        assert!(names.contains(&"HOME") && names.contains(&"NEIGHBOUR"), "{seen}");
    }
    let podmans = fs::read_to_string(host.path("podmans")).unwrap();
    assert!(
        podmans.contains("\nWANTED="),
        "what was asked for by name is passed: {podmans}"
    );
}

#[test]
fn no_program_of_the_hosts_takes_code_from_the_directory_that_it_runs_in() {
    let (host, project) = host();
    // The empty part is the project, where podman runs.
    let list = "/nowhere/lib64:";
    let mut run = with_podman(&host, "env; pwd", &["--mount", "."]);
    run.env("LD_LIBRARY_PATH", list).env("PYTHONPATH", "lib");
    let seen = Answer::of(run).succeeded().out;
    let rest = |seen: &str| seen.lines().any(|line| line == "LD_LIBRARY_PATH=/nowhere/lib64");
    assert!(rest(&seen) && !seen.contains("PYTHONPATH"), "{seen}");
    assert!(seen.ends_with(&format!("\n{}\n", project.display())), "{seen}");

    // doctor asks them with the same variables.
    program(
        &host.path("fakes"),
        "podman",
        r#"/usr/bin/env > "$HOME/doctors"; pwd >> "$HOME/doctors""#,
    );
    let mut doctor = host.command(&["doctor"]);
    doctor
        .current_dir(&project)
        .env("PATH", host.path("fakes"))
        .env("LD_LIBRARY_PATH", list);
    let answer = Answer::of(doctor);
    let seen = fs::read_to_string(host.path("doctors")).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert!(rest(&seen) && seen.ends_with("\n/\n"), "{seen}");

    // And none is told by name to.
    for runtime in ["bwrap", "podman"] {
        let mut run = host.command(&["run", "--sandbox", runtime, "--env", "LD_PRELOAD"]);
        if runtime == "podman" {
            run.args(["--image", "i"]);
        }
        program(&host.path("fakes"), runtime, "echo started");
        run.args(["--", "true"])
            .current_dir(&project)
            .env("PATH", format!("{}:{PATH}", host.path("fakes").display()))
            .env("LD_PRELOAD", project.join("x.so"));
        let answer = Answer::of(run).failed(64).saying("set it inside");
        assert_eq!(answer.out, "");
    }
}

#[test]
fn no_runtime_takes_a_configuration_from_the_directory_that_it_runs_in() {
    let (host, project) = host();
    let script = r#"pwd > "$HOME/at-$1"; case "$1" in info) echo '[]' ;; run) env; kill -TERM $$ ;; esac"#;
    for runtime in ["podman", "docker"] {
        program(&host.path("fakes"), runtime, script);
        let mut run = host.command(&["run", "--sandbox", runtime, "--image", "i", "--", "true"]);
        run.current_dir(&project)
            .env("PATH", format!("{}:{PATH}", host.path("fakes").display()));
        for (name, value) in [
            ("CONTAINERS_CONF", "c.conf"),
            ("DOCKER_CONFIG", ".docker"),
            ("REGISTRY_AUTH_FILE", "./auth.json"),
            ("STORAGE_OPTS", "overlay.mount_program=bin/mount"),
            ("BASH_ENV", "benv"),
            ("TMPDIR", "."),
            ("ELSEWHERE", "/opt/x"),
        ] {
            run.env(name, value);
        }
        let answer = Answer::of(run);
        assert_eq!(answer.code, 143, "{answer:?}");
        let seen = answer.out;
        for name in [
            "CONTAINERS_CONF",
            "DOCKER_CONFIG",
            "REGISTRY_AUTH",
            "STORAGE_OPTS",
            "BASH_ENV",
            "TMPDIR",
        ] {
            assert!(!seen.contains(name), "{name} is in {seen}");
        }
        assert!(seen.contains("\nELSEWHERE=/opt/x\n"), "{seen}");
        // Only where the command is started is it where the user is.
        let at = |asked: &str| fs::read_to_string(host.path(&format!("at-{asked}"))).unwrap();
        assert_eq!(at("run"), format!("{}\n", project.display()), "{runtime}");
        assert_eq!(at("rm"), "/\n", "{runtime}");
        if runtime == "docker" {
            assert_eq!(at("info"), "/\n");
        }
        fs::remove_file(host.path("at-rm")).unwrap();
    }
}

#[test]
fn no_runtime_is_told_by_name_what_leads_to_where_a_sandbox_writes() {
    let (host, project) = host();
    let inside = project.join("x");
    for (name, value, refused) in [
        ("REGISTRY_AUTH_FILE", inside.to_str().unwrap(), true),
        ("BASH_ENV", inside.to_str().unwrap(), true),
        ("WANTED", inside.to_str().unwrap(), true),
        ("XDG_DATA_HOME", "x", true),
        ("PYTHONPATH", "/opt/x:", true),
        ("PYTHONPATH", "/opt/x", false),
        ("WANTED", "x", false),
        ("REGISTRY_AUTH_FILE", "/opt/auth.json", false),
    ] {
        for runtime in ["bwrap", "podman", "docker"] {
            let script = "case $1 in info) echo '[]' ;; *) echo started ;; esac";
            program(&host.path("fakes"), runtime, script);
            let mut run = host.command(&["run", "--dry-run", "--sandbox", runtime, "--env", name]);
            if runtime != "bwrap" {
                run.args(["--image", "i", "--mount", "."]);
            }
            run.args(["--", "true"])
                .current_dir(&project)
                .env("PATH", format!("{}:{PATH}", host.path("fakes").display()))
                .env(name, value);
            let answer = Answer::of(run);
            if refused && runtime != "bwrap" {
                let says = format!("--env {name} leads to what the sandbox can write to, or to where {runtime} runs");
                answer.failed(64).saying(&says).saying("set it inside: `sh -c");
            } else {
                assert_eq!(answer.code, 0, "{runtime} {name}={value}: {answer:?}");
            }
        }
    }
}

#[test]
fn what_was_left_out_is_named_where_something_fails() {
    let (host, project) = host();
    let token = r#"CREDBROKER_SOCKET=$(echo "$XDG_RUNTIME_DIR"/credbroker/*/sandbox/sock) "$BIN" token get p"#;
    let inside = project.join("secret-place");
    // Both fail, or none of them.
    for (identity, script, fails) in [
        ("false", format!("{token} >&2; exit 125"), true),
        ("cat store/identity.txt", "exit 0".to_owned(), false),
    ] {
        host.write(
            "config/credbroker/config.toml",
            &format!("[store]\nidentity_command = '{identity}'\n"),
        );
        for set in [true, false] {
            let mut run = with_podman(&host, &script, &["--mount", "."]);
            if set {
                run.env("VAULT_CONFIG", &inside).env("CONTAINERS_CONF", "c.conf");
            }
            // Of no use to anybody.
            run.env("PWD", &project);
            let answer = Answer::of(run);
            assert_eq!(answer.code, if fails { 125 } else { 0 }, "{answer:?}");
            let err = answer.err;
            for says in [
                r#"identity_command was run without these variables, or not with all of them: they lead to what the sandbox can write to, or are relative names=["CONTAINERS_CONF", "VAULT_CONFIG"]"#,
                "podman was started without these variables, or not with all of them: CONTAINERS_CONF, VAULT_CONFIG. They lead",
            ] {
                assert_eq!(err.contains(says), fails && set, "{says}: {err}");
            }
            assert_eq!(err.contains("without these variables"), fails && set, "{err}");
            assert!(!err.contains("secret-place"), "{err}");
        }
    }
}

/// A script in the project that may mount, and sees its mounts alone.
fn with_mounts(host: &Host, script: &str) -> Command {
    let mut shell = host.program("unshare");
    if !rustix::process::geteuid().is_root() {
        shell.args(["--user", "--map-root-user"]);
    }
    shell
        .args(["--mount", "sh", "-c", script])
        .current_dir(host.path("project"))
        .env("BIN", BIN);
    shell
}

#[test]
fn what_is_mounted_in_the_project_is_refused_if_it_is_not_for_a_sandbox() {
    let (host, project) = host();
    for name in ["project/below", "data/credbroker/tokens", "harmless"] {
        fs::create_dir_all(host.path(name)).unwrap();
    }
    for (bound, says) in [
        (".", Some("is or holds the home directory")),
        ("data/credbroker", Some("its store")),
        ("data/credbroker/tokens", Some("its store")),
        ("run", Some("its sockets")),
        ("harmless", None),
    ] {
        program(&host.path("fakes"), "podman", "echo started");
        let script = r#"mount --bind "$BOUND" below && exec "$BIN" run --sandbox podman --image i --mount . -- true"#;
        let mut shell = with_mounts(&host, script);
        shell
            .env("PATH", format!("{}:{PATH}", host.path("fakes").display()))
            .env("BOUND", host.path(bound));
        let answer = Answer::of(shell);
        match says {
            Some(says) => {
                answer
                    .failed(64)
                    .saying(says)
                    .saying(project.join("below").to_str().unwrap());
            }
            None => assert_eq!(answer.succeeded().out, "started\n"),
        }
    }
}

#[test]
fn what_belongs_to_brokers_that_were_started_otherwise_is_not_mounted() {
    let (host, _) = host();
    let sockets = format!("t/cb-{}", rustix::process::geteuid().as_raw());
    for (name, says) in [
        (sockets.as_str(), "its sockets"),
        ("data/credbroker", "another store of its"),
        ("state/credbroker", "other records of its"),
    ] {
        fs::create_dir_all(host.path(name)).unwrap();
        let mut run = with_podman(&host, "echo started", &["--mount", host.path(name).to_str().unwrap()]);
        run.env("TMPDIR", host.path("t"))
            .env("CREDBROKER_STORE_PATH", host.path("elsewhere"))
            .env("CREDBROKER_AUDIT_PATH", host.path("audit"));
        Answer::of(run).failed(64).saying(says);
    }
}

#[test]
fn nothing_is_mounted_through_a_link_that_a_sandbox_left() {
    let (host, project) = host();
    for name in ["project/vendor/deep", "data-dir"] {
        fs::create_dir_all(host.path(name)).unwrap();
    }
    symlink(
        format!("/oldroot{}", host.path("").display()),
        project.join("vendor/link"),
    )
    .unwrap();
    symlink("nowhere", project.join("vendor/broken")).unwrap();
    for (at, refused) in [
        ("vendor/link/.bash_profile", true),
        ("vendor/link", true),
        ("vendor/broken", true),
        ("vendor/deep", false),
        ("vendor/new/place", false),
    ] {
        let mount = format!("{}:{}", host.path("data-dir").display(), project.join(at).display());
        let run = with_podman(&host, "echo started", &["--mount", ".", "--mount", &mount]);
        let answer = Answer::of(run);
        if refused {
            answer.failed(64).saying("a link is on the way there");
        } else {
            assert_eq!(answer.succeeded().out, "started\n", "{at}");
        }
        // Under bwrap the working directory is one that is written to.
        let mut run = host.command(&[
            "run",
            "--dry-run",
            "--sandbox",
            "bwrap",
            "--mount",
            &mount,
            "--",
            "true",
        ]);
        program(&host.path("fakes"), "bwrap", "exit 1");
        run.current_dir(&project).env("PATH", host.path("fakes"));
        assert_eq!(Answer::of(run).code, if refused { 64 } else { 0 }, "{at}");
    }
}

const PROVIDER: &str = "[providers.a]\nclient_id = 'c'\ntoken_endpoint = 'https://a.example/t'\n";

#[test]
fn the_authorities_of_providers_are_nothing_that_a_sandbox_can_write_to() {
    let (host, project) = host();
    for name in ["ca.pem", "project/ca.pem", "outside/own.pem", "linked/own.pem"] {
        host.write(name, "");
    }
    for (target, link) in [
        // The link can be replaced, wherever it leads.
        (host.path("ca.pem"), "project/link.pem"),
        (host.path("project/ca.pem"), "to-project.pem"),
        (host.path("project/link.pem"), "to-link.pem"),
        ("project/ca.pem".into(), "linked/../relative.pem"),
        (project.join("ca.pem"), "linked/0.pem"),
        (project.clone(), "linked-directory"),
        (host.path("ca.pem"), "outside/link.pem"),
    ] {
        symlink(target, host.path(link)).unwrap();
    }
    let at = |name: &str| host.path(name).to_str().unwrap().to_owned();
    let cases = [
        ("SSL_CERT_FILE", at("project/ca.pem"), true),
        ("SSL_CERT_FILE", "ca.pem".to_owned(), true),
        ("SSL_CERT_FILE", "./absent.pem".to_owned(), true),
        ("SSL_CERT_FILE", at("project/link.pem"), true),
        ("SSL_CERT_FILE", at("to-project.pem"), true),
        ("SSL_CERT_FILE", at("to-link.pem"), true),
        ("SSL_CERT_FILE", at("relative.pem"), true),
        ("SSL_CERT_FILE", at("outside/../project/../project/ca.pem"), true),
        ("SSL_CERT_FILE", at("ca.pem"), false),
        ("SSL_CERT_FILE", "../ca.pem".to_owned(), false),
        ("SSL_CERT_FILE", at("outside/link.pem"), false),
        ("SSL_CERT_FILE", at("absent.pem"), false),
        ("SSL_CERT_FILE", String::new(), false),
        ("SSL_CERT_DIR", format!("{}:.", at("outside")), true),
        ("SSL_CERT_DIR", at("linked"), true),
        ("SSL_CERT_DIR", at("linked-directory"), true),
        ("SSL_CERT_DIR", format!("{}:{}:", at("outside"), at("absent")), false),
    ];
    let run = |arguments: &[&str], (variable, value): (&str, &str)| {
        let mut run = with_podman(&host, "echo started", arguments);
        run.env(variable, value);
        Answer::of(run)
    };
    for (variable, value, refused) in &cases {
        host.write("config/credbroker/config.toml", PROVIDER);
        let set = (*variable, value.as_str());
        let answer = run(&["--mount", "."], set);
        if *refused {
            let mend = format!("set {variable} to a copy");
            answer.failed(64).saying(&format!("{variable} leads to ")).saying(&mend);
        } else {
            assert_eq!(answer.succeeded().out, "started\n", "{set:?}");
        }
        // What is only read, or not there at all, is nothing that it can write to.
        for arguments in [&[][..], &["--mount", ".:/w:ro"]] {
            assert_eq!(run(arguments, set).succeeded().out, "started\n", "{set:?}");
        }
        // bwrap shows the working directory, to write to.
        program(&host.path("fakes"), "bwrap", "exit 1");
        let mut dry = host.command(&["run", "--dry-run", "--sandbox", "bwrap", "--", "true"]);
        dry.current_dir(&project)
            .env("PATH", host.path("fakes"))
            .env(variable, value);
        assert_eq!(Answer::of(dry).code, if *refused { 64 } else { 0 }, "{set:?}");
        // Nobody is vouched for where there is no provider.
        host.write("config/credbroker/config.toml", "");
        assert_eq!(run(&["--mount", "."], set).succeeded().out, "started\n", "{set:?}");
    }
}

#[test]
fn the_authorities_are_read_before_the_command_starts() {
    let (host, _) = host();
    host.write("config/credbroker/config.toml", PROVIDER);
    let authorities = host.path("ca.pem");
    mkfifoat(CWD, &authorities, Mode::RUSR | Mode::WUSR).unwrap();
    let mut run = with_podman(&host, "echo started", &[]);
    run.env("SSL_CERT_FILE", &authorities);
    let run = Running::start(run);
    // It can be opened as soon as somebody reads it, and who reads waits until it is.
    let mut wait = || open(&authorities, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).is_ok();
    wait_until("the authorities are read", &mut wait);
    assert_eq!(run.line(), "started");
    assert_eq!(run.end(), 0);
}

#[test]
fn nothing_is_mounted_that_a_link_which_a_sandbox_left_leads_to() {
    let (host, project) = host();
    for name in ["private/deep", "project/sub", "tools", "shared"] {
        fs::create_dir_all(host.path(name)).unwrap();
    }
    let private = host.path("private");
    symlink(&private, project.join("data")).unwrap();
    symlink(&private, project.join("sub/data")).unwrap();
    symlink(&private, host.path("shared/data")).unwrap();
    // Not the sandbox's own, but one of the sandbox's is behind it, or before it.
    symlink("project/data", host.path("tools/../behind")).unwrap();
    symlink(&project, host.path("tools/project")).unwrap();
    symlink(&private, host.path("tools/data")).unwrap();
    // In the home itself the links are the user's, and one that stays in its directory leads nowhere else.
    symlink(&project, host.path("mine")).unwrap();
    fs::create_dir(host.path("tools/real")).unwrap();
    symlink("real", host.path("tools/inside")).unwrap();
    let shared = format!("{}:/shared", host.path("shared").display());
    let read_only = format!("{shared}:ro");
    for (source, other, refused) in [
        ("data", None, true),
        ("./sub/../data", None, true),
        ("sub/data/deep", None, true),
        ("data/../private", None, true),
        ("../behind", None, true),
        ("../tools/project/data", None, true),
        ("../shared/data", Some(&shared), true),
        ("../shared/data", Some(&read_only), true),
        // Of another project, or of the user's own making: they cannot be told apart.
        ("../shared/data", None, true),
        ("../tools/data", None, true),
        ("../tools/project/sub", None, true),
        ("../mine/sub", None, false),
        ("../tools/inside", None, false),
        ("../private/deep", None, false),
        ("sub", None, false),
    ] {
        let mut mounts = vec!["--mount".to_owned(), format!("{source}:/mnt/data")];
        if let Some(other) = other {
            mounts.extend(["--mount".to_owned(), other.clone()]);
        }
        let mounts: Vec<&str> = mounts.iter().map(String::as_str).collect();
        for runtime in ["podman", "bwrap"] {
            program(&host.path("fakes"), runtime, "echo started");
            let mut run = host.command(&["run", "--dry-run", "--sandbox", runtime]);
            if runtime == "podman" {
                run.args(["--image", "i"]);
            }
            run.args(&mounts)
                .args(["--", "true"])
                .current_dir(&project)
                .env("PATH", format!("{}:{PATH}", host.path("fakes").display()));
            let answer = Answer::of(run);
            if refused {
                answer.failed(64).saying("behind a link").saying("name the path");
            } else {
                assert_eq!(answer.code, 0, "{runtime} {mounts:?}: {answer:?}");
            }
        }
    }
    // From the home it is the same; a home is no project, and the links in it are the user's.
    for (source, refused) in [("tools/data", true), ("mine/sub", false)] {
        let mut run = with_podman(&host, "echo started", &["--mount", &format!("{source}:/mnt/data")]);
        run.current_dir(host.path(""));
        let answer = Answer::of(run);
        match refused {
            true => drop(answer.failed(64).saying("behind a link")),
            false => assert_eq!(answer.succeeded().out, "started\n"),
        }
    }
}

/// The shell goes through the link, and shows its name.
#[test]
fn nothing_is_mounted_where_a_link_that_a_sandbox_left_led_the_user() {
    let (host, project) = host();
    for name in ["private", "project/sub", "outside/dir"] {
        fs::create_dir_all(host.path(name)).unwrap();
    }
    symlink(host.path("private"), project.join("build")).unwrap();
    symlink("sub", project.join("below")).unwrap();
    symlink(&project, host.path("mine")).unwrap();
    // A project that is not in the home.
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(host.path("private"), elsewhere.path().join("build")).unwrap();
    symlink("/usr", elsewhere.path().join("system")).unwrap();
    symlink(elsewhere.path(), host.path("away")).unwrap();
    let in_elsewhere = format!("{}/build", elsewhere.path().display());
    let system = format!("{}/system/lib", elsewhere.path().display());
    for (way, runtime, refused) in [
        ("project/build", "bwrap", true),
        ("project/build", "podman", true),
        (&in_elsewhere, "bwrap", true),
        (&system, "podman", false),
        ("project/below", "bwrap", false),
        ("mine", "bwrap", false),
        ("mine/sub", "bwrap", false),
        ("away", "bwrap", false),
        ("project", "bwrap", false),
        // A name that is not this place's says nothing.
        ("project; PWD=$PWD/build", "bwrap", false),
        ("project/build; cd -P .", "bwrap", false),
    ] {
        program(&host.path("fakes"), runtime, "echo started");
        let image = if runtime == "podman" { "--image i --mount ." } else { "" };
        let line = format!("cd {way}; exec \"$BIN\" run --dry-run --sandbox {runtime} {image} -- true");
        let mut run = host.shell(&line);
        run.current_dir(host.path(""))
            .env("PWD", host.path(""))
            .env("PATH", format!("{}:{PATH}", host.path("fakes").display()));
        let answer = Answer::of(run);
        if refused {
            answer.failed(64).saying("behind a link").saying("cd -P .");
        } else {
            assert_eq!(answer.code, 0, "{way} {runtime}: {answer:?}");
        }
    }
}

#[test]
fn in_bwrap_a_command_in_the_background_has_no_terminal_to_read() {
    if !bwrap() {
        return;
    }
    let (host, project) = host();
    let inside = r#"for fd in 0 1 2; do test -t $fd && echo terminal $fd; done
        ls -l /proc/self/fd | grep -q pts && echo a way to the terminal
        if read -r line; then echo "got $line"; else echo nothing; fi; echo error >&2; exit 5"#;
    let without = (&["nothing", "error", "code 5"][..], &["terminal", "got"][..]);
    for (before, background, (says, not)) in [
        ("", "& wait $!", without),
        // In a session of its own it has a terminal that is another's, also where only what it prints goes there.
        ("setsid --wait", "", without),
        ("setsid --wait", "</dev/null", without),
        // What is no terminal is read as ever.
        (
            "echo piped | setsid --wait",
            "",
            (&["got piped", "code 5"][..], &["got typed", "nothing"][..]),
        ),
        (
            "echo piped | timeout 60",
            "",
            (&["got piped", "code 5"][..], &["got typed", "nothing"][..]),
        ),
        (
            "",
            "",
            (
                &["terminal 0", "terminal 1", "terminal 2", "got typed", "error", "code 5"],
                &["nothing"],
            ),
        ),
    ] {
        // A shell with job control on a terminal of its own.
        let line = format!(
            "stty -echo; set -m; {before} \"$BIN\" run --sandbox bwrap -- sh -c \"$INSIDE\" {background}\necho code $?"
        );
        let mut terminal = host.program("script");
        terminal
            .args(["--quiet", "--command", &line, "/dev/null"])
            .current_dir(&project)
            .env("BIN", BIN)
            .env("INSIDE", inside)
            .env("SHELL", "/bin/sh");
        let said = Answer::with_input(terminal, b"typed\n").out;
        for word in says {
            assert!(said.contains(word), "{before} {background}: {said}");
        }
        for word in not {
            assert!(!said.contains(word), "{before} {background}: {said}");
        }
    }
}

#[test]
fn in_bwrap_what_is_hidden_in_etc_stays_hidden_when_the_host_replaces_it() {
    if !bwrap() {
        return;
    }
    let (host, project) = host();
    // Files of this name are the user's alone.
    let secrets = ["etc/secret", "etc/ssh/key", "etc/credbroker/client"];
    for name in secrets {
        host.write(name, "secret");
    }
    for name in ["etc/passwd", "etc/ssh/config", "etc/ssl/public"] {
        host.write(name, "public\n");
        fs::set_permissions(host.path(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    symlink("secret", host.path("etc/link")).unwrap();
    fs::set_permissions(host.path("etc/credbroker"), fs::Permissions::from_mode(0o700)).unwrap();
    let inside = r#"
        look() {
            cat /etc/passwd /etc/ssh/config /etc/ssl/public
            cat /etc/secret /etc/link /etc/ssh/key /etc/credbroker/client 2>/dev/null
            touch /etc/new /etc/ssh/new /etc/credbroker/new 2>/dev/null && echo written
            echo looked
        }
        look; until test -e go; do sleep 0.05; done; look"#;
    let script = r#"mount --bind "$HOME/etc" /etc && exec "$BIN" run --sandbox bwrap -- sh -c "$INSIDE""#;
    let mut run = with_mounts(&host, script);
    run.env("INSIDE", inside);
    let run = Running::start(run);
    for replaced in [false, true] {
        if replaced {
            for name in secrets {
                let new = host.write(&format!("{name}.new"), "secret");
                fs::rename(new, host.path(name)).unwrap();
            }
            fs::write(project.join("go"), "").unwrap();
        }
        let lines: Vec<String> = (0..4).map(|_| run.line()).collect();
        assert_eq!(lines, ["public", "public", "public", "looked"], "replaced: {replaced}");
    }
    assert_eq!(run.end(), 0);
}
