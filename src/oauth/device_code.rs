//! The device authorization grant (RFC 8628), and the dialects of it that providers have.
//!
//! Its answers are read field by field, as token answers are: a lifetime as a string costs no login.

use std::time::Duration;

use http::StatusCode;
use oauth2::{PkceCodeChallenge, PkceCodeVerifier};
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};
use zeroize::Zeroizing;

use super::{
    ClientAuth, Endpoint, Outcome, OutcomeRules, RequestFormat, Seen,
    http::{Answer, Outgoing},
    login::{DeviceAuthorization, DeviceDialect, DevicePoll, LoginSettings, LoginTrouble},
    outcome::{classify, described, error_code},
    token_endpoint::{self, Client},
};
use crate::{
    clock::Now,
    credential::{LooseJson, LooseObject},
};

/// RFC 8628 section 3.2.
const USUAL_INTERVAL: Duration = Duration::from_secs(5);
/// No provider means more than that, whatever it says.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// The same for the lifetime of the codes.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long OpenAI's codes are good for; its answer does not say.
const CODEX_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The longest user code, in characters. Somebody has to type it.
const LONGEST_USER_CODE: usize = 64;
/// The longest URL that is shown.
const LONGEST_URL: usize = 2 * 1024;
/// The longest device code. It has to fit into a request.
const LONGEST_DEVICE_CODE: usize = 8 * 1024;
/// The grant's name (RFC 8628 section 3.4).
pub(super) const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// The verifier of a new device login, where the dialect has one.
pub(super) fn verifier(dialect: DeviceDialect) -> Option<SecretString> {
    let with_pkce = dialect == DeviceDialect::WithPkce;
    with_pkce.then(|| PkceCodeChallenge::new_random_sha256().1.into_secret().into())
}

/// The device authorization request (RFC 8628 section 3.1).
pub(super) fn request(
    to: Endpoint,
    client: &Client<'_>,
    settings: &LoginSettings,
    verifier: Option<&SecretString>,
) -> Option<Outgoing> {
    if settings.device == DeviceDialect::Codex {
        return token_endpoint::outgoing(to, &public(client), Vec::new(), RequestFormat::Json);
    }
    let scope = settings.scopes.join(" ");
    let challenge = verifier.map(|verifier| {
        let verifier = PkceCodeVerifier::new(verifier.expose_secret().to_owned());
        PkceCodeChallenge::from_code_verifier_sha256(&verifier)
    });
    let mut params = Vec::new();
    if !scope.is_empty() {
        params.push(("scope", scope.as_str()));
    }
    if let Some(challenge) = &challenge {
        params.push(("code_challenge", challenge.as_str()));
        params.push(("code_challenge_method", challenge.method().as_str()));
    }
    token_endpoint::outgoing(to, client, params, RequestFormat::Form)
}

/// The device access token request (RFC 8628 section 3.4).
pub(super) fn poll(
    to: Endpoint,
    client: &Client<'_>,
    device: &DeviceAuthorization,
    format: RequestFormat,
    further: &[(String, String)],
) -> Option<Outgoing> {
    let mut params = vec![
        ("grant_type", GRANT),
        ("device_code", device.device_code.expose_secret()),
    ];
    let verifier = device.verifier.as_ref();
    params.extend(verifier.map(|verifier| ("code_verifier", verifier.expose_secret())));
    params.extend(further.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    token_endpoint::outgoing(to, client, params, format)
}

/// OpenAI's request for the same.
pub(super) fn codex_poll(begin: &Endpoint, device: &DeviceAuthorization) -> Option<Outgoing> {
    let to = sibling(begin, "token")?;
    let params = [
        ("device_auth_id", device.device_code.expose_secret()),
        ("user_code", device.user_code.as_str()),
    ];
    token_endpoint::outgoing_plain(to, &params, RequestFormat::Json)
}

/// The page that OpenAI's codes are typed at, and the redirect URL that its authorization codes are bound to. Both are on
/// the host of the endpoint.
pub(super) struct CodexPages {
    pub(super) verification: String,
    pub(super) redirect_uri: String,
}

pub(super) fn codex_pages(begin: &Endpoint) -> Option<CodexPages> {
    let url = Url::parse(begin.as_str()).ok()?;
    let at = |path: &str| url.join(path).ok().map(String::from);
    Some(CodexPages {
        verification: at("/codex/device")?,
        redirect_uri: at("/deviceauth/callback")?,
    })
}

/// What the answer to a device authorization request says (RFC 8628 section 3.2).
///
/// # Errors
/// It is an error, or lacks what a user needs.
pub(super) fn begun(
    answer: &Answer,
    dialect: DeviceDialect,
    at: &Endpoint,
    verifier: Option<SecretString>,
) -> Result<DeviceAuthorization, LoginTrouble> {
    let document = LooseJson::new(&answer.body);
    let fields = document.as_object().filter(|_| answer.status.is_success());
    let Some(fields) = fields.filter(|fields| fields.raw("error").is_none()) else {
        return Err(not_begun(answer));
    };
    let lacks = |what: &str| {
        let status = answer.status.as_u16();
        LoginTrouble::Unavailable(Seen(format!("HTTP {status} without {what}")))
    };
    let (device_code, user_code, page) = if dialect == DeviceDialect::Codex {
        let user_code = fields.text("user_code").or_else(|| fields.text("usercode"));
        let page = codex_pages(at).map(|pages| pages.verification);
        (fields.text("device_auth_id"), user_code, page)
    } else {
        // Google's name for it is the older one.
        let page = ["verification_uri", "verification_url"]
            .iter()
            .find_map(|name| page(&fields, name));
        (fields.text("device_code"), fields.text("user_code"), page)
    };
    let device_code = device_code.filter(|code| code.len() <= LONGEST_DEVICE_CODE);
    let complete = ["verification_uri_complete", "verification_url_complete"];
    let lifetime = seconds(&fields, "expires_in").map(|lifetime| lifetime.min(LONGEST_LIFETIME));
    Ok(DeviceAuthorization {
        verification_url: page.ok_or_else(|| lacks("a verification URL that can be shown"))?,
        verification_url_complete: complete.iter().find_map(|name| self::page(&fields, name)),
        user_code: user_code
            .and_then(|code| typed(&code))
            .ok_or_else(|| lacks("a user code that can be shown"))?,
        interval: seconds(&fields, "interval").map_or(USUAL_INTERVAL, |interval| {
            interval.clamp(Duration::from_secs(1), LONGEST_INTERVAL)
        }),
        lifetime: lifetime.or((dialect == DeviceDialect::Codex).then_some(CODEX_LIFETIME)),
        device_code: device_code.ok_or_else(|| lacks("a device code"))?.as_str().into(),
        verifier,
    })
}

fn not_begun(answer: &Answer) -> LoginTrouble {
    let seen = described(answer);
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => LoginTrouble::Unavailable(seen),
        status if status.is_server_error() => LoginTrouble::Unavailable(seen),
        status if status.is_success() && error_code(answer).is_none() => LoginTrouble::Unavailable(seen),
        _ => LoginTrouble::Rejected(seen),
    }
}

/// What the answer to a poll means (RFC 8628 section 3.5), whatever its status: the code in `error` says more.
pub(super) fn judge(answer: &Answer, settings: &LoginSettings, rules: &OutcomeRules, now: &Now) -> DevicePoll {
    let is = |codes: &[String], code: &str| codes.iter().any(|known| known == code);
    let outcome = classify(answer, rules, now);
    if let Outcome::Answered(tokens) = outcome {
        return DevicePoll::Answered(tokens);
    }
    match error_code(answer).as_deref() {
        Some("authorization_pending") => return DevicePoll::Pending,
        Some("slow_down") => return DevicePoll::SlowDown,
        Some("expired_token") => return DevicePoll::Ended(LoginTrouble::Expired),
        Some(code) if code == "access_denied" || is(&settings.denied_errors, code) => {
            return DevicePoll::Ended(LoginTrouble::Denied);
        }
        Some(code) if is(&settings.refused_errors, code) => {
            return DevicePoll::Ended(LoginTrouble::Refused(described(answer)));
        }
        Some(_) | None => {}
    }
    match outcome {
        Outcome::Answered(tokens) => DevicePoll::Answered(tokens),
        Outcome::NotProcessed { seen, retry_after } => DevicePoll::NotProcessed { seen, retry_after },
        Outcome::Refused(seen) => DevicePoll::Ended(LoginTrouble::Refused(seen)),
        Outcome::Rejected(seen) => DevicePoll::Ended(LoginTrouble::Rejected(seen)),
        // As with an answer that the network lost, nobody knows more than before.
        Outcome::Ambiguous(seen) if answer.status.is_server_error() || answer.status == StatusCode::REQUEST_TIMEOUT => {
            DevicePoll::NotProcessed {
                seen,
                retry_after: None,
            }
        }
        // Not an answer of this protocol.
        Outcome::Ambiguous(seen) => DevicePoll::Ended(LoginTrouble::Unavailable(seen)),
    }
}

/// What OpenAI's answer to a poll means.
pub(super) enum CodexPoll {
    /// The user agreed: what is to be exchanged, with its verifier.
    Code(SecretString, SecretString),
    /// Anything else.
    Other(DevicePoll),
}

pub(super) fn judge_codex(answer: &Answer, settings: &LoginSettings, rules: &OutcomeRules, now: &Now) -> CodexPoll {
    let document = LooseJson::new(&answer.body);
    if answer.status.is_success()
        && let Some(fields) = document.as_object()
        && let (Some(code), Some(verifier)) = (fields.text("authorization_code"), fields.text("code_verifier"))
    {
        return CodexPoll::Code(code.as_str().into(), verifier.as_str().into());
    }
    // No token comes from here, whatever it looks like.
    let not_a_token_answer = |poll| match poll {
        DevicePoll::Answered(_) => DevicePoll::Ended(LoginTrouble::Unavailable(described(answer))),
        other => other,
    };
    let judged = not_a_token_answer(judge(answer, settings, rules, now));
    let pending = matches!(answer.status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
    CodexPoll::Other(match judged {
        DevicePoll::Ended(LoginTrouble::Rejected(_)) if pending => DevicePoll::Pending,
        other => other,
    })
}

/// The client without its secret.
fn public<'a>(client: &Client<'a>) -> Client<'a> {
    Client {
        id: client.id,
        secret: None,
        auth: ClientAuth::None,
    }
}

/// The same URL with another last segment.
fn sibling(endpoint: &Endpoint, name: &str) -> Option<Endpoint> {
    let url = Url::parse(endpoint.as_str()).ok()?.join(name).ok()?;
    Endpoint::parse(url.as_str())
}

/// Seconds as a number, a float or a numeric string, if they are positive.
fn seconds(fields: &LooseObject<'_>, name: &str) -> Option<Duration> {
    let seconds: f64 = match fields.text(name) {
        Some(text) => text.trim().parse().ok()?,
        None => fields.raw(name)?.parse().ok()?,
    };
    // More than that is no time that anybody here would wait, and no `Duration` from a float either.
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST_LIFETIME.as_secs_f64())))
}

/// A user code as people can read and type it: what cannot be seen is escaped, so that it plays no tricks on a terminal.
fn typed(code: &str) -> Option<String> {
    let seen = |c: char| c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric();
    let code: String = code
        .trim()
        .chars()
        .flat_map(|c| {
            let escaped = (!seen(c)).then(|| c.escape_unicode());
            let plain = seen(c).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    (1..=LONGEST_USER_CODE).contains(&code.chars().count()).then_some(code)
}

/// A URL that may be shown and opened: https, or http to loopback, and no user name that looks like a host.
fn page(fields: &LooseObject<'_>, name: &str) -> Option<String> {
    let text: Zeroizing<String> = fields.text(name)?;
    if text.len() > LONGEST_URL || text.chars().any(char::is_control) {
        return None;
    }
    let url = Url::parse(&text).ok()?;
    let loopback = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    let fits = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    (fits && url.username().is_empty() && url.password().is_none()).then(|| url.into())
}

#[cfg(test)]
mod tests;
