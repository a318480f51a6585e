//! Why a broker could not get its directory or its socket, and what to do about it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// Why a broker could not get its directory or its socket. Every message ends with what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The path cannot be that of a socket.
    NotASocketPath {
        /// As it was given.
        path: PathBuf,
    },
    /// The system has no room for the path in a socket address.
    PathTooLong {
        /// The whole path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// What the system allows.
        limit: usize,
        /// Which directory the path is in.
        role: DirRole,
    },
    /// The mode has bits that a socket cannot have.
    NotASocketMode {
        /// As it was given.
        mode: u32,
    },
    /// The directory is not there.
    Missing {
        /// The directory.
        path: PathBuf,
        /// What it is needed for.
        role: DirRole,
    },
    /// Somebody else could reach or replace what is put into the directory.
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What it is needed for.
        role: DirRole,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// A broker that runs as the daemon is there already.
    DaemonRunning {
        /// The other broker's process, if its directory tells.
        pid: Option<u32>,
        /// The socket that it serves.
        socket: PathBuf,
    },
    /// Somebody listens on the path.
    InUse {
        /// The socket.
        path: PathBuf,
        /// Who listens there, where the system tells.
        pid: Option<u32>,
    },
    /// The path names something that no broker made; it is never removed.
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// Whether somebody listens on the path cannot be told, so it is left alone.
    Unclear {
        /// The socket.
        path: PathBuf,
        /// What the attempt to connect said.
        source: io::Error,
    },
    /// Something that no broker put there is where the broker's own files go.
    Occupied {
        /// What is in the way.
        path: PathBuf,
    },
    /// The path changed under the broker's hands.
    Changed {
        /// The socket.
        path: PathBuf,
    },
    /// The service manager hands over more than one socket.
    SeveralInherited {
        /// How many.
        count: u32,
        /// What it calls them.
        names: Option<String>,
    },
    /// The service manager hands over what cannot be served.
    NotInheritable {
        /// Why not.
        problem: String,
    },
    /// There is a `--socket` beside the one that the service manager hands over.
    InheritedAndChosen,
    /// Another process has held a lock for longer than starting or stopping takes.
    Busy {
        /// The locked file or directory.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The system refused.
    System {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a [`SocketError`] comes down to. The command line makes an exit code of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// `--socket`, `--socket-mode` or the service manager asks for something that cannot be had (64).
    Usage,
    /// Somebody else serves there (69).
    InUse,
    /// The system refused (70).
    System,
    /// Another process was quicker; trying again may help (75).
    Busy,
    /// A directory is not fit for use (78).
    Config,
}

/// What a directory is needed for: what it must be like, and what to do if it is not, depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirRole {
    /// The temporary directory, where `XDG_RUNTIME_DIR` is not set.
    Temporary,
    /// `XDG_RUNTIME_DIR`, which the runtime directory goes into.
    RuntimeParent,
    /// The runtime directory, which nobody else may enter.
    Runtime,
    /// The parent of a `--socket PATH`, which nobody else may write to.
    SocketParent,
}

/// What is wrong with a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It is a symbolic link, so it can be made to point elsewhere.
    Symlink,
    /// It is something else.
    NotADirectory,
    /// It belongs to another user.
    Owner {
        /// The uid that it belongs to.
        found: u32,
        /// The broker's own.
        own: u32,
    },
    /// Its mode lets in others, or keeps out its owner.
    Mode {
        /// The permission bits.
        found: rustix::fs::RawMode,
    },
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // After a cause with a colon of its own, a second one would read as a list.
        let join = if matches!(self, Self::System { .. }) {
            "; "
        } else {
            ": "
        };
        write!(f, "{}{join}{}", self.problem(), self.mend())
    }
}

impl SocketError {
    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::NotASocketPath { path } => format!("socket path {}", path.display()),
            Self::PathTooLong {
                path, length, limit, ..
            } => format!(
                "socket path {} has {length} bytes, more than the {limit} this system allows",
                path.display()
            ),
            Self::NotASocketMode { mode } => format!("socket mode {mode:o}"),
            Self::Missing { path, .. } => format!("directory {} does not exist", path.display()),
            Self::Unsafe { path, flaw, .. } => format!("directory {} {flaw}", path.display()),
            Self::DaemonRunning { pid, socket } => {
                format!("a broker is already running on {}{}", socket.display(), of_pid(*pid))
            }
            Self::InUse { path, pid } => {
                format!(
                    "{} is already in use by a running broker{}",
                    path.display(),
                    of_pid(*pid)
                )
            }
            Self::NotASocket { path } => format!("{} exists and is not a socket", path.display()),
            Self::Unclear { path, source } => format!("cannot tell whether {} is in use ({source})", path.display()),
            Self::Occupied { path } => format!("{} is in the way and not the broker's", path.display()),
            Self::Changed { path } => format!(
                "{} was changed by another process while the broker was binding it",
                path.display()
            ),
            Self::SeveralInherited { count, names } => {
                let names = names.as_ref().map(|names| format!(" ({names})")).unwrap_or_default();
                format!("the service manager hands over {count} sockets{names}")
            }
            Self::NotInheritable { problem } => {
                format!("the socket that the service manager hands over cannot be served ({problem})")
            }
            Self::InheritedAndChosen => {
                "the service manager hands over a socket, and --socket names another".to_owned()
            }
            Self::Busy { path, seconds } => {
                format!("{} has been locked by another process for {seconds} s", path.display())
            }
            Self::System { action, path, source } => format!("cannot {action} {}: {source}", path.display()),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn mend(&self) -> String {
        match self {
            Self::NotASocketPath { .. } => "it must be absolute and end in a file name".to_owned(),
            Self::PathTooLong { role, .. } => role.shorten().to_owned(),
            Self::NotASocketMode { .. } => "use three octal digits, for example 600 or 660".to_owned(),
            Self::Missing { role, .. } => role.find().to_owned(),
            Self::Unsafe { path, role, flaw } => flaw.mend(*role, path),
            Self::DaemonRunning { .. } => "stop it, or start this one with --socket PATH".to_owned(),
            Self::InUse { .. } => "stop it, or choose another --socket PATH".to_owned(),
            Self::NotASocket { .. } => "move it away, or choose another --socket PATH".to_owned(),
            Self::Unclear { .. } => "remove it if it is not, or choose another --socket PATH".to_owned(),
            Self::Occupied { .. } => "move it away and start again".to_owned(),
            Self::Changed { .. } => "start again".to_owned(),
            Self::SeveralInherited { .. } => "give the service one, with one ListenStream=".to_owned(),
            Self::NotInheritable { .. } => {
                "write ListenStream= with a path and Accept=no into the socket unit, for a Unix stream socket that listens"
                    .to_owned()
            }
            Self::InheritedAndChosen => "remove --socket from ExecStart=, or the socket unit".to_owned(),
            Self::Busy { path, .. } => format!(
                "try again; if that does not help, `fuser {}` shows which process to stop",
                path.display()
            ),
            Self::System { .. } => "check its permissions, the free space and the file system".to_owned(),
        }
    }

    /// What it comes down to, for an exit code.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::PathTooLong {
                role: DirRole::SocketParent,
                ..
            }
            | Self::Missing {
                role: DirRole::SocketParent,
                ..
            }
            | Self::NotASocketPath { .. }
            | Self::NotASocketMode { .. }
            | Self::NotASocket { .. }
            | Self::SeveralInherited { .. }
            | Self::NotInheritable { .. }
            | Self::InheritedAndChosen => Failure::Usage,
            Self::DaemonRunning { .. } | Self::InUse { .. } | Self::Unclear { .. } => Failure::InUse,
            Self::System { .. } => Failure::System,
            Self::Busy { .. } | Self::Changed { .. } => Failure::Busy,
            Self::PathTooLong { .. } | Self::Missing { .. } | Self::Unsafe { .. } | Self::Occupied { .. } => {
                Failure::Config
            }
        }
    }

    /// Makes a [`SocketError::System`], for `map_err`.
    pub(super) fn system<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

impl DirRole {
    /// The way out of a path that is too long.
    fn shorten(self) -> &'static str {
        match self {
            Self::SocketParent => "choose a shorter --socket PATH",
            Self::Temporary | Self::RuntimeParent | Self::Runtime => "set XDG_RUNTIME_DIR to a shorter directory",
        }
    }

    /// The way out of a directory that is not there.
    fn find(self) -> &'static str {
        match self {
            Self::Temporary => "set XDG_RUNTIME_DIR or TMPDIR to one that does",
            Self::RuntimeParent => "set XDG_RUNTIME_DIR to one that does, or unset it",
            Self::Runtime => "start again, the broker makes it",
            Self::SocketParent => "create it with mode 700, or choose another --socket PATH",
        }
    }
}

impl Flaw {
    fn mend(self, role: DirRole, path: &Path) -> String {
        let other = match role {
            DirRole::SocketParent => "choose a --socket PATH in a directory of your own",
            DirRole::Temporary | DirRole::RuntimeParent | DirRole::Runtime => {
                "set XDG_RUNTIME_DIR to a directory of your own"
            }
        };
        match (self, role) {
            (Self::Symlink, DirRole::SocketParent) => "give the --socket PATH in the directory it points to".to_owned(),
            (Self::Symlink | Self::NotADirectory, DirRole::Runtime) => format!("move it away, or {other}"),
            (Self::Symlink | Self::NotADirectory | Self::Owner { .. }, _) => other.to_owned(),
            (Self::Mode { .. }, DirRole::SocketParent) => {
                format!("others may write to it; chmod go-w {}", path.display())
            }
            (Self::Mode { .. }, _) => format!("chmod 700 {}", path.display()),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symlink => f.write_str("is a symbolic link"),
            Self::NotADirectory => f.write_str("is not a directory"),
            Self::Owner { found, own } => write!(f, "is owned by uid {found}, not {own}"),
            Self::Mode { found } => write!(f, "has the unsafe mode {found:04o}"),
        }
    }
}

fn of_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
