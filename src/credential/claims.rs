//! What the claims of an ID token say (OpenID Connect Core section 2). The token came straight from the provider over TLS,
//! or the host's user vouches for it; its signature is not looked at (section 3.1.3.7).

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use super::answer::AnswerRules;

/// A further field of a token answer that a provider puts into the `id_token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The field that it becomes.
    pub field: &'static str,
    /// The way to it from the token's claims.
    pub path: &'static [&'static str],
}

/// The claims of an ID token.
pub(super) struct Claims(Value);

impl Claims {
    pub(super) fn of(id_token: &str) -> Option<Self> {
        let payload = id_token.split('.').nth(1)?;
        let claims = BASE64URL_NOPAD.decode(payload.trim_end_matches('=').as_bytes()).ok()?;
        serde_json::from_slice(&claims).ok().map(Self)
    }

    pub(super) fn subject(&self) -> Option<String> {
        self.text(&["sub"])
    }

    /// The field that the rules find among the claims.
    pub(super) fn field(&self, name: &str, rules: &AnswerRules) -> Option<String> {
        let mut claims = rules.claims.iter().filter(|claim| claim.field == name);
        claims.find_map(|claim| self.text(claim.path))
    }

    fn text(&self, path: &[&str]) -> Option<String> {
        let found = path.iter().try_fold(&self.0, |value, name| value.get(name))?;
        let text = found.as_str().filter(|text| !text.is_empty())?;
        Some(text.to_owned())
    }
}
