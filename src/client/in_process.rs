//! A broker in this process, over the host's own store.
//!
//! Calls go through the same service as those of a socket, message by message, so that a program behaves the same on the
//! host and in a sandbox: what is refused, with which reason, and what is an answer. Only the socket is missing, and what
//! belongs to it: peers, capabilities, rates. The caller is the host's own user, who may do everything.

use secrecy::{ExposeSecret as _, SecretString};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{Error, transport::Transport};
use crate::{
    broker::{self, Broker},
    config::{Config, Environment},
    credential::{MAX_SECRET, Name},
    daemon::{local, renewed_ahead},
    proto::credential_broker_server::CredentialBrokerServer,
    service::{CredentialService, status},
};

/// A broker and the service in front of it.
#[derive(Clone)]
pub(super) struct InProcess {
    broker: Broker,
    service: CredentialBrokerServer<CredentialService>,
}

impl InProcess {
    /// Puts it together as the host's configuration says. Call it within the runtime that it shall live on.
    pub(super) fn open(environment: &Environment) -> Result<Self, Error> {
        let config = Config::load(None, environment).map_err(|error| Error::Host(error.into()))?;
        let broker = local(&config, environment, false, renewed_ahead()).map_err(|error| Error::Host(error.into()))?;
        Ok(Self::over(broker))
    }

    /// The service in front of this broker.
    pub(super) fn over(broker: Broker) -> Self {
        let service = CredentialBrokerServer::new(CredentialService::new(broker.clone()))
            .max_decoding_message_size(status::MAX_MESSAGE_SIZE);
        Self { broker, service }
    }

    pub(super) fn transport(&self) -> Transport {
        Transport::InProcess(self.service.clone())
    }

    /// A call's failure. What tonic answers by itself gets its reason here, as it does on a socket.
    #[expect(clippy::unused_self, reason = "the other side of Lease::failed")]
    pub(super) fn failed(&self, status: &Status) -> Error {
        if status.get_details_error_info().is_some() {
            status.clone().into()
        } else {
            status::complete(status, "").into()
        }
    }

    /// Sets an API key; no call of the socket leads here.
    pub(super) async fn save_api_key(&self, name: &Name, key: SecretString) -> Result<(), Error> {
        let text = key.expose_secret();
        if text.is_empty() || text.len() > MAX_SECRET || text.contains('\0') {
            return Err(Error::invalid(
                "api_key",
                format_args!("it is no key: send 1 to {MAX_SECRET} bytes of text without NUL"),
            ));
        }
        self.broker
            .set_api_key(name, key)
            .await
            .map_err(|error| refused(&error))
    }

    /// Deletes an API key; no call of the socket leads here.
    pub(super) async fn delete_api_key(&self, name: &Name) -> Result<(), Error> {
        match self.broker.remove_api_key(name).await {
            Ok(()) | Err(broker::Error::NoKey(_)) => Ok(()),
            Err(error) => Err(refused(&error)),
        }
    }

    /// From now on every call is refused as one that came too late.
    pub(super) fn begin_shutdown(&self) {
        self.broker.begin_shutdown();
    }

    /// Waits for an exchange with a provider that is on the wire, and its save.
    pub(super) async fn shutdown(&self) {
        self.broker.shutdown().await;
    }
}

fn refused(error: &broker::Error) -> Error {
    status::from_error(error).into()
}
