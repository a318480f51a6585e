//! The way to an endpoint: name, TCP, proxy, TLS; how far a connector has come on it, and where it failed.

use std::{
    error::Error,
    fmt, io, iter,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use http::Uri;
use hyper_util::client::legacy::connect::{HttpConnector, proxy::Tunnel};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, NamedGroup, RootCertStore,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    crypto::ring,
    pki_types::ServerName,
};
use tokio::sync::{SetOnce, oneshot};
use tower::Service;

use super::Endpoint;

/// What a proxy's tunnel fails with. It has no other name; its words say what was met without one of the proxy's.
type TunnelError = <Tunnel<HttpConnector> as Service<Uri>>::Error;

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
    pub(super) fn new(layer: Layer, seen: impl Into<String>) -> Self {
        Self {
            layer,
            seen: seen.into(),
        }
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

/// How far a connector has come. reqwest's own errors leave it open which step took too long.
#[derive(Debug, Clone, Default)]
pub(super) struct Way(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    proxied: AtomicBool,
    looking_up: AtomicBool,
    in_handshake: AtomicBool,
    connected: SetOnce<()>,
}

impl Way {
    /// Whether a proxy is on it.
    pub(super) fn proxied(&self, proxied: bool) {
        self.0.proxied.store(proxied, Ordering::Release);
    }

    /// The connection is there: from now on a request may have been written.
    pub(super) fn arrive(&self) {
        // There is but one connection, and a second one would change nothing.
        let _ = self.0.connected.set(());
    }

    pub(super) fn is_connected(&self) -> bool {
        self.0.connected.initialized()
    }

    pub(super) async fn connected(&self) {
        self.0.connected.wait().await;
    }

    /// Where and why the connector failed.
    pub(super) fn failed(&self, error: &reqwest::Error) -> Unreachable {
        let is = |step: &AtomicBool| step.load(Ordering::Acquire);
        let layer = if is(&self.0.in_handshake) {
            Layer::Tls
        } else if is(&self.0.proxied) {
            Layer::Proxy
        } else if is(&self.0.looking_up) {
            Layer::Name
        } else {
            Layer::Tcp
        };
        Unreachable::new(layer, seen(error))
    }
}

impl Resolve for Way {
    fn resolve(&self, name: Name) -> Resolving {
        let way = self.clone();
        Box::pin(async move {
            way.0.looking_up.store(true, Ordering::Release);
            let found = addresses(name.as_str()).await?;
            way.0.looking_up.store(false, Ordering::Release);
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A handshake begins with a look for a session to go on with. None is ever found, because none is kept.
impl ClientSessionStore for Way {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {}

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.in_handshake.store(true, Ordering::Release);
        None
    }
}

/// What TLS to the endpoint takes. What fails is tried again. Without TLS nobody is trusted, because nobody will be asked.
pub(super) fn tls_to(endpoint: &Endpoint, loaded: &OnceLock<ClientConfig>) -> Result<ClientConfig, Unreachable> {
    if !endpoint.is_https() {
        return config(RootCertStore::empty());
    }
    ServerName::try_from(endpoint.host())
        .map_err(|_invalid| Unreachable::new(Layer::Tls, "the host is no name that a certificate can have"))?;
    trusting(loaded)
}

/// The system's certificate authorities. Those that were read once are kept.
pub(super) fn trusting(loaded: &OnceLock<ClientConfig>) -> Result<ClientConfig, Unreachable> {
    if let Some(config) = loaded.get() {
        return Ok(config.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have old ones among them that nobody can use any more.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(Unreachable::new(Layer::Roots, "this system has none that can be used"));
    }
    let config = config(roots)?;
    Ok(loaded.get_or_init(|| config).clone())
}

fn config(roots: RootCertStore) -> Result<ClientConfig, Unreachable> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_unsupported| Unreachable::new(Layer::Tls, "there is no common protocol version"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A name without an address; in our own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoAddress(String);

/// The port is the caller's affair.
async fn addresses(host: &str) -> Result<Vec<SocketAddr>, NoAddress> {
    // RFC 6761 section 6.3: this name is not for the DNS, which could answer anything.
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()]);
    }
    let (name, (tell, told)) = (host.to_owned(), oneshot::channel());
    // On a thread that nobody waits for: a resolver may take longer than the exchange has left.
    let looking = thread::Builder::new().name("look-up".into()).spawn(move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        // Whoever asked may have given up.
        let _ = tell.send(found.map(Vec::from_iter));
    });
    looking.map_err(|error| NoAddress(error.kind().to_string()))?;
    match told.await {
        Ok(Ok(found)) if found.is_empty() => Err(NoAddress("the name has no address".to_owned())),
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) | Err(_) => Err(NoAddress(format!("{host} was not found"))),
    }
}

/// An error and what caused it, down to the first cause.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |error| cause(*error))
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // The source of such an error is that of the error inside, which it passes over.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// What made a connector fail, by the types of its error: their texts are not ours, and may have URLs in them.
fn seen(error: &reqwest::Error) -> String {
    let tunnel = causes(error).find_map(|cause| cause.downcast_ref::<TunnelError>());
    let cause = causes(error).find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<NoAddress>() {
            Some(error.to_string())
        } else if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            Some(tls_failure(error).to_owned())
        } else {
            let error = cause.downcast_ref::<io::Error>()?;
            (error.get_ref().is_none() && error.kind() != io::ErrorKind::TimedOut).then(|| error.kind().to_string())
        }
    });
    let cause = cause.or_else(|| error.is_timeout().then(|| "no answer within the time limit".to_owned()));
    match (tunnel, cause) {
        (Some(tunnel), Some(cause)) => format!("{tunnel}: {cause}"),
        (Some(tunnel), None) => tunnel.to_string(),
        (None, Some(cause)) => cause,
        (None, None) => "no connection could be made".to_owned(),
    }
}

/// Why the handshake failed, in words of our own: a certificate's are the other side's.
fn tls_failure(error: &rustls::Error) -> &'static str {
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
        },
        rustls::Error::InvalidMessage(_) => "the other side does not speak TLS",
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the other side does not know this host name"
        }
        rustls::Error::AlertReceived(_) => "the other side refused the handshake",
        _ => "the handshake failed",
    }
}
