//! The ear for a redirect, over real sockets: what ends it, what does not, and that nothing listens afterwards.

use std::{collections::BTreeSet, net::SocketAddr, process::Command, time::Duration};

use credbroker::oauth::{
    LoginProvider as _, LoginSettings, ProviderSettings,
    login::{Authorization, Listening, LoginTrouble, RedirectHost},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{LIMITS, built, endpoint, settings};

const SOON: Duration = Duration::from_secs(3);

fn browser_settings(login: LoginSettings) -> ProviderSettings {
    let mut settings = settings("http://127.0.0.1:1/token");
    settings.endpoints.authorization = Some(endpoint("https://a.example/authorize"));
    settings.login = login;
    settings
}

async fn listening(login: LoginSettings) -> Result<(Authorization, Box<dyn Listening>), LoginTrouble> {
    built(browser_settings(login), LIMITS).authorize_loopback().await
}

/// An ear that hears, what it is to hear, and where.
struct Login {
    hearing: JoinHandle<Result<SecretString, LoginTrouble>>,
    state: String,
    port: u16,
    path: String,
}

impl Login {
    async fn begin(login: LoginSettings) -> Self {
        let (authorization, ear) = listening(login).await.unwrap();
        let state = authorization.state.expose_secret().to_owned();
        let uri: http::Uri = authorization.redirect_uri.parse().unwrap();
        Self {
            port: uri.port_u16().unwrap(),
            path: uri.path().to_owned(),
            hearing: tokio::spawn(async move { ear.code(&authorization).await }),
            state,
        }
    }

    fn answer(&self, rest: &str) -> String {
        format!(
            "GET {}?{rest}&state={} HTTP/1.1\r\nhost: x\r\n\r\n",
            self.path, self.state
        )
    }

    async fn sent(&self, request: &str) -> String {
        sent(([127, 0, 0, 1], self.port).into(), request).await
    }

    async fn heard(self) -> Result<SecretString, LoginTrouble> {
        timeout(SOON, self.hearing).await.unwrap().unwrap()
    }
}

/// What comes back for these octets.
async fn sent(to: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end, too.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn nobody_listens(port: u16) {
    for to in [
        SocketAddr::from(([127, 0, 0, 1], port)),
        ([0, 0, 0, 0, 0, 0, 0, 1], port).into(),
    ] {
        assert!(TcpStream::connect(to).await.is_err(), "{to} is still open");
    }
}

fn shown(heard: &Result<SecretString, LoginTrouble>) -> String {
    match heard {
        Ok(code) => code.expose_secret().to_owned(),
        Err(trouble) => trouble.to_string(),
    }
}

#[tokio::test]
async fn the_first_request_that_belongs_to_the_login_ends_it_at_either_address() {
    for (at, host, path) in [
        ([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], RedirectHost::V4, "/callback"),
        ([0, 0, 0, 0, 0, 0, 0, 1], RedirectHost::V6, "/a/b"),
        ([0, 0, 0, 0, 0, 0, 0, 1], RedirectHost::Localhost, ""),
    ] {
        let login = Login::begin(LoginSettings {
            redirect_host: Some(host),
            redirect_path: path.to_owned(),
            ..LoginSettings::default()
        })
        .await;
        assert_eq!(login.path, if path.is_empty() { "/" } else { path });
        let answer = sent((at, login.port).into(), &login.answer("code=c0de%2F1&scope=x")).await;
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        for header in [
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "content-security-policy: default-src 'none'",
            "content-type: text/html; charset=utf-8",
            "connection: close",
        ] {
            assert!(head.contains(header), "{header} is missing in {head}");
        }
        assert!(page.contains("can be closed"), "{page}");
        for foreign in ["http", "src=", "<script", "<link", "c0de", &login.state] {
            assert!(!page.contains(foreign), "{foreign} in {page}");
        }
        let port = login.port;
        assert_eq!(shown(&login.heard().await), "c0de/1");
        nobody_listens(port).await;
    }
}

#[tokio::test]
async fn a_refusal_ends_it_and_is_told_apart_from_an_error() {
    let table = [
        ("error=access_denied", "the user said no", "Login refused"),
        (
            "error=server_error&error_description=SECRET",
            "the provider refused: the redirect brought error server_error",
            "Login failed",
        ),
        (
            "x=y",
            "the answer does not belong to this login: there is no code in it",
            "Login failed",
        ),
    ];
    for (query, want, page) in table {
        let login = Login::begin(LoginSettings::default()).await;
        let answer = login.sent(&login.answer(query)).await;
        assert!(answer.contains(page) && answer.contains("can be closed"), "{answer}");
        assert_eq!(shown(&login.heard().await), want);
    }
}

#[tokio::test]
async fn whatever_else_comes_gets_404_and_changes_nothing() {
    let login = Login::begin(LoginSettings::default()).await;
    let state = &login.state;
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
    for request in [
        get("/favicon.ico"),
        get("/"),
        get(&format!("/?code=c&state={state}")),
        get("/callback"),
        get("/callback?code=c"),
        get("/callback?code=c&state="),
        get("/callback?code=c&state=wrong"),
        get(&format!("/callback?code=c&state={}", &state[1..])),
        get(&format!("/callback?code=c&state={state}x")),
        get(&format!("/callback?code=c&state={state}&state={state}")),
        get(&format!("/callback/?code=c&state={state}")),
        get(&format!("/Callback?code=c&state={state}")),
        get(&format!("/%63allback?code=c&state={state}")),
        get(&format!("//callback?code=c&state={state}")),
        format!("HEAD /callback?code=c&state={state} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("POST /callback?code=c&state={state} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"),
        format!("OPTIONS /callback?code=c&state={state} HTTP/1.1\r\nhost: x\r\n\r\n"),
    ] {
        let answer = login.sent(&request).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{request}: {answer}");
    }
    for junk in [
        "\x16\x03\x01\x02",
        "GET",
        "no HTTP\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", login.port)).await.unwrap();
        stream.write_all(junk.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer).contains(" 200 "), "{junk:?}");
    }
    let long = get(&format!("/callback?code={}&state={state}", "c".repeat(64 * 1024)));
    assert!(!login.sent(&long).await.contains(" 200 "));
    assert!(!login.hearing.is_finished());
    login.sent(&login.answer("code=c0de")).await;
    assert_eq!(shown(&login.heard().await), "c0de");
}

#[tokio::test]
async fn a_second_answer_is_a_replay() {
    let login = Login::begin(LoginSettings::default()).await;
    let (first, second) = (login.answer("code=first"), login.answer("code=second"));
    let to = SocketAddr::from(([127, 0, 0, 1], login.port));
    // Both have been accepted before either is complete.
    let mut streams = [
        TcpStream::connect(to).await.unwrap(),
        TcpStream::connect(to).await.unwrap(),
    ];
    for (stream, request) in streams.iter_mut().zip([&first, &second]) {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    let mut pages = [String::new(), String::new()];
    for (stream, page) in streams.iter_mut().zip(&mut pages) {
        let _ = stream.read_to_string(page).await;
    }
    let code = shown(&login.heard().await);
    assert_eq!(
        pages.iter().filter(|page| page.contains(" 200 OK")).count(),
        1,
        "{pages:?}"
    );
    assert_eq!(pages[0].contains(" 200 OK"), code == "first");
    nobody_listens(to.port()).await;
}

#[tokio::test]
async fn forty_connections_that_say_nothing_only_delay_the_one_that_does() {
    let login = Login::begin(LoginSettings::default()).await;
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(("127.0.0.1", login.port)).await.unwrap());
    }
    let answer = timeout(Duration::from_secs(15), login.sent(&login.answer("code=c0de")))
        .await
        .unwrap();
    let took = began.elapsed();
    assert!(answer.contains(" 200 OK"), "{answer}");
    // Behind 32 that were there first, until their five seconds were over.
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(9),
        "{took:?}"
    );
    assert_eq!(shown(&login.heard().await), "c0de");
    for mut stream in silent {
        let mut rest = Vec::new();
        let closed = timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok() && rest.is_empty(), "a connection was left open");
    }
}

#[tokio::test]
async fn a_request_that_trickles_is_cut_off_after_five_seconds() {
    let login = Login::begin(LoginSettings::default()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", login.port)).await.unwrap();
    let began = Instant::now();
    let request = login.answer("code=slow");
    let mut octets = request.bytes();
    let cut = loop {
        let octet = octets.next().unwrap();
        if stream.write_all(&[octet]).await.is_err() {
            break began.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(began.elapsed() < Duration::from_secs(9), "it was not cut off");
    };
    assert!(cut > Duration::from_secs(4), "{cut:?}");
    assert!(!login.hearing.is_finished());
    // Meanwhile and afterwards others are heard.
    login.sent(&login.answer("code=c0de")).await;
    assert_eq!(shown(&login.heard().await), "c0de");
}

#[tokio::test]
async fn dropping_it_before_during_and_after_closes_every_socket() {
    let (authorization, ear) = listening(LoginSettings::default()).await.unwrap();
    let uri: http::Uri = authorization.redirect_uri.parse().unwrap();
    drop(ear);
    nobody_listens(uri.port_u16().unwrap()).await;

    let login = Login::begin(LoginSettings::default()).await;
    let mut open = TcpStream::connect(("127.0.0.1", login.port)).await.unwrap();
    open.write_all(b"GET /callback").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    login.hearing.abort();
    assert!(login.hearing.await.unwrap_err().is_cancelled());
    nobody_listens(login.port).await;
    let mut rest = Vec::new();
    assert!(timeout(SOON, open.read_to_end(&mut rest)).await.is_ok());
    // The port is free for the next one.
    let again = Login::begin(LoginSettings {
        redirect_ports: vec![login.port],
        ..LoginSettings::default()
    });
    assert_eq!(again.await.port, login.port);
}

/// Ports that nobody has at this moment, and that the system gives to nobody who asks for any.
pub(crate) fn free_ports<const MANY: usize>() -> [u16; MANY] {
    let mut ports = BTreeSet::new();
    while ports.len() < MANY {
        let port = rand::random_range(20_000..32_000);
        let free = |address| std::net::TcpListener::bind((address, port)).is_ok();
        if free("127.0.0.1") && free("::1") {
            ports.insert(port);
        }
    }
    let ports: Vec<_> = ports.into_iter().collect();
    ports.try_into().unwrap()
}

#[tokio::test]
async fn busy_ports_are_passed_over_in_order_and_one_address_is_enough_to_be_busy() {
    let [first, second, third] = free_ports();
    let ports = || LoginSettings {
        redirect_ports: vec![first, second, third],
        redirect_host: Some(RedirectHost::Localhost),
        ..LoginSettings::default()
    };
    let taken = async |address: &str, port: u16| TcpListener::bind((address, port)).await.unwrap();
    let one = taken("127.0.0.1", first).await;
    let two = taken("::1", second).await;
    let (authorization, ear) = listening(ports()).await.unwrap();
    assert_eq!(authorization.redirect_uri, format!("http://localhost:{third}/callback"));
    assert!(authorization.state_required);
    let Err(LoginTrouble::CannotListen(tried)) = listening(ports()).await else {
        panic!("all three were taken");
    };
    assert_eq!(
        tried,
        format!("port {first}, {second}, {third} (redirect_ports), taken by others")
    );
    // Nothing is left of what was tried at the other address.
    taken("::1", first).await;
    taken("127.0.0.1", second).await;
    drop((one, two, ear));
    let (authorization, _ear) = listening(ports()).await.unwrap();
    assert_eq!(authorization.redirect_uri, format!("http://localhost:{first}/callback"));
}

/// Whether this system lets the tests have a network of their own; many containers do not. Where it has to, `.ci/run` says
/// so.
#[expect(clippy::disallowed_methods, reason = "a word from .ci/run to the tests")]
fn network_namespaces() -> bool {
    let can = Command::new("unshare")
        .args([NETWORK, &["true"]].concat())
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(
        can || std::env::var_os("INSIST_ON_EVERY_TEST").is_none(),
        "there are no network namespaces here"
    );
    can
}

const NETWORK: &[&str] = &["--user", "--map-root-user", "--net"];

/// What the test below runs in a network of its own.
const ALONE: &str = "loopback::in_a_network_that_the_other_test_made";

#[tokio::test]
#[ignore = "it is run by the test below, in a network of its own"]
async fn in_a_network_that_the_other_test_made() {
    assert!(TcpListener::bind("127.0.0.1:0").await.is_err(), "there is IPv4");
    let login = Login::begin(LoginSettings::default()).await;
    let (authorization, _ear) = listening(LoginSettings::default()).await.unwrap();
    assert!(
        authorization.redirect_uri.starts_with("http://[::1]:"),
        "{}",
        authorization.redirect_uri
    );
    let to = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], login.port));
    assert!(sent(to, &login.answer("code=c0de")).await.contains(" 200 OK"));
    assert_eq!(shown(&login.heard().await), "c0de");
    let refused = listening(LoginSettings {
        redirect_host: Some(RedirectHost::V4),
        ..LoginSettings::default()
    });
    let Err(LoginTrouble::CannotListen(tried)) = refused.await else {
        panic!("there is no 127.0.0.1");
    };
    assert_eq!(tried, "127.0.0.1 is no address of this host");
    println!("heard over IPv6 alone");
}

#[tokio::test]
async fn where_only_ipv6_has_a_loopback_that_one_is_used() {
    if !network_namespaces() {
        return;
    }
    let test = std::env::current_exe().unwrap();
    let script = "ip link set lo up && ip -4 address flush dev lo && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(NETWORK)
        .args(["sh", "-c", script])
        .arg(test)
        .args([ALONE, "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("heard over IPv6 alone"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
