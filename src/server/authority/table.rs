//! The names that an index in a header block can mean: HPACK's static table and the connection's dynamic one
//! (RFC 7541, sections 2.3 and 4, appendix A).
//!
//! Values are of no interest here, only their lengths: an entry's size decides when the entries before it are evicted.

use std::collections::VecDeque;

use super::Malformed;

/// The name to look for.
pub(super) const AUTHORITY: &[u8] = b":authority";

/// The most that the dynamic table may hold, in RFC 7541's measure. This is the protocol's default; neither hyper nor
/// tonic advertises another (SETTINGS_HEADER_TABLE_SIZE).
const LIMIT: u32 = 4096;

/// What an entry costs beyond its name and value (RFC 7541, section 4.1).
const OVERHEAD: u32 = 32;

/// The names of the static table; the first has index 1.
const STATIC: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// What needs to be known about a field's name.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Name {
    /// Whether it is `:authority`.
    pub(super) is_authority: bool,
    /// Its length in octets, decoded.
    pub(super) length: u32,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    size: u32,
}

/// Both tables as one.
#[derive(Debug)]
pub(super) struct Table {
    // The newest entry comes first, as the indexes count. Every entry costs at least `OVERHEAD`, so there are at most
    // LIMIT / OVERHEAD of them.
    entries: VecDeque<Entry>,
    size: u32,
    max: u32,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max: LIMIT,
        }
    }

    /// The name that an index means.
    pub(super) fn name(&self, index: u32) -> Result<Name, Malformed> {
        let place = index.checked_sub(1).ok_or(Malformed)? as usize;
        if let Some(name) = STATIC.get(place) {
            return Ok(Name {
                is_authority: name.as_bytes() == AUTHORITY,
                length: name.len() as u32,
            });
        }
        self.entries
            .get(place - STATIC.len())
            .map(|entry| entry.name)
            .ok_or(Malformed)
    }

    /// Adds a field; one that is larger than the whole table empties it (RFC 7541, section 4.4).
    pub(super) fn insert(&mut self, name: Name, value_length: u32) {
        let size = name.length.saturating_add(value_length).saturating_add(OVERHEAD);
        self.evict(self.max.saturating_sub(size));
        if size <= self.max {
            self.entries.push_front(Entry { name, size });
            self.size += size;
        }
    }

    /// Carries out a size update.
    pub(super) fn resize(&mut self, max: u32) -> Result<(), Malformed> {
        if max > LIMIT {
            return Err(Malformed);
        }
        self.max = max;
        self.evict(max);
        Ok(())
    }

    fn evict(&mut self, room: u32) {
        while self.size > room
            && let Some(last) = self.entries.pop_back()
        {
            self.size -= last.size;
        }
    }
}
