//! An authorization server that people log in to, as far as a test tells it what they do.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use credbroker::{
    credential::TokenAnswer,
    oauth::{
        Flow, LoginProvider, Outcome, Provider, Revoked, TokenKind,
        login::{Authorization, DeviceAuthorization, DevicePoll, Listening, LoginTrouble},
    },
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// What must stay on the host.
pub(crate) const VERIFIER: &str = "verifier-canary-5b1e";
pub(crate) const STATE: &str = "state-canary-9c77";
pub(crate) const DEVICE_CODE: &str = "device-canary-03fd";

/// What the provider says to a question about a device login.
#[derive(Debug, Clone)]
pub(crate) enum Poll {
    Pending,
    SlowDown,
    /// Nothing was written.
    Lost,
    /// Not processed, with this `Retry-After` in seconds.
    Busy(u64),
    /// The user agreed: whose account it is.
    Agreed(&'static str),
    Ended(LoginTrouble),
    Panic,
}

/// The provider, at every one of its desks.
pub(crate) struct Desk {
    script: Mutex<Script>,
    /// Whether exchanges, polls and refreshes are answered.
    open: watch::Sender<bool>,
    /// How many ears there are.
    listening: Arc<AtomicUsize>,
    /// Where browsers come.
    redirects: Mutex<Option<mpsc::Sender<Result<SecretString, LoginTrouble>>>>,
}

struct Script {
    flows: Vec<Flow>,
    polls: VecDeque<Poll>,
    device_lifetime: Option<Duration>,
    /// What the next exchange of a code brings: whose account it is, or why nothing.
    exchange: Result<&'static str, LoginTrouble>,
    cannot_listen: bool,
    unavailable: bool,
    lacks: Option<&'static str>,
    unsendable: bool,
    lifetime: Option<Duration>,
    refused: bool,
    asked: Vec<Instant>,
    exchanged: Vec<String>,
    revoked: Vec<String>,
    made: usize,
}

impl Desk {
    pub(crate) fn new(flows: &[Flow]) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(Script {
                flows: flows.to_vec(),
                polls: VecDeque::new(),
                device_lifetime: None,
                exchange: Ok("alice"),
                cannot_listen: false,
                unavailable: false,
                lacks: None,
                unsendable: false,
                lifetime: Some(Duration::from_secs(3600)),
                refused: false,
                asked: Vec::new(),
                exchanged: Vec::new(),
                revoked: Vec::new(),
                made: 0,
            }),
            open: watch::Sender::new(true),
            listening: Arc::default(),
            redirects: Mutex::default(),
        })
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next answers to questions about a device login; pending ever after.
    pub(crate) fn polls(&self, polls: impl IntoIterator<Item = Poll>) {
        self.script().polls.extend(polls);
    }

    pub(crate) fn device_lifetime(&self, seconds: u64) {
        self.script().device_lifetime = Some(Duration::from_secs(seconds));
    }

    /// Answers do not say for how long their tokens are good.
    pub(crate) fn tells_no_lifetime(&self) {
        self.script().lifetime = None;
    }

    /// What exchanges of a code bring from now on.
    pub(crate) fn exchanges(&self, to: Result<&'static str, LoginTrouble>) {
        self.script().exchange = to;
    }

    pub(crate) fn cannot_listen(&self) {
        self.script().cannot_listen = true;
    }

    pub(crate) fn unavailable(&self) {
        self.script().unavailable = true;
    }

    /// The access tokens of answers cannot be handed out.
    pub(crate) fn unsendable(&self) {
        self.script().unsendable = true;
    }

    /// Refresh tokens are refused, or good again.
    pub(crate) fn refuses_refreshes(&self, refused: bool) {
        self.script().refused = refused;
    }

    /// The configuration lacks this.
    pub(crate) fn lacks(&self, lack: &'static str) {
        self.script().lacks = Some(lack);
    }

    /// From now on nothing is answered.
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    /// What waited is answered.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// The browser of the login that began last is redirected. `false`: nobody listens.
    pub(crate) async fn redirect(&self, brings: Result<&str, LoginTrouble>) -> bool {
        let sender = self.redirects.lock().unwrap().clone();
        match sender {
            Some(sender) => sender.send(brings.map(SecretString::from)).await.is_ok(),
            None => false,
        }
    }

    pub(crate) fn listening(&self) -> usize {
        self.listening.load(Ordering::SeqCst)
    }

    /// When it was asked about device logins, by tokio's clock.
    pub(crate) fn asked(&self) -> Vec<Instant> {
        self.script().asked.clone()
    }

    /// Codes that were exchanged.
    pub(crate) fn exchanged(&self) -> Vec<String> {
        self.script().exchanged.clone()
    }

    /// Tokens that were revoked.
    pub(crate) fn revoked(&self) -> Vec<String> {
        self.script().revoked.clone()
    }

    fn answer(&self, subject: &str) -> Box<TokenAnswer> {
        let mut script = self.script();
        script.made += 1;
        let made = script.made;
        Box::new(TokenAnswer {
            access_token: (!script.unsendable).then(|| format!("at-login-{made}").into()),
            refresh_token: Some(format!("rt-login-{made}").into()),
            lifetime: script.lifetime,
            token_type: None,
            scope: None,
            subject: (!subject.is_empty()).then(|| subject.to_owned()),
            extra: BTreeMap::new(),
        })
    }

    async fn opened(&self) {
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
    }

    fn refuse(&self) -> Result<(), LoginTrouble> {
        if let Some(lack) = self.script().lacks {
            return Err(LoginTrouble::Unconfigured(lack.to_owned()));
        }
        if self.script().unavailable {
            return Err(LoginTrouble::Unavailable(credbroker::oauth::Seen(
                "HTTP 502".to_owned(),
            )));
        }
        Ok(())
    }
}

fn authorization() -> Authorization {
    Authorization {
        url: format!("https://as.example/authorize?state={STATE}"),
        redirect_uri: "https://as.example/code".to_owned(),
        state: STATE.into(),
        verifier: VERIFIER.into(),
        state_required: false,
        issuer: None,
        issuer_required: false,
    }
}

#[async_trait]
impl LoginProvider for Desk {
    async fn flows(&self) -> Result<Vec<Flow>, LoginTrouble> {
        self.refuse()?;
        Ok(self.script().flows.clone())
    }

    async fn authorize(&self) -> Result<Authorization, LoginTrouble> {
        self.opened().await;
        self.refuse()?;
        Ok(authorization())
    }

    async fn authorize_loopback(&self) -> Result<(Authorization, Box<dyn Listening>), LoginTrouble> {
        if self.script().cannot_listen {
            return Err(LoginTrouble::CannotListen("port 1455".to_owned()));
        }
        let (sender, receiver) = mpsc::channel(1);
        *self.redirects.lock().unwrap() = Some(sender);
        self.listening.fetch_add(1, Ordering::SeqCst);
        let ear = Ear {
            browser: receiver,
            count: Arc::clone(&self.listening),
        };
        Ok((authorization(), Box::new(ear)))
    }

    async fn exchange(
        &self,
        authorization: &Authorization,
        code: &SecretString,
    ) -> Result<Box<TokenAnswer>, LoginTrouble> {
        assert_eq!(authorization.verifier.expose_secret(), VERIFIER);
        self.script().exchanged.push(code.expose_secret().to_owned());
        self.opened().await;
        let exchange = self.script().exchange.clone();
        exchange.map(|subject| self.answer(subject))
    }

    async fn authorize_device(&self) -> Result<DeviceAuthorization, LoginTrouble> {
        Ok(DeviceAuthorization {
            verification_url: "https://as.example/device".to_owned(),
            verification_url_complete: Some("https://as.example/device?code=ABCD-EFGH".to_owned()),
            user_code: "ABCD-EFGH".to_owned(),
            interval: Duration::from_secs(5),
            lifetime: self.script().device_lifetime,
            device_code: DEVICE_CODE.into(),
            verifier: None,
        })
    }

    async fn poll_device(&self, device: &DeviceAuthorization) -> DevicePoll {
        assert_eq!(device.device_code.expose_secret(), DEVICE_CODE);
        self.script().asked.push(Instant::now());
        self.opened().await;
        let seen = || credbroker::oauth::Seen("name look-up: no".to_owned());
        let poll = self.script().polls.pop_front();
        match poll.unwrap_or(Poll::Pending) {
            Poll::Pending => DevicePoll::Pending,
            Poll::SlowDown => DevicePoll::SlowDown,
            Poll::Lost => DevicePoll::NotProcessed {
                seen: seen(),
                retry_after: None,
            },
            Poll::Busy(seconds) => DevicePoll::NotProcessed {
                seen: seen(),
                retry_after: Some(Duration::from_secs(seconds)),
            },
            Poll::Agreed(subject) => DevicePoll::Answered(self.answer(subject)),
            Poll::Ended(trouble) => DevicePoll::Ended(trouble),
            Poll::Panic => panic!("a provider that panics"),
        }
    }
}

/// It counts itself, so that one that is left behind shows.
struct Ear {
    browser: mpsc::Receiver<Result<SecretString, LoginTrouble>>,
    count: Arc<AtomicUsize>,
}

#[async_trait]
impl Listening for Ear {
    async fn code(mut self: Box<Self>, _authorization: &Authorization) -> Result<SecretString, LoginTrouble> {
        match self.browser.recv().await {
            Some(brings) => brings,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Provider for Desk {
    async fn refresh(&self, _refresh_token: &SecretString) -> Outcome {
        self.opened().await;
        if self.script().refused {
            return Outcome::Refused(credbroker::oauth::Seen("HTTP 400, error invalid_grant".to_owned()));
        }
        Outcome::Answered(self.answer("alice"))
    }

    async fn revoke(&self, token: &SecretString, _kind: TokenKind) -> Revoked {
        self.script().revoked.push(token.expose_secret().to_owned());
        Revoked::Done
    }

    fn default_lifetime(&self) -> Duration {
        Duration::from_secs(1800)
    }

    fn may_repeat_ambiguous(&self) -> bool {
        true
    }
}
