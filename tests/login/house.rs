//! A broker over a store, a clock and a provider that the test commands, and the sandboxes that log in through it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use credbroker::{
    broker::{
        Broker, Caller, Error, Parts, Renewals,
        login::{Begun, LoginParts, SessionId, Shown, Standing},
        policy::{EntryPattern, Policy},
    },
    clock::Clock as _,
    credential::{AccessToken, EntryKey, Expiry, TokenSet},
    oauth::{Flow, LoginProvider, Provider},
    reason::Reason,
    store::StoredTokens,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;

use crate::{clock::PausedClock, desk::Desk, fake};

pub(crate) const ALL: [Flow; 3] = [Flow::PkceRedirect, Flow::DeviceCode, Flow::BrowserRedirect];

pub(crate) struct House {
    pub(crate) store: fake::Store,
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) broker: Broker,
    /// What the host's terminal shows.
    pub(crate) terminal: Arc<Mutex<Vec<String>>>,
}

impl House {
    pub(crate) fn new(flows: &[Flow]) -> Self {
        let (store, desk) = (fake::Store::new(), Desk::new(flows));
        let clock = Arc::new(PausedClock::new());
        let terminal = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&terminal);
        let provider = "p".parse().unwrap();
        let broker = Broker::new(Parts {
            tokens: Arc::new(store.clone()),
            keys: Arc::new(store.clone()),
            clock: Arc::clone(&clock) as _,
            providers: BTreeMap::from([("p".parse().unwrap(), Arc::clone(&desk) as Arc<dyn Provider>)]),
            renewals: Renewals::Ahead(Arc::new(|| 0.0)),
            logins: LoginParts {
                providers: BTreeMap::from([(provider, Arc::clone(&desk) as Arc<dyn LoginProvider>)]),
                notices: Arc::new(move |notice| shown.lock().unwrap().push(notice.to_string())),
                ..LoginParts::default()
            },
        });
        Self {
            store,
            clock,
            desk,
            broker,
            terminal,
        }
    }

    pub(crate) async fn begin(&self, caller: &Caller, flow: Flow) -> Begun {
        begin(&self.broker, caller, Some(flow)).await.unwrap()
    }

    /// A login whose code will not be exchanged before the desk opens.
    pub(crate) async fn begin_closed(&self, caller: &Caller) -> SessionId {
        let session = self.begin(caller, Flow::PkceRedirect).await.session;
        self.desk.close();
        session
    }

    /// A login whose code was pasted and is being exchanged, until the desk opens.
    pub(crate) async fn exchanging(&self, caller: &Caller) -> (SessionId, JoinHandle<Result<Option<String>, Reason>>) {
        let session = self.begin_closed(caller).await;
        let pasting = self.pasting(caller, &session, "code");
        settle().await;
        (session, pasting)
    }

    /// Another broker over the same store, as another process would be; it knows no provider.
    pub(crate) fn another(&self) -> Broker {
        Broker::new(Parts {
            tokens: Arc::new(self.store.clone()),
            keys: Arc::new(self.store.clone()),
            clock: Arc::clone(&self.clock) as _,
            providers: BTreeMap::new(),
            renewals: Renewals::OnUse,
            logins: LoginParts::default(),
        })
    }

    pub(crate) async fn paste(
        &self,
        caller: &Caller,
        session: &SessionId,
        code: &str,
    ) -> Result<Option<String>, Reason> {
        paste(&self.broker, caller, session, code).await
    }

    pub(crate) fn pasting(
        &self,
        caller: &Caller,
        session: &SessionId,
        code: &'static str,
    ) -> JoinHandle<Result<Option<String>, Reason>> {
        let (broker, caller, session) = (self.broker.clone(), caller.clone(), session.clone());
        tokio::spawn(async move { paste(&broker, &caller, &session, code).await })
    }

    /// `Ok`: complete, with the token if it may be read.
    pub(crate) async fn poll(&self, caller: &Caller, session: &SessionId) -> Result<Polled, Reason> {
        let standing = self.broker.poll_login(caller, session).await;
        standing.map_err(|error| error.reason()).map(|standing| match standing {
            Standing::Pending { interval } => Polled::Pending(interval.as_secs()),
            Standing::Complete(token) => Polled::Complete(text(token)),
            Standing::Failed(error) => Polled::Failed(error.reason()),
        })
    }

    /// Asks until it is over.
    pub(crate) async fn outcome(&self, caller: &Caller, session: &SessionId) -> Polled {
        loop {
            match self.poll(caller, session).await.unwrap() {
                Polled::Pending(interval) => pass(interval.max(1)).await,
                over => return over,
            }
        }
    }

    pub(crate) fn cancel(&self, caller: &Caller, session: &SessionId) -> Result<(), Reason> {
        self.broker
            .cancel_login(caller, session)
            .map_err(|error| error.reason())
    }

    pub(crate) async fn stored(&self) -> Option<Arc<StoredTokens>> {
        self.store.peek(&entry()).await
    }

    /// The access token in the store.
    pub(crate) async fn token(&self) -> Option<String> {
        let stored = self.stored().await?;
        Some(stored.tokens.access_token.expose_secret().to_owned())
    }

    /// An entry of this account; empty: nobody knows whose.
    pub(crate) async fn import(&self, subject: &str) {
        let tokens = TokenSet {
            access_token: "at-0".into(),
            refresh_token: Some("rt-0".into()),
            expiry: Some(Expiry::from_lifetime(Duration::from_secs(3600), &self.clock.now())),
            token_type: "Bearer".into(),
            scope: String::new(),
            subject: (!subject.is_empty()).then(|| subject.to_owned()),
            extra: BTreeMap::new(),
            saved_by: "import".into(),
        };
        self.broker.import(&entry(), tokens).await.unwrap();
    }

    pub(crate) async fn logout(&self) {
        self.broker.remove_token(&Caller::host(), &entry()).await.unwrap();
    }

    pub(crate) fn terminal(&self) -> String {
        self.terminal.lock().unwrap().join("\n")
    }
}

/// How a login stands, for comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Polled {
    Pending(u64),
    Complete(Option<String>),
    Failed(Reason),
}

pub(crate) fn entry() -> EntryKey {
    EntryKey::parse("p", "").unwrap()
}

/// A sandbox that may log in to `p` and read it.
pub(crate) fn sandbox(name: &str) -> Caller {
    with_rights(name, &["p"], &["p"])
}

pub(crate) fn with_rights(name: &str, login: &[&str], read: &[&str]) -> Caller {
    let patterns = |all: &[&str]| -> Vec<EntryPattern> { all.iter().map(|text| text.parse().unwrap()).collect() };
    Caller {
        principal: name.into(),
        policy: Arc::new(Policy {
            login: patterns(login),
            read: patterns(read),
            ..Policy::default()
        }),
        at_host: false,
        ..Caller::host()
    }
}

pub(crate) async fn begin(broker: &Broker, caller: &Caller, flow: Option<Flow>) -> Result<Begun, Error> {
    broker.initiate_login(caller, &entry(), flow).await
}

async fn paste(broker: &Broker, caller: &Caller, session: &SessionId, code: &str) -> Result<Option<String>, Reason> {
    let pasted = broker.exchange_code(caller, session, SecretString::from(code)).await;
    pasted.map(text).map_err(|error| error.reason())
}

fn text(token: Option<AccessToken>) -> Option<String> {
    token.map(|token| token.access_token.expose_secret().to_owned())
}

pub(crate) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Everything that can go on without time does.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub(crate) fn auth_url(begun: &Begun) -> &str {
    match &begun.shown {
        Shown::Paste { auth_url } | Shown::Browser { auth_url, .. } => auth_url,
        Shown::Device { .. } => panic!("a device login has no such URL"),
    }
}
