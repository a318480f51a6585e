//! Where metrics are asked for: an address of loopback, or a Unix socket for its owner only.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::Path,
};

use crate::server::socket::{BoundSocket, BrokerDir, Failure, SocketError, SocketGuard};

/// The mode of a Unix socket.
const PRIVATE: u32 = 0o600;

/// A place that is listened at.
#[derive(Debug)]
pub enum Listening {
    /// An address.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener),
}

/// Why metrics cannot be shown where they are asked for.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be listened at.
    #[error("metrics cannot be shown at {address}: {cause}; choose another metrics.listen, or leave it out")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The path cannot be listened at.
    #[error("metrics cannot be shown: {}", of_the_key(.0))]
    Path(#[source] SocketError),
}

impl Listening {
    /// Listens at the address.
    ///
    /// # Errors
    /// [`MetricsError::Address`].
    pub fn tcp(address: SocketAddr) -> Result<Self, MetricsError> {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        bound
            .map(Self::Tcp)
            .map_err(|cause| MetricsError::Address { address, cause })
    }

    /// Listens at the path, by the rules of `--socket PATH`, for this user only.
    ///
    /// # Errors
    /// [`MetricsError::Path`].
    pub fn unix(dir: &BrokerDir, path: &Path) -> Result<(Self, SocketGuard), MetricsError> {
        let bound = dir.bind_at(path, PRIVATE).map_err(MetricsError::Path)?;
        let (listener, guard) = BoundSocket::into_parts(bound);
        Ok((Self::Unix(listener), guard))
    }
}

/// The rules are those of `--socket`, but what is to be changed is the key.
fn of_the_key(error: &SocketError) -> String {
    error.to_string().replace("--socket PATH", "metrics.listen")
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "http://{address}/metrics"),
                Err(_) => f.write_str("an address"),
            },
            Self::Unix(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{}", address.as_pathname().unwrap_or(Path::new("a path")).display()),
                Err(_) => f.write_str("a path"),
            },
        }
    }
}

impl MetricsError {
    /// What it comes down to, for an exit code.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Address { cause, .. } => match cause.kind() {
                io::ErrorKind::AddrInUse => Failure::InUse,
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied => Failure::Config,
                _ => Failure::System,
            },
            Self::Path(error) => match error.failure() {
                // It stands in the configuration, not on the command line.
                Failure::Usage => Failure::Config,
                failure => failure,
            },
        }
    }
}
