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

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(table: &mut Table, length: u32, value_length: u32) {
        table.insert(
            Name {
                is_authority: false,
                length,
            },
            value_length,
        );
    }

    /// As many entries as RFC 7541 allows, and no more: this is what bounds the memory.
    #[test]
    fn entries_are_evicted_by_their_size() {
        let mut table = Table::new();
        for _ in 0..1000 {
            insert(&mut table, 1, 0);
        }
        assert_eq!((table.entries.len() as u32, table.size), (LIMIT / 33, LIMIT / 33 * 33));
        insert(&mut table, 10, LIMIT - 32 - 10 - 33);
        assert_eq!((table.entries.len(), table.size), (2, LIMIT));
        insert(&mut table, 1, LIMIT - 32);
        assert_eq!((table.entries.len(), table.size), (0, 0));
        insert(&mut table, u32::MAX, u32::MAX);
        assert_eq!((table.entries.len(), table.size), (0, 0));
    }

    #[test]
    fn a_size_update_evicts() {
        let mut table = Table::new();
        for _ in 0..4 {
            insert(&mut table, 8, 10);
        }
        assert_eq!(table.resize(149), Ok(()));
        assert_eq!(table.entries.len(), 2);
        insert(&mut table, 8, 10);
        assert_eq!(table.entries.len(), 2);
        assert_eq!(table.resize(0), Ok(()));
        insert(&mut table, 1, 1);
        assert_eq!(table.entries.len(), 0);
        assert_eq!(table.resize(LIMIT + 1), Err(Malformed));
    }

    #[test]
    fn an_index_beyond_the_tables_is_malformed() {
        let mut table = Table::new();
        insert(&mut table, 7, 0);
        assert!(table.name(0).is_err());
        assert!(table.name(1).unwrap().is_authority);
        assert_eq!(table.name(61).unwrap().length, 16);
        assert_eq!(table.name(62).unwrap().length, 7);
        assert!(table.name(63).is_err());
        assert!(table.name(u32::MAX).is_err());
    }
}
