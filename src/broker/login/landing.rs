//! What becomes of a token set that a login brought: it replaces the entry, under the entry's lock, or is revoked.

use std::{fmt::Display, sync::Arc, time::Duration};

use super::{Notice, SessionId, session::Fate};
use crate::{
    broker::{Broker, Error, error::LoginFailure},
    clock::Now,
    credential::{EntryKey, TokenAnswer, TokenSet},
    oauth::login::LoginTrouble,
    store::{Operation, OverCorrupt, StoreError, StoredTokens},
};

/// How long a token set waits for the entry's lock: longer than a flight keeps it, because the user would have to log in
/// once more.
const LOCK_WAIT: Duration = Duration::from_secs(100);

/// What the provider gave, and when it was asked for that; or what it said instead.
pub(super) type Outcome = Result<(Box<TokenAnswer>, Now), LoginTrouble>;

/// Where the token set of a login is to go.
pub(super) struct Landing {
    pub(super) id: SessionId,
    pub(super) principal: Arc<str>,
    /// It was begun by the host itself, not by a sandbox.
    pub(super) at_host: bool,
    pub(super) key: EntryKey,
    pub(super) fate: Arc<Fate>,
    /// When the session's time is over, by boot time.
    pub(super) until: Duration,
    /// There was an entry when it began.
    pub(super) replaces: bool,
}

impl Landing {
    fn saved_by(&self) -> String {
        if self.at_host {
            "login".to_owned()
        } else {
            format!("login by sandbox {}", self.principal)
        }
    }
}

impl Broker {
    /// Ends a login with what the provider gave or said.
    pub(super) async fn land(&self, landing: &Landing, outcome: Outcome) -> Result<(), Error> {
        let (answer, sent) = outcome.map_err(|trouble| {
            tracing::info!(session = landing.id.shown(), entry = %landing.key, %trouble, "a login failed");
            LoginFailure::from(trouble).of(&landing.key)
        })?;
        let lifetime = self.inner.coordinator.default_lifetime(&landing.key);
        let tokens = match TokenSet::of_login(answer, lifetime, landing.saved_by(), &sent) {
            Ok(tokens) => tokens,
            Err(answer) => {
                tracing::warn!(session = landing.id.shown(), entry = %landing.key, "the token of a login cannot be handed out");
                self.inner.coordinator.revoke_late(&landing.key, *answer);
                return Err(LoginFailure::NoToken.of(&landing.key));
            }
        };
        let unwanted = tokens.clone();
        let stored = self.store_login(landing, tokens).await;
        match stored {
            Ok(subject) => {
                tracing::info!(session = landing.id.shown(), entry = %landing.key, "a login is complete");
                self.tell(
                    landing,
                    &Notice::Done {
                        principal: &landing.principal,
                        key: &landing.key,
                        subject: subject.as_deref(),
                    },
                );
                Ok(())
            }
            Err(NotStored {
                error,
                unwanted: nobodys,
            }) => {
                if nobodys {
                    self.inner.coordinator.revoke_unwanted(&landing.key, &unwanted);
                }
                if matches!(
                    &error,
                    Error::LoginFailed {
                        why: LoginFailure::OtherAccount,
                        ..
                    }
                ) {
                    self.tell(
                        landing,
                        &Notice::OtherAccount {
                            principal: &landing.principal,
                            key: &landing.key,
                        },
                    );
                } else {
                    // What a caller may read of a store's failure sends people to the log for the rest of it.
                    let cause: &dyn Display = match &error {
                        Error::Store(cause) => cause,
                        error => error,
                    };
                    tracing::warn!(session = landing.id.shown(), entry = %landing.key, error = %cause, "a login was not stored");
                }
                Err(error)
            }
        }
    }

    /// Tells the host about a login that it did not begin itself.
    fn tell(&self, landing: &Landing, notice: &Notice<'_>) {
        if !landing.at_host {
            (self.inner.logins.parts.notices)(notice);
        }
    }

    /// Replaces the entry; whose account it is then.
    async fn store_login(&self, landing: &Landing, tokens: TokenSet) -> Result<Option<String>, NotStored> {
        let refused = |why: LoginFailure, unwanted| NotStored {
            error: why.of(&landing.key),
            unwanted,
        };
        let changing = self.inner.coordinator.change(&landing.key, LOCK_WAIT).await;
        let mut writing = changing.map_err(|error| match error {
            // Nobody is told to try again, because the code is spent. To PollLogin it is a failure of the store.
            StoreError::Busy { ref what, .. } => StoreError::Unavailable {
                operation: Operation::Lock,
                what: what.clone(),
                cause: Arc::new(error),
            },
            error => error,
        })?;
        let stored = match writing.read().await {
            // Whose it was cannot be read.
            Err(StoreError::Corrupt { .. }) if landing.at_host => None,
            Err(StoreError::Corrupt { .. }) => return Err(refused(LoginFailure::OtherAccount, false)),
            // Somebody, perhaps another process, removed what was there when the login began.
            Ok(None) if landing.replaces => return Err(refused(LoginFailure::Withdrawn, true)),
            stored => stored?,
        };
        // Many providers revoke everything that an account has given to a client. So a token of the account whose entry stays
        // must not be revoked.
        let unwanted = match &stored {
            None => true,
            Some(stored) => {
                stored.tokens.subject.is_some() && tokens.subject.is_some() && !same_account(&stored.tokens, &tokens)
            }
        };
        if !landing.at_host
            && let Some(stored) = &stored
            && !same_account(&stored.tokens, &tokens)
        {
            return Err(refused(LoginFailure::OtherAccount, unwanted));
        }
        // Under the lock, so that a logout is before it or after it.
        if !landing.fate.store() {
            return Err(refused(LoginFailure::Withdrawn, unwanted));
        }
        let subject = tokens.subject.clone();
        let record = Arc::new(StoredTokens::replacing(stored.as_deref(), tokens));
        writing.put(Arc::clone(&record), OverCorrupt::Replace).await?;
        self.inner.coordinator.replaced(&landing.key);
        self.arm(&landing.key, &record);
        Ok(subject)
    }
}

/// Why a token set was not stored.
struct NotStored {
    error: Error,
    /// It is nobody's, and is to be revoked.
    unwanted: bool,
}

impl From<StoreError> for NotStored {
    /// What the disk refused may be on it all the same.
    fn from(error: StoreError) -> Self {
        Self {
            error: error.into(),
            unwanted: false,
        }
    }
}

/// An account that is not known is never the same as another.
fn same_account(stored: &TokenSet, new: &TokenSet) -> bool {
    stored.subject.is_some() && stored.subject == new.subject
}
