//! Too many connections, and too many streams.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    siege::{Load, seconds, siege},
    wire::*,
};

const MANY: usize = 10_000;

fn room_for_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn ten_thousand_connections() {
    room_for_descriptors();
    siege("10,000 connections", Load::Busy, |socket| async move {
        let mut held = Vec::with_capacity(MANY);
        for at in 0..MANY {
            // Silent ones, and ones that are through with the handshake.
            held.push(if at % 2 == 0 {
                Raw::silent(&socket).await
            } else {
                Raw::open(&socket).await
            });
            if at % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(seconds()).await;
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_streams() {
    siege("10,000 streams", Load::Busy, |socket| async move {
        let until = Instant::now() + seconds();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let socket = socket.clone();
            all.spawn(async move {
                let raw = Raw::open(&socket).await;
                let (mut read, mut write) = raw.0.into_split();
                let drain = tokio::spawn(async move {
                    let mut sink = vec![0; 1 << 16];
                    while tokio::io::AsyncReadExt::read(&mut read, &mut sink)
                        .await
                        .is_ok_and(|count| count > 0)
                    {}
                });
                for at in 0..MANY as u32 {
                    if Instant::now() > until + Duration::from_secs(10) {
                        break;
                    }
                    let whole = call(2 * at + 1, GET_TOKEN, MESSAGE);
                    if tokio::io::AsyncWriteExt::write_all(&mut write, &whole).await.is_err() {
                        break;
                    }
                }
                while Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                drop(write);
                drain.abort();
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
    })
    .await;
}
