//! What a new token changes in a stored token set, and what it leaves.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use crate::{
    clock::Now,
    credential::{Expiry, TokenAnswer, TokenSet},
};

/// The longest that a token saved from a sandbox is believed to last if the stored one did not last longer.
const LONGEST_SAVED: Duration = Duration::from_secs(24 * 3600);

/// What [`TokenSet::saved_by`] says after a refresh.
const REFRESH: &str = "refresh";
/// The token type of an answer that does not say it (RFC 6750).
const BEARER: &str = "Bearer";

/// An access token that a sandbox asks to save. It has no refresh token: a sandbox cannot name one.
#[derive(Clone)]
pub struct SavedToken {
    /// The new access token.
    pub access_token: SecretString,
    /// What remains of it; wins over `expire_time`, because a sandbox's clock may be wrong.
    pub expires_in: Option<Duration>,
    /// When it expires by the sandbox's account.
    pub expire_time: Option<Timestamp>,
    /// New if not empty.
    pub token_type: String,
    /// New if not empty.
    pub scope: String,
}

impl TokenSet {
    /// The token set after SaveToken: access token and expiry are the new ones; token type and scope are new if not
    /// empty; refresh token, subject and extra fields stay.
    ///
    /// A sandbox cannot make a token immortal, or the host would never renew it again: an expiry later than the longer
    /// of the stored lifetime and 24 h from now, or none at all, is shortened to that.
    #[must_use]
    pub fn merge_saved(&self, saved: SavedToken, saved_by: String, now: &Now) -> Self {
        let cap = self
            .expiry
            .as_ref()
            .map_or(LONGEST_SAVED, |stored| stored.lifetime.max(LONGEST_SAVED));
        let asked = saved.expires_in.or_else(|| {
            let until = saved.expire_time?.duration_since(now.wall);
            Some(Duration::try_from(until).unwrap_or_default())
        });
        let lifetime = asked.map_or(cap, |asked| asked.min(cap));
        Self {
            access_token: saved.access_token,
            refresh_token: self.refresh_token.clone(),
            expiry: Some(Expiry::from_lifetime(lifetime, now)),
            token_type: new_or(saved.token_type, &self.token_type),
            scope: new_or(saved.scope, &self.scope),
            subject: self.subject.clone(),
            extra: self.extra.clone(),
            saved_by,
        }
    }
}

impl TokenSet {
    /// The token set after a refresh. Access token and expiry are the new ones; everything else is new if the answer has
    /// it, and stays if not: providers leave out what has not changed. `default_lifetime` is for an answer that does not
    /// say how long its token is good for; `sent` is when the request went out.
    ///
    /// An answer whose access token cannot be handed out still brings its refresh token, because the stored one may be
    /// spent; access token and expiry stay then.
    #[must_use]
    pub fn merge_refreshed(&self, answer: TokenAnswer, default_lifetime: Duration, sent: &Now) -> Self {
        let (access_token, expiry) = match answer.access_token {
            Some(access_token) => {
                let lifetime = answer.lifetime.unwrap_or(default_lifetime);
                (access_token, Some(Expiry::from_lifetime(lifetime, sent)))
            }
            None => (self.access_token.clone(), self.expiry.clone()),
        };
        let mut extra = self.extra.clone();
        extra.extend(answer.extra.into_iter().filter(|(_, value)| !value.is_empty()));
        Self {
            access_token,
            refresh_token: answer.refresh_token.or_else(|| self.refresh_token.clone()),
            expiry,
            token_type: new_or(answer.token_type.unwrap_or_default(), &self.token_type),
            scope: new_or(answer.scope.unwrap_or_default(), &self.scope),
            subject: answer.subject.or_else(|| self.subject.clone()),
            extra,
            saved_by: REFRESH.to_owned(),
        }
    }
}

impl TokenSet {
    /// The token set of a login. `default_lifetime` is for an answer with a refresh token that does not say how long its
    /// access token is good for; without a refresh token, such an access token does not expire. `sent` is when the request
    /// went out.
    ///
    /// # Errors
    /// The answer, if its access token cannot be handed out.
    pub fn of_login(
        mut answer: Box<TokenAnswer>,
        default_lifetime: Duration,
        saved_by: String,
        sent: &Now,
    ) -> Result<Self, Box<TokenAnswer>> {
        let Some(access_token) = answer.access_token.take() else {
            return Err(answer);
        };
        let refreshable = answer.refresh_token.is_some();
        let lifetime = answer.lifetime.or(refreshable.then_some(default_lifetime));
        Ok(Self {
            access_token,
            refresh_token: answer.refresh_token,
            expiry: lifetime.map(|lifetime| Expiry::from_lifetime(lifetime, sent)),
            token_type: answer.token_type.unwrap_or_else(|| BEARER.to_owned()),
            scope: answer.scope.unwrap_or_default(),
            subject: answer.subject,
            extra: answer.extra,
            saved_by,
        })
    }
}

fn new_or(new: String, stored: &str) -> String {
    if new.is_empty() { stored.to_owned() } else { new }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use secrecy::ExposeSecret as _;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> Now {
        Now {
            wall: Timestamp::from_second(1_800_000_000).unwrap(),
            boot: HOUR,
            boot_id: "boot".into(),
        }
    }

    fn stored(lifetime: Option<Duration>) -> TokenSet {
        TokenSet {
            access_token: "old".into(),
            refresh_token: Some("refresh".into()),
            expiry: lifetime.map(|l| Expiry::from_lifetime(l, &now())),
            token_type: "Bearer".into(),
            scope: "repo".into(),
            subject: Some("alice".into()),
            extra: [("account".to_owned(), "1".to_owned())].into(),
            saved_by: "import".into(),
        }
    }

    fn saved(expires_in: Option<Duration>, expire_time: Option<i64>) -> SavedToken {
        SavedToken {
            access_token: "new".into(),
            expires_in,
            expire_time: expire_time.map(|s| Timestamp::from_second(s).unwrap()),
            token_type: String::new(),
            scope: String::new(),
        }
    }

    #[test]
    fn access_token_and_expiry_are_new_and_everything_else_stays() {
        let merged = stored(Some(HOUR)).merge_saved(saved(Some(HOUR), None), "sandbox x".into(), &now());
        assert_eq!(merged.access_token.expose_secret(), "new");
        assert_eq!(merged.refresh_token.unwrap().expose_secret(), "refresh");
        assert_eq!((&*merged.token_type, &*merged.scope), ("Bearer", "repo"));
        assert_eq!(merged.subject.as_deref(), Some("alice"));
        assert_eq!(merged.extra.len(), 1);
        assert_eq!(merged.saved_by, "sandbox x");
    }

    #[test]
    fn token_type_and_scope_are_new_if_not_empty() {
        let mut new = saved(None, None);
        new.token_type = "DPoP".into();
        new.scope = "user".into();
        let merged = stored(None).merge_saved(new, String::new(), &now());
        assert_eq!((&*merged.token_type, &*merged.scope), ("DPoP", "user"));
    }

    fn answer() -> TokenAnswer {
        TokenAnswer {
            access_token: Some("new".into()),
            refresh_token: None,
            lifetime: None,
            token_type: None,
            scope: None,
            subject: None,
            extra: BTreeMap::new(),
        }
    }

    #[test]
    fn a_refresh_keeps_what_its_answer_leaves_out() {
        let merged = stored(Some(HOUR)).merge_refreshed(answer(), DAY, &now());
        assert_eq!(merged.access_token.expose_secret(), "new");
        assert_eq!(merged.refresh_token.unwrap().expose_secret(), "refresh");
        assert_eq!((&*merged.token_type, &*merged.scope), ("Bearer", "repo"));
        assert_eq!(merged.subject.as_deref(), Some("alice"));
        assert_eq!(merged.extra["account"], "1");
        assert_eq!(merged.saved_by, "refresh");
        assert_eq!(merged.expiry.unwrap().lifetime, DAY, "the provider's default");
    }

    #[test]
    fn a_refresh_takes_what_its_answer_brings() {
        let mut answer = answer();
        answer.refresh_token = Some("rotated".into());
        answer.lifetime = Some(HOUR * 2);
        answer.token_type = Some("DPoP".into());
        answer.scope = Some(String::new()); // empty is as good as absent
        answer.subject = Some("bob".into());
        answer.extra = [("account", ""), ("other", "2")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let merged = stored(Some(HOUR)).merge_refreshed(answer, DAY, &now());
        assert_eq!(merged.refresh_token.unwrap().expose_secret(), "rotated");
        assert_eq!(merged.expiry.unwrap().remaining(&now()), HOUR * 2);
        assert_eq!((&*merged.token_type, &*merged.scope), ("DPoP", "repo"));
        assert_eq!(merged.subject.as_deref(), Some("bob"));
        assert_eq!((&*merged.extra["account"], &*merged.extra["other"]), ("1", "2"));
    }

    #[test]
    fn an_access_token_that_cannot_be_handed_out_does_not_cost_the_refresh_token() {
        let mut answer = answer();
        answer.access_token = None;
        answer.refresh_token = Some("rotated".into());
        answer.lifetime = Some(DAY);
        let merged = stored(Some(HOUR)).merge_refreshed(answer, DAY, &now());
        assert_eq!(merged.access_token.expose_secret(), "old");
        assert_eq!(merged.refresh_token.unwrap().expose_secret(), "rotated");
        assert_eq!(merged.expiry.unwrap().lifetime, HOUR);
    }

    #[test]
    fn expiry_table() {
        let wall = now().wall.as_second();
        // stored lifetime, expires_in, expire_time -> seconds that remain
        let table = [
            (Some(HOUR), Some(HOUR), None, 3600),
            (Some(HOUR), None, Some(wall + 60), 60),
            (Some(HOUR), Some(HOUR), Some(wall + 60), 3600), // expires_in wins
            (Some(HOUR), None, None, 24 * 3600),             // none: shortened
            (Some(HOUR), Some(3 * DAY), None, 24 * 3600),    // too late: shortened
            (Some(2 * DAY), Some(3 * DAY), None, 48 * 3600), // the stored lifetime is longer than 24 h
            (None, Some(3 * DAY), None, 24 * 3600),
            (None, None, None, 24 * 3600),
            (Some(HOUR), Some(Duration::ZERO), None, 0), // already expired
            (Some(HOUR), None, Some(wall - 60), 0),
        ];
        for row in table {
            let (lifetime, expires_in, expire_time, want) = row;
            let merged = stored(lifetime).merge_saved(saved(expires_in, expire_time), String::new(), &now());
            assert_eq!(merged.expiry.unwrap().remaining(&now()).as_secs(), want, "{row:?}");
        }
    }

    fn answer_with(access: Option<&str>, refresh: Option<&str>, lifetime: Option<Duration>) -> Box<TokenAnswer> {
        Box::new(TokenAnswer {
            access_token: access.map(SecretString::from),
            refresh_token: refresh.map(SecretString::from),
            lifetime,
            token_type: None,
            scope: None,
            subject: Some("alice".into()),
            extra: BTreeMap::new(),
        })
    }

    #[test]
    fn a_login_is_what_the_answer_says_and_nothing_else() {
        let login = |refresh, lifetime| {
            let answer = answer_with(Some("a"), refresh, lifetime);
            TokenSet::of_login(answer, HOUR, "login".into(), &now()).unwrap()
        };
        let table = [
            (Some("r"), Some(DAY), Some(DAY)),
            (Some("r"), None, Some(HOUR)),
            (None, Some(DAY), Some(DAY)),
            (None, None, None),
        ];
        for (refresh, lifetime, want) in table {
            let tokens = login(refresh, lifetime);
            assert_eq!(
                tokens.expiry.map(|expiry| expiry.lifetime),
                want,
                "{refresh:?} {lifetime:?}"
            );
            assert_eq!(tokens.refresh_token.is_some(), refresh.is_some());
            assert_eq!((&*tokens.token_type, &*tokens.scope), ("Bearer", ""));
            assert_eq!(tokens.subject.as_deref(), Some("alice"));
        }
        let unsendable = TokenSet::of_login(answer_with(None, Some("r"), None), HOUR, "login".into(), &now());
        assert!(
            unsendable.is_err_and(|answer| answer.refresh_token.is_some()),
            "for the one who revokes it"
        );
    }
}
