//! What is inside a record's file: JSON, encrypted with `age` (binary format, X25519).
//!
//! Encryption alone does not say whose record it is: kind and names are inside and are compared, so that a file that
//! was copied over another one is not believed. Every secret is wiped after use; no error quotes what was read.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read as _, Write},
    time::Duration,
};

use age::{DecryptError, Decryptor, Encryptor};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use super::{identity::Identities, layout::Place};
use crate::{
    clock::{Now, stored_boot_id},
    credential::{EntryKey, Expiry, Intent, Name, Revision, TokenSet},
    store::StoredTokens,
};

/// The version that is written, and the newest that is understood. Every change of the fields below needs the next one:
/// an older credbroker would drop on the next write what it does not know.
const FORMAT: u64 = 1;
/// The longest plausible revision.
const MAX_REVISION: usize = 64;

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flaw {
    /// None of the identities fits: it is another one's, or damaged.
    Undecryptable,
    /// It is damaged or belongs elsewhere.
    Corrupt(String),
    /// A newer version wrote it.
    Newer(u64),
}

/// What a record can hold.
pub(super) trait Content: Sized + Send + Sync + 'static {
    /// Names a record.
    type Key: Clone + Eq + std::hash::Hash + Send + Sync + 'static;
    /// Where the record lies.
    fn place(key: &Self::Key) -> Place;
    /// What people call it.
    fn describe(key: &Self::Key) -> String;
    /// The JSON text.
    fn encode(&self, key: &Self::Key) -> serde_json::Result<Wiped>;
    /// The content, if it is the key's.
    fn decode(key: &Self::Key, text: &[u8]) -> Result<Self, Flaw>;
}

/// Encrypts a record to all identities at hand: any one of them decrypts it, so that one can be retired later.
pub(super) fn seal<C: Content>(content: &C, key: &C::Key, identities: &Identities) -> io::Result<Vec<u8>> {
    // serde_json can fail only by what it writes to, and that is memory.
    let text = content
        .encode(key)
        .map_err(|_unquoted| io::Error::other("cannot be encoded"))?;
    let recipients: Vec<_> = identities.all().iter().map(age::x25519::Identity::to_public).collect();
    let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    let mut sealed = Vec::with_capacity(text.0.len() + 1024);
    let mut writer = encryptor.wrap_output(&mut sealed)?;
    writer.write_all(&text.0)?;
    writer.finish()?;
    Ok(sealed)
}

/// Decrypts a record and checks that it is the key's.
pub(super) fn open<C: Content>(sealed: &[u8], key: &C::Key, identities: &Identities) -> Result<C, Flaw> {
    let mut reader = Decryptor::new_buffered(sealed)
        .and_then(|decryptor| decryptor.decrypt(identities.all().iter().map(|identity| identity as &dyn age::Identity)))
        .map_err(|cause| flaw_of(&cause))?;
    // The text is shorter than what it was encrypted to: it never grows, so no part of it is left behind.
    let mut text = Zeroizing::new(Vec::with_capacity(sealed.len()));
    reader
        .read_to_end(&mut text)
        .map_err(|_unquoted| Flaw::Corrupt("it is damaged or cut off".to_owned()))?;
    C::decode(key, &text)
}

fn flaw_of(cause: &DecryptError) -> Flaw {
    if matches!(cause, DecryptError::NoMatchingKeys) {
        return Flaw::Undecryptable;
    }
    Flaw::Corrupt("it is no age file, or damaged".to_owned())
}

/// The text of a record, wiped also where it grows.
pub(super) struct Wiped(Zeroizing<Vec<u8>>);

impl Wiped {
    fn json(value: &impl Serialize) -> serde_json::Result<Self> {
        let mut text = Self(Zeroizing::new(Vec::with_capacity(4096)));
        serde_json::to_writer(&mut text, value)?;
        Ok(text)
    }
}

impl Write for Wiped {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let needed = self.0.len() + part.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed * 2));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first look at a record: only what tells whether the rest can be understood.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Flaw> {
    let version: Version = serde_json::from_slice(text).map_err(|cause| malformed(&cause))?;
    if version.format > FORMAT {
        return Err(Flaw::Newer(version.format));
    }
    if version.format != FORMAT {
        return Err(Flaw::Corrupt("it has an unknown format".to_owned()));
    }
    serde_json::from_slice(text).map_err(|cause| malformed(&cause))
}

/// The place only: the message of serde_json would quote the value.
fn malformed(cause: &serde_json::Error) -> Flaw {
    Flaw::Corrupt(format!(
        "its content is malformed (line {}, column {})",
        cause.line(),
        cause.column()
    ))
}

fn belongs_here(fits: bool) -> Result<(), Flaw> {
    if fits {
        Ok(())
    } else {
        Err(Flaw::Corrupt("it belongs to another name".to_owned()))
    }
}

/// An entry as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRecord {
    format: u64,
    kind: TokenKind,
    provider: String,
    bucket: String,
    revision: String,
    tokens: TokensRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    intent: Option<IntentRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TokenKind {
    Token,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensRecord {
    access_token: Secret,
    refresh_token: Option<Secret>,
    expiry: Option<ExpiryRecord>,
    token_type: String,
    scope: String,
    subject: Option<String>,
    extra: BTreeMap<String, String>,
    saved_by: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpiryRecord {
    at: Timestamp,
    lifetime: Duration,
    stored_wall: Timestamp,
    stored_boot: Duration,
    boot_id: String,
}

/// A refresh that was begun and, as far as the disk knows, not ended.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IntentRecord {
    refresh_token_sha256: String,
    wall: Timestamp,
    boot: Duration,
    boot_id: String,
    deadline: Duration,
}

impl IntentRecord {
    fn of(intent: &Intent) -> Self {
        Self {
            refresh_token_sha256: HEXLOWER.encode(&intent.refresh_token_sha256),
            wall: intent.written.wall,
            boot: intent.written.boot,
            boot_id: intent.written.boot_id.as_ref().to_owned(),
            deadline: intent.deadline,
        }
    }

    fn read(self) -> Result<Intent, Flaw> {
        let digest = HEXLOWER.decode(self.refresh_token_sha256.as_bytes()).ok();
        let digest = digest.and_then(|digest| digest.try_into().ok());
        Ok(Intent {
            refresh_token_sha256: digest.ok_or_else(|| Flaw::Corrupt("its intent has no digest".to_owned()))?,
            written: Now {
                wall: self.wall,
                boot: self.boot,
                boot_id: stored_boot_id(&self.boot_id),
            },
            deadline: self.deadline,
        })
    }
}

impl Content for StoredTokens {
    type Key = EntryKey;

    fn place(key: &EntryKey) -> Place {
        Place::of_entry(key)
    }

    fn describe(key: &EntryKey) -> String {
        format!("entry {key}")
    }

    fn encode(&self, key: &EntryKey) -> serde_json::Result<Wiped> {
        let tokens = &self.tokens;
        Wiped::json(&TokenRecord {
            format: FORMAT,
            kind: TokenKind::Token,
            provider: key.provider.as_str().to_owned(),
            bucket: key.bucket.as_str().to_owned(),
            revision: self.revision.as_str().to_owned(),
            tokens: TokensRecord {
                access_token: Secret(tokens.access_token.clone()),
                refresh_token: tokens.refresh_token.clone().map(Secret),
                expiry: tokens.expiry.as_ref().map(|expiry| ExpiryRecord {
                    at: expiry.at,
                    lifetime: expiry.lifetime,
                    stored_wall: expiry.stored.wall,
                    stored_boot: expiry.stored.boot,
                    boot_id: expiry.stored.boot_id.as_ref().to_owned(),
                }),
                token_type: tokens.token_type.clone(),
                scope: tokens.scope.clone(),
                subject: tokens.subject.clone(),
                extra: tokens.extra.clone(),
                saved_by: tokens.saved_by.clone(),
            },
            intent: self.intent.as_deref().map(IntentRecord::of),
        })
    }

    fn decode(key: &EntryKey, text: &[u8]) -> Result<Self, Flaw> {
        let record: TokenRecord = parse(text)?;
        belongs_here(record.provider == key.provider.as_str() && record.bucket == key.bucket.as_str())?;
        let tokens = record.tokens;
        Ok(Self {
            revision: revision(&record.revision)?,
            tokens: TokenSet {
                access_token: tokens.access_token.0,
                refresh_token: tokens.refresh_token.map(|secret| secret.0),
                expiry: tokens.expiry.map(|expiry| Expiry {
                    at: expiry.at,
                    lifetime: expiry.lifetime,
                    stored: Now {
                        wall: expiry.stored_wall,
                        boot: expiry.stored_boot,
                        boot_id: stored_boot_id(&expiry.boot_id),
                    },
                }),
                token_type: tokens.token_type,
                scope: tokens.scope,
                subject: tokens.subject,
                extra: tokens.extra,
                saved_by: tokens.saved_by,
            },
            intent: record.intent.map(IntentRecord::read).transpose()?.map(Box::new),
        })
    }
}

/// An API key as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRecord {
    format: u64,
    kind: KeyKind,
    name: String,
    revision: String,
    key: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeyKind {
    Key,
}

impl Content for SecretString {
    type Key = Name;

    fn place(name: &Name) -> Place {
        Place::of_key(name)
    }

    fn describe(name: &Name) -> String {
        format!("API key {name}")
    }

    fn encode(&self, name: &Name) -> serde_json::Result<Wiped> {
        Wiped::json(&KeyRecord {
            format: FORMAT,
            kind: KeyKind::Key,
            name: name.as_str().to_owned(),
            revision: Revision::random().as_str().to_owned(),
            key: Secret(self.clone()),
        })
    }

    fn decode(name: &Name, text: &[u8]) -> Result<Self, Flaw> {
        let record: KeyRecord = parse(text)?;
        belongs_here(record.name == name.as_str())?;
        revision(&record.revision)?;
        Ok(record.key.0)
    }
}

fn revision(text: &str) -> Result<Revision, Flaw> {
    let plausible = (1..=MAX_REVISION).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plausible {
        Ok(Revision::from_stored(text))
    } else {
        Err(Flaw::Corrupt("its revision is none".to_owned()))
    }
}

/// A secret in JSON. It is taken straight from the wiped text into wiped memory (only one with escapes in it passes
/// through serde_json's own buffer).
struct Secret(SecretString);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose_secret())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SecretVisitor)
    }
}

struct SecretVisitor;

impl de::Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(SecretString::from(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vector that grows by itself leaves what it held behind, unwiped.
    #[test]
    fn a_text_grows_only_when_it_has_to_and_then_by_a_copy_of_our_own() {
        let mut text = Wiped(Zeroizing::new(Vec::with_capacity(4)));
        for part in [b"ab", b"cd"] {
            text.write_all(part).unwrap();
            assert_eq!(text.0.capacity(), 4);
        }
        text.write_all(b"e").unwrap();
        assert_eq!(text.0.as_slice(), b"abcde");
        assert!(text.0.capacity() >= 10, "a vector's own growth is to 8");
    }
}
