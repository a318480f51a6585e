//! The generated protobuf and gRPC code of package `credbroker.v1` (and, below `envoy`, of Envoy's), and what it lacks: a `Debug` that keeps secrets.

#![expect(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    reason = "generated code; its comments stand in proto/"
)]
#![allow(
    unused_qualifications,
    unreachable_pub,
    reason = "generated code; not every version of the generator needs both"
)]

#[cfg(feature = "envoy")]
pub mod envoy;

use std::fmt;

tonic::include_proto!("credbroker.v1");

/// The encoded `FileDescriptorSet` of the package, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/credbroker_descriptor.bin"));

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `extra` may hold anything a provider answers, so not even its keys are shown.
        f.debug_struct("AccessToken")
            .field("access_token", &"[REDACTED]")
            .field("expire_time", &self.expire_time)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for GetTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetTokenResponse").field("token", &self.token).finish()
    }
}

impl fmt::Debug for RefreshTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshTokenResponse")
            .field("token", &self.token)
            .finish()
    }
}

impl fmt::Debug for WatchTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchTokenResponse")
            .field("token", &self.token)
            .finish()
    }
}

impl fmt::Debug for SaveTokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaveTokenRequest")
            .field("provider", &self.provider)
            .field("bucket", &self.bucket)
            .field("token", &self.token)
            .finish()
    }
}

impl fmt::Debug for GetApiKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetApiKeyResponse")
            .field("api_key", &"[REDACTED]")
            .finish()
    }
}

/// The URL holds `state` and the session's id is enough to end the login.
impl fmt::Debug for InitiateLoginResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitiateLoginResponse")
            .field("flow", &self.flow)
            .field("verification_url", &self.verification_url)
            .field("expire_time", &self.expire_time)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ExchangeCodeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeCodeRequest").finish_non_exhaustive()
    }
}

impl fmt::Debug for ExchangeCodeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeCodeResponse")
            .field("token", &self.token)
            .finish()
    }
}

impl fmt::Debug for PollLoginRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollLoginRequest").finish_non_exhaustive()
    }
}

impl fmt::Debug for PollLoginResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollLoginResponse")
            .field("status", &self.status)
            .field("token", &self.token)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CancelLoginRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelLoginRequest").finish_non_exhaustive()
    }
}
