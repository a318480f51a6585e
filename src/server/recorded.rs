//! The record of one call, from its beginning to its end.

use std::sync::Arc;

use http::HeaderMap;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{
    complete,
    refusals::{RefusedCalls, is_about_nothing_done},
};
use crate::{
    broker::{
        Caller, Error,
        audit::{Audit, Full, Place, Record},
        journal::Journal,
    },
    clock::Clock,
    reason::Reason,
    service::status,
};

/// A record in the making. If the caller goes away first, the drop writes it as `cancelled`.
pub(super) struct Recorded {
    audit: Audit,
    refusals: Arc<RefusedCalls>,
    /// Where it goes.
    place: Result<Place, Full>,
    record: Option<Record>,
}

impl Recorded {
    /// Its room in the queue is taken before anything else of the call happens.
    pub(super) async fn new(audit: Audit, refusals: Arc<RefusedCalls>, record: Record) -> Self {
        let place = audit.reserve().await;
        Self {
            audit,
            refusals,
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

    /// The call is refused before anything of it happens. This is written now, not when the caller has heard it: if it goes away
    /// before, it was refused all the same.
    pub(super) fn refused(mut self, error: &Error) {
        let reason = error.reason();
        self.failed(Some(reason.as_str().to_owned()), Some(reason));
    }

    /// What tells how the call ended if nobody waits for that any more.
    pub(super) fn afterwards(&self) -> Option<Afterwards> {
        Some(Afterwards {
            audit: self.audit.clone(),
            record: self.record.clone()?,
        })
    }

    pub(super) fn answered(mut self, headers: &HeaderMap) {
        let Some(record) = &mut self.record else { return };
        match complete::failure(headers) {
            None => record.outcome = "ok",
            Some(failure) => {
                let reason = reason(&failure);
                let refusal = reason.as_deref().and_then(is_about_nothing_done);
                self.failed(reason, refusal);
            }
        }
    }

    /// `refusal`: nothing was done, so that it may be one of too many to be told singly.
    fn failed(&mut self, reason: Option<String>, refusal: Option<Reason>) {
        let Some(mut record) = self.record.take() else { return };
        record.outcome = "error";
        record.reason = reason;
        // Where there is no place for a record, it is counted as that.
        if self.place.is_err() || !refusal.is_some_and(|reason| self.refusals.count(&record, reason)) {
            self.record = Some(record);
        }
    }
}

/// The reason of a failure, also of one that tonic made.
fn reason(failure: &Status) -> Option<String> {
    let info = failure
        .get_details_error_info()
        .or_else(|| status::complete(failure, "").get_details_error_info());
    info.map(|info| info.reason)
}

/// How a call ended whose caller had gone: a line of its own, after the one that says `cancelled`.
pub(super) struct Afterwards {
    audit: Audit,
    record: Record,
}

impl Afterwards {
    pub(super) fn tell(self, headers: &HeaderMap) {
        let failure = complete::failure(headers);
        self.audit.record(Record {
            outcome: if failure.is_none() { "done" } else { "failed" },
            reason: failure.as_ref().and_then(reason),
            ..self.record
        });
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
