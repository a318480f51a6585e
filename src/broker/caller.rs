//! Who asks: a principal with its policy, and what the record says of the call.

use std::sync::{Arc, OnceLock};

use crate::{
    broker::{
        Error,
        journal::Journal,
        policy::{Policy, Right},
    },
    credential::{EntryKey, Name},
};

/// The one on whose behalf a call is made: one sandbox, or the host itself.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The sandbox's name in records: never a pid or a connection, which others may get later.
    pub principal: Arc<str>,
    /// What it may do.
    pub policy: Arc<Policy>,
    /// Whether it is the host itself, and no sandbox.
    pub at_host: bool,
    /// What the call turned out to be about, for the audit line.
    pub subject: Subject,
    /// Where a stream's further deliveries are written down.
    pub journal: Journal,
}

impl Caller {
    /// The host's own user, who may do everything.
    #[must_use]
    pub fn host() -> Self {
        Self {
            principal: "host".into(),
            policy: Arc::new(Policy::host()),
            at_host: true,
            subject: Subject::default(),
            journal: Journal::default(),
        }
    }

    /// Answers [`Error::Unauthorized`] unless the policy gives the right to the entry.
    pub(super) fn require(&self, right: Right, key: &EntryKey) -> Result<(), Error> {
        if self.policy.grants(right, key) {
            Ok(())
        } else {
            Err(Error::Unauthorized {
                right,
                key: key.clone(),
            })
        }
    }

    /// Answers [`Error::UnauthorizedKey`] unless the policy lets the caller read the API key.
    pub(super) fn require_key(&self, name: &Name) -> Result<(), Error> {
        if self.policy.may_read_key(name) {
            Ok(())
        } else {
            Err(Error::UnauthorizedKey(name.clone()))
        }
    }
}

/// What a call is about, told once by whoever decoded it and read by whoever writes the record.
#[derive(Debug, Clone, Default)]
pub struct Subject(Arc<OnceLock<Named>>);

/// The names in a call.
#[derive(Debug, Clone)]
pub enum Named {
    /// An entry.
    Entry(EntryKey),
    /// All entries of a provider.
    Provider(Name),
    /// An API key.
    Key(Name),
    /// A login.
    Login {
        /// The first characters of the session's id.
        session: String,
        /// What it is for, as far as the session is known.
        entry: Option<EntryKey>,
    },
}

impl Subject {
    /// Says what the call is about. Only the first word counts.
    pub fn is(&self, named: Named) {
        // A second word would be a handler that decodes twice; the first stands.
        let _ = self.0.set(named);
    }

    /// What was said, if anything.
    #[must_use]
    pub fn named(&self) -> Option<&Named> {
        self.0.get()
    }
}
