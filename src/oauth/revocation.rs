//! Revocation of a token (RFC 7009).

use super::{
    Revoked, Seen,
    http::{Answer, NoAnswer},
};

/// What the answer means (RFC 7009 section 2.2): 200 also for a token that the provider does not know.
pub(super) fn judge(answer: Result<Answer, NoAnswer>) -> Revoked {
    match answer {
        Ok(answer) if answer.status.is_success() => Revoked::Done,
        Ok(answer) => Revoked::Failed(Seen(format!("HTTP {}", answer.status.as_u16()))),
        Err(error) => Revoked::Failed(Seen(error.to_string())),
    }
}
