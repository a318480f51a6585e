//! Logins: sessions as a state machine, from the question of a sandbox to the stored entry.
//!
//! A session belongs to the sandbox that began it, can be used once, and ends after ten minutes, when it is used, cancelled
//! or withdrawn by a logout, and with the broker. What it takes to log in - verifier, `state`, device code - stays in it and
//! goes with it. Whoever asks only waits: exchanges run in tasks of the broker's, and so does the polling of a provider.
//!
//! `session` is one of them, `sessions` all of them. `beginning` and `asking` are what a sandbox can do, `device` the polling
//! of a provider, `landing` what becomes of the token set, `notice` what the host says by itself.

mod asking;
mod beginning;
mod device;
mod landing;
mod notice;
mod session;
mod sessions;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

pub use self::{
    notice::{Notice, Notices, to_the_log},
    session::SessionId,
};
use self::{session::Fate, sessions::Sessions};
use super::{
    Error,
    counts::{Counts, LoginEnd},
};
pub use crate::oauth::Flow;
use crate::{
    credential::{AccessToken, EntryKey, Name},
    oauth::LoginProvider,
};

/// How long a caller waits for a provider. What it waits for goes on.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long an exchange on the wire and its save are awaited when the broker stops.
const LAST_EXCHANGE: Duration = Duration::from_secs(20);

/// What logins need; the composition root fills it in.
#[derive(Clone)]
pub struct LoginParts {
    /// The providers that the configuration names.
    pub providers: BTreeMap<Name, Arc<dyn LoginProvider>>,
    /// How long a user has.
    pub timeout: Duration,
    /// Who is told about the logins of sandboxes.
    pub notices: Notices,
}

impl Default for LoginParts {
    /// No provider, ten minutes, the log.
    fn default() -> Self {
        Self {
            providers: BTreeMap::new(),
            timeout: Duration::from_secs(600),
            notices: to_the_log(),
        }
    }
}

/// A login that was begun.
pub struct Begun {
    /// For the calls that follow.
    pub session: SessionId,
    /// What to show to the user.
    pub shown: Shown,
    /// When it ends, by the wall clock.
    pub expire_time: Timestamp,
}

/// What a user is shown.
pub enum Shown {
    /// They open this, and paste the code that they get.
    Paste {
        /// https, or http to loopback.
        auth_url: String,
    },
    /// They open this on the host.
    Browser {
        /// https, or http to loopback.
        auth_url: String,
        /// How often asking is worth it.
        interval: Duration,
    },
    /// They open this anywhere, and type the code.
    Device {
        /// https, or http to loopback.
        verification_url: String,
        /// The same with the code in it.
        verification_url_complete: Option<String>,
        /// The code.
        user_code: String,
        /// How often asking is worth it.
        interval: Duration,
    },
}

impl Shown {
    /// The flow that shows this.
    #[must_use]
    pub fn flow(&self) -> Flow {
        match self {
            Self::Paste { .. } => Flow::PkceRedirect,
            Self::Browser { .. } => Flow::BrowserRedirect,
            Self::Device { .. } => Flow::DeviceCode,
        }
    }
}

/// How a login stands.
#[derive(Debug)]
pub enum Standing {
    /// The user has not answered, or the answer is being exchanged.
    Pending {
        /// How often asking is worth it.
        interval: Duration,
    },
    /// The entry is stored. `None`: the policy does not allow to read it, or it cannot be handed out now.
    Complete(Option<AccessToken>),
    /// It failed.
    Failed(Error),
}

/// Every login of a broker.
pub(super) struct Logins {
    parts: LoginParts,
    sessions: Mutex<Sessions>,
    counts: Arc<Counts>,
    /// What goes on without a caller.
    tasks: TaskTracker,
    /// Looks for old sessions while there are any.
    sweeping: AtomicBool,
}

impl Logins {
    pub(super) fn new(parts: LoginParts, counts: Arc<Counts>) -> Self {
        Self {
            parts,
            sessions: Mutex::new(Sessions::new(Arc::clone(&counts))),
            counts,
            tasks: TaskTracker::new(),
            sweeping: AtomicBool::new(false),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry was removed: no login that is under way brings it back.
    pub(super) fn withdraw(&self, key: &EntryKey) {
        self.sessions().withdraw(key);
    }

    /// Ends every login that waits for a user.
    pub(super) fn begin_shutdown(&self) {
        self.sessions().interrupt();
    }

    /// Waits for codes that are being exchanged, and for what comes of it to be saved; no longer than a refresh is waited
    /// for.
    pub(super) async fn shutdown(&self) {
        self.begin_shutdown();
        self.tasks.close();
        if timeout(LAST_EXCHANGE, self.tasks.wait()).await.is_err() {
            tracing::error!("the broker stops while a login is being completed: it has to be begun anew");
        }
    }

    /// Counts how a login ended, unless somebody ended it before.
    fn ended(&self, fate: &Fate, result: &Result<(), Error>) {
        fate.count(&self.counts, LoginEnd::of(result));
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.sessions().count()
    }
}
