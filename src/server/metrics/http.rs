//! The HTTP around the metrics: `GET /metrics`, one question a connection, and little time for it.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HOST},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{Metrics, listen::Listening};

/// Connections at once. For one more the oldest is cut: who asks takes milliseconds, who only holds on may go.
const MOST_CONNECTIONS: usize = 64;
/// From accept to the last octet of the answer.
const TIME: Duration = Duration::from_secs(10);
/// From accept to the end of the request's header.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// The largest header of a request, which is also the least that hyper takes.
const HEADER: usize = 8 * 1024;
const HEADER_FIELDS: usize = 64;
/// The pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What OpenMetrics is called.
const TEXT: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Answers until `shutdown` completes; what is being answered then is cut off.
///
/// # Errors
/// The listener cannot be used with the runtime.
pub async fn serve(
    listening: Listening,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let listener = Listener::new(listening)?;
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Some(_) = connections.join_next() => oldest_first.retain(|connection: &AbortHandle| !connection.is_finished()),
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    if oldest_first.len() >= MOST_CONNECTIONS
                        && let Some(oldest) = oldest_first.pop_front()
                    {
                        oldest.abort();
                    }
                    oldest_first.push_back(connections.spawn(answer(stream, Arc::clone(&metrics))));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    fn new(listening: Listening) -> std::io::Result<Self> {
        Ok(match listening {
            Listening::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Listening::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }

    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn answer(stream: Box<dyn Stream>, metrics: Arc<Metrics>) {
    let service = service_fn(|request: Request<Incoming>| {
        let metrics = Arc::clone(&metrics);
        async move { Ok::<_, Infallible>(response(&request, &metrics).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER)
        .max_headers(HEADER_FIELDS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics ended with an error"),
        Err(_elapsed) => tracing::debug!("a connection for metrics took too long and is cut"),
    }
}

/// Whether the client meant this host. A page in a browser whose name was made to point here (DNS rebinding) did not, and
/// would otherwise read what only this host is to read.
fn is_meant<B>(request: &Request<B>) -> bool {
    let Some(host) = request.headers().get(HOST) else {
        return true;
    };
    let host = host.to_str().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "127.0.0.1" | "[::1]" | "localhost")
}

async fn response<B>(request: &Request<B>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let method = request.method();
    let (status, kind, text) = if !is_meant(request) {
        let text = Bytes::from_static(b"Ask for 127.0.0.1, [::1] or localhost.\n");
        (StatusCode::MISDIRECTED_REQUEST, PLAIN, text)
    } else if request.uri().path() != "/metrics" {
        let text = Bytes::from_static(b"There is nothing here but /metrics.\n");
        (StatusCode::NOT_FOUND, PLAIN, text)
    } else if method != Method::GET {
        let text = Bytes::from_static(b"Metrics are read with GET.\n");
        (StatusCode::METHOD_NOT_ALLOWED, PLAIN, text)
    } else {
        (StatusCode::OK, TEXT, metrics.text().await)
    };
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_meant() {
        let meant = |host: &str| is_meant(&Request::get("/metrics").header(HOST, host).body(()).unwrap());
        for host in [
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]",
            "[::1]:9464",
            "localhost",
            "localhost:1",
        ] {
            assert!(meant(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9464",
            "127.0.0.1.evil.example",
            "localhost.",
            "10.0.0.1:1",
            "x:127.0.0.1",
        ] {
            assert!(!meant(host), "{host}");
        }
        // HTTP/1.0 needs none, and no browser leaves it out.
        assert!(is_meant(&Request::get("/metrics").body(()).unwrap()));
    }
}
