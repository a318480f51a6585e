//! Where the records of a broker are written, and what they are sealed with.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tokio::task::JoinHandle;

use super::{StartError, system};
use crate::{
    broker::{
        Broker,
        audit::{Audit, AuditWriter, KeySlot, OnFull, Settings},
    },
    clock::Clock,
    config::{self, AuditConfig},
};

/// How soon a store whose identity could not be had is asked again.
const AGAIN: Duration = Duration::from_secs(11);
/// How long the end of the broker waits for the identity, so that a short life is recorded under it, too.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// How many names a file may find taken: clocks are set back, and brokers of several containers may all have the pid 1.
const NAMES: u64 = 1000;

/// The audit of one broker: who takes records, who writes them, and who has the key.
pub(super) struct Auditing {
    pub(super) audit: Audit,
    writer: AuditWriter,
    key: JoinHandle<()>,
}

impl Auditing {
    pub(super) fn start(config: &AuditConfig, broker: &Broker, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let directory = config.directory()?.to_owned();
        let default = Settings::with_key();
        let settings = Settings {
            on_full: match config.on_full {
                config::OnFull::Serve => OnFull::Serve,
                config::OnFull::Refuse => OnFull::Refuse,
            },
            file_size: config
                .max_file_mib
                .map_or(default.file_size, |size| u64::from(size.get()) << 20),
            clock: Arc::clone(&clock),
            ..default
        };
        let (audit, writer) =
            Audit::start(settings, files(directory, clock)).map_err(system("start the audit writer"))?;
        broker.depends_on(audit.clone());
        let key = tokio::spawn(tell_key(writer.wants_key(), writer.key_slot(), broker.clone()));
        Ok(Self { audit, writer, key })
    }

    /// Writes what was handed over to its end.
    pub(super) async fn finish(self) {
        let Self { audit, writer, key } = self;
        drop(audit);
        // A key that does not come is told as such by the file.
        let _ = tokio::time::timeout(LAST_WAIT, writer.key_is_settled()).await;
        key.abort();
        // The file is written by a thread; waiting for it would block this one.
        if tokio::task::spawn_blocking(|| writer.finish()).await.is_err() {
            tracing::error!("the audit file could not be finished");
        }
    }
}

/// Makes this process's audit files: time and pid are their names, or the next microsecond where there is such a file already. Each is locked for as long as it is written, so that who
/// reads it knows whether more is to come.
fn files(dir: PathBuf, clock: Arc<dyn Clock>) -> impl FnMut() -> io::Result<(String, File)> + Send {
    move || {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let now = clock.now().wall;
        let (name, file) = (0..NAMES)
            .map(|later| {
                // Beyond the end of time there is no later.
                let time = now.checked_add(Duration::from_micros(later)).unwrap_or(now);
                let time = time.strftime("%Y%m%dT%H%M%S%.6fZ");
                let name = format!("{time}-{}.jsonl", std::process::id());
                let mut options = OpenOptions::new();
                let made = options.append(true).create_new(true).mode(0o600).open(dir.join(&name));
                made.map(|file| (name, file))
            })
            .find(|made| !matches!(made, Err(error) if error.kind() == io::ErrorKind::AlreadyExists))
            .unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::AlreadyExists)))?;
        lock(&file);
        Ok((name, file))
    }
}

/// Who just looks whether it is locked holds it for a moment.
fn lock(file: &File) {
    let mut tries = 0..10;
    while let Err(error) = flock(file, FlockOperation::NonBlockingLockExclusive) {
        if tries.next().is_none() {
            tracing::warn!(%error, "the audit file cannot be locked: who reads it takes this broker for a dead one");
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Tells the key once somebody wants it, and goes on asking for one that cannot be had yet.
async fn tell_key(wanted: impl Future<Output = ()>, slot: KeySlot, broker: Broker) {
    wanted.await;
    let mut warned = false;
    loop {
        match broker.audit_keys(true).await {
            Ok(keys) => return slot.tell(keys.into_iter().next()),
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(
                        %error,
                        "the audit is written without a key until the store can be opened: nobody can tell then whether that part \
                         of it was changed before"
                    );
                }
                slot.tell(None);
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::clock::Now;

    /// A clock that stands still.
    struct Still;

    impl Clock for Still {
        fn now(&self) -> Now {
            Now {
                wall: "2026-11-22T13:34:30.214161Z".parse().unwrap(),
                boot: Duration::ZERO,
                boot_id: "".into(),
            }
        }
    }

    #[test]
    fn a_name_that_is_taken_is_no_reason_to_lose_records_and_no_file_is_written_by_two() {
        let home = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let mut brokers = [(); 2].map(|()| files(home.path().to_owned(), Arc::new(Still)));
        let mut names = BTreeSet::new();
        for _ in 0..3 {
            for open in &mut brokers {
                names.insert(open().unwrap().0);
            }
        }
        let want = (161..167).map(|micros| format!("20261122T133430.214{micros}Z-{pid}.jsonl"));
        assert!(names.iter().cloned().eq(want), "{names:?}");
    }
}
