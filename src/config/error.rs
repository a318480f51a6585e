//! The one error of this module: where, what, and how to mend it, on one line for people.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A configuration that cannot be used; it ends the program with exit code 78.
///
/// Its text is one line: the file and line (or the variable), what is wrong with which key, and what to do. It never
/// quotes a value, only names of keys: a value may be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    place: Place,
    problem: String,
    mend: String,
}

impl ConfigError {
    pub(super) fn new(place: &Place, problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            problem: problem.into(),
            mend: mend.into(),
        }
    }

    /// Where it is and what is wrong.
    #[must_use]
    pub fn problem(&self) -> String {
        format!("{}: {}", self.place, self.problem)
    }

    /// What to do about it.
    #[must_use]
    pub fn mend(&self) -> &str {
        &self.mend
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem(), self.mend)
    }
}

impl std::error::Error for ConfigError {}

/// Where something was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A file as a whole.
    File(PathBuf),
    /// A line of a file, counted from 1.
    Line(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// Nowhere: a key without a value.
    Default,
}

impl Place {
    pub(super) fn file(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(&escaped(&path.to_string_lossy())),
            Self::Line(path, line) => write!(f, "{}:{line}", escaped(&path.to_string_lossy())),
            Self::Variable(name) => f.write_str(&escaped(name)),
            Self::Default => f.write_str("configuration"),
        }
    }
}

/// Text from outside as one line of a message may show it: control characters escaped, cut after 128 characters.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(128) {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    if text.chars().nth(128).is_some() {
        shown.push_str("...");
    }
    shown
}
