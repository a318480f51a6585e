//! The real binary, asked everything that it can be asked, with everything that it says and leaves collected.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

use credbroker::proto;
use http::Method;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use rustix::process::Signal;

use crate::{
    command::{Answer, BIN, Host, Running, wait_until},
    scanner::Scanner,
    wire::{Wire, frame},
};

const REFRESH: &str = "rt-canary-\"p\\~-3f9b1d7c5e2a";
const ACCESS: &str = "at-canary-p-6e0c8a2b4d1f";
const SAVED: &str = "at-canary-saved-9a7c5e3b1d0f";
const OTHER_REFRESH: &str = "rt-canary-q-1c4e7a0d3f6b";
const OTHER_ACCESS: &str = "at-canary-q-7b2d5f8a1c4e";
const EXPIRED_REFRESH: &str = "rt-canary-x-0d9c8b7a6f5e";
const KEY: &str = "key-canary-k-4b6d8f0a2c1e";
const OTHER_KEY: &str = "key-canary-other-8f1e3d5c7b9a";
const CLIENT_SECRET: &str = "client-canary-2a4c6e8f0b1d";
const CAPABILITY: &str = "c4a7e19b03d852f66e20b7d94f1a83c5907be4d21c6f5a38e9b04d7f62a1c85e";
const WRONG_CAPABILITY: &str = "0f3b95c7d1e8426aa5709c3e1f6db824d7e90c5b3a1f8264e0b9d7c5a3f18642";
const STOLEN: &str = "cap-canary-of-outer-5e7a9c1b3d";

/// What nobody but the host's store may ever show.
const HOST_ONLY: [(&str, &str); 8] = [
    ("a refresh token", REFRESH),
    ("another entry's refresh token", OTHER_REFRESH),
    ("another entry's access token", OTHER_ACCESS),
    ("an expired entry's refresh token", EXPIRED_REFRESH),
    ("another sandbox's API key", OTHER_KEY),
    ("a client secret", CLIENT_SECRET),
    ("the capability", CAPABILITY),
    ("a wrong capability", WRONG_CAPABILITY),
];
/// What a sandbox may be answered, and no record may say.
const SANDBOXS_OWN: [(&str, &str); 3] = [
    ("an access token", ACCESS),
    ("a saved access token", SAVED),
    ("an API key", KEY),
];

struct World {
    host: Host,
    identity: String,
    capability_file: String,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        host.write(
            "config/credbroker/config.toml",
            "[providers.p]\nclient_id = 'c'\ntoken_endpoint = 'https://localhost:1/token'\n\
             client_secret_env = 'P_CLIENT_SECRET'\nextra_fields = ['echo', 'note']\n",
        );
        let entry = |provider: &str, access: &str, refresh: &str, expires_in: i32| {
            let json = serde_json::json!({
                "access_token": access, "refresh_token": refresh, "expires_in": expires_in,
                "echo": refresh, "note": "a note",
            });
            host.import(provider, &json.to_string());
        };
        entry("p", ACCESS, REFRESH, 3600);
        entry("q", OTHER_ACCESS, OTHER_REFRESH, 3600);
        entry("x", OTHER_ACCESS, EXPIRED_REFRESH, 0);
        entry("c", OTHER_ACCESS, OTHER_REFRESH, 3600);
        host.run_with(&["key", "set", "k"], KEY.as_bytes()).succeeded();
        host.run_with(&["key", "set", "other"], OTHER_KEY.as_bytes())
            .succeeded();
        let file = |provider: &str| {
            let hex = data_encoding::HEXLOWER.encode(provider.as_bytes());
            host.store().join(format!("tokens/{hex}/64656661756c74.age"))
        };
        // It decrypts, and is another entry's.
        fs::copy(file("q"), file("c")).unwrap();
        let identity = fs::read_to_string(host.store().join("identity.txt")).unwrap();
        let identity = identity.lines().last().unwrap().to_owned();
        assert!(identity.starts_with("AGE-SECRET-KEY-1"));
        let capability_file = host.write("input/capability", CAPABILITY);
        Self {
            host,
            identity,
            capability_file,
        }
    }

    fn never_leaves(&self) -> Scanner {
        let mut scanner = Scanner::new(HOST_ONLY);
        scanner.add("the identity", self.identity.as_bytes());
        for (name, hex) in [
            ("the capability's bytes", CAPABILITY),
            ("a wrong one's bytes", WRONG_CAPABILITY),
        ] {
            scanner.add(name, &data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap());
        }
        scanner
    }

    /// For logs, records and the disk.
    fn never_recorded(&self) -> Scanner {
        let mut scanner = self.never_leaves();
        for (name, secret) in SANDBOXS_OWN {
            scanner.add(name, secret.as_bytes());
        }
        scanner
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(arguments);
        command
            .env("RUST_LOG", "trace")
            .env("RUST_BACKTRACE", "full")
            .env("P_CLIENT_SECRET", CLIENT_SECRET);
        command
    }
}

/// A `serve` that logs everything it can into a file.
struct Broker {
    child: Running,
    socket: PathBuf,
    log: PathBuf,
}

impl Broker {
    fn start(world: &World, format: &str) -> Self {
        let log = world.host.path(&format!("input/log-{format}"));
        let mut command = world.command(&["--log-format", format, "serve", "--capability-file"]);
        command
            .arg(&world.capability_file)
            .args(["--allow", "p", "--allow", "x", "--allow", "c", "--allow", "absent"])
            .env("CREDBROKER_METRICS_LISTEN", world.host.path("run/metrics.sock"))
            .args(["--allow-key", "k", "--allow-save", "p", "--allow-remove", "absent"])
            .stderr(fs::File::create(&log).unwrap());
        let child = Running::start(command);
        let socket = world.host.path("run/credbroker/daemon/sandbox/sock");
        wait_until("it serves", || UnixStream::connect(&socket).is_ok());
        Self { child, socket, log }
    }

    fn control(&self) -> PathBuf {
        self.socket.ancestors().nth(2).unwrap().join("control.sock")
    }
}

/// The methods whose answers go on until the client's deadline.
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const WATCH_TOKEN: &str = "/credbroker.v1.CredentialBroker/WatchToken";

/// Every method of every service, from the descriptors that reflection serves, and those of the companions.
fn methods() -> Vec<String> {
    let set = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut all: Vec<String> = set
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(move |service| (file, service)))
        .flat_map(|(file, service)| {
            let methods = service.method.iter();
            methods.map(move |method| format!("/{}.{}/{}", file.package(), service.name(), method.name()))
        })
        .collect();
    assert!(all.len() >= 10, "{all:?}");
    all.extend(
        [
            "/grpc.health.v1.Health/Check",
            WATCH,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/credbroker.v1.CredentialBroker/Nothing",
        ]
        .map(str::to_owned),
    );
    all
}

fn strings(fields: &[&str]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, text) in (1_u8..).zip(fields) {
        message.extend([number << 3 | 2, u8::try_from(text.len()).unwrap()]);
        message.extend(text.as_bytes());
    }
    message
}

fn save(access_token: &str, scope: &str) -> Vec<u8> {
    proto::SaveTokenRequest {
        provider: "p".into(),
        token: Some(proto::AccessToken {
            access_token: access_token.into(),
            scope: scope.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec()
}

/// Everything that a sandbox with some imagination sends; every octet that it gets back.
async fn converse(socket: &Path) -> Vec<u8> {
    let mut octets = Vec::new();
    let wire = Wire::connect(socket).await;
    let good = format!("Bearer {CAPABILITY}");
    let wrong = format!("Bearer {WRONG_CAPABILITY}");
    let basic = format!("Basic {CAPABILITY}");
    let headers: [&[(&str, &str)]; 8] = [
        &[("authorization", &good)],
        &[],
        &[("authorization", &wrong)],
        &[("authorization", &basic)],
        &[("authorization", CAPABILITY)],
        &[("authorization", &good), ("authorization", &wrong)],
        &[("authorization", &good), ("grpc-timeout", "0n")],
        &[
            ("authorization", &good),
            ("grpc-encoding", CAPABILITY),
            ("x-token", WRONG_CAPABILITY),
        ],
    ];
    let mut bodies: Vec<_> = ["p", "q", "c", "x", "absent", "k", "other", "../p", ""]
        .iter()
        .map(|name| frame(&strings(&[name])))
        .collect();
    bodies.extend([
        frame(&strings(&["p", "absent"])),
        frame(b"\xff\xff\xff"),
        b"\x01\x00\x00\x00\x02hi".to_vec().into(),
        b"\x00\x00\x00".to_vec().into(),
    ]);
    for method in methods() {
        for (number, headers) in headers.iter().enumerate() {
            // Who is sent away at the door is sent away whatever he brings.
            let bodies = if number == 0 { &bodies[..] } else { &bodies[..1] };
            let deadline: &[_] = if [WATCH, WATCH_TOKEN].contains(&method.as_str()) {
                &[("grpc-timeout", "100m")]
            } else {
                &[]
            };
            let headers = [headers, deadline].concat();
            for body in bodies {
                octets.extend(wire.call_with(&method, &headers, body.clone()).await.octets());
            }
        }
    }
    let good: &[(&str, &str)] = headers[0];
    let long = "x".repeat(70_000);
    for body in [
        save("", ""),
        save("a\nb", ""),
        save(SAVED, "a\u{1b}b"),
        save(&long, ""),
        save(SAVED, "s"),
    ] {
        octets.extend(wire.call_with("SaveToken", good, frame(&body)).await.octets());
    }
    octets.extend(wire.call_with("GetToken", good, frame(&strings(&["p"]))).await.octets());
    // No gRPC at all, a head that is too large, and a call that is given up half way.
    let plain = wire.http(Method::GET, "/", &[("authorization", CAPABILITY)], Vec::new().into());
    octets.extend(plain.await.octets());
    let many = [("authorization", good[0].1), ("x-long", &long[..20_000])];
    octets.extend(
        wire.call_with("GetToken", &many, frame(&strings(&["p"])))
            .await
            .octets(),
    );
    let mut given_up = wire.begin("GetToken").await;
    given_up.body.send_data(vec![0, 0].into(), false).unwrap();
    drop(given_up);
    octets
}

/// Bytes that are no valid HTTP/2, with a capability among them.
fn break_the_protocol(socket: &Path) {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let header = |name: &str| {
        let mut block = vec![0x83, 0x86, 0x84, 0x00, u8::try_from(name.len()).unwrap()];
        block.extend(name.as_bytes());
        block.push(u8::try_from(CAPABILITY.len()).unwrap());
        block.extend(CAPABILITY.as_bytes());
        let mut head = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1];
        head.extend(block);
        head
    };
    let garbage: [Vec<u8>; 5] = [
        [&preface[..], &header("Authorization")].concat(),
        [&preface[..], &header(":path")].concat(),
        [&preface[..], &header(":authority")].concat(),
        [&preface[..], &header("connection")].concat(),
        [
            &b"GET / HTTP/1.1\r\nauthorization: "[..],
            CAPABILITY.as_bytes(),
            b"\r\n\r\n",
        ]
        .concat(),
    ];
    for bytes in garbage {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // To its end: then the broker has judged it. A reset is as good an end.
        drop(std::io::copy(&mut stream, &mut std::io::sink()));
    }
}

/// Every file and name below a directory.
pub(crate) fn everything_below(directory: &Path, skip: &[&Path]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if skip.iter().any(|skipped| path.ends_with(skipped)) {
            continue;
        }
        if path.is_dir() {
            found.extend(everything_below(&path, skip));
        } else if path.is_file() {
            let content = fs::read(&path).unwrap();
            found.push((path, content));
        }
    }
    found
}

/// What a scrape gets, header and all.
fn metrics(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn everything_said(answer: &Answer) -> String {
    format!("{}\n{}", answer.out, answer.err)
}

#[tokio::test]
async fn no_secret_is_in_an_answer_a_log_a_record_or_a_file() {
    let world = World::new();
    let outside = world.never_leaves();
    let recorded = world.never_recorded();
    for format in ["json", "human"] {
        let broker = Broker::start(&world, format);
        let said = converse(&broker.socket).await;
        outside.assert_clean("an answer on the sandbox's socket", &said);
        let said = String::from_utf8_lossy(&said).into_owned();
        // Or nothing was looked for.
        for own in [SAVED, KEY, "a note"] {
            assert!(said.contains(own), "{own} was not served");
        }
        let said = converse(&broker.control()).await;
        recorded.assert_clean("an answer on the control socket", said);
        break_the_protocol(&broker.socket);
        let metrics = metrics(&world.host.path("run/metrics.sock"));
        for counted in [
            "GetToken\",reason=\"OK",
            "other\",reason=\"UNIMPLEMENTED",
            "provider=\"p\"",
        ] {
            assert!(metrics.contains(counted), "{counted} was not counted: {metrics}");
        }
        recorded.assert_clean("the metrics", metrics);
        for arguments in [
            &["status"][..],
            &["status", "--json"],
            &["providers"],
            &["token", "list"],
            &["key", "list"],
        ] {
            let answer = Answer::of(world.command(arguments)).succeeded();
            recorded.assert_clean(&arguments.join(" "), everything_said(&answer));
        }
        let of_process = |file: &str| fs::read(format!("/proc/{}/{file}", broker.child.pid())).unwrap();
        recorded.assert_clean("the broker's arguments", of_process("cmdline"));
        // In a sandbox, with everything logged there as well.
        for arguments in [
            &["token", "get", "p", "--json"][..],
            &["token", "get", "q"],
            &["key", "get", "k"],
            &["status"],
        ] {
            let mut command = world.command(arguments);
            command
                .env("CREDBROKER_SOCKET", &broker.socket)
                .env("CREDBROKER_CAPABILITY", CAPABILITY);
            let answer = Answer::of(command);
            outside.assert_clean("a client's output", &answer.out);
            recorded.assert_clean("a client's log", &answer.err);
            assert!(answer.err.contains("TRACE"), "nothing was logged");
        }
        assert_eq!(broker.child.end_by(Signal::TERM), 0);
        let log = fs::read(&broker.log).unwrap();
        assert!(
            log.windows(5).filter(|word| word == b"TRACE").count() > 500,
            "the log is not one"
        );
        recorded.assert_clean(&format!("the broker's {format} log"), log);
    }
    let (mut records, mut audited) = (0, 0);
    for (path, content) in everything_below(&world.host.path("."), &[Path::new("identity.txt"), Path::new("input")]) {
        recorded.assert_clean("a file's name", path.as_os_str().as_bytes());
        recorded.assert_clean(&path.display().to_string(), &content);
        records += usize::from(path.extension().is_some_and(|extension| extension == "age"));
        audited += content.windows(8).filter(|word| word == b"GetToken").count();
    }
    assert_eq!(records, 6);
    assert!(audited > 20, "nothing was audited");
}

#[test]
fn no_message_about_a_mistake_quotes_the_secret_that_was_put_in_the_wrong_place() {
    const MISPLACED: &str = "canary-misplaced-7e5c3a1f9d8b6e4c2a0f1d3b5e7a9c8d6f4b2e0a1c3d5f7b";
    let world = World::new();
    let mut scanner = world.never_recorded();
    scanner.add("a misplaced secret", MISPLACED.as_bytes());
    let check = |what: &str, command: Command, input: &str| {
        let answer = Answer::with_input(command, input.as_bytes());
        assert_ne!(answer.code, 0, "{what}: {answer:?}");
        assert!(!answer.err.is_empty(), "{what}");
        scanner.assert_clean(what, everything_said(&answer));
    };
    for answer in [
        MISPLACED.to_string(),
        format!("{{\"access_token\": \"{MISPLACED}"),
        format!("{{\"access_token\": [\"{MISPLACED}\"]}}"),
        format!("{{\"access_token\": \"a\", \"refresh_token\": {{\"a\": \"{MISPLACED}\"}}}}"),
        format!("{{\"refresh_token\": \"{MISPLACED}\"}}"),
        format!("{{\"access_token\": \"{MISPLACED}\\n\"}}"),
        format!("{{\"access_token\": \"a\", \"expires_in\": \"{MISPLACED}\"}}"),
        format!("{{\"access_token\": \"a\", \"expires_at\": \"{MISPLACED}\"}}"),
        format!("{{\"access_token\": \"{}\"}}", MISPLACED.repeat(5000)),
        format!("{{\"{MISPLACED}\": 1}}"),
    ] {
        check("a failing import", world.command(&["token", "import", "new"]), &answer);
    }
    check(
        "a key with a NUL",
        world.command(&["key", "set", "new"]),
        &format!("{MISPLACED}\0"),
    );
    check(
        "a key too long",
        world.command(&["key", "set", "new"]),
        &MISPLACED.repeat(1000),
    );
    for config in [
        MISPLACED.to_owned(),
        format!("x = '{MISPLACED}"),
        format!("[store]\nbackend = '{MISPLACED}'"),
        format!("[store]\nidentity_command = ['{MISPLACED}']"),
        format!("[store]\nallow_network_fs = '{MISPLACED}'"),
        format!("[store]\nidentity_command = 'echo {MISPLACED}; exit 1'"),
        format!("[store]\nidentity_command = 'echo {MISPLACED}'"),
        format!("[providers.n]\nclient_secret = '{MISPLACED}'"),
        format!("[providers.n]\nclient_id = 'c'\ntoken_endpoint = 'https://u:{MISPLACED}@a.example/'"),
        format!("[providers.n]\nclient_id = 'c'\ntoken_endpoint = 'http://a.example/?key={MISPLACED}'"),
        format!("[providers.n]\nclient_id = 'c'\ntoken_endpoint = '{MISPLACED}'"),
        format!("[providers.n]\nclient_secret_env = ['{MISPLACED}']"),
        format!("[providers.n]\nclient_secret_env = '{MISPLACED}='"),
        format!("[providers.n]\nauthorization_params = '{MISPLACED}'"),
        format!("[providers.n]\nauthorization_params = {{ a = ['{MISPLACED}'] }}"),
        format!("[providers.n]\nflow = '{MISPLACED}'"),
        format!("[providers.n]\nretry_ambiguous = '{MISPLACED}'"),
        format!("[providers.n]\ndefault_lifetime = '{MISPLACED}'"),
    ] {
        let file = world.host.write("input/config.toml", &config);
        check(&config, world.command(&["--config", &file, "token", "get", "p"]), "");
    }
    for (file, flag) in [
        (MISPLACED.to_string(), "--capability-file"),
        (format!("{CAPABILITY}0"), "--capability-file"),
        (MISPLACED.to_owned(), "--policy"),
        (format!("[sandboxes.a]\ncapability_sha256 = '{MISPLACED}'"), "--policy"),
        (format!("[sandboxes.a]\ncapability = '{CAPABILITY}'"), "--policy"),
        (
            format!("[sandboxes.a]\ncapability_sha256 = ['{CAPABILITY}']"),
            "--policy",
        ),
    ] {
        let path = world.host.write("input/file", &file);
        check(&format!("{flag} {file}"), world.command(&["serve", flag, &path]), "");
    }
    for variable in [
        "CREDBROKER_STORE_BACKEND",
        "CREDBROKER_STORE_ALLOW_NETWORK_FS",
        "CREDBROKER_STORE_IDENTITY",
    ] {
        let mut command = world.command(&["token", "get", "p"]);
        command.env(variable, MISPLACED);
        check(variable, command, "");
    }
    let mut command = world.command(&["token", "get", "absent"]);
    command.env("RUST_LOG", format!("{MISPLACED}=="));
    check("RUST_LOG", command, "");
    let mut command = world.command(&["token", "get", "p"]);
    command
        .env("CREDBROKER_SOCKET", world.host.path("nowhere"))
        .env("CREDBROKER_CAPABILITY", format!("{MISPLACED}\n"));
    check("a capability that cannot be sent", command, "");

    // The store itself: corrupt, expired, absent, then locked in every way.
    for entry in ["c", "x", "absent"] {
        check(entry, world.command(&["token", "get", entry]), "");
    }
    let identity = world.host.store().join("identity.txt");
    let text = fs::read(&identity).unwrap();
    let with = |text: &[u8], mode: u32| {
        fs::write(&identity, text).unwrap();
        fs::set_permissions(&identity, fs::Permissions::from_mode(mode)).unwrap();
    };
    with(&text, 0o644);
    check("an open identity", world.command(&["token", "get", "p"]), "");
    with(&[&text[..text.len() - 1], b"X\n"].concat(), 0o600);
    check("a damaged identity", world.command(&["token", "get", "p"]), "");
    with(&[&text[..], MISPLACED.as_bytes()].concat(), 0o600);
    check(
        "something else in the identity",
        world.command(&["token", "get", "p"]),
        "",
    );
    fs::remove_file(&identity).unwrap();
    check(
        "no identity",
        world.command(&["token", "import", "p"]),
        "{\"access_token\": \"a\"}",
    );
}

#[test]
fn a_command_gets_its_own_capability_in_its_environment_and_nothing_else() {
    let world = World::new();
    let mut command = world.command(&["run", "--allow", "p", "--allow-key", "k", "--"]);
    let script = format!(
        "cat /proc/self/environ; echo; echo ---; cat /proc/self/cmdline /proc/$$/cmdline /proc/$PPID/cmdline; echo; \
         echo ---; {BIN} token get p >/dev/null; {BIN} token get q; {BIN} token import p; cat; echo $CREDBROKER_CAPABILITY"
    );
    command.args(["sh", "-c", &script]).env("CREDBROKER_CAPABILITY", STOLEN);
    let answer = Answer::of(command).succeeded();
    let mut scanner = world.never_recorded();
    scanner.add("the outer capability", STOLEN.as_bytes());
    scanner.assert_clean("everything that the command saw and said", everything_said(&answer));
    let own = answer.out.trim_end().lines().last().unwrap().to_owned();
    assert_eq!(own.len(), 64, "{answer:?}");
    let mut parts = answer.out.split("\n---\n");
    let (environment, arguments) = (parts.next().unwrap(), parts.next().unwrap());
    let holding = environment.split('\0').filter(|variable| variable.contains(&own));
    assert_eq!(holding.collect::<Vec<_>>(), [format!("CREDBROKER_CAPABILITY={own}")]);
    scanner = Scanner::default();
    scanner.add("the command's capability", own.as_bytes());
    scanner.add("its bytes", &data_encoding::HEXLOWER.decode(own.as_bytes()).unwrap());
    scanner.assert_clean("arguments", arguments);
    scanner.assert_clean("what both logged", &answer.err);
    for (path, content) in everything_below(&world.host.path("."), &[]) {
        scanner.assert_clean(&path.display().to_string(), content);
    }
}
