//! What is no gRPC, and what is no HTTP/2.

use tokio::{net::UnixStream, time::Instant};

use crate::{
    siege::{Load, seconds, siege},
    wire::*,
};

/// Each is answered as HTTP has it, also those over the rate, and the connection goes on.
#[tokio::test]
async fn wrong_content_type() {
    siege("wrong content type", Load::Busy, |socket| async move {
        let until = Instant::now() + seconds();
        let mut refused = 0;
        while Instant::now() < until {
            let stream = UnixStream::connect(&socket).await.unwrap();
            let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
            let driver = tokio::spawn(connection);
            let mut answers = Vec::new();
            for content_type in ["text/html", "application/grpc-web", "application/json", ""].repeat(35) {
                let request = http::Request::post(format!("http://localhost{GET_TOKEN}"))
                    .header("content-type", content_type)
                    .body(())
                    .unwrap();
                client = client.ready().await.unwrap();
                answers.push(client.send_request(request, true).unwrap().0);
            }
            for answer in answers {
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), http::StatusCode::UNSUPPORTED_MEDIA_TYPE);
                assert!(!answer.headers().contains_key("grpc-status"));
                refused += 1;
            }
            drop(client);
            driver.abort();
        }
        assert!(refused >= 140);
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
