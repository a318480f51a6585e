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

use jiff::Timestamp;
use serde::Serialize;

use super::caller::{Named, Subject};
use crate::credential::Name;

/// How many records may wait for the disk. At the highest rate that was ever measured, a disk may stand still for a
/// quarter of a second; at the default rate of a socket, for half a minute.
const QUEUE: usize = 16 * 1024;
/// How long the writer leaves alone what comes after a write. The lines of that time go out together.
const PAUSE: Duration = Duration::from_millis(20);
/// So many records end the pause: what waits stays small, also when calls come fast.
const PLENTY: usize = 2 * 1024;
/// How many lines go out in one write.
const LINES: usize = 256;

/// One operation.
#[derive(Debug, Clone)]
pub struct Record {
    /// When the call began.
    pub time: Timestamp,
    /// The principal: the sandbox's name. `None`: the call was refused before it was known.
    pub sandbox: Option<Arc<str>>,
    /// The peer's uid, as the kernel told at accept.
    pub peer_uid: Option<u32>,
    /// The peer's pid, as the kernel told at accept.
    pub peer_pid: Option<i32>,
    /// The RPC method's name.
    pub operation: String,
    /// What the call is about, as far as it said so.
    pub subject: Option<Subject>,
    /// `ok`, `error` or `cancelled` (the caller went away before the answer).
    pub outcome: &'static str,
    /// The reason of an error.
    pub reason: Option<String>,
}

/// What is written of a [`Record`]. The field order is the order in the line.
#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, UTC.
    time: Timestamp,
    sandbox: &'a str,
    peer_uid: Option<u32>,
    peer_pid: Option<i32>,
    operation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// The first characters of a login session's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> From<&'a Record> for Line<'a> {
    fn from(record: &'a Record) -> Self {
        let named = record.subject.as_ref().and_then(Subject::named);
        let (entry, provider) = match named {
            Some(Named::Entry(entry) | Named::Login { entry: Some(entry), .. }) => (Some(entry), Some(&entry.provider)),
            Some(Named::Provider(provider)) => (None, Some(provider)),
            Some(Named::Key(_) | Named::Login { entry: None, .. }) | None => (None, None),
        };
        let provider = provider.map(Name::as_str);
        let bucket = entry.map(|entry| entry.bucket.as_str());
        let key = match named {
            Some(Named::Key(name)) => Some(name.as_str()),
            _ => None,
        };
        let session = match named {
            Some(Named::Login { session, .. }) => Some(session.as_str()),
            _ => None,
        };
        Self {
            time: record.time,
            sandbox: record.sandbox.as_deref().unwrap_or_default(),
            peer_uid: record.peer_uid,
            peer_pid: record.peer_pid,
            operation: &record.operation,
            provider,
            bucket,
            key,
            session,
            outcome: record.outcome,
            reason: record.reason.as_deref(),
        }
    }
}

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

fn lines(records: &[Record]) -> std::io::Result<Vec<u8>> {
    let mut lines = Vec::with_capacity(256 * records.len());
    for record in records {
        serde_json::to_writer(&mut lines, &Line::from(record))?;
        lines.push(b'\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn record(operation: &str) -> Record {
        Record {
            time: Timestamp::UNIX_EPOCH,
            sandbox: Some("line\nbreak".into()),
            peer_uid: Some(1),
            peer_pid: None,
            operation: operation.into(),
            subject: None,
            outcome: "ok",
            reason: None,
        }
    }

    #[test]
    fn every_record_is_one_line_of_json_in_order() {
        let sink = Sink::default();
        let copy = sink.clone();
        let (audit, writer) = Audit::start(move || Ok(copy.clone())).unwrap();
        for n in 0..500 {
            audit.record(record(&format!("op{n}")));
        }
        writer.finish();
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let operations: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["operation"].to_string())
            .collect();
        assert_eq!(operations.len(), 500);
        assert_eq!(operations[499], "\"op499\"");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_record_tries_again() {
        let sink = Sink::default();
        let copy = sink.clone();
        let mut calls = 0;
        let (audit, writer) = Audit::start(move || {
            calls += 1;
            if calls == 1 {
                Err(std::io::Error::other("disk full"))
            } else {
                Ok(copy.clone())
            }
        })
        .unwrap();
        audit.record(record("first"));
        while audit.lost() == 0 {
            std::thread::yield_now();
        }
        audit.record(record("second"));
        writer.finish();
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("second") && !text.contains("first"));
    }

    #[test]
    fn what_does_not_fit_while_the_disk_stands_still_is_counted_and_the_rest_is_written() {
        let sink = Sink::default();
        let copy = sink.clone();
        let (opening, opened) = std::sync::mpsc::channel();
        let (go_on, stands_still) = std::sync::mpsc::channel::<()>();
        let (audit, writer) = Audit::start(move || {
            opening.send(()).unwrap();
            stands_still.recv().unwrap();
            Ok(copy.clone())
        })
        .unwrap();
        audit.record(record("first"));
        opened.recv().unwrap();
        for _ in 0..QUEUE + 5 {
            audit.record(record("more"));
        }
        assert_eq!(audit.lost(), 5);
        go_on.send(()).unwrap();
        writer.finish();
        let lines = sink.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines, 1 + QUEUE);
        audit.record(record("too late"));
        assert_eq!(audit.lost(), 6);
    }

    #[test]
    fn nobody_asked_no_file() {
        let (audit, writer) = Audit::start(|| -> std::io::Result<Sink> { panic!("opened") }).unwrap();
        drop(audit);
        writer.finish();
    }
}
