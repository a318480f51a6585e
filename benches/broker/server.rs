//! The two servers: the broker as it is shipped, and the floor below it.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use credbroker::{
    broker::{Renewals, policy::Policy},
    clock::{Clock as _, SystemClock},
    config::{Config, Environment},
    credential::{AnswerRules, EntryKey, parse_answer},
    daemon::{self, Options, SocketChoice},
    proto::{self, credential_broker_server as generated},
    server::admission::{Admission, Sandbox},
};
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};

use crate::{Result, client};

/// The capability that both servers are sent; the floor ignores it.
pub(crate) const CAPABILITY: [u8; 32] = [7; 32];

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Floor,
    Broker,
}

/// A server in a process of its own. It ends when this is dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) socket: PathBuf,
    _home: tempfile::TempDir,
}

impl Server {
    /// Starts it over what [`prepare`] made; its socket accepts when this returns.
    pub(crate) fn start(kind: Kind, home: tempfile::TempDir) -> Result<Self> {
        let kind = match kind {
            Kind::Floor => "floor",
            Kind::Broker => "broker",
        };
        let mut process = Command::new(std::env::current_exe()?)
            .args(["server", kind, "0"])
            .arg(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut socket = String::new();
        BufReader::new(process.stdout.take().ok_or("no standard output")?).read_line(&mut socket)?;
        if socket.is_empty() {
            return Err(format!("the {kind} did not start").into());
        }
        Ok(Self {
            process,
            socket: socket.trim_end().into(),
            _home: home,
        })
    }

    /// CPU time that the process has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let (_, fields) = stat.rsplit_once(") ").ok_or("an odd /proc/PID/stat")?;
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        // USER_HZ is 100 on every Linux.
        Ok(Duration::from_millis(ticks * 10))
    }

    pub(crate) fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
        Ok(kib.parse()?)
    }
}

/// A home with so many entries in its store. Another process makes them, so that it does not count as the broker's memory.
pub(crate) fn prepare(entries: usize) -> Result<tempfile::TempDir> {
    let home = tempfile::tempdir()?;
    let stored = Command::new(std::env::current_exe()?)
        .args(["server", "store", &entries.to_string()])
        .arg(home.path())
        .status()?;
    if !stored.success() {
        return Err("the entries could not be stored".into());
    }
    Ok(home)
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; what counts is that it is gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process of a server: `server KIND ENTRIES HOME`. Prints its socket, serves until it is killed; `store` makes the
/// entries and ends.
pub(crate) fn main(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || arguments.next().ok_or("usage: server KIND ENTRIES HOME");
    let (kind, entries, home) = (next()?, next()?.parse()?, PathBuf::from(next()?));
    client::pin(0);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match kind.as_str() {
        "floor" => runtime.block_on(floor(home)),
        "store" => runtime.block_on(store(&home, entries)),
        _ => runtime.block_on(broker(&home)),
    }
}

fn environment(home: &Path) -> Result<Environment> {
    let runtime = home.join("runtime");
    fs::create_dir_all(&runtime)?;
    let directories = [
        ("XDG_RUNTIME_DIR", runtime),
        ("XDG_DATA_HOME", home.join("data")),
        ("XDG_STATE_HOME", home.join("state")),
    ];
    // The rates would hold back a client that asks without a pause, which is what they are for.
    let rates = [
        "CREDBROKER_LIMITS_REQUESTS_PER_SECOND",
        "CREDBROKER_LIMITS_REQUESTS_PER_SECOND_PER_SOCKET",
    ];
    Ok(directories
        .into_iter()
        .map(|(name, value)| (OsString::from(name), value.into_os_string()))
        .chain(rates.map(|name| (name.into(), "1000000".into())))
        .collect())
}

async fn store(home: &Path, entries: usize) -> Result<()> {
    let environment = environment(home)?;
    let config = Config::load(None, &environment)?;
    let local = daemon::local(&config, &environment, false, Renewals::OnUse)?;
    let now = SystemClock::new().now();
    for entry in 0..entries {
        let answer = format!(
            r#"{{"access_token":"{}","refresh_token":"r","expires_in":3600}}"#,
            token()
        );
        let tokens = parse_answer(answer.as_bytes(), &AnswerRules::default(), "import", &now)?;
        let key = EntryKey::parse("bench", &bucket(entry)).map_err(|(_, invalid)| invalid)?;
        local.import(&key, tokens).await?;
    }
    Ok(())
}

async fn broker(home: &Path) -> Result<()> {
    let environment = environment(home)?;
    let config = Config::load(None, &environment)?;
    let running = daemon::start(
        &config,
        &environment,
        Options {
            socket: SocketChoice::Own,
            admission: Admission::Capability(vec![Sandbox {
                name: "bench".into(),
                capability_sha256: Sha256::digest(CAPABILITY).into(),
                policy: Arc::new(Policy::serve(Vec::new())),
            }]),
            peers: credbroker::server::peer::AllowedPeers::own_and(&[]),
            ephemeral: false,
            notices: credbroker::broker::login::to_the_log(),
            metrics: None,
            process: daemon::Process::default(),
        },
    )?;
    println!("{}", running.socket().display());
    std::future::pending().await
}

pub(crate) fn bucket(entry: usize) -> String {
    format!("b{entry}")
}

/// As long as the access tokens of the large providers.
fn token() -> String {
    "t".repeat(40)
}

/// The same service with nothing behind it: the answer is ready.
struct Floor(proto::GetTokenResponse);

async fn floor(home: PathBuf) -> Result<()> {
    let socket = home.join("sock");
    let listener = tokio::net::UnixListener::bind(&socket)?;
    let answer = proto::GetTokenResponse {
        token: Some(proto::AccessToken {
            access_token: token(),
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
    };
    println!("{}", socket.display());
    // The broker's HTTP/2 settings, see src/server/serve.rs.
    tonic::transport::Server::builder()
        .max_concurrent_streams(256)
        .http2_max_header_list_size(64 * 1024)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(generated::CredentialBrokerServer::new(Floor(answer)))
        .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener))
        .await?;
    Ok(())
}

macro_rules! not_measured {
    ($($method:ident: $request:ident -> $response:ident),+ $(,)?) => {
        #[tonic::async_trait]
        impl generated::CredentialBroker for Floor {
            async fn get_token(
                &self,
                _request: Request<proto::GetTokenRequest>,
            ) -> std::result::Result<Response<proto::GetTokenResponse>, Status> {
                Ok(Response::new(self.0.clone()))
            }
            type WatchTokenStream = tokio_stream::Empty<std::result::Result<proto::WatchTokenResponse, Status>>;
            async fn watch_token(
                &self,
                _request: Request<proto::WatchTokenRequest>,
            ) -> std::result::Result<Response<Self::WatchTokenStream>, Status> {
                Err(Status::unimplemented("the floor has GetToken only"))
            }
            $(async fn $method(
                &self,
                _request: Request<proto::$request>,
            ) -> std::result::Result<Response<proto::$response>, Status> {
                Err(Status::unimplemented("the floor has GetToken only"))
            })+
        }
    };
}

not_measured! {
    get_server_info: GetServerInfoRequest -> GetServerInfoResponse,
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
