//! The words of the command line, and nothing of what they do. Help texts and the manual page come from here.

mod audit;
mod git;
mod sandbox;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::{
    audit::{AuditCommand, AuditShowArgs, AuditVerifyArgs, Since},
    git::GitCredentialArgs,
    sandbox::{Attest, SandboxArgs, SandboxKind},
};
use crate::{
    broker::policy::{EntryPattern, NamePattern},
    client::LoginFlow,
    credential::{DEFAULT_BUCKET, InvalidName, Name},
};

/// The heading of what every command takes.
const GLOBAL: &str = "Options of every command";

/// Hand short-lived credentials to sandboxed processes over gRPC on a Unix socket.
///
/// Refresh tokens and other long-lived secrets stay on the host. Where CREDBROKER_SOCKET is set, the commands work
/// through the broker at that socket; otherwise they work on this host's store.
#[derive(Debug, Parser)]
#[command(
    name = "credbroker",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
Exit codes: 0 done, 64 usage, 65 bad data, 66 not found, 69 unavailable, 70 internal, 75 try again, \
77 not permitted, 78 configuration. `run` ends with CMD's status, or 125 if the broker failed, \
126 if CMD cannot be executed, 127 if it is not found.

Environment: CREDBROKER_SOCKET and CREDBROKER_CAPABILITY reach a broker; CREDBROKER_<SECTION>_<KEY> \
overrides a key of config.toml; RUST_LOG sets what is logged.")]
pub struct Cli {
    /// Read this configuration instead of $XDG_CONFIG_HOME/credbroker/config.toml
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub config: Option<PathBuf>,
    /// How log lines on standard error look: human, or json (one object a line)
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Human, hide_possible_values = true, help_heading = GLOBAL)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Human,
    /// One JSON object per line
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a broker in the foreground until SIGINT, SIGTERM or SIGHUP
    Serve(ServeArgs),
    /// Run a command with a broker of its own
    Run(RunArgs),
    /// Log in to a provider
    Login(LoginArgs),
    /// Remove an entry, and revoke its token at the provider
    Logout(LogoutArgs),
    /// Get, store and list access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Get, store and list API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show running brokers and stored entries
    Status(StatusArgs),
    /// Check everything that has to be right, and say what mends it
    Doctor(DoctorArgs),
    /// Show the providers that are configured or stored
    Providers,
    /// Check and show the record of what was asked
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Answer git, which asks for user name and password
    GitCredential(GitCredentialArgs),
}

impl Command {
    /// What clap cannot say about arguments that do not go together.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        let serve = |message| {
            Err(UsageError {
                command: "serve",
                message,
            })
        };
        match self {
            Self::Serve(args)
                if !args.allow_uid.is_empty() && args.capability_file.is_none() && args.policy.is_none() =>
            {
                serve(
                    "--allow-uid needs --capability-file or --policy: another user's processes must prove which sandbox they are",
                )
            }
            Self::Serve(args) if args.socket_mode.is_some() && args.socket.is_none() => {
                serve("--socket-mode needs --socket: the mode of the broker's own socket follows from --allow-uid")
            }
            Self::Run(args) => sandbox::check(args),
            _ => Ok(()),
        }
    }

    /// The command's name, if it works on the host only.
    pub(super) fn host_only(&self) -> Option<HostOnly> {
        match self {
            Self::Serve(_) => Some(HostOnly::Command("serve")),
            Self::Run(_) => Some(HostOnly::Command("run")),
            Self::Providers => Some(HostOnly::Command("providers")),
            Self::Audit(AuditCommand::Verify(_)) => Some(HostOnly::Command("audit verify")),
            Self::Audit(AuditCommand::Show(_)) => Some(HostOnly::Command("audit show")),
            Self::Token(TokenCommand::Import(_)) => Some(HostOnly::Command("token import")),
            Self::Key(KeyCommand::Set { .. } | KeyCommand::Remove { .. }) => Some(HostOnly::ApiKeyManagement),
            Self::Token(TokenCommand::Get(_) | TokenCommand::Refresh(_) | TokenCommand::List)
            | Self::Key(KeyCommand::Get { .. } | KeyCommand::List)
            | Self::Login(_)
            | Self::Logout(_)
            | Self::Status(_)
            | Self::Doctor(_)
            | Self::GitCredential(_) => None,
        }
    }
}

/// Arguments that do not go together.
#[derive(Debug, Clone, Copy)]
pub(super) struct UsageError {
    /// The command, whose usage is shown.
    pub(super) command: &'static str,
    /// Which arguments, and what would be right.
    pub(super) message: &'static str,
}

/// What a sandbox cannot do through its socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum HostOnly {
    Command(&'static str),
    ApiKeyManagement,
}

/// What a sandbox may do.
#[derive(Debug, Clone, Default, Args)]
pub struct Rights {
    /// Let clients read this entry's access token
    #[arg(long, value_name = "ENTRY")]
    pub allow: Vec<EntryPattern>,
    /// Let them read this API key
    #[arg(long, value_name = "KEY")]
    pub allow_key: Vec<NamePattern>,
    /// Let them log in to this entry
    #[arg(long, value_name = "ENTRY")]
    pub allow_login: Vec<EntryPattern>,
    /// Let them save an access token to this entry
    #[arg(long, value_name = "ENTRY")]
    pub allow_save: Vec<EntryPattern>,
    /// Let them remove this entry
    #[arg(long, value_name = "ENTRY")]
    pub allow_remove: Vec<EntryPattern>,
}

/// Arguments of `serve`.
#[derive(Debug, Default, Args)]
#[command(after_help = "\
Each --allow... may be given more than once. ENTRY is P (the bucket \"default\" of provider P), P/B, P/* (every bucket) \
or * (everything); KEY is a name or *.

Without --allow, every entry may be read. Without --capability-file or --policy, whoever reaches the socket is served: \
it belongs to you alone (mode 0600 in a directory of mode 0700).

Example: credbroker serve --policy sandboxes.toml")]
pub struct ServeArgs {
    /// Listen here instead of in the broker's own directory
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The mode of --socket, in octal
    #[arg(long, value_name = "MODE", value_parser = socket_mode)]
    pub socket_mode: Option<u32>,
    /// What clients may do.
    #[command(flatten)]
    pub rights: Rights,
    /// Let this uid connect, too; may be given more than once
    #[arg(long, value_name = "UID")]
    pub allow_uid: Vec<u32>,
    /// Ask every client for the capability in this file: 64 hexadecimal digits, readable by you only
    #[arg(long, value_name = "FILE")]
    pub capability_file: Option<PathBuf>,
    /// Serve the sandboxes that this file describes, each by its capability
    #[arg(long, value_name = "FILE", conflicts_with_all = ["capability_file", "allow", "allow_key", "allow_login", "allow_save", "allow_remove"])]
    pub policy: Option<PathBuf>,
    /// Keep everything in memory; the store on disk is not touched
    #[arg(long)]
    pub ephemeral: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each --allow... may be given more than once. ENTRY is P (the bucket \"default\" of provider P), P/B, P/* (every bucket) \
or * (everything); KEY is a name or *.

CMD finds the socket in CREDBROKER_SOCKET and the capability in CREDBROKER_CAPABILITY. It may do nothing but what the \
--allow flags name. When it ends, the broker ends and its files are gone.

--sandbox bwrap shows CMD this host's programs, the working directory (to write to) and an empty home, without an image; \
podman and docker start a container of --image, which sees what --mount names. Each of them has the network, and an \
environment without what is not on a list or named by --env. docs/sandboxes.md has all of it.

Examples: credbroker run --allow github -- python3 client.py; \
credbroker run --sandbox bwrap --allow github -- make test; \
credbroker run --sandbox podman --image node:22 --mount . --allow github -- npm test")]
pub struct RunArgs {
    /// What CMD may do.
    #[command(flatten)]
    pub rights: Rights,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
    // Last, because its heading holds for what comes after it.
    /// What CMD is confined by.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
}

/// Arguments of `login`.
#[derive(Debug, Args)]
#[command(after_help = "\
FLOW is device_code (open a page on any device and enter a code), browser_redirect (log in with a browser on this \
machine) or pkce_redirect (log in anywhere and paste the code that you end at); without it the configuration decides. \
What is stored for the entry is replaced. In a sandbox it needs --allow-login, and only the same account replaces what \
is stored. Ctrl-C cancels the login and ends with 130.

--json prints one object a line, each with event: first prompt (provider, bucket, flow, auth_url, verification_url, \
verification_url_complete, user_code, expire_time), then complete (provider, bucket, subject, expire_time of the access \
token) or error (reason, message); what does not apply is null. A code is then read from standard input, as one line.

Example: credbroker login github")]
pub struct LoginArgs {
    /// The provider
    pub provider: Name,
    /// The bucket: one account at the provider
    #[arg(long, default_value = DEFAULT_BUCKET, value_parser = bucket)]
    pub bucket: Name,
    /// How to log in: device_code, browser_redirect or pkce_redirect
    #[arg(long, value_name = "FLOW", value_parser = flow)]
    pub flow: Option<LoginFlow>,
    /// Open no browser
    #[arg(long)]
    pub no_browser: bool,
    /// Print JSON: one event a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `logout`.
#[derive(Debug, Args)]
#[command(after_help = "\
The entry is gone when it ends, also if the provider could not be asked; what became of the token there is said. In a \
sandbox it needs --allow-remove.

Example: credbroker logout github")]
pub struct LogoutArgs {
    /// The provider
    pub provider: Name,
    /// The bucket: one account at the provider
    #[arg(long, default_value = DEFAULT_BUCKET, value_parser = bucket)]
    pub bucket: Name,
}

/// `token ...`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print a usable access token
    Get(TokenGetArgs),
    /// Ask the provider for a new access token now
    Refresh(TokenRefreshArgs),
    /// Store a token set: the JSON of RFC 6749 section 5.1
    Import(TokenImportArgs),
    /// List the entries, one PROVIDER/BUCKET a line
    List,
}

/// Arguments of `token get`.
#[derive(Debug, Args)]
pub struct TokenGetArgs {
    /// The provider
    pub provider: Name,
    /// The bucket: one account at the provider
    #[arg(long, default_value = DEFAULT_BUCKET, value_parser = bucket)]
    pub bucket: Name,
    /// How long the token shall still be valid: seconds, or 90s, 5m, 1h30m
    #[arg(long, value_name = "DURATION", value_parser = validity, default_value = "0", allow_negative_numbers = true)]
    pub min_validity: Duration,
    /// Print the whole answer as JSON
    #[arg(long, conflicts_with = "header")]
    pub json: bool,
    /// Print an HTTP header: authorization: Bearer TOKEN
    #[arg(long)]
    pub header: bool,
}

/// Arguments of `token refresh`.
#[derive(Debug, Args)]
#[command(after_help = "\
Tokens are refreshed by themselves; this is for one that is refused where it is used. The refresh token goes to the \
provider and nowhere else.")]
pub struct TokenRefreshArgs {
    /// The provider
    pub provider: Name,
    /// The bucket: one account at the provider
    #[arg(long, default_value = DEFAULT_BUCKET, value_parser = bucket)]
    pub bucket: Name,
}

/// Arguments of `token import`.
#[derive(Debug, Args)]
#[command(after_help = "\
The JSON has access_token and, as far as known, refresh_token, token_type, scope, expires_in (seconds from now), \
expires_at (Unix seconds or RFC 3339) and sub or id_token. What is stored is replaced.

Example: credbroker token import github < token.json")]
pub struct TokenImportArgs {
    /// The provider
    pub provider: Name,
    /// The bucket: one account at the provider
    #[arg(long, default_value = DEFAULT_BUCKET, value_parser = bucket)]
    pub bucket: Name,
    /// The file to read; - is standard input
    #[arg(default_value = "-")]
    pub file: PathBuf,
}

/// `key ...`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Store an API key, read from standard input
    #[command(after_help = "One final line end is dropped.\n\nExample: credbroker key set openai < key.txt")]
    Set {
        /// The key's name
        name: Name,
    },
    /// Print an API key
    Get {
        /// The key's name
        name: Name,
    },
    /// List the names, one a line
    List,
    /// Remove an API key
    Remove {
        /// The key's name
        name: Name,
    },
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
--json prints brokers[] with pid, socket and version, and entries[] with provider, bucket, subject, expire_time, \
next_renewal, failures, last_used, state (ok, due, needs_login, ambiguous, unsaved, corrupt, locked), saved_by and watchers (streams that follow it now). What \
is not known is null; in a sandbox that is most of it.")]
pub struct StatusArgs {
    /// Print JSON: brokers[] and entries[]
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
It looks at config, store, runtime (the directory of the sockets), brokers, audit, clock, process and sandbox (bwrap, podman and docker, as far as they are there), in this order; in \
a sandbox, at the socket and the broker behind it. One line each: ok, warn (it works all the same, or was not checked) \
or FAIL, and the mend below. No token is spent, no secret is shown, and nothing changes but a probe file in the store, \
which is removed again; identity_command is run.

It ends with 0 if nothing failed, else with the code of the first failure: 65 a corrupt entry, 69 a store, socket or \
broker that cannot be used, 70 the system, 75 a locked store or a busy lock, 77 a capability or user that the broker \
refuses, 78 config, runtime or audit directory, or the wall clock.

--json prints checks[] with layer, check, status (ok, warn, fail), detail and mend (null if there is none), and ok: \
whether nothing failed.")]
pub struct DoctorArgs {
    /// Print JSON: checks[] and ok
    #[arg(long)]
    pub json: bool,
}

/// An empty bucket is the default one, as in a request.
fn bucket(text: &str) -> Result<Name, InvalidName> {
    if text.is_empty() { DEFAULT_BUCKET } else { text }.parse()
}

fn flow(text: &str) -> Result<LoginFlow, String> {
    LoginFlow::named(text).ok_or_else(|| format!("a flow is one of {}", LoginFlow::NAMES.join(", ")))
}

fn socket_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "a mode is three octal digits, such as 660".to_owned())
}

fn validity(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| "a duration is a number of seconds, or such as 90s, 5m, 1h30m; not negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_and_modes() {
        for (text, want) in [
            ("0", Some(0)),
            ("90", Some(90)),
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("1h30m", Some(5400)),
            ("-5", None),
            ("-5s", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(validity(text).ok().map(|d| d.as_secs()), want, "{text}");
        }
        for (text, want) in [
            ("660", Some(0o660)),
            ("0660", Some(0o660)),
            ("888", None),
            ("7777", None),
            ("", None),
        ] {
            assert_eq!(socket_mode(text).ok(), want, "{text}");
        }
    }
}
