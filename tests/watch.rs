//! WatchToken over a real socket: what it sends, how it ends, and what is written down of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a helper that cannot go on fails the test"
)]

mod support;

use std::{sync::Arc, time::Duration};

use credbroker::{
    broker::policy::Policy,
    daemon::Running,
    proto::{self, credential_broker_client::CredentialBrokerClient},
    reason::Reason,
    server::admission::Admission,
};
use http::Request;
use prost::Message as _;
use support::{
    Host, channel, control_socket, control_stub, eventually, reading, soon, stub,
    wire::{Failure, frame},
    with_capability,
};
use tokio::{net::UnixStream, time::Instant};
use tonic::{Status, Streaming, transport::Channel};

type Stub = CredentialBrokerClient<Channel>;

fn answer(access_token: &str) -> String {
    format!(r#"{{"access_token": "{access_token}", "expires_in": 3600}}"#)
}

fn entry(provider: &str) -> proto::WatchTokenRequest {
    proto::WatchTokenRequest {
        provider: provider.into(),
        bucket: String::new(),
    }
}

/// A host with the entry `p`, whose sandbox may do everything with it.
async fn serving() -> (Host, Running, Stub) {
    let host = Host::new();
    host.import("p", "", &answer("at-0")).await;
    let entries = reading(&["p", "absent"]).read;
    let policy = Policy {
        read: entries.clone(),
        save: entries.clone(),
        remove: entries,
        ..Policy::default()
    };
    let running = host.start_with(Admission::Open(Arc::new(policy)));
    let stub = stub(running.socket()).await;
    (host, running, stub)
}

async fn watching(stub: &mut Stub) -> Streaming<proto::WatchTokenResponse> {
    stub.watch_token(entry("p")).await.unwrap().into_inner()
}

async fn next(watch: &mut Streaming<proto::WatchTokenResponse>) -> Result<String, Status> {
    let message = soon("a token", watch.message()).await?;
    Ok(message.unwrap().token.unwrap().access_token)
}

async fn save(stub: &mut Stub, access_token: &str) {
    let token = proto::AccessToken {
        access_token: access_token.into(),
        ..Default::default()
    };
    let request = proto::SaveTokenRequest {
        provider: "p".into(),
        bucket: String::new(),
        token: Some(token),
    };
    stub.save_token(request).await.unwrap();
}

fn reason<T: std::fmt::Debug>(result: Result<T, Status>) -> Reason {
    Failure::of(result).reason().unwrap()
}

/// Who follows: of `p`, and of everything.
async fn followers(running: &Running) -> (u32, u64) {
    let mut control = control_stub(&control_socket(running)).await;
    let status = control.get_status(proto::GetStatusRequest::default()).await.unwrap();
    let status = status.into_inner();
    let of_p = status.entries.first().map_or(0, |entry| entry.watchers);
    (of_p, status.counters.unwrap().open_watches)
}

#[tokio::test]
async fn tokens_come_as_they_are_stored_until_the_entry_is_gone() {
    let (host, running, mut stub) = serving().await;
    let mut watch = watching(&mut stub).await;
    assert_eq!(next(&mut watch).await.unwrap(), "at-0");
    save(&mut stub, "at-saved").await;
    assert_eq!(next(&mut watch).await.unwrap(), "at-saved");
    // Another process's: here another broker on the same store.
    host.import("p", "", &answer("at-imported")).await;
    let at = Instant::now();
    assert_eq!(next(&mut watch).await.unwrap(), "at-imported");
    assert!(at.elapsed() < Duration::from_secs(5), "{:?}", at.elapsed());
    assert_eq!(followers(&running).await, (1, 1));
    let removal = proto::RemoveTokenRequest {
        provider: "p".into(),
        bucket: String::new(),
    };
    stub.remove_token(removal).await.unwrap();
    assert_eq!(reason(next(&mut watch).await), Reason::NotFound);
    drop(watch);
    assert_eq!(followers(&running).await, (0, 0));
    running.stop().await;
    // One line for each delivery and one for the end; those of the calls beside it are not the point.
    let lines = host.audit();
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| line["operation"] == "WatchToken")
        .map(|line| {
            assert_eq!((&line["provider"], &line["bucket"]), (&"p".into(), &"default".into()));
            (
                line["outcome"].as_str().unwrap(),
                line.get("reason").and_then(|r| r.as_str()),
            )
        })
        .collect();
    assert_eq!(
        lines,
        [("ok", None), ("ok", None), ("ok", None), ("error", Some("NOT_FOUND"))]
    );
}

#[tokio::test]
async fn whoever_may_not_follow_is_told_before_anything_is_sent() {
    let (_host, _running, mut stub) = serving().await;
    let table = [
        ("absent", Reason::NotFound),
        ("other", Reason::Unauthorized),
        ("../p", Reason::InvalidRequest),
        ("", Reason::InvalidRequest),
    ];
    for (provider, want) in table {
        assert_eq!(reason(stub.watch_token(entry(provider)).await), want, "{provider}");
    }
    let host = Host::new();
    let running = host.start_with(with_capability([7; 32], reading(&["p"])));
    let mut stub = support::stub(running.socket()).await;
    assert_eq!(reason(stub.watch_token(entry("p")).await), Reason::Unauthenticated);
}

#[tokio::test]
async fn a_connection_has_64_streams_and_gets_the_places_back() {
    let (_host, running, mut stub) = serving().await;
    let mut watches = Vec::new();
    for _ in 0..64 {
        let mut watch = watching(&mut stub).await;
        assert_eq!(next(&mut watch).await.unwrap(), "at-0");
        watches.push(watch);
    }
    assert_eq!(reason(stub.watch_token(entry("p")).await), Reason::TooManyStreams);
    // Calls are none of them, and neither are the streams of another connection.
    save(&mut stub, "at-saved").await;
    let mut elsewhere = support::stub(running.socket()).await;
    assert_eq!(next(&mut watching(&mut elsewhere).await).await.unwrap(), "at-saved");
    for watch in &mut watches {
        assert_eq!(next(watch).await.unwrap(), "at-saved");
    }
    watches.pop();
    eventually("a place is free", || async {
        let watch = stub.clone().watch_token(entry("p")).await;
        watch.is_ok()
    })
    .await;
    drop(watches);
    eventually("nobody follows", || async { followers(&running).await == (0, 0) }).await;
}

#[tokio::test]
async fn a_stop_ends_it_with_the_reason() {
    let (_host, running, mut stub) = serving().await;
    let mut watch = watching(&mut stub).await;
    assert_eq!(next(&mut watch).await.unwrap(), "at-0");
    let at = Instant::now();
    running.stop().await;
    assert!(at.elapsed() < Duration::from_secs(4), "{:?}", at.elapsed());
    assert_eq!(reason(next(&mut watch).await), Reason::ShuttingDown);
}

#[tokio::test]
async fn the_client_s_own_deadline_ends_it() {
    let (_host, _running, mut stub) = serving().await;
    let mut request = tonic::Request::new(entry("p"));
    request.set_timeout(Duration::from_secs(2));
    let mut watch = stub.watch_token(request).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await.unwrap(), "at-0");
    let ended = next(&mut watch).await.unwrap_err();
    // The stock client watches the time as well, and may be quicker.
    assert!(
        [tonic::Code::DeadlineExceeded, tonic::Code::Cancelled].contains(&ended.code()),
        "{ended:?}"
    );
}

/// With a window that has room for less than two messages, what is written meanwhile is never sent.
#[tokio::test]
async fn a_reader_that_stood_still_gets_the_newest_token() {
    let (_host, running, mut stub) = serving().await;
    let stream = UnixStream::connect(running.socket()).await.unwrap();
    let (mut http2, connection) = h2::client::Builder::new()
        .initial_window_size(150)
        .handshake::<_, bytes::Bytes>(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://localhost/credbroker.v1.CredentialBroker/WatchToken")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut body) = http2.send_request(request, false).unwrap();
    body.send_data(frame(&entry("p").encode_to_vec()), true).unwrap();
    let mut answer = response.await.unwrap().into_body();
    for nth in 0..20 {
        save(&mut stub, &format!("at-saved-{nth}")).await;
    }
    let mut octets = Vec::new();
    let newest = b"at-saved-19";
    let all = async {
        while !octets.windows(newest.len()).any(|part| part == newest) {
            let data = answer.data().await.unwrap().unwrap();
            answer.flow_control().release_capacity(data.len()).unwrap();
            octets.extend(data);
        }
    };
    soon("the newest token", all).await;
    let text = String::from_utf8_lossy(&octets);
    let messages = text.matches("at-").count();
    assert!(messages <= 4, "{messages} of 21 were sent: {text}");
}

/// A token goes to all, however many connections they have, and whether or not one of them reads.
#[tokio::test]
async fn one_that_stands_still_holds_up_nobody() {
    let (_host, running, mut stub) = serving().await;
    let mut still = watching(&mut support::stub(running.socket()).await).await;
    assert_eq!(next(&mut still).await.unwrap(), "at-0");
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut connection = CredentialBrokerClient::new(channel(running.socket()).await);
        for _ in 0..25 {
            let mut watch = watching(&mut connection).await;
            assert_eq!(next(&mut watch).await.unwrap(), "at-0");
            others.push(watch);
        }
    }
    for nth in 0..10 {
        let token = format!("at-{}", "x".repeat(12_000 + nth));
        save(&mut stub, &token).await;
        for watch in &mut others {
            assert_eq!(next(watch).await.unwrap().len(), token.len());
        }
    }
}
