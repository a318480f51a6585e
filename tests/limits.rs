//! What a socket's limits are by default, over a real socket: what is told the client, and the times that only paused
//! time makes short. Where a hostile client stands against them is in `tests/hostile/`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that cannot go on fails the test"
)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use credbroker::broker::policy::Policy;
use support::{Bench, Host, channel, fake};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::Instant,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// A client that has sent preface and SETTINGS and answers nothing.
async fn connect(bench: &Bench) -> UnixStream {
    let mut stream = UnixStream::connect(bench.socket()).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    stream
}

/// The next frame's kind, flags and payload. `None`: the broker has ended the connection.
async fn receive(stream: &mut UnixStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
}

fn number(octets: &[u8]) -> u32 {
    octets.iter().fold(0, |number, octet| number << 8 | u32::from(*octet))
}

#[tokio::test]
async fn the_advertised_settings_are_the_chosen_ones() {
    let bench = Bench::start(&fake::Store::new(), Policy::host());
    let mut stream = connect(&bench).await;
    let (kind, _, payload) = receive(&mut stream).await.unwrap();
    assert_eq!(kind, SETTINGS);
    let settings: BTreeMap<u32, u32> = payload
        .chunks(6)
        .map(|setting| (number(&setting[..2]), number(&setting[2..])))
        .collect();
    // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE; no larger table or frame than HTTP/2's own.
    for (setting, want) in [(3, Some(256)), (4, Some(64 * 1024)), (6, Some(64 * 1024)), (1, None)] {
        assert_eq!(settings.get(&setting).copied(), want, "{setting}: {settings:?}");
    }
    assert!(settings.get(&5).is_none_or(|frame| *frame == 16 * 1024), "{settings:?}");
    let window = loop {
        let (kind, _, payload) = receive(&mut stream).await.unwrap();
        if kind == WINDOW_UPDATE {
            break number(&payload) + 0xffff;
        }
    };
    assert_eq!(window, 256 * 1024);
}

/// Asked after 30 s of silence, given up 10 s later.
#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_ping_is_left_after_40_s() {
    let bench = Bench::start(&fake::Store::new(), Policy::host());
    let mut stream = connect(&bench).await;
    let start = Instant::now();
    let mut came = Vec::new();
    while let Some((kind, flags, _)) = receive(&mut stream).await {
        if kind == GOAWAY || (kind == PING && flags == 0) {
            came.push((kind, start.elapsed().as_secs()));
        }
    }
    assert_eq!(came.first(), Some(&(PING, 30)));
    assert_eq!(start.elapsed().as_secs(), 40);
}

/// Who asks now and then on a stream, and answers the broker's pings, is in nobody's way.
#[tokio::test(start_paused = true)]
async fn a_streaming_call_may_wait_with_its_messages() {
    let host = Host::new();
    let running = host.start(Policy::host());
    let (asks, asked) = tokio::sync::mpsc::channel(1);
    let mut answers = ServerReflectionClient::new(channel(running.socket()).await)
        .server_reflection_info(tokio_stream::wrappers::ReceiverStream::new(asked))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(100)).await;
        let list = MessageRequest::ListServices(String::new());
        let ask = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(list),
        };
        asks.send(ask).await.unwrap();
        assert!(answers.message().await.unwrap().is_some());
    }
    running.stop().await;
}
