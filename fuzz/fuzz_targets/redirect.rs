//! Any octets of a browser, or of anything else on this host that finds the port, in any pieces: one answer that names
//! nothing of the request, a code only for a GET of the path with the right `state`, and none twice.

#![no_main]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use credbroker::oauth::{
    login::{Authorization, LoginTrouble},
    loopback::serve,
};
use credbroker_fuzz::{holds, in_paused_time, input::Input};
use libfuzzer_sys::fuzz_target;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    time::timeout,
};

const STATE: &str = "s7QeZZ4cQ9";
const PATH: &str = "/cb";

type Heard = Option<Result<SecretString, LoginTrouble>>;

async fn visit(request: &Authorization, octets: &[u8], piece: usize, answered: &AtomicBool) -> (Heard, Vec<u8>) {
    let (stream, mut browser) = duplex(4096);
    let visiting = async {
        for piece in octets.chunks(piece) {
            if browser.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // Not shut down: most browsers wait for the end.
        let mut answer = Vec::new();
        // A connection that was reset has said what it had to say.
        let _ = browser.read_to_end(&mut answer).await;
        answer
    };
    let both = async { tokio::join!(serve(stream, PATH, request, answered), visiting) };
    timeout(Duration::from_secs(6), both)
        .await
        .expect("a connection outlives its time")
}

// What is required, how long the pieces are, and what the browser sends.
fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (Some(how), Some(piece)) = (input.octet(), input.octet()) else {
        return;
    };
    let octets = input.0;
    let request = Authorization {
        url: String::new(),
        redirect_uri: "http://127.0.0.1:1455/cb".to_owned(),
        state: STATE.into(),
        verifier: "v".into(),
        state_required: true,
        issuer: (how & 1 != 0).then(|| "https://a.example".to_owned()),
        issuer_required: how & 2 != 0,
    };
    in_paused_time(async {
        let answered = AtomicBool::new(false);
        let (heard, answer) = visit(&request, octets, usize::from(piece) + 1, &answered).await;
        assert_eq!(heard.is_some(), answered.load(Ordering::Relaxed));
        if !answer.is_empty() {
            assert!(answer.starts_with(b"HTTP/1."));
            // One page for the one request that is looked at.
            assert!(!holds(&answer[1..], "HTTP/1.1 ") && !holds(&answer, STATE));
            assert!(answer.len() < 2048);
        }
        if let Some(heard) = &heard {
            let text = String::from_utf8_lossy(octets);
            assert!(text.contains("GET") && (text.contains(STATE) || text.contains('%')));
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 200 ") || answer.starts_with(b"HTTP/1.0 200 "));
            if let Ok(code) = heard {
                let code = code.expose_secret();
                assert!(
                    (1..=4096).contains(&code.len()) && !code.contains(|c: char| c.is_control() || c.is_whitespace())
                );
                assert!(text.contains("code") || text.contains('%'));
            }
            // The same once more is a replay.
            let (again, answer) = visit(&request, octets, usize::MAX, &answered).await;
            assert!(again.is_none() && !holds(&answer, " 200 "));
        } else {
            assert!(!answer.starts_with(b"HTTP/1.1 200 "));
            // What it brings does not depend on the pieces it comes in.
            let (again, _) = visit(&request, octets, usize::MAX, &answered).await;
            assert!(again.is_none());
        }
    });
});
