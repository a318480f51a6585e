//! The record of one call, from its beginning to its end.

use http::HeaderMap;
use tonic_types::StatusExt as _;

use super::complete;
use crate::{
    broker::{
        Caller,
        audit::{Audit, Record},
        caller::{Named, Subject},
    },
    service::status,
};

/// A record in the making. If the caller goes away first, the drop writes it as `cancelled`.
pub(super) struct Recorded {
    audit: Audit,
    record: Option<Record>,
    subject: Option<Subject>,
}

impl Recorded {
    pub(super) fn new(audit: Audit, record: Record) -> Self {
        Self {
            audit,
            record: Some(record),
            subject: None,
        }
    }

    pub(super) fn caller(&mut self, caller: &Caller) {
        self.subject = Some(caller.subject.clone());
        if let Some(record) = &mut self.record {
            record.sandbox = caller.principal.to_string();
        }
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
        let Some(mut record) = self.record.take() else { return };
        match self.subject.as_ref().and_then(Subject::named) {
            Some(Named::Entry(key)) => {
                record.provider = Some(key.provider.to_string());
                record.bucket = Some(key.bucket.to_string());
            }
            Some(Named::Provider(provider)) => record.provider = Some(provider.to_string()),
            Some(Named::Key(name)) => record.key = Some(name.to_string()),
            None => {}
        }
        self.audit.record(record);
    }
}
