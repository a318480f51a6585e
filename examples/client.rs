//! A program that needs credentials, the same on the host and in a sandbox:
//!
//! ```sh
//! cargo run --example client                                                # from this host's own store
//! credbroker run --allow '*' -- target/debug/examples/client github         # through the socket of a sandbox
//! ```
//!
//! Without an argument it lists what it may read; with a provider (and a bucket) it asks for that entry's token; with
//! `follow` before it, it goes on with each new one until the entry is removed or the broker stops. It shows no token: it
//! says how long it is.

use std::{process::ExitCode, sync::Arc, time::Duration};

use credbroker::client::{self, ApiKeyStore as _, CredentialStore as _, ExposeSecret as _, TokenHandle};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next() {
        Some(follow) if follow == "follow" => {
            let provider = arguments.next().unwrap_or_default();
            follow_entry(&provider, &arguments.next().unwrap_or_default()).await
        }
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

/// A program that needs the token now and then asks a handle each time, and waits on the network only while there is none.
async fn follow_entry(provider: &str, bucket: &str) -> Result<(), client::Error> {
    let store = client::token_store_from_env()?;
    let handle = TokenHandle::new(Arc::new(store), client::entry(provider, bucket)?);
    let mut token = handle.token().await?;
    loop {
        let length = token.access_token.expose_secret().len();
        println!("{}: a token of {length} bytes", handle.entry());
        token = handle.changed(&token.revision).await?;
    }
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
