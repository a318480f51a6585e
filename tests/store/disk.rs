//! What the disk holds, and what happens when it refuses.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    task::{Context, Poll, Waker},
    time::Duration,
};

use secrecy::ExposeSecret as _;

use credbroker::store::{KeyStore, OverCorrupt, TokenStore};
use data_encoding::{BASE64, HEXLOWER};

use crate::support::{
    SOON, STALE, access, assert_unavailable, decrypt, entry_file, get, key, key_file, lock, name, open, put, secret,
    temporary_of, tokens,
};

#[tokio::test]
async fn reading_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("not/yet");
    let store = open(&root);
    assert_eq!(get(&store, &key("a", "b")).await.unwrap(), None);
    assert!(KeyStore::read(&store, &name("k")).await.unwrap().is_none());
    assert!(TokenStore::list(&store).await.unwrap().is_empty());
    store.check().await.unwrap();
    assert!(!directory.path().join("not").exists());
    put(&store, &key("a", "b"), "one").await;
    assert_eq!(get(&store, &key("a", "b")).await.unwrap().as_deref(), Some("one"));
}

#[tokio::test]
async fn records_lie_where_the_layout_says_and_have_json_inside() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = open(root);
    let stored = put(&store, &key("git.hub", "Me@x"), "s3cret").await;
    KeyStore::write(&store, &name("k"), secret("v"), SOON).await.unwrap();
    let entry: serde_json::Value =
        serde_json::from_str(&decrypt(root, &root.join("tokens/6769742e687562/4d654078.age"))).unwrap();
    assert_eq!(entry["format"], 1);
    assert_eq!(entry["kind"], "token");
    assert_eq!(entry["provider"], "git.hub");
    assert_eq!(entry["bucket"], "Me@x");
    assert_eq!(entry["revision"], stored.revision.as_str());
    assert_eq!(entry["tokens"]["access_token"], "s3cret");
    let api_key: serde_json::Value = serde_json::from_str(&decrypt(root, &root.join("keys/6b.age"))).unwrap();
    assert_eq!(api_key["kind"], "key");
    assert_eq!(api_key["name"], "k");
    assert!(root.join("locks/6769742e687562/4d654078.lock").is_file());
    assert!(root.join("locks/keys/6b.lock").is_file());
}

#[tokio::test]
async fn without_the_identity_the_files_tell_kinds_names_sizes_and_times_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = open(root);
    put(&store, &key("git.hub", "Me@x"), "access-canary").await;
    KeyStore::write(&store, &name("k"), secret("key-canary"), SOON)
        .await
        .unwrap();
    drop(store);
    let (entry, api_key) = (entry_file(root, "git.hub", "Me@x"), key_file(root, "k"));
    // What must not be there: every text and number of both records, their revisions among them, and the identity.
    let identity = fs::read_to_string(root.join("identity.txt")).unwrap();
    let mut texts: Vec<String> = identity.split_whitespace().map(str::to_owned).collect();
    for file in [&entry, &api_key] {
        let record = decrypt(root, file);
        texts.extend(record.split(|c: char| "{}[],:\"".contains(c)).map(str::to_owned));
    }
    texts.retain(|text| text.len() > 5);
    for known in ["access-canary", "key-canary", "refresh ", "git.hub", "import"] {
        assert!(texts.iter().any(|text| text.contains(known)), "{known}: {texts:?}");
    }
    let mut sealed = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for found in fs::read_dir(folder).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path != root.join("identity.txt") {
                let content = fs::read(&path).unwrap();
                for text in &texts {
                    for form in [
                        text.clone(),
                        BASE64.encode(text.as_bytes()),
                        HEXLOWER.encode(text.as_bytes()),
                    ] {
                        let there = content.windows(form.len()).any(|part| part == form.as_bytes());
                        assert!(!there, "{} holds {form}", path.display());
                    }
                }
                if path.extension().is_some_and(|extension| extension == "age") {
                    assert!(content.starts_with(b"age-encryption.org/v1\n-> "), "{}", path.display());
                    sealed.push(path);
                } else {
                    assert_eq!(path.extension().unwrap(), "lock", "{}", path.display());
                    assert!(content.is_empty(), "{}", path.display());
                }
            }
        }
    }
    sealed.sort();
    assert_eq!(sealed, [api_key, entry]);
}

#[tokio::test]
async fn strangers_in_the_directories_are_not_listed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = open(root);
    put(&store, &key("a", "b"), "one").await;
    let beside = entry_file(root, "a", "b");
    for stranger in [
        "62",
        "62.AGE",
        "6A.age",
        "2e2e.age",
        ".62.age.tmp",
        ".probe.tmp",
        "zz.age",
        ".age",
        "62.age~",
    ] {
        fs::write(beside.with_file_name(stranger), b"x").unwrap();
    }
    fs::write(root.join("tokens/README"), b"x").unwrap();
    fs::create_dir(root.join("tokens/2f")).unwrap();
    fs::write(root.join("tokens/2f/62.age"), b"x").unwrap();
    assert_eq!(TokenStore::list(&store).await.unwrap(), [key("a", "b")]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_is_an_error_and_no_empty_list() {
    for broken in ["tokens", "tokens/61", "keys", "."] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        put(&open(&root), &key("a", "b"), "one").await;
        KeyStore::write(&open(&root), &name("k"), secret("v"), SOON)
            .await
            .unwrap();
        for with_a_loop in [false, true] {
            let path = if broken == "." { root.clone() } else { root.join(broken) };
            let away = directory.path().join("away");
            fs::rename(&path, &away).unwrap();
            if with_a_loop {
                symlink(path.file_name().unwrap(), &path).unwrap();
            } else {
                fs::write(&path, b"x").unwrap();
            }
            let store = open(&root);
            if broken != "keys" {
                assert_unavailable(TokenStore::list(&store).await);
                assert_unavailable(get(&store, &key("a", "b")).await);
            }
            if broken != "tokens" && broken != "tokens/61" {
                assert_unavailable(KeyStore::list(&store).await);
                assert_unavailable(KeyStore::read(&store, &name("k")).await);
            }
            assert!(store.check().await.is_err(), "{broken}");
            fs::remove_file(&path).unwrap();
            fs::rename(&away, &path).unwrap();
            store.check().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_crash_left_behind_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    put(&open(root), &key("a", "b"), "one").await;
    let temporary = temporary_of(&entry_file(root, "a", "b"));
    let bait = root.join("bait");
    fs::write(&bait, b"bait").unwrap();
    for leave in [
        (|temporary, _| fs::write(temporary, b"half a rec")) as fn(&std::path::Path, &std::path::Path) -> _,
        |temporary, bait| symlink(bait, temporary),
        |temporary, bait| fs::hard_link(bait, temporary),
    ] {
        leave(&temporary, &bait).unwrap();
        let store = open(root);
        assert_eq!(get(&store, &key("a", "b")).await.unwrap().as_deref(), Some("one"));
        put(&store, &key("a", "b"), "one").await;
        assert!(temporary.symlink_metadata().is_err());
        leave(&temporary, &bait).unwrap();
        assert!(lock(&store, &key("a", "b")).await.remove().await.unwrap());
        assert!(temporary.symlink_metadata().is_err());
        put(&store, &key("a", "b"), "one").await;
        assert_eq!(fs::read(&bait).unwrap(), b"bait");
    }
}

#[tokio::test]
async fn a_failed_write_keeps_the_old_entry_and_shows_until_writing_works_again() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = open(root);
    put(&store, &key("a", "b"), "one").await;
    let temporary = temporary_of(&entry_file(root, "a", "b"));
    let probe = temporary.with_file_name(".probe.tmp");
    fs::create_dir(&temporary).unwrap();
    fs::create_dir(&probe).unwrap();
    let mut guard = lock(&store, &key("a", "b")).await;
    store.check().await.unwrap();
    assert_unavailable(guard.write(tokens("two"), OverCorrupt::Refuse).await);
    assert_eq!(get(&store, &key("a", "b")).await.unwrap().as_deref(), Some("one"));
    assert_unavailable(store.check().await);
    assert_unavailable(store.check().await);
    fs::remove_dir(&probe).unwrap();
    store.check().await.unwrap();
    fs::create_dir(&probe).unwrap();
    store.check().await.unwrap();
    fs::remove_dir(&temporary).unwrap();
    guard.write(tokens("two"), OverCorrupt::Refuse).await.unwrap();
    assert_eq!(get(&open(root), &key("a", "b")).await.unwrap().as_deref(), Some("two"));
}

#[tokio::test]
async fn another_ones_write_and_removal_are_seen_within_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let (reader, writer) = (open(directory.path()), open(directory.path()));
    let (entry, of) = (key("a", "b"), name("k"));
    put(&writer, &entry, "one").await;
    KeyStore::write(&writer, &of, secret("one"), SOON).await.unwrap();
    assert_eq!(get(&reader, &entry).await.unwrap().as_deref(), Some("one"));
    KeyStore::read(&reader, &of).await.unwrap().unwrap();
    put(&writer, &entry, "two").await;
    assert!(KeyStore::remove(&writer, &of, SOON).await.unwrap());
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(get(&reader, &entry).await.unwrap().as_deref(), Some("two"));
    assert!(KeyStore::read(&reader, &of).await.unwrap().is_none());
    assert!(lock(&writer, &entry).await.remove().await.unwrap());
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(get(&reader, &entry).await.unwrap(), None);
}

#[tokio::test]
async fn a_change_that_leaves_size_times_and_inode_as_they_were_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (reader, writer) = (open(root), open(root));
    let entry = key("a", "b");
    let path = entry_file(root, "a", "b");
    // age pads its header at random, so it takes some tries until two files have one size.
    let mut twos = BTreeMap::new();
    let two = loop {
        put(&writer, &entry, "two").await;
        let two = fs::read(&path).unwrap();
        twos.insert(two.len(), two);
        put(&writer, &entry, "one").await;
        let size = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
        if let Some(two) = twos.remove(&size) {
            break two;
        }
    };
    assert_eq!(get(&reader, &entry).await.unwrap().as_deref(), Some("one"));
    let before = fs::metadata(&path).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(&two).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!(
        (before.len(), before.ino(), before.mtime_nsec()),
        (after.len(), after.ino(), after.mtime_nsec())
    );
    tokio::time::sleep(STALE).await;
    assert_eq!(get(&reader, &entry).await.unwrap().as_deref(), Some("two"));
}

#[tokio::test]
async fn the_holder_of_the_lock_reads_the_file_and_not_memory() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (mine, other) = (open(root), open(root));
    let entry = key("a", "b");
    put(&mine, &entry, "one").await;
    let path = entry_file(root, "a", "b");
    put(&other, &entry, "two").await;
    let guard = lock(&mine, &entry).await;
    assert_eq!(access(&guard.read().await.unwrap().unwrap()), "two");
    fs::remove_file(path).unwrap();
    assert!(guard.read().await.unwrap().is_none());
}

#[test]
fn a_fresh_record_is_answered_without_giving_up_the_thread() {
    let directory = tempfile::tempdir().unwrap();
    let mut one_thread = tokio::runtime::Builder::new_current_thread();
    let runtime = one_thread.enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let store = open(directory.path());
        let entry = key("a", "b");
        put(&store, &entry, "one").await;
        assert!(get(&store, &entry).await.unwrap().is_some());
        // Nobody else can do the work: the answer comes from here and now, or not at all.
        let (release, occupied) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || occupied.recv());
        let mut reading = TokenStore::read(&store, &entry);
        let polled = reading.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(Some(_)))));
        drop(release);
        assert!(busy.await.unwrap().is_err());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_frees_no_lock_under_a_running_write() {
    let directory = tempfile::tempdir().unwrap();
    let (mine, other) = (open(directory.path()), open(directory.path()));
    let entry = key("a", "b");
    put(&mine, &entry, "start").await;
    for round in 0..20 {
        // Large, so that the write takes its time.
        let new = format!("{round} {}", "x".repeat(30_000));
        let mut guard = lock(&mine, &entry).await;
        let mut writing = guard.write(tokens(&new), OverCorrupt::Refuse);
        drop(writing.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        drop(writing);
        drop(guard);
        let next = lock(&other, &entry).await;
        assert!(
            access(&next.read().await.unwrap().unwrap()) == new,
            "round {round}: the write came after the lock"
        );
        assert!(
            get(&mine, &entry).await.unwrap().unwrap() == new,
            "round {round}: memory is behind"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_given_up_never_comes_after_a_later_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let entry = key("a", "b");
    let mut guard = lock(&store, &entry).await;
    for round in 0..20 {
        for abandoned in 0..3 {
            let new = format!("{abandoned} {}", "x".repeat(30_000));
            let mut writing = guard.write(tokens(&new), OverCorrupt::Refuse);
            drop(writing.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        }
        let last = format!("last of {round}");
        guard.write(tokens(&last), OverCorrupt::Refuse).await.unwrap();
        assert_eq!(access(&guard.read().await.unwrap().unwrap()), last);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(access(&guard.read().await.unwrap().unwrap()), last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_of_one_process_exclude_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let (mine, other) = (open(directory.path()), open(directory.path()));
    let entry = key("a", "b");
    let guard = lock(&mine, &entry).await;
    assert!(other.lock(&entry, Duration::from_millis(50)).await.is_err());
    let waiting = tokio::spawn({
        let entry = entry.clone();
        async move { other.lock(&entry, SOON).await.is_ok() }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(guard);
    assert!(waiting.await.unwrap());
}

#[tokio::test]
async fn a_lock_file_outlives_its_entry_and_is_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let entry = key("a", "b");
    put(&store, &entry, "one").await;
    let path = directory.path().join("locks/61/62.lock");
    let first = fs::metadata(&path).unwrap();
    put(&store, &entry, "two").await;
    assert!(lock(&store, &entry).await.remove().await.unwrap());
    let last = fs::metadata(&path).unwrap();
    assert_eq!((first.ino(), first.len()), (last.ino(), last.len()));
    assert_eq!(last.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_store_that_was_cleared_away_starts_anew_in_a_running_process() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let (mine, other) = (open(&root), open(&root));
    put(&mine, &key("a", "b"), "one").await;
    fs::remove_dir_all(&root).unwrap();
    tokio::time::sleep(STALE).await;
    assert_eq!(get(&mine, &key("a", "b")).await.unwrap(), None);
    // The new identity is another one than the running process has in memory.
    put(&other, &key("a", "b"), "two").await;
    assert_eq!(get(&mine, &key("a", "b")).await.unwrap().as_deref(), Some("two"));
    put(&mine, &key("a", "c"), "three").await;
    assert_eq!(
        get(&open(&root), &key("a", "c")).await.unwrap().as_deref(),
        Some("three")
    );
    assert!(key_file(&root, "k").parent().is_some_and(|keys| !keys.exists()));
}

/// One question about many records: those that are stored otherwise are told, whoever wrote them, and no others.
#[tokio::test]
async fn what_has_changed_is_told_of_many_records_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let keys: Vec<_> = ["same", "written", "elsewhere", "removed", "corrupt", "old"]
        .into_iter()
        .map(|bucket| key("p", bucket))
        .collect();
    let mut known = Vec::new();
    for key in &keys {
        known.push((key.clone(), put(&store, key, "one").await));
    }
    assert!(TokenStore::changed(&store, known.clone()).await.is_empty());
    assert!(TokenStore::changed(&store, Vec::new()).await.is_empty());
    put(&store, &keys[1], "two").await;
    put(&open(directory.path()), &keys[2], "two").await;
    fs::remove_file(entry_file(directory.path(), "p", "removed")).unwrap();
    fs::write(entry_file(directory.path(), "p", "corrupt"), b"damaged").unwrap();
    // Memory has learned of it by itself; whoever knows the old version has not.
    put(&open(directory.path()), &keys[5], "two").await;
    tokio::time::sleep(STALE).await;
    assert_eq!(get(&store, &keys[5]).await.unwrap().as_deref(), Some("two"));
    let changed = TokenStore::changed(&store, known).await;
    assert_eq!(changed, keys[1..]);

    let name = name("k");
    store.write(&name, secret("one"), SOON).await.unwrap();
    let value = KeyStore::read(&store, &name).await.unwrap().unwrap();
    let known = vec![(name.clone(), value)];
    assert!(KeyStore::changed(&store, known.clone()).await.is_empty());
    open(directory.path()).write(&name, secret("two"), SOON).await.unwrap();
    assert_eq!(KeyStore::changed(&store, known).await, [name]);
}

/// Nothing is written that would be too large to be read. How much encryption adds is not always the same.
#[tokio::test]
async fn a_record_may_be_some_256_kib_long_and_no_longer() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let write = async |length| KeyStore::write(&store, &name("k"), secret(&"x".repeat(length)), SOON).await;
    write(255 * 1024).await.unwrap();
    let error = write(256 * 1024).await.unwrap_err();
    assert!(error.to_string().contains("too large to be read again"), "{error}");
    let read = KeyStore::read(&open(directory.path()), &name("k")).await.unwrap();
    assert_eq!(read.unwrap().expose_secret().len(), 255 * 1024);
}
