//! What answers mean, also those that no broker of today gives.

use std::{sync::Arc, time::Duration};

use credbroker::{
    broker::policy::Policy,
    client::{ApiKeyStore as _, CredentialStore as _, Error, ProxyTokenStore, Revocation, SecretString, name},
    server::admission::{Admission, Sandbox},
};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    broker::{HOUR, Host, github},
    scripted::{Script, Scripted},
};

fn client(broker: &Scripted) -> ProxyTokenStore {
    ProxyTokenStore::new(broker.socket(), None).unwrap()
}

#[tokio::test]
async fn an_unknown_reason_keeps_code_reason_message_and_delay() {
    let broker = Scripted::start(Script {
        refusal: Some(|| {
            let mut details = ErrorDetails::with_error_info("LUNCH_BREAK", "credbroker.dev", []);
            details.set_retry_info(Some(Duration::from_secs(7)));
            Status::with_error_details(Code::Aborted, "come back later", details)
        }),
        ..Script::default()
    });
    let refused = client(&broker).get_token(&github(), Duration::ZERO).await.unwrap_err();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(7)));
    assert_eq!(refused.reason(), None);
    let Error::Other { code, reason, refusal } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (code, reason.as_str(), refusal.message.as_str()),
        (Code::Aborted, "LUNCH_BREAK", "come back later")
    );
}

#[tokio::test]
async fn an_answer_that_breaks_the_protocol_is_an_error_and_ends() {
    let broker = Scripted::start(Script::default());
    let store = client(&broker);
    let malformed = [
        store.list_providers().await.err(),
        store.list_buckets(&name("p").unwrap()).await.err(),
        store.get_bucket_stats(&github()).await.err(),
        store.get_api_key(&name("k").unwrap()).await.err(),
        store.refresh_token(&github(), None).await.err(),
    ];
    for error in malformed {
        assert!(matches!(error, Some(Error::Other { .. })), "{error:?}");
    }
    // None of them is a lost connection.
    assert_eq!(store.remove_token(&github()).await.unwrap(), Revocation::Pending);
    assert_eq!(broker.seen.accepted(), 1);
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_is_no_lost_connection() {
    let broker = Scripted::start(Script {
        slow: Duration::from_secs(3600),
        ..Script::default()
    });
    let store = ProxyTokenStore::builder(broker.socket())
        .request_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    store.server_info().await.unwrap();
    let late = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(late, Error::DeadlineExceeded(_)), "{late:?}");
    assert_eq!(store.remove_token(&github()).await.unwrap(), Revocation::Pending);
    assert_eq!(broker.seen.accepted(), 1);
    // The broker was told how long somebody waits.
    let headers = broker.seen.headers.lock().unwrap().clone();
    let told = headers.get("grpc-timeout").unwrap().to_str().unwrap().to_owned();
    let micros: u64 = told.strip_suffix('u').unwrap().parse().unwrap();
    assert!(micros > 0 && micros <= 300_000, "{told}");
}

#[tokio::test]
async fn the_capability_goes_with_every_call_and_into_no_debug_output() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let raw = [7; 32];
    let broker = host.start_as(Admission::Capability(vec![Sandbox {
        name: "one".into(),
        capability_sha256: Sha256::digest(raw).into(),
        policy: Arc::new(Policy::host()),
    }]));
    let capability = "07".repeat(32);
    let store = ProxyTokenStore::new(host.socket(), Some(SecretString::from(capability.as_str()))).unwrap();
    assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
    assert!(!format!("{store:?}").contains(&capability));

    let without = host.client();
    for _ in 0..2 {
        let refused = without.get_token(&github(), Duration::ZERO).await.unwrap_err();
        assert!(matches!(refused, Error::Unauthenticated(_)), "{refused:?}");
    }
    let unsendable = ProxyTokenStore::new(host.socket(), Some(SecretString::from("a\nb")));
    assert!(matches!(unsendable, Err(Error::InvalidCapability)));
    broker.stop().await;
}
