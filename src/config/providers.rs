//! `[providers.NAME]`: what is particular to one OAuth authorization server.
//!
//! Everything that a preset or a discovery document may also say is an `Option`; what it becomes when nobody says it is
//! for those who ask providers.

use std::{path::PathBuf, time::Duration};

use super::{
    Endpoint,
    error::ConfigError,
    schema::choice,
    section::Section,
    values::{Params, ShellCommand},
};

choice! {
    /// A provider whose particulars are known.
    pub enum Preset {
        /// Anthropic.
        Anthropic = "anthropic",
        /// OpenAI, as its command-line tool logs in.
        Codex = "codex",
        /// Google, as the Gemini tools log in.
        Gemini = "gemini",
        /// Google.
        Google = "google",
        /// Qwen.
        Qwen = "qwen",
        /// GitHub.
        Github = "github",
        /// Microsoft.
        Microsoft = "microsoft",
    }
}

choice! {
    /// How the client shows who it is at the token endpoint.
    pub enum ClientAuth {
        /// HTTP basic authentication.
        Basic = "basic",
        /// Id and secret in the body.
        Post = "post",
        /// The id in the body, no secret.
        None = "none",
    }
}

choice! {
    /// A way to log in.
    pub enum Flow {
        /// The user types a code on another device.
        DeviceCode = "device_code",
        /// The user pastes a code.
        PkceRedirect = "pkce_redirect",
        /// The browser is redirected to the host's loopback address.
        BrowserRedirect = "browser_redirect",
    }
}

choice! {
    /// The host of a loopback redirect URL, as it is registered with the provider.
    pub enum RedirectHost {
        /// `127.0.0.1`.
        V4 = "127.0.0.1",
        /// `[::1]`.
        V6 = "[::1]",
        /// `localhost`.
        Localhost = "localhost",
    }
}

choice! {
    /// How requests to the token endpoint are encoded.
    pub enum TokenRequestFormat {
        /// `application/x-www-form-urlencoded`, as RFC 6749 has it.
        Form = "form",
        /// JSON.
        Json = "json",
    }
}

/// Where the client secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientSecret {
    /// A file holds it.
    File(PathBuf),
    /// The environment variable of this name holds it.
    Variable(String),
    /// This command prints it.
    Command(ShellCommand),
}

/// The configuration of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProviderConfig {
    /// The preset that everything else overrides.
    pub preset: Option<Preset>,
    /// The issuer, for discovery.
    pub issuer: Option<Endpoint>,
    /// Where the user's browser is sent.
    pub authorization_endpoint: Option<Endpoint>,
    /// Where tokens are exchanged and refreshed.
    pub token_endpoint: Option<Endpoint>,
    /// Where a device login begins.
    pub device_authorization_endpoint: Option<Endpoint>,
    /// Where tokens are revoked.
    pub revocation_endpoint: Option<Endpoint>,
    /// The OAuth client.
    pub client_id: String,
    /// Its secret, if it has one.
    pub client_secret: Option<ClientSecret>,
    /// How it shows who it is.
    pub client_auth: Option<ClientAuth>,
    /// The scopes that a login asks for.
    pub scopes: Option<Vec<String>>,
    /// The login flow if the caller names none.
    pub flow: Option<Flow>,
    /// The host of the loopback redirect URL.
    pub redirect_host: Option<RedirectHost>,
    /// The path of the loopback redirect URL.
    pub redirect_path: Option<String>,
    /// The ports for the loopback redirect, in order.
    pub redirect_ports: Option<Vec<u16>>,
    /// The redirect URL of [`Flow::PkceRedirect`].
    pub redirect_url: Option<Endpoint>,
    /// Further parameters of the authorization URL.
    pub authorization_params: Option<Params>,
    /// Further parameters of requests to the token endpoint.
    pub token_params: Option<Params>,
    /// How those are encoded.
    pub token_request_format: Option<TokenRequestFormat>,
    /// String fields of the token answer that sandboxes get.
    pub extra_fields: Option<Vec<String>>,
    /// How long an access token with a refresh token is good for if the provider does not say.
    pub default_lifetime: Duration,
    /// Whether a refresh token may be presented again after an answer was lost.
    pub retry_ambiguous: bool,
    /// Further error codes that mean the refresh token is dead.
    pub refused_errors: Option<Vec<String>>,
    /// HTTP statuses that mean the refresh token is dead.
    pub refused_statuses: Option<Vec<u16>>,
}

/// What [`ProviderConfig::default_lifetime`] is when nobody sets it.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

/// Fields of a token answer that stay on the host, whatever `extra_fields` says.
const HOST_ONLY_FIELDS: &[&str] = &[
    "refresh_token",
    "client_secret",
    "code_verifier",
    "device_code",
    "device_auth_id",
];

/// Parameters that the broker itself sets: another value would break the protocol, its protection or the boundary.
const AUTHORIZATION_PARAMS_OF_OURS: &[&str] = &[
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "redirect_uri",
    "refresh_token",
    "response_type",
    "scope",
    "state",
];

/// The same for the token endpoint.
const TOKEN_PARAMS_OF_OURS: &[&str] = &[
    "client_id",
    "client_secret",
    "code",
    "code_verifier",
    "device_code",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "state",
];

impl ProviderConfig {
    pub(super) fn from_section(section: &Section<'_>) -> Result<Self, ConfigError> {
        section.at_most_one(&["client_secret_file", "client_secret_env", "client_secret_command"])?;
        let client_secret = if let Some(path) = section.path("client_secret_file")? {
            Some(ClientSecret::File(path))
        } else if let Some(variable) = secret_variable(section)? {
            Some(ClientSecret::Variable(variable))
        } else {
            section.command("client_secret_command")?.map(ClientSecret::Command)
        };
        let provider = Self {
            preset: section.choice("preset")?,
            issuer: section.url("issuer")?,
            authorization_endpoint: section.url("authorization_endpoint")?,
            token_endpoint: section.url("token_endpoint")?,
            device_authorization_endpoint: section.url("device_authorization_endpoint")?,
            revocation_endpoint: section.url("revocation_endpoint")?,
            client_id: section.text("client_id")?.ok_or_else(|| {
                section.incomplete(
                    "lacks client_id",
                    "register a client with the provider and set client_id to the id you got (no preset brings one)",
                )
            })?,
            client_secret,
            client_auth: section.choice("client_auth")?,
            scopes: section.words("scopes")?,
            flow: section.choice("flow")?,
            redirect_host: section.choice("redirect_host")?,
            redirect_path: section.url_path("redirect_path")?,
            redirect_ports: section.numbers("redirect_ports", &(1..=u16::MAX))?,
            redirect_url: section.url("redirect_url")?,
            authorization_params: section.params("authorization_params")?,
            token_params: section.params("token_params")?,
            token_request_format: section.choice("token_request_format")?,
            extra_fields: section.words("extra_fields")?,
            default_lifetime: section.seconds("default_lifetime")?.unwrap_or(DEFAULT_LIFETIME),
            retry_ambiguous: section.flag("retry_ambiguous")?.unwrap_or(true),
            refused_errors: section.words("refused_errors")?,
            refused_statuses: section.numbers("refused_statuses", &(400..=599))?,
        };
        provider.check(section)?;
        Ok(provider)
    }

    /// The key of an endpoint that is asked without TLS, on this host: tokens, client secrets or a user's password go there.
    #[must_use]
    pub fn without_tls(&self) -> Option<&'static str> {
        let endpoints = [
            ("issuer", &self.issuer),
            ("token_endpoint", &self.token_endpoint),
            ("revocation_endpoint", &self.revocation_endpoint),
            ("device_authorization_endpoint", &self.device_authorization_endpoint),
            ("authorization_endpoint", &self.authorization_endpoint),
        ];
        let without = |endpoint: &Option<Endpoint>| endpoint.as_ref().is_some_and(|endpoint| !endpoint.is_https());
        let found = endpoints.into_iter().find(|(_, endpoint)| without(endpoint));
        found.map(|(key, _)| key)
    }

    /// What no single key can be blamed for.
    fn check(&self, section: &Section<'_>) -> Result<(), ConfigError> {
        self.check_endpoints(section)?;
        self.check_client_auth(section)?;
        if self.redirect_ports.as_ref().is_some_and(Vec::is_empty) {
            return Err(section.fault(
                "redirect_ports",
                "names no port",
                "name one, or remove the key for any free port",
            ));
        }
        let names = |params: &Option<Params>| -> Vec<String> {
            params
                .iter()
                .flat_map(Params::iter)
                .map(|(name, _)| name.to_owned())
                .collect()
        };
        let table = [
            (
                "authorization_params",
                names(&self.authorization_params),
                AUTHORIZATION_PARAMS_OF_OURS,
            ),
            ("token_params", names(&self.token_params), TOKEN_PARAMS_OF_OURS),
            (
                "extra_fields",
                self.extra_fields.clone().unwrap_or_default(),
                HOST_ONLY_FIELDS,
            ),
        ];
        for (key, names, forbidden) in table {
            if let Some(name) = forbidden.iter().find(|name| names.iter().any(|n| n == *name)) {
                let (problem, mend) = if key == "extra_fields" {
                    (
                        format!("must not name \"{name}\""),
                        "remove it: it never leaves the host",
                    )
                } else {
                    (
                        format!("must not set \"{name}\""),
                        "remove it: the broker sets it itself, from the keys of this section",
                    )
                };
                return Err(section.fault(key, &problem, mend));
            }
        }
        Ok(())
    }

    fn check_endpoints(&self, section: &Section<'_>) -> Result<(), ConfigError> {
        if let Some(issuer) = &self.issuer
            && issuer.uri().query().is_some()
        {
            return Err(section.fault(
                "issuer",
                "must not have a query",
                "remove what follows the question mark",
            ));
        }
        // A preset and a discovery document know endpoints that the file does not; without either, these are all.
        if self.preset.is_some() || self.issuer.is_some() {
            return Ok(());
        }
        if self.token_endpoint.is_none() {
            let mend = "set preset, or issuer for discovery, or at least token_endpoint";
            return Err(section.incomplete("does not say where tokens come from", mend));
        }
        let missing = match self.flow {
            Some(Flow::DeviceCode) if self.device_authorization_endpoint.is_none() => "device_authorization_endpoint",
            Some(Flow::PkceRedirect | Flow::BrowserRedirect) if self.authorization_endpoint.is_none() => {
                "authorization_endpoint"
            }
            Some(Flow::PkceRedirect) if self.redirect_url.is_none() => "redirect_url",
            Some(_) | None => return Ok(()),
        };
        Err(section.fault("flow", &format!("needs {missing}"), "set it, or choose another flow"))
    }

    fn check_client_auth(&self, section: &Section<'_>) -> Result<(), ConfigError> {
        let ways = "set client_secret_file, client_secret_env or client_secret_command";
        match (self.client_auth, &self.client_secret) {
            (Some(ClientAuth::Basic | ClientAuth::Post), None) => {
                Err(section.fault("client_auth", "needs a client secret", ways))
            }
            (Some(ClientAuth::None), Some(_)) => Err(section.fault(
                "client_auth",
                "is \"none\", so the client secret would never be used",
                "remove one of the two",
            )),
            (Some(_) | None, _) => Ok(()),
        }
    }
}

/// A variable of the program's own prefix would be refused as an unknown override.
fn secret_variable(section: &Section<'_>) -> Result<Option<String>, ConfigError> {
    let variable = section.variable("client_secret_env")?;
    if variable
        .as_ref()
        .is_some_and(|name| name.starts_with(super::environment::PREFIX))
    {
        let mend = "give the variable another name";
        return Err(section.fault("client_secret_env", "must not begin with CREDBROKER_", mend));
    }
    Ok(variable)
}
