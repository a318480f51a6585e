//! Logins at a configured provider.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::time::sleep;

use super::{HttpProvider, Unprepared};
use crate::{
    credential::TokenAnswer,
    oauth::{
        Endpoint, Flow, Outcome, OutcomeRules, Seen,
        authorization_code::{self, Grant, Issuer},
        device_code::{self, CodexPoll},
        discovery::{self, DiscoveryError},
        http::{Answer, NoAnswer, Outgoing},
        login::{
            Authorization, DeviceAuthorization, DeviceDialect, DevicePoll, Known, Listening, LoginProvider,
            LoginTrouble,
        },
        loopback,
        outcome::{classify, described, error_code},
    },
};

/// After these a request of which nothing was written is tried again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

impl HttpProvider {
    /// `None`: the provider has none, or its document excludes the grant.
    pub(super) async fn authorization_endpoint(&self) -> Result<Option<Endpoint>, DiscoveryError> {
        if let Some(endpoint) = &self.settings.endpoints.authorization {
            return Ok(Some(endpoint.clone()));
        }
        let metadata = self
            .metadata()
            .await?
            .filter(|metadata| metadata.allows("authorization_code"));
        let named = metadata.and_then(|metadata| metadata.authorization_endpoint.as_deref());
        self.login_endpoint("authorization_endpoint", named)
    }

    /// The same for device logins.
    pub(super) async fn device_endpoint(&self) -> Result<Option<Endpoint>, DiscoveryError> {
        if let Some(endpoint) = &self.settings.endpoints.device_authorization {
            return Ok(Some(endpoint.clone()));
        }
        let metadata = self
            .metadata()
            .await?
            .filter(|metadata| metadata.allows(device_code::GRANT));
        let named = metadata.and_then(|metadata| metadata.device_authorization_endpoint.as_deref());
        self.login_endpoint("device_authorization_endpoint", named)
    }

    fn login_endpoint(&self, what: &'static str, named: Option<&str>) -> Result<Option<Endpoint>, DiscoveryError> {
        let (Some(issuer), Some(text)) = (&self.settings.endpoints.issuer, named) else {
            return Ok(None);
        };
        let endpoint = discovery::endpoint_of(issuer, text).ok_or(DiscoveryError::BadLoginEndpoint(what))?;
        Ok(Some(endpoint))
    }

    /// What there is. An endpoint that may not be used is none, and stands in no other's way.
    pub(super) async fn known(&self) -> Result<Known, DiscoveryError> {
        Ok(Known {
            authorization: usable(self.authorization_endpoint().await)?,
            device_authorization: usable(self.device_endpoint().await)?,
        })
    }

    /// That a flow works with what is configured. Nothing is asked about other flows.
    async fn can(&self, flow: Flow) -> Result<(), LoginTrouble> {
        let mut known = Known {
            authorization: true,
            device_authorization: true,
        };
        match flow {
            Flow::DeviceCode => known.device_authorization = usable(self.device_endpoint().await)?,
            Flow::PkceRedirect | Flow::BrowserRedirect => {
                known.authorization = usable(self.authorization_endpoint().await)?;
            }
        }
        match self.settings.login.lack(flow, known) {
            None => Ok(()),
            Some(lack) => Err(LoginTrouble::Unconfigured(lack)),
        }
    }

    async fn prepared(&self, redirect_uri: String) -> Result<Authorization, LoginTrouble> {
        let endpoint = self.authorization_endpoint().await?;
        // The exchange will need the document, so a user is not sent away without it. With all endpoints configured there
        // is no need of one, and it may not be there.
        self.token_endpoint().await?;
        let issuer = match &self.settings.endpoints.issuer {
            None => Issuer::default(),
            Some(issuer) => Issuer {
                is: Some(issuer.as_str().to_owned()),
                required: self.discovered.get().is_some_and(|metadata| metadata.iss_in_answers),
            },
        };
        let settings = &self.settings;
        endpoint
            .and_then(|endpoint| {
                authorization_code::prepare(&endpoint, &settings.client_id, redirect_uri, &settings.login, issuer)
            })
            .ok_or_else(|| {
                LoginTrouble::Rejected(Seen("no authorization URL can be made of what is configured".into()))
            })
    }

    /// Sends what `make` makes. It is made and sent again only if nothing of it was written: codes are good for one use.
    async fn send(&self, make: impl Fn() -> Option<Outgoing> + Send + Sync) -> Result<Answer, Unsent> {
        let mut pauses = PAUSES.iter();
        loop {
            match self.http.exchange(make().ok_or(Unprepared::Request)?).await {
                Ok(answer) => return Ok(answer),
                Err(error) => match pauses.next() {
                    Some(pause) if matches!(error, NoAnswer::NotSent(_)) => sleep(*pause).await,
                    _ => return Err(Unsent::Lost(Seen(error.to_string()))),
                },
            }
        }
    }

    /// How answers to codes are read: what means that a refresh token is dead means that a code is.
    fn code_rules(&self) -> OutcomeRules {
        let mut rules = self.settings.rules.clone();
        rules
            .refused_errors
            .extend(self.settings.login.refused_errors.iter().cloned());
        rules
    }

    /// The same in a poll, where a status alone ends nothing: 404 may mean that it is pending.
    fn poll_rules(&self) -> OutcomeRules {
        OutcomeRules {
            refused_statuses: Vec::new(),
            ..self.code_rules()
        }
    }

    async fn redeem(&self, grant: &Grant<'_>) -> Result<Box<TokenAnswer>, LoginTrouble> {
        let settings = &self.settings;
        let to = self.token_endpoint().await?;
        let secret = self.secret().await.map_err(Unprepared::from)?;
        let client = self.client(secret.as_ref()).await?;
        let format = settings.login.exchange_format;
        let answer = self
            .send(|| authorization_code::exchange(to.clone(), &client, grant, format, &settings.token_params))
            .await?;
        match classify(&answer, &self.code_rules(), &self.clock.now()) {
            Outcome::Answered(tokens) => Ok(tokens),
            Outcome::Refused(seen) => Err(LoginTrouble::Refused(seen)),
            Outcome::Rejected(seen) => Err(match error_code(&answer) {
                Some(code) if code == "access_denied" || settings.login.denied_errors.contains(&code) => {
                    LoginTrouble::Denied
                }
                _ => LoginTrouble::Rejected(seen),
            }),
            Outcome::NotProcessed { seen, .. } | Outcome::Ambiguous(seen) => Err(LoginTrouble::Unavailable(seen)),
        }
    }

    async fn begin_device(&self) -> Result<DeviceAuthorization, LoginTrouble> {
        self.can(Flow::DeviceCode).await?;
        let to = self.device_endpoint().await?.ok_or(Unprepared::Request)?;
        let settings = &self.settings.login;
        let secret = self.secret().await.map_err(Unprepared::from)?;
        let client = self.client(secret.as_ref()).await?;
        let verifier = device_code::verifier(settings.device);
        let answer = self
            .send(|| device_code::request(to.clone(), &client, settings, verifier.as_ref()))
            .await?;
        device_code::begun(&answer, settings.device, &to, verifier)
    }

    async fn ask_device(&self, device: &DeviceAuthorization) -> Result<DevicePoll, Unprepared> {
        let settings = &self.settings;
        let secret = self.secret().await?;
        let client = self.client(secret.as_ref()).await?;
        let codex = settings.login.device == DeviceDialect::Codex;
        let begin = if codex { self.device_endpoint().await? } else { None };
        let request = match &begin {
            Some(begin) => device_code::codex_poll(begin, device),
            None => {
                let to = self.token_endpoint().await?;
                device_code::poll(to, &client, device, settings.format, &settings.token_params)
            }
        };
        let answer = match self.http.exchange(request.ok_or(Unprepared::Request)?).await {
            Ok(answer) => answer,
            // Whether it was written makes no difference: RFC 8628 section 3.5 has a client ask again, later. If the token set
            // was in what was lost, the provider will say that the device code is spent, and the login is no worse off.
            Err(error) => {
                return Ok(DevicePoll::NotProcessed {
                    seen: Seen(error.to_string()),
                    retry_after: None,
                });
            }
        };
        let (rules, now) = (self.poll_rules(), self.clock.now());
        let Some(begin) = begin else {
            return Ok(device_code::judge(&answer, &settings.login, &rules, &now));
        };
        Ok(match device_code::judge_codex(&answer, &settings.login, &rules, &now) {
            CodexPoll::Other(poll) => poll,
            CodexPoll::Code(code, verifier) => match device_code::codex_pages(&begin) {
                None => DevicePoll::Ended(LoginTrouble::Unavailable(described(&answer))),
                Some(pages) => {
                    let grant = Grant {
                        code: &code,
                        redirect_uri: &pages.redirect_uri,
                        verifier: &verifier,
                        state: None,
                    };
                    match self.redeem(&grant).await {
                        Ok(tokens) => DevicePoll::Answered(tokens),
                        Err(trouble) => DevicePoll::Ended(trouble),
                    }
                }
            },
        })
    }
}

#[async_trait]
impl LoginProvider for HttpProvider {
    async fn flows(&self) -> Result<Vec<Flow>, LoginTrouble> {
        let known = self.known().await?;
        let settings = &self.settings.login;
        let possible = settings.possible(known);
        let lack = match settings.flow {
            Some(flow) => settings.lack(flow, known),
            None if possible.is_empty() => {
                let first = settings.flows.as_ref().and_then(|flows| flows.first());
                settings.lack(first.copied().unwrap_or(Flow::BrowserRedirect), known)
            }
            None => None,
        };
        match lack {
            Some(lack) => Err(LoginTrouble::Unconfigured(lack)),
            None => Ok(possible),
        }
    }

    async fn authorize(&self) -> Result<Authorization, LoginTrouble> {
        self.can(Flow::PkceRedirect).await?;
        let redirect_url = self.settings.login.redirect_url.as_ref().ok_or(Unprepared::Request)?;
        self.prepared(redirect_url.as_str().to_owned()).await
    }

    async fn authorize_loopback(&self) -> Result<(Authorization, Box<dyn Listening>), LoginTrouble> {
        self.can(Flow::BrowserRedirect).await?;
        let (ear, redirect_uri) = loopback::listen(&self.settings.login).await?;
        let mut authorization = self.prepared(redirect_uri).await?;
        authorization.state_required = true;
        Ok((authorization, Box::new(ear)))
    }

    async fn exchange(
        &self,
        authorization: &Authorization,
        code: &SecretString,
    ) -> Result<Box<TokenAnswer>, LoginTrouble> {
        let grant = Grant {
            code,
            redirect_uri: &authorization.redirect_uri,
            verifier: &authorization.verifier,
            state: self.settings.login.state_in_exchange.then_some(&authorization.state),
        };
        let exchanged = self.redeem(&grant).await;
        tracing::debug!(provider = %self.settings.name, outcome = ?exchanged, "a code was exchanged, or was to be");
        exchanged
    }

    async fn authorize_device(&self) -> Result<DeviceAuthorization, LoginTrouble> {
        let begun = self.begin_device().await;
        tracing::debug!(provider = %self.settings.name, outcome = ?begun, "a device login was begun, or was to be");
        begun
    }

    async fn poll_device(&self, device: &DeviceAuthorization) -> DevicePoll {
        let poll = match self.ask_device(device).await {
            Ok(poll) => poll,
            Err(error @ (Unprepared::Discovery(_) | Unprepared::TooSlow)) => DevicePoll::NotProcessed {
                seen: error.seen(),
                retry_after: None,
            },
            Err(error @ (Unprepared::Secret(_) | Unprepared::Request)) => DevicePoll::Ended(error.into()),
        };
        tracing::debug!(provider = %self.settings.name, outcome = ?poll, "it was asked how a device login stands");
        poll
    }
}

fn usable(endpoint: Result<Option<Endpoint>, DiscoveryError>) -> Result<bool, DiscoveryError> {
    match endpoint {
        Ok(endpoint) => Ok(endpoint.is_some()),
        Err(DiscoveryError::BadLoginEndpoint(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Why there is no answer to something that is sent once.
enum Unsent {
    Unprepared(Unprepared),
    Lost(Seen),
}

impl From<Unprepared> for Unsent {
    fn from(error: Unprepared) -> Self {
        Self::Unprepared(error)
    }
}

impl From<Unsent> for LoginTrouble {
    fn from(error: Unsent) -> Self {
        match error {
            Unsent::Unprepared(error) => error.into(),
            Unsent::Lost(seen) => Self::Unavailable(seen),
        }
    }
}

impl From<Unprepared> for LoginTrouble {
    fn from(error: Unprepared) -> Self {
        let seen = error.seen();
        match error {
            Unprepared::Discovery(_) | Unprepared::TooSlow => Self::Unavailable(seen),
            Unprepared::Secret(_) | Unprepared::Request => Self::Rejected(seen),
        }
    }
}

impl From<DiscoveryError> for LoginTrouble {
    fn from(error: DiscoveryError) -> Self {
        Unprepared::Discovery(error).into()
    }
}
