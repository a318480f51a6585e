//! Why a sandbox is not made, and what to do.

use std::path::PathBuf;

use super::Runtime;

/// Why a sandbox is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// What was to be mounted, or to be the working directory, must not be.
    #[error("{what} {} {why}: {mend}", .path.display())]
    Forbidden {
        /// What the path is to the user: the working directory, or an argument.
        what: &'static str,
        /// The path as it was meant, links resolved.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do.
        mend: &'static str,
    },
    /// A place inside that cannot be mounted at.
    #[error("--mount cannot put anything at {}: {why}", .path.display())]
    Destination {
        /// The place.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// A directory that a sandbox of bwrap's would inherit.
    #[error(
        "{stream} is a directory, from which the command would reach all that is around it: give it a file or /dev/null, and show a directory with --mount"
    )]
    DirectoryStream {
        /// Which of the three it is.
        stream: &'static str,
    },
    /// A value where only a name belongs.
    #[error(
        "--env passes a variable by name only, because arguments can be seen by others: set it in this environment and write --env NAME"
    )]
    VariableWithValue,
    /// Something that is no name.
    #[error("--env {name:?} is no name of a variable: write letters, digits and underscores")]
    NoVariableName {
        /// What was written.
        name: String,
    },
    /// The broker's own variable.
    #[error("--env {name} is a variable that credbroker sets by itself or keeps to itself: remove it")]
    OwnVariable {
        /// The name.
        name: String,
    },
    /// One that the runtime's own program goes by.
    #[error(
        "--env {name} is a variable that {} goes by itself, on the host; set it inside: `sh -c '{name}=VALUE exec \"$@\"' sh CMD`", .runtime.name()
    )]
    RuntimesVariable {
        /// The name.
        name: String,
        /// The runtime.
        runtime: Runtime,
    },
    /// One that leads to what a sandbox can write to, and that the runtime's own program would get to pass it on.
    #[error(
        "--env {name} leads to what the sandbox can write to, or to where {0} runs, and {0} could go by it itself, on the host; set it inside: `sh -c '{name}=VALUE exec \"$@\"' sh CMD`", .runtime.name()
    )]
    LeadsThere {
        /// The name.
        name: String,
        /// The runtime.
        runtime: Runtime,
    },
    /// One that is not set, or that holds a client secret.
    #[error(
        "--env {name} is not set here, or is never passed on (it holds a client secret, or is of the service that started this): set it, or remove the flag"
    )]
    NoSuchVariable {
        /// The name.
        name: String,
    },
    /// A container is made of an image.
    #[error("--sandbox {} needs --image: name the image that the container is made of", .runtime.name())]
    NoImage {
        /// The runtime.
        runtime: Runtime,
    },
    /// An image that the runtime would take for an option.
    #[error("--image {image:?} is no name of an image: check it")]
    BadImage {
        /// What was written.
        image: String,
    },
    /// The command could take a provider's place.
    #[error(
        "[providers.{provider}] {key} is http on this host, whose network the command would share: it could listen there instead, and be sent refresh tokens and client secrets: {mend}"
    )]
    Impostor {
        /// The provider's name.
        provider: String,
        /// The key of its endpoint.
        key: &'static str,
        /// What to do.
        mend: &'static str,
    },
    /// The command could add an authority.
    #[error(
        "{variable} leads to {}, which the command can write to: an authority of its own could vouch for somebody in a provider's place: set {variable} to a copy that is elsewhere",
        .path.display()
    )]
    Authorities {
        /// The variable.
        variable: &'static str,
        /// Where it leads, or what is on the way.
        path: PathBuf,
    },
    /// A flag of other runtimes.
    #[error("{flag} is not for --sandbox {}: {mend}", .runtime.name())]
    NotForRuntime {
        /// The flag.
        flag: &'static str,
        /// The runtime.
        runtime: Runtime,
        /// What to do.
        mend: &'static str,
    },
    /// Two flags that say different things.
    #[error("--uidmap and --userns both say which uids the container has: give one of them")]
    TwoMappings,
    /// A user that nobody on the host stands for.
    #[error("uid {uid} of the container stands for no uid of this host with this mapping: {mend}")]
    Unmapped {
        /// The uid inside.
        uid: u32,
        /// What to do.
        mend: &'static str,
    },
    /// Rootless podman has no further uids.
    #[error(
        "this user has no further uids for a container: add some with `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`, then run `podman system migrate`"
    )]
    NoSubordinates,
    /// Docker's daemon maps all containers.
    #[error(
        "docker's daemon maps the users of all containers (userns-remap), so that nobody inside could reach the broker: add --userns host"
    )]
    Remapped,
    /// The runtime's program is not there.
    #[error("{} is not found in PATH: {}", .runtime.name(), install(*.runtime))]
    NoProgram {
        /// The runtime.
        runtime: Runtime,
    },
    /// The runtime did not tell what has to be known.
    #[error("{} does not work here: {said}: {mend}", .runtime.name())]
    Silent {
        /// The runtime.
        runtime: Runtime,
        /// What it said instead.
        said: String,
        /// What to do.
        mend: &'static str,
    },
}

/// How to get the runtime.
fn install(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Bwrap => "install bubblewrap (`apt install bubblewrap`, `dnf install bubblewrap`)",
        Runtime::Podman => "install podman (`apt install podman`, `dnf install podman`)",
        Runtime::Docker => "install docker's command (`apt install docker.io`, or as docs.docker.com says)",
    }
}

impl SandboxError {
    /// Why bwrap can put nothing there: the place would have to be made in what it shows read-only.
    #[must_use]
    pub fn missing_where_nothing_is_made(path: PathBuf) -> Self {
        Self::Destination {
            path,
            why: "it is not there, and what is around it in the sandbox is read-only; choose a place that is there, or one elsewhere",
        }
    }

    /// Whether the command line is wrong. If not, something of this host is.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Forbidden { .. }
            | Self::Destination { .. }
            | Self::DirectoryStream { .. }
            | Self::VariableWithValue
            | Self::NoVariableName { .. }
            | Self::OwnVariable { .. }
            | Self::RuntimesVariable { .. }
            | Self::LeadsThere { .. }
            | Self::NoSuchVariable { .. }
            | Self::NoImage { .. }
            | Self::BadImage { .. }
            | Self::Impostor { .. }
            | Self::Authorities { .. }
            | Self::NotForRuntime { .. }
            | Self::TwoMappings
            | Self::Unmapped { .. } => true,
            Self::NoSubordinates | Self::Remapped | Self::NoProgram { .. } | Self::Silent { .. } => false,
        }
    }
}
