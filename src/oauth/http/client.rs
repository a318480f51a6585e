//! A reqwest client for one exchange, and what it does.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue,
    header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, USER_AGENT},
};
use reqwest::{Body, Client, Request, Response, Url, redirect, retry};
use rustls::client::Resumption;
use tokio::time::sleep;
use tower::util::MapResultLayer;
use zeroize::Zeroizing;

use super::{
    Answer, Endpoint, Http, NoAnswer, Outgoing,
    connect::{Layer, Unreachable, Way, causes, tls_to},
};

const AGENT: &str = concat!("credbroker/", env!("CARGO_PKG_VERSION"));
const LATE: &str = "no complete answer within the time limit";

/// What a connection is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Request,
    /// To know that it can be made.
    Nothing,
}

/// Instead of a connection that nothing is to be sent over.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint was reached")]
struct Reached;

impl Http {
    /// Sends the request once and reads the answer.
    pub(super) async fn ask(&self, outgoing: Outgoing) -> Result<Answer, NoAnswer> {
        let way = Way::default();
        let client = self
            .client(&outgoing.to, &way, Purpose::Request)
            .map_err(NoAnswer::NotSent)?;
        let request = request(outgoing).ok_or_else(|| NoAnswer::NotSent(not_a_request()))?;
        let answered = async {
            let mut response = client.execute(request).await.map_err(|error| {
                if way.is_connected() {
                    NoAnswer::Lost(seen(&error))
                } else {
                    NoAnswer::NotSent(way.failed(&error))
                }
            })?;
            let body = read(&mut response, self.limits.body).await.map_err(NoAnswer::Lost)?;
            Ok(Answer {
                status: response.status(),
                headers: std::mem::take(response.headers_mut()),
                body,
            })
        };
        let late = async {
            way.connected().await;
            sleep(self.limits.answer).await;
        };
        tokio::select! {
            biased;
            answered = answered => answered,
            () = late => Err(NoAnswer::Lost(LATE)),
        }
    }

    /// Connects, and sends nothing.
    pub(super) async fn touch(&self, endpoint: Endpoint) -> Result<(), Unreachable> {
        let way = Way::default();
        let client = self.client(&endpoint, &way, Purpose::Nothing)?;
        let outgoing = Outgoing {
            method: http::Method::GET,
            to: endpoint,
            body: None,
            authorization: None,
        };
        let request = request(outgoing).ok_or_else(not_a_request)?;
        match client.execute(request).await {
            Err(error) if !way.is_connected() => Err(way.failed(&error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// A client that can make one connection, which the way learns of.
    fn client(&self, to: &Endpoint, way: &Way, purpose: Purpose) -> Result<Client, Unreachable> {
        let proxy = match &self.proxying {
            None => None,
            Some(proxying) => proxying.to(to)?,
        };
        let way = way.clone();
        way.proxied(proxy.is_some());
        let mut tls = tls_to(to, &self.tls)?;
        // It keeps no session either: it is there to notice that a handshake begins.
        tls.resumption = Resumption::store(Arc::new(way.clone()));
        let arrived = way.clone();
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .pool_max_idle_per_host(0)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            // What the environment says has been asked already.
            .no_proxy()
            .dns_resolver(way)
            .connect_timeout(self.limits.connect)
            // An answer is waited for as long as its limit says, also over a network that is gone for a while.
            .tcp_keepalive(None::<Duration>)
            .connector_layer(MapResultLayer::new(move |made| match made {
                Ok(connection) => {
                    arrived.arrive();
                    match purpose {
                        Purpose::Request => Ok(connection),
                        Purpose::Nothing => Err(Reached.into()),
                    }
                }
                Err(error) => Err(error),
            }));
        #[cfg(target_os = "linux")]
        {
            builder = builder.tcp_user_timeout(None::<Duration>);
        }
        if let Some(proxy) = proxy {
            builder = builder.proxy(proxy);
        }
        // Only what is set above could be wrong with it.
        builder
            .build()
            .map_err(|_unusable| Unreachable::new(Layer::Tcp, "the client could not be made"))
    }
}

fn not_a_request() -> Unreachable {
    Unreachable::new(Layer::Name, "the endpoint is no URL that can be asked")
}

fn request(outgoing: Outgoing) -> Option<Request> {
    let url = Url::parse(outgoing.to.as_str()).ok()?;
    // What was checked is what is asked: the two parsers of URLs are not one.
    if !leads_to(&url, &outgoing.to) {
        return None;
    }
    let mut request = Request::new(outgoing.method, url);
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(mut authorization) = outgoing.authorization {
        authorization.set_sensitive(true);
        headers.insert(AUTHORIZATION, authorization);
    }
    if let Some((kind, bytes)) = outgoing.body {
        headers.insert(CONTENT_TYPE, kind);
        *request.body_mut() = Some(Body::from(Bytes::from_owner(bytes)));
    }
    Some(request)
}

/// Whether the URL is on the endpoint's host and port, over the same protocol.
fn leads_to(url: &Url, endpoint: &Endpoint) -> bool {
    let host = match url.host_str() {
        // An address has more than one spelling.
        Some(host) => match Endpoint::address(host) {
            Some(address) => Endpoint::address(endpoint.host()) == Some(address),
            None => host.eq_ignore_ascii_case(endpoint.host()),
        },
        None => false,
    };
    host && (url.scheme() == "https") == endpoint.is_https() && url.port_or_known_default() == Some(endpoint.port())
}

/// The kind of failure, in words of our own.
fn seen(error: &reqwest::Error) -> &'static str {
    let hyper = causes(error).find_map(|cause| cause.downcast_ref::<hyper::Error>());
    match hyper {
        Some(error) if error.is_incomplete_message() => "the connection was closed before the answer was complete",
        Some(error) if error.is_parse() => "the answer was not HTTP/1.1",
        _ => "the connection broke before the answer was complete",
    }
}

/// The whole body, if it is not longer than `most`.
async fn read(response: &mut Response, most: usize) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let mut whole = Zeroizing::new(Vec::with_capacity(16 * 1024));
    while let Some(data) = response.chunk().await.map_err(|error| seen(&error))? {
        let length = whole.len() + data.len();
        if length > most {
            return Err("the answer was too large");
        }
        if length > whole.capacity() {
            // Growing in place would leave parts of a token behind.
            let mut larger = Zeroizing::new(Vec::with_capacity((length * 2).min(most)));
            larger.extend_from_slice(&whole);
            whole = larger;
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_checked_is_what_is_asked() {
        for (endpoint, url, same) in [
            ("https://A.example", "https://a.example/", true),
            ("https://a.example:443/t", "https://a.example/t", true),
            ("https://[2001:DB8:0::1]/", "https://[2001:db8::1]/", true),
            ("http://127.0.0.1:1/t", "http://127.0.0.1:1/t", true),
            ("https://a.example/", "https://b.example/", false),
            ("https://a.example/", "https://a.example:444/", false),
            ("https://127.0.0.1/", "http://127.0.0.1:443/", false),
            // An address in a spelling that not everybody takes for one.
            ("https://0x7f.1/", "https://0x7f.1/", false),
        ] {
            let endpoint = Endpoint::parse(endpoint).unwrap();
            assert_eq!(leads_to(&Url::parse(url).unwrap(), &endpoint), same, "{endpoint} {url}");
        }
    }
}
