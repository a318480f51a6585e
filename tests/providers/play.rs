//! A case is played: each call, what went over the wire for it, and what came of it.

use std::{collections::BTreeMap, fs, net::TcpListener, sync::Arc};

use credbroker::{
    config::{Config, Environment},
    credential::TokenAnswer,
    daemon,
    oauth::{
        Flow, LoginProvider, Outcome as Refreshed, Provider,
        login::{Authorization, DeviceAuthorization, DevicePoll, Listening, LoginTrouble},
    },
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tracing_subscriber::filter::LevelFilter;

use crate::{
    case::{self, Call, Case, Step},
    log::Log,
    scanner::Scanner,
    server::{Script, Server, answer, header},
};

/// The configuration's name for the provider.
const NAME: &str = "p";

/// What `{name}` stands for.
#[derive(Default)]
struct Words(BTreeMap<String, String>);

impl Words {
    fn set(&mut self, name: &str, value: &str) {
        self.0.insert(format!("{{{name}}}"), value.to_owned());
    }

    fn fill(&self, text: &str) -> String {
        let fill = |text: String, (name, value): (&String, &String)| text.replace(name, value);
        self.0.iter().fold(text.to_owned(), fill)
    }

    fn fill_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.fill(text).into(),
            Value::Array(items) => items.iter().map(|item| self.fill_value(item)).collect(),
            Value::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, value)| (self.fill(name), self.fill_value(value)));
                Value::Object(fields.collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
}

/// One case on its way.
struct Player {
    words: Words,
    scanner: Scanner,
    server: Server,
    /// Requests that have been looked at.
    seen: usize,
    login: Arc<dyn LoginProvider>,
    provider: Arc<dyn Provider>,
    authorization: Option<Authorization>,
    ear: Option<Box<dyn Listening>>,
    code: Option<SecretString>,
    device: Option<DeviceAuthorization>,
    /// `Debug` of everything that came of something.
    shown: String,
}

pub(crate) fn play(case: &Case) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(log.clone())
        .finish();
    // The runtime has one thread, so everything below is logged here.
    let logging = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let player = runtime.block_on(async {
        let mut player = Player::new(case);
        for (number, step) in case.step.iter().enumerate() {
            player.step(step, &format!("{}, step {}", case.name, number + 1)).await;
        }
        player
    });
    tracing::trace!("the end of the log");
    drop(logging);
    let said = log.text();
    assert!(said.contains("the end of the log"), "{said}");
    player.scanner.assert_clean(&format!("{}: the log", case.name), said);
    player
        .scanner
        .assert_clean(&format!("{}: the outcomes", case.name), &player.shown);
}

impl Player {
    fn new(case: &Case) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut words = Words::default();
        words.set("server", &format!("http://{}", listener.local_addr().unwrap()));
        let mut scanner = Scanner::default();
        for (name, value) in &case.secrets {
            words.set(name, value);
            scanner.add(name, value.as_bytes());
        }
        if let Some(claims) = &case.id_token {
            let claims = BASE64URL_NOPAD.encode(words.fill_value(claims).to_string().as_bytes());
            let token = format!(
                "{}.{claims}.c2lnbmF0dXJl",
                BASE64URL_NOPAD.encode(br#"{"alg":"RS256"}"#)
            );
            words.set("id_token", &token);
            scanner.add("id_token", token.as_bytes());
        }
        let mut scripts: Vec<_> = case
            .step
            .iter()
            .flat_map(|step| &step.exchange)
            .map(|exchange| script(&exchange.answer, &words))
            .collect();
        // One request too many is told by its number.
        scripts.push(Script::AnswerAndClose(answer("500 Internal Server Error", "", "")));
        let providers = configured(case, &words);
        let name = NAME.parse().unwrap();
        Self {
            login: Arc::clone(&providers.logins[&name]),
            provider: Arc::clone(&providers.refreshes[&name]),
            server: Server::on(listener, scripts),
            words,
            scanner,
            seen: 0,
            authorization: None,
            ear: None,
            code: None,
            device: None,
            shown: String::new(),
        }
    }

    async fn step(&mut self, step: &Step, place: &str) {
        let (is, fields) = self.called(step).await;
        self.compare_requests(step, place);
        let found = Value::Object(fields);
        assert_eq!(is, step.outcome.is, "{place}: {found}");
        for (name, want) in &step.outcome.fields {
            let want = self.words.fill_value(want);
            assert_eq!(found.get(name).unwrap_or(&Value::Null), &want, "{place}: {name}");
        }
    }

    async fn called(&mut self, step: &Step) -> (&'static str, Map<String, Value>) {
        let with = self.words.fill(&step.with);
        match step.call {
            Call::Flows => match self.login.flows().await {
                Ok(flows) => {
                    let flows: Vec<_> = flows.into_iter().map(Flow::as_str).collect();
                    ("flows", fields([("flows", json!(flows))]))
                }
                Err(error) => self.trouble(&error),
            },
            Call::Authorize => match self.login.authorize().await {
                Ok(authorization) => self.authorized(authorization),
                Err(error) => self.trouble(&error),
            },
            Call::AuthorizeLoopback => match self.login.authorize_loopback().await {
                Ok((authorization, ear)) => {
                    self.ear = Some(ear);
                    self.authorized(authorization)
                }
                Err(error) => self.trouble(&error),
            },
            Call::Answer => {
                let answer = self.authorization.as_ref().unwrap().answer(&with.into());
                self.brought(answer)
            }
            Call::Browser => {
                let authorization = self.authorization.as_ref().unwrap();
                let ear = self.ear.take().unwrap();
                let (heard, page) = tokio::join!(ear.code(authorization), browse(&authorization.redirect_uri, &with));
                self.shown.push_str(&page);
                self.brought(heard)
            }
            Call::Exchange => {
                let (authorization, code) = (self.authorization.as_ref().unwrap(), self.code.as_ref().unwrap());
                match self.login.exchange(authorization, code).await {
                    Ok(tokens) => self.answered(&tokens),
                    Err(error) => self.trouble(&error),
                }
            }
            Call::AuthorizeDevice => match self.login.authorize_device().await {
                Ok(device) => self.begun(device),
                Err(error) => self.trouble(&error),
            },
            Call::PollDevice => {
                let poll = self.login.poll_device(self.device.as_ref().unwrap()).await;
                self.shown.push_str(&format!("{poll:?}\n"));
                match poll {
                    DevicePoll::Answered(tokens) => self.answered(&tokens),
                    DevicePoll::Pending => ("pending", Map::new()),
                    DevicePoll::SlowDown => ("slow down", Map::new()),
                    DevicePoll::NotProcessed { seen, retry_after } => {
                        let wait = retry_after.map(|wait| wait.as_secs());
                        let fields = fields([("seen", json!(seen.0)), ("retry_after", json!(wait))]);
                        ("not processed", fields)
                    }
                    DevicePoll::Ended(error) => self.trouble(&error),
                }
            }
            Call::Refresh => {
                let outcome = self.provider.refresh(&with.into()).await;
                self.shown.push_str(&format!("{outcome:?}\n"));
                let seen = |seen: &credbroker::oauth::Seen| fields([("seen", json!(seen.0))]);
                match &outcome {
                    Refreshed::Answered(tokens) => self.answered(tokens),
                    Refreshed::Refused(what) => ("refused", seen(what)),
                    Refreshed::Rejected(what) => ("rejected", seen(what)),
                    Refreshed::NotProcessed { seen: what, .. } => ("not processed", seen(what)),
                    Refreshed::Ambiguous(what) => ("ambiguous", seen(what)),
                }
            }
        }
    }

    fn authorized(&mut self, made: Authorization) -> (&'static str, Map<String, Value>) {
        self.shown.push_str(&format!("{made:?}\n"));
        let verifier = made.verifier.expose_secret().to_owned();
        self.learn("state", made.state.expose_secret());
        self.learn_verifier(&verifier);
        assert!(!made.url.contains(&verifier), "the verifier is in the URL");
        self.words.set("redirect_uri", &made.redirect_uri);
        let (at, query) = made.url.split_once('?').unwrap();
        let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let fields = fields([
            ("at", json!(at)),
            ("query", json!(query)),
            ("redirect_uri", json!(made.redirect_uri)),
            ("state_required", json!(made.state_required)),
            ("issuer", json!(made.issuer)),
            ("issuer_required", json!(made.issuer_required)),
        ]);
        self.authorization = Some(made);
        ("authorization", fields)
    }

    fn begun(&mut self, device: DeviceAuthorization) -> (&'static str, Map<String, Value>) {
        self.shown.push_str(&format!("{device:?}\n"));
        if let Some(verifier) = device
            .verifier
            .as_ref()
            .map(|verifier| verifier.expose_secret().to_owned())
        {
            self.learn_verifier(&verifier);
        }
        let fields = fields([
            ("verification_url", json!(device.verification_url)),
            ("verification_url_complete", json!(device.verification_url_complete)),
            ("user_code", json!(device.user_code)),
            ("interval", json!(device.interval.as_secs())),
            ("lifetime", json!(device.lifetime.map(|lifetime| lifetime.as_secs()))),
        ]);
        self.device = Some(device);
        ("begun", fields)
    }

    fn brought(&mut self, brought: Result<SecretString, LoginTrouble>) -> (&'static str, Map<String, Value>) {
        match brought {
            Ok(code) => {
                let fields = fields([("code", json!(code.expose_secret()))]);
                self.code = Some(code);
                ("code", fields)
            }
            Err(error) => self.trouble(&error),
        }
    }

    fn answered(&mut self, tokens: &TokenAnswer) -> (&'static str, Map<String, Value>) {
        self.shown.push_str(&format!("{tokens:?}\n"));
        let exposed = |token: &Option<SecretString>| json!(token.as_ref().map(|token| token.expose_secret()));
        let fields = fields([
            ("access_token", exposed(&tokens.access_token)),
            ("refresh_token", exposed(&tokens.refresh_token)),
            ("lifetime", json!(tokens.lifetime.map(|lifetime| lifetime.as_secs()))),
            ("token_type", json!(tokens.token_type)),
            ("scope", json!(tokens.scope)),
            ("subject", json!(tokens.subject)),
            ("extra", json!(tokens.extra)),
        ]);
        ("answered", fields)
    }

    fn trouble(&mut self, error: &LoginTrouble) -> (&'static str, Map<String, Value>) {
        self.shown.push_str(&format!("{error:?} {error}\n"));
        let (is, seen) = match error {
            LoginTrouble::Denied => ("denied", ""),
            LoginTrouble::Expired => ("expired", ""),
            LoginTrouble::NotOurs(what) => ("not ours", *what),
            LoginTrouble::Refused(seen) => ("refused", &*seen.0),
            LoginTrouble::Rejected(seen) => ("rejected", &*seen.0),
            LoginTrouble::Unconfigured(lack) => ("unconfigured", &**lack),
            LoginTrouble::Unavailable(seen) => ("unavailable", &*seen.0),
            LoginTrouble::CannotListen(tried) => ("cannot listen", &**tried),
        };
        (is, fields([("seen", json!(seen))]))
    }

    fn learn(&mut self, name: &str, secret: &str) {
        self.words.set(name, secret);
        self.scanner.add(name, secret.as_bytes());
    }

    fn learn_verifier(&mut self, verifier: &str) {
        self.learn("verifier", verifier);
        let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(verifier.as_bytes()));
        self.words.set("challenge", &challenge);
    }

    /// What went over the wire is what the step says, and nothing else.
    fn compare_requests(&mut self, step: &Step, place: &str) {
        let requests = self.server.requests();
        let new = &requests[self.seen..];
        assert_eq!(new.len(), step.exchange.len(), "{place}: requests {new:#?}");
        self.seen = requests.len();
        for (request, exchange) in new.iter().zip(&step.exchange) {
            let want = &exchange.request;
            let first = request.lines().next().unwrap();
            let path = self.words.fill(&want.path);
            assert_eq!(first, format!("{} {path} HTTP/1.1", want.method), "{place}");
            assert_eq!(header(request, "accept"), Some("application/json"), "{place}");
            for (name, value) in &want.headers {
                let value = self.words.fill(value);
                let value = match value.strip_prefix("Basic ") {
                    Some(pair) => format!("Basic {}", BASE64.encode(pair.as_bytes())),
                    None => value,
                };
                assert_eq!(header(request, name).unwrap_or_default(), value, "{place}: {name}");
            }
            if !want.headers.contains_key("authorization") {
                assert_eq!(header(request, "authorization"), None, "{place}");
            }
            let body = request.split_once("\r\n\r\n").unwrap().1;
            let kind = header(request, "content-type");
            match (&want.form, &want.json) {
                (Some(form), None) => {
                    let found: Vec<(String, String)> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
                    let once: BTreeMap<_, _> = found.iter().cloned().collect();
                    assert_eq!(found.len(), once.len(), "{place}: a parameter is there twice");
                    let want = form.iter().map(|(name, value)| match value.as_str() {
                        // Of a login that did not begin nobody has the verifier.
                        "{challenge}" if step.outcome.is != "begun" && step.call == Call::AuthorizeDevice => {
                            let challenge = once.get(name).cloned().unwrap_or_default();
                            assert_eq!(challenge.len(), 43, "{place}");
                            (name.clone(), challenge)
                        }
                        value => (name.clone(), self.words.fill(value)),
                    });
                    assert_eq!(once, want.collect(), "{place}");
                    assert_eq!(kind, Some("application/x-www-form-urlencoded"), "{place}");
                }
                (None, Some(want)) => {
                    let found: Value = serde_json::from_str(body).unwrap();
                    assert_eq!(found, self.words.fill_value(want), "{place}");
                    assert_eq!(kind, Some("application/json"), "{place}");
                }
                (None, None) => assert_eq!(body, "", "{place}"),
                (Some(_), Some(_)) => panic!("{place}: form or json"),
            }
        }
    }
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn script(recorded: &case::Answer, words: &Words) -> Script {
    if recorded.lost {
        return Script::AnswerAndClose(Vec::new());
    }
    let (kind, body) = match &recorded.json {
        Some(json) => ("application/json", words.fill_value(json).to_string()),
        None => ("text/html", words.fill(&recorded.body)),
    };
    let mut headers = format!("content-type: {kind}\r\n");
    for (name, value) in &recorded.headers {
        headers.push_str(&format!("{name}: {}\r\n", words.fill(value)));
    }
    Script::AnswerAndClose(answer(&format!("{} Recorded", recorded.status), &headers, &body))
}

/// What `serve` would make of the case's configuration.
fn configured(case: &Case, words: &Words) -> daemon::Providers {
    let filled = words.fill_value(&serde_json::to_value(&case.provider).unwrap());
    let mut text = format!("[providers.{NAME}]\n");
    for (key, value) in filled.as_object().unwrap() {
        // JSON's strings, numbers and arrays of them are TOML's.
        match value.as_object() {
            None => text.push_str(&format!("{key} = {value}\n")),
            Some(table) => {
                for (name, value) in table {
                    text.push_str(&format!("{key}.{name} = {value}\n"));
                }
            }
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, text).unwrap();
    let environment: Vec<_> = case
        .environment
        .iter()
        .map(|(name, value)| (name, words.fill(value)))
        .collect();
    let environment: Environment = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let config = Config::load(Some(&file), &environment).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    daemon::providers(&config, &environment)
}

/// What a browser does with a redirect: the page that it gets.
async fn browse(redirect_uri: &str, query: &str) -> String {
    let uri: http::Uri = redirect_uri.parse().unwrap();
    let path = uri.path();
    let host = uri.authority().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", uri.port_u16().unwrap()))
        .await
        .unwrap();
    let request = format!("GET {path}?{query} HTTP/1.1\r\nhost: {host}\r\naccept: text/html\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    page
}
