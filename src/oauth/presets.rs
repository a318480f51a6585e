//! What is particular to known providers, as data. Every field is overridden by the configuration, and none has a client
//! id: the operator registers one.
//!
//! `anthropic`, `codex`, `gemini` and `qwen` were read in the source of public clients, `google`, `github` and
//! `microsoft` follow their public documentation. None was tried against the live service.

use super::{
    ClientAuth, Flow, RequestFormat,
    login::{DeviceDialect, RedirectHost},
};
use crate::credential::Claim;

/// One provider. Fields that say nothing leave it to the RFCs.
#[derive(Debug)]
pub struct Preset {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Where the user's browser is sent.
    pub authorization_endpoint: Option<&'static str>,
    /// Where a device login begins.
    pub device_authorization_endpoint: Option<&'static str>,
    /// Where tokens are exchanged and refreshed.
    pub token_endpoint: &'static str,
    /// Where they are revoked (RFC 7009).
    pub revocation_endpoint: Option<&'static str>,
    /// How a client that has a secret shows it.
    pub client_auth: Option<ClientAuth>,
    /// The ways to log in, the usual one first.
    pub flows: &'static [Flow],
    /// What a login asks for.
    pub scopes: &'static [&'static str],
    /// Further parameters of the authorization URL.
    pub authorization_params: &'static [(&'static str, &'static str)],
    /// The host of the loopback redirect URL.
    pub redirect_host: Option<RedirectHost>,
    /// Its path.
    pub redirect_path: Option<&'static str>,
    /// The ports for it, in order.
    pub redirect_ports: &'static [u16],
    /// Where the code to paste is shown.
    pub redirect_url: Option<&'static str>,
    /// How the exchange of a code is encoded. A refresh is a form with all of them.
    pub exchange_format: RequestFormat,
    /// Whether `state` is sent along in that exchange.
    pub state_in_exchange: bool,
    /// Whether a pasted code without `state` is refused.
    pub state_required: bool,
    /// How device logins are done.
    pub device: DeviceDialect,
    /// String fields of the token answer that belong to the access token.
    pub extra_fields: &'static [&'static str],
    /// Those of them that are claims of the `id_token`.
    pub claims: &'static [Claim],
    /// Where in the token answer the account is named, if it is neither `sub` nor the `id_token`'s.
    pub subject: &'static [&'static str],
    /// Error codes, beside `access_denied`, that mean the user said no.
    pub denied_errors: &'static [&'static str],
    /// Error codes, beside `invalid_grant`, that mean a code is not good.
    pub refused_codes: &'static [&'static str],
    /// Error codes, beside `invalid_grant`, that mean the refresh token is dead.
    pub refused_errors: &'static [&'static str],
    /// HTTP statuses that mean the same, whatever the body says.
    pub refused_statuses: &'static [u16],
}

const PLAIN: Preset = Preset {
    name: "",
    authorization_endpoint: None,
    device_authorization_endpoint: None,
    token_endpoint: "",
    revocation_endpoint: None,
    client_auth: None,
    flows: &[],
    scopes: &[],
    authorization_params: &[],
    redirect_host: None,
    redirect_path: None,
    redirect_ports: &[],
    redirect_url: None,
    exchange_format: RequestFormat::Form,
    state_in_exchange: false,
    state_required: false,
    device: DeviceDialect::Rfc8628,
    extra_fields: &[],
    claims: &[],
    subject: &[],
    denied_errors: &[],
    refused_codes: &[],
    refused_errors: &[],
    refused_statuses: &[],
};

const GOOGLE: Preset = Preset {
    name: "google",
    authorization_endpoint: Some("https://accounts.google.com/o/oauth2/v2/auth"),
    device_authorization_endpoint: Some("https://oauth2.googleapis.com/device/code"),
    token_endpoint: "https://oauth2.googleapis.com/token",
    revocation_endpoint: Some("https://oauth2.googleapis.com/revoke"),
    client_auth: Some(ClientAuth::Post),
    // A page that shows a code has to be one's own: with `redirect_url` there is a third way.
    flows: &[Flow::BrowserRedirect, Flow::DeviceCode],
    // Whose account it is. What else is wanted is for the operator to say.
    scopes: &["openid", "email", "profile"],
    // Without it there is no refresh token.
    authorization_params: &[("access_type", "offline")],
    ..PLAIN
};

/// 1455, then 1456 to 1485.
const CODEX_PORTS: &[u16] = &[
    1455, 1456, 1457, 1458, 1459, 1460, 1461, 1462, 1463, 1464, 1465, 1466, 1467, 1468, 1469, 1470, 1471, 1472, 1473,
    1474, 1475, 1476, 1477, 1478, 1479, 1480, 1481, 1482, 1483, 1484, 1485,
];

/// All of them.
pub static PRESETS: [Preset; 7] = [
    Preset {
        // The refresh is form-encoded, as RFC 6749 has it; only the exchange of a code is JSON here.
        name: "anthropic",
        authorization_endpoint: Some("https://claude.ai/oauth/authorize"),
        token_endpoint: "https://console.anthropic.com/v1/oauth/token",
        flows: &[Flow::PkceRedirect],
        scopes: &["org:create_api_key", "user:profile", "user:inference"],
        // Its page shows the code.
        authorization_params: &[("code", "true")],
        redirect_url: Some("https://console.anthropic.com/oauth/code/callback"),
        exchange_format: RequestFormat::Json,
        state_in_exchange: true,
        state_required: true,
        subject: &["account", "uuid"],
        ..PLAIN
    },
    Preset {
        name: "codex",
        authorization_endpoint: Some("https://auth.openai.com/oauth/authorize"),
        device_authorization_endpoint: Some("https://auth.openai.com/api/accounts/deviceauth/usercode"),
        token_endpoint: "https://auth.openai.com/oauth/token",
        flows: &[Flow::BrowserRedirect, Flow::DeviceCode],
        scopes: &["openid", "profile", "email", "offline_access"],
        authorization_params: &[
            ("id_token_add_organizations", "true"),
            ("codex_cli_simplified_flow", "true"),
        ],
        redirect_host: Some(RedirectHost::Localhost),
        redirect_path: Some("/auth/callback"),
        redirect_ports: CODEX_PORTS,
        device: DeviceDialect::Codex,
        extra_fields: &["account_id"],
        claims: &[
            Claim {
                field: "account_id",
                path: &["https://api.openai.com/auth", "chatgpt_account_id"],
            },
            Claim {
                field: "account_id",
                path: &["account_id"],
            },
        ],
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
        scopes: &[
            "https://www.googleapis.com/auth/cloud-platform",
            "https://www.googleapis.com/auth/userinfo.email",
            "https://www.googleapis.com/auth/userinfo.profile",
        ],
        redirect_url: Some("https://codeassist.google.com/authcode"),
        ..GOOGLE
    },
    GOOGLE,
    Preset {
        name: "qwen",
        device_authorization_endpoint: Some("https://chat.qwen.ai/api/v1/oauth2/device/code"),
        token_endpoint: "https://chat.qwen.ai/api/v1/oauth2/token",
        flows: &[Flow::DeviceCode],
        scopes: &["openid", "profile", "email", "model.completion"],
        device: DeviceDialect::WithPkce,
        // The base of the API for this account.
        extra_fields: &["resource_url"],
        ..PLAIN
    },
    Preset {
        // An app of GitHub's newer kind ignores scopes, and one of the older kind gets public data without any.
        name: "github",
        authorization_endpoint: Some("https://github.com/login/oauth/authorize"),
        device_authorization_endpoint: Some("https://github.com/login/device/code"),
        token_endpoint: "https://github.com/login/oauth/access_token",
        client_auth: Some(ClientAuth::Post),
        flows: &[Flow::DeviceCode, Flow::BrowserRedirect],
        // All three with status 200.
        refused_codes: &["bad_verification_code", "incorrect_device_code"],
        refused_errors: &["bad_refresh_token"],
        ..PLAIN
    },
    Preset {
        // For accounts of any tenant. One tenant of one's own is an `issuer`, with the tenant's id in the place of
        // `common`; the document of `common` names no issuer that could be compared.
        name: "microsoft",
        authorization_endpoint: Some("https://login.microsoftonline.com/common/oauth2/v2.0/authorize"),
        device_authorization_endpoint: Some("https://login.microsoftonline.com/common/oauth2/v2.0/devicecode"),
        token_endpoint: "https://login.microsoftonline.com/common/oauth2/v2.0/token",
        client_auth: Some(ClientAuth::Post),
        flows: &[Flow::DeviceCode, Flow::BrowserRedirect],
        scopes: &["openid", "profile", "offline_access"],
        // Registered as `http://localhost`; the port may then be any.
        redirect_host: Some(RedirectHost::Localhost),
        redirect_path: Some(""),
        denied_errors: &["authorization_declined"],
        refused_codes: &["bad_verification_code"],
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
            let endpoints = [
                Some(preset.token_endpoint),
                preset.revocation_endpoint,
                preset.authorization_endpoint,
                preset.device_authorization_endpoint,
                preset.redirect_url,
            ];
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
