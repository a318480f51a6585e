//! What is refused: bad input, callers without a capability, too much of anything, and a broker that stops.

use credbroker::{
    proto::envoy::{DeltaDiscoveryRequest, DiscoveryRequest, RpcStatus},
    reason::Reason,
};
use prost::Message as _;
use tonic::Code;

use crate::{
    house::{House, Talk, policy, wanting},
    support::{
        bearer,
        wire::{Failure, Wire, frame},
        with_capability,
    },
};

const SERVICE: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";

/// A request with so many bytes that nobody reads: field 2 is the node, whose field 3 is metadata.
fn with_a_node_of(bytes: usize) -> Vec<u8> {
    let mut message = wanting(&["token/p/default"]);
    message.node = None;
    let mut encoded = message.encode_to_vec();
    let mut node = Vec::new();
    prost::encoding::bytes::encode(3, &vec![b'x'; bytes], &mut node);
    prost::encoding::bytes::encode(2, &node, &mut encoded);
    encoded
}

#[tokio::test(start_paused = true)]
async fn known_bad_input_is_refused_with_its_reason_by_both_methods() {
    let house = House::new();
    let wire = Wire::connect(&house.bench.socket()).await;
    let many: Vec<String> = (0..257).map(|at| format!("token/p/{at}")).collect();
    let named = |names: Vec<String>, type_url: &str| {
        let request = DiscoveryRequest {
            resource_names: names,
            type_url: type_url.to_owned(),
            ..DiscoveryRequest::default()
        };
        request.encode_to_vec()
    };
    let invalid = |field: &'static str| (Reason::InvalidRequest, Some(field));
    let too_large = (Reason::MessageTooLarge, None::<&str>);
    let table = [
        ("no protobuf", vec![0xff; 9], invalid("message")),
        ("a name that is no text", vec![0x1a, 1, 0xff], invalid("message")),
        ("half a message", vec![0x1a, 9, b'a'], invalid("message")),
        (
            "another type",
            named(Vec::new(), "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
            invalid("type_url"),
        ),
        ("no type URL", named(Vec::new(), "\u{1b}[31m"), invalid("type_url")),
        ("too many names", named(many, ""), invalid("resource_names")),
        (
            "a name too long",
            named(vec!["x".repeat(257)], ""),
            invalid("resource_names"),
        ),
        ("a node too large", with_a_node_of(128 * 1024), too_large),
        ("far too large", with_a_node_of(1024 * 1024), too_large),
    ];
    for (what, message, (reason, field)) in table {
        for method in ["StreamSecrets", "FetchSecrets"] {
            let answer = wire
                .call_with(&format!("{SERVICE}{method}"), &[], frame(&message))
                .await;
            let failure = answer.failure();
            assert_eq!(failure.reason(), Some(reason), "{what}, {method}");
            let violated = failure.bad_request.map(|bad| bad.field_violations[0].field.clone());
            assert_eq!(violated.as_deref(), field, "{what}, {method}");
            if reason == Reason::MessageTooLarge {
                assert!(failure.message.contains("131072"), "{}", failure.message);
            }
        }
    }
}

/// Stock Envoy 1.40 introduces itself with 60 KiB, on each stream.
#[tokio::test(start_paused = true)]
async fn ten_envoys_on_one_connection_introduce_themselves_at_once() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let wire = Wire::connect(&house.bench.socket()).await;
    let start = tokio::time::Instant::now();
    for _ in 0..10 {
        let method = format!("{SERVICE}FetchSecrets");
        let answer = wire.call_with(&method, &[], frame(&with_a_node_of(120 * 1024))).await;
        assert_eq!(answer.status(), Code::Ok);
        let mut open = wire.begin(&format!("{SERVICE}StreamSecrets")).await;
        open.body.send_data(frame(&with_a_node_of(60 * 1024)), true).unwrap();
        let head = open.head().await;
        assert!(!head.contains_key("grpc-status"), "{head:?}");
    }
    assert!(start.elapsed().as_secs() < 1, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn bad_input_later_on_ends_the_stream_with_its_reason() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let mut talk = house.talk(&["token/p/default"]).await;
    talk.told().await;
    talk.say(DiscoveryRequest {
        type_url: "another".into(),
        ..talk.request()
    });
    assert_eq!(Failure::of(talk.end().await).reason(), Some(Reason::InvalidRequest));

    let mut talk = house.talk(&["token/p/default"]).await;
    talk.told().await;
    talk.say(DiscoveryRequest {
        error_detail: Some(RpcStatus {
            message: "x".repeat(128 * 1024),
            ..RpcStatus::default()
        }),
        ..talk.request()
    });
    assert_eq!(Failure::of(talk.end().await).reason(), Some(Reason::MessageTooLarge));
    assert_eq!(house.bench.broker.secrets_rejected(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_incremental_protocol_is_not_served_and_the_answer_says_what_is() {
    let house = House::new();
    let request = tokio_stream::iter([DeltaDiscoveryRequest::default()]);
    let failure = Failure::of(house.client().await.delta_secrets(request).await);
    assert_eq!(
        (failure.code, failure.reason()),
        (Code::Unimplemented, Some(Reason::Unimplemented))
    );
    assert!(failure.message.contains("api_type: GRPC"), "{}", failure.message);
}

#[tokio::test(start_paused = true)]
async fn without_its_capability_nobody_gets_anything() {
    let house = House::with(with_capability([7; 32], policy()));
    house.import("", "at-0", "", 3600).await;
    let wire = Wire::connect(&house.bench.socket()).await;
    let message = frame(&wanting(&["token/p/default"]).encode_to_vec());
    let wrong = bearer([8; 32]);
    for method in ["StreamSecrets", "FetchSecrets", "DeltaSecrets"] {
        let path = format!("{SERVICE}{method}");
        for headers in [&[][..], &[("authorization", wrong.as_str())]] {
            let failure = wire.call_with(&path, headers, message.clone()).await.failure();
            assert_eq!(failure.reason(), Some(Reason::Unauthenticated), "{method}");
        }
    }
    let good = bearer([7; 32]);
    let path = format!("{SERVICE}FetchSecrets");
    let answer = wire
        .call_with(&path, &[("authorization", good.as_str())], message)
        .await;
    assert!(String::from_utf8_lossy(&answer.body).contains("at-0"));
}

#[tokio::test(start_paused = true)]
async fn calls_have_a_rate_as_all_others_have() {
    let house = House::new();
    let mut client = house.client().await;
    let mut refused = 0;
    for _ in 0..150 {
        if let Err(status) = client.fetch_secrets(wanting(&[])).await {
            assert_eq!(Failure::of::<()>(Err(status)).reason(), Some(Reason::RateLimited));
            refused += 1;
        }
    }
    assert!((1..=30).contains(&refused), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn the_65th_stream_of_a_connection_is_refused() {
    let house = House::new();
    let client = house.client().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Talk::begin(client.clone(), wanting(&["*"])).await.unwrap());
    }
    let failure = Failure::of(Talk::begin(client.clone(), wanting(&["*"])).await.map(|_| ()));
    assert_eq!(failure.reason(), Some(Reason::TooManyStreams));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stops_ends_the_stream_with_the_reason() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let mut talk = house.talk(&["token/p/default", "*"]).await;
    talk.all(&["token/p/default", "*"]).await;
    let (_, end) = tokio::join!(house.bench.stop(), talk.end());
    assert_eq!(Failure::of(end).reason(), Some(Reason::ShuttingDown));
}
