//! What can be told inside a sandbox: the way to its broker, and whether the broker takes it. The host's layers are not
//! there to be looked at.

use std::{io, os::unix::fs::FileTypeExt as _, path::Path, time::Duration};

use tokio::{net::UnixStream, time::timeout};

use super::Report;
use crate::{
    cli::failure::{self, Failure},
    client::{Error, probe},
    config::{CAPABILITY, Environment},
    reason::Reason,
};

const SOCKET: &str = "socket";
const BROKER: &str = "broker";
const CANNOT_CONNECT: &str = "Cannot connect to the credential broker. Ensure the sandbox was started correctly.";
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn look(socket: &Path, environment: &Environment, report: &mut Report) {
    report.begins(SOCKET);
    if look_at_socket(socket, report).await.is_none() {
        for check in ["handshake", "capability", "health"] {
            report.left_out(BROKER, check);
        }
        return;
    }
    report.begins(BROKER);
    look_at_handshake(socket, environment, report).await;
    look_at_health(socket, report).await;
}

/// `None`: there is no way to a broker.
async fn look_at_socket(socket: &Path, report: &mut Report) -> Option<()> {
    let shown = socket.display();
    let mut unreachable = |check, detail| report.fail(SOCKET, check, detail, CANNOT_CONNECT, failure::UNAVAILABLE);
    match socket.metadata() {
        Ok(about) if about.file_type().is_socket() => {}
        Ok(_) => {
            unreachable("path", format!("{shown} is not a socket"));
            return None;
        }
        Err(cause) => {
            unreachable("path", format!("{shown}: {cause}"));
            return None;
        }
    }
    let connected = timeout(PATIENCE, UnixStream::connect(socket))
        .await
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
    if let Err(cause) = connected {
        unreachable("connecting", format!("{shown}: {cause}"));
        return None;
    }
    report.ok(SOCKET, "path", shown.to_string());
    report.ok(SOCKET, "connecting", "somebody listens");
    Some(())
}

async fn look_at_handshake(socket: &Path, environment: &Environment, report: &mut Report) {
    let capability = environment.capability();
    match probe::handshake(socket.to_owned(), capability.as_ref()).await {
        Ok(Some(server)) => {
            report.ok(BROKER, "handshake", format!("version {}", server.version));
            let accepted = if capability.is_some() {
                "accepted"
            } else {
                "none is set, and the broker asks for none"
            };
            report.ok(BROKER, "capability", accepted);
        }
        Ok(None) => {
            silent("handshake", report);
            report.left_out(BROKER, "capability");
        }
        Err(error) => {
            let (check, detail) = match (&error, error.reason()) {
                (Error::InvalidCapability, _) => ("capability", format!("{CAPABILITY} is no capability")),
                (_, Some(Reason::Unauthenticated)) if capability.is_none() => {
                    ("capability", format!("{CAPABILITY} is not set"))
                }
                (_, Some(Reason::Unauthenticated)) => {
                    ("capability", format!("the broker does not accept {CAPABILITY}"))
                }
                (_, Some(Reason::PeerNotAllowed)) => ("peer", "the broker does not serve this user".to_owned()),
                _ => ("handshake", "the broker did not agree on a version".to_owned()),
            };
            fail(check, detail, error, report);
            if check == "handshake" {
                report.left_out(BROKER, "capability");
            }
        }
    }
}

/// Needs no capability.
async fn look_at_health(socket: &Path, report: &mut Report) {
    match probe::health(socket.to_owned()).await {
        Ok(Some(true)) => report.ok(BROKER, "health", "it serves"),
        Ok(Some(false)) => report.fail(
            BROKER,
            "health",
            "it does not serve: the host's store cannot be read or written",
            "run `credbroker doctor` on the host",
            failure::UNAVAILABLE,
        ),
        Ok(None) => silent("health", report),
        Err(error) => fail("health", "it does not answer the question".to_owned(), error, report),
    }
}

fn silent(check: &'static str, report: &mut Report) {
    let mend = Error::ConnectionLost.to_string();
    report.fail(BROKER, check, "no answer came in time", mend, failure::UNAVAILABLE);
}

fn fail(check: &'static str, detail: String, error: Error, report: &mut Report) {
    let mend = error.to_string();
    report.fail(BROKER, check, detail, mend, Failure::from(error).exit_code());
}
