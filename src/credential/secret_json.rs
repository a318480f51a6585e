//! JSON that holds secrets.

use serde_json::{Map, Value};
use zeroize::Zeroize as _;

/// A parsed document whose strings are wiped on drop.
pub struct SecretJson(Value);

impl SecretJson {
    /// Parses the document.
    ///
    /// # Errors
    /// Not JSON. The error may quote a character of it, so it is not for people; its position is.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(Self)
    }

    /// Its fields, if it is an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Map<String, Value>> {
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
