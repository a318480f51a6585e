//! What streams deliver is not delivered either while it cannot be recorded.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use credbroker::{
    broker::{
        Broker,
        audit::{Audit, AuditWriter, OnFull, Settings},
        policy::Policy,
    },
    proto,
    reason::Reason,
    server::peer::AllowedPeers,
};

use crate::support::{self, Host, eventually, import, soon, stub, wire::Failure};

/// A disk that takes lines while it is told to.
#[derive(Clone)]
struct Disk {
    takes: Arc<AtomicBool>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.takes.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct House {
    host: Host,
    broker: Broker,
    disk: Disk,
    audit: Audit,
    writer: AuditWriter,
    serving: support::Bound,
}

fn answer(access_token: &str) -> String {
    format!(r#"{{"access_token": "{access_token}", "expires_in": 3600}}"#)
}

impl House {
    async fn new() -> Self {
        let host = Host::new();
        host.import("p", "", &answer("at-0")).await;
        let broker = host.local();
        let disk = Disk {
            takes: Arc::new(AtomicBool::new(true)),
            bytes: Arc::default(),
        };
        let settings = Settings {
            on_full: OnFull::Refuse,
            ..Settings::without_key()
        };
        let copy = disk.clone();
        let (audit, writer) = Audit::start(settings, move || Ok(("audit".into(), copy.clone()))).unwrap();
        broker.depends_on(audit.clone());
        let policy = Policy::serve(Vec::new());
        let layers = support::layers(&broker, AllowedPeers::own_and(&[]), policy, Some(audit.clone()));
        let serving = support::Bound::new(layers);
        Self {
            host,
            broker,
            disk,
            audit,
            writer,
            serving,
        }
    }

    /// From now on the disk refuses, and the broker knows it: one call was recorded in vain.
    async fn fills(&self) {
        self.disk.takes.store(false, Ordering::SeqCst);
        let mut stub = stub(&self.serving.socket()).await;
        let _ = stub.list_providers(proto::ListProvidersRequest::default()).await;
        eventually("the disk has refused", || async { self.audit.check().is_err() }).await;
        assert!(self.broker.check().await.is_err(), "health says so");
    }

    async fn empties(&self) {
        self.disk.takes.store(true, Ordering::SeqCst);
        eventually("the disk takes lines", || async { self.audit.check().is_ok() }).await;
    }

    /// Another process stores a token.
    async fn stores(&self, token: &str) {
        import(&self.host.local(), "p", "", &answer(token)).await;
    }

    async fn deliveries(self, operation: &str) -> usize {
        self.serving.stop().await;
        tokio::task::spawn_blocking(|| self.writer.finish()).await.unwrap();
        let bytes = self.disk.bytes.lock().unwrap().clone();
        let lines = String::from_utf8(bytes).unwrap();
        let lines = lines.lines();
        lines
            .filter(|line| {
                line.contains(operation) && line.contains(r#""provider":"p""#) && line.contains(r#""outcome":"ok""#)
            })
            .count()
    }
}

#[tokio::test]
async fn a_stream_of_tokens_ends_rather_than_deliver_one_unrecorded() {
    let house = House::new().await;
    let mut stub = stub(&house.serving.socket()).await;
    let request = || proto::WatchTokenRequest {
        provider: "p".into(),
        bucket: String::new(),
    };
    let mut watch = stub.watch_token(request()).await.unwrap().into_inner();
    let first = soon("the first token", watch.message()).await.unwrap().unwrap();
    assert_eq!(first.token.unwrap().access_token, "at-0");
    house.fills().await;
    house.stores("at-1").await;
    let ended = soon("the end", watch.message()).await;
    assert_eq!(Failure::of(ended).reason(), Some(Reason::StoreUnavailable));
    let refused = stub.watch_token(request()).await;
    assert_eq!(Failure::of(refused).reason(), Some(Reason::StoreUnavailable));
    house.empties().await;
    let mut watch = stub.watch_token(request()).await.unwrap().into_inner();
    let next = soon("the token", watch.message()).await.unwrap().unwrap();
    assert_eq!(next.token.unwrap().access_token, "at-1");
    drop((watch, stub));
    assert_eq!(house.deliveries("WatchToken").await, 2);
}

#[cfg(feature = "envoy")]
#[tokio::test]
async fn an_envoy_keeps_what_it_has_until_the_next_token_can_be_recorded_and_hears_of_a_logout() {
    use credbroker::{
        broker::Caller,
        proto::envoy::{DiscoveryRequest, secret_discovery_service_client::SecretDiscoveryServiceClient},
    };
    use prost::Message as _;

    let house = House::new().await;
    let channel = support::channel(&house.serving.socket()).await;
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let (send, requests) = tokio::sync::mpsc::unbounded_channel();
    let request = DiscoveryRequest {
        resource_names: vec!["token/p/default".into()],
        ..DiscoveryRequest::default()
    };
    send.send(request).unwrap();
    let requests = tokio_stream::wrappers::UnboundedReceiverStream::new(requests);
    let mut stream = client.stream_secrets(requests).await.unwrap().into_inner();
    let mut next = async || {
        let response = soon("a secret", stream.message()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&response.encode_to_vec()).into_owned();
        let found = ["at-0", "at-1", "at-2"].into_iter().find(|token| text.contains(token));
        let acknowledged = DiscoveryRequest {
            resource_names: vec!["token/p/default".into()],
            version_info: response.version_info,
            response_nonce: response.nonce,
            ..DiscoveryRequest::default()
        };
        send.send(acknowledged).unwrap();
        found
    };
    assert_eq!(next().await, Some("at-0"));
    house.fills().await;
    house.stores("at-1").await;
    {
        let mut early = std::pin::pin!(next());
        let waited = tokio::time::timeout(std::time::Duration::from_secs(2), &mut early).await;
        assert!(waited.is_err(), "delivered without a record");
        house.empties().await;
        assert_eq!(early.await, Some("at-1"));
    }
    // What was held back was not counted either.
    let host = Caller::host();
    let counted = house.broker.bucket_stats(&host, &support::key("p", "")).await.unwrap();
    assert_eq!(counted.request_count, 2);
    // A logout is no delivery, and is told whatever the disk does.
    house.fills().await;
    house
        .broker
        .remove_token(&Caller::host(), &support::key("p", ""))
        .await
        .unwrap();
    assert_eq!(next().await, None);
    house.empties().await;
    drop(client);
    assert_eq!(house.deliveries("StreamSecrets").await, 2);
}
