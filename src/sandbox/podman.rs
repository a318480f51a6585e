//! A container of podman. Run by root it has the host's uids; run by anybody else it has a user namespace around all
//! containers, in which uid 0 is the user and the others are those of `/etc/subuid`.

use std::{ffi::OsStr, path::PathBuf};

use super::{
    Broker, CommandLine, Host, Request, Sandbox, SandboxError, container,
    users::{IdMap, Mapping, User, Userns, Users, with_user},
};

/// What podman's containers depend on.
#[derive(Debug, Clone, Default)]
pub struct PodmanHost {
    /// What the uids that podman itself sees stand for on the host, if podman was asked: see [`asks_for_subordinates`].
    pub subordinates: Option<Vec<IdMap>>,
    /// A program that can be process 1 of a container, passes signals on to the command, and ends as it does, also if it is not
    /// found. (podman's own choice, catatonit, ends with 1 then.)
    pub init: Option<PathBuf>,
    /// Whether the host's SELinux keeps containers from the sockets and files of its users.
    pub selinux: bool,
}

/// Whether podman has to be asked which uids it has for containers.
#[must_use]
pub fn asks_for_subordinates(request: &Request, uid: u32) -> bool {
    uid != 0 && (request.user.is_some() || !request.uidmap.is_empty() || request.userns == Some(Userns::NoMap))
}

/// Container root; as the host sees it, the user who runs podman.
const ROOT: User = User { uid: 0, gid: Some(0) };
const CHOOSE: &str = "choose another --user, --uidmap or --userns";

pub(super) fn users(request: &Request, host: &Host, about: &PodmanHost) -> Result<Users, SandboxError> {
    if !request.uidmap.is_empty() && request.userns.is_some() {
        return Err(SandboxError::TwoMappings);
    }
    let rootless = host.uid != 0;
    let outer = match (&about.subordinates, rootless) {
        (_, false) => Mapping::identity(),
        (Some(maps), true) => Mapping(maps.clone()),
        // Then nobody but the user is meant.
        (None, true) => Mapping(vec![IdMap {
            inside: 0,
            outside: host.uid,
            size: 1,
        }]),
    };
    let subordinate = rootless && about.subordinates.as_ref().is_some_and(|maps| maps.len() < 2);
    if !request.uidmap.is_empty() {
        let to_host = Mapping(request.uidmap.clone()).then(&outer);
        let mut users = with_user(request.user.unwrap_or(ROOT), &to_host, CHOOSE)?;
        let maps = request
            .uidmap
            .iter()
            .map(|map| ["--uidmap".to_owned(), map.to_string()]);
        users.arguments.extend(maps);
        users.host = to_host.all_outside();
        return Ok(users);
    }
    let (inner, usual) = match request.userns {
        None | Some(Userns::Host) => (Mapping::identity(), ROOT),
        Some(Userns::KeepId(_) | Userns::NoMap) if !rootless => {
            return Err(SandboxError::NotForRuntime {
                flag: "--userns keep-id or nomap",
                runtime: request.runtime,
                mend: "they are for podman that is not run by root; use --user or --uidmap",
            });
        }
        Some(Userns::KeepId(kept)) => {
            let kept = kept.unwrap_or(User {
                uid: host.uid,
                gid: Some(host.gid),
            });
            (keep_id(kept.uid), kept)
        }
        Some(Userns::NoMap) => (Mapping(vec![map(0, 1, u32::MAX - 1)]), ROOT),
    };
    let user = request.user.unwrap_or(usual);
    let users = with_user(user, &inner.then(&outer), CHOOSE);
    let mut users = match users {
        Err(_) if subordinate => return Err(SandboxError::NoSubordinates),
        users => users?,
    };
    if let Some(userns) = request.userns {
        users.arguments.push(["--userns".to_owned(), userns.to_string()]);
    }
    Ok(users)
}

/// Uid 0 of podman's own namespace, the user, is `uid` inside; the others close ranks.
fn keep_id(uid: u32) -> Mapping {
    let mut maps = vec![map(uid, 0, 1), map(uid + 1, uid + 1, u32::MAX - 1 - uid)];
    if uid > 0 {
        maps.push(map(0, 1, uid));
    }
    Mapping(maps)
}

fn map(inside: u32, outside: u32, size: u32) -> IdMap {
    IdMap { inside, outside, size }
}

pub(super) fn command_line(sandbox: &Sandbox, about: &PodmanHost, broker: &Broker) -> CommandLine {
    let mut line = container::begin(sandbox, broker, about.selinux);
    if let Some(init) = &about.init {
        line.add(["--init"]);
        line.add([OsStr::new("--init-path"), init.as_os_str()]);
    }
    // Else it passes the host's proxies on, with the passwords that may be in them.
    line.add(["--http-proxy=false"]);
    container::end(sandbox, broker, &mut line);
    line
}
