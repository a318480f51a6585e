//! `git-credential get|store|erase`: git's credential helper protocol.
//!
//! Git asks its helpers in turn until one knows a user name and a password. One that knows nothing ends with 0 and prints
//! nothing. This one knows the hosts that it was told about, and for these it is the only one to know: if it fails, it
//! ends git's search with `quit`, because what would follow is a question for a password, and nobody may be there.

mod request;

use std::{
    io::{self, Read as _},
    process::ExitCode,
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use self::request::Request;
use crate::{
    cli::{args::GitCredentialArgs, failure::Failure, output, session::Session},
    clock::{Clock as _, SystemClock},
    config::{Config, Environment, GitConfig, GitHost, GitSecret},
    credential::{AccessToken, EntryKey, Name},
};

/// A clone or push takes a while, and asks for nothing in between. The broker asks the provider for a new token if less is
/// left of the current one and that is less than half of its life.
const MIN_VALIDITY: Duration = Duration::from_secs(60);
/// What services that take OAuth tokens as passwords either ask for (GitLab) or do not look at (GitHub, Gitea).
const USERNAME: &str = "oauth2";

/// What is read of input that nothing is done with.
const MAX_IGNORED: u64 = 256 * 1024;

#[derive(Clone, Copy)]
enum Operation {
    Get,
    Erase,
}

pub(super) async fn git_credential(
    config: impl FnOnce() -> Result<Config, Failure>,
    environment: &Environment,
    arguments: GitCredentialArgs,
) -> Result<ExitCode, Failure> {
    let operation = match arguments.operation.as_str() {
        "get" => Operation::Get,
        "erase" => Operation::Erase,
        // `store`, and words of later versions, which git wants helpers to ignore.
        _ => {
            // It is read because git is writing it; nothing of it is used, so nothing can be wrong with it.
            let _ = io::copy(&mut io::stdin().lock().take(MAX_IGNORED), &mut io::sink());
            return Ok(ExitCode::SUCCESS);
        }
    };
    let request = Request::read(io::stdin().lock())?;
    // What is said with options needs no configuration, which a sandbox may not have.
    if let Some((host, git)) = arguments.host() {
        if let Some(case) = Case::of(&request, [(&host, &git)]) {
            case.serve(operation, &request, config, environment).await?;
        }
    } else {
        let config = config()?;
        let hosts = config.git.clone();
        if hosts.is_empty() {
            tracing::info!("git is not answered: no [git.HOST] is configured here, and no --host is given");
        }
        if let Some(case) = Case::of(&request, &hosts) {
            case.serve(operation, &request, || Ok(config), environment).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A request that is for a host of ours.
#[derive(Debug, PartialEq, Eq)]
struct Case<'h> {
    host: &'h GitHost,
    git: &'h GitConfig,
}

impl<'h> Case<'h> {
    /// `None`: it is for another host or account, or the token would go out unencrypted.
    fn of(request: &Request, hosts: impl IntoIterator<Item = (&'h GitHost, &'h GitConfig)>) -> Option<Self> {
        let scheme = request.protocol.as_deref()?;
        let asked: GitHost = request.host.as_deref()?.parse().ok()?;
        let mut same: Vec<_> = hosts.into_iter().filter(|(host, _)| host.is(&asked, scheme)).collect();
        // With the scheme's own port and without it: the one that is written as the URL is.
        same.sort_by_key(|(host, _)| **host != asked);
        let (host, git) = *same.first()?;
        if !asked.may_get_a_token_over(scheme) {
            tracing::info!(%host, scheme, "git is not answered: the token would go out unencrypted");
            return None;
        }
        let fits = match (&git.username, &request.username) {
            (Some(own), Some(asked)) => own == asked,
            (Some(_), None) | (None, _) => true,
        };
        if !fits {
            tracing::info!(%host, "git is not answered: it asks for another user name than the configured one");
            return None;
        }
        Some(Self { host, git })
    }

    async fn serve(
        &self,
        operation: Operation,
        request: &Request,
        config: impl FnOnce() -> Result<Config, Failure>,
        environment: &Environment,
    ) -> Result<(), Failure> {
        let done = async {
            let session = Session::open(config, environment).await?;
            let done = match operation {
                Operation::Get => self.get(&session, request.username.as_deref()).await,
                Operation::Erase => self.erase(&session, request.password.as_ref()).await,
            };
            session.close().await;
            done
        };
        let done = done.await;
        if done.is_err() && matches!(operation, Operation::Get) {
            output::line("quit=1")?;
        }
        done
    }

    async fn get(&self, session: &Session, asked: Option<&str>) -> Result<(), Failure> {
        let (password, expiry) = match &self.git.secret {
            GitSecret::Entry(key) => {
                let token = session.token(key, MIN_VALIDITY).await?;
                let expiry = expiry(&token);
                (token.access_token, expiry)
            }
            GitSecret::ApiKey(name) => (session.api_key(name).await?, None),
        };
        let username = self.git.username.as_deref().or(asked).unwrap_or(USERNAME);
        output::line(&answer(username, &password, expiry)?)
    }

    /// A server has refused a password. If it is the current token, the provider is asked for another one; nothing is ever
    /// removed. Git fails all the same, so it is said whether another try is worth it.
    async fn erase(&self, session: &Session, refused: Option<&SecretString>) -> Result<(), Failure> {
        // Without it nobody can tell which one was refused.
        let Some(refused) = refused else {
            return Ok(());
        };
        let said = match &self.git.secret {
            GitSecret::Entry(key) => refresh(session, key, refused).await?,
            GitSecret::ApiKey(name) => judge(session, name, refused).await?,
        };
        output::note(&format!("{} refused {said}", self.host));
        Ok(())
    }
}

async fn refresh(session: &Session, key: &EntryKey, refused: &SecretString) -> Result<String, Failure> {
    let current = session.token(key, Duration::ZERO).await?;
    if !same(&current.access_token, refused) {
        return Ok(format!(
            "a password that is not the token of {key} now; if it was before, try again"
        ));
    }
    let fresh = session.refresh(key, Some(&current.revision)).await?;
    Ok(if fresh.revision == current.revision {
        format!("the token of {key}, which was refreshed a moment ago; check the account, its rights and its scopes")
    } else {
        format!("the token of {key}; it was refreshed, so try again")
    })
}

async fn judge(session: &Session, name: &Name, refused: &SecretString) -> Result<String, Failure> {
    let current = session.api_key(name).await?;
    Ok(if same(&current, refused) {
        format!(
            "the API key {name}; check its rights, or store another one with `credbroker key set {name}` on the host"
        )
    } else {
        format!("a password that is not the API key {name} now; if it was before, try again")
    })
}

fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret()
        .as_bytes()
        .ct_eq(other.expose_secret().as_bytes())
        .into()
}

/// When the token ends by the clock of this machine, which is the one that git goes by; in Unix seconds.
fn expiry(token: &AccessToken) -> Option<i64> {
    let end = match token.expires_in {
        Some(left) => SystemClock::new().now().wall.checked_add(left).ok(),
        None => token.expire_time,
    };
    Some(end?.as_second())
}

fn answer(username: &str, password: &SecretString, expiry: Option<i64>) -> Result<Zeroizing<String>, Failure> {
    let password = password.expose_secret();
    // An API key may be any text, and a line of git's ends where the line ends.
    if password.contains(char::is_control) {
        return Err(Failure::bad_data(
            "what is stored has control characters, which git's protocol cannot carry: store the key as one line",
        ));
    }
    let expiry = expiry.map_or_else(String::new, |end| format!("\npassword_expiry_utc={end}"));
    Ok(Zeroizing::new(format!(
        "username={username}\npassword={password}{expiry}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(protocol: &str, host: &str, username: &str) -> Request {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Request {
            protocol: some(protocol),
            host: some(host),
            username: some(username),
            password: None,
        }
    }

    fn hosts() -> Vec<(GitHost, GitConfig)> {
        let host = |host: &str, key: &str, username: Option<&str>| {
            let secret = GitSecret::ApiKey(key.parse().unwrap());
            let username = username.map(str::to_owned);
            (host.parse().unwrap(), GitConfig { secret, username })
        };
        vec![
            host("a.example", "a", None),
            host("a.example:443", "a443", None),
            host("b.example:8443", "b", Some("bob")),
            host("c.example:443", "c", None),
            host("localhost:8080", "l", None),
        ]
    }

    #[test]
    fn only_what_is_for_a_host_and_account_of_ours_is_answered() {
        let hosts = hosts();
        for (protocol, host, username, want) in [
            ("https", "a.example", "", "a"),
            ("https", "A.Example", "anybody", "a"),
            ("https", "a.example:443", "", "a443"),
            ("https", "a.example:444", "", "-"),
            ("https", "a.example.evil.example", "", "-"),
            ("https", "evil.example", "", "-"),
            ("https", "b.example:8443", "", "b"),
            ("https", "b.example:8443", "bob", "b"),
            ("https", "b.example:8443", "Bob", "-"),
            ("https", "b.example:8443", "alice", "-"),
            ("https", "b.example", "bob", "-"),
            ("https", "c.example", "", "c"),
            ("http", "localhost:8080", "", "l"),
            ("https", "localhost:8080", "", "l"),
            ("http", "localhost", "", "-"),
            ("http", "a.example", "", "-"),
            ("ftp", "a.example", "", "-"),
            ("cert", "", "", "-"),
            ("https", "", "", "-"),
            ("", "a.example", "", "-"),
            ("https", "x@a.example", "", "-"),
            ("https", "a.example/", "", "-"),
        ] {
            let of = hosts.iter().map(|(host, git)| (host, git));
            let request = request(protocol, host, username);
            let found = Case::of(&request, of).map(|case| match &case.git.secret {
                GitSecret::ApiKey(name) => name.to_string(),
                GitSecret::Entry(key) => key.to_string(),
            });
            assert_eq!(found.as_deref().unwrap_or("-"), want, "{protocol}://{username}@{host}");
        }
    }

    #[test]
    fn an_answer_has_a_line_for_each_value_and_no_other() {
        let answered = |password: &str, expiry| {
            answer("u", &SecretString::from(password), expiry).map(|text| text.as_str().to_owned())
        };
        assert_eq!(answered("p=1", None).unwrap(), "username=u\npassword=p=1");
        assert_eq!(
            answered("p", Some(7)).unwrap(),
            "username=u\npassword=p\npassword_expiry_utc=7"
        );
        for broken in ["p\nquit=1", "p\r", "p\0", "p\u{85}"] {
            let failure = answered(broken, None).unwrap_err();
            assert_eq!(failure.exit_code(), 65);
            assert!(!failure.message().contains(broken), "{}", failure.message());
        }
    }

    #[test]
    fn the_end_of_a_token_is_told_by_the_clock_that_git_reads() {
        let now = SystemClock::new().now().wall.as_second();
        let token = |expires_in, expire_time| AccessToken {
            access_token: SecretString::from("a"),
            expire_time,
            expires_in,
            token_type: String::new(),
            scope: String::new(),
            extra: std::collections::BTreeMap::new(),
            revision: String::new(),
        };
        let elsewhere = jiff::Timestamp::from_second(1).ok();
        let end = expiry(&token(Some(Duration::from_secs(3600)), elsewhere)).unwrap();
        assert!((now + 3600..now + 3660).contains(&end), "{end}");
        assert_eq!(expiry(&token(None, elsewhere)), Some(1));
        assert_eq!(expiry(&token(None, None)), None);
        assert_eq!(expiry(&token(Some(Duration::MAX), None)), None);
    }
}
