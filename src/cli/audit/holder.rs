//! Who holds the lock on an audit file. Anybody who can open the file can lock it, so that it is locked says nothing: the broker
//! that began it has to hold it.
//!
//! Linux lists locks with the process that took each, but only those of its own pid name space and of those within.

use std::{fs::File, io, time::Duration};

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use rustix::{
    fs::{FlockOperation, Stat, flock, major, minor},
    io::Errno,
    process::{Pid, test_kill_process},
};

use crate::{broker::audit::series::Lock, clock::Now};

/// How often it is looked again: who holds a lock may let go of it before it is found.
const LOOKS: u32 = 5;
/// How long to wait in between.
const PAUSE: Duration = Duration::from_millis(2);
/// By how much a process may seem to have begun after what it did: its start is told in hundredths of a second, and a second may
/// be a leap second.
const GRACE: SignedDuration = SignedDuration::from_secs(2);

/// What the system says of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locked {
    Not,
    By(Holder),
    /// It does not say by whom.
    Somehow,
}

/// Who took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pid: u32,
    life: Life,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// What is to be known of it is not shown.
    Hidden,
    /// There is no such process any more.
    Over,
    Lives {
        /// Its pid in its own pid name space.
        inner: u32,
        /// When it began, since boot.
        began: Duration,
    },
}

/// Looks who has a file locked.
pub(super) fn look(file: &File, stat: &Stat) -> io::Result<Locked> {
    for look in 1..=LOOKS {
        match flock(file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                flock(file, FlockOperation::Unlock)?;
                return Ok(Locked::Not);
            }
            Err(Errno::WOULDBLOCK) => {}
            // A file system without locks.
            Err(_) => return Ok(Locked::Not),
        }
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let holder = holder_of(&locks, (major(stat.st_dev), minor(stat.st_dev)), stat.st_ino).map(|pid| Holder {
            pid,
            life: Life::of(pid),
        });
        match holder {
            Some(holder) if holder.life != Life::Over || look == LOOKS => return Ok(Locked::By(holder)),
            _ => std::thread::sleep(PAUSE),
        }
    }
    Ok(Locked::Somehow)
}

/// `1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF`; before the kind of one that only waits stands `->`. Some file systems have
/// another device there than the one that stat tells; then the inode decides, and two holders are none.
fn holder_of(locks: &str, device: (u32, u32), inode: u64) -> Option<u32> {
    let found = locks.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (kind, mode, pid, file) = (fields.next()?, fields.nth(1)?, fields.next()?, fields.next()?);
        let mut file = file.split(':');
        let mut number = |radix| u64::from_str_radix(file.next()?, radix).ok();
        let on = (number(16)?, number(16)?);
        let fits = kind == "FLOCK" && mode == "WRITE" && number(10)? == inode;
        let pid = pid.parse().ok().filter(|pid| *pid != 0)?;
        fits.then_some((on == (device.0.into(), device.1.into()), pid))
    });
    let found: Vec<(bool, u32)> = found.collect();
    let exact = found.iter().any(|(exact, _)| *exact);
    let mut pids = found.iter().filter(|found| found.0 == exact).map(|(_, pid)| *pid);
    pids.next().filter(|_| pids.next().is_none())
}

impl Life {
    fn of(pid: u32) -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let known = read("status")
            .as_deref()
            .and_then(innermost)
            .zip(read("stat").as_deref().and_then(began));
        if let Some((inner, began)) = known {
            return Self::Lives { inner, began };
        }
        // Where other users' processes are hidden, one that is not there may live all the same.
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        match pid.map(test_kill_process) {
            Some(Err(Errno::SRCH)) => Self::Over,
            _ => Self::Hidden,
        }
    }
}

/// The last number of `NSpid:  4711  12  1`.
fn innermost(status: &str) -> Option<u32> {
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    pids.split_ascii_whitespace().last()?.parse().ok()
}

/// The twenty-second field. The second one, the program's name in parentheses, is what the program likes.
fn began(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let second = rustix::param::clock_ticks_per_second();
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(second.max(1));
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

impl Locked {
    /// What that is worth for a file that its broker of this pid began at this time, by the wall clock.
    pub(super) fn judge(self, broker: Option<(u32, Timestamp)>, now: &Now) -> Lock {
        let (holder, broker) = match (self, broker) {
            (Self::Not, _) => return Lock::Free,
            (Self::Somehow, _) | (_, None) => return Lock::Unknown,
            (Self::By(holder), Some(broker)) => (holder, broker),
        };
        match holder.life {
            Life::Over => Lock::Other(holder.pid),
            Life::Hidden => Lock::Unknown,
            // A broker does not know the pid that it has in another name space.
            Life::Lives { inner, began } if inner == broker.0 => {
                let by_the_wall = now.wall.checked_sub(now.boot.saturating_sub(began));
                // Pids are given away again. Or the clock was set meanwhile.
                let younger = !by_the_wall.is_ok_and(|began| began.duration_since(broker.1) <= GRACE);
                // A process in a name space of its own can have any pid there.
                let elsewhere = inner != holder.pid;
                if younger || elsewhere {
                    Lock::Unknown
                } else {
                    Lock::Broker
                }
            }
            Life::Lives { .. } => Lock::Other(holder.pid),
        }
    }
}

/// The pid and time that the name of a file begins with, for one that has no first line yet: `20261122T133430.214161Z-9194.jsonl`.
pub(super) fn named(name: &str) -> Option<(u32, Timestamp)> {
    let (time, rest) = name.split_once("Z-")?;
    let (pid, _) = rest.split_once('.')?;
    let time = DateTime::strptime("%Y%m%dT%H%M%S%.f", time).ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some((pid.parse().ok()?, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_read_from_what_the_system_tells() {
        let told = "1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF\n\
                    1: -> FLOCK  ADVISORY  WRITE 4712 fe:00:1234 0 EOF\n\
                    2: POSIX  ADVISORY  WRITE 12 fe:00:1234 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE 13 08:01:1234 0 EOF\n\
                    4: FLOCK  ADVISORY  WRITE 14 00:2a:77 0 EOF\n\
                    5: FLOCK  ADVISORY  READ 15 fe:00:78 0 EOF\n\
                    6: FLOCK  ADVISORY  WRITE 0 fe:00:79 0 EOF\n\
                    7: FLOCK  ADVISORY  WRITE -1 fe:00:80 0 EOF\n\
                    8: FLOCK  ADVISORY  WRITE 16 00:2a:81 0 EOF\n\
                    9: FLOCK  ADVISORY  WRITE 17 00:2b:81 0 EOF\n\
                    10: -> FLOCK  ADVISORY  WRITE 18 fe:00:82 0 EOF\nodd\n";
        for (inode, want) in [
            (1234, Some(4711)),
            // A file system with other devices than stat tells.
            (77, Some(14)),
            (78, None),
            (79, None),
            (80, None),
            (81, None),
            (82, None),
            (1, None),
        ] {
            assert_eq!(holder_of(told, (0xfe, 0), inode), want, "{inode}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_own_pid_and_its_start_whatever_it_calls_itself() {
        assert_eq!(innermost("Name:\tNSpid: 7\nNSpid:\t4711\t12\t1\nNSpgid:\t3\n"), Some(1));
        assert_eq!(innermost("NSpid:\t18422\n"), Some(18422));
        assert_eq!(innermost("Name:\ta\n"), None);
        let stat = "4711 (a) S 1 2) (b) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 6584 1 2 3";
        let second = rustix::param::clock_ticks_per_second();
        assert_eq!(began(stat), Some(Duration::from_nanos(6584 * 1_000_000_000 / second)));
        assert_eq!(began("4711 (a) S 1"), None);
        // This very process.
        let pid = std::process::id();
        assert!(matches!(Life::of(pid), Life::Lives { inner, began } if inner == pid && !began.is_zero()));
    }

    #[test]
    fn nobody_but_the_broker_that_began_a_file_stands_for_it() {
        let now = Now {
            wall: "2026-11-22T12:00:00Z".parse().unwrap(),
            boot: Duration::from_secs(10_000),
            boot_id: "".into(),
        };
        let file = |pid| Some((pid, "2026-11-22T11:00:00Z".parse().unwrap()));
        let by = |pid, inner, began| {
            let began = Duration::from_secs(began);
            let life = Life::Lives { inner, began };
            Locked::By(Holder { pid, life })
        };
        // The file was begun 6400 s after the boot.
        for (locked, broker, want) in [
            (by(7, 7, 6399), file(7), Lock::Broker),
            (by(7, 7, 6402), file(7), Lock::Broker),
            // Somebody else has that pid now.
            (by(7, 7, 6403), file(7), Lock::Unknown),
            (by(7, 7, 9999), file(7), Lock::Unknown),
            (by(8, 8, 1), file(7), Lock::Other(8)),
            // A container: any pid can be had there.
            (by(4711, 7, 1), file(7), Lock::Unknown),
            (by(7, 1, 1), file(7), Lock::Other(7)),
            (by(7, 7, 1), None, Lock::Unknown),
            (Locked::Somehow, file(7), Lock::Unknown),
            (Locked::Not, file(7), Lock::Free),
            (Locked::Not, None, Lock::Free),
        ] {
            assert_eq!(locked.judge(broker, &now), want, "{locked:?} {broker:?}");
        }
        for (life, want) in [(Life::Hidden, Lock::Unknown), (Life::Over, Lock::Other(7))] {
            assert_eq!(Locked::By(Holder { pid: 7, life }).judge(file(7), &now), want);
        }
    }

    #[test]
    fn the_name_of_a_file_tells_who_made_it() {
        let time = "2026-11-22T13:34:30.214161Z".parse().unwrap();
        let name = "20261122T133430.214161Z-9194.jsonl";
        assert_eq!(named(name), Some((9194, time)));
        assert_eq!(named(&format!("{name}.1")), Some((9194, time)));
        for odd in [
            "audit.jsonl",
            "Z-1.jsonl",
            "20261122T133430.214161Z-.jsonl",
            "20261322T133430.2Z-1.jsonl",
        ] {
            assert_eq!(named(odd), None, "{odd}");
        }
    }
}
