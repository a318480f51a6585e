//! What our own code holds of secrets is wiped before its memory is given back. An allocator looks at every block that is
//! freed, also when a text grows out of one.

#![expect(clippy::unwrap_used, reason = "a failure here is a test's failure")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use age::secrecy::ExposeSecret as _;
use credbroker::{
    clock::{Clock as _, SystemClock},
    config::read_capability_file,
    credential::{AnswerRules, EntryKey, TokenAnswer, parse_answer},
    store::{
        KeyStore, OverCorrupt, StoredTokens, TokenStore,
        file::{FileStore, FileStoreConfig, IdentitySource},
    },
};

/// What every secret of these tests' own begins with.
const CANARY: &[u8] = b"wiped-canary-7f3";
const ACCESS: &str = "wiped-canary-7f3-access";
const REFRESH: &str = "wiped-canary-7f3-refresh";

struct Watching;

/// What is looked for: the first bytes of a secret.
static MARK: [AtomicU8; 16] = [const { AtomicU8::new(0) }; 16];
static LOOKS: AtomicBool = AtomicBool::new(false);
/// Blocks with the mark in them, and the sizes of the first few.
static FOUND: AtomicUsize = AtomicUsize::new(0);
static SIZES: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

/// Allocates nothing.
#[expect(unsafe_code, reason = "an allocator sees memory, not values")]
fn look(block: *const u8, size: usize) {
    if !LOOKS.load(Ordering::Relaxed) || size < MARK.len() {
        return;
    }
    // SAFETY: the block is allocated until this returns, and all of it was written to, if only with zeros.
    let byte = |at: usize| unsafe { block.add(at).read() };
    let is_mark = |at: usize| {
        (at..)
            .zip(&MARK)
            .all(|(at, expected)| byte(at) == expected.load(Ordering::Relaxed))
    };
    if (0..=size - MARK.len()).any(is_mark) {
        let number = FOUND.fetch_add(1, Ordering::Relaxed);
        if let Some(place) = SIZES.get(number) {
            place.store(size, Ordering::Relaxed);
        }
    }
}

#[expect(unsafe_code, reason = "that is what an allocator is")]
// SAFETY: all of it is the system's; blocks are only looked at before they are given back.
unsafe impl GlobalAlloc for Watching {
    /// Empty, so that nobody is blamed for what somebody else left there.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller has it.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        look(block, layout.size());
        // SAFETY: as the caller has it.
        unsafe { System.dealloc(block, layout) }
    }

    /// Growing frees the old block, always; shrinking cuts the end off, as the system's does.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            // SAFETY: as the caller has it; the new block is larger than what is copied.
            unsafe {
                let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                if !new.is_null() {
                    block.copy_to_nonoverlapping(new, layout.size());
                    self.dealloc(block, layout);
                }
                return new;
            }
        }
        // SAFETY: the end is within the block.
        look(unsafe { block.add(size) }, layout.size() - size);
        // SAFETY: as the caller has it.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// What is freed while it looks. One test has it at a time, because the blocks of all threads are looked at.
struct Watch {
    _one: MutexGuard<'static, ()>,
}

impl Watch {
    fn begin() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        // A test that failed says so itself.
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { _one }
    }

    /// The sizes of the blocks that were freed with the tests' own secrets in them.
    fn left_behind(&self, done: impl FnOnce()) -> Vec<usize> {
        self.left_behind_of(CANARY, done)
    }

    /// The same of this secret.
    fn left_behind_of(&self, secret: &[u8], done: impl FnOnce()) -> Vec<usize> {
        assert!(secret.len() >= MARK.len());
        for (place, byte) in MARK.iter().zip(secret) {
            place.store(*byte, Ordering::Relaxed);
        }
        FOUND.store(0, Ordering::Relaxed);
        LOOKS.store(true, Ordering::Relaxed);
        done();
        LOOKS.store(false, Ordering::Relaxed);
        let sizes = SIZES.iter().take(FOUND.load(Ordering::Relaxed));
        sizes.map(|size| size.load(Ordering::Relaxed)).collect()
    }
}

/// In a runtime that is gone, with its threads, when it returns.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

fn store(root: &Path) -> FileStore {
    FileStore::open(FileStoreConfig {
        path: root.to_owned(),
        identity: IdentitySource::Default,
        allow_network_fs: false,
    })
    .unwrap()
}

fn entry() -> EntryKey {
    EntryKey::parse("p", "").unwrap()
}

fn answer() -> &'static [u8] {
    // Not freed at all: it stands for what somebody else holds.
    let text = format!(r#"{{"access_token":"{ACCESS}","refresh_token":"{REFRESH}","expires_in":60}}"#);
    Box::leak(text.into_bytes().into_boxed_slice())
}

#[test]
fn the_watch_sees_what_is_not_wiped() {
    let watch = Watch::begin();
    let kept = format!("{ACCESS}{ACCESS}");
    let size = kept.capacity();
    assert_eq!(watch.left_behind(|| drop(kept)), [size]);
    // Also where a text grows out of its block.
    let mut grows = String::with_capacity(ACCESS.len());
    grows.push_str(ACCESS);
    let grown = watch.left_behind(|| {
        grows.reserve(4096);
        std::mem::forget(grows);
    });
    assert_eq!(grown, [ACCESS.len()]);
}

#[test]
fn an_import_is_wiped_and_so_is_what_a_sandbox_is_told_of_it() {
    let watch = Watch::begin();
    let (answer, now) = (answer(), SystemClock::new().now());
    let import = || {
        let tokens = parse_answer(answer, &AnswerRules::default(), "import", &now).unwrap();
        let stored = StoredTokens::new(tokens);
        let told = stored.tokens.to_access_token(&stored.revision, &now);
        assert_eq!(told.access_token.expose_secret(), ACCESS);
    };
    assert_eq!(watch.left_behind(import), [0; 0]);
}

#[test]
fn a_providers_answer_is_wiped_with_every_field_that_was_read_of_it() {
    let watch = Watch::begin();
    let answer = answer();
    let read = || {
        let tokens = TokenAnswer::parse(answer, &AnswerRules::default()).unwrap();
        assert_eq!(tokens.refresh_token.unwrap().expose_secret(), REFRESH);
    };
    assert_eq!(watch.left_behind(read), [0; 0]);
}

/// The table of copies in THREAT_MODEL.md: writing leaves one chunk of `age`'s, reading nothing.
#[test]
fn a_record_is_wiped_when_it_is_read_and_leaves_one_chunk_when_it_is_written() {
    let watch = Watch::begin();
    let directory = tempfile::tempdir().unwrap();
    let tokens = parse_answer(answer(), &AnswerRules::default(), "import", &SystemClock::new().now()).unwrap();
    let name = "k".parse().unwrap();
    // The directories and the identity are made before.
    run(async {
        let store = store(directory.path());
        store
            .write(&"other".parse().unwrap(), "x".into(), Duration::from_secs(10))
            .await
            .unwrap();
    });
    let write = || {
        run(async {
            let store = store(directory.path());
            let mut guard = store.lock(&entry(), Duration::from_secs(10)).await.unwrap();
            guard.write(tokens, OverCorrupt::Refuse).await.unwrap();
        });
    };
    assert_eq!(watch.left_behind(write), [CHUNK]);
    let write_key = || {
        run(async {
            let store = store(directory.path());
            store
                .write(&name, ACCESS.into(), Duration::from_secs(10))
                .await
                .unwrap();
        });
    };
    assert_eq!(watch.left_behind(write_key), [CHUNK]);
    let read = || {
        run(async {
            let store = store(directory.path());
            let stored = TokenStore::read(&store, &entry()).await.unwrap().unwrap();
            assert_eq!(stored.tokens.access_token.expose_secret(), ACCESS);
            let key = KeyStore::read(&store, &name).await.unwrap().unwrap();
            assert_eq!(key.expose_secret(), ACCESS);
        });
    };
    assert_eq!(watch.left_behind(read), [0; 0]);
}

/// What `age` encrypts at once.
const CHUNK: usize = 64 * 1024;

#[test]
fn the_files_of_an_identity_and_of_a_capability_are_wiped() {
    let watch = Watch::begin();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    run(async {
        let store = store(root);
        store
            .write(&"k".parse().unwrap(), "x".into(), Duration::from_secs(10))
            .await
            .unwrap();
    });
    let identity = fs::read_to_string(root.join("identity.txt")).unwrap();
    let (_, digits) = identity.split_once("AGE-SECRET-KEY-1").unwrap();
    let read = || {
        run(async {
            let read = KeyStore::read(&store(root), &"k".parse().unwrap()).await;
            assert_eq!(read.unwrap().unwrap().expose_secret(), "x");
        });
    };
    assert_eq!(watch.left_behind_of(digits.as_bytes(), read), [0; 0]);

    let (bytes, file) = ([0x5a, 0xc3].repeat(16), root.join("capability"));
    let digits = data_encoding::HEXLOWER.encode(&bytes);
    fs::write(&file, &digits).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for secret in [digits.as_bytes(), &bytes] {
        let read = || {
            let capability = read_capability_file(&file).unwrap();
            assert_eq!(capability.expose_secret()[..], bytes);
        };
        assert_eq!(watch.left_behind_of(secret, read), [0; 0]);
    }
}
