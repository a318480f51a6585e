//! Whatever is done to a file is found.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::{Sink, checked, key, record};
use crate::broker::audit::{
    Audit, Settings,
    chain::Key,
    series::{Found, Lock, Verdict, judge},
    verify::{self, Checked, End, Fault, SealedBy, Wrong},
};

/// A file with so many records, under the key of [`key`].
fn file(records: usize, name: &'static str) -> Vec<u8> {
    let sink = Sink::default();
    let copy = sink.clone();
    let settings = Settings { ..Settings::with_key() };
    let (audit, writer) = Audit::start(settings, move || Ok((name.into(), copy.clone()))).unwrap();
    writer.key_slot().tell(Some(key()));
    for n in 0..records {
        audit.record(record(&format!("op{n}")));
    }
    writer.finish();
    sink.0.lock().unwrap().clone()
}

fn verdict_of(checked: Checked) -> Verdict {
    let found = Found {
        name: checked.name.clone().unwrap_or_default(),
        lock: Lock::Free,
        checked,
    };
    judge(found).verdict
}

fn verdict(bytes: &[u8]) -> Verdict {
    verdict_of(checked(bytes))
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

fn faults(lines: &[Vec<u8>]) -> Vec<Fault> {
    checked(&lines.concat()).faults
}

#[test]
fn what_was_written_is_whole() {
    for records in [1, 2, 300] {
        let bytes = file(records, "audit");
        let checked = checked(&bytes);
        assert_eq!(checked.faults, []);
        assert_eq!((checked.sealed.clone(), checked.end), (SealedBy::Key, End::Closed));
        assert_eq!(checked.records, u64::try_from(records).unwrap());
        assert_eq!(verdict_of(checked), Verdict::Whole);
    }
}

#[test]
fn every_bit_that_is_turned_is_found() {
    let bytes = file(2, "audit");
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut turned = bytes.clone();
            turned[at] ^= 1 << bit;
            let verdict = verdict(&turned);
            let found = match &verdict {
                Verdict::Tampered(_) => true,
                // The name of the key is such that no other one is at hand.
                Verdict::OtherKey { .. } => true,
                // The end of the last line is no more.
                Verdict::Cut => at + 1 == bytes.len(),
                _ => false,
            };
            assert!(found, "byte {at}, bit {bit}: {verdict:?}");
        }
    }
}

#[test]
fn every_line_that_is_left_out_is_found_and_the_closing_one_is_a_cut() {
    let lines = lines(&file(5, "audit"));
    let last = lines.len() - 1;
    for left_out in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(left_out);
        let faults = faults(&fewer);
        if left_out == last {
            assert_eq!(faults, []);
            assert_eq!(verdict(&fewer.concat()), Verdict::Cut);
        } else if left_out == 0 {
            assert_eq!(
                faults[0],
                Fault {
                    line: 1,
                    what: Wrong::Beginning
                }
            );
        } else {
            let line = u64::try_from(left_out).unwrap() + 1;
            let missing = Wrong::Missing { lines: 1 };
            assert_eq!(faults[0], Fault { line, what: missing }, "{left_out}");
            // Of the records, the closing line knows the number, too.
            assert_eq!(faults.len(), 2);
        }
    }
}

#[test]
fn every_line_that_is_there_twice_or_elsewhere_is_found() {
    let lines = lines(&file(5, "audit"));
    for from in 0..lines.len() {
        for to in 0..=lines.len() {
            let mut more = lines.clone();
            more.insert(to, lines[from].clone());
            assert!(!faults(&more).is_empty(), "{from} again at {to}");
        }
        for other in 0..from {
            let mut swapped = lines.clone();
            swapped.swap(from, other);
            assert!(!faults(&swapped).is_empty(), "{from} and {other} swapped");
        }
    }
}

#[test]
fn cut_anywhere_it_is_cut_and_not_whole() {
    let bytes = file(3, "audit");
    for length in 0..bytes.len() {
        let verdict = verdict(&bytes[..length]);
        assert_eq!(verdict, Verdict::Cut, "{length}");
    }
}

#[test]
fn lines_of_another_file_of_the_same_key_do_not_fit() {
    let (one, other) = (lines(&file(5, "audit")), lines(&file(5, "audit")));
    for from in 1..one.len() {
        for to in from + 1..=one.len() {
            let mut spliced = one.clone();
            spliced.splice(from..to, other[from..to].iter().cloned());
            assert!(!faults(&spliced).is_empty(), "lines {from} to {to}");
        }
    }
    let both = [one, other].concat();
    let found = faults(&both);
    assert!(found.iter().any(|fault| fault.what == Wrong::AfterTheEnd), "{found:?}");
    assert!(found.iter().any(|fault| fault.what == Wrong::Beginning), "{found:?}");
}

#[test]
fn who_has_no_key_cannot_make_a_line_nor_a_file() {
    let bytes = file(2, "audit");
    let forged = Key::new(Zeroizing::new([8; 32]), &[9; 32]);
    // A file under the right name of the key, and another key.
    let read = verify::check(&bytes[..], &[forged]).unwrap();
    assert!(matches!(verdict_of(read), Verdict::Tampered(_)));
    // One that says of itself that it has none is none that can be trusted.
    let sink = Sink::default();
    let copy = sink.clone();
    let (audit, writer) = Audit::start(Settings::without_key(), move || Ok(("audit".into(), copy.clone()))).unwrap();
    audit.record(record("op"));
    writer.finish();
    assert_eq!(verdict(&sink.0.lock().unwrap().clone()), Verdict::Unkeyed);
    // With no key at hand nothing is said to be whole.
    let read = verify::check(&bytes[..], &[]).unwrap();
    assert!(matches!(verdict_of(read), Verdict::OtherKey { .. }));
}

#[test]
fn one_change_is_told_once_and_at_its_line() {
    let mut lines = lines(&file(9, "audit"));
    let text = String::from_utf8(lines[4].clone()).unwrap();
    lines[4] = text.replace("op3", "op4").into_bytes();
    let changed = Fault {
        line: 5,
        what: Wrong::Changed,
    };
    assert_eq!(faults(&lines), std::slice::from_ref(&changed));
    lines[6] = b"\n".to_vec();
    // What is no line is none of the records either.
    let told: Vec<Wrong> = faults(&lines).into_iter().map(|fault| fault.what).collect();
    assert_eq!(told, [Wrong::Changed, Wrong::NoLine, Wrong::Count { told: 9 }]);
}

#[test]
fn whatever_a_file_holds_it_is_read_in_bounded_memory_and_to_its_end() {
    let deep = [vec![b'['; 200_000], b"\n".to_vec()].concat();
    let huge = [vec![b'x'; 3 * verify::MAX_LINE], b"\n".to_vec()].concat();
    let binary: Vec<u8> = (0..100_000_u32).map(|n| u8::try_from(n * 7 % 256).unwrap()).collect();
    let sealed = br#"{"n":18446744073709551615,"event":"begin","mac":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
    let numbers = [&sealed[..], b"\n", &sealed[..], b"\n"].concat();
    let nested = format!(
        "{{\"n\":1,\"event\":{},\"mac\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}}\n",
        "[".repeat(20_000)
    );
    let mut told = BTreeSet::new();
    for odd in [deep, huge, binary, numbers, nested.into_bytes(), b"\n\n\n".to_vec()] {
        let read = checked(&odd);
        assert!(!read.faults.is_empty());
        assert!(read.faults.len() <= 20);
        told.extend(read.faults.iter().map(ToString::to_string));
        // In the middle of a good one, too.
        let lines = lines(&file(2, "audit"));
        let [first, rest @ ..] = &lines[..] else { unreachable!() };
        let mixed = [first.clone(), odd, rest.concat()].concat();
        assert!(!checked(&mixed).faults.is_empty());
    }
    assert!(told.iter().any(|told| told == "line 1 is none of an audit"), "{told:?}");
}
