//! One process, as /proc shows it, held so that another one with its number cannot take its place.
//!
//! The directory of a process in /proc, once opened, belongs to that process: when it is gone, nothing can be read there any
//! more, also if its number was given away again.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open, openat, readlink, readlinkat},
    io::Errno,
};

/// No state of a process is longer, unless its user is in thousands of groups.
const MAX_STATUS: usize = 64 * 1024;

/// The directory of a process in /proc.
pub(super) struct Process {
    pid: i32,
    dir: OwnedFd,
}

/// What its state says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// 0: it has none that can be seen from here.
    pub(super) parent: i32,
    /// In how many nested pid name spaces it is, as seen from here: 1 in this one.
    pub(super) depth: usize,
}

/// Whether /proc numbers processes as the system tells this one of its peers. In a pid name space that has no /proc of its own
/// it shows other processes under the same numbers.
pub(super) fn proc_is_ours() -> Result<(), Errno> {
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    let shown = readlink("/proc/self", Vec::new())?;
    if shown.as_bytes() == own.as_bytes() {
        Ok(())
    } else {
        Err(Errno::XDEV)
    }
}

impl Process {
    /// Whoever has this number now.
    pub(super) fn open(pid: i32) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(format!("/proc/{pid}"), flags, Mode::empty())?;
        Ok(Self { pid, dir })
    }

    /// The process that this descriptor stands for, if it lives and has this number.
    pub(super) fn pinned(pid: i32, pidfd: &OwnedFd) -> Result<Self, Errno> {
        proc_is_ours()?;
        let process = Self::open(pid)?;
        // In this order: its number is its own for as long as it has not been waited for.
        if ended(pidfd)? {
            return Err(Errno::SRCH);
        }
        Ok(process)
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Where a link of its directory leads, as the link says.
    pub(super) fn link(&self, name: &str) -> Option<Vec<u8>> {
        readlinkat(&self.dir, name, Vec::new())
            .ok()
            .map(std::ffi::CString::into_bytes)
    }

    pub(super) fn status(&self) -> Result<Status, Errno> {
        let file = openat(&self.dir, "status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = vec![0; MAX_STATUS];
        let mut length = 0;
        while let Some(room) = text.get_mut(length..).filter(|room| !room.is_empty()) {
            match rustix::io::read(&file, room)? {
                0 => break,
                more => length += more,
            }
        }
        text.truncate(length);
        Status::read(&String::from_utf8_lossy(&text)).ok_or(Errno::SRCH)
    }

    /// Its parent, if it has one that can be seen.
    pub(super) fn parent(&self) -> Result<Option<Self>, Errno> {
        let number = self.status()?.parent;
        if number == 0 {
            return Ok(None);
        }
        let parent = Self::open(number)?;
        // Had the parent gone before it was opened, this one would have another parent by now.
        if self.status()?.parent != number {
            return Err(Errno::SRCH);
        }
        Ok(Some(parent))
    }
}

impl Status {
    /// `None`: it is not the state of a process that lives.
    fn read(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        if field("State")?.starts_with(['Z', 'X']) {
            return None;
        }
        Some(Self {
            parent: field("PPid")?.parse().ok()?,
            depth: field("NSpid")?.split_whitespace().count(),
        })
    }
}

/// Whether the process of this descriptor has ended.
fn ended(pidfd: &OwnedFd) -> Result<bool, Errno> {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut fds, Some(&now))? > 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::{
        fs::fcntl_getfl,
        io::{FdFlags, fcntl_getfd},
        process::{Pid, PidfdFlags, pidfd_open},
    };

    use super::*;

    fn own() -> i32 {
        rustix::process::getpid().as_raw_nonzero().get()
    }

    /// What is held of a process is a place to look from, and stays in this process.
    #[test]
    fn a_directory_that_is_held_can_be_neither_listed_nor_inherited() {
        let process = Process::open(own()).unwrap();
        let held = fcntl_getfl(&process.dir).unwrap();
        assert!(held.contains(OFlags::PATH | OFlags::DIRECTORY), "{held:?}");
        assert_eq!(fcntl_getfd(&process.dir).unwrap(), FdFlags::CLOEXEC);
        assert_eq!(Process::open(-1).err(), Some(Errno::NOENT));
    }

    /// The number may be another process's by now: here it is this one's.
    #[test]
    fn a_process_that_has_ended_is_told_from_whoever_has_its_number_now() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert_eq!(ended(&pidfd), Ok(false));
        assert!(Process::pinned(own(), &pidfd).is_ok());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(ended(&pidfd), Ok(true));
        assert_eq!(Process::pinned(own(), &pidfd).err(), Some(Errno::SRCH));
    }

    /// The groups come before the name spaces. Only the administrator can have so many.
    #[test]
    fn a_state_with_thousands_of_groups_is_read_to_its_end() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let groups: Vec<String> = (1_000_000_000..1_000_004_000)
            .map(|group: u32| group.to_string())
            .collect();
        let mut child = Command::new("setpriv")
            .args(["--groups", &groups.join(","), "sh", "-c", "echo; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The groups are set when something is said.
        let mut said = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let pid = Pid::from_child(&child).as_raw_nonzero().get();
        let status = Process::open(pid).unwrap().status();
        drop(child.stdin.take());
        child.wait().unwrap();
        let parent = own();
        assert_eq!(status.map(|status| status.parent), Ok(parent));
    }

    #[test]
    fn a_state_is_read_or_nothing_is_known() {
        let text = "Name:\tPPid: 9\nState:\tS (sleeping)\nPid:\t7\nPPid:\t5\nNSpid:\t7\t3\t1\n";
        assert_eq!(Status::read(text), Some(Status { parent: 5, depth: 3 }));
        assert_eq!(Status::read(&text.replace("S (s", "Z (z")), None);
        for line in ["State", "PPid:\t5", "NSpid"] {
            assert_eq!(Status::read(&text.replace(line, "Other")), None, "{line}");
        }
        assert_eq!(Status::read(""), None);
    }
}
