//! Where the records of a broker are written, and what they are sealed with.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
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
        audit::{Audit, AuditWriter, KeySlot, OnFull, Settings, chain::Key},
    },
    clock::Clock,
    config::{self, AuditConfig},
    store::StoreError,
};

/// How soon a store whose identity could not be had is asked again; then after twice as long each time, because a command that
/// gives the identity may ask a person.
const AGAIN: Duration = Duration::from_secs(11);
/// But it is asked so often.
const SELDOM: Duration = Duration::from_secs(600);
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
        let broker = broker.clone();
        let ask = move || {
            let broker = broker.clone();
            async move { broker.audit_keys(true).await }
        };
        let key = tokio::spawn(tell_key(writer.wants_key(), writer.key_slot(), ask));
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

/// Makes this process's audit files: time and pid are their names, or the next microsecond where there is such a file already.
/// Each is locked for as long as it is written, so that who reads it knows whether more is to come.
fn files(dir: PathBuf, clock: Arc<dyn Clock>) -> impl FnMut() -> io::Result<(String, Locked)> + Send {
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
        Ok((name, Locked::new(file)))
    }
}

/// A file that is locked, or is to be as soon as whoever else has locked it lets go.
struct Locked {
    file: File,
    locked: bool,
}

impl Locked {
    /// Who just looks whether it is locked holds it for a moment.
    fn new(file: File) -> Self {
        let mut locked = Self { file, locked: false };
        for _ in 0..10 {
            if locked.lock().is_ok() {
                return locked;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Err(error) = locked.lock() {
            tracing::warn!(
                %error,
                "the audit file cannot be locked: until it can, who reads it takes this broker for a dead one"
            );
        }
        locked
    }

    fn lock(&mut self) -> rustix::io::Result<()> {
        flock(&self.file, FlockOperation::NonBlockingLockExclusive)?;
        self.locked = true;
        Ok(())
    }
}

impl Write for Locked {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if !self.locked && self.lock().is_ok() {
            tracing::info!("the audit file is locked now");
        }
        self.file.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Tells the key once somebody wants it, and goes on asking for one that cannot be had yet.
async fn tell_key<A>(wanted: impl Future<Output = ()>, slot: KeySlot, mut ask: impl FnMut() -> A)
where
    A: Future<Output = Result<Vec<Key>, StoreError>>,
{
    wanted.await;
    let mut warned = false;
    let mut pause = AGAIN;
    loop {
        match ask().await {
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
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SELDOM);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::Instant;
    use zeroize::Zeroizing;

    use super::*;
    use crate::clock::Now;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stays_locked_is_asked_ever_more_seldom_until_it_opens() {
        let (_audit, writer) = Audit::start(Settings::with_key(), || Ok(("audit".into(), io::sink()))).unwrap();
        let began = Instant::now();
        let mut asked = Vec::new();
        let ask = || {
            asked.push(began.elapsed().as_secs());
            let opens = asked.len() == 9;
            async move {
                if opens {
                    return Ok(vec![Key::new(Zeroizing::new([7; 32]), &[9; 32])]);
                }
                Err(StoreError::Locked { mend: String::new() })
            }
        };
        tell_key(async {}, writer.key_slot(), ask).await;
        let pauses: Vec<u64> = asked.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(pauses, [11, 22, 44, 88, 176, 352, 600, 600]);
        writer.finish();
    }

    #[test]
    fn a_file_that_somebody_else_had_locked_is_locked_with_the_next_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let file = File::create_new(&path).unwrap();
        let reader = File::open(&path).unwrap();
        let is_live = || {
            let other = File::open(&path).unwrap();
            flock(&other, FlockOperation::NonBlockingLockShared).is_err()
        };
        flock(&reader, FlockOperation::LockShared).unwrap();
        let mut audit = Locked::new(file);
        audit.write_all(b"one\n").unwrap();
        assert!(!is_live());
        drop(reader);
        assert!(!is_live());
        audit.write_all(b"two\n").unwrap();
        assert!(is_live());
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
    }

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
