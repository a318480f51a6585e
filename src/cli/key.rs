//! `key set|get|list|remove`.

use std::{io, process::ExitCode};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::{
    cli::{args::KeyCommand, failure::Failure, output, session::Session, token::bounded},
    credential::{MAX_SECRET, Name},
};

pub(super) async fn key(session: &Session, command: KeyCommand) -> Result<ExitCode, Failure> {
    match command {
        KeyCommand::Set { name } => set(session, &name).await?,
        KeyCommand::Get { name } => output::line(session.api_key(&name).await?.expose_secret())?,
        KeyCommand::List => {
            for name in session.api_keys().await? {
                output::line(name.as_str())?;
            }
        }
        KeyCommand::Remove { name } => {
            let (broker, _) = session.host()?;
            broker.remove_api_key(&name).await?;
            output::note(&format!("removed the API key {name}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(session: &Session, name: &Name) -> Result<(), Failure> {
    let (broker, _) = session.keeping_host()?;
    if io::IsTerminal::is_terminal(&io::stdin()) {
        output::note("type the API key, then Enter and Ctrl-D; it is shown as you type (a pipe or < FILE hides it)");
    }
    let input = bounded(io::stdin().lock(), MAX_SECRET as u64 + 2)
        .map_err(|error| no_key(&format!("cannot be read from standard input: {error}")))?;
    broker.set_api_key(name, parse(&input)?).await?;
    output::note(&format!("stored the API key {name}"));
    Ok(())
}

/// The key without one final line end. Anything that is text is a key; what it means is its provider's business.
fn parse(input: &[u8]) -> Result<SecretString, Failure> {
    let text = std::str::from_utf8(input).map_err(|_position| no_key("is not UTF-8 text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(no_key("is empty"));
    }
    if text.len() > MAX_SECRET || text.contains('\0') {
        return Err(no_key(&format!("is longer than {MAX_SECRET} bytes or has a NUL")));
    }
    Ok(SecretString::from(Zeroizing::new(text.to_owned()).as_str()))
}

fn no_key(problem: &str) -> Failure {
    Failure::bad_data(format!(
        "the API key {problem}; give the key alone on standard input, such as `credbroker key set NAME < FILE`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_final_line_end_is_dropped_and_nothing_else() {
        for (input, want) in [
            ("k", "k"),
            ("k\n", "k"),
            ("k\r\n", "k"),
            ("k\n\n", "k\n"),
            (" k ", " k "),
            ("a\nb\n", "a\nb"),
        ] {
            assert_eq!(parse(input.as_bytes()).unwrap().expose_secret(), want);
        }
        let long = "x".repeat(MAX_SECRET + 1);
        for bad in [&b""[..], b"\n", b"\r\n", b"\xff", b"a\0b", long.as_bytes()] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 65);
        }
    }
}
