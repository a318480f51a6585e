//! Memory: nobody else reads it, none of it goes into a core file, none of it goes to the swap.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Outcome;

static USERS_CORE_LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// No core file, whatever happens. The hard limit stays: commands that this process starts get back what the user had.
/// A process that is not dumpable leaves none anyway, not even for a program that the system hands them to.
pub(super) fn no_core_file() {
    let users = getrlimit(Resource::Core);
    // Only the first call sees the user's.
    let _ = USERS_CORE_LIMIT.set(users);
    let none = Rlimit {
        current: Some(0),
        maximum: users.maximum,
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        crate::cli::output::warning(&format!("the limit of core files stays as it is: {error}"));
    }
}

/// The user's limit of core files, for commands that the user starts through this process.
pub(in crate::cli) fn users_core_limit() -> Option<Rlimit> {
    USERS_CORE_LIMIT.get().copied()
}

pub(super) fn core_limit() -> Outcome {
    match getrlimit(Resource::Core).current {
        Some(0) => Ok("the limit is 0".to_owned()),
        Some(bytes) => Err(format!("the limit is {bytes} bytes")),
        None => Err("there is no limit".to_owned()),
    }
}

pub(super) fn unreadable() -> Outcome {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, dumpable_behavior};
        match dumpable_behavior() {
            Ok(DumpableBehavior::NotDumpable) => Ok("other processes of this user cannot read it".to_owned()),
            Ok(_) => Err("other processes of this user can read it".to_owned()),
            Err(error) => Err(format!("the system does not say who can read it: {error}")),
        }
    }
    #[cfg(not(target_os = "linux"))]
    Err("only Linux has it".to_owned())
}

/// Keeps everything out of the swap that is in memory now or later, pages that nobody touches aside. Only where no limit
/// stands in the way: with one, the allocation that reaches it would fail, some day, and with it the broker. `raise`: lifts
/// the limit, where this process may; its children inherit that.
pub(in crate::cli) fn lock_memory(raise: bool) -> Outcome {
    #[cfg(target_os = "linux")]
    {
        use rustix::{
            mm::{MlockAllFlags, mlockall},
            thread::{CapabilitySet, capabilities},
        };
        let none = Rlimit {
            current: None,
            maximum: None,
        };
        if raise {
            // What matters is how it is then.
            let _ = setrlimit(Resource::Memlock, none);
        }
        let limit = getrlimit(Resource::Memlock).current;
        // Whoever drops the capability later has raised the limit, or has to be within it.
        let exempt = !raise && capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
        match limit {
            Some(bytes) if !exempt => Err(format!(
                "the limit is {} KiB; without one (`ulimit -l`, LimitMEMLOCK=infinity) nothing would go to the swap",
                bytes / 1024
            )),
            _ => mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
                .map(|()| "nothing goes to the swap".to_owned())
                .map_err(|error| format!("mlockall: {error}")),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = raise;
        Err("only Linux has it".to_owned())
    }
}
