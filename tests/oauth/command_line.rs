//! What the real binary makes of a provider: `providers`, `doctor`, and a refresh from end to end.

use std::net::TcpListener;

use serde_json::Value;

use crate::{
    command::{Answer, Host},
    server::{Script, Server, answer, header},
};

const TOKENS: &str = r#"{"access_token":"at-canary-cli-0042","refresh_token":"rt-canary-cli-0043","expires_in":"3600",
    "account":"42","scope":null}"#;

fn config(host: &Host, text: &str) {
    host.write("config/credbroker/config.toml", text);
}

/// Of the layer `provider`: check, status, detail and mend.
fn looked(host: &Host, code: i32) -> Vec<[String; 4]> {
    let mut command = host.command(&["doctor", "--json"]);
    command.env("PROVIDER_SECRET", "cs-canary-cli-0042");
    let answer = Answer::of(command);
    assert_eq!(answer.code, code, "{answer:?}");
    assert!(!answer.out.contains("canary"), "{answer:?}");
    let document: Value = serde_json::from_str(&answer.out).unwrap();
    let checks = document["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["layer"] == "provider")
        .map(|check| {
            ["check", "status", "detail", "mend"].map(|key| check[key].as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_goes_as_far_as_the_token_endpoint_and_names_what_stands_in_the_way() {
    let server = Server::start(vec![Script::Answer(answer("404 Not Found", "", ""))]);
    let up = server.address;
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let host = Host::new();
    host.write("secret", "cs-canary-cli-0042\n");
    let secret = host.path("secret").display().to_string();
    let missing = host.path("missing").display().to_string();
    let table = [
        (
            0,
            format!("token_endpoint = 'http://{up}/t?key=canary'\nclient_secret_file = '{secret}'"),
            vec![
                ["p client secret", "ok", "it can be had", ""].map(str::to_owned),
                [
                    "p token endpoint".into(),
                    "ok".into(),
                    format!("http://{up}/t can be reached"),
                    String::new(),
                ],
            ],
        ),
        (
            0,
            format!("token_endpoint = 'http://{up}/t'\nclient_secret_env = 'PROVIDER_SECRET'"),
            vec![
                ["p client secret", "ok", "it can be had", ""].map(str::to_owned),
                [
                    "p token endpoint".into(),
                    "ok".into(),
                    format!("http://{up}/t can be reached"),
                    String::new(),
                ],
            ],
        ),
        (
            78,
            format!("token_endpoint = 'http://{up}/t'\nclient_secret_file = '{missing}'"),
            vec![
                ["p client secret", "fail", "entity not found", "name a file"].map(str::to_owned),
                ["p token endpoint", "ok", "can be reached", ""].map(str::to_owned),
            ],
        ),
        (
            78,
            format!("token_endpoint = 'http://{up}/t'\nclient_secret_command = 'echo canary; exit 3'"),
            vec![
                [
                    "p client secret",
                    "fail",
                    "failed (exit status: 3)",
                    "print the client secret",
                ]
                .map(str::to_owned),
                ["p token endpoint", "ok", "can be reached", ""].map(str::to_owned),
            ],
        ),
        (
            75,
            format!("token_endpoint = 'http://{down}/t'"),
            vec![["p token endpoint", "fail", "TCP: connection refused", "port"].map(str::to_owned)],
        ),
        (
            75,
            format!(
                "token_endpoint = 'http://{up}/t'\nauthorization_endpoint = 'http://{up}/a?key=canary'\n\
                 device_authorization_endpoint = 'http://{down}/d'"
            ),
            vec![
                ["p token endpoint", "ok", "can be reached", ""].map(str::to_owned),
                ["p authorization endpoint", "ok", "/a can be reached", ""].map(str::to_owned),
                ["p device endpoint", "fail", "TCP: connection refused", "port"].map(str::to_owned),
            ],
        ),
        (
            78,
            format!("preset = 'github'\nissuer = 'http://{up}/i'"),
            vec![
                [
                    "p discovery",
                    "fail",
                    "HTTP 404 instead of a discovery document",
                    "`issuer`",
                ]
                .map(str::to_owned),
            ],
        ),
        (
            75,
            format!("issuer = 'http://{down}/i'"),
            vec![["p discovery", "fail", "TCP: connection refused", "port"].map(str::to_owned)],
        ),
    ];
    for (code, text, want) in table {
        config(&host, &format!("[providers.p]\nclient_id = 'c'\n{text}\n"));
        let found = looked(&host, code);
        assert_eq!(found.len(), want.len(), "{text}: {found:?}");
        for (found, want) in found.iter().zip(&want) {
            assert_eq!(found[..2], want[..2], "{text}");
            assert!(
                found[2].contains(&want[2]) && found[3].contains(&want[3]),
                "{text}: {found:?}"
            );
        }
    }
    // Documents were asked for, and nothing else.
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.is_empty() || request.starts_with("GET /") && request.contains("/.well-known/"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_that_works_is_told_with_the_endpoint_it_leads_to() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let document = serde_json::json!({
        "issuer": issuer, "token_endpoint": format!("{issuer}/token"),
        "device_authorization_endpoint": format!("{issuer}/device"),
    });
    let _server = Server::on(
        listener,
        vec![Script::Answer(answer("200 OK", "", &document.to_string()))],
    );
    let host = Host::new();
    config(&host, &format!("[providers.p]\nclient_id = 'c'\nissuer = '{issuer}'\n"));
    let found = looked(&host, 0);
    assert_eq!(found[0][2], format!("{issuer} names its endpoints"));
    assert_eq!(found[1][2], format!("{issuer}/token can be reached"));
    assert_eq!(found[2][2], format!("{issuer}/device can be reached"));
    assert_eq!(found.len(), 3);
    // A flow that its document leaves no way to.
    config(
        &host,
        &format!("[providers.p]\nclient_id = 'c'\nissuer = '{issuer}'\nflow = 'browser_redirect'\n"),
    );
    let found = looked(&host, 78);
    assert_eq!(found[3][0], "p login");
    assert!(
        found[3][2].starts_with("browser_redirect needs authorization_endpoint"),
        "{found:?}"
    );
}

#[test]
fn providers_shows_what_comes_of_the_configuration() {
    let host = Host::new();
    config(
        &host,
        "[providers.hub]\npreset = 'github'\nclient_id = 'Iv1'\nclient_secret_env = 'S'\n\
         [providers.own]\nissuer = 'https://login.example/t'\nclient_id = 'c'\n",
    );
    host.import("hub", r#"{"access_token":"a"}"#);
    host.import("stray", r#"{"access_token":"a"}"#);
    let answer = host.run(&["providers"]).succeeded();
    let line = |name: &str| {
        let found = answer.out.lines().find(|line| line.starts_with(name));
        let words = found.unwrap_or_else(|| panic!("{answer:?}")).split("  ").map(str::trim);
        words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let token_endpoint = "https://github.com/login/oauth/access_token";
    let login_endpoints = "https://github.com/login/oauth/authorize, https://github.com/login/device/code";
    let flows = "device_code, browser_redirect";
    assert_eq!(
        line("hub"),
        [
            "hub",
            "preset github",
            token_endpoint,
            login_endpoints,
            flows,
            "post",
            "no",
            "Iv1",
            "1"
        ]
    );
    assert_eq!(
        line("own"),
        [
            "own",
            "issuer https://login.example/t",
            "discovered",
            "discovered",
            "discovered",
            "none",
            "discovered",
            "c",
            "0"
        ]
    );
    assert_eq!(
        line("stray"),
        ["stray", "not configured", "-", "-", "-", "-", "-", "-", "1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_goes_from_the_command_line_to_the_provider_and_back() {
    let server = Server::start(vec![Script::Answer(answer("200 OK", "", TOKENS))]);
    let host = Host::new();
    let secret = host.write("secret", "cs-canary-cli-0042\n");
    config(
        &host,
        &format!(
            "[providers.p]\nclient_id = 'c'\ntoken_endpoint = '{}'\nclient_secret_file = '{secret}'\n\
             extra_fields = ['account']\n",
            server.url()
        ),
    );
    host.import(
        "p",
        r#"{"access_token":"at-canary-cli-0041","refresh_token":"rt-canary-cli-0042","expires_in":0,"scope":"s"}"#,
    );
    let mut command = host.command(&["token", "get", "p", "--json"]);
    command.env("RUST_LOG", "trace");
    let got = Answer::of(command).succeeded();
    let token: Value = serde_json::from_str(&got.out).unwrap();
    assert_eq!(token["access_token"], "at-canary-cli-0042");
    assert_eq!(
        (&token["scope"], &token["extra"]["account"]),
        (&"s".into(), &"42".into())
    );
    for secret in ["rt-canary", "cs-canary", "at-canary"] {
        assert!(!got.err.contains(secret), "{got:?}");
    }
    assert!(!got.out.contains("rt-canary"));
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].contains("refresh_token=rt-canary-cli-0042"), "{requests:?}");
    // c:cs-canary-cli-0042
    assert_eq!(
        header(&requests[0], "authorization"),
        Some("Basic Yzpjcy1jYW5hcnktY2xpLTAwNDI=")
    );
    // The next one presents what came of the first.
    host.run(&["token", "get", "p"]).succeeded();
    assert_eq!(server.accepted(), 1, "it is fresh");
}
