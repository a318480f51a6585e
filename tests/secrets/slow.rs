//! An Envoy that does not read, and one that comes between.

use bytes::Bytes;
use credbroker::{
    broker::Caller,
    proto::envoy::{DiscoveryResponse, Secret, Specifier, secret},
};
use http::Request;
use prost::Message as _;
use tokio::{net::UnixStream, time::sleep};

use crate::{
    house::{House, secs, soon, wanting},
    support::{key, name, wire::frame},
};

#[tokio::test(start_paused = true)]
async fn gets_the_newest_state_when_it_comes_back_and_no_backlog() {
    let house = House::new();
    let token = |number: usize| format!("{number:04}-{}", "x".repeat(4000));
    house.import("", &token(0), "", 3600).await;
    let stream = UnixStream::connect(house.bench.socket()).await.unwrap();
    let mut builder = h2::client::Builder::new();
    // Room for less than one answer.
    builder.initial_window_size(100);
    let (client, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::post("http://localhost/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut body) = client.ready().await.unwrap().send_request(request, false).unwrap();
    body.send_data(frame(&wanting(&["token/p/default"]).encode_to_vec()), false)
        .unwrap();
    let mut answers = soon("the stream", response).await.unwrap().into_body();
    for number in 1..=20 {
        house.import("", &token(number), "", 3600).await;
        sleep(secs(1)).await;
    }
    // It comes back.
    let (mut octets, mut told) = (Vec::new(), Vec::new());
    while told.last() != Some(&token(20)) {
        let data = soon("the newest", answers.data()).await.unwrap().unwrap();
        answers.flow_control().release_capacity(data.len()).unwrap();
        octets.extend(data);
        while let Some(message) = message(&mut octets) {
            told.push(value(&message));
        }
    }
    // What was there when it stopped reading, perhaps one more that was on its way, and the newest.
    assert!(
        told.len() <= 3,
        "{:?}",
        told.iter().map(|token| &token[..4]).collect::<Vec<_>>()
    );
    assert_eq!(told[0], token(0));
}

/// The first whole message.
fn message(octets: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes(octets.get(1..5)?.try_into().unwrap()) as usize;
    let message = octets.get(5..5 + length)?.to_vec();
    octets.drain(..5 + length);
    Some(message)
}

fn value(message: &[u8]) -> String {
    let answer = DiscoveryResponse::decode(message).unwrap();
    let secret = Secret::decode(answer.resources[0].value.as_slice()).unwrap();
    let Some(secret::Type::GenericSecret(generic)) = secret.r#type else {
        panic!("no generic secret")
    };
    let Some(Specifier::InlineString(value)) = generic.secret.unwrap().specifier else {
        panic!("no string")
    };
    value
}

#[tokio::test(start_paused = true)]
async fn what_comes_and_goes_between_two_looks_of_the_place_is_taken_back() {
    let house = House::new();
    let (broker, other, host) = (&house.bench.broker, house.another(), Caller::host());
    let (entry, api_key) = (key("p", ""), name("k"));
    let mut token = broker.follow(&host, &entry).await.unwrap();
    let mut secret = broker.follow_key(&host, &api_key).unwrap();
    assert!(token.present().await.unwrap().is_none());
    // It stands at both places that there is nothing.
    sleep(secs(1)).await;
    house.import_to(&other, &entry, "at-0", "", 3600).await;
    other.set_api_key(&api_key, "sk-0".into()).await.unwrap();
    let start = tokio::time::Instant::now();
    assert!(token.present().await.unwrap().is_some());
    assert!(secret.present().await.unwrap().is_some());
    other.remove_token(&host, &entry).await.unwrap();
    other.remove_api_key(&api_key).await.unwrap();
    assert!(start.elapsed().is_zero(), "nobody has looked meanwhile");
    assert!(soon("the key's end", secret.present()).await.unwrap().is_none());
    assert!(soon("the token's end", token.present()).await.unwrap().is_none());
    assert!(start.elapsed() < secs(2));
}
