//! Which services stand on which socket.

use tonic_health::pb::health_server::HealthServer;

use super::{StartError, system};
use crate::{
    broker::Broker,
    proto::{
        FILE_DESCRIPTOR_SET, control_broker_server::ControlBrokerServer,
        credential_broker_server::CredentialBrokerServer,
    },
    server::Routes,
    service::{
        CredentialService,
        control::{About, ControlService},
        health::HealthService,
        status::MAX_MESSAGE_SIZE,
    },
};

#[cfg(feature = "envoy")]
use crate::{
    proto::envoy::{self, secret_discovery_service_server::SecretDiscoveryServiceServer},
    service::{
        secret_discovery::{self, SecretService},
        status::MAX_DISCOVERY_SIZE,
    },
};

const CREDENTIAL_BROKER: &str = "credbroker.v1.CredentialBroker";
const CONTROL_BROKER: &str = "credbroker.v1.ControlBroker";

pub(super) fn sandbox(broker: &Broker) -> Result<Routes, StartError> {
    let service =
        CredentialBrokerServer::new(CredentialService::new(broker.clone())).max_decoding_message_size(MAX_MESSAGE_SIZE);
    let routes = Routes::new(service);
    #[cfg(feature = "envoy")]
    let routes = routes.add_service(
        SecretDiscoveryServiceServer::new(SecretService::new(broker.clone()))
            .max_decoding_message_size(MAX_DISCOVERY_SIZE),
    );
    with_companions(routes, broker, CREDENTIAL_BROKER)
}

pub(super) fn control(broker: &Broker, about: About) -> Result<Routes, StartError> {
    let service = ControlBrokerServer::new(ControlService::new(broker.clone(), about))
        .max_decoding_message_size(MAX_MESSAGE_SIZE);
    with_companions(Routes::new(service), broker, CONTROL_BROKER)
}

/// Health and reflection, as on every socket. Reflection lists this socket's services only.
fn with_companions(routes: Routes, broker: &Broker, service: &'static str) -> Result<Routes, StartError> {
    let reflection = || {
        let reflected = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Both versions list each other, as other servers have it.
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
            // So that tools can show the details of an error.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(service);
        #[cfg(feature = "envoy")]
        let reflected = if service == CREDENTIAL_BROKER {
            reflected
                .register_encoded_file_descriptor_set(envoy::FILE_DESCRIPTOR_SET)
                .with_service_name(secret_discovery::NAME)
        } else {
            reflected
        };
        reflected
            .with_service_name("grpc.health.v1.Health")
            .with_service_name("grpc.reflection.v1.ServerReflection")
            .with_service_name("grpc.reflection.v1alpha.ServerReflection")
    };
    let health = HealthServer::new(HealthService::new(broker.clone(), service));
    Ok(routes
        .add_service(health)
        .add_service(reflection().build_v1().map_err(system("build reflection"))?)
        .add_service(reflection().build_v1alpha().map_err(system("build reflection"))?))
}
