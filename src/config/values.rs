//! Values that may hold a secret because people write them there: their `Debug` shows none.

use std::{collections::BTreeMap, fmt};

/// A command line for `/bin/sh -c`, as the configuration writes it.
#[derive(Clone, PartialEq, Eq)]
pub struct ShellCommand(Box<str>);

impl ShellCommand {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The command line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ShellCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShellCommand(..)")
    }
}

/// Further parameters of a request, by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    pub(super) fn new(params: BTreeMap<String, String>) -> Self {
        Self(params)
    }

    /// The parameters in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
