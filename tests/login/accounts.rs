//! Whose account it is: a sandbox renews a login, and never swaps the account under an entry.

use std::time::Duration;

use credbroker::{
    broker::{
        Caller,
        login::{Notice, Shown},
    },
    oauth::Flow,
    reason::Reason,
};

use crate::{
    desk::STATE,
    fake::Fault,
    house::{ALL, House, Polled, sandbox, settle},
};

/// What a login of `by` makes of an entry of `stored`, if the account that logs in is `new`; empty: nobody knows.
async fn login(by: &Caller, stored: Option<&str>, new: &'static str) -> (Result<(), Reason>, House) {
    let house = House::new(&ALL);
    if let Some(stored) = stored {
        house.import(stored).await;
    }
    house.desk.exchanges(Ok(new));
    let session = house.begin(by, Flow::PkceRedirect).await.session;
    let result = house.paste(by, &session, "code").await.map(drop);
    settle().await;
    (result, house)
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_replaces_only_the_entry_of_the_same_known_account() {
    let box_ = sandbox("box");
    let table = [
        (None, "alice", true),
        (None, "", true),
        (Some("alice"), "alice", true),
        (Some("alice"), "mallory", false),
        (Some("alice"), "", false),
        (Some(""), "alice", false),
        (Some(""), "", false),
    ];
    for (stored, new, replaced) in table {
        let (result, house) = login(&box_, stored, new).await;
        if replaced {
            assert_eq!(result, Ok(()), "{stored:?} {new}");
            assert_eq!(house.token().await.as_deref(), Some("at-login-1"));
            assert!(house.desk.revoked().is_empty());
        } else {
            assert_eq!(result, Err(Reason::ExchangeFailed), "{stored:?} {new}");
            assert_eq!(house.token().await.as_deref(), Some("at-0"));
            let terminal = house.terminal();
            assert!(terminal.contains("`credbroker login p`"), "{terminal}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_host_may_change_the_account() {
    for (stored, new) in [
        (Some("alice"), "mallory"),
        (Some(""), ""),
        (Some("alice"), ""),
        (None, ""),
    ] {
        let (result, house) = login(&Caller::host(), stored, new).await;
        assert_eq!(result, Ok(()));
        assert_eq!(house.token().await.as_deref(), Some("at-login-1"));
    }
}

/// Many providers revoke all that an account gave to a client, the stored token set included.
#[tokio::test(start_paused = true)]
async fn an_unwanted_token_is_revoked_only_if_it_is_surely_of_another_account() {
    let box_ = sandbox("box");
    let (_, house) = login(&box_, Some("alice"), "mallory").await;
    assert_eq!(house.desk.revoked(), ["rt-login-1"]);
    for (stored, new) in [("", ""), ("alice", ""), ("", "alice")] {
        let (_, house) = login(&box_, Some(stored), new).await;
        assert!(house.desk.revoked().is_empty(), "{stored} {new}");
    }

    // A login that is given up may be of the account whose entry stays.
    let house = House::new(&ALL);
    house.import("alice").await;
    let (session, pasting) = house.exchanging(&box_).await;
    house.cancel(&box_, &session).unwrap();
    house.desk.open();
    assert_eq!(pasting.await.unwrap(), Err(Reason::ExchangeFailed));
    settle().await;
    assert!(house.desk.revoked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_without_refresh_token_still_belongs_to_its_account() {
    let house = House::new(&ALL);
    house.import("alice").await;
    let stored = house.stored().await.unwrap();
    let mut dead = stored.tokens.clone();
    dead.refresh_token = None;
    house.broker.import(&crate::house::entry(), dead).await.unwrap();
    house.desk.exchanges(Ok("mallory"));
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::PkceRedirect).await.session;
    assert_eq!(house.paste(&box_, &session, "code").await, Err(Reason::ExchangeFailed));
    assert_eq!(house.token().await.as_deref(), Some("at-0"));
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_entry_is_replaced_by_the_host_only() {
    for (caller, result) in [(sandbox("box"), Err(Reason::ExchangeFailed)), (Caller::host(), Ok(()))] {
        let house = House::new(&ALL);
        house.import("alice").await;
        let session = house.begin(&caller, Flow::PkceRedirect).await.session;
        house.store.corrupt();
        let pasted = house.paste(&caller, &session, "code").await.map(drop);
        assert_eq!(pasted, result);
        let want = if result.is_ok() { "at-login-1" } else { "at-0" };
        assert_eq!(house.token().await.as_deref(), Some(want));
    }
}

#[tokio::test(start_paused = true)]
async fn the_host_says_by_itself_what_a_sandbox_asks_for() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let paste = house.begin(&box_, Flow::PkceRedirect).await;
    let said = house.terminal();
    assert!(said.contains("sandbox box asks you to log in to p/default"), "{said}");
    assert!(
        said.contains(&format!("https://as.example/authorize?state={STATE}")),
        "{said}"
    );
    assert!(!said.contains(paste.session.expose()), "{said}");
    house.begin(&box_, Flow::DeviceCode).await;
    let said = house.terminal();
    assert!(
        said.contains("https://as.example/device\n") && said.contains("ABCD-EFGH"),
        "{said}"
    );
    assert!(house.paste(&box_, &paste.session, "code").await.is_ok());
    let said = house.terminal();
    assert!(
        said.contains("the login of sandbox box to p/default is complete; the account is alice"),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_refuses_is_told_and_not_revoked() {
    let house = House::new(&ALL);
    house.import("alice").await;
    let box_ = sandbox("box");
    for flow in [Flow::PkceRedirect, Flow::BrowserRedirect] {
        house.store.fail_changes(Fault::Unavailable);
        let session = house.begin(&box_, flow).await.session;
        if flow == Flow::PkceRedirect {
            assert_eq!(
                house.paste(&box_, &session, "code").await,
                Err(Reason::StoreUnavailable)
            );
        } else {
            house.desk.redirect(Ok("code")).await;
            settle().await;
            assert_eq!(
                house.poll(&box_, &session).await,
                Ok(Polled::Failed(Reason::StoreUnavailable))
            );
        }
        house.store.fail_changes(None);
        assert_eq!(house.token().await.as_deref(), Some("at-0"));
    }
    assert!(house.desk.revoked().is_empty());
}

/// A provider writes to no terminal but through this.
#[test]
fn what_a_provider_says_reaches_the_terminal_without_its_control_characters() {
    let (key, evil) = (crate::house::entry(), "x\u{1b}[2J\u{202e}\ny".to_owned());
    let shown = [
        Shown::Paste { auth_url: evil.clone() },
        Shown::Browser {
            auth_url: evil.clone(),
            interval: Duration::ZERO,
        },
        Shown::Device {
            verification_url: evil.clone(),
            verification_url_complete: None,
            user_code: evil.clone(),
            interval: Duration::ZERO,
        },
    ];
    let done = Notice::Done {
        principal: "box",
        key: &key,
        subject: Some(&evil),
    };
    let begun = shown.iter().map(|shown| {
        Notice::Begun {
            principal: "box",
            key: &key,
            shown,
        }
        .to_string()
    });
    for text in begun.chain([done.to_string()]) {
        assert!(text.contains(r"x\u{1b}[2J\u{202e}\ny"), "{text}");
        assert!(
            !text.contains(['\u{1b}', '\u{202e}']) && !text.contains("\ny"),
            "{text}"
        );
    }
}
