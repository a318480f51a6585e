//! Every metric there is: one table for the text and the documentation.

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its name as it is shown.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The labels of its rows.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub meaning: &'static str,
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the broker lives. The name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Always 1; what counts are the labels. The name ends in `_info`.
    Info,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Info => "info",
        }
    }
}

const fn family(name: &'static str, kind: Kind, labels: &'static [&'static str], meaning: &'static str) -> Family {
    Family {
        name,
        kind,
        labels,
        meaning,
    }
}

/// Every metric, in the order in which they are shown.
#[rustfmt::skip]
pub const FAMILIES: &[Family] = &[BUILD, START, HEALTHY, REQUESTS, CONNECTIONS, WATCHES, FLIGHTS, UNSAVED, ENTRIES, EXPIRES, LEFT_OUT, LOGINS_OPEN, LOGINS_ENDED, STORE_ERRORS, AUDIT_LOST];

#[rustfmt::skip]
pub(super) const BUILD: Family = family("credbroker_build_info", Kind::Info, &["version"], "the version that runs");
#[rustfmt::skip]
pub(super) const START: Family = family("process_start_time_seconds", Kind::Gauge, &[], "when the broker started, in Unix seconds");
#[rustfmt::skip]
pub(super) const HEALTHY: Family = family("credbroker_healthy", Kind::Gauge, &[], "1 if the store can be read and everything is saved, as the health service says; else 0");
#[rustfmt::skip]
pub(super) const REQUESTS: Family = family("credbroker_requests_total", Kind::Counter, &["method", "reason"], "calls of the sandboxes' socket that ended, by method (health, reflection and other for what is none of the broker's) and reason (OK, CANCELLED if the client went away, or that of the error)");
#[rustfmt::skip]
pub(super) const CONNECTIONS: Family = family("credbroker_connections", Kind::Gauge, &[], "connections of the sandboxes' socket that are open");
#[rustfmt::skip]
pub(super) const WATCHES: Family = family("credbroker_watches_open", Kind::Gauge, &[], "streams of WatchToken, and secrets of StreamSecrets, that follow an entry or an API key");
#[rustfmt::skip]
pub(super) const FLIGHTS: Family = family("credbroker_flights_total", Kind::Counter, &["outcome"], "refreshes that ended, by outcome: refreshed, found (another process was quicker), needs_login, rejected, unavailable, ambiguous (an answer was lost), removed, store, aborted");
#[rustfmt::skip]
pub(super) const UNSAVED: Family = family("credbroker_token_sets_unsaved", Kind::Gauge, &[], "token sets that a provider gave and the store did not take yet; they are lost if the broker dies");
#[rustfmt::skip]
pub(super) const ENTRIES: Family = family("credbroker_entries", Kind::Gauge, &["state"], "stored entries by state, as credbroker status shows it; of the first 1000");
#[rustfmt::skip]
pub(super) const EXPIRES: Family = family("credbroker_entry_expires_in_seconds", Kind::Gauge, &["provider", "bucket"], "seconds until the entry's access token expires, negative when it has; of the first 1000 entries, and of those that expire");
#[rustfmt::skip]
pub(super) const LEFT_OUT: Family = family("credbroker_entries_left_out", Kind::Gauge, &[], "stored entries beyond the first 1000, which the two above leave out");
#[rustfmt::skip]
pub(super) const LOGINS_OPEN: Family = family("credbroker_logins_open", Kind::Gauge, &[], "login sessions that have not ended");
#[rustfmt::skip]
pub(super) const LOGINS_ENDED: Family = family("credbroker_logins_ended_total", Kind::Counter, &["result"], "login sessions that ended, by result: complete, denied, expired, cancelled, withdrawn (the entry was removed), other_account, refused (the code), rejected (the client or the request), unavailable, store, failed");
#[rustfmt::skip]
pub(super) const STORE_ERRORS: Family = family("credbroker_store_errors_total", Kind::Counter, &["operation", "kind"], "what the file store failed at (open, list, read, lock, write, remove) and why (locked, corrupt, newer_format, busy, unavailable)");
#[rustfmt::skip]
pub(super) const AUDIT_LOST: Family = family("credbroker_audit_lines_lost_total", Kind::Counter, &[], "audit lines that could not be written");
