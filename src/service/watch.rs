//! WatchToken: an entry's tokens as they come.

use std::pin::Pin;

use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{caller_about, status, wire};
use crate::{
    broker::{Broker, Error, Watch, caller::Named},
    proto,
};

/// The answer to a WatchToken.
pub(super) type Tokens = Pin<Box<dyn Stream<Item = Result<proto::WatchTokenResponse, Status>> + Send>>;

/// Answers when there is a first token; each further one is looked for when the reader has taken the one before, so that a
/// slow reader gets the newest.
pub(super) async fn watch_token(
    broker: &Broker,
    request: &Request<proto::WatchTokenRequest>,
) -> Result<Response<Tokens>, Error> {
    let message = request.get_ref();
    let key = wire::entry_key(&message.provider, &message.bucket)?;
    let caller = caller_about(request, Named::Entry(key.clone()))?;
    let watch = broker.watch(&caller, &key).await?;
    let tokens = stream::unfold(Some(watch), |watch| async move {
        let mut watch: Watch = watch?;
        Some(match watch.token().await {
            Ok(token) => {
                let token = Some(wire::access_token(token));
                (Ok(proto::WatchTokenResponse { token }), Some(watch))
            }
            Err(error) => (Err(status::from_error(&error)), None),
        })
    });
    Ok(Response::new(Box::pin(tokens)))
}
