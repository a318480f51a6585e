//! FetchSecrets: the same, once.

use credbroker::{proto::envoy::DiscoveryRequest, reason::Reason};
use tokio::time::{Instant, sleep};

use crate::{
    house::{House, secs, wanting},
    support::wire::Failure,
};

#[tokio::test(start_paused = true)]
async fn it_answers_with_all_that_is_asked_for_and_the_version_changes_with_the_content_alone() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    house.set_key("k", "sk-0").await;
    let names = ["token/p/default", "api-key/k", "token/p/absent", "token/p/default"];
    let first = house.fetch(&names).await;
    let values: Vec<_> = first
        .secrets
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        values,
        [
            ("api-key/k", "sk-0"),
            ("token/p/absent", ""),
            ("token/p/default", "at-0")
        ]
    );
    assert_eq!(house.fetch(&names).await, first);
    house.import("", "at-1", "", 3600).await;
    let second = house.fetch(&names).await;
    assert_eq!(second.secrets["token/p/default"], "at-1");
    assert_ne!(second.version, first.version);
    house.set_key("k", "sk-1").await;
    assert_ne!(house.fetch(&names).await.version, second.version);
    sleep(secs(1)).await;
    assert_eq!(house.bench.broker.open_watches(), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_asked_for_anything_gets_nothing() {
    let house = House::new();
    assert!(house.fetch(&[]).await.secrets.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_refreshed_first_for_at_most_5_s() {
    for (takes, want) in [(3, "at-1"), (60, "")] {
        let house = House::new();
        house.import_expired("").await;
        house.provider.takes(secs(takes));
        let start = Instant::now();
        assert_eq!(house.fetch(&["token/p/default"]).await.only("token/p/default"), want);
        assert!(
            start.elapsed().abs_diff(secs(takes.min(5))) < secs(1),
            "{:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_64_kib_is_refused_as_such() {
    let house = House::new();
    let mut names = Vec::new();
    for at in 0..5 {
        house.import(&format!("b{at}"), &"x".repeat(16 * 1024), "", 3600).await;
        names.push(format!("token/p/b{at}"));
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let failure = Failure::of(house.client().await.fetch_secrets(wanting(&names)).await);
    assert_eq!(failure.reason(), Some(Reason::MessageTooLarge));
    assert_eq!(house.fetch(&names[..3]).await.secrets.len(), 3);
    // A stream sends them in parts.
    let mut talk = house.talk(&names).await;
    let mut parts = 0;
    let mut came = 0;
    while came < names.len() {
        came += talk.told().await.secrets.len();
        parts += 1;
    }
    assert!(parts > 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_envoy_says_about_itself_does_not_matter() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let request = DiscoveryRequest {
        resource_names: vec!["token/p/default".into()],
        ..DiscoveryRequest::default()
    };
    let answer = house.client().await.fetch_secrets(request).await.unwrap().into_inner();
    assert_eq!(answer.resources.len(), 1);
}
