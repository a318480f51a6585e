//! The words of `audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, civil::DateTime, tz::TimeZone};

use crate::broker::policy::EntryPattern;

/// `audit ...`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that the record is as it was written
    #[command(after_help = "\
One line for each file, with its verdict: whole; whole so far, where the broker that began it still writes; no closing \
line, where that broker was killed or lines were cut (nobody can tell the two apart); TAMPERED, with the lines; made \
without a key, or with another one, so that nothing can be said. Of a file that is locked from another pid name space (a \
container) it cannot be told whether its broker still writes: verify it there. The key comes from the store's identity: after a change of identities, \
name the old one with `[store] identity_file`. Whoever has the identity could forge the record.

It ends with 0 if every file is whole or still written, else with 65 tampered or cut, 78 another key, 69 no key \
or no telling who writes, 75 the store is locked, 66 there is no such file.")]
    Verify(AuditVerifyArgs),
    /// Show the record
    #[command(after_help = "\
Files go by name, which begins with the time, and those of one broker in the order in which they were written; times \
are in UTC. Long names are cut with an ellipsis, and --json has them whole. RESULT is ok, the reason of a refusal, or \
cancelled; of a change that went on without its caller, done or why it failed, in a second line. It shows what is there, \
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
    /// Only what happened since: 90s, 2h, 1d, 1w ago, or a date or time such as 2026-01-31, 2026-01-31T09:00:00Z
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
    /// Print the lines of the files, one JSON object each
    #[arg(long)]
    pub json: bool,
}

/// A moment, or a distance from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    // Without a zone it is UTC, as in what is shown.
    if let Ok(at) = text.parse::<DateTime>().and_then(|at| at.to_zoned(TimeZone::UTC)) {
        return Ok(Since::At(at.timestamp()));
    }
    let no_moment = "a moment is a duration such as 90s, 5m, 2h, 1d or 1w, a date such as 2026-01-31, or a time such as \
                     2026-01-31T09:00:00Z";
    let Ok(ago) = text.parse::<Span>() else {
        return Err(no_moment.to_owned());
    };
    // Days and weeks alone have a length.
    let Ok(ago) = ago.to_duration(SpanRelativeTo::days_are_24_hours()) else {
        return Err("months and years differ in length: say it in days or weeks, as in 30d, or name a date".to_owned());
    };
    Ok(Since::Ago(ago.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when_is_a_duration_a_date_or_a_time() {
        let at = |text: &str| Since::At(text.parse().unwrap());
        let ago = |seconds| Since::Ago(SignedDuration::from_secs(seconds));
        for (text, want) in [
            ("90s", ago(90)),
            ("5m", ago(300)),
            ("-5m", ago(300)),
            ("5m ago", ago(300)),
            ("1h30m", ago(5400)),
            ("1d", ago(86_400)),
            ("1d 2h", ago(93_600)),
            ("1w", ago(604_800)),
            ("PT2H", ago(7200)),
            ("2026-01-31", at("2026-01-31T00:00:00Z")),
            ("2026-01-31T09:00:00Z", at("2026-01-31T09:00:00Z")),
            ("2026-01-31T09:00:00+02:00", at("2026-01-31T07:00:00Z")),
            ("2026-01-31T09:00", at("2026-01-31T09:00:00Z")),
            // As it is shown.
            ("2026-01-31 09:00:00", at("2026-01-31T09:00:00Z")),
        ] {
            assert_eq!(since(text), Ok(want), "{text}");
        }
        for (text, want) in [
            ("1mo", "in days or weeks"),
            ("1 year", "in days or weeks"),
            ("yesterday", "1d or 1w, a date"),
            ("5", "1d or 1w, a date"),
            ("", "1d or 1w, a date"),
            ("2026-02-31", "1d or 1w, a date"),
            ("99999999999h", "1d or 1w, a date"),
        ] {
            let said = since(text).unwrap_err();
            assert!(said.contains(want), "{text}: {said}");
        }
    }
}
