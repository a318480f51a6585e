//! Reads a file of the audit and says what is wrong with its chain.
//!
//! It works on the bytes of the lines, one at a time, whatever a file holds and however large it is.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufRead},
};

use jiff::Timestamp;
use serde::Deserialize;

use super::chain::{Chain, Key, Link, Sealed};

/// No line is longer.
pub const MAX_LINE: usize = 64 * 1024;
/// So many faults are told of one file.
const MAX_FAULTS: usize = 20;

/// What one file is found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How the file names itself.
    pub name: Option<String>,
    /// Its random name: no two files have the same.
    pub id: Option<String>,
    /// The file that it says it goes on from, and the MAC that one ended with.
    pub previous: Option<(String, String)>,
    /// The file that it says goes on from it.
    pub next: Option<String>,
    /// The MAC of its last whole line.
    pub last: Option<String>,
    /// The pid of its broker.
    pub pid: Option<u32>,
    /// When it was begun.
    pub began: Option<Timestamp>,
    /// What its key is.
    pub sealed: SealedBy,
    /// The name of its key, at hand or not.
    pub key: Option<String>,
    /// How it ends.
    pub end: End,
    /// How many records it has.
    pub records: u64,
    /// How many it says were lost.
    pub lost: u64,
    /// How many calls it says were refused without a record.
    pub refused: u64,
    /// How many refused calls it tells by their number alone.
    pub counted: u64,
    /// What does not fit together; at most twenty are told.
    pub faults: Vec<Fault>,
}

/// Under which key a file was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedBy {
    /// One that is at hand.
    Key,
    /// None: whoever changed the file could mend its chain.
    Nobody,
    /// Another one than those at hand: nothing can be said of its lines.
    Unknown(String),
    /// The file has no first line that says.
    Unsaid,
}

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a closing line.
    Closed,
    /// With a whole line that is no closing one.
    Open,
    /// Within a line.
    Torn,
    /// It is empty.
    Empty,
}

/// Something that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The number of the line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: Wrong,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It has no MAC, is no JSON or is too long.
    NoLine,
    /// It is not what was written, or another line was before it.
    Changed,
    /// Lines are missing before it.
    Missing {
        /// How many.
        lines: u64,
    },
    /// It was written before the line that is before it.
    Again,
    /// It is a first line, and is not the first; or the first one is none.
    Beginning,
    /// It comes after the closing line.
    AfterTheEnd,
    /// The closing line tells another number of records.
    Count {
        /// The number that it tells.
        told: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, what } = self;
        match what {
            Wrong::NoLine => write!(f, "line {line} is none of an audit"),
            Wrong::Changed => write!(f, "line {line} was changed, or what was before it"),
            Wrong::Missing { lines: 1 } => write!(f, "1 line is missing before line {line}"),
            Wrong::Missing { lines } => write!(f, "{lines} lines are missing before line {line}"),
            Wrong::Again => write!(f, "line {line} is out of order, or there again"),
            Wrong::Beginning if *line == 1 => f.write_str("its first line is missing"),
            Wrong::Beginning => write!(f, "line {line} begins another file"),
            Wrong::AfterTheEnd => write!(f, "line {line} comes after the closing line"),
            Wrong::Count { told } => write!(f, "the closing line tells of {told} records"),
        }
    }
}

/// What is read of a line. What else is in it is covered by the MAC.
#[derive(Deserialize)]
struct Said {
    n: u64,
    event: Option<String>,
    file: Option<String>,
    id: Option<String>,
    pid: Option<u32>,
    time: Option<String>,
    key: Option<String>,
    previous: Option<SaidPrevious>,
    next: Option<String>,
    records: Option<u64>,
    lost: Option<u64>,
    refused: Option<u64>,
    calls: Option<BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct SaidPrevious {
    file: String,
    mac: String,
}

/// Reads one file to its end.
///
/// # Errors
/// It cannot be read.
pub fn check(file: impl BufRead, keys: &[Key]) -> io::Result<Checked> {
    let mut lines = Lines::new(file);
    let mut reading = Reading::new(keys);
    while let Some(line) = lines.read()? {
        match line {
            Line::Whole(line) => reading.line(Some(line)),
            Line::TooLong => reading.line(None),
            Line::Torn => reading.torn(),
        }
    }
    Ok(reading.finish())
}

struct Reading<'k> {
    keys: &'k [Key],
    /// `None`: there was no first line yet, or its key is not at hand.
    chain: Option<Chain>,
    lines: u64,
    /// The number that the last line gave itself.
    number: u64,
    link: Option<Link>,
    /// The line before was none, so that nothing can be said of what this one follows.
    adrift: bool,
    checked: Checked,
}

impl<'k> Reading<'k> {
    fn new(keys: &'k [Key]) -> Self {
        Self {
            keys,
            chain: None,
            lines: 0,
            number: 0,
            link: None,
            adrift: false,
            checked: Checked {
                name: None,
                id: None,
                previous: None,
                next: None,
                last: None,
                pid: None,
                began: None,
                sealed: SealedBy::Unsaid,
                key: None,
                end: End::Empty,
                records: 0,
                lost: 0,
                refused: 0,
                counted: 0,
                faults: Vec::new(),
            },
        }
    }

    fn fault(&mut self, what: Wrong) {
        if self.checked.faults.len() < MAX_FAULTS {
            self.checked.faults.push(Fault { line: self.lines, what });
        }
    }

    /// The next line, without its end. `None`: it is too long to be one.
    fn line(&mut self, line: Option<&[u8]>) {
        self.lines += 1;
        let closed = self.checked.end == End::Closed;
        if closed {
            self.fault(Wrong::AfterTheEnd);
        } else {
            self.checked.end = End::Open;
        }
        let read = line.and_then(|line| {
            let said: Said = serde_json::from_slice(line).ok()?;
            Some((Sealed::read(line)?, said))
        });
        let Some((sealed, said)) = read else {
            self.number = self.number.saturating_add(1);
            self.adrift = true;
            return self.fault(Wrong::NoLine);
        };
        let begins = said.event.as_deref() == Some("begin");
        if begins != (self.lines == 1) {
            self.fault(Wrong::Beginning);
        } else if begins {
            self.begin(&said);
        }
        let follows = self.chain.as_mut().is_none_or(|chain| chain.follows(&sealed));
        let expected = self.number.saturating_add(1);
        if said.n < expected {
            self.fault(Wrong::Again);
        } else if said.n > expected {
            self.fault(Wrong::Missing {
                lines: said.n - expected,
            });
        } else if !follows && !self.adrift {
            self.fault(Wrong::Changed);
        }
        self.adrift = false;
        self.number = said.n;
        self.link = Some(sealed.link);
        match said.event.as_deref() {
            None => self.checked.records += 1,
            Some("begin") => {}
            Some("gap") => {
                self.checked.lost = self.checked.lost.saturating_add(said.lost.unwrap_or(0));
                self.checked.refused = self.checked.refused.saturating_add(said.refused.unwrap_or(0));
            }
            Some("refusals") => {
                for calls in said.calls.unwrap_or_default().into_values() {
                    self.checked.counted = self.checked.counted.saturating_add(calls);
                }
            }
            Some("end") => {
                self.checked.end = End::Closed;
                self.checked.next = said.next;
                let told = said.records.unwrap_or(0);
                if told != self.checked.records {
                    self.fault(Wrong::Count { told });
                }
            }
            Some(_) => self.fault(Wrong::NoLine),
        }
    }

    /// What comes last has no end.
    fn torn(&mut self) {
        self.lines += 1;
        if self.checked.end == End::Closed {
            self.fault(Wrong::AfterTheEnd);
        }
        self.checked.end = End::Torn;
    }

    fn begin(&mut self, said: &Said) {
        let checked = &mut self.checked;
        checked.name.clone_from(&said.file);
        checked.id.clone_from(&said.id);
        checked.pid = said.pid;
        checked.began = said.time.as_ref().and_then(|time| time.parse().ok());
        checked.key.clone_from(&said.key);
        checked.previous = said.previous.as_ref().map(|from| (from.file.clone(), from.mac.clone()));
        match &said.key {
            None => {
                checked.sealed = SealedBy::Nobody;
                self.chain = Some(Chain::new(None));
            }
            Some(id) => match self.keys.iter().find(|key| key.id() == id) {
                Some(key) => {
                    checked.sealed = SealedBy::Key;
                    self.chain = Some(Chain::new(Some(key)));
                }
                None => checked.sealed = SealedBy::Unknown(id.clone()),
            },
        }
    }

    fn finish(self) -> Checked {
        Checked {
            last: self.link.map(|link| link.to_string()),
            ..self.checked
        }
    }
}

/// A line of a file.
pub enum Line<'l> {
    /// Without its end.
    Whole(&'l [u8]),
    /// Longer than any line is; what it says is left out.
    TooLong,
    /// The last one, without an end.
    Torn,
}

/// The lines of a file, in bounded memory.
pub struct Lines<R> {
    file: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Those of this file.
    pub fn new(file: R) -> Self {
        Self { file, line: Vec::new() }
    }

    /// The next one; `None`: there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let mut long = false;
        loop {
            let piece = match self.file.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if piece.is_empty() {
                let none = self.line.is_empty() && !long;
                return Ok((!none).then_some(Line::Torn));
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let text = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
            if self.line.len() + text.len() > MAX_LINE {
                long = true;
                self.line.clear();
            }
            if !long {
                self.line.extend_from_slice(text);
            }
            let used = text.len() + usize::from(end.is_some());
            self.file.consume(used);
            if end.is_some() {
                return Ok(Some(if long { Line::TooLong } else { Line::Whole(&self.line) }));
            }
        }
    }
}
