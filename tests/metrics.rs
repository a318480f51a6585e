//! Metrics of a real broker, over TCP and over a Unix socket: that they are well-formed, that they are true, and that
//! there is nothing else behind that door.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use command::{Host, PATIENCE, Serve, wait_until};
use credbroker::server::metrics::{FAMILIES, Kind, METHODS};
use rustix::process::Signal;

/// An answer: its status, its header and its body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn ask(mut stream: impl Read + Write, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

fn get(stream: impl Read + Write, path: &str) -> Answer {
    ask(stream, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

/// Every sample by its name and labels as they are written, after a look at the form: HELP, TYPE, samples of that
/// family, EOF.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let mut lines = text.lines().peekable();
    for family in FAMILIES {
        let (stem, suffix) = match family.kind {
            Kind::Counter => (family.name.strip_suffix("_total").unwrap(), "_total"),
            Kind::Info => (family.name.strip_suffix("_info").unwrap(), "_info"),
            Kind::Gauge => (family.name, ""),
        };
        let help = format!("# HELP {stem} {}", family.meaning);
        assert!(lines.next().unwrap().starts_with(&help), "{stem}");
        let kind = format!("# TYPE {stem} {}", family.kind.as_str());
        assert_eq!(lines.next().unwrap(), kind);
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let labels = match name.split_once('{') {
                None => Vec::new(),
                Some((_, labels)) => {
                    let labels = labels.strip_suffix('}').unwrap().split(',');
                    labels
                        .map(|label| {
                            let (label, value) = label.split_once("=\"").unwrap();
                            let value = value.strip_suffix('"').unwrap();
                            assert!(!value.contains(['"', '\\']), "{line}");
                            label
                        })
                        .collect()
                }
            };
            assert_eq!(labels, family.labels, "{line}");
            assert_eq!(name.split('{').next().unwrap(), format!("{stem}{suffix}"));
            let value: f64 = value.parse().unwrap();
            assert!(found.insert(name.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    assert_eq!(lines.next(), Some("# EOF"));
    assert_eq!(lines.next(), None);
    found
}

/// A broker that shows its metrics at a Unix socket.
struct Shown {
    host: Host,
    serve: Serve,
    path: PathBuf,
}

impl Shown {
    fn start(flags: &[&str]) -> Self {
        Self::on(Host::with_entry(), flags)
    }

    fn on(host: Host, flags: &[&str]) -> Self {
        let path = host.path("run/metrics.sock");
        let config = host.path("config/credbroker/config.toml");
        let mut text = fs::read_to_string(config).unwrap_or_default();
        text += &format!("[metrics]\nlisten = \"{}\"\n", path.display());
        host.write("config/credbroker/config.toml", &text);
        let serve = Serve::start(&host, flags);
        Self { host, serve, path }
    }

    fn get(&self, path: &str) -> Answer {
        get(UnixStream::connect(&self.path).unwrap(), path)
    }

    fn samples(&self) -> BTreeMap<String, f64> {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.head);
        samples(&answer.body)
    }

    /// The samples, when this one is so: an answer may be a second old.
    fn when(&self, name: &str, value: f64) -> BTreeMap<String, f64> {
        let mut seen = BTreeMap::new();
        wait_until(&format!("{name} is {value}"), || {
            seen = self.samples();
            seen.get(name) == Some(&value)
        });
        seen
    }
}

#[test]
fn what_is_shown_is_what_happened() {
    let shown = Shown::start(&["--allow", "p", "--allow-key", "k"]);
    let requests =
        |method: &str, reason: &str| format!("credbroker_requests_total{{method=\"{method}\",reason=\"{reason}\"}}");
    let first = shown.samples();
    assert_eq!(first["credbroker_healthy"], 1.0);
    assert_eq!(first["credbroker_connections"], 0.0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(first[&format!("credbroker_build_info{{version=\"{version}\"}}")], 1.0);
    for method in METHODS
        .iter()
        .chain(&["FetchSecrets", "StreamSecrets", "health", "reflection", "other"])
    {
        assert_eq!(first[&requests(method, "OK")], 0.0);
    }
    let started = first["process_start_time_seconds"];
    assert!(started > 1.7e9, "{started}");
    let left = first["credbroker_entry_expires_in_seconds{provider=\"p\",bucket=\"default\"}"];
    assert!((3500.0..=3600.0).contains(&left), "{left}");
    assert_eq!(first["credbroker_entries{state=\"ok\"}"], 1.0);
    assert_eq!(first["credbroker_entries_left_out"], 0.0);

    let ask = |arguments: &[&str]| shown.serve.ask(&shown.host, arguments);
    for _ in 0..3 {
        ask(&["token", "get", "p"]).succeeded();
    }
    ask(&["key", "get", "k"]).succeeded();
    ask(&["token", "get", "q"]).failed(77);
    let seen = shown.when(&requests("GetToken", "UNAUTHORIZED"), 1.0);
    assert_eq!(seen[&requests("GetToken", "OK")], 3.0);
    assert_eq!(seen[&requests("GetApiKey", "OK")], 1.0);
    // The client's handshake, with each command.
    assert_eq!(seen[&requests("GetServerInfo", "OK")], 5.0);
    assert_eq!(seen["credbroker_audit_lines_lost_total"], 0.0);
    assert_eq!(seen["process_start_time_seconds"], started);
    assert!(seen.keys().all(|name| !name.contains("CANCELLED")), "{seen:?}");

    // A store that cannot be read.
    let identity = shown.host.store().join("identity.txt");
    fs::rename(&identity, shown.host.path("away")).unwrap();
    let locked = shown.when("credbroker_healthy", 0.0);
    assert!(
        locked
            .keys()
            .any(|name| name.starts_with("credbroker_store_errors_total{operation=\"open\"")),
        "{locked:?}"
    );
    fs::rename(shown.host.path("away"), &identity).unwrap();
    shown.when("credbroker_healthy", 1.0);
    assert_eq!(shown.serve.end_by(Signal::TERM), 0);
}

#[test]
fn calls_of_every_kind_are_counted_by_what_they_ended_with() {
    use credbroker::proto::{self, credential_broker_client::CredentialBrokerClient};
    use hyper_util::rt::TokioIo;
    use tonic::{client::Grpc, transport::Endpoint};
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_prost::ProstCodec;

    let shown = Shown::start(&[]);
    let socket = shown.serve.socket.clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let watching = runtime.block_on(async {
        let connect = tower::service_fn(move |_| {
            let path = socket.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connect)
            .await
            .unwrap();
        let mut health = HealthClient::new(channel.clone());
        health.check(HealthCheckRequest::default()).await.unwrap();
        let watch = |mut health: HealthClient<_>| async move {
            let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
            watch.message().await.unwrap().unwrap();
            watch
        };
        let gone = watch(health.clone()).await;
        let stays = watch(health).await;
        drop(gone);
        let follow = proto::WatchTokenRequest {
            provider: "p".to_owned(),
            bucket: String::new(),
        };
        let mut follows = CredentialBrokerClient::new(channel.clone())
            .watch_token(follow)
            .await
            .unwrap()
            .into_inner();
        follows.message().await.unwrap().unwrap();
        let mut grpc = Grpc::new(channel.clone());
        for path in ["/credbroker.v1.CredentialBroker/NoSuchMethod", "/secret.Service/Method"] {
            grpc.ready().await.unwrap();
            let codec: ProstCodec<(), ()> = ProstCodec::default();
            let refused = grpc.unary(tonic::Request::new(()), path.parse().unwrap(), codec).await;
            assert_eq!(refused.unwrap_err().code(), tonic::Code::Unimplemented);
        }
        (stays, follows, channel)
    });
    let requests =
        |method: &str, reason: &str| format!("credbroker_requests_total{{method=\"{method}\",reason=\"{reason}\"}}");
    let seen = shown.when(&requests("health", "CANCELLED"), 1.0);
    assert_eq!(seen[&requests("health", "OK")], 1.0, "a stream counts when it ends");
    assert_eq!(seen[&requests("other", "UNIMPLEMENTED")], 2.0);
    assert_eq!(seen["credbroker_connections"], 1.0);
    assert_eq!(seen["credbroker_watches_open"], 1.0);
    assert!(seen.keys().all(|name| !name.contains("secret")), "{seen:?}");
    // Somebody who speaks another protocol makes no call.
    drop(watching);
    let seen = shown.when("credbroker_connections", 0.0);
    assert_eq!(seen["credbroker_watches_open"], 0.0);
    assert_eq!(seen[&requests("WatchToken", "CANCELLED")], 1.0);
}

#[test]
fn an_address_of_loopback_is_answered_and_nothing_else_behind_it() {
    let host = Host::with_entry();
    // Two that want the same port would see each other's error below; this one is free a moment later.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = format!("127.0.0.1:{port}");
    let mut command = host.command(&["--log-format", "json", "serve"]);
    command.env("CREDBROKER_METRICS_LISTEN", &at);
    let serve = Serve::from_command(command);
    let connect = || {
        let stream = TcpStream::connect(&at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let answer = get(connect(), "/metrics");
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{}",
        answer.head
    );
    assert!(samples(&answer.body).len() > 40);
    assert_eq!(get(connect(), "/metrics?debug=1").status, 200);
    for path in ["/", "/metrics/", "/Metrics", "/healthz", "//metrics"] {
        assert_eq!(get(connect(), path).status, 404, "{path}");
    }
    for method in ["POST", "HEAD", "PUT", "OPTIONS", "DELETE"] {
        let answer = ask(
            connect(),
            &format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        );
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("allow: get"), "{}", answer.head);
    }
    let rebound = ask(connect(), "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(rebound.status, 421);
    assert!(!rebound.body.contains("credbroker_"), "{}", rebound.body);
    let long = format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    // It may be told so or cut off while it still writes.
    let mut stream = connect();
    let mut told = String::new();
    let _ = stream
        .write_all(long.as_bytes())
        .and_then(|()| stream.read_to_string(&mut told).map(drop));
    assert!(!told.starts_with("HTTP/1.1 200"), "{told}");

    // The second broker finds the place taken, says so, and leaves nothing behind.
    let other = Host::new();
    let mut command = other.command(&["serve"]);
    command.env("CREDBROKER_METRICS_LISTEN", &at);
    command::Answer::of(command)
        .failed(69)
        .saying(&format!("metrics cannot be shown at {at}"))
        .saying("choose another metrics.listen");
    assert!(other.brokers().is_empty());
    assert_eq!(serve.end_by(Signal::TERM), 0);
    assert!(TcpStream::connect(&at).is_err());
}

#[test]
fn slow_and_many_clients_keep_nobody_out() {
    let shown = Shown::start(&[]);
    // Silent ones, more than there is room for.
    let silent: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(&shown.path).unwrap()).collect();
    let began = tokio::time::Instant::now();
    assert_eq!(shown.get("/metrics").status, 200);
    let waited = began.elapsed();
    // Less than any of them may take.
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    // They were cut, and got nothing but an answer that says why.
    for mut stream in silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut told = String::new();
        let _ = stream.read_to_string(&mut told);
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "{told}");
    }
    // The broker's own work is not touched by them.
    shown.serve.ask(&shown.host, &["token", "get", "p"]).succeeded();
}

#[test]
fn a_unix_socket_is_its_owners_and_goes_with_the_broker() {
    let shown = Shown::start(&[]);
    let mode = fs::symlink_metadata(&shown.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let Shown { host, serve, path } = shown;
    assert_eq!(serve.end_by(Signal::TERM), 0);
    assert!(!path.exists());
    assert!(host.brokers().is_empty());

    // One that is alive is left alone, and so is what is no socket; a dead one is replaced.
    let listener = UnixListener::bind(&path).unwrap();
    host.run(&["serve"])
        .failed(69)
        .saying("is already in use")
        .saying("metrics.listen");
    drop(listener);
    let serve = Serve::start(&host, &[]);
    assert_eq!(get(UnixStream::connect(&path).unwrap(), "/metrics").status, 200);
    assert_eq!(serve.end_by(Signal::TERM), 0);
    fs::write(&path, "mine").unwrap();
    host.run(&["serve"])
        .failed(78)
        .saying("is not a socket")
        .saying("metrics.listen");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");

    // Where others may write, nothing is bound.
    let open = host.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = host.command(&["serve"]);
    command.env("CREDBROKER_METRICS_LISTEN", open.join("m"));
    command::Answer::of(command).failed(78).saying("chmod go-w");
    assert!(!open.join("m").exists());
    assert!(host.brokers().is_empty());
}

#[test]
fn without_the_key_nothing_is_listened_at() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &[]);
    let listening = |pid: u32| {
        let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .filter_map(|link| {
                let link = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
                Some(link)
            })
            .collect();
        let tcp = ["tcp", "tcp6"].map(|file| fs::read_to_string(Path::new("/proc/net").join(file)).unwrap_or_default());
        tcp.iter()
            .flat_map(|table| table.lines())
            .filter(|line| {
                line.split_whitespace()
                    .nth(9)
                    .is_some_and(|inode| inodes.iter().any(|own| own == inode))
            })
            .count()
    };
    assert_eq!(listening(serve.pid()), 0);
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn a_thousand_entries_are_shown_by_name_and_the_rest_as_a_number() {
    let host = Host::new();
    host.import("p", r#"{"access_token":"a","expires_in":3600}"#);
    // What is in a record is bound to its name; one that is not that of its file is corrupt, and counts as such.
    let record = host.store().join("tokens/70/64656661756c74.age");
    for n in 0..1004 {
        let name = data_encoding::HEXLOWER.encode(format!("b{n:04}").as_bytes());
        fs::copy(&record, record.with_file_name(format!("{name}.age"))).unwrap();
    }
    let shown = Shown::on(host, &[]);
    let seen = shown.samples();
    assert_eq!(seen["credbroker_entries_left_out"], 5.0);
    assert_eq!(seen["credbroker_entries{state=\"corrupt\"}"], 1000.0);
    let named = seen
        .keys()
        .filter(|name| name.starts_with("credbroker_entry_expires"))
        .count();
    assert_eq!(named, 0);
    assert_eq!(shown.serve.end_by(Signal::TERM), 0);
}

/// The list in the code is closed; this is what keeps it true.
#[test]
fn every_method_of_the_protocol_has_a_row() {
    use prost::Message as _;
    let set = prost_types::FileDescriptorSet::decode(credbroker::proto::FILE_DESCRIPTOR_SET).unwrap();
    let methods: Vec<String> = set
        .file
        .iter()
        .filter(|file| file.package() == "credbroker.v1")
        .flat_map(|file| &file.service)
        .filter(|service| service.name() == "CredentialBroker")
        .flat_map(|service| &service.method)
        .map(|method| method.name().to_owned())
        .collect();
    assert!(methods.len() > 10);
    for method in methods {
        let known = METHODS.contains(&method.as_str());
        assert!(known, "put {method} into METHODS of src/server/metrics/calls.rs");
    }
}
