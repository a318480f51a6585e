//! The flow whose user pastes a code.

use std::time::Duration;

use credbroker::{
    broker::{Caller, page::PageRequest},
    oauth::{Flow, Seen, login::LoginTrouble},
    reason::Reason,
};

use crate::{
    desk::STATE,
    house::{ALL, House, Polled, auth_url, pass, sandbox, settle, with_rights},
};

#[tokio::test(start_paused = true)]
async fn a_pasted_code_becomes_a_stored_entry() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let begun = house.begin(&box_, Flow::PkceRedirect).await;
    assert_eq!(begun.shown.flow(), Flow::PkceRedirect);
    assert!(auth_url(&begun).starts_with("https://as.example/authorize"));
    assert_eq!(begun.session.expose().len(), 32);
    let token = house.paste(&box_, &begun.session, "code").await;
    assert_eq!(token, Ok(Some("at-login-1".to_owned())));
    let stored = house.stored().await.unwrap();
    assert_eq!(stored.tokens.subject.as_deref(), Some("alice"));
    assert_eq!(stored.tokens.saved_by, "login by sandbox box");
    assert!(stored.tokens.refresh_token.is_some());
    // Once is enough.
    assert_eq!(
        house.paste(&box_, &begun.session, "code").await,
        Err(Reason::SessionAlreadyUsed)
    );
    assert_eq!(house.desk.exchanged(), ["code"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_names_no_lifetime_gets_the_one_of_its_provider() {
    let house = House::new(&ALL);
    house.desk.tells_no_lifetime();
    let box_ = sandbox("box");
    let begun = house.begin(&box_, Flow::PkceRedirect).await;
    house.paste(&box_, &begun.session, "code").await.unwrap();
    let tokens = house.stored().await.unwrap().tokens.clone();
    assert_eq!(tokens.expiry.unwrap().lifetime, Duration::from_secs(1800));
    // And was not renewed at once.
    assert_eq!(house.token().await.as_deref(), Some("at-login-1"));
}

#[tokio::test(start_paused = true)]
async fn who_may_not_read_the_entry_gets_no_token_of_it() {
    let house = House::new(&ALL);
    let box_ = with_rights("box", &["p"], &[]);
    let begun = house.begin(&box_, Flow::PkceRedirect).await;
    assert_eq!(house.paste(&box_, &begun.session, "code").await, Ok(None));
    assert!(house.token().await.is_some());
    let (entries, _) = house.broker.entries(&PageRequest::all()).await.unwrap();
    assert!(
        entries[0].next_renewal.is_some(),
        "a login arms the renewal, also if nobody reads the token"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_exchange_uses_the_session_up() {
    let seen = || Seen("HTTP 400".to_owned());
    let table = [
        (LoginTrouble::Refused(seen()), Reason::ExchangeFailed),
        (LoginTrouble::Denied, Reason::AccessDenied),
        (LoginTrouble::Rejected(seen()), Reason::ProviderRejected),
        (LoginTrouble::Unavailable(seen()), Reason::ProviderUnavailable),
        (LoginTrouble::Expired, Reason::SessionExpired),
    ];
    for (trouble, reason) in table {
        let house = House::new(&ALL);
        house.desk.exchanges(Err(trouble));
        let box_ = sandbox("box");
        let begun = house.begin(&box_, Flow::PkceRedirect).await;
        assert_eq!(house.paste(&box_, &begun.session, "code").await, Err(reason));
        assert_eq!(
            house.paste(&box_, &begun.session, "code").await,
            Err(Reason::SessionAlreadyUsed)
        );
        assert!(house.token().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_state_of_another_login_uses_the_session_up_and_nothing_is_exchanged() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let begun = house.begin(&box_, Flow::PkceRedirect).await;
    let pasted = house.paste(&box_, &begun.session, "code#another-state").await;
    assert_eq!(pasted, Err(Reason::ExchangeFailed));
    assert!(house.desk.exchanged().is_empty());
    assert_eq!(
        house.paste(&box_, &begun.session, "code").await,
        Err(Reason::SessionAlreadyUsed)
    );

    let begun = house.begin(&box_, Flow::PkceRedirect).await;
    let pasted = house.paste(&box_, &begun.session, &format!("code#{STATE}")).await;
    assert!(pasted.is_ok());
    assert_eq!(house.desk.exchanged(), ["code"]);
}

#[tokio::test(start_paused = true)]
async fn two_that_paste_at_once_are_one() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let session = house.begin_closed(&box_).await;
    let first = house.pasting(&box_, &session, "one");
    settle().await;
    assert_eq!(
        house.paste(&box_, &session, "two").await,
        Err(Reason::SessionAlreadyUsed)
    );
    house.desk.open();
    assert_eq!(first.await.unwrap(), Ok(Some("at-login-1".to_owned())));
    assert_eq!(house.desk.exchanged(), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_does_not_cut_the_exchange_off() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let (session, pasting) = house.exchanging(&box_).await;
    pasting.abort();
    house.desk.open();
    settle().await;
    assert_eq!(house.token().await.as_deref(), Some("at-login-1"));
    assert_eq!(
        house.paste(&box_, &session, "code").await,
        Err(Reason::SessionAlreadyUsed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_fifteen_seconds_and_the_exchange_goes_on() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let session = house.begin_closed(&box_).await;
    let began = tokio::time::Instant::now();
    assert_eq!(
        house.paste(&box_, &session, "code").await,
        Err(Reason::ProviderUnavailable)
    );
    assert_eq!(began.elapsed().as_secs(), 15);
    pass(20).await;
    house.desk.open();
    settle().await;
    assert_eq!(house.token().await.as_deref(), Some("at-login-1"));
}

#[tokio::test(start_paused = true)]
async fn asking_how_it_stands_is_for_the_other_flows() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let paste = house.begin(&box_, Flow::PkceRedirect).await.session;
    assert_eq!(house.poll(&box_, &paste).await, Err(Reason::InvalidRequest));
    let device = house.begin(&box_, Flow::DeviceCode).await.session;
    assert_eq!(house.paste(&box_, &device, "code").await, Err(Reason::InvalidRequest));
    let browser = house.begin(&box_, Flow::BrowserRedirect).await.session;
    assert_eq!(house.paste(&box_, &browser, "code").await, Err(Reason::InvalidRequest));
    // None of them is used up by the wrong question.
    assert!(house.paste(&box_, &paste, "code").await.is_ok());
    assert_eq!(house.poll(&box_, &device).await, Ok(Polled::Pending(5)));
    assert_eq!(house.poll(&box_, &browser).await, Ok(Polled::Pending(2)));
}

#[tokio::test(start_paused = true)]
async fn the_host_logs_in_as_itself() {
    let house = House::new(&ALL);
    let host = Caller::host();
    let begun = house.begin(&host, Flow::PkceRedirect).await;
    assert!(house.paste(&host, &begun.session, "code").await.is_ok());
    assert_eq!(house.stored().await.unwrap().tokens.saved_by, "login");
    assert_eq!(house.terminal(), "", "who sits there needs no notice");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_handed_out_is_none_and_is_revoked() {
    let house = House::new(&ALL);
    house.desk.unsendable();
    let box_ = sandbox("box");
    let begun = house.begin(&box_, Flow::PkceRedirect).await;
    assert_eq!(
        house.paste(&box_, &begun.session, "code").await,
        Err(Reason::ExchangeFailed)
    );
    settle().await;
    assert!(house.token().await.is_none());
    assert_eq!(house.desk.revoked(), ["rt-login-1"]);
}
