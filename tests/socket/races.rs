//! Two brokers that want one thing at once.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::{fs::MetadataExt, net::UnixStream},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use credbroker::server::socket::{BrokerDir, DirName, Exposure, Failure, RuntimeDir};

use crate::fixture::{Process, Script, dir_with_mode, runtime_in, scratch, stale_socket, tree};

const ROUNDS: usize = 25;
const BROKERS: usize = 4;

#[test]
fn of_threads_with_one_path_and_different_runtime_directories_exactly_one_wins() {
    for _ in 0..ROUNDS {
        let scratch = scratch();
        let dir = dir_with_mode(scratch.path().join("d"), 0o755);
        let path = dir.join("s");
        stale_socket(&path);
        let brokers: Vec<_> = (0..BROKERS)
            .map(|n| {
                let runtime = RuntimeDir::open(&scratch.path().join(n.to_string())).unwrap();
                BrokerDir::create(&runtime, DirName::Random).unwrap()
            })
            .collect();
        let barrier = Barrier::new(BROKERS);
        let results: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = brokers
                .iter()
                .map(|broker| {
                    scope.spawn(|| {
                        barrier.wait();
                        broker.bind_at(&path, 0o600)
                    })
                })
                .collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert_eq!(errors.len(), BROKERS - 1, "{errors:?}");
        for error in errors {
            assert_eq!(error.failure(), Failure::InUse, "{error}");
        }
        UnixStream::connect(&path).unwrap();
        drop(results);
        assert_eq!(tree(&dir), [""; 0]);
    }
}

#[test]
fn of_threads_that_want_to_be_the_daemon_exactly_one_wins() {
    for _ in 0..ROUNDS {
        let scratch = scratch();
        let runtime = runtime_in(&scratch);
        let barrier = Barrier::new(BROKERS);
        let results: Vec<_> = thread::scope(|scope| {
            let start = || {
                barrier.wait();
                let broker = BrokerDir::create(&runtime, DirName::Daemon)?;
                broker.bind_sandbox(Exposure::Private)
            };
            let starts: Vec<_> = (0..BROKERS).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert_eq!(errors.len(), BROKERS - 1, "{errors:?}");
        for error in errors {
            assert_eq!(error.failure(), Failure::InUse, "{error}");
        }
        UnixStream::connect(runtime.path().join("daemon/sandbox/sock")).unwrap();
        drop(results);
        assert_eq!(tree(runtime.path()), ["lock"]);
    }
}

#[test]
fn of_processes_with_one_path_exactly_one_wins_also_after_a_crash() {
    for daemon in [false, true] {
        let scratch = scratch();
        let dir = dir_with_mode(scratch.path().join("d"), 0o755);
        let script = |n: usize| Script {
            // One path, and either a runtime directory each or the one daemon's place.
            runtime: scratch.path().join(if daemon { "r".to_owned() } else { n.to_string() }),
            daemon,
            socket: (!daemon).then(|| dir.join("s")),
            ..Script::default()
        };
        for _ in 0..4 {
            let mut processes: Vec<_> = (0..BROKERS).map(|n| Process::spawn(&script(n))).collect();
            for process in &mut processes {
                process.go();
            }
            let outcomes: Vec<_> = processes.iter_mut().map(Process::outcome).collect();
            let won: Vec<_> = (0..BROKERS).filter(|n| outcomes[*n] == "ok").collect();
            assert_eq!(won.len(), 1, "{outcomes:?}");
            let winner = processes.remove(won[0]);
            let pid = format!("(pid {})", winner.child.id());
            for outcome in outcomes.iter().filter(|outcome| *outcome != "ok") {
                assert!(outcome.starts_with("InUse: "), "{outcome}");
                assert!(outcome.contains(&pid), "{outcome}");
            }
            processes.into_iter().for_each(Process::end);
            // The next round finds what this one left.
            winner.kill();
        }
        Process::started(&script(0)).end();
        if daemon {
            assert_eq!(tree(&scratch.path().join("r")), ["lock"]);
        }
        assert_eq!(tree(&dir), [""; 0]);
    }
}

/// The lock of the directory is what keeps apart brokers with different runtime directories.
#[test]
fn a_path_is_probed_and_bound_only_with_its_directorys_lock() {
    let scratch = scratch();
    let broker = BrokerDir::create(&runtime_in(&scratch), DirName::Random).unwrap();
    let dir = dir_with_mode(scratch.path().join("d"), 0o755);
    let path = dir.join("s");
    stale_socket(&path);
    let lock = File::open(&dir).unwrap();
    lock.lock().unwrap();
    let bound = thread::scope(|scope| {
        let start = scope.spawn(|| broker.bind_at(&path, 0o600).unwrap());
        thread::sleep(Duration::from_millis(200));
        assert!(!start.is_finished());
        UnixStream::connect(&path).unwrap_err();
        lock.unlock().unwrap();
        start.join().unwrap()
    });
    // It is not kept: others may have something to do in that directory.
    lock.try_lock().unwrap();
    thread::scope(|scope| {
        let end = scope.spawn(move || drop(bound));
        thread::sleep(Duration::from_millis(200));
        assert!(!end.is_finished());
        assert!(path.exists());
        lock.unlock().unwrap();
        end.join().unwrap();
    });
    assert!(!path.exists());
}

#[test]
fn a_failed_bind_lets_go_of_the_directorys_lock() {
    let scratch = scratch();
    let broker = BrokerDir::create(&runtime_in(&scratch), DirName::Random).unwrap();
    let dir = dir_with_mode(scratch.path().join("d"), 0o755);
    fs::write(dir.join("s"), "").unwrap();
    broker.bind_at(&dir.join("s"), 0o600).unwrap_err();
    File::open(&dir).unwrap().try_lock().unwrap();
}

/// A connect looks at the mode before it looks whether anybody listens, so a mode that is mended later is too late.
#[cfg(target_os = "linux")]
#[test]
fn a_socket_never_has_a_wider_mode_than_asked_for() {
    const SOCKETS: usize = 1000;
    let scratch = scratch();
    let broker = BrokerDir::create(&runtime_in(&scratch), DirName::Random).unwrap();
    let path = dir_with_mode(scratch.path().join("d"), 0o755).join("s");
    let done = AtomicBool::new(false);
    let modes_seen = || {
        let mut seen = BTreeSet::new();
        while !done.load(Ordering::Relaxed) {
            if let Ok(found) = fs::symlink_metadata(&path) {
                seen.insert(found.mode() & 0o777);
            }
        }
        seen
    };
    thread::scope(|scope| {
        let watch = scope.spawn(modes_seen);
        let bound = (0..SOCKETS).try_for_each(|_| broker.bind_at(&path, 0o600).map(drop));
        done.store(true, Ordering::Relaxed);
        bound.unwrap();
        let seen = watch.join().unwrap();
        assert!(seen.contains(&0o600), "the socket was never seen: {seen:?}");
        assert!(seen.iter().all(|mode| mode & !0o600 == 0), "{seen:?}");
    });
}

/// Runs `work` while `lock` is held, and expects that it waits until the lock is free.
fn expect_to_wait<T: Send>(lock: &File, what: &str, work: impl FnOnce() -> T + Send) -> T {
    lock.lock().unwrap();
    thread::scope(|scope| {
        let work = scope.spawn(work);
        thread::sleep(Duration::from_millis(100));
        let waited = !work.is_finished();
        lock.unlock().unwrap();
        let result = work.join().unwrap();
        assert!(waited, "{what} did not wait");
        result
    })
}

#[test]
fn whatever_creates_probes_binds_or_removes_waits_for_the_runtime_directorys_lock() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    let path = scratch.path().join("s");
    let lock = File::create(runtime.path().join("lock")).unwrap();
    let create = || BrokerDir::create(&runtime, DirName::Random).unwrap();
    let broker = expect_to_wait(&lock, "create", create);
    let control = expect_to_wait(&lock, "bind_control", || broker.bind_control().unwrap());
    let sandbox = || broker.bind_sandbox(Exposure::Private).unwrap();
    let sandbox = expect_to_wait(&lock, "bind_sandbox", sandbox);
    let at = expect_to_wait(&lock, "bind_at", || broker.bind_at(&path, 0o600).unwrap());
    expect_to_wait(&lock, "list_live", || runtime.list_live().unwrap());
    drop((control, sandbox, at));
    expect_to_wait(&lock, "the end", move || drop(broker));
    assert_eq!(tree(runtime.path()), ["lock"]);
}
