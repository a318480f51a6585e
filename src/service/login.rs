//! Logins: InitiateLogin, ExchangeCode, PollLogin, CancelLogin.

use tonic::Request;

use super::{caller, wire};
use crate::{
    broker::{Broker, Error},
    proto,
};

pub(super) async fn initiate_login(
    broker: &Broker,
    request: &Request<proto::InitiateLoginRequest>,
) -> Result<proto::InitiateLoginResponse, Error> {
    let message = request.get_ref();
    let key = wire::entry_key(&message.provider, &message.bucket)?;
    let flow = wire::flow(message.flow)?;
    let begun = broker.initiate_login(&caller(request)?, &key, flow).await?;
    Ok(wire::begun(begun))
}

pub(super) async fn exchange_code(
    broker: &Broker,
    request: Request<proto::ExchangeCodeRequest>,
) -> Result<proto::ExchangeCodeResponse, Error> {
    let caller = caller(&request)?;
    let message = request.into_inner();
    let session = wire::session(&message.session_id)?;
    let code = wire::code(message.code)?;
    let token = broker.exchange_code(&caller, &session, code).await?;
    Ok(proto::ExchangeCodeResponse {
        token: token.map(wire::access_token),
    })
}

pub(super) async fn poll_login(
    broker: &Broker,
    request: &Request<proto::PollLoginRequest>,
) -> Result<proto::PollLoginResponse, Error> {
    let session = wire::session(&request.get_ref().session_id)?;
    Ok(wire::standing(broker.poll_login(&caller(request)?, &session).await?))
}

pub(super) fn cancel_login(
    broker: &Broker,
    request: &Request<proto::CancelLoginRequest>,
) -> Result<proto::CancelLoginResponse, Error> {
    let session = wire::session(&request.get_ref().session_id)?;
    broker.cancel_login(&caller(request)?, &session)?;
    Ok(proto::CancelLoginResponse {})
}
