//! `serve`: the daemon, in the foreground.

use std::{ffi::OsStr, process::ExitCode, sync::Arc};

use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use crate::{
    broker::{login::to_the_log, policy::Policy},
    cli::{
        args::{Rights, ServeArgs},
        failure::Failure,
        signals::Signals,
    },
    config::{Config, Environment, PolicyFile, read_capability_file},
    daemon::{self, Options, SocketChoice},
    server::admission::{Admission, Sandbox},
};

/// The mode of a `--socket` unless `--socket-mode` says otherwise.
const PRIVATE: u32 = 0o600;
/// What ends it in order. SIGHUP is a terminal that was closed.
const STOPPING: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

pub(super) async fn serve(
    config: &Config,
    environment: &Environment,
    arguments: ServeArgs,
) -> Result<ExitCode, Failure> {
    // Before anything is bound: a signal in between would leave the socket behind.
    let mut signals = Signals::catch(&STOPPING)?;

    refuse_inherited_sockets(environment)?;
    let admission = admission(&arguments)?;
    let socket = match &arguments.socket {
        None => SocketChoice::Daemon,
        Some(path) => {
            let path = std::path::absolute(path)
                .map_err(|error| Failure::internal(format!("cannot make {} absolute: {error}", path.display())))?;
            SocketChoice::At(path, arguments.socket_mode.unwrap_or(PRIVATE))
        }
    };
    let options = Options {
        socket,
        admission,
        allowed_uids: arguments.allow_uid,
        ephemeral: arguments.ephemeral,
        notices: to_the_log(),
    };
    let running = daemon::start(config, environment, options)?;
    tracing::info!(socket = %running.socket().display(), pid = std::process::id(), "serving");
    let signal = signals.next().await;
    tracing::info!(signal = signal.map(Signal::as_raw), "stopping");
    running.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// A socket that systemd hands over (`sd_listen_fds(3)`) is not taken in this version. Binding another one silently would
/// leave those who connect to the first without an answer.
fn refuse_inherited_sockets(environment: &Environment) -> Result<(), Failure> {
    let meant_for_us = environment.get("LISTEN_PID").and_then(OsStr::to_str) == Some(&std::process::id().to_string());
    if meant_for_us && environment.get("LISTEN_FDS").is_some() {
        return Err(Failure::usage(
            "this version takes no socket from systemd: start `serve` as a plain service, with --socket PATH if clients know the path",
        ));
    }
    Ok(())
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
