//! What a Rust program in a sandbox uses to reach its broker: one connection over the Unix socket, typed errors.
//!
//! The client never refreshes anything itself and never reconnects: a connection that is lost stays lost, because only
//! the one who started the sandbox can tell whether a broker that comes later at the same path is the right one.

mod error;

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{
    credential::{AccessToken, EntryKey, Name},
    proto::{self, control_broker_client::ControlBrokerClient, credential_broker_client::CredentialBrokerClient},
};
pub use error::Error;

/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The protocol version this client speaks.
const PROTOCOL_VERSION: u32 = 1;

/// A connection to a broker's sandbox socket, after the version handshake.
#[derive(Clone)]
pub struct Client {
    stub: CredentialBrokerClient<InterceptedService<Channel, Capability>>,
    server: ServerInfo,
}

/// What the broker said of itself.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// The broker's own version.
    pub version: String,
    /// What it offers beyond the first version of the protocol.
    pub features: Vec<String>,
}

/// The counts of one bucket.
#[derive(Debug, Clone)]
pub struct BucketStats {
    /// How many times the broker delivered a token of the bucket since it started.
    pub request_count: u64,
    /// Its share among the buckets of the provider that the policy allows, 0 to 100.
    pub percentage: f64,
    /// The last delivery.
    pub last_used: Option<Timestamp>,
}

impl Client {
    /// Connects to the socket and agrees on the protocol version.
    ///
    /// # Errors
    /// [`Error::CannotConnect`], [`Error::VersionMismatch`], or what the broker answers.
    pub async fn connect(socket: PathBuf, capability: Option<&SecretString>) -> Result<Self, Error> {
        let capability = Capability::new(capability)?;
        let channel = channel(socket).await?;
        let mut stub = CredentialBrokerClient::with_interceptor(channel, capability);
        let info = stub
            .get_server_info(proto::GetServerInfoRequest {
                min_version: PROTOCOL_VERSION,
                max_version: PROTOCOL_VERSION,
            })
            .await?
            .into_inner();
        if info.version != PROTOCOL_VERSION {
            return Err(Error::VersionMismatch);
        }
        Ok(Self {
            stub,
            server: ServerInfo {
                version: info.server_version,
                features: info.features,
            },
        })
    }

    /// What the broker said of itself.
    #[must_use]
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// A usable access token. `None`: there is no such entry.
    ///
    /// # Errors
    /// What the broker answers.
    pub async fn get_token(&self, key: &EntryKey, min_validity: Duration) -> Result<Option<AccessToken>, Error> {
        let request = proto::GetTokenRequest {
            provider: key.provider.to_string(),
            bucket: key.bucket.to_string(),
            min_validity: prost_types::Duration::try_from(min_validity).ok(),
        };
        let answer = present(self.stub.clone().get_token(request).await)?;
        answer
            .map(|answer| answer.token.map(access_token).ok_or_else(Error::malformed))
            .transpose()
    }

    /// The providers of which at least one entry may be read.
    ///
    /// # Errors
    /// What the broker answers.
    pub async fn list_providers(&self) -> Result<Vec<Name>, Error> {
        let mut names = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListProvidersRequest {
                page_size: 0,
                page_token,
            };
            let page = self.stub.clone().list_providers(request).await?.into_inner();
            names.extend(parsed(&page.providers)?);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(names);
            }
        }
    }

    /// The buckets of a provider that may be read.
    ///
    /// # Errors
    /// What the broker answers.
    pub async fn list_buckets(&self, provider: &Name) -> Result<Vec<Name>, Error> {
        let mut names = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListBucketsRequest {
                provider: provider.to_string(),
                page_size: 0,
                page_token,
            };
            let page = self.stub.clone().list_buckets(request).await?.into_inner();
            names.extend(parsed(&page.buckets)?);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(names);
            }
        }
    }

    /// The counts of a bucket. `None`: there is no such entry.
    ///
    /// # Errors
    /// What the broker answers.
    pub async fn get_bucket_stats(&self, key: &EntryKey) -> Result<Option<BucketStats>, Error> {
        let request = proto::GetBucketStatsRequest {
            provider: key.provider.to_string(),
            bucket: key.bucket.to_string(),
        };
        let answer = present(self.stub.clone().get_bucket_stats(request).await)?;
        answer
            .map(|answer| {
                let stats = answer.stats.ok_or_else(Error::malformed)?;
                Ok(BucketStats {
                    request_count: stats.request_count,
                    percentage: stats.percentage,
                    last_used: stats.last_used_time.as_ref().and_then(timestamp),
                })
            })
            .transpose()
    }

    /// An API key. `None`: there is none of that name.
    ///
    /// # Errors
    /// What the broker answers.
    pub async fn get_api_key(&self, name: &Name) -> Result<Option<SecretString>, Error> {
        let request = proto::GetApiKeyRequest { name: name.to_string() };
        let answer = present(self.stub.clone().get_api_key(request).await)?;
        Ok(answer.map(|answer| SecretString::from(answer.api_key)))
    }

    /// The names of the API keys that may be read.
    ///
    /// # Errors
    /// What the broker answers.
    pub async fn list_api_keys(&self) -> Result<Vec<Name>, Error> {
        let mut names = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListApiKeysRequest {
                page_size: 0,
                page_token,
            };
            let page = self.stub.clone().list_api_keys(request).await?.into_inner();
            names.extend(parsed(&page.names)?);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(names);
            }
        }
    }
}

/// Asks a running broker for its state over its control socket: every page of its entries in one answer.
///
/// # Errors
/// [`Error::CannotConnect`], or what the broker answers.
pub async fn broker_status(control_socket: PathBuf) -> Result<proto::GetStatusResponse, Error> {
    let mut stub = ControlBrokerClient::new(channel(control_socket).await?);
    let mut status = stub.get_status(proto::GetStatusRequest::default()).await?.into_inner();
    while !status.next_page_token.is_empty() {
        let request = proto::GetStatusRequest {
            page_size: 0,
            page_token: std::mem::take(&mut status.next_page_token),
        };
        let page = stub.get_status(request).await?.into_inner();
        status.entries.extend(page.entries);
        status.next_page_token = page.next_page_token;
    }
    Ok(status)
}

async fn channel(socket: PathBuf) -> Result<Channel, Error> {
    // The name is never resolved: the connector knows the way. It is what the broker sees as `:authority`.
    Endpoint::from_static("http://localhost")
        .timeout(CALL_TIMEOUT)
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .map_err(Error::cannot_connect)
}

/// `NOT_FOUND` is an answer, not a failure: there is nothing of that name.
fn present<T>(result: Result<tonic::Response<T>, Status>) -> Result<Option<T>, Error> {
    match result.map_err(Error::from) {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn parsed(names: &[String]) -> Result<Vec<Name>, Error> {
    names
        .iter()
        .map(|name| name.parse().map_err(|_invalid| Error::malformed()))
        .collect()
}

fn access_token(token: proto::AccessToken) -> AccessToken {
    AccessToken {
        access_token: SecretString::from(token.access_token),
        expire_time: token.expire_time.as_ref().and_then(timestamp),
        expires_in: token.expires_in.and_then(|left| Duration::try_from(left).ok()),
        token_type: token.token_type,
        scope: token.scope,
        extra: token.extra.into_iter().collect(),
        revision: token.revision,
    }
}

/// A wire timestamp; `None` if it lies outside the years that can be told.
#[must_use]
pub fn timestamp(at: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(at.seconds, at.nanos).ok()
}

/// Puts the sandbox's capability into every call.
#[derive(Clone)]
pub struct Capability(Option<MetadataValue<Ascii>>);

impl Capability {
    fn new(capability: Option<&SecretString>) -> Result<Self, Error> {
        let header = capability
            .map(|capability| {
                let mut value: MetadataValue<Ascii> = format!("Bearer {}", capability.expose_secret())
                    .parse()
                    .map_err(|_invalid| Error::InvalidCapability)?;
                // Kept out of every Debug output below.
                value.set_sensitive(true);
                Ok::<_, Error>(value)
            })
            .transpose()?;
        Ok(Self(header))
    }
}

impl Interceptor for Capability {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(capability) = &self.0 {
            request.metadata_mut().insert("authorization", capability.clone());
        }
        Ok(request)
    }
}
