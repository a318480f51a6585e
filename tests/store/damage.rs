//! Files that are not what they should be are never served, and never overwritten unasked.

use std::{fs, os::unix::fs::symlink, path::Path};

use credbroker::store::{KeyStore, OverCorrupt, StoreError, TokenStore};
use secrecy::ExposeSecret as _;

use crate::support::{
    SOON, assert_corrupt, assert_unavailable, decrypt, encrypt, entry_file, get, key, key_file, lock, name, open, put,
    secret, tokens,
};

#[tokio::test]
async fn a_file_cut_off_anywhere_is_corrupt_and_stays_as_it_is() {
    each_damage(|whole| (0..whole.len()).map(|length| whole[..length].to_vec()).collect()).await;
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_corrupt_and_the_file_stays_as_it_is() {
    each_damage(|whole| {
        let flip = |at: usize| {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 1 << (at % 8);
            damaged
        };
        (0..whole.len()).map(flip).collect()
    })
    .await;
}

#[tokio::test]
async fn something_appended_is_corrupt() {
    each_damage(|whole| vec![[whole, b"x"].concat(), [whole, whole].concat(), vec![0; 300 * 1024]]).await;
}

async fn each_damage(damages: impl Fn(&[u8]) -> Vec<Vec<u8>>) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let entry = key("a", "b");
    put(&store, &entry, "s3cret").await;
    let path = entry_file(directory.path(), "a", "b");
    let whole = fs::read(&path).unwrap();
    let mut guard = lock(&store, &entry).await;
    for (number, damaged) in damages(&whole).iter().enumerate() {
        fs::write(&path, damaged).unwrap();
        assert_corrupt(guard.read().await, number);
        // Refusing takes the same look as reading: every place is read, every eighth is written to.
        if number % 8 == 0 {
            assert_corrupt(guard.write(tokens("new"), OverCorrupt::Refuse).await, number);
        }
        assert!(fs::read(&path).unwrap() == *damaged, "{number}: overwritten");
    }
    assert_corrupt(get(&open(directory.path()), &entry).await, "another reader");
    // A login and an explicit remove may.
    guard.write(tokens("new"), OverCorrupt::Replace).await.unwrap();
    assert_eq!(get(&store, &entry).await.unwrap().as_deref(), Some("new"));
    fs::write(&path, b"damaged").unwrap();
    assert!(guard.remove().await.unwrap());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_corrupt_entry_is_listed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &key("a", "b"), "one").await;
    fs::write(entry_file(directory.path(), "a", "b"), b"damaged").unwrap();
    assert_eq!(TokenStore::list(&store).await.unwrap(), [key("a", "b")]);
}

#[tokio::test]
async fn a_file_copied_over_another_ones_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = open(root);
    for (provider, bucket) in [("a", "b"), ("a", "c"), ("x", "b")] {
        put(&store, &key(provider, bucket), "one").await;
    }
    for of in ["k", "l"] {
        KeyStore::write(&store, &name(of), secret("v"), SOON).await.unwrap();
    }
    let victim = entry_file(root, "a", "b");
    for source in [
        entry_file(root, "a", "c"),
        entry_file(root, "x", "b"),
        key_file(root, "k"),
    ] {
        fs::copy(&source, &victim).unwrap();
        assert_corrupt(get(&open(root), &key("a", "b")).await, source.display());
    }
    let victim = key_file(root, "k");
    for source in [key_file(root, "l"), entry_file(root, "a", "c")] {
        fs::copy(&source, &victim).unwrap();
        let read = KeyStore::read(&open(root), &name("k")).await;
        let said = read.as_ref().map_or_else(ToString::to_string, |_| String::new());
        assert!(said.contains("API key k"), "{said}");
        assert_corrupt(read, source.display());
    }
    // Setting a key is how a corrupt one is mended.
    KeyStore::write(&store, &name("k"), secret("new"), SOON).await.unwrap();
    let read = KeyStore::read(&store, &name("k")).await.unwrap().unwrap();
    assert_eq!(read.expose_secret(), "new");
}

/// A store with the entry a/b and the key k, whose texts were passed through `change`.
async fn rewritten(root: &Path, change: impl Fn(&str) -> String) {
    let store = open(root);
    put(&store, &key("a", "b"), "s3cret").await;
    KeyStore::write(&store, &name("k"), secret("s3cret"), SOON)
        .await
        .unwrap();
    for path in [entry_file(root, "a", "b"), key_file(root, "k")] {
        let text = decrypt(root, &path);
        let changed = change(&text);
        assert_ne!(changed, text);
        encrypt(root, &path, &changed);
    }
}

#[tokio::test]
async fn a_newer_format_is_neither_read_nor_replaced_but_can_be_removed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    rewritten(root, |_| r#"{"format":2,"anything":["else"]}"#.to_owned()).await;
    let store = open(root);
    let path = entry_file(root, "a", "b");
    let before = fs::read(&path).unwrap();
    let newer = |error: StoreError| matches!(error, StoreError::NewerFormat { format: 2, .. });
    let mut guard = lock(&store, &key("a", "b")).await;
    assert!(newer(get(&store, &key("a", "b")).await.unwrap_err()));
    for over_corrupt in [OverCorrupt::Refuse, OverCorrupt::Replace] {
        assert!(newer(guard.write(tokens("new"), over_corrupt).await.unwrap_err()));
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(guard.remove().await.unwrap());
    assert!(newer(KeyStore::read(&store, &name("k")).await.unwrap_err()));
    assert!(newer(
        KeyStore::write(&store, &name("k"), secret("new"), SOON)
            .await
            .unwrap_err()
    ));
    assert!(KeyStore::remove(&store, &name("k"), SOON).await.unwrap());
}

#[tokio::test]
async fn malformed_content_is_corrupt_and_is_not_quoted() {
    let changes: [fn(&str) -> String; 8] = [
        |_| String::new(),
        |_| "\"s3cret".to_owned(),
        |_| r#"{"format":"s3cret"}"#.to_owned(),
        |text| text.replace("\"format\":1", "\"format\":0"),
        |text| text.replace("\"kind\":", "\"s3cret\":"),
        |text| text.replace("\"s3cret\"", "{\"s3cret\":\"s3cret\"}"),
        |text| text.replace("\"revision\":\"", "\"revision\":\"\\u001bs3cret"),
        |text| text.replacen('{', "{\"s3cret\":1,", 1),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        rewritten(directory.path(), change).await;
        let store = open(directory.path());
        let errors = [
            get(&store, &key("a", "b")).await.err(),
            KeyStore::read(&store, &name("k")).await.err(),
        ];
        for error in errors {
            let said = format!("{0} {0:?}", error.as_ref().unwrap());
            assert!(!said.contains("s3cret"), "{number}: {said}");
            assert_corrupt(Err::<(), _>(error.unwrap()), number);
        }
    }
}

#[tokio::test]
async fn what_is_no_file_is_not_read_and_hangs_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = open(root);
    for bucket in ["pipe", "directory", "link", "loop", "large"] {
        put(&store, &key("a", bucket), "one").await;
    }
    let place = |bucket: &str| {
        let path = entry_file(root, "a", bucket);
        fs::remove_file(&path).unwrap();
        path
    };
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, place("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::create_dir(place("directory")).unwrap();
    fs::write(root.join("elsewhere"), b"x").unwrap();
    symlink(root.join("elsewhere"), place("link")).unwrap();
    symlink("itself", place("loop")).unwrap();
    fs::File::create(place("large")).unwrap().set_len(1 << 40).unwrap();
    let store = open(root);
    for bucket in ["pipe", "directory", "large"] {
        assert_corrupt(get(&store, &key("a", bucket)).await, bucket);
    }
    for bucket in ["link", "loop"] {
        assert_unavailable(get(&store, &key("a", bucket)).await);
    }
}

#[tokio::test]
async fn what_could_not_be_read_again_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &key("a", "b"), "one").await;
    let mut guard = lock(&store, &key("a", "b")).await;
    assert_unavailable(guard.write(tokens(&"x".repeat(256 * 1024)), OverCorrupt::Replace).await);
    assert_eq!(get(&store, &key("a", "b")).await.unwrap().as_deref(), Some("one"));
}
