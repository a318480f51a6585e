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

/// Few octets that stand for many: one long field in the table, and as many references to it as fit into a frame. The
/// broker's own encoder is offered a table of 4 GiB.
#[tokio::test]
async fn a_header_block_that_blows_up() {
    let mut block = block(GET_TOKEN, GRPC);
    block.extend(indexed_field(4000));
    block.resize(16 * 1024, LATEST);
    let mut octets = frame(SETTINGS, 0, 0, &[0, 1, 0xff, 0xff, 0xff, 0xff]);
    octets.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    floods("HPACK blow-up", octets, &["header_list_way_too_large"]).await;
}

/// Header blocks a little over what `h2` takes: it answers each with 431 and tells nobody, so no rate counts them.
#[tokio::test]
async fn header_blocks_that_are_no_calls() {
    let said = unanswered_by_us("431 flood", |at| {
        let mut block = block(GET_TOKEN, GRPC);
        if at == 0 {
            block.extend(indexed_field(3000));
        }
        block.extend([LATEST; 22]);
        block
    });
    assert_eq!(said.await, ["11 too_many_headers"]);
}

/// Header blocks of nothing but changes of the table's size: no memory, no request, but work for every octet.
#[tokio::test]
async fn changes_of_the_tables_size() {
    let said = unanswered_by_us("HPACK sizes", |_| b"\x20\x3f\xe1\x1f".repeat(100));
    for said in said.await {
        assert!(
            ["11 too_many_headers", "11 too_many_internal_resets"].contains(&&*said),
            "{said}"
        );
    }
}

/// Sends header blocks on one stream after the other on each of some connections, again and again, and returns what was
/// said when they were ended.
async fn unanswered_by_us(name: &str, block: impl Fn(u32) -> Vec<u8> + Clone + Send + 'static) -> Vec<String> {
    let all_said = std::sync::Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let told = std::sync::Arc::clone(&all_said);
    siege(name, Load::Busy, |socket| async move {
        let until = Instant::now() + seconds();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (socket, block, told) = (socket.clone(), block.clone(), std::sync::Arc::clone(&told));
            all.spawn(async move {
                let mut rounds = 0;
                while Instant::now() < until {
                    let octets =
                        (0..5000).flat_map(|at| frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &block(at)));
                    let octets = octets.collect();
                    let said = flood_with(Raw::open(&socket).await, octets).await;
                    rounds += 1;
                    assert!(said.is_some(), "not told");
                    told.lock().unwrap().extend(said);
                }
                rounds
            });
        }
        while let Some(rounds) = all.join_next().await {
            assert!(rounds.unwrap() > 0);
        }
    })
    .await;
    let said = all_said.lock().unwrap();
    said.iter().cloned().collect()
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
                            let words = ["11 too_many_resets", "11 too_many_headers"];
                            assert!(words.contains(&&*said), "{said}");
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
