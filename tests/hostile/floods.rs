//! Frames that cost the sender nothing. Each flood ends with GOAWAY, and the flooder connects and floods again.

use tokio::time::Instant;

use crate::{
    siege::{Load, seconds, siege},
    wire::*,
};

/// ENHANCE_YOUR_CALM.
const CALM: &str = "11";

async fn floods(name: &str, octets: Vec<u8>, word: &[&str]) {
    siege(name, Load::Busy, |socket| async move {
        let until = Instant::now() + seconds();
        // As many as can be: the point is to be greedy.
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (socket, octets) = (socket.clone(), octets.clone());
            all.spawn(async move { flood(&socket, until, &octets).await });
        }
        let mut told = Vec::new();
        while let Some(said) = all.join_next().await {
            told.extend(said.unwrap());
        }
        assert!(!told.is_empty(), "{name}: no GOAWAY");
        for said in told {
            assert!(
                word.iter().any(|word| said == format!("{CALM} {word}")),
                "{name}: {said}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn settings() {
    let many = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0x10, 0]).repeat(200);
    floods("SETTINGS flood", many, &["too_many_settings"]).await;
}

#[tokio::test]
async fn pings() {
    floods(
        "PING flood",
        frame(PING, 0, 0, &[7; 8]).repeat(500),
        &["too_many_pings"],
    )
    .await;
}

#[tokio::test]
async fn window_updates() {
    let many = frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()).repeat(500);
    floods("WINDOW_UPDATE flood", many, &["too_many_frames"]).await;
}

#[tokio::test]
async fn frames_of_no_known_kind() {
    floods(
        "unknown frames",
        frame(0x77, 0, 0, &[]).repeat(500),
        &["too_many_frames"],
    )
    .await;
}

#[tokio::test]
async fn continuation() {
    let mut endless = frame(HEADERS, 0, 1, &block(GET_TOKEN, GRPC));
    endless.extend(frame(CONTINUATION, 0, 1, &[]).repeat(2000));
    floods("CONTINUATION flood", endless, &["too_many_continuations"]).await;
}

#[tokio::test]
async fn rapid_reset() {
    siege("rapid reset", Load::Busy, |socket| async move {
        let until = Instant::now() + seconds();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let socket = socket.clone();
            all.spawn(async move {
                let mut rounds = 0;
                while Instant::now() < until {
                    let mut raw = Raw::open(&socket).await;
                    let mut stream = 1;
                    while Instant::now() < until {
                        let mut octets = Vec::new();
                        for _ in 0..100 {
                            octets.extend(headers(stream, GET_TOKEN));
                            octets.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
                            stream += 2;
                        }
                        if raw.send(&octets).await.is_err() {
                            break;
                        }
                    }
                    rounds += 1;
                    if Instant::now() < until {
                        let said = raw.last_word(std::time::Duration::from_secs(5)).await;
                        if let Some(said) = said {
                            assert!(said.starts_with("11 too_many_resets"), "{said}");
                        }
                    }
                }
                rounds
            });
        }
        let mut rounds = 0;
        while let Some(some) = all.join_next().await {
            rounds += some.unwrap();
        }
        assert!(rounds > 8, "no connection was ended");
    })
    .await;
}
