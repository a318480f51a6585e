//! A server on loopback that does to each connection what its script says, octet by octet.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpStream as Held},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// What is done to a connection.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// Reads the request, writes this, and leaves the connection open.
    Answer(Vec<u8>),
    /// The same, then closes.
    AnswerAndClose(Vec<u8>),
    /// Reads the request and writes this, one part after each pause.
    Trickle(Vec<Vec<u8>>, Duration),
    /// Accepts and closes.
    CloseUnread,
    /// Reads the request, then resets.
    Reset,
}

/// The server, and what it has seen.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    accepted: usize,
    requests: Vec<String>,
    /// Connections whose script has ended and that this side left open.
    held: Vec<Held>,
}

impl Server {
    /// Does to the first connection what the first script says, and so on; the last script stands for all further ones.
    pub(crate) fn start(scripts: Vec<Script>) -> Self {
        Self::on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), scripts)
    }

    /// The same, where the address is part of the script.
    pub(crate) fn on(listener: std::net::TcpListener, scripts: Vec<Script>) -> Self {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                shared.lock().unwrap().accepted += 1;
                let script = scripts[number.min(scripts.len() - 1)].clone();
                tokio::spawn(serve(stream, script, Arc::clone(&shared)));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.seen.lock().unwrap().accepted
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }

    /// The client has closed this many connections that this side left open, by now: nothing is waited for but the
    /// server's own turn.
    pub(crate) async fn assert_closed(&self, many: usize) {
        let held = timeout(Duration::from_secs(10), async {
            loop {
                let held = {
                    let mut seen = self.seen.lock().unwrap();
                    if seen.held.len() >= many {
                        std::mem::take(&mut seen.held)
                    } else {
                        Vec::new()
                    }
                };
                if !held.is_empty() || many == 0 {
                    return held;
                }
                sleep(Duration::from_millis(1)).await;
            }
        });
        for (number, mut stream) in held.await.unwrap().into_iter().enumerate() {
            assert!(is_closed(&mut stream), "connection {number} is open");
        }
    }
}

/// Asked of the kernel, which knows of a close on loopback when `close` returns.
pub(crate) fn is_closed(stream: &mut Held) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

async fn serve(mut stream: TcpStream, script: Script, seen: Arc<Mutex<Seen>>) {
    if matches!(script, Script::CloseUnread) {
        return;
    }
    let request = request(&mut stream).await;
    seen.lock().unwrap().requests.push(request);
    match script {
        // A client that goes away in the middle is what some of the tests are about.
        Script::Answer(bytes) => drop(stream.write_all(&bytes).await),
        Script::AnswerAndClose(bytes) => {
            drop(stream.write_all(&bytes).await);
            return;
        }
        Script::Trickle(parts, pause) => {
            for part in parts {
                sleep(pause).await;
                if stream.write_all(&part).await.is_err() {
                    break;
                }
            }
        }
        Script::Reset => {
            stream.set_zero_linger().unwrap();
            return;
        }
        Script::CloseUnread => {}
    }
    let held = stream.into_std().unwrap();
    seen.lock().unwrap().held.push(held);
}

/// A whole request: head, and as much body as it says.
pub(crate) async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return text;
            }
        }
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return text,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
        }
    }
}

/// The value of a header field.
pub(crate) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let head = request.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// An answer with a body.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes()
}
