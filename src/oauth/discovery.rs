//! From an issuer to its endpoints: RFC 8414, else OpenID Connect Discovery 1.0.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};

use super::{
    Endpoint,
    http::{Http, NoAnswer, Unreachable},
};

/// What an issuer's document says, as far as somebody here asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Where tokens are asked for. It is never less protected than the issuer.
    pub token_endpoint: Endpoint,
    /// As it is written: whether it may be used is asked when it is needed ([`endpoint_of`]), so that it stands in
    /// nobody's way before.
    pub revocation_endpoint: Option<String>,
    /// The same.
    pub authorization_endpoint: Option<String>,
    /// The same (RFC 8628 section 4).
    pub device_authorization_endpoint: Option<String>,
    /// `grant_types_supported`. `None`: the document does not say.
    pub grant_types: Option<Vec<String>>,
    /// Whether every answer to an authorization request has `iss` (RFC 9207 section 3).
    pub iss_in_answers: bool,
    /// `token_endpoint_auth_methods_supported`. `None`: the document leaves it at the RFC's default.
    pub auth_methods: Option<Vec<String>>,
}

/// Why an issuer's endpoints are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The issuer could not be reached.
    #[error(transparent)]
    Unreachable(Unreachable),
    /// It gave no complete answer.
    #[error("{0}")]
    NoAnswer(&'static str),
    /// It has no document.
    #[error("HTTP {0} instead of a discovery document")]
    NoDocument(u16),
    /// What it has is none.
    #[error("the discovery document is not a JSON object")]
    NotADocument,
    /// The document is another issuer's.
    #[error("the discovery document names another issuer")]
    OtherIssuer,
    /// The document names no endpoint that a token may be sent to.
    #[error("the discovery document has no token_endpoint, or one without https")]
    NoTokenEndpoint,
    /// The revocation endpoint that it names is none that a token may be sent to.
    #[error("the discovery document has a revocation_endpoint without https")]
    BadRevocationEndpoint,
    /// An endpoint for logins that it names is none that a user or a code may be sent to.
    #[error("the {0} of the discovery document is without https")]
    BadLoginEndpoint(&'static str),
}

impl DiscoveryError {
    /// What mends it, for people.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Unreachable(unreachable) => unreachable.mend(),
            Self::NoAnswer(_) => "check that `issuer` is the right one; try again",
            Self::OtherIssuer => "write `issuer` exactly as the provider's document has it, slashes included",
            Self::NoDocument(_) | Self::NotADocument => {
                "check `issuer`, or set token_endpoint and revocation_endpoint by hand"
            }
            Self::NoTokenEndpoint => "set token_endpoint by hand",
            Self::BadRevocationEndpoint => "set revocation_endpoint by hand",
            Self::BadLoginEndpoint(_) => "set authorization_endpoint or device_authorization_endpoint by hand",
        }
    }
}

/// Fetches the issuer's document. Nothing of a token is sent.
pub(super) async fn discover(http: &Arc<Http>, issuer: &Endpoint) -> Result<Metadata, DiscoveryError> {
    let [first, second] = places(issuer);
    match fetch(http, issuer, first).await {
        // Both documents are on one host: what cannot be reached cannot be reached twice.
        Err(unreachable @ DiscoveryError::Unreachable(_)) => Err(unreachable),
        Err(missed) => match fetch(http, issuer, second).await {
            // A document that is there and wrong says more than one that is not there.
            Err(DiscoveryError::NoDocument(_)) => Err(missed),
            otherwise => otherwise,
        },
        found => found,
    }
}

/// Where the document is: RFC 8414 section 3.1 puts the well-known part between host and path, OpenID Connect Discovery
/// section 4 behind the path. Both take a final slash away first.
fn places(issuer: &Endpoint) -> [Option<Endpoint>; 2] {
    let uri = issuer.uri();
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path().strip_suffix('/').unwrap_or(uri.path());
    [
        format!("{scheme}://{authority}/.well-known/oauth-authorization-server{path}"),
        format!("{scheme}://{authority}{path}/.well-known/openid-configuration"),
    ]
    .map(|text| Endpoint::parse(&text))
}

async fn fetch(http: &Arc<Http>, issuer: &Endpoint, from: Option<Endpoint>) -> Result<Metadata, DiscoveryError> {
    // What was an endpoint is one with a longer path, too.
    let from = from.ok_or(DiscoveryError::NotADocument)?;
    let answer = http.get(from).await.map_err(|error| match error {
        NoAnswer::NotSent(unreachable) => DiscoveryError::Unreachable(unreachable),
        NoAnswer::Lost(seen) => DiscoveryError::NoAnswer(seen),
    })?;
    if answer.status != StatusCode::OK {
        return Err(DiscoveryError::NoDocument(answer.status.as_u16()));
    }
    Metadata::parse(&answer.body, issuer)
}

/// RFC 8414 section 3.3: the issuer has to be the same, character by character.
fn read(document: &Map<String, Value>, issuer: &Endpoint) -> Result<Metadata, DiscoveryError> {
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    if text("issuer") != Some(issuer.as_str()) {
        return Err(DiscoveryError::OtherIssuer);
    }
    let token_endpoint = text("token_endpoint")
        .and_then(|endpoint| endpoint_of(issuer, endpoint))
        .ok_or(DiscoveryError::NoTokenEndpoint)?;
    let words = |name: &str| {
        let words = document.get(name)?.as_array()?.iter().filter_map(Value::as_str);
        Some(words.map(str::to_owned).collect())
    };
    let iss = document.get("authorization_response_iss_parameter_supported");
    Ok(Metadata {
        token_endpoint,
        revocation_endpoint: text("revocation_endpoint").map(str::to_owned),
        authorization_endpoint: text("authorization_endpoint").map(str::to_owned),
        device_authorization_endpoint: text("device_authorization_endpoint").map(str::to_owned),
        grant_types: words("grant_types_supported"),
        iss_in_answers: iss.and_then(Value::as_bool).unwrap_or_default(),
        auth_methods: words("token_endpoint_auth_methods_supported"),
    })
}

impl Metadata {
    /// Reads the issuer's document.
    ///
    /// # Errors
    /// It is no JSON object, it names another issuer, or no token endpoint that can be used.
    pub fn parse(json: &[u8], issuer: &Endpoint) -> Result<Self, DiscoveryError> {
        let document: Map<String, Value> =
            serde_json::from_slice(json).map_err(|_not_an_object| DiscoveryError::NotADocument)?;
        read(&document, issuer)
    }

    /// Whether the document leaves room for this grant. What it does not list at all, the endpoints tell.
    #[must_use]
    pub fn allows(&self, grant: &str) -> bool {
        let listed = self.grant_types.as_ref();
        listed.is_none_or(|grants| grants.iter().any(|listed| listed == grant))
    }
}

/// An endpoint that the issuer's document names: never less protected than the issuer itself.
#[must_use]
pub fn endpoint_of(issuer: &Endpoint, text: &str) -> Option<Endpoint> {
    Endpoint::parse(text).filter(|endpoint| endpoint.is_https() || !issuer.is_https())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(text: &str) -> Endpoint {
        Endpoint::parse(text).unwrap()
    }

    #[test]
    fn the_document_is_where_the_rfcs_put_it() {
        let table = [
            (
                "https://a.example",
                "https://a.example/.well-known/oauth-authorization-server",
                "https://a.example/.well-known/openid-configuration",
            ),
            (
                "https://a.example/",
                "https://a.example/.well-known/oauth-authorization-server",
                "https://a.example/.well-known/openid-configuration",
            ),
            (
                "https://a.example:8443/t/1",
                "https://a.example:8443/.well-known/oauth-authorization-server/t/1",
                "https://a.example:8443/t/1/.well-known/openid-configuration",
            ),
            (
                "https://a.example/t/",
                "https://a.example/.well-known/oauth-authorization-server/t",
                "https://a.example/t/.well-known/openid-configuration",
            ),
        ];
        for (text, first, second) in table {
            let found = places(&issuer(text)).map(|place| place.unwrap().to_string());
            assert_eq!(found, [first, second]);
        }
    }

    fn document(issuer: &str, token_endpoint: &str) -> Map<String, Value> {
        let document = serde_json::json!({"issuer": issuer, "token_endpoint": token_endpoint});
        document.as_object().unwrap().clone()
    }

    #[test]
    fn an_issuer_is_the_same_character_by_character() {
        let token = "https://a.example/token";
        for same in ["https://a.example", "https://a.example/", "https://a.example/t/"] {
            assert!(read(&document(same, token), &issuer(same)).is_ok(), "{same}");
        }
        for (asked, named) in [
            ("https://a.example", "https://a.example/"),
            ("https://a.example/", "https://a.example"),
            ("https://a.example/t", "https://a.example/T"),
            ("https://a.example", "https://A.example"),
            ("https://a.example", "https://a.example:443"),
            ("https://a.example", "https://b.example"),
            ("https://a.example", ""),
        ] {
            let found = read(&document(named, token), &issuer(asked));
            assert_eq!(found, Err(DiscoveryError::OtherIssuer), "{asked} {named}");
        }
        assert_eq!(
            read(&Map::new(), &issuer("https://a.example")),
            Err(DiscoveryError::OtherIssuer)
        );
    }

    #[test]
    fn no_document_leads_to_a_place_that_is_less_protected() {
        let table = [
            ("https://a.example", "https://b.example/token", true),
            ("https://a.example", "http://b.example/token", false),
            ("https://a.example", "http://127.0.0.1/token", false),
            ("https://a.example", "file:///token", false),
            ("https://a.example", "", false),
            ("http://127.0.0.1:1", "http://127.0.0.1:2/token", true),
            ("http://127.0.0.1:1", "https://a.example/token", true),
            ("http://127.0.0.1:1", "http://a.example/token", false),
        ];
        for (from, to, good) in table {
            let found = read(&document(from, to), &issuer(from));
            assert_eq!(found.is_ok(), good, "{from} {to}");
            assert_eq!(endpoint_of(&issuer(from), to).is_some(), good, "{from} {to}");
        }
    }
}
