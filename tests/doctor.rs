//! `doctor` with the real binary: a healthy host, and one broken thing at a time. Each has to be told with its layer,
//! its mend and its exit code.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use command::{Answer, Host, PATH, Serve, modes_below};
use credbroker::{
    clock::{Clock as _, SystemClock},
    credential::{EntryKey, Intent},
    store::{
        OverCorrupt, StoredTokens, TokenGuard, TokenStore as _,
        file::{FileStore, FileStoreConfig, IdentitySource},
    },
};
use rustix::process::Signal;
use serde_json::Value;

const SECRETS: [&str; 4] = ["access-1", "refresh-1", "key-1", "AGE-SECRET-KEY"];

/// What a `doctor` said.
struct Told {
    code: i32,
    checks: Vec<Value>,
}

impl Told {
    #[track_caller]
    fn of(mut command: Command) -> Self {
        command.arg("--json");
        let answer = Answer::of(command);
        for secret in SECRETS {
            assert!(
                !answer.out.contains(secret) && !answer.err.contains(secret),
                "{answer:?}"
            );
        }
        let document: Value = serde_json::from_str(&answer.out).unwrap_or_else(|_| panic!("{answer:?}"));
        let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["checks", "ok"]);
        let checks = document["checks"].as_array().unwrap().clone();
        for check in &checks {
            let keys: Vec<&String> = check.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["check", "detail", "layer", "mend", "status"]);
            assert!(check["layer"].is_string() && check["check"].is_string() && check["detail"].is_string());
            assert_eq!(check["mend"].is_null(), check["status"] == "ok", "{check}");
        }
        let failed = checks.iter().any(|check| check["status"] == "fail");
        assert_eq!(document["ok"], !failed);
        assert_eq!(answer.code == 0, !failed, "{answer:?}");
        Self {
            code: answer.code,
            checks,
        }
    }

    #[track_caller]
    fn on(host: &Host) -> Self {
        Self::of(host.command(&["doctor"]))
    }

    /// Layer and check of everything with this status. Which runtimes this machine has is another test's affair.
    fn with(&self, status: &str) -> Vec<String> {
        self.checks
            .iter()
            .filter(|check| check["status"] == status && (check["layer"] != "sandbox" || status != "warn"))
            .map(|check| {
                format!(
                    "{} {}",
                    check["layer"].as_str().unwrap(),
                    check["check"].as_str().unwrap()
                )
            })
            .collect()
    }

    /// Nothing failed, and only this is worth a word.
    #[track_caller]
    fn warned(&self, of: &[&str]) -> &Self {
        assert_eq!(self.code, 0, "{:#?}", self.checks);
        assert_eq!(self.with("warn"), of, "{:#?}", self.checks);
        self
    }

    /// Ended with this code, and only this failed.
    #[track_caller]
    fn failed(&self, code: i32, of: &[&str]) -> &Self {
        assert_eq!(
            (self.code, self.with("fail")),
            (code, strings(of)),
            "{:#?}",
            self.checks
        );
        self
    }

    /// What was said of a check, detail and mend.
    #[track_caller]
    fn said(&self, of: &str, detail: &str, mend: &str) -> &Self {
        let found = self.checks.iter().any(|check| {
            of == format!(
                "{} {}",
                check["layer"].as_str().unwrap(),
                check["check"].as_str().unwrap()
            ) && check["detail"].as_str().unwrap().contains(detail)
                && check["mend"].as_str().unwrap_or_default().contains(mend)
        });
        assert!(found, "{of}: {detail:?}, {mend:?} is not in {:#?}", self.checks);
        self
    }
}

fn strings(of: &[&str]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn hex(name: &str) -> String {
    data_encoding::HEXLOWER.encode(name.as_bytes())
}

fn entry_file(host: &Host, provider: &str) -> PathBuf {
    let name = format!("{}.age", hex("default"));
    host.store().join("tokens").join(hex(provider)).join(name)
}

/// Every path with its mode and content.
fn everything(host: &Host) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    modes_below(&host.path(""))
        .into_iter()
        .map(|(path, mode)| {
            let content = if path.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            (path, (mode, content))
        })
        .collect()
}

#[test]
fn a_healthy_host_has_nothing_that_failed_and_nothing_is_changed_there() {
    let host = Host::with_entry();
    host.run(&["run", "--", "true"]).succeeded();
    let before = everything(&host);
    let told = Told::on(&host);
    told.warned(&[]);
    let mut layers: Vec<&str> = told
        .checks
        .iter()
        .map(|check| check["layer"].as_str().unwrap())
        .collect();
    layers.dedup();
    assert_eq!(
        layers,
        [
            "config", "store", "runtime", "brokers", "audit", "clock", "process", "sandbox"
        ]
    );
    told.said("config file", "config.toml is not there: defaults", "")
        .said("config environment", "overrides no key", "")
        .said("store identity", "identity.txt\", the store's own (1 identity)", "")
        .said("store entries", "1 entry, all open", "")
        .said("store API keys", "1 API key, all open", "")
        .said("store writing", "written, synced, locked and removed", "")
        .said("store file system", "not one that hosts are known to share", "")
        .said("store locks", "none is held", "")
        .said("runtime directory", "XDG_RUNTIME_DIR says so", "")
        .said("runtime path length", "bytes to spare", "")
        .said("brokers running", "none", "")
        .said("process unreadable memory", "cannot read it", "")
        .said("process no core file", "the limit is 0", "");
    assert!(everything(&host) == before);

    let answer = host.run(&["doctor"]).succeeded();
    assert!(
        answer.out.ends_with("\nNothing failed.\n") && answer.err.is_empty(),
        "{answer:?}"
    );
    // Which runtimes of sandboxes this machine has is not this host's health.
    let mut lines = answer.out.lines().rev().skip(1);
    let others = |line: &&str| !line.contains(" sandbox  ") && !line.trim_start().starts_with("mend: ");
    assert!(
        lines.by_ref().filter(others).all(|line| line.starts_with("ok    ")),
        "{answer:?}"
    );
    assert!(everything(&host) == before);
}

#[test]
fn an_empty_home_is_healthy_and_stays_empty() {
    let host = Host::new();
    let before = everything(&host);
    let told = Told::on(&host);
    told.warned(&[])
        .said("store directory", "will be made with the first login or import", "")
        .said("store identity", "will be made with the first login or import", "")
        .said("store entries", "none", "")
        .said("runtime directory", "will be made by the first broker", "")
        .said("audit directory", "will be made with the first record", "");
    assert!(everything(&host) == before);
}

#[test]
fn without_a_home_it_says_so_and_goes_on() {
    let host = Host::new();
    let mut command = host.command(&["doctor"]);
    command.env_clear().env("PATH", PATH).env("TMPDIR", host.path("run"));
    let told = Told::of(command);
    told.failed(78, &["store directory", "audit directory"])
        .said("config file", "no home directory", "")
        .said("store directory", "store.path is not set", "set HOME or store.path")
        .said("runtime directory", "XDG_RUNTIME_DIR is not set", "");
}

#[test]
fn a_wrong_key_is_told_with_its_line_and_what_depends_on_it_is_left_out() {
    let host = Host::with_entry();
    host.write("config/credbroker/config.toml", "[store]\nidentity_fil = \"x\"\n");
    let told = Told::on(&host);
    told.failed(78, &["config keys"])
        .said(
            "config keys",
            "config.toml:2: unknown key",
            "did you mean \"identity_file\"?",
        )
        .said("store directory", "not checked", "above")
        .said("audit directory", "not checked", "above")
        .said("clock wall clock", "20", "");
    let text = host.run(&["doctor"]);
    assert_eq!(text.code, 78);
    assert!(text.out.contains("\nFAIL  config   keys: "), "{text:?}");
    assert!(text.out.contains("\n               mend: did you mean"), "{text:?}");
    assert!(
        text.out.ends_with("\n1 failed, the first in the layer config.\n"),
        "{text:?}"
    );
}

#[test]
fn overrides_are_named_without_their_values() {
    let host = Host::with_entry();
    let mut command = host.command(&["doctor"]);
    let elsewhere = host.path("elsewhere");
    command.env("CREDBROKER_STORE_PATH", &elsewhere);
    Told::of(command)
        .warned(&[])
        .said("config environment", "overridden by CREDBROKER_STORE_PATH", "")
        .said("store directory", "elsewhere\" will be made", "");
    assert!(!elsewhere.exists());
    let mut command = host.command(&["doctor"]);
    command.env("CREDBROKER_STORE_PAHT", "access-1");
    Told::of(command).failed(78, &["config keys"]).said(
        "config keys",
        "CREDBROKER_STORE_PAHT",
        "CREDBROKER_STORE_PATH",
    );
    let mut command = host.command(&["doctor"]);
    command.env("CREDBROKER_STORE_BACKEND", "memory");
    Told::of(command).warned(&[]).said("store backend", "memory", "");
}

#[test]
fn an_identity_that_others_can_read_locks_the_store() {
    let host = Host::with_entry();
    chmod(host.store().join("identity.txt"), 0o644);
    Told::on(&host)
        .failed(75, &["store identity"])
        .said("store identity", "the store is locked", "run `chmod 600 ")
        .said("store entries", "not checked", "above")
        .said("store writing", "can be written", "");
}

#[test]
fn an_identity_that_is_gone_is_not_made_anew() {
    let host = Host::with_entry();
    fs::remove_file(host.store().join("identity.txt")).unwrap();
    Told::on(&host)
        .failed(75, &["store identity"])
        .said("store identity", "locked", "restore it from a backup");
    assert!(!host.store().join("identity.txt").exists());
}

#[test]
fn another_stores_identity_is_told_from_damage() {
    let host = Host::with_entry();
    let other = Host::with_entry();
    fs::copy(other.store().join("identity.txt"), host.store().join("identity.txt")).unwrap();
    Told::on(&host).failed(65, &["store entries", "store API keys"]).said(
        "store entries",
        "entry p/default is corrupt",
        "probably not the identity",
    );
}

#[test]
fn an_identity_command_that_fails_is_told_without_its_words() {
    let host = Host::with_entry();
    host.write(
        "config/credbroker/config.toml",
        "[store]\nidentity_command = \"echo access-1; exit 3\"\n",
    );
    Told::on(&host)
        .failed(75, &["store identity"])
        .said("store identity", "locked", "`identity_command` failed");
    host.write(
        "config/credbroker/config.toml",
        &format!(
            "[store]\nidentity_command = \"cat {}/identity.txt\"\n",
            host.store().display()
        ),
    );
    Told::on(&host)
        .warned(&[])
        .said("store identity", "what identity_command prints (1 identity)", "")
        .said("store entries", "all open", "");
}

#[test]
fn a_corrupt_entry_is_named() {
    let host = Host::with_entry();
    host.import("q", r#"{"access_token":"access-1"}"#);
    fs::write(entry_file(&host, "p"), "damaged").unwrap();
    Told::on(&host)
        .failed(65, &["store entries"])
        .said("store entries", "p/default is corrupt", "store it anew");
    assert_eq!(fs::read(entry_file(&host, "p")).unwrap(), b"damaged");
}

#[test]
fn an_entry_of_a_newer_format_is_named() {
    let host = Host::with_entry();
    let identity = fs::read_to_string(host.store().join("identity.txt")).unwrap();
    let secret = identity.lines().find(|line| line.starts_with("AGE-")).unwrap();
    let recipient = secret.parse::<age::x25519::Identity>().unwrap().to_public();
    let sealed = age::encrypt(&recipient, br#"{"format":2,"anything":1}"#).unwrap();
    fs::write(entry_file(&host, "p"), sealed).unwrap();
    Told::on(&host).failed(69, &["store entries"]).said(
        "store entries",
        "newer credbroker (format 2)",
        "upgrade credbroker",
    );
}

#[test]
fn a_store_that_is_a_file_or_that_others_can_write_to_is_told() {
    let host = Host::new();
    host.write("data/credbroker", "x");
    Told::on(&host)
        .failed(69, &["store directory"])
        .said("store directory", "Not a directory", "set `path` in [store]")
        .said("store identity", "not checked", "above");
    let host = Host::with_entry();
    chmod(host.store(), 0o777);
    Told::on(&host)
        .failed(75, &["store directory"])
        .said("store directory", "locked", "run `chmod 700 ");
    let host = Host::new();
    host.write("data", "x");
    Told::on(&host).failed(69, &["store directory"]);
    let host = Host::with_entry();
    fs::remove_dir_all(host.store().join("tokens")).unwrap();
    fs::write(host.store().join("tokens"), "x").unwrap();
    Told::on(&host)
        .failed(69, &["store entries", "store writing"])
        .said(
            "store entries",
            "Not a directory",
            "a file is where a directory has to be",
        )
        .said(
            "store writing",
            "Not a directory",
            "a file is where a directory has to be",
        );
}

#[test]
fn a_runtime_directory_that_others_can_enter_is_told() {
    let host = Host::new();
    fs::DirBuilder::new().mode(0o755).create(host.runtime()).unwrap();
    chmod(host.runtime(), 0o755);
    Told::on(&host)
        .failed(78, &["runtime directory"])
        .said("runtime directory", "unsafe mode 0755", "chmod 700 ")
        .said("brokers running", "not checked", "above");
}

#[test]
fn a_runtime_directory_behind_a_link_or_missing_is_told() {
    let host = Host::new();
    fs::create_dir(host.path("elsewhere")).unwrap();
    symlink(host.path("elsewhere"), host.runtime()).unwrap();
    Told::on(&host)
        .failed(78, &["runtime directory"])
        .said("runtime directory", "is a symbolic link", "move it away");
    let mut command = host.command(&["doctor"]);
    command.env("XDG_RUNTIME_DIR", host.path("absent"));
    Told::of(command).failed(78, &["runtime directory"]).said(
        "runtime directory",
        "absent does not exist",
        "set XDG_RUNTIME_DIR",
    );
    let mut command = host.command(&["doctor"]);
    command.env("XDG_RUNTIME_DIR", "run").env("TMPDIR", host.path("run"));
    Told::of(command).warned(&["runtime environment"]).said(
        "runtime environment",
        "not an absolute path",
        "absolute path",
    );
}

#[test]
fn a_runtime_directory_with_no_room_for_sockets_is_told_with_the_way_out() {
    let host = Host::new();
    let long = host.path(&"x".repeat(100));
    fs::DirBuilder::new().mode(0o700).create(&long).unwrap();
    let mut command = host.command(&["doctor"]);
    command.env("XDG_RUNTIME_DIR", long);
    Told::of(command).failed(78, &["runtime path length"]).said(
        "runtime path length",
        if cfg!(target_os = "linux") { "107" } else { "103" },
        "set XDG_RUNTIME_DIR to a shorter directory",
    );
}

#[test]
fn a_live_broker_is_told_and_so_is_one_that_does_not_answer() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &[]);
    let answers = format!("pid {} answers, version {}", serve.pid(), env!("CARGO_PKG_VERSION"));
    let serves = format!("pid {} serves", serve.pid());
    Told::on(&host)
        .warned(&[])
        .said("brokers running", &answers, "")
        .said("brokers health", &serves, "")
        .said("brokers leftovers", "none", "");

    serve.signal(Signal::STOP);
    let silent = format!("pid {} does not answer", serve.pid());
    let told = Told::on(&host);
    serve.signal(Signal::CONT);
    told.failed(69, &["brokers running"])
        .said("brokers running", &silent, "stop this process");
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn what_a_killed_broker_left_is_named_and_left_to_the_next_start() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &[]);
    serve.end_by(Signal::KILL);
    let before = everything(&host);
    Told::on(&host).warned(&["brokers leftovers"]).said(
        "brokers leftovers",
        "credbroker/daemon",
        "swept by the next start",
    );
    assert!(everything(&host).keys().eq(before.keys()));
    assert_eq!(host.brokers(), ["daemon"]);
}

#[test]
fn a_lock_that_another_process_holds_is_named_with_its_process() {
    let host = Host::with_entry();
    let path = host
        .store()
        .join("locks")
        .join(hex("p"))
        .join(format!("{}.lock", hex("default")));
    let held = File::open(&path).unwrap();
    held.lock().unwrap();
    let told = Told::on(&host);
    drop(held);
    told.warned(&["store locks"])
        .said("store locks", "holds the lock of p/default", "fuser ");
    if cfg!(target_os = "linux") {
        told.said("store locks", &format!("process {} holds", std::process::id()), "");
    }
    Told::on(&host).warned(&[]);
}

#[test]
fn an_audit_directory_that_cannot_be_one_is_told() {
    let host = Host::with_entry();
    host.write("state/credbroker/audit", "x");
    Told::on(&host).failed(78, &["audit directory"]).said(
        "audit directory",
        "Not a directory",
        "set `path` in [audit]",
    );
}

#[test]
fn runtimes_of_sandboxes_are_told_as_they_are_and_fail_nothing() {
    let host = Host::with_entry();
    let runtimes = host.path("runtimes");
    let made = |name: &str, script: &str| {
        host.write(&format!("runtimes/{name}"), &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(runtimes.join(name), Permissions::from_mode(0o755)).unwrap();
    };
    let look = || {
        let mut doctor = host.command(&["doctor"]);
        doctor.env("PATH", &runtimes);
        Told::of(doctor)
    };
    fs::create_dir(&runtimes).unwrap();
    let none = look();
    for name in ["bwrap", "podman", "docker"] {
        none.said(&format!("sandbox {name}"), "not installed", "");
    }
    made("bwrap", "echo it makes sandboxes");
    made("docker", "echo version 1.2.3");
    look()
        .said("sandbox bwrap", "runtimes/bwrap, it makes sandboxes", "")
        .said("sandbox docker", "runtimes/docker, version 1.2.3", "");
    made("bwrap", "echo No permissions to create new namespace >&2; exit 1");
    made("docker", "echo Cannot connect to the daemon >&2; exit 1");
    let broken = look();
    assert_eq!(broken.code, 0);
    broken
        .said("sandbox bwrap", "No permissions to create new namespace", "")
        .said("sandbox docker", "Cannot connect to the daemon", "start its daemon");
}

#[test]
fn several_failures_end_with_the_code_of_the_first_layer() {
    let host = Host::with_entry();
    host.write("state/credbroker/audit", "x");
    fs::write(entry_file(&host, "p"), "damaged").unwrap();
    Told::on(&host).failed(65, &["store entries", "audit directory"]);
}

/// A directory of a user who is refused what the mode refuses: nothing is, to the administrator.
struct Elsewhere(tempfile::TempDir);

impl Elsewhere {
    const NOBODY: u32 = 65_534;

    fn new() -> Self {
        let elsewhere = Self(tempfile::TempDir::new().unwrap());
        elsewhere.give("");
        elsewhere
    }

    /// Makes what is there this user's own.
    fn give(&self, name: &str) {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(self.0.path().join(name), Some(Self::NOBODY), Some(Self::NOBODY)).unwrap();
        }
    }

    /// Looks as this user at the store of the host.
    fn doctor(&self, host: &Host) -> Command {
        if !rustix::process::geteuid().is_root() {
            return host.command(&["doctor"]);
        }
        // The home keeps him out.
        let binary = self.0.path().join("bin");
        fs::copy(command::BIN, &binary).unwrap();
        chmod(&binary, 0o755);
        let mut command = host.program(binary);
        command
            .arg("doctor")
            .current_dir("/")
            .env("XDG_RUNTIME_DIR", self.0.path())
            .env("XDG_STATE_HOME", self.0.path())
            .uid(Self::NOBODY)
            .gid(Self::NOBODY);
        command
    }
}

/// Where a store is to be made, or records are to be written, nobody else can tell beforehand.
#[test]
fn a_directory_that_nothing_can_be_written_to_is_told() {
    let host = Host::new();
    let elsewhere = Elsewhere::new();
    let [data, store] = ["data", "data/credbroker"].map(|name| elsewhere.0.path().join(name));
    let told = || {
        let mut command = elsewhere.doctor(&host);
        command.env("XDG_DATA_HOME", &data);
        Told::of(command)
    };
    fs::create_dir(&data).unwrap();
    elsewhere.give("data");
    chmod(&data, 0o500);
    told()
        .failed(69, &["store directory"])
        .said("store directory", "Permission denied", "let this user write to");
    chmod(&data, 0o700);
    told().failed(0, &[]).said("store directory", "will be made", "");
    fs::DirBuilder::new().mode(0o700).create(&store).unwrap();
    fs::DirBuilder::new().mode(0o500).create(store.join("tokens")).unwrap();
    elsewhere.give("data/credbroker");
    elsewhere.give("data/credbroker/tokens");
    told()
        .failed(69, &["store writing"])
        .said("store writing", "tokens", "check the permissions");
    chmod(store.join("tokens"), 0o700);
    told().failed(0, &[]).said("store writing", "a file can be written", "");
}

#[test]
fn a_store_that_cannot_be_looked_at_gets_answers_too() {
    let host = Host::with_entry();
    let elsewhere = Elsewhere::new();
    let command = elsewhere.doctor(&host);
    if !rustix::process::geteuid().is_root() {
        chmod(host.path("data"), 0);
    }
    let told = Told::of(command);
    // So that what is there can be removed again.
    chmod(host.path("data"), 0o700);
    told.failed(69, &["store directory"])
        .said("store directory", "Permission denied", "the user that it belongs to")
        .said("store identity", "not checked", "above");
}

fn in_sandbox(host: &Host, socket: &Path) -> Command {
    let mut command = host.command(&["doctor"]);
    command.env_clear().env("PATH", PATH).env("CREDBROKER_SOCKET", socket);
    command
}

const CANNOT_CONNECT: &str = "Cannot connect to the credential broker. Ensure the sandbox was started correctly.";

#[test]
fn in_a_sandbox_a_socket_without_a_broker_is_told_in_the_clients_words() {
    let host = Host::new();
    let absent = host.path("absent");
    Told::of(in_sandbox(&host, &absent))
        .failed(69, &["socket path"])
        .said("socket path", "No such file", CANNOT_CONNECT)
        .said("broker handshake", "not checked", "");
    let file = host.write("file", "");
    Told::of(in_sandbox(&host, file.as_ref()))
        .failed(69, &["socket path"])
        .said("socket path", "is not a socket", CANNOT_CONNECT);
    let stale = host.path("stale");
    drop(UnixListener::bind(&stale).unwrap());
    Told::of(in_sandbox(&host, &stale))
        .failed(69, &["socket connecting"])
        .said("socket connecting", "Connection refused", CANNOT_CONNECT);
}

#[test]
fn in_a_sandbox_the_handshake_the_capability_and_the_health_are_told() {
    let host = Host::with_entry();
    let inside = host.run(&["run", "--", command::BIN, "doctor", "--json"]);
    assert_eq!(inside.code, 0, "{inside:?}");
    let told: Value = serde_json::from_str(&inside.out).unwrap();
    let order: Vec<&str> = told["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(order, ["path", "connecting", "handshake", "capability", "health"]);
    assert_eq!(told["ok"], true);

    let file = host.write("capability", &format!("{}\n", "ab".repeat(32)));
    let serve = Serve::start(&host, &["--capability-file", &file]);
    Told::of(in_sandbox(&host, &serve.socket))
        .failed(77, &["broker capability"])
        .said("broker capability", "CREDBROKER_CAPABILITY is not set", "capability")
        .said("broker health", "it serves", "");
    let mut wrong = in_sandbox(&host, &serve.socket);
    wrong.env("CREDBROKER_CAPABILITY", "cd".repeat(32));
    Told::of(wrong)
        .failed(77, &["broker capability"])
        .said("broker capability", "does not accept", "");
    let mut right = in_sandbox(&host, &serve.socket);
    right.env("CREDBROKER_CAPABILITY", "ab".repeat(32));
    Told::of(right).warned(&[]).said("broker capability", "accepted", "");

    // The health is the store's.
    chmod(host.store().join("identity.txt"), 0o644);
    let mut right = in_sandbox(&host, &serve.socket);
    right.env("CREDBROKER_CAPABILITY", "ab".repeat(32));
    Told::of(right)
        .failed(69, &["broker health"])
        .said("broker health", "does not serve", "on the host");
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn an_interrupted_refresh_is_explained_once_nobody_is_at_it() {
    let host = Host::with_entry();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lock = runtime.block_on(mark(&host));
    Told::on(&host)
        .warned(&["store locks"])
        .said("store entries", "1 entry, all open", "");
    drop(lock);
    Told::on(&host).warned(&["store entries"]).said(
        "store entries",
        "a refresh of p/default was interrupted: it began at 20",
        "needs a login",
    );
    let status = host.run(&["status"]).succeeded();
    assert!(status.out.contains("ambiguous"), "{status:?}");
    assert!(
        status.out.contains("A refresh of p/default was interrupted"),
        "{status:?}"
    );
}

#[test]
fn a_clock_that_was_stepped_back_is_told_by_what_was_stored_later() {
    let host = Host::with_entry();
    Told::on(&host).warned(&[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(change(&host, |record| {
        let expiry = record.tokens.expiry.as_mut().unwrap();
        expiry.stored.wall += Duration::from_secs(7200);
    }));
    let told = Told::on(&host);
    told.warned(&["clock wall clock"])
        .said("clock wall clock", "a token was stored 7", "");
}

/// Marks the entry as a refresh does that begins, and keeps its lock.
async fn mark(host: &Host) -> Box<dyn TokenGuard> {
    change(host, |record| {
        let refresh_token = record.tokens.refresh_token.as_ref().unwrap();
        record.intent = Some(Box::new(Intent::to_present(refresh_token, &SystemClock::new().now())));
    })
    .await
}

/// Changes the entry, and keeps its lock.
async fn change(host: &Host, change: impl FnOnce(&mut StoredTokens)) -> Box<dyn TokenGuard> {
    let store = FileStore::open(FileStoreConfig {
        path: host.store(),
        identity: IdentitySource::Default,
        allow_network_fs: false,
    })
    .unwrap();
    let mut guard = store
        .lock(&EntryKey::parse("p", "").unwrap(), Duration::from_secs(5))
        .await
        .unwrap();
    let mut record = (*guard.read().await.unwrap().unwrap()).clone();
    change(&mut record);
    guard.put(Arc::new(record), OverCorrupt::Refuse).await.unwrap();
    guard
}
