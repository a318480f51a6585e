//! The chain that the lines hang on: each has a MAC over itself and the one before.
//!
//! What is authenticated are the bytes of the line as they are in the file, up to the field with the MAC; nothing is parsed and
//! written again for it. The MAC of a file's first line is over no other one; a random value in that line keeps the chains of
//! two files apart.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// What the key of the chain is derived for. Another one for each use of the store's identity.
pub const KEY_INFO: &str = "credbroker audit chain v1";
/// What the name of that key is derived for: it says nothing about the key.
pub const KEY_ID_INFO: &str = "credbroker audit key id v1";

/// Between a line and its MAC.
const BEFORE: &[u8] = br#","mac":""#;
/// After the MAC.
const AFTER: &[u8] = br#""}"#;
/// 32 bytes in base64url.
const DIGITS: usize = 43;

/// The key of a chain, and its name.
#[derive(Clone)]
pub struct Key {
    secret: Zeroizing<[u8; 32]>,
    id: String,
}

impl Key {
    /// The key of this secret, by the name that was derived beside it.
    #[must_use]
    pub fn new(secret: Zeroizing<[u8; 32]>, id: &[u8; 32]) -> Self {
        let (id, _) = id.split_at(8);
        Self {
            secret,
            id: BASE64URL_NOPAD.encode(id),
        }
    }

    /// How the first line of a file names it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A line's MAC, which the next one builds upon.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Link([u8; 32]);

impl Link {
    /// What is in a line between its quotes; `None`: that is no MAC.
    pub(super) fn read(digits: &[u8]) -> Option<Self> {
        let bytes = BASE64URL_NOPAD.decode(digits).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A chain as far as it has come.
#[derive(Clone)]
pub(super) struct Chain {
    keyed: Hmac<Sha256>,
    last: Link,
}

impl Chain {
    /// Without a key, whoever changes a line can mend the chain; damage is still found.
    pub(super) fn new(key: Option<&Key>) -> Self {
        let secret = key.map(|key| key.secret.as_slice()).unwrap_or_default();
        let keyed = Hmac::new_from_slice(secret);
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104)")]
        let keyed = keyed.expect("HMAC takes any key");
        Self {
            keyed,
            last: Link::default(),
        }
    }

    pub(super) fn last(&self) -> Link {
        self.last
    }

    /// Goes on from here.
    pub(super) fn go_on_from(&mut self, link: Link) {
        self.last = link;
    }

    /// Ends the line that begins at `start`: a JSON object that lacks its closing brace.
    pub(super) fn seal(&mut self, lines: &mut Vec<u8>, start: usize) {
        let body = lines.get(start..).unwrap_or_default();
        let mac: [u8; 32] = self.over(body).finalize().into_bytes().into();
        self.last = Link(mac);
        lines.extend_from_slice(BEFORE);
        let mut digits = [0; DIGITS];
        BASE64URL_NOPAD.encode_mut(&mac, &mut digits);
        lines.extend_from_slice(&digits);
        lines.extend_from_slice(AFTER);
        lines.push(b'\n');
    }

    /// Whether the line, without its end, is the next one. Either way the chain goes on from what the line says, so that one
    /// that was changed is told once.
    pub(super) fn follows(&mut self, line: &Sealed<'_>) -> bool {
        // In constant time.
        let follows = self.over(line.body).verify_slice(&line.link.0).is_ok();
        self.last = line.link;
        follows
    }

    fn over(&self, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(&self.last.0);
        mac.update(body);
        mac
    }
}

/// A line that has a MAC.
pub(super) struct Sealed<'l> {
    body: &'l [u8],
    pub(super) link: Link,
}

impl<'l> Sealed<'l> {
    /// `line` is without its end. `None`: it does not end as a line of an audit does.
    pub(super) fn read(line: &'l [u8]) -> Option<Self> {
        let rest = line.strip_suffix(AFTER)?;
        let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
        let body = rest.strip_suffix(BEFORE)?;
        let link = Link::read(digits)?;
        Some(Self { body, link })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new(Zeroizing::new([7; 32]), &[9; 32])
    }

    fn sealed(chain: &mut Chain, body: &str) -> Vec<u8> {
        let mut line = body.as_bytes().to_vec();
        chain.seal(&mut line, 0);
        assert_eq!(line.pop(), Some(b'\n'));
        line
    }

    #[test]
    fn a_line_is_sealed_as_the_page_says() {
        // By Python's hmac: the key is 32 sevens, the text is 32 zero bytes and the body.
        let line = sealed(&mut Chain::new(Some(&key())), r#"{"n":1"#);
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line, r#"{"n":1,"mac":"j9wJrOiDMMnrZEVYhI4xnuI8-JKRLllG6GXcmeBwg1M"}"#);
    }

    #[test]
    fn only_the_next_line_of_the_same_key_follows() {
        let mut chain = Chain::new(Some(&key()));
        let lines = [sealed(&mut chain, r#"{"a":1"#), sealed(&mut chain, r#"{"a":2"#)];
        let follow = |chain: &mut Chain, line: &[u8]| chain.follows(&Sealed::read(line).unwrap());
        let mut chain = Chain::new(Some(&key()));
        assert!(follow(&mut chain, &lines[0]) && follow(&mut chain, &lines[1]));
        let mut chain = Chain::new(Some(&key()));
        assert!(!follow(&mut chain, &lines[1]));
        let other = Key::new(Zeroizing::new([8; 32]), &[9; 32]);
        for key in [Some(&other), None] {
            assert!(!follow(&mut Chain::new(key), &lines[0]));
        }
    }

    #[test]
    fn what_does_not_end_as_a_line_does_is_none() {
        let line = sealed(&mut Chain::new(None), r#"{"a":1"#);
        assert!(Sealed::read(&line).is_some());
        for end in 0..line.len() {
            assert!(Sealed::read(&line[..end]).is_none(), "{end}");
        }
        let mut odd = line.clone();
        // The last digit has two bits to spare, which have to be zero.
        let last = odd.len() - 3;
        odd[last] = b'_';
        assert!(Sealed::read(&odd).is_none());
    }

    #[test]
    fn debug_shows_no_key() {
        let key = Key::new(Zeroizing::new([0x41; 32]), &[0; 32]);
        let shown = format!("{key:?}");
        assert!(
            shown.contains("AAAAAAAAAAA") && !shown.contains("65") && !shown.contains("QUFB"),
            "{shown}"
        );
    }
}
