//! A token set that the disk would not take: it is kept in memory, and saved as soon as the disk is back.
//!
//! What is retried is the save, never the exchange: the provider may have spent the old refresh token.

use std::{
    future::poll_fn,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    Shared,
    held::{Held, Open},
};
use crate::{
    credential::EntryKey,
    store::{HolderState, Operation, OverCorrupt, StoreError, StoredTokens},
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What the last attempt gets when the broker stops.
const LAST_ATTEMPT: Duration = Duration::from_secs(5);

/// Saves the record, or sees to it that it is saved later. Either way it is the entry from now on.
pub(super) async fn save(
    shared: &Arc<Shared>,
    key: &EntryKey,
    held: &Held,
    open: &mut Open,
    record: Arc<StoredTokens>,
) {
    let Err(error) = put(key, open, Arc::clone(&record)).await else {
        shared.board.poke(key);
        return;
    };
    tracing::error!(
        entry = %key, %error,
        "a new token set could not be saved: it lives in memory, and is lost if the broker is killed now; make the store writable again"
    );
    open.unsaved = Some(Arc::clone(&record));
    open.guard.note(HolderState::Unsaved);
    shared.unsaved(key, record, held);
    shared.board.poke(key);
    // The entry has the share that keeps the lock. One of this task's own would keep it in the pauses, too, long after
    // somebody else has replaced the token set.
    let (task, key, held) = (Arc::clone(shared), key.clone(), Arc::downgrade(held));
    let saving = shared.saves.token();
    shared.tasks.spawn(async move {
        save_later(&task, &key, &held).await;
        drop(saving);
    });
}

/// A store that panics has failed to save, no more: the new token set must not be lost with the task.
async fn put(key: &EntryKey, open: &mut Open, record: Arc<StoredTokens>) -> Result<(), StoreError> {
    let mut putting = open.guard.put(record, OverCorrupt::Refuse);
    let panicked = || StoreError::Unavailable {
        operation: Operation::Write,
        what: format!("entry {key}"),
        cause: Arc::new(io::Error::other("the store panicked")),
    };
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| putting.as_mut().poll(context)));
        polled.unwrap_or_else(|_panic| Poll::Ready(Err(panicked())))
    })
    .await
}

async fn save_later(shared: &Shared, key: &EntryKey, held: &Weak<Mutex<Open>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let last = tokio::select! {
            () = shared.stopping.cancelled() => true,
            () = sleep(pause) => false,
        };
        // A login, an import or a logout may have made it needless.
        let Some(held) = held.upgrade() else { return };
        let mut open = held.lock().await;
        let Some(record) = open.unsaved.clone() else { return };
        let saving = put(key, &mut open, record);
        let saved = if last {
            timeout(LAST_ATTEMPT, saving).await
        } else {
            Ok(saving.await)
        };
        match saved {
            Ok(Ok(())) => {
                open.unsaved = None;
                shared.settled(key);
                tracing::info!(entry = %key, "the new token set is saved now");
                return;
            }
            Ok(Err(error)) => tracing::warn!(entry = %key, %error, "a new token set still cannot be saved"),
            Err(_elapsed) => tracing::warn!(entry = %key, "a new token set could not be saved in time"),
        }
        if last {
            tracing::error!(entry = %key, "the broker stops with a token set that it could not save: log in again");
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
