//! `audit show`.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, BufReader, BufWriter, Write as _},
    path::Path,
    process::ExitCode,
};

use jiff::Timestamp;
use serde::Deserialize;

use super::{Files, buffered, name_of, open, some_unreadable, unreadable};
use crate::{
    broker::audit::{
        series::in_order,
        verify::{Line, Lines},
    },
    cli::{
        args::{AuditShowArgs, Since},
        failure::Failure,
        output::{columns, note, printable, printable_json, written},
    },
    clock::{Clock as _, SystemClock},
    config::Config,
    credential::{EntryKey, Name},
};

/// What is shown of a line; what it lacks is empty.
#[derive(Deserialize)]
struct Shown {
    time: Timestamp,
    event: Option<String>,
    sandbox: Option<String>,
    peer_pid: Option<i32>,
    operation: Option<String>,
    provider: Option<String>,
    bucket: Option<String>,
    key: Option<String>,
    session: Option<String>,
    outcome: Option<String>,
    reason: Option<String>,
    lost: Option<u64>,
    refused: Option<u64>,
    until: Option<Timestamp>,
    calls: Option<BTreeMap<String, u64>>,
}

pub(super) fn show(config: &Config, arguments: &AuditShowArgs) -> Result<ExitCode, Failure> {
    let files = Files::find(config, arguments.file.as_deref())?;
    let since = match arguments.since {
        None => None,
        Some(Since::At(at)) => Some(at),
        // Longer ago than there are times is from the beginning.
        Some(Since::Ago(ago)) => SystemClock::new().now().wall.checked_sub(ago).ok(),
    };
    let table = Table::of(columns(io::stdout()));
    let mut out = BufWriter::new(io::stdout().lock());
    let mut begun = arguments.json;
    let (mut odd, mut odd_files) = (0_u64, 0);
    let paths = in_order(files.paths, |path| own_and_previous(path));
    for path in &paths {
        let file = match open(path) {
            Ok((file, _)) => buffered(file),
            Err(failure) if files.whole => {
                note(&printable(failure.message()));
                odd_files += 1;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let mut lines = Lines::new(file);
        let mut odd_here = 0_u64;
        while let Some(line) = lines.read().map_err(|error| unreadable(path, &error))? {
            let (line, shown) = match line {
                // The bytes of a field that is not shown need not be text for the reader of JSON.
                Line::Whole(line) => match std::str::from_utf8(line) {
                    Ok(line) => (line, serde_json::from_str::<Shown>(line).ok()),
                    Err(_) => ("", None),
                },
                Line::TooLong => ("", None),
                // Still written, or cut.
                Line::Torn => continue,
            };
            let Some(shown) = shown else {
                odd_here += 1;
                continue;
            };
            if !wanted(&shown, arguments, since) {
                continue;
            }
            let put = if arguments.json {
                writeln!(out, "{}", printable_json(line))
            } else {
                let heading = if begun { Ok(()) } else { heading(&mut out, &table) };
                begun = true;
                heading.and_then(|()| row(&mut out, &table, &shown))
            };
            match put {
                Ok(()) => {}
                // Whoever read the output has seen enough (`| head`).
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                Err(error) => return written(Err(error)).map(|()| ExitCode::SUCCESS),
            }
        }
        if odd_here > 0 {
            note(&format!(
                "{} has {odd_here} {} none of an audit",
                name_of(path),
                if odd_here == 1 {
                    "line that is"
                } else {
                    "lines that are"
                }
            ));
            odd += odd_here;
        }
    }
    written(out.flush())?;
    drop(out);
    if !begun {
        note("there is no such record");
    }
    if odd_files > 0 {
        return Err(some_unreadable(odd_files));
    }
    if odd > 0 {
        return Err(Failure::bad_data(format!(
            "{odd} {} could not be shown: `credbroker audit verify` says more",
            if odd == 1 { "line" } else { "lines" }
        )));
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(shown: &Shown, arguments: &AuditShowArgs, since: Option<Timestamp>) -> bool {
    let in_time = since.is_none_or(|since| shown.until.unwrap_or(shown.time) >= since);
    let of_sandbox = arguments.sandbox.is_none() || arguments.sandbox == shown.sandbox;
    let about = arguments.entry.as_ref().is_none_or(|pattern| {
        let provider = shown.provider.as_deref().and_then(|name| name.parse::<Name>().ok());
        let bucket = shown.bucket.as_deref().and_then(|name| name.parse::<Name>().ok());
        provider
            .zip(bucket)
            .is_some_and(|(provider, bucket)| pattern.matches(&EntryKey { provider, bucket }))
    });
    let failed = !arguments.failed || shown.outcome.as_deref() != Some("ok");
    // Files begin and end; that is no event for who looks for calls, but a gap is one, and so are calls that are only counted.
    let event = match shown.event.as_deref() {
        None => true,
        Some("refusals") => arguments.entry.is_none(),
        Some("gap") => arguments.sandbox.is_none() && arguments.entry.is_none(),
        Some(_) => arguments.json && arguments.sandbox.is_none() && arguments.entry.is_none() && !arguments.failed,
    };
    in_time && of_sandbox && about && failed && event
}

/// What a file says of its place, if it can be read.
fn own_and_previous(path: &Path) -> (String, Option<String>) {
    #[derive(Deserialize)]
    struct Begin {
        file: Option<String>,
        previous: Option<Previous>,
    }
    #[derive(Deserialize)]
    struct Previous {
        file: String,
    }
    let begin: Option<Begin> = open(path)
        .ok()
        .and_then(|(file, _)| match Lines::new(BufReader::new(file)).read() {
            Ok(Some(Line::Whole(line))) => serde_json::from_slice(line).ok(),
            _ => None,
        });
    match begin {
        Some(begin) => (
            begin.file.unwrap_or_else(|| name_of(path)),
            begin.previous.map(|previous| previous.file),
        ),
        None => (name_of(path), None),
    }
}

fn heading(out: &mut impl io::Write, table: &Table) -> io::Result<()> {
    let columns = ["TIME", "SANDBOX", "PID", "OPERATION", "RESULT", "ABOUT"];
    table.row(out, &columns.map(str::to_owned))
}

fn row(out: &mut impl io::Write, table: &Table, shown: &Shown) -> io::Result<()> {
    let time = shown.time.strftime("%F %T").to_string();
    if shown.event.as_deref() == Some("refusals") {
        return counted(out, table, &time, shown);
    }
    if shown.event.is_some() {
        let (lost, refused) = (shown.lost.unwrap_or(0), shown.refused.unwrap_or(0));
        return writeln!(
            out,
            "{time}  -- {lost} records were lost, {refused} calls were refused without a record --"
        );
    }
    let pid = shown.peer_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let about = match (&shown.provider, &shown.bucket, &shown.key, &shown.session) {
        (Some(provider), Some(bucket), _, None) => format!("{provider}/{bucket}"),
        (Some(provider), Some(bucket), _, Some(session)) => format!("{provider}/{bucket} ({session})"),
        (Some(provider), None, ..) => provider.clone(),
        (None, _, Some(key), _) => key.clone(),
        (None, _, None, Some(session)) => session.clone(),
        (None, _, None, None) => String::new(),
    };
    let result = shown.reason.as_deref().or(shown.outcome.as_deref());
    table.row(
        out,
        &[
            time,
            or_dash(shown.sandbox.as_deref()),
            pid,
            or_dash(shown.operation.as_deref()),
            or_dash(result),
            or_dash(Some(&about)),
        ],
    )
}

/// Calls that are only counted: a row for each reason.
fn counted(out: &mut impl io::Write, table: &Table, time: &str, shown: &Shown) -> io::Result<()> {
    let until = shown.until.unwrap_or(shown.time);
    let within = until.duration_since(shown.time).as_secs_f64();
    for (reason, calls) in shown.calls.iter().flatten() {
        table.row(
            out,
            &[
                time.to_owned(),
                or_dash(shown.sandbox.as_deref()),
                "-".to_owned(),
                format!("{calls} calls"),
                or_dash(Some(reason)),
                format!("within {within:.1} s"),
            ],
        )?;
    }
    Ok(())
}

fn or_dash(text: Option<&str>) -> String {
    match text {
        None | Some("") => "-".to_owned(),
        Some(text) => printable(text),
    }
}

/// How wide the columns are: known before the first row, because no one waits for the last one.
struct Table([usize; 6]);

impl Table {
    /// For a terminal of this width, if it is one.
    fn of(terminal: Option<u16>) -> Self {
        let whole = usize::from(terminal.unwrap_or(0)).max(80);
        let [time, sandbox, pid, operation, result] = if whole < 120 {
            [19, 8, 7, 14, 12]
        } else {
            [19, 24, 7, 16, 20]
        };
        let gaps = 5;
        let about = whole - (time + sandbox + pid + operation + result + gaps);
        Self([time, sandbox, pid, operation, result, about])
    }

    fn row(&self, out: &mut impl io::Write, cells: &[String; 6]) -> io::Result<()> {
        let cells: Vec<String> = cells
            .iter()
            .zip(self.0)
            .map(|(cell, width)| format!("{:<width$}", cut(cell, width)))
            .collect();
        writeln!(out, "{}", cells.join(" ").trim_end())
    }
}

/// What is longer ends with an ellipsis.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.chars().nth(width).is_none() {
        return Cow::Borrowed(text);
    }
    let kept = text.chars().take(width.saturating_sub(1));
    Cow::Owned(kept.chain(['\u{2026}']).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_fits_its_terminal_whatever_is_in_it_and_shows_more_where_there_is_room() {
        let name = "a-rather-long-sandbox-name".to_owned();
        let reason = "PROVIDER_UNAVAILABLE".to_owned();
        let cells = [
            "2026-11-22 13:34:30".to_owned(),
            name.clone(),
            "4194304".to_owned(),
            "M".repeat(64),
            reason.clone(),
            format!("{}/{}", "p".repeat(64), "b".repeat(64)),
        ];
        let row = |terminal| {
            let mut out = Vec::new();
            Table::of(terminal).row(&mut out, &cells).unwrap();
            String::from_utf8(out).unwrap()
        };
        for (terminal, width) in [
            (None, 80),
            (Some(20), 80),
            (Some(80), 80),
            (Some(100), 100),
            (Some(200), 200),
        ] {
            assert_eq!(row(terminal).trim_end().chars().count(), width, "{terminal:?}");
        }
        assert_eq!(
            row(None),
            "2026-11-22 13:34:30 a-rathe\u{2026} 4194304 MMMMMMMMMMMMM\u{2026} PROVIDER_UN\u{2026} pppppppppppppp\u{2026}\n"
        );
        assert!(row(Some(120)).contains(&reason) && row(Some(120)).contains(&name[..23]));
        assert_eq!(cut("four", 4), "four");
        assert_eq!(cut("\u{e9}t\u{e9}s", 3), "\u{e9}t\u{2026}");
    }
}
