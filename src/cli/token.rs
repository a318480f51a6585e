//! `token get|import|list`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    process::ExitCode,
};

use secrecy::ExposeSecret as _;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    cli::{
        args::{TokenCommand, TokenGetArgs, TokenImportArgs, TokenRefreshArgs},
        failure::Failure,
        output,
        session::Session,
    },
    clock::{Clock as _, SystemClock},
    credential::{AccessToken, EntryKey, parse_answer},
    daemon,
};

/// The largest file that is taken for a token answer: an access token, a refresh token and an ID token fit many times.
const MAX_IMPORT: u64 = 256 * 1024;

pub(super) async fn token(session: &Session, command: TokenCommand) -> Result<ExitCode, Failure> {
    match command {
        TokenCommand::Get(arguments) => get(session, arguments).await?,
        TokenCommand::Refresh(arguments) => refresh(session, arguments).await?,
        TokenCommand::Import(arguments) => import(session, arguments).await?,
        TokenCommand::List => {
            for entry in session.entries().await? {
                output::line(&entry.to_string())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(session: &Session, arguments: TokenGetArgs) -> Result<(), Failure> {
    let key = EntryKey {
        provider: arguments.provider,
        bucket: arguments.bucket,
    };
    let token = session.token(&key, arguments.min_validity).await?;
    if arguments.json {
        return output::json(&as_json(&token));
    }
    let text = Zeroizing::new(if arguments.header {
        format!("authorization: Bearer {}", token.access_token.expose_secret())
    } else {
        token.access_token.expose_secret().to_owned()
    });
    output::line(&text)
}

async fn refresh(session: &Session, arguments: TokenRefreshArgs) -> Result<(), Failure> {
    let key = EntryKey {
        provider: arguments.provider,
        bucket: arguments.bucket,
    };
    let token = session.refresh(&key, None).await?;
    let validity = match token.expire_time {
        None => "does not expire".to_owned(),
        Some(at) => format!("expires {}", output::relative(at, SystemClock::new().now().wall)),
    };
    output::note(&format!("refreshed {key}; the access token {validity}"));
    Ok(())
}

fn as_json(token: &AccessToken) -> serde_json::Value {
    json!({
        "access_token": token.access_token.expose_secret(),
        "expire_time": token.expire_time.map(|at| at.to_string()),
        "expires_in": token.expires_in.map(|left| left.as_secs()),
        "token_type": token.token_type,
        "scope": token.scope,
        "extra": token.extra,
        "revision": token.revision,
    })
}

async fn import(session: &Session, arguments: TokenImportArgs) -> Result<(), Failure> {
    let (broker, config) = session.keeping_host()?;
    let key = EntryKey {
        provider: arguments.provider,
        bucket: arguments.bucket,
    };
    let answer = read(&arguments.file)?;
    let clock = SystemClock::new();
    let now = clock.now();
    let tokens =
        parse_answer(&answer, &daemon::answer_rules(config, &key.provider), "import", &now).map_err(|error| {
            Failure::bad_data(format!(
                "{} is no token answer: {error}; give the JSON that the provider answered with",
                name_of(&arguments.file)
            ))
        })?;
    let stored = broker.import(&key, tokens).await?;
    let tokens = &stored.tokens;
    let validity = match &tokens.expiry {
        None => "does not expire".to_owned(),
        Some(expiry) if expiry.remaining(&now).is_zero() => "has expired already".to_owned(),
        Some(expiry) => format!("expires {}", output::relative(expiry.at, now.wall)),
    };
    let refresh = if tokens.refresh_token.is_some() {
        "with a refresh token"
    } else {
        "without a refresh token"
    };
    output::note(&format!("stored {key} {refresh}; the access token {validity}"));
    Ok(())
}

fn name_of(file: &Path) -> String {
    if file == Path::new("-") {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    }
}

/// The whole file or standard input, zeroized when it is dropped.
fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let cannot = |error: io::Error| {
        Failure::bad_data(format!(
            "cannot read {}: {error}; give a file that holds the provider's token answer alone, or - for standard input",
            name_of(file)
        ))
    };
    if file == Path::new("-") {
        if io::IsTerminal::is_terminal(&io::stdin()) {
            output::note("reading the token answer from the terminal; end it with Ctrl-D");
        }
        return bounded(io::stdin().lock(), MAX_IMPORT).map_err(cannot);
    }
    bounded(File::open(file).map_err(cannot)?, MAX_IMPORT).map_err(cannot)
}

/// At most `max` bytes, in one allocation, so that growing leaves no copies of a secret behind.
pub(super) fn bounded(reader: impl Read, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let capacity = usize::try_from(max).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    reader.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("it is larger than {max} bytes")));
    }
    Ok(bytes)
}
