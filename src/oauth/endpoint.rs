//! URLs that a token or a code may be sent to.

use std::{fmt, net::IpAddr};

use http::{Uri, uri::Scheme};

/// The URL of an endpoint: https, or http to loopback; no user name, no password, no fragment.
///
/// Holding one is the proof that it was checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    /// As it was written: an issuer is compared character by character (RFC 8414 section 3.3), and `Uri` gives a bare host
    /// a path.
    text: Box<str>,
}

impl Endpoint {
    /// Checks a URL. `None`: it is none that a token may be sent to.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // `Uri` drops a fragment silently, and RFC 6749 section 3 forbids one in an endpoint.
        if text.contains('#') {
            return None;
        }
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let host = authority.host();
        // `Uri` takes whatever follows the host's colon: what remains has to be a port, or nothing.
        let port = authority.as_str().strip_prefix(host)?;
        let port_fits = port.is_empty() || authority.port_u16().is_some_and(|port| port != 0);
        let scheme_fits = match uri.scheme_str()? {
            "https" => true,
            "http" => is_loopback(host),
            _ => false,
        };
        (!host.is_empty() && port_fits && scheme_fits).then(|| Self { uri, text: text.into() })
    }

    /// The URL.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The URL as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a token travels encrypted; if not, it stays on this machine.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// The host, without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> &str {
        unbracketed(self.uri.host().unwrap_or_default())
    }

    /// A host that is an address, with brackets or without.
    pub(super) fn address(host: &str) -> Option<IpAddr> {
        unbracketed(host).parse().ok()
    }

    /// The port, also where the URL leaves it to the scheme.
    pub(super) fn port(&self) -> u16 {
        let default = if self.is_https() { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(default)
    }

    /// Whether the host is this machine.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(self.uri.host().unwrap_or_default())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Endpoint {
    /// Without the query, where people put keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        write!(
            f,
            "{}://{authority}{}",
            self.uri.scheme_str().unwrap_or_default(),
            self.uri.path()
        )
    }
}

/// Whether the host of a URL is this machine, by an address or the one name that stands for it (RFC 6761).
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || Endpoint::address(host).is_some_and(|ip| ip.is_loopback())
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn https_anywhere_and_http_to_loopback_only() {
        for good in [
            "https://a.example/token",
            "https://a.example",
            "https://a.example:8443/t?audience=x",
            "HTTPS://a.example/",
            "https://[2001:db8::1]:443/",
            "http://localhost/t",
            "http://LocalHost:1/",
            "http://127.0.0.1:8080/t",
            "http://127.9.9.9/",
            "http://[::1]:8080/",
        ] {
            assert!(Endpoint::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/token",
            "a.example",
            "a.example/token",
            "*",
            "https://",
            "https:///token",
            "https://:443/",
            "http://a.example/",
            "http://localhost.a.example/",
            "http://127.0.0.1.a.example/",
            "http://128.0.0.1/",
            "http://[::2]/",
            "http://0.0.0.0/",
            "ftp://localhost/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "https://user@a.example/",
            "https://user:pw@a.example/",
            "http://localhost@a.example/",
            "http://localhost:80@a.example/",
            "https://a.example:99999/",
            "https://a.example:0/",
            "https://a.example:/",
            "https://a.example:x/",
            "https://a.example/#f",
            "https://a.example/ x",
            "https://a .example/",
            "https://a.example/\n",
            " https://a.example/",
        ] {
            assert!(Endpoint::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn debug_leaves_the_query_out() {
        let endpoint = Endpoint::parse("https://a.example/t?key=s3cret").unwrap();
        assert_eq!(format!("{endpoint:?}"), "https://a.example/t");
        assert_eq!(endpoint.to_string(), "https://a.example/t?key=s3cret");
    }

    proptest! {
        #[test]
        fn any_text_is_a_url_or_none(text in "\\PC{0,60}|https?://[a-z@:/.\\[\\]0-9?#]{0,40}") {
            if let Some(endpoint) = Endpoint::parse(&text) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Some(endpoint));
            }
        }
    }
}
