//! What is no gRPC, and what is no HTTP/2.

use tokio::time::Instant;

use crate::{
    siege::{Load, seconds, siege},
    wire::*,
};

#[tokio::test]
async fn wrong_content_type() {
    siege("wrong content type", Load::Busy, |socket| async move {
        let until = Instant::now() + seconds();
        let mut refused = 0;
        while Instant::now() < until {
            let mut raw = Raw::open(&socket).await;
            for at in 0..100 {
                let block = block(GET_TOKEN, &[("content-type", "text/html")]);
                let flags = END_HEADERS | END_STREAM;
                raw.send(&frame(HEADERS, flags, 2 * at + 1, &block)).await.unwrap();
            }
            while refused % 100 < 99 {
                let frame = raw.receive().await.unwrap();
                if frame.kind == HEADERS {
                    // 415, as a literal behind the name of the static table or with Huffman coding.
                    refused += 1;
                }
            }
            refused += 1;
        }
        assert!(refused >= 100);
    })
    .await;
}

#[tokio::test]
async fn binary_junk() {
    siege("binary junk", Load::Busy, |socket| async move {
        let until = Instant::now() + seconds();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut junk = || {
            let mut octets = Vec::with_capacity(4096);
            while octets.len() < 4096 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                octets.extend(state.to_be_bytes());
            }
            octets
        };
        while Instant::now() < until {
            // Before the preface, after it, as the payload of a header block, and as messages.
            let openings: [Vec<u8>; 5] = [
                vec![],
                PREFACE.to_vec(),
                [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat(),
                [
                    PREFACE,
                    &frame(SETTINGS, 0, 0, &[]),
                    &frame(HEADERS, END_HEADERS, 1, &junk()),
                ]
                .concat(),
                [PREFACE, &frame(SETTINGS, 0, 0, &[]), &call(1, GET_TOKEN, &junk())].concat(),
            ];
            for opening in openings {
                let mut raw = Raw::silent(&socket).await;
                let _ = raw.send(&opening).await;
                for _ in 0..16 {
                    if raw.send(&junk()).await.is_err() {
                        break;
                    }
                }
            }
        }
    })
    .await;
}
