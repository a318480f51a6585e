//! A broker on a real socket, and the two kinds of client that tests ask it with: a stock stub, and one that sends and
//! sees raw bytes.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "every test binary uses its own part of this, and a helper that cannot go on fails the test"
)]

pub(crate) mod fake;
pub(crate) mod login_fake;
pub(crate) mod wire;

use std::{
    collections::BTreeMap,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use credbroker::{
    broker::{
        Broker, Parts, Renewals,
        audit::{Audit, AuditWriter, Settings},
        login::LoginParts,
        policy::Policy,
    },
    clock::{Clock, SystemClock},
    config::{Config, Environment},
    credential::{AnswerRules, EntryKey, Name, parse_answer},
    daemon::{self, Options, Running, SocketChoice},
    oauth::{Outcome, Provider},
    proto::{
        control_broker_client::ControlBrokerClient, credential_broker_client::CredentialBrokerClient,
        credential_broker_server::CredentialBrokerServer,
    },
    server::{
        Layers, Routes, Served,
        admission::{Admission, Sandbox},
        peer::AllowedPeers,
        serve,
    },
    service::{CredentialService, health::HealthService, status::MAX_MESSAGE_SIZE},
};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{health_client::HealthClient, health_server::HealthServer};

/// The longest that a test waits for something that has to come.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A user of a host of his own: everything lies in one temporary directory.
pub(crate) struct Host {
    dir: TempDir,
    pub(crate) environment: Environment,
    pub(crate) config: Config,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with_config("")
    }

    /// A host with this `config.toml`.
    pub(crate) fn with_config(config: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let place = |name: &str| dir.path().join(name);
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700).recursive(true);
        private.create(place("run")).unwrap();
        private.create(place("config/credbroker")).unwrap();
        std::fs::write(place("config/credbroker/config.toml"), config).unwrap();
        let environment: Environment = [
            ("HOME", dir.path().to_owned()),
            ("TMPDIR", place("tmp")),
            ("XDG_RUNTIME_DIR", place("run")),
            ("XDG_DATA_HOME", place("data")),
            ("XDG_STATE_HOME", place("state")),
            ("XDG_CONFIG_HOME", place("config")),
        ]
        .into_iter()
        .collect();
        let config = Config::load(None, &environment).unwrap();
        Self {
            dir,
            environment,
            config,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("data/credbroker")
    }

    /// The file of an entry.
    pub(crate) fn entry_file(&self, provider: &str, bucket: &str) -> PathBuf {
        self.store()
            .join(format!("tokens/{}/{}.age", hex(provider), hex(bucket)))
    }

    pub(crate) fn lock_file(&self, provider: &str, bucket: &str) -> PathBuf {
        self.store()
            .join(format!("locks/{}/{}.lock", hex(provider), hex(bucket)))
    }

    /// What the command line on the host works with.
    pub(crate) fn local(&self) -> Broker {
        daemon::local(&self.config, &self.environment, false, Renewals::OnUse).unwrap()
    }

    /// Stores a token answer (RFC 6749 section 5.1), as `token import` does.
    pub(crate) async fn import(&self, provider: &str, bucket: &str, answer: &str) {
        import(&self.local(), provider, bucket, answer).await;
    }

    pub(crate) async fn set_key(&self, key: &str, secret: &str) {
        self.local().set_api_key(&name(key), secret.into()).await.unwrap();
    }

    /// A broker whose socket lets everybody of the own uid do what the policy allows.
    pub(crate) fn start(&self, policy: Policy) -> Running {
        self.start_with(Admission::Open(Arc::new(policy)))
    }

    pub(crate) fn start_with(&self, admission: Admission) -> Running {
        self.start_at(SocketChoice::Own, admission, &[])
    }

    pub(crate) fn start_at(&self, socket: SocketChoice, admission: Admission, allowed_uids: &[u32]) -> Running {
        let options = Options {
            socket,
            admission,
            peers: AllowedPeers::own_and(allowed_uids),
            ephemeral: false,
            notices: credbroker::broker::login::to_the_log(),
            metrics: None,
            process: daemon::Process::default(),
        };
        daemon::start(&self.config, &self.environment, options).unwrap()
    }

    /// The lines of all audit files so far.
    pub(crate) fn audit(&self) -> Vec<serde_json::Value> {
        self.audit_files().iter().flat_map(|file| json_lines(file)).collect()
    }

    pub(crate) fn audit_files(&self) -> Vec<PathBuf> {
        match std::fs::read_dir(self.dir.path().join("state/credbroker/audit")) {
            Ok(files) => files.map(|file| file.unwrap().path()).collect(),
            Err(_none_yet) => Vec::new(),
        }
    }
}

/// The records of an audit file, without its first and last line.
fn json_lines(file: &Path) -> Vec<serde_json::Value> {
    records(&std::fs::read_to_string(file).unwrap())
}

fn records(text: &str) -> Vec<serde_json::Value> {
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line.get("event").is_none()).collect()
}

fn hex(name: &str) -> String {
    data_encoding::HEXLOWER.encode(name.as_bytes())
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn key(provider: &str, bucket: &str) -> EntryKey {
    EntryKey::parse(provider, bucket).unwrap()
}

/// Stores a token answer of which `extra` fields are kept.
pub(crate) async fn import(broker: &Broker, provider: &str, bucket: &str, answer: &str) {
    let rules = AnswerRules {
        extra_fields: vec!["extra".into(), "echo".into()],
        ..AnswerRules::default()
    };
    let tokens = parse_answer(answer.as_bytes(), &rules, "import", &SystemClock::new().now()).unwrap();
    broker.import(&key(provider, bucket), tokens).await.unwrap();
}

/// A policy that may read these entries.
pub(crate) fn reading(entries: &[&str]) -> Policy {
    Policy {
        read: entries.iter().map(|entry| entry.parse().unwrap()).collect(),
        ..Policy::default()
    }
}

/// One sandbox named `box` with this capability.
pub(crate) fn with_capability(capability: [u8; 32], policy: Policy) -> Admission {
    Admission::Capability(vec![Sandbox {
        name: "box".into(),
        capability_sha256: Sha256::digest(capability).into(),
        policy: Arc::new(policy),
    }])
}

pub(crate) fn bearer(capability: [u8; 32]) -> String {
    format!("Bearer {}", data_encoding::HEXLOWER.encode(&capability))
}

/// The control socket beside a broker's own sandbox socket.
pub(crate) fn control_socket(running: &Running) -> PathBuf {
    running.socket().ancestors().nth(2).unwrap().join("control.sock")
}

/// A stock tonic channel over a Unix socket.
pub(crate) async fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .unwrap()
}

pub(crate) async fn stub(socket: &Path) -> CredentialBrokerClient<Channel> {
    CredentialBrokerClient::new(channel(socket).await)
}

pub(crate) async fn control_stub(socket: &Path) -> ControlBrokerClient<Channel> {
    ControlBrokerClient::new(channel(socket).await)
}

pub(crate) async fn health_stub(socket: &Path) -> HealthClient<Channel> {
    HealthClient::new(channel(socket).await)
}

/// Asks again and again, until the answer is what has to come in the end.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(SOON, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: did not come true");
}

/// Waits for what has to come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("{what}: did not come"),
    }
}

/// A broker over a store of the test's own, behind the real layers on a real socket.
pub(crate) struct Bench {
    dir: TempDir,
    pub(crate) broker: Broker,
    audit: AuditWriter,
    bound: Bound,
}

impl Bench {
    pub(crate) fn start(store: &fake::Store, policy: Policy) -> Self {
        Self::with_providers(store, policy, BTreeMap::new())
    }

    /// One whose provider `p` answers every refresh this way.
    pub(crate) fn answering(store: &fake::Store, policy: Policy, answer: fn() -> Outcome) -> Self {
        let provider: Arc<dyn Provider> = Arc::new(fake::Provider(answer));
        Self::with_providers(store, policy, BTreeMap::from([(name("p"), provider)]))
    }

    fn with_providers(store: &fake::Store, policy: Policy, providers: BTreeMap<Name, Arc<dyn Provider>>) -> Self {
        Self::with(store, policy, providers, LoginParts::default())
    }

    /// One whose logins are these.
    pub(crate) fn with_logins(store: &fake::Store, policy: Policy, logins: LoginParts) -> Self {
        Self::with(store, policy, BTreeMap::new(), logins)
    }

    fn with(
        store: &fake::Store,
        policy: Policy,
        providers: BTreeMap<Name, Arc<dyn Provider>>,
        logins: LoginParts,
    ) -> Self {
        let broker = Broker::new(Parts {
            tokens: Arc::new(store.clone()),
            keys: Arc::new(store.clone()),
            clock: Arc::new(SystemClock::new()),
            providers,
            renewals: Renewals::OnUse,
            logins,
        });
        Self::around(broker, Admission::Open(Arc::new(policy)))
    }

    /// A socket for this broker.
    pub(crate) fn around(broker: Broker, admission: Admission) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("audit");
        let (audit, writer) = Audit::start(Settings::without_key(), move || {
            Ok(("audit".into(), std::fs::File::create_new(&file)?))
        })
        .unwrap();
        let layers = layers_with(&broker, AllowedPeers::own_and(&[]), admission, Some(audit));
        Self {
            dir,
            broker,
            audit: writer,
            bound: Bound::new(layers),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.bound.socket()
    }

    /// What the audit file holds so far, if there is one.
    pub(crate) fn audit(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join("audit")).unwrap_or_default();
        // What is being written is not there yet.
        records(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }

    /// Stops in order; what the audit file holds then.
    pub(crate) async fn stop(self) -> Vec<serde_json::Value> {
        self.broker.begin_shutdown();
        self.bound.stop().await;
        tokio::task::spawn_blocking(|| self.audit.finish()).await.unwrap();
        json_lines(&self.dir.path().join("audit"))
    }
}

/// These layers on a real socket.
pub(crate) struct Bound {
    dir: TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Bound {
    pub(crate) fn new(layers: Layers) -> Self {
        let dir = TempDir::new().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, layers, Served::default(), async {
            // A dropped sender is a stop as well.
            let _ = stopped.await;
        }));
        Self { dir, stop, serving }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.serving.await.unwrap().unwrap();
    }
}

/// The layers of a sandbox socket that asks for no capability.
pub(crate) fn layers(broker: &Broker, allowed: AllowedPeers, policy: Policy, audit: Option<Audit>) -> Layers {
    layers_with(broker, allowed, Admission::Open(Arc::new(policy)), audit)
}

/// The layers of a sandbox socket, as the daemon builds them.
fn layers_with(broker: &Broker, allowed: AllowedPeers, admission: Admission, audit: Option<Audit>) -> Layers {
    let service = CredentialBrokerServer::new(CredentialService::new(broker.clone()));
    let health = HealthService::new(broker.clone(), "credbroker.v1.CredentialBroker");
    let routes =
        Routes::new(service.max_decoding_message_size(MAX_MESSAGE_SIZE)).add_service(HealthServer::new(health));
    #[cfg(feature = "envoy")]
    let routes = routes.add_service(
        credbroker::proto::envoy::secret_discovery_service_server::SecretDiscoveryServiceServer::new(
            credbroker::service::secret_discovery::SecretService::new(broker.clone()),
        )
        .max_decoding_message_size(credbroker::service::status::MAX_DISCOVERY_SIZE),
    );
    let record = audit.map(|audit| (audit, Arc::new(SystemClock::new()) as Arc<dyn Clock>));
    Layers::new(routes, allowed, admission, record)
}
