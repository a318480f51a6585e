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

/// The audit of one broker: who takes records, who writes them, and who has the key.
pub(super) struct Auditing {
    pub(super) audit: Audit,
    writer: AuditWriter,
    key: JoinHandle<()>,
}

impl Auditing {
    pub(super) fn start(config: &AuditConfig, broker: &Broker, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let directory = config.directory()?.to_owned();
        let default = Settings::default();
        let settings = Settings {
            on_full: match config.on_full {
                config::OnFull::Serve => OnFull::Serve,
                config::OnFull::Refuse => OnFull::Refuse,
            },
            file_size: config
                .max_file_mib
                .map_or(default.file_size, |size| u64::from(size.get()) << 20),
            keyed: true,
            clock: Arc::clone(&clock),
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

/// Makes this process's audit files: time and pid are their names. Each is locked for as long as it is written, so that who
/// reads it knows whether more is to come.
fn files(dir: PathBuf, clock: Arc<dyn Clock>) -> impl FnMut() -> io::Result<(String, File)> + Send {
    move || {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let time = clock.now().wall.strftime("%Y%m%dT%H%M%S%.6fZ");
        let name = format!("{time}-{}.jsonl", std::process::id());
        let mut options = OpenOptions::new();
        let file = options
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.join(&name))?;
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
