//! Whether a process belongs to the sandbox that `run` started: `--attest pidns`.
//!
//! It does if it is in a pid name space below the broker's and descends from the process that `run` started, or that the
//! runtime started for it. In a pid name space whoever loses a parent gets the first process of the name space as the new
//! one, so that the line of parents of everything in it, name spaces within it included, leads there. What is put into
//! the sandbox from outside (`podman exec`) has its parents outside, and is not served; a child that it leaves behind gets the
//! sandbox's first process as its parent, and is.

use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::watch;

use super::process::{Process, proc_is_ours};

/// So many parents are looked at; no honest sandbox is that deep.
const MOST_PARENTS: usize = 1024;

/// The process that the sandbox descends from.
pub struct Root {
    process: Process,
    own_depth: usize,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Root").field(&self.process.pid()).finish()
    }
}

/// How it was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Verdict {
    /// It is of the sandbox.
    Inside,
    /// It is not, or it cannot be told.
    Outside,
}

impl Root {
    /// The process with this number, which must be alive and stay unwaited for meanwhile.
    ///
    /// # Errors
    /// It is gone, or the system does not show processes, or those of another name space.
    pub fn of(pid: i32) -> std::io::Result<Self> {
        proc_is_ours()?;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let root = Self {
            process: Process::open(pid)?,
            own_depth: Process::open(own)?.status()?.depth,
        };
        root.process.status()?;
        Ok(root)
    }

    /// The same for a process that has to be in a pid name space below this one itself, because somebody else named it.
    ///
    /// # Errors
    /// It is gone, or not in such a name space.
    pub fn below(pid: i32) -> std::io::Result<Self> {
        let root = Self::of(pid)?;
        if root.process.status()?.depth <= root.own_depth {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        Ok(root)
    }

    /// A process that cannot be looked at is outside.
    pub(super) fn judge(&self, process: Result<&Process, &Errno>) -> Verdict {
        let inside = process.is_ok_and(|process| self.is_above(process).unwrap_or(false));
        if inside { Verdict::Inside } else { Verdict::Outside }
    }

    fn is_above(&self, process: &Process) -> Result<bool, Errno> {
        if process.status()?.depth <= self.own_depth {
            return Ok(false);
        }
        let mut held;
        let mut at = process;
        for _ in 0..MOST_PARENTS {
            if at.pid() == self.process.pid() {
                // Both are alive, so they are one.
                at.status()?;
                self.process.status()?;
                return Ok(true);
            }
            match at.parent()? {
                Some(parent) => held = parent,
                None => return Ok(false),
            }
            at = &held;
        }
        Ok(false)
    }
}

/// Who alone is served. Nobody is, before the sandbox is known.
#[derive(Debug, Clone)]
pub struct OnlySandbox(watch::Receiver<Option<Arc<Root>>>);

/// Says what the sandbox is, when it has been started.
#[derive(Debug)]
pub struct Reveal(watch::Sender<Option<Arc<Root>>>);

impl OnlySandbox {
    /// A sandbox that is not known yet.
    #[must_use]
    pub fn to_be_started() -> (Self, Reveal) {
        let (tells, told) = watch::channel(None);
        (Self(told), Reveal(tells))
    }

    /// Waits for it. `None`: it never came to be.
    pub(in crate::server) async fn known(&self) -> Option<Arc<Root>> {
        let mut told = self.0.clone();
        let known = told.wait_for(Option::is_some).await.ok()?;
        known.clone()
    }
}

impl Reveal {
    /// This is it.
    pub fn started(&self, root: Root) {
        self.0.send_replace(Some(Arc::new(root)));
    }
}
