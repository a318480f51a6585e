//! Stores, entries and files to test with.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use credbroker::{
    clock::Now,
    credential::{EntryKey, Expiry, Name, TokenSet},
    store::{
        OverCorrupt, StoreError, StoredTokens, TokenGuard, TokenStore,
        file::{FileStore, FileStoreConfig, IdentitySource},
    },
};
use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret as _, SecretString};

/// Long enough for a free lock, also on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Longer than memory is believed without a look at the file.
pub(crate) const STALE: Duration = Duration::from_millis(120);

pub(crate) fn open(path: &Path) -> FileStore {
    open_with(path, IdentitySource::Default)
}

pub(crate) fn open_with(path: &Path, identity: IdentitySource) -> FileStore {
    FileStore::open(FileStoreConfig {
        path: path.to_owned(),
        identity,
        allow_network_fs: false,
    })
    .unwrap()
}

pub(crate) fn key(provider: &str, bucket: &str) -> EntryKey {
    EntryKey::parse(provider, bucket).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn secret(text: &str) -> SecretString {
    SecretString::from(text)
}

/// A token set with every field set.
pub(crate) fn tokens(access: &str) -> TokenSet {
    let stored = Now {
        wall: "2026-03-01T12:00:00.123456789Z".parse().unwrap(),
        boot: Duration::new(4711, 12),
        boot_id: Arc::from("6a7a2f6e-0000-4000-8000-000000000000"),
    };
    TokenSet {
        access_token: secret(access),
        refresh_token: Some(secret("refresh \"quoted\" \u{1}")),
        expiry: Some(Expiry::from_lifetime(Duration::from_secs(3600), &stored)),
        token_type: "Bearer".to_owned(),
        scope: "a b".to_owned(),
        subject: Some("me".to_owned()),
        extra: [("id_token".to_owned(), "x.y.z".to_owned())].into(),
        saved_by: "import".to_owned(),
    }
}

pub(crate) fn access(stored: &StoredTokens) -> &str {
    stored.tokens.access_token.expose_secret()
}

pub(crate) async fn lock(store: &impl TokenStore, key: &EntryKey) -> Box<dyn TokenGuard> {
    store.lock(key, SOON).await.unwrap()
}

pub(crate) async fn put(store: &impl TokenStore, key: &EntryKey, access: &str) -> Arc<StoredTokens> {
    let mut guard = lock(store, key).await;
    guard.write(tokens(access), OverCorrupt::Refuse).await.unwrap()
}

pub(crate) async fn get(store: &impl TokenStore, key: &EntryKey) -> Result<Option<String>, StoreError> {
    Ok(store.read(key).await?.map(|stored| access(&stored).to_owned()))
}

fn hex(text: &str) -> String {
    HEXLOWER.encode(text.as_bytes())
}

pub(crate) fn entry_file(store: &Path, provider: &str, bucket: &str) -> PathBuf {
    store
        .join("tokens")
        .join(hex(provider))
        .join(format!("{}.age", hex(bucket)))
}

pub(crate) fn key_file(store: &Path, name: &str) -> PathBuf {
    store.join("keys").join(format!("{}.age", hex(name)))
}

pub(crate) fn temporary_of(file: &Path) -> PathBuf {
    file.with_file_name(format!(".{}.tmp", file.file_name().unwrap().to_str().unwrap()))
}

/// The store's identity, read as any age tool would.
fn identity_of(store: &Path) -> age::x25519::Identity {
    let text = fs::read_to_string(store.join("identity.txt")).unwrap();
    let line = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    line.parse().unwrap()
}

pub(crate) fn decrypt(store: &Path, file: &Path) -> String {
    let text = age::decrypt(&identity_of(store), &fs::read(file).unwrap()).unwrap();
    String::from_utf8(text).unwrap()
}

/// Puts a text of the test's own where a record is.
pub(crate) fn encrypt(store: &Path, file: &Path, text: &str) {
    let sealed = age::encrypt(&identity_of(store).to_public(), text.as_bytes()).unwrap();
    fs::File::create(file).unwrap().write_all(&sealed).unwrap();
}

#[track_caller]
pub(crate) fn assert_corrupt<T>(result: Result<T, StoreError>, context: impl std::fmt::Display) {
    match result {
        Err(StoreError::Corrupt { .. }) => {}
        Err(other) => panic!("{context}: not corrupt but: {other}"),
        Ok(_) => panic!("{context}: served"),
    }
}

#[track_caller]
pub(crate) fn assert_locked<T>(result: Result<T, StoreError>, mend: &str) {
    match result {
        Err(StoreError::Locked { mend: said }) if said.contains(mend) => {}
        Err(other) => panic!("not locked with {mend:?} but: {other}"),
        Ok(_) => panic!("not locked"),
    }
}

#[track_caller]
pub(crate) fn assert_unavailable<T>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::Unavailable { .. }) => {}
        Err(other) => panic!("not unavailable but: {other}"),
        Ok(_) => panic!("available"),
    }
}
