//! Tokens: GetToken, SaveToken, RemoveToken, the lists and the counts.

use tonic::Request;

use super::{caller_about, wire};
use crate::{
    broker::{Broker, Error, caller::Named},
    proto,
};

pub(super) async fn get_token(
    broker: &Broker,
    request: &Request<proto::GetTokenRequest>,
) -> Result<proto::GetTokenResponse, Error> {
    let message = request.get_ref();
    let key = wire::entry_key(&message.provider, &message.bucket)?;
    let caller = caller_about(request, Named::Entry(key.clone()))?;
    let min_validity = wire::min_validity(message.min_validity)?;
    let token = broker.token(&caller, &key, min_validity).await?;
    Ok(proto::GetTokenResponse {
        token: Some(wire::access_token(token)),
    })
}

pub(super) async fn save_token(
    broker: &Broker,
    request: Request<proto::SaveTokenRequest>,
) -> Result<proto::SaveTokenResponse, Error> {
    let key = wire::entry_key(&request.get_ref().provider, &request.get_ref().bucket)?;
    let caller = caller_about(&request, Named::Entry(key.clone()))?;
    let saved = wire::saved_token(request.into_inner().token)?;
    broker.save_token(&caller, &key, saved).await?;
    Ok(proto::SaveTokenResponse {})
}

pub(super) async fn remove_token(
    broker: &Broker,
    request: &Request<proto::RemoveTokenRequest>,
) -> Result<proto::RemoveTokenResponse, Error> {
    let message = request.get_ref();
    let key = wire::entry_key(&message.provider, &message.bucket)?;
    let caller = caller_about(request, Named::Entry(key.clone()))?;
    let revocation = broker.remove_token(&caller, &key).await?;
    Ok(proto::RemoveTokenResponse {
        revocation: wire::revocation(revocation).into(),
    })
}

pub(super) async fn refresh_token(
    broker: &Broker,
    request: &Request<proto::RefreshTokenRequest>,
) -> Result<proto::RefreshTokenResponse, Error> {
    let message = request.get_ref();
    let key = wire::entry_key(&message.provider, &message.bucket)?;
    let caller = caller_about(request, Named::Entry(key.clone()))?;
    let revision = wire::revision(&message.revision)?;
    let token = broker.refresh_token(&caller, &key, revision.as_ref()).await?;
    Ok(proto::RefreshTokenResponse {
        token: Some(wire::access_token(token)),
    })
}

pub(super) async fn list_providers(
    broker: &Broker,
    request: &Request<proto::ListProvidersRequest>,
) -> Result<proto::ListProvidersResponse, Error> {
    let message = request.get_ref();
    let list = wire::List::Providers;
    let page = wire::page_request(&list, message.page_size, &message.page_token)?;
    let page = broker.list_providers(&super::caller(request)?, &page).await?;
    Ok(proto::ListProvidersResponse {
        next_page_token: wire::page_token(&list, page.next.as_ref()),
        providers: wire::names(page),
    })
}

pub(super) async fn list_buckets(
    broker: &Broker,
    request: &Request<proto::ListBucketsRequest>,
) -> Result<proto::ListBucketsResponse, Error> {
    let message = request.get_ref();
    let provider = wire::name("provider", &message.provider)?;
    let caller = caller_about(request, Named::Provider(provider.clone()))?;
    let list = wire::List::Buckets(&provider);
    let page = wire::page_request(&list, message.page_size, &message.page_token)?;
    let page = broker.list_buckets(&caller, &provider, &page).await?;
    Ok(proto::ListBucketsResponse {
        next_page_token: wire::page_token(&list, page.next.as_ref()),
        buckets: wire::names(page),
    })
}

pub(super) async fn get_bucket_stats(
    broker: &Broker,
    request: &Request<proto::GetBucketStatsRequest>,
) -> Result<proto::GetBucketStatsResponse, Error> {
    let message = request.get_ref();
    let key = wire::entry_key(&message.provider, &message.bucket)?;
    let caller = caller_about(request, Named::Entry(key.clone()))?;
    let stats = broker.bucket_stats(&caller, &key).await?;
    Ok(proto::GetBucketStatsResponse {
        stats: Some(wire::bucket_stats(&key, &stats)),
    })
}
