//! Logins: begin one, show the user what to open, and see it through.

use std::{fmt, future::pending, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::{runtime::Handle, time::sleep};

use super::{
    Error, ProcessStore, ProxyTokenStore,
    process::token_store_from_env,
    rpc::{Begun, Rpc, Standing},
};
pub use crate::config::Flow as LoginFlow;
use crate::{
    broker::Broker,
    credential::{AccessToken, EntryKey},
};

/// What a program does for its user during a login.
///
/// ```no_run
/// use credbroker::client::{self, LoginAdapter, LoginPrompt, LoginUi, SecretString, async_trait};
///
/// struct Terminal;
///
/// #[async_trait]
/// impl LoginUi for Terminal {
///     async fn show(&mut self, prompt: &LoginPrompt) {
///         println!("Open {}", prompt.url());
///         if let Some(code) = prompt.user_code() {
///             println!("and enter {code}");
///         }
///     }
///     async fn code(&mut self, _prompt: &LoginPrompt) -> Option<SecretString> {
///         let mut pasted = String::new();
///         std::io::stdin().read_line(&mut pasted).ok()?;
///         Some(SecretString::from(pasted.trim()))
///     }
/// }
///
/// # async fn example() -> Result<(), client::Error> {
/// let github = client::entry("github", "")?;
/// let token = LoginAdapter::from_env()?.login(&github, None, &mut Terminal).await?;
/// println!("logged in; the token may be read here: {}", token.is_some());
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait LoginUi: Send {
    /// Shows the user what to open. Called once.
    async fn show(&mut self, prompt: &LoginPrompt);

    /// The code that the user pasted: CODE, CODE#STATE, or the whole URL that the provider redirected to. `None`: the user
    /// gives the login up. Called once, after [`show`](Self::show), and only for [`LoginFlow::PkceRedirect`]; without an
    /// implementation such a login is given up at once.
    async fn code(&mut self, prompt: &LoginPrompt) -> Option<SecretString> {
        let _ = prompt;
        None
    }

    /// Returns when the user gives the login up. Runs beside the waiting of the other flows, so it is the place for a
    /// countdown, too. Without an implementation the user waits until the login ends.
    async fn given_up(&mut self, prompt: &LoginPrompt) {
        let _ = prompt;
        pending::<()>().await;
    }
}

/// What a user is to do.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoginPrompt {
    /// The entry that the login is for.
    pub entry: EntryKey,
    /// The flow that was asked for. It is not always the one that was begun: a host that cannot listen for a browser goes on
    /// with a device code.
    pub asked: Option<LoginFlow>,
    /// What to open.
    pub step: LoginStep,
    /// When the login ends, by the host's clock.
    pub expire_time: Option<Timestamp>,
}

/// What a user is to open. Every URL is https, or http to loopback. They come from the provider, as the code does: escape
/// control characters before they are printed.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoginStep {
    /// They open the URL, and paste the code that they are shown there.
    Paste {
        /// Holds the `state` of the login: for the user only.
        auth_url: String,
    },
    /// They open the URL on the host.
    Browser {
        /// Holds the `state` of the login: for the user only.
        auth_url: String,
    },
    /// They open the URL on any device, and enter the code.
    Device {
        /// Where the code is entered.
        verification_url: String,
        /// The same with the code in it, if the provider has such a URL.
        verification_url_complete: Option<String>,
        /// The code.
        user_code: String,
    },
}

impl LoginPrompt {
    /// The flow that was begun.
    #[must_use]
    pub fn flow(&self) -> LoginFlow {
        match self.step {
            LoginStep::Paste { .. } => LoginFlow::PkceRedirect,
            LoginStep::Browser { .. } => LoginFlow::BrowserRedirect,
            LoginStep::Device { .. } => LoginFlow::DeviceCode,
        }
    }

    /// What to open; with the user's code in it, if the provider has such a URL.
    #[must_use]
    pub fn url(&self) -> &str {
        match &self.step {
            LoginStep::Paste { auth_url } | LoginStep::Browser { auth_url } => auth_url,
            LoginStep::Device {
                verification_url,
                verification_url_complete,
                ..
            } => verification_url_complete.as_deref().unwrap_or(verification_url),
        }
    }

    /// The code to enter there.
    #[must_use]
    pub fn user_code(&self) -> Option<&str> {
        match &self.step {
            LoginStep::Device { user_code, .. } => Some(user_code),
            LoginStep::Paste { .. } | LoginStep::Browser { .. } => None,
        }
    }
}

/// Neither URLs nor codes.
impl fmt::Debug for LoginPrompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginPrompt")
            .field("entry", &self.entry)
            .field("asked", &self.asked)
            .field("step", &self.step)
            .field("expire_time", &self.expire_time)
            .finish()
    }
}

impl fmt::Debug for LoginStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paste { .. } => "Paste",
            Self::Browser { .. } => "Browser",
            Self::Device { .. } => "Device",
        })
    }
}

/// Logs in through a broker: in a sandbox through its socket, on the host through the process's own. It uses the calls and
/// the connection of the store that it is made from.
///
/// Verifier, code exchange and refresh token are the host's; all that comes here is what the user has to see, and the access
/// token in the end. Nothing that uses a login up is tried twice.
#[derive(Clone)]
pub struct LoginAdapter(Via);

#[derive(Clone)]
enum Via {
    /// On the caller's runtime.
    Here(Rpc),
    /// On the thread of the process's store.
    Process(ProcessStore),
}

impl From<&ProxyTokenStore> for LoginAdapter {
    fn from(store: &ProxyTokenStore) -> Self {
        Self(Via::Here(store.rpc().clone()))
    }
}

impl From<&ProcessStore> for LoginAdapter {
    fn from(store: &ProcessStore) -> Self {
        Self(Via::Process(store.clone()))
    }
}

impl fmt::Debug for LoginAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoginAdapter").finish_non_exhaustive()
    }
}

impl LoginAdapter {
    /// One over [the process's store](token_store_from_env).
    ///
    /// # Errors
    /// Those of [`token_store_from_env`].
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self::from(&token_store_from_env()?))
    }

    /// One over a broker in this process, for the command line on the host.
    pub(crate) fn over(broker: Broker) -> Self {
        Self(Via::Here(Rpc::over(broker)))
    }

    /// Logs in. `None`: it is done, but this sandbox may not read the entry's token. Without a `flow` the host's configuration
    /// decides.
    ///
    /// A future that is dropped takes the login along: the broker is told, if it can still be. The same if the user gives it
    /// up.
    ///
    /// # Errors
    /// [`Error::LoginCancelled`] if the user gave it up. [`Error::Unauthorized`] unless the host allows logins to the entry;
    /// [`Error::ProviderNotFound`]; [`Error::TooManySessions`]; [`Error::InvalidRequest`] if the provider does not have the
    /// flow. [`Error::AccessDenied`], [`Error::SessionExpired`], [`Error::ExchangeFailed`], or whatever else the broker says
    /// of a login that failed.
    pub async fn login(
        &self,
        key: &EntryKey,
        flow: Option<LoginFlow>,
        ui: &mut impl LoginUi,
    ) -> Result<Option<AccessToken>, Error> {
        let (session, begun) = self.0.begin(key.clone(), flow).await?;
        let prompt = LoginPrompt {
            entry: key.clone(),
            asked: flow,
            step: begun.step,
            expire_time: begun.expire_time,
        };
        ui.show(&prompt).await;
        match &prompt.step {
            LoginStep::Paste { .. } => session.paste(&prompt, ui).await,
            LoginStep::Browser { .. } | LoginStep::Device { .. } => session.wait(&prompt, begun.interval, ui).await,
        }
    }
}

impl Via {
    /// Begins a login. A caller that stops waiting for it cancels it, too.
    async fn begin(&self, key: EntryKey, flow: Option<LoginFlow>) -> Result<(Session, Begun), Error> {
        let via = self.clone();
        let begin = move |rpc: Rpc| async move {
            let begun = rpc.initiate_login(&key, flow).await?;
            let session = Session {
                id: Arc::clone(&begun.session),
                via,
                runtime: Handle::current(),
                ended: false,
            };
            Ok((session, begun))
        };
        // In a task: what nobody waits for any more is dropped when it is there, and that cancels it.
        match self {
            Self::Here(rpc) => tokio::spawn(begin(rpc.clone()))
                .await
                .unwrap_or_else(|cut| Err(super::process::cut(&cut))),
            Self::Process(store) => store.finish(begin).await,
        }
    }

    async fn call<T, F>(&self, call: impl FnOnce(Rpc) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        match self {
            Self::Here(rpc) => call(rpc.clone()).await,
            Self::Process(store) => store.run(call).await,
        }
    }

    async fn pause(&self, length: Duration) {
        match self {
            Self::Here(_) => sleep(length).await,
            // The caller may have no clock. A thread that has ended is told by the next call.
            Self::Process(store) => drop(store.runtime().spawn(async move { sleep(length).await }).await),
        }
    }
}

/// How soon a login that is being stored is asked about again.
const ALMOST_DONE: Duration = Duration::from_millis(200);

/// A login that was begun. Dropped before it has ended, it is cancelled.
struct Session {
    id: Arc<str>,
    via: Via,
    /// Where it is cancelled.
    runtime: Handle,
    ended: bool,
}

impl Session {
    /// Ends the login with a code.
    async fn paste(mut self, prompt: &LoginPrompt, ui: &mut impl LoginUi) -> Result<Option<AccessToken>, Error> {
        let Some(code) = ui.code(prompt).await else {
            self.cancel().await?;
            return Err(Error::LoginCancelled);
        };
        let (id, via) = (Arc::clone(&self.id), self.via.clone());
        let mut exchange = pin!(via.call(move |rpc| async move { rpc.exchange_code(&id, code).await }));
        let answer = tokio::select! {
            biased;
            answer = &mut exchange => answer,
            () = ui.given_up(prompt) => {
                if self.cancel().await? {
                    return Err(Error::LoginCancelled);
                }
                exchange.await
            }
        };
        // The code is used up by any other answer; what goes on at the provider then is wanted.
        self.ended = !matches!(
            answer,
            Err(Error::InvalidRequest(_) | Error::RateLimited(_) | Error::DeadlineExceeded(_))
        );
        answer
    }

    /// Asks until the login has ended.
    async fn wait(
        mut self,
        prompt: &LoginPrompt,
        mut interval: Duration,
        ui: &mut impl LoginUi,
    ) -> Result<Option<AccessToken>, Error> {
        let via = self.via.clone();
        let mut given_up = ui.given_up(prompt);
        let mut user = User::Waits;
        loop {
            if user != User::GaveUp {
                tokio::select! {
                    biased;
                    () = &mut given_up, if user == User::Waits => user = User::GaveUp,
                    () = via.pause(interval) => {}
                }
            }
            if user == User::GaveUp {
                if self.cancel().await? {
                    return Err(Error::LoginCancelled);
                }
                (user, interval) = (User::CameTooLate, ALMOST_DONE);
            }
            let id = Arc::clone(&self.id);
            let mut poll = pin!(via.call(move |rpc| async move { rpc.poll_login(&id).await }));
            // It may use the login up, so it is seen through whatever the user does.
            let standing = loop {
                tokio::select! {
                    biased;
                    standing = &mut poll => break standing,
                    () = &mut given_up, if user == User::Waits => user = User::GaveUp,
                }
            };
            match standing {
                Ok(Standing::Pending(next)) if user == User::Waits => interval = next,
                Ok(Standing::Pending(_)) => {}
                // It did not get as far as the login.
                Err(Error::RateLimited(refusal)) => {
                    interval = interval.max(refusal.retry_after.unwrap_or_default());
                }
                Ok(Standing::Complete(token)) => {
                    self.ended = true;
                    return Ok(token);
                }
                Ok(Standing::Failed(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Cancels the login. `false`: it is too late, its result is there or about to be.
    async fn cancel(&mut self) -> Result<bool, Error> {
        let id = Arc::clone(&self.id);
        let cancelled = self
            .via
            .call(move |rpc| async move { rpc.cancel_login(&id).await })
            .await;
        match cancelled {
            Ok(()) => {
                self.ended = true;
                Ok(true)
            }
            Err(Error::SessionAlreadyUsed(_)) => Ok(false),
            Err(error) => {
                // There is no other way to end it, and one that the broker still has ends by itself.
                self.ended = true;
                Err(error)
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (id, via) = (Arc::clone(&self.id), self.via.clone());
        self.runtime.spawn(async move {
            // Nobody is left to be told.
            drop(via.call(move |rpc| async move { rpc.cancel_login(&id).await }).await);
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum User {
    Waits,
    GaveUp,
    CameTooLate,
}
