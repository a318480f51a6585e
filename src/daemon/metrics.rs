//! Metrics, where they are asked for.

use crate::{
    config::MetricsListen,
    server::{
        metrics::{Listening, MetricsError},
        socket::{BrokerDir, SocketGuard},
    },
};

/// Listens for those who ask for metrics; what unlinks the place is the guard, if it is a path.
pub(super) fn listen(
    place: Option<&MetricsListen>,
    dir: &BrokerDir,
) -> Result<(Option<Listening>, Option<SocketGuard>), MetricsError> {
    Ok(match place {
        None => (None, None),
        Some(MetricsListen::Tcp(address)) => (Some(Listening::tcp(*address)?), None),
        Some(MetricsListen::Unix(path)) => {
            let (listening, guard) = Listening::unix(dir, path)?;
            (Some(listening), Some(guard))
        }
    })
}
