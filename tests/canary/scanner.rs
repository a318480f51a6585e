//! Finds secrets in anything that a program lets out, in every form that software turns text into on its way.

use std::collections::BTreeSet;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, Encoding, HEXLOWER, HEXUPPER};

/// Secrets, by name.
#[derive(Default)]
pub(crate) struct Scanner {
    needles: Vec<Needle>,
}

struct Needle {
    secret: String,
    form: &'static str,
    bytes: Vec<u8>,
}

impl Scanner {
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut scanner = Self::default();
        for (name, secret) in secrets {
            scanner.add(name, secret.as_bytes());
        }
        scanner
    }

    pub(crate) fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= 16, "{name} is too short to be unique");
        for (form, bytes) in forms(secret) {
            self.needles.push(Needle {
                secret: name.to_owned(),
                form,
                bytes,
            });
        }
    }

    /// What is in there: the secret's name and the form.
    pub(crate) fn find<'a>(&'a self, haystack: &'a [u8]) -> BTreeSet<(&'a str, &'static str)> {
        let hits = self.hits(haystack);
        hits.map(|(_, needle)| (needle.secret.as_str(), needle.form)).collect()
    }

    #[track_caller]
    pub(crate) fn assert_clean(&self, place: &str, haystack: impl AsRef<[u8]>) {
        let haystack = haystack.as_ref();
        if let Some((at, needle)) = self.hits(haystack).next() {
            let around = &haystack[at.saturating_sub(160)..(at + needle.bytes.len() + 60).min(haystack.len())];
            panic!(
                "{place}: {} appears ({}): ...{}...",
                needle.secret,
                needle.form,
                String::from_utf8_lossy(around)
            );
        }
    }

    /// One pass, by the first two bytes: logs are long.
    fn hits<'a>(&'a self, haystack: &'a [u8]) -> impl Iterator<Item = (usize, &'a Needle)> {
        let start = |bytes: &[u8]| usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
        let mut starts = vec![false; 1 << 16];
        for needle in &self.needles {
            starts[start(&needle.bytes)] = true;
        }
        let places = (0..haystack.len().saturating_sub(1)).filter(move |at| starts[start(&haystack[*at..])]);
        places.flat_map(move |at| {
            let here = self
                .needles
                .iter()
                .filter(move |needle| haystack[at..].starts_with(&needle.bytes));
            here.map(move |needle| (at, needle))
        })
    }
}

fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let percent = |keep: fn(u8) -> bool, upper: bool| -> Vec<u8> {
        let escape = |byte: u8| {
            if upper {
                format!("%{byte:02X}")
            } else {
                format!("%{byte:02x}")
            }
        };
        secret
            .iter()
            .flat_map(|byte| {
                if keep(*byte) {
                    vec![*byte]
                } else {
                    escape(*byte).into_bytes()
                }
            })
            .collect()
    };
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let decimal: Vec<_> = secret.iter().map(u8::to_string).collect();
    let mut forms = vec![
        ("plain", secret.to_vec()),
        ("reversed", secret.iter().rev().copied().collect()),
        ("hex", HEXLOWER.encode(secret).into_bytes()),
        ("hex", HEXUPPER.encode(secret).into_bytes()),
        ("percent", percent(unreserved, true)),
        ("percent", percent(unreserved, false)),
        ("percent", percent(|_| false, true)),
        ("percent", percent(|_| false, false)),
        ("byte list", decimal.join(", ").into_bytes()),
        ("byte list", decimal.join(",").into_bytes()),
    ];
    // On lines of their own, as far in as `{:#?}` and pretty JSON put them.
    let lines = (1..=10).map(|depth| decimal.join(&format!(",\n{}", "  ".repeat(depth))));
    forms.extend(lines.map(|text| ("byte list", text.into_bytes())));
    if let Ok(text) = std::str::from_utf8(secret) {
        let quoted = serde_json::to_string(text).unwrap();
        forms.push(("json", quoted[1..quoted.len() - 1].into()));
        // Twice: a JSON log line that quotes JSON.
        let twice = serde_json::to_string(&quoted[1..quoted.len() - 1]).unwrap();
        forms.push(("json", twice[1..twice.len() - 1].into()));
        forms.push(("debug", text.escape_debug().to_string().into_bytes()));
        forms.push(("debug", text.escape_default().to_string().into_bytes()));
        for upper in [false, true] {
            let unit = |unit| {
                if upper {
                    format!("\\u{unit:04X}")
                } else {
                    format!("\\u{unit:04x}")
                }
            };
            forms.push(("json", text.encode_utf16().map(unit).collect::<String>().into_bytes()));
        }
    }
    for encoding in [BASE64_NOPAD, BASE64URL_NOPAD] {
        forms.extend((0..3).map(|before| ("base64", base64(&encoding, secret, before))));
    }
    forms
}

/// The characters that depend on nothing but the secret, if so many bytes stand before it in its group of three.
fn base64(encoding: &Encoding, secret: &[u8], before: usize) -> Vec<u8> {
    let mut text = vec![0; before];
    text.extend(secret);
    let bits = text.len() * 8;
    encoding.encode(&text).as_bytes()[(before * 8).div_ceil(6)..bits / 6].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3cret \"quoted\\~?>~?> with+plus/slash";

    fn found(haystack: impl AsRef<[u8]>) -> Vec<&'static str> {
        let scanner = Scanner::new([("it", SECRET)]);
        let found = scanner.find(haystack.as_ref());
        found.into_iter().map(|(_, form)| form).collect()
    }

    #[test]
    fn every_form_is_found_wherever_it_stands() {
        let inside = |text: &str| format!("x{text}y");
        assert_eq!(found(inside(SECRET)), ["plain"]);
        assert_eq!(found(inside(&HEXLOWER.encode(SECRET.as_bytes()))), ["hex"]);
        assert_eq!(found(inside(&HEXUPPER.encode(SECRET.as_bytes()))), ["hex"]);
        let json = serde_json::to_string(&serde_json::json!({"a": SECRET})).unwrap();
        assert!(found(&json).contains(&"json"), "{json}");
        let nested = serde_json::to_string(&serde_json::json!({"log": json})).unwrap();
        assert!(found(&nested).contains(&"json"), "{nested}");
        let escaped: String = SECRET.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        assert_eq!(found(inside(&escaped)), ["json"]);
        assert!(found(format!("{:?}", Some(SECRET))).contains(&"debug"));
        assert_eq!(found(format!("{:?}", SECRET.as_bytes())), ["byte list"]);
        assert_eq!(found(format!("{:#?}", SECRET.as_bytes())), ["byte list"]);
        assert_eq!(found(format!("{:#?}", Some([SECRET.as_bytes()]))), ["byte list"]);
        let pretty = serde_json::to_string_pretty(&serde_json::json!({"a": SECRET.as_bytes()})).unwrap();
        assert_eq!(found(pretty), ["byte list"]);
        let percent = "s3cret%20%22quoted%5C~%3F%3E~%3F%3E%20with%2Bplus%2Fslash";
        assert_eq!(found(inside(percent)), ["percent"]);
        assert_eq!(
            found(inside(
                &percent
                    .replace("%5C", "%5c")
                    .replace("%3F%3E", "%3f%3e")
                    .replace("%2B", "%2b")
                    .replace("%2F", "%2f")
            )),
            ["percent"]
        );
        let all: String = SECRET.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(found(inside(&all)), ["percent"]);
    }

    #[test]
    fn base64_is_found_at_every_alignment_in_both_alphabets() {
        for before in 0..6 {
            for after in 0..4 {
                let text = format!("{}{SECRET}{}", "<".repeat(before), ">".repeat(after));
                for encoding in [
                    data_encoding::BASE64,
                    BASE64_NOPAD,
                    data_encoding::BASE64URL,
                    BASE64URL_NOPAD,
                ] {
                    let encoded = encoding.encode(text.as_bytes());
                    assert_eq!(found(&encoded), ["base64"], "{before} before, {after} after: {encoded}");
                }
            }
        }
    }

    #[test]
    fn what_is_only_alike_is_not_found() {
        for text in ["", "s3cret", &SECRET[1..], &SECRET[..SECRET.len() - 1]] {
            assert!(found(text).is_empty(), "{text}");
            assert!(found(BASE64_NOPAD.encode(text.as_bytes())).is_empty(), "{text}");
        }
    }
}
