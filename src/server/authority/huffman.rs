//! HPACK's Huffman code (RFC 7541, section 5.2 and appendix B), decoded octet by octet.
//!
//! The code is canonical: the symbols of one length have consecutive codes, and the first code of a length follows from
//! the last one of the length before. So the symbols in the order of their codes are all the data there is, and there
//! are no tables to build or to keep. Header blocks of a gRPC call are short; most symbols are found within three steps.

use super::Malformed;

/// Every octet in the order of its code, grouped by the length of the code in bits.
///
/// The one code left over at the end, 30 bits all ones, is EOS. It never occurs in a valid string.
const CODE: [(u32, &[u8]); 21] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\x00$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xc3\xd0"),
    (20, b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2"),
    (21, b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6"),
    (
        22,
        b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
    ),
    (
        23,
        b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef",
    ),
    (24, b"\x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed"),
    (25, b"\xc7\xcf\xea\xeb"),
    (26, b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff"),
    (27, b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe"),
    (
        28,
        b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9",
    ),
    (30, b"\n\r\x16"),
];

/// The groups of [`CODE`], each with the code of its first octet.
fn groups() -> impl Iterator<Item = (u32, u64, &'static [u8])> {
    CODE.iter()
        .scan((0, 0), |(length, next): &mut (u32, u64), &(bits, octets)| {
            let first = *next << (bits - *length);
            *length = bits;
            *next = first + octets.len() as u64;
            Some((bits, first, octets))
        })
}

/// An octet's code and the code's length in bits.
fn code(octet: u8) -> Option<(u64, u32)> {
    groups().find_map(|(bits, first, octets)| {
        let place = octets.iter().position(|other| *other == octet)?;
        Some((first + place as u64, bits))
    })
}

/// The length of an octet's code in bits.
pub(super) fn bits(octet: u8) -> Option<u32> {
    CODE.iter()
        .find(|(_, octets)| octets.contains(&octet))
        .map(|(bits, _)| *bits)
}

/// Encodes a whole string, filled up to a full octet with ones.
pub(super) fn encode(text: &[u8]) -> Option<Vec<u8>> {
    let mut encoded = Vec::with_capacity(text.len());
    let (mut pending, mut count) = (0_u64, 0_u32);
    for &octet in text {
        let (code, bits) = code(octet)?;
        // At most 7 bits are left from before and a code has at most 30.
        pending = (pending << bits) | code;
        count += bits;
        while count >= 8 {
            count -= 8;
            encoded.push((pending >> count) as u8);
            pending &= (1 << count) - 1;
        }
    }
    if count > 0 {
        let filling = 8 - count;
        encoded.push(((pending << filling) | ((1 << filling) - 1)) as u8);
    }
    Some(encoded)
}

/// Decodes a whole string.
pub(super) fn decode(encoded: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut text = Vec::with_capacity(encoded.len() * 2);
    let mut decoder = Decoder::default();
    for &octet in encoded {
        decoder.push(octet, |decoded| text.push(decoded))?;
    }
    decoder.finish()?;
    Ok(text)
}

/// A string being decoded.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Decoder {
    // The bits that do not make up a symbol yet, at most 29 between two octets.
    pending: u64,
    count: u32,
}

impl Decoder {
    /// Takes one more octet and calls `each` with every octet that this completes.
    pub(super) fn push(&mut self, octet: u8, mut each: impl FnMut(u8)) -> Result<(), Malformed> {
        self.pending = (self.pending << 8) | u64::from(octet);
        self.count += 8;
        'symbols: loop {
            for (bits, first, octets) in groups() {
                let Some(behind) = self.count.checked_sub(bits) else {
                    return Ok(());
                };
                // Never below `first`: that would have been a code of an earlier group.
                let place = (self.pending >> behind).saturating_sub(first);
                if let Some(&decoded) = usize::try_from(place).ok().and_then(|place| octets.get(place)) {
                    each(decoded);
                    self.count = behind;
                    self.pending &= (1 << behind) - 1;
                    continue 'symbols;
                }
            }
            // The code is complete but for EOS, which "MUST be treated as a decoding error".
            return Err(Malformed);
        }
    }

    /// Ends the string: what is left must be the beginning of EOS and shorter than an octet.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        if self.count < 8 && self.pending == (1 << self.count) - 1 {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(digits: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
    }

    /// RFC 7541, appendix C.4 and C.6.
    #[test]
    fn the_examples_of_the_rfc() {
        for (text, encoded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("private", "aec3771a4b"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07abe941054d444a8200595040b8166e082a62d1bff",
            ),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            ),
        ] {
            assert_eq!(encode(text.as_bytes()).unwrap(), hex(encoded), "{text}");
            assert_eq!(decode(&hex(encoded)).unwrap(), text.as_bytes(), "{text}");
        }
    }

    #[test]
    fn every_octet_has_the_code_of_another_implementation() {
        for octet in 0..=u8::MAX {
            // The same octet often enough to see its whole code.
            let text = [octet; 8];
            let mut other = Vec::new();
            httlib_huffman::encode(&text, &mut other).unwrap();
            assert_eq!(encode(&text).unwrap(), other, "{octet}");
            assert_eq!(decode(&other).unwrap(), text);
            assert_eq!(other.len() as u32, bits(octet).unwrap(), "{octet}");
        }
    }

    #[test]
    fn what_is_replaced_most_has_six_bits() {
        assert_eq!([b'%', b'/', b'-'].map(bits), [Some(6); 3]);
    }

    #[test]
    fn wrong_endings_are_malformed() {
        for wrong in ["ff", "00", "ffffffff", "fffffffc", "1f00", "1fff"] {
            assert_eq!(decode(&hex(wrong)), Err(Malformed), "{wrong}");
        }
        assert_eq!(decode(&[]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn agrees_with_another_implementation(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut other = Vec::new();
            httlib_huffman::encode(&text, &mut other).unwrap();
            prop_assert_eq!(encode(&text).unwrap(), other.clone());
            prop_assert_eq!(decode(&other).unwrap(), text);
        }

        #[test]
        fn what_is_decoded_is_encoded_the_same(encoded in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = decode(&encoded) {
                prop_assert_eq!(encode(&text).unwrap(), encoded);
            }
        }
    }
}
