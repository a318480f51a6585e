//! A broker that does what it is told, and counts its connections.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use credbroker::proto::{
    self,
    credential_broker_server::{CredentialBroker, CredentialBrokerServer},
};
use futures_util::stream;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    sync::{broadcast, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// What the broker does. The default is a broker of version 1 that has one token for everybody.
#[derive(Clone, Default)]
pub(crate) struct Script {
    /// The version it says that it speaks; 0: it says that there is none in common.
    pub(crate) version: Option<u32>,
    /// How GetToken fails, if it does.
    pub(crate) refusal: Option<Refuse>,
    /// How long GetToken takes.
    pub(crate) slow: Duration,
    /// How long the handshake takes.
    pub(crate) slow_handshake: Duration,
    /// What InitiateLogin answers; without one there is no provider.
    pub(crate) login: Option<proto::InitiateLoginResponse>,
    /// How long InitiateLogin takes.
    pub(crate) slow_login: Duration,
    /// What PollLogin and ExchangeCode answer, one after the other; the last stays.
    pub(crate) standings: Vec<Standing>,
    /// How long ExchangeCode takes.
    pub(crate) slow_exchange: Duration,
    /// CancelLogin says that it is too late.
    pub(crate) too_late: bool,
    /// What every watch is told, one after the other, before what a test tells; without any, a token.
    pub(crate) watch: Vec<Told>,
    /// What WatchToken answers instead, octet by octet, and without a status.
    pub(crate) raw_watch: Option<&'static [u8]>,
}

/// What a watch is told.
#[derive(Clone)]
pub(crate) enum Told {
    /// This access token, good for so long, under a revision of the same name.
    Token(String, Option<Duration>),
    /// Nothing for a while.
    Silence(Duration),
    /// A message without a token.
    NoToken,
    Refused(Refuse),
    /// The end, without a reason.
    End,
}

impl Told {
    /// A token for an hour.
    pub(crate) fn token(text: impl Into<String>) -> Self {
        Self::Token(text.into(), Some(Duration::from_secs(3600)))
    }
}

/// How a login stands.
#[derive(Clone)]
pub(crate) enum Standing {
    Pending,
    /// With a token that may be read, or without.
    Complete(bool),
    /// As PollLogin tells it: a reason.
    Failed(&'static str),
    /// The call fails.
    Refused(Refuse),
}

pub(crate) type Refuse = fn() -> Status;

/// What it has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) accepted: AtomicUsize,
    pub(crate) handshakes: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    pub(crate) headers: std::sync::Mutex<tonic::metadata::MetadataMap>,
    /// The calls of logins, with what they name.
    pub(crate) logins: std::sync::Mutex<Vec<String>>,
    /// Every connection that was accepted.
    connections: std::sync::Mutex<Vec<AbortHandle>>,
    /// How many watches there are now.
    watches: watch::Sender<usize>,
}

impl Seen {
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }
    pub(crate) fn logins(&self) -> Vec<String> {
        self.logins.lock().unwrap().clone()
    }
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

pub(crate) struct Scripted {
    pub(crate) seen: Arc<Seen>,
    /// How many connections are open now.
    open: watch::Receiver<usize>,
    tell: broadcast::Sender<Told>,
    accepting: tokio::task::JoinHandle<()>,
    dir: TempDir,
}

impl Scripted {
    pub(crate) fn start(script: Script) -> Self {
        let dir = TempDir::with_prefix("cb").unwrap();
        let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
        let seen = Arc::new(Seen::default());
        let (count, open) = watch::channel(0);
        let (tell, _) = broadcast::channel(256);
        let fake = Fake {
            script,
            seen: Arc::clone(&seen),
            tell: tell.clone(),
        };
        let accepting = tokio::spawn(accept(listener, fake, count));
        Self {
            seen,
            open,
            tell,
            accepting,
            dir,
        }
    }

    /// Tells all watches.
    pub(crate) fn tell(&self, told: Told) {
        // Nobody watches: nobody is told.
        let _ = self.tell.send(told);
    }

    /// Returns when there are so many watches.
    pub(crate) async fn watched_by(&self, number: usize) {
        let mut watches = self.seen.watches.subscribe();
        let reached = watches.wait_for(|now| *now == number);
        tokio::time::timeout(Duration::from_secs(20), reached)
            .await
            .unwrap()
            .unwrap();
    }

    /// Cuts one connection, by the order in which they were accepted.
    pub(crate) fn hang_up(&self, connection: usize) {
        self.seen.connections.lock().unwrap().get(connection).unwrap().abort();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// Returns when so many connections are open.
    pub(crate) async fn open(&mut self, number: usize) {
        let reached = self.open.wait_for(|open| *open == number);
        tokio::time::timeout(Duration::from_secs(20), reached)
            .await
            .unwrap()
            .unwrap();
    }

    /// When the last connection is closed, however long that takes.
    pub(crate) async fn closed(&mut self) -> tokio::time::Instant {
        self.open.wait_for(|open| *open == 0).await.unwrap();
        tokio::time::Instant::now()
    }

    /// Cuts every connection and accepts no more, as kill -9 would. The socket's file stays.
    pub(crate) fn cut(&self) {
        self.accepting.abort();
    }
}

async fn accept(listener: UnixListener, fake: Fake, open: watch::Sender<usize>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        fake.seen.accepted.fetch_add(1, Ordering::SeqCst);
        let raw = fake.script.raw_watch;
        let broker = CredentialBrokerServer::new(fake.clone());
        let service = TowerToHyperService::new(tower::service_fn(move |request: http::Request<Incoming>| {
            let mut broker = broker.clone();
            async move {
                match raw.filter(|_| request.uri().path().ends_with("/WatchToken")) {
                    Some(octets) => {
                        let mut answer = http::Response::new(tonic::body::Body::new(Full::from(octets)));
                        let grpc = http::HeaderValue::from_static("application/grpc");
                        answer.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
                        Ok(answer)
                    }
                    None => tower::Service::call(&mut broker, request).await,
                }
            }
        }));
        let open = open.clone();
        let connection = connections.spawn(async move {
            open.send_modify(|open| *open += 1);
            let _closed = Closed(&open);
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // How it ends is the client's business.
            let _ = http2.serve_connection(TokioIo::new(stream), service).await;
        });
        fake.seen.connections.lock().unwrap().push(connection);
    }
}

struct Closed<'a>(&'a watch::Sender<usize>);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// A watch, until it is dropped.
struct Watching(Arc<Seen>);

impl Watching {
    fn begin(seen: &Arc<Seen>) -> Self {
        seen.watches.send_modify(|now| *now += 1);
        Self(Arc::clone(seen))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watches.send_modify(|now| *now -= 1);
    }
}

#[derive(Clone)]
struct Fake {
    script: Script,
    seen: Arc<Seen>,
    tell: broadcast::Sender<Told>,
}

impl Fake {
    fn saw(&self, call: String) {
        self.seen.logins.lock().unwrap().push(call);
    }

    /// The next answer of the script, by how many of these calls there were.
    fn standing(&self, call: &str) -> Option<Standing> {
        let asked = self.seen.logins().iter().filter(|seen| seen.starts_with(call)).count();
        let standings = &self.script.standings;
        standings.get(asked - 1).or(standings.last()).cloned()
    }
}

fn token_of(text: &str, lifetime: Option<Duration>) -> proto::WatchTokenResponse {
    proto::WatchTokenResponse {
        token: Some(proto::AccessToken {
            access_token: text.to_owned(),
            revision: text.to_owned(),
            expires_in: lifetime.map(|lifetime| lifetime.try_into().unwrap()),
            // A host, or a client, whose wall clock is wrong by decades.
            expire_time: lifetime.map(|_| prost_types::Timestamp::default()),
            ..proto::AccessToken::default()
        }),
    }
}

fn scripted_token() -> proto::AccessToken {
    proto::AccessToken {
        access_token: "scripted".to_owned(),
        ..proto::AccessToken::default()
    }
}

#[tonic::async_trait]
impl CredentialBroker for Fake {
    async fn get_server_info(
        &self,
        _request: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        self.seen.handshakes.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.script.slow_handshake).await;
        let version = self.script.version.unwrap_or(1);
        if version == 0 {
            let error = credbroker::broker::Error::UnknownVersion { ours: 7 };
            return Err(credbroker::service::status::from_error(&error));
        }
        Ok(Response::new(proto::GetServerInfoResponse {
            version,
            server_version: "scripted".to_owned(),
            features: vec!["one".to_owned()],
        }))
    }

    type WatchTokenStream = Pin<Box<dyn Stream<Item = Result<proto::WatchTokenResponse, Status>> + Send>>;

    /// What the script says (a token, if it says nothing), what the test tells, or whatever GetToken is refused with.
    async fn watch_token(
        &self,
        request: Request<proto::WatchTokenRequest>,
    ) -> Result<Response<Self::WatchTokenStream>, Status> {
        self.seen.calls.fetch_add(1, Ordering::SeqCst);
        *self.seen.headers.lock().unwrap() = request.metadata().clone();
        let told = self.tell.subscribe();
        let mut script = self.script.watch.clone();
        if script.is_empty() {
            script.push(Told::Token("scripted".to_owned(), None));
            script.extend(self.script.refusal.map(Told::Refused));
        }
        // Like a broker's, the answer begins with its first message.
        if let Some(Told::Refused(refuse)) = script.first() {
            return Err(refuse());
        }
        let watching = Watching::begin(&self.seen);
        let stream = stream::unfold((script.into_iter(), told, watching), |mut state| async move {
            loop {
                let told = match state.0.next() {
                    Some(told) => told,
                    None => state.1.recv().await.ok()?,
                };
                let answer = match told {
                    Told::Silence(long) => {
                        tokio::time::sleep(long).await;
                        continue;
                    }
                    Told::Token(text, lifetime) => Ok(token_of(&text, lifetime)),
                    Told::NoToken => Ok(proto::WatchTokenResponse { token: None }),
                    Told::Refused(refuse) => Err(refuse()),
                    Told::End => return None,
                };
                return Some((answer, state));
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_token(
        &self,
        request: Request<proto::GetTokenRequest>,
    ) -> Result<Response<proto::GetTokenResponse>, Status> {
        self.seen.calls.fetch_add(1, Ordering::SeqCst);
        *self.seen.headers.lock().unwrap() = request.metadata().clone();
        tokio::time::sleep(self.script.slow).await;
        if let Some(refusal) = self.script.refusal {
            return Err(refusal());
        }
        let token = proto::AccessToken {
            access_token: "scripted".to_owned(),
            ..proto::AccessToken::default()
        };
        Ok(Response::new(proto::GetTokenResponse { token: Some(token) }))
    }

    async fn save_token(
        &self,
        _request: Request<proto::SaveTokenRequest>,
    ) -> Result<Response<proto::SaveTokenResponse>, Status> {
        Ok(Response::new(proto::SaveTokenResponse {}))
    }

    async fn remove_token(
        &self,
        _request: Request<proto::RemoveTokenRequest>,
    ) -> Result<Response<proto::RemoveTokenResponse>, Status> {
        let revocation = proto::Revocation::Pending.into();
        Ok(Response::new(proto::RemoveTokenResponse { revocation }))
    }

    async fn refresh_token(
        &self,
        request: Request<proto::RefreshTokenRequest>,
    ) -> Result<Response<proto::RefreshTokenResponse>, Status> {
        // An answer without a token, unless a revision came along.
        let revision = request.into_inner().revision;
        let token = proto::AccessToken {
            access_token: revision.clone(),
            revision,
            ..proto::AccessToken::default()
        };
        let token = Some(token).filter(|token| !token.access_token.is_empty());
        Ok(Response::new(proto::RefreshTokenResponse { token }))
    }

    async fn list_providers(
        &self,
        _request: Request<proto::ListProvidersRequest>,
    ) -> Result<Response<proto::ListProvidersResponse>, Status> {
        // A list that would never end.
        Ok(Response::new(proto::ListProvidersResponse {
            providers: vec!["again".to_owned()],
            next_page_token: "again".to_owned(),
        }))
    }

    async fn list_buckets(
        &self,
        _request: Request<proto::ListBucketsRequest>,
    ) -> Result<Response<proto::ListBucketsResponse>, Status> {
        Ok(Response::new(proto::ListBucketsResponse {
            buckets: vec!["../escape".to_owned()],
            next_page_token: String::new(),
        }))
    }

    async fn get_bucket_stats(
        &self,
        _request: Request<proto::GetBucketStatsRequest>,
    ) -> Result<Response<proto::GetBucketStatsResponse>, Status> {
        Ok(Response::new(proto::GetBucketStatsResponse::default()))
    }

    async fn get_api_key(
        &self,
        _request: Request<proto::GetApiKeyRequest>,
    ) -> Result<Response<proto::GetApiKeyResponse>, Status> {
        Err(Status::unavailable("a proxy in between"))
    }

    async fn list_api_keys(
        &self,
        _request: Request<proto::ListApiKeysRequest>,
    ) -> Result<Response<proto::ListApiKeysResponse>, Status> {
        Ok(Response::new(proto::ListApiKeysResponse::default()))
    }

    async fn initiate_login(
        &self,
        request: Request<proto::InitiateLoginRequest>,
    ) -> Result<Response<proto::InitiateLoginResponse>, Status> {
        let request = request.into_inner();
        self.saw(format!(
            "initiate {}/{} {}",
            request.provider, request.bucket, request.flow
        ));
        tokio::time::sleep(self.script.slow_login).await;
        match &self.script.login {
            Some(login) => Ok(Response::new(login.clone())),
            None => {
                let key = credbroker::client::entry(&request.provider, &request.bucket).unwrap();
                let error = credbroker::broker::Error::ProviderNotFound(key);
                Err(credbroker::service::status::from_error(&error))
            }
        }
    }

    async fn exchange_code(
        &self,
        request: Request<proto::ExchangeCodeRequest>,
    ) -> Result<Response<proto::ExchangeCodeResponse>, Status> {
        let request = request.into_inner();
        self.saw(format!("exchange {} {}", request.session_id, request.code));
        tokio::time::sleep(self.script.slow_exchange).await;
        match self.standing("exchange") {
            Some(Standing::Refused(refuse)) => Err(refuse()),
            Some(Standing::Complete(false)) => Ok(Response::new(proto::ExchangeCodeResponse::default())),
            _ => Ok(Response::new(proto::ExchangeCodeResponse {
                token: Some(scripted_token()),
            })),
        }
    }

    async fn poll_login(
        &self,
        request: Request<proto::PollLoginRequest>,
    ) -> Result<Response<proto::PollLoginResponse>, Status> {
        self.saw(format!("poll {}", request.into_inner().session_id));
        let mut answer = proto::PollLoginResponse::default();
        match self.standing("poll").unwrap() {
            Standing::Refused(refuse) => return Err(refuse()),
            Standing::Pending => {
                answer.set_status(proto::LoginStatus::Pending);
                answer.poll_interval = Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 1_000_000,
                });
            }
            Standing::Complete(readable) => {
                answer.set_status(proto::LoginStatus::Complete);
                answer.token = readable.then(scripted_token);
            }
            Standing::Failed(reason) => {
                answer.set_status(proto::LoginStatus::Error);
                answer.error = Some(proto::LoginError {
                    reason: reason.to_owned(),
                    message: "begin it anew".to_owned(),
                });
            }
        }
        Ok(Response::new(answer))
    }

    async fn cancel_login(
        &self,
        request: Request<proto::CancelLoginRequest>,
    ) -> Result<Response<proto::CancelLoginResponse>, Status> {
        self.saw(format!("cancel {}", request.into_inner().session_id));
        if self.script.too_late {
            let error = credbroker::broker::Error::SessionAlreadyUsed;
            return Err(credbroker::service::status::from_error(&error));
        }
        Ok(Response::new(proto::CancelLoginResponse {}))
    }
}

/// A runtime that a test ends.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
