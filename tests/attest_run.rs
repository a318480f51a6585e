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
    process::Command,
};

use command::{Answer, BIN, Host, PATH, Running};

/// Its container sees all of the host and has a pid name space of its own; it says `image` where the image's name stands.
const DOCKER: &str = r#"#!/bin/sh
[ "$(id -u)" = 0 ] || flags="--user --map-root-user"
case "$1" in
info) echo '[]' ;;
container)
  [ "$2 $3 $4" = "inspect --format {{.State.Pid}}" ] || exit 64
  cat "$HOME/first" 2>/dev/null || echo 0
  ;;
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

fn run(host: &Host, script: &str) -> Command {
    let docker = host.write("bin/docker", DOCKER);
    fs::set_permissions(docker, Permissions::from_mode(0o700)).unwrap();
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
    command
        .env("BIN", BIN)
        .env("PATH", format!("{}:{PATH}", host.path("bin").display()));
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
    let run = Running::start(run(&host, script));
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
fn without_a_sandbox_there_is_nobody_to_serve_alone() {
    let host = Host::new();
    host.run(&["run", "--attest", "pidns", "--", "true"])
        .failed(64)
        .saying("--attest needs --sandbox");
}
