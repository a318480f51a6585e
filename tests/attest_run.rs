//! `run --attest pidns`, with a runtime of the test's own that starts its container as docker does: by somebody else, who
//! tells the first process's number when there is one. Real sandboxes are in `tests/interop/`.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use command::{Answer, BIN, Host, PATH, Running};

/// Its container sees all of the host and has a pid name space of its own; it says `image` where the image's name stands.
const DOCKER: &str = r#"#!/bin/sh
[ "$(id -u)" = 0 ] || flags="--user --map-root-user"
case "$1" in
info) echo '[]' ;;
container)
  case "$2 $3 $4" in
  "inspect --format {{.State.Pid}}") cat "$HOME/first" 2>/dev/null || echo 0 ;;
  *) exit 64 ;;
  esac
  ;;
rm) kill -9 $(cat "$HOME/first") ;;
run)
  while [ "$1" != image ]; do
    case "$1" in
    type=bind,source=*,target=/run/credbroker,readonly) socket=${1#type=bind,source=}; socket=${socket%%,*}/sock ;;
    esac
    shift
  done
  shift
  export CREDBROKER_SOCKET=$socket
  exec 3<&0
  unshare $flags --pid --fork --kill-child "$@" <&3 &
  runner=$!
  sleep 0.5
  cat /proc/$runner/task/$runner/children >"$HOME/first"
  wait $runner
  ;;
esac
"#;

/// Whether this system lets the tests make pid name spaces; many containers do not. Where it has to, `.ci/run` says so.
#[expect(clippy::disallowed_methods, reason = "a word from .ci/run to the tests")]
fn namespaces() -> bool {
    let script = "[ \"$(id -u)\" = 0 ] || flags='--user --map-root-user'; exec unshare $flags --pid --fork true";
    let can = Command::new("sh").args(["-c", script]).status().unwrap().success();
    assert!(
        can || std::env::var_os("INSIST_ON_EVERY_TEST").is_none(),
        "this system does not let: unshare --pid"
    );
    can
}

fn write_docker(host: &Host, script: &str) {
    let docker = host.write("bin/docker", script);
    fs::set_permissions(docker, Permissions::from_mode(0o700)).unwrap();
}

fn with_docker(host: &Host) -> String {
    format!("{}:{PATH}", host.path("bin").display())
}

fn run(host: &Host, docker: &str, script: &str) -> Command {
    write_docker(host, docker);
    let flags = [
        "run",
        "--sandbox",
        "docker",
        "--image",
        "image",
        "--attest",
        "pidns",
        "--allow",
        "p",
    ];
    let mut command = host.command(&flags);
    command.args(["--", "sh", "-c", script]);
    command.env("BIN", BIN).env("PATH", with_docker(host));
    command
}

#[test]
fn a_container_is_served_as_soon_as_it_is_known_and_nobody_else_is() {
    if !namespaces() {
        return;
    }
    let host = Host::with_entry();
    // It asks before it is known, and waits for the answer.
    let script = "\"$BIN\" token get p; echo \"$CREDBROKER_SOCKET $CREDBROKER_CAPABILITY\"; read x; exit 0";
    let run = Running::start(run(&host, DOCKER, script));
    assert_eq!(run.line(), "access-1");
    let line = run.line();
    let (socket, capability) = line.split_once(' ').unwrap();
    // Outside, with all that the sandbox has.
    let mut outside = host.command(&["token", "get", "p"]);
    outside
        .env("CREDBROKER_SOCKET", socket)
        .env("CREDBROKER_CAPABILITY", capability);
    Answer::of(outside).failed(77).saying("--attest pidns");
    assert_eq!(run.end(), 0);
}

#[test]
fn a_container_without_process_numbers_of_its_own_is_not_waited_for() {
    let host = Host::with_entry();
    let docker = DOCKER.replace("--pid --fork", "--fork");
    Answer::of(run(&host, &docker, "\"$BIN\" token get p; sleep 60"))
        .failed(125)
        .saying("the container has the process numbers of this host")
        .saying("--pid=host");
    let first = fs::read_to_string(host.path("first")).unwrap();
    assert!(
        !Path::new("/proc").join(first.trim()).exists(),
        "the container was left"
    );
}

/// In a pid name space that shows the /proc of another one, whoever has a peer's number there is somebody else.
#[test]
fn where_proc_shows_other_processes_none_is_described_and_a_sandbox_of_ones_own_is_not_begun() {
    if !namespaces() {
        return;
    }
    let host = Host::with_entry();
    write_docker(&host, DOCKER);
    let within = |arguments: &str| {
        let script =
            "[ \"$(id -u)\" = 0 ] || flags='--user --map-root-user'; exec unshare $flags --pid --fork \"$BIN\" ";
        let mut command = host.shell(&format!("{script}{arguments}"));
        command.env("PATH", with_docker(&host));
        Answer::of(command)
    };
    let answer = within("run --allow p -- \"$BIN\" token get p").succeeded();
    assert_eq!(answer.out, "access-1\n");
    let audit = fs::read_dir(host.path("state/credbroker/audit")).unwrap();
    let text: String = audit
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let line = text.lines().find(|line| line.contains("\"GetToken\"")).unwrap();
    assert!(
        line.contains("\"peer_pid\":") && !line.contains("peer_exe") && !line.contains("_ns\""),
        "{line}"
    );
    for arguments in ["run --sandbox docker --image image --attest pidns -- true", "doctor"] {
        let answer = within(arguments);
        let said = format!("{}{}", answer.out, answer.err);
        assert!(said.contains("/proc is that of another pid name space"), "{said}");
    }
}

#[test]
fn without_a_sandbox_there_is_nobody_to_serve_alone() {
    let host = Host::new();
    host.run(&["run", "--attest", "pidns", "--", "true"])
        .failed(64)
        .saying("--attest needs --sandbox");
}
