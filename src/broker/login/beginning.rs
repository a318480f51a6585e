//! How a login begins: what the user is shown, and the task that waits for them.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{sleep, timeout};
use tracing::Instrument as _;

use super::{
    Begun, Logins, Notice, PATIENCE, SessionId, Shown, device,
    landing::{Landing, Outcome},
    session::Stage,
};
use crate::{
    broker::{Broker, Caller, Error, caller::Named, error::LoginFailure, policy::Right},
    credential::EntryKey,
    oauth::{
        Flow, LoginProvider,
        login::{Authorization, DeviceAuthorization, Listening, LoginTrouble},
    },
    store::StoreError,
};

/// How often asking for a login in a browser is worth it.
const BROWSER_INTERVAL: Duration = Duration::from_secs(2);
/// How often old sessions are looked for.
const SWEEP: Duration = Duration::from_secs(60);

impl Broker {
    /// Begins a login. `flow` is what the caller wants; `None`: what the provider's configuration names, or its usual one.
    /// If this host cannot listen for a browser and the provider has the device flow, it is that.
    ///
    /// # Errors
    /// [`Error::Unauthorized`]; [`Error::ProviderNotFound`]; [`Error::InvalidRequest`] if the provider does not have the
    /// flow; [`Error::TooManySessions`]; [`Error::LoginFailed`] if the provider could not be asked; [`Error::Store`].
    pub async fn initiate_login(&self, caller: &Caller, key: &EntryKey, flow: Option<Flow>) -> Result<Begun, Error> {
        let logins = &self.inner.logins;
        let (now, time) = (self.inner.parts.clock.now(), logins.parts.timeout);
        let opened = self.open_login(caller, key, now.boot);
        caller.subject.is(match &opened {
            Ok((id, _)) => Named::Login {
                session: id.shown().to_owned(),
                entry: Some(key.clone()),
            },
            Err(_) => Named::Entry(key.clone()),
        });
        let (id, provider) = opened?;
        // The caller may go away while the provider is asked.
        let mut place = Place {
            logins,
            caller,
            id: &id,
            begun: false,
        };
        let replaces = match self.inner.coordinator.current(key).await {
            Ok(stored) => stored.is_some(),
            Err(StoreError::Corrupt { .. }) => true,
            Err(error) => return Err(error.into()),
        };
        let prepared = timeout(PATIENCE, prepare(&**provider, key, flow)).await;
        let prepared = prepared.unwrap_or_else(|_elapsed| Err(LoginFailure::Unavailable.of(key)))?;

        let begun = Begun {
            session: id.clone(),
            shown: prepared.shown(),
            expire_time: after(
                now.wall,
                prepared.lifetime().map_or(time, |lifetime| lifetime.min(time)),
            ),
        };
        let mut sessions = logins.sessions();
        // A broker that stops, or a provider that took as long as the user has.
        let session = sessions.of_task(&caller.principal, &id).ok_or(Error::SessionExpired)?;
        let landing = Landing {
            id: id.clone(),
            principal: Arc::clone(&caller.principal),
            at_host: caller.at_host,
            key: key.clone(),
            fate: Arc::clone(&session.fate),
            until: session.until,
            replaces,
        };
        session.stage = match prepared {
            Prepared::Paste(authorization) => Stage::Pasting(authorization, landing),
            Prepared::Browser(authorization, ear) => {
                let provider = Arc::clone(provider);
                self.wait_for(landing, move |broker, landing| async move {
                    broker.browser(&*provider, &authorization, ear, &landing).await
                });
                Stage::Waiting(BROWSER_INTERVAL)
            }
            Prepared::Device(device) => {
                let (provider, interval) = (Arc::clone(provider), device.interval);
                self.wait_for(landing, move |broker, landing| async move {
                    broker.device(&*provider, &device, &landing).await
                });
                Stage::Waiting(interval)
            }
        };
        drop(sessions);
        place.begun = true;
        self.sweep_old_sessions();
        if !caller.at_host {
            (logins.parts.notices)(&Notice::Begun {
                principal: &caller.principal,
                key,
                shown: &begun.shown,
            });
        }
        Ok(begun)
    }

    /// Makes room for a session, if the caller may have one.
    fn open_login(
        &self,
        caller: &Caller,
        key: &EntryKey,
        now: Duration,
    ) -> Result<(SessionId, &Arc<dyn LoginProvider>), Error> {
        self.begin()?;
        caller.require(Right::Login, key)?;
        let logins = &self.inner.logins;
        let provider = logins.parts.providers.get(&key.provider);
        let provider = provider.ok_or_else(|| Error::ProviderNotFound(key.clone()))?;
        let id = logins
            .sessions()
            .open(&caller.principal, key, now, logins.parts.timeout)?;
        Ok((id, provider))
    }

    /// Runs a login that needs nothing more from its caller, in a task of the broker's.
    fn wait_for<F>(&self, landing: Landing, login: impl FnOnce(Self, Arc<Landing>) -> F)
    where
        F: Future<Output = Option<Outcome>> + Send + 'static,
    {
        let landing = Arc::new(landing);
        let outcome = login(self.clone(), Arc::clone(&landing));
        let end = End {
            broker: self.clone(),
            landing,
            result: Err(Error::Internal("the task of a login died".into())),
            counts: true,
        };
        let task = async move {
            let mut end = end;
            end.result = match outcome.await {
                Some(outcome) => end.broker.land(&end.landing, outcome).await,
                None => {
                    // The session ended first, and that is what counts.
                    end.counts = false;
                    Err(LoginFailure::Withdrawn.of(&end.landing.key))
                }
            };
        };
        self.inner.logins.tasks.spawn(task.in_current_span());
    }

    async fn browser(
        &self,
        provider: &dyn LoginProvider,
        authorization: &Authorization,
        ear: Box<dyn Listening>,
        landing: &Landing,
    ) -> Option<Outcome> {
        let left = landing.until.saturating_sub(self.inner.parts.clock.now().boot);
        let brought = tokio::select! {
            () = landing.fate.ended() => return None,
            // Nobody listens for longer than the user has.
            () = sleep(left) => return None,
            brought = ear.code(authorization) => brought,
        };
        let sent = self.inner.parts.clock.now();
        // No sweep has come by yet.
        if sent.boot >= landing.until {
            return None;
        }
        Some(match brought {
            Ok(code) => provider
                .exchange(authorization, &code)
                .await
                .map(|answer| (answer, sent)),
            Err(trouble) => Err(trouble),
        })
    }

    async fn device(
        &self,
        provider: &dyn LoginProvider,
        device: &DeviceAuthorization,
        landing: &Landing,
    ) -> Option<Outcome> {
        let paced = |interval| {
            if let Some(session) = self.inner.logins.sessions().of_task(&landing.principal, &landing.id) {
                session.stage = Stage::Waiting(interval);
            }
        };
        let patience = device::Patience {
            clock: &*self.inner.parts.clock,
            until: landing.until,
        };
        device::answered(provider, device, &patience, landing.fate.ended(), paced).await
    }

    /// Sees to it that abandoned sessions do not keep what is in them, also if nobody asks for one again.
    fn sweep_old_sessions(&self) {
        if self.inner.logins.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::downgrade(&self.inner);
        // Not one of the tasks that are awaited at the end: there is nothing to lose in it.
        tokio::spawn(async move {
            loop {
                sleep(SWEEP).await;
                let Some(inner) = inner.upgrade() else { return };
                let mut sessions = inner.logins.sessions();
                sessions.sweep(inner.parts.clock.now().boot);
                if sessions.is_empty() {
                    // Under the lock: whoever opens the next session sees it.
                    inner.logins.sweeping.store(false, Ordering::Release);
                    return;
                }
            }
        });
    }
}

/// The end of a login's task, also if a provider panics in it: the session is told.
struct End {
    broker: Broker,
    landing: Arc<Landing>,
    result: Result<(), Error>,
    counts: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        let Landing {
            principal, id, fate, ..
        } = &*self.landing;
        if self.counts {
            self.broker.inner.logins.ended(fate, &self.result);
        }
        if let Some(session) = self.broker.inner.logins.sessions().of_task(principal, id) {
            session.stage = Stage::Over(mem::replace(&mut self.result, Ok(())));
        }
    }
}

/// What a user can be shown, and what is needed to go on from there.
enum Prepared {
    Paste(Authorization),
    Browser(Authorization, Box<dyn Listening>),
    Device(DeviceAuthorization),
}

impl Prepared {
    fn shown(&self) -> Shown {
        match self {
            Self::Paste(authorization) => Shown::Paste {
                auth_url: authorization.url.clone(),
            },
            Self::Browser(authorization, _) => Shown::Browser {
                auth_url: authorization.url.clone(),
                interval: BROWSER_INTERVAL,
            },
            Self::Device(device) => Shown::Device {
                verification_url: device.verification_url.clone(),
                verification_url_complete: device.verification_url_complete.clone(),
                user_code: device.user_code.clone(),
                interval: device.interval,
            },
        }
    }

    fn lifetime(&self) -> Option<Duration> {
        match self {
            Self::Paste(_) | Self::Browser(..) => None,
            Self::Device(device) => device.lifetime,
        }
    }
}

async fn prepare(provider: &dyn LoginProvider, key: &EntryKey, wanted: Option<Flow>) -> Result<Prepared, Error> {
    let failed = |trouble: LoginTrouble| {
        if let LoginTrouble::Unconfigured(lack) = trouble {
            return Error::LoginUnconfigured { key: key.clone(), lack };
        }
        tracing::warn!(entry = %key, %trouble, "a login could not be begun");
        LoginFailure::from(trouble).of(key)
    };
    let flows = provider.flows().await.map_err(failed)?;
    let flow = match (wanted, flows.first()) {
        (Some(wanted), _) if flows.contains(&wanted) => wanted,
        (None, Some(usual)) => *usual,
        (Some(_), _) | (None, None) => return Err(no_such_flow(key, &flows)),
    };
    match flow {
        Flow::PkceRedirect => provider.authorize().await.map(Prepared::Paste),
        Flow::DeviceCode => provider.authorize_device().await.map(Prepared::Device),
        Flow::BrowserRedirect => match provider.authorize_loopback().await {
            Err(trouble @ LoginTrouble::CannotListen(_)) if flows.contains(&Flow::DeviceCode) => {
                tracing::warn!(entry = %key, %trouble, "the login goes on with a device code");
                provider.authorize_device().await.map(Prepared::Device)
            }
            prepared => prepared.map(|(authorization, ear)| Prepared::Browser(authorization, ear)),
        },
    }
    .map_err(failed)
}

fn no_such_flow(key: &EntryKey, flows: &[Flow]) -> Error {
    let problem = if flows.is_empty() {
        format!(
            "[providers.{}] of the host's config.toml has no way to log in: set authorization_endpoint or \
             device_authorization_endpoint there, or store a token with `credbroker token import`",
            key.provider
        )
    } else {
        let names: Vec<_> = flows.iter().map(|flow| flow.as_str()).collect();
        format!(
            "{} logs in with {}: choose one of these",
            key.provider,
            names.join(" or ")
        )
    };
    Error::InvalidRequest { field: "flow", problem }
}

fn after(wall: Timestamp, time: Duration) -> Timestamp {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    wall.saturating_add(time).unwrap_or(Timestamp::MAX)
}

/// A session that is being begun: gives its place back unless it is.
struct Place<'a> {
    logins: &'a Logins,
    caller: &'a Caller,
    id: &'a SessionId,
    begun: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.begun {
            self.logins.sessions().forget(&self.caller.principal, self.id);
        }
    }
}
