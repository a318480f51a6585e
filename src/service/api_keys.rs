//! API keys: GetApiKey and ListApiKeys. Setting and removing them is the host's, without an RPC.

use secrecy::ExposeSecret as _;
use tonic::Request;

use super::{caller_about, wire};
use crate::{
    broker::{Broker, Error, caller::Named},
    proto,
};

pub(super) async fn get_api_key(
    broker: &Broker,
    request: &Request<proto::GetApiKeyRequest>,
) -> Result<proto::GetApiKeyResponse, Error> {
    let name = wire::name("name", &request.get_ref().name)?;
    let caller = caller_about(request, Named::Key(name.clone()))?;
    let key = broker.api_key(&caller, &name).await?;
    Ok(proto::GetApiKeyResponse {
        api_key: key.expose_secret().to_owned(),
    })
}

pub(super) async fn list_api_keys(
    broker: &Broker,
    request: &Request<proto::ListApiKeysRequest>,
) -> Result<proto::ListApiKeysResponse, Error> {
    let message = request.get_ref();
    let list = wire::List::ApiKeys;
    let page = wire::page_request(&list, message.page_size, &message.page_token)?;
    let page = broker.list_api_keys(&super::caller(request)?, &page).await?;
    Ok(proto::ListApiKeysResponse {
        next_page_token: wire::page_token(&list, page.next.as_ref()),
        names: wire::names(page),
    })
}
