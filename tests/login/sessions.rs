//! Sessions: whose they are, how many there may be, when they end.

use std::time::Duration;

use credbroker::{
    broker::{Error, login::SessionId},
    oauth::Flow,
    reason::Reason,
};

use crate::{
    desk::Poll,
    house::{ALL, House, Polled, begin, pass, sandbox, settle, with_rights},
};

#[tokio::test(start_paused = true)]
async fn a_login_needs_the_right_to_it_and_a_provider_that_has_the_flow() {
    let house = House::new(&[Flow::DeviceCode]);
    let reader = with_rights("box", &[], &["p"]);
    let refused = begin(&house.broker, &reader, None).await.err().unwrap();
    assert_eq!(refused.reason(), Reason::Unauthorized);
    assert!(refused.to_string().contains("--allow-login"), "{refused}");

    let box_ = with_rights("box", &["*"], &[]);
    let key = credbroker::credential::EntryKey::parse("q", "").unwrap();
    let refused = house.broker.initiate_login(&reader, &key, None).await.err().unwrap();
    assert_eq!(
        refused.reason(),
        Reason::Unauthorized,
        "whether there is a provider or not"
    );
    let unknown = house.broker.initiate_login(&box_, &key, None).await.err().unwrap();
    assert_eq!(unknown.reason(), Reason::ProviderNotFound);

    let other = begin(&house.broker, &box_, Some(Flow::PkceRedirect))
        .await
        .err()
        .unwrap();
    assert_eq!(other.reason(), Reason::InvalidRequest);
    assert!(other.to_string().contains("device_code"), "{other}");
    let usual = begin(&house.broker, &box_, None).await.unwrap();
    assert_eq!(usual.shown.flow(), Flow::DeviceCode);

    let none = House::new(&[]);
    let none = begin(&none.broker, &box_, None).await.err().unwrap();
    assert_eq!(none.reason(), Reason::InvalidRequest);
    assert!(none.to_string().contains("authorization_endpoint"), "{none}");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_cannot_be_asked_leaves_no_session_behind() {
    let house = House::new(&ALL);
    house.desk.unavailable();
    for _ in 0..100 {
        let failed = begin(&house.broker, &sandbox("box"), None).await.err().unwrap();
        assert_eq!(failed.reason(), Reason::ProviderUnavailable);
        assert!(failed.retry_after().is_some());
    }
    assert_eq!(house.broker.open_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_configuration_lacks_is_named() {
    let house = House::new(&ALL);
    house
        .desk
        .lacks("browser_redirect needs authorization_endpoint: set it");
    let failed = begin(&house.broker, &sandbox("box"), None).await.err().unwrap();
    assert_eq!(failed.reason(), Reason::ProviderNotFound);
    assert_eq!(
        failed.to_string(),
        "[providers.p] of the host's config.toml cannot log in this way: browser_redirect needs \
         authorization_endpoint: set it"
    );
    assert_eq!(house.broker.open_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_begins_waits_fifteen_seconds_for_the_provider() {
    let house = House::new(&ALL);
    house.desk.close();
    let began = tokio::time::Instant::now();
    let failed = begin(&house.broker, &sandbox("box"), Some(Flow::PkceRedirect)).await;
    assert_eq!(failed.err().unwrap().reason(), Reason::ProviderUnavailable);
    assert_eq!(began.elapsed().as_secs(), 15);

    // Nor is anything left of one who goes away.
    let broker = house.broker.clone();
    let gone = tokio::spawn(async move { begin(&broker, &sandbox("box"), Some(Flow::PkceRedirect)).await.is_ok() });
    settle().await;
    assert_eq!(house.broker.open_logins(), 1);
    gone.abort();
    settle().await;
    assert_eq!(house.broker.open_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_session_of_another_sandbox_is_one_that_never_was() {
    let house = House::new(&ALL);
    let (one, two) = (sandbox("one"), sandbox("two"));
    let never = SessionId::parse(&"0".repeat(32)).unwrap();
    let said = |error: Result<(), Error>| {
        let error = error.unwrap_err();
        (error.to_string(), error.metadata(), error.retry_after())
    };
    for used in [false, true] {
        let session = house.begin(&one, Flow::PkceRedirect).await.session;
        if used {
            house.paste(&one, &session, "code").await.unwrap();
        }
        for sessions in [&session, &never] {
            assert_eq!(house.poll(&two, sessions).await, Err(Reason::SessionNotFound));
            assert_eq!(house.paste(&two, sessions, "code").await, Err(Reason::SessionNotFound));
            assert_eq!(house.cancel(&two, sessions), Err(Reason::SessionNotFound));
        }
        assert_eq!(
            said(house.broker.cancel_login(&two, &session)),
            said(house.broker.cancel_login(&two, &never))
        );
        if !used {
            assert!(house.paste(&one, &session, "code").await.is_ok(), "it is as it was");
        }
    }
    assert_eq!(house.desk.exchanged().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_has_sixteen_sessions_and_takes_none_from_another() {
    let house = House::new(&ALL);
    let (one, two) = (sandbox("one"), sandbox("two"));
    let mut sessions = Vec::new();
    for _ in 0..16 {
        sessions.push(house.begin(&one, Flow::PkceRedirect).await.session);
    }
    let full = begin(&house.broker, &one, Some(Flow::PkceRedirect))
        .await
        .err()
        .unwrap();
    assert_eq!(full.reason(), Reason::TooManySessions);
    house.begin(&two, Flow::PkceRedirect).await;
    assert_eq!(house.broker.open_logins(), 17);
    house.cancel(&one, &sessions[0]).unwrap();
    house.begin(&one, Flow::PkceRedirect).await;
    // A code that is being exchanged counts.
    house.desk.close();
    let exchanging = house.pasting(&one, &sessions[1], "code");
    settle().await;
    let full = begin(&house.broker, &one, Some(Flow::DeviceCode)).await.err().unwrap();
    assert_eq!(full.reason(), Reason::TooManySessions);
    house.desk.open();
    assert!(exchanging.await.unwrap().is_ok());
    house.begin(&one, Flow::DeviceCode).await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_sessions_are_remembered_and_more_are_bounded() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let first = house.begin(&box_, Flow::PkceRedirect).await.session;
    let mut last = first.clone();
    house.cancel(&box_, &first).unwrap();
    for count in 0..20_000 {
        if count == 10_000 {
            assert_eq!(house.cancel(&box_, &first), Err(Reason::SessionAlreadyUsed));
        }
        last = house.begin(&box_, Flow::PkceRedirect).await.session;
        house.cancel(&box_, &last).unwrap();
    }
    assert_eq!(house.broker.open_logins(), 0);
    assert_eq!(house.cancel(&box_, &last), Err(Reason::SessionAlreadyUsed));
    assert_eq!(
        house.cancel(&box_, &first),
        Err(Reason::SessionNotFound),
        "what is remembered is bounded"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_lasts_ten_minutes_and_its_end_is_remembered_for_ten_more() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    for (flow, suspended) in [
        (Flow::PkceRedirect, false),
        (Flow::BrowserRedirect, false),
        (Flow::BrowserRedirect, true),
    ] {
        let session = house.begin(&box_, flow).await.session;
        pass(590).await;
        assert_eq!(house.broker.open_logins(), 1);
        // A suspend counts.
        if suspended {
            house.clock.suspend(Duration::from_secs(11));
        } else {
            pass(11).await;
        }
        assert_eq!(house.poll(&box_, &session).await, Err(Reason::SessionExpired));
        assert_eq!(house.paste(&box_, &session, "code").await, Err(Reason::SessionExpired));
        assert_eq!(house.cancel(&box_, &session), Err(Reason::SessionExpired));
        settle().await;
        assert_eq!(house.desk.listening(), 0);
        pass(590).await;
        assert_eq!(house.poll(&box_, &session).await, Err(Reason::SessionExpired));
        pass(15).await;
        assert_eq!(house.poll(&box_, &session).await, Err(Reason::SessionNotFound));
    }
    assert!(house.desk.exchanged().is_empty());
}

#[tokio::test(start_paused = true)]
async fn abandoned_sessions_are_swept_within_a_minute_without_being_asked_for() {
    let house = House::new(&ALL);
    house.begin(&sandbox("box"), Flow::BrowserRedirect).await;
    house.begin(&sandbox("box"), Flow::DeviceCode).await;
    pass(661).await;
    assert_eq!(house.broker.open_logins(), 0);
    assert_eq!(house.desk.listening(), 0);
    let asked = house.desk.asked().len();
    pass(60).await;
    assert_eq!(house.desk.asked().len(), asked);
    // Nobody listens for longer than the user has, whenever the next sweep is.
    house.begin(&sandbox("box"), Flow::PkceRedirect).await;
    pass(30).await;
    house.begin(&sandbox("box"), Flow::BrowserRedirect).await;
    pass(601).await;
    assert_eq!(house.desk.listening(), 0);
    // And the sweeper goes to work again for the next one.
    pass(3600).await;
    house.begin(&sandbox("box"), Flow::BrowserRedirect).await;
    pass(661).await;
    assert_eq!(house.desk.listening(), 0);
}

/// Between the end of its time and the next sweep a session is as dead as after it.
#[tokio::test(start_paused = true)]
async fn who_answers_after_the_time_is_over_changes_nothing() {
    for flow in [Flow::BrowserRedirect, Flow::DeviceCode] {
        let house = House::new(&ALL);
        let box_ = sandbox("box");
        // It has the sweeps come at full minutes.
        let first = house.begin(&box_, Flow::PkceRedirect).await.session;
        house.cancel(&box_, &first).unwrap();
        pass(3).await;
        let session = house.begin(&box_, flow).await.session;
        pass(598).await;
        house.desk.polls([Poll::Agreed("alice")]);
        let asked = house.desk.asked().len();
        pass(3).await;
        house.desk.redirect(Ok("code")).await;
        pass(10).await;
        assert!(house.token().await.is_none(), "{flow:?}");
        assert_eq!(house.desk.asked().len(), asked, "{flow:?}");
        assert!(house.desk.exchanged().is_empty(), "{flow:?}");
        assert_eq!(house.poll(&box_, &session).await, Err(Reason::SessionExpired));
    }
}

/// The session was used up in time; what is on the wire then goes on.
#[tokio::test(start_paused = true)]
async fn a_code_that_came_in_time_is_exchanged_to_the_end() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let session = house.begin_closed(&box_).await;
    pass(595).await;
    let pasting = house.pasting(&box_, &session, "code");
    pass(10).await;
    assert_eq!(
        house.paste(&box_, &session, "code").await,
        Err(Reason::SessionAlreadyUsed)
    );
    house.desk.open();
    assert_eq!(pasting.await.unwrap(), Ok(Some("at-login-1".to_owned())));
    assert!(house.desk.revoked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_login_changes_nothing_in_any_state() {
    // Waiting for a paste, a browser, a device.
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    for flow in ALL {
        let session = house.begin(&box_, flow).await.session;
        assert_eq!(house.cancel(&box_, &session), Ok(()));
        settle().await;
        assert_eq!(house.cancel(&box_, &session), Err(Reason::SessionAlreadyUsed));
        assert_eq!(house.poll(&box_, &session).await, Err(Reason::SessionAlreadyUsed));
        assert_eq!(
            house.paste(&box_, &session, "code").await,
            Err(Reason::SessionAlreadyUsed)
        );
        assert_eq!(house.desk.listening(), 0);
    }
    pass(60).await;
    assert!(house.desk.asked().is_empty() && house.desk.exchanged().is_empty());

    // While a code is exchanged, and while the provider is asked: what comes is revoked.
    let (session, pasting) = house.exchanging(&box_).await;
    assert_eq!(house.cancel(&box_, &session), Ok(()));
    house.desk.open();
    assert_eq!(pasting.await.unwrap(), Err(Reason::ExchangeFailed));

    house.desk.polls([Poll::Agreed("alice")]);
    let session = house.begin(&box_, Flow::DeviceCode).await.session;
    house.desk.close();
    pass(6).await;
    assert_eq!(house.cancel(&box_, &session), Ok(()));
    house.desk.open();
    settle().await;
    assert!(house.token().await.is_none());
    assert_eq!(house.desk.revoked(), ["rt-login-1", "rt-login-2"]);

    // Failed, and nobody has asked yet.
    house
        .desk
        .polls([Poll::Ended(credbroker::oauth::login::LoginTrouble::Denied)]);
    let session = house.begin(&box_, Flow::DeviceCode).await.session;
    pass(6).await;
    assert_eq!(house.cancel(&box_, &session), Ok(()));

    // Complete: too late, and the result is still there.
    house.desk.polls([Poll::Agreed("alice")]);
    let session = house.begin(&box_, Flow::DeviceCode).await.session;
    pass(6).await;
    assert_eq!(house.cancel(&box_, &session), Err(Reason::SessionAlreadyUsed));
    assert!(matches!(
        house.poll(&box_, &session).await,
        Ok(Polled::Complete(Some(_)))
    ));
}

#[tokio::test(start_paused = true)]
async fn two_logins_to_one_entry_go_side_by_side_and_the_last_one_counts() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let first = house.begin(&box_, Flow::PkceRedirect).await.session;
    let second = house.begin(&box_, Flow::PkceRedirect).await.session;
    assert_ne!(first, second);
    assert!(house.paste(&box_, &second, "two").await.is_ok());
    assert!(house.paste(&box_, &first, "one").await.is_ok());
    assert_eq!(house.token().await.as_deref(), Some("at-login-2"));
}

#[test]
fn a_session_shows_eight_characters_of_its_name() {
    let id = SessionId::parse("0123456789abcdef0123456789abcdef").unwrap();
    assert_eq!(id.shown(), "01234567");
    assert_eq!(format!("{id:?}"), "01234567...");
    for bad in [
        "",
        "0",
        "0123456789ABCDEF0123456789abcdef",
        &"0".repeat(33),
        "0123456789abcdef0123456789abcde\n",
    ] {
        assert!(SessionId::parse(bad).is_none(), "{bad:?}");
    }
}
