//! The child: a plain gRPC client with generated stubs, as any program in a sandbox would have it.

use std::error::Error;

use credbroker::proto::{GetApiKeyRequest, GetTokenRequest, credential_broker_client::CredentialBrokerClient as Stub};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::{RECORD, recorder};

#[expect(
    clippy::disallowed_methods,
    reason = "a client reads where its broker is from the environment"
)]
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::var("CREDBROKER_SOCKET")?;
    let capability = std::env::var("CREDBROKER_CAPABILITY")?;
    let (channel, record) = recorder::connect(&socket).await?;
    let broker = Stub::new(channel);
    println!("    child: connected to {socket}");

    let token = broker.clone().get_token(with(&capability, token_of("github"))?).await?;
    let token = token.into_inner().token.ok_or("an answer without a token")?;
    println!("    child: GetToken github       -> {}", token.access_token);
    let key = broker
        .clone()
        .get_api_key(with(&capability, key_named("openai"))?)
        .await?;
    println!("    child: GetApiKey openai      -> {}", key.into_inner().api_key);

    let mut stub = broker.clone();
    refused(
        "GetToken gitlab",
        stub.get_token(with(&capability, token_of("gitlab"))?).await,
        "UNAUTHORIZED",
    )?;
    refused(
        "GetApiKey stripe",
        stub.get_api_key(with(&capability, key_named("stripe"))?).await,
        "UNAUTHORIZED",
    )?;
    refused(
        "no capability",
        stub.get_token(token_of("github")).await,
        "UNAUTHENTICATED",
    )?;
    let wrong = "00".repeat(32);
    refused(
        "a wrong capability",
        stub.get_token(with(&wrong, token_of("github"))?).await,
        "UNAUTHENTICATED",
    )?;

    drop((broker, stub));
    std::fs::write(std::env::var(RECORD)?, record.bytes())?;
    Ok(())
}

fn token_of(provider: &str) -> GetTokenRequest {
    GetTokenRequest {
        provider: provider.to_owned(),
        ..GetTokenRequest::default()
    }
}

fn key_named(name: &str) -> GetApiKeyRequest {
    GetApiKeyRequest { name: name.to_owned() }
}

/// The request with the capability as every call carries it.
fn with<T>(capability: &str, message: T) -> Result<Request<T>, Box<dyn Error>> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {capability}").parse()?);
    Ok(request)
}

/// The call must have been refused, for this reason.
fn refused<T>(what: &str, result: Result<Response<T>, Status>, reason: &str) -> Result<(), Box<dyn Error>> {
    let Err(status) = result else {
        return Err(format!("{what} was not refused").into());
    };
    let told = status.get_details_error_info().map(|info| info.reason);
    if told.as_deref() != Some(reason) {
        return Err(format!("{what} was refused with {told:?}, not {reason}").into());
    }
    println!("    child: {what:<21} -> refused, {reason}");
    Ok(())
}
