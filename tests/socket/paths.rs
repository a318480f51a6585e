//! `--socket PATH`: which paths are refused, what is replaced, and what is never touched.

use std::{
    fs,
    os::unix::{
        fs::symlink,
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use credbroker::server::socket::{BoundSocket, BrokerDir, DirName, DirRole, Failure, Flaw, PATH_LIMIT, SocketError};
use tempfile::TempDir;

use crate::fixture::{dir_with_mode, foreign_dir, mode_of, own_pid, own_uid, runtime_in, scratch, stale_socket, tree};

/// A broker, and a directory for a socket that is not in its own.
struct Host {
    scratch: TempDir,
    broker: BrokerDir,
    dir: PathBuf,
}

impl Host {
    fn new() -> Self {
        let scratch = scratch();
        let broker = BrokerDir::create(&runtime_in(&scratch), DirName::Random).unwrap();
        let dir = dir_with_mode(scratch.path().join("d"), 0o755);
        Self { scratch, broker, dir }
    }

    fn bind(&self, path: &Path) -> Result<BoundSocket, SocketError> {
        self.broker.bind_at(path, 0o600)
    }

    fn sock(&self) -> PathBuf {
        self.dir.join("s")
    }
}

fn refused(host: &Host, path: &Path, failure: Failure) -> String {
    let error = host.bind(path).unwrap_err();
    assert_eq!(error.failure(), failure, "{error}");
    error.to_string()
}

#[test]
fn the_socket_is_made_and_removed_and_its_directory_is_left_as_it_is() {
    for mode in [0o700, 0o755, 0o1711] {
        let host = Host::new();
        let dir = dir_with_mode(host.scratch.path().join("other"), mode);
        let bound = host.bind(&dir.join("s")).unwrap();
        assert_eq!(mode_of(bound.path()), 0o600);
        assert_eq!(tree(&dir), ["s"]);
        UnixStream::connect(bound.path()).unwrap();
        drop(bound);
        assert_eq!(tree(&dir), [""; 0]);
        assert_eq!(mode_of(&dir), mode);
    }
}

#[test]
fn the_mode_is_what_was_asked_for() {
    for mode in [0o600, 0o660, 0o666, 0o777] {
        let host = Host::new();
        let bound = host.broker.bind_at(&host.sock(), mode).unwrap();
        assert_eq!(mode_of(bound.path()), mode);
    }
    let host = Host::new();
    for mode in [0o1600, 0o4777, 0o200_600] {
        let error = host.broker.bind_at(&host.sock(), mode).unwrap_err();
        assert_eq!(error.failure(), Failure::Usage, "{error}");
        assert!(!host.sock().exists());
    }
}

#[test]
fn a_path_that_is_not_absolute_or_names_no_file_is_refused() {
    let host = Host::new();
    for path in ["s", "./s", "", "/", "/tmp/.."] {
        let message = refused(&host, Path::new(path), Failure::Usage);
        assert!(message.contains("absolute"), "{message}");
    }
}

#[test]
fn the_longest_path_binds_and_one_byte_more_is_refused_with_the_limit_and_the_way_out() {
    let host = Host::new();
    let room = PATH_LIMIT - host.dir.as_os_str().len() - 1;
    let longest = host.dir.join("x".repeat(room));
    UnixStream::connect(host.bind(&longest).unwrap().path()).unwrap();
    for length in [PATH_LIMIT + 1, 120] {
        let path = host.dir.join("x".repeat(length - host.dir.as_os_str().len() - 1));
        let message = refused(&host, &path, Failure::Usage);
        for part in [
            PATH_LIMIT.to_string(),
            length.to_string(),
            "shorter --socket".to_owned(),
        ] {
            assert!(message.contains(&part), "{message}");
        }
    }
    assert_eq!(tree(&host.dir), [""; 0]);
}

#[test]
fn a_directory_that_somebody_else_could_change_is_refused() {
    let host = Host::new();
    let link = host.scratch.path().join("link");
    symlink(&host.dir, &link).unwrap();
    let file = host.scratch.path().join("file");
    fs::write(&file, "").unwrap();
    let (foreign, uid) = foreign_dir(&host.scratch);
    let mode = |mode: u32| dir_with_mode(host.scratch.path().join(format!("{mode:o}")), mode);
    let cases = [
        (link, "is a symbolic link"),
        (file, "is not a directory"),
        (foreign, &format!("is owned by uid {uid}, not {}", own_uid())),
        (mode(0o770), "chmod go-w"),
        (mode(0o702), "chmod go-w"),
        (mode(0o1777), "chmod go-w"),
    ];
    for (dir, says) in cases {
        let message = refused(&host, &dir.join("s"), Failure::Config);
        assert!(message.contains(says), "{message}");
        assert!(!dir.join("s").exists());
    }
}

#[test]
fn a_missing_directory_is_named_and_not_created() {
    let host = Host::new();
    let dir = host.scratch.path().join("gone");
    let error = host.bind(&dir.join("s")).unwrap_err();
    assert!(matches!(&error, SocketError::Missing { path, role: DirRole::SocketParent } if *path == dir));
    assert_eq!(error.failure(), Failure::Usage);
    assert!(!dir.exists());
}

#[test]
fn a_stale_socket_is_replaced() {
    let host = Host::new();
    stale_socket(&host.sock());
    let bound = host.bind(&host.sock()).unwrap();
    UnixStream::connect(bound.path()).unwrap();
}

#[test]
fn a_live_socket_is_never_unlinked() {
    let host = Host::new();
    let live = UnixListener::bind(host.sock()).unwrap();
    let message = refused(&host, &host.sock(), Failure::InUse);
    assert!(message.contains("already in use by a running broker"), "{message}");
    if cfg!(target_os = "linux") {
        assert!(message.contains(&format!("pid {}", own_pid())), "{message}");
    }
    live.set_nonblocking(true).unwrap();
    while live.accept().is_ok() {}
    let _client = UnixStream::connect(host.sock()).unwrap();
    live.accept().unwrap();
}

#[test]
fn a_live_socket_whose_queue_is_full_is_never_unlinked() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let host = Host::new();
    let live = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&live, &SocketAddrUnix::new(host.sock()).unwrap()).unwrap();
    listen(&live, 0).unwrap();
    let _first = UnixStream::connect(host.sock()).unwrap();
    refused(&host, &host.sock(), Failure::InUse);
    assert!(host.sock().exists());
}

#[test]
fn a_socket_of_another_kind_is_refused_because_it_cannot_be_told_whether_it_is_used() {
    let host = Host::new();
    let _live = UnixDatagram::bind(host.sock()).unwrap();
    let message = refused(&host, &host.sock(), Failure::InUse);
    assert!(message.contains("cannot tell"), "{message}");
    assert!(host.sock().exists());
}

#[test]
fn what_is_not_a_socket_is_kept() {
    let host = Host::new();
    let file = host.dir.join("file");
    fs::write(&file, "dear diary").unwrap();
    let dir = dir_with_mode(host.dir.join("dir"), 0o700);
    let dangling = host.dir.join("dangling");
    symlink("/nowhere/at/all", &dangling).unwrap();
    stale_socket(&host.dir.join("stale"));
    let to_stale = host.dir.join("to-stale");
    symlink(host.dir.join("stale"), &to_stale).unwrap();
    let before = tree(&host.dir);
    for path in [&file, &dir, &dangling, &to_stale] {
        let message = refused(&host, path, Failure::Usage);
        assert!(message.contains("is not a socket"), "{message}");
    }
    assert_eq!(tree(&host.dir), before);
    assert_eq!(fs::read_to_string(file).unwrap(), "dear diary");
}

#[test]
fn a_path_that_was_replaced_while_the_broker_ran_is_not_unlinked() {
    let host = Host::new();
    let bound = host.bind(&host.sock()).unwrap();
    fs::remove_file(host.sock()).unwrap();
    fs::write(host.sock(), "somebody else's").unwrap();
    drop(bound);
    assert_eq!(fs::read_to_string(host.sock()).unwrap(), "somebody else's");
}

/// Once its listener is closed a path is stale, and file systems give its inode's number to the next socket at once.
#[test]
fn a_successors_socket_is_not_unlinked_by_a_broker_that_ends_late() {
    let host = Host::new();
    let successor = BrokerDir::create(&runtime_in(&host.scratch), DirName::Random).unwrap();
    let (listener, guard) = host.bind(&host.sock()).unwrap().into_parts();
    drop(listener);
    let bound = successor.bind_at(&host.sock(), 0o600).unwrap();
    drop(guard);
    UnixStream::connect(bound.path()).unwrap();
}

#[test]
fn a_path_that_is_gone_already_is_no_trouble() {
    let host = Host::new();
    let bound = host.bind(&host.sock()).unwrap();
    fs::remove_dir_all(&host.dir).unwrap();
    drop(bound);
    assert!(!host.dir.exists());
}

#[test]
fn the_runtime_directory_itself_is_a_good_place_for_a_socket() {
    let host = Host::new();
    let path = host.scratch.path().join("credbroker/my.sock");
    let bound = host.bind(&path).unwrap();
    let beside = BrokerDir::create(&runtime_in(&host.scratch), DirName::Daemon).unwrap();
    drop(beside);
    UnixStream::connect(bound.path()).unwrap();
}

#[test]
fn a_directory_given_through_dots_is_judged_as_what_it_is() {
    let host = Host::new();
    let bound = host.bind(&host.dir.join("../d/./s")).unwrap();
    UnixStream::connect(bound.path()).unwrap();
    drop(bound);
    let open = dir_with_mode(host.scratch.path().join("open"), 0o777);
    let error = host.bind(&open.join("./s")).unwrap_err();
    assert!(matches!(
        error,
        SocketError::Unsafe {
            flaw: Flaw::Mode { .. },
            ..
        }
    ));
}
