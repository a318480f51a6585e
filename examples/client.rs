//! A program that needs credentials, the same on the host and in a sandbox:
//!
//! ```sh
//! cargo run --example client                                                # from this host's own store
//! credbroker run --allow '*' -- target/debug/examples/client github         # through the socket of a sandbox
//! ```
//!
//! Without an argument it lists what it may read; with a provider (and a bucket) it asks for that entry's token. It shows
//! no token: it says how long it is.

use std::{process::ExitCode, time::Duration};

use credbroker::client::{self, ApiKeyStore as _, CredentialStore as _, ExposeSecret as _};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next() {
        Some(provider) => show(&provider, &arguments.next().unwrap_or_default()).await,
        None => list().await,
    };
    // In every case, so that a broker in this process ends in order.
    client::shutdown().await;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn show(provider: &str, bucket: &str) -> Result<(), client::Error> {
    let store = client::token_store_from_env()?;
    let entry = client::entry(provider, bucket)?;
    match store.get_token(&entry, Duration::from_secs(60)).await {
        Ok(Some(token)) => {
            let length = token.access_token.expose_secret().len();
            match token.expires_in {
                Some(left) => println!("{entry}: a token of {length} bytes, good for {} s", left.as_secs()),
                None => println!("{entry}: a token of {length} bytes that does not expire"),
            }
        }
        Ok(None) => println!("{entry}: there is none"),
        // One reason of many; each has a variant. The message says what to do.
        Err(client::Error::NeedsLogin(refusal)) => println!("{entry}: {}", refusal.message),
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn list() -> Result<(), client::Error> {
    let store = client::token_store_from_env()?;
    println!(
        "{}",
        if store.in_sandbox() {
            "in a sandbox"
        } else {
            "on the host"
        }
    );
    for provider in store.list_providers().await? {
        for bucket in store.list_buckets(&provider).await? {
            println!("entry {provider}/{bucket}");
        }
    }
    for name in store.list_api_keys().await? {
        println!("API key {name}");
    }
    Ok(())
}
