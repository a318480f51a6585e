//! The lifecycle of `run` and `serve` with the real binary: what the command gets, which signals reach it, and that
//! nothing is left behind.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::Write as _,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use command::{Answer, BIN, Host, NO_BOUNDARY, PATH, Running, Serve, code, kill, modes_below, wait_until};
use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use sha2::{Digest as _, Sha256};

const FORWARDED: [(&str, Signal); 6] = [
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("HUP", Signal::HUP),
    ("QUIT", Signal::QUIT),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
];

/// A `run` of a shell script.
fn run(host: &Host, script: &str) -> Command {
    let mut command = host.command(&["run", "--allow", "p", "--", "sh", "-c", script]);
    command.env("BIN", BIN);
    command
}

/// A script that says that it runs and then waits for standard input to end.
const WAITING: &str = "echo $$; read x; exit 0";

fn capability(byte: u8) -> (String, String) {
    let bytes = [byte; 32];
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    (hex(&bytes), hex(&Sha256::digest(bytes)))
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

// What the command gets.

#[test]
fn the_command_gets_the_users_environment_without_what_is_the_brokers() {
    let host = Host::new();
    host.write(
        "config/credbroker/config.toml",
        "[providers.p]\nissuer = \"https://p.example\"\nclient_id = \"c\"\nclient_secret_env = \"P_SECRET\"\n",
    );
    let mut command = host.command(&["run", "--", "env", "-0"]);
    for (name, value) in [
        ("P_SECRET", "hunter2"),
        ("CREDBROKER_AUDIT_PATH", "audit"),
        ("CREDBROKER_CAPABILITY", "of-another-broker"),
        ("CREDBROKER_SOCKET", ""),
        ("LISTEN_FDNAMES", "x"),
        ("LISTEN_PIDFDID", "1"),
        ("NOTIFY_SOCKET", "/nonexistent"),
        ("KEPT", "a b\nc=d"),
        ("CREDBROKE", "kept"),
        ("credbroker_x", "kept"),
        ("EMPTY", ""),
        ("RUST_LOG", "error"),
    ] {
        command.env(name, value);
    }
    command.env("BYTES", OsStr::from_bytes(b"\xff\xfe"));
    let mut expected: BTreeMap<OsString, OsString> = command
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()))
        .collect();
    let output = command.output().unwrap();
    assert_eq!(code(output.status), 0, "{output:?}");
    let mut found: BTreeMap<OsString, OsString> = output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let equals = line.iter().position(|byte| *byte == b'=').unwrap();
            (
                OsString::from_vec(line[..equals].to_vec()),
                OsString::from_vec(line[equals + 1..].to_vec()),
            )
        })
        .collect();

    let socket = PathBuf::from(found.remove(OsStr::new("CREDBROKER_SOCKET")).unwrap());
    assert!(socket.is_absolute() && socket.starts_with(host.runtime()) && socket.ends_with("sandbox/sock"));
    let capability = found.remove(OsStr::new("CREDBROKER_CAPABILITY")).unwrap();
    let capability = capability.to_str().unwrap();
    assert!(
        capability.len() == 64 && capability.bytes().all(|b| b.is_ascii_hexdigit()),
        "{capability}"
    );

    for removed in [
        "P_SECRET",
        "CREDBROKER_AUDIT_PATH",
        "CREDBROKER_CAPABILITY",
        "CREDBROKER_SOCKET",
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
        "NOTIFY_SOCKET",
    ] {
        expected.remove(OsStr::new(removed)).unwrap();
    }
    assert_eq!(found, expected);
}

#[test]
fn every_run_has_a_capability_of_its_own() {
    let host = Host::new();
    let seen: Vec<String> = (0..2)
        .map(|_| Answer::of(run(&host, "echo $CREDBROKER_CAPABILITY")).succeeded().out)
        .collect();
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn the_commands_umask_is_the_users_and_the_brokers_files_are_private_under_any() {
    for umask in ["0000", "0022", "0027"] {
        let host = Host::with_entry();
        let script = "umask; \"$BIN\" token get p; read x; exit 0";
        let mut command = host.shell(&format!(
            "umask {umask}; exec \"$BIN\" run --allow p -- sh -c '{script}'"
        ));
        command.stderr(Stdio::null());
        let running = Running::start(command);
        assert_eq!(running.line().trim_start_matches('0'), umask.trim_start_matches('0'));
        assert_eq!(running.line(), "access-1");
        if cfg!(target_os = "linux") {
            // Files that nobody gave a mode to are private as well.
            let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
            assert!(status.contains("\nUmask:\t0077\n"), "{status}");
        }
        // The record of the call is written soon, by a task of its own.
        let audit = host.path("state/credbroker/audit");
        wait_until("there is an audit file", || {
            audit.is_dir() && !modes_below(&audit).is_empty()
        });

        let mut sockets = 0;
        for root in [host.runtime(), host.store(), audit] {
            assert_eq!(mode(&root), 0o700, "{root:?} under {umask}");
            for (path, mode) in modes_below(&root) {
                let about = path.symlink_metadata().unwrap();
                sockets += usize::from(about.file_type().is_socket());
                let want = if about.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(mode, want, "{path:?} under {umask}");
            }
        }
        assert_eq!(sockets, 2);
        assert_eq!(running.end(), 0);
    }
}

#[test]
fn the_socket_accepts_before_the_command_starts_and_the_warning_comes_once() {
    let host = Host::with_entry();
    let answer = Answer::of(run(
        &host,
        "test -S \"$CREDBROKER_SOCKET\" && exec \"$BIN\" token get p",
    ))
    .succeeded();
    assert_eq!(answer.out, "access-1\n");
    assert_eq!(answer.err, NO_BOUNDARY);
}

#[test]
fn the_command_may_do_what_the_flags_name_and_nothing_else() {
    let host = Host::with_entry();
    host.import("q", r#"{"access_token":"access-2"}"#);
    let ask = |flags: &[&str], arguments: &[&str]| {
        let answer = host.run(&[&["run"], flags, &["--", BIN], arguments].concat());
        (answer.code, answer.out)
    };
    for (flags, arguments, expected) in [
        (&[][..], &["token", "get", "p"][..], (77, "")),
        (&[], &["key", "get", "k"], (77, "")),
        (&[], &["token", "list"], (0, "")),
        (&["--allow", "p"], &["token", "list"], (0, "p/default\n")),
        (&["--allow", "p"], &["token", "get", "q"], (77, "")),
        (
            &["--allow", "p", "--allow", "q"],
            &["token", "get", "q"],
            (0, "access-2\n"),
        ),
        (&["--allow", "*"], &["token", "list"], (0, "p/default\nq/default\n")),
        (&["--allow", "*"], &["key", "get", "k"], (77, "")),
        (&["--allow-key", "k"], &["key", "get", "k"], (0, "key-1\n")),
        (
            &["--allow-save", "p", "--allow-remove", "p", "--allow-login", "p"],
            &["token", "get", "p"],
            (77, ""),
        ),
    ] {
        let (code, out) = ask(flags, arguments);
        assert_eq!((code, out.as_str()), expected, "{flags:?} {arguments:?}");
    }
}

/// The lines, with masks cut to the signals that programs use: the C library keeps 32 and 33 for itself.
fn seen(out: &str) -> Vec<String> {
    let line = |line: &str| match line.split_once(":\t") {
        Some((mask, digits)) => format!("{mask} {:x}", u64::from_str_radix(digits, 16).unwrap() & 0x7fff_ffff),
        None => line.to_owned(),
    };
    out.lines().map(line).collect()
}

#[test]
fn the_command_gets_the_users_streams_and_signals_and_no_descriptor_of_the_broker() {
    let host = Host::new();
    let script = "cat; echo err >&2; grep -E '^Sig(Ign|Blk)' /proc/self/status; ls /proc/self/fd";
    let broker = Answer::with_input(run(&host, script), b"in\n");
    assert!(broker.out.starts_with("in\n"), "{broker:?}");
    assert_eq!(broker.err, format!("{NO_BOUNDARY}err\n"));
    // As without the broker: above all not the SIGPIPE that Rust programs ignore. But of descriptors only the streams (and the
    // one that `ls` reads the directory by), also if whoever runs the tests has left more of them open.
    let plain = Answer::with_input(host.shell(script), b"in\n");
    let (of_broker, of_plain) = (seen(&broker.out), seen(&plain.out));
    assert_eq!((broker.code, &of_broker[..3]), (plain.code, &of_plain[..3]));
    assert_eq!(of_broker[3..], ["0", "1", "2", "3"]);
}

// Signals.

#[test]
fn every_signal_is_passed_on_and_the_commands_reaction_is_what_counts() {
    let host = Host::new();
    for (name, signal) in FORWARDED {
        let script = format!("trap 'echo got {name}; kill $!; exit 3' {name}; sleep 60 >&- & echo ready; wait");
        let running = Running::start(run(&host, &script));
        assert_eq!(running.line(), "ready");
        running.signal(signal);
        assert_eq!(running.line(), format!("got {name}"));
        assert_eq!(running.end(), 3, "{name}");
        assert!(host.brokers().is_empty(), "{name}");
    }
}

#[test]
fn a_command_that_dies_of_the_signal_takes_the_broker_with_it() {
    let host = Host::new();
    for (_, signal) in FORWARDED {
        let running = Running::start(run(&host, "ulimit -c 0; echo ready; exec sleep 60"));
        assert_eq!(running.line(), "ready");
        assert_eq!(host.brokers().len(), 1);
        assert_eq!(running.end_by(signal), 128 + signal.as_raw());
        assert!(host.brokers().is_empty(), "{signal:?}");
    }
}

#[test]
fn a_command_that_ignores_the_signal_keeps_its_broker() {
    let host = Host::with_entry();
    let running = Running::start(run(
        &host,
        "trap '' TERM; trap 'echo int' INT; echo ready; while ! read x; do n=$((n + 1)); [ $n -lt 1000 ] || exit 9; done; \"$BIN\" token get p",
    ));
    assert_eq!(running.line(), "ready");
    running.signal(Signal::TERM);
    running.signal(Signal::INT);
    assert_eq!(running.line(), "int");
    writeln!(running.stdin.as_ref().unwrap(), "go on").unwrap();
    assert_eq!(running.line(), "access-1");
    assert_eq!(running.end(), 0);
}

#[test]
fn nohup_holds_for_the_command_and_for_serve() {
    let host = Host::with_entry();
    let running = Running::start(host.shell("trap '' HUP; exec \"$BIN\" run -- sh -c 'echo $$; read x; echo $x'"));
    let command: u32 = running.line().parse().unwrap();
    running.signal(Signal::HUP);
    kill(command, Signal::HUP);
    writeln!(running.stdin.as_ref().unwrap(), "alive").unwrap();
    assert_eq!(running.line(), "alive");
    assert_eq!(running.end(), 0);

    let serve = Serve::from_command(host.shell("trap '' HUP; exec \"$BIN\" --log-format json serve"));
    serve.signal(Signal::HUP);
    assert_eq!(serve.ask(&host, &["token", "get", "p"]).succeeded().out, "access-1\n");
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_at_a_terminal_reaches_the_command_once() {
    // The shell only waits, so it takes each signal at once; what it started in the background is not meant.
    let script = "sleep 60 <&- >&- 2>&- & trap 'echo int' INT; trap 'echo two' USR2; trap 'kill $!; echo end; exit 5' USR1; \
                  echo ready; while :; do wait $!; done";
    // Standard input may be another file than the terminal.
    for input in ["", "</dev/null"] {
        let host = Host::new();
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .open(OsStr::from_bytes(name.as_bytes()))
            .unwrap();
        // util-linux' setsid makes the terminal the controlling one. It forks if it leads a group, so it must not.
        let mut command = host.program("setsid");
        command
            .env("BIN", BIN)
            .args(["--ctty", "sh", "-c"])
            .arg(format!(
                "exec \"$BIN\" run -- sh -c '{}' {input}",
                script.replace('\'', "'\\''")
            ))
            .process_group(rustix::process::getpgrp().as_raw_pid())
            .stdin(slave)
            .stderr(Stdio::null());
        let running = Running::start_on(command);
        assert_eq!(running.line(), "ready");

        // `run` sleeps while the command takes the terminal's signal: two at once would look like one.
        running.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", running.pid());
        wait_until("run is stopped", || fs::read_to_string(&stat).unwrap().contains(") T "));
        File::from(terminal.try_clone().unwrap()).write_all(b"\x03").unwrap();
        assert_eq!(running.line(), "int");
        running.signal(Signal::CONT);
        // What comes later is passed on after what came before.
        for (signal, reaction) in [(Signal::USR2, "two"), (Signal::USR2, "two"), (Signal::USR1, "end")] {
            running.signal(signal);
            assert_eq!(running.line(), reaction, "with input {input:?}");
        }
        assert_eq!(running.end(), 5);
    }
}

// Nothing is left behind.

#[test]
fn nothing_is_left_when_the_command_ends_whatever_it_did() {
    let host = Host::with_entry();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -KILL $$", 137),
        ("\"$BIN\" token get p >/dev/null", 0),
    ] {
        assert_eq!(Answer::of(run(&host, script)).code, code, "{script}");
        assert!(host.brokers().is_empty(), "{script}");
    }
    let running = Running::start(run(&host, WAITING));
    let command: u32 = running.line().parse().unwrap();
    kill(command, Signal::KILL);
    assert_eq!(running.end(), 137);
    assert!(host.brokers().is_empty());
}

#[test]
fn what_the_command_leaves_running_does_not_hold_the_broker() {
    let host = Host::new();
    let running = Running::start(run(
        &host,
        "sleep 60 <&- >&- 2>&- & echo $!; echo $CREDBROKER_SOCKET; read x; exit 0",
    ));
    let background: u32 = running.line().parse().unwrap();
    let socket = PathBuf::from(running.line());
    // One that says nothing, one that got as far as an idle HTTP/2 connection.
    let silent = UnixStream::connect(&socket).unwrap();
    let mut idle = UnixStream::connect(&socket).unwrap();
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    assert_eq!(running.end(), 0);
    assert!(host.brokers().is_empty());
    assert!(UnixStream::connect(&socket).is_err());
    drop((silent, idle));
    kill(background, Signal::KILL);
}

#[test]
fn what_kill_9_of_run_leaves_is_swept_by_the_next_start() {
    let host = Host::new();
    let running = Running::start(run(&host, "echo $$; exec sleep 60"));
    let command: u32 = running.line().parse().unwrap();
    assert_eq!(running.end_by(Signal::KILL), 137);
    let left = host.brokers();
    assert_eq!(left.len(), 1);
    // A dead broker is none.
    assert!(
        host.run(&["status"])
            .succeeded()
            .out
            .starts_with("No broker is running.")
    );

    let next = Running::start(run(&host, WAITING));
    next.line();
    let now = host.brokers();
    assert!(now.len() == 1 && now != left, "{left:?} {now:?}");
    assert_eq!(next.end(), 0);
    assert!(host.brokers().is_empty());
    kill(command, Signal::KILL);
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let host = Host::new();
    let mut command = host.command(&["run", "--", "true"]);
    command.env("CREDBROKER_STORE_PATH", "/dev/null/store");
    assert_eq!(Answer::of(command).code, 0, "a store is opened when it is asked");
    // The control socket's path would be too long, which is known only after the directory's.
    let mut command = host.command(&["run", "--", "true"]);
    let deep = host.path(&"x".repeat(90));
    fs::create_dir(&deep).unwrap();
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).unwrap();
    command.env("XDG_RUNTIME_DIR", &deep);
    Answer::of(command).failed(125).saying("XDG_RUNTIME_DIR");
    assert!(modes_below(&deep).iter().all(|(path, _)| !path.ends_with("sandbox")));

    // The second socket's path is taken: the first one goes again.
    fs::write(host.path("taken"), "").unwrap();
    host.run(&["serve", "--socket", "taken"])
        .failed(64)
        .saying("is not a socket");
    assert!(host.brokers().is_empty() && host.path("taken").is_file());
}

// serve.

#[test]
fn serve_ends_with_0_on_the_signals_that_stop_it_and_leaves_nothing() {
    let host = Host::with_entry();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let serve = Serve::start(&host, &[]);
        assert_eq!(host.brokers(), ["daemon"]);
        let names = |below: &str| {
            let mut names: Vec<_> = fs::read_dir(host.runtime().join(below))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("daemon"), ["control.sock", "lock", "pid", "sandbox"]);
        assert_eq!(names("daemon/sandbox"), ["sock"]);
        serve.ask(&host, &["token", "get", "p"]).succeeded();
        serve.signal(signal);
        let stopping = serve.rest().into_iter().find(|line| line.contains("stopping")).unwrap();
        let stopping: serde_json::Value = serde_json::from_str(&stopping).unwrap();
        assert_eq!(stopping["fields"]["signal"], signal.as_raw());
        assert_eq!(serve.end(), 0, "{signal:?}");
        assert!(host.brokers().is_empty(), "{signal:?}");
    }
}

#[test]
fn a_second_serve_is_69_names_the_first_and_does_it_no_harm() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &[]);
    host.run(&["serve"]).failed(69).saying(&format!("pid {}", serve.pid()));
    let own = host.path("own");
    let other = Serve::start(&host, &["--socket", own.to_str().unwrap()]);
    assert_eq!(other.socket, own);
    host.run(&["serve", "--socket", own.to_str().unwrap()])
        .failed(69)
        .saying(&format!("pid {}", other.pid()));
    for broker in [&serve, &other] {
        assert_eq!(broker.ask(&host, &["token", "get", "p"]).succeeded().out, "access-1\n");
    }
    let status = host.run(&["status", "--json"]).succeeded();
    let json: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let mut pids: Vec<u64> = json["brokers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|broker| broker["pid"].as_u64().unwrap())
        .collect();
    pids.sort_unstable();
    let mut expected = vec![u64::from(serve.pid()), u64::from(other.pid())];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    assert_eq!(other.end_by(Signal::TERM), 0);
    assert!(!own.exists());
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn serve_starts_again_after_kill_9() {
    let host = Host::with_entry();
    let own = host.path("own");
    for flags in [&[][..], &["--socket", own.to_str().unwrap()]] {
        let serve = Serve::start(&host, flags);
        let socket = serve.socket.clone();
        assert_eq!(serve.end_by(Signal::KILL), 137);
        assert!(socket.exists());
        let again = Serve::start(&host, flags);
        assert_eq!(again.socket, socket);
        assert_eq!(again.ask(&host, &["token", "get", "p"]).succeeded().out, "access-1\n");
        assert_eq!(again.end_by(Signal::TERM), 0);
        assert!(host.brokers().is_empty() && !socket.exists());
    }
}

#[test]
fn a_socket_of_ones_own_choice_has_its_mode_and_its_directory_is_left_as_it_is() {
    let host = Host::with_entry();
    let (digits, _) = capability(7);
    let file = host.write("capability", &digits);
    let parent = host.path("sockets");
    fs::create_dir(&parent).unwrap();
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).unwrap();
    let path = parent.join("s");
    let own = path.to_str().unwrap();
    for (flags, expected) in [
        (&[][..], 0o600),
        (&["--socket-mode", "660"], 0o660),
        (&["--allow-uid", "12345", "--capability-file", &file], 0o600),
    ] {
        let serve = Serve::start(&host, &[&["--socket", own], flags].concat());
        assert_eq!(serve.socket, path);
        assert_eq!((mode(&path), mode(&parent)), (expected, 0o755), "{flags:?}");
        let mut client = serve.client(&host, &["token", "get", "p"]);
        client.env("CREDBROKER_CAPABILITY", &digits);
        assert_eq!(Answer::of(client).succeeded().out, "access-1\n");
        assert_eq!(serve.end_by(Signal::INT), 0);
        assert!(!path.exists() && mode(&parent) == 0o755);
    }
    // A relative path is one of the working directory.
    let serve = Serve::start(&host, &["--socket", "relative"]);
    assert_eq!(serve.socket, host.path("relative"));
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o777)).unwrap();
    host.run(&["serve", "--socket", own]).failed(78).saying("chmod go-w");
    host.run(&["serve", "--socket", "/nonexistent/s"])
        .failed(64)
        .saying("does not exist");
}

#[test]
fn an_ephemeral_serve_touches_no_store() {
    let host = Host::with_entry();
    let before = modes_below(&host.store());
    let serve = Serve::start(&host, &["--ephemeral", "--allow-key", "*"]);
    for list in ["token", "key"] {
        assert_eq!(serve.ask(&host, &[list, "list"]).succeeded().out, "");
    }
    serve.ask(&host, &["token", "get", "p"]).failed(66);
    assert_eq!(serve.end_by(Signal::TERM), 0);
    assert_eq!(modes_below(&host.store()), before);
    assert_eq!(host.run(&["token", "get", "p"]).succeeded().out, "access-1\n");
}

#[test]
fn each_sandbox_of_a_policy_has_its_own_rights() {
    let host = Host::with_entry();
    host.import("q", r#"{"access_token":"access-2"}"#);
    let ((one, one_sha), (two, two_sha)) = (capability(1), capability(2));
    let policy = host.write(
        "policy.toml",
        &format!(
            "[sandboxes.one]\ncapability_sha256 = \"{one_sha}\"\nallow = [\"p\"]\n\
             [sandboxes.two]\ncapability_sha256 = \"{two_sha}\"\nallow = [\"q/*\"]\nallow_key = [\"k\"]\n"
        ),
    );
    let serve = Serve::start(&host, &["--policy", &policy]);
    let ask = |capability: &str, arguments: &[&str]| {
        let mut client = serve.client(&host, arguments);
        client.env("CREDBROKER_CAPABILITY", capability);
        let answer = Answer::of(client);
        (answer.code, answer.out)
    };
    for (capability, arguments, expected) in [
        (&one, &["token", "get", "p"][..], (0, "access-1\n")),
        (&one, &["token", "get", "q"], (77, "")),
        (&one, &["key", "get", "k"], (77, "")),
        (&one, &["token", "list"], (0, "p/default\n")),
        (&two, &["token", "get", "q"], (0, "access-2\n")),
        (&two, &["token", "get", "p"], (77, "")),
        (&two, &["key", "get", "k"], (0, "key-1\n")),
        (&two, &["token", "list"], (0, "q/default\n")),
        (&capability(3).0, &["token", "list"], (77, "")),
        (&one_sha, &["token", "list"], (77, "")),
    ] {
        let (code, out) = ask(capability, arguments);
        assert_eq!((code, out.as_str()), expected, "{arguments:?}");
    }
    serve.ask(&host, &["token", "list"]).failed(77);
}

// Walls.

/// A uid that is not ours; root's tests need one that root is not.
const STRANGER: u32 = 65_534;

#[cfg(target_os = "linux")]
#[test]
fn no_other_process_of_the_user_can_read_the_brokers_memory_or_environment() {
    let host = Host::with_entry();
    let root = rustix::process::geteuid().is_root();
    let user = if root {
        STRANGER
    } else {
        rustix::process::geteuid().as_raw()
    };
    let program = if root {
        // Root may read everything, so the broker runs as somebody else, who must be able to reach it.
        let program = host.path("credbroker");
        fs::copy(BIN, &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        for path in [host.path(""), host.path("run"), host.path("data"), host.path("state")] {
            fs::create_dir_all(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(user), Some(user)).unwrap();
        }
        fs::remove_dir_all(host.store()).unwrap();
        program
    } else {
        BIN.into()
    };
    let as_user = |mut command: Command| {
        if root {
            command.uid(user).gid(user);
        }
        command
    };
    let unreadable = |pid: u32, file: &str| {
        let mut command = as_user(host.program("head"));
        command.args(["-c", "1", &format!("/proc/{pid}/{file}")]);
        Answer::of(command).code != 0
    };
    let owner = |pid: u32| fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();

    // What the check says of a process that is not protected.
    let mut plain = as_user(host.program("sh"));
    plain.args(["-c", "echo ready; read x"]);
    let plain = Running::start(plain);
    plain.line();
    assert!(!unreadable(plain.pid(), "environ") && owner(plain.pid()) == user);

    let mut serve = as_user(host.program(&program));
    serve.args(["--log-format", "json", "serve"]);
    let serve = Serve::from_command(serve);
    let mut run = as_user(host.program(&program));
    run.args(["run", "--", "sh", "-c", WAITING]);
    let run = Running::start(run);
    let command: u32 = run.line().parse().unwrap();
    for pid in [serve.pid(), run.pid()] {
        assert_ne!(owner(pid), user, "the process is dumpable");
        for file in ["environ", "maps", "mem", "fd/0"] {
            assert!(unreadable(pid, file), "{file}");
        }
    }
    // The command is the user's own and can be debugged as ever.
    assert!(!unreadable(command, "environ") && owner(command) == user);
    assert_eq!(run.end(), 0);
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

/// Whether this system lets the tests mount; many containers do not. Where it has to, `.ci/run` says so.
#[cfg(target_os = "linux")]
#[expect(clippy::disallowed_methods, reason = "a word from .ci/run to the tests")]
fn mount_namespaces() -> bool {
    let can = Command::new("unshare")
        .args(
            MOUNTING
                .iter()
                .copied()
                .filter(|_| !rustix::process::geteuid().is_root()),
        )
        .args(["--mount", "mount", "--make-rprivate", "/"])
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(
        can || std::env::var_os("INSIST_ON_EVERY_TEST").is_none(),
        "there are no mount namespaces here"
    );
    can
}

/// A user namespace with the subordinate uids of this user, for everybody but root.
#[cfg(target_os = "linux")]
const MOUNTING: [&str; 3] = ["--user", "--map-root-user", "--map-auto"];

#[cfg(target_os = "linux")]
#[test]
fn in_a_mount_namespace_with_sandbox_alone_only_the_allowed_uid_is_served() {
    let host = Host::with_entry();
    let (digits, _) = capability(9);
    let file = host.write("capability", &digits);
    // Others have to get at the program and at the directory of the mount, as in any container.
    fs::set_permissions(host.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let program = host.path("credbroker");
    fs::copy(BIN, &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(host.path("inside")).unwrap();
    fs::set_permissions(host.path("inside"), fs::Permissions::from_mode(0o755)).unwrap();

    let script = r#"
        set -eu
        ./credbroker --log-format json serve --capability-file "$FILE" --allow-uid 12345 2>log &
        broker=$!
        trap 'kill $broker 2>/dev/null || :' EXIT
        until grep -q '"serving"' log; do kill -0 $broker; sleep 0.02; done
        sandbox=$XDG_RUNTIME_DIR/credbroker/daemon/sandbox
        echo "modes $(stat -c %a "$sandbox") $(stat -c %a "$sandbox/sock")"
        ask() {
            uid=$1 socket=$2; shift 2
            setpriv --reuid "$uid" --regid "$uid" --clear-groups env -i \
                CREDBROKER_SOCKET="$socket" CREDBROKER_CAPABILITY="$CAPABILITY" \
                ./credbroker token get p 2>&1 || echo "code $?"
        }
        # On the host the runtime directory is the wall, whoever is allowed.
        echo "host $(ask 12345 "$sandbox/sock")"
        mount --make-rprivate /
        mount --bind "$sandbox" inside
        echo "names $(ls -A inside)"
        echo "allowed $(ask 12345 "$PWD/inside/sock")"
        echo "other $(ask 12346 "$PWD/inside/sock")"
        echo "own $(ask 0 "$PWD/inside/sock")"
        CAPABILITY=wrong
        echo "capability $(ask 12345 "$PWD/inside/sock")"
        umount inside
    "#;
    let mut command = host.program("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(MOUNTING);
    }
    command
        .args(["--mount", "sh", "-c", script])
        .env("FILE", &file)
        .env("CAPABILITY", &digits)
        .env("PATH", PATH);
    if !mount_namespaces() {
        println!(
            "not tested: this needs a mount namespace: root with CAP_SYS_ADMIN, or user namespaces with subordinate \
             uids in /etc/subuid and newuidmap (package uidmap)"
        );
        return;
    }
    let answer = Answer::of(command);
    assert_eq!(answer.code, 0, "{answer:?}");
    let said = |what: &str| {
        let begin = answer.out.split_once(&format!("{what} ")).unwrap().1;
        begin.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(said("modes")[0], "711 666");
    assert_eq!(
        said("host")[..2],
        [
            "credbroker: error: Cannot connect to the credential broker. Ensure the sandbox was started correctly.",
            "code 69"
        ]
    );
    assert_eq!(said("names")[0], "sock");
    assert_eq!(said("allowed")[0], "access-1");
    assert_eq!(
        said("other")[..2],
        [
            "credbroker: error: uid 12346 may not use this socket: the host allows it with `--allow-uid 12346` of `serve`, or with a --user, --uidmap or --userns of `run --sandbox` that stands for it",
            "code 77"
        ]
    );
    assert_eq!(said("own")[0], "access-1");
    assert!(said("capability")[0].contains("the capability is wrong") && said("capability")[1] == "code 77");
}
