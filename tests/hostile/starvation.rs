//! Clients that ask and do not take the answers.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    crowds::room_for_descriptors,
    siege::{Load, siege},
    wire::*,
};

/// No room for a single octet of any answer, or for one of each, which is as bad: the rest is held.
#[tokio::test]
async fn no_window() {
    siege("window starvation", Load::Waiting, |socket| async move {
        let mut all = tokio::task::JoinSet::new();
        for at in 0..20 {
            let socket = socket.clone();
            all.spawn(async move {
                let mut raw = Raw::open_with(&socket, &[0, 4, 0, 0, 0, at % 2]).await;
                for stream in 0..50 {
                    raw.send(&call(2 * stream + 1, GET_TOKEN, MESSAGE)).await.unwrap();
                    // Below the socket's rate of all together, which is another attack.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                raw.last_word(Duration::from_secs(14)).await
            });
        }
        while let Some(said) = all.join_next().await {
            assert_eq!(said.unwrap().as_deref(), Some("11 no_window_for_an_answer"));
        }
    })
    .await;
}

/// The answer is the whole .proto file.
fn ask() -> Vec<u8> {
    let symbol = b"credbroker.v1.CredentialBroker";
    let mut ask = vec![0, 0, 0, 0, 2 + symbol.len() as u8, 0x22, symbol.len() as u8];
    ask.extend(symbol);
    ask
}

/// On each of some connections as many streams as there may be, each of which asks so often for much, and nothing is read.
async fn hoard(name: &str, connections: usize, settings: &'static [u8], asks: usize) {
    siege(name, Load::Busy, |socket| async move {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let mut raw = Raw::open_with(&socket, settings).await;
            let room = (0x7fff_ffff_u32 - 0xffff).to_be_bytes();
            raw.send(&frame(WINDOW_UPDATE, 0, 0, &room)).await.unwrap();
            // One after the other: there may not be many that are not settled.
            while !raw
                .receive()
                .await
                .is_some_and(|frame| frame.kind == SETTINGS && frame.flags == ACK)
            {}
            all.spawn(async move {
                for stream in 0..64 {
                    let opening = headers(2 * stream + 1, REFLECTION);
                    let asks = frame(DATA, 0, 2 * stream + 1, &ask()).repeat(asks);
                    if raw.send(&[opening, asks].concat()).await.is_err() {
                        break;
                    }
                    // No faster than the rate of companions.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                raw
            });
        }
        all.join_all().await;
    })
    .await;
}

/// Room for everything.
#[tokio::test]
async fn a_hoard_behind_a_full_socket() {
    hoard("hoard behind a full socket", 20, &[0, 4, 0x7f, 0xff, 0xff, 0xff], 7).await;
}

/// Room for one octet of each, on nearly as many connections as there may be.
#[tokio::test]
async fn a_hoard_behind_small_windows() {
    room_for_descriptors();
    hoard("hoard behind small windows", 250, &[0, 4, 0, 0, 0, 1], 1).await;
}

/// Reads nothing, grants all the room there is, and asks for much.
#[tokio::test]
async fn nothing_read() {
    siege("nothing read", Load::Waiting, |socket| async move {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let socket = socket.clone();
            all.spawn(async move {
                let mut raw = Raw::open_with(&socket, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
                let room = (0x7fff_ffff_u32 - 0xffff).to_be_bytes();
                raw.send(&frame(WINDOW_UPDATE, 0, 0, &room)).await.unwrap();
                raw.send(&headers(1, REFLECTION)).await.unwrap();
                let ask = frame(DATA, 0, 1, &ask());
                let start = Instant::now();
                while raw.send(&ask).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    assert!(start.elapsed() < Duration::from_secs(30), "not ended");
                }
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
    })
    .await;
}
