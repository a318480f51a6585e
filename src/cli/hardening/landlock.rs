//! Files: what a broker does not need it cannot open, whatever its user may.

#[cfg(target_os = "linux")]
use ::landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use super::{
    Outcome,
    paths::{Access, Paths, Rule},
};

/// What is known here. A newer kernel is asked for no more than this; an older one for what it has.
#[cfg(target_os = "linux")]
const KNOWN: ABI = ABI::V6;

#[cfg(target_os = "linux")]
fn rights(access: Access) -> BitFlags<AccessFs> {
    match access {
        Access::Read => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
        Access::Device => make_bitflags!(AccessFs::{ReadFile | WriteFile}),
        Access::Socket => make_bitflags!(AccessFs::{ReadDir | MakeSock | RemoveFile}),
        Access::Own => make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | MakeSock | RemoveFile | RemoveDir | Refer
        }),
    }
}

/// Leaves this thread these files and no other. It also sends no signal to a process that it did not start, and reaches no
/// abstract socket.
#[cfg(target_os = "linux")]
pub(super) fn restrict(paths: &Paths) -> Outcome {
    let applied = apply(paths).map_err(|error| error.to_string())?;
    let version = match applied.landlock {
        LandlockStatus::NotEnabled => return Err("the kernel has it, switched off: add landlock to lsm=".to_owned()),
        LandlockStatus::NotImplemented => return Err("the kernel does not have it".to_owned()),
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
            ..
        } => kernel_abi.unwrap_or(effective_abi as i32),
    };
    match applied.ruleset {
        RulesetStatus::NotEnforced => Err(format!("version {version} of the kernel's enforces nothing")),
        RulesetStatus::PartiallyEnforced => Ok(format!("in part: the kernel has version {version}")),
        RulesetStatus::FullyEnforced => Ok(format!("the kernel has version {version}")),
    }
}

#[cfg(target_os = "linux")]
fn apply(paths: &Paths) -> Result<::landlock::RestrictionStatus, RulesetError> {
    let mut scope = BitFlags::from(Scope::Signal);
    // A service manager may listen there.
    if !paths.abstract_sockets {
        scope |= Scope::AbstractUnixSocket;
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(scope)?
        .create()?;
    for Rule { path, access } in paths.rules() {
        // What is not there now cannot be named; whoever made the list has made what is needed.
        let Ok(file) = PathFd::new(path) else { continue };
        let mut rights = rights(*access);
        if !path.is_dir() {
            rights &= AccessFs::from_file(KNOWN);
        }
        ruleset = ruleset.add_rule(PathBeneath::new(file, rights))?;
    }
    ruleset.restrict_self()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn restrict(_: &Paths) -> Outcome {
    Err("only Linux has it".to_owned())
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind, os::unix::net::UnixListener, process::Command, thread};

    use tempfile::TempDir;

    use super::*;

    /// Everything is tried on a thread that is restricted, and ends with it.
    fn restricted<T: Send + 'static>(paths: Paths, tries: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let outcome = thread::spawn(move || restrict(&paths).map(|_version| tries()))
            .join()
            .unwrap();
        #[expect(clippy::disallowed_methods, reason = "a word from .ci/run to the tests")]
        let insists = std::env::var_os("INSIST_ON_EVERY_TEST").is_some();
        assert!(outcome.is_ok() || !insists, "{:?}", outcome.err());
        outcome.ok()
    }

    #[test]
    fn nothing_can_be_opened_but_what_is_named() {
        let dirs: [TempDir; 4] = std::array::from_fn(|_| TempDir::new().unwrap());
        let [own, read, socket, other] = dirs.each_ref().map(|dir| dir.path().to_owned());
        for dir in [&own, &read, &other] {
            fs::write(dir.join("there"), "x").unwrap();
        }
        let paths = Paths::of(&[
            (&own, Access::Own),
            (&read, Access::Read),
            (&socket, Access::Socket),
            ("/dev/null".as_ref(), Access::Device),
        ]);
        let denied = |tried: std::io::Result<()>| tried.unwrap_err().kind() == ErrorKind::PermissionDenied;
        restricted(paths, move || {
            let write = |path: &std::path::Path| fs::write(path, "x");
            let read_there = |dir: &std::path::Path| fs::read(dir.join("there")).map(drop);
            // What is needed.
            write(&own.join("new")).unwrap();
            fs::rename(own.join("new"), own.join("newer")).unwrap();
            fs::create_dir(own.join("dir")).unwrap();
            fs::rename(own.join("newer"), own.join("dir/newer")).unwrap();
            fs::remove_file(own.join("dir/newer")).unwrap();
            read_there(&own).unwrap();
            read_there(&read).unwrap();
            write("/dev/null".as_ref()).unwrap();
            drop(UnixListener::bind(socket.join("sock")).unwrap());
            fs::remove_file(socket.join("sock")).unwrap();
            // What is not.
            assert!(denied(write(&read.join("there"))) && denied(write(&read.join("new"))));
            assert!(denied(read_there(&other)) && denied(fs::read_dir(&other).map(drop)));
            assert!(denied(write(&other.join("new"))) && denied(write(&socket.join("file"))));
            assert!(denied(fs::remove_file(other.join("there"))));
            assert!(denied(UnixListener::bind(other.join("sock")).map(drop)));
            // It is known to be there, and is not executed.
            assert!(denied(Command::new("/bin/sh").args(["-c", ":"]).status().map(drop)));
        });
    }

    #[test]
    fn abstract_sockets_are_reached_only_where_somebody_has_to_be_told() {
        use std::os::{
            linux::net::SocketAddrExt as _,
            unix::net::{SocketAddr, UnixStream},
        };
        let name = format!("credbroker-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        for told in [false, true] {
            let address = address.clone();
            let mut paths = Paths::of(&[]);
            paths.abstract_sockets = told;
            let reached = restricted(paths, move || UnixStream::connect_addr(&address).is_ok());
            assert!(reached.is_none_or(|reached| reached == told), "{told}");
        }
    }
}
