//! Any discovery document of an issuer: the one that it has to be or none, never another issuer's, and no endpoint that is
//! less protected than the issuer.

#![no_main]

use credbroker::oauth::{
    Endpoint,
    discovery::{Metadata, endpoint_of},
};
use credbroker_fuzz::{endpoint, input::Input};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const ISSUERS: [&str; 4] = [
    "https://a.example",
    "https://a.example/t",
    "http://127.0.0.1:8080/t/",
    "http://[::1]",
];

fn judge(issuer: &Endpoint, endpoint: &Endpoint) {
    endpoint::judge(endpoint);
    let is_http = |endpoint: &Endpoint| endpoint.uri().scheme_str() == Some("http");
    assert!(!is_http(endpoint) || is_http(issuer));
    // An endpoint is one however often it is read.
    assert_eq!(Endpoint::parse(endpoint.as_str()).as_ref(), Some(endpoint));
    assert!(!format!("{endpoint:?}").contains(['?', ' ']));
}

// Which issuer, and the document.
fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let Some(which) = input.octet() else { return };
    let issuer = Endpoint::parse(ISSUERS[usize::from(which) % ISSUERS.len()]).unwrap();
    let json: Option<Value> = serde_json::from_slice(input.0).ok();
    match Metadata::parse(input.0, &issuer) {
        Ok(metadata) => {
            let json = json.unwrap();
            assert_eq!(json["issuer"].as_str(), Some(issuer.as_str()));
            assert_eq!(json["token_endpoint"].as_str(), Some(metadata.token_endpoint.as_str()));
            judge(&issuer, &metadata.token_endpoint);
            for named in [
                &metadata.revocation_endpoint,
                &metadata.authorization_endpoint,
                &metadata.device_authorization_endpoint,
            ] {
                let endpoint = named.as_deref().and_then(|text| endpoint_of(&issuer, text));
                if let Some(endpoint) = endpoint {
                    judge(&issuer, &endpoint);
                }
            }
            let listed = json["grant_types_supported"].as_array();
            assert_eq!(
                metadata.allows("authorization_code"),
                listed.is_none_or(|listed| listed.iter().any(|grant| grant == "authorization_code"))
            );
        }
        Err(error) => {
            // Nothing of the document is told.
            assert!(error.to_string().len() < 100 && !error.mend().is_empty());
        }
    }
    // A document is a long way to an odd URL.
    if let Some(endpoint) = std::str::from_utf8(input.0)
        .ok()
        .and_then(|text| endpoint_of(&issuer, text))
    {
        judge(&issuer, &endpoint);
    }
});
