//! `serve` under a service manager: the socket that it hands over, and what it is told.
//!
//! The tests are the service manager here: they listen, and a shell moves the descriptor to number 3, where
//! `sd_listen_fds(3)` has it. `tests/interop/systemd` does the same with systemd's own tool.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use command::{Answer, BIN, Host, PATIENCE, Serve, wait_until};
use rustix::process::Signal;

/// A socket that a service manager listens on, in a directory that anybody may enter, as `/run` is.
struct Activated {
    host: Host,
    path: PathBuf,
    listener: UnixListener,
}

impl Activated {
    fn new() -> Self {
        let host = Host::with_entry();
        let directory = host.path("srv");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.join("broker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        Self { host, path, listener }
    }

    /// `serve` with the socket as descriptor 3.
    fn command(&self, flags: &str) -> Command {
        handed_over(&self.host, self.listener.try_clone().unwrap(), flags)
    }

    fn start(&self) -> Serve {
        Serve::from_command_on(self.command(""), self.listener.try_clone().unwrap())
    }

    /// Inode, mode and time of the last change of the socket's file.
    fn file(&self) -> (u64, u32, i64, i64) {
        let about = fs::symlink_metadata(&self.path).unwrap();
        (about.ino(), about.mode(), about.ctime(), about.ctime_nsec())
    }
}

/// `serve` with this as descriptor 3.
fn handed_over(host: &Host, descriptor: impl Into<OwnedFd>, flags: &str) -> Command {
    let script = format!(
        "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_FDNAMES=broker LISTEN_PID=$$; exec \"$BIN\" --log-format json serve {flags}"
    );
    let mut command = host.shell(&script);
    command.stdin(Stdio::from(descriptor.into()));
    command
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A connection that begins to speak HTTP/2 before anybody reads it.
fn waiting(path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(PREFACE).unwrap();
    stream
}

/// The type of the first frame that comes.
fn first_frame(mut stream: &UnixStream) -> u8 {
    let mut header = [0; 9];
    stream.read_exact(&mut header).unwrap();
    header[3]
}

#[test]
fn a_socket_that_is_handed_over_is_served_also_to_those_who_came_before() {
    let activated = Activated::new();
    let before = activated.file();
    let early = waiting(&activated.path);
    let serve = activated.start();
    assert_eq!(serve.socket, activated.path);
    assert_eq!(first_frame(&early), 4, "SETTINGS");
    drop(early);
    let answer = serve.ask(&activated.host, &["token", "get", "p"]).succeeded();
    assert_eq!(answer.out, "access-1\n");

    // Its own directory is the daemon's, where `status` finds it, with no socket for sandboxes in it.
    assert_eq!(activated.host.brokers(), ["daemon"]);
    let own = activated.host.runtime().join("daemon");
    assert!(own.join("control.sock").exists() && own.join("pid").exists() && own.join("lock").exists());
    assert!(!own.join("sandbox/sock").exists());
    let status = activated.host.run(&["status", "--json"]).succeeded();
    assert!(status.out.contains(activated.path.to_str().unwrap()), "{status:?}");

    // Accepting must not block, and no child may have it.
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/3", serve.pid())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
    assert_eq!(flags & 0o4000, 0o4000, "O_NONBLOCK: {info}");
    assert_eq!(flags & 0o2_000_000, 0o2_000_000, "O_CLOEXEC: {info}");

    assert_eq!(serve.end_by(Signal::TERM), 0);
    assert_eq!(activated.file(), before, "the socket's file is the service manager's");
    assert!(activated.host.brokers().is_empty());

    // Whoever comes between two lives of the service waits for the next one.
    let between = waiting(&activated.path);
    let again = activated.start();
    assert_eq!(first_frame(&between), 4, "SETTINGS");
    drop(between);
    again.ask(&activated.host, &["token", "get", "p"]).succeeded();
    assert_eq!(again.end_by(Signal::TERM), 0);
    assert_eq!(activated.file(), before);
}

#[test]
fn calls_and_streams_on_it_end_within_the_time_that_a_stop_has() {
    let activated = Activated::new();
    let serve = activated.start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use hyper_util::rt::TokioIo;
        use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
        use tonic_types::StatusExt as _;

        let path = activated.path.clone();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connect).await.unwrap();
        let mut watch = HealthClient::new(channel)
            .watch(HealthCheckRequest::default())
            .await
            .unwrap()
            .into_inner();
        watch.message().await.unwrap().unwrap();
        let start = tokio::time::Instant::now();
        serve.signal(Signal::TERM);
        let ended = watch.message().await.unwrap_err();
        assert_eq!(ended.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
    assert_eq!(serve.end(), 0);
    assert!(activated.path.exists());
}

#[test]
fn on_it_too_nobody_is_served_but_the_right_uid_with_the_right_capability() {
    let activated = Activated::new();
    let host = &activated.host;
    // Everybody reaches it, as in `/run`.
    fs::set_permissions(host.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    let capability = "ab".repeat(32);
    let file = host.write("capability", &format!("{capability}\n"));
    let command = activated.command(&format!("--capability-file {file}"));
    let serve = Serve::from_command_on(command, activated.listener.try_clone().unwrap());
    serve
        .ask(host, &["token", "get", "p"])
        .failed(77)
        .saying("the capability is missing");
    let mut holder = serve.client(host, &["token", "get", "p"]);
    holder.env("CREDBROKER_CAPABILITY", &capability);
    assert_eq!(Answer::of(holder).succeeded().out, "access-1\n");
    // With the capability, but as somebody else.
    let stranger = rustix::process::Uid::from_raw(rustix::process::geteuid().as_raw() + 1);
    let path = activated.path.clone();
    let connected = std::thread::spawn(move || {
        // This thread's own user; it ends with it.
        let became = rustix::thread::set_thread_res_uid(stranger, stranger, stranger);
        became.ok().map(|()| UnixStream::connect(path).unwrap())
    });
    match connected.join().unwrap() {
        None => println!("not root: nobody else asked"),
        Some(stream) => assert_eq!(reason_of_get_token(stream, &capability), "PEER_NOT_ALLOWED"),
    }
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

/// What GetToken is refused with over this connection.
fn reason_of_get_token(stream: UnixStream, capability: &str) -> String {
    use credbroker::proto::{GetTokenRequest, credential_broker_client::CredentialBrokerClient};
    use hyper_util::rt::TokioIo;
    use tonic_types::StatusExt as _;

    tokio::runtime::Runtime::new().unwrap().block_on(async {
        stream.set_nonblocking(true).unwrap();
        let mut stream = Some(TokioIo::new(tokio::net::UnixStream::from_std(stream).unwrap()));
        let once = tower::service_fn(move |_| {
            let stream = stream.take().ok_or_else(|| std::io::Error::other("one connection"));
            async { stream }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        let mut client = CredentialBrokerClient::new(endpoint.connect_with_connector(once).await.unwrap());
        let mut request = tonic::Request::new(GetTokenRequest {
            provider: "p".to_owned(),
            ..GetTokenRequest::default()
        });
        let bearer = format!("Bearer {capability}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let status = client.get_token(request).await.unwrap_err();
        status.get_details_error_info().unwrap().reason
    })
}

#[test]
fn what_cannot_be_served_is_refused_with_the_way_out() {
    let activated = Activated::new();
    let host = &activated.host;
    let refused = |command: Command, problem: &str, mend: &str| {
        let answer = Answer::of(command).failed(64).saying(problem).saying(mend);
        assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
        assert!(host.brokers().is_empty());
    };

    let beside = activated.command(&format!("--socket {}", host.path("other").display()));
    refused(beside, "--socket names another", "remove --socket from ExecStart=");
    assert!(!host.path("other").exists());

    let mut several =
        host.shell("exec 3<&0 4<&0 </dev/null; LISTEN_FDS=2 LISTEN_FDNAMES=a:b LISTEN_PID=$$ exec \"$BIN\" serve");
    several.stdin(Stdio::from(OwnedFd::from(activated.listener.try_clone().unwrap())));
    refused(several, "hands over 2 sockets (a:b)", "one ListenStream=");

    let mut nonsense = host.shell("LISTEN_FDS=some LISTEN_PID=$$ exec \"$BIN\" serve");
    nonsense.stdin(Stdio::null());
    refused(nonsense, "LISTEN_FDS is \"some\"", "Accept=no");

    let connected = UnixStream::connect(&activated.path).unwrap();
    let bound = {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, socket};
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(host.path("bound")).unwrap()).unwrap();
        socket
    };
    let wrong: [(OwnedFd, &str); 5] = [
        (connected.into(), "it does not listen"),
        (bound, "it does not listen"),
        (
            UnixDatagram::bind(host.path("datagram")).unwrap().into(),
            "not a valid unix stream socket",
        ),
        (
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
            "not a valid unix stream socket",
        ),
        (fs::File::open(BIN).unwrap().into(), "is not a socket"),
    ];
    for (descriptor, problem) in wrong {
        refused(
            handed_over(host, descriptor, ""),
            problem,
            "ListenStream= with a path and Accept=no",
        );
    }
    let absent = host.shell("exec 3<&-; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$BIN\" serve");
    refused(absent, "is not a socket", "Accept=no");
}

#[test]
fn a_socket_for_another_process_is_none_of_our_business() {
    let activated = Activated::new();
    let mut command = activated
        .host
        .shell("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=1 exec \"$BIN\" --log-format json serve");
    command.stdin(Stdio::from(OwnedFd::from(activated.listener.try_clone().unwrap())));
    let serve = Serve::from_command_on(command, activated.listener.try_clone().unwrap());
    assert!(serve.socket.starts_with(activated.host.runtime()), "{:?}", serve.socket);
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

/// A service manager's ear.
struct Ear {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Ear {
    fn new(host: &Host) -> Self {
        let path = host.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    /// The next message, as lines.
    fn message(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn is_silent(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let nothing = self.socket.recv(&mut [0]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        nothing
    }
}

#[test]
fn readiness_and_the_end_are_told() {
    let activated = Activated::new();
    let ear = Ear::new(&activated.host);
    let mut command = activated.command("");
    command.env("NOTIFY_SOCKET", &ear.path);
    let serve = Serve::from_command_on(command, activated.listener.try_clone().unwrap());
    let status = format!("STATUS=Serving {}", activated.path.display());
    assert_eq!(ear.message(), ["READY=1", &status]);
    // No watchdog is asked for.
    serve.ask(&activated.host, &["token", "get", "p"]).succeeded();
    assert!(ear.is_silent());
    serve.signal(Signal::TERM);
    assert_eq!(
        ear.message(),
        ["STOPPING=1", "STATUS=Ending the calls that are under way"]
    );
    assert_eq!(serve.end(), 0);
    assert!(ear.is_silent());
}

#[test]
fn a_broker_whose_store_cannot_be_read_is_not_ready_until_it_can() {
    let host = Host::with_entry();
    let ear = Ear::new(&host);
    let (identity, away) = (host.store().join("identity.txt"), host.path("identity"));
    fs::rename(&identity, &away).unwrap();
    let mut command = host.command(&["--log-format", "json", "serve"]);
    command.env("NOTIFY_SOCKET", &ear.path);
    let serve = Serve::from_command(command);
    assert_eq!(ear.message(), ["STATUS=Waiting: the store cannot be read, see the log"]);
    fs::rename(&away, &identity).unwrap();
    assert_eq!(ear.message()[0], "READY=1");
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn a_watchdog_hears_of_a_broker_that_lives_and_of_no_other() {
    let host = Host::with_entry();
    let ear = Ear::new(&host);
    let start = |variables: &str| {
        let mut command = host.shell(&format!("export {variables}; exec \"$BIN\" --log-format json serve"));
        command.env("NOTIFY_SOCKET", &ear.path);
        let serve = Serve::from_command(command);
        assert_eq!(ear.message()[0], "READY=1");
        serve
    };
    let serve = start("WATCHDOG_USEC=200000 WATCHDOG_PID=$$");
    for _ in 0..5 {
        assert_eq!(ear.message(), ["WATCHDOG=1"]);
    }
    serve.signal(Signal::STOP);
    wait_until("it is stopped", || {
        let state = fs::read_to_string(format!("/proc/{}/stat", serve.pid())).unwrap();
        state.contains(") T ")
    });
    while !ear.is_silent() {}
    std::thread::sleep(Duration::from_millis(500));
    assert!(ear.is_silent());
    serve.signal(Signal::CONT);
    assert_eq!(ear.message(), ["WATCHDOG=1"]);
    serve.signal(Signal::TERM);
    while ear.message() != ["STOPPING=1", "STATUS=Ending the calls that are under way"] {}
    assert_eq!(serve.end(), 0);

    // Another process's watchdog.
    let serve = start("WATCHDOG_USEC=1000 WATCHDOG_PID=1");
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    assert!(ear.is_silent());
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn no_child_of_the_broker_gets_what_was_handed_to_the_broker() {
    let activated = Activated::new();
    let host = &activated.host;
    let ear = Ear::new(host);
    let seen = host.path("seen");
    // The identity's command is a child of a `serve`.
    host.write(
        "config/credbroker/config.toml",
        &format!(
            "[store]\nidentity_command = \"{{ env; ls -l /proc/self/fd; }} >{}; cat {}\"\n",
            seen.display(),
            host.store().join("identity.txt").display()
        ),
    );
    let mut command = activated.command("");
    command
        .env("NOTIFY_SOCKET", &ear.path)
        .env("LISTEN_PIDFDID", "1")
        .env("WATCHDOG_USEC", "60000000");
    let serve = Serve::from_command_on(command, activated.listener.try_clone().unwrap());
    assert_eq!(ear.message()[0], "READY=1");
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("HOME="), "{seen}");
    for absent in ["LISTEN_", "NOTIFY_", "WATCHDOG_", "socket:"] {
        assert!(!seen.contains(absent), "{absent} in {seen}");
    }
    assert_eq!(serve.end_by(Signal::TERM), 0);
}
