//! The real binary, serving one entry from a home of its own.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::DirBuilderExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

pub(crate) const PROVIDER: &str = "p";

pub(crate) struct Broker {
    child: Child,
    socket: PathBuf,
    home: TempDir,
}

/// What the broker holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) kib: u64,
    pub(crate) descriptors: usize,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// A broker with this `config.toml`.
    pub(crate) async fn start_with(config: &str) -> Self {
        let home = tempfile::Builder::new().prefix("cb").tempdir_in("/tmp").unwrap();
        let directory = |name: &str| {
            let path = home.path().join(name);
            fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
            path
        };
        let socket = directory("s").join("sock");
        directory("run");
        let config_file = home.path().join("config.toml");
        fs::write(&config_file, config).unwrap();
        let command = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_credbroker"));
            command
                .env_clear()
                .env("HOME", home.path())
                .env("XDG_RUNTIME_DIR", home.path().join("run"))
                .arg("--config")
                .arg(&config_file)
                .args(arguments);
            command
        };
        let mut import = command(&["token", "import", PROVIDER])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let token = br#"{"access_token": "a", "token_type": "Bearer"}"#;
        import.stdin.take().unwrap().write_all(token).unwrap();
        assert!(import.wait().unwrap().success());
        let child = command(&["serve", "--socket", socket.to_str().unwrap()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let broker = Self { child, socket, home };
        for _ in 0..500 {
            if UnixStream::connect(&broker.socket).is_ok() {
                return broker;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the broker in {} does not accept", broker.home.path().display());
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn held(&self) -> Held {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        Held {
            kib: line.split_whitespace().nth(1).unwrap().parse().unwrap(),
            descriptors: fs::read_dir(proc.join("fd")).unwrap().count(),
        }
    }

    /// Asks it to stop, as a service manager does.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
