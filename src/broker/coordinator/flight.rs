//! The steps of a flight.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    Last, Shared,
    error::{LoginCause, RefreshError},
    exchange::{self, Exchange},
    held::Open,
    permits::Place,
    waiting::Progress,
};
use crate::{
    broker::{counts::FlightEnd, timing},
    credential::{EntryKey, Intent, Revision},
    store::{HolderState, OverCorrupt, StoredTokens},
};

/// How long a flight waits for the entry's lock. Callers give up before it does.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// A flight that will land: whatever becomes of its task, those who wait are told, and the entry is free for the next.
pub(super) struct Landing {
    pub(super) shared: Arc<Shared>,
    pub(super) key: EntryKey,
    progress: watch::Sender<Progress>,
    /// When it was asked for, by boot time.
    asked: Duration,
    /// When it had the lock, and with it began.
    began: OnceLock<Duration>,
    end: Option<End>,
}

/// How a flight ended.
pub(super) struct End {
    pub(super) result: Result<Arc<StoredTokens>, RefreshError>,
    /// The lifetime of the token that there is now, which the cooldown depends on.
    pub(super) lifetime: Option<Duration>,
    /// How much longer than the cooldown nothing may be tried.
    pub(super) hold_off: Duration,
    /// Whether the provider may have processed what was sent, and nobody knows. `None`: nothing was sent, so that nothing
    /// is known better than before.
    pub(super) ambiguous: Option<bool>,
}

impl End {
    fn failed(error: impl Into<RefreshError>) -> Self {
        Self {
            result: Err(error.into()),
            lifetime: None,
            hold_off: Duration::ZERO,
            ambiguous: None,
        }
    }
}

impl Landing {
    pub(super) fn new(
        shared: &Arc<Shared>,
        key: &EntryKey,
        progress: watch::Sender<Progress>,
        asked: Duration,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            key: key.clone(),
            progress,
            asked,
            began: OnceLock::new(),
            end: None,
        }
    }

    pub(super) fn at(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// It is known how the presentations of these marks ended, whatever the store says.
    pub(super) fn over(&self, marks: &[Intent]) {
        if let Some(entry) = self.shared.entries().get_mut(&self.key) {
            entry.over = marks.to_vec();
        }
    }

    /// Flights of the entry in a row, before this one, whose outcome nobody knows.
    pub(super) fn ambiguous_before(&self) -> u32 {
        self.shared.entries().get(&self.key).map_or(0, |entry| entry.ambiguous)
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // Without an end its task panicked; the panic is in the log.
        let end = self.end.take().unwrap_or_else(|| End::failed(RefreshError::Internal));
        let presented = matches!(*self.progress.borrow(), Progress::Exchange { .. });
        let result = end.result.as_ref().map(|stored| &**stored);
        self.shared
            .counts
            .flight(FlightEnd::of(result, end.ambiguous, presented));
        let now = self.shared.clock.now().boot;
        let began = self.began.get().copied().unwrap_or(self.asked);
        let cooled = began.saturating_add(timing::cooldown(end.lifetime));
        let until = cooled.max(now.saturating_add(end.hold_off));
        let result = end.result.map_err(|error| error.due_in(until.saturating_sub(now)));
        let gone = matches!(result, Err(RefreshError::NoEntry));
        let mut entries = self.shared.entries();
        let mut freed = None;
        if let Some(entry) = entries.get_mut(&self.key) {
            entry.flight = None;
            if entry.unsaved.is_none() {
                freed = entry.held.take();
            }
            entry.last = Some(Last {
                until,
                failure: result.as_ref().err().cloned(),
            });
            entry.ambiguous = match end.ambiguous {
                Some(true) => entry.ambiguous.saturating_add(1),
                Some(false) => 0,
                None => entry.ambiguous,
            };
        }
        if gone {
            // Nothing is remembered of what is not there: names cost nothing.
            entries.remove(&self.key);
        }
        drop(entries);
        // The lock is free before anybody hears of the end.
        drop(freed);
        self.progress.send_replace(Progress::Landed(result));
    }
}

/// Flies: permit, lock, re-read, intent, exchange, save, release.
pub(super) async fn fly(mut landing: Landing, saw: Revision, place: Place) {
    let end = steps(&landing, &saw, place).await.unwrap_or_else(|end| end);
    if let Err(error) = &end.result {
        tracing::debug!(entry = %landing.key, %error, "a refresh gave no new token");
    }
    landing.end = Some(end);
}

/// `Err` is an end like `Ok`; it is what `?` makes of a failure.
async fn steps(landing: &Landing, saw: &Revision, place: Place) -> Result<End, End> {
    let Landing { shared, key, .. } = landing;
    let served = shared
        .providers
        .get(&key.provider)
        .ok_or_else(|| End::failed(RefreshError::ProviderNotFound))?;
    let stopping = || shared.stopping.cancelled();

    let permit = tokio::select! {
        () = stopping() => return Err(End::failed(RefreshError::ShuttingDown)),
        permit = place.permit() => permit.ok_or_else(|| End::failed(RefreshError::Internal))?,
    };

    landing.at(Progress::Lock);
    let guard = tokio::select! {
        () = stopping() => return Err(End::failed(RefreshError::ShuttingDown)),
        guard = shared.tokens.lock(key, LOCK_WAIT) => guard.map_err(End::failed)?,
    };
    landing.began.get_or_init(|| shared.clock.now().boot);
    let held = Open::new(guard);
    shared.holds(key, &held);

    let mut open = held.lock().await;
    let mut stored = reread(&open).await?;
    let lifetime = stored.tokens.expiry.as_ref().map(|expiry| expiry.lifetime);
    let end = |result, hold_off, ambiguous| End {
        result,
        lifetime,
        hold_off,
        ambiguous,
    };
    // Identity decides, not what remains: a renewal would find every token that is not expired yet good enough.
    if stored.revision != *saw && shared.usable(&stored) {
        return Ok(end(Ok(stored), Duration::ZERO, Some(false)));
    }
    let Some(refresh_token) = stored.tokens.refresh_token.clone() else {
        return Ok(end(
            Err(RefreshError::NeedsLogin(LoginCause::NoRefreshToken)),
            Duration::ZERO,
            Some(false),
        ));
    };
    let interrupted = shared.interrupted(key, &stored);
    if let Some(intent) = interrupted {
        let rest = intent.remaining(&shared.clock.now());
        if !rest.is_zero() {
            // Whoever wrote it died, or lost the answer, a moment ago; its connection may not be closed yet.
            tracing::warn!(
                entry = %key, since = %intent.written.wall, seconds = rest.as_secs(),
                "a refresh was interrupted before its answer was stored: the refresh token is not presented again before this time has passed"
            );
            let retry_after = rest;
            return Ok(end(Err(RefreshError::Unavailable { retry_after }), rest, None));
        }
        tracing::warn!(
            entry = %key, since = %intent.written.wall,
            "a refresh was interrupted before its answer was stored; whether the provider spent the refresh token shows now"
        );
    }
    let lost = interrupted.is_some();
    if !lost
        && stored
            .intent
            .as_ref()
            .is_some_and(|intent| intent.is_about(&refresh_token))
    {
        // An earlier flight of this broker could not remove it. As long as it is there it is another flight's, and if this
        // broker died now, others would take it for a lost answer.
        let record = StoredTokens {
            intent: None,
            ..(*stored).clone()
        };
        stored = Arc::new(record);
        let put = open.guard.put(Arc::clone(&stored), OverCorrupt::Refuse).await;
        put.map_err(End::failed)?;
    }
    let exchange = Exchange {
        landing,
        provider: &*served.provider,
        held: &held,
        refresh_token,
        lost,
        marks: stored.intent.iter().map(|intent| (**intent).clone()).collect(),
        lost_now: false,
        stored,
        began: Instant::now(),
    };
    open.guard.note(HolderState::Refreshing);
    Ok(exchange::run(exchange, open, permit).await)
}

async fn reread(open: &Open) -> Result<Arc<StoredTokens>, End> {
    if open.removed {
        return Err(End::failed(RefreshError::NoEntry));
    }
    let stored = open.guard.read().await.map_err(End::failed)?;
    stored.ok_or_else(|| End::failed(RefreshError::NoEntry))
}
