//! `credbroker.v1.ControlBroker`: what the host may ask of a running broker.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{answer, wire, wire::timestamp};
use crate::{
    broker::{
        Broker, Error,
        audit::Audit,
        status::{EntryState, EntryStatus},
    },
    proto::{self, control_broker_server},
};

/// The most entries of one answer: names, subject and the rest stay below 64 KiB.
const MAX_ENTRIES: usize = 100;
/// The longest subject that is shown, in bytes; providers make them.
const MAX_SUBJECT: usize = 255;

/// Serves the control socket's questions.
#[derive(Clone)]
pub struct ControlService {
    broker: Broker,
    about: Arc<About>,
}

/// What a broker knows of itself beyond its core.
pub struct About {
    /// The socket that the sandbox connects to.
    pub socket: PathBuf,
    /// When the broker started.
    pub started: Timestamp,
    /// Where records go, for the counters.
    pub audit: Audit,
    /// Connections that are open now.
    pub connections: Arc<AtomicU64>,
    /// What the process took from itself at its start.
    pub protections: Vec<Protection>,
}

/// Something that a process takes from itself, so that little is to be had of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    /// What it is called.
    pub name: &'static str,
    /// Whether the system let it.
    pub in_force: bool,
    /// How far, or why not.
    pub detail: String,
}

impl ControlService {
    /// Serves this broker.
    #[must_use]
    pub fn new(broker: Broker, about: About) -> Self {
        Self {
            broker,
            about: Arc::new(about),
        }
    }

    async fn status(&self, request: &proto::GetStatusRequest) -> Result<proto::GetStatusResponse, Error> {
        let mut page = wire::page_request(&wire::List::Entries, request.page_size, &request.page_token)?;
        page.size = page.size.min(MAX_ENTRIES);
        let (entries, next) = self.broker.entries(&page).await?;
        Ok(proto::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            socket: self.about.socket.display().to_string(),
            entries: entries.into_iter().map(entry).collect(),
            next_page_token: wire::page_token(&wire::List::Entries, next.as_ref()),
            counters: Some(proto::Counters {
                deliveries: self.broker.deliveries(),
                failures: self.about.audit.failed_calls(),
                open_connections: self.about.connections.load(Ordering::Relaxed),
                audit_lines_lost: self.about.audit.lost(),
                open_logins: self.broker.open_logins().try_into().unwrap_or(u64::MAX),
                open_watches: self.broker.open_watches().try_into().unwrap_or(u64::MAX),
                secrets_rejected: self.broker.secrets_rejected(),
            }),
            start_time: Some(timestamp(self.about.started)),
            protections: self.about.protections.iter().map(protection).collect(),
        })
    }
}

#[tonic::async_trait]
impl control_broker_server::ControlBroker for ControlService {
    async fn get_status(
        &self,
        request: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::GetStatusResponse>, Status> {
        answer(self.status(request.get_ref()).await)
    }
}

fn protection(Protection { name, in_force, detail }: &Protection) -> proto::Protection {
    proto::Protection {
        name: (*name).to_owned(),
        in_force: *in_force,
        detail: detail.clone(),
    }
}

fn entry(entry: EntryStatus) -> proto::EntryStatus {
    proto::EntryStatus {
        provider: entry.key.provider.to_string(),
        bucket: entry.key.bucket.to_string(),
        subject: entry
            .subject
            .map(|subject| shortened(&subject).to_owned())
            .unwrap_or_default(),
        expire_time: entry.expire_time.map(timestamp),
        next_renewal_time: entry.next_renewal.map(timestamp),
        failures: entry.failures,
        last_used_time: entry.last_used.map(timestamp),
        state: match entry.state {
            EntryState::Ok => proto::EntryState::Ok,
            EntryState::Due => proto::EntryState::Due,
            EntryState::Ambiguous => proto::EntryState::Ambiguous,
            EntryState::Unsaved => proto::EntryState::Unsaved,
            EntryState::NeedsLogin => proto::EntryState::NeedsLogin,
            EntryState::Corrupt => proto::EntryState::Corrupt,
            EntryState::Locked => proto::EntryState::Locked,
        }
        .into(),
        saved_by: entry.saved_by.unwrap_or_default(),
        watchers: entry.watchers.try_into().unwrap_or(u32::MAX),
    }
}

/// As much of a subject as is shown.
fn shortened(subject: &str) -> &str {
    let mut end = MAX_SUBJECT.min(subject.len());
    while !subject.is_char_boundary(end) {
        end -= 1;
    }
    subject.get(..end).unwrap_or_default()
}
