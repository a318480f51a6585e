//! The record of one call, from its beginning to its end.

use std::sync::Arc;

use http::HeaderMap;
use tonic_types::StatusExt as _;

use super::complete;
use crate::{
    broker::{
        Caller,
        audit::{Audit, Record},
        journal::Journal,
    },
    clock::Clock,
    service::status,
};

/// A record in the making. If the caller goes away first, the drop writes it as `cancelled`.
pub(super) struct Recorded {
    audit: Audit,
    record: Option<Record>,
}

impl Recorded {
    pub(super) fn new(audit: Audit, record: Record) -> Self {
        Self {
            audit,
            record: Some(record),
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
        if let Some(record) = self.record.take() {
            self.audit.record(record);
        }
    }
}
