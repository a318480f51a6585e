//! System calls: what a broker never makes is refused with EPERM.
//!
//! A list of what is denied, not of what is allowed: what the libraries of the system call changes with each of their
//! versions, and a broker that dies of a new one helps nobody. What is on the list is what makes more of a foothold: other
//! programs, other processes, other name spaces, the kernel's large and rarely used doors.

use super::Outcome;

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod filter {
    use libc::c_long;
    use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, apply_filter};

    use super::Outcome;
    #[cfg(target_arch = "x86_64")]
    use crate::cli::seccomp::X32;
    use crate::cli::seccomp::{Rules, program};

    /// Linux 6.15, of one number on all machines; the library does not name it yet.
    const OPEN_TREE_ATTR: c_long = 467;

    const DENIED: &[c_long] = &[
        // Other programs.
        libc::SYS_execve,
        libc::SYS_execveat,
        // Other processes' memory and descriptors.
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        // Other name spaces and mounts.
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        OPEN_TREE_ATTR,
        // The kernel's own doors.
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_open_by_handle_at,
        libc::SYS_fanotify_init,
        libc::SYS_lookup_dcookie,
        libc::SYS_personality,
        libc::SYS_vhangup,
        // The machine.
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_syslog,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_iopl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_ioperm,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_modify_ldt,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_kexec_file_load,
    ];

    /// Those that differ in the second set: execve, ptrace, kexec_load, process_vm_readv, process_vm_writev, execveat.
    #[cfg(target_arch = "x86_64")]
    const ONLY_IN_X32: &[c_long] = &[520, 521, 528, 539, 540, 545];

    const NAMESPACES: &[i32] = &[
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWCGROUP,
    ];

    fn refused() -> Result<Rules, BackendError> {
        // No rule under a call: it is refused whatever its arguments are.
        let mut rules: Rules = DENIED.iter().map(|call| (*call, Vec::new())).collect();
        let mut clones = Vec::new();
        for flag in NAMESPACES {
            let flag = u64::from(flag.unsigned_abs());
            let is_set = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag)?;
            clones.push(SeccompRule::new(vec![is_set])?);
        }
        rules.insert(libc::SYS_clone, clones.clone());
        #[cfg(target_arch = "x86_64")]
        {
            rules.extend(DENIED.iter().chain(ONLY_IN_X32).map(|call| (call | X32, Vec::new())));
            rules.insert(libc::SYS_clone | X32, clones);
        }
        Ok(rules)
    }

    /// Its flags are in memory, where no filter looks. Without it the libraries take `clone`.
    fn absent() -> Rules {
        let calls = [
            libc::SYS_clone3,
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_clone3 | X32),
        ];
        calls.into_iter().map(|call| (call, Vec::new())).collect()
    }

    pub(super) fn deny() -> Outcome {
        let programs =
            refused().and_then(|refused| Ok([program(refused, libc::EPERM)?, program(absent(), libc::ENOSYS)?]));
        for program in programs.map_err(|error| error.to_string())? {
            apply_filter(&program).map_err(|error| error.to_string())?;
        }
        Ok(format!("{} are refused, to start programs among them", DENIED.len()))
    }
}

/// Has the system refuse this thread what a broker never asks for.
pub(super) fn deny() -> Outcome {
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
    ))]
    return filter::deny();
    #[cfg(not(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
    )))]
    Err("it is not there for this kind of machine".to_owned())
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
#[cfg(test)]
mod tests {
    use std::{io, process::Command, thread};

    use rustix::{
        io::Errno,
        process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
    };

    use super::*;

    fn get_own_descriptor() -> Result<(), Errno> {
        let own: Pid = getpid();
        let own = pidfd_open(own, PidfdFlags::empty())?;
        pidfd_getfd(own, 0, PidfdGetfdFlags::empty()).map(drop)
    }

    fn start_a_program() -> io::Result<()> {
        Command::new("true").status().map(drop)
    }

    /// What the libraries would not ask for; a process that is started all the same ends at once.
    #[expect(unsafe_code, reason = "there is no other way to ask for what nobody should ask for")]
    fn raw(number: libc::c_long, first: libc::c_long) -> io::Result<libc::c_long> {
        // SAFETY: the arguments are numbers and null pointers; the child of a clone does nothing but end.
        unsafe {
            let result = libc::syscall(number, first, 0, 0, 0, 0, 0);
            if result == 0 && number == libc::SYS_clone {
                libc::_exit(0);
            }
            if result < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(result)
            }
        }
    }

    #[test]
    fn what_a_broker_never_asks_for_is_refused_and_everything_else_goes_on() {
        let code = |tried: io::Result<libc::c_long>| tried.unwrap_err().raw_os_error().unwrap();
        let in_namespace = |flag: i32| raw(libc::SYS_clone, libc::c_long::from(flag | libc::SIGCHLD));
        get_own_descriptor().unwrap();
        start_a_program().unwrap();
        assert_eq!(code(raw(libc::SYS_clone3, 0)), libc::EINVAL);
        let refused = move || {
            deny().unwrap();
            assert_eq!(get_own_descriptor(), Err(Errno::PERM));
            assert_eq!(start_a_program().unwrap_err().raw_os_error(), Some(libc::EPERM));
            for flag in [
                libc::CLONE_NEWUSER,
                libc::CLONE_NEWNS,
                libc::CLONE_NEWNET,
                libc::CLONE_NEWUSER | libc::CLONE_NEWPID,
            ] {
                assert_eq!(code(in_namespace(flag)), libc::EPERM);
            }
            assert_eq!(code(raw(libc::SYS_clone3, 0)), libc::ENOSYS);
            // It would have said that the name space is no descriptor, and what the persona is.
            assert_eq!(code(raw(libc::SYS_setns, -1)), libc::EPERM);
            assert_eq!(code(raw(libc::SYS_personality, 0xffff_ffff)), libc::EPERM);
            // Nor what the null pointers are for.
            for call in [
                libc::SYS_bpf,
                libc::SYS_perf_event_open,
                libc::SYS_io_uring_setup,
                libc::SYS_init_module,
                libc::SYS_add_key,
                libc::SYS_keyctl,
                libc::SYS_ptrace,
                libc::SYS_mount,
                libc::SYS_clock_settime,
            ] {
                assert_eq!(code(raw(call, 0)), libc::EPERM, "{call}");
            }
            #[cfg(target_arch = "x86_64")]
            assert!(raw(0x4000_0000 | 520, 0).is_err());
            // Threads, files and sockets are as ever, and threads inherit it.
            thread::spawn(|| assert_eq!(get_own_descriptor(), Err(Errno::PERM)))
                .join()
                .unwrap();
            drop(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
            drop(tempfile::tempfile().unwrap());
        };
        thread::spawn(refused).join().unwrap();
        start_a_program().unwrap();
    }
}
