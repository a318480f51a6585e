//! What is known of a process that connects, and a socket that serves the processes of one sandbox alone. Sandboxes are pid
//! name spaces here; real ones are in `tests/interop/`.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

mod support;

use std::{
    fs,
    io::{IoSlice, IoSliceMut, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use credbroker::{
    broker::policy::Policy,
    daemon::{self, Options, Process, Running, SocketChoice},
    proto::{GetTokenRequest, GetTokenResponse},
    server::{
        admission::Admission,
        peer::{AllowedPeers, OnlySandbox, Reveal, Root},
    },
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use support::{Host, soon, wire::Wire};

const BIN: &str = env!("CARGO_BIN_EXE_credbroker");
const SOCKET: &str = "CREDBROKER_SOCKET";

/// Whether this system lets the tests make pid name spaces; many containers do not. Where it has to, `.ci/run` says so.
#[expect(clippy::disallowed_methods, reason = "a word from .ci/run to the tests")]
fn namespaces() -> bool {
    let can = unshare("true").output().is_ok_and(|output| output.status.success());
    assert!(
        can || std::env::var_os("INSIST_ON_EVERY_TEST").is_none(),
        "this system does not let: unshare --pid"
    );
    can
}

/// A shell in a pid name space of its own.
fn unshare(script: &str) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--pid", "--fork", "--kill-child", "sh", "-c", script])
        .env("BIN", BIN);
    command
}

/// One that waits for a line first.
struct Sandbox(Child);

impl Sandbox {
    fn start(script: &str, socket: &Path) -> Self {
        let mut command = unshare(&format!("read go; {script}"));
        command
            .env(SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn root(&self) -> Root {
        Root::of(self.0.id().try_into().unwrap()).unwrap()
    }

    async fn go(mut self) -> Output {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        tokio::task::spawn_blocking(|| self.0.wait_with_output().unwrap())
            .await
            .unwrap()
    }
}

/// A broker that serves one sandbox, which is not known yet.
async fn serving_one() -> (Host, Running, Reveal) {
    let host = Host::new();
    host.import("p", "", r#"{"access_token":"access-1","expires_in":3600}"#)
        .await;
    let (only, reveal) = OnlySandbox::to_be_started();
    let options = Options {
        socket: SocketChoice::Own,
        admission: Admission::Open(Arc::new(Policy::host())),
        peers: AllowedPeers::own_and(&[]),
        ephemeral: false,
        notices: credbroker::broker::login::to_the_log(),
        metrics: None,
        process: Process {
            sandbox: Some(only),
            ..Process::default()
        },
    };
    let running = daemon::start(&host.config, &host.environment, options).unwrap();
    (host, running, reveal)
}

async fn outside(socket: &Path) -> Output {
    let mut command = Command::new(BIN);
    command
        .args(["token", "get", "p"])
        .env(SOCKET, socket)
        .stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn is_refused(output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.code() == Some(77) && output.stdout.is_empty() && said.contains("--attest pidns")
}

fn is_served(output: &Output) -> bool {
    output.status.success() && output.stdout == b"access-1\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn only_processes_of_the_sandbox_are_served() {
    if !namespaces() {
        return;
    }
    let (host, running, reveal) = serving_one().await;
    let socket = running.socket();
    let sandbox = Sandbox::start("\"$BIN\" token get p", socket);
    let nested = "unshare --user --map-root-user --pid --fork \"$BIN\" token get p";
    let orphan = "(sleep 0.3; \"$BIN\" token get p) & exec sleep 2";
    for (script, other) in [
        ("\"$BIN\" token get p", false),
        (nested, false),
        (orphan, false),
        ("\"$BIN\" token get p", true),
    ] {
        let sandbox = Sandbox::start(script, socket);
        let another = Sandbox::start("read forever", socket);
        reveal.started(if other { another.root() } else { sandbox.root() });
        let answer = soon("it ends", sandbox.go()).await;
        if other {
            assert!(is_refused(&answer), "{answer:?}");
        } else {
            assert!(is_served(&answer), "{script}: {answer:?}");
            assert!(is_refused(&outside(socket).await));
        }
        // It ends with its standard input.
        soon("it ends", another.go()).await;
    }
    reveal.started(sandbox.root());
    assert!(is_served(&soon("it ends", sandbox.go()).await));
    // Nobody descends from what is gone.
    let late = Sandbox::start("\"$BIN\" token get p", socket);
    assert!(is_refused(&soon("it ends", late.go()).await));
    running.stop().await;
    let lines = host.audit();
    assert!(
        lines
            .iter()
            .any(|line| line["outcome"] == "ok" && line["peer_pid_ns"].is_u64())
    );
    for line in lines.iter().filter(|line| line["outcome"] != "ok") {
        assert_eq!(line["reason"], "PEER_NOT_ALLOWED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_before_the_sandbox_is_known() {
    if !namespaces() {
        return;
    }
    let (_host, running, reveal) = serving_one().await;
    let socket = running.socket();
    let sandbox = Sandbox::start("\"$BIN\" token get p", socket);
    let root = sandbox.root();
    let mut waits = Box::pin(sandbox.go());
    assert!(
        tokio::time::timeout(Duration::from_millis(500), &mut waits)
            .await
            .is_err()
    );
    reveal.started(root);
    assert!(is_served(&soon("it ends", waits).await));
    running.stop().await;
    // A sandbox that never comes to be.
    let (_host, running, reveal) = serving_one().await;
    drop(reveal);
    assert!(is_refused(&outside(running.socket()).await));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_belongs_to_the_process_that_made_it_whoever_has_it_later() {
    if !namespaces() {
        return;
    }
    let (_host, running, reveal) = serving_one().await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Within the sandbox: connects, hands the connection out, and waits.
    let this = fs::read_link("/proc/self/exe").unwrap();
    let mut sandbox = unshare("exec \"$0\" --exact within_the_sandbox --ignored")
        .arg(this)
        .env(SOCKET, running.socket())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    reveal.started(Root::of(sandbox.id().try_into().unwrap()).unwrap());
    let (ours, passed) = tokio::task::spawn_blocking(|| {
        let passed = received(&ours);
        (ours, passed)
    })
    .await
    .unwrap();
    passed.set_nonblocking(true).unwrap();
    let request = GetTokenRequest {
        provider: "p".to_owned(),
        ..GetTokenRequest::default()
    };
    // This process is outside, and the connection serves it.
    let wire = Wire::over(tokio::net::UnixStream::from_std(passed).unwrap()).await;
    let token: GetTokenResponse = wire.call("GetToken", &request).await.message();
    assert_eq!(token.token.unwrap().access_token, "access-1");
    // One of its own does not.
    assert!(is_refused(&outside(running.socket()).await));
    drop(ours);
    sandbox.wait().unwrap();
    running.stop().await;
}

#[test]
#[ignore = "what another test runs in its sandbox"]
#[expect(
    clippy::disallowed_methods,
    reason = "the test that runs it says where the socket is"
)]
fn within_the_sandbox() {
    let connection = UnixStream::connect(std::env::var_os(SOCKET).unwrap()).unwrap();
    let host = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let fds = [connection.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&host, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    // Until the host has had enough.
    let mut end = [0; 1];
    rustix::io::read(&host, &mut end).unwrap();
}

fn received(from: &UnixStream) -> UnixStream {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    recvmsg(
        from,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    UnixStream::from(fds.next().unwrap().next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_says_what_connected() {
    let host = Host::new();
    host.import("p", "", r#"{"access_token":"access-1","expires_in":3600}"#)
        .await;
    let running = host.start(Policy::host());
    let request = GetTokenRequest {
        provider: "p".to_owned(),
        ..GetTokenRequest::default()
    };
    let answer = Wire::connect(running.socket()).await.call("GetToken", &request).await;
    let _token: GetTokenResponse = answer.message();
    running.stop().await;
    let line = host.audit().pop().unwrap();
    // This process is the client as well.
    let this = fs::read_link("/proc/self/exe").unwrap();
    assert_eq!(line["peer_exe"], this.to_str().unwrap());
    for (name, field) in [("pid", "peer_pid_ns"), ("user", "peer_user_ns"), ("mnt", "peer_mnt_ns")] {
        let number = fs::metadata(format!("/proc/self/ns/{name}")).unwrap().ino();
        assert_eq!(line[field], number, "{field}");
    }
}

/// Has the system tell this thread, and those that it starts, no more of a peer than uid and pid, as before Linux 6.5.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn tell_no_more_of_peers() {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
    };
    let option = u64::from(libc::SO_PEERPIDFD.unsigned_abs());
    let asked = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, option).unwrap();
    let rules = [(libc::SYS_getsockopt, vec![SeccompRule::new(vec![asked]).unwrap()])];
    let refusal = SeccompAction::Errno(libc::ENOPROTOOPT.unsigned_abs());
    let machine = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules.into(), SeccompAction::Allow, refusal, machine).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
#[test]
fn where_no_more_is_told_of_peers_the_record_lacks_it_and_a_sandbox_of_ones_own_is_not_served() {
    let less = std::thread::spawn(|| {
        tell_no_more_of_peers();
        assert!(credbroker::server::peer::can_pin().is_err());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let host = Host::new();
            host.import("p", "", r#"{"access_token":"access-1","expires_in":3600}"#)
                .await;
            let running = host.start(Policy::host());
            let answer = outside(running.socket()).await;
            assert!(is_served(&answer), "{answer:?}");
            running.stop().await;
            let line = host.audit().pop().unwrap();
            assert_eq!(
                (&line["operation"], &line["outcome"]),
                (&"GetToken".into(), &"ok".into())
            );
            assert_eq!(line["peer_uid"], rustix::process::geteuid().as_raw());
            assert!(line["peer_pid"].is_u64(), "{line}");
            for field in ["peer_exe", "peer_pid_ns", "peer_user_ns", "peer_mnt_ns"] {
                assert!(line.get(field).is_none(), "{line}");
            }
            if !namespaces() {
                return;
            }
            let (_host, running, reveal) = serving_one().await;
            let sandbox = Sandbox::start("\"$BIN\" token get p", running.socket());
            reveal.started(sandbox.root());
            let answer = soon("it ends", sandbox.go()).await;
            assert!(is_refused(&answer), "{answer:?}");
            running.stop().await;
        });
    });
    less.join().unwrap();
}
