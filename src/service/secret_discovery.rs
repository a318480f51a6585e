//! Envoy's Secret Discovery Service: access tokens and API keys for an Envoy that adds them to requests.
//!
//! What there is not for an Envoy is an empty secret, whatever the reason: state-of-the-world discovery of secrets has no
//! way to take one away, and an Envoy that is told nothing goes on with the one that it has.

mod conversation;
mod names;
mod rate;

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures_util::stream;
use hmac::{Hmac, Mac as _};
use prost::Message as _;
use prost_types::Any;
use secrecy::zeroize::Zeroizing;
use sha2::Sha256;
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use self::{
    conversation::Conversation,
    names::{Asking, Value},
    rate::Rates,
};
use super::{caller, status};
use crate::{
    broker::{Broker, Error},
    proto::envoy::{
        DataSource, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, GenericSecret,
        Secret, Specifier, secret, secret_discovery_service_server::SecretDiscoveryService,
    },
};

/// The full name of the service.
pub const NAME: &str = "envoy.service.secret.v3.SecretDiscoveryService";
/// What a secret is called in an answer.
const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// How many names all streams of a socket may follow, beside those that each may. A name that the policy allows is looked at
/// twice a second, and takes some 5 KiB.
const SHARED_NAMES: usize = 1024;
/// Names that a stream may always follow, and that any call may ask for. An Envoy asks for one on each.
const OWN_NAMES: usize = 4;

/// Serves `envoy.service.secret.v3.SecretDiscoveryService`.
#[derive(Clone)]
pub struct SecretService {
    broker: Broker,
    versions: Versions,
    room: Arc<Semaphore>,
    rates: Rates,
}

impl SecretService {
    /// Serves this broker.
    #[must_use]
    pub fn new(broker: Broker) -> Self {
        Self {
            broker,
            versions: Versions::new(),
            room: Arc::new(Semaphore::new(SHARED_NAMES)),
            rates: Rates::default(),
        }
    }

    async fn fetch(&self, request: &Request<DiscoveryRequest>) -> Result<DiscoveryResponse, Error> {
        let asking = Asking {
            broker: self.broker.clone(),
            caller: caller(request)?,
        };
        let names = names::checked(request.get_ref())?;
        let beyond = names.len().saturating_sub(OWN_NAMES);
        self.rates.spend(&asking.caller.principal, beyond)?;
        let mut values = names::all(&asking, &names);
        let mut secrets = BTreeMap::new();
        while secrets.len() < names.len()
            && let Some((name, value)) = values.next().await
        {
            secrets.insert(name, value?);
        }
        let answer = self.versions.answer(&secrets, String::new());
        if answer.encoded_len() > status::MAX_MESSAGE_SIZE {
            return Err(Error::MessageTooLarge {
                what: "the answer with so many secrets",
                limit: status::MAX_MESSAGE_SIZE,
            });
        }
        Ok(answer)
    }
}

/// The answers of a stream.
type Answers = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for SecretService {
    type StreamSecretsStream = Answers;

    async fn stream_secrets(&self, request: Request<Streaming<DiscoveryRequest>>) -> Result<Response<Answers>, Status> {
        let caller = caller(&request).map_err(|error| status::from_error(&error))?;
        let asking = Asking {
            broker: self.broker.clone(),
            caller,
        };
        let room = Arc::clone(&self.room);
        let shared = (self.versions.clone(), room, self.rates.clone());
        let mut conversation = Conversation::new(asking, shared, request.into_inner());
        // What is wrong with the first request is the answer to the call, and stands in its record.
        conversation.begin().await?;
        let answers = stream::unfold(Some(conversation), |conversation| async move {
            let mut conversation: Conversation = conversation?;
            match conversation.next().await? {
                Ok(answer) => Some((Ok(answer), Some(conversation))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let answer = self.fetch(&request).await;
        answer.map(Response::new).map_err(|error| status::from_error(&error))
    }

    type DeltaSecretsStream = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_secrets(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(status::from_error(&Error::Unimplemented(
            "DeltaSecrets is not served: configure `api_type: GRPC`, which asks for StreamSecrets".into(),
        )))
    }
}

/// Makes versions: the same for the same secrets, and another one for others.
///
/// They are HMACs under a key that nobody else knows, so nothing can be told of a secret from its version, not even whether a
/// guess is right. They are another broker's when it starts anew.
#[derive(Clone)]
struct Versions(Hmac<Sha256>);

impl Versions {
    fn new() -> Self {
        Self::with_key(&Zeroizing::new(rand::random()))
    }

    fn with_key(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104)")]
        Self(Hmac::new_from_slice(key).expect("HMAC takes any key"))
    }

    fn of(&self, secrets: &BTreeMap<String, Value>) -> String {
        let mut tag = self.0.clone();
        for (name, value) in secrets {
            let (kind, text) = value.identity();
            // With lengths, so that no two lists look alike.
            for part in [name.as_bytes(), kind.as_bytes(), text.as_bytes()] {
                tag.update(&(part.len() as u64).to_be_bytes());
                tag.update(part);
            }
        }
        // Half of it is more than enough.
        data_encoding::HEXLOWER.encode(tag.finalize().into_bytes().get(..16).unwrap_or_default())
    }

    fn answer(&self, secrets: &BTreeMap<String, Value>, nonce: String) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: self.of(secrets),
            resources: secrets.iter().map(|(name, value)| resource(name, value)).collect(),
            type_url: TYPE_URL.to_owned(),
            nonce,
        }
    }
}

/// A secret as Envoy wants it.
fn resource(name: &str, value: &Value) -> Any {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::GenericSecret(GenericSecret {
            secret: Some(DataSource {
                specifier: Some(Specifier::InlineString(value.text().to_owned())),
            }),
        })),
    };
    Any {
        type_url: TYPE_URL.to_owned(),
        value: secret.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(all: &[(&str, Option<&str>)]) -> BTreeMap<String, Value> {
        all.iter()
            .map(|(name, key)| {
                let value = key.map_or(Value::Nothing, |key| Value::Key(Arc::new((*key).into())));
                ((*name).to_owned(), value)
            })
            .collect()
    }

    #[test]
    fn a_version_changes_with_what_is_answered_and_with_nothing_else() {
        let versions = Versions::new();
        let lists = [
            secrets(&[]),
            secrets(&[("a", None)]),
            secrets(&[("a", Some(""))]),
            secrets(&[("a", Some("b"))]),
            secrets(&[("ab", None)]),
            secrets(&[("a", None), ("b", None)]),
        ];
        for (at, one) in lists.iter().enumerate() {
            for (other_at, other) in lists.iter().enumerate() {
                assert_eq!(
                    versions.of(one) == versions.of(other),
                    at == other_at,
                    "{at} {other_at}"
                );
            }
            assert_ne!(versions.of(one), Versions::new().of(one), "another broker's");
        }
    }

    #[test]
    fn a_version_is_an_hmac_under_the_key() {
        use sha2::Digest as _;
        let key = [7; 32];
        let versions = Versions::with_key(&key);
        let pad = |with: u8| -> Vec<u8> {
            let padded = key.iter().copied().chain([0; 32]);
            padded.map(|byte| byte ^ with).collect()
        };
        // RFC 2104 by hand, over one name, its kind and an empty value, each with its length.
        let all = secrets(&[("a", None)]);
        let (kind, _) = all["a"].identity();
        let mut text = Vec::new();
        for part in ["a", kind, ""] {
            text.extend((part.len() as u64).to_be_bytes());
            text.extend(part.as_bytes());
        }
        let inner = Sha256::digest([pad(0x36), text].concat());
        let outer = Sha256::digest([pad(0x5c), inner.to_vec()].concat());
        assert_eq!(versions.of(&all), data_encoding::HEXLOWER.encode(&outer[..16]));
    }

    #[test]
    fn what_there_is_not_is_an_empty_secret_with_its_name() {
        let answer = Versions::new().answer(&secrets(&[("token/p/b", None)]), "1".into());
        let any = answer.resources.first().unwrap();
        assert_eq!((any.type_url.as_str(), answer.type_url.as_str()), (TYPE_URL, TYPE_URL));
        let secret = Secret::decode(any.value.as_slice()).unwrap();
        assert_eq!(secret.name, "token/p/b");
        let Some(secret::Type::GenericSecret(generic)) = secret.r#type else {
            panic!("no generic secret")
        };
        // It is there, and empty: Envoy refuses a secret without any.
        assert_eq!(
            generic.secret.unwrap().specifier,
            Some(Specifier::InlineString(String::new()))
        );
    }
}
