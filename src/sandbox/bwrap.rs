//! bubblewrap: the host's own programs in a file system that holds nothing else of the host. It needs no image and no
//! daemon, and the command is the user that it is outside.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use super::{
    Broker, CommandLine, Directories, Environment, Request, Sandbox, SandboxError,
    container::{SOCKET, SOCKET_DIRECTORY},
    mounts::{self, Inside, Mounted},
};

/// What the command sees of the host's programs, as far as it is there.
pub const SYSTEM_PATHS: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"];
/// Where credbroker itself is inside, alone.
pub const EXECUTABLE_DIRECTORY: &str = "/opt/credbroker/bin";
/// Its name there, whatever it is called outside.
const EXECUTABLE: &str = "/opt/credbroker/bin/credbroker";
/// Where bwrap says whether the command was reached, and as which process.
pub const STATUS: &str = "--json-status-fd";
/// Where bwrap reads which system calls the kernel is to refuse.
pub const SYSTEM_CALLS: &str = "--seccomp";
/// Runs the command in the shell's place: bwrap ends with 1 if it cannot execute a program, a shell with 126 or 127. The last
/// word is who speaks then.
const SHELL: [&str; 4] = ["/bin/sh", "-c", r#"exec "$@""#, "credbroker"];

/// What of the host bwrap shows.
#[derive(Debug, Clone)]
pub struct BwrapHost {
    /// Those of [`SYSTEM_PATHS`] that are there.
    pub system: Vec<SystemPath>,
    /// The file that `/etc/resolv.conf` is a link to, and where the link says it is, if that is not among them.
    pub resolver: Option<(PathBuf, PathBuf)>,
    /// Whether there is a filter of system calls for this kind of machine.
    pub filters: bool,
    /// This program.
    pub executable: PathBuf,
    /// The user's PATH.
    pub path: OsString,
}

/// A system path, or something in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemPath {
    /// A directory, which is mounted with all that is in it.
    Directory(PathBuf),
    /// A directory in which something is hidden: what else is in it is mounted one by one. Something that lay over the hidden
    /// thing would be gone when the host puts another one in its place.
    Parts {
        /// Where it is.
        path: PathBuf,
        /// What of it is shown.
        shown: Vec<Self>,
    },
    /// A directory that is hidden.
    Hidden(PathBuf),
    /// A file.
    File(PathBuf),
    /// A link, which is made anew.
    Link {
        /// Where it is.
        path: PathBuf,
        /// What it says.
        target: PathBuf,
    },
}

/// The working directory and what was asked for.
pub(super) fn mounts(request: &Request, directories: &Directories) -> Result<Vec<Mounted>, SandboxError> {
    let refused = |flag, mend| {
        Err(SandboxError::NotForRuntime {
            flag,
            runtime: request.runtime,
            mend,
        })
    };
    if request.image.is_some() {
        return refused(
            "--image",
            "it shows this host's programs; remove it, or use --sandbox podman or docker",
        );
    }
    if request.user.is_some() || !request.uidmap.is_empty() || request.userns.is_some() {
        return refused(
            "--user, --uidmap or --userns",
            "the command is you; remove it, or use --sandbox podman",
        );
    }
    let working = mounts::working_directory(directories)?;
    let mut mounts = mounts::judged(&request.mounts, directories, &Inside::bwrap())?;
    if !mounts.iter().any(|mounted| mounted.destination == working.destination) {
        mounts.push(working);
    }
    mounts::in_order(&mut mounts);
    Ok(mounts)
}

pub(super) fn command_line(sandbox: &Sandbox, about: &BwrapHost, broker: &Broker) -> CommandLine {
    let environment = Environment::Only(sandbox.variables.clone());
    let mut path = OsString::from(EXECUTABLE_DIRECTORY);
    if !about.path.is_empty() {
        path.push(":");
        path.push(&about.path);
    }
    let mut line = CommandLine::new(sandbox.host.program.clone(), path, environment, SOCKET);

    for option in [
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        // It could else type into the terminal that it shares with the host's shell.
        "--new-session",
        "--die-with-parent",
    ] {
        line.add([option]);
    }
    line.add(["--cap-drop", "ALL"]);
    line.add_descriptor(STATUS);
    if about.filters {
        line.add_descriptor(SYSTEM_CALLS);
    }

    for system in &about.system {
        show(&mut line, system, "--ro-bind");
    }
    if let Some((file, place)) = &about.resolver {
        bind(&mut line, "--ro-bind", file, place);
    }
    // From here on nothing is put there, as if it were mounted as a whole.
    for system in &about.system {
        if let SystemPath::Parts { path, .. } = system {
            line.add([OsStr::new("--remount-ro"), path.as_os_str()]);
        }
    }
    line.add(["--proc", "/proc"]);
    // Else root's command writes to the kernel's switches, core_pattern among them: the owner needs no capability for it.
    line.add(["--ro-bind", "/proc/sys", "/proc/sys"]);
    line.add(["--dev", "/dev"]);
    line.add(["--tmpfs", "/tmp"]);
    let needed = SYSTEM_PATHS
        .iter()
        .chain(&["/proc", "/dev", "/tmp", SOCKET_DIRECTORY, EXECUTABLE_DIRECTORY]);
    let is_needed = |home: &Path| {
        let systems = SYSTEM_PATHS.iter().any(|path| home.starts_with(path));
        systems || needed.clone().any(|path| Path::new(path).starts_with(home))
    };
    let home = sandbox.host.directories.home_path.as_ref();
    // One in the system's directories, as services have it, holds programs, or cannot be made there.
    if let Some(home) = home.filter(|home| !is_needed(home)) {
        line.add([OsStr::new("--tmpfs"), home.as_os_str()]);
    }
    for mounted in &sandbox.mounts {
        let option = if mounted.read_only { "--ro-bind" } else { "--bind" };
        bind(&mut line, option, &mounted.source, &mounted.destination);
    }
    // Last, so that nothing lies over them.
    bind(&mut line, "--ro-bind", &broker.directory, Path::new(SOCKET_DIRECTORY));
    line.add(["--tmpfs", EXECUTABLE_DIRECTORY]);
    bind(&mut line, "--ro-bind", &about.executable, Path::new(EXECUTABLE));
    // It is first in PATH: nobody puts another program beside it.
    line.add(["--remount-ro", EXECUTABLE_DIRECTORY]);
    line.add([
        OsStr::new("--chdir"),
        sandbox.host.directories.working.path().as_os_str(),
    ]);
    for argument in &sandbox.request.arguments {
        line.add([argument]);
    }
    let words = ["--"].iter().chain(&SHELL).map(OsStr::new);
    line.add(words.chain(sandbox.request.command.iter().map(OsString::as_os_str)));
    line
}

fn show(line: &mut CommandLine, system: &SystemPath, option: &str) {
    match system {
        SystemPath::Directory(path) | SystemPath::File(path) => bind(line, option, path, path),
        SystemPath::Link { path, target } => bind(line, "--symlink", target, path),
        SystemPath::Hidden(path) => line.add([OsStr::new("--dir"), path.as_os_str()]),
        SystemPath::Parts { path, shown } => {
            // The inner ones are of the same file system.
            if option == "--ro-bind" {
                line.add([OsStr::new("--tmpfs"), path.as_os_str()]);
            } else {
                line.add([OsStr::new("--dir"), path.as_os_str()]);
            }
            for part in shown {
                // It may have gone since it was looked at.
                show(line, part, "--ro-bind-try");
            }
        }
    }
}

fn bind(line: &mut CommandLine, option: &str, source: &Path, destination: &Path) {
    line.add([OsStr::new(option), source.as_os_str(), destination.as_os_str()]);
}
