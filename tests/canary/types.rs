//! `Debug` of everything public: no type that can hold a secret shows it, and every new type has to say which it is.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use credbroker::{
    broker::login::SessionId,
    client::{ProxyTokenStore, TokenHandle},
    clock::{Clock as _, SystemClock},
    config::{self, Config, Environment},
    credential::{AccessToken, AnswerRules, EntryKey, Intent, Revision, TokenAnswer, TokenSet, parse_answer},
    oauth::{
        ClientAuth, Endpoints, LoginSettings, Outcome, OutcomeRules, ProviderSettings, RequestFormat,
        login::{Authorization, DeviceAuthorization, DevicePoll},
    },
    proto,
    store::{
        KeyStore as _, OverCorrupt, StoredTokens, TokenStore,
        file::{FileStore, FileStoreConfig, IdentitySource},
        memory::MemoryStore,
    },
};
use prost::Message as _;
use prost_types::FileDescriptorSet;

use crate::scanner::Scanner;

const SECRET: &str = "rt-canary-\"debug\"-8c2f6a4e";

/// Public types of `src/` whose `Debug` is shown something secret below, or beside the type if only that can be.
const CAN_HOLD_A_SECRET: [&str; 29] = [
    "broker/audit/chain.rs Key",
    "broker/login/session.rs SessionId",
    "client/handle.rs TokenHandle",
    "client/login.rs LoginPrompt",
    "client/login.rs LoginStep",
    "client/proxy.rs ProxyTokenStore",
    "client/proxy.rs ProxyTokenStoreBuilder",
    "config/environment.rs Environment",
    "config/mod.rs Config",
    "config/mod.rs IdentitySource",
    "config/mod.rs StoreConfig",
    "config/providers.rs ClientSecret",
    "config/providers.rs ProviderConfig",
    "config/values.rs Params",
    "config/values.rs ShellCommand",
    "credential/answer.rs TokenAnswer",
    "credential/token.rs AccessToken",
    "credential/token.rs TokenSet",
    "oauth/endpoint.rs Endpoint",
    "oauth/login.rs Authorization",
    "oauth/login.rs DeviceAuthorization",
    "oauth/login.rs DevicePoll",
    "oauth/mod.rs Outcome",
    "oauth/provider.rs ProviderSettings",
    "server/authority/mod.rs AcceptAnyAuthority",
    "store/file/mod.rs FileStore",
    "store/file/mod.rs FileStoreConfig",
    "store/file/mod.rs IdentitySource",
    "store/memory.rs MemoryStore",
];
/// More of them, which hold the ones above.
const HOLD_ONE_THAT_CAN: [&str; 16] = [
    "broker/login/mod.rs Standing",
    "oauth/login.rs DevicePoll",
    "oauth/mod.rs Outcome",
    "proto.rs AccessToken",
    "proto.rs CancelLoginRequest",
    "proto.rs ExchangeCodeRequest",
    "proto.rs ExchangeCodeResponse",
    "proto.rs GetApiKeyResponse",
    "proto.rs GetTokenResponse",
    "proto.rs InitiateLoginResponse",
    "proto.rs PollLoginRequest",
    "proto.rs PollLoginResponse",
    "proto.rs RefreshTokenResponse",
    "proto.rs WatchTokenResponse",
    "proto.rs SaveTokenRequest",
    "store/mod.rs StoredTokens",
];
/// Envoy's messages, which are shown one in `tests/secrets/records.rs`.
const ENVOYS: [&str; 6] = [
    "proto/envoy.rs DataSource",
    "proto/envoy.rs DiscoveryResponse",
    "proto/envoy.rs GenericSecret",
    "proto/envoy.rs Secret",
    "proto/envoy.rs Specifier",
    "proto/envoy.rs secret",
];
/// Those that have no place for one: names, times, counts, paths, digests, and words that were checked or fixed.
const HOLD_NONE: &str = "
    broker/audit/chain.rs Link
    broker/audit/line.rs PeerFacts Record Refusals
    broker/audit/mod.rs Audit AuditWriter Full KeySlot OnFull Place Settings
    broker/audit/series.rs Found Judged Lock Verdict
    broker/audit/verify.rs Checked End Fault SealedBy Wrong
    broker/caller.rs Caller Named Subject
    broker/journal.rs Journal
    broker/coordinator/error.rs Asker LoginCause RefreshError
    broker/coordinator/mod.rs Activity
    broker/counts.rs Counts FlightEnd
    broker/error.rs Error
    broker/error/failed_login.rs LoginFailure
    broker/mod.rs Revocation
    broker/page.rs Page PageRequest
    broker/policy.rs EntryPattern NamePattern PatternError Policy Right
    broker/scheduler/mod.rs ProactiveScheduler Renewal
    broker/stats.rs BucketStats
    broker/status.rs EntryState EntryStatus
    broker/timing/renewal.rs Due Interest
    cli/args.rs Cli Command DoctorArgs KeyCommand LogFormat Rights RunArgs ServeArgs StatusArgs TokenCommand
    cli/args/sandbox.rs Attest SandboxArgs SandboxKind
    cli/args.rs LoginArgs LogoutArgs TokenGetArgs TokenImportArgs TokenRefreshArgs
    cli/args/audit.rs AuditCommand AuditShowArgs AuditVerifyArgs Since
    cli/args/git.rs GitCredentialArgs
    client/connect.rs ConnectError
    client/error.rs Error Refusal
    client/login.rs LoginAdapter
    client/process.rs ProcessStore
    client/store.rs BucketStats Revocation ServerInfo
    clock.rs Now SystemClock
    config/error.rs ConfigError
    config/git.rs GitConfig GitHost GitSecret InvalidHost
    config/metrics.rs MetricsConfig MetricsListen
    config/audit.rs AuditConfig
    config/mod.rs LimitsConfig LoginConfig
    config/policy_file.rs PolicyFile Sandbox
    config/schema.rs Key Kind
    credential/answer.rs AnswerRules InvalidAnswer NotAnAnswer
    credential/claims.rs Claim
    credential/expiry.rs Expiry
    credential/intent.rs Intent
    credential/name.rs EntryKey InvalidName Name
    credential/token.rs Revision
    daemon.rs Options Process SocketChoice StartError
    daemon/providers.rs ProviderSummary
    oauth/discovery.rs DiscoveryError Metadata
    oauth/http/connect.rs Layer Unreachable
    oauth/http/mod.rs HttpLimits
    oauth/login.rs LoginTrouble
    oauth/login/settings.rs DeviceDialect Known RedirectHost
    oauth/mod.rs ClientAuth Flow RequestFormat Revoked Seen TokenKind
    oauth/outcome.rs OutcomeRules
    oauth/presets.rs Preset
    oauth/provider.rs Endpoints Look NoSecret Trouble
    reason.rs Reason
    sandbox/bwrap.rs BwrapHost SystemPath
    sandbox/command_line.rs CommandLine Environment
    sandbox/docker.rs Daemon DockerHost
    sandbox/error.rs SandboxError
    sandbox/mod.rs About Broker Host Request Runtime Sandbox
    sandbox/mounts.rs Directories FileId InvalidMount Kind Mount Own Place Source Way
    sandbox/podman.rs PodmanHost
    sandbox/users.rs IdMap InvalidIdMap InvalidUser InvalidUserns User Userns
    server/admission.rs Admission Sandbox
    server/limits/mod.rs Limits
    server/metrics/calls.rs Calls
    server/metrics/families.rs Family Kind
    server/metrics/listen.rs Listening MetricsError
    server/peer/describe.rs Describer Pinned
    server/peer/mod.rs AllowedPeers Peer
    server/peer/sandbox.rs OnlySandbox Reveal Root
    server/peer/unknown.rs Describer OnlySandbox Pinned Reveal Root
    server/serve.rs Served
    server/socket/bind.rs BoundSocket SocketGuard
    server/socket/broker_dir.rs BrokerDir Exposure
    server/socket/error.rs DirRole Failure Flaw SocketError
    server/socket/inherited.rs Handover InheritedSocket
    server/socket/layout.rs DirName
    server/socket/runtime_dir.rs LiveBroker RuntimeDir Survey
    service/control.rs Protection
    store/counts.rs StoreErrors
    store/file/diagnose/mod.rs Diagnosis Finding Outcome
    store/mod.rs Holder HolderState Operation OverCorrupt StoreError
";
/// Messages of the protocol that have a field for a secret; their `Debug` is ours.
const SECRET_MESSAGES: [&str; 12] = [
    "AccessToken",
    "CancelLoginRequest",
    "ExchangeCodeRequest",
    "ExchangeCodeResponse",
    "GetApiKeyResponse",
    "GetTokenResponse",
    "InitiateLoginResponse",
    "PollLoginRequest",
    "PollLoginResponse",
    "RefreshTokenResponse",
    "WatchTokenResponse",
    "SaveTokenRequest",
];
/// Field names that carry a secret.
const SECRET_FIELDS: [&str; 7] = [
    "access_token",
    "api_key",
    "auth_url",
    "code",
    "extra",
    "session_id",
    "user_code",
];

fn listed() -> BTreeSet<String> {
    let none = HOLD_NONE.lines().flat_map(|line| {
        let mut words = line.split_whitespace();
        let file = words.next().unwrap_or_default();
        words.map(move |name| format!("{file} {name}"))
    });
    let some = CAN_HOLD_A_SECRET.iter().chain(&HOLD_ONE_THAT_CAN).chain(&ENVOYS);
    some.map(|name| (*name).to_owned()).chain(none).collect()
}

/// Every public type of a source file that has `Debug`.
fn types_of(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut derives_debug = false;
    let source = source.split("\nmod tests {").next().unwrap_or_default();
    for line in source.lines().map(str::trim) {
        let item = |public: &str| {
            let words = ["struct ", "enum ", "union "];
            words
                .iter()
                .find_map(|word| line.strip_prefix(public)?.strip_prefix(word))
        };
        if line.starts_with("#[derive(") {
            derives_debug |= line.contains("Debug");
        } else if let Some((_, of)) = line.split_once("Debug for ").filter(|_| line.starts_with("impl")) {
            found.push(identifier(of));
        } else if let Some(name) = item("pub ") {
            if derives_debug {
                found.push(identifier(name));
            }
            derives_debug = false;
        } else if item("").is_some() || item("pub(super) ").is_some() || item("pub(crate) ").is_some() {
            derives_debug = false;
        }
    }
    // A macro's `$name` is none.
    found.retain(|name| !name.is_empty());
    found
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn sources(below: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .collect()
}

#[test]
fn a_new_type_with_debug_has_to_say_whether_it_can_hold_a_secret() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let found: BTreeSet<String> = sources(&root)
        .iter()
        .flat_map(|path| {
            let file = path.strip_prefix(&root).unwrap().display().to_string();
            let types = types_of(&fs::read_to_string(path).unwrap());
            types.into_iter().map(move |name| format!("{file} {name}"))
        })
        .collect();
    let listed = listed();
    let new: Vec<_> = found.difference(&listed).collect();
    assert!(
        new.is_empty(),
        "put these into a list above; one that can hold a secret also into a test below: {new:?}"
    );
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "these are gone, or have no Debug any more: {gone:?}");
}

#[test]
fn the_parser_of_sources_finds_every_way_to_have_debug() {
    let source = "#[derive(Clone, Debug)]\n/// Text.\n#[command(\n  a\n)]\npub struct A<T>(T);\n\
                  impl fmt::Debug for B {\nimpl<T: Debug> std::fmt::Debug for C<T> {\n\
                  #[derive(Clone)]\npub struct D;\n#[derive(Debug)]\nstruct E;\npub enum F {}\n";
    assert_eq!(types_of(source), ["A", "B", "C"]);
}

#[test]
fn a_message_with_a_field_for_a_secret_has_a_debug_of_ours() {
    let set = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let ours = set.file.iter().filter(|file| file.package() == "credbroker.v1");
    let holding: BTreeSet<&str> =
        ours.flat_map(|file| &file.message_type)
            .filter(|message| {
                message.field.iter().any(|field| {
                    SECRET_FIELDS.contains(&field.name()) || field.type_name() == ".credbroker.v1.AccessToken"
                })
            })
            .map(prost_types::DescriptorProto::name)
            .collect();
    assert_eq!(holding, BTreeSet::from(SECRET_MESSAGES));
}

fn assert_silent(scanner: &Scanner, what: &str, value: &dyn Debug) {
    scanner.assert_clean(what, format!("{value:?}"));
    scanner.assert_clean(what, format!("{value:#?}"));
}

fn token_set() -> TokenSet {
    let json = serde_json::json!({
        "access_token": SECRET, "refresh_token": format!("{SECRET}+"), "scope": "s", "token_type": "t",
        "sub": "me", "id": format!("{SECRET}-id"),
    });
    let rules = AnswerRules {
        extra_fields: vec!["id".into()],
        ..AnswerRules::default()
    };
    parse_answer(json.to_string().as_bytes(), &rules, "import", &SystemClock::new().now()).unwrap()
}

#[test]
fn no_debug_of_tokens_shows_them() {
    let scanner = Scanner::new([("the secret", SECRET)]);
    let tokens = token_set();
    let access: AccessToken = tokens.to_access_token(&Revision::random(), &SystemClock::new().now());
    assert_eq!(access.extra.len(), 1, "the extra field is there");
    assert_silent(&scanner, "AccessToken", &access);
    assert_silent(&scanner, "TokenSet", &tokens);
    let mut stored = StoredTokens::new(tokens);
    stored.intent = Some(Box::new(Intent::to_present(&SECRET.into(), &SystemClock::new().now())));
    assert_silent(&scanner, "StoredTokens", &stored);
    let answer = TokenAnswer {
        access_token: Some(SECRET.into()),
        refresh_token: Some(SECRET.into()),
        lifetime: None,
        token_type: Some(SECRET.into()),
        scope: Some(SECRET.into()),
        subject: Some(SECRET.into()),
        extra: [(SECRET.to_owned(), SECRET.to_owned())].into(),
    };
    assert_silent(&scanner, "Outcome", &Outcome::Answered(Box::new(answer)));

    let json = serde_json::json!({
        "access_token": SECRET, "refresh_token": format!("{SECRET}+"), "id": format!("{SECRET}-id"),
    })
    .to_string();
    let rules = AnswerRules {
        extra_fields: vec!["id".into()],
        ..AnswerRules::default()
    };
    let answer = TokenAnswer::parse(json.as_bytes(), &rules).unwrap();
    assert!(answer.refresh_token.is_some() && answer.extra.len() == 1);
    assert_silent(&scanner, "TokenAnswer", &answer);
    assert_silent(&scanner, "Outcome", &Outcome::Answered(Box::new(answer)));
    let answer = TokenAnswer::parse(json.as_bytes(), &rules).unwrap();
    assert_silent(&scanner, "DevicePoll", &DevicePoll::Answered(Box::new(answer)));
    let authorization = Authorization {
        url: format!("https://a.example/?state={SECRET}"),
        redirect_uri: "https://a.example/".into(),
        state: SECRET.into(),
        verifier: SECRET.into(),
        state_required: true,
        issuer: None,
        issuer_required: false,
    };
    assert_silent(&scanner, "Authorization", &authorization);
    let device = DeviceAuthorization {
        verification_url: "https://a.example/".into(),
        verification_url_complete: Some(format!("https://a.example/?user_code={SECRET}")),
        user_code: SECRET.into(),
        interval: Duration::from_secs(5),
        lifetime: None,
        device_code: SECRET.into(),
        verifier: Some(SECRET.into()),
    };
    assert_silent(&scanner, "DeviceAuthorization", &device);

    let wire = proto::AccessToken {
        access_token: SECRET.into(),
        extra: [("k".to_owned(), SECRET.to_owned()), (SECRET.to_owned(), String::new())].into(),
        ..Default::default()
    };
    assert_silent(&scanner, "proto::AccessToken", &wire);
    let answer = proto::GetTokenResponse {
        token: Some(wire.clone()),
    };
    assert_silent(&scanner, "GetTokenResponse", &answer);
    assert_silent(&scanner, "a whole response", &tonic::Response::new(answer));
    let answer = proto::RefreshTokenResponse {
        token: Some(wire.clone()),
    };
    assert_silent(&scanner, "RefreshTokenResponse", &answer);
    let answer = proto::WatchTokenResponse {
        token: Some(wire.clone()),
    };
    assert_silent(&scanner, "WatchTokenResponse", &answer);
    let request = proto::SaveTokenRequest {
        token: Some(wire),
        ..Default::default()
    };
    assert_silent(&scanner, "SaveTokenRequest", &tonic::Request::new(request));
    let key = proto::GetApiKeyResponse { api_key: SECRET.into() };
    assert_silent(&scanner, "GetApiKeyResponse", &key);
}

#[test]
fn no_debug_of_a_login_shows_what_it_takes() {
    const SESSION: &str = "c4a9e1f07b3d5826c4a9e1f07b3d5826";
    let scanner = Scanner::new([("the secret", SECRET), ("the session", SESSION)]);
    let url = || format!("https://p.example/?state={SECRET}");
    let token = || {
        Some(proto::AccessToken {
            access_token: SECRET.into(),
            ..Default::default()
        })
    };
    let begun = proto::InitiateLoginResponse {
        session_id: SESSION.into(),
        auth_url: url(),
        verification_url_complete: url(),
        user_code: SECRET.into(),
        ..Default::default()
    };
    assert_silent(&scanner, "InitiateLoginResponse", &begun);
    let exchange = proto::ExchangeCodeRequest {
        session_id: SESSION.into(),
        code: SECRET.into(),
    };
    assert_silent(&scanner, "ExchangeCodeRequest", &exchange);
    assert_silent(
        &scanner,
        "ExchangeCodeResponse",
        &proto::ExchangeCodeResponse { token: token() },
    );
    let session_id = || SESSION.to_owned();
    let poll = proto::PollLoginRequest {
        session_id: session_id(),
    };
    assert_silent(&scanner, "PollLoginRequest", &poll);
    let cancel = proto::CancelLoginRequest {
        session_id: session_id(),
    };
    assert_silent(&scanner, "CancelLoginRequest", &cancel);
    let standing = proto::PollLoginResponse {
        token: token(),
        ..Default::default()
    };
    assert_silent(&scanner, "PollLoginResponse", &standing);

    assert_silent(&scanner, "SessionId", &SessionId::parse(SESSION).unwrap());
    let authorization = Authorization {
        url: url(),
        redirect_uri: "https://p.example/code".into(),
        state: SECRET.into(),
        verifier: SECRET.into(),
        state_required: true,
        issuer: None,
        issuer_required: false,
    };
    assert_silent(&scanner, "Authorization", &authorization);
    let device = DeviceAuthorization {
        verification_url: url(),
        verification_url_complete: Some(url()),
        user_code: SECRET.into(),
        interval: Duration::from_secs(5),
        lifetime: None,
        device_code: SECRET.into(),
        verifier: Some(SECRET.into()),
    };
    assert_silent(&scanner, "DeviceAuthorization", &device);
    // LoginPrompt and LoginStep come from a broker only: tests/client/login.rs looks at theirs.
}

#[test]
fn no_debug_of_the_configuration_shows_what_people_write_into_it() {
    let scanner = Scanner::new([("the secret", SECRET)]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let text = format!(
        "[store]\nidentity_command = 'echo {SECRET}'\n\
         [providers.p]\nclient_id = 'c'\ntoken_endpoint = 'https://a.example/?key={query}'\n\
         client_secret_command = 'echo {SECRET}'\nauthorization_params = {{ k = '{SECRET}' }}\n\
         token_params = {{ k = '{SECRET}' }}\n",
        query = "rt-canary-debug-query-4e1d"
    );
    fs::write(&file, text).unwrap();
    let environment: Environment = [("HOME", directory.path().to_str().unwrap()), ("X", SECRET)]
        .into_iter()
        .collect();
    let config = Config::load(Some(&file), &environment).unwrap();
    let provider = config.providers.values().next().unwrap();
    assert_silent(&scanner, "Environment", &environment);
    assert_silent(&scanner, "Config", &config);
    assert_silent(&scanner, "StoreConfig", &config.store);
    assert_silent(&scanner, "config::IdentitySource", &config.store.identity);
    assert_silent(&scanner, "ProviderConfig", provider);
    assert_silent(&scanner, "ClientSecret", &provider.client_secret);
    assert_silent(&scanner, "Params", &provider.token_params);
    let config::IdentitySource::Command(command) = &config.store.identity else {
        panic!("no command")
    };
    assert_silent(&scanner, "ShellCommand", command);
    let query = Scanner::new([("the query", "rt-canary-debug-query-4e1d")]);
    assert_silent(&query, "Endpoint", &provider.token_endpoint);
    let settings = ProviderSettings {
        name: "p".parse().unwrap(),
        endpoints: Endpoints {
            token: provider.token_endpoint.clone(),
            authorization: provider.token_endpoint.clone(),
            ..Endpoints::default()
        },
        client_id: "c".into(),
        client_secret: None,
        client_auth: Some(ClientAuth::None),
        format: RequestFormat::Form,
        token_params: vec![("k".into(), SECRET.into())],
        rules: OutcomeRules::default(),
        retry_ambiguous: true,
        login: LoginSettings {
            authorization_params: vec![("k".into(), SECRET.into())],
            ..LoginSettings::default()
        },
    };
    assert_silent(&scanner, "ProviderSettings", &settings);
    assert_silent(&query, "ProviderSettings", &settings);
}

#[test]
fn no_debug_of_a_client_shows_its_capability() {
    let scanner = Scanner::new([("the secret", SECRET)]);
    let builder = || ProxyTokenStore::builder("/run/sock").capability(SECRET.into());
    assert_silent(&scanner, "ProxyTokenStoreBuilder", &builder());
    let store = builder().build().unwrap();
    assert_silent(&scanner, "ProxyTokenStore", &store);
    // The tests of the client look at one that holds a token.
    let handle = TokenHandle::new(Arc::new(store), EntryKey::parse("p", "b").unwrap());
    assert_silent(&scanner, "TokenHandle", &handle);
}

#[tokio::test]
async fn no_debug_of_a_store_shows_what_is_in_it() {
    let scanner = Scanner::new([("the secret", SECRET)]);
    let directory = tempfile::tempdir().unwrap();
    let identity = IdentitySource::Command(format!("echo '{SECRET}'").into());
    assert_silent(&scanner, "IdentitySource", &identity);
    let config = FileStoreConfig {
        path: directory.path().join("store"),
        identity,
        allow_network_fs: false,
    };
    assert_silent(&scanner, "FileStoreConfig", &config);
    assert_silent(&scanner, "FileStore", &FileStore::open(config).unwrap());
    let memory = MemoryStore::default();
    let key = EntryKey::parse("p", "").unwrap();
    let wait = Duration::from_secs(10);
    let mut guard = memory.lock(&key, wait).await.unwrap();
    guard.write(token_set(), OverCorrupt::Refuse).await.unwrap();
    memory.write(&"k".parse().unwrap(), SECRET.into(), wait).await.unwrap();
    assert_silent(&scanner, "MemoryStore", &memory);
    let read: Option<Arc<StoredTokens>> = TokenStore::read(&memory, &key).await.unwrap();
    assert!(read.is_some());
    assert_silent(&scanner, "what a store answers", &read);
}
