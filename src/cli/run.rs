//! `run`: a broker of its own around one command.

use std::{process::ExitCode, sync::Arc};

use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    broker::policy::Policy,
    cli::{
        args::RunArgs,
        child::Child,
        failure::Failure,
        notices::Printer,
        output, serve,
        signals::{FORWARDED, Signals},
    },
    config::{CAPABILITY, Config, Environment, SOCKET},
    daemon::{self, Options, SocketChoice},
    server::admission::{Admission, CAPABILITY_BYTES, Sandbox},
};

/// The broker failed before or beside CMD, as `env` and `timeout` have it.
const BROKER_FAILED: u8 = 125;

/// Starts a broker, then the command; ends both. The socket accepts before the command starts.
pub(super) async fn run(
    config: impl FnOnce() -> Result<Config, Failure>,
    environment: &Environment,
    arguments: RunArgs,
) -> Result<ExitCode, Failure> {
    let broker_failed = |failure: Failure| failure.with_code(BROKER_FAILED);
    // Caught from here on: what arrives before CMD runs must not leave the broker's files behind.
    let mut signals = Signals::catch(&FORWARDED).map_err(broker_failed)?;
    let config = config().map_err(broker_failed)?;
    let capability = capability();
    let policy = Policy {
        read: arguments.rights.allow.clone(),
        ..Policy::default()
    };
    let printer = Printer::start();
    let options = Options {
        socket: SocketChoice::Own,
        admission: Admission::Capability(vec![Sandbox {
            name: "run".into(),
            capability_sha256: Sha256::digest(*capability).into(),
            policy: Arc::new(serve::policy(policy, arguments.rights)),
        }]),
        allowed_uids: Vec::new(),
        ephemeral: false,
        notices: printer.notices(),
        // A broker of a moment; the place is that of the one that stays.
        metrics: None,
    };
    let running = daemon::start(&config, environment, options).map_err(|error| broker_failed(error.into()))?;
    output::warning("--sandbox none is no boundary: the command runs as you and could read the store itself");

    let capability = SecretString::from(HEXLOWER.encode(&*capability));
    let secrets = config.secret_variables();
    let variables = environment.child_environment(&secrets).chain([
        (SOCKET.as_ref(), running.socket().as_os_str()),
        (CAPABILITY.as_ref(), capability.expose_secret().as_ref()),
    ]);
    let ended = match Child::start(&arguments.command, variables) {
        Ok(child) => child.wait(&mut signals).await,
        Err(failure) => Err(failure),
    };
    running.stop().await;
    printer.finish();
    ended.map(ExitCode::from)
}

/// A new capability: 32 bytes of the system's randomness.
fn capability() -> Zeroizing<[u8; CAPABILITY_BYTES]> {
    Zeroizing::new(rand::random())
}
