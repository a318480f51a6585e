//! Following an entry or an API key: what is there at once, and then whatever takes its place.
//!
//! Everybody who follows an entry reads at one place (`board`), which is fed by one task: it looks when something of this
//! broker changed the entry, when a caller's GetToken came upon a change, when the token's time is over, and when the rounds
//! over all places find that another process has changed it. The entry counts as used all the while, so its renewal is never
//! given up.

mod board;
mod seats;
mod wardens;

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::watch, time::timeout};

pub(super) use self::{
    board::Board,
    seats::Seats,
    wardens::{Entries, Keys},
};
use self::{
    board::{Look, PAUSE},
    seats::Seat,
};
use super::{Broker, Caller, Error, caller::Named, policy::Right, scheduler::Watching};
use crate::{
    credential::{AccessToken, EntryKey, Name, Revision},
    store::{StoreError, StoredTokens},
};

/// How long a look at the store may take before the entry counts as unreadable: a token that expires meanwhile must not be
/// good for as long as a disk hangs.
const LOOK: Duration = Duration::from_secs(1);
/// How long who follows an expired entry waits for its refresh before it is told that there is nothing.
const FRESHEN: Duration = Duration::from_secs(5);

/// How an entry is, as those see it who follow it.
#[derive(Clone)]
pub(super) enum Standing {
    /// Nobody has looked yet.
    Unknown,
    /// This token, which had not expired when it was looked at.
    Token(Arc<StoredTokens>),
    /// The token has expired, and the next one is awaited.
    Lapsed(Arc<StoredTokens>),
    /// The token has expired, and only a login brings another one.
    NeedsLogin,
    /// The token has expired, and nobody knows its provider.
    NoProvider,
    /// There is no such entry.
    Absent,
    /// It cannot be read, and what was read last has expired.
    Unreadable,
}

impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // The same token may be stored with other marks; that is nothing new to anybody.
            (Self::Token(one), Self::Token(other)) => one.revision == other.revision,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// Why nobody knows how an entry is.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("the store does not answer")]
    Late,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An API key as those see it who follow it; `None`: there is none, or nobody has looked yet.
#[derive(Clone, Default)]
pub(super) struct KeyStanding(Option<Arc<SecretString>>);

impl PartialEq for KeyStanding {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one.expose_secret() == other.expose_secret(),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

/// Somebody follows an entry, until this is dropped.
#[must_use = "following ends when this is dropped"]
pub struct Watch {
    broker: Broker,
    caller: Caller,
    key: EntryKey,
    place: watch::Receiver<Standing>,
    /// What was there at the beginning, until it is asked for.
    first: Option<AccessToken>,
    /// The version whose token was told last. `None`: nothing was, or that there is nothing.
    told: Option<Arc<StoredTokens>>,
    /// Whether anything was told, be it that there is nothing.
    begun: bool,
    /// The last look failed, or saw something else than what stands at the place: what is so again that stands there is news,
    /// and no change of the place.
    unsure: bool,
    _seat: Seat,
}

/// Somebody follows an API key, until this is dropped.
#[must_use = "following ends when this is dropped"]
pub struct KeyWatch {
    broker: Broker,
    caller: Caller,
    name: Name,
    place: watch::Receiver<KeyStanding>,
    /// What was told last. `None`: nothing yet.
    told: Option<KeyStanding>,
    /// As in [`Watch`].
    unsure: bool,
    _seat: Seat,
}

impl Broker {
    /// Follows an entry that has a usable token, or gets one by a refresh.
    ///
    /// # Errors
    /// As for [`token`](Self::token); [`Error::TooManyWatches`].
    pub async fn watch(&self, caller: &Caller, key: &EntryKey) -> Result<Watch, Error> {
        self.begin()?;
        caller.require(Right::Read, key)?;
        let mut watch = self.attach(caller, key)?;
        watch.begins_with(self.usable(caller, key, Duration::ZERO).await?);
        Ok(watch)
    }

    /// Follows an entry, whether or not there is one. An expired token is refreshed first, for at most 5 s.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] before the store is touched; [`Error::TooManyWatches`]; [`Error::ShuttingDown`].
    pub async fn follow(&self, caller: &Caller, key: &EntryKey) -> Result<Watch, Error> {
        self.begin()?;
        caller.require(Right::Read, key)?;
        let mut watch = self.attach(caller, key)?;
        match timeout(FRESHEN, self.usable(caller, key, Duration::ZERO)).await {
            Ok(Ok(first)) => match caller.journal.tell(Named::Entry(key.clone())) {
                Ok(()) => watch.begins_with(first),
                Err(error) => tracing::debug!(entry = %key, %error, "an entry is followed whose token is held back"),
            },
            // Who follows is told that there is none; why, is for the host.
            Ok(Err(error)) => {
                tracing::debug!(entry = %key, %error, "an entry is followed that has no token to hand out");
            }
            Err(_elapsed) => tracing::debug!(entry = %key, "an entry is followed whose refresh takes long"),
        }
        Ok(watch)
    }

    /// Follows an API key, whether or not there is one.
    ///
    /// # Errors
    /// [`Error::UnauthorizedKey`] before the store is touched; [`Error::TooManyWatches`]; [`Error::ShuttingDown`].
    pub fn follow_key(&self, caller: &Caller, name: &Name) -> Result<KeyWatch, Error> {
        self.begin()?;
        caller.require_key(name)?;
        let seat = self.inner.seats.take(&caller.principal)?;
        let feeder = || KeyFeeder {
            broker: self.clone(),
            name: name.clone(),
            last: KeyStanding::default(),
        };
        Ok(KeyWatch {
            broker: self.clone(),
            caller: caller.clone(),
            name: name.clone(),
            place: self.inner.keys.follow(name, KeyStanding::default(), feeder),
            told: None,
            unsure: false,
            _seat: seat,
        })
    }

    /// How many follow an entry now.
    #[must_use]
    pub fn watchers(&self, key: &EntryKey) -> usize {
        self.inner.coordinator.board().followers(key)
    }

    /// How many follow an entry or an API key now.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        self.inner.coordinator.board().all_followers() + self.inner.keys.all_followers()
    }

    /// A caller came upon this version of the entry: whoever follows it is to know of it, too.
    pub(super) fn came_upon(&self, key: &EntryKey, stored: &StoredTokens) {
        let known =
            |standing: &Standing| matches!(standing, Standing::Token(known) if known.revision == stored.revision);
        self.inner.coordinator.board().poke_unless(key, known);
    }

    /// Ends whatever follows anything.
    pub(super) fn close_watches(&self) {
        self.inner.coordinator.board().close();
        self.inner.keys.close();
    }

    /// Takes a place at the entry's board.
    fn attach(&self, caller: &Caller, key: &EntryKey) -> Result<Watch, Error> {
        let seat = self.inner.seats.take(&caller.principal)?;
        let feeder = || Feeder {
            broker: self.clone(),
            key: key.clone(),
            _in_use: self.inner.scheduler.as_ref().map(|scheduler| scheduler.watch(key)),
            last: Standing::Unknown,
            armed: None,
        };
        let board = self.inner.coordinator.board();
        Ok(Watch {
            broker: self.clone(),
            caller: caller.clone(),
            key: key.clone(),
            place: board.follow(key, Standing::Unknown, feeder),
            first: None,
            told: None,
            begun: false,
            unsure: true,
            _seat: seat,
        })
    }

    /// How the entry is now.
    async fn standing(&self, key: &EntryKey) -> Result<Standing, Unread> {
        let current = timeout(LOOK, self.inner.coordinator.current(key)).await;
        let Some(stored) = current.map_err(|_elapsed| Unread::Late)?? else {
            return Ok(Standing::Absent);
        };
        if !self.expired(&stored) {
            return Ok(Standing::Token(stored));
        }
        Ok(match self.renewable(key, &stored) {
            Ok(()) => Standing::Lapsed(stored),
            Err(Error::ProviderNotFound(_)) => Standing::NoProvider,
            Err(_) => Standing::NeedsLogin,
        })
    }

    /// Waits until a look is worth it. Who is unsure looks again soon in any case.
    async fn changed<S>(&self, place: &mut watch::Receiver<S>, unsure: bool) -> Result<(), Error> {
        let changed = if unsure {
            timeout(PAUSE, place.changed()).await.unwrap_or(Ok(()))
        } else {
            place.changed().await
        };
        changed.map_err(|_closed| match self.begin() {
            Err(stopping) => stopping,
            Ok(()) => Error::Internal("a place was closed while somebody followed it".into()),
        })
    }
}

impl Watch {
    /// The next access token that was not told yet; the first one is there at once. It ends when there will be none.
    ///
    /// # Errors
    /// [`Error::NoEntry`] when the entry is removed; [`Error::NeedsLogin`] or [`Error::ProviderNotFound`] when its last token
    /// has expired and cannot be renewed; [`Error::ShuttingDown`].
    pub async fn token(&mut self) -> Result<AccessToken, Error> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let next = self.next().await;
        if let Err(error) = &next {
            self.caller
                .journal
                .ended(Named::Entry(self.key.clone()), error.reason());
        }
        next
    }

    async fn next(&mut self) -> Result<AccessToken, Error> {
        loop {
            self.changed().await?;
            match self.standing().await {
                Standing::Token(stored) => {
                    if let Some(token) = self.news(stored)? {
                        return Ok(token);
                    }
                }
                Standing::Absent => return Err(Error::NoEntry(self.key.clone())),
                Standing::NeedsLogin => return Err(Error::NeedsLogin(self.key.clone())),
                Standing::NoProvider => return Err(Error::ProviderNotFound(self.key.clone())),
                Standing::Unknown | Standing::Lapsed(_) | Standing::Unreadable => {}
            }
        }
    }

    /// What can be handed out now, at once and then whenever that is something else: a token, or nothing, for whatever
    /// reason. It never ends by itself.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`].
    pub async fn present(&mut self) -> Result<Option<AccessToken>, Error> {
        let begun = std::mem::replace(&mut self.begun, true);
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if !begun {
            return Ok(None);
        }
        loop {
            self.changed().await?;
            match self.standing().await {
                Standing::Token(stored) => match self.news(stored) {
                    Ok(Some(token)) => return Ok(Some(token)),
                    Ok(None) => {}
                    // It stays as it was: a stream that ended would not tell of a removal either.
                    Err(_held_back) => self.unsure = true,
                },
                Standing::Unknown => {}
                Standing::Absent
                | Standing::NeedsLogin
                | Standing::NoProvider
                | Standing::Lapsed(_)
                | Standing::Unreadable => {
                    if self.told.take().is_some() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn begins_with(&mut self, (first, stored): (AccessToken, Arc<StoredTokens>)) {
        self.first = Some(first);
        self.told = Some(Arc::clone(&stored));
        self.unsure = *self.place.borrow() != Standing::Token(stored);
    }

    /// The token, if it is not the one that was told and has not expired since it was looked at.
    fn news(&mut self, stored: Arc<StoredTokens>) -> Result<Option<AccessToken>, Error> {
        if self.told.as_ref().is_some_and(|told| told.revision == stored.revision) {
            return Ok(None);
        }
        if self.broker.expired(&stored) {
            return Ok(None);
        }
        // First, so that what is held back is not counted as handed out.
        self.caller.journal.tell(Named::Entry(self.key.clone()))?;
        let token = self.broker.hand_out(&self.key, &stored).ok();
        self.told = Some(stored);
        Ok(token)
    }

    /// How the entry is now. What stands at the place may have been seen before the first token was: it only says that a
    /// look is worth it. What cannot be read is as it was, until its end.
    async fn standing(&mut self) -> Standing {
        let standing = self.broker.standing(&self.key).await;
        self.unsure = !matches!(&standing, Ok(seen) if *seen == *self.place.borrow());
        standing.unwrap_or_else(|_unreadable| match &self.told {
            Some(told) if !self.broker.expired(told) => Standing::Token(Arc::clone(told)),
            Some(_) | None => Standing::Unreadable,
        })
    }

    async fn changed(&mut self) -> Result<(), Error> {
        self.broker.changed(&mut self.place, self.unsure).await
    }
}

impl KeyWatch {
    /// The API key that is there now, at once, and then whenever there is another one, or none.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`].
    pub async fn present(&mut self) -> Result<Option<Arc<SecretString>>, Error> {
        loop {
            if self.told.is_some() {
                self.broker.changed(&mut self.place, self.unsure).await?;
            }
            let now = self.broker.key_standing(&self.name).await;
            self.unsure = !matches!(&now, Ok(seen) if *seen == *self.place.borrow());
            let now = now.unwrap_or_else(|_unreadable| self.told.clone().unwrap_or_default());
            if self.told.as_ref() == Some(&now) {
                continue;
            }
            if now.0.is_some() {
                if self.caller.journal.tell(Named::Key(self.name.clone())).is_err() {
                    // Held back, and looked at again: nothing yet, or what was told before.
                    self.unsure = true;
                    if self.told.is_none() {
                        self.told = Some(KeyStanding::default());
                        return Ok(None);
                    }
                    continue;
                }
                self.broker.inner.stats.delivered_key();
            }
            self.told = Some(now.clone());
            return Ok(now.0);
        }
    }
}

impl Broker {
    async fn key_standing(&self, name: &Name) -> Result<KeyStanding, StoreError> {
        Ok(KeyStanding(self.inner.parts.keys.read(name).await?))
    }
}

/// Looks at an entry for all who follow it.
struct Feeder {
    broker: Broker,
    key: EntryKey,
    /// The renewal is not given up while somebody follows.
    _in_use: Option<Watching>,
    last: Standing,
    /// The expired version whose renewal was armed: nobody was handed it out, so nobody else does it.
    armed: Option<Revision>,
}

impl Look<Standing> for Feeder {
    async fn look(&mut self) -> Standing {
        match self.broker.standing(&self.key).await {
            Ok(standing) => {
                if let Standing::Lapsed(stored) = &standing
                    && self.armed.as_ref() != Some(&stored.revision)
                {
                    self.broker.arm(&self.key, stored);
                    self.armed = Some(stored.revision.clone());
                }
                self.last = standing;
            }
            Err(error) => {
                tracing::debug!(entry = %self.key, %error, "an entry that somebody follows cannot be read");
                let holds = matches!(&self.last, Standing::Token(stored) if !self.broker.expired(stored));
                if !holds {
                    self.last = Standing::Unreadable;
                }
            }
        }
        self.last.clone()
    }
}

/// Looks at an API key for all who follow it.
struct KeyFeeder {
    broker: Broker,
    name: Name,
    last: KeyStanding,
}

impl Look<KeyStanding> for KeyFeeder {
    async fn look(&mut self) -> KeyStanding {
        match self.broker.key_standing(&self.name).await {
            Ok(standing) => self.last = standing,
            Err(error) => tracing::debug!(key = %self.name, %error, "an API key that somebody follows cannot be read"),
        }
        self.last.clone()
    }
}
