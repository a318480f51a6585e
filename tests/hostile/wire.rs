//! HTTP/2 by hand: what no client library would send.

use std::{path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{Instant, timeout},
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const GET_TOKEN: &str = "/credbroker.v1.CredentialBroker/GetToken";
pub(crate) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// A GetToken request for the one entry, as gRPC frames it.
pub(crate) const MESSAGE: &[u8] = &[0, 0, 0, 0, 3, 0x0a, 1, b'p'];

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(9 + payload.len());
    frame.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block without compression.
pub(crate) fn block(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
    ];
    let mut block = Vec::new();
    for (name, value) in pseudo.iter().chain(more) {
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        assert!(value.len() < 127);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block
}

/// A field whose value has so many octets, more than 254, and which goes into the table.
pub(crate) fn indexed_field(length: u16) -> Vec<u8> {
    let rest = length - 127;
    let mut field = vec![0x40, 1, b'a', 127, (rest & 0x7f) as u8 | 0x80, (rest >> 7) as u8];
    field.resize(field.len() + usize::from(length), b'x');
    field
}

/// The field that went into the table last, in one octet.
pub(crate) const LATEST: u8 = 0xbe;

pub(crate) const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

pub(crate) fn headers(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(path, GRPC))
}

/// A whole call.
pub(crate) fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    [headers(stream, path), frame(DATA, END_STREAM, stream, message)].concat()
}

/// A frame as it was received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Raw(pub(crate) UnixStream);

impl Raw {
    /// Connected, and silent.
    pub(crate) async fn silent(socket: &Path) -> Self {
        loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => return Self(stream),
                // The backlog is full.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Connected, and through with the handshake as far as it needs nothing of the broker.
    pub(crate) async fn open(socket: &Path) -> Self {
        Self::open_with(socket, &[]).await
    }

    /// The same with these settings.
    pub(crate) async fn open_with(socket: &Path, settings: &[u8]) -> Self {
        let mut raw = Self::silent(socket).await;
        // The broker may have ended it by now.
        let _ = raw
            .send(&[PREFACE, &frame(SETTINGS, 0, 0, settings), &frame(SETTINGS, ACK, 0, &[])].concat())
            .await;
        raw
    }

    pub(crate) async fn send(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.0.write_all(octets).await
    }

    /// The next frame. `None`: the connection has ended.
    pub(crate) async fn receive(&mut self) -> Option<Received> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Received {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Reads to the end, for at most so long, and returns what the last GOAWAY said.
    pub(crate) async fn last_word(&mut self, within: Duration) -> Option<String> {
        let all = async {
            let mut word = None;
            while let Some(frame) = self.receive().await {
                if frame.kind == GOAWAY {
                    let text = String::from_utf8_lossy(&frame.payload[8..]).into_owned();
                    let code = frame.payload[7];
                    word = Some(format!("{code} {text}"));
                }
            }
            word
        };
        timeout(within, all)
            .await
            .unwrap_or_else(|_| panic!("not ended after {within:?}"))
    }
}

/// Sends the same again and again, to be ended by the broker; returns the last word of the first connection.
pub(crate) async fn flood(socket: &Path, until: Instant, octets: &[u8]) -> Option<String> {
    let mut first = None;
    while Instant::now() < until {
        let raw = Raw::open(socket).await;
        let word = flood_once(raw, until, octets).await;
        first.get_or_insert(word);
    }
    first.flatten()
}

async fn flood_once(raw: Raw, until: Instant, octets: &[u8]) -> Option<String> {
    let (read, mut write) = raw.0.into_split();
    let writes = async {
        while Instant::now() < until && write.write_all(octets).await.is_ok() {}
        let _ = write.shutdown().await;
    };
    last_word_of(read, writes).await
}

/// Sends all of this, to be ended by the broker, and returns its last word.
pub(crate) async fn flood_with(raw: Raw, octets: Vec<u8>) -> Option<String> {
    let (read, mut write) = raw.0.into_split();
    let writes = async {
        let _ = write.write_all(&octets).await;
        let _ = write.shutdown().await;
    };
    last_word_of(read, writes).await
}

async fn last_word_of(mut read: tokio::net::unix::OwnedReadHalf, writes: impl Future<Output = ()>) -> Option<String> {
    let reads = async {
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
        all
    };
    let (all, ()) = tokio::join!(reads, writes);
    let mut rest = &all[..];
    let mut word = None;
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let end = (9 + length).min(rest.len());
        if rest[3] == GOAWAY && end >= 17 {
            word = Some(format!("{} {}", rest[16], String::from_utf8_lossy(&rest[17..end])));
        }
        rest = &rest[end..];
    }
    word
}
