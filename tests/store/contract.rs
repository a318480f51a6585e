//! What every backend promises, once for each of them.

use std::{sync::Arc, time::Duration};

use credbroker::store::{KeyStore, OverCorrupt, StoreError, TokenStore};
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use crate::support::{SOON, access, get, key, lock, name, put, secret, tokens};

trait Backend: TokenStore + KeyStore + Clone {}
impl<S: TokenStore + KeyStore + Clone> Backend for S {}

async fn absent_is_none_and_not_an_error(store: impl Backend) {
    let entry = key("github", "");
    assert!(TokenStore::read(&store, &entry).await.unwrap().is_none());
    assert!(TokenStore::list(&store).await.unwrap().is_empty());
    assert!(KeyStore::read(&store, &name("k")).await.unwrap().is_none());
    assert!(KeyStore::list(&store).await.unwrap().is_empty());
    assert!(!KeyStore::remove(&store, &name("k"), SOON).await.unwrap());
    let mut guard = lock(&store, &entry).await;
    assert!(guard.read().await.unwrap().is_none());
    assert!(!guard.remove().await.unwrap());
    store.check().await.unwrap();
}

async fn a_token_set_comes_back_whole_and_under_a_new_revision(store: impl Backend) {
    let entry = key("github", "work");
    let first = put(&store, &entry, "one").await;
    let second = put(&store, &entry, "two").await;
    assert_ne!(first.revision, second.revision);
    for read in [
        store.clone().read_tokens(&entry).await,
        lock(&store, &entry).await.read().await.unwrap().unwrap(),
    ] {
        let wanted = tokens("two");
        assert_eq!(read.revision, second.revision);
        assert_eq!(access(&read), "two");
        let refresh =
            |t: &credbroker::credential::TokenSet| t.refresh_token.clone().map(|r| r.expose_secret().to_owned());
        assert_eq!(refresh(&read.tokens), refresh(&wanted));
        assert_eq!(read.tokens.expiry, wanted.expiry);
        assert_eq!(read.tokens.token_type, wanted.token_type);
        assert_eq!(read.tokens.scope, wanted.scope);
        assert_eq!(read.tokens.subject, wanted.subject);
        assert_eq!(read.tokens.extra, wanted.extra);
        assert_eq!(read.tokens.saved_by, wanted.saved_by);
    }
}

/// `read` of both traits has one name.
trait ReadTokens: TokenStore {
    async fn read_tokens(&self, key: &credbroker::credential::EntryKey) -> Arc<credbroker::store::StoredTokens> {
        TokenStore::read(self, key).await.unwrap().unwrap()
    }
}
impl<S: TokenStore> ReadTokens for S {}

async fn whoever_follows_entries_is_told_of_those_that_changed(store: impl Backend) {
    let (one, two) = (key("github", "one"), key("github", "two"));
    let known = [
        (&one, put(&store, &one, "1").await),
        (&two, put(&store, &two, "1").await),
    ];
    put(&store, &two, "2").await;
    let known = known.map(|(key, stored)| (key.clone(), stored)).to_vec();
    // More may be named, if the store does not know better; none may be missing.
    assert!(TokenStore::changed(&store, known).await.contains(&two));
}

async fn whoever_follows_api_keys_is_told_of_those_that_changed(store: impl Backend) {
    let mut known = Vec::new();
    for of in ["one", "two"].map(name) {
        KeyStore::write(&store, &of, secret("1"), SOON).await.unwrap();
        let read = KeyStore::read(&store, &of).await.unwrap().unwrap();
        known.push((of, read));
    }
    KeyStore::write(&store, &name("two"), secret("2"), SOON).await.unwrap();
    assert!(KeyStore::changed(&store, known).await.contains(&name("two")));
}

async fn fields_that_are_not_there_stay_away(store: impl Backend) {
    let entry = key("github", "");
    let mut bare = tokens("one");
    bare.refresh_token = None;
    bare.expiry = None;
    bare.subject = None;
    bare.extra.clear();
    let mut guard = lock(&store, &entry).await;
    guard.write(bare, OverCorrupt::Refuse).await.unwrap();
    let read = guard.read().await.unwrap().unwrap();
    assert!(read.tokens.refresh_token.is_none() && read.tokens.expiry.is_none());
    assert!(read.tokens.subject.is_none() && read.tokens.extra.is_empty());
}

async fn what_was_removed_is_gone_for_every_reader(store: impl Backend) {
    let entry = key("github", "");
    put(&store, &entry, "one").await;
    assert_eq!(get(&store, &entry).await.unwrap().as_deref(), Some("one"));
    let mut guard = lock(&store, &entry).await;
    assert!(guard.remove().await.unwrap());
    assert_eq!(get(&store, &entry).await.unwrap(), None);
    assert!(guard.read().await.unwrap().is_none());
    assert!(!guard.remove().await.unwrap());
    assert!(TokenStore::list(&store).await.unwrap().is_empty());
}

async fn names_that_differ_only_in_case_are_two(store: impl Backend) {
    put(&store, &key("GitHub", "Me"), "upper").await;
    put(&store, &key("github", "me"), "lower").await;
    assert_eq!(
        get(&store, &key("GitHub", "Me")).await.unwrap().as_deref(),
        Some("upper")
    );
    assert_eq!(
        get(&store, &key("github", "me")).await.unwrap().as_deref(),
        Some("lower")
    );
    assert_eq!(get(&store, &key("github", "Me")).await.unwrap(), None);
}

async fn lists_have_every_name_in_order(store: impl Backend) {
    let mut entries = vec![
        key("b", "x"),
        key("a", "z"),
        key("a", "_"),
        key("a-b", ""),
        key("a", "b"),
        key("B", "x"),
    ];
    for entry in &entries {
        put(&store, entry, "one").await;
    }
    entries.sort();
    assert_eq!(TokenStore::list(&store).await.unwrap(), entries);
    for text in ["k", "Z", "@a"] {
        KeyStore::write(&store, &name(text), secret("v"), SOON).await.unwrap();
    }
    assert_eq!(
        KeyStore::list(&store).await.unwrap(),
        [name("@a"), name("Z"), name("k")]
    );
}

async fn a_key_is_replaced_and_removed(store: impl Backend) {
    let of = name("openai");
    for value in ["one", "two \"\\\n\u{7f}", ""] {
        KeyStore::write(&store, &of, secret(value), SOON).await.unwrap();
        let read = KeyStore::read(&store, &of).await.unwrap().unwrap();
        assert_eq!(read.expose_secret(), value);
    }
    assert!(KeyStore::remove(&store, &of, SOON).await.unwrap());
    assert!(KeyStore::read(&store, &of).await.unwrap().is_none());
    assert!(!KeyStore::remove(&store, &of, SOON).await.unwrap());
}

async fn a_held_lock_makes_others_wait_and_then_answers_busy(store: impl Backend) {
    let entry = key("github", "");
    let guard = lock(&store, &entry).await;
    let began = Instant::now();
    let wait = Duration::from_millis(150);
    let busy = store.lock(&entry, wait).await;
    assert!(matches!(busy.err().unwrap(), StoreError::Busy { .. }));
    assert!(began.elapsed() >= wait);
    assert!(store.lock(&entry, Duration::ZERO).await.is_err());
    drop(guard);
    store.lock(&entry, Duration::ZERO).await.unwrap();
    store.lock(&entry, Duration::MAX).await.unwrap();
}

async fn a_held_lock_holds_up_nobody_elses_entry(store: impl Backend) {
    let _guard = lock(&store, &key("a-b", "default")).await;
    for other in [
        key("a", "b"),
        key("a", "b-default"),
        key("a-b", "Default"),
        key("A-b", ""),
    ] {
        store.lock(&other, Duration::ZERO).await.unwrap();
    }
    KeyStore::write(&store, &name("a-b"), secret("v"), Duration::ZERO)
        .await
        .unwrap();
}

async fn waiters_get_the_lock_one_at_a_time(store: impl Backend) {
    let entry = key("github", "");
    put(&store, &entry, "0").await;
    let add = async |store: &dyn TokenStore| {
        let mut guard = store.lock(&key("github", ""), Duration::from_secs(60)).await.unwrap();
        let read = guard.read().await.unwrap().unwrap();
        let next = access(&read).parse::<u32>().unwrap() + 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
        guard
            .write(tokens(&next.to_string()), OverCorrupt::Refuse)
            .await
            .unwrap();
    };
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { add(&store).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(get(&store, &entry).await.unwrap().as_deref(), Some("20"));
}

async fn a_waiter_that_goes_away_leaves_the_lock_to_the_next(store: impl Backend) {
    let entry = key("github", "");
    let guard = lock(&store, &entry).await;
    let gone = tokio::time::timeout(Duration::from_millis(30), store.lock(&entry, Duration::from_secs(60))).await;
    assert!(gone.is_err());
    let next = tokio::spawn({
        let (store, entry) = (store.clone(), entry.clone());
        async move { store.lock(&entry, SOON).await.is_ok() }
    });
    tokio::task::yield_now().await;
    drop(guard);
    assert!(next.await.unwrap());
}

macro_rules! on_every_backend {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise(credbroker::store::memory::MemoryStore::new()).await;
            })*
        }
        mod file {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let directory = tempfile::tempdir().unwrap();
                super::$promise(crate::support::open(&directory.path().join("store"))).await;
            })*
        }
    };
}

on_every_backend!(
    absent_is_none_and_not_an_error,
    a_token_set_comes_back_whole_and_under_a_new_revision,
    whoever_follows_entries_is_told_of_those_that_changed,
    whoever_follows_api_keys_is_told_of_those_that_changed,
    fields_that_are_not_there_stay_away,
    what_was_removed_is_gone_for_every_reader,
    names_that_differ_only_in_case_are_two,
    lists_have_every_name_in_order,
    a_key_is_replaced_and_removed,
    a_held_lock_makes_others_wait_and_then_answers_busy,
    a_held_lock_holds_up_nobody_elses_entry,
    waiters_get_the_lock_one_at_a_time,
    a_waiter_that_goes_away_leaves_the_lock_to_the_next,
);
