//! A login that meets a logout, an import or a refresh.

use std::time::Duration;

use credbroker::{broker::Caller, oauth::Flow, reason::Reason};
use secrecy::ExposeSecret as _;

use crate::house::{ALL, House, Polled, entry, sandbox, settle};

#[tokio::test(start_paused = true)]
async fn a_logout_during_a_login_wins() {
    // In every state, whether or not there was an entry when the login began.
    for stored in [true, false] {
        for flow in ALL {
            let house = House::new(&ALL);
            if stored {
                house.import("alice").await;
            }
            let box_ = sandbox("box");
            let session = house.begin(&box_, flow).await.session;
            if !stored {
                house.import("alice").await;
            }
            house.logout().await;
            settle().await;
            if flow == Flow::PkceRedirect {
                assert_eq!(house.paste(&box_, &session, "code").await, Err(Reason::ExchangeFailed));
            } else {
                house.desk.redirect(Ok("code")).await;
                settle().await;
                assert_eq!(
                    house.poll(&box_, &session).await,
                    Ok(Polled::Failed(Reason::ExchangeFailed))
                );
            }
            assert!(house.token().await.is_none(), "{stored} {flow:?}");
            assert!(house.desk.exchanged().is_empty());
            assert_eq!(house.desk.listening(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_while_the_code_is_exchanged_wins_and_the_late_token_is_revoked() {
    let house = House::new(&ALL);
    house.import("alice").await;
    let box_ = sandbox("box");
    let (_session, pasting) = house.exchanging(&box_).await;
    house.logout().await;
    house.desk.open();
    assert_eq!(pasting.await.unwrap(), Err(Reason::ExchangeFailed));
    settle().await;
    assert!(house.token().await.is_none());
    assert_eq!(house.desk.revoked(), ["rt-0", "rt-login-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_logout_in_another_process_wins_over_a_login_that_began_before() {
    let house = House::new(&ALL);
    house.import("alice").await;
    let box_ = sandbox("box");
    let (_session, pasting) = house.exchanging(&box_).await;
    let another = house.another();
    another.remove_token(&Caller::host(), &entry()).await.unwrap();
    house.desk.open();
    assert_eq!(pasting.await.unwrap(), Err(Reason::ExchangeFailed));
    assert!(house.token().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_login_after_a_logout_is_a_new_one() {
    let house = House::new(&ALL);
    house.import("alice").await;
    house.logout().await;
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::PkceRedirect).await.session;
    assert!(house.paste(&box_, &session, "code").await.is_ok());
    assert_eq!(house.token().await.as_deref(), Some("at-login-1"));
}

#[tokio::test(start_paused = true)]
async fn a_login_waits_for_a_flight_and_then_replaces_what_it_brought() {
    let house = House::new(&ALL);
    house.import("alice").await;
    let box_ = sandbox("box");
    let session = house.begin_closed(&box_).await;
    let broker = house.broker.clone();
    let flight = tokio::spawn(async move { broker.refresh_token(&Caller::host(), &entry(), None).await.is_ok() });
    settle().await;
    let pasting = house.pasting(&box_, &session, "code");
    settle().await;
    house.desk.open();
    assert!(flight.await.unwrap());
    assert_eq!(pasting.await.unwrap(), Ok(Some(house.token().await.unwrap())));
    assert_eq!(house.stored().await.unwrap().tokens.saved_by, "login by sandbox box");
    assert!(house.desk.revoked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_token_set_that_waits_long_for_the_lock_is_not_lost() {
    let house = House::new(&ALL);
    house.import("alice").await;
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::BrowserRedirect).await.session;
    let guard = house.store.below(&entry()).await;
    house.desk.redirect(Ok("code")).await;
    tokio::time::sleep(Duration::from_secs(80)).await;
    assert_eq!(house.poll(&box_, &session).await, Ok(Polled::Pending(2)));
    drop(guard);
    settle().await;
    assert!(matches!(
        house.poll(&box_, &session).await,
        Ok(Polled::Complete(Some(_)))
    ));
}

/// PollLogin has no word for a lock: what cannot be written is the store's failure.
#[tokio::test(start_paused = true)]
async fn a_lock_that_is_never_free_is_told_as_a_failure_of_the_store() {
    let log = crate::log::Log::of_warnings();
    let house = House::new(&ALL);
    house.import("alice").await;
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::BrowserRedirect).await.session;
    let _guard = house.store.below(&entry()).await;
    house.desk.redirect(Ok("code")).await;
    tokio::time::sleep(Duration::from_secs(101)).await;
    assert_eq!(
        house.poll(&box_, &session).await,
        Ok(Polled::Failed(Reason::StoreUnavailable))
    );
    assert!(house.desk.revoked().is_empty());
    // The answer sends people to the log.
    assert_eq!(log.lines("p/default", "is busy").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_import_during_a_login_keeps_the_account_rule() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::PkceRedirect).await.session;
    house.import("mallory").await;
    assert_eq!(house.paste(&box_, &session, "code").await, Err(Reason::ExchangeFailed));
    assert_eq!(house.token().await.as_deref(), Some("at-0"));
}

/// What went wrong with the token set before says nothing about the new one.
#[tokio::test(start_paused = true)]
async fn a_login_mends_a_dead_entry_at_once() {
    let house = House::new(&ALL);
    house.import("alice").await;
    house.desk.refuses_refreshes(true);
    let box_ = sandbox("box");
    let refresh = || async {
        let token = house.broker.refresh_token(&box_, &entry(), None).await;
        let token = token.map_err(|error| error.reason())?;
        Ok(token.access_token.expose_secret().to_owned())
    };
    assert_eq!(refresh().await, Err(Reason::NeedsLogin));
    house.desk.refuses_refreshes(false);
    let session = house.begin(&box_, Flow::PkceRedirect).await.session;
    assert!(house.paste(&box_, &session, "code").await.is_ok());
    // Without waiting for the cooldown of the failure.
    assert_eq!(refresh().await, Ok("at-login-2".to_owned()));
}
