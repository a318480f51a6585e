//! A client that sends what no stub would send and sees every byte of the answer; and the decoding of a failure as the
//! specification has it, without the code that made it.

use std::path::Path;

use bytes::Bytes;
use credbroker::reason::Reason;
use http::{HeaderMap, Method, Request, StatusCode};
use prost::Message;
use tokio::net::UnixStream;
use tonic::{Code, Status};
use tonic_types::pb;

pub(crate) const SERVICE: &str = "/credbroker.v1.CredentialBroker/";
const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Wire {
    http2: h2::client::SendRequest<Bytes>,
}

impl Wire {
    pub(crate) async fn connect(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).await.unwrap()).await
    }

    pub(crate) async fn over(stream: UnixStream) -> Self {
        let (http2, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            // It ends when the broker goes away, which every test may bring about.
            let _ = connection.await;
        });
        Self { http2 }
    }

    /// Calls a method of the credential service with one message.
    pub(crate) async fn call(&self, method: &str, message: &impl Message) -> Answer {
        self.call_with(method, &[], frame(&message.encode_to_vec())).await
    }

    /// Calls a method of the credential service with these headers and this body.
    pub(crate) async fn call_with(&self, method: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let method = path(method);
        let mut all = vec![GRPC];
        all.extend(headers);
        self.http(Method::POST, &method, &all, body).await
    }

    /// Any HTTP request.
    pub(crate) async fn http(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let mut open = self.open(method, path, headers).await;
        open.body.send_data(body, true).unwrap();
        open.answer().await
    }

    /// A call of which only the headers were sent.
    pub(crate) async fn begin(&self, method: &str) -> Open {
        self.open(Method::POST, &path(method), &[GRPC]).await
    }

    async fn open(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Open {
        let mut request = Request::builder().method(method).uri(format!("http://localhost{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut http2 = self.http2.clone().ready().await.unwrap();
        let (response, body) = http2.send_request(request.body(()).unwrap(), false).unwrap();
        Open { response, body }
    }
}

/// The path of a method of the credential service, or the whole path as it is.
fn path(method: &str) -> String {
    if method.starts_with('/') {
        method.to_owned()
    } else {
        format!("{SERVICE}{method}")
    }
}

/// A call under way.
pub(crate) struct Open {
    response: h2::client::ResponseFuture,
    pub(crate) body: h2::SendStream<Bytes>,
}

impl Open {
    pub(crate) async fn answer(self) -> Answer {
        self.try_answer().await.unwrap()
    }

    /// The headers of the answer; the rest of it is not waited for, and the call is given up.
    pub(crate) async fn head(self) -> HeaderMap {
        self.response.await.unwrap().into_parts().0.headers
    }

    pub(crate) async fn try_answer(self) -> Result<Answer, h2::Error> {
        let (head, mut body) = self.response.await?.into_parts();
        let mut answer = Answer {
            code: head.status,
            headers: head.headers,
            body: Vec::new(),
            trailers: HeaderMap::new(),
        };
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            answer.body.extend(data);
        }
        answer.trailers = body.trailers().await?.unwrap_or_default();
        Ok(answer)
    }
}

/// One message as gRPC frames it.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// Everything that came back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    /// Every octet of names, values and data.
    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut all = self.body.clone();
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            all.extend(name.as_str().as_bytes());
            all.extend(value.as_bytes());
        }
        all
    }

    /// The headers that hold the gRPC status: trailers, or the headers of an answer without any.
    fn ending(&self) -> &HeaderMap {
        if self.trailers.contains_key("grpc-status") {
            &self.trailers
        } else {
            &self.headers
        }
    }

    /// The gRPC status.
    pub(crate) fn status(&self) -> Code {
        Status::from_header_map(self.ending()).expect("no grpc-status").code()
    }

    /// The message of a call that succeeded.
    pub(crate) fn message<M: Message + Default>(&self) -> M {
        let status = Status::from_header_map(self.ending()).expect("no grpc-status");
        assert_eq!(status.code(), Code::Ok, "{status:?}");
        let (head, message) = self.body.split_at(5);
        assert_eq!(
            u32::from_be_bytes(head[1..].try_into().unwrap()) as usize,
            message.len()
        );
        M::decode(message).unwrap()
    }

    /// Decodes a failure and checks what holds for every one of them.
    pub(crate) fn failure(&self) -> Failure {
        assert_eq!(self.code, StatusCode::OK, "a gRPC failure is an HTTP success");
        assert_eq!(self.headers["content-type"], "application/grpc");
        assert!(self.body.is_empty(), "a failure has no message");
        let ending = self.ending();
        assert_eq!(ending.get_all("grpc-status").iter().count(), 1);
        let status = Status::from_header_map(ending).expect("no grpc-status");
        let details = ending.get("grpc-status-details-bin").expect("no details").as_bytes();
        let details = data_encoding::BASE64_NOPAD
            .decode(
                details
                    .strip_suffix(b"==")
                    .or(details.strip_suffix(b"="))
                    .unwrap_or(details),
            )
            .unwrap();
        Failure::decode(status.code(), status.message(), &details)
    }
}

/// A failure, decoded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) info: pb::ErrorInfo,
    pub(crate) bad_request: Option<pb::BadRequest>,
}

impl Failure {
    /// From what a stub got.
    pub(crate) fn of<T: std::fmt::Debug>(result: Result<T, Status>) -> Self {
        let status = result.unwrap_err();
        Self::decode(status.code(), status.message(), status.details())
    }

    fn decode(code: Code, message: &str, details: &[u8]) -> Self {
        assert!(details.len() + message.len() <= 4096, "over 4 KiB");
        let rpc = pb::Status::decode(details).unwrap();
        assert_eq!((rpc.code, rpc.message.as_str()), (code as i32, message));
        let of_type = |name: &str| {
            let found = rpc
                .details
                .iter()
                .filter(|any| any.type_url == format!("type.googleapis.com/google.rpc.{name}"));
            found.map(|any| any.value.as_slice()).collect::<Vec<_>>()
        };
        let infos = of_type("ErrorInfo");
        assert_eq!(infos.len(), 1, "exactly one ErrorInfo");
        let info = pb::ErrorInfo::decode(infos[0]).unwrap();
        assert_eq!(info.domain, "credbroker.dev");
        for (name, value) in &info.metadata {
            assert!(value.len() <= 128, "{name} is too long: {value}");
            assert!(
                value.bytes().all(|b| (0x20..0x7f).contains(&b)),
                "{name} is not escaped: {value:?}"
            );
        }
        let bad_request = of_type("BadRequest")
            .first()
            .map(|value| pb::BadRequest::decode(*value).unwrap());
        assert_eq!(
            bad_request.is_some(),
            info.reason == "INVALID_REQUEST",
            "BadRequest says which field, for bad input and for nothing else"
        );
        let retries = of_type("RetryInfo").len();
        assert_eq!(
            retries,
            usize::from(["RATE_LIMITED", "PROVIDER_REJECTED", "PROVIDER_UNAVAILABLE"].contains(&&*info.reason)),
            "RetryInfo says when, where that is known"
        );
        assert_eq!(
            rpc.details.len(),
            1 + retries + usize::from(bad_request.is_some()),
            "unknown details"
        );
        assert!(
            message.bytes().all(|b| (0x20..0x7f).contains(&b)),
            "not escaped: {message:?}"
        );
        // "What is wrong: what to do", as every message of this protocol is built.
        let advice = message.split_once([':', ';']).map(|(_, advice)| advice.trim());
        assert!(
            advice.is_some_and(|advice| !advice.is_empty()),
            "it does not say what to do: {message}"
        );
        Self {
            code,
            message: message.to_owned(),
            info,
            bad_request,
        }
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        Reason::from_wire(&self.info.reason)
    }

    /// The field that a `BadRequest` names.
    pub(crate) fn field(&self) -> &str {
        match self.bad_request.as_ref().map(|bad| bad.field_violations.as_slice()) {
            Some([violation]) if !violation.description.is_empty() => &violation.field,
            other => panic!("{other:?}"),
        }
    }
}
