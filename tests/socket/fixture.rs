//! Temporary directories, other users' directories, and brokers in processes of their own.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use credbroker::server::socket::{BrokerDir, DirName, Exposure, RuntimeDir, SocketError};
use tempfile::TempDir;

/// Who nobody is on every system that these tests run on.
pub(crate) const NOBODY: u32 = 65534;
const SCRIPT: &str = "CREDBROKER_SOCKET_TEST_SCRIPT";
const MARK: &str = "@@";

pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub(crate) fn own_pid() -> u32 {
    std::process::id()
}

/// A directory with mode 0700 and a short path, in which a test may do what it likes.
pub(crate) fn scratch() -> TempDir {
    let dir = tempfile::Builder::new().prefix("cb").tempdir_in("/tmp").unwrap();
    set_mode(dir.path(), 0o700);
    dir
}

pub(crate) fn runtime_in(scratch: &TempDir) -> RuntimeDir {
    RuntimeDir::open(&scratch.path().join("credbroker")).unwrap()
}

pub(crate) fn dir_with_mode(path: PathBuf, mode: u32) -> PathBuf {
    fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
    set_mode(&path, mode);
    path
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// A directory of somebody else, and its uid: for root one that is given away, for everybody else one of root's.
pub(crate) fn foreign_dir(scratch: &TempDir) -> (PathBuf, u32) {
    if own_uid() == 0 {
        let path = dir_with_mode(scratch.path().join("foreign"), 0o700);
        chown(&path, Some(NOBODY), None).unwrap();
        (path, NOBODY)
    } else {
        (PathBuf::from("/usr"), 0)
    }
}

/// Every path below, as it is written relative to `dir`, in order.
pub(crate) fn tree(dir: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}

/// A socket that nobody listens on any more.
pub(crate) fn stale_socket(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
}

/// What a broker in a process of its own is told to do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) runtime: PathBuf,
    pub(crate) daemon: bool,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) umask: Option<u32>,
    pub(crate) uid: Option<u32>,
}

/// A broker in a process of its own. It waits before it begins, and again before it ends.
pub(crate) struct Process {
    pub(crate) child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn spawn(script: &Script) -> Self {
        let text = format!(
            "{}\n{}\n{}\n{}",
            script.runtime.display(),
            script.daemon,
            script.socket.as_deref().unwrap_or(Path::new("")).display(),
            script.umask.map(|umask| umask.to_string()).unwrap_or_default(),
        );
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "fixture::broker_process", "--nocapture", "--test-threads=1"])
            .env(SCRIPT, text)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(uid) = script.uid.filter(|uid| *uid != own_uid()) {
            command.uid(uid).gid(uid).current_dir("/");
        }
        let mut child = command.spawn().unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Lets it begin.
    pub(crate) fn go(&mut self) {
        writeln!(self.input, "go").unwrap();
    }

    /// `ok`, or the failure and its message.
    pub(crate) fn outcome(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the process ended");
            if let Some((_, outcome)) = line.split_once(MARK) {
                return outcome.trim_end().to_owned();
            }
        }
    }

    pub(crate) fn started(script: &Script) -> Self {
        let mut process = Self::spawn(script);
        process.go();
        assert_eq!(process.outcome(), "ok");
        process
    }

    /// Lets it end in good order.
    pub(crate) fn end(self) {
        let Self {
            mut child,
            input,
            output,
        } = self;
        drop(input);
        assert!(child.wait().unwrap().success());
        drop(output);
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Not a test: what [`Process`] runs. Without a script it does nothing.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "this is how a test tells a process of its own what to do"
)]
fn broker_process() {
    let Ok(script) = std::env::var(SCRIPT) else {
        return;
    };
    let script: Vec<&str> = script.split('\n').collect();
    if !script[3].is_empty() {
        let bits = script[3].parse::<u32>().unwrap();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(bits));
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let serve = || -> Result<_, SocketError> {
        let runtime = RuntimeDir::open(Path::new(script[0]))?;
        let name = if script[1] == "true" {
            DirName::Daemon
        } else {
            DirName::Random
        };
        let broker = BrokerDir::create(&runtime, name)?;
        let control = broker.bind_control()?;
        let sandbox = match script[2] {
            "" => broker.bind_sandbox(Exposure::Private)?,
            path => broker.bind_at(Path::new(path), 0o600)?,
        };
        Ok((broker, control, sandbox))
    };
    let served = serve();
    match &served {
        Ok(_) => println!("{MARK}ok"),
        Err(error) => println!("{MARK}{:?}: {error}", error.failure()),
    }
    line.clear();
    std::io::stdin().read_line(&mut line).unwrap();
}
