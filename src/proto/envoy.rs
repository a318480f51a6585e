//! The part of Envoy's protocol that is spoken here, and what it lacks: a `Debug` that keeps secrets.

use std::fmt;

/// A module for each part of a package's name; what they hold is named below.
mod packages {
    include!(concat!(env!("OUT_DIR"), "/envoy/mod.rs"));
}

pub use self::packages::{
    envoy::{
        config::core::v3::{DataSource, Node, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{GenericSecret, Secret, secret},
        service::{
            discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
            secret::v3::{secret_discovery_service_client, secret_discovery_service_server},
        },
    },
    google::rpc::Status as RpcStatus,
};

/// The encoded `FileDescriptorSet` of these packages, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy/descriptor.bin"));

impl fmt::Debug for Specifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataSource").finish_non_exhaustive()
    }
}

impl fmt::Debug for GenericSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenericSecret").finish_non_exhaustive()
    }
}

impl fmt::Debug for secret::Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The resources are encoded secrets.
impl fmt::Debug for DiscoveryResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("resources", &self.resources.len())
            .field("nonce", &self.nonce)
            .finish_non_exhaustive()
    }
}
