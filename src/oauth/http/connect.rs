//! From an endpoint to a connection that a request can be written to: name, TCP, proxy, TLS. Nothing of a request is
//! written here.

use std::{
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    thread,
};

use http::Uri;
use hyper_util::{
    client::{legacy::connect::proxy::Tunnel, proxy::matcher::Intercept},
    rt::TokioIo,
};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tower::{Service as _, service_fn};

use super::{Endpoint, Http};

/// A connection, encrypted or not.
pub(super) type Stream = Box<dyn Connection>;

pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Connection for S {}

/// Where connecting failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The look-up of the host's name.
    Name,
    /// The TCP connection.
    Tcp,
    /// The proxy on the way.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The certificate authorities of this system.
    Roots,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name look-up",
            Self::Tcp => "TCP",
            Self::Proxy => "proxy",
            Self::Tls => "TLS",
            Self::Roots => "certificate authorities",
        })
    }
}

/// An endpoint could not be reached: nothing was sent to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{layer}: {seen}")]
pub struct Unreachable {
    /// The layer that failed.
    pub layer: Layer,
    /// What was seen; nothing that the other side wrote.
    pub seen: String,
}

impl Unreachable {
    fn new(layer: Layer, seen: impl Into<String>) -> Self {
        Self {
            layer,
            seen: seen.into(),
        }
    }

    pub(super) fn closed_at_once() -> Self {
        Self::new(Layer::Tcp, "the connection was closed before anything could be sent")
    }

    /// What mends it, for people.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        match self.layer {
            Layer::Name => "check the endpoint's host name and this machine's DNS",
            Layer::Tcp => {
                "check the endpoint's host and port, and the network; HTTPS_PROXY names a proxy if one is needed"
            }
            Layer::Proxy => "check HTTPS_PROXY and the proxy; NO_PROXY names hosts that need none",
            Layer::Tls => {
                "check that the endpoint is the right one, this machine's clock, and that the certificate's authority is \
                 among the system's (or in the file that SSL_CERT_FILE names)"
            }
            Layer::Roots => "install the system's certificate authorities (ca-certificates), or set SSL_CERT_FILE",
        }
    }
}

impl Http {
    /// A connection to the endpoint, ready for its first byte.
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<Stream, Unreachable> {
        let deadline = Instant::now() + self.limits.connect;
        let tcp = self.tcp(endpoint, deadline).await?;
        // Failing means that a small write may wait; never that it is lost.
        let _ = tcp.set_nodelay(true);
        if !endpoint.is_https() {
            return Ok(Box::new(tcp));
        }
        let config = self.tls().await?;
        let name = ServerName::try_from(endpoint.host().to_owned())
            .map_err(|_invalid| Unreachable::new(Layer::Tls, "the host is no name that a certificate can have"))?;
        let handshake = TlsConnector::from(config).connect(name, tcp);
        let tls = within(deadline, Layer::Tls, handshake)
            .await?
            .map_err(|error| Unreachable::new(Layer::Tls, tls_failure(&error)))?;
        Ok(Box::new(tls))
    }

    async fn tcp(&self, endpoint: &Endpoint, deadline: Instant) -> Result<TcpStream, Unreachable> {
        let proxy = if endpoint.is_loopback() {
            None
        } else {
            self.proxies.intercept(endpoint.uri())
        };
        match proxy {
            None => direct(endpoint.host(), endpoint.port(), deadline).await,
            Some(proxy) => through(&proxy, endpoint, deadline).await,
        }
    }

    /// The system's certificate authorities, read when they are needed first; what fails is tried again.
    async fn tls(&self) -> Result<Arc<ClientConfig>, Unreachable> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let loaded = tokio::task::spawn_blocking(tls_config)
            .await
            .unwrap_or_else(|_ended| Err(Unreachable::new(Layer::Roots, "they could not be read")))?;
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(loaded))))
    }
}

fn tls_config() -> Result<ClientConfig, Unreachable> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have old ones among them that nobody can use any more.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(Unreachable::new(Layer::Roots, "this system has none that can be used"));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_unsupported| Unreachable::new(Layer::Tls, "there is no common protocol version"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn within<F: Future>(deadline: Instant, layer: Layer, future: F) -> Result<F::Output, Unreachable> {
    timeout_at(deadline, future)
        .await
        .map_err(|_elapsed| Unreachable::new(layer, "no answer within the time limit"))
}

async fn direct(host: &str, port: u16, deadline: Instant) -> Result<TcpStream, Unreachable> {
    let addresses = within(deadline, Layer::Name, addresses(host, port)).await??;
    let mut last = Unreachable::new(Layer::Name, "the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        // Each gets an even part of the time that is left, so that one that swallows packets hides none behind it.
        let left = deadline.saturating_duration_since(Instant::now());
        let part = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
        last = match timeout(part, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => Unreachable::new(Layer::Tcp, kind(&error)),
            Err(_elapsed) => Unreachable::new(Layer::Tcp, "no answer within the time limit"),
        };
    }
    Err(last)
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, Unreachable> {
    // RFC 6761 section 6.3: this name is not for the DNS, which could answer anything.
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ]);
    }
    let (name, (tell, told)) = (host.to_owned(), oneshot::channel());
    // On a thread that nobody waits for: a resolver may take longer than this program has left to live.
    let looking = thread::Builder::new().name("look-up".into()).spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs();
        // Whoever asked may have given up.
        let _ = tell.send(found.map(Vec::from_iter));
    });
    looking.map_err(|error| Unreachable::new(Layer::Name, kind(&error)))?;
    match told.await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) | Err(_) => Err(Unreachable::new(Layer::Name, format!("{host} was not found"))),
    }
}

/// Through an HTTP proxy (RFC 9110 section 9.3.6, CONNECT). The request itself is inside TLS.
async fn through(proxy: &Intercept, endpoint: &Endpoint, deadline: Instant) -> Result<TcpStream, Unreachable> {
    let failed = |seen: String| Unreachable::new(Layer::Proxy, seen);
    if proxy.uri().scheme_str() != Some("http") {
        return Err(failed("only http:// proxies are supported".to_owned()));
    }
    let connector = service_fn(move |at: Uri| async move {
        let host = at.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        direct(&host, at.port_u16().unwrap_or(80), deadline)
            .await
            .map(TokioIo::new)
    });
    let mut tunnel = Tunnel::new(proxy.uri().clone(), connector);
    if let Some(authorization) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    // Its error says what it met without a word of the proxy's.
    let stream = within(deadline, Layer::Proxy, tunnel.call(endpoint.uri().clone()))
        .await?
        .map_err(|error| failed(causes(&error)))?;
    Ok(stream.into_inner())
}

/// An error with its causes, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", causes(cause)),
        None => error.to_string(),
    }
}

fn kind(error: &io::Error) -> String {
    error.kind().to_string()
}

/// Why the handshake failed, in words of our own: a certificate's are the other side's.
fn tls_failure(error: &io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return kind(error);
    };
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => "the certificate is from an unknown authority",
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is for another host"
            }
            CertificateError::Revoked => "the certificate was revoked",
            _ => "the certificate is not valid",
        }
        .to_owned(),
        rustls::Error::InvalidMessage(_) => "the other side does not speak TLS".to_owned(),
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the other side does not know this host name".to_owned()
        }
        rustls::Error::AlertReceived(_) => "the other side refused the handshake".to_owned(),
        _ => "the handshake failed".to_owned(),
    }
}
