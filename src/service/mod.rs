//! The RPC surface: decode, ask the broker, encode. No loops, no clocks, no decisions.
//!
//! The generated trait wants one `impl` for all methods; it stands here and hands each family to its own file.
//! `tonic::Status` and wire types stop in this folder.

mod api_keys;
pub mod control;
mod credentials;
pub mod health;
mod login;
#[cfg(feature = "envoy")]
pub mod secret_discovery;
pub mod status;
mod watch;
mod wire;

use tonic::{Request, Response, Status};

use crate::{
    broker::{Broker, Caller, Error, caller::Named},
    proto::{self, credential_broker_server},
};

/// The protocol version this broker speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// What it offers beyond the first version of the protocol: nothing yet.
const FEATURES: [&str; 0] = [];

/// Serves `credbroker.v1.CredentialBroker`.
#[derive(Clone)]
pub struct CredentialService {
    broker: Broker,
}

impl CredentialService {
    /// Serves this broker.
    #[must_use]
    pub fn new(broker: Broker) -> Self {
        Self { broker }
    }
}

/// The caller that the layers put into the request, told what the call is about for the record.
fn caller<T>(request: &Request<T>) -> Result<Caller, Error> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Error::Internal("a call reached its handler without a caller".into()))
}

fn caller_about<T>(request: &Request<T>, named: Named) -> Result<Caller, Error> {
    let caller = caller(request)?;
    caller.subject.is(named);
    Ok(caller)
}

/// Ends a handler: the one way from the domain's result to tonic's.
fn answer<T: prost::Message>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result
        .and_then(|answer| {
            if answer.encoded_len() > status::MAX_MESSAGE_SIZE {
                return Err(Error::AnswerTooLarge {
                    limit: status::MAX_MESSAGE_SIZE,
                });
            }
            Ok(Response::new(answer))
        })
        .map_err(|error| status::from_error(&error))
}

#[tonic::async_trait]
impl credential_broker_server::CredentialBroker for CredentialService {
    async fn get_server_info(
        &self,
        request: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        answer(server_info(request.get_ref()))
    }

    async fn get_token(
        &self,
        request: Request<proto::GetTokenRequest>,
    ) -> Result<Response<proto::GetTokenResponse>, Status> {
        answer(credentials::get_token(&self.broker, &request).await)
    }

    async fn save_token(
        &self,
        request: Request<proto::SaveTokenRequest>,
    ) -> Result<Response<proto::SaveTokenResponse>, Status> {
        answer(credentials::save_token(&self.broker, request).await)
    }

    async fn remove_token(
        &self,
        request: Request<proto::RemoveTokenRequest>,
    ) -> Result<Response<proto::RemoveTokenResponse>, Status> {
        answer(credentials::remove_token(&self.broker, &request).await)
    }

    async fn refresh_token(
        &self,
        request: Request<proto::RefreshTokenRequest>,
    ) -> Result<Response<proto::RefreshTokenResponse>, Status> {
        answer(credentials::refresh_token(&self.broker, &request).await)
    }

    type WatchTokenStream = watch::Tokens;

    async fn watch_token(
        &self,
        request: Request<proto::WatchTokenRequest>,
    ) -> Result<Response<Self::WatchTokenStream>, Status> {
        let answered = watch::watch_token(&self.broker, &request).await;
        answered.map_err(|error| status::from_error(&error))
    }

    async fn list_providers(
        &self,
        request: Request<proto::ListProvidersRequest>,
    ) -> Result<Response<proto::ListProvidersResponse>, Status> {
        answer(credentials::list_providers(&self.broker, &request).await)
    }

    async fn list_buckets(
        &self,
        request: Request<proto::ListBucketsRequest>,
    ) -> Result<Response<proto::ListBucketsResponse>, Status> {
        answer(credentials::list_buckets(&self.broker, &request).await)
    }

    async fn get_bucket_stats(
        &self,
        request: Request<proto::GetBucketStatsRequest>,
    ) -> Result<Response<proto::GetBucketStatsResponse>, Status> {
        answer(credentials::get_bucket_stats(&self.broker, &request).await)
    }

    async fn get_api_key(
        &self,
        request: Request<proto::GetApiKeyRequest>,
    ) -> Result<Response<proto::GetApiKeyResponse>, Status> {
        answer(api_keys::get_api_key(&self.broker, &request).await)
    }

    async fn list_api_keys(
        &self,
        request: Request<proto::ListApiKeysRequest>,
    ) -> Result<Response<proto::ListApiKeysResponse>, Status> {
        answer(api_keys::list_api_keys(&self.broker, &request).await)
    }

    async fn initiate_login(
        &self,
        request: Request<proto::InitiateLoginRequest>,
    ) -> Result<Response<proto::InitiateLoginResponse>, Status> {
        answer(login::initiate_login(&self.broker, &request).await)
    }

    async fn exchange_code(
        &self,
        request: Request<proto::ExchangeCodeRequest>,
    ) -> Result<Response<proto::ExchangeCodeResponse>, Status> {
        answer(login::exchange_code(&self.broker, request).await)
    }

    async fn poll_login(
        &self,
        request: Request<proto::PollLoginRequest>,
    ) -> Result<Response<proto::PollLoginResponse>, Status> {
        answer(login::poll_login(&self.broker, &request).await)
    }

    async fn cancel_login(
        &self,
        request: Request<proto::CancelLoginRequest>,
    ) -> Result<Response<proto::CancelLoginResponse>, Status> {
        answer(login::cancel_login(&self.broker, &request))
    }
}

fn server_info(request: &proto::GetServerInfoRequest) -> Result<proto::GetServerInfoResponse, Error> {
    let (min, max) = (request.min_version, request.max_version);
    if max != 0 && min > max {
        return Err(Error::InvalidRequest {
            field: "min_version",
            problem: "it is larger than max_version: swap them, or send 0 for no bound".into(),
        });
    }
    if min > PROTOCOL_VERSION || (max != 0 && max < PROTOCOL_VERSION) {
        return Err(Error::UnknownVersion { ours: PROTOCOL_VERSION });
    }
    Ok(proto::GetServerInfoResponse {
        version: PROTOCOL_VERSION,
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        features: FEATURES.map(str::to_owned).to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    #[test]
    fn version_table() {
        let ok = Ok(1);
        let table = [
            (0, 0, ok),
            (1, 1, ok),
            (0, 1, ok),
            (1, 0, ok),
            (1, 9, ok),
            (2, 0, Err(Reason::UnknownVersion)),
            (2, 3, Err(Reason::UnknownVersion)),
            (2, 1, Err(Reason::InvalidRequest)),
        ];
        for (min_version, max_version, want) in table {
            let got = server_info(&proto::GetServerInfoRequest {
                min_version,
                max_version,
            });
            assert_eq!(
                got.map(|i| i.version).map_err(|e| e.reason()),
                want,
                "{min_version}..{max_version}"
            );
        }
    }
}
