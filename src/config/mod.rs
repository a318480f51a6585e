//! The configuration: a file, overridden by environment variables, becomes one valid [`Config`].
//!
//! Flags override both; the command line does that itself, on the fields of the [`Config`] it got. What is wrong ends in
//! a [`ConfigError`], which says where, which key and what to do, on one line. Every key stands in [`KEYS`].
//!
//! Paths: `~/` at the beginning is the home directory. Relative paths of a file belong to the file's directory, those of
//! a variable to the working directory. Commands are run by `/bin/sh -c` in `/`.
//!
//! This module reads files and never writes one; it runs no command and fetches no URL. It also reads the two files that
//! say who may connect to a `serve`: [`PolicyFile`] and the capability's, [`read_capability_file`].

mod audit;
mod capability_file;
mod environment;
mod error;
mod file;
mod git;
mod metrics;
mod policy_file;
mod providers;
mod schema;
mod section;
#[cfg(test)]
mod tests;
mod values;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::{
    audit::{AuditConfig, OnFull},
    capability_file::{Capability, read_capability_file},
    environment::{CAPABILITY, Environment, SOCKET},
    error::ConfigError,
    git::{GitConfig, GitHost, GitSecret, InvalidHost},
    metrics::{MetricsConfig, MetricsListen},
    policy_file::{PolicyFile, Sandbox},
    providers::{ClientAuth, ClientSecret, Flow, Preset, ProviderConfig, RedirectHost, TokenRequestFormat},
    schema::{KEYS, Key, Kind, POLICY_KEYS},
    values::{Params, ShellCommand},
};
use self::{
    environment::PREFIX,
    error::{Place, escaped},
    file::Source,
    schema::{AUDIT, GIT, LIMITS, LOGIN, METRICS, STORE, choice, did_you_mean},
    section::{Given, Roots, Section, absolute},
};
use crate::credential::Name;
pub use crate::oauth::Endpoint;

/// The whole configuration, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Where token sets and API keys are kept.
    pub store: StoreConfig,
    /// Where the audit files are, and how they are written.
    pub audit: AuditConfig,
    /// How much a sandbox may ask of the broker.
    pub limits: LimitsConfig,
    /// How users log in.
    pub login: LoginConfig,
    /// What git gets, by host.
    pub git: BTreeMap<GitHost, GitConfig>,
    /// Where metrics are shown.
    pub metrics: MetricsConfig,
    /// The providers by name.
    pub providers: BTreeMap<Name, ProviderConfig>,
}

/// `[store]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreConfig {
    /// The backend.
    pub backend: Backend,
    /// The directory of the file store. `None`: it is not set, and there is no home to put it in; see
    /// [`StoreConfig::directory`].
    pub path: Option<PathBuf>,
    /// Where the age identity of the file store comes from.
    pub identity: IdentitySource,
    /// Whether the file store may be on a network file system.
    pub allow_network_fs: bool,
}

impl StoreConfig {
    /// The directory of the file store, for those who need it: not everybody does, so having none is no error before.
    ///
    /// # Errors
    /// It is not set, and there is no home directory.
    pub fn directory(&self) -> Result<&Path, ConfigError> {
        needed(self.path.as_deref(), "store.path", "XDG_DATA_HOME")
    }
}

/// `[limits]`. `None`: the server's own number holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Calls a second on one connection.
    pub requests_per_second: Option<NonZeroU32>,
    /// Calls a second on all connections of a socket together.
    pub requests_per_second_per_socket: Option<NonZeroU32>,
    /// Connections of a socket.
    pub connections: Option<NonZeroU32>,
    /// Streaming calls of a connection.
    pub streams: Option<NonZeroU32>,
}

/// `[login]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginConfig {
    /// How long a user has.
    pub timeout: Duration,
}

impl Default for LoginConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
        }
    }
}

impl LimitsConfig {
    fn from_section(section: &Section<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            requests_per_second: section.count("requests_per_second")?,
            requests_per_second_per_socket: section.count("requests_per_second_per_socket")?,
            connections: section.count("connections")?,
            streams: section.count("streams")?,
        })
    }
}

choice! {
    /// What keeps token sets and API keys.
    #[derive(Default)]
    pub enum Backend {
        /// Encrypted files.
        #[default]
        File = "file",
        /// The memory of the process; nothing survives it.
        Memory = "memory",
    }
}

/// Where the age identity comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum IdentitySource {
    /// The store's own, made once in its directory.
    #[default]
    Own,
    /// A file holds it.
    File(PathBuf),
    /// A command prints it.
    Command(ShellCommand),
}

impl Config {
    /// Reads `explicit`, or the default file if there is one, and lets the environment override single keys.
    ///
    /// # Errors
    /// The first thing that is wrong: what cannot be read, then what is unknown, then what has a wrong value.
    pub fn load(explicit: Option<&Path>, env: &Environment) -> Result<Self, ConfigError> {
        let source = match (explicit, Self::default_file(env)) {
            (Some(path), _) => Some((path.to_owned(), Source::read(path)?)),
            (None, Some(path)) => Source::read_if_present(&path)?.map(|source| (path, source)),
            (None, None) => None,
        };
        match &source {
            Some((path, source)) => {
                let path = absolute(path);
                let base = path.parent().unwrap_or(Path::new("/"));
                Self::from_source(Some(source), base, env)
            }
            None => Self::from_source(None, Path::new("/"), env),
        }
    }

    /// The file that is read when none is named. `None`: there is no home directory.
    #[must_use]
    pub fn default_file(env: &Environment) -> Option<PathBuf> {
        env.config_home().map(|home| home.join("credbroker/config.toml"))
    }

    /// The names of the environment variables that override a key; never their values.
    #[must_use]
    pub fn overrides(env: &Environment) -> Vec<String> {
        overridable()
            .map(variable_of)
            .filter(|variable| env.get(variable).is_some())
            .collect()
    }

    /// The environment variables that hold client secrets; no child process may get them.
    #[must_use]
    pub fn secret_variables(&self) -> Vec<&str> {
        self.providers
            .values()
            .filter_map(|provider| match &provider.client_secret {
                Some(ClientSecret::Variable(name)) => Some(name.as_str()),
                Some(ClientSecret::File(_) | ClientSecret::Command(_)) | None => None,
            })
            .collect()
    }

    /// The first key that names a command which a broker would run; with none it starts no program.
    #[must_use]
    pub fn a_command(&self) -> Option<&'static str> {
        let of_provider = |provider: &ProviderConfig| matches!(provider.client_secret, Some(ClientSecret::Command(_)));
        if matches!(self.store.identity, IdentitySource::Command(_)) {
            Some("identity_command")
        } else {
            self.providers
                .values()
                .any(of_provider)
                .then_some("client_secret_command")
        }
    }

    fn from_source(source: Option<&Source>, base: &Path, env: &Environment) -> Result<Self, ConfigError> {
        let roots = Roots { base, home: env.home() };
        let table = source.map(Source::parse).transpose()?;
        let mut sections = match (source, &table) {
            (Some(source), Some(table)) => source.sections(table, KEYS, roots)?,
            (None, _) | (_, None) => Vec::new(),
        };
        override_keys(&mut sections, env, roots)?;

        let mut config = Self {
            store: StoreConfig {
                path: env.data_home().map(|home| home.join("credbroker")),
                ..StoreConfig::default()
            },
            audit: AuditConfig {
                path: env.state_home().map(|home| home.join("credbroker/audit")),
                ..AuditConfig::default()
            },
            limits: LimitsConfig::default(),
            login: LoginConfig::default(),
            git: BTreeMap::new(),
            metrics: MetricsConfig::default(),
            providers: BTreeMap::new(),
        };
        for section in &sections {
            match (section.kind(), section.name()) {
                (STORE, _) => config.store.apply(section)?,
                (AUDIT, _) => config.audit.apply(section)?,
                (LOGIN, _) => {
                    if let Some(timeout) = section.seconds("timeout_seconds")? {
                        config.login.timeout = timeout;
                    }
                }
                (METRICS, _) => config.metrics = MetricsConfig::from_section(section)?,
                (LIMITS, _) => config.limits = LimitsConfig::from_section(section)?,
                (GIT, _) => config.add_git_host(section)?,
                (_, Some(name)) => {
                    let provider = ProviderConfig::from_section(section)?;
                    config.providers.insert(name.clone(), provider);
                }
                // Every section of `KEYS` has its arm above; a test goes through all keys.
                (_, None) => {}
            }
        }
        Ok(config)
    }

    fn add_git_host(&mut self, section: &Section<'_>) -> Result<(), ConfigError> {
        let Some(host) = section.host() else {
            return Ok(());
        };
        let git = GitConfig::from_section(section)?;
        if self.git.insert(host.clone(), git).is_some() {
            // Keys of TOML are other ones in another case, hosts are not.
            return Err(section.incomplete("is there twice", "remove one of the two"));
        }
        Ok(())
    }
}

impl StoreConfig {
    fn apply(&mut self, section: &Section<'_>) -> Result<(), ConfigError> {
        section.at_most_one(&["identity_file", "identity_command"])?;
        if let Some(backend) = section.choice("backend")? {
            self.backend = backend;
        }
        if let Some(path) = section.path("path")? {
            self.path = Some(path);
        }
        if let Some(path) = section.path("identity_file")? {
            self.identity = IdentitySource::File(path);
        }
        if let Some(command) = section.command("identity_command")? {
            self.identity = IdentitySource::Command(command);
        }
        if let Some(allow) = section.flag("allow_network_fs")? {
            self.allow_network_fs = allow;
        }
        Ok(())
    }
}

/// Applies every `CREDBROKER_<SECTION>_<KEY>` of the environment; one that names no key is an error.
fn override_keys<'d>(
    sections: &mut Vec<Section<'d>>,
    env: &'d Environment,
    roots: Roots<'d>,
) -> Result<(), ConfigError> {
    for (variable, value) in env.own_variables() {
        if variable == SOCKET || variable == CAPABILITY {
            continue;
        }
        let place = Place::Variable(variable.to_string_lossy().into_owned());
        let Some(key) = overridable().find(|key| variable == OsStr::new(&variable_of(key))) else {
            return Err(unknown_variable(&place, &variable.to_string_lossy()));
        };
        let found = sections.iter_mut().find(|section| section.kind() == key.section);
        if let Some(section) = found {
            section.set(key, place, Given::Variable(value));
        } else {
            let mut section = Section::new(key.section, None, place.clone(), roots);
            section.set(key, place, Given::Variable(value));
            sections.push(section);
        }
    }
    Ok(())
}

fn overridable() -> impl Iterator<Item = &'static Key> {
    // Variables cannot say which provider or host they mean.
    KEYS.iter().filter(|key| !key.section.contains('.'))
}

/// The variable that overrides the key.
fn variable_of(key: &Key) -> String {
    format!("{PREFIX}{}_{}", key.section, key.name).to_uppercase()
}

fn unknown_variable(place: &Place, name: &str) -> ConfigError {
    let problem = format!("unknown variable \"{}\"", escaped(name));
    for (prefix, what) in [
        ("CREDBROKER_PROVIDERS_", "providers"),
        ("CREDBROKER_GIT_", "git's hosts"),
    ] {
        if name.starts_with(prefix) {
            let mend = format!("{what} are set in the configuration file only: unset it");
            return ConfigError::new(place, problem, mend);
        }
    }
    let known: Vec<String> = overridable().map(variable_of).collect();
    let mut names: Vec<&str> = known.iter().map(String::as_str).collect();
    names.extend([SOCKET, CAPABILITY]);
    ConfigError::new(place, problem, did_you_mean(name, &names))
}

fn needed<'p>(path: Option<&'p Path>, key: &str, variable: &str) -> Result<&'p Path, ConfigError> {
    path.ok_or_else(|| {
        ConfigError::new(
            &Place::Default,
            format!("{key} is not set, and neither {variable} nor HOME is an absolute path"),
            format!("set HOME or {key}"),
        )
    })
}
