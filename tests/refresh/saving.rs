//! A token set that could not be saved after the provider had rotated.

use credbroker::{broker::coordinator::Asker, reason::Reason};

use crate::{
    authority::{Step, entry},
    fake::{Change, Fault},
    house::{Got, House, failed, get, import, logout, pass, refresh, save, settle, timed, token},
    log::Log,
};

/// A house whose newest token set, `at-1` and `rt-1`, lives in memory only.
async fn unsaved(lifetime: u64) -> House {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(lifetime)]);
    house.store.fail_only(Change::Record, Fault::Unavailable);
    assert_eq!(house.get().await, token("at-1"));
    house
}

fn failed_saves(house: &House) -> usize {
    let changed = house.store.changed();
    changed
        .iter()
        .filter(|(kind, well)| *kind == Change::Record && !well)
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_token_set_that_could_not_be_saved_is_served_from_memory_and_the_spent_one_never_presented_again() {
    let house = unsaved(3600).await;
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-0");
    for _ in 0..20 {
        assert_eq!(house.get().await, token("at-1"));
        // Neither by force, in the cooldown or after it.
        assert!(matches!(
            house.refresh().await,
            Err((Reason::StoreUnavailable, _)) | Ok(_)
        ));
        pass(10).await;
    }
    assert_eq!(house.authority.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_saved_is_saved_when_the_store_is_back_and_renewed_from_there() {
    let house = unsaved(3600).await;
    pass(100).await;
    house.store.fail_changes(None);
    pass(31).await;
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
    assert!(!house.marked().await);
    assert_eq!(house.refresh().await, token("at-2"));
    assert_eq!(house.authority.presented(), ["rt-0", "rt-1"]);
}

#[tokio::test(start_paused = true)]
async fn the_save_is_tried_again_with_growing_pauses_and_not_in_a_loop() {
    let house = unsaved(3600).await;
    let mut tries = vec![failed_saves(&house)];
    for seconds in [2, 4, 8, 16, 300] {
        pass(seconds).await;
        tries.push(failed_saves(&house));
    }
    assert_eq!(tries[..5], [1, 2, 3, 4, 5]);
    assert!((13..=17).contains(&tries[5]), "{tries:?}");
}

#[tokio::test(start_paused = true)]
async fn health_is_down_while_a_token_set_is_not_saved_and_up_again_when_it_is() {
    let house = House::expired().await;
    house.broker.check().await.unwrap();
    house.store.fail_only(Change::Record, Fault::Unavailable);
    house.get().await.unwrap();
    let error = house.broker.check().await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable);
    house.store.fail_changes(None);
    pass(31).await;
    house.broker.check().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unsaved_token_that_expires_is_not_served_and_not_renewed() {
    let house = unsaved(100).await;
    pass(99).await;
    assert_eq!(house.get().await, token("at-1"));
    pass(1).await;
    assert_eq!(house.get().await, failed(Reason::StoreUnavailable));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn other_brokers_are_kept_out_while_a_token_set_is_not_saved() {
    let house = unsaved(3600).await;
    let other = house.another();
    let (got, seconds) = timed(get(&other, "")).await;
    assert_eq!((got, seconds), (failed(Reason::LockTimeout), 10));
    assert_eq!(timed(save(&other, "at-x")).await, (Err(Reason::LockTimeout), 10));
    assert_eq!(timed(logout(&other)).await, (Err(Reason::LockTimeout), 10));
    assert_eq!(house.authority.times(), 1);
    house.store.fail_changes(None);
    pass(31).await;
    // Saved: the other broker finds it and asks nobody.
    assert_eq!(get(&other, "").await, token("at-1"));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_logout_ends_the_unsaved_token_set_and_revokes_the_new_refresh_token() {
    let house = unsaved(3600).await;
    let (removed, seconds) = timed(house.logout()).await;
    assert!(removed.is_ok() && seconds == 0, "{removed:?} after {seconds} s");
    assert_eq!(house.get().await, failed(Reason::NotFound));
    assert_eq!(house.authority.revocations()[0].0, "rt-1");
    house.store.fail_changes(None);
    pass(60).await;
    assert!(house.stored().await.is_none(), "it came back");
    house.broker.check().await.unwrap();
    // The lock is free at once.
    assert_eq!(
        timed(import(&house.another(), entry(""), house.tokens("rt-9", 100))).await,
        (Ok(()), 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_too_leaves_the_unsaved_token_set_as_it_is() {
    let house = unsaved(3600).await;
    house.store.fail_changes(Fault::Unavailable);
    assert_eq!(house.save("at-saved").await, Err(Reason::StoreUnavailable));
    let imported = import(&house.broker, entry(""), house.tokens("rt-new", 1000)).await;
    assert_eq!(imported, Err(Reason::StoreUnavailable));
    assert_eq!(house.logout().await, Err(Reason::StoreUnavailable), "reported as done");
    assert_eq!(house.get().await, token("at-1"));
    house.store.fail_changes(None);
    pass(31).await;
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
}

#[tokio::test(start_paused = true)]
async fn shutdown_tries_once_more_to_save() {
    let house = unsaved(3600).await;
    pass(100).await;
    house.store.fail_changes(None);
    let ((), seconds) = timed(house.broker.shutdown()).await;
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
    assert_eq!(seconds, 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_a_store_that_hangs_longer_than_five_seconds() {
    let house = unsaved(3600).await;
    house.store.hold_changes();
    let ((), seconds) = timed(house.broker.shutdown()).await;
    assert_eq!(seconds, 5);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_could_not_be_saved_is_remembered_and_the_dead_token_not_presented() {
    let house = House::expired().await;
    house.authority.then([Step::Refuse]);
    house.store.fail_only(Change::Record, Fault::Unavailable);
    assert_eq!(house.get().await, failed(Reason::NeedsLogin));
    pass(200).await;
    assert_eq!(house.get().await, failed(Reason::NeedsLogin));
    house.broker.check().await.unwrap_err();
    house.store.fail_changes(None);
    pass(31).await;
    assert_eq!(house.stored_refresh_token().await, None);
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_read_the_entry_before_the_save_failed_gets_the_unsaved_token() {
    let house = House::expired().await;
    let (coordinator, saw) = (house.coordinator(), house.revision().await);
    house.store.fail_only(Change::Record, Fault::Unavailable);
    coordinator.refresh(&entry(""), &saw, Asker::Caller).await.unwrap();
    pass(100).await;
    for asker in [Asker::Caller, Asker::Renewal] {
        let got = coordinator.refresh(&entry(""), &saw, asker).await.unwrap();
        assert_ne!(got.revision, saw);
    }
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_by_an_old_revision_gets_the_unsaved_token() {
    let house = House::expired().await;
    let before = house.revision().await;
    house.store.fail_only(Change::Record, Fault::Unavailable);
    house.get().await.unwrap();
    pass(100).await;
    let got: Got = refresh(&house.broker, Some(&before)).await;
    assert_eq!(got, token("at-1"));
}

/// The lock is free again at once, and what is stored is what was asked for.
async fn is_free(house: &House, want: &str) {
    house.store.fail_changes(None);
    let other = house.another();
    assert_eq!(timed(save(&other, "at-other")).await, (Ok(()), 0));
    assert_eq!(house.stored_refresh_token().await.as_deref(), Some(want));
    pass(60).await;
    assert_eq!(house.get().await, token("at-other"), "the unsaved set came back");
    house.broker.check().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_save_of_a_sandbox_replaces_the_unsaved_access_token_and_keeps_the_new_refresh_token() {
    let house = unsaved(3600).await;
    house.store.fail_changes(None);
    assert_eq!(timed(house.save("at-saved")).await, (Ok(()), 0));
    assert_eq!(house.get().await, token("at-saved"));
    is_free(&house, "rt-1").await;
}

#[tokio::test(start_paused = true)]
async fn an_import_replaces_the_unsaved_token_set() {
    let house = unsaved(3600).await;
    house.store.fail_changes(None);
    let imported = import(&house.broker, entry(""), house.tokens("rt-imported", 1000));
    assert_eq!(timed(imported).await, (Ok(()), 0));
    assert_eq!(house.get().await, token("at-0"));
    is_free(&house, "rt-imported").await;
}

#[tokio::test(start_paused = true)]
async fn the_lock_is_free_at_once_when_an_unsaved_token_set_was_replaced() {
    let house = unsaved(3600).await;
    // Late in a long pause between two attempts.
    pass(100).await;
    house.store.fail_changes(None);
    house.save("at-saved").await.unwrap();
    assert_eq!(timed(save(&house.another(), "at-other")).await, (Ok(()), 0));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_waits_for_a_flight_goes_on_under_the_lock_that_its_unsaved_token_set_keeps() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    let broker = house.broker.clone();
    let saving = tokio::spawn(async move { timed(save(&broker, "at-saved")).await });
    settle().await;
    house.store.fail_only(Change::Record, Fault::Unavailable);
    house.authority.let_go();
    assert_eq!(getting.await.unwrap(), token("at-1"));
    settle().await;
    // It was tried under the held lock, and the store did not take it either.
    assert_eq!(saving.await.unwrap(), (Err(Reason::StoreUnavailable), 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_sees_the_new_token_before_it_is_saved() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let waits = house.getting();
    house.authority.asked(1).await;
    house.store.hold_changes();
    house.authority.let_go();
    settle().await;
    assert!(!waits.is_finished());
    assert!(house.marked().await, "the old one is what is stored");
    let comes = house.getting();
    settle().await;
    assert!(!comes.is_finished());
    house.store.let_changes_go();
    assert_eq!(waits.await.unwrap(), token("at-1"));
    assert_eq!(comes.await.unwrap(), token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn a_save_that_panics_does_not_lose_the_new_token_set() {
    let house = House::expired().await;
    house.store.fail_only(Change::Record, Fault::Panic);
    assert_eq!(house.get().await, token("at-1"));
    // So does every further one, until the store is well again.
    pass(200).await;
    assert_eq!(house.get().await, token("at-1"));
    assert_eq!(house.authority.presented(), ["rt-0"]);
    house.store.fail_changes(None);
    pass(31).await;
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
}

#[tokio::test(start_paused = true)]
async fn a_logout_during_the_save_wins() {
    for fails in [false, true] {
        let house = House::expired().await;
        house.authority.then([Step::Rotate(3600).held()]);
        let waits = house.getting();
        house.authority.asked(1).await;
        house.store.hold_changes();
        house.authority.let_go();
        settle().await;
        let logout = house.logging_out();
        settle().await;
        assert!(!logout.is_finished());
        if fails {
            house.store.fail_only(Change::Record, Fault::Unavailable);
        }
        house.store.let_changes_go();
        logout.await.unwrap().unwrap();
        drop(waits.await.unwrap());
        pass(100).await;
        assert!(house.stored().await.is_none(), "it came back");
        assert_eq!(house.get().await, failed(Reason::NotFound));
        assert!(house.broker.check().await.is_ok());
        // The new refresh token is the one that is revoked.
        let revoked: Vec<_> = house
            .authority
            .revocations()
            .into_iter()
            .map(|(token, _)| token)
            .collect();
        assert_eq!(revoked, ["rt-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_save_and_an_interrupted_refresh_are_said_aloud() {
    let log = Log::of_warnings();
    let house = House::empty();
    for bucket in ["said-unsaved", "said-lost"] {
        house.import(bucket, &format!("rt-{bucket}"), 0).await;
    }
    house.store.fail_only(Change::Record, Fault::Unavailable);
    get(&house.broker, "said-unsaved").await.unwrap();
    let lines = log.lines("p/said-unsaved", "could not be saved");
    assert!(
        lines.len() == 1 && lines[0].contains("ERROR") && lines[0].contains("lost if the broker is killed"),
        "{lines:?}"
    );
    house.store.fail_changes(None);

    house.authority.otherwise(|| Step::Lost);
    get(&house.broker, "said-lost").await.unwrap_err();
    assert_eq!(log.lines("p/said-lost", "may or may not have processed").len(), 2);
    let other = house.another();
    for (wait, words) in [(0, "not presented again before"), (90, "shows now")] {
        pass(wait).await;
        get(&other, "said-lost").await.unwrap_err();
        let lines = log.lines("p/said-lost", words);
        assert!(
            lines.len() == 1 && lines[0].contains("WARN") && lines[0].contains("was interrupted"),
            "{lines:?}"
        );
    }
}
