//! Clients that begin and do not go on.

use std::{path::PathBuf, time::Duration};

use tokio::time::Instant;

use crate::{
    siege::{Load, siege},
    wire::*,
};

const MANY: usize = 50;

/// Opens many connections that each begin with this and then send `drip` every 200 ms; each has to be left within 7 s,
/// with this last word.
async fn slow(socket: PathBuf, opening: Vec<u8>, drip: Vec<u8>, word: &'static str) {
    let start = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..MANY {
        let (socket, opening, drip) = (socket.clone(), opening.clone(), drip.clone());
        all.spawn(async move {
            let mut raw = Raw::silent(&socket).await;
            raw.send(&opening).await.unwrap();
            let (mut read, mut write) = raw.0.into_split();
            let drips = tokio::spawn(async move {
                for octet in drip.iter().cycle() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    if tokio::io::AsyncWriteExt::write_all(&mut write, &[*octet])
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
                // Nothing to drip: silent, but there.
                std::future::pending::<()>().await;
            });
            let mut told = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut told).await;
            drips.abort();
            told
        });
    }
    while let Some(told) = all.join_next().await {
        let told = told.unwrap();
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains(word), "{word}: {told:?}");
    }
    let took = start.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(8),
        "{word}: {took:?}"
    );
}

fn opened() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat()
}

#[tokio::test]
async fn silent() {
    siege("silent connections", Load::Waiting, |socket| {
        slow(socket, vec![], vec![], "no_settings_in_time")
    })
    .await;
}

#[tokio::test]
async fn half_a_preface() {
    siege("half a preface", Load::Waiting, |socket| {
        slow(socket, PREFACE[..12].to_vec(), vec![], "no_settings_in_time")
    })
    .await;
}

#[tokio::test]
async fn one_byte_at_a_time() {
    siege("one byte at a time", Load::Waiting, |socket| {
        let drip = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        slow(socket, vec![], drip, "no_settings_in_time")
    })
    .await;
}

#[tokio::test]
async fn settings_that_never_end() {
    siege("SETTINGS that never end", Load::Waiting, |socket| {
        let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[0; 6000])[..9]].concat();
        slow(socket, opening, vec![0], "no_settings_in_time")
    })
    .await;
}

#[tokio::test]
async fn a_frame_that_never_ends() {
    siege("a frame that never ends", Load::Waiting, |socket| {
        let opening = [&opened(), &frame(HEADERS, END_HEADERS, 1, &[0; 6000])[..9]].concat();
        slow(socket, opening, vec![0], "frame_too_slow")
    })
    .await;
}

#[tokio::test]
async fn headers_that_never_end() {
    siege("headers that never end", Load::Waiting, |socket| {
        let opening = [&opened(), &frame(HEADERS, 0, 1, &block(GET_TOKEN, GRPC))[..]].concat();
        slow(socket, opening, vec![], "header_block_too_slow")
    })
    .await;
}

/// The connection stays: it is the call that is answered.
#[tokio::test]
async fn bodies_that_never_end() {
    siege("bodies that never end", Load::Waiting, |socket| async move {
        let start = Instant::now();
        let mut all = tokio::task::JoinSet::new();
        for at in 0..40 {
            let socket = socket.clone();
            all.spawn(async move {
                let mut raw = Raw::open(&socket).await;
                // Nothing at all, half a message, and a whole one without END_STREAM.
                let part = &MESSAGE[..[0, 6, MESSAGE.len()][at % 3]];
                for stream in [1, 3, 5] {
                    raw.send(&[headers(stream, GET_TOKEN), frame(DATA, 0, stream, part)].concat())
                        .await
                        .unwrap();
                }
                let mut answered = 0;
                while answered < 3 {
                    let Some(frame) = raw.receive().await else {
                        panic!("the connection ended")
                    };
                    if frame.kind == HEADERS {
                        assert!(frame.flags & END_STREAM != 0 && frame.stream < 6, "{frame:?}");
                        answered += 1;
                    }
                }
                // It still serves.
                raw.send(&call(7, GET_TOKEN, MESSAGE)).await.unwrap();
                while let Some(frame) = raw.receive().await {
                    if frame.kind == DATA && frame.stream == 7 {
                        return;
                    }
                }
                panic!("the connection ended");
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
        let took = start.elapsed();
        assert!(
            took > Duration::from_secs(4) && took < Duration::from_secs(8),
            "{took:?}"
        );
    })
    .await;
}
