//! The queue and its writer.

mod files;
mod reading;
mod refused;
mod refusing;
mod tampering;
mod writing;

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{Audit, Record, Settings, chain::Key, verify};

/// So many records wait at most.
const QUEUE: usize = 16_384;

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

fn key() -> Key {
    Key::new(Zeroizing::new([7; 32]), &[9; 32])
}

/// What is said of these bytes by who has the key.
fn checked(bytes: &[u8]) -> verify::Checked {
    verify::check(bytes, &[key()]).unwrap()
}

fn record(operation: &str) -> Record {
    Record {
        time: Timestamp::UNIX_EPOCH,
        sandbox: Some("line\nbreak".into()),
        peer_uid: Some(1),
        peer_pid: None,
        peer: None,
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
    let (audit, writer) = Audit::start(Settings::without_key(), move || Ok(("audit".into(), copy.clone()))).unwrap();
    for n in 0..500 {
        audit.record(record(&format!("op{n}")));
    }
    writer.finish();
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let operations: Vec<String> = lines
        .filter_map(|line| line.get("operation").map(ToString::to_string))
        .collect();
    assert_eq!(operations.len(), 500);
    assert_eq!(operations[499], "\"op499\"");
}

#[test]
fn what_cannot_be_written_is_counted_and_the_next_record_tries_again() {
    let sink = Sink::default();
    let copy = sink.clone();
    let mut calls = 0;
    let (audit, writer) = Audit::start(Settings::without_key(), move || {
        calls += 1;
        if calls == 1 {
            Err(std::io::Error::other("disk full"))
        } else {
            Ok(("audit".into(), copy.clone()))
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
    let (audit, writer) = Audit::start(Settings::without_key(), move || {
        opening.send(()).unwrap();
        stands_still.recv().unwrap();
        Ok(("audit".into(), copy.clone()))
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
    // The first one and the last one, and one that tells of the loss.
    assert_eq!(lines, 3 + 1 + QUEUE);
    audit.record(record("too late"));
    assert_eq!(audit.lost(), 6);
}

#[test]
fn nobody_asked_no_file() {
    let (audit, writer) = Audit::start(Settings::without_key(), || -> std::io::Result<(String, Sink)> {
        panic!("opened")
    })
    .unwrap();
    drop(audit);
    writer.finish();
}
