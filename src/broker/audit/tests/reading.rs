//! What is read of a file, line by line, and what is said of it.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read},
};

use super::{Sink, checked, key, record};
use crate::broker::audit::{
    Audit, Settings,
    series::{Found, Lock, Verdict, judge_all},
    verify::{Fault, Line, Lines, Wrong},
};

/// What a file answers, one piece after the other, and then nothing more.
struct Pieces(VecDeque<io::Result<&'static [u8]>>);

impl Read for Pieces {
    fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Some(Err(_)) = self.0.front() {
            self.0.pop_front().unwrap()
        } else {
            Ok(self.0.front().map_or(&[], |piece| piece.as_ref().unwrap()))
        }
    }

    fn consume(&mut self, used: usize) {
        if let Some(Ok(piece)) = self.0.front_mut() {
            *piece = &piece[used..];
            if piece.is_empty() {
                self.0.pop_front();
            }
        }
    }
}

/// The length of a whole line; other words for what is none.
fn told(line: Option<&Line<'_>>) -> Result<usize, &'static str> {
    match line {
        Some(Line::Whole(text)) => Ok(text.len()),
        Some(Line::TooLong) => Err("too long"),
        Some(Line::Torn) => Err("torn"),
        None => Err("none"),
    }
}

#[test]
fn a_read_that_was_interrupted_is_repeated_and_any_other_failure_is_told() {
    let interrupted = || Err(io::ErrorKind::Interrupted.into());
    let mut lines = Lines::new(Pieces(
        [interrupted(), Ok(&b"ab"[..]), interrupted(), Ok(&b"c\nd"[..])].into(),
    ));
    assert_eq!(told(lines.read().unwrap().as_ref()), Ok(3));
    assert_eq!(told(lines.read().unwrap().as_ref()), Err("torn"));
    let mut lines = Lines::new(Pieces([Err(io::ErrorKind::Other.into())].into()));
    assert_eq!(lines.read().err().map(|error| error.kind()), Some(io::ErrorKind::Other));
    assert_eq!(told(lines.read().unwrap().as_ref()), Err("none"));
}

/// In whatever pieces it comes.
#[test]
fn a_line_may_be_64_kib_long() {
    for (length, want) in [
        (20_000, Ok(20_000)),
        (65_536, Ok(65_536)),
        (65_537, Err("too long")),
        (200_000, Err("too long")),
    ] {
        for piece in [1000, 8192, 65_536, 1 << 20] {
            let text = [vec![b'x'; length], b"\nshort\n".to_vec()].concat();
            let mut lines = Lines::new(BufReader::with_capacity(piece, &text[..]));
            assert_eq!(
                told(lines.read().unwrap().as_ref()),
                want,
                "{length} in pieces of {piece}"
            );
            assert_eq!(told(lines.read().unwrap().as_ref()), Ok(5));
        }
    }
}

#[test]
fn every_fault_says_where_it_is() {
    for (what, line, words) in [
        (Wrong::NoLine, 3, "line 3 is none of an audit"),
        (Wrong::Changed, 3, "line 3 was changed, or what was before it"),
        (Wrong::Missing { lines: 2 }, 3, "2 lines are missing before line 3"),
        (Wrong::Again, 3, "line 3 is out of order, or there again"),
        (Wrong::Beginning, 1, "its first line is missing"),
        (Wrong::Beginning, 2, "line 2 begins another file"),
        (Wrong::AfterTheEnd, 3, "line 3 comes after the closing line"),
        (Wrong::Count { told: 7 }, 3, "the closing line tells of 7 records"),
    ] {
        assert_eq!(Fault { line, what }.to_string(), words);
    }
}

/// Under a name of its own, with so many records.
fn file(name: &'static str, records: usize) -> Vec<u8> {
    let sink = Sink::default();
    let copy = sink.clone();
    let (audit, writer) = Audit::start(Settings::with_key(), move || Ok((name.into(), copy.clone()))).unwrap();
    writer.key_slot().tell(Some(key()));
    for n in 0..records {
        audit.record(record(&format!("op{n}")));
    }
    writer.finish();
    sink.0.lock().unwrap().clone()
}

#[test]
fn it_is_told_how_many_lines_are_missing_and_where_something_was_added() {
    let bytes = file("audit", 9);
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let fewer = [&lines[..3], &lines[7..]].concat().concat();
    let missing = Fault {
        line: 4,
        what: Wrong::Missing { lines: 4 },
    };
    assert_eq!(checked(&fewer).faults[0], missing);
    let longer = [&bytes[..], b"torn"].concat();
    let after = Fault {
        line: 12,
        what: Wrong::AfterTheEnd,
    };
    assert_eq!(checked(&longer).faults, [after]);
}

/// A broker that was killed leaves the file that was to go on, with nothing in it.
#[test]
fn the_file_that_is_named_as_the_next_one_has_to_go_on_or_be_empty() {
    let files = super::files::some_of_one_broker();
    let found = |name: &str, bytes: &[u8]| Found {
        name: name.to_owned(),
        lock: Lock::Free,
        checked: checked(bytes),
    };
    let verdict = |next: &[u8]| {
        let both = vec![found("a1.jsonl", &files["a1.jsonl"]), found("a2.jsonl", next)];
        judge_all(both).remove(0).verdict
    };
    assert_eq!(verdict(&files["a2.jsonl"]), Verdict::Whole);
    assert_eq!(verdict(b""), Verdict::Whole);
    let want = Verdict::Tampered(vec!["a2.jsonl does not go on from it".into()]);
    assert_eq!(verdict(&file("a2.jsonl", 3)), want);
}
