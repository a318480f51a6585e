//! Every reason of the error table, produced over a real socket and decoded from the wire.
//!
//! A new reason needs a row in [`rows`]: how it comes about, its gRPC code, and the words of its message that tell the
//! caller what to do. What every failure has in common is checked by `support::wire::Failure`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that cannot go on fails the test"
)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, pin::Pin, time::Duration};

use bytes::Bytes;
use credbroker::{
    broker::{login::LoginParts, policy::Policy},
    daemon::{Running, SocketChoice},
    oauth::{Flow, Outcome, Seen},
    proto,
    reason::Reason,
    server::{
        Layers,
        admission::Admission,
        peer::{AllowedPeers, Peer},
    },
};
use http::{Method, StatusCode};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use prost::Message as _;
use support::{
    Bench, Host, SOON, bearer, eventually,
    fake::{self, Fault},
    import,
    login_fake::{DENIED_CODE, Login},
    reading, soon,
    wire::{Answer, Failure, SERVICE, Wire, frame},
    with_capability,
};
use tokio::net::UnixStream;
use tonic::Code;

const CAPABILITY: [u8; 32] = [0xc4; 32];
const EXPIRED: &str = r#"{"access_token": "at", "expires_in": 0}"#;
const EXPIRED_WITH_REFRESH: &str = r#"{"access_token": "at", "refresh_token": "rt", "expires_in": 0}"#;
const VALID: &str = r#"{"access_token": "at", "refresh_token": "rt", "expires_in": 3600}"#;

struct Row {
    reason: Reason,
    code: Code,
    /// What the caller is to do.
    says: &'static str,
    produce: fn() -> Pin<Box<dyn Future<Output = Answer>>>,
}

/// The table.
fn rows() -> Vec<Row> {
    macro_rules! row {
        ($reason:ident, $code:ident, $says:literal, $produce:expr) => {
            Row {
                reason: Reason::$reason,
                code: Code::$code,
                says: $says,
                produce: || Box::pin($produce),
            }
        };
    }
    vec![
        row!(NotFound, NotFound, "credbroker token import", async {
            let (_host, _running, wire) = serving(Policy::host()).await;
            wire.call("GetToken", &get("absent", "")).await
        }),
        row!(InvalidRequest, InvalidArgument, "use 1 to 64 of", async {
            let (_host, _running, wire) = serving(Policy::host()).await;
            wire.call("GetToken", &get("a/b", "")).await
        }),
        row!(MessageTooLarge, ResourceExhausted, "send less", async {
            let (_host, _running, wire) = serving(Policy::host()).await;
            wire.call_with("GetToken", &[], request_of(64 * 1024 + 1)).await
        }),
        row!(Unimplemented, Unimplemented, "reflection lists what there is", async {
            let (_host, _running, wire) = serving(Policy::host()).await;
            wire.call("Nothing", &()).await
        }),
        row!(RateLimited, ResourceExhausted, "try again in", async {
            let host = Host::with_config("[limits]\nrequests_per_second = 1\n");
            let running = host.start(Policy::host());
            let wire = Wire::connect(running.socket()).await;
            wire.call("GetServerInfo", &()).await;
            wire.call("GetServerInfo", &()).await;
            wire.call("GetServerInfo", &()).await
        }),
        row!(
            TooManyStreams,
            ResourceExhausted,
            "end one, or connect once more",
            async {
                let host = Host::with_config("[limits]\nstreams = 1\n");
                let running = host.start(Policy::host());
                let wire = Wire::connect(running.socket()).await;
                let _open = wire.begin("/grpc.health.v1.Health/Watch").await;
                wire.call("/grpc.health.v1.Health/Watch", &()).await
            }
        ),
        row!(
            Unauthenticated,
            Unauthenticated,
            "send the metadata `authorization: Bearer",
            async {
                let (_host, _running, wire) = asking_for_capability().await;
                wire.call("GetToken", &get("p", "")).await
            }
        ),
        row!(
            Unauthorized,
            PermissionDenied,
            "the host allows it with `--allow p/default`",
            async {
                let (_host, _running, wire) = serving(reading(&["q/*"])).await;
                wire.call("GetToken", &get("p", "")).await
            }
        ),
        row!(PeerNotAllowed, PermissionDenied, "--allow-uid", async {
            let store = fake::Store::new();
            let bench = Bench::start(&store, Policy::host());
            let wire = strange_peer(&bench, Some(a_stranger())).await;
            wire.call("GetToken", &get("p", "")).await
        }),
        row!(UnknownVersion, FailedPrecondition, "restart the session", async {
            let (_host, _running, wire) = serving(Policy::host()).await;
            let request = proto::GetServerInfoRequest {
                min_version: 2,
                max_version: 3,
            };
            wire.call("GetServerInfo", &request).await
        }),
        row!(NeedsLogin, FailedPrecondition, "credbroker token import", async {
            let (host, _running, wire) = serving(Policy::host()).await;
            host.import("p", "", EXPIRED).await;
            wire.call("GetToken", &get("p", "")).await
        }),
        row!(
            ProviderNotFound,
            NotFound,
            "add [providers.p] to the host's config.toml",
            async {
                let (host, _running, wire) = serving(Policy::host()).await;
                host.import("p", "", EXPIRED_WITH_REFRESH).await;
                wire.call("GetToken", &get("p", "")).await
            }
        ),
        row!(
            ProviderRejected,
            FailedPrecondition,
            "check client_id, client secret and scopes in [providers.p]",
            async { refused(|| Outcome::Rejected(Seen(fake::INNER_TEXT.into()))).await }
        ),
        row!(ProviderUnavailable, Unavailable, "try again in", async {
            refused(|| Outcome::Ambiguous(Seen(fake::INNER_TEXT.into()))).await
        }),
        row!(LockTimeout, Unavailable, "try again", async {
            let (host, _running, wire) = serving(Policy::host()).await;
            host.import("p", "", VALID).await;
            // Another open file is another holder, as it is in another process.
            let lock = fs::File::open(host.lock_file("p", "default")).unwrap();
            lock.try_lock().unwrap();
            wire.call("SaveToken", &save("p", "new")).await
        }),
        row!(ShuttingDown, Unavailable, "restart the session", async {
            let (host, running, wire) = serving(Policy::host()).await;
            host.import("p", "", VALID).await;
            let mut call = wire.begin("GetToken").await;
            // Frames keep their order, so the broker has the call when it answers a later one.
            wire.call("GetServerInfo", &()).await;
            let socket = running.socket().to_owned();
            let stopping = tokio::spawn(running.stop());
            eventually("the socket is gone", || async {
                UnixStream::connect(&socket).await.is_err()
            })
            .await;
            call.body.send_data(frame(&get("p", "").encode_to_vec()), true).unwrap();
            let answer = call.answer().await;
            stopping.await.unwrap();
            answer
        }),
        row!(DeadlineExceeded, DeadlineExceeded, "try again, with more time", async {
            let store = fake::Store::new();
            let bench = Bench::start(&store, Policy::host());
            store.hold_reads();
            let wire = Wire::connect(&bench.socket()).await;
            // Without a deadline of the client's, the server's own of 60 s ends it: time is paused here.
            wire.call("GetToken", &get("p", "")).await
        }),
        row!(
            StoreLocked,
            FailedPrecondition,
            "the broker's log on the host says why",
            async {
                let host = Host::new();
                host.import("p", "", VALID).await;
                fs::set_permissions(host.store().join("identity.txt"), fs::Permissions::from_mode(0o644)).unwrap();
                let running = host.start(Policy::host());
                call(&running, "GetToken", &get("p", "")).await
            }
        ),
        row!(TooManySessions, ResourceExhausted, "end or cancel one", async {
            let (_bench, wire) = logging_in(LoginParts::default().timeout).await;
            for _ in 0..16 {
                initiate(&wire).await;
            }
            wire.call("InitiateLogin", &login_to_p()).await
        }),
        row!(SessionNotFound, NotFound, "begin one with InitiateLogin", async {
            let (_host, _running, wire) = serving(Policy::host()).await;
            wire.call("PollLogin", &poll("00112233445566778899aabbccddeeff".into()))
                .await
        }),
        row!(SessionExpired, FailedPrecondition, "begin it anew", async {
            let (_bench, wire) = logging_in(Duration::from_millis(1)).await;
            let session_id = initiate(&wire).await;
            // By the real clock.
            std::thread::sleep(Duration::from_millis(5));
            wire.call("PollLogin", &poll(session_id)).await
        }),
        row!(SessionAlreadyUsed, FailedPrecondition, "begin it anew", async {
            let (_bench, wire) = logging_in(LoginParts::default().timeout).await;
            let session_id = initiate(&wire).await;
            let request = proto::CancelLoginRequest {
                session_id: session_id.clone(),
            };
            let cancelled: proto::CancelLoginResponse = wire.call("CancelLogin", &request).await.message();
            assert_eq!(cancelled, proto::CancelLoginResponse {});
            wire.call("PollLogin", &poll(session_id)).await
        }),
        row!(ExchangeFailed, FailedPrecondition, "begin it anew", async {
            exchanged("bad-code").await
        }),
        row!(AccessDenied, FailedPrecondition, "begin it anew", async {
            exchanged(DENIED_CODE).await
        }),
        row!(StoreCorrupt, DataLoss, "store it anew on the host", async {
            let (host, _running, wire) = serving(Policy::host()).await;
            host.import("p", "", VALID).await;
            fs::write(host.entry_file("p", "default"), "not age").unwrap();
            wire.call("GetToken", &get("p", "")).await
        }),
        row!(
            StoreUnavailable,
            Unavailable,
            "the broker's log on the host says why",
            async {
                let (host, _running, wire) = serving(Policy::host()).await;
                host.import("p", "", VALID).await;
                replace_by_a_file(&host.store().join("tokens"));
                wire.call("GetToken", &get("p", "")).await
            }
        ),
        row!(InternalError, Internal, "its log on the host says why", async {
            let store = fake::Store::new();
            let bench = Bench::start(&store, Policy::host());
            store.fail(Fault::Panic);
            let wire = Wire::connect(&bench.socket()).await;
            wire.call("GetToken", &get("p", "")).await
        }),
    ]
}

/// What GetToken says when the token has expired and the provider answers this way.
async fn refused(answer: fn() -> Outcome) -> Answer {
    let store = fake::Store::new();
    let bench = Bench::answering(&store, Policy::host(), answer);
    import(&bench.broker, "p", "", EXPIRED_WITH_REFRESH).await;
    let wire = Wire::connect(&bench.socket()).await;
    wire.call("GetToken", &get("p", "")).await
}

/// A broker with a provider `p` to log in to, and how long that may take.
async fn logging_in(timeout: Duration) -> (Bench, Wire) {
    let parts = LoginParts {
        timeout,
        ..Login::with(&[Flow::PkceRedirect]).parts()
    };
    let bench = Bench::with_logins(&fake::Store::new(), Policy::host(), parts);
    let wire = Wire::connect(&bench.socket()).await;
    (bench, wire)
}

fn login_to_p() -> proto::InitiateLoginRequest {
    proto::InitiateLoginRequest {
        provider: "p".into(),
        ..proto::InitiateLoginRequest::default()
    }
}

/// Begins a login; its session.
async fn initiate(wire: &Wire) -> String {
    let begun: proto::InitiateLoginResponse = wire.call("InitiateLogin", &login_to_p()).await.message();
    begun.session_id
}

fn poll(session_id: String) -> proto::PollLoginRequest {
    proto::PollLoginRequest { session_id }
}

/// What ExchangeCode says to a code.
async fn exchanged(code: &str) -> Answer {
    let (_bench, wire) = logging_in(LoginParts::default().timeout).await;
    let request = proto::ExchangeCodeRequest {
        session_id: initiate(&wire).await,
        code: code.into(),
    };
    wire.call("ExchangeCode", &request).await
}

/// Runs in paused time, so that waits of the broker cost none; a wait for a file or socket still takes what it takes.
fn paused<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    // Nothing that the broker waits for takes longer than this.
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(300), future).await.unwrap() })
}

#[test]
fn every_reason_has_one_row() {
    for reason in Reason::ALL {
        let count = rows().iter().filter(|row| row.reason == reason).count();
        assert_eq!(count, 1, "{reason}: give it a row that produces it");
    }
    assert_eq!(rows().len(), Reason::ALL.len());
}

#[test]
fn every_reason_comes_over_the_socket_with_its_code_and_says_what_to_do() {
    for row in rows() {
        let failure = paused((row.produce)()).failure();
        assert_eq!(
            (failure.reason(), failure.code),
            (Some(row.reason), row.code),
            "{}",
            failure.message
        );
        assert!(
            failure.message.contains(row.says),
            "{}: {}",
            row.reason,
            failure.message
        );
    }
}

// The request itself.

#[tokio::test]
async fn a_message_of_exactly_64_kib_is_read_and_one_byte_more_is_not() {
    let (_host, _running, wire) = serving(Policy::host()).await;
    let at_the_limit = wire.call_with("GetToken", &[], request_of(64 * 1024)).await.failure();
    assert_eq!(
        (at_the_limit.reason(), at_the_limit.field()),
        (Some(Reason::InvalidRequest), "provider")
    );
    let over = wire
        .call_with("GetToken", &[], request_of(64 * 1024 + 1))
        .await
        .failure();
    assert_eq!(over.reason(), Some(Reason::MessageTooLarge));
    assert_eq!(over.info.metadata["limit"], "65536");
    // The length alone is refused; nobody waits for 4 GiB.
    let announced = wire.call_with("GetToken", &[], Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
    assert_eq!(announced.await.failure().reason(), Some(Reason::MessageTooLarge));
}

#[tokio::test]
async fn an_answer_of_more_than_64_kib_is_a_typed_failure() {
    let (host, _running, wire) = serving(Policy::host()).await;
    host.set_key("fits", &"k".repeat(60 * 1024)).await;
    host.set_key("large", &"k".repeat(64 * 1024)).await;
    let key = |name: &str| proto::GetApiKeyRequest { name: name.into() };
    let fits: proto::GetApiKeyResponse = wire.call("GetApiKey", &key("fits")).await.message();
    assert_eq!(fits.api_key.len(), 60 * 1024);
    let failure = wire.call("GetApiKey", &key("large")).await.failure();
    assert_eq!(failure.reason(), Some(Reason::MessageTooLarge));
    assert!(failure.message.contains("the answer"), "{}", failure.message);
}

#[tokio::test]
async fn what_is_not_one_well_formed_message_is_an_invalid_request() {
    let (_host, _running, wire) = serving(Policy::host()).await;
    let good = frame(&get("p", "").encode_to_vec());
    let with_flag = |flag| {
        let mut bytes = good.to_vec();
        bytes[0] = flag;
        Bytes::from(bytes)
    };
    let table = [
        ("garbage", frame(&[0xff; 40])),
        ("text that is no UTF-8", frame(&[0x0a, 1, 0xff])),
        ("a field that ends before its length", frame(&[0x0a, 9, b'p'])),
        ("a field of the wrong type", frame(&[0x08, 1])),
        ("half a frame header", good.slice(..3)),
        ("half a message", good.slice(..good.len() - 1)),
        ("no message", Bytes::new()),
        ("two messages", [good.clone(), good.clone()].concat().into()),
        ("a message and a half", [&good[..], &good[..4]].concat().into()),
        ("compressed, without saying how", with_flag(1)),
        ("an unknown flag", with_flag(2)),
        ("every flag", with_flag(0xff)),
    ];
    for (what, body) in table {
        let answer = soon(what, wire.call_with("GetToken", &[], body)).await;
        let failure = std::panic::catch_unwind(|| answer.failure()).unwrap_or_else(|_| panic!("{what}: {answer:?}"));
        assert_eq!(
            (failure.reason(), failure.field()),
            (Some(Reason::InvalidRequest), "message"),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_compression_that_is_not_spoken_is_unimplemented_and_says_what_is_spoken() {
    let (_host, _running, wire) = serving(Policy::host()).await;
    let body = frame(&get("p", "").encode_to_vec());
    for encoding in ["gzip", "br", "deflate", "zstd", "nonsense"] {
        let answer = wire
            .call_with("GetToken", &[("grpc-encoding", encoding)], body.clone())
            .await;
        let failure = answer.failure();
        assert_eq!(failure.reason(), Some(Reason::Unimplemented), "{encoding}");
        assert!(failure.message.contains("send it uncompressed"), "{}", failure.message);
        // gRPC's compression rules: the answer lists what the server accepts.
        assert_eq!(answer.headers["grpc-accept-encoding"], "identity", "{encoding}");
    }
    let identity = wire.call_with("GetToken", &[("grpc-encoding", "identity")], body).await;
    assert_eq!(identity.failure().reason(), Some(Reason::NotFound));
}

#[tokio::test]
async fn unknown_methods_and_services_are_told_escaped_and_cut() {
    let (_host, _running, wire) = serving(Policy::host()).await;
    let long = format!("/{}/Method", "s".repeat(900));
    for method in [
        "GetNothing",
        "/credbroker.v1.ControlBroker/GetStatus",
        "/other.Service/Get",
        "/",
        "/%1b[31m",
        &long,
    ] {
        let failure = wire.call_with(method, &[], frame(&[])).await.failure();
        assert_eq!(failure.reason(), Some(Reason::Unimplemented), "{method}");
        assert!(failure.message.len() < 400, "{}", failure.message);
    }
}

#[tokio::test]
async fn a_failure_in_the_middle_of_a_stream_has_a_reason_too() {
    let (_host, _running, wire) = serving(Policy::host()).await;
    for version in ["v1", "v1alpha"] {
        let method = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let answer = wire.call_with(&method, &[], frame(&[])).await;
        assert!(answer.trailers.contains_key("grpc-status"), "{answer:?}");
        assert_eq!(answer.failure().reason(), Some(Reason::InvalidRequest), "{version}");
    }
}

#[tokio::test]
async fn a_header_block_over_16_kib_is_refused_wherever_its_bytes_are() {
    let (_host, _running, wire) = serving(Policy::host()).await;
    let body = || frame(&[]);
    let filler = |len| "v".repeat(len);
    let below = wire
        .call_with("GetToken", &[("x-filler", &filler(15 * 1024))], body())
        .await;
    assert_eq!(below.failure().reason(), Some(Reason::InvalidRequest));
    let over = wire
        .call_with("GetToken", &[("x-filler", &filler(16 * 1024))], body())
        .await
        .failure();
    assert_eq!(over.reason(), Some(Reason::MessageTooLarge));
    assert!(over.message.contains("header block"), "{}", over.message);
    let path = format!("/{}/Get", filler(16 * 1024));
    assert_eq!(
        wire.call_with(&path, &[], body()).await.failure().reason(),
        Some(Reason::MessageTooLarge)
    );
    let many: Vec<(String, String)> = (0..500).map(|n| (format!("x-{n}"), "v".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(
        wire.call_with("GetToken", &many, body()).await.failure().reason(),
        Some(Reason::MessageTooLarge)
    );
}

#[tokio::test]
async fn what_is_no_grpc_call_gets_a_plain_http_answer() {
    let (_host, _running, wire) = serving(Policy::host()).await;
    let path = format!("{SERVICE}GetServerInfo");
    let post = |content_type: &'static str| {
        let (wire, path) = (wire.clone(), path.clone());
        async move {
            let headers = [("content-type", content_type)];
            let headers = if content_type.is_empty() { &[] } else { &headers[..] };
            wire.http(Method::POST, &path, headers, frame(&[])).await
        }
    };
    for wrong in [
        "",
        "application/json",
        "text/html",
        "application/grpcx",
        "application/grpc-web",
        "xapplication/grpc",
    ] {
        let answer = post(wrong).await;
        assert_eq!(answer.code, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{wrong}");
        assert!(answer.body.starts_with(b"This socket speaks gRPC") && answer.trailers.is_empty());
    }
    for right in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
    ] {
        let info: proto::GetServerInfoResponse = post(right).await.message();
        assert_eq!(info.version, 1, "{right}");
    }
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let headers = [("content-type", "application/grpc")];
        let answer = wire.http(method.clone(), &path, &headers, Bytes::new()).await;
        assert_eq!(answer.code, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.headers["allow"], "POST", "{method}");
    }
}

#[tokio::test]
async fn a_name_from_the_wire_is_told_escaped_and_cut_at_32_characters() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, Policy::host());
    let wire = Wire::connect(&bench.socket()).await;
    let bad = format!("\u{1b}[31m\n\u{202e}{}END", "x".repeat(25));
    assert_eq!(bad.chars().position(|c| c == 'E'), Some(32));
    let requests: [(&str, Vec<u8>, &str); 6] = [
        ("GetToken", get(&bad, "").encode_to_vec(), "provider"),
        ("GetToken", get("p", &bad).encode_to_vec(), "bucket"),
        ("SaveToken", save(&bad, "new").encode_to_vec(), "provider"),
        ("RemoveToken", get("p", &bad).encode_to_vec(), "bucket"),
        ("ListBuckets", get(&bad, "").encode_to_vec(), "provider"),
        ("GetApiKey", get(&bad, "").encode_to_vec(), "name"),
    ];
    for (method, message, field) in requests {
        let failure = wire.call_with(method, &[], frame(&message)).await.failure();
        assert_eq!(
            (failure.reason(), failure.field()),
            (Some(Reason::InvalidRequest), field),
            "{method}"
        );
        let description = &failure.bad_request.as_ref().unwrap().field_violations[0].description;
        for text in [&failure.message, description] {
            assert!(text.contains(r"\u{1b}[31m\n\u{202e}xxx"), "{text}");
            assert!(text.contains(&format!("{} bytes", bad.len())), "{text}");
            assert!(!text.contains("END") && !text.contains('\u{1b}'), "{text}");
        }
    }
    assert_eq!(store.touched(), 0, "bad input ends before the store");
}

#[tokio::test]
async fn bad_input_names_its_field() {
    let (_host, _running, wire) = serving(Policy::host()).await;
    let minus = Some(prost_types::Duration { seconds: 0, nanos: -1 });
    let valid_for = |min_validity| proto::GetTokenRequest {
        min_validity,
        ..get("p", "")
    };
    let most_negative = Some(prost_types::Duration {
        seconds: i64::MIN,
        nanos: i32::MIN,
    });
    let token = |access_token: &str| proto::AccessToken {
        access_token: access_token.into(),
        ..Default::default()
    };
    let with_token = |token: Option<proto::AccessToken>| proto::SaveTokenRequest {
        provider: "p".into(),
        bucket: String::new(),
        token,
    };
    let page = |page_size, page_token: &str| proto::ListProvidersRequest {
        page_size,
        page_token: page_token.into(),
    };
    let foreign = data_encoding::BASE64URL_NOPAD.encode(b"buckets/p:a");
    let control = proto::AccessToken {
        scope: "a\u{7}".into(),
        ..token("new")
    };
    let never = proto::AccessToken {
        expire_time: Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        }),
        ..token("new")
    };
    let versions = proto::GetServerInfoRequest {
        min_version: 2,
        max_version: 1,
    };
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("GetToken", get("", "").encode_to_vec(), "provider"),
        ("GetToken", get("..", "").encode_to_vec(), "provider"),
        ("GetToken", get("p", ".").encode_to_vec(), "bucket"),
        ("GetToken", get(&"p".repeat(65), "").encode_to_vec(), "provider"),
        ("GetToken", valid_for(minus).encode_to_vec(), "min_validity"),
        ("GetToken", valid_for(most_negative).encode_to_vec(), "min_validity"),
        ("SaveToken", with_token(None).encode_to_vec(), "token"),
        (
            "SaveToken",
            with_token(Some(token(""))).encode_to_vec(),
            "token.access_token",
        ),
        (
            "SaveToken",
            with_token(Some(token("a\nb"))).encode_to_vec(),
            "token.access_token",
        ),
        (
            "SaveToken",
            with_token(Some(token(&"x".repeat(16 * 1024 + 1)))).encode_to_vec(),
            "token.access_token",
        ),
        ("SaveToken", with_token(Some(control)).encode_to_vec(), "token.scope"),
        (
            "SaveToken",
            with_token(Some(never)).encode_to_vec(),
            "token.expire_time",
        ),
        ("ListProviders", page(-1, "").encode_to_vec(), "page_size"),
        ("ListProviders", page(0, &foreign).encode_to_vec(), "page_token"),
        ("ListProviders", page(0, "*").encode_to_vec(), "page_token"),
        ("ListApiKeys", page(i32::MIN, "").encode_to_vec(), "page_size"),
        ("ListApiKeys", page(0, &foreign).encode_to_vec(), "page_token"),
        ("ListBuckets", get("", "").encode_to_vec(), "provider"),
        ("GetApiKey", Vec::new(), "name"),
        ("GetServerInfo", versions.encode_to_vec(), "min_version"),
    ];
    for (method, message, field) in table {
        let failure = wire.call_with(method, &[], frame(&message)).await.failure();
        assert_eq!(
            (failure.reason(), failure.field()),
            (Some(Reason::InvalidRequest), field),
            "{method}"
        );
        assert_eq!(failure.info.metadata["field"], field);
    }
}

#[tokio::test]
async fn the_clients_deadline_ends_a_call_on_the_server_too() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, Policy::host());
    store.hold_reads();
    let wire = Wire::connect(&bench.socket()).await;
    let timeout = [("grpc-timeout", "30m")];
    let body = frame(&get("p", "").encode_to_vec());
    let failure = soon("the deadline", wire.call_with("GetToken", &timeout, body))
        .await
        .failure();
    assert_eq!(failure.reason(), Some(Reason::DeadlineExceeded));
    assert!(failure.message.contains("0.03 s"), "{}", failure.message);
}

// Who may ask.

#[tokio::test]
async fn a_capability_that_is_missing_wrong_or_there_twice_is_unauthenticated() {
    let (_host, _running, wire) = asking_for_capability().await;
    let (good, other) = (bearer(CAPABILITY), bearer([0xc5; 32]));
    let body = || frame(&get("absent", "").encode_to_vec());
    fn header(value: &str) -> (&str, &str) {
        ("authorization", value)
    }
    let table: [(&[(&str, &str)], &str); 6] = [
        (&[], "missing"),
        (&[header(&other)], "wrong"),
        (&[header("Bearer nonsense")], "wrong"),
        (&[header(&good[7..])], "not sent as `Bearer`"),
        (&[header(&good), header(&good)], "wrong"),
        (&[header(&good), header(&other)], "wrong"),
    ];
    for (headers, want) in table {
        for method in [
            "GetToken",
            "GetServerInfo",
            "ListProviders",
            "Nothing",
            "/other.Service/Get",
        ] {
            let failure = wire.call_with(method, headers, body()).await.failure();
            assert_eq!(failure.reason(), Some(Reason::Unauthenticated), "{method} {headers:?}");
            assert!(failure.message.contains(want), "{}", failure.message);
        }
    }
    let admitted = wire.call_with("GetToken", &[header(&good)], body()).await.failure();
    assert_eq!(admitted.reason(), Some(Reason::NotFound));
}

#[tokio::test]
async fn what_the_policy_refuses_is_refused_the_same_way_whether_it_exists_or_not() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, reading(&["other"]));
    let wire = Wire::connect(&bench.socket()).await;
    let ask = || async {
        let touched = store.touched();
        let key = proto::GetApiKeyRequest { name: "p".into() };
        let answers = [
            wire.call("GetToken", &get("p", "")).await,
            wire.call("SaveToken", &save("p", "new")).await,
            wire.call("RemoveToken", &get("p", "")).await,
            wire.call("GetBucketStats", &get("p", "")).await,
            wire.call("GetApiKey", &key).await,
        ];
        assert_eq!(store.touched(), touched, "the store was asked");
        // Maps have no order on the wire, so the decoded answers are compared, and how many bytes they have.
        answers.map(|answer| (answer.failure(), answer.octets().len()))
    };
    let absent = ask().await;
    for (failure, ..) in &absent {
        assert_eq!(failure.reason(), Some(Reason::Unauthorized));
    }
    import(&bench.broker, "p", "", VALID).await;
    bench.broker.set_api_key(&support::name("p"), "k".into()).await.unwrap();
    assert_eq!(ask().await, absent, "existing");
    for fault in [Fault::Corrupt, Fault::Locked, Fault::Unavailable, Fault::Panic] {
        store.fail(fault);
        assert_eq!(ask().await, absent, "{fault:?}");
    }
}

#[tokio::test]
async fn what_the_policy_refuses_is_refused_over_a_broken_store_too() {
    let (host, _running, wire) = serving(reading(&["other"])).await;
    host.import("p", "", VALID).await;
    let refused = || async { wire.call("GetToken", &get("p", "")).await.failure().reason() };
    assert_eq!(refused().await, Some(Reason::Unauthorized));
    fs::write(host.entry_file("p", "default"), "not age").unwrap();
    assert_eq!(refused().await, Some(Reason::Unauthorized));
    replace_by_a_file(&host.store());
    assert_eq!(refused().await, Some(Reason::Unauthorized));
    let allowed = wire.call("GetToken", &get("other", "")).await.failure();
    assert_eq!(allowed.reason(), Some(Reason::StoreUnavailable));
}

#[tokio::test]
async fn the_first_check_that_fails_answers() {
    // Peer, capability, message, policy, existence.
    let store = fake::Store::new();
    let bench = Bench::start(&store, reading(&["other"]));
    let stranger = strange_peer(&bench, Some(a_stranger())).await;
    let headers = [("x-filler", &*"v".repeat(17 * 1024))];
    let first = stranger.call_with("GetToken", &headers, Bytes::new()).await.failure();
    assert_eq!(first.reason(), Some(Reason::PeerNotAllowed));
    let (_host, _running, wire) = asking_for_capability().await;
    let second = wire.call_with("GetToken", &[], frame(&[0xff; 9])).await.failure();
    assert_eq!(second.reason(), Some(Reason::Unauthenticated));
    let wire = Wire::connect(&bench.socket()).await;
    let third = wire.call("SaveToken", &save("p", "a\nb")).await.failure();
    assert_eq!(third.reason(), Some(Reason::InvalidRequest));
    let fourth = wire.call("GetToken", &get("p", "")).await.failure();
    assert_eq!(fourth.reason(), Some(Reason::Unauthorized));
    let fifth = wire.call("GetToken", &get("other", "")).await.failure();
    assert_eq!(fifth.reason(), Some(Reason::NotFound));
}

#[tokio::test]
async fn who_is_not_known_reaches_no_method_at_all() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, Policy::host());
    let wire = strange_peer(&bench, None).await;
    for method in ["GetServerInfo", "GetToken", "Nothing", "/grpc.health.v1.Health/Check"] {
        let failure = wire.call(method, &()).await.failure();
        assert_eq!(failure.reason(), Some(Reason::PeerNotAllowed), "{method}");
        assert!(
            failure.message.contains("did not tell who connected"),
            "{}",
            failure.message
        );
    }
    assert_eq!(store.touched(), 0);
}

#[tokio::test]
async fn a_peer_that_is_not_allowed_reaches_no_method_at_all() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, Policy::host());
    let wire = strange_peer(&bench, Some(a_stranger())).await;
    let uid = stranger().to_string();
    let methods = [
        "GetServerInfo",
        "GetToken",
        "ListProviders",
        "Nothing",
        "/grpc.health.v1.Health/Check",
    ];
    for method in methods {
        let failure = wire.call(method, &()).await.failure();
        assert_eq!(failure.reason(), Some(Reason::PeerNotAllowed), "{method}");
        assert!(
            failure.message.contains(&format!("--allow-uid {uid}")),
            "{}",
            failure.message
        );
        assert_eq!(failure.info.metadata["uid"], uid);
    }
    assert_eq!(store.touched(), 0);
}

/// Needs root, who alone can connect as somebody else; for everybody else the test above is all there is.
#[tokio::test]
async fn the_kernel_says_who_connected_and_allow_uid_lets_him_in() {
    let other = 65_534;
    let may_change_uid = std::thread::spawn(move || become_user(other).is_ok()).join().unwrap();
    if !may_change_uid {
        println!("not root: only the layers were tested with another uid, not the kernel's word");
        return;
    }
    for (allowed, want) in [(vec![], Reason::PeerNotAllowed), (vec![other], Reason::NotFound)] {
        let host = Host::new();
        // A place that the other user can reach, as a mount into a sandbox is.
        let open = tempfile::TempDir::new().unwrap();
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let socket = SocketChoice::At(open.path().join("sock"), 0o666);
        let running = host.start_at(socket, Admission::Open(Policy::host().into()), &allowed);
        let path = running.socket().to_owned();
        let stream = std::thread::spawn(move || {
            // The thread's own credentials; they end with it.
            become_user(other).unwrap();
            std::os::unix::net::UnixStream::connect(path).unwrap()
        });
        let stream = stream.join().unwrap();
        stream.set_nonblocking(true).unwrap();
        let wire = Wire::over(UnixStream::from_std(stream).unwrap()).await;
        let failure = wire.call("GetToken", &get("p", "")).await.failure();
        assert_eq!(failure.reason(), Some(want));
        running.stop().await;
        let line = host.audit().pop().unwrap();
        assert_eq!(line["peer_uid"], other);
    }
}

// The store's failures, and what a caller may learn of them.

#[tokio::test]
async fn a_stores_failure_is_told_by_its_kind_and_never_in_its_own_words() {
    let table = [
        (Fault::Locked, Reason::StoreLocked),
        (Fault::Corrupt, Reason::StoreCorrupt),
        (Fault::NewerFormat, Reason::StoreUnavailable),
        (Fault::Busy, Reason::LockTimeout),
        (Fault::Unavailable, Reason::StoreUnavailable),
        (Fault::Panic, Reason::InternalError),
    ];
    let store = fake::Store::new();
    let bench = Bench::start(&store, Policy::host());
    import(&bench.broker, "p", "", VALID).await;
    let wire = Wire::connect(&bench.socket()).await;
    for (fault, reason) in table {
        store.fail(fault);
        for (method, message) in every_method() {
            let answer = wire.call_with(method, &[], frame(&message)).await;
            assert_eq!(answer.failure().reason(), Some(reason), "{method} {fault:?}");
            let octets = answer.octets();
            for word in ["alice", "canary", "/home"] {
                assert!(!contains(&octets, word.as_bytes()), "{method} {fault:?}: {answer:?}");
            }
        }
    }
    store.fail(None);
    let token: proto::GetTokenResponse = wire.call("GetToken", &get("p", "")).await.message();
    assert_eq!(
        token.token.unwrap().access_token,
        "at",
        "the connection and the broker live on"
    );
}

#[test]
fn a_busy_entry_answers_after_10_s_and_can_be_read_meanwhile() {
    paused(async {
        let (host, _running, wire) = serving(Policy::host()).await;
        host.import("p", "", VALID).await;
        let lock = fs::File::open(host.lock_file("p", "default")).unwrap();
        lock.try_lock().unwrap();
        let asked = tokio::time::Instant::now();
        let (save, remove) = (save("p", "new"), get("p", ""));
        let (saved, removed, read) = tokio::join!(
            wire.call("SaveToken", &save),
            wire.call("RemoveToken", &remove),
            wire.call("GetToken", &remove)
        );
        assert_eq!(saved.failure().reason(), Some(Reason::LockTimeout));
        assert_eq!(removed.failure().reason(), Some(Reason::LockTimeout));
        let waited = asked.elapsed();
        assert!((10..20).contains(&waited.as_secs()), "{waited:?}");
        let token: proto::GetTokenResponse = read.message();
        assert_eq!(token.token.unwrap().access_token, "at");
        drop(lock);
        wire.call("SaveToken", &save)
            .await
            .message::<proto::SaveTokenResponse>();
    });
}

#[tokio::test]
async fn the_stub_of_another_language_would_see_the_same_details() {
    // The stock stub reads details-bin by itself; it and the bytes above must agree.
    let (_host, running, wire) = serving(Policy::host()).await;
    let by_wire = wire.call("GetToken", &get("absent", "b")).await.failure();
    let by_stub = Failure::of(
        support::stub(running.socket())
            .await
            .get_token(get("absent", "b"))
            .await,
    );
    assert_eq!(by_wire, by_stub);
    assert_eq!(
        (&*by_stub.info.metadata["provider"], &*by_stub.info.metadata["bucket"]),
        ("absent", "b")
    );
}

// Helpers.

fn get(provider: &str, bucket: &str) -> proto::GetTokenRequest {
    proto::GetTokenRequest {
        provider: provider.into(),
        bucket: bucket.into(),
        min_validity: None,
    }
}

fn save(provider: &str, access_token: &str) -> proto::SaveTokenRequest {
    proto::SaveTokenRequest {
        provider: provider.into(),
        bucket: String::new(),
        token: Some(proto::AccessToken {
            access_token: access_token.into(),
            ..Default::default()
        }),
    }
}

/// A good request for each method that asks the store. Where the first fields have the same type, one message serves
/// several methods.
fn every_method() -> Vec<(&'static str, Vec<u8>)> {
    let entry = get("p", "").encode_to_vec();
    vec![
        ("GetToken", entry.clone()),
        ("SaveToken", save("p", "new").encode_to_vec()),
        ("RemoveToken", entry.clone()),
        ("ListProviders", Vec::new()),
        ("ListBuckets", entry.clone()),
        ("GetBucketStats", entry.clone()),
        ("GetApiKey", entry),
        ("ListApiKeys", Vec::new()),
    ]
}

/// A framed GetTokenRequest whose message has exactly this many bytes.
fn request_of(bytes: usize) -> Bytes {
    let overhead = 4; // tag, and a length of three bytes
    let message = get(&"p".repeat(bytes - overhead), "").encode_to_vec();
    assert_eq!(message.len(), bytes);
    frame(&message)
}

async fn serving(policy: Policy) -> (Host, Running, Wire) {
    let host = Host::new();
    let running = host.start(policy);
    let wire = Wire::connect(running.socket()).await;
    (host, running, wire)
}

async fn asking_for_capability() -> (Host, Running, Wire) {
    let host = Host::new();
    let running = host.start_with(with_capability(CAPABILITY, Policy::host()));
    let wire = Wire::connect(running.socket()).await;
    (host, running, wire)
}

async fn call(running: &Running, method: &str, message: &impl prost::Message) -> Answer {
    Wire::connect(running.socket()).await.call(method, message).await
}

/// A uid that is not the own one.
fn stranger() -> u32 {
    rustix::process::geteuid().as_raw() + 1
}

/// A connection of somebody whom the socket's layers do not allow.
fn a_stranger() -> Peer {
    Peer {
        uid: stranger(),
        pid: Some(1),
    }
}

async fn strange_peer(bench: &Bench, peer: Option<Peer>) -> Wire {
    let layers: Layers = support::layers(&bench.broker, AllowedPeers::own_and(&[]), Policy::host(), None);
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let service = TowerToHyperService::new(layers.for_connection(peer, stopping));
    let (client, server) = UnixStream::pair().unwrap();
    let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http2.max_header_list_size(64 * 1024);
    tokio::spawn(async move {
        let ended = http2.serve_connection(TokioIo::new(server), service).await;
        drop(stop);
        ended
    });
    tokio::time::timeout(SOON, Wire::over(client)).await.unwrap()
}

fn become_user(uid: u32) -> rustix::io::Result<()> {
    let uid = rustix::process::Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn replace_by_a_file(directory: &Path) {
    fs::rename(directory, directory.with_extension("away")).unwrap();
    fs::write(directory, "").unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o600)).unwrap();
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
