//! Which sandbox a call comes from: the capability in its metadata decides, or the socket alone where none is asked for.

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    broker::{Caller, Error, caller::Subject, journal::Journal, policy::Policy},
    server::peer::Peer,
};

/// The length of a capability in bytes.
pub const CAPABILITY_BYTES: usize = 32;

/// One sandbox that a socket knows.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// The principal's name in records.
    pub name: Arc<str>,
    /// SHA-256 of the 32 raw bytes of its capability: the broker has no need to keep the capability itself.
    pub capability_sha256: [u8; 32],
    /// What it may do.
    pub policy: Arc<Policy>,
}

/// Who is let in on a socket.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Whoever reaches the socket; the principal is the socket and the peer's uid.
    Open(Arc<Policy>),
    /// Whoever sends the capability of one of these.
    Capability(Vec<Sandbox>),
}

impl Admission {
    /// The caller behind a call.
    ///
    /// Every known capability is compared, in constant time, whether an earlier one matched or not.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`].
    pub fn admit(&self, headers: &HeaderMap, peer: Peer) -> Result<Caller, Error> {
        let sandboxes = match self {
            Self::Open(policy) => {
                return Ok(Caller {
                    principal: format!("uid:{}", peer.uid).into(),
                    policy: Arc::clone(policy),
                    at_host: false,
                    subject: Subject::default(),
                    journal: Journal::default(),
                });
            }
            Self::Capability(sandboxes) => sandboxes,
        };
        let presented = presented(headers)?;
        let digest: [u8; 32] = Sha256::digest(*presented).into();
        let mut found = None;
        for sandbox in sandboxes {
            if bool::from(sandbox.capability_sha256.ct_eq(&digest)) {
                found = Some(sandbox);
            }
        }
        let sandbox = found.ok_or(Error::Unauthenticated("wrong"))?;
        Ok(Caller {
            principal: Arc::clone(&sandbox.name),
            policy: Arc::clone(&sandbox.policy),
            at_host: false,
            subject: Subject::default(),
            journal: Journal::default(),
        })
    }
}

/// The 32 bytes of `authorization: Bearer <hex>` (RFC 6750 section 2.1; the scheme is case-insensitive).
fn presented(headers: &HeaderMap) -> Result<Zeroizing<[u8; CAPABILITY_BYTES]>, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Error::Unauthenticated("missing"))?;
    let wrong = Error::Unauthenticated("wrong");
    // Two of them are ambiguous, and what is ambiguous is wrong.
    if values.next().is_some() {
        return Err(wrong);
    }
    let hex = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, hex)| hex.trim())
        .ok_or(Error::Unauthenticated("not sent as `Bearer` and a space before it"))?;
    let mut bytes = Zeroizing::new([0; CAPABILITY_BYTES]);
    if hex.len() != 2 * CAPABILITY_BYTES {
        return Err(wrong);
    }
    data_encoding::HEXLOWER_PERMISSIVE
        .decode_mut(hex.as_bytes(), bytes.as_mut_slice())
        .map_err(|_partial| wrong)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const PEER: Peer = Peer { uid: 5, pid: Some(1) };

    fn sandbox(name: &str, capability: [u8; 32]) -> Sandbox {
        Sandbox {
            name: name.into(),
            capability_sha256: Sha256::digest(capability).into(),
            policy: Arc::new(Policy::default()),
        }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn each_capability_leads_to_its_own_sandbox() {
        let admission = Admission::Capability(vec![sandbox("a", [1; 32]), sandbox("b", [2; 32])]);
        for (byte, name) in [("01", "a"), ("02", "b")] {
            for scheme in ["Bearer", "bearer"] {
                let caller = admission.admit(&headers(&[&format!("{scheme} {}", byte.repeat(32))]), PEER);
                assert_eq!(&*caller.unwrap().principal, name);
            }
        }
    }

    #[test]
    fn anything_else_is_missing_or_wrong() {
        let admission = Admission::Capability(vec![sandbox("a", [1; 32])]);
        let good = format!("Bearer {}", "01".repeat(32));
        let table: [(&[&str], &str); 9] = [
            (&[], "missing"),
            (&[""], "not sent as `Bearer` and a space before it"),
            (&["Bearer"], "not sent as `Bearer` and a space before it"),
            (&["Bearer "], "wrong"),
            (&["Bearer zz"], "wrong"),
            (&[&format!("Bearer {}", "02".repeat(32))], "wrong"),
            (&[&format!("Bearer {}", "01".repeat(31))], "wrong"),
            (
                &[&format!("Basic {}", "01".repeat(32))],
                "not sent as `Bearer` and a space before it",
            ),
            (&[&good, &good], "wrong"),
        ];
        for (values, want) in table {
            match admission.admit(&headers(values), PEER) {
                Err(Error::Unauthenticated(got)) => assert_eq!(got, want, "{values:?}"),
                other => panic!("{values:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn where_none_is_asked_for_the_header_is_ignored() {
        let admission = Admission::Open(Arc::new(Policy::default()));
        for values in [&[] as &[&str], &["Bearer nonsense"]] {
            assert_eq!(&*admission.admit(&headers(values), PEER).unwrap().principal, "uid:5");
        }
    }
}
