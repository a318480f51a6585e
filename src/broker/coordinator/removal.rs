//! Logout: it wins against whatever is under way, and takes the token back at the provider.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;
use tokio::sync::oneshot;

use super::{Entry, Shared, held::Writing};
use crate::{
    broker::Revocation,
    credential::{EntryKey, TokenAnswer, TokenSet},
    oauth::{Revoked, TokenKind},
    store::StoreError,
};

/// How long the answer to a removal waits for the provider. The revocation itself goes on.
const REVOCATION: Duration = Duration::from_secs(5);

/// An entry that is gone.
pub(in crate::broker) struct Removed {
    revoking: Option<oneshot::Receiver<Revoked>>,
}

impl Removed {
    /// What became of its token at the provider, as far as it is known within 5 s.
    pub(in crate::broker) async fn revocation(self) -> Revocation {
        let Some(revoking) = self.revoking else {
            return Revocation::NotSupported;
        };
        match tokio::time::timeout(REVOCATION, revoking).await {
            Ok(Ok(Revoked::Done)) => Revocation::Done,
            Ok(Ok(Revoked::NotSupported)) => Revocation::NotSupported,
            Ok(Ok(Revoked::Failed(_)) | Err(_)) => Revocation::Failed,
            Err(_elapsed) => Revocation::Pending,
        }
    }
}

/// Removes the entry. `None`: there was none. `under_lock` is called when it is gone, before anybody can write it again.
pub(super) async fn remove(
    shared: &Arc<Shared>,
    key: &EntryKey,
    wait: Duration,
    under_lock: impl FnOnce(),
) -> Result<Option<Removed>, StoreError> {
    let mut writing = Writing::removal(shared, key, wait).await?;
    // What cannot be read can be removed all the same; then there is nothing to revoke.
    let stored = writing.read().await.ok().flatten();
    if !writing.remove().await? {
        return Ok(None);
    }
    under_lock();
    drop(writing);
    let mut entries = shared.entries();
    let idle = |entry: &Entry| entry.flight.is_none() && entry.unsaved.is_none();
    if entries.get(key).is_some_and(idle) {
        entries.remove(key);
    }
    drop(entries);
    let revoking = stored.and_then(|stored| revoke(shared, key, to_revoke(&stored.tokens)));
    Ok(Some(Removed { revoking }))
}

/// An answer that is not to be stored: it came after the logout, or is of no use.
pub(super) fn revoke_late(shared: &Arc<Shared>, key: &EntryKey, answer: TokenAnswer) {
    let refresh = answer.refresh_token.map(|token| (token, TokenKind::Refresh));
    let access = answer.access_token.map(|token| (token, TokenKind::Access));
    if let Some(token) = refresh.or(access) {
        // Nobody waits for it: the logout was answered long ago.
        drop(revoke(shared, key, token));
    }
}

/// A token set that is not to be stored.
pub(super) fn revoke_unwanted(shared: &Arc<Shared>, key: &EntryKey, tokens: &TokenSet) {
    drop(revoke(shared, key, to_revoke(tokens)));
}

/// The refresh token takes the access tokens along (RFC 7009 section 2.1).
fn to_revoke(tokens: &TokenSet) -> (SecretString, TokenKind) {
    match &tokens.refresh_token {
        Some(refresh) => (refresh.clone(), TokenKind::Refresh),
        None => (tokens.access_token.clone(), TokenKind::Access),
    }
}

/// Revokes in a task of the broker's. `None`: the provider is not configured.
fn revoke(
    shared: &Arc<Shared>,
    key: &EntryKey,
    (token, kind): (SecretString, TokenKind),
) -> Option<oneshot::Receiver<Revoked>> {
    let provider = Arc::clone(&shared.providers.get(&key.provider)?.provider);
    let (done, revoking) = oneshot::channel();
    let key = key.clone();
    shared.tasks.spawn(async move {
        let revoked = provider.revoke(&token, kind).await;
        match &revoked {
            Revoked::Done => tracing::info!(entry = %key, "the token is revoked at the provider"),
            Revoked::NotSupported => {}
            Revoked::Failed(seen) => {
                tracing::warn!(entry = %key, %seen, "the token could not be revoked at the provider, and stays good there until it expires");
            }
        }
        // Whoever asked may have stopped waiting.
        drop(done.send(revoked));
    });
    Some(revoking)
}
