//! The record of what was asked: one JSON line per credential operation, without any secret.
//!
//! Calls hand their record to a bounded queue and never wait for the disk; one thread writes. It writes the first record
//! at once and then pauses, so that a busy broker wakes it some dozens of times a second and not with every call. What does
//! not fit into the queue, or cannot be written, is counted and shown by `credbroker status`.

use std::{
    io::Write,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

mod line;
#[cfg(test)]
mod tests;

pub use line::Record;
use line::lines;

/// How many records may wait for the disk. At the highest rate that was ever measured, a disk may stand still for a
/// quarter of a second; at the default rate of a socket, for half a minute.
const QUEUE: usize = 16 * 1024;
/// How long the writer leaves alone what comes after a write. The lines of that time go out together.
const PAUSE: Duration = Duration::from_millis(20);
/// So many records end the pause: what waits stays small, also when calls come fast.
const PLENTY: usize = 2 * 1024;
/// How many lines go out in one write.
const LINES: usize = 256;

/// Takes records. Clones share the queue; with the last one the writer ends.
#[derive(Debug, Clone)]
pub struct Audit {
    sender: Arc<Sender>,
}

/// The writer behind an [`Audit`]; [`AuditWriter::finish`] waits for the last line.
#[derive(Debug)]
pub struct AuditWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Sender(Arc<Shared>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.finish();
    }
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something for the writer to do before its pause is over.
    wake: Condvar,
    lost: AtomicU64,
    failed_calls: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    records: Vec<Record>,
    writer: Writer,
    /// Nothing is taken any more: the writer ends, even if some call that was cut off still holds an [`Audit`]. What waits is
    /// written before.
    finished: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Writer {
    /// Writes, or is about to look.
    #[default]
    Busy,
    /// Waits for its pause to end, or for plenty.
    Pauses,
    /// Waits for the first record.
    Waits,
}

impl Audit {
    /// Starts the writer. `open` is called with the first record, so that a broker nobody asks leaves no file.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start<W: Write>(
        open: impl FnMut() -> std::io::Result<W> + Send + 'static,
    ) -> std::io::Result<(Self, AuditWriter)> {
        let shared = Arc::new(Shared::default());
        let of_writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || of_writer.write_all(open))?;
        let writer = AuditWriter {
            shared: Arc::clone(&shared),
            thread,
        };
        let sender = Arc::new(Sender(shared));
        Ok((Self { sender }, writer))
    }

    /// Hands over a record. Never waits for the disk; a full queue loses the record and counts it.
    pub fn record(&self, record: Record) {
        let shared = &*self.sender.0;
        if record.outcome != "ok" {
            shared.failed_calls.fetch_add(1, Ordering::Relaxed);
        }
        let mut queue = shared.queue();
        if queue.finished || queue.records.len() >= QUEUE {
            drop(queue);
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.records.push(record);
        let wanted = match queue.writer {
            Writer::Busy => false,
            Writer::Pauses => queue.records.len() == PLENTY,
            Writer::Waits => true,
        };
        if wanted {
            // Once is enough: whoever comes next need not wake it again.
            queue.writer = Writer::Busy;
            drop(queue);
            shared.wake.notify_one();
        }
    }

    /// Records that were lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sender.0.lost.load(Ordering::Relaxed)
    }

    /// Calls that did not end with `ok`.
    #[must_use]
    pub fn failed_calls(&self) -> u64 {
        self.sender.0.failed_calls.load(Ordering::Relaxed)
    }
}

impl AuditWriter {
    /// Waits until everything handed over so far is written. Blocks.
    pub fn finish(self) {
        self.shared.finish();
        if self.thread.join().is_err() {
            tracing::error!("the audit writer panicked; its last lines may be missing");
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self) {
        self.queue().finished = true;
        self.wake.notify_one();
    }

    /// Puts what waits to be written into `records`, which is empty, as soon as there is something; `false`: nothing comes
    /// any more. `pause`: to be left alone for a while before.
    fn take(&self, records: &mut Vec<Record>, pause: bool) -> bool {
        let mut queue = self.queue();
        if pause {
            queue.writer = Writer::Pauses;
            let waited = self
                .wake
                .wait_timeout_while(queue, PAUSE, |queue| !queue.finished && queue.records.len() < PLENTY);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.writer = Writer::Waits;
        let waited = self
            .wake
            .wait_while(queue, |queue| !queue.finished && queue.records.is_empty());
        queue = waited.unwrap_or_else(PoisonError::into_inner);
        queue.writer = Writer::Busy;
        std::mem::swap(&mut queue.records, records);
        !records.is_empty()
    }

    fn write_all<W: Write>(&self, mut open: impl FnMut() -> std::io::Result<W>) {
        let mut file: Option<W> = None;
        let mut records = Vec::new();
        let mut pause = false;
        while self.take(&mut records, pause) {
            for records in records.chunks(LINES) {
                self.write(records, &mut file, &mut open);
            }
            records.clear();
            // What a rush has made large need not stay so.
            records.shrink_to(LINES);
            pause = true;
        }
    }

    /// Writes some lines at once.
    fn write<W: Write>(&self, records: &[Record], file: &mut Option<W>, open: &mut impl FnMut() -> std::io::Result<W>) {
        let written = lines(records).and_then(|lines| match file {
            Some(file) => file.write_all(&lines),
            None => {
                let mut opened = open()?;
                opened.write_all(&lines)?;
                *file = Some(opened);
                Ok(())
            }
        });
        if let Err(error) = written {
            let lost = u64::try_from(records.len()).unwrap_or(u64::MAX);
            self.lost.fetch_add(lost, Ordering::Relaxed);
            tracing::error!(
                %error,
                lines = records.len(),
                "audit lines are lost: make room or mend the permissions of the audit directory"
            );
            // The next record tries again with a new file: the old one may end in half a line.
            *file = None;
        }
    }
}
