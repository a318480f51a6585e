//! Calls to a generated service, octets in and octets out, and what every answer has to be.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use credbroker::{
    broker::Caller,
    reason::Reason,
    service::status::{self, DOMAIN},
};
use http::Request;
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::Message as _;
use tokio::{sync::mpsc, time::timeout};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{BoxFuture, Service},
};
use tonic_types::{StatusExt as _, pb};

/// The longest status, message and details.
const MAX_STATUS: usize = 4 * 1024;

/// A request's body, as it comes in.
pub struct Incoming(mpsc::UnboundedReceiver<Bytes>);

impl Incoming {
    /// What is sent, and what is received; it ends when the sender is dropped.
    pub fn new() -> (mpsc::UnboundedSender<Bytes>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    /// All of it at once.
    pub fn of(octets: Vec<u8>) -> Self {
        let (sender, body) = Self::new();
        // The receiver is there.
        drop(sender.send(octets.into()));
        body
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(ready!(self.0.poll_recv(cx)).map(|octets| Ok(Frame::data(octets))))
    }
}

/// A message as gRPC frames it.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}

/// What came back of a call, until it ended or said nothing more.
pub struct Answer {
    messages: Vec<u8>,
    body: Option<Body>,
    status: Option<Status>,
}

/// Sends a request to a service.
pub async fn call<S>(service: &mut S, path: &str, caller: Caller, body: Incoming) -> Answer
where
    S: Service<
            Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = BoxFuture<http::Response<Body>, Infallible>,
        >,
{
    let mut request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(body))
        .unwrap();
    request.extensions_mut().insert(caller);
    let Ok(response) = service.call(request).await;
    let (parts, body) = response.into_parts();
    Answer {
        messages: Vec::new(),
        status: Status::from_header_map(&parts.headers),
        body: Some(body),
    }
}

impl Answer {
    /// The next message. `None`: it has ended, or none came for so long.
    pub async fn message(&mut self, patience: Duration) -> Option<Vec<u8>> {
        loop {
            if let Some(message) = self.buffered() {
                return Some(message);
            }
            let frame = timeout(patience, self.body.as_mut()?.frame()).await.ok()?;
            match frame.map(|frame| frame.unwrap().into_data()) {
                Some(Ok(octets)) => self.messages.extend_from_slice(&octets),
                Some(Err(trailers)) => {
                    self.status = Status::from_header_map(trailers.trailers_ref().unwrap());
                }
                None => self.body = None,
            }
        }
    }

    fn buffered(&mut self) -> Option<Vec<u8>> {
        let (head, _) = self.messages.split_first_chunk::<5>()?;
        assert_eq!(head[0], 0, "an answer is compressed");
        let end = 5 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let message = self.messages.get(5..end)?.to_vec();
        self.messages.drain(..end);
        Some(message)
    }

    /// How it ended; `None`: it goes on.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }
}

/// A status as a client gets it: what tonic said by itself is completed by the layers around the service.
pub fn checked(status: &Status, path: &str) -> Option<Reason> {
    if status.code() == Code::Ok {
        assert!(status.details().is_empty());
        return None;
    }
    let completed;
    let status = if status.get_details_error_info().is_some() {
        status
    } else {
        completed = status::complete(status, path);
        &completed
    };
    assert!(status.message().len() + status.details().len() <= MAX_STATUS);
    assert!(!status.message().is_empty() && !status.message().chars().any(char::is_control));
    let details = pb::Status::decode(status.details()).unwrap().details;
    let infos: Vec<_> = details
        .iter()
        .filter(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"))
        .collect();
    assert_eq!(infos.len(), 1);
    let info = pb::ErrorInfo::decode(infos[0].value.as_slice()).unwrap();
    assert_eq!(info.domain, DOMAIN);
    let reason = Reason::from_wire(&info.reason).unwrap();
    assert_eq!(status::code(reason), status.code());
    Some(reason)
}
