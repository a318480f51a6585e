//! The flow whose answer comes to this host's loopback address.

use credbroker::{
    oauth::{Flow, login::LoginTrouble},
    reason::Reason,
};

use crate::house::{ALL, House, Polled, sandbox, settle};

#[tokio::test(start_paused = true)]
async fn a_redirected_browser_completes_the_login() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::BrowserRedirect).await.session;
    assert_eq!(house.poll(&box_, &session).await, Ok(Polled::Pending(2)));
    assert_eq!(house.desk.listening(), 1);
    assert!(house.desk.redirect(Ok("code")).await);
    settle().await;
    assert_eq!(
        house.poll(&box_, &session).await,
        Ok(Polled::Complete(Some("at-login-1".to_owned())))
    );
    assert_eq!(house.desk.listening(), 0);
    assert_eq!(house.desk.exchanged(), ["code"]);
}

#[tokio::test(start_paused = true)]
async fn a_user_who_says_no_ends_it() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::BrowserRedirect).await.session;
    house.desk.redirect(Err(LoginTrouble::Denied)).await;
    settle().await;
    assert_eq!(
        house.poll(&box_, &session).await,
        Ok(Polled::Failed(Reason::AccessDenied))
    );
    assert_eq!(house.desk.listening(), 0);
    assert!(house.desk.exchanged().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_listen_goes_on_with_a_device_code_and_says_so() {
    let house = House::new(&ALL);
    house.desk.cannot_listen();
    let begun = house.begin(&sandbox("box"), Flow::BrowserRedirect).await;
    assert_eq!(begun.shown.flow(), Flow::DeviceCode);

    let house = House::new(&[Flow::BrowserRedirect, Flow::PkceRedirect]);
    house.desk.cannot_listen();
    let failed = crate::house::begin(&house.broker, &sandbox("box"), Some(Flow::BrowserRedirect)).await;
    let error = failed.err().unwrap();
    assert_eq!(error.reason(), Reason::InternalError);
    assert!(error.to_string().contains("choose another flow"), "{error}");
    assert_eq!(house.broker.open_logins(), 0);
}

/// Two polls once raced past the mark that says "used".
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_outcome_is_told_to_one_of_those_who_ask_at_once() {
    let house = std::sync::Arc::new(House::new(&ALL));
    let box_ = sandbox("box");
    for _ in 0..50 {
        let session = house.begin(&box_, Flow::BrowserRedirect).await.session;
        assert!(house.desk.redirect(Ok("code")).await);
        let asking: Vec<_> = (0..8)
            .map(|_| {
                let (house, box_, session) = (std::sync::Arc::clone(&house), box_.clone(), session.clone());
                tokio::spawn(async move {
                    loop {
                        match house.poll(&box_, &session).await {
                            Ok(Polled::Pending(_)) => tokio::task::yield_now().await,
                            told => return told,
                        }
                    }
                })
            })
            .collect();
        let mut told = 0;
        for asking in asking {
            match asking.await.unwrap() {
                Ok(Polled::Complete(Some(_))) => told += 1,
                other => assert_eq!(other, Err(Reason::SessionAlreadyUsed)),
            }
        }
        assert_eq!(told, 1);
    }
}
