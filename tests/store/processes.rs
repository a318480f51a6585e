//! Several real processes on one store. The children are this test binary again, in a role.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use credbroker::store::{KeyStore, OverCorrupt, TokenStore};
use tokio::time::Instant;

use crate::support::{SOON, assert_unavailable, get, key, lock, name, open, put, secret, tokens};

const ROLE: &str = "CREDBROKER_TEST_ROLE";
const STORE: &str = "CREDBROKER_TEST_STORE";

fn child(role: &str, store: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::child_in_a_role", "--nocapture"])
        .env(ROLE, role)
        .env(STORE, store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the child said, once it has ended well.
fn said_by(child: Child) -> Vec<String> {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| Some(line.strip_prefix("child: ")?.to_owned()))
        .collect()
}

fn say(text: impl std::fmt::Display) {
    println!("child: {text}");
}

/// What a child process does; without a role nothing, for this is a test only in name.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how the test binary tells its child what to do"
)]
fn child_in_a_role() {
    let Ok(role) = env::var(ROLE) else { return };
    let path = PathBuf::from(env::var_os(STORE).unwrap());
    // The test runner has begun a line.
    println!();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "writer" => write_in_turns(&path).await,
            "first" => write_the_first_record(&path).await,
            "holder" => hold_the_lock(&path).await,
            "unmasked" => write_with_umask(&path, 0).await,
            "masked" => write_with_umask(&path, 0o777).await,
            "full" => fill_the_disk(&path).await,
            other => panic!("no such role: {other}"),
        }
    });
}

/// Each write names the revision that it replaces.
async fn write_in_turns(path: &Path) {
    let store = open(path);
    let entry = key("a", "b");
    for _ in 0..25 {
        get(&store, &entry).await.unwrap();
        let mut guard = store.lock(&entry, Duration::from_secs(60)).await.unwrap();
        let before = guard.read().await.unwrap();
        let before = before.map_or("none".to_owned(), |stored| stored.revision.as_str().to_owned());
        let mut new = tokens("x");
        new.scope.clone_from(&before);
        let saved = guard.write(new, OverCorrupt::Refuse).await.unwrap();
        say(format_args!("{before} {}", saved.revision.as_str()));
        drop(guard);
        get(&store, &entry).await.unwrap();
    }
}

#[tokio::test]
async fn eight_processes_lose_no_write_and_read_nothing_broken() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let children: Vec<_> = (0..8).map(|_| child("writer", &root)).collect();
    let mut next_of = BTreeMap::new();
    for child in children {
        for line in said_by(child) {
            let (before, saved) = line.split_once(' ').unwrap();
            let other = next_of.insert(before.to_owned(), saved.to_owned());
            assert_eq!(other, None, "two writes replaced {before}: one of them is lost");
        }
    }
    // Every write but the last was replaced by exactly one other: the chain has all of them.
    let (mut revision, mut length) = ("none".to_owned(), 0);
    while let Some(next) = next_of.get(&revision) {
        revision.clone_from(next);
        length += 1;
    }
    assert_eq!(length, 8 * 25);
    let last = TokenStore::read(&open(&root), &key("a", "b")).await.unwrap().unwrap();
    assert_eq!(last.revision.as_str(), revision);
}

async fn write_the_first_record(path: &Path) {
    let store = open(path);
    let entry = key("a", &std::process::id().to_string());
    put(&store, &entry, "one").await;
    KeyStore::write(&store, &name("shared"), secret("v"), SOON)
        .await
        .unwrap();
    say(entry.bucket);
}

#[tokio::test]
async fn processes_that_start_at_once_on_a_new_store_share_one_identity() {
    for _ in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("new/store");
        let children: Vec<_> = (0..6).map(|_| child("first", &root)).collect();
        let buckets: Vec<_> = children.into_iter().flat_map(said_by).collect();
        assert_eq!(buckets.len(), 6);
        let store = open(&root);
        for bucket in buckets {
            assert_eq!(get(&store, &key("a", &bucket)).await.unwrap().as_deref(), Some("one"));
        }
        let mut left: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["identity.txt", "keys", "locks", "tokens"]);
    }
}

async fn hold_the_lock(path: &Path) {
    let store = open(path);
    let _guard = lock(&store, &key("a", "b")).await;
    say("held");
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[tokio::test]
async fn a_holder_that_is_killed_frees_its_lock_and_nobody_steals_it_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut holder = child("holder", directory.path());
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    while lines.next().unwrap().unwrap() != "child: held" {}
    let store = open(directory.path());
    assert!(store.lock(&key("a", "b"), Duration::from_millis(300)).await.is_err());
    holder.kill().unwrap();
    holder.wait().unwrap();
    let began = Instant::now();
    lock(&store, &key("a", "b")).await;
    assert!(began.elapsed() < Duration::from_secs(2));
}

async fn write_with_umask(path: &Path, mask: u32) {
    // Root is above modes, so only the modes themselves can be looked at.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    let store = open(path);
    put(&store, &key("a", "b"), "one").await;
    KeyStore::write(&store, &name("k"), secret("v"), SOON).await.unwrap();
}

fn assert_private(path: &Path) -> usize {
    let about = fs::symlink_metadata(path).unwrap();
    let mode = about.permissions().mode() & 0o7777;
    if !about.is_dir() {
        assert_eq!(mode, 0o600, "{}", path.display());
        return 1;
    }
    assert_eq!(mode, 0o700, "{}", path.display());
    let inner = fs::read_dir(path)
        .unwrap()
        .map(|entry| assert_private(&entry.unwrap().path()));
    inner.sum()
}

#[test]
fn files_and_directories_are_private_whatever_the_umask() {
    for role in ["unmasked", "masked"] {
        let directory = tempfile::tempdir().unwrap();
        let above = directory.path().join("above");
        said_by(child(role, &above.join("store")));
        // The identity, two records, and the locks of the identity and both records.
        assert_eq!(assert_private(&above), 6);
    }
}

/// On a small file system of its own: `tests/faults/enospc.sh`.
async fn fill_the_disk(path: &Path) {
    let store = open(&path.join("store"));
    let entry = key("a", "b");
    put(&store, &entry, "one").await;
    let filler = path.join("filler");
    let mut length = 1 << 20;
    while length > 0 {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&filler).unwrap();
        if std::io::Write::write_all(&mut file, &vec![b'x'; length]).is_err() {
            length /= 2;
        }
    }
    let mut guard = lock(&store, &entry).await;
    assert_unavailable(guard.write(tokens("two"), OverCorrupt::Refuse).await);
    assert_eq!(
        get(&open(&path.join("store")), &entry).await.unwrap().as_deref(),
        Some("one")
    );
    assert_unavailable(store.check().await);
    fs::remove_file(filler).unwrap();
    store.check().await.unwrap();
    guard.write(tokens("two"), OverCorrupt::Refuse).await.unwrap();
    assert_eq!(
        get(&open(&path.join("store")), &entry).await.unwrap().as_deref(),
        Some("two")
    );
    say("survived a full disk");
}
