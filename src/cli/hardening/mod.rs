//! What this process takes from itself, so that somebody who has got into it, or has it open what he names, gets little.
//!
//! Every command: memory that other processes cannot read, no core file ([`from_the_start`]). `serve` and `run`: memory that
//! does not go to the swap. `serve` alone, whose threads start nothing ([`confine`]): no capability, no new privileges, no
//! system call that a broker does not make, no file that it does not need. `run` stays as it is, because its command would
//! inherit all of that, and cannot give any of it back.
//!
//! What the system does not let is a warning and stands in what `doctor` shows; it ends nothing.

mod landlock;
mod memory;
mod paths;
mod privileges;
mod system_calls;

use super::{before_exec, output, panics};
pub(super) use crate::daemon::Protection;
use crate::{config::Config, server::peer::Describer};

pub(super) use self::{
    memory::{lock_memory, users_core_limit},
    paths::Paths,
};

/// From the first moment on, no other process of this user may read this one's memory, no file is made readable by
/// others, and no panic quotes what was being worked on.
pub(super) fn from_the_start() {
    panics::withhold_values();
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        output::warning(&format!("this process stays readable for others of this user: {error}"));
    }
    memory::no_core_file();
    before_exec::set_private_umask();
}

/// How a protection ended.
type Outcome = Result<String, String>;

/// The protections of a process, in the order in which they were taken.
#[derive(Default)]
pub(super) struct Protections(Vec<Protection>);

impl Protections {
    fn add(&mut self, name: &'static str, outcome: Outcome) {
        let in_force = outcome.is_ok();
        let (Ok(detail) | Err(detail)) = outcome;
        self.0.push(Protection { name, in_force, detail });
    }

    /// What each command has, and what is known of those who connect.
    fn basic(raise: bool) -> Self {
        let mut all = Self::default();
        all.add(UNREADABLE, memory::unreadable());
        all.add(NO_CORE_FILE, memory::core_limit());
        all.add(LOCKED, lock_memory(raise));
        all.add(PINNED, crate::server::peer::can_pin());
        all
    }

    /// What holds for this thread and those that it starts.
    fn give_up(&mut self) {
        self.add(CONFINED[0], privileges::drop_capabilities());
        self.add(CONFINED[1], privileges::no_new_privileges());
        self.add(CONFINED[2], system_calls::deny());
    }

    /// Whether a command of the configuration keeps a `serve` from giving anything up: it runs with the user's rights, and what
    /// is taken from this process cannot be given back to it.
    fn leaves_out(&mut self, config: &Config) -> bool {
        let command = config.a_command();
        if let Some(command) = &command {
            self.chosen(&format!("with {command}"));
        }
        command.is_some()
    }

    fn chosen(&mut self, why: &str) {
        for name in CONFINED {
            self.add(name, Err(format!("{CHOSEN} {why}, whose command would inherit it")));
        }
    }

    fn into_inner(self) -> Vec<Protection> {
        self.0
    }
}

const UNREADABLE: &str = "unreadable memory";
const NO_CORE_FILE: &str = "no core file";
const LOCKED: &str = "locked memory";
const PINNED: &str = "pinned peers";
const LANDLOCK: &str = "landlock";
/// What the reason begins with where it is no fault of the system's.
const CHOSEN: &str = "not taken";
/// What holds for everything that is started from then on.
const CONFINED: [&str; 4] = ["no capabilities", "no new privileges", "system calls", LANDLOCK];

/// What the broker of a `run` has.
pub(super) fn of_run() -> Vec<Protection> {
    let mut all = Protections::basic(false);
    all.chosen("for `run`");
    all.into_inner()
}

/// Takes from this thread, and with it from all that it starts, what a broker does not need. Before the runtime starts.
/// Answers what is in force, and who tells about the peers: a thread that is started in between, because Landlock hides
/// other processes.
pub(super) fn confine(config: &Config, paths: &Paths) -> (Vec<Protection>, Describer) {
    let mut all = Protections::basic(true);
    let describer;
    if all.leaves_out(config) {
        describer = Describer::here();
    } else {
        all.give_up();
        describer = Describer::on_a_thread();
        all.add(LANDLOCK, landlock::restrict(paths));
    }
    for Protection { name, in_force, detail } in &all.0 {
        if *in_force {
            tracing::debug!(protection = name, detail, "in force");
        } else if !is_amiss(name, detail) {
            tracing::debug!(protection = name, detail, "not in force");
        } else {
            tracing::warn!(
                protection = name,
                detail,
                "not in force; `credbroker doctor` says what would mend it"
            );
        }
    }
    (all.into_inner(), describer)
}

/// Whether anything has to be done about a protection that is not in force: nearly every system limits locked memory.
pub(super) fn is_amiss(name: &str, detail: &str) -> bool {
    name != LOCKED && !detail.starts_with(CHOSEN)
}

/// What would put a protection in force.
pub(super) fn mend(name: &str) -> &'static str {
    match name {
        UNREADABLE => "allow prctl(PR_SET_DUMPABLE)",
        NO_CORE_FILE => "allow setrlimit(RLIMIT_CORE)",
        PINNED => "run it on Linux 6.5 or newer, with a /proc of its own pid name space (`unshare --mount-proc`)",
        LANDLOCK => "run it on Linux 5.13 or newer, with landlock among the kernel's security modules",
        _ => "allow it where something around this program takes it away",
    }
}

/// What a `serve` with this configuration would have: tried on a thread that ends with it.
pub(super) fn tried(config: Option<&Config>) -> Vec<Protection> {
    let trial = || {
        let mut all = Protections::default();
        all.give_up();
        all.add(LANDLOCK, landlock::restrict(&Paths::default()));
        all.into_inner()
    };
    // With the limits that a `serve` lifts, or memory would be called locked that is not: a `serve` keeps no capability for it.
    let mut all = Protections::basic(true);
    if !config.is_some_and(|config| all.leaves_out(config)) {
        all.0.extend(std::thread::spawn(trial).join().unwrap_or_default());
    }
    all.into_inner()
}
