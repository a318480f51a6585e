//! The command that `run` starts: its environment, its signals, its end.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::ExitStatus,
    sync::OnceLock,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
};
use tokio::process;

use crate::cli::{failure::Failure, signals::Signals};

/// What a broker makes belongs to its user alone.
pub(super) const PRIVATE_UMASK: Mode = Mode::RWXG.union(Mode::RWXO);

const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

static USERS_UMASK: OnceLock<Mode> = OnceLock::new();

/// Sets the broker's umask and remembers the user's, which the command gets back.
pub(super) fn set_private_umask() {
    let previous = rustix::process::umask(PRIVATE_UMASK);
    // Only the first call sees the user's.
    let _ = USERS_UMASK.set(previous);
}

/// A command that runs.
pub(super) struct Child(process::Child);

impl Child {
    /// Starts it with exactly these variables.
    pub(super) fn start<'a>(
        command: &[OsString],
        variables: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
    ) -> Result<Self, Failure> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| Failure::internal("no command to run"))?;
        let mut command = std::process::Command::new(program);
        command.args(arguments).env_clear().envs(variables);
        restore_umask(&mut command);
        process::Command::from(command)
            .spawn()
            .map(Self)
            .map_err(|error| cannot_start(program, &error))
    }

    /// Waits for its end, passing signals on. Answers its exit code, 128+n for a signal.
    pub(super) async fn wait(mut self, signals: &mut Signals) -> Result<u8, Failure> {
        loop {
            tokio::select! {
                status = self.0.wait() => {
                    return status
                        .map(exit_code)
                        .map_err(|error| Failure::internal(format!("cannot wait for the command: {error}")));
                }
                Some(signal) = signals.next() => self.forward(signal),
            }
        }
    }

    fn forward(&self, signal: Signal) {
        // What is typed at a terminal goes to the whole foreground group, so the command has it already; a second copy
        // would make it think that the user insists.
        if matches!(signal, Signal::INT | Signal::QUIT) && in_the_foreground() {
            return;
        }
        let pid = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(%error, "a signal could not be passed on");
        }
    }
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

/// Whether this process is in the foreground group of its terminal, wherever its input comes from.
fn in_the_foreground() -> bool {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty())
        .and_then(rustix::termios::tcgetpgrp)
        .is_ok_and(|foreground| foreground == rustix::process::getpgrp())
}

/// Gives the command the umask that the user had, not the broker's.
#[expect(unsafe_code, reason = "std has no other way to set a child's umask")]
pub(super) fn restore_umask(command: &mut std::process::Command) {
    let Some(umask) = USERS_UMASK.get().copied() else {
        return;
    };
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed; umask(2) is one,
    // and nothing is allocated, locked or freed.
    unsafe {
        command.pre_exec(move || {
            rustix::process::umask(umask);
            Ok(())
        });
    }
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
