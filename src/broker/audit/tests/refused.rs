//! What is told of refused calls that have no records of their own, and of what could not be written before the end.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;

use super::{Sink, checked, key, record};
use crate::broker::audit::{
    Audit, AuditWriter, OnFull, QUEUE, Refusals, Settings,
    verify::{Checked, End, Wrong},
};

fn refusals(calls: u64) -> Refusals {
    Refusals {
        time: Timestamp::UNIX_EPOCH,
        until: Timestamp::UNIX_EPOCH,
        sandbox: None,
        calls: [("RATE_LIMITED", calls), ("UNAUTHENTICATED", 1)].into(),
    }
}

/// An audit whose file can be made once somebody says so.
struct Blocked {
    audit: Audit,
    writer: AuditWriter,
    sink: Sink,
    free: Arc<AtomicBool>,
}

impl Blocked {
    fn new(on_full: OnFull) -> Self {
        let (sink, free) = (Sink::default(), Arc::new(AtomicBool::new(false)));
        let (file, is_free) = (sink.clone(), Arc::clone(&free));
        let settings = Settings {
            on_full,
            ..Settings::with_key()
        };
        let (audit, writer) = Audit::start(settings, move || {
            if is_free.load(Ordering::SeqCst) {
                Ok(("audit".into(), file.clone()))
            } else {
                Err(io::ErrorKind::NotADirectory.into())
            }
        })
        .unwrap();
        writer.key_slot().tell(Some(key()));
        Self {
            audit,
            writer,
            sink,
            free,
        }
    }

    fn end(self) -> Checked {
        self.free.store(true, Ordering::SeqCst);
        self.writer.finish();
        checked(&self.sink.0.lock().unwrap())
    }
}

fn bytes(with: impl FnOnce(&Audit)) -> Vec<u8> {
    let sink = Sink::default();
    let file = sink.clone();
    let (audit, writer) = Audit::start(Settings::with_key(), move || Ok(("audit".into(), file.clone()))).unwrap();
    writer.key_slot().tell(Some(key()));
    with(&audit);
    writer.finish();
    sink.0.lock().unwrap().clone()
}

#[test]
fn counted_calls_are_a_line_of_the_chain_and_no_record() {
    let bytes = bytes(|audit| {
        audit.record(record("before"));
        audit.refusals(refusals(2000));
        audit.record(record("after"));
        assert_eq!(audit.failed_calls(), 2001);
    });
    let read = checked(&bytes);
    assert_eq!((read.faults, read.end), (Vec::new(), End::Closed));
    assert_eq!((read.records, read.counted, read.lost, read.refused), (2, 2001, 0, 0));
    // Nobody can make them fewer, or take the line away.
    let text = String::from_utf8(bytes).unwrap();
    let fewer = checked(text.replacen(":2000", ":0002", 1).replacen(":0002", ":2", 1).as_bytes());
    assert_eq!(fewer.faults[0].what, Wrong::Changed);
    let without: String = text
        .split_inclusive('\n')
        .filter(|line| !line.contains("refusals"))
        .collect();
    assert_eq!(checked(without.as_bytes()).faults[0].what, Wrong::Missing { lines: 1 });
}

#[test]
fn what_is_lost_before_there_is_a_file_is_told_by_the_one_of_the_end() {
    let blocked = Blocked::new(OnFull::Serve);
    for _ in 0..2 {
        blocked.audit.record(record("lost"));
    }
    while blocked.audit.lost() < 2 {
        std::thread::yield_now();
    }
    let read = blocked.end();
    assert_eq!((read.faults, read.end), (Vec::new(), End::Closed));
    assert_eq!((read.records, read.lost), (0, 2));
}

#[test]
fn calls_that_were_refused_before_there_is_a_file_are_told_by_the_one_of_the_end() {
    let blocked = Blocked::new(OnFull::Refuse);
    for _ in 0..3 {
        blocked.audit.refused();
    }
    let read = blocked.end();
    assert_eq!((read.faults, read.end), (Vec::new(), End::Closed));
    assert_eq!((read.records, read.refused), (0, 3));
}

#[test]
fn counts_that_cannot_be_written_are_told_as_calls_without_a_record() {
    let blocked = Blocked::new(OnFull::Refuse);
    for _ in 0..QUEUE + 2 {
        blocked.audit.refusals(refusals(9));
    }
    assert_eq!(blocked.audit.lost(), 0);
    let read = blocked.end();
    assert_eq!((read.faults, read.end), (Vec::new(), End::Closed));
    assert_eq!((read.counted, read.refused, read.lost), (10 * QUEUE as u64, 20, 0));
}
