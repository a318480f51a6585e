//! What happened since the broker started, as plain numbers: how refreshes and logins ended.
//!
//! The lists are closed, so that what shows them has as many rows as there are lines here. Nobody waits for a count, and
//! nothing is decided by one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    coordinator::RefreshError,
    error::{Error, LoginFailure},
};
use crate::store::StoredTokens;

/// Defines a closed list together with its names, so that the two cannot part.
macro_rules! closed {
    ($(#[$doc:meta])* $visibility:vis enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name as metrics have it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

closed! {
    /// How a flight ended.
    pub enum FlightEnd {
        /// The provider gave a new token.
        Refreshed = "refreshed",
        /// Somebody else had stored a usable token meanwhile; nothing was presented.
        Found = "found",
        /// The refresh token is absent or dead.
        NeedsLogin = "needs_login",
        /// The provider refused the client or the request.
        Rejected = "rejected",
        /// The provider failed, and did not process what was sent.
        Unavailable = "unavailable",
        /// An answer was lost: whether the refresh token is spent is not known.
        Ambiguous = "ambiguous",
        /// The entry is gone.
        Removed = "removed",
        /// The store failed, or the entry was busy in another process.
        Store = "store",
        /// The broker stops, or failed itself.
        Aborted = "aborted",
    }
}

impl FlightEnd {
    /// What a flight came to; `presented`: it sent a refresh token.
    pub(super) fn of(result: Result<&StoredTokens, &RefreshError>, ambiguous: Option<bool>, presented: bool) -> Self {
        match result {
            Ok(_) if presented => Self::Refreshed,
            Ok(_) => Self::Found,
            Err(_) if ambiguous == Some(true) => Self::Ambiguous,
            Err(error) => match error {
                RefreshError::NeedsLogin(_) => Self::NeedsLogin,
                RefreshError::Rejected { .. } => Self::Rejected,
                RefreshError::Unavailable { .. } => Self::Unavailable,
                RefreshError::NoEntry => Self::Removed,
                RefreshError::Store(_) => Self::Store,
                RefreshError::ShuttingDown
                | RefreshError::Internal
                // These are no ends of a flight: it does not begin, or goes on.
                | RefreshError::ProviderNotFound
                | RefreshError::Released { .. }
                | RefreshError::Cooldown { .. } => Self::Aborted,
            },
        }
    }
}

closed! {
    /// How a login session ended.
    pub enum LoginEnd {
        /// The entry is stored.
        Complete = "complete",
        /// The user said no.
        Denied = "denied",
        /// The user took too long.
        Expired = "expired",
        /// The sandbox gave it up.
        Cancelled = "cancelled",
        /// The entry was removed meanwhile.
        Withdrawn = "withdrawn",
        /// It was another account than the stored one, or not known to be the same.
        OtherAccount = "other_account",
        /// What was pasted is not the code, or the provider refused it.
        Refused = "refused",
        /// The provider refused the client or the request, or gave a token that cannot be handed out.
        Rejected = "rejected",
        /// The provider could not be asked.
        Unavailable = "unavailable",
        /// The store failed.
        Store = "store",
        /// The broker failed itself.
        Failed = "failed",
    }
}

impl LoginEnd {
    /// What a login came to.
    pub(super) fn of(result: &Result<(), Error>) -> Self {
        match result {
            Ok(()) => Self::Complete,
            Err(Error::LoginFailed { why, .. }) => match why {
                LoginFailure::Denied => Self::Denied,
                LoginFailure::Expired => Self::Expired,
                LoginFailure::OtherAccount => Self::OtherAccount,
                LoginFailure::NotOurs | LoginFailure::Refused => Self::Refused,
                LoginFailure::Rejected | LoginFailure::NoToken => Self::Rejected,
                LoginFailure::Unavailable | LoginFailure::GoesOn => Self::Unavailable,
                LoginFailure::CannotListen => Self::Failed,
                LoginFailure::Withdrawn => Self::Withdrawn,
            },
            Err(Error::Store(_)) => Self::Store,
            Err(_) => Self::Failed,
        }
    }
}

/// The counts of one broker.
#[derive(Debug)]
pub struct Counts {
    flights: [AtomicU64; FlightEnd::ALL.len()],
    logins: [AtomicU64; LoginEnd::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            flights: [const { AtomicU64::new(0) }; _],
            logins: [const { AtomicU64::new(0) }; _],
        }
    }
}

impl Counts {
    pub(super) fn flight(&self, end: FlightEnd) {
        add(&self.flights, end as usize);
    }

    pub(super) fn login(&self, end: LoginEnd) {
        add(&self.logins, end as usize);
    }

    /// Flights that ended, by how.
    pub fn flights(&self) -> impl Iterator<Item = (FlightEnd, u64)> {
        let counts = self.flights.iter().map(|count| count.load(Ordering::Relaxed));
        FlightEnd::ALL.iter().copied().zip(counts)
    }

    /// Login sessions that ended, by how.
    pub fn logins(&self) -> impl Iterator<Item = (LoginEnd, u64)> {
        let counts = self.logins.iter().map(|count| count.load(Ordering::Relaxed));
        LoginEnd::ALL.iter().copied().zip(counts)
    }
}

fn add(counts: &[AtomicU64], index: usize) {
    if let Some(count) = counts.get(index) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}
