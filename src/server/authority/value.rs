//! What to write instead of a value of `:authority` that `h2` would refuse.

use http::uri::Authority;

use super::huffman;

/// Octets that are acceptable wherever they stand in an authority, the best first. There is one for each length of a
/// Huffman code that has any.
const HARMLESS: &[u8] = b"-0AaBXbx!'$";

/// An encoded value of the same length, encoded and decoded, that is accepted; `None` if the value is accepted as it is,
/// or if there is none.
pub(super) fn replacement(encoded: &[u8], huffman: bool) -> Option<Vec<u8>> {
    let value = if huffman {
        huffman::decode(encoded).ok()?
    } else {
        encoded.to_vec()
    };
    if value.is_empty() || accepted(&value) {
        return None;
    }
    // Mostly it is single octets that are refused. What else can be wrong is how `:`, `@`, `[` and `]` stand together.
    let value = replace(&value, huffman, |octet| !accepted(&[octet]))
        .or_else(|| replace(&value, huffman, |octet| !octet.is_ascii_alphanumeric()))?;
    if huffman {
        huffman::encode(&value).filter(|new| new.len() == encoded.len())
    } else {
        Some(value)
    }
}

/// Whether `h2` accepts the value. This is the very parser that it asks.
fn accepted(value: &[u8]) -> bool {
    Authority::try_from(value).is_ok()
}

fn replace(value: &[u8], huffman: bool, refused: impl Fn(u8) -> bool) -> Option<Vec<u8>> {
    let new: Option<Vec<u8>> = value
        .iter()
        .map(|&octet| {
            if refused(octet) {
                harmless(octet, huffman)
            } else {
                Some(octet)
            }
        })
        .collect();
    new.filter(|new| accepted(new))
}

/// What an octet can be replaced by.
fn harmless(octet: u8, huffman: bool) -> Option<u8> {
    HARMLESS
        .iter()
        .copied()
        .find(|other| !huffman || huffman::bits(*other) == huffman::bits(octet))
}
