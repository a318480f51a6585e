//! Every key there is: one table for the check of unknown keys, the messages and the documentation.

use super::providers::{ClientAuth, Flow, Preset, RedirectHost, TokenRequestFormat};
use super::{Backend, OnFull};

/// One key of the configuration file or of the policy file.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Key {
    /// The section as documentation writes it; `NAME` stands for a name that the user chooses, `HOST` for a host.
    pub section: &'static str,
    /// The key.
    pub name: &'static str,
    /// What kind of value it takes.
    pub kind: Kind,
    /// What holds when it is not set.
    pub default: &'static str,
    /// What it is for, in one line.
    pub meaning: &'static str,
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A string without control characters, not empty.
    Text,
    /// A path: absolute, below `~/`, or relative to the file's directory (in a variable: to the working directory).
    Path,
    /// A command line for `/bin/sh -c`.
    Command,
    /// The name of an environment variable.
    Variable,
    /// A URL: https, or http to loopback.
    Url,
    /// The path of a URL, from its slash on.
    UrlPath,
    /// `true` or `false`.
    Flag,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A whole number from 1 to a million.
    Count,
    /// Whole seconds, from 1 to ten years.
    Seconds,
    /// A loopback address with a port, or the path of a Unix socket.
    Loopback,
    /// An array of strings.
    Texts,
    /// An array of port numbers, not empty.
    Ports,
    /// An array of HTTP statuses from 400 to 599.
    Statuses,
    /// A table of strings.
    Parameters,
    /// A SHA-256 digest: 64 hexadecimal digits.
    Digest,
    /// An array of entry patterns: `P`, `P/B`, `P/*` or `*`.
    Entries,
    /// An array of API key patterns: `K` or `*`.
    ApiKeys,
    /// One entry: `P` or `P/B`.
    Entry,
    /// The name of an API key.
    ApiKey,
}

impl Kind {
    /// What a value has to be, for messages and documentation.
    #[must_use]
    pub fn description(self) -> String {
        match self {
            Self::Text => "a non-empty string without control characters".into(),
            Self::Path => "a path in a string: absolute, below ~/, or relative".into(),
            Self::Command => "a non-empty string with a command line for /bin/sh -c".into(),
            Self::Variable => "the name of an environment variable in a string: A-Z a-z 0-9 _".into(),
            Self::Url => {
                "a URL in a string: https, or http to loopback, without user name, password and fragment".into()
            }
            Self::UrlPath => "a path of a URL in a string: it begins with / and has no ? and no #".into(),
            Self::Loopback => "127.0.0.1:PORT, [::1]:PORT or the path of a Unix socket (with a /), in a string".into(),
            Self::Flag => "true or false".into(),
            Self::Choice(names) => format!("one of \"{}\"", names.join("\", \"")),
            Self::Count => "a whole number from 1 to 1000000".into(),
            Self::Seconds => "a whole number of seconds from 1 to 315360000".into(),
            Self::Texts => "an array of non-empty strings without spaces and control characters".into(),
            Self::Ports => "a non-empty array of whole numbers from 1 to 65535".into(),
            Self::Statuses => "an array of whole numbers from 400 to 599".into(),
            Self::Parameters => "a table of strings".into(),
            Self::Digest => "64 hexadecimal digits in a string: the SHA-256 of the capability's 32 bytes".into(),
            Self::Entries => "an array of entry patterns, each P, P/B, P/* or * in a string".into(),
            Self::ApiKeys => "an array of API key names in strings, or \"*\"".into(),
            Self::Entry => "one entry in a string: P (the bucket \"default\" of provider P) or P/B".into(),
            Self::ApiKey => "the name of an API key in a string".into(),
        }
    }
}

const fn key(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        section,
        name,
        kind,
        default,
        meaning,
    }
}

pub(super) const STORE: &str = "store";
pub(super) const AUDIT: &str = "audit";
pub(super) const LIMITS: &str = "limits";
pub(super) const LOGIN: &str = "login";
pub(super) const GIT: &str = "git.HOST";
pub(super) const METRICS: &str = "metrics";
pub(super) const PROVIDERS: &str = "providers.NAME";
pub(super) const SANDBOXES: &str = "sandboxes.NAME";

/// Every key of the configuration file.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key(STORE, "backend", Kind::Choice(Backend::NAMES), "file", "where token sets and API keys are kept"),
    key(STORE, "path", Kind::Path, "$XDG_DATA_HOME/credbroker", "the directory of the file store"),
    key(STORE, "identity_file", Kind::Path, "made once in the store's directory", "the age identity that decrypts the file store"),
    key(STORE, "identity_command", Kind::Command, "none", "a command that prints the age identity; instead of identity_file"),
    key(STORE, "allow_network_fs", Kind::Flag, "false", "whether the file store may be on a network file system, where locks may not hold"),
    key(AUDIT, "path", Kind::Path, "$XDG_STATE_HOME/credbroker/audit", "the directory of the audit files"),
    key(AUDIT, "on_full", Kind::Choice(OnFull::NAMES), "serve", "what happens to calls while the audit cannot be written: serve answers them and counts the lost lines, refuse refuses them"),
    key(AUDIT, "max_file_mib", Kind::Count, "64", "how many MiB an audit file has before the next one takes over"),
    key(LIMITS, "requests_per_second", Kind::Count, "60", "how many calls a second one connection may make; twice as many at once"),
    key(LIMITS, "requests_per_second_per_socket", Kind::Count, "600", "how many calls a second, and at once, all connections of a socket may make together"),
    key(LIMITS, "connections", Kind::Count, "256", "how many connections a socket may have"),
    key(LIMITS, "streams", Kind::Count, "64", "how many streaming calls a connection may have; sixteen may have as many at once, the others four each"),
    key(LOGIN, "timeout_seconds", Kind::Seconds, "600", "how long a user has to complete a login, in seconds"),
    key(GIT, "entry", Kind::Entry, "none", "the entry whose access token git gets as the password for HOST; this or api_key"),
    key(GIT, "api_key", Kind::ApiKey, "none", "the API key that git gets as the password for HOST"),
    key(GIT, "username", Kind::Text, "what git asks for, else oauth2", "the user name that git gets; if git asks for another one, it is not answered"),
    key(METRICS, "listen", Kind::Loopback, "none: no metrics", "where `serve` answers GET /metrics with what it counts, for Prometheus"),
    key(PROVIDERS, "preset", Kind::Choice(Preset::NAMES), "none", "take what is particular to a known provider; every other key overrides it"),
    key(PROVIDERS, "issuer", Kind::Url, "none", "the issuer, whose discovery document names the endpoints; those of a preset are then left aside"),
    key(PROVIDERS, "authorization_endpoint", Kind::Url, "the preset's or discovered", "where the user's browser is sent"),
    key(PROVIDERS, "token_endpoint", Kind::Url, "the preset's or discovered", "where tokens are exchanged and refreshed"),
    key(PROVIDERS, "device_authorization_endpoint", Kind::Url, "the preset's or discovered", "where a device login begins"),
    key(PROVIDERS, "revocation_endpoint", Kind::Url, "the preset's or discovered", "where tokens are revoked on logout"),
    key(PROVIDERS, "client_id", Kind::Text, "required", "the OAuth client that this broker is"),
    key(PROVIDERS, "client_secret_file", Kind::Path, "none", "a file with the client secret; one of three ways"),
    key(PROVIDERS, "client_secret_env", Kind::Variable, "none", "an environment variable with the client secret; no child process gets it"),
    key(PROVIDERS, "client_secret_command", Kind::Command, "none", "a command that prints the client secret"),
    key(PROVIDERS, "client_auth", Kind::Choice(ClientAuth::NAMES), "none without a secret, else basic unless discovery excludes it", "how the client shows who it is at the token endpoint"),
    key(PROVIDERS, "scopes", Kind::Texts, "the preset's, else none", "the scopes that a login asks for"),
    key(PROVIDERS, "flow", Kind::Choice(Flow::NAMES), "the preset's, else what the endpoints allow", "the login flow if the caller names none"),
    key(PROVIDERS, "redirect_host", Kind::Choice(RedirectHost::NAMES), "the preset's, else 127.0.0.1", "the host of the loopback redirect URL as the provider knows it"),
    key(PROVIDERS, "redirect_path", Kind::UrlPath, "the preset's, else /callback", "the path of the loopback redirect URL"),
    key(PROVIDERS, "redirect_ports", Kind::Ports, "the preset's, else any free port", "the ports for the loopback redirect, tried in order"),
    key(PROVIDERS, "redirect_url", Kind::Url, "the preset's", "the redirect URL of pkce_redirect, a page that shows the code to paste"),
    key(PROVIDERS, "authorization_params", Kind::Parameters, "the preset's, else none", "further parameters of the authorization URL"),
    key(PROVIDERS, "token_params", Kind::Parameters, "the preset's, else none", "further parameters of requests to the token endpoint"),
    key(PROVIDERS, "token_request_format", Kind::Choice(TokenRequestFormat::NAMES), "the preset's, else form", "how requests to the token endpoint are encoded"),
    key(PROVIDERS, "extra_fields", Kind::Texts, "the preset's, else none", "string fields of the token answer that sandboxes get in extra"),
    key(PROVIDERS, "default_lifetime", Kind::Seconds, "3600", "how long an access token is good for if the provider does not say, in seconds"),
    key(PROVIDERS, "retry_ambiguous", Kind::Flag, "true", "whether a refresh token may be presented again after an answer was lost"),
    key(PROVIDERS, "refused_errors", Kind::Texts, "the preset's, else none", "further error codes that mean the refresh token is dead, as invalid_grant does"),
    key(PROVIDERS, "refused_statuses", Kind::Statuses, "the preset's, else none", "HTTP statuses that mean the refresh token is dead"),
];

/// Every key of the policy file.
#[rustfmt::skip]
pub const POLICY_KEYS: &[Key] = &[
    key(SANDBOXES, "capability_sha256", Kind::Digest, "required", "the SHA-256 of the sandbox's capability (of the 32 bytes, not of their digits)"),
    key(SANDBOXES, "allow", Kind::Entries, "[]", "entries whose access tokens the sandbox may read"),
    key(SANDBOXES, "allow_key", Kind::ApiKeys, "[]", "API keys that the sandbox may read"),
    key(SANDBOXES, "allow_login", Kind::Entries, "[]", "entries that the sandbox may log in to"),
    key(SANDBOXES, "allow_save", Kind::Entries, "[]", "entries that the sandbox may save"),
    key(SANDBOXES, "allow_remove", Kind::Entries, "[]", "entries that the sandbox may remove"),
];

/// A closed list of values, each with the name that the file uses.
pub(super) trait Choice: Copy + 'static {
    const ALL: &'static [Self];

    fn name(self) -> &'static str;
}

/// Defines an enumeration together with its names, so that the two cannot part.
macro_rules! choice {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// The names as the configuration file writes them.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// What the configuration file calls that.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                [$(Self::$variant),+].into_iter().find(|choice| choice.as_str() == name)
            }

            /// The name as the configuration file writes it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl $crate::config::schema::Choice for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn name(self) -> &'static str {
                self.as_str()
            }
        }
    };
}
pub(super) use choice;

/// The candidate that looks most like the text, and how much (1: the same).
fn nearest<'c>(text: &str, candidates: &[&'c str]) -> Option<(&'c str, f64)> {
    let text = text.to_lowercase();
    candidates
        .iter()
        .map(|candidate| (*candidate, strsim::jaro_winkler(&text, &candidate.to_lowercase())))
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
}

/// The hint of a message: the nearest candidate, and all of them where even that one looks like something else.
pub(super) fn did_you_mean(text: &str, candidates: &[&str]) -> String {
    match nearest(text, candidates) {
        // The command line's suggestions begin at the same similarity.
        Some((near, similarity)) if similarity > 0.7 => format!("did you mean \"{near}\"?"),
        Some((near, _)) => format!("the nearest is \"{near}\", all there are: {}", candidates.join(", ")),
        None => "remove it".into(),
    }
}
