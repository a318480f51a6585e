//! Where nothing may happen without a record.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{QUEUE, checked, key, record};
use crate::broker::audit::{
    Audit, AuditWriter, Full, OnFull, Settings,
    series::{Found, Lock, Verdict, judge_all},
    verify::End,
};

/// A disk with so much room; bytes beyond it are refused, in the middle of a line, too.
#[derive(Clone, Default)]
struct Small {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: Arc<AtomicUsize>,
}

impl Write for Small {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room.load(Ordering::SeqCst);
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = room.min(bytes.len());
        self.room.fetch_sub(written, Ordering::SeqCst);
        self.bytes.lock().unwrap().extend(&bytes[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start(on_full: OnFull, room: usize) -> (Small, Audit, AuditWriter) {
    let small = Small::default();
    small.room.store(room, Ordering::SeqCst);
    let disk = small.clone();
    let settings = Settings {
        on_full,
        ..Settings::with_key()
    };
    let (audit, writer) = Audit::start(settings, move || Ok(("audit".into(), disk.clone()))).unwrap();
    writer.key_slot().tell(Some(key()));
    (small, audit, writer)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain until {what}");
}

fn operations(bytes: &[u8]) -> Vec<String> {
    let lines = std::str::from_utf8(bytes).unwrap().lines();
    let lines = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter_map(|line| Some(line.get("operation")?.as_str()?.to_owned()))
        .collect()
}

#[tokio::test]
async fn while_the_disk_refuses_calls_are_refused_and_nothing_that_was_taken_is_lost() {
    // Room for the first line and a bit: the disk is full in the middle of a record.
    let (small, audit, writer) = start(OnFull::Refuse, 350);
    let under_way = audit.reserve().await.unwrap();
    audit.record_at(audit.reserve().await.unwrap(), record("taken"));
    until("the disk has refused", || audit.check().is_err()).await;
    assert_eq!(audit.reserve().await.unwrap_err(), Full);
    assert_eq!(audit.record_before(record("stream")), Err(Full));
    audit.refused();
    // A call that began before has its place.
    audit.record_at(under_way, record("begun before"));
    assert_eq!(audit.lost(), 0);
    small.room.store(usize::MAX, Ordering::SeqCst);
    until("the disk takes lines again", || audit.check().is_ok()).await;
    audit.record_at(audit.reserve().await.unwrap(), record("after"));
    writer.finish();
    let bytes = small.bytes.lock().unwrap().clone();
    let read = checked(&bytes);
    assert_eq!((read.faults.clone(), read.end), (Vec::new(), End::Closed));
    assert_eq!((read.lost, read.refused), (0, 1));
    assert_eq!(operations(&bytes), ["taken", "begun before", "after"]);
}

#[tokio::test]
async fn where_no_file_can_be_made_the_first_call_is_refused_already() {
    let tried = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&tried);
    let small = Small::default();
    small.room.store(usize::MAX, Ordering::SeqCst);
    let disk = small.clone();
    let settings = Settings {
        on_full: OnFull::Refuse,
        ..Settings::without_key()
    };
    let (audit, writer) = Audit::start(settings, move || {
        if counting.fetch_add(1, Ordering::SeqCst) < 2 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(("audit".into(), disk.clone()))
    })
    .unwrap();
    assert_eq!(audit.reserve().await.unwrap_err(), Full);
    until("the file is made", || audit.check().is_ok()).await;
    assert_eq!(tried.load(Ordering::SeqCst), 3);
    drop(audit.reserve().await.unwrap());
    writer.finish();
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_place_is_free_again_when_its_call_is_gone() {
    let (small, audit, writer) = start(OnFull::Refuse, usize::MAX);
    let mut places = Vec::new();
    for _ in 0..QUEUE {
        places.push(audit.reserve().await.unwrap());
    }
    assert_eq!(audit.reserve().await.unwrap_err(), Full);
    assert_eq!(audit.check(), Err(Full));
    places.pop();
    let place = audit.reserve().await.unwrap();
    assert_eq!(audit.record_before(record("stream")), Err(Full));
    audit.record_at(place, record("one"));
    for (n, place) in places.drain(..).enumerate() {
        audit.record_at(place, record(&format!("op{n}")));
    }
    writer.finish();
    assert_eq!(audit.lost(), 0);
    let read = checked(&small.bytes.lock().unwrap().clone());
    assert_eq!((read.faults, read.records), (Vec::new(), u64::try_from(QUEUE).unwrap()));
}

#[tokio::test]
async fn a_broker_that_ends_while_the_disk_refuses_ends() {
    let (small, audit, writer) = start(OnFull::Refuse, 400);
    audit.record_at(audit.reserve().await.unwrap(), record("taken"));
    audit.record_at(audit.reserve().await.unwrap(), record("lost"));
    until("the disk has refused", || audit.check().is_err()).await;
    tokio::task::spawn_blocking(|| writer.finish()).await.unwrap();
    assert!(audit.lost() > 0, "what is lost at the end is counted");
    let read = checked(&small.bytes.lock().unwrap().clone());
    assert_eq!((read.faults, read.end), (Vec::new(), End::Torn));
}

#[tokio::test]
async fn where_calls_go_on_the_file_says_how_many_lines_are_missing() {
    let (small, audit, writer) = start(OnFull::Serve, 350);
    audit.record(record("torn"));
    until("the disk is full", || small.room.load(Ordering::SeqCst) == 0).await;
    for n in 1..=3 {
        assert!(audit.check().is_ok());
        audit.record_at(audit.reserve().await.unwrap(), record("lost"));
        until("the loss is counted", || audit.lost() == n).await;
    }
    small.room.store(usize::MAX, Ordering::SeqCst);
    audit.record(record("after"));
    writer.finish();
    let bytes = small.bytes.lock().unwrap().clone();
    let read = checked(&bytes);
    assert_eq!((read.faults.clone(), read.end), (Vec::new(), End::Closed));
    assert_eq!((read.lost, read.records), (3, 2));
    assert_eq!(operations(&bytes), ["torn", "after"]);
}

#[tokio::test]
async fn a_file_that_is_named_as_the_next_one_is_not_left_without_a_line() {
    let room = Arc::new(AtomicUsize::new(usize::MAX));
    let files: Arc<Mutex<Vec<Small>>> = Arc::default();
    let (made, shared) = (Arc::clone(&files), Arc::clone(&room));
    let settings = Settings {
        file_size: 1,
        ..Settings::with_key()
    };
    let (audit, writer) = Audit::start(settings, move || {
        let mut made = made.lock().unwrap();
        made.push(Small {
            bytes: Arc::default(),
            room: Arc::clone(&shared),
        });
        Ok((format!("{}.jsonl", made.len()), made.last().unwrap().clone()))
    })
    .unwrap();
    writer.key_slot().tell(Some(key()));
    let bytes = |file: usize| {
        let files = files.lock().unwrap();
        files
            .get(file)
            .map_or_else(Vec::new, |file| file.bytes.lock().unwrap().clone())
    };
    audit.record(record("first"));
    until("it is written", || bytes(0).ends_with(b"\n")).await;
    // The closing line, which names the next file, comes half.
    room.store(50, Ordering::SeqCst);
    audit.record(record("lost"));
    until("the disk is full", || audit.lost() == 1).await;
    room.store(usize::MAX, Ordering::SeqCst);
    writer.finish();
    let found = [0, 1].map(|file| Found {
        name: format!("{}.jsonl", file + 1),
        lock: Lock::Free,
        checked: checked(&bytes(file)),
    });
    assert_eq!(found[1].checked.lost, 1);
    for judged in judge_all(found.to_vec()) {
        assert_eq!(judged.verdict, Verdict::Whole, "{judged:?}");
    }
}
