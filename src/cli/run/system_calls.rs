//! The system calls that a sandbox of bwrap's is refused, as the program that bwrap gives the kernel (`--seccomp`).
//!
//! The kernel's keyrings know no sandbox: whoever has a user's number may link that user's keyring, and reads the keys in it.
//! And no sandbox types into a terminal or works a console. Everything else stays allowed: what it may do is said by the
//! namespaces, and a list of everything that programs need is never whole.

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod filter {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long};
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule,
        sock_filter,
    };

    use crate::cli::seccomp;
    #[cfg(target_arch = "x86_64")]
    use crate::cli::seccomp::X32;

    const KEYRINGS: [c_long; 3] = [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl];
    #[cfg(target_arch = "x86_64")]
    const IOCTLS: [c_long; 3] = [libc::SYS_ioctl, libc::SYS_ioctl | X32, 514 | X32];
    #[cfg(not(target_arch = "x86_64"))]
    const IOCTLS: [c_long; 1] = [libc::SYS_ioctl];
    /// TIOCSTI and TIOCLINUX. The kernel looks at the lower half of the number alone.
    const TYPING: [u32; 2] = [0x5412, 0x541c];

    /// How the kernel calls the programs of 32 bits that it runs too, and their numbers for the same calls: `add_key`,
    /// `request_key`, `keyctl`; `ioctl`.
    #[cfg(target_arch = "x86_64")]
    const SMALL: (u32, [u32; 3], u32) = (0x4000_0003, [286, 287, 288], 54);
    #[cfg(target_arch = "aarch64")]
    const SMALL: (u32, [u32; 3], u32) = (0x4000_0028, [309, 310, 311], 54);
    #[cfg(target_arch = "riscv64")]
    const SMALL: (u32, [u32; 3], u32) = (0x4000_00f3, [217, 218, 219], 29);

    fn rules() -> Result<seccomp::Rules, BackendError> {
        // No rule under a call: it is refused whatever its arguments are.
        let mut rules: seccomp::Rules = KEYRINGS.iter().map(|call| (*call, Vec::new())).collect();
        #[cfg(target_arch = "x86_64")]
        rules.extend(KEYRINGS.iter().map(|call| (call | X32, Vec::new())));
        let mut typing = Vec::new();
        for request in TYPING {
            let is_it = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request.into())?;
            typing.push(SeccompRule::new(vec![is_it])?);
        }
        rules.extend(IOCTLS.iter().map(|call| (*call, typing.clone())));
        Ok(rules)
    }

    /// Where the kernel says the number of the call, whose it is, and the lower half of its second argument.
    const NUMBER: u32 = 0;
    const WHOSE: u32 = 4;
    const SECOND: u32 = 24;

    fn load(at: u32) -> sock_filter {
        instruction(BPF_LD | BPF_W | BPF_ABS, at, 0, 0)
    }

    fn answer(action: SeccompAction) -> sock_filter {
        instruction(BPF_RET | BPF_K, action.into(), 0, 0)
    }

    fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
        // The codes are of 16 bits; libc has them as it has all of the header's numbers.
        let code = u16::try_from(code).unwrap_or_default();
        sock_filter { code, jt, jf, k }
    }

    /// What stands before the rest, which would end every program of 32 bits: such a one is refused the same calls.
    fn small() -> BpfProgram {
        let (whose, keyrings, ioctl) = SMALL;
        // A refusal behind each question, so that no jump is longer than over what follows it.
        let refused_if = |value: u32| {
            let refuse = answer(SeccompAction::Errno(libc::EPERM.unsigned_abs()));
            [instruction(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1), refuse]
        };
        let mut calls = vec![load(NUMBER)];
        calls.extend(keyrings.into_iter().flat_map(refused_if));
        // Over the answer to every call but an ioctl.
        calls.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, ioctl, 1, 0));
        calls.push(answer(SeccompAction::Allow));
        calls.push(load(SECOND));
        calls.extend(TYPING.into_iter().flat_map(refused_if));
        calls.push(answer(SeccompAction::Allow));
        let others = u8::try_from(calls.len()).unwrap_or(u8::MAX);
        let mut program = vec![load(WHOSE), instruction(BPF_JMP | BPF_JEQ | BPF_K, whose, 0, others)];
        program.append(&mut calls);
        program
    }

    pub(super) fn program() -> Result<BpfProgram, BackendError> {
        let mut program = small();
        program.extend(seccomp::program(rules()?, libc::EPERM)?);
        Ok(program)
    }
}

/// The program as the kernel reads it. `None`: it cannot be made for this kind of machine.
pub(super) fn filter() -> Option<Vec<u8>> {
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
    ))]
    return filter::program().ok().map(|program| {
        let bytes = |step: seccompiler::sock_filter| {
            let [a, b] = step.code.to_ne_bytes();
            let [c, d, e, f] = step.k.to_ne_bytes();
            [a, b, step.jt, step.jf, c, d, e, f]
        };
        program.into_iter().flat_map(bytes).collect()
    });
    #[cfg(not(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
    )))]
    None
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
#[cfg(test)]
mod tests {
    use std::{io, thread};

    use super::*;

    /// What the library would not ask for, with arguments that nothing comes of.
    #[expect(unsafe_code, reason = "there is no other way to ask for what nobody should ask for")]
    fn raw(number: libc::c_long, second: libc::c_long) -> i32 {
        // SAFETY: no call here is given an address that it could read or write, and no open descriptor.
        let result = unsafe { libc::syscall(number, -1, second, 0, 0, 0) };
        if result < 0 {
            io::Error::last_os_error().raw_os_error().unwrap()
        } else {
            0
        }
    }

    /// The same as a program of 32 bits asks.
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "no library asks like that")]
    fn raw_small(number: i32, second: i32) -> i32 {
        let answer: i32;
        // SAFETY: as above; the instruction changes the registers that are named, and rbx is given back.
        unsafe {
            std::arch::asm!(
                "push rbx", "mov ebx, -1", "int 0x80", "pop rbx",
                inlateout("eax") number => answer, in("ecx") second, in("edx") 0, in("esi") 0, in("edi") 0,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        -answer
    }

    #[test]
    fn keyrings_and_typing_are_refused_by_every_number_and_everything_else_goes_on() {
        const WINDOW: libc::c_long = 0x5413;
        // KEYCTL_GET_KEYRING_ID with a nonsensical number: anything but what the filter answers.
        assert_ne!(raw(libc::SYS_keyctl, 0), libc::EPERM);
        assert_eq!(raw(libc::SYS_ioctl, 0x5412), libc::EBADF);
        let refused = || {
            seccompiler::apply_filter(&filter::program().unwrap()).unwrap();
            for call in [libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key] {
                assert_eq!(raw(call, 0), libc::EPERM, "{call}");
            }
            for typing in [0x5412, 0x541c, 0x1_0000_5412] {
                assert_eq!(raw(libc::SYS_ioctl, typing), libc::EPERM, "{typing:x}");
            }
            assert_eq!(raw(libc::SYS_ioctl, WINDOW), libc::EBADF);
            assert_eq!(raw(libc::SYS_close, 0), libc::EBADF);
            #[cfg(target_arch = "x86_64")]
            {
                // Not every kernel has these, but the filter is asked first.
                for call in [248, 249, 250] {
                    assert_eq!(raw(0x4000_0000 | call, 0), libc::EPERM, "x32 {call}");
                }
                for call in [16, 514] {
                    assert_eq!(raw(0x4000_0000 | call, 0x5412), libc::EPERM, "x32 {call}");
                }
            }
            // Whether this kernel runs programs of 32 bits.
            #[cfg(target_arch = "x86_64")]
            if std::path::Path::new("/proc/sys/abi/vsyscall32").exists() {
                for call in [286, 287, 288] {
                    assert_eq!(raw_small(call, 0), libc::EPERM, "32 bits: {call}");
                }
                for typing in [0x5412, 0x541c] {
                    assert_eq!(raw_small(54, typing), libc::EPERM, "32 bits: {typing:x}");
                }
                // Neither refused nor ended.
                assert_eq!(raw_small(54, 0x5413), libc::EBADF);
                assert_eq!(raw_small(6, 0), libc::EBADF);
            }
            drop(tempfile::tempfile().unwrap());
            std::process::Command::new("true").status().unwrap();
        };
        thread::spawn(refused).join().unwrap();
    }
}
