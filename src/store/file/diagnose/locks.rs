//! Who holds a lock of the store.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use tokio::time::sleep;

use super::{
    super::{blocking::Doing, layout},
    Diagnosis,
};
use crate::store::Operation;

/// A change of a record takes milliseconds: a lock that is held at both ends of this pause is worth a word.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn look_at_locks(root: &Path, diagnosis: &mut Diagnosis) {
    let files = match layout::lock_files(root) {
        Ok(files) => files,
        Err(cause) => {
            let doing = Doing::new(Operation::Lock, format!("the store {root:?}"));
            return diagnosis.found("locks", doing.failed(cause));
        }
    };
    let mut held: Vec<_> = files.into_iter().filter(|path| is_held(path)).collect();
    if !held.is_empty() {
        sleep(PAUSE).await;
        held.retain(|path| is_held(path));
    }
    if held.is_empty() {
        return diagnosis.good("locks", "none is held");
    }
    for path in held {
        let by = holder(&path).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        let of = layout::lock_of(root, &path).unwrap_or_else(|| format!("{path:?}"));
        diagnosis.notice(
            "locks",
            format!("{by} holds the lock of {of}"),
            format!("wait for it; if it stays, `fuser {path:?}` shows which process to stop"),
        );
    }
}

/// Asks with a shared lock, freed at once: whoever wants the lock at that very moment tries again a millisecond later.
pub(super) fn is_held(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return false;
    };
    let file = File::from(file);
    let tried = file.try_lock_shared();
    drop(file.unlock());
    matches!(tried, Err(TryLockError::WouldBlock))
}

/// Who holds a lock, where the system tells.
fn holder(path: &Path) -> Option<u32> {
    let inode = path.symlink_metadata().ok()?.ino();
    holder_of(&fs::read_to_string("/proc/locks").ok()?, inode)
}

/// `1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF`. The device there is not always the one that stat tells, so the
/// inode decides, and two holders are none.
fn holder_of(locks: &str, inode: u64) -> Option<u32> {
    let mut pids = locks.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (kind, pid, file) = (fields.next()?, fields.nth(2)?, fields.next()?);
        let found: u64 = file.rsplit(':').next()?.parse().ok()?;
        (kind == "FLOCK" && found == inode).then(|| pid.parse().ok())?
    });
    let pid = pids.next();
    if pids.next().is_some() { None } else { pid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_read_from_what_the_system_tells() {
        let told = "1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF\n\
                    2: POSIX  ADVISORY  READ 12 08:01:1234 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE -1 08:01:99 0 EOF\n\
                    4: FLOCK  ADVISORY  WRITE 5 08:01:7 0 EOF\n\
                    5: FLOCK  ADVISORY  WRITE 6 08:02:7 0 EOF\nodd\n";
        assert_eq!(holder_of(told, 1234), Some(4711));
        for inode in [99, 7, 1] {
            assert_eq!(holder_of(told, inode), None, "{inode}");
        }
    }
}
