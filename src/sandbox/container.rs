//! What podman and docker have in common, which is nearly everything.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use super::{
    Broker, CommandLine, Directories, Environment, Request, Runtime, Sandbox, SandboxError,
    mounts::{self, Inside, Mounted, WORKING_DIRECTORY},
    quoting::field,
};

/// Where the broker's directory is inside, in every sandbox.
pub const SOCKET_DIRECTORY: &str = "/run/credbroker";
/// The one name in it.
pub(super) const SOCKET: &str = "/run/credbroker/sock";

/// The variables that every sandbox gets from the broker.
const VARIABLES: [&str; 2] = ["CREDBROKER_CAPABILITY", "CREDBROKER_SOCKET"];

/// What a container mounts: nothing of the host but what was asked for.
pub(super) fn mounts(request: &Request, directories: &Directories) -> Result<Vec<Mounted>, SandboxError> {
    let Some(image) = &request.image else {
        return Err(SandboxError::NoImage {
            runtime: request.runtime,
        });
    };
    if image.is_empty() || image.starts_with('-') {
        return Err(SandboxError::BadImage { image: image.clone() });
    }
    let mounts = mounts::judged(&request.mounts, directories, &Inside::container())?;
    for mounted in &mounts {
        if !arrives(&mounted.source) {
            return Err(misread("--mount", &mounted.source));
        }
        if !arrives(&mounted.destination) {
            return Err(SandboxError::Destination {
                path: mounted.destination.clone(),
                why: "a container's runtime would read another name there; write one in UTF-8 without control characters",
            });
        }
    }
    match mounts::inside_of(&mounts, &directories.working) {
        Some(directory) if !arrives(&directory) => Err(misread(WORKING_DIRECTORY, directories.working.path())),
        _ => Ok(mounts),
    }
}

/// Whether podman and docker mean the same path. They put others in the place of bytes that are no text and of ends of lines, and
/// a sandbox may have left something of that name.
fn arrives(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !text.contains(char::is_control))
}

fn misread(what: &'static str, path: &Path) -> SandboxError {
    SandboxError::Forbidden {
        what,
        path: path.to_owned(),
        why: "has a name that is no UTF-8 or has a control character in it, and a container's runtime would read another one"
            .to_owned(),
        mend: "choose another name for it, or use --sandbox bwrap",
    }
}

/// The options that come first, in the same order for both.
pub(super) fn begin(sandbox: &Sandbox, broker: &Broker, selinux: bool) -> CommandLine {
    let (request, host) = (&sandbox.request, &sandbox.host);
    let mut line = CommandLine::new(host.program.clone(), host.path.clone(), Environment::Users, SOCKET);
    line.add(["run"]);
    line.add(["--rm"]);
    line.add(["--name", &name(broker)]);
    line.add(["--interactive"]);
    if host.terminal {
        line.add(["--tty"]);
    }
    // CMD is what runs, not an image's own wrapper around it.
    line.add(["--entrypoint", ""]);
    line.add([
        "--cap-drop",
        if request.runtime == Runtime::Podman {
            "all"
        } else {
            "ALL"
        },
    ]);
    line.add(["--security-opt", "no-new-privileges"]);
    if selinux {
        line.add(["--security-opt", "label=disable"]);
    }
    line
}

/// The rest: users, variables, mounts, what the user adds, the image and the command.
pub(super) fn end(sandbox: &Sandbox, broker: &Broker, line: &mut CommandLine) {
    for argument in &sandbox.users.arguments {
        line.add(argument);
    }
    for name in VARIABLES
        .into_iter()
        .chain(sandbox.variables.iter().map(String::as_str))
    {
        line.add(["--env", name]);
    }
    line.add([
        OsStr::new("--mount"),
        &mount(&broker.directory, Path::new(SOCKET_DIRECTORY), true),
    ]);
    for mounted in &sandbox.mounts {
        let mount = mount(&mounted.source, &mounted.destination, mounted.read_only);
        line.add([OsStr::new("--mount"), &mount]);
    }
    if let Some(directory) = mounts::inside_of(&sandbox.mounts, &sandbox.host.directories.working) {
        line.add([OsStr::new("--workdir"), directory.as_os_str()]);
    }
    for argument in &sandbox.request.arguments {
        line.add([argument]);
    }
    // `mounts` refuses a container without an image.
    let image = sandbox.request.image.as_deref().unwrap_or_default();
    line.add(std::iter::once(OsStr::new(image)).chain(sandbox.request.command.iter().map(OsString::as_os_str)));
}

/// Takes the container away, whether it runs or not.
pub(super) fn removal(sandbox: &Sandbox, broker: &Broker) -> CommandLine {
    let host = &sandbox.host;
    let mut line = CommandLine::new(host.program.clone(), host.path.clone(), Environment::Users, SOCKET);
    line.add(["rm"]);
    line.add(["--force"]);
    line.add([&name(broker)]);
    line
}

/// Prints the number of its first process, 0 before there is one.
pub(super) fn first_process(sandbox: &Sandbox, broker: &Broker) -> CommandLine {
    let host = &sandbox.host;
    let mut line = CommandLine::new(host.program.clone(), host.path.clone(), Environment::Users, SOCKET);
    line.add(["container", "inspect"]);
    line.add(["--format", "{{.State.Pid}}"]);
    line.add([&name(broker)]);
    line
}

/// By which a container of a broker is found.
fn name(broker: &Broker) -> String {
    format!("credbroker-{}", broker.id)
}

fn mount(source: &Path, destination: &Path, read_only: bool) -> OsString {
    let mut made = OsString::from("type=bind,");
    made.push(field("source", source.as_os_str()));
    made.push(",");
    made.push(field("target", destination.as_os_str()));
    if read_only {
        made.push(",readonly");
    }
    made
}
