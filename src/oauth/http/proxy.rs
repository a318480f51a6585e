//! Whether a proxy is on the way to an endpoint.

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use super::{
    Endpoint, Proxies,
    connect::{Layer, Unreachable},
};

/// The configured proxy. Which endpoints need it is decided here and not by reqwest, so that it is known when something
/// fails, and a proxy that cannot be used is an error and not left out.
pub(super) struct Proxying {
    /// Intercepts what is not excepted.
    needed: Matcher,
    proxy: Result<reqwest::Proxy, &'static str>,
}

impl Proxying {
    /// `None`: everything is asked directly.
    pub(super) fn new(proxies: &Proxies) -> Option<Self> {
        let proxy = usable(proxies.https.as_deref()?);
        // Any proxy that can be parsed, also where the configured one cannot.
        let mut needed = Matcher::builder().https("http://proxy.invalid");
        if let Some(except) = &proxies.except {
            needed = needed.no(except.as_str());
        }
        let needed = needed.build();
        Some(Self { needed, proxy })
    }

    /// The proxy on the way to the endpoint, if there is one.
    pub(super) fn to(&self, endpoint: &Endpoint) -> Result<Option<reqwest::Proxy>, Unreachable> {
        if endpoint.is_loopback() || self.needed.intercept(endpoint.uri()).is_none() {
            return Ok(None);
        }
        match &self.proxy {
            Ok(proxy) => Ok(Some(proxy.clone())),
            Err(seen) => Err(Unreachable::new(Layer::Proxy, *seen)),
        }
    }
}

/// An HTTP proxy that is asked for a tunnel (RFC 9110 section 9.3.6, CONNECT). The request itself is inside TLS.
fn usable(text: &str) -> Result<reqwest::Proxy, &'static str> {
    const NO_URL: &str = "the proxy's URL cannot be used";
    // reqwest leaves out silently what this very matcher cannot read, so it gets what has been read.
    let read = Matcher::builder().https(text).build();
    let read = read.intercept(&Uri::from_static("https://a.invalid")).ok_or(NO_URL)?;
    if read.uri().scheme_str() != Some("http") {
        return Err("only http:// proxies are supported");
    }
    let proxy = reqwest::Proxy::all(read.uri().to_string()).map_err(|_unusable| NO_URL)?;
    Ok(match read.basic_auth() {
        Some(authorization) => proxy.custom_http_auth(authorization.clone()),
        None => proxy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(proxy: &str, except: Option<&str>, to: &str) -> Result<bool, Unreachable> {
        let proxies = Proxies {
            https: Some(proxy.to_owned()),
            except: except.map(str::to_owned),
        };
        let proxying = Proxying::new(&proxies).unwrap();
        proxying.to(&Endpoint::parse(to).unwrap()).map(|proxy| proxy.is_some())
    }

    #[test]
    fn a_proxy_is_used_left_out_or_an_error_and_never_forgotten() {
        let outside = "https://a.example/t";
        for good in [
            "http://p",
            "http://u:p%40@p:3128/",
            "p:3128",
            "p",
            "http://[::1]:3128",
            "http://10.0.0.1:1",
        ] {
            assert_eq!(way(good, None, outside), Ok(true), "{good}");
            assert_eq!(way(good, Some("a.example"), outside), Ok(false), "{good}");
            assert_eq!(way(good, Some("b.example, .c.example"), outside), Ok(true), "{good}");
            assert_eq!(way(good, None, "https://127.0.0.1/t"), Ok(false), "{good}");
            assert_eq!(way(good, None, "https://localhost/t"), Ok(false), "{good}");
        }
        for bad in [
            "socks5://p",
            "https://p",
            "ftp://p",
            "http://",
            "http:// p",
            "://p",
            "http://p:99999",
            "http://p:x",
            "/",
            "",
        ] {
            let error = way(bad, None, outside).unwrap_err();
            assert_eq!(error.layer, Layer::Proxy, "{bad}");
            // What it has in the way of user names and passwords stays out of logs.
            assert!(!error.seen.contains(bad) || bad.len() < 2, "{bad}");
            assert_eq!(way(bad, Some("a.example"), outside), Ok(false), "{bad}");
            assert_eq!(way(bad, None, "https://127.0.0.1/t"), Ok(false), "{bad}");
        }
    }
}
