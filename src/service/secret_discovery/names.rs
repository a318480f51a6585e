//! The names of secrets, and what is behind them.

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use futures_util::stream;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_stream::{Stream, StreamMap};

use super::TYPE_URL;
use crate::{
    broker::{Broker, Caller, Error, KeyWatch, Watch, caller::Named},
    credential::{AccessToken, EntryKey, Name},
    proto::envoy::DiscoveryRequest,
};

/// How many names one request may ask for.
pub(super) const MAX_NAMES: usize = 256;
/// The longest of them, in bytes; the longest one that can be meant has 135.
const MAX_NAME: usize = 256;

/// Who asks whom.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) broker: Broker,
    pub(super) caller: Caller,
}

/// What a name stands for.
enum Meant {
    /// `token/{provider}/{bucket}`.
    Token(EntryKey),
    /// `api-key/{name}`.
    Key(Name),
}

impl Meant {
    /// `None`: the name is no secret's.
    fn by(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once('/')?;
        match kind {
            "token" => {
                let (provider, bucket) = rest.split_once('/')?;
                EntryKey::parse(provider, bucket).ok().map(Self::Token)
            }
            "api-key" => rest.parse().ok().map(Self::Key),
            _ => None,
        }
    }

    fn named(&self) -> Named {
        match self {
            Self::Token(key) => Named::Entry(key.clone()),
            Self::Key(name) => Named::Key(name.clone()),
        }
    }
}

/// What is behind a name.
pub(super) enum Value {
    /// Nothing that this caller gets, for whatever reason.
    Nothing,
    /// An access token.
    Token(Box<AccessToken>),
    /// An API key.
    Key(Arc<SecretString>),
}

impl Value {
    /// What an Envoy is told.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Nothing => "",
            Self::Token(token) => token.access_token.expose_secret(),
            Self::Key(key) => key.expose_secret(),
        }
    }

    /// What tells it from other values.
    pub(super) fn identity(&self) -> (&'static str, &str) {
        match self {
            Self::Nothing => ("nothing", ""),
            Self::Token(token) => ("token", &token.revision),
            Self::Key(key) => ("key", key.expose_secret()),
        }
    }
}

/// A name's values: the one of now, and then each that takes its place. It is looked for when it is asked for.
pub(super) type Values = Pin<Box<dyn Stream<Item = Result<Value, Error>> + Send>>;

/// The names that are asked for, each once.
pub(super) fn checked(request: &DiscoveryRequest) -> Result<BTreeSet<String>, Error> {
    if !request.type_url.is_empty() && request.type_url != TYPE_URL {
        return Err(invalid("type_url", format!("it is no secret's: send {TYPE_URL}")));
    }
    let names = &request.resource_names;
    if names.iter().any(|name| name.len() > MAX_NAME) {
        return Err(invalid(
            "resource_names",
            format!("one is longer than {MAX_NAME} bytes: send token/PROVIDER/BUCKET or api-key/NAME"),
        ));
    }
    let names: BTreeSet<String> = names.iter().cloned().collect();
    if names.len() > MAX_NAMES {
        return Err(invalid(
            "resource_names",
            format!("there are more than {MAX_NAMES}: ask for the others in another call"),
        ));
    }
    Ok(names)
}

fn invalid(field: &'static str, problem: String) -> Error {
    Error::InvalidRequest { field, problem }
}

/// The values of all these names.
pub(super) fn all(asking: &Asking, names: &BTreeSet<String>) -> StreamMap<String, Values> {
    let mut all = StreamMap::with_capacity(names.len());
    for name in names {
        all.insert(name.clone(), values(asking.clone(), name));
    }
    all
}

pub(super) fn values(asking: Asking, name: &str) -> Values {
    let followed = match Meant::by(name) {
        Some(meant) => Followed::NotYet(asking, meant),
        None => Followed::Nothing { told: false },
    };
    Box::pin(stream::unfold(followed, Followed::next))
}

/// What is followed on behalf of a name.
enum Followed {
    NotYet(Asking, Meant),
    Nothing { told: bool },
    Token(Box<Watch>),
    Key(Box<KeyWatch>),
}

impl Followed {
    async fn next(mut self) -> Option<(Result<Value, Error>, Self)> {
        if let Self::NotYet(asking, meant) = &self {
            // In a box of its own: it is large, and soon over.
            match Box::pin(follow(asking, meant)).await {
                Ok(followed) => self = followed,
                Err(error) => return Some((Err(error), self)),
            }
        }
        let value = self.present().await;
        Some((value, self))
    }

    async fn present(&mut self) -> Result<Value, Error> {
        Ok(match self {
            Self::Nothing { told } if !*told => {
                *told = true;
                Value::Nothing
            }
            Self::NotYet(..) | Self::Nothing { .. } => std::future::pending().await,
            Self::Token(watch) => watch
                .present()
                .await?
                .map_or(Value::Nothing, |token| Value::Token(Box::new(token))),
            Self::Key(watch) => watch.present().await?.map_or(Value::Nothing, Value::Key),
        })
    }
}

/// What is outside the policy ends here, before the store is touched, and is nothing to whoever asks.
async fn follow(Asking { broker, caller }: &Asking, meant: &Meant) -> Result<Followed, Error> {
    let followed = match meant {
        Meant::Token(key) => {
            let watch = broker.follow(caller, key).await;
            watch.map(|watch| Followed::Token(Box::new(watch)))
        }
        Meant::Key(name) => {
            let watch = broker.follow_key(caller, name);
            watch.map(|watch| Followed::Key(Box::new(watch)))
        }
    };
    match followed {
        Err(error @ (Error::Unauthorized { .. } | Error::UnauthorizedKey(_))) => {
            caller.journal.ended(meant.named(), error.reason());
            Ok(Followed::Nothing { told: false })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_stands_for() {
        let long = "x".repeat(65);
        let table = [
            ("token/p/b", Some("p/b")),
            ("token/p/", Some("p/default")),
            ("api-key/k", Some("k")),
            ("token/p", None),
            ("token/", None),
            ("token//b", None),
            ("token/p/b/c", None),
            ("token/p/..", None),
            ("token/p/a b", None),
            ("api-key/", None),
            ("api-key/a/b", None),
            ("API-KEY/k", None),
            ("api-key", None),
            ("refresh/p/b", None),
            ("/token/p/b", None),
            ("*", None),
            ("", None),
            (&format!("token/{long}/b"), None),
            (&format!("api-key/{long}"), None),
        ];
        for (name, want) in table {
            let meant = Meant::by(name).map(|meant| match meant {
                Meant::Token(key) => key.to_string(),
                Meant::Key(name) => name.to_string(),
            });
            assert_eq!(meant.as_deref(), want, "{name}");
        }
    }

    #[test]
    fn a_request_is_held_to_its_bounds() {
        let request = |names: Vec<String>, type_url: &str| DiscoveryRequest {
            resource_names: names,
            type_url: type_url.to_owned(),
            ..DiscoveryRequest::default()
        };
        let many = |count: usize| (0..count).map(|at| format!("token/p/{at}")).collect::<Vec<_>>();
        let count = |request: &DiscoveryRequest| checked(request).map(|names| names.len());
        assert_eq!(count(&request(many(256), TYPE_URL)).unwrap(), 256);
        assert_eq!(count(&request([many(256), many(256)].concat(), "")).unwrap(), 256);
        assert_eq!(count(&request(vec!["x".repeat(256)], "")).unwrap(), 1);
        assert_eq!(count(&request(Vec::new(), "")).unwrap(), 0);
        let table = [
            (request(many(257), ""), "resource_names"),
            (request(vec!["x".repeat(257)], ""), "resource_names"),
            (
                request(Vec::new(), "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
                "type_url",
            ),
        ];
        for (request, want) in table {
            match checked(&request) {
                Err(Error::InvalidRequest { field, .. }) => assert_eq!(field, want),
                other => panic!("{want}: {other:?}"),
            }
        }
    }
}
