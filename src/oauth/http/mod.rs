//! The one HTTP client. It makes one request over one connection, and the connection is closed when it returns.
//!
//! hyper is driven directly, as on the other side of the house: the socket is then a local variable, so there is no pool
//! that could keep it, no retry or redirect that could send a body a second time, and it is known whether anything of
//! the request was written. Bodies are bounded, never decompressed, and kept in memory that is wiped, as far as it is
//! ours: hyper's read buffer is not.
//!
//! A request runs in a task of its own. Who stops waiting for it does not cut it off.

mod connect;
mod written;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::{client::proxy::matcher::Matcher, rt::TokioIo};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

pub use self::connect::{Layer, Unreachable};
use self::{
    connect::Stream,
    written::{Watched, Written},
};
use super::Endpoint;

const AGENT: &str = concat!("credbroker/", env!("CARGO_PKG_VERSION"));
/// The most of an answer's header block.
const MAX_HEAD: usize = 64 * 1024;

/// How long an exchange may take, and how much it may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// From the look-up of the name to the end of the TLS handshake.
    pub connect: Duration,
    /// From the first byte of the request to the last of the answer.
    pub answer: Duration,
    /// Bytes of the answer's body.
    pub body: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            body: 1024 * 1024,
        }
    }
}

/// Which proxies lead outside, in the words of curl. Loopback is never asked through one.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For https (`HTTPS_PROXY`, else `ALL_PROXY`).
    pub https: Option<String>,
    /// Hosts that are asked directly (`NO_PROXY`).
    pub except: Option<String>,
}

/// The client. It keeps no connection, so there is nothing in it but settings.
pub struct Http {
    limits: HttpLimits,
    proxies: Matcher,
    tls: OnceLock<Arc<ClientConfig>>,
}

/// What is sent.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) to: Endpoint,
    /// `Content-Type` and the body.
    pub(super) body: Option<(HeaderValue, Zeroizing<Vec<u8>>)>,
    pub(super) authorization: Option<HeaderValue>,
}

/// A complete answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// Why there is no complete answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Nothing of the request was written.
    #[error(transparent)]
    NotSent(Unreachable),
    /// Something of it was written; what was seen then.
    #[error("{0}")]
    Lost(&'static str),
}

impl Http {
    /// A client with these limits and proxies.
    #[must_use]
    pub fn new(limits: HttpLimits, proxies: &Proxies) -> Self {
        let mut matcher = Matcher::builder();
        if let Some(proxy) = &proxies.https {
            matcher = matcher.https(proxy.as_str());
        }
        if let Some(except) = &proxies.except {
            matcher = matcher.no(except.as_str());
        }
        Self {
            limits,
            proxies: matcher.build(),
            tls: OnceLock::new(),
        }
    }

    /// Fetches a document that is no secret (GET).
    pub(super) async fn get(self: &Arc<Self>, from: Endpoint) -> Result<Answer, NoAnswer> {
        let outgoing = Outgoing {
            method: Method::GET,
            to: from,
            body: None,
            authorization: None,
        };
        self.exchange(outgoing).await
    }

    /// Sends the request once. When this returns, its connection is closed.
    pub(super) async fn exchange(self: &Arc<Self>, outgoing: Outgoing) -> Result<Answer, NoAnswer> {
        let http = Arc::clone(self);
        let task = tokio::spawn(async move { http.exchange_here(outgoing).await });
        // The task neither panics nor is aborted, unless the runtime goes down with the process.
        task.await.unwrap_or(Err(NoAnswer::Lost("the process was ending")))
    }

    /// Connects and closes again: whether the endpoint can be reached.
    ///
    /// # Errors
    /// The layer that failed.
    pub(super) async fn reach(&self, endpoint: &Endpoint) -> Result<(), Unreachable> {
        self.connect(endpoint).await.map(drop)
    }

    async fn exchange_here(&self, outgoing: Outgoing) -> Result<Answer, NoAnswer> {
        let stream = self.connect(&outgoing.to).await.map_err(NoAnswer::NotSent)?;
        self.exchange_over(stream, outgoing).await
    }

    /// The connection is closed when this returns: whatever owned it is dropped here.
    async fn exchange_over(&self, stream: Stream, outgoing: Outgoing) -> Result<Answer, NoAnswer> {
        let written = Written::default();
        let deadline = Instant::now() + self.limits.answer;
        let answered = match timeout_at(deadline, self.ask(stream, &written, outgoing)).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err("no complete answer within the time limit"),
        };
        answered.map_err(|seen| {
            if written.anything() {
                NoAnswer::Lost(seen)
            } else {
                NoAnswer::NotSent(Unreachable::closed_at_once())
            }
        })
    }

    async fn ask(&self, stream: Stream, written: &Written, outgoing: Outgoing) -> Result<Answer, &'static str> {
        let request = request(outgoing).ok_or("the request could not be made")?;
        let io = TokioIo::new(Watched::new(stream, written.clone()));
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(io)
            .await
            .map_err(|_hyper| "the connection broke")?;
        let exchange = async move {
            let answer = sender.send_request(request).await.map_err(|error| seen(&error))?;
            let (head, body) = answer.into_parts();
            let body = read(body, self.limits.body).await?;
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            // The connection only moves bytes; what became of the request is told by the exchange, also after its end.
            biased;
            answer = &mut exchange => answer,
            _ended = &mut connection => exchange.await,
        }
    }
}

fn request(outgoing: Outgoing) -> Option<Request<Full<Bytes>>> {
    let uri = outgoing.to.uri();
    let host = HeaderValue::from_str(uri.authority()?.as_str()).ok()?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(outgoing.method)
        .uri(path.parse::<Uri>().ok()?)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close");
    if let Some(authorization) = outgoing.authorization {
        request = request.header(http::header::AUTHORIZATION, authorization);
    }
    let body = match outgoing.body {
        None => Full::default(),
        Some((kind, bytes)) => {
            request = request.header(CONTENT_TYPE, kind);
            Full::new(Bytes::from_owner(bytes))
        }
    };
    request.body(body).ok()
}

/// The kind of failure, in words of our own.
fn seen(error: &hyper::Error) -> &'static str {
    if error.is_incomplete_message() {
        "the connection was closed before the answer was complete"
    } else if error.is_parse() {
        "the answer was not HTTP/1.1"
    } else {
        "the connection broke before the answer was complete"
    }
}

/// The whole body, if it is not longer than `most`.
async fn read(mut body: Incoming, most: usize) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let mut whole = Zeroizing::new(Vec::with_capacity(16 * 1024));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| seen(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > most {
            return Err("the answer was too large");
        }
        if length > whole.capacity() {
            // Growing in place would leave parts of a token behind.
            let mut larger = Zeroizing::new(Vec::with_capacity((length * 2).min(most)));
            larger.extend_from_slice(&whole);
            whole = larger;
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn outgoing() -> Outgoing {
        let kind = HeaderValue::from_static("text/plain");
        Outgoing {
            method: Method::POST,
            to: Endpoint::parse("http://127.0.0.1/t").unwrap(),
            body: Some((kind, Zeroizing::new(b"refresh_token=r".to_vec()))),
            authorization: None,
        }
    }

    #[tokio::test]
    async fn what_is_lost_is_what_was_written_to() {
        let http = Http::new(HttpLimits::default(), &Proxies::default());
        let (ours, theirs) = duplex(4096);
        drop(theirs);
        let closed = http.exchange_over(Box::new(ours), outgoing()).await;
        assert!(matches!(closed, Err(NoAnswer::NotSent(_))), "nothing was written");

        // One byte is enough to make it unknowable.
        let (ours, mut theirs) = duplex(1);
        let (asked, _) = tokio::join!(http.exchange_over(Box::new(ours), outgoing()), async move {
            let first = theirs.read_u8().await;
            drop(theirs);
            first
        });
        assert!(matches!(asked, Err(NoAnswer::Lost(_))), "something was written");
    }

    /// Whether the other side has closed, by now: no other task gets a turn.
    fn is_closed(stream: &mut DuplexStream) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut rest = Vec::new();
        let mut reading = std::pin::pin!(stream.read_to_end(&mut rest));
        reading.as_mut().poll(&mut context).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_is_closed_when_the_answer_is_there() {
        let limits = HttpLimits {
            answer: Duration::from_secs(1),
            ..HttpLimits::default()
        };
        let http = Http::new(limits, &Proxies::default());
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n{}",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "no HTTP",
        ] {
            let (ours, mut theirs) = duplex(4096);
            let (_, mut theirs) = tokio::join!(http.exchange_over(Box::new(ours), outgoing()), async move {
                theirs.read_u8().await.unwrap();
                theirs.write_all(answer.as_bytes()).await.unwrap();
                theirs
            });
            assert!(is_closed(&mut theirs), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_sixty_seconds_and_the_connection_ends_with_them() {
        let http = Http::new(HttpLimits::default(), &Proxies::default());
        let (ours, mut theirs) = duplex(4096);
        let began = Instant::now();
        let asked = http.exchange_over(Box::new(ours), outgoing()).await;
        assert!(matches!(asked, Err(NoAnswer::Lost(_))));
        assert_eq!(began.elapsed(), Duration::from_secs(60));
        let mut request = Vec::new();
        theirs.read_to_end(&mut request).await.unwrap();
        assert!(request.ends_with(b"refresh_token=r"), "and then comes the end");
    }
}
