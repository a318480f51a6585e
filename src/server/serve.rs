//! Accepts connections on a bound socket and serves each until it ends or the broker stops.
//!
//! Hyper's HTTP/2 connection is driven here directly, rather than through tonic's own server: the broker needs to put
//! its adapter around the accepted stream, to answer deadlines itself, and to end single connections.

use std::{
    future::Future,
    os::unix::net::UnixListener as StdListener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

use super::{authority::AcceptAnyAuthority, layers::Layers, peer::Peer};

/// How long calls under way may still take when the broker stops.
const DRAIN: Duration = Duration::from_secs(5);
/// The pause after an accept that failed: the system is out of descriptors or memory, and asking at once again would
/// only burn what is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2's own limit for a header block; the layer's limit of 16 KiB answers with a reason below it.
const MAX_HEADER_LIST: u32 = 64 * 1024;
const MAX_STREAMS: u32 = 256;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What goes on at a served socket.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// Connections that are open now.
    pub connections: Arc<AtomicU64>,
}

/// Serves until `shutdown` completes, then lets calls under way end, for at most 5 s.
///
/// # Errors
/// The listener cannot be used with the runtime.
pub async fn serve(
    listener: StdListener,
    layers: Layers,
    served: Served,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            // Ended connections are taken out at once, so that the set does not grow.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, layers.clone(), stopping.clone());
                    let open = OpenConnection::count(&served.connections);
                    connections.spawn(async move {
                        connection.await;
                        drop(open);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!(open = connections.len(), "connections did not end in time and are cut");
    }
    Ok(())
}

async fn connection(stream: UnixStream, layers: Layers, mut stopping: watch::Receiver<bool>) {
    let peer = Peer::of(&stream);
    let service = TowerToHyperService::new(layers.for_connection(peer, stopping.clone()));
    let io = TokioIo::new(AcceptAnyAuthority::new(stream));
    let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST);
    let mut connection = std::pin::pin!(http2.serve_connection(io, service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _stop = async { stopping.wait_for(|stop| *stop).await.map(drop) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Clients end connections in many ways; what matters of a call is in its own record.
        tracing::debug!(%error, ?peer, "a connection ended with an error");
    }
}

/// Counts an open connection for as long as it lives.
struct OpenConnection(Arc<AtomicU64>);

impl OpenConnection {
    fn count(connections: &Arc<AtomicU64>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
