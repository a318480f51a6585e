//! Several files of one chain, and files that are not of it.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{Arc, Mutex},
    thread,
};

use super::{checked, key, record};
use crate::broker::audit::{
    Audit, Settings,
    chain::Chain,
    series::{Found, Judged, Lock, Verdict, in_order, judge, judge_all},
};

type Disk = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

struct OnDisk(String, Disk);

impl Write for OnDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.1.lock().unwrap();
        disk.entry(self.0.clone()).or_default().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// When a broker gets its key.
#[derive(Clone, Copy, PartialEq)]
enum Key {
    AtOnce,
    /// After the first records.
    Late,
    Never,
}

/// A broker whose files have 4 KiB, and many calls at once.
fn broker(prefix: &'static str, records: usize, when: Key) -> Disk {
    let disk = Disk::default();
    let made = Arc::clone(&disk);
    let mut count = 0;
    let settings = Settings {
        file_size: 4096,
        ..Settings::with_key()
    };
    let (audit, writer) = Audit::start(settings, move || {
        count += 1;
        let name = format!("{prefix}{count}.jsonl");
        made.lock().unwrap().insert(name.clone(), Vec::new());
        Ok((name.clone(), OnDisk(name, Arc::clone(&made))))
    })
    .unwrap();
    let slot = writer.key_slot();
    if when == Key::Late {
        slot.tell(None);
        audit.record(record("early"));
        while disk.lock().unwrap().values().all(Vec::is_empty) {
            thread::yield_now();
        }
    }
    slot.tell((when != Key::Never).then(key));
    thread::scope(|scope| {
        for caller in 0..4 {
            let audit = &audit;
            scope.spawn(move || {
                for n in 0..records / 4 {
                    audit.record(record(&format!("op{caller}-{n}")));
                    if n % 10 == 0 {
                        // The writer comes to write in between.
                        thread::sleep(std::time::Duration::from_millis(25));
                    }
                }
            });
        }
    });
    writer.finish();
    disk
}

/// The files of a broker, more than two.
pub(super) fn some_of_one_broker() -> BTreeMap<String, Vec<u8>> {
    broker("a", 400, Key::AtOnce).lock().unwrap().clone()
}

fn judged(files: &BTreeMap<String, Vec<u8>>) -> Vec<Judged> {
    let found = files.iter().map(|(name, bytes)| Found {
        name: name.clone(),
        lock: Lock::Free,
        checked: checked(bytes),
    });
    judge_all(found.collect())
}

fn verdicts(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Verdict> {
    let judged = judged(files).into_iter();
    judged.map(|judged| (judged.found.name, judged.verdict)).collect()
}

#[test]
fn files_go_on_from_each_other_and_each_that_is_missing_is_noticed_but_the_first() {
    let disk = broker("a", 400, Key::AtOnce);
    let files = disk.lock().unwrap().clone();
    assert!(files.len() > 4, "{}", files.len());
    let all = verdicts(&files);
    assert!(all.values().all(|verdict| *verdict == Verdict::Whole), "{all:?}");
    let records: u64 = judged(&files).iter().map(|judged| judged.found.checked.records).sum();
    assert_eq!(records, 400);
    for missing in 1..=files.len() {
        let name = format!("a{missing}.jsonl");
        let mut fewer = files.clone();
        fewer.remove(&name);
        let after = verdicts(&fewer);
        if missing == 1 {
            // The oldest is the operator's to remove.
            assert!(after.values().all(|verdict| *verdict == Verdict::Whole), "{after:?}");
            let second = judged(&fewer)
                .into_iter()
                .find(|judged| judged.found.name == "a2.jsonl");
            assert_eq!(second.unwrap().notes, ["a1.jsonl, which it goes on from, is not there"]);
        } else {
            let before = format!("a{}.jsonl", missing - 1);
            let want = Verdict::Tampered(vec![format!("{name}, which goes on from it, is not there")]);
            assert_eq!(after[&before], want);
        }
    }
}

#[test]
fn a_file_that_is_replaced_renamed_or_there_twice_is_noticed() {
    let files = broker("a", 400, Key::AtOnce).lock().unwrap().clone();
    let others = broker("a", 400, Key::AtOnce).lock().unwrap().clone();
    for name in ["a1.jsonl", "a2.jsonl"] {
        let mut mixed = files.clone();
        mixed.insert(name.into(), others[name].clone());
        let tampered = verdicts(&mixed);
        assert!(matches!(tampered[name], Verdict::Tampered(_)), "{tampered:?}");
    }
    // An old one in the place of a newer one.
    let mut replayed = files.clone();
    replayed.insert("a3.jsonl".into(), files["a1.jsonl"].clone());
    let tampered = verdicts(&replayed);
    assert!(
        matches!(&tampered["a3.jsonl"], Verdict::Tampered(faults) if faults.len() == 2),
        "{tampered:?}"
    );
    // One that lost its closing line, and some before.
    let mut cut = files.clone();
    let bytes = cut.get_mut("a2.jsonl").unwrap();
    let length = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .take(3)
        .map(<[u8]>::len)
        .sum();
    bytes.truncate(length);
    let want = Verdict::Tampered(vec!["it ends otherwise than a3.jsonl says".into()]);
    assert_eq!(verdicts(&cut)["a2.jsonl"], want);
    // Those who turn files over add to their names.
    let mut turned = files;
    let first = turned.remove("a1.jsonl").unwrap();
    turned.insert("a1.jsonl.1".into(), first);
    let all = verdicts(&turned);
    assert!(all.values().all(|verdict| *verdict == Verdict::Whole), "{all:?}");
    assert_eq!(judged(&turned)[0].notes, ["it was written as a1.jsonl"]);
}

/// The same lines with another begin, sealed anew as somebody without the key can.
fn sealed_without_a_key(bytes: &[u8]) -> Vec<u8> {
    let mut chain = Chain::new(None);
    let mut sealed = Vec::new();
    for line in String::from_utf8(bytes.to_vec()).unwrap().lines() {
        let (body, _) = line.rsplit_once(",\"mac\":").unwrap();
        let start = sealed.len();
        sealed.extend(without_key(body).bytes());
        chain.seal(&mut sealed, start);
    }
    sealed
}

/// A first line without the name of its key.
fn without_key(line: &str) -> String {
    let Some((before, rest)) = line.split_once(",\"key\":\"") else {
        return line.to_owned();
    };
    format!("{before}{}", rest.split_once('"').unwrap().1)
}

#[test]
fn a_file_of_another_key_or_none_has_no_place_in_a_row_of_one_key() {
    let files = broker("a", 400, Key::AtOnce).lock().unwrap().clone();
    let id = key().id().to_owned();
    for name in files.keys() {
        // Under a key that nobody has, every line seems to follow, and the MACs that the others name are copied.
        let text = String::from_utf8(files[name].clone()).unwrap();
        let forged = text.replacen(&id, "AAAAAAAAAAA", 1).replace("\"op", "\"no");
        assert_ne!(forged, text);
        let mut mixed = files.clone();
        mixed.insert(name.clone(), forged.into_bytes());
        assert!(matches!(verdicts(&mixed)[name], Verdict::Tampered(_)), "{name}");
    }
    let names = (1..).map(|number| format!("a{number}.jsonl"));
    let last = names.take_while(|name| files.contains_key(name)).last().unwrap();
    let mut mixed = files.clone();
    mixed.insert(last.clone(), sealed_without_a_key(&files[&last]));
    let all = verdicts(&mixed);
    assert!(matches!(all[&last], Verdict::Tampered(_)), "{all:?}");
    // By itself it is what it says.
    mixed.retain(|name, _| *name == last);
    assert_eq!(verdicts(&mixed)[&last], Verdict::Unkeyed);
}

#[test]
fn what_was_written_before_the_key_came_is_vouched_for_by_what_came_after() {
    let files = broker("a", 40, Key::Late).lock().unwrap().clone();
    let all = verdicts(&files);
    let by = "a2.jsonl".to_owned();
    assert_eq!(all["a1.jsonl"], Verdict::Vouched { by });
    assert!(
        all.iter()
            .all(|(name, verdict)| name == "a1.jsonl" || *verdict == Verdict::Whole),
        "{all:?}"
    );
    // Changed in a way that its own chain has nothing against.
    let forged = broker("a", 0, Key::Late).lock().unwrap().clone();
    let mut mixed = files.clone();
    mixed.insert("a1.jsonl".into(), forged["a1.jsonl"].clone());
    let verdict = &verdicts(&mixed)["a1.jsonl"];
    assert!(matches!(verdict, Verdict::Tampered(_)), "{verdict:?}");
    // Without the one that vouches there is nothing to trust it for.
    let mut alone = files;
    alone.retain(|name, _| name == "a1.jsonl");
    assert!(matches!(verdicts(&alone)["a1.jsonl"], Verdict::Tampered(_)));
}

#[test]
fn one_that_has_no_key_vouches_for_nobody() {
    let files = broker("a", 400, Key::Never).lock().unwrap().clone();
    assert!(files.len() > 4, "{}", files.len());
    let all = verdicts(&files);
    assert!(all.values().all(|verdict| *verdict == Verdict::Unkeyed), "{all:?}");
}

#[test]
fn a_file_with_a_key_vouches_for_all_before_it_that_have_none() {
    let files = broker("a", 400, Key::Never).lock().unwrap().clone();
    // The key comes late, after several files.
    let last = format!("a{}.jsonl", files.len());
    let ended = checked(&files[&last]).last.unwrap();
    let mut keyed = Vec::new();
    let mut chain = Chain::new(Some(&key()));
    let id = key().id().to_owned();
    let next = format!("a{}.jsonl", files.len() + 1);
    for line in [
        format!(
            r#"{{"n":1,"event":"begin","time":"2026-01-31T09:00:00Z","file":"{next}","id":"x","pid":1,"key":"{id}","previous":{{"file":"{last}","mac":"{ended}"}}"#
        ),
        r#"{"n":2,"event":"end","time":"2026-01-31T09:00:00Z","records":0"#.to_owned(),
    ] {
        let start = keyed.len();
        keyed.extend(line.bytes());
        chain.seal(&mut keyed, start);
    }
    // The last one of them names it, as its broker would have written it.
    let mut row = files;
    row.insert(next.clone(), keyed);
    let all = verdicts(&row);
    let by = next.clone();
    for name in row.keys().filter(|name| **name != next) {
        assert_eq!(all[name], Verdict::Vouched { by: by.clone() }, "{name}");
    }
    // One of them that was changed, in a way that its own chain has nothing against, is no part of the row.
    let text = String::from_utf8(row["a2.jsonl"].clone()).unwrap();
    let forged = sealed_without_a_key(text.replace("\"op", "\"no").as_bytes());
    assert_ne!(forged, row["a2.jsonl"]);
    row.insert("a2.jsonl".into(), forged);
    let all = verdicts(&row);
    assert!(matches!(all["a2.jsonl"], Verdict::Tampered(_)), "{all:?}");
    assert_eq!(all["a3.jsonl"], Verdict::Vouched { by });
    assert_eq!(all["a1.jsonl"], Verdict::Unkeyed);
}

#[test]
fn files_of_a_row_are_in_the_order_in_which_they_were_written_whatever_the_clock_said() {
    let file = |name: &str, previous: Option<&str>| (name.to_owned(), previous.map(str::to_owned));
    for (files, want) in [
        (vec![file("b", None), file("a", None)], vec!["a", "b"]),
        // The clock was set back after the first one.
        (
            vec![
                file("c", Some("d")),
                file("d", None),
                file("a", Some("c")),
                file("e", None),
            ],
            vec!["d", "c", "a", "e"],
        ),
        // Of the row of b the beginning is not there.
        (
            vec![file("b", Some("0")), file("a", Some("b")), file("c", None)],
            vec!["b", "a", "c"],
        ),
        // There twice, in a circle, or after itself: each is there, and once.
        (
            vec![
                file("b", Some("a")),
                file("a", None),
                file("b", Some("a")),
                file("a", None),
            ],
            vec!["a", "b", "b", "a"],
        ),
        (
            vec![file("b", Some("a")), file("a", Some("b")), file("c", Some("c"))],
            vec!["a", "b", "c"],
        ),
    ] {
        let ordered = in_order(files.clone(), Clone::clone);
        let names: Vec<&str> = ordered.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, want, "{files:?}");
    }
}

#[test]
fn a_lock_stands_for_a_closing_line_only_if_the_broker_holds_it() {
    let files = broker("a", 40, Key::AtOnce).lock().unwrap().clone();
    let bytes = &files["a1.jsonl"];
    let cut: usize = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .take(3)
        .map(<[u8]>::len)
        .sum();
    let verdict = |bytes: &[u8], lock| {
        let name = "a1.jsonl".to_owned();
        let checked = checked(bytes);
        judge(Found { name, lock, checked })
    };
    for (lock, want) in [
        (Lock::Free, Verdict::Cut),
        (Lock::Other(7), Verdict::Cut),
        (Lock::Broker, Verdict::Running),
        (Lock::Unknown, Verdict::Held),
    ] {
        for part in [&bytes[..cut], &bytes[..cut - 9], &[]] {
            assert_eq!(verdict(part, lock).verdict, want, "{lock:?} {}", part.len());
        }
        // One that is closed is closed.
        let last = format!("a{}.jsonl", files.len());
        let found = Found {
            name: last.clone(),
            lock,
            checked: checked(&files[&last]),
        };
        assert_eq!(judge(found).verdict, Verdict::Whole);
    }
    assert!(verdict(bytes, Lock::Other(7)).notes[0].contains("process 7"));
}
