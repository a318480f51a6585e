//! Between protobuf and what a program sees.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    BucketStats, Error, LoginFlow, LoginStep, Revocation,
    error::Refusal,
    rpc::{Begun, Standing},
};
use crate::{
    credential::{AccessToken, MAX_LIFETIME, Name, SavedToken},
    proto,
    reason::Reason,
};

pub(super) fn names(wire: &[String]) -> Result<Vec<Name>, Error> {
    wire.iter()
        .map(|name| name.parse().map_err(|_invalid| Error::malformed()))
        .collect()
}

pub(super) fn access_token(wire: Option<proto::AccessToken>) -> Result<AccessToken, Error> {
    let wire = wire.ok_or_else(Error::malformed)?;
    Ok(AccessToken {
        access_token: SecretString::from(wire.access_token),
        expire_time: wire.expire_time.as_ref().and_then(timestamp),
        expires_in: wire.expires_in.as_ref().and_then(length),
        token_type: wire.token_type,
        scope: wire.scope,
        extra: wire.extra.into_iter().collect(),
        revision: wire.revision,
    })
}

/// A token that a sandbox may not be allowed to read.
pub(super) fn readable_token(wire: Option<proto::AccessToken>) -> Result<Option<AccessToken>, Error> {
    wire.map(|token| access_token(Some(token))).transpose()
}

pub(super) fn flow(flow: Option<LoginFlow>) -> proto::LoginFlow {
    match flow {
        None => proto::LoginFlow::Unspecified,
        Some(LoginFlow::PkceRedirect) => proto::LoginFlow::PkceRedirect,
        Some(LoginFlow::DeviceCode) => proto::LoginFlow::DeviceCode,
        Some(LoginFlow::BrowserRedirect) => proto::LoginFlow::BrowserRedirect,
    }
}

/// How often a login is asked about if the broker does not say.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

fn interval(wire: Option<&prost_types::Duration>) -> Duration {
    wire.and_then(length)
        .filter(|interval| !interval.is_zero())
        .unwrap_or(POLL_INTERVAL)
}

/// What a user will be shown has to be fit for that.
pub(super) fn begun(wire: proto::InitiateLoginResponse) -> Result<Begun, Error> {
    let flow = wire.flow();
    let interval = interval(wire.poll_interval.as_ref());
    let step = match flow {
        proto::LoginFlow::Unspecified => return Err(Error::malformed()),
        proto::LoginFlow::PkceRedirect => LoginStep::Paste {
            auth_url: openable(wire.auth_url)?,
        },
        proto::LoginFlow::BrowserRedirect => LoginStep::Browser {
            auth_url: openable(wire.auth_url)?,
        },
        proto::LoginFlow::DeviceCode => LoginStep::Device {
            verification_url: openable(wire.verification_url)?,
            verification_url_complete: match wire.verification_url_complete {
                url if url.is_empty() => None,
                url => Some(openable(url)?),
            },
            user_code: Some(wire.user_code)
                .filter(|code| !code.is_empty())
                .ok_or_else(Error::malformed)?,
        },
    };
    Ok(Begun {
        session: wire.session_id.into(),
        step,
        interval,
        expire_time: wire.expire_time.as_ref().and_then(timestamp),
    })
}

/// A URL that may be shown and opened: https, or http to loopback.
fn openable(url: String) -> Result<String, Error> {
    let fits = || {
        let parsed: http::Uri = url.parse().ok()?;
        let host = parsed.host().filter(|host| !host.is_empty())?;
        match parsed.scheme_str()? {
            "https" => Some(()),
            "http" => is_loopback(host).then_some(()),
            _ => None,
        }
    };
    match fits() {
        Some(()) => Ok(url),
        None => Err(Error::malformed()),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(super) fn standing(wire: proto::PollLoginResponse) -> Result<Standing, Error> {
    match wire.status() {
        proto::LoginStatus::Unspecified => Err(Error::malformed()),
        proto::LoginStatus::Pending => Ok(Standing::Pending(interval(wire.poll_interval.as_ref()))),
        proto::LoginStatus::Complete => readable_token(wire.token).map(Standing::Complete),
        proto::LoginStatus::Error => {
            let proto::LoginError { reason, message } = wire.error.ok_or_else(Error::malformed)?;
            let refusal = Refusal::new(message);
            Ok(Standing::Failed(match Reason::from_wire(&reason) {
                Some(reason) => Error::refused(reason, refusal),
                None => Error::Other {
                    code: tonic::Code::Unknown,
                    reason,
                    refusal,
                },
            }))
        }
    }
}

pub(super) fn saved_token(token: SavedToken) -> proto::AccessToken {
    proto::AccessToken {
        access_token: token.access_token.expose_secret().to_owned(),
        expire_time: token.expire_time.map(wire_timestamp),
        expires_in: token.expires_in.map(duration),
        token_type: token.token_type,
        scope: token.scope,
        ..proto::AccessToken::default()
    }
}

/// Longer than any token lives is cut to that, so that every length has a wire form.
pub(super) fn duration(length: Duration) -> prost_types::Duration {
    let length = length.min(MAX_LIFETIME);
    prost_types::Duration {
        seconds: length.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: length.subsec_nanos().try_into().unwrap_or_default(),
    }
}

pub(super) fn bucket_stats(wire: Option<proto::BucketStats>) -> Result<BucketStats, Error> {
    let wire = wire.ok_or_else(Error::malformed)?;
    Ok(BucketStats {
        request_count: wire.request_count,
        percentage: wire.percentage,
        last_used: wire.last_used_time.as_ref().and_then(timestamp),
    })
}

pub(super) fn revocation(wire: proto::Revocation) -> Revocation {
    match wire {
        proto::Revocation::Unspecified => Revocation::Unknown,
        proto::Revocation::NotSupported => Revocation::NotSupported,
        proto::Revocation::Done => Revocation::Done,
        proto::Revocation::Failed => Revocation::Failed,
        proto::Revocation::Pending => Revocation::Pending,
    }
}

/// A wire duration; `None` if it is negative or malformed. Not prost's own conversion, which overflows at the far end.
fn length(wire: &prost_types::Duration) -> Option<Duration> {
    let seconds = wire.seconds.try_into().ok()?;
    let nanos = wire.nanos.try_into().ok()?;
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

/// Protobuf wants the nanoseconds to count forward from the second, also before 1970.
fn wire_timestamp(at: Timestamp) -> prost_types::Timestamp {
    let at = prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    };
    at.normalized()
}

/// A wire timestamp; `None` if it lies outside the years that can be told.
#[must_use]
pub fn timestamp(at: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(at.seconds, at.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_lengths_have_a_wire_form() {
        for (text, seconds, nanos) in [
            ("1969-12-31T23:59:59.5Z", -1, 500_000_000),
            ("1970-01-01T00:00:01.25Z", 1, 250_000_000),
        ] {
            let at: Timestamp = text.parse().unwrap();
            let wire = wire_timestamp(at);
            assert_eq!((wire.seconds, wire.nanos), (seconds, nanos));
            assert_eq!(timestamp(&wire), Some(at));
        }
        assert_eq!(duration(Duration::from_millis(1500)).nanos, 500_000_000);
        assert_eq!(duration(Duration::MAX), duration(MAX_LIFETIME));
        for (seconds, nanos, want) in [
            (1, 500_000_000, Some(Duration::from_millis(1500))),
            (i64::MAX, 999_999_999, Some(Duration::new(i64::MAX as u64, 999_999_999))),
            (i64::MIN, i32::MIN, None),
            (-1, 0, None),
            (0, 1_000_000_000, None),
            (i64::MAX, i32::MAX, None),
        ] {
            assert_eq!(length(&prost_types::Duration { seconds, nanos }), want);
        }
    }

    #[test]
    fn an_answer_without_its_content_breaks_the_protocol() {
        assert!(matches!(access_token(None), Err(Error::Other { .. })));
        assert!(matches!(bucket_stats(None), Err(Error::Other { .. })));
        assert!(matches!(names(&["../x".to_owned()]), Err(Error::Other { .. })));
        assert!(begun(proto::InitiateLoginResponse::default()).is_err());
        assert!(standing(proto::PollLoginResponse::default()).is_err());
    }

    #[test]
    fn only_what_may_be_opened_is_shown() {
        for (url, want) in [
            ("https://login.example/auth?state=x#/device", true),
            ("http://127.0.0.1:8080/auth", true),
            ("http://[::1]:8080/auth", true),
            ("http://localhost/auth", true),
            ("http://login.example/auth", false),
            ("http://localhost@login.example/auth", false),
            ("http://127.0.0.1.login.example/", false),
            ("file:///etc/passwd", false),
            ("javascript:alert(1)", false),
            ("https://", false),
            ("https://login.example/\u{1b}[2J", false),
            ("--help", false),
            ("", false),
        ] {
            assert_eq!(openable(url.to_owned()).is_ok(), want, "{url}");
        }
    }
}
