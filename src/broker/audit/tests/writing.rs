//! What the writer does when the disk or the key comes late, and when nobody has anything more to say.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{Sink, checked, key, record};
use crate::broker::audit::{
    Audit, AuditWriter, KeySlot, OnFull, Settings,
    verify::{End, SealedBy},
};

/// A disk with so much room, in whatever files. Who writes to it is counted.
#[derive(Clone, Default)]
struct Disk {
    room: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
    interrupts: Arc<AtomicUsize>,
    files: Arc<Mutex<Vec<Vec<u8>>>>,
}

struct File(usize, Disk);

impl Disk {
    fn with_room(room: usize) -> Self {
        let disk = Self::default();
        disk.room.store(room, Ordering::SeqCst);
        disk
    }

    fn has_room(&self) {
        self.room.store(usize::MAX, Ordering::SeqCst);
    }

    fn files(&self) -> Vec<Vec<u8>> {
        self.files.lock().unwrap().clone()
    }

    fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// A broker that writes here; nobody has told it a key.
    fn broker(&self, on_full: OnFull) -> (Audit, AuditWriter, KeySlot) {
        let disk = self.clone();
        let settings = Settings {
            on_full,
            ..Settings::with_key()
        };
        let (audit, writer) = Audit::start(settings, move || {
            let mut files = disk.files.lock().unwrap();
            files.push(Vec::new());
            Ok((format!("{}.jsonl", files.len()), File(files.len() - 1, disk.clone())))
        })
        .unwrap();
        let slot = writer.key_slot();
        (audit, writer, slot)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.writes.fetch_add(1, Ordering::SeqCst);
        if self.1.interrupts.load(Ordering::SeqCst) > 0 {
            self.1.interrupts.fetch_sub(1, Ordering::SeqCst);
            return Err(io::ErrorKind::Interrupted.into());
        }
        let room = self.1.room.load(Ordering::SeqCst);
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = room.min(bytes.len());
        if room != usize::MAX {
            self.1.room.fetch_sub(written, Ordering::SeqCst);
        }
        self.1.files.lock().unwrap()[self.0].extend(&bytes[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
    panic!("waited in vain until {what}");
}

fn operations(bytes: &[u8]) -> usize {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    text.lines().filter(|line| line.contains("\"operation\"")).count()
}

#[test]
fn calls_that_did_not_end_well_are_counted() {
    let (audit, writer) = Audit::start(Settings::without_key(), || Ok(("audit".into(), Sink::default()))).unwrap();
    audit.record(record("one"));
    assert_eq!(audit.failed_calls(), 0);
    for _ in 0..2 {
        audit.record(crate::broker::audit::Record {
            outcome: "error",
            ..record("two")
        });
    }
    audit.refused();
    assert_eq!(audit.failed_calls(), 3);
    writer.finish();
}

#[test]
fn the_writer_ends_when_nobody_can_say_anything_any_more() {
    let (audit, writer) = Audit::start(Settings::without_key(), || Ok(("audit".into(), Sink::default()))).unwrap();
    let other = audit.clone();
    drop(audit);
    other.record(record("one"));
    assert!(!writer.thread.is_finished());
    drop(other);
    until("the writer ends", || writer.thread.is_finished());
}

#[tokio::test]
async fn who_waits_for_the_key_waits_only_where_one_is_wanted() {
    let soon = async |writer: &AuditWriter| {
        let settled = writer.key_is_settled();
        tokio::time::timeout(Duration::from_millis(50), settled).await.is_ok()
    };
    let disk = Disk::with_room(usize::MAX);
    let (_audit, unwanted, _) = disk.broker(OnFull::Serve);
    assert!(soon(&unwanted).await);
    unwanted.finish();
    let (_audit, wanted, slot) = disk.broker(OnFull::Refuse);
    assert!(!soon(&wanted).await);
    slot.tell(Some(key()));
    assert!(soon(&wanted).await);
    wanted.finish();
}

/// A file without a key would be a weak one at the beginning of each broker.
#[test]
fn where_nothing_goes_without_a_record_the_first_line_waits_for_the_key() {
    let disk = Disk::with_room(usize::MAX);
    let (audit, writer, slot) = disk.broker(OnFull::Refuse);
    thread::sleep(Duration::from_millis(100));
    slot.tell(Some(key()));
    until("the disk takes lines", || audit.check().is_ok());
    writer.finish();
    let files = disk.files();
    assert_eq!(files.len(), 1);
    assert_eq!((operations(&files[0]), checked(&files[0]).sealed), (0, SealedBy::Key));
}

/// Several lines go out at once: the disk may be full at every octet of them.
#[test]
fn wherever_the_disk_gets_full_the_chain_goes_on_from_what_is_there() {
    for room in (50..1800).step_by(70) {
        let disk = Disk::with_room(room);
        let (audit, writer, slot) = disk.broker(OnFull::Serve);
        for n in 0..5 {
            audit.record(record(&format!("op{n}")));
        }
        slot.tell(Some(key()));
        until("the disk has refused or taken them all", || {
            let refused = disk.room.load(Ordering::SeqCst) == 0 && disk.writes() > 1;
            refused || disk.files().iter().any(|file| operations(file) == 5)
        });
        disk.has_room();
        audit.record(record("after"));
        writer.finish();
        let read = checked(&disk.files()[0]);
        assert_eq!((read.faults, read.end), (Vec::new(), End::Closed), "{room}");
        assert_eq!(read.records + read.lost, 6, "{room}");
        assert_eq!(audit.lost(), read.lost, "{room}");
    }
}

#[test]
fn a_write_that_was_interrupted_is_repeated() {
    let disk = Disk::with_room(usize::MAX);
    disk.interrupts.store(3, Ordering::SeqCst);
    let (audit, writer, slot) = disk.broker(OnFull::Serve);
    slot.tell(Some(key()));
    audit.record(record("one"));
    writer.finish();
    assert_eq!((audit.lost(), operations(&disk.files()[0])), (0, 1));
}

#[test]
fn a_file_that_got_no_line_is_begun_at_the_end_for_what_was_lost() {
    let disk = Disk::with_room(0);
    let (audit, writer, slot) = disk.broker(OnFull::Serve);
    slot.tell(Some(key()));
    audit.record(record("lost"));
    until("it is lost", || audit.lost() == 1);
    disk.has_room();
    writer.finish();
    let [file] = <[Vec<u8>; 1]>::try_from(disk.files()).unwrap();
    let checked = checked(&file);
    assert_eq!((checked.lost, operations(&file)), (1, 0));
    assert_eq!(checked.end, End::Closed);
}

#[test]
fn a_file_that_has_not_begun_is_not_left_for_another_one() {
    let disk = Disk::with_room(0);
    let (audit, writer, slot) = disk.broker(OnFull::Serve);
    slot.tell(None);
    audit.record(record("lost"));
    until("it is lost", || audit.lost() == 1);
    slot.tell(Some(key()));
    disk.has_room();
    audit.record(record("two"));
    until("there is a line", || {
        disk.files().iter().any(|file| operations(file) == 1)
    });
    audit.record(record("three"));
    writer.finish();
    let files = disk.files();
    assert_eq!(files.iter().map(|file| operations(file)).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn a_disk_that_refuses_is_asked_again_four_times_a_second_and_some_times_at_the_end() {
    let disk = Disk::with_room(0);
    let (audit, writer, slot) = disk.broker(OnFull::Refuse);
    slot.tell(Some(key()));
    until("the disk has refused", || disk.writes() > 0);
    let before = disk.writes();
    thread::sleep(Duration::from_millis(600));
    let meanwhile = disk.writes() - before;
    assert!(meanwhile <= 3, "{meanwhile}");
    assert!(audit.check().is_err());
    let before = disk.writes();
    writer.finish();
    assert_eq!(disk.writes() - before, 5, "one at once and four more");
}

fn refused_within_three_records() -> (Disk, Audit, AuditWriter) {
    let disk = Disk::with_room(350);
    let (audit, writer, slot) = disk.broker(OnFull::Refuse);
    slot.tell(Some(key()));
    until("the disk takes lines", || audit.check().is_ok());
    for n in 0..3 {
        audit.record(record(&format!("op{n}")));
    }
    until("the disk has refused", || audit.check().is_err());
    (disk, audit, writer)
}

#[test]
fn a_disk_that_still_refuses_at_the_end_has_all_or_nothing_of_a_record_and_the_rest_is_counted() {
    let (disk, audit, writer) = refused_within_three_records();
    writer.finish();
    let read = checked(&disk.files()[0]);
    assert_eq!((read.end, read.records + audit.lost()), (End::Torn, 3));
    assert!(audit.lost() > 1);
}

#[test]
fn a_disk_that_has_room_again_soon_after_the_end_takes_everything() {
    let (disk, audit, writer) = refused_within_three_records();
    let later = disk.clone();
    let mended = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        later.has_room();
    });
    writer.finish();
    mended.join().unwrap();
    let read = checked(&disk.files()[0]);
    assert_eq!((audit.lost(), read.records, read.end), (0, 3, End::Closed));
}
