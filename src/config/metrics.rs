//! `[metrics]`: where what the broker counts is shown, if it is.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use super::{ConfigError, section::Section};

/// `[metrics]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where they are shown. `None`: nowhere.
    pub listen: Option<MetricsListen>,
}

/// A place that only this host can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsListen {
    /// 127.0.0.1 or ::1. Port 0: any free one, which the log names.
    Tcp(SocketAddr),
    /// A Unix socket, for its owner only.
    Unix(PathBuf),
}

impl MetricsConfig {
    pub(super) fn from_section(section: &Section<'_>) -> Result<Self, ConfigError> {
        // What has no slash cannot be a path by mistake: 0.0.0.0:9000 must not become a file.
        let listen = if section.is_path("listen") {
            section.path("listen")?.map(MetricsListen::Unix)
        } else {
            section.loopback("listen")?.map(MetricsListen::Tcp)
        };
        Ok(Self { listen })
    }
}

/// The address, if it is one of the two that nothing but this host reaches.
pub(super) fn loopback(text: &str) -> Option<SocketAddr> {
    let address: SocketAddr = text.parse().ok()?;
    let ours = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let plain = SocketAddr::new(address.ip(), address.port());
    // Without a scope, and as it is written everywhere else.
    (ours.contains(&address.ip()) && address == plain && address.to_string() == text).then_some(address)
}
