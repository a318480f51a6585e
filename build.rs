//! Compiles `proto/` with `protox`, a protobuf compiler written in Rust, so that nothing but a Rust toolchain is needed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use prost::Message as _;

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script by the environment where to write, and which features there are"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "proto/credbroker/v1/credential_broker.proto",
            "proto/credbroker/v1/control_broker.proto",
        ],
        ["proto"],
    )?;
    // Reflection serves the descriptors, so they are kept beside the generated code.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("credbroker_descriptor.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Messages that carry a secret must not be printable: src/proto.rs gives them a redacted Debug.
        .skip_debug([
            "credbroker.v1.AccessToken",
            "credbroker.v1.GetTokenResponse",
            "credbroker.v1.RefreshTokenResponse",
            "credbroker.v1.WatchTokenResponse",
            "credbroker.v1.SaveTokenRequest",
            "credbroker.v1.GetApiKeyResponse",
            "credbroker.v1.InitiateLoginResponse",
            "credbroker.v1.ExchangeCodeRequest",
            "credbroker.v1.ExchangeCodeResponse",
            "credbroker.v1.PollLoginRequest",
            "credbroker.v1.PollLoginResponse",
            "credbroker.v1.CancelLoginRequest",
        ])
        .compile_fds(files)?;
    if env::var_os("CARGO_FEATURE_ENVOY").is_some() {
        envoy(&out)?;
    }
    Ok(())
}

/// The part of Envoy's protocol that is spoken here, to a folder of its own, because its packages refer to each other by path.
fn envoy(out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(
        [
            "proto/envoy/extensions/transport_sockets/tls/v3/secret.proto",
            "proto/envoy/service/secret/v3/sds.proto",
        ],
        ["proto"],
    )?;
    let out = out.join("envoy");
    fs::create_dir_all(&out)?;
    fs::write(out.join("descriptor.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(&out)
        .include_file("mod.rs")
        // As above: src/proto/envoy.rs has these.
        .skip_debug([
            "envoy.config.core.v3.DataSource",
            "envoy.config.core.v3.DataSource.specifier",
            "envoy.extensions.transport_sockets.tls.v3.GenericSecret",
            "envoy.extensions.transport_sockets.tls.v3.Secret",
            "envoy.extensions.transport_sockets.tls.v3.Secret.type",
            "envoy.service.discovery.v3.DiscoveryResponse",
        ])
        .compile_fds(files)?;
    Ok(())
}
