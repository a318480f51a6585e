//! kill -9, and what children inherit.

use std::{
    fs,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
};

use credbroker::server::socket::{BrokerDir, DirName, Exposure};

use crate::fixture::{Process, Script, dir_with_mode, runtime_in, scratch, tree};

#[test]
fn a_daemon_that_was_killed_is_followed_by_another_and_nothing_is_left() {
    let scratch = scratch();
    let script = Script {
        runtime: scratch.path().join("credbroker"),
        daemon: true,
        ..Script::default()
    };
    let runtime = runtime_in(&scratch);
    Process::started(&script).kill();
    let sock = script.runtime.join("daemon/sandbox/sock");
    assert!(sock.exists());
    assert!(runtime.list_live().unwrap().is_empty());
    let next = Process::started(&script);
    UnixStream::connect(&sock).unwrap();
    assert_eq!(runtime.list_live().unwrap()[0].pid, Some(next.child.id()));
    next.end();
    assert_eq!(tree(runtime.path()), ["lock"]);
}

#[test]
fn what_killed_brokers_left_is_swept_by_whoever_starts_next() {
    let scratch = scratch();
    let script = Script {
        runtime: scratch.path().join("credbroker"),
        ..Script::default()
    };
    let runtime = runtime_in(&scratch);
    let live = Process::started(&script);
    for _ in 0..3 {
        Process::started(&script).kill();
    }
    let next = Process::started(&script);
    assert_eq!(runtime.list_live().unwrap().len(), 2);
    assert_eq!(fs::read_dir(runtime.path()).unwrap().count(), 3);
    live.end();
    next.end();
    assert_eq!(tree(runtime.path()), ["lock"]);
}

#[test]
fn a_path_whose_broker_was_killed_is_bound_again_and_nothing_is_left() {
    let scratch = scratch();
    let dir = dir_with_mode(scratch.path().join("d"), 0o755);
    let script = Script {
        runtime: scratch.path().join("credbroker"),
        socket: Some(dir.join("s")),
        ..Script::default()
    };
    Process::started(&script).kill();
    assert_eq!(tree(&dir), ["s"]);
    let next = Process::started(&script);
    UnixStream::connect(dir.join("s")).unwrap();
    next.end();
    assert_eq!(tree(&dir), [""; 0]);
    assert_eq!(tree(&script.runtime), ["lock"]);
}

/// A child that kept a listener or a lock would keep a dead broker alive.
#[cfg(target_os = "linux")]
#[test]
fn no_child_inherits_a_descriptor() {
    let scratch = scratch();
    let broker = BrokerDir::create(&runtime_in(&scratch), DirName::Random).unwrap();
    let (control, _control) = broker.bind_control().unwrap().into_parts();
    let (sandbox, _sandbox) = broker.bind_sandbox(Exposure::Private).unwrap().into_parts();
    let (other, _other) = broker.bind_at(&scratch.path().join("s"), 0o600).unwrap().into_parts();
    let listeners = [&control, &sandbox, &other].map(|listener| listener.as_raw_fd().to_string());
    let mut seen = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let fd = entry.unwrap().file_name().into_string().unwrap();
        let target = fs::read_link(Path::new("/proc/self/fd").join(&fd)).unwrap_or_default();
        if target.starts_with(scratch.path()) || listeners.contains(&fd) {
            let info = fs::read_to_string(Path::new("/proc/self/fdinfo").join(&fd)).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            assert_ne!(flags & 0o2_000_000, 0, "{} is inherited", target.display());
            seen += 1;
        }
    }
    // Runtime and broker directory, its lock and sandbox/, and of each socket its directory, its inode and itself.
    assert_eq!(seen, 4 + 3 * 3);
}
