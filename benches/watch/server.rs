//! The two servers: a broker behind the layers of its socket, over a file store that tells when a record was durable; and
//! the floor below it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use credbroker::{
    broker::{
        Broker, Caller, Parts, Renewals,
        audit::{Audit, Settings},
        login::LoginParts,
        policy::Policy,
    },
    clock::{Clock as _, SystemClock},
    credential::{AnswerRules, EntryKey, SavedToken, parse_answer},
    proto::{self, credential_broker_server as generated},
    server::{Layers, Limits, Routes, Served, admission::Admission, peer::AllowedPeers, serve},
    service::{CredentialService, status::MAX_MESSAGE_SIZE},
    store::{
        OverCorrupt, StoreError, StoredTokens, TokenGuard, TokenStore,
        file::{FileStore, FileStoreConfig, IdentitySource},
        memory::MemoryStore,
    },
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt as _, wrappers::WatchStream};
use tonic::{Request, Response, Status};

use crate::{Result, WATCHERS, client};

pub(crate) const PROVIDER: &str = "bench";

pub(crate) fn bucket(entry: usize) -> String {
    format!("b{entry}")
}

/// As long as the access tokens of the large providers.
fn token(turn: u64) -> String {
    format!("{turn:0>40}")
}

/// The monotonic clock in nanoseconds, which all processes share.
pub(crate) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Floor,
    Broker,
}

/// A server in a process of its own. It ends when this is dropped.
pub(crate) struct Server {
    process: Child,
    commands: ChildStdin,
    answers: Arc<Mutex<BufReader<ChildStdout>>>,
    pub(crate) socket: PathBuf,
    turn: u64,
    _home: tempfile::TempDir,
}

impl Server {
    /// Starts it; its entries are stored and its socket accepts when this returns.
    pub(crate) fn start(kind: Kind) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let kind = match kind {
            Kind::Floor => "floor",
            Kind::Broker => "broker",
        };
        let mut process = Command::new(std::env::current_exe()?)
            .args(["server", kind])
            .arg(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take().ok_or("no standard input")?;
        let mut answers = BufReader::new(process.stdout.take().ok_or("no standard output")?);
        let mut socket = String::new();
        answers.read_line(&mut socket)?;
        if socket.is_empty() {
            return Err(format!("the {kind} did not start").into());
        }
        Ok(Self {
            process,
            commands,
            answers: Arc::new(Mutex::new(answers)),
            socket: socket.trim_end().into(),
            turn: 0,
            _home: home,
        })
    }

    pub(crate) fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// Has the first so many entries changed; the answer is when each was durable.
    pub(crate) fn change(&mut self, turn: u64, entries: usize) -> Result<mpsc::Receiver<Result<Vec<u64>>>> {
        writeln!(self.commands, "{turn} {entries}")?;
        let answers = Arc::clone(&self.answers);
        let (told, answer) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            let read = answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read_line(&mut line);
            let stamps = read.map_err(Into::into).and_then(|_| {
                let stamps = line.split_whitespace().map(|stamp| Ok(stamp.parse::<u64>()?));
                stamps.collect::<Result<Vec<_>>>()
            });
            // Nobody waits any more.
            let _ = told.blocking_send(stamps);
        });
        Ok(answer)
    }

    /// What the process had of the processors.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut used = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            used += stat.split(' ').next().ok_or("an odd schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(used))
    }

    pub(crate) fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
        Ok(kib.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; what counts is that it is gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process of a server: `server KIND HOME`. Prints its socket, and for each command when its changes were durable.
pub(crate) fn main(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || arguments.next().ok_or("usage: server KIND HOME");
    let (kind, home) = (next()?, PathBuf::from(next()?));
    client::pin(0)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (command, commands) = mpsc::channel(1);
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::result::Result::ok) {
            if command.blocking_send(line).is_err() {
                return;
            }
        }
    });
    runtime.block_on(async {
        match kind.as_str() {
            "floor" => floor(&home, commands).await,
            _ => broker(&home, commands).await,
        }
    })
}

async fn obey(
    mut commands: mpsc::Receiver<String>,
    mut change: impl AsyncFnMut(u64, usize) -> Result<u64>,
) -> Result<()> {
    while let Some(command) = commands.recv().await {
        let (turn, entries) = command.split_once(' ').ok_or("an odd command")?;
        let (turn, entries) = (turn.parse()?, entries.parse()?);
        let mut stamps = Vec::new();
        for entry in 0..entries {
            stamps.push(change(turn, entry).await?.to_string());
        }
        println!("{}", stamps.join(" "));
    }
    Ok(())
}

async fn broker(home: &Path, commands: mpsc::Receiver<String>) -> Result<()> {
    let inner = FileStore::open(FileStoreConfig {
        path: home.join("store"),
        identity: IdentitySource::Default,
        allow_network_fs: false,
    })?;
    let durable = Arc::new(AtomicU64::new(0));
    let store = Stamping {
        inner,
        durable: Arc::clone(&durable),
    };
    let broker = Broker::new(Parts {
        tokens: Arc::new(store),
        keys: Arc::new(MemoryStore::default()),
        clock: Arc::new(SystemClock::new()),
        providers: BTreeMap::new(),
        renewals: Renewals::Ahead(Arc::new(rand::random::<f64>)),
        logins: LoginParts::default(),
    });
    let keys = (0..WATCHERS)
        .map(|entry| EntryKey::parse(PROVIDER, &bucket(entry)).map_err(|(_, invalid)| invalid.into()))
        .collect::<Result<Vec<_>>>()?;
    for key in &keys {
        let answer = format!(r#"{{"access_token":"{}","expires_in":3600}}"#, token(0));
        let now = SystemClock::new().now();
        let tokens = parse_answer(answer.as_bytes(), &AnswerRules::default(), "import", &now)?;
        broker.import(key, tokens).await?;
    }
    let socket = home.join("sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    let file = home.join("audit");
    let (audit, _writer) = Audit::start(Settings::without_key(), move || {
        Ok(("audit".into(), fs::File::create_new(&file)?))
    })?;
    let service = generated::CredentialBrokerServer::new(CredentialService::new(broker.clone()));
    let layers = Layers::new(
        Routes::new(service.max_decoding_message_size(MAX_MESSAGE_SIZE)),
        AllowedPeers::own_and(&[]),
        Admission::Open(Arc::new(Policy::serve(Vec::new()))),
        Some((audit, Arc::new(SystemClock::new()))),
    );
    // A thousand watchers of one client are more than a socket grants by itself.
    let limits = Limits {
        requests_per_second: 100_000.try_into()?,
        requests_per_second_per_socket: 100_000.try_into()?,
        streams: 160.try_into()?,
        ..Limits::default()
    };
    tokio::spawn(serve(
        listener,
        layers.with_limits(limits),
        Served::default(),
        std::future::pending(),
    ));
    println!("{}", socket.display());
    obey(commands, async |turn, entry| {
        let key = keys.get(entry).ok_or("no such entry")?;
        let saved = SavedToken {
            access_token: token(turn).into(),
            expires_in: Some(Duration::from_secs(3600)),
            expire_time: None,
            token_type: String::new(),
            scope: String::new(),
        };
        broker.save_token(&Caller::host(), key, saved).await?;
        Ok(durable.load(Ordering::Acquire))
    })
    .await
}

/// The file store, and when the last record was durable.
struct Stamping {
    inner: FileStore,
    durable: Arc<AtomicU64>,
}

struct StampingGuard {
    inner: Box<dyn TokenGuard>,
    durable: Arc<AtomicU64>,
}

#[async_trait]
impl TokenStore for Stamping {
    async fn read(&self, key: &EntryKey) -> std::result::Result<Option<Arc<StoredTokens>>, StoreError> {
        TokenStore::read(&self.inner, key).await
    }

    async fn changed(&self, known: Vec<(EntryKey, Arc<StoredTokens>)>) -> Vec<EntryKey> {
        TokenStore::changed(&self.inner, known).await
    }

    async fn list(&self) -> std::result::Result<Vec<EntryKey>, StoreError> {
        TokenStore::list(&self.inner).await
    }

    async fn lock(&self, key: &EntryKey, wait: Duration) -> std::result::Result<Box<dyn TokenGuard>, StoreError> {
        Ok(Box::new(StampingGuard {
            inner: TokenStore::lock(&self.inner, key, wait).await?,
            durable: Arc::clone(&self.durable),
        }))
    }

    async fn check(&self) -> std::result::Result<(), StoreError> {
        TokenStore::check(&self.inner).await
    }
}

#[async_trait]
impl TokenGuard for StampingGuard {
    async fn read(&self) -> std::result::Result<Option<Arc<StoredTokens>>, StoreError> {
        self.inner.read().await
    }

    async fn put(&mut self, record: Arc<StoredTokens>, over: OverCorrupt) -> std::result::Result<(), StoreError> {
        self.inner.put(record, over).await?;
        self.durable.store(monotonic(), Ordering::Release);
        Ok(())
    }

    async fn remove(&mut self) -> std::result::Result<bool, StoreError> {
        self.inner.remove().await
    }
}

/// The same service with a channel behind each entry.
struct Floor(Arc<Vec<watch::Sender<u64>>>);

async fn floor(home: &Path, commands: mpsc::Receiver<String>) -> Result<()> {
    let socket = home.join("sock");
    let listener = tokio::net::UnixListener::bind(&socket)?;
    let entries: Arc<Vec<_>> = Arc::new((0..WATCHERS).map(|_| watch::Sender::new(0)).collect());
    // The broker's HTTP/2 settings, see src/server/serve.rs.
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(256)
        .http2_max_header_list_size(64 * 1024)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(generated::CredentialBrokerServer::new(Floor(Arc::clone(&entries))))
        .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener));
    tokio::spawn(server);
    println!("{}", socket.display());
    obey(commands, async |turn, entry| {
        let sent = monotonic();
        entries.get(entry).ok_or("no such entry")?.send_replace(turn);
        Ok(sent)
    })
    .await
}

fn message(turn: u64) -> proto::WatchTokenResponse {
    proto::WatchTokenResponse {
        token: Some(proto::AccessToken {
            access_token: token(turn),
            expire_time: Some(prost_types::Timestamp {
                seconds: 1_800_000_000,
                nanos: 1,
            }),
            expires_in: Some(prost_types::Duration {
                seconds: 3599,
                nanos: 999_999_999,
            }),
            token_type: "Bearer".into(),
            revision: "0".repeat(32),
            ..proto::AccessToken::default()
        }),
    }
}

macro_rules! not_measured {
    ($($method:ident: $request:ident -> $response:ident),+ $(,)?) => {
        #[tonic::async_trait]
        impl generated::CredentialBroker for Floor {
            async fn get_server_info(
                &self,
                _request: Request<proto::GetServerInfoRequest>,
            ) -> std::result::Result<Response<proto::GetServerInfoResponse>, Status> {
                Ok(Response::new(proto::GetServerInfoResponse { version: 1, ..Default::default() }))
            }
            type WatchTokenStream =
                Pin<Box<dyn Stream<Item = std::result::Result<proto::WatchTokenResponse, Status>> + Send>>;
            async fn watch_token(
                &self,
                request: Request<proto::WatchTokenRequest>,
            ) -> std::result::Result<Response<Self::WatchTokenStream>, Status> {
                let entry = request.get_ref().bucket.strip_prefix('b').and_then(|entry| entry.parse::<usize>().ok());
                let entry = entry.and_then(|entry| self.0.get(entry)).ok_or_else(|| Status::not_found("none"))?;
                let turns = WatchStream::new(entry.subscribe());
                Ok(Response::new(Box::pin(turns.map(|turn| Ok(message(turn))))))
            }
            $(async fn $method(
                &self,
                _request: Request<proto::$request>,
            ) -> std::result::Result<Response<proto::$response>, Status> {
                Err(Status::unimplemented("the floor has WatchToken only"))
            })+
        }
    };
}

not_measured! {
    get_token: GetTokenRequest -> GetTokenResponse,
    refresh_token: RefreshTokenRequest -> RefreshTokenResponse,
    save_token: SaveTokenRequest -> SaveTokenResponse,
    remove_token: RemoveTokenRequest -> RemoveTokenResponse,
    list_providers: ListProvidersRequest -> ListProvidersResponse,
    list_buckets: ListBucketsRequest -> ListBucketsResponse,
    get_bucket_stats: GetBucketStatsRequest -> GetBucketStatsResponse,
    get_api_key: GetApiKeyRequest -> GetApiKeyResponse,
    list_api_keys: ListApiKeysRequest -> ListApiKeysResponse,
    initiate_login: InitiateLoginRequest -> InitiateLoginResponse,
    exchange_code: ExchangeCodeRequest -> ExchangeCodeResponse,
    poll_login: PollLoginRequest -> PollLoginResponse,
    cancel_login: CancelLoginRequest -> CancelLoginResponse,
}
