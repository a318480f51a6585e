//! The watchers: streams of the client library, each read by a task of its own, all on one core.

use std::{path::Path, sync::mpsc as blocking, thread, time::Duration};

use credbroker::{
    client::{CredentialStore as _, ExposeSecret as _, ProxyTokenStore, entry},
    proto::{WatchTokenRequest, credential_broker_client::CredentialBrokerClient as Stub},
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc, task::JoinSet};
use tokio_stream::StreamExt as _;
use tonic::transport::Endpoint;

use crate::{
    Result,
    server::{PROVIDER, Server, bucket, monotonic},
};

/// How long a turn may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pins the process to one core. Where that is not allowed, the figures are only noisier.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("not pinned to core {core}: {error}");
    }
    Ok(())
}

/// What a watcher received, and when.
struct Received {
    entry: usize,
    turn: u64,
    at: u64,
}

/// All who watch a server. They end when this is dropped.
pub(crate) struct Watchers {
    received: mpsc::UnboundedReceiver<Received>,
    watching: JoinSet<()>,
    /// The entry of each.
    entry: fn(usize) -> usize,
}

impl Watchers {
    /// Returns when each has its first token.
    pub(crate) async fn begin(socket: &Path, number: usize, of: fn(usize) -> usize) -> Result<Self> {
        let store = ProxyTokenStore::new(socket, None)?;
        let (told, received) = mpsc::unbounded_channel();
        let mut watching = JoinSet::new();
        for watcher in 0..number {
            let (told, entry) = (told.clone(), of(watcher));
            let key = self::entry(PROVIDER, &bucket(entry))?;
            let mut tokens = store.watch_token(&key).await?.ok_or("an entry is missing")?;
            tokens.next().await.ok_or("a stream without a token")??;
            watching.spawn(async move {
                while let Some(Ok(token)) = tokens.next().await {
                    let at = monotonic();
                    let turn = token.access_token.expose_secret().parse().unwrap_or_default();
                    // The bench is over.
                    let _ = told.send(Received { entry, turn, at });
                }
            });
        }
        Ok(Self {
            received,
            watching,
            entry: of,
        })
    }

    /// The first so many entries change, one after the other; how long each who watches one of them waited.
    pub(crate) async fn turn(&mut self, server: &mut Server, entries: usize) -> Result<Vec<Duration>> {
        let turn = server.next_turn();
        let mut durable = server.change(turn, entries)?;
        let expected = (0..self.watching.len())
            .filter(|&watcher| (self.entry)(watcher) < entries)
            .count();
        let mut received = Vec::with_capacity(expected);
        let all = async {
            while received.len() < expected {
                let one = self.received.recv().await.ok_or("the watchers are gone")?;
                if one.turn == turn {
                    received.push(one);
                }
            }
            Result::Ok(())
        };
        tokio::time::timeout(PATIENCE, all)
            .await
            .map_err(|_late| "a watcher was not told")??;
        let durable = durable.recv().await.ok_or("the server failed")??;
        let waited = received.iter().map(|one| {
            let since = durable.get(one.entry).copied().unwrap_or(u64::MAX);
            Duration::from_nanos(one.at.saturating_sub(since))
        });
        Ok(waited.collect())
    }
}

/// One more, who asks for the first entry and neither reads what comes nor gives room for it. It ends when what is
/// returned is dropped.
pub(crate) fn stall(socket: &Path) -> Result<blocking::Sender<()>> {
    let socket = socket.to_owned();
    let (end, ended) = blocking::channel::<()>();
    let (report, reported) = blocking::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let begun = runtime.map_err(Into::into).and_then(|runtime| {
            let answer = runtime.block_on(async {
                let channel = Endpoint::from_static("http://localhost")
                    .initial_stream_window_size(0)
                    .connect_with_connector(tower::service_fn(move |_| {
                        let socket = socket.clone();
                        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
                    }))
                    .await?;
                let request = WatchTokenRequest {
                    provider: PROVIDER.into(),
                    bucket: bucket(0),
                };
                Result::Ok(Stub::new(channel).watch_token(request).await?)
            })?;
            Result::Ok((runtime, answer))
        });
        let (_held, told) = match begun {
            Ok(held) => (Some(held), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // Whoever is not there any more needs no answer.
        let _ = report.send(told);
        let _ = ended.recv();
    });
    reported.recv()??;
    Ok(end)
}
