//! What the filters of system calls have in common: that of a `serve`, and that of what runs in bubblewrap.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};

#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "riscv64")]
const ARCH: TargetArch = TargetArch::riscv64;
#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;

/// A second set of numbers for the same calls, where the kernel has it.
#[cfg(target_arch = "x86_64")]
pub(super) const X32: c_long = 0x4000_0000;

/// What has to be so of the arguments of a call: one of the rules, or nothing if there is none.
pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Answers these calls with an error, and lets all others be.
///
/// # Errors
/// The rules are more than a filter can hold.
pub(super) fn program(rules: Rules, errno: i32) -> Result<BpfProgram, BackendError> {
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, answer, ARCH)?.try_into()
}
