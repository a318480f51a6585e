//! Providers over real sockets: servers that answer well, badly and not at all, and what becomes of a refresh token.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[path = "../command/mod.rs"]
#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;
mod command_line;
mod connections;
mod discovery;
#[path = "../support/log.rs"]
#[expect(dead_code, reason = "every test binary uses its own part of this")]
mod log;
mod logins;
mod loopback;
mod outcomes;
mod proxies;
mod revocation;
#[path = "../canary/scanner.rs"]
mod scanner;
mod secrets;
mod server;
mod tls;

use std::{sync::Arc, time::Duration};

use credbroker::{
    clock::SystemClock,
    oauth::{
        Endpoint, Endpoints, Http, HttpLimits, HttpProvider, LoginSettings, Outcome, OutcomeRules, Provider as _,
        ProviderSettings, Proxies, RequestFormat,
    },
};

const REFRESH_TOKEN: &str = "rt-canary-presented-77aa01";

/// Those of the product.
const LIMITS: HttpLimits = HttpLimits {
    connect: Duration::from_secs(10),
    answer: Duration::from_secs(60),
    body: 1024 * 1024,
};
/// For what is meant to run into it.
const IMPATIENT: HttpLimits = HttpLimits {
    connect: Duration::from_secs(1),
    answer: Duration::from_millis(300),
    ..LIMITS
};

fn endpoint(url: &str) -> Endpoint {
    Endpoint::parse(url).unwrap_or_else(|| panic!("{url}"))
}

/// A public client of the endpoint.
fn settings(token_endpoint: &str) -> ProviderSettings {
    ProviderSettings {
        name: "p".parse().unwrap(),
        endpoints: Endpoints {
            token: Some(endpoint(token_endpoint)),
            ..Endpoints::default()
        },
        client_id: "client".to_owned(),
        client_secret: None,
        client_auth: None,
        format: RequestFormat::Form,
        token_params: Vec::new(),
        rules: OutcomeRules::default(),
        retry_ambiguous: true,
        login: LoginSettings::default(),
    }
}

fn built(settings: ProviderSettings, limits: HttpLimits) -> HttpProvider {
    let http = Arc::new(Http::new(limits, &Proxies::default()));
    HttpProvider::new(settings, http, Arc::new(SystemClock::new()))
}

async fn refreshed(settings: ProviderSettings, limits: HttpLimits) -> Outcome {
    built(settings, limits).refresh(&REFRESH_TOKEN.into()).await
}

/// The row of the table that an outcome is.
fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Answered(_) => "answered",
        Outcome::Refused(_) => "refused",
        Outcome::Rejected(_) => "rejected",
        Outcome::NotProcessed { .. } => "not processed",
        Outcome::Ambiguous(_) => "ambiguous",
    }
}

fn seen(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered(tokens) => format!("{tokens:?}"),
        Outcome::NotProcessed { seen, .. }
        | Outcome::Refused(seen)
        | Outcome::Rejected(seen)
        | Outcome::Ambiguous(seen) => seen.to_string(),
    }
}
