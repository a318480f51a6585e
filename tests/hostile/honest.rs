//! An honest client: a process of its own, so that it has a pid of its own, with the stock client library.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use credbroker::{
    client::{CredentialStore as _, ProxyTokenStore},
    credential::EntryKey,
};
use tokio::time::Instant;

use crate::broker::PROVIDER;

const SOCKET: &str = "CREDBROKER_HOSTILE_TEST_SOCKET";
const CONNECTIONS: &str = "CREDBROKER_HOSTILE_TEST_CONNECTIONS";
const MARK: &str = "@@";
/// Below the 60 calls a second that one connection may make, and with [`SHARES`] connections in turn below the five of
/// each that pass however busy the socket is.
const PAUSE: Duration = Duration::from_millis(22);
const SHARES: usize = 10;

pub(crate) struct Honest {
    child: Child,
    ask: ChildStdin,
    told: BufReader<ChildStdout>,
}

/// What it went through since it was last asked.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) calls: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) worst: Duration,
    pub(crate) failure: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (p50, p99, worst) = (ms(self.p50), ms(self.p99), ms(self.worst));
        write!(f, "{} calls, p50 {p50:.1} p99 {p99:.1} worst {worst:.1} ms", self.calls)
    }
}

impl Honest {
    /// With one connection, that may be refused when others use up the socket's rate.
    pub(crate) fn start(socket: &Path) -> Self {
        Self::start_with(socket, 1)
    }

    /// With connections enough to be refused nothing, whatever others do.
    pub(crate) fn start_within_its_share(socket: &Path) -> Self {
        Self::start_with(socket, SHARES)
    }

    fn start_with(socket: &Path, connections: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "honest::a_process_of_its_own", "--nocapture"])
            .env(SOCKET, socket)
            .env(CONNECTIONS, connections.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut honest = Self {
            ask: child.stdin.take().unwrap(),
            told: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        assert_eq!(honest.line(), "connected");
        honest
    }

    pub(crate) fn report(&mut self) -> Report {
        self.ask.write_all(b"\n").unwrap();
        let line = self.line();
        let mut fields = line.splitn(5, ' ');
        let mut number = || fields.next().unwrap().parse::<u64>().unwrap();
        let (calls, p50, p99, worst) = (number(), number(), number(), number());
        Report {
            calls: calls as usize,
            p50: Duration::from_micros(p50),
            p99: Duration::from_micros(p99),
            worst: Duration::from_micros(worst),
            failure: fields.next().filter(|text| !text.is_empty()).map(str::to_owned),
        }
    }

    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.told.read_line(&mut line).unwrap() > 0, "the honest client died");
            // The test harness may have written something before it.
            if let Some((_, told)) = line.trim_end().split_once(MARK) {
                return told.to_owned();
            }
        }
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what [`Honest::start`] runs.
#[test]
fn a_process_of_its_own() {
    let environment = credbroker::config::Environment::from_process();
    let Some(socket) = environment.get(SOCKET).map(std::path::PathBuf::from) else {
        return;
    };
    let connections: usize = environment.get(CONNECTIONS).unwrap().to_str().unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let client = ProxyTokenStore::new(socket.clone(), None).unwrap();
            client.server_info().await.unwrap();
            clients.push(client);
        }
        println!("{MARK}connected");
        let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines() {
                if line.is_err() || asked.send(()).is_err() {
                    return;
                }
            }
        });
        let key = EntryKey::parse(PROVIDER, "").unwrap();
        let (mut times, mut failure) = (Vec::new(), String::new());
        for client in clients.iter().cycle() {
            let start = Instant::now();
            match client.get_token(&key, Duration::ZERO).await {
                Ok(_) => times.push(start.elapsed()),
                Err(error) if failure.is_empty() => failure = format!("{error}").replace('\n', " "),
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                asked = asks.recv() => {
                    if asked.is_none() {
                        return;
                    }
                    times.sort();
                    let at = |share: f64| {
                        let index = (times.len() as f64 * share) as usize;
                        times.get(index.min(times.len().saturating_sub(1))).map_or(0, Duration::as_micros)
                    };
                    println!("{MARK}{} {} {} {} {failure}", times.len(), at(0.5), at(0.99), at(1.0));
                    times.clear();
                }
            }
        }
    });
}
