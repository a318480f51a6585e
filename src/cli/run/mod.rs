//! `run`: a broker of its own around one command, and a sandbox around the command if one is asked for.

pub(in crate::cli) mod asking;
mod attest;
mod authorities;
pub(in crate::cli) mod confined;
mod here;
pub(in crate::cli) mod host;
mod links;
mod mount_points;
mod places;
mod system_calls;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    broker::policy::Policy,
    cli::{
        args::{Attest, RunArgs},
        before_exec::Start,
        child::Child,
        failure::Failure,
        hardening,
        notices::Printer,
        output, serve,
        signals::{FORWARDED, INTO_A_SANDBOX, Signals},
    },
    config::{CAPABILITY, Config, Environment, SOCKET},
    daemon::{self, Options, Process, Running, SocketChoice},
    sandbox::{Broker, Runtime, Sandbox as Confinement},
    server::{
        admission::{Admission, CAPABILITY_BYTES, Sandbox},
        peer::{AllowedPeers, Describer},
    },
};

/// The broker failed before or beside CMD, as `env` and `timeout` have it.
const BROKER_FAILED: u8 = 125;
/// What stands for the id of a broker that is not started.
const NO_ID: &str = "ID";

/// Starts a broker, then the command; ends both. The socket accepts before the command starts.
pub(super) async fn run(
    config: impl FnOnce() -> Result<Config, Failure>,
    explicit: Option<&Path>,
    environment: &Environment,
    arguments: RunArgs,
) -> Result<ExitCode, Failure> {
    let broker_failed = |failure: Failure| failure.with_code(BROKER_FAILED);
    let runtime = arguments.sandbox.sandbox.runtime();
    // Caught from here on: what arrives before CMD runs must not leave the broker's files behind.
    let caught: &[_] = if runtime == Some(Runtime::Bwrap) {
        &INTO_A_SANDBOX
    } else {
        &FORWARDED
    };
    let mut signals = Signals::catch(caught).map_err(broker_failed)?;
    let config = config().map_err(broker_failed)?;
    let confinement = match runtime {
        Some(runtime) => Some(host::sandbox(runtime, &config, explicit, environment, &arguments).await?),
        None => None,
    };
    if let Some(confinement) = confinement.as_ref().filter(|_| arguments.sandbox.dry_run) {
        return show(&confinement.sandbox, environment);
    }

    let capability = capability();
    let policy = Policy {
        read: arguments.rights.allow.clone(),
        ..Policy::default()
    };
    let (only, reveal) = match arguments.sandbox.attest {
        Some(Attest::Pidns) => {
            let (only, reveal) = attest::sandbox_to_come()?;
            (Some(only), Some(reveal))
        }
        None => (None, None),
    };
    let printer = Printer::start();
    let options = Options {
        socket: SocketChoice::Own,
        admission: Admission::Capability(vec![Sandbox {
            name: "run".into(),
            capability_sha256: Sha256::digest(*capability).into(),
            policy: Arc::new(serve::policy(policy, arguments.rights)),
        }]),
        peers: match &confinement {
            Some(confinement) => AllowedPeers::exactly(confinement.sandbox.host_uids()),
            None => AllowedPeers::own_and(&[]),
        },
        ephemeral: false,
        notices: printer.notices(),
        // A broker of a moment; the place is that of the one that stays.
        metrics: None,
        process: Process {
            protections: hardening::of_run(),
            describer: Describer::here(),
            sandbox: only,
        },
    };
    // What a sandbox can write to is nothing that the host's own programs are looked for in.
    let hosts = confinement.as_ref().map_or(environment, |confined| &confined.hosts);
    let running = daemon::start(&config, hosts, options).map_err(|error| broker_failed(error.into()))?;
    let capability = SecretString::from(HEXLOWER.encode(&*capability));
    let ended = match &confinement {
        Some(confinement) => {
            let broker = broker(&running);
            let session = confined::Session {
                environment: &confinement.runtimes,
                secrets: &config.secret_variables(),
                capability: &capability,
                reveal,
            };
            confined::run(&confinement.sandbox, &broker, &session, &mut signals).await
        }
        None => {
            unconfined(
                &config,
                environment,
                &arguments.command,
                &running,
                &capability,
                &mut signals,
            )
            .await
        }
    };
    running.stop().await;
    printer.finish();
    ended.map(ExitCode::from)
}

async fn unconfined(
    config: &Config,
    environment: &Environment,
    command: &[std::ffi::OsString],
    running: &Running,
    capability: &SecretString,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    output::warning("--sandbox none is no boundary: the command runs as you and could read the store itself");
    let secrets = config.secret_variables();
    let variables = environment.child_environment(&secrets).chain([
        (SOCKET.as_ref(), running.socket().as_os_str()),
        (CAPABILITY.as_ref(), capability.expose_secret().as_ref()),
    ]);
    let (program, words) = command
        .split_first()
        .ok_or_else(|| Failure::internal("no command to run"))?;
    Child::start(program, words, variables, Start::default())?
        .wait(signals)
        .await
}

/// What a sandbox has to know of a broker.
fn broker(running: &Running) -> Broker {
    let directory = running.socket().parent().unwrap_or(Path::new("/"));
    let id = directory.parent().and_then(Path::file_name).unwrap_or_default();
    Broker {
        id: id.to_string_lossy().into_owned(),
        directory: directory.to_owned(),
    }
}

/// Prints what would be started. The id of the broker is not known before it is there, and `ID` stands for it.
fn show(confinement: &Confinement, environment: &Environment) -> Result<ExitCode, Failure> {
    let runtime: PathBuf = daemon::runtime_path(environment)
        .map_err(|error| Failure::from(error).with_code(BROKER_FAILED))?
        .join(NO_ID);
    let line = confinement.command_line(&Broker {
        id: NO_ID.to_owned(),
        directory: runtime.join("sandbox"),
    });
    let mut shown = line.shown();
    shown.push(b'\n');
    output::bytes(&shown)?;
    Ok(ExitCode::SUCCESS)
}

/// A new capability: 32 bytes of the system's randomness.
fn capability() -> Zeroizing<[u8; CAPABILITY_BYTES]> {
    Zeroizing::new(rand::random())
}
