//! Everything that surrounds a call, in one readable list: see [`Layers::answer`].

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use hyper::body::Incoming;
use tokio::{sync::watch, time::Instant};
use tonic::{body::Body, service::Routes};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::{
    admission::Admission,
    complete,
    ending::{self, Ending},
    peer::{AllowedPeers, Peer},
    single::OneMessage,
};
use crate::{
    broker::{
        Caller, Error,
        audit::{Audit, Record},
        caller::{Named, Subject},
    },
    clock::Clock,
    service::status,
};

/// What somebody reads who comes with another protocol.
const NOT_GRPC: &str = "This socket speaks gRPC: POST over HTTP/2 with content-type application/grpc. \
    Try `grpcurl -plaintext -unix SOCKET list`, or `buf curl --protocol grpc`.\n";
/// The largest header block of a request: names, values and 32 bytes for each field, as HTTP/2 counts it (RFC 9113
/// section 6.5.2).
const MAX_HEADER_BLOCK: usize = 16 * 1024;
/// The longest that a unary call may take, whatever deadline the client asked for.
const MAX_DEADLINE: Duration = Duration::from_secs(60);

/// The layers of one socket. Cheap to clone; every connection gets its own with [`Layers::for_connection`].
#[derive(Clone)]
pub struct Layers {
    shared: Arc<Shared>,
    /// Who is on the other end of the connection; `None` until it is known, or if the system would not tell.
    peer: Option<Peer>,
    /// Turns true when the broker stops; `None` until there is a connection.
    stopping: Option<watch::Receiver<bool>>,
    routes: Routes,
}

struct Shared {
    allowed: AllowedPeers,
    admission: Admission,
    record: Option<(Audit, Arc<dyn Clock>)>,
}

impl Layers {
    /// The layers around these routes. With `record`, credential operations are written to the audit file.
    #[must_use]
    pub fn new(
        routes: Routes,
        allowed: AllowedPeers,
        admission: Admission,
        record: Option<(Audit, Arc<dyn Clock>)>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                allowed,
                admission,
                record,
            }),
            peer: None,
            stopping: None,
            routes: routes.prepare(),
        }
    }

    /// The same layers for one connection, whose streams end when `stopping` turns true.
    #[must_use]
    pub fn for_connection(&self, peer: Option<Peer>, stopping: watch::Receiver<bool>) -> Self {
        Self {
            peer,
            stopping: Some(stopping),
            ..self.clone()
        }
    }

    /// One call, from the first check to the answer.
    async fn call_through(self, request: Request<Incoming>) -> Response<Body> {
        if let Some(refusal) = not_grpc(&request) {
            return refusal;
        }
        let method = request.uri().path().to_owned();
        let span = tracing::debug_span!("rpc", method, pid = self.peer.and_then(|peer| peer.pid));
        let response = self.answer(&method, request).instrument(span).await;
        complete::response(response, &method)
    }

    /// The order of checks: the first that fails answers. What comes behind them (message validation, policy,
    /// existence) is the order within each method of the service and the broker.
    async fn answer(self, method: &str, mut request: Request<Incoming>) -> Response<Body> {
        let mut recorded = self.recorded(method);
        let checked = || -> Result<Caller, Error> {
            let peer = self.shared.allowed.check(self.peer)?;
            header_block(&request)?;
            if is_open_to_all(method) {
                return Ok(nobody());
            }
            self.shared.admission.admit(request.headers(), peer)
        };
        let response = match checked() {
            Err(error) => status::from_error(&error).into_http(),
            Ok(caller) => {
                if let Some(recorded) = &mut recorded {
                    recorded.caller(&caller);
                }
                let deadline = deadline(method, request.headers());
                request.extensions_mut().insert(caller);
                AssertUnwindSafe(self.serve(method, deadline, request))
                    .catch_panic()
                    .await
            }
        };
        if let Some(recorded) = recorded {
            recorded.answered(response.headers());
        }
        response
    }

    /// The call itself, for as long as it may take.
    async fn serve(self, method: &str, deadline: Option<Duration>, request: Request<Incoming>) -> Response<Body> {
        let request = if has_many_requests(method) {
            request.map(Body::new)
        } else {
            request.map(|body| Body::new(OneMessage::of(body)))
        };
        let ends = deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        let response = within(deadline, self.routes, request).await;
        let Some(stopping) = self.stopping.filter(|_| is_stream(method)) else {
            return response;
        };
        let seconds = deadline.unwrap_or_default().as_secs_f64();
        response.map(|body| {
            Body::new(Ending::new(body, async move {
                tokio::select! {
                    error = ending::stop(stopping) => error,
                    error = ending::deadline(ends, seconds) => error,
                }
            }))
        })
    }

    /// The record of a credential operation; none for health, reflection and the version handshake.
    fn recorded(&self, method: &str) -> Option<Recorded> {
        let operation = method.strip_prefix("/credbroker.v1.CredentialBroker/")?;
        if operation == "GetServerInfo" {
            return None;
        }
        let (audit, clock) = self.shared.record.clone()?;
        Some(Recorded {
            audit,
            record: Some(Record {
                time: clock.now().wall.to_string(),
                sandbox: String::new(),
                peer_uid: self.peer.map(|peer| peer.uid),
                peer_pid: self.peer.and_then(|peer| peer.pid),
                // The name comes from the wire: it is bounded and escaped before it is written anywhere.
                operation: operation.chars().take(64).flat_map(char::escape_default).collect(),
                provider: None,
                bucket: None,
                key: None,
                outcome: "cancelled",
                reason: None,
            }),
            subject: None,
        })
    }
}

impl tower::Service<Request<Incoming>> for Layers {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let layers = self.clone();
        Box::pin(async move { Ok(layers.call_through(request).await) })
    }
}

/// What is no gRPC call gets a plain HTTP answer: nobody on the other end would read a gRPC status
/// (gRPC over HTTP/2: a wrong content type is answered with 415).
fn not_grpc<B>(request: &Request<B>) -> Option<Response<Body>> {
    let grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        // `+proto` and parameters; but `application/grpc-web` is another protocol.
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
    let status = match (request.method() == Method::POST, grpc) {
        (true, true) => return None,
        (false, _) => StatusCode::METHOD_NOT_ALLOWED,
        (true, false) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
    };
    let mut response = Response::new(Body::new(NOT_GRPC.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
    }
    Some(response)
}

/// Health and reflection need no capability on a Unix socket: the directory around it is the wall.
fn is_open_to_all(method: &str) -> bool {
    method.starts_with("/grpc.health.v1.Health/")
        || method.starts_with("/grpc.reflection.v1.ServerReflection/")
        || method.starts_with("/grpc.reflection.v1alpha.ServerReflection/")
}

/// The caller of a method that is open to all: it may do nothing else.
fn nobody() -> Caller {
    Caller {
        principal: "nobody".into(),
        policy: Arc::default(),
        subject: Subject::default(),
    }
}

fn header_block<B>(request: &Request<B>) -> Result<(), Error> {
    let uri = request.uri();
    let pseudo = [
        (":method", request.method().as_str().len()),
        (":scheme", uri.scheme_str().map_or(0, str::len)),
        (
            ":authority",
            uri.authority().map_or(0, |authority| authority.as_str().len()),
        ),
        (":path", uri.path_and_query().map_or(0, |path| path.as_str().len())),
    ];
    let fields = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.len()));
    let size: usize = fields.chain(pseudo).map(|(name, value)| name.len() + value + 32).sum();
    if size > MAX_HEADER_BLOCK {
        return Err(Error::MessageTooLarge {
            what: "the header block",
            limit: MAX_HEADER_BLOCK,
        });
    }
    Ok(())
}

/// How long the call may take: the client's `grpc-timeout`, at most [`MAX_DEADLINE`]. Streams (health's Watch and
/// reflection) have no deadline of the server's.
fn deadline(method: &str, headers: &HeaderMap) -> Option<Duration> {
    let asked = headers
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(grpc_timeout);
    match asked {
        Some(asked) if is_stream(method) => Some(asked),
        None if is_stream(method) => None,
        _ => Some(asked.map_or(MAX_DEADLINE, |asked| asked.min(MAX_DEADLINE))),
    }
}

/// Whether the answer is a stream: health's Watch and reflection.
fn is_stream(method: &str) -> bool {
    is_open_to_all(method) && !method.ends_with("/Check")
}

/// Whether the request is a stream: reflection.
fn has_many_requests(method: &str) -> bool {
    is_stream(method) && method.starts_with("/grpc.reflection.")
}

/// `grpc-timeout`: at most 8 digits and a unit (gRPC over HTTP/2). What does not parse counts as absent, as gRPC's own
/// servers have it.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

async fn within(deadline: Option<Duration>, routes: Routes, request: Request<Body>) -> Response<Body> {
    let call = async {
        let Ok(response) = routes.oneshot(request).await;
        response
    };
    let Some(deadline) = deadline else { return call.await };
    match tokio::time::timeout(deadline, call).await {
        Ok(response) => response,
        Err(_elapsed) => {
            let seconds = deadline.as_secs_f64();
            status::from_error(&Error::DeadlineExceeded { seconds }).into_http()
        }
    }
}

/// A record in the making. If the caller goes away first, the drop writes it as `cancelled`.
struct Recorded {
    audit: Audit,
    record: Option<Record>,
    subject: Option<Subject>,
}

impl Recorded {
    fn caller(&mut self, caller: &Caller) {
        self.subject = Some(caller.subject.clone());
        if let Some(record) = &mut self.record {
            record.sandbox = caller.principal.to_string();
        }
    }

    fn answered(mut self, headers: &HeaderMap) {
        let Some(record) = &mut self.record else { return };
        match complete::failure(headers) {
            None => record.outcome = "ok",
            Some(failure) => {
                record.outcome = "error";
                record.reason = failure
                    .get_details_error_info()
                    .or_else(|| {
                        let completed = status::complete(&failure, "");
                        completed.get_details_error_info()
                    })
                    .map(|info| info.reason);
            }
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        match self.subject.as_ref().and_then(Subject::named) {
            Some(Named::Entry(key)) => {
                record.provider = Some(key.provider.to_string());
                record.bucket = Some(key.bucket.to_string());
            }
            Some(Named::Provider(provider)) => record.provider = Some(provider.to_string()),
            Some(Named::Key(name)) => record.key = Some(name.to_string()),
            None => {}
        }
        self.audit.record(record);
    }
}

/// A panic in a handler is an answer like any other, not a connection that dies under its neighbours.
trait CatchPanic: Future<Output = Response<Body>> + Sized {
    async fn catch_panic(self) -> Response<Body>;
}

impl<F: Future<Output = Response<Body>>> CatchPanic for AssertUnwindSafe<F> {
    async fn catch_panic(self) -> Response<Body> {
        let mut call = std::pin::pin!(self.0);
        std::future::poll_fn(
            |cx| match std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
                Ok(poll) => poll,
                Err(_panic) => {
                    let error = Error::Internal("a handler panicked".into());
                    Poll::Ready(status::from_error(&error).into_http())
                }
            },
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeout_table() {
        let table = [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1é", None),
        ];
        for (text, want) in table {
            assert_eq!(grpc_timeout(text), want, "{text}");
        }
    }

    #[test]
    fn deadline_table() {
        let headers = |timeout: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(timeout) = timeout {
                headers.insert("grpc-timeout", timeout.parse().unwrap());
            }
            headers
        };
        let call = "/credbroker.v1.CredentialBroker/GetToken";
        let watch = "/grpc.health.v1.Health/Watch";
        let secs = Duration::from_secs;
        for (method, timeout, want) in [
            (call, None, Some(secs(60))),
            (call, Some("5S"), Some(secs(5))),
            (call, Some("5H"), Some(secs(60))),
            (call, Some("junk"), Some(secs(60))),
            ("/grpc.health.v1.Health/Check", None, Some(secs(60))),
            (watch, None, None),
            (watch, Some("5H"), Some(secs(5 * 3600))),
        ] {
            assert_eq!(deadline(method, &headers(timeout)), want, "{method} {timeout:?}");
        }
    }

    #[test]
    fn the_header_block_is_counted_as_http2_counts_it() {
        let pseudo = [
            ":method",
            "POST",
            ":scheme",
            "http",
            ":authority",
            "localhost",
            ":path",
            "/a/b",
        ];
        let pseudo = pseudo.concat().len() + 4 * 32;
        let request = |value: usize| {
            let request = Request::post("http://localhost/a/b").header("k", "v".repeat(value));
            header_block(&request.body(()).unwrap())
        };
        assert!(request(16 * 1024 - 33 - pseudo).is_ok());
        assert!(request(16 * 1024 - 32 - pseudo).is_err());
    }
}
