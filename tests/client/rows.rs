//! Every operation, against real brokers: the same suite through the socket and in process.

use std::time::Duration;

use credbroker::{
    broker::policy::Policy,
    client::{
        ApiKeyStore, CredentialStore, EntryKey, Error, ExposeSecret as _, Name, Revocation, SavedToken, SecretString,
        entry, name,
    },
    reason::Reason,
};

use crate::broker::{HOUR, Host, github};

/// More than one page of the broker's.
const MANY: usize = 105;

/// What [`every_row`] expects to find.
pub(crate) async fn furnish(host: &Host) {
    host.import(&github(), HOUR).await;
    host.import(&entry("github", "work").unwrap(), HOUR).await;
    host.import(&entry("stale", "").unwrap(), Duration::ZERO).await;
    host.set_key("openai", "sk-1").await;
    for n in 0..MANY {
        host.import(&many(n), HOUR).await;
    }
}

fn many(n: usize) -> EntryKey {
    entry("many", &format!("bucket-{n:03}")).unwrap()
}

pub(crate) fn saved(token: &str) -> SavedToken {
    SavedToken {
        access_token: SecretString::from(token),
        expires_in: Some(HOUR),
        expire_time: None,
        token_type: String::new(),
        scope: String::new(),
    }
}

/// The table of operations, row by row.
pub(crate) async fn every_row(host: &Host, store: &(impl CredentialStore + ApiKeyStore)) {
    let (github, absent) = (github(), entry("github", "nobody").unwrap());

    let token = store.get_token(&github, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(token.access_token.expose_secret(), "github/default-token");
    assert_eq!((token.token_type.as_str(), token.scope.as_str()), ("Bearer", "read"));
    assert_eq!(token.extra.get("team").map(String::as_str), Some("red"));
    let left = token.expires_in.unwrap();
    assert!(left <= HOUR && left > HOUR - Duration::from_secs(60), "{left:?}");
    assert!(token.expire_time.is_some() && !token.revision.is_empty());
    // Longer than any wire form of it: still a question, and the broker caps it.
    assert!(store.get_token(&github, Duration::MAX).await.unwrap().is_some());
    assert!(store.get_token(&absent, Duration::ZERO).await.unwrap().is_none());
    let stale = store.get_token(&entry("stale", "").unwrap(), Duration::ZERO).await;
    assert!(matches!(stale, Err(Error::NeedsLogin(_))), "{stale:?}");

    let old = Some("a revision that is not current any more");
    let current = store.refresh_token(&github, old).await.unwrap().unwrap();
    assert_eq!(current.revision, token.revision);
    assert!(store.refresh_token(&absent, None).await.unwrap().is_none());
    let stale = store.refresh_token(&entry("stale", "").unwrap(), None).await;
    assert!(matches!(stale, Err(Error::NeedsLogin(_))), "{stale:?}");
    let bad = store.refresh_token(&github, Some(&"r".repeat(300))).await;
    assert!(matches!(bad, Err(Error::InvalidRequest(_))), "{bad:?}");

    store.save_token(&github, saved("new")).await.unwrap();
    assert_eq!(host.stored(&github).await.unwrap(), "new");
    let none = store.save_token(&absent, saved("new")).await.unwrap_err();
    assert_eq!(none.reason(), Some(Reason::NotFound));
    for bad in ["", "a b\n", &"x".repeat(16 * 1024 + 1)] {
        let refused = store.save_token(&github, saved(bad)).await.unwrap_err();
        assert_eq!(refused.reason(), Some(Reason::InvalidRequest), "{refused:?}");
    }
    let huge = store
        .save_token(&github, saved(&"x".repeat(70 * 1024)))
        .await
        .unwrap_err();
    assert_eq!(huge.reason(), Some(Reason::MessageTooLarge), "{huge:?}");
    assert_eq!(host.stored(&github).await.unwrap(), "new");

    assert_eq!(
        text(&store.list_providers().await.unwrap()),
        ["github", "many", "stale"]
    );
    let buckets = store.list_buckets(&github.provider).await.unwrap();
    assert_eq!(text(&buckets), ["default", "work"]);
    let want: Vec<Name> = (0..MANY).map(|n| many(n).bucket).collect();
    assert_eq!(store.list_buckets(&name("many").unwrap()).await.unwrap(), want);
    assert!(store.list_buckets(&name("none").unwrap()).await.unwrap().is_empty());

    let stats = store.get_bucket_stats(&github).await.unwrap().unwrap();
    assert_eq!((stats.request_count, stats.percentage), (3, 100.0));
    assert!(stats.last_used.is_some());
    let unused = entry("github", "work").unwrap();
    let stats = store.get_bucket_stats(&unused).await.unwrap().unwrap();
    assert_eq!((stats.request_count, stats.last_used), (0, None));
    assert!(store.get_bucket_stats(&absent).await.unwrap().is_none());

    assert!(store.acquire_refresh_lock(&github).await.unwrap());
    assert!(store.release_refresh_lock(&github).await.unwrap());

    assert_eq!(store.remove_token(&unused).await.unwrap(), Revocation::NotSupported);
    assert!(host.stored(&unused).await.is_none());
    assert_eq!(store.remove_token(&unused).await.unwrap(), Revocation::NothingStored);

    let (openai, no_key) = (name("openai").unwrap(), name("none").unwrap());
    let key = store.get_api_key(&openai).await.unwrap().unwrap();
    assert_eq!(key.expose_secret(), "sk-1");
    assert!(store.get_api_key(&no_key).await.unwrap().is_none());
    assert!(store.has_api_key(&openai).await.unwrap());
    assert!(!store.has_api_key(&no_key).await.unwrap());
    assert_eq!(store.list_api_keys().await.unwrap(), [openai]);
}

fn text(names: &[Name]) -> Vec<&str> {
    names.iter().map(Name::as_str).collect()
}

#[tokio::test]
async fn every_row_through_the_socket() {
    let host = Host::new();
    furnish(&host).await;
    let broker = host.start(Policy::host());
    let store = host.client();
    every_row(&host, &store).await;

    let key = name("openai").unwrap();
    let sentence = "API key management is not available in sandbox mode. Manage keys on the host.";
    let saving = store.save_api_key(&key, SecretString::from("sk-2")).await.unwrap_err();
    let deleting = store.delete_api_key(&key).await.unwrap_err();
    for refused in [saving, deleting] {
        assert!(matches!(refused, Error::ApiKeyManagement), "{refused:?}");
        assert_eq!(refused.to_string(), sentence);
    }
    assert_eq!(store.get_api_key(&key).await.unwrap().unwrap().expose_secret(), "sk-1");
    assert_eq!(store.server_info().await.unwrap().version, env!("CARGO_PKG_VERSION"));
    broker.stop().await;
}

#[tokio::test]
async fn outside_the_policy_is_an_error_and_not_an_absence() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let broker = host.start(Policy {
        read: vec!["gitlab".parse().unwrap()],
        ..Policy::default()
    });
    let store = host.client();
    let refused = [
        store.get_token(&github(), Duration::ZERO).await.err(),
        store.get_bucket_stats(&github()).await.err(),
        store.save_token(&github(), saved("new")).await.err(),
        store.refresh_token(&github(), None).await.err(),
        store.remove_token(&github()).await.err(),
        store.get_api_key(&name("openai").unwrap()).await.err(),
        store.has_api_key(&name("openai").unwrap()).await.err(),
    ];
    for refused in refused {
        assert!(matches!(refused, Some(Error::Unauthorized(_))), "{refused:?}");
    }
    assert!(store.list_providers().await.unwrap().is_empty());
    assert!(store.list_api_keys().await.unwrap().is_empty());
    let absent = store.get_token(&entry("gitlab", "").unwrap(), Duration::ZERO).await;
    assert!(absent.unwrap().is_none());
    broker.stop().await;
}

#[tokio::test]
async fn the_traits_make_objects_that_tasks_share() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let broker = host.start(Policy::host());
    let store: std::sync::Arc<dyn CredentialStore> = std::sync::Arc::new(host.client());
    let tasks = (0..8).map(|_| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move { store.get_token(&github(), Duration::ZERO).await.unwrap() })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert!(task.await.unwrap().is_some());
    }
    broker.stop().await;
}
