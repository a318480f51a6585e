//! A broker on a socket, with clocks and a provider that a test commands, and somebody who talks to it as an Envoy does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use credbroker::{
    broker::{Broker, Caller, Parts, Renewals, login::LoginParts, policy::Policy},
    clock::Clock as _,
    credential::{EntryKey, Expiry, TokenSet},
    oauth::Provider,
    proto::envoy::{
        DiscoveryRequest, DiscoveryResponse, Node, RpcStatus, Secret, Specifier, secret,
        secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
    server::admission::Admission,
};
use prost::Message as _;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    clock::PausedClock,
    provider::FakeProvider,
    support::{Bench, channel, fake, key, name},
};

pub(crate) const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Time enough for whatever would come by itself. Nobody sleeps: time is paused.
const QUIET: Duration = Duration::from_secs(3);

/// Waits for what has to come at some time. It costs none: when nothing else is to be done, time jumps.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(secs(100_000), future).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("{what}: did not come"),
    }
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) struct House {
    pub(crate) store: fake::Store,
    pub(crate) clock: PausedClock,
    /// The provider `p`, whose tokens are good for an hour.
    pub(crate) provider: Arc<FakeProvider>,
    pub(crate) bench: Bench,
}

impl House {
    /// Whoever connects may read the entries of `p` and the API keys `k` and `absent`.
    pub(crate) fn new() -> Self {
        Self::with(Admission::Open(Arc::new(policy())))
    }

    pub(crate) fn with(admission: Admission) -> Self {
        let (store, clock) = (fake::Store::new(), PausedClock::new());
        let provider = FakeProvider::new(secs(3600));
        let renewals = Renewals::Ahead(Arc::new(|| 0.0));
        let bench = Bench::around(broker(&store, &clock, &provider, renewals), admission);
        Self {
            store,
            clock,
            provider,
            bench,
        }
    }

    /// Another broker over the same store, as another process would be: the command line, which renews nothing ahead.
    pub(crate) fn another(&self) -> Broker {
        broker(&self.store, &self.clock, &self.provider, Renewals::OnUse)
    }

    /// Stores a token of `p` that has expired and can be renewed.
    pub(crate) async fn import_expired(&self, bucket: &str) {
        let key = key("p", bucket);
        self.import_to(&self.another(), &key, "at-old", "p#0", 1).await;
        tokio::time::sleep(secs(2)).await;
    }

    /// Stores a token of `p`; empty `refresh`: it cannot be renewed.
    pub(crate) async fn import(&self, bucket: &str, access: &str, refresh: &str, lifetime: u64) {
        self.import_to(&self.bench.broker, &key("p", bucket), access, refresh, lifetime)
            .await;
    }

    pub(crate) async fn import_to(&self, broker: &Broker, key: &EntryKey, access: &str, refresh: &str, lifetime: u64) {
        let tokens = TokenSet {
            access_token: access.into(),
            refresh_token: (!refresh.is_empty()).then(|| refresh.into()),
            expiry: Some(Expiry::from_lifetime(secs(lifetime), &self.clock.now())),
            token_type: "Bearer".into(),
            scope: String::new(),
            subject: None,
            extra: BTreeMap::new(),
            saved_by: "import".into(),
        };
        broker.import(key, tokens).await.unwrap();
    }

    pub(crate) async fn remove(&self, bucket: &str) {
        let host = Caller::host();
        self.bench.broker.remove_token(&host, &key("p", bucket)).await.unwrap();
    }

    pub(crate) async fn set_key(&self, key: &str, secret: &str) {
        self.bench.broker.set_api_key(&name(key), secret.into()).await.unwrap();
    }

    pub(crate) async fn client(&self) -> Client {
        Client::new(channel(&self.bench.socket()).await)
    }

    /// A stream that begins by asking for these.
    pub(crate) async fn talk(&self, names: &[&str]) -> Talk {
        Talk::begin(self.client().await, wanting(names)).await.unwrap()
    }

    /// What FetchSecrets answers.
    pub(crate) async fn fetch(&self, names: &[&str]) -> Told {
        let answer = self.client().await.fetch_secrets(wanting(names)).await;
        Told::of(&answer.unwrap().into_inner())
    }
}

pub(crate) type Client = SecretDiscoveryServiceClient<Channel>;

pub(crate) fn policy() -> Policy {
    Policy {
        read: vec!["p/*".parse().unwrap()],
        keys: vec!["k".parse().unwrap(), "absent".parse().unwrap()],
        ..Policy::default()
    }
}

fn broker(store: &fake::Store, clock: &PausedClock, provider: &Arc<FakeProvider>, renewals: Renewals) -> Broker {
    let provider: Arc<dyn Provider> = Arc::<FakeProvider>::clone(provider);
    Broker::new(Parts {
        tokens: Arc::new(store.clone()),
        keys: Arc::new(store.clone()),
        clock: Arc::new(clock.clone()),
        providers: BTreeMap::from([(name("p"), provider)]),
        renewals,
        logins: LoginParts::default(),
    })
}

/// A first request.
pub(crate) fn wanting(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: TYPE_URL.to_owned(),
        node: Some(Node {
            id: "an envoy".into(),
            cluster: "of a test".into(),
        }),
        ..DiscoveryRequest::default()
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) secrets: BTreeMap<String, String>,
}

impl Told {
    fn of(answer: &DiscoveryResponse) -> Self {
        assert_eq!(answer.type_url, TYPE_URL);
        assert!(!answer.version_info.is_empty());
        let secrets = answer.resources.iter().map(|any| {
            assert_eq!(any.type_url, TYPE_URL);
            let secret = Secret::decode(any.value.as_slice()).unwrap();
            let Some(secret::Type::GenericSecret(generic)) = secret.r#type else {
                panic!("no generic secret")
            };
            let Some(Specifier::InlineString(value)) = generic.secret.unwrap().specifier else {
                panic!("no string")
            };
            (secret.name, value)
        });
        Self {
            version: answer.version_info.clone(),
            nonce: answer.nonce.clone(),
            secrets: secrets.collect(),
        }
    }

    /// The value of the one secret in it, which has this name.
    pub(crate) fn only(&self, name: &str) -> &str {
        assert_eq!(self.secrets.len(), 1, "{:?}", self.secrets);
        &self.secrets[name]
    }
}

/// One StreamSecrets.
pub(crate) struct Talk {
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
    names: Vec<String>,
    /// Of the last answer.
    version: String,
    nonce: String,
}

impl Talk {
    pub(crate) async fn begin(mut client: Client, first: DiscoveryRequest) -> Result<Self, Status> {
        let (requests, sent) = mpsc::unbounded_channel();
        let names = first.resource_names.clone();
        requests.send(first).unwrap();
        let answers = soon("the stream", client.stream_secrets(UnboundedReceiverStream::new(sent))).await?;
        Ok(Self {
            requests,
            answers: answers.into_inner(),
            names,
            version: String::new(),
            nonce: String::new(),
        })
    }

    /// The next answer, which is accepted.
    pub(crate) async fn told(&mut self) -> Told {
        let told = self.hear().await;
        self.accept();
        told
    }

    /// The next answers until these secrets have come, each in one of them; all are accepted.
    pub(crate) async fn all(&mut self, names: &[&str]) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        while !names.iter().all(|name| all.contains_key(*name)) {
            all.extend(self.told().await.secrets);
        }
        all
    }

    /// The next answer, to which nothing is said.
    pub(crate) async fn hear(&mut self) -> Told {
        let answer = soon("an answer", self.answers.message()).await.unwrap().unwrap();
        let told = Told::of(&answer);
        assert_ne!(told.nonce, self.nonce, "each answer has a nonce of its own");
        self.version.clone_from(&told.version);
        self.nonce.clone_from(&told.nonce);
        told
    }

    pub(crate) fn accept(&self) {
        self.say(DiscoveryRequest {
            version_info: self.version.clone(),
            ..self.request()
        });
    }

    pub(crate) fn refuse(&self, why: &str) {
        self.say(DiscoveryRequest {
            error_detail: Some(RpcStatus {
                code: 13,
                message: why.to_owned(),
                details: Vec::new(),
            }),
            ..self.request()
        });
    }

    /// Asks for other names from now on.
    pub(crate) fn want(&mut self, names: &[&str]) {
        self.names = names.iter().map(|name| (*name).to_owned()).collect();
        self.accept();
    }

    /// A request about the last answer; only the first of a stream has a node.
    pub(crate) fn request(&self) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: self.names.clone(),
            type_url: TYPE_URL.to_owned(),
            response_nonce: self.nonce.clone(),
            ..DiscoveryRequest::default()
        }
    }

    pub(crate) fn say(&self, request: DiscoveryRequest) {
        self.requests.send(request).unwrap();
    }

    /// Nothing comes by itself.
    pub(crate) async fn is_quiet(&mut self) {
        let came = timeout(QUIET, self.answers.message()).await;
        assert!(came.is_err(), "{came:?}");
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        loop {
            match soon("the end", self.answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(status) => return Err(status),
            }
        }
    }
}
