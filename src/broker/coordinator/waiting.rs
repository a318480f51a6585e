//! How long somebody waits for a flight, wherever it is.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Shared,
    error::{Asker, RefreshError},
};
use crate::{
    credential::EntryKey,
    store::{StoreError, StoredTokens},
};

/// What a caller waits for a permit, and for an exchange, whenever it joined.
const CALLER: Duration = Duration::from_secs(15);
/// What a caller waits for the entry's lock.
const LOCK: Duration = Duration::from_secs(10);
/// What somebody is told to wait at least: a provider that takes longer than it may is not asked about in a loop.
const AT_LEAST: Duration = Duration::from_secs(1);
/// What the exchange itself is given, every presentation anew.
const EXCHANGE: Duration = Duration::from_secs(60);

/// Where a flight is.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// It waits for a permit of the provider.
    Permit,
    /// It waits for the entry's lock, or reads under it.
    Lock,
    /// The provider is asked; also between two presentations, and while the answer is saved.
    Exchange {
        /// Since when.
        began: Instant,
        /// When the refresh token was presented last.
        presented: Instant,
    },
    /// It has ended.
    Landed(Result<Arc<StoredTokens>, RefreshError>),
}

/// Waits for the flight to end; a caller no longer than callers do.
pub(super) async fn wait(
    shared: &Shared,
    key: &EntryKey,
    mut progress: watch::Receiver<Progress>,
    asker: Asker,
) -> Result<Arc<StoredTokens>, RefreshError> {
    let joined = Instant::now();
    let mut at_lock = None;
    loop {
        let now = progress.borrow_and_update().clone();
        let until = match &now {
            Progress::Landed(result) => return result.clone(),
            Progress::Permit => joined + CALLER,
            Progress::Lock => *at_lock.get_or_insert_with(Instant::now) + LOCK,
            Progress::Exchange { began, .. } => *began + CALLER,
        };
        let changed = match asker {
            Asker::Renewal => Ok(progress.changed().await),
            Asker::Caller => timeout_at(until, progress.changed()).await,
        };
        match changed {
            Ok(Ok(())) => {}
            // The flight's task died without a word.
            Ok(Err(_gone)) => return Err(RefreshError::Internal),
            Err(_elapsed) => return Err(given_up(shared, key, &now).await),
        }
    }
}

/// What a caller is told that has waited long enough.
async fn given_up(shared: &Shared, key: &EntryKey, at: &Progress) -> RefreshError {
    match at {
        Progress::Lock => RefreshError::Store(StoreError::Busy {
            what: format!("entry {key}"),
            holder: shared.tokens.holder(key).await,
        }),
        Progress::Exchange { presented, .. } => RefreshError::Released {
            retry_after: (*presented + EXCHANGE)
                .saturating_duration_since(Instant::now())
                .max(AT_LEAST),
        },
        // Every permit comes back after 15 s at the latest.
        Progress::Permit | Progress::Landed(_) => RefreshError::Released { retry_after: CALLER },
    }
}
