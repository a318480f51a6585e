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
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::watch, task::JoinSet};
use tokio_stream::{Stream, StreamExt as _};
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
    accepting: tokio::task::JoinHandle<()>,
    dir: TempDir,
}

impl Scripted {
    pub(crate) fn start(script: Script) -> Self {
        let dir = TempDir::with_prefix("cb").unwrap();
        let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
        let seen = Arc::new(Seen::default());
        let (count, open) = watch::channel(0);
        let fake = Fake {
            script,
            seen: Arc::clone(&seen),
        };
        let accepting = tokio::spawn(accept(listener, fake, count));
        Self {
            seen,
            open,
            accepting,
            dir,
        }
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
        let service = TowerToHyperService::new(CredentialBrokerServer::new(fake.clone()));
        let open = open.clone();
        connections.spawn(async move {
            open.send_modify(|open| *open += 1);
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // How it ends is the client's business.
            let _ = http2.serve_connection(TokioIo::new(stream), service).await;
            open.send_modify(|open| *open -= 1);
        });
    }
}

#[derive(Clone)]
struct Fake {
    script: Script,
    seen: Arc<Seen>,
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

    /// One token, and then whatever GetToken is refused with, or nothing more.
    async fn watch_token(
        &self,
        _request: Request<proto::WatchTokenRequest>,
    ) -> Result<Response<Self::WatchTokenStream>, Status> {
        self.seen.calls.fetch_add(1, Ordering::SeqCst);
        let first = proto::WatchTokenResponse {
            token: Some(scripted_token()),
        };
        let first = tokio_stream::once(Ok(first));
        let refusal = self.script.refusal;
        Ok(Response::new(match refusal {
            Some(refusal) => Box::pin(first.chain(tokio_stream::once(Err(refusal())))),
            None => Box::pin(first.chain(tokio_stream::pending())),
        }))
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
        let token = proto::AccessToken {
            access_token: request.into_inner().revision,
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
