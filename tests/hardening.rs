//! What a running broker took from itself, seen from outside; and that it works all the same.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;

use std::{collections::BTreeSet, fs, os::unix::fs::symlink, process::Command, time::Duration};

use command::{Answer, Host, Running, Serve, wait_until};
use credbroker::{
    client::{CredentialStore as _, ProxyTokenStore},
    credential::EntryKey,
};
use rustix::process::{Signal, geteuid};
use serde_json::Value;

/// A field of the state of a process, or of one of its threads.
fn field(path: &str, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{path}/status")).unwrap();
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

/// Paths below /proc: the process and each of its threads.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| format!("{pid}/task/{}", task.unwrap().file_name().to_str().unwrap()))
        .collect()
}

/// The soft and the hard limit of core files.
fn core_limit(pid: u32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let mut numbers = line.trim_start_matches("Max core file size").split_whitespace();
    (numbers.next().unwrap().to_owned(), numbers.next().unwrap().to_owned())
}

/// A command under a limit of core files above 0. `None`: this system does not let the tests have one.
fn with_core_files(host: &Host, arguments: &str) -> Option<Command> {
    let can = Command::new("sh")
        .args(["-c", "ulimit -c 16"])
        .status()
        .unwrap()
        .success();
    required(can, "a limit of core files above 0")?;
    Some(host.shell(&format!("ulimit -S -c 16; exec \"$BIN\" {arguments}")))
}

#[expect(clippy::disallowed_methods, reason = "a word from .ci/run to the tests")]
fn required(can: bool, what: &str) -> Option<()> {
    assert!(
        can || std::env::var_os("INSIST_ON_EVERY_TEST").is_none(),
        "this system lacks: {what}"
    );
    can.then_some(())
}

/// A check of `doctor`'s.
fn check(host: &Host, layer: &str, name: &str) -> Value {
    let answer = host.run(&["doctor", "--json"]);
    let document: Value = serde_json::from_str(&answer.out).unwrap();
    let mut checks = document["checks"].as_array().unwrap().iter();
    let found = checks.find(|check| check["layer"] == layer && check["check"] == name);
    found.unwrap().clone()
}

/// What `doctor` says of running brokers' protections.
fn said_of_brokers(host: &Host) -> String {
    check(host, "brokers", "protections")["detail"]
        .as_str()
        .unwrap()
        .to_owned()
}

const CAPABILITIES: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

#[test]
fn every_thread_of_a_serve_is_without_privileges_and_behind_a_filter() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &[]);
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    let all = threads(serve.pid());
    assert!(all.len() > 2, "{all:?}");
    for thread in all {
        assert_eq!(field(&thread, "NoNewPrivs"), "1", "{thread}");
        assert_eq!(field(&thread, "Seccomp"), "2", "{thread}");
        for set in CAPABILITIES {
            // The bounding set is only for those who may take from it; without new privileges it gives nothing.
            if set != "CapBnd" || geteuid().is_root() {
                assert_eq!(field(&thread, set).trim_matches('0'), "", "{thread} {set}");
            }
        }
    }
    let said = said_of_brokers(&host);
    for name in [
        "no capabilities",
        "no new privileges",
        "system calls",
        "unreadable memory",
        "no core file",
    ] {
        assert!(said.split("; not ").next().unwrap().contains(name), "{said}");
    }
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn no_broker_leaves_a_core_file_and_the_command_of_a_run_has_the_users_limit() {
    let host = Host::with_entry();
    let Some(serve) = with_core_files(&host, "--log-format json serve") else {
        return;
    };
    let serve = Serve::from_command(serve);
    assert_eq!(core_limit(serve.pid()).0, "0");
    assert_eq!(serve.end_by(Signal::TERM), 0);
    let run = with_core_files(&host, "run -- sh -c 'echo $$; read x; exit 0'").unwrap();
    let run = Running::start(run);
    let child: u32 = run.line().parse().unwrap();
    assert_eq!(core_limit(run.pid()).0, "0");
    assert_eq!(core_limit(run.pid()).1, core_limit(child).1);
    // In blocks of 512 or 1024 bytes, as the shell has it.
    assert!(
        ["8192", "16384"].contains(&core_limit(child).0.as_str()),
        "{:?}",
        core_limit(child)
    );
    assert_eq!(run.end(), 0);
}

#[test]
fn the_command_of_a_run_keeps_what_it_may() {
    let host = Host::with_entry();
    let run = Running::start(host.command(&["run", "--", "sh", "-c", "echo $$; read x; exit 0"]));
    let child = run.line();
    for name in ["NoNewPrivs", "Seccomp", "CapEff", "CapBnd"] {
        assert_eq!(field(&child, name), field("self", name), "{name}");
    }
    assert!(said_of_brokers(&host).contains("landlock (not taken for `run`"));
    assert_eq!(run.end(), 0);
}

#[test]
fn a_configured_command_runs_with_the_users_rights() {
    let host = Host::with_entry();
    let identity = host.path("elsewhere.txt");
    fs::rename(host.store().join("identity.txt"), &identity).unwrap();
    let state = host.path("state-of-the-command");
    let command = format!("cat /proc/self/status >{}; cat {}", state.display(), identity.display());
    let config = host.write(
        "config/credbroker/config.toml",
        &format!("[store]\nidentity_command = '{command}'\n"),
    );
    assert!(fs::exists(config).unwrap());
    let serve = Serve::start(&host, &[]);
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    let status = fs::read_to_string(state).unwrap();
    assert!(
        status.contains("NoNewPrivs:\t0") && status.contains("Seccomp:\t0"),
        "{status}"
    );
    let said = said_of_brokers(&host);
    assert!(said.contains("landlock (not taken with identity_command"), "{said}");
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn a_serve_opens_nothing_beyond_its_own_directories() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &[]);
    // By a trial of its own.
    if required(check(&host, "process", "landlock")["status"] == "ok", "Landlock").is_none() {
        return;
    }
    assert!(
        said_of_brokers(&host)
            .split("; not ")
            .next()
            .unwrap()
            .contains("landlock")
    );
    // What a mistake in a path would do: the records' directory leads somewhere else by now.
    let (audit, elsewhere) = (host.path("state/credbroker/audit"), host.path("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&audit, host.path("before")).unwrap();
    symlink(&elsewhere, &audit).unwrap();
    let lost = || {
        let status = host.run(&["status"]).succeeded();
        status.err.contains("has lost ")
    };
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    wait_until("the record is lost", lost);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

/// Starts it where the system does not have this call.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn start_without(call: i64, command: Command) -> Running {
    use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
    let started = std::thread::spawn(move || {
        let refusal = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let machine = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new([(call, Vec::new())].into(), SeccompAction::Allow, refusal, machine).unwrap();
        let program: seccompiler::BpfProgram = filter.try_into().unwrap();
        // For this thread and what it starts.
        apply_filter(&program).unwrap();
        Running::start_on(command)
    });
    started.join().unwrap()
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
#[test]
fn what_the_system_lacks_is_warned_of_and_shown_and_the_broker_goes_on() {
    for (call, name) in [
        (libc::SYS_landlock_create_ruleset, "landlock"),
        (libc::SYS_seccomp, "system calls"),
    ] {
        let host = Host::with_entry();
        let log = host.path("log");
        let mut command = host.command(&["--log-format", "json", "serve"]);
        command.stderr(fs::File::create(&log).unwrap());
        let serve = start_without(call, command);
        let logged = || -> Vec<Value> {
            let text = fs::read_to_string(&log).unwrap();
            text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
        };
        let serving = || logged().iter().any(|line| line["fields"]["message"] == "serving");
        wait_until("it serves", serving);
        let of_it = |line: &&Value| line["level"] == "WARN" && line["fields"]["protection"] == name;
        assert_eq!(logged().iter().filter(of_it).count(), 1, "{name}: {:?}", logged());
        let said = said_of_brokers(&host);
        let (_, lacking) = said.split_once("; not ").unwrap();
        assert!(lacking.contains(name), "{said}");
        let mut client = host.command(&["token", "get", "p"]);
        client.env("CREDBROKER_SOCKET", host.runtime().join("daemon/sandbox/sock"));
        assert_eq!(Answer::of(client).succeeded().out, "access-1\n");
        assert_eq!(serve.end_by(Signal::TERM), 0);
    }
}

/// The socket that [`client_of_a_test`] asks.
const CLIENT: &str = "CLIENT_OF_A_TEST";

/// A program that is not `credbroker`; without a socket nothing, for this is a test only in name.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how the test binary tells its child what to do"
)]
fn client_of_a_test() {
    let Some(socket) = std::env::var_os(CLIENT) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let token = runtime.block_on(async {
        let store = ProxyTokenStore::new(socket, None).unwrap();
        store
            .get_token(&EntryKey::parse("p", "").unwrap(), Duration::ZERO)
            .await
    });
    if token.unwrap().is_some() {
        println!("it has a token");
    }
}

/// Landlock hides other processes from the broker; a thread that was there before still sees them.
#[test]
fn a_serve_that_sees_no_process_still_says_which_one_connected() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &[]);
    let audit = host.path("state/credbroker/audit");
    if required(check(&host, "process", "landlock")["status"] == "ok", "Landlock").is_none()
        || required(
            check(&host, "process", "pinned peers")["status"] == "ok",
            "SO_PEERPIDFD",
        )
        .is_none()
    {
        return;
    }
    // Whoever has more rights than the broker, or hides like the command `credbroker`, shows nothing.
    let me = std::env::current_exe().unwrap();
    let mut client = Command::new(&me);
    if geteuid().is_root() {
        client = Command::new("setpriv");
        client.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(&me);
    }
    client
        .args(["--exact", "client_of_a_test", "--nocapture"])
        .env(CLIENT, &serve.socket);
    let answer = Answer::of(client).succeeded();
    assert!(answer.out.contains("it has a token"), "{answer:?}");
    assert_eq!(serve.end_by(Signal::TERM), 0);
    let files = fs::read_dir(audit).unwrap().map(|file| file.unwrap().path());
    let lines: Vec<Value> = files
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            lines.collect::<Vec<_>>()
        })
        .collect();
    let line = lines
        .iter()
        .find(|line| line["operation"] == "GetToken")
        .unwrap_or_else(|| panic!("{lines:?}"));
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(line["peer_exe"].as_str(), me.to_str(), "{line}");
    assert_eq!(namespace.to_str().unwrap(), format!("pid:[{}]", line["peer_pid_ns"]));
}

/// Numbers of descriptors that a child of this process would have, whatever it is: they are not the broker's.
fn strays() -> BTreeSet<u32> {
    descriptors("self")
        .into_iter()
        .filter(|(_, flags)| flags & CLOEXEC == 0)
        .map(|(fd, _)| fd)
        .collect()
}

const CLOEXEC: u32 = 0o2_000_000;

/// The descriptors of a process with their flags. Those that are closed meanwhile are left out.
fn descriptors(pid: &str) -> Vec<(u32, u32)> {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    files
        .filter_map(|file| {
            let file = file.unwrap();
            let info = fs::read_to_string(file.path()).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
            let fd = file.file_name().to_str().unwrap().parse().unwrap();
            Some((fd, u32::from_str_radix(flags, 8).unwrap()))
        })
        .collect()
}

#[test]
fn no_descriptor_of_a_broker_outlives_an_exec() {
    // Whoever is not root cannot look into a broker.
    if required(geteuid().is_root(), "root").is_none() {
        return;
    }
    let host = Host::with_entry();
    let metrics = host.path("run/metrics");
    let mut command = host.command(&["--log-format", "json", "serve", "--capability-file"]);
    command.arg(host.write("capability", &format!("{}\n", "ab".repeat(32))));
    command.env("CREDBROKER_METRICS_LISTEN", &metrics);
    let serve = Serve::from_command(command);
    let run = Running::start(host.command(&[
        "run",
        "--allow",
        "p",
        "--",
        "sh",
        "-c",
        "echo $CREDBROKER_SOCKET; read x; exit 0",
    ]));
    let socket = run.line();
    let strays = strays();
    let mut seen = 0;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut ask = serve.client(&host, &["token", "get", "p"]);
        ask.env("CREDBROKER_CAPABILITY", "ab".repeat(32));
        open.push(std::os::unix::net::UnixStream::connect(&serve.socket).unwrap());
        open.push(std::os::unix::net::UnixStream::connect(&socket).unwrap());
        open.push(std::os::unix::net::UnixStream::connect(&metrics).unwrap());
        Answer::of(ask).succeeded();
        for pid in [serve.pid(), run.pid()] {
            for (fd, flags) in descriptors(&pid.to_string()) {
                assert!(
                    fd <= 2 || strays.contains(&fd) || flags & CLOEXEC != 0,
                    "{pid}: {fd} {flags:o}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 20 * 2 * 15, "{seen}");
    assert_eq!(run.end(), 0);
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn memory_is_locked_where_no_limit_stands_in_the_way() {
    let host = Host::with_entry();
    let unlimited = "ulimit -l unlimited 2>/dev/null";
    let can = Command::new("sh").args(["-c", unlimited]).status().unwrap().success();
    // With the capability it holds for `run`, whatever the limit is.
    let run = Running::start(host.command(&["run", "--", "sh", "-c", "echo $$; read x; exit 0"]));
    let child = run.line();
    let exempt = u64::from_str_radix(&field("self", "CapEff"), 16).unwrap() & (1 << 14) != 0;
    if required(can || exempt, "an unlimited amount of locked memory").is_some() && exempt {
        assert_ne!(field(&run.pid().to_string(), "VmLck"), "0 kB");
        assert!(
            said_of_brokers(&host)
                .split("; not ")
                .next()
                .unwrap()
                .contains("locked memory")
        );
    }
    assert_eq!(field(&child, "VmLck"), "0 kB");
    assert_eq!(run.end(), 0);
    // With a limit that an allocation would reach nothing is locked, and it is said.
    let limited =
        host.shell("ulimit -l 64; exec setpriv --bounding-set=-all --inh-caps=-all \"$BIN\" --log-format json serve");
    let serve = Serve::from_command(limited);
    assert_eq!(field(&serve.pid().to_string(), "VmLck"), "0 kB");
    assert!(said_of_brokers(&host).contains("locked memory (the limit is 64 KiB"));
    // Who may lock memory but not lift the limit: a `serve` is within the limit, and doctor says so before there is one.
    let may_lock = "ulimit -l 64; exec setpriv --bounding-set=-all,+ipc_lock --inh-caps=-all \"$BIN\" doctor --json";
    let document: Value = serde_json::from_str(&Answer::of(host.shell(may_lock)).out).unwrap();
    let checks = document["checks"].as_array().unwrap();
    let locked = checks.iter().find(|check| check["check"] == "locked memory").unwrap();
    assert!(
        locked["detail"].as_str().unwrap().contains("the limit is 64 KiB"),
        "{locked}"
    );
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn doctor_judges_a_serve_with_the_configuration_that_it_would_have() {
    let host = Host::with_entry();
    let answer = Answer::of(host.shell("CREDBROKER_STORE_IDENTITY_COMMAND='cat identity' exec \"$BIN\" doctor --json"));
    let document: Value = serde_json::from_str(&answer.out).unwrap();
    let checks = document["checks"].as_array().unwrap();
    for name in ["no capabilities", "no new privileges", "system calls", "landlock"] {
        let of_it: Vec<&Value> = checks.iter().filter(|check| check["check"] == name).collect();
        assert_eq!(of_it.len(), 1, "{name}: {of_it:?}");
        let detail = of_it[0]["detail"].as_str().unwrap();
        assert!(detail.starts_with("not in force: not taken with"), "{name}: {detail}");
    }
}
