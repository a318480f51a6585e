//! TLS: who is trusted, and that a token goes to nobody else.
//!
//! The system's certificate authorities are read from where the environment says, so the client is a process of its own:
//! this test binary again.

use std::{
    env,
    ffi::OsStr,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use credbroker::{
    clock::SystemClock,
    oauth::{Http, HttpLimits, HttpProvider, Provider as _, Proxies},
};
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    LIMITS, REFRESH_TOKEN, seen,
    server::{Script, Server, answer, request},
    settings, word,
};

const ENDPOINT: &str = "CREDBROKER_TEST_ENDPOINT";
const PROXY: &str = "CREDBROKER_TEST_PROXY";
/// What becomes of the trusted authorities after they were read.
const REPLACED_BY: &str = "CREDBROKER_TEST_REPLACED_BY";

/// What the process under test does: one refresh, and prints what became of it.
#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "how the test binary tells its child what to do"
)]
async fn child_that_refreshes() {
    let Ok(url) = env::var(ENDPOINT) else { return };
    let proxies = Proxies {
        https: env::var(PROXY).ok(),
        except: None,
    };
    let limits = HttpLimits {
        connect: Duration::from_secs(3),
        ..LIMITS
    };
    let http = Arc::new(Http::new(limits, &proxies));
    if let Ok(other) = env::var(REPLACED_BY) {
        http.read_authorities();
        std::fs::copy(other, env::var("SSL_CERT_FILE").unwrap()).unwrap();
    }
    let provider = HttpProvider::new(settings(&url), http, Arc::new(SystemClock::new()));
    let outcome = provider.refresh(&REFRESH_TOKEN.into()).await;
    println!("OUTCOME: {}: {}.", word(&outcome), seen(&outcome));
}

/// The outcome of a refresh at this endpoint in a process that trusts these authorities.
async fn outcome(url: &str, trusted: &Path, proxy: Option<&str>) -> String {
    outcome_with(url, trusted, proxy.map(|proxy| (PROXY, proxy.as_ref()))).await
}

async fn outcome_with(url: &str, trusted: &Path, variable: Option<(&str, &OsStr)>) -> String {
    let child = Command::new(env::current_exe().unwrap())
        .envs(variable)
        .args(["--exact", "tls::child_that_refreshes", "--nocapture"])
        .env(ENDPOINT, url)
        .env("SSL_CERT_FILE", trusted)
        .env_remove("SSL_CERT_DIR")
        // What the environment says about proxies is read elsewhere; whoever asked it here would get nowhere.
        .envs(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].map(|name| (name, "http://127.0.0.1:1")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let said = String::from_utf8(ended.await.unwrap().stdout).unwrap();
    let (_, outcome) = said.split_once("OUTCOME: ").unwrap_or_else(|| panic!("{said}"));
    outcome.lines().next().unwrap().to_owned()
}

struct TlsServer {
    address: SocketAddr,
    /// What came in after the handshake, and the protocol that was agreed on.
    requests: Arc<Mutex<Vec<Asked>>>,
}

/// A request, and the protocol that was agreed on for it.
type Asked = (String, Option<Vec<u8>>);

impl TlsServer {
    fn start(certificate: &Certificate, key: &KeyPair) -> Self {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut tls) = TlsAcceptor::from(Arc::new(config.clone())).accept(stream).await else {
                    continue;
                };
                let mut part = [0; 4096];
                let count = tls.read(&mut part).await.unwrap_or_default();
                let text = String::from_utf8_lossy(&part[..count]).into_owned();
                let protocol = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                seen.lock().unwrap().push((text, protocol));
                let bytes = answer("200 OK", "", r#"{"access_token":"a"}"#);
                drop(tls.write_all(&bytes).await);
                drop(tls.flush().await);
            }
        });
        Self { address, requests }
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_goes_to_nobody_but_whom_a_trusted_authority_vouches_for() {
    let directory = tempfile::tempdir().unwrap();
    let ours = authority("canary-authority-name");
    let trusted = directory.path().join("trusted.pem");
    std::fs::write(&trusted, ours.pem()).unwrap();
    let other = directory.path().join("other.pem");
    std::fs::write(&other, authority("another").pem()).unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();

    let valid =
        |names: &[&str]| CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    let mut expired = valid(&["localhost"]);
    expired.not_before = date_time_ymd(2000, 1, 1);
    expired.not_after = date_time_ymd(2001, 1, 1);
    let mut early = valid(&["localhost"]);
    early.not_before = date_time_ymd(3000, 1, 1);
    early.not_after = date_time_ymd(3001, 1, 1);

    let table = [
        ("answered: ", valid(&["localhost"]), &trusted),
        (
            "not processed: TLS: the certificate is from an unknown authority.",
            valid(&["localhost"]),
            &other,
        ),
        (
            "not processed: certificate authorities: this system has none that can be used.",
            valid(&["localhost"]),
            &empty,
        ),
        ("not processed: TLS: the certificate has expired.", expired, &trusted),
        ("not processed: TLS: the certificate is not valid yet.", early, &trusted),
        (
            "not processed: TLS: the certificate is for another host.",
            valid(&["canary-other-name.example"]),
            &trusted,
        ),
    ];
    for (want, params, trusted) in table {
        let key = KeyPair::generate().unwrap();
        let server = TlsServer::start(&params.signed_by(&key, &ours).unwrap(), &key);
        let found = outcome(
            &format!("https://localhost:{}/token", server.address.port()),
            trusted,
            None,
        )
        .await;
        assert!(found.starts_with(want), "{want}: {found}");
        let requests = server.requests.lock().unwrap();
        if want.starts_with("answered") {
            let (text, protocol) = &requests[0];
            assert!(text.contains(REFRESH_TOKEN), "{text}");
            assert_eq!(protocol.as_deref(), Some(&b"http/1.1"[..]));
        } else {
            assert!(requests.iter().all(|(text, _)| !text.contains(REFRESH_TOKEN)), "{want}");
            // Not a word of the other side's.
            assert!(!found.contains("canary"), "{found}");
        }
    }
}

#[tokio::test]
async fn an_authority_that_is_added_after_they_were_read_vouches_for_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, other) = (authority("ours"), authority("another"));
    let [trusted, others] = ["trusted.pem", "other.pem"].map(|name| directory.path().join(name));
    std::fs::write(&others, other.pem()).unwrap();
    for (signer, want) in [
        (&ours, "answered: "),
        (
            &other,
            "not processed: TLS: the certificate is from an unknown authority.",
        ),
    ] {
        std::fs::write(&trusted, ours.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let server = TlsServer::start(&params.signed_by(&key, signer).unwrap(), &key);
        let url = format!("https://localhost:{}/token", server.address.port());
        let found = outcome_with(&url, &trusted, Some((REPLACED_BY, others.as_os_str()))).await;
        assert!(found.starts_with(want), "{want}: {found}");
        assert_eq!(std::fs::read(&trusted).unwrap(), std::fs::read(&others).unwrap());
    }
}

#[tokio::test]
async fn a_handshake_that_fails_is_told_as_one() {
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("trusted.pem");
    std::fs::write(&trusted, authority("an authority").pem()).unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_address = plain.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(&answer("400 Bad Request", "", "")).await.unwrap();
        request(&mut stream).await
    });
    let gone = Server::start(vec![Script::CloseUnread]);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (want, address) in [
        ("no answer within the time limit", silent.local_addr().unwrap()),
        ("the other side does not speak TLS", plain_address),
        ("", gone.address),
    ] {
        let found = outcome(&format!("https://{address}/token"), &trusted, None).await;
        assert!(
            found.starts_with(&format!("not processed: TLS: {want}")),
            "{want}: {found}"
        );
    }
    assert!(!asked.await.unwrap().contains(REFRESH_TOKEN));
}

#[tokio::test]
async fn through_a_proxy_the_request_is_inside_tls() {
    let directory = tempfile::tempdir().unwrap();
    let ours = authority("canary-authority-name");
    let trusted = directory.path().join("trusted.pem");
    std::fs::write(&trusted, ours.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["provider.example".to_owned()]).unwrap();
    let server = TlsServer::start(&params.signed_by(&key, &ours).unwrap(), &key);

    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let behind = server.address;
    let tunnel = tokio::spawn(async move {
        let (mut near, _) = proxy.accept().await.unwrap();
        let asked = request(&mut near).await;
        near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await
            .unwrap();
        let mut far = TcpStream::connect(behind).await.unwrap();
        // It ends when the client has what it came for.
        drop(copy_bidirectional(&mut near, &mut far).await);
        asked
    });
    let found = outcome("https://provider.example/token", &trusted, Some(&url)).await;
    assert!(found.starts_with("answered: "), "{found}");
    assert!(
        tunnel
            .await
            .unwrap()
            .starts_with("CONNECT provider.example:443 HTTP/1.1\r\n")
    );
    assert!(
        server.requests.lock().unwrap()[0]
            .0
            .contains("\r\nhost: provider.example\r\n")
    );
}
