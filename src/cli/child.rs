//! The command that `run` starts: its environment, its signals, its end.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::ExitStatus,
    sync::OnceLock,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
};
use tokio::process;

use crate::cli::{failure::Failure, inside::Inside, signals::Signals};

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

/// How a command is started, besides its arguments and variables. Whatever it is, it inherits no descriptor but its three
/// streams, also none that somebody left open for this process.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// One more descriptor that it does inherit.
    pub(super) inherits: Option<OwnedFd>,
    /// Nothing of this session: a process group, a keyring and no groups besides its own, as far as the system allows it.
    /// What is typed at the terminal does not reach it.
    pub(super) alone: bool,
    /// The signal that it gets when this process is killed.
    pub(super) when_we_die: Option<Signal>,
}

/// A command that runs.
pub(super) struct Child(process::Child);

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
        prepare(&mut command, start);
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

    /// The same for a command in a sandbox of bwrap's, which gets the signals itself.
    pub(super) async fn wait_inside(mut self, signals: &mut Signals, inside: &Inside) -> Result<u8, Failure> {
        loop {
            tokio::select! {
                status = self.0.wait() => {
                    return status
                        .map(exit_code)
                        .map_err(|error| Failure::internal(format!("cannot wait for the command: {error}")));
                }
                // The command shares no terminal that would stop and continue it, so this process does not stop, either.
                Some(signal) = signals.next() => if signal != Signal::TSTP {
                    inside.signal(signal, is_typed(signal) || signal == Signal::WINCH);
                },
            }
        }
    }

    fn forward(&self, signal: Signal) {
        // What is typed at a terminal goes to the whole foreground group, so the command has it already; a second copy
        // would make it think that the user insists.
        if is_typed(signal) {
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

/// Whether a signal came from a terminal's keyboard.
fn is_typed(signal: Signal) -> bool {
    matches!(signal, Signal::INT | Signal::QUIT) && in_the_foreground()
}

/// Whether this process is in the foreground group of its terminal, wherever its input comes from.
fn in_the_foreground() -> bool {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty())
        .and_then(rustix::termios::tcgetpgrp)
        .is_ok_and(|foreground| foreground == rustix::process::getpgrp())
}

/// Gives the command the umask that the user had, not the broker's, and no descriptor of anybody's.
pub(super) fn restore_umask(command: &mut std::process::Command) {
    prepare(command, Start::default());
}

/// What is done in the command's process before it becomes the command.
#[expect(unsafe_code, reason = "std has no other way to do these things to a child alone")]
fn prepare(command: &mut std::process::Command, start: Start) {
    let umask = USERS_UMASK.get().copied();
    if start.alone {
        command.process_group(0);
    }
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: it makes system calls
    // on values that it owns, and allocates, locks and frees nothing.
    unsafe {
        command.pre_exec(move || {
            if let Some(umask) = umask {
                rustix::process::umask(umask);
            }
            close_on_exec();
            if let Some(descriptor) = &start.inherits {
                rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
            }
            #[cfg(target_os = "linux")]
            {
                if start.alone {
                    leave_keyring_and_groups();
                }
                if start.when_we_die.is_some() {
                    rustix::process::set_parent_process_death_signal(start.when_we_die)?;
                }
            }
            Ok(())
        });
    }
}

/// The first descriptor that is none of the three streams.
const FIRST: libc::c_int = 3;
/// Where no single call does it, descriptors up to here are looked at.
const HIGHEST: libc::c_int = 65_536;

/// Every descriptor but the streams is closed when the command begins. Ours are anyway; others may have been left open by
/// whoever started this process. Called between fork and exec.
#[expect(
    unsafe_code,
    reason = "neither std nor rustix has it, and every number is a descriptor of nobody's"
)]
fn close_on_exec() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the call changes a flag of descriptors and touches no memory.
        let done =
            unsafe { libc::close_range(FIRST.unsigned_abs(), u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
        if done == 0 {
            return;
        }
    }
    for descriptor in FIRST..HIGHEST {
        // SAFETY: as above; a number that is no descriptor is an error and nothing else.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// A new session keyring, so that the keys of the user's session stay there, and no supplementary groups, which only root may
/// leave. Neither is an error where it cannot be done.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "neither std nor rustix has keyctl")]
fn leave_keyring_and_groups() {
    let _not_root = rustix::thread::set_thread_groups(&[]);
    // SAFETY: a null name asks for a keyring without one; no memory is read or written.
    unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING as libc::c_long,
            std::ptr::null::<libc::c_char>(),
        )
    };
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
