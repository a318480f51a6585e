//! The lines of the record: one JSON object each, in the order of the fields.

use std::sync::Arc;

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
    /// The RPC method's name.
    pub operation: String,
    /// What the call is about, as far as it said so.
    pub subject: Option<Subject>,
    /// `ok`, `error` or `cancelled` (the caller went away before the answer).
    pub outcome: &'static str,
    /// The reason of an error.
    pub reason: Option<String>,
}

/// What is written of a [`Record`]. The field order is the order in the line.
#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, UTC.
    time: Timestamp,
    sandbox: &'a str,
    peer_uid: Option<u32>,
    peer_pid: Option<i32>,
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

impl<'a> From<&'a Record> for Line<'a> {
    fn from(record: &'a Record) -> Self {
        let named = record.subject.as_ref().and_then(Subject::named);
        let (entry, provider) = match named {
            Some(Named::Entry(entry) | Named::Login { entry: Some(entry), .. }) => (Some(entry), Some(&entry.provider)),
            Some(Named::Provider(provider)) => (None, Some(provider)),
            Some(Named::Key(_) | Named::Login { entry: None, .. }) | None => (None, None),
        };
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
            time: record.time,
            sandbox: record.sandbox.as_deref().unwrap_or_default(),
            peer_uid: record.peer_uid,
            peer_pid: record.peer_pid,
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

/// The lines of some records, as they go to the disk.
pub(super) fn lines(records: &[Record]) -> std::io::Result<Vec<u8>> {
    let mut lines = Vec::with_capacity(256 * records.len());
    for record in records {
        serde_json::to_writer(&mut lines, &Line::from(record))?;
        lines.push(b'\n');
    }
    Ok(lines)
}
