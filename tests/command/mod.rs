//! The real binary with a private home, for the tests of the command line.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failure here is a test's failure")]

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder},
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _},
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;
use tokio::time::Instant;

/// The program under test.
pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_credbroker");
/// Where the tools of the system are.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The one line that `run` without a sandbox begins with.
pub(crate) const NO_BOUNDARY: &str =
    "credbroker: warning: --sandbox none is no boundary: the command runs as you and could read the store itself\n";

/// A home, a runtime directory and nothing else, gone with the test.
pub(crate) struct Host {
    home: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let home = TempDir::new().unwrap();
        DirBuilder::new().mode(0o700).create(home.path().join("run")).unwrap();
        Self { home }
    }

    /// With an entry `p/default` that is good for an hour, and an API key `k`.
    pub(crate) fn with_entry() -> Self {
        let host = Self::new();
        host.import(
            "p",
            r#"{"access_token":"access-1","refresh_token":"refresh-1","expires_in":3600}"#,
        );
        host.run_with(&["key", "set", "k"], b"key-1\n").succeeded();
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Where the brokers of this home have their directories.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.path("run/credbroker")
    }

    /// The directories of brokers, dead or alive.
    pub(crate) fn brokers(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.runtime()) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "lock")
            .collect();
        names.sort();
        names
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("data/credbroker")
    }

    /// Any program in this home's environment, and in a process group of its own, so that a terminal that the tests
    /// run on plays no part.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_STATE_HOME", self.path("state"))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(BIN);
        command.args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments))
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Answer {
        Answer::with_input(self.command(arguments), input)
    }

    pub(crate) fn import(&self, provider: &str, json: &str) {
        self.run_with(&["token", "import", provider], json.as_bytes())
            .succeeded();
    }

    /// A shell script; `$BIN` is the program under test.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = self.program("sh");
        command.env("BIN", BIN).args(["-c", script]);
        command
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Answer {
    /// 128+n for a signal, as shells have it.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    pub(crate) fn of(command: Command) -> Self {
        Self::from_child(command, |_| {})
    }

    pub(crate) fn with_input(mut command: Command, input: &[u8]) -> Self {
        command.stdin(Stdio::piped());
        Self::from_child(command, |child| {
            // A program that ends before it has read everything closes the pipe; what it says is judged instead.
            let _ = child.stdin.take().unwrap().write_all(input);
        })
    }

    /// What does not end is ended: a test fails, it does not hang.
    fn from_child(mut command: Command, talk: impl FnOnce(&mut Child)) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let group = Pid::from_child(&child);
        let (ended, watch) = mpsc::channel::<()>();
        thread::spawn(move || {
            if watch.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                // It may end at this moment, and that is all that is wanted.
                let _ = kill_process_group(group, Signal::KILL);
            }
        });
        talk(&mut child);
        let output = child.wait_with_output().unwrap();
        drop(ended);
        output.into()
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Ended with this code, said why on standard error, and printed no result.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.out.is_empty(), "{self:?}");
        assert!(!self.err.trim().is_empty(), "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn saying(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{text:?} is not in {self:?}");
        self
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: code(output.status),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// A program that runs beside the test. Killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Starts it with a standard input to write to.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped());
        Self::start_on(command)
    }

    /// Starts it with the command's own standard input.
    pub(crate) fn start_on(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines(child.stdout.take().unwrap());
        Self::of(child, lines)
    }

    fn of(mut child: Child, lines: mpsc::Receiver<String>) -> Self {
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("no further line: {error}"),
        }
    }

    /// Every line up to its end.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> i32 {
        drop(self.stdin.take());
        let mut status = None;
        wait_until("the program ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        code(status.unwrap())
    }

    /// Signals it and waits for its end.
    #[track_caller]
    pub(crate) fn end_by(self, signal: Signal) -> i32 {
        self.signal(signal);
        self.end()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only what was not waited for; with it goes what it started.
        if let Ok(None) = self.child.try_wait() {
            let group = Pid::from_child(&self.child);
            // It may end at this moment, and that is all that is wanted.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// A `serve` that accepts connections.
pub(crate) struct Serve {
    running: Running,
    pub(crate) socket: PathBuf,
}

impl Serve {
    #[track_caller]
    pub(crate) fn start(host: &Host, flags: &[&str]) -> Self {
        let mut command = host.command(&["--log-format", "json", "serve"]);
        command.args(flags);
        Self::from_command(command)
    }

    /// The command must end in a `serve` that logs JSON.
    #[track_caller]
    pub(crate) fn from_command(command: Command) -> Self {
        Self::from_command_on(command, fs::File::open("/dev/null").unwrap())
    }

    /// The same, with this as its standard input.
    #[track_caller]
    pub(crate) fn from_command_on(mut command: Command, stdin: impl Into<OwnedFd>) -> Self {
        let mut child = command
            .stdin(Stdio::from(stdin.into()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines(child.stderr.take().unwrap());
        let running = Running::of(child, lines);
        loop {
            let line = running.line();
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else {
                panic!("the broker did not start: {line}");
            };
            let fields = &line["fields"];
            if fields["message"] == "serving" {
                let socket = PathBuf::from(fields["socket"].as_str().unwrap());
                return Self { running, socket };
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// What it logs from now to its end.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.running.rest()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(self) -> i32 {
        self.running.end()
    }

    #[track_caller]
    pub(crate) fn end_by(self, signal: Signal) -> i32 {
        self.running.end_by(signal)
    }

    /// A command in a sandbox of this broker, which has only the socket.
    pub(crate) fn client(&self, host: &Host, arguments: &[&str]) -> Command {
        let mut command = host.command(arguments);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("CREDBROKER_SOCKET", &self.socket);
        command
    }

    pub(crate) fn ask(&self, host: &Host, arguments: &[&str]) -> Answer {
        Answer::of(self.client(host, arguments))
    }
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Looks again and again until it is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Every file below a directory with its permission bits, sockets and directories included.
pub(crate) fn modes_below(directory: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let about = path.symlink_metadata().unwrap();
        found.push((path.clone(), about.permissions().mode() & 0o7777));
        if about.is_dir() {
            found.extend(modes_below(&path));
        }
    }
    found
}

fn lines(source: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// Whether bubblewrap makes sandboxes here. Where it has to, `.ci/run` says so.
#[expect(clippy::disallowed_methods, reason = "a word from .ci/run to the tests")]
pub(crate) fn bwrap() -> bool {
    let arguments = [
        "--unshare-user",
        "--unshare-pid",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--",
        "true",
    ];
    let output = Command::new("bwrap").args(arguments).output();
    let can = output.is_ok_and(|output| output.status.success());
    assert!(
        can || std::env::var_os("INSIST_ON_EVERY_TEST").is_none(),
        "bubblewrap makes no sandboxes here"
    );
    can
}
