//! The authorization code grant with PKCE (RFC 6749 section 4.1, RFC 7636): the URL that a user opens, the answer that
//! comes back, and the exchange of the code.
//!
//! The URL, `state`, verifier and challenge are made by the `oauth2` crate.

use oauth2::{AuthUrl, ClientId, CsrfToken, PkceCodeChallenge, RedirectUrl, Scope, basic::BasicClient};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;
use zeroize::Zeroizing;

use super::{
    Endpoint, RequestFormat, Seen,
    http::Outgoing,
    login::{Authorization, LoginSettings, LoginTrouble},
    outcome::is_code,
    token_endpoint::{self, Client},
};

/// The longest thing that is looked at as an answer. Codes are a few hundred characters.
const LONGEST_ANSWER: usize = 4 * 1024;
/// Octets of randomness in `state`.
const STATE: u32 = 32;
/// Parameters of an authorization request that are set here and nowhere else.
const OURS: [&str; 7] = [
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
];

/// Whose answers are expected (RFC 9207).
#[derive(Default)]
pub(super) struct Issuer {
    pub(super) is: Option<String>,
    pub(super) required: bool,
}

/// An authorization request (RFC 6749 section 4.1.1) with a challenge of its own (RFC 7636 section 4.3). `None`: a URL
/// cannot be made of what is configured.
pub(super) fn prepare(
    endpoint: &Endpoint,
    client_id: &str,
    redirect_uri: String,
    settings: &LoginSettings,
    issuer: Issuer,
) -> Option<Authorization> {
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let client = BasicClient::new(ClientId::new(client_id.to_owned()))
        .set_auth_uri(AuthUrl::new(endpoint.as_str().to_owned()).ok()?)
        .set_redirect_uri(RedirectUrl::new(redirect_uri.clone()).ok()?);
    let mut request = client
        // Nothing of the verifier is in it: `state` passes through the browser's history and the provider's logs.
        .authorize_url(|| CsrfToken::new_random_len(STATE))
        .add_scopes(settings.scopes.iter().cloned().map(Scope::new))
        .set_pkce_challenge(challenge);
    for (name, value) in &settings.authorization_params {
        if !OURS.contains(&name.as_str()) {
            request = request.add_extra_param(name, value);
        }
    }
    let (url, state) = request.url();
    Some(Authorization {
        url: url.into(),
        redirect_uri,
        state: state.into_secret().into(),
        verifier: verifier.into_secret().into(),
        state_required: settings.state_required,
        issuer: issuer.is,
        issuer_required: issuer.required,
    })
}

/// What is exchanged for a token set.
pub(super) struct Grant<'a> {
    pub(super) code: &'a SecretString,
    pub(super) redirect_uri: &'a str,
    pub(super) verifier: &'a SecretString,
    /// Only for a provider that wants it here, too.
    pub(super) state: Option<&'a SecretString>,
}

/// The access token request (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
pub(super) fn exchange(
    to: Endpoint,
    client: &Client<'_>,
    grant: &Grant<'_>,
    format: RequestFormat,
    further: &[(String, String)],
) -> Option<Outgoing> {
    let mut params = vec![
        ("grant_type", "authorization_code"),
        ("code", grant.code.expose_secret()),
        ("redirect_uri", grant.redirect_uri),
        ("code_verifier", grant.verifier.expose_secret()),
    ];
    params.extend(grant.state.map(|state| ("state", state.expose_secret())));
    params.extend(further.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    token_endpoint::outgoing(to, client, params, format)
}

impl Authorization {
    /// The code in what a user pasted: `CODE`, `CODE#STATE`, or the whole URL that the browser was redirected to (RFC 6749
    /// section 4.1.2). A `state` that is there has to be the one of this request, and so has `iss` (RFC 9207).
    ///
    /// # Errors
    /// It is no answer to this request, or the provider's answer is an error.
    pub fn answer(&self, pasted: &SecretString) -> Result<SecretString, LoginTrouble> {
        let text = pasted.expose_secret();
        if text.len() > LONGEST_ANSWER {
            return Err(LoginTrouble::NotOurs("it is too long for a code"));
        }
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err(LoginTrouble::NotOurs(
                "it has white space around it, or control characters in it",
            ));
        }
        if is_web_url(text) {
            let url = Url::parse(text).map_err(|_odd| LoginTrouble::NotOurs("it is not a URL"))?;
            return self.answer_in_url(url);
        }
        // Nothing of ours has a `#` in it, so what follows the last one can only be `state`.
        let (code, state) = match text.rsplit_once('#') {
            Some((code, state)) => (code, Some(state)),
            None => (text, None),
        };
        self.check_state(state)?;
        checked(code)
    }

    fn answer_in_url(&self, mut url: Url) -> Result<SecretString, LoginTrouble> {
        let query = Zeroizing::new(url.query().unwrap_or_default().to_owned());
        url.set_query(None);
        url.set_fragment(None);
        let ours = Url::parse(&self.redirect_uri).is_ok_and(|mut ours| {
            ours.set_query(None);
            ours == url
        });
        if !ours {
            return Err(LoginTrouble::NotOurs(
                "it is not the URL that the browser is redirected to",
            ));
        }
        self.answer_in_query(&query)
    }

    /// What the query of the redirect says, wherever it came from.
    pub(super) fn answer_in_query(&self, query: &str) -> Result<SecretString, LoginTrouble> {
        let answer = AnswerFields::parse(query)?;
        self.check_state(answer.state.as_deref().map(String::as_str))?;
        if let Some(issuer) = &self.issuer {
            match answer.iss.as_deref() {
                Some(iss) if iss != issuer => return Err(LoginTrouble::NotOurs("`iss` names another issuer")),
                None if self.issuer_required => return Err(LoginTrouble::NotOurs("`iss` is missing")),
                Some(_) | None => {}
            }
        }
        match (answer.error.as_deref().map(String::as_str), answer.code) {
            (Some("access_denied"), _) => Err(LoginTrouble::Denied),
            (Some(error), _) => Err(LoginTrouble::Refused(Seen(if is_code(error) {
                format!("the redirect brought error {error}")
            } else {
                "the redirect brought an error of the provider's own".to_owned()
            }))),
            (None, Some(code)) => checked(&code),
            (None, None) => Err(LoginTrouble::NotOurs("there is no code in it")),
        }
    }

    fn check_state(&self, state: Option<&str>) -> Result<(), LoginTrouble> {
        match state {
            Some(state) if !self.is_state(state) => Err(LoginTrouble::NotOurs("`state` is another one")),
            None if self.state_required => Err(LoginTrouble::NotOurs(
                "`state` is missing: paste all of CODE#STATE, or the whole URL",
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// The parameters of an authorization response that are looked at.
#[derive(Default)]
pub(super) struct AnswerFields {
    pub(super) state: Option<Zeroizing<String>>,
    code: Option<Zeroizing<String>>,
    error: Option<Zeroizing<String>>,
    iss: Option<Zeroizing<String>>,
}

impl AnswerFields {
    /// None of them may be there twice (RFC 6749 section 3.1).
    pub(super) fn parse(query: &str) -> Result<Self, LoginTrouble> {
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let field = match &*name {
                "state" => &mut fields.state,
                "code" => &mut fields.code,
                "error" => &mut fields.error,
                "iss" => &mut fields.iss,
                _ => continue,
            };
            if field.replace(Zeroizing::new(value.into_owned())).is_some() {
                return Err(LoginTrouble::NotOurs("a parameter is there twice"));
            }
        }
        Ok(fields)
    }
}

/// Codes are opaque, but they are one word.
fn checked(code: &str) -> Result<SecretString, LoginTrouble> {
    if code.is_empty() {
        return Err(LoginTrouble::NotOurs("there is no code in it"));
    }
    if code.len() > LONGEST_ANSWER || code.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(LoginTrouble::NotOurs("the code is not one word of usual length"));
    }
    Ok(code.into())
}

fn is_web_url(text: &str) -> bool {
    let begins = |scheme: &str| {
        text.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    begins("https:") || begins("http:")
}

#[cfg(test)]
mod tests;
