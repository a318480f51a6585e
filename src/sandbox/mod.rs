//! From what `run --sandbox` is asked for to the command line of a runtime, as data: program, arguments, which variables
//! are passed by name, and which uids of the host may call then. Nothing here asks the system or starts anything; what has
//! to be known of this host comes in as a [`Host`], so that tables and files can say what comes out.
//!
//! ```text
//! Request (what the flags say) + Host (what this host is like) -> Sandbox, or a SandboxError that says what to do
//! Sandbox + Broker (where its socket is)                       -> CommandLine
//! ```
//!
//! The rules: of the broker only the directory of its socket is mounted, read-only; the capability is never in an argument;
//! nothing that belongs to credbroker itself is mounted, whatever it is called ([`Place`] compares files, not names only).

mod bwrap;
mod command_line;
mod container;
mod docker;
mod error;
mod links;
mod mounts;
mod network;
mod podman;
mod quoting;
mod users;
mod variables;

use std::{collections::BTreeSet, ffi::OsString, ops::RangeInclusive, path::PathBuf};

pub use self::{
    bwrap::{BwrapHost, EXECUTABLE_DIRECTORY, STATUS, SYSTEM_CALLS, SYSTEM_PATHS, SystemPath},
    command_line::{CommandLine, Environment},
    container::SOCKET_DIRECTORY,
    docker::{Daemon, DockerHost},
    error::SandboxError,
    mounts::{Directories, FileId, InvalidMount, Kind, Mount, Own, Place, Source, Way},
    podman::{PodmanHost, asks_for_subordinates},
    users::{IdMap, InvalidIdMap, InvalidUser, InvalidUserns, User, Userns},
};

/// What confines the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// bubblewrap: this host's programs, nothing else of it.
    Bwrap,
    /// A container of podman.
    Podman,
    /// A container of docker.
    Docker,
}

impl Runtime {
    /// The program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bwrap => "bwrap",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }
}

/// What the flags say.
#[derive(Debug, Clone)]
pub struct Request {
    /// What confines the command.
    pub runtime: Runtime,
    /// The image of a container.
    pub image: Option<String>,
    /// What is mounted, and what of this host it is.
    pub mounts: Vec<(Mount, Source)>,
    /// Who the command is in the container.
    pub user: Option<User>,
    /// Which uids of the container are which of the host.
    pub uidmap: Vec<IdMap>,
    /// A mapping by name.
    pub userns: Option<Userns>,
    /// Variables that are passed besides the usual ones.
    pub variables: Vec<String>,
    /// What the runtime is told besides.
    pub arguments: Vec<OsString>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

impl Request {
    /// Whether what is to be mounted may be, before anything else is looked at.
    ///
    /// # Errors
    /// What must not be mounted.
    pub fn check(&self, directories: &Directories) -> Result<(), SandboxError> {
        self.mounted(directories).map(|_mounts| ())
    }

    /// The places of mounts that lie in other mounts: there the runtime walks through the host's files.
    ///
    /// # Errors
    /// What must not be mounted.
    pub fn ways(&self, directories: &Directories) -> Result<Vec<Way>, SandboxError> {
        self.mounted(directories).map(|mounts| mounts::ways(&mounts))
    }

    fn mounted(&self, directories: &Directories) -> Result<Vec<mounts::Mounted>, SandboxError> {
        match self.runtime {
            Runtime::Bwrap => bwrap::mounts(self, directories),
            Runtime::Podman | Runtime::Docker => container::mounts(self, directories),
        }
    }
}

/// What this host is like.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where the runtime's program is.
    pub program: PathBuf,
    /// Where the runtime's program finds others.
    pub path: OsString,
    /// The broker's user.
    pub uid: u32,
    /// And group.
    pub gid: u32,
    /// Whether the command's input and output are a terminal.
    pub terminal: bool,
    /// The names of the variables that are set, without those that no command of `run` gets.
    pub variables: BTreeSet<String>,
    /// What the directory rules are about.
    pub directories: Directories,
    /// What only one runtime has to know.
    pub about: About,
}

/// What only one runtime has to know of the host.
#[derive(Debug, Clone)]
pub enum About {
    /// For bwrap.
    Bwrap(BwrapHost),
    /// For podman.
    Podman(PodmanHost),
    /// For docker.
    Docker(DockerHost),
}

/// The broker that the command is to reach.
#[derive(Debug, Clone)]
pub struct Broker {
    /// The broker's id, for the name of a container.
    pub id: String,
    /// The one directory of it that a sandbox sees.
    pub directory: PathBuf,
}

/// A sandbox that can be started.
#[derive(Debug, Clone)]
pub struct Sandbox {
    request: Request,
    host: Host,
    users: users::Users,
    mounts: Vec<mounts::Mounted>,
    variables: Vec<String>,
}

impl Sandbox {
    /// Judges the request by what this host is like.
    ///
    /// # Errors
    /// What does not go together, must not be mounted, or cannot be had here.
    pub fn new(request: Request, host: Host) -> Result<Self, SandboxError> {
        let mounts = request.mounted(&host.directories)?;
        let users = match &host.about {
            About::Bwrap(_) => users::Users::own(host.uid),
            About::Podman(about) => podman::users(&request, &host, about)?,
            About::Docker(about) => docker::users(&request, &host, about)?,
        };
        let variables = variables::passed(request.runtime, &request.variables, &host.variables)?;
        Ok(Self {
            request,
            host,
            users,
            mounts,
            variables,
        })
    }

    /// What makes it.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.request.runtime
    }

    /// The uids that the command and what it starts have on the host, as far as the mapping was asked for.
    #[must_use]
    pub fn host_uids(&self) -> &[RangeInclusive<u32>] {
        &self.users.host
    }

    /// What is to be started.
    #[must_use]
    pub fn command_line(&self, broker: &Broker) -> CommandLine {
        match &self.host.about {
            About::Bwrap(about) => bwrap::command_line(self, about, broker),
            About::Podman(about) => podman::command_line(self, about, broker),
            About::Docker(about) => docker::command_line(self, about, broker),
        }
    }

    /// How to take a container away that its runtime's program left behind. `None`: nothing is left behind.
    #[must_use]
    pub fn removal(&self, broker: &Broker) -> Option<CommandLine> {
        match &self.host.about {
            About::Bwrap(_) => None,
            About::Podman(_) | About::Docker(_) => Some(container::removal(self, broker)),
        }
    }

    /// How to ask the runtime for the number of the container's first process. `None`: the runtime's program is its parent.
    #[must_use]
    pub fn first_process(&self, broker: &Broker) -> Option<CommandLine> {
        match &self.host.about {
            About::Bwrap(_) => None,
            About::Podman(_) | About::Docker(_) => Some(container::first_process(self, broker)),
        }
    }
}
