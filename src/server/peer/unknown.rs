//! Where the system tells no more of a peer than its credentials.

use std::sync::Arc;

use crate::broker::audit::PeerFacts;

/// Nobody can be held.
#[derive(Debug)]
pub struct Pinned(std::convert::Infallible);

/// Nothing is known.
#[derive(Debug, Default)]
pub(in crate::server) struct Described {
    pub(in crate::server) facts: Option<Arc<PeerFacts>>,
    pub(in crate::server) verdict: Option<Verdict>,
}

/// How it was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Verdict {
    /// It is of the sandbox.
    Inside,
}

/// Tells nothing.
#[derive(Debug, Clone, Default)]
pub struct Describer;

impl Describer {
    /// There is nothing to look at.
    #[must_use]
    pub fn here() -> Self {
        Self
    }

    /// There is nothing to start.
    #[must_use]
    pub fn on_a_thread() -> Self {
        Self
    }

    #[expect(clippy::unused_async, reason = "elsewhere it waits")]
    pub(in crate::server) async fn describe(&self, who: Pinned, _: Option<Arc<Root>>) -> Described {
        match who.0 {}
    }
}

/// There is none.
#[derive(Debug)]
pub struct Root(std::convert::Infallible);

impl Root {
    /// # Errors
    /// Always: the system does not tell.
    pub fn of(_: i32) -> std::io::Result<Self> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// # Errors
    /// Always: the system does not tell.
    pub fn below(_: i32) -> std::io::Result<Self> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Who alone is served: nobody.
#[derive(Debug, Clone)]
pub struct OnlySandbox;

/// Has nothing to say.
#[derive(Debug)]
pub struct Reveal;

impl OnlySandbox {
    /// A sandbox that is never known.
    #[must_use]
    pub fn to_be_started() -> (Self, Reveal) {
        (Self, Reveal)
    }

    #[expect(clippy::unused_async, reason = "elsewhere it waits")]
    pub(in crate::server) async fn known(&self) -> Option<Arc<Root>> {
        None
    }
}

impl Reveal {
    /// There is no such thing.
    pub fn started(&self, root: Root) {
        match root.0 {}
    }
}
