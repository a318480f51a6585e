//! Any octets at the socket in any pieces, with pauses between them: the server ends a connection or answers in well-formed
//! frames that are no more than what was asked can bring, says the same of frames that neither call nor take leave whatever pieces they
//! come in, ends what is too slow or too much, and then serves the next client.

#![no_main]

use std::{cell::OnceCell, time::Duration};

use credbroker::{
    broker::Renewals,
    proto::credential_broker_server::CredentialBrokerServer,
    server::{Layers, Routes, Served, admission::Admission, peer::AllowedPeers, serve},
    service::{CredentialService, status::MAX_MESSAGE_SIZE},
};
use credbroker_fuzz::{
    holds,
    house::{FORBIDDEN, House, NEVER, caller},
    input::Input,
};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    time::{Instant, advance, sleep},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
/// Less than the time that anything of a connection is given.
const NO_TIME: Duration = Duration::from_secs(1);
/// What the reasons of an end have in common that depend on how many frames come in what time.
const TOO_MANY: &str = "too_many";
/// A call of GetServerInfo on stream 1, with nothing in tables.
const CALL: &[u8] = b"\x83\x86\x04\x2d/credbroker.v1.CredentialBroker/GetServerInfo\x01\x09localhost\x0f\x10\x10application/grpc\x40\x02te\x08trailers";

struct Server {
    runtime: Runtime,
    directory: TempDir,
}

thread_local! {
    static SERVER: OnceCell<Server> = const { OnceCell::new() };
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(directory.path().join("sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.spawn(async move {
            // A program with a `main` of Rust's ignores it from the start.
            let _pipe = signal(SignalKind::pipe()).unwrap();
            let house = House::new(Renewals::OnUse).await;
            let service = CredentialService::new(house.broker.clone());
            let service = CredentialBrokerServer::new(service).max_decoding_message_size(MAX_MESSAGE_SIZE);
            let policy = caller(0).policy;
            let layers = Layers::new(
                Routes::new(service),
                AllowedPeers::own_and(&[]),
                Admission::Open(policy),
                None,
            );
            serve(listener, layers, Served::default(), std::future::pending()).await
        });
        Self { runtime, directory }
    }
}

/// Lets both sides do what there is to do. No timer of the server's is as near, but many of these are a long time: each takes
/// three of the timer's milliseconds.
async fn settle() {
    for _ in 0..3 {
        sleep(Duration::from_micros(1)).await;
    }
}

/// What a connection brought.
#[derive(Default)]
struct Brought {
    octets: Vec<u8>,
    ended: bool,
    took: Duration,
}

impl Brought {
    async fn more(&mut self, stream: &mut UnixStream) {
        settle().await;
        let mut space = [0; 16 * 1024];
        while !self.ended {
            match stream.try_read(&mut space) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.octets.extend_from_slice(&space[..count]);
                    settle().await;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_reset) => self.ended = true,
            }
        }
    }

    /// Kind, flags, stream and payload of each frame.
    fn frames(&self) -> Vec<(u8, u8, u32, &[u8])> {
        let (mut rest, mut frames) = (self.octets.as_slice(), Vec::new());
        while let Some((head, after)) = rest.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            // The last one may be cut off with the connection.
            let Some((payload, after)) = after.split_at_checked(length) else {
                break;
            };
            assert!(length <= 16 * 1024 && head[3] <= 9);
            frames.push((
                head[3],
                head[4],
                u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload,
            ));
            rest = after;
        }
        assert!(self.ended || rest.is_empty(), "half a frame");
        frames
    }

    /// Why the connection ended, as the last GOAWAY has it: code and words.
    fn reason(&self) -> Option<Vec<u8>> {
        let frames = self.frames();
        let last = frames.iter().rfind(|(kind, ..)| *kind == GOAWAY)?;
        last.3.get(4..).map(<[u8]>::to_vec)
    }
}

async fn connect(server: &Server) -> UnixStream {
    UnixStream::connect(server.directory.path().join("sock")).await.unwrap()
}

async fn send(stream: &mut UnixStream, octets: &[u8]) -> bool {
    // The input is far less than the socket takes.
    stream.write_all(octets).await.is_ok()
}

/// Sends these in pieces, and pauses after each where the pauses say so.
async fn visit(server: &Server, octets: &[u8], pieces: &[u8], pauses: u8) -> Brought {
    let began = Instant::now();
    let mut stream = connect(server).await;
    let mut brought = Brought::default();
    let mut lengths = pieces.iter().cycle();
    let mut rest = octets;
    let mut turn = 0;
    while !rest.is_empty() && !brought.ended {
        let length = lengths.next().map_or(rest.len(), |length| usize::from(*length) + 1);
        let (piece, after) = rest.split_at(length.min(rest.len()));
        if !send(&mut stream, piece).await {
            break;
        }
        brought.more(&mut stream).await;
        if pauses & (1 << (turn % 8)) != 0 {
            advance(Duration::from_secs(2)).await;
            brought.more(&mut stream).await;
        }
        turn += 1;
        rest = after;
    }
    brought.more(&mut stream).await;
    brought.took = began.elapsed();
    brought
}

/// Whether what the frames bring may depend on when each comes: a call may be answered before it is reset, and after a GOAWAY
/// the connection may end before the next frame.
fn depends_on_time(mut rest: &[u8]) -> bool {
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        if matches!(head[3], HEADERS | GOAWAY) {
            return true;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        rest = after.get(length..).unwrap_or_default();
    }
    false
}

async fn honest(server: &Server) {
    let mut stream = connect(server).await;
    let mut octets = [PREFACE, SETTINGS].concat();
    octets.extend([0, 0, u8::try_from(CALL.len()).unwrap(), HEADERS, 4, 0, 0, 0, 1]);
    octets.extend(CALL);
    octets.extend([0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    assert!(send(&mut stream, &octets).await);
    let mut brought = Brought::default();
    for _ in 0..8 {
        brought.more(&mut stream).await;
        if brought
            .frames()
            .iter()
            .any(|(kind, flags, ..)| *kind == HEADERS && flags & 1 != 0)
        {
            break;
        }
    }
    let frames = brought.frames();
    let message = frames.iter().find(|(kind, _, stream, _)| (*kind, *stream) == (0, 1));
    assert!(
        message.is_some_and(|message| message.3.starts_with(&[0, 0, 0, 0])),
        "an honest client is not served: {frames:?}"
    );
}

async fn run(server: &Server, data: &[u8]) {
    let mut input = Input(data);
    let (Some(how), Some(pauses), Some(count)) = (input.octet(), input.octet(), input.octet()) else {
        return;
    };
    let (pieces, rest) = input.0.split_at(usize::from(count % 8).min(input.0.len()));
    let mut octets = Vec::new();
    // The fuzzer would be long in finding these.
    if how & 1 == 0 {
        octets.extend_from_slice(PREFACE);
    }
    if how & 2 == 0 {
        octets.extend_from_slice(SETTINGS);
    }
    octets.extend_from_slice(rest);
    let at_once = visit(server, &octets, &[], 0).await;
    let in_pieces = visit(server, &octets, pieces, pauses).await;
    for brought in [&at_once, &in_pieces] {
        // A HEADERS of a few octets brings one status, or a token, and each frame at most an answer of h2's own.
        assert!(brought.octets.len() <= 64 * 1024 + 128 * octets.len());
        brought.frames();
        for mark in [NEVER, FORBIDDEN] {
            assert!(!holds(&brought.octets, mark) || holds(data, mark));
        }
    }
    let reasons = [at_once.reason(), in_pieces.reason()];
    let too_many = reasons.iter().flatten().any(|reason| holds(reason, TOO_MANY));
    if how & 1 == 0 && !depends_on_time(&octets[PREFACE.len()..]) && in_pieces.took < NO_TIME && !too_many {
        assert_eq!(reasons[0], reasons[1]);
        assert_eq!(at_once.ended, in_pieces.ended);
    }
    // What is not done by then has been cut, and the rates are full again.
    advance(Duration::from_secs(120)).await;
    settle().await;
    honest(server).await;
}

// Whether preface and SETTINGS are left out, after which pieces there is a pause, how many lengths of pieces follow, those,
// and the frames.
fuzz_target!(|data: &[u8]| {
    SERVER.with(|server| {
        let server = server.get_or_init(Server::start);
        server.runtime.block_on(run(server, data));
    });
});
