//! The task that waits for the next renewal, and the tasks that carry one out.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::Notify;

use super::{Shared, agenda::Job};
use crate::{
    broker::coordinator::{Asker, RefreshCoordinator, RefreshError},
    store::StoredTokens,
};

/// Wakes when something is due, or after ten seconds, or when it is told to, until nothing is armed or the scheduler is
/// gone. It holds nothing while it sleeps.
pub(super) async fn wait(shared: Weak<Shared>, wake: Arc<Notify>) {
    while let Some(pause) = shared.upgrade().and_then(|shared| shared.look()) {
        if pause.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// How a renewal ended.
pub(super) enum End {
    /// There is a new token set.
    Renewed(Arc<StoredTokens>),
    /// There was another version than the one that was armed.
    Found(Arc<StoredTokens>),
    /// The entry is gone, or the broker is stopping: nothing is left to do.
    Nothing,
    /// Only a login helps.
    NeedsLogin,
    /// Nothing was tried; it can be in this time.
    Later(Duration),
    /// It failed; not again before this time has passed.
    Failed(Duration),
}

/// A renewal under way. Whatever becomes of its task, the scheduler hears of the end.
pub(super) struct Errand {
    shared: Weak<Shared>,
    job: Job,
    /// When the flight was asked for, by boot time.
    flight: Option<Duration>,
    end: End,
}

impl Errand {
    pub(super) fn new(shared: &Arc<Shared>, job: Job) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            job,
            flight: None,
            // What it is if its task panics.
            end: End::Failed(Duration::ZERO),
        }
    }

    /// Reads the entry again, and has it renewed if it still is the version that was armed.
    pub(super) async fn run(mut self, coordinator: RefreshCoordinator) {
        let key = Arc::clone(&self.job.key);
        self.end = match coordinator.current(&key).await {
            Ok(None) => End::Nothing,
            Ok(Some(stored)) if stored.revision != self.job.revision => End::Found(stored),
            Ok(Some(stored)) => {
                let Some(now) = self.shared.upgrade().map(|shared| shared.clock.now()) else {
                    return;
                };
                let interrupted = coordinator.interrupted(&key, &stored);
                // Nobody may present it, and it is no failure to wait for that.
                match interrupted.map(|intent| intent.remaining(&now)) {
                    Some(rest) if !rest.is_zero() && !coordinator.activity(&key).refreshing => End::Later(rest),
                    _ => {
                        self.flight = Some(now.boot);
                        ended(coordinator.refresh(&key, &self.job.revision, Asker::Renewal).await)
                    }
                }
            }
            Err(error) => {
                tracing::debug!(entry = %key, %error, "a renewal is due, and the entry cannot be read");
                End::Failed(Duration::ZERO)
            }
        };
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.settle(&self.job, self.flight, &self.end);
        }
    }
}

fn ended(result: Result<Arc<StoredTokens>, RefreshError>) -> End {
    match result {
        Ok(stored) => End::Renewed(stored),
        Err(RefreshError::NoEntry | RefreshError::ProviderNotFound | RefreshError::ShuttingDown) => End::Nothing,
        Err(RefreshError::NeedsLogin(_)) => End::NeedsLogin,
        // Nobody was asked. If somebody else's flight failed, it is not this one's failure.
        Err(RefreshError::Cooldown { retry_after, .. }) => End::Later(retry_after),
        Err(
            RefreshError::Rejected { retry_after }
            | RefreshError::Unavailable { retry_after }
            | RefreshError::Released { retry_after },
        ) => End::Failed(retry_after),
        Err(RefreshError::Store(_) | RefreshError::Internal) => End::Failed(Duration::ZERO),
    }
}
