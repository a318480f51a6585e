//! Who listens is judged before anything is sent.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use credbroker::client::{ConnectError, CredentialStore as _, Error, ProxyTokenStore, SecretString};
use tempfile::TempDir;

use crate::broker::github;

const LISTEN_AT: &str = "CLIENT_TEST_LISTEN_AT";
const NOBODY: u32 = 65534;

/// Not a test: what the stranger does. Without a path it does nothing.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how the test binary tells its child what to do"
)]
fn stranger() {
    let Some(path) = env::var_os(LISTEN_AT) else { return };
    let listener = UnixListener::bind(PathBuf::from(path)).unwrap();
    println!("\nstranger: listens");
    let (mut stream, _) = listener.accept().unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    println!("stranger: got {} bytes", got.len());
}

fn spawn(socket: &Path) -> (Child, impl FnMut() -> String) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "owner::stranger", "--nocapture"])
        .env(LISTEN_AT, socket)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = move || {
        lines
            .find_map(|line| Some(line.unwrap().strip_prefix("stranger: ")?.to_owned()))
            .unwrap()
    };
    (child, said)
}

/// Needs root, for only root can make a listener of another uid; the rule itself is tested as a table everywhere.
#[tokio::test]
async fn a_stranger_in_a_shared_directory_gets_no_byte() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = TempDir::with_prefix("cb").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    let socket = dir.path().join("sock");
    let (mut child, mut said) = spawn(&socket);
    assert_eq!(said(), "listens");
    let store = ProxyTokenStore::new(&socket, Some(SecretString::from("07".repeat(32)))).unwrap();
    let refused = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Cannot connect to the credential broker. Ensure the sandbox was started correctly."
    );
    let Error::CannotConnect(ConnectError::WrongOwner { uid, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(uid, NOBODY);
    assert_eq!(said(), "got 0 bytes");
    assert!(child.wait().unwrap().success());
}
