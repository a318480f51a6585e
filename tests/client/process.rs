//! The one store of a process. Each scene is a process of its own: this test binary again, in a role.

use std::{
    env,
    path::Path,
    pin::pin,
    process::Command,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use credbroker::{
    broker::policy::Policy,
    client::{
        self, ApiKeyStore as _, CredentialStore as _, Error, ExposeSecret as _, LoginAdapter, ProcessStore,
        SecretString, name,
    },
    reason::Reason,
    store::{
        TokenStore as _,
        file::{FileStore, FileStoreConfig, IdentitySource},
    },
};

use crate::{
    broker::{HOUR, Host, github},
    rows,
    scripted::{Script, Scripted, Standing},
    watched,
};

const ROLE: &str = "CLIENT_TEST_ROLE";

/// Runs a role in a process of its own, in the host's environment.
fn child(host: &Host, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "process::child_in_a_role", "--nocapture"])
        // Not what the caller has set for a broker of its own.
        .env_clear()
        .envs(host.variables())
        .env(ROLE, role);
    command
}

async fn assert_succeeds(mut command: Command) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// What a child process does; without a role nothing, for this is a test only in name.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how the test binary tells its child what to do"
)]
fn child_in_a_role() {
    let Ok(role) = env::var(ROLE) else { return };
    match role.as_str() {
        "callers" => callers_come_and_go(),
        "rows" => tokio::runtime::Runtime::new().unwrap().block_on(rows_in_process()),
        "drain" => tokio::runtime::Runtime::new().unwrap().block_on(drain()),
        "drain_socket" => drain_socket(),
        "crash" => crash(),
        "watch" => block_on(watched::every_way(client::token_store_from_env().unwrap())),
        "mend" => mend(),
        "unused" => block_on(shut_down_unused()),
        other => panic!("no such role: {other}"),
    }
}

fn in_a_short_runtime<T>(call: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(call)
}

/// A runtime of nobody's: one thread that parks.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => thread::park(),
        }
    }
}

async fn token(store: &ProcessStore) -> Option<String> {
    let token = store.get_token(&github(), Duration::ZERO).await.unwrap();
    token.map(|token| token.access_token.expose_secret().to_owned())
}

fn callers_come_and_go() {
    let store = || client::token_store_from_env().unwrap();
    assert!(store().in_sandbox());
    // The first caller makes the connection, and its runtime (without a timer or I/O of its own) ends.
    assert!(in_a_short_runtime(async { token(&store()).await }).is_some());
    // Others come from runtimes of their own, at once, and one from none at all.
    let callers: Vec<_> = (0..4)
        .map(|_| thread::spawn(move || in_a_short_runtime(async { token(&store()).await })))
        .collect();
    for caller in callers {
        assert!(caller.join().unwrap().is_some());
    }
    assert!(block_on(token(&store())).is_some());
    // A login has no clock of its caller's either. Not every broker here has a provider.
    let login = block_on(async {
        let mut user = crate::login::User::default();
        LoginAdapter::from(&store()).login(&github(), None, &mut user).await
    });
    assert!(
        matches!(login, Ok(Some(_)) | Err(Error::ProviderNotFound(_))),
        "{login:?}"
    );
    block_on(async {
        let key = name("k").unwrap();
        let saving = store().save_api_key(&key, SecretString::from("sk")).await;
        assert!(matches!(saving, Err(Error::ApiKeyManagement)), "{saving:?}");
        let old = store();
        client::shutdown().await;
        client::shutdown().await;
        assert_too_late(old.get_token(&github(), Duration::ZERO).await.unwrap_err());
        assert_too_late(client::token_store_from_env().unwrap_err());
    });
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "an error at the end of its life")]
fn assert_too_late(error: Error) {
    assert_eq!(error.reason(), Some(Reason::ShuttingDown), "{error:?}");
}

#[tokio::test]
async fn the_store_outlives_its_callers_on_one_connection() {
    let host = Host::new();
    let standings = vec![Standing::Pending, Standing::Complete(true)];
    let mut broker = Scripted::start(crate::login::device(standings));
    let mut command = child(&host, "callers");
    command
        .env("CREDBROKER_SOCKET", broker.socket())
        .env("CREDBROKER_CAPABILITY", "07");
    assert_succeeds(command).await;
    assert_eq!((broker.seen.accepted(), broker.seen.calls()), (1, 6));
    assert_eq!(broker.seen.logins().len(), 3, "{:?}", broker.seen.logins());
    let headers = broker.seen.headers.lock().unwrap().clone();
    assert_eq!(headers.get("authorization").unwrap(), "Bearer 07");
    broker.open(0).await;
}

#[tokio::test]
async fn a_real_broker_serves_a_process_in_a_sandbox() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let broker = host.start(Policy::host());
    let mut command = child(&host, "callers");
    command.env("CREDBROKER_SOCKET", host.socket());
    assert_succeeds(command).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_process_without_a_runtime_watches_through_the_socket_and_in_process() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    assert_succeeds(child(&host, "watch")).await;

    let host = Host::new();
    host.import(&github(), HOUR).await;
    let broker = host.start(Policy::host());
    let mut command = child(&host, "watch");
    command.env("CREDBROKER_SOCKET", host.socket());
    assert_succeeds(command).await;
    broker.stop().await;
}

async fn rows_in_process() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o002));
    #[cfg(target_os = "linux")]
    let dumpable = rustix::process::dumpable_behavior().unwrap();
    let host = HostOfThisProcess::find();
    let store = client::token_store_from_env().unwrap();
    assert!(!store.in_sandbox());
    rows::every_row(&host.0, &store).await;
    // A login goes to the same broker, which knows no provider here.
    let none = LoginAdapter::from_env()
        .unwrap()
        .login(&github(), None, &mut crate::login::User::default())
        .await;
    assert!(matches!(none, Err(Error::ProviderNotFound(_))), "{none:?}");

    // No rates: more than any socket would let through.
    for _ in 0..700 {
        store.has_api_key(&name("none").unwrap()).await.unwrap();
    }

    let key = name("anthropic").unwrap();
    store.save_api_key(&key, SecretString::from("sk-2")).await.unwrap();
    assert_eq!(store.get_api_key(&key).await.unwrap().unwrap().expose_secret(), "sk-2");
    for bad in ["", "a\0b", &"x".repeat(16 * 1024 + 1)] {
        let refused = store.save_api_key(&key, SecretString::from(bad)).await.unwrap_err();
        assert_eq!(refused.reason(), Some(Reason::InvalidRequest));
    }
    store.delete_api_key(&key).await.unwrap();
    store.delete_api_key(&key).await.unwrap();
    assert!(!store.has_api_key(&key).await.unwrap());

    client::shutdown().await;
    assert_too_late(store.save_api_key(&key, SecretString::from("sk-3")).await.unwrap_err());
    assert_too_late(store.list_providers().await.unwrap_err());
    // Neither was touched, and nobody else can read what was written.
    assert_eq!(rustix::process::umask(rustix::fs::Mode::empty()).as_raw_mode(), 0o002);
    #[cfg(target_os = "linux")]
    assert_eq!(rustix::process::dumpable_behavior().unwrap(), dumpable);
    assert_private(&host.0.store());
}

fn assert_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let found = std::fs::symlink_metadata(path).unwrap();
    assert_eq!(found.permissions().mode() & 0o077, 0, "{path:?}");
    if found.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            assert_private(&entry.unwrap().path());
        }
    }
}

/// The host whose environment this process was started in.
struct HostOfThisProcess(Host);

impl HostOfThisProcess {
    #[expect(clippy::disallowed_methods, reason = "the process's own environment is the point")]
    fn find() -> Self {
        Self(Host::at(Path::new(&env::var_os("HOME").unwrap())))
    }
}

#[tokio::test]
async fn every_row_in_process_and_api_keys_are_managed() {
    let host = Host::new();
    rows::furnish(&host).await;
    assert_succeeds(child(&host, "rows")).await;
}

/// The store's files as another process has them.
fn files(host: &Host) -> FileStore {
    FileStore::open(FileStoreConfig {
        path: host.store(),
        identity: IdentitySource::Default,
        allow_network_fs: false,
    })
    .unwrap()
}

async fn drain() {
    let host = HostOfThisProcess::find();
    let store = client::token_store_from_env().unwrap();
    let github = github();
    // A change that has to wait, and whose caller does not.
    let guard = files(&host.0).lock(&github, HOUR).await.unwrap();
    let saving = store.save_token(&github, rows::saved("late"));
    assert!(tokio::time::timeout(Duration::from_millis(200), saving).await.is_err());
    let ending = tokio::spawn(client::shutdown());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!ending.is_finished(), "it did not wait for the change");
    assert_too_late(store.get_token(&github, Duration::ZERO).await.unwrap_err());
    drop(guard);
    ending.await.unwrap();
    assert_eq!(host.0.stored(&github).await.unwrap(), "late");
}

#[tokio::test]
async fn shutdown_waits_for_what_was_begun() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    assert_succeeds(child(&host, "drain")).await;
}

fn drain_socket() {
    let store = client::token_store_from_env().unwrap();
    block_on(store.server_info()).unwrap();
    let under_way = thread::spawn({
        let store = store.clone();
        move || block_on(token(&store))
    });
    thread::sleep(Duration::from_millis(300));
    let ending = thread::spawn(|| block_on(client::shutdown()));
    thread::sleep(Duration::from_millis(300));
    assert_too_late(block_on(store.remove_token(&github())).unwrap_err());
    assert!(under_way.join().unwrap().is_some());
    ending.join().unwrap();
}

#[tokio::test]
async fn shutdown_lets_calls_under_way_end_and_none_begin() {
    let host = Host::new();
    let broker = Scripted::start(Script {
        slow: Duration::from_secs(2),
        ..Script::default()
    });
    let mut command = child(&host, "drain_socket");
    command.env("CREDBROKER_SOCKET", broker.socket());
    assert_succeeds(command).await;
}

/// Ends the process with the answer, without a word to the store's thread.
fn crash() {
    let store = client::token_store_from_env().unwrap();
    block_on(store.save_token(&github(), rows::saved("reported"))).unwrap();
    std::process::exit(0);
}

#[tokio::test]
async fn what_was_reported_saved_needs_no_shutdown() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    assert_succeeds(child(&host, "crash")).await;
    assert_eq!(host.stored(&github()).await.unwrap(), "reported");
}

fn mend() {
    let host = HostOfThisProcess::find();
    let config = host.0.path().join("config/credbroker");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.toml"), "[stor]\n").unwrap();
    let wrong = client::token_store_from_env().unwrap_err();
    assert!(matches!(wrong, Error::Host(_)), "{wrong:?}");
    assert!(wrong.to_string().contains("config.toml"), "{wrong}");
    std::fs::write(config.join("config.toml"), "").unwrap();
    let store = client::token_store_from_env().unwrap();
    assert_eq!(block_on(token(&store)), None);
}

#[tokio::test]
async fn a_host_that_cannot_be_used_is_an_error_and_can_be_mended() {
    let host = Host::new();
    assert_succeeds(child(&host, "mend")).await;
}

async fn shut_down_unused() {
    client::shutdown().await;
    assert_too_late(client::token_store_from_env().unwrap_err());
}

#[tokio::test]
async fn a_store_that_nobody_asked_for_is_not_started_by_shutdown() {
    let host = Host::new();
    assert_succeeds(child(&host, "unused")).await;
    assert!(!host.store().exists());
}
