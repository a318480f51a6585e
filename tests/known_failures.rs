//! What went wrong in other credential brokers, proxies and agents, and must not here: one test a failure, named after
//! what it protects. Where a failure is a row of the error table or a promise of one call, its test is in `errors.rs`
//! (peer checks, texts of stores that reach the caller) or `service.rs` (health that always says OK). What an answer of a
//! provider is taken for (text that is searched, redirects that are followed) is in `oauth/outcomes.rs`. Those of refreshes
//! are in `refresh/` and `scheduler/`. Those of logins are in `login/` (polls that wait for the provider, outcomes that are
//! told twice, sessions that nobody comes back to) and `providers/` (flows that are declared and not implemented, answers
//! without a user code, seconds taken for milliseconds).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that cannot go on fails the test"
)]

mod support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    sync::Arc,
    time::Duration,
};

use credbroker::{
    broker::policy::{NamePattern, Policy},
    client::{ApiKeyStore as _, CredentialStore as _, ProxyTokenStore},
    config::{Config, Environment},
    daemon::{self, Options, Running, SocketChoice},
    proto::{self, credential_broker_client::CredentialBrokerClient},
    reason::Reason,
    server::admission::Admission,
};
use support::{
    Bench, Host,
    fake::{self, Fault},
    import, key, name, reading, soon, stub,
    wire::Failure,
};
use tonic::transport::Channel;

const ANSWER: &str = r#"{"access_token": "at", "refresh_token": "rt", "expires_in": 3600}"#;

// Boundary and callers.

#[tokio::test]
async fn only_the_socket_is_in_the_directory_that_is_mounted() {
    let host = Host::new();
    host.import("p", "", ANSWER).await;
    let running = host.start(Policy::host());
    let mounted = running.socket().parent().unwrap();
    let names: Vec<_> = fs::read_dir(mounted)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["sock"]);
    assert!(fs::symlink_metadata(running.socket()).unwrap().file_type().is_socket());
    assert_eq!(mounted.file_name().unwrap(), "sandbox");
    for (path, mode) in [
        (mounted, 0o700),
        (running.socket(), 0o600),
        (mounted.parent().unwrap(), 0o700),
    ] {
        assert_eq!(
            fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777,
            mode,
            "{path:?}"
        );
    }
}

#[tokio::test]
async fn an_absent_entry_is_none_and_not_access_denied() {
    let (_host, running, _stub) = serving(Policy::host()).await;
    let client = ProxyTokenStore::new(running.socket(), None).unwrap();
    let entry = key("p", "absent");
    assert!(client.get_token(&entry, Duration::ZERO).await.unwrap().is_none());
    assert!(client.get_bucket_stats(&entry).await.unwrap().is_none());
    assert!(client.get_api_key(&name("absent")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_corrupt_entry_is_not_taken_for_an_absent_one_and_never_overwritten_by_a_save() {
    let (host, _running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", ANSWER).await;
    let file = host.entry_file("p", "default");
    fs::write(&file, "not age").unwrap();
    assert_eq!(reason(stub.get_token(request("p", "")).await), Reason::StoreCorrupt);
    assert_eq!(
        reason(stub.save_token(save("p", "", "new")).await),
        Reason::StoreCorrupt
    );
    assert_eq!(fs::read(&file).unwrap(), b"not age");
    // Only the host, or an explicit removal, ends it.
    stub.remove_token(removal("p", "")).await.unwrap();
    assert_eq!(reason(stub.get_token(request("p", "")).await), Reason::NotFound);
}

#[tokio::test]
async fn a_locked_store_is_not_taken_for_an_empty_one_and_never_overwritten_by_a_save() {
    let host = Host::new();
    host.import("p", "", ANSWER).await;
    let (file, identity) = (host.entry_file("p", "default"), host.store().join("identity.txt"));
    let sealed = fs::read(&file).unwrap();
    let away = identity.with_extension("away");
    fs::rename(&identity, &away).unwrap();
    let running = host.start(Policy::host());
    let mut stub = stub(running.socket()).await;
    assert_eq!(reason(stub.get_token(request("p", "")).await), Reason::StoreLocked);
    assert_eq!(reason(stub.save_token(save("p", "", "new")).await), Reason::StoreLocked);
    assert_eq!(fs::read(&file).unwrap(), sealed);
    assert!(
        !identity.exists(),
        "no new identity is made where records of another one are"
    );
    fs::rename(&away, &identity).unwrap();
    let token = stub
        .get_token(request("p", ""))
        .await
        .unwrap()
        .into_inner()
        .token
        .unwrap();
    assert_eq!(token.access_token, "at");
}

#[tokio::test]
async fn a_failed_delete_is_never_reported_as_done() {
    let store = fake::Store::new();
    let bench = Bench::start(&store, Policy::host());
    import(&bench.broker, "p", "", ANSWER).await;
    let mut by_fake = stub(&bench.socket()).await;
    store.fail_changes(Fault::Unavailable);
    assert_eq!(
        reason(by_fake.remove_token(removal("p", "")).await),
        Reason::StoreUnavailable
    );
    assert!(
        by_fake.get_token(request("p", "")).await.is_ok(),
        "and the entry is still there"
    );
    // The same on a disk: what cannot be unlinked, not even by root.
    let (host, _running, mut stub) = serving(Policy::host()).await;
    host.import("p", "", ANSWER).await;
    let file = host.entry_file("p", "default");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    fs::write(file.join("inside"), "").unwrap();
    assert_eq!(
        reason(stub.remove_token(removal("p", "")).await),
        Reason::StoreUnavailable
    );
    assert_ne!(reason(stub.get_token(request("p", "")).await), Reason::NotFound);
}

#[tokio::test]
async fn a_provider_that_is_allowed_allows_no_api_key_of_its_name_and_the_other_way_round() {
    let host = Host::new();
    host.import("same", "", ANSWER).await;
    host.set_key("same", "sk").await;
    let key = || proto::GetApiKeyRequest { name: "same".into() };
    let entries = host.start(reading(&["*"]));
    let mut sees_entries = stub(entries.socket()).await;
    assert!(sees_entries.get_token(request("same", "")).await.is_ok());
    assert_eq!(reason(sees_entries.get_api_key(key()).await), Reason::Unauthorized);
    let keys = host.start(Policy {
        keys: vec![NamePattern::Everything],
        ..Policy::default()
    });
    let mut sees_keys = stub(keys.socket()).await;
    assert!(sees_keys.get_api_key(key()).await.is_ok());
    assert_eq!(
        reason(sees_keys.get_token(request("same", "")).await),
        Reason::Unauthorized
    );
}

#[tokio::test]
async fn accounts_can_be_switched_in_mid_session() {
    let (host, _running, mut stub) = serving(reading(&["p/*"])).await;
    host.import("p", "work", ANSWER).await;
    assert!(stub.get_token(request("p", "work")).await.is_ok());
    host.import("p", "home", ANSWER).await;
    assert!(stub.get_token(request("p", "home")).await.is_ok());
}

#[tokio::test]
async fn a_socket_path_that_is_too_long_is_refused_before_bind_with_the_limit_and_the_way_out() {
    let host = Host::new();
    let long = host.dir().join("x".repeat(108 - host.dir().as_os_str().len()));
    let options = |socket| Options {
        socket,
        admission: Admission::Open(Arc::default()),
        peers: credbroker::server::peer::AllowedPeers::own_and(&[]),
        ephemeral: true,
        notices: credbroker::broker::login::to_the_log(),
        metrics: None,
        process: daemon::Process::default(),
    };
    let limit = if cfg!(target_os = "linux") { "107" } else { "103" };
    let refused = daemon::start(
        &host.config,
        &host.environment,
        options(SocketChoice::At(long.clone(), 0o600)),
    );
    let message = refused.err().unwrap().to_string();
    assert!(message.contains(limit), "{message}");
    assert!(message.contains("--socket"), "{message}");
    assert!(!long.exists());
    // A runtime directory that is too deep for any socket in it.
    let deep = host.dir().join("d".repeat(100));
    fs::create_dir(&deep).unwrap();
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).unwrap();
    let environment: Environment = [("HOME", host.dir()), ("XDG_RUNTIME_DIR", &deep)].into_iter().collect();
    let config = Config::load(None, &environment).unwrap();
    let message = daemon::start(&config, &environment, options(SocketChoice::Own))
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains(limit), "{message}");
}

// Stores.

#[tokio::test]
async fn entries_whose_joined_names_are_alike_do_not_share_a_lock() {
    let (host, _running, mut stub) = serving(Policy::host()).await;
    for (provider, bucket) in [("a-b", "default"), ("a", "b"), ("a", "b-default")] {
        host.import(provider, bucket, ANSWER).await;
    }
    let lock = fs::File::open(host.lock_file("a-b", "default")).unwrap();
    lock.try_lock().unwrap();
    for bucket in ["b", "b-default"] {
        let saved = tokio::time::timeout(Duration::from_secs(8), stub.save_token(save("a", bucket, "new"))).await;
        assert!(
            saved.is_ok_and(|saved| saved.is_ok()),
            "{bucket} waited for the lock of another entry"
        );
    }
}

#[tokio::test]
async fn a_file_copied_over_another_one_does_not_decrypt() {
    let (host, _running, mut stub) = serving(Policy::host()).await;
    host.import("p", "mine", ANSWER).await;
    host.import("p", "theirs", ANSWER).await;
    fs::copy(host.entry_file("p", "theirs"), host.entry_file("p", "mine")).unwrap();
    assert_eq!(reason(stub.get_token(request("p", "mine")).await), Reason::StoreCorrupt);
    host.set_key("mine", "sk-1").await;
    host.set_key("theirs", "sk-2").await;
    let file = |name: &str| {
        host.store()
            .join(format!("keys/{}.age", data_encoding::HEXLOWER.encode(name.as_bytes())))
    };
    fs::copy(file("theirs"), file("mine")).unwrap();
    let key = proto::GetApiKeyRequest { name: "mine".into() };
    assert_eq!(reason(stub.get_api_key(key).await), Reason::StoreCorrupt);
}

#[tokio::test]
async fn the_secret_of_a_store_comes_from_chance_and_not_from_the_host_and_its_user() {
    let (one, two) = (Host::new(), Host::new());
    for host in [&one, &two] {
        host.import("p", "", ANSWER).await;
    }
    let identity = |host: &Host| fs::read_to_string(host.store().join("identity.txt")).unwrap();
    assert_ne!(identity(&one), identity(&two));
    fs::copy(one.entry_file("p", "default"), two.entry_file("p", "default")).unwrap();
    let running = two.start(Policy::host());
    let mut stub = stub(running.socket()).await;
    assert_eq!(reason(stub.get_token(request("p", "")).await), Reason::StoreCorrupt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loser_of_a_concurrent_write_leaves_the_winners_entry() {
    let host = Host::new();
    host.import("p", "", ANSWER).await;
    let brokers = [host.start(Policy::host()), host.start(Policy::host())];
    let mut saves = Vec::new();
    for n in 0..20 {
        let mut stub = stub(brokers[n % 2].socket()).await;
        saves.push(tokio::spawn(async move {
            stub.save_token(save("p", "", &format!("new-{n}"))).await
        }));
    }
    for save in saves {
        soon("a save", save).await.unwrap().unwrap();
    }
    let stored = host
        .local()
        .token(
            &credbroker::broker::Caller::host(),
            &key("p", "default"),
            Duration::ZERO,
        )
        .await;
    let text = secrecy::ExposeSecret::expose_secret(&stored.unwrap().access_token).to_owned();
    assert!(text.starts_with("new-"), "{text}");
    let left = fs::read_dir(host.entry_file("p", "default").parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(left, 1, "and no temporary file beside it");
}

// Helpers.

async fn serving(policy: Policy) -> (Host, Running, CredentialBrokerClient<Channel>) {
    let host = Host::new();
    let running = host.start(policy);
    let stub = stub(running.socket()).await;
    (host, running, stub)
}

fn request(provider: &str, bucket: &str) -> proto::GetTokenRequest {
    proto::GetTokenRequest {
        provider: provider.into(),
        bucket: bucket.into(),
        min_validity: None,
    }
}

fn removal(provider: &str, bucket: &str) -> proto::RemoveTokenRequest {
    proto::RemoveTokenRequest {
        provider: provider.into(),
        bucket: bucket.into(),
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

fn reason<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> Reason {
    Failure::of(result).reason().unwrap()
}
