//! `serve`: the daemon, in the foreground.

use std::{process::ExitCode, sync::Arc};

use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use crate::{
    broker::{login::to_the_log, policy::Policy},
    cli::{
        args::{Rights, ServeArgs},
        failure::Failure,
        hardening::Protection,
        service_manager,
        signals::{STOPPING, Signals},
    },
    config::{Config, Environment, PolicyFile, read_capability_file},
    daemon::{self, Options, Process, SocketChoice},
    server::{
        admission::{Admission, Sandbox},
        peer::{AllowedPeers, Describer},
        socket::{Handover, InheritedSocket, SocketError},
    },
};

/// The mode of a `--socket` unless `--socket-mode` says otherwise.
const PRIVATE: u32 = 0o600;

pub(super) async fn serve(
    config: &Config,
    environment: &Environment,
    arguments: ServeArgs,
    inherited: Option<InheritedSocket>,
    (protections, describer): (Vec<Protection>, Describer),
) -> Result<ExitCode, Failure> {
    // Before anything is bound: a signal in between would leave the socket behind.
    let mut signals = Signals::catch(&STOPPING)?;

    let admission = admission(&arguments)?;
    let socket = match (inherited, &arguments.socket) {
        (Some(inherited), _) => SocketChoice::Inherited(inherited),
        (None, None) => SocketChoice::Daemon,
        (None, Some(path)) => {
            let path = std::path::absolute(path)
                .map_err(|error| Failure::internal(format!("cannot make {} absolute: {error}", path.display())))?;
            SocketChoice::At(path, arguments.socket_mode.unwrap_or(PRIVATE))
        }
    };
    let options = Options {
        socket,
        admission,
        peers: AllowedPeers::own_and(&arguments.allow_uid),
        ephemeral: arguments.ephemeral,
        notices: to_the_log(),
        metrics: config.metrics.listen.clone(),
        process: Process {
            protections,
            describer,
            sandbox: None,
        },
    };
    let running = daemon::start(config, environment, options)?;
    tracing::info!(socket = %running.socket().display(), pid = std::process::id(), "serving");
    let signal = tokio::select! {
        signal = signals.next() => signal,
        never = service_manager::announce(&running, environment) => match never {},
    };
    tracing::info!(signal = signal.map(Signal::as_raw), "stopping");
    service_manager::stopping();
    running.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// The socket that the service manager hands over, if it does. Before there is a second thread: the variables are taken out
/// of the process's environment.
pub(super) fn inherited(
    environment: &Environment,
    arguments: &ServeArgs,
) -> Result<Option<InheritedSocket>, SocketError> {
    let inherited = InheritedSocket::take(Handover {
        pid: environment.get("LISTEN_PID"),
        fds: environment.get("LISTEN_FDS"),
        names: environment.get("LISTEN_FDNAMES"),
    })?;
    if inherited.is_some() && arguments.socket.is_some() {
        return Err(SocketError::InheritedAndChosen);
    }
    Ok(inherited)
}

fn admission(arguments: &ServeArgs) -> Result<Admission, Failure> {
    if let Some(path) = &arguments.policy {
        let sandboxes = PolicyFile::load(path)?
            .sandboxes
            .into_iter()
            .map(|sandbox| Sandbox {
                name: sandbox.name.as_str().into(),
                capability_sha256: sandbox.capability_sha256,
                policy: Arc::new(sandbox.policy),
            })
            .collect();
        return Ok(Admission::Capability(sandboxes));
    }
    let rights = arguments.rights.clone();
    let policy = Arc::new(policy(Policy::serve(rights.allow.clone()), rights));
    let Some(path) = &arguments.capability_file else {
        return Ok(Admission::Open(policy));
    };
    let capability = read_capability_file(path)?;
    Ok(Admission::Capability(vec![Sandbox {
        name: "serve".into(),
        capability_sha256: Sha256::digest(capability.expose_secret()).into(),
        policy,
    }]))
}

/// The rights that the flags name; what may be read is decided before.
pub(super) fn policy(read: Policy, rights: Rights) -> Policy {
    Policy {
        keys: rights.allow_key,
        login: rights.allow_login,
        save: rights.allow_save,
        remove: rights.allow_remove,
        ..read
    }
}
