//! What a sandbox can do with its session: bring a code, ask how it stands, give it up.

use std::{mem, sync::Arc, time::Duration};

use secrecy::SecretString;
use tokio::{sync::oneshot, time::timeout};
use tracing::Instrument as _;

use super::{PATIENCE, SessionId, Standing, landing::Landing, session::Stage};
use crate::{
    broker::{Broker, Caller, Error, caller::Named, counts::LoginEnd, error::LoginFailure},
    credential::{AccessToken, EntryKey},
    oauth::{LoginProvider, login::Authorization},
};

/// What an exchange and its save can take, with tries, the entry's lock and slow disks.
const LONGEST_EXCHANGE: Duration = Duration::from_secs(300);

impl Broker {
    /// Ends a login with what the user pasted; the session is used up by it. `None`: the login is complete, but the policy
    /// does not allow to read the entry.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`], [`Error::SessionExpired`], [`Error::SessionAlreadyUsed`]; [`Error::InvalidRequest`] if
    /// the session's flow has no code to paste; [`Error::LoginFailed`]; [`Error::Store`].
    pub async fn exchange_code(
        &self,
        caller: &Caller,
        id: &SessionId,
        pasted: SecretString,
    ) -> Result<Option<AccessToken>, Error> {
        self.begin()?;
        let (authorization, landing) = self.take_code(caller, id)?;
        let key = landing.key.clone();
        let provider = self.inner.logins.parts.providers.get(&key.provider);
        let provider = Arc::clone(provider.ok_or_else(|| Error::ProviderNotFound(key.clone()))?);
        let broker = self.clone();
        let (done, waiting) = oneshot::channel();
        let task = async move {
            let result = broker.exchanged(&*provider, &authorization, &pasted, &landing).await;
            broker.inner.logins.ended(&landing.fate, &result);
            let now = broker.inner.parts.clock.now().boot;
            drop(broker.inner.logins.sessions().end(&landing.principal, &landing.id, now));
            // Whoever asked may have stopped waiting.
            drop(done.send(result));
        };
        self.inner.logins.tasks.spawn(task.in_current_span());
        match timeout(PATIENCE, waiting).await {
            Ok(Ok(result)) => result?,
            Ok(Err(_died)) => return Err(Error::Internal("the task of a login died".into())),
            Err(_elapsed) => return Err(LoginFailure::GoesOn.of(&key)),
        }
        Ok(self.of_login(caller, &key).await)
    }

    /// How a login of the other flows stands. What is over is told once.
    ///
    /// # Errors
    /// As for [`exchange_code`](Self::exchange_code), but a login that failed is a [`Standing`].
    pub async fn poll_login(&self, caller: &Caller, id: &SessionId) -> Result<Standing, Error> {
        self.begin()?;
        let now = self.inner.parts.clock.now().boot;
        let (key, result) = {
            let mut sessions = self.inner.logins.sessions();
            let session = sessions.find(&caller.principal, id, now);
            let session = named(caller, id, session)?;
            match &session.stage {
                Stage::Waiting(interval) => return Ok(Standing::Pending { interval: *interval }),
                Stage::Preparing | Stage::Pasting(..) | Stage::Exchanging => {
                    return Err(wrong_operation(
                        "ends with ExchangeCode: send the code that the user pasted",
                    ));
                }
                Stage::Over(_) => {}
            }
            match sessions
                .end(&caller.principal, id, now)
                .map(|session| (session.key, session.stage))
            {
                Some((key, Stage::Over(result))) => (key, result),
                Some(_) | None => return Err(Error::SessionAlreadyUsed),
            }
        };
        Ok(match result {
            Ok(()) => Standing::Complete(self.of_login(caller, &key).await),
            Err(error) => Standing::Failed(error),
        })
    }

    /// Gives a login up: when it returns, the login will change nothing.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`], [`Error::SessionExpired`], [`Error::SessionAlreadyUsed`]: also if it is too late.
    pub fn cancel_login(&self, caller: &Caller, id: &SessionId) -> Result<(), Error> {
        self.begin()?;
        let now = self.inner.parts.clock.now().boot;
        let mut sessions = self.inner.logins.sessions();
        let session = sessions.find(&caller.principal, id, now);
        let session = named(caller, id, session)?;
        if !session.fate.withdraw() {
            return Err(Error::SessionAlreadyUsed);
        }
        session.fate.count(&self.inner.logins.counts, LoginEnd::Cancelled);
        drop(sessions.end(&caller.principal, id, now));
        Ok(())
    }

    /// How many logins are open.
    #[must_use]
    pub fn open_logins(&self) -> usize {
        self.inner.logins.open()
    }

    /// Takes what the exchange needs out of the session. From now on nobody else can.
    fn take_code(&self, caller: &Caller, id: &SessionId) -> Result<(Authorization, Landing), Error> {
        let now = self.inner.parts.clock.now().boot;
        let mut sessions = self.inner.logins.sessions();
        let session = sessions.find(&caller.principal, id, now);
        let session = named(caller, id, session)?;
        match mem::replace(&mut session.stage, Stage::Exchanging) {
            Stage::Pasting(authorization, landing) => {
                // It is used, and in time. A sweep that came by now would throw the token set away.
                session.until = session.until.max(now.saturating_add(LONGEST_EXCHANGE));
                Ok((authorization, landing))
            }
            other => {
                let exchanging = matches!(other, Stage::Exchanging);
                session.stage = other;
                Err(if exchanging {
                    Error::SessionAlreadyUsed
                } else {
                    wrong_operation("has no code to paste: ask with PollLogin until it is complete")
                })
            }
        }
    }

    async fn exchanged(
        &self,
        provider: &dyn LoginProvider,
        authorization: &Authorization,
        pasted: &SecretString,
        landing: &Landing,
    ) -> Result<(), Error> {
        if landing.fate.is_withdrawn() {
            return Err(LoginFailure::Withdrawn.of(&landing.key));
        }
        let sent = self.inner.parts.clock.now();
        let outcome = match authorization.answer(pasted) {
            Ok(code) => provider
                .exchange(authorization, &code)
                .await
                .map(|answer| (answer, sent)),
            Err(trouble) => Err(trouble),
        };
        self.land(landing, outcome).await
    }

    /// The token that a login brought, if the caller may read it. That it cannot be read now is no failure of the login.
    async fn of_login(&self, caller: &Caller, key: &EntryKey) -> Option<AccessToken> {
        self.token(caller, key, Duration::ZERO).await.ok()
    }
}

/// The session that was looked for, and what the record says of it.
fn named<'a>(
    caller: &Caller,
    id: &SessionId,
    found: Result<&'a mut super::session::Session, Error>,
) -> Result<&'a mut super::session::Session, Error> {
    caller.subject.is(Named::Login {
        session: id.shown().to_owned(),
        entry: found.as_ref().ok().map(|session| session.key.clone()),
    });
    found
}

fn wrong_operation(what: &str) -> Error {
    Error::InvalidRequest {
        field: "session_id",
        problem: format!("this login {what}"),
    }
}
