//! The record of what a stream brings: a line for each delivery, because one call may bring many.

use std::{fmt, sync::Arc};

use super::{
    Error,
    audit::{Audit, Full, Record},
    caller::{Named, Subject},
};
use crate::{clock::Clock, reason::Reason};

/// Writes down what a streaming call delivers. The default one writes nothing.
#[derive(Clone, Default)]
pub struct Journal(Option<Arc<Open>>);

struct Open {
    audit: Audit,
    clock: Arc<dyn Clock>,
    /// What all lines of the call have in common.
    call: Record,
}

impl Journal {
    /// The journal of this call.
    #[must_use]
    pub fn new(audit: Audit, clock: Arc<dyn Clock>, call: Record) -> Self {
        Self(Some(Arc::new(Open { audit, clock, call })))
    }

    /// A credential is about to be delivered.
    ///
    /// # Errors
    /// [`Error::AuditUnavailable`]: it must not be delivered.
    pub fn tell(&self, named: Named) -> Result<(), Error> {
        let Some(open) = &self.0 else { return Ok(()) };
        open.audit
            .record_before(open.line(named, "ok", None))
            .map_err(|Full| Error::AuditUnavailable)
    }

    /// The stream ended for this reason.
    pub fn ended(&self, named: Named, reason: Reason) {
        let Some(open) = &self.0 else { return };
        open.audit
            .record(open.line(named, "error", Some(reason.as_str().to_owned())));
    }
}

impl Open {
    fn line(&self, named: Named, outcome: &'static str, reason: Option<String>) -> Record {
        let subject = Subject::default();
        subject.is(named);
        Record {
            time: self.clock.now().wall,
            subject: Some(subject),
            outcome,
            reason,
            ..self.call.clone()
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Journal").field(&self.0.is_some()).finish()
    }
}
