//! The judge: the `h2` server, given a client's octets with or without the adapter before it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use credbroker::server::authority::AcceptAnyAuthority;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A connection whose client sends given pieces and then ends.
pub(crate) struct Script {
    pieces: VecDeque<Vec<u8>>,
    // Whether the next read finds nothing yet; before every piece, and a few times before the end, so that the server has
    // the time to answer.
    waits: u8,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Script {
    pub(crate) fn new(pieces: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self {
            pieces,
            waits: 1,
            written: Arc::default(),
        }
    }
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.waits > 0 {
            self.waits -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(piece) = self.pieces.front_mut() {
            let count = piece.len().min(buf.remaining());
            buf.put_slice(&piece.drain(..count).collect::<Vec<_>>());
            if piece.is_empty() {
                self.pieces.pop_front();
                self.waits = if self.pieces.is_empty() { 8 } else { 1 };
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A request as `h2` hands it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) authority: Option<String>,
    pub(crate) path: String,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
}

/// What came of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) requests: Vec<Request>,
    /// Stream and error code of every RST_STREAM other than NO_ERROR.
    pub(crate) resets: Vec<(u32, u32)>,
    /// Error codes of GOAWAY other than NO_ERROR.
    pub(crate) goaway: Vec<u32>,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// What `h2` makes of the octets.
pub(crate) fn without_adapter(pieces: impl IntoIterator<Item = Vec<u8>>) -> Outcome {
    let script = Script::new(pieces);
    let written = Arc::clone(&script.written);
    runtime().block_on(serve(script, &written))
}

/// What `h2` behind the adapter makes of the octets.
pub(crate) fn with_adapter(pieces: impl IntoIterator<Item = Vec<u8>>) -> Outcome {
    let script = Script::new(pieces);
    let written = Arc::clone(&script.written);
    runtime().block_on(serve(AcceptAnyAuthority::new(script), &written))
}

/// What comes out of the adapter, read with buffers of `size` octets.
pub(crate) fn through(pieces: impl IntoIterator<Item = Vec<u8>>, size: usize) -> Vec<u8> {
    runtime().block_on(async {
        let mut stream = AcceptAnyAuthority::new(Script::new(pieces));
        let mut all = Vec::new();
        let mut buffer = vec![0; size];
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            if count == 0 {
                // The end is the end.
                assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
                return all;
            }
            all.extend_from_slice(&buffer[..count]);
        }
    })
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, written: &Mutex<Vec<u8>>) -> Outcome {
    let mut outcome = Outcome::default();
    if let Ok(mut connection) = h2::server::handshake(stream).await {
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            outcome.requests.push(Request {
                authority: request.uri().authority().map(ToString::to_string),
                path: request.uri().path().to_owned(),
                fields: request
                    .headers()
                    .iter()
                    .map(|(n, v)| (n.to_string(), v.as_bytes().to_vec()))
                    .collect(),
            });
            let _ = respond.send_response(http::Response::new(()), true);
        }
    }
    let written = written.lock().unwrap();
    let mut rest = &written[..];
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let stream = u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]);
        let payload = &rest[9..9 + length];
        match rest[3] {
            3 => outcome
                .resets
                .push((stream, u32::from_be_bytes(payload.try_into().unwrap()))),
            7 => outcome
                .goaway
                .push(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            _ => {}
        }
        rest = &rest[9 + length..];
    }
    // NO_ERROR: the answer came before the end of the request, or the connection just ended.
    outcome.goaway.retain(|code| *code != 0);
    outcome.resets.retain(|reset| reset.1 != 0);
    outcome
}
