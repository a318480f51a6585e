//! The words of `audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use crate::broker::policy::EntryPattern;

/// `audit ...`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that the record is as it was written
    #[command(after_help = "\
One line for each file, with its verdict: whole; whole so far, where a broker still writes; no closing line, where the \
broker was killed or lines were cut (nobody can tell the two apart); TAMPERED, with the lines; made without a key, or \
with another one, so that nothing can be said. The key comes from the store's identity: after a change of identities, \
name the old one with `[store] identity_file`. Whoever has the identity could forge the record.

It ends with 0 if every file is whole or still written, else with 65 tampered or cut, 78 another key, 69 no key, \
75 the store is locked.")]
    Verify(AuditVerifyArgs),
    /// Show the record
    #[command(after_help = "\
The oldest file first; times are in UTC. RESULT is ok, the reason of a refusal, or cancelled. It shows what is there, \
true or not: see `credbroker audit verify`.

Example: credbroker audit show --since 2h --sandbox agent")]
    Show(AuditShowArgs),
}

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
pub struct AuditVerifyArgs {
    /// One file alone, or another directory [default: the directory of the configuration]
    pub file: Option<PathBuf>,
}

/// Arguments of `audit show`.
#[derive(Debug, Args)]
pub struct AuditShowArgs {
    /// One file alone, or another directory [default: the directory of the configuration]
    pub file: Option<PathBuf>,
    /// Only what happened since: 90s, 5m, 2h, or a time such as 2026-01-31T09:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub since: Option<Since>,
    /// Only what this sandbox asked for
    #[arg(long, value_name = "NAME")]
    pub sandbox: Option<String>,
    /// Only what was about this entry: P, P/B, P/*
    #[arg(long, value_name = "ENTRY")]
    pub entry: Option<EntryPattern>,
    /// Only what was not answered with ok
    #[arg(long)]
    pub failed: bool,
    /// Print the lines as they are in the files
    #[arg(long)]
    pub json: bool,
}

/// A moment, or a distance from now.
#[derive(Debug, Clone, Copy)]
pub enum Since {
    /// A moment.
    At(Timestamp),
    /// So long ago.
    Ago(SignedDuration),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(at) = text.parse() {
        return Ok(Since::At(at));
    }
    let ago = text.parse::<SignedDuration>().ok().filter(|ago| !ago.is_negative());
    ago.map(Since::Ago)
        .ok_or_else(|| "a moment is a duration such as 90s, 5m, 2h, or a time such as 2026-01-31T09:00:00Z".to_owned())
}
