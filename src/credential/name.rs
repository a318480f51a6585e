//! Names: checked once at the edge, safe ever after.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest name of a provider, bucket or API key, in bytes.
pub const MAX_NAME: usize = 64;
/// The bucket that an empty name stands for.
pub const DEFAULT_BUCKET: &str = "default";

/// The name of a provider, bucket or API key: 1 to 64 of `[A-Za-z0-9._@-]`, not `.` or `..`.
///
/// Holding one is the proof that it was checked: stores make file names of it. Clones share the text, so that an entry's
/// name is in memory once, whoever keeps it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no [`Name`]. It keeps only what may be logged of it: the length and the first 32 characters, escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    /// Length in bytes.
    pub length: usize,
    /// The first 32 characters, control characters escaped.
    pub excerpt: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == 0 {
            return f.write_str("a name must not be empty");
        }
        write!(
            f,
            "\"{}\" ({} bytes) is no valid name: use 1 to {MAX_NAME} of A-Z a-z 0-9 . _ @ -, not \".\" or \"..\"",
            self.excerpt, self.length
        )
    }
}

impl std::error::Error for InvalidName {}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let fits = (1..=MAX_NAME).contains(&text.len())
            && text != "."
            && text != ".."
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-'));
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName {
                length: text.len(),
                excerpt: text.chars().take(32).flat_map(char::escape_default).collect(),
            })
        }
    }
}

/// One account at one provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// The OAuth authorization server.
    pub provider: Name,
    /// The account there.
    pub bucket: Name,
}

impl EntryKey {
    /// Checks both names. An empty bucket is [`DEFAULT_BUCKET`]: this is the one place where that is decided.
    ///
    /// # Errors
    /// The name that is not valid, with the name of its field.
    pub fn parse(provider: &str, bucket: &str) -> Result<Self, (&'static str, InvalidName)> {
        let bucket = if bucket.is_empty() { DEFAULT_BUCKET } else { bucket };
        Ok(Self {
            provider: provider.parse().map_err(|e| ("provider", e))?,
            bucket: bucket.parse().map_err(|e| ("bucket", e))?,
        })
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.bucket)
    }
}
