//! What people see. Results go to standard output; everything else goes to standard error.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use comfy_table::{Table, presets::NOTHING};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::failure::Failure;

pub(super) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

pub(super) fn error(failure: &Failure) {
    note(&format!("error: {}", failure.message()));
}

pub(super) fn warning(message: &str) {
    note(&format!("warning: {message}"));
}

/// One line on standard error, whatever a file's name or a broker's answer put into it.
pub(super) fn note(message: &str) {
    // In one piece: the terminal may be that of other programs, too. It may be gone; then there is nobody to tell.
    let line = format!("credbroker: {}\n", printable(message));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Something to copy, on a line of its own on standard error.
pub(super) fn apart(text: &str) {
    let _ = writeln!(io::stderr(), "\n{}\n", printable(text));
}

/// One line of the result.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    written(writeln!(io::stdout(), "{text}"))
}

/// The result as pretty JSON.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::internal(error.to_string()))?;
    line(&text)
}

/// One line of the result as JSON.
pub(super) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::internal(error.to_string()))?;
    line(&text)
}

/// A table with a heading, without lines around it.
pub(super) fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Failure> {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(heading.iter().copied())
        .add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for text in table.lines() {
        line(text.trim_end())?;
    }
    Ok(())
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        // Whoever read the output has seen enough (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| {
            Failure::internal(format!(
                "cannot write to standard output: {error}; make room, or send it elsewhere"
            ))
        }),
    }
}

/// Text from a provider, a store or a sandbox, with control characters escaped so that it cannot play with a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() || is_format_character(c);
            let escaped = escape.then(|| c.escape_unicode());
            let plain = (!escape).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Invisible characters that turn the direction of text or hide in it.
fn is_format_character(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A moment as people say it: `in 58m`, `3h ago`.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let distance = at.duration_since(now);
    let text = rough(distance.unsigned_abs());
    if distance.is_negative() {
        format!("{text} ago")
    } else {
        format!("in {text}")
    }
}

/// The largest unit that fits, rounded down; but what is an hour but for the moment since is an hour.
fn rough(length: Duration) -> String {
    let seconds = length.saturating_add(Duration::from_millis(500)).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_in_the_largest_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, want) in [
            (0, "in 0s"),
            (59, "in 59s"),
            (3599, "in 59m"),
            (-60, "1m ago"),
            (-7200, "2h ago"),
            (864_000, "in 10d"),
        ] {
            assert_eq!(relative(now + jiff::SignedDuration::from_secs(seconds), now), want);
        }
        let just_given = now + jiff::SignedDuration::from_millis(3_599_970);
        assert_eq!(relative(just_given, now), "in 1h");
    }

    #[test]
    fn nothing_plays_with_the_terminal() {
        assert_eq!(printable("alice@example.com é"), "alice@example.com é");
        assert_eq!(printable("a\u{1b}[31m\n\u{202e}b"), "a\\u{1b}[31m\\u{a}\\u{202e}b");
    }
}
