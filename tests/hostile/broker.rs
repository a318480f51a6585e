//! The real binary, serving one entry from a home of its own.

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::UnixStream,
    },
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
        Self::start_for(config, None).await
    }

    /// The same, for whoever shows this capability.
    pub(crate) async fn start_guarded(config: &str, capability: &str) -> Self {
        Self::start_for(config, Some(capability)).await
    }

    async fn start_for(config: &str, capability: Option<&str>) -> Self {
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
        let mut serve = command(&["serve", "--socket", socket.to_str().unwrap()]);
        if let Some(capability) = capability {
            let file = home.path().join("capability");
            fs::write(&file, capability).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            serve.arg("--capability-file").arg(file);
        }
        let child = serve.stderr(Stdio::null()).spawn().unwrap();
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

    /// The files of its audit.
    pub(crate) fn audit_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.home.path().join(".local/state/credbroker/audit")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// What `audit verify` says of them.
    pub(crate) fn verify(&self) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_credbroker"))
            .env_clear()
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path().join("run"))
            .args(["audit", "verify"])
            .output()
            .unwrap()
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
