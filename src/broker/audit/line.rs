//! The lines of the record: one JSON object each, in the order of the fields.

use std::{collections::BTreeMap, io, sync::Arc};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    broker::caller::{Named, Subject},
    credential::Name,
};

/// One operation.
#[derive(Debug, Clone)]
pub struct Record {
    /// When the call began.
    pub time: Timestamp,
    /// The principal: the sandbox's name. `None`: the call was refused before it was known.
    pub sandbox: Option<Arc<str>>,
    /// The peer's uid, as the kernel told at accept.
    pub peer_uid: Option<u32>,
    /// The peer's pid, as the kernel told at accept.
    pub peer_pid: Option<i32>,
    /// What else is known of the peer.
    pub peer: Option<Arc<PeerFacts>>,
    /// The RPC method's name.
    pub operation: String,
    /// What the call is about, as far as it said so.
    pub subject: Option<Subject>,
    /// `ok`, `error` or `cancelled` (the caller went away before the answer); of what went on after a `cancelled`, in a line of
    /// its own, `done` or `failed`.
    pub outcome: &'static str,
    /// The reason of an error.
    pub reason: Option<String>,
}

/// Calls that were refused before anything happened and that have no lines of their own, because there are too many.
#[derive(Debug, Clone)]
pub struct Refusals {
    /// When the first of them began.
    pub time: Timestamp,
    /// When the last of them began.
    pub until: Timestamp,
    /// The principal. `None`: they were refused before it was known.
    pub sandbox: Option<Arc<str>>,
    /// How many there were, by reason.
    pub calls: BTreeMap<&'static str, u64>,
}

impl Refusals {
    /// How many calls they are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.calls.values().fold(0, |sum, calls| sum.saturating_add(*calls))
    }
}

/// What waits to be written: one line each.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Call(Record),
    Refusals(Refusals),
}

impl Entry {
    /// How many calls it tells of that did not end with `ok`. What became of them afterwards does not count again.
    pub(super) fn failed_calls(&self) -> u64 {
        match self {
            Self::Call(record) => u64::from(!matches!(record.outcome, "ok" | "done" | "failed")),
            Self::Refusals(refusals) => refusals.count(),
        }
    }
}

/// What the system shows of the process that connected, at that time. Nothing is decided by it: a sandbox chooses the names
/// of its programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerFacts {
    /// The path of its executable, escaped and cut.
    pub exe: Option<String>,
    /// The number of its pid name space, as in `/proc/PID/ns/pid`.
    pub pid_ns: Option<u64>,
    /// The number of its user name space.
    pub user_ns: Option<u64>,
    /// The number of its mount name space.
    pub mnt_ns: Option<u64>,
}

/// What is written of a [`Record`]. The field order is the order in the line.
#[derive(Serialize)]
struct Line<'a> {
    /// Its number in the file.
    n: u64,
    /// RFC 3339, UTC.
    time: Timestamp,
    sandbox: &'a str,
    peer_uid: Option<u32>,
    peer_pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_exe: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_pid_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_user_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_mnt_ns: Option<u64>,
    operation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// The first characters of a login session's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(n: u64, record: &'a Record) -> Self {
        let named = record.subject.as_ref().and_then(Subject::named);
        let (entry, provider) = match named {
            Some(Named::Entry(entry) | Named::Login { entry: Some(entry), .. }) => (Some(entry), Some(&entry.provider)),
            Some(Named::Provider(provider)) => (None, Some(provider)),
            Some(Named::Key(_) | Named::Login { entry: None, .. }) | None => (None, None),
        };
        let peer = record.peer.as_deref();
        let provider = provider.map(Name::as_str);
        let bucket = entry.map(|entry| entry.bucket.as_str());
        let key = match named {
            Some(Named::Key(name)) => Some(name.as_str()),
            _ => None,
        };
        let session = match named {
            Some(Named::Login { session, .. }) => Some(session.as_str()),
            _ => None,
        };
        Self {
            n,
            time: record.time,
            sandbox: record.sandbox.as_deref().unwrap_or_default(),
            peer_uid: record.peer_uid,
            peer_pid: record.peer_pid,
            peer_exe: peer.and_then(|peer| peer.exe.as_deref()),
            peer_pid_ns: peer.and_then(|peer| peer.pid_ns),
            peer_user_ns: peer.and_then(|peer| peer.user_ns),
            peer_mnt_ns: peer.and_then(|peer| peer.mnt_ns),
            operation: &record.operation,
            provider,
            bucket,
            key,
            session,
            outcome: record.outcome,
            reason: record.reason.as_deref(),
        }
    }
}

/// What a line says that is about the file and not about a call. The field order is the order in the line.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event<'a> {
    /// The file begins.
    Begin {
        time: Timestamp,
        /// The file's own name.
        file: &'a str,
        /// Random: no two files begin alike.
        id: &'a str,
        pid: u32,
        version: &'a str,
        /// The name of the key; none: there is no key.
        key: Option<&'a str>,
        /// The file that this one goes on from.
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<Previous<'a>>,
    },
    /// Here lines are missing.
    Gap {
        time: Timestamp,
        /// Records of calls that were answered.
        lost: u64,
        /// Calls that were refused because no record could be kept.
        refused: u64,
    },
    /// Calls that were refused, and are only counted.
    Refusals {
        time: Timestamp,
        until: Timestamp,
        /// Empty: it was not known.
        sandbox: &'a str,
        calls: &'a BTreeMap<&'static str, u64>,
    },
    /// The file ends.
    End {
        time: Timestamp,
        /// How many records it has.
        records: u64,
        /// The file that goes on from here.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<&'a str>,
    },
}

/// Where a chain comes from.
#[derive(Serialize)]
pub(super) struct Previous<'a> {
    pub(super) file: &'a str,
    /// The MAC of its last line.
    pub(super) mac: &'a str,
}

/// A line that is no record.
#[derive(Serialize)]
struct Numbered<'a> {
    n: u64,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// Appends what waited, ready to be sealed.
pub(super) fn entry(lines: &mut Vec<u8>, n: u64, entry: &Entry) -> io::Result<()> {
    match entry {
        Entry::Call(record) => open_ended(lines, &Line::new(n, record)),
        Entry::Refusals(refusals) => {
            let told = Event::Refusals {
                time: refusals.time,
                until: refusals.until,
                sandbox: refusals.sandbox.as_deref().unwrap_or_default(),
                calls: &refusals.calls,
            };
            event(lines, n, &told)
        }
    }
}

/// Appends an event, ready to be sealed.
pub(super) fn event(lines: &mut Vec<u8>, n: u64, event: &Event<'_>) -> io::Result<()> {
    open_ended(lines, &Numbered { n, event })
}

/// JSON that lacks its closing brace.
fn open_ended(lines: &mut Vec<u8>, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, object)?;
    lines.pop();
    Ok(())
}

/// Invisible characters that turn the direction of text or hide in it: a name that a sandbox chose is not recorded with them, and
/// nothing is shown with them.
pub(crate) fn is_format_character(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_invisible_is_known_and_what_has_a_shape_is_not() {
        let known: Vec<u32> = (0..=0x0010_ffff)
            .filter(|&number| char::from_u32(number).is_some_and(is_format_character))
            .collect();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for number in known {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        // Unicode's category Cf, the two that end lines and paragraphs (2028, 2029), and the one between that nobody has yet (2065).
        let want = [
            (0xad, 0xad),
            (0x600, 0x605),
            (0x61c, 0x61c),
            (0x6dd, 0x6dd),
            (0x70f, 0x70f),
            (0x890, 0x891),
            (0x8e2, 0x8e2),
            (0x180e, 0x180e),
            (0x200b, 0x200f),
            (0x2028, 0x202e),
            (0x2060, 0x206f),
            (0xfeff, 0xfeff),
            (0xfff9, 0xfffb),
            (0x1_10bd, 0x1_10bd),
            (0x1_10cd, 0x1_10cd),
            (0x1_3430, 0x1_343f),
            (0x1_bca0, 0x1_bca3),
            (0x1_d173, 0x1_d17a),
            (0xe_0001, 0xe_0001),
            (0xe_0020, 0xe_007f),
        ];
        assert_eq!(ranges, want);
    }
}
