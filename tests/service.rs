//! What the calls do, over a real socket.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that cannot go on fails the test"
)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use credbroker::{
    broker::{
        Caller,
        audit::{Audit, Settings},
        page::PageRequest,
        policy::{NamePattern, Policy},
        status::EntryState,
    },
    clock::{Clock as _, SystemClock},
    credential::TokenAnswer,
    daemon::Running,
    oauth::{Flow, Outcome, Seen},
    proto::{self, control_broker_server::ControlBroker, credential_broker_client::CredentialBrokerClient},
    reason::Reason,
    server::admission::Admission,
    service::control::{About, ControlService},
};
use prost::Message as _;
use support::{
    Bench, Host, bearer, channel, control_socket, control_stub, eventually,
    fake::{self, Change, Fault},
    health_stub, import, key,
    login_fake::{GOOD_CODE, Login},
    name, reading, soon, stub,
    wire::{Failure, Wire, frame},
    with_capability,
};
use tokio::{net::UnixStream, time::Instant};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

const SECRET: &str = "rt-canary-1b9d5f7a2c4e";
const SERVICE: &str = "credbroker.v1.CredentialBroker";

type Stub = CredentialBrokerClient<Channel>;

// Tokens.

#[tokio::test]
async fn an_empty_bucket_is_the_default_one_in_every_call() {
    let (host, _running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", &answer("first", 3600)).await;
    let by_empty = token(&mut stub, "p", "").await.unwrap();
    let by_name = token(&mut stub, "p", "default").await.unwrap();
    assert_eq!(
        (&by_empty.access_token, &by_empty.revision),
        (&by_name.access_token, &by_name.revision)
    );
    stub.save_token(save("p", "", "second")).await.unwrap();
    assert_eq!(token(&mut stub, "p", "default").await.unwrap().access_token, "second");
    assert_eq!(buckets(&mut stub, "p").await, ["default"]);
    let stats = stub
        .get_bucket_stats(entry("p", ""))
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    assert_eq!((stats.bucket.as_str(), stats.request_count), ("default", 3));
    stub.remove_token(removal("p", "default")).await.unwrap();
    assert_eq!(reason(stub.get_token(request("p", "")).await), Reason::NotFound);
}

#[tokio::test]
async fn a_delivered_token_says_when_it_expires_in_both_ways() {
    let (host, _running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", &answer("at", 3600)).await;
    host.import(
        "p",
        "forever",
        r#"{"access_token": "at", "scope": "a b", "token_type": "DPoP"}"#,
    )
    .await;
    let token_1 = token(&mut stub, "p", "").await.unwrap();
    let left = token_1.expires_in.unwrap().seconds;
    assert!((3590..=3600).contains(&left), "{left}");
    assert!(token_1.expire_time.is_some());
    assert_eq!((&*token_1.token_type, &*token_1.scope), ("Bearer", "scope-1"));
    assert_eq!(token_1.extra, [("extra".to_owned(), "kept".to_owned())].into());
    let forever = token(&mut stub, "p", "forever").await.unwrap();
    assert_eq!((forever.expires_in, forever.expire_time), (None, None));
    assert_eq!((&*forever.token_type, &*forever.scope), ("DPoP", "a b"));
    assert_ne!(forever.revision, token_1.revision);
}

#[tokio::test]
async fn a_token_that_is_known_to_have_expired_is_never_served() {
    let (host, _running, mut stub) = serving(Policy::host()).await;
    for (bucket, expires_in) in [("a", 0), ("b", -5)] {
        host.import("p", bucket, &answer("at", expires_in)).await;
        assert_eq!(
            reason(stub.get_token(request("p", bucket)).await),
            Reason::ProviderNotFound
        );
    }
    host.import("p", "c", &answer("at", 1)).await;
    eventually("it expires", || {
        let mut stub = stub.clone();
        async move { token(&mut stub, "p", "c").await.is_err() }
    })
    .await;
}

#[tokio::test]
async fn asking_for_more_validity_than_there_is_still_gets_what_has_not_expired() {
    let (host, _running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", &answer("at", 3600)).await;
    let mut long = request("p", "");
    long.min_validity = Some(prost_types::Duration {
        seconds: 1_000_000,
        nanos: 0,
    });
    assert_eq!(
        stub.get_token(long)
            .await
            .unwrap()
            .into_inner()
            .token
            .unwrap()
            .access_token,
        "at"
    );
}

#[tokio::test]
async fn a_saved_token_changes_the_access_token_and_nothing_that_a_sandbox_may_not_set() {
    let host = Host::new();
    host.import("p", "", &answer("first", 3600)).await;
    let running = host.start_with(with_capability([7; 32], Policy::host()));
    let mut stub =
        CredentialBrokerClient::with_interceptor(channel(running.socket()).await, |mut request: tonic::Request<()>| {
            request
                .metadata_mut()
                .insert("authorization", bearer([7; 32]).parse().unwrap());
            Ok(request)
        });
    let before = stub
        .get_token(request("p", ""))
        .await
        .unwrap()
        .into_inner()
        .token
        .unwrap();
    let mut saved = save("p", "", "second");
    let wire = saved.token.as_mut().unwrap();
    wire.extra = [("extra".to_owned(), "forged".to_owned())].into();
    wire.revision = "forged".into();
    wire.expires_in = Some(seconds(30 * 24 * 3600));
    wire.expire_time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    stub.save_token(saved).await.unwrap();
    let after = stub
        .get_token(request("p", ""))
        .await
        .unwrap()
        .into_inner()
        .token
        .unwrap();
    assert_eq!(after.access_token, "second");
    assert_eq!(
        (&after.scope, &after.token_type, &after.extra),
        (&before.scope, &before.token_type, &before.extra)
    );
    assert!(after.revision != before.revision && after.revision != "forged");
    let left = after.expires_in.unwrap().seconds;
    assert!(
        (24 * 3600 - 10..=24 * 3600).contains(&left),
        "shortened to 24 h: {left}"
    );
    let mut control = control_stub(&control_socket(&running)).await;
    let status = control.get_status(proto::GetStatusRequest::default()).await;
    let status = status.unwrap().into_inner();
    assert_eq!(status.entries[0].saved_by, "sandbox box");
    assert_eq!(status.entries[0].subject, "alice");
    // The refresh token is still there: what is missing now is the provider, not a login.
    let mut expired = save("p", "", "third");
    expired.token.as_mut().unwrap().expires_in = Some(seconds(-1));
    stub.save_token(expired).await.unwrap();
    assert_eq!(reason(stub.get_token(request("p", "")).await), Reason::ProviderNotFound);
}

#[tokio::test]
async fn saving_never_makes_an_entry() {
    let (_host, _running, mut stub) = serving(Policy::host()).await;
    assert_eq!(reason(stub.save_token(save("p", "", "new")).await), Reason::NotFound);
    assert!(buckets(&mut stub, "p").await.is_empty());
}

#[tokio::test]
async fn each_right_is_one_of_its_own() {
    let (host, running, mut stub) = serving(reading(&["p"])).await;
    host.import("p", "", &answer("at", 3600)).await;
    assert_eq!(token(&mut stub, "p", "").await.unwrap().access_token, "at");
    assert_eq!(
        reason(stub.save_token(save("p", "", "new")).await),
        Reason::Unauthorized
    );
    assert_eq!(reason(stub.remove_token(removal("p", "")).await), Reason::Unauthorized);
    running.stop().await;
    let saving = Policy {
        save: reading(&["p"]).read,
        ..Policy::default()
    };
    let running = host.start(saving);
    let mut stub = support::stub(running.socket()).await;
    stub.save_token(save("p", "", "new")).await.unwrap();
    assert_eq!(reason(stub.get_token(request("p", "")).await), Reason::Unauthorized);
    assert_eq!(
        reason(stub.get_bucket_stats(entry("p", "")).await),
        Reason::Unauthorized
    );
    assert_eq!(reason(stub.remove_token(removal("p", "")).await), Reason::Unauthorized);
}

#[tokio::test]
async fn a_removed_entry_is_gone_in_every_broker_of_the_store_within_a_second() {
    let host = Host::new();
    host.import("p", "", &answer("at", 3600)).await;
    let (one, two) = (host.start(Policy::host()), host.start(Policy::host()));
    let (mut first, mut second) = (stub(one.socket()).await, stub(two.socket()).await);
    for stub in [&mut first, &mut second] {
        token(stub, "p", "").await.unwrap();
    }
    let removed = first.remove_token(removal("p", "")).await.unwrap().into_inner();
    assert_eq!(removed.revocation(), proto::Revocation::NotSupported);
    let at = Instant::now();
    assert_eq!(reason(first.get_token(request("p", "")).await), Reason::NotFound);
    assert_eq!(reason(first.remove_token(removal("p", "")).await), Reason::NotFound);
    eventually("the other broker sees it", || {
        let mut second = second.clone();
        async move { token(&mut second, "p", "").await == Err(Reason::NotFound) }
    })
    .await;
    assert!(at.elapsed() <= Duration::from_secs(1), "{:?}", at.elapsed());
    assert!(!host.entry_file("p", "default").exists());
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_abort_its_change() {
    for (change, fault) in [
        ("SaveToken", None),
        ("RemoveToken", None),
        ("SaveToken", Some(Fault::Unavailable)),
    ] {
        let store = fake::Store::new();
        let bench = Bench::start(&store, Policy::host());
        import(&bench.broker, "p", "", &answer("first", 3600)).await;
        store.hold_changes();
        let channel = channel(&bench.socket()).await;
        let mut caller = CredentialBrokerClient::new(channel.clone());
        let call = tokio::spawn(async move {
            match change {
                "SaveToken" => caller.save_token(save("p", "", "second")).await.map(drop),
                _ => caller.remove_token(removal("p", "")).await.map(drop),
            }
        });
        // The first change was the import.
        store.changes_begun(2).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        // Frames keep their order: when this is answered, the broker has seen the call being cancelled.
        let mut stub = CredentialBrokerClient::new(channel);
        assert_eq!(token(&mut stub, "p", "").await.unwrap().access_token, "first");
        store.fail_changes(fault);
        store.let_changes_go();
        let want = match (change, fault) {
            (_, Some(_)) => Ok("first".to_owned()),
            ("SaveToken", None) => Ok("second".to_owned()),
            _ => Err(Reason::NotFound),
        };
        eventually(change, || {
            let (mut stub, want) = (stub.clone(), want.clone());
            async move { token(&mut stub, "p", "").await.map(|token| token.access_token) == want }
        })
        .await;
        // Who reads the record learns what became of it.
        let lines = || bench.audit().into_iter().filter(|line| line["operation"] == change);
        eventually("it is told", || async { lines().count() == 2 }).await;
        let told: Vec<_> = lines()
            .map(|line| {
                ["outcome", "reason", "provider", "bucket", "sandbox"]
                    .map(|field| line[field].as_str().unwrap_or("").to_owned())
            })
            .collect();
        let sandbox = &*format!("uid:{}", rustix::process::geteuid().as_raw());
        let (then, why) = match fault {
            None => ("done", ""),
            Some(_) => ("failed", "STORE_UNAVAILABLE"),
        };
        assert_eq!(
            told,
            [
                ["cancelled", "", "p", "default", sandbox],
                [then, why, "p", "default", sandbox]
            ]
        );
    }
}

// Lists and counts.

#[tokio::test]
async fn lists_show_what_the_policy_allows_and_are_never_refused() {
    let host = Host::new();
    for (provider, bucket) in [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x")] {
        host.import(provider, bucket, &answer("at", 3600)).await;
    }
    for name in ["k1", "k2"] {
        host.set_key(name, "s").await;
    }
    let some = Policy {
        keys: vec![NamePattern::Named(name("k2")), NamePattern::Named(name("absent"))],
        ..reading(&["a/*", "b/y", "absent/*"])
    };
    type Names = &'static [&'static str];
    let table: [(Policy, [Names; 4]); 3] = [
        (Policy::host(), [&["a", "b", "c"], &["x", "y"], &["x"], &["k1", "k2"]]),
        (some, [&["a", "b"], &["y"], &[], &["k2"]]),
        (Policy::default(), [&[], &[], &[], &[]]),
    ];
    for (policy, [providers, of_b, of_c, keys]) in table {
        let running = host.start(policy);
        let mut stub = stub(running.socket()).await;
        let listed = stub
            .list_providers(proto::ListProvidersRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!((listed.providers, &*listed.next_page_token), (strings(providers), ""));
        assert_eq!(buckets(&mut stub, "b").await, of_b);
        assert_eq!(buckets(&mut stub, "c").await, of_c);
        assert!(buckets(&mut stub, "absent").await.is_empty());
        let listed = stub
            .list_api_keys(proto::ListApiKeysRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!((listed.names, &*listed.next_page_token), (strings(keys), ""));
        running.stop().await;
    }
}

#[tokio::test]
async fn pages_cover_250_buckets_once_and_in_order_whatever_their_size() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, Policy::host());
    let all: Vec<String> = (0..250).map(|n| format!("b{n:03}")).collect();
    for bucket in &all {
        import(&bench.broker, "p", bucket, &answer("at", 3600)).await;
    }
    let mut stub = stub(&bench.socket()).await;
    for (page_size, pages) in [
        (0, vec![100, 100, 50]),
        (120, vec![120, 120, 10]),
        (250, vec![250]),
        (i32::MAX, vec![250]),
    ] {
        let (mut seen, mut sizes, mut page_token) = (Vec::new(), Vec::new(), String::new());
        loop {
            let request = proto::ListBucketsRequest {
                provider: "p".into(),
                page_size,
                page_token,
            };
            let page = stub.list_buckets(request).await.unwrap().into_inner();
            sizes.push(page.buckets.len());
            seen.extend(page.buckets);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!((seen, sizes), (all.clone(), pages), "{page_size}");
    }
    // A name that goes away between two pages stops nothing.
    let first = proto::ListBucketsRequest {
        provider: "p".into(),
        page_size: 10,
        page_token: String::new(),
    };
    let page_token = stub
        .list_buckets(first.clone())
        .await
        .unwrap()
        .into_inner()
        .next_page_token;
    stub.remove_token(removal("p", "b009")).await.unwrap();
    let next = stub
        .list_buckets(proto::ListBucketsRequest { page_token, ..first })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next.buckets, all[10..20]);
}

#[tokio::test]
async fn a_list_whose_store_fails_is_an_error_and_never_an_empty_list() {
    let (host, _running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", &answer("at", 3600)).await;
    host.set_key("k", "s").await;
    for folder in ["tokens", "keys"] {
        break_directory(&host.store().join(folder));
    }
    let listed = stub.list_providers(proto::ListProvidersRequest::default()).await;
    assert_eq!(reason(listed), Reason::StoreUnavailable);
    let listed = stub.list_buckets(of_provider("p")).await;
    assert_eq!(reason(listed), Reason::StoreUnavailable);
    let listed = stub.list_api_keys(proto::ListApiKeysRequest::default()).await;
    assert_eq!(reason(listed), Reason::StoreUnavailable);
    for folder in ["tokens", "keys"] {
        mend_directory(&host.store().join(folder));
    }
    assert_eq!(buckets(&mut stub, "p").await, ["default"]);
}

#[tokio::test]
async fn counts_are_of_deliveries_and_asking_for_them_is_none() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, reading(&["p/a", "p/b", "q"]));
    let mut stub = stub(&bench.socket()).await;
    for (provider, bucket) in [("p", "a"), ("p", "b"), ("q", ""), ("p", "hidden")] {
        import(&bench.broker, provider, bucket, &answer("at", 3600)).await;
    }
    for (provider, bucket, times) in [("p", "a", 3), ("p", "b", 1), ("q", "", 5), ("p", "hidden", 2)] {
        for _ in 0..times {
            let delivered = token(&mut stub, provider, bucket).await;
            assert_eq!(delivered.is_err(), bucket == "hidden");
        }
    }
    // Others may use what this policy hides; their use shows in no percentage here.
    for _ in 0..4 {
        let host = Caller::host();
        bench
            .broker
            .token(&host, &key("p", "hidden"), Duration::ZERO)
            .await
            .unwrap();
    }
    // What is refused because it has expired is no delivery.
    import(&bench.broker, "p", "b", &answer("at", 0)).await;
    assert!(token(&mut stub, "p", "b").await.is_err());
    for _ in 0..3 {
        let mut stats = BTreeMap::new();
        for bucket in ["a", "b"] {
            let one = stub
                .get_bucket_stats(entry("p", bucket))
                .await
                .unwrap()
                .into_inner()
                .stats
                .unwrap();
            assert!(one.last_used_time.is_some());
            stats.insert(one.bucket, (one.request_count, one.percentage));
        }
        assert_eq!(stats, [("a".to_owned(), (3, 75.0)), ("b".to_owned(), (1, 25.0))].into());
    }
    assert_eq!(
        reason(stub.get_bucket_stats(entry("p", "hidden")).await),
        Reason::Unauthorized
    );
    assert_eq!(
        reason(stub.get_bucket_stats(entry("q", "absent")).await),
        Reason::Unauthorized
    );
}

#[tokio::test]
async fn an_entry_that_was_never_used_has_counts_of_zero_and_an_absent_one_none() {
    let (host, _running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", &answer("at", 3600)).await;
    let stats = stub
        .get_bucket_stats(entry("p", ""))
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    assert_eq!(
        (stats.request_count, stats.percentage, stats.last_used_time),
        (0, 0.0, None)
    );
    assert_eq!(
        reason(stub.get_bucket_stats(entry("p", "absent")).await),
        Reason::NotFound
    );
}

// API keys and the handshake.

#[tokio::test]
async fn an_api_key_is_delivered_to_whom_its_name_is_allowed() {
    let policy = Policy {
        keys: vec![NamePattern::Named(name("mine")), NamePattern::Named(name("absent"))],
        ..Policy::default()
    };
    let (host, _running, mut stub) = serving(policy).await;
    host.set_key("mine", "sk-1").await;
    host.set_key("theirs", "sk-2").await;
    let get = |name: &str| proto::GetApiKeyRequest { name: name.into() };
    assert_eq!(
        stub.get_api_key(get("mine")).await.unwrap().into_inner().api_key,
        "sk-1"
    );
    assert_eq!(reason(stub.get_api_key(get("theirs")).await), Reason::Unauthorized);
    assert_eq!(reason(stub.get_api_key(get("absent")).await), Reason::NotFound);
}

#[tokio::test]
async fn the_handshake_tells_the_version() {
    let (_host, _running, mut stub) = serving(Policy::default()).await;
    let info = stub
        .get_server_info(proto::GetServerInfoRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((info.version, &*info.server_version), (1, env!("CARGO_PKG_VERSION")));
}

// Secrets.

#[tokio::test]
async fn no_answer_of_any_method_holds_a_refresh_token_in_any_coding() {
    let host = Host::new();
    for (bucket, expires_in) in [("", 3600), ("expired", 0), ("corrupt", 3600)] {
        let answer = format!(
            r#"{{"access_token": "at", "refresh_token": "{SECRET}", "expires_in": {expires_in}, "sub": "alice",
                "extra": "kept", "echo": "{SECRET}"}}"#
        );
        host.import("p", bucket, &answer).await;
    }
    host.set_key("k", "sk").await;
    let file = host.entry_file("p", "corrupt");
    let sealed = fs::read(&file).unwrap();
    fs::write(&file, &sealed[..sealed.len() - 1]).unwrap();
    let running = host.start(Policy::host());
    let (sandbox, control) = (running.socket().to_owned(), control_socket(&running));
    let request = |bucket: &str| request("p", bucket).encode_to_vec();
    let key = proto::GetApiKeyRequest { name: "k".into() }.encode_to_vec();
    let calls: Vec<(&Path, String, Vec<u8>, Option<Code>)> = [
        ("GetServerInfo", Vec::new(), None),
        ("GetToken", request(""), None),
        ("GetToken", request("expired"), Some(Code::NotFound)),
        ("GetToken", request("corrupt"), Some(Code::DataLoss)),
        ("GetToken", request("absent"), Some(Code::NotFound)),
        ("ListProviders", Vec::new(), None),
        ("ListBuckets", of_provider("p").encode_to_vec(), None),
        ("GetBucketStats", request(""), None),
        ("GetApiKey", key, None),
        ("ListApiKeys", Vec::new(), None),
        ("SaveToken", save("p", "", "new").encode_to_vec(), None),
        ("GetToken", request(""), None),
        ("RemoveToken", request("corrupt"), None),
        ("RemoveToken", request("expired"), None),
    ]
    .into_iter()
    .map(|(method, message, code)| (&*sandbox, format!("/{SERVICE}/{method}"), message, code))
    .chain([
        (&*sandbox, "/grpc.health.v1.Health/Check".into(), Vec::new(), None),
        (&*control, "/grpc.health.v1.Health/Check".into(), Vec::new(), None),
        (
            &*control,
            "/credbroker.v1.ControlBroker/GetStatus".into(),
            Vec::new(),
            None,
        ),
    ])
    .collect();
    let codings = codings_of(SECRET);
    for (socket, method, message, code) in calls {
        let answer = Wire::connect(socket)
            .await
            .call_with(&method, &[], frame(&message))
            .await;
        match code {
            Some(code) => assert_eq!(answer.failure().code, code, "{method}"),
            None => assert_eq!(answer.trailers["grpc-status"], "0", "{method}: {answer:?}"),
        }
        let octets = answer.octets();
        for coding in &codings {
            assert!(!contains(&octets, coding), "{method} holds {coding:?}");
        }
    }
    running.stop().await;
    for line in host.audit() {
        let line = line.to_string();
        assert!(
            codings.iter().all(|coding| !contains(line.as_bytes(), coding)),
            "{line}"
        );
    }
}

// Refreshes.

#[tokio::test]
async fn a_refresh_is_answered_recorded_and_shown_over_a_real_socket() {
    static LOST: AtomicBool = AtomicBool::new(false);
    let store = fake::Store::new();
    let bench = Bench::answering(&store, Policy::host(), || {
        if LOST.load(Ordering::SeqCst) {
            return Outcome::Ambiguous(Seen("as the test said".into()));
        }
        Outcome::Answered(Box::new(TokenAnswer {
            access_token: Some("at-new".into()),
            refresh_token: Some(SECRET.into()),
            lifetime: Some(Duration::from_secs(3600)),
            token_type: None,
            scope: None,
            subject: None,
            extra: BTreeMap::new(),
        }))
    });
    for (bucket, lifetime) in [("", 3600), ("unsaved", 0), ("lost", 0)] {
        import(&bench.broker, "p", bucket, &answer("at-old", lifetime)).await;
    }
    let (mut stub, mut health) = (stub(&bench.socket()).await, health_stub(&bench.socket()).await);
    let old = token(&mut stub, "p", "").await.unwrap();
    let refresh = |bucket: &str, revision: &str| proto::RefreshTokenRequest {
        provider: "p".into(),
        bucket: bucket.into(),
        revision: revision.into(),
    };
    let new = stub.refresh_token(refresh("", &old.revision)).await.unwrap();
    let new = new.into_inner().token.unwrap();
    assert_eq!((&*old.access_token, &*new.access_token), ("at-old", "at-new"));
    assert_ne!(old.revision, new.revision);
    // The old revision is no longer the current one.
    let again = stub.refresh_token(refresh("", &old.revision)).await.unwrap();
    assert_eq!(again.into_inner().token.unwrap().revision, new.revision);

    store.fail_only(Change::Record, Fault::Unavailable);
    assert_eq!(token(&mut stub, "p", "unsaved").await.unwrap().access_token, "at-new");
    assert_eq!(checked(&mut health, SERVICE).await, ServingStatus::NotServing);
    assert_eq!(states(&bench).await["unsaved"], EntryState::Unsaved);
    store.fail_changes(None);
    eventually("the save", async || {
        checked(&mut health_stub(&bench.socket()).await, SERVICE).await == ServingStatus::Serving
    })
    .await;
    assert_eq!(states(&bench).await["unsaved"], EntryState::Ok);

    LOST.store(true, Ordering::SeqCst);
    let failure = Failure::of(stub.refresh_token(refresh("lost", "")).await);
    assert_eq!(failure.reason(), Some(Reason::ProviderUnavailable));
    assert_eq!(states(&bench).await["lost"], EntryState::Ambiguous);

    let audit = bench.stop().await;
    let refreshes: Vec<_> = audit
        .iter()
        .filter(|line| line["operation"] == "RefreshToken")
        .map(|line| {
            let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            [field("provider"), field("bucket"), field("outcome"), field("reason")]
        })
        .collect();
    assert_eq!(
        refreshes,
        [
            ["p", "default", "ok", ""],
            ["p", "default", "ok", ""],
            ["p", "lost", "error", "PROVIDER_UNAVAILABLE"]
        ]
    );
    assert!(!format!("{audit:?}").contains(SECRET));
}

/// The state of every bucket.
async fn states(bench: &Bench) -> BTreeMap<String, EntryState> {
    let (entries, _) = bench.broker.entries(&PageRequest::all()).await.unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.key.bucket.to_string(), entry.state))
        .collect()
}

// Health and reflection.

#[tokio::test]
async fn health_tells_the_truth_and_recovers_by_itself() {
    let (host, running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", &answer("at", 3600)).await;
    let mut health = health_stub(running.socket()).await;
    for service in ["", SERVICE] {
        assert_eq!(checked(&mut health, service).await, ServingStatus::Serving);
    }
    let watch = health
        .watch(HealthCheckRequest {
            service: SERVICE.into(),
        })
        .await;
    let mut watch = watch.unwrap().into_inner();
    let mut pushed = async || soon("a push", watch.message()).await.unwrap().unwrap().status();
    assert_eq!(pushed().await, ServingStatus::Serving);
    break_directory(&host.store().join("tokens"));
    assert_eq!(checked(&mut health, "").await, ServingStatus::NotServing);
    assert_eq!(pushed().await, ServingStatus::NotServing);
    mend_directory(&host.store().join("tokens"));
    assert_eq!(checked(&mut health, SERVICE).await, ServingStatus::Serving);
    assert_eq!(pushed().await, ServingStatus::Serving);
    assert!(token(&mut stub, "p", "").await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn a_broker_that_has_the_identity_of_a_locked_store_reads_on_stores_nothing_and_says_so() {
    let (host, running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", &answer("at", 3600)).await;
    host.set_key("k", "sk-1").await;
    let mut health = health_stub(running.socket()).await;
    assert_eq!(token(&mut stub, "p", "").await.unwrap().access_token, "at");
    let (identity, away) = (host.store().join("identity.txt"), host.dir().join("away"));
    fs::rename(&identity, &away).unwrap();
    assert_eq!(checked(&mut health, "").await, ServingStatus::NotServing);
    // Also what it had not read before.
    let key = || proto::GetApiKeyRequest { name: "k".into() };
    assert_eq!(stub.get_api_key(key()).await.unwrap().into_inner().api_key, "sk-1");
    let saved = stub.save_token(save("p", "", "second")).await;
    assert_eq!(reason(saved), Reason::StoreLocked);
    assert_eq!(token(&mut stub, "p", "").await.unwrap().access_token, "at");
    // One that begins now has nothing.
    let later = host.start(Policy::host());
    let mut stranger = support::stub(later.socket()).await;
    assert_eq!(token(&mut stranger, "p", "").await.unwrap_err(), Reason::StoreLocked);
    assert_eq!(reason(stranger.get_api_key(key()).await), Reason::StoreLocked);
    later.stop().await;
    fs::rename(&away, &identity).unwrap();
    assert_eq!(checked(&mut health, "").await, ServingStatus::Serving);
    stub.save_token(save("p", "", "second")).await.unwrap();
    assert_eq!(token(&mut stub, "p", "").await.unwrap().access_token, "second");
    running.stop().await;
}

#[tokio::test]
async fn health_of_an_unknown_service_is_not_found_and_watched_on() {
    let (_host, running, _stub) = serving(Policy::default()).await;
    let mut health = health_stub(running.socket()).await;
    for service in ["nothing", "credbroker.v1.ControlBroker"] {
        let request = || HealthCheckRequest {
            service: service.into(),
        };
        assert_eq!(reason(health.check(request()).await), Reason::NotFound);
        let mut watch = health.watch(request()).await.unwrap().into_inner();
        assert_eq!(
            watch.message().await.unwrap().unwrap().status(),
            ServingStatus::ServiceUnknown
        );
    }
    let mut control = health_stub(&control_socket(&running)).await;
    assert_eq!(
        checked(&mut control, "credbroker.v1.ControlBroker").await,
        ServingStatus::Serving
    );
}

#[tokio::test]
async fn health_and_reflection_need_no_capability() {
    let host = Host::new();
    let running = host.start_with(with_capability([1; 32], Policy::default()));
    let mut health = health_stub(running.socket()).await;
    assert_eq!(checked(&mut health, SERVICE).await, ServingStatus::Serving);
    assert!(!reflected_v1(running.socket()).await.is_empty());
}

#[tokio::test]
async fn reflection_lists_the_services_of_its_own_socket() {
    let (_host, running, _stub) = serving(Policy::default()).await;
    let mut of_sandboxes = vec![SERVICE];
    if cfg!(feature = "envoy") {
        of_sandboxes.push("envoy.service.secret.v3.SecretDiscoveryService");
    }
    let table = [
        (running.socket().to_owned(), of_sandboxes),
        (control_socket(&running), vec!["credbroker.v1.ControlBroker"]),
    ];
    for (socket, mut services) in table {
        services.extend([
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]);
        let want = strings(&services);
        assert_eq!(reflected_v1(&socket).await, want);
        assert_eq!(reflected_v1alpha(&socket).await, want);
    }
}

// The control socket.

#[tokio::test]
async fn the_control_socket_serves_its_own_service_only_and_asks_its_user_for_nothing() {
    let host = Host::new();
    for (bucket, expires_in) in [("expired", 0), ("good", 3600), ("wrong", 3600)] {
        host.import("p", bucket, &answer("at", expires_in)).await;
    }
    fs::write(host.entry_file("p", "wrong"), "not age").unwrap();
    let running = host.start_with(with_capability([1; 32], Policy::default()));
    let socket = control_socket(&running);
    let wire = Wire::connect(&socket).await;
    for method in ["GetToken", "ListProviders", "GetServerInfo"] {
        let refused = wire.call(method, &request("p", "good")).await.failure();
        assert_eq!(refused.reason(), Some(Reason::Unimplemented), "{method}");
    }
    let status = control_stub(&socket)
        .await
        .get_status(proto::GetStatusRequest::default())
        .await;
    let status = status.unwrap().into_inner();
    assert_eq!(status.pid, std::process::id());
    assert_eq!(Path::new(&status.socket), running.socket());
    let states: Vec<_> = status
        .entries
        .iter()
        .map(|entry| (&*entry.bucket, entry.state()))
        .collect();
    assert_eq!(
        states,
        [
            ("expired", proto::EntryState::NeedsLogin),
            ("good", proto::EntryState::Ok),
            ("wrong", proto::EntryState::Corrupt)
        ]
    );
}

#[tokio::test]
async fn status_counts_what_happened() {
    let (host, running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", &answer("at", 3600)).await;
    host.set_key("k", "s").await;
    for _ in 0..2 {
        token(&mut stub, "p", "").await.unwrap();
    }
    stub.get_api_key(proto::GetApiKeyRequest { name: "k".into() })
        .await
        .unwrap();
    assert!(token(&mut stub, "p", "absent").await.is_err());
    let mut control = control_stub(&control_socket(&running)).await;
    let status = control
        .get_status(proto::GetStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    let counters = status.counters.unwrap();
    let counted = (
        counters.deliveries,
        counters.failures,
        counters.open_connections,
        counters.audit_lines_lost,
    );
    assert_eq!(counted, (3, 1, 1, 0));
    assert!(status.entries[0].last_used_time.is_some());
}

#[tokio::test]
async fn status_counts_the_logins_that_are_open() {
    let login = Login::with(&[Flow::PkceRedirect]);
    let bench = Bench::with_logins(&fake::Store::new(), Policy::host(), login.parts());
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("audit");
    let (audit, _writer) = Audit::start(Settings::without_key(), move || {
        Ok(("audit".into(), fs::File::create_new(&file)?))
    })
    .unwrap();
    let about = About {
        socket: bench.socket(),
        started: SystemClock::new().now().wall,
        audit,
        connections: Arc::default(),
        protections: Vec::new(),
    };
    let control = ControlService::new(bench.broker.clone(), about);
    let open = || async {
        let request = tonic::Request::new(proto::GetStatusRequest::default());
        let status = ControlBroker::get_status(&control, request).await.unwrap();
        status.into_inner().counters.unwrap().open_logins
    };
    assert_eq!(open().await, 0);
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let begun = bench.broker.initiate_login(&Caller::host(), &key("p", ""), None).await;
        sessions.push(begun.unwrap().session);
    }
    assert_eq!(open().await, 2);
    bench.broker.cancel_login(&Caller::host(), &sessions[0]).unwrap();
    assert_eq!(open().await, 1);
}

#[tokio::test]
async fn the_record_of_a_login_names_its_session_by_eight_characters() {
    let login = Login::with(&[Flow::PkceRedirect]);
    let bench = Bench::with_logins(&fake::Store::new(), Policy::host(), login.parts());
    let mut stub = stub(&bench.socket()).await;
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let request = proto::InitiateLoginRequest {
            provider: "p".into(),
            ..Default::default()
        };
        let begun = stub.initiate_login(request).await.unwrap();
        sessions.push(begun.into_inner().session_id);
    }
    let poll = |session_id: &str| proto::PollLoginRequest {
        session_id: session_id.into(),
    };
    let unknown = "00112233445566778899aabbccddeeff";
    stub.poll_login(poll(&sessions[0])).await.unwrap_err();
    stub.poll_login(poll(unknown)).await.unwrap_err();
    stub.poll_login(poll("no session")).await.unwrap_err();
    let code = proto::ExchangeCodeRequest {
        session_id: sessions[0].clone(),
        code: GOOD_CODE.into(),
    };
    stub.exchange_code(code).await.unwrap();
    let cancel = proto::CancelLoginRequest {
        session_id: sessions[1].clone(),
    };
    stub.cancel_login(cancel).await.unwrap();
    let audit = bench.stop().await;
    let lines: Vec<_> = audit
        .iter()
        .map(|line| {
            let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            [
                field("operation"),
                field("provider"),
                field("bucket"),
                field("session"),
                field("reason"),
            ]
        })
        .collect();
    let (one, two) = (&sessions[0][..8], &sessions[1][..8]);
    assert_eq!(
        lines,
        [
            ["InitiateLogin", "p", "default", one, ""],
            ["InitiateLogin", "p", "default", two, ""],
            ["PollLogin", "p", "default", one, "INVALID_REQUEST"],
            ["PollLogin", "", "", &unknown[..8], "SESSION_NOT_FOUND"],
            ["PollLogin", "", "", "", "INVALID_REQUEST"],
            ["ExchangeCode", "p", "default", one, ""],
            ["CancelLogin", "p", "default", two, ""],
        ]
    );
}

#[tokio::test]
async fn what_is_too_long_for_a_code_does_not_use_the_session_up() {
    let login = Login::with(&[Flow::PkceRedirect]);
    let bench = Bench::with_logins(&fake::Store::new(), Policy::host(), login.parts());
    let mut stub = stub(&bench.socket()).await;
    let request = proto::InitiateLoginRequest {
        provider: "p".into(),
        ..Default::default()
    };
    let session_id = stub.initiate_login(request).await.unwrap().into_inner().session_id;
    let code = |code: &str| proto::ExchangeCodeRequest {
        session_id: session_id.clone(),
        code: code.into(),
    };
    for bad in ["", " \n", &"c".repeat(4097)] {
        let failure = Failure::of(stub.exchange_code(code(bad)).await);
        assert_eq!(failure.reason(), Some(Reason::InvalidRequest));
        assert_eq!(failure.field(), "code");
    }
    stub.exchange_code(code(GOOD_CODE)).await.unwrap();
}

#[tokio::test]
async fn a_page_of_entries_with_the_longest_subjects_fits_an_answer() {
    let host = Host::new();
    let subject = "\u{1f600}".repeat(255);
    let answer = format!(r#"{{"access_token": "at", "sub": "{subject}"}}"#);
    let local = host.local();
    let provider = "p".repeat(64);
    for n in 0..101 {
        import(&local, &provider, &format!("{n:064}"), &answer).await;
    }
    let running = host.start(Policy::default());
    let mut control = control_stub(&control_socket(&running)).await;
    let first = control
        .get_status(proto::GetStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.entries.len(), 100);
    assert!(subject.starts_with(&first.entries[0].subject) && !first.entries[0].subject.is_empty());
    let request = proto::GetStatusRequest {
        page_size: 0,
        page_token: first.next_page_token,
    };
    let last = control.get_status(request).await.unwrap().into_inner();
    assert_eq!((last.entries.len(), &*last.next_page_token), (1, ""));
}

// Records.

#[tokio::test]
async fn every_credential_operation_leaves_one_line_with_the_right_names_and_no_secret() {
    let host = Host::new();
    host.import("p", "", &answer("at-canary", 3600)).await;
    host.set_key("k", "sk-canary").await;
    let policy = Policy {
        read: reading(&["p/*"]).read,
        keys: vec![NamePattern::Everything],
        save: reading(&["p"]).read,
        ..Policy::default()
    };
    let running = host.start_with(with_capability([3; 32], policy));
    let wire = Wire::connect(running.socket()).await;
    let good = bearer([3; 32]);
    let admitted = [("authorization", good.as_str())];
    let key = proto::GetApiKeyRequest { name: "k".into() }.encode_to_vec();
    // operation, message, capability -> provider, bucket, key, outcome, reason
    type Line = (
        &'static str,
        Option<&'static str>,
        Option<&'static str>,
        Option<&'static str>,
        &'static str,
    );
    let table: Vec<(Vec<u8>, bool, Line, &str)> = vec![
        (
            request("p", "").encode_to_vec(),
            true,
            ("GetToken", Some("p"), Some("default"), None, "ok"),
            "",
        ),
        (
            request("p", "x").encode_to_vec(),
            true,
            ("GetToken", Some("p"), Some("x"), None, "error"),
            "NOT_FOUND",
        ),
        (
            request("q", "").encode_to_vec(),
            true,
            ("GetToken", Some("q"), Some("default"), None, "error"),
            "UNAUTHORIZED",
        ),
        (
            request("a/b", "").encode_to_vec(),
            true,
            ("GetToken", None, None, None, "error"),
            "INVALID_REQUEST",
        ),
        (
            vec![0xff; 9],
            true,
            ("GetToken", None, None, None, "error"),
            "INVALID_REQUEST",
        ),
        (
            request("p", "").encode_to_vec(),
            false,
            ("GetToken", None, None, None, "error"),
            "UNAUTHENTICATED",
        ),
        (
            save("p", "", "new-canary").encode_to_vec(),
            true,
            ("SaveToken", Some("p"), Some("default"), None, "ok"),
            "",
        ),
        (
            removal("p", "").encode_to_vec(),
            true,
            ("RemoveToken", Some("p"), Some("default"), None, "error"),
            "UNAUTHORIZED",
        ),
        (
            of_provider("p").encode_to_vec(),
            true,
            ("ListBuckets", Some("p"), None, None, "ok"),
            "",
        ),
        (Vec::new(), true, ("ListProviders", None, None, None, "ok"), ""),
        (
            entry("p", "").encode_to_vec(),
            true,
            ("GetBucketStats", Some("p"), Some("default"), None, "ok"),
            "",
        ),
        (key, true, ("GetApiKey", None, None, Some("k"), "ok"), ""),
        (Vec::new(), true, ("ListApiKeys", None, None, None, "ok"), ""),
        (
            Vec::new(),
            true,
            ("Nothing", None, None, None, "error"),
            "UNIMPLEMENTED",
        ),
    ];
    for (message, has_capability, (operation, ..), _) in &table {
        let headers = if *has_capability { &admitted[..] } else { &[] };
        wire.call_with(operation, headers, frame(message)).await;
    }
    // What is no credential operation leaves none.
    wire.call_with("GetServerInfo", &admitted, frame(&[])).await;
    checked(&mut health_stub(running.socket()).await, "").await;
    let control = control_stub(&control_socket(&running))
        .await
        .get_status(proto::GetStatusRequest::default())
        .await;
    assert!(control.is_ok());
    running.stop().await;
    let files = host.audit_files();
    assert_eq!(files.len(), 1);
    assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let lines = host.audit();
    assert_eq!(lines.len(), table.len(), "{lines:#?}");
    for (line, (_, has_capability, want, reason)) in lines.iter().zip(&table) {
        let text = |field: &str| line.get(field).map(|value| value.as_str().unwrap());
        let got = (
            text("operation").unwrap(),
            text("provider"),
            text("bucket"),
            text("key"),
            text("outcome").unwrap(),
        );
        assert_eq!(got, *want, "{line}");
        assert_eq!(text("reason").unwrap_or_default(), *reason, "{line}");
        assert_eq!(
            text("sandbox"),
            Some(if *has_capability { "box" } else { "" }),
            "{line}"
        );
        assert_eq!(line["peer_uid"], rustix::process::geteuid().as_raw());
        assert_eq!(line["peer_pid"], std::process::id());
        assert!(text("time").unwrap().parse::<jiff::Timestamp>().is_ok());
        assert!(
            !line.to_string().contains("canary") && !line.to_string().contains(&good[7..]),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_method_name_from_the_wire_is_recorded_escaped_and_cut() {
    let (host, running, _stub) = serving(Policy::default()).await;
    let wire = Wire::connect(running.socket()).await;
    wire.call(&format!("/{SERVICE}/{}", "x\"".repeat(500).replace('"', "%22")), &())
        .await;
    running.stop().await;
    let operation = host.audit()[0]["operation"].as_str().unwrap().to_owned();
    assert_eq!(operation.len(), 64);
}

#[tokio::test]
async fn unknown_methods_are_recorded_while_they_are_a_few_and_what_a_method_refuses_always() {
    // As many as pass on a connection at once.
    const CALLS: usize = 115;
    let (host, running, _stub) = serving(Policy::host()).await;
    for method in ["Unknown", "GetToken"] {
        let wire = Wire::connect(running.socket()).await;
        for _ in 0..CALLS {
            wire.call(&format!("/{SERVICE}/{method}"), &request("absent", "")).await;
        }
    }
    running.stop().await;
    let lines = host.audit();
    let singly = |reason: &str| lines.iter().filter(|line| line["reason"] == reason).count();
    let unknown = singly("UNIMPLEMENTED");
    assert!((100..CALLS).contains(&unknown), "{unknown}");
    assert_eq!(singly("NOT_FOUND"), CALLS);
    let text: String = host
        .audit_files()
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let counted = format!("\"calls\":{{\"UNIMPLEMENTED\":{}}}", CALLS - unknown);
    assert!(text.contains(&counted), "{counted} is not in {text}");
}

#[tokio::test]
async fn a_panic_is_recorded_as_a_failure_and_ends_nothing_else() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, Policy::host());
    import(&bench.broker, "p", "", &answer("at", 3600)).await;
    let mut stub = stub(&bench.socket()).await;
    store.fail(Fault::Panic);
    assert_eq!(token(&mut stub, "p", "").await.unwrap_err(), Reason::InternalError);
    store.fail(None);
    assert!(token(&mut stub, "p", "").await.is_ok());
    let lines = bench.stop().await;
    let told: Vec<_> = lines.iter().map(|line| (&line["outcome"], &line["reason"])).collect();
    assert_eq!(told[0], (&"error".into(), &"INTERNAL_ERROR".into()));
    assert_eq!(told[1].0, "ok");
}

// Many calls, and the end.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_on_one_connection_do_not_wait_for_each_other() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, Policy::host());
    import(&bench.broker, "p", "", &answer("first", 3600)).await;
    import(&bench.broker, "q", "", &answer("at", 3600)).await;
    store.hold_changes();
    let stub = stub(&bench.socket()).await;
    let mut saver = stub.clone();
    let save = tokio::spawn(async move { saver.save_token(save("p", "", "second")).await });
    store.changes_begun(3).await;
    // As many as a connection may make at once, but for those before.
    let calls = (0..100).map(|n| {
        let mut stub = stub.clone();
        tokio::spawn(async move { token(&mut stub, if n % 2 == 0 { "p" } else { "q" }, "").await })
    });
    for (n, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        let token = soon("an answer", call).await.unwrap().unwrap();
        assert_eq!(token.access_token, if n % 2 == 0 { "first" } else { "at" });
    }
    store.let_changes_go();
    save.await.unwrap().unwrap();
    assert_eq!(token(&mut stub.clone(), "p", "").await.unwrap().access_token, "second");
}

#[tokio::test]
async fn a_call_under_way_is_answered_before_the_broker_ends_and_its_sockets_are_gone() {
    let (host, running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", &answer("first", 3600)).await;
    let lock = fs::File::open(host.lock_file("p", "default")).unwrap();
    lock.try_lock().unwrap();
    let (sandbox, control) = (running.socket().to_owned(), control_socket(&running));
    let directory = control.parent().unwrap().to_owned();
    let mut saver = stub.clone();
    let call = tokio::spawn(async move { saver.save_token(save("p", "", "second")).await });
    // Answered after the save has begun, as frames keep their order.
    token(&mut stub, "p", "").await.unwrap();
    let stopping = tokio::spawn(running.stop());
    for socket in [&sandbox, &control] {
        eventually("nobody listens", || async {
            UnixStream::connect(socket).await.is_err()
        })
        .await;
    }
    assert!(!call.is_finished());
    lock.unlock().unwrap();
    soon("the answer", call).await.unwrap().unwrap();
    soon("the end", stopping).await.unwrap();
    assert!(!sandbox.exists() && !control.exists() && !directory.exists());
    assert_eq!(host.audit().iter().filter(|line| line["outcome"] == "ok").count(), 2);
    let running = host.start(Policy::host());
    let mut stub = support::stub(running.socket()).await;
    assert_eq!(token(&mut stub, "p", "").await.unwrap().access_token, "second");
}

#[test]
fn a_call_that_does_not_end_keeps_a_stopping_broker_for_5_s_at_most() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let store = fake::Store::new();
        let bench = Bench::start(&store, Policy::host());
        import(&bench.broker, "p", "", &answer("at", 3600)).await;
        store.hold_reads();
        let mut stub = stub(&bench.socket()).await;
        let touched = store.touched();
        let call = tokio::spawn(async move { token(&mut stub, "p", "").await.map(drop) });
        eventually("the call is under way", || async { store.touched() > touched }).await;
        let at = Instant::now();
        bench.stop().await;
        let took = at.elapsed();
        assert!((5..7).contains(&took.as_secs()), "{took:?}");
        call.abort();
    });
}

#[tokio::test]
async fn streams_end_with_the_reason_when_the_broker_stops_and_do_not_hold_it_up() {
    let (_host, running, _stub) = serving(Policy::default()).await;
    let mut watches = Vec::new();
    for socket in [running.socket().to_owned(), control_socket(&running)] {
        let request = HealthCheckRequest::default();
        let mut watch = health_stub(&socket).await.watch(request).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        watches.push(watch);
    }
    let at = Instant::now();
    running.stop().await;
    assert!(at.elapsed() < Duration::from_secs(4), "{:?}", at.elapsed());
    for mut watch in watches {
        let ended = async {
            loop {
                match watch.message().await {
                    Ok(Some(_change)) => {}
                    ended => return ended,
                }
            }
        };
        assert_eq!(reason(soon("the end", ended).await), Reason::ShuttingDown);
    }
}

#[tokio::test]
async fn a_stream_ends_at_the_clients_deadline() {
    let (_host, running, _stub) = serving(Policy::default()).await;
    let wire = Wire::connect(running.socket()).await;
    // Long enough for the first status on a busy machine.
    let timeout = [("grpc-timeout", "1S")];
    let answer = wire.call_with("/grpc.health.v1.Health/Watch", &timeout, frame(&[]));
    let answer = soon("the deadline", answer).await;
    assert_eq!(answer.trailers["grpc-status"], "4", "{answer:?}");
    assert!(!answer.body.is_empty(), "the status was pushed before");
}

// Helpers.

async fn serving(policy: Policy) -> (Host, Running, Stub) {
    let host = Host::new();
    let running = host.start_with(Admission::Open(Arc::new(policy)));
    let stub = stub(running.socket()).await;
    (host, running, stub)
}

fn answer(access_token: &str, expires_in: i64) -> String {
    format!(
        r#"{{"access_token": "{access_token}", "refresh_token": "{SECRET}", "expires_in": {expires_in},
            "scope": "scope-1", "sub": "alice", "extra": "kept"}}"#
    )
}

fn request(provider: &str, bucket: &str) -> proto::GetTokenRequest {
    let key = (provider.into(), bucket.into());
    proto::GetTokenRequest {
        provider: key.0,
        bucket: key.1,
        min_validity: None,
    }
}

fn entry(provider: &str, bucket: &str) -> proto::GetBucketStatsRequest {
    proto::GetBucketStatsRequest {
        provider: provider.into(),
        bucket: bucket.into(),
    }
}

fn removal(provider: &str, bucket: &str) -> proto::RemoveTokenRequest {
    proto::RemoveTokenRequest {
        provider: provider.into(),
        bucket: bucket.into(),
    }
}

fn of_provider(provider: &str) -> proto::ListBucketsRequest {
    proto::ListBucketsRequest {
        provider: provider.into(),
        ..Default::default()
    }
}

fn save(provider: &str, bucket: &str, access_token: &str) -> proto::SaveTokenRequest {
    proto::SaveTokenRequest {
        provider: provider.into(),
        bucket: bucket.into(),
        token: Some(proto::AccessToken {
            access_token: access_token.into(),
            ..Default::default()
        }),
    }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

async fn token(stub: &mut Stub, provider: &str, bucket: &str) -> Result<proto::AccessToken, Reason> {
    match stub.get_token(request(provider, bucket)).await {
        Ok(answer) => Ok(answer.into_inner().token.unwrap()),
        Err(status) => Err(reason::<()>(Err(status))),
    }
}

async fn buckets(stub: &mut Stub, provider: &str) -> Vec<String> {
    let listed = stub.list_buckets(of_provider(provider)).await.unwrap().into_inner();
    assert_eq!(listed.next_page_token, "");
    listed.buckets
}

fn reason<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> Reason {
    Failure::of(result).reason().unwrap()
}

async fn checked(health: &mut tonic_health::pb::health_client::HealthClient<Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.into(),
    };
    health.check(request).await.unwrap().into_inner().status()
}

macro_rules! reflected {
    ($name:ident, $version:ident) => {
        async fn $name(socket: &Path) -> Vec<String> {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut client = ServerReflectionClient::new(channel(socket).await);
            let answers = client
                .server_reflection_info(tokio_stream::once(request))
                .await
                .unwrap();
            let answer = answers.into_inner().message().await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("{answer:?}");
            };
            let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
            names.sort();
            names
        }
    };
}
reflected!(reflected_v1, v1);
reflected!(reflected_v1alpha, v1alpha);

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn broken(directory: &Path) -> PathBuf {
    directory.with_extension("away")
}

/// Puts a file where the directory was.
fn break_directory(directory: &Path) {
    fs::rename(directory, broken(directory)).unwrap();
    fs::write(directory, "").unwrap();
}

fn mend_directory(directory: &Path) {
    fs::remove_file(directory).unwrap();
    fs::rename(broken(directory), directory).unwrap();
}

/// A secret as it is, and as it could be disguised.
fn codings_of(secret: &str) -> Vec<Vec<u8>> {
    use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};
    let mut codings = vec![secret.as_bytes().to_vec()];
    codings.extend([HEXLOWER, HEXUPPER].map(|coding| coding.encode(secret.as_bytes()).into_bytes()));
    for coding in [BASE64, BASE64URL] {
        // Wherever it stands in what was encoded: without the characters that its neighbours share.
        for before in 0..3 {
            let shifted = [&b"xx"[..before], secret.as_bytes()].concat();
            let text = coding.encode(&shifted).into_bytes();
            codings.push(text[if before == 0 { 0 } else { 4 }..text.len() - 4].to_vec());
        }
    }
    codings
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn the_disguises_are_found() {
    use data_encoding::BASE64;
    for text in [format!("a{SECRET}b"), format!("{SECRET}bc"), format!("ab{SECRET}")] {
        let hidden = BASE64.encode(text.as_bytes());
        assert!(
            codings_of(SECRET)
                .iter()
                .any(|coding| contains(hidden.as_bytes(), coding))
        );
    }
}
