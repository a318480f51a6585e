//! The record of one call, from its beginning to its end.

use std::sync::Arc;

use http::HeaderMap;
use tonic_types::StatusExt as _;

use super::complete;
use crate::{
    broker::{
        Caller, Error,
        audit::{Audit, Full, Place, Record},
        journal::Journal,
    },
    clock::Clock,
    service::status,
};

/// A record in the making. If the caller goes away first, the drop writes it as `cancelled`.
pub(super) struct Recorded {
    audit: Audit,
    /// Where it goes.
    place: Result<Place, Full>,
    record: Option<Record>,
}

impl Recorded {
    /// Its room in the queue is taken before anything else of the call happens.
    pub(super) async fn new(audit: Audit, record: Record) -> Self {
        let place = audit.reserve().await;
        Self {
            audit,
            place,
            record: Some(record),
        }
    }

    /// What must not happen without a record may happen.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.place {
            Ok(_) => Ok(()),
            Err(Full) => Err(Error::AuditUnavailable),
        }
    }

    pub(super) fn caller(&mut self, caller: &Caller) {
        if let Some(record) = &mut self.record {
            record.sandbox = Some(Arc::clone(&caller.principal));
            record.subject = Some(caller.subject.clone());
        }
    }

    /// What the lines of the call's further deliveries begin with.
    pub(super) fn journal(&self, clock: Arc<dyn Clock>) -> Journal {
        let Some(record) = &self.record else {
            return Journal::default();
        };
        Journal::new(self.audit.clone(), clock, record.clone())
    }

    pub(super) fn answered(mut self, headers: &HeaderMap) {
        let Some(record) = &mut self.record else { return };
        match complete::failure(headers) {
            None => record.outcome = "ok",
            Some(failure) => {
                record.outcome = "error";
                record.reason = failure
                    .get_details_error_info()
                    .or_else(|| {
                        let completed = status::complete(&failure, "");
                        completed.get_details_error_info()
                    })
                    .map(|info| info.reason);
            }
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        match std::mem::replace(&mut self.place, Err(Full)) {
            Ok(place) => self.audit.record_at(place, record),
            Err(Full) => self.audit.refused(),
        }
    }
}
