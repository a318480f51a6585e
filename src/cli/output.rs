//! What people see. Results go to standard output; everything else goes to standard error.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd,
    time::Duration,
};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets::NOTHING};
use jiff::Timestamp;
use serde::Serialize;

use crate::{broker::audit::is_format_character, cli::failure::Failure};

/// Between two columns of a table.
const GAP: u16 = 2;
/// Before the further lines of a text that is longer than the terminal is wide.
const HANGING: &str = "  ";

pub(super) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// How wide the terminal is. `None`: this is no terminal, or it does not say.
pub(super) fn columns(of: impl AsFd) -> Option<u16> {
    let columns = rustix::termios::tcgetwinsize(of).ok()?.ws_col;
    (columns > 0).then_some(columns)
}

pub(super) fn error(failure: &Failure) {
    note(&format!("error: {}", failure.message()));
}

pub(super) fn warning(message: &str) {
    note(&format!("warning: {message}"));
}

/// One line on standard error, whatever a file's name or a broker's answer put into it; as many as it takes on a terminal.
pub(super) fn note(message: &str) {
    let line = wrapped(&format!("credbroker: {}", printable(message)), columns(io::stderr())) + "\n";
    // In one piece: the terminal may be that of other programs, too. It may be gone; then there is nobody to tell.
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

/// The result as it is: paths need not be text.
pub(super) fn bytes(result: &[u8]) -> Result<(), Failure> {
    written(io::stdout().write_all(result))
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

/// A table with a heading, without lines around it. On a terminal that is too narrow, cells have several lines, and where
/// not even their words have room, each row is a list.
pub(super) fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    for text in laid_out(heading, &rows, columns(io::stdout())) {
        line(text.trim_end())?;
    }
    Ok(())
}

fn laid_out(heading: &[&str], rows: &[Vec<String>], columns: Option<u16>) -> Vec<String> {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(heading.iter().copied())
        .add_rows(rows);
    let mut needed = 0;
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, GAP));
        // Between words only: names, paths and URLs are copied.
        let cells = rows.iter().filter_map(|row| row.get(index).map(String::as_str));
        let words = cells.chain(heading.get(index).copied()).flat_map(str::split_whitespace);
        let longest = words.map(|word| word.chars().count()).max().unwrap_or(0);
        let width = u16::try_from(longest).unwrap_or(u16::MAX).saturating_add(GAP);
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
        needed += usize::from(width);
    }
    match columns {
        Some(columns) if usize::from(columns) < needed => return lists(heading, rows),
        Some(columns) => {
            table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(columns);
        }
        None => {}
    }
    table.lines().collect()
}

/// A line for each cell, and an empty one between rows.
fn lists(heading: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = heading.iter().map(|name| name.len()).max().unwrap_or(0) + usize::from(GAP);
    let list = |row: &Vec<String>| -> Vec<String> {
        let cells = heading.iter().zip(row);
        cells.map(|(name, cell)| format!("{name:width$}{cell}")).collect()
    };
    rows.iter().map(list).collect::<Vec<_>>().join(&[String::new()][..])
}

pub(super) fn written(result: io::Result<()>) -> Result<(), Failure> {
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

/// Text with ends of lines between words, so that a terminal does not break it elsewhere. What is longer than a line, as
/// URLs are, stays in one piece, and so does a command in backticks. `None`: as it is.
pub(super) fn wrapped(text: &str, columns: Option<u16>) -> String {
    let Some(columns) = columns.map(usize::from) else {
        return text.to_owned();
    };
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let mut now = String::new();
        for word in pieces(line) {
            let word = if now.is_empty() { word } else { word.trim_start() };
            if !now.trim().is_empty() && now.chars().count() + 1 + word.chars().count() > columns {
                lines.push(std::mem::replace(&mut now, HANGING.to_owned()));
            } else if !now.is_empty() {
                now.push(' ');
            }
            now.push_str(word);
        }
        lines.push(now);
    }
    lines.join("\n")
}

/// A line between its spaces, but for those in backticks and those that it begins with.
fn pieces(line: &str) -> Vec<&str> {
    let mut quoted = false;
    let mut begun = false;
    line.split(|c: char| {
        quoted ^= c == '`';
        begun |= c != ' ';
        c == ' ' && begun && !quoted
    })
    .collect()
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

/// A line of JSON with the same value, that cannot play with a terminal either: such characters are escaped in its strings, and
/// between them, where there can be nothing but spaces and ends of lines, they are spaces.
pub(super) fn printable_json(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in line.chars() {
        if !(c.is_control() || is_format_character(c)) {
            shown.push(c);
        } else if in_string {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(' ');
        }
        if in_string && escaped {
            escaped = false;
        } else if in_string && c == '\\' {
            escaped = true;
        } else if c == '"' {
            in_string = !in_string;
        }
    }
    shown
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
    fn text_is_wrapped_between_words_and_what_is_copied_stays_in_one_piece() {
        for (text, columns, want) in [
            ("one two three", 20, "one two three"),
            ("one two three", 7, "one two\n  three"),
            ("one two three four", 8, "one two\n  three\n  four"),
            (
                "open\n  https://p.example/x\nand on",
                8,
                "open\n  https://p.example/x\nand on",
            ),
            ("at https://p.example/x it is", 10, "at\n  https://p.example/x\n  it is"),
            ("do `log in p`, or `b c`", 12, "do\n  `log in p`,\n  or `b c`"),
            ("an open ` is no end", 10, "an open\n  ` is no end"),
        ] {
            assert_eq!(wrapped(text, Some(columns)), want);
            assert_eq!(wrapped(text, None), text);
        }
    }

    #[test]
    fn a_table_fits_the_terminal_and_breaks_no_word() {
        let heading = ["ENTRY", "SAVED BY"];
        let rows = [
            vec!["p/default".to_owned(), "login by sandbox run".to_owned()],
            vec!["q/default".to_owned(), "-".to_owned()],
        ];
        let shown = |columns| -> Vec<String> {
            let lines = laid_out(&heading, &rows, columns);
            lines.iter().map(|line| line.trim_end().to_owned()).collect()
        };
        let wide = ["ENTRY      SAVED BY", "p/default  login by sandbox run", "q/default  -"];
        assert_eq!(shown(None), wide);
        assert_eq!(shown(Some(80)), wide);
        assert_eq!(
            shown(Some(25)),
            [
                "ENTRY      SAVED BY",
                "p/default  login by",
                "           sandbox run",
                "q/default  -"
            ]
        );
        assert_eq!(
            shown(Some(15)),
            [
                "ENTRY     p/default",
                "SAVED BY  login by sandbox run",
                "",
                "ENTRY     q/default",
                "SAVED BY  -"
            ]
        );
    }

    #[test]
    fn nothing_plays_with_the_terminal() {
        assert_eq!(printable("alice@example.com é"), "alice@example.com é");
        assert_eq!(printable("a\u{1b}[31m\n\u{202e}b"), "a\\u{1b}[31m\\u{a}\\u{202e}b");
    }
    #[test]
    fn json_that_cannot_play_with_a_terminal_has_the_same_value() {
        let odd = "{\"a\\\"\u{9b}31m\":\r\t\"\u{202e}b\\\\\",\r\"\u{7f}\":[\"\\u001b\",\"\u{feff}\u{e9}\u{1f511}\"]}";
        let shown = printable_json(odd);
        assert_eq!(
            shown,
            "{\"a\\\"\\u009b31m\":  \"\\u202eb\\\\\", \"\\u007f\":[\"\\u001b\",\"\\ufeff\u{e9}\u{1f511}\"]}"
        );
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(odd));
        let plain = r#"{"n":1,"a":"b\","c":[1, 2]}"#;
        assert_eq!(printable_json(plain), plain);
    }
}
