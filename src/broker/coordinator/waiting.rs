//! How long somebody waits for a flight, wherever it is.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::error::{Asker, RefreshError};
use crate::store::StoredTokens;

/// What a caller waits for a permit, and for an exchange, whenever it joined.
const CALLER: Duration = Duration::from_secs(15);
/// What a caller waits for the entry's lock.
const LOCK: Duration = Duration::from_secs(10);
/// What the exchange itself is given.
const EXCHANGE: Duration = Duration::from_secs(60);

/// Where a flight is.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// It waits for a permit of the provider.
    Permit,
    /// It waits for the entry's lock, or reads under it. Names the entry for the error of those who give up.
    Lock(Arc<str>),
    /// The provider is asked, since this moment; also while the answer is saved.
    Exchange(Instant),
    /// It has ended.
    Landed(Result<Arc<StoredTokens>, RefreshError>),
}

/// Waits for the flight to end; a caller no longer than callers do.
pub(super) async fn wait(
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
            Progress::Lock(_) => *at_lock.get_or_insert_with(Instant::now) + LOCK,
            Progress::Exchange(since) => *since + CALLER,
        };
        let changed = match asker {
            Asker::Renewal => Ok(progress.changed().await),
            Asker::Caller => timeout_at(until, progress.changed()).await,
        };
        match changed {
            Ok(Ok(())) => {}
            // The flight's task died without a word.
            Ok(Err(_gone)) => return Err(RefreshError::Internal),
            Err(_elapsed) => return Err(given_up(&now)),
        }
    }
}

/// What a caller is told that has waited long enough.
fn given_up(at: &Progress) -> RefreshError {
    match at {
        Progress::Lock(what) => RefreshError::Store(crate::store::StoreError::Busy {
            what: what.as_ref().to_owned(),
            holder: None,
        }),
        Progress::Exchange(since) => RefreshError::Released {
            retry_after: (*since + EXCHANGE).saturating_duration_since(Instant::now()),
        },
        // Every permit comes back after 15 s at the latest.
        Progress::Permit | Progress::Landed(_) => RefreshError::Released { retry_after: CALLER },
    }
}
