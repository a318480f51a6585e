//! The composition root, and with `stores` the only place that names concrete backends. It puts a broker together,
//! binds its sockets, spawns its tasks, and takes everything down again.

mod client_secret;
mod metrics;
mod providers;
mod records;
mod routes;
mod stores;

use std::{
    fmt, io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    broker::{
        self, Broker, Parts, Renewals,
        login::{LoginParts, Notices, to_the_log},
        policy::Policy,
    },
    clock::{Clock, SystemClock},
    config::{Config, ConfigError, Environment, MetricsListen},
    server::{
        Layers, Limits, Served,
        admission::Admission,
        metrics::{Calls, Metrics, MetricsError, Sources, serve as show},
        peer::{AllowedPeers, Describer, OnlySandbox},
        serve,
        socket::{BoundSocket, BrokerDir, DirName, Exposure, InheritedSocket, RuntimeDir, SocketError, SocketGuard},
    },
    service::control::About,
    store::StoreError,
};

pub use self::{
    providers::{ProviderSummary, Providers, answer_rules, diagnose_providers, providers, summary},
    stores::diagnose_store,
};
use self::{
    records::Auditing,
    stores::{Stores, stores},
};
pub use crate::service::control::Protection;

/// Why a broker could not be put together or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A directory or socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A key of the configuration that is needed and not set.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The place of the metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something else of the system.
    #[error("cannot {what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Where the sandbox's socket is.
#[derive(Debug)]
pub enum SocketChoice {
    /// In a directory of this run's own.
    Own,
    /// In the directory of the one long-running broker.
    Daemon,
    /// At a path of the operator's choice, with this mode.
    At(PathBuf, u32),
    /// The one that the service manager listens on.
    Inherited(InheritedSocket),
}

/// What one broker is asked to be.
pub struct Options {
    /// Where the sandbox's socket is.
    pub socket: SocketChoice,
    /// Who is let in.
    pub admission: Admission,
    /// Which uids may connect. If they are not the broker's own alone, its socket can be reached by every uid inside a
    /// sandbox; the runtime directory remains the wall on the host.
    pub peers: AllowedPeers,
    /// Keep everything in memory.
    pub ephemeral: bool,
    /// Who is told about the logins of sandboxes.
    pub notices: Notices,
    /// Where what is counted is shown. `None`: nowhere, and nothing is counted for it.
    pub metrics: Option<MetricsListen>,
    /// What is particular to the process that it runs in.
    pub process: Process,
}

/// What a broker's process took from itself, and how it looks at others.
#[derive(Debug, Default)]
pub struct Process {
    /// What it took from itself.
    pub protections: Vec<Protection>,
    /// Who looks at peers.
    pub describer: Describer,
    /// The only sandbox that is served.
    pub sandbox: Option<OnlySandbox>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("socket", &self.socket)
            .field("admission", &self.admission)
            .field("peers", &self.peers)
            .field("ephemeral", &self.ephemeral)
            .field("metrics", &self.metrics)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// A broker over the configured store, without any socket: what the command line on the host uses.
///
/// # Errors
/// The store cannot be opened.
pub fn local(
    config: &Config,
    environment: &Environment,
    ephemeral: bool,
    renewals: Renewals,
) -> Result<Broker, StartError> {
    let providers = providers(config, environment);
    // What sandboxes do is told by brokers that have any.
    put_together(config, environment, providers, ephemeral, renewals, to_the_log())
}

fn put_together(
    config: &Config,
    environment: &Environment,
    providers: Providers,
    ephemeral: bool,
    renewals: Renewals,
    notices: Notices,
) -> Result<Broker, StartError> {
    let Stores { tokens, keys } = stores(config, environment, ephemeral)?;
    Ok(Broker::new(Parts {
        tokens,
        keys,
        clock: Arc::new(SystemClock::new()),
        providers: providers.refreshes,
        renewals,
        logins: LoginParts {
            providers: providers.logins,
            timeout: config.login.timeout,
            notices,
        },
    }))
}

/// Tokens are renewed ahead of their end, as whoever lives on does it.
#[must_use]
pub fn renewed_ahead() -> Renewals {
    Renewals::Ahead(Arc::new(rand::random::<f64>))
}

fn limits(config: &Config) -> Limits {
    let (set, default) = (config.limits, Limits::default());
    Limits {
        requests_per_second: set.requests_per_second.unwrap_or(default.requests_per_second),
        requests_per_second_per_socket: set
            .requests_per_second_per_socket
            .unwrap_or(default.requests_per_second_per_socket),
        connections: set.connections.unwrap_or(default.connections),
        streams: set.streams.unwrap_or(default.streams),
    }
}

/// The directory that holds the directories of all brokers of this user.
///
/// # Errors
/// The environment names a directory that is not there.
pub fn runtime_path(environment: &Environment) -> Result<PathBuf, SocketError> {
    RuntimeDir::locate(
        environment.runtime_directory(),
        environment.temporary_directory(),
        rustix::process::geteuid().as_raw(),
    )
}

/// Where brokers of this user have their directories if they were started with this environment, or with that of a login, a
/// service or a cron job.
#[must_use]
pub fn runtime_paths(environment: &Environment) -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let login = PathBuf::from(format!("/run/user/{uid}"));
    let temporary = [environment.temporary_directory(), Path::new("/tmp")];
    let places = [environment.runtime_directory(), Some(&login)].map(|runtime| (runtime, temporary[0]));
    let places = places.into_iter().chain(temporary.map(|temporary| (None, temporary)));
    places
        .filter_map(|(runtime, temporary)| RuntimeDir::locate(runtime, temporary, uid).ok())
        .collect()
}

/// A socket to serve, and what unlinks it: nothing, if it is not the broker's own.
struct Listening {
    listener: UnixListener,
    path: PathBuf,
    guard: Option<SocketGuard>,
}

impl From<BoundSocket> for Listening {
    fn from(bound: BoundSocket) -> Self {
        let path = bound.path().to_path_buf();
        let (listener, guard) = bound.into_parts();
        Self {
            listener,
            path,
            guard: Some(guard),
        }
    }
}

impl From<InheritedSocket> for Listening {
    fn from(inherited: InheritedSocket) -> Self {
        Self {
            path: inherited.path().to_path_buf(),
            listener: inherited.into_listener(),
            guard: None,
        }
    }
}

/// A broker that serves. [`Running::stop`] ends it in order; a drop without it removes the sockets, but cuts calls off.
pub struct Running {
    broker: Broker,
    socket: PathBuf,
    stop: watch::Sender<bool>,
    serving: Vec<JoinHandle<io::Result<()>>>,
    audit: Auditing,
    // The guards come last, so that a drop unlinks the sockets before the directory around them.
    _sockets: Vec<SocketGuard>,
    _dir: BrokerDir,
}

/// Starts a broker. When it returns, its socket accepts connections.
///
/// # Errors
/// A directory, socket, store or the audit file's thread cannot be had; nothing is left behind.
pub fn start(config: &Config, environment: &Environment, options: Options) -> Result<Running, StartError> {
    let runtime = RuntimeDir::open(&runtime_path(environment)?)?;
    let name = match options.socket {
        SocketChoice::Daemon | SocketChoice::Inherited(_) => DirName::Daemon,
        SocketChoice::Own | SocketChoice::At(..) => DirName::Random,
    };
    let dir = BrokerDir::create(&runtime, name)?;
    let shared = !options.peers.are_own();
    let bound = match options.socket {
        SocketChoice::At(path, mode) => dir.bind_at(&path, mode)?.into(),
        SocketChoice::Own | SocketChoice::Daemon if shared => dir.bind_sandbox(Exposure::Shared)?.into(),
        SocketChoice::Own | SocketChoice::Daemon => dir.bind_sandbox(Exposure::Private)?.into(),
        SocketChoice::Inherited(socket) => Listening::from(socket),
    };
    let control = Listening::from(dir.bind_control()?);
    let socket = bound.path.clone();

    let (metrics_at, metrics_guard) = metrics::listen(options.metrics.as_ref(), &dir)?;

    let providers = providers(config, environment);
    // Before there is a sandbox that could have a hand in them.
    providers.read_authorities();
    let broker = put_together(
        config,
        environment,
        providers,
        options.ephemeral,
        renewed_ahead(),
        options.notices,
    )?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let auditing = Auditing::start(&config.audit, &broker, Arc::clone(&clock))?;
    let audit = auditing.audit.clone();
    let served = Served::default();
    let started = clock.now().wall;
    let calls = Arc::<Calls>::default();
    let metrics = Metrics::new(Sources {
        broker: broker.clone(),
        clock: Arc::clone(&clock),
        started,
        calls: Arc::clone(&calls),
        connections: Arc::clone(&served.connections),
        audit: audit.clone(),
    });
    let about = About {
        socket: socket.clone(),
        started,
        audit: audit.clone(),
        connections: Arc::clone(&served.connections),
        protections: options.process.protections,
    };
    let mut sandbox_layers = Layers::new(
        routes::sandbox(&broker)?,
        options.peers,
        options.admission,
        Some((audit, clock)),
    )
    .with_limits(limits(config))
    .describing(options.process.describer, options.process.sandbox);
    if metrics_at.is_some() {
        sandbox_layers = sandbox_layers.counting(calls);
    }
    // The control socket answers nobody but the broker's own user, who needs no capability.
    let control_layers = Layers::new(
        routes::control(&broker, about)?,
        AllowedPeers::own_and(&[]),
        Admission::Open(Arc::new(Policy::default())),
        None,
    )
    .with_limits(limits(config));

    let (stop, stopping) = watch::channel(false);
    let stopped = || {
        let mut stopping = stopping.clone();
        async move {
            // An error means that `Running` is gone, which is a stop as well.
            let _ = stopping.wait_for(|stop| *stop).await;
        }
    };
    let mut serving = Vec::new();
    let mut sockets = Vec::from_iter(metrics_guard);
    if let Some(listening) = metrics_at {
        tracing::info!(at = %listening, "metrics are shown");
        serving.push(tokio::spawn(show(listening, Arc::new(metrics), stopped())));
    }
    let mut spawn = |Listening { listener, guard, .. }, layers, served| {
        serving.push(tokio::spawn(serve(listener, layers, served, stopped())));
        sockets.extend(guard);
    };
    spawn(bound, sandbox_layers, served);
    spawn(control, control_layers, Served::default());
    Ok(Running {
        broker,
        socket,
        stop,
        serving,
        audit: auditing,
        _sockets: sockets,
        _dir: dir,
    })
}

impl Running {
    /// The socket that the sandbox connects to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the broker can do its work now, as the health service says.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn check(&self) -> Result<(), broker::Error> {
        self.broker.check().await
    }

    /// Stops in order: no new connection, no new call, calls under way get 5 s, the audit file is written to its end,
    /// sockets and directories are removed.
    pub async fn stop(self) {
        let Self {
            broker,
            stop,
            serving,
            audit,
            _sockets,
            _dir,
            ..
        } = self;
        stop.send_replace(true);
        broker.begin_shutdown();
        for task in serving {
            match task.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a socket could not be served"),
                Err(error) => tracing::error!(%error, "a serving task failed"),
            }
        }
        // After the calls: what they began at a provider must not be cut off.
        broker.shutdown().await;
        audit.finish().await;
    }
}

fn system<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl Fn(E) -> StartError {
    move |cause| StartError::System {
        what,
        cause: cause.into(),
    }
}
