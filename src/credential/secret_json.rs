//! JSON that holds secrets: read strictly, or so that one odd field spoils no other.

use std::collections::BTreeMap;

use serde_json::{Map, Value, value::RawValue};
use zeroize::{Zeroize as _, Zeroizing};

/// A parsed document whose strings are wiped on drop.
pub(super) struct SecretJson(Value);

impl SecretJson {
    /// Parses the document.
    ///
    /// # Errors
    /// Not JSON. The error may quote a character of it, so it is not for people; its position is.
    pub(super) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(Self)
    }

    /// Its fields, if it is an object.
    pub(super) fn as_object(&self) -> Option<&Map<String, Value>> {
        self.0.as_object()
    }
}

impl Drop for SecretJson {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A document that a provider wrote, wiped on drop. What is no UTF-8 in it is replaced, and a byte order mark is dropped
/// (RFC 8259 section 8.1), so that a name in another encoding costs no token.
pub struct LooseJson(Zeroizing<String>);

impl LooseJson {
    /// Takes the document as it came.
    #[must_use]
    pub fn new(json: &[u8]) -> Self {
        let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
        Self(Zeroizing::new(String::from_utf8_lossy(json).into_owned()))
    }

    /// Its fields, if it is an object.
    #[must_use]
    pub fn as_object(&self) -> Option<LooseObject<'_>> {
        LooseObject::parse(&self.0)
    }
}

/// The fields of an object, each read when it is asked for: a number that does not fit, half a surrogate or deep nesting
/// is a matter of its own field. The last one of a name counts.
pub struct LooseObject<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> LooseObject<'a> {
    fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok().map(Self)
    }

    /// The field as it is written, unless it is `null`.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|raw| raw.get()).filter(|raw| *raw != "null")
    }

    /// The field, if it is a string and not empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Zeroizing<String>> {
        let text: String = serde_json::from_str(self.raw(name)?).ok()?;
        Some(Zeroizing::new(text)).filter(|text| !text.is_empty())
    }

    /// The field, if it is an object.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<Self> {
        Self::parse(self.raw(name)?)
    }
}
