//! What `run` is told about the sandbox around its command.

use std::ffi::OsString;

use clap::{Args, ValueEnum, builder::TypedValueParser as _};

use super::{RunArgs, UsageError};
use crate::sandbox::{IdMap, Mount, Runtime, User, Userns};

/// How `run` confines its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SandboxKind {
    /// Not at all: CMD runs as you and could read the store itself
    None,
    /// bubblewrap, with this host's programs
    Bwrap,
    /// A container of podman
    Podman,
    /// A container of docker
    Docker,
}

impl SandboxKind {
    /// What makes it. `None`: nothing does.
    pub(in crate::cli) fn runtime(self) -> Option<Runtime> {
        match self {
            Self::None => None,
            Self::Bwrap => Some(Runtime::Bwrap),
            Self::Podman => Some(Runtime::Podman),
            Self::Docker => Some(Runtime::Docker),
        }
    }
}

/// What a process that connects has to show besides its uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Attest {
    /// That it is in the pid name space of the sandbox, or in one within it
    Pidns,
}

/// What a sandbox is made of.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sandbox")]
pub struct SandboxArgs {
    /// How CMD is confined: bwrap, podman, docker, or none, which is not at all (CMD runs as you and could read the store)
    #[arg(long, value_name = "KIND", value_enum, default_value_t = SandboxKind::None, hide_possible_values = true)]
    pub sandbox: SandboxKind,
    /// The image of the container (podman, docker)
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Mount a file or directory of this host: SRC, SRC:DST or SRC:DST:ro
    #[arg(long, value_name = "SRC[:DST[:ro]]", value_parser = mount())]
    pub mount: Vec<Mount>,
    /// Who CMD is in the container: UID or UID:GID, in numbers (podman, docker)
    #[arg(long, value_name = "UID[:GID]")]
    pub user: Option<User>,
    /// Which uids of the container stand for which of the host: CONTAINER:HOST:SIZE (podman)
    #[arg(long, value_name = "MAPPING")]
    pub uidmap: Vec<IdMap>,
    /// The same by name: host, keep-id, keep-id:uid=UID,gid=GID or nomap (podman; docker has host)
    #[arg(long, value_name = "MODE")]
    pub userns: Option<Userns>,
    /// Pass this variable, too: its name, never a value
    #[arg(long, value_name = "NAME")]
    pub env: Vec<String>,
    /// Give bwrap, podman or docker this argument besides its own; it may undo what confines CMD
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub runtime_arg: Vec<OsString>,
    /// Serve only processes of this sandbox: pidns (Linux)
    #[arg(long, value_name = "HOW", value_enum, hide_possible_values = true)]
    pub attest: Option<Attest>,
    /// Print the command line that would start the sandbox, with the names of its variables; start no sandbox
    #[arg(long)]
    pub dry_run: bool,
}

fn mount() -> impl clap::builder::TypedValueParser<Value = Mount> {
    clap::builder::OsStringValueParser::new().try_map(|argument| Mount::parse(&argument))
}

/// What clap cannot say about flags that belong to a sandbox.
pub(super) fn check(arguments: &RunArgs) -> Result<(), UsageError> {
    let run = |message| {
        Err(UsageError {
            command: "run",
            message,
        })
    };
    let SandboxArgs {
        sandbox,
        image,
        mount,
        user,
        uidmap,
        userns,
        env,
        runtime_arg,
        attest,
        dry_run,
    } = &arguments.sandbox;
    match sandbox {
        SandboxKind::None if image.is_some() => run("--image needs --sandbox podman or docker"),
        SandboxKind::None if !mount.is_empty() => {
            run("--mount needs --sandbox bwrap, podman or docker: without a sandbox CMD sees everything that you see")
        }
        SandboxKind::None if user.is_some() || !uidmap.is_empty() || userns.is_some() => {
            run("--user, --uidmap and --userns need --sandbox podman or docker")
        }
        SandboxKind::None if !env.is_empty() => {
            run("--env needs --sandbox bwrap, podman or docker: without a sandbox CMD gets your environment")
        }
        SandboxKind::None if !runtime_arg.is_empty() || *dry_run => {
            run("--runtime-arg and --dry-run need --sandbox bwrap, podman or docker")
        }
        SandboxKind::None if attest.is_some() => run(
            "--attest needs --sandbox bwrap, podman or docker: without a sandbox CMD shares your processes' name space",
        ),
        SandboxKind::Podman | SandboxKind::Docker if image.is_none() => {
            run("--sandbox podman and --sandbox docker need --image: the image that the container is made of")
        }
        SandboxKind::Bwrap if image.is_some() => {
            run("--image needs --sandbox podman or docker: bwrap shows this host's programs")
        }
        SandboxKind::Bwrap if user.is_some() || !uidmap.is_empty() || userns.is_some() => {
            run("--user, --uidmap and --userns need --sandbox podman or docker: under bwrap CMD is you")
        }
        SandboxKind::Docker if !uidmap.is_empty() => {
            run("--uidmap needs --sandbox podman: docker's daemon decides about the uids; --user says who CMD is")
        }
        _ if !uidmap.is_empty() && userns.is_some() => {
            run("--uidmap and --userns both say which uids the container has: give one of them")
        }
        _ => Ok(()),
    }
}
