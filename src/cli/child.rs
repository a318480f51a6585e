//! The command that `run` starts: its environment, its signals, its end.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, IsTerminal as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::process::ExitStatusExt as _,
    },
    path::Path,
    process::{ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
};
use tokio::{process, time::timeout};

use crate::cli::{
    before_exec::{Start, prepare},
    failure::Failure,
    inside::Inside,
    signals::Signals,
};

/// A command that is there, and no program.
pub(super) const CANNOT_EXECUTE: u8 = 126;
/// A command that is not there.
pub(super) const NOT_FOUND: u8 = 127;
/// How long a terminal may take for a command's last words.
const PATIENCE: Duration = Duration::from_secs(5);

/// A command that runs.
pub(super) struct Child {
    child: process::Child,
    relays: Vec<JoinHandle<()>>,
}

impl Child {
    /// Starts it with exactly these variables.
    pub(super) fn start<'a>(
        program: &OsStr,
        arguments: &[OsString],
        variables: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
        start: Start,
    ) -> Result<Self, Failure> {
        let mut command = std::process::Command::new(program);
        command.args(arguments).env_clear().envs(variables);
        let mut relays = Vec::new();
        if start.without_terminal {
            // What is no terminal is read for nobody else.
            if io::stdin().is_terminal() {
                command.stdin(Stdio::null());
            }
            let mut relay = |to: BorrowedFd<'_>| {
                let (stdio, thread) = relay(to)?;
                relays.push(thread);
                Ok::<_, io::Error>(stdio)
            };
            let cannot = |error| Failure::internal(format!("cannot make a pipe for the command's output: {error}"));
            if io::stdout().is_terminal() {
                command.stdout(relay(io::stdout().as_fd()).map_err(cannot)?);
            }
            if io::stderr().is_terminal() {
                command.stderr(relay(io::stderr().as_fd()).map_err(cannot)?);
            }
        }
        prepare(&mut command, start);
        process::Command::from(command)
            .spawn()
            .map(|child| Self { child, relays })
            .map_err(|error| cannot_start(program, &error))
    }

    /// Its number, until it has been waited for.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end, passing signals on. Answers its exit code, 128+n for a signal.
    pub(super) async fn wait(self, signals: &mut Signals) -> Result<u8, Failure> {
        self.wait_passing(signals, Self::forward).await
    }

    /// The same for a command in a sandbox of bwrap's, which gets the signals itself.
    pub(super) async fn wait_inside(self, signals: &mut Signals, inside: &Inside) -> Result<u8, Failure> {
        let pass = |_: &Self, signal| {
            // The command shares no terminal that would stop and continue it, so this process does not stop, either.
            if signal != Signal::TSTP {
                inside.signal(signal, is_typed(signal) || signal == Signal::WINCH);
            }
        };
        self.wait_passing(signals, pass).await
    }

    async fn wait_passing(mut self, signals: &mut Signals, pass: impl Fn(&Self, Signal)) -> Result<u8, Failure> {
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status,
                Some(signal) = signals.next() => pass(&self, signal),
            }
        };
        let relays = self.relays;
        let printed = tokio::task::spawn_blocking(|| relays.into_iter().for_each(|relay| drop(relay.join())));
        let _or_the_terminal_stands_still = timeout(PATIENCE, printed).await;
        status
            .map(exit_code)
            .map_err(|error| Failure::internal(format!("cannot wait for the command: {error}")))
    }

    fn forward(&self, signal: Signal) {
        // What is typed at a terminal goes to the whole foreground group, so the command has it already; a second copy
        // would make it think that the user insists.
        if is_typed(signal) {
            return;
        }
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(%error, "a signal could not be passed on");
        }
    }
}

/// A pipe whose other end a thread copies to where this goes.
fn relay(to: BorrowedFd<'_>) -> io::Result<(Stdio, JoinHandle<()>)> {
    let (mut reads, writes) = io::pipe()?;
    let mut to = File::from(to.try_clone_to_owned()?);
    let thread = thread::Builder::new().spawn(move || {
        let _nobody_reads_any_more = io::copy(&mut reads, &mut to);
    })?;
    Ok((writes.into(), thread))
}

fn cannot_start(program: &OsStr, error: &io::Error) -> Failure {
    let shown = program.to_string_lossy();
    let failure = |what: &str, code| Failure::internal(format!("cannot run {shown}: {what}")).with_code(code);
    let found = program.as_encoded_bytes().contains(&b'/') && Path::new(program).exists();
    match error.kind() {
        // The system says the same of a script whose first line names nothing.
        io::ErrorKind::NotFound if found => {
            failure("its interpreter is not found; check its first line", CANNOT_EXECUTE)
        }
        io::ErrorKind::NotFound => failure("it is not found; check the name and PATH", NOT_FOUND),
        _ => failure(
            &format!("{error}; check that it is a program and that you may execute it"),
            CANNOT_EXECUTE,
        ),
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Whether a signal came from a terminal's keyboard.
fn is_typed(signal: Signal) -> bool {
    matches!(signal, Signal::INT | Signal::QUIT) && in_the_foreground()
}

/// Whether a stream is a terminal, and this process is not in the foreground of it: the shell's prompt, or another program, reads
/// what is typed there. A terminal of another session (`setsid`) does not say who is in its foreground; it is not this process.
pub(super) fn in_the_background() -> bool {
    // Asked last: in a namespace of processes that began without a group of its own there is no number to compare.
    let of_another = |stream: BorrowedFd<'_>| {
        stream.is_terminal()
            && !rustix::termios::tcgetpgrp(stream).is_ok_and(|foreground| foreground == rustix::process::getpgrp())
    };
    of_another(io::stdin().as_fd()) || of_another(io::stdout().as_fd()) || of_another(io::stderr().as_fd())
}

/// Whether this process is in the foreground group of its terminal, wherever its input comes from.
fn in_the_foreground() -> bool {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty())
        .and_then(rustix::termios::tcgetpgrp)
        .is_ok_and(|foreground| foreground == rustix::process::getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
