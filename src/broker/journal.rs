//! The record of what a stream brings: a line for each delivery, because one call may bring many.

use std::{fmt, sync::Arc};

use super::{
    audit::{Audit, Record},
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

    /// A credential was delivered.
    pub fn told(&self, named: Named) {
        self.write(named, "ok", None);
    }

    /// The stream ended for this reason.
    pub fn ended(&self, named: Named, reason: Reason) {
        self.write(named, "error", Some(reason.as_str().to_owned()));
    }

    fn write(&self, named: Named, outcome: &'static str, reason: Option<String>) {
        let Some(open) = &self.0 else { return };
        let subject = Subject::default();
        subject.is(named);
        open.audit.record(Record {
            time: open.clock.now().wall,
            subject: Some(subject),
            outcome,
            reason,
            ..open.call.clone()
        });
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Journal").field(&self.0.is_some()).finish()
    }
}
