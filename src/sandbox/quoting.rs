//! Words as a shell reads them.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

/// A word that a POSIX shell reads back as it was. Arguments of a program have no NUL in them.
pub(super) fn quoted(word: &OsStr) -> OsString {
    let quoted = shlex::bytes::Quoter::new().allow_nul(true).quote(word.as_bytes());
    OsString::from_vec(quoted.map_or_else(|_nul| word.as_bytes().to_vec(), Cow::into_owned))
}

/// A field of the comma-separated lists that podman and docker read.
pub(super) fn field(name: &str, value: &OsStr) -> OsString {
    let plain = !value.as_bytes().iter().any(|byte| b",\"\n\r".contains(byte));
    let mut made: Vec<u8> = Vec::new();
    if plain {
        made.extend(name.as_bytes());
        made.push(b'=');
        made.extend(value.as_bytes());
    } else {
        made.push(b'"');
        made.extend(name.as_bytes());
        made.push(b'=');
        for byte in value.as_bytes() {
            if *byte == b'"' {
                made.push(b'"');
            }
            made.push(*byte);
        }
        made.push(b'"');
    }
    OsString::from_vec(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_fields_are_read_back() {
        for (word, want) in [("a-b/c.d", "a-b/c.d"), ("", "''"), ("a b", "'a b'"), ("$x;", "'$x;'")] {
            assert_eq!(quoted(OsStr::new(word)), *want);
        }
        let odd = OsStr::from_bytes(b"\xff 'q'");
        let read = shlex::bytes::split(quoted(odd).as_bytes()).unwrap();
        assert_eq!(read, [odd.as_bytes()]);
        assert_eq!(field("source", OsStr::new("/a:b")), *"source=/a:b");
        assert_eq!(field("source", OsStr::new("/a,\"b")), *"\"source=/a,\"\"b\"");
    }
}
