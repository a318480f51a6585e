//! What holds for every endpoint that was taken from outside.

use credbroker::oauth::Endpoint;

/// A token may be sent there: it is encrypted, or does not leave this machine.
pub fn judge(endpoint: &Endpoint) {
    let uri = endpoint.uri();
    let host = uri.host().unwrap();
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    match uri.scheme_str().unwrap() {
        "https" => {}
        "http" => assert!(loopback, "{endpoint:?}"),
        _ => panic!("{endpoint:?}"),
    }
    assert!(!endpoint.as_str().contains('#') && !uri.authority().unwrap().as_str().contains('@'));
}
