//! A command in its sandbox, from the start of the runtime's program to the end of both.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{process::Command, time::timeout};

use super::{BROKER_FAILED, asking, attest, system_calls};
use crate::{
    cli::{
        before_exec::Start,
        child::{CANNOT_EXECUTE, Child, NOT_FOUND, in_the_background},
        failure::Failure,
        inside::Inside,
        output,
        signals::Signals,
    },
    config::{CAPABILITY, Environment, SOCKET},
    sandbox::{Broker, CommandLine, Environment as Kept, Runtime, STATUS, SYSTEM_CALLS, Sandbox},
    server::peer::Reveal,
};

/// How long a runtime may take to remove a container.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the command and its runtime get.
pub(super) struct Session<'a> {
    pub(super) environment: &'a Environment,
    pub(super) secrets: &'a [&'a str],
    pub(super) capability: &'a SecretString,
    /// Who is told what the sandbox is, if only that is served.
    pub(super) reveal: Option<Reveal>,
}

impl Session<'_> {
    /// The environment of the runtime's program. The capability is in it, and in no argument.
    pub(super) fn variables<'s>(&'s self, line: &'s CommandLine) -> impl Iterator<Item = (&'s OsStr, &'s OsStr)> {
        let kept = |name: &OsStr| match &line.environment {
            Kept::Users => true,
            Kept::Only(names) => names.iter().any(|kept| name == kept.as_str()),
        };
        self.environment
            .child_environment(self.secrets)
            .filter(move |(name, _)| kept(name) && *name != "PATH")
            .chain([
                ("PATH".as_ref(), line.path.as_os_str()),
                (SOCKET.as_ref(), line.socket.as_os_str()),
                (CAPABILITY.as_ref(), self.capability.expose_secret().as_ref()),
            ])
    }

    /// The runtime's program again, to be asked about the sandbox: without the sandbox's own variables and words on the
    /// terminal.
    pub(super) fn question(&self, line: &CommandLine) -> Command {
        let variables = self
            .variables(line)
            .filter(|(name, _)| *name != CAPABILITY && *name != SOCKET);
        let mut command = asking::question(&line.program, line.arguments(&[]), variables);
        command.stderr(Stdio::null());
        command
    }
}

pub(super) async fn run(
    sandbox: &Sandbox,
    broker: &Broker,
    session: &Session<'_>,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let line = sandbox.command_line(broker);
    match sandbox.runtime() {
        Runtime::Bwrap => bwrap(&line, session, signals).await,
        Runtime::Podman | Runtime::Docker => container(sandbox, broker, &line, session, signals).await,
    }
}

async fn bwrap(line: &CommandLine, session: &Session<'_>, signals: &mut Signals) -> Result<u8, Failure> {
    let no_pipe = |error: io::Error| Failure::internal(format!("cannot make a pipe: {error}")).with_code(BROKER_FAILED);
    let (hears, tells) = io::pipe().map_err(no_pipe)?;
    let (filter, mut writes) = io::pipe().map_err(no_pipe)?;
    // It is shorter than what a pipe holds.
    writes
        .write_all(&system_calls::filter().unwrap_or_default())
        .map_err(no_pipe)?;
    drop(writes);
    let descriptors = [(STATUS, tells.as_raw_fd()), (SYSTEM_CALLS, filter.as_raw_fd())];
    let arguments: Vec<OsString> = line.arguments(&descriptors).collect();
    let inside = Inside::hear(hears).map_err(|failure| failure.with_code(BROKER_FAILED))?;
    let start = Start {
        inherits: vec![tells.into(), filter.into()],
        alone: true,
        // In a session of its own nothing stops it when it reads a terminal whose foreground somebody else has.
        without_terminal: in_the_background(),
        // One that is root's by its mode could not become root then.
        scoped: !is_set_user_id(&line.program),
        ..Start::default()
    };
    let child = Child::start(line.program.as_os_str(), &arguments, session.variables(line), start)
        .map_err(|failure| failure.with_code(BROKER_FAILED))?;
    if let Some(reveal) = &session.reveal {
        attest::child(reveal, child.id());
    }
    let code = child.wait_inside(signals, &inside).await?;
    match inside.reached().await {
        // Also if somebody ended bwrap itself.
        true => Ok(code),
        false if code > 128 => Ok(code),
        false => Err(
            Failure::internal(format!("bwrap did not start the command: {}", bwraps_mend())).with_code(BROKER_FAILED),
        ),
    }
}

async fn container(
    sandbox: &Sandbox,
    broker: &Broker,
    line: &CommandLine,
    session: &Session<'_>,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let arguments: Vec<OsString> = line.arguments(&[]).collect();
    let start = Start {
        // What is told so passes it on to the container.
        when_we_die: Some(Signal::TERM),
        ..Start::default()
    };
    let child = Child::start(line.program.as_os_str(), &arguments, session.variables(line), start)
        .map_err(|failure| failure.with_code(BROKER_FAILED))?;
    let found = async {
        match &session.reveal {
            Some(reveal) => attest::container(reveal, sandbox, broker, session).await.err(),
            None => None,
        }
    };
    let code = tokio::select! {
        code = child.wait(signals) => code?,
        Some(failure) = found => {
            remove(sandbox, broker, session).await;
            return Err(failure);
        }
    };
    if code > 128 {
        // Its own end may have been the signal's, not the container's.
        remove(sandbox, broker, session).await;
    }
    // The last two also where the program below the runtime refuses, and the container never was.
    if [BROKER_FAILED, CANNOT_EXECUTE, NOT_FOUND].contains(&code) {
        let runtime = sandbox.runtime();
        let mend = match runtime {
            Runtime::Docker => "and whether `docker info` and `docker run --rm IMAGE true` work",
            Runtime::Podman | Runtime::Bwrap => "and whether `podman run --rm IMAGE true` works",
        };
        output::warning(&format!(
            "{} ended with {code}. Unless your command ended so, it was not started: see what is said above, if anything, {mend}",
            runtime.name()
        ));
        let names: Vec<_> = session
            .environment
            .left_out()
            .iter()
            .map(|name| name.to_string_lossy())
            .collect();
        if !names.is_empty() {
            output::warning(&format!(
                "{} was started without these variables, or not with all of them: {}. They lead to what the sandbox can write to, or are relative",
                runtime.name(),
                output::printable(&names.join(", "))
            ));
        }
    }
    Ok(code)
}

/// Nothing is said if there is none, which is as it should be.
async fn remove(sandbox: &Sandbox, broker: &Broker, session: &Session<'_>) {
    let Some(line) = sandbox.removal(broker) else {
        return;
    };
    let mut command = session.question(&line);
    command.stdout(Stdio::null());
    if !matches!(timeout(PATIENCE, command.status()).await, Ok(Ok(_))) {
        tracing::warn!("it is not known whether the container is gone");
    }
}

fn is_set_user_id(program: &Path) -> bool {
    program.metadata().is_ok_and(|about| about.mode() & 0o4000 != 0)
}

/// What keeps bwrap from its work on most hosts where something does.
pub(in crate::cli) fn bwraps_mend() -> &'static str {
    let says = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|said| said.trim() == value);
    if rustix::process::geteuid().is_root() {
        "see what it says above"
    } else if says("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "this kernel keeps user namespaces from users; allow them with `sysctl kernel.unprivileged_userns_clone=1`"
    } else if says("/proc/sys/user/max_user_namespaces", "0") {
        "this kernel has no user namespaces; allow them with `sysctl user.max_user_namespaces=10000`"
    } else if says("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")
        && !Path::new("/etc/apparmor.d/bwrap-userns-restrict").exists()
    {
        "AppArmor keeps user namespaces from programs without a profile; install apparmor-profiles and its profile bwrap-userns-restrict"
    } else {
        "see what it says above"
    }
}
