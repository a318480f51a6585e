//! A provider whose user agrees when a test says so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use credbroker::{
    broker::login::{LoginParts, Notices, to_the_log},
    credential::TokenAnswer,
    oauth::{
        Flow, LoginProvider, Seen,
        login::{Authorization, DeviceAuthorization, DevicePoll, Listening, LoginTrouble},
    },
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

/// What comes of an exchange, by the code.
pub(crate) const GOOD_CODE: &str = "good-code";
pub(crate) const DENIED_CODE: &str = "denied-code";
pub(crate) const AUTH_URL: &str = "https://p.example/authorize?state=login-state";
pub(crate) const USER_CODE: &str = "WDJB-MJHT";
pub(crate) const PAGE: &str = "https://p.example/device";

/// A provider `p` with every flow.
#[derive(Clone)]
pub(crate) struct Login {
    flows: Vec<Flow>,
    /// This host's ports can be listened on.
    listens: bool,
    agreed: Arc<watch::Sender<bool>>,
}

impl Login {
    /// The usual flow first.
    pub(crate) fn with(flows: &[Flow]) -> Self {
        Self {
            flows: flows.to_vec(),
            listens: true,
            agreed: Arc::new(watch::channel(false).0),
        }
    }

    pub(crate) fn that_cannot_listen(mut self) -> Self {
        self.listens = false;
        self
    }

    /// The user agrees, now or soon.
    pub(crate) fn agree(&self) {
        self.agreed.send_replace(true);
    }

    pub(crate) fn parts(&self) -> LoginParts {
        self.parts_telling(to_the_log())
    }

    pub(crate) fn parts_telling(&self, notices: Notices) -> LoginParts {
        LoginParts {
            providers: BTreeMap::from([("p".parse().unwrap(), Arc::new(self.clone()) as Arc<dyn LoginProvider>)]),
            notices,
            ..LoginParts::default()
        }
    }
}

fn answer() -> Box<TokenAnswer> {
    Box::new(TokenAnswer {
        access_token: Some(SecretString::from("access-of-login")),
        refresh_token: Some(SecretString::from("refresh-of-login")),
        lifetime: Some(Duration::from_secs(3600)),
        token_type: None,
        scope: None,
        subject: Some("alice@example.com".to_owned()),
        extra: BTreeMap::new(),
    })
}

fn authorization() -> Authorization {
    Authorization {
        url: AUTH_URL.to_owned(),
        redirect_uri: "https://p.example/code".to_owned(),
        state: SecretString::from("login-state"),
        verifier: SecretString::from("login-verifier"),
        state_required: false,
        issuer: None,
        issuer_required: false,
    }
}

#[async_trait]
impl LoginProvider for Login {
    async fn flows(&self) -> Result<Vec<Flow>, LoginTrouble> {
        Ok(self.flows.clone())
    }

    async fn authorize(&self) -> Result<Authorization, LoginTrouble> {
        Ok(authorization())
    }

    async fn authorize_loopback(&self) -> Result<(Authorization, Box<dyn Listening>), LoginTrouble> {
        if !self.listens {
            return Err(LoginTrouble::CannotListen("127.0.0.1:1455".to_owned()));
        }
        Ok((authorization(), Box::new(Ear(self.agreed.subscribe()))))
    }

    async fn exchange(
        &self,
        _authorization: &Authorization,
        code: &SecretString,
    ) -> Result<Box<TokenAnswer>, LoginTrouble> {
        match code.expose_secret() {
            GOOD_CODE => Ok(answer()),
            DENIED_CODE => Err(LoginTrouble::Denied),
            _ => Err(LoginTrouble::Refused(Seen("invalid_grant".to_owned()))),
        }
    }

    async fn authorize_device(&self) -> Result<DeviceAuthorization, LoginTrouble> {
        Ok(DeviceAuthorization {
            verification_url: PAGE.to_owned(),
            verification_url_complete: Some(format!("{PAGE}?user_code={USER_CODE}")),
            user_code: USER_CODE.to_owned(),
            interval: Duration::from_millis(50),
            lifetime: None,
            device_code: SecretString::from("login-device-code"),
            verifier: None,
        })
    }

    async fn poll_device(&self, _device: &DeviceAuthorization) -> DevicePoll {
        if *self.agreed.borrow() {
            DevicePoll::Answered(answer())
        } else {
            DevicePoll::Pending
        }
    }
}

struct Ear(watch::Receiver<bool>);

#[async_trait]
impl Listening for Ear {
    async fn code(mut self: Box<Self>, _authorization: &Authorization) -> Result<SecretString, LoginTrouble> {
        self.0.wait_for(|agreed| *agreed).await.unwrap();
        Ok(SecretString::from(GOOD_CODE))
    }
}
