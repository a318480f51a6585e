//! What is particular to known providers, as data. Every field is overridden by the configuration, and none has a client
//! id: the operator registers one.
//!
//! `anthropic`, `codex`, `gemini` and `qwen` were read in the source of public clients, `google`, `github` and
//! `microsoft` follow their public documentation. None was tried against the live service.

use super::{ClientAuth, Flow};

/// One provider. Fields that say nothing leave it to the RFCs.
#[derive(Debug)]
pub struct Preset {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Where tokens are refreshed.
    pub token_endpoint: &'static str,
    /// Where they are revoked (RFC 7009).
    pub revocation_endpoint: Option<&'static str>,
    /// How a client that has a secret shows it.
    pub client_auth: Option<ClientAuth>,
    /// The ways to log in, the usual one first.
    pub flows: &'static [Flow],
    /// String fields of the token answer that belong to the access token.
    pub extra_fields: &'static [&'static str],
    /// Error codes, beside `invalid_grant`, that mean the refresh token is dead.
    pub refused_errors: &'static [&'static str],
    /// HTTP statuses that mean the same, whatever the body says.
    pub refused_statuses: &'static [u16],
}

const PLAIN: Preset = Preset {
    name: "",
    token_endpoint: "",
    revocation_endpoint: None,
    client_auth: None,
    flows: &[],
    extra_fields: &[],
    refused_errors: &[],
    refused_statuses: &[],
};

const GOOGLE: Preset = Preset {
    name: "google",
    token_endpoint: "https://oauth2.googleapis.com/token",
    revocation_endpoint: Some("https://oauth2.googleapis.com/revoke"),
    client_auth: Some(ClientAuth::Post),
    flows: &[Flow::BrowserRedirect, Flow::DeviceCode, Flow::PkceRedirect],
    ..PLAIN
};

/// All of them.
pub static PRESETS: [Preset; 7] = [
    Preset {
        // The refresh is form-encoded, as RFC 6749 has it; only the exchange of a code is JSON here.
        name: "anthropic",
        token_endpoint: "https://console.anthropic.com/v1/oauth/token",
        flows: &[Flow::PkceRedirect],
        ..PLAIN
    },
    Preset {
        name: "codex",
        token_endpoint: "https://auth.openai.com/oauth/token",
        flows: &[Flow::BrowserRedirect, Flow::DeviceCode],
        extra_fields: &["account_id"],
        // With status 401, in `error.code`.
        refused_errors: &[
            "refresh_token_expired",
            "refresh_token_reused",
            "refresh_token_invalidated",
        ],
        ..PLAIN
    },
    Preset {
        name: "gemini",
        flows: &[Flow::PkceRedirect, Flow::BrowserRedirect, Flow::DeviceCode],
        ..GOOGLE
    },
    GOOGLE,
    Preset {
        name: "qwen",
        token_endpoint: "https://chat.qwen.ai/api/v1/oauth2/token",
        flows: &[Flow::DeviceCode],
        // The base of the API for this account.
        extra_fields: &["resource_url"],
        ..PLAIN
    },
    Preset {
        name: "github",
        token_endpoint: "https://github.com/login/oauth/access_token",
        client_auth: Some(ClientAuth::Post),
        flows: &[Flow::DeviceCode, Flow::BrowserRedirect],
        // With status 200.
        refused_errors: &["bad_refresh_token"],
        ..PLAIN
    },
    Preset {
        // For accounts of any tenant. One tenant of one's own is an `issuer`, with the tenant's id in the place of
        // `common`; the document of `common` names no issuer that could be compared.
        name: "microsoft",
        token_endpoint: "https://login.microsoftonline.com/common/oauth2/v2.0/token",
        client_auth: Some(ClientAuth::Post),
        flows: &[Flow::DeviceCode, Flow::BrowserRedirect],
        ..PLAIN
    },
];

impl Preset {
    /// The preset of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::Endpoint;

    #[test]
    fn every_endpoint_is_one_that_a_token_may_be_sent_to() {
        for preset in &PRESETS {
            let endpoints = [Some(preset.token_endpoint), preset.revocation_endpoint];
            for endpoint in endpoints.into_iter().flatten() {
                assert!(
                    Endpoint::parse(endpoint).is_some_and(|endpoint| endpoint.is_https()),
                    "{endpoint}"
                );
            }
            assert!(!preset.flows.is_empty(), "{}", preset.name);
        }
    }
}
