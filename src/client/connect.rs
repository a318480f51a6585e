//! From a path to a connection: what is checked before a byte is sent, and how HTTP/2 begins.
//!
//! The capability and everything after it goes to whoever listens at the path, so that one is judged first. Who chose
//! `CREDBROKER_SOCKET` chose the directory the socket lies in; what has to be told apart is a listener that somebody else
//! could put there. See [`may_listen`].

use std::{
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixStream, time::sleep};
use tonic::body::Body;

/// The running half of a connection: it has to be polled for calls to get anywhere, and it ends with the connection.
pub(super) type Connection = http2::Connection<TokioIo<UnixStream>, Body, TokioExecutor>;
/// The calling half of a connection.
pub(super) type Sender = http2::SendRequest<Body>;

/// How long to wait for a place in a full queue before asking again.
const FULL_PAUSE: Duration = Duration::from_millis(10);
const ROOT: u32 = 0;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The socket is not there, nobody listens, or the system refused.
    #[error("cannot connect to {path:?}: {cause}")]
    Unreachable {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The path leads to something that is no socket.
    #[error("{path:?} is not a socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Somebody listens who could not be the broker of this session. Nothing was sent.
    #[error(
        "uid {uid} listens at {path:?}, which is neither this process's user nor root nor the only one who can write to its directory"
    )]
    WrongOwner {
        /// The socket's path.
        path: PathBuf,
        /// The listener's uid, as this process sees it.
        uid: u32,
    },
    /// The listener ended the connection before it agreed on a protocol version.
    #[error("the connection ended before it was agreed on")]
    Refused,
}

impl ConnectError {
    /// The same once more, for another one who waits.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Unreachable { path, cause } => Self::Unreachable {
                path: path.clone(),
                cause: cause
                    .raw_os_error()
                    .map_or_else(|| cause.kind().into(), io::Error::from_raw_os_error),
            },
            Self::NotASocket { path } => Self::NotASocket { path: path.clone() },
            Self::WrongOwner { path, uid } => Self::WrongOwner {
                path: path.clone(),
                uid: *uid,
            },
            Self::Refused => Self::Refused,
        }
    }
}

/// Connects, judges who listens, and begins HTTP/2. Once only: nothing here tries again what was refused.
pub(super) async fn connect(path: &Path) -> Result<(Sender, Connection), ConnectError> {
    let unreachable = |cause| ConnectError::Unreachable {
        path: path.to_owned(),
        cause,
    };
    // A look of its own, because the system's answer to a file that is no socket is "connection refused".
    if !std::fs::metadata(path).map_err(unreachable)?.file_type().is_socket() {
        return Err(ConnectError::NotASocket { path: path.to_owned() });
    }
    let stream = queue_up(path).await.map_err(unreachable)?;
    let listener = stream.peer_cred().map_err(unreachable)?.uid();
    let own = rustix::process::geteuid().as_raw();
    if !may_listen(listener, own, &Directory::of(path).map_err(unreachable)?) {
        return Err(ConnectError::WrongOwner {
            path: path.to_owned(),
            uid: listener,
        });
    }
    http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| {
            tracing::debug!(%error, "HTTP/2 could not begin");
            ConnectError::Refused
        })
}

/// Somebody listens, but has let in fewer than came: the broker is busy, or another client makes it so. Like a connect
/// that blocks, this waits for a place; the request's own limit ends it.
async fn queue_up(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => sleep(FULL_PAUSE).await,
            done => return done,
        }
    }
}

/// What decides who could have put a socket into a directory.
struct Directory {
    owner: u32,
    mode: u32,
}

impl Directory {
    /// The directory that the socket itself lies in, also if the path is a link to it.
    fn of(socket: &Path) -> io::Result<Self> {
        let real = std::fs::canonicalize(socket)?;
        let found = std::fs::metadata(real.parent().unwrap_or(&real))?;
        Ok(Self {
            owner: found.uid(),
            mode: found.mode(),
        })
    }
}

/// Whether this uid can be the broker's: the own one, root, or the owner of the directory if nobody else can write to it.
///
/// The last is what sandboxes need that map users: there the broker has whatever uid the mapping gives it, also the
/// overflow uid, and the directory it made has the same. A stranger with a socket in a directory that many can write to,
/// such as `/tmp`, or in somebody else's, fails.
fn may_listen(listener: u32, own: u32, directory: &Directory) -> bool {
    listener == own || listener == ROOT || (listener == directory.owner && directory.mode & WRITABLE_BY_OTHERS == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_listen() {
        let (own, broker, stranger, overflow) = (1000, 1001, 1002, 65534);
        let table = [
            // `run` without a sandbox, or one that keeps the uid.
            (own, own, own, 0o700, true),
            (own, own, ROOT, 0o1777, true),
            // A socket that systemd listens on.
            (ROOT, own, ROOT, 0o755, true),
            (ROOT, own, stranger, 0o777, true),
            // `serve --allow-uid`, and sandboxes that map users.
            (broker, own, broker, 0o711, true),
            (overflow, own, overflow, 0o711, true),
            (broker, ROOT, broker, 0o755, true),
            // Somebody else was there first.
            (stranger, own, ROOT, 0o1777, false),
            (stranger, own, own, 0o700, false),
            (stranger, own, broker, 0o711, false),
            (stranger, own, stranger, 0o777, false),
            (stranger, own, stranger, 0o770, false),
            (stranger, ROOT, ROOT, 0o755, false),
        ];
        for (listener, own, owner, mode, want) in table {
            let directory = Directory { owner, mode };
            assert_eq!(
                may_listen(listener, own, &directory),
                want,
                "{listener} for {own} in a directory of {owner} with mode {mode:o}"
            );
        }
    }
}
