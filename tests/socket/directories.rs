//! Where the runtime directory is, and which directories are refused.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use credbroker::server::socket::{DirRole, Failure, Flaw, RuntimeDir, SocketError};

use crate::fixture::{
    NOBODY, Process, Script, dir_with_mode, foreign_dir, mode_of, own_uid, runtime_in, scratch, set_mode,
};

fn flaw(path: &Path) -> (Flaw, String) {
    let error = RuntimeDir::open(path).unwrap_err();
    assert_eq!(error.failure(), Failure::Config);
    let message = error.to_string();
    let SocketError::Unsafe {
        path: named,
        role: DirRole::Runtime,
        flaw,
    } = error
    else {
        panic!("{message}");
    };
    assert_eq!(named, path);
    (flaw, message)
}

#[test]
fn an_absolute_xdg_runtime_dir_is_where_the_runtime_directory_is() {
    let located = RuntimeDir::locate(Some(Path::new("/run/user/7")), Path::new("/nowhere"), 7).unwrap();
    assert_eq!(located, Path::new("/run/user/7/credbroker"));
}

#[test]
fn without_a_usable_xdg_runtime_dir_it_is_in_the_real_temporary_directory() {
    let scratch = scratch();
    let real = dir_with_mode(scratch.path().join("real"), 0o700);
    let link = scratch.path().join("link");
    symlink(&real, &link).unwrap();
    let expected = fs::canonicalize(&real).unwrap().join("cb-7");
    for xdg in [None, Some(""), Some("relative/dir")] {
        assert_eq!(
            RuntimeDir::locate(xdg.map(Path::new), &link, 7).unwrap(),
            expected,
            "{xdg:?}"
        );
    }
}

#[test]
fn a_missing_temporary_directory_is_named() {
    let error = RuntimeDir::locate(None, Path::new("/nowhere/tmp"), 7).unwrap_err();
    assert_eq!(error.failure(), Failure::Config);
    assert!(error.to_string().contains("/nowhere/tmp") && error.to_string().contains("TMPDIR"));
}

#[test]
fn a_missing_xdg_runtime_dir_is_named_and_not_created() {
    let scratch = scratch();
    let xdg = scratch.path().join("gone");
    let error = RuntimeDir::open(&RuntimeDir::locate(Some(&xdg), Path::new("/tmp"), 7).unwrap()).unwrap_err();
    assert_eq!(error.failure(), Failure::Config);
    let message = error.to_string();
    assert!(
        message.contains(&format!("{} does not exist", xdg.display())),
        "{message}"
    );
    assert!(message.contains("XDG_RUNTIME_DIR"), "{message}");
    assert!(!xdg.exists());
}

#[test]
fn it_is_created_with_mode_0700_and_may_be_there_already() {
    let scratch = scratch();
    let runtime = runtime_in(&scratch);
    assert_eq!(mode_of(runtime.path()), 0o700);
    runtime_in(&scratch);
}

#[test]
fn whoever_only_looks_creates_nothing() {
    let scratch = scratch();
    let path = scratch.path().join("credbroker");
    assert!(RuntimeDir::open_existing(&path).unwrap().is_none());
    assert!(!path.exists());
    runtime_in(&scratch);
    assert!(RuntimeDir::open_existing(&path).unwrap().is_some());
    set_mode(&path, 0o755);
    assert!(matches!(
        RuntimeDir::open_existing(&path),
        Err(SocketError::Unsafe { .. })
    ));
}

#[test]
fn a_symbolic_link_is_refused_wherever_it_leads() {
    let scratch = scratch();
    let real = dir_with_mode(scratch.path().join("real"), 0o700);
    for target in [real.as_path(), Path::new("/nowhere")] {
        let link = scratch.path().join("credbroker");
        symlink(target, &link).unwrap();
        let (flaw, message) = flaw(&link);
        assert_eq!(flaw, Flaw::Symlink);
        assert!(message.contains("is a symbolic link"), "{message}");
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn a_file_is_refused() {
    let scratch = scratch();
    let path = scratch.path().join("credbroker");
    fs::write(&path, "").unwrap();
    assert_eq!(flaw(&path).0, Flaw::NotADirectory);
}

#[test]
fn another_users_directory_is_refused() {
    let scratch = scratch();
    let (path, uid) = foreign_dir(&scratch);
    let (flaw, message) = flaw(&path);
    assert_eq!(
        flaw,
        Flaw::Owner {
            found: uid,
            own: own_uid()
        }
    );
    assert!(
        message.contains(&format!("is owned by uid {uid}, not {}", own_uid())),
        "{message}"
    );
}

#[test]
fn a_directory_that_others_can_enter_or_the_owner_cannot_is_refused_and_left_as_it_is() {
    let scratch = scratch();
    for mode in [0o770, 0o720, 0o701, 0o704, 0o755, 0o777, 0o600, 0o500] {
        let path = dir_with_mode(scratch.path().join(format!("{mode:o}")), mode);
        let (flaw, message) = flaw(&path);
        assert!(matches!(flaw, Flaw::Mode { .. }));
        assert!(message.ends_with(&format!("chmod 700 {}", path.display())), "{message}");
        assert!(message.contains(&format!("{mode:04o}")), "{message}");
        assert_eq!(mode_of(&path), mode);
    }
}

/// Root is never kept out of a directory of mode 0000, so the second round runs as somebody else.
#[test]
fn any_umask_gives_the_same_modes() {
    for uid in [own_uid(), if own_uid() == 0 { NOBODY } else { own_uid() }] {
        for umask in [0o000, 0o022, 0o077, 0o777] {
            let scratch = scratch();
            set_mode(scratch.path(), 0o755);
            let home = dir_with_mode(scratch.path().join("home"), 0o700);
            std::os::unix::fs::chown(&home, Some(uid), Some(uid)).unwrap();
            let runtime = home.join("credbroker");
            let socket = home.join("sock");
            for socket in [None, Some(socket)] {
                let process = Process::started(&Script {
                    runtime: runtime.clone(),
                    daemon: true,
                    socket: socket.clone(),
                    umask: Some(umask),
                    uid: Some(uid),
                });
                let mode = |name: &str| mode_of(&runtime.join(name));
                let label = format!("uid {uid}, umask {umask:04o}");
                assert_eq!(mode(""), 0o700, "{label}");
                assert_eq!(mode("lock"), 0o600, "{label}");
                assert_eq!(mode("daemon"), 0o700, "{label}");
                assert_eq!(mode("daemon/lock"), 0o600, "{label}");
                assert_eq!(mode("daemon/pid"), 0o600, "{label}");
                assert_eq!(mode("daemon/sandbox"), 0o700, "{label}");
                assert_eq!(mode("daemon/control.sock"), 0o600, "{label}");
                let sock: PathBuf = socket.unwrap_or(runtime.join("daemon/sandbox/sock"));
                assert_eq!(mode_of(&sock), 0o600, "{label}");
                process.end();
                assert!(!sock.exists());
            }
        }
    }
}
