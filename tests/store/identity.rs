//! A store without its identity is locked: never empty, never corrupt, never given a new one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use credbroker::store::{KeyStore, OverCorrupt, TokenStore, file::IdentitySource};

use crate::support::{
    SOON, assert_corrupt, assert_locked, entry_file, get, key, lock, name, open, open_with, put, secret, tokens,
};

/// Everything that needs the identity says that it is missing, and nothing has changed.
async fn assert_all_locked(root: &Path, identity: IdentitySource, mend: &str) {
    let path = entry_file(root, "a", "b");
    let before = fs::read(&path).unwrap();
    let store = open_with(root, identity);
    assert_locked(get(&store, &key("a", "b")).await, mend);
    assert_locked(KeyStore::read(&store, &name("k")).await, mend);
    assert_locked(store.check().await, mend);
    for over_corrupt in [OverCorrupt::Refuse, OverCorrupt::Replace] {
        let mut guard = lock(&store, &key("a", "b")).await;
        assert_locked(guard.write(tokens("new"), over_corrupt).await, mend);
    }
    assert_locked(KeyStore::write(&store, &name("k"), secret("new"), SOON).await, mend);
    assert_eq!(TokenStore::list(&store).await.unwrap(), [key("a", "b")]);
    assert_eq!(get(&store, &key("absent", "")).await.unwrap(), None);
    assert_eq!(fs::read(&path).unwrap(), before);
}

async fn filled(root: &Path) {
    put(&open(root), &key("a", "b"), "one").await;
    KeyStore::write(&open(root), &name("k"), secret("one"), SOON)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_missing_identity_locks_a_store_with_records_and_is_not_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    filled(root).await;
    fs::rename(root.join("identity.txt"), root.join("away")).unwrap();
    assert_all_locked(root, IdentitySource::Default, "restore it from a backup").await;
    assert!(!root.join("identity.txt").exists());
    // One key alone is reason enough.
    fs::remove_dir_all(root.join("tokens")).unwrap();
    assert_locked(open(root).check().await, "restore it from a backup");
    fs::rename(root.join("away"), root.join("identity.txt")).unwrap();
    assert!(KeyStore::read(&open(root), &name("k")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_running_process_does_not_write_what_only_its_memory_could_decrypt() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    filled(root).await;
    let store = open(root);
    assert!(get(&store, &key("a", "b")).await.unwrap().is_some());
    fs::rename(root.join("identity.txt"), root.join("away")).unwrap();
    let mut guard = lock(&store, &key("a", "b")).await;
    assert_locked(guard.write(tokens("new"), OverCorrupt::Replace).await, "restore it");
    assert_locked(store.check().await, "restore it");
    fs::rename(root.join("away"), root.join("identity.txt")).unwrap();
    store.check().await.unwrap();
    guard.write(tokens("new"), OverCorrupt::Refuse).await.unwrap();
    assert_eq!(get(&open(root), &key("a", "b")).await.unwrap().as_deref(), Some("new"));
}

#[tokio::test]
async fn an_identity_that_others_can_read_locks_the_store_until_that_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    filled(root).await;
    let path = root.join("identity.txt");
    for mode in [0o640, 0o604, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_all_locked(root, IdentitySource::Default, "chmod 600").await;
        assert_all_locked(root, IdentitySource::File(path.clone()), "chmod 600").await;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(get(&open(root), &key("a", "b")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_store_directory_that_others_can_write_is_locked() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    filled(root).await;
    fs::set_permissions(root, fs::Permissions::from_mode(0o777)).unwrap();
    assert_all_locked(root, IdentitySource::Default, "chmod 700").await;
}

#[tokio::test]
async fn what_is_no_identity_file_locks_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    filled(root).await;
    let path = root.join("identity.txt");
    fs::write(&path, "AGE-SECRET-KEY-1BROKEN\n").unwrap();
    assert_all_locked(root, IdentitySource::Default, "on line 1").await;
    fs::write(&path, "").unwrap();
    assert_all_locked(root, IdentitySource::Default, "holds no identity").await;
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_all_locked(root, IdentitySource::Default, "regular file").await;
    fs::remove_dir(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    assert_all_locked(root, IdentitySource::Default, "cannot be read").await;
}

#[tokio::test]
async fn a_configured_identity_file_must_exist_and_is_never_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    filled(&root).await;
    let absent = directory.path().join("absent.txt");
    assert_all_locked(&root, IdentitySource::File(absent.clone()), "does not exist").await;
    assert!(!absent.exists());
    let new = open_with(&directory.path().join("new"), IdentitySource::File(absent.clone()));
    let mut guard = lock(&new, &key("a", "b")).await;
    assert_locked(guard.write(tokens("one"), OverCorrupt::Refuse).await, "does not exist");
    assert_locked(new.check().await, "does not exist");
    assert!(!absent.exists());
}

#[tokio::test]
async fn a_command_or_another_file_can_be_the_identity() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    filled(&root).await;
    let elsewhere = directory.path().join("id");
    fs::rename(root.join("identity.txt"), &elsewhere).unwrap();
    let link = directory.path().join("link");
    symlink(&elsewhere, &link).unwrap();
    let command = IdentitySource::Command(format!("cat {}", elsewhere.display()).into());
    for identity in [IdentitySource::File(elsewhere), IdentitySource::File(link), command] {
        let store = open_with(&root, identity);
        assert_eq!(get(&store, &key("a", "b")).await.unwrap().as_deref(), Some("one"));
        put(&store, &key("a", "b"), "one").await;
        store.check().await.unwrap();
    }
    assert!(!root.join("identity.txt").exists());
}

#[tokio::test]
async fn a_command_that_fails_locks_the_store_and_is_not_run_by_every_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    filled(&root).await;
    let runs = directory.path().join("runs");
    let command = format!("echo run >> {}; exit 7", runs.display());
    assert_all_locked(&root, IdentitySource::Command(command.into()), "exit status: 7").await;
    assert_eq!(fs::read_to_string(&runs).unwrap(), "run\n");
    assert_all_locked(&root, IdentitySource::Command("echo s3cret".into()), "on line 1").await;
}

/// A store call has 15 s, whatever it waits for.
#[tokio::test]
async fn a_command_that_hangs_costs_a_call_15_s() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    filled(&root).await;
    let store = open_with(&root, IdentitySource::Command("exec sleep 100".into()));
    let start = tokio::time::Instant::now();
    assert_locked(get(&store, &key("a", "b")).await, "did not come within 15 s");
    let took = start.elapsed().as_secs_f64();
    assert!((14.9..17.0).contains(&took), "{took}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_is_run_once_and_its_result_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    filled(&root).await;
    let runs = directory.path().join("runs");
    let command = format!(
        "echo run >> {}; sleep 0.2; cat {}/identity.txt",
        runs.display(),
        root.display()
    );
    let store = open_with(&root, IdentitySource::Command(command.into()));
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { get(&store, &key("a", "b")).await.unwrap() })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap().as_deref(), Some("one"));
    }
    put(&store, &key("a", "b"), "two").await;
    assert_eq!(fs::read_to_string(&runs).unwrap(), "run\n");
}

#[tokio::test]
async fn another_stores_identity_decrypts_nothing_and_every_identity_of_a_file_does() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    filled(&one).await;
    filled(&two).await;
    let other = IdentitySource::File(two.join("identity.txt"));
    assert_corrupt(
        get(&open_with(&one, other.clone()), &key("a", "b")).await,
        "another identity",
    );
    // While an identity is being retired, the file holds both, and each of them alone decrypts what is written.
    let both = directory.path().join("both");
    let texts = [&one, &two].map(|root| fs::read_to_string(root.join("identity.txt")).unwrap());
    fs::write(&both, texts.concat()).unwrap();
    fs::set_permissions(&both, fs::Permissions::from_mode(0o600)).unwrap();
    let store = open_with(&one, IdentitySource::File(both));
    assert_eq!(get(&store, &key("a", "b")).await.unwrap().as_deref(), Some("one"));
    put(&store, &key("a", "b"), "two").await;
    for identity in [IdentitySource::Default, other] {
        assert_eq!(
            get(&open_with(&one, identity), &key("a", "b"))
                .await
                .unwrap()
                .as_deref(),
            Some("two")
        );
    }
}

#[tokio::test]
async fn a_key_that_is_derived_makes_the_identity_only_where_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let derive = async |uses, make| open(directory.path()).derive_keys(uses, make).await.unwrap();
    assert!(derive(["a use", "another"], false).await.is_empty());
    assert!(!directory.path().join("identity.txt").exists());
    let made = derive(["a use", "another"], true).await;
    assert_eq!(made.len(), 1);
    assert_eq!(derive(["a use", "another"], false).await, made);
    let [one, other] = &made[0];
    assert_ne!(one, other);
}
