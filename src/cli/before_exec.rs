//! What is done in a command's process between fork and exec: the one place with `unsafe`.
//!
//! Only async-signal-safe calls are allowed there: system calls on values that are there already. Nothing is allocated, locked
//! or freed.

use std::{
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    sync::OnceLock,
};

use rustix::{
    fs::Mode,
    process::{Resource, Signal, setrlimit},
};

use super::hardening::users_core_limit;

/// What a broker makes belongs to its user alone.
pub(super) const PRIVATE_UMASK: Mode = Mode::RWXG.union(Mode::RWXO);

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
    /// More descriptors that it does inherit.
    pub(super) inherits: Vec<OwnedFd>,
    /// Nothing of this session: a process group, a keyring and no groups besides its own, as far as the system allows it.
    /// What is typed at the terminal does not reach it.
    pub(super) alone: bool,
    /// Sockets without a path are out of its reach, where the kernel can do that, and no program that it starts gains
    /// privileges.
    pub(super) scoped: bool,
    /// It has no terminal: no input, and what it prints passes through this process. A terminal that it had it could read, by
    /// its output too.
    pub(super) without_terminal: bool,
    /// The signal that it gets when this process is killed.
    pub(super) when_we_die: Option<Signal>,
}

/// Gives the command the umask and the limit of core files that the user had, not the broker's, and no descriptor of anybody's.
pub(super) fn restore_umask(command: &mut std::process::Command) {
    prepare(command, Start::default());
}

/// What is done in the command's process before it becomes the command.
#[expect(unsafe_code, reason = "std has no other way to do these things to a child alone")]
pub(super) fn prepare(command: &mut std::process::Command, start: Start) {
    let umask = USERS_UMASK.get().copied();
    #[cfg(not(target_os = "linux"))]
    let _linux_has_them = (start.scoped, start.when_we_die);
    let core_limit = users_core_limit();
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
            if let Some(limit) = core_limit {
                setrlimit(Resource::Core, limit)?;
            }
            close_on_exec();
            for descriptor in &start.inherits {
                rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
            }
            #[cfg(target_os = "linux")]
            {
                if start.alone {
                    leave_keyring_and_groups();
                }
                if start.scoped {
                    leave_abstract_sockets()?;
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

/// What landlock is told; fields that this kernel does not know make it refuse.
#[cfg(target_os = "linux")]
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[cfg(target_os = "linux")]
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;

/// Sockets in the abstract namespace belong to the network, which a sandbox of bwrap's shares with the host; a desktop's
/// display and message bus may listen there. Kernels before 6.12 cannot do it, and some are built without landlock: there the
/// threat model's words hold.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "neither std nor rustix has landlock, and its crate allocates")]
fn leave_abstract_sockets() -> std::io::Result<()> {
    let ruleset = Ruleset {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: SCOPE_ABSTRACT_UNIX_SOCKET,
    };
    // SAFETY: the kernel reads the struct, which has the layout and size that it is told.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size_of::<Ruleset>(),
            0,
        )
    };
    if made < 0 {
        return Ok(());
    }
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: numbers alone; the descriptor is closed on exec.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, made, 0) };
    if done < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
