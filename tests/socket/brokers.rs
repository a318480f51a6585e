//! A broker's own directory: what is in it, whose it is, and what becomes of it.

use std::{
    fs::{self, File},
    os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    },
    thread,
    time::Duration,
};

use credbroker::server::socket::{BrokerDir, DirName, Exposure, Failure, LiveBroker, RuntimeDir, SocketError};

use crate::fixture::{dir_with_mode, mode_of, own_pid, runtime_in, scratch, stale_socket, tree};

const ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

fn daemon(runtime: &RuntimeDir) -> BrokerDir {
    BrokerDir::create(runtime, DirName::Daemon).unwrap()
}

fn id(broker: &BrokerDir) -> &str {
    broker.path().file_name().unwrap().to_str().unwrap()
}

#[test]
fn the_directory_holds_what_is_promised_and_nothing_else() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let broker = daemon(&runtime);
    let control = broker.bind_control().unwrap();
    let sandbox = broker.bind_sandbox(Exposure::Private).unwrap();
    assert_eq!(
        tree(runtime.path()),
        [
            "daemon",
            "daemon/control.sock",
            "daemon/lock",
            "daemon/pid",
            "daemon/sandbox",
            "daemon/sandbox/sock",
            "lock"
        ]
    );
    assert_eq!(
        fs::read_to_string(broker.path().join("pid")).unwrap(),
        format!("{}\n", own_pid())
    );
    assert_eq!(control.path(), broker.path().join("control.sock"));
    assert_eq!(sandbox.path(), broker.path().join("sandbox/sock"));
    UnixStream::connect(control.path()).unwrap();
    UnixStream::connect(sandbox.path()).unwrap();
}

#[test]
fn a_sandbox_sees_one_name() {
    let scratch = scratch();
    let broker = BrokerDir::create(&runtime_in(&scratch), DirName::Random).unwrap();
    let _control = broker.bind_control().unwrap();
    let _sandbox = broker.bind_sandbox(Exposure::Shared).unwrap();
    assert_eq!(tree(&broker.sandbox_dir()), ["sock"]);
}

#[test]
fn modes_follow_the_exposure_and_the_wall_stays() {
    for (exposure, dir, sock) in [(Exposure::Private, 0o700, 0o600), (Exposure::Shared, 0o711, 0o666)] {
        let scratch = scratch();
        let runtime = runtime_in(&scratch);
        let broker = BrokerDir::create(&runtime, DirName::Random).unwrap();
        let control = broker.bind_control().unwrap();
        let sandbox = broker.bind_sandbox(exposure).unwrap();
        assert_eq!(mode_of(&broker.sandbox_dir()), dir);
        assert_eq!(mode_of(sandbox.path()), sock);
        assert_eq!(mode_of(control.path()), 0o600);
        assert_eq!(mode_of(broker.path()), 0o700);
        assert_eq!(mode_of(runtime.path()), 0o700);
    }
}

#[test]
fn the_listener_does_not_block() {
    let scratch = scratch();
    let broker = daemon(&runtime_in(&scratch));
    let (listener, _guard) = broker.bind_control().unwrap().into_parts();
    let flags = rustix::fs::fcntl_getfl(&listener).unwrap();
    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
}

#[test]
fn everything_is_removed_when_the_last_part_is_dropped_whichever_that_is() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let scratch = scratch();
        let runtime = runtime_in(&scratch);
        let broker = daemon(&runtime);
        let control = broker.bind_control().unwrap();
        let sandbox = broker.bind_sandbox(Exposure::Private).unwrap();
        let mut parts: [Option<Box<dyn std::any::Any>>; 3] =
            [Some(Box::new(broker)), Some(Box::new(control)), Some(Box::new(sandbox))];
        for part in order {
            assert_eq!(runtime.list_live().unwrap().len(), 1);
            drop(parts[part].take());
        }
        assert_eq!(tree(runtime.path()), ["lock"], "{order:?}");
        assert!(runtime.list_live().unwrap().is_empty());
    }
}

#[test]
fn cleaning_up_tolerates_that_everything_is_gone() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let broker = daemon(&runtime);
    let control = broker.bind_control().unwrap();
    fs::remove_dir_all(runtime.path()).unwrap();
    drop(control);
    drop(broker);
    assert_eq!(tree(scratch.path()), [""; 0]);
}

#[test]
fn a_second_daemon_is_told_who_is_there_and_what_to_do() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let first = daemon(&runtime);
    let sandbox = first.bind_sandbox(Exposure::Private).unwrap();
    let error = BrokerDir::create(&runtime, DirName::Daemon).unwrap_err();
    assert_eq!(error.failure(), Failure::InUse);
    let message = error.to_string();
    for part in [
        &format!("pid {}", own_pid()),
        sandbox.path().to_str().unwrap(),
        "--socket PATH",
    ] {
        assert!(message.contains(part), "{message}");
    }
    UnixStream::connect(sandbox.path()).unwrap();
}

#[test]
fn brokers_without_the_daemons_name_run_beside_each_other() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let brokers: Vec<_> = (0..3)
        .map(|_| BrokerDir::create(&runtime, DirName::Random).unwrap())
        .collect();
    let daemon = daemon(&runtime);
    let live = runtime.list_live().unwrap();
    assert_eq!(live.len(), 4);
    for broker in brokers.iter().chain([&daemon]) {
        assert!(live.contains(&LiveBroker {
            dir: broker.path().to_owned(),
            pid: Some(own_pid()),
            control_socket: broker.path().join("control.sock"),
        }));
    }
}

#[test]
fn dead_brokers_are_not_listed() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let dead = dir_with_mode(runtime.path().join(ID), 0o700);
    fs::write(dead.join("lock"), "").unwrap();
    fs::write(dead.join("pid"), "1\n").unwrap();
    assert!(runtime.list_live().unwrap().is_empty());
}

#[test]
fn whatever_an_incomplete_start_or_a_crash_left_is_swept() {
    let stages: [&[&str]; 6] = [
        &[],
        &["lock"],
        &["lock", "pid"],
        &["lock", "pid", "sandbox/"],
        &["lock", "pid", "sandbox/", "control.sock", "sandbox/sock"],
        &["pid", "sandbox/", "sandbox/sock"],
    ];
    for name in [ID, "daemon"] {
        for left in stages {
            let scratch = scratch();
            let runtime = runtime_in(&scratch);
            let dead = dir_with_mode(runtime.path().join(name), 0o700);
            for path in left {
                match *path {
                    "sandbox/" => fs::create_dir(dead.join(path)).unwrap(),
                    path if path.ends_with("sock") => stale_socket(&dead.join(path)),
                    path => fs::write(dead.join(path), "1\n").unwrap(),
                }
            }
            let broker = daemon(&runtime);
            let _socket = broker.bind_sandbox(Exposure::Private).unwrap();
            assert_eq!(fs::read_dir(runtime.path()).unwrap().count(), 2, "{name} {left:?}");
            drop(broker);
            drop(_socket);
            assert_eq!(tree(runtime.path()), ["lock"], "{name} {left:?}");
        }
    }
}

#[test]
fn strangers_in_the_runtime_directory_are_left_alone() {
    let scratch = scratch();
    let outside = dir_with_mode(scratch.path().join("outside"), 0o700);
    fs::write(outside.join("lock"), "").unwrap();
    fs::write(outside.join("pid"), "").unwrap();
    stale_socket(&outside.join("control.sock"));
    stale_socket(&outside.join("sock"));
    let runtime = runtime_in(&scratch);
    let dir = runtime.path();
    fs::write(dir.join("note"), "").unwrap();
    stale_socket(&dir.join("other.sock"));
    fs::create_dir(dir.join("other")).unwrap();
    fs::write(dir.join("other/lock"), "").unwrap();
    // Named like a broker's, and not.
    fs::write(dir.join("BBBBBBBBBBBBBBBBBBBBBA"), "").unwrap();
    symlink(&outside, dir.join("CCCCCCCCCCCCCCCCCCCCCA")).unwrap();
    // A dead broker's, with links where it had directories, and more than it had.
    let dead = dir_with_mode(dir.join(ID), 0o700);
    symlink(&outside, dead.join("sandbox")).unwrap();
    symlink(outside.join("pid"), dead.join("pid")).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    fs::write(dead.join("control.sock"), "a file, not a socket").unwrap();
    fs::write(dead.join("letter"), "").unwrap();
    let mut before = tree(scratch.path());
    daemon(&runtime);
    let lock = format!("credbroker/{ID}/lock");
    before.retain(|path| *path != lock);
    before.push("credbroker/lock".to_owned());
    before.sort();
    assert_eq!(tree(scratch.path()), before);
}

#[test]
fn sweeping_does_not_touch_a_live_broker() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let live = BrokerDir::create(&runtime, DirName::Random).unwrap();
    let _control = live.bind_control().unwrap();
    let sandbox = live.bind_sandbox(Exposure::Private).unwrap();
    let before = tree(live.path());
    drop(daemon(&runtime));
    assert_eq!(tree(live.path()), before);
    UnixStream::connect(sandbox.path()).unwrap();
}

/// Something that cleans temporary directories may have taken the lock file of a broker that lives.
#[test]
fn sweeping_does_not_touch_a_live_socket_even_if_the_lock_is_gone() {
    for socket in ["control.sock", "sandbox/sock"] {
        let scratch = scratch();
        let runtime = runtime_in(&scratch);
        let dir = dir_with_mode(runtime.path().join(ID), 0o700);
        fs::create_dir(dir.join("sandbox")).unwrap();
        let _listener = UnixListener::bind(dir.join(socket)).unwrap();
        let before = tree(&dir);
        daemon(&runtime);
        assert_eq!(tree(&dir), before);
        UnixStream::connect(dir.join(socket)).unwrap();
    }
}

#[test]
fn a_socket_that_was_replaced_while_the_broker_ran_is_not_unlinked() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let broker = daemon(&runtime);
    let sandbox = broker.bind_sandbox(Exposure::Private).unwrap();
    let path = sandbox.path().to_owned();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(sandbox);
    drop(broker);
    UnixStream::connect(&path).unwrap();
    assert!(runtime.list_live().unwrap().is_empty());
}

#[test]
fn what_is_in_the_way_is_named_and_kept() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let dir = dir_with_mode(runtime.path().join("daemon"), 0o700);
    fs::create_dir(dir.join("sandbox")).unwrap();
    fs::write(dir.join("sandbox/letter"), "").unwrap();
    let error = BrokerDir::create(&runtime, DirName::Daemon).unwrap_err();
    assert_eq!(error.failure(), Failure::Config);
    assert!(
        error.to_string().contains(dir.join("sandbox").to_str().unwrap()),
        "{error}"
    );
    assert_eq!(tree(&dir), ["sandbox", "sandbox/letter"]);
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, "a file").unwrap();
    let error = BrokerDir::create(&runtime, DirName::Daemon).unwrap_err();
    assert!(
        matches!(&error, SocketError::Occupied { path } if *path == dir),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&dir).unwrap(), "a file");
}

#[test]
fn a_directory_left_with_somebody_elses_file_is_used_again() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let dir = dir_with_mode(runtime.path().join("daemon"), 0o755);
    fs::write(dir.join("letter"), "").unwrap();
    let broker = daemon(&runtime);
    assert_eq!(mode_of(&dir), 0o700);
    assert_eq!(id(&broker), "daemon");
    drop(broker);
    assert_eq!(tree(&dir), ["letter"]);
}

#[test]
fn a_lock_on_a_file_that_is_no_longer_there_excludes_nobody_and_is_taken_anew() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let path = runtime.path().join("lock");
    let removed = File::create(&path).unwrap();
    removed.lock().unwrap();
    thread::scope(|scope| {
        let start = scope.spawn(|| daemon(&runtime));
        thread::sleep(Duration::from_millis(200));
        fs::remove_file(&path).unwrap();
        let current = File::create(&path).unwrap();
        current.lock().unwrap();
        drop(removed);
        thread::sleep(Duration::from_millis(200));
        assert!(!start.is_finished());
        drop(current);
        start.join().unwrap();
    });
}

#[test]
fn nobody_waits_for_a_lock_without_end() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let lock = File::create(runtime.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let error = BrokerDir::create(&runtime, DirName::Random).unwrap_err();
    assert_eq!(error.failure(), Failure::Busy);
    assert!(
        error
            .to_string()
            .contains(runtime.path().join("lock").to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_runtime_directory_whose_path_is_too_long_is_refused_before_anything_is_made() {
    let scratch = scratch();
    let long = scratch.path().join("x".repeat(60));
    let runtime = RuntimeDir::open(&long).unwrap();
    let error = BrokerDir::create(&runtime, DirName::Random).unwrap_err();
    assert_eq!(error.failure(), Failure::Config);
    assert!(error.to_string().contains("XDG_RUNTIME_DIR"), "{error}");
    assert_eq!(tree(runtime.path()), [""; 0]);
}
