//! The child: a plain gRPC client with generated stubs, as any program in a sandbox would have it.

use std::{error::Error, time::Duration};

use credbroker::proto::{
    AccessToken, GetApiKeyRequest, GetTokenRequest, credential_broker_client::CredentialBrokerClient,
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{RECORD, recorder};

/// How long the child watches its token being renewed.
const WATCH: Duration = Duration::from_secs(20);
/// How often it asks.
const PAUSE: Duration = Duration::from_millis(200);

type Stub = CredentialBrokerClient<Channel>;

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

    let first = token(&broker, &capability).await?;
    println!("    child: GetToken acme         -> {}", first.access_token);
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
        stub.get_token(token_of("acme")).await,
        "UNAUTHENTICATED",
    )?;
    let wrong = "00".repeat(32);
    refused(
        "a wrong capability",
        stub.get_token(with(&wrong, token_of("acme"))?).await,
        "UNAUTHENTICATED",
    )?;

    watch(&broker, &capability, first).await?;
    drop((broker, stub));
    std::fs::write(std::env::var(RECORD)?, record.bytes())?;
    Ok(())
}

/// Asks for the token again and again, and sees a new one before the old one expires.
async fn watch(broker: &Stub, capability: &str, first: AccessToken) -> Result<(), Box<dyn Error>> {
    println!("    child: watches its token for {} s", WATCH.as_secs());
    // Drawn on a terminal only.
    let progress = ProgressBar::new(WATCH.as_secs()).with_style(ProgressStyle::with_template(
        "    child: {bar:16} {pos:>2}/{len} s  {msg}",
    )?);
    let began = Instant::now();
    let (mut current, mut asked) = (first, 0_u32);
    while began.elapsed() < WATCH {
        sleep(PAUSE).await;
        let token = token(broker, capability).await?;
        asked += 1;
        let left = seconds_left(&token)?;
        if left <= 0.0 {
            return Err("an expired token was handed out".into());
        }
        if token.revision != current.revision {
            progress.suspend(|| {
                println!(
                    "    child: {:>4.1} s: renewed    -> {}",
                    began.elapsed().as_secs_f64(),
                    token.access_token
                );
            });
            current = token;
        }
        progress.set_position(began.elapsed().as_secs());
        progress.set_message(format!("{} is good for {left:.1} s more", current.access_token));
    }
    progress.finish_and_clear();
    println!("    child: asked {asked} times, and never got an expired token");
    Ok(())
}

async fn token(broker: &Stub, capability: &str) -> Result<AccessToken, Box<dyn Error>> {
    let answer = broker.clone().get_token(with(capability, token_of("acme"))?).await?;
    Ok(answer.into_inner().token.ok_or("an answer without a token")?)
}

fn seconds_left(token: &AccessToken) -> Result<f64, Box<dyn Error>> {
    let left = token.expires_in.ok_or("a token without an end")?;
    Ok(Duration::try_from(left)?.as_secs_f64())
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
