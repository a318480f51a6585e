//! What the broker counts, for Prometheus: `GET /metrics` on a loopback address or a Unix socket.
//!
//! Everything that is shown is a number under names from closed lists, or under the names of stored entries, of which there
//! are at most [`MOST_ENTRIES`]. No secret, no sandbox and no path is.
//!
//! | file | job |
//! | --- | --- |
//! | `families` | every metric there is: name, labels, meaning |
//! | `calls` | counting the calls of a socket |
//! | `text` | one look at everything, as text |
//! | `listen` | the address or path |
//! | `http` | who asks, and for how long |

mod calls;
mod families;
mod http;
mod listen;
mod text;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{sync::Mutex, time::Instant};

pub use self::{
    calls::{Calls, METHODS},
    families::{FAMILIES, Family, Kind},
    http::serve,
    listen::{Listening, MetricsError},
};
use crate::{
    broker::{Broker, audit::Audit},
    clock::Clock,
};
pub(super) use calls::Call;

/// How many entries are shown by name. The rest is a number.
pub const MOST_ENTRIES: usize = 1000;
/// For so long an answer is given again: whoever asks in a loop makes no work.
const FRESH: Duration = Duration::from_secs(1);

/// Where the numbers come from.
pub struct Sources {
    /// Entries, refreshes, logins and the store.
    pub broker: Broker,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// When the broker started.
    pub started: Timestamp,
    /// The calls of the sandboxes' socket.
    pub calls: Arc<Calls>,
    /// Its connections that are open now.
    pub connections: Arc<AtomicU64>,
    /// Where records go.
    pub audit: Audit,
}

/// The metrics of one broker.
pub struct Metrics {
    sources: Sources,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Metrics {
    /// Metrics from these sources.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self {
            sources,
            last: Mutex::default(),
        }
    }

    /// All of them in the OpenMetrics text format, at most a second old. One look at a time.
    pub async fn text(&self) -> Bytes {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < FRESH
        {
            return text.clone();
        }
        let text = Bytes::from(text::Snapshot::take(&self.sources).await.into_text());
        *last = Some((Instant::now(), text.clone()));
        text
    }
}
