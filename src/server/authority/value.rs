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

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(value: &str) -> Option<String> {
        replacement(value.as_bytes(), false).map(|new| String::from_utf8(new).unwrap())
    }

    #[test]
    fn what_becomes_of_a_value() {
        for (value, new) in [
            ("localhost", None),
            ("localhost:50051", None),
            ("[::1]:50051", None),
            ("[fe80::1%25eth0]:80", None),
            ("user%20name@host", None),
            ("tmp%2Fdir%2Fsock", Some("tmp-2Fdir-2Fsock")),
            ("%2Ftmp%2Fsock", Some("-2Ftmp-2Fsock")),
            ("/tmp/dir/sock", Some("-tmp-dir-sock")),
            ("/tmp/my dir/<sock>", Some("-tmp-my-dir--sock-")),
            ("/tmp/a:b/sock", Some("-tmp-a:b-sock")),
            ("a:b:c", Some("a-b-c")),
            ("/run/user@1000/[x]", Some("-run-user-1000--x-")),
            ("user@", Some("user-")),
            ("", None),
        ] {
            assert_eq!(plain(value).as_deref(), new, "{value}");
        }
    }

    #[test]
    fn any_single_octet_can_be_replaced() {
        for octet in 0..=u8::MAX {
            let new = replacement(&[octet], false).unwrap_or(vec![octet]);
            assert!(accepted(&new) && new.len() == 1, "{octet}");
        }
    }

    /// Every harmless octet is acceptable anywhere, beside any other.
    #[test]
    fn harmless_octets_are() {
        for first in HARMLESS {
            for second in HARMLESS {
                assert!(accepted(&[*first, *second]));
            }
        }
    }

    #[test]
    fn huffman_coding_keeps_both_lengths() {
        let mut left = Vec::new();
        for octet in 0..=u8::MAX {
            let value = [b'a', octet, b'b'];
            let encoded = huffman::encode(&value).unwrap();
            match replacement(&encoded, true) {
                Some(new) => {
                    let decoded = huffman::decode(&new).unwrap();
                    assert_eq!((new.len(), decoded.len()), (encoded.len(), 3), "{octet}");
                    assert!(accepted(&decoded), "{octet}");
                }
                None if accepted(&value) => {}
                None => left.push(octet),
            }
        }
        // What the module's documentation says stays refused.
        let documented = |octet: &u8| b"#<>\\^`{}".contains(octet) || !(0x20..0x7f).contains(octet);
        assert!(left.iter().all(documented), "{left:?}");
        // NUL is the one control character that can go.
        assert_eq!(left.len(), (0..=u8::MAX).filter(documented).count() - 1);
    }
}
