//! `audit show`.

use std::{
    io::{self, BufWriter, Write as _},
    process::ExitCode,
};

use jiff::Timestamp;
use serde::Deserialize;

use super::{Files, name_of, open, some_unreadable, unreadable};
use crate::{
    broker::audit::verify::{Line, Lines},
    cli::{
        args::{AuditShowArgs, Since},
        failure::Failure,
        output::{note, printable, written},
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
}

pub(super) fn show(config: &Config, arguments: &AuditShowArgs) -> Result<ExitCode, Failure> {
    let files = Files::find(config, arguments.file.as_deref())?;
    let since = match arguments.since {
        None => None,
        Some(Since::At(at)) => Some(at),
        // Longer ago than there are times is from the beginning.
        Some(Since::Ago(ago)) => SystemClock::new().now().wall.checked_sub(ago).ok(),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut begun = arguments.json;
    let (mut odd, mut odd_files) = (0_u64, 0);
    for path in &files.paths {
        let file = match open(path) {
            Ok((file, _)) => file,
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
                Line::Whole(line) => (line, serde_json::from_slice::<Shown>(line).ok()),
                Line::TooLong => (&b""[..], None),
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
                out.write_all(line).and_then(|()| out.write_all(b"\n"))
            } else {
                let heading = if begun { Ok(()) } else { heading(&mut out) };
                begun = true;
                heading.and_then(|()| row(&mut out, &shown))
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
                "{} has {odd_here} lines that are none of an audit",
                name_of(path)
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
            "{odd} lines could not be shown: `credbroker audit verify` says more"
        )));
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(shown: &Shown, arguments: &AuditShowArgs, since: Option<Timestamp>) -> bool {
    let in_time = since.is_none_or(|since| shown.time >= since);
    let of_sandbox = arguments.sandbox.is_none() || arguments.sandbox == shown.sandbox;
    let about = arguments.entry.as_ref().is_none_or(|pattern| {
        let provider = shown.provider.as_deref().and_then(|name| name.parse::<Name>().ok());
        let bucket = shown.bucket.as_deref().and_then(|name| name.parse::<Name>().ok());
        provider
            .zip(bucket)
            .is_some_and(|(provider, bucket)| pattern.matches(&EntryKey { provider, bucket }))
    });
    let failed = !arguments.failed || shown.outcome.as_deref() != Some("ok");
    // Files begin and end; that is no event for who looks for calls, but a gap is one.
    let event = match shown.event.as_deref() {
        None => true,
        Some("gap") => arguments.sandbox.is_none() && arguments.entry.is_none(),
        Some(_) => arguments.json && arguments.sandbox.is_none() && arguments.entry.is_none() && !arguments.failed,
    };
    in_time && of_sandbox && about && failed && event
}

fn heading(out: &mut impl io::Write) -> io::Result<()> {
    let columns = ["TIME", "SANDBOX", "PID", "OPERATION", "RESULT", "ABOUT"];
    columns_of(out, &columns.map(str::to_owned))
}

fn row(out: &mut impl io::Write, shown: &Shown) -> io::Result<()> {
    let time = shown.time.strftime("%F %T").to_string();
    if shown.event.is_some() {
        let (lost, refused) = (shown.lost.unwrap_or(0), shown.refused.unwrap_or(0));
        return writeln!(
            out,
            "{time}  -- {lost} records were lost, {refused} calls were refused without a record --"
        );
    }
    let or_dash = |text: Option<&str>| match text {
        None | Some("") => "-".to_owned(),
        Some(text) => printable(text),
    };
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
    columns_of(
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

/// Of a width that is known before the first row, because no one waits for the last one.
fn columns_of(
    out: &mut impl io::Write,
    [time, sandbox, pid, operation, result, about]: &[String; 6],
) -> io::Result<()> {
    writeln!(
        out,
        "{time:<19} {sandbox:<8} {pid:<7} {operation:<13} {result:<12} {about}"
    )
}
