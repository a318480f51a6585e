//! Every sandbox's sessions: how many there may be, how they end, and how long it is remembered that they did.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::session::{Session, SessionId, Stage};
use crate::{
    broker::{
        Error,
        counts::{Counts, LoginEnd},
    },
    credential::EntryKey,
};

/// How many logins one sandbox may have open at once.
pub(super) const MOST_OPEN: usize = 16;
/// How long it is remembered that a session ended, by its id alone.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many of them are remembered for one sandbox: what one connection can begin and end in that time at the default rate,
/// in some 2 MiB. Who makes more is told that the oldest are unknown.
const MOST_REMEMBERED: usize = 18_000;

/// All sessions, by the sandbox that began them: what one asks for is looked up among its own only, so another's cannot be
/// told from one that never was.
pub(super) struct Sessions {
    counts: Arc<Counts>,
    principals: HashMap<Arc<str>, Own>,
    /// The broker stops: no session begins any more.
    interrupted: bool,
}

#[derive(Default)]
struct Own {
    open: HashMap<SessionId, Session>,
    ended: HashMap<SessionId, How>,
    /// When each of those is forgotten, by boot time; the oldest first.
    forgotten: VecDeque<(Duration, SessionId)>,
}

#[derive(Clone, Copy)]
enum How {
    Expired,
    Used,
}

impl Sessions {
    pub(super) fn new(counts: Arc<Counts>) -> Self {
        Self {
            counts,
            principals: HashMap::new(),
            interrupted: false,
        }
    }

    /// Makes room for one more.
    ///
    /// # Errors
    /// [`Error::TooManySessions`], [`Error::ShuttingDown`].
    pub(super) fn open(
        &mut self,
        principal: &Arc<str>,
        key: &EntryKey,
        now: Duration,
        lifetime: Duration,
    ) -> Result<SessionId, Error> {
        if self.interrupted {
            return Err(Error::ShuttingDown);
        }
        self.sweep(now);
        let own = self.principals.entry(Arc::clone(principal)).or_default();
        if own.open.len() >= MOST_OPEN {
            return Err(Error::TooManySessions { limit: MOST_OPEN });
        }
        let id = SessionId::random();
        let session = Session {
            key: key.clone(),
            until: now.saturating_add(lifetime),
            fate: Arc::default(),
            stage: Stage::Preparing,
        };
        own.open.insert(id.clone(), session);
        Ok(id)
    }

    /// A session that could not be begun: as if it had never been.
    pub(super) fn forget(&mut self, principal: &Arc<str>, id: &SessionId) {
        if let Some(own) = self.principals.get_mut(principal) {
            own.open.remove(id);
        }
    }

    /// The session, if it is the sandbox's own and has not ended.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`], [`Error::SessionExpired`], [`Error::SessionAlreadyUsed`].
    pub(super) fn find(&mut self, principal: &Arc<str>, id: &SessionId, now: Duration) -> Result<&mut Session, Error> {
        self.sweep(now);
        let own = self.principals.get_mut(principal).ok_or(Error::SessionNotFound)?;
        if let Some(how) = own.ended.get(id) {
            return Err(match how {
                How::Expired => Error::SessionExpired,
                How::Used => Error::SessionAlreadyUsed,
            });
        }
        match own.open.get_mut(id) {
            Some(session) if !matches!(session.stage, Stage::Preparing) => Ok(session),
            Some(_) | None => Err(Error::SessionNotFound),
        }
    }

    /// The session of a task of the broker's, if it has not ended.
    pub(super) fn of_task(&mut self, principal: &Arc<str>, id: &SessionId) -> Option<&mut Session> {
        self.principals.get_mut(principal)?.open.get_mut(id)
    }

    /// Ends the session: it was used.
    pub(super) fn end(&mut self, principal: &Arc<str>, id: &SessionId, now: Duration) -> Option<Session> {
        let own = self.principals.get_mut(principal)?;
        let session = own.open.remove(id)?;
        own.remember(id.clone(), How::Used, now);
        Some(session)
    }

    /// Withdraws every session that would write this entry: it was removed.
    pub(super) fn withdraw(&self, key: &EntryKey) {
        for own in self.principals.values() {
            for session in own.open.values().filter(|session| session.key == *key) {
                if session.fate.withdraw() {
                    session.fate.count(&self.counts, LoginEnd::Withdrawn);
                }
            }
        }
    }

    /// Ends every session that waits for a user. A code that is being exchanged goes on.
    pub(super) fn interrupt(&mut self) {
        self.interrupted = true;
        for own in self.principals.values() {
            for session in own.open.values() {
                session.fate.interrupt();
            }
        }
    }

    /// Ends what is too old, forgets what ended long ago.
    pub(super) fn sweep(&mut self, now: Duration) {
        self.principals.retain(|_, own| {
            let old: Vec<SessionId> = own
                .open
                .iter()
                .filter(|(_, session)| session.until <= now)
                .map(|(id, _)| id.clone())
                .collect();
            for id in old {
                if let Some(session) = own.open.remove(&id)
                    && session.fate.withdraw()
                {
                    session.fate.count(&self.counts, LoginEnd::Expired);
                }
                own.remember(id, How::Expired, now);
            }
            while own.forgotten.front().is_some_and(|(at, _)| *at <= now) {
                own.forget_oldest();
            }
            !own.open.is_empty() || !own.ended.is_empty()
        });
    }

    /// How many wait for a user or for a provider.
    pub(super) fn count(&self) -> usize {
        self.principals.values().map(|own| own.open.len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.principals.is_empty()
    }
}

impl Own {
    fn remember(&mut self, id: SessionId, how: How, now: Duration) {
        if self.forgotten.len() >= MOST_REMEMBERED {
            self.forget_oldest();
        }
        self.forgotten.push_back((now.saturating_add(REMEMBERED), id.clone()));
        self.ended.insert(id, how);
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.forgotten.pop_front() {
            self.ended.remove(&id);
        }
    }
}
