//! A broker over a store, a clock and a provider that the test commands, and further brokers over the same store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use credbroker::{
    broker::{Broker, Caller, Error, Parts, Renewals, Revocation, coordinator::RefreshCoordinator, login::LoginParts},
    clock::Clock,
    credential::{EntryKey, Expiry, Name, Revision, SavedToken, TokenSet},
    oauth::Provider,
    reason::Reason,
    store::StoredTokens,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    authority::{Authority, entry},
    clock::PausedClock,
    fake,
};

pub(crate) struct House {
    pub(crate) store: fake::Store,
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) broker: Broker,
}

/// What a caller got: the access token, or the reason with the delay in seconds, rounded.
pub(crate) type Got = Result<String, (Reason, Option<u64>)>;

impl House {
    /// An entry `p/default` with access token `at-0` for so many seconds and refresh token `rt-0`.
    pub(crate) async fn with(lifetime: u64) -> Self {
        let house = Self::empty();
        house.import("", "rt-0", lifetime).await;
        house
    }

    /// The same, with an access token that has expired.
    pub(crate) async fn expired() -> Self {
        let house = Self::with(100).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        house
    }

    pub(crate) fn empty() -> Self {
        let store = fake::Store::new();
        let clock = Arc::new(PausedClock::new());
        let authority = Authority::new(&store);
        let broker = broker(&store, &clock, &[("p", &authority)]);
        Self {
            store,
            clock,
            authority,
            broker,
        }
    }

    /// Another broker over the same store, as another process would be.
    pub(crate) fn another(&self) -> Broker {
        broker(&self.store, &self.clock, &[("p", &self.authority)])
    }

    /// One whose configuration does not name the provider.
    pub(crate) fn without_provider(&self) -> Broker {
        broker(&self.store, &self.clock, &[])
    }

    /// One that renews ahead, without jitter, as the daemon does.
    pub(crate) fn renewing(&self) -> Broker {
        let renewals = Renewals::Ahead(Arc::new(|| 0.0));
        broker_that(renewals, &self.store, &self.clock, &[("p", &self.authority)])
    }

    /// One with a clock of its own.
    pub(crate) fn by(&self, clock: Arc<dyn Clock>) -> Broker {
        Broker::new(Parts {
            tokens: Arc::new(self.store.clone()),
            keys: Arc::new(self.store.clone()),
            clock,
            providers: providers(&[("p", &self.authority)]),
            renewals: Renewals::OnUse,
            logins: LoginParts::default(),
        })
    }

    pub(crate) fn coordinator(&self) -> RefreshCoordinator {
        RefreshCoordinator::new(
            Arc::new(self.store.clone()),
            Arc::clone(&self.clock) as _,
            providers(&[("p", &self.authority)]),
        )
    }

    pub(crate) async fn import(&self, bucket: &str, refresh: &str, lifetime: u64) {
        import(&self.broker, entry(bucket), self.tokens(refresh, lifetime))
            .await
            .unwrap();
    }

    pub(crate) fn tokens(&self, refresh: &str, lifetime: u64) -> TokenSet {
        TokenSet {
            access_token: "at-0".into(),
            refresh_token: (!refresh.is_empty()).then(|| SecretString::from(refresh)),
            expiry: Some(Expiry::from_lifetime(Duration::from_secs(lifetime), &self.clock.now())),
            token_type: "Bearer".into(),
            scope: String::new(),
            subject: None,
            extra: BTreeMap::new(),
            saved_by: "import".into(),
        }
    }

    pub(crate) async fn get(&self) -> Got {
        get(&self.broker, "").await
    }

    /// Why GetToken fails.
    pub(crate) async fn error(&self) -> Error {
        let token = self.broker.token(&Caller::host(), &entry(""), Duration::ZERO).await;
        token.unwrap_err()
    }

    /// GetToken in a task of its own, as a client would.
    pub(crate) fn getting(&self) -> JoinHandle<Got> {
        getting(&self.broker, "")
    }

    pub(crate) async fn refresh(&self) -> Got {
        refresh(&self.broker, None).await
    }

    pub(crate) fn refreshing(&self) -> JoinHandle<Got> {
        let broker = self.broker.clone();
        tokio::spawn(async move { refresh(&broker, None).await })
    }

    pub(crate) async fn logout(&self) -> Result<Revocation, Reason> {
        logout(&self.broker).await
    }

    pub(crate) fn logging_out(&self) -> JoinHandle<Result<Revocation, Reason>> {
        let broker = self.broker.clone();
        tokio::spawn(async move { logout(&broker).await })
    }

    pub(crate) async fn save(&self, access: &str) -> Result<(), Reason> {
        save(&self.broker, access).await
    }

    /// What the store holds, past every fault.
    pub(crate) async fn stored(&self) -> Option<Arc<StoredTokens>> {
        self.store.peek(&entry("")).await
    }

    pub(crate) async fn stored_refresh_token(&self) -> Option<String> {
        let stored = self.stored().await?;
        let token = stored.tokens.refresh_token.as_ref()?;
        Some(token.expose_secret().to_owned())
    }

    pub(crate) async fn revision(&self) -> Revision {
        self.stored().await.unwrap().revision.clone()
    }

    pub(crate) async fn marked(&self) -> bool {
        self.stored().await.unwrap().intent.is_some()
    }

    /// Looks at what the provider forbids; to be called at the end of a test whose provider panics.
    pub(crate) fn check(&self) {
        let violations = self.authority.violations();
        assert!(violations.is_empty(), "{violations:?}");
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // A runtime that ends cuts off what is under way; that is the test's doing.
        if !std::thread::panicking() {
            self.check();
        }
    }
}

fn providers(all: &[(&str, &Arc<Authority>)]) -> BTreeMap<Name, Arc<dyn Provider>> {
    all.iter()
        .map(|(name, authority)| (name.parse().unwrap(), Arc::clone(authority) as Arc<dyn Provider>))
        .collect()
}

pub(crate) fn broker(store: &fake::Store, clock: &Arc<PausedClock>, all: &[(&str, &Arc<Authority>)]) -> Broker {
    broker_that(Renewals::OnUse, store, clock, all)
}

fn broker_that(
    renewals: Renewals,
    store: &fake::Store,
    clock: &Arc<PausedClock>,
    all: &[(&str, &Arc<Authority>)],
) -> Broker {
    Broker::new(Parts {
        tokens: Arc::new(store.clone()),
        keys: Arc::new(store.clone()),
        clock: Arc::clone(clock) as _,
        providers: providers(all),
        renewals,
        logins: LoginParts::default(),
    })
}

pub(crate) async fn import(broker: &Broker, key: EntryKey, tokens: TokenSet) -> Result<(), Reason> {
    broker
        .import(&key, tokens)
        .await
        .map(drop)
        .map_err(|error| error.reason())
}

pub(crate) async fn get(broker: &Broker, bucket: &str) -> Got {
    get_valid_for(broker, bucket, 0).await
}

pub(crate) async fn get_valid_for(broker: &Broker, bucket: &str, min_validity: u64) -> Got {
    let min_validity = Duration::from_secs(min_validity);
    let token = broker.token(&Caller::host(), &entry(bucket), min_validity).await;
    told(token.map(|token| token.access_token.expose_secret().to_owned()))
}

pub(crate) fn getting(broker: &Broker, bucket: &str) -> JoinHandle<Got> {
    let (broker, bucket) = (broker.clone(), bucket.to_owned());
    tokio::spawn(async move { get(&broker, &bucket).await })
}

pub(crate) async fn refresh(broker: &Broker, revision: Option<&Revision>) -> Got {
    let token = broker.refresh_token(&Caller::host(), &entry(""), revision).await;
    told(token.map(|token| token.access_token.expose_secret().to_owned()))
}

pub(crate) async fn logout(broker: &Broker) -> Result<Revocation, Reason> {
    let removed = broker.remove_token(&Caller::host(), &entry("")).await;
    removed.map_err(|error| error.reason())
}

pub(crate) async fn save(broker: &Broker, access: &str) -> Result<(), Reason> {
    let saved = SavedToken {
        access_token: access.into(),
        expires_in: Some(Duration::from_secs(1000)),
        expire_time: None,
        token_type: String::new(),
        scope: String::new(),
    };
    let saved = broker.save_token(&Caller::host(), &entry(""), saved).await;
    saved.map_err(|error| error.reason())
}

fn told(result: Result<String, Error>) -> Got {
    result.map_err(|error| {
        let rounded = |delay: Duration| (delay + Duration::from_millis(500)).as_secs();
        (error.reason(), error.retry_after().map(rounded))
    })
}

pub(crate) fn unavailable(seconds: u64) -> Got {
    Err((Reason::ProviderUnavailable, Some(seconds)))
}

pub(crate) fn failed(reason: Reason) -> Got {
    Err((reason, None))
}

pub(crate) fn token(access: &str) -> Got {
    Ok(access.to_owned())
}

/// Lets so many seconds pass.
pub(crate) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Lets everything happen that can happen without time passing.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// What came of it, and after how many seconds.
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> (T, u64) {
    let began = Instant::now();
    let got = future.await;
    (got, (began.elapsed() + Duration::from_millis(500)).as_secs())
}

/// What came of a task, and after how many seconds.
pub(crate) async fn ended<T>(task: JoinHandle<T>) -> (T, u64) {
    let (got, seconds) = timed(task).await;
    (got.unwrap(), seconds)
}
