//! The command line: one file per command. `serve` and `run` start a broker; the others work on the store on the host,
//! and through the socket where `CREDBROKER_SOCKET` is set.

pub mod args;
mod audit;
mod before_exec;
mod child;
mod doctor;
mod failure;
mod git_credential;
mod hardening;
mod inside;
mod key;
mod login;
mod logout;
mod notices;
mod output;
mod panics;
mod providers;
mod run;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod seccomp;
mod serve;
mod service_manager;
mod session;
pub mod signals;
mod status;
mod token;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _};
use tracing_subscriber::EnvFilter;

pub use self::failure::exit_code;
use crate::{
    cli::{
        args::{Cli, Command, LogFormat},
        failure::Failure,
    },
    config::{Config, Environment},
};

/// The whole program: hardens the process, then runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// The same with other arguments (the program's name first), for programs that carry the command in them.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    hardening::from_the_start();
    run_with(arguments, &Environment::from_process())
}

/// Runs one command with these arguments in this environment.
fn run_with(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> ExitCode {
    let cli = match parse(arguments) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    init_logging(&cli, environment);
    match dispatch(cli, environment) {
        Ok(code) => code,
        Err(failure) => {
            output::error(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let parsed = Cli::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let error = match parsed {
        Ok(cli) => match cli.command.check() {
            Ok(()) => return Ok(cli),
            Err(wrong) => usage_error(wrong),
        },
        Err(error) => error,
    };
    // Nothing is left to be done if the message itself cannot be printed.
    let _ = error.print();
    Err(if error.use_stderr() {
        ExitCode::from(failure::USAGE)
    } else {
        ExitCode::SUCCESS
    })
}

/// With the usage of the command that was meant, as clap's own errors have it.
fn usage_error(wrong: args::UsageError) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    let kind = clap::error::ErrorKind::ArgumentConflict;
    match command.find_subcommand_mut(wrong.command) {
        Some(subcommand) => subcommand.error(kind, wrong.message),
        None => command.error(kind, wrong.message),
    }
}

fn init_logging(cli: &Cli, environment: &Environment) {
    let default = if matches!(cli.command, Command::Serve(_)) {
        "info"
    } else {
        "warn"
    };
    let filter = match environment.get("RUST_LOG").filter(|value| !value.is_empty()) {
        None => EnvFilter::new(default),
        Some(value) => EnvFilter::try_new(value.to_string_lossy()).unwrap_or_else(|_quoted| {
            output::warning("RUST_LOG is not understood and ignored: write a level, such as debug");
            EnvFilter::new(default)
        }),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::stderr_is_terminal());
    // Only the first call in a process counts; a program that embeds this may have its own.
    let _ = match cli.log_format {
        LogFormat::Human => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

fn dispatch(cli: Cli, environment: &Environment) -> Result<ExitCode, Failure> {
    if environment.socket().is_some()
        && let Some(command) = cli.command.host_only()
    {
        return Err(Failure::host_only(command));
    }
    let config = || Config::load(cli.config.as_deref(), environment).map_err(Failure::from);
    match cli.command {
        Command::Serve(arguments) => {
            let inherited = serve::inherited(environment, &arguments)?;
            let config = config()?;
            let paths = hardening::Paths::of_serve(&config, environment, &arguments);
            // Before there is a second thread: it holds for those that this one starts.
            let confined = hardening::confine(&config, &paths);
            runtime(Workers::Many)?.block_on(serve::serve(&config, environment, arguments, inherited, confined))
        }
        Command::Run(arguments) => {
            runtime(Workers::Many)?.block_on(run::run(config, cli.config.as_deref(), environment, arguments))
        }
        Command::Login(arguments) => runtime(Workers::One)?.block_on(login::login(config, environment, arguments)),
        Command::Logout(arguments) => runtime(Workers::One)?.block_on(async {
            let session = session::Session::open(config, environment).await?;
            let done = logout::logout(&session, arguments).await;
            session.close().await;
            done
        }),
        Command::Token(command) => runtime(Workers::One)?.block_on(async {
            let session = session::Session::open(config, environment).await?;
            let done = token::token(&session, command).await;
            session.close().await;
            done
        }),
        Command::Key(command) => runtime(Workers::One)?.block_on(async {
            let session = session::Session::open(config, environment).await?;
            key::key(&session, command).await
        }),
        Command::Status(arguments) => runtime(Workers::One)?.block_on(async {
            let session = session::Session::open(config, environment).await?;
            status::status(&session, environment, &arguments).await
        }),
        Command::Doctor(arguments) => {
            runtime(Workers::One)?.block_on(doctor::doctor(cli.config.as_deref(), environment, &arguments))
        }
        Command::Audit(command) => runtime(Workers::One)?.block_on(audit::audit(&config()?, environment, command)),
        Command::GitCredential(arguments) => {
            runtime(Workers::One)?.block_on(git_credential::git_credential(config, environment, arguments))
        }
        Command::Providers => runtime(Workers::One)?.block_on(async {
            let session = session::Session::open(config, environment).await?;
            providers::providers(&session).await
        }),
    }
}

#[derive(Clone, Copy)]
enum Workers {
    /// A command that asks one thing after another.
    One,
    /// A broker.
    Many,
}

fn runtime(workers: Workers) -> Result<tokio::runtime::Runtime, Failure> {
    match workers {
        Workers::One => tokio::runtime::Builder::new_current_thread(),
        Workers::Many => tokio::runtime::Builder::new_multi_thread(),
    }
    .enable_all()
    .build()
    .map_err(|error| Failure::internal(format!("cannot start the runtime: {error}")))
}
