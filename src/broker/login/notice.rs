//! What the host says by itself about the logins that sandboxes begin, so that nobody agrees to one that they do not know
//! of.

use std::{fmt, sync::Arc};

use super::Shown;
use crate::{broker::error::LoginCommand, credential::EntryKey};

/// Who gets the notices. It must not wait.
pub type Notices = Arc<dyn Fn(&Notice<'_>) + Send + Sync>;

/// Something about a login that a sandbox began. `Display` is a text of some lines for the host's terminal, free of
/// control characters; it has the URL, and with it `state`, so it is for no log.
pub enum Notice<'a> {
    /// The user is asked to open something.
    Begun {
        /// The sandbox.
        principal: &'a str,
        /// The entry that the login is for.
        key: &'a EntryKey,
        /// What the sandbox will show.
        shown: &'a Shown,
    },
    /// The entry is stored.
    Done {
        /// The sandbox.
        principal: &'a str,
        /// The entry.
        key: &'a EntryKey,
        /// Whose account it is, if the provider said so.
        subject: Option<&'a str>,
    },
    /// The login was for another account than the stored one, or it cannot be told whose they are; nothing was stored.
    OtherAccount {
        /// The sandbox.
        principal: &'a str,
        /// The entry, which is as it was.
        key: &'a EntryKey,
    },
}

/// Tells nobody but the log, without what only a terminal may show.
#[must_use]
pub fn to_the_log() -> Notices {
    Arc::new(|notice| match notice {
        Notice::Begun { principal, key, .. } => {
            tracing::info!(sandbox = principal, entry = %key, "a sandbox began a login");
        }
        Notice::Done { principal, key, .. } => {
            tracing::info!(sandbox = principal, entry = %key, "a login from a sandbox is complete");
        }
        Notice::OtherAccount { principal, key } => {
            tracing::warn!(sandbox = principal, entry = %key, mend = %LogInHere(key), "a login from a sandbox was not stored: it was for another account, or it is not known whose the accounts are");
        }
    })
}

impl fmt::Display for Notice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun { principal, key, shown } => {
                write!(f, "sandbox {principal} asks you to log in to {key}. If you want that, ")?;
                match shown {
                    Shown::Paste { auth_url } => write!(
                        f,
                        "open\n  {}\nand paste the code that you are shown into the sandbox.",
                        auth_url.escape_debug()
                    ),
                    Shown::Browser { auth_url, .. } => {
                        write!(f, "open on this machine\n  {}", auth_url.escape_debug())
                    }
                    Shown::Device {
                        verification_url,
                        user_code,
                        ..
                    } => write!(
                        f,
                        "open\n  {}\nand enter the code\n  {}",
                        verification_url.escape_debug(),
                        user_code.escape_debug()
                    ),
                }
            }
            Self::Done {
                principal,
                key,
                subject,
            } => {
                write!(f, "the login of sandbox {principal} to {key} is complete")?;
                match subject {
                    Some(subject) => write!(f, "; the account is {}", subject.escape_debug()),
                    None => f.write_str("; the provider did not say whose account it is"),
                }
            }
            Self::OtherAccount { principal, key } => write!(
                f,
                "the login of sandbox {principal} to {key} was not stored: a sandbox may renew a login, but not change the account. {}",
                LogInHere(key)
            ),
        }
    }
}

/// How to log in anew, for the host.
struct LogInHere<'a>(&'a EntryKey);

impl fmt::Display for LogInHere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log in on this host with {}", LoginCommand(self.0))
    }
}
