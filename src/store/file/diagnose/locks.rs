//! Who holds a lock of the store.

use std::{
    fs::{self, TryLockError},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use rustix::fs::OFlags;
use tokio::time::sleep;

use super::{
    super::{blocking::Doing, durable, layout},
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
    let Ok(Some((file, _about))) = durable::open(path, OFlags::NOFOLLOW) else {
        return false;
    };
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
    use std::fs::File;

    use super::*;
    use crate::store::file::diagnose::Outcome;

    /// Paused time: the look's pause passes when this test waits, and at no other time.
    #[tokio::test(start_paused = true)]
    async fn a_lock_that_is_free_a_moment_later_is_not_worth_a_word() {
        let root = tempfile::tempdir().unwrap();
        let directory = layout::locks(root.path()).join("70");
        fs::create_dir_all(&directory).unwrap();
        let file = File::create(directory.join("64656661756c74.lock")).unwrap();
        file.lock().unwrap();
        let mut held = Diagnosis::default();
        look_at_locks(root.path(), &mut held).await;
        let freed = async {
            sleep(PAUSE / 2).await;
            file.unlock().unwrap();
        };
        let mut short = Diagnosis::default();
        tokio::join!(look_at_locks(root.path(), &mut short), freed);
        let outcomes = |diagnosis: &Diagnosis| {
            let all = diagnosis.findings.iter();
            all.map(|found| matches!(found.outcome, Outcome::Good(_)))
                .collect::<Vec<_>>()
        };
        assert_eq!((outcomes(&held), outcomes(&short)), (vec![false], vec![true]));
    }

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
