//! Brokers over one store of files, as several processes have it.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use credbroker::{
    broker::{Broker, Caller, Parts},
    reason::Reason,
    store::{
        HolderState, TokenStore as _,
        file::{FileStore, FileStoreConfig, IdentitySource},
    },
};
use tempfile::TempDir;

use crate::{
    authority::{Step, entry},
    clock::PausedClock,
    house::{House, failed, get, getting, import, logout, pass, timed, token},
};

fn store(dir: &TempDir) -> FileStore {
    FileStore::open(FileStoreConfig {
        path: dir.path().join("store"),
        identity: IdentitySource::Default,
        allow_network_fs: true,
    })
    .unwrap()
}

/// A broker over files whose provider is that of the house.
fn broker(house: &House, clock: &Arc<PausedClock>, store: FileStore) -> Broker {
    Broker::new(Parts {
        tokens: Arc::new(store.clone()),
        keys: Arc::new(store),
        clock: Arc::clone(clock) as _,
        providers: BTreeMap::from([("p".parse().unwrap(), Arc::clone(&house.authority) as _)]),
        renewals: credbroker::broker::Renewals::OnUse,
        logins: credbroker::broker::login::LoginParts::default(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_lock_timeout_names_the_process_that_holds_the_entry_and_what_for() {
    let (dir, house) = (TempDir::new().unwrap(), House::empty());
    let (one, two) = (store(&dir), store(&dir));
    let other = broker(&house, &house.clock, two);
    let tokens = house.tokens("rt-0", 0);
    other.import(&entry(""), tokens).await.unwrap();
    let guard = one.lock(&entry(""), Duration::ZERO).await.unwrap();
    for state in [HolderState::Refreshing, HolderState::Unsaved] {
        guard.note(state);
        let want = format!("(pid {}, {})", std::process::id(), state.as_str());
        let (caller, key) = (Caller::host(), entry(""));
        let (got, saved) = tokio::join!(
            other.token(&caller, &key, Duration::ZERO),
            other.import(&key, house.tokens("rt-1", 0)),
        );
        for error in [got.unwrap_err(), saved.map(drop).unwrap_err()] {
            assert_eq!(error.reason(), Reason::LockTimeout);
            assert!(error.to_string().contains(&want), "{error}");
        }
    }
    assert_eq!(house.authority.times(), 0);
}

#[tokio::test(start_paused = true)]
async fn other_processes_are_told_who_has_a_token_set_that_is_not_saved() {
    let (dir, house) = (TempDir::new().unwrap(), House::empty());
    let (one, two) = (store(&dir), store(&dir));
    house.authority.serves(Arc::new(store(&dir)));
    let (ours, other) = (broker(&house, &house.clock, one), broker(&house, &house.clock, two));
    import(&ours, entry(""), house.tokens("rt-0", 0)).await.unwrap();
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = getting(&ours, "");
    house.authority.asked(1).await;
    // The disk goes away under the exchange.
    let (tokens, away) = (dir.path().join("store/tokens"), dir.path().join("store/away"));
    fs::rename(&tokens, &away).unwrap();
    fs::write(&tokens, "in the way").unwrap();
    house.authority.let_go();
    assert_eq!(waiter.await.unwrap(), token("at-1"));
    ours.check().await.unwrap_err();
    let want = format!("(pid {}, unsaved)", std::process::id());
    let error = other.import(&entry(""), house.tokens("rt-9", 0)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::LockTimeout);
    assert!(error.to_string().contains(&want), "{error}");
    // It is back, in the middle of a long pause before the next attempt.
    pass(52).await;
    fs::remove_file(&tokens).unwrap();
    fs::rename(&away, &tokens).unwrap();
    let error = other
        .token(&Caller::host(), &entry(""), Duration::ZERO)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::LockTimeout);
    assert!(error.to_string().contains(&want), "{error}");
    assert_eq!(timed(logout(&other)).await, (Err(Reason::LockTimeout), 10));
    pass(30).await;
    ours.check().await.unwrap();
    assert_eq!(get(&other, "").await, token("at-1"));
    assert_eq!(house.authority.presented(), ["rt-0"]);
    logout(&other).await.unwrap();
    assert_eq!(get(&ours, "").await, failed(Reason::NotFound));
}
