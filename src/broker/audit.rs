//! The record of what was asked: one JSON line per credential operation, without any secret.
//!
//! Calls hand their record to a bounded queue and never wait for the disk; one thread writes. What does not fit into the
//! queue, or cannot be written, is counted and shown by `credbroker status`.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use serde::Serialize;
use tokio::sync::mpsc;

/// How many records may wait for the disk: a second of calls at the highest rate of a socket, and some.
const QUEUE: usize = 1024;

/// One operation. The field order is the order in the line.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// RFC 3339, UTC.
    pub time: String,
    /// The principal: the sandbox's name.
    pub sandbox: String,
    /// The peer's uid, as the kernel told at accept.
    pub peer_uid: Option<u32>,
    /// The peer's pid, as the kernel told at accept.
    pub peer_pid: Option<i32>,
    /// The RPC method's name.
    pub operation: String,
    /// The provider, if the call named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The bucket, if the call named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// The API key's name, if the call named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `ok`, `error` or `cancelled` (the caller went away before the answer).
    pub outcome: &'static str,
    /// The reason of an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Takes records. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Audit {
    queue: mpsc::Sender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    lost: AtomicU64,
    failed_calls: AtomicU64,
}

/// The writer behind an [`Audit`]; [`AuditWriter::finish`] waits for the last line.
#[derive(Debug)]
pub struct AuditWriter {
    queue: mpsc::Sender<Message>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Message {
    Record(Box<Record>),
    /// Nothing comes behind this: the writer ends, even if some call that was cut off still holds an [`Audit`].
    Finish,
}

impl Audit {
    /// Starts the writer. `open` is called with the first record, so that a broker nobody asks leaves no file.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start<W: Write>(
        open: impl FnMut() -> std::io::Result<W> + Send + 'static,
    ) -> std::io::Result<(Self, AuditWriter)> {
        let (queue, records) = mpsc::channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let lost = Arc::clone(&counts);
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || write_all(records, open, &lost.lost))?;
        let writer = AuditWriter {
            queue: queue.clone(),
            thread,
        };
        Ok((Self { queue, counts }, writer))
    }

    /// Hands over a record. Never waits; a full queue loses the record and counts it.
    pub fn record(&self, record: Record) {
        if record.outcome != "ok" {
            self.counts.failed_calls.fetch_add(1, Ordering::Relaxed);
        }
        if self.queue.try_send(Message::Record(Box::new(record))).is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that were lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Calls that did not end with `ok`.
    #[must_use]
    pub fn failed_calls(&self) -> u64 {
        self.counts.failed_calls.load(Ordering::Relaxed)
    }
}

impl AuditWriter {
    /// Waits until everything handed over so far is written. Blocks.
    pub fn finish(self) {
        // If the queue is closed, the writer has ended already.
        let _ = self.queue.blocking_send(Message::Finish);
        if self.thread.join().is_err() {
            tracing::error!("the audit writer panicked; its last lines may be missing");
        }
    }
}

fn write_all<W: Write>(
    mut messages: mpsc::Receiver<Message>,
    mut open: impl FnMut() -> std::io::Result<W>,
    lost: &AtomicU64,
) {
    let mut file: Option<W> = None;
    while let Some(Message::Record(first)) = messages.blocking_recv() {
        // Everything that waits goes out in one write.
        let mut records = vec![first];
        let mut finish = false;
        while records.len() < QUEUE && !finish {
            match messages.try_recv() {
                Ok(Message::Record(record)) => records.push(record),
                Ok(Message::Finish) => finish = true,
                Err(_empty) => break,
            }
        }
        let written = lines(&records).and_then(|lines| match &mut file {
            Some(file) => file.write_all(&lines),
            None => {
                let mut opened = open()?;
                opened.write_all(&lines)?;
                file = Some(opened);
                Ok(())
            }
        });
        if let Err(error) = written {
            lost.fetch_add(u64::try_from(records.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
            tracing::error!(
                %error,
                lines = records.len(),
                "audit lines are lost: make room or mend the permissions of the audit directory"
            );
            // The next record tries again with a new file: the old one may end in half a line.
            file = None;
        }
        if finish {
            return;
        }
    }
}

fn lines(records: &[Box<Record>]) -> std::io::Result<Vec<u8>> {
    let mut lines = Vec::with_capacity(256 * records.len());
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
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
            time: "2026-01-01T00:00:00Z".into(),
            sandbox: "s".into(),
            peer_uid: Some(1),
            peer_pid: Some(2),
            operation: operation.into(),
            provider: None,
            bucket: None,
            key: Some("line\nbreak".into()),
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
    fn nobody_asked_no_file() {
        let (audit, writer) = Audit::start(|| -> std::io::Result<Sink> { panic!("opened") }).unwrap();
        drop(audit);
        writer.finish();
    }
}
