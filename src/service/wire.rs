//! Between protobuf and the domain: the only file that knows both. Bad input ends here, before a store is touched.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    broker::{
        BucketStats, Error, Revocation,
        login::{Begun, Flow, SessionId, Shown, Standing},
        page::{DEFAULT_SIZE, MAX_SIZE, Page, PageRequest},
    },
    credential::{AccessToken, EntryKey, Name, Revision, SavedToken, is_token_text},
    proto,
};

/// The longest scope or token type that is taken from a sandbox, in bytes.
const MAX_TEXT: usize = 4 * 1024;

pub(super) fn entry_key(provider: &str, bucket: &str) -> Result<EntryKey, Error> {
    EntryKey::parse(provider, bucket).map_err(|(field, invalid)| Error::invalid_name(field, &invalid))
}

pub(super) fn name(field: &'static str, text: &str) -> Result<Name, Error> {
    text.parse().map_err(|invalid| Error::invalid_name(field, &invalid))
}

fn invalid(field: &'static str, problem: &str) -> Error {
    Error::InvalidRequest {
        field,
        problem: problem.to_owned(),
    }
}

pub(super) fn min_validity(wire: Option<prost_types::Duration>) -> Result<Duration, Error> {
    wire.map_or(Ok(Duration::ZERO), |wire| {
        not_negative(&wire).ok_or_else(|| invalid("min_validity", "it is negative: send 0 or more"))
    })
}

/// `None`: it is negative. By hand, because prost's conversion overflows at the far end of what the wire can say.
fn not_negative(wire: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(wire.seconds).ok()?;
    let nanos = u32::try_from(wire.nanos).ok()?;
    Some(Duration::new(seconds, nanos))
}

/// What a sandbox may set with SaveToken. A negative `expires_in` is a token that has already expired, as zero is.
pub(super) fn saved_token(wire: Option<proto::AccessToken>) -> Result<SavedToken, Error> {
    let wire = wire.ok_or_else(|| invalid("token", "it is missing"))?;
    if !is_token_text(&wire.access_token) {
        return Err(invalid(
            "token.access_token",
            "it is not a token: send 1 to 16384 printable ASCII characters",
        ));
    }
    for (field, text) in [("token.token_type", &wire.token_type), ("token.scope", &wire.scope)] {
        if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            return Err(invalid(field, "it is longer than 4096 bytes or has control characters"));
        }
    }
    let expire_time = wire
        .expire_time
        .map(|at| {
            let nanos = at.nanos;
            Timestamp::new(at.seconds, nanos)
                .ok()
                .filter(|_| (0..1_000_000_000).contains(&nanos))
                .ok_or_else(|| invalid("token.expire_time", "it is no time between the years 1 and 9999"))
        })
        .transpose()?;
    Ok(SavedToken {
        access_token: SecretString::from(wire.access_token),
        expires_in: wire.expires_in.map(|left| not_negative(&left).unwrap_or_default()),
        expire_time,
        token_type: wire.token_type,
        scope: wire.scope,
    })
}

pub(super) fn access_token(token: AccessToken) -> proto::AccessToken {
    proto::AccessToken {
        access_token: token.access_token.expose_secret().to_owned(),
        expire_time: token.expire_time.map(timestamp),
        expires_in: token.expires_in.map(duration),
        token_type: token.token_type,
        scope: token.scope,
        extra: token.extra.into_iter().collect(),
        revision: token.revision,
    }
}

pub(super) fn bucket_stats(key: &EntryKey, stats: &BucketStats) -> proto::BucketStats {
    proto::BucketStats {
        bucket: key.bucket.to_string(),
        request_count: stats.request_count,
        percentage: stats.percentage,
        last_used_time: stats.last_used.map(timestamp),
    }
}

/// The longest revision that is looked at, in bytes; ours are shorter.
const MAX_REVISION: usize = 256;

/// The revision that the caller has; `None`: it named none.
pub(super) fn revision(text: &str) -> Result<Option<Revision>, Error> {
    if text.len() > MAX_REVISION {
        return Err(Error::InvalidRequest {
            field: "revision",
            problem: format!("it is longer than {MAX_REVISION} bytes: send the revision of a token as it came"),
        });
    }
    Ok(Some(text).filter(|text| !text.is_empty()).map(Revision::from_stored))
}

/// The longest text that a user may paste, in bytes.
const MAX_PASTED: usize = 4 * 1024;

/// The flow that is asked for; `None`: the host's configuration decides.
pub(super) fn flow(wire: i32) -> Result<Option<Flow>, Error> {
    match proto::LoginFlow::try_from(wire) {
        Ok(proto::LoginFlow::Unspecified) => Ok(None),
        Ok(proto::LoginFlow::PkceRedirect) => Ok(Some(Flow::PkceRedirect)),
        Ok(proto::LoginFlow::DeviceCode) => Ok(Some(Flow::DeviceCode)),
        Ok(proto::LoginFlow::BrowserRedirect) => Ok(Some(Flow::BrowserRedirect)),
        Err(_unknown) => Err(invalid(
            "flow",
            "it is none that this broker knows: send LOGIN_FLOW_UNSPECIFIED, or one of its LoginFlow values",
        )),
    }
}

pub(super) fn session(text: &str) -> Result<SessionId, Error> {
    SessionId::parse(text).ok_or_else(|| {
        invalid(
            "session_id",
            "it is no session's: send the 32 characters that InitiateLogin answered",
        )
    })
}

/// What the user pasted, without the space around it. What cannot be a code ends here, and costs no session.
pub(super) fn code(pasted: String) -> Result<SecretString, Error> {
    let pasted = SecretString::from(pasted);
    let text = pasted.expose_secret().trim();
    if text.is_empty() {
        return Err(invalid("code", "it is empty: send what the user pasted"));
    }
    if text.len() > MAX_PASTED {
        return Err(invalid(
            "code",
            "it is longer than 4096 bytes: send what the user pasted, and nothing else",
        ));
    }
    Ok(SecretString::from(text))
}

pub(super) fn begun(begun: Begun) -> proto::InitiateLoginResponse {
    let mut wire = proto::InitiateLoginResponse {
        session_id: begun.session.expose().to_owned(),
        flow: match begun.shown.flow() {
            Flow::PkceRedirect => proto::LoginFlow::PkceRedirect,
            Flow::DeviceCode => proto::LoginFlow::DeviceCode,
            Flow::BrowserRedirect => proto::LoginFlow::BrowserRedirect,
        }
        .into(),
        expire_time: Some(timestamp(begun.expire_time)),
        ..Default::default()
    };
    match begun.shown {
        Shown::Paste { auth_url } => wire.auth_url = auth_url,
        Shown::Browser { auth_url, interval } => {
            wire.auth_url = auth_url;
            wire.poll_interval = Some(duration(interval));
        }
        Shown::Device {
            verification_url,
            verification_url_complete,
            user_code,
            interval,
        } => {
            wire.verification_url = verification_url;
            wire.verification_url_complete = verification_url_complete.unwrap_or_default();
            wire.user_code = user_code;
            wire.poll_interval = Some(duration(interval));
        }
    }
    wire
}

pub(super) fn standing(standing: Standing) -> proto::PollLoginResponse {
    let mut wire = proto::PollLoginResponse::default();
    match standing {
        Standing::Pending { interval } => {
            wire.set_status(proto::LoginStatus::Pending);
            wire.poll_interval = Some(duration(interval));
        }
        Standing::Complete(token) => {
            wire.set_status(proto::LoginStatus::Complete);
            wire.token = token.map(access_token);
        }
        Standing::Failed(error) => {
            wire.set_status(proto::LoginStatus::Error);
            wire.error = Some(proto::LoginError {
                reason: error.reason().as_str().to_owned(),
                message: error.to_string(),
            });
        }
    }
    wire
}

pub(super) fn revocation(revocation: Revocation) -> proto::Revocation {
    match revocation {
        Revocation::NotSupported => proto::Revocation::NotSupported,
        Revocation::Done => proto::Revocation::Done,
        Revocation::Failed => proto::Revocation::Failed,
        Revocation::Pending => proto::Revocation::Pending,
    }
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    // Protobuf wants the nanoseconds to count forward from the second, also before 1970.
    let nanos = at.subsec_nanosecond();
    let (seconds, nanos) = if nanos < 0 {
        (at.as_second() - 1, nanos + 1_000_000_000)
    } else {
        (at.as_second(), nanos)
    };
    prost_types::Timestamp { seconds, nanos }
}

fn duration(length: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: length.subsec_nanos().try_into().unwrap_or_default(),
    }
}

/// Which list a page belongs to; a page token of one list is refused by another (AIP-158).
pub(super) enum List<'a> {
    Providers,
    Buckets(&'a Name),
    ApiKeys,
    Entries,
}

impl List<'_> {
    fn scope(&self) -> String {
        match self {
            Self::Providers => "providers:".to_owned(),
            Self::Buckets(provider) => format!("buckets/{provider}:"),
            Self::ApiKeys => "keys:".to_owned(),
            Self::Entries => "entries:".to_owned(),
        }
    }
}

/// What pages are made of. It goes into page tokens as text.
pub(super) trait Paged: Sized {
    fn to_text(&self) -> String;
    fn from_text(text: &str) -> Option<Self>;
}

impl Paged for Name {
    fn to_text(&self) -> String {
        self.to_string()
    }
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Paged for EntryKey {
    fn to_text(&self) -> String {
        self.to_string()
    }
    fn from_text(text: &str) -> Option<Self> {
        let (provider, bucket) = text.split_once('/')?;
        Self::parse(provider, bucket).ok()
    }
}

pub(super) fn page_request<T: Paged>(list: &List<'_>, size: i32, token: &str) -> Result<PageRequest<T>, Error> {
    let size = usize::try_from(size).map_err(|_negative| {
        invalid(
            "page_size",
            "it is negative: send 0 for the server's choice, or 1 to 500",
        )
    })?;
    let after = (!token.is_empty())
        .then(|| {
            resume_after(list, token).ok_or_else(|| {
                invalid(
                    "page_token",
                    "it is not a token of this list: send the next_page_token of the page before, or leave it empty",
                )
            })
        })
        .transpose()?;
    Ok(PageRequest {
        size: if size == 0 { DEFAULT_SIZE } else { size.min(MAX_SIZE) },
        after,
    })
}

/// What a page token resumes after. Any name is fine: a forged token can only skip names.
fn resume_after<T: Paged>(list: &List<'_>, token: &str) -> Option<T> {
    // Longer than any scope and name: not made here and not worth decoding.
    if token.len() > 512 {
        return None;
    }
    let text = String::from_utf8(BASE64URL_NOPAD.decode(token.as_bytes()).ok()?).ok()?;
    T::from_text(text.strip_prefix(&list.scope())?)
}

pub(super) fn page_token<T: Paged>(list: &List<'_>, next: Option<&T>) -> String {
    next.map_or_else(String::new, |next| {
        BASE64URL_NOPAD.encode(format!("{}{}", list.scope(), next.to_text()).as_bytes())
    })
}

pub(super) fn names(page: Page<Name>) -> Vec<String> {
    page.names.into_iter().map(|name| name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    fn field_of<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
        match result {
            Err(Error::InvalidRequest { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_login_that_failed_says_why_and_what_to_do() {
        let failed = standing(Standing::Failed(Error::SessionExpired));
        assert_eq!(failed.status(), proto::LoginStatus::Error);
        assert!(failed.token.is_none() && failed.poll_interval.is_none());
        let error = failed.error.unwrap();
        assert_eq!(error.reason, "SESSION_EXPIRED");
        assert_eq!(error.message, Error::SessionExpired.to_string());
    }

    #[test]
    fn a_page_token_belongs_to_its_list() {
        let request = |list: &List<'_>, size, token: &str| page_request::<Name>(list, size, token);
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let token = page_token(&List::Buckets(&a), Some(&b));
        let after = request(&List::Buckets(&a), 0, &token).unwrap().after;
        assert_eq!(after, Some(b.clone()));
        for other in [List::Providers, List::ApiKeys, List::Buckets(&b), List::Entries] {
            assert_eq!(field_of(request(&other, 0, &token)), "page_token");
        }
        for junk in ["!", "AAAA", &"A".repeat(600)] {
            assert_eq!(field_of(request(&List::Providers, 0, junk)), "page_token");
        }
        assert_eq!(page_token(&List::ApiKeys, None::<&Name>), "");
        let key = EntryKey::parse("p", "b").unwrap();
        let token = page_token(&List::Entries, Some(&key));
        assert_eq!(page_request(&List::Entries, 0, &token).unwrap().after, Some(key));
    }

    #[test]
    fn page_sizes() {
        let request = |size| page_request::<Name>(&List::Providers, size, "");
        for (asked, want) in [(0, 100), (1, 1), (500, 500), (501, 500), (i32::MAX, 500)] {
            assert_eq!(request(asked).unwrap().size, want);
        }
        assert_eq!(field_of(request(-1)), "page_size");
    }

    #[test]
    fn min_validity_is_never_negative() {
        let wire = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        assert_eq!(min_validity(None).unwrap(), Duration::ZERO);
        assert_eq!(min_validity(wire(3, 5)).unwrap(), Duration::new(3, 5));
        assert_eq!(field_of(min_validity(wire(-1, 0))), "min_validity");
        assert_eq!(field_of(min_validity(wire(0, -1))), "min_validity");
        assert_eq!(field_of(min_validity(wire(i64::MIN, i32::MIN))), "min_validity");
    }

    #[test]
    fn a_saved_token_is_checked_field_by_field() {
        let good = || proto::AccessToken {
            access_token: "a".into(),
            ..Default::default()
        };
        assert!(saved_token(Some(good())).is_ok());
        let field = |token: Option<proto::AccessToken>| match saved_token(token) {
            Err(Error::InvalidRequest { field, .. }) => field,
            _ => "none",
        };
        assert_eq!(field(None), "token");
        for bad in ["", "a\nb", "é", &"x".repeat(16 * 1024 + 1)] {
            let mut token = good();
            token.access_token = bad.into();
            assert_eq!(field(Some(token)), "token.access_token");
        }
        let mut token = good();
        token.scope = "a\u{1b}".into();
        assert_eq!(field(Some(token)), "token.scope");
        for (seconds, nanos) in [(i64::MAX, 0), (0, -1), (0, 1_000_000_000)] {
            let mut token = good();
            token.expire_time = Some(prost_types::Timestamp { seconds, nanos });
            assert_eq!(field(Some(token)), "token.expire_time");
        }
        for (seconds, nanos) in [(-5, 0), (0, -5), (i64::MIN, i32::MIN)] {
            let mut token = good();
            token.expires_in = Some(prost_types::Duration { seconds, nanos });
            assert_eq!(saved_token(Some(token)).unwrap().expires_in, Some(Duration::ZERO));
        }
    }

    #[test]
    fn timestamps_count_nanoseconds_forward() {
        let at = timestamp(Timestamp::new(-2, -250_000_000).unwrap());
        assert_eq!((at.seconds, at.nanos), (-3, 750_000_000));
    }

    #[test]
    fn a_malformed_name_is_an_invalid_request() {
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert_eq!(name("name", bad).unwrap_err().reason(), Reason::InvalidRequest, "{bad}");
        }
        assert_eq!(field_of(entry_key("ok", "a/b")), "bucket");
        assert_eq!(entry_key("ok", "").unwrap().bucket.as_str(), "default");
    }
}
