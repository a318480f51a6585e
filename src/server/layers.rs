//! Everything that surrounds a call, in one readable list: see [`ConnectionLayers::answer`].

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
    uri::PathAndQuery,
};
use hyper::body::Incoming;
use tokio::{sync::watch, time::Instant};
use tonic::body::Body;
use tracing::Instrument as _;

use super::{
    admission::Admission,
    complete,
    deadline::deadline,
    ending::{self, Ending},
    going_on::{goes_on, to_the_end},
    header_block::header_block,
    limits::{Answer, Arriving, Connection, HOLD, Kind, Limits, OpenCall, OpenStream, Paced, SocketRate},
    metrics::Calls,
    peer::{AllowedPeers, Describer, OnlySandbox, Peer, Pinned, Verdict},
    recorded::Recorded,
    refusals::RefusedCalls,
    routes::{CREDENTIALS, Routes, SECRETS},
    serve::DRAIN,
    single::OneMessage,
};
use crate::{
    broker::{
        Caller, Error,
        audit::{Audit, Record},
        caller::Subject,
        journal::Journal,
    },
    clock::Clock,
    service::status,
};

/// What somebody reads who comes with another protocol.
const NOT_GRPC: &str = "This socket speaks gRPC: POST over HTTP/2 with content-type application/grpc. \
    Try `grpcurl -plaintext -unix SOCKET list`, or `buf curl --protocol grpc`.\n";
const WATCH_TOKEN: &str = "/credbroker.v1.CredentialBroker/WatchToken";
const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const DELTA_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";

/// The layers of one socket. Cheap to clone; every connection gets its own with [`Layers::for_connection`].
#[derive(Clone)]
pub struct Layers {
    shared: Arc<Shared>,
    routes: Routes,
    limits: Limits,
    rate: Arc<SocketRate>,
    /// `None`: nobody wants to know.
    calls: Option<Arc<Calls>>,
    /// `None`: uid and pid are enough.
    describer: Option<Describer>,
    /// `None`: whoever has the right uid.
    sandbox: Option<OnlySandbox>,
}

struct Shared {
    allowed: AllowedPeers,
    admission: Admission,
    record: Option<Recording>,
}

/// Where calls are written down.
struct Recording {
    audit: Audit,
    clock: Arc<dyn Clock>,
    refusals: Arc<RefusedCalls>,
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
        let limits = Limits::default();
        let record = record.map(|(audit, clock)| Recording {
            refusals: RefusedCalls::new(audit.clone()),
            audit,
            clock,
        });
        Self {
            shared: Arc::new(Shared {
                allowed,
                admission,
                record,
            }),
            routes: routes.prepare(),
            limits,
            rate: Arc::new(SocketRate::new(&limits)),
            calls: None,
            describer: None,
            sandbox: None,
        }
    }

    /// The same, finding out more about who connects; and serving nobody but the processes of `sandbox`, if there is one.
    #[must_use]
    pub fn describing(self, describer: Describer, sandbox: Option<OnlySandbox>) -> Self {
        Self {
            describer: Some(describer),
            sandbox,
            ..self
        }
    }

    /// The same, counting how its calls end.
    #[must_use]
    pub fn counting(self, calls: Arc<Calls>) -> Self {
        Self {
            calls: Some(calls),
            ..self
        }
    }

    /// The same with other limits than the default ones.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self {
            limits,
            rate: Arc::new(SocketRate::new(&limits)),
            ..self
        }
    }

    /// Writes down what is only counted so far. To be called when no more calls come.
    pub(super) fn tell_rest(&self) {
        if let Some(record) = &self.shared.record {
            record.refusals.tell_rest();
        }
    }

    /// How much the socket's clients may ask for.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The same layers for one connection, whose calls end when `stopping` turns true. `peer` is `None` if the system
    /// would not tell.
    #[must_use]
    pub fn for_connection(&self, peer: Option<Peer>, stopping: watch::Receiver<bool>) -> ConnectionLayers {
        ConnectionLayers {
            layers: Arc::new(self.clone()),
            connection: Connection::new(peer, &self.limits, stopping),
        }
    }
}

/// The layers of one connection.
#[derive(Clone)]
pub struct ConnectionLayers {
    layers: Arc<Layers>,
    connection: Arc<Connection>,
}

/// What a call that passed all checks goes on with.
struct Passed {
    caller: Caller,
    stream: Option<OpenStream>,
}

impl ConnectionLayers {
    /// What the layers count for the connection, for those who end it.
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Finds out about the peer, before it is served.
    pub(super) async fn describe(&self, peer: Option<Pinned>) {
        let Layers { describer, sandbox, .. } = &*self.layers;
        let (Some(describer), Some(peer)) = (describer, peer) else {
            return;
        };
        let sandbox = match sandbox {
            Some(sandbox) => sandbox.known().await,
            None => None,
        };
        self.connection.describe(describer.describe(peer, sandbox).await);
    }

    /// Where only a sandbox is served: whether the peer is of it.
    fn attested(&self) -> Result<(), Error> {
        let verdict = self.connection.described().and_then(|described| described.verdict);
        match (&self.layers.sandbox, verdict) {
            (None, _) | (Some(_), Some(Verdict::Inside)) => Ok(()),
            (Some(_), _) => Err(Error::PeerOutside),
        }
    }

    /// One call, from the first check to the answer.
    async fn call_through(self, request: Request<Incoming>, call: OpenCall) -> Response<Body> {
        // A share of what was read, not a copy.
        let path = request.uri().path_and_query().cloned();
        let method = path.as_ref().map_or("", PathAndQuery::path);
        // Every call counts, also one that another check refuses first.
        let rate = self.connection.rates().check(kind(method));
        let mut counted = None;
        let (response, stream) = if let Some(refusal) = not_grpc(&request) {
            drop(request);
            hold(rate.is_err()).await;
            // It is no call, and is not counted as one.
            (refusal, None)
        } else {
            counted = self.layers.calls.as_ref().map(|calls| calls.begin(method));
            let pid = self.connection.peer().and_then(|peer| peer.pid);
            let span = tracing::debug_span!("rpc", method, pid);
            // Pinned first, because it is large and would be copied into each wrapper around it.
            pin!(self.answer(method, request, rate)).instrument(span).await
        };
        // One box around everything that goes on with the body.
        complete::response(response, path, counted).map(|body| Body::new(Answer::new(body, call, stream)))
    }

    /// The order of checks: the first that fails answers. What comes behind them (message validation, policy,
    /// existence) is the order within each method of the service and the broker.
    fn check<B>(
        &self,
        method: &str,
        request: &Request<B>,
        rate: Result<(), Error>,
        recorded: &mut Option<Recorded>,
    ) -> Result<Passed, Error> {
        let Shared { allowed, admission, .. } = &*self.layers.shared;
        let peer = allowed.check(self.connection.peer())?;
        self.attested()?;
        header_block(request)?;
        let stream = is_stream(method)
            .then(|| self.connection.open_stream(&self.layers.rate))
            .transpose()?;
        rate?;
        let caller = match kind(method) {
            Kind::Companion => nobody(),
            Kind::Own => {
                let caller = admission.admit(request.headers(), peer)?;
                if let Some(recorded) = recorded {
                    recorded.caller(&caller);
                }
                self.connection.rates().check_socket(&self.layers.rate)?;
                caller
            }
        };
        recorded.as_ref().map_or(Ok(()), Recorded::check)?;
        Ok(Passed { caller, stream })
    }

    async fn answer(
        self,
        method: &str,
        mut request: Request<Incoming>,
        rate: Result<(), Error>,
    ) -> (Response<Body>, Option<OpenStream>) {
        let mut recorded = self.recorded(method).await;
        let over = rate.is_err();
        let (response, stream) = match self.check(method, &request, rate, &mut recorded) {
            Err(error) => {
                // What is held back is the answer, not the request, nor its place in the record.
                drop(request);
                if let Some(recorded) = recorded.take() {
                    recorded.refused(&error);
                }
                hold(over).await;
                (status::from_error(&error).into_http(), None)
            }
            Ok(Passed { mut caller, stream }) => {
                if delivers_many(method)
                    && let (Some(recorded), Some(record)) = (&recorded, &self.layers.shared.record)
                {
                    caller.journal = recorded.journal(Arc::clone(&record.clock));
                }
                request.extensions_mut().insert(caller);
                let response = if goes_on(method) {
                    let afterwards = recorded.as_ref().and_then(Recorded::afterwards);
                    let method = method.to_owned();
                    let call = async move { catch_panic(pin!(self.serve(&method, request))).await };
                    to_the_end(afterwards, call).await
                } else {
                    catch_panic(pin!(self.serve(method, request))).await
                };
                (response, stream)
            }
        };
        if let Some(recorded) = recorded {
            recorded.answered(response.headers());
        }
        (response, stream)
    }

    /// The call itself, for as long as it may take.
    async fn serve(self, method: &str, request: Request<Incoming>) -> Response<Body> {
        if is_stream(method) {
            return self.serve_stream(method, request).await;
        }
        let mut end = pin!(self.end(deadline(false, request.headers()), DRAIN));
        let request = request.map(|body| Body::new(Arriving::new(OneMessage::of(body))));
        tokio::select! {
            biased;
            response = self.layers.routes.call(request) => response,
            error = &mut end => status::from_error(&error).into_http(),
        }
    }

    /// A stream would go on for ever, so it ends at once when the broker stops; a unary call gets the time that is left.
    async fn serve_stream(self, method: &str, request: Request<Incoming>) -> Response<Body> {
        let mut end = Box::pin(self.end(deadline(true, request.headers()), Duration::ZERO));
        let connection = Arc::clone(&self.connection);
        let request = request.map(|body| {
            if method.starts_with(SECRETS) {
                // An Envoy introduces itself on each stream, and has much to say.
                Body::new(Paced::but_for(status::MAX_DISCOVERY_SIZE, body, connection))
            } else if has_many_requests(method) {
                Body::new(Paced::new(body, connection))
            } else {
                Body::new(Paced::new(OneMessage::of(body), connection))
            }
        });
        let response = tokio::select! {
            biased;
            response = self.layers.routes.call(request) => response,
            error = &mut end => return status::from_error(&error).into_http(),
        };
        response.map(|body| Body::new(Ending::new(body, end)))
    }

    /// Completes when the call has to end, whatever it is at: its deadline passes, or the broker stops and the time is
    /// over that it leaves.
    fn end(&self, deadline: Option<Duration>, grace: Duration) -> impl Future<Output = Error> + Send + use<> {
        let at = deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        let seconds = deadline.unwrap_or_default().as_secs_f64();
        let connection = Arc::clone(&self.connection);
        async move {
            let stopped = async {
                connection.stopping().await;
                tokio::time::sleep(grace).await;
                Error::ShuttingDown
            };
            tokio::select! {
                error = ending::deadline(at, seconds) => error,
                error = stopped => error,
            }
        }
    }

    /// The record of a credential operation; none for health, reflection and the version handshake.
    async fn recorded(&self, method: &str) -> Option<Recorded> {
        let operation = method
            .strip_prefix(CREDENTIALS)
            .or_else(|| method.strip_prefix(SECRETS))?;
        if operation == "GetServerInfo" {
            return None;
        }
        let Recording { audit, clock, refusals } = self.layers.shared.record.as_ref()?;
        let peer = self.connection.peer();
        let record = Record {
            time: clock.now().wall,
            sandbox: None,
            peer_uid: peer.map(|peer| peer.uid),
            peer_pid: peer.and_then(|peer| peer.pid),
            peer: self
                .connection
                .described()
                .and_then(|described| described.facts.clone()),
            // The name comes from the wire: it is bounded and escaped before it is written anywhere.
            operation: operation.chars().flat_map(char::escape_default).take(64).collect(),
            subject: None,
            outcome: "cancelled",
            reason: None,
        };
        Some(Recorded::new(audit.clone(), Arc::clone(refusals), record).await)
    }
}

impl tower::Service<Request<Incoming>> for ConnectionLayers {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let layers = self.clone();
        let call = self.connection.open_call();
        Box::pin(async move { Ok(layers.call_through(request, call).await) })
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
fn kind(method: &str) -> Kind {
    if method.starts_with("/grpc.health.v1.Health/")
        || method.starts_with("/grpc.reflection.v1.ServerReflection/")
        || method.starts_with("/grpc.reflection.v1alpha.ServerReflection/")
    {
        Kind::Companion
    } else {
        Kind::Own
    }
}

/// The caller of a method that is open to all: it may do nothing else.
fn nobody() -> Caller {
    Caller {
        principal: "nobody".into(),
        policy: Arc::default(),
        at_host: false,
        subject: Subject::default(),
        journal: Journal::default(),
    }
}

/// Whether the answer is a stream: health's Watch, reflection, WatchToken and secret discovery.
fn is_stream(method: &str) -> bool {
    match kind(method) {
        Kind::Companion => !method.ends_with("/Check"),
        Kind::Own => matches!(method, WATCH_TOKEN | STREAM_SECRETS | DELTA_SECRETS),
    }
}

/// Whether the request is a stream: reflection and secret discovery.
fn has_many_requests(method: &str) -> bool {
    is_stream(method) && (method.starts_with("/grpc.reflection.") || method.starts_with(SECRETS))
}

/// Whether one call may deliver several credentials: then each has a line of its own in the record.
fn delivers_many(method: &str) -> bool {
    method == WATCH_TOKEN || method.starts_with(SECRETS)
}

/// Holds back the refusal of a call over the rate.
async fn hold(over: bool) {
    if over {
        tokio::time::sleep(HOLD).await;
    }
}

/// A panic in a handler is an answer like any other, not a connection that dies under its neighbours.
async fn catch_panic(mut call: Pin<&mut impl Future<Output = Response<Body>>>) -> Response<Body> {
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
