//! `login`: shows a person what to open, and sees the login through.

mod browser;
mod code;
mod events;
mod interrupt;
mod screen;

use std::process::ExitCode;

use self::{browser::Browser, events::Event, interrupt::Interrupt, screen::Screen};
use crate::{
    cli::{args::LoginArgs, failure::Failure, output, session::Session},
    client::{self, LoginFlow},
    clock::{Clock as _, SystemClock},
    config::{Config, Environment},
    credential::{AccessToken, EntryKey},
};

pub(super) async fn login(
    config: impl FnOnce() -> Result<Config, Failure>,
    environment: &Environment,
    arguments: LoginArgs,
) -> Result<ExitCode, Failure> {
    let json = arguments.json;
    let done = attempt(config, environment, arguments).await;
    if let Err(failure) = &done
        && json
    {
        events::print(&Event::error(failure))?;
    }
    done.map(|()| ExitCode::SUCCESS)
}

async fn attempt(
    config: impl FnOnce() -> Result<Config, Failure>,
    environment: &Environment,
    arguments: LoginArgs,
) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let session = Session::open(config, environment).await?;
    let key = EntryKey {
        provider: arguments.provider,
        bucket: arguments.bucket,
    };
    let done = log_in(
        &session,
        environment,
        &interrupt,
        &key,
        arguments.flow,
        arguments.json,
        arguments.no_browser,
    )
    .await;
    let done = match done {
        Ok(token) => told(&session, &key, token.as_ref(), arguments.json).await,
        Err(failure) => Err(failure),
    };
    session.close().await;
    done
}

/// `None`: it is done, but this sandbox may not read the token.
async fn log_in(
    session: &Session,
    environment: &Environment,
    interrupt: &Interrupt,
    key: &EntryKey,
    flow: Option<LoginFlow>,
    json: bool,
    no_browser: bool,
) -> Result<Option<AccessToken>, Failure> {
    let (expected, secrets) = match session {
        Session::Host { config, .. } => {
            session.keeping_host()?;
            let provider = config.providers.get(&key.provider);
            (
                flow.or(provider.and_then(|provider| provider.flow)),
                config.secret_variables(),
            )
        }
        Session::Sandbox(_) => (flow, Vec::new()),
    };
    let browser = Browser::find(environment, &secrets).filter(|_| !no_browser);
    let mut screen = Screen::new(interrupt.clone(), browser, expected, session.is_sandbox(), json);
    let adapter = session.login_adapter();
    let done = tokio::select! {
        biased;
        done = adapter.login(key, flow, &mut screen) => done,
        // Nothing is shown yet, so there is nothing to take back.
        () = interrupt.before_the_prompt() => Err(client::Error::LoginCancelled),
    };
    screen.clear();
    match done {
        Err(client::Error::LoginCancelled) => Err(interrupt
            .signal()
            .map(Failure::cancelled)
            .or(screen.into_failure())
            .unwrap_or_else(|| client::Error::LoginCancelled.into())),
        done => Ok(done?),
    }
}

/// Says who was logged in, and until when.
async fn told(session: &Session, key: &EntryKey, token: Option<&AccessToken>, json: bool) -> Result<(), Failure> {
    // A sandbox is not told whose account it is.
    let stored = match session {
        Session::Host { broker, .. } => broker.entry(key).await,
        Session::Sandbox(_) => None,
    };
    let subject = stored.as_ref().and_then(|stored| stored.subject.as_deref());
    let expire_time = match token {
        Some(token) => token.expire_time,
        None => stored.as_ref().and_then(|stored| stored.expire_time),
    };
    if json {
        return events::print(&Event::Complete {
            provider: &key.provider,
            bucket: &key.bucket,
            subject,
            expire_time,
        });
    }
    let account = match (subject, session.is_sandbox()) {
        (Some(subject), _) => format!(" as {subject}"),
        (None, false) => " (the provider did not say whose account it is)".to_owned(),
        (None, true) => String::new(),
    };
    let validity = match (token, expire_time) {
        (None, None) if session.is_sandbox() => "this sandbox may not read the access token".to_owned(),
        (_, None) => "the access token does not expire".to_owned(),
        (_, Some(at)) => format!(
            "the access token expires {}",
            output::relative(at, SystemClock::new().now().wall)
        ),
    };
    output::note(&format!("logged in to {key}{account}; {validity}"));
    Ok(())
}
