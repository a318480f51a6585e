//! A logout wins, and what else changes an entry is never lost.

use credbroker::{
    broker::{
        Revocation,
        coordinator::{Asker, RefreshError},
    },
    oauth::{Revoked, Seen, TokenKind},
    reason::Reason,
};

use crate::{
    authority::{Step, answer, entry},
    fake::Fault,
    house::{House, ended, failed, import, logout, pass, save, settle, timed, token},
};

#[tokio::test(start_paused = true)]
async fn a_logout_does_not_wait_for_an_exchange_and_what_comes_of_it_is_discarded_and_revoked() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    pass(3).await;
    assert_eq!(timed(house.logout()).await, (Ok(Revocation::Done), 0));
    assert!(house.stored().await.is_none());
    assert_eq!(house.get().await, failed(Reason::NotFound));
    house.authority.let_go();
    assert_eq!(waiter.await.unwrap(), failed(Reason::NotFound));
    house.authority.revoked(2).await;
    let want = [
        ("rt-0".to_owned(), TokenKind::Refresh),
        ("rt-1".to_owned(), TokenKind::Refresh),
    ];
    assert_eq!(house.authority.revocations(), want);
    pass(100).await;
    assert!(house.stored().await.is_none(), "the refresh wrote it back");
    assert_eq!(house.get().await, failed(Reason::NotFound));
    // And the name is free.
    house.import("", "rt-9", 1000).await;
    assert_eq!(house.refresh().await, token("at-2"));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_without_a_refresh_token_has_its_access_token_revoked() {
    let house = House::expired().await;
    house
        .authority
        .then([Step::Answer(answer("at-late", None, Some(10))).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    house.logout().await.unwrap();
    house.authority.let_go();
    house.authority.revoked(2).await;
    assert_eq!(
        house.authority.revocations()[1],
        ("at-late".to_owned(), TokenKind::Access)
    );
    drop(waiter.await);
}

#[tokio::test(start_paused = true)]
async fn waiters_of_a_hung_exchange_learn_of_the_logout_when_they_stop_waiting() {
    let house = House::with(100).await;
    pass(97).await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    house.logout().await.unwrap();
    // Not the old token, although it has not expired.
    assert_eq!(waiter.await.unwrap(), failed(Reason::NotFound));
    house.authority.let_go();
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_logout_in_a_pause_between_two_presentations_ends_the_flight() {
    let house = House::expired().await;
    house.authority.then([Step::Busy(None)]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    settle().await;
    assert_eq!(timed(house.logout()).await, (Ok(Revocation::Done), 0));
    assert_eq!(waiter.await.unwrap(), failed(Reason::NotFound));
    pass(100).await;
    assert_eq!(house.authority.times(), 1);
    assert!(house.stored().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_logout_while_the_flight_waits_for_a_permit_ends_it_before_anything_is_presented() {
    let house = House::expired().await;
    house.authority.otherwise(|| Step::Rotate(3600).held());
    let mut busy = Vec::new();
    for n in 0..8 {
        let bucket = format!("b{n}");
        house.import(&bucket, &format!("rt-{bucket}"), 0).await;
        busy.push(crate::house::getting(&house.broker, &bucket));
    }
    house.authority.asked(8).await;
    let waiter = house.getting();
    settle().await;
    assert_eq!(timed(house.logout()).await, (Ok(Revocation::Done), 0));
    for _ in 0..8 {
        house.authority.let_go();
    }
    assert_eq!(waiter.await.unwrap(), failed(Reason::NotFound));
    assert!(!house.authority.presented().contains(&"rt-0".to_owned()));
    assert!(house.stored().await.is_none());
    for one in busy {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_says_what_became_of_the_token_at_the_provider() {
    let failed = Revoked::Failed(Seen("no".into()));
    let table = [
        (Revoked::Done, Revocation::Done),
        (Revoked::NotSupported, Revocation::NotSupported),
        (failed, Revocation::Failed),
    ];
    for (revoked, want) in table {
        let house = House::with(100).await;
        house.authority.revokes(revoked);
        assert_eq!(house.logout().await, Ok(want));
    }
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_takes_long_goes_on_and_the_logout_says_so_after_five_seconds() {
    let house = House::with(100).await;
    house.authority.hold_revocations();
    let logout = house.logging_out();
    house.authority.revoked(1).await;
    assert!(
        house.stored().await.is_none(),
        "the entry is gone before the provider is asked"
    );
    let (got, seconds) = timed(logout).await;
    assert_eq!((got.unwrap(), seconds), (Ok(Revocation::Pending), 5));
    house.authority.let_revocations_go();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_does_not_abort_the_revocation() {
    let house = House::with(100).await;
    house.authority.hold_revocations();
    let logout = house.logging_out();
    house.authority.revoked(1).await;
    logout.abort();
    house.authority.let_revocations_go();
    settle().await;
    assert!(house.stored().await.is_none());
    house.broker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_panics_is_told_as_failed() {
    let house = House::with(100).await;
    house.authority.panics_when_it_revokes();
    assert_eq!(house.logout().await, Ok(Revocation::Failed));
    assert!(house.stored().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_entry_without_a_refresh_token_has_its_access_token_revoked() {
    let house = House::empty();
    house.import("", "", 100).await;
    assert_eq!(house.logout().await, Ok(Revocation::Done));
    assert_eq!(house.authority.revocations(), [("at-0".to_owned(), TokenKind::Access)]);
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_failed_is_not_reported_as_done_and_nothing_is_revoked() {
    let house = House::with(100).await;
    house.store.fail_changes(Fault::Unavailable);
    assert_eq!(house.logout().await, Err(Reason::StoreUnavailable));
    assert!(house.authority.revocations().is_empty());
    house.store.fail_changes(None);
    assert_eq!(house.get().await, token("at-0"));
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_failed_under_a_flight_does_not_lose_the_answer() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    house.store.fail_changes(Fault::Unavailable);
    assert_eq!(house.logout().await, Err(Reason::StoreUnavailable));
    house.store.fail_changes(None);
    house.authority.let_go();
    assert_eq!(waiter.await.unwrap(), token("at-1"));
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
}

#[tokio::test(start_paused = true)]
async fn a_logout_of_another_broker_waits_for_the_lock() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    let other = house.another();
    assert_eq!(timed(logout(&other)).await, (Err(Reason::LockTimeout), 10));
    let logging_out = tokio::spawn(async move { logout(&other).await });
    settle().await;
    house.authority.let_go();
    waiter.await.unwrap().unwrap();
    assert_eq!(logging_out.await.unwrap(), Ok(Revocation::Done));
    assert_eq!(house.authority.revocations()[0].0, "rt-1");
    assert_eq!(house.get().await, failed(Reason::NotFound));
}

#[tokio::test(start_paused = true)]
async fn a_second_logout_finds_nothing() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    let (one, two) = (house.logging_out(), house.logging_out());
    let mut got = [one.await.unwrap(), two.await.unwrap()];
    got.sort_by_key(|got| got.is_err());
    assert_eq!(got, [Ok(Revocation::Done), Err(Reason::NotFound)]);
    house.authority.let_go();
    drop(waiter.await);
}

#[tokio::test(start_paused = true)]
async fn a_change_during_an_exchange_is_done_after_it_and_not_lost() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    let broker = house.broker.clone();
    let saving = tokio::spawn(async move { timed(save(&broker, "at-saved")).await });
    pass(9).await;
    house.authority.let_go();
    assert_eq!(saving.await.unwrap(), (Ok(()), 9));
    assert_eq!(waiter.await.unwrap(), token("at-1"));
    assert_eq!(house.get().await, token("at-saved"));
    assert_eq!(
        house.stored_refresh_token().await.unwrap(),
        "rt-1",
        "the merge was with what was before"
    );
}

#[tokio::test(start_paused = true)]
async fn an_import_during_an_exchange_is_what_is_there_in_the_end() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    let (broker, tokens) = (house.broker.clone(), house.tokens("rt-imported", 1000));
    let importing = tokio::spawn(async move { import(&broker, entry(""), tokens).await });
    pass(5).await;
    house.authority.let_go();
    importing.await.unwrap().unwrap();
    drop(waiter.await);
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-imported");
    assert_eq!(house.get().await, token("at-0"));
}

#[tokio::test(start_paused = true)]
async fn changes_during_an_exchange_that_lasts_are_told_that_the_entry_is_busy() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    let tokens = house.tokens("rt-imported", 1000);
    let saving = house.save("at-saved");
    let importing = import(&house.broker, entry(""), tokens);
    let ((saved, imported), seconds) = timed(async { tokio::join!(saving, importing) }).await;
    assert_eq!(
        (saved, imported, seconds),
        (Err(Reason::LockTimeout), Err(Reason::LockTimeout), 10)
    );
    house.authority.let_go();
    assert_eq!(waiter.await.unwrap(), token("at-1"));
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
}

#[tokio::test(start_paused = true)]
async fn an_import_after_a_logout_under_a_flight_is_not_discarded_with_the_late_answer() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    house.authority.asked(1).await;
    house.logout().await.unwrap();
    let (broker, tokens) = (house.broker.clone(), house.tokens("rt-new", 1000));
    let importing = tokio::spawn(async move { import(&broker, entry(""), tokens).await });
    settle().await;
    house.authority.let_go();
    importing.await.unwrap().unwrap();
    drop(waiter.await);
    pass(10).await;
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-new");
    assert_eq!(
        house.refresh().await,
        token("at-2"),
        "the new entry has no cooldown of the old one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_renewal_of_an_entry_that_is_gone_says_so() {
    let house = House::with(100).await;
    let saw = house.revision().await;
    house.logout().await.unwrap();
    let got = house.coordinator().refresh(&entry(""), &saw, Asker::Renewal).await;
    assert!(matches!(got, Err(RefreshError::NoEntry)), "{got:?}");
    assert_eq!(house.authority.times(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_logout_while_the_flight_waits_for_the_lock_does_not_wait_for_its_exchange() {
    let house = House::expired().await;
    let lock = house.store.below(&entry("")).await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waiter = house.getting();
    settle().await;
    // Behind the flight in the queue for the lock.
    let logout = house.logging_out();
    settle().await;
    drop(lock);
    assert_eq!(ended(logout).await.1, 0);
    assert!(house.stored().await.is_none());
    house.authority.let_go();
    assert_eq!(waiter.await.unwrap(), failed(Reason::NotFound));
    pass(100).await;
    assert!(house.stored().await.is_none());
}
