//! The one store of a process, on a thread and runtime of its own.
//!
//! Whoever asks for it first may be gone soon: a test, a short-lived runtime, one of many. Neither the connection nor the
//! broker in this process may go with it, so nothing of either runs on a caller's runtime. A caller needs no tokio at all.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::watch,
    task::{AbortHandle, JoinError, JoinHandle},
    time::timeout,
};

use super::{
    ApiKeyStore, BucketStats, CredentialStore, Error, ProxyTokenStore, Revocation, ServerInfo, TokenStream,
    error::Refusal,
    in_process::InProcess,
    proxy::REQUEST_TIMEOUT,
    rpc::{Rpc, Way},
};
use crate::{
    config::Environment,
    credential::{AccessToken, EntryKey, Name, SavedToken},
};

/// How long calls under way may still take when the process ends in order.
const DRAIN: Duration = Duration::from_secs(5);
/// How long what already writes to the disk may take after that.
const LAST_WRITES: Duration = Duration::from_secs(5);

static INSTANCE: Mutex<Instance> = Mutex::new(Instance::None);

enum Instance {
    /// Nobody has asked yet.
    None,
    /// Somebody has. It may have been shut down since.
    Running(ProcessStore),
    /// It was shut down before anybody asked.
    ShutDown,
}

/// The process's store: through the socket if `CREDBROKER_SOCKET` is set and not empty, else a broker in this process
/// over the host's own store. The first call decides for the whole process; later ones get the same.
///
/// It starts the store's thread, and on the host reads the configuration (as the command line does) and opens the store;
/// it blocks for a few file operations, and connects to nothing. If it fails, the next call tries again.
///
/// # Errors
/// [`Error::InvalidCapability`]; [`Error::Host`] if the host's configuration or store cannot be used;
/// [`Error::ShuttingDown`] after [`shutdown`].
pub fn token_store_from_env() -> Result<ProcessStore, Error> {
    let mut instance = INSTANCE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*instance {
        Instance::Running(store) if !*store.stop.borrow() => Ok(store.clone()),
        Instance::Running(_) | Instance::ShutDown => Err(too_late()),
        Instance::None => {
            let store = start(Environment::from_process())?;
            *instance = Instance::Running(store.clone());
            Ok(store)
        }
    }
}

/// Ends the process's store in order: from now on calls answer [`Error::ShuttingDown`], those under way get 5 s, and
/// what is being written gets 5 s more. When it returns, the store's thread has ended.
///
/// Call it last. To end the process without it is a crash: then nothing is promised but what was reported saved. A store
/// that nobody asked for is not started; there will be none any more.
pub async fn shutdown() {
    let instance = {
        let mut instance = INSTANCE.lock().unwrap_or_else(PoisonError::into_inner);
        match &*instance {
            Instance::Running(store) => {
                store.stop.send_replace(true);
                // The store stays where it is, so that a second call waits as well.
                Some(store.ended.clone())
            }
            Instance::None => {
                *instance = Instance::ShutDown;
                None
            }
            Instance::ShutDown => None,
        }
    };
    if let Some(mut ended) = instance {
        // The other end is the thread; that it is gone is as good as its word.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// The store that all of a process shares. Clones are the same store.
///
/// Calls may be made on any runtime, and outside of one. Both traits have to be in scope for their methods to be called.
#[derive(Clone)]
pub struct ProcessStore {
    rpc: Rpc,
    /// Where the calls run.
    runtime: Handle,
    /// How many calls are under way; the thread waits for them before it ends.
    calls: watch::Sender<usize>,
    /// Set once: the thread ends, and no call begins any more.
    stop: watch::Sender<bool>,
    /// Set once: the thread has ended.
    ended: watch::Receiver<bool>,
}

impl fmt::Debug for ProcessStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessStore")
            .field("in_sandbox", &self.in_sandbox())
            .finish_non_exhaustive()
    }
}

/// Starts the thread. When this returns, it takes calls.
fn start(environment: Environment) -> Result<ProcessStore, Error> {
    let host = |error: io::Error| Error::Host(error.into());
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(host)?;
    let (report, reported) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("credbroker".into())
        .spawn(move || live(runtime, &environment, &report))
        .map_err(host)?;
    reported.recv().unwrap_or_else(|_gone| {
        Err(Error::InternalError(Refusal::new(
            "the credential store's thread failed",
        )))
    })
}

/// The thread.
fn live(runtime: Runtime, environment: &Environment, report: &mpsc::SyncSender<Result<ProcessStore, Error>>) {
    let within = runtime.enter();
    let opened = open(environment);
    drop(within);
    let rpc = match opened {
        Ok(rpc) => rpc,
        Err(error) => {
            // Whoever started the thread waits for this.
            let _ = report.send(Err(error));
            return;
        }
    };
    let way = rpc.way.clone();
    let (stop, mut stopping) = watch::channel(false);
    let (calls, mut under_way) = watch::channel(0);
    let (end, ended) = watch::channel(false);
    let store = ProcessStore {
        rpc,
        runtime: runtime.handle().clone(),
        calls,
        stop,
        ended,
    };
    // As above.
    let _ = report.send(Ok(store));
    runtime.block_on(async {
        // An error means that every handle is gone, which is a stop as well.
        let _ = stopping.wait_for(|stop| *stop).await;
        if let Way::InProcess(broker) = &way {
            broker.begin_shutdown();
        }
        if timeout(DRAIN, under_way.wait_for(|calls| *calls == 0)).await.is_err() {
            tracing::warn!(calls = *under_way.borrow(), "calls did not end in time and are cut");
        }
        if let Way::InProcess(broker) = &way {
            broker.shutdown().await;
        }
    });
    runtime.shutdown_timeout(LAST_WRITES);
    end.send_replace(true);
}

fn open(environment: &Environment) -> Result<Rpc, Error> {
    match environment.socket() {
        Some(socket) => Ok(ProxyTokenStore::new(socket, environment.capability())?.into_rpc()),
        None => Ok(Rpc::new(Way::InProcess(InProcess::open(environment)?), REQUEST_TIMEOUT)),
    }
}

impl ProcessStore {
    /// Whether this process is in a sandbox: its credentials come through a socket, and API keys cannot be managed.
    #[must_use]
    pub fn in_sandbox(&self) -> bool {
        matches!(self.rpc.way, Way::Socket(..))
    }

    /// What the broker said of itself; connects if there is no connection.
    ///
    /// # Errors
    /// What the broker answers, or that it could not be asked.
    pub async fn server_info(&self) -> Result<ServerInfo, Error> {
        self.run(|rpc| async move { rpc.server_info().await }).await
    }

    /// The runtime of the store's own thread.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Runs one call on the store's own thread.
    pub(super) async fn run<T, F>(&self, call: impl FnOnce(Rpc) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let task = self.begin(call)?;
        // Nobody waits for a call whose caller is gone. Through a socket the broker goes on with what it began; in this
        // process the call itself has to, or a change could be cut by the end of the thread.
        let _cancel = self.in_sandbox().then(|| AbortOnDrop(task.abort_handle()));
        task.await.unwrap_or_else(|error| Err(cut(&error)))
    }

    /// The same, but the call is seen through also if its caller is gone.
    pub(super) async fn finish<T, F>(&self, call: impl FnOnce(Rpc) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.begin(call)?.await.unwrap_or_else(|error| Err(cut(&error)))
    }

    fn begin<T, F>(&self, call: impl FnOnce(Rpc) -> F) -> Result<JoinHandle<Result<T, Error>>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let under_way = UnderWay::count(&self.calls);
        // After the count: the thread that waits for zero cannot have missed this call.
        if *self.stop.borrow() {
            return Err(too_late());
        }
        let call = call(self.rpc.clone());
        Ok(self.runtime.spawn(async move {
            let answer = call.await;
            drop(under_way);
            answer
        }))
    }
}

pub(super) fn too_late() -> Error {
    Error::ShuttingDown(Refusal::new("this process's credential store was shut down"))
}

pub(super) fn cut(error: &JoinError) -> Error {
    if error.is_panic() {
        Error::InternalError(Refusal::new("the credential client failed"))
    } else {
        too_late()
    }
}

/// One call under way.
struct UnderWay(watch::Sender<usize>);

impl UnderWay {
    fn count(calls: &watch::Sender<usize>) -> Self {
        calls.send_modify(|calls| *calls += 1);
        Self(calls.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[async_trait]
impl CredentialStore for ProcessStore {
    async fn get_token(&self, key: &EntryKey, min_validity: Duration) -> Result<Option<AccessToken>, Error> {
        let key = key.clone();
        self.run(move |rpc| async move { rpc.get_token(&key, min_validity).await })
            .await
    }

    /// The stream is read by the store's own thread. [`shutdown`] waits until its reader is told, and no longer.
    async fn watch_token(&self, key: &EntryKey) -> Result<Option<TokenStream>, Error> {
        let (key, mut stop) = (key.clone(), self.stop.subscribe());
        let under_way = UnderWay::count(&self.calls);
        let stopped = async move {
            // An error means that every handle is gone, which is a stop as well.
            let _ = stop.wait_for(|stop| *stop).await;
            drop(under_way);
            too_late()
        };
        self.run(move |rpc| async move { rpc.watch_token(&key, stopped).await })
            .await
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.runtime.spawn(task);
    }

    async fn refresh_token(&self, key: &EntryKey, revision: Option<&str>) -> Result<Option<AccessToken>, Error> {
        let (key, revision) = (key.clone(), revision.map(str::to_owned));
        self.run(move |rpc| async move { rpc.refresh_token(&key, revision.as_deref()).await })
            .await
    }

    async fn save_token(&self, key: &EntryKey, token: SavedToken) -> Result<(), Error> {
        let key = key.clone();
        self.run(move |rpc| async move { rpc.save_token(&key, token).await })
            .await
    }

    async fn remove_token(&self, key: &EntryKey) -> Result<Revocation, Error> {
        let key = key.clone();
        self.run(move |rpc| async move { rpc.remove_token(&key).await }).await
    }

    async fn list_providers(&self) -> Result<Vec<Name>, Error> {
        self.run(|rpc| async move { rpc.list_providers().await }).await
    }

    async fn list_buckets(&self, provider: &Name) -> Result<Vec<Name>, Error> {
        let provider = provider.clone();
        self.run(move |rpc| async move { rpc.list_buckets(&provider).await })
            .await
    }

    async fn get_bucket_stats(&self, key: &EntryKey) -> Result<Option<BucketStats>, Error> {
        let key = key.clone();
        self.run(move |rpc| async move { rpc.get_bucket_stats(&key).await })
            .await
    }

    async fn acquire_refresh_lock(&self, _key: &EntryKey) -> Result<bool, Error> {
        Ok(true)
    }

    async fn release_refresh_lock(&self, _key: &EntryKey) -> Result<bool, Error> {
        Ok(true)
    }
}

#[async_trait]
impl ApiKeyStore for ProcessStore {
    async fn get_api_key(&self, name: &Name) -> Result<Option<SecretString>, Error> {
        let name = name.clone();
        self.run(move |rpc| async move { rpc.get_api_key(&name).await }).await
    }

    async fn has_api_key(&self, name: &Name) -> Result<bool, Error> {
        Ok(self.get_api_key(name).await?.is_some())
    }

    async fn list_api_keys(&self) -> Result<Vec<Name>, Error> {
        self.run(|rpc| async move { rpc.list_api_keys().await }).await
    }

    async fn save_api_key(&self, name: &Name, key: SecretString) -> Result<(), Error> {
        let name = name.clone();
        self.run(move |rpc| async move { rpc.save_api_key(&name, key).await })
            .await
    }

    async fn delete_api_key(&self, name: &Name) -> Result<(), Error> {
        let name = name.clone();
        self.run(move |rpc| async move { rpc.delete_api_key(&name).await })
            .await
    }
}
