//! The ear for a redirect to this host (RFC 8252 section 7.3): both loopback addresses, one port, until the first request
//! that belongs to the login.
//!
//! Everything lives in one future: when it is done or dropped, every socket is closed.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{
        CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{
    authorization_code::AnswerFields,
    login::{Authorization, Listening, LoginSettings, LoginTrouble, RedirectHost},
};

/// At once. Whoever comes then waits in the kernel until one of them ends.
const CONNECTIONS: usize = 32;
/// For one connection, from its first octet to its last.
const CONNECTION_TIME: Duration = Duration::from_secs(5);
/// A request's head. A code is a few hundred octets.
const HEAD: usize = 16 * 1024;
/// How often another free port is asked for if the one at hand is taken on the other address.
const FREE_PORTS: usize = 16;

/// Sockets that listen, and what they listen for.
pub(super) struct Ear {
    listeners: Vec<TcpListener>,
    path: String,
}

/// What came of a port.
enum Bound {
    Both(Vec<TcpListener>),
    /// Somebody has it, at one address at least.
    Taken,
    /// This system has no such address at all.
    NoLoopback,
}

/// Listens where the settings say.
///
/// # Errors
/// No port of this host can be listened on.
pub(super) async fn listen(settings: &LoginSettings) -> Result<(Ear, String), LoginTrouble> {
    let any = [0];
    let ports = if settings.redirect_ports.is_empty() {
        &any[..]
    } else {
        &settings.redirect_ports
    };
    for port in ports {
        let tries = if *port == 0 { FREE_PORTS } else { 1 };
        for _ in 0..tries {
            match bind(*port, settings.redirect_host).await {
                Bound::Both(listeners) => return Ok(ear(listeners, settings)),
                Bound::Taken => {}
                Bound::NoLoopback => {
                    let host = settings
                        .redirect_host
                        .map_or("127.0.0.1 or [::1]", RedirectHost::as_str);
                    return Err(LoginTrouble::CannotListen(format!("{host} is no address of this host")));
                }
            }
        }
    }
    Err(LoginTrouble::CannotListen(if settings.redirect_ports.is_empty() {
        "no free port was found".to_owned()
    } else {
        format!("{} (redirect_ports), taken by others", listed(&settings.redirect_ports))
    }))
}

/// A port counts only if no other program can answer in our place at the other address, because `localhost` is either.
async fn bind(port: u16, host: Option<RedirectHost>) -> Bound {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let port = match &v4 {
        Ok(listener) => match listener.local_addr() {
            Ok(address) => address.port(),
            Err(_gone) => return Bound::Taken,
        },
        Err(error) if is_absent(error) => port,
        Err(_taken) => return Bound::Taken,
    };
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await;
    let needed_is_there = match host {
        Some(RedirectHost::V4) => v4.is_ok(),
        Some(RedirectHost::V6) => v6.is_ok(),
        Some(RedirectHost::Localhost) | None => v4.is_ok() || v6.is_ok(),
    };
    match (v4, v6) {
        (_, Err(error)) if !is_absent(&error) => Bound::Taken,
        _ if !needed_is_there => Bound::NoLoopback,
        (v4, v6) => Bound::Both([v4, v6].into_iter().flatten().collect()),
    }
}

/// Whether the system has no such address, or not even the protocol.
fn is_absent(error: &io::Error) -> bool {
    let absent = [
        rustix::io::Errno::ADDRNOTAVAIL,
        rustix::io::Errno::AFNOSUPPORT,
        rustix::io::Errno::PROTONOSUPPORT,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| absent.iter().any(|errno| errno.raw_os_error() == code))
}

fn ear(listeners: Vec<TcpListener>, settings: &LoginSettings) -> (Ear, String) {
    let address = listeners.first().and_then(|listener| listener.local_addr().ok());
    let only_v6 = address.is_some_and(|address| address.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST));
    let host = settings
        .redirect_host
        .unwrap_or(if only_v6 { RedirectHost::V6 } else { RedirectHost::V4 });
    let port = address.map_or(0, |address| address.port());
    let path = &settings.redirect_path;
    let redirect_uri = format!("http://{}:{port}{path}", host.as_str());
    let path = if path.is_empty() { "/" } else { path };
    let path = path.to_owned();
    (Ear { listeners, path }, redirect_uri)
}

fn listed(ports: &[u16]) -> String {
    match ports {
        [first, .., last] if ports.len() > 4 => format!("{} ports from {first} to {last}", ports.len()),
        _ => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("port {}", ports.join(", "))
        }
    }
}

/// What a connection brought, if it was the one.
type Heard = Option<Result<SecretString, LoginTrouble>>;
type Connection<'a> = Pin<Box<dyn Future<Output = Heard> + Send + 'a>>;

#[async_trait]
impl Listening for Ear {
    async fn code(self: Box<Self>, authorization: &Authorization) -> Result<SecretString, LoginTrouble> {
        let Self { listeners, path } = *self;
        let answered = AtomicBool::new(false);
        let mut open: Vec<Connection<'_>> = Vec::new();
        loop {
            tokio::select! {
                biased;
                heard = ended(&mut open) => if let Some(answer) = heard {
                    return answer;
                },
                stream = accepted(&listeners), if open.len() < CONNECTIONS => match stream {
                    Ok(stream) => open.push(Box::pin(serve(stream, &path, authorization, &answered))),
                    // No descriptors, for example: asking again at once would only burn time.
                    Err(_error) => sleep(Duration::from_millis(50)).await,
                },
            }
        }
    }
}

/// The end of any connection. With none open it never comes.
async fn ended(open: &mut Vec<Connection<'_>>) -> Heard {
    poll_fn(|cx| {
        let mut heard = None;
        let before = open.len();
        open.retain_mut(|connection| match connection.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(brought) => {
                heard = heard.take().or(brought);
                false
            }
        });
        if open.len() < before {
            Poll::Ready(heard)
        } else {
            Poll::Pending
        }
    })
    .await
}

async fn accepted(listeners: &[TcpListener]) -> io::Result<TcpStream> {
    poll_fn(|cx| {
        for listener in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    })
    .await
}

/// Serves one connection of a browser: one request, within 5 s. It says what the request brought when the page was written,
/// or could not be. `None`: it was not the request that the login waits for, which is a GET of the exact path with the right
/// `state`, once for all connections that share `answered`.
pub async fn serve<S>(
    stream: S,
    path: &str,
    authorization: &Authorization,
    answered: &AtomicBool,
) -> Option<Result<SecretString, LoginTrouble>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let found = Mutex::new(None);
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let mut answer = judged(&request, path, authorization);
        // A second one with the same `state` is a replay.
        if answer.is_some() && answered.swap(true, Ordering::Relaxed) {
            answer = None;
        }
        let page = page(answer.as_ref());
        if answer.is_some() {
            *unpoisoned(&found) = answer;
        }
        async move { Ok::<_, Infallible>(page) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // How it ended says nothing: the browser may be gone before it has read its page.
    let _ended = timeout(CONNECTION_TIME, connection).await;
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing panics while it is held.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a request brings, if it belongs to the login.
fn judged<B>(request: &Request<B>, path: &str, authorization: &Authorization) -> Heard {
    let uri = request.uri();
    if request.method() != Method::GET || uri.path() != path {
        return None;
    }
    let query = uri.query()?;
    let state = AnswerFields::parse(query).ok()?.state?;
    authorization
        .is_state(&state)
        .then(|| authorization.answer_in_query(query))
}

/// For people. It refers to nothing, so nothing of the request's URL goes anywhere with it.
fn page(heard: Option<&Result<SecretString, LoginTrouble>>) -> Response<Full<Bytes>> {
    let (status, title, text) = match heard {
        None => (StatusCode::NOT_FOUND, "Not found", "There is nothing here."),
        Some(Ok(_)) => (
            StatusCode::OK,
            "Login received",
            "This window can be closed. What follows happens where the login was started.",
        ),
        Some(Err(LoginTrouble::Denied)) => (
            StatusCode::OK,
            "Login refused",
            "Access was not granted, and nothing was stored. This window can be closed.",
        ),
        Some(Err(_)) => (
            StatusCode::OK,
            "Login failed",
            "The provider reported an error, and nothing was stored. This window can be closed.",
        ),
    };
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n</head>\n\
         <body>\n<h1>{title}</h1>\n<p>{text}</p>\n</body>\n</html>\n"
    );
    let mut response = Response::new(Full::new(Bytes::from(html)));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONNECTION, "close"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
