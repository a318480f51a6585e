//! What is sent to a token, device authorization or revocation endpoint: the parameters and who the client is.
//!
//! The `oauth2` crate makes what a browser is sent to (authorization URL, `state`, PKCE; see `authorization_code`). It does
//! not speak to these endpoints: it drops a token answer whose fields are not all as the RFC has them, and with it the
//! refresh token that a provider has rotated to; a device answer with `interval` as a string is lost with it in the same
//! way; its errors carry the body; and its requests are form-encoded only, in memory that nobody wipes.

use data_encoding::BASE64;
use form_urlencoded::byte_serialize;
use http::{HeaderValue, Method};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{ClientAuth, Endpoint, RequestFormat, TokenKind, http::Outgoing};

/// The client as it shows itself in one request.
pub(super) struct Client<'a> {
    pub(super) id: &'a str,
    pub(super) secret: Option<&'a SecretString>,
    pub(super) auth: ClientAuth,
}

/// Presents a refresh token (RFC 6749 section 6). The scope is left out: that asks for the one that was granted.
pub(super) fn refresh(
    to: Endpoint,
    client: &Client<'_>,
    refresh_token: &SecretString,
    format: RequestFormat,
    further: &[(String, String)],
) -> Option<Outgoing> {
    let mut params = vec![
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token.expose_secret()),
    ];
    params.extend(further.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    outgoing(to, client, params, format)
}

/// Asks to revoke a token (RFC 7009 section 2.1), which is form-encoded with every provider.
pub(super) fn revoke(to: Endpoint, client: &Client<'_>, token: &SecretString, kind: TokenKind) -> Option<Outgoing> {
    let hint = match kind {
        TokenKind::Access => "access_token",
        TokenKind::Refresh => "refresh_token",
    };
    let params = vec![("token", token.expose_secret()), ("token_type_hint", hint)];
    outgoing(to, client, params, RequestFormat::Form)
}

/// A request with these parameters and the client's own.
pub(super) fn outgoing<'a>(
    to: Endpoint,
    client: &'a Client<'_>,
    mut params: Vec<(&'a str, &'a str)>,
    format: RequestFormat,
) -> Option<Outgoing> {
    let secret = client.secret.map(|secret| secret.expose_secret());
    let authorization = match (client.auth, secret) {
        (ClientAuth::Basic, Some(secret)) => Some(basic(client.id, secret)?),
        (ClientAuth::Post, Some(secret)) => {
            params.extend([("client_id", client.id), ("client_secret", secret)]);
            None
        }
        (ClientAuth::Basic | ClientAuth::Post, None) | (ClientAuth::None, _) => {
            params.push(("client_id", client.id));
            None
        }
    };
    let plain = outgoing_plain(to, &params, format)?;
    Some(Outgoing { authorization, ..plain })
}

/// A request with these parameters and nothing else.
pub(super) fn outgoing_plain(to: Endpoint, params: &[(&str, &str)], format: RequestFormat) -> Option<Outgoing> {
    Some(Outgoing {
        method: Method::POST,
        to,
        body: Some(encoded(params, format)?),
        authorization: None,
    })
}

/// HTTP basic authentication; id and secret are form-encoded first (RFC 6749 section 2.3.1).
fn basic(id: &str, secret: &str) -> Option<HeaderValue> {
    let form = |text: &str| {
        let mut form = Zeroizing::new(String::with_capacity(text.len() * 3));
        form.extend(byte_serialize(text.as_bytes()));
        form
    };
    let pair = Zeroizing::new([form(id).as_str(), ":", form(secret).as_str()].concat());
    let text = Zeroizing::new(["Basic ", Zeroizing::new(BASE64.encode(pair.as_bytes())).as_str()].concat());
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The body with its content type, in one allocation that is large enough for the worst.
fn encoded(params: &[(&str, &str)], format: RequestFormat) -> Option<(HeaderValue, Zeroizing<Vec<u8>>)> {
    let size: usize = params.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    match format {
        RequestFormat::Form => {
            let mut form = form_urlencoded::Serializer::new(String::with_capacity(size * 3));
            form.extend_pairs(params);
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            Some((kind, Zeroizing::new(form.finish().into_bytes())))
        }
        RequestFormat::Json => {
            let mut body = Zeroizing::new(Vec::with_capacity(size * 6));
            let object: std::collections::BTreeMap<_, _> = params.iter().copied().collect();
            serde_json::to_writer(&mut *body, &object).ok()?;
            Some((HeaderValue::from_static("application/json"), body))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(auth: ClientAuth, secret: Option<&str>, format: RequestFormat) -> (String, String, Option<String>) {
        let secret = secret.map(SecretString::from);
        let client = Client {
            id: "my client",
            secret: secret.as_ref(),
            auth,
        };
        let further = [("audience".to_owned(), "a b".to_owned())];
        let to = Endpoint::parse("https://a.example/token").unwrap();
        let outgoing = refresh(to, &client, &"r+1&x=y".into(), format, &further).unwrap();
        let (kind, body) = outgoing.body.unwrap();
        (
            kind.to_str().unwrap().to_owned(),
            String::from_utf8(body.to_vec()).unwrap(),
            outgoing.authorization.map(|value| value.to_str().unwrap().to_owned()),
        )
    }

    #[test]
    fn a_refresh_is_the_form_of_the_rfc_and_the_client_shows_itself_in_one_way() {
        let form = "grant_type=refresh_token&refresh_token=r%2B1%26x%3Dy&audience=a+b";
        let with_id = format!("{form}&client_id=my+client");
        let with_secret = format!("{with_id}&client_secret=s%2F%3A%C3%A4");
        // my+client:s%2F%3A%C3%A4
        let header = "Basic bXkrY2xpZW50OnMlMkYlM0ElQzMlQTQ=";
        let table = [
            (ClientAuth::Basic, Some("s/:ä"), form, Some(header)),
            (ClientAuth::Post, Some("s/:ä"), with_secret.as_str(), None),
            (ClientAuth::None, None, with_id.as_str(), None),
            // Without a secret there is nothing else to show.
            (ClientAuth::Basic, None, with_id.as_str(), None),
        ];
        for (auth, secret, body, authorization) in table {
            let want = (
                "application/x-www-form-urlencoded".to_owned(),
                body.to_owned(),
                authorization.map(str::to_owned),
            );
            assert_eq!(sent(auth, secret, RequestFormat::Form), want);
        }
        let (kind, body, _) = sent(ClientAuth::Post, Some("s"), RequestFormat::Json);
        assert_eq!(kind, "application/json");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap(),
            serde_json::json!({
                "grant_type": "refresh_token", "refresh_token": "r+1&x=y", "audience": "a b",
                "client_id": "my client", "client_secret": "s",
            })
        );
    }

    #[test]
    fn a_revocation_is_the_form_of_the_rfc() {
        let client = Client {
            id: "c",
            secret: None,
            auth: ClientAuth::None,
        };
        let to = || Endpoint::parse("https://a.example/revoke").unwrap();
        for (kind, hint) in [
            (TokenKind::Access, "access_token"),
            (TokenKind::Refresh, "refresh_token"),
        ] {
            let (_, body) = revoke(to(), &client, &"t 1".into(), kind).unwrap().body.unwrap();
            let want = format!("token=t+1&token_type_hint={hint}&client_id=c");
            assert_eq!(String::from_utf8(body.to_vec()).unwrap(), want);
        }
    }
}
