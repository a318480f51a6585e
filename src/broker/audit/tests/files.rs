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
    series::{Found, Judged, Verdict, judge_all},
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
        keyed: true,
        ..Settings::default()
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

fn judged(files: &BTreeMap<String, Vec<u8>>) -> Vec<Judged> {
    let found = files.iter().map(|(name, bytes)| Found {
        name: name.clone(),
        live: false,
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
