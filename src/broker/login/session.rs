//! One login session: what it is called, whose it is, how far it has come.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::landing::Landing;
use crate::{
    broker::{
        Error,
        counts::{Counts, LoginEnd},
    },
    credential::EntryKey,
    oauth::login::Authorization,
};

/// How much of a session's id records show.
const SHOWN: usize = 8;

/// The name of a session: 128 random bits as 32 hexadecimal characters. Whoever has it can end the login, so records and
/// `Debug` show its first 8 characters only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Box<str>);

impl SessionId {
    /// A new one.
    #[must_use]
    pub(super) fn random() -> Self {
        Self(data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>()).into())
    }

    /// The id in a request. `None`: no session was ever called that.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| Self(text.into()))
    }

    /// All of it, for the answer that names the session.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// As much of it as records show.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.0.get(..SHOWN).unwrap_or_default()
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}...", self.shown())
    }
}

/// A session that has not ended.
pub(super) struct Session {
    pub(super) key: EntryKey,
    /// By boot time: a suspend counts.
    pub(super) until: Duration,
    pub(super) fate: Arc<Fate>,
    pub(super) stage: Stage,
}

/// How far a session has come.
pub(super) enum Stage {
    /// It is being prepared; nobody knows its name yet.
    Preparing,
    /// The user is to paste a code.
    Pasting(Authorization, Landing),
    /// The code that the user pasted is being exchanged.
    Exchanging,
    /// The broker waits for the user by itself, and then exchanges. Asking is worth it this often.
    Waiting(Duration),
    /// That is over, and nobody has asked yet.
    Over(Result<(), Error>),
}

/// Whether the result of a session is to be stored. There is one moment at which that is decided, under the entry's lock;
/// whoever withdraws the session before it knows that it will change nothing.
#[derive(Default)]
pub(super) struct Fate {
    decided: Mutex<Option<Decision>>,
    ended: CancellationToken,
    counted: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    Withdrawn,
    Stored,
}

impl Fate {
    /// `true`: the session will change nothing.
    pub(super) fn withdraw(&self) -> bool {
        self.ended.cancel();
        self.decide(Decision::Withdrawn)
    }

    /// Whether the session was withdrawn.
    pub(super) fn is_withdrawn(&self) -> bool {
        *self.decided.lock().unwrap_or_else(PoisonError::into_inner) == Some(Decision::Withdrawn)
    }

    /// `true`: nobody can withdraw the session any more.
    pub(super) fn store(&self) -> bool {
        self.decide(Decision::Stored)
    }

    /// Whoever waits for the user stops waiting. A code that is being exchanged is exchanged and stored.
    pub(super) fn interrupt(&self) {
        self.ended.cancel();
    }

    /// Counts the end of the session; the first end is the one that counts.
    pub(super) fn count(&self, counts: &Counts, end: LoginEnd) {
        if !self.counted.swap(true, Ordering::Relaxed) {
            counts.login(end);
        }
    }

    fn decide(&self, decision: Decision) -> bool {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        *decided.get_or_insert(decision) == decision
    }

    /// Comes when the session is withdrawn or interrupted.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}
