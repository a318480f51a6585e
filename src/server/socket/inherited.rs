//! The socket that a service manager made, listens on and hands over (`sd_listen_fds(3)`).
//!
//! Its path, mode and owner are the service manager's: nothing of them is judged, changed or unlinked here. What is
//! judged is the descriptor, because a socket that cannot be accepted from would be served in silence.

use std::{
    ffi::OsStr,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use rustix::net::sockopt;

use super::error::SocketError;

/// What the environment says about sockets that are handed over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Handover<'e> {
    /// `LISTEN_PID`: the process that they are for.
    pub pid: Option<&'e OsStr>,
    /// `LISTEN_FDS`: how many there are.
    pub fds: Option<&'e OsStr>,
    /// `LISTEN_FDNAMES`: what the service manager calls them; for messages.
    pub names: Option<&'e OsStr>,
}

impl Handover<'_> {
    /// Whether one socket is there for the process `pid`; `false`: none is.
    fn is_for(&self, pid: u32) -> Result<bool, SocketError> {
        // Whoever started this process may have kept variables that were meant for itself.
        if self.pid.and_then(OsStr::to_str) != Some(pid.to_string().as_str()) {
            return Ok(false);
        }
        let Some(fds) = self.fds else { return Ok(false) };
        match fds.to_str().and_then(|fds| fds.parse::<u32>().ok()) {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(count) => Err(SocketError::SeveralInherited {
                count,
                names: self.names.map(escaped),
            }),
            None => Err(SocketError::NotInheritable {
                problem: format!("LISTEN_FDS is \"{}\", which is no number", escaped(fds)),
            }),
        }
    }
}

/// As much of a variable as a message shows.
fn escaped(text: &OsStr) -> String {
    text.to_string_lossy()
        .chars()
        .take(64)
        .flat_map(char::escape_default)
        .collect()
}

/// A listening socket that was handed over. No child inherits it, and accepting from it does not block.
#[derive(Debug)]
pub struct InheritedSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl InheritedSocket {
    /// Takes the socket, once in a process: it takes the variables out of the process's environment, too, and so has to be
    /// called before there is a second thread. `None`: none is handed over to this process.
    ///
    /// # Errors
    /// Several are, or one that is no listening Unix stream socket.
    pub fn take(handover: Handover<'_>) -> Result<Option<Self>, SocketError> {
        if !handover.is_for(std::process::id())? {
            return Ok(None);
        }
        let refused = |problem: String| SocketError::NotInheritable { problem };
        let listener = ListenFd::from_env()
            .take_unix_listener(0)
            .map_err(|error| refused(error.to_string()))?
            .ok_or_else(|| refused("it was taken before".to_owned()))?;
        // Otherwise it is a connection (Accept=yes), or bound and nothing more.
        if !sockopt::socket_acceptconn(&listener).map_err(|errno| refused(errno.to_string()))? {
            return Err(refused("it does not listen".to_owned()));
        }
        listener
            .set_nonblocking(true)
            .map_err(|error| refused(error.to_string()))?;
        let path = name(&listener);
        Ok(Some(Self { listener, path }))
    }

    /// The path that clients connect to, or what is shown of a socket without one.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener. It is never unlinked: the service manager goes on listening.
    #[must_use]
    pub fn into_listener(self) -> UnixListener {
        self.listener
    }
}

fn name(listener: &UnixListener) -> PathBuf {
    let address = listener.local_addr().ok();
    let path = address.as_ref().and_then(|address| address.as_pathname());
    #[cfg(target_os = "linux")]
    if let Some(name) = address
        .as_ref()
        .and_then(std::os::linux::net::SocketAddrExt::as_abstract_name)
    {
        return format!("@{}", name.escape_ascii()).into();
    }
    path.map_or_else(|| "(a socket without a name)".into(), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover<'e>(pid: &'e str, fds: &'e str) -> Handover<'e> {
        Handover {
            pid: Some(OsStr::new(pid)),
            fds: Some(OsStr::new(fds)),
            names: Some(OsStr::new("a:b\n")),
        }
    }

    #[test]
    fn one_socket_for_this_process_is_taken_and_nothing_else() {
        for (handover, want) in [
            (Handover::default(), false),
            (handover("7", "1"), true),
            (handover("7", "0"), false),
            // Meant for another process: none of our business, whatever it says.
            (handover("8", "1"), false),
            (handover("8", "x"), false),
            (handover("", "1"), false),
            (
                Handover {
                    fds: None,
                    ..handover("7", "")
                },
                false,
            ),
            // Who sets no pid follows another protocol than systemd's.
            (
                Handover {
                    pid: None,
                    ..handover("", "1")
                },
                false,
            ),
        ] {
            assert_eq!(handover.is_for(7).unwrap(), want, "{handover:?}");
        }
        for fds in ["2", "4294967295", "", "-1", "1x", "99999999999999999999"] {
            let said = handover("7", fds).is_for(7).unwrap_err().to_string();
            assert!(!said.contains('\n'), "{said}");
        }
    }
}
