//! Logins of every flow with the real binary, at the level `trace`: what takes part in them stays where it belongs.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use credbroker::proto;
use prost::Message;
use rustix::process::Signal;

use crate::{
    command::{Answer, Host, Running, wait_until},
    live::everything_below,
    scanner::Scanner,
    wire::{Wire, frame},
};

const CODE: &str = "code-canary-of-login-7d1c5a9e";
const REFUSED_CODE: &str = "code-canary-refused-2b8f4e6a";
const DEVICE_CODE: &str = "device-canary-of-login-0a6c3e8d";
const ACCESS: &str = "at-canary-of-login-5c9a1f7e3b";
const REFRESH: &str = "rt-canary-of-login-8e2d6b0f4a";
const CAPABILITY: &str = "9b03d852f66e20b7d94f1a83c5907be4d21c6f5a38e9b04d7f62a1c85ec4a7e1";

/// An authorization server, and the verifiers that it was shown.
fn authorization_server() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let verifiers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&verifiers);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let body = body_of(&mut stream);
            let fields: BTreeMap<_, _> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
            seen.lock().unwrap().extend(fields.get("code_verifier").cloned());
            let refused = fields.get("code").is_some_and(|code| code == REFUSED_CODE);
            let (status, json) = match fields.get("grant_type") {
                _ if refused => (400, serde_json::json!({ "error": "invalid_grant" })),
                Some(_) => (
                    200,
                    serde_json::json!({
                        "access_token": ACCESS, "refresh_token": REFRESH, "expires_in": 3600, "sub": "alice",
                    }),
                ),
                None => (
                    200,
                    serde_json::json!({
                        "device_code": DEVICE_CODE, "user_code": "WDJB-MJHT", "interval": 1,
                        "verification_uri": "https://as.example/device",
                    }),
                ),
            };
            let json = json.to_string();
            let head = format!(
                "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                json.len()
            );
            drop(stream.write_all([head, json].concat().as_bytes()));
        }
    });
    (url, verifiers)
}

fn body_of(stream: &mut TcpStream) -> String {
    let mut request = String::new();
    loop {
        if let Some((head, body)) = request.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest);
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if body.len() >= length {
                return body.to_owned();
            }
        }
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return String::new(),
            Ok(count) => request.push_str(std::str::from_utf8(&part[..count]).unwrap()),
        }
    }
}

/// Calls, with every answer kept.
struct Talk {
    wire: Wire,
    octets: Vec<u8>,
}

impl Talk {
    async fn call<M: Message + Default>(&mut self, method: &str, request: &impl Message) -> Option<M> {
        let bearer = format!("Bearer {CAPABILITY}");
        let headers = [("authorization", bearer.as_str())];
        let answer = self
            .wire
            .call_with(method, &headers, frame(&request.encode_to_vec()))
            .await;
        // InitiateLogin is the one that may say them.
        if method != "InitiateLogin" {
            self.octets.extend(answer.octets());
        }
        (answer.code == http::StatusCode::OK && !answer.body.is_empty()).then(|| answer.message())
    }

    async fn begin(&mut self, provider: &str) -> proto::InitiateLoginResponse {
        let request = proto::InitiateLoginRequest {
            provider: provider.into(),
            ..Default::default()
        };
        self.call("InitiateLogin", &request).await.unwrap()
    }

    async fn exchange(&mut self, session_id: &str, code: &str) -> Option<proto::ExchangeCodeResponse> {
        let request = proto::ExchangeCodeRequest {
            session_id: session_id.into(),
            code: code.into(),
        };
        self.call("ExchangeCode", &request).await
    }

    async fn poll(&mut self, session_id: &str) -> Option<proto::PollLoginResponse> {
        let request = proto::PollLoginRequest {
            session_id: session_id.into(),
        };
        self.call("PollLogin", &request).await
    }

    async fn complete(&mut self, session_id: &str) {
        loop {
            let polled = self.poll(session_id).await.unwrap();
            match polled.status() {
                proto::LoginStatus::Pending => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                proto::LoginStatus::Complete => return,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn in_query(url: &str, name: &str) -> String {
    let query = url.split_once('?').unwrap().1;
    let mut fields = form_urlencoded::parse(query.as_bytes());
    fields.find(|(key, _)| key == name).unwrap().1.into_owned()
}

/// Every flow to its end and in the wrong order, and what only the answers to InitiateLogin may have said.
async fn log_in(socket: &Path) -> (Vec<u8>, Vec<(&'static str, String)>) {
    let mut talk = Talk {
        wire: Wire::connect(socket).await,
        octets: Vec::new(),
    };
    let mut only_begun = Vec::new();
    let mut note = |begun: &proto::InitiateLoginResponse| {
        only_begun.push(("a session's id", begun.session_id.clone()));
        if !begun.auth_url.is_empty() {
            only_begun.push(("state", in_query(&begun.auth_url, "state")));
            only_begun.push(("a challenge", in_query(&begun.auth_url, "code_challenge")));
        }
    };
    for code in [CODE, REFUSED_CODE] {
        let paste = talk.begin("paste").await;
        note(&paste);
        assert!(talk.poll(&paste.session_id).await.is_none());
        let pasted = format!("{code}#{}", in_query(&paste.auth_url, "state"));
        let done = talk.exchange(&paste.session_id, &pasted).await;
        assert_eq!(done.is_some(), code == CODE);
        assert!(talk.exchange(&paste.session_id, &pasted).await.is_none());
    }
    let wrong = talk.begin("paste").await;
    note(&wrong);
    let strange = format!("{CODE}#{}", only_begun_state(&wrong));
    assert!(talk.exchange(&wrong.session_id, &strange).await.is_none());

    let device = talk.begin("device").await;
    note(&device);
    assert!(talk.exchange(&device.session_id, CODE).await.is_none());
    talk.complete(&device.session_id).await;

    let browser = talk.begin("browser").await;
    note(&browser);
    let redirect = in_query(&browser.auth_url, "redirect_uri");
    let state = in_query(&browser.auth_url, "state");
    let at = redirect.strip_prefix("http://").unwrap().split('/').next().unwrap();
    for target in [
        format!("/callback?code={CODE}&state=x{state}"),
        format!("/callback?code={CODE}&state={state}"),
    ] {
        let mut stream = TcpStream::connect(at).unwrap();
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\nhost: {at}\r\n\r\n").as_bytes())
            .unwrap();
        let mut page = Vec::new();
        // The broker answers in its own time and process.
        stream.read_to_end(&mut page).unwrap();
        talk.octets.extend(page);
    }
    talk.complete(&browser.session_id).await;

    let given_up = talk.begin("browser").await;
    note(&given_up);
    let request = proto::CancelLoginRequest {
        session_id: given_up.session_id.clone(),
    };
    talk.call::<proto::CancelLoginResponse>("CancelLogin", &request).await;
    (talk.octets, only_begun)
}

/// Another one than the session's own.
fn only_begun_state(begun: &proto::InitiateLoginResponse) -> String {
    in_query(&begun.auth_url, "state").chars().rev().collect()
}

fn world() -> (Host, Arc<Mutex<Vec<String>>>, PathBuf) {
    let (url, verifiers) = authorization_server();
    let host = Host::new();
    host.write(
        "config/credbroker/config.toml",
        &format!(
            "[providers.paste]\nclient_id = 'c'\nauthorization_endpoint = 'https://as.example/authorize'\n\
             token_endpoint = '{url}/token'\nredirect_url = 'https://as.example/code'\nflow = 'pkce_redirect'\n\
             [providers.device]\nclient_id = 'c'\ndevice_authorization_endpoint = '{url}/device'\n\
             token_endpoint = '{url}/token'\n\
             [providers.browser]\nclient_id = 'c'\nauthorization_endpoint = 'https://as.example/authorize'\n\
             token_endpoint = '{url}/token'\n"
        ),
    );
    let capability = PathBuf::from(host.write("input/capability", CAPABILITY));
    (host, verifiers, capability)
}

#[tokio::test]
async fn what_takes_part_in_a_login_is_in_no_other_answer_log_record_or_file() {
    let (host, verifiers, capability) = world();
    let mut scanner = Scanner::new([
        ("a code", CODE),
        ("a refused code", REFUSED_CODE),
        ("a device code", DEVICE_CODE),
        ("a refresh token", REFRESH),
    ]);
    let mut said = Vec::new();
    for format in ["json", "human"] {
        let log = host.path(&format!("input/log-{format}"));
        let mut command = host.command(&["--log-format", format, "serve", "--capability-file"]);
        command
            .arg(&capability)
            .args(["--allow", "*", "--allow-login", "*"])
            .env("RUST_LOG", "trace")
            .stderr(fs::File::create(&log).unwrap());
        let child = Running::start(command);
        let socket = host.path("run/credbroker/daemon/sandbox/sock");
        wait_until("it serves", || UnixStream::connect(&socket).is_ok());
        let (octets, only_begun) = log_in(&socket).await;
        assert!(
            String::from_utf8_lossy(&octets).contains(ACCESS),
            "no login brought its token"
        );
        for (name, secret) in &only_begun {
            scanner.add(name, secret.as_bytes());
        }
        said.push((format!("an answer to the {format} one"), octets));
        // The same by the program's own client, which logs all it can, too.
        for (provider, code) in [("device", ""), ("paste", CODE)] {
            let mut command = host.command(&["login", provider, "--no-browser", "--json"]);
            command
                .env("RUST_LOG", "trace")
                .env("CREDBROKER_SOCKET", &socket)
                .env("CREDBROKER_CAPABILITY", CAPABILITY);
            let answer = Answer::with_input(command, code.as_bytes()).succeeded();
            assert!(answer.err.contains("TRACE"), "nothing was logged");
            said.push((format!("the log of `login {provider}`"), answer.err.into_bytes()));
        }
        assert_eq!(child.end_by(Signal::TERM), 0);
        let log = fs::read(&log).unwrap();
        let text = String::from_utf8_lossy(&log);
        assert!(
            text.contains("a login is complete") && text.contains("TRACE"),
            "this is no log of logins"
        );
        let own = &only_begun[0].1;
        assert!(text.contains(&own[..8]), "the log does not name the session");
        said.push((format!("the {format} log"), log));
    }
    let verifiers = verifiers.lock().unwrap().clone();
    assert_eq!(verifiers.len(), 8, "{verifiers:?}");
    for verifier in &verifiers {
        scanner.add("a verifier", verifier.as_bytes());
    }
    let mut audited = String::new();
    for (path, content) in everything_below(&host.path("."), &[Path::new("input"), Path::new("identity.txt")]) {
        audited.push_str(&String::from_utf8_lossy(&content));
        said.push((path.display().to_string(), content));
    }
    for method in ["InitiateLogin", "ExchangeCode", "PollLogin", "CancelLogin"] {
        assert!(audited.contains(method), "{method} was not audited");
    }
    for (place, text) in said {
        scanner.assert_clean(&place, text);
    }
}
