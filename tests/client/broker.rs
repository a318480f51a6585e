//! A host with a store, and a broker on it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use credbroker::{
    broker::policy::Policy,
    client::{EntryKey, ProxyTokenStore, entry, name},
    clock::{Clock as _, SystemClock},
    config::{Config, Environment},
    credential::{Expiry, TokenSet},
    daemon::{self, Options, Running, SocketChoice},
    server::admission::Admission,
};
use secrecy::SecretString;
use tempfile::TempDir;

/// A home directory with its store.
pub(crate) struct Host {
    path: PathBuf,
    /// Removed with the one who made it.
    _dir: Option<TempDir>,
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = TempDir::with_prefix("cb").unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        Self {
            path: dir.path().to_owned(),
            _dir: Some(dir),
        }
    }

    /// One that another process made.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _dir: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What a process of this user has in its environment.
    pub(crate) fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        let path = self.path();
        vec![
            ("HOME", path.to_owned()),
            ("XDG_RUNTIME_DIR", path.join("run")),
            ("XDG_CONFIG_HOME", path.join("config")),
            ("XDG_DATA_HOME", path.join("data")),
            ("XDG_STATE_HOME", path.join("state")),
        ]
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("data/credbroker")
    }

    fn environment(&self) -> Environment {
        self.variables().into_iter().collect()
    }

    fn local(&self) -> credbroker::broker::Broker {
        daemon::local(
            &Config::load(None, &self.environment()).unwrap(),
            &self.environment(),
            false,
            credbroker::broker::Renewals::OnUse,
        )
        .unwrap()
    }

    /// Stores an entry. Its access token is `{key}-token`.
    pub(crate) async fn import(&self, key: &EntryKey, lifetime: Duration) {
        self.local().import(key, tokens(key, lifetime)).await.unwrap();
    }

    /// The same with a refresh token.
    pub(crate) async fn import_renewable(&self, key: &EntryKey, lifetime: Duration) {
        let renewable = TokenSet {
            refresh_token: Some(SecretString::from("r")),
            ..tokens(key, lifetime)
        };
        self.local().import(key, renewable).await.unwrap();
    }

    /// Writes the host's `config.toml`.
    pub(crate) fn configure(&self, toml: &str) {
        let config = self.path().join("config/credbroker");
        std::fs::create_dir_all(&config).unwrap();
        std::fs::write(config.join("config.toml"), toml).unwrap();
    }

    pub(crate) async fn set_key(&self, key: &str, text: &str) {
        let broker = self.local();
        broker
            .set_api_key(&name(key).unwrap(), SecretString::from(text))
            .await
            .unwrap();
    }

    /// The access token that is stored now.
    pub(crate) async fn stored(&self, key: &EntryKey) -> Option<String> {
        use credbroker::{broker::Caller, client::ExposeSecret as _};
        let token = self.local().token(&Caller::host(), key, Duration::ZERO).await;
        token.ok().map(|token| token.access_token.expose_secret().to_owned())
    }

    /// A broker in this process.
    pub(crate) fn start(&self, policy: Policy) -> Running {
        self.start_as(Admission::Open(Arc::new(policy)))
    }

    pub(crate) fn start_as(&self, admission: Admission) -> Running {
        let environment = self.environment();
        let options = Options {
            socket: SocketChoice::At(self.socket(), 0o600),
            admission,
            peers: credbroker::server::peer::AllowedPeers::own_and(&[]),
            ephemeral: false,
            notices: credbroker::broker::login::to_the_log(),
            metrics: None,
            process: daemon::Process::default(),
        };
        daemon::start(&Config::load(None, &environment).unwrap(), &environment, options).unwrap()
    }

    /// Where [`Host::start`] listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("sock")
    }

    pub(crate) fn client(&self) -> ProxyTokenStore {
        ProxyTokenStore::new(self.socket(), None).unwrap()
    }
}

pub(crate) fn tokens(key: &EntryKey, lifetime: Duration) -> TokenSet {
    TokenSet {
        access_token: SecretString::from(format!("{key}-token")),
        refresh_token: None,
        expiry: Some(Expiry::from_lifetime(lifetime, &SystemClock::new().now())),
        token_type: "Bearer".to_owned(),
        scope: "read".to_owned(),
        subject: None,
        extra: BTreeMap::from([("team".to_owned(), "red".to_owned())]),
        saved_by: "import".to_owned(),
    }
}

pub(crate) fn github() -> EntryKey {
    entry("github", "").unwrap()
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
