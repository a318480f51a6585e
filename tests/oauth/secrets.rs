//! Client secrets that cannot be had, and secrets in logs.

use std::sync::Arc;

use async_trait::async_trait;
use credbroker::oauth::{ClientAuth, NoSecret, Provider as _, SecretSource, TokenKind};
use secrecy::SecretString;
use tracing_subscriber::filter::LevelFilter;

use crate::{
    LIMITS, REFRESH_TOKEN, built, endpoint,
    log::Log,
    refreshed,
    scanner::Scanner,
    seen,
    server::{Script, Server, answer},
    settings, word,
};

/// A secret that is what it is, or cannot be had.
pub(crate) struct Fixed(Result<&'static str, NoSecret>);

impl Fixed {
    pub(crate) fn good(secret: &'static str) -> Option<Arc<dyn SecretSource>>
    where
        Self: Sized,
    {
        Some(Arc::new(Self(Ok(secret))))
    }

    pub(crate) fn bad(problem: &str) -> Arc<dyn SecretSource> {
        Arc::new(Self(Err(NoSecret {
            problem: problem.to_owned(),
            mend: "put it there".to_owned(),
        })))
    }
}

#[async_trait]
impl SecretSource for Fixed {
    async fn secret(&self) -> Result<SecretString, NoSecret> {
        self.0.clone().map(SecretString::from)
    }
}

#[tokio::test]
async fn without_its_client_secret_nothing_is_sent() {
    let server = Server::start(vec![Script::Answer(answer("200 OK", "", r#"{"access_token":"a"}"#))]);
    let mut settings = settings(&server.url());
    settings.client_secret = Some(Fixed::bad("client_secret_file /x: entity not found"));
    let outcome = refreshed(settings, LIMITS).await;
    assert_eq!(word(&outcome), "rejected");
    assert!(seen(&outcome).contains("client_secret_file /x"), "{outcome:?}");
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn no_log_at_any_level_has_a_secret() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(log.clone())
        .finish();
    // An exchange has a thread of its own. From now on the tests beside this one are listened to as well.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut outcomes = Vec::new();
    let body = r#"{"access_token":"at-canary-logged-5512","refresh_token":"rt-canary-logged-5512"}"#;
    let refusal = r#"{"error":"invalid_grant","error_description":"rt-canary-echoed-5512"}"#;
    for script in [
        Script::Answer(answer("200 OK", "", body)),
        Script::Answer(answer("400 Bad Request", "x-echo: rt-canary-echoed-5512\r\n", refusal)),
        Script::Answer(answer("502 Bad Gateway", "", "rt-canary-echoed-5512")),
        Script::AnswerAndClose(b"rt-canary-echoed-5512".to_vec()),
        Script::Reset,
    ] {
        for auth in [ClientAuth::Basic, ClientAuth::Post] {
            let server = Server::start(vec![script.clone()]);
            let mut settings = settings(&server.url());
            settings.client_secret = Fixed::good("cs-canary-logged-5512");
            settings.client_auth = Some(auth);
            settings.endpoints.revocation = Some(endpoint(&server.url()));
            let provider = built(settings, LIMITS);
            outcomes.push(format!("{:?}", provider.refresh(&REFRESH_TOKEN.into()).await));
            let revoked = provider.revoke(&REFRESH_TOKEN.into(), TokenKind::Refresh).await;
            outcomes.push(format!("{revoked:?}"));
        }
    }
    tracing::trace!("the end of the log");
    let said = log.text();
    assert!(
        said.contains("the end of the log") && said.contains("HTTP 502"),
        "{said}"
    );
    let scanner = Scanner::new([
        ("the refresh token", REFRESH_TOKEN),
        ("the new access token", "at-canary-logged-5512"),
        ("the new refresh token", "rt-canary-logged-5512"),
        ("the client secret", "cs-canary-logged-5512"),
        ("what the provider wrote", "rt-canary-echoed-5512"),
    ]);
    scanner.assert_clean("the log", said);
    scanner.assert_clean("the outcomes", outcomes.join("\n"));
}
