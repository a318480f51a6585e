//! Any octets in the files of a store: as a record, as the text in a record, as the identity, as a lock's note. What is
//! damaged is said to be, no entry is believed under another name, and what is read is what is written there.

#![no_main]

use std::{cell::RefCell, fs, path::PathBuf, time::Duration};

use age::{Encryptor, Recipient, x25519::Identity};
use credbroker::{
    credential::EntryKey,
    store::{
        KeyStore, OverCorrupt, StoreError, TokenStore,
        file::{FileStore, FileStoreConfig, IdentitySource},
    },
};
use credbroker_fuzz::after;
use data_encoding::HEXLOWER;
use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::runtime::Runtime;

struct Store {
    runtime: Runtime,
    identity: Identity,
    root: PathBuf,
    /// The directory goes with the process, as far as that ends by itself.
    _directory: tempfile::TempDir,
}

thread_local! {
    static STORE: RefCell<Store> = RefCell::new(Store::new());
}

impl Store {
    fn new() -> Self {
        let memory = PathBuf::from("/dev/shm");
        let directory = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        }
        .unwrap();
        let root = directory.path().join("store");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let identity = Identity::generate();
        for below in ["tokens/70", "keys", "locks/70"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        Self {
            runtime,
            identity,
            root,
            _directory: directory,
        }
    }

    fn open(&self) -> FileStore {
        let config = FileStoreConfig {
            path: self.root.clone(),
            identity: IdentitySource::Default,
            allow_network_fs: true,
        };
        FileStore::open(config).unwrap()
    }

    fn write(&self, name: &str, octets: &[u8]) {
        let path = self.root.join(name);
        // As the store itself does it; one that others may read is refused.
        drop(fs::remove_file(&path));
        fs::write(&path, octets).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, mode).unwrap();
    }

    fn seal(&self, text: &[u8]) -> Vec<u8> {
        let recipient = self.identity.to_public();
        let recipients = [&recipient as &dyn Recipient];
        let encryptor = Encryptor::with_recipients(recipients.into_iter()).unwrap();
        let mut sealed = Vec::new();
        let mut writer = encryptor.wrap_output(&mut sealed).unwrap();
        std::io::Write::write_all(&mut writer, text).unwrap();
        writer.finish().unwrap();
        sealed
    }
}

fn judge_error(error: &StoreError) {
    let shown = error.to_string();
    assert!(!shown.contains(char::is_control) && shown.len() < 1024, "{shown:?}");
    assert!(!shown.contains("canary-"), "{shown}");
    assert!(!error.mend().is_empty());
}

fn judge(store: &Store, text: Option<&[u8]>) {
    let (p, other) = (EntryKey::parse("p", "b").unwrap(), EntryKey::parse("p", "c").unwrap());
    let files = store.open();
    let json: Option<Value> = text.and_then(|text| serde_json::from_slice(text).ok());
    let json = json.unwrap_or_default();
    store.runtime.block_on(async {
        for key in [&p, &other] {
            let read = files.lock(key, Duration::from_secs(1)).await.unwrap().read().await;
            match read {
                Ok(found) => {
                    let found = found.expect("the file is there");
                    assert!(json["kind"] == "token" && json["format"] == 1);
                    assert_eq!(json["provider"], "p");
                    assert_eq!(json["bucket"], key.bucket.as_str());
                    assert_eq!(json["revision"], found.revision.as_str());
                    assert_eq!(
                        json["tokens"]["access_token"],
                        found.tokens.access_token.expose_secret()
                    );
                    let refresh = found.tokens.refresh_token.as_ref().map(|token| token.expose_secret());
                    assert_eq!(json["tokens"]["refresh_token"].as_str(), refresh);
                    // Whatever times it names, they can be counted with.
                    let now = after(Duration::ZERO);
                    drop(found.tokens.to_access_token(&found.revision, &now));
                    let left = found.tokens.expiry.as_ref().map(|expiry| expiry.remaining(&now));
                    assert_eq!(left.is_some(), json["tokens"]["expiry"].is_object());
                    let _ = found.intent.as_ref().map(|intent| intent.remaining(&now));
                    // What was read can be written, and is read the same.
                    let mut guard = files.lock(key, Duration::from_secs(1)).await.unwrap();
                    guard.put(found.clone(), OverCorrupt::Refuse).await.unwrap();
                    drop(guard);
                    let again = TokenStore::read(&store.open(), key).await.unwrap().unwrap();
                    assert_eq!(again.revision, found.revision);
                    assert_eq!(again.tokens.expiry, found.tokens.expiry);
                    assert_eq!(again.tokens.extra, found.tokens.extra);
                    assert_eq!(again.intent, found.intent);
                }
                Err(error) => {
                    judge_error(&error);
                    match error {
                        StoreError::Corrupt { .. } => {}
                        // Nobody reads on in what cannot be understood, so the rest need not be JSON.
                        StoreError::NewerFormat { format, .. } => assert!(json.is_null() || json["format"] == format),
                        other => panic!("{other}"),
                    }
                }
            }
        }
        match KeyStore::read(&files, &"k".parse().unwrap()).await {
            Ok(found) => {
                let found = found.expect("the file is there");
                assert!(json["kind"] == "key" && json["format"] == 1);
                assert_eq!(json["name"], "k");
                assert_eq!(json["key"], found.expose_secret());
            }
            Err(StoreError::NewerFormat { .. }) => {}
            Err(error) => {
                judge_error(&error);
                assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            }
        }
    });
}

fn run(store: &Store, data: &[u8]) {
    let Some((what, octets)) = data.split_first() else {
        return;
    };
    let hex = |name: &str| HEXLOWER.encode(name.as_bytes());
    let records = [
        format!("tokens/70/{}.age", hex("b")),
        format!("tokens/70/{}.age", hex("c")),
        format!("keys/{}.age", hex("k")),
    ];
    let identity = store.identity.to_string();
    store.write("identity.txt", identity.expose_secret().as_bytes());
    match what % 6 {
        // The same text under three names: at most one of them is its own.
        0..=2 => {
            let sealed = store.seal(octets);
            records.iter().for_each(|record| store.write(record, &sealed));
            judge(store, Some(octets));
        }
        3 => {
            records.iter().for_each(|record| store.write(record, octets));
            judge(store, None);
        }
        4 => {
            let record = store.seal(b"{}");
            store.write(&records[0], &record);
            store.write("identity.txt", octets);
            let key = EntryKey::parse("p", "b").unwrap();
            let read = store
                .runtime
                .block_on(async { TokenStore::read(&store.open(), &key).await });
            let error = read.err().expect("an empty record is none");
            judge_error(&error);
            assert!(
                matches!(error, StoreError::Corrupt { .. } | StoreError::Locked { .. }),
                "{error}"
            );
        }
        _ => {
            store.write(&format!("locks/70/{}.lock", hex("b")), octets);
            let key = EntryKey::parse("p", "b").unwrap();
            let holder = store.runtime.block_on(async { store.open().holder(&key).await });
            if let Some(holder) = holder {
                let text = String::from_utf8_lossy(octets);
                assert!(text.contains(&holder.pid.to_string()) && text.contains(holder.state.as_str()));
            }
        }
    }
}

// What the octets are of, and those.
fuzz_target!(|data: &[u8]| STORE.with(|store| run(&store.borrow(), data)));
