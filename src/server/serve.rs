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

use super::{
    authority::AcceptAnyAuthority,
    layers::{ConnectionLayers, Layers},
    limits::{Crowd, Guarded, Place},
    peer::{Peer, Pinned},
};

/// How long calls under way may still take when the broker stops.
pub(super) const DRAIN: Duration = Duration::from_secs(5);
/// How long the answers to the last of them may take on their way.
const FLUSH: Duration = Duration::from_secs(1);
/// The pause after an accept that failed: the system is out of descriptors or memory, and asking at once again would
/// only burn what is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2's own limit for a header block; the layer's limit of 16 KiB answers with a reason below it.
const MAX_HEADER_LIST: u32 = 64 * 1024;
const MAX_STREAMS: u32 = 256;
/// Streams that the client reset before they were handed on; one more is a flood. A program with some dozens of threads
/// may cancel all its calls at once while the broker is slow, and `h2`'s own 20 is less; each one costs a task.
const PENDING_RESETS: usize = 64;
/// Streams that `h2` resets for breaking the rules, in the life of a connection; one more and the connection ends.
const LOCAL_RESETS: usize = 1024;
/// How much of one request may be there unread: a message of 64 KiB is read while it comes.
const STREAM_WINDOW: u32 = 64 * 1024;
/// How much of all requests of a connection may be there unread; also twice the overhead that `h2` allows DATA in small
/// frames, and 256 requests in one small frame each must fit in that.
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// How much of one answer `h2` takes before it is sent: the longest unary answer.
const SEND_BUFFER: usize = 64 * 1024;
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
    let crowd = Crowd::new(&layers.limits());
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            // Ended connections are taken out at once, so that the set does not grow.
            Some(_) = connections.join_next() => {}
            // With one too many, one has been told to go; the next is let in when it is gone.
            accepted = listener.accept(), if connections.len() <= crowd.most() => match accepted {
                Ok((stream, _)) => {
                    let layers = layers.for_connection(Peer::of(&stream), stopping.clone());
                    let place = crowd.join(layers.connection());
                    let pinned = Pinned::of(&stream);
                    let connection = serve_one(stream, layers, place, pinned);
                    let open = OpenConnection::count(&served.connections);
                    connections.spawn(async move {
                        connection.await;
                        drop(open);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    crowd.shrink();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN + FLUSH, drained).await.is_err() {
        tracing::warn!(open = connections.len(), "connections did not end in time and are cut");
    }
    drop(connections);
    layers.tell_rest();
    Ok(())
}

async fn serve_one(stream: UnixStream, layers: ConnectionLayers, place: Place, peer: Option<Pinned>) {
    let connection = Arc::clone(layers.connection());
    // Nothing that it says is read before. When the broker stops nobody waits for an answer that may not come.
    tokio::select! {
        () = layers.describe(peer) => {}
        () = connection.stopping() => {}
        _cut = connection.ends(&place) => return,
    }
    let service = TowerToHyperService::new(layers);
    let io = TokioIo::new(AcceptAnyAuthority::new(Guarded::new(stream, Arc::clone(&connection))));
    let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    let mut http = std::pin::pin!(http2.serve_connection(io, service));
    let served = async {
        tokio::select! {
            ended = &mut http => return ended,
            () = connection.stopping() => {}
        }
        // Who has not said anything yet is not waited for.
        if !connection.settled() {
            return Ok(());
        }
        http.as_mut().graceful_shutdown();
        http.await
    };
    tokio::select! {
        biased;
        ended = served => if let Err(error) = ended {
            // Clients end connections in many ways; what matters of a call is in its own record.
            tracing::debug!(%error, peer = ?connection.peer(), "a connection ended with an error");
        },
        cut = connection.ends(&place) => tracing::debug!(?cut, peer = ?connection.peer(), "a connection was cut"),
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
