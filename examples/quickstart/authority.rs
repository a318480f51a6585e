//! A small authorization server on loopback: 10-second access tokens, refresh tokens that rotate with every use, and
//! reuse detection, as the strict ones of the real world have it (RFC 9700 section 4.14.2).

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONNECTION, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// How long an access token is good for, in seconds.
pub(crate) const LIFETIME: u64 = 10;
/// A request for a token is short.
const MAX_BODY: usize = 16 * 1024;

/// The server's memory.
#[derive(Default)]
struct State {
    /// The number of the newest token set.
    newest: usize,
    renewals: usize,
    /// Refresh tokens that came back after they were spent.
    reused: usize,
    revoked: bool,
}

/// The server, and what it has seen.
#[derive(Clone, Default)]
pub(crate) struct Authority(Arc<Mutex<State>>);

/// What the server has seen.
pub(crate) struct Seen {
    pub(crate) renewals: usize,
    pub(crate) reused: usize,
}

impl Authority {
    /// Serves on a free port of loopback, for as long as the runtime lives; returns the port.
    pub(crate) async fn start(&self) -> std::io::Result<u16> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let authority = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let authority = authority.clone();
                let answer = service_fn(move |request| {
                    let authority = authority.clone();
                    async move { Ok::<_, Infallible>(authority.answer(request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Ok(port)
    }

    /// The first token set, as a login would have given it.
    pub(crate) fn first(&self) -> String {
        answer_of(self.state().newest)
    }

    pub(crate) fn seen(&self) -> Seen {
        let state = self.state();
        Seen {
            renewals: state.renewals,
            reused: state.reused,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if (request.method(), request.uri().path()) != (&Method::POST, "/token") {
            return json(StatusCode::NOT_FOUND, r#"{"error":"invalid_request"}"#);
        }
        let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
            return json(StatusCode::BAD_REQUEST, r#"{"error":"invalid_request"}"#);
        };
        let form: BTreeMap<String, String> = form_urlencoded::parse(&body.to_bytes()).into_owned().collect();
        self.token(&form)
    }

    /// RFC 6749 section 6.
    fn token(&self, form: &BTreeMap<String, String>) -> Response<Full<Bytes>> {
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        if field("grant_type") != "refresh_token" || field("client_id") != "quickstart" {
            return json(StatusCode::BAD_REQUEST, r#"{"error":"invalid_request"}"#);
        }
        let mut state = self.state();
        if field("refresh_token") != refresh_token(state.newest) || state.revoked {
            // Somebody has one that was spent: whoever it is, the whole family is dead.
            state.reused += 1;
            state.revoked = true;
            return json(StatusCode::BAD_REQUEST, r#"{"error":"invalid_grant"}"#);
        }
        state.newest += 1;
        state.renewals += 1;
        json(StatusCode::OK, &answer_of(state.newest))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The refresh token of a token set. What never leaves the host is anything that begins like this.
fn refresh_token(number: usize) -> String {
    format!("{}_{number}", crate::REFRESH_TOKEN)
}

fn answer_of(number: usize) -> String {
    serde_json::json!({
        "access_token": format!("quickstart_access_token_{number}"),
        "refresh_token": refresh_token(number),
        "token_type": "Bearer",
        "scope": "read write",
        "expires_in": LIFETIME,
        "sub": "octocat",
    })
    .to_string()
}

fn json(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_owned())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    headers.insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
    response
}
