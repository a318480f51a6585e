//! One refresh per entry at a time, in a task of the broker's own, and nothing lost.
//!
//! A refresh token that rotates is spent when it is presented: whoever presents it twice, or loses the answer, loses the
//! whole session. So a *flight* has one order, and every step is there because somebody once lost tokens without it:
//! permit, lock, re-read, intent, exchange, save, release. `flight` has the steps, `exchange` what each answer of a
//! provider means, `saving` what happens when the disk is full, `removal` how a logout wins against all of it.
//!
//! Callers wait for a flight; they never carry it. One that goes away changes nothing.

mod error;
mod exchange;
mod flight;
mod held;
mod permits;
mod removal;
mod saving;
mod waiting;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::error::{Asker, LoginCause, RefreshError};
use self::{
    flight::Landing,
    held::Held,
    permits::{Permits, Promotion},
    waiting::Progress,
};
pub(super) use self::{held::Writing, removal::Removed};
use super::{
    counts::Counts,
    timing,
    watching::{Board, Entries, Standing},
};
use crate::{
    clock::Clock,
    credential::{AnswerRules, EntryKey, Intent, Name, Revision, TokenAnswer, TokenSet},
    oauth::Provider,
    store::{StoreError, StoredTokens, TokenStore},
};

/// How long an exchange on the wire is awaited when the broker stops, and after it its save.
const LAST_EXCHANGE: Duration = Duration::from_secs(15);
const LAST_SAVE: Duration = Duration::from_secs(5);

/// Refreshes entries. A cheap handle: clones share everything.
#[derive(Clone)]
pub struct RefreshCoordinator {
    shared: Arc<Shared>,
}

struct Shared {
    tokens: Arc<dyn TokenStore>,
    clock: Arc<dyn Clock>,
    providers: BTreeMap<Name, Served>,
    entries: Mutex<HashMap<EntryKey, Entry>>,
    /// Where it stands how the entries are that somebody follows.
    board: Board<EntryKey, Standing>,
    /// Told whenever a lock is kept that others of this broker may work under.
    holding: watch::Sender<()>,
    /// How many token sets are not saved; so that nobody looks for one where there is none.
    unsaved: AtomicUsize,
    /// Flights, saves and revocations: what goes on without a caller.
    tasks: TaskTracker,
    /// What is being saved.
    saves: TaskTracker,
    stopping: CancellationToken,
    counts: Arc<Counts>,
}

/// A provider and how much is asked of it at once.
struct Served {
    provider: Arc<dyn Provider>,
    permits: Permits,
}

/// What this broker knows of an entry that it has refreshed.
#[derive(Default)]
struct Entry {
    flight: Option<Flight>,
    /// The lock, while a flight or an unsaved token set keeps it.
    held: Option<Held>,
    unsaved: Option<Arc<StoredTokens>>,
    last: Option<Last>,
    /// Flights in a row whose outcome nobody knows.
    ambiguous: u32,
    /// Marks that could not be removed from the store, although it is known how their presentations ended.
    over: Vec<Intent>,
}

/// A flight as those see it who wait for it.
struct Flight {
    progress: watch::Receiver<Progress>,
    promotion: Promotion,
}

/// How the last flight ended.
struct Last {
    /// No other one starts before, by boot time.
    until: Duration,
    failure: Option<RefreshError>,
}

/// What `status` shows of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// A flight is under way.
    pub refreshing: bool,
    /// Its newest token set is not saved.
    pub unsaved: bool,
}

impl RefreshCoordinator {
    /// Coordinates the refreshes of these entries at these providers.
    #[must_use]
    pub fn new(
        tokens: Arc<dyn TokenStore>,
        clock: Arc<dyn Clock>,
        providers: BTreeMap<Name, Arc<dyn Provider>>,
    ) -> Self {
        let served = |provider| Served {
            provider,
            permits: Permits::new(),
        };
        Self {
            shared: Arc::new(Shared {
                tokens: Arc::clone(&tokens),
                clock: Arc::clone(&clock),
                providers: providers.into_iter().map(|(name, p)| (name, served(p))).collect(),
                entries: Mutex::default(),
                board: Board::new(Entries { tokens, clock }),
                holding: watch::Sender::new(()),
                unsaved: AtomicUsize::new(0),
                tasks: TaskTracker::new(),
                saves: TaskTracker::new(),
                stopping: CancellationToken::new(),
                counts: Arc::default(),
            }),
        }
    }

    /// How its flights ended; and a place for what else the broker counts.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.shared.counts
    }

    /// How many entries' newest token sets are not saved.
    #[must_use]
    pub fn unsaved(&self) -> usize {
        self.shared.unsaved.load(Ordering::Acquire)
    }

    /// The entry as it is now: what is stored, or what is to be stored as soon as the disk is back.
    ///
    /// # Errors
    /// The store's.
    pub async fn current(&self, key: &EntryKey) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        if self.shared.unsaved.load(Ordering::Acquire) > 0
            && let Some(unsaved) = self.shared.entries().get(key).and_then(|entry| entry.unsaved.clone())
        {
            return Ok(Some(unsaved));
        }
        self.shared.tokens.read(key).await
    }

    /// Where it stands how the entries are that somebody follows. Whatever is written here, durably or not, pokes.
    pub(super) fn board(&self) -> &Board<EntryKey, Standing> {
        &self.shared.board
    }

    /// Whether the entry's provider is configured.
    #[must_use]
    pub fn has_provider(&self, key: &EntryKey) -> bool {
        self.shared.providers.contains_key(&key.provider)
    }

    /// Gets a token set other than the version that the asker saw: joins the flight of the entry that is under way, or
    /// starts one. A result that the flight found in the store is usable; one that a provider gave may be of any age.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub async fn refresh(
        &self,
        key: &EntryKey,
        saw: &Revision,
        asker: Asker,
    ) -> Result<Arc<StoredTokens>, RefreshError> {
        let joined = self.join(key, saw, asker);
        match joined {
            Ok(progress) => waiting::wait(&self.shared, key, progress, asker).await,
            // Another flight may have ended between the asker's look and this moment, saved or not.
            Err(error @ (RefreshError::Cooldown { .. } | RefreshError::Store(_))) => match self.current(key).await? {
                None => Err(RefreshError::NoEntry),
                Some(current) if current.revision != *saw && self.shared.usable(&current) => Ok(current),
                Some(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The progress of the entry's flight, which is started if there is none.
    fn join(&self, key: &EntryKey, saw: &Revision, asker: Asker) -> Result<watch::Receiver<Progress>, RefreshError> {
        let shared = &self.shared;
        if shared.stopping.is_cancelled() {
            return Err(RefreshError::ShuttingDown);
        }
        let served = shared
            .providers
            .get(&key.provider)
            .ok_or(RefreshError::ProviderNotFound)?;
        let mut entries = shared.entries();
        let entry = entries.entry(key.clone()).or_default();
        if let Some(flight) = &entry.flight {
            if asker == Asker::Caller {
                flight.promotion.promote();
            }
            return Ok(flight.progress.clone());
        }
        if entry.unsaved.is_some() {
            return Err(RefreshError::Store(not_saved(key)));
        }
        let now = shared.clock.now().boot;
        if let Some(last) = &entry.last
            && let Some(retry_after) = last.until.checked_sub(now).filter(|rest| !rest.is_zero())
        {
            return Err(RefreshError::Cooldown {
                retry_after,
                failure: last.failure.clone().map(Box::new),
            });
        }
        let place = served.permits.line_up(asker);
        let (sender, progress) = watch::channel(Progress::Permit);
        entry.flight = Some(Flight {
            progress: progress.clone(),
            promotion: place.promotion(),
        });
        let landing = Landing::new(shared, key, sender, now);
        drop(entries);
        shared.tasks.spawn(flight::fly(landing, saw.clone(), place));
        Ok(progress)
    }

    /// Takes the entry's lock for a change; waits at most `wait`.
    pub(super) async fn change(&self, key: &EntryKey, wait: Duration) -> Result<Writing, StoreError> {
        Writing::change(&self.shared, key, wait).await
    }

    /// Removes the entry, durably, also under a flight, and begins to revoke its token at the provider. `under_lock` is
    /// called when it is gone, before anybody can write it again.
    pub(super) async fn remove(
        &self,
        key: &EntryKey,
        wait: Duration,
        under_lock: impl FnOnce(),
    ) -> Result<Option<Removed>, StoreError> {
        removal::remove(&self.shared, key, wait, under_lock).await
    }

    /// Begins to revoke a token set that is not to be stored.
    pub(super) fn revoke_unwanted(&self, key: &EntryKey, tokens: &TokenSet) {
        removal::revoke_unwanted(&self.shared, key, tokens);
    }

    /// Begins to revoke what came in an answer that is not to be stored.
    pub(super) fn revoke_late(&self, key: &EntryKey, answer: TokenAnswer) {
        removal::revoke_late(&self.shared, key, answer);
    }

    /// How long an access token of the entry's provider is good for if the provider does not say.
    pub(super) fn default_lifetime(&self, key: &EntryKey) -> Duration {
        let served = self.shared.providers.get(&key.provider);
        served.map_or(AnswerRules::default().default_lifetime, |served| {
            served.provider.default_lifetime()
        })
    }

    /// A login or an import: what went wrong with the token set before says nothing about this one.
    pub(super) fn replaced(&self, key: &EntryKey) {
        let mut entries = self.shared.entries();
        if let Some(entry) = entries.get_mut(key) {
            entry.ambiguous = 0;
            if entry.last.as_ref().is_some_and(|last| last.failure.is_some()) {
                entry.last = None;
            }
        }
    }

    /// What goes on with the entry.
    #[must_use]
    pub fn activity(&self, key: &EntryKey) -> Activity {
        let entries = self.shared.entries();
        entries.get(key).map_or_else(Activity::default, |entry| Activity {
            refreshing: entry.flight.is_some(),
            unsaved: entry.unsaved.is_some(),
        })
    }

    /// The mark of a presentation whose outcome this broker does not know: another process may be at it, or died.
    pub(super) fn interrupted<'s>(&self, key: &EntryKey, stored: &'s StoredTokens) -> Option<&'s Intent> {
        self.shared.interrupted(key, stored)
    }

    /// Whether everything that providers gave is saved.
    ///
    /// # Errors
    /// Names an entry that is not.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.shared.unsaved.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let entries = self.shared.entries();
        match entries.iter().find(|(_, entry)| entry.unsaved.is_some()) {
            Some((key, _)) => Err(not_saved(key)),
            None => Ok(()),
        }
    }

    /// From now on no flight and no presentation begins.
    pub fn begin_shutdown(&self) {
        self.shared.stopping.cancel();
    }

    /// Waits for what must not be cut off: an exchange on the wire, for at most 15 s, its save, for 5 s more, and one
    /// last attempt to save what could not be saved before.
    pub async fn shutdown(&self) {
        self.begin_shutdown();
        self.shared.tasks.close();
        self.shared.saves.close();
        let all = async {
            if timeout(LAST_EXCHANGE, self.shared.tasks.wait()).await.is_ok() {
                return true;
            }
            // Who has not answered by now is not waited for any longer; what is being saved is.
            tokio::select! {
                () = self.shared.tasks.wait() => true,
                _saved = timeout(LAST_SAVE, self.shared.saves.wait()) => false,
            }
        };
        if !all.await {
            tracing::error!(
                "the broker stops while a refresh has not ended: the next start repeats what can be repeated"
            );
        }
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, HashMap<EntryKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a token set can be handed out without a refresh.
    fn usable(&self, stored: &StoredTokens) -> bool {
        timing::usable(stored.tokens.expiry.as_ref(), &self.clock.now(), Duration::ZERO)
    }

    /// See [`RefreshCoordinator::interrupted`].
    fn interrupted<'s>(&self, key: &EntryKey, stored: &'s StoredTokens) -> Option<&'s Intent> {
        let refresh_token = stored.tokens.refresh_token.as_ref()?;
        let intent = stored
            .intent
            .as_deref()
            .filter(|intent| intent.is_about(refresh_token))?;
        let over = self.entries().get(key).is_some_and(|entry| entry.over.contains(intent));
        (!over).then_some(intent)
    }

    /// The lock of the entry, if it is kept and the entry is so.
    fn held(&self, key: &EntryKey, so: impl FnOnce(&Entry) -> bool) -> Option<Held> {
        let entries = self.entries();
        let entry = entries.get(key).filter(|entry| so(entry))?;
        entry.held.clone()
    }

    /// From now on this is the entry, until it is saved.
    fn unsaved(&self, key: &EntryKey, record: Arc<StoredTokens>, held: &Held) {
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_default();
        if entry.unsaved.replace(record).is_none() {
            self.unsaved.fetch_add(1, Ordering::AcqRel);
        }
        entry.held = Some(Arc::clone(held));
        drop(entries);
        self.holding.send_replace(());
    }

    /// From now on a logout works under the lock of the entry's flight.
    fn holds(&self, key: &EntryKey, held: &Held) {
        if let Some(entry) = self.entries().get_mut(key) {
            entry.held = Some(Arc::clone(held));
        }
        self.holding.send_replace(());
    }

    /// What was not saved is saved, replaced or removed: the lock is kept no longer.
    fn settled(&self, key: &EntryKey) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(key)
            && entry.unsaved.take().is_some()
        {
            self.unsaved.fetch_sub(1, Ordering::AcqRel);
            entry.held = None;
        }
    }
}

fn not_saved(key: &EntryKey) -> StoreError {
    StoreError::Unavailable {
        operation: crate::store::Operation::Write,
        what: format!("entry {key}"),
        cause: Arc::new(NotSaved),
    }
}

/// The cause of [`not_saved`].
#[derive(Debug, thiserror::Error)]
#[error("its newest token set lives in memory only, and is saved as soon as the store takes it")]
struct NotSaved;
