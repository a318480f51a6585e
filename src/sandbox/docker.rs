//! A container of docker. Its daemon decides what a uid inside is on the host: itself, unless the daemon is somebody's own
//! (rootless) or maps the users of all containers (userns-remap).

use super::{
    Broker, CommandLine, Host, Request, Sandbox, SandboxError, container,
    users::{User, Userns, Users},
};

/// What docker's containers depend on.
#[derive(Debug, Clone, Default)]
pub struct DockerHost {
    /// What uids inside are.
    pub daemon: Daemon,
    /// Whether the host's SELinux keeps containers from the sockets and files of its users.
    pub selinux: bool,
}

/// Whose the daemon is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Daemon {
    /// Root's, and uids inside are those of the host.
    #[default]
    Plain,
    /// The user's own: uid 0 inside is the user.
    Rootless,
    /// Root's, and it maps the users of containers that do not say otherwise.
    Remapping,
}

impl Daemon {
    /// From the security options that `docker info` names.
    #[must_use]
    pub fn from_security_options<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let named = |option: &str, name: &str| option.split(',').any(|word| word == name);
        options.into_iter().fold(Self::Plain, |found, option| match found {
            _ if named(option, "name=rootless") => Self::Rootless,
            Self::Plain if named(option, "name=userns") => Self::Remapping,
            found => found,
        })
    }
}

pub(super) fn users(request: &Request, host: &Host, about: &DockerHost) -> Result<Users, SandboxError> {
    let refused = |flag, mend| {
        Err(SandboxError::NotForRuntime {
            flag,
            runtime: request.runtime,
            mend,
        })
    };
    if !request.uidmap.is_empty() {
        return refused("--uidmap", "its daemon maps users; use --user, or --sandbox podman");
    }
    if matches!(request.userns, Some(Userns::KeepId(_) | Userns::NoMap)) {
        return refused("--userns keep-id or nomap", "docker has host only; use --user");
    }
    let mut users = match (about.daemon, request.user) {
        (Daemon::Remapping, _) if request.userns.is_none() => return Err(SandboxError::Remapped),
        (Daemon::Plain | Daemon::Remapping, user) => {
            let own = User {
                uid: host.uid,
                gid: Some(host.gid),
            };
            let user = user.unwrap_or(own);
            Users::single(user, user.uid)
        }
        (Daemon::Rootless, None) => Users::single(User { uid: 0, gid: Some(0) }, host.uid),
        (Daemon::Rootless, Some(user)) if user.uid == 0 => Users::single(user, host.uid),
        (Daemon::Rootless, Some(_)) => {
            return refused("--user", "the daemon is rootless, so uid 0 inside is you; leave it out");
        }
    };
    if let Some(userns) = request.userns {
        users.arguments.push(["--userns".to_owned(), userns.to_string()]);
    }
    Ok(users)
}

pub(super) fn command_line(sandbox: &Sandbox, about: &DockerHost, broker: &Broker) -> CommandLine {
    let mut line = container::begin(sandbox, broker, about.selinux);
    line.add(["--init"]);
    container::end(sandbox, broker, &mut line);
    line
}
