//! What `login --json` prints: one object a line. The names are a promise to programs.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    cli::{failure::Failure, output},
    client::{LoginPrompt, LoginStep},
    credential::Name,
};

/// One line. Keys that do not apply are null.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// The user is to open something.
    Prompt {
        provider: &'a str,
        bucket: &'a str,
        flow: &'static str,
        auth_url: Option<&'a str>,
        verification_url: Option<&'a str>,
        verification_url_complete: Option<&'a str>,
        user_code: Option<&'a str>,
        expire_time: Option<Timestamp>,
    },
    /// The entry is stored.
    Complete {
        #[serde(serialize_with = "name")]
        provider: &'a Name,
        #[serde(serialize_with = "name")]
        bucket: &'a Name,
        subject: Option<&'a str>,
        expire_time: Option<Timestamp>,
    },
    /// Nothing is stored.
    Error {
        reason: Option<&'static str>,
        message: &'a str,
    },
}

fn name<S: serde::Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

impl<'a> Event<'a> {
    pub(super) fn prompt(prompt: &'a LoginPrompt) -> Self {
        let (mut url, mut page, mut complete) = (None, None, None);
        match &prompt.step {
            LoginStep::Paste { auth_url } | LoginStep::Browser { auth_url } => url = Some(auth_url.as_str()),
            LoginStep::Device {
                verification_url,
                verification_url_complete,
                ..
            } => (page, complete) = (Some(verification_url.as_str()), verification_url_complete.as_deref()),
        }
        Self::Prompt {
            provider: prompt.entry.provider.as_str(),
            bucket: prompt.entry.bucket.as_str(),
            flow: prompt.flow().as_str(),
            auth_url: url,
            verification_url: page,
            verification_url_complete: complete,
            user_code: prompt.user_code(),
            expire_time: prompt.expire_time,
        }
    }

    pub(super) fn error(failure: &'a Failure) -> Self {
        Self::Error {
            reason: failure.reason(),
            message: failure.message(),
        }
    }
}

pub(super) fn print(event: &Event<'_>) -> Result<(), Failure> {
    output::json_line(event)
}
