//! A configured provider: settings, discovery and the HTTP client put together.

mod login;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::{sync::OnceCell, time::timeout};

use super::{
    ClientAuth, Endpoint, Outcome, OutcomeRules, Provider, RequestFormat, Revoked, Seen, TokenKind,
    discovery::{self, DiscoveryError, Metadata},
    http::{Http, NoAnswer, Outgoing},
    login::LoginSettings,
    outcome::classify,
    revocation,
    token_endpoint::{self, Client},
};
use crate::{clock::Clock, credential::Name};

/// How long it may take to find out where and as whom to ask. With the longest exchange, 10 s for the connection and 60 s for
/// the answer, a refresh ends before the mark that it leaves in the store has passed.
const PREPARATION: Duration = Duration::from_secs(15);

/// Where a client secret comes from. It is asked for each time: a file or a command may say something new.
#[async_trait]
pub trait SecretSource: Send + Sync + 'static {
    /// The secret, never empty.
    ///
    /// # Errors
    /// It cannot be had.
    async fn secret(&self) -> Result<SecretString, NoSecret>;
}

/// A client secret cannot be had. The message names the source and never quotes what was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct NoSecret {
    /// What is wrong.
    pub problem: String,
    /// What mends it.
    pub mend: String,
}

/// Where a provider's endpoints come from. What is named wins over what is discovered.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    /// Whose document says what is not named here.
    pub issuer: Option<Endpoint>,
    /// RFC 6749 section 3.2.
    pub token: Option<Endpoint>,
    /// RFC 7009 section 2.
    pub revocation: Option<Endpoint>,
    /// RFC 6749 section 3.1.
    pub authorization: Option<Endpoint>,
    /// RFC 8628 section 3.1.
    pub device_authorization: Option<Endpoint>,
}

/// Everything about one provider that refreshes, revocations and logins need.
pub struct ProviderSettings {
    /// Its name in the configuration.
    pub name: Name,
    /// Where it is asked.
    pub endpoints: Endpoints,
    /// The OAuth client.
    pub client_id: String,
    /// Its secret, if it has one.
    pub client_secret: Option<Arc<dyn SecretSource>>,
    /// How a client with a secret shows it. `None`: HTTP basic, unless the issuer's document excludes that.
    pub client_auth: Option<ClientAuth>,
    /// How a refresh and a device poll are encoded.
    pub format: RequestFormat,
    /// Further parameters of everything that asks for a token.
    pub token_params: Vec<(String, String)>,
    /// How answers are read.
    pub rules: OutcomeRules,
    /// Whether a refresh token may be presented again after an answer was lost.
    pub retry_ambiguous: bool,
    /// What only logins need.
    pub login: LoginSettings,
}

impl fmt::Debug for ProviderSettings {
    /// Without parameters, where people put keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderSettings")
            .field("name", &self.name)
            .field("endpoints", &self.endpoints)
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}

/// A provider that is asked over HTTP.
pub struct HttpProvider {
    settings: ProviderSettings,
    http: Arc<Http>,
    clock: Arc<dyn Clock>,
    /// The issuer's document, from the first need to the end of the process. A failure is forgotten.
    discovered: OnceCell<Metadata>,
}

/// One thing that was looked at, without spending a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What was looked at.
    pub at: &'static str,
    /// What was found, or what is wrong.
    pub found: Result<String, Trouble>,
}

/// What is wrong, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong: the layer, and what was seen there.
    pub problem: String,
    /// What mends it.
    pub mend: String,
    /// Whether the configuration is to blame, and not what is outside.
    pub configured_wrong: bool,
}

/// Why a request was not even tried.
enum Unprepared {
    Discovery(DiscoveryError),
    Secret(NoSecret),
    /// The issuer's document and the secret took too long.
    TooSlow,
    /// Only a client id or secret that no header or form can carry.
    Request,
}

impl HttpProvider {
    /// Puts a provider together. Nothing is asked before the first need.
    #[must_use]
    pub fn new(settings: ProviderSettings, http: Arc<Http>, clock: Arc<dyn Clock>) -> Self {
        Self {
            settings,
            http,
            clock,
            discovered: OnceCell::new(),
        }
    }

    /// Looks at everything that a refresh or a login needs: the client secret, the issuer's document, the way to the
    /// endpoints. No token is sent, and no login begun.
    pub async fn look(&self) -> Vec<Look> {
        let mut looks = Vec::new();
        let mut look = |at, found| looks.push(Look { at, found });
        if self.settings.client_secret.is_some() {
            let found = self.secret().await;
            look(
                "client secret",
                found
                    .map(|_secret| "it can be had".to_owned())
                    .map_err(|error| Trouble {
                        problem: error.problem,
                        mend: error.mend,
                        configured_wrong: true,
                    }),
            );
        }
        if let Some(issuer) = &self.settings.endpoints.issuer {
            match self.metadata().await {
                Ok(_) => look("discovery", Ok(format!("{issuer} names its endpoints"))),
                Err(error) => {
                    let outside = matches!(error, DiscoveryError::Unreachable(_) | DiscoveryError::NoAnswer(_));
                    look(
                        "discovery",
                        Err(Trouble {
                            problem: format!("{issuer}: {error}"),
                            mend: error.mend().to_owned(),
                            configured_wrong: !outside,
                        }),
                    );
                    return looks;
                }
            }
        }
        if let Ok(endpoint) = self.token_endpoint().await {
            look("token endpoint", self.reached(&endpoint).await);
        }
        for (at, endpoint) in [
            ("authorization endpoint", self.authorization_endpoint().await),
            ("device endpoint", self.device_endpoint().await),
        ] {
            match endpoint {
                Ok(Some(endpoint)) => look(at, self.reached(&endpoint).await),
                Ok(None) => {}
                Err(error) => look(
                    at,
                    Err(Trouble {
                        problem: error.to_string(),
                        mend: error.mend().to_owned(),
                        configured_wrong: true,
                    }),
                ),
            }
        }
        let (settings, known) = (&self.settings.login, self.known().await);
        if let (Some(flow), Ok(known)) = (settings.flow, known)
            && let Some(lack) = settings.lack(flow, known)
        {
            look(
                "login",
                Err(Trouble {
                    problem: lack,
                    mend: "configure what it needs, or another `flow`".to_owned(),
                    configured_wrong: true,
                }),
            );
        }
        looks
    }

    async fn reached(&self, endpoint: &Endpoint) -> Result<String, Trouble> {
        // Without the query, where people put keys.
        let at = format!("{endpoint:?}");
        match self.http.reach(endpoint).await {
            Ok(()) => Ok(format!("{at} can be reached")),
            Err(error) => Err(Trouble {
                problem: format!("{at}: {error}"),
                mend: error.mend().to_owned(),
                configured_wrong: false,
            }),
        }
    }

    async fn metadata(&self) -> Result<Option<&Metadata>, DiscoveryError> {
        let Some(issuer) = &self.settings.endpoints.issuer else {
            return Ok(None);
        };
        let found = self
            .discovered
            .get_or_try_init(|| discovery::discover(&self.http, issuer));
        found.await.map(Some)
    }

    async fn token_endpoint(&self) -> Result<Endpoint, DiscoveryError> {
        if let Some(endpoint) = &self.settings.endpoints.token {
            return Ok(endpoint.clone());
        }
        let metadata = self.metadata().await?;
        // Settings without an issuer and without an endpoint have nowhere to ask.
        let metadata = metadata.ok_or(DiscoveryError::NoTokenEndpoint)?;
        Ok(metadata.token_endpoint.clone())
    }

    /// `None`: the provider has none.
    async fn revocation_endpoint(&self) -> Result<Option<Endpoint>, DiscoveryError> {
        if let Some(endpoint) = &self.settings.endpoints.revocation {
            return Ok(Some(endpoint.clone()));
        }
        let (Some(issuer), Some(metadata)) = (&self.settings.endpoints.issuer, self.metadata().await?) else {
            return Ok(None);
        };
        let Some(text) = &metadata.revocation_endpoint else {
            return Ok(None);
        };
        let endpoint = discovery::endpoint_of(issuer, text).ok_or(DiscoveryError::BadRevocationEndpoint)?;
        Ok(Some(endpoint))
    }

    async fn secret(&self) -> Result<Option<SecretString>, NoSecret> {
        match &self.settings.client_secret {
            None => Ok(None),
            Some(source) => source.secret().await.map(Some),
        }
    }

    async fn client<'a>(&'a self, secret: Option<&'a SecretString>) -> Result<Client<'a>, DiscoveryError> {
        let auth = match (secret, self.settings.client_auth) {
            (None, _) => ClientAuth::None,
            (Some(_), Some(auth)) => auth,
            (Some(_), None) => {
                let metadata = self.metadata().await?;
                chosen(metadata.and_then(|metadata| metadata.auth_methods.as_deref()))
            }
        };
        Ok(Client {
            id: &self.settings.client_id,
            secret,
            auth,
        })
    }

    async fn present(&self, refresh_token: &SecretString) -> Result<Outcome, Unprepared> {
        let request = timeout(PREPARATION, self.request(refresh_token)).await;
        let request = request.unwrap_or(Err(Unprepared::TooSlow))?;
        let answer = self.http.exchange(request).await;
        Ok(match answer {
            Ok(answer) => classify(&answer, &self.settings.rules, &self.clock.now()),
            Err(NoAnswer::NotSent(unreachable)) => Outcome::NotProcessed {
                seen: Seen(unreachable.to_string()),
                retry_after: None,
            },
            Err(NoAnswer::Lost(seen)) => Outcome::Ambiguous(Seen(seen.to_owned())),
        })
    }

    async fn request(&self, refresh_token: &SecretString) -> Result<Outgoing, Unprepared> {
        let endpoint = self.token_endpoint().await?;
        let secret = self.secret().await?;
        let client = self.client(secret.as_ref()).await?;
        let settings = &self.settings;
        let request = token_endpoint::refresh(
            endpoint,
            &client,
            refresh_token,
            settings.format,
            &settings.token_params,
        );
        request.ok_or(Unprepared::Request)
    }

    async fn try_revoke(&self, token: &SecretString, kind: TokenKind) -> Result<Revoked, Unprepared> {
        let Some(endpoint) = self.revocation_endpoint().await? else {
            return Ok(Revoked::NotSupported);
        };
        let secret = self.secret().await?;
        let client = self.client(secret.as_ref()).await?;
        let request = token_endpoint::revoke(endpoint, &client, token, kind).ok_or(Unprepared::Request)?;
        Ok(revocation::judge(self.http.exchange(request).await))
    }
}

#[async_trait]
impl Provider for HttpProvider {
    async fn refresh(&self, refresh_token: &SecretString) -> Outcome {
        let outcome = match self.present(refresh_token).await {
            Ok(outcome) => outcome,
            Err(error @ (Unprepared::Discovery(_) | Unprepared::TooSlow)) => Outcome::NotProcessed {
                seen: error.seen(),
                retry_after: None,
            },
            Err(error @ (Unprepared::Secret(_) | Unprepared::Request)) => Outcome::Rejected(error.seen()),
        };
        tracing::debug!(provider = %self.settings.name, ?outcome, "a refresh token was presented, or was to be");
        outcome
    }

    async fn revoke(&self, token: &SecretString, kind: TokenKind) -> Revoked {
        match self.try_revoke(token, kind).await {
            Ok(revoked) => revoked,
            Err(error) => Revoked::Failed(error.seen()),
        }
    }

    fn default_lifetime(&self) -> Duration {
        self.settings.rules.answer.default_lifetime
    }

    fn may_repeat_ambiguous(&self) -> bool {
        self.settings.retry_ambiguous
    }
}

impl Unprepared {
    fn seen(&self) -> Seen {
        Seen(match self {
            Self::Discovery(error) => format!("nothing was sent: {error}"),
            Self::Secret(error) => format!("nothing was sent: the client secret cannot be had: {error}"),
            Self::TooSlow => format!(
                "nothing was sent: the issuer's document and the client secret were not there within {} s",
                PREPARATION.as_secs()
            ),
            Self::Request => "nothing was sent: the client id or secret cannot be written into a request".to_owned(),
        })
    }
}

impl From<DiscoveryError> for Unprepared {
    fn from(error: DiscoveryError) -> Self {
        Self::Discovery(error)
    }
}

impl From<NoSecret> for Unprepared {
    fn from(error: NoSecret) -> Self {
        Self::Secret(error)
    }
}

/// Basic is what every server has to know (RFC 6749 section 2.3.1), so it takes a document to choose another.
fn chosen(methods: Option<&[String]>) -> ClientAuth {
    let has = |name: &str| methods.is_some_and(|methods| methods.iter().any(|method| method == name));
    if !has("client_secret_basic") && has("client_secret_post") {
        ClientAuth::Post
    } else {
        ClientAuth::Basic
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{HttpLimits, Proxies},
        *,
    };
    use crate::{clock::SystemClock, credential::Intent};

    #[test]
    fn basic_is_used_unless_the_document_excludes_it() {
        let table: [(Option<&[&str]>, ClientAuth); 6] = [
            (None, ClientAuth::Basic),
            (Some(&[]), ClientAuth::Basic),
            (Some(&["client_secret_basic", "client_secret_post"]), ClientAuth::Basic),
            (Some(&["client_secret_post", "client_secret_basic"]), ClientAuth::Basic),
            (Some(&["none", "client_secret_post"]), ClientAuth::Post),
            (Some(&["private_key_jwt"]), ClientAuth::Basic),
        ];
        for (methods, want) in table {
            let owned: Option<Vec<String>> = methods.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(chosen(owned.as_deref()), want, "{methods:?}");
        }
    }

    struct NeverTold;

    #[async_trait]
    impl SecretSource for NeverTold {
        async fn secret(&self) -> Result<SecretString, NoSecret> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_ends_before_its_mark_has_passed_whatever_it_waits_for() {
        let settings = ProviderSettings {
            name: "p".parse().unwrap(),
            endpoints: Endpoints {
                token: Endpoint::parse("https://a.example/token"),
                ..Endpoints::default()
            },
            client_id: "c".to_owned(),
            client_secret: Some(Arc::new(NeverTold)),
            client_auth: None,
            format: RequestFormat::Form,
            token_params: Vec::new(),
            rules: OutcomeRules::default(),
            retry_ambiguous: true,
            login: LoginSettings::default(),
        };
        let limits = HttpLimits::default();
        let http = Arc::new(Http::new(limits, &Proxies::default()));
        let provider = HttpProvider::new(settings, http, Arc::new(SystemClock::new()));
        let began = tokio::time::Instant::now();
        let outcome = provider.refresh(&"r".into()).await;
        assert!(matches!(outcome, Outcome::NotProcessed { .. }), "{outcome:?}");
        let longest = began.elapsed() + limits.connect + limits.answer;
        let mark = Intent::to_present(&"r".into(), &SystemClock::new().now());
        assert!(longest < mark.deadline, "{longest:?}");
    }
}
