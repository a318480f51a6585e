//! A broker over a store in memory. What a sandbox must never see is marked, and so is whose it is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use credbroker::{
    broker::{Broker, Caller, Parts, Renewals, caller::Subject, journal::Journal, login::LoginParts, policy::Policy},
    clock::Clock as _,
    credential::{EntryKey, Expiry, TokenAnswer, TokenSet},
    oauth::{
        Flow, LoginProvider, Outcome, Provider, Revoked, Seen, TokenKind,
        login::{Authorization, DeviceAuthorization, DevicePoll, Listening, LoginTrouble},
    },
    store::{OverCorrupt, TokenStore as _, memory::MemoryStore},
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::PausedClock;

/// In every long-lived secret: refresh tokens, verifiers, device codes.
pub const NEVER: &str = "canary-never";
/// In every access token and API key that the policies of sandboxes leave out.
pub const FORBIDDEN: &str = "canary-forbidden";
/// In every secret at all.
pub const SECRET: &str = "canary-";

pub struct House {
    pub broker: Broker,
    pub store: MemoryStore,
    pub clock: Arc<PausedClock>,
}

impl House {
    /// Entries that are good, expired, dead, lost at the provider and without a refresh token; two API keys.
    pub async fn new(renewals: Renewals) -> Self {
        let (store, clock) = (MemoryStore::new(), PausedClock::start());
        let provider: Arc<dyn Provider> = Arc::new(Server::default());
        let login: Arc<dyn LoginProvider> = Arc::new(Server::default());
        let names = ["p", "q"].map(|name| name.parse().unwrap());
        let house = Self {
            broker: Broker::new(Parts {
                tokens: Arc::new(store.clone()),
                keys: Arc::new(store.clone()),
                clock: Arc::clone(&clock) as _,
                providers: names.clone().map(|name| (name, Arc::clone(&provider))).into(),
                renewals,
                logins: LoginParts {
                    providers: names.map(|name| (name, Arc::clone(&login))).into(),
                    notices: Arc::new(|_notice| {}),
                    ..LoginParts::default()
                },
            }),
            store,
            clock,
        };
        for (entry, lifetime, refreshable) in [
            ("p/default", 3600, true),
            ("p/expired", 0, true),
            ("p/dead", 0, true),
            ("p/lost", 0, true),
            ("p/plain", 3600, false),
            ("p/spent", 0, false),
            ("q/default", 3600, true),
        ] {
            house.put(entry, lifetime, refreshable, "1").await;
        }
        house.put_key("k", "1").await;
        house.put_key("f", "1").await;
        house
    }

    pub async fn put(&self, entry: &str, lifetime: u64, refreshable: bool, version: &str) {
        let (provider, bucket) = entry.split_once('/').unwrap();
        let key = EntryKey::parse(provider, bucket).unwrap();
        let refresh_token = refreshable.then(|| format!("{NEVER} {entry} rt"));
        let tokens = TokenSet {
            access_token: access_token(entry, version).into(),
            refresh_token: refresh_token.clone().map(SecretString::from),
            expiry: Some(Expiry::from_lifetime(Duration::from_secs(lifetime), &self.clock.now())),
            token_type: "Bearer".to_owned(),
            scope: "repo".to_owned(),
            subject: Some("alice".to_owned()),
            // What a careless configuration would take over from an answer.
            extra: refresh_token
                .map(|copy| ("copy".to_owned(), copy))
                .into_iter()
                .collect(),
            saved_by: "import".to_owned(),
        };
        let mut guard = self.store.lock(&key, Duration::from_secs(10)).await.unwrap();
        guard.write(tokens, OverCorrupt::Replace).await.unwrap();
    }

    pub async fn put_key(&self, name: &str, version: &str) {
        let key = api_key(name, version).into();
        self.broker.set_api_key(&name.parse().unwrap(), key).await.unwrap();
    }
}

/// What stands for the access token of an entry.
pub fn access_token(entry: &str, version: &str) -> String {
    if entry.starts_with("q/") {
        format!("{FORBIDDEN} {entry} {version}")
    } else {
        format!("{SECRET}at {entry} {version}")
    }
}

/// The same for an API key.
pub fn api_key(name: &str, version: &str) -> String {
    let mark = if name == "f" { FORBIDDEN } else { "canary-key" };
    format!("{mark} {name} {version}")
}

/// Most often a sandbox with some rights, else one with none, or the host.
pub fn caller(which: u8) -> Caller {
    let policy = match which % 8 {
        6 => Policy::default(),
        7 => return Caller::host(),
        _ => Policy {
            read: vec!["p/*".parse().unwrap()],
            keys: vec!["k".parse().unwrap()],
            login: vec!["p/*".parse().unwrap()],
            save: vec!["p/plain".parse().unwrap(), "p/new".parse().unwrap()],
            remove: vec!["p/*".parse().unwrap()],
        },
    };
    Caller {
        principal: "a-sandbox".into(),
        policy: Arc::new(policy),
        at_host: false,
        subject: Subject::default(),
        journal: Journal::default(),
    }
}

/// An authorization server that answers by what it is shown, each time with another token.
#[derive(Default)]
struct Server(AtomicU64);

impl Server {
    fn answer(&self, entry: &str) -> Box<TokenAnswer> {
        let version = format!("new{}", self.0.fetch_add(1, Ordering::Relaxed));
        Box::new(TokenAnswer {
            access_token: Some(access_token(entry, &version).into()),
            refresh_token: Some(format!("{NEVER} {entry} rt").into()),
            lifetime: Some(Duration::from_secs(3600)),
            token_type: None,
            scope: None,
            subject: Some("alice".to_owned()),
            extra: BTreeMap::new(),
        })
    }
}

#[async_trait]
impl Provider for Server {
    async fn refresh(&self, refresh_token: &SecretString) -> Outcome {
        let entry = refresh_token.expose_secret().split(' ').nth(1).unwrap_or_default();
        match entry {
            "p/dead" => Outcome::Refused(Seen("HTTP 400, error invalid_grant".to_owned())),
            "p/lost" => Outcome::Ambiguous(Seen("HTTP 500".to_owned())),
            _ => Outcome::Answered(self.answer(entry)),
        }
    }

    async fn revoke(&self, _token: &SecretString, _kind: TokenKind) -> Revoked {
        Revoked::Done
    }

    fn default_lifetime(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn may_repeat_ambiguous(&self) -> bool {
        false
    }
}

fn authorization() -> Authorization {
    Authorization {
        url: "https://p.example/authorize?state=s7Qe".to_owned(),
        redirect_uri: "https://p.example/code".to_owned(),
        state: "s7Qe".into(),
        verifier: format!("{NEVER} verifier").into(),
        state_required: false,
        issuer: None,
        issuer_required: false,
    }
}

#[async_trait]
impl LoginProvider for Server {
    async fn flows(&self) -> Result<Vec<Flow>, LoginTrouble> {
        Ok(vec![Flow::DeviceCode, Flow::PkceRedirect, Flow::BrowserRedirect])
    }

    async fn authorize(&self) -> Result<Authorization, LoginTrouble> {
        Ok(authorization())
    }

    async fn authorize_loopback(&self) -> Result<(Authorization, Box<dyn Listening>), LoginTrouble> {
        Ok((authorization(), Box::new(Ear)))
    }

    async fn exchange(&self, _: &Authorization, code: &SecretString) -> Result<Box<TokenAnswer>, LoginTrouble> {
        match code.expose_secret() {
            "good" => Ok(self.answer("p/new")),
            "no" => Err(LoginTrouble::Denied),
            _ => Err(LoginTrouble::Refused(Seen("HTTP 400, error invalid_grant".to_owned()))),
        }
    }

    async fn authorize_device(&self) -> Result<DeviceAuthorization, LoginTrouble> {
        Ok(DeviceAuthorization {
            verification_url: "https://p.example/device".to_owned(),
            verification_url_complete: None,
            user_code: "WDJB-MJHT".to_owned(),
            interval: Duration::from_secs(5),
            lifetime: Some(Duration::from_secs(600)),
            device_code: format!("{NEVER} device code").into(),
            verifier: None,
        })
    }

    async fn poll_device(&self, _device: &DeviceAuthorization) -> DevicePoll {
        DevicePoll::Answered(self.answer("p/new"))
    }
}

struct Ear;

#[async_trait]
impl Listening for Ear {
    async fn code(self: Box<Self>, _: &Authorization) -> Result<SecretString, LoginTrouble> {
        tokio::time::sleep(Duration::from_secs(20)).await;
        Ok("good".into())
    }
}
